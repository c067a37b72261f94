//! What is recorded and what is decided, in words that can be laid beside each other.

use crate::budget::Amount;
use crate::run::{
    AgentId, AgentOutcome, Body, CallId, Effect, Envelope, Event, Labels, Message, Parent, RunEnd, Subject,
    ToolFailure, Visit,
};

/// How many of an agent's wants are named.
const NAMED: usize = 4;

/// What is said where nothing is decided.
pub(super) fn nothing() -> String {
    "nothing".to_owned()
}

/// Says what is wanted all at once.
pub(super) fn several(wants: &[String]) -> String {
    if wants.is_empty() {
        return nothing();
    }
    let named = wants.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
    match wants.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}; and {more} more"),
    }
}

/// Says what an event is.
pub(super) fn event(envelope: &Envelope) -> String {
    let said = event_of(envelope.agent.as_ref(), &envelope.event);
    match envelope.event {
        Event::CallIntended { .. }
        | Event::ApprovalRequested { .. }
        | Event::InputRequested { .. }
        | Event::AgentEnded { .. } => with_labels(said, &envelope.labels),
        _ => said,
    }
}

/// Says what an event is that must come next.
pub(super) fn owed(agent: Option<&AgentId>, event: &Event) -> String {
    event_of(agent, event)
}

/// Says what must come next in the place of what is recorded, so that the two can be told apart.
pub(super) fn told_apart(agent: Option<&AgentId>, wanted: &Event, recorded: &Envelope) -> String {
    let said = event_of(agent, wanted);
    match said == event(recorded) {
        false => said,
        true => serde_json::to_string(wanted).unwrap_or(said),
    }
}

/// Says what an event is, and whose.
pub(super) fn event_of(agent: Option<&AgentId>, event: &Event) -> String {
    let who = agent.map(AgentId::as_str).unwrap_or_default();
    match event {
        Event::AgentStarted { name, parent, depth, task } => {
            let by = match parent {
                Parent::Run => "by the run".to_owned(),
                Parent::Delegation(call) => format!("by call {call}"),
                Parent::Route(visit) => place(visit),
                Parent::Handoff { call, answers: None, visit: Some(visit) } => {
                    format!("by call {call}, {}", place(visit))
                }
                Parent::Handoff { call, answers: None, visit: None } => format!("by call {call}, in its place"),
                Parent::Handoff { call, answers: Some(answers), .. } => {
                    format!("by call {call}, in its place, to answer {answers}")
                }
            };
            let task: Vec<&str> = task.iter().map(|message| text(message)).collect();
            format!("agent `{who}` starts, a `{name}`, {by}, at depth {depth}: {}", task.join(" | "))
        }
        Event::ModelChosen { model, reason, .. } => choice(model, reason),
        Event::CallIntended { call, attempt, subject, .. } => intent(call, *attempt, subject, &Labels::default()),
        Event::PolicyDecided { call, permission, .. } => format!("policy says {} to call {call}", permission.word()),
        Event::PolicyChanged { .. } => "other policies hold".to_owned(),
        Event::ApprovalRequested { call, subject, .. } => {
            format!("a person is asked about call {}", made(call, subject))
        }
        Event::ApproversTold { call, .. } => format!("those who can answer are told of call {call}"),
        Event::ApprovalVoted { call, by } => format!("`{by}` is for call {call}"),
        Event::ApprovalDecided { call, granted: true, .. } => format!("a person allows call {call}"),
        Event::ApprovalDecided { call, granted: false, .. } => format!("a person does not allow call {call}"),
        Event::InputRequested { call, subject } => format!("a person is asked by call {}", made(call, subject)),
        Event::InputGiven { call, text } => format!("a person answers call {call}: {text}"),
        Event::TryFailed { call, attempt, error, charged, .. } => {
            format!("try {attempt} of call {call} failed, charged {}: {error}", amount(charged))
        }
        Event::ModelReplied { call, message, .. } => format!("the model's answer to call {call}: {}", text(message)),
        Event::Decided { call, message } => format!("step {call} is decided: {}", text(message)),
        Event::ModelFailed { call, error, .. } => format!("call {call} failed: {error}"),
        Event::ToolReturned { call, message, failure } => result(call, message, *failure),
        Event::CallAbandoned { call, charged } => format!("lets go of call {call}, charged {}", amount(charged)),
        Event::RepairRequested { message } => format!("asks for a better answer: {}", text(message)),
        Event::Warned { message, .. } => format!("tells the model that it does not get on: {}", text(message)),
        Event::Compacted { from, upto, message, lost, .. } => {
            let how = if lost.is_none() { "by a summary" } else { "by a note" };
            format!("replaces messages {from} to {upto} {how}: {}", text(message))
        }
        Event::AgentEnded { outcome } => ended(outcome),
        Event::CancelRequested { end } => run_end(end),
        Event::RunEnded { end, spent, .. } => self::end(end, spent),
        Event::RunStarted { .. } => "the run begins".to_owned(),
        Event::RunResumed { .. } => "the run is taken up again".to_owned(),
        Event::CallInDoubt { call, .. } => format!("nobody knows what became of call {call}"),
        Event::CallResolved { call, .. } => format!("it is known what became of call {call}"),
        Event::BudgetLow { account, limit, .. } => format!("the limit {limit} of {account} is near"),
        Event::AtRest => "somebody does something with the run while no process has it".to_owned(),
        Event::Paused => "the run is paused".to_owned(),
        Event::Unpaused => "the run goes on".to_owned(),
        Event::RunForked { from, at, .. } => format!("the run goes its own way from event {at} of run {from}"),
        Event::Asked { message } => format!("a person says: {}", text(message)),
        Event::Steered { message } => format!("a person says: {}", text(message)),
        Event::CallQueued { call, .. } => format!("call {call} has to wait"),
        Event::Sent { call, to } => format!("the question of call {call} is in the mailbox of `{to}`"),
        Event::Took { call } => format!("the question of call {call} is taken from its mailbox"),
        Event::Routed { from, is_late: true, .. } => format!("what `{from}` says comes too late"),
        Event::Routed { from, taken, waits, starts, answer, .. } => {
            let answer = answer.as_ref().map(|answer| format!(", and is answered: {}", answer.to_text()));
            format!(
                "what `{from}` says takes the routes {taken:?}, waits at the joins {waits:?}, and starts {starts}{}",
                answer.unwrap_or_default()
            )
        }
        Event::Joined { join, from, taken, lost, starts, answer, .. } => {
            let from: Vec<&str> = from.iter().map(AgentId::as_str).collect();
            let lost: Vec<&str> = lost.iter().map(AgentId::as_str).collect();
            let answer = answer.as_ref().map(|answer| format!(", and is answered: {}", answer.to_text()));
            format!(
                "join {join} of {from:?} takes the routes {taken:?}, starts {starts}, and loses {lost:?}{}",
                answer.unwrap_or_default()
            )
        }
        Event::JoinDue { join, .. } => format!("join {join} has waited long enough"),
        Event::DeadLettered { to, reason, .. } => format!("a message to `{to}` is given up: {reason}"),
        Event::AgentFailed { reason, .. } => format!("the agent's actor failed: {reason}"),
        Event::Rejected { seq, .. } => format!("event {seq} is rejected"),
        Event::Hung { what: Some(what) } => format!("no progress: {what}"),
        Event::Hung { what: None } => "there is progress again".to_owned(),
        Event::AgentRestarted { reason } => format!("the agent is started again: {reason}"),
    }
}

/// Says what an agent wants. `model` is its model's name, where it is known.
pub(super) fn effect(effect: &Effect, model: Option<&str>) -> String {
    match effect {
        Effect::CallModel { call, .. } => match model {
            Some(model) => format!("call {call} to the model `{model}`"),
            None => format!("call {call} to its model"),
        },
        Effect::Summarise { call, model, .. } => format!("call {call} to the model `{model}`"),
        Effect::Compact { event } => event_of(None, event),
        Effect::Act { call, subject, labels } => with_labels(format!("call {}", made(call, subject)), labels),
        Effect::Refuse { call, failure, message } => result(call, message, Some(*failure)),
        Effect::Decide { call, message } => format!("step {call} is decided: {}", text(message)),
        Effect::Warn { message, .. } => format!("tells the model that it does not get on: {}", text(message)),
        Effect::Repair { message } => format!("asks for a better answer: {}", text(message)),
        Effect::End(outcome) => ended(outcome),
    }
}

/// Says that an agent goes to another model.
pub(super) fn choice(model: &str, reason: &str) -> String {
    format!("goes to the model `{model}`: {reason}")
}

/// Says that a call is about to be made.
pub(super) fn intent(call: &CallId, attempt: u32, subject: &Subject, labels: &Labels) -> String {
    let said = match attempt {
        1 => format!("call {}", made(call, subject)),
        _ => format!("try {attempt} of call {}", made(call, subject)),
    };
    with_labels(said, labels)
}

fn made(call: &CallId, subject: &Subject) -> String {
    match subject {
        Subject::Model { model, .. } => format!("{call} to the model `{model}`"),
        Subject::Tool { tool, arguments } => format!("{call} to the tool `{tool}` with {arguments}"),
        Subject::Delegate { agent, message } => format!("{call} to the agent `{agent}`: {message}"),
        Subject::Handoff { agent, message } => format!("{call} that hands over to `{agent}`: {message}"),
        Subject::Publish { topic, message } => format!("{call} that publishes on `{topic}`: {message}"),
    }
}

fn result(call: &CallId, message: &Message, failure: Option<ToolFailure>) -> String {
    match failure {
        None => format!("call {call} returns: {}", text(message)),
        Some(failure) => {
            let kind = serde_json::to_value(failure).ok();
            let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default();
            format!("call {call} fails, {kind}: {}", text(message))
        }
    }
}

fn ended(outcome: &AgentOutcome) -> String {
    match outcome {
        AgentOutcome::Done(answer) => format!("the agent is done: {}", answer.to_text()),
        AgentOutcome::HandedOff { to } => format!("the agent has handed over to `{to}`"),
        AgentOutcome::Failed { reason } => format!("the agent fails: {reason}"),
        AgentOutcome::Denied { reason } => format!("the agent is denied its model: {reason}"),
        AgentOutcome::Cancelled { reason } => format!("the agent is stopped: {reason}"),
        AgentOutcome::Limit { limit, reason } => format!("the agent reaches {limit}: {reason}"),
    }
}

/// Says how a run is to end.
pub(super) fn run_end(end: &RunEnd) -> String {
    let said = end.reason.clone().or_else(|| end.answer.as_ref().map(|answer| answer.to_text().to_string()));
    match said {
        Some(said) => format!("the run ends, {}: {said}", end.status.word()),
        None => format!("the run ends, {}", end.status.word()),
    }
}

/// Says how a run ended, and what it had spent.
pub(super) fn end(end: &RunEnd, spent: &Amount) -> String {
    format!("{} (spent: {})", run_end(end), amount(spent))
}

/// Adds what something was influenced by.
pub(super) fn with_labels(said: String, labels: &Labels) -> String {
    match labels.is_empty() {
        true => said,
        false => format!("{said} [labels: {}]", labels.iter().collect::<Vec<_>>().join(", ")),
    }
}

fn amount(amount: &Amount) -> String {
    format!("{} tokens and {} billionths of a dollar", amount.tokens, amount.cost_nano_usd)
}

fn text(message: &Message) -> &str {
    match &message.body {
        Body::User { text } | Body::Assistant { text, .. } => text,
        Body::Tool { content, .. } => content,
    }
}

fn place(visit: &Visit) -> String {
    let item = if visit.item.is_empty() { String::new() } else { format!(", item {:?}", visit.item) };
    match &visit.flow {
        Some(flow) => format!("in the flow of `{flow}`, for `{}`{item}", visit.node),
        None => format!("by a route, for `{}`{item}", visit.node),
    }
}
