//! Where an agent's mailbox is. Agents are named, never held: an incarnation may be replaced behind its name.

use std::sync::Arc;

use dashmap::DashMap;
use ractor::ActorRef;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::agent_actor::Mail;
use crate::run::{AgentId, Envelope, RunId};

/// How many messages a mailbox holds. An agent's mail is the results of its own calls, of which one step makes at
/// most this many; what does not fit stays with the run's supervisor.
pub(super) const MAILBOX_CAPACITY: usize = crate::run::MAX_CALLS_PER_STEP;

/// An agent instance's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address {
    pub(super) run: RunId,
    pub(super) agent: AgentId,
}

/// A bounded mailbox. The bound is a permit in each envelope, which comes home when the message is handled, and when
/// a dead actor's backlog is thrown away.
#[derive(Clone, Debug)]
pub(super) struct Mailbox {
    actor: ActorRef<Mail>,
    room: Arc<Semaphore>,
}

impl Mailbox {
    pub(super) fn new(actor: ActorRef<Mail>) -> Self {
        Self { actor, room: Arc::new(Semaphore::new(MAILBOX_CAPACITY)) }
    }

    fn room(&self) -> Option<OwnedSemaphorePermit> {
        self.room.clone().try_acquire_owned().ok()
    }
}

/// The table from addresses to mailboxes.
#[derive(Debug, Default)]
pub(super) struct Router {
    mailboxes: DashMap<Address, Mailbox>,
}

impl Router {
    /// Enters a new instance, or the new incarnation of one.
    pub(super) fn enter(&self, address: Address, mailbox: Mailbox) {
        self.mailboxes.insert(address, mailbox);
    }

    /// Strikes an instance out.
    pub(super) fn strike(&self, address: &Address) {
        self.mailboxes.remove(address);
    }

    /// Sends if the mailbox has room. Whether the message is handled is another matter: the receiver says so itself.
    pub(super) fn try_send(&self, address: &Address, envelope: &Arc<Envelope>) -> bool {
        let Some(mailbox) = self.mailboxes.get(address) else { return false };
        let Some(room) = mailbox.room() else { return false };
        mailbox.actor.cast(Mail { envelope: envelope.clone(), _room: room }).is_ok()
    }

    /// Returns an instance's actor, to be done harm to.
    #[cfg(test)]
    pub(super) fn actor(&self, agent: &str) -> Option<ActorRef<Mail>> {
        let found = self.mailboxes.iter().find(|entry| entry.key().agent.as_str() == agent)?;
        Some(found.value().actor.clone())
    }

    /// Returns how many instances are entered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.mailboxes.len()
    }

    /// Strikes out what a run left behind whose supervisor failed. A run that ended has struck out its own.
    pub(super) fn strike_run(&self, run: &RunId) {
        self.mailboxes.retain(|address, _| &address.run != run);
    }
}
