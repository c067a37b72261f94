//! The simulated model over HTTP, in the OpenAI chat-completions dialect, so that any framework can be loaded with it.
//!
//! A request is read into one that any provider takes, [`Sim`] plans the try, and the plan is performed with real HTTP
//! faults: status codes, streams that stall, connections that break.

mod dialect;
mod identity;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::dialect::{Answer, Chat};
use self::identity::Strangers;
use crate::model::sim::{Fault, Plan, RETRY_AFTER, Sim};
use crate::model::{Error, Request};

/// The longest request that is read: a transcript of some four million tokens.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// How long a stalled answer, or one that never begins, is held open: longer than any client waits.
const STALL: Duration = Duration::from_secs(600);

/// How long a cut answer is held before it breaks. What was written goes out only while the body makes the server wait,
/// and is forgotten when the body fails.
const CUT: Duration = Duration::from_millis(5);

struct Server {
    sim: Sim,
    strangers: Strangers,
    shutdown: CancellationToken,
}

/// Serves the simulated model on `listener` until `shutdown` is cancelled and the answers under way are given; from
/// then on none of them waits any longer.
///
/// A client that sends `x-provost-run`, `x-provost-agent`, `x-provost-call` and `x-provost-attempt` gets what the
/// model in process would have drawn for that try. Other clients are told apart by what they send, and a body that
/// comes again counts as another try.
///
/// # Errors
/// The listener fails.
pub async fn serve(listener: TcpListener, sim: Sim, shutdown: CancellationToken) -> io::Result<()> {
    let server = Arc::new(Server { sim, strangers: Strangers::default(), shutdown: shutdown.clone() });
    let router = Router::new()
        .route("/v1/chat/completions", post(complete))
        .route("/v1/models", get(models))
        .route("/health", get(async || json_response(StatusCode::OK, &json!({"status": "ok"}))))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(server);
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn models(State(server): State<Arc<Server>>) -> Response {
    let mut names: Vec<&str> = server.sim.scripted().chain(["sim"]).collect();
    names.sort_unstable();
    let model = |name| json!({"id": name, "object": "model", "created": 0, "owned_by": "provost"});
    let list = json!({"object": "list", "data": names.into_iter().map(model).collect::<Vec<_>>()});
    json_response(StatusCode::OK, &list)
}

async fn complete(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return refuse(rejection.status(), "invalid_request_error", &rejection.body_text()),
    };
    let chat: Chat = match serde_json::from_slice(&body) {
        Ok(chat) => chat,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, "invalid_request_error", &error.to_string()),
    };
    let form = Form { stream: chat.stream.unwrap_or_default(), usage: chat.wants_usage(), model: chat.model.clone() };
    let identity = server.identify(&headers, &chat, &body);
    drop(body);
    let request = chat.into_request(identity);
    match server.sim.plan(&request) {
        Ok(plan) => server.perform(plan, &request, &form).await,
        Err(Error::Script { message }) => refuse(StatusCode::BAD_REQUEST, "invalid_request_error", &message),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "server_error", &error.to_string()),
    }
}

/// In which form an answer is wanted.
struct Form {
    stream: bool,
    usage: bool,
    model: String,
}

impl Server {
    fn identify(&self, headers: &HeaderMap, chat: &Chat, body: &[u8]) -> identity::Identity {
        let scripted = |name: &str| self.sim.scripted().any(|agent| agent == name);
        identity::of_headers(headers, chat, scripted).unwrap_or_else(|| self.strangers.identify(chat, body))
    }

    async fn perform(&self, plan: Plan, request: &Request, form: &Form) -> Response {
        match plan.fault {
            Some(Fault::RateLimited) => return rate_limited(),
            Some(Fault::Overloaded) => {
                return refuse(StatusCode::SERVICE_UNAVAILABLE, "server_error", "simulated: overloaded");
            }
            Some(Fault::Timeout) => {
                self.wait(STALL).await;
                return refuse(StatusCode::GATEWAY_TIMEOUT, "server_error", "simulated: no answer came in time");
            }
            _ => self.wait(plan.delay).await,
        }
        let answer = Answer { reply: &plan.reply, request, model: &form.model };
        let (kind, parts) = if form.stream {
            ("text/event-stream", answer.events(form.usage))
        } else {
            ("application/json", vec![answer.whole().to_string()])
        };
        let body = match plan.fault {
            Some(Fault::Cut) => self.broken(parts, CUT),
            Some(Fault::Stall) => self.broken(parts, STALL),
            _ if form.stream => Body::from_stream(stream::iter(parts.into_iter().map(Ok::<_, io::Error>))),
            _ => Body::from(parts.concat()),
        };
        ([(header::CONTENT_TYPE, kind)], body).into_response()
    }

    /// Waits, but not beyond the shutdown.
    async fn wait(&self, time: Duration) {
        if !time.is_zero() {
            let _ = tokio::time::timeout(time, self.shutdown.cancelled()).await;
        }
    }

    /// Makes a body that gives the first half, holds still for `hold`, and then breaks the connection.
    fn broken(&self, mut parts: Vec<String>, hold: Duration) -> Body {
        match parts.as_mut_slice() {
            [whole] => whole.truncate(whole.floor_char_boundary(whole.len() / 2)),
            _ => parts.truncate(parts.len().div_ceil(2)),
        }
        let shutdown = self.shutdown.clone();
        let end = stream::once(async move {
            let _ = tokio::time::timeout(hold, shutdown.cancelled()).await;
            Err(io::Error::new(io::ErrorKind::ConnectionAborted, "simulated: the answer breaks off"))
        });
        Body::from_stream(stream::iter(parts.into_iter().map(Ok)).chain(end))
    }
}

fn rate_limited() -> Response {
    let body = error("requests", Some("rate_limit_exceeded"), "simulated: rate limited");
    let mut response = json_response(StatusCode::TOO_MANY_REQUESTS, &body);
    response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER.as_secs().into());
    response
}

fn refuse(status: StatusCode, kind: &str, message: &str) -> Response {
    json_response(status, &error(kind, None, message))
}

/// An error as OpenAI writes it.
fn error(kind: &str, code: Option<&str>, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

#[cfg(test)]
mod tests;
