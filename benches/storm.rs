//! A storm: a thousand panics a second over a thousand agents, and what those beside them notice of it.
//!
//! Agents that are written in Rust are asked questions; of six questions one makes its agent panic each time that it is
//! delivered, three make it panic once, and two are fine. That is as many panics as questions. It is looked whether
//!
//! * agents that never panic are answered in time: the 99th percentile of the time from when a question was due to its
//!   answer is at most the larger of 50 ms and twice what it is in the same process without panics;
//! * memory is flat: not more than a tenth above what it was before, when each agent knew all that it may keep;
//! * each question was handled once, or is a dead letter with its reason; and nothing is left behind: no open account,
//!   no task, and no agent whose place is still taken.
//!
//! It exits with 1 if any of that did not hold. `just storm`; `PROVOST_STORM_SECONDS`, `PROVOST_STORM_PANICS` (a second) and
//! `PROVOST_STORM_AGENTS` say otherwise, and `PROVOST_STORM_STORE=1` writes all of it to a store in a temporary directory.

#![expect(clippy::unwrap_used, reason = "a bench that cannot run should say so at once")]
#![expect(clippy::disallowed_methods, reason = "each run is waited for by a task of the bench")]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use provost::runtime::{Recorder, Runtime};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

use self::load::{Account, Kind, QUESTIONS_PER_RUN, Question, ask, bystander, start, worker};

#[path = "storm/load.rs"]
mod load;

/// As the `provost` binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many questions a second go to bystanders.
const CALM_PER_S: usize = 200;

/// How many runs may be under way at once. The bench asks less than it was told to where this is not enough.
const RUNS_AT_ONCE: usize = 2_000;

/// How many questions each agent has had when memory is measured first: more than it keeps from run to run.
const KNOWN: usize = 40;

/// How long the storm rages before anything is measured.
const WARM_UP_S: usize = 10;

/// For how long a run may leave something behind: timers that ring into the void.
const SETTLED: Duration = Duration::from_secs(6);

/// What latency is allowed in any case.
const FAST_ENOUGH_MS: f64 = 50.0;

/// What is asked of the bench.
struct Plan {
    seconds: usize,
    panics_per_s: usize,
    agents: usize,
    has_store: bool,
}

impl Plan {
    fn of_environment() -> Self {
        let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
        Self {
            seconds: number("PROVOST_STORM_SECONDS", 60),
            panics_per_s: number("PROVOST_STORM_PANICS", 1_000),
            agents: number("PROVOST_STORM_AGENTS", 1_000),
            has_store: std::env::var("PROVOST_STORM_STORE").is_ok_and(|text| text == "1"),
        }
    }

    /// For how long it is measured what the bystanders' latency is without panics.
    fn calm_s(&self) -> usize {
        (self.seconds / 3).max(2)
    }

    /// How many questions there are at most.
    fn questions(&self) -> usize {
        let seconds = WARM_UP_S + self.calm_s() + self.seconds + 3;
        (KNOWN + 1) * self.agents + seconds * (self.panics_per_s + CALM_PER_S)
    }
}

/// The network under the storm, and what is seen of it.
struct Weather {
    plan: Plan,
    runtime: Runtime,
    account: Arc<Account>,
    /// The bystanders' latencies in microseconds; room for all of them is taken beforehand.
    latencies_us: Vec<AtomicU64>,
    measured: AtomicUsize,
    peak_kb: AtomicU64,
}

/// What was measured in one phase.
struct Phase {
    panics_per_s: f64,
    cpu_share: f64,
    p50_ms: f64,
    p99_ms: f64,
    peak_kb: u64,
}

/// Returns how much of the process's memory is in use, in kB.
fn memory_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Returns for how many seconds the process has had a processor.
fn cpu_s() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

impl Weather {
    /// Lets each agent have as many questions as it keeps and more, so that memory grows no further by that.
    async fn fill(self: &Arc<Self>) {
        let agents = self.plan.agents;
        let all: Vec<Question> = (0..KNOWN * agents)
            .map(|nth| self.account.question(format!("worker{}", nth % agents), Kind::Fine))
            .collect();
        let places = Arc::new(Semaphore::new(32));
        for some in all.chunks(QUESTIONS_PER_RUN) {
            let (place, me, some) = (places.clone().acquire_owned().await.unwrap(), self.clone(), some.to_vec());
            tokio::spawn(async move {
                ask(&me.runtime, &me.account, &some).await;
                drop(place);
            });
        }
        drop(places.acquire_many(32).await.unwrap());
    }

    /// Asks at a steady rate for some time, each time what `questions` says, and waits for the last answer. What a question's
    /// latency is counted from is when it was due.
    async fn steadily(
        self: &Arc<Self>,
        per_s: f64,
        seconds: usize,
        is_measured: bool,
        questions: impl Fn(usize) -> Vec<Question>,
    ) {
        let places = Arc::new(Semaphore::new(RUNS_AT_ONCE));
        let mut clock = tokio::time::interval(Duration::from_secs_f64(1.0 / per_s));
        clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let began = Instant::now();
        for nth in 0..(per_s * seconds as f64) as usize {
            let due = clock.tick().await.into_std();
            if began.elapsed() > Duration::from_secs(seconds as u64) {
                break;
            }
            let (place, me, asked) = (places.clone().acquire_owned().await.unwrap(), self.clone(), questions(nth));
            tokio::spawn(async move {
                ask(&me.runtime, &me.account, &asked).await;
                if is_measured {
                    let place = me.measured.fetch_add(1, Ordering::Relaxed);
                    me.latencies_us[place].store(due.elapsed().as_micros() as u64, Ordering::Relaxed);
                }
                drop(place);
            });
        }
        drop(places.acquire_many(RUNS_AT_ONCE as u32).await.unwrap());
    }

    /// Lets the questions of one kind of weather come for some time.
    async fn phase(self: &Arc<Self>, seconds: usize, kind: fn(usize) -> Kind) -> Phase {
        self.measured.store(0, Ordering::Relaxed);
        self.peak_kb.store(0, Ordering::Relaxed);
        let (began, cpu, panics) = (Instant::now(), cpu_s(), self.account.panics());
        let watched = self.clone();
        let watch = tokio::spawn(async move {
            loop {
                watched.peak_kb.fetch_max(memory_kb(), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        });
        let agents = self.plan.agents;
        let some = |nth: usize| {
            let place = nth * QUESTIONS_PER_RUN;
            let one = |nth| self.account.question(worker(nth, agents), kind(nth));
            (place..place + QUESTIONS_PER_RUN).map(one).collect()
        };
        let calm = |nth| vec![self.account.question(bystander(nth), Kind::Fine)];
        let runs_per_s = self.plan.panics_per_s as f64 / QUESTIONS_PER_RUN as f64;
        tokio::join!(
            self.steadily(runs_per_s, seconds, false, some),
            self.steadily(CALM_PER_S as f64, seconds, true, calm)
        );
        watch.abort();
        let elapsed = began.elapsed().as_secs_f64();
        let measured = &self.latencies_us[..self.measured.load(Ordering::Relaxed)];
        let mut latencies: Vec<u64> = measured.iter().map(|us| us.load(Ordering::Relaxed)).collect();
        latencies.sort_unstable();
        let percentile = |share: usize| latencies[(latencies.len() * share).div_ceil(100) - 1] as f64 / 1e3;
        Phase {
            panics_per_s: (self.account.panics() - panics) as f64 / elapsed,
            cpu_share: (cpu_s() - cpu) / elapsed,
            p50_ms: percentile(50),
            p99_ms: percentile(99),
            peak_kb: self.peak_kb.load(Ordering::Relaxed),
        }
    }

    /// Asks each agent once more: one whose place was still taken by a question that was lost would never answer.
    async fn ask_all_once(&self) {
        let agents = 0..self.plan.agents;
        let last: Vec<Question> = agents.map(|nth| self.account.question(format!("worker{nth}"), Kind::Fine)).collect();
        for some in last.chunks(QUESTIONS_PER_RUN) {
            ask(&self.runtime, &self.account, some).await;
        }
    }
}

/// Prints a line of the table, and returns whether what it says holds.
fn line(what: &str, calm: String, storm: String, promised: &str, holds: bool) -> bool {
    let verdict = if holds { "yes" } else { "**NO**" };
    println!("| {what} | {calm} | {storm} | {promised} | {verdict} |");
    holds
}

/// Compares what was seen with what is promised.
fn judge(plan: &Plan, calm: &Phase, storm: &Phase, before_kb: u64, after_kb: u64) -> bool {
    println!("| | without panics | in the storm | promised | holds |");
    println!("|---|---|---|---|---|");
    let ms = |ms: f64| format!("{ms:.1} ms");
    let mb = |kb: u64| {
        let more = 100.0 * (kb as f64 / before_kb as f64 - 1.0);
        format!("{:.1} MB ({more:+.1} %)", kb as f64 / 1024.0)
    };
    let rates = [calm, storm].map(|phase| format!("{:.0}", phase.panics_per_s));
    let [none, many] = rates;
    let wanted = plan.panics_per_s as f64;
    let mut holds = line("panics a second", none, many, &format!("about {wanted}"), storm.panics_per_s > 0.9 * wanted);
    line("processors in use", format!("{:.2}", calm.cpu_share), format!("{:.2}", storm.cpu_share), "", true);
    line("bystanders' latency, median", ms(calm.p50_ms), ms(storm.p50_ms), "", true);
    let allowed = FAST_ENOUGH_MS.max(2.0 * calm.p99_ms);
    let promised = format!("at most {allowed:.0} ms");
    let is_fast = storm.p99_ms <= allowed;
    holds &= line("bystanders' latency, 99th percentile", ms(calm.p99_ms), ms(storm.p99_ms), &promised, is_fast);
    let is_flat = |kb: u64| kb as f64 <= 1.1 * before_kb as f64;
    let promised = "at most 10 % more than before";
    holds &= line("memory, at most", mb(calm.peak_kb), mb(storm.peak_kb), promised, is_flat(storm.peak_kb));
    holds & line("memory, after it", mb(before_kb), mb(after_kb), promised, is_flat(after_kb))
}

/// Says what became of each question, and whether that is as it is to be.
fn settle(weather: &Weather, recorder: &Recorder, tasks: usize) -> bool {
    let sums = weather.account.sums();
    println!(
        "\n{} questions: {} handled once, {} dead letters with their reason, {} unaccounted for; {} panics of {}",
        sums.sent,
        sums.handled_once,
        sums.dead_lettered,
        sums.sent - sums.handled_once - sums.dead_lettered,
        weather.account.panics(),
        sums.panics,
    );
    sums.wrong.iter().take(10).for_each(|wrong| println!("wrong: {wrong}"));
    let open = recorder.ledger().open.len();
    let left = tokio::runtime::Handle::current().metrics().num_alive_tasks().saturating_sub(tasks);
    println!("left behind: {open} open accounts, {left} tasks");
    let is_whole = sums.wrong.is_empty() && sums.sent == sums.handled_once + sums.dead_lettered;
    is_whole && sums.panics == weather.account.panics() && open == 0 && left == 0
}

async fn storm() -> bool {
    let plan = Plan::of_environment();
    let directory = plan.has_store.then(|| tempfile::tempdir().unwrap());
    let recorder = Arc::new(match &directory {
        Some(directory) => Recorder::open(directory.path(), false).unwrap(),
        None => Recorder::in_memory(),
    });
    let account = Arc::new(Account::new(plan.questions()));
    let runtime = start(plan.agents, &account, recorder.clone()).await;
    let latencies_us = (0..CALM_PER_S * (plan.seconds + WARM_UP_S)).map(|_| AtomicU64::new(0)).collect();
    let (measured, peak_kb) = (AtomicUsize::new(0), AtomicU64::new(0));
    let weather = Arc::new(Weather { plan, runtime, account, latencies_us, measured, peak_kb });
    weather.ask_all_once().await;
    tokio::time::sleep(SETTLED).await;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    weather.fill().await;
    weather.phase(WARM_UP_S, Kind::in_a_storm).await;
    let before_kb = memory_kb();
    let calm = weather.phase(weather.plan.calm_s(), |_| Kind::Fine).await;
    let storm = weather.phase(weather.plan.seconds, Kind::in_a_storm).await;
    let after_kb = memory_kb();
    let holds = judge(&weather.plan, &calm, &storm, before_kb, after_kb);
    weather.ask_all_once().await;
    tokio::time::sleep(SETTLED).await;
    settle(&weather, &recorder, tasks) & holds
}

fn main() -> ExitCode {
    // A thousand panics a second are not to be printed; a failure of the bench's own is.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<String>();
        if !said.is_some_and(|said| said.ends_with(load::PANIC)) {
            print(panic);
        }
    }));
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let holds = tokio.block_on(async { tokio::spawn(storm()).await });
    match holds {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(panic) => {
            eprintln!("the bench itself panicked: {panic}");
            ExitCode::FAILURE
        }
    }
}
