//! The gate: the one way from what an agent wants to the world. Every model call, tool call, delegation and handoff
//! of every agent passes here, in this order:
//!
//! policy → approval → permit → budget → rate → intent recorded → performed → result recorded, settled, permit
//! released, and back to the agent.
//!
//! A permit is taken before the reservation, so that no budget is held while queueing; a reservation that only others'
//! holds block gives the permit back and waits. A further try of a call passes permit, budget and rate again.

mod approval;
pub(super) mod perform;
mod permit;
mod retry;

use std::sync::Arc;

use ractor::ActorRef;

pub use approval::{Approver, Question};

use self::approval::Verdict;
use self::permit::Permit;
use super::fleet::{BoundTool, Model};
use super::run_supervisor::RunMessage;
use super::scope::{Hold, Over, Scope, record};
use crate::budget::{Account, Amount, Limit, Refusal};
use crate::model::Request;
use crate::policy;
use crate::run::{CallId, Event, Labels, Subject, ToolFailure};
use crate::spec::Effect;

/// A call before the gate.
pub(super) struct Call {
    pub(super) id: CallId,
    /// The event that it follows from.
    pub(super) cause: u64,
    /// What it was influenced by.
    pub(super) labels: Labels,
    pub(super) work: Work,
}

/// What a call is.
pub(super) enum Work {
    /// A model call.
    Model(ModelCall),
    /// A tool call, a delegation or a handoff.
    Act(Subject),
}

/// A model call, of which each try gets its own limit on output.
pub(super) struct ModelCall {
    pub(super) model: Arc<Model>,
    pub(super) name: Arc<str>,
    /// What the agent's tools and schema add to each request at most.
    pub(super) fixed_bytes: usize,
    pub(super) request: Request,
}

impl ModelCall {
    fn subject(&self) -> Subject {
        Subject::Model { model: self.name.clone(), max_output_tokens: self.request.max_output_tokens }
    }
}

/// Where a call reports: the run's supervisor, as this call sees it.
pub(super) struct Desk {
    id: CallId,
    cause: u64,
    supervisor: ActorRef<RunMessage>,
}

impl Desk {
    /// Records an event, and waits until it has its number.
    async fn record(&self, event: Event) -> Result<(), Over> {
        record(&self.supervisor, &self.id, self.cause, event).await
    }

    fn tell(&self, message: RunMessage) -> Result<(), Over> {
        self.supervisor.cast(message).map_err(|_| Over)
    }

    /// Hands in the call's result. The supervisor records it, settles what was held, and gives the permit back before
    /// the agent hears of it.
    fn over(&self, event: Event, admission: Option<(Admission, Amount)>) -> Result<(), Over> {
        self.tell(RunMessage::CallOver { agent: self.id.agent.clone(), cause: self.cause, event, admission })
    }
}

/// What is taken for one try of a model call; given back in this order when dropped.
pub(super) struct Admission {
    hold: Hold,
    permit: Permit,
}

impl Admission {
    /// Settles the reservation, then releases the permit.
    pub(super) fn settle(self, actual: Amount) {
        self.hold.settle(actual);
        drop(self.permit);
    }
}

/// Takes a call through the gate to its end, and tells the run's supervisor what became of it. Dropping the future at
/// any point stops the call and gives back what it held.
pub(super) async fn pass(call: Call, scope: Arc<Scope>, supervisor: ActorRef<RunMessage>) -> Result<(), Over> {
    let Call { id, cause, labels, work } = call;
    let desk = Desk { id, cause, supervisor };
    let subject = match &work {
        Work::Model(call) => call.subject(),
        Work::Act(subject) => subject.clone(),
    };
    let permission = policy::decide(&scope.fleet.network.spec().policy, &subject, scope.builtin(&subject));
    match approval::settle(permission, &desk, &subject, &scope).await? {
        Verdict::Granted => {}
        Verdict::Parked => return Ok(()),
        Verdict::Refused(why) => {
            return desk.over(perform::refused(&desk.id, &subject, ToolFailure::Denied, why), None);
        }
    }
    match work {
        Work::Model(call) => ask_model(call, &desk, &scope).await,
        Work::Act(subject) => act(subject, labels, &desk, &scope).await,
    }
}

async fn ask_model(mut call: ModelCall, desk: &Desk, scope: &Scope) -> Result<(), Over> {
    let mut tries = retry::Tries::new(&call.model.spec.retry, &scope.stream.run, &desk.id);
    loop {
        let admitted = admit(&call, tries.attempt(), scope).await;
        let mut admission = match admitted {
            Ok(admission) => admission,
            Err(limit) => return desk.tell(RunMessage::LimitReached { call: desk.id.clone(), limit }),
        };
        // Rates per minute are not limited yet: what holds a permit and a reservation goes on.
        call.request.attempt = tries.attempt();
        call.request.max_output_tokens = admission.hold.max_output_tokens;
        desk.record(intent(desk, call.subject(), tries.attempt(), None, admission.hold.held)).await?;
        admission.hold.intend();
        let result = perform::model(&call).await;
        let charged = perform::charge(&result, &admission.hold, &call.model.rates);
        let (error, pause) = match tries.next(result) {
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

/// Takes a permit and a reservation for one try, or says which limit forbids it for good.
async fn admit(call: &ModelCall, attempt: u32, scope: &Scope) -> Result<Admission, Limit> {
    let ModelCall { model, request, fixed_bytes, .. } = call;
    let counts = if attempt == 1 { Amount::ONE_STEP } else { Amount::default() };
    let (input, wanted) = (request.input_token_bound(*fixed_bytes), model.spec.max_output_tokens);
    loop {
        let permit = permit::take(model, &scope.fleet).await;
        let freed = scope.ledger.freed();
        let reserve =
            |account: &mut Account| account.reserve(counts, input, wanted, model.spec.min_output_tokens, &model.rates);
        match scope.ledger.reserve(counts, reserve) {
            Ok(hold) => return Ok(Admission { hold, permit }),
            Err(Refusal::Exhausted(limit)) => return Err(limit),
            Err(Refusal::Held(_)) => {
                drop(permit);
                freed.await;
            }
        }
    }
}

async fn act(subject: Subject, labels: Labels, desk: &Desk, scope: &Scope) -> Result<(), Over> {
    match &subject {
        Subject::Tool { tool, arguments } => {
            let effect = scope.tools.get(tool).map(BoundTool::effect);
            desk.record(intent(desk, subject.clone(), 1, effect, Amount::default())).await?;
            desk.over(perform::tool(desk, tool, arguments, labels, scope).await, None)
        }
        // The supervisor records the intent and the new agent's start in one go, or refuses what leads too deep.
        _ => desk.tell(RunMessage::StartAgent { call: desk.id.clone(), cause: desk.cause, subject, labels }),
    }
}

fn intent(desk: &Desk, subject: Subject, attempt: u32, effect: Option<Effect>, reserved: Amount) -> Event {
    Event::CallIntended { call: desk.id.clone(), attempt, subject, effect, reserved }
}
