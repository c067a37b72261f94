//! The shell around an agent's state: it takes mail, folds it and says what the agent wants. It waits for nothing.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::OwnedSemaphorePermit;

use super::run_supervisor::RunMessage;
use crate::fault;
use crate::run::{self, AgentId, AgentState, Definition, Envelope};

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
}

pub(super) struct AgentActor;

impl Actor for AgentActor {
    type Msg = Mail;
    type State = Incarnation;
    type Arguments = Seed;

    async fn pre_start(&self, _: ActorRef<Mail>, seed: Seed) -> Result<Incarnation, ActorProcessingErr> {
        Ok(Incarnation { state: seed.state.clone(), seed })
    }

    async fn post_start(&self, _: ActorRef<Mail>, me: &mut Incarnation) -> Result<(), ActorProcessingErr> {
        for envelope in std::mem::take(&mut me.seed.history) {
            me.state.evolve(&envelope);
        }
        if me.seed.take_up {
            let _ = me.seed.supervisor.cast(RunMessage::TakenUp {
                agent: me.seed.id.clone(),
                incarnation: me.seed.incarnation,
                effects: run::take_up(&me.seed.definition, &me.state),
                labels: me.state.labels().clone(),
            });
        }
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Mail>, mail: Mail, me: &mut Incarnation) -> Result<(), ActorProcessingErr> {
        let envelope = &mail.envelope;
        me.state.evolve(envelope);
        fault::panics("agent.decide");
        let effects = run::decide(&me.seed.definition, &me.state, &envelope.event);
        // The supervisor outlives its agents; if it is gone, so is this incarnation.
        let _ = me.seed.supervisor.cast(RunMessage::Decided {
            agent: me.seed.id.clone(),
            incarnation: me.seed.incarnation,
            upto: envelope.seq,
            effects,
            labels: me.state.labels().clone(),
        });
        Ok(())
    }
}
