//! Runs that are cut off at any point and taken up again: nothing is lost, nothing is done twice, and the books are right.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use provost::budget::Amount;
use provost::journal::Store;
use provost::model::{Reply, Request};
use provost::run::{Ballot, CallId, Event, Origin, Resolution, RunId, Status, Subject};
use provost::runtime::{Answers, Builder, Error, Host, Past, Recorder, Replayer, Report, RunHandle, RunRequest};
use provost::spec::{AgentSpec, Builtin, Effect, Network, NetworkSpec, Permission, ToolSpec};
use provost::tool::{self, Tool};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::scripted::{Scripted, calls, network, results, runtime, said, step, text};

/// What the world has seen: each time that a tool did something, by its class and key.
#[derive(Clone, Default)]
pub(crate) struct World(pub(crate) Arc<Mutex<Vec<(Effect, String)>>>);

impl World {
    pub(crate) fn seen(&self, class: Effect) -> BTreeMap<String, usize> {
        let mut seen = BTreeMap::new();
        for (_, key) in self.0.lock().unwrap().iter().filter(|(of, _)| *of == class) {
            *seen.entry(key.clone()).or_default() += 1;
        }
        seen
    }
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Nothing {}

/// Does something to the world, and says what.
pub(crate) struct Act {
    pub(crate) class: Effect,
    pub(crate) world: World,
}

impl Tool for Act {
    type Arguments = Nothing;
    type Output = String;

    fn description(&self) -> String {
        "Does something.".to_owned()
    }

    fn effect(&self) -> Effect {
        self.class
    }

    async fn call(&self, _: Nothing, call: tool::Call) -> Result<String, tool::Error> {
        self.world.0.lock().unwrap().push((self.class, call.idempotency_key.clone()));
        // So that others have their turn, and a cut can fall between the deed and its result.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        Ok(format!("{} {}", self.class.word(), call.id))
    }
}

pub(crate) fn agent(tools: &[&str]) -> AgentSpec {
    AgentSpec { tools: tools.iter().map(|&tool| tool.to_owned()).collect(), ..AgentSpec::new("You act.") }
}

/// An agent that acts in all classes at once and asks another, which acts too; and one that it hands over to.
pub(crate) fn spec() -> NetworkSpec {
    let one = AgentSpec {
        delegates_to: vec!["two".to_owned()],
        hands_off_to: vec!["three".to_owned()],
        ..agent(&["pure", "idempotent", "once"])
    };
    let mut spec = network([("one", one), ("two", agent(&["once"])), ("three", agent(&["once"]))]);
    for class in ["pure", "idempotent", "once"] {
        spec.tools.insert(class.to_owned(), Default::default());
    }
    spec.policy.default = Permission::Allow;
    spec.network.limits.tokens = Some(1_000_000);
    spec
}

fn model() -> Scripted {
    Scripted::new(says)
}

pub(crate) fn says(request: &Request) -> Result<Reply, provost::model::Error> {
    match (&*request.agent, step(request)) {
        ("one", 1) => {
            calls([("pure", "{}"), ("idempotent", "{}"), ("once", "{}"), ("ask_two", r#"{"message": "act"}"#)])
        }
        ("one", 2) => calls([("transfer_to_three", r#"{"message": "go on"}"#)]),
        ("two" | "three", 1) => calls([("once", "{}")]),
        _ => text(format!("{} {:?} {:?}", request.agent, said(request), results(request))),
    }
}

pub(crate) fn builder(spec: NetworkSpec, model: &Scripted, world: &World, recorder: Arc<Recorder>) -> Builder {
    let act = |class| Act { class, world: world.clone() };
    runtime(spec, model)
        .tool("pure", act(Effect::Pure))
        .tool("idempotent", act(Effect::Idempotent))
        .tool("once", act(Effect::Once))
        .recorder(recorder)
}

/// Returns what decides runs of these networks once more.
pub(crate) fn replayer(world: &World) -> Replayer {
    let act = |class| Act { class, world: world.clone() };
    Replayer::new()
        .tool("pure", act(Effect::Pure))
        .tool("idempotent", act(Effect::Idempotent))
        .tool("once", act(Effect::Once))
}

pub(crate) fn open(directory: &Path) -> Arc<Recorder> {
    Arc::new(Recorder::open(directory, false).unwrap())
}

pub(crate) async fn close(recorder: &Recorder) {
    recorder.close().await.unwrap();
}

/// Cuts a run off, as the end of its process would.
pub(crate) async fn cut_off(recorder: &Recorder, run: RunHandle) {
    close(recorder).await;
    assert!(matches!(run.wait().await, Err(Error::Journal(_))));
}

/// Lets a run go on until `events` of its events have happened since this process took it up, and cuts it off there.
/// Returns its report if it ended before that.
pub(crate) async fn live(recorder: &Recorder, run: RunHandle, events: usize) -> Option<Report> {
    let mut reader = run.events();
    let mut seen = 0;
    while seen < events && reader.next().await.is_some() {
        seen += 1;
    }
    close(recorder).await;
    match run.wait().await {
        Ok(report) => Some(report),
        Err(Error::Journal(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Says of each call in doubt what the world has seen of it.
async fn resolve_all(recorder: &Arc<Recorder>, run: &RunId, world: &World) {
    let past = recorder.past(run).unwrap();
    let doubts: Vec<CallId> = past.state.in_doubt().map(|(call, _)| call.clone()).collect();
    assert!(!doubts.is_empty(), "a run in doubt has a call in doubt");
    for call in doubts {
        let resolution = match world.seen(Effect::Once).contains_key(&format!("{run}/{call}")) {
            true => Resolution::Done { result: format!("once {call}") },
            false => Resolution::Retry,
        };
        Host::new(recorder.clone()).resolve(run, call, resolution).await.unwrap();
    }
}

/// What a run was charged by its own events.
fn charged(past: &Past) -> Amount {
    let charges = past.events.iter().filter_map(|envelope| envelope.event.charge());
    charges.fold(Amount::default(), |sum, (_, charged)| sum.plus(charged))
}

/// Runs the network to its end, cut off after every `cut` events, and a few more each time so that it gets on.
async fn run_cut_off(cut: usize) -> (String, usize) {
    let directory = tempfile::tempdir().unwrap();
    let (world, model) = (World::default(), model());
    let run = RunId::new("01cut");
    let mut lives = 0;
    let report = loop {
        lives += 1;
        assert!(lives < 200, "it does not come to an end");
        let recorder = open(directory.path());
        let builder = builder(spec(), &model, &world, recorder.clone());
        let runtime = builder.start().await.unwrap();
        let (handle, seen_before) = match recorder.past(&run) {
            Err(Error::NoSuchRun(_)) => {
                let request = RunRequest { id: Some(run.clone()), ..RunRequest::new("x") };
                (runtime.start(request).await, 0)
            }
            past => {
                let past = past.unwrap();
                if past.state.status() == Status::InDoubt {
                    resolve_all(&recorder, &run, &world).await;
                    let past = recorder.past(&run).unwrap();
                    let seen = past.events.len();
                    (runtime.resume(past, Answers::default()).await, seen)
                } else {
                    let seen = past.events.len();
                    (runtime.resume(past, Answers::default()).await, seen)
                }
            }
        };
        if let Some(report) = live(&recorder, handle.unwrap(), (seen_before + lives).saturating_add(cut)).await
            && report.status != Status::InDoubt
        {
            break report;
        }
    };
    let recorder = open(directory.path());
    let past = recorder.past(&run).unwrap();
    assert_eq!(report.status, Status::Done, "{report:?}");
    let seen = world.seen(Effect::Once);
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen.values().all(|&times| times == 1), "done twice: {seen:?}");
    assert_eq!(world.seen(Effect::Idempotent).len(), 1, "another key for the same call");
    assert_eq!(Report::of(&past.state), report, "what was reported is what is stored");
    let ledger = recorder.ledger();
    assert_eq!(charged(&past), past.state.spent());
    assert_eq!(ledger.spent_by("local"), past.state.spent(), "the ledger says something else than the run");
    assert!(ledger.open.is_empty(), "{ledger:?}");
    assert_eq!(past.state.held(), Amount::default());
    crate::replay::assert_same(&replayer(&world), &past);
    provost::journal::verify(directory.path()).unwrap();
    (report.answer_text().unwrap().to_string(), lives)
}

#[tokio::test]
async fn a_run_cut_off_anywhere_ends_as_it_would_have() {
    let (whole, lives) = run_cut_off(usize::MAX).await;
    assert_eq!(lives, 1);
    assert!(whole.contains("once one#1.2") || whole.contains("three"), "{whole}");
    let mut cuts = 0;
    for cut in 1..=30 {
        let (answer, lives) = run_cut_off(cut).await;
        assert_eq!(answer, whole, "cut after every {cut} events");
        cuts += lives - 1;
    }
    assert!(cuts > 30, "the runs were hardly cut off at all: {cuts}");
}

/// Cuts a run off in the midst of its one call of a class, and takes it up again.
async fn cut_in_a_call(
    class: &'static str,
    change: impl Fn(&mut NetworkSpec),
) -> (World, Scripted, Result<Report, Error>) {
    let directory = tempfile::tempdir().unwrap();
    let world = World::default();
    let model = Scripted::new(move |request| match step(request) {
        1 => calls([(class, "{}")]),
        _ => text(results(request).join(" ")),
    });
    let mut spec = network([("one", agent(&[class]))]);
    spec.policy.default = Permission::Allow;
    for class in ["pure", "idempotent", "once", "hang"] {
        spec.tools.insert(class.to_owned(), Default::default());
    }
    let recorder = open(directory.path());
    let hung = runtime(spec.clone(), &model).tool("hang", Hang(world.clone()));
    let hung = ["pure", "idempotent", "once"]
        .iter()
        .fold(hung, |builder, &name| builder.tool(name, HangAs { world: world.clone(), class: class_of(name) }));
    let hung = hung.recorder(recorder.clone()).start().await.unwrap();
    let run = hung.start(RunRequest::new("x")).await.unwrap();
    let id = run.id().clone();
    while world.0.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    cut_off(&recorder, run).await;
    let recorder = open(directory.path());
    change(&mut spec);
    let runtime = builder(spec, &model, &world, recorder.clone()).tool("hang", Hang(world.clone()));
    let runtime = runtime.start().await.unwrap();
    let resumed = runtime.resume(recorder.past(&id).unwrap(), Answers::default()).await.unwrap();
    let report = resumed.wait().await;
    let replayer = replayer(&world).tool("hang", Hang(world.clone()));
    crate::replay::assert_same(&replayer, &recorder.past(&id).unwrap());
    (world, model, report)
}

fn class_of(name: &str) -> Effect {
    match name {
        "pure" => Effect::Pure,
        "idempotent" => Effect::Idempotent,
        _ => Effect::Once,
    }
}

/// Does it, and never says so.
pub(crate) struct HangAs {
    pub(crate) world: World,
    pub(crate) class: Effect,
}

impl Tool for HangAs {
    type Arguments = Nothing;
    type Output = String;

    fn description(&self) -> String {
        "Does something.".to_owned()
    }

    fn effect(&self) -> Effect {
        self.class
    }

    async fn call(&self, _: Nothing, call: tool::Call) -> Result<String, tool::Error> {
        self.world.0.lock().unwrap().push((self.class, call.idempotency_key));
        std::future::pending().await
    }
}

/// Knows what became of a call.
struct Hang(World);

impl Tool for Hang {
    type Arguments = Asked;
    type Output = serde_json::Value;

    fn description(&self) -> String {
        "Says what became of a call.".to_owned()
    }

    fn effect(&self) -> Effect {
        Effect::Pure
    }

    async fn call(&self, asked: Asked, _: tool::Call) -> Result<serde_json::Value, tool::Error> {
        let was_seen = self.0.seen(Effect::Once).contains_key(&asked.key);
        assert_eq!((asked.tool.as_str(), asked.arguments.is_object()), ("once", true));
        Ok(match was_seen {
            true => serde_json::json!({ "state": "done", "result": "it was done" }),
            false => serde_json::json!({ "state": "not_done" }),
        })
    }
}

#[derive(Deserialize, JsonSchema)]
struct Asked {
    key: String,
    tool: String,
    arguments: serde_json::Value,
}

#[tokio::test]
async fn a_call_that_was_cut_off_is_made_again_only_where_that_does_no_harm() {
    for class in ["pure", "idempotent"] {
        let (world, _, report) = cut_in_a_call(class, |_| {}).await;
        assert_eq!(report.unwrap().status, Status::Done);
        let seen = world.seen(class_of(class));
        assert_eq!((seen.len(), seen.values().sum::<usize>()), (1, 2), "twice, under one key: {seen:?}");
    }
    let (world, model, report) = cut_in_a_call("once", |_| {}).await;
    let report = report.unwrap();
    assert_eq!(report.status, Status::InDoubt, "{report:?}");
    assert!(report.reason.unwrap().contains("one#1.0 of `once`"));
    assert_eq!(world.seen(Effect::Once).values().sum::<usize>(), 1);
    assert_eq!(model.asked().len(), 1, "the model is not asked before the doubt is settled");
}

#[tokio::test]
async fn the_stricter_of_the_class_then_and_now_holds() {
    let is_now_pure = |spec: &mut NetworkSpec| spec.tools["once"].effect = Some(Effect::Pure);
    let (_, _, report) = cut_in_a_call("once", is_now_pure).await;
    assert_eq!(report.unwrap().status, Status::InDoubt);
    let is_now_once = |spec: &mut NetworkSpec| spec.tools["pure"].effect = Some(Effect::Once);
    let (_, _, report) = cut_in_a_call("pure", is_now_once).await;
    assert_eq!(report.unwrap().status, Status::InDoubt);
}

#[tokio::test]
async fn a_tool_that_knows_is_asked_before_a_person_is() {
    let knows = |spec: &mut NetworkSpec| {
        spec.tools["once"].reconcile = Some("hang".to_owned());
        spec.policy.default = Permission::Allow;
    };
    let (world, _, report) = cut_in_a_call("once", knows).await;
    let report = report.unwrap();
    assert_eq!((report.status, report.answer_text().as_deref()), (Status::Done, Some("it was done")), "{report:?}");
    assert_eq!(world.seen(Effect::Once).values().sum::<usize>(), 1);
}

#[tokio::test]
async fn a_model_call_that_was_cut_off_is_charged_and_made_again_with_the_very_same_transcript() {
    let directory = tempfile::tempdir().unwrap();
    let spec = network([("one", agent(&[]))]);
    let never = Scripted::later(|_| Box::pin(std::future::pending()));
    let recorder = open(directory.path());
    let first = runtime(spec.clone(), &never).recorder(recorder.clone()).start().await.unwrap();
    let run = first.start(RunRequest::new("x")).await.unwrap();
    let id = run.id().clone();
    while never.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    cut_off(&recorder, run).await;

    let recorder = open(directory.path());
    let past = recorder.past(&id).unwrap();
    let held = past.state.held();
    assert!(held.tokens > 0 && held == recorder.ledger().open[&id].held, "{held:?}");
    let answers = Scripted::new(|_| text("done"));
    let second = runtime(spec, &answers).recorder(recorder.clone()).start().await.unwrap();
    let report = second.resume(past, Answers::default()).await.unwrap().wait().await.unwrap();
    assert_eq!(report.status, Status::Done);
    assert_eq!(report.usage.charged_tokens, held.tokens + 15, "the first try is charged in full");
    assert_eq!(report.usage.model_calls, 1, "one logical call");
    let (before, after) = (never.asked().remove(0), answers.asked().remove(0));
    assert_eq!((before.attempt, after.attempt), (1, 2));
    assert_eq!((before.messages, before.system), (after.messages, after.system));
}

#[tokio::test]
async fn a_run_that_is_parked_for_approval_goes_on_with_the_answer() {
    for granted in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let (world, model) = (World::default(), Scripted::new(one_act_then_answer));
        let mut spec = network([("one", agent(&["once"]))]);
        for class in ["pure", "idempotent", "once"] {
            spec.tools.insert(class.to_owned(), Default::default());
        }
        spec.policy.default = Permission::Ask;
        let recorder = open(directory.path());
        let first = builder(spec.clone(), &model, &world, recorder.clone()).start().await.unwrap();
        let report = first.run("x").await.unwrap();
        assert_eq!(report.status, Status::AwaitingApproval);
        close(&recorder).await;

        let recorder = open(directory.path());
        let runtime = builder(spec, &model, &world, recorder.clone()).start().await.unwrap();
        let again = runtime.resume(recorder.past(&report.run).unwrap(), Answers::default()).await.unwrap();
        assert_eq!(again.wait().await.unwrap().status, Status::AwaitingApproval, "nobody has answered");
        let ballots = vec![("one#1.0".parse().unwrap(), Ballot::of(granted))];
        let answers = Answers { ballots, ..Answers::default() };
        let resumed = runtime.resume(recorder.past(&report.run).unwrap(), answers).await.unwrap();
        let report = resumed.wait().await.unwrap();
        assert_eq!(report.status, Status::Done);
        assert_eq!(world.seen(Effect::Once).len(), usize::from(granted));
        assert_eq!(model.asked().len(), 2, "the model was asked again for what it had said");
    }
}

fn one_act_then_answer(request: &Request) -> Result<Reply, provost::model::Error> {
    match step(request) {
        1 => calls([("once", "{}")]),
        _ => text(results(request).join(" ")),
    }
}

#[tokio::test]
async fn a_paused_run_begins_nothing_and_a_steered_agent_hears_it() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let opened = gate.clone();
    let model = Scripted::later(move |request| {
        let (gate, step, said) = (opened.clone(), step(request), said(request));
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            if step == 1 { text("first") } else { text(format!("{said:?}")) }
        })
    });
    let runtime = runtime(network([("one", agent(&[]))]), &model).start().await.unwrap();
    let run = runtime.start(RunRequest::new("x")).await.unwrap();
    let controls = run.controls();
    while model.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(controls.pause().await);
    controls.steer(None, "be brief".to_owned()).await.unwrap();
    assert!(controls.steer(Some(provost::run::AgentId::new("two")), "x".to_owned()).await.is_err());
    gate.add_permits(2);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(model.asked().len(), 1, "a paused run began a call");
    assert!(controls.unpause().await);
    let report = run.wait().await.unwrap();
    assert_eq!(report.answer_text().as_deref(), Some(r#"["x", "be brief"]"#));
    let heard = &model.asked()[1].messages;
    assert_eq!(heard.last().unwrap().origin, Origin::Person);
}

#[tokio::test]
async fn a_run_that_no_process_has_can_be_cancelled_and_its_cut_off_calls_are_charged() {
    let directory = tempfile::tempdir().unwrap();
    let never = Scripted::later(|_| Box::pin(std::future::pending()));
    let recorder = open(directory.path());
    let spec = network([("one", agent(&[]))]);
    let runtime = runtime(spec, &never).recorder(recorder.clone()).start().await.unwrap();
    let run = runtime.start(RunRequest::new("x")).await.unwrap();
    let id = run.id().clone();
    while never.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    cut_off(&recorder, run).await;
    let recorder = open(directory.path());
    let held = recorder.past(&id).unwrap().state.held();
    let host = Host::new(recorder.clone());
    host.cancel(&id, "no longer wanted").await.unwrap();
    let past = recorder.past(&id).unwrap();
    assert_eq!(
        (past.state.status(), past.state.spent(), past.state.held()),
        (Status::Cancelled, held, Amount::default())
    );
    assert_eq!(recorder.ledger().spent_by("local"), held);
    assert!(recorder.ledger().open.is_empty());
    assert!(matches!(host.cancel(&id, "again").await, Err(Error::Unfit { .. })));
    assert!(matches!(host.cancel(&RunId::new("none"), "x").await, Err(Error::NoSuchRun(_))));
}

#[tokio::test]
async fn intents_are_stored_with_their_labels_and_keys_are_stable() {
    let directory = tempfile::tempdir().unwrap();
    let (world, model) = (World::default(), model());
    let recorder = open(directory.path());
    let mut spec = spec();
    spec.tools["once"].labels.reads = Some("private".to_owned());
    let runtime = builder(spec, &model, &world, recorder.clone()).start().await.unwrap();
    let report = runtime.run("x").await.unwrap();
    let past = recorder.past(&report.run).unwrap();
    let handed = past
        .events
        .iter()
        .find(|envelope| matches!(&envelope.event, Event::CallIntended { subject: Subject::Handoff { .. }, .. }));
    assert_eq!(handed.unwrap().labels.iter().collect::<Vec<_>>(), ["private"]);
    let keys: Vec<String> = world.seen(Effect::Once).into_keys().collect();
    assert!(keys.contains(&format!("{}/one#1.2", report.run)), "{keys:?}");
}

#[tokio::test]
async fn a_long_run_is_taken_up_from_its_last_snapshot() {
    const STEPS: u32 = 300;
    let directory = tempfile::tempdir().unwrap();
    let world = World::default();
    let model = Scripted::new(|request| match step(request) {
        STEPS => text(format!("{} results", results(request).len())),
        _ => calls([("pure", "{}")]),
    });
    let mut spec = network([("one", AgentSpec { max_steps: STEPS, ..agent(&["pure"]) })]);
    for class in ["pure", "idempotent", "once"] {
        spec.tools.insert(class.to_owned(), Default::default());
    }
    spec.policy.default = Permission::Allow;
    spec.network.limits.steps = u64::from(STEPS);
    let recorder = open(directory.path());
    let first = builder(spec.clone(), &model, &world, recorder.clone()).start().await.unwrap();
    let run = first.start(RunRequest::new("x")).await.unwrap();
    let id = run.id().clone();
    assert!(live(&recorder, run, 1_100).await.is_none(), "it ended before it was cut off");

    let recorder = open(directory.path());
    let store = recorder.journal().unwrap().store().unwrap();
    let (whole, late) = (Past::read(&store, &id).unwrap(), Past::since_snapshot(&store, &id).unwrap());
    assert!(late.events.len() + 1_000 < whole.events.len(), "{} of {}", late.events.len(), whole.events.len());
    assert_eq!((&whole.state, &whole.agents), (&late.state, &late.agents), "a snapshot is a fold of the events");
    let second = builder(spec, &model, &world, recorder.clone()).start().await.unwrap();
    let report = second.resume(late, Answers::default()).await.unwrap().wait().await.unwrap();
    assert_eq!(report.answer_text().as_deref(), Some("299 results"), "{:?}", report.reason);
}

#[tokio::test]
async fn of_many_who_change_a_run_at_once_one_does_and_no_other_run_is_harmed() {
    let directory = tempfile::tempdir().unwrap();
    let mut asking = NetworkSpec::default();
    (asking.network.name, asking.network.entry) = ("n".to_owned(), "a".to_owned());
    asking.agents.insert("a".to_owned(), agent(&["write"]));
    asking.tools.insert("write".to_owned(), ToolSpec { builtin: Some(Builtin::FsWrite), ..ToolSpec::default() });
    asking.policy.default = Permission::Ask;
    let call = r#"{"calls": [{"name": "write", "arguments": {"path": "x", "text": "x"}}]}"#;
    asking.sim.script.insert("a".to_owned(), vec![call.to_owned()]);
    let host = Host::new(open(directory.path()));
    let network = Network::new(asking).unwrap();
    let request = |id: &str| RunRequest {
        id: Some(RunId::new(id)),
        directory: Some(directory.path().to_owned()),
        ..RunRequest::new("x")
    };

    let starts = (0..16).map(|_| host.start(network.clone(), request("01one")));
    let started: Vec<_> = futures_util::future::join_all(starts).await;
    assert_eq!(started.iter().filter(|started| started.is_ok()).count(), 1);
    let run = started.into_iter().find_map(Result::ok).unwrap();
    let id = run.id().clone();
    assert_eq!(run.wait().await.unwrap().status, Status::AwaitingApproval);

    let cancels: Vec<_> = futures_util::future::join_all((0..20).map(|_| host.cancel(&id, "enough"))).await;
    assert_eq!(cancels.iter().filter(|cancelled| cancelled.is_ok()).count(), 1, "{cancels:?}");
    let others = host.start(network.clone(), request("01two")).await.unwrap();
    assert_eq!(others.wait().await.unwrap().status, Status::AwaitingApproval, "the store takes no more");

    let two = RunId::new("01two");
    let (resumed, cancelled) =
        tokio::join!(host.resume::<Error>(&two, Answers::default(), Ok), host.cancel(&two, "enough"),);
    assert!(resumed.is_ok() || cancelled.is_ok(), "{cancelled:?}");
    host.recorder().check().unwrap();
    host.shutdown().await.unwrap();
    provost::journal::verify(directory.path()).unwrap();
}

/// Is what `class` says, and looks whether the intent of its call can be read from the disk by then.
struct Careful {
    class: Effect,
    directory: std::path::PathBuf,
    seen: Arc<Mutex<Vec<bool>>>,
}

fn is_stored(directory: &Path, run: &RunId, call: &CallId) -> bool {
    let store = Store::open(directory).unwrap();
    let past = Past::read(&store, run).unwrap();
    past.state.open_call(call).is_some_and(|open| open.attempt > 0)
}

impl Tool for Careful {
    type Arguments = Nothing;
    type Output = String;

    fn description(&self) -> String {
        "Looks.".to_owned()
    }

    fn effect(&self) -> Effect {
        self.class
    }

    async fn call(&self, _: Nothing, call: tool::Call) -> Result<String, tool::Error> {
        self.seen.lock().unwrap().push(is_stored(&self.directory, &call.run, &call.id));
        Ok("looked".to_owned())
    }
}

#[tokio::test]
async fn an_intent_is_on_disk_before_its_effect() {
    for class in [Effect::Idempotent, Effect::Once] {
        let directory = tempfile::tempdir().unwrap();
        let seen: Arc<Mutex<Vec<bool>>> = Arc::default();
        let (beneath, models) = (directory.path().to_owned(), seen.clone());
        let model = Scripted::new(move |request| {
            models.lock().unwrap().push(is_stored(&beneath, &request.run, &request.call));
            match step(request) {
                4 => text("done"),
                _ => calls([("look", "{}")]),
            }
        });
        let mut spec = network([("one", agent(&["look"]))]);
        spec.tools.insert("look".to_owned(), Default::default());
        spec.policy.default = Permission::Allow;
        let careful = Careful { class, directory: directory.path().to_owned(), seen: seen.clone() };
        let recorder = open(directory.path());
        let runtime = runtime(spec, &model).tool("look", careful).recorder(recorder).start().await.unwrap();
        assert_eq!(runtime.run("x").await.unwrap().status, Status::Done);
        assert_eq!(*seen.lock().unwrap(), [true; 7], "{class:?}");
    }
}
