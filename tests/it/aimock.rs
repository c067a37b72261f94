//! The providers against an independent mock of their dialects, npm's `@copilotkit/aimock`.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use provost::model::{self, Error, Finish, Offer, Reply, Request};
use provost::run::{AgentId, Body, CallId, Labels, Message, Origin, RunId, Status, ToolCall, Usage};
use provost::runtime::Runtime;
use provost::spec::{AgentSpec, Builtin, ModelSpec, Network, NetworkSpec, ProviderKind, SimSpec, ToolCalls, ToolSpec};
use serde_json::{Value, json};

/// A running mock, which ends with its test.
struct Mock {
    child: Child,
    root: String,
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Mock {
    /// Starts a mock, or says why it can't and returns none.
    fn start() -> Option<Self> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let program = std::env::var_os("PROVOST_AIMOCK").map(PathBuf::from);
        let program = program.unwrap_or_else(|| root.join("node_modules/.bin/llmock"));
        if !program.exists() {
            let why = format!("skipped: there is no {}; `just fixtures` installs it\n", program.display());
            assert!(std::env::var_os("PROVOST_REQUIRE_FIXTURES").is_none(), "{why}");
            // Past the capturing of what passed tests print: a test that is skipped must say so.
            let _ = std::io::stderr().write_all(why.as_bytes());
            return None;
        }
        // Between looking for a free port and taking it, somebody else may have taken it.
        (0..5).find_map(|_| {
            let port = free_port();
            let child = Command::new(&program)
                .args(["--strict", "--log-level", "silent", "-p", &port.to_string(), "-f"])
                .arg(root.join("tests/fixtures/aimock"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let mut mock = Self { child, root: format!("http://127.0.0.1:{port}") };
            mock.wait(port).then_some(mock)
        })
    }

    /// Waits until the mock listens; false if it has ended.
    fn wait(&mut self, port: u16) -> bool {
        for _ in 0..600 {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return true;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("the mock does not listen on port {port}");
    }

    fn spec(&self, provider: ProviderKind, stream: bool) -> ModelSpec {
        let path = match provider {
            ProviderKind::Gemini => "/v1beta",
            ProviderKind::Bedrock | ProviderKind::Ollama => "",
            _ => "/v1",
        };
        let (base_url, model) = (Some(format!("{}{path}", self.root)), Some("some-model".to_owned()));
        ModelSpec { provider: Some(provider), base_url, model, stream, ..ModelSpec::default() }
    }
}

async fn ask(spec: &ModelSpec, request: &Request) -> (Result<Reply, Error>, String) {
    let told = Mutex::new(String::new());
    let provider = model::provider(spec, &SimSpec::default()).unwrap();
    let reply = provider.call(request, &|text| told.lock().unwrap().push_str(text)).await;
    (reply, told.into_inner().unwrap())
}

/// Finds a port below those that outgoing connections are given, and another one each time.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let from = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    let mut ports = std::iter::repeat_with(|| from + NEXT.fetch_add(1, Ordering::Relaxed)).take(1_000);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

fn request(input: &str, tools: &[&str]) -> Request {
    let offer = |name: &&str| Offer {
        name: (*name).to_owned(),
        description: "A tool.".to_owned(),
        parameters: Arc::new(json!({"type": "object", "properties": {"city": {"type": "string"}}})),
    };
    Request {
        run: RunId::new("run"),
        agent: "scout".into(),
        call: CallId::model(&AgentId::new("scout"), 1),
        attempt: 1,
        system: "Be brief.".into(),
        messages: vec![message(Body::User { text: input.to_owned() })],
        tools: tools.iter().map(offer).collect(),
        output_schema: None,
        max_output_tokens: 100,
    }
}

fn message(body: Body) -> Arc<Message> {
    Arc::new(Message { body, labels: Labels::default(), origin: Origin::Input })
}

fn arguments(call: &ToolCall) -> Value {
    serde_json::from_str(&call.arguments).unwrap()
}

#[tokio::test]
async fn the_chat_completions_dialect_is_understood_as_an_independent_mock_has_it() {
    let Some(mock) = Mock::start() else { return };
    for stream in [true, false] {
        let spec = mock.spec(ProviderKind::Openai, stream);
        let reply = texts(&spec, "hello").await;
        assert!(reply.usage.is_some_and(|usage| usage.input_tokens > 0 && usage.output_tokens > 0), "{reply:?}");
        tools(&spec).await;
        structured(&spec, "count").await;
        held_to_a_schema(&spec, "step").await;
        failures(&spec).await;
    }
}

#[tokio::test]
async fn the_messages_dialect_is_understood_as_an_independent_mock_has_it() {
    let Some(mock) = Mock::start() else { return };
    for stream in [true, false] {
        let spec = mock.spec(ProviderKind::Anthropic, stream);
        // What it thinks beforehand is no part of its answer.
        let reply = texts(&spec, "bonjour").await;
        let used = Usage { input_tokens: 21, cached_input_tokens: 0, output_tokens: 13, ..Usage::default() };
        assert_eq!((reply.usage, reply.finish), (Some(used), Finish::Stop));
        tools(&spec).await;
        structured(&spec, "tally").await;
        held_to_a_schema(&spec, "stride").await;
        failures(&spec).await;
        let error = ask(&spec, &request("busy", &[])).await.0.unwrap_err();
        assert!(matches!(error, Error::Overloaded { status: 529, .. }) && error.is_transient(), "{error:?}");
        for (input, finish) in [("endless", Finish::Length), ("indecent", Finish::Filtered)] {
            assert_eq!(ask(&spec, &request(input, &[])).await.0.unwrap().finish, finish, "{input}");
        }
    }
}

#[cfg(feature = "genai")]
#[tokio::test]
async fn the_dialects_that_genai_speaks_are_understood_as_an_independent_mock_has_them() {
    let Some(mock) = Mock::start() else { return };
    for (provider, stream) in all_through_genai() {
        println!("{provider:?}, streamed: {stream}");
        let spec = mock.spec(provider, stream);
        let reply = texts(&spec, "hello").await;
        assert!(reply.usage.is_none_or(|usage| usage.tokens() > 0), "{reply:?}");
        tools(&spec).await;
        structured(&spec, "reckon").await;
        held_to_a_schema(&spec, "stride").await;
        failures(&spec).await;
    }
}

#[cfg(feature = "genai")]
fn all_through_genai() -> impl Iterator<Item = (ProviderKind, bool)> {
    let kinds = [ProviderKind::Gemini, ProviderKind::Bedrock, ProviderKind::Ollama, ProviderKind::OpenaiResponses];
    kinds.into_iter().flat_map(|kind| [(kind, true), (kind, false)])
}

#[tokio::test]
async fn a_network_runs_on_the_messages_dialect() {
    let Some(mock) = Mock::start() else { return };
    for stream in [true, false] {
        a_network_runs_on(mock.spec(ProviderKind::Anthropic, stream)).await;
    }
}

#[cfg(feature = "genai")]
#[tokio::test]
async fn a_network_runs_on_the_dialects_that_genai_speaks() {
    let Some(mock) = Mock::start() else { return };
    for (provider, stream) in all_through_genai() {
        println!("{provider:?}, streamed: {stream}");
        a_network_runs_on(mock.spec(provider, stream)).await;
    }
}

async fn a_network_runs_on(model: ModelSpec) {
    let mut spec = NetworkSpec::default();
    (spec.network.name, spec.network.entry) = ("clock".to_owned(), "a".to_owned());
    spec.models.insert("m".to_owned(), model);
    spec.tools.insert("now".to_owned(), ToolSpec { builtin: Some(Builtin::ClockNow), ..ToolSpec::default() });
    spec.agents.insert("a".to_owned(), AgentSpec { tools: vec!["now".to_owned()], ..AgentSpec::new("Be brief.") });
    let runtime = Runtime::builder(Network::new(spec).unwrap()).start().await.unwrap();
    let report = runtime.run("Tell me the hour.").await.unwrap();
    assert_eq!((report.status, report.usage.model_calls, report.usage.tool_calls), (Status::Done, 2, 2), "{report:?}");
    assert!(format!("{:?}", report.answer).contains("It is late."), "{report:?}");
    runtime.shutdown().await;
}

async fn texts(spec: &ModelSpec, input: &str) -> Reply {
    let (reply, told) = ask(spec, &request(input, &[])).await;
    let reply = reply.unwrap();
    assert!(reply.text.ends_with("! This answer is long enough to come in several pieces."), "{reply:?}");
    assert_eq!(told, if spec.stream { reply.text.as_str() } else { "" });
    reply
}

async fn tools(spec: &ModelSpec) {
    let mut request = request("weather", &["weather", "clock"]);
    let reply = ask(spec, &request).await.0.unwrap();
    let names: Vec<&str> = reply.tool_calls.iter().map(|call| call.name.as_str()).collect();
    assert_eq!(names, ["weather", "clock"]);
    assert_eq!(arguments(&reply.tool_calls[0]), json!({"city": "Basel"}));
    assert_eq!(arguments(&reply.tool_calls[1]), json!({}));

    let ids = ["s00010000", "s00010001"].map(str::to_owned);
    let tool_calls = ids.iter().cloned().zip(reply.tool_calls).collect();
    request.messages.push(message(Body::Assistant { text: String::new(), tool_calls }));
    // The mock looks at the last result, and a dialect may put them in the order of their calls.
    for (id, name, content) in [(&ids[1], "clock", "time for rain"), (&ids[0], "weather", "rain")] {
        let (id, name, content) = (id.clone(), name.to_owned(), content.to_owned());
        request.messages.push(message(Body::Tool { id, name, content, failed: false }));
    }
    let reply = ask(spec, &request).await.0.unwrap();
    assert_eq!(reply.text, "Take an umbrella.");
}

async fn structured(spec: &ModelSpec, input: &str) {
    let mut counting = request(input, &[]);
    counting.output_schema = Some(Arc::new(json!({"type": "object", "properties": {"count": {"type": "integer"}}})));
    let text = ask(spec, &counting).await.0.unwrap().text;
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({"count": 2}));
}

async fn held_to_a_schema(spec: &ModelSpec, input: &str) {
    let spec = ModelSpec { tool_calls: ToolCalls::Schema, ..spec.clone() };
    let reply = ask(&spec, &request(input, &["weather"])).await.0.unwrap();
    assert_eq!(arguments(&reply.tool_calls[0]), json!({"city": "Basel"}));
}

async fn failures(spec: &ModelSpec) {
    let fail = async |input: &str| ask(spec, &request(input, &[])).await.0.unwrap_err();
    let error = fail("limited").await;
    assert!(matches!(error, Error::RateLimited { retry_after: Some(after) } if after.as_secs() == 7), "{error:?}");
    let error = fail("unknown key").await;
    assert!(matches!(error, Error::Auth { status: 401, .. }), "{error:?}");
    let error = fail("too long").await;
    assert!(matches!(error, Error::ContextTooLong { .. }), "{error:?}");
    let error = fail("failing").await;
    assert!(matches!(error, Error::Overloaded { status: 503, .. }), "{error:?}");
    let error = fail("vanishing").await;
    assert!(matches!(error, Error::Cut { received: 0, .. }), "{error:?}");
    let error = fail("garbled").await;
    assert!(matches!(error, Error::Malformed { .. }), "{error:?}");
    // With `--strict` the mock refuses what it has no fixture for.
    let error = fail("something else").await;
    assert!(!error.to_string().is_empty(), "{error:?}");
    if spec.stream {
        let error = fail("cut").await;
        // The first three events of these dialects bring nothing that a model has written.
        let is_slow = matches!(spec.provider, Some(ProviderKind::Bedrock | ProviderKind::OpenaiResponses));
        let least = usize::from(!is_slow);
        assert!(matches!(error, Error::Cut { received, .. } if received >= least), "{error:?}");
    }
}
