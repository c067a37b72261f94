//! What a delegation or a handoff brings into being, as a function of the run's state.

use std::sync::Arc;

use super::{
    AgentId, Body, CallId, Event, FlowRules, Labels, Message, Origin, Parent, PutBack, RunState, Subject, ToolFailure,
    Visit, delegate_tool, handoff_tool, publish_tool, tool_message,
};
use crate::budget::Amount;

/// Why a delegation or a handoff starts no agent.
#[derive(Clone, Debug, PartialEq)]
pub struct NotAsked {
    /// The kind of failure.
    pub failure: ToolFailure,
    /// Why, in words for the model.
    pub why: String,
}

/// An agent instance that is to start.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAgent {
    /// The instance.
    pub id: AgentId,
    /// The agent's name in the network.
    pub name: Arc<str>,
    /// What brings it into being.
    pub parent: Parent,
    /// How many delegations lie between the entry agent and this one.
    pub depth: u32,
    /// The first messages of its transcript.
    pub task: Vec<Arc<Message>>,
}

impl NewAgent {
    /// Makes the agent that a run begins with: the network's entry, which gets the input, or the one that a dead letter
    /// was for.
    pub fn first(entry: &str, input: Arc<str>, put_back: Option<&PutBack>) -> Self {
        let (name, message) = match put_back {
            Some(PutBack { to, message, .. }) => (&**to, message.clone()),
            None => (entry, question(input, Labels::default(), Origin::Input)),
        };
        let task = vec![message];
        Self { id: AgentId::new(name), name: name.into(), parent: Parent::Run, depth: 0, task }
    }

    /// Whether it stands for itself, and was not brought into being by a question.
    pub fn stands(&self) -> bool {
        self.parent.answers().is_none()
    }

    /// Returns the event of its start.
    pub fn started(self) -> Event {
        Event::AgentStarted { name: self.name, parent: self.parent, depth: self.depth, task: self.task }
    }
}

impl RunState {
    /// Says which agent a delegation or a handoff starts, which was influenced by `labels`; or, in words for the model,
    /// why it leads too deep, to too many agents, or to and fro. None where `subject` asks no agent, or nobody asks.
    pub fn asked(
        &self,
        call: &CallId,
        subject: &Subject,
        labels: &Labels,
        rules: FlowRules<'_>,
    ) -> Option<Result<NewAgent, NotAsked>> {
        let (name, message, is_handoff) = match subject {
            Subject::Delegate { agent, message } => (agent.clone(), message, false),
            Subject::Handoff { agent, message } => (agent.clone(), message, true),
            Subject::Model { .. } | Subject::Tool { .. } | Subject::Publish { .. } => return None,
        };
        let asker = self.agents().get(&call.agent)?;
        let depth = if is_handoff { asker.depth } else { asker.depth + 1 };
        if let Some(why) = self.out_of_bounds(depth, rules) {
            return Some(Err(NotAsked { failure: ToolFailure::OutOfBounds, why }));
        }
        if let Some(why) = self.ping_pong(call, &name, message, rules.guards.ping_pong) {
            return Some(Err(NotAsked { failure: ToolFailure::PingPong, why }));
        }
        let (origin, labels) = (Origin::Agent(call.agent.clone()), labels.clone());
        if !is_handoff {
            let task = vec![question(message.as_str().into(), labels, origin)];
            let id = AgentId::delegate(call, &name);
            return Some(Ok(NewAgent { id, name, parent: Parent::Delegation(call.clone()), depth, task }));
        }
        // What was asked at first, and what the last one says: not all that was said on the way.
        let asked = match asker.parent {
            Parent::Handoff { .. } => asker.task.len().saturating_sub(1),
            Parent::Run | Parent::Delegation(_) | Parent::Route(_) => asker.task.len(),
        };
        let mut task = asker.task[..asked].to_vec();
        let text = format!("{} hands over to you: {message}", asker.name);
        task.push(question(text.into(), labels, origin));
        // Who has nothing to inherit stands in the run's own flow, as it did before there were others.
        let inherits = |visit: &Visit| {
            visit.flow.is_some() || !visit.item.is_empty() || visit.since > 0 || rules.flow.leads_on(&visit.node)
        };
        let visit = asker.parent.visit(&asker.name).filter(inherits);
        let parent = Parent::Handoff { call: call.clone(), answers: asker.parent.answers().cloned(), visit };
        Some(Ok(NewAgent { id: call.agent.successor(&name), name, parent, depth, task }))
    }

    fn out_of_bounds(&self, depth: u32, rules: FlowRules<'_>) -> Option<String> {
        let (max_depth, max_agents) = (rules.limits.depth, rules.limits.agents);
        if depth > max_depth {
            return Some(format!("delegation can't go deeper than depth = {max_depth}; answer without asking"));
        }
        let too_many = self.agents().len() >= max_agents as usize;
        too_many.then(|| format!("the run has had {max_agents} agents, and can have no more"))
    }
}

/// Makes the message that asks an agent.
pub fn question(text: Arc<str>, labels: Labels, origin: Origin) -> Arc<Message> {
    Arc::new(Message { body: Body::User { text: text.to_string() }, labels, origin })
}

/// Says to who asked that a message was given up.
pub fn gave_up(reason: &str) -> String {
    format!("the message became a dead letter: {reason}")
}

/// Writes down that a result made the agent fail that it was for, and is kept from it.
pub fn unusable(call: &CallId) -> Event {
    let why = "the call was made, and its result can't be used: it made the agent fail".to_owned();
    let message = tool_message(call, "tool", why, true, Labels::default(), Origin::Runtime);
    Event::ToolReturned { call: call.clone(), message, failure: Some(ToolFailure::Rejected) }
}

/// Writes down that the mailbox of the agent that a call asks has no room: `capacity` messages wait.
pub fn no_room(call: &CallId, subject: &Subject, capacity: u32) -> Event {
    let why = format!("the mailbox of `{}` is full: {capacity} messages wait", subject.name());
    refused(call, subject, ToolFailure::MailboxFull, why)
}

/// Writes down that something was published.
pub fn published(call: &CallId, topic: &str, labels: Labels) -> Event {
    let said = format!("published on `{topic}`");
    let message = tool_message(call, &publish_tool(topic), said, false, labels, Origin::Runtime);
    Event::ToolReturned { call: call.clone(), message, failure: None }
}

/// Writes down that a call was not made.
pub fn refused(call: &CallId, subject: &Subject, failure: ToolFailure, why: String) -> Event {
    let name = match subject {
        Subject::Tool { tool, .. } => tool.to_string(),
        Subject::Delegate { agent, .. } => delegate_tool(agent),
        Subject::Handoff { agent, .. } => handoff_tool(agent),
        Subject::Publish { topic, .. } => publish_tool(topic),
        Subject::Model { .. } => {
            let denied = failure == ToolFailure::Denied;
            return Event::ModelFailed { call: call.clone(), error: why, charged: Amount::default(), denied };
        }
    };
    let message = tool_message(call, &name, why, true, Labels::default(), Origin::Runtime);
    Event::ToolReturned { call: call.clone(), message, failure: Some(failure) }
}
