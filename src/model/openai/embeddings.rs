//! Embeddings: what texts mean, as vectors, from a server that speaks OpenAI's dialect.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Url};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout_at;

use super::{BASE_URL_HINT, SCHEME};
use crate::model::http::error::{excerpt, refused};
use crate::model::http::setup::{client, endpoint, reason, secret_header, shown};
use crate::model::http::{after, read_refusal};
use crate::model::{Error, SetupError, secret};
use crate::spec::SecretRef;

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How much of an answer is read: a batch of the longest vectors, each number written with twenty digits, takes a quarter.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A text that a server refuses is cut in half until it is this short: the end of a passage is worth less than its having no
/// vector.
const SHORTEST_BYTES: usize = 200;

/// How long the server may take for a query.
const QUERY_PATIENCE: Duration = Duration::from_secs(10);

const WHILE_EMBEDDING: &str = "before the vectors came";

/// An embeddings server.
pub struct Embedder {
    client: Client,
    endpoint: Url,
    model: Option<String>,
    key: Option<SecretString>,
    authorization: Option<HeaderValue>,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Datum>,
}

#[derive(Deserialize)]
struct Datum {
    index: usize,
    embedding: Vec<f32>,
}

impl Embedder {
    /// Makes ready to ask the server whose API begins at `base_url`. Nothing is sent yet.
    ///
    /// # Errors
    /// The address or the key can't be used.
    pub fn new(base_url: &str, model: Option<&str>, key: Option<&SecretRef>) -> Result<Self, SetupError> {
        let endpoint = endpoint(base_url, "", "/embeddings")?;
        let key = key.map(secret::resolve).transpose()?;
        let authorization = key.as_ref().map(|key| secret_header(SCHEME, key)).transpose()?;
        Ok(Self { client: client(&endpoint, CONNECT)?, endpoint, model: model.map(str::to_owned), key, authorization })
    }

    /// Asks for the vector of one query, as [`Embedder::embed`] does; or says why there is none. It waits for a few seconds:
    /// whoever asks can do without.
    ///
    /// # Errors
    /// What went wrong, in a sentence.
    pub async fn vector(
        base_url: &str,
        model: Option<&str>,
        key: Option<&SecretRef>,
        query: &str,
    ) -> Result<Vec<f32>, String> {
        let embedder = Self::new(base_url, model, key).map_err(|error| error.to_string())?;
        let vectors = embedder.embed(&[query.to_owned()], QUERY_PATIENCE).await.map_err(|error| error.to_string())?;
        vectors.into_iter().next().ok_or_else(|| "the embeddings server answered nothing".to_owned())
    }

    /// Asks for the vectors of texts, in their order. Where the server refuses them, they are sent in smaller batches, and at
    /// last cut: many take but a few hundred tokens. Dropping the future closes the connection.
    ///
    /// # Errors
    /// The server can't be reached, refuses, does not answer within `patience` each time, or answers something else.
    pub async fn embed(&self, texts: &[String], patience: Duration) -> Result<Vec<Vec<f32>>, Error> {
        let mut vectors = vec![Vec::new(); texts.len()];
        let mut open = VecDeque::from([texts.iter().map(String::as_str).enumerate().collect::<Vec<_>>()]);
        while let Some(mut batch) = open.pop_front().filter(|batch| !batch.is_empty()) {
            match self.ask(&batch, patience).await {
                Ok(answers) => batch.iter().zip(answers).for_each(|((place, _), vector)| vectors[*place] = vector),
                Err(Error::BadRequest { .. } | Error::ContextTooLong { .. } | Error::Overloaded { .. })
                    if batch.len() > 1 =>
                {
                    let rest = batch.split_off(batch.len() / 2);
                    open.extend([batch, rest]);
                }
                Err(error) => {
                    let refused = matches!(
                        error,
                        Error::BadRequest { .. } | Error::ContextTooLong { .. } | Error::Overloaded { .. }
                    );
                    let [(place, text)] = batch[..] else { return Err(error) };
                    if !refused || text.len() < SHORTEST_BYTES {
                        return Err(error);
                    }
                    open.push_back(vec![(place, &text[..text.floor_char_boundary(text.len() / 2)])]);
                }
            }
        }
        Ok(vectors)
    }

    async fn ask(&self, batch: &[(usize, &str)], patience: Duration) -> Result<Vec<Vec<f32>>, Error> {
        let deadline = after(patience);
        let input: Vec<&str> = batch.iter().map(|(_, text)| *text).collect();
        let mut body = json!({ "input": input });
        if let Some(model) = &self.model {
            body["model"] = model.as_str().into();
        }
        let mut post = self.client.post(self.endpoint.clone()).header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            post = post.header(AUTHORIZATION, authorization.clone());
        }
        let late = |_| Error::Timeout { stage: WHILE_EMBEDDING, after: patience };
        let sent = timeout_at(deadline, post.body(body.to_string()).send()).await.map_err(late)?;
        let mut response = sent.map_err(|error| self.unreached(&error))?;
        let status = response.status();
        if !status.is_success() {
            let headers = response.headers().clone();
            let body = read_refusal(response, deadline).await;
            return Err(refused(status.as_u16(), &headers, &body, self.key.as_ref(), BASE_URL_HINT));
        }
        let mut body = Vec::new();
        while let Some(chunk) =
            timeout_at(deadline, response.chunk()).await.map_err(late)?.map_err(|error| self.unreached(&error))?
        {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(self.foreign(&body));
            }
            body.extend_from_slice(&chunk);
        }
        self.read(&body, batch.len()).ok_or_else(|| self.foreign(&body))
    }

    /// Reads an answer: a vector for each text, all of one length.
    fn read(&self, body: &[u8], count: usize) -> Option<Vec<Vec<f32>>> {
        let mut data = serde_json::from_slice::<Answer>(body).ok()?.data;
        data.sort_by_key(|datum| datum.index);
        let length = data.first()?.embedding.len();
        let fits = data.len() == count
            && data.iter().enumerate().all(|(place, datum)| datum.index == place && datum.embedding.len() == length);
        (fits && length > 0).then(|| data.into_iter().map(|datum| datum.embedding).collect())
    }

    fn unreached(&self, error: &reqwest::Error) -> Error {
        Error::Transport { url: shown(&self.endpoint), message: excerpt(&reason(error), self.key.as_ref()) }
    }

    fn foreign(&self, body: &[u8]) -> Error {
        let said = excerpt(&String::from_utf8_lossy(&body[..body.len().min(1_024)]), self.key.as_ref());
        Error::Foreign { message: format!("these are no embeddings: `{said}`"), usage: None }
    }
}
