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

mod admission;
mod approval;
mod binding;
mod call;
mod crash;
mod desk;
pub(super) mod perform;
mod permit;
mod person;
mod pulse;
mod reconcile;
mod retry;
mod tell;
mod time;

use std::sync::Arc;

use ractor::ActorRef;

pub(super) use admission::Admission;
pub(super) use approval::Known;
pub use approval::{Approver, Question};
pub(super) use call::{Call, ModelCall, Others, Situation, Work};
pub use person::Inquired;

use self::admission::NotAdmitted;
use self::approval::{Pass, Passed, Verdict};
use self::desk::{Begun, Desk};
pub(super) use self::perform::words;
use self::permit::Barred;
pub(super) use self::pulse::Pulse;
use super::run_supervisor::RunMessage;
use super::scope::{Over, Scope};
use super::traffic::Permit;
use crate::budget::Amount;
use crate::fault::{self, Bug};
use crate::run::{Event, Subject, ToolFailure, refused};
use crate::spec::{Builtin, Effect};

/// Takes a call through the gate to its end, and tells the run's supervisor what became of it. Dropping the future at
/// any point stops the call and gives back what it held.
pub(super) async fn pass(call: Call, scope: Arc<Scope>, supervisor: ActorRef<RunMessage>) -> Result<(), Over> {
    let Begun { mut work, mut attempt, approval: mut known, is_asked, desk } = Desk::for_call(call, supervisor);
    let mut subject = match &work {
        Work::Model(call) => call.subject(),
        Work::Act(subject) => subject.clone(),
        Work::Reconcile { by, subject } => reconcile::question(&desk, by, subject, &scope),
    };
    if let Work::Reconcile { by, .. } = work {
        return Box::pin(reconcile::ask(by, &subject, &desk, &scope)).await;
    }
    loop {
        // Each way is boxed: a call that waits takes no more room than the way that it is on.
        let verdict = match approval::at_once(&known, &work, &subject, &desk, &scope).await? {
            Some(verdict) => verdict,
            None => scope.unless_stopped(Box::pin(approval::settle(known, &work, &mut subject, &desk, &scope))).await?,
        };
        let pass = match verdict {
            Verdict::Granted(pass) => pass,
            Verdict::Refused(why) => {
                return desk.over(refused(&desk.id, &subject, ToolFailure::Denied, why), None);
            }
        };
        let passed = match &mut work {
            Work::Model(call) => {
                scope.unless_stopped(Box::pin(ask_model(call, &mut attempt, &pass, &desk, &scope))).await?
            }
            _ if scope.builtin(&subject) == Some(Builtin::PersonAsk) => {
                scope.unless_stopped(Box::pin(person::ask(&subject, is_asked, &pass, &desk, &scope))).await?
            }
            _ => Box::pin(act(&subject, attempt, &pass, &desk, &scope)).await?,
        };
        // What let it through held no more when its turn came: it is asked for anew.
        let Passed::Lapsed(lapsed) = passed else { return Ok(()) };
        known = lapsed;
        if let Work::Model(call) = &work {
            subject = call.subject();
        }
    }
}

async fn ask_model(
    call: &mut ModelCall,
    attempt: &mut u32,
    pass: &Pass,
    desk: &Desk,
    scope: &Scope,
) -> Result<Passed, Over> {
    let mut tries = retry::Tries::new(&call.model.spec.retry, &scope.stream.run, &desk.id, *attempt);
    let allowed = call.name.clone();
    loop {
        // Another model is another matter.
        if call.name != allowed {
            *attempt = tries.attempt();
            return Ok(Passed::Lapsed(Known::Nothing));
        }
        permit::may_begin(desk, scope).await?;
        desk.time.begin();
        if let Some(why) = permit::way_round(call)
            && tries.go_round(&why, call, desk).await?
        {
            continue;
        }
        let mut admission = match admission::admit(call, call.wanted, tries.attempt(), desk, scope).await? {
            Ok(admission) => admission,
            Err(Barred::Limit(reached)) if tries.go_cheaper(&reached, call, desk).await? => continue,
            Err(Barred::NoTurn(why)) if tries.go_round(&why.to_string(), call, desk).await? => continue,
            Err(barred) => return permit::barred(barred, desk).map(|()| Passed::Through),
        };
        if scope.pause.is_set() {
            // It was paused while the call waited for its turn; all that was taken is given back.
            continue;
        }
        if !pass.holds(&call.subject(), desk, scope).await {
            *attempt = tries.attempt();
            return Ok(Passed::Lapsed(pass.known()));
        }
        call.request.attempt = tries.attempt();
        call.request.max_output_tokens = admission.hold.max_output_tokens;
        crash::point("before_intent", "model");
        let (held, intends) = (admission.hold.held, admission.hold.intended());
        let intent = intent(desk, call.subject(), tries.attempt(), None, held);
        let intended = desk.intend(intent, intends, true).await?;
        crash::point("after_intent", "model");
        let result = permit::ask(&mut admission, call, intended, desk, scope).await;
        crash::point("after_effect", "model");
        let charged = perform::charge(&result, &admission.hold, &call.model.rates);
        let again = match tries.next(result, call, &desk.time) {
            Err(again) => again,
            Ok(result) => {
                let event = perform::model_event(desk, call, result, charged);
                return desk.over(event, Some((admission, charged))).map(|()| Passed::Through);
            }
        };
        let pause = again.pause;
        again.record(&tries, charged, desk).await?;
        admission.settle(charged);
        tries.pause(pause).await;
    }
}

async fn act(subject: &Subject, attempt: u32, pass: &Pass, desk: &Desk, scope: &Scope) -> Result<Passed, Over> {
    permit::may_begin(desk, scope).await?;
    desk.time.begin();
    let Subject::Tool { tool, arguments } = subject else {
        if !pass.holds(subject, desk, scope).await {
            return Ok(Passed::Lapsed(pass.known()));
        }
        // The supervisor records the intent and the new agent's start in one go, or refuses what leads too deep.
        let (call, cause, labels, subject) = (desk.id.clone(), desk.cause, desk.labels.clone(), subject.clone());
        return desk.tell(RunMessage::StartAgent { call, cause, subject, labels }).map(|()| Passed::Through);
    };
    let effect = scope.effect(subject);
    let class = effect.map_or("", Effect::word);
    if fault::is_planted(Bug::EffectBeforeIntent) {
        let result = perform::tool(desk, tool, arguments, pass.is_edited, scope).await;
        desk.record(intent(desk, subject.clone(), attempt, effect, Amount::default())).await?;
        return desk.over(result, None).map(|()| Passed::Through);
    }
    let (permit, hold) = match scope.unless_stopped(admission::admit_tool(tool, attempt, desk, scope)).await? {
        Ok(admitted) => admitted,
        Err(NotAdmitted::Refused(refused)) => return desk.over(*refused, None).map(|()| Passed::Through),
        Err(NotAdmitted::Limit(reached)) => {
            let reached = RunMessage::LimitReached { call: desk.id.clone(), reached };
            return desk.tell(reached).map(|()| Passed::Through);
        }
    };
    if !pass.holds(subject, desk, scope).await {
        return Ok(Passed::Lapsed(pass.known()));
    }
    crash::point("before_intent", class);
    let intent = intent(desk, subject.clone(), attempt, effect, hold.held);
    // What changes nothing may be forgotten, and is made again; what changes something must be known before it does.
    let is_durable = effect != Some(Effect::Pure);
    scope.unless_stopped(desk.intend(intent, hold.intended(), is_durable)).await?;
    // It counts as soon as it is intended, whatever becomes of it.
    drop(hold);
    crash::point("after_intent", class);
    let result = perform::tool(desk, tool, arguments, pass.is_edited, scope).await;
    crash::point("after_effect", class);
    desk.over(result, None)?;
    permit.into_iter().for_each(Permit::release);
    Ok(Passed::Through)
}

fn intent(desk: &Desk, subject: Subject, attempt: u32, effect: Option<Effect>, reserved: Amount) -> Event {
    Event::CallIntended { call: desk.id.clone(), attempt, subject, effect, reserved }
}
