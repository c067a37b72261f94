//! What supervision promises, on whole networks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use provost::model::{Error as ModelError, Provider, Reply, Request};
use provost::run::{Event, Move, Status, ToolCall, Turn};
use provost::runtime::{Replayer, RunRequest, Runtime};
use provost::spec::{AgentSpec, ModelSpec, Network, NetworkSpec, ProviderKind, Scope};

/// Makes a network of agents without a model: what they do next is written in Rust.
fn network(agents: impl IntoIterator<Item = (&'static str, AgentSpec)>) -> NetworkSpec {
    let agents = agents.into_iter().map(|(name, agent)| (name.to_owned(), agent)).collect();
    let mut spec = NetworkSpec { agents, ..NetworkSpec::default() };
    spec.network.name = "test".to_owned();
    spec.network.entry = spec.agents[0].prompt.replace("You are ", "").replace('.', "");
    spec
}

fn agent(name: &str) -> AgentSpec {
    AgentSpec::new(format!("You are {name}."))
}

fn asking(name: &str, others: &[&str]) -> AgentSpec {
    AgentSpec { delegates_to: others.iter().map(|other| (*other).to_owned()).collect(), ..agent(name) }
}

/// Asks all questions at once, and answers with the answers.
fn asks(questions: Vec<(&'static str, String)>) -> impl Fn(&Turn<'_>) -> Move + Send + Sync {
    move |turn| match turn.step {
        1 => Move::ask(questions.clone()),
        _ => Move::Answer(turn.results().collect::<Vec<_>>().join("\n")),
    }
}

#[tokio::test]
async fn an_agent_written_in_rust_asks_and_answers_and_can_be_decided_again() {
    let spec = network([("one", asking("one", &["two"])), ("two", agent("two"))]);
    let two = |turn: &Turn<'_>| Move::Answer(format!("{} to you", turn.asked()));
    let one = || asks(vec![("two", "hello".to_owned())]);
    let directory = tempfile::tempdir().unwrap();
    let recorder = Arc::new(provost::runtime::Recorder::open(directory.path(), false).unwrap());
    let builder = Runtime::builder(Network::new(spec).unwrap()).agent("one", one()).agent("two", two);
    let runtime = builder.recorder(recorder.clone()).start().await.unwrap();
    let report = runtime.run("x").await.unwrap();
    assert_eq!((report.status, report.answer_text().as_deref()), (Status::Done, Some("hello to you")));
    assert_eq!(report.usage.model_calls, 0);
    let past = recorder.whole_past(&report.run).unwrap();
    Replayer::new().agent("one", one()).agent("two", two).replay(&past).unwrap();
    let otherwise = |_: &Turn<'_>| Move::Answer("no".to_owned());
    let parted = Replayer::new().agent("one", one()).agent("two", otherwise).replay(&past);
    assert!(parted.unwrap_err().to_string().contains("two"));
}

#[tokio::test]
async fn a_hundred_messages_behind_one_that_panics_are_all_handled() {
    let handled = Arc::new(AtomicUsize::new(0));
    let worker = AgentSpec { scope: Scope::Network, ..agent("worker") };
    let mut spec = network([("one", asking("one", &["worker"])), ("worker", worker)]);
    spec.agents["worker"].mailbox.capacity = 200;
    let count = handled.clone();
    let works = move |turn: &Turn<'_>| {
        assert_ne!(turn.asked(), "poison", "this one can't be worked on");
        count.fetch_add(1, Ordering::SeqCst);
        Move::Answer(format!("did {}", turn.asked()))
    };
    let passes_on = |turn: &Turn<'_>| match turn.step {
        1 => Move::ask([("worker", turn.messages[0].text().to_owned())]),
        _ => Move::Answer(turn.results().collect()),
    };
    let builder = Runtime::builder(Network::new(spec).unwrap()).agent("one", passes_on).agent("worker", works);
    let runtime = builder.start().await.unwrap();
    let mut runs = vec![runtime.start(RunRequest::new("poison")).await.unwrap()];
    for nth in 0..100 {
        runs.push(runtime.start(RunRequest::new(format!("{nth}"))).await.unwrap());
    }
    let mut letters = 0;
    for (nth, run) in runs.into_iter().enumerate() {
        let mut events = run.events();
        let answer = run.wait().await.unwrap().answer_text().unwrap();
        match nth {
            0 => assert!(answer.contains("became a dead letter"), "{answer}"),
            nth => assert_eq!(&*answer, format!("did {}", nth - 1)),
        }
        while let Some(envelope) = events.next().await {
            letters += usize::from(matches!(&envelope.event, Event::DeadLettered { deliveries: 3, .. }));
        }
    }
    assert_eq!((handled.load(Ordering::SeqCst), letters), (100, 1));
}

#[tokio::test]
async fn what_a_network_scoped_agent_was_asked_it_knows_in_the_next_run() {
    let memory = AgentSpec { scope: Scope::Network, ..agent("memory") };
    let spec = network([("one", asking("one", &["memory"])), ("memory", memory)]);
    let passes_on = |turn: &Turn<'_>| match turn.step {
        1 => Move::ask([("memory", turn.messages[0].text().to_owned())]),
        _ => Move::Answer(turn.results().collect()),
    };
    let remembers = |turn: &Turn<'_>| {
        let said: Vec<&str> = turn.messages.iter().map(|message| message.text()).collect();
        Move::Answer(said.len().to_string())
    };
    let builder = Runtime::builder(Network::new(spec).unwrap()).agent("one", passes_on).agent("memory", remembers);
    let runtime = builder.start().await.unwrap();
    let ask = async |tenant: &str| {
        let request = RunRequest { tenant: tenant.into(), ..RunRequest::new("x") };
        runtime.start(request).await.unwrap().wait().await.unwrap().answer_text().unwrap().to_string()
    };
    assert_eq!([ask("a").await, ask("a").await, ask("b").await, ask("a").await], ["1", "3", "1", "5"]);
}

/// Changes a network as no check would let it pass: one that is kept with a run is not checked again.
fn unchecked(spec: NetworkSpec, change: impl FnOnce(&mut serde_json::Value)) -> Network {
    let mut json = serde_json::from_str(&Network::new(spec).unwrap().to_text()).unwrap();
    change(&mut json);
    Network::from_text(&json.to_string()).unwrap()
}

fn down(to: &'static str) -> impl Fn(&Turn<'_>) -> Move + Send + Sync {
    move |turn: &Turn<'_>| match turn.step {
        1 => Move::ask([(to, "further".to_owned())]),
        _ => Move::Answer(turn.results().collect()),
    }
}

#[tokio::test]
async fn a_delegation_beyond_the_depth_ends_clearly_and_leaves_nothing() {
    let agents = [("one", asking("one", &["two"])), ("two", asking("two", &["three"])), ("three", agent("three"))];
    let network = unchecked(network(agents), |json| json["spec"]["network"]["limits"]["depth"] = 1.into());
    let builder = Runtime::builder(network).agent("one", down("two")).agent("two", down("three"));
    let report = builder.start().await.unwrap().run("x").await.unwrap();
    assert_eq!(report.status, Status::Done);
    let answer = report.answer_text().unwrap();
    assert_eq!(&*answer, "delegation can't go deeper than depth = 1; answer without asking");
    assert!(report.agents.iter().all(|agent| agent.status == "done"), "{report:?}");
}

#[tokio::test]
async fn agents_that_wait_for_one_another_are_named() {
    let one_at_a_time = |agent| AgentSpec { replicas: Some(1), ..agent };
    let (a, b) = (one_at_a_time(asking("a", &["b"])), one_at_a_time(agent("b")));
    let spec = network([("one", asking("one", &["a"])), ("a", a), ("b", b)]);
    let network = unchecked(spec, |json| json["spec"]["agents"]["b"]["delegates_to"] = serde_json::json!(["a"]));
    let builder = Runtime::builder(network).agent("one", down("a")).agent("a", down("b")).agent("b", down("a"));
    let report = builder.start().await.unwrap().run("x").await.unwrap();
    assert_eq!(report.status, Status::Failed);
    assert_eq!(report.reason.as_deref(), Some("agents wait for one another: `a` asks `b` asks `a`"));
}

/// The model answers `worker`, and lets `planner` ask it.
struct Plans;

impl Provider for Plans {
    fn call<'a>(
        &'a self,
        request: &'a Request,
        _: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, ModelError>> {
        let is_planning = &*request.agent == "planner" && request.call.step == 1;
        let ask = ToolCall { name: "ask_worker".to_owned(), arguments: r#"{"message": "?"}"#.to_owned() };
        let reply = match is_planning {
            true => Reply { tool_calls: vec![ask], ..Reply::default() },
            false => Reply { text: "done".to_owned(), ..Reply::default() },
        };
        Box::pin(async { Ok(reply) })
    }
}

#[tokio::test]
async fn a_planner_with_the_only_permit_lets_the_worker_have_it() {
    let mut spec = network([("planner", asking("planner", &["worker"])), ("worker", agent("worker"))]);
    let model = ModelSpec { provider: Some(ProviderKind::Host), in_flight: Some(1), ..ModelSpec::default() };
    spec.models.insert("m".to_owned(), model);
    let runtime = Runtime::builder(Network::new(spec).unwrap()).provider("m", Plans).start().await.unwrap();
    let report = runtime.run("x").await.unwrap();
    assert_eq!((report.status, report.usage.model_calls), (Status::Done, 3));
}
