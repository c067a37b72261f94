use std::sync::Mutex;
use std::time::Instant as StdInstant;

use futures_util::future::join_all;
use indexmap::IndexMap;
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::model::Offer;
use crate::run::{AgentId, CallId, Labels, Origin, RunId};
use crate::spec::Span;

pub(super) fn user(text: &str) -> Message {
    Message { body: Body::User { text: text.to_owned() }, labels: Labels::default(), origin: Origin::Input }
}

/// A model's message with tool calls: id, name, arguments.
pub(super) fn asked(calls: &[(&str, &str, &str)]) -> Message {
    let call = |(id, name, arguments): &(&str, &str, &str)| {
        ((*id).to_owned(), ToolCall { name: (*name).to_owned(), arguments: (*arguments).to_owned() })
    };
    let body = Body::Assistant { text: String::new(), tool_calls: calls.iter().map(call).collect() };
    Message { body, labels: Labels::default(), origin: Origin::Model("sim".to_owned()) }
}

pub(super) fn result(id: &str, name: &str, content: &str, failed: bool) -> Message {
    let body = Body::Tool { id: id.to_owned(), name: name.to_owned(), content: content.to_owned(), failed };
    Message { body, labels: Labels::default(), origin: Origin::Tool(name.to_owned()) }
}

pub(super) fn request(agent: &str, step: u32, messages: Vec<Message>) -> Request {
    Request {
        run: RunId::new("01run"),
        agent: agent.into(),
        call: CallId::model(&AgentId::new(agent), step),
        attempt: 1,
        system: "".into(),
        messages: messages.into_iter().map(Arc::new).collect(),
        tools: [].into(),
        output_schema: None,
        max_output_tokens: 4096,
    }
}

const ANSWER: &str = "Grüße aus der Simulation: alles in Ordnung.";

fn spec(script: &[&str], faults: Faults) -> SimSpec {
    let steps = script.iter().map(|step| (*step).to_owned()).collect();
    SimSpec { faults, script: IndexMap::from([("scout".to_owned(), steps)]), ..SimSpec::default() }
}

fn sim(script: &[&str], faults: Faults) -> Sim {
    Sim::new(&spec(script, faults), Timeouts::default()).unwrap()
}

async fn call(sim: &Sim, request: &Request) -> (Result<Reply, Error>, Vec<String>) {
    let pieces = Mutex::new(Vec::new());
    let progress = |piece: &str| pieces.lock().unwrap().push(piece.to_owned());
    let reply = sim.call(request, &progress).await;
    (reply, pieces.into_inner().unwrap())
}

#[tokio::test]
async fn an_answer_comes_in_pieces_with_its_usage() {
    let mut request = request("scout", 1, vec![user("12345678")]);
    request.system = "1234".into();
    let (reply, pieces) = call(&sim(&[ANSWER], Faults::default()), &request).await;
    let reply = reply.unwrap();
    assert_eq!(reply.text, ANSWER);
    assert_eq!(pieces.concat(), ANSWER);
    assert!((2..=4).contains(&pieces.len()), "{pieces:?}");
    let tokens = (ANSWER.len() as u64).div_ceil(4);
    assert_eq!(
        reply.usage,
        Some(Usage { input_tokens: 3, cached_input_tokens: 0, output_tokens: tokens, ..Usage::default() })
    );

    request.tools = [Offer { name: "a".into(), description: "b".into(), parameters: Arc::new(json!({"c": 1})) }].into();
    let with_tools = call(&sim(&[""], Faults::default()), &request).await.0.unwrap().usage.unwrap();
    assert_eq!((with_tools.input_tokens, with_tools.output_tokens), (6, 1));
}

#[tokio::test]
async fn an_answer_ends_where_its_tokens_end() {
    let mut request = request("scout", 1, vec![user("x")]);
    request.max_output_tokens = 1;
    let reply = call(&sim(&["Grüße"], Faults::default()), &request).await.0.unwrap();
    assert_eq!((reply.text.as_str(), reply.finish), ("Grü", Finish::Length));
    assert_eq!(reply.usage.unwrap().output_tokens, 1);

    request.max_output_tokens = 3;
    let calls = r#"{"calls": [{"name": "read", "arguments": {"path": "src/lib.rs"}}, {"name": "now"}]}"#;
    let reply = call(&sim(&[calls], Faults::default()), &request).await.0.unwrap();
    assert_eq!(reply.tool_calls, [ToolCall { name: "read".into(), arguments: r#"{"path":"#.into() }]);
    assert_eq!((reply.finish, reply.usage.unwrap().output_tokens), (Finish::Length, 3));
}

/// Draws for many tries do not depend on who is asked first, or on how often.
#[tokio::test]
async fn the_same_try_has_the_same_outcome_in_any_order() {
    let faults = Faults { rate_limited: 0.2, cut: 0.2, malformed: 0.2, wrong_usage: 0.2, ..Faults::default() };
    let spec = SimSpec { seed: 3, faults, ..SimSpec::default() };
    let requests: Vec<Request> = (0..200)
        .map(|n| {
            let mut request = request(&format!("agent{}", n % 7), 1 + n % 3, vec![user("some words to draw from")]);
            let parameters = json!({"type": "object", "required": ["q"], "properties": {"q": {"type": "string"}}});
            request.tools =
                [Offer { name: "search".into(), description: String::new(), parameters: Arc::new(parameters) }].into();
            request.attempt = 1 + n / 21;
            request
        })
        .collect();
    let one = Sim::new(&spec, Timeouts::default()).unwrap();
    let mut forwards = Vec::new();
    for request in &requests {
        forwards.push(format!("{:?}", call(&one, request).await));
    }
    let other = Sim::new(&spec, Timeouts::default()).unwrap();
    let mut backwards: Vec<String> =
        join_all(requests.iter().rev().map(|request| async { format!("{:?}", call(&other, request).await) })).await;
    backwards.reverse();
    assert_eq!(forwards, backwards);
    let kinds: std::collections::HashSet<&String> = forwards.iter().collect();
    assert!(kinds.len() > 20, "only {} different outcomes", kinds.len());

    let reseeded = Sim::new(&SimSpec { seed: 4, ..spec }, Timeouts::default()).unwrap();
    let mut differ = 0;
    for (request, was) in requests.iter().zip(&forwards) {
        differ += usize::from(format!("{:?}", call(&reseeded, request).await) != *was);
    }
    assert!(differ > 50, "a new seed changed only {differ} outcomes");
}

#[tokio::test]
async fn a_retry_hears_what_the_first_try_would_have_said() {
    let sim = Sim::new(&SimSpec::default(), Timeouts::default()).unwrap();
    let mut request = request("scout", 1, vec![user("go")]);
    request.output_schema = Some(Arc::new(json!({"type": "integer", "maximum": 1_000_000})));
    let first = call(&sim, &request).await.0.unwrap();
    request.attempt = 2;
    assert_eq!(call(&sim, &request).await.0.unwrap(), first);
}

#[tokio::test]
async fn faults_strike_by_their_shares() {
    let sim = sim(&[ANSWER], Faults { rate_limited: 0.1, wrong_usage: 0.3, ..Faults::default() });
    let mut request = request("scout", 1, vec![user("go")]);
    let (mut limited, mut wrong) = (0, 0);
    for attempt in 1..=4000 {
        request.attempt = attempt;
        match sim.fault(&request) {
            Some(Fault::RateLimited) => limited += 1,
            Some(Fault::WrongUsage) => wrong += 1,
            other => assert_eq!(other, None),
        }
    }
    assert!((330..470).contains(&limited), "{limited}");
    assert!((1090..1310).contains(&wrong), "{wrong}");
}

#[tokio::test(start_paused = true)]
async fn each_fault_is_what_it_is_called() {
    let request = request("scout", 1, vec![user("go")]);
    let strike = async |faults: Faults| {
        let started = Instant::now();
        let (reply, pieces) = call(&sim(&[ANSWER], faults), &request).await;
        (reply, pieces.concat(), started.elapsed())
    };
    let none = Faults::default();

    let (reply, _, _) = strike(Faults { rate_limited: 1.0, ..none }).await;
    assert!(matches!(reply, Err(Error::RateLimited { retry_after: Some(RETRY_AFTER) })), "{reply:?}");

    let (reply, _, _) = strike(Faults { overloaded: 1.0, ..none }).await;
    assert!(matches!(reply, Err(Error::Overloaded { status: 503, .. })), "{reply:?}");

    let (reply, text, waited) = strike(Faults { timeout: 1.0, ..none }).await;
    assert!(matches!(reply, Err(Error::Timeout { stage: "before the first token", .. })), "{reply:?}");
    assert_eq!((text.as_str(), waited.as_secs()), ("", 120));

    let (reply, text, waited) = strike(Faults { stall: 1.0, ..none }).await;
    assert!(matches!(reply, Err(Error::Timeout { stage: "between tokens", .. })), "{reply:?}");
    assert!(ANSWER.starts_with(&text) && !text.is_empty() && text.len() < ANSWER.len());
    assert_eq!(waited.as_secs(), 60);

    let (reply, text, _) = strike(Faults { cut: 1.0, ..none }).await;
    assert!(matches!(reply, Err(Error::Cut { usage: None, received: 1.., .. })), "{reply:?}");
    assert!(ANSWER.starts_with(&text) && !text.is_empty() && text.len() < ANSWER.len());

    let (right, _, _) = strike(none).await;
    let (wrong, _, _) = strike(Faults { wrong_usage: 1.0, ..none }).await;
    let (right, wrong) = (right.unwrap().usage.unwrap(), wrong.unwrap().usage.unwrap());
    assert_eq!((wrong.input_tokens, wrong.output_tokens), (right.input_tokens * 10, right.output_tokens * 10));

    let (plain, _, _) = strike(Faults { malformed: 1.0, ..none }).await;
    assert_eq!(plain.unwrap().text, ANSWER);
}

#[tokio::test]
async fn malformed_is_no_json() {
    let malformed = Faults { malformed: 1.0, ..Faults::default() };
    let is_json = |text: &str| serde_json::from_str::<serde_json::Value>(text).is_ok();
    for arguments in ["{}", r#"{"a": {"b": 1}}"#, "12", r#""12""#] {
        let script = format!(r#"{{"calls": [{{"name": "x", "arguments": {arguments}}}]}}"#);
        let reply = call(&sim(&[&script], malformed), &request("scout", 1, vec![])).await.0.unwrap();
        assert!(!is_json(&reply.tool_calls[0].arguments), "{reply:?}");
    }
    let mut request = request("scout", 1, vec![]);
    request.output_schema = Some(Arc::new(json!({"type": "object"})));
    let reply = call(&sim(&[r#"{"a": 1}"#], malformed), &request).await.0.unwrap();
    assert!(!is_json(&reply.text), "{reply:?}");
}

#[tokio::test(start_paused = true)]
async fn latency_is_waited_out_on_the_runtimes_clock() {
    let latency = Latency { p50: Span::from_millis(200), p99: Span::from_millis(1500) };
    let spec = SimSpec { latency: Some(latency), ..spec(&[ANSWER], Faults::default()) };
    let sim = Sim::new(&spec, Timeouts::default()).unwrap();
    let wall = StdInstant::now();
    let mut waits = Vec::new();
    let mut request = request("scout", 1, vec![user("go")]);
    for attempt in 1..=2000 {
        request.attempt = attempt;
        let started = Instant::now();
        call(&sim, &request).await.0.unwrap();
        waits.push(started.elapsed().as_millis());
    }
    waits.sort_unstable();
    assert!((180..220).contains(&waits[1000]), "p50 is {}", waits[1000]);
    assert!((1150..1950).contains(&waits[1980]), "p99 is {}", waits[1980]);
    assert!(wall.elapsed().as_secs() < 60, "the clock was not paused");
}

#[tokio::test(start_paused = true)]
async fn latency_beyond_the_timeout_is_a_timeout() {
    let latency = Latency { p50: Span::from_secs(500), p99: Span::from_secs(500) };
    let spec = SimSpec { latency: Some(latency), ..spec(&[ANSWER], Faults::default()) };
    let started = Instant::now();
    let reply = call(&Sim::new(&spec, Timeouts::default()).unwrap(), &request("scout", 1, vec![])).await.0;
    assert!(matches!(reply, Err(Error::Timeout { .. })), "{reply:?}");
    assert_eq!(started.elapsed().as_secs(), 120);
}

#[tokio::test]
async fn a_broken_script_is_refused_and_a_failing_one_fails_the_call() {
    let broken = Sim::new(&spec(&["{{"], Faults::default()), Timeouts::default()).unwrap_err();
    assert_eq!((broken.agent.as_str(), broken.step, broken.line), ("scout", 1, Some(1)));
    let failing = call(&sim(&["{{ vars }}"], Faults::default()), &request("scout", 1, vec![])).await.0.unwrap_err();
    assert!(!failing.is_transient());
    assert!(failing.to_string().contains("the script of agent `scout`, step 1, line 1: undefined value"), "{failing}");
}
