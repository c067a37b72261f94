//! Asking the person at the terminal.

use std::io::{BufRead, IsTerminal};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use rustix::termios::{QueueSelector, tcflush};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::Screen;
use crate::cli::print;
use crate::run::{Ballot, Ruling, SOMEBODY, Subject, is_person};
use crate::runtime::{Approver, Inquired, Question};
use crate::spec::visible;

/// The person at the terminal, who is asked one question at a time.
pub(in crate::cli) struct Terminal {
    screen: Screen,
    /// Held by whose turn it is. A thread that waits at the terminal can't be called back: where nobody waits for its line
    /// any more, what is typed after the next question is for that one.
    turn: Mutex<Option<JoinHandle<Option<String>>>>,
}

impl Terminal {
    /// Returns the terminal, if there is one to ask at and to answer from.
    pub(in crate::cli) fn new(screen: &Screen) -> Option<Self> {
        let is_there = std::io::stdin().is_terminal() && print::is_seen();
        is_there.then(|| Self { screen: screen.clone(), turn: Mutex::default() })
    }

    /// Asks until what is typed is taken; `take` says why it is not. None at the end of the input.
    async fn put<T>(&self, question: &str, prompt: &str, take: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let mut reading = self.turn.lock().await;
        let _asking = Asking::begin(&self.screen);
        // What was typed when nothing was asked is no answer.
        reading.take_if(|line| line.is_finished());
        if reading.is_none() {
            // A terminal that keeps it all the same asks again, where it makes no sense.
            let _ = tcflush(std::io::stdin(), QueueSelector::IFlush);
        }
        let mut shown = question.to_owned();
        loop {
            print::notice(&format!("{shown}\n{prompt} "));
            // If the run ends meanwhile, the process ends without the thread.
            let line = reading.get_or_insert_with(|| tokio::task::spawn_blocking(read_line));
            let typed = line.await.ok().flatten();
            *reading = None;
            match take(&typed?) {
                Ok(taken) => return Some(taken),
                Err(why) => shown = visible(&why).into_owned(),
            }
        }
    }
}

/// The tree stays away while this is there.
struct Asking<'a>(&'a Screen);

impl<'a> Asking<'a> {
    fn begin(screen: &'a Screen) -> Self {
        screen.begin_question();
        Self(screen)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.end_question();
    }
}

impl Approver for Terminal {
    fn ask<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Option<Ballot>> {
        Box::pin(async move {
            let by: Arc<str> = me().into();
            let approvers = question.request.as_ref().map(|request| request.approvers.as_slice()).unwrap_or_default();
            if !approvers.is_empty() && !approvers.contains(&by) {
                // Somebody else has to say.
                return None;
            }
            let prompt = "(`n WHY` tells the model why not; `e {…}` gives other arguments)\nallow it, this once? [y/n]";
            let ruling = self.put(&words(question), prompt, ruling).await?;
            Some(Ballot { by, ruling, digest: None, tenant: None })
        })
    }

    fn answer<'a>(&'a self, inquired: &'a Inquired) -> BoxFuture<'a, Option<String>> {
        Box::pin(async move {
            let choices = &inquired.inquiry.choices;
            let prompt = if choices.is_empty() { "answer:" } else { "answer, or its number:" };
            self.put(&inquiry(inquired), prompt, |line| Ok(chosen(choices, line))).await
        })
    }
}

/// Returns the name under which the person at this terminal answers: that of the account, where it can be one.
pub(in crate::cli) fn me() -> String {
    let named = ["USER", "LOGNAME"].into_iter().filter_map(|name| std::env::var(name).ok());
    let mut named = named.filter(|name| is_person(name));
    named.next().unwrap_or_else(|| SOMEBODY.to_owned())
}

/// Reads what somebody says of a call.
///
/// # Errors
/// It says nothing of it: what would.
fn ruling(line: &str) -> Result<Ruling, String> {
    let (word, rest) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
    match (word.to_lowercase().as_str(), rest.trim()) {
        ("y" | "yes", "") => Ok(Ruling::Approve { standing: None }),
        ("n" | "no", "") => Ok(Ruling::Reject { reason: None }),
        ("n" | "no", why) => Ok(Ruling::Reject { reason: Some(why.into()) }),
        ("e" | "edit", arguments) => match serde_json::from_str(arguments) {
            Ok(arguments) => Ok(Ruling::Edit { arguments }),
            Err(error) => Err(format!("these arguments are no JSON: {error}")),
        },
        _ => Err("say `y`, `n` or `e`".to_owned()),
    }
}

fn read_line() -> Option<String> {
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line),
    }
}

/// Returns the choice that is meant by its number; else what was typed, which may be one.
fn chosen(choices: &[String], line: &str) -> String {
    let typed = line.trim();
    let is_choice = choices.iter().any(|choice| choice.trim() == typed);
    let numbered = typed.parse::<usize>().ok().and_then(|number| choices.get(number.checked_sub(1)?));
    numbered.filter(|_| !is_choice).map_or(typed, String::as_str).to_owned()
}

/// Says what an agent asks, all of it.
fn inquiry(inquired: &Inquired) -> String {
    let objection = inquired.objection.as_ref().map(|why| format!("\nthe run {}", visible(&why.to_string())));
    let mut text = format!("{}\n{} asks:", objection.unwrap_or_default(), inquired.call.agent);
    for line in inquired.inquiry.question.trim().lines() {
        text.push_str(&format!("\n  {}", visible(line)));
    }
    for (number, choice) in (1..).zip(&inquired.inquiry.choices) {
        text.push_str(&format!("\n  {number}. {}", visible(choice)));
    }
    text
}

/// Says what a person has to decide, all of it: what is approved is what is done.
pub(in crate::cli) fn words(question: &Question) -> String {
    let objection = question.objection.as_ref().map(|why| format!("\n{}", visible(why))).unwrap_or_default();
    let mut text = format!("{objection}{}", wanted(question));
    let Some(request) = &question.request else { return text };
    if let Some(Subject::Tool { arguments, .. }) = request.seen.as_deref() {
        text.push_str(&format!("\nwhich leads to\n  {}", visible(&arguments.to_string())));
    }
    if let Some(change) = &request.change {
        text.push_str("\nwhich would change");
        change.lines().for_each(|line| text.push_str(&format!("\n  {}", visible(line))));
    }
    if let Some(again) = &request.again {
        text.push_str(&format!("\nit is asked again, since this has changed: {}", visible(again)));
    }
    if let Some(why) = &request.why {
        text.push_str(&format!("\n{}", visible(why)));
    }
    if request.quorum > 1 {
        text.push_str(&format!("\n{} people have to say yes", request.quorum));
    }
    text
}

fn wanted(question: &Question) -> String {
    let agent = &question.call.agent;
    match &question.subject {
        Subject::Tool { tool, arguments } => {
            format!("\n{agent} wants to call `{}` with\n  {}", visible(tool), visible(&arguments.to_string()))
        }
        Subject::Model { model, .. } => format!("\n{agent} wants to call the model `{}`", visible(model)),
        Subject::Delegate { agent: other, message }
        | Subject::Handoff { agent: other, message }
        | Subject::Publish { topic: other, message } => {
            format!("\n{agent} wants to turn to `{}`: {}", visible(other), visible(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{AgentId, CallId, Inquiry, NoAnswer, RunId};

    #[test]
    fn a_choice_is_made_by_its_words_or_its_number() {
        let choices = ["red", "2", "blue"].map(str::to_owned);
        for (typed, chosen_one) in
            [("red\n", "red"), ("1", "red"), ("2", "2"), ("3", "blue"), ("0", "0"), ("4", "4"), ("x", "x")]
        {
            assert_eq!(chosen(&choices, typed), chosen_one);
        }
        assert_eq!(chosen(&[], "1"), "1");
    }

    #[test]
    fn a_question_is_shown_whole_and_can_not_drive_the_terminal() {
        let inquiry_of = Inquiry { question: "Which\none\u{1b}[2J?".to_owned(), choices: vec!["a\tb".to_owned()] };
        let inquired = Inquired {
            run: RunId::new("r"),
            call: CallId::tool(&AgentId::new("a"), 1, 0),
            inquiry: inquiry_of,
            objection: Some(NoAnswer::Empty),
        };
        let shown = inquiry(&inquired);
        assert!(shown.starts_with("\nthe run can't take an empty answer\na asks:\n  Which\n  one"), "{shown}");
        assert!(!shown.contains('\u{1b}') && shown.contains("\n  1. a"), "{shown}");
    }
}
