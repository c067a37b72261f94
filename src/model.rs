//! Models: what is asked of one, what it answers, and how a call can fail. Each provider speaks its own dialect
//! behind [`Provider`].

pub mod sim;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::run::{AgentId, CallId, Message, RunId, ToolCall, Usage};

/// One try of one model call.
#[derive(Clone, Debug)]
pub struct Request {
    /// The run that asks.
    pub run: RunId,
    /// The agent's name in the network.
    pub agent: Arc<str>,
    /// The call; all its tries share it.
    pub call: CallId,
    /// Which try this is, counted from 1.
    pub attempt: u32,
    /// The system message.
    pub system: Arc<str>,
    /// The transcript so far, oldest first. Every tool call in it has its result.
    pub messages: Vec<Arc<Message>>,
    /// The tools on offer, delegates and handoffs among them.
    pub tools: Arc<[Offer]>,
    /// The JSON Schema that the final answer must satisfy; none for plain text.
    pub output_schema: Option<Arc<Value>>,
    /// How many tokens the model may write at most.
    pub max_output_tokens: u32,
}

impl Request {
    /// Returns the agent instance that asks.
    pub fn agent_id(&self) -> &AgentId {
        &self.call.agent
    }
}

/// A tool as it is offered to a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The name that a call must give.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// The JSON Schema of its arguments, an object.
    pub parameters: Arc<Value>,
}

/// What a model answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// What it said; the final answer where there are no tool calls.
    pub text: String,
    /// The tools that it asks for, in its order.
    pub tool_calls: Vec<ToolCall>,
    /// What the call used, as the provider reports it; none where it did not.
    pub usage: Option<Usage>,
    /// Why the model stopped.
    pub finish: Finish,
    /// What keeps this from being an answer in the form that was asked for, in words for the model; none if nothing.
    pub malformed: Option<String>,
}

/// Why a model stopped writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// It had said all, or asked for tools.
    #[default]
    Stop,
    /// It was cut at `max_output_tokens`.
    Length,
    /// The provider withheld the answer.
    Filtered,
}

/// A model behind an API, a process or a function of one's own.
///
/// Implement it to bring a model that Provost does not know. A provider makes one try; retries, permits, budgets and
/// time limits across tries are the gate's. Dropping the future must cancel the try: no request may go on behind it.
pub trait Provider: Send + Sync + 'static {
    /// Makes one try. `progress` is told of each piece of text as it arrives, if it arrives in pieces.
    fn call<'a>(
        &'a self,
        request: &'a Request,
        progress: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, Error>>;
}

/// Why a try of a model call failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// HTTP 429 or its like.
    #[error("rate limited by the provider{}", retry_in(.retry_after))]
    RateLimited {
        /// How long the provider asks to wait, if it says.
        retry_after: Option<Duration>,
    },
    /// HTTP 5xx or its like.
    #[error("the provider failed with status {status}: {message}{}", retry_in(.retry_after))]
    Overloaded {
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said.
        message: String,
        /// How long the provider asks to wait, if it says.
        retry_after: Option<Duration>,
    },
    /// Nothing came in time.
    #[error("timed out after {after:?} {stage}")]
    Timeout {
        /// What was awaited: `connecting`, `before the first token`, `between tokens`.
        stage: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The connection could not be made, or broke before an answer began.
    #[error("no connection to {url}: {message}")]
    Transport {
        /// Where it was to go, without credentials.
        url: String,
        /// What went wrong.
        message: String,
    },
    /// The answer began and then broke off.
    #[error("the answer was cut off after {received} bytes: {message}")]
    Cut {
        /// How much had come.
        received: usize,
        /// What went wrong.
        message: String,
        /// What the try used, where the provider had said so already.
        usage: Option<Usage>,
    },
    /// HTTP 4xx that a retry will not mend.
    #[error("the provider refused the request with status {status}: {message}")]
    BadRequest {
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said.
        message: String,
    },
    /// The transcript is longer than the model reads.
    #[error("the transcript is longer than the model's context: {message}")]
    ContextTooLong {
        /// The beginning of what the provider said.
        message: String,
    },
    /// HTTP 401 or 403.
    #[error("the provider refused the key with status {status}: {message}")]
    Auth {
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said.
        message: String,
    },
    /// The answer is no answer in the provider's dialect.
    #[error("the provider's answer makes no sense: {message}")]
    Malformed {
        /// What is wrong with it.
        message: String,
        /// What the try used, where the provider said so.
        usage: Option<Usage>,
    },
}

fn retry_in(after: &Option<Duration>) -> String {
    after.map(|after| format!(" (try again in {after:?})")).unwrap_or_default()
}

impl Error {
    /// Whether another try of the same request may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::RateLimited { .. }
            | Self::Overloaded { .. }
            | Self::Timeout { .. }
            | Self::Transport { .. }
            | Self::Cut { .. }
            | Self::Malformed { .. } => true,
            Self::BadRequest { .. } | Self::ContextTooLong { .. } | Self::Auth { .. } => false,
        }
    }

    /// Returns how long the provider asks to wait before the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } | Self::Overloaded { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the provider may bill the failed try, so that its reservation can't just be given back.
    pub fn may_be_billed(&self) -> bool {
        match self {
            Self::Timeout { stage, .. } => *stage != "connecting",
            Self::Cut { .. } | Self::Malformed { .. } => true,
            Self::RateLimited { .. }
            | Self::Overloaded { .. }
            | Self::Transport { .. }
            | Self::BadRequest { .. }
            | Self::ContextTooLong { .. }
            | Self::Auth { .. } => false,
        }
    }

    /// Returns what the failed try used, where the provider said so.
    pub fn usage(&self) -> Option<Usage> {
        match self {
            Self::Cut { usage, .. } | Self::Malformed { usage, .. } => *usage,
            _ => None,
        }
    }
}
