//! Beginning a run from a point of another one's past.

use std::sync::Arc;

use super::definitions::Definitions;
use super::launching::Trail;
use super::run_supervisor::{Forked, Opening};
use super::{Error, MAX_INPUT_BYTES, Past, RunHandle, Runtime, VERSION};
use crate::journal::Log;
use crate::run::{self, AgentId, Effect, Event, Fold, ForkPoint, Priority, RunId};

/// A run that is to begin from a point of another one's past; see [`Host::fork`](super::Host::fork).
#[derive(Clone, Debug)]
pub struct Fork {
    /// The last event of the other run that both have; where that one was recorded together with others, the last of
    /// these.
    pub at: u64,
    /// What the agent that stands for the run is told there; its model reads it before it speaks next.
    pub input: Option<Arc<str>>,
    /// The new run's priority; the other one's where it is left out.
    pub priority: Option<Priority>,
    /// The new run's id; a new one where it is left out. It must not be in use.
    pub id: Option<RunId>,
    /// Whether the process's approver may be asked; if not, a call that needs approval parks the run.
    pub is_attended: bool,
}

impl Fork {
    /// Asks for a run that goes on from event `at` as the other one might have.
    pub fn new(at: u64) -> Self {
        Self { at, input: None, priority: None, id: None, is_attended: true }
    }
}

impl Past {
    /// Finds the place at which the run `fork` can begin that is to share this past up to event `at`. The past must be
    /// whole.
    ///
    /// # Errors
    /// See [`ForkPoint::find`].
    pub fn fork_point(&self, at: u64, fork: &RunId) -> Result<ForkPoint, Error> {
        let run = || self.state.beginning().map_or_else(|| RunId::new(""), |beginning| beginning.stream.run.clone());
        ForkPoint::find(&self.events, at, fork).map_err(|why| Error::NoForkPoint { run: run(), why })
    }
}

impl Runtime {
    /// Starts a run that shares another one's past up to a point, and goes on from there by itself, in this network. The
    /// other run stays as it is, and may be under way. What that one has done stays done, and it has paid for it. Of what
    /// it had under way there, model calls are made anew and calls that await approval are asked about anew; a tool call
    /// has the result that the other run recorded later, and where there is none, it is made again or not by the rule of
    /// its effect class, under its old idempotency key. When this returns, the run is in the store with all its past, and
    /// no crash loses it.
    ///
    /// `input` is what the agent that stands for the run is told; see [`Fork::input`]. The run has the other one's priority,
    /// unless [`ForkPoint::priority`] says otherwise.
    ///
    /// # Errors
    /// The run has something at work that this network does not have; else as for [`Runtime::start`].
    pub async fn fork(&self, point: ForkPoint, input: Option<Arc<str>>, is_attended: bool) -> Result<RunHandle, Error> {
        if let Some(input) = input.as_ref().filter(|input| input.len() > MAX_INPUT_BYTES) {
            return Err(Error::InputTooLong(input.len()));
        }
        let mut beginning = point.fold.run.beginning().cloned().ok_or(Error::Stopped)?;
        let priority = point.priority.filter(|priority| *priority != beginning.priority);
        beginning.priority = priority.unwrap_or(beginning.priority);
        let claim = self.fleet.recorder.claim(&beginning.stream.run, 0)?;
        let log = Arc::new(Log::of(point.copied.clone()));
        let trail = Trail { log: log.clone(), ..Trail::default() };
        let scope = self.fleet.scope(&beginning, None, is_attended, trail)?;
        let network = self.fleet.network.spec().network.name.clone();
        let lacks = lacks(&point.fold, &scope.definitions);
        if !lacks.is_empty() {
            return Err(Error::Misfit { network, run: point.from, lacks });
        }
        let is_other = beginning.network != self.fleet.text;
        let ForkPoint { from, at, copied, fold, taken_over, .. } = point;
        let network_text = is_other.then(|| self.fleet.text.clone());
        let (name, version) = (network.into(), VERSION.into());
        let forked = Event::RunForked { from, at, name, network: network_text, version, priority };
        let opening = Opening::Forked(Box::new(Forked { copied, fold, forked, taken_over, input }));
        self.launch(scope, opening, log, claim).await
    }
}

/// Says what is at work in a run that a network does not have: agents, and what their open calls are made to.
fn lacks(fold: &Fold, definitions: &Definitions) -> Vec<String> {
    let mut lacks = Vec::new();
    for (id, state) in &fold.agents {
        let Some(instance) = fold.run.agents().get(id) else { continue };
        match definitions.get(&instance.name) {
            None => lacks.push(format!("it has no agent `{}`, which is at work", instance.name)),
            // What is refused now was not when it was begun.
            Some(definition) => {
                lacks.extend(run::take_up(definition, state).iter().filter_map(|effect| refused(fold, id, effect)));
            }
        }
    }
    lacks
}

fn refused(fold: &Fold, agent: &AgentId, effect: &Effect) -> Option<String> {
    let Effect::Refuse { call, message, .. } = effect else { return None };
    let open = fold.run.open_call(call)?;
    let run::Body::Tool { content, .. } = &message.body else { return None };
    Some(format!("agent `{agent}` has call {call} to `{}` under way: {content}", open.subject.name()))
}
