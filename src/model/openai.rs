//! The chat-completions dialect of OpenAI, and of all that speak it: llama.cpp, vLLM, Ollama, gateways.

mod answer;
mod embeddings;
mod request;
#[cfg(test)]
mod tests;

use futures_util::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use secrecy::SecretString;

pub use self::embeddings::Embedder;
pub use super::http::setup::SetupError;

use self::request::Dialect;
use super::http::Server;
use super::http::setup::{endpoint, secret_header};
use super::{Error, Provider, Reply, Request};
use crate::spec::ModelSpec;

/// Where OpenAI's own API begins.
pub const DEFAULT_BASE_URL: &str = "https://api.openai.com/v1";

/// What to look at where an answer seems to come from something else than the API.
const BASE_URL_HINT: &str = "is base_url right? it usually ends in /v1";

/// How a key is given.
const SCHEME: &str = "Bearer ";

/// A model behind a server that speaks the chat-completions dialect.
pub struct OpenAi {
    server: Server<Dialect>,
}

impl OpenAi {
    /// Makes the provider of one model; `key` is what its `api_key` resolved to. Nothing is sent yet.
    ///
    /// # Errors
    /// The address or the key can't be used, or the system's certificates can't be read.
    pub fn new(spec: &ModelSpec, key: Option<SecretString>) -> Result<Self, SetupError> {
        let endpoint = endpoint(spec.base_url.as_deref().unwrap_or(DEFAULT_BASE_URL), "", "/chat/completions")?;
        let is_openai = endpoint.host_str() == Some("api.openai.com");
        let mut headers = HeaderMap::new();
        if let Some(key) = &key {
            headers.insert(AUTHORIZATION, secret_header(SCHEME, key)?);
        }
        Ok(Self { server: Server::new(spec, endpoint, key, headers, Dialect::new(spec, is_openai))? })
    }
}

impl Provider for OpenAi {
    fn call<'a>(
        &'a self,
        request: &'a Request,
        progress: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        self.server.call(request, progress)
    }
}
