//! Names of runs, agent instances and calls.
//!
//! They are functions of *where in the run* a thing happens, never of when: the same network with the same answers
//! gets the same ids, whatever the timing. What is drawn at random (the simulated model's faults) and what must be
//! recognised again (an idempotency key) hangs on them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Makes the id from its text, as it is.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// Returns the id's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns the id's text, shared.
            pub fn to_text(&self) -> Arc<str> {
                self.0.clone()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// The name of a run, unique in its store: 26 lower-case letters and digits that sort by time (a ULID).
    RunId
}

text_id! {
    /// The name of an agent's instance within its run, as a path: `scout` is the entry, `scout/reader.2.0` the reader
    /// that it called into being by call 0 of its step 2, and `scout~1.editor` the editor that it handed over to.
    AgentId
}

impl AgentId {
    /// Names the instance of `agent` that `call` asks.
    pub fn delegate(call: &CallId, agent: &str) -> Self {
        let index = call.index.unwrap_or_default();
        Self::new(format!("{}/{agent}.{}.{index}", call.agent, call.step))
    }

    /// Names the instance of `agent` that this one hands over to: it stands in the same place of the path, so that ids
    /// do not grow however often control moves.
    pub fn successor(&self, agent: &str) -> Self {
        let place = self.last().0;
        let (first, handoffs) = match self.0[place..].split_once('~') {
            None => (&self.0[place..], 0),
            Some((first, rest)) => {
                (first, rest.split_once('.').and_then(|(count, _)| count.parse().ok()).unwrap_or(0u32))
            }
        };
        Self::new(format!("{}{first}~{}.{agent}", &self.0[..place], handoffs + 1))
    }

    /// Returns the last part of the path as people call it: the name and, for delegates, the call that asked.
    pub fn short(&self) -> &str {
        let (_, last) = self.last();
        last.split_once('~').and_then(|(_, rest)| rest.split_once('.')).map_or(last, |(_, name)| name)
    }

    /// Returns the last part of the path, and where it begins.
    fn last(&self) -> (usize, &str) {
        let place = self.0.rfind('/').map_or(0, |slash| slash + 1);
        (place, &self.0[place..])
    }
}

/// The name of one logical call within its run; all tries of the call share it. Written `scout/reader.2.0#1.3`: call 3
/// of step 1 of that reader; without the last number it is the step's model call, and `scout#4c` the model call that
/// summarises what came before step 4.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CallId {
    /// Who asked.
    pub agent: AgentId,
    /// The step that the call belongs to, counted from 1.
    pub step: u32,
    /// The place among the step's tool calls, counted from 0; none for a model call.
    pub index: Option<u32>,
    /// Whether it is the model call that compacts what came before the step, and no part of the step itself.
    pub is_compaction: bool,
}

impl CallId {
    /// Names the model call of a step.
    pub fn model(agent: &AgentId, step: u32) -> Self {
        Self { agent: agent.clone(), step, index: None, is_compaction: false }
    }

    /// Names the tool call at place `index` of a step.
    pub fn tool(agent: &AgentId, step: u32, index: u32) -> Self {
        Self { agent: agent.clone(), step, index: Some(index), is_compaction: false }
    }

    /// Names the model call that summarises, before a step, what came before it.
    pub fn compaction(agent: &AgentId, step: u32) -> Self {
        Self { agent: agent.clone(), step, index: None, is_compaction: true }
    }

    /// Reads what [`CallId::in_transcript`] wrote of a tool call of the agent; none if it is not of that form.
    pub fn of_transcript(agent: &AgentId, id: &str) -> Option<Self> {
        let digits = id.strip_prefix('s').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        let (step, index) = digits.split_at_checked(digits.len().checked_sub(4)?)?;
        let call = Self::tool(agent, step.parse().ok()?, index.parse().ok()?);
        (call.in_transcript() == id).then_some(call)
    }

    /// Returns the id that a transcript gives the tool call: nine letters and digits, which is the narrowest form
    /// that a provider asks for (Mistral), unique within the agent's transcript.
    pub fn in_transcript(&self) -> String {
        format!("s{:04}{:04}", self.step, self.index.unwrap_or_default())
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.agent, self.step)?;
        match self.index {
            Some(index) => write!(f, ".{index}"),
            None if self.is_compaction => f.write_str(COMPACTS),
            None => Ok(()),
        }
    }
}

/// What follows the step in the name of a call that compacts.
const COMPACTS: &str = "c";

/// A text is no call's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no call; a call is written like `agent#2.0`")]
pub struct NotACall(String);

impl FromStr for CallId {
    type Err = NotACall;

    fn from_str(text: &str) -> Result<Self, NotACall> {
        let parse = || {
            let (agent, place) = text.rsplit_once('#')?;
            let (step, index, is_compaction) = match (place.split_once('.'), place.strip_suffix(COMPACTS)) {
                (Some((step, index)), _) => (step, Some(index.parse().ok()?), false),
                (None, Some(step)) => (step, None, true),
                (None, None) => (place, None, false),
            };
            let agent = (!agent.is_empty()).then(|| AgentId::new(agent))?;
            Some(Self { agent, step: step.parse().ok()?, index, is_compaction })
        };
        parse().ok_or_else(|| NotACall(text.to_owned()))
    }
}

impl TryFrom<String> for CallId {
    type Error = NotACall;

    fn try_from(text: String) -> Result<Self, NotACall> {
        text.parse()
    }
}

impl From<CallId> for String {
    fn from(call: CallId) -> Self {
        call.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_as_it_is_written() {
        for text in ["scout#1", "scout/reader.2.0~1.clerk#12.3", "scout#4c"] {
            assert_eq!(text.parse::<CallId>().unwrap().to_string(), text);
        }
        for text in
            ["", "scout", "#1", "scout#", "scout#x", "scout#1.", "scout#1.2.3", "scout#-1", "scout#c", "scout#1.0c"]
        {
            assert!(text.parse::<CallId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_handle_is_read_as_it_is_written() {
        let agent = AgentId::new("scout");
        for (step, index) in [(1, 0), (3, 63), (9_999, 1), (10_000, 2), (u32::MAX, 9)] {
            let call = CallId::tool(&agent, step, index);
            assert_eq!(CallId::of_transcript(&agent, &call.in_transcript()), Some(call));
        }
        for wrong in ["", "s", "s1", "s0001", "x00010000", "s000100000", "s0001000a", "s+0010000", "s99999999990000"] {
            assert_eq!(CallId::of_transcript(&agent, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ids_are_paths_that_grow_with_depth_and_not_with_handoffs() {
        let scout = AgentId::new("scout");
        let reader = AgentId::delegate(&CallId::tool(&scout, 2, 0), "reader");
        assert_eq!(reader.as_str(), "scout/reader.2.0");
        let clerk = reader.successor("clerk");
        assert_eq!(clerk.as_str(), "scout/reader.2.0~1.clerk");
        assert_eq!(clerk.successor("judge").as_str(), "scout/reader.2.0~2.judge");
        assert_eq!(scout.successor("a").successor("b").successor("a").as_str(), "scout~3.a");
        let below = AgentId::delegate(&CallId::tool(&clerk, 1, 4), "aid");
        assert_eq!(below.as_str(), "scout/reader.2.0~1.clerk/aid.1.4");
        assert_eq!(
            [scout.short(), reader.short(), clerk.short(), below.short()],
            ["scout", "reader.2.0", "clerk", "aid.1.4"]
        );
    }
}
