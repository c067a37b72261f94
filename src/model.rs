//! Models: what is asked of one, what it answers, and how a call can fail. Each provider speaks its own dialect
//! behind [`Provider`].

pub mod anthropic;
#[cfg(feature = "genai")]
pub mod genai;
mod http;
pub mod openai;
mod schema_mode;
pub mod secret;
pub mod sim;
#[cfg(test)]
mod testing;
mod text_calls;
mod tool_mode;

#[cfg(feature = "genai")]
pub use self::genai::Genai;
pub use anthropic::Anthropic;
pub use http::post::post;
pub use openai::{Embedder, OpenAi};
pub use sim::Sim;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::run::{Body, CallId, Message, RunId, ToolCall, Usage};
use crate::spec::{ModelSpec, ProviderKind, SimSpec};

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
    /// Returns how many tokens the request can have at most: no tokenizer makes more tokens than there are bytes, and
    /// what a provider's own wording adds is bounded by constants and by what is offered. `fixed_bytes` is what
    /// [`fixed_bytes`] says of the request's tools and schema.
    pub fn input_token_bound(&self, fixed_bytes: usize) -> u64 {
        let messages: usize = self.messages.iter().map(|message| message_bytes(message) + BYTES_AROUND_MESSAGE).sum();
        (fixed_bytes + self.system.len() + messages) as u64
    }
}

/// Estimates how many tokens messages have, for what is decided by their size and is no matter of money: of English, of
/// code and of most other scripts, tokenizers make no more tokens than a third of the bytes.
pub fn estimated_tokens<'a>(messages: impl IntoIterator<Item = &'a Arc<Message>>) -> u64 {
    let bytes = messages.into_iter().map(|message| message_bytes(message) + BYTES_AROUND_MESSAGE).sum::<usize>();
    bytes.div_ceil(BYTES_PER_TOKEN) as u64
}

/// By how many bytes a token is estimated.
const BYTES_PER_TOKEN: usize = 3;

/// What a provider's chat template may add around a message (roles and separators), in tokens; templates in use add
/// fewer than ten.
const BYTES_AROUND_MESSAGE: usize = 32;

/// What a provider's chat template, or our own wording, may add around a whole request, in tokens.
const BYTES_AROUND_REQUEST: usize = 1_024;

/// Returns how many bytes what is the same in all requests of an agent takes at most: its tools and its schema, sent
/// twice where tool calls are held to a schema (as words, and as the schema), and what is put around a request.
pub fn fixed_bytes(tools: &[Offer], output_schema: Option<&Value>) -> usize {
    let offers: usize = tools.iter().map(Offer::bytes).sum();
    let schema = output_schema.map_or(0, |schema| schema.to_string().len());
    BYTES_AROUND_REQUEST + 2 * (offers + schema)
}

fn message_bytes(message: &Message) -> usize {
    match &message.body {
        Body::User { text } => text.len(),
        Body::Tool { id, name, content, .. } => id.len() + name.len() + content.len(),
        Body::Assistant { text, tool_calls } => {
            let calls = tool_calls.iter().map(|(id, call)| id.len() + call.name.len() + call.arguments.len());
            text.len() + calls.map(|bytes| bytes + BYTES_AROUND_MESSAGE).sum::<usize>()
        }
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

impl Offer {
    fn bytes(&self) -> usize {
        self.name.len() + self.description.len() + self.parameters.to_string().len() + BYTES_AROUND_MESSAGE
    }
}

/// What a model answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// What it said; the final answer where there are no tool calls.
    pub text: String,
    /// The tools that it asks for, in its order.
    pub tool_calls: Vec<ToolCall>,
    /// What the call used, as the provider reports it; none where it did not. The runtime takes one that can't be true (nothing
    /// read, nothing written where there is something, far more than was asked for) for none: the call is charged as reserved.
    pub usage: Option<Usage>,
    /// Why the model stopped.
    pub finish: Finish,
    /// What keeps this from being an answer in the form that was asked for, in words for the model; none if nothing.
    pub malformed: Option<String>,
    /// For how long the provider allows nothing more, where it says with the answer that nothing is left.
    #[serde(skip)]
    pub pause: Option<Duration>,
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

/// Why a model can't be made ready.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Its server can't be called.
    #[error(transparent)]
    Server(#[from] openai::SetupError),
    /// Its key can't be had.
    #[error(transparent)]
    Secret(#[from] secret::Error),
    /// The simulated model's script can't be used.
    #[error(transparent)]
    Script(#[from] sim::ScriptError),
    /// This build of Provost can't call its provider.
    #[error("this provost is built without `{0}`; build it with the cargo feature `genai`")]
    NotBuiltIn(&'static str),
    /// Its provider is the embedding program's, which did not register one.
    #[error("its provider is the program's own, and none was registered under its name")]
    Host,
}

/// Makes the provider that a network names for a model; the simulated one where it names none.
///
/// # Errors
/// A key that is not there, an address that is none, or a script that does not parse.
pub fn provider(spec: &ModelSpec, sim: &SimSpec) -> Result<Arc<dyn Provider>, SetupError> {
    Ok(match spec.provider {
        Some(ProviderKind::Openai) => {
            let key = spec.api_key.as_ref().map(secret::resolve).transpose()?;
            Arc::new(OpenAi::new(spec, key)?)
        }
        Some(ProviderKind::Anthropic) => {
            let key = spec.api_key.as_ref().map(secret::resolve).transpose()?;
            Arc::new(Anthropic::new(spec, key)?)
        }
        Some(ProviderKind::Sim) | None => Arc::new(Sim::new(sim, spec.timeouts)?),
        Some(ProviderKind::Host) => return Err(SetupError::Host),
        Some(kind) => through_genai(kind, spec)?,
    })
}

#[cfg(feature = "genai")]
fn through_genai(kind: ProviderKind, spec: &ModelSpec) -> Result<Arc<dyn Provider>, SetupError> {
    let key = spec.api_key.as_ref().map(secret::resolve).transpose()?;
    Ok(Arc::new(Genai::new(kind, spec, key)?))
}

#[cfg(not(feature = "genai"))]
fn through_genai(kind: ProviderKind, _: &ModelSpec) -> Result<Arc<dyn Provider>, SetupError> {
    Err(SetupError::NotBuiltIn(kind.name()))
}

/// What a provider tells apart when it says how much is allowed: an address, a key and a model. All that have the same one
/// share one gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity([u8; 32]);

impl Identity {
    /// Returns what a model is to its provider; none for one that is nobody else's: the simulated one, and one of the
    /// program's own, or one whose key can't be had.
    pub fn of(spec: &ModelSpec) -> Option<Self> {
        let kind = spec.provider?;
        if !kind.is_server() {
            return None;
        }
        let key = spec.api_key.as_ref().map(secret::resolve).transpose().ok()?;
        let base_url = spec.base_url.as_deref().unwrap_or_default().trim_end_matches('/');
        let mut hasher = blake3::Hasher::new();
        // Only the digest is kept, and that for as long as the process lives.
        let key = key.as_ref().map_or("", |key| key.expose_secret());
        for part in [&*format!("{kind:?}"), base_url, key, spec.model.as_deref().unwrap_or_default()] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        Some(Self(hasher.finalize().into()))
    }
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
        /// What was awaited: `connecting`, `before the first token`, `between tokens`, `in all`, `in its step`.
        stage: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The connection could not be made, so that the provider never saw the request.
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
    /// The answer is something else altogether, and another try would bring the same.
    #[error("what answers is no model of this dialect: {message}")]
    Foreign {
        /// The beginning of what it said, and what may be wrong.
        message: String,
        /// What the try used, where it was said.
        usage: Option<Usage>,
    },
    /// A try failed that another might mend, and there were too many of those.
    #[error("{last}; it is not tried again, since too many calls of this model were (a tenth may be)")]
    NotTriedAgain {
        /// How it failed.
        last: Box<Error>,
    },
    /// The script of the simulated model can't be followed.
    #[error("{message}")]
    Script {
        /// Where in the script, and what is wrong there.
        message: String,
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
            Self::BadRequest { .. }
            | Self::ContextTooLong { .. }
            | Self::Auth { .. }
            | Self::Foreign { .. }
            | Self::NotTriedAgain { .. }
            | Self::Script { .. } => false,
        }
    }

    /// Whether another model may answer where this one can't be had: after an outage, and where the transcript is too long.
    pub fn may_fall_back(&self) -> bool {
        self.is_transient() || matches!(self, Self::ContextTooLong { .. })
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
            Self::Cut { .. } | Self::Malformed { .. } | Self::Foreign { .. } => true,
            Self::NotTriedAgain { last } => last.may_be_billed(),
            // A gateway lost patience, or the connection, while what is behind it may have been at work.
            Self::Overloaded { status: 408 | 502 | 504 | 520..=524, .. } => true,
            Self::RateLimited { .. }
            | Self::Overloaded { .. }
            | Self::Transport { .. }
            | Self::BadRequest { .. }
            | Self::ContextTooLong { .. }
            | Self::Auth { .. }
            | Self::Script { .. } => false,
        }
    }

    /// Forgets what the failed try used where that is not believed.
    pub(crate) fn believing(mut self, is_believed: impl Fn(&Usage) -> bool) -> Self {
        match &mut self {
            Self::Cut { usage, .. } | Self::Malformed { usage, .. } | Self::Foreign { usage, .. } => {
                *usage = usage.filter(|usage| is_believed(usage));
            }
            _ => {}
        }
        self
    }

    /// Returns what the failed try used, where the provider said so.
    pub fn usage(&self) -> Option<Usage> {
        match self {
            Self::Cut { usage, .. } | Self::Malformed { usage, .. } | Self::Foreign { usage, .. } => *usage,
            Self::NotTriedAgain { last } => last.usage(),
            _ => None,
        }
    }
}
