//! With whose end a run ends: `significant`, where what is significant is who stands for the run.

use super::*;

/// The first answer of an agent that stands for the run is the run's: the others are stopped, the last one to start first.
#[tokio::test(start_paused = true)]
async fn significant_transient() {
    let world = Plan::one_for_one().start_all().await;
    let ended = world.watch(&["a", "c"]);
    world.says("b", "first").await;
    let report = world.end().await;
    assert_eq!((report.status, report.answer_text().as_deref()), (Status::Done, Some("first")));
    assert_eq!(*ended.lock().unwrap(), ["c", "a"]);
}

/// A run whose only agent that stands for it is given up has failed.
#[tokio::test(start_paused = true)]
async fn significant_temporary() {
    let world = Plan::one_for_one().kind("a", RestartKind::Temporary).start().await;
    world.asks("a", &["b"]).await;
    world.kill("a").await;
    let report = world.end().await;
    assert_eq!((report.status, report.agents[0].status.as_str()), (Status::Failed, "failed"));
    assert!(report.reason.unwrap().contains("dead letter"));
}

/// A run that several agents stand for fails when the last of them has been given up.
#[tokio::test(start_paused = true)]
async fn all_significant() {
    let plan = ["a", "b", "c"].into_iter().fold(Plan::one_for_one(), |plan, a| plan.kind(a, RestartKind::Temporary));
    let mut world = plan.start_all().await;
    for agent in ["b", "a"] {
        world.kill(agent).await;
        assert_eq!(world.told(), format!("{agent} failed, dead letter for {agent}, {agent} gone"));
        assert!(world.run.controls().is_live());
    }
    world.kill("c").await;
    assert_eq!(world.end().await.status, Status::Failed);
}

/// An agent that stands for the run and is given up because another failed leaves the run to the others.
#[tokio::test(start_paused = true)]
async fn significant_bystander() {
    let mut world = Plan::new(Strategy::OneForAll).kind("a", RestartKind::Temporary).start_all().await;
    world.kill("c").await;
    assert_eq!(world.told(), "a failed, b failed, c failed, dead letter for a, a gone, b restarted, c restarted");
    assert_eq!(world.run.controls().steer(None, "hear me".to_owned()).await, Ok(()));
    world.says("b", "a thought").await;
    assert_eq!(world.read("b"), ["the question", "a thought", "hear me"]);
    world.says("b", "done").await;
    assert_eq!(world.end().await.status, Status::Done);
}

/// The end of an agent that only answers a question is not the run's, whatever its kind: who asked hears of it.
#[tokio::test(start_paused = true)]
async fn nonsignificant_temporary() {
    let world = Plan::one_for_one().kind("c", RestartKind::Temporary).start().await;
    world.asks("a", &["b", "c"]).await;
    world.says("a/b.1.0", "an answer").await;
    world.kill("a/c.1.1").await;
    let read = world.read("a");
    assert!(read[2] == "an answer" && read[3].contains("became a dead letter: killed"), "{read:?}");
    world.ends_well().await;
}

/// Too many restarts end the run though those who stand for it are well.
#[tokio::test(start_paused = true)]
async fn significant_escalation() {
    let world = Plan::one_for_one().intensity(2).start_all().await;
    world.asks("c", &[]).await;
    for _ in 0..3 {
        world.kill("b").await;
    }
    assert_eq!(world.incarnations(["a", "c"]), [1, 1]);
    world.escalates().await;
}
