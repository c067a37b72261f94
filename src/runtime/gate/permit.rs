//! Permits: how many model calls may be under way at once, for one model and over the whole network.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fault::{self, Bug};
use crate::runtime::fleet::{Fleet, Model};

/// Room for one call; given back on drop.
pub(in crate::runtime) struct Permit {
    rooms: [Option<OwnedSemaphorePermit>; 2],
}

impl Permit {
    /// Gives the room back.
    pub(super) fn release(mut self) {
        self.rooms = [None, None];
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if fault::is_planted(Bug::PermitLostOnCancel) {
            self.rooms.iter_mut().filter_map(Option::take).for_each(OwnedSemaphorePermit::forget);
        }
    }
}

/// Takes room where there is some and nobody waits for it.
pub(super) fn try_take(model: &Model, fleet: &Fleet) -> Option<Permit> {
    let one = |permits: Option<&Arc<Semaphore>>| match permits {
        // What is free is given to those who wait at once, so that nobody is overtaken here.
        Some(permits) => permits.clone().try_acquire_owned().ok().map(Some),
        None => Some(None),
    };
    let of_model = one(model.permits.as_ref())?;
    let of_fleet = one(fleet.model_calls.as_ref())?;
    Some(Permit { rooms: [of_model, of_fleet] })
}

/// Waits for room, first come first served. The model's comes first: who waits for a narrow model keeps no other
/// model's call waiting.
pub(super) async fn take(model: &Model, fleet: &Fleet) -> Permit {
    let of_model = one(model.permits.as_ref()).await;
    let of_fleet = one(fleet.model_calls.as_ref()).await;
    Permit { rooms: [of_model, of_fleet] }
}

async fn one(permits: Option<&Arc<Semaphore>>) -> Option<OwnedSemaphorePermit> {
    // A semaphore of ours is never closed, so this is none only where there is no bound.
    permits?.clone().acquire_owned().await.ok()
}
