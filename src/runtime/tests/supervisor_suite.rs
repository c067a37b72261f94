//! The cases of OTP's `supervisor_SUITE` whose meaning carries over to agents, under its names, on the real actors. A child
//! is an agent here, and its supervisor the run's; the network's supervisor stands above that. A case that OTP has once for
//! each kind of supervisor is there once for agents that stand for themselves, and once, as `simple`, for those that a
//! question brings into being.
//!
//! Time is paused: it goes on only when nobody has anything to do, and then jumps to where somebody has.

mod administration;
mod delegates;
mod kinds;
mod loops;
mod restarts;
mod significant;
mod start_stop;
mod strategies;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use crate::fault::{self, Injected};
use crate::model::{Error as ModelError, Provider, Reply, Request};
use crate::run::{AgentId, AgentOutcome, Envelope, Event, RunState, Status, ToolCall};
use crate::runtime::run_supervisor::RunMessage;
use crate::runtime::{Past, Replayer, Report, RunHandle, RunRequest, Runtime};
use crate::spec::{
    AgentSpec, ModelSpec, Network, NetworkSpec, Permission, ProviderKind, RestartKind, Span, Strategy, SupervisionSpec,
    ToolSpec,
};
use crate::tool::{self, Tool};

/// A network of three agents: `a` is the entry and may ask `b` and `c`, and `b` may ask `c`. They are started again without
/// a pause, up to three times in ten seconds.
struct Plan {
    spec: NetworkSpec,
}

impl Plan {
    fn new(strategy: Strategy) -> Self {
        let mut spec = NetworkSpec::default();
        spec.network.name = "suite".to_owned();
        spec.network.entry = "a".to_owned();
        spec.network.limits.steps = 10_000;
        spec.models.insert("m".to_owned(), ModelSpec { provider: Some(ProviderKind::Host), ..ModelSpec::default() });
        for (name, asks) in [("a", vec!["b", "c"]), ("b", vec!["c"]), ("c", Vec::new())] {
            let delegates_to = asks.into_iter().map(str::to_owned).collect();
            spec.agents.insert(name.to_owned(), AgentSpec { delegates_to, ..AgentSpec::new("You are at work.") });
        }
        spec.supervision =
            SupervisionSpec { strategy, intensity: 3, period: Span::from_secs(10), ..Default::default() };
        Self { spec }.pauses("0s..0s")
    }

    fn one_for_one() -> Self {
        Self::new(Strategy::OneForOne)
    }

    fn intensity(mut self, intensity: u32) -> Self {
        self.spec.supervision.intensity = intensity;
        self
    }

    fn period(mut self, secs: u64) -> Self {
        self.spec.supervision.period = Span::from_secs(secs);
        self
    }

    fn pauses(mut self, backoff: &str) -> Self {
        let backoff = backoff.parse().unwrap();
        self.spec.agents.values_mut().for_each(|agent| agent.restart.backoff = backoff);
        self
    }

    fn kind(self, agent: &str, kind: RestartKind) -> Self {
        self.agent(agent, |agent| agent.restart.kind = kind)
    }

    fn agent(mut self, agent: &str, change: impl FnOnce(&mut AgentSpec)) -> Self {
        change(&mut self.spec.agents[agent]);
        self
    }

    /// Lets `a` call a tool of these tests.
    fn tool(mut self, tool: &str) -> Self {
        self.spec.tools.insert(tool.to_owned(), ToolSpec::default());
        self.spec.policy.default = Permission::Allow;
        self.agent("a", |a| a.tools.push(tool.to_owned()))
    }

    /// Starts the network, and no run.
    async fn network(self) -> (Runtime, Models) {
        let models = Models::default();
        let builder = Runtime::builder(Network::new(self.spec).unwrap()).provider("m", models.clone());
        let builder = builder.tool("broken", Broken).tool("slow", Slow(models.stopped.clone()));
        (builder.start().await.unwrap(), models)
    }

    /// Starts a run, in which `a` stands.
    async fn start(self) -> World {
        self.start_with_panics(0).await
    }

    /// Starts a run whose agents panic at the first events that they take.
    async fn start_with_panics(self, panics: u32) -> World {
        let (runtime, models) = self.network().await;
        World::new(runtime, models, panics).await
    }

    /// Starts a run in which `a`, `b` and `c` stand, in this order.
    async fn start_all(self) -> World {
        let mut world = self.start().await;
        world.stand(&["b", "c"]).await;
        world.told();
        world
    }
}

/// What a model is to say next.
type Replies = VecDeque<Result<Reply, ModelError>>;

/// Models that say what they are told to say, and think until then.
#[derive(Clone, Default)]
struct Models {
    asked: Arc<Mutex<Vec<Request>>>,
    replies: Arc<Mutex<HashMap<String, Replies>>>,
    news: Arc<Notify>,
    thinking: Arc<Mutex<BTreeSet<String>>>,
    /// How many slow tools have come to their ends.
    stopped: Arc<AtomicUsize>,
}

/// A model that thinks until this is dropped.
struct Thought {
    agent: String,
    thinking: Arc<Mutex<BTreeSet<String>>>,
}

impl Drop for Thought {
    fn drop(&mut self) {
        self.thinking.lock().unwrap().remove(&self.agent);
    }
}

impl Models {
    fn replies(&self, agent: &str, reply: Result<Reply, ModelError>) {
        self.replies.lock().unwrap().entry(agent.to_owned()).or_default().push_back(reply);
        self.news.notify_waiters();
    }

    /// Returns the agents whose models think.
    fn thinking(&self) -> Vec<String> {
        self.thinking.lock().unwrap().iter().cloned().collect()
    }

    /// Returns what the model of an agent was asked.
    fn asked(&self, agent: &str) -> Vec<Request> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|request| request.call.agent.as_str() == agent).cloned().collect()
    }
}

impl Provider for Models {
    fn call<'a>(
        &'a self,
        request: &'a Request,
        _: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, ModelError>> {
        self.asked.lock().unwrap().push(request.clone());
        let (agent, thinking) = (request.call.agent.to_string(), self.thinking.clone());
        thinking.lock().unwrap().insert(agent.clone());
        let thought = Thought { agent, thinking };
        Box::pin(async move {
            let _thought = thought;
            loop {
                let news = self.news.notified();
                let reply = self.replies.lock().unwrap().get_mut(request.call.agent.as_str()).map(VecDeque::pop_front);
                match reply.flatten() {
                    Some(reply) => return reply,
                    None => news.await,
                }
            }
        })
    }
}

/// A tool that panics.
struct Broken;

impl Tool for Broken {
    type Arguments = serde_json::Map<String, serde_json::Value>;
    type Output = String;

    fn description(&self) -> String {
        "Breaks.".to_owned()
    }

    async fn call(&self, _: Self::Arguments, _: tool::Call) -> Result<String, tool::Error> {
        panic!("broken")
    }
}

/// A tool that works until it is told to stop, and needs a second for that.
struct Slow(Arc<AtomicUsize>);

impl Tool for Slow {
    type Arguments = serde_json::Map<String, serde_json::Value>;
    type Output = String;

    fn description(&self) -> String {
        "Takes its time.".to_owned()
    }

    async fn call(&self, _: Self::Arguments, call: tool::Call) -> Result<String, tool::Error> {
        call.cancelled.cancelled().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok("stopped".to_owned())
    }
}

/// A run, and what is done to it.
struct World {
    runtime: Runtime,
    models: Models,
    run: RunHandle,
    /// How many of the next events make the agents panic that take them.
    panics: Rc<Cell<u32>>,
    _injected: Injected,
    /// How many events have been told of.
    told: usize,
    /// Whether agents stand beside the entry: no decision of the run's has brought them there.
    has_more_that_stand: bool,
    /// What haunts agents, and watches them.
    tasks: RefCell<JoinSet<()>>,
}

impl World {
    async fn new(runtime: Runtime, models: Models, panics: u32) -> Self {
        let panics = Rc::new(Cell::new(panics));
        let left = panics.clone();
        let _injected = fault::inject(move |place| {
            let is_due = place.starts_with("agent.decide ") && left.get() > 0;
            left.set(left.get() - u32::from(is_due));
            is_due
        });
        let run = runtime.start(RunRequest::new("the question")).await.unwrap();
        let mut world = Self {
            tasks: RefCell::default(),
            runtime,
            models,
            run,
            panics,
            _injected,
            told: 0,
            has_more_that_stand: false,
        };
        world.settle().await;
        world.told();
        world
    }

    /// Lets more agents stand beside the entry.
    async fn stand(&mut self, agents: &[&str]) {
        self.has_more_that_stand = true;
        self.run.line.cast(RunMessage::Stand { agents: agents.iter().map(|&agent| agent.into()).collect() });
        self.settle().await;
    }

    /// Returns what an agent's model was asked last, as texts.
    fn read(&self, agent: &str) -> Vec<String> {
        let last = self.models.asked(agent).pop().unwrap();
        last.messages.iter().map(|message| message.text().to_owned()).collect()
    }

    /// Waits until nobody has anything to do but to wait.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// Lets time pass.
    async fn pass(&self, secs: u64) {
        tokio::time::sleep(Duration::from_secs(secs)).await;
    }

    /// Kills an agent's actor: an abnormal end.
    async fn kill(&self, agent: &str) {
        self.runtime.fleet.router.actor(agent).unwrap().kill();
        self.settle().await;
    }

    /// Stops an agent's actor: a normal end, or with a reason a shutdown.
    async fn stop(&self, agent: &str, reason: Option<&str>) {
        self.runtime.fleet.router.actor(agent).unwrap().stop(reason.map(str::to_owned));
        self.settle().await;
    }

    /// Tells an agent something. Whether it is there to hear it.
    async fn steer(&self, agent: &str) -> Result<(), String> {
        let heard = self.run.controls().steer(Some(AgentId::new(agent)), "a word".to_owned()).await;
        self.settle().await;
        heard
    }

    /// Lets the model of an agent answer.
    async fn says(&self, agent: &str, text: &str) {
        self.models.replies(agent, Ok(Reply { text: text.to_owned(), ..Reply::default() }));
        self.settle().await;
    }

    /// Lets the model of an agent ask others, each its own question.
    async fn asks(&self, agent: &str, others: &[&str]) {
        let ask =
            |(nth, other): (usize, &&str)| (format!("ask_{other}"), format!(r#"{{"message": "question {nth}"}}"#));
        self.calls(agent, others.iter().enumerate().map(ask)).await;
    }

    /// Lets the model of an agent call these tools with these arguments.
    async fn calls(&self, agent: &str, calls: impl Iterator<Item = (String, String)>) {
        let tool_calls = calls.map(|(name, arguments)| ToolCall { name, arguments }).collect();
        self.models.replies(agent, Ok(Reply { tool_calls, ..Reply::default() }));
        self.settle().await;
    }

    /// Kills each incarnation of an agent as soon as it has started, until the run has ended.
    fn haunt(&self, agent: &str) -> AbortHandle {
        let (fleet, mut events, agent) = (self.runtime.fleet.clone(), self.run.events(), AgentId::new(agent));
        self.tasks.borrow_mut().spawn(async move {
            while let Some(envelope) = events.next().await {
                let is_up = matches!(envelope.event, Event::AgentStarted { .. } | Event::AgentRestarted { .. });
                if is_up && envelope.agent.as_ref() == Some(&agent) {
                    fleet.router.actor(agent.as_str()).iter().for_each(|actor| actor.kill());
                }
            }
        })
    }

    /// Notes in which order the actors of agents end, from now on.
    fn watch(&self, agents: &[&'static str]) -> Arc<Mutex<Vec<&'static str>>> {
        let ended = Arc::new(Mutex::new(Vec::new()));
        for &agent in agents {
            let (actor, ended) = (self.runtime.fleet.router.actor(agent).unwrap().get_cell(), ended.clone());
            self.tasks.borrow_mut().spawn(async move {
                actor.wait(None).await.unwrap();
                ended.lock().unwrap().push(agent);
            });
        }
        ended
    }

    /// Returns where the run stands.
    fn state(&self) -> RunState {
        let mut state = RunState::default();
        self.run.log.snapshot().iter().for_each(|envelope| state.evolve(envelope));
        state
    }

    /// Returns which incarnation of each agent lives, or was the last.
    fn incarnations<const N: usize>(&self, agents: [&str; N]) -> [u32; N] {
        let state = self.state();
        agents.map(|agent| state.agents()[&AgentId::new(agent)].incarnation)
    }

    /// Returns the agents that wait to be started again.
    fn restarting(&self) -> Vec<String> {
        let state = self.state();
        let waiting = state.agents().iter().filter(|(_, instance)| instance.is_restarting);
        waiting.map(|(id, _)| id.to_string()).collect()
    }

    /// Returns how many actors of agents there are.
    fn actors(&self) -> usize {
        self.runtime.fleet.router.len()
    }

    /// Says what has become of agents since it was last asked.
    fn told(&mut self) -> String {
        let events = self.run.log.snapshot();
        let news: Vec<String> = events[self.told..].iter().filter_map(|envelope| words(envelope)).collect();
        self.told = events.len();
        news.join(", ")
    }

    /// Waits for the run's end, after which none of its agents is left, and what was decided can be decided again.
    async fn end(self) -> Report {
        let log = self.run.log.clone();
        let report = report(self.run).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(self.runtime.fleet.router.len(), 0, "an agent was left behind");
        if !self.has_more_that_stand {
            let replayed = Replayer::new()
                .tool("broken", Broken)
                .tool("slow", Slow(Arc::default()))
                .replay(&Past::of(&log).unwrap());
            replayed.unwrap_or_else(|error| panic!("{error}"));
        }
        report
    }

    /// Lets `a` answer, and the run end with that.
    async fn ends_well(self) {
        self.says("a", "done").await;
        let report = self.end().await;
        assert_eq!((report.status, report.answer_text().as_deref()), (Status::Done, Some("done")), "{report:?}");
    }

    /// Cancels the run, which ends at once.
    async fn cancel(self) {
        self.run.controls().cancel("enough");
        assert_eq!(self.end().await.status, Status::Cancelled);
    }

    /// Waits for the run's end, which must be that there were too many restarts.
    async fn escalates(self) {
        let report = self.end().await;
        let reason = report.reason.unwrap_or_default();
        assert!(report.status == Status::Failed && reason.contains("failed more than"), "{:?} {reason}", report.status);
    }
}

/// Waits for a run's end, and not for ever.
async fn report(run: RunHandle) -> Report {
    let ended = tokio::time::timeout(Duration::from_secs(3600), run.wait()).await;
    ended.unwrap_or_else(|_| panic!("the run does not end")).unwrap()
}

/// Says what became of an agent; nothing of all else that happened.
fn words(envelope: &Envelope) -> Option<String> {
    let agent = envelope.agent.as_ref()?;
    Some(match &envelope.event {
        Event::AgentStarted { .. } => format!("{agent} started"),
        Event::AgentFailed { .. } => format!("{agent} failed"),
        Event::AgentRestarted { .. } => format!("{agent} restarted"),
        Event::DeadLettered { .. } => format!("dead letter for {agent}"),
        Event::AgentEnded { outcome: AgentOutcome::Done(_) } => format!("{agent} done"),
        Event::AgentEnded { .. } => format!("{agent} gone"),
        _ => return None,
    })
}
