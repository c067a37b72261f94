//! Dialects that are spoken through the crate `genai`: Google's Gemini, Bedrock's Converse, Ollama's own and OpenAI's
//! Responses. Needs the cargo feature `genai`.
//!
//! A call is one HTTP request, and dropping it closes the connection, as with the dialects that are spoken by hand.
//! What is otherwise:
//!
//! * Headers of an answer that succeeded are not seen, so that an allowance that has run out is known by the refusal that follows.
//! * An answer is bounded in time and in the text that it brings, and not in the bytes that bring nothing.
//! * A model whose name ends in `-low`, `-medium` or `-high` is asked for that much thinking, under its name without the end.
//! * What was cut off is charged as reserved: none of these says until the end what it has used.

mod request;
#[cfg(test)]
mod tests;

use ::genai::adapter::AdapterKind;
use ::genai::chat::{ChatOptions, ChatStreamEvent, ContentPart, StopReason, Usage as Used};
use ::genai::resolver::{AuthData, Endpoint};
use ::genai::{Client, ModelIden, ServiceTarget, webc};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

pub use super::http::setup::SetupError;

use self::request::Dialect;
use super::http::answer::{MAX_TOKENS, MAX_TOOL_CALLS};
use super::http::error::{Said, excerpt, refused};
use super::http::setup::{client, endpoint, reason};
use super::http::{BEFORE_THE_FIRST_TOKEN, BETWEEN_TOKENS, MAX_ANSWER_BYTES, after, too_long, too_many_calls, unsent};
use super::tool_mode::{self, Ask};
use super::{Error, Finish, Provider, Reply, Request};
use crate::run::{ToolCall, Usage};
use crate::spec::{ModelSpec, ProviderKind, Timeouts, ToolCalls};

const HINT: &str = "is base_url right?";

/// What stands for a key where there is none: the crate wants one, and servers that ask for none don't read it.
const NO_KEY: &str = "none";

/// A model behind a server whose dialect the crate `genai` speaks.
pub struct Genai {
    client: Client,
    dialect: Dialect,
    endpoint: Url,
    model: ModelIden,
    key: Option<SecretString>,
    options: ChatOptions,
    stream: bool,
    tool_calls: ToolCalls,
    timeouts: Timeouts,
}

impl Genai {
    /// Makes the provider of one model; `key` is what its `api_key` resolved to. Nothing is sent yet.
    ///
    /// # Errors
    /// The address can't be used, there is none and none is known for such a provider, or the system's certificates can't
    /// be read.
    pub fn new(kind: ProviderKind, spec: &ModelSpec, key: Option<SecretString>) -> Result<Self, SetupError> {
        let (adapter, own) = match kind {
            ProviderKind::Gemini => (AdapterKind::Gemini, "https://generativelanguage.googleapis.com/v1beta"),
            ProviderKind::Bedrock => (AdapterKind::BedrockApi, ""),
            ProviderKind::Ollama => (AdapterKind::Ollama, "http://localhost:11434"),
            _ => (AdapterKind::OpenAIResp, "https://api.openai.com/v1"),
        };
        let mut endpoint = endpoint(spec.base_url.as_deref().unwrap_or(own), "", "")?;
        endpoint.set_path(&format!("{}/", endpoint.path().trim_end_matches('/')));
        let client = Client::builder().with_reqwest(client(&endpoint, spec.timeouts.connect.0)?);
        let client = client.build().map_err(|error| SetupError::Genai(error.to_string()))?;
        let mut options =
            ChatOptions::default().with_capture_usage(true).with_capture_tool_calls(true).with_capture_raw_body(true);
        options.temperature = spec.temperature;
        Ok(Self {
            client,
            dialect: Dialect::new(kind),
            endpoint,
            model: ModelIden::new(adapter, spec.model.clone().unwrap_or_default()),
            key,
            options,
            stream: spec.stream,
            tool_calls: spec.tool_calls,
            timeouts: spec.timeouts,
        })
    }

    fn target(&self) -> ServiceTarget {
        let key = self.key.as_ref().map_or(NO_KEY, |key| key.expose_secret());
        ServiceTarget {
            endpoint: Endpoint::from_owned(self.endpoint.as_str()),
            auth: AuthData::from_single(key),
            model: self.model.clone(),
        }
    }

    async fn ask_whole(&self, request: &Request, deadline: Instant) -> Result<Reply, Error> {
        let (chat, options) = self.dialect.chat(request, self.options.clone());
        let answer = timeout_at(deadline, self.client.exec_chat(self.target(), chat, Some(&options))).await;
        let answer = answer.map_err(|_| self.too_late())?.map_err(|error| self.failed(error, 0))?;
        let usage = self.usage(Some(&answer.usage));
        let (mut text, mut calls) = (String::new(), Vec::new());
        for part in answer.content {
            match part {
                ContentPart::Text(piece) => text.push_str(&piece),
                ContentPart::ToolCall(call) => calls.push(called(call.fn_name, &call.fn_arguments)),
                _ => {}
            }
        }
        // The crate takes a body in which it finds nothing for an empty answer.
        if text.is_empty() && calls.is_empty() && answer.stop_reason.is_none() {
            let body = answer.captured_raw_body.unwrap_or_default().to_string();
            let said = excerpt(&body, self.key.as_ref());
            return Err(Error::Malformed { message: format!("it is `{said}`; {HINT}"), usage });
        }
        reply(text, calls, usage, answer.stop_reason)
    }

    async fn ask_streamed(
        &self,
        request: &Request,
        mut deadline: Instant,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Reply, Error> {
        let (chat, options) = self.dialect.chat(request, self.options.clone());
        let asked = timeout_at(deadline, self.client.exec_chat_stream(self.target(), chat, Some(&options))).await;
        let mut stream = asked.map_err(|_| self.too_late())?.map_err(|error| self.failed(error, 0))?.stream;
        let (mut text, mut received, mut pieces) = (String::new(), 0, Vec::new());
        let mut late = self.too_late();
        let end = loop {
            let event = match timeout_at(deadline, stream.next()).await {
                Err(_) => return Err(late),
                Ok(None) => return Err(self.ended_early(received)),
                Ok(Some(Err(error))) => return Err(self.failed(error, received)),
                Ok(Some(Ok(event))) => event,
            };
            match event {
                ChatStreamEvent::Start | ChatStreamEvent::Heartbeat => continue,
                ChatStreamEvent::Chunk(chunk) => {
                    received += chunk.content.len();
                    progress(&chunk.content);
                    text.push_str(&chunk.content);
                }
                ChatStreamEvent::ReasoningChunk(chunk) | ChatStreamEvent::ThoughtSignatureChunk(chunk) => {
                    received += chunk.content.len().max(1);
                }
                ChatStreamEvent::ToolCallChunk(chunk) => {
                    received += 1;
                    keep_piece(&mut pieces, chunk.tool_call);
                }
                ChatStreamEvent::End(end) => break end,
            }
            if received > MAX_ANSWER_BYTES {
                return Err(too_long(None));
            }
            if pieces.len() > MAX_TOOL_CALLS {
                return Err(too_many_calls(None));
            }
            late = Error::Timeout { stage: BETWEEN_TOKENS, after: self.timeouts.between_tokens.0 };
            deadline = after(self.timeouts.between_tokens.0);
        };
        // The crate makes an end of its own where the stream has none.
        if end.captured_stop_reason.is_none() {
            return Err(self.ended_early(received));
        }
        let calls = end.captured_content.map(|content| content.into_tool_calls()).unwrap_or_default();
        let calls = calls.into_iter().map(|call| as_written(call, &pieces));
        reply(text, calls.collect(), self.usage(end.captured_usage.as_ref()), end.captured_stop_reason)
    }

    fn usage(&self, used: Option<&Used>) -> Option<Usage> {
        usage(used, self.model.adapter_kind == AdapterKind::BedrockApi)
    }

    /// Says what a failure of the crate's means. Its own words are not used where they would show what was sent.
    fn failed(&self, error: ::genai::Error, received: usize) -> Error {
        use ::genai::Error as E;
        let key = self.key.as_ref();
        match error {
            // A streamed refusal is within the failure of its stream.
            E::WebStream { error, .. } => match error.downcast::<E>() {
                Ok(error) => self.failed(*error, received),
                Err(error) => match error.downcast::<reqwest::Error>() {
                    Ok(error) if received == 0 => unsent(&error, &self.endpoint, self.timeouts.connect.0, key),
                    Ok(error) => cut(received, &excerpt(&reason(&error), key)),
                    Err(error) => cut(received, &excerpt(&error.to_string(), key)),
                },
            },
            E::HttpError { status, body, headers, .. }
            | E::WebModelCall { webc_error: webc::Error::ResponseFailedStatus { status, body, headers }, .. } => {
                refused(status.as_u16(), &headers, body.as_bytes(), key, HINT)
            }
            E::WebModelCall { webc_error: webc::Error::Reqwest(error), .. } => {
                unsent(&error, &self.endpoint, self.timeouts.connect.0, key)
            }
            E::WebModelCall { webc_error: webc::Error::ResponseFailedNotJson { body, .. }, .. } => {
                Error::Foreign { message: format!("it is `{}`; {HINT}", excerpt(&body, key)), usage: None }
            }
            E::WebModelCall { webc_error: webc::Error::ResponseFailedInvalidJson { body, .. }, .. } => {
                Error::Malformed { message: format!("it is `{}`; {HINT}", excerpt(&body, key)), usage: None }
            }
            E::ChatResponse { body, .. } => self.said(&body, received),
            E::ChatResponseGeneration { response_body, .. } if response_body.get("error").is_some() => {
                self.said(&response_body, received)
            }
            E::ChatResponseGeneration { cause, .. } => Error::Malformed { message: excerpt(&cause, key), usage: None },
            E::StreamParse { serde_error, .. } if received == 0 => {
                Error::Malformed { message: excerpt(&serde_error.to_string(), key), usage: None }
            }
            E::StreamParse { serde_error, .. } => cut(received, &excerpt(&serde_error.to_string(), key)),
            other => Error::Foreign { message: excerpt(&other.to_string(), key), usage: None },
        }
    }

    /// Says what an error means that stands where an answer should. What was written before it will be billed.
    fn said(&self, body: &Value, received: usize) -> Error {
        if let (0, Some(Value::String(wrong))) = (received, body.get("error")) {
            // The crate's own words for what it can't read.
            return Error::Malformed { message: excerpt(wrong, self.key.as_ref()), usage: None };
        }
        let said = Said::of(body.get("error").unwrap_or(body), self.key.as_ref());
        match received {
            0 => said.into_error_of_its_own(HINT),
            _ => cut(received, &said.into_message()),
        }
    }

    fn ended_early(&self, received: usize) -> Error {
        match received {
            0 => Error::Malformed { message: format!("it is empty; {HINT}"), usage: None },
            _ => cut(received, "it ended before the model was done"),
        }
    }

    fn too_late(&self) -> Error {
        Error::Timeout { stage: BEFORE_THE_FIRST_TOKEN, after: self.timeouts.first_token.0 }
    }
}

impl Ask for Genai {
    async fn ask(&self, request: &Request, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<Reply, Error> {
        let deadline = after(self.timeouts.first_token.0);
        match self.stream {
            true => self.ask_streamed(request, deadline, progress).await,
            false => self.ask_whole(request, deadline).await,
        }
    }
}

impl Provider for Genai {
    fn call<'a>(
        &'a self,
        request: &'a Request,
        progress: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(tool_mode::call(self, self.tool_calls, request, progress))
    }
}

/// Keeps what the model has written of a call's arguments so far. Each piece brings all of them.
fn keep_piece(pieces: &mut Vec<(String, String)>, call: ::genai::chat::ToolCall) {
    let Value::String(written) = call.fn_arguments else { return };
    match pieces.iter_mut().find(|(id, _)| *id == call.call_id) {
        Some((_, before)) => *before = written,
        None => pieces.push((call.call_id, written)),
    }
}

/// Returns a call as the model wrote it. Of arguments that are no JSON the crate makes none at all, and a tool would be
/// called without them.
fn as_written(call: ::genai::chat::ToolCall, pieces: &[(String, String)]) -> ToolCall {
    let written = pieces.iter().find(|(id, _)| *id == call.call_id).map(|(_, written)| written);
    match written {
        Some(written) if is_empty(&call.fn_arguments) && !written.trim().is_empty() => {
            ToolCall { name: call.fn_name, arguments: written.clone() }
        }
        _ => called(call.fn_name, &call.fn_arguments),
    }
}

fn is_empty(arguments: &Value) -> bool {
    match arguments {
        Value::Null => true,
        Value::Object(arguments) => arguments.is_empty(),
        _ => false,
    }
}

/// Returns a call with its arguments as they are to be read: what is no object stays, so that the model is told of it.
fn called(name: String, arguments: &Value) -> ToolCall {
    let arguments = match arguments {
        Value::Null => "{}".to_owned(),
        Value::String(written) => written.clone(),
        arguments => arguments.to_string(),
    };
    ToolCall { name, arguments }
}

fn reply(
    text: String,
    tool_calls: Vec<ToolCall>,
    usage: Option<Usage>,
    stopped: Option<StopReason>,
) -> Result<Reply, Error> {
    if tool_calls.len() > MAX_TOOL_CALLS {
        return Err(too_many_calls(usage));
    }
    let mut reply = Reply { text, tool_calls, usage, ..Reply::default() };
    match stopped {
        Some(StopReason::MaxTokens(_)) => reply.finish = Finish::Length,
        Some(StopReason::ContentFilter(_)) => reply.finish = Finish::Filtered,
        Some(StopReason::Other(reason)) => match reason.as_str() {
            "content_filtered" | "guardrail_intervened" => reply.finish = Finish::Filtered,
            "MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" => {
                reply.malformed = Some("the call of a tool can't be read".to_owned());
            }
            _ => {}
        },
        _ => {}
    }
    if reply.finish == Finish::Filtered {
        // What a model asks for in an answer that is withheld is not to be done.
        reply.tool_calls.clear();
    }
    if reply.tool_calls.iter().any(|call| call.name.is_empty()) {
        reply.tool_calls.retain(|call| !call.name.is_empty());
        reply.malformed = Some("a tool call must give the tool's name".to_owned());
    }
    Ok(reply)
}

/// Reads what a call used; none where it can't be true: negative, absurd, or half of it missing. Some count what comes from
/// a cache, or goes to one, beside what else is read (`is_beside`).
fn usage(used: Option<&Used>, is_beside: bool) -> Option<Usage> {
    let tokens = |count: Option<i32>| u64::try_from(count?).ok().filter(|count| *count <= MAX_TOKENS);
    let used = used?;
    let (read, output_tokens) = (tokens(used.prompt_tokens)?, tokens(used.completion_tokens)?);
    let details = used.prompt_tokens_details.as_ref();
    let part = |count: Option<Option<i32>>| count.flatten().map_or(Some(0), |count| tokens(Some(count)));
    let cached_input_tokens = part(details.map(|details| details.cached_tokens))?;
    let cache_write_tokens = part(details.map(|details| details.cache_creation_tokens))?;
    let input_tokens = if is_beside { read + cached_input_tokens + cache_write_tokens } else { read };
    let usage = Usage { input_tokens, cached_input_tokens, cache_write_tokens, output_tokens };
    let is_true = cached_input_tokens + cache_write_tokens <= input_tokens && usage.tokens() > 0;
    is_true.then_some(usage)
}

fn cut(received: usize, message: &str) -> Error {
    Error::Cut { received, message: message.to_owned(), usage: None }
}
