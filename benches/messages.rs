//! What a message costs, beside bare ractor actors and bare channels, in processor time and by the clock.
//!
//! * **one way**: a message to an agent at work that is numbered, folded into the run, recorded, put into the agent's
//!   mailbox, taken up, and acknowledged. Its floors are a channel, a cast to an actor, and what is nearest to it: a call of
//!   an actor that passes what it is told on to another, which acknowledges it.
//! * **ask**: a question to an agent written in Rust and its answer, within a run: it passes the gate, gets an instance
//!   of its own, and some ten events. Its floors are a channel with a channel for the answer, a call of an actor, and an
//!   actor that is started, called and stopped.
//! * **fan out and join**: 1,024 such questions at once.
//! * **start**: an agent's instance that asks its model, beside an actor that waits.
//! * **restart**: from an agent's panic until the next incarnation is at work on the same message.
//! * **memory**: what the process keeps for an agent that waits, and for one that nobody asks just now.
//!
//! All runs are recorded in memory, but for the last. `cargo bench --bench messages`; `PROVOST_SESSIONS` says how many agents are
//! put to rest.

#![expect(clippy::expect_used, reason = "a bench that cannot run should say so at once")]
#![expect(clippy::disallowed_methods, reason = "those who ask are tasks of the bench")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use provost::runtime::Recorder;

#[path = "messages/floor.rs"]
mod floor;
#[path = "messages/network.rs"]
mod network;

/// As the `provost` binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many ask at once, and how many questions each asks, one after the other.
pub(crate) const ASKERS: usize = 16;
pub(crate) const ASKS: usize = 64;

/// How many are asked at once by one.
pub(crate) const WIDTH: usize = 1_024;

/// How many messages are sent one way.
const ONE_WAY: u64 = 50 * 1_024;

/// How many messages are on their way to an agent at once.
pub(crate) const ON_THEIR_WAY: u64 = 256;

/// How many agents wait for their models.
const IDLE: usize = 4_096;

/// After how long agents that wait are asleep for sure.
const ASLEEP: Duration = Duration::from_secs(45);

/// How often an agent panics.
const RESTARTS: usize = 400;

/// How often each figure is taken, in turn with those beside it, so that a busy neighbour hits all; the median stands.
const ROUNDS: usize = 7;

/// What one message costs.
#[derive(Clone, Copy)]
struct Cost {
    cpu_ns: f64,
    wall_ns: f64,
}

/// Returns for how many nanoseconds the process has had a processor.
fn cpu_ns() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

async fn cost(times: u64, work: impl Future<Output = ()>) -> Cost {
    let (began, cpu) = (Instant::now(), cpu_ns());
    work.await;
    let (cpu, wall) = (cpu_ns() - cpu, began.elapsed().as_nanos() as f64);
    Cost { cpu_ns: cpu / times as f64, wall_ns: wall / times as f64 }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Prints the figures of one kind of message: of each contestant a name and its costs. All are compared with the second one
/// from the end.
fn rows<const N: usize>(what: &str, contestants: [(&str, &[Cost]); N]) {
    let figures = contestants.map(|(name, costs)| {
        let cpu = median(costs.iter().map(|cost| cost.cpu_ns).collect());
        (name, cpu, median(costs.iter().map(|cost| cost.wall_ns).collect()))
    });
    for (name, cpu, wall) in figures {
        let beside = cpu / figures[N - 2].1;
        println!("| {what} | {name} | {:.2} | {:.2} | {beside:.2} |", cpu / 1e3, wall / 1e3);
    }
}

async fn one_way() {
    let provost = network::OneWay::start().await;
    let [mut channel, mut cast, mut relayed, mut routed] = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        channel.push(cost(ONE_WAY, floor::channel_one_way(ONE_WAY)).await);
        cast.push(cost(ONE_WAY, floor::ractor_one_way(ONE_WAY)).await);
        relayed.push(cost(ONE_WAY, floor::ractor_relayed(ONE_WAY)).await);
        routed.push(cost(ONE_WAY, provost.send(ONE_WAY)).await);
    }
    provost.end().await;
    let figures: [(&str, &[Cost]); 4] = [
        ("floor: channel", &channel),
        ("floor: ractor, cast", &cast),
        ("floor: ractor, called, passed on, acknowledged", &relayed),
        ("Provost", &routed),
    ];
    rows("one way", figures);
}

async fn ask() {
    let provost = network::asking().await;
    let questions = (ASKERS * ASKS) as u64;
    let [mut channel, mut call, mut spawned, mut asked] = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        channel.push(cost(questions, floor::channel_asks()).await);
        call.push(cost(questions, floor::ractor_asks()).await);
        spawned.push(cost(questions, floor::ractor_spawns_and_asks()).await);
        asked.push(cost(questions, network::asks(&provost)).await);
    }
    provost.shutdown().await;
    let figures: [(&str, &[Cost]); 4] = [
        ("floor: channel and back", &channel),
        ("floor: ractor, call", &call),
        ("floor: ractor, started for it, called, stopped", &spawned),
        ("Provost", &asked),
    ];
    rows("ask", figures);
}

async fn fan_out() {
    let provost = network::wide().await;
    let actors = floor::ractor_idle(WIDTH).await;
    let [mut calls, mut asked] = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        calls.push(cost(WIDTH as u64, floor::ractor_fan_out(&actors)).await);
        asked.push(cost(WIDTH as u64, network::fan_out(&provost)).await);
    }
    provost.shutdown().await;
    actors.iter().for_each(|actor| actor.stop(None));
    rows("fan out and join", [("floor: ractor, calls", &calls), ("Provost", &asked)]);
}

/// Returns how much of the process's memory is in use, in kB.
fn memory_kb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("it can be read");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it says so");
    line.trim().trim_end_matches(" kB").parse().expect("it is a number")
}

/// Starts what waits.
async fn start() {
    let [mut actors, mut agents] = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        let mut idle = Vec::new();
        actors.push(cost(IDLE as u64, async { idle = floor::ractor_idle(IDLE).await }).await);
        idle.iter().for_each(|actor| actor.stop(None));
        let mut waiting = None;
        agents.push(cost(IDLE as u64, async { waiting = Some(network::Idle::start(IDLE).await) }).await);
        if let Some(waiting) = waiting {
            waiting.end().await;
        }
    }
    rows("start", [("floor: ractor, spawn", &actors), ("Provost", &agents)]);
}

/// Measures what is kept for agents that wait for their models. To be done first: later there is memory that was used
/// before, and is used again. What those that were put to sleep have given back is taken by those that come after them.
async fn waiting() {
    let kb_each = |from: f64| (memory_kb() - from) / IDLE as f64;
    let begin = memory_kb();
    let actors = floor::ractor_idle(IDLE).await;
    let actor_kb = kb_each(begin);
    let begin = memory_kb();
    let first = network::Idle::start(IDLE).await;
    let awake_kb = kb_each(begin);
    tokio::time::sleep(ASLEEP).await;
    let second = network::Idle::start(IDLE).await;
    let asleep_kb = kb_each(begin) - awake_kb;
    println!(
        "\nkB for each that waits: a ractor actor {actor_kb:.1}; an agent in a model call {awake_kb:.1}, and after"
    );
    println!("half a minute, when it was put to sleep, {asleep_kb:.1}\n");
    actors.iter().for_each(|actor| actor.stop(None));
    first.end().await;
    second.end().await;
}

async fn restart() {
    let [mut actor, mut agent] = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        actor.push(median(floor::ractor_restarts(RESTARTS).await));
        agent.push(median(network::restarts(RESTARTS).await));
    }
    let (actor, agent) = (median(actor), median(agent));
    println!("\nfrom a panic to the next incarnation at work, median: ractor {actor:.1} µs, Provost {agent:.1} µs");
}

/// Measures what the process keeps for an agent that nobody asks just now.
async fn at_rest() {
    let sessions = std::env::var("PROVOST_SESSIONS").map_or(100_000, |text| text.parse().expect("it is a number"));
    let directory = tempfile::tempdir().expect("there is room for a store");
    let recorder = Arc::new(Recorder::open(directory.path(), false).expect("the store opens"));
    let runtime = Arc::new(network::remembering(recorder).await);
    // Caches fill up at first.
    network::ask_sessions(&runtime, 0, sessions / 2).await;
    let before = memory_kb();
    network::ask_sessions(&runtime, sessions / 2, sessions).await;
    let bytes = (memory_kb() - before) * 1024.0 / sessions as f64;
    println!(
        "for each of {sessions} agents that nobody asks just now the process keeps {bytes:.0} bytes: {:.2} GB for a million",
        bytes.max(0.0) / 1e3
    );
}

fn main() {
    // What panics does so by design, and says nothing; a failure of the bench's own is printed.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref::<&str>() != Some(&"as it was told") {
            print(panic);
        }
    }));
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads start");
    let measured = tokio.block_on(async {
        tokio::spawn(async {
            waiting().await;
            println!("µs a message\n");
            println!("| what | who | processor | clock | processor, of the nearest floor |");
            println!("|---|---|---|---|---|");
            start().await;
            one_way().await;
            ask().await;
            fan_out().await;
            restart().await;
            at_rest().await;
        })
        .await
    });
    measured.expect("nothing panics");
}
