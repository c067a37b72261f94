use futures_util::future::BoxFuture;
use indexmap::IndexMap;

use super::*;
use crate::spec::{Faults, Latency, SimSpec, Span, Timeouts};

const ANSWER: &str = "Grüße aus der Simulation.";

/// Serves `sim` while `client` talks to it, and then shuts it down.
async fn with_server<T>(sim: Sim, client: impl for<'a> FnOnce(&'a str) -> BoxFuture<'a, T>) -> T {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let talk = async {
        let result = client(&url).await;
        shutdown.cancel();
        result
    };
    let (served, result) = tokio::join!(serve(listener, sim, shutdown.clone()), talk);
    served.unwrap();
    result
}

fn spec(faults: Faults) -> SimSpec {
    let script = IndexMap::from([("scout".to_owned(), vec![ANSWER.to_owned()])]);
    SimSpec { faults, script, ..SimSpec::default() }
}

fn sim(faults: Faults) -> Sim {
    Sim::new(&spec(faults), Timeouts::default()).unwrap()
}

fn chat() -> Value {
    json!({"model": "scout", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "go"}]}]})
}

fn client() -> reqwest::Client {
    // There is no other provider to quarrel with, or the same one was installed by another test.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().read_timeout(Duration::from_millis(300)).build().unwrap()
}

async fn post(url: &str, body: &Value, headers: &[(&str, &str)]) -> reqwest::Result<reqwest::Response> {
    let mut request = client().post(format!("{url}/v1/chat/completions")).body(body.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await
}

async fn json_of(response: reqwest::Response) -> Value {
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}

/// Reads a stream to its end, or to where it breaks.
async fn events(response: reqwest::Response) -> (Vec<Value>, Result<(), reqwest::Error>) {
    let mut text = Vec::new();
    let mut stream = response.bytes_stream();
    let mut end = Ok(());
    while let Some(bytes) = stream.next().await {
        match bytes {
            Ok(bytes) => text.extend_from_slice(&bytes),
            Err(error) => {
                end = Err(error);
                break;
            }
        }
    }
    let text = String::from_utf8(text).unwrap();
    let lines = text.split_terminator("\n\n").map(|line| line.strip_prefix("data: ").unwrap());
    (lines.map(|line| serde_json::from_str(line).unwrap_or(Value::Null)).collect(), end)
}

fn content(events: &[Value]) -> String {
    events.iter().filter_map(|event| event.pointer("/choices/0/delta/content")?.as_str()).collect()
}

#[tokio::test]
async fn a_whole_answer_has_its_usage() {
    let answer = with_server(sim(Faults::default()), |url| {
        Box::pin(async move { json_of(post(url, &chat(), &[]).await.unwrap()).await })
    })
    .await;
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "scout");
    assert_eq!(answer["choices"][0]["message"]["content"], ANSWER);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"], json!({"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}));
}

#[tokio::test]
async fn a_streamed_answer_comes_in_pieces_and_ends_with_done() {
    let mut body = chat();
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let (events, end) = with_server(sim(Faults::default()), |url| {
        Box::pin(async move { events(post(url, &body, &[]).await.unwrap()).await })
    })
    .await;
    end.unwrap();
    assert_eq!(content(&events), ANSWER);
    let [.., finish, usage, done] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(7)));
    assert_eq!(*done, Value::Null);
}

#[tokio::test]
async fn four_steps_with_three_tool_calls() {
    let sim = Sim::new(&SimSpec::default(), Timeouts::default()).unwrap().with_tool_calls(3);
    let mut body = json!({"model": "any", "messages": [{"role": "user", "content": "go"}], "tools": [{"type": "function",
        "function": {"name": "search", "parameters": {"type": "object", "required": ["q"], "properties": {"q": {"type": "string"}}}}}]});
    let (calls, text) = with_server(sim, |url| {
        Box::pin(async move {
            let mut calls = Vec::new();
            loop {
                let answer = json_of(post(url, &body, &[]).await.unwrap()).await;
                let message = answer["choices"][0]["message"].clone();
                let Some(call) = message["tool_calls"].get(0).cloned() else {
                    return (calls, message["content"].to_string());
                };
                assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
                let messages = body["messages"].as_array_mut().unwrap();
                messages.push(message);
                messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": "found"}));
                calls.push((call["id"].to_string(), call["function"].clone()));
            }
        })
    })
    .await;
    assert_eq!(calls.len(), 3);
    assert!(
        calls.iter().all(|(_, call)| call["name"] == "search" && call["arguments"] == "{\"q\":\"go\"}"),
        "{calls:?}"
    );
    assert!(calls[0].0 != calls[1].0 && calls[1].0 != calls[2].0);
    assert!(text.contains("got 3 results"), "{text}");
}

#[tokio::test]
async fn streamed_tool_calls_come_together_again() {
    let script = r#"{"calls": [{"name": "a", "arguments": {"x": "some longer text"}}, {"name": "b"}]}"#;
    let spec = SimSpec { script: IndexMap::from([("scout".into(), vec![script.into()])]), ..SimSpec::default() };
    let mut body = chat();
    body["stream"] = json!(true);
    let (events, end) = with_server(Sim::new(&spec, Timeouts::default()).unwrap(), |url| {
        Box::pin(async move { events(post(url, &body, &[]).await.unwrap()).await })
    })
    .await;
    end.unwrap();
    let mut calls = [String::new(), String::new()];
    for call in events.iter().filter_map(|event| event.pointer("/choices/0/delta/tool_calls/0")) {
        let into = &mut calls[call["index"].as_u64().unwrap() as usize];
        into.push_str(call["function"]["name"].as_str().unwrap_or_default());
        into.push_str(call["function"]["arguments"].as_str().unwrap());
    }
    assert_eq!(calls, [r#"a{"x":"some longer text"}"#, "b{}"]);
}

#[tokio::test]
async fn refusals_are_real_ones() {
    let limited = Faults { rate_limited: 1.0, ..Faults::default() };
    let (status, wait, body) = with_server(sim(limited), |url| {
        Box::pin(async move {
            let response = post(url, &chat(), &[]).await.unwrap();
            (response.status(), response.headers()["retry-after"].clone(), json_of(response).await)
        })
    })
    .await;
    assert_eq!((status.as_u16(), wait.to_str().unwrap()), (429, "1"));
    assert_eq!(body["error"]["code"], "rate_limit_exceeded");

    let overloaded = Faults { overloaded: 1.0, ..Faults::default() };
    let status =
        with_server(sim(overloaded), |url| Box::pin(async move { post(url, &chat(), &[]).await.unwrap().status() }))
            .await;
    assert_eq!(status.as_u16(), 503);

    let timeout = Faults { timeout: 1.0, ..Faults::default() };
    let error =
        with_server(sim(timeout), |url| Box::pin(async move { post(url, &chat(), &[]).await.unwrap_err() })).await;
    assert!(error.is_timeout(), "{error:?}");
}

#[tokio::test]
async fn a_cut_stream_breaks_and_a_stalled_one_stops() {
    for (faults, timed_out) in
        [(Faults { cut: 1.0, ..Faults::default() }, false), (Faults { stall: 1.0, ..Faults::default() }, true)]
    {
        let mut body = chat();
        body["stream"] = json!(true);
        let (events, end) =
            with_server(sim(faults), |url| Box::pin(async move { events(post(url, &body, &[]).await.unwrap()).await }))
                .await;
        let text = content(&events);
        assert!(!text.is_empty() && text.len() < ANSWER.len() && ANSWER.starts_with(&text), "{text}");
        assert_eq!(end.unwrap_err().is_timeout(), timed_out);

        let whole = with_server(sim(faults), |url| {
            Box::pin(async move { post(url, &chat(), &[]).await.unwrap().bytes().await })
        })
        .await;
        assert_eq!(whole.unwrap_err().is_timeout(), timed_out);
    }
}

#[tokio::test]
async fn wrong_usage_and_malformed_arguments_pass_through() {
    let wrong = Faults { wrong_usage: 1.0, ..Faults::default() };
    let answer =
        with_server(sim(wrong), |url| Box::pin(async move { json_of(post(url, &chat(), &[]).await.unwrap()).await }))
            .await;
    assert_eq!(answer["usage"]["total_tokens"], 100);

    let malformed = Faults { malformed: 1.0, ..Faults::default() };
    let script = r#"{"calls": [{"name": "a", "arguments": {"x": 1}}]}"#;
    let spec = SimSpec { script: IndexMap::from([("scout".into(), vec![script.into()])]), ..spec(malformed) };
    let answer = with_server(Sim::new(&spec, Timeouts::default()).unwrap(), |url| {
        Box::pin(async move { json_of(post(url, &chat(), &[]).await.unwrap()).await })
    })
    .await;
    let arguments = answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(arguments).is_err(), "{arguments}");
}

#[tokio::test]
async fn a_client_that_says_who_it_is_draws_what_the_model_in_process_draws() {
    let spec = SimSpec { seed: 5, ..spec(Faults { overloaded: 0.5, ..Faults::default() }) };
    let in_process = Sim::new(&spec, Timeouts::default()).unwrap();
    let over_http: Vec<bool> = with_server(Sim::new(&spec, Timeouts::default()).unwrap(), |url| {
        Box::pin(async move {
            let mut refused = Vec::new();
            for attempt in 1..=20 {
                let attempt = attempt.to_string();
                let headers = [
                    ("x-provost-run", "01run"),
                    ("x-provost-agent", "scout"),
                    ("x-provost-call", "scout#1"),
                    ("x-provost-attempt", attempt.as_str()),
                ];
                refused.push(post(url, &chat(), &headers).await.unwrap().status().as_u16() == 503);
            }
            refused
        })
    })
    .await;
    let expected: Vec<bool> = (1..=20)
        .map(|attempt| {
            let request = Request {
                run: crate::run::RunId::new("01run"),
                agent: "scout".into(),
                call: crate::run::CallId::model(&crate::run::AgentId::new("scout"), 1),
                attempt,
                system: "".into(),
                messages: vec![],
                tools: [].into(),
                output_schema: None,
                max_output_tokens: 10,
            };
            in_process.plan(&request).unwrap().fault == Some(Fault::Overloaded)
        })
        .collect();
    assert_eq!(over_http, expected);
    assert!(expected.contains(&true) && expected.contains(&false));
}

#[tokio::test]
async fn answers_fit_the_schema_that_is_asked_for() {
    let schema = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 3}}});
    let mut body = chat();
    body["model"] = json!("unscripted");
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    let answer = with_server(sim(Faults::default()), |url| {
        Box::pin(async move { json_of(post(url, &body, &[]).await.unwrap()).await })
    })
    .await;
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(jsonschema::is_valid(&schema, &serde_json::from_str(text).unwrap()), "{text}");
}

#[tokio::test]
async fn nonsense_is_refused_and_the_small_pages_are_there() {
    with_server(sim(Faults::default()), |url| {
        Box::pin(async move {
            let refused = post(url, &json!({"messages": "none"}), &[]).await.unwrap();
            assert_eq!(refused.status().as_u16(), 400);
            assert_eq!(json_of(refused).await["error"]["type"], "invalid_request_error");

            let huge = json!({"messages": [], "padding": "x".repeat(MAX_BODY_BYTES)});
            // The server may close the door before all has come through it.
            if let Ok(response) = post(url, &huge, &[]).await {
                assert_eq!(response.status().as_u16(), 413);
            }

            let models = json_of(client().get(format!("{url}/v1/models")).send().await.unwrap()).await;
            assert_eq!([&models["data"][0]["id"], &models["data"][1]["id"]], ["scout", "sim"]);
            let health = client().get(format!("{url}/health")).send().await.unwrap();
            assert_eq!(health.status().as_u16(), 200);
        })
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_ends_all_waiting() {
    let latency = Latency { p50: Span::from_secs(100), p99: Span::from_secs(100) };
    let sim = Sim::new(&SimSpec { latency: Some(latency), ..spec(Faults::default()) }, Timeouts::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let started = std::time::Instant::now();
    let stop = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        shutdown.cancel();
    };
    let (served, answered, ()) = tokio::join!(serve(listener, sim, shutdown.clone()), post_owned(url), stop);
    served.unwrap();
    assert_eq!(answered.status().as_u16(), 200);
    assert!(started.elapsed() < Duration::from_secs(10));
}

async fn post_owned(url: String) -> reqwest::Response {
    post(&url, &chat(), &[]).await.unwrap()
}
