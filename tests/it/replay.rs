//! Recorded runs that are decided once more: what was decided is decided again, and whatever is changed is found.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use provost::fault::{self, Bug};
use provost::journal::Store;
use provost::model::{Finish, Reply, Request};
use provost::run::{
    AgentId, AgentOutcome, Answer, Ballot, Body, Divergence, Envelope, Event, Fold, Labels, Message, Parent,
    Resolution, RunEnd, RunId, Status, Subject, ToolFailure,
};
use provost::runtime::{
    Answers, Approver, Builder, Error, Host, Past, Question, ReplayError, Replayer, Report, RunRequest, Runtime, run_of,
};
use provost::spec::{AgentSpec, Effect, NetworkSpec, Permission};
use serde_json::{Value, json};

use crate::process::{one_agent, output, provost as command};
use crate::resume::{HangAs, World, agent, builder, cut_off, open, replayer, says, spec};
use crate::scripted::{Scripted, calls, network, results, runtime as runtime_of, step, text};

/// Says that a run is decided as it was.
pub(crate) fn assert_same(replayer: &Replayer, past: &Past) {
    match replayer.replay(past) {
        Ok(replayed) => assert_eq!(replayed.events as usize, past.events.len()),
        Err(error) => {
            let kinds: Vec<_> = past.events.iter().map(|envelope| (envelope.seq, envelope.event.kind())).collect();
            panic!("{error}\n{kinds:?}");
        }
    }
}

/// Makes a past of events.
pub(crate) fn past_of(events: Vec<Arc<Envelope>>) -> Past {
    let mut fold = Fold::default();
    events.iter().for_each(|envelope| fold.evolve(envelope));
    Past { state: fold.run, agents: fold.agents, events }
}

/// Runs a network to its end, and says that the run is decided as it was, up to each of its events.
pub(crate) async fn run_and_replay(runtime: &Runtime, replayer: &Replayer, input: &str) -> Report {
    let run = runtime.start(RunRequest::new(input)).await.unwrap();
    let mut reader = run.events();
    let mut events = Vec::new();
    while let Some(envelope) = reader.next().await {
        events.push(envelope);
    }
    let report = run.wait().await.unwrap();
    assert_same(replayer, &past_of(events));
    report
}

/// Runs a network in which everything happens that needs no second process: what it leaves is replayed and changed.
fn eventful() -> (NetworkSpec, Scripted) {
    let model = Scripted::new(|request| match (&*request.agent, step(request)) {
        ("one", 1) => calls([("nope", "{}"), ("pure", r#"{"x": 1"#), ("pure", "{}"), ("transfer_to_three", MESSAGE)]),
        ("one", 2) => calls([("once", "{}"), ("ask_two", r#"{"message": "act"}"#), ("ask_two", MESSAGE)]),
        ("one", 3) => calls([("transfer_to_three", MESSAGE)]),
        ("two", 2) => text(""),
        ("three", 2) => text("long").map(|reply| Reply { finish: Finish::Length, ..reply }),
        _ => says(request),
    });
    let mut spec = spec();
    spec.tools["once"].labels.reads = Some("private".to_owned());
    (spec, model)
}

const MESSAGE: &str = r#"{"message": "go on"}"#;

/// Runs a network, and reads what is stored of it.
async fn recorded(spec: NetworkSpec, model: &Scripted) -> Past {
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let runtime = builder(spec, model, &World::default(), recorder.clone()).start().await.unwrap();
    let report = runtime.run("look at it").await.unwrap();
    recorder.past(&report.run).unwrap()
}

#[tokio::test]
async fn a_run_is_decided_as_it_was() {
    let (spec, model) = eventful();
    let past = recorded(spec, &model).await;
    assert_eq!(past.state.status(), Status::Done);
    let asked = model.asked().len();
    assert_same(&replayer(&World::default()), &past);
    assert_eq!(model.asked().len(), asked, "a model was asked");
    let kinds: Vec<&str> = past.events.iter().map(|envelope| envelope.event.kind()).collect();
    for kind in ["repair_requested", "agent_ended", "tool_returned", "call_intended"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    // And up to each of its events that ends a transaction; where it ends within one, the rest is missed.
    let (mut whole, mut cut) = (0, 0);
    for length in 1..past.events.len() {
        match replayer(&World::default()).replay(&past_of(past.events[..length].to_vec())) {
            Ok(_) => whole += 1,
            Err(ReplayError::Parted(parted)) => {
                assert_eq!((parted.seq, parted.recorded.as_str()), (length as u64, "nothing more"));
                cut += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(whole > 30 && cut >= 6, "{whole} {cut}");
}

#[tokio::test]
async fn the_planted_bug_is_found_at_the_first_step_that_it_changes() {
    let (spec, model) = eventful();
    let past = recorded(spec, &model).await;
    let replayer = replayer(&World::default());
    let parted = {
        let _planted = fault::plant(Bug::DecidesOtherwise);
        parted(&replayer, past.events.clone())
    };
    // The first agent that has all results of a step.
    let first = past.events.iter().find(
        |envelope| matches!(&envelope.event, Event::CallIntended { call, .. } if call.step == 2 && call.index.is_none()),
    );
    let first = first.unwrap();
    assert_eq!((parted.seq, parted.agent, parted.step), (first.seq, first.agent.clone(), Some(2)));
    assert!(parted.recorded.starts_with("call one#2 to the model `m`"), "{}", parted.recorded);
    assert!(parted.decided.starts_with("the agent is done: `transfer_to_three` must be"), "{}", parted.decided);
    assert_same(&replayer, &past);
}

fn parted(replayer: &Replayer, events: Vec<Arc<Envelope>>) -> Divergence {
    match replayer.replay(&past_of(events)) {
        Err(ReplayError::Parted(parted)) => *parted,
        other => panic!("{other:?}"),
    }
}

/// Changes a message's words.
fn other_words(message: &mut Arc<Message>) {
    match &mut Arc::make_mut(message).body {
        Body::User { text } | Body::Assistant { text, .. } => text.push('!'),
        Body::Tool { content, .. } => content.push('!'),
    }
}

fn other_end(end: &mut RunEnd) {
    end.answer = Some(Answer::Text("something else".into()));
}

/// One change to an event; whether it was one that can be changed so.
type Change = (&'static str, fn(&mut Envelope) -> bool);

/// Changes the one thing in an event that a pattern names.
macro_rules! change {
    ($name:literal, $pattern:pat => $change:expr) => {
        ($name, |envelope: &mut Envelope| match &mut envelope.event {
            $pattern => {
                $change;
                true
            }
            _ => false,
        })
    };
}

/// What is decided, changed: each must be found at the very event.
const CHANGES: &[Change] = &[
    change!("another model", Event::CallIntended { subject: Subject::Model { model, .. }, .. } => *model = "n".into()),
    change!("another tool", Event::CallIntended { subject: Subject::Tool { tool, .. }, .. } => *tool = "other".into()),
    change!("other arguments", Event::CallIntended { subject: Subject::Tool { arguments, .. }, .. } => {
        *arguments = json!({ "x": 1 });
    }),
    change!("another agent", Event::CallIntended { subject: Subject::Delegate { agent, .. }, .. } => {
        *agent = "three".into();
    }),
    change!("another question", Event::CallIntended { subject: Subject::Delegate { message, .. }, .. } => {
        message.push('!');
    }),
    change!("other last words", Event::CallIntended { subject: Subject::Handoff { message, .. }, .. } => {
        message.push('!');
    }),
    change!("another step", Event::CallIntended { call, .. } => call.step += 1),
    change!("another try", Event::CallIntended { attempt, .. } => *attempt += 1),
    ("other labels", |envelope| {
        let is_act = |event: &Event| match event {
            Event::CallIntended { subject, .. } => !matches!(subject, Subject::Model { .. }),
            _ => false,
        };
        envelope.labels.add("secret");
        is_act(&envelope.event)
    }),
    change!("another step's answer", Event::ModelReplied { call, .. } => call.step += 1),
    change!("another call's result", Event::ToolReturned { call, .. } => call.index = Some(9)),
    change!("another refusal", Event::ToolReturned {
        failure: Some(failure @ (ToolFailure::UnknownTool | ToolFailure::InvalidArguments | ToolFailure::Misplaced)), ..
    } => *failure = ToolFailure::Failed),
    change!("other words of a refusal", Event::ToolReturned {
        message, failure: Some(ToolFailure::UnknownTool | ToolFailure::InvalidArguments | ToolFailure::Misplaced), ..
    } => other_words(message)),
    change!("another repair", Event::RepairRequested { message } => other_words(message)),
    change!("another name", Event::AgentStarted { name, .. } => *name = "nobody".into()),
    change!("another depth", Event::AgentStarted { depth, .. } => *depth += 1),
    change!("another parent", Event::AgentStarted { parent: Parent::Delegation(call), .. } => call.step += 1),
    change!("another heir", Event::AgentStarted { parent: Parent::Handoff { answers, .. }, .. } => {
        *answers = Some("one#7.7".parse().unwrap());
    }),
    change!("another task", Event::AgentStarted { task, .. } => task.iter_mut().for_each(other_words)),
    ("another instance", |envelope| {
        let is_start = matches!(envelope.event, Event::AgentStarted { .. });
        envelope.agent = Some(AgentId::new("nobody"));
        is_start
    }),
    change!("another answer", Event::AgentEnded { outcome: AgentOutcome::Done(answer) } => {
        *answer = Answer::Text("something else".into());
    }),
    change!("another successor", Event::AgentEnded { outcome: AgentOutcome::HandedOff { to } } => {
        *to = AgentId::new("nobody");
    }),
    ("another influence", |envelope| {
        let is_end = matches!(envelope.event, Event::AgentEnded { outcome: AgentOutcome::Done(_) });
        envelope.labels = Labels::default();
        envelope.labels.add("secret");
        is_end
    }),
    change!("another end", Event::RunEnded { end, .. } => other_end(end)),
    change!("another bill", Event::RunEnded { spent, .. } => spent.tokens += 1),
];

#[tokio::test]
async fn whatever_is_changed_is_found_where_it_is() {
    let (spec, model) = eventful();
    let past = recorded(spec, &model).await;
    let replayer = replayer(&World::default());
    for (name, change) in CHANGES {
        let mut changed = 0;
        for (place, envelope) in past.events.iter().enumerate() {
            let mut other = Envelope::clone(envelope);
            if !change(&mut other) {
                continue;
            }
            changed += 1;
            let mut events = past.events.clone();
            events[place] = Arc::new(other);
            let parted = parted(&replayer, events);
            assert_eq!(parted.seq, envelope.seq, "{name}: {parted}");
            assert_ne!(parted.recorded, parted.decided, "{name}: {parted}");
        }
        assert!(changed > 0, "{name} was never tried");
    }
}

#[tokio::test]
async fn what_is_left_out_or_told_twice_is_missed() {
    let (spec, model) = eventful();
    let past = recorded(spec, &model).await;
    let replayer = replayer(&World::default());
    let (mut left_out, mut twice) = (0, 0);
    for (place, envelope) in past.events.iter().enumerate().skip(1) {
        let mut events = past.events.clone();
        let gone = events.remove(place);
        if place < events.len() {
            let parted = parted(&replayer, events);
            assert!(parted.seq > gone.seq, "{} left out: {parted}", gone.event.kind());
            left_out += 1;
        }
        let mut events = past.events.clone();
        events.insert(place, envelope.clone());
        let parted = parted(&replayer, events);
        assert_eq!(parted.seq, envelope.seq, "{} told twice: {parted}", envelope.event.kind());
        twice += 1;
    }
    assert!(left_out > 40 && twice > 40, "{left_out} {twice}");
}

#[tokio::test]
async fn the_result_of_a_delegation_is_the_delegates_answer() {
    let (spec, model) = eventful();
    let past = recorded(spec, &model).await;
    let mut events = past.events.clone();
    let is_answer = |envelope: &Envelope| {
        matches!(&envelope.event, Event::ToolReturned { message, failure: None, .. }
            if matches!(message.origin, provost::run::Origin::Agent(_)))
    };
    let place = events.iter().position(|envelope| is_answer(envelope)).unwrap();
    let mut other = Envelope::clone(&events[place]);
    if let Event::ToolReturned { message, .. } = &mut other.event {
        other_words(message);
    }
    events[place] = Arc::new(other);
    let parted = parted(&replayer(&World::default()), events);
    assert_eq!(parted.seq, past.events[place].seq);
    assert!(parted.recorded.ends_with('!') && !parted.decided.ends_with('!'), "{parted}");
}

#[tokio::test]
async fn golden_runs_are_decided_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    fs::copy("tests/golden/runs/v1/provost.db", directory.path().join("provost.db")).unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut runs = 0;
    for stream in store.streams("run/").unwrap() {
        let past = Past::read(&store, &run_of(&stream.name).unwrap()).unwrap();
        assert_same(&replayer(&World::default()), &past);
        runs += 1;
    }
    assert_eq!(runs, 6);
}

#[tokio::test]
async fn an_agent_that_would_be_asked_too_deep_is_refused() {
    let model = Scripted::new(|request| match (&*request.agent, step(request)) {
        ("a", 1) => calls([("ask_b", MESSAGE)]),
        ("b", 1) => calls([("ask_c", MESSAGE)]),
        _ => text(results(request).join(" ")),
    });
    let asks = |other: &str| AgentSpec { delegates_to: vec![other.to_owned()], ..AgentSpec::new("You ask.") };
    let mut spec = network([("a", asks("b")), ("b", asks("c")), ("c", agent(&[]))]);
    spec.network.limits.depth = 2;
    let past = recorded_plain(spec, &model).await;
    assert_eq!(past.state.agents().len(), 3);
    assert_same(&Replayer::new(), &past);
    let mut began = Envelope::clone(&past.events[0]);
    let Event::RunStarted { network, .. } = &mut began.event else { panic!() };
    let shallow = network.replace("\"depth\":2", "\"depth\":1");
    assert_ne!(shallow, **network);
    *network = shallow.into();
    let mut events = past.events.clone();
    events[0] = Arc::new(began);
    let parted = parted(&Replayer::new(), events);
    assert_eq!((parted.agent.unwrap().as_str(), parted.step), ("a/b.1.0", Some(1)));
    assert!(parted.decided.contains("fails, out_of_bounds: delegation can't go deeper than depth = 1"));
}

#[tokio::test]
async fn an_agent_that_is_started_again_decides_as_it_did() {
    let (spec, model) = eventful();
    let mut passed = 0;
    let _injected = fault::inject(move |place| {
        let is_decision = place.starts_with("agent.decide ");
        passed += usize::from(is_decision);
        is_decision && [2, 5, 9].contains(&passed)
    });
    let past = recorded(spec, &model).await;
    let restarts = past.events.iter().filter(|e| matches!(e.event, Event::AgentRestarted { .. })).count();
    assert_eq!((restarts, past.state.status()), (3, Status::Done));
    assert_same(&replayer(&World::default()), &past);
}

#[tokio::test]
async fn a_run_that_goes_on_with_another_model_is_decided_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let (world, model) = (World::default(), Scripted::new(acts_then_answers));
    let recorder = open(directory.path());
    let first = builder(asking(), &model, &world, recorder.clone()).start().await.unwrap();
    let report = first.run("x").await.unwrap();
    let mut other = asking();
    let spec = other.models.shift_remove("m").unwrap();
    other.models.insert("other".to_owned(), spec);
    let second = builder(other, &model, &world, recorder.clone()).provider("other", model.clone());
    let second = second.start().await.unwrap();
    let ballots = ["one#1.0", "one#1.1"].map(|call| (call.parse().unwrap(), Ballot::of(true))).into();
    let past = recorder.past(&report.run).unwrap();
    let resumed = second.resume(past, Answers { ballots, ..Answers::default() }).await.unwrap();
    assert_eq!(resumed.wait().await.unwrap().status, Status::Done);
    let past = recorder.past(&report.run).unwrap();
    assert_same(&replayer(&world), &past);
    let carries = |e: &&Arc<Envelope>| matches!(e.event, Event::RunResumed { network: Some(_), .. });
    let place = past.events.iter().position(|e| carries(&e)).unwrap();
    let mut events = past.events.clone();
    let mut same = Envelope::clone(&events[place]);
    if let Event::RunResumed { network, version } = &mut same.event {
        (*network, *version) = (None, "9.9.9".into());
    }
    events[place] = Arc::new(same);
    let parted = parted(&replayer(&world), events);
    assert_eq!((parted.recorded.as_str(), &*parted.recorded_by), ("call one#2 to the model `other`", "9.9.9"));
    assert_eq!(parted.decided, "call one#2 to the model `m`");
}

async fn recorded_plain(spec: NetworkSpec, model: &Scripted) -> Past {
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let runtime = runtime_of(spec, model).recorder(recorder.clone()).start().await.unwrap();
    let report = runtime.run("x").await.unwrap();
    recorder.past(&report.run).unwrap()
}

/// Says the same to every question.
struct Says(bool);

impl Approver for Says {
    fn ask<'a>(&'a self, _: &'a Question) -> futures_util::future::BoxFuture<'a, Option<Ballot>> {
        Box::pin(async { Some(Ballot::of(self.0)) })
    }
}

fn asking() -> NetworkSpec {
    let mut spec = network([("one", agent(&["once", "pure"]))]);
    for class in ["pure", "idempotent", "once"] {
        spec.tools.insert(class.to_owned(), Default::default());
    }
    spec.policy.default = Permission::Ask;
    spec
}

fn acts_then_answers(request: &Request) -> Result<Reply, provost::model::Error> {
    match step(request) {
        1 => calls([("once", "{}"), ("pure", "{}")]),
        _ => text(results(request).join(" ")),
    }
}

#[tokio::test]
async fn what_a_person_said_is_taken_as_it_is_and_what_follows_is_decided() {
    let world = World::default();
    let replayer = replayer(&world);
    for granted in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let recorder = open(directory.path());
        let model = Scripted::new(acts_then_answers);
        let with = |builder: Builder| builder.approver(Says(granted));
        let runtime = with(builder(asking(), &model, &world, recorder.clone())).start().await.unwrap();
        let report = runtime.run("x").await.unwrap();
        let past = recorder.past(&report.run).unwrap();
        assert_same(&replayer, &past);
        // Had the person said something else, something else would have followed.
        let mut events = past.events.clone();
        let place = events.iter().position(|e| matches!(e.event, Event::ApprovalDecided { .. })).unwrap();
        let mut other = Envelope::clone(&events[place]);
        let Event::ApprovalDecided { call, granted, .. } = &mut other.event else { panic!() };
        *granted = !*granted;
        let call = call.clone();
        events[place] = Arc::new(other);
        let next = events.iter().skip(place + 1).find(|envelope| envelope.event.call() == Some(&call)).unwrap().seq;
        assert_eq!(parted(&replayer, events).seq, next);
    }
}

#[tokio::test]
async fn a_run_that_is_parked_answered_and_cancelled_is_decided_as_it_was() {
    let world = World::default();
    let replayer = replayer(&world);
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let model = Scripted::new(acts_then_answers);
    let runtime = builder(asking(), &model, &world, recorder.clone()).start().await.unwrap();
    let report = runtime.run("x").await.unwrap();
    assert_eq!(report.status, Status::AwaitingApproval);
    let past = || recorder.past(&report.run).unwrap();
    assert_same(&replayer, &past());
    // Parked for something else, or while an agent wants something that nobody has to be asked about.
    let parked = past();
    let place = parked.events.iter().position(|e| matches!(e.event, Event::CancelRequested { .. })).unwrap();
    let mut events = parked.events.clone();
    let questions = |e: &Arc<Envelope>| matches!(e.event, Event::ApprovalRequested { .. });
    events.remove(events.iter().position(questions).unwrap());
    assert_eq!(parted(&replayer, events).seq, parked.events[place].seq);

    let answers = Answers { ballots: vec![("one#1.0".parse().unwrap(), Ballot::of(true))], ..Answers::default() };
    let again = runtime.resume(past(), answers).await.unwrap().wait().await.unwrap();
    assert_eq!(again.status, Status::AwaitingApproval);
    assert_same(&replayer, &past());
    Host::new(recorder.clone()).cancel(&report.run, "enough").await.unwrap();
    assert_eq!(past().state.status(), Status::Cancelled);
    assert_same(&replayer, &past());
}

#[tokio::test]
async fn a_call_in_doubt_has_the_result_that_was_said_of_it() {
    for (resolution, status) in [
        (Resolution::Done { result: "it was done".to_owned() }, Status::Done),
        (Resolution::Retry, Status::Done),
        (Resolution::Fail, Status::Done),
    ] {
        let world = World::default();
        let replayer = replayer(&world);
        let directory = tempfile::tempdir().unwrap();
        let model = Scripted::new(acts_then_answers);
        let mut spec = asking();
        spec.policy.default = Permission::Allow;
        let recorder = open(directory.path());
        let hangs = HangAs { world: world.clone(), class: Effect::Once };
        let hung = builder(spec.clone(), &model, &world, recorder.clone()).tool("once", hangs).start().await.unwrap();
        let run = hung.start(RunRequest::new("x")).await.unwrap();
        let id = run.id().clone();
        while world.seen(Effect::Once).is_empty() {
            tokio::task::yield_now().await;
        }
        cut_off(&recorder, run).await;
        let recorder = open(directory.path());
        assert_same(&replayer, &recorder.past(&id).unwrap());
        let runtime = builder(spec, &model, &world, recorder.clone()).start().await.unwrap();
        let past = recorder.past(&id).unwrap();
        let report = runtime.resume(past, Answers::default()).await.unwrap().wait().await.unwrap();
        assert_eq!(report.status, Status::InDoubt);
        assert_same(&replayer, &recorder.past(&id).unwrap());
        let call = "one#1.0".parse().unwrap();
        Host::new(recorder.clone()).resolve(&id, call, resolution.clone()).await.unwrap();
        assert_same(&replayer, &recorder.past(&id).unwrap());
        let past = recorder.past(&id).unwrap();
        let report = runtime.resume(past, Answers::default()).await.unwrap().wait().await.unwrap();
        assert_eq!(report.status, status, "{report:?}");
        let past = recorder.past(&id).unwrap();
        assert_same(&replayer, &past);
        // A call that is in doubt is not made before somebody has said that it did not happen.
        let mut events = past.events.clone();
        events.retain(|envelope| !matches!(envelope.event, Event::CallInDoubt { .. } | Event::CallResolved { .. }));
        assert!(matches!(replayer.replay(&past_of(events)), Err(ReplayError::Parted(_))));
    }
}

#[tokio::test]
async fn a_tool_of_the_programs_own_has_to_be_known() {
    let (spec, model) = eventful();
    let past = recorded(spec, &model).await;
    let unable = Replayer::new().replay(&past);
    assert!(matches!(&unable, Err(ReplayError::Unable(Error::NoSuchTool(tool))) if tool == "pure"), "{unable:?}");
    // What it is shown as decides with it.
    let parted = parted(&replayer(&World::default()).tool("pure", Choosy), past.events.clone());
    assert!(parted.decided.contains("fails, invalid_arguments"), "{parted}");
    let late = Past { events: past.events[5..].to_vec(), ..past };
    assert!(matches!(replayer(&World::default()).replay(&late), Err(ReplayError::Unable(Error::Unfit { .. }))));
}

/// Takes something.
struct Choosy;

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Something {
    #[expect(dead_code, reason = "it is there for its schema")]
    thing: String,
}

impl provost::tool::Tool for Choosy {
    type Arguments = Something;
    type Output = String;

    fn description(&self) -> String {
        "Takes something.".to_owned()
    }

    async fn call(&self, _: Something, _: provost::tool::Call) -> Result<String, provost::tool::Error> {
        Ok(String::new())
    }
}

fn tour(dir: &Path) {
    let tour = std::env::current_dir().unwrap().join("networks/tour.toml");
    fs::create_dir_all(dir.join("tree/engine")).unwrap();
    fs::write(dir.join("tree/engine/motor.py"), "class Motor:\n    pass\n").unwrap();
    fs::write(dir.join("tree/main.rs"), "struct Car;\n").unwrap();
    let (code, _, stderr) = output(dir, &["run", tour.to_str().unwrap(), "tree"]);
    assert_eq!(code, Some(0), "{stderr}");
    // What the tools worked on is not looked at again.
    fs::remove_dir_all(dir.join("tree")).unwrap();
}

/// Replays the last run with a bug in the binary.
fn replay_with_bug(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut replay = command(dir);
    replay.args(["runs", "replay", "last"]).args(arguments).env("PROVOST_PLANTED", Bug::DecidesOtherwise.name());
    crate::process::finished(replay.output().unwrap())
}

#[test]
fn the_tour_is_decided_as_it_was_and_a_version_that_decides_otherwise_is_told_where() {
    let dir = tempfile::tempdir().unwrap();
    tour(dir.path());
    let stored = fs::read(dir.path().join(".provost/provost.db")).unwrap();
    let (code, stdout, stderr) = output(dir.path(), &["runs", "replay", "last"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains(" is decided as it was\n  ") && stdout.ends_with(" decisions, 0 tokens\n"), "{stdout}");
    let (code, stdout, stderr) = output(dir.path(), &["runs", "replay", "last", "--json"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&json["same"], &json["tokens"], &json["divergence"]), (&json!(true), &json!(0), &Value::Null));
    assert!(json["events"].as_u64().unwrap() > json["decisions"].as_u64().unwrap(), "{json}");

    let (code, stdout, stderr) = replay_with_bug(dir.path(), &[]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(
        stderr.contains(
            " parts at event 7, agent `scout`, step 2: recorded by Provost 0.1.0: call scout#2 to the model `reader`; \
             Provost 0.1.0 decides: the agent is done: {\"entries\":"
        ),
        "{stderr}"
    );
    assert!(stderr.contains("\n  hint: the record is as it was: provost runs show "), "{stderr}");
    let (code, stdout, _) = replay_with_bug(dir.path(), &["--json"]);
    assert_eq!(code, Some(1));
    let json: Value = serde_json::from_str(&stdout).unwrap();
    let parted = &json["divergence"];
    assert_eq!((&json["same"], &json["events"]), (&json!(false), &Value::Null));
    assert_eq!(
        (&parted["seq"], &parted["agent"], &parted["step"], &parted["recorded_by"], &parted["decided_by"]),
        (&json!(7), &json!("scout"), &json!(2), &json!("0.1.0"), &json!("0.1.0"))
    );
    assert_eq!(fs::read(dir.path().join(".provost/provost.db")).unwrap(), stored, "a replay writes nothing");
}

#[test]
fn what_can_not_be_replayed_is_said_in_words() {
    let dir = one_agent("", "tools = [\"own\"]\n[tools.own]\n[models.m]\n");
    let (code, _, stderr) = output(dir.path(), &["runs", "replay", "last"]);
    assert_eq!(code, Some(2), "{stderr}");
    let dir = one_agent("", "");
    for _ in 0..2 {
        assert_eq!(output(dir.path(), &["run", "n.toml", "go"]).0, Some(0));
    }
    let (code, _, stderr) = output(dir.path(), &["runs", "replay", "nosuch"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("there is no run nosuch"), "{stderr}");
    assert_eq!(output(dir.path(), &["runs", "prune", "--keep", "0"]).0, Some(0));
    let (code, stdout, stderr) = output(dir.path(), &["runs", "replay", "last"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains("pruned"), "{stderr}");
}

#[tokio::test]
async fn the_command_names_a_tool_that_only_the_program_has() {
    let directory = tempfile::tempdir().unwrap();
    let (spec, model) = eventful();
    let recorder = open(&directory.path().join(".provost"));
    let runtime = builder(spec, &model, &World::default(), recorder.clone()).start().await.unwrap();
    let request = RunRequest { id: Some(RunId::new("01own")), ..RunRequest::new("x") };
    runtime.start(request).await.unwrap().wait().await.unwrap();
    recorder.close().await.unwrap();
    let (code, stdout, stderr) = output(directory.path(), &["runs", "replay", "01own"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains("has the tool `pure` of the program that ran it"), "{stderr}");
    assert!(stderr.contains("provost::runtime::Replayer"), "{stderr}");
}
