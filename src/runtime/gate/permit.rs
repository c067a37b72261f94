//! Permits: when a call may go, of all that want to. What waits for one holds nothing.

use super::desk::Desk;
use super::{Admission, ModelCall, perform};
use crate::model::{Error, Reply};
use crate::run::{Event, ToolFailure, Usage, Wait, refused};
use crate::runtime::fleet::MOST_UNFORESEEN;
use crate::runtime::purse::Exhausted;
use crate::runtime::run_supervisor::RunMessage;
use crate::runtime::scope::{Over, Scope};
use crate::runtime::traffic::{NoTurn, Outcome, Permit, Through};
use crate::spec::Builtin;

/// Why a model call is not made.
pub(super) enum Barred {
    /// A limit forbids it for good.
    Limit(Box<Exhausted>),
    /// It got no turn.
    NoTurn(NoTurn),
}

/// Waits until the run is among those that may be under way, is not paused, and the disk keeps up.
pub(super) async fn may_begin(desk: &Desk, scope: &Scope) -> Result<(), Over> {
    if !scope.fleet.widths.has_turn(&scope.lane) {
        let turn = scope.fleet.widths.turn(&scope.lane, desk.queued(Wait::Permit));
        scope.unless_stopped(Box::pin(turn)).await?;
    }
    scope.may_begin().await
}

/// Says why a call had better go to another model, if it has one, than wait for this: its breaker keeps it away, or it is
/// to be left alone for longer than there is ever between two tries.
pub(super) fn way_round(call: &ModelCall) -> Option<String> {
    let turnstile = &call.model.turnstile;
    if turnstile.is_broken() {
        return Some("its breaker is open".to_owned());
    }
    let closed_for = turnstile.closed_for().filter(|closed_for| *closed_for > call.model.spec.retry.max.0)?;
    Some(format!("it is to be left alone for {} s", closed_for.as_secs()))
}

fn way(call: &ModelCall, desk: &Desk, scope: &Scope) -> Through {
    scope.fleet.widths.of_model(&call.model.turnstile, &scope.lane, &desk.agent)
}

/// Takes a permit for a try of a model call that may have so many tokens. A call that has to wait says so.
pub(super) async fn of_model(
    call: &ModelCall,
    tokens: u64,
    desk: &Desk,
    scope: &Scope,
) -> Result<Result<Permit, NoTurn>, Over> {
    take(way(call, desk, scope), tokens, desk, scope).await
}

async fn take(through: Through, tokens: u64, desk: &Desk, scope: &Scope) -> Result<Result<Permit, NoTurn>, Over> {
    if let Some(permit) = scope.fleet.widths.try_pass(through, tokens) {
        return Ok(Ok(permit));
    }
    desk.queued(Wait::Permit).await?;
    let turn = desk.time.within(scope.fleet.widths.pass(through, tokens, &scope.lane)).await;
    Ok(turn.unwrap_or(Err(NoTurn::StepOver)))
}

/// Takes a permit for a tool call; none where nothing bounds it, or it only sleeps. The event says why there is none where
/// it got no turn.
pub(super) async fn of_tool(tool: &str, desk: &Desk, scope: &Scope) -> Result<Result<Option<Permit>, Event>, Over> {
    let Some(through) = scope.fleet.widths.of_tool(tool, &scope.lane, &desk.agent) else { return Ok(Ok(None)) };
    if scope.tools.get(tool).is_some_and(|bound| bound.builtin() == Some(Builtin::ClockSleep)) {
        return Ok(Ok(None));
    }
    loop {
        match scope.unless_stopped(take(through, 0, desk, scope)).await? {
            // It was paused while the call waited for its turn.
            Ok(permit) if scope.pause.is_set() => permit.release(),
            Ok(permit) => return Ok(Ok(Some(permit))),
            Err(why) => {
                let subject = crate::run::Subject::Tool { tool: tool.into(), arguments: serde_json::Value::Null };
                return Ok(Err(refused(&desk.id, &subject, ToolFailure::Failed, why.to_string())));
            }
        }
        may_begin(desk, scope).await?;
    }
}

/// Says what becomes of a model call that is not made.
pub(super) fn barred(barred: Barred, desk: &Desk) -> Result<(), Over> {
    match barred {
        // An agent goes on without a summary that can't be paid for.
        Barred::Limit(reached) if desk.id.is_compaction => desk.over(perform::unpaid(desk, &reached), None),
        Barred::Limit(reached) => desk.tell(RunMessage::LimitReached { call: desk.id.clone(), reached }),
        Barred::NoTurn(why) => {
            let (call, charged) = (desk.id.clone(), Default::default());
            desk.over(Event::ModelFailed { call, error: why.to_string(), charged, denied: false }, None)
        }
    }
}

/// Makes one try of a model call, and lets all others of its provider know what came of it. If the provider was closed
/// while the intent was written down, the call waits for its turn once more.
pub(super) async fn ask(
    admission: &mut Admission,
    call: &ModelCall,
    intended: u64,
    desk: &Desk,
    scope: &Scope,
) -> Result<Reply, Error> {
    let held = admission.hold.held.tokens;
    while !admission.permit.is_current() {
        admission.permit.give_back();
        let again = scope.fleet.widths.pass_again(way(call, desk, scope), held, &scope.lane);
        if let Some(permit) = again.await {
            admission.permit = permit;
        }
    }
    admission.permit.sent();
    if call.request.attempt == 1 {
        call.model.turnstile.first_try();
    }
    let result = match perform::model(call, intended, desk, scope).await {
        Ok(reply) => {
            let has_written = !reply.text.is_empty() || !reply.tool_calls.is_empty();
            Ok(Reply { usage: reply.usage.filter(|usage| is_believed(usage, has_written, call)), ..reply })
        }
        Err(error) => Err(error.believing(|usage| is_believed(usage, false, call))),
    };
    admission.permit.learn(outcome(&result));
    let usage = match &result {
        Ok(reply) => reply.usage,
        Err(error) => error.usage().or_else(|| (!error.may_be_billed()).then(Default::default)),
    };
    if let Some(usage) = usage {
        call.model.learn(call.request.input_token_bound(call.fixed_bytes), usage.input_tokens);
        admission.permit.used(usage.input_tokens.saturating_add(usage.output_tokens));
    }
    result
}

/// Whether a provider can have used so much for what it was asked and answered: something was read, and written where there is
/// something; and neither is far beyond what was asked for. What is not believed is charged as reserved, and known as such.
fn is_believed(usage: &Usage, has_written: bool, call: &ModelCall) -> bool {
    let most_read = call.request.input_token_bound(call.fixed_bytes).saturating_add(MOST_UNFORESEEN);
    let most_written = u64::from(call.request.max_output_tokens).saturating_add(MOST_UNFORESEEN);
    (1..=most_read).contains(&usage.input_tokens)
        && usage.output_tokens <= most_written
        && (usage.output_tokens > 0 || !has_written)
}

/// Says what a try tells of its provider.
fn outcome(result: &Result<Reply, Error>) -> Outcome {
    match result {
        Ok(reply) => Outcome::Answered { pause: reply.pause },
        Err(Error::RateLimited { retry_after }) => Outcome::Refused { pause: *retry_after },
        Err(Error::Overloaded { status: 503 | 529, retry_after: Some(pause), .. }) => {
            Outcome::Refused { pause: Some(*pause) }
        }
        Err(Error::Overloaded { .. } | Error::Timeout { .. } | Error::Transport { .. } | Error::Cut { .. }) => {
            Outcome::Failed
        }
        // However little it helps, it is an answer.
        Err(_) => Outcome::Answered { pause: None },
    }
}
