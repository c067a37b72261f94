//! What an instance keeps from one run to the next: what it was asked, and what it answered.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::mailboxes::{Key, Whose};
use crate::journal::{Record, StreamName};
use crate::run::{AgentId, Answer, Body, Instance, Message, Origin, RunId};

/// How many exchanges an instance is given to know of, at most: the last ones.
pub(super) const EXCHANGES: u64 = 32;

/// How many bytes of them, at most: about 16,000 tokens, a part of what any model reads.
const BYTES: usize = 64 * 1024;

/// The version of the form in which exchanges are stored.
const VERSION: u16 = 1;

/// A question to an instance, and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Exchange {
    run: RunId,
    agent: AgentId,
    question: Arc<Message>,
    answer: Arc<Message>,
}

impl Exchange {
    /// Makes the exchange of an instance that has answered.
    pub(super) fn of(run: &RunId, agent: &AgentId, instance: &Instance, answer: &Answer) -> Option<Self> {
        let body = Body::Assistant { text: answer.to_text().to_string(), tool_calls: Vec::new() };
        let answer = Message { body, labels: instance.labels.clone(), origin: Origin::Agent(agent.clone()) };
        let question = instance.task.last()?.clone();
        Some(Self { run: run.clone(), agent: agent.clone(), question, answer: Arc::new(answer) })
    }

    /// Writes the exchange down as the stream's event `seq`.
    pub(super) fn record(&self, seq: u64, time_ms: u64) -> Record {
        Record {
            seq,
            time_ms,
            agent: Some(self.agent.to_text()),
            incarnation: 0,
            cause: None,
            labels: self.answer.labels.iter().map(str::to_owned).collect(),
            kind: "exchange".into(),
            version: VERSION,
            payload: rmp_serde::to_vec_named(self).unwrap_or_default(),
        }
    }

    /// Reads what [`Exchange::record`] wrote; none if a newer Provost did.
    pub(super) fn read(record: &Record) -> Option<Self> {
        let is_ours = record.version <= VERSION;
        is_ours.then(|| rmp_serde::from_slice(&record.payload).ok())?
    }

    fn bytes(&self) -> usize {
        self.question.text().len() + self.answer.text().len()
    }
}

/// Returns what an instance is told of the past: the last exchanges for which there is room, as messages, the oldest first.
pub(super) fn transcript(exchanges: &[Exchange]) -> Vec<Arc<Message>> {
    let mut bytes = 0;
    // One that is too long for itself hides none of the others.
    let fits = |exchange: &&Exchange| {
        let fits = bytes + exchange.bytes() <= BYTES;
        bytes += if fits { exchange.bytes() } else { 0 };
        fits
    };
    let mut kept: Vec<&Exchange> = exchanges.iter().rev().take(EXCHANGES as usize).filter(fits).collect();
    kept.reverse();
    kept.into_iter().flat_map(|exchange| [exchange.question.clone(), exchange.answer.clone()]).collect()
}

impl Key {
    /// Names the stream of what an instance keeps.
    pub(super) fn stream(&self) -> StreamName {
        let part = |text: &str| text.replace('%', "%25").replace('/', "%2F");
        let (network, agent) = (part(&self.network), part(&self.agent));
        StreamName::new(match &self.whose {
            Whose::Run(run) => format!("kept/{network}/{agent}/run/{run}"),
            Whose::Network(tenant) => format!("kept/{network}/{agent}/tenant/{}", part(tenant)),
            Whose::Session(tenant, session) => {
                format!("kept/{network}/{agent}/session/{}/{}", part(tenant), part(session))
            }
        })
    }
}
