//! What the crate does otherwise than we need, and what becomes of it here.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::model::testing::{
    Answer, STREAM_HEAD, assistant, check, http, json_answer, offer, read_request, request, serve, stream_answer,
    tool_result, user,
};
use crate::spec::Span;

const KEY: &str = "sk-very-secret";
const PROMPT: &str = "the secret prompt";

fn spec(base_url: &str, stream: bool) -> ModelSpec {
    let mut spec = ModelSpec { stream, base_url: Some(base_url.to_owned()), ..ModelSpec::default() };
    spec.model = Some("m".to_owned());
    (spec.timeouts.first_token, spec.timeouts.between_tokens) = (Span::from_secs(20), Span::from_secs(20));
    spec
}

fn provider(kind: ProviderKind, spec: &ModelSpec) -> Genai {
    Genai::new(kind, spec, Some(SecretString::from(KEY))).unwrap()
}

fn asking() -> Request {
    let mut request = request("Be brief.", vec![user(PROMPT)]);
    request.tools = [offer("list"), offer("read")].into();
    request
}

async fn ask(kind: ProviderKind, answer: Answer, stream: bool) -> Result<(Reply, String), Error> {
    let (base_url, _asked) = serve(answer).await;
    ask_at(kind, &spec(&base_url, stream)).await
}

async fn ask_at(kind: ProviderKind, spec: &ModelSpec) -> Result<(Reply, String), Error> {
    let told = Mutex::new(String::new());
    let reply = provider(kind, spec).call(&asking(), &|text| told.lock().unwrap().push_str(text)).await;
    let told = told.into_inner().unwrap();
    reply.map(|reply| (reply, told)).inspect_err(|error| {
        let said = format!("{error} {error:?}");
        assert!(!said.contains(KEY) && !said.contains(PROMPT), "{said}");
    })
}

/// Writes a piece of Gemini's stream.
fn piece(text: &str, more: &str) -> String {
    format!(
        r#"data: {{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}]}}{more}}}],"usageMetadata":{{"promptTokenCount":9,"candidatesTokenCount":2,"cachedContentTokenCount":4}}}}"#
    ) + "\n\n"
}

#[tokio::test]
async fn a_refusal_is_known_streamed_or_not() {
    for kind in [ProviderKind::Gemini, ProviderKind::Bedrock, ProviderKind::Ollama, ProviderKind::OpenaiResponses] {
        for stream in [true, false] {
            let error = ask(kind, http("429 Too Many Requests", "retry-after: 7\r\n", "{}"), stream).await.unwrap_err();
            assert_eq!(error.retry_after(), Some(Duration::from_secs(7)), "{kind:?} {error:?}");
            let said = json!({"error": {"message": format!("no such key: {KEY}")}}).to_string();
            let error = ask(kind, http("401 Unauthorized", "", &said), stream).await.unwrap_err();
            check(&error, "Auth { status: 401", "no such key: [key]");
        }
    }
}

#[tokio::test]
async fn a_stream_is_read_as_it_comes() {
    let body = [piece("Hel", ""), piece("lo", r#","finishReason":"STOP""#)].concat();
    let (reply, told) = ask(ProviderKind::Gemini, stream_answer(&body), true).await.unwrap();
    let used = Usage { input_tokens: 9, cached_input_tokens: 4, output_tokens: 2, ..Usage::default() };
    assert_eq!((reply.text.as_str(), reply.usage, told.as_str()), ("Hello", Some(used), "Hello"));
}

#[tokio::test]
async fn what_breaks_off_is_no_answer_and_its_usage_is_not_believed() {
    let error = ask(ProviderKind::Gemini, stream_answer(&piece("Hel", "")), true).await.unwrap_err();
    check(&error, "Cut { received: 3", "before the model was done");
    assert!(matches!(error, Error::Cut { usage: None, .. }), "{error:?}");
    let line = json!({"message": {"role": "assistant", "content": "Hel"}}).to_string() + "\n";
    let error = ask(ProviderKind::Ollama, stream_answer(&line), true).await.unwrap_err();
    check(&error, "Cut { received: 3", "before the model was done");
    check(&ask(ProviderKind::Gemini, stream_answer(""), true).await.unwrap_err(), "Malformed", "it is empty");
}

#[tokio::test]
async fn arguments_that_are_no_json_do_not_become_none() {
    let output = json!([{"type": "function_call", "call_id": "a", "name": "list", "arguments": "{\"path\": oops"}]);
    let body = json!({"id": "r", "object": "response", "status": "completed", "model": "m", "created_at": 1,
        "output": output, "usage": {"input_tokens": 9, "output_tokens": 2, "total_tokens": 11}});
    // The crate takes it for no answer at all: what it used is lost, and so charged as reserved.
    let error = ask(ProviderKind::OpenaiResponses, json_answer(&body.to_string()), false).await.unwrap_err();
    assert!(matches!(error, Error::Malformed { usage: None, .. }), "{error:?}");
    let given = |arguments: Value| ::genai::chat::ToolCall {
        call_id: "a".to_owned(),
        fn_name: "list".to_owned(),
        fn_arguments: arguments,
        thought_signatures: None,
    };
    let mut pieces = Vec::new();
    for written in ["{\"path\"", "{\"path\": oops"] {
        keep_piece(&mut pieces, given(Value::String(written.to_owned())));
    }
    assert_eq!(as_written(given(json!({})), &pieces).arguments, "{\"path\": oops");
    assert_eq!(as_written(given(json!({"path": "x"})), &pieces).arguments, r#"{"path":"x"}"#);
    assert_eq!(as_written(given(json!({})), &[]).arguments, "{}");
}

#[tokio::test]
async fn why_a_model_stopped_is_told_apart() {
    for (reason, finish) in [("MAX_TOKENS", Finish::Length), ("SAFETY", Finish::Filtered), ("STOP", Finish::Stop)] {
        let body = piece("Hello", &format!(r#","finishReason":"{reason}""#));
        assert_eq!(ask(ProviderKind::Gemini, stream_answer(&body), true).await.unwrap().0.finish, finish, "{reason}");
    }
    let body = piece("", r#","finishReason":"MALFORMED_FUNCTION_CALL""#);
    let reply = ask(ProviderKind::Gemini, stream_answer(&body), true).await.unwrap().0;
    assert!(reply.malformed.is_some_and(|wrong| wrong.contains("call of a tool")));
}

#[test]
fn usage_that_can_not_be_true_is_none() {
    let used = |input, output| Used { prompt_tokens: input, completion_tokens: output, ..Used::default() };
    assert_eq!(usage(Some(&used(Some(1), Some(2))), false).unwrap().tokens(), 3);
    for (input, output) in [(None, Some(1)), (Some(1), None), (Some(-1), Some(1)), (Some(0), Some(0)), (None, None)] {
        assert_eq!(usage(Some(&used(input, output)), false), None);
    }
    assert_eq!(usage(None, false), None);
    let details = ::genai::chat::PromptTokensDetails {
        cached_tokens: Some(5),
        cache_creation_tokens: Some(3),
        ..Default::default()
    };
    let used = Used { prompt_tokens_details: Some(details), ..used(Some(2), Some(1)) };
    assert_eq!(usage(Some(&used), false), None, "more from the cache than was read");
    let beside = usage(Some(&used), true).unwrap();
    assert_eq!((beside.input_tokens, beside.cached_input_tokens, beside.cache_write_tokens), (10, 5, 3));
}

#[tokio::test]
async fn each_wait_has_its_bound() {
    let short = |base_url: &str, stream| {
        let mut spec = spec(base_url, stream);
        (spec.timeouts.first_token, spec.timeouts.between_tokens) = (Span::from_millis(300), Span::from_millis(100));
        spec
    };
    for stream in [true, false] {
        let (base_url, _asked) = serve(Answer::Stall(Vec::new())).await;
        let error = ask_at(ProviderKind::Gemini, &short(&base_url, stream)).await.unwrap_err();
        check(&error, "Timeout", BEFORE_THE_FIRST_TOKEN);
    }
    let begun = [STREAM_HEAD, &piece("Hel", "")].concat();
    let (base_url, _asked) = serve(Answer::Stall(begun.into_bytes())).await;
    let error = ask_at(ProviderKind::Gemini, &short(&base_url, true)).await.unwrap_err();
    check(&error, "Timeout", BETWEEN_TOKENS);
}

#[tokio::test]
async fn dropping_the_call_closes_the_connection() {
    for stream in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let provider = provider(ProviderKind::Gemini, &spec(&base_url, stream));
        let request = asking();
        let serving = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            read_request(&mut connection).await;
            connection.write_all(STREAM_HEAD.as_bytes()).await.unwrap();
            connection
        };
        let mut connection = tokio::select! {
            _ = provider.call(&request, &|_| {}) => panic!("the call came to an end"),
            connection = serving => connection,
        };
        let closed = connection.read(&mut [0; 16]).await;
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
}

#[tokio::test]
async fn what_is_sent_is_what_each_dialect_takes() {
    let transcript = vec![
        user("a"),
        assistant("", &[("s1", "list", "no JSON"), ("s2", "read", r#"{"path":"x"}"#)]),
        tool_result("s1", "list", "wrong"),
        tool_result("s2", "read", ""),
        user("b"),
    ];
    for (kind, path, key) in [
        (ProviderKind::Gemini, "/v1/models/m:streamGenerateContent?alt=sse", format!("x-goog-api-key: {KEY}")),
        (ProviderKind::Bedrock, "/v1/model/m/converse-stream", format!("authorization: bearer {KEY}")),
        (ProviderKind::Ollama, "/v1/api/chat", String::new()),
        (ProviderKind::OpenaiResponses, "/v1/responses", format!("authorization: bearer {KEY}")),
    ] {
        let (base_url, asked) = serve(json_answer("{}")).await;
        let request = request("Be brief.", transcript.clone());
        let _ = provider(kind, &spec(&base_url, true)).call(&request, &|_| {}).await;
        let asked = asked.await.unwrap();
        let (head, body) = asked.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{head}");
        assert!(head.to_lowercase().contains(&key), "{kind:?}: {head}");
        let body: Value = serde_json::from_str(body).unwrap();
        let turns = ["contents", "messages", "input"].iter().find_map(|name| body[*name].as_array()).unwrap();
        let roles: Vec<&str> = turns.iter().filter_map(|turn| turn["role"].as_str()).collect();
        let expected: &[&str] = match kind {
            ProviderKind::Gemini => &["user", "model", "user"],
            ProviderKind::Bedrock => &["user", "assistant", "user"],
            ProviderKind::Ollama => &["system", "user", "assistant", "tool", "tool", "user"],
            _ => &["user", "user"],
        };
        assert_eq!(roles, expected, "{kind:?}: {body}");
        // A transcript with calls in it needs tools, even where none are on offer.
        assert_eq!(body.get("toolConfig").is_some(), kind == ProviderKind::Bedrock);
    }
}
