//! What must hold of each failure of an agent: what is rejected, when it is started again, and what becomes of what it was
//! asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use provost::run::{AgentId, AgentOutcome, CallId, Envelope, Event, RunId, Subject, ToolFailure};
use provost::spec::{OnError, RestartKind};

use super::disk::OnDisk;
use super::expect;
use super::plan::Plan;

/// Timers are rounded to milliseconds.
const ROUNDING_MS: u64 = 5;

/// How an agent's failure is put down that was stopped since another failed.
const TAKEN_ALONG: &str = "is not started again alone";

/// An event is rejected once, after it has made its agent fail twice, and is not given again. A tool's result is replaced by
/// one that can't be used.
pub(super) fn rejections(on_disk: &OnDisk) -> Result<(), String> {
    let events = &on_disk.events;
    let mut failed_at: BTreeMap<u64, u32> = BTreeMap::new();
    let mut rejected = BTreeSet::new();
    for (place, envelope) in events.iter().enumerate() {
        match &envelope.event {
            Event::AgentFailed { at: Some(at), .. } => {
                if rejected.contains(at) {
                    return Err(format!("event {at} was rejected, and is given once more, at {}", envelope.seq));
                }
                *failed_at.entry(*at).or_default() += 1;
            }
            Event::Rejected { seq, call, .. } => {
                let Some(poison) = events.get(*seq as usize - 1).filter(|poison| poison.agent == envelope.agent) else {
                    return Err(format!("what is rejected at {} is no event of the agent", envelope.seq));
                };
                if matches!(poison.event, Event::AgentStarted { .. }) || poison.event.call() != call.as_ref() {
                    return Err(format!("{:?} is rejected at {}", poison.event, envelope.seq));
                }
                if failed_at.get(seq).copied().unwrap_or_default() < 2 || !rejected.insert(*seq) {
                    return Err(format!("event {seq} is rejected out of turn, at {}", envelope.seq));
                }
                let is_of_tool = call.as_ref().is_some_and(|call| call.index.is_some());
                if is_of_tool && !is_unusable(events.get(place + 1), call.as_ref()) {
                    return Err(format!("event {seq} is rejected, and nothing takes its place"));
                }
            }
            Event::ToolReturned { failure: Some(ToolFailure::Rejected), call, .. } => {
                let before = place.checked_sub(1).and_then(|place| events.get(place)).map(|before| &before.event);
                // A fork has it from the run that it comes from.
                let is_first = matches!(before, Some(Event::RunForked { .. } | Event::ToolReturned { .. }));
                if !is_first && !matches!(before, Some(Event::Rejected { call: Some(of), .. }) if of == call) {
                    return Err(format!("{call} can't be used at {}, and nobody tried", envelope.seq));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_unusable(next: Option<&Arc<Envelope>>, call: Option<&CallId>) -> bool {
    let next = next.map(|next| &next.event);
    matches!(next, Some(Event::ToolReturned { call: of, failure: Some(ToolFailure::Rejected), .. }) if Some(of) == call)
}

/// An agent that is to be started again is, once, as its next incarnation, and no sooner than it may; one that has been
/// given too often what makes it fail is not.
pub(super) fn restarts(plan: &Plan, on_disk: &OnDisk) -> Result<(), String> {
    let mut due: BTreeMap<&AgentId, (u64, u32)> = BTreeMap::new();
    for envelope in &on_disk.events {
        let (seq, time_ms) = (envelope.seq, envelope.time_ms);
        if matches!(envelope.event, Event::RunResumed { .. } | Event::RunForked { .. }) {
            due.clear();
        }
        let Some(agent) = &envelope.agent else { continue };
        let spec = plan.spec_of(agent);
        match &envelope.event {
            Event::AgentFailed { delivery, restart_in_ms, .. } => {
                let is_last = *delivery >= spec.max_deliveries || spec.restart.kind == RestartKind::Temporary;
                if is_last && restart_in_ms.is_some() {
                    return Err(format!("{agent} is to be started again at {seq}, after {delivery} deliveries"));
                }
                let Some(pause_ms) = restart_in_ms else { continue };
                let (min, max) = (spec.restart.backoff.min.0, spec.restart.backoff.max.0);
                let may_ms = (min.as_millis() / 2) as u64..=max.as_millis() as u64;
                if !may_ms.contains(pause_ms) {
                    return Err(format!("{agent} waits for {pause_ms} ms at {seq}, and may for {may_ms:?}"));
                }
                due.insert(agent, (time_ms + pause_ms, envelope.incarnation));
            }
            Event::AgentRestarted { .. } => match due.remove(agent) {
                None => return Err(format!("{agent} is started again at {seq}, and has not failed")),
                Some((due_ms, _)) if time_ms + ROUNDING_MS < due_ms => {
                    return Err(format!("{agent} is started again too soon, at {seq}"));
                }
                Some((_, failed)) if envelope.incarnation < failed => {
                    return Err(format!("{agent} is started again at {seq} as it was"));
                }
                Some(_) => {}
            },
            _ => {}
        }
    }
    Ok(())
}

/// A supervisor bears as many restarts within a period as it may, and gives up at the next one.
pub(super) fn intensity(plan: &Plan, on_disk: &OnDisk) -> Result<(), String> {
    let supervision = &plan.network.supervision;
    let period_ms = supervision.period.0.as_millis() as u64;
    let mut restarts: Vec<u64> = Vec::new();
    let mut asked = None;
    let within = |restarts: &[u64], since_ms: u64| restarts.iter().filter(|&&at| at >= since_ms).count();
    for envelope in &on_disk.events {
        let now_ms = envelope.time_ms;
        match &envelope.event {
            // It is another supervisor.
            Event::RunResumed { .. } | Event::RunForked { .. } => restarts.clear(),
            Event::AgentFailed { reason, restart_in_ms: Some(_), .. } if !reason.ends_with(TAKEN_ALONG) => {
                let before = within(&restarts, (now_ms + ROUNDING_MS).saturating_sub(period_ms));
                if before >= supervision.intensity as usize {
                    return Err(format!("there were {before} restarts, and one more at {}", envelope.seq));
                }
                restarts.push(now_ms);
            }
            // A process that takes the run up after that only ends what was to end.
            Event::CancelRequested { end } if asked.replace(end) == Some(end) => {}
            Event::CancelRequested { end } if is_given_up(end.reason.as_deref()) => {
                let before = within(&restarts, now_ms.saturating_sub(period_ms + ROUNDING_MS));
                if before < supervision.intensity as usize {
                    return Err(format!("there were {before} restarts, and it gives up at {}", envelope.seq));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_given_up(reason: Option<&str>) -> bool {
    reason.is_some_and(|reason| reason.contains("` failed more than "))
}

/// Whether there is a reason for which a run fails beside its agents' own end: too many restarts, an error after which it is
/// to fail, or agents that wait for one another.
pub(super) fn fails_run(plan: &Plan, run: &RunId, on_disk: &OnDisk) -> bool {
    let reason = on_disk.fold.run.end().and_then(|end| end.reason.as_deref()).unwrap_or_default();
    if is_given_up(Some(reason)) || reason.starts_with(WAITS) {
        return true;
    }
    let call: Option<CallId> = reason.split_once(": ").and_then(|(call, _)| call.parse().ok());
    call.is_some_and(|call| *plan.on_error(&call.agent) == OnError::FailRun && expect::fails(plan, run, &call))
}

/// Names what has been lived through of this.
pub(super) fn lived(event: &Event) -> Option<&'static str> {
    match event {
        Event::Rejected { call: Some(call), .. } if call.index.is_none() => Some("rejected reply"),
        Event::Rejected { call: Some(_), .. } => Some("rejected result"),
        Event::TryFailed { retry_in_ms: 0, error, .. } if !error.starts_with("the process ended") => {
            Some("made again by the next incarnation")
        }
        Event::CancelRequested { end } => {
            let reason = end.reason.as_deref().unwrap_or_default();
            let call: Option<CallId> = reason.split_once(": ").and_then(|(call, _)| call.parse().ok());
            match call {
                Some(_) => Some("fails the run"),
                None => is_given_up(Some(reason)).then_some("too many restarts"),
            }
        }
        Event::CallIntended { subject: Subject::Handoff { message, .. }, .. } => {
            message.starts_with("I could not go on").then_some("routed")
        }
        _ => None,
    }
}

/// How a run ends whose agents wait for one another.
pub(super) const WAITS: &str = "agents wait for one another: ";

/// What becomes a dead letter had to, and who asked is told.
pub(super) fn letters(plan: &Plan, on_disk: &OnDisk) -> Result<(), String> {
    let mut failed: BTreeMap<&AgentId, u32> = BTreeMap::new();
    let mut ended: BTreeSet<&AgentId> = BTreeSet::new();
    for (place, envelope) in on_disk.events.iter().enumerate() {
        let Some(agent) = &envelope.agent else { continue };
        match &envelope.event {
            Event::AgentFailed { delivery, restart_in_ms: None, .. } => drop(failed.insert(agent, *delivery)),
            Event::AgentFailed { .. } => drop(failed.remove(agent)),
            Event::AgentEnded { .. } => drop(ended.insert(agent)),
            Event::DeadLettered { call, deliveries, .. } => {
                let next = |nth: usize| on_disk.events.get(place + nth).map(|next| (next.agent.as_ref(), &next.event));
                if let Some(call) = call.as_ref().filter(|call| call.agent == *agent) {
                    if !is_told(next(1), call, ToolFailure::DeadLettered) {
                        return Err(format!("{call} is a dead letter at {}, and nobody is told", envelope.seq));
                    }
                    continue;
                }
                let spec = plan.spec_of(agent);
                let had_to = failed.get(agent).is_some_and(|delivery| {
                    spec.restart.kind == RestartKind::Temporary || *delivery >= spec.max_deliveries
                });
                if !had_to {
                    return Err(format!("{agent} is given up at {} after {deliveries} deliveries", envelope.seq));
                }
                // What it had under way is let go of first.
                let is_let_go = |event: &Event| {
                    let outcome =
                        |event: &Event| matches!(event, Event::AgentEnded { outcome: AgentOutcome::Failed { .. } });
                    matches!(event, Event::CallAbandoned { .. }) || outcome(event)
                };
                let is_end =
                    |(of, event): (Option<&AgentId>, &Event)| of == Some(agent) && event.kind() == "agent_ended";
                let end = (1..).take_while(|&nth| next(nth).is_some_and(|(_, event)| is_let_go(event)));
                let Some(end) = end.into_iter().find(|&nth| next(nth).is_some_and(is_end)) else {
                    return Err(format!("{agent} is given up at {}, and does not end", envelope.seq));
                };
                let is_awaited = |call: &&CallId| !ended.contains(&call.agent);
                let told = |call: &CallId| is_told(next(end + 1), call, ToolFailure::DelegateFailed);
                if call.as_ref().filter(is_awaited).is_some_and(|call| !told(call)) {
                    return Err(format!("{agent} is given up at {}, and who asked is not told", envelope.seq));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_told(next: Option<(Option<&AgentId>, &Event)>, call: &CallId, failure: ToolFailure) -> bool {
    let Some((Some(agent), Event::ToolReturned { call: of, failure: Some(why), .. })) = next else { return false };
    (agent, of, *why) == (&call.agent, call, failure)
}
