//! Where calls report.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ractor::ActorRef;
use tokio::time::Instant;

use super::{Admission, Pulse};
use crate::budget::Amount;
use crate::fault::{self, Bug};
use crate::run::{CallId, Event, Labels, RunId, Wait};
use crate::runtime::funds::Intended;
use crate::runtime::run_supervisor::RunMessage;
use crate::runtime::scope::{Happened, Over, record};

/// What a call may take of its step's time, from when it begins to be made. What waits for a person does not count.
pub(super) struct Time {
    limit: Option<Duration>,
    ends: OnceLock<Mutex<Instant>>,
}

impl Time {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { limit, ends: OnceLock::new() }
    }

    /// It runs from now on, if it does not yet.
    pub(super) fn begin(&self) {
        if let Some(limit) = self.limit {
            let now = Instant::now();
            self.ends.get_or_init(|| Mutex::new(now.checked_add(limit).unwrap_or(now)));
        }
    }

    fn ends(&self) -> Option<MutexGuard<'_, Instant>> {
        Some(self.ends.get()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns how much is left; none where there is no bound.
    pub(super) fn left(&self) -> Option<Duration> {
        Some(self.ends()?.saturating_duration_since(Instant::now()))
    }

    pub(super) fn is_over(&self) -> bool {
        self.left() == Some(Duration::ZERO)
    }

    /// Returns the shorter one of a time and what is left.
    pub(super) fn at_most(&self, other: Option<Duration>) -> Option<Duration> {
        other.into_iter().chain(self.left()).min()
    }

    /// Waits for a person, which takes nothing of it.
    pub(super) async fn rest(&self, waits: impl Future<Output = ()>) {
        let since = Instant::now();
        waits.await;
        if let Some(mut ends) = self.ends() {
            *ends += since.elapsed();
        }
    }

    /// Waits, but not beyond it. None where it was over first.
    pub(super) async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match self.left() {
            None => Some(work.await),
            Some(left) => tokio::time::timeout(left, work).await.ok(),
        }
    }
}

/// Where a call reports: the run's supervisor, as this call sees it.
pub(super) struct Desk {
    pub(super) id: CallId,
    /// The name of the agent that asks.
    pub(super) agent: Arc<str>,
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

impl Desk {
    /// Records an event, and waits until it has its number.
    pub(super) async fn record(&self, event: Event) -> Result<(), Over> {
        record(&self.supervisor, self.happened(event), false).await.map(drop)
    }

    /// Records an event, and waits until it is durable; returns its number.
    pub(super) async fn record_durably(&self, event: Event) -> Result<u64, Over> {
        let durable = !fault::is_planted(Bug::IntentNotDurable);
        record(&self.supervisor, self.happened(event), durable).await
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
