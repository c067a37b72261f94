//! The shell around an agent's state: it takes mail, folds it and says what the agent wants. It waits for nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::OwnedSemaphorePermit;

use super::gate::words;
use super::run_supervisor::RunMessage;
use crate::fault;
use crate::run::{self, AgentId, AgentState, Definition, Effect, Envelope};

/// A message to an agent: something that happened, numbered already.
#[derive(Debug)]
pub(super) struct Mail {
    pub(super) envelope: Arc<Envelope>,
    /// Room in the mailbox; given back when the message is dropped.
    pub(super) _room: OwnedSemaphorePermit,
}

/// What an incarnation starts with.
pub(super) struct Seed {
    pub(super) id: AgentId,
    pub(super) incarnation: u32,
    pub(super) definition: Arc<Definition>,
    /// The state from which it goes on.
    pub(super) state: AgentState,
    /// The instance's events since, as far as an earlier incarnation has dealt with them.
    pub(super) history: Vec<Arc<Envelope>>,
    /// Whether it is to say, having folded them, what it wants.
    pub(super) take_up: bool,
    pub(super) supervisor: ActorRef<RunMessage>,
}

/// One incarnation.
pub(super) struct Incarnation {
    seed: Seed,
    state: AgentState,
    /// Whether it has failed: it touches nothing more, and waits to be stopped.
    has_failed: bool,
}

pub(super) struct AgentActor;

impl Actor for AgentActor {
    type Msg = Mail;
    type State = Incarnation;
    type Arguments = Seed;

    async fn pre_start(&self, _: ActorRef<Mail>, mut seed: Seed) -> Result<Incarnation, ActorProcessingErr> {
        let state = std::mem::replace(&mut seed.state, AgentState::new(seed.id.clone()));
        Ok(Incarnation { state, seed, has_failed: false })
    }

    async fn post_start(&self, _: ActorRef<Mail>, me: &mut Incarnation) -> Result<(), ActorProcessingErr> {
        let history = std::mem::take(&mut me.seed.history);
        let taken_up = me.guard(None, |me| {
            history.iter().for_each(|envelope| me.state.evolve(envelope));
            me.seed.take_up.then(|| run::take_up(&me.seed.definition, &me.state))
        });
        if let Some(Some(effects)) = taken_up {
            let (agent, incarnation) = (me.seed.id.clone(), me.seed.incarnation);
            let labels = me.state.labels().clone();
            let _ = me.seed.supervisor.cast(RunMessage::TakenUp { agent, incarnation, effects, labels });
        }
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Mail>, mail: Mail, me: &mut Incarnation) -> Result<(), ActorProcessingErr> {
        let upto = mail.envelope.seq;
        if let Some(effects) = me.guard(Some(upto), |me| me.take(&mail.envelope)) {
            let (agent, incarnation) = (me.seed.id.clone(), me.seed.incarnation);
            let labels = me.state.labels().clone();
            // The supervisor outlives its agents; if it is gone, so is this incarnation.
            let _ = me.seed.supervisor.cast(RunMessage::Decided { agent, incarnation, upto, effects, labels });
        }
        Ok(())
    }
}

impl Incarnation {
    fn take(&mut self, envelope: &Envelope) -> Vec<Effect> {
        self.state.evolve(envelope);
        fault::panics("agent.decide", || {
            let (run, event) = (&envelope.stream.run, &envelope.event);
            let call = event.call().map(ToString::to_string).unwrap_or_default();
            format!("{run} {} {} {} {call}", self.seed.id, envelope.seq, event.kind())
        });
        run::decide(&self.seed.definition, &self.state, &envelope.event)
    }

    /// Does what may panic. The supervisor is told of a panic in its turn, after all that the incarnation has said before:
    /// so it knows which event it was.
    fn guard<T>(&mut self, at: Option<u64>, work: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.has_failed {
            return None;
        }
        match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(done) => Some(done),
            Err(panic) => {
                self.has_failed = true;
                let (agent, incarnation) = (self.seed.id.clone(), self.seed.incarnation);
                let reason = words(&*panic).to_owned();
                let _ = self.seed.supervisor.cast(RunMessage::Panicked { agent, incarnation, at, reason });
                None
            }
        }
    }
}
