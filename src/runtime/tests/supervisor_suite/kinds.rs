//! Which ends of an agent's actor are followed by a restart: `normal_termination`, `shutdown_termination` and
//! `abnormal_termination`.

use super::*;
use RestartKind::{Permanent, Temporary, Transient};

/// How an actor ends.
enum End {
    Normal,
    Shutdown,
    Abnormal,
}

/// Lets the actor of `b` end, which is of this kind and stands beside `a`; returns what follows. `a` notices nothing.
async fn after(kind: RestartKind, end: End) -> String {
    let mut world = Plan::one_for_one().kind("b", kind).start().await;
    world.stand(&["b"]).await;
    world.told();
    match end {
        End::Normal => world.stop("b", None).await,
        End::Shutdown => world.stop("b", Some("shutdown")).await,
        End::Abnormal => world.kill("b").await,
    }
    let told = world.told();
    assert_eq!(world.incarnations(["a"]), [1]);
    world.ends_well().await;
    told
}

const RESTARTED: &str = "b failed, b restarted";
const GIVEN_UP: &str = "b failed, dead letter for b, b gone";

/// A permanent agent is there until it has answered: if its actor just stops, there is another one.
#[tokio::test(start_paused = true)]
async fn permanent_normal() {
    assert_eq!(after(Permanent, End::Normal).await, RESTARTED);
}

/// A transient agent whose actor was stopped, and did not fail, was meant to stop: its question is a dead letter.
#[tokio::test(start_paused = true)]
async fn transient_normal() {
    assert_eq!(after(Transient, End::Normal).await, GIVEN_UP);
}

/// A temporary agent is not started again, however its actor ended.
#[tokio::test(start_paused = true)]
async fn temporary_normal() {
    assert_eq!(after(Temporary, End::Normal).await, GIVEN_UP);
}

/// To be told to shut down is a stop like any other: a permanent agent comes back.
#[tokio::test(start_paused = true)]
async fn permanent_shutdown() {
    assert_eq!(after(Permanent, End::Shutdown).await, RESTARTED);
}

/// A transient agent that was told to shut down stays away.
#[tokio::test(start_paused = true)]
async fn transient_shutdown() {
    assert_eq!(after(Transient, End::Shutdown).await, GIVEN_UP);
}

/// A temporary agent that was told to shut down stays away.
#[tokio::test(start_paused = true)]
async fn temporary_shutdown() {
    assert_eq!(after(Temporary, End::Shutdown).await, GIVEN_UP);
}

/// A permanent agent that is killed goes on in its next incarnation.
#[tokio::test(start_paused = true)]
async fn permanent_abnormal() {
    assert_eq!(after(Permanent, End::Abnormal).await, RESTARTED);
}

/// A transient agent that is killed goes on in its next incarnation.
#[tokio::test(start_paused = true)]
async fn transient_abnormal() {
    assert_eq!(after(Transient, End::Abnormal).await, RESTARTED);
}

/// A temporary agent that is killed is given up, and its question is a dead letter that a person can put back.
#[tokio::test(start_paused = true)]
async fn temporary_abnormal() {
    assert_eq!(after(Temporary, End::Abnormal).await, GIVEN_UP);
}

/// A temporary agent that another's failure takes along is stopped like the others, and not started again with them.
#[tokio::test(start_paused = true)]
async fn temporary_bystander() {
    for strategy in [Strategy::OneForAll, Strategy::RestForOne] {
        let mut world = Plan::new(strategy).kind("b", Temporary).start_all().await;
        world.kill("a").await;
        let told = "a failed, b failed, c failed, dead letter for b, b gone, a restarted, c restarted";
        assert_eq!(world.told(), told, "{strategy:?}");
        assert_eq!(world.incarnations(["a", "b", "c"]), [2, 1, 2], "{strategy:?}");
        world.ends_well().await;
    }
}

/// What a temporary agent needs to be started again is not kept: its actor and its address are gone, and what is said to it
/// reaches nobody, while a transient one in the same place can be spoken to.
#[tokio::test(start_paused = true)]
async fn do_not_save_start_parameters_for_temporary_children() {
    for (kind, actors) in [(Permanent, 2), (Transient, 2), (Temporary, 1)] {
        let mut world = Plan::one_for_one().kind("b", kind).start().await;
        world.stand(&["b"]).await;
        world.kill("b").await;
        assert_eq!(world.actors(), actors, "{kind:?}");
        assert_eq!(world.steer("b").await.is_ok(), actors == 2, "{kind:?}");
        world.ends_well().await;
    }
}

/// A temporary agent that is gone is no part of the strategy any more: when others fail, it is not started with them.
#[tokio::test(start_paused = true)]
async fn do_not_save_child_specs_for_temporary_children() {
    let mut world = Plan::new(Strategy::OneForAll).kind("b", Temporary).start_all().await;
    world.kill("b").await;
    assert_eq!(world.told(), "b failed, dead letter for b, b gone");
    world.kill("c").await;
    assert_eq!(world.told(), "a failed, c failed, a restarted, c restarted");
    world.ends_well().await;
}
