//! How much of its step's time a call has left.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

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
