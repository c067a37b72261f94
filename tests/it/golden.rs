//! Runs that were once written fold to the same state for ever. A release whose events have another form gets a golden
//! store of its own; the old ones stay.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use provost::journal::Store;
use provost::model::Error as ModelError;
use provost::run::{Resolution, RunId, Status};
use provost::runtime::{Answers, Host, Past, Recorder, Report, RunRequest, Runtime, read_ledger, run_of};
use provost::spec::{Effect, Permission};
use serde_json::json;

use crate::resume::{HangAs, World, agent, builder, cut_off, open, says, spec};
use crate::scripted::{Scripted, calls, network, results, runtime as runtime_of, step, text};

/// The store of events of format 1.
const GOLDEN: &str = "tests/golden/runs/v1/provost.db";

/// The store of events of format 2 too: runs that were forked.
const GOLDEN_2: &str = "tests/golden/runs/v2/provost.db";

#[test]
fn the_golden_runs_fold_to_the_same_state() {
    insta::assert_snapshot!(folded(GOLDEN));
}

#[test]
fn the_golden_forks_fold_to_the_same_state() {
    insta::assert_snapshot!(folded(GOLDEN_2));
}

fn folded(golden: &str) -> String {
    // A copy, because SQLite makes files beside what it reads.
    let directory = tempfile::tempdir().unwrap();
    fs::copy(golden, directory.path().join("provost.db")).unwrap();
    provost::journal::verify(directory.path()).unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut folded = serde_json::Map::new();
    for stream in store.streams("run/").unwrap() {
        let run = run_of(&stream.name).unwrap();
        let past = Past::read(&store, &run).unwrap();
        let kinds: Vec<&str> = past.events.iter().map(|envelope| envelope.event.kind()).collect();
        let said =
            json!({ "kinds": kinds, "report": Report::of(&past.state), "state": past.state, "agents": past.agents });
        folded.insert(run.to_string(), said);
    }
    folded.insert("ledger".to_owned(), json!(read_ledger(&store).unwrap()));
    serde_json::to_string_pretty(&folded).unwrap()
}

/// Made it.
#[tokio::test]
#[ignore = "it has been written, once and for all"]
async fn write_the_golden_runs() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::default();
    let request = |run: &str| RunRequest {
        id: Some(RunId::new(run)),
        directory: Some("/srv/golden".into()),
        session: Some("ticket 7".into()),
        vars: [("tone".to_owned(), "dry".to_owned())].into(),
        ..RunRequest::new("look at it")
    };

    // One that ends well, with a try that fails, an answer that is sent back, and a text that is stored as a blob.
    let eventful = Scripted::new(|request| match (&*request.agent, step(request), request.attempt) {
        ("one", 1, 1) => Err(ModelError::Overloaded { status: 503, message: "busy".to_owned(), retry_after: None }),
        ("two", 2, _) => text(""),
        ("two", 3, _) => text("a long answer ".repeat(200)),
        _ => says(request),
    });
    let recorder = open(directory.path());
    let runtime = builder(spec(), &eventful, &world, recorder.clone()).start().await.unwrap();
    assert_eq!(runtime.start(request("01done")).await.unwrap().wait().await.unwrap().status, Status::Done);

    // One that is steered, paused and cancelled in the midst of a model call.
    let never = Scripted::later(|_| Box::pin(std::future::pending()));
    let runtime = builder(spec(), &never, &world, recorder.clone()).start().await.unwrap();
    let run = runtime.start(request("01cancelled")).await.unwrap();
    while never.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    run.controls().steer(None, "be brief".to_owned()).await.unwrap();
    assert!(run.controls().pause().await && run.controls().unpause().await);
    run.controls().cancel("enough");
    assert_eq!(run.wait().await.unwrap().status, Status::Cancelled);

    // One that waits for approval, and one that comes to a limit.
    let mut asking = spec();
    asking.policy.default = Permission::Ask;
    let runtime = builder(asking, &Scripted::new(says), &world, recorder.clone()).start().await.unwrap();
    assert_eq!(
        runtime.start(request("01asking")).await.unwrap().wait().await.unwrap().status,
        Status::AwaitingApproval
    );
    let mut limited = spec();
    limited.network.limits.steps = 2;
    let runtime = builder(limited, &Scripted::new(says), &world, recorder.clone()).start().await.unwrap();
    assert_eq!(runtime.start(request("01limited")).await.unwrap().wait().await.unwrap().status, Status::Limit);

    // One that is cut off in the midst of a model call and goes on.
    let hangs = Scripted::later(|request| {
        let said = match step(request) {
            1 => calls([("once", "{}")]),
            _ => text(results(request).join(" ")),
        };
        let hang = step(request) == 1 && request.attempt == 1;
        Box::pin(async move { if hang { std::future::pending().await } else { said } })
    });
    let mut cut = network([("one", agent(&["once"]))]);
    for class in ["pure", "idempotent", "once"] {
        cut.tools.insert(class.to_owned(), Default::default());
    }
    cut.policy.default = Permission::Allow;
    let runtime = builder(cut.clone(), &hangs, &world, recorder.clone()).start().await.unwrap();
    let run = runtime.start(request("01resumed")).await.unwrap();
    while hangs.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    cut_off(&recorder, run).await;
    let recorder = open(directory.path());
    let runtime = builder(cut, &hangs, &world, recorder.clone()).start().await.unwrap();
    let past = recorder.past(&RunId::new("01resumed")).unwrap();
    assert_eq!(runtime.resume(past, Answers::default()).await.unwrap().wait().await.unwrap().status, Status::Done);

    // One whose tool call was cut off: a person has said that it happened, and it has not been taken up since.
    let model = Scripted::new(|_| calls([("once", "{}")]));
    let mut spec = network([("one", agent(&["once"]))]);
    spec.tools.insert("once".to_owned(), Default::default());
    spec.policy.default = Permission::Allow;
    let start = async |recorder: &Arc<Recorder>| {
        let hangs = HangAs { world: world.clone(), class: Effect::Once };
        runtime_of(spec.clone(), &model).tool("once", hangs).recorder(recorder.clone()).start().await.unwrap()
    };
    let run = start(&recorder).await.start(request("01resolved")).await.unwrap();
    while !world.seen(Effect::Once).contains_key("01resolved/one#1.0") {
        tokio::task::yield_now().await;
    }
    cut_off(&recorder, run).await;
    let recorder = open(directory.path());
    let past = recorder.past(&RunId::new("01resolved")).unwrap();
    let resumed = start(&recorder).await.resume(past, Answers::default()).await.unwrap();
    assert_eq!(resumed.wait().await.unwrap().status, Status::InDoubt);
    let (call, resolution) = ("one#1.0".parse().unwrap(), Resolution::Done { result: "it happened".to_owned() });
    Host::new(recorder.clone()).resolve(&RunId::new("01resolved"), call, resolution).await.unwrap();
    keep(&recorder, directory.path(), GOLDEN).await;
}

/// Made the second one.
#[tokio::test]
#[ignore = "it has been written, once and for all"]
async fn write_the_golden_forks() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::default();
    let request = |run: &str| RunRequest {
        id: Some(RunId::new(run)),
        directory: Some("/srv/golden".into()),
        ..RunRequest::new("look at it")
    };
    let recorder = open(directory.path());
    let fork = async |runtime: &Runtime, parent: &str, at: u64, run: &str, input: Option<&str>| {
        let past = recorder.whole_past(&RunId::new(parent)).unwrap();
        let point = past.fork_point(at, &RunId::new(run)).unwrap();
        runtime.fork(point, input.map(Into::into), false).await.unwrap().wait().await.unwrap().status
    };

    // One that ends, forked with calls in all classes and a delegate under way, in another network and told something;
    // and a fork of that one.
    let runtime = builder(spec(), &Scripted::new(says), &world, recorder.clone()).start().await.unwrap();
    assert_eq!(runtime.start(request("01done")).await.unwrap().wait().await.unwrap().status, Status::Done);
    let mut other = spec();
    other.network.name = "other".to_owned();
    let other = builder(other, &Scripted::new(says), &world, recorder.clone()).start().await.unwrap();
    assert_eq!(fork(&other, "01done", 9, "01forked", Some("be brief")).await, Status::Done);
    assert_eq!(fork(&runtime, "01forked", 14, "01forked2", None).await, Status::Done);

    // One whose `once` call never comes back: its fork is in doubt, and a person has said since that it is to be made.
    let mut once = network([("one", agent(&["once"]))]);
    once.tools.insert("once".to_owned(), Default::default());
    once.policy.default = Permission::Allow;
    let hangs = HangAs { world: world.clone(), class: Effect::Once };
    let runtime = runtime_of(once, &Scripted::new(|_| calls([("once", "{}")]))).tool("once", hangs);
    let runtime = runtime.recorder(recorder.clone()).start().await.unwrap();
    let _run = runtime.start(request("01hangs")).await.unwrap();
    while !world.seen(Effect::Once).contains_key("01hangs/one#1.0") {
        tokio::task::yield_now().await;
    }
    assert_eq!(fork(&runtime, "01hangs", 5, "01doubt", None).await, Status::InDoubt);
    let call = "one#1.0".parse().unwrap();
    Host::new(recorder.clone()).resolve(&RunId::new("01doubt"), call, Resolution::Retry).await.unwrap();
    keep(&recorder, directory.path(), GOLDEN_2).await;
}

async fn keep(recorder: &Recorder, directory: &Path, golden: &str) {
    recorder.close().await.unwrap();
    assert!(
        !directory.join("provost.db-wal").exists()
            || fs::metadata(directory.join("provost.db-wal")).unwrap().len() == 0
    );
    fs::create_dir_all(Path::new(golden).parent().unwrap()).unwrap();
    fs::copy(directory.join("provost.db"), golden).unwrap();
}
