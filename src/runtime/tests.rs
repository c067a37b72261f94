//! What can only be done to the actors from inside: killing one, and seeing it end.

mod supervisor_suite;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::TryStreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;

use super::*;
use crate::fault;
use crate::journal::Reader;
use crate::model::{Error as ModelError, Reply, Request};
use crate::run::{AgentId, Event, Health, Status, ToolCall};
use crate::spec::{AgentSpec, ModelSpec, NetworkSpec, ProviderKind};

/// Answers when it is let.
#[derive(Clone)]
struct Gated {
    asked: Arc<AtomicUsize>,
    let_through: Arc<Semaphore>,
}

impl Provider for Gated {
    fn call<'a>(
        &'a self,
        _: &'a Request,
        _: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, ModelError>> {
        Box::pin(async {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.let_through.acquire().await.unwrap().forget();
            Ok(Reply { text: "done".to_owned(), ..Reply::default() })
        })
    }
}

fn network() -> Network {
    let mut spec = NetworkSpec::default();
    spec.network.name = "test".to_owned();
    spec.network.entry = "one".to_owned();
    spec.models.insert("m".to_owned(), ModelSpec { provider: Some(ProviderKind::Host), ..ModelSpec::default() });
    spec.agents.insert("one".to_owned(), AgentSpec::new("You are one."));
    Network::new(spec).unwrap()
}

async fn started() -> (Runtime, RunHandle, Gated) {
    let provider = Gated { asked: Arc::default(), let_through: Arc::new(Semaphore::new(0)) };
    let runtime = Runtime::builder(network()).provider("m", provider.clone()).start().await.unwrap();
    let run = runtime.start(RunRequest::new("x")).await.unwrap();
    while provider.asked.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    (runtime, run, provider)
}

/// Kills the agent's present incarnation, and waits until the next one lives.
async fn kill(runtime: &Runtime, events: &mut Reader<Envelope>) {
    runtime.fleet.router.actor("one").unwrap().kill();
    while let Some(envelope) = events.next().await {
        if matches!(envelope.event, Event::AgentRestarted { .. } | Event::RunEnded { .. }) {
            return;
        }
    }
}

#[tokio::test]
async fn a_killed_agent_goes_on_where_it_was_and_its_call_is_not_repeated() {
    let (runtime, run, provider) = started().await;
    let mut events = run.events();
    kill(&runtime, &mut events).await;
    provider.let_through.add_permits(1);
    let report = run.wait().await.unwrap();
    assert_eq!((report.status, report.answer_text().as_deref()), (Status::Done, Some("done")));
    assert_eq!(report.agents[0].incarnations, 2);
    assert_eq!(provider.asked.load(Ordering::SeqCst), 1, "an innocent call was aborted or repeated");
    assert_eq!(runtime.fleet.router.len(), 0, "an address was left behind");
}

#[tokio::test]
async fn an_agent_that_fails_too_often_fails_the_run() {
    let (runtime, run, _provider) = started().await;
    let mut events = run.events();
    for _ in 0..4 {
        kill(&runtime, &mut events).await;
    }
    let report = run.wait().await.unwrap();
    assert_eq!(report.status, Status::Failed);
    assert!(report.reason.unwrap().contains("failed more than 3 times within 30s"));
}

#[tokio::test]
async fn shutdown_ends_all_runs_and_then_no_more_can_start() {
    let (runtime, run, _provider) = started().await;
    let supervisor = runtime.supervisor.clone();
    runtime.shutdown().await;
    assert_eq!(run.wait().await.unwrap().status, Status::Cancelled);
    supervisor.get_cell().wait(None).await.unwrap();
}

/// Kills the run's supervisor.
async fn kill_supervisor(runtime: &Runtime, run: &RunHandle) {
    let incarnations = runtime.fleet.router.len();
    assert_eq!(incarnations, 1);
    let supervisor = run.controls().supervisor().unwrap();
    supervisor.kill();
    while run.controls().supervisor().is_none_or(|next| next.get_id() == supervisor.get_id()) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_run_whose_supervisor_is_killed_goes_on_from_its_record() {
    let (runtime, run, provider) = started().await;
    let controls = run.controls();
    kill_supervisor(&runtime, &run).await;
    assert!(controls.is_live());
    provider.let_through.add_permits(2);
    let report = run.wait().await.unwrap();
    assert_eq!((report.status, report.answer_text().as_deref()), (Status::Done, Some("done")));
    assert_eq!(provider.asked.load(Ordering::SeqCst), 2, "a model call that was cut off is made again");
    assert!(!controls.is_live());
    assert_eq!(runtime.fleet.router.len(), 0, "an address was left behind");
}

#[tokio::test]
async fn a_network_whose_runs_fail_too_often_gives_up() {
    let (runtime, run, _provider) = started().await;
    let other = runtime.start(RunRequest::new("y")).await.unwrap();
    for _ in 0..3 {
        let supervisor = run.controls().supervisor().unwrap();
        supervisor.kill();
        while run.controls().supervisor().is_none_or(|next| next.get_id() == supervisor.get_id()) {
            tokio::task::yield_now().await;
        }
    }
    run.controls().supervisor().unwrap().kill();
    assert!(matches!(run.wait().await, Err(Error::GaveUp(_))));
    assert!(matches!(other.wait().await, Err(Error::GaveUp(_))), "its siblings go down with the network, interrupted");
    assert!(matches!(runtime.start(RunRequest::new("z")).await, Err(Error::Stopped)));
}

#[tokio::test]
async fn what_a_supervisor_had_not_written_down_when_it_panicked_has_not_been() {
    let mut passed = 0;
    let _injected = fault::inject(move |place| {
        let is_it = place.starts_with("run.handle");
        passed += usize::from(is_it);
        is_it && passed == 3
    });
    let (_runtime, run, provider) = started().await;
    let mut events = run.events();
    provider.let_through.add_permits(3);
    let report = run.wait().await.unwrap();
    assert_eq!(report.status, Status::Done);
    let mut seqs = Vec::new();
    let mut resumed = 0;
    while let Some(envelope) = events.next().await {
        resumed += usize::from(matches!(envelope.event, Event::RunResumed { .. }));
        seqs.push(envelope.seq);
    }
    assert_eq!(resumed, 1);
    assert!(seqs.iter().zip(1..).all(|(seq, nth)| *seq == nth), "{seqs:?}");
}

#[tokio::test(start_paused = true)]
async fn only_what_makes_no_progress_beyond_its_time_is_hung() {
    let (_runtime, run, provider) = started().await;
    let mut events = run.events();
    let begun = tokio::time::Instant::now();
    let mut hung = Vec::new();
    let end = loop {
        let envelope = events.next().await.unwrap();
        match &envelope.event {
            Event::Hung { what } => {
                hung.push((what.is_some(), begun.elapsed().as_secs()));
                provider.let_through.add_permits(usize::from(what.is_some()));
            }
            Event::RunEnded { end, .. } => break end.clone(),
            _ => {}
        }
    };
    // The model may take 10 s to connect and 120 s to its first word; five more are borne with, and looked at every five.
    let (said, after) = hung[0];
    assert!(said && (135..=145).contains(&after), "{hung:?}");
    assert_eq!((hung.len(), hung[1].0, end.status), (2, false, Status::Done), "it made progress again");
}

#[tokio::test]
async fn who_waits_for_a_turn_is_seen_to_wait() {
    let provider = Gated { asked: Arc::default(), let_through: Arc::new(Semaphore::new(0)) };
    let mut spec = network().spec().clone();
    spec.models["m"].in_flight = Some(1);
    let runtime = Runtime::builder(Network::new(spec).unwrap()).provider("m", provider.clone()).start().await.unwrap();
    let first = runtime.start(RunRequest::new("x")).await.unwrap();
    while provider.asked.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let second = runtime.start(RunRequest::new("y")).await.unwrap();
    let mut events = second.events();
    let mut state = crate::run::RunState::default();
    let one = AgentId::new("one");
    while state.health(&one) != Some(Health::AwaitingPermit) {
        state.evolve(&events.next().await.unwrap());
    }
    provider.let_through.add_permits(1);
    while state.health(&one) != Some(Health::AwaitingModel) {
        state.evolve(&events.next().await.unwrap());
    }
    provider.let_through.add_permits(1);
    assert_eq!(first.wait().await.unwrap().status, Status::Done);
    assert_eq!(second.wait().await.unwrap().status, Status::Done);
}

/// Lets the agent `one` ask three others, of which `two` answers, and the rest never do.
struct Crowd {
    asked: Arc<AtomicUsize>,
}

impl Provider for Crowd {
    fn call<'a>(
        &'a self,
        request: &'a Request,
        _: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, ModelError>> {
        Box::pin(async {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let ask =
                |name: &str| ToolCall { name: format!("ask_{name}"), arguments: r#"{"message": "?"}"#.to_owned() };
            match &*request.agent {
                "one" => Ok(Reply { tool_calls: ["two", "three", "four"].map(ask).into(), ..Reply::default() }),
                "two" => Ok(Reply { text: "done".to_owned(), ..Reply::default() }),
                _ => std::future::pending().await,
            }
        })
    }
}

#[tokio::test]
async fn the_agents_of_a_run_that_ends_stop_in_the_reverse_order_of_their_start() {
    let others = ["two", "three", "four"];
    let mut spec = network().spec().clone();
    spec.agents[0].delegates_to = others.map(str::to_owned).into();
    spec.agents.extend(others.map(|name| (name.to_owned(), AgentSpec::new("You are asked."))));
    let asked = Arc::new(AtomicUsize::new(0));
    let builder = Runtime::builder(Network::new(spec).unwrap());
    let runtime = builder.provider("m", Crowd { asked: asked.clone() }).start().await.unwrap();
    let run = runtime.start(RunRequest::new("x")).await.unwrap();
    while asked.load(Ordering::SeqCst) < 4 || runtime.fleet.router.len() > 3 {
        tokio::task::yield_now().await;
    }
    let watched = ["one", "one/three.1.1", "one/four.1.2"].map(|name| {
        let actor = runtime.fleet.router.actor(name).unwrap().get_cell();
        async move { actor.wait(None).await.map(|()| name) }
    });
    // It gives them in the order in which they end.
    let ended = FuturesUnordered::from_iter(watched).try_collect::<Vec<_>>();
    let cancelled = async {
        run.controls().cancel("enough");
        run.wait().await.unwrap().status
    };
    let (ended, status) = tokio::join!(ended, cancelled);
    assert_eq!((ended.unwrap(), status), (vec!["one/four.1.2", "one/three.1.1", "one"], Status::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_waits_for_long_is_put_to_sleep_and_woken_by_its_mail() {
    let (runtime, run, provider) = started().await;
    assert_eq!(runtime.fleet.router.len(), 1);
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(runtime.fleet.router.len(), 0, "it has an actor still");
    provider.let_through.add_permits(1);
    let report = run.wait().await.unwrap();
    assert_eq!((report.status, report.answer_text().as_deref()), (Status::Done, Some("done")));
    assert_eq!(report.agents[0].incarnations, 1, "sleep is no failure");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_fails_whenever_it_is_taken_up_is_given_up_and_its_run_is_not_lost_to_it() {
    let mut spec = network().spec().clone();
    spec.agents[0].restart.backoff = "1h..1h".parse().unwrap();
    let provider = Gated { asked: Arc::default(), let_through: Arc::new(Semaphore::new(0)) };
    let always = |_: &crate::run::Turn<'_>| -> crate::run::Move { panic!("not today") };
    let builder = Runtime::builder(Network::new(spec).unwrap()).provider("m", provider).agent("one", always);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start(RunRequest::new("x")).await.unwrap();
    let mut events = run.events();
    let mut failures = Vec::new();
    let end = loop {
        let envelope = events.next().await.unwrap();
        match &envelope.event {
            Event::AgentFailed { delivery, .. } => failures.push(*delivery),
            Event::RunEnded { end, .. } => break end.clone(),
            _ => {}
        }
        if failures.len() == 1 && matches!(envelope.event, Event::AgentFailed { .. }) {
            run.controls().supervisor().unwrap().kill();
        }
    };
    assert_eq!((failures, end.status), (vec![1, 2, 3], Status::Failed));
    assert_eq!(end.reason.as_deref(), Some("the message became a dead letter: not today"));
}

#[tokio::test]
async fn a_cancel_outlives_the_supervisor_that_heard_it() {
    let (_runtime, run, provider) = started().await;
    let mut passed = 0;
    let _injected = fault::inject(move |place| {
        passed += usize::from(place.starts_with("run.handle"));
        place.starts_with("run.handle") && passed == 1
    });
    run.controls().cancel("enough");
    let report = run.wait().await.unwrap();
    assert_eq!((report.status, report.reason.as_deref()), (Status::Cancelled, Some("enough")));
    assert_eq!(provider.asked.load(Ordering::SeqCst), 1, "it goes on after its cancel");
}

#[tokio::test]
async fn a_place_outlives_the_supervisor_of_the_run_that_has_it() {
    let mut spec = network().spec().clone();
    spec.agents[0].delegates_to = vec!["worker".to_owned()];
    spec.agents.insert("worker".to_owned(), AgentSpec { replicas: Some(1), ..AgentSpec::new("You work.") });
    spec.agents["worker"].scope = crate::spec::Scope::Network;
    let asks = |turn: &crate::run::Turn<'_>| match turn.step {
        1 => crate::run::Move::ask([("worker", "?".to_owned())]),
        _ => crate::run::Move::Answer("done".to_owned()),
    };
    let provider = Gated { asked: Arc::default(), let_through: Arc::new(Semaphore::new(0)) };
    let builder = Runtime::builder(Network::new(spec).unwrap()).provider("m", provider.clone()).agent("one", asks);
    let runtime = builder.start().await.unwrap();
    let asked = async |times| {
        while provider.asked.load(Ordering::SeqCst) < times {
            tokio::task::yield_now().await;
        }
    };
    let first = runtime.start(RunRequest::new("x")).await.unwrap();
    asked(1).await;
    let second = runtime.start(RunRequest::new("y")).await.unwrap();
    let mut events = second.events();
    while !matches!(events.next().await.unwrap().event, Event::Sent { .. }) {}
    first.controls().supervisor().unwrap().kill();
    // The call that was cut off is made again, and the question of the other run waits on.
    asked(2).await;
    assert!(second.controls().pause().await);
    assert_eq!(provider.asked.load(Ordering::SeqCst), 2);
    assert!(second.controls().unpause().await);
    provider.let_through.add_permits(3);
    assert_eq!(first.wait().await.unwrap().status, Status::Done);
    assert_eq!(second.wait().await.unwrap().status, Status::Done);
    assert!(runtime.fleet.recorder.mailboxes.are_idle());
}
