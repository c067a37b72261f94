//! An agent fails, and its process dies at each point of what follows: the run is taken up again and ends as it should, and
//! nothing is done twice.

#![cfg(debug_assertions)]

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::world::{Ended, Group, World};

/// One agent that acts and then asks another, which acts; one thing at a time, so that it is known who fails at what. A model
/// that speaks once more says the same.
const STEPS: &str = r#"
[network]
name = "restarts"
entry = "a"
[models.m]
provider = "sim"
price = { input_usd_per_mtok = 1.3, output_usd_per_mtok = 7.0 }
[agents.a]
prompt = "You act."
tools = ["once"]
delegates_to = ["b"]
restart = { backoff = "@BACKOFF@" }
[agents.b]
prompt = "You help."
tools = ["idempotent"]
replicas = 1
restart = { backoff = "@BACKOFF@" }
@TOOLS@
[sim.script]
a = ['{"calls": [{"name": "once", "arguments": {"argv": ["@LEDGER@", "once"]}}]}',
     '{"calls": [{"name": "ask_b", "arguments": {"message": "help"}}]}',
     'done: {{ input }}']
b = ['{"calls": [{"name": "idempotent", "arguments": {"argv": ["@LEDGER@", "idempotent"]}}]}',
     'helped']
"#;

/// What it answers, whatever it is told of the others.
const ANSWER: &str = "done: go";

/// How often an agent is given something until then: `a` is asked, hears its model, its tool, its model; `b` is asked, hears
/// its model, its tool, its model; `a` hears `b`, and its model.
const DELIVERIES: u64 = 10;

fn world(backoff: &str) -> World {
    World::new(&STEPS.replace("@BACKOFF@", backoff))
}

fn run(world: &World, fault: &str, crash: &str) -> Ended {
    let environment = [("PROVOST_FAULT_AT", fault), ("PROVOST_CRASH_AT", crash)];
    let ended = world.start(&["run", "n.toml", "go"], &environment, None).end();
    world.settle(false);
    ended
}

/// Counts the kinds of the events that the runs have.
fn kinds(world: &World) -> BTreeMap<String, u64> {
    let mut kinds = BTreeMap::new();
    for line in world.ask_for(0, &["audit", "export"]).lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        *kinds.entry(event["kind"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    kinds
}

/// Takes the run up again until it is over, and looks whether it is as it should be.
fn goes_on(world: &World, what: &str) {
    for _ in 0..2 {
        match world.runs().first().map(|run| run["status"].as_str().unwrap().to_owned()).as_deref() {
            // Nobody has been told of it.
            None => return,
            Some("done") => break,
            Some("in_doubt") => assert_eq!(world.resolve_all(&world.look()), 1, "{what}"),
            Some(_) => {}
        }
        let ended = world.ask(&["runs", "resume", "--all"]);
        assert!(matches!(ended.code(), Some(0 | 7)), "{what}: {}", ended.stderr);
    }
    let seen = world.look();
    world.check_end(&seen, |_| ANSWER.to_owned());
    assert!(seen.deeds.iter().all(|((class, _), times)| class != "once" || *times == 1), "{what}: {:?}", seen.deeds);
}

#[test]
fn each_delivery_that_fails_is_followed_by_a_restart_and_the_run_ends_as_it_would_have() {
    for nth in 1..=DELIVERIES {
        let world = world("0s..0s");
        let ended = run(&world, &format!("agent.decide@{nth}"), "nowhere");
        assert_eq!((ended.code(), ended.stdout.trim_end()), (Some(0), ANSWER), "{nth}: {}", ended.stderr);
        goes_on(&world, &nth.to_string());
        let kinds = kinds(&world);
        assert_eq!((kinds["agent_failed"], kinds["agent_restarted"]), (1, 1), "{nth}");
    }
}

#[test]
fn a_process_dies_before_and_after_a_restart() {
    for place in ["restart.before_start", "restart.after_start"] {
        for nth in [2, 3, 6, 9] {
            for backoff in ["0s..0s", "5ms..5ms"] {
                let world = world(backoff);
                let what = format!("{place}, {nth}, {backoff}");
                assert!(run(&world, &format!("agent.decide@{nth}"), place).was_killed(), "{what}");
                goes_on(&world, &what);
            }
        }
    }
}

#[test]
fn a_process_dies_while_a_restart_waits_and_the_next_one_does_not_wait() {
    let world = world("60s..60s");
    let group = Group::new();
    let running = world.start(&["run", "n.toml", "go"], &[("PROVOST_FAULT_AT", "agent.decide@3")], Some(&group));
    while world.runs().is_empty() || !kinds(&world).contains_key("agent_failed") {
        std::thread::sleep(Duration::from_millis(5));
    }
    group.kill();
    assert!(running.end().was_killed());
    goes_on(&world, "in the pause");
    let kinds = kinds(&world);
    assert_eq!((kinds["agent_failed"], kinds.get("agent_restarted")), (1, None));
}

/// Lets a run fail as `fault` says and die before or after each of its commits; returns the kinds of all events of the run
/// that was not killed.
fn dies_at_each_commit(fault: &str) -> BTreeMap<String, u64> {
    for place in ["journal.before_sync", "journal.after_sync"] {
        for nth in 1.. {
            let (world, what) = (world("0s..0s"), format!("{fault}, {place}@{nth}"));
            if !run(&world, fault, &format!("{place}@{nth}")).was_killed() {
                assert!(nth > 5, "{what}");
                break;
            }
            goes_on(&world, &what);
        }
    }
    let world = world("0s..0s");
    run(&world, fault, "nowhere");
    goes_on(&world, fault);
    kinds(&world)
}

#[test]
fn a_process_dies_around_a_reply_that_is_rejected() {
    let kinds = dies_at_each_commit("agent.decide@2-3");
    assert_eq!((kinds["agent_failed"], kinds["rejected"]), (2, 1));
}

#[test]
fn a_process_dies_around_a_result_that_is_rejected() {
    let kinds = dies_at_each_commit("agent.decide@7-8");
    assert_eq!((kinds["agent_failed"], kinds["rejected"], kinds["tool_returned"]), (2, 1, 4));
}

#[test]
fn a_process_dies_around_a_dead_letter() {
    let kinds = dies_at_each_commit("agent.decide@5-7");
    assert_eq!((kinds["agent_failed"], kinds["dead_lettered"], kinds["sent"], kinds["took"]), (3, 1, 1, 1));
}
