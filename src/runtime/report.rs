//! What a run came to.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::scope::Scope;
use crate::budget::Amount;
use crate::run::{AgentId, AgentOutcome, Answer, Instance, RunId, RunState, Status, Totals};

/// What a run came to. Its JSON form is public: `provost run --json` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The run's id.
    pub run: RunId,
    /// The network's name.
    pub network: String,
    /// How it ended.
    pub status: Status,
    /// Why; none where the status says all.
    pub reason: Option<String>,
    /// The answer: text, or the structured value.
    #[serde(serialize_with = "answer")]
    pub answer: Option<Answer>,
    /// The agent instances, in the order in which they started.
    pub agents: Vec<AgentReport>,
    /// What was used over all.
    pub usage: UsageReport,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// How many events it has.
    pub events: u64,
}

/// What one agent instance came to.
#[derive(Clone, Debug, Serialize)]
pub struct AgentReport {
    /// The instance.
    pub agent: AgentId,
    /// The agent's name in the network.
    pub name: Arc<str>,
    /// How it ended: `done`, `handed_off`, `failed`, `limit`; `running` if the run ended first.
    pub status: &'static str,
    /// How often its actor was started.
    pub incarnations: u32,
    /// What it used.
    pub usage: UsageReport,
}

/// What was used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct UsageReport {
    /// Logical model calls.
    pub model_calls: u64,
    /// Tool calls that were made.
    pub tool_calls: u64,
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Tokens that count against the limits: those reported, and those reserved where a provider did not say what a
    /// call used.
    pub charged_tokens: u64,
    /// Money, in US dollars; what may have been billed for calls that broke off is in it.
    pub cost_usd: f64,
}

impl Report {
    pub(super) fn new(scope: &Scope, state: &RunState, spent: Amount, took: Duration, events: u64) -> Self {
        let end = state.end().cloned();
        let agent = |(id, instance): (&AgentId, &Instance)| AgentReport {
            agent: id.clone(),
            name: instance.name.clone(),
            status: status(instance.outcome.as_ref()),
            incarnations: instance.incarnation,
            usage: usage(&instance.totals, instance.totals.charged_tokens, instance.totals.cost_nano_usd),
        };
        Self {
            run: scope.stream.run.clone(),
            network: scope.fleet.network.spec().network.name.clone(),
            status: end.as_ref().map_or(Status::Running, |end| end.status),
            reason: end.as_ref().and_then(|end| end.reason.clone()),
            answer: end.and_then(|end| end.answer),
            agents: state.agents().iter().map(agent).collect(),
            usage: usage(&state.totals(), spent.tokens, spent.cost_nano_usd),
            duration_ms: took.as_millis() as u64,
            events,
        }
    }

    /// Makes the report of a run that could not begin; nothing has been spent.
    pub(crate) fn not_started(run: RunId, network: String, reason: String) -> Self {
        Self {
            run,
            network,
            status: Status::Failed,
            reason: Some(reason),
            answer: None,
            agents: Vec::new(),
            usage: usage(&Totals::default(), 0, 0),
            duration_ms: 0,
            events: 0,
        }
    }

    /// Returns the answer as text, a structured one as a line of JSON; none if there is none.
    pub fn answer_text(&self) -> Option<Arc<str>> {
        self.answer.as_ref().map(Answer::to_text)
    }
}

fn status(outcome: Option<&AgentOutcome>) -> &'static str {
    match outcome {
        None => "running",
        Some(AgentOutcome::Done(_)) => "done",
        Some(AgentOutcome::HandedOff { .. }) => "handed_off",
        Some(AgentOutcome::Failed { .. }) => "failed",
        Some(AgentOutcome::Limit { .. }) => "limit",
    }
}

fn usage(totals: &Totals, charged_tokens: u64, cost_nano_usd: u64) -> UsageReport {
    UsageReport {
        model_calls: totals.model_calls,
        tool_calls: totals.tool_calls,
        input_tokens: totals.input_tokens,
        output_tokens: totals.output_tokens,
        charged_tokens,
        cost_usd: Amount { cost_nano_usd, ..Amount::default() }.cost_usd(),
    }
}

fn answer<S: serde::Serializer>(answer: &Option<Answer>, serializer: S) -> Result<S::Ok, S::Error> {
    match answer {
        None => serializer.serialize_none(),
        Some(Answer::Text(text)) => serializer.serialize_str(text),
        Some(Answer::Value(value)) => value.serialize(serializer),
    }
}
