//! Agents that fail as soon as they are started, again and again: `hanging_restart_loop`. However long that lasts, the run
//! answers, and its other agents work.

use super::*;

fn patient(strategy: Strategy) -> Plan {
    Plan::new(strategy).intensity(1_000_000).pauses("1s..1s")
}

/// An agent whose every incarnation dies at once hangs in its restarts; the run answers all the same, can be told things,
/// and is cancelled at once.
#[tokio::test(start_paused = true)]
async fn hanging_restart_loop() {
    let world = patient(Strategy::OneForOne).start_all().await;
    world.haunt("b");
    world.kill("b").await;
    world.pass(30).await;
    assert!(world.incarnations(["b"])[0] >= 30);
    assert_eq!((world.restarting(), world.incarnations(["a", "c"])), (vec!["b".to_owned()], [1, 1]));
    assert_eq!(world.steer("b").await, Ok(()));
    world.says("c", "a thought").await;
    let report = world.end().await;
    assert_eq!((report.status, report.answer_text().as_deref()), (Status::Done, Some("a thought")));
}

/// The rest of a row hangs with the agent that it builds on, and those before it work.
#[tokio::test(start_paused = true)]
async fn hanging_restart_loop_rest_for_one() {
    let world = patient(Strategy::RestForOne).start_all().await;
    world.haunt("b");
    world.kill("b").await;
    world.pass(30).await;
    assert_eq!((world.restarting(), world.incarnations(["a"])), (vec!["b".to_owned(), "c".to_owned()], [1]));
    let [b, c] = world.incarnations(["b", "c"]);
    assert!(b == c && b >= 30, "{b} {c}");
    world.asks("a", &["c"]).await;
    world.says("a/c.1.0", "an answer").await;
    assert_eq!(world.read("a")[2..], ["an answer"]);
    world.ends_well().await;
}

/// Where all agents hang in their restarts the run can still be cancelled, and ends at once.
#[tokio::test(start_paused = true)]
async fn hanging_restart_loop_one_for_all() {
    let world = patient(Strategy::OneForAll).start_all().await;
    world.haunt("b");
    world.kill("b").await;
    world.pass(30).await;
    assert_eq!((world.restarting().len(), world.actors()), (3, 0));
    world.cancel().await;
}

/// One of several instances hangs in its restarts; the others answer, and who asked waits for all.
#[tokio::test(start_paused = true)]
async fn hanging_restart_loop_simple() {
    let world = patient(Strategy::OneForAll).start().await;
    world.asks("a", &["b", "b"]).await;
    let ghost = world.haunt("a/b.1.0");
    world.kill("a/b.1.0").await;
    world.pass(30).await;
    world.says("a/b.1.1", "an answer").await;
    assert_eq!((world.restarting(), world.models.asked("a").len()), (vec!["a/b.1.0".to_owned()], 1));
    ghost.abort();
    world.pass(2).await;
    world.says("a/b.1.0", "at last").await;
    assert_eq!(world.read("a")[2..], ["at last", "an answer"]);
    world.ends_well().await;
}

/// What fails again and again without a pause is stopped by the intensity, and not by anybody's patience.
#[tokio::test(start_paused = true)]
async fn restart_loop_without_a_pause() {
    let world = Plan::one_for_one().intensity(50).start_all().await;
    world.haunt("b");
    world.kill("b").await;
    assert_eq!(world.incarnations(["b"]), [51]);
    world.escalates().await;
}
