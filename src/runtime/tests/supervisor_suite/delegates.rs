//! Agents that a question brings into being, which are outside the strategy: `restart_simple_one_for_one`.

use super::*;

const TWO: [&str; 2] = ["a/b.1.0", "a/b.1.1"];

/// An agent that a question brought into being is started again alone, whatever the strategy; and one that stands for itself
/// takes none of them along.
#[tokio::test(start_paused = true)]
async fn simple_one_for_one() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        let mut world = Plan::new(strategy).start().await;
        world.asks("a", &["b", "b"]).await;
        world.told();
        world.kill("a/b.1.0").await;
        assert_eq!(world.told(), "a/b.1.0 failed, a/b.1.0 restarted", "{strategy:?}");
        world.kill("a").await;
        assert_eq!(world.told(), "a failed, a restarted", "{strategy:?}");
        for agent in TWO {
            world.says(agent, agent).await;
        }
        assert_eq!(world.read("a")[2..], TWO, "{strategy:?}");
        world.ends_well().await;
    }
}

/// A run that is cancelled stops all agents that questions have brought into being.
#[tokio::test(start_paused = true)]
async fn simple_one_for_one_shutdown() {
    let world = Plan::one_for_one().start().await;
    world.asks("a", &["b"; 20]).await;
    assert_eq!(world.actors(), 21);
    world.cancel().await;
}

/// Each of several instances of one agent has its own question, and still has it in its next incarnation.
#[tokio::test(start_paused = true)]
async fn simple_one_for_one_extra() {
    let world = Plan::one_for_one().start().await;
    world.asks("a", &["b", "b"]).await;
    for (nth, agent) in TWO.into_iter().enumerate() {
        world.kill(agent).await;
        world.steer(agent).await.unwrap();
        world.says(agent, "a thought").await;
        assert_eq!(world.read(agent), [&format!("question {nth}"), "a thought", "a word"]);
    }
    world.cancel().await;
}

/// An agent that fails too often fails the run, though it stands for nothing but a question.
#[tokio::test(start_paused = true)]
async fn simple_one_for_one_escalation() {
    let world = Plan::one_for_one().intensity(1).start().await;
    world.asks("a", &["b", "b"]).await;
    world.kill("a/b.1.0").await;
    let ended = world.watch(&["a", "a/b.1.1"]);
    world.kill("a/b.1.0").await;
    world.escalates().await;
    assert_eq!(*ended.lock().unwrap(), ["a/b.1.1", "a"]);
}

/// Agents of kind temporary leave nothing behind, however many of them are killed; who asked is told of each, and restarts
/// are not counted where there are none.
#[tokio::test(start_paused = true)]
async fn simple_one_for_one_scale_many_temporary_children() {
    let world = Plan::one_for_one().kind("b", RestartKind::Temporary).start().await;
    for round in 1..=8 {
        world.asks("a", &["b"; 64]).await;
        assert_eq!(world.actors(), 65);
        for nth in 0..64 {
            world.runtime.fleet.router.actor(&format!("a/b.{round}.{nth}")).unwrap().kill();
        }
        world.settle().await;
        assert_eq!(world.actors(), 1);
        assert_eq!(world.state().dead_letters(), 64 * round);
    }
    let told = world.read("a").iter().filter(|text| text.contains("became a dead letter")).count();
    assert_eq!(told, 8 * 64);
    world.ends_well().await;
}

/// An agent of which only one may be at work keeps its place in the mailbox while it is started again, and the next question
/// has its turn when the first is answered or given up.
#[tokio::test(start_paused = true)]
async fn simple_one_for_one_keeps_its_place() {
    for kind in [RestartKind::Transient, RestartKind::Temporary] {
        let mut world = Plan::one_for_one().kind("b", kind).agent("b", |b| b.replicas = Some(1)).start().await;
        world.asks("a", &["b", "b"]).await;
        assert_eq!(world.told(), "a/b.1.0 started");
        world.kill("a/b.1.0").await;
        if kind == RestartKind::Transient {
            assert_eq!(world.told(), "a/b.1.0 failed, a/b.1.0 restarted");
            world.says("a/b.1.0", "first").await;
        }
        assert!(world.told().ends_with("a/b.1.1 started"));
        world.says("a/b.1.1", "second").await;
        world.ends_well().await;
    }
}

/// An agent that stops without an answer is given up unless it is permanent, and who asked it is told so.
#[tokio::test(start_paused = true)]
async fn simple_one_for_one_normal() {
    for (kind, is_back) in [(RestartKind::Permanent, true), (RestartKind::Transient, false)] {
        let mut world = Plan::one_for_one().kind("b", kind).start().await;
        world.asks("a", &["b"]).await;
        world.told();
        world.stop("a/b.1.0", None).await;
        let given_up = "a/b.1.0 failed, dead letter for a/b.1.0, a/b.1.0 gone";
        assert_eq!(world.told(), if is_back { "a/b.1.0 failed, a/b.1.0 restarted" } else { given_up });
        assert_eq!(world.read("a").last().unwrap().contains("gave no answer"), !is_back);
        world.cancel().await;
    }
}
