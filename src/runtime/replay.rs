//! Deciding a recorded run once more.

use std::collections::HashMap;
use std::sync::Arc;

use super::definitions::definitions;
use super::{Error, Past};
use crate::route::Flow;
use crate::run::{Agent, Divergence, Event, Replay, Replayed, Rules, RunId, rejected};
use crate::spec::Network;
use crate::tool::ErasedTool;

/// Decides recorded runs once more, on the results that are in the record: no model, tool or person is asked, nothing is
/// spent, and nothing is written. It tells whether this version of Provost, with the tools as they are described now,
/// would have done the same; see [`Replay`] for what is compared.
///
/// ```no_run
/// # use provost::{journal::Store, run::RunId, runtime::{Past, Replayer}};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Store::open(".provost".as_ref())?;
/// let past = Past::read(&store, &RunId::new("01m836fmadcjawe2adsdpxcdqc"))?;
/// let replayed = Replayer::new().replay(&past)?;       // `.tool(name, tool)` first, for tools of the program's own
/// println!("{} events, decided as they were", replayed.events);
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct Replayer {
    tools: HashMap<String, Arc<dyn ErasedTool>>,
    behaviours: HashMap<String, Arc<dyn Agent>>,
}

/// Why a run was not decided as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// This version decides otherwise.
    #[error(transparent)]
    Parted(#[from] Box<Divergence>),
    /// It can't be decided here.
    #[error(transparent)]
    Unable(#[from] Error),
}

impl Replayer {
    /// Makes one that knows the built-in tools alone.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers the tool that networks call `name`. It is not called: an agent's decisions depend on how its tools are
    /// described.
    #[must_use]
    pub fn tool(mut self, name: impl Into<String>, tool: impl ErasedTool) -> Self {
        self.tools.insert(name.into(), Arc::new(tool));
        self
    }

    /// Registers what says what the agent `name` does next. It is asked.
    #[must_use]
    pub fn agent(mut self, name: impl Into<String>, agent: impl Agent) -> Self {
        self.behaviours.insert(name.into(), Arc::new(agent));
        self
    }

    /// Decides a run once more, as far as it has come. It may be under way, interrupted or parked.
    ///
    /// # Errors
    /// [`ReplayError::Parted`] at the first event that would not have followed from those before it. Else the past does
    /// not begin with the run's first event (read it with [`Past::read`]), a network in it can't be read, or an agent has
    /// a tool that was not registered.
    pub fn replay(&self, past: &Past) -> Result<Replayed, ReplayError> {
        let run = past.state.beginning().map_or_else(|| RunId::new(""), |beginning| beginning.stream.run.clone());
        if !matches!(past.events.first().map(|first| &first.event), Some(Event::RunStarted { .. })) {
            return Err(Error::Unfit { run, why: "is to be read from its first event on".to_owned() }.into());
        }
        let mut replay = Replay::new();
        replay.pass_over(rejected(past.events.iter().map(|envelope| &**envelope)));
        for envelope in &past.events {
            if let Some(network) = Replay::network_of(&envelope.event) {
                replay.decide_by(self.rules(&run, network)?);
            }
            replay.take(envelope)?;
        }
        Ok(replay.end()?)
    }

    fn rules(&self, run: &RunId, network: &str) -> Result<Rules, Error> {
        let network = Network::from_text(network)
            .map_err(|source| Error::Network { run: run.clone(), source: Arc::new(source) })?;
        let definitions = definitions(&network, &self.tools, &self.behaviours)?;
        Ok(Rules { definitions, flow: Arc::new(Flow::of(network.spec())), network: Arc::new(network) })
    }
}
