//! Where calls report.

use std::sync::Arc;

use ractor::ActorRef;
use tokio::sync::oneshot;

use super::call::{Call, Work};
use super::time::Time;
use super::{Admission, Known, Pulse, Situation};
use crate::budget::Amount;
use crate::fault::{self, Bug};
use crate::policy::{Decision, Policies};
use crate::run::{CallId, Event, Labels, RunId, Subject, Wait};
use crate::runtime::funds::Intended;
use crate::runtime::run_supervisor::RunMessage;
use crate::runtime::scope::{Happened, Over, record};

/// Where a call reports: the run's supervisor, as this call sees it.
pub(super) struct Desk {
    pub(super) id: CallId,
    /// The name of the agent that asks.
    pub(super) agent: Arc<str>,
    pub(super) situation: Situation,
    pub(super) cause: u64,
    pub(super) labels: Labels,
    /// The run in which the call was begun, where that is another than its own.
    pub(super) begun_in: Option<RunId>,
    /// When it was intended first, in milliseconds since 1970; none if this is its first try.
    pub(super) first_intended_ms: Option<u64>,
    /// What is left of its step's time.
    pub(super) time: Time,
    /// Says how far the call has come.
    pub(super) pulse: Arc<Pulse>,
    pub(super) supervisor: ActorRef<RunMessage>,
}

/// A call that has come to the gate, taken apart.
pub(super) struct Begun {
    pub(super) work: Work,
    pub(super) attempt: u32,
    pub(super) approval: Known,
    pub(super) is_asked: bool,
    pub(super) desk: Desk,
}

impl Desk {
    /// Makes the desk of a call.
    pub(super) fn for_call(call: Call, supervisor: ActorRef<RunMessage>) -> Begun {
        let Call { id, agent, situation, cause, labels, work, attempt, approval, is_asked, begun_in, .. } = call;
        let (first_intended_ms, time, pulse) = (call.first_intended_ms, Time::new(call.time), call.pulse);
        let desk = Self { id, agent, situation, cause, labels, begun_in, first_intended_ms, time, pulse, supervisor };
        Begun { work, attempt, approval, is_asked, desk }
    }

    /// Records an event, and waits until it has its number.
    pub(super) async fn record(&self, event: Event) -> Result<(), Over> {
        record(&self.supervisor, self.happened(event), false).await.map(drop)
    }

    /// Records an event, and waits until it is durable; returns its number.
    pub(super) async fn record_durably(&self, event: Event) -> Result<u64, Over> {
        let durable = !fault::is_planted(Bug::IntentNotDurable);
        record(&self.supervisor, self.happened(event), durable).await
    }

    /// Records what policy said of a call as it was seen, without waiting: what follows is recorded after it. Nothing where the
    /// network has no policies.
    pub(super) fn note_decision(
        &self,
        policies: &Policies,
        decision: &Decision,
        seen: Option<&Subject>,
    ) -> Result<(), Over> {
        if !policies.has_rules() {
            return Ok(());
        }
        let Decision { permission, by, why, .. } = decision.clone();
        let (call, set) = (self.id.clone(), policies.hash().clone());
        let event = Event::PolicyDecided { call, permission, policies: by, set, why, seen: seen.cloned() };
        let (recorded, _) = oneshot::channel();
        self.tell(RunMessage::Record { happened: Box::new(self.happened(event)), durable: false, recorded })
    }

    /// Records the intent of a call that something is held for, and waits until it has its number, or is durable.
    pub(super) async fn intend(&self, event: Event, intends: Intended, is_durable: bool) -> Result<u64, Over> {
        let durable = is_durable && !fault::is_planted(Bug::IntentNotDurable);
        let happened = Happened { intends: Some(intends), ..self.happened(event) };
        record(&self.supervisor, happened, durable).await
    }

    /// Records that the call has to wait before it can be made.
    pub(super) async fn queued(&self, wait: Wait) -> Result<(), Over> {
        self.record(Event::CallQueued { call: self.id.clone(), wait, why: None }).await
    }

    /// Records that the call has to wait for a person who raises a limit, and which.
    pub(super) async fn lacks(&self, why: String) -> Result<(), Over> {
        let (call, wait) = (self.id.clone(), Wait::TopUp);
        self.record(Event::CallQueued { call, wait, why: Some(why.into()) }).await
    }

    fn happened(&self, event: Event) -> Happened {
        Happened { call: self.id.clone(), cause: self.cause, labels: self.labels.clone(), event, intends: None }
    }

    pub(super) fn tell(&self, message: RunMessage) -> Result<(), Over> {
        self.supervisor.cast(message).map_err(|_| Over)
    }

    /// Hands in the call's result. The supervisor records it, settles what was held, and gives the permit back before
    /// the agent hears of it.
    pub(super) fn over(&self, event: Event, admission: Option<(Admission, Amount)>) -> Result<(), Over> {
        self.tell(RunMessage::CallOver { happened: Box::new(self.happened(event)), admission })
    }
}
