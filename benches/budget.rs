//! What it costs to reserve and to settle: in memory beside an atomic add and a lock, and on disk beside the disk's own syncs.
//!
//! * **in memory**: a call is reserved and settled in three accounts, of which two are shared by all threads (a network's
//!   and a tenant's), by 1, 2 and 64 threads. The floors, with as many threads: two atomic adds to one number, and two turns
//!   of one lock with the same sums behind it.
//! * **on disk**: model calls a second, each reserved and settled durably, of as many agents at once as is said; the model
//!   answers at once. The floor is how many syncs a second one writer makes that commits a record each, just before.
//!
//! `cargo bench --bench budget`

#![expect(clippy::expect_used, reason = "a bench that cannot run should say so at once")]
#![expect(clippy::disallowed_methods, reason = "who races are threads and tasks of the bench")]

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use provost::budget::{Account, AccountName, Amount, Cap, Rates, Today};
use provost::journal::{Batch, Journal, Part, Record, StreamName};
use provost::model::{Error, Provider, Reply, Request};
use provost::run::{ToolCall, Usage};
use provost::runtime::{Ask, Purse, Recorder, Runtime, SharedAccount, Source};
use provost::spec::{AgentSpec, BudgetOf, BudgetSpec, Limits, ModelSpec, Network, NetworkSpec, ProviderKind};
use tokio::sync::oneshot;

/// As the `provost` binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many calls are reserved and settled for one figure, over all threads.
const IN_MEMORY: u64 = 4_000_000;

/// How long each figure on disk is measured at the least.
const LONG_ENOUGH: Duration = Duration::from_secs(3);

/// How many calls one run makes.
const CALLS: u32 = 50;

/// Lets `width` threads do something `IN_MEMORY` times over all; returns how many nanoseconds of all threads' time each took.
fn measure(width: usize, work: impl Fn(usize) + Send + Sync) -> f64 {
    let (barrier, each) = (Barrier::new(width + 1), IN_MEMORY / width as u64);
    let began = thread::scope(|scope| {
        for index in 0..width {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                barrier.wait();
                (0..each).for_each(|_| work(index));
            });
        }
        barrier.wait();
        Instant::now()
    });
    began.elapsed().as_nanos() as f64 / (each * width as u64) as f64
}

fn in_memory(width: usize) -> [f64; 3] {
    let source = |name: &str| {
        let account = Arc::new(SharedAccount::new(AccountName::new(name), Account::default()));
        let limits = Limits { tokens: Some(u64::MAX >> 1), model_calls: Some(u64::MAX >> 1), ..Limits::default() };
        let cap = Cap { limit: Amount { steps: u64::MAX, ..Cap::of_run(&limits).limit }, ..Cap::of_run(&limits) };
        Source { account, caps: [cap].into() }
    };
    let shared = [source("network/n"), source("tenant/n/t")];
    let purse = |index: usize| Purse::new(shared.iter().cloned().chain([source(&format!("run/{index}"))]).collect());
    let purses: Vec<Purse> = (0..width).map(purse).collect();
    let rates = Rates { input: 250_000_000, cached_input: 25_000_000, cache_write: 312_500_000, output: 2_000_000_000 };
    let ask = Ask { counts: Amount::ONE_STEP, input_tokens: 1_000, wanted: 1_000, at_least: 64, rates };
    let usage = Usage { input_tokens: 900, cached_input_tokens: 0, output_tokens: 300, ..Usage::default() };
    let actual = Amount::ONE_STEP.with_usage(&usage, &rates);
    let ours = measure(width, |index| {
        let reserved = purses[index].reserve(black_box(&ask), Today::default());
        let (_, held) = reserved.expect("there is enough");
        purses[index].settle(held, black_box(actual), Today::default());
    });
    let sum = AtomicU64::new(0);
    let atomic = measure(width, |_| {
        sum.fetch_add(black_box(2_000), Ordering::AcqRel);
        sum.fetch_sub(black_box(800), Ordering::AcqRel);
    });
    let account = Mutex::new(Account::default());
    let held = Amount { tokens: 2_000, ..Amount::ONE_STEP };
    let locked = measure(width, |_| {
        account.lock().expect("nobody panics").hold(black_box(held));
        account.lock().expect("nobody panics").settle(held, black_box(actual), Today::default());
    });
    [ours, atomic, locked]
}

/// Calls a tool that there is not, until it has made enough calls.
struct Talks;

impl Provider for Talks {
    fn call<'a>(
        &'a self,
        request: &'a Request,
        _: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        let usage = Some(Usage { input_tokens: 10, cached_input_tokens: 0, output_tokens: 5, ..Usage::default() });
        let reply = match request.call.step < CALLS {
            true => {
                let call = ToolCall { name: "none".to_owned(), arguments: "{}".to_owned() };
                Reply { tool_calls: vec![call], usage, ..Reply::default() }
            }
            false => Reply { text: "done".to_owned(), usage, ..Reply::default() },
        };
        Box::pin(async { Ok(reply) })
    }
}

fn network() -> Network {
    let mut spec = NetworkSpec::default();
    spec.network.name = "bench".to_owned();
    spec.network.entry = "one".to_owned();
    spec.models.insert("m".to_owned(), ModelSpec { provider: Some(ProviderKind::Host), ..ModelSpec::default() });
    let agent = AgentSpec { max_steps: CALLS, max_repairs: CALLS, ..AgentSpec::new("Talk.") };
    spec.agents.insert("one".to_owned(), agent);
    let (agent, per, cost_usd, tool_calls, warn_at) = Default::default();
    let (tokens, model_calls) = (Some(u64::MAX >> 1), Some(u64::MAX >> 1));
    let of =
        |of| BudgetSpec { of, agent: None, per, cost_usd, tokens, model_calls, tool_calls, warn_at, unknown_for: None };
    let _: Option<String> = agent;
    spec.budgets = vec![of(BudgetOf::Tenant), of(BudgetOf::Network)];
    Network::new(spec).expect("the bench's network is valid")
}

/// Returns how many calls a second `width` agents make.
async fn on_disk(width: usize) -> f64 {
    let directory = tempfile::tempdir().expect("there is room for a store");
    let recorder = Arc::new(Recorder::open(directory.path(), false).expect("the store opens"));
    let builder = Runtime::builder(network()).provider("m", Talks).recorder(recorder);
    let runtime = Arc::new(builder.start().await.expect("it starts"));
    let began = Instant::now();
    let tasks = (0..width).map(|_| {
        let runtime = runtime.clone();
        tokio::spawn(async move {
            let mut calls = 0;
            while calls == 0 || began.elapsed() < LONG_ENOUGH {
                calls += runtime.run("go").await.expect("the run ends").usage.model_calls;
            }
            calls
        })
    });
    let calls: u64 = join_all(tasks.collect::<Vec<_>>()).await.into_iter().map(|calls| calls.expect("no panic")).sum();
    calls as f64 / began.elapsed().as_secs_f64()
}

/// Returns how many syncs a second one writer makes that commits a record each.
async fn syncs() -> f64 {
    let directory = tempfile::tempdir().expect("there is room for a store");
    let journal = Journal::open(directory.path(), false).expect("the store opens");
    let began = Instant::now();
    let mut seq = 0;
    while began.elapsed() < LONG_ENOUGH {
        seq += 1;
        let record = Record {
            seq,
            time_ms: 0,
            agent: None,
            incarnation: 0,
            cause: None,
            labels: Vec::new(),
            kind: "reserved".into(),
            version: 1,
            payload: vec![0; 100],
        };
        let part = Part { stream: StreamName::new("floor"), records: vec![record], mark: None, snapshot: None };
        let (told, durable) = oneshot::channel();
        let batch = Batch { parts: vec![part], durable: vec![Box::new(move |result| drop(told.send(result)))] };
        journal.append(batch).expect("the store can be written");
        durable.await.expect("the writer answers").expect("the store can be written");
    }
    seq as f64 / began.elapsed().as_secs_f64()
}

fn main() {
    println!("in memory, ns of wall time for each call reserved and settled in three accounts:");
    println!("{:>8} {:>10} {:>14} {:>10}", "threads", "ours", "two adds", "two locks");
    for width in [1, 2, 64] {
        let [ours, atomic, locked] = in_memory(width);
        println!("{width:>8} {ours:>10.0} {atomic:>14.1} {locked:>10.0}");
    }
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("it starts");
    println!("\non disk, model calls a second, each reserved and settled durably:");
    println!("{:>8} {:>10} {:>10} {:>28}", "agents", "ours", "syncs", "ours / (agents x syncs)");
    for width in [1, 12, 100] {
        let syncs = tokio.block_on(syncs());
        let ours = tokio.block_on(on_disk(width));
        println!("{width:>8} {ours:>10.0} {syncs:>10.0} {:>28.2}", ours / (width as f64 * syncs));
    }
}
