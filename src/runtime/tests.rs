//! What can only be done to the actors from inside: killing one, and seeing it end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::TryStreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;

use super::*;
use crate::model::{Error as ModelError, Reply, Request};
use crate::run::ToolCall;
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
