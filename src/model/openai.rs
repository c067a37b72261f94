//! The chat-completions dialect of OpenAI, and of all that speak it: llama.cpp, vLLM, Ollama, gateways.
//!
//! One call is one HTTP request, and nothing of it outlives its future: dropping it closes the connection. All that
//! comes back is bounded in size and in time, redirects are not followed, and no error carries the key or a header.

mod answer;
mod embeddings;
mod error;
mod request;
mod sse;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

pub use self::embeddings::Embedder;

use self::answer::{Answer, TooManyCalls};
use self::error::{BASE_URL_HINT, Said, allowance_pause, excerpt, refused};
use self::request::Dialect;
use super::{Error, Provider, Reply, Request, schema_mode, text_calls};
use crate::spec::{ModelSpec, Timeouts, ToolCalls};

/// Where OpenAI's own API begins.
pub const DEFAULT_BASE_URL: &str = "https://api.openai.com/v1";

/// How much of an answer is read. The longest that models write (128,000 tokens) is about 1 MB of text, and streaming
/// wraps each token in some 200 bytes: 26 MB in theory, a few in practice; what is longer is no answer but a fault.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// How much of a refusal is read: its message is in the first lines.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// How much of a stream is kept to show what it was, where it was no answer.
const HEAD_BYTES: usize = 1024;

/// How long a stream is listened to after the model is done: its usage comes at once, if at all.
const AFTER_FINISH: Duration = Duration::from_secs(5);

/// As long as forever, for time limits that no clock can add up.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

const CONNECTING: &str = "connecting";
const BEFORE_THE_FIRST_TOKEN: &str = "before the first token";
const BETWEEN_TOKENS: &str = "between tokens";

/// A model behind a server that speaks the chat-completions dialect.
pub struct OpenAi {
    client: Client,
    endpoint: Url,
    key: Option<SecretString>,
    authorization: Option<HeaderValue>,
    dialect: Dialect,
    tool_calls: ToolCalls,
    timeouts: Timeouts,
}

/// Why a model can't be called at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The address does not parse. It is not shown, for what is wrong with it may be a password in it.
    #[error("base_url is no address: {reason}")]
    BaseUrl {
        /// What is wrong with it.
        reason: String,
    },
    /// The address is not one of HTTP.
    #[error("base_url must begin with http:// or https://, not {scheme}:")]
    Scheme {
        /// How it begins instead.
        scheme: String,
    },
    /// The address has a user name or a password in it, which would end up in the journal.
    #[error("base_url must not hold a user name or a password; give the key as api_key = \"env:NAME\"")]
    Credentials,
    /// The key holds characters that no HTTP header can.
    #[error("the key holds a line break or another character that no key has")]
    Key,
    /// The HTTP client can't be made.
    #[error("the HTTP client can't be made")]
    Client(#[source] reqwest::Error),
}

impl OpenAi {
    /// Makes the provider of one model; `key` is what its `api_key` resolved to. Nothing is sent yet.
    ///
    /// # Errors
    /// The address or the key can't be used, or the system's certificates can't be read.
    pub fn new(spec: &ModelSpec, key: Option<SecretString>) -> Result<Self, SetupError> {
        let endpoint = endpoint(spec.base_url.as_deref().unwrap_or(DEFAULT_BASE_URL))?;
        let authorization = key.as_ref().map(authorization).transpose()?;
        let is_openai = endpoint.host_str() == Some("api.openai.com");
        Ok(Self {
            client: client(&endpoint, spec.timeouts.connect.0)?,
            dialect: Dialect::new(spec, is_openai),
            endpoint,
            key,
            authorization,
            tool_calls: spec.tool_calls,
            timeouts: spec.timeouts,
        })
    }

    /// Makes one request and reads its answer.
    async fn ask(&self, request: &Request, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<Reply, Error> {
        let deadline = after(self.timeouts.first_token.0);
        let mut post = self.client.post(self.endpoint.clone()).header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            post = post.header(AUTHORIZATION, authorization.clone());
        }
        let sent = timeout_at(deadline, post.body(self.dialect.body(request).to_string()).send()).await;
        let response = sent.map_err(|_| self.too_late())?.map_err(|error| self.unsent(error))?;
        let status = response.status();
        if !status.is_success() {
            let headers = response.headers().clone();
            let body = read_refusal(response, deadline).await;
            return Err(refused(status.as_u16(), &headers, &body, self.key.as_ref()));
        }
        let pause = allowance_pause(response.headers(), jiff::Timestamp::now());
        let reply = if is_event_stream(response.headers(), self.dialect.stream) {
            self.read_stream(response, deadline, progress).await?
        } else {
            self.read_whole(response, deadline, progress).await?
        };
        Ok(Reply { pause, ..reply })
    }

    /// Reads an answer that comes in one piece, because that was asked for or the server does not stream.
    async fn read_whole(
        &self,
        mut response: Response,
        deadline: Instant,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Reply, Error> {
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
        let mut answer = Answer::default();
        let value = serde_json::from_slice::<Value>(&body).unwrap_or_default();
        if let Some(error) = error_in(&value) {
            return Err(Said::of(error, self.key.as_ref()).into_error_of_its_own());
        }
        match answer.take_whole(&value) {
            Ok(true) => {}
            Ok(false) => return Err(self.no_answer(&body, &answer)),
            Err(TooManyCalls) => return Err(too_many_calls(&answer)),
        }
        let reply = answer.into_reply();
        if self.dialect.stream && !reply.text.is_empty() {
            progress(&reply.text);
        }
        Ok(reply)
    }

    /// Reads an answer that comes piece by piece. Once the model has said that it is done, nothing that happens to the
    /// stream makes the answer worse.
    async fn read_stream(
        &self,
        mut response: Response,
        mut deadline: Instant,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Reply, Error> {
        let (mut decoder, mut answer, mut head) = (sse::Decoder::default(), Answer::default(), Vec::new());
        let (mut received, mut began, mut done) = (0, false, false);
        while !done {
            let chunk = match timeout_at(deadline, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break,
                Ok(Err(_)) | Err(_) if answer.is_finished() => break,
                Ok(Err(error)) => return Err(self.cut(received, &reason(&error), answer.usage())),
                Err(_) if began => {
                    return Err(Error::Timeout { stage: BETWEEN_TOKENS, after: self.timeouts.between_tokens.0 });
                }
                Err(_) => return Err(self.too_late()),
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
                began = true;
                let patience = self.timeouts.between_tokens.0;
                deadline = after(if answer.is_finished() { patience.min(AFTER_FINISH) } else { patience });
            }
        }
        if !done && let Some(event) = decoder.finish() {
            done = matches!(self.take_event(&event, &mut answer, received, progress)?, Step::Done);
        }
        if !answer.has_begun() {
            return Err(self.no_answer(&head, &answer));
        }
        if !done && !answer.is_finished() {
            return Err(self.cut(received, "it ended before the model was done", answer.usage()));
        }
        Ok(answer.into_reply())
    }

    fn take_event(
        &self,
        data: &str,
        answer: &mut Answer,
        received: usize,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Step, Error> {
        let data = data.trim();
        if data.is_empty() {
            return Ok(Step::Nothing);
        }
        if data == "[DONE]" {
            return Ok(Step::Done);
        }
        let Ok(piece) = serde_json::from_str::<Value>(data) else {
            return Err(self.no_answer(data.as_bytes(), answer));
        };
        if let Some(error) = error_in(&piece) {
            let said = Said::of(error, self.key.as_ref());
            // What has been written will be billed, so from there on it is a broken answer, not a refusal.
            return Err(if answer.has_begun() {
                self.cut(received, &said.into_message(), answer.usage())
            } else {
                said.into_error_of_its_own()
            });
        }
        match answer.take_piece(&piece, progress) {
            Ok(true) => Ok(Step::GotOn),
            Ok(false) => Ok(Step::Nothing),
            Err(TooManyCalls) => Err(too_many_calls(answer)),
        }
    }

    /// Says what it means that a request got no response at all.
    fn unsent(&self, error: reqwest::Error) -> Error {
        if error.is_connect() && error.is_timeout() {
            return Error::Timeout { stage: CONNECTING, after: self.timeouts.connect.0 };
        }
        if error.is_connect() || error.is_builder() {
            let message = excerpt(&reason(&error), self.key.as_ref());
            return Error::Transport { url: shown(&self.endpoint), message };
        }
        // The provider may have seen the request and begun to write, so this must count as billed.
        self.cut(0, &reason(&error), None)
    }

    fn too_late(&self) -> Error {
        Error::Timeout { stage: BEFORE_THE_FIRST_TOKEN, after: self.timeouts.first_token.0 }
    }

    fn cut(&self, received: usize, message: &str, usage: Option<crate::run::Usage>) -> Error {
        Error::Cut { received, message: excerpt(message, self.key.as_ref()), usage }
    }

    fn no_answer(&self, body: &[u8], answer: &Answer) -> Error {
        let said = excerpt(&String::from_utf8_lossy(body), self.key.as_ref());
        let what = if said.is_empty() { "it is empty".to_owned() } else { format!("it is `{said}`") };
        let (message, usage) = (format!("{what}; {BASE_URL_HINT}"), answer.usage());
        // What is empty or begins as answers do may be whole the next time; a web page will be there again.
        match body.trim_ascii_start().first() {
            None | Some(b'{' | b'd' | b':') => Error::Malformed { message, usage },
            Some(_) => Error::Foreign { message, usage },
        }
    }
}

impl Provider for OpenAi {
    fn call<'a>(
        &'a self,
        request: &'a Request,
        progress: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(async move {
            if self.tool_calls == ToolCalls::Schema {
                return self.ask_for_a_step(request, progress).await;
            }
            let mut reply = self.ask(request, progress).await?;
            if reply.tool_calls.is_empty()
                && let Some(calls) = text_calls::read(&reply.text, &request.tools)
            {
                reply.tool_calls = calls;
                reply.text.clear();
            }
            Ok(reply)
        })
    }
}

impl OpenAi {
    /// Asks for one JSON object instead of native tool calls. Its pieces are nothing to show, so `progress` is told of
    /// the answer in it, at the end.
    async fn ask_for_a_step(&self, request: &Request, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<Reply, Error> {
        let step = schema_mode::rewrite(request);
        if request.tools.is_empty() {
            return self.ask(&step, progress).await;
        }
        let reply = schema_mode::read(request, self.ask(&step, &|_| {}).await?);
        if reply.malformed.is_none() && !reply.text.is_empty() {
            progress(&reply.text);
        }
        Ok(reply)
    }
}

/// What an event of a stream did.
enum Step {
    Nothing,
    GotOn,
    Done,
}

/// Makes what sends requests to an endpoint.
fn client(endpoint: &Url, connect: Duration) -> Result<Client, SetupError> {
    // Whoever installed another provider of cryptography before may keep it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = Client::builder()
        .user_agent(concat!("provost/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(connect);
    if is_loopback(endpoint) {
        client = client.no_proxy();
        if endpoint.scheme() == "http" {
            // Reading the system's certificates takes time, and fails where there are none.
            client = client.tls_certs_only([]);
        }
    }
    client.build().map_err(SetupError::Client)
}

/// Appends the path of chat completions to the address where the API begins.
fn endpoint(base_url: &str) -> Result<Url, SetupError> {
    endpoint_at(base_url, "/chat/completions")
}

/// Appends an endpoint's path to the address where the API begins.
fn endpoint_at(base_url: &str, endpoint: &str) -> Result<Url, SetupError> {
    let mut url = Url::parse(base_url).map_err(|error| SetupError::BaseUrl { reason: error.to_string() })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(SetupError::Scheme { scheme: url.scheme().to_owned() });
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(SetupError::Credentials);
    }
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/');
    let path = format!("{}{endpoint}", path.strip_suffix(endpoint).unwrap_or(path));
    url.set_path(&path);
    Ok(url)
}

fn authorization(key: &SecretString) -> Result<HeaderValue, SetupError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret())).map_err(|_| SetupError::Key)?;
    value.set_sensitive(true);
    Ok(value)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Returns an address without its query, which may hold a key.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.into()
}

/// Returns why a connection failed, from the outermost reason to the innermost, without the address.
fn reason(error: &reqwest::Error) -> String {
    let mut reasons: Vec<String> = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let said = error.to_string();
        if reasons.last() != Some(&said) {
            reasons.push(said);
        }
        source = error.source();
    }
    if reasons.is_empty() { "the connection broke".to_owned() } else { reasons.join(": ") }
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
async fn read_refusal(mut response: Response, deadline: Instant) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await {
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_ERROR_BYTES - body.len())]);
        if body.len() == MAX_ERROR_BYTES {
            break;
        }
    }
    body
}

fn too_long(usage: Option<crate::run::Usage>) -> Error {
    Error::Malformed { message: format!("it is longer than {MAX_ANSWER_BYTES} bytes, which no answer is"), usage }
}

fn too_many_calls(answer: &Answer) -> Error {
    Error::Foreign { message: "it asks for more tools at once than any model would".to_owned(), usage: answer.usage() }
}

fn after(duration: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(duration).unwrap_or(now + FAR)
}
