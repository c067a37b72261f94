//! The simulator of ourselves: whole networks in one thread on a paused clock, with simulated models, tools, people and
//! disk, where anything may fail and any process may die anywhere. One seed is one trace.
//!
//! `PROVOST_SIM_SEEDS=N` tries so many seeds, `PROVOST_SIM_FROM=N` says where to begin, and `PROVOST_SIM_SEED=N` tries
//! one and prints its trace.
//!
//! What a seed stands for is drawn in `plan`: a new kind of network, tool or fault is one more draw there, its meaning in
//! `world` or `process`, and what it should come to in `expect`.

mod check;
mod disk;
mod draw;
mod expect;
mod failures;
mod flows;
mod mail;
mod outside;
mod person;
mod plan;
#[cfg(debug_assertions)]
mod planted;
mod process;
mod supervised;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::thread;

use provost::run::Event;
use tempfile::TempDir;

use self::plan::Plan;
use self::world::World;

/// What became of a seed.
struct Tried {
    trace: String,
    wrong: Vec<String>,
    words: Option<Vec<String>>,
    lived: Lived,
}

/// What has been lived through, and how often.
type Lived = BTreeMap<String, u64>;

/// What is lived through by some seed of each thousand: where that is not so, the simulator has become blind to it.
const TO_BE_LIVED: [&str; 62] = [
    "run_started",
    "run_resumed",
    "run_forked",
    "asked",
    "agent_started",
    "call_intended",
    "try_failed",
    "model_replied",
    "model_failed",
    "tool_returned",
    "approval_requested",
    "approval_decided",
    "input_requested",
    "input_given",
    "answered there",
    "answered under way",
    "answered at rest",
    "answered too late",
    "call_in_doubt",
    "call_resolved",
    "call_abandoned",
    "paused",
    "unpaused",
    "steered",
    "repair_requested",
    "cancel_requested",
    "call_queued",
    "sent",
    "took",
    "took after a wait",
    "refused",
    "dropped",
    "spilled",
    "wait circle",
    "kept",
    "dead_lettered",
    "given up",
    "rejected",
    "rejected reply",
    "rejected result",
    "agent_failed",
    "agent_restarted",
    "made again by the next incarnation",
    "fails the run",
    "routed",
    "too many restarts",
    "agent_ended",
    "run_ended",
    "run done",
    "run failed",
    "run cancelled",
    "run limit",
    "run parked",
    "handoff",
    "routed",
    "joined",
    "snapshot",
    "process done",
    "process died",
    "process stood still",
    "store failed",
    "commit",
];

/// Lives through what a seed stands for. The disk lies in the directory for as long as that is there.
fn live(seed: u64, in_words: bool) -> (Arc<World>, TempDir) {
    quiet_injected_panics();
    let directory = tempfile::tempdir_in(memory()).unwrap();
    let world = World::new(Plan::of(seed), directory.path(), in_words);
    process::live(&world);
    (world, directory)
}

/// Lives through what a seed stands for, and looks whether all holds that must.
fn try_seed(seed: u64, in_words: bool) -> Tried {
    let (world, _directory) = live(seed, in_words);
    let wrong = check::all(&world);
    let (trace, lived) = (world.trace(), lived(&world));
    let words = world.state().words.take();
    Tried { trace, wrong, words, lived }
}

/// Counts what has been lived through.
fn lived(world: &World) -> Lived {
    let mut state = world.state();
    let mut lived = std::mem::take(&mut state.lived);
    let mut count = |what: &str| *lived.entry(what.to_owned()).or_default() += 1;
    for on_disk in state.disk.iter().flat_map(|disk| disk.runs.values()) {
        for envelope in &on_disk.events {
            count(envelope.event.kind());
            match &envelope.event {
                Event::RunEnded { end, .. } if end.status.is_parked() => count("run parked"),
                Event::RunEnded { end, .. } => count(&format!("run {}", end.status.word())),
                Event::AgentStarted { parent: provost::run::Parent::Handoff { .. }, .. } => count("handoff"),
                Event::DeadLettered { call, .. } => {
                    let is_drop = call.as_ref().is_some_and(|call| envelope.agent.as_ref() == Some(&call.agent));
                    count(if is_drop { "dropped" } else { "given up" });
                }
                event => failures::lived(event).into_iter().for_each(&mut count),
            }
        }
    }
    lived
}

/// Where simulated disks lie: in memory, where there is such a place.
fn memory() -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() }
}

/// Panics that are injected are no news.
fn quiet_injected_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.payload_as_str().is_some_and(|said| said.starts_with("injected")) {
                usual(panic);
            }
        }));
    });
}

/// Does something with each of many things, on all cores.
fn on_all_cores<T: Send>(many: Range<u64>, f: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let (next, done) = (AtomicU64::new(many.start), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let one = next.fetch_add(1, Ordering::Relaxed);
                    if one >= many.end {
                        return;
                    }
                    let result = f(one);
                    done.lock().unwrap().push(result);
                }
            });
        }
    });
    done.into_inner().unwrap()
}

/// Tries a seed, and lives through it once more; returns what was lived through, and what is wrong.
fn try_twice(seed: u64) -> (Lived, Option<String>) {
    let Tried { trace, wrong, lived, .. } = try_seed(seed, false);
    let wrong = match wrong.is_empty() {
        false => Some(format!("seed {seed}: {}", wrong.join("; "))),
        true if live(seed, false).0.trace() != trace => Some(format!("seed {seed} has two traces")),
        true => None,
    };
    (lived, wrong)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn whatever_goes_wrong_the_promises_hold_and_one_seed_is_one_trace() {
    if let Some(seed) = number("PROVOST_SIM_SEED") {
        let tried = try_seed(seed, true);
        println!("{}\n{:#?}\ntrace {}", tried.words.unwrap_or_default().join("\n"), tried.lived, tried.trace);
        assert!(tried.wrong.is_empty(), "{}", tried.wrong.join("\n"));
        return;
    }
    let (from, count) = (number("PROVOST_SIM_FROM").unwrap_or(0), number("PROVOST_SIM_SEEDS").unwrap_or(1_000));
    let tried = on_all_cores(from..from + count, try_twice);
    let wrong: Vec<&str> = tried.iter().filter_map(|(_, wrong)| wrong.as_deref()).take(10).collect();
    assert!(wrong.is_empty(), "PROVOST_SIM_SEED=N shows one of them:\n{}", wrong.join("\n"));
    let mut lived = Lived::new();
    for (what, times) in tried.into_iter().flat_map(|(lived, _)| lived) {
        *lived.entry(what).or_default() += times;
    }
    println!("{count} seeds, each twice, lived through: {lived:#?}");
    if count >= 1_000 {
        let never = TO_BE_LIVED.into_iter().filter(|what| !lived.contains_key(*what));
        assert_eq!(never.collect::<Vec<_>>(), Vec::<&str>::new());
    }
}
