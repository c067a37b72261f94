//! How networks and runs start and stop: `sup_start` and `sup_stop`.

use tokio::time::Instant;

use super::*;
use crate::run::RunId;
use crate::runtime::{Error, MAX_INPUT_BYTES};
use crate::spec::{MailboxSpec, Template, WhenFull};

/// A network that has been started waits for runs, and has no agent until there is one.
#[tokio::test(start_paused = true)]
async fn sup_start_normal() {
    let (runtime, models) = Plan::one_for_one().network().await;
    assert_eq!((runtime.fleet.router.len(), models.asked("a").len()), (0, 0));
    let world = World::new(runtime, models, 0).await;
    assert_eq!((world.actors(), world.models.asked("a").len()), (1, 1));
    world.ends_well().await;
}

/// A run that can't be made ready is refused to who wanted it, and the network goes on with the others.
#[tokio::test(start_paused = true)]
async fn sup_start_fail() {
    let world = Plan::one_for_one().start().await;
    let refused = world.runtime.start(RunRequest::new("x".repeat(MAX_INPUT_BYTES + 1))).await;
    assert!(matches!(refused.map(drop), Err(Error::InputTooLong(_))));
    for (session, tenant, named) in [(Some(""), "t", "session"), (Some("\t"), "t", "session"), (None, " ", "tenant")] {
        let request = RunRequest { session: session.map(Into::into), tenant: tenant.into(), ..RunRequest::new("x") };
        let refused = world.runtime.start(request).await;
        assert!(matches!(refused.map(drop), Err(Error::NotAName { of, .. }) if of == named), "{session:?} {tenant:?}");
    }
    assert_eq!(world.actors(), 1);
    world.ends_well().await;
}

/// A prompt that can't be written for a run's input starts nothing of that run, and what other inputs come to is their own.
#[tokio::test(start_paused = true)]
async fn sup_start_error_return() {
    let prompt = "You know {{ vars.words | length }} words.";
    assert!(Template::parse(prompt).is_ok());
    let (runtime, models) = Plan::one_for_one().agent("b", |b| b.prompt = prompt.to_owned()).network().await;
    let refused = runtime.start(RunRequest::new("x")).await;
    assert!(matches!(refused.map(drop), Err(Error::Template { .. })));
    assert_eq!((runtime.fleet.router.len(), models.asked("a").len()), (0, 0));
    let vars = [("words".to_owned(), "many".to_owned())].into();
    let run = runtime.start(RunRequest { vars, ..RunRequest::new("x") }).await.unwrap();
    models.replies("a", Ok(Reply { text: "done".to_owned(), ..Reply::default() }));
    assert_eq!(report(run).await.status, Status::Done);
}

/// If one of the agents that are to stand for a run can't be started, the run fails, and those before it are stopped.
#[tokio::test(start_paused = true)]
async fn sup_start_child_returns_error() {
    let mut world = Plan::one_for_one().start().await;
    let ended = world.watch(&["a"]);
    world.stand(&["b", "nobody", "c"]).await;
    assert_eq!(world.told(), "b started", "who comes after one that can't be started was started");
    let report = world.end().await;
    assert_eq!((report.status, report.reason.as_deref()), (Status::Failed, Some("there is no agent `nobody`")));
    assert_eq!(*ended.lock().unwrap(), ["a"]);
}

/// An instance that may not be started is not there, and nothing fails by that: who asked is told, and goes on.
#[tokio::test(start_paused = true)]
async fn sup_start_ignore_child() {
    let mailbox = MailboxSpec { capacity: 1, when_full: WhenFull::Reject };
    let plan = Plan::one_for_one().agent("b", |b| (b.replicas, b.mailbox) = (Some(1), mailbox));
    let mut world = plan.start().await;
    world.asks("a", &["b", "b", "b"]).await;
    assert_eq!(world.told(), "a/b.1.0 started");
    world.says("a/b.1.0", "one").await;
    world.says("a/b.1.1", "two").await;
    assert_eq!(world.told(), "a/b.1.0 done, a/b.1.1 started, a/b.1.1 done");
    assert!(world.read("a")[4].contains("the mailbox of `b` is full"));
    world.ends_well().await;
}

/// An agent that fails at its question in each incarnation is given the question so often and no more.
#[tokio::test(start_paused = true)]
async fn sup_start_restart_child_returns_error() {
    let plan = Plan::one_for_one().agent("a", |a| a.max_deliveries = 3);
    let world = plan.start_with_panics(u32::MAX).await;
    let panics = u32::MAX - world.panics.get();
    let report = world.end().await;
    assert_eq!((panics, report.status, report.agents[0].incarnations), (3, Status::Failed, 3));
    assert!(report.reason.unwrap().contains("dead letter"));
}

/// A second run of the same name is refused, and the first one does not notice.
#[tokio::test(start_paused = true)]
async fn already_started() {
    let (runtime, models) = Plan::one_for_one().network().await;
    let world = World::new(runtime, models, 0).await;
    let again = RunRequest { id: Some(RunId::new(world.run.id().as_str())), ..RunRequest::new("x") };
    assert!(matches!(world.runtime.start(again).await.map(drop), Err(Error::Unfit { .. })));
    assert_eq!((world.actors(), world.incarnations(["a"])), (1, [1]));
    world.ends_well().await;
}

/// A run whose agent fails at the very beginning, however often it is started, fails by itself: the network stays up, and
/// its next run is well.
#[tokio::test(start_paused = true)]
async fn faulty_application_shutdown() {
    let plan = Plan::one_for_one().agent("a", |a| a.max_deliveries = 100);
    let World { runtime, models, run, panics, _injected, .. } = plan.start_with_panics(u32::MAX).await;
    let report = report(run).await;
    assert_eq!((report.status, report.agents[0].incarnations), (Status::Failed, 4));
    panics.set(0);
    drop(_injected);
    World::new(runtime, models, 0).await.ends_well().await;
}

/// A network that shuts down waits until the last agent of the last run is gone, and starts nothing more.
#[tokio::test(start_paused = true)]
async fn sup_stop_infinity() {
    let mut world = Plan::one_for_one().start_all().await;
    let other = world.runtime.start(RunRequest::new("another question")).await.unwrap();
    world.settle().await;
    assert_eq!(world.actors(), 4);
    let (fleet, supervisor) = (world.runtime.fleet.clone(), world.runtime.supervisor.clone());
    world.told();
    world.runtime.shutdown().await;
    assert_eq!(fleet.router.len(), 0);
    for run in [world.run, other] {
        assert_eq!(report(run).await.status, Status::Cancelled);
    }
    supervisor.get_cell().wait(None).await.unwrap();
}

/// Cancels a run in which `a` has two tools at work that need a second to stop; returns how many of them come to their
/// ends, and after how many milliseconds the run does.
async fn stop_slow_tools(shutdown: Span) -> (usize, u128) {
    let mut plan = Plan::one_for_one().tool("slow");
    plan.spec.supervision.shutdown = shutdown;
    let world = plan.start().await;
    world.calls("a", std::iter::repeat_n(("slow".to_owned(), "{}".to_owned()), 2)).await;
    let (stopped, log, begun) = (world.models.stopped.clone(), world.run.log.clone(), Instant::now());
    world.run.controls().cancel("enough");
    let mut events = log.reader();
    while events.next().await.is_some() {}
    let took = begun.elapsed().as_millis();
    assert_eq!(world.end().await.status, Status::Cancelled);
    (stopped.load(Ordering::SeqCst), took)
}

/// What is told to stop, and does so within the time that the network gives, is waited for.
#[tokio::test(start_paused = true)]
async fn sup_stop_manual_timeout() {
    assert_eq!(stop_slow_tools(Span::from_secs(5)).await, (2, 1000));
}

/// What does not stop within the time that the network gives is aborted then.
#[tokio::test(start_paused = true)]
async fn sup_stop_timeout() {
    assert_eq!(stop_slow_tools(Span::from_millis(400)).await, (0, 400));
}

/// Where the network gives no time nothing is waited for.
#[tokio::test(start_paused = true)]
async fn sup_stop_without_a_timeout() {
    assert_eq!(stop_slow_tools(Span::from_millis(0)).await, (0, 0));
}

/// A run that is cancelled stops its agents in the reverse order of their start, those that wait to be started again too.
#[tokio::test(start_paused = true)]
async fn sup_stop_order() {
    let mut world = Plan::one_for_one().pauses("9s..9s").start_all().await;
    let ended = world.watch(&["a", "b", "c"]);
    world.kill("b").await;
    world.run.controls().cancel("enough");
    world.settle().await;
    assert_eq!(*ended.lock().unwrap(), ["b", "c", "a"]);
    world.pass(10).await;
    assert_eq!(world.told(), "b failed", "an agent came back into a run that was over");
    assert_eq!(world.end().await.status, Status::Cancelled);
}

/// The agents of a run do not outlive its supervisor: if that is killed they die with it, and come back with the next one,
/// which goes on from the record. Other runs do not notice.
#[tokio::test(start_paused = true)]
async fn sup_stop_brutal_kill() {
    let world = Plan::one_for_one().start_all().await;
    let other = world.runtime.start(RunRequest::new("another question")).await.unwrap();
    world.settle().await;
    let ended = world.watch(&["b", "c"]);
    world.run.controls().supervisor().unwrap().kill();
    world.settle().await;
    let mut gone = ended.lock().unwrap().clone();
    gone.sort_unstable();
    assert_eq!(gone, ["b", "c"]);
    assert_eq!((world.incarnations(["a", "b", "c"]), world.actors()), ([2, 2, 2], 4));
    world.says("b", "done").await;
    other.controls().cancel("enough");
    assert_eq!(report(other).await.agents[0].incarnations, 1);
    assert_eq!(world.end().await.answer_text().as_deref(), Some("done"));
}

/// Agents that a question brought into being die with the run's supervisor as well, and come back to their questions.
#[tokio::test(start_paused = true)]
async fn sup_stop_brutal_kill_dynamic() {
    let world = Plan::one_for_one().start().await;
    world.asks("a", &["b", "b", "c"]).await;
    world.run.controls().supervisor().unwrap().kill();
    world.settle().await;
    assert_eq!(world.incarnations(["a", "a/b.1.0", "a/b.1.1", "a/c.1.2"]), [2, 2, 2, 2]);
    for agent in ["a/b.1.0", "a/b.1.1", "a/c.1.2"] {
        world.says(agent, agent).await;
    }
    assert_eq!(world.read("a")[2..], ["a/b.1.0", "a/b.1.1", "a/c.1.2"]);
    world.ends_well().await;
}
