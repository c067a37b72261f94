//! Who goes first where runs wait for the same, and what others see of it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use provost::journal::StreamName;
use provost::run::{Event, Priority, RunId, Status};
use provost::runtime::{Answers, Fork, Host, Queue, QueueKind, Recorder, RunRequest, Runtime};
use provost::spec::{AgentSpec, Network, NetworkSpec};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{one_agent, output, provost, wait};
use crate::resume::{close, cut_off, open};
use crate::runs::{ask, open_gate, until};
use crate::scripted::{Scripted, network, runtime, text};

const LATENCY: Duration = Duration::from_millis(100);

fn spec() -> NetworkSpec {
    network([("one", AgentSpec::new("Work."))])
}

fn request(id: &str, priority: Priority) -> RunRequest {
    RunRequest { id: Some(RunId::new(id)), priority, ..RunRequest::new("x") }
}

#[tokio::test(start_paused = true)]
async fn of_runs_that_wait_for_their_turn_the_higher_ones_begin_first() {
    let provider = Scripted::later(|_| {
        Box::pin(async {
            tokio::time::sleep(LATENCY).await;
            text("done")
        })
    });
    let mut spec = spec();
    spec.network.fleet.runs_in_flight = Some(1);
    let recorder = Arc::new(Recorder::in_memory());
    let runtime = runtime(spec, &provider).recorder(recorder.clone()).start().await.unwrap();
    let mut handles = Vec::new();
    for (id, priority) in [
        ("first", Priority::Low),
        ("low", Priority::Low),
        ("normal", Priority::Normal),
        ("later", Priority::Normal),
        ("high", Priority::High),
    ] {
        handles.push(runtime.start(request(id, priority)).await.unwrap());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let [queue] = &recorder.queues()[..] else { panic!("{:?}", recorder.queues()) };
    assert_eq!((queue.what.kind, &*queue.what.name, queue.width, queue.waiting), (QueueKind::Runs, "test", Some(1), 4));
    assert_eq!(queue.who.iter().find(|one| one.run.as_str() == "low").unwrap().priority, Priority::Low);
    let json = serde_json::to_string(queue).unwrap();
    assert_eq!(serde_json::from_str::<Queue>(&json).unwrap().who, queue.who);
    for report in join_all(handles.into_iter().map(|handle| handle.wait())).await {
        assert_eq!(report.unwrap().status, Status::Done);
    }
    let order: Vec<String> = provider.asked().iter().map(|request| request.run.to_string()).collect();
    assert_eq!(order, ["first", "high", "normal", "later", "low"]);
}

/// A network with room for one model call, which never comes back.
async fn stuck(recorder: &Arc<Recorder>) -> Runtime {
    let mut spec = spec();
    spec.models[0].in_flight = Some(1);
    let provider = Scripted::later(|_| Box::pin(std::future::pending()));
    runtime(spec, &provider).recorder(recorder.clone()).start().await.unwrap()
}

/// Waits until a run is in a queue, and returns its priority there.
async fn in_line(recorder: &Recorder, run: &RunId) -> Priority {
    loop {
        let queues = recorder.queues();
        if let Some(one) = queues.iter().flat_map(|queue| &queue.who).find(|one| one.run == *run) {
            return one.priority;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_priority_outlives_the_process_and_is_passed_on_to_forks() {
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let runtime = stuck(&recorder).await;
    runtime.start(request("blocks", Priority::Normal)).await.unwrap();
    let run = runtime.start(request("high", Priority::High)).await.unwrap();
    let id = run.id().clone();
    assert_eq!(in_line(&recorder, &id).await, Priority::High);
    cut_off(&recorder, run).await;

    let recorder = open(directory.path());
    let runtime = stuck(&recorder).await;
    runtime.start(request("blocks2", Priority::Normal)).await.unwrap();
    let past = recorder.past(&id).unwrap();
    assert_eq!(past.state.beginning().unwrap().priority, Priority::High);
    let run = runtime.resume(past, Answers::default()).await.unwrap();
    assert_eq!(in_line(&recorder, &id).await, Priority::High);

    let fork = async |of: &RunId, name: &str, at: u64, priority: Option<Priority>| {
        let mut point = recorder.whole_past(of).unwrap().fork_point(at, &RunId::new(name)).unwrap();
        point.priority = priority;
        let fork = runtime.fork(point, None, false).await.unwrap();
        assert_eq!(recorder.past(fork.id()).unwrap().state.beginning().unwrap().stream.run, *fork.id());
        (fork.id().clone(), in_line(&recorder, fork.id()).await)
    };
    assert_eq!(fork(&id, "inherits", 2, None).await.1, Priority::High);
    let (low, priority) = fork(&id, "low", 2, Some(Priority::Low)).await;
    assert_eq!(priority, Priority::Low);
    assert_eq!(fork(&low, "inherits2", 3, None).await.1, Priority::Low);
    assert_eq!(fork(&low, "earlier", 2, None).await.1, Priority::High, "as it was there");
    let forked = &recorder.whole_past(&low).unwrap().events[2].event;
    assert!(matches!(forked, Event::RunForked { priority: Some(Priority::Low), .. }), "{forked:?}");

    // A run without one is written down as it always was.
    let store = recorder.journal().unwrap().store().unwrap();
    let first = |run: &str| store.read(&StreamName::new(format!("run/{run}")), 0, 1).unwrap().remove(0).payload;
    let says = |run: &str| first(run).windows(8).any(|bytes| bytes == b"priority");
    assert!(says("high") && !says("blocks"));
    drop(run);
    close(&recorder).await;
}

#[tokio::test]
async fn a_host_forks_with_another_priority() {
    let directory = tempfile::tempdir().unwrap();
    let host = Host::new(open(directory.path()));
    let mut spec = spec();
    spec.models.clear();
    let network = Network::new(spec).unwrap();
    let run = host.start(network, request("01one", Priority::Low)).await.unwrap();
    let report = run.wait().await.unwrap();
    assert_eq!(serde_json::to_value(&report).unwrap()["priority"], "low");
    let keep = |network| Ok::<_, provost::runtime::Error>(network);
    let fork = Fork { priority: Some(Priority::Normal), ..Fork::new(2) };
    let (fork, _) = host.fork(&report.run, fork, None, keep).await.unwrap();
    let report = serde_json::to_value(fork.wait().await.unwrap()).unwrap();
    assert!(report.get("priority").is_none(), "{report}");
    host.shutdown().await.unwrap();
}

/// A network with room for one call of its tool, which comes back when there is a file `gate`.
fn narrow() -> TempDir {
    one_agent(
        "",
        r#"tools = ["wait"]
[tools.wait]
builtin = "process.run"
allow = ["sh"]
in_flight = 1
[policy]
default = "allow"
[sim.script]
a = ['{"calls": [{"name": "wait", "arguments": {"argv": ["sh", "-c", "echo {{ input }} >> order; while [ ! -e gate ]; do sleep 0.01; done"]}}]}',
     "{{ input }}"]
"#,
    )
}

fn queues(dir: &Path) -> Vec<Value> {
    let (code, stdout, stderr) = output(dir, &["queues", "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn start(dir: &Path, arguments: &[&str]) -> Child {
    provost(dir).args(["run", "n.toml"]).args(arguments).spawn().unwrap()
}

#[test]
fn queues_are_seen_from_elsewhere_and_a_high_run_passes_a_low_one() {
    let dir = narrow();
    let nothing = || {
        let (code, stdout, stderr) = output(dir.path(), &["queues"]);
        assert_eq!((code, &*stdout, &*stderr), (Some(0), "", "nothing waits for its turn\n"));
        assert_eq!(queues(dir.path()), Vec::<Value>::new());
    };
    nothing();
    assert!(!dir.path().join(".provost").exists());
    let mut holder = start(dir.path(), &["first"]);
    until("the tool is at work", || dir.path().join("order").exists().then_some(()));
    nothing();
    let waits = |count: usize| {
        until("they wait", || (queues(dir.path()).first()?["waiting"] == count).then_some(()));
    };
    let mut low = start(dir.path(), &["low", "--priority", "low"]);
    waits(1);
    let mut high = start(dir.path(), &["high", "--priority", "high", "--tenant", "local"]);
    waits(2);

    let [mut queue] = <[Value; 1]>::try_from(queues(dir.path())).unwrap();
    let (status, asked) = ask(dir.path(), "GET", "/queues", "");
    assert_eq!((status, &asked["queues"][0]["who"]), (200, &queue["who"]));
    let runs: BTreeMap<String, String> = queue["who"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            assert_eq!((&one["tenant"], &one["calls"]), (&json!("local"), &json!(1)));
            let word = |key: &str| one[key].as_str().unwrap().to_owned();
            (word("priority"), word("run"))
        })
        .collect();
    assert!(queue["longest_ms"].as_u64().unwrap() < 60_000);
    (queue["who"], queue["longest_ms"]) = (json!("WHO"), json!("TIME"));
    let shape = json!({
        "kind": "tool", "name": "wait", "network": "n", "provider": null, "width": 1, "in_flight": 1, "waiting": 2,
        "who": "WHO", "longest_ms": "TIME", "closed_for_ms": null,
    });
    assert_eq!(queue, shape);
    let (_, table, _) = output(dir.path(), &["queues"]);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0].join(" "), "FOR WIDTH UNDER WAY WAITING LONGEST CLOSED FOR");
    assert!(lines[1].join(" ").starts_with("the tool wait of n 1 1 2 ") && lines[1].last() == Some(&"-"), "{table}");

    // Who is there shows what it is worth; a usual run says nothing of it.
    let (_, shown, _) = output(dir.path(), &["runs", "show", &runs["high"]]);
    assert!(shown.contains(" · tenant local · priority high · "), "{shown}");
    let (_, shown, _) = output(dir.path(), &["runs", "show", &runs["low"], "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["priority"], &shown["timeline"][0]["priority"]), (&json!("low"), &json!("low")));
    let (_, listed, _) = output(dir.path(), &["runs", "list", "--json"]);
    let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed.iter().filter(|run| run.get("priority").is_none()).count(), 1);

    open_gate(dir.path());
    assert_eq!([&mut holder, &mut low, &mut high].map(wait), [Some(0); 3]);
    assert_eq!(std::fs::read_to_string(dir.path().join("order")).unwrap(), "first\nhigh\nlow\n");
    nothing();

    // A fork has it from the other run, unless it is told otherwise.
    let fork = |more: &[&str]| {
        let arguments = [&["runs", "fork", &*runs["high"], "--at", "2", "--json"], more].concat();
        let (code, stdout, stderr) = output(dir.path(), &arguments);
        assert_eq!(code, Some(0), "{stderr}");
        serde_json::from_str::<Value>(&stdout).unwrap()["priority"].clone()
    };
    assert_eq!(
        [fork(&[]), fork(&["--priority", "low"]), fork(&["--priority", "normal"])],
        [json!("high"), json!("low"), Value::Null]
    );
    let (code, _, stderr) = output(dir.path(), &["run", "n.toml", "x", "--priority", "urgent"]);
    assert!(code == Some(2) && stderr.contains("low, normal, high"), "{stderr}");
    assert_eq!(output(dir.path(), &["audit", "verify"]).0, Some(0));
}

#[test]
fn a_run_that_is_started_over_the_control_socket_has_its_priority() {
    let dir = narrow();
    let mut holder = start(dir.path(), &["first"]);
    until("the tool is at work", || dir.path().join("order").exists().then_some(()));
    let text = Network::load(&dir.path().join("n.toml")).unwrap().network.to_text();
    let body = |priority: &str| {
        json!({"network": text, "input": "x", "directory": dir.path(), "id": "01posted", "priority": priority})
            .to_string()
    };
    let (status, answer) = ask(dir.path(), "POST", "/runs", &body("urgent"));
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("invalid_request")));
    assert_eq!(ask(dir.path(), "POST", "/runs", &body("high")).0, 200);
    until("it waits", || (queues(dir.path()).first()?["who"][0]["priority"] == "high").then_some(()));
    let fork = |id: &str, more: Value| {
        let mut body = json!({"at": 2, "id": id});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(ask(dir.path(), "POST", "/runs/01posted/fork", &body.to_string()).0, 200);
    };
    fork("01inherits", json!({}));
    fork("01low", json!({"priority": "low"}));
    let is_so = || {
        let queue = queues(dir.path()).pop()?;
        let who = queue["who"].as_array()?.iter();
        let who: Vec<_> = who.map(|one| format!("{} {}", one["run"], one["priority"]).replace('"', "")).collect();
        (who == ["01inherits high", "01low low", "01posted high"]).then_some(())
    };
    until("all wait", is_so);
    open_gate(dir.path());
    assert_eq!(wait(&mut holder), Some(0));
}

/// Refuses every request, for a minute.
fn refuse(mut stream: std::net::TcpStream) {
    // What is asked does not matter.
    let _ = stream.read(&mut [0; 65_536]);
    let head = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 60\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    let _ = stream.write_all(head.as_bytes());
}

#[test]
fn a_queue_says_for_how_long_its_provider_is_closed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || listener.incoming().for_each(|stream| refuse(stream.unwrap())));
    let dir = one_agent("", "");
    let mut holder = start(dir.path(), &["x", "--model", &format!("openai:gpt-x@{url}")]);
    let queue = until("it is refused", || queues(dir.path()).pop());
    assert_eq!((&queue["kind"], &queue["provider"]), (&json!("model"), &json!("openai:gpt-x")), "{queue}");
    let closed_for_ms = queue["closed_for_ms"].as_u64().unwrap();
    assert!((1..=60_000).contains(&closed_for_ms), "{queue}");
    let (_, table, _) = output(dir.path(), &["queues"]);
    assert!(table.contains("(openai:gpt-x)") && !table.trim_end().ends_with('-'), "{table}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    // Queues go with their process.
    assert_eq!(queues(dir.path()), Vec::<Value>::new());
}
