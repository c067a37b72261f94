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
mod plan;
mod process;
mod world;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::thread;

use self::plan::Plan;
use self::world::World;

/// What became of a seed.
struct Tried {
    trace: String,
    wrong: Vec<String>,
    words: Option<Vec<String>>,
    commits: u64,
    processes: usize,
}

/// Lives through what a seed stands for.
fn try_seed(seed: u64, in_words: bool) -> Tried {
    quiet_injected_panics();
    let directory = tempfile::tempdir_in(memory()).unwrap();
    let world = World::new(Plan::of(seed), directory.path(), in_words);
    process::live(&world);
    let wrong = check::all(&world);
    let trace = world.trace();
    let mut state = world.state();
    Tried { trace, wrong, words: state.words.take(), commits: state.commits, processes: state.number }
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

/// Tries seeds on all cores, each twice; returns what is wrong, of the first few.
fn try_all(seeds: Range<u64>) -> Vec<String> {
    let (next, wrong) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || wrong.lock().unwrap().len() > 5 {
                        return;
                    }
                    let (first, second) = (try_seed(seed, false), try_seed(seed, false));
                    if !first.wrong.is_empty() {
                        wrong.lock().unwrap().push(format!("seed {seed}: {}", first.wrong.join("; ")));
                    } else if first.trace != second.trace {
                        wrong.lock().unwrap().push(format!("seed {seed} has two traces"));
                    }
                }
            });
        }
    });
    wrong.into_inner().unwrap()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn whatever_goes_wrong_the_promises_hold_and_one_seed_is_one_trace() {
    if let Some(seed) = number("PROVOST_SIM_SEED") {
        let tried = try_seed(seed, true);
        println!("{}", tried.words.unwrap_or_default().join("\n"));
        println!("{} commits, {} processes, trace {}", tried.commits, tried.processes, tried.trace);
        assert!(tried.wrong.is_empty(), "{}", tried.wrong.join("\n"));
        return;
    }
    let from = number("PROVOST_SIM_FROM").unwrap_or(0);
    let wrong = try_all(from..from + number("PROVOST_SIM_SEEDS").unwrap_or(1_000));
    assert!(wrong.is_empty(), "PROVOST_SIM_SEED=N shows one of them:\n{}", wrong.join("\n"));
}

/// How many seeds a planted bug may take to be found.
#[cfg(debug_assertions)]
const SEEDS_PER_BUG: u64 = 1_000;

#[cfg(debug_assertions)]
#[test]
fn every_planted_bug_is_found() {
    use provost::fault::{Bug, plant};

    let wanted = std::env::var("PROVOST_SIM_BUG").ok();
    let bugs: Vec<Bug> =
        Bug::ALL.into_iter().filter(|bug| wanted.as_deref().is_none_or(|name| name == bug.name())).collect();
    let next = AtomicU64::new(0);
    let found = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(&bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let _planted = plant(bug);
                    let by = (0..SEEDS_PER_BUG).find_map(|seed| {
                        let wrong = try_seed(seed, false).wrong;
                        wrong.first().map(|what| (seed + 1, what.clone()))
                    });
                    println!("{} {by:?}", bug.name());
                    found.lock().unwrap().push((bug, by));
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    let missed: Vec<&str> = found.iter().filter(|(_, by)| by.is_none()).map(|(bug, _)| bug.name()).collect();
    assert!(missed.is_empty(), "not found in {SEEDS_PER_BUG} seeds: {missed:?}");
}
