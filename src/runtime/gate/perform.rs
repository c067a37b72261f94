//! What happens once a call may happen, and how its outcome is written down.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::Value;

use super::ModelCall;
use super::desk::Desk;
use crate::budget::{Amount, Rates};
use crate::fault::{self, Bug};
use crate::model::{Error, Reply};
use crate::run::{Body, CallId, Event, Labels, Message, Origin, Stream, Subject, ToolFailure, refused, tool_message};
use crate::runtime::fleet::BoundTool;
use crate::runtime::funds::Hold;
use crate::runtime::purse::Exhausted;
use crate::runtime::scope::Scope;
use crate::runtime::voice::Speech;
use crate::tool;

/// Makes one try of a model call, which was intended with the event `intended`. A panic in the provider is a failed try
/// like any other.
pub(super) async fn model(call: &ModelCall, intended: u64, desk: &Desk, scope: &Scope) -> Result<Reply, Error> {
    let timeouts = &call.model.spec.timeouts;
    let _beating = desk.pulse.begin(timeouts.connect.0 + timeouts.first_token.0.max(timeouts.between_tokens.0));
    // A summary is not said to anybody.
    let speaks = !desk.id.is_compaction;
    let speech = speaks.then(|| Speech::new(&scope.voice, &scope.stream.run, &desk.id, call.request.attempt, intended));
    let progress = |piece: &str| {
        desk.pulse.beat();
        speech.iter().for_each(|speech| speech.piece(piece));
    };
    let attempt = AssertUnwindSafe(call.model.provider.call(&call.request, &progress)).catch_unwind();
    let longest = desk.time.at_most(timeouts.call.map(|span| span.0));
    let ended = match longest {
        None => Ok(attempt.await),
        Some(longest) => tokio::time::timeout(longest, attempt).await.map_err(|_| longest),
    };
    let result = match ended {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => {
            Err(Error::Malformed { message: format!("the provider panicked: {}", words(&*panic)), usage: None })
        }
        Err(after) if desk.time.is_over() => Err(Error::Timeout { stage: "in its step", after }),
        Err(after) => Err(Error::Timeout { stage: "in all", after }),
    };
    result.inspect(|reply| speech.iter().for_each(|speech| speech.end(&reply.text)))
}

/// Says what a try is charged: what the provider reports; in full where it may bill and does not say how much; and
/// nothing but the count of the call where it can't bill.
pub(super) fn charge(result: &Result<Reply, Error>, hold: &Hold, rates: &Rates) -> Amount {
    let usage = match result {
        Ok(reply) => reply.usage,
        Err(error) if error.may_be_billed() => error.usage(),
        Err(_) => return hold.counts,
    };
    let rates = if fault::is_planted(Bug::CostForgotten) { &Rates::default() } else { rates };
    usage.map_or(hold.held, |usage| hold.counts.with_usage(&usage, rates))
}

/// Writes down that a model call can't be paid for.
pub(super) fn unpaid(desk: &Desk, reached: &Exhausted) -> Event {
    let error = format!("the limit `{}` of {} is reached", reached.limit, reached.account);
    Event::ModelFailed { call: desk.id.clone(), error, charged: Amount::default(), denied: false }
}

/// Writes down how a model call ended.
pub(super) fn model_event(desk: &Desk, call: &ModelCall, result: Result<Reply, Error>, charged: Amount) -> Event {
    let id = desk.id.clone();
    let reply = match result {
        Ok(reply) => reply,
        Err(error) => return Event::ModelFailed { call: id, error: error.to_string(), charged, denied: false },
    };
    let mut labels = Labels::default();
    call.request.messages.iter().for_each(|message| labels.join(&message.labels));
    let name = |(index, asked): (usize, _)| (CallId::tool(&id.agent, id.step, index as u32).in_transcript(), asked);
    let tool_calls = reply.tool_calls.into_iter().enumerate().map(name).collect();
    let body = Body::Assistant { text: reply.text, tool_calls };
    Event::ModelReplied {
        message: Arc::new(Message { body, labels, origin: Origin::Model(call.name.to_string()) }),
        call: id,
        finish: reply.finish,
        malformed: reply.malformed,
        usage: reply.usage,
        covers: call.covers,
        charged,
    }
}

/// Makes a tool call and writes down what came of it. However the tool fails, the model is told.
pub(super) async fn tool(desk: &Desk, name: &str, arguments: &Value, is_edited: bool, scope: &Scope) -> Event {
    let mut labels = desk.labels.clone();
    let Some(bound) = scope.tools.get(name) else {
        let subject = Subject::Tool { tool: name.into(), arguments: Value::Null };
        return refused(&desk.id, &subject, ToolFailure::UnknownTool, format!("there is no tool `{name}`"));
    };
    let limit = bound.spec.output_limit_bytes();
    let influence = tool::Influence::default();
    let (content, failure) = match run_tool(desk, bound, arguments, &influence, scope).await {
        Ok(content) => (cut(content, limit), None),
        Err((failure, why)) => (cut(why, limit), Some(failure)),
    };
    let content = match is_edited {
        true => format!("[a person changed the arguments to {arguments}]\n{content}"),
        false => content,
    };
    bound.spec.labels.reads.iter().for_each(|label| labels.add(label));
    labels.join(&influence.labels());
    let message = tool_message(&desk.id, name, content, failure.is_some(), labels, Origin::Tool(name.to_owned()));
    Event::ToolReturned { call: desk.id.clone(), message, failure }
}

async fn run_tool(
    desk: &Desk,
    bound: &BoundTool,
    arguments: &Value,
    influence: &tool::Influence,
    scope: &Scope,
) -> Result<String, (ToolFailure, String)> {
    let call = tool::Call {
        run: scope.stream.run.clone(),
        id: desk.id.clone(),
        idempotency_key: key(desk, scope),
        age: age(desk, scope),
        cancelled: scope.cancelled.child_token(),
        output_limit_bytes: bound.spec.output_limit_bytes(),
        caller: caller(desk, scope),
        influence: influence.clone(),
    };
    let _cancel_on_drop = call.cancelled.clone().drop_guard();
    let work = AssertUnwindSafe(bound.tool.clone().call(arguments.clone(), call)).catch_unwind();
    let _beating = bound.spec.timeout().map(|timeout| desk.pulse.begin(timeout.0));
    let timeout = bound.spec.timeout();
    let ended = match desk.time.at_most(timeout.map(|span| span.0)) {
        None => work.await,
        Some(longest) => tokio::time::timeout(longest, work).await.map_err(|_| {
            let why = match timeout {
                Some(timeout) if longest >= timeout.0 => format!("the tool did not answer within {timeout}"),
                _ => format!("the tool did not answer within {longest:?}, which was left of its step"),
            };
            (ToolFailure::TimedOut, why)
        })?,
    };
    match ended {
        Ok(Ok(content)) => Ok(content),
        Ok(Err(error @ tool::Error::Arguments(_))) => Err((ToolFailure::InvalidArguments, error.to_string())),
        Ok(Err(error)) => Err((ToolFailure::Failed, error.to_string())),
        Err(panic) => Err((ToolFailure::Panicked, format!("the tool panicked: {}", words(&*panic)))),
    }
}

/// Says for whom a call is made.
fn caller(desk: &Desk, scope: &Scope) -> tool::Caller {
    let Stream { tenant, session, .. } = &*scope.stream;
    tool::Caller {
        network: scope.fleet.network.spec().network.name.as_str().into(),
        agent: desk.agent.clone(),
        tenant: tenant.clone(),
        session: session.clone(),
        labels: desk.labels.clone(),
    }
}

/// Says how long ago a call was intended first. The machine's clock may have been set back since.
fn age(desk: &Desk, scope: &Scope) -> Duration {
    let since_ms = desk.first_intended_ms.map_or(0, |first_ms| scope.recorder.now_ms().saturating_sub(first_ms));
    Duration::from_millis(since_ms)
}

/// Names a call so that the world can recognise it: the same for all tries of the call, in all processes, and in all runs
/// that were forked while it was under way.
pub(super) fn key(desk: &Desk, scope: &Scope) -> String {
    if fault::is_planted(Bug::KeyChanges) {
        return format!("{}/{}@{}", scope.stream.run, desk.id, desk.cause);
    }
    format!("{}/{}", desk.begun_in.as_ref().unwrap_or(&scope.stream.run), desk.id)
}

/// Cuts a result to its limit, at a character's end, and says so.
fn cut(mut content: String, limit: usize) -> String {
    if content.len() <= limit {
        return content;
    }
    let whole = content.len();
    content.truncate(content.floor_char_boundary(limit));
    content.push_str(&format!("\n[cut: the first {limit} of {whole} bytes]"));
    content
}

/// Returns what a panic said.
pub(in crate::runtime) fn words(panic: &(dyn Any + Send)) -> &str {
    let said = panic.downcast_ref::<&str>().copied();
    said.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it did not say why")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_falls_between_characters_and_is_marked() {
        assert_eq!(cut("äöü".to_owned(), 3), "ä\n[cut: the first 3 of 6 bytes]");
        assert_eq!(cut("äöü".to_owned(), 6), "äöü");
    }
}
