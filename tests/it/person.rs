//! Agents that ask a person: the question is put once, the answer is heard once, and meanwhile nothing is held.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use provost::model::{Reply, Request};
use provost::run::{AgentId, Ballot, Body, CallId, Event, Health, NoAnswer, Origin, RunId, Status};
use provost::runtime::{
    Answered, Answers, Approver, Error, Host, Inquired, Past, Question, Recorder, Replayer, Report, RunHandle,
    RunRequest, Runtime, new_run_id,
};
use provost::spec::{AgentSpec, Builtin, NetworkSpec, ToolSpec};
use serde_json::Value;

use crate::process::{at_a_terminal, output, read_until, wait};
use crate::resume::{agent, close, cut_off, open};
use crate::scripted::{Scripted, calls, network, results, runtime, step, text};
use crate::world::World;

/// An agent that asks two things at once, and another agent, which asks one thing.
fn spec() -> NetworkSpec {
    let one = AgentSpec { delegates_to: vec!["two".to_owned()], ..agent(&["ask"]) };
    let mut spec = network([("one", one), ("two", agent(&["ask"]))]);
    spec.tools.insert("ask".to_owned(), ToolSpec { builtin: Some(Builtin::PersonAsk), ..ToolSpec::default() });
    spec
}

fn says(request: &Request) -> Result<Reply, provost::model::Error> {
    match (&*request.agent, step(request)) {
        ("one", 1) => calls([
            ("ask", r#"{"question": "Which colour?", "choices": ["red", "green"]}"#),
            ("ask", r#"{"question": "Which size?"}"#),
            ("ask_two", r#"{"message": "ask"}"#),
        ]),
        ("two", 1) => calls([("ask", r#"{"question": "Which shape?"}"#)]),
        _ => text(results(request).join(" ")),
    }
}

/// The questions of that network, in the order of their calls, and what is answered.
const QUESTIONS: [(&str, &str, &str); 3] = [
    ("one#1.0", "Which colour?", "red"),
    ("one#1.1", "Which size?", "large"),
    ("one/two.1.2#1.0", "Which shape?", "round"),
];

fn id(call: &str) -> CallId {
    call.parse().unwrap()
}

async fn start(recorder: &Arc<Recorder>) -> Runtime {
    runtime(spec(), &Scripted::new(says)).recorder(recorder.clone()).start().await.unwrap()
}

fn count(past: &Past, kind: &str, call: &str) -> usize {
    let is_it = |event: &Event| event.kind() == kind && event.call() == Some(&id(call));
    past.events.iter().filter(|envelope| is_it(&envelope.event)).count()
}

fn assert_replays(recorder: &Recorder, run: &RunId) {
    Replayer::new().replay(&recorder.whole_past(run).unwrap()).unwrap();
}

async fn resume(runtime: &Runtime, recorder: &Recorder, run: &RunId) -> RunHandle {
    runtime.resume(recorder.past(run).unwrap(), Answers::default()).await.unwrap()
}

#[tokio::test]
async fn a_run_waits_for_answers_when_nothing_else_goes_on_and_holds_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let runtime = start(&recorder).await;
    let report = runtime.run("x").await.unwrap();
    assert_eq!(report.status, Status::AwaitingInput);
    let reason = report.reason.clone().unwrap();
    for (call, question, _) in QUESTIONS {
        assert!(reason.contains(&format!("{call} asks: {question}")), "{reason}");
    }
    let asked: Vec<_> = report.questions.iter().map(|asked| (asked.call.to_string(), &*asked.question)).collect();
    assert_eq!(asked, QUESTIONS.map(|(call, question, _)| (call.to_owned(), question)));
    assert_eq!(report.questions[0].choices, ["red", "green"]);
    assert_eq!(recorder.ledger().open.get(&report.run).map(|balance| balance.held), None, "its account is closed");
    assert_replays(&recorder, &report.run);

    // Until it has all answers it is parked again; what is answered is heard at once.
    let host = Host::new(recorder.clone());
    for (place, (call, _, answer)) in QUESTIONS.into_iter().enumerate() {
        let answered = host.answer(&report.run, Some(id(call)), answer).await.unwrap();
        assert_eq!(answered, Answered { call: id(call), is_under_way: false });
        let status = recorder.past(&report.run).unwrap().state.status();
        assert_eq!(status, Status::Interrupted, "it can go on");
        let again = resume(&runtime, &recorder, &report.run).await.wait().await.unwrap();
        assert_replays(&recorder, &report.run);
        if place < 2 {
            assert_eq!((again.status, again.questions.len()), (Status::AwaitingInput, 2 - place));
            continue;
        }
        assert_eq!((again.status, again.answer_text().as_deref()), (Status::Done, Some("red large round")));
        assert_eq!(again.usage.tool_calls, 3);
    }
    let past = recorder.whole_past(&report.run).unwrap();
    for (call, ..) in QUESTIONS {
        assert_eq!(["input_requested", "input_given", "tool_returned"].map(|kind| count(&past, kind, call)), [1; 3]);
    }
}

#[tokio::test]
async fn an_older_provost_would_see_that_a_run_that_asks_is_newer() {
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let report = run_through(&recorder, &RunId::new("01newer")).await;
    let store = recorder.journal().unwrap().store().unwrap();
    let records = store.read(&provost::runtime::stream_of(&report.run), 0, 1_000).unwrap();
    let newer = records.into_iter().filter(|record| record.version > 3).map(|record| record.kind.into_owned());
    let kinds: std::collections::BTreeSet<String> = newer.collect();
    let expected = ["at_rest", "cancel_requested", "input_given", "input_requested", "run_ended"];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn what_a_person_says_is_a_persons_and_is_known_as_such_from_there_on() {
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let report = run_through(&recorder, &RunId::new("01labels")).await;
    let past = recorder.whole_past(&report.run).unwrap();
    let result = past.events.iter().find_map(|envelope| match &envelope.event {
        Event::ToolReturned { call, message, failure: None } if *call == id("one#1.0") => Some(message.clone()),
        _ => None,
    });
    let result = result.unwrap();
    assert_eq!((result.text(), &result.origin), ("red", &Origin::Person));
    assert!(matches!(&result.body, Body::Tool { name, failed: false, .. } if name == "ask"));
    assert_eq!(result.labels.iter().collect::<Vec<_>>(), ["person"]);
    let one = past.state.agents().get(&AgentId::new("one")).unwrap();
    assert_eq!(one.labels.iter().collect::<Vec<_>>(), ["person"], "what follows from it carries the label");
}

/// Goes with a run to its end, and answers whatever is asked as soon as it is parked.
async fn run_through(recorder: &Arc<Recorder>, run: &RunId) -> Report {
    let (runtime, host) = (start(recorder).await, Host::new(recorder.clone()));
    let request = RunRequest { id: Some(run.clone()), ..RunRequest::new("x") };
    let mut report = runtime.start(request).await.unwrap().wait().await.unwrap();
    while report.status == Status::AwaitingInput {
        for asked in &report.questions {
            host.answer(run, Some(asked.call.clone()), answer_to(&asked.call)).await.unwrap();
        }
        report = resume(&runtime, recorder, run).await.wait().await.unwrap();
    }
    report
}

fn answer_to(call: &CallId) -> &'static str {
    QUESTIONS.iter().find(|(of, ..)| id(of) == *call).unwrap().2
}

#[tokio::test]
async fn cut_off_anywhere_each_question_is_put_once_and_each_answer_heard_once() {
    for cut in 1..=24 {
        let directory = tempfile::tempdir().unwrap();
        let run = RunId::new("01cut");
        let mut lives = 0;
        let report = loop {
            lives += 1;
            assert!(lives < 100, "it does not come to an end");
            let recorder = open(directory.path());
            let (runtime, host) = (start(&recorder).await, Host::new(recorder.clone()));
            let head = recorder.past(&run).map_or(0, |past| past.state.head());
            let handle = match recorder.past(&run) {
                Err(_) => {
                    let request = RunRequest { id: Some(run.clone()), ..RunRequest::new("x") };
                    runtime.start(request).await.unwrap()
                }
                Ok(past) => {
                    // One answer in each life, so that the others are cut off in the midst of their questions.
                    if let Some((call, _)) = past.state.awaiting_input().next() {
                        host.answer(&run, Some(call.clone()), answer_to(call)).await.unwrap();
                    }
                    assert_replays(&recorder, &run);
                    resume(&runtime, &recorder, &run).await
                }
            };
            let (mut events, until) = (handle.events(), head + cut + lives);
            while events.next().await.is_some_and(|envelope| envelope.seq < until) {}
            close(&recorder).await;
            match handle.wait().await {
                Ok(report) if report.status == Status::Done => break report,
                Ok(report) => assert_eq!(report.status, Status::AwaitingInput),
                Err(Error::Journal(_)) => {}
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(report.answer_text().as_deref(), Some("red large round"), "cut {cut}");
        let recorder = open(directory.path());
        assert_replays(&recorder, &run);
        let past = recorder.whole_past(&run).unwrap();
        for (call, ..) in QUESTIONS {
            let counts = ["input_requested", "input_given", "tool_returned"].map(|kind| count(&past, kind, call));
            assert_eq!(counts, [1; 3], "cut {cut}, {call}");
        }
    }
}

/// Lets a run wait for a tool, or a person who does not answer.
#[derive(Clone, Default)]
struct Gate(Arc<tokio::sync::Notify>);

/// A run whose questions are open while its delegate's model does not answer.
async fn busy(recorder: &Arc<Recorder>, gate: &Gate) -> (Host, RunHandle, Scripted) {
    let gate = gate.clone();
    let model = Scripted::later(move |request| {
        let (gate, said, waits) = (gate.clone(), says(request), &*request.agent == "two");
        Box::pin(async move {
            if waits {
                gate.0.notified().await;
            }
            said
        })
    });
    let host = Host::new(recorder.clone());
    let runtime = runtime(spec(), &model).recorder(recorder.clone()).start().await.unwrap();
    let run = runtime.start(RunRequest::new("x")).await.unwrap();
    let mut events = run.events();
    let mut open = 0;
    while open < 2 {
        open += usize::from(events.next().await.unwrap().event.kind() == "input_requested");
    }
    (host, run, model)
}

#[tokio::test]
async fn a_run_under_way_goes_on_with_an_answer_at_once_and_takes_one() {
    let recorder = Arc::new(Recorder::in_memory());
    let gate = Gate::default();
    let (_, run, model) = busy(&recorder, &gate).await;
    let controls = run.controls();
    let one = controls.answer(Some(id("one#1.0")), "green\n");
    let other = controls.answer(Some(id("one#1.0")), "red");
    let taken = NoAnswer::Answered(id("one#1.0"));
    assert_eq!(tokio::join!(one, other), (Ok(id("one#1.0")), Err(taken.clone())));
    // The only one that is left need not be named.
    assert_eq!(controls.answer(None, " large ").await, Ok(id("one#1.1")));
    assert_eq!(controls.answer(None, "large").await, Err(NoAnswer::Answered(id("one#1.1"))));
    assert_eq!(controls.answer(Some(id("one#1.0")), "red").await, Err(taken));
    assert_eq!(model.asked().len(), 2, "its step is not over");
    gate.0.notify_one();
    let mut events = run.events();
    while events.next().await.unwrap().event.call() != Some(&id("one/two.1.2#1.0")) {}
    let report = run.wait().await.unwrap();
    assert_eq!((report.status, report.questions.len()), (Status::AwaitingInput, 1));
}

#[tokio::test]
async fn what_is_no_answer_is_refused_and_the_question_stays_open() {
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let runtime = start(&recorder).await;
    let host = Host::new(recorder.clone());
    let run = runtime.run("x").await.unwrap().run;
    let long = "x".repeat(provost::run::MAX_ANSWER_BYTES + 1);
    for (call, text, why) in [
        (Some("one#1.0"), " ", "can't take an empty answer"),
        (Some("one#1.0"), "blue", "none of the choices: `red`, `green`"),
        (Some("one#1.1"), "a\u{7}b", "control characters"),
        (Some("one#1.1"), &*long, "65537 bytes"),
        (Some("one#1.7"), "x", "has no question of call `one#1.7`; open: `one#1.0`, `one#1.1`, `one/two.1.2#1.0`"),
        (None, "x", "waits for 3 answers: `one#1.0`, `one#1.1`, `one/two.1.2#1.0`"),
    ] {
        let error = host.answer(&run, call.map(id), text).await.unwrap_err();
        assert!(matches!(error, Error::NoAnswer { .. }) && error.to_string().contains(why), "{error}");
    }
    assert_eq!(recorder.past(&run).unwrap().state.awaiting_input().count(), 3);
    assert!(matches!(host.answer(&new_run_id(), None, "x").await, Err(Error::NoSuchRun(_))));

    // Of two at once one is taken.
    let both = tokio::join!(host.answer(&run, Some(id("one#1.1")), "a"), host.answer(&run, Some(id("one#1.1")), "b"));
    let why = both.1.unwrap_err();
    assert!(
        both.0.is_ok() && why.to_string().ends_with("was answered already: call `one#1.1` has its answer"),
        "{why}"
    );

    host.cancel(&run, "enough").await.unwrap();
    assert_replays(&recorder, &run);
    let error = host.answer(&run, Some(id("one#1.0")), "red").await.unwrap_err();
    assert!(error.to_string().ends_with("has ended: cancelled; call `one#1.1` was answered already"), "{error}");
    let nothing = runtime_without_questions(&recorder).await.run("x").await.unwrap();
    let error = host.answer(&nothing.run, None, "x").await.unwrap_err();
    assert!(error.to_string().ends_with("has ended: done"), "{error}");
}

async fn runtime_without_questions(recorder: &Arc<Recorder>) -> Runtime {
    runtime(spec(), &Scripted::new(|_| text("done"))).recorder(recorder.clone()).start().await.unwrap()
}

#[tokio::test]
async fn a_question_that_can_not_be_asked_goes_back_to_the_model() {
    let says = |request: &Request| match step(request) {
        1 => calls([("ask", r#"{"question": "  "}"#), ("ask", r#"{"question": "?", "choices": ["a", "a"]}"#)]),
        _ => text(results(request).join("|")),
    };
    let runtime = runtime(spec(), &Scripted::new(says)).start().await.unwrap();
    let report = runtime.run("x").await.unwrap();
    assert_eq!((report.status, report.usage.tool_calls), (Status::Done, 0));
    let told = report.answer_text().unwrap();
    assert_eq!(told.matches("invalid arguments for `ask`").count(), 2, "{told}");
}

/// A person who says these things in this order, and then nothing more; what they heard of each is kept.
struct Says {
    words: Mutex<Vec<&'static str>>,
    heard: Mutex<Vec<(String, Option<NoAnswer>)>>,
    taken_back: AtomicUsize,
    is_silent: AtomicBool,
}

impl Says {
    fn new(words: &[&'static str], is_silent: bool) -> Arc<Self> {
        Arc::new(Self {
            words: Mutex::new(words.iter().rev().copied().collect()),
            heard: Mutex::default(),
            taken_back: AtomicUsize::new(0),
            is_silent: AtomicBool::new(is_silent),
        })
    }
}

/// Notes where a question was taken back.
struct Waiting<'a>(&'a Says);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.taken_back.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct Attended(Arc<Says>);

impl Approver for Attended {
    fn ask<'a>(&'a self, _: &'a Question) -> BoxFuture<'a, Option<Ballot>> {
        Box::pin(async { Some(Ballot::of(false)) })
    }

    fn answer<'a>(&'a self, inquired: &'a Inquired) -> BoxFuture<'a, Option<String>> {
        Box::pin(async move {
            let says = &self.0;
            says.heard.lock().unwrap().push((inquired.inquiry.question.clone(), inquired.objection.clone()));
            if says.is_silent.load(Ordering::SeqCst) {
                let _waiting = Waiting(says);
                std::future::pending::<()>().await;
            }
            says.words.lock().unwrap().pop().map(str::to_owned)
        })
    }
}

/// An agent that asks one thing, and answers with what it was told.
fn asks_one(request: &Request) -> Result<Reply, provost::model::Error> {
    match step(request) {
        1 => calls([("ask", r#"{"question": "Which colour?", "choices": ["red", "green"]}"#)]),
        _ => text(results(request).join(" ")),
    }
}

#[tokio::test]
async fn who_is_there_is_asked_until_the_answer_is_one() {
    let person = Says::new(&["", "blue", "green"], false);
    let runtime = runtime(spec(), &Scripted::new(asks_one)).approver(Attended(person.clone())).start().await.unwrap();
    let report = runtime.run("x").await.unwrap();
    assert_eq!((report.status, report.answer_text().as_deref()), (Status::Done, Some("green")));
    let objections: Vec<_> = person.heard.lock().unwrap().iter().map(|(_, why)| why.clone()).collect();
    assert!(
        matches!(&objections[..], [None, Some(NoAnswer::Empty), Some(NoAnswer::NoChoice { .. })]),
        "{objections:?}"
    );

    // Who can't say leaves the run waiting, and it is asked again when it is taken up.
    let silent = Says::new(&[], false);
    let unsaid = runtime_of(&silent).await.run("x").await.unwrap();
    assert_eq!((unsaid.status, silent.heard.lock().unwrap().len()), (Status::AwaitingInput, 1));
}

async fn runtime_of(person: &Arc<Says>) -> Runtime {
    runtime(spec(), &Scripted::new(asks_one)).approver(Attended(person.clone())).start().await.unwrap()
}

#[tokio::test]
async fn a_question_is_taken_back_where_somebody_else_answers() {
    let person = Says::new(&[], true);
    let runtime = runtime_of(&person).await;
    let run = runtime.start(RunRequest::new("x")).await.unwrap();
    while person.heard.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let mut events = run.events();
    while events.next().await.unwrap().event.kind() != "input_requested" {}
    assert_eq!(person.taken_back.load(Ordering::SeqCst), 0);
    run.controls().answer(None, "red").await.unwrap();
    let report = run.wait().await.unwrap();
    assert_eq!((report.status, report.answer_text().as_deref()), (Status::Done, Some("red")));
    assert_eq!(person.taken_back.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_agent_that_waits_for_an_answer_says_so() {
    let recorder = Arc::new(Recorder::in_memory());
    let (_, run, _) = busy(&recorder, &Gate::default()).await;
    let mut state = provost::run::RunState::default();
    let mut events = run.events();
    let one = AgentId::new("one");
    let mut healths = Vec::new();
    while state.awaiting_input().count() < 2 {
        state.evolve(&events.next().await.unwrap());
        healths.extend(state.health(&one));
    }
    assert_eq!(healths.last(), Some(&Health::AwaitingInput), "{healths:?}");
    assert_eq!(Health::AwaitingInput.word(), "awaiting_input");
    run.controls().cancel("enough");
    let report = run.wait().await.unwrap();
    assert_eq!((report.status, report.questions.len()), (Status::Cancelled, 0));
}

#[tokio::test]
async fn a_run_that_is_cut_off_while_it_waits_shows_the_same_question_again() {
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let (person, model) = (Says::new(&[], true), Scripted::new(asks_one));
    let runtime = |recorder: &Arc<Recorder>, person: &Arc<Says>| {
        crate::scripted::runtime(spec(), &model).approver(Attended(person.clone())).recorder(recorder.clone()).start()
    };
    let run = runtime(&recorder, &person).await.unwrap().start(RunRequest::new("x")).await.unwrap();
    let id_of_run = run.id().clone();
    while person.heard.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    cut_off(&recorder, run).await;
    let recorder = open(directory.path());
    assert_replays(&recorder, &id_of_run);
    let there = Says::new(&["red"], false);
    let attended = Answers { is_attended: true, ..Answers::default() };
    let again = runtime(&recorder, &there).await.unwrap();
    let past = recorder.past(&id_of_run).unwrap();
    assert_eq!(count(&past, "input_requested", "one#1.0"), 1, "it was on disk before it was shown");
    let report = again.resume(past, attended).await.unwrap().wait().await.unwrap();
    assert_eq!((report.status, report.answer_text().as_deref()), (Status::Done, Some("red")));
    let past = recorder.whole_past(&id_of_run).unwrap();
    assert_eq!(count(&past, "input_requested", "one#1.0"), 1);
    assert_replays(&recorder, &id_of_run);
}

#[tokio::test]
async fn a_fork_has_the_answers_of_its_past_and_asks_the_rest_itself() {
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let parent = run_through(&recorder, &RunId::new("01parent")).await;
    let past = recorder.whole_past(&parent.run).unwrap();
    let (runtime, host) = (start(&recorder).await, Host::new(recorder.clone()));
    let mut seen = BTreeMap::<usize, usize>::new();
    for at in 1..=past.events.len() as u64 {
        let Ok(point) = past.fork_point(at, &new_run_id()) else { continue };
        let given = point.copied.iter().filter(|envelope| envelope.event.kind() == "input_given").count();
        let mut report = runtime.fork(point, None, false).await.unwrap().wait().await.unwrap();
        assert_replays(&recorder, &report.run);
        *seen.entry(given).or_default() += 1;
        let mut asked = 0;
        while report.status == Status::AwaitingInput {
            for question in &report.questions {
                asked += 1;
                let answer = if question.choices.is_empty() { "other" } else { "green" };
                host.answer(&report.run, Some(question.call.clone()), answer).await.unwrap();
            }
            report = resume(&runtime, &recorder, &report.run).await.wait().await.unwrap();
            assert_replays(&recorder, &report.run);
        }
        assert_eq!((report.status, asked), (Status::Done, 3 - given), "at {at}");
        let answer = report.answer_text().unwrap();
        assert_eq!(answer.matches("green").count() + answer.matches("other").count(), asked, "at {at}: {answer}");
    }
    assert!((0..=3).all(|given| seen.contains_key(&given)), "{seen:?}");
    assert_replays(&recorder, &parent.run);
}

#[tokio::test]
async fn what_is_recorded_of_a_question_and_was_not_so_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let run = run_through(&recorder, &RunId::new("01found")).await.run;
    let whole = recorder.whole_past(&run).unwrap();
    let parts = |change: &dyn Fn(&Event) -> Option<Event>| {
        let place = whole.events.iter().position(|envelope| change(&envelope.event).is_some()).unwrap();
        let mut past = recorder.whole_past(&run).unwrap();
        let mut other = (*past.events[place]).clone();
        other.event = change(&other.event).unwrap();
        past.events[place] = Arc::new(other);
        Replayer::new().replay(&past).unwrap_err().to_string()
    };
    // Another answer was heard than was given; or a question was never put.
    let heard = parts(&|event| match event {
        Event::InputGiven { call, .. } if *call == id("one#1.1") => {
            Some(Event::InputGiven { call: call.clone(), text: "small".into() })
        }
        _ => None,
    });
    assert!(heard.contains("large") && heard.contains("small"), "{heard}");
    let intended = parts(&|event| match event {
        Event::InputRequested { call, subject } => Some(Event::CallIntended {
            call: call.clone(),
            attempt: 1,
            subject: subject.clone(),
            effect: None,
            reserved: Default::default(),
        }),
        _ => None,
    });
    assert!(intended.contains("one#1.0"), "{intended}");
    let answered_before = parts(&|event| match event {
        Event::InputRequested { call, .. } => Some(Event::InputGiven { call: call.clone(), text: "red".into() }),
        _ => None,
    });
    assert!(answered_before.contains("one#1.0"), "{answered_before}");
}

/// Of real processes: an agent that asks a person and says what it was told.
const NETWORK: &str = r#"
[network]
name = "asks"
entry = "a"
[agents.a]
prompt = "You ask."
tools = ["ask"]
[tools.ask]
builtin = "person.ask"
[sim.script]
a = ['{"calls": [{"name": "ask", "arguments": {"question": "Which colour?", "choices": ["red", "green"]}}]}', 'it is {{ results[0].content }}']
"#;

fn events(world: &World, kind: &str) -> usize {
    let events = world.ask_for(0, &["audit", "export"]);
    events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["kind"] == kind)
        .count()
}

#[test]
fn the_time_in_which_no_process_has_a_run_counts_for_nothing() {
    let world = World::new(&NETWORK.replace("entry = \"a\"", "entry = \"a\"\n[network.limits]\ndeadline = \"2s\""));
    world.ask_for(6, &["run", "n.toml", "go"]);
    std::thread::sleep(std::time::Duration::from_millis(2_100));
    let done: Value = serde_json::from_str(&world.ask_for(0, &["runs", "answer", "last", "red", "--json"])).unwrap();
    assert_eq!(done["answer"], "it is red");
    world.ask_for(6, &["run", "n.toml", "go"]);
    std::thread::sleep(std::time::Duration::from_millis(2_100));
    world.ask_for(0, &["runs", "cancel", "last"]);
    let cancelled = &world.runs()[0];
    assert!(cancelled["duration_ms"].as_u64().unwrap() < 2_000, "{cancelled}");
    world.ask_for(0, &["runs", "replay", "last"]);
}

#[test]
fn a_run_waits_for_a_person_and_goes_on_with_what_they_say() {
    let world = World::new(NETWORK);
    let parked: Value = serde_json::from_str(&world.ask_for(6, &["run", "n.toml", "go", "--json"])).unwrap();
    assert_eq!((&parked["status"], &parked["answer"]), (&"awaiting_input".into(), &Value::Null));
    assert!(parked["reason"].as_str().unwrap().ends_with("a#1.0 asks: Which colour?"), "{parked}");
    assert_eq!(parked["questions"][0]["call"], "a#1.0");
    assert_eq!(parked["questions"][0]["choices"], serde_json::json!(["red", "green"]));
    let run = parked["run"].as_str().unwrap();
    let listed: Value = serde_json::from_str(&world.ask_for(0, &["runs", "list", "--json"])).unwrap();
    assert_eq!(listed[0]["status"], "awaiting_input");
    assert_eq!(
        listed,
        serde_json::from_str::<Value>(&world.ask_for(0, &["runs", "list", "--status", "awaiting_input", "--json"]))
            .unwrap()
    );
    let shown = world.ask_for(0, &["runs", "show", run]);
    assert!(shown.contains("a#1.0 asks: Which colour?") && shown.contains("one of: red, green"), "{shown}");
    assert!(shown.contains(&format!("provost runs answer {run} TEXT --call 'a#1.0'")), "{shown}");
    world.ask_for(0, &["runs", "resume", "--all"]);
    world.ask_for(6, &["runs", "resume", run]);
    world.ask_for(6, &["runs", "watch", run]);

    for (code, arguments) in [
        (2, vec!["runs", "answer", run, ""]),
        (2, vec!["runs", "answer", run, "blue"]),
        (2, vec!["runs", "answer", run, "re\u{1}d"]),
        (1, vec!["runs", "answer", run, "red", "--call", "a#9.0"]),
        (2, vec!["runs", "answer", run, "red", "--call", "nonsense"]),
        (2, vec!["runs", "answer", "01nosuchrun", "red"]),
    ] {
        world.ask_for(code, &arguments);
    }
    let done: Value = serde_json::from_str(&world.ask_for(0, &["runs", "answer", run, "red", "--json"])).unwrap();
    assert_eq!(
        (&done["status"], &done["answer"], &done["questions"]),
        (&"done".into(), &"it is red".into(), &serde_json::json!([]))
    );
    for arguments in [vec!["runs", "answer", run, "green"], vec!["runs", "answer", run, "green", "--call", "a#1.0"]] {
        world.ask_for(1, &arguments);
    }
    assert_eq!(["input_requested", "input_given", "tool_returned"].map(|kind| events(&world, kind)), [1; 3]);
    world.ask_for(0, &["audit", "verify"]);
    world.ask_for(0, &["runs", "replay", run]);

    // Cancelled, it has no questions any more.
    let other: Value = serde_json::from_str(&world.ask_for(6, &["run", "n.toml", "go", "--json"])).unwrap();
    let other = other["run"].as_str().unwrap();
    world.ask_for(0, &["runs", "cancel", other]);
    let cancelled = world.ask_for(1, &["runs", "answer", other, "red"]);
    assert_eq!(cancelled, "");
    world.ask_for(0, &["runs", "replay", other]);
}

#[test]
fn the_painter_asks_and_paints_as_its_file_says() {
    let paint = std::env::current_dir().unwrap().join("networks/paint.toml");
    let world = World::new(NETWORK);
    world.ask_for(6, &["run", paint.to_str().unwrap(), "the shed"]);
    assert_eq!(world.ask_for(0, &["runs", "answer", "last", "green"]), "The shed is green.\n");
    // Without a script the simulated model finds something to ask by itself.
    let text = std::fs::read_to_string(&paint).unwrap();
    let unscripted = text.split_once("[sim.script]").unwrap().0;
    std::fs::write(world.path().join("n.toml"), format!("{unscripted}\n[sim]\nseed = 1\n")).unwrap();
    let asked = (0..20).any(|_| world.ask(&["run", "n.toml", "go"]).code() == Some(6));
    assert!(asked, "it asks nothing");
    let shown = world.ask_for(0, &["runs", "show", "last"]);
    assert!(!shown.contains("invalid arguments"), "{shown}");
}

#[cfg(debug_assertions)]
#[test]
fn a_process_dies_around_a_question_and_its_answer() {
    for place in ["gate.before_question.person", "gate.after_question.person"] {
        let world = World::new(NETWORK);
        let cut = world.start(&["run", "n.toml", "go"], &[("PROVOST_CRASH_AT", place)], None);
        assert!(cut.end().was_killed(), "{place}");
        world.ask_for(6, &["runs", "resume", "last"]);
        // The answer is on disk, and its run is cut off before the agent hears it; and once more.
        for _ in 0..2 {
            let arguments: &[&str] = match events(&world, "input_given") {
                0 => &["runs", "answer", "last", "green"],
                _ => &["runs", "resume", "--all"],
            };
            let cut = world.start(arguments, &[("PROVOST_CRASH_AT", "answer.written")], None);
            assert!(cut.end().was_killed(), "{place}");
        }
        world.ask_for(1, &["runs", "answer", "last", "red"]);
        assert_eq!(world.ask_for(0, &["runs", "resume", "last"]).trim_end(), "it is green");
        assert_eq!(["input_requested", "input_given", "tool_returned"].map(|kind| events(&world, kind)), [1; 3]);
        world.ask_for(0, &["audit", "verify"]);
        world.ask_for(0, &["runs", "replay", "last"]);
    }
}

#[test]
fn a_question_is_answered_at_a_terminal_or_from_elsewhere_while_it_stands_there() {
    let world = World::new(NETWORK);
    let dir = world.path();
    let (mut child, mut terminal) = at_a_terminal(dir, &["run", "n.toml", "go"]);
    read_until(&mut terminal, "2. green");
    terminal.write_all(b"blue\n").unwrap();
    read_until(&mut terminal, "none of the choices");
    terminal.write_all(b"2\n").unwrap();
    assert_eq!(wait(&mut child), Some(0));
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!(stdout.trim_end(), "it is green");

    // It is answered by another process, through the control socket.
    let (mut child, mut terminal) = at_a_terminal(dir, &["run", "n.toml", "go"]);
    read_until(&mut terminal, "answer, or its number:");
    let (code, said, _) = output(dir, &["runs", "answer", "last", "red"]);
    assert_eq!((code, said.starts_with("answered")), (Some(0), true), "{said}");
    assert_eq!(wait(&mut child), Some(0));
    stdout.clear();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!(stdout.trim_end(), "it is red");

    // A run that was parked is asked about where it is taken up.
    assert_eq!(output(dir, &["run", "n.toml", "go"]).0, Some(6));
    let (mut child, mut terminal) = at_a_terminal(dir, &["runs", "resume", "last"]);
    read_until(&mut terminal, "answer, or its number:");
    terminal.write_all(b"red\n").unwrap();
    assert_eq!(wait(&mut child), Some(0));
}

#[test]
fn a_question_is_answered_where_another_process_holds_the_store() {
    let world = World::new(NETWORK);
    let dir = world.path();
    // Who sits at a terminal and says nothing holds the store.
    let (mut holder, mut at_holder) = at_a_terminal(dir, &["run", "n.toml", "holder"]);
    read_until(&mut at_holder, "answer, or its number:");
    let (code, parked, _) = output(dir, &["run", "n.toml", "guest", "--json"]);
    assert_eq!(code, Some(6));
    let parked: Value = serde_json::from_str(&parked).unwrap();
    let guest = parked["run"].as_str().unwrap();
    assert_eq!(output(dir, &["runs", "answer", guest, "blue"]).0, Some(2));
    assert_eq!(output(dir, &["runs", "answer", guest, "red", "--call", "a#7.0"]).0, Some(1));
    let mut child = crate::process::provost(dir)
        .args(["runs", "answer", guest, "-"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"green\n").unwrap();
    let (code, stdout, _) = crate::process::finished(child.wait_with_output().unwrap());
    assert_eq!((code, stdout.trim_end()), (Some(0), "it is green"));
    assert_eq!(output(dir, &["runs", "answer", guest, "red"]).0, Some(1));

    // A guest at a terminal is asked there, and answers through the socket.
    let (mut child, mut terminal) = at_a_terminal(dir, &["run", "n.toml", "guest"]);
    read_until(&mut terminal, "answer, or its number:");
    terminal.write_all(b"1\n").unwrap();
    assert_eq!(wait(&mut child), Some(0));
    at_holder.write_all(b"red\n").unwrap();
    assert_eq!(wait(&mut holder), Some(0));
}
