//! The run as a whole, as a fold of its events: its agents, its calls, what it used and how it ended.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;

use super::{
    AgentId, AgentOutcome, CallId, Envelope, Event, Labels, Message, Origin, Parent, RunEnd, Status, Subject,
    ToolFailure, tool_message,
};
use crate::budget::Amount;

/// Where a run stands.
#[derive(Clone, Debug, Default)]
pub struct RunState {
    agents: IndexMap<AgentId, Instance>,
    open: BTreeMap<CallId, OpenCall>,
    over: HashSet<CallId>,
    totals: Totals,
    cancelling: Option<RunEnd>,
    end: Option<RunEnd>,
}

/// One agent instance of a run.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The agent's name in the network.
    pub name: Arc<str>,
    /// What brought it into being.
    pub parent: Parent,
    /// How many delegations lie between the entry agent and this one.
    pub depth: u32,
    /// The first messages of its transcript.
    pub task: Vec<Arc<Message>>,
    /// How often its actor has been started.
    pub incarnation: u32,
    /// What it used.
    pub totals: Totals,
    /// How it ended; none while it lives.
    pub outcome: Option<AgentOutcome>,
}

/// A call that is intended and not over, or that awaits approval.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenCall {
    /// What it is made to.
    pub subject: Subject,
    /// Whether a person is being asked.
    pub awaiting_approval: bool,
}

impl OpenCall {
    /// Whether the call goes on without a task of its own: it waits for a person or another agent.
    pub fn waits_for_others(&self) -> bool {
        self.awaiting_approval || matches!(self.subject, Subject::Delegate { .. } | Subject::Handoff { .. })
    }
}

/// What has been used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Logical model calls that came back or failed for good.
    pub model_calls: u64,
    /// Tool calls that were made; refused ones, delegations and handoffs are none.
    pub tool_calls: u64,
    /// Tokens read, as reported.
    pub input_tokens: u64,
    /// Tokens written, as reported.
    pub output_tokens: u64,
    /// Tokens charged: as reported, or as reserved where a provider does not say.
    pub charged_tokens: u64,
    /// Money charged, in billionths of a dollar.
    pub cost_nano_usd: u64,
}

/// What follows from the end of an agent.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// A call has its result.
    Return {
        /// The call.
        call: CallId,
        /// The result as it goes into the transcript.
        message: Arc<Message>,
        /// Why it is no success; none if it is one.
        failure: Option<ToolFailure>,
    },
    /// The run is over.
    End(RunEnd),
}

impl RunState {
    /// Returns the agent instances, in the order in which they started.
    pub fn agents(&self) -> &IndexMap<AgentId, Instance> {
        &self.agents
    }

    /// Returns the calls that are intended and not over, or that await approval.
    pub fn open_calls(&self) -> impl Iterator<Item = (&CallId, &OpenCall)> {
        self.open.iter()
    }

    /// Returns a call that is intended and not over, or that awaits approval.
    pub fn open_call(&self, call: &CallId) -> Option<&OpenCall> {
        self.open.get(call)
    }

    /// Returns the calls that await a person's approval.
    pub fn awaiting_approval(&self) -> impl Iterator<Item = (&CallId, &OpenCall)> {
        self.open.iter().filter(|(_, open)| open.awaiting_approval)
    }

    /// Whether the call has its result, or can get none any more since its agent has ended.
    pub fn is_over(&self, call: &CallId) -> bool {
        self.over.contains(call) || self.agents.get(&call.agent).is_none_or(|agent| agent.outcome.is_some())
    }

    /// Returns what the run has used.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Returns how the run was asked to end.
    pub fn cancelling(&self) -> Option<&RunEnd> {
        self.cancelling.as_ref()
    }

    /// Returns how the run ended; none while it is under way.
    pub fn end(&self) -> Option<&RunEnd> {
        self.end.as_ref()
    }

    /// Takes up what happened.
    pub fn evolve(&mut self, envelope: &Envelope) {
        match &envelope.event {
            Event::AgentStarted { name, parent, depth, task } => {
                let Some(id) = &envelope.agent else { return };
                let instance = Instance {
                    name: name.clone(),
                    parent: parent.clone(),
                    depth: *depth,
                    task: task.clone(),
                    incarnation: envelope.incarnation,
                    totals: Totals::default(),
                    outcome: None,
                };
                self.agents.insert(id.clone(), instance);
            }
            Event::CallIntended { call, subject, .. } => self.open(call, subject, false),
            Event::ApprovalRequested { call, subject } => self.open(call, subject, true),
            Event::ApprovalDecided { call, .. } => {
                self.open.remove(call);
            }
            Event::TryFailed { call, charged, .. } => self.charge(call, charged),
            Event::ModelReplied { call, usage, charged, .. } => {
                let usage = usage.unwrap_or_default();
                self.count(call, |totals| {
                    totals.model_calls += 1;
                    totals.input_tokens += usage.input_tokens;
                    totals.output_tokens += usage.output_tokens;
                });
                self.charge(call, charged);
                self.close(call);
            }
            Event::ModelFailed { call, charged, .. } => {
                self.count(call, |totals| totals.model_calls += 1);
                self.charge(call, charged);
                self.close(call);
            }
            Event::ToolReturned { call, .. } => {
                if self.open.get(call).is_some_and(|open| matches!(open.subject, Subject::Tool { .. })) {
                    self.count(call, |totals| totals.tool_calls += 1);
                }
                self.close(call);
            }
            Event::AgentRestarted { .. } => {
                if let Some(instance) = envelope.agent.as_ref().and_then(|id| self.agents.get_mut(id)) {
                    instance.incarnation = envelope.incarnation;
                }
            }
            Event::AgentEnded { outcome } => {
                let Some(id) = &envelope.agent else { return };
                if let Some(instance) = self.agents.get_mut(id) {
                    instance.outcome = Some(outcome.clone());
                }
                // A handoff is over when who handed over is.
                self.open.retain(|call, _| call.agent != *id);
            }
            Event::CancelRequested { end } => self.cancelling = Some(end.clone()),
            Event::RunEnded { end, .. } => self.end = Some(end.clone()),
            Event::RunStarted { .. } | Event::RepairRequested { .. } => {}
        }
    }

    fn open(&mut self, call: &CallId, subject: &Subject, awaiting_approval: bool) {
        self.open.insert(call.clone(), OpenCall { subject: subject.clone(), awaiting_approval });
    }

    fn close(&mut self, call: &CallId) {
        self.open.remove(call);
        self.over.insert(call.clone());
    }

    fn charge(&mut self, call: &CallId, charged: &Amount) {
        self.count(call, |totals| {
            totals.charged_tokens += charged.tokens;
            totals.cost_nano_usd += charged.cost_nano_usd;
        });
    }

    fn count(&mut self, call: &CallId, add: impl Fn(&mut Totals)) {
        add(&mut self.totals);
        if let Some(instance) = self.agents.get_mut(&call.agent) {
            add(&mut instance.totals);
        }
    }

    /// Says what follows from the end of `agent`: the answer goes to whom asked, or is the run's.
    pub fn after_agent(&self, agent: &AgentId, labels: &Labels) -> Option<Next> {
        let instance = self.agents.get(agent)?;
        let outcome = instance.outcome.as_ref()?;
        match instance.parent.answers() {
            None => end_of_run(outcome).map(Next::End),
            Some(call) => {
                let (content, failure) = match outcome {
                    AgentOutcome::HandedOff { .. } => return None,
                    AgentOutcome::Done(answer) => (answer.to_text().to_string(), None),
                    AgentOutcome::Failed { reason } | AgentOutcome::Limit { reason, .. } => {
                        (format!("{} gave no answer: {reason}", instance.name), Some(ToolFailure::DelegateFailed))
                    }
                };
                let origin = Origin::Agent(agent.clone());
                let tool = delegate_tool(&self.asked_agent(call).unwrap_or_else(|| instance.name.clone()));
                let message = tool_message(call, &tool, content, failure.is_some(), labels.clone(), origin);
                Some(Next::Return { call: call.clone(), message, failure })
            }
        }
    }

    fn asked_agent(&self, call: &CallId) -> Option<Arc<str>> {
        match &self.open.get(call)?.subject {
            Subject::Delegate { agent, .. } => Some(agent.clone()),
            _ => None,
        }
    }
}

fn end_of_run(outcome: &AgentOutcome) -> Option<RunEnd> {
    match outcome {
        AgentOutcome::HandedOff { .. } => None,
        AgentOutcome::Done(answer) => Some(RunEnd { status: Status::Done, reason: None, answer: Some(answer.clone()) }),
        AgentOutcome::Failed { reason } => Some(RunEnd::without_answer(Status::Failed, reason.clone())),
        AgentOutcome::Limit { reason, .. } => Some(RunEnd::without_answer(Status::Limit, reason.clone())),
    }
}

/// Returns the name under which a delegate is offered.
pub fn delegate_tool(agent: &str) -> String {
    format!("ask_{agent}")
}

/// Returns the name under which a handoff is offered.
pub fn handoff_tool(agent: &str) -> String {
    format!("transfer_to_{agent}")
}
