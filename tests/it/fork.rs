//! Runs that begin from a point of another's past: from any point, of any run, and the other one never knows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use provost::budget::{Amount, Entry};
use provost::journal::{Store, StreamName};
use provost::model::Error as ModelError;
use provost::run::{
    Ballot, CallId, Event, ForkPoint, Lineage, Resolution, RunId, RunState, Status, Subject, decode, encode,
};
use provost::runtime::{
    Answers, Approver, Error, Host, Past, Question, Recorder, Report, RunRequest, Runtime, new_run_id, read_entries,
    run_of,
};
use provost::spec::{Effect, NetworkSpec, Permission};
use serde_json::{Value, json};

use crate::process::SimServer;
use crate::replay::assert_same;
use crate::resume::{HangAs, World, agent, builder, close, cut_off, open, replayer, says, spec};
use crate::scripted::{Scripted, calls, network, results, said, step, text};
use crate::world::{TOOLS, World as Place};

/// Longer than any of these runs takes; only one that is stuck does.
const STUCK: Duration = Duration::from_secs(30);

/// Says yes to everything.
struct Yes;

impl Approver for Yes {
    fn ask<'a>(&'a self, _: &'a Question) -> BoxFuture<'a, Option<Ballot>> {
        Box::pin(async { Some(Ballot::of(true)) })
    }
}

/// A network of one agent with a tool of each class.
fn one(tools: &[&str]) -> NetworkSpec {
    let mut spec = network([("one", agent(tools))]);
    for class in ["pure", "idempotent", "once"] {
        spec.tools.insert(class.to_owned(), Default::default());
    }
    spec.policy.default = Permission::Allow;
    spec
}

fn acts_then_answers(tool: &'static str) -> Scripted {
    Scripted::new(move |request| match step(request) {
        1 => calls([(tool, "{}")]),
        _ => text(format!("{:?} {:?}", said(request), results(request))),
    })
}

async fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        tokio::task::yield_now().await;
    }
}

/// A run that was recorded, and the network in which it was.
struct Life {
    name: &'static str,
    run: RunId,
    spec: NetworkSpec,
}

fn request(name: &str) -> RunRequest {
    RunRequest { id: Some(RunId::new(format!("01{name}"))), ..RunRequest::new("x") }
}

/// One whose model call is cut off by the end of its process, and that goes on.
async fn cut_and_resumed(directory: &Path, world: &World) -> Life {
    let hangs = Scripted::later(|request| {
        let is_it = (&*request.agent, step(request), request.attempt) == ("two", 2, 1);
        let (hang, said) = (is_it, says(request));
        Box::pin(async move { if hang { std::future::pending().await } else { said } })
    });
    let recorder = open(directory);
    let runtime = builder(spec(), &hangs, world, recorder.clone()).start().await.unwrap();
    let run = runtime.start(request("cut")).await.unwrap();
    until(|| hangs.asked().iter().any(|request| step(request) == 2)).await;
    cut_off(&recorder, run).await;
    let recorder = open(directory);
    let runtime = builder(spec(), &hangs, world, recorder.clone()).start().await.unwrap();
    let past = recorder.past(&RunId::new("01cut")).unwrap();
    let report = runtime.resume(past, Answers::default()).await.unwrap().wait().await.unwrap();
    assert_eq!(report.status, Status::Done);
    close(&recorder).await;
    Life { name: "cut", run: report.run, spec: spec() }
}

/// One whose `once` call is cut off, is in doubt, and is settled by a person.
async fn in_doubt(directory: &Path, world: &World) -> Life {
    let (spec, model) = (one(&["once"]), acts_then_answers("once"));
    let start = async |recorder: &Arc<Recorder>| {
        let hangs = HangAs { world: world.clone(), class: Effect::Once };
        let runtime = builder(spec.clone(), &model, world, recorder.clone()).tool("once", hangs);
        runtime.start().await.unwrap()
    };
    let recorder = open(directory);
    let run = start(&recorder).await.start(request("doubt")).await.unwrap();
    until(|| world.seen(Effect::Once).contains_key("01doubt/one#1.0")).await;
    cut_off(&recorder, run).await;
    let (recorder, run) = (open(directory), RunId::new("01doubt"));
    for status in [Status::InDoubt, Status::Done] {
        if status == Status::Done {
            let (call, resolution) = ("one#1.0".parse().unwrap(), Resolution::Done { result: "sent".to_owned() });
            Host::new(recorder.clone()).resolve(&run, call, resolution).await.unwrap();
        }
        let past = recorder.past(&run).unwrap();
        let resumed = start(&recorder).await.resume(past, Answers::default()).await.unwrap();
        assert_eq!(resumed.wait().await.unwrap().status, status);
    }
    close(&recorder).await;
    Life { name: "doubt", run, spec: spec.clone() }
}

/// Runs in which all happens that can: delegation, handoff, tries that fail, answers and calls that are sent back, approval,
/// parking, resumption, doubt, steering, pauses, limits and cancellation.
async fn lives(directory: &Path, world: &World) -> Vec<Life> {
    let mut lives = vec![cut_and_resumed(directory, world).await, in_doubt(directory, world).await];
    let recorder = open(directory);
    let mut live = async |name: &'static str, spec: NetworkSpec, model: Scripted, status: Status| {
        let runtime = builder(spec.clone(), &model, world, recorder.clone());
        let runtime = if name == "parked" { runtime } else { runtime.approver(Yes) }.start().await.unwrap();
        let report = runtime.start(request(name)).await.unwrap().wait().await.unwrap();
        assert_eq!(report.status, status, "{name}: {report:?}");
        lives.push(Life { name, run: report.run, spec });
    };
    live("whole", spec(), Scripted::new(says), Status::Done).await;
    let eventful = Scripted::new(|request| match (&*request.agent, step(request), request.attempt) {
        ("one", 1, 1) => Err(ModelError::Overloaded { status: 503, message: "busy".to_owned(), retry_after: None }),
        ("two", 1, _) => calls([("nothing", "{}"), ("once", "{}"), ("once", "[")]),
        ("two", 2, _) => text(""),
        _ => says(request),
    });
    live("eventful", spec(), eventful, Status::Done).await;
    let mut asking = spec();
    asking.policy.default = Permission::Ask;
    live("asking", asking.clone(), Scripted::new(says), Status::Done).await;
    live("parked", asking, Scripted::new(says), Status::AwaitingApproval).await;
    let mut limited = spec();
    limited.network.limits.steps = 2;
    live("limited", limited, Scripted::new(says), Status::Limit).await;
    live("failing", one(&[]), Scripted::new(|_| text("")), Status::Limit).await;

    let never = Scripted::later(|request| {
        let (hang, said) = (step(request) == 2, says(request));
        Box::pin(async move { if hang { std::future::pending().await } else { said } })
    });
    let runtime = builder(spec(), &never, world, recorder.clone()).start().await.unwrap();
    let run = runtime.start(request("cancelled")).await.unwrap();
    until(|| never.asked().iter().any(|request| step(request) == 2)).await;
    run.controls().steer(None, "be brief".to_owned()).await.unwrap();
    assert!(run.controls().pause().await && run.controls().unpause().await);
    run.controls().cancel("enough");
    let report = run.wait().await.unwrap();
    assert_eq!(report.status, Status::Cancelled);
    lives.push(Life { name: "cancelled", run: report.run, spec: spec() });
    close(&recorder).await;
    lives
}

/// What the ledger and the run's own events say of its account, compared after each event.
fn books_agree(store: &Store) {
    let mut entries: BTreeMap<(RunId, u64), Vec<Entry>> = BTreeMap::new();
    for (_, entry) in read_entries(store).unwrap() {
        if let Entry::Reserved { run, seq, .. } | Entry::Settled { run, seq, .. } = &entry {
            entries.entry((run.clone(), *seq)).or_default().push(entry.clone());
        }
    }
    for info in store.streams("run/").unwrap() {
        let run = run_of(&info.name).unwrap();
        let past = Past::read(store, &run).unwrap();
        let copied = past.state.forked_from().map_or(0, |lineage| lineage.at);
        let (mut state, mut held, mut spent) = (RunState::default(), Amount::default(), Amount::default());
        for envelope in &past.events {
            state.evolve(envelope);
            for entry in entries.remove(&(run.clone(), envelope.seq)).unwrap_or_default() {
                assert!(envelope.seq > copied, "{run}: event {} was paid for by another run", envelope.seq);
                match entry {
                    Entry::Reserved { amount, .. } => held = held.plus(amount),
                    Entry::Settled { held: freed, spent: charged, .. } => {
                        (held, spent) = (held.minus(freed), spent.plus(charged));
                    }
                    _ => {}
                }
            }
            if envelope.seq > copied {
                assert_eq!((state.held(), state.spent()), (held, spent), "{run} after event {}", envelope.seq);
            }
        }
    }
    assert!(entries.is_empty(), "the ledger knows of events that are not there: {entries:?}");
}

/// Returns the hash in which a stream's chain ends.
fn chain(directory: &Path, run: &RunId) -> (u64, Vec<u8>) {
    let store = rusqlite::Connection::open(directory.join("provost.db")).unwrap();
    let name = format!("run/{run}");
    let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?));
    store.query_row("SELECT head_seq, head_hash FROM streams WHERE name = ?1", [name], row).unwrap()
}

async fn forked(runtime: &Runtime, point: ForkPoint) -> Report {
    let run = runtime.fork(point, None, true).await.unwrap();
    tokio::time::timeout(STUCK, run.wait()).await.unwrap_or_else(|_| panic!("it is stuck")).unwrap()
}

#[tokio::test]
async fn at_every_event_a_run_is_forked_and_ends_or_it_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::default();
    let lives = lives(directory.path(), &world).await;
    let chains: Vec<_> = lives.iter().map(|life| chain(directory.path(), &life.run)).collect();
    let recorder = open(directory.path());
    let (mut forks, mut kinds) = (0, BTreeSet::new());
    for Life { name, run, spec } in &lives {
        let model = Scripted::new(says);
        let runtime = builder(spec.clone(), &model, &world, recorder.clone()).approver(Yes).start().await.unwrap();
        let past = recorder.whole_past(run).unwrap();
        let head = past.events.len() as u64;
        let answer = Report::of(&past.state).answer_text();
        let mut last = 0;
        for at in 1..=head {
            kinds.insert(past.events[at as usize - 1].event.kind());
            let id = new_run_id();
            let point = match past.fork_point(at, &id) {
                Ok(point) => point,
                Err(Error::NoForkPoint { why, .. }) => {
                    assert_eq!(why.last, Some(last), "{name} at {at}: {why}");
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            assert!(point.at >= at && point.at - at <= 4, "{name}: {at} was moved to {}", point.at);
            last = point.at;
            if point.at != at {
                continue;
            }
            let begun: BTreeSet<CallId> = point.copied.iter().filter_map(|copy| intended(&copy.event)).collect();
            let under_way: BTreeSet<CallId> = point.fold.run.open_calls().map(|(call, _)| call.clone()).collect();
            let report = forked(&runtime, point).await;
            forks += 1;
            match report.status {
                Status::Done if answer.is_some() && !["eventful", "doubt"].contains(name) => {
                    assert_eq!(report.answer_text(), answer, "{name} at {at}");
                }
                Status::Done => {}
                Status::InDoubt => assert_eq!(*name, "doubt", "{report:?}"),
                Status::Limit => assert!(["limited", "failing"].contains(name), "{report:?}"),
                _ => panic!("{name} at {at}: {report:?}"),
            }
            assert_eq!(report.forked_from, Some(Lineage { run: run.clone(), at }));
            for class in [Effect::Pure, Effect::Idempotent, Effect::Once] {
                for call in begun.difference(&under_way) {
                    let key = format!("{id}/{call}");
                    assert!(!world.seen(class).contains_key(&key), "{name} at {at}: {call} was done again");
                }
            }
            let copy = recorder.whole_past(&id).unwrap();
            assert_eq!(Report::of(&copy.state), report);
            assert_same(&replayer(&world), &copy);
            for (copy, original) in copy.events.iter().zip(&past.events[..at as usize]) {
                assert_eq!(encode(copy), encode(original), "a copy says what the original says");
            }
        }
        assert!(last > 1, "{name} can't be forked");
    }
    assert!(forks > 150, "{forks}");
    assert!(kinds.len() >= 19, "not all that can happen did: {kinds:?}");
    assert!(world.seen(Effect::Once).values().all(|&times| times == 1), "{:?}", world.seen(Effect::Once));
    let ledger = recorder.ledger();
    let store = recorder.journal().unwrap().store().unwrap();
    books_agree(&store);
    let runs = store.streams("run/").unwrap();
    let spent = runs.iter().fold(Amount::default(), |sum, info| {
        sum.plus(Past::read(&store, &run_of(&info.name).unwrap()).unwrap().state.spent())
    });
    assert_eq!((ledger.spent_by("local"), ledger.open.len()), (spent, 0));
    drop(store);
    close(&recorder).await;
    for (life, before) in lives.iter().zip(chains) {
        assert_eq!(chain(directory.path(), &life.run), before, "{} has changed", life.name);
    }
    provost::journal::verify(directory.path()).unwrap();
}

fn intended(event: &Event) -> Option<CallId> {
    match event {
        Event::CallIntended { call, subject: Subject::Tool { .. }, .. } => Some(call.clone()),
        _ => None,
    }
}

/// Returns the number of the first event that is so.
fn first(past: &Past, is_so: impl Fn(&Event) -> bool) -> u64 {
    past.events.iter().find(|envelope| is_so(&envelope.event)).unwrap().seq
}

fn is_intent(event: &Event) -> bool {
    intended(event).is_some()
}

#[tokio::test]
async fn a_result_that_came_later_is_taken_over_and_counts_as_the_other_runs() {
    for class in ["pure", "idempotent", "once"] {
        let directory = tempfile::tempdir().unwrap();
        let (world, recorder, model) = (World::default(), open(directory.path()), acts_then_answers(class));
        let runtime = builder(one(&[class]), &model, &world, recorder.clone()).start().await.unwrap();
        let parent = runtime.run("x").await.unwrap();
        let past = recorder.whole_past(&parent.run).unwrap();
        let point = past.fork_point(first(&past, is_intent), &new_run_id()).unwrap();
        assert_eq!((point.taken_over.len(), point.effects()), (1, usize::from(class != "pure")));
        let report = forked(&runtime, point).await;
        assert_eq!(report.answer, parent.answer);
        assert_eq!((report.usage.model_calls, report.usage.tool_calls), (1, 0), "{report:?}");
        assert_eq!(world.0.lock().unwrap().len(), 1, "{class} was done again");

        // A fork of the fork, at the same call.
        let past = recorder.whole_past(&report.run).unwrap();
        let point = past.fork_point(first(&past, is_intent), &new_run_id()).unwrap();
        assert_eq!(point.taken_over.len(), 1);
        assert_eq!(forked(&runtime, point).await.answer, parent.answer);
        assert_eq!(world.0.lock().unwrap().len(), 1, "{class} was done again");
    }
}

/// Begins a run whose tool call of a class never comes back, and returns it with its process's store.
async fn hung(directory: &Path, world: &World, class: Effect, spec: NetworkSpec) -> (Arc<Recorder>, RunId) {
    let recorder = open(directory);
    let hangs = HangAs { world: world.clone(), class };
    let runtime = builder(spec, &acts_then_answers(class.word()), world, recorder.clone()).tool(class.word(), hangs);
    let run = runtime.start().await.unwrap().start(RunRequest::new("x")).await.unwrap();
    until(|| !world.0.lock().unwrap().is_empty()).await;
    let id = run.id().clone();
    // The intent of a pure call comes to the disk by itself.
    until(|| recorder.whole_past(&id).unwrap().events.iter().any(|envelope| is_intent(&envelope.event))).await;
    (recorder, id)
}

#[tokio::test]
async fn a_call_under_way_without_a_result_goes_by_its_class_under_its_old_key() {
    for class in [Effect::Pure, Effect::Idempotent, Effect::Once] {
        let directory = tempfile::tempdir().unwrap();
        let world = World::default();
        // The other run is still under way.
        let (recorder, parent) = hung(directory.path(), &world, class, one(&[class.word()])).await;
        let runtime = builder(one(&[class.word()]), &acts_then_answers(class.word()), &world, recorder.clone());
        let runtime = runtime.start().await.unwrap();
        let past = recorder.whole_past(&parent).unwrap();
        let parent_head = past.events.len() as u64;
        let point = past.fork_point(parent_head, &new_run_id()).unwrap();
        let report = forked(&runtime, point).await;
        let keys: Vec<String> = world.0.lock().unwrap().iter().map(|(_, key)| key.clone()).collect();
        let key = format!("{parent}/one#1.0");
        match class {
            Effect::Once => {
                assert_eq!((report.status, keys), (Status::InDoubt, vec![key]));
                // A person knows; a fork of the fork still has the first key.
                let past = recorder.whole_past(&report.run).unwrap();
                let point = past.fork_point(past.events.len() as u64, &new_run_id()).unwrap();
                assert_eq!(point.fold.run.open_calls().next().unwrap().1.begun_in, Some(parent.clone()));
                // So has one from before the first fork began: it is a fork of the first run.
                let point = past.fork_point(parent_head, &new_run_id()).unwrap();
                assert_eq!((&point.from, point.at), (&parent, parent_head));
                let report = forked(&runtime, point).await;
                let again = recorder.whole_past(&report.run).unwrap();
                assert_eq!(again.state.open_calls().next().unwrap().1.begun_in, Some(parent.clone()));
                let call = || "one#1.0".parse().unwrap();
                let host = Host::new(recorder.clone());
                host.resolve(&report.run, call(), Resolution::Retry).await.unwrap();
                let resumed = runtime.resume(recorder.past(&report.run).unwrap(), Answers::default()).await.unwrap();
                assert_eq!(resumed.wait().await.unwrap().status, Status::Done);
                assert_eq!(world.seen(Effect::Once), [(format!("{parent}/one#1.0"), 2)].into());

                // What a person said of that run's call says nothing of the next one's, until its result is there.
                let past = recorder.whole_past(&report.run).unwrap();
                let resolved = first(&past, |event| matches!(event, Event::CallResolved { .. }));
                let upto = Past { events: past.events[..resolved as usize].to_vec(), ..past };
                let point = upto.fork_point(resolved, &new_run_id()).unwrap();
                assert_eq!(point.fold.run.open_call(&call()).map(|open| open.attempt), Some(0));
                assert_eq!(forked(&runtime, point).await.status, Status::InDoubt);
            }
            _ => assert_eq!((report.status, keys), (Status::Done, vec![key.clone(), key])),
        }
        let store = recorder.journal().unwrap().store().unwrap();
        books_agree(&store);
    }
}

#[tokio::test]
async fn an_approval_holds_for_the_run_that_was_asked_about() {
    let directory = tempfile::tempdir().unwrap();
    let (world, recorder, model) = (World::default(), open(directory.path()), acts_then_answers("once"));
    let mut spec = one(&["once"]);
    spec.policy.default = Permission::Ask;
    let attended = builder(spec.clone(), &model, &world, recorder.clone()).approver(Yes).start().await.unwrap();
    let nobody = builder(spec, &model, &world, recorder.clone()).start().await.unwrap();
    let parent = attended.run("x").await.unwrap();
    let past = recorder.whole_past(&parent.run).unwrap();
    let decided = first(&past, |event| matches!(event, Event::ApprovalDecided { .. }));
    for at in [decided - 1, decided] {
        let point = past.fork_point(at, &new_run_id()).unwrap();
        let report = forked(&nobody, point).await;
        assert_eq!(report.status, Status::AwaitingApproval, "at {at}");
        // A fork of a parked run, from where it is parked.
        let parked = recorder.whole_past(&report.run).unwrap();
        let point = parked.fork_point(parked.events.len() as u64, &new_run_id()).unwrap();
        assert_eq!(forked(&attended, point).await.status, Status::Done);
    }
    assert_eq!(world.seen(Effect::Once).len(), 3);
}

#[tokio::test]
async fn what_a_fork_is_told_its_model_reads_before_it_speaks() {
    let directory = tempfile::tempdir().unwrap();
    let (world, recorder) = (World::default(), open(directory.path()));
    let runtime = builder(spec(), &Scripted::new(says), &world, recorder.clone()).start().await.unwrap();
    let parent = runtime.run("x").await.unwrap();
    let past = recorder.whole_past(&parent.run).unwrap();
    let mut phases = BTreeSet::new();
    for at in 1..=past.events.len() as u64 {
        let Ok(point) = past.fork_point(at, &new_run_id()) else { continue };
        let front = point.fold.run.front().unwrap().clone();
        phases.insert(past.events[point.at as usize - 1].event.kind());
        let model = Scripted::new(says);
        let runtime = builder(spec(), &model, &world, recorder.clone()).start().await.unwrap();
        let run = runtime.fork(point, Some("be brief".into()), false).await.unwrap();
        assert_eq!(run.wait().await.unwrap().status, Status::Done, "at {at}");
        let asked = model.asked();
        let spoken = asked.iter().find(|request| request.call.agent == front).unwrap();
        assert_eq!(said(spoken).last().map(String::as_str), Some("be brief"), "at {at}");
    }
    assert!(phases.len() >= 5, "{phases:?}");
}

#[tokio::test]
async fn a_network_that_does_not_have_what_is_at_work_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::default();
    let (recorder, parent) = hung(directory.path(), &world, Effect::Once, one(&["once"])).await;
    let past = recorder.whole_past(&parent).unwrap();
    let point = || past.fork_point(past.events.len() as u64, &new_run_id()).unwrap();
    let refused = async |spec: NetworkSpec| {
        let runtime = builder(spec, &Scripted::new(says), &world, recorder.clone()).start().await.unwrap();
        match runtime.fork(point(), None, false).await {
            Err(error @ Error::Misfit { .. }) => error.to_string(),
            _ => panic!("it was not refused"),
        }
    };
    let said = refused(one(&["pure"])).await;
    assert!(said.contains("agent `one` has call one#1.0 to `once` under way"), "{said}");
    let mut other = network([("two", agent(&["once"]))]);
    other.tools = one(&[]).tools;
    let said = refused(other).await;
    assert!(said.contains("it has no agent `one`, which is at work"), "{said}");
    assert_eq!(recorder.journal().unwrap().store().unwrap().streams("run/").unwrap().len(), 1, "nothing began");
}

#[tokio::test]
async fn many_forks_at_once_and_a_long_past() {
    const STEPS: u32 = 150;
    let directory = tempfile::tempdir().unwrap();
    let (world, recorder) = (World::default(), open(directory.path()));
    let model = Scripted::new(|request| match step(request) {
        STEPS => text(format!("{} results", results(request).len())),
        _ => calls([("once", "{}")]),
    });
    let mut spec = one(&["once"]);
    spec.agents["one"].max_steps = STEPS;
    spec.network.limits.steps = u64::from(STEPS);
    let runtime = builder(spec, &model, &world, recorder.clone()).start().await.unwrap();
    let parent = runtime.run("x").await.unwrap();
    let done = world.0.lock().unwrap().len();
    let past = recorder.whole_past(&parent.run).unwrap();
    let at = past.events.len() as u64 - 6;
    let forks = join_all((0..8).map(|_| forked(&runtime, past.fork_point(at, &new_run_id()).unwrap()))).await;
    for report in forks {
        assert_eq!(report.answer, parent.answer);
        assert!(report.usage.model_calls <= 2 && report.events > at, "{report:?}");
        // Its long past is in a snapshot too.
        let late = recorder.past(&report.run).unwrap();
        assert!(late.events.len() < 20, "{}", late.events.len());
        assert_eq!(late.state, recorder.whole_past(&report.run).unwrap().state);
    }
    assert!(world.0.lock().unwrap().len() <= done + 8);
    books_agree(&recorder.journal().unwrap().store().unwrap());
    close(&recorder).await;
    provost::journal::verify(directory.path()).unwrap();
}

#[tokio::test]
async fn an_older_provost_would_see_that_a_forked_run_is_newer() {
    let directory = tempfile::tempdir().unwrap();
    let (world, recorder, model) = (World::default(), open(directory.path()), acts_then_answers("pure"));
    let runtime = builder(one(&["pure"]), &model, &world, recorder.clone()).start().await.unwrap();
    let parent = runtime.run("x").await.unwrap();
    let point = recorder.whole_past(&parent.run).unwrap().fork_point(2, &new_run_id()).unwrap();
    let run = runtime.fork(point, Some("hear".into()), false).await.unwrap();
    let report = run.wait().await.unwrap();
    let store = recorder.journal().unwrap().store().unwrap();
    let records = |run: &RunId| store.read(&StreamName::new(format!("run/{run}")), 0, 1_000).unwrap();
    let newer = |run: &RunId| -> Vec<String> {
        let newer = records(run).into_iter().filter(|record| record.version > 1);
        newer.map(|record| record.kind.into_owned()).collect()
    };
    assert_eq!((newer(&parent.run), newer(&report.run)), (vec![], vec!["run_forked".into(), "asked".into()]));
    let newest = provost::journal::Record { version: 6, ..records(&parent.run).remove(0) };
    let stream = recorder.whole_past(&parent.run).unwrap().events[0].stream.clone();
    assert!(decode(&newest, &stream).unwrap_err().to_string().contains("has format 6, and this Provost reads up to 5"));
}

/// An agent that acts in each class, one thing at a time, and then says what it was told and what came of it.
const STEPS: &str = r#"
[network]
name = "steps"
entry = "a"
[models.m]
provider = "sim"
price = { input_usd_per_mtok = 1.3, output_usd_per_mtok = 7.0 }
[agents.a]
prompt = "You act."
tools = ["once", "idempotent", "pure"]
@TOOLS@
[sim.script]
a = ['{"calls": [{"name": "once", "arguments": {"argv": ["@LEDGER@", "once"]}}]}',
     '{"calls": [{"name": "idempotent", "arguments": {"argv": ["@LEDGER@", "idempotent"]}}]}',
     '{"calls": [{"name": "pure", "arguments": {"argv": ["@LEDGER@", "pure"]}}]}',
     '{{ messages | selectattr("role", "eq", "user") | map(attribute="text") | join(", ") }}: {{ all_results | map(attribute="content.stdout") | join("; ") }}']
"#;

const ANSWER: &str = "go: once of a#1.0; idempotent of a#2.0; pure of a#3.0\n";

/// The events of a run of `STEPS`: after which its `once` call has its result, and after which the next one has.
const AFTER_ONCE: &str = "6";
const AFTER_IDEMPOTENT: &str = "10";

fn ended(world: &Place) -> (RunId, (u64, Vec<u8>)) {
    assert_eq!(world.ask_for(0, &["run", "n.toml", "go"]), ANSWER);
    let run = RunId::new(world.runs()[0]["run"].as_str().unwrap());
    (run.clone(), chain(&world.data(""), &run))
}

fn deeds(world: &Place) -> usize {
    world.count_deeds()
}

#[test]
fn a_fork_says_where_it_comes_from_and_does_again_only_what_comes_after() {
    let world = Place::new(STEPS);
    let (parent, before) = ended(&world);
    let other =
        std::fs::read_to_string(world.path().join("n.toml")).unwrap().replace("join(\"; \") }}'", "first }} alone'");
    std::fs::write(world.path().join("other.toml"), other).unwrap();
    let told = world.ask(&["runs", "fork", "last", "--at", "5", "--network", "other.toml", "--input", "-v", "--json"]);
    assert_eq!(told.code(), Some(0), "{}", told.stderr);
    assert!(
        told.stderr
            .contains("up to event 5 stays done: 1 tool call that is not pure; 1 result came later and is taken over"),
        "{}",
        told.stderr
    );
    assert!(
        told.stderr.contains(&format!("the run goes its own way from event 5 of run {parent}, in another network"))
    );
    let report: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(report["answer"], "go, -v: once of a#1.0 alone");
    assert_eq!(report["forked_from"], json!({ "run": parent.as_str(), "at": 5 }));
    assert_eq!((&report["usage"]["model_calls"], &report["usage"]["tool_calls"]), (&json!(3), &json!(2)));
    assert_eq!(deeds(&world), 5, "3 of the run, 2 of the fork");
    assert_eq!((&world.runs()[0], &world.runs()[1]["forked_from"]), (&report, &Value::Null));
    let shown = world.ask_for(0, &["runs", "show", "last"]);
    assert!(shown.contains(&format!("\n  forked from event 5 of run {parent}\n")), "{shown}");

    // A fork of the fork, without and with another model, which says what it likes.
    let events = world.ask_for(0, &["runs", "fork", "last", "--at", AFTER_ONCE, "--events"]);
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(
        kinds[..8],
        [
            "run_started",
            "agent_started",
            "call_intended",
            "model_replied",
            "call_intended",
            "run_forked",
            "run_forked",
            "tool_returned"
        ]
    );
    assert_eq!(
        (&events[6]["at"], &events[6]["name"], &events[6]["network"]),
        (&json!(6), &json!("steps"), &Value::Null)
    );
    assert_eq!(events.last().unwrap()["answer"], "go: once of a#1.0 alone", "it was not told what was said later");
    world.ask_for(0, &["runs", "fork", parent.as_str(), "--at", "3", "--model", "sim"]);
    assert_eq!(chain(&world.data(""), &parent), before, "the run has changed");
    assert_eq!(deeds(&world), 5 + 2 + 3);
    world.ask_for(0, &["audit", "verify"]);

    // What is there without its parent.
    let fork = world.runs()[1]["run"].as_str().unwrap().to_owned();
    world.ask_for(0, &["runs", "prune", "--keep", "3"]);
    let pruned = world.ask(&["runs", "fork", parent.as_str(), "--at", "3"]);
    assert!(pruned.code() == Some(1) && pruned.stderr.contains("pruned"), "{}", pruned.stderr);
    world.ask_for(0, &["runs", "fork", &fork, "--at", AFTER_ONCE]);
    world.ask_for(0, &["audit", "verify"]);
}

#[test]
fn the_tour_is_forked_where_the_editor_takes_over() {
    let tour = std::fs::read_to_string("networks/tour.toml").unwrap();
    let world = Place::new(&tour);
    for (file, text) in [("code/a/a.rs", "fn a() {}"), ("code/b/b.rs", "fn b() {}"), ("code/top.rs", "fn top() {}")] {
        let path = world.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let whole = world.ask_for(0, &["run", "n.toml", "code"]);
    assert!(["a/a.rs: a", "b/b.rs: b", "top.rs: top"].iter().all(|item| whole.contains(item)), "{whole}");
    let parent = RunId::new(world.runs()[0]["run"].as_str().unwrap());
    let before = chain(&world.data(""), &parent);
    let short = world.ask_for(0, &["runs", "fork", "last", "--at", "11", "--input", "b"]);
    let diff = world.ask(&["runs", "diff", parent.as_str(), "last"]).stdout;
    assert!(
        diff.contains("they part at agent `scout~1.editor`, in what a person says:\n  A  (nothing)\n  B  b\n"),
        "{diff}"
    );
    assert!(short.contains("b/b.rs: b") && !short.contains("a/a.rs"), "{short}");
    let usage = &world.runs()[0]["usage"];
    assert_eq!((&usage["tool_calls"], &usage["model_calls"]), (&json!(1), &json!(4)), "one reader, and no list");
    // Another script of the editor's model, while it is being asked.
    std::fs::write(world.path().join("other.toml"), tour.replace("messages[-1].text | replace", "'a' | replace"))
        .unwrap();
    let other = world.ask_for(0, &["runs", "fork", parent.as_str(), "--at", "12", "--network", "other.toml"]);
    assert!(other.contains("a/a.rs: a") && !other.contains("b/b.rs"), "{other}");
    // Another model altogether, behind an address: it says what it would say of any network.
    let server = SimServer::start(&[]);
    let model = format!("openai:other@{}", server.base_url);
    world.ask_for(0, &["runs", "fork", parent.as_str(), "--at", "11", "--model", &model]);
    let fork = world.runs()[0]["run"].as_str().unwrap().to_owned();
    assert_ne!(world.runs()[0]["answer"], whole.trim_end());
    drop(server);
    for run in [parent.as_str(), &fork] {
        let replayed = world.ask_for(0, &["runs", "replay", run]);
        assert!(replayed.contains("0 tokens"), "{replayed}");
    }
    let diff = world.ask(&["runs", "diff", parent.as_str(), &fork]);
    let parting = diff.stdout.lines().find(|line| line.starts_with("they part at"));
    assert_eq!(
        parting,
        Some("they part at agent `scout~1.editor`, step 1, in the tools that are called:"),
        "{}",
        diff.stdout
    );
    assert_eq!(chain(&world.data(""), &parent), before, "the run has changed");
    world.ask_for(0, &["audit", "verify"]);
}

#[test]
fn what_can_not_be_forked_is_said_with_what_can() {
    let world = Place::new(STEPS);
    ended(&world);
    let other = std::fs::read_to_string(world.path().join("n.toml")).unwrap();
    std::fs::write(
        world.path().join("b.toml"),
        other.replace("\"a\"", "\"b\"").replace("agents.a", "agents.b").replace("\na = ", "\nb = "),
    )
    .unwrap();
    std::fs::write(world.path().join("torn.toml"), "[network]").unwrap();
    for (arguments, code, said) in [
        (&["last", "--at", "0"][..], 2, "has no event 0: they are counted from 1; it can be forked at events 1 to 16"),
        (&["last", "--at", "17"], 2, "comes to its end with event 17; it can be forked at events 1 to 16"),
        (&["last", "--at", "18"], 2, "comes to its end with event 18; it can be forked at events 1 to 16"),
        (&["last", "--at", "19"], 2, "has no event 19: the last is 18; it can be forked at events 1 to 16"),
        (&["last", "--at", "-1"], 2, "invalid value"),
        (&["last"], 2, "--at"),
        (&["none", "--at", "1"], 2, "there is no run none"),
        (&["last", "--at", "3", "--network", "b.toml"], 2, "it has no agent `a`, which is at work"),
        (&["last", "--at", "3", "--network", "torn.toml"], 3, "name"),
        (&["last", "--at", "3", "--model", "x=sim"], 2, "no model `x`"),
        (&["last", "--at", "3", "--input", " "], 2, "the input is empty"),
    ] {
        let ended = world.ask(&[&["runs", "fork"], arguments].concat());
        assert_eq!((ended.code(), ended.stdout.as_str()), (Some(code), ""), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{arguments:?}: {}", ended.stderr);
    }
    assert_eq!(world.runs().len(), 1, "nothing began");
    let moved = world.ask(&["runs", "fork", "last", "--at", "1"]);
    assert_eq!((moved.code(), moved.stdout.as_str()), (Some(0), ANSWER), "{}", moved.stderr);
    assert!(
        moved.stderr.starts_with("note: events 1 to 2 happened at once, so the fork is at event 2\n"),
        "{}",
        moved.stderr
    );
    assert_eq!(world.runs()[0]["network"], "steps");
}

#[test]
#[cfg(debug_assertions)]
fn a_fork_that_dies_is_there_whole_or_not_at_all_and_goes_on() {
    for point in [
        "journal.before_write@1",
        "journal.before_sync@1",
        "journal.after_sync@1",
        "gate.after_intent.model@1",
        "gate.after_effect.idempotent@1",
    ] {
        let world = Place::new(STEPS);
        let (parent, before) = ended(&world);
        let died =
            world.start(&["runs", "fork", "last", "--at", AFTER_ONCE], &[("PROVOST_CRASH_AT", point)], None).end();
        assert!(died.was_killed(), "{point} was not passed: {}", died.stderr);
        world.settle(false);
        world.ask_for(0, &["audit", "verify"]);
        let runs = world.runs();
        assert!(runs.len() == 2 || !died.stderr.contains("run "), "{point}: a run that was said is lost");
        if runs.len() == 2 {
            assert_eq!(world.ask_for(0, &["runs", "resume", "last"]), ANSWER, "{point}");
            assert_eq!(world.runs()[0]["forked_from"], json!({ "run": parent.as_str(), "at": 6 }));
            let again = usize::from(point.contains("after_effect"));
            assert_eq!(deeds(&world), 3 + 2 + again, "{point}");
        }
        assert_eq!(world.ask_for(0, &["runs", "fork", parent.as_str(), "--at", AFTER_IDEMPOTENT]), ANSWER);
        assert_eq!(chain(&world.data(""), &parent), before, "{point}: the run has changed");
        world.ask_for(0, &["audit", "verify"]);
    }
}

#[test]
#[cfg(debug_assertions)]
fn a_run_that_was_interrupted_is_forked_and_can_still_go_on_itself() {
    let world = Place::new(STEPS);
    let died =
        world.start(&["run", "n.toml", "go"], &[("PROVOST_CRASH_AT", "gate.after_effect.idempotent@1")], None).end();
    assert!(died.was_killed());
    world.settle(false);
    let parent = world.runs()[0]["run"].as_str().unwrap().to_owned();
    assert_eq!(world.ask_for(0, &["runs", "fork", "last", "--at", "9"]), ANSWER);
    assert_eq!(world.ask_for(0, &["runs", "resume", &parent]), ANSWER);
    // Whoever makes the call that was cut off, the world knows it by one key.
    let idempotent: Vec<_> = world.deeds().into_iter().filter(|((class, _), _)| class == "idempotent").collect();
    assert_eq!(idempotent, [(("idempotent".to_owned(), format!("{parent}/a#2.0")), 3)]);
    world.ask_for(0, &["audit", "verify"]);
}

#[test]
fn forks_of_a_run_under_way_go_through_the_process_that_has_it() {
    let network = STEPS
        .replace("@TOOLS@", TOOLS)
        .replace(r#"["@LEDGER@", "pure"]"#, r#"["sh", "-c", "while [ ! -e gate ]; do sleep 0.01; done"]"#);
    let network = network.replace("allow = [\"@LEDGER@\"]\neffect = \"pure\"", "allow = [\"sh\"]\neffect = \"pure\"");
    let world = Place::new(&network);
    let mut holder = world.start(&["run", "n.toml", "go"], &[], None);
    while !holder.said().contains("calls pure") {
        assert!(!holder.has_ended(), "{}", holder.said());
        std::thread::sleep(Duration::from_millis(5));
    }
    let parent = holder.run().unwrap().to_owned();
    let mut forks: Vec<_> = ["3", AFTER_ONCE, AFTER_IDEMPOTENT]
        .iter()
        .map(|at| world.start(&["runs", "fork", &parent, "--at", at], &[], None))
        .collect();
    for fork in &mut forks {
        while !fork.said().contains("goes its own way") || fork.said().matches("calls pure").count() == 0 {
            assert!(!fork.has_ended(), "{}", fork.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let refused = world.ask(&["runs", "fork", &parent, "--at", "90"]);
    assert_eq!(refused.code(), Some(2), "{}", refused.stderr);
    // One is cancelled, and no other is.
    let id = forks[0].run().unwrap().to_owned();
    world.ask_for(0, &["runs", "cancel", &id]);
    std::fs::write(world.path().join("gate"), "").unwrap();
    let codes: Vec<_> = forks.into_iter().map(|fork| fork.end().code()).collect();
    assert_eq!((codes, holder.end().code()), (vec![Some(130), Some(0), Some(0)], Some(0)));
    assert_eq!(deeds(&world), 2 + 2 + 1);
    world.ask_for(0, &["audit", "verify"]);
}
