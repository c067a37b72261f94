//! Stopping: what is told to stop may do so by itself for a while, and is ended then.

use std::convert::Infallible;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use provost::run::Status;
use provost::runtime::{Recorder, RunHandle, RunRequest};
use provost::spec::{AgentSpec, Permission, Span};
use provost::tool::{self, Tool};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use schemars::JsonSchema;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::process::{PATIENCE, provost, running, signal, wait};
use crate::resume::{cut_off, open};
use crate::scripted::{Scripted, calls, network, runtime, said, text};

/// For how many seconds programs sleep: longer than any test waits, and a number by which they are told from all others
/// of this machine.
fn word(number: u32) -> String {
    format!("900.{}{number}", std::process::id())
}

/// Waits until so many processes have the word.
fn wait_until_running(count: usize, word: &str) {
    let began = Instant::now();
    while running(word) != count {
        assert!(began.elapsed() < PATIENCE, "there are {} and not {count}", running(word));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How long the thousand have to stop.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// How much longer than that it may take until the process is out.
const PROMISED: Duration = Duration::from_secs(1);

/// A network of agents that are busy at once, fifty for each of `teams`, each with a process of its own that sleeps for
/// `word` seconds. Every one of so many, as `deaf` says, ignores what it is told.
fn busy(teams: u32, deaf: u32, shutdown: &str, word: &str) -> TempDir {
    let text = format!(
        r#"
[network]
name = "busy"
entry = "head"
[network.limits]
steps = 2_000
depth = 2
[supervision]
shutdown = "{shutdown}"
[agents.head]
prompt = "You ask."
delegates_to = ["middle"]
[agents.middle]
prompt = "You ask."
delegates_to = ["leaf"]
[agents.leaf]
prompt = "You work."
tools = ["work"]
[tools.work]
builtin = "process.run"
allow = ["sh", "sleep"]
timeout = "10m"
[policy]
default = "allow"
[sim.script]
head = ["""{{"calls": [{{% for n in range({teams}) %}}
  {{"name": "ask_middle", "arguments": {{"message": "{{{{ n }}}}"}}}}{{{{ "," if not loop.last }}}}{{% endfor %}}]}}"""]
middle = ["""{{"calls": [{{% for n in range(50) %}}
  {{"name": "ask_leaf", "arguments": {{"message": "{{{{ n }}}}"}}}}{{{{ "," if not loop.last }}}}{{% endfor %}}]}}"""]
leaf = ["""{{"calls": [{{"name": "work", "arguments": {{"argv":
  {{% if input | int % {deaf} == 0 %}}["sh", "-c", "trap '' TERM INT HUP; exec sleep {word}"]
  {{% else %}}["sleep", "{word}"]{{% endif %}}}}}}]}}"""]
"#
    );
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("n.toml"), text).unwrap();
    dir
}

/// Lets the processes that this one starts have as many files open as this machine allows: a program has three.
fn open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    assert!(
        maximum.is_none_or(|maximum| maximum > 4_000),
        "`ulimit -Hn` is too low for a thousand programs: {maximum:?}"
    );
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    }
}

/// The one assertion on time that is the promise itself. What it costs to stop nine hundred is done by the time that the
/// others have; what comes after that, to kill a hundred and write down the end, takes a tenth of what is promised.
#[test]
fn a_thousand_busy_agents_stop_in_time_and_leave_no_process_behind() {
    open_files();
    let word = word(1);
    let dir = busy(20, 10, "3s", &word);
    let mut child = provost(dir.path()).args(["run", "n.toml", "go"]).stderr(Stdio::null()).spawn().unwrap();
    wait_until_running(1_000, &word);
    let began = Instant::now();
    signal(&child, Signal::INT);
    assert_eq!(wait(&mut child), Some(130));
    let took = began.elapsed();
    assert!((SHUTDOWN..SHUTDOWN + PROMISED).contains(&took), "it took {took:?}");
    // Whoever was killed may need a moment to be dead; whoever was not sleeps on.
    wait_until_running(0, &word);
}

/// A process that leaves at once drops few of its tasks before its end: a hundred programs are more than these.
#[test]
fn a_second_signal_leaves_at_once_and_leaves_no_process_behind() {
    open_files();
    let word = word(2);
    let dir = busy(2, 1, "1h", &word);
    let said = dir.path().join("said");
    let stderr = std::fs::File::create(&said).unwrap();
    let mut child = provost(dir.path()).args(["run", "n.toml", "go"]).stderr(stderr).spawn().unwrap();
    wait_until_running(100, &word);
    signal(&child, Signal::INT);
    let began = Instant::now();
    while !std::fs::read_to_string(&said).unwrap().contains("once more leaves at once") {
        assert!(began.elapsed() < PATIENCE && child.try_wait().unwrap().is_none(), "it does not hear the signal");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(running(&word), 100);
    signal(&child, Signal::INT);
    assert_eq!(wait(&mut child), Some(130));
    wait_until_running(0, &word);
}

#[derive(Deserialize, JsonSchema)]
struct Nothing {}

/// A tool made of a function.
struct Work<F> {
    began: Arc<Notify>,
    work: F,
}

impl<F: Fn(tool::Call) -> BoxFuture<'static, ()> + Send + Sync + 'static> Tool for Work<F> {
    type Arguments = Nothing;
    type Output = ();

    fn description(&self) -> String {
        "Works.".to_owned()
    }

    async fn call(&self, _: Nothing, call: tool::Call) -> Result<(), tool::Error> {
        self.began.notify_one();
        (self.work)(call).await;
        Ok(())
    }
}

/// Starts a run, and waits until its agent's tool is at work.
async fn at_work(
    shutdown: Span,
    recorder: impl Into<Arc<Recorder>>,
    work: impl Fn(tool::Call) -> BoxFuture<'static, ()> + Send + Sync + 'static,
) -> RunHandle {
    let mut spec = network([("one", AgentSpec { tools: vec!["work".to_owned()], ..AgentSpec::new("You work.") })]);
    spec.tools.insert("work".to_owned(), Default::default());
    spec.policy.default = Permission::Allow;
    spec.supervision.shutdown = shutdown;
    let began = Arc::new(Notify::new());
    let tool = Work { began: began.clone(), work };
    let provider = Scripted::new(|_| calls([("work", "{}")]));
    let runtime = runtime(spec, &provider).tool("work", tool).recorder(recorder).start().await.unwrap();
    let run = runtime.start(RunRequest::new("x")).await.unwrap();
    began.notified().await;
    run
}

/// What has happened, in order.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn write(&self, what: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(what.into());
    }

    fn read(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Returns what is never done, and writes down that it was dropped.
    fn never(&self, name: &str) -> BoxFuture<'static, Infallible> {
        let entry = Entry(self.clone(), name.to_owned());
        Box::pin(async move {
            let _entry = entry;
            std::future::pending().await
        })
    }

    /// Returns work that is never done and does not hear that it is cancelled.
    fn deaf(&self) -> impl Fn(tool::Call) -> BoxFuture<'static, ()> + Send + Sync + use<> {
        let diary = self.clone();
        move |_| {
            let never = diary.never("dropped");
            Box::pin(async { match never.await {} })
        }
    }
}

/// Is written when it is dropped.
struct Entry(Diary, String);

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.write(std::mem::take(&mut self.1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_ignores_its_cancellation_is_dropped_when_its_time_is_over() {
    for shutdown in [Span::from_secs(3), Span::from_secs(0)] {
        let diary = Diary::default();
        let run = at_work(shutdown, Recorder::in_memory(), diary.deaf()).await;
        let began = tokio::time::Instant::now();
        run.controls().cancel("enough");
        assert_eq!(run.wait().await.unwrap().status, Status::Cancelled);
        assert_eq!((began.elapsed(), diary.read()), (shutdown.0, vec!["dropped".to_owned()]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_hears_its_cancellation_may_put_things_in_order() {
    let diary = Diary::default();
    let seen = diary.clone();
    let run = at_work(Span::from_secs(3), Recorder::in_memory(), move |call| {
        let seen = seen.clone();
        Box::pin(async move {
            call.cancelled.cancelled().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            seen.write("in order");
        })
    });
    let run = run.await;
    let began = tokio::time::Instant::now();
    run.controls().cancel("enough");
    let report = run.wait().await.unwrap();
    assert_eq!((report.status, report.usage.tool_calls), (Status::Cancelled, 0), "what it says is heard no more");
    assert_eq!((began.elapsed(), diary.read()), (Duration::from_millis(200), vec!["in order".to_owned()]));
}

#[tokio::test]
async fn a_run_whose_store_fails_gives_its_tools_no_time() {
    let (directory, diary) = (tempfile::tempdir().unwrap(), Diary::default());
    let recorder = open(directory.path());
    let run = at_work(Span::from_secs(3_600), recorder.clone(), diary.deaf()).await;
    tokio::time::timeout(PATIENCE, cut_off(&recorder, run)).await.unwrap();
    assert_eq!(diary.read(), ["dropped"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_that_blocks_its_thread_does_not_keep_its_run_from_ending() {
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let run = at_work(Span::from_secs(0), Recorder::in_memory(), move |_| {
        let released = released.clone();
        Box::pin(async move { released.lock().unwrap().recv().unwrap_or_default() })
    });
    let run = run.await;
    run.controls().cancel("enough");
    let report = tokio::time::timeout(PATIENCE, run.wait()).await.unwrap();
    assert_eq!(report.unwrap().status, Status::Cancelled);
    release.send(()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_network_that_shuts_down_stops_its_runs_in_the_reverse_order_of_their_start_and_its_models_at_once() {
    let diary = Diary::default();
    let seen = diary.clone();
    let provider = Scripted::later(move |request| {
        let never = seen.never(&said(request).concat());
        match said(request).concat().as_str() {
            "b" => Box::pin(async { text("done") }),
            _ => Box::pin(async { match never.await {} }),
        }
    });
    let runtime = runtime(network([("one", AgentSpec::new("You wait."))]), &provider).start().await.unwrap();
    let mut runs = Vec::new();
    for input in ["a", "b", "c", "d"] {
        runs.push(runtime.start(RunRequest::new(input)).await.unwrap());
    }
    assert_eq!(runs.remove(1).wait().await.unwrap().status, Status::Done);
    while provider.asked().len() < 4 {
        tokio::task::yield_now().await;
    }
    let began = tokio::time::Instant::now();
    runtime.shutdown().await;
    assert_eq!((began.elapsed(), diary.read()), (Duration::ZERO, ["b", "d", "c", "a"].map(str::to_owned).into()));
}
