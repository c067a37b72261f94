//! Who is started again when one agent fails: `restart_one_for_one`, `restart_one_for_all` and `restart_rest_for_one`.

use super::*;

/// Kills `b`, between `a` and `c`; returns what follows.
async fn kill_the_middle(strategy: Strategy) -> String {
    let mut world = Plan::new(strategy).start_all().await;
    world.kill("b").await;
    let told = world.told();
    assert_eq!(["a", "b", "c"].map(|agent| world.models.asked(agent).len()), [1, 1, 1], "a call was made again");
    world.ends_well().await;
    told
}

/// Kills an agent more often than the run bears: it fails, and its agents stop, the last one to start first.
async fn kill_too_often(strategy: Strategy, agent: &str) {
    let mut world = Plan::new(strategy).intensity(1).start_all().await;
    world.kill(agent).await;
    assert!(world.told().ends_with("restarted"));
    let others: Vec<&'static str> = ["a", "b", "c"].into_iter().filter(|&other| other != agent).collect();
    let ended = world.watch(&others);
    world.kill(agent).await;
    assert_eq!(world.told(), format!("{agent} failed"));
    world.escalates().await;
    assert_eq!(*ended.lock().unwrap(), others.into_iter().rev().collect::<Vec<_>>());
}

/// Kills `a`, and lets the first incarnation of `b` after that fail at what it was told meanwhile; returns what follows.
async fn the_other_fails_too(strategy: Strategy) -> (String, [u32; 3]) {
    let mut world = Plan::new(strategy).pauses("1s..1s").start_all().await;
    world.kill("a").await;
    world.panics.set(1);
    world.steer("b").await.unwrap();
    world.pass(5).await;
    assert_eq!((world.restarting().len(), world.panics.get()), (0, 0));
    let (told, incarnations) = (world.told(), world.incarnations(["a", "b", "c"]));
    world.ends_well().await;
    (told, incarnations)
}

/// One agent fails, and the others do not notice: neither they nor the calls of any are begun again.
#[tokio::test(start_paused = true)]
async fn one_for_one() {
    assert_eq!(kill_the_middle(Strategy::OneForOne).await, "b failed, b restarted");
}

/// A run in which one agent fails again and again fails, since nobody in it can help.
#[tokio::test(start_paused = true)]
async fn one_for_one_escalation() {
    kill_too_often(Strategy::OneForOne, "a").await;
}

/// Two agents that are down at the same time come back each by itself, and neither waits for the other.
#[tokio::test(start_paused = true)]
async fn one_for_one_other_child_fails_restart() {
    let (told, incarnations) = the_other_fails_too(Strategy::OneForOne).await;
    assert_eq!(incarnations, [2, 2, 1]);
    let mut told: Vec<&str> = told.split(", ").collect();
    told.sort_unstable();
    assert_eq!(told, ["a failed", "a restarted", "b failed", "b restarted"]);
}

/// Agents that make no sense without each other are all stopped and started anew, in the order in which they started.
#[tokio::test(start_paused = true)]
async fn one_for_all() {
    let told = kill_the_middle(Strategy::OneForAll).await;
    assert_eq!(told, "a failed, b failed, c failed, a restarted, b restarted, c restarted");
}

/// A failure that takes all along counts once; one more than the run bears fails it.
#[tokio::test(start_paused = true)]
async fn one_for_all_escalation() {
    kill_too_often(Strategy::OneForAll, "b").await;
}

/// If another agent fails while all are coming back, all of them begin again, together.
#[tokio::test(start_paused = true)]
async fn one_for_all_other_child_fails_restart() {
    let (told, incarnations) = the_other_fails_too(Strategy::OneForAll).await;
    assert_eq!(incarnations, [3, 3, 3]);
    let once = "a failed, b failed, c failed, a restarted, b restarted, c restarted";
    assert_eq!(told, format!("{once}, {once}"));
}

/// Those who started after the one that fails build on it, and start again with it; those before do not notice.
#[tokio::test(start_paused = true)]
async fn rest_for_one() {
    assert_eq!(kill_the_middle(Strategy::RestForOne).await, "b failed, c failed, b restarted, c restarted");
}

/// A run fails, too, if what fails too often is the last of a row.
#[tokio::test(start_paused = true)]
async fn rest_for_one_escalation() {
    kill_too_often(Strategy::RestForOne, "c").await;
}

/// If another agent fails while a row comes back, the row begins again from there on.
#[tokio::test(start_paused = true)]
async fn rest_for_one_other_child_fails_restart() {
    let (told, incarnations) = the_other_fails_too(Strategy::RestForOne).await;
    assert_eq!(incarnations, [2, 3, 3]);
    let all = "a failed, b failed, c failed, a restarted, b restarted, c restarted";
    assert_eq!(told, format!("{all}, b failed, c failed, b restarted, c restarted"));
}

/// While the rest of a row waits to come back, one before it fails: all of them come back together, in order, and none is
/// counted as started that was not.
#[tokio::test(start_paused = true)]
async fn rest_for_one_earlier_child_fails_while_restarting() {
    let plan = Plan::new(Strategy::RestForOne).agent("b", |b| b.restart.backoff = "1s..1s".parse().unwrap());
    let mut world = plan.agent("a", |a| a.restart.backoff = "4s..4s".parse().unwrap()).start_all().await;
    world.kill("b").await;
    world.kill("a").await;
    assert_eq!(world.told(), "b failed, c failed, a failed, b failed, c failed");
    world.pass(1).await;
    assert_eq!(world.told(), "", "those behind came back before the one that they build on");
    world.pass(4).await;
    assert_eq!(world.told(), "a restarted, b restarted, c restarted");
    assert_eq!(world.incarnations(["a", "b", "c"]), [2, 2, 2]);
    world.ends_well().await;
}

/// Agents that have fallen asleep for want of work are taken along as if they were awake.
#[tokio::test(start_paused = true)]
async fn one_for_all_takes_sleepers_along() {
    let mut world = Plan::new(Strategy::OneForAll).start_all().await;
    world.pass(40).await;
    assert_eq!(world.actors(), 0);
    world.steer("b").await.unwrap();
    world.kill("b").await;
    assert_eq!(world.told(), "a failed, b failed, c failed, a restarted, b restarted, c restarted");
    assert_eq!((world.incarnations(["a", "b", "c"]), world.actors()), ([2, 2, 2], 3));
    world.ends_well().await;
}
