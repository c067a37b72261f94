//! The run as a whole, as a fold of its events: its agents, its calls, what it used and how it ended.

mod approving;
mod flow;
mod forked;
mod inquiring;
mod open;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{
    AgentId, AgentOutcome, CallId, Envelope, Event, Labels, Message, Origin, Parent, Priority, PutBack, Ruled, RunEnd,
    Standing, Status, Stream, Subject, ToolFailure, Wait, tool_message,
};
use crate::budget::{AccountName, Amount, Limit};
use crate::fault::{self, Bug};
use crate::spec::{Effect, Period};

pub(crate) use self::flow::visit_key;
pub use self::flow::{FlowState, Joining, Live, Published};
pub use self::forked::Lineage;
pub use self::open::{OpenCall, Stage};

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    beginning: Option<Beginning>,
    agents: IndexMap<AgentId, Instance>,
    open: BTreeMap<CallId, OpenCall>,
    /// The calls that wait before they can be made.
    queued: BTreeMap<CallId, Wait>,
    /// What calls were said to lack that waited for a limit to be raised.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    unpaid: BTreeMap<CallId, Arc<str>>,
    over: BTreeSet<CallId>,
    /// The calls that a person has answered, in the order of the answers.
    #[serde(default)]
    answered: Vec<CallId>,
    /// The calls whose approval was settled, in the order in which it was, and how it was last.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    ruled: IndexMap<CallId, Ruled>,
    /// The patterns of calls that a person has approved of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    standing: Vec<Arc<Standing>>,
    /// The names of what a person has approved of, in order.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    approved: Arc<[Arc<str>]>,
    dead_letters: u32,
    totals: Totals,
    spent: Amount,
    paused: bool,
    cancelling: Option<RunEnd>,
    end: Option<RunEnd>,
    clock: Clock,
    forked_from: Option<Lineage>,
    /// The run's own flow.
    root: FlowState,
    /// The inner flows of instances that are at work.
    inner: BTreeMap<AgentId, FlowState>,
    /// The calls that must not be made twice and were let go of, with the tools: nobody knows what became of them.
    abandoned: Vec<(CallId, Arc<str>)>,
    /// The accounts of which it was said that a limit is near.
    #[serde(default)]
    warned: BTreeSet<String>,
}

/// What a run began with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Beginning {
    /// Which run, and for whom.
    pub stream: Arc<Stream>,
    /// The network's name.
    pub name: Arc<str>,
    /// The network as it was last resolved, as text.
    pub network: Arc<str>,
    /// The directory that relative paths are resolved against.
    pub directory: Arc<str>,
    /// The input, verbatim.
    pub input: Arc<str>,
    /// The variables given beside it.
    pub vars: Arc<BTreeMap<String, String>>,
    /// The version of Provost that decides.
    pub version: Arc<str>,
    /// The dead letter that it began with; none if the network's entry agent got the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub put_back: Option<Arc<PutBack>>,
    /// Its share beside other runs of its tenant.
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
}

impl Beginning {
    /// Returns the run's first event.
    pub fn started(self) -> Event {
        let Self { stream, name, network, directory, input, vars, version, put_back, priority } = self;
        let (tenant, session) = (stream.tenant.clone(), stream.session.clone());
        Event::RunStarted { tenant, session, name, network, directory, input, vars, version, put_back, priority }
    }
}

/// How far the run's events have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Clock {
    head: u64,
    started_ms: u64,
    last_ms: u64,
    active_ms: u64,
}

/// One agent instance of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// The agent's name in the network.
    pub name: Arc<str>,
    /// What brought it into being.
    pub parent: Parent,
    /// How many delegations lie between the entry agent and this one.
    pub depth: u32,
    /// The first messages of its transcript.
    pub task: Vec<Arc<Message>>,
    /// When it started, in milliseconds since 1970.
    pub started_ms: u64,
    /// How often its actor has been started.
    pub incarnation: u32,
    /// What it used.
    pub totals: Totals,
    /// How it ended; none while it lives.
    pub outcome: Option<AgentOutcome>,
    /// What it had been influenced by when it ended.
    pub labels: Labels,
    /// How often in a row it had failed at what it was given when it failed last.
    pub failed_deliveries: u32,
    /// Whether its actor has failed, and the next one has not been started yet.
    pub is_restarting: bool,
    /// What does not come to an end, although its time is over.
    pub hung: Option<String>,
}

/// What has been used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// The result of a call that an agent's answer is.
#[derive(Clone, Debug, PartialEq)]
pub struct Next {
    /// The call.
    pub call: CallId,
    /// The result as it goes into the transcript.
    pub message: Arc<Message>,
    /// Why it is no success; none if it is one.
    pub failure: Option<ToolFailure>,
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
        self.open.iter().filter(|(_, open)| open.stage == Stage::AwaitingApproval)
    }

    /// Returns the calls that a person has to say more of.
    pub fn in_doubt(&self) -> impl Iterator<Item = (&CallId, &OpenCall)> {
        self.open.iter().filter(|(_, open)| open.stage == Stage::InDoubt)
    }

    /// Returns the questions that wait in mailboxes.
    pub fn in_mailboxes(&self) -> impl Iterator<Item = (&CallId, &OpenCall)> {
        self.open.iter().filter(|(_, open)| matches!(open.stage, Stage::Sent { .. }))
    }

    /// Returns what a call waits for before it can be made; none if it does not wait.
    pub fn waits_for(&self, call: &CallId) -> Option<Wait> {
        self.queued.get(call).copied()
    }

    /// Returns what a call was said to lack that waits for a limit to be raised.
    pub fn lacks(&self, call: &CallId) -> Option<&str> {
        self.unpaid.get(call).map(|why| &**why)
    }

    /// Returns the calls that wait before they can be made, with what they wait for.
    pub fn queued(&self) -> impl Iterator<Item = (&CallId, Wait)> {
        self.queued.iter().map(|(call, wait)| (call, *wait))
    }

    /// Returns how many messages were given up.
    pub fn dead_letters(&self) -> u32 {
        self.dead_letters
    }

    /// Returns the calls that must not be made twice and were let go of while they were being made, with their tools.
    pub fn abandoned_once(&self) -> &[(CallId, Arc<str>)] {
        &self.abandoned
    }

    /// Returns what the run began with; none before its first event.
    pub fn beginning(&self) -> Option<&Beginning> {
        self.beginning.as_ref()
    }

    /// Returns the number of the last event.
    pub fn head(&self) -> u64 {
        self.clock.head
    }

    /// Returns when the first event was numbered, in milliseconds since 1970.
    pub fn started_ms(&self) -> u64 {
        self.clock.started_ms
    }

    /// Returns for how many milliseconds the run has been under way; the time between an interruption and the next
    /// start is not in it.
    pub fn active_ms(&self) -> u64 {
        self.clock.active_ms
    }

    /// Whether it was said already that an account is near a limit.
    pub fn is_warned(&self, account: &AccountName, limit: Limit, per: Option<Period>) -> bool {
        self.warned.contains(&warning(account, limit, per))
    }

    /// Returns what the run has been charged.
    pub fn spent(&self) -> Amount {
        self.spent
    }

    /// Returns what is reserved for calls under way.
    pub fn held(&self) -> Amount {
        self.open.values().fold(Amount::default(), |sum, open| sum.plus(open.held))
    }

    /// Whether no more calls are begun for now.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Returns where the run stands. A run that is parked for a person who has answered meanwhile is interrupted: it
    /// can go on.
    pub fn status(&self) -> Status {
        match self.end.as_ref().map(|end| end.status) {
            None => Status::Running,
            Some(status) if status.is_parked() && self.answered_unheard().next().is_some() => Status::Interrupted,
            Some(Status::InDoubt) if self.in_doubt().next().is_none() => Status::Interrupted,
            Some(Status::AwaitingApproval) if self.awaiting_approval().next().is_none() => Status::Interrupted,
            Some(Status::AwaitingInput) if self.awaiting_input().next().is_none() => Status::Interrupted,
            Some(status) => status,
        }
    }

    /// Returns the agent that stands for the run: the entry, or whoever control moved to last; none once it has ended.
    pub fn front(&self) -> Option<&AgentId> {
        let is_front = |instance: &Instance| instance.outcome.is_none() && instance.parent.answers().is_none();
        self.agents.iter().find(|(_, instance)| is_front(instance)).map(|(id, _)| id)
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
        self.tick(envelope);
        match &envelope.event {
            Event::RunStarted {
                tenant,
                session,
                name,
                network,
                directory,
                input,
                vars,
                version,
                put_back,
                priority,
            } => {
                let run = envelope.stream.run.clone();
                self.beginning = Some(Beginning {
                    stream: Arc::new(Stream { run, tenant: tenant.clone(), session: session.clone() }),
                    name: name.clone(),
                    network: network.clone(),
                    directory: directory.clone(),
                    input: input.clone(),
                    vars: vars.clone(),
                    version: version.clone(),
                    put_back: put_back.clone(),
                    priority: *priority,
                });
            }
            Event::RunResumed { network, version } => self.resume(network.as_ref(), version),
            Event::RunForked { from, at, name, network, version, priority } => {
                self.resume(network.as_ref(), version);
                self.begin_as_fork(Lineage { run: from.clone(), at: *at }, name, *priority);
            }
            Event::AgentStarted { name, parent, depth, task } => {
                let Some(id) = &envelope.agent else { return };
                let instance = Instance {
                    name: name.clone(),
                    parent: parent.clone(),
                    depth: *depth,
                    task: task.clone(),
                    started_ms: envelope.time_ms,
                    incarnation: envelope.incarnation,
                    totals: Totals::default(),
                    outcome: None,
                    labels: Labels::default(),
                    failed_deliveries: 0,
                    is_restarting: false,
                    hung: None,
                };
                self.agents.insert(id.clone(), instance);
                self.evolve_flows(envelope);
            }
            Event::CallIntended { call, attempt, subject, effect, reserved } => {
                // A tool call counts as it begins.
                let counts = matches!(subject, Subject::Tool { .. });
                if counts {
                    self.spent = self.spent.plus(*reserved);
                }
                self.note_approved(call, subject);
                let before = self.open.get(call);
                let intended = OpenCall {
                    subject: subject.clone(),
                    attempt: *attempt,
                    effect: *effect,
                    held: if counts { Amount::default() } else { *reserved },
                    labels: envelope.labels.clone(),
                    stage: Stage::Intended,
                    begun_in: before.and_then(|open| open.begun_in.clone()),
                    first_intended_ms: before.and_then(|open| open.first_intended_ms).or(Some(envelope.time_ms)),
                    approval: before.and_then(|open| open.approval.clone()),
                };
                self.queued.remove(call);
                self.open.insert(call.clone(), intended);
            }
            Event::CallQueued { call, wait, why } => {
                self.queued.insert(call.clone(), *wait);
                self.unpaid.extend(why.iter().map(|why| (call.clone(), why.clone())));
            }
            Event::Sent { call, .. } => self.stage(call, Stage::Sent { since_ms: envelope.time_ms }),
            Event::Took { call } => self.stage(call, Stage::Intended),
            Event::DeadLettered { .. } => self.dead_letters += 1,
            // What was its result is none.
            Event::Rejected { call: Some(call), .. } => _ = self.over.remove(call),
            Event::ApprovalRequested { call, subject, request } => {
                self.ask_approval(call, subject, request.as_ref(), envelope);
            }
            Event::ApproversTold { call, .. } => self.tell_approvers(call),
            Event::ApprovalVoted { call, by } => self.vote(call, by),
            Event::ApprovalDecided { call, granted, verdict } => self.rule(call, *granted, verdict),
            Event::PolicyChanged { network, .. } => {
                self.beginning.iter_mut().for_each(|beginning| beginning.network = network.clone());
            }
            Event::InputRequested { call, subject } => self.ask_person(call, subject, envelope),
            Event::InputGiven { call, text } => {
                self.stage(call, Stage::Answered { text: text.clone() });
                self.answered.push(call.clone());
            }
            Event::CallInDoubt { call, .. } => self.stage(call, Stage::InDoubt),
            Event::CallResolved { call, resolution, .. } => self.stage(call, Stage::Resolved(resolution.clone())),
            Event::CallAbandoned { call, charged } => {
                self.note_abandoned(call);
                self.charge(call, charged);
                self.close(call);
            }
            Event::Paused => self.paused = true,
            Event::Unpaused => self.paused = false,
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
            Event::Decided { call, .. } => self.close(call),
            Event::ModelFailed { call, charged, denied, .. } => {
                // What was denied was not made.
                self.count(call, |totals| totals.model_calls += u64::from(!denied));
                self.charge(call, charged);
                self.close(call);
            }
            Event::ToolReturned { call, .. } => {
                self.evolve_flows(envelope);
                let was_made = |open: &OpenCall| open.attempt > 0 && matches!(open.subject, Subject::Tool { .. });
                if self.open.get(call).is_some_and(was_made) {
                    self.count(call, |totals| totals.tool_calls += 1);
                }
                self.close(call);
            }
            Event::AgentFailed { delivery, restart_in_ms, .. } => self.instance(envelope, |instance| {
                instance.failed_deliveries = *delivery;
                instance.is_restarting = restart_in_ms.is_some();
            }),
            Event::AgentRestarted { .. } => self.instance(envelope, |instance| {
                instance.incarnation = envelope.incarnation;
                instance.is_restarting = false;
            }),
            Event::Hung { what } => self.instance(envelope, |instance| instance.hung = what.clone()),
            Event::AgentEnded { outcome } => {
                let Some(id) = &envelope.agent else { return };
                if let Some(instance) = self.agents.get_mut(id) {
                    (instance.outcome, instance.labels) = (Some(outcome.clone()), envelope.labels.clone());
                }
                // A handoff is over when who handed over is.
                self.open.extract_if(calls_of(id), |_, _| true).for_each(drop);
                self.queued.extract_if(calls_of(id), |_, _| true).for_each(drop);
                self.evolve_flows(envelope);
            }
            Event::Routed { .. } | Event::Joined { .. } | Event::JoinDue { .. } => self.evolve_flows(envelope),
            Event::CancelRequested { end } => self.cancelling = Some(end.clone()),
            Event::RunEnded { end, .. } => self.end = Some(end.clone()),
            Event::BudgetLow { account, limit, per, .. } => _ = self.warned.insert(warning(account, *limit, *per)),
            Event::AtRest
            | Event::PolicyDecided { .. }
            | Event::Rejected { call: None, .. }
            | Event::RepairRequested { .. }
            | Event::Warned { .. }
            | Event::ModelChosen { .. }
            | Event::Compacted { .. }
            | Event::Steered { .. }
            | Event::Asked { .. } => {}
        }
    }

    fn tick(&mut self, envelope: &Envelope) {
        let Clock { head, started_ms, last_ms, active_ms } = &mut self.clock;
        *head = envelope.seq;
        match envelope.event {
            Event::RunStarted { .. } => *started_ms = envelope.time_ms,
            Event::RunForked { .. } => (*started_ms, *active_ms) = (envelope.time_ms, 0),
            Event::RunResumed { .. } | Event::AtRest => {}
            // The machine's clock may have been set back.
            _ => *active_ms += envelope.time_ms.saturating_sub(*last_ms),
        }
        *last_ms = envelope.time_ms;
    }

    fn resume(&mut self, network: Option<&Arc<str>>, version: &Arc<str>) {
        if let Some(beginning) = &mut self.beginning {
            beginning.version = version.clone();
            beginning.network = network.unwrap_or(&beginning.network).clone();
        }
        self.end = None;
        self.paused = false;
        for instance in self.agents.values_mut().filter(|instance| instance.outcome.is_none()) {
            instance.incarnation += 1;
            (instance.is_restarting, instance.hung) = (false, None);
        }
        self.queued.clear();
        // Who was being parked goes on; who was being ended is ended.
        self.cancelling.take_if(|end| end.status.is_parked());
    }

    fn instance(&mut self, envelope: &Envelope, change: impl FnOnce(&mut Instance)) {
        if let Some(instance) = envelope.agent.as_ref().and_then(|id| self.agents.get_mut(id)) {
            change(instance);
        }
    }

    fn note_abandoned(&mut self, call: &CallId) {
        let Some(open) = self.open.get(call).filter(|open| open.attempt > 0) else { return };
        if let (Subject::Tool { tool, .. }, Some(Effect::Once)) = (&open.subject, open.effect) {
            self.abandoned.push((call.clone(), tool.clone()));
        }
    }

    fn stage(&mut self, call: &CallId, stage: Stage) {
        if let Some(open) = self.open.get_mut(call) {
            open.stage = stage;
        }
    }

    fn close(&mut self, call: &CallId) {
        self.open.remove(call);
        self.queued.remove(call);
        self.over.insert(call.clone());
    }

    fn charge(&mut self, call: &CallId, charged: &Amount) {
        self.spent = self.spent.plus(*charged);
        if let Some(open) = self.open.get_mut(call) {
            open.held = Amount::default();
        }
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

    /// Says what follows from the end of `agent` where its answer is a call's result. What follows else, its flow says.
    pub fn after_agent(&self, agent: &AgentId) -> Option<Next> {
        let instance = self.agents.get(agent)?;
        let outcome = instance.outcome.as_ref()?;
        let call = instance.parent.answers()?;
        let (content, failure) = match outcome {
            AgentOutcome::HandedOff { .. } => return None,
            AgentOutcome::Done(answer) => (answer.to_text().to_string(), None),
            AgentOutcome::Failed { reason }
            | AgentOutcome::Denied { reason }
            | AgentOutcome::Limit { reason, .. }
            | AgentOutcome::Cancelled { reason } => {
                (format!("{} gave no answer: {reason}", instance.name), Some(ToolFailure::DelegateFailed))
            }
        };
        let origin = Origin::Agent(agent.clone());
        let tool = delegate_tool(&self.asked_agent(call).unwrap_or_else(|| instance.name.clone()));
        let message = tool_message(call, &tool, content, failure.is_some(), instance.labels.clone(), origin);
        Some(Next { call: call.clone(), message, failure })
    }

    fn asked_agent(&self, call: &CallId) -> Option<Arc<str>> {
        match &self.open.get(call)?.subject {
            Subject::Delegate { agent, .. } => Some(agent.clone()),
            _ => None,
        }
    }
}

/// Returns where the calls of an agent stand among all, which are in order of their agents.
/// Names what somebody is told of once.
fn warning(account: &AccountName, limit: Limit, per: Option<Period>) -> String {
    format!("{account} {limit} {per:?}")
}

fn calls_of(agent: &AgentId) -> RangeInclusive<CallId> {
    CallId::model(agent, 0)..=CallId::tool(agent, u32::MAX, u32::MAX)
}

impl RunState {
    /// Says how a run that ends now lets go of its calls: each that was reserved for is charged in full, since nobody
    /// knows what it cost. A call in doubt stays so where the run is parked, and so does one that awaits approval.
    pub fn abandoned(&self, end: &RunEnd) -> Vec<Event> {
        let is_let_go = |(_, open): &(&CallId, &OpenCall)| match open.stage {
            Stage::Intended => !end.status.is_parked() || open.held != Amount::default(),
            _ => !end.status.is_parked(),
        };
        let charged = |held| if fault::is_planted(Bug::AbandonedNotCharged) { Amount::default() } else { held };
        let abandon = |(call, open): (&CallId, &OpenCall)| Event::CallAbandoned {
            call: call.clone(),
            charged: charged(open.held),
        };
        self.open.iter().filter(is_let_go).map(abandon).collect()
    }
}

/// Returns the name under which a delegate is offered.
pub fn delegate_tool(agent: &str) -> String {
    format!("ask_{agent}")
}

/// Returns the name under which publishing on a topic is offered.
pub fn publish_tool(topic: &str) -> String {
    format!("publish_{topic}")
}

/// Returns the name under which a handoff is offered.
pub fn handoff_tool(agent: &str) -> String {
    format!("transfer_to_{agent}")
}
