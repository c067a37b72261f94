//! Whole runs, with a model that says what the test wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use provost::model::{Error as ModelError, Finish, Reply, Request};
use provost::run::{Ballot, Body, Event, Status, Subject, ToolFailure, Usage};
use provost::runtime::{Approver, Question, Replayer, Report, RunRequest};
use provost::spec::{AgentSpec, GuardsSpec, NetworkSpec, Permission, Price, Span};
use provost::tool::{self, Tool};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::replay::run_and_replay;
use crate::scripted::{Scripted, calls, network, results, runtime, said, step, text};

#[derive(Deserialize, JsonSchema)]
struct Pause {
    /// How long to take, in milliseconds.
    ms: u64,
}

/// Takes its time and says how long; panics at 666.
struct Wait;

impl Tool for Wait {
    type Arguments = Pause;
    type Output = String;

    fn description(&self) -> String {
        "Waits.".to_owned()
    }

    async fn call(&self, Pause { ms }: Pause, _: tool::Call) -> Result<String, tool::Error> {
        assert!(ms != 666, "this number is not allowed");
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Ok(format!("waited {ms}"))
    }
}

fn agent(tools: &[&str]) -> AgentSpec {
    AgentSpec { tools: tools.iter().map(|&tool| tool.to_owned()).collect(), ..AgentSpec::new("You are {{ input }}.") }
}

fn asks(delegates: &[&str]) -> AgentSpec {
    let delegates_to = delegates.iter().map(|&name| name.to_owned()).collect();
    AgentSpec { delegates_to, ..AgentSpec::new("You ask.") }
}

fn with_wait(mut spec: NetworkSpec) -> NetworkSpec {
    spec.tools.insert("wait".to_owned(), Default::default());
    spec.policy.default = Permission::Allow;
    spec
}

async fn run(spec: NetworkSpec, provider: &Scripted) -> Report {
    run_and_replay(&runtime(spec, provider).start().await.unwrap(), &Replayer::new(), "a tester").await
}

async fn run_with_wait(spec: NetworkSpec, provider: &Scripted) -> Report {
    let runtime = runtime(with_wait(spec), provider).tool("wait", Wait).start().await.unwrap();
    run_and_replay(&runtime, &Replayer::new().tool("wait", Wait), "a tester").await
}

fn reason(report: &Report) -> &str {
    report.reason.as_deref().unwrap_or_default()
}

#[tokio::test]
async fn an_agent_answers() {
    let provider = Scripted::new(|request| text(format!("{} / {:?}", request.system, said(request))));
    let report = run(network([("one", agent(&[]))]), &provider).await;
    assert_eq!(report.status, Status::Done);
    assert_eq!(report.answer_text().as_deref(), Some("You are a tester. / [\"a tester\"]"));
    assert_eq!((report.usage.model_calls, report.usage.input_tokens, report.usage.output_tokens), (1, 10, 5));
}

#[tokio::test(start_paused = true)]
async fn tools_run_at_once_and_their_results_keep_the_order_of_the_calls() {
    let provider = Scripted::new(|request| match step(request) {
        1 => calls([("wait", r#"{"ms": 300}"#), ("wait", r#"{"ms": 100}"#), ("wait", r#"{"ms": 200}"#)]),
        _ => text(results(request).join(", ")),
    });
    let began = tokio::time::Instant::now();
    let report = run_with_wait(network([("one", agent(&["wait"]))]), &provider).await;
    assert_eq!(report.answer_text().as_deref(), Some("waited 300, waited 100, waited 200"));
    assert_eq!(began.elapsed(), Duration::from_millis(300), "the calls did not overlap");
    assert_eq!(report.usage.tool_calls, 3);
}

#[tokio::test]
async fn every_tool_call_in_a_transcript_has_its_result() {
    let provider = Scripted::new(|request| match step(request) {
        1 => calls([("nope", "{}"), ("wait", "no JSON"), ("wait", r#"{"ms": "long"}"#), ("wait", r#"{"ms": 666}"#)]),
        2 => calls([("wait", r#"{"ms": 0}"#)]),
        _ => text("done"),
    });
    let report = run_with_wait(network([("one", agent(&["wait"]))]), &provider).await;
    assert_eq!(report.status, Status::Done, "{report:?}");
    let last = provider.asked().pop().unwrap();
    let mut open = Vec::new();
    for message in &last.messages {
        match &message.body {
            Body::Assistant { tool_calls, .. } => open.extend(tool_calls.iter().map(|(id, _)| id.clone())),
            Body::Tool { id, .. } => assert_eq!(open.remove(0), *id),
            Body::User { .. } => assert!(open.is_empty()),
        }
    }
    assert!(open.is_empty());
    let told = results(&last);
    assert!(told[0].contains("there is no tool `nope`; the tools are: wait"), "{told:?}");
    assert!(told[1].contains("no JSON"), "{told:?}");
    assert!(told[2].contains("invalid arguments for `wait`"), "{told:?}");
    assert!(told[3].contains("the tool panicked: this number is not allowed"), "{told:?}");
}

#[tokio::test]
async fn what_a_model_leaves_out_it_may_write_as_null() {
    let provider = Scripted::new(|request| match step(request) {
        1 => calls([("wait", r#"{"ms": 0, "unit": null}"#), ("wait", r#"{"ms": null}"#)]),
        _ => text(results(request).join(" / ")),
    });
    let report = run_with_wait(network([("one", agent(&["wait"]))]), &provider).await;
    let answer = report.answer_text().unwrap();
    assert!(answer.starts_with("waited 0 / invalid arguments"), "{answer}");
}

#[tokio::test]
async fn a_model_that_can_not_be_put_right_reaches_a_limit() {
    let provider = Scripted::new(|_| calls([("nope", "{}")]));
    let report = run(network([("one", AgentSpec { max_repairs: 2, ..agent(&[]) })]), &provider).await;
    assert_eq!(report.status, Status::Limit);
    assert!(reason(&report).contains("max_repairs = 2"), "{report:?}");
    assert_eq!(provider.asked().len(), 3);
}

#[tokio::test]
async fn an_answer_that_was_cut_off_is_not_taken_for_one() {
    let provider = Scripted::new(|request| match step(request) {
        1 => Ok(Reply { text: "It is beca".to_owned(), finish: Finish::Length, ..Reply::default() }),
        _ => text("short"),
    });
    let report = run(network([("one", agent(&[]))]), &provider).await;
    assert_eq!(report.answer_text().as_deref(), Some("short"));
}

#[tokio::test]
async fn a_structured_answer_is_held_to_its_schema() {
    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Verdict {
        score: u8,
    }
    let provider = Scripted::new(|request| match step(request) {
        1 => text("seven"),
        2 => text(r#"{"score": "seven"}"#),
        _ => text("```json\n{\"score\": 7}\n```"),
    });
    let spec = network([("one", agent(&[]))]);
    let network = provost::spec::Network::new(spec).unwrap().with_output::<Verdict>("one").unwrap();
    let runtime = provost::runtime::Runtime::builder(network).provider("m", provider.clone()).start().await.unwrap();
    let report = runtime.run("x").await.unwrap();
    assert_eq!(report.answer_text().as_deref(), Some(r#"{"score":7}"#));
    assert_eq!(provider.asked().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn delegates_work_at_once_and_see_only_what_they_are_asked() {
    let provider = Scripted::later(|request| {
        let result = match (&*request.agent, step(request)) {
            ("boss", 1) => calls([("ask_hand", r#"{"message": "left"}"#), ("ask_hand", r#"{"message": "right"}"#)]),
            ("boss", _) => text(results(request).join(" ")),
            _ => text(format!("did {:?}", said(request))),
        };
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            result
        })
    });
    let began = tokio::time::Instant::now();
    let report = run(network([("boss", asks(&["hand"])), ("hand", agent(&[]))]), &provider).await;
    assert_eq!(report.answer_text().as_deref(), Some(r#"did ["left"] did ["right"]"#));
    assert_eq!(began.elapsed(), Duration::from_millis(300), "the delegates did not overlap");
    assert_eq!(report.agents.len(), 3);
    assert_eq!(report.usage.model_calls, 4);
}

#[tokio::test]
async fn a_failed_delegate_is_told_to_who_asked() {
    let provider = Scripted::new(|request| match (&*request.agent, step(request)) {
        ("boss", 1) => calls([("ask_hand", r#"{"message": "go"}"#)]),
        ("boss", _) => text(results(request).join(" ")),
        _ => Err(ModelError::Auth { status: 401, message: "who are you".to_owned() }),
    });
    let report = run(network([("boss", asks(&["hand"])), ("hand", agent(&[]))]), &provider).await;
    assert_eq!(report.status, Status::Done);
    let answer = report.answer_text().unwrap();
    assert!(answer.contains("hand gave no answer") && answer.contains("401"), "{answer}");
}

#[tokio::test]
async fn a_handoff_moves_control_and_keeps_the_place_of_who_handed_over() {
    let provider = Scripted::new(|request| match (&*request.agent, step(request)) {
        ("boss", 1) => calls([("ask_clerk", r#"{"message": "a case"}"#)]),
        ("boss", _) => text(format!("boss heard: {}", results(request).join(" "))),
        ("clerk", 1) => calls([("wait", r#"{"ms": 0}"#), ("transfer_to_judge", r#"{"message": "too hard"}"#)]),
        ("clerk", _) => calls([("transfer_to_judge", r#"{"message": "too hard"}"#)]),
        _ => text(format!("judged {:?}", said(request))),
    });
    let clerk = AgentSpec { hands_off_to: vec!["judge".to_owned()], ..agent(&["wait"]) };
    let spec = network([("boss", asks(&["clerk"])), ("clerk", clerk), ("judge", agent(&[]))]);
    let report = run_with_wait(spec, &provider).await;
    assert_eq!(
        report.answer_text().as_deref(),
        Some(r#"boss heard: judged ["a case", "clerk hands over to you: too hard"]"#)
    );
    let alone = provider.asked().iter().flat_map(results).any(|told| told.contains("must be the only call"));
    assert!(alone, "a handoff beside another call was let through");
    let clerk = report.agents.iter().find(|agent| &*agent.name == "clerk").unwrap();
    assert_eq!(clerk.status, "handed_off");
}

#[tokio::test]
async fn control_that_moves_for_ever_ends_at_the_steps_and_nothing_grows_with_it() {
    let provider = Scripted::new(|request| match &*request.agent {
        "ping" => calls([("transfer_to_pong", r#"{"message": "yours"}"#)]),
        _ => calls([("transfer_to_ping", r#"{"message": "no, yours"}"#)]),
    });
    let to = |name: &str| AgentSpec { hands_off_to: vec![name.to_owned()], ..agent(&[]) };
    let mut spec = network([("ping", to("pong")), ("pong", to("ping"))]);
    spec.network.limits.steps = 500;
    spec.network.guards = GuardsSpec::off();
    let report = run(spec, &provider).await;
    assert_eq!((report.status, report.agents.len()), (Status::Limit, 501));
    let last = provider.asked().pop().unwrap();
    assert_eq!(said(&last), ["a tester", "ping hands over to you: yours"]);
    assert_eq!(last.call.agent.as_str(), "ping~499.pong");
}

#[tokio::test]
async fn delegation_stops_at_the_depth() {
    let provider = Scripted::new(|request| match (&*request.agent, step(request)) {
        ("a", 1) => calls([("ask_b", r#"{"message": "go"}"#)]),
        ("b", 1) => calls([("ask_c", r#"{"message": "go"}"#)]),
        _ => text(results(request).join(" ")),
    });
    let mut spec = network([("a", asks(&["b"])), ("b", asks(&["c"])), ("c", agent(&[]))]);
    spec.network.limits.depth = 2;
    let report = run(spec, &provider).await;
    assert_eq!(report.agents.len(), 3);
}

/// A network whose one agent calls a tool for ever.
fn endless(limit: impl FnOnce(&mut NetworkSpec)) -> (NetworkSpec, Scripted) {
    let mut spec = network([("one", AgentSpec { max_steps: 1_000, ..agent(&["wait"]) })]);
    spec.network.guards = GuardsSpec::off();
    limit(&mut spec);
    (spec, Scripted::new(|_| calls([("wait", r#"{"ms": 10}"#)])))
}

#[tokio::test(start_paused = true)]
async fn every_limit_ends_the_run_as_that_limit() {
    type Set = fn(&mut NetworkSpec);
    let cases: [(&str, Set, usize); 6] = [
        ("max_steps = 3", |spec| spec.agents[0].max_steps = 3, 3),
        ("steps = 5", |spec| spec.network.limits.steps = 5, 5),
        ("model_calls = 4", |spec| spec.network.limits.model_calls = Some(4), 4),
        ("deadline of 55ms", |spec| spec.network.limits.deadline = Some(Span::from_millis(55)), 6),
        ("tokens = 20000", |spec| spec.network.limits.tokens = Some(20_000), usize::MAX),
        (
            "cost_usd = 0.002",
            |spec| {
                spec.network.limits.cost_usd = Some(0.002);
                let price = Price { input_usd_per_mtok: 0.1, output_usd_per_mtok: 10.0, ..Price::default() };
                spec.models[0].price = Some(price);
            },
            usize::MAX,
        ),
    ];
    for (limit, set, asked) in cases {
        let (spec, provider) = endless(set);
        let report = run_with_wait(spec, &provider).await;
        assert_eq!(report.status, Status::Limit, "{limit}: {report:?}");
        assert!(reason(&report).contains(limit), "{limit}: {report:?}");
        if asked != usize::MAX {
            assert_eq!(provider.asked().len(), asked, "{limit}");
        }
    }
}

#[tokio::test]
async fn what_a_provider_bills_beyond_the_limit_is_debt_and_ends_the_run() {
    let provider = Scripted::new(|_| {
        let usage = Usage { input_tokens: 50_000, cached_input_tokens: 0, output_tokens: 10, ..Usage::default() };
        calls([("wait", r#"{"ms": 0}"#)]).map(|reply| Reply { usage: Some(usage), ..reply })
    });
    let mut spec = with_wait(network([("one", agent(&["wait"]))]));
    spec.network.limits.tokens = Some(20_000);
    let runtime = runtime(spec, &provider).tool("wait", Wait).start().await.unwrap();
    let run = runtime.start(RunRequest::new("x")).await.unwrap();
    let mut events = run.events();
    assert_eq!(run.wait().await.unwrap().status, Status::Limit);
    assert_eq!(provider.asked().len(), 1);
    let mut end = None;
    while let Some(envelope) = events.next().await {
        end = Some(envelope);
    }
    let Event::RunEnded { spent, debt, .. } = &end.unwrap().event else { panic!("it ends otherwise") };
    assert_eq!((spent.tokens, debt.tokens), (50_010, 30_010));
}

#[tokio::test(start_paused = true)]
async fn a_step_takes_no_longer_than_it_may_whatever_takes_its_time() {
    let slow = |secs| {
        Scripted::later(move |request| {
            let result = if step(request) == 1 { calls([("wait", r#"{"ms": 600000}"#)]) } else { text("done") };
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(secs)).await;
                result
            })
        })
    };
    let spec = |step_timeout| {
        let mut spec = with_wait(network([("one", agent(&["wait"]))]));
        spec.agents["one"].step_timeout = step_timeout;
        spec
    };
    let minute = Some(Span::from_secs(60));
    let run = async |spec, provider: &Scripted| {
        let runtime = runtime(spec, provider).tool("wait", Wait).start().await.unwrap();
        runtime.run("x").await.unwrap()
    };
    // The tool has what the model call has left of the step.
    let provider = slow(20);
    assert_eq!(run(spec(minute), &provider).await.status, Status::Done);
    let said = results(&provider.asked()[1]);
    assert_eq!(said, ["the tool did not answer within 40s, which was left of its step"]);
    // A model call has it with all its tries, and no other try begins when it is over.
    let began = tokio::time::Instant::now();
    let report = run(spec(minute), &slow(3_600)).await;
    assert_eq!((report.status, began.elapsed().as_secs()), (Status::Failed, 60));
    assert!(report.reason.unwrap().contains("timed out after 60s in its step"));
    let fails =
        Scripted::new(|_| Err(ModelError::Overloaded { status: 503, message: "busy".to_owned(), retry_after: None }));
    let mut often = spec(minute);
    often.models["m"].retry.tries = 100;
    let began = tokio::time::Instant::now();
    assert_eq!(run(often, &fails).await.status, Status::Failed);
    assert_eq!(began.elapsed().as_secs(), 60);
    // What waits for its turn waits no longer either.
    let mut narrow = spec(minute);
    narrow.models["m"].requests_per_minute = Some(1);
    let runtime = runtime(narrow, &slow(1)).tool("wait", Wait).start().await.unwrap();
    let (one, two) = tokio::join!(runtime.run("x"), runtime.run("y"));
    assert!([one.unwrap(), two.unwrap()].iter().any(|report| report.status == Status::Failed));
}

#[tokio::test]
async fn usage_that_can_not_be_true_is_charged_as_reserved_and_known_for_a_guess() {
    let usage = |input_tokens, output_tokens| Usage { input_tokens, output_tokens, ..Usage::default() };
    for lie in [usage(999_999_999, 5), usage(10, 999_999_999), usage(0, 5), usage(10, 0)] {
        let provider = Scripted::new(move |_| text("done").map(|reply| Reply { usage: Some(lie), ..reply }));
        let runtime = runtime(network([("one", agent(&[]))]), &provider).start().await.unwrap();
        let run = runtime.start(RunRequest::new("x")).await.unwrap();
        let mut events = run.events();
        let (mut reserved, mut charged) = (None, None);
        while let Some(envelope) = events.next().await {
            match &envelope.event {
                Event::CallIntended { reserved: of, .. } => reserved = Some(*of),
                Event::ModelReplied { charged: of, usage, .. } => {
                    assert_eq!(*usage, None);
                    charged = Some(*of);
                }
                _ => {}
            }
        }
        assert!(charged.is_some() && charged == reserved, "{lie:?}");
    }
}

#[tokio::test]
async fn what_a_server_adds_to_requests_is_reserved_for_from_then_on() {
    for (read, is_believed) in [(9_000, true), (900_000, false)] {
        let provider = Scripted::new(move |request| {
            let usage = Usage { input_tokens: read, output_tokens: 1, ..Usage::default() };
            let reply = if step(request) < 3 { calls([("wait", r#"{"ms": 0}"#)]) } else { text("done") };
            reply.map(|reply| Reply { usage: Some(usage), ..reply })
        });
        let spec = with_wait(network([("one", agent(&["wait"]))]));
        let runtime = runtime(spec, &provider).tool("wait", Wait).start().await.unwrap();
        let run = runtime.start(RunRequest::new("x")).await.unwrap();
        let mut events = run.events();
        let mut reserved = Vec::new();
        while let Some(envelope) = events.next().await {
            if let Event::CallIntended { subject: Subject::Model { .. }, reserved: of, .. } = &envelope.event {
                reserved.push(of.tokens);
            }
        }
        assert_eq!(run.wait().await.unwrap().status, Status::Done);
        assert!(reserved[0] < 9_000, "{reserved:?}");
        assert!(reserved[1..].iter().all(|of| (*of > 9_000) == is_believed), "{reserved:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_takes_no_longer_than_it_may_however_lively_it_is() {
    let provider = Scripted::later(|request| {
        let is_slow = request.attempt < 3;
        Box::pin(async move {
            if is_slow {
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
            text("done")
        })
    });
    let mut spec = network([("one", agent(&[]))]);
    spec.models["m"].timeouts.call = Some(provost::spec::Span::from_secs(20));
    let report = run(spec, &provider).await;
    assert_eq!((report.status, provider.asked().len()), (Status::Done, 3));
}

#[tokio::test]
async fn many_delegates_never_make_more_model_calls_than_the_run_may() {
    let provider = Scripted::later(|request| {
        let result = match (&*request.agent, step(request)) {
            ("boss", 1) => calls([("ask_hand", r#"{"message": "go"}"#); 8]),
            _ => calls([("nope", "{}")]),
        };
        Box::pin(async {
            tokio::task::yield_now().await;
            result
        })
    });
    let mut spec = network([("boss", asks(&["hand"])), ("hand", AgentSpec { max_repairs: 99, ..agent(&[]) })]);
    spec.network.limits.model_calls = Some(9);
    let report = run(spec, &provider).await;
    assert_eq!((report.status, provider.asked().len()), (Status::Limit, 9));
}

#[tokio::test(start_paused = true)]
async fn model_calls_under_way_are_bounded_over_all_runs() {
    static NOW: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let provider = Scripted::later(|_| {
        Box::pin(async {
            MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            NOW.fetch_sub(1, Ordering::SeqCst);
            text("done")
        })
    });
    let mut spec = network([("one", agent(&[]))]);
    spec.network.fleet.model_calls_in_flight = Some(3);
    let runtime = runtime(spec, &provider).start().await.unwrap();
    let runs: Vec<_> = (0..20).map(|_| runtime.run("x")).collect();
    for report in futures_util::future::join_all(runs).await {
        assert_eq!(report.unwrap().status, Status::Done);
    }
    assert_eq!(MOST.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn what_fails_for_a_while_is_tried_again_and_retry_after_is_honoured() {
    let provider = Scripted::new(|request| match request.attempt {
        1 => Err(ModelError::RateLimited { retry_after: Some(Duration::from_secs(30)) }),
        2 => Err(ModelError::Transport { url: "http://127.0.0.1:1".to_owned(), message: "refused".to_owned() }),
        _ => text("at last"),
    });
    let began = tokio::time::Instant::now();
    let report = run(network([("one", agent(&[]))]), &provider).await;
    assert_eq!(report.answer_text().as_deref(), Some("at last"));
    assert_eq!(report.usage.model_calls, 1, "tries of one call count once");
    assert!(began.elapsed() >= Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn what_keeps_failing_fails_the_run_with_the_last_reason() {
    let provider =
        Scripted::new(|_| Err(ModelError::Overloaded { status: 500, message: "boom".to_owned(), retry_after: None }));
    let report = run(network([("one", agent(&[]))]), &provider).await;
    assert_eq!(report.status, Status::Failed);
    assert!(reason(&report).contains("model `m`: the provider failed with status 500: boom"), "{report:?}");
    assert_eq!(provider.asked().len(), 5);
}

#[tokio::test]
async fn a_provider_that_panics_fails_the_call_and_not_the_process() {
    let provider = Scripted::later(|_| Box::pin(async { panic!("out of my depth") }));
    let mut spec = network([("one", agent(&[]))]);
    spec.models[0].retry.tries = 1;
    let report = run(spec, &provider).await;
    assert_eq!(report.status, Status::Failed);
    assert!(reason(&report).contains("out of my depth"), "{report:?}");
}

/// Counts those who were dropped before they were done.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn cancel_drops_what_is_under_way_and_ends_the_run() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let seen = dropped.clone();
    let provider = Scripted::later(move |_| {
        let guard = Dropped(seen.clone());
        Box::pin(async move {
            let _guard = guard;
            std::future::pending().await
        })
    });
    let runtime = runtime(network([("one", agent(&[]))]), &provider).start().await.unwrap();
    let run = runtime.start(RunRequest::new("x")).await.unwrap();
    let mut events = run.events();
    while !matches!(events.next().await.unwrap().event, Event::CallIntended { .. }) {}
    run.controls().cancel("the test is over");
    let report = run.wait().await.unwrap();
    assert_eq!((report.status, reason(&report)), (Status::Cancelled, "the test is over"));
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    runtime.shutdown().await;
}

struct Says(bool);

impl Approver for Says {
    fn ask<'a>(&'a self, _: &'a Question) -> futures_util::future::BoxFuture<'a, Option<Ballot>> {
        Box::pin(async { Some(Ballot::of(self.0)) })
    }
}

fn one_call_then_answer(request: &Request) -> Result<Reply, ModelError> {
    match step(request) {
        1 => calls([("wait", r#"{"ms": 1}"#)]),
        _ => text(results(request).join(" ")),
    }
}

#[tokio::test]
async fn what_policy_asks_about_happens_only_if_a_person_says_so() {
    for (permission, says, expected) in [
        (Permission::Ask, Some(true), "waited 1"),
        (Permission::Ask, Some(false), "a person did not allow this call"),
        (Permission::Deny, Some(true), "policy does not allow this call"),
        (Permission::Allow, None, "waited 1"),
    ] {
        let mut spec = with_wait(network([("one", agent(&["wait"]))]));
        spec.policy.default = permission;
        let mut builder = runtime(spec, &Scripted::new(one_call_then_answer)).tool("wait", Wait);
        if let Some(says) = says {
            builder = builder.approver(Says(says));
        }
        let report = builder.start().await.unwrap().run("x").await.unwrap();
        assert_eq!(report.answer_text().as_deref(), Some(expected));
        assert_eq!(report.usage.tool_calls, u64::from(expected == "waited 1"));
    }
}

#[tokio::test]
async fn a_question_that_nobody_can_answer_parks_the_run() {
    let mut spec = with_wait(network([("one", agent(&["wait"]))]));
    spec.policy.default = Permission::Ask;
    let builder = runtime(spec, &Scripted::new(one_call_then_answer)).tool("wait", Wait);
    let report = builder.start().await.unwrap().run("x").await.unwrap();
    assert_eq!(report.status, Status::AwaitingApproval);
    assert!(reason(&report).contains("one#1.0 wants `wait`"), "{report:?}");
    assert_eq!(report.usage.tool_calls, 0);
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_hangs_times_out_and_the_model_is_told() {
    let mut spec = with_wait(network([("one", agent(&["wait"]))]));
    spec.tools[0].timeout = Some(Span::from_millis(50));
    let provider = Scripted::new(|request| match step(request) {
        1 => calls([("wait", r#"{"ms": 3600000}"#)]),
        _ => text(results(request).join(" ")),
    });
    let runtime = runtime(spec, &provider).tool("wait", Wait).start().await.unwrap();
    let run = runtime.start(RunRequest::new("x")).await.unwrap();
    let mut events = run.events();
    assert_eq!(run.wait().await.unwrap().answer_text().as_deref(), Some("the tool did not answer within 50ms"));
    let mut failures = Vec::new();
    while let Some(envelope) = events.next().await {
        if let Event::ToolReturned { failure, .. } = &envelope.event {
            failures.push(*failure);
        }
    }
    assert_eq!(failures, [Some(ToolFailure::TimedOut)]);
}

#[tokio::test]
async fn events_are_numbered_without_a_gap_and_end_with_the_end() {
    let provider = Scripted::new(one_call_then_answer);
    let runtime =
        runtime(with_wait(network([("one", agent(&["wait"]))])), &provider).tool("wait", Wait).start().await.unwrap();
    let run = runtime.start(RunRequest::new("x")).await.unwrap();
    let mut events = run.events();
    run.wait().await.unwrap();
    let mut seen = Vec::new();
    while let Some(envelope) = events.next().await {
        seen.push(envelope);
    }
    assert!(seen.iter().enumerate().all(|(index, envelope)| envelope.seq == index as u64 + 1));
    assert!(seen.iter().all(|envelope| envelope.cause.is_none_or(|cause| cause < envelope.seq)));
    assert!(matches!(seen.last().unwrap().event, Event::RunEnded { .. }));
    assert!(matches!(seen[0].event, Event::RunStarted { .. }));
}
