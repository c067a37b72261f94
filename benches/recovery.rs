//! What runs cost on disk, and how soon they go on after a crash.
//!
//! * A run whose transcript grows by about a kilobyte a step: how many bytes it leaves, with 10, 100 and 1,000 steps. The
//!   floor is what was said in it, once.
//! * 10,000 runs that were cut off in the midst of a model call: how long until all of them have made their next one, from
//!   the opening of the store. The floors are to read the store's files, and to read the runs' records checked by hash.
//!
//! `cargo bench --bench recovery`

#![expect(clippy::expect_used, reason = "a bench that cannot run should say so at once")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use provost::journal::Store;
use provost::model::{Error as ModelError, Provider, Reply, Request};
use provost::run::ToolCall;
use provost::runtime::{Answers, Recorder, RunRequest, Runtime, run_of};
use provost::spec::{AgentSpec, ModelSpec, Network, NetworkSpec, Permission, ProviderKind};
use provost::tool::{self, Tool};
use schemars::JsonSchema;
use serde::Deserialize;

/// As the `provost` binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many runs are cut off.
const RUNS: usize = 10_000;

/// How many are taken up at the same time.
const AT_ONCE: usize = 1_024;

/// How much a tool says in each step, in bytes.
const SAID: usize = 1_000;

#[derive(Deserialize, JsonSchema)]
struct Nothing {}

/// Says something new of a kilobyte each time.
struct Say(AtomicUsize);

impl Tool for Say {
    type Arguments = Nothing;
    type Output = String;

    fn description(&self) -> String {
        "Says something.".to_owned()
    }

    async fn call(&self, _: Nothing, _: tool::Call) -> Result<String, tool::Error> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        Ok(format!("{number:0SAID$}"))
    }
}

/// Calls the tool until a step, and then answers, or does not answer at all.
#[derive(Clone)]
struct Model {
    steps: u32,
    answers: bool,
    asked: Arc<AtomicUsize>,
}

impl Provider for Model {
    fn call<'a>(
        &'a self,
        request: &'a Request,
        _: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, ModelError>> {
        Box::pin(async move {
            if request.call.step < self.steps {
                let call = ToolCall { name: "say".to_owned(), arguments: "{}".to_owned() };
                return Ok(Reply { tool_calls: vec![call], ..Reply::default() });
            }
            self.asked.fetch_add(1, Ordering::SeqCst);
            match self.answers {
                true => Ok(Reply { text: "done".to_owned(), ..Reply::default() }),
                false => std::future::pending().await,
            }
        })
    }
}

async fn runtime(steps: u32, answers: bool, recorder: &Arc<Recorder>) -> (Runtime, Model) {
    let mut spec = NetworkSpec::default();
    spec.network.name = "bench".to_owned();
    spec.network.entry = "one".to_owned();
    spec.network.limits.steps = 2_000;
    spec.policy.default = Permission::Allow;
    spec.models.insert("m".to_owned(), ModelSpec { provider: Some(ProviderKind::Host), ..ModelSpec::default() });
    let agent = AgentSpec { tools: vec!["say".to_owned()], max_steps: 2_000, ..AgentSpec::new("Work.") };
    spec.agents.insert("one".to_owned(), agent);
    spec.tools.insert("say".to_owned(), Default::default());
    let model = Model { steps, answers, asked: Arc::default() };
    let network = Network::new(spec).expect("the bench's network is valid");
    let builder = Runtime::builder(network).provider("m", model.clone()).tool("say", Say(AtomicUsize::new(1)));
    (builder.recorder(recorder.clone()).start().await.expect("it starts"), model)
}

fn open(directory: &Path) -> Arc<Recorder> {
    Arc::new(Recorder::open(directory, false).expect("the store opens"))
}

async fn close(recorder: &Recorder) {
    recorder.close().await.expect("all is written");
}

/// The bytes of a store's files.
fn bytes(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).expect("there is a store").flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum()
}

async fn growth() {
    println!("| steps | bytes on disk | a step | what was said, once, a step |");
    println!("|---|---|---|---|");
    for steps in [10, 100, 1_000] {
        let directory = tempfile::tempdir().expect("there is room for a store");
        let recorder = open(directory.path());
        close(&recorder).await;
        let empty = bytes(directory.path());
        let recorder = open(directory.path());
        let (runtime, _) = runtime(steps, true, &recorder).await;
        runtime.run("go").await.expect("the run ends");
        close(&recorder).await;
        let grown = bytes(directory.path()) - empty;
        println!("| {steps} | {grown} | {:.0} | {SAID} |", grown as f64 / f64::from(steps));
    }
}

async fn recovery() {
    let directory = tempfile::tempdir().expect("there is room for a store");
    let recorder = open(directory.path());
    let (first, model) = runtime(3, false, &recorder).await;
    let starts = (0..RUNS).map(|_| first.start(RunRequest::new("go")));
    let started: Vec<_> = futures_util::stream::iter(starts).buffer_unordered(AT_ONCE).collect().await;
    assert!(started.iter().all(Result::is_ok), "all runs start");
    while model.asked.load(Ordering::SeqCst) < RUNS {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // As a crash would: what the runs do from here on is not written any more.
    close(&recorder).await;

    let began = Instant::now();
    for entry in std::fs::read_dir(directory.path()).expect("there is a store").flatten() {
        std::hint::black_box(std::fs::read(entry.path()).expect("it can be read"));
    }
    let files = began.elapsed();
    let began = Instant::now();
    let store = Store::open(directory.path()).expect("the store opens");
    let mut records = 0;
    for stream in store.streams("run/").expect("it can be read") {
        records += store.read(&stream.name, 0, usize::MAX >> 1).expect("it can be read").len();
    }
    let read = began.elapsed();

    let began = Instant::now();
    let recorder = open(directory.path());
    let (second, model) = runtime(3, false, &recorder).await;
    let store = recorder.journal().expect("it has a store").store().expect("it opens");
    let runs: Vec<_> =
        store.streams("run/").expect("it can be read").iter().filter_map(|stream| run_of(&stream.name)).collect();
    let take_up = |run| {
        let (recorder, second) = (&recorder, &second);
        async move { second.resume(recorder.past(run).expect("it has a past"), Answers::default()).await }
    };
    let taken: Vec<_> = futures_util::stream::iter(&runs).map(take_up).buffer_unordered(AT_ONCE).collect().await;
    assert!(taken.iter().all(Result::is_ok), "all runs are taken up");
    while model.asked.load(Ordering::SeqCst) < RUNS {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let going = began.elapsed();
    println!("\n{RUNS} runs, {records} events, {} bytes on disk", bytes(directory.path()));
    println!("all of them going again: {going:.2?}, {:.0} a second", RUNS as f64 / going.as_secs_f64());
    println!("floor: to read their records, checked: {read:.2?}; to read the files: {files:.2?}");
}

fn main() {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads start");
    tokio.block_on(async {
        growth().await;
        recovery().await;
    });
}
