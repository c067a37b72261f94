//! Where a run is decided otherwise than it was.

use std::fmt;
use std::sync::Arc;

use crate::run::AgentId;

/// The version that decides.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The first event that would not have followed from those before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Divergence {
    /// The event's number.
    pub seq: u64,
    /// The agent that decides otherwise; none for the run as a whole.
    pub agent: Option<AgentId>,
    /// The agent's step.
    pub step: Option<u32>,
    /// The version of Provost that decided then.
    pub recorded_by: Arc<str>,
    /// What is recorded, in words; of a long text the part in which the two differ.
    pub recorded: String,
    /// What is decided now, in words.
    pub decided: String,
}

impl Divergence {
    /// Returns the version of Provost that decides now.
    pub fn decided_by(&self) -> &'static str {
        VERSION
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq, agent, step, recorded_by, recorded, decided } = self;
        write!(f, "parts at event {seq}")?;
        if let Some(agent) = agent {
            write!(f, ", agent `{agent}`")?;
        }
        if let Some(step) = step {
            write!(f, ", step {step}")?;
        }
        write!(f, ": recorded by Provost {recorded_by}: {recorded}; Provost {VERSION} decides: {decided}")
    }
}
