//! How far a call has come, for who watches over it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When a call was last seen to make progress. One that waits for its turn, for a person or for another agent is not
/// expected to make any.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Pulse(Mutex<Option<Beat>>);

#[derive(Clone, Copy, Debug)]
struct Beat {
    last: Instant,
    /// How long it may take to the next.
    limit: Duration,
}

/// A call that makes no progress.
#[derive(Clone, Copy, Debug)]
pub(in crate::runtime) struct Overdue {
    /// For how long there has been no progress.
    pub(in crate::runtime) silent: Duration,
    /// For how long there may be none.
    pub(in crate::runtime) limit: Duration,
}

impl Pulse {
    /// Begins to expect progress, each time within `limit`, until what is returned is dropped.
    pub(super) fn begin(&self, limit: Duration) -> Beating<'_> {
        *self.lock() = Some(Beat { last: Instant::now(), limit });
        Beating(self)
    }

    /// Notes progress.
    pub(super) fn beat(&self) {
        if let Some(beat) = &mut *self.lock() {
            beat.last = Instant::now();
        }
    }

    /// Says whether progress has been due for longer than `grace`.
    pub(in crate::runtime) fn overdue(&self, grace: Duration) -> Option<Overdue> {
        let Beat { last, limit } = (*self.lock())?;
        let silent = last.elapsed();
        (silent > limit.saturating_add(grace)).then_some(Overdue { silent, limit })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Beat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call is expected to make progress while this is there.
pub(super) struct Beating<'a>(&'a Pulse);

impl Drop for Beating<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}
