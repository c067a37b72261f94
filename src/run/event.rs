//! What happens in a run, as facts. A run's supervisor gives each event its number before anyone applies it, so that
//! what is folded later is what was lived.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    AgentId, AgentOutcome, Answer, ApprovalRequest, CallId, Guard, Labels, Message, Priority, PutBack, RunEnd, RunId,
    Subject, Usage, Verdict, Why,
};
use crate::budget::{AccountName, Amount, Limit};
use crate::model::Finish;
use crate::spec::{Effect, Period, Permission};

/// An event with all that is known about it beside what happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// Which run, and for whom: the same for all events of a stream.
    pub stream: Arc<Stream>,
    /// The event's number in its stream, counted from 1 without a gap.
    pub seq: u64,
    /// When it was numbered, in milliseconds since 1970 (UTC). For people; nothing is decided by it.
    pub time_ms: u64,
    /// The agent instance that it belongs to; none for the run as a whole.
    pub agent: Option<AgentId>,
    /// Which incarnation of the instance was living then, counted from 1; 0 for the run as a whole.
    pub incarnation: u32,
    /// The event that it follows from, where there is one.
    pub cause: Option<u64>,
    /// What it was influenced by.
    pub labels: Labels,
    /// What happened.
    pub event: Event,
}

/// Whose events a stream holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// The run.
    pub run: RunId,
    /// Who the run belongs to and who pays.
    pub tenant: Arc<str>,
    /// The key that several runs share, if any.
    pub session: Option<Arc<str>>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The run began.
    RunStarted {
        /// Who the run belongs to and who pays.
        tenant: Arc<str>,
        /// The key that several runs share, if any.
        session: Option<Arc<str>>,
        /// The network's name.
        name: Arc<str>,
        /// The whole network as resolved, model overrides included: [`Network::to_text`](crate::spec::Network::to_text).
        network: Arc<str>,
        /// The directory that the network's relative paths are resolved against.
        directory: Arc<str>,
        /// The input, verbatim.
        input: Arc<str>,
        /// The variables given beside it.
        vars: Arc<BTreeMap<String, String>>,
        /// The version of Provost that decides from here on.
        version: Arc<str>,
        /// The dead letter that it begins with; none if the network's entry agent gets the input.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        put_back: Option<Arc<PutBack>>,
        /// Its share beside other runs of its tenant.
        #[serde(default, skip_serializing_if = "Priority::is_normal")]
        priority: Priority,
    },
    /// The run was taken up again: after an interruption, or from where it was parked.
    RunResumed {
        /// The whole network, where it is another than before (another model was put in).
        network: Option<Arc<str>>,
        /// The version of Provost that decides from here on.
        version: Arc<str>,
    },
    /// The run begins anew here: all events before are copies of another run's, and what they say was done and paid for
    /// by that one.
    RunForked {
        /// The run that it was forked from.
        from: RunId,
        /// The number of that run's last event which was copied.
        at: u64,
        /// The network's name.
        name: Arc<str>,
        /// The whole network, where it is another than before.
        network: Option<Arc<str>>,
        /// The version of Provost that decides from here on.
        version: Arc<str>,
        /// Its share beside other runs of its tenant, where it is another than before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        priority: Option<Priority>,
    },
    /// An agent instance came into being, with what it was asked.
    AgentStarted {
        /// The agent's name in the network.
        name: Arc<str>,
        /// Who it was that asked.
        parent: Parent,
        /// How many delegations lie between the entry agent and this one.
        depth: u32,
        /// The first messages of its transcript.
        task: Vec<Arc<Message>>,
    },
    /// An agent goes to another model.
    ModelChosen {
        /// The call that is made to it first.
        call: CallId,
        /// The model.
        model: Arc<str>,
        /// What kind of reason there is.
        why: Why,
        /// The reason, in words.
        reason: String,
    },
    /// A call passed the gate and is about to be made: from here on it may have happened.
    CallIntended {
        /// The call.
        call: CallId,
        /// Which try of it, counted from 1.
        attempt: u32,
        /// What is called.
        subject: Subject,
        /// What a second try would do, where it is a tool.
        effect: Option<Effect>,
        /// What was reserved for the try.
        reserved: Amount,
    },
    /// A try of a model call failed, and another one follows.
    TryFailed {
        /// The call.
        call: CallId,
        /// Which try.
        attempt: u32,
        /// What went wrong.
        error: String,
        /// How long the next try waits, in milliseconds.
        retry_in_ms: u64,
        /// What the failed try was charged.
        charged: Amount,
    },
    /// A model answered.
    ModelReplied {
        /// The call.
        call: CallId,
        /// The answer as it goes into the transcript.
        message: Arc<Message>,
        /// Why the model stopped.
        finish: Finish,
        /// What keeps the answer from being in the form that was asked for.
        malformed: Option<String>,
        /// What the provider says that it used.
        usage: Option<Usage>,
        /// What it was charged.
        charged: Amount,
        /// The messages of the agent's transcript that it sums up, from the first to the one after the last; none where it is
        /// no summary.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        covers: Option<(u32, u32)>,
    },
    /// An agent written in Rust said what it does next.
    Decided {
        /// The step, named as its model call would be.
        call: CallId,
        /// What it said, as it goes into the transcript.
        message: Arc<Message>,
    },
    /// A model call failed for good.
    ModelFailed {
        /// The call.
        call: CallId,
        /// What went wrong at last.
        error: String,
        /// What the last try was charged.
        charged: Amount,
        /// Whether it was never made, since policy or a person said no.
        #[serde(default, skip_serializing_if = "is_not")]
        denied: bool,
    },
    /// A tool call, a delegation or a refused call came back.
    ToolReturned {
        /// The call.
        call: CallId,
        /// The result as it goes into the transcript.
        message: Arc<Message>,
        /// Why it is no success; none if it is one.
        failure: Option<ToolFailure>,
    },
    /// The network's policies were asked about a call.
    PolicyDecided {
        /// The call.
        call: CallId,
        /// What they said.
        permission: Permission,
        /// Those that decided, by their ids; none where no permit held, or the network's default decided.
        policies: Vec<Arc<str>>,
        /// The hash of all that were asked.
        set: Arc<str>,
        /// Why, in words; none where it is allowed.
        why: Option<Arc<str>>,
        /// The call as they were told of it, where that is otherwise than its agent wrote it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<Subject>,
    },
    /// Other policies hold from here on.
    PolicyChanged {
        /// The whole network, with them.
        network: Arc<str>,
        /// Their hash.
        set: Arc<str>,
    },
    /// A person is asked whether a call may happen; or once more, since what was asked has changed.
    ApprovalRequested {
        /// The call.
        call: CallId,
        /// What is to be called.
        subject: Subject,
        /// What a grant is bound to, and on which terms; none where an older version asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<Arc<ApprovalRequest>>,
    },
    /// Those who can answer were told, or could not be.
    ApproversTold {
        /// The call.
        call: CallId,
        /// Why they could not be; none if they were.
        error: Option<String>,
    },
    /// A person said yes, and more have to.
    ApprovalVoted {
        /// The call.
        call: CallId,
        /// Who.
        by: Arc<str>,
    },
    /// It is settled whether a call may happen.
    ApprovalDecided {
        /// The call.
        call: CallId,
        /// Whether it may.
        granted: bool,
        /// By whom, and what else they said.
        #[serde(default, skip_serializing_if = "Verdict::says_nothing")]
        verdict: Verdict,
    },
    /// An agent asks a person something, with a call that passed the gate.
    InputRequested {
        /// The call.
        call: CallId,
        /// What is called, with the question in its arguments.
        subject: Subject,
    },
    /// A person answered what an agent asked.
    InputGiven {
        /// The call that asked.
        call: CallId,
        /// The answer.
        text: Arc<str>,
    },
    /// The process ended while the call was being made, and nobody knows what became of it: a person is asked.
    CallInDoubt {
        /// The call.
        call: CallId,
        /// The tool that was asked and did not know, if one was.
        #[serde(default)]
        asked: Option<Arc<str>>,
    },
    /// A call in doubt was settled.
    CallResolved {
        /// The call.
        call: CallId,
        /// How.
        resolution: Resolution,
        /// Who knew: `person`, or the tool that was asked.
        by: Arc<str>,
    },
    /// The run ends, and the call with it: what became of it is not waited for.
    CallAbandoned {
        /// The call.
        call: CallId,
        /// What it was charged: what was reserved, since nobody knows what it cost.
        charged: Amount,
    },
    /// The run was asked to begin no more calls for now.
    Paused,
    /// The run may go on.
    Unpaused,
    /// A person told an agent something while it was at work.
    Steered {
        /// The words, as a message to the model.
        message: Arc<Message>,
    },
    /// An agent was told something while no model call of its was under way: its model reads it before it speaks next.
    Asked {
        /// The words, as a message to the model.
        message: Arc<Message>,
    },
    /// An answer can't be used and goes back to the model.
    RepairRequested {
        /// What is wrong with it, as a message to the model.
        message: Arc<Message>,
    },
    /// An agent does not get on, and its model is told so.
    Warned {
        /// What has struck.
        guard: Guard,
        /// What it is told, as a message to the model.
        message: Arc<Message>,
    },
    /// Older messages of an agent's transcript were replaced by one.
    Compacted {
        /// The step before which it happened.
        step: u32,
        /// The place in the transcript of the first message that was replaced, counted from 0.
        from: u32,
        /// The place of the first one after it that stays.
        upto: u32,
        /// What stands in their place: a summary, or a note that they were left out.
        message: Arc<Message>,
        /// Why there is no summary of them; none if there is one.
        lost: Option<String>,
    },
    /// The run was asked to end before its agents did.
    CancelRequested {
        /// How it is to end.
        end: RunEnd,
    },
    /// So much is spent of a limit of an account that somebody is told: once in a run for each limit.
    BudgetLow {
        /// The account.
        account: AccountName,
        /// Which of its limits is near.
        limit: Limit,
        /// In what time it holds; none for ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        per: Option<Period>,
        /// What is spent of it.
        spent: Amount,
    },
    /// Somebody did something with the run that no process had under way: what follows up to its next process was written
    /// then, and the time since the event before counts for nothing.
    AtRest,
    /// A call has to wait before it can be made, and holds nothing meanwhile.
    CallQueued {
        /// The call.
        call: CallId,
        /// What for.
        wait: Wait,
        /// Which limit it would go beyond, and by what that may be raised, in words, where it waits for that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<Arc<str>>,
    },
    /// A question is in the mailbox of an agent, and waits for an instance that is free.
    Sent {
        /// The call that asks.
        call: CallId,
        /// The agent's name in the network.
        to: Arc<str>,
    },
    /// An instance of the agent takes the question from the mailbox; its start follows.
    Took {
        /// The call that asks.
        call: CallId,
    },
    /// An answer was passed on: agents start with it, it waits at a join, or it is one of those of its flow.
    Routed {
        /// Whose inner flow it is in; none for the run's own.
        flow: Option<AgentId>,
        /// Whose answer it is: an instance that has ended; or who published it.
        from: AgentId,
        /// The routes that were taken, by their places in the network file, counted from 0.
        taken: Vec<u32>,
        /// The joins at which it waits for others, in the order of the network file, counted from 0.
        waits: Vec<u32>,
        /// How many agents start with it; their starts follow.
        starts: u32,
        /// What it makes the flow answer, if it does.
        answer: Option<Answer>,
        /// The call that published it; none if it is an answer.
        published: Option<CallId>,
        /// Whether it came too late for the join that it was for, so that nothing becomes of it.
        is_late: bool,
    },
    /// Answers came together at a join.
    Joined {
        /// Whose inner flow it is in; none for the run's own.
        flow: Option<AgentId>,
        /// The join, counted from 0 in the order of the network file.
        join: u32,
        /// Whose answers came together.
        from: Vec<AgentId>,
        /// The routes that were taken.
        taken: Vec<u32>,
        /// Who is stopped, since nobody waits for what it would have said; their ends follow.
        lost: Vec<AgentId>,
        /// How many agents start; their starts follow.
        starts: u32,
        /// What the flow answers by it, if it does.
        answer: Option<Answer>,
    },
    /// A join has waited for as long as it may.
    JoinDue {
        /// Whose inner flow it is in; none for the run's own.
        flow: Option<AgentId>,
        /// The join.
        join: u32,
    },
    /// A message was given up: nobody deals with it unless a person puts it back.
    DeadLettered {
        /// The call that asked; none if it was the run's input.
        call: Option<CallId>,
        /// The agent's name in the network.
        to: Arc<str>,
        /// The message.
        message: Arc<Message>,
        /// How often it was given to the agent.
        deliveries: u32,
        /// Why it was given up.
        reason: String,
    },
    /// An agent's actor failed.
    AgentFailed {
        /// Why.
        reason: String,
        /// The event that it was working on, if it is known.
        at: Option<u64>,
        /// How often in a row it has failed at what it was given, counted from 1; 0 if that is not to blame.
        delivery: u32,
        /// After how many milliseconds it is started again; none if it is not.
        restart_in_ms: Option<u64>,
    },
    /// An event made its agent fail again and again: from here on it is as if the agent had never got it.
    Rejected {
        /// The event's number.
        seq: u64,
        /// The call whose result it was, if it was one.
        call: Option<CallId>,
        /// Why the agent failed.
        reason: String,
    },
    /// An agent makes no progress, although the time that its present step may take is over; or it makes progress again.
    Hung {
        /// What does not come to an end; none where progress is made again.
        what: Option<String>,
    },
    /// An agent's actor failed and a new incarnation took its place.
    AgentRestarted {
        /// Why the last one failed.
        reason: String,
    },
    /// An agent instance came to its end.
    AgentEnded {
        /// How.
        outcome: AgentOutcome,
    },
    /// The run came to its end, or is parked.
    RunEnded {
        /// How.
        end: RunEnd,
        /// What it spent over all.
        spent: Amount,
        /// By how much providers billed it beyond its limits; that is in `spent` too.
        debt: Amount,
    },
}

impl Event {
    /// Returns the call that the event is about, if it is about one.
    pub fn call(&self) -> Option<&CallId> {
        match self {
            Self::ModelChosen { call, .. }
            | Self::CallIntended { call, .. }
            | Self::TryFailed { call, .. }
            | Self::ModelReplied { call, .. }
            | Self::Decided { call, .. }
            | Self::ModelFailed { call, .. }
            | Self::ToolReturned { call, .. }
            | Self::PolicyDecided { call, .. }
            | Self::ApprovalRequested { call, .. }
            | Self::ApproversTold { call, .. }
            | Self::ApprovalVoted { call, .. }
            | Self::ApprovalDecided { call, .. }
            | Self::InputRequested { call, .. }
            | Self::InputGiven { call, .. }
            | Self::CallInDoubt { call, .. }
            | Self::CallResolved { call, .. }
            | Self::CallQueued { call, .. }
            | Self::Sent { call, .. }
            | Self::CallAbandoned { call, .. } => Some(call),
            Self::RunStarted { .. }
            | Self::RunResumed { .. }
            | Self::RunForked { .. }
            | Self::AgentStarted { .. }
            | Self::AtRest
            | Self::PolicyChanged { .. }
            | Self::BudgetLow { .. }
            | Self::Paused
            | Self::Unpaused
            | Self::Steered { .. }
            | Self::Asked { .. }
            | Self::RepairRequested { .. }
            | Self::Warned { .. }
            | Self::Compacted { .. }
            | Self::CancelRequested { .. }
            | Self::Took { .. }
            | Self::Routed { .. }
            | Self::Joined { .. }
            | Self::JoinDue { .. }
            | Self::DeadLettered { .. }
            | Self::AgentFailed { .. }
            | Self::Rejected { .. }
            | Self::Hung { .. }
            | Self::AgentRestarted { .. }
            | Self::AgentEnded { .. }
            | Self::RunEnded { .. } => None,
        }
    }

    /// Returns what it charges, and for which call: a model call is charged by what became of a try, and a tool call is
    /// counted as it begins.
    pub fn charge(&self) -> Option<(&CallId, Amount)> {
        match self {
            Self::TryFailed { call, charged, .. }
            | Self::ModelReplied { call, charged, .. }
            | Self::ModelFailed { call, charged, .. }
            | Self::CallAbandoned { call, charged } => Some((call, *charged)),
            Self::CallIntended { call, subject: Subject::Tool { .. }, reserved, .. } => Some((call, *reserved)),
            _ => None,
        }
    }

    /// Returns the event's kind, as it stands in the store and in what is printed.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RunStarted { .. } => "run_started",
            Self::RunResumed { .. } => "run_resumed",
            Self::RunForked { .. } => "run_forked",
            Self::AgentStarted { .. } => "agent_started",
            Self::ModelChosen { .. } => "model_chosen",
            Self::CallIntended { .. } => "call_intended",
            Self::TryFailed { .. } => "try_failed",
            Self::ModelReplied { .. } => "model_replied",
            Self::Decided { .. } => "decided",
            Self::ModelFailed { .. } => "model_failed",
            Self::ToolReturned { .. } => "tool_returned",
            Self::PolicyDecided { .. } => "policy_decided",
            Self::PolicyChanged { .. } => "policy_changed",
            Self::ApprovalRequested { .. } => "approval_requested",
            Self::ApproversTold { .. } => "approvers_told",
            Self::ApprovalVoted { .. } => "approval_voted",
            Self::ApprovalDecided { .. } => "approval_decided",
            Self::InputRequested { .. } => "input_requested",
            Self::InputGiven { .. } => "input_given",
            Self::CallInDoubt { .. } => "call_in_doubt",
            Self::CallResolved { .. } => "call_resolved",
            Self::CallAbandoned { .. } => "call_abandoned",
            Self::AtRest => "at_rest",
            Self::BudgetLow { .. } => "budget_low",
            Self::Paused => "paused",
            Self::Unpaused => "unpaused",
            Self::Steered { .. } => "steered",
            Self::Asked { .. } => "asked",
            Self::RepairRequested { .. } => "repair_requested",
            Self::Warned { .. } => "warned",
            Self::Compacted { .. } => "compacted",
            Self::CancelRequested { .. } => "cancel_requested",
            Self::CallQueued { .. } => "call_queued",
            Self::Sent { .. } => "sent",
            Self::Took { .. } => "took",
            Self::Routed { .. } => "routed",
            Self::Joined { .. } => "joined",
            Self::JoinDue { .. } => "join_due",
            Self::DeadLettered { .. } => "dead_lettered",
            Self::AgentFailed { .. } => "agent_failed",
            Self::Rejected { .. } => "rejected",
            Self::Hung { .. } => "hung",
            Self::AgentRestarted { .. } => "agent_restarted",
            Self::AgentEnded { .. } => "agent_ended",
            Self::RunEnded { .. } => "run_ended",
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_not(is: &bool) -> bool {
    !is
}

/// What a call waits for before it can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// For its turn: as many calls are under way as may be.
    Permit,
    /// For budget that others hold, and may give back.
    Budget,
    /// For room in the mailbox of the agent that it asks.
    Mailbox,
    /// For a person who raises a limit that is reached.
    TopUp,
}

/// What became of a call that was in doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// It happened, and this is its result.
    Done {
        /// The result, as the model is to read it.
        result: String,
    },
    /// It did not happen, and is to be made now.
    Retry,
    /// It counts as failed, and the model is told so.
    Fail,
}

/// What brought an agent instance into being.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parent {
    /// The run itself: this is the entry agent.
    Run,
    /// A delegation: the answer is the call's result.
    Delegation(CallId),
    /// A handoff: this instance stands where `from` stood, and answers to whom `from` would have answered.
    Handoff {
        /// The call that handed over.
        call: CallId,
        /// To whom the answer goes; none for the run.
        answers: Option<CallId>,
        /// Where in a flow it stands, if who handed over was brought into being by a route.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        visit: Option<Visit>,
    },
    /// A route, a room, or an inner flow that begins.
    Route(Visit),
}

/// Where in a flow an instance stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visit {
    /// Whose inner flow it is; none for the run's own.
    pub flow: Option<AgentId>,
    /// The agent whose routes its answer takes, unless it has routes of its own: the one who handed over first.
    pub node: Arc<str>,
    /// Which item of a list it was given or works on, counted from 0, and of which item that list came, the outermost
    /// first; empty if it was given an answer as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub item: Vec<u32>,
    /// The number of the event at which the join went on that its work comes from; 0 if it comes from the beginning. What
    /// comes from before a join went on comes too late for it.
    #[serde(default)]
    pub since: u64,
}

impl Visit {
    /// Makes the place in the run's own flow of an agent that the run begins with.
    pub fn of_run(name: &Arc<str>) -> Self {
        Self { flow: None, node: name.clone(), item: Vec::new(), since: 0 }
    }
}

impl Parent {
    /// Returns the call that brought the instance into being; none if it was the run.
    pub fn call(&self) -> Option<&CallId> {
        match self {
            Self::Run | Self::Route(_) => None,
            Self::Delegation(call) | Self::Handoff { call, .. } => Some(call),
        }
    }

    /// Returns where in a flow the instance of the agent `name` stands; none if its answer is a call's result.
    pub fn visit(&self, name: &Arc<str>) -> Option<Visit> {
        match self {
            Self::Run => Some(Visit::of_run(name)),
            Self::Route(visit) => Some(visit.clone()),
            Self::Handoff { visit: Some(visit), answers: None, .. } => Some(visit.clone()),
            // An older version, which knew no flows, wrote it down.
            Self::Handoff { visit: None, answers: None, .. } => Some(Visit::of_run(name)),
            Self::Delegation(_) | Self::Handoff { answers: Some(_), .. } => None,
        }
    }

    /// Returns whose inner flow the instance belongs to, if it does.
    pub fn flow(&self) -> Option<&AgentId> {
        match self {
            Self::Route(visit) | Self::Handoff { visit: Some(visit), .. } => visit.flow.as_ref(),
            _ => None,
        }
    }

    /// Returns the call that the instance's answer is the result of; none if it is the run's answer.
    pub fn answers(&self) -> Option<&CallId> {
        match self {
            Self::Run | Self::Route(_) => None,
            Self::Delegation(call) => Some(call),
            Self::Handoff { answers, .. } => answers.as_ref(),
        }
    }
}

/// Why a tool call is no success. Each is told to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolFailure {
    /// The agent has no such tool.
    UnknownTool,
    /// The arguments are no JSON, or not what the tool takes.
    InvalidArguments,
    /// The call can't stand where it was made (a handoff beside other calls, too many calls in one step).
    Misplaced,
    /// Policy or a person said no.
    Denied,
    /// Delegation would go too deep, or the run has too many agents.
    OutOfBounds,
    /// Control went to and fro between two agents with much the same words.
    PingPong,
    /// The tool says no or failed.
    Failed,
    /// The tool did not answer in time.
    TimedOut,
    /// The tool panicked.
    Panicked,
    /// The delegate failed.
    DelegateFailed,
    /// The mailbox of the agent that was asked has no room.
    MailboxFull,
    /// The question was given up before it was answered.
    DeadLettered,
    /// The result was there, and made the agent fail.
    Rejected,
}

impl ToolFailure {
    /// Whether the model's own output was at fault, so that the step counts as a repair.
    pub fn is_models_fault(self) -> bool {
        matches!(self, Self::UnknownTool | Self::InvalidArguments | Self::Misplaced)
    }
}
