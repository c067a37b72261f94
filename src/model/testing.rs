//! Requests for the tests of this room, and servers that answer one of them well or badly.

use std::sync::Arc;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::{Error, Offer, Request};
use crate::run::{AgentId, Body, CallId, Labels, Message, Origin, RunId, ToolCall};

pub(super) fn request(system: &str, messages: Vec<Arc<Message>>) -> Request {
    Request {
        run: RunId::new("run"),
        agent: "scout".into(),
        call: CallId::model(&AgentId::new("scout"), 1),
        attempt: 1,
        system: system.into(),
        messages,
        tools: [].into(),
        output_schema: None,
        max_output_tokens: 100,
    }
}

pub(super) fn offer(name: &str) -> Offer {
    Offer {
        name: name.to_owned(),
        description: format!("Does {name}."),
        parameters: Arc::new(
            json!({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}),
        ),
    }
}

pub(super) fn user(text: &str) -> Arc<Message> {
    message(Body::User { text: text.to_owned() }, Origin::Input)
}

pub(super) fn assistant(text: &str, calls: &[(&str, &str, &str)]) -> Arc<Message> {
    let call = |name: &str, arguments: &str| ToolCall { name: name.to_owned(), arguments: arguments.to_owned() };
    let tool_calls = calls.iter().map(|(id, name, arguments)| ((*id).to_owned(), call(name, arguments))).collect();
    message(Body::Assistant { text: text.to_owned(), tool_calls }, Origin::Model("m".to_owned()))
}

pub(super) fn tool_result(id: &str, name: &str, content: &str) -> Arc<Message> {
    let body = Body::Tool { id: id.to_owned(), name: name.to_owned(), content: content.to_owned(), failed: false };
    message(body, Origin::Tool(name.to_owned()))
}

fn message(body: Body, origin: Origin) -> Arc<Message> {
    Arc::new(Message { body, labels: Labels::default(), origin })
}

/// What a server does with one connection, once it has read the request.
pub(super) enum Answer {
    /// It writes this and closes.
    Bytes(Vec<u8>),
    /// It writes this and then nothing more.
    Stall(Vec<u8>),
    /// It writes this, and then the second for ever.
    Endless(Vec<u8>, Vec<u8>),
}

/// Serves one connection; returns the address where the API begins, and what was asked.
pub(super) async fn serve(answer: Answer) -> (String, oneshot::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, receiver) = oneshot::channel();
    #[expect(clippy::disallowed_methods, reason = "a server for one test, which ends with the test's runtime")]
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = asked.send(read_request(&mut stream).await);
        match answer {
            Answer::Bytes(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
            }
            Answer::Stall(bytes) => {
                let _ = stream.write_all(&bytes).await;
                std::future::pending::<()>().await;
            }
            Answer::Endless(bytes, more) => {
                let _ = stream.write_all(&bytes).await;
                while stream.write_all(&more).await.is_ok() {}
            }
        }
    });
    (format!("http://{address}/v1"), receiver)
}

/// Reads a request's head and as much body as the head promises.
pub(super) async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).await.unwrap();
        bytes.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if n == 0 || body.len() >= length.unwrap_or(0usize) {
                return text;
            }
        }
        assert_ne!(n, 0, "the request was cut: {text}");
    }
}

pub(super) fn http(status: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    Answer::Bytes(format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}").into_bytes())
}

pub(super) fn json_answer(body: &str) -> Answer {
    http("200 OK", "content-type: application/json\r\n", body)
}

pub(super) const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

pub(super) fn stream_answer(body: &str) -> Answer {
    Answer::Bytes(format!("{STREAM_HEAD}{body}").into_bytes())
}

#[track_caller]
pub(super) fn check(error: &Error, variant: &str, words: &str) {
    let said = format!("{error:?}");
    assert!(said.starts_with(variant) && said.contains(words), "{said}");
}
