//! The built-in tool that finds passages of files that were indexed.

use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fs::blocking;
use super::memory::in_words;
use super::size::{FRAME_BYTES, json_len};
use super::{Call, Effect, Error, Tool};
use crate::memory::{Passage, Ranking, Shelf};
use crate::model::Embedder;

/// How many passages one search returns where the model does not say.
const DEFAULT_RESULTS: usize = 5;

/// How many passages one search returns at most.
const MAX_RESULTS: usize = 20;

/// `knowledge.search`.
pub(super) struct Search {
    shelf: Arc<Shelf>,
    name: Arc<str>,
    /// Paths beneath it are shown from there.
    directory: PathBuf,
}

impl Search {
    /// What the model is told of it.
    pub(super) const DESCRIPTION: &str = "Searches indexed files for passages about something, and returns them with \
        their places as path:first-last line, the best first. Ask in the words that the files may use.";

    pub(super) fn new(shelf: Arc<Shelf>, name: &str, directory: PathBuf) -> Self {
        Self { shelf, name: name.into(), directory }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// What is looked for: a question, words or names.
    query: String,
    /// How many passages, 1 to 20; 5 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct Found {
    passages: Vec<Shown>,
    ranked_by: Ranking,
    /// Why their vectors were not looked at, where they have some.
    #[serde(skip_serializing_if = "Option::is_none")]
    without_vectors: Option<String>,
    /// Whether there was no room for some.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// A passage, as a model reads it.
#[derive(Debug, Serialize)]
struct Shown {
    at: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    heading: String,
    text: String,
}

impl Tool for Search {
    type Arguments = Query;
    type Output = Found;

    fn description(&self) -> String {
        Self::DESCRIPTION.to_owned()
    }

    fn effect(&self) -> Effect {
        Effect::Pure
    }

    async fn call(&self, Query { query, limit }: Query, call: Call) -> Result<Found, Error> {
        let (shelf, name) = (self.shelf.clone(), self.name.clone());
        let embeddings = blocking(&call, move |_| {
            shelf.knowledge(&name).and_then(|found| found.embeddings(&name)).map_err(in_words)
        })
        .await?;
        let (vector, without_vectors) = match &embeddings {
            Some(of) => match Embedder::vector(&of.url, of.model.as_deref(), of.key.as_ref(), &query).await {
                Ok(vector) => (Some(vector), None),
                Err(why) => (None, Some(why)),
            },
            None => (None, None),
        };
        let limit = limit.unwrap_or(DEFAULT_RESULTS).clamp(1, MAX_RESULTS);
        let (shelf, name) = (self.shelf.clone(), self.name.clone());
        let find = move |_: &_| {
            let knowledge = shelf.knowledge(&name).map_err(in_words)?;
            knowledge.search(&name, &query, vector.as_deref(), limit).map_err(in_words)
        };
        let hits = blocking(&call, find).await?;
        let (passages, ranked_by) = (hits.passages, hits.ranked_by);
        let without_vectors = without_vectors.or(hits.without_vectors);
        let room =
            call.output_limit_bytes.saturating_sub(FRAME_BYTES + without_vectors.as_ref().map_or(0, String::len));
        let (passages, truncated) = self.shown(passages, room);
        Ok(Found { passages, ranked_by, without_vectors, truncated })
    }
}

impl Search {
    /// Returns the passages for which there is room, and whether there was none for some.
    fn shown(&self, passages: Vec<Passage>, mut room: usize) -> (Vec<Shown>, bool) {
        let all = passages.len();
        let mut shown = Vec::new();
        for passage in passages {
            let at = passage.place(&self.directory);
            let cost =
                [&at, &passage.heading, &passage.text].map(|text| json_len(text.as_bytes())).iter().sum::<usize>();
            if cost + FRAME_BYTES > room {
                break;
            }
            room -= cost + FRAME_BYTES;
            shown.push(Shown { at, heading: passage.heading, text: passage.text });
        }
        let truncated = shown.len() < all;
        (shown, truncated)
    }
}
