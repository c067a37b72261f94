//! The provider against servers that answer well, badly, late or not at all.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::model::http::{BEFORE_THE_FIRST_TOKEN, BETWEEN_TOKENS, CONNECTING};
use crate::model::testing::{
    Answer, STREAM_HEAD, check, http, json_answer, offer, read_request, request, serve, stream_answer, user,
};
use crate::model::{Finish, Request};
use crate::run::{ToolCall, Usage};
use crate::spec::{Span, Timeouts, ToolCalls};

const KEY: &str = "sk-ant-very-secret";
const PROMPT: &str = "the secret prompt";

fn spec(base_url: &str, stream: bool) -> ModelSpec {
    let second = Span::from_secs(20);
    let timeouts = Timeouts { connect: second, first_token: second, between_tokens: second, call: None };
    let base_url = Some(base_url.to_owned());
    ModelSpec { base_url, model: Some("m".to_owned()), stream, timeouts, ..Default::default() }
}

fn provider(spec: &ModelSpec) -> Anthropic {
    Anthropic::new(spec, Some(SecretString::from(KEY))).unwrap()
}

fn asking() -> Request {
    let mut request = request("Be brief.", vec![user(PROMPT)]);
    request.tools = [offer("list"), offer("read")].into();
    request
}

/// Asks a server that answers so, and returns the reply with what was told of its progress.
async fn ask(answer: Answer, stream: bool) -> Result<(Reply, String), Error> {
    let (base_url, _asked) = serve(answer).await;
    ask_at(&spec(&base_url, stream), &asking()).await
}

async fn ask_at(spec: &ModelSpec, request: &Request) -> Result<(Reply, String), Error> {
    let told = Mutex::new(String::new());
    let reply = provider(spec).call(request, &|text| told.lock().unwrap().push_str(text)).await;
    let told = told.into_inner().unwrap();
    match reply {
        Ok(reply) => Ok((reply, told)),
        Err(error) => {
            let said = format!("{error} {error:?}");
            assert!(!said.contains(KEY) && !said.contains(PROMPT), "{said}");
            Err(error)
        }
    }
}

/// Writes events as the API does.
fn events(pieces: &[Value]) -> String {
    let event = |piece: &Value| format!("event: {}\ndata: {piece}\n\n", piece["type"].as_str().unwrap());
    pieces.iter().map(event).collect()
}

fn start() -> Value {
    let usage = json!({
        "input_tokens": 3, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 4, "output_tokens": 1,
    });
    json!({"type": "message_start", "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "content": [], "stop_reason": null, "usage": usage,
    }})
}

fn block(index: u64, block: Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn delta(index: u64, kind: &str, name: &str, text: &str) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": {"type": kind, name: text}})
}

fn stop(index: u64) -> Value {
    json!({"type": "content_block_stop", "index": index})
}

fn text(index: u64, pieces: &[&str]) -> Vec<Value> {
    let deltas = pieces.iter().map(|piece| delta(index, "text_delta", "text", piece));
    [block(index, json!({"type": "text", "text": ""}))].into_iter().chain(deltas).chain([stop(index)]).collect()
}

fn tool_use(index: u64, name: &str, pieces: &[&str]) -> Vec<Value> {
    let begin = json!({"type": "tool_use", "id": format!("toolu_{index}"), "name": name, "input": {}});
    let deltas = pieces.iter().map(|piece| delta(index, "input_json_delta", "partial_json", piece));
    [block(index, begin)].into_iter().chain(deltas).chain([stop(index)]).collect()
}

fn end(reason: &str, output_tokens: i64) -> Vec<Value> {
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    vec![
        json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": output_tokens}}),
        json!({"type": "message_stop"}),
    ]
}

fn ping() -> Value {
    json!({"type": "ping"})
}

fn error_event(kind: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": "sorry"}})
}

/// A stream that says hello.
fn hello() -> Vec<Value> {
    [vec![start(), ping()], text(0, &["Hel", "lo"]), end("end_turn", 12)].concat()
}

const USED: Usage = Usage { input_tokens: 9, cached_input_tokens: 4, cache_write_tokens: 2, output_tokens: 12 };

fn call(name: &str, arguments: &str) -> ToolCall {
    ToolCall { name: name.to_owned(), arguments: arguments.to_owned() }
}

fn whole(content: Value, reason: &str) -> Answer {
    let usage = json!({"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 12});
    let body =
        json!({"type": "message", "role": "assistant", "content": content, "stop_reason": reason, "usage": usage});
    json_answer(&body.to_string())
}

#[tokio::test]
async fn a_whole_answer_is_read() {
    let (reply, told) = ask(whole(json!([{"type": "text", "text": "Hello"}]), "max_tokens"), false).await.unwrap();
    assert_eq!(
        reply,
        Reply {
            text: "Hello".into(),
            usage: Some(Usage { cache_write_tokens: 0, ..USED }),
            finish: Finish::Length,
            ..Reply::default()
        }
    );
    assert_eq!(told, "");
    let tools = json!([
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_1", "name": "list", "input": {"path": "."}},
        {"type": "tool_use", "id": "toolu_2", "name": "read", "input": {}},
    ]);
    let (reply, _) = ask(whole(tools, "tool_use"), false).await.unwrap();
    assert_eq!(reply.tool_calls, [call("list", "{\"path\":\".\"}"), call("read", "{}")]);
    assert_eq!((reply.text.as_str(), reply.finish, reply.malformed), ("I look.", Finish::Stop, None));
}

#[tokio::test]
async fn what_is_sent_is_authorised_and_in_the_dialect() {
    let (base_url, asked) = serve(json_answer("{}")).await;
    let _ = provider(&spec(&format!("{base_url}/"), true)).call(&asking(), &|_| {}).await;
    let asked = asked.await.unwrap();
    let (head, body) = asked.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/messages HTTP/1.1\r\n"), "{head}");
    let head = head.to_lowercase();
    assert!(head.contains(&format!("\r\nx-api-key: {KEY}")) && !head.contains("authorization"), "{head}");
    assert!(head.contains("\r\nanthropic-version: 2023-06-01") && head.contains("\r\ncontent-type: application/json"));
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["model"], &body["stream"], &body["max_tokens"]), (&json!("m"), &json!(true), &json!(100)));
    assert_eq!(body["tools"][0]["input_schema"]["type"], "object");
}

#[tokio::test]
async fn a_stream_is_read_as_it_comes() {
    let (reply, told) = ask(stream_answer(&events(&hello())), true).await.unwrap();
    assert_eq!(reply, Reply { text: "Hello".into(), usage: Some(USED), ..Reply::default() });
    assert_eq!(told, "Hello");
}

#[tokio::test]
async fn tool_calls_are_put_together_from_their_pieces() {
    let thinking = [
        block(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
        delta(0, "thinking_delta", "thinking", "hm"),
        delta(0, "signature_delta", "signature", "EqQB"),
        stop(0),
        block(1, json!({"type": "redacted_thinking", "data": "x"})),
        stop(1),
    ];
    let body = [
        vec![start()],
        thinking.to_vec(),
        text(2, &["I look."]),
        tool_use(3, "list", &["", "{\"path\"", ":\".\"}"]),
        vec![ping(), json!({"type": "news", "index": 3, "delta": {"type": "input_json_delta", "partial_json": "x"}})],
        tool_use(4, "read", &[]),
        end("tool_use", 12),
    ];
    let (reply, told) = ask(stream_answer(&events(&body.concat())), true).await.unwrap();
    assert_eq!(reply.tool_calls, [call("list", "{\"path\":\".\"}"), call("read", "{}")]);
    assert_eq!(
        (reply.text.as_str(), told.as_str(), reply.usage, reply.malformed),
        ("I look.", "I look.", Some(USED), None)
    );
}

#[tokio::test]
async fn an_input_that_is_no_json_is_malformed() {
    let body = [vec![start()], tool_use(0, "list", &["{\"path\": "]), end("max_tokens", 12)].concat();
    let (reply, _) = ask(stream_answer(&events(&body)), true).await.unwrap();
    assert_eq!((reply.tool_calls, reply.finish), (vec![call("list", "{\"path\": ")], Finish::Length));
    assert!(reply.malformed.unwrap().contains("`list`"));
}

#[tokio::test]
async fn a_server_that_does_not_do_as_it_is_asked_is_understood() {
    let (reply, told) = ask(whole(json!([{"type": "text", "text": "Hello"}]), "end_turn"), true).await.unwrap();
    assert_eq!((reply.text.as_str(), told.as_str()), ("Hello", "Hello"));
    assert_eq!(ask(stream_answer(&events(&hello())), false).await.unwrap().0.text, "Hello");
    assert_eq!(ask(http("200 OK", "", &events(&hello())), true).await.unwrap().0.text, "Hello");
    // Some gateways end every stream as OpenAI does.
    let ended = [&events(&hello()), "data: [DONE]\n\n"].concat();
    assert_eq!(ask(stream_answer(&ended), true).await.unwrap().0.text, "Hello");
}

#[tokio::test]
async fn a_call_written_as_text_is_a_call() {
    let written = "```json\n{\"name\": \"list\", \"arguments\": {\"path\": \".\"}}\n```";
    let (reply, _) = ask(whole(json!([{"type": "text", "text": written}]), "end_turn"), false).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.tool_calls), ("", vec![call("list", "{\"path\":\".\"}")]));
}

#[tokio::test]
async fn a_structured_answer_is_told_of_once() {
    let mut request = asking();
    request.output_schema = Some(Arc::new(json!({"type": "object", "properties": {"n": {"type": "integer"}}})));
    let body = [vec![start()], tool_use(0, "answer", &["{\"n\"", ": 2}"]), end("tool_use", 12)].concat();
    for stream in [true, false] {
        let (base_url, asked) = serve(stream_answer(&events(&body))).await;
        let (reply, told) = ask_at(&spec(&base_url, stream), &request).await.unwrap();
        assert_eq!((reply.text.as_str(), reply.tool_calls.len(), reply.malformed), ("{\"n\": 2}", 0, None));
        assert_eq!(told, if stream { "{\"n\": 2}" } else { "" });
        assert!(asked.await.unwrap().contains("\"name\":\"answer\""));
    }
    let said = stream_answer(&events(&[vec![start()], text(0, &["{\"n\":", "2}"]), end("end_turn", 12)].concat()));
    let (base_url, _asked) = serve(said).await;
    let (reply, told) = ask_at(&spec(&base_url, true), &request).await.unwrap();
    assert_eq!((reply.text.as_str(), told.as_str()), ("{\"n\":2}", "{\"n\":2}"));
}

#[tokio::test]
async fn in_schema_mode_the_object_is_the_call_or_the_answer() {
    for stream in [true, false] {
        for (written, expected, told_text) in [
            ("{\"tool\":\"list\",\"arguments\":{}}", (vec![call("list", "{}")], "", false), ""),
            ("```json\n{\"answer\":\"two\"}\n```", (vec![], "two", false), "two"),
            ("two", (vec![], "two", true), ""),
        ] {
            let (base_url, asked) = serve(whole(json!([{"type": "text", "text": written}]), "end_turn")).await;
            let spec = ModelSpec { tool_calls: ToolCalls::Schema, ..spec(&base_url, stream) };
            let (reply, told) = ask_at(&spec, &asking()).await.unwrap();
            assert_eq!((reply.tool_calls, reply.text.as_str(), reply.malformed.is_some()), expected);
            assert_eq!(told, told_text);
            let asked = asked.await.unwrap();
            assert!(asked.contains("JSON Schema") && !asked.contains("\"tools\""), "{asked}");
        }
    }
}

#[tokio::test]
async fn a_refusal_withholds_the_answer() {
    let body = [vec![start()], text(0, &["I "]), tool_use(1, "list", &["{}"]), end("refusal", 12)].concat();
    let (reply, _) = ask(stream_answer(&events(&body)), true).await.unwrap();
    assert_eq!((reply.finish, reply.tool_calls.len(), reply.usage), (Finish::Filtered, 0, Some(USED)));
}

#[tokio::test]
async fn what_is_no_answer_is_shown_with_a_hint() {
    let html = "<html><body>Welcome to nginx!</body></html>";
    for stream in [true, false] {
        let page = http("200 OK", "content-type: text/html\r\n", html);
        check(
            &ask(page, stream).await.unwrap_err(),
            "Foreign",
            "</html>`; is base_url right? it is what stands before",
        );
        check(&ask(http("200 OK", "", ""), stream).await.unwrap_err(), "Malformed", "it is empty");
        for body in ["[]", "{\"content\":[{\"ty", "{}", "null", "42", "{\"choices\":[]}", "{\"content\":\"a\"}"] {
            let kind = if body.starts_with('{') { "Malformed" } else { "Foreign" };
            check(&ask(json_answer(body), stream).await.unwrap_err(), kind, "/v1/messages");
        }
    }
    let openai = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n";
    for junk in
        ["", "<html>junk\n\n", "data: junk\n\n", "data: {\"half\": \n\n", "data: []\n\n", openai, "event: ping\n\n"]
    {
        let error = ask(stream_answer(junk), true).await.unwrap_err();
        assert!(matches!(error, Error::Malformed { .. } | Error::Foreign { .. }), "{error:?}");
        assert!(error.to_string().contains("base_url"), "{error}");
    }
}

#[tokio::test]
async fn a_stream_may_end_after_any_byte() {
    let body = [vec![start(), ping()], text(0, &["Hel", "lo"]), tool_use(1, "list", &["{}"]), end("tool_use", 12)];
    let body = events(&body.concat());
    let (begun, counted) = (body.find("\n\n").unwrap(), body.find("\n\nevent: message_stop").unwrap());
    let stopped = body.len() - "\n\n".len();
    for end in 0..=body.len() {
        match ask(stream_answer(&body[..end]), true).await {
            Ok((reply, told)) => {
                assert!(end >= stopped, "{end}");
                assert_eq!((told.as_str(), reply.tool_calls.len(), reply.usage), ("Hello", 1, Some(USED)));
            }
            Err(error @ Error::Cut { .. }) => {
                assert!(end >= begun && end < stopped, "{end}: {error}");
                assert_eq!(error.usage(), (end >= counted).then_some(USED), "{end}");
                assert!(error.is_transient() && error.may_be_billed());
            }
            Err(error) => {
                assert!(end < begun, "{end}: {error}");
                check(&error, "Malformed", "base_url");
            }
        }
    }
}

#[tokio::test]
async fn what_breaks_off_is_cut() {
    let body = events(&hello()[..4]);
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nffff\r\n";
    check(&ask(Answer::Bytes([chunked, &body].concat().into_bytes()), true).await.unwrap_err(), "Cut", "");
    let half = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"con".to_vec();
    check(&ask(Answer::Bytes(half), false).await.unwrap_err(), "Cut { received: 5", "");
    let error = ask(Answer::Bytes(Vec::new()), true).await.unwrap_err();
    check(&error, "Cut { received: 0", "");
    // What came after the last event does not matter.
    let whole = [chunked, &events(&hello())].concat().into_bytes();
    assert_eq!(ask(Answer::Bytes(whole), true).await.unwrap().0.text, "Hello");
}

#[tokio::test]
async fn an_answer_without_an_end_is_given_up() {
    let line = vec![b'x'; 64 * 1024];
    let error = ask(Answer::Endless(STREAM_HEAD.as_bytes().to_vec(), line.clone()), true).await.unwrap_err();
    check(&error, "Malformed", "longer than 16777216 bytes");
    let many: Vec<Value> = (0..300).flat_map(|index| tool_use(index, "list", &["{}"])).collect();
    check(&ask(stream_answer(&events(&many)), true).await.unwrap_err(), "Foreign", "more tools at once");
}

#[tokio::test]
async fn a_stall_is_a_timeout_with_its_stage() {
    let short = Span::from_millis(50);
    let long = Span::from_secs(20);
    let first = Timeouts { connect: long, first_token: short, between_tokens: long, call: None };
    let between = Timeouts { first_token: long, between_tokens: short, ..first };
    let begun = events(&hello()[..2]);
    let said = events(&hello()[..4]);
    for (answer, stream, timeouts, stage) in [
        (String::new(), true, first, BEFORE_THE_FIRST_TOKEN),
        ([STREAM_HEAD, &begun].concat(), true, first, BEFORE_THE_FIRST_TOKEN),
        ([STREAM_HEAD, &said].concat(), true, between, BETWEEN_TOKENS),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_owned(), false, first, BEFORE_THE_FIRST_TOKEN),
    ] {
        let (base_url, _asked) = serve(Answer::Stall(answer.into_bytes())).await;
        let error = ask_at(&ModelSpec { timeouts, ..spec(&base_url, stream) }, &asking()).await.unwrap_err();
        check(&error, "Timeout", stage);
    }
    // Pings show that the server lives, not that the model does.
    let answer = Answer::Endless([STREAM_HEAD, &said].concat().into_bytes(), events(&[ping()]).into_bytes());
    let (base_url, _asked) = serve(answer).await;
    let error = ask_at(&ModelSpec { timeouts: between, ..spec(&base_url, true) }, &asking()).await.unwrap_err();
    check(&error, "Timeout", BETWEEN_TOKENS);
}

#[tokio::test]
async fn a_model_that_thinks_unseen_has_as_long_as_for_its_first_token() {
    let thinks = events(&[start(), block(0, json!({"type": "thinking", "thinking": ""}))]);
    let (base_url, _asked) = serve(Answer::Stall([STREAM_HEAD, &thinks].concat().into_bytes())).await;
    let mut spec = spec(&base_url, true);
    spec.timeouts.first_token = Span::from_millis(200);
    spec.timeouts.between_tokens = Span::from_millis(1);
    check(&ask_at(&spec, &asking()).await.unwrap_err(), "Timeout", BEFORE_THE_FIRST_TOKEN);
}

#[tokio::test]
async fn what_can_not_be_reached_is_said_without_secrets() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut hanging = spec(&format!("https://{address}"), true);
    hanging.timeouts.connect = Span::from_millis(50);
    check(&ask_at(&hanging, &asking()).await.unwrap_err(), "Timeout", CONNECTING);
    drop(listener);
    let error = ask_at(&spec(&format!("http://{address}?token=abc"), true), &asking()).await.unwrap_err();
    check(&error, "Transport", &format!("http://{address}/v1/messages\""));
    assert!(!error.to_string().contains("abc") && !error.may_be_billed());
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let said = |kind: &str, message: &str| error_event(kind).to_string().replace("sorry", message);
    let error = ask(http("401 Unauthorized", "", &said("authentication_error", &format!("invalid {KEY}"))), true).await;
    check(&error.unwrap_err(), "Auth { status: 401", "invalid [key]");
    for stream in [true, false] {
        for (status, kind, message, expected) in [
            ("400 Bad Request", "invalid_request_error", "max_tokens: Field required", "BadRequest { status: 400"),
            ("400 Bad Request", "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum", "ContextTooLong"),
            ("402 Payment Required", "billing_error", "pay", "BadRequest { status: 402"),
            ("403 Forbidden", "permission_error", "no", "Auth { status: 403"),
            ("404 Not Found", "not_found_error", "model: m", "BadRequest { status: 404"),
            ("413 Too Large", "request_too_large", "Request exceeds the maximum size", "ContextTooLong"),
            ("429 Too Many Requests", "rate_limit_error", "slow", "RateLimited { retry_after: None"),
            ("500 Internal Server Error", "api_error", "oh", "Overloaded { status: 500"),
            ("504 Gateway Timeout", "timeout_error", "oh", "Overloaded { status: 504"),
            ("529 Overloaded", "overloaded_error", "Overloaded", "Overloaded { status: 529"),
        ] {
            let error = ask(http(status, "", &said(kind, message)), stream).await.unwrap_err();
            check(&error, expected, "");
            assert_eq!(error.is_transient(), matches!(error, Error::RateLimited { .. } | Error::Overloaded { .. }));
        }
    }
    check(&ask(http("404 Not Found", "", "no page"), true).await.unwrap_err(), "BadRequest { status: 404", "base_url");
}

#[tokio::test]
async fn the_pause_that_is_asked_for_is_kept() {
    let retry_after = async |status: &str, header: &str| {
        let error = ask(http(status, &format!("{header}\r\n"), ""), true).await.unwrap_err();
        assert!(error.is_transient());
        error.retry_after()
    };
    assert_eq!(retry_after("429 Too Many Requests", "retry-after: 7").await, Some(Duration::from_secs(7)));
    assert_eq!(retry_after("529 Overloaded", "retry-after-ms: 20").await, Some(Duration::from_millis(20)));
    assert_eq!(retry_after("429 Too Many Requests", "retry-after: soon").await, None);
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3600);
    let soon = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&soon).unwrap();
    let pause = retry_after("429 Too Many Requests", &format!("retry-after: {soon}")).await.unwrap();
    assert!((3000..=3600).contains(&pause.as_secs()), "{pause:?}");
}

#[tokio::test]
async fn an_error_within_a_success_is_one() {
    for (kind, expected) in [
        ("overloaded_error", "Overloaded { status: 529"),
        ("rate_limit_error", "RateLimited"),
        ("api_error", "Overloaded { status: 500"),
        ("invalid_request_error", "BadRequest"),
        ("authentication_error", "Auth"),
    ] {
        check(&ask(json_answer(&error_event(kind).to_string()), false).await.unwrap_err(), expected, "");
        for before in [vec![], vec![start(), ping()], hello()[..3].to_vec()] {
            let body = events(&[before, vec![error_event(kind)]].concat());
            check(&ask(stream_answer(&body), true).await.unwrap_err(), expected, "");
        }
        // What was written is billed, so from there on the answer broke off, whatever the reason.
        for before in [&hello()[..4], &hello()[..6], &[block(0, json!({"type": "thinking"}))]] {
            let body = events(&[before, &[error_event(kind)]].concat());
            let error = ask(stream_answer(&body), true).await.unwrap_err();
            check(&error, "Cut", "sorry");
            assert!(error.is_transient() && error.may_be_billed() && error.usage().is_none());
        }
    }
    let counted = [&hello()[..7], &[error_event("overloaded_error")]].concat();
    assert_eq!(ask(stream_answer(&events(&counted)), true).await.unwrap_err().usage(), Some(USED));
}

#[tokio::test]
async fn a_usage_that_can_not_be_true_is_none() {
    let lies = [vec![start()], text(0, &["a"]), end("end_turn", -12)].concat();
    let (reply, _) = ask(stream_answer(&events(&lies)), true).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.usage), ("a", None));
    let body = json!({"content": [], "usage": {"input_tokens": -5, "output_tokens": 1}});
    assert_eq!(ask(json_answer(&body.to_string()), false).await.unwrap().0.usage, None);
}

#[tokio::test]
async fn dropping_the_call_closes_the_connection() {
    for begun in [String::new(), STREAM_HEAD.to_owned(), [STREAM_HEAD, &events(&hello()[..4])].concat()] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = provider(&spec(&format!("http://{}", listener.local_addr().unwrap()), true));
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
        let error = Anthropic::new(&spec(base_url, true), Some(SecretString::from(key))).err().unwrap().to_string();
        assert!(!error.contains("hidden"), "{error}");
        error
    };
    assert!(refused("localhost:8080", "k").contains("http://"));
    assert!(refused("https://me:hidden@a", "k").contains("api_key"));
    assert!(refused("http://a", "hidden\nkey").contains("line break"));
}
