//! Sleeps: as long as they are asked to be, whatever becomes of their process meanwhile. But for one test with real
//! processes the clock is tokio's, and paused.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use provost::run::{Event, RunId, Status, Subject, ToolFailure};
use provost::runtime::{Answers, Builder, Past, Recorder, Report, RunRequest, new_run_id};
use provost::spec::{Builtin, NetworkSpec, Span, ToolSpec};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::process::PATIENCE;
use crate::resume::{agent, cut_off};
use crate::scripted::{Scripted, calls, network, results, runtime, step, text};
use crate::world::World;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

/// The time of day when a test begins.
const BEGAN_MS: u64 = 1_700_000_000_000;

/// An agent that sleeps for an hour, and says what came of it.
fn sleeper() -> NetworkSpec {
    let mut spec = network([("one", agent(&["sleep"]))]);
    spec.tools.insert("sleep".to_owned(), ToolSpec { builtin: Some(Builtin::ClockSleep), ..ToolSpec::default() });
    spec
}

fn model() -> Scripted {
    Scripted::new(|request| match step(request) {
        1 => calls([("sleep", r#"{"duration": "1h"}"#)]),
        _ => text(results(request).join(" ")),
    })
}

const SLEPT: &str = r#"{"slept":"1h"}"#;

fn is_sleep(event: &Event) -> bool {
    matches!(event, Event::CallIntended { subject: Subject::Tool { .. }, .. })
}

#[tokio::test(start_paused = true)]
async fn a_run_that_sleeps_an_hour_ends_after_an_hour_and_holds_nothing_meanwhile() {
    let mut spec = sleeper();
    spec.network.fleet.model_calls_in_flight = Some(1);
    let runtime = runtime(spec, &model()).start().await.unwrap();
    let began = Instant::now();
    let runs: Vec<_> = (0..5).map(|_| runtime.run("x")).collect();
    for report in futures_util::future::join_all(runs).await {
        let report = report.unwrap();
        assert_eq!((report.status, report.answer_text().as_deref()), (Status::Done, Some(SLEPT)));
    }
    assert_eq!(began.elapsed(), HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_cuts_a_sleep_only_where_the_network_names_one() {
    let mut spec = sleeper();
    spec.tools["sleep"].timeout = Some(Span::from(MINUTE));
    let runtime = runtime(spec, &model()).start().await.unwrap();
    let began = Instant::now();
    let run = runtime.start(RunRequest::new("x")).await.unwrap();
    let mut events = run.events();
    while let Some(envelope) = events.next().await {
        if let Event::ToolReturned { failure, .. } = &envelope.event {
            assert_eq!(*failure, Some(ToolFailure::TimedOut));
            assert_eq!(began.elapsed(), MINUTE);
            return;
        }
    }
    panic!("the sleep had no result");
}

#[tokio::test(start_paused = true)]
async fn cancel_wakes_nobody_and_ends_the_run_at_once() {
    let runtime = runtime(sleeper(), &model()).start().await.unwrap();
    let began = Instant::now();
    let run = runtime.start(RunRequest::new("x")).await.unwrap();
    sleep(MINUTE).await;
    run.controls().cancel("never mind");
    assert_eq!(run.wait().await.unwrap().status, Status::Cancelled);
    assert_eq!(began.elapsed(), MINUTE);
}

/// Lives through one process, whose store is closed at its end; `now_ms` is the time of day at its beginning.
async fn process<T>(directory: &Path, now_ms: u64, life: impl AsyncFnOnce(Arc<Recorder>) -> T) -> T {
    let (recorder, inline) = Recorder::simulated(directory, false, now_ms, 1).unwrap();
    let recorder = Arc::new(recorder);
    let living = async {
        let lived = life(recorder.clone()).await;
        recorder.close().await.unwrap();
        lived
    };
    tokio::join!(inline.write(async |_| {}), living).1
}

fn builder(recorder: &Arc<Recorder>) -> Builder {
    runtime(sleeper(), &model()).recorder(recorder.clone())
}

/// What became of a run that slept.
struct Slept {
    report: Report,
    past: Past,
    /// How long its last process was at work.
    last: Duration,
}

impl Slept {
    /// When the sleep was intended, each time, and when it was over, in milliseconds since the test began.
    fn times(&self) -> (Vec<i64>, i64) {
        let mut intents = Vec::new();
        for envelope in &self.past.events {
            let at_ms = envelope.time_ms as i64 - BEGAN_MS as i64;
            match &envelope.event {
                event if is_sleep(event) => intents.push(at_ms),
                Event::ToolReturned { .. } => return (intents, at_ms),
                _ => {}
            }
        }
        panic!("the sleep is not over");
    }
}

/// Begins a sleep of an hour, which processes live through that work for so many minutes each and are then cut off; the
/// clock of the next one has gone on by so many minutes meanwhile, or back. The process after them comes to the end.
async fn cut_after(lives: &[(u64, i64)]) -> Slept {
    let directory = tempfile::tempdir().unwrap();
    let id = RunId::new("01sleeper");
    let mut now_ms = BEGAN_MS;
    let take_up = async |recorder: &Arc<Recorder>| {
        let runtime = builder(recorder).start().await.unwrap();
        match recorder.past(&id) {
            Err(_) => runtime.start(RunRequest { id: Some(id.clone()), ..RunRequest::new("x") }).await.unwrap(),
            Ok(past) => runtime.resume(past, Answers::default()).await.unwrap(),
        }
    };
    for &(minutes, down) in lives {
        process(directory.path(), now_ms, async |recorder| {
            let run = take_up(&recorder).await;
            sleep(MINUTE * minutes as u32).await;
            cut_off(&recorder, run).await;
        })
        .await;
        now_ms = now_ms.saturating_add_signed((minutes as i64 + down) * 60_000);
    }
    process(directory.path(), now_ms, async |recorder| {
        let began = Instant::now();
        let report = take_up(&recorder).await.wait().await.unwrap();
        Slept { report, past: recorder.whole_past(&id).unwrap(), last: began.elapsed() }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_taken_up_sleeps_for_what_is_left() {
    for (lives, intents_min, over_min) in [
        (&[][..], &[0][..], 60),
        (&[(20, 0)], &[0, 20], 60),
        // Half of it while there was no process at all.
        (&[(20, 30)], &[0, 50], 60),
        (&[(20, 5), (10, 5), (10, 5)], &[0, 25, 40, 55], 60),
        // The time was over before the run was taken up.
        (&[(20, 40)], &[0, 60], 60),
        (&[(20, 600)], &[0, 620], 620),
        (&[(20, 10), (10, 600)], &[0, 30, 640], 640),
    ] {
        let slept = cut_after(lives).await;
        let minutes = |all: &[i64]| all.iter().map(|min| min * 60_000).collect::<Vec<_>>();
        assert_eq!(slept.times(), (minutes(intents_min), over_min * 60_000), "{lives:?}");
        assert_eq!((slept.report.status, slept.report.answer_text().as_deref()), (Status::Done, Some(SLEPT)));
        let resumed = slept.past.events.iter().filter(|event| matches!(event.event, Event::RunResumed { .. }));
        assert_eq!(resumed.count(), lives.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_makes_no_sleep_longer_than_it_was_to_be() {
    let slept = cut_after(&[(20, -600)]).await;
    assert_eq!((slept.last, slept.report.status), (HOUR, Status::Done));
    // Set back by less than was slept, it makes up for that alone.
    let slept = cut_after(&[(20, -5)]).await;
    assert_eq!((slept.last, slept.report.status), (MINUTE * 45, Status::Done));
}

#[tokio::test(start_paused = true)]
async fn a_fork_of_a_run_that_sleeps_wakes_with_it() {
    let directory = tempfile::tempdir().unwrap();
    process(directory.path(), BEGAN_MS, async |recorder| {
        let runtime = builder(&recorder).start().await.unwrap();
        let began = Instant::now();
        let parent = runtime.start(RunRequest::new("x")).await.unwrap();
        sleep(MINUTE * 20).await;
        let past = recorder.whole_past(parent.id()).unwrap();
        let point = past.fork_point(past.events.len() as u64, &new_run_id()).unwrap();
        let fork = runtime.fork(point, None, true).await.unwrap();
        // A fork of the fork has the first run's time too.
        sleep(MINUTE * 20).await;
        let past = recorder.whole_past(fork.id()).unwrap();
        let point = past.fork_point(past.events.len() as u64, &new_run_id()).unwrap();
        let second = runtime.fork(point, None, true).await.unwrap();
        for run in [parent, fork, second] {
            assert_eq!(run.wait().await.unwrap().answer_text().as_deref(), Some(SLEPT));
            assert_eq!(began.elapsed(), HOUR);
        }
    })
    .await;
}

/// A sleep between two processes, the first of which is killed.
const NETWORK: &str = r#"
[network]
name = "sleeper"
entry = "a"
[agents.a]
prompt = "You sleep."
tools = ["sleep"]
[tools.sleep]
builtin = "clock.sleep"
[sim.script]
a = ['{"calls": [{"name": "sleep", "arguments": {"duration": "3s"}}]}', '{{ results[0].content.slept }}']
"#;

/// When the events of a kind that belong to the sleep were recorded.
fn times(world: &World, kind: &str) -> Vec<u64> {
    let events = world.ask_for(0, &["audit", "export"]);
    let events = events.lines().map(|line| serde_json::from_str(line).unwrap());
    let is_ours = |event: &Value| event["kind"] == kind && event["call"] == "a#1.0";
    events.filter(is_ours).map(|event| event["time_ms"].as_u64().unwrap()).collect()
}

#[test]
fn a_sleep_outlives_its_process() {
    let world = World::new(NETWORK);
    let killed = world.start(&["run", "n.toml", "go"], &[], None);
    let began = std::time::Instant::now();
    while world.data("provost.db").metadata().is_err() || times(&world, "call_intended").is_empty() {
        assert!(began.elapsed() < PATIENCE, "it does not sleep: {}", killed.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(killed);
    // The rest of it passes while there is no process.
    std::thread::sleep(Duration::from_secs(3));
    if cfg!(debug_assertions) {
        // Another process is cut off after it has taken the run up, and before it has intended the call anew.
        let cut = world.start(&["runs", "resume", "last"], &[("PROVOST_CRASH_AT", "gate.before_intent.pure")], None);
        assert!(cut.end().was_killed());
        assert_eq!(times(&world, "call_intended").len(), 1);
    }
    assert_eq!(world.ask_for(0, &["runs", "resume", "last"]).trim_end(), "3s");
    let (intents, over) = (times(&world, "call_intended"), times(&world, "tool_returned"));
    assert_eq!((intents.len(), over.len()), (2, 1));
    assert!(over[0] - intents[0] >= 3_000, "{intents:?} {over:?}");
    assert!(over[0] - intents[1] < 3_000, "it slept anew: {intents:?} {over:?}");
    world.ask_for(0, &["audit", "verify"]);
    world.ask_for(0, &["runs", "replay", "last"]);
}
