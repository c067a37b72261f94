//! What an agent is doing, as it can be seen from outside: waiting is told apart from working, and both from being stuck.

use serde::{Deserialize, Serialize};

use super::{AgentId, OpenCall, RunState, Stage, Subject, Wait};

/// What an agent that lives is doing; these words are public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Nothing is under way: it is about to say what it wants, or its run is paused.
    Idle,
    /// What it asked waits for room in a mailbox.
    Queued,
    /// Its model is at work.
    AwaitingModel,
    /// Its tools are at work.
    AwaitingTool,
    /// Agents that it asked are at work, or its question waits until one is free.
    AwaitingAgents,
    /// A person is asked whether a call may happen.
    AwaitingApproval,
    /// A person is asked something.
    AwaitingInput,
    /// A call waits for a person who raises a limit.
    AwaitingBudget,
    /// A call waits for its turn, or for budget that others hold.
    AwaitingPermit,
    /// A person is asked what became of a call.
    InDoubt,
    /// It failed, and is started again.
    Restarting,
    /// It makes no progress, although the time that its present step may take is over.
    Hung,
}

impl Health {
    /// Returns the word for it, which is public.
    pub fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Queued => "queued",
            Self::AwaitingModel => "awaiting_model",
            Self::AwaitingTool => "awaiting_tool",
            Self::AwaitingAgents => "awaiting_agents",
            Self::AwaitingApproval => "awaiting_approval",
            Self::AwaitingInput => "awaiting_input",
            Self::AwaitingBudget => "awaiting_budget",
            Self::AwaitingPermit => "awaiting_permit",
            Self::InDoubt => "in_doubt",
            Self::Restarting => "restarting",
            Self::Hung => "hung",
        }
    }
}

impl RunState {
    /// Says what an agent is doing; none if it has ended, or there is no such agent. Of several things it is the one that
    /// comes first here: what needs a look, what is at work, what waits for a person, and what waits for its turn.
    pub fn health(&self, agent: &AgentId) -> Option<Health> {
        let instance = self.agents().get(agent).filter(|instance| instance.outcome.is_none())?;
        if instance.hung.is_some() {
            return Some(Health::Hung);
        }
        if instance.is_restarting {
            return Some(Health::Restarting);
        }
        // Who is about to hear an answer does not wait for it any more.
        let is_heard = |open: &OpenCall| matches!(open.stage, Stage::Answered { .. });
        let calls = self.open_calls().filter(|(call, open)| call.agent == *agent && !is_heard(open));
        let open = calls.map(|(_, open)| match (&open.stage, &open.subject) {
            (Stage::AwaitingApproval, _) => Health::AwaitingApproval,
            (Stage::InDoubt, _) => Health::InDoubt,
            (Stage::AwaitingInput, _) => Health::AwaitingInput,
            (_, Subject::Model { .. }) => Health::AwaitingModel,
            (_, Subject::Tool { .. }) => Health::AwaitingTool,
            (_, Subject::Delegate { .. } | Subject::Handoff { .. } | Subject::Publish { .. }) => Health::AwaitingAgents,
        });
        let queued = self.queued().filter(|(call, _)| call.agent == *agent).map(|(_, wait)| match wait {
            Wait::Permit | Wait::Budget => Health::AwaitingPermit,
            Wait::TopUp => Health::AwaitingBudget,
            Wait::Mailbox => Health::Queued,
        });
        // Others work for it.
        let in_flow = self.flow(Some(agent)).map(|_| Health::AwaitingAgents);
        let rank = |health: &Health| match health {
            Health::AwaitingModel => 0,
            Health::AwaitingTool => 1,
            Health::InDoubt => 2,
            Health::AwaitingApproval => 3,
            Health::AwaitingInput => 4,
            Health::AwaitingBudget => 5,
            Health::AwaitingAgents => 6,
            Health::AwaitingPermit => 7,
            _ => 8,
        };
        Some(open.chain(queued).chain(in_flow).min_by_key(rank).unwrap_or(Health::Idle))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::budget::Amount;
    use crate::run::{CallId, Envelope, Event, Labels, Parent, RunId, Stream};

    struct Life {
        state: RunState,
        agent: AgentId,
    }

    impl Life {
        fn health_after(&mut self, event: Event) -> &'static str {
            let stream = Arc::new(Stream { run: RunId::new("r"), tenant: "t".into(), session: None });
            let (seq, agent) = (self.state.head() + 1, Some(self.agent.clone()));
            let labels = Labels::default();
            self.state.evolve(&Envelope { stream, seq, time_ms: 0, agent, incarnation: 1, cause: None, labels, event });
            self.state.health(&self.agent).map_or("none", Health::word)
        }
    }

    #[test]
    fn waiting_working_and_being_stuck_are_told_apart() {
        let mut one = Life { state: RunState::default(), agent: AgentId::new("one") };
        let model = CallId::model(&one.agent, 1);
        let tool = CallId::tool(&one.agent, 1, 0);
        let name: Arc<str> = "one".into();
        let (reserved, task) = (Amount::default(), Vec::new());
        let intended = |call: &CallId, subject: &Subject| Event::CallIntended {
            call: call.clone(),
            attempt: 1,
            subject: subject.clone(),
            effect: None,
            reserved,
        };
        let of_model = Subject::Model { model: "m".into(), max_output_tokens: 1 };
        let of_tool = Subject::Tool { tool: "t".into(), arguments: serde_json::Value::Null };
        let of_agent = Subject::Delegate { agent: "two".into(), message: String::new() };
        let (asked, person) = (CallId::tool(&one.agent, 1, 1), CallId::tool(&one.agent, 1, 2));
        let failed = Event::AgentFailed { reason: String::new(), at: None, delivery: 0, restart_in_ms: Some(5) };
        let steps = [
            (Event::AgentStarted { name, parent: Parent::Run, depth: 0, task }, "idle"),
            (Event::CallQueued { call: model.clone(), wait: Wait::Permit, why: None }, "awaiting_permit"),
            (intended(&model, &of_model), "awaiting_model"),
            (Event::Hung { what: Some("the model".to_owned()) }, "hung"),
            (Event::Hung { what: None }, "awaiting_model"),
            (Event::ModelFailed { call: model, error: String::new(), charged: reserved, denied: false }, "idle"),
            (
                Event::ApprovalRequested { call: tool.clone(), subject: of_tool.clone(), request: None },
                "awaiting_approval",
            ),
            (intended(&asked, &of_agent), "awaiting_approval"),
            (intended(&tool, &of_tool), "awaiting_tool"),
            (Event::CallInDoubt { call: tool.clone(), asked: None }, "in_doubt"),
            (Event::InputRequested { call: person.clone(), subject: of_tool.clone() }, "in_doubt"),
            (Event::CallAbandoned { call: tool, charged: reserved }, "awaiting_input"),
            (Event::InputGiven { call: person, text: "yes".into() }, "awaiting_agents"),
            (Event::Sent { call: asked.clone(), to: "two".into() }, "awaiting_agents"),
            (Event::CallAbandoned { call: asked.clone(), charged: reserved }, "idle"),
            (Event::CallQueued { call: asked, wait: Wait::Mailbox, why: None }, "queued"),
            (failed, "restarting"),
            (Event::AgentRestarted { reason: String::new() }, "queued"),
        ];
        for (event, health) in steps {
            let what = format!("{event:?}");
            assert_eq!(one.health_after(event), health, "after {what}");
        }
    }
}
