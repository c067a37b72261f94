//! The mailboxes of agents of which only so many instances may be at work at once: who is at work, whose question waits,
//! and in which order. A question that waits holds its place in a mailbox and nothing else; all that is kept of it here
//! is its name.

mod cycle;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ractor::ActorRef;

use super::run_supervisor::RunMessage;
use crate::fault::{self, Bug};
use crate::run::{CallId, RunId};
use crate::spec::{AgentSpec, MailboxSpec, Scope, WhenFull};

/// Which mailbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// The network's name.
    pub(super) network: Arc<str>,
    /// The agent's name.
    pub(super) agent: Arc<str>,
    pub(super) whose: Whose,
}

/// Who shares a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    /// The agents of one run.
    Run(RunId),
    /// The runs of a tenant that have the same session key.
    Session(Arc<str>, Arc<str>),
    /// All runs of a tenant.
    Network(Arc<str>),
}

/// What the network says of an agent's mailbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    replicas: usize,
    pub(super) spec: MailboxSpec,
    pub(super) scope: Scope,
}

impl Terms {
    /// Reads them off an agent; none where each question gets an instance of its own.
    pub(super) fn of(agent: &AgentSpec) -> Option<Self> {
        Some(Self { replicas: agent.replicas()? as usize, spec: agent.mailbox, scope: agent.scope })
    }
}

/// A question by its name: the run, and the call that asks.
pub(super) type Name = (RunId, CallId);

/// A question on its way into a mailbox.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    pub(super) name: Name,
    /// Since when it waits, in milliseconds since 1970.
    pub(super) since_ms: u64,
    /// The questions whose answers wait for the answer to this one, with the agents that are at work on them; the one that
    /// asks first.
    pub(super) awaited_by: Vec<(Name, Arc<str>)>,
    pub(super) supervisor: ActorRef<RunMessage>,
}

/// What became of a question.
#[derive(Debug)]
pub(super) enum Entered {
    /// An instance is free for it.
    Taken,
    /// It waits; where another had to make room for it, that one's run has been told.
    Waits,
    /// There is no room, and it waits for some.
    Blocked,
    /// There is no room.
    Refused,
}

/// One agent's mailbox. There is none while nobody is at work and nothing waits.
#[derive(Debug)]
struct Mailbox {
    terms: Terms,
    /// The questions that instances are at work on.
    at_work: BTreeSet<Name>,
    /// Those that instances were at work on before their process ended, and for which there was no place in this one.
    returning: VecDeque<Ticket>,
    /// Those that wait, the next one first.
    waiting: VecDeque<Ticket>,
    /// Those that wait for room.
    blocked: VecDeque<Ticket>,
}

/// All mailboxes of a process.
#[derive(Debug, Default)]
pub(super) struct Mailboxes {
    mailboxes: Mutex<BTreeMap<Key, Mailbox>>,
}

impl Mailboxes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Mailbox>> {
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a question into a mailbox. One that was in it before its process ended goes to the place that it had.
    pub(super) fn enter(&self, key: &Key, terms: &Terms, ticket: Ticket, was_sent: bool) -> Entered {
        let mut mailboxes = self.lock();
        let mailbox = mailboxes.entry(key.clone()).or_insert_with(|| Mailbox::new(terms));
        if mailbox.at_work.contains(&ticket.name) {
            return Entered::Taken;
        }
        if mailbox.is_known(&ticket.name) {
            return Entered::Waits;
        }
        mailbox.enter(ticket, was_sent)
    }

    /// Gives an instance its place again that was at work before its process ended. Returns whether there is one: others
    /// may have come in between, and it is the next one then.
    pub(super) fn occupy(&self, key: &Key, terms: &Terms, ticket: Ticket) -> bool {
        let mut mailboxes = self.lock();
        let mailbox = mailboxes.entry(key.clone()).or_insert_with(|| Mailbox::new(terms));
        let has_place = mailbox.at_work.contains(&ticket.name) || mailbox.at_work.len() < mailbox.terms.replicas;
        match has_place {
            true => drop(mailbox.at_work.insert(ticket.name)),
            false => mailbox.returning.push_back(ticket),
        }
        has_place
    }

    /// Lets go of the questions of a run that wait. Its instances that are at work keep their places: the run is about to be
    /// taken up.
    pub(super) fn withdraw_waiting(&self, run: &RunId) {
        self.lock().retain(|_, mailbox| {
            let is_others = |ticket: &Ticket| ticket.name.0 != *run;
            mailbox.queues().into_iter().for_each(|queue| queue.retain(is_others));
            mailbox.advance();
            !mailbox.is_idle()
        });
    }

    /// Notes that a question is answered, or that nobody waits for its answer any more.
    pub(super) fn leave(&self, key: &Key, name: &Name) {
        let mut mailboxes = self.lock();
        if let Some(mailbox) = mailboxes.get_mut(key) {
            mailbox.forget(|of| of == name);
            if mailbox.is_idle() {
                mailboxes.remove(key);
            }
        }
    }

    /// Lets go of a question, in whatever mailbox it is.
    pub(super) fn forget(&self, name: &Name) {
        self.let_go(|of| of == name);
    }

    /// Lets go of all that a run has in mailboxes.
    pub(super) fn withdraw(&self, run: &RunId) {
        self.let_go(|(of, _)| of == run);
    }

    fn let_go(&self, is_it: impl Fn(&Name) -> bool) {
        self.lock().retain(|_, mailbox| {
            mailbox.forget(&is_it);
            !mailbox.is_idle()
        });
    }

    /// Whether nobody is at work on a question, and none waits.
    pub(super) fn are_idle(&self) -> bool {
        self.lock().is_empty()
    }

    /// Returns the agents of a circle in which each waits for the next one's answer, if the question closes one: it begins
    /// and ends with the agent that is asked.
    pub(super) fn wait_cycle(&self, name: &Name) -> Option<Vec<Arc<str>>> {
        cycle::find(&self.lock(), name)
    }
}

impl Mailbox {
    fn new(terms: &Terms) -> Self {
        let (returning, waiting, blocked) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self { terms: *terms, at_work: BTreeSet::new(), returning, waiting, blocked }
    }

    fn is_idle(&self) -> bool {
        self.at_work.is_empty() && self.tickets().next().is_none()
    }

    fn is_known(&self, name: &Name) -> bool {
        self.at_work.contains(name) || self.tickets().any(|ticket| ticket.name == *name)
    }

    fn tickets(&self) -> impl Iterator<Item = &Ticket> {
        self.returning.iter().chain(&self.waiting).chain(&self.blocked)
    }

    fn queues(&mut self) -> [&mut VecDeque<Ticket>; 3] {
        [&mut self.returning, &mut self.waiting, &mut self.blocked]
    }

    fn enter(&mut self, ticket: Ticket, was_sent: bool) -> Entered {
        let replicas = self.terms.replicas + usize::from(fault::is_planted(Bug::TakenByTwo));
        if self.at_work.len() < replicas && self.waiting.is_empty() && self.returning.is_empty() {
            self.at_work.insert(ticket.name);
            return Entered::Taken;
        }
        if was_sent || self.waiting.len() < self.terms.spec.capacity as usize {
            self.wait(ticket);
            return Entered::Waits;
        }
        match self.terms.spec.when_full {
            WhenFull::Spill => self.wait(ticket),
            WhenFull::Reject => return Entered::Refused,
            WhenFull::Block => {
                self.blocked.push_back(ticket);
                return Entered::Blocked;
            }
            WhenFull::DropOldest => {
                let dropped = self.waiting.pop_front();
                dropped.into_iter().for_each(|dropped| dropped.tell(|call| RunMessage::Dropped { call }));
                self.wait(ticket);
            }
        }
        Entered::Waits
    }

    /// Puts a question behind those that wait for longer.
    fn wait(&mut self, ticket: Ticket) {
        let place = self.waiting.iter().rposition(|earlier| earlier.since_ms <= ticket.since_ms);
        let place = place.filter(|_| !fault::is_planted(Bug::TakenOutOfTurn));
        self.waiting.insert(place.map_or(0, |place| place + 1), ticket);
    }

    fn forget(&mut self, is_it: impl Fn(&Name) -> bool) {
        self.at_work.retain(|name| !is_it(name));
        self.queues().into_iter().for_each(|queue| queue.retain(|ticket| !is_it(&ticket.name)));
        self.advance();
    }

    /// Gives instances that are free to those whose turn it is, and room to those that wait for some.
    fn advance(&mut self) {
        while self.at_work.len() < self.terms.replicas {
            let Some(next) = self.returning.pop_front().or_else(|| self.waiting.pop_front()) else { break };
            self.at_work.insert(next.name.clone());
            next.tell(|call| RunMessage::Turn { call });
        }
        while self.waiting.len() < self.terms.spec.capacity as usize {
            let Some(next) = self.blocked.pop_front() else { break };
            next.tell(|call| RunMessage::Room { call });
            if self.at_work.len() < self.terms.replicas {
                self.at_work.insert(next.name.clone());
                next.tell(|call| RunMessage::Turn { call });
            } else {
                self.waiting.push_back(next);
            }
        }
    }
}

impl Ticket {
    /// Tells the run. One that is gone has let go of all that it had here, or is about to.
    fn tell(&self, message: impl FnOnce(CallId) -> RunMessage) {
        let _ = self.supervisor.cast(message(self.name.1.clone()));
    }
}
