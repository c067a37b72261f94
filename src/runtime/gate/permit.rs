//! Permits: when a call may go, of all that want to. What waits for one holds nothing.

use super::desk::Desk;
use super::{Admission, ModelCall, perform};
use crate::model::{Error, Reply};
use crate::run::{Event, ToolFailure, Wait, refused};
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
    let turn = scope.fleet.widths.turn(&scope.lane, desk.queued(Wait::Permit));
    scope.unless_stopped(turn).await?;
    scope.may_begin().await
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
    Ok(scope.fleet.widths.pass(through, tokens, &scope.lane).await)
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
            desk.over(Event::ModelFailed { call, error: why.to_string(), charged }, None)
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
    if call.request.attempt == 1 {
        call.model.turnstile.first_try();
    }
    let result = perform::model(call, intended, desk, scope).await;
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
