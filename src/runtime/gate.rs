//! The gate: the one way from what an agent wants to the world. Every model call, tool call, delegation and handoff
//! of every agent passes here, in this order:
//!
//! policy → approval → permit and rate → budget → intent recorded → performed → result recorded, settled, permit
//! released, and back to the agent.
//!
//! A permit, which the rate paces, is taken before the reservation, so that no budget is held while queueing; a reservation
//! that only others' holds block gives the permit back and waits. A further try of a call passes both again.
//!
//! When the run is told to stop, whatever waits here or asks a model is dropped at once, so that nothing more is spent.
//! A tool that is at work hears of it, and goes on until it has stopped or is aborted.

mod approval;
mod call;
mod crash;
mod desk;
pub(super) mod perform;
mod permit;
mod person;
mod pulse;
mod reconcile;
mod retry;

use std::sync::Arc;

use ractor::ActorRef;

pub(super) use approval::Known;
pub use approval::{Approver, Question};
pub(super) use call::{Call, ModelCall, Work};
pub use person::Inquired;

use self::approval::Verdict;
use self::desk::Desk;
pub(super) use self::perform::words;
use self::permit::Barred;
pub(super) use self::pulse::Pulse;
use super::run_supervisor::RunMessage;
use super::scope::{Hold, Over, Scope};
use super::traffic::Permit;
use crate::budget::{Account, Amount, Refusal};
use crate::fault::{self, Bug};
use crate::policy;
use crate::run::{Event, Subject, ToolFailure, Wait, refused};
use crate::spec::{Builtin, Effect};

/// What is taken for one try of a model call; given back in this order when dropped.
pub(super) struct Admission {
    hold: Hold,
    permit: Permit,
}

impl Admission {
    /// Settles the reservation, then releases the permit.
    pub(super) fn settle(self, actual: Amount) {
        self.hold.settle(actual);
        self.permit.release();
    }
}

/// Takes a call through the gate to its end, and tells the run's supervisor what became of it. Dropping the future at
/// any point stops the call and gives back what it held.
pub(super) async fn pass(call: Call, scope: Arc<Scope>, supervisor: ActorRef<RunMessage>) -> Result<(), Over> {
    let Call { id, agent, cause, labels, work, attempt, approval, is_asked, begun_in, first_intended_ms, pulse } = call;
    let desk = Desk { id, agent, cause, labels, begun_in, first_intended_ms, pulse, supervisor };
    let subject = match &work {
        Work::Model(call) => call.subject(),
        Work::Act(subject) => subject.clone(),
        Work::Reconcile { by, subject } => reconcile::question(&desk, by, subject, &scope),
    };
    let permission = policy::decide(&scope.fleet.network.spec().policy, &subject, scope.builtin(&subject));
    if let Work::Reconcile { by, .. } = work {
        return reconcile::ask(by, permission, &subject, &desk, &scope).await;
    }
    match scope.unless_stopped(approval::settle(permission, approval, &desk, &subject, &scope)).await? {
        Verdict::Granted => {}
        Verdict::Parked => return Ok(()),
        Verdict::Refused(why) => {
            return desk.over(refused(&desk.id, &subject, ToolFailure::Denied, why), None);
        }
    }
    match work {
        Work::Model(call) => scope.unless_stopped(ask_model(call, attempt, &desk, &scope)).await,
        _ if scope.builtin(&subject) == Some(Builtin::PersonAsk) => {
            scope.unless_stopped(person::ask(&subject, is_asked, &desk, &scope)).await
        }
        _ => act(subject, attempt, &desk, &scope).await,
    }
}

async fn ask_model(mut call: ModelCall, attempt: u32, desk: &Desk, scope: &Scope) -> Result<(), Over> {
    let wanted = call.request.max_output_tokens;
    let mut tries = retry::Tries::new(&call.model.spec.retry, &scope.stream.run, &desk.id, attempt);
    loop {
        permit::may_begin(desk, scope).await?;
        let mut admission = match admit(&call, wanted, tries.attempt(), desk, scope).await? {
            Ok(admission) => admission,
            Err(barred) => return permit::barred(barred, desk),
        };
        if scope.pause.is_set() {
            // It was paused while the call waited for its turn; all that was taken is given back.
            continue;
        }
        call.request.attempt = tries.attempt();
        call.request.max_output_tokens = admission.hold.max_output_tokens;
        crash::point("before_intent", "model");
        let (held, intends) = (admission.hold.held, admission.hold.intended());
        let intent = intent(desk, call.subject(), tries.attempt(), None, held);
        let intended = desk.intend_durably(intent, intends).await?;
        crash::point("after_intent", "model");
        let result = permit::ask(&mut admission, &call, intended, desk, scope).await;
        crash::point("after_effect", "model");
        let charged = perform::charge(&result, &admission.hold, &call.model.rates);
        let (error, pause) = match tries.next(result, &call.model.turnstile) {
            Err(again) => again,
            Ok(result) => {
                return desk.over(perform::model_event(desk, &call, result, charged), Some((admission, charged)));
            }
        };
        let (attempt, retry_in_ms) = (tries.attempt(), pause.as_millis() as u64);
        let error = error.to_string();
        desk.record(Event::TryFailed { call: desk.id.clone(), attempt, error, retry_in_ms, charged }).await?;
        admission.settle(charged);
        tries.pause(pause).await;
    }
}

/// Takes a permit and a reservation for one try, or says why there is none. A call that has to wait says so.
async fn admit(
    call: &ModelCall,
    wanted: u32,
    attempt: u32,
    desk: &Desk,
    scope: &Scope,
) -> Result<Result<Admission, Barred>, Over> {
    let ModelCall { model, request, fixed_bytes, .. } = call;
    let counts = match (attempt, desk.id.is_compaction) {
        (1, false) => Amount::ONE_STEP,
        (1, true) => Amount::ONE_CALL,
        _ => Amount::default(),
    };
    let input = request.input_token_bound(*fixed_bytes);
    loop {
        let permit = match permit::of_model(call, input.saturating_add(wanted.into()), desk, scope).await? {
            Ok(permit) => permit,
            Err(why) => return Ok(Err(Barred::NoTurn(why))),
        };
        let freed = scope.account.freed();
        let reserve =
            |account: &mut Account| account.reserve(counts, input, wanted, model.spec.min_output_tokens, &model.rates);
        let reserved = match fault::is_planted(Bug::ReservedInTwo) {
            true => scope.account.reserve_in_two(counts, reserve).await,
            false => scope.account.reserve(counts, reserve),
        };
        match reserved {
            Ok(hold) => return Ok(Ok(Admission { hold, permit })),
            Err(Refusal::Exhausted(limit)) => return Ok(Err(Barred::Limit(limit))),
            Err(Refusal::Held(_)) => {
                permit.release();
                desk.queued(Wait::Budget).await?;
                freed.await;
            }
        }
    }
}

async fn act(subject: Subject, attempt: u32, desk: &Desk, scope: &Scope) -> Result<(), Over> {
    permit::may_begin(desk, scope).await?;
    let Subject::Tool { tool, arguments } = &subject else {
        // The supervisor records the intent and the new agent's start in one go, or refuses what leads too deep.
        let (call, cause, labels) = (desk.id.clone(), desk.cause, desk.labels.clone());
        return desk.tell(RunMessage::StartAgent { call, cause, subject, labels });
    };
    let permit = match permit::of_tool(tool, desk, scope).await? {
        Ok(permit) => permit,
        Err(refused) => return desk.over(refused, None),
    };
    let effect = scope.effect(&subject);
    let class = effect.map_or("", Effect::word);
    if fault::is_planted(Bug::EffectBeforeIntent) {
        let result = perform::tool(desk, tool, arguments, scope).await;
        desk.record(intent(desk, subject.clone(), attempt, effect, Amount::default())).await?;
        return desk.over(result, None);
    }
    crash::point("before_intent", class);
    let intent = intent(desk, subject.clone(), attempt, effect, Amount::default());
    // What changes nothing may be forgotten, and is made again; what changes something must be known before it does.
    match effect {
        Some(Effect::Pure) => scope.unless_stopped(desk.record(intent)).await?,
        _ => _ = scope.unless_stopped(desk.record_durably(intent)).await?,
    }
    crash::point("after_intent", class);
    let result = perform::tool(desk, tool, arguments, scope).await;
    crash::point("after_effect", class);
    desk.over(result, None).map(|()| permit.into_iter().for_each(Permit::release))
}

fn intent(desk: &Desk, subject: Subject, attempt: u32, effect: Option<Effect>, reserved: Amount) -> Event {
    Event::CallIntended { call: desk.id.clone(), attempt, subject, effect, reserved }
}
