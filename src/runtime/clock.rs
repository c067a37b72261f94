//! The time of day, for people to read. By it is decided for how long a run has been under way, which day and month budgets
//! are in, and for how long they keep what no provider confirmed.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Where the time of day comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Clock {
    /// The machine.
    Machine,
    /// Tokio's clock, which a simulation pauses: it stood at `then_ms` at some instant.
    Simulated { then_ms: u64, then: Instant },
}

impl Clock {
    /// Returns milliseconds since 1970 (UTC); 0 if the machine's clock stands before that.
    pub(super) fn now_ms(self) -> u64 {
        match self {
            Self::Machine => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
            Self::Simulated { then_ms, then } => then_ms + then.elapsed().as_millis() as u64,
        }
    }
}
