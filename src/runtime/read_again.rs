//! The tool with which an agent reads a result again that its transcript shows no more, or only in part. The result is where
//! it has been all the time, among the run's events.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fleet::BoundTool;
use super::{Error, Recorder, stream_of};
use crate::journal::{Log, Record, Store};
use crate::run::{AgentId, CallId, Envelope, Event, RunId, decode};
use crate::spec::{Builtin, Effect, ToolSpec};
use crate::tool::{self, Call, ErasedTool, Shown, Tool};

/// How many bytes are read where nothing is said: what results are moved out at, where the network says nothing.
const DEFAULT_BYTES: usize = 4_000;

/// How many bytes are read at most: a result that is read again takes room as any other.
const MAX_BYTES: usize = 16_000;

/// How many events are read in one go.
const PAGE: usize = 256;

/// What a model is told of the tool.
const DESCRIPTION: &str = "Reads the result of one of your earlier tool calls again, of which only the beginning is shown, \
    or nothing. The handle stands where the rest was left out.";

/// Makes the tool for one run, whose events are in `log`, and those from before the log in the store.
pub(super) fn bound(log: &Arc<Log<Envelope>>, recorder: &Arc<Recorder>) -> BoundTool {
    let tool = Arc::new(ReadAgain { log: log.clone(), recorder: recorder.clone() });
    BoundTool { tool, spec: ToolSpec { builtin: Some(Builtin::ReadAgain), ..ToolSpec::default() } }
}

/// Returns what a model is shown of the tool, of whatever run.
pub(super) fn shown() -> Shown {
    let unbound: Arc<dyn ErasedTool> =
        Arc::new(ReadAgain { log: Arc::default(), recorder: Arc::new(Recorder::in_memory()) });
    Shown::of(&*unbound)
}

struct ReadAgain {
    log: Arc<Log<Envelope>>,
    recorder: Arc<Recorder>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Range {
    /// The handle of the result, such as `s00030000`.
    #[schemars(length(min = 1, max = 40))]
    handle: String,
    /// The first byte to read, counted from 0.
    #[serde(default)]
    from: usize,
    /// How many bytes to read at most.
    #[serde(default = "default_bytes")]
    #[schemars(range(min = 1, max = MAX_BYTES))]
    bytes: usize,
}

fn default_bytes() -> usize {
    DEFAULT_BYTES
}

/// A part of a result.
#[derive(Debug, PartialEq, Serialize)]
struct Part {
    text: String,
    /// Where the part begins.
    from: usize,
    /// How long the whole result is, in bytes.
    of: usize,
    /// Where the next part begins; none if this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<usize>,
}

impl Tool for ReadAgain {
    type Arguments = Range;
    type Output = Part;

    fn description(&self) -> String {
        DESCRIPTION.to_owned()
    }

    fn effect(&self) -> Effect {
        Effect::Pure
    }

    async fn call(&self, range: Range, call: Call) -> Result<Part, tool::Error> {
        let Range { handle, from, bytes } = &range;
        let none = || tool::Error::Refused(format!("none of your results so far has the handle `{handle}`"));
        let wanted = CallId::of_transcript(&call.id.agent, handle).filter(|wanted| wanted.step < call.id.step);
        let wanted = wanted.ok_or_else(none)?;
        let failed = |error: Error| tool::Error::Failed(format!("the result can't be read: {error}"));
        let text = self.find(&call.run, &wanted).map_err(failed)?.ok_or_else(none)?;
        part(&text, *from, *bytes)
    }
}

fn part(text: &str, from: usize, bytes: usize) -> Result<Part, tool::Error> {
    if from >= text.len() {
        let why =
            format!("the result has {} bytes, and can be read from byte 0 on to the last before that", text.len());
        return Err(tool::Error::Refused(why));
    }
    let start = text.floor_char_boundary(from);
    // However little is asked for, there is progress.
    let end = text.floor_char_boundary(start.saturating_add(bytes)).max(text.ceil_char_boundary(start + 1));
    let next = (end < text.len()).then_some(end);
    Ok(Part { text: text[start..end].to_owned(), from: start, of: text.len(), next })
}

impl ReadAgain {
    /// Finds the result of a call: the last on record, as that is the one which counts.
    fn find(&self, run: &RunId, wanted: &CallId) -> Result<Option<String>, Error> {
        let is_it =
            |envelope: &&Arc<Envelope>| matches!(&envelope.event, Event::ToolReturned { call, .. } if call == wanted);
        if let Some(found) = self.log.snapshot().iter().rfind(is_it) {
            return Ok(result(found));
        }
        if !self.recorder.has_store() {
            return Ok(None);
        }
        self.recorder.with_store(|store| find_stored(store, run, &wanted.agent, is_it))
    }
}

/// Finds a result among the events of a run that are in the store.
fn find_stored(
    store: &Store,
    run: &RunId,
    agent: &AgentId,
    is_it: impl Fn(&&Arc<Envelope>) -> bool,
) -> Result<Option<String>, Error> {
    let stream = stream_of(run);
    let of_stream = Arc::new(crate::run::Stream { run: run.clone(), tenant: "".into(), session: None });
    let may_be = |record: &Record| record.kind == "tool_returned" && record.agent.as_deref() == Some(agent.as_str());
    let (mut after, mut found) = (0, None);
    loop {
        let records = store.read(&stream, after, PAGE)?;
        let Some(last) = records.last() else { return Ok(found) };
        after = last.seq;
        for record in records.iter().filter(|record| may_be(record)) {
            let envelope = Arc::new(decode(record, &of_stream)?);
            if is_it(&&envelope) {
                found = result(&envelope);
            }
        }
    }
}

fn result(envelope: &Envelope) -> Option<String> {
    match &envelope.event {
        Event::ToolReturned { message, .. } => Some(message.text().to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_falls_between_characters_and_leads_to_the_end() {
        let text = "äöüß".repeat(3);
        let (mut read, mut from) = (String::new(), 0);
        loop {
            let part = part(&text, from, 3).unwrap();
            assert_eq!((part.from, part.of), (from, text.len()));
            read.push_str(&part.text);
            match part.next {
                Some(next) => from = next,
                None => break,
            }
        }
        assert_eq!(read, text);
        assert_eq!(part("ä", 0, 1).unwrap().text, "ä");
        assert_eq!(part(&text, 1, 2).unwrap().from, 0);
        let beyond = part(&text, text.len(), 1).unwrap_err().to_string();
        assert!(beyond.contains("has 24 bytes"), "{beyond}");
    }
}
