//! How restarts are counted and how long they wait.

use super::*;
use crate::spec::OnError;

/// Returns the pauses before the restarts so far, in milliseconds.
fn pauses(world: &World) -> Vec<u64> {
    let pause = |envelope: &Arc<Envelope>| match envelope.event {
        Event::AgentFailed { restart_in_ms, .. } => restart_in_ms,
        _ => None,
    };
    world.run.log.snapshot().iter().filter_map(pause).collect()
}

/// Two agents that fail at the same instant have failed twice where each is started again by itself, and once where one
/// takes the other along.
#[tokio::test(start_paused = true)]
async fn simultaneous_failures() {
    for (strategy, is_borne) in
        [(Strategy::OneForOne, false), (Strategy::OneForAll, true), (Strategy::RestForOne, true)]
    {
        let world = Plan::new(strategy).intensity(1).start_all().await;
        for agent in ["a", "b"] {
            world.runtime.fleet.router.actor(agent).unwrap().kill();
        }
        world.settle().await;
        match is_borne {
            true => {
                assert_eq!(world.incarnations(["a", "b", "c"]), [2, 2, 2], "{strategy:?}");
                world.ends_well().await;
            }
            false => world.escalates().await,
        }
    }
}

/// Restarts are forgotten when they are older than the period, each by itself: a run bears any number of failures that come
/// slowly enough.
#[tokio::test(start_paused = true)]
async fn restart_intensity_window_slides() {
    let world = Plan::one_for_one().intensity(2).start_all().await;
    for (agent, secs) in [("a", 6), ("b", 5), ("c", 6), ("a", 5), ("b", 5)] {
        world.kill(agent).await;
        world.pass(secs).await;
    }
    assert_eq!(world.incarnations(["a", "b", "c"]), [3, 3, 2]);
    world.kill("c").await;
    world.kill("c").await;
    world.escalates().await;
}

/// With an intensity of nought no failure is borne.
#[tokio::test(start_paused = true)]
async fn restart_intensity_zero() {
    let mut world = Plan::one_for_one().intensity(0).start_all().await;
    world.kill("c").await;
    assert_eq!(world.told(), "c failed");
    world.escalates().await;
}

/// The failures of all agents count together: a run in which each fails once has failed as often as it has agents.
#[tokio::test(start_paused = true)]
async fn restart_intensity_is_shared() {
    let world = Plan::one_for_one().intensity(2).start_all().await;
    for agent in ["a", "b", "c"] {
        world.kill(agent).await;
    }
    world.escalates().await;
}

/// An agent that fails again and again comes back more and more slowly, up to a longest pause; one that has gone without a
/// failure for a period comes back as quickly as at first.
#[tokio::test(start_paused = true)]
async fn restart_pauses_double_and_are_forgotten() {
    let world = Plan::one_for_one().intensity(20).period(60).pauses("1s..8s").start().await;
    for _ in 0..5 {
        world.kill("a").await;
        let pause = pauses(&world).pop().unwrap();
        tokio::time::sleep(Duration::from_millis(pause - 2)).await;
        assert_eq!(world.restarting(), ["a"], "it came back early");
        tokio::time::sleep(Duration::from_millis(4)).await;
        assert!(world.restarting().is_empty(), "it came back late");
    }
    world.pass(61).await;
    // It has fallen asleep for want of work.
    world.steer("a").await.unwrap();
    world.kill("a").await;
    world.pass(2).await;
    for (nth, (pause, longest)) in pauses(&world).into_iter().zip([1000, 2000, 4000, 8000, 8000, 1000]).enumerate() {
        assert!((longest / 2..=longest).contains(&pause), "pause {nth} is {pause} ms, and at most {longest}");
    }
    world.says("a", "a thought").await;
    world.ends_well().await;
}

/// The pause of one agent grows with its own failures alone.
#[tokio::test(start_paused = true)]
async fn restart_pauses_are_per_child() {
    let world = Plan::one_for_one().intensity(20).period(60).pauses("1s..8s").start_all().await;
    for agent in ["a", "a", "a", "b"] {
        world.kill(agent).await;
        world.pass(5).await;
    }
    let pauses = pauses(&world);
    assert!(pauses[2] >= 2000 && pauses[3] <= 1000, "{pauses:?}");
    world.ends_well().await;
}

/// What an agent is told while it is down waits for its next incarnation, and a call that was under way goes on meanwhile:
/// its result waits as well.
#[tokio::test(start_paused = true)]
async fn calls_and_mail_survive_a_restart() {
    let mut world = Plan::one_for_one().pauses("8s..8s").start().await;
    world.kill("a").await;
    world.steer("a").await.unwrap();
    world.says("a", "a first answer").await;
    assert_eq!((world.told().as_str(), world.models.asked("a").len()), ("a failed", 1));
    world.pass(9).await;
    assert_eq!((world.told().as_str(), world.models.asked("a").len()), ("a restarted", 2));
    assert_eq!(world.read("a"), ["the question", "a first answer", "a word"]);
    world.ends_well().await;
}

/// The record says of each failure which incarnation it was that failed.
#[tokio::test(start_paused = true)]
async fn a_failure_is_that_of_the_incarnation_that_failed() {
    let world = Plan::new(Strategy::OneForAll).start_all().await;
    world.kill("b").await;
    let lived = |envelope: &Arc<Envelope>| match envelope.event {
        Event::AgentFailed { .. } | Event::AgentRestarted { .. } => Some(envelope.incarnation),
        _ => None,
    };
    let lived: Vec<u32> = world.run.log.snapshot().iter().filter_map(lived).collect();
    assert_eq!(lived, [1, 1, 1, 2, 2, 2]);
    world.ends_well().await;
}

/// The tools of one step that panic together bring their agent down once: it can't fail while it is down.
#[tokio::test(start_paused = true)]
async fn simultaneous_failures_of_one_child() {
    let mut world = Plan::one_for_one().intensity(1).pauses("1s..1s").tool("broken").start().await;
    world.calls("a", std::iter::repeat_n(("broken".to_owned(), "{}".to_owned()), 3)).await;
    assert_eq!(world.told(), "a failed");
    world.pass(2).await;
    assert_eq!(world.told(), "a restarted");
    assert_eq!(world.read("a").iter().filter(|text| text.contains("the tool panicked: broken")).count(), 3);
    world.ends_well().await;
}

/// An agent that is to be started again when its model fails asks the model again in its next incarnation.
#[tokio::test(start_paused = true)]
async fn a_failed_operation_restarts_its_child() {
    let mut world = Plan::one_for_one().pauses("1s..1s").agent("a", |a| a.on_error = OnError::Restart).start().await;
    let (status, message) = (400, "no".to_owned());
    world.models.replies("a", Err(ModelError::BadRequest { status, message }));
    world.settle().await;
    assert_eq!(world.told(), "a failed");
    world.pass(2).await;
    assert_eq!((world.told().as_str(), world.models.asked("a").len()), ("a restarted", 2));
    world.ends_well().await;
}
