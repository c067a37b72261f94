//! Agents that go on without getting on: told so by the runtime, then ended; the same after a crash, in a fork and in a replay.

use std::collections::BTreeSet;
use std::sync::Arc;

use provost::model::{Error as ModelError, Reply, Request};
use provost::run::{Envelope, Event, RunId, Status, ToolFailure};
use provost::runtime::{Answers, Builder, Error, Past, Recorder, ReplayError, Replayer, RunRequest};
use provost::spec::{AgentSpec, Effect, GuardsSpec, NetworkSpec, Permission};
use provost::tool::{self, Tool};

use crate::replay::{assert_same, run_and_replay};
use crate::resume::{Nothing, live, open};
use crate::scripted::{Scripted, calls, network, results, runtime, said, step, text};

/// Says the same each time.
struct Look;

impl Tool for Look {
    type Arguments = Nothing;
    type Output = String;

    fn description(&self) -> String {
        "Looks.".to_owned()
    }

    fn effect(&self) -> Effect {
        Effect::Pure
    }

    async fn call(&self, _: Nothing, _: tool::Call) -> Result<String, tool::Error> {
        Ok("pending".to_owned())
    }
}

fn replayer() -> Replayer {
    Replayer::new().tool("look", Look)
}

/// An agent that may look, in a network with these guards.
fn spec(guards: GuardsSpec) -> NetworkSpec {
    let mut spec = network([("one", AgentSpec { tools: vec!["look".to_owned()], ..AgentSpec::new("look") })]);
    spec.tools.insert("look".to_owned(), Default::default());
    spec.policy.default = Permission::Allow;
    spec.network.guards = guards;
    spec
}

fn looks(_: &Request) -> Result<Reply, ModelError> {
    calls([("look", "{}")])
}

fn builder(guards: GuardsSpec, model: &Scripted) -> Builder {
    runtime(spec(guards), model).tool("look", Look)
}

const WHY: &str = "agent `one` has made the same call of `look` 3 times, and it came to the same each time, again after it \
    was told so (guards.same_call = 3)";

#[tokio::test]
async fn the_same_call_again_and_again_is_told_of_and_then_ends_the_run() {
    let model = Scripted::new(looks);
    let runtime = builder(GuardsSpec::default(), &model).start().await.unwrap();
    let report = run_and_replay(&runtime, &replayer(), "go").await;
    assert_eq!((report.status, report.reason.as_deref()), (Status::Limit, Some(WHY)));
    let asked = model.asked();
    assert_eq!(asked.len(), 6);
    assert_eq!(said(&asked[2]).len(), 1);
    let told = said(&asked[3]).pop().unwrap();
    assert!(told.starts_with("You have made the same call of `look` 3 times, and it came to the same"), "{told}");
}

#[tokio::test]
async fn who_heeds_what_it_is_told_gives_its_answer() {
    let model = Scripted::new(|request| match said(request).len() {
        1 => calls([("look", "{}")]),
        _ => text("still pending"),
    });
    let runtime = builder(GuardsSpec::default(), &model).start().await.unwrap();
    let report = run_and_replay(&runtime, &replayer(), "go").await;
    assert_eq!((report.status, report.answer_text().as_deref()), (Status::Done, Some("still pending")));
}

#[tokio::test]
async fn guards_that_are_off_leave_an_agent_to_its_other_limits() {
    let model = Scripted::new(looks);
    let runtime = builder(GuardsSpec::off(), &model).start().await.unwrap();
    let report = run_and_replay(&runtime, &replayer(), "go").await;
    assert_eq!((report.status, report.reason.as_deref()), (Status::Limit, Some("agent `one` reached max_steps = 20")));
}

/// Runs an agent that repeats itself, cut off after every `cut` events.
async fn run_cut_off(cut: usize) -> (Arc<Recorder>, tempfile::TempDir, Past) {
    cut_off_after(cut, || builder(GuardsSpec::default(), &Scripted::new(looks))).await
}

/// Runs a network to its end, cut off after every `cut` events, and a few more each time so that it gets on.
pub(crate) async fn cut_off_after(
    cut: usize,
    builder: impl Fn() -> Builder,
) -> (Arc<Recorder>, tempfile::TempDir, Past) {
    let (directory, run) = (tempfile::tempdir().unwrap(), RunId::new("01cut"));
    for life in 1.. {
        assert!(life < 100, "it does not come to an end");
        let recorder = open(directory.path());
        let runtime = builder().recorder(recorder.clone()).start().await.unwrap();
        let (handle, seen) = match recorder.past(&run) {
            Err(Error::NoSuchRun(_)) => {
                (runtime.start(RunRequest { id: Some(run.clone()), ..RunRequest::new("x") }).await, 0)
            }
            past => {
                let past = past.unwrap();
                let seen = past.events.len();
                (runtime.resume(past, Answers::default()).await, seen)
            }
        };
        if live(&recorder, handle.unwrap(), (seen + life).saturating_add(cut)).await.is_some() {
            break;
        }
    }
    let recorder = open(directory.path());
    let past = recorder.whole_past(&run).unwrap();
    (recorder, directory, past)
}

#[tokio::test]
async fn a_run_cut_off_anywhere_is_told_once_and_ends_for_the_same_reason() {
    for cut in (1..24).chain([usize::MAX]) {
        let (_recorder, _directory, past) = run_cut_off(cut).await;
        let warned = past.events.iter().filter(|envelope| envelope.event.kind() == "warned").count();
        assert_eq!(warned, 1, "cut after every {cut} events");
        assert_eq!(past.state.end().unwrap().reason.as_deref(), Some(WHY), "cut after every {cut} events");
        assert_same(&replayer(), &past);
    }
}

#[tokio::test]
async fn at_every_event_such_a_run_is_forked_and_ends_as_it_did() {
    let (recorder, _directory, past) = run_cut_off(usize::MAX).await;
    let runtime = builder(GuardsSpec::default(), &Scripted::new(looks)).recorder(recorder.clone());
    let runtime = runtime.start().await.unwrap();
    let mut forks = 0;
    for at in 1..past.events.len() as u64 - 1 {
        let id = provost::runtime::new_run_id();
        let Ok(point) = past.fork_point(at, &id) else { continue };
        let forked = runtime.fork(point, None, false).await.unwrap().wait().await.unwrap();
        assert_eq!(forked.reason.as_deref(), Some(WHY), "at {at}");
        assert_same(&replayer(), &recorder.whole_past(&id).unwrap());
        forks += 1;
    }
    assert!(forks > 20, "{forks}");
}

#[tokio::test]
async fn another_warning_than_was_decided_is_found_in_replay() {
    let (_recorder, _directory, past) = run_cut_off(usize::MAX).await;
    let other = |event: &Event| match event {
        Event::Warned { message, .. } => {
            Some(Event::Warned { guard: provost::run::Guard::NothingNew, message: message.clone() })
        }
        _ => None,
    };
    let place = past.events.iter().position(|envelope| other(&envelope.event).is_some()).unwrap();
    let mut events = past.events.clone();
    events[place] =
        Arc::new(Envelope { event: other(&events[place].event).unwrap(), ..Envelope::clone(&events[place]) });
    match replayer().replay(&Past { events, state: past.state.clone(), agents: past.agents.clone() }) {
        Err(ReplayError::Parted(parted)) => assert_eq!(parted.seq, place as u64 + 1),
        other => panic!("{other:?}"),
    }
    // One that is missing is found, too.
    let mut events = past.events.clone();
    events.remove(place);
    let replayed = replayer().replay(&Past { events, state: past.state.clone(), agents: past.agents.clone() });
    assert!(matches!(replayed, Err(ReplayError::Parted(_))));
}

/// Two agents that hand over to one another, in words that `says` makes of the number of the time.
async fn to_and_fro(words: fn(usize) -> String) -> (Past, Scripted) {
    let directory = tempfile::tempdir().unwrap();
    let agent = |to: &str| AgentSpec { hands_off_to: vec![to.to_owned()], ..AgentSpec::new("pass it on") };
    let mut spec = network([("a", agent("b")), ("b", agent("a"))]);
    spec.network.guards.ping_pong = 4;
    let times = std::sync::atomic::AtomicUsize::new(0);
    let model = Scripted::new(move |request| {
        let time = times.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let to = if &*request.agent == "a" { "b" } else { "a" };
        match time {
            time if time < 12 => {
                calls([(&*format!("transfer_to_{to}"), &*serde_json::json!({ "message": words(time) }).to_string())])
            }
            _ => text(format!("after {time} times {:?}", results(request))),
        }
    });
    let recorder = open(directory.path());
    let builder = runtime(spec, &model).recorder(recorder.clone());
    let report = builder.start().await.unwrap().run("go").await.unwrap();
    let past = recorder.past(&report.run).unwrap();
    assert_same(&Replayer::new(), &past);
    (past, model)
}

#[tokio::test]
async fn who_hands_over_to_and_fro_with_the_same_words_is_told_and_then_ended() {
    let (past, model) = to_and_fro(|_| "please take it from here".to_owned()).await;
    let end = past.state.end().unwrap();
    assert_eq!(end.status, Status::Limit);
    assert_eq!(
        end.reason.as_deref(),
        Some(
            "agent `a` tried once more what it was told not to: `a` and `b` have turned to each other 4 times with much \
             the same words; go on without `b`, or say something new"
        )
    );
    let refused = |event: &Event| matches!(event, Event::ToolReturned { failure: Some(ToolFailure::PingPong), .. });
    assert_eq!(past.events.iter().filter(|envelope| refused(&envelope.event)).count(), 2);
    assert_eq!(past.state.agents().len(), 5);
    assert_eq!(step(model.asked().last().unwrap()), 2);
}

#[tokio::test]
async fn who_has_something_new_to_say_may_go_on() {
    let said = |time: usize| format!("draft {time}: {}", ["plan", "outline", "text", "ending"][time % 4]);
    let (past, _) = to_and_fro(said).await;
    assert_eq!((past.state.end().unwrap().status, past.state.agents().len()), (Status::Done, 13));
    let names: BTreeSet<&str> = past.state.agents().values().map(|instance| &*instance.name).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "b"]);
}
