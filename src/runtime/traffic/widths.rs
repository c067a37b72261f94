//! Which turnstiles there are for a network, a run and a call.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::{NoTurn, Permit, QueueFor, QueueKind, Through, Traffic, Turnstile, Who};
use crate::run::{Priority, Stream};
use crate::spec::{NetworkSpec, QueueSpec};

/// What bounds the calls of all runs of a network, beside what their models bear.
pub(in crate::runtime) struct Widths {
    traffic: Arc<Traffic>,
    /// The network's name.
    network: String,
    queue: QueueSpec,
    weights: HashMap<Arc<str>, u32>,
    model_calls: Option<Turnstile>,
    tool_calls: Option<Turnstile>,
    runs: Option<Turnstile>,
    of_run: Option<u32>,
    tools: HashMap<Arc<str>, Turnstile>,
    agents: HashMap<Arc<str>, Turnstile>,
}

/// Who a run is at the turnstiles, and what bounds its own calls.
pub(in crate::runtime) struct Lane {
    who: Who,
    width: Option<Turnstile>,
    /// Its place among the runs that may be under way at once, from its first call to its end.
    turn: OnceCell<Permit>,
}

impl Widths {
    pub(in crate::runtime) fn of(spec: &NetworkSpec, traffic: &Arc<Traffic>) -> Self {
        let fleet = &spec.network.fleet;
        let network = spec.network.name.as_str();
        let all = |kind, width| traffic.turnstile(QueueFor::network(kind, network), width);
        let one = |kind, name: &String, width| {
            Some((name.as_str().into(), traffic.turnstile(QueueFor::inside(kind, name, network), width)?))
        };
        Self {
            traffic: traffic.clone(),
            network: network.to_owned(),
            queue: fleet.queue,
            weights: fleet.weights.iter().map(|(tenant, weight)| (tenant.as_str().into(), *weight)).collect(),
            model_calls: all(QueueKind::ModelCalls, fleet.model_calls_in_flight),
            tool_calls: all(QueueKind::ToolCalls, fleet.tool_calls_in_flight),
            runs: all(QueueKind::Runs, fleet.runs_in_flight),
            of_run: spec.network.limits.in_flight,
            tools: spec.tools.iter().filter_map(|(name, tool)| one(QueueKind::Tool, name, tool.in_flight)).collect(),
            agents: spec.agents.iter().filter_map(|(name, of)| one(QueueKind::Agent, name, of.in_flight)).collect(),
        }
    }

    /// Makes what a run is at the turnstiles.
    pub(in crate::runtime) fn lane(&self, stream: &Stream, priority: Priority) -> Lane {
        let (tenant, run) = (stream.tenant.clone(), stream.run.clone());
        let weight = self.weights.get(&tenant).copied().unwrap_or(1);
        let width = self.traffic.turnstile(QueueFor::inside(QueueKind::Run, run.as_str(), &self.network), self.of_run);
        Lane { who: Who { tenant, weight, run, priority }, width, turn: OnceCell::new() }
    }

    /// Whether more runs wait for their turn than may.
    pub(in crate::runtime) fn is_full(&self) -> bool {
        self.runs.as_ref().is_some_and(|runs| runs.waiting() >= self.queue.capacity as usize)
    }

    /// Returns the way of a model call.
    pub(in crate::runtime) fn of_model(&self, model: &Turnstile, lane: &Lane, agent: &str) -> Through {
        Through::new([Some(model), self.model_calls.as_ref(), lane.width.as_ref(), self.agents.get(agent)])
    }

    /// Returns the way of a tool call; none where nothing bounds it.
    pub(in crate::runtime) fn of_tool(&self, tool: &str, lane: &Lane, agent: &str) -> Option<Through> {
        let way = [self.tools.get(tool), self.tool_calls.as_ref(), lane.width.as_ref(), self.agents.get(agent)];
        way.iter().any(Option::is_some).then(|| Through::new(way))
    }

    /// Passes where nothing is in the way.
    pub(in crate::runtime) fn try_pass(&self, through: Through, tokens: u64) -> Option<Permit> {
        self.traffic.try_pass(through, tokens)
    }

    /// Waits for its turn.
    ///
    /// # Errors
    /// The queue is full, or it waited for too long.
    pub(in crate::runtime) async fn pass(&self, through: Through, tokens: u64, lane: &Lane) -> Result<Permit, NoTurn> {
        self.traffic.pass(through, tokens, lane.who.clone(), Some(&self.queue)).await
    }

    /// Waits for its turn once more, for however long: what is to be made is on record already.
    pub(in crate::runtime) async fn pass_again(&self, through: Through, tokens: u64, lane: &Lane) -> Option<Permit> {
        self.traffic.pass(through, tokens, lane.who.clone(), None).await.ok()
    }

    /// Whether a run has its turn, or needs none.
    pub(in crate::runtime) fn has_turn(&self, lane: &Lane) -> bool {
        self.runs.is_none() || lane.turn.initialized()
    }

    /// Takes a run's turn at once, whether there is room or not.
    pub(in crate::runtime) fn take_turn(&self, lane: &Lane) {
        if let Some(runs) = &self.runs {
            let permit = self.traffic.enter(Through::new([Some(runs), None, None, None]));
            // There is none yet.
            let _ = lane.turn.set(permit);
        }
    }

    /// Waits for the run's turn among all runs, for as long as the run may take; its other calls wait with it. `waits` is
    /// done first by the one that has to wait.
    pub(in crate::runtime) async fn turn<E>(
        &self,
        lane: &Lane,
        waits: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let Some(runs) = self.runs.as_ref().filter(|_| !self.has_turn(lane)) else { return Ok(()) };
        let through = Through::new([Some(runs), None, None, None]);
        let enter = async {
            if let Some(permit) = self.traffic.try_pass(through, 0) {
                return Ok(Some(permit));
            }
            waits.await?;
            Ok(self.traffic.pass(through, 0, lane.who.clone(), None).await.ok())
        };
        let entered = lane.turn.get_or_try_init(|| async { enter.await.map_err(Some)?.ok_or(None) }).await;
        match entered {
            Err(Some(error)) => Err(error),
            // Without bounds nobody is turned away.
            Ok(_) | Err(None) => Ok(()),
        }
    }
}
