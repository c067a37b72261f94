//! The Messages dialect of Anthropic, and of gateways that speak it.
//!
//! **Structured answers.** The newest models refuse to be made to call a tool, older ones and gateways know no schema of
//! the answer. So an agent's schema is offered as one more tool, `answer`, which the model is asked to give its answer
//! by; what it says in text counts as well, and the runtime checks either. With `tool_calls = "schema"` there are no
//! tools at all: each step is asked for in words, as one JSON object.
//!
//! **Prompt caching.** Requests of an agent begin alike: its tools, its system message, the transcript so far. Marks for
//! the provider's cache stand at the end of the system message (of the tools, where there is none), at the end of the
//! transcript, and where it ended before the last step, so that each step finds what the step before left there. A
//! prefix that is shorter than the model's minimum (512 to 4,096 tokens) is not cached, at no cost. What is written to
//! the cache is [`Usage::cache_write_tokens`](crate::run::Usage), what is read from it
//! [`Usage::cached_input_tokens`](crate::run::Usage); both are part of what is read.
//!
//! **Thinking** is not asked for. Models that think all the same are heard to be alive by it; what they think is not kept.

mod answer;
mod request;
#[cfg(test)]
mod tests;

use futures_util::future::BoxFuture;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::SecretString;

pub use super::http::setup::SetupError;

use self::request::Dialect;
use super::http::Server;
use super::http::setup::{endpoint, secret_header};
use super::{Error, Provider, Reply, Request};
use crate::spec::ModelSpec;

/// Where Anthropic's own API is.
pub const DEFAULT_BASE_URL: &str = "https://api.anthropic.com";

/// The version of the dialect that is spoken.
const VERSION: &str = "2023-06-01";

/// A model behind a server that speaks the Messages dialect.
pub struct Anthropic {
    server: Server<Dialect>,
}

impl Anthropic {
    /// Makes the provider of one model; `key` is what its `api_key` resolved to. Nothing is sent yet.
    ///
    /// # Errors
    /// The address or the key can't be used, or the system's certificates can't be read.
    pub fn new(spec: &ModelSpec, key: Option<SecretString>) -> Result<Self, SetupError> {
        let endpoint = endpoint(spec.base_url.as_deref().unwrap_or(DEFAULT_BASE_URL), "/v1", "/messages")?;
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("anthropic-version"), HeaderValue::from_static(VERSION));
        if let Some(key) = &key {
            headers.insert(HeaderName::from_static("x-api-key"), secret_header("", key)?);
        }
        Ok(Self { server: Server::new(spec, endpoint, key, headers, Dialect::new(spec))? })
    }
}

impl Provider for Anthropic {
    fn call<'a>(
        &'a self,
        request: &'a Request,
        progress: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        self.server.call(request, progress)
    }
}
