//! What a run is that was forked from another: it has that one's past and none of its costs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Amount, OpenCall, RunState, Stage, Subject, Totals};
use crate::run::{Priority, Resolution, RunId};

/// Where a run was forked from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The run whose past it shares.
    pub run: RunId,
    /// The number of the last event that they share.
    pub at: u64,
}

impl RunState {
    /// Returns where the run was forked from, if it was.
    pub fn forked_from(&self) -> Option<&Lineage> {
        self.forked_from.as_ref()
    }

    /// Begins the run anew where the copies of another run's events end. That one goes on, or went on, by itself: it pays
    /// for what it had under way, and hears what it was told to hear.
    pub(super) fn begin_as_fork(&mut self, lineage: Lineage, name: &Arc<str>, priority: Option<Priority>) {
        if let Some(beginning) = &mut self.beginning {
            beginning.name = name.clone();
            beginning.priority = priority.unwrap_or(beginning.priority);
        }
        (self.totals, self.spent, self.dead_letters) = (Totals::default(), Amount::default(), 0);
        self.agents.values_mut().for_each(|instance| instance.totals = Totals::default());
        self.cancelling = None;
        // What a person said was said of the other run.
        (self.ruled, self.standing, self.approved) = Default::default();
        // A model is asked anew, as if it never had been: with what the fork is told, and at the fork's own cost.
        self.open.retain(|_, open| !matches!(open.subject, Subject::Model { .. }));
        self.open.values_mut().for_each(|open| open.begin_as_fork(&lineage.run));
        self.forked_from = Some(lineage);
    }
}

impl OpenCall {
    fn begin_as_fork(&mut self, parent: &RunId) {
        (self.held, self.attempt) = (Amount::default(), 0);
        let is_begun = self.stage.is_begun();
        self.approval = None;
        match &self.stage {
            // What a person allowed was that the call be made once, and that was the other run's.
            Stage::Decided { granted: true } => self.stage = Stage::AwaitingApproval,
            Stage::Resolved(Resolution::Retry) => self.stage = Stage::Intended,
            _ => {}
        }
        if is_begun && matches!(self.subject, Subject::Tool { .. }) {
            self.begun_in.get_or_insert_with(|| parent.clone());
        }
    }
}
