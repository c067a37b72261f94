//! How many durable agent steps a second one process makes, beside two floors measured in the same run.
//!
//! A step is a model call and a tool call of class `once`, both of which must be on disk before they are made: an agent
//! waits for the disk twice a step. The simulated model has no delay and the tool does nothing, so that what is measured
//! is Provost and the disk.
//!
//! * **group commit**: the same records, appended to the same journal by as many tasks as there are runs, each of which
//!   waits where an agent would; no agents, no gate, no budget, no transcript.
//! * **a sync per step**: one writer that commits each step by itself, as a store without group commit would.
//!
//! `cargo bench --bench durable`

#![expect(clippy::expect_used, reason = "a bench that cannot run should say so at once")]
#![expect(clippy::disallowed_methods, reason = "the floor's writers are tasks of the bench")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use provost::journal::{Batch, Durable, Journal, Part, Record, Store, StreamName};
use provost::runtime::{Recorder, Runtime};
use provost::spec::{AgentSpec, Network, NetworkSpec, Permission, SimSpec};
use provost::tool::{self, Tool};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::oneshot;

/// As the `provost` binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many steps a run has: nine with a tool call, and the answer.
const STEPS: u32 = 10;

/// How long each figure is measured at the least.
const LONG_ENOUGH: Duration = Duration::from_secs(3);

#[derive(Deserialize, JsonSchema)]
struct Nothing {}

/// A tool that does nothing, and must not be called twice.
struct Noop;

impl Tool for Noop {
    type Arguments = Nothing;
    type Output = &'static str;

    fn description(&self) -> String {
        "Does nothing.".to_owned()
    }

    async fn call(&self, _: Nothing, _: tool::Call) -> Result<&'static str, tool::Error> {
        Ok("nothing")
    }
}

fn network() -> Network {
    let mut script = vec![r#"{"calls": [{"name": "noop"}]}"#.to_owned(); STEPS as usize - 1];
    script.push("done".to_owned());
    let mut spec = NetworkSpec::default();
    spec.network.name = "bench".to_owned();
    spec.network.entry = "one".to_owned();
    spec.policy.default = Permission::Allow;
    spec.agents.insert("one".to_owned(), AgentSpec { tools: vec!["noop".to_owned()], ..AgentSpec::new("Work.") });
    spec.tools.insert("noop".to_owned(), Default::default());
    spec.sim = SimSpec { script: [("one".to_owned(), script)].into_iter().collect(), ..SimSpec::default() };
    Network::new(spec).expect("the bench's network is valid")
}

/// What was measured.
struct Figure {
    steps_per_s: f64,
    syncs_per_step: f64,
    cpu_us_per_step: f64,
}

/// Returns for how many microseconds the process has had a processor.
fn cpu_us() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Lets `width` tasks make whole runs, one after the other, until it has been long enough.
async fn measure<F>(
    width: usize,
    commits: impl Fn() -> u64,
    run: impl Fn(usize) -> F + Clone + Send + 'static,
) -> Figure
where
    F: Future<Output = ()> + Send,
{
    let (began, before, cpu) = (Instant::now(), commits(), cpu_us());
    let tasks = (0..width).map(|index| {
        let run = run.clone();
        tokio::spawn(async move {
            let mut runs = 0u64;
            while runs == 0 || began.elapsed() < LONG_ENOUGH {
                run(index).await;
                runs += 1;
            }
            runs
        })
    });
    let done = futures_util::future::join_all(tasks.collect::<Vec<_>>()).await;
    let steps: u64 = done.into_iter().map(|runs| runs.expect("no run panics") * u64::from(STEPS)).sum();
    Figure {
        steps_per_s: steps as f64 / began.elapsed().as_secs_f64(),
        syncs_per_step: (commits() - before) as f64 / steps as f64,
        cpu_us_per_step: (cpu_us() - cpu) / steps as f64,
    }
}

async fn agents(width: usize) -> Figure {
    let directory = tempfile::tempdir().expect("there is room for a store");
    let recorder = Arc::new(Recorder::open(directory.path(), false).expect("the store opens"));
    let journal = recorder.journal().expect("it has a store").clone();
    let runtime = Runtime::builder(network()).tool("noop", Noop).recorder(recorder).start().await.expect("it starts");
    let runtime = Arc::new(runtime);
    measure(
        width,
        move || journal.commits(),
        move |_| {
            let runtime = runtime.clone();
            async move { drop(runtime.run("go").await.expect("the run ends")) }
        },
    )
    .await
}

/// The records of one run, as the agents write them: its own, each with the ledger's that goes with it.
fn records(directory: &Path) -> Vec<(Record, Option<Record>)> {
    let store = Store::open(directory).expect("the store opens");
    let stream = store.streams("run/").expect("the store can be read").remove(0);
    let own = store.read(&stream.name, 0, usize::MAX >> 1).expect("the run can be read");
    let ledger = store.read(&StreamName::new("ledger"), 0, usize::MAX >> 1).expect("the ledger can be read");
    let mut ledger = ledger.into_iter();
    let has_entry = |kind: &str| matches!(kind, "run_started" | "call_intended" | "model_replied" | "run_ended");
    own.into_iter()
        .map(|record| {
            let entry = has_entry(&record.kind).then(|| ledger.next()).flatten();
            (record, entry)
        })
        .collect()
}

/// The floor's store: the journal, and the number of the ledger's last entry.
struct Floor {
    journal: Journal,
    ledger: Mutex<u64>,
    next_run: Mutex<u64>,
}

impl Floor {
    fn open(directory: &Path) -> Self {
        let journal = Journal::open(directory, false).expect("the store opens");
        Self { journal, ledger: Mutex::new(0), next_run: Mutex::new(0) }
    }

    fn append(&self, run: &StreamName, seq: u64, (own, entry): &(Record, Option<Record>), durable: Vec<Durable>) {
        let part = |stream: &StreamName, record: &Record, seq| Part {
            stream: stream.clone(),
            records: vec![Record { seq, ..record.clone() }],
            mark: None,
            snapshot: None,
        };
        let mut parts = vec![part(run, own, seq)];
        let mut ledger = self.ledger.lock().expect("no writer panics");
        if let Some(entry) = entry {
            *ledger += 1;
            parts.push(part(&StreamName::new("ledger"), entry, *ledger));
        }
        self.journal.append(Batch { parts, durable }).expect("the store can be written");
    }

    /// Writes one run's records, and waits where an agent would, or after each step.
    async fn write(&self, records: &[(Record, Option<Record>)], waits: impl Fn(&Record) -> bool) {
        let number = {
            let mut next = self.next_run.lock().expect("no writer panics");
            *next += 1;
            *next
        };
        let run = StreamName::new(format!("run/{number:026}"));
        for (index, record) in records.iter().enumerate() {
            let seq = index as u64 + 1;
            if !waits(&record.0) {
                self.append(&run, seq, record, Vec::new());
                continue;
            }
            let (told, durable) = oneshot::channel();
            self.append(&run, seq, record, vec![Box::new(move |result| drop(told.send(result)))]);
            durable.await.expect("the writer answers").expect("the store can be written");
        }
    }
}

async fn floor(
    width: usize,
    records: &Arc<Vec<(Record, Option<Record>)>>,
    waits: impl Fn(&Record) -> bool + Copy + Send + Sync + 'static,
) -> Figure {
    let directory = tempfile::tempdir().expect("there is room for a store");
    let floor = Arc::new(Floor::open(directory.path()));
    let (journal, records) = (floor.journal.clone(), records.clone());
    measure(
        width,
        move || journal.commits(),
        move |_| {
            let (floor, records) = (floor.clone(), records.clone());
            async move { floor.write(&records, waits).await }
        },
    )
    .await
}

fn main() {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads start");
    tokio.block_on(async {
        let directory = tempfile::tempdir().expect("there is room for a store");
        let recorder = Recorder::open(directory.path(), false).expect("the store opens");
        let builder = Runtime::builder(network()).tool("noop", Noop).recorder(recorder);
        builder.start().await.expect("it starts").run("go").await.expect("the run ends");
        let records = Arc::new(records(directory.path()));
        let bytes: usize = records
            .iter()
            .flat_map(|(own, entry)| [Some(own), entry.as_ref()])
            .flatten()
            .map(|record| record.payload.len())
            .sum();
        println!("{} records and {bytes} bytes of payload a run of {STEPS} steps", records.len());
        println!("steps per second (syncs and processor time per step)\n");
        println!("| runs at once | agents | floor: group commit | of the floor | floor: a sync per step |");
        println!("|---|---|---|---|---|");
        let is_waited_for = |record: &Record| matches!(&*record.kind, "run_started" | "call_intended" | "run_ended");
        let one = floor(1, &records, |record| record.kind == "model_replied").await;
        for width in [1, 16, 256, 2_048] {
            // The two are measured in turn, and twice, so that a busy neighbour hits both.
            let mut figures: Vec<(Figure, Figure)> = Vec::new();
            for _ in 0..2 {
                figures.push((agents(width).await, floor(width, &records, is_waited_for).await));
            }
            figures.sort_by(|a, b| a.0.steps_per_s.total_cmp(&b.0.steps_per_s));
            let (agents, group) = figures.pop().expect("there are two");
            println!(
                "| {width} | {:.0} ({:.4}; {:.0} µs) | {:.0} ({:.4}; {:.0} µs) | {:.0} % | {:.0} |",
                agents.steps_per_s,
                agents.syncs_per_step,
                agents.cpu_us_per_step,
                group.steps_per_s,
                group.syncs_per_step,
                group.cpu_us_per_step,
                100.0 * agents.steps_per_s / group.steps_per_s,
                one.steps_per_s,
            );
        }
    });
}
