//! Permits: how many model calls may be under way at once, for one model and over the whole network.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::runtime::fleet::{Fleet, Model};

/// Room for one call; given back on drop.
pub(in crate::runtime) struct Permit {
    _model: Option<OwnedSemaphorePermit>,
    _fleet: Option<OwnedSemaphorePermit>,
}

/// Waits for room, first come first served. The model's comes first: who waits for a narrow model keeps no other
/// model's call waiting.
pub(super) async fn take(model: &Model, fleet: &Fleet) -> Permit {
    let _model = one(model.permits.as_ref()).await;
    let _fleet = one(fleet.model_calls.as_ref()).await;
    Permit { _model, _fleet }
}

async fn one(permits: Option<&Arc<Semaphore>>) -> Option<OwnedSemaphorePermit> {
    // A semaphore of ours is never closed, so this is none only where there is no bound.
    permits?.clone().acquire_owned().await.ok()
}
