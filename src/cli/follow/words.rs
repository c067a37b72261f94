//! What happened, in words.

use crate::run::{AgentOutcome, Body, CallId, Envelope, Event, Inquiry, Parent, Resolution, Subject, Wait};

use crate::spec::{Period, visible};

/// How much of a text is shown in a line.
const LINE_CHARS: usize = 120;

/// Whether the event is told to somebody who watches a run go on; the others are seen in what follows from them.
pub(in crate::cli) fn is_progress(event: &Event) -> bool {
    match event {
        Event::AgentStarted { .. }
        | Event::BudgetLow { .. }
        | Event::ModelChosen { .. }
        | Event::TryFailed { .. }
        | Event::ModelFailed { .. }
        | Event::RepairRequested { .. }
        | Event::Warned { .. }
        | Event::Compacted { .. }
        | Event::PolicyChanged { .. }
        | Event::ApprovalRequested { .. }
        | Event::ApprovalVoted { .. }
        | Event::InputRequested { .. }
        | Event::InputGiven { .. }
        | Event::CallInDoubt { .. }
        | Event::Paused
        | Event::Unpaused
        | Event::RunForked { .. }
        | Event::Steered { .. }
        | Event::Asked { .. }
        | Event::DeadLettered { .. }
        | Event::Joined { .. }
        | Event::AgentFailed { .. }
        | Event::Rejected { .. }
        | Event::Hung { .. }
        | Event::AgentRestarted { .. }
        | Event::ApproversTold { error: Some(_), .. } => true,
        Event::CallIntended { subject, .. } => !matches!(subject, Subject::Model { .. }),
        Event::ToolReturned { failure, .. } => failure.is_some(),
        Event::AgentEnded { outcome } => !matches!(outcome, AgentOutcome::HandedOff { .. }),
        Event::RunStarted { .. }
        | Event::RunResumed { .. }
        | Event::AtRest
        | Event::ModelReplied { .. }
        | Event::Decided { .. }
        | Event::PolicyDecided { .. }
        | Event::ApproversTold { error: None, .. }
        | Event::ApprovalDecided { .. }
        | Event::CallResolved { .. }
        | Event::CallAbandoned { .. }
        | Event::CallQueued { .. }
        | Event::Sent { .. }
        | Event::Took { .. }
        | Event::Routed { .. }
        | Event::JoinDue { .. }
        | Event::CancelRequested { .. }
        | Event::RunEnded { .. } => false,
    }
}

/// Says in a sentence who did what, or what happened to whom.
pub(in crate::cli) fn sentence(envelope: &Envelope) -> String {
    match &envelope.agent {
        Some(agent) => format!("{} {}", visible(agent.short()), what(&envelope.event)),
        None => what(&envelope.event),
    }
}

fn what(event: &Event) -> String {
    match event {
        Event::RunStarted { name, put_back: Some(put_back), .. } => {
            let (letter, to) = (&put_back.letter, visible(&put_back.to));
            let from = format!("the dead letter of event {} of run {}, for {to}", letter.event, letter.run);
            format!("the run of {} began with {from}", visible(name))
        }
        Event::RunStarted { name, input, .. } => format!("the run of {} began: {}", visible(name), excerpt(input)),
        Event::RunResumed { network, .. } => match network {
            Some(_) => "the run was taken up again, with another model".to_owned(),
            None => "the run was taken up again".to_owned(),
        },
        Event::RunForked { from, at, network, .. } => {
            let how = if network.is_some() { ", in another network or with another model" } else { "" };
            format!("the run goes its own way from event {at} of run {from}{how}")
        }
        Event::AgentStarted { task, parent, .. } => {
            let asked = task.last().map(|task| said(&task.body)).unwrap_or_default();
            let takes_over = matches!(parent, Parent::Handoff { .. });
            if takes_over { format!("takes over: {asked}") } else { format!("is asked: {asked}") }
        }
        Event::ModelChosen { model, reason, .. } => {
            format!("goes to the model {}: {}", visible(model), excerpt(reason))
        }
        Event::CallIntended { subject, attempt, .. } => match attempt {
            1 => wants(subject),
            _ => format!("{}, try {attempt}", wants(subject)),
        },
        Event::TryFailed { error, retry_in_ms, .. } => format!("tries again in {retry_in_ms} ms: {}", excerpt(error)),
        Event::ModelReplied { call, message, .. } if call.is_compaction => {
            format!("gets a summary: {}", said(&message.body))
        }
        Event::ModelReplied { message, malformed, .. } => match malformed {
            Some(why) => format!("gets an answer that can't be used: {}", excerpt(why)),
            None => format!("gets an answer: {}", said(&message.body)),
        },
        Event::Decided { message, .. } => format!("decides: {}", said(&message.body)),
        Event::ModelFailed { call, error, .. } if call.is_compaction => {
            format!("gets no summary: {}", excerpt(error))
        }
        Event::ModelFailed { error, .. } => format!("can't reach its model: {}", excerpt(error)),
        Event::ToolReturned { message, .. } => format!("is told: {}", said(&message.body)),
        Event::PolicyDecided { call, permission, why, .. } => {
            let why = why.as_ref().map(|why| format!(": {}", excerpt(why))).unwrap_or_default();
            format!("is told by policy to {} call {}{why}", permission.word(), shown(call))
        }
        Event::PolicyChanged { .. } => "other policies hold from here on".to_owned(),
        Event::ApprovalRequested { subject, request, .. } => {
            let again = request.as_ref().and_then(|request| request.again.as_ref());
            let again = again.map(|what| format!(", again, since it has changed: {}", excerpt(what)));
            format!("awaits approval{}: {}", again.unwrap_or_default(), wants(subject))
        }
        Event::ApproversTold { call, error: None } => format!("had its approvers told of call {}", shown(call)),
        Event::ApproversTold { call, error: Some(error) } => {
            format!("could not have its approvers told of call {}: {}", shown(call), excerpt(error))
        }
        Event::ApprovalVoted { call, by } => {
            format!("has {} for call {}, and more have to be", visible(by), shown(call))
        }
        Event::ApprovalDecided { call, granted, verdict } => {
            let by = verdict.by.iter().map(|name| visible(name)).collect::<Vec<_>>().join(", ");
            let by = if by.is_empty() { by } else { format!(", says {by}") };
            let how = match (&verdict.arguments, &verdict.reason) {
                (Some(arguments), _) => format!(", with other arguments: {}", excerpt(&arguments.to_string())),
                (None, Some(reason)) => format!(": {}", excerpt(reason)),
                (None, None) => String::new(),
            };
            let may = if *granted { "may make call" } else { "may not make call" };
            format!("{may} {}{by}{how}", shown(call))
        }
        Event::InputRequested { subject, .. } => {
            let question = Inquiry::of(subject).map(|inquiry| inquiry.question).unwrap_or_default();
            format!("asks a person: {}", excerpt(&question))
        }
        Event::InputGiven { text, .. } => format!("is answered: {}", excerpt(text)),
        Event::CallInDoubt { call, asked: None } => format!("does not know what became of call {}", shown(call)),
        Event::CallInDoubt { call, asked: Some(tool) } => {
            format!("does not know what became of call {}, and neither does {}", shown(call), visible(tool))
        }
        Event::CallResolved { call, resolution, .. } => {
            let how = match resolution {
                Resolution::Done { .. } => "was made",
                Resolution::Retry => "is made again",
                Resolution::Fail => "counts as failed",
            };
            format!("learns that call {} {how}", shown(call))
        }
        Event::CallAbandoned { call, .. } => format!("does not wait for call {} any more", shown(call)),
        Event::BudgetLow { account, limit, per, spent } => {
            let per = per.map_or("", |per| match per {
                Period::Day => " a day",
                Period::Month => " a month",
            });
            format!("the limit {limit}{per} of {} is near: {} are used", visible(account.as_str()), limit.of(spent))
        }
        Event::AtRest => "somebody looks after the run, which no process has".to_owned(),
        Event::Paused => "the run is paused".to_owned(),
        Event::Unpaused => "the run goes on".to_owned(),
        Event::Steered { message }
        | Event::Asked { message }
        | Event::Warned { message, .. }
        | Event::RepairRequested { message } => {
            format!("is told: {}", said(&message.body))
        }
        Event::Compacted { from, upto, lost, .. } => match lost {
            None => format!("goes on with a summary of {} messages", upto - from),
            Some(why) => format!("goes on without {} messages: {}", upto - from, excerpt(why)),
        },
        Event::CancelRequested { end } => format!("the run is to end: {}", end.status.word()),
        Event::CallQueued { wait, .. } => match wait {
            Wait::Permit => "waits for its turn to call".to_owned(),
            Wait::Budget => "waits for budget that others hold".to_owned(),
            Wait::TopUp => "waits for someone who raises a limit that is reached".to_owned(),
            Wait::Mailbox => "waits for room in a mailbox".to_owned(),
        },
        Event::Sent { to, .. } => format!("waits until {} is free", visible(to)),
        Event::Took { call } => format!("got {} through", shown(call)),
        Event::Routed { from, starts, .. } => format!("{}: its answer goes to {starts}", visible(from.short())),
        Event::Joined { from, lost, .. } => {
            let from: Vec<_> = from.iter().map(|agent| visible(agent.short())).collect();
            let stopped = if lost.is_empty() { String::new() } else { format!("; {} stopped", lost.len()) };
            format!("joined {}{stopped}", excerpt(&from.join(", ")))
        }
        Event::JoinDue { .. } => "a join waits no longer".to_owned(),
        Event::DeadLettered { to, reason, .. } => {
            format!("sees a message to {} become a dead letter: {}", visible(to), excerpt(reason))
        }
        Event::AgentFailed { reason, restart_in_ms, .. } => match restart_in_ms {
            Some(pause_ms) => format!("broke down, and is started again in {pause_ms} ms: {}", excerpt(reason)),
            None => format!("broke down, and is not started again: {}", excerpt(reason)),
        },
        Event::Rejected { seq, .. } => format!("goes on as if event {seq} had not been"),
        Event::Hung { what: Some(what) } => format!("makes no progress: {}", excerpt(what)),
        Event::Hung { what: None } => "makes progress again".to_owned(),
        Event::AgentRestarted { reason } => format!("was started again: {}", excerpt(reason)),
        Event::AgentEnded { outcome } => match outcome {
            AgentOutcome::Done(_) => "is done".to_owned(),
            AgentOutcome::HandedOff { to } => format!("handed over to {}", visible(to.short())),
            AgentOutcome::Failed { .. } => "failed".to_owned(),
            AgentOutcome::Denied { .. } => "may not ask its model".to_owned(),
            AgentOutcome::Limit { limit, .. } => format!("reached {limit}"),
            AgentOutcome::Cancelled { .. } => "is not waited for".to_owned(),
        },
        Event::RunEnded { end, .. } => match &end.reason {
            Some(reason) => format!("the run stands at {}: {}", end.status.word(), excerpt(reason)),
            None => format!("the run stands at {}", end.status.word()),
        },
    }
}

/// Says what a call is.
pub(in crate::cli) fn wants(subject: &Subject) -> String {
    match subject {
        Subject::Model { model, .. } => format!("asks the model {}", visible(model)),
        Subject::Tool { tool, arguments } => format!("calls {} {}", visible(tool), excerpt(&arguments.to_string())),
        Subject::Delegate { agent, .. } => format!("asks {}", visible(agent)),
        Subject::Handoff { agent, .. } => format!("hands over to {}", visible(agent)),
        Subject::Publish { topic, .. } => format!("publishes on {}", visible(topic)),
    }
}

/// Returns a call's id as it is shown.
pub(in crate::cli) fn shown(call: &CallId) -> String {
    visible(&call.to_string()).into_owned()
}

fn said(body: &Body) -> String {
    match body {
        Body::User { text } => excerpt(text),
        Body::Assistant { text, tool_calls } if text.is_empty() => {
            let names: Vec<&str> = tool_calls.iter().map(|(_, call)| call.name.as_str()).collect();
            excerpt(&names.join(", "))
        }
        Body::Assistant { text, .. } => excerpt(text),
        Body::Tool { content, .. } => excerpt(content),
    }
}

/// Returns the beginning of a text, in one line and without control characters.
pub(in crate::cli) fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(LINE_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    visible(&short).into_owned()
}
