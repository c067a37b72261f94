//! Which model a step goes to: each reason, on record before the call is made, and the same after a crash, in a fork and in a
//! replay.

use std::path::Path;
use std::sync::Arc;

use provost::model::{Error as ModelError, Reply, Request};
use provost::run::{Envelope, Event, Status, Subject, Why};
use provost::runtime::{Answers, Builder, Past, ReplayError, Replayer};
use provost::spec::{
    AgentSpec, Breaker, Effect, ModelChoice, ModelRule, ModelSpec, NetworkSpec, Permission, Price, ProviderKind, Retry,
    Span,
};
use provost::tool::{self, Tool};
use serde_json::json;

use crate::guards::cut_off_after;
use crate::process::{output, provost};
use crate::replay::{assert_same, past_of};
use crate::resume::{Nothing, open};
use crate::scripted::{Scripted, calls, network, runtime, step, text};

/// Says something else each time, as long as it was made.
struct Look(usize);

impl Tool for Look {
    type Arguments = Nothing;
    type Output = String;

    fn description(&self) -> String {
        "Looks.".to_owned()
    }

    fn effect(&self) -> Effect {
        Effect::Pure
    }

    async fn call(&self, _: Nothing, call: tool::Call) -> Result<String, tool::Error> {
        Ok(format!("{} {}", call.id, "x".repeat(self.0)))
    }
}

fn replayer() -> Replayer {
    Replayer::new().tool("look", Look(0))
}

/// An agent with a choice among `m`, which it prefers, `a` and `b`.
fn spec(choice: ModelChoice) -> NetworkSpec {
    let one = AgentSpec { tools: vec!["look".to_owned()], model: Some(choice), ..AgentSpec::new("look") };
    let mut spec = network([("one", one)]);
    let retry = Retry { tries: 2, min: Span::from_millis(1), max: Span::from_millis(1), ..Retry::default() };
    for name in ["m", "a", "b"] {
        let model = ModelSpec { provider: Some(ProviderKind::Host), retry, ..ModelSpec::default() };
        spec.models.insert(name.to_owned(), model);
    }
    spec.tools.insert("look".to_owned(), Default::default());
    spec.policy.default = Permission::Allow;
    spec
}

type Says = fn(&Request) -> Result<Reply, ModelError>;

fn builder(spec: NetworkSpec, m: Says, a: Says, b: Says) -> Builder {
    let builder = runtime(spec, &Scripted::new(m)).tool("look", Look(50));
    builder.provider("a", Scripted::new(a)).provider("b", Scripted::new(b))
}

/// Looks in two steps, and then answers.
fn works(request: &Request) -> Result<Reply, ModelError> {
    match step(request) {
        1 | 2 => calls([("look", "{}")]),
        _ => text("done"),
    }
}

fn is_down(_: &Request) -> Result<Reply, ModelError> {
    Err(ModelError::Overloaded { status: 503, message: "busy".to_owned(), retry_after: None })
}

/// Answers after so many steps of looking.
fn looks_long(request: &Request) -> Result<Reply, ModelError> {
    match step(request) {
        ..8 => calls([("look", "{}")]),
        _ => text("done"),
    }
}

/// Runs a network, and says that the run is decided as it was. Returns which models its calls were made to, and what was chosen.
async fn lived(builder: Builder) -> (Past, Vec<String>, Vec<(String, Why, String)>) {
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let report = builder.recorder(recorder.clone()).start().await.unwrap().run("go").await.unwrap();
    let past = recorder.whole_past(&report.run).unwrap();
    assert_same(&replayer(), &past);
    let (called, chosen) = (called(&past), chosen(&past));
    (past, called, chosen)
}

fn called(past: &Past) -> Vec<String> {
    let model = |event: &Event| match event {
        Event::CallIntended { subject: Subject::Model { model, .. }, .. } => Some(model.to_string()),
        _ => None,
    };
    past.events.iter().filter_map(|envelope| model(&envelope.event)).collect()
}

fn chosen(past: &Past) -> Vec<(String, Why, String)> {
    let one = |event: &Event| match event {
        Event::ModelChosen { call, model, why, reason } => Some((format!("{call} {model}"), *why, reason.clone())),
        _ => None,
    };
    past.events.iter().filter_map(|envelope| one(&envelope.event)).collect()
}

fn end(past: &Past) -> (Status, String) {
    let end = past.state.end().unwrap();
    let said = end.answer.as_ref().map(|answer| answer.to_text().to_string());
    (end.status, said.or_else(|| end.reason.clone()).unwrap_or_default())
}

fn done() -> (Status, String) {
    (Status::Done, "done".to_owned())
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn falls_back() -> NetworkSpec {
    spec(ModelChoice { fall_back: names(&["a", "b"]), ..ModelChoice::new("m") })
}

#[tokio::test]
async fn where_a_model_can_not_be_had_the_next_gets_the_same_step_and_keeps_the_agent() {
    let (past, called, chosen) = lived(builder(falls_back(), is_down, is_down, works)).await;
    assert_eq!((end(&past), called), (done(), names(&["m", "m", "a", "a", "b", "b", "b"])));
    let why = |model: &str| format!("`{model}` can't be had: the provider failed with status 503: busy");
    assert_eq!(
        chosen,
        [("one#1 a".to_owned(), Why::FellBack, why("m")), ("one#1 b".to_owned(), Why::FellBack, why("a"))]
    );
    // A transcript that is too long for one is not too long for each; what is wrong with the request is wrong for all.
    let too_long = |_: &Request| Err(ModelError::ContextTooLong { message: "8192".to_owned() });
    let (past, called, _) = lived(builder(falls_back(), too_long, works, works)).await;
    assert_eq!((end(&past), called), (done(), names(&["m", "a", "a", "a"])));
    let refused = |_: &Request| Err(ModelError::BadRequest { status: 400, message: "no".to_owned() });
    let (past, called, chosen) = lived(builder(falls_back(), refused, works, works)).await;
    assert_eq!((end(&past).0, called, chosen), (Status::Failed, names(&["m"]), Vec::new()));
}

#[tokio::test]
async fn where_no_model_can_be_had_the_last_one_is_named() {
    let (past, called, _) = lived(builder(falls_back(), is_down, is_down, is_down)).await;
    let failed = "model `b`: the provider failed with status 503: busy";
    assert_eq!((end(&past), called.len()), ((Status::Failed, failed.to_owned()), 6));
}

#[tokio::test]
async fn who_does_not_manage_is_followed_by_the_next() {
    let spec = spec(ModelChoice { escalate: names(&["a", "b"]), ..ModelChoice::new("m") });
    let (past, called, chosen) = lived(builder(spec, |_| text(""), |_| text(""), works)).await;
    // Three answers in a row may be sent back; the fourth one ends it.
    assert_eq!((end(&past).0, called), (Status::Limit, names(&["m", "m", "a", "a"])));
    assert_eq!(chosen, [("one#3 a".to_owned(), Why::Escalated, "`m` gave 2 answers that can't be used".to_owned())]);

    let choice = ModelChoice { escalate: names(&["a", "b"]), escalate_after: 1, ..ModelChoice::new("m") };
    let answers = |_: &Request| text("done");
    let (past, called, chosen) = lived(builder(self::spec(choice), |_| text(""), |_| text(""), answers)).await;
    assert_eq!((end(&past), called, chosen.len()), (done(), names(&["m", "a", "b"]), 2));
}

#[tokio::test]
async fn who_is_not_sure_is_followed_by_the_next_and_the_last_one_counts() {
    let sure = |confidence: f64| text(json!({ "answer": "yes", "confidence": confidence }).to_string());
    let choice = ModelChoice { escalate: names(&["a"]), confidence_below: Some(0.7), ..ModelChoice::new("m") };
    for (m, called_then) in [(0.7, &["m"][..]), (0.4, &["m", "a"])] {
        let network = provost::spec::Network::new(spec(choice.clone())).unwrap();
        let schema = json!({ "type": "object", "required": ["confidence"] });
        let network = network.with_output_schema("one", schema).unwrap();
        let builder = provost::runtime::Runtime::builder(network)
            .tool("look", Look(0))
            .provider("m", Scripted::new(move |_| sure(m)))
            .provider("a", Scripted::new(move |_| sure(0.2)))
            .provider("b", Scripted::new(works));
        let (past, called, chosen) = lived(builder).await;
        assert_eq!((end(&past).0, called), (Status::Done, names(called_then)), "{m}");
        let why = ("one#2 a".to_owned(), Why::Unsure, "`m` said that its confidence was 0.4".to_owned());
        assert_eq!(chosen.first(), (m < 0.7).then_some(&why));
    }
}

fn priced(choice: ModelChoice, cost_usd: f64) -> NetworkSpec {
    let mut spec = spec(choice);
    for (name, dollars) in [("m", 10.0), ("a", 1.0), ("b", 0.1)] {
        let (input_usd_per_mtok, output_usd_per_mtok) = (dollars, dollars);
        spec.models[name].price = Some(Price { input_usd_per_mtok, output_usd_per_mtok, ..Price::default() });
        spec.models[name].max_output_tokens = 64;
    }
    spec.network.limits.cost_usd = Some(cost_usd);
    spec
}

/// Each step of `m` costs $0.00015, and holds some $0.02 meanwhile.
const LITTLE: f64 = 0.03;

fn downgrades() -> NetworkSpec {
    priced(ModelChoice { downgrade: names(&["a", "b"]), downgrade_below: 0.99, ..ModelChoice::new("m") }, LITTLE)
}

#[tokio::test]
async fn as_the_budget_runs_low_it_goes_to_cheaper_models_and_stays_there() {
    let (past, called, chosen) = lived(builder(downgrades(), looks_long, looks_long, looks_long)).await;
    assert_eq!((end(&past), called), (done(), names(&["m", "m", "m", "a", "a", "a", "a", "a"])));
    let [(what, Why::Downgraded, reason)] = &chosen[..] else { panic!("{chosen:?}") };
    assert_eq!((what.as_str(), reason.as_str()), ("one#4 a", "98.5 % of cost_usd is left, and downgrade_below = 0.99"));
    // A dearer one is no help.
    let mut dear = downgrades();
    dear.models["a"].price = Some(Price { input_usd_per_mtok: 99.0, ..dear.models["m"].price.unwrap() });
    let (_, _, chosen) = lived(builder(dear, looks_long, looks_long, looks_long)).await;
    assert_eq!(chosen, []);
}

#[tokio::test]
async fn what_can_not_be_paid_for_goes_to_a_cheaper_model_before_the_run_ends_at_its_limit() {
    let choice = |downgrade| ModelChoice { downgrade, ..ModelChoice::new("m") };
    let spec = priced(choice(names(&["a", "b"])), 0.004);
    let (past, called, chosen) = lived(builder(spec, looks_long, looks_long, looks_long)).await;
    assert_eq!((end(&past), called), (done(), names(&["a", "a", "a", "a", "a", "a", "a", "a"])));
    let reason = "a call of `m` may cost more than is left of cost_usd";
    assert_eq!(chosen, [("one#1 a".to_owned(), Why::Downgraded, reason.to_owned())]);
    // Without one, or where none is cheap enough, it ends.
    for (choice, cost_usd) in [(choice(Vec::new()), 0.004), (choice(names(&["a"])), 0.001)] {
        let (past, called, _) = lived(builder(priced(choice, cost_usd), looks_long, looks_long, looks_long)).await;
        assert_eq!((end(&past).0, called), (Status::Limit, Vec::new()));
    }
}

#[tokio::test]
async fn an_open_breaker_sends_calls_on_without_a_try() {
    let mut spec = falls_back();
    let breaker = Breaker { failures: 2, within: Span::from_secs(60), cool_down: Span::from_secs(3_600) };
    spec.models["m"].breaker = Some(breaker);
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let runtime = builder(spec, is_down, works, works).recorder(recorder.clone()).start().await.unwrap();
    let asked = async |input: &str| recorder.whole_past(&runtime.run(input).await.unwrap().run).unwrap();
    let first = asked("one").await;
    assert_eq!((end(&first), called(&first)), (done(), names(&["m", "m", "a", "a", "a"])));
    let second = asked("two").await;
    assert_eq!((end(&second), called(&second)), (done(), names(&["a", "a", "a"])));
    let reason = "`m` can't be had: its breaker is open".to_owned();
    assert_eq!(chosen(&second), [("one#1 a".to_owned(), Why::FellBack, reason)]);
    assert_same(&replayer(), &second);
}

#[tokio::test]
async fn who_went_to_a_cheaper_model_falls_back_from_there() {
    // The dear one can't be had, its stand-in can't be paid for, and the cheap one can't be had: the list begins anew.
    let choice = ModelChoice { fall_back: names(&["m2", "a"]), downgrade: names(&["b"]), ..ModelChoice::new("m") };
    let mut spec = priced(choice, 0.1);
    let mut dear = spec.models["m"].clone();
    dear.price = Some(Price { input_usd_per_mtok: 99.0, ..dear.price.unwrap() });
    spec.models.insert("m2".to_owned(), dear);
    let builder = builder(spec, is_down, works, is_down).provider("m2", Scripted::new(works));
    let (past, called, chosen) = lived(builder).await;
    assert_eq!((end(&past).0, called), (Status::Limit, names(&["m", "m", "b", "b"])));
    let chosen: Vec<_> = chosen.into_iter().map(|(what, why, _)| (what, why)).collect();
    let one = |model: &str, why| (format!("one#1 {model}"), why);
    assert_eq!(chosen, [one("m2", Why::FellBack), one("b", Why::Downgraded), one("m2", Why::FellBack)]);
}

#[tokio::test]
async fn rules_say_by_step_and_by_results_which_model_it_is() {
    let rule = |model: &str| ModelRule { model: model.to_owned(), ..ModelRule::default() };
    let choice = ModelChoice {
        when: vec![
            ModelRule { step_over: Some(4), ..rule("a") },
            ModelRule { result_bytes_over: Some(40), ..rule("b") },
        ],
        ..ModelChoice::new("m")
    };
    let (past, called, chosen) = lived(builder(spec(choice), looks_long, looks_long, looks_long)).await;
    assert_eq!((end(&past), called), (done(), names(&["m", "b", "b", "b", "a", "a", "a", "a"])));
    let reasons: Vec<&str> = chosen.iter().map(|(_, _, reason)| reason.as_str()).collect();
    assert_eq!(reasons, ["a rule says so: result_bytes_over = 40, and they have 58", "a rule says so: step_over = 4"]);
}

#[tokio::test]
async fn what_a_label_says_holds_against_outage_and_budget() {
    let private = ModelRule { model: "b".to_owned(), label: Some("private".to_owned()), ..ModelRule::default() };
    let choice = ModelChoice {
        when: vec![private],
        fall_back: names(&["a"]),
        downgrade: names(&["a"]),
        downgrade_below: 1.0,
        ..ModelChoice::new("m")
    };
    let mut spec = priced(choice, 10.0);
    spec.tools["look"].labels.reads = Some("private".to_owned());
    let (past, called, _) = lived(builder(spec.clone(), works, works, works)).await;
    assert_eq!((end(&past), called), (done(), names(&["m", "b", "b"])));
    let (past, called, _) = lived(builder(spec, works, works, is_down)).await;
    assert_eq!((end(&past).0, called), (Status::Failed, names(&["m", "b", "b"])));
}

#[tokio::test]
async fn a_run_cut_off_anywhere_goes_on_with_what_was_chosen() {
    for cut in (1..40).step_by(3).chain([usize::MAX]) {
        let builder = || builder(downgrades(), looks_long, looks_long, looks_long);
        let (_recorder, _directory, past) = cut_off_after(cut, builder).await;
        assert_eq!(end(&past), done(), "cut after every {cut} events");
        assert_same(&replayer(), &past);
        // Once it has gone down, it does not come back, and no step is chosen for twice.
        let called = called(&past);
        let first = called.iter().position(|model| model != "m").unwrap_or(called.len());
        assert!(called[first..].iter().all(|model| model != "m"), "{called:?}");
        let mut chosen = chosen(&past);
        let all = chosen.len();
        chosen.dedup_by(|one, other| one.0 == other.0);
        assert_eq!(chosen.len(), all);

        let builder = || self::builder(falls_back(), is_down, is_down, works);
        let (_recorder, _directory, past) = cut_off_after(cut, builder).await;
        assert_eq!(end(&past), done(), "cut after every {cut} events");
        assert_same(&replayer(), &past);
        let chosen: Vec<String> = self::chosen(&past).into_iter().map(|(what, ..)| what).collect();
        assert_eq!(chosen, ["one#1 a", "one#1 b"], "cut after every {cut} events");
    }
}

#[tokio::test]
async fn a_run_that_dies_between_choice_and_intent_is_not_chosen_for_again() {
    let rule = ModelRule { model: "a".to_owned(), step_over: Some(1), ..ModelRule::default() };
    for spec in [spec(ModelChoice { when: vec![rule], ..ModelChoice::new("m") }), downgrades()] {
        let make = || builder(spec.clone(), looks_long, looks_long, looks_long);
        let (_recorder, _directory, whole) = cut_off_after(usize::MAX, make).await;
        let place = whole.events.iter().position(|envelope| envelope.event.kind() == "model_chosen").unwrap();
        // As a process would find it that was killed just then.
        let left = past_of(whole.events[..=place].to_vec());
        let run = make().start().await.unwrap().resume(left, Answers::default()).await.unwrap();
        let mut events = Vec::new();
        let mut reader = run.events();
        while let Some(envelope) = reader.next().await {
            events.push(envelope);
        }
        run.wait().await.unwrap();
        assert_eq!(events[place + 1].event.kind(), "run_resumed");
        let past = past_of(events);
        assert_same(&replayer(), &past);
        assert_eq!((end(&past), called(&past), chosen(&past)), (done(), called(&whole), chosen(&whole)));
    }
}

#[tokio::test]
async fn at_every_event_a_fork_has_the_model_that_was_chosen() {
    let make = || builder(falls_back(), is_down, works, works);
    let (recorder, _directory, past) = cut_off_after(usize::MAX, make).await;
    let runtime = make().recorder(recorder.clone()).start().await.unwrap();
    let mut forks = 0;
    for at in 1..past.events.len() as u64 - 1 {
        let id = provost::runtime::new_run_id();
        let Ok(point) = past.fork_point(at, &id) else { continue };
        let forked = runtime.fork(point, None, false).await.unwrap().wait().await.unwrap();
        assert_eq!(forked.status, Status::Done, "at {at}");
        let copy = recorder.whole_past(&id).unwrap();
        assert_same(&replayer(), &copy);
        assert_eq!(chosen(&copy), chosen(&past), "at {at}");
        forks += 1;
    }
    assert!(forks > 10, "{forks}");
}

#[tokio::test]
async fn another_choice_than_was_decided_is_found_in_replay() {
    let rule = ModelRule { model: "a".to_owned(), step_over: Some(1), ..ModelRule::default() };
    let by_rule = spec(ModelChoice { when: vec![rule], ..ModelChoice::new("m") });
    let escalates = spec(ModelChoice { escalate: names(&["a"]), escalate_after: 1, ..ModelChoice::new("m") });
    let empty: Says = |_| text("");
    for (spec, m) in [(by_rule, works as Says), (escalates, empty), (falls_back(), is_down), (downgrades(), looks_long)]
    {
        let (past, ..) = lived(builder(spec, m, looks_long, looks_long)).await;
        let place = past.events.iter().position(|envelope| envelope.event.kind() == "model_chosen").unwrap();
        let replayed = |events: Vec<Arc<Envelope>>| {
            let other = Past { events, state: past.state.clone(), agents: past.agents.clone() };
            match replayer().replay(&other) {
                Err(ReplayError::Parted(parted)) => parted.seq,
                other => panic!("{other:?}"),
            }
        };
        let mut other = Envelope::clone(&past.events[place]);
        let Event::ModelChosen { model, .. } = &mut other.event else { unreachable!() };
        *model = "m".into();
        let mut events = past.events.clone();
        events[place] = Arc::new(other);
        assert_eq!(replayed(events), place as u64 + 1);
        // Without it, the call is made to a model to which nothing has led.
        let mut events = past.events.clone();
        events.remove(place);
        assert_eq!(replayed(events), place as u64 + 2);
    }
}

#[test]
fn a_network_whose_budget_falls_ends_with_a_cheap_model_and_says_so_and_without_it_stops_at_the_limit() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (dir, read) = (tempfile::tempdir().unwrap(), root.join("src/run"));
    let text = std::fs::read_to_string(root.join("networks/frugal.toml")).unwrap();
    std::fs::write(dir.path().join("frugal.toml"), &text).unwrap();
    let dear = text.replace(", downgrade = [\"cheap\"], downgrade_below = 0.6", "");
    std::fs::write(dir.path().join("dear.toml"), dear).unwrap();
    let run = |file| output(dir.path(), &["run", file, read.to_str().unwrap()]);
    let show = || output(dir.path(), &["runs", "show", "last"]).1;

    let (code, said, told) = run("frugal.toml");
    assert_eq!((code, said.as_str()), (Some(0), "Read 8 files.\n"), "{told}");
    assert!(told.contains("reader goes to the model cheap: "), "{told}");
    let shown = show();
    assert!(shown.contains(" of 9 steps went to a cheaper model than the dearest: about $0.0"), "{shown}");

    let (code, said, told) = run("dear.toml");
    assert_eq!((code, said.as_str()), (Some(4), ""), "{told}");
    let shown = show();
    assert!(told.contains("limit cost_usd = 0.06") && !shown.contains("went to a cheaper model"), "{shown}");
}

#[test]
fn a_process_that_is_killed_between_choice_and_intent_goes_on_with_what_was_chosen() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (dir, read) = (tempfile::tempdir().unwrap(), root.join("src/run"));
    std::fs::copy(root.join("networks/frugal.toml"), dir.path().join("n.toml")).unwrap();
    // Before the intent of each of nine steps, and after it: the choice is made before that of the seventh.
    // Before the first, the run need not be in the store yet.
    for (place, steps) in [("before", 2..=9), ("after", 1..=9)] {
        for step in steps {
            let point = format!("gate.{place}_intent.model@{step}");
            let mut command = provost(dir.path());
            command.args(["run", "n.toml", read.to_str().unwrap()]).env("PROVOST_CRASH_AT", &point);
            assert_eq!(command.output().unwrap().status.code(), None, "{point}: it was not killed");
            let (code, said, told) = output(dir.path(), &["runs", "resume", "last"]);
            assert_eq!((code, said.as_str()), (Some(0), "Read 8 files.\n"), "{point}: {told}");
            let (_, events, _) = output(dir.path(), &["runs", "show", "last", "--events"]);
            assert_eq!(events.matches(r#""kind":"model_chosen""#).count(), 1, "{point}");
            let (code, _, told) = output(dir.path(), &["runs", "replay", "last"]);
            assert_eq!(code, Some(0), "{point}: {told}");
        }
    }
}
