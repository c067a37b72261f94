//! What is bounded, and who waits for it, as others see it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::run::{Priority, RunId};

/// What waits at a turnstile. Its JSON form is public: `provost queues --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// What is waited for.
    #[serde(flatten)]
    pub what: QueueFor,
    /// How many may be under way now; none for no bound.
    pub width: Option<u32>,
    /// How many are under way.
    pub in_flight: u32,
    /// How many wait.
    pub waiting: usize,
    /// Who waits, in the order of the tenants' and then of the runs' names.
    pub who: Vec<InLine>,
    /// For how long the one has waited that has waited longest, in milliseconds in JSON.
    #[serde(rename = "longest_ms", with = "millis")]
    pub longest: Duration,
    /// For how long it is closed yet, if it is, in milliseconds in JSON: its provider refused calls for a while, or failed too
    /// often.
    #[serde(rename = "closed_for_ms", with = "millis_or_none")]
    pub closed_for: Option<Duration>,
}

/// A run that waits in a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InLine {
    /// Who the run belongs to.
    pub tenant: Arc<str>,
    /// The run.
    pub run: RunId,
    /// Its share beside other runs of its tenant.
    pub priority: Priority,
    /// How many of its calls wait there; of the runs that wait for their turn, one.
    pub calls: usize,
}

/// What is waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueFor {
    /// What kind of thing it is.
    pub kind: QueueKind,
    /// The name of the model, tool, agent, network or run.
    pub name: String,
    /// The network of the tool, agent or run. None where the name says it, and of a model: networks that call the same one
    /// share its queue.
    pub network: Option<String>,
    /// Who serves the model, and what it is called there, as `openai:MODEL`; none where it is nobody's or no model.
    pub provider: Option<String>,
}

/// What kind of thing is waited for; these words are public.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueKind {
    /// A model.
    Model,
    /// A tool.
    Tool,
    /// An agent, over all runs.
    Agent,
    /// The model calls of a network.
    ModelCalls,
    /// The tool calls of a network.
    ToolCalls,
    /// The runs of a network that are under way at once.
    Runs,
    /// The calls of one run.
    #[default]
    Run,
}

impl QueueFor {
    /// Names the queue of all of a network: of its model calls, tool calls or runs.
    pub(super) fn network(kind: QueueKind, network: &str) -> Self {
        Self { kind, name: network.to_owned(), ..Self::default() }
    }

    /// Names the queue of something in a network: a tool, an agent or a run.
    pub(super) fn inside(kind: QueueKind, name: &str, network: &str) -> Self {
        Self { kind, name: name.to_owned(), network: Some(network.to_owned()), provider: None }
    }

    /// Names the queue of a model.
    pub(super) fn model(name: &str, provider: Option<String>) -> Self {
        Self { kind: QueueKind::Model, name: name.to_owned(), network: None, provider }
    }
}

impl fmt::Display for QueueFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            QueueKind::Model => "the model",
            QueueKind::Tool => "the tool",
            QueueKind::Agent => "the agent",
            QueueKind::ModelCalls => "model calls of",
            QueueKind::ToolCalls => "tool calls of",
            QueueKind::Runs => "runs of",
            QueueKind::Run => "calls of run",
        };
        write!(f, "{what} {}", self.name)
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        u64::try_from(span.as_millis()).unwrap_or(u64::MAX).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Ok(Duration::from_millis(u64::deserialize(deserializer)?))
    }
}

mod millis_or_none {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match span {
            Some(span) => super::millis::serialize(span, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}
