//! The built-in tools that keep facts for later runs, find them and let them go.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::fs::blocking;
use super::size::{FRAME_BYTES, json_len};
use super::{Call, Effect, Error, Tool};
use crate::memory::{self, Fact, NewFact, Shelf, Whose};
use crate::run::Labels;
use crate::spec::MemoryScope;

/// How many facts one search returns where the model does not say.
const DEFAULT_RESULTS: usize = 5;

/// How many facts one search returns at most.
const MAX_RESULTS: usize = 20;

/// A memory, as its tools have it.
#[derive(Clone)]
pub(super) struct Memory {
    shelf: Arc<Shelf>,
    scope: MemoryScope,
}

impl Memory {
    pub(super) fn new(shelf: Arc<Shelf>, scope: MemoryScope) -> Self {
        Self { shelf, scope }
    }

    /// Says whose memory it is for a call.
    fn whose(&self, call: &Call) -> Result<Whose, Error> {
        let caller = &call.caller;
        match (self.scope, &caller.session) {
            (MemoryScope::Agent, _) => Ok(Whose::agent(&caller.tenant, &caller.network, &caller.agent)),
            (MemoryScope::Tenant, _) => Ok(Whose::tenant(&caller.tenant)),
            (MemoryScope::Session, Some(session)) => Ok(Whose::session(&caller.tenant, session)),
            (MemoryScope::Session, None) => Err(Error::Failed(
                "this memory is that of a session, and the run has none: whoever starts it has to name one (`--session KEY`)"
                    .to_owned(),
            )),
        }
    }
}

/// `memory.put`.
pub(super) struct Put(pub(super) Memory);

impl Put {
    /// What the model is told of it.
    pub(super) const DESCRIPTION: &str = "Keeps a fact for later runs, and returns its id. A fact is a sentence or a few \
        that can be understood by themselves: write names and dates out.";
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewText {
    /// The fact, in words by which it will be looked for.
    text: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Kept {
    id: String,
}

impl Tool for Put {
    type Arguments = NewText;
    type Output = Kept;

    fn description(&self) -> String {
        Self::DESCRIPTION.to_owned()
    }

    fn effect(&self) -> Effect {
        Effect::Idempotent
    }

    async fn call(&self, NewText { text }: NewText, call: Call) -> Result<Kept, Error> {
        let (whose, shelf, of) = (self.0.whose(&call)?, self.0.shelf.clone(), call.clone());
        let keep = move |cancelled: &CancellationToken| {
            let fact = NewFact {
                whose: &whose,
                key: &of.idempotency_key,
                text: &text,
                run: &of.run,
                agent: &of.id.agent,
                time_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
                labels: &of.caller.labels,
            };
            Ok(Kept { id: shelf.put(&fact, &|| cancelled.is_cancelled()).map_err(in_words)? })
        };
        blocking(&call, keep).await
    }
}

/// `memory.search`.
pub(super) struct Search(pub(super) Memory);

impl Search {
    /// What the model is told of it.
    pub(super) const DESCRIPTION: &str = "Finds facts that were kept, also in earlier runs, by the words in them, the \
        best first: each with its id, the run and the agent that kept it, and when.";
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// What is looked for: a few words, or a question.
    query: String,
    /// How many facts, 1 to 20; 5 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct Found {
    facts: Vec<Remembered>,
    /// Whether there was no room for some.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// A fact, as a model reads it.
#[derive(Debug, Serialize)]
struct Remembered {
    id: String,
    text: String,
    run: String,
    agent: String,
    /// RFC 3339, to the second.
    time: String,
    #[serde(skip_serializing_if = "Labels::is_empty")]
    labels: Labels,
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
        let (whose, shelf) = (self.0.whose(&call)?, self.0.shelf.clone());
        let limit = limit.unwrap_or(DEFAULT_RESULTS).clamp(1, MAX_RESULTS);
        let facts = blocking(&call, move |_| shelf.search(&whose, &query, limit).map_err(in_words)).await?;
        Ok(found(facts, &call))
    }
}

/// Makes the answer of the facts for which there is room. It carries their labels.
fn found(facts: Vec<Fact>, call: &Call) -> Found {
    let mut room = call.output_limit_bytes.saturating_sub(FRAME_BYTES);
    let (mut shown, all) = (Vec::new(), facts.len());
    for fact in facts {
        let labels: usize = fact.labels.iter().map(|label| json_len(label.as_bytes()) + 3).sum();
        let cost = json_len(fact.text.as_bytes()) + json_len(fact.agent.as_str().as_bytes()) + labels + FRAME_BYTES;
        if cost > room {
            break;
        }
        room -= cost;
        call.influence.join(&fact.labels);
        let time = Timestamp::from_millisecond(fact.time_ms.cast_signed()).unwrap_or_default();
        shown.push(Remembered {
            id: fact.id,
            text: fact.text,
            run: fact.run.to_string(),
            agent: fact.agent.to_string(),
            time: format!("{time:.0}"),
            labels: fact.labels,
        });
    }
    Found { truncated: shown.len() < all, facts: shown }
}

/// `memory.forget`.
pub(super) struct Forget(pub(super) Memory);

impl Forget {
    /// What the model is told of it.
    pub(super) const DESCRIPTION: &str = "Lets a kept fact go, by the id that a search shows.";
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Known {
    /// The fact's id.
    id: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Forgotten {
    forgotten: String,
}

impl Tool for Forget {
    type Arguments = Known;
    type Output = Forgotten;

    fn description(&self) -> String {
        Self::DESCRIPTION.to_owned()
    }

    fn effect(&self) -> Effect {
        Effect::Idempotent
    }

    async fn call(&self, Known { id }: Known, call: Call) -> Result<Forgotten, Error> {
        let (whose, shelf) = (self.0.whose(&call)?, self.0.shelf.clone());
        let forget = move |cancelled: &CancellationToken| {
            shelf.forget(&whose, &id, &|| cancelled.is_cancelled()).map_err(in_words)?;
            Ok(Forgotten { forgotten: id })
        };
        blocking(&call, forget).await
    }
}

/// Says what went wrong in words for the model: what it gave, or what is at fault here.
pub(super) fn in_words(error: memory::Error) -> Error {
    use memory::Error as E;
    match error {
        E::FactTooLong(_) | E::FactEmpty | E::FactWithoutWords | E::NoWords | E::QueryTooLong(_) => {
            Error::Arguments(error.to_string())
        }
        error => Error::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::spec::{Builtin, ToolSpec};
    use crate::tool::fs::testing::call;
    use crate::tool::{Caller, builtin};

    async fn ask(
        shelf: &Arc<Shelf>,
        tool: Builtin,
        scope: MemoryScope,
        arguments: Value,
        call: Call,
    ) -> Result<Value, Error> {
        let spec = ToolSpec { builtin: Some(tool), scope: Some(scope), ..ToolSpec::default() };
        let answer = builtin(&spec, Path::new("."), shelf)?.call(arguments, call).await?;
        Ok(serde_json::from_str(&answer).unwrap())
    }

    fn labelled(label: &str, key: &str) -> Call {
        let mut labels = Labels::default();
        labels.add(label);
        Call { caller: Caller { labels, ..call().caller }, idempotency_key: key.to_owned(), ..call() }
    }

    #[tokio::test]
    async fn who_reads_a_fact_is_influenced_by_what_its_writer_was() {
        let shelf = Arc::new(Shelf::in_process());
        let agent = MemoryScope::Agent;
        for (label, key, text) in [("private", "1", "The code is 1234."), ("web", "2", "The sky is blue.")] {
            ask(&shelf, Builtin::MemoryPut, agent, json!({"text": text}), labelled(label, key)).await.unwrap();
        }
        let reader = call();
        let found =
            ask(&shelf, Builtin::MemorySearch, agent, json!({"query": "which code"}), reader.clone()).await.unwrap();
        assert_eq!(found["facts"][0]["text"], "The code is 1234.");
        assert_eq!(found["facts"][0]["labels"], json!(["private"]));
        assert_eq!(reader.influence.labels().iter().collect::<Vec<_>>(), ["private"]);
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_left_out_and_taints_nobody() {
        let shelf = Arc::new(Shelf::in_process());
        let agent = MemoryScope::Agent;
        for (label, key) in [("a", "1"), ("b", "2")] {
            let text = format!("tide {}", "\n".repeat(500));
            ask(&shelf, Builtin::MemoryPut, agent, json!({"text": text}), labelled(label, key)).await.unwrap();
        }
        let reader = Call { output_limit_bytes: 2_000, ..call() };
        let found = ask(&shelf, Builtin::MemorySearch, agent, json!({"query": "tide"}), reader.clone()).await.unwrap();
        assert_eq!((found["facts"].as_array().unwrap().len(), &found["truncated"]), (1, &json!(true)));
        assert!(found.to_string().len() <= 2_000);
        assert_eq!(reader.influence.labels().iter().count(), 1);
    }

    #[tokio::test]
    async fn a_call_that_was_cancelled_changes_nothing() {
        let shelf = Arc::new(Shelf::in_process());
        let agent = MemoryScope::Agent;
        let kept = ask(&shelf, Builtin::MemoryPut, agent, json!({"text": "The tide turns."}), call()).await.unwrap();
        let late = labelled("a", "2");
        late.cancelled.cancel();
        for (tool, arguments) in [
            (Builtin::MemoryPut, json!({"text": "The tide is late."})),
            (Builtin::MemoryForget, json!({"id": kept["id"]})),
        ] {
            let error = ask(&shelf, tool, agent, arguments, late.clone()).await.unwrap_err().to_string();
            assert!(error.contains("nothing was changed"), "{error}");
        }
        let found = ask(&shelf, Builtin::MemorySearch, agent, json!({"query": "tide"}), call()).await.unwrap();
        assert_eq!((&found["facts"][0]["id"], found["facts"].as_array().unwrap().len()), (&kept["id"], 1));
    }

    #[tokio::test]
    async fn a_session_s_memory_needs_a_session() {
        let shelf = Arc::new(Shelf::in_process());
        let none = Call { caller: Caller { session: None, ..call().caller }, ..call() };
        for (tool, arguments) in [
            (Builtin::MemoryPut, json!({"text": "x"})),
            (Builtin::MemorySearch, json!({"query": "x"})),
            (Builtin::MemoryForget, json!({"id": "x"})),
        ] {
            let error = ask(&shelf, tool, MemoryScope::Session, arguments, none.clone()).await.unwrap_err().to_string();
            assert!(error.contains("the run has none") && error.contains("--session"), "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_asked_wrongly_is_said_to_be_so() {
        let shelf = Arc::new(Shelf::in_process());
        let agent = MemoryScope::Agent;
        for (tool, arguments, reason) in [
            (Builtin::MemorySearch, json!({"query": "?!"}), "no words"),
            (Builtin::MemorySearch, json!({"query": "word ".repeat(200_000)}), "1000000 bytes"),
            (Builtin::MemoryPut, json!({"text": "x".repeat(10_000)}), "at most 8192"),
            (Builtin::MemoryPut, json!({"text": ""}), "empty"),
            (Builtin::MemoryPut, json!({"text": "🎉🎉 !?"}), "no word by which it could be found"),
        ] {
            let error = ask(&shelf, tool, agent, arguments, call()).await.unwrap_err();
            assert!(matches!(&error, Error::Arguments(said) if said.contains(reason)), "{error}");
        }
        let error = ask(&shelf, Builtin::MemoryForget, agent, json!({"id": "00"}), call()).await.unwrap_err();
        assert!(matches!(&error, Error::Failed(said) if said.contains("no fact `00`")), "{error}");
    }
}
