//! What a run comes to that nothing cuts short, worked out from the plan: no actors, no journal, no time. It is the
//! independent model that the runtime is compared with.
//!
//! What depends on who came first, or on when a process died, is taken from the record as [`Losses`]: which results an
//! agent could not use, which questions found no room, which agents were given up. That each of these had to be is looked
//! at in `failures` and `mail`.

use std::collections::BTreeSet;
use std::sync::Arc;

use provost::run::{AgentId, CallId, Envelope, Event, Resolution, RunId, ToolFailure};
use provost::spec::{OnError, Permission};

use super::flows;
use super::plan::{Ask, Plan, Says, TOOLS, ToolEnd, answer, is_probe, tool_result};

/// What an agent comes to: its answer, or none if it fails.
pub(super) type Outcome = Option<String>;

/// The run has to fail, whatever else comes of it.
pub(super) struct FailsRun;

/// What was lost on the way.
#[derive(Default)]
pub(super) struct Losses {
    /// The calls whose questions were not dealt with, or whose results were not used.
    calls: BTreeSet<CallId>,
    /// The calls of which somebody said what became of them.
    settled: BTreeSet<CallId>,
    /// The agents that were given up.
    agents: BTreeSet<AgentId>,
}

impl Losses {
    pub(super) fn of(events: &[Arc<Envelope>]) -> Self {
        use ToolFailure::{DeadLettered, MailboxFull, Rejected};
        let mut lost = Self::default();
        for envelope in events {
            match &envelope.event {
                Event::ToolReturned { call, failure: Some(MailboxFull | DeadLettered | Rejected), .. } => {
                    lost.calls.insert(call.clone());
                }
                Event::CallResolved { call, resolution: Resolution::Fail, .. } => {
                    lost.settled.insert(call.clone());
                }
                Event::DeadLettered { call, .. } => {
                    let was_taken = |agent: &&AgentId| call.as_ref().is_none_or(|call| call.agent != **agent);
                    lost.agents.extend(envelope.agent.as_ref().filter(was_taken).cloned());
                }
                _ => {}
            }
        }
        lost
    }
}

/// Works out what a run comes to.
pub(super) fn outcome(plan: &Plan, run: &RunId, lost: &Losses) -> Result<Outcome, FailsRun> {
    let entry = &plan.network.network.entry;
    let model = Model { plan, run, lost };
    let answer = model.agent(&AgentId::new(entry.as_str()), entry)?;
    if answer.is_none() || is_probe(run) {
        return Ok(answer);
    }
    // What comes to a bound is looked at apart.
    Ok(flows::outcome(&model, plan.shape)?.unwrap_or(answer))
}

/// Whether a call can't but fail: its model refuses it, or its tool does not return.
pub(super) fn fails(plan: &Plan, run: &RunId, call: &CallId) -> bool {
    match call.index {
        None => plan.is_refused(run, call),
        Some(_) => plan.tool(run, call).0 == ToolEnd::Hangs,
    }
}

pub(super) struct Model<'a> {
    plan: &'a Plan,
    run: &'a RunId,
    lost: &'a Losses,
}

impl Model<'_> {
    pub(super) fn is_given_up(&self, agent: &str) -> bool {
        self.lost.agents.iter().any(|lost| lost.as_str() == agent)
    }

    pub(super) fn agent(&self, id: &AgentId, name: &str) -> Result<Outcome, FailsRun> {
        if self.lost.agents.contains(id) {
            return Ok(None);
        }
        let mut results = Vec::new();
        for step in 1.. {
            let call = CallId::model(id, step);
            if self.plan.is_refused(self.run, &call) {
                return self.fails(id, step);
            }
            match self.plan.says(self.run, id, name, step) {
                Says::Answer => return Ok(Some(answer(id, &results))),
                Says::Nothing => {}
                Says::Calls(asks) => {
                    if let [Ask::Handoff(to)] = &asks[..]
                        && !self.lost.calls.contains(&CallId::tool(id, step, 0))
                    {
                        return self.agent(&id.successor(to), to);
                    }
                    for (index, ask) in asks.iter().enumerate() {
                        let result = self.result(&CallId::tool(id, step, index as u32), ask)?;
                        results.push(result.unwrap_or_else(|| "-".to_owned()));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The model of an agent can't be reached in a step.
    fn fails(&self, id: &AgentId, step: u32) -> Result<Outcome, FailsRun> {
        match self.plan.on_error(id) {
            OnError::Route(to) if self.lost.calls.contains(&CallId::tool(id, step, 0)) => Ok(None),
            OnError::Route(to) => self.agent(&id.successor(to), to),
            OnError::FeedBack => Ok(None),
            // It is made again until there have been too many restarts.
            OnError::FailRun | OnError::Restart => Err(FailsRun),
        }
    }

    fn result(&self, call: &CallId, ask: &Ask) -> Result<Outcome, FailsRun> {
        match ask {
            _ if self.lost.calls.contains(call) => Ok(None),
            Ask::Tool(tool) => self.tool(call, tool),
            Ask::Person => Ok(Some(self.plan.words(self.run, call).answer.to_owned())),
            Ask::Delegate(to) => self.agent(&AgentId::delegate(call, to), to),
            Ask::Handoff(_) | Ask::Unknown | Ask::Misused(_) => Ok(None),
        }
    }

    fn tool(&self, call: &CallId, tool: &str) -> Result<Outcome, FailsRun> {
        let is_allowed = match self.plan.network.policy.default {
            Permission::Allow => true,
            Permission::Deny => false,
            Permission::Ask => self.plan.approval(self.run, call).0,
        };
        let class = TOOLS.iter().find(|(name, _)| *name == tool).map(|(_, class)| *class);
        let makes_again = class.is_some_and(|class| self.plan.makes_again(call, class));
        match self.plan.tool(self.run, call).0 {
            ToolEnd::Hangs if self.lost.settled.contains(call) => Ok(None),
            ToolEnd::Hangs if is_allowed && *self.plan.on_error(&call.agent) == OnError::FailRun => Err(FailsRun),
            ToolEnd::Returns if is_allowed => Ok(Some(tool_result(tool, call))),
            ToolEnd::Hangs if is_allowed && makes_again => Ok(Some(tool_result(tool, call))),
            _ => Ok(None),
        }
    }
}
