//! A run as a tree of its agents: what each is doing, and what it has used. Pure: a fold in, text out.

use std::fmt::Write;
use std::time::Duration;

use crate::budget::NANO_USD_PER_USD;
use crate::cli::follow::words::excerpt;
use crate::cli::print::counted;
use crate::run::{AgentId, AgentOutcome, CallId, Health, Instance, OpenCall, RunState, Stage, Subject};
use crate::spec::{usd, visible};

/// How much of an agent's doings is shown: what fits beside its name on a narrow terminal.
const DOING_CHARS: usize = 60;

/// Draws a run in at most `rows` lines.
pub(in crate::cli) fn draw(state: &RunState, elapsed: Duration, deadline: Option<Duration>, rows: usize) -> String {
    let totals = state.totals();
    let mut out = format!(
        "{} · {} tokens · {} · {}",
        counted(totals.model_calls, "model call"),
        totals.input_tokens + totals.output_tokens,
        usd(totals.cost_nano_usd as f64 / NANO_USD_PER_USD as f64),
        time(elapsed, deadline),
    );
    let agents: Vec<_> = state.agents().iter().collect();
    let room = rows.saturating_sub(2).max(1);
    // The living matter most: where there is no room for all, those that have ended are left out first.
    let mut shown: Vec<_> =
        agents.iter().filter(|(_, agent)| agents.len() <= room || agent.outcome.is_none()).collect();
    shown.truncate(room);
    for (id, agent) in &shown {
        let depth = id.as_str().matches('/').count();
        let line = format!("{}{}  {}", "  ".repeat(depth + 1), visible(id.short()), doing(state, id, agent));
        let _ = write!(out, "\n{line}");
    }
    if shown.len() < agents.len() {
        let _ = write!(out, "\n  … and {} more", agents.len() - shown.len());
    }
    out
}

fn time(elapsed: Duration, deadline: Option<Duration>) -> String {
    match deadline {
        Some(deadline) => {
            format!("{:.1} s, {:.0} s left", elapsed.as_secs_f64(), deadline.saturating_sub(elapsed).as_secs_f64())
        }
        None => format!("{:.1} s", elapsed.as_secs_f64()),
    }
}

fn doing(state: &RunState, id: &AgentId, agent: &Instance) -> String {
    let calls = counted(agent.totals.model_calls, "step");
    let what = match &agent.outcome {
        Some(AgentOutcome::Done(_)) => "done".to_owned(),
        Some(AgentOutcome::HandedOff { to }) => format!("handed over to {}", visible(to.short())),
        Some(AgentOutcome::Failed { .. }) => "failed".to_owned(),
        Some(AgentOutcome::Denied { .. }) => "denied".to_owned(),
        Some(AgentOutcome::Limit { limit, .. }) => format!("reached {limit}"),
        Some(AgentOutcome::Cancelled { .. }) => "not waited for".to_owned(),
        None => match (state.health(id), &agent.hung) {
            (Some(Health::Hung), Some(what)) => format!("hung: {}", excerpt(what)),
            (Some(Health::Restarting), _) => "is started again".to_owned(),
            (Some(Health::AwaitingPermit), _) => "waits for its turn".to_owned(),
            (Some(Health::Queued), _) => "waits for room in a mailbox".to_owned(),
            (Some(Health::InDoubt), _) => "in doubt".to_owned(),
            _ => waiting(state.open_calls().filter(|(call, _)| call.agent == *id)),
        },
    };
    format!("{calls}, {what}")
}

/// Says what an agent waits for.
fn waiting<'a>(open: impl Iterator<Item = (&'a CallId, &'a OpenCall)>) -> String {
    let (mut tools, mut agents, mut mail, mut approvals, mut answers) = (Vec::new(), 0, Vec::new(), 0, 0);
    for (_, call) in open {
        match &call.subject {
            _ if call.stage == Stage::AwaitingApproval => approvals += 1,
            _ if call.stage == Stage::AwaitingInput => answers += 1,
            Subject::Model { model, .. } => return format!("awaits model {}", visible(model)),
            Subject::Tool { tool, .. } => tools.push(visible(tool)),
            Subject::Publish { .. } => {}
            Subject::Delegate { agent, .. } | Subject::Handoff { agent, .. } => match call.stage {
                Stage::Sent { .. } => mail.push(visible(agent)),
                _ => agents += 1,
            },
        }
    }
    let mut parts = Vec::new();
    if approvals > 0 {
        parts.push(format!("awaits {}", counted(approvals, "approval")));
    }
    if answers > 0 {
        parts.push(format!("awaits {}", counted(answers, "answer")));
    }
    if agents > 0 {
        parts.push(format!("awaits {}", counted(agents, "agent")));
    }
    if !mail.is_empty() {
        parts.push(format!("waits until {} is free", mail.join(", ")));
    }
    if !tools.is_empty() {
        parts.push(format!("awaits {}", tools.join(", ")));
    }
    match parts.is_empty() {
        true => "is about to begin".to_owned(),
        false => parts.join("; ").chars().take(DOING_CHARS).collect(),
    }
}
