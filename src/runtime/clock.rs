//! The time of day, for people to read; nothing is decided by it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns milliseconds since 1970 (UTC); 0 if the machine's clock stands before that.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
