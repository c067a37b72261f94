//! How a transcript is kept within a bound: what is sent of it, what is summarised, and what is left out where there is no
//! summary.
//!
//! The transcript falls into the past, which is what the instance heard on earlier visits or in earlier runs; the task; what
//! stands in the place of older steps; and steps: what the model said, with all that came of it. It is only ever cut between
//! steps, so that each call keeps its result.

use std::ops::Range;
use std::sync::Arc;

use super::choosing::{binding, pick};
use super::{AgentState, Effect, Phase};
use crate::fault::{self, Bug};
use crate::model::{Finish, estimated_tokens};
use crate::run::{AgentOutcome, Body, CallId, Compaction, Definition, Event, Labels, Message, Origin};
use crate::spec::READ_AGAIN;

/// What a model is told first that summarises.
pub const SUMMARISE: &str = "You keep the notes of an agent that works on a task in steps and can't keep all of them in \
    mind. You are given the task and the agent's older steps. Write what the agent has to know of them to go on: what \
    was found out, with the names, numbers and places that matter; what was decided, and why; what was tried and \
    failed; what is still to be done; and what a person said. Name the handles of results that may be needed in full. \
    Keep what is known from an older summary. Write nothing else.";

/// What stands before a summary.
const SUMMARY: &str = "A summary of the steps so far, which are not shown any more:";

/// The share of the bound that the task and the steps that stay may take after a compaction, so that the next one is not
/// due at once.
const ROOM: u64 = 2;

/// The share of the bound that a summary may take.
const SUMMARY_SHARE: u64 = 4;

/// The share of `move_out_over_bytes` that is shown of a result which is moved out.
const SHOWN_SHARE: usize = 4;

/// How many bytes are given to the summarising model for a token of the bound: no more than the estimate counts.
const BYTES_PER_TOKEN: usize = 3;

/// What the estimate counts around the one message that the summarising model is told.
const BYTES_AROUND: usize = 64;

impl Compaction {
    /// Returns how many tokens a summary may have.
    pub fn summary_tokens(&self) -> u32 {
        u32::try_from(self.at_tokens / SUMMARY_SHARE).unwrap_or(u32::MAX).max(1)
    }
}

/// Says what follows where the model is next: its call, or first a compaction.
pub(super) fn next(definition: &Definition, state: &AgentState) -> Effect {
    let call = CallId::model(&state.id, state.step + 1);
    let Some(rules) = definition.compaction.as_ref() else {
        return ask(definition, state, state.transcript.clone());
    };
    let view = View::of(state, rules);
    if view.fits() {
        return ask(definition, state, view.sent);
    }
    if state.summarised < call.step
        && let Some(older) = view.older()
    {
        return view.summarise(definition, state, older);
    }
    if let Some(left_out) = view.leave_out(state, "they took too much room") {
        return left_out;
    }
    // What was just found out is shown in part, too, before the agent ends.
    let all_moved_out = View::keeping(0, state, rules);
    match all_moved_out.fits() {
        true => ask(definition, state, all_moved_out.sent),
        false => all_moved_out.leave_out(state, "they took too much room").unwrap_or_else(|| view.limit(definition)),
    }
}

fn ask(definition: &Definition, state: &AgentState, mut messages: Vec<Arc<Message>>) -> Effect {
    if fault::is_planted(Bug::TaskLost) {
        messages.retain(|message| !matches!(message.body, Body::User { .. }));
    }
    Effect::CallModel { call: CallId::model(&state.id, state.step + 1), messages, pick: pick(definition, state) }
}

/// Returns the model that summarises: what binds the agent to a model binds what is told of it, too.
fn summariser(definition: &Definition, state: &AgentState, rules: &Compaction) -> Arc<str> {
    binding(definition, state).map_or_else(|| rules.model.clone(), |(rule, _)| rule.model.as_str().into())
}

/// Says what takes the place of the older messages, now that there is a summary of them, or none.
pub(super) fn compact(
    definition: &Definition,
    state: &AgentState,
    summary: &Result<String, String>,
    covers: Option<(u32, u32)>,
) -> Effect {
    let Some(rules) = definition.compaction.as_ref() else { return next(definition, state) };
    let view = View::of(state, rules);
    let without = |why: &str| {
        let left_out = view.leave_out(state, &format!("there is no summary of them: {why}"));
        left_out.unwrap_or_else(|| next(definition, state))
    };
    // What was asked to be summed up is what the summary stands for, by whatever rules the agent goes now.
    let covered = covers.map(|(from, upto)| from as usize..upto as usize);
    let covered = covered.filter(|covered| covered.start < covered.end && covered.end <= state.transcript.len());
    let (text, older) = match (summary, covered) {
        (Ok(text), Some(older)) => (text, older),
        (Ok(_), None) => return without("nobody knows what it covers"),
        (Err(why), _) => return without(why),
    };
    let labels = view.labels(&older);
    let text = format!("{SUMMARY}\n\n{}", text.trim());
    let message = Message {
        body: Body::User { text },
        labels,
        origin: Origin::Model(summariser(definition, state, rules).to_string()),
    };
    let message = Arc::new(message);
    if estimated_tokens([&message]) >= estimated_tokens(&view.sent[older.clone()]) {
        return without("it was not shorter than they are");
    }
    view.replace(state, older, message, None)
}

/// Takes a summary out of what a model answered; or says why it is none.
pub(super) fn summary(text: &str, finish: Finish) -> Result<String, String> {
    match (finish, text.trim()) {
        (Finish::Filtered, _) => Err("its provider withheld it".to_owned()),
        (_, "") => Err("it was empty".to_owned()),
        (Finish::Length, text) => Ok(format!("{text}\n[The summary was cut off here.]")),
        (_, text) => Ok(text.to_owned()),
    }
}

impl AgentState {
    /// Takes up that a model was asked for a summary, and what came of it.
    pub(super) fn take_summary(&mut self, call: &CallId, summary: Result<String, String>, covers: Option<(u32, u32)>) {
        if self.phase == Phase::Thinking {
            self.summarised = call.step;
            self.phase = Phase::Summarised { summary, covers };
        }
    }

    /// Puts a message in the place of others.
    pub(super) fn compact(&mut self, replaced: Range<usize>, message: &Arc<Message>) {
        let is_awaited = matches!(self.phase, Phase::Thinking | Phase::Summarised { .. });
        if is_awaited && replaced.start <= replaced.end && replaced.end <= self.transcript.len() {
            self.labels.join(&message.labels);
            if replaced.start < self.past {
                // One message stands in the place of all that was before the task.
                self.task = (self.task + 1).saturating_sub(replaced.len());
                self.past = 1;
            }
            self.transcript.splice(replaced, [message.clone()]);
            self.hear();
            self.phase = Phase::Thinking;
        }
    }
}

/// A transcript as it is sent.
struct View<'a> {
    rules: &'a Compaction,
    /// The messages, those moved out that are to be.
    sent: Vec<Arc<Message>>,
    /// Where what was before the task ends; 1 where one message stands for it.
    past: usize,
    /// Where the task ends.
    task: usize,
    /// Where the steps begin.
    steps: Vec<usize>,
}

impl<'a> View<'a> {
    fn of(state: &AgentState, rules: &'a Compaction) -> Self {
        Self::keeping(rules.keep_steps, state, rules)
    }

    /// Shows the results of so many of the last steps whole.
    fn keeping(steps_whole: usize, state: &AgentState, rules: &'a Compaction) -> Self {
        let is_step = |&place: &usize| matches!(state.transcript[place].body, Body::Assistant { .. });
        let steps: Vec<usize> = (state.task..state.transcript.len()).filter(is_step).collect();
        let recent = steps.len().saturating_sub(steps_whole);
        let recent = steps.get(recent).copied().unwrap_or(state.transcript.len());
        let show = |(place, message): (usize, &Arc<Message>)| match state.task <= place && place < recent {
            true => moved_out(message, rules.move_out_over_bytes).unwrap_or_else(|| message.clone()),
            false => message.clone(),
        };
        let sent = state.transcript.iter().enumerate().map(show).collect();
        Self { rules, sent, past: state.past, task: state.task, steps }
    }

    fn fits(&self) -> bool {
        estimated_tokens(&self.sent) <= self.rules.at_tokens
    }

    /// How many tokens are sent with the messages up to `from`, those after `upto`, and one more.
    fn tokens_without(&self, from: usize, upto: usize, more: &Arc<Message>) -> u64 {
        estimated_tokens(self.sent[..from].iter().chain([more]).chain(&self.sent[upto..]))
    }

    /// Returns what is summarised next: what was before the task, or the older steps, whichever is more.
    fn older(&self) -> Option<Range<usize>> {
        let past = (self.past > 1).then_some(0..self.past);
        let tokens = |range: &Range<usize>| estimated_tokens(&self.sent[range.clone()]);
        past.into_iter().chain(self.older_steps()).max_by_key(tokens)
    }

    /// Returns all between the task and the last steps. Of these as many stay as leave room for a summary and for what
    /// comes, and the very last in any case.
    fn older_steps(&self) -> Option<Range<usize>> {
        let first_kept = self.steps.len().saturating_sub(self.rules.keep_steps);
        let room = self.rules.at_tokens / ROOM;
        let leaves_room = |&&upto: &&usize| {
            let stays = self.sent[..self.task].iter().chain(&self.sent[upto..]);
            estimated_tokens(stays) <= room
        };
        let upto = self.steps[first_kept..].iter().find(leaves_room).or(self.steps.last()).copied()?;
        (*self.steps.first()? < upto).then_some(self.task..upto)
    }

    fn labels(&self, messages: &Range<usize>) -> Labels {
        let mut labels = Labels::default();
        self.sent[messages.clone()].iter().for_each(|message| labels.join(&message.labels));
        labels
    }

    fn summarise(&self, definition: &Definition, state: &AgentState, older: Range<usize>) -> Effect {
        // What is told of the task counts as read, too.
        let mut labels = self.labels(&(self.past..self.task));
        labels.join(&self.labels(&older));
        let covers = (older.start as u32, older.end as u32);
        let body = Body::User { text: self.told(older) };
        let message = Arc::new(Message { body, labels, origin: Origin::Runtime });
        let (call, model) = (CallId::compaction(&state.id, state.step + 1), summariser(definition, state, self.rules));
        Effect::Summarise { call, model, messages: vec![message], covers }
    }

    /// Returns what the summarising model is told. It fits into the bound as well: where it is too much, the longest parts
    /// are cut.
    fn told(&self, older: Range<usize>) -> String {
        let task = self.sent[self.past..self.task].iter().map(|message| format!("Task: {}", message.text()));
        let parts: Vec<String> = task.chain(self.sent[older].iter().flat_map(told)).collect();
        let bytes = usize::try_from(self.rules.at_tokens).unwrap_or(usize::MAX).saturating_mul(BYTES_PER_TOKEN);
        let bytes = bytes.saturating_sub(BYTES_AROUND);
        let share = share(parts.iter().map(String::len), bytes);
        let cut = parts.iter().map(|part| excerpt(part, share));
        cut.collect::<Vec<_>>().join("\n\n")
    }

    /// Leaves out what was before the task; or else the oldest steps, as few as make room. A note stands in their place. None
    /// where that would not do.
    fn leave_out(&self, state: &AgentState, why: &str) -> Option<Effect> {
        let without_past = || self.replace(state, 0..self.past, self.note(0..self.past), Some(why.to_owned()));
        if self.past > 1 {
            return Some(without_past());
        }
        let first = self.steps.first().copied().unwrap_or(self.sent.len());
        // A note that is there already is replaced. A summary stays, as long as there is room for it.
        let is_note = |&place: &usize| self.sent[place].origin == Origin::Runtime;
        let from = (self.task..first).find(is_note).unwrap_or(first);
        let later = self.steps.get(1..).unwrap_or_default();
        let all_but_last = self.steps.last().copied();
        let ways = later.iter().map(|&upto| (from, upto, self.rules.at_tokens / ROOM));
        let last_ways = all_but_last
            .into_iter()
            .flat_map(|upto| [(from, upto, self.rules.at_tokens), (self.task, upto, self.rules.at_tokens)]);
        for (from, upto, most) in ways.chain(last_ways).filter(|(from, upto, _)| from < upto) {
            let note = self.note(from..upto);
            if self.tokens_without(from, upto, &note) <= most {
                return Some(self.replace(state, from..upto, note, Some(why.to_owned())));
            }
        }
        let has_past = self.past > 0 && self.sent[0].origin != Origin::Runtime;
        has_past.then(without_past)
    }

    /// Ends the agent: not even the task and its last step have room.
    fn limit(&self, definition: &Definition) -> Effect {
        let last = self.steps.last().copied().unwrap_or(self.task);
        let reason = format!(
            "what agent `{}` was asked and its last step come to about {} tokens, and compaction.at_tokens = {}",
            definition.name,
            estimated_tokens(self.sent[..self.task].iter().chain(&self.sent[last..])),
            self.rules.at_tokens
        );
        Effect::End(AgentOutcome::Limit { limit: "at_tokens".to_owned(), reason })
    }

    /// Returns what stands in the place of what is left out. Why it is, is on record, and for no model to read.
    fn note(&self, left_out: Range<usize>) -> Arc<Message> {
        let handle = |message: &Arc<Message>| match &message.body {
            Body::Tool { id, .. } => Some(id.clone()),
            _ => None,
        };
        let last = self.sent[left_out.clone()].iter().rev().find_map(handle);
        let what = if left_out.start < self.past { "What was said before this was" } else { "Older steps were" };
        let last = last.map(|last| format!(" The last result among them: `{READ_AGAIN}`, handle {last}."));
        let text = format!("[{what} left out here.{}]", last.unwrap_or_default());
        let labels = self.labels(&left_out);
        Arc::new(Message { body: Body::User { text }, labels, origin: Origin::Runtime })
    }

    fn replace(
        &self,
        state: &AgentState,
        replaced: Range<usize>,
        message: Arc<Message>,
        lost: Option<String>,
    ) -> Effect {
        let (from, upto) = (replaced.start as u32, replaced.end as u32);
        let event = Event::Compacted { step: state.step + 1, from, upto, message, lost };
        Effect::Compact { event: Box::new(event) }
    }
}

/// Returns a tool's result with only its beginning, if it is longer than it may be.
fn moved_out(message: &Arc<Message>, over: usize) -> Option<Arc<Message>> {
    let Body::Tool { id, name, content, failed } = &message.body else { return None };
    if content.len() <= over {
        return None;
    }
    let shown = first_lines(content, over / SHOWN_SHARE);
    let content = format!(
        "{shown}\n[{} of {} bytes are shown; `{READ_AGAIN}` reads the rest, handle {id}, from byte {}]",
        shown.len(),
        content.len(),
        shown.len()
    );
    let body = Body::Tool { id: id.clone(), name: name.clone(), content, failed: *failed };
    Some(Arc::new(Message { body, labels: message.labels.clone(), origin: message.origin.clone() }))
}

/// Returns as many whole lines as there is room for; where there is not even room for one, its beginning.
fn first_lines(text: &str, most: usize) -> &str {
    let start = &text[..text.floor_char_boundary(most)];
    start.rfind('\n').map_or(start, |end| &start[..end])
}

/// Says a message in words for who summarises.
fn told(message: &Arc<Message>) -> Vec<String> {
    match &message.body {
        Body::User { text } => vec![format!("The agent is told: {text}")],
        Body::Tool { id, name, content, failed } => {
            let how = if *failed { "fails" } else { "returns" };
            vec![format!("{name} {how}, handle {id}: {content}")]
        }
        Body::Assistant { text, tool_calls } => {
            let says = (!text.trim().is_empty()).then(|| format!("The agent says: {text}"));
            let calls = tool_calls.iter().map(|(_, call)| format!("The agent calls {}: {}", call.name, call.arguments));
            says.into_iter().chain(calls).collect()
        }
    }
}

/// Returns how long each of several texts may be at most, so that together, with what is put between them, they have no more
/// than `most` bytes.
fn share(lengths: impl Iterator<Item = usize>, most: usize) -> usize {
    /// What is put between two texts, and at the end of one that is cut.
    const BETWEEN: usize = 2 + '…'.len_utf8();
    let mut lengths: Vec<usize> = lengths.map(|length| length + BETWEEN).collect();
    lengths.sort_unstable();
    let mut left = most;
    for (index, length) in lengths.iter().enumerate() {
        let share = left / (lengths.len() - index);
        if *length > share {
            return share.saturating_sub(BETWEEN);
        }
        left -= length;
    }
    usize::MAX
}

fn excerpt(text: &str, most: usize) -> String {
    match text.len() <= most {
        true => text.to_owned(),
        false => format!("{}…", &text[..text.floor_char_boundary(most)]),
    }
}

#[cfg(test)]
mod tests;
