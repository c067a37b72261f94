//! What models say while they say it: every agent's words reach who follows, in order, and come to the reply.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use provost::model::{Error, Provider, Reply, Request};
use provost::run::{CallId, Event, Status, ToolCall};
use provost::runtime::{Follower, Happening, RunRequest, Runtime};
use provost::spec::{AgentSpec, Network};
use serde_json::Value;

use crate::process::{SimServer, output};
use crate::scripted::{USAGE, network};
use crate::world::World;

/// How many delegates are asked at once.
const READERS: usize = 12;

/// Says everything a few letters at a time, and lets others have their turn; the first tries of some calls break off.
#[derive(Clone, Default)]
struct Talker {
    broken: Arc<AtomicUsize>,
}

impl Talker {
    fn says(request: &Request) -> Reply {
        let text = format!("{} speaks in step {}: äöü {}", request.agent, request.call.step, request.call);
        let ask = |to: &str| ToolCall { name: format!("ask_{to}"), arguments: r#"{"message": "go"}"#.to_owned() };
        let tool_calls = match (&*request.agent, request.call.step) {
            ("editor", 1) => (0..READERS).map(|_| ask("reader")).collect(),
            ("reader", 1) => vec![ask("finder")],
            _ => Vec::new(),
        };
        Reply { text, tool_calls, usage: Some(USAGE), ..Reply::default() }
    }
}

impl Provider for Talker {
    fn call<'a>(
        &'a self,
        request: &'a Request,
        progress: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(async move {
            let reply = Self::says(request);
            let is_broken = request.attempt == 1 && &*request.agent == "finder";
            for piece in reply.text.split_inclusive(' ') {
                progress(piece);
                tokio::task::yield_now().await;
                if is_broken {
                    self.broken.fetch_add(1, Ordering::SeqCst);
                    return Err(Error::Cut { received: 1, message: "broken off".to_owned(), usage: None });
                }
            }
            Ok(reply)
        })
    }
}

async fn talking(talker: &Talker) -> Runtime {
    let asks = |to: &str| AgentSpec { delegates_to: vec![to.to_owned()], ..AgentSpec::new("Speak.") };
    let agents = [("editor", asks("reader")), ("reader", asks("finder")), ("finder", AgentSpec::new("Speak."))];
    let network = Network::new(network(agents)).unwrap();
    Runtime::builder(network).provider("m", talker.clone()).followed().start().await.unwrap()
}

/// What was heard of a run: the events, and what each try said, put together.
#[derive(Default)]
struct Heard {
    events: u64,
    /// The tries under way, with what they have said.
    open: BTreeMap<CallId, (u32, String)>,
    replies: usize,
    void: usize,
    pieces: usize,
    /// The calls of which the beginning was said before it was listened to.
    begun: BTreeSet<CallId>,
}

impl Heard {
    /// Takes what happens, and sees that it follows.
    fn take(&mut self, happening: Happening) {
        match happening {
            Happening::Missed(count) => panic!("{count} pieces were missed"),
            Happening::Tokens(tokens) => {
                self.pieces += 1;
                let (attempt, said) = self.open.get_mut(&tokens.call).unwrap();
                assert_eq!(*attempt, tokens.attempt);
                if tokens.offset > said.len() {
                    self.begun.insert(tokens.call.clone());
                    return;
                }
                assert_eq!(said.len(), tokens.offset, "{tokens:?}");
                said.push_str(&tokens.text);
            }
            Happening::Event(envelope) => {
                self.events += 1;
                assert_eq!(envelope.seq, self.events);
                match &envelope.event {
                    Event::CallIntended { call, attempt, .. } if call.index.is_none() => {
                        let before = self.open.insert(call.clone(), (*attempt, String::new()));
                        assert!(before.is_none(), "{call} is said to be begun twice");
                    }
                    Event::TryFailed { call, attempt, .. } => {
                        let (of, said) = self.open.remove(call).unwrap();
                        assert_eq!((of, said.is_empty()), (*attempt, false));
                        self.void += 1;
                    }
                    Event::ModelReplied { call, message, .. } => {
                        let (_, said) = self.open.remove(call).unwrap();
                        assert!(said == message.text() || self.begun.contains(call), "{call}: {said}");
                        self.replies += 1;
                    }
                    _ => {}
                }
            }
        }
    }

    async fn all(mut follower: Follower) -> Self {
        let mut heard = Self::default();
        while let Some(happening) = follower.next().await {
            heard.take(happening);
        }
        heard
    }
}

#[tokio::test(start_paused = true)]
async fn the_words_of_all_agents_come_in_order_and_to_the_reply() {
    let talker = Talker::default();
    let runtime = talking(&talker).await;
    let run = runtime.start(RunRequest::new("x")).await.unwrap();
    // Whoever comes second may come after the first words, and sees so.
    let (one, other) = (run.follow(), run.follow());
    let (one, other, report) = tokio::join!(Heard::all(one), Heard::all(other), run.wait());
    let report = report.unwrap();
    assert_eq!(report.status, Status::Done);
    assert!(one.begun.is_empty() && other.begun.len() <= 1, "{:?} {:?}", one.begun, other.begun);
    for heard in [one, other] {
        assert_eq!(heard.events, report.events);
        assert_eq!((heard.replies, heard.void), (2 + 3 * READERS, READERS), "each of them was heard");
        assert!(heard.pieces > 5 * heard.replies, "in pieces");
        assert!(heard.open.is_empty());
    }
    assert_eq!(talker.broken.load(Ordering::SeqCst), READERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_threads_change_nothing_of_that() {
    let runtime = talking(&Talker::default()).await;
    let runs = (0..20).map(|_| async {
        let run = runtime.start(RunRequest::new("x")).await.unwrap();
        let (heard, report) = tokio::join!(Heard::all(run.follow()), run.wait());
        (heard, report.unwrap())
    });
    for (heard, report) in futures_util::future::join_all(runs).await {
        assert_eq!((heard.events, report.status), (report.events, Status::Done));
        assert!(heard.begun.is_empty(), "{:?}", heard.begun);
    }
}

/// What a run printed with `--events` says, of each call: what its last try said, put together, and its reply.
fn printed(stdout: &str) -> BTreeMap<String, (String, String)> {
    let (mut open, mut calls) = (BTreeMap::<String, (u64, u64, String)>::new(), BTreeMap::new());
    let mut seq = 0;
    for line in stdout.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let call = line["call"].as_str().unwrap_or_default().to_owned();
        match line["kind"].as_str().unwrap() {
            "tokens" => {
                let (cause, attempt, said) = open.get_mut(&call).unwrap_or_else(|| panic!("before its intent: {line}"));
                assert_eq!(
                    (line["cause"].as_u64(), line["attempt"].as_u64()),
                    (Some(*cause), Some(*attempt)),
                    "{line}"
                );
                assert_eq!((line["offset"].as_u64(), line.get("seq")), (Some(said.len() as u64), None), "{line}");
                assert_eq!(line["agent"].as_str(), call.split('#').next());
                said.push_str(line["text"].as_str().unwrap());
                continue;
            }
            "call_intended" if !call.split('#').next_back().unwrap().contains('.') => {
                let attempt = line["attempt"].as_u64().unwrap();
                open.insert(call, (line["seq"].as_u64().unwrap(), attempt, String::new()));
            }
            "try_failed" => drop(open.remove(&call).unwrap()),
            "model_replied" => {
                let (_, _, said) = open.remove(&call).unwrap();
                let reply = line["message"]["body"]["assistant"]["text"].as_str().unwrap().to_owned();
                calls.insert(call, (said, reply));
            }
            _ => {}
        }
        seq += 1;
        assert_eq!(line["seq"].as_u64(), Some(seq), "{line}");
    }
    calls
}

/// An agent that asks another three times at once; some tries fail.
const NETWORK: &str = r#"
[network]
name = "talk"
entry = "a"
[models.m]
@MODEL@
model = "a"
retry = { tries = 9, min = "1ms", max = "2ms" }
[models.n]
@MODEL@
model = "b"
retry = { tries = 9, min = "1ms", max = "2ms" }
[agents.a]
prompt = "You ask."
model = { prefer = "m" }
delegates_to = ["b"]
[agents.b]
prompt = "You answer."
model = { prefer = "n" }
"#;

const SCRIPT: &str = r#"
[sim]
faults = { cut = 0.3 }
[sim.script]
a = ['{"text": "I ask three.", "calls": [{"name": "ask_b", "arguments": {"message": "1"}}, {"name": "ask_b", "arguments": {"message": "2"}}, {"name": "ask_b", "arguments": {"message": "3"}}]}', "They say: {{ results | map(attribute='content') | join(', ') }}"]
b = ["I was asked {{ input }}, and this is what I say of it."]
"#;

#[test]
fn a_run_prints_what_its_models_say_as_they_say_it() {
    let in_process = format!("{}{SCRIPT}", NETWORK.replace("@MODEL@", "provider = \"sim\""));
    let world = World::new(&in_process);
    let stdout = world.ask_for(0, &["run", "n.toml", "go", "--events"]);
    let calls = printed(&stdout);
    assert_eq!(calls.len(), 5, "{stdout}");
    for (call, (said, reply)) in &calls {
        assert_eq!(said, reply, "{call}");
    }
    let delegates = calls.iter().filter(|(call, _)| call.starts_with("a/b."));
    assert!(delegates.into_iter().all(|(_, (said, _))| said.starts_with("I was asked")), "{calls:?}");
    assert!(stdout.matches("\"kind\":\"tokens\"").count() > 2 * calls.len(), "in pieces: {stdout}");
    // What was said is not kept.
    assert!(!world.ask_for(0, &["runs", "show", "last", "--events"]).contains("\"kind\":\"tokens\""));
    assert!(!world.ask_for(0, &["runs", "watch", "last", "--events"]).contains("\"kind\":\"tokens\""));

    let server = World::new(&in_process);
    let server = SimServer::start(&["--network", server.path().join("n.toml").to_str().unwrap()]);
    let model = format!("provider = \"openai\"\nbase_url = \"{}\"", server.base_url);
    let over_http = World::new(&NETWORK.replace("@MODEL@", &model));
    let (code, stdout, stderr) = output(over_http.path(), &["run", "n.toml", "go", "--events"]);
    assert_eq!(code, Some(0), "{stderr}");
    let over_http = printed(&stdout);
    assert!(over_http.values().all(|(said, reply)| said == reply), "{over_http:?}");
    assert_eq!(over_http.len(), 5, "{stdout}");
}
