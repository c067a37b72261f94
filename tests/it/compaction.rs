//! Agents whose transcripts are kept within a bound: what their models are sent, in whatever run and however often its
//! process dies.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use provost::model::{Error as ModelError, Request, estimated_tokens};
use provost::run::{Body, Event, RunId, Status};
use provost::runtime::{Answers, Builder, Past, Recorder, ReplayError, Replayer, Report, RunRequest, new_run_id};
use provost::spec::{AgentSpec, CompactionSpec, Effect, ModelSpec, NetworkSpec, Permission, Price, ProviderKind};
use provost::tool::{self, Tool};
use serde_json::{Value, json};

use crate::replay::{assert_same, run_and_replay};
use crate::resume::{Nothing, close, cut_off, open};
use crate::scripted::{Scripted, calls, network, results, runtime, said, step, text};
use crate::world::World;

/// How much a result is.
const BYTES: usize = 5_000;

/// How many tokens are sent at most.
const BOUND: u64 = 4_000;

/// Says more than a model can keep in mind for long.
struct Talk;

impl Tool for Talk {
    type Arguments = Nothing;
    type Output = String;

    fn description(&self) -> String {
        "Says a lot.".to_owned()
    }

    fn effect(&self) -> Effect {
        Effect::Pure
    }

    async fn call(&self, _: Nothing, call: tool::Call) -> Result<String, tool::Error> {
        Ok(talk(&call.id.to_string()))
    }
}

fn talk(call: &str) -> String {
    let line = format!("{call} says so\n");
    line.repeat(BYTES / line.len())
}

fn spec(rules: CompactionSpec) -> NetworkSpec {
    let agent = AgentSpec {
        tools: vec!["talk".to_owned()],
        max_steps: 300,
        compaction: Some(CompactionSpec { model: Some("small".to_owned()), ..rules }),
        model: Some(provost::spec::ModelChoice::new("m")),
        ..AgentSpec::new("You listen.")
    };
    let mut spec = network([("one", agent)]);
    spec.models.insert("small".to_owned(), ModelSpec { provider: Some(ProviderKind::Host), ..ModelSpec::default() });
    spec.tools.insert("talk".to_owned(), Default::default());
    spec.policy.default = Permission::Allow;
    spec
}

/// Listens so often, and then answers with the last thing that it heard.
fn listens(times: u32) -> Scripted {
    Scripted::new(move |request| match step(request) {
        step if step <= times => calls([("talk", "{}")]),
        _ => text(results(request).last().unwrap().lines().next().unwrap()),
    })
}

fn sums_up() -> Scripted {
    Scripted::new(|request| text(format!("summed up before step {}", step(request))))
}

fn builder(spec: NetworkSpec, model: &Scripted, small: &Scripted) -> Builder {
    runtime(spec, model).provider("small", small.clone()).tool("talk", Talk)
}

fn replayer() -> Replayer {
    Replayer::new().tool("talk", Talk)
}

/// Every call has its result, after it and in the order of the calls; the task comes first; and it is not too much.
fn check(request: &Request) {
    let tokens = estimated_tokens(&request.messages);
    assert!(tokens <= BOUND, "{}: {tokens} tokens", request.call);
    assert_eq!(said(request)[0], "x", "{}: the task is lost", request.call);
    let mut open: Vec<&str> = Vec::new();
    for message in &request.messages {
        match &message.body {
            Body::Tool { id, .. } => assert_eq!(open.remove(0), id),
            Body::User { .. } => assert!(open.is_empty()),
            Body::Assistant { tool_calls, .. } => {
                assert!(open.is_empty());
                open.extend(tool_calls.iter().map(|(id, _)| id.as_str()));
            }
        }
    }
    assert!(open.is_empty());
}

fn count(past: &Past, kind: &str) -> usize {
    past.events.iter().filter(|envelope| envelope.event.kind() == kind).count()
}

#[tokio::test]
async fn a_long_loop_stays_within_its_bound_and_the_named_model_sums_up() {
    let (model, small) = (listens(60), sums_up());
    let mut spec = spec(CompactionSpec::new(BOUND));
    // A summary is no step.
    spec.network.limits.steps = 61;
    let runtime = builder(spec, &model, &small).start().await.unwrap();
    let report = run_and_replay(&runtime, &replayer(), "x").await;
    assert_eq!(report.answer_text().as_deref(), Some("one#60.0 says so"), "{report:?}");
    let asked = model.asked();
    assert_eq!(asked.len(), 61);
    asked.iter().for_each(check);
    assert!(asked.iter().all(|request| !request.call.is_compaction && request.tools.len() == 2));
    let sums = small.asked();
    assert!(sums.len() > 3, "{}", sums.len());
    for request in &sums {
        assert!(request.call.is_compaction && request.tools.is_empty() && request.attempt == 1);
        assert!(said(request)[0].starts_with("Task: x\n\n"));
        assert!(estimated_tokens(&request.messages) <= BOUND);
        assert_eq!(u64::from(request.max_output_tokens), BOUND / 4);
        let next = asked.iter().find(|next| step(next) == step(request)).unwrap();
        assert!(said(next)[1].ends_with(&format!("summed up before step {}", step(request))), "{:?}", said(next));
    }
    let again = said(&sums[1]).concat();
    assert!(again.contains(&format!("summed up before step {}", step(&sums[0]))), "the summary is summed up");
    assert_eq!(report.usage.model_calls as usize, asked.len() + sums.len());
}

#[tokio::test]
async fn without_rules_nothing_is_new() {
    let (model, small) = (listens(10), sums_up());
    let mut spec = spec(CompactionSpec::new(BOUND));
    spec.agents["one"].compaction = None;
    spec.models.shift_remove("small");
    let runtime = runtime(spec, &model).tool("talk", Talk).start().await.unwrap();
    let report = run_and_replay(&runtime, &replayer(), "x").await;
    assert_eq!((report.status, small.asked().len()), (Status::Done, 0));
    let last = model.asked().pop().unwrap();
    assert_eq!((last.messages.len(), last.tools.len()), (21, 1));
    assert_eq!(results(&last)[0], talk("one#1.0"));
}

#[tokio::test]
async fn an_agent_goes_on_without_a_summary_and_it_is_on_record_why() {
    let refused = |_: &Request| Err(ModelError::BadRequest { status: 400, message: "no".to_owned() });
    for (small, why) in [
        (Scripted::new(refused), "there is no summary of them: "),
        (Scripted::new(|_| text(" ")), "there is no summary of them: it was empty"),
        (Scripted::new(|_| text("s".repeat(30_000))), "there is no summary of them: it was not shorter than they are"),
    ] {
        let model = listens(20);
        let directory = tempfile::tempdir().unwrap();
        let recorder = open(directory.path());
        let mut spec = spec(CompactionSpec::new(BOUND));
        // What follows from a failure of the agent's own model does not follow from that of a summary.
        spec.agents["one"].on_error = provost::spec::OnError::FailRun;
        let builder = builder(spec, &model, &small).recorder(recorder.clone());
        let report = builder.start().await.unwrap().run("x").await.unwrap();
        assert_eq!(report.answer_text().as_deref(), Some("one#20.0 says so"), "{report:?}");
        model.asked().iter().for_each(check);
        let past = recorder.past(&report.run).unwrap();
        let lost = |event: &Event| match event {
            Event::Compacted { lost, .. } => lost.clone(),
            _ => None,
        };
        let lost: Vec<String> = past.events.iter().filter_map(|envelope| lost(&envelope.event)).collect();
        assert!(!lost.is_empty() && lost.iter().all(|lost| lost.starts_with(why)), "{lost:?}");
        let last = model.asked().pop().unwrap();
        assert!(said(&last)[1].starts_with("[Older steps were left out here."), "{:?}", said(&last));
        assert_same(&replayer(), &past);
    }
}

#[tokio::test]
async fn an_agent_goes_on_without_a_summary_that_can_not_be_paid_for() {
    let (model, small) = (listens(20), sums_up());
    let price = |dollars| {
        let (input_usd_per_mtok, output_usd_per_mtok) = (dollars, dollars);
        Some(Price { input_usd_per_mtok, output_usd_per_mtok, ..Price::default() })
    };
    let mut spec = spec(CompactionSpec::new(BOUND));
    spec.models["m"].price = price(0.0);
    spec.models["small"].price = price(1_000.0);
    spec.network.limits.cost_usd = Some(0.001);
    let report = run_and_replay(&builder(spec, &model, &small).start().await.unwrap(), &replayer(), "x").await;
    assert_eq!((report.status, small.asked().len(), report.usage.cost_usd), (Status::Done, 0, 0.0), "{report:?}");
    model.asked().iter().for_each(check);
    assert!(said(&model.asked().pop().unwrap())[1].starts_with("[Older steps were left out here."));
}

#[tokio::test]
async fn what_can_not_fit_ends_the_run_at_a_limit() {
    let (model, small) = (listens(3), sums_up());
    let runtime =
        builder(spec(CompactionSpec { move_out_over_bytes: 300, ..CompactionSpec::new(100) }), &model, &small)
            .start()
            .await
            .unwrap();
    let report = run_and_replay(&runtime, &replayer(), &"x".repeat(60)).await;
    assert_eq!(report.status, Status::Limit);
    let reason = report.reason.unwrap();
    assert!(reason.contains("its last step come to about") && reason.contains("at_tokens = 100"), "{reason}");
    assert_eq!(model.asked().len(), 1);
}

/// Reads again what the arguments say, after so many steps; answers with what it was told.
fn reads_again(steps: u32, arguments: Value) -> Scripted {
    Scripted::new(move |request| match step(request) {
        step if step <= steps => calls([("talk", "{}")]),
        step if step == steps + 1 => calls([("read_again", &arguments.to_string())]),
        _ => text(results(request).pop().unwrap()),
    })
}

#[tokio::test]
async fn a_result_is_read_again_by_its_handle() {
    let whole = talk("one#1.0");
    let length = whole.len();
    let part = |from: usize, text: &str, next: Option<usize>| {
        let mut part = json!({ "text": text, "from": from, "of": length });
        next.into_iter().for_each(|next| part["next"] = json!(next));
        part.to_string()
    };
    let none = |handle: &str| format!("refused: none of your results so far has the handle `{handle}`");
    for (arguments, says) in [
        (json!({ "handle": "s00010000", "bytes": 16_000 }), part(0, &whole, None)),
        (json!({ "handle": "s00010000" }), part(0, &whole[..4_000], Some(4_000))),
        (json!({ "handle": "s00010000", "from": 4_000 }), part(4_000, &whole[4_000..], None)),
        (json!({ "handle": "s00010000", "from": 10, "bytes": 5 }), part(10, &whole[10..15], Some(15))),
        (json!({ "handle": "s00010001" }), none("s00010001")),
        (json!({ "handle": "s00990000" }), none("s00990000")),
        (json!({ "handle": "s00080000" }), none("s00080000")),
        (json!({ "handle": "the first" }), none("the first")),
    ] {
        let model = reads_again(7, arguments.clone());
        let runtime = builder(spec(CompactionSpec::new(8_000)), &model, &sums_up()).start().await.unwrap();
        let report = run_and_replay(&runtime, &replayer(), "x").await;
        assert_eq!(report.answer_text().as_deref(), Some(&*says), "{arguments}");
    }
    let model = reads_again(1, json!({ "handle": "s00010000", "from": 5_000 }));
    let runtime = builder(spec(CompactionSpec::new(8_000)), &model, &sums_up()).start().await.unwrap();
    let answer = run_and_replay(&runtime, &replayer(), "x").await.answer_text().unwrap();
    assert!(answer.starts_with(&format!("refused: the result has {length} bytes")), "{answer}");
    let model = reads_again(1, json!({ "handle": "s00010000", "bytes": 0 }));
    let runtime = builder(spec(CompactionSpec::new(8_000)), &model, &sums_up()).start().await.unwrap();
    let answer = run_and_replay(&runtime, &replayer(), "x").await.answer_text().unwrap();
    assert!(answer.starts_with("invalid arguments for `read_again`"), "{answer}");
}

#[tokio::test]
async fn a_result_from_before_the_last_snapshot_is_read_from_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let run = RunId::new("01long");
    // More events than are kept beside a snapshot.
    let steps = 150;
    let model = Scripted::later(move |request| {
        let hang = (step(request), request.attempt) == (steps + 1, 1);
        let reply = match step(request) {
            step if step <= steps => calls([("talk", "{}")]),
            step if step == steps + 1 => calls([("read_again", r#"{"handle": "s00010000", "bytes": 7}"#)]),
            _ => text(results(request).pop().unwrap()),
        };
        Box::pin(async move { if hang { std::future::pending().await } else { reply } })
    });
    let start = async |recorder: &Arc<Recorder>| {
        let builder = builder(spec(CompactionSpec::new(BOUND)), &model, &sums_up()).recorder(recorder.clone());
        builder.start().await.unwrap()
    };
    let recorder = open(directory.path());
    let request = RunRequest { id: Some(run.clone()), ..RunRequest::new("x") };
    let handle = start(&recorder).await.start(request).await.unwrap();
    while !model.asked().iter().any(|request| step(request) == steps + 1) {
        tokio::task::yield_now().await;
    }
    cut_off(&recorder, handle).await;
    let recorder = open(directory.path());
    let past = recorder.past(&run).unwrap();
    assert!(past.events[0].seq > 100, "there was no snapshot");
    let resumed = start(&recorder).await.resume(past, Answers::default()).await.unwrap();
    let report = resumed.wait().await.unwrap();
    let part = json!({ "text": "one#1.0", "from": 0, "of": talk("one#1.0").len(), "next": 7 });
    assert_eq!(serde_json::from_str::<Value>(&report.answer_text().unwrap()).unwrap(), part);
    assert_same(&replayer(), &recorder.whole_past(&run).unwrap());
    close(&recorder).await;
}

async fn recorded(directory: &Path) -> (Arc<Recorder>, Report) {
    let recorder = open(directory);
    let builder = builder(spec(CompactionSpec::new(BOUND)), &listens(12), &sums_up()).recorder(recorder.clone());
    let report = builder.start().await.unwrap().run("x").await.unwrap();
    (recorder, report)
}

#[tokio::test]
async fn at_every_event_such_a_run_is_forked_and_ends_as_it_did() {
    let directory = tempfile::tempdir().unwrap();
    let (recorder, report) = recorded(directory.path()).await;
    let past = recorder.past(&report.run).unwrap();
    let compacted = count(&past, "compacted");
    assert!(compacted >= 2);
    let (model, small) = (listens(12), sums_up());
    let runtime = builder(spec(CompactionSpec::new(BOUND)), &model, &small).recorder(recorder.clone());
    let runtime = runtime.start().await.unwrap();
    let mut forks = 0;
    for at in 1..past.events.len() as u64 - 1 {
        for told in [None, Some("be quick")] {
            let id = new_run_id();
            let Ok(point) = past.fork_point(at, &id) else { continue };
            let run = runtime.fork(point, told.map(Into::into), false).await.unwrap();
            let forked = run.wait().await.unwrap();
            assert_eq!(forked.answer_text(), report.answer_text(), "at {at}: {forked:?}");
            let copy = recorder.whole_past(&id).unwrap();
            assert!(told.is_some() || count(&copy, "compacted") == compacted, "at {at}");
            assert_same(&replayer(), &copy);
            forks += 1;
        }
    }
    assert!(forks > 100, "{forks}");
    model.asked().iter().for_each(check);
}

#[tokio::test]
async fn another_compaction_than_was_decided_is_found_in_replay() {
    let directory = tempfile::tempdir().unwrap();
    let (recorder, report) = recorded(directory.path()).await;
    let past = recorder.past(&report.run).unwrap();
    assert_same(&replayer(), &past);
    let mut changed = BTreeSet::new();
    for (place, envelope) in past.events.iter().enumerate() {
        let mut other = provost::run::Envelope::clone(envelope);
        match &mut other.event {
            Event::Compacted { upto, .. } => *upto -= 1,
            Event::CallIntended { call, subject: provost::run::Subject::Model { model, .. }, .. }
                if call.is_compaction =>
            {
                *model = "m".into();
            }
            _ => continue,
        }
        changed.insert(other.event.kind());
        let mut events = past.events.clone();
        events[place] = Arc::new(other);
        let other = Past { events, state: past.state.clone(), agents: past.agents.clone() };
        match replayer().replay(&other) {
            Err(ReplayError::Parted(parted)) => assert_eq!(parted.seq, envelope.seq, "{parted}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(changed.into_iter().collect::<Vec<_>>(), ["call_intended", "compacted"]);
}

/// An agent that acts a few times, with a transcript that is compacted twice or more on the way.
const ACTS: &str = r#"
[network]
name = "compacts"
entry = "a"
[models.m]
provider = "sim"
price = { input_usd_per_mtok = 1.3, output_usd_per_mtok = 7.0 }
[models.small]
provider = "sim"
price = { input_usd_per_mtok = 0.3, output_usd_per_mtok = 0.7 }
[agents.a]
prompt = "You act."
model = { prefer = "m" }
tools = ["once", "idempotent"]
compaction = { at_tokens = 220, keep_steps = 1, model = "small", move_out_over_bytes = 200 }
@TOOLS@
[sim.script]
a = ['{"calls": [{"name": "once", "arguments": {"argv": ["@LEDGER@", "once"]}}]}',
     '{"calls": [{"name": "idempotent", "arguments": {"argv": ["@LEDGER@", "idempotent"]}}]}',
     '{"calls": [{"name": "once", "arguments": {"argv": ["@LEDGER@", "once"]}}]}',
     '{"calls": [{"name": "idempotent", "arguments": {"argv": ["@LEDGER@", "idempotent"]}}]}',
     'done: {{ input }}']
"#;

fn run_in(world: &World, crash: &str) -> bool {
    let ended = world.start(&["run", "n.toml", "go"], &[("PROVOST_CRASH_AT", crash)], None).end();
    world.settle(false);
    ended.was_killed()
}

/// How often a summary came, and how often what it says took the place of something.
fn summaries(world: &World) -> (usize, usize) {
    let exported = world.ask_for(0, &["audit", "export"]);
    let lines: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_summary = |line: &&Value| {
        line["kind"] == "model_replied" && line["call"].as_str().is_some_and(|call| call.ends_with('c'))
    };
    (lines.iter().filter(is_summary).count(), lines.iter().filter(|line| line["kind"] == "compacted").count())
}

#[test]
fn a_process_dies_around_each_compaction_and_it_is_made_once() {
    let whole = World::new(ACTS);
    assert!(!run_in(&whole, "nowhere"));
    let expected = summaries(&whole);
    assert!(expected.0 >= 2 && expected.1 >= 2, "{expected:?}");
    let places =
        ["gate.before_intent.model", "gate.after_intent.model", "gate.after_effect.model", "journal.after_sync"];
    let mut killed = 0;
    for place in places {
        for nth in 1.. {
            let (world, what) = (World::new(ACTS), format!("{place}@{nth}"));
            if !run_in(&world, &what) {
                assert!(nth > 5, "{what}");
                break;
            }
            killed += 1;
            for _ in 0..2 {
                match world.runs().first().map(|run| run["status"].as_str().unwrap().to_owned()).as_deref() {
                    None | Some("done") => break,
                    Some("in_doubt") => assert_eq!(world.resolve_all(&world.look()), 1, "{what}"),
                    Some(_) => {}
                }
                let ended = world.ask(&["runs", "resume", "--all"]);
                assert!(matches!(ended.code(), Some(0 | 7)), "{what}: {}", ended.stderr);
            }
            if !world.runs().is_empty() {
                world.check_end(&world.look(), |_| "done: go".to_owned());
                assert_eq!(summaries(&world), expected, "{what}");
            }
        }
    }
    assert!(killed > 25, "{killed}");
}
