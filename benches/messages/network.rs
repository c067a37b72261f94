//! The same traffic through Provost: in runs, recorded, and delivered by the runs' supervisors to supervised agents.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use provost::model::{Error, Provider, Reply, Request};
use provost::run::{Move, Status, Turn};
use provost::runtime::{Builder, Recorder, RunHandle, RunRequest, Runtime};
use provost::spec::{AgentSpec, ModelSpec, Network, NetworkSpec, ProviderKind, Scope};

use super::{ASKERS, ASKS, ON_THEIR_WAY, WIDTH};

/// A model that never answers, and counts who asks it.
#[derive(Clone, Default)]
pub(crate) struct Silent(Arc<AtomicUsize>);

impl Provider for Silent {
    fn call<'a>(&'a self, _: &'a Request, _: &'a (dyn Fn(&str) + Send + Sync)) -> BoxFuture<'a, Result<Reply, Error>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::pending())
    }
}

impl Silent {
    /// Waits until so many have asked it.
    async fn asked(&self, times: usize) {
        while self.0.load(Ordering::Relaxed) < times {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn agent(asks: &[&str]) -> AgentSpec {
    let delegates_to = asks.iter().map(|to| (*to).to_owned()).collect();
    AgentSpec { delegates_to, max_steps: 1_000_000, ..AgentSpec::new("You are measured.") }
}

/// Makes a network of agents of which the first is the entry.
fn network<const N: usize>(agents: [(&str, AgentSpec); N]) -> NetworkSpec {
    let mut spec = NetworkSpec::default();
    (spec.network.name, spec.network.entry) = ("bench".to_owned(), agents[0].0.to_owned());
    (spec.network.limits.steps, spec.supervision.intensity) = (1_000_000, 1_000_000);
    spec.agents = agents.into_iter().map(|(name, agent)| (name.to_owned(), agent)).collect();
    spec
}

fn builder(spec: NetworkSpec) -> Builder {
    Runtime::builder(Network::new(spec).expect("the bench's network is valid"))
}

/// Asks so many at once, and then answers.
fn asks_at_once(to: &'static str, count: usize) -> impl Fn(&Turn<'_>) -> Move + Send + Sync {
    move |turn| match turn.step {
        1 => Move::ask((0..count).map(|_| (to, "x".to_owned()))),
        _ => Move::Answer(turn.results().count().to_string()),
    }
}

fn answers(turn: &Turn<'_>) -> Move {
    Move::Answer(turn.asked().to_owned())
}

/// Asks one after the other, and then answers.
fn asks_in_turn(to: &'static str, count: u32) -> impl Fn(&Turn<'_>) -> Move + Send + Sync {
    move |turn| match turn.step <= count {
        true => Move::ask([(to, "x".to_owned())]),
        false => Move::Answer("done".to_owned()),
    }
}

async fn done(runtime: &Runtime, request: RunRequest) {
    let report = runtime.start(request).await.expect("the run starts").wait().await.expect("it ends");
    assert_eq!(report.status, Status::Done, "{:?}", report.reason);
}

/// A run with one agent that waits for its model, to which messages are sent.
pub(crate) struct OneWay {
    runtime: Runtime,
    run: RunHandle,
}

impl OneWay {
    pub(crate) async fn start() -> Self {
        let model = Silent::default();
        let runtime = idle_network(network([("one", agent(&[]))]), &model).start().await.expect("it starts");
        let run = runtime.start(RunRequest::new("go")).await.expect("the run starts");
        model.asked(1).await;
        Self { runtime, run }
    }

    /// Sends messages to the agent, each of which is numbered, folded and recorded, put into the agent's mailbox, taken
    /// up by it, and acknowledged to the run's supervisor, which keeps it until then. Who sends hears when it is recorded.
    pub(crate) async fn send(&self, messages: u64) {
        let controls = self.run.controls();
        for _ in 0..messages / ON_THEIR_WAY {
            let sent = (0..ON_THEIR_WAY).map(|_| controls.steer(None, "x".to_owned()));
            assert!(join_all(sent).await.iter().all(Result::is_ok));
        }
    }

    pub(crate) async fn end(self) {
        self.run.controls().cancel("measured");
        self.run.wait().await.expect("it ends");
        self.runtime.shutdown().await;
    }
}

fn idle_network(mut spec: NetworkSpec, model: &Silent) -> Builder {
    let host = ModelSpec { provider: Some(ProviderKind::Host), ..ModelSpec::default() };
    spec.models.insert("silent".to_owned(), host);
    builder(spec).provider("silent", model.clone())
}

/// A network whose entry asks another agent, one question after the other.
pub(crate) async fn asking() -> Runtime {
    let spec = network([("one", agent(&["two"])), ("two", agent(&[]))]);
    let builder = builder(spec).agent("one", asks_in_turn("two", ASKS as u32)).agent("two", answers);
    builder.start().await.expect("it starts")
}

/// Lets runs ask at once, each one question after the other.
pub(crate) async fn asks(runtime: &Runtime) {
    join_all((0..ASKERS).map(|_| done(runtime, RunRequest::new("go")))).await;
}

/// A network in which one asks 16, of which each asks 64.
pub(crate) async fn wide() -> Runtime {
    let spec = network([("one", agent(&["middle"])), ("middle", agent(&["leaf"])), ("leaf", agent(&[]))]);
    let builder = builder(spec).agent("one", asks_at_once("middle", 16));
    let builder = builder.agent("middle", asks_at_once("leaf", WIDTH / 16)).agent("leaf", answers);
    builder.start().await.expect("it starts")
}

/// Asks more than a thousand agents at once in one run, and joins their answers.
pub(crate) async fn fan_out(runtime: &Runtime) {
    done(runtime, RunRequest::new("go")).await;
}

/// Agents that wait for their models, in one run.
pub(crate) struct Idle {
    runtime: Runtime,
    run: RunHandle,
}

impl Idle {
    /// Starts so many, 64 for each of their askers.
    pub(crate) async fn start(agents: usize) -> Self {
        let model = Silent::default();
        let spec = network([("one", agent(&["middle"])), ("middle", agent(&["leaf"])), ("leaf", agent(&[]))]);
        let builder = idle_network(spec, &model).agent("one", asks_at_once("middle", agents / 64));
        let runtime = builder.agent("middle", asks_at_once("leaf", 64)).start().await.expect("it starts");
        let run = runtime.start(RunRequest::new("go")).await.expect("the run starts");
        model.asked(agents).await;
        Self { runtime, run }
    }

    pub(crate) async fn end(self) {
        self.run.controls().cancel("measured");
        self.run.wait().await.expect("it ends");
        self.runtime.shutdown().await;
    }
}

/// Lets an agent panic and be started again without a pause, two times for each question; returns for each time how many
/// microseconds it took until the next incarnation was at work on the same message.
pub(crate) async fn restarts(times: usize) -> Vec<f64> {
    let fragile = AgentSpec { max_deliveries: 3, ..agent(&[]) };
    let mut spec = network([("one", agent(&["fragile"])), ("fragile", fragile)]);
    spec.agents["fragile"].restart.backoff = "0s..0s".parse().expect("it is a back-off");
    let (took_us, panicked) = (Arc::new(Mutex::new(Vec::new())), Mutex::new((0, Instant::now())));
    let taken = took_us.clone();
    let panics = move |_: &Turn<'_>| {
        let mut panicked = panicked.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if panicked.0 % 3 > 0 {
            taken.lock().expect("nobody panics holding it").push(panicked.1.elapsed().as_secs_f64() * 1e6);
        }
        panicked.0 += 1;
        if panicked.0 % 3 == 0 {
            return Move::Answer("at last".to_owned());
        }
        panicked.1 = Instant::now();
        drop(panicked);
        panic!("as it was told");
    };
    let builder = builder(spec).agent("one", asks_in_turn("fragile", times as u32 / 2)).agent("fragile", panics);
    let runtime = builder.start().await.expect("it starts");
    done(&runtime, RunRequest::new("go")).await;
    runtime.shutdown().await;
    let took_us = took_us.lock().expect("nobody panics holding it");
    took_us.clone()
}

/// A network with an agent that knows what was said to it in the same session, with a store.
pub(crate) async fn remembering(recorder: Arc<Recorder>) -> Runtime {
    let memory = AgentSpec { scope: Scope::Session, ..agent(&[]) };
    let spec = network([("one", agent(&["memory"])), ("memory", memory)]);
    let builder = builder(spec).recorder(recorder).agent("one", asks_in_turn("memory", 1)).agent("memory", answers);
    builder.start().await.expect("it starts")
}

/// Asks the agents of so many sessions, from the session `from` on, each once: between two questions an instance is in the
/// journal alone.
pub(crate) async fn ask_sessions(runtime: &Arc<Runtime>, from: usize, sessions: usize) {
    let next = Arc::new(AtomicUsize::new(from));
    let askers = (0..256).map(|_| {
        let (runtime, next) = (runtime.clone(), next.clone());
        tokio::spawn(async move {
            loop {
                let session = next.fetch_add(1, Ordering::Relaxed);
                if session >= from + sessions {
                    return;
                }
                let session = Some(format!("session{session}").into());
                done(&runtime, RunRequest { session, ..RunRequest::new("go") }).await;
            }
        })
    });
    join_all(askers.collect::<Vec<_>>()).await;
}
