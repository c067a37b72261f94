//! What the store says that runs came to.

use crate::cli::Error;
use crate::cli::door::{Address, Liveness};
use crate::journal::{Store, StreamInfo};
use crate::run::{RunId, Status};
use crate::runtime::{Past, Report, run_of};

/// How the mark of a run says that it is under way, or was when its process ended.
pub(in crate::cli) const RUNNING: &str = "running";

/// Says where runs stand that are marked as under way.
pub(in crate::cli) struct Reports<'a> {
    address: &'a Address,
    holder: Option<Liveness>,
}

impl<'a> Reports<'a> {
    pub(in crate::cli) fn new(address: &'a Address) -> Self {
        Self { address, holder: None }
    }

    /// Whether a run is under way in a process that lives.
    pub(in crate::cli) async fn is_live(&mut self, run: &RunId) -> bool {
        if self.holder.is_none() {
            self.holder = Some(self.address.holder().await);
        }
        self.holder.as_ref().is_some_and(|holder| holder.has(run))
    }

    /// Returns a run's status, as far as its mark says; it may have been interrupted.
    pub(in crate::cli) fn marked(info: &StreamInfo) -> Option<Status> {
        let word = serde_json::Value::from(info.mark.as_ref()?.state.as_ref());
        serde_json::from_value(word).ok()
    }

    /// Returns what a run came to, or where it stands; none if its events are gone, and nothing else says it.
    ///
    /// # Errors
    /// The run's events can't be read.
    pub(in crate::cli) async fn of(&mut self, store: &Store, info: &StreamInfo) -> Result<Option<Report>, Error> {
        let Some(run) = run_of(&info.name) else { return Ok(None) };
        let is_running = info.mark.as_ref().is_none_or(|mark| mark.state == RUNNING);
        let summary = info.mark.as_ref().and_then(|mark| mark.summary.as_deref()).filter(|_| !is_running);
        if let Some(report) = summary.and_then(|summary| serde_json::from_slice(summary).ok()) {
            return Ok(Some(report));
        }
        if info.pruned {
            return Ok(None);
        }
        let report = Report::of(&Past::read(store, &run)?.state);
        if report.status != Status::Running || self.is_live(&run).await {
            return Ok(Some(report));
        }
        // It may have ended since its events were read.
        Ok(Some(Report::of(&Past::read(store, &run)?.state).without_process()))
    }
}
