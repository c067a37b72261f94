//! Where two runs part.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use provost::budget::Amount;
use provost::model::Request;
use provost::run::{Body, Diff, Envelope, Event, What};
use provost::runtime::{Past, Runtime};
use provost::spec::{AgentSpec, NetworkSpec, Price};
use serde_json::{Value, json};

use crate::process::{one_agent, output};
use crate::resume::{World, agent, builder, open, says, spec};
use crate::scripted::{Scripted, calls, network, results, runtime, step, text};

/// Runs a network, and returns the run's events.
async fn events(runtime: &Runtime, input: &str) -> Vec<Arc<Envelope>> {
    let run = runtime.start(provost::runtime::RunRequest::new(input)).await.unwrap();
    let mut reader = run.events();
    let mut events = Vec::new();
    while let Some(envelope) = reader.next().await {
        events.push(envelope);
    }
    run.wait().await.unwrap();
    events
}

async fn eventful(says_otherwise: fn(&Request) -> Option<provost::model::Reply>) -> Vec<Arc<Envelope>> {
    let model = Scripted::new(move |request| says_otherwise(request).map_or_else(|| says(request), Ok));
    let directory = tempfile::tempdir().unwrap();
    let runtime = builder(spec(), &model, &World::default(), open(directory.path())).start().await.unwrap();
    events(&runtime, "x").await
}

#[tokio::test]
async fn runs_in_which_the_same_is_said_and_done_are_the_same() {
    let (one, other) = (eventful(|_| None).await, eventful(|_| None).await);
    assert_ne!(one[0].stream.run, other[0].stream.run);
    let diff = Diff::of(&one, &other);
    assert_eq!((&diff.parting, diff.networks_differ), (&None, false));
    assert!(diff.steps.iter().all(|pair| pair.is_same && pair.one.is_some() && pair.other.is_some()));
    let steps: Vec<String> = diff.steps.iter().map(|pair| format!("{}#{}", pair.agent, pair.step)).collect();
    assert_eq!(steps, ["one#1", "one#2", "one/two.1.3#1", "one/two.1.3#2", "one~1.three#1", "one~1.three#2"]);
}

#[tokio::test]
async fn runs_part_at_the_first_thing_that_differs() {
    let whole = eventful(|_| None).await;
    // Another call of the delegate, while the one that asked is the same.
    let other = eventful(|request| {
        let is_meant = &*request.agent == "two" && step(request) == 1;
        is_meant.then(|| text("I do nothing").unwrap())
    })
    .await;
    let parting = Diff::of(&whole, &other).parting.unwrap();
    assert_eq!((parting.agent.unwrap().as_str(), parting.step), ("one/two.1.3", Some(1)));
    assert_eq!(
        (parting.what, parting.one.as_deref(), parting.other.as_deref()),
        (What::Words, Some(""), Some("I do nothing"))
    );
    // In the order of the other run it is the same place.
    let back = Diff::of(&other, &whole).parting.unwrap();
    assert_eq!((back.what, back.one.as_deref()), (What::Words, Some("I do nothing")));

    let other = eventful(|request| {
        let is_meant = &*request.agent == "one" && step(request) == 2;
        is_meant.then(|| calls([("transfer_to_three", r#"{"message": "go away"}"#)]).unwrap())
    })
    .await;
    let parting = Diff::of(&whole, &other).parting.unwrap();
    assert_eq!((parting.what, parting.call.unwrap().to_string().as_str()), (What::Arguments, "one#2.0"));
    assert_eq!(parting.other.unwrap(), r#"{"message":"go away"}"#);
    let differs = |pair: &&provost::run::Pair| !pair.is_same;
    let diff = Diff::of(&whole, &other);
    let first = diff.steps.iter().find(differs).unwrap();
    assert_eq!((first.agent.as_str(), first.step), ("one", 2));

    // A run that has not come as far.
    let cut = &whole[..whole.len() / 2];
    let parting = Diff::of(&whole, cut).parting.unwrap();
    assert!(parting.one.is_some() && parting.other.is_none(), "{parting:?}");
    let parting = Diff::of(cut, &whole).parting.unwrap();
    assert!(parting.one.is_none() && parting.other.is_some(), "{parting:?}");
}

#[tokio::test]
async fn each_kind_of_change_is_named() {
    let whole = eventful(|_| None).await;
    let changed = |change: &dyn Fn(&mut Event) -> bool| {
        let mut other = whole.clone();
        let place = other.iter().position(|envelope| change(&mut envelope.event.clone())).unwrap();
        let mut envelope = Envelope::clone(&other[place]);
        change(&mut envelope.event);
        other[place] = Arc::new(envelope);
        Diff::of(&whole, &other).parting.unwrap().what
    };
    let named = changed(&|event| match event {
        Event::RunStarted { input, .. } => {
            *input = "y".into();
            true
        }
        _ => false,
    });
    assert_eq!(named, What::Input);
    let named = changed(&|event| match event {
        Event::CallIntended { subject: provost::run::Subject::Model { model, .. }, .. } => {
            *model = "n".into();
            true
        }
        _ => false,
    });
    assert_eq!(named, What::Model);
    let named = changed(&|event| match event {
        Event::ToolReturned { message, .. } => {
            let Body::Tool { content, .. } = &mut Arc::make_mut(message).body else { panic!() };
            content.push('!');
            true
        }
        _ => false,
    });
    assert_eq!(named, What::Result);
    let named = changed(&|event| match event {
        Event::AgentEnded { outcome: outcome @ provost::run::AgentOutcome::Done(_) } => {
            *outcome = provost::run::AgentOutcome::Failed { reason: "no".to_owned() };
            true
        }
        _ => false,
    });
    assert_eq!(named, What::Outcome);
    let named = changed(&|event| match event {
        Event::RunEnded { end, .. } => {
            end.answer = None;
            true
        }
        _ => false,
    });
    assert_eq!(named, What::End);
    let without = |agent: &str| -> Vec<Arc<Envelope>> {
        let is_kept = |e: &&Arc<Envelope>| e.agent.as_ref().is_none_or(|of| of.as_str() != agent);
        whole.iter().filter(is_kept).cloned().collect()
    };
    assert_eq!(Diff::of(&whole, &without("one~1.three")).parting.unwrap().what, What::Agent);
    assert_eq!(Diff::of(&without("one~1.three"), &whole).parting.unwrap().what, What::Agent);
}

#[tokio::test]
async fn a_step_costs_what_all_its_tries_were_charged() {
    let model = Scripted::new(|request| match (step(request), request.attempt) {
        (1, 1) => Err(provost::model::Error::Malformed {
            message: "half an answer".to_owned(),
            usage: Some(crate::scripted::USAGE),
        }),
        (1, _) => calls([("pure", "{}")]),
        _ => text(results(request).join(" ")),
    });
    let mut spec: NetworkSpec = network([("one", AgentSpec { ..agent(&["pure"]) })]);
    for class in ["pure", "idempotent", "once"] {
        spec.tools.insert(class.to_owned(), Default::default());
    }
    spec.models[0].price = Some(Price { input_usd_per_mtok: 1.0, output_usd_per_mtok: 1.0, ..Price::default() });
    spec.policy.default = provost::spec::Permission::Allow;
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let runtime = builder(spec, &model, &World::default(), recorder).start().await.unwrap();
    let events = events(&runtime, "x").await;
    let diff = Diff::of(&events, &events);
    let spent: Amount =
        diff.steps.iter().fold(Amount::default(), |sum, pair| sum.plus(pair.one.clone().unwrap().charged));
    let Event::RunEnded { spent: said, .. } = &events.last().unwrap().event else { panic!() };
    assert_eq!(spent, *said);
    let tries = events.iter().filter(|envelope| matches!(envelope.event, Event::TryFailed { .. })).count() as u64;
    assert_eq!(tries, 1);
    let first = diff.steps[0].one.clone().unwrap();
    assert_eq!((first.charged.tokens, first.tool_calls, first.model.as_deref()), (15 * (tries + 1), 1, Some("m")));
}

#[tokio::test]
async fn a_run_with_another_network_says_so() {
    let model = Scripted::new(|_| text("done"));
    let run = async |prompt: &str| {
        let spec = network([("one", AgentSpec::new(prompt))]);
        events(&runtime(spec, &model).start().await.unwrap(), "x").await
    };
    let (one, other) = (run("Be brief.").await, run("Be long.").await);
    let diff = Diff::of(&one, &other);
    assert_eq!((diff.networks_differ, diff.parting), (true, None));
}

/// Puts fixed words in the place of ids and times.
fn redacted(text: &str) -> String {
    let word = |word: &str| match word.len() == 26 && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    {
        true => "RUN".to_owned(),
        false if word.parse::<f64>().is_ok() && word.contains('.') => "TIME".to_owned(),
        false => word.to_owned(),
    };
    let line = |line: &str| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn says_word(dir: &Path, word: &str) {
    fs::write(dir.join("word"), word).unwrap();
    assert_eq!(output(dir, &["run", "n.toml", "go"]).0, Some(0));
}

#[test]
fn what_diff_prints() {
    let dir = one_agent(
        "",
        r#"tools = ["read"]
[tools.read]
builtin = "fs.read"
[sim.script]
a = ['{"calls": [{"name": "read", "arguments": {"path": "word"}}]}', "it says {{ results[0].content.text }}"]
"#,
    );
    says_word(dir.path(), "one\u{1b}[2J");
    says_word(dir.path(), "two");
    says_word(dir.path(), "two");
    let (_, stdout, _) = output(dir.path(), &["runs", "list", "--json"]);
    let runs: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let ids: Vec<&str> = runs.iter().rev().map(|run| run["run"].as_str().unwrap()).collect();
    let diff = |arguments: &[&str]| {
        let (code, stdout, stderr) = output(dir.path(), &[&["runs", "diff"], arguments].concat());
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        stdout
    };
    let shown = diff(&[ids[0], "last"]);
    assert!(!shown.contains('\u{1b}') && shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    insta::assert_snapshot!(redacted(&shown), @r#"
    A run RUN of n: done, 314 tokens, $0.00, TIME s
    B run RUN of n: done, 310 tokens, $0.00, TIME s
    they part at call a#1.0, in its result:
    A {"path":"word","text":"one\u001b[2J","first_line":1,"last_line":1,"total_lines":1,"truncated"…
    B {"path":"word","text":"two","first_line":1,"last_line":1,"total_lines":1,"truncated":false}

    STEP A TOKENS COST TIME B TOKENS COST TIME
    ≠ a#1 140 $0.00 TIME s 140 $0.00 TIME s
    ≠ a#2 174 $0.00 TIME s 170 $0.00 TIME s
    "#);
    insta::assert_snapshot!(redacted(&diff(&[ids[1], "last"])), @r"
    A run RUN of n: done, 310 tokens, $0.00, TIME s
    B run RUN of n: done, 310 tokens, $0.00, TIME s
    the same was said and done in both

    STEP A TOKENS COST TIME B TOKENS COST TIME
    = a#1 140 $0.00 TIME s 140 $0.00 TIME s
    = a#2 170 $0.00 TIME s 170 $0.00 TIME s
    ");
    let json: Value = serde_json::from_str(&diff(&[ids[0], ids[1], "--json"])).unwrap();
    assert_eq!((&json["same"], &json["networks_differ"]), (&json!(false), &json!(false)));
    assert_eq!((&json["a"]["run"], &json["b"]["run"]), (&json!(ids[0]), &json!(ids[1])));
    let parting = &json["parting"];
    assert_eq!(
        [&parting["agent"], &parting["step"], &parting["call"], &parting["what"]],
        [&json!("a"), &json!(1), &json!("a#1.0"), &json!("result")]
    );
    assert!(parting["a"].as_str().unwrap().contains("one") && parting["b"].as_str().unwrap().contains("two"));
    let step = &json["steps"][0];
    assert_eq!((&step["agent"], &step["step"], &step["same"]), (&json!("a"), &json!(1), &json!(false)));
    let fields: Vec<&String> = step["a"].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["model", "tool_calls", "charged_tokens", "cost_usd", "duration_ms"]);
    assert_eq!(step["a"]["tool_calls"], 1);
    let json: Value = serde_json::from_str(&diff(&[ids[1], ids[2], "--json"])).unwrap();
    assert_eq!((&json["same"], &json["parting"]), (&json!(true), &Value::Null));

    let fails = |arguments: &[&str], code: i32, words: &str| {
        let (found, stdout, stderr) = output(dir.path(), &[&["runs", "diff"], arguments].concat());
        assert_eq!((found, stdout.as_str()), (Some(code), ""), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    };
    fails(&["last", ids[2]], 2, "both are run ");
    fails(&["last", "nosuch"], 2, "there is no run nosuch");
    assert_eq!(output(dir.path(), &["runs", "prune", "--keep", "1"]).0, Some(0));
    fails(&["last", ids[0]], 1, "pruned");
}

#[tokio::test]
async fn a_run_that_was_cut_off_is_compared_as_far_as_it_came() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join(".provost");
    let recorder = open(&data);
    let model = Scripted::new(says);
    let whole = builder(spec(), &model, &World::default(), recorder.clone()).start().await.unwrap();
    let report = whole.run("x").await.unwrap();
    let never = Scripted::later(|_| Box::pin(std::future::pending()));
    let hangs = builder(spec(), &never, &World::default(), recorder.clone()).start().await.unwrap();
    let run = hangs.start(provost::runtime::RunRequest::new("x")).await.unwrap();
    let id = run.id().clone();
    while never.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    crate::resume::cut_off(&recorder, run).await;
    let (code, stdout, stderr) = output(directory.path(), &["runs", "diff", report.run.as_str(), id.as_str()]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains(&format!("B  run {id} of test: interrupted, 0 tokens")), "{stdout}");
    assert!(stdout.contains("they part at agent `one`, step 1, in what the model says:\n"), "{stdout}");
    assert!(stdout.contains("  B  (nothing)\n"), "{stdout}");
    let past = Past::read(&provost::journal::Store::open(&data).unwrap(), &id).unwrap();
    assert_eq!(past.events.len(), 3);
}
