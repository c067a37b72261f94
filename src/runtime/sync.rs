//! What accounts are locked and waited for with. The purse names these alone, so that a model checker can stand in for them.

pub(super) use std::sync::{Mutex, MutexGuard};

use std::sync::PoisonError;

pub(super) use tokio::sync::Notify;
pub(super) use tokio::sync::futures::Notified;

/// Locks; what somebody did who panicked meanwhile is whole, since nothing in between can panic.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
