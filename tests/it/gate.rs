//! Every way to a tool or a model passes the gate: what policy forbids is not reached by any of them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use provost::model::{Error as ModelError, Reply, Request};
use provost::run::{Ballot, Event, Status, Subject};
use provost::runtime::{Answers, Builder, Error, Fork, Host, Past, Recorder, Report, RunRequest, Runtime, new_run_id};
use provost::serve::control::{Client, Control, StartRun};
use provost::spec::{
    AgentSpec, CompactionSpec, Effect, ModelChoice, ModelSpec, Network, NetworkSpec, Permission, ProviderKind, Retry,
    Span,
};

use crate::resume::{World, agent, close, open, spec};
use crate::scripted::{Scripted, calls, network, results, step, text};

const NO_ONCE: &str = r#"@id("no") forbid (principal, action == Action::"call_tool:once", resource);"#;

/// A runtime of a network with policies, whose tools act on a world.
fn builder(spec: NetworkSpec, policies: &str, model: &Scripted, world: &World, recorder: Arc<Recorder>) -> Builder {
    let network = Network::new(spec).unwrap().with_policy("n.cedar", policies);
    let act = |class| crate::resume::Act { class, world: world.clone() };
    Runtime::builder(network)
        .provider("m", model.clone())
        .tool("pure", act(Effect::Pure))
        .tool("idempotent", act(Effect::Idempotent))
        .tool("once", act(Effect::Once))
        .recorder(recorder)
}

async fn end(run: provost::runtime::RunHandle) -> Report {
    run.wait().await.unwrap()
}

fn denials(past: &Past) -> usize {
    let is = |event: &Event| matches!(event, Event::PolicyDecided { permission: Permission::Deny, .. });
    past.events.iter().filter(|envelope| is(&envelope.event)).count()
}

fn answers_what_it_got(request: &Request) -> Result<Reply, ModelError> {
    text(results(request).join(" | "))
}

#[tokio::test]
async fn no_agent_reaches_a_tool_that_is_forbidden() {
    let directory = tempfile::tempdir().unwrap();
    let (world, recorder, model) = (World::default(), open(directory.path()), Scripted::new(crate::resume::says));
    // The entry, one that it asks, and one that it hands over to: tools of a Rust program.
    let runtime = builder(spec(), NO_ONCE, &model, &world, recorder.clone()).start().await.unwrap();
    let report = runtime.run("x").await.unwrap();
    assert_eq!(report.status, Status::Done, "{:?}", report.reason);
    assert_eq!(denials(&recorder.whole_past(&report.run).unwrap()), 3);
    assert!(report.answer_text().unwrap().contains("policy forbids this call (`no`)"), "{:?}", report.answer);
    assert_eq!((world.seen(Effect::Once).len(), world.seen(Effect::Idempotent).len()), (0, 1));
}

fn acts_once_in_each_class(request: &Request) -> Result<Reply, ModelError> {
    match step(request) {
        1 => calls([("idempotent", "{}"), ("once", "{}")]),
        _ => answers_what_it_got(request),
    }
}

fn one() -> NetworkSpec {
    let mut spec = network([("one", agent(&["idempotent", "once"]))]);
    for class in ["pure", "idempotent", "once"] {
        spec.tools.insert(class.to_owned(), Default::default());
    }
    spec.policy.default = Permission::Allow;
    spec
}

/// What was cut off, parked or is forked is asked about anew, by the policies that hold then.
#[tokio::test]
async fn no_resume_and_no_fork_reaches_what_is_forbidden_by_then() {
    const ALL: &str = "permit (principal, action, resource);";
    const ASKS: &str = r#"@ask("x") permit (principal, action in Action::"call_tool", resource);"#;
    const NONE: &str = r#"forbid (principal, action in Action::"call_tool", resource);"#;
    let directory = tempfile::tempdir().unwrap();
    let (world, model) = (World::default(), Scripted::new(acts_once_in_each_class));
    let recorder = open(directory.path());
    let asks = builder(one(), ASKS, &model, &world, recorder.clone()).start().await.unwrap();
    let parked = asks.run("x").await.unwrap();
    assert_eq!(parked.status, Status::AwaitingApproval);
    let past = || recorder.past(&parked.run).unwrap();
    let forbids = builder(one(), NONE, &model, &world, recorder.clone()).start().await.unwrap();
    let ballots: Vec<_> = ["one#1.0", "one#1.1"].map(|call| (call.parse().unwrap(), Ballot::of(true))).into();
    // A fork of the parked run, under policies that forbid.
    let point = recorder.whole_past(&parked.run).unwrap();
    let point = point.fork_point(point.events.len() as u64, &new_run_id()).unwrap();
    let forked = end(forbids.fork(point, None, false).await.unwrap()).await;
    assert_eq!(forked.status, Status::Done);
    // The parked run itself, approved.
    let answers = Answers { ballots, ..Answers::default() };
    let resumed = end(forbids.resume(past(), answers).await.unwrap()).await;
    assert_eq!(resumed.status, Status::Done);
    assert_eq!(world.0.lock().unwrap().len(), 0);
    close(&recorder).await;

    // What was intended and cut off, and could be made again.
    let recorder = open(directory.path());
    let allows = builder(one(), ALL, &model, &world, recorder.clone()).start().await.unwrap();
    let run = allows.start(RunRequest::new("x")).await.unwrap();
    let id = run.id().clone();
    let mut events = run.events();
    let is_idempotent = |event: &Event| matches!(event, Event::CallIntended { subject: Subject::Tool { tool, .. }, .. } if &**tool == "idempotent");
    while !is_idempotent(&events.next().await.unwrap().event) {}
    crate::resume::cut_off(&recorder, run).await;
    let before = world.0.lock().unwrap().len();
    let recorder = open(directory.path());
    let forbids = builder(one(), NONE, &model, &world, recorder.clone()).start().await.unwrap();
    let resumed = end(forbids.resume(recorder.past(&id).unwrap(), Answers::default()).await.unwrap()).await;
    assert!(matches!(resumed.status, Status::Done | Status::InDoubt), "{:?}", resumed.reason);
    assert_eq!(world.0.lock().unwrap().len(), before, "it was made again");
}

/// A network that runs on the simulated model, with a file of policies beside it.
fn sim(directory: &Path, text: &str, policies: &str) -> Network {
    fs::write(directory.join("n.cedar"), policies).unwrap();
    fs::write(directory.join("n.toml"), text).unwrap();
    Network::load(&directory.join("n.toml")).unwrap_or_else(|invalid| panic!("{invalid}")).network
}

fn host(directory: &Path) -> Arc<Host> {
    Arc::new(Host::new(Recorder::open(&directory.join("store"), false).unwrap()))
}

fn request(directory: &Path) -> RunRequest {
    RunRequest { directory: Some(directory.to_owned()), ..RunRequest::new("x") }
}

const NESTED: &str = r#"
[network]
name = "outer"
entry = "lead"
[policy]
default = "allow"
file = "n.cedar"
[agents.lead]
prompt = "x"
delegates_to = ["team"]
[agents.team]
network = "team.toml"
[sim.script]
lead = ['{"calls": [{"name": "ask_team", "arguments": {"message": "go"}}]}', '{{ results[0].content }}']
"#;

const TEAM: &str = r#"
[network]
name = "team"
entry = "clerk"
[policy]
default = "allow"
[agents.clerk]
prompt = "x"
tools = ["write"]
[tools.write]
builtin = "fs.write"
[sim.script]
clerk = ['{"calls": [{"name": "write", "arguments": {"path": "a", "text": "3"}}]}', '{{ results[0].content }}']
"#;

#[tokio::test]
async fn no_nested_network_and_no_request_over_the_socket_reaches_what_is_forbidden() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::write(path.join("team.toml"), TEAM).unwrap();
    let forbids = r#"forbid (principal, action == Action::"call_tool:team--write", resource);"#;
    let network = sim(path, NESTED, forbids);
    let host = host(path);
    let report = end(host.start(network.clone(), request(path)).await.unwrap()).await;
    assert!(report.answer_text().unwrap().contains("policy forbids"), "{:?}", report.answer);

    let mut control = Control::open(&path.join("store"), host.clone()).unwrap();
    let client = Client::new(&path.join("store")).unwrap();
    let body = StartRun {
        network: network.to_text(),
        input: "x".into(),
        vars: Default::default(),
        tenant: "local".into(),
        session: None,
        priority: Default::default(),
        directory: path.to_owned(),
        id: None,
    };
    let asked = async {
        let run = client.start(&body).await.unwrap().run;
        while host.controls(&run).is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        run
    };
    let run = tokio::select! {
        _ = control.serve() => panic!("it stopped"),
        run = asked => run,
    };
    let past = host.recorder().whole_past(&run).unwrap();
    assert_eq!((past.state.status(), denials(&past)), (Status::Done, 1));
    assert!(!path.join("a").exists());
}

#[tokio::test]
async fn no_tool_that_knows_is_asked_what_became_of_a_call_where_that_is_forbidden() {
    let directory = tempfile::tempdir().unwrap();
    let (world, recorder, model) = (World::default(), open(directory.path()), Scripted::new(acts_once_in_each_class));
    let mut spec = one();
    spec.tools["once"].reconcile = Some("pure".to_owned());
    let allows = builder(spec.clone(), "permit (principal, action, resource);", &model, &world, recorder.clone());
    let run = allows.start().await.unwrap().start(RunRequest::new("x")).await.unwrap();
    let id = run.id().clone();
    let mut events = run.events();
    let is_once = |event: &Event| matches!(event, Event::CallIntended { subject: Subject::Tool { tool, .. }, .. } if &**tool == "once");
    while !is_once(&events.next().await.unwrap().event) {}
    crate::resume::cut_off(&recorder, run).await;
    let recorder = open(directory.path());
    let forbids = r#"forbid (principal, action == Action::"call_tool:pure", resource);"#;
    let forbids = builder(spec, forbids, &model, &world, recorder.clone()).start().await.unwrap();
    let report = end(forbids.resume(recorder.past(&id).unwrap(), Answers::default()).await.unwrap()).await;
    assert_eq!(report.status, Status::InDoubt, "{:?}", report.reason);
    assert_eq!(world.seen(Effect::Pure).len(), 0, "it was asked");
}

/// A network of agents with models `m`, `a` and `b`, of which policies forbid some.
async fn with_models(
    spec: NetworkSpec,
    policies: &str,
    m: &Scripted,
    other: &Scripted,
) -> (Report, Past, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let (world, recorder) = (World::default(), open(directory.path()));
    let mut spec = spec;
    let retry = Retry { tries: 2, min: Span::from_millis(1), max: Span::from_millis(1), ..Retry::default() };
    for name in ["m", "a"] {
        let model = spec.models.shift_remove(name).unwrap_or_default();
        spec.models.insert(name.to_owned(), ModelSpec { provider: Some(ProviderKind::Host), retry, ..model });
    }
    let builder = builder(spec, policies, m, &world, recorder.clone()).provider("a", other.clone());
    let report = builder.start().await.unwrap().run("x").await.unwrap();
    let past = recorder.whole_past(&report.run).unwrap();
    (report, past, directory)
}

const NO_A: &str = r#"@id("no") forbid (principal, action == Action::"call_model", resource == Model::"a");"#;

fn fails(_: &Request) -> Result<Reply, ModelError> {
    Err(ModelError::Overloaded { status: 500, message: "down".to_owned(), retry_after: None })
}

fn choice(choice: ModelChoice) -> NetworkSpec {
    let mut spec = one();
    spec.agents["one"].model = Some(choice);
    spec
}

#[tokio::test]
async fn no_agent_reaches_a_model_that_is_forbidden() {
    let prefers = |name: &str| ModelChoice::new(name);
    let answers = || Scripted::new(|_| text("done"));
    // At first.
    let (m, a) = (answers(), answers());
    let (report, ..) = with_models(choice(prefers("a")), NO_A, &m, &a).await;
    assert_eq!((report.status, a.asked().len()), (Status::Denied, 0));
    assert_eq!(report.usage.model_calls, 0, "what is denied is no call");
    assert_eq!(report.reason.as_deref(), Some("model `a`: policy forbids this call (`no`)"));
    assert_eq!(report.agents[0].status, "denied");
    // Where another can't be had.
    let (m, a) = (Scripted::new(fails), answers());
    let falls = ModelChoice { fall_back: vec!["a".to_owned()], ..prefers("m") };
    let (report, ..) = with_models(choice(falls), NO_A, &m, &a).await;
    assert_eq!((report.status, m.asked().len(), a.asked().len()), (Status::Denied, 2, 0));
    // A delegate's: who asked is told.
    let (m, a) = (
        Scripted::new(|request| match step(request) {
            1 => calls([("ask_two", r#"{"message": "go"}"#)]),
            _ => answers_what_it_got(request),
        }),
        answers(),
    );
    let mut spec = choice(prefers("m"));
    spec.agents["one"].delegates_to = vec!["two".to_owned()];
    spec.agents.insert("two".to_owned(), AgentSpec { model: Some(prefers("a")), ..AgentSpec::new("x") });
    let (report, ..) = with_models(spec, NO_A, &m, &a).await;
    assert_eq!((report.status, a.asked().len()), (Status::Done, 0));
    assert!(report.answer_text().unwrap().contains("two gave no answer: model `a`: policy forbids"), "{report:?}");
    // The one that summarises: the agent goes on without.
    let (m, a) = (
        Scripted::new(|request| match step(request) {
            1..=30 => calls([("idempotent", "{}")]),
            _ => text("done"),
        }),
        answers(),
    );
    let mut spec = choice(prefers("m"));
    spec.agents["one"].max_steps = 40;
    spec.agents["one"].compaction = Some(CompactionSpec {
        keep_steps: 1,
        model: Some("a".to_owned()),
        move_out_over_bytes: 300,
        ..CompactionSpec::new(300)
    });
    let (report, past, _directory) = with_models(spec, NO_A, &m, &a).await;
    assert_eq!((report.status, a.asked().len()), (Status::Done, 0), "{:?}", report.reason);
    assert!(denials(&past) > 0, "nothing was to be summarised");
}

#[tokio::test]
async fn another_model_is_asked_about_with_what_it_may_write() {
    let mut spec = choice(ModelChoice { fall_back: vec!["a".to_owned()], ..ModelChoice::new("m") });
    for (name, max_output_tokens) in [("m", 100), ("a", 4_000)] {
        spec.models.insert(name.to_owned(), ModelSpec { max_output_tokens, ..ModelSpec::default() });
    }
    let long = r#"
        permit (principal, action, resource);
        @id("long") forbid (principal, action == Action::"call_model", resource) when { context.max_output_tokens > 1000 };
    "#;
    let (m, a) = (Scripted::new(fails), Scripted::new(answers_what_it_got));
    let (report, past, _directory) = with_models(spec, long, &m, &a).await;
    assert_eq!((report.status, a.asked().len(), denials(&past)), (Status::Denied, 0, 1), "{:?}", report.reason);
}

#[tokio::test]
async fn no_further_try_reaches_a_model_that_is_forbidden_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let text = r#"
        [network]
        name = "n"
        entry = "one"
        [policy]
        file = "n.cedar"
        [models.m]
        provider = "sim"
        retry = { tries = 5, min = "300ms", max = "300ms" }
        [agents.one]
        prompt = "x"
        [sim]
        faults = { overloaded = 1.0 }
    "#;
    let network = sim(path, text, "permit (principal, action, resource);");
    let host = host(path);
    let run = host.start(network, request(path)).await.unwrap();
    let mut events = run.events();
    while !matches!(events.next().await.unwrap().event, Event::TryFailed { .. }) {}
    // What can't be read changes nothing.
    fs::write(path.join("n.cedar"), "forbid (principal, action,").unwrap();
    assert!(matches!(host.reload_policies().await, Err(Error::Policy(_))));
    fs::write(path.join("n.cedar"), "forbid (principal, action, resource);").unwrap();
    let reloaded = host.reload_policies().await.unwrap();
    assert!(reloaded.len() == 1 && reloaded[0].before != reloaded[0].now, "{reloaded:?}");
    let id = run.id().clone();
    let report = end(run).await;
    assert_eq!(report.status, Status::Denied, "{:?}", report.reason);
    let past = host.recorder().whole_past(&id).unwrap();
    let intended = past.events.iter().filter(|envelope| matches!(envelope.event, Event::CallIntended { .. })).count();
    assert_eq!(intended, 1, "a try was made after the policies had changed");
    let changed = |event: &Event| matches!(event, Event::PolicyChanged { set, .. } if *set == reloaded[0].now);
    assert!(past.events.iter().any(|envelope| changed(&envelope.event)));
    // A fork of it is under the policies of now, too.
    let at = past.events.iter().position(|envelope| matches!(envelope.event, Event::AgentStarted { .. })).unwrap();
    let fork = Fork { at: at as u64 + 1, input: None, priority: None, id: None, is_attended: false };
    let (fork, _) = host.fork::<Error>(&id, fork, None, Ok).await.unwrap();
    assert_eq!(end(fork).await.status, Status::Denied);
}

/// A tool that brings its agent down the first time.
struct Falls(std::sync::atomic::AtomicBool);

impl provost::tool::Tool for Falls {
    type Arguments = crate::resume::Nothing;
    type Output = String;

    fn description(&self) -> String {
        "Falls over.".to_owned()
    }

    async fn call(&self, _: crate::resume::Nothing, _: provost::tool::Call) -> Result<String, provost::tool::Error> {
        assert!(self.0.swap(true, std::sync::atomic::Ordering::SeqCst), "it fell over");
        Ok("stands".to_owned())
    }
}

/// Somebody who is there and says nothing.
struct Silent;

impl provost::runtime::Approver for Silent {
    fn ask<'a>(&'a self, _: &'a provost::runtime::Question) -> futures_util::future::BoxFuture<'a, Option<Ballot>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn an_answer_reaches_its_call_though_the_agent_was_started_again_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let model = Scripted::new(|request| match step(request) {
        1 => calls([("once", "{}"), ("falls", "{}")]),
        _ => answers_what_it_got(request),
    });
    let (world, recorder) = (World::default(), open(directory.path()));
    let mut spec = one();
    spec.agents["one"].tools.push("falls".to_owned());
    spec.tools.insert("falls".to_owned(), Default::default());
    let asks = r#"
        permit (principal, action == Action::"call_tool:falls", resource);
        @ask("x") permit (principal, action == Action::"call_tool:once", resource);
    "#;
    let builder = builder(spec, asks, &model, &world, recorder.clone()).approver(Silent);
    let runtime = builder.tool("falls", Falls(false.into())).start().await.unwrap();
    let run = runtime.start(RunRequest::new("x")).await.unwrap();
    let (mut events, mut is_asked, mut is_restarted) = (run.events(), false, false);
    while !(is_asked && is_restarted) {
        match &events.next().await.unwrap().event {
            Event::ApprovalRequested { .. } => is_asked = true,
            Event::AgentRestarted { .. } => is_restarted = true,
            _ => {}
        }
    }
    run.controls().approve(None, &Ballot::of(true)).await.unwrap();
    let report = end(run).await;
    assert_eq!(report.status, Status::Done, "{:?}", report.reason);
    assert!(report.answer_text().unwrap().starts_with("once one#1.0 | "), "{:?}", report.answer);
    assert_eq!((world.seen(Effect::Once).len(), report.agents[0].incarnations), (1, 2));
}
