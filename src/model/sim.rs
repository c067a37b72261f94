//! The simulated model: seeded, with latency, faults and an optional script.
//!
//! A script's template renders as minijinja does (`True`, not `true`): what goes into JSON goes through `tojson`.
//!
//! What it does is a pure function of the request and the seed: never of timing, of order or of the thread. A whole
//! reply is planned first, and then performed: here in process, and over HTTP by
//! [`serve::sim_server`](crate::serve::sim_server).

mod draw;
mod script;
mod synthesis;
mod unscripted;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

pub use self::script::ScriptError;

use self::draw::{Draws, Scope};
use self::script::Script;
use super::{Error, Finish, Provider, Reply, Request};
use crate::run::{Body, Message, ToolCall, Usage};
use crate::spec::{Faults, Latency, SimSpec, Timeouts};

/// How many bytes the simulation counts as a token: the usual rule of thumb for English text. An estimate, and the
/// simulation's own; no tokeniser is asked.
const BYTES_PER_TOKEN: u64 = 4;

/// In how many pieces an answer comes.
const PIECES: usize = 4;

/// How long a rate-limited try is told to wait.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How many times too high a wrong usage is.
const WRONG_USAGE_FACTOR: u64 = 10;

/// The simulated model.
#[derive(Debug)]
pub struct Sim {
    seed: u64,
    latency: Option<Latency>,
    faults: Faults,
    timeouts: Timeouts,
    script: Script,
    tool_calls: Option<u32>,
}

/// What befalls a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    RateLimited,
    Overloaded,
    Timeout,
    Cut,
    Stall,
    Malformed,
    WrongUsage,
}

/// All that a try will be, before any of it happens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// How long it takes until the answer comes.
    pub(crate) delay: Duration,
    /// What befalls it. Malformed answers and wrong usage are already in the reply.
    pub(crate) fault: Option<Fault>,
    /// The reply, whole even where it will break off; empty where none comes.
    pub(crate) reply: Reply,
}

impl Sim {
    /// Makes the simulated model. `timeouts` are those of the model that it stands in for: they say how long a try
    /// waits that times out.
    ///
    /// # Errors
    /// A template of the script that does not parse.
    pub fn new(spec: &SimSpec, timeouts: Timeouts) -> Result<Self, ScriptError> {
        let script = Script::parse(&spec.script)?;
        Ok(Self { seed: spec.seed, latency: spec.latency, faults: spec.faults, timeouts, script, tool_calls: None })
    }

    /// Gives agents without a script work of a fixed shape: `calls` steps that each call the first tool on offer, and
    /// then the answer.
    #[must_use]
    pub fn with_tool_calls(mut self, calls: u32) -> Self {
        self.tool_calls = Some(calls);
        self
    }

    /// Returns the names of the agents that have a script.
    pub(crate) fn scripted(&self) -> impl Iterator<Item = &str> {
        self.script.agents()
    }

    /// Decides all that a try will be.
    ///
    /// # Errors
    /// [`Error::Script`] where the agent's script can't be rendered.
    pub(crate) fn plan(&self, request: &Request) -> Result<Plan, Error> {
        let fault = self.fault(request);
        if matches!(fault, Some(Fault::RateLimited | Fault::Overloaded | Fault::Timeout)) {
            return Ok(Plan { delay: Duration::ZERO, fault, reply: Reply::default() });
        }
        let mut reply = self.reply(request)?;
        if fault == Some(Fault::Malformed) {
            spoil(&mut reply, request.output_schema.is_some());
        }
        let mut usage = Usage { input_tokens: input_tokens(request), ..Usage::default() };
        usage.output_tokens = limit(&mut reply, request.max_output_tokens);
        if fault == Some(Fault::WrongUsage) {
            usage.input_tokens *= WRONG_USAGE_FACTOR;
            usage.output_tokens *= WRONG_USAGE_FACTOR;
        }
        reply.usage = Some(usage);
        let draw = |latency| Draws::new(self.seed, request, Scope::Try, "latency").latency(latency);
        Ok(Plan { delay: self.latency.map(draw).unwrap_or_default(), fault, reply })
    }

    fn reply(&self, request: &Request) -> Result<Reply, Error> {
        if request.call.is_compaction {
            return Ok(unscripted::summary(request));
        }
        match (self.script.reply(request), self.tool_calls) {
            (Some(reply), _) => reply.map_err(|error| Error::Script { message: error.to_string() }),
            (None, Some(calls)) => Ok(unscripted::fixed(self.seed, request, calls)),
            (None, None) => Ok(unscripted::reply(self.seed, request)),
        }
    }

    /// Draws once which fault strikes the try, if any: each has its share of the line from 0 to 1.
    fn fault(&self, request: &Request) -> Option<Fault> {
        let faults = &self.faults;
        let shares = [
            (faults.rate_limited, Fault::RateLimited),
            (faults.overloaded, Fault::Overloaded),
            (faults.timeout, Fault::Timeout),
            (faults.cut, Fault::Cut),
            (faults.stall, Fault::Stall),
            (faults.malformed, Fault::Malformed),
            (faults.wrong_usage, Fault::WrongUsage),
        ];
        if shares.iter().all(|(share, _)| *share <= 0.0) {
            return None;
        }
        let drawn = Draws::new(self.seed, request, Scope::Try, "fault").unit();
        let mut end = 0.0;
        shares.into_iter().find_map(|(share, fault)| {
            end += share.max(0.0);
            (drawn < end).then_some(fault)
        })
    }

    async fn perform(&self, request: &Request, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<Reply, Error> {
        let Plan { delay, fault, reply } = self.plan(request)?;
        let Timeouts { first_token, between_tokens, .. } = self.timeouts;
        match fault {
            Some(Fault::RateLimited) => return Err(Error::RateLimited { retry_after: Some(RETRY_AFTER) }),
            Some(Fault::Overloaded) => return Err(overloaded()),
            Some(Fault::Timeout) => return Err(time_out(first_token.0, "before the first token").await),
            // A latency that the timeout would have cut short in a real call is cut short here.
            _ if delay >= first_token.0 && !delay.is_zero() => {
                return Err(time_out(first_token.0, "before the first token").await);
            }
            _ if delay.is_zero() => {}
            _ => tokio::time::sleep(delay).await,
        }
        if matches!(fault, Some(Fault::Cut | Fault::Stall)) {
            progress(beginning(&reply.text));
            if fault == Some(Fault::Stall) {
                return Err(time_out(between_tokens.0, "between tokens").await);
            }
            let received = output_bytes(&reply) / 2;
            let message = "simulated: the connection was closed".to_owned();
            return Err(Error::Cut { received, message, usage: None });
        }
        pieces(&reply.text).for_each(progress);
        Ok(reply)
    }
}

impl Provider for Sim {
    /// Makes one simulated try. The latency is waited out before the first piece of the answer; the pieces then come
    /// at once. What refuses a try (429, 503) does so without waiting.
    fn call<'a>(
        &'a self,
        request: &'a Request,
        progress: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(self.perform(request, progress))
    }
}

async fn time_out(after: Duration, stage: &'static str) -> Error {
    tokio::time::sleep(after).await;
    Error::Timeout { stage, after }
}

fn overloaded() -> Error {
    Error::Overloaded { status: 503, message: "simulated: overloaded".to_owned(), retry_after: None }
}

/// Returns the text of the first user message, which is what the agent was asked.
fn input(messages: &[Arc<Message>]) -> &str {
    let text = |message: &'_ Arc<Message>| matches!(message.body, Body::User { .. });
    match messages.iter().find(|message| text(message)).map(|message| &message.body) {
        Some(Body::User { text }) => text,
        _ => "",
    }
}

/// Makes a reply such that what should be JSON in it is none.
fn spoil(reply: &mut Reply, answer_is_json: bool) {
    let spoil = |json: &mut String| {
        // Without its closing bracket it is what a model writes that loses its thread.
        json.pop();
        if serde_json::from_str::<serde::de::IgnoredAny>(json).is_ok() {
            json.insert(0, '{');
        }
    };
    if !reply.tool_calls.is_empty() {
        reply.tool_calls.iter_mut().for_each(|call| spoil(&mut call.arguments));
    } else if answer_is_json {
        spoil(&mut reply.text);
    }
}

fn output_bytes(reply: &Reply) -> usize {
    let call = |call: &ToolCall| call.name.len() + call.arguments.len();
    reply.text.len() + reply.tool_calls.iter().map(call).sum::<usize>()
}

fn tokens(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(BYTES_PER_TOKEN).max(1)
}

/// Cuts the reply where `max_tokens` end, and returns how many tokens it then has.
fn limit(reply: &mut Reply, max_tokens: u32) -> u64 {
    let bytes = output_bytes(reply);
    let budget = u64::from(max_tokens).saturating_mul(BYTES_PER_TOKEN);
    if bytes as u64 <= budget {
        return tokens(bytes);
    }
    reply.finish = Finish::Length;
    // It fits: it is below a length that is a usize.
    let mut left = budget as usize;
    reply.text.truncate(reply.text.floor_char_boundary(left));
    left = left.saturating_sub(reply.text.len());
    let mut whole = 0;
    for call in &mut reply.tool_calls {
        if left <= call.name.len() {
            break;
        }
        left -= call.name.len();
        call.arguments.truncate(call.arguments.floor_char_boundary(left));
        left = left.saturating_sub(call.arguments.len());
        whole += 1;
    }
    reply.tool_calls.truncate(whole);
    tokens(budget as usize)
}

/// Estimates how many tokens a request has, without writing it down.
fn input_tokens(request: &Request) -> u64 {
    let message = |message: &Arc<Message>| match &message.body {
        Body::User { text } => text.len(),
        Body::Assistant { text, tool_calls } => {
            let call = |(id, call): &(String, ToolCall)| id.len() + call.name.len() + call.arguments.len();
            text.len() + tool_calls.iter().map(call).sum::<usize>()
        }
        Body::Tool { id, content, .. } => id.len() + content.len(),
    };
    let messages: usize = request.messages.iter().map(message).sum();
    let mut tools = Length(0);
    for offer in &*request.tools {
        tools.0 += offer.name.len() + offer.description.len();
        // Counting does not fail.
        let _ = serde_json::to_writer(&mut tools, &*offer.parameters);
    }
    tokens(request.system.len() + messages + tools.0)
}

/// Counts what is written to it, and keeps none of it.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the first half of a text.
fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(text.len() / 2)]
}

/// Splits a text into the pieces in which it is streamed.
pub(crate) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let size = text.len().div_ceil(PIECES).max(1);
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at(rest.ceil_char_boundary(size));
        rest = after;
        Some(piece)
    })
}

#[cfg(test)]
mod tests;
