//! What agents ask a person, and which words are an answer.

use serde::{Deserialize, Serialize};

use super::{CallId, OpenCall, RunState, Stage, Status, Subject};
use crate::fault::{self, Bug};

/// How long a question may be, in characters: what a person reads at once.
pub const MAX_QUESTION_CHARS: usize = 4_000;

/// How many choices a question may leave: what a person takes in at a glance.
pub const MAX_CHOICES: usize = 20;

/// How long a choice may be, in characters.
pub const MAX_CHOICE_CHARS: usize = 200;

/// How long an answer may be, in bytes: what a tool may say, too, where the network says nothing.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// How much of a question is shown where it is only to be recognised.
const EXCERPT_CHARS: usize = 200;

/// What a person is asked by an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inquiry {
    /// The question.
    pub question: String,
    /// What can be answered; anything where there are none.
    #[serde(default)]
    pub choices: Vec<String>,
}

impl Inquiry {
    /// Reads what a call asks a person.
    pub fn of(subject: &Subject) -> Option<Self> {
        match subject {
            Subject::Tool { arguments, .. } => serde_json::from_value(arguments.clone()).ok(),
            _ => None,
        }
    }

    /// Returns the beginning of the question.
    pub fn excerpt(&self) -> String {
        let mut short: String = self.question.trim().chars().take(EXCERPT_CHARS).collect();
        if short.len() < self.question.trim().len() {
            short.push('…');
        }
        short
    }

    /// Takes words as the answer, without the white space around them.
    ///
    /// # Errors
    /// There are no words, there are too many, some are none that can be read, or they are none of the choices.
    pub fn answer(&self, text: &str) -> Result<String, NoAnswer> {
        let text = text.trim();
        // What can't be seen could change what is seen.
        let is_readable = |char: char| !char.is_control() || matches!(char, '\n' | '\t');
        match text {
            "" => Err(NoAnswer::Empty),
            _ if text.len() > MAX_ANSWER_BYTES => Err(NoAnswer::TooLong { bytes: text.len() }),
            _ if !text.chars().all(is_readable) => Err(NoAnswer::Control),
            _ if !self.choices.is_empty() && !self.choices.iter().any(|choice| choice.trim() == text) => {
                Err(NoAnswer::NoChoice { choices: self.choices.clone() })
            }
            _ => Ok(text.to_owned()),
        }
    }
}

/// Why an answer can't be taken. Displayed as the rest of a sentence that begins with the run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The run is over.
    #[error("has ended: {}{}", .status.word(), said_before(.answered.as_ref()))]
    Ended {
        /// How it ended.
        status: Status,
        /// The call that was answered last, if one was.
        answered: Option<CallId>,
    },
    /// Nobody is asked anything.
    #[error("waits for no answer")]
    NothingAsked,
    /// The question was answered before.
    #[error("was answered already: call `{0}` has its answer")]
    Answered(CallId),
    /// There is no such question.
    #[error("has no question of call `{call}`; open: {}", named(.open))]
    NoSuchQuestion {
        /// The call.
        call: CallId,
        /// The calls whose questions are open.
        open: Vec<CallId>,
    },
    /// It is not clear which question is meant.
    #[error("waits for {} answers: {}", .open.len(), named(.open))]
    Several {
        /// The calls whose questions are open.
        open: Vec<CallId>,
    },
    /// There are no words in it.
    #[error("can't take an empty answer")]
    Empty,
    /// It is too long.
    #[error("can't take an answer of {bytes} bytes; it may have {MAX_ANSWER_BYTES}")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// There is something in it that can't be read.
    #[error("can't take an answer with control characters in it; line ends and tabs may be")]
    Control,
    /// It is none of the choices.
    #[error("can't take an answer that is none of the choices: {}", .choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", "))]
    NoChoice {
        /// The choices.
        choices: Vec<String>,
    },
}

impl NoAnswer {
    /// Whether it is the run that stands otherwise, and not the answer that is wrong.
    pub fn is_of_run(&self) -> bool {
        matches!(self, Self::Ended { .. } | Self::NothingAsked | Self::Answered(_) | Self::NoSuchQuestion { .. })
    }
}

fn said_before(answered: Option<&CallId>) -> String {
    answered.map(|call| format!("; call `{call}` was answered already")).unwrap_or_default()
}

fn named(calls: &[CallId]) -> String {
    calls.iter().map(|call| format!("`{call}`")).collect::<Vec<_>>().join(", ")
}

impl RunState {
    /// Returns the calls that await a person's answer.
    pub fn awaiting_input(&self) -> impl Iterator<Item = (&CallId, &OpenCall)> {
        self.open_calls().filter(|(_, open)| open.stage == Stage::AwaitingInput)
    }

    /// Returns the calls whose answers their agents have not heard yet.
    pub fn answered_unheard(&self) -> impl Iterator<Item = (&CallId, &OpenCall)> {
        self.open_calls().filter(|(_, open)| matches!(open.stage, Stage::Answered { .. }))
    }

    /// Says which question an answer is for, the only open one where none is named, and what is answered.
    ///
    /// # Errors
    /// It can't be taken. A question takes one answer.
    pub fn answerable(&self, call: Option<&CallId>, text: &str) -> Result<(CallId, String), NoAnswer> {
        let takes_more = fault::is_planted(Bug::AnsweredTwice);
        let unheard = self.answered_unheard().filter(|_| takes_more);
        let open: Vec<CallId> = self.awaiting_input().chain(unheard).map(|(call, _)| call.clone()).collect();
        if let Some(call) = call.filter(|call| self.was_answered(call) && !takes_more) {
            return Err(NoAnswer::Answered(call.clone()));
        }
        let status = self.status();
        if status != Status::Running && !status.can_go_on() {
            return Err(NoAnswer::Ended { status, answered: self.last_answered().cloned() });
        }
        let call = match (call, open.as_slice()) {
            (Some(call), _) if open.contains(call) => call.clone(),
            (None, [one]) => one.clone(),
            (None, []) => match self.last_answered() {
                Some(call) => return Err(NoAnswer::Answered(call.clone())),
                None => return Err(NoAnswer::NothingAsked),
            },
            (_, []) => return Err(NoAnswer::NothingAsked),
            (Some(call), _) => return Err(NoAnswer::NoSuchQuestion { call: call.clone(), open }),
            (None, _) => return Err(NoAnswer::Several { open }),
        };
        let inquiry = self.open_call(&call).and_then(|open| Inquiry::of(&open.subject));
        let text = inquiry.ok_or(NoAnswer::NothingAsked)?.answer(text)?;
        Ok((call, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_words_that_can_be_read_and_is_one_of_the_choices() {
        let free = Inquiry { question: "?".to_owned(), choices: Vec::new() };
        let choice = Inquiry { choices: vec!["red".to_owned(), " green ".to_owned()], ..free.clone() };
        assert_eq!(free.answer(" blue\n\tish \n"), Ok("blue\n\tish".to_owned()));
        assert_eq!(choice.answer("green\n"), Ok("green".to_owned()));
        for (inquiry, text, why) in [
            (&free, " \n", "can't take an empty answer"),
            (&free, "a\u{1b}[2Jb", "control characters"),
            (&free, "a\rb", "control characters"),
            (&free, &*"x".repeat(MAX_ANSWER_BYTES + 1), "65537 bytes"),
            (&choice, "blue", "none of the choices: `red`, ` green `"),
            (&choice, "Red", "none of the choices"),
        ] {
            let wrong = inquiry.answer(text).unwrap_err();
            assert!(wrong.to_string().contains(why) && !wrong.is_of_run(), "{wrong}");
        }
        assert!(free.answer(&"x".repeat(MAX_ANSWER_BYTES)).is_ok());
    }

    #[test]
    fn a_long_question_is_named_by_its_beginning() {
        let inquiry = Inquiry { question: format!(" {}", "ü".repeat(300)), choices: Vec::new() };
        assert_eq!(inquiry.excerpt(), format!("{}…", "ü".repeat(EXCERPT_CHARS)));
    }
}
