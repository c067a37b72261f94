//! What the dialects that are spoken over HTTP have in common.
//!
//! One call is one HTTP request, and nothing of it outlives its future: dropping it closes the connection. All that
//! comes back is bounded in size and in time, redirects are not followed, and no error carries the key or a header.

pub(super) mod answer;
pub(super) mod error;
pub(super) mod post;
pub(super) mod setup;
mod sse;

use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Response, Url};
use secrecy::SecretString;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use self::answer::{Answer, Step, TooManyCalls};
use self::error::{Said, excerpt, refused};
use self::setup::{SetupError, client, reason, shown};
use super::tool_mode::{self, Ask};
use super::{Error, Provider, Reply, Request};
use crate::run::Usage;
use crate::spec::{ModelSpec, Timeouts, ToolCalls};

/// How much of an answer is read. The longest that models write (128,000 tokens) is about 1 MB of text, and streaming
/// wraps each token in some 200 bytes: 26 MB in theory, a few in practice; what is longer is no answer but a fault.
pub(super) const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// How much of a refusal is read: its message is in the first lines.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// How much of a stream is kept to show what it was, where it was no answer.
const HEAD_BYTES: usize = 1024;

/// How long a stream is listened to after the model is done: its usage comes at once, if at all.
const AFTER_FINISH: Duration = Duration::from_secs(5);

/// As long as forever, for time limits that no clock can add up.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// What ends a stream in some dialects.
const DONE: &str = "[DONE]";

pub(super) const CONNECTING: &str = "connecting";
pub(super) const BEFORE_THE_FIRST_TOKEN: &str = "before the first token";
pub(super) const BETWEEN_TOKENS: &str = "between tokens";

/// How requests are written and answers read.
pub(super) trait Dialect: Send + Sync + 'static {
    /// How its answers are put together.
    type Answer: Answer;

    /// What to look at where an answer seems to come from something else than the API.
    const BASE_URL_HINT: &'static str;

    /// Writes the body of a request.
    fn body(&self, request: &Request) -> Value;

    /// Whether it asks for streams.
    fn streams(&self) -> bool;

    /// Makes of what was answered what was asked for.
    fn reply(&self, _request: &Request, reply: Reply) -> Reply {
        reply
    }
}

/// A model behind a server.
pub(super) struct Server<D> {
    client: Client,
    endpoint: Url,
    key: Option<SecretString>,
    headers: HeaderMap,
    dialect: D,
    tool_calls: ToolCalls,
    timeouts: Timeouts,
}

impl<D: Dialect> Server<D> {
    /// Makes ready to ask. `headers` are those of the dialect, with the key in them; `key` itself is needed to keep it
    /// out of what is said of failures. Nothing is sent yet.
    pub(super) fn new(
        spec: &ModelSpec,
        endpoint: Url,
        key: Option<SecretString>,
        headers: HeaderMap,
        dialect: D,
    ) -> Result<Self, SetupError> {
        Ok(Self {
            client: client(&endpoint, spec.timeouts.connect.0)?,
            endpoint,
            key,
            headers,
            dialect,
            tool_calls: spec.tool_calls,
            timeouts: spec.timeouts,
        })
    }

    /// Reads an answer that comes in one piece, because that was asked for or the server does not stream.
    async fn read_whole(&self, mut response: Response, deadline: Instant) -> Result<D::Answer, Error> {
        let mut body = Vec::new();
        loop {
            match timeout_at(deadline, response.chunk()).await {
                Err(_) => return Err(self.too_late()),
                Ok(Err(error)) => return Err(self.cut(body.len(), &reason(&error), None)),
                Ok(Ok(None)) => break,
                Ok(Ok(Some(chunk))) if body.len() + chunk.len() > MAX_ANSWER_BYTES => return Err(too_long(None)),
                Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            }
        }
        let mut answer = D::Answer::default();
        let value = serde_json::from_slice::<Value>(&body).unwrap_or_default();
        if let Some(error) = error_in(&value) {
            return Err(Said::of(error, self.key.as_ref()).into_error_of_its_own(D::BASE_URL_HINT));
        }
        match answer.take_whole(&value) {
            Ok(true) => Ok(answer),
            Ok(false) => Err(self.no_answer(&body, answer.usage())),
            Err(TooManyCalls) => Err(too_many_calls(answer.usage())),
        }
    }

    /// Reads an answer that comes piece by piece. Once the model has said that it is done, nothing that happens to the
    /// stream makes the answer worse.
    async fn read_stream(
        &self,
        mut response: Response,
        mut deadline: Instant,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<D::Answer, Error> {
        let (mut decoder, mut answer, mut head) = (sse::Decoder::default(), D::Answer::default(), Vec::new());
        let (mut received, mut late, mut done) = (0, self.too_late(), false);
        while !done {
            let chunk = match timeout_at(deadline, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break,
                Ok(Err(_)) | Err(_) if answer.is_finished() => break,
                Ok(Err(error)) => return Err(self.cut(received, &reason(&error), answer.usage())),
                Err(_) => return Err(late),
            };
            received += chunk.len();
            if received > MAX_ANSWER_BYTES {
                return Err(too_long(answer.usage()));
            }
            head.extend_from_slice(&chunk[..chunk.len().min(HEAD_BYTES - head.len())]);
            let mut got_on = false;
            for event in decoder.feed(&chunk) {
                match self.take_event(&event, &mut answer, received, progress)? {
                    Step::Nothing => {}
                    Step::GotOn => got_on = true,
                    Step::Done => done = true,
                }
            }
            if got_on {
                (late, deadline) = self.patience(&answer);
            }
        }
        // An event that the end of the stream has cut in half says nothing but that there was more to come.
        if !done
            && let Some(event) = decoder.finish()
            && (is_whole(&event) || !answer.has_begun())
        {
            done = self.take_event(&event, &mut answer, received, progress)? == Step::Done;
        }
        if !answer.has_begun() {
            return Err(self.no_answer(&head, answer.usage()));
        }
        if !done && !answer.is_finished() {
            return Err(self.cut(received, "it ended before the model was done", answer.usage()));
        }
        Ok(answer)
    }

    /// Says until when the next piece has to come, and what it is if none does. A model that thinks and does not show
    /// it has as long as one that has not begun.
    fn patience(&self, answer: &D::Answer) -> (Error, Instant) {
        let between = self.timeouts.between_tokens.0;
        if answer.is_thinking() && self.timeouts.first_token.0 > between {
            return (self.too_late(), after(self.timeouts.first_token.0));
        }
        let late = Error::Timeout { stage: BETWEEN_TOKENS, after: between };
        (late, after(if answer.is_finished() { between.min(AFTER_FINISH) } else { between }))
    }

    fn take_event(
        &self,
        data: &str,
        answer: &mut D::Answer,
        received: usize,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Step, Error> {
        let data = data.trim();
        if data.is_empty() {
            return Ok(Step::Nothing);
        }
        if data == DONE {
            return Ok(if D::Answer::ENDS_WITH_DONE { Step::Done } else { Step::Nothing });
        }
        let Ok(piece) = serde_json::from_str::<Value>(data) else {
            return Err(self.no_answer(data.as_bytes(), answer.usage()));
        };
        if let Some(error) = error_in(&piece) {
            let said = Said::of(error, self.key.as_ref());
            // What has been written will be billed, so from there on it is a broken answer, not a refusal.
            return Err(if answer.has_written() {
                self.cut(received, &said.into_message(), answer.usage())
            } else {
                said.into_error_of_its_own(D::BASE_URL_HINT)
            });
        }
        answer.take_piece(&piece, progress).map_err(|TooManyCalls| too_many_calls(answer.usage()))
    }

    fn unsent(&self, error: &reqwest::Error) -> Error {
        unsent(error, &self.endpoint, self.timeouts.connect.0, self.key.as_ref())
    }

    fn too_late(&self) -> Error {
        Error::Timeout { stage: BEFORE_THE_FIRST_TOKEN, after: self.timeouts.first_token.0 }
    }

    fn cut(&self, received: usize, message: &str, usage: Option<Usage>) -> Error {
        Error::Cut { received, message: excerpt(message, self.key.as_ref()), usage }
    }

    fn no_answer(&self, body: &[u8], usage: Option<Usage>) -> Error {
        let said = excerpt(&String::from_utf8_lossy(body), self.key.as_ref());
        let what = if said.is_empty() { "it is empty".to_owned() } else { format!("it is `{said}`") };
        let message = format!("{what}; {}", D::BASE_URL_HINT);
        // What is empty or begins as answers do may be whole the next time; a web page will be there again.
        let begun = body.trim_ascii_start();
        match ["{", ":", "data:", "event:"].iter().any(|form| begins_alike(begun, form.as_bytes())) {
            true => Error::Malformed { message, usage },
            false => Error::Foreign { message, usage },
        }
    }
}

impl<D: Dialect> Ask for Server<D> {
    async fn ask(&self, request: &Request, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<Reply, Error> {
        let deadline = after(self.timeouts.first_token.0);
        let post = self.client.post(self.endpoint.clone()).header(CONTENT_TYPE, "application/json");
        let post = post.headers(self.headers.clone()).body(self.dialect.body(request).to_string());
        let sent = timeout_at(deadline, post.send()).await;
        let response = sent.map_err(|_| self.too_late())?.map_err(|error| self.unsent(&error))?;
        let status = response.status();
        if !status.is_success() {
            let headers = response.headers().clone();
            let body = read_refusal(response, deadline).await;
            return Err(refused(status.as_u16(), &headers, &body, self.key.as_ref(), D::BASE_URL_HINT));
        }
        let pause = error::allowance_pause(response.headers(), jiff::Timestamp::now());
        let is_stream = is_event_stream(response.headers(), self.dialect.streams());
        let answer = match is_stream {
            true => self.read_stream(response, deadline, progress).await?,
            false => self.read_whole(response, deadline).await?,
        };
        let reply = answer.into_reply();
        let told = if is_stream { reply.text.clone() } else { String::new() };
        let reply = self.dialect.reply(request, reply);
        if self.dialect.streams() && reply.text != told && !reply.text.is_empty() {
            progress(&reply.text);
        }
        Ok(Reply { pause, ..reply })
    }
}

impl<D: Dialect> Provider for Server<D> {
    fn call<'a>(
        &'a self,
        request: &'a Request,
        progress: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(tool_mode::call(self, self.tool_calls, request, progress))
    }
}

/// Whether one of two texts begins with the other.
fn begins_alike(one: &[u8], other: &[u8]) -> bool {
    one.iter().zip(other).all(|(one, other)| one == other)
}

fn is_whole(event: &str) -> bool {
    event.trim() == DONE || serde_json::from_str::<serde::de::IgnoredAny>(event).is_ok()
}

/// Whether the answer is a stream of events. Servers that stream don't all say so, and some that are asked to don't.
fn is_event_stream(headers: &HeaderMap, asked_for: bool) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
    kind.contains("event-stream") || (asked_for && !kind.contains("json") && !kind.contains("html"))
}

/// Returns the error that stands where an answer should.
fn error_in(value: &Value) -> Option<&Value> {
    let own = (value.get("object").and_then(Value::as_str) == Some("error")).then_some(value);
    value.get("error").filter(|error| !error.is_null()).or(own)
}

/// Reads the beginning of a refusal; what can't be read of it does not matter.
pub(super) async fn read_refusal(mut response: Response, deadline: Instant) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await {
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_ERROR_BYTES - body.len())]);
        if body.len() == MAX_ERROR_BYTES {
            break;
        }
    }
    body
}

/// Says what it means that a request got no response at all.
pub(super) fn unsent(error: &reqwest::Error, endpoint: &Url, connect: Duration, key: Option<&SecretString>) -> Error {
    if error.is_connect() && error.is_timeout() {
        return Error::Timeout { stage: CONNECTING, after: connect };
    }
    let message = excerpt(&reason(error), key);
    if error.is_connect() || error.is_builder() {
        return Error::Transport { url: shown(endpoint), message };
    }
    // The provider may have seen the request and begun to write, so this must count as billed.
    Error::Cut { received: 0, message, usage: None }
}

pub(super) fn too_long(usage: Option<Usage>) -> Error {
    Error::Malformed { message: format!("it is longer than {MAX_ANSWER_BYTES} bytes, which no answer is"), usage }
}

pub(super) fn too_many_calls(usage: Option<Usage>) -> Error {
    Error::Foreign { message: "it asks for more tools at once than any model would".to_owned(), usage }
}

/// Returns the moment that is so far away.
pub(super) fn after(duration: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(duration).unwrap_or(now + FAR)
}
