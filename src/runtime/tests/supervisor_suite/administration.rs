//! What can be asked of a run about its agents, and said to them: `child_adm`, `child_specs`, `count_children` and their
//! like.

use std::path::Path;

use super::*;

/// An agent is spoken to by its name: while it is at work, and while it waits to be started again; not before it is there,
/// nor when it has ended.
#[tokio::test(start_paused = true)]
async fn child_adm() {
    let mut world = Plan::one_for_one().pauses("1s..1s").kind("c", RestartKind::Temporary).start().await;
    assert_eq!(world.steer("b").await, Err("has no agent `b` at work".to_owned()));
    world.stand(&["b", "c"]).await;
    assert_eq!(world.steer("b").await, Ok(()));
    world.kill("b").await;
    assert_eq!((world.restarting(), world.steer("b").await), (vec!["b".to_owned()], Ok(())));
    world.kill("c").await;
    assert_eq!(world.steer("c").await, Err("has no agent `c` at work".to_owned()));
    world.pass(2).await;
    world.says("b", "a thought").await;
    assert_eq!(world.read("b"), ["the question", "a thought", "a word", "a word"]);
    world.ends_well().await;
}

/// Of several instances of one agent the one that is named hears what is said, and no other.
#[tokio::test(start_paused = true)]
async fn child_adm_simple() {
    let world = Plan::one_for_one().start().await;
    world.asks("a", &["b", "b"]).await;
    for unknown in ["b", "a/b.1.2", "a/b"] {
        assert!(world.steer(unknown).await.is_err(), "{unknown}");
    }
    world.steer("a/b.1.1").await.unwrap();
    for agent in ["a/b.1.0", "a/b.1.1"] {
        world.says(agent, "a thought").await;
    }
    assert_eq!(world.models.asked("a/b.1.0").len(), 1);
    assert_eq!(world.read("a/b.1.1"), ["question 1", "a thought", "a word"]);
    world.cancel().await;
}

/// What makes no sense of a child or its supervisor is refused before anything starts.
#[test]
fn child_specs() {
    let parse = |lines: &str| {
        let text = format!("network.name = \"n\"\nnetwork.entry = \"a\"\nagents.a.prompt = \"x\"\n{lines}");
        Network::parse("n.toml", &text, Path::new("."))
    };
    assert!(parse(r#"supervision = { strategy = "rest_for_one", intensity = 0, period = "1ms" }"#).is_ok());
    assert!(parse(r#"agents.a.restart = { kind = "temporary", backoff = "0s..1s" }"#).is_ok());
    for faulty in [
        r#"supervision.strategy = "one_for_none""#,
        r#"supervision.intensity = -1"#,
        r#"supervision.period = "0s""#,
        r#"supervision.frequency = 1"#,
        r#"agents.a.restart.kind = "sometimes""#,
        r#"agents.a.restart.backoff = "1s..0s""#,
        r#"agents.a.restart.significant = true"#,
    ] {
        assert!(parse(faulty).is_err(), "{faulty}");
    }
}

/// A run knows which of its agents are alive, and which have been.
#[tokio::test(start_paused = true)]
async fn count_children() {
    let world = Plan::one_for_one().kind("c", RestartKind::Temporary).start().await;
    let count = || {
        let state = world.state();
        let living = state.agents().values().filter(|instance| instance.outcome.is_none()).count();
        (state.agents().len(), living, world.actors())
    };
    assert_eq!(count(), (1, 1, 1));
    world.asks("a", &["b", "b", "c"]).await;
    assert_eq!(count(), (4, 4, 4));
    world.kill("a/b.1.0").await;
    assert_eq!(count(), (4, 4, 4), "an agent that was started again is the same one");
    world.kill("a/c.1.2").await;
    world.says("a/b.1.1", "done").await;
    assert_eq!(count(), (4, 2, 2));
    world.cancel().await;
}

/// A run knows which of its agents wait to be started again.
#[tokio::test(start_paused = true)]
async fn count_restarting_children() {
    let world = Plan::new(Strategy::RestForOne).pauses("2s..2s").start_all().await;
    world.asks("a", &["c"]).await;
    assert_eq!((world.restarting().len(), world.actors()), (0, 4));
    world.kill("b").await;
    assert_eq!((world.restarting(), world.actors()), (vec!["b".to_owned(), "c".to_owned()], 2));
    world.kill("a/c.1.0").await;
    assert_eq!((world.restarting().len(), world.actors()), (3, 1));
    world.pass(3).await;
    assert_eq!((world.restarting().len(), world.actors()), (0, 4));
    world.cancel().await;
}

/// Agents are in the order in which they were to start, and a restart does not change it.
#[tokio::test(start_paused = true)]
async fn order_of_children() {
    let mut world = Plan::new(Strategy::OneForAll).start().await;
    world.stand(&["c", "b"]).await;
    assert_eq!(world.told(), "c started, b started");
    for agent in ["c", "a"] {
        world.kill(agent).await;
        assert_eq!(world.told(), "a failed, c failed, b failed, a restarted, c restarted, b restarted");
    }
    let ended = world.watch(&["a", "b", "c"]);
    world.cancel().await;
    assert_eq!(*ended.lock().unwrap(), ["b", "c", "a"]);
}

/// An agent whose actor has got loose from its supervisor is stopped with its run all the same.
#[tokio::test(start_paused = true)]
async fn child_unlink() {
    let world = Plan::one_for_one().start_all().await;
    let actor = world.runtime.fleet.router.actor("b").unwrap();
    actor.get_cell().unlink(world.run.controls().supervisor().unwrap().get_cell());
    let ended = world.watch(&["b"]);
    world.ends_well().await;
    assert_eq!(*ended.lock().unwrap(), ["b"]);
}

/// In a tree of agents that ask one another each is started again in its place, while those above and below it go on; and the
/// answers rise through those that were.
#[tokio::test(start_paused = true)]
async fn tree() {
    let mut world = Plan::one_for_one().start().await;
    world.asks("a", &["b"]).await;
    world.asks("a/b.1.0", &["c", "c"]).await;
    world.told();
    for agent in ["a/b.1.0", "a/b.1.0/c.1.1", "a"] {
        world.kill(agent).await;
        assert_eq!(world.told(), format!("{agent} failed, {agent} restarted"));
    }
    world.says("a/b.1.0/c.1.0", "one").await;
    world.says("a/b.1.0/c.1.1", "two").await;
    assert_eq!(world.read("a/b.1.0"), ["question 0", "", "one", "two"]);
    world.says("a/b.1.0", "both").await;
    assert_eq!(world.read("a"), ["the question", "", "both"]);
    world.ends_well().await;
}

/// With an agent that is given up goes the whole tree beneath it, the last one to start first: nobody waits for what it would
/// say. Its calls are stopped, and charged in full, since nobody knows what they have cost.
#[tokio::test(start_paused = true)]
async fn tree_of_a_child_that_is_given_up() {
    let mut world = Plan::one_for_one().kind("b", RestartKind::Temporary).start().await;
    world.asks("a", &["b"]).await;
    world.asks("a/b.1.0", &["c", "c"]).await;
    world.says("a/b.1.0/c.1.0", "one").await;
    world.steer("a/b.1.0/c.1.1").await.unwrap();
    world.told();
    assert_eq!(world.models.thinking(), ["a/b.1.0/c.1.1"]);
    world.kill("a/b.1.0").await;
    assert_eq!(
        world.told(),
        "a/b.1.0 failed, dead letter for a/b.1.0, a/b.1.0/c.1.1 gone, a/b.1.0 gone",
        "what is beneath ends first, and once"
    );
    assert_eq!((world.actors(), world.models.thinking()), (1, vec!["a".to_owned()]));
    world.says("a", "done").await;
    let report = world.end().await;
    let charged: Vec<u64> = report.agents.iter().map(|agent| agent.usage.charged_tokens).collect();
    assert!(charged[3] > 1000, "{charged:?}");
    assert_eq!(charged.iter().sum::<u64>(), report.usage.charged_tokens);
}

/// A question that waits in a mailbox goes with the agent that asked it, and the next one has its turn.
#[tokio::test(start_paused = true)]
async fn questions_of_a_child_that_is_given_up() {
    let plan = Plan::one_for_one().kind("b", RestartKind::Temporary).agent("c", |c| c.replicas = Some(1));
    let mut world = plan.start().await;
    world.asks("a", &["b", "c", "b"]).await;
    world.asks("a/b.1.0", &["c"]).await;
    world.asks("a/b.1.2", &["c"]).await;
    world.told();
    world.kill("a/b.1.0").await;
    world.says("a/c.1.1", "one").await;
    assert_eq!(
        world.told(),
        "a/b.1.0 failed, dead letter for a/b.1.0, a/b.1.0 gone, a/c.1.1 done, a/b.1.2/c.1.0 started"
    );
    world.says("a/b.1.2/c.1.0", "two").await;
    world.says("a/b.1.2", "three").await;
    world.ends_well().await;
}
