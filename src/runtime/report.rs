//! What a run came to.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::budget::Amount;
use crate::run::{
    AgentId, AgentOutcome, Answer, ApprovalRequest, CallId, Health, Inquiry, Instance, LetterId, Lineage, OpenCall,
    Priority, RunId, RunState, Stage, Status, Subject, Totals,
};

/// What a run came to. Its JSON form is public: `provost run --json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The run's id.
    pub run: RunId,
    /// The network's name.
    pub network: String,
    /// Who it belongs to and who pays.
    pub tenant: Arc<str>,
    /// The key that several runs share, if any.
    pub session: Option<Arc<str>>,
    /// Its share beside other runs of its tenant; not printed where it is the usual one.
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
    /// Where it was forked from, if it was. What it used and how long it took count from there.
    #[serde(default)]
    pub forked_from: Option<Lineage>,
    /// The dead letter that it began with, if it was one.
    #[serde(default)]
    pub put_back_from: Option<LetterId>,
    /// How it ended, or where it stands.
    pub status: Status,
    /// Why; none where the status says all.
    pub reason: Option<String>,
    /// The answer: text, or the structured value.
    #[serde(serialize_with = "answer", deserialize_with = "read_answer")]
    pub answer: Option<Answer>,
    /// The agent instances, in the order in which they started.
    pub agents: Vec<AgentReport>,
    /// The mailboxes in which questions of this run wait, in the order of the agents' names.
    #[serde(default)]
    pub mailboxes: Vec<MailboxReport>,
    /// What agents ask a person, and nobody has answered.
    #[serde(default)]
    pub questions: Vec<QuestionReport>,
    /// The calls that await approval; not printed where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<ApprovalReport>,
    /// How many messages were given up, settled or not.
    #[serde(default)]
    pub dead_letters: u32,
    /// The tool calls that must not be made twice and were let go of while they were being made: nobody knows what became
    /// of them.
    #[serde(default)]
    pub abandoned: Vec<AbandonedReport>,
    /// What was used over all.
    pub usage: UsageReport,
    /// When it began or was forked, in milliseconds since 1970 (UTC).
    pub started_ms: u64,
    /// How long it was under way, in milliseconds.
    pub duration_ms: u64,
    /// How many events it has.
    pub events: u64,
}

/// What one agent instance came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentReport {
    /// The instance.
    pub agent: AgentId,
    /// The agent's name in the network.
    pub name: Arc<str>,
    /// How it ended: `done`, `handed_off`, `failed`, `limit`, `cancelled`; `running` if the run ended first.
    pub status: String,
    /// What it is doing; none once it or its run has ended.
    #[serde(default)]
    pub health: Option<Health>,
    /// How often its actor was started.
    pub incarnations: u32,
    /// What it used.
    pub usage: UsageReport,
}

/// What waits in the mailbox of one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailboxReport {
    /// The agent's name in the network.
    pub agent: Arc<str>,
    /// How many questions of the run wait there.
    pub waiting: u32,
    /// Since when the oldest of them waits, in milliseconds since 1970 (UTC).
    pub oldest_ms: u64,
}

/// What an agent asks a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionReport {
    /// The call that asks.
    pub call: CallId,
    /// The question.
    pub question: String,
    /// What can be answered; anything where there are none.
    pub choices: Vec<String>,
}

/// A call that awaits approval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApprovalReport {
    /// The call.
    pub call: CallId,
    /// The name of the agent that wants it.
    pub agent: Arc<str>,
    /// What is to be called.
    pub wants: Subject,
    /// Since when somebody is asked, in milliseconds since 1970 (UTC); 0 where that is not known.
    #[serde(default)]
    pub since_ms: u64,
    /// What is asked, and on which terms; none where an older version asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Arc<ApprovalRequest>>,
    /// What an answer is bound to, as one digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Arc<str>>,
    /// Who has said yes so far, where several have to.
    #[serde(default)]
    pub votes: Vec<Arc<str>>,
}

impl ApprovalReport {
    fn all_of(state: &RunState) -> Vec<Self> {
        let report = |(call, open): (&CallId, &OpenCall)| {
            let approval = open.approval.as_deref();
            Self {
                call: call.clone(),
                agent: state.agents().get(&call.agent).map(|instance| instance.name.clone()).unwrap_or_default(),
                wants: open.subject.clone(),
                since_ms: approval.map(|approval| approval.since_ms).unwrap_or_default(),
                request: approval.map(|approval| approval.request.clone()),
                digest: approval.map(|approval| approval.request.binding.digest()),
                votes: approval.map(|approval| approval.votes.clone()).unwrap_or_default(),
            }
        };
        state.awaiting_approval().map(report).collect()
    }
}

impl QuestionReport {
    fn all_of(state: &RunState) -> Vec<Self> {
        let question = |(call, open): (&CallId, &OpenCall)| {
            let Inquiry { question, choices } = Inquiry::of(&open.subject)?;
            Some(Self { call: call.clone(), question, choices })
        };
        state.awaiting_input().filter_map(question).collect()
    }
}

impl MailboxReport {
    fn all_of(state: &RunState) -> Vec<Self> {
        let mut mailboxes: BTreeMap<&str, Self> = BTreeMap::new();
        for (_, open) in state.in_mailboxes() {
            let (name, Stage::Sent { since_ms }) = (open.subject.name(), &open.stage) else { continue };
            let empty = || Self { agent: name.into(), waiting: 0, oldest_ms: *since_ms };
            let mailbox = mailboxes.entry(name).or_insert_with(empty);
            mailbox.waiting += 1;
            mailbox.oldest_ms = mailbox.oldest_ms.min(*since_ms);
        }
        mailboxes.into_values().collect()
    }
}

/// A tool call that was let go of while it was being made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbandonedReport {
    /// The call.
    pub call: CallId,
    /// The tool's name in the network.
    pub tool: Arc<str>,
}

impl AbandonedReport {
    fn all_of(state: &RunState) -> Vec<Self> {
        let report = |(call, tool): &(CallId, Arc<str>)| Self { call: call.clone(), tool: tool.clone() };
        state.abandoned_once().iter().map(report).collect()
    }
}

/// What was used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Says where a run stands, and what it came to so far.
    pub fn of(state: &RunState) -> Self {
        let end = state.end().cloned();
        let agent = |(id, instance): (&AgentId, &Instance)| AgentReport {
            agent: id.clone(),
            name: instance.name.clone(),
            status: status(instance.outcome.as_ref()).to_owned(),
            health: state.health(id).filter(|_| state.end().is_none()),
            incarnations: instance.incarnation,
            usage: usage(&instance.totals, instance.totals.charged_tokens, instance.totals.cost_nano_usd),
        };
        let beginning = state.beginning();
        let spent = state.spent();
        Self {
            run: beginning.map_or_else(|| RunId::new(""), |beginning| beginning.stream.run.clone()),
            network: beginning.map(|beginning| beginning.name.to_string()).unwrap_or_default(),
            tenant: beginning.map(|beginning| beginning.stream.tenant.clone()).unwrap_or_default(),
            session: beginning.and_then(|beginning| beginning.stream.session.clone()),
            priority: beginning.map(|beginning| beginning.priority).unwrap_or_default(),
            forked_from: state.forked_from().cloned(),
            put_back_from: beginning.and_then(|beginning| Some(beginning.put_back.as_ref()?.letter.clone())),
            status: state.status(),
            reason: match &end {
                Some(end) => end.reason.clone(),
                None => state.is_paused().then(|| "paused; `provost runs resume` lets it go on".to_owned()),
            },
            answer: end.and_then(|end| end.answer),
            agents: state.agents().iter().map(agent).collect(),
            mailboxes: MailboxReport::all_of(state),
            questions: QuestionReport::all_of(state),
            approvals: ApprovalReport::all_of(state),
            dead_letters: state.dead_letters(),
            abandoned: AbandonedReport::all_of(state),
            usage: usage(&state.totals(), spent.tokens, spent.cost_nano_usd),
            started_ms: state.started_ms(),
            duration_ms: state.active_ms(),
            events: state.head(),
        }
    }

    /// Says of a run whose process has ended that it was interrupted; one that was not under way stays as it is.
    #[must_use]
    pub fn without_process(mut self) -> Self {
        if self.status == Status::Running {
            self.status = Status::Interrupted;
            self.reason = Some("its process ended before it did".to_owned());
            self.agents.iter_mut().for_each(|agent| agent.health = None);
        }
        self
    }

    /// Makes the report of a run that could not begin; nothing has been spent.
    pub(crate) fn not_started(run: RunId, network: String, reason: String) -> Self {
        Self {
            run,
            network,
            tenant: "".into(),
            session: None,
            priority: Priority::default(),
            forked_from: None,
            put_back_from: None,
            status: Status::Failed,
            reason: Some(reason),
            answer: None,
            agents: Vec::new(),
            mailboxes: Vec::new(),
            questions: Vec::new(),
            approvals: Vec::new(),
            dead_letters: 0,
            abandoned: Vec::new(),
            usage: usage(&Totals::default(), 0, 0),
            started_ms: 0,
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
        Some(AgentOutcome::Denied { .. }) => "denied",
        Some(AgentOutcome::Limit { .. }) => "limit",
        Some(AgentOutcome::Cancelled { .. }) => "cancelled",
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

fn read_answer<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Answer>, D::Error> {
    Ok(match Option::<Value>::deserialize(deserializer)? {
        None => None,
        Some(Value::String(text)) => Some(Answer::Text(text.into())),
        Some(value) => Some(Answer::Value(Arc::new(value))),
    })
}
