//! Permits and rates: how many may be under way at once, how often, and who is next.
//!
//! Every width (of a model's provider, a tool, a network, a run, an agent, and of runs at once) is a [`Turnstile`], and all
//! of a process stand under one lock, so that one call passes several of them in one step. An uncontended pass takes it
//! twice and allocates nothing. Nothing polls: who comes out lets in who is next, and only those are woken who are let in.
//! Where time has to pass first, one timer a turnstile is set. See ADR 18.

mod core;
mod fair;
mod pace;
mod queue;
mod throttle;
mod widths;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

pub(super) use self::fair::Who;
pub use self::queue::{InLine, Queue, QueueFor, QueueKind};
pub(super) use self::throttle::{Outcome, Terms};
pub(super) use self::widths::{Lane, Widths};

use self::core::{Core, Gate, Grant, Way};
use self::throttle::Throttle;
use crate::fault::{self, Bug};
use crate::model::Identity;
use crate::spec::QueueSpec;

/// The turnstiles of a process.
#[derive(Default)]
pub(super) struct Traffic {
    core: Mutex<Core<oneshot::Sender<Permit>>>,
    /// The turnstiles of providers that several networks may call.
    shared: Mutex<HashMap<Identity, Weak<Turnstile>>>,
}

/// A bounded width with a fair queue before it. What is in when it is dropped comes out all the same.
pub(super) struct Turnstile {
    traffic: Arc<Traffic>,
    gate: Gate,
}

impl Drop for Turnstile {
    fn drop(&mut self) {
        self.traffic.with(|core| core.retire(self.gate));
    }
}

/// Why one that wanted in was not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoTurn {
    /// There is no place in the queue.
    #[error("{capacity} wait for {what} already, and no more may (`queue.capacity` under [network.fleet])")]
    Full { what: String, capacity: u32 },
    /// It waited for too long.
    #[error("it waited for its turn for {waited:?}, and no longer may (`queue.timeout` under [network.fleet])")]
    TooLong { waited: Duration },
    /// Its step may take no longer.
    #[error("it had no turn in the time that its step may take (`step_timeout` of the agent)")]
    StepOver,
}

/// The way through several turnstiles.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Through(Way);

impl Through {
    /// Makes the way through those that there are, which must be in the one order: a model's or a tool's, the network's,
    /// the run's, the agent's.
    pub(super) fn new(turnstiles: [Option<&Turnstile>; core::MOST]) -> Self {
        Self(turnstiles.map(|turnstile| turnstile.map(|turnstile| turnstile.gate)))
    }
}

impl Traffic {
    /// Makes a turnstile of a width; none for no bound.
    pub(super) fn turnstile(self: &Arc<Self>, what: QueueFor, width: Option<u32>) -> Option<Turnstile> {
        let width = Some(width?);
        let gate = self.with(|core| core.open(what, width, None));
        Some(Turnstile { traffic: self.clone(), gate })
    }

    /// Makes the turnstile of a model's provider, or returns the one there is for the same provider, key and model. What
    /// networks say of it holds for all of them: of two limits the lower one.
    pub(super) fn provider(self: &Arc<Self>, name: &str, identity: Option<Identity>, terms: &Terms) -> Arc<Turnstile> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let known = identity.as_ref().and_then(|identity| shared.get(identity)?.upgrade());
        if let Some(turnstile) = known {
            self.with(|core| core.tighten(turnstile.gate, terms));
            return turnstile;
        }
        let what = QueueFor::model(name, terms.provider.clone());
        let gate = self.with(|core| core.open(what, terms.in_flight, Some(Throttle::new(terms))));
        let turnstile = Arc::new(Turnstile { traffic: self.clone(), gate });
        if let Some(identity) = identity {
            shared.retain(|_, turnstile| turnstile.strong_count() > 0);
            shared.insert(identity, Arc::downgrade(&turnstile));
        }
        turnstile
    }

    /// Passes where there is room everywhere and nobody waits for it.
    pub(super) fn try_pass(self: &Arc<Self>, through: Through, tokens: u64) -> Option<Permit> {
        let grant = self.with(|core| core.pass(through.0, tokens, Instant::now())).ok()?;
        Some(Permit { traffic: self.clone(), grant: Some(grant), is_sent: false })
    }

    /// Passes at once, whether there is room or not. Those who come after it wait until there is.
    pub(super) fn enter(self: &Arc<Self>, through: Through) -> Permit {
        let grant = self.with(|core| core.enter(through.0, Instant::now()));
        Permit { traffic: self.clone(), grant: Some(grant), is_sent: false }
    }

    /// Waits until it may pass. Dropping the future takes it out of the queue, and gives back what it was granted in the
    /// same moment.
    ///
    /// # Errors
    /// The queue is full, or it waited for too long.
    pub(super) async fn pass(
        self: &Arc<Self>,
        through: Through,
        tokens: u64,
        who: Who,
        bounds: Option<&QueueSpec>,
    ) -> Result<Permit, NoTurn> {
        let (tell, told) = oneshot::channel();
        let entered = self.with(|core| {
            let now = Instant::now();
            let at = match core.pass(through.0, tokens, now) {
                Ok(grant) => return Ok(Err(grant)),
                Err(gate) => gate,
            };
            let turns = core.at(at);
            if let Some(bounds) = bounds
                && turns.waiting() >= bounds.capacity as usize
            {
                return Err(NoTurn::Full { what: turns.what.to_string(), capacity: bounds.capacity });
            }
            Ok(Ok(core.wait(at, through.0, tokens, who, tell, now)))
        });
        let number = match entered? {
            Ok(number) => number,
            Err(grant) => return Ok(Permit { traffic: self.clone(), grant: Some(grant), is_sent: false }),
        };
        let place = Place { traffic: self, number };
        let permit = match bounds {
            None => told.await.ok(),
            Some(bounds) => {
                let waited = bounds.timeout.0;
                tokio::time::timeout(waited, told).await.map_err(|_| NoTurn::TooLong { waited })?.ok()
            }
        };
        drop(place);
        // Who waits is told before it is forgotten.
        permit.ok_or(NoTurn::TooLong { waited: Duration::ZERO })
    }

    /// Returns the queues in which somebody waits, and those that are closed.
    pub(super) fn queues(self: &Arc<Self>) -> Vec<Queue> {
        let now = Instant::now();
        self.with(|core| {
            let queue = |(turns, waiters): (&core::Turns, Vec<&core::Waiter<_>>)| {
                let mut who = BTreeMap::new();
                for waiter in &waiters {
                    let Who { tenant, run, priority, .. } = &waiter.who;
                    let one = || InLine { tenant: tenant.clone(), run: run.clone(), priority: *priority, calls: 0 };
                    who.entry((tenant, run)).or_insert_with(one).calls += 1;
                }
                Queue {
                    what: turns.what.clone(),
                    width: turns.width(),
                    in_flight: turns.in_flight,
                    waiting: waiters.len(),
                    who: who.into_values().collect(),
                    longest: waiters.iter().map(|waiter| now - waiter.since).max().unwrap_or_default(),
                    closed_for: turns.closed_until(now).map(|until| until - now),
                }
            };
            core.queues(now).map(queue).collect()
        })
    }

    /// Does something with the turnstiles, and then what follows from it: who was let in is told, and timers are set.
    fn with<R>(self: &Arc<Self>, work: impl FnOnce(&mut Core<oneshot::Sender<Permit>>) -> R) -> R {
        let (done, granted, alarms) = {
            let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
            let done = work(&mut core);
            (done, std::mem::take(&mut core.granted), std::mem::take(&mut core.alarms))
        };
        for (tell, grant) in granted {
            // Who is not there any more drops what it is told, and so gives it back.
            let _ = tell.send(Permit { traffic: self.clone(), grant: Some(grant), is_sent: false });
        }
        for (gate, opens) in alarms {
            self.set_timer(gate, opens);
        }
        done
    }

    fn set_timer(self: &Arc<Self>, gate: Gate, opens: Instant) {
        // Outside of tokio nobody waits.
        let Ok(tokio) = tokio::runtime::Handle::try_current() else { return };
        let traffic = Arc::downgrade(self);
        tokio.spawn(async move {
            tokio::time::sleep_until(opens).await;
            if let Some(traffic) = traffic.upgrade() {
                traffic.with(|core| core.ring(gate, Instant::now()));
            }
        });
    }
}

impl Turnstile {
    /// Notes that a call is made for the first time.
    pub(super) fn first_try(&self) {
        self.traffic.with(|core| core.throttle(self.gate, Throttle::earn_retry));
    }

    /// Whether a failed call may be tried again; if so, that counts.
    pub(super) fn may_retry(&self) -> bool {
        let now = Instant::now();
        self.traffic.with(|core| core.throttle(self.gate, |throttle| throttle.may_retry(now))).unwrap_or(true)
    }

    /// Whether its breaker keeps calls away.
    pub(super) fn is_broken(&self) -> bool {
        let now = Instant::now();
        self.traffic.with(|core| {
            let since = core.at(self.gate).since;
            core.throttle(self.gate, |throttle| throttle.is_broken(since, now)).unwrap_or(false)
        })
    }

    /// Returns for how long it is closed yet, if it is.
    pub(super) fn closed_for(&self) -> Option<Duration> {
        let now = Instant::now();
        let until = self.traffic.with(|core| core.throttle(self.gate, |throttle| throttle.closed_until(now)));
        until.flatten().map(|until| until.duration_since(now))
    }

    /// Returns how many wait.
    pub(super) fn waiting(&self) -> usize {
        self.traffic.with(|core| core.at(self.gate).waiting())
    }
}

/// A place in a queue; given up when dropped.
struct Place<'a> {
    traffic: &'a Arc<Traffic>,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.traffic.with(|core| core.leave(self.number, Instant::now()));
    }
}

/// Room for one call at all turnstiles that it passes; given back on drop.
pub(super) struct Permit {
    traffic: Arc<Traffic>,
    grant: Option<Grant>,
    is_sent: bool,
}

impl Permit {
    /// The call is made from here on, and counts in what may be made in a minute. One that is not made gives that back.
    pub(super) fn sent(&mut self) {
        self.is_sent = true;
    }

    /// Tells what the call came to, so that the next are let in accordingly.
    pub(super) fn learn(&self, outcome: Outcome) {
        if let Some(grant) = &self.grant {
            self.traffic.with(|core| core.learn(grant, outcome, Instant::now()));
        }
    }

    /// Whether the call may still be made: whether its provider has not closed since it was let in.
    pub(super) fn is_current(&self) -> bool {
        self.grant.is_none_or(|grant| self.traffic.with(|core| core.is_current(&grant, Instant::now())))
    }

    /// Says how many tokens the call had.
    pub(super) fn used(&self, tokens: u64) {
        if let Some(Grant { way: [Some(gate), ..], tokens: taken, .. }) = self.grant {
            self.traffic.with(|core| core.throttle(gate, |throttle| throttle.correct(taken, tokens)));
        }
    }

    /// Gives the room back.
    pub(super) fn release(mut self) {
        self.give_back();
    }

    /// Gives the room back, and has none from then on.
    pub(super) fn give_back(&mut self) {
        if let Some(grant) = self.grant.take() {
            self.traffic.with(|core| core.release(&grant, self.is_sent, Instant::now()));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !fault::is_planted(Bug::PermitLostOnCancel) {
            self.give_back();
        }
    }
}

#[cfg(test)]
mod tests;
