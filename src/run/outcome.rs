//! How agents and runs end.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::AgentId;

/// How an agent instance ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentOutcome {
    /// It gave its answer.
    Done(Answer),
    /// It handed over.
    HandedOff {
        /// The instance that took over.
        to: AgentId,
    },
    /// It could not go on.
    Failed {
        /// Why.
        reason: String,
    },
    /// It came to one of its own limits.
    Limit {
        /// Which one, by its name in the network file.
        limit: String,
        /// What happened, in a sentence.
        reason: String,
    },
    /// Policy or a person did not let it ask its model.
    Denied {
        /// Why.
        reason: String,
    },
    /// It was stopped, since nobody waits for its answer any more.
    Cancelled {
        /// Why.
        reason: String,
    },
}

/// A final answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Plain text.
    Text(Arc<str>),
    /// A value that satisfies the agent's output schema.
    Value(Arc<Value>),
}

impl Answer {
    /// Returns the answer as text: a value as one line of JSON.
    pub fn to_text(&self) -> Arc<str> {
        match self {
            Self::Text(text) => text.clone(),
            Self::Value(value) => value.to_string().into(),
        }
    }

    /// Returns the answer as data: a text is one.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Text(text) => Value::from(&**text),
            Self::Value(value) => Value::clone(value),
        }
    }
}

impl From<Value> for Answer {
    fn from(value: Value) -> Self {
        match value {
            Value::String(text) => Self::Text(text.into()),
            value => Self::Value(Arc::new(value)),
        }
    }
}

/// How a run ended, or why it is parked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunEnd {
    /// The kind of end.
    pub status: Status,
    /// Why, in a sentence; none where the status says all.
    pub reason: Option<String>,
    /// The answer, if there is one.
    pub answer: Option<Answer>,
}

impl RunEnd {
    /// Makes an end without an answer.
    pub fn without_answer(status: Status, reason: impl Into<String>) -> Self {
        Self { status, reason: Some(reason.into()), answer: None }
    }
}

/// Where a run stands; these words are public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is under way.
    Running,
    /// It ended with an answer.
    Done,
    /// It could not go on.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// It reached a limit.
    Limit,
    /// What it needed was denied.
    Denied,
    /// It waits for a person's approval.
    AwaitingApproval,
    /// It waits for a person's answer.
    AwaitingInput,
    /// It waits for a person who raises a limit.
    AwaitingBudget,
    /// A call may have happened or not, and a person has to say which.
    InDoubt,
    /// Its process ended before it did; `provost runs resume` takes it up again.
    Interrupted,
}

impl Status {
    /// Whether it waits for a person.
    pub fn is_parked(self) -> bool {
        matches!(self, Self::AwaitingApproval | Self::AwaitingInput | Self::AwaitingBudget | Self::InDoubt)
    }

    /// Whether a run that stands so, in no process, can be taken up again.
    pub fn can_go_on(self) -> bool {
        matches!(self, Self::Running | Self::Interrupted) || self.is_parked()
    }

    /// Returns the word for it, which is public.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Limit => "limit",
            Self::Denied => "denied",
            Self::AwaitingApproval => "awaiting_approval",
            Self::AwaitingInput => "awaiting_input",
            Self::AwaitingBudget => "awaiting_budget",
            Self::InDoubt => "in_doubt",
            Self::Interrupted => "interrupted",
        }
    }
}
