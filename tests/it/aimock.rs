//! The OpenAI provider against an independent mock of its dialect, npm's `@copilotkit/aimock`.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use provost::model::{Error, Offer, OpenAi, Provider, Reply, Request};
use provost::run::{AgentId, Body, CallId, Labels, Message, Origin, RunId, ToolCall};
use provost::spec::{ModelSpec, ToolCalls};
use serde_json::{Value, json};

/// A running mock, which ends with its test.
struct Mock {
    child: Child,
    base_url: String,
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
            let mut mock = Self { child, base_url: format!("http://127.0.0.1:{port}/v1") };
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

    fn spec(&self, stream: bool) -> ModelSpec {
        let base_url = Some(self.base_url.clone());
        ModelSpec { base_url, model: Some("gpt-5-mini".to_owned()), stream, ..ModelSpec::default() }
    }

    async fn ask(&self, stream: bool, request: &Request) -> (Result<Reply, Error>, String) {
        ask(&self.spec(stream), request).await
    }
}

async fn ask(spec: &ModelSpec, request: &Request) -> (Result<Reply, Error>, String) {
    let told = Mutex::new(String::new());
    let reply = OpenAi::new(spec, None).unwrap().call(request, &|text| told.lock().unwrap().push_str(text)).await;
    (reply, told.into_inner().unwrap())
}

/// Finds a port below those that outgoing connections are given.
pub(crate) fn free_port() -> u16 {
    let from = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    (from..32_000).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
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
async fn a_provider_understands_an_independent_mock() {
    let Some(mock) = Mock::start() else { return };
    for stream in [true, false] {
        texts_and_usage(&mock, stream).await;
        tools(&mock, stream).await;
        schemas(&mock, stream).await;
        failures(&mock, stream).await;
    }
}

async fn texts_and_usage(mock: &Mock, stream: bool) {
    let (reply, told) = mock.ask(stream, &request("hello", &[])).await;
    let reply = reply.unwrap();
    assert_eq!(reply.text, "Hello! This answer is long enough to come in several pieces.");
    assert_eq!(told, if stream { reply.text.as_str() } else { "" });
    assert!(reply.usage.is_some_and(|usage| usage.input_tokens > 0 && usage.output_tokens > 0), "{reply:?}");
}

async fn tools(mock: &Mock, stream: bool) {
    let mut request = request("weather", &["weather", "clock"]);
    let reply = mock.ask(stream, &request).await.0.unwrap();
    let names: Vec<&str> = reply.tool_calls.iter().map(|call| call.name.as_str()).collect();
    assert_eq!(names, ["weather", "clock"]);
    assert_eq!(arguments(&reply.tool_calls[0]), json!({"city": "Basel"}));
    assert_eq!(arguments(&reply.tool_calls[1]), json!({}));

    let ids = ["s00010000", "s00010001"].map(str::to_owned);
    let tool_calls = ids.iter().cloned().zip(reply.tool_calls).collect();
    request.messages.push(message(Body::Assistant { text: String::new(), tool_calls }));
    for (id, name, content) in [(&ids[1], "clock", "noon"), (&ids[0], "weather", "rain")] {
        let (id, name, content) = (id.clone(), name.to_owned(), content.to_owned());
        request.messages.push(message(Body::Tool { id, name, content, failed: false }));
    }
    assert_eq!(mock.ask(stream, &request).await.0.unwrap().text, "Take an umbrella.");
}

async fn schemas(mock: &Mock, stream: bool) {
    let mut counting = request("count", &[]);
    counting.output_schema = Some(Arc::new(json!({"type": "object", "properties": {"count": {"type": "integer"}}})));
    assert_eq!(mock.ask(stream, &counting).await.0.unwrap().text, "{\"count\": 2}");

    let spec = ModelSpec { tool_calls: ToolCalls::Schema, ..mock.spec(stream) };
    let reply = ask(&spec, &request("step", &["weather"])).await.0.unwrap();
    assert_eq!(arguments(&reply.tool_calls[0]), json!({"city": "Basel"}));
}

async fn failures(mock: &Mock, stream: bool) {
    let fail = async |input: &str| mock.ask(stream, &request(input, &[])).await.0.unwrap_err();
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
    if stream {
        let error = fail("cut").await;
        assert!(matches!(error, Error::Cut { received: 1.., .. }), "{error:?}");
    }
}
