//! The provider against servers that answer well, badly, late or not at all.

mod real;

use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::model::http::{BEFORE_THE_FIRST_TOKEN, BETWEEN_TOKENS, CONNECTING};
use crate::model::testing::{
    Answer, STREAM_HEAD, assistant, check, http, json_answer, offer, read_request, request, serve, stream_answer,
    tool_result, user,
};
use crate::model::{Finish, Request};
use crate::run::{ToolCall, Usage};
use crate::spec::{Span, Timeouts, ToolCalls};

const KEY: &str = "sk-very-secret";
const PROMPT: &str = "the secret prompt";

fn spec(base_url: &str, stream: bool) -> ModelSpec {
    let second = Span::from_secs(20);
    let timeouts = Timeouts { connect: second, first_token: second, between_tokens: second, call: None };
    ModelSpec {
        base_url: Some(base_url.to_owned()),
        model: Some("m".to_owned()),
        stream,
        timeouts,
        ..Default::default()
    }
}

fn provider(spec: &ModelSpec) -> OpenAi {
    OpenAi::new(spec, Some(SecretString::from(KEY))).unwrap()
}

fn asking() -> Request {
    let mut request = request("Be brief.", vec![user(PROMPT)]);
    request.tools = [offer("list"), offer("read")].into();
    request
}

/// Asks a server that answers so, and returns the reply with what was told of its progress.
async fn ask(answer: Answer, stream: bool) -> Result<(Reply, String), Error> {
    let (base_url, _asked) = serve(answer).await;
    ask_at(&spec(&base_url, stream)).await
}

async fn ask_at(spec: &ModelSpec) -> Result<(Reply, String), Error> {
    let told = Mutex::new(String::new());
    let reply = provider(spec).call(&asking(), &|text| told.lock().unwrap().push_str(text)).await;
    let told = told.into_inner().unwrap();
    match reply {
        Ok(reply) => Ok((reply, told)),
        Err(error) => {
            let said = format!("{error} {error:?}");
            assert!(!said.contains(KEY) && !said.contains(PROMPT) && !said.contains("Bearer"), "{said}");
            Err(error)
        }
    }
}

fn call(name: &str, arguments: &str) -> ToolCall {
    ToolCall { name: name.to_owned(), arguments: arguments.to_owned() }
}

const DELTAS: &str = concat!(
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n",
    ": keep-alive\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"}}]}\n\n",
);
const FINISH: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const USED: Usage = Usage { input_tokens: 9, cached_input_tokens: 4, cache_write_tokens: 0, output_tokens: 2 };

#[tokio::test]
async fn a_whole_answer_is_read() {
    let body = json!({
        "choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
    });
    let (reply, told) = ask(json_answer(&body.to_string()), false).await.unwrap();
    assert_eq!(reply, Reply { text: "Hello".into(), usage: Some(USED), finish: Finish::Length, ..Reply::default() });
    assert_eq!(told, "");
}

#[tokio::test]
async fn what_is_sent_is_authorised_and_in_the_dialect() {
    let (base_url, asked) = serve(json_answer("{}")).await;
    let mut request = asking();
    request.messages.push(assistant("", &[("s00010000", "list", "no JSON")]));
    request.messages.push(tool_result("s00010000", "list", "an error"));
    let _ = provider(&spec(&format!("{base_url}/"), true)).call(&request, &|_| {}).await;
    let asked = asked.await.unwrap();
    let (head, body) = asked.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains(&format!("\r\nauthorization: bearer {KEY}")), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["model"], &body["stream"], &body["max_tokens"]), (&json!("m"), &json!(true), &json!(100)));
    assert_eq!(body["messages"][2]["tool_calls"][0]["function"]["arguments"], "{}");
}

#[tokio::test]
async fn a_stream_is_read_as_it_comes() {
    let (reply, told) = ask(stream_answer(&[DELTAS, FINISH, USAGE, DONE].concat()), true).await.unwrap();
    assert_eq!(reply, Reply { text: "Hello".into(), usage: Some(USED), ..Reply::default() });
    assert_eq!(told, "Hello");
}

#[tokio::test]
async fn either_end_of_a_stream_is_one() {
    for end in [FINISH.to_owned(), DONE.to_owned(), [FINISH, DONE].concat(), FINISH.trim_end().to_owned()] {
        let (reply, _) = ask(stream_answer(&[DELTAS, &end].concat()), true).await.unwrap();
        assert_eq!((reply.text.as_str(), reply.usage), ("Hello", None), "{end}");
    }
}

#[tokio::test]
async fn tool_calls_are_put_together_from_their_pieces() {
    let piece =
        |call: Value| format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}));
    let body = [
        piece(json!({"index": 0, "id": "a", "type": "function", "function": {"name": "list", "arguments": ""}})),
        piece(json!({"index": 0, "function": {"arguments": "{\"path\""}})),
        piece(json!({"index": 0, "function": {"arguments": ":\".\"}"}})),
        piece(json!({"index": 1, "id": "b", "type": "function", "function": {"name": "read", "arguments": "{}"}})),
        FINISH.replace("stop", "tool_calls"),
        DONE.to_owned(),
    ];
    let (reply, _) = ask(stream_answer(&body.concat()), true).await.unwrap();
    assert_eq!(reply.tool_calls, [call("list", "{\"path\":\".\"}"), call("read", "{}")]);
}

#[tokio::test]
async fn a_server_that_does_not_do_as_it_is_asked_is_understood() {
    let whole = json!({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}).to_string();
    let (reply, told) = ask(json_answer(&whole), true).await.unwrap();
    assert_eq!((reply.text.as_str(), told.as_str()), ("Hello", "Hello"));
    let (reply, _) = ask(stream_answer(&[DELTAS, FINISH].concat()), false).await.unwrap();
    assert_eq!(reply.text, "Hello");
    let unnamed = http("200 OK", "", &[DELTAS, FINISH].concat());
    assert_eq!(ask(unnamed, true).await.unwrap().0.text, "Hello");
}

#[tokio::test]
async fn a_call_written_as_text_is_a_call() {
    let text = "```json\n{\"name\": \"list\", \"arguments\": {\"path\": \".\"}}\n```";
    let body = json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).to_string();
    let (reply, _) = ask(json_answer(&body), false).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.tool_calls), ("", vec![call("list", "{\"path\":\".\"}")]));
}

#[tokio::test]
async fn in_schema_mode_the_object_is_the_call_or_the_answer() {
    for stream in [true, false] {
        for (text, expected, told_text) in [
            ("{\"tool\":\"list\",\"arguments\":{}}", (vec![call("list", "{}")], "", false), ""),
            ("{\"answer\":\"two\"}", (vec![], "two", false), "two"),
            ("two", (vec![], "two", true), ""),
        ] {
            let body = json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).to_string();
            let (base_url, asked) = serve(json_answer(&body)).await;
            let spec = ModelSpec { tool_calls: ToolCalls::Schema, ..spec(&base_url, stream) };
            let (reply, told) = ask_at(&spec).await.unwrap();
            assert_eq!((reply.tool_calls, reply.text.as_str(), reply.malformed.is_some()), expected);
            assert_eq!(told, told_text);
            let asked = asked.await.unwrap();
            assert!(asked.contains("\"json_schema\"") && !asked.contains("\"tools\""), "{asked}");
        }
    }
}

#[tokio::test]
async fn what_is_no_answer_is_shown_with_a_hint() {
    let html = "<html><body>Welcome to nginx!</body></html>";
    let html_answer = || http("200 OK", "content-type: text/html\r\n", html);
    for stream in [true, false] {
        check(
            &ask(html_answer(), stream).await.unwrap_err(),
            "Foreign",
            "Welcome to nginx!</body></html>`; is base_url right?",
        );
        check(&ask(http("200 OK", "", ""), stream).await.unwrap_err(), "Malformed", "it is empty");
        check(&ask(json_answer(""), stream).await.unwrap_err(), "Malformed", "it is empty");
        for body in [
            "[]",
            "{\"choices\":[{\"mess",
            "{}",
            "null",
            "42",
            "{\"choices\":[]}",
            "{\"choices\":[{\"message\":\"a\"}]}",
        ] {
            let kind = if body.starts_with('{') { "Malformed" } else { "Foreign" };
            check(&ask(json_answer(body), stream).await.unwrap_err(), kind, "usually ends in /v1");
            if stream {
                check(&ask(http("200 OK", "", body), stream).await.unwrap_err(), kind, "usually ends in /v1");
            }
        }
    }
    for junk in [
        "",
        "<html>junk\n\n",
        "data: junk\n\n",
        "data: {\"half\": \n\n",
        "data: []\n\n",
        "data: [DONE]\n\n",
        "\0\u{1}\n\n",
    ] {
        let error = ask(stream_answer(junk), true).await.unwrap_err();
        assert!(matches!(error, Error::Malformed { .. } | Error::Foreign { .. }), "{error:?}");
        assert!(error.to_string().contains("base_url"), "{error}");
    }
    let error = ask(stream_answer(&[DELTAS, USAGE, "data: junk\n\n"].concat()), true).await.unwrap_err();
    assert_eq!(error.usage(), Some(USED));
}

#[tokio::test]
async fn an_event_of_no_known_kind_does_no_harm() {
    let odd = "event: ping\ndata: {\"type\":\"ping\"}\n\ndata:\n\ndata: {\"choices\":[{\"delta\":null}]}\n\n";
    let (reply, _) = ask(stream_answer(&[odd, DELTAS, odd, FINISH].concat()), true).await.unwrap();
    assert_eq!(reply.text, "Hello");
}

#[tokio::test]
async fn an_answer_without_an_end_is_given_up() {
    let line = vec![b'x'; 64 * 1024];
    let head = STREAM_HEAD.as_bytes().to_vec();
    let error = ask(Answer::Endless(head, line.clone()), true).await.unwrap_err();
    check(&error, "Malformed", "longer than 16777216 bytes");
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n".to_vec();
    check(
        &ask(Answer::Endless(head, line.clone()), false).await.unwrap_err(),
        "Malformed",
        "longer than 16777216 bytes",
    );
    let head = b"HTTP/1.1 500 Oh\r\nconnection: close\r\n\r\n".to_vec();
    check(&ask(Answer::Endless(head, line), false).await.unwrap_err(), "Overloaded", "xxx…");
}

#[tokio::test]
async fn a_stream_that_stops_is_cut() {
    let error = ask(stream_answer(DELTAS), true).await.unwrap_err();
    check(&error, "Cut", "before the model was done");
    assert!(error.is_transient() && error.may_be_billed());
    let error = ask(stream_answer(&[DELTAS, USAGE].concat()), true).await.unwrap_err();
    assert_eq!(error.usage(), Some(USED));
    // What was counted with a piece, or before others, is less than what was cut off.
    let counting = DELTAS.replacen(
        "\"finish_reason\":null}]",
        "\"finish_reason\":null}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}",
        1,
    );
    for early in [counting, [USAGE, DELTAS].concat()] {
        assert_eq!(ask(stream_answer(&early), true).await.unwrap_err().usage(), None);
    }
    // Half of a chunk, half of a body, and no answer at all after the request.
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nffff\r\n";
    check(&ask(Answer::Bytes([chunked, DELTAS].concat().into_bytes()), true).await.unwrap_err(), "Cut", "");
    let half = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"cho".to_vec();
    check(&ask(Answer::Bytes(half), false).await.unwrap_err(), "Cut { received: 5", "");
    let error = ask(Answer::Bytes(Vec::new()), true).await.unwrap_err();
    check(&error, "Cut { received: 0", "");
    assert!(error.may_be_billed());
}

#[tokio::test]
async fn a_stream_may_end_after_any_byte() {
    let body = [DELTAS, FINISH, USAGE, DONE].concat();
    for end in 0..body.len() {
        match ask(stream_answer(&body[..end]), true).await {
            Ok((reply, told)) => assert_eq!((reply.text.as_str(), told.as_str()), ("Hello", "Hello"), "{end}"),
            Err(Error::Cut { .. }) => assert!(end >= DELTAS.find(": keep").unwrap() - 2, "{end}"),
            Err(error) => check(&error, "Malformed", "base_url"),
        }
    }
}

#[tokio::test]
async fn a_finished_answer_stands_whatever_the_stream_does() {
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nffff\r\n";
    let body = [chunked, DELTAS, FINISH].concat().into_bytes();
    assert_eq!(ask(Answer::Bytes(body), true).await.unwrap().0.text, "Hello");
    let (base_url, _asked) = serve(Answer::Stall([STREAM_HEAD, DELTAS, FINISH].concat().into_bytes())).await;
    let mut spec = spec(&base_url, true);
    spec.timeouts.between_tokens = Span::from_millis(50);
    assert_eq!(ask_at(&spec).await.unwrap().0.text, "Hello");
}

#[tokio::test]
async fn a_stall_is_a_timeout_with_its_stage() {
    let short = Span::from_millis(50);
    let first = Timeouts { first_token: short, ..spec("", true).timeouts };
    let between = Timeouts { between_tokens: short, ..first };
    let between = Timeouts { first_token: Span::from_secs(20), ..between };
    let role = DELTAS.split_once(": keep").unwrap().0;
    for (answer, stream, timeouts, stage) in [
        (String::new(), true, first, BEFORE_THE_FIRST_TOKEN),
        (STREAM_HEAD.to_owned(), true, first, BEFORE_THE_FIRST_TOKEN),
        ([STREAM_HEAD, role].concat(), true, first, BEFORE_THE_FIRST_TOKEN),
        ([STREAM_HEAD, DELTAS].concat(), true, between, BETWEEN_TOKENS),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_owned(), false, first, BEFORE_THE_FIRST_TOKEN),
    ] {
        let (base_url, _asked) = serve(Answer::Stall(answer.into_bytes())).await;
        let error = ask_at(&ModelSpec { timeouts, ..spec(&base_url, stream) }).await.unwrap_err();
        check(&error, "Timeout", stage);
    }
}

#[tokio::test]
async fn a_drip_of_comments_is_no_sign_of_life() {
    let (base_url, _asked) = serve(Answer::Endless([STREAM_HEAD, DELTAS].concat().into_bytes(), b":\n".to_vec())).await;
    let mut spec = spec(&base_url, true);
    spec.timeouts.between_tokens = Span::from_millis(50);
    check(&ask_at(&spec).await.unwrap_err(), "Timeout", BETWEEN_TOKENS);
}

#[tokio::test]
async fn a_handshake_that_hangs_is_a_timeout_of_connecting() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut spec = spec(&format!("https://{}/v1", listener.local_addr().unwrap()), true);
    spec.timeouts.connect = Span::from_millis(50);
    let error = ask_at(&spec).await.unwrap_err();
    check(&error, "Timeout", CONNECTING);
    assert!(!error.may_be_billed());
}

#[tokio::test]
async fn a_refused_connection_says_where_it_was_to_go() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = ask_at(&spec(&format!("http://{address}/v1?token=abc"), true)).await.unwrap_err();
    check(&error, "Transport", &format!("http://{address}/v1/chat/completions\""));
    check(&error, "Transport", "onnection refused");
    assert!(!error.to_string().contains("abc") && !error.may_be_billed());
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let said = json!({"error": {"message": format!("Incorrect API key provided: {KEY}."), "code": "invalid_api_key"}});
    let error = ask(http("401 Unauthorized", "", &said.to_string()), true).await.unwrap_err();
    check(&error, "Auth { status: 401", "Incorrect API key provided: [key].");
    let error = ask(http("429 Too Many Requests", "retry-after: 7\r\n", "{}"), true).await.unwrap_err();
    assert_eq!((error.retry_after(), error.is_transient()), (Some(Duration::from_secs(7)), true));
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3600);
    let soon = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&soon).unwrap();
    let error = ask(http("429 Too Many Requests", &format!("retry-after: {soon}\r\n"), ""), true).await.unwrap_err();
    let pause = error.retry_after().unwrap_or_default();
    assert!((3000..=3600).contains(&pause.as_secs()), "{pause:?}");
    let error = ask(http("503 Unavailable", "retry-after-ms: 20\r\n", "<p>sorry</p>"), false).await.unwrap_err();
    check(&error, "Overloaded { status: 503", "sorry");
    assert_eq!(error.retry_after(), Some(Duration::from_millis(20)));
    check(&ask(http("404 Not Found", "", "no page"), true).await.unwrap_err(), "BadRequest { status: 404", "base_url");
    let moved = http("301 Moved", "location: https://example.com/\r\n", "");
    check(&ask(moved, true).await.unwrap_err(), "BadRequest { status: 301", "redirects to https://example.com/");
}

#[tokio::test]
async fn an_error_within_a_success_is_one() {
    let error = |code: Value| json!({"error": {"message": "sorry", "code": code}}).to_string();
    check(&ask(json_answer(&error(json!(429))), false).await.unwrap_err(), "RateLimited", "");
    check(&ask(json_answer(&error(json!(502))), true).await.unwrap_err(), "Overloaded { status: 502", "sorry");
    let event = |code: Value| format!("data: {}\n\n", error(code));
    check(&ask(stream_answer(&event(json!("rate_limit_exceeded"))), true).await.unwrap_err(), "RateLimited", "");
    check(&ask(stream_answer(&event(Value::Null)), true).await.unwrap_err(), "Overloaded", "sorry");
    let late = stream_answer(&[DELTAS, &event(json!(429))].concat());
    check(&ask(late, true).await.unwrap_err(), "Cut", "sorry");
    let vllm = json!({"object": "error", "message": "sorry", "code": 400}).to_string();
    check(&ask(json_answer(&vllm), false).await.unwrap_err(), "BadRequest { status: 400", "sorry");
}

#[tokio::test]
async fn a_usage_that_can_not_be_true_is_none() {
    let body = json!({
        "choices": [{"message": {"content": "a"}}],
        "usage": {"prompt_tokens": -5, "completion_tokens": -1},
    });
    let (reply, _) = ask(json_answer(&body.to_string()), false).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.usage), ("a", None));
    let usage = USAGE.replace(":9,", ":-9,");
    let (reply, _) = ask(stream_answer(&[DELTAS, FINISH, &usage].concat()), true).await.unwrap();
    assert_eq!(reply.usage, None);
}

#[tokio::test]
async fn dropping_the_call_closes_the_connection() {
    for begun in ["", STREAM_HEAD, &[STREAM_HEAD, DELTAS].concat()] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let provider = provider(&spec(&base_url, true));
        let request = asking();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            stream.write_all(begun.as_bytes()).await.unwrap();
            stream
        };
        // The call is dropped where it stands when the server has answered as far as it will.
        let mut stream = tokio::select! {
            _ = provider.call(&request, &|_| {}) => panic!("the call came to an end"),
            stream = serving => stream,
        };
        let closed = stream.read(&mut [0; 16]).await;
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
}

#[test]
fn what_can_not_be_called_is_refused_and_shows_no_secret() {
    let refused = |base_url: &str, key: &str| {
        let error = OpenAi::new(&spec(base_url, true), Some(SecretString::from(key))).err().unwrap().to_string();
        assert!(!error.contains("hidden"), "{error}");
        error
    };
    assert!(refused("localhost:8080/v1", "k").contains("http://"));
    assert!(refused("ftp://a/v1", "k").contains("not ftp:"));
    assert!(refused("", "k").contains("base_url"));
    assert!(refused("http://me:hidden@:x", "k").contains("base_url"));
    assert!(refused("https://me:hidden@a/v1", "k").contains("api_key"));
    assert!(refused("http://a/v1", "hidden\nkey").contains("line break"));
}
