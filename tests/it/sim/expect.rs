//! What a run comes to that nothing cuts short, worked out from the plan alone: no actors, no journal, no time. It is
//! the independent model that the runtime is compared with.

use provost::run::{AgentId, CallId, RunId};
use provost::spec::Permission;

use super::plan::{Ask, Plan, Says, ToolEnd, answer, tool_result};

/// What an agent comes to: its answer, or none if it fails.
pub(super) type Outcome = Option<String>;

/// Works out what a run comes to.
pub(super) fn outcome(plan: &Plan, run: &RunId) -> Outcome {
    let entry = &plan.network.network.entry;
    agent(plan, run, &AgentId::new(entry.as_str()), entry)
}

fn agent(plan: &Plan, run: &RunId, id: &AgentId, name: &str) -> Outcome {
    let mut results = Vec::new();
    for step in 1.. {
        let call = CallId::model(id, step);
        if plan.is_refused(run, &call) {
            return None;
        }
        match plan.says(run, id, name, step) {
            Says::Answer => return Some(answer(id, &results)),
            Says::Nothing => {}
            Says::Calls(asks) => {
                if let [Ask::Handoff(to)] = &asks[..] {
                    return agent(plan, run, &id.successor(to), to);
                }
                for (index, ask) in asks.iter().enumerate() {
                    let call = CallId::tool(id, step, index as u32);
                    results.push(result(plan, run, &call, ask).unwrap_or_else(|| "-".to_owned()));
                }
            }
        }
    }
    None
}

fn result(plan: &Plan, run: &RunId, call: &CallId, ask: &Ask) -> Option<String> {
    match ask {
        Ask::Tool(tool) => {
            let is_allowed = match plan.network.policy.default {
                Permission::Allow => true,
                Permission::Deny => false,
                Permission::Ask => plan.approval(run, call).0,
            };
            let (end, _, _) = plan.tool(run, call);
            (is_allowed && end == ToolEnd::Returns).then(|| tool_result(tool, call))
        }
        Ask::Delegate(to) => agent(plan, run, &AgentId::delegate(call, to), to),
        Ask::Handoff(_) | Ask::Unknown | Ask::Misused(_) => None,
    }
}
