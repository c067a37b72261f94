//! How far the work in a flow has come: who is at work, whose answers have been passed on, and which of them wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::RunState;
use crate::run::{AgentId, AgentOutcome, Answer, CallId, Envelope, Event, Labels, Subject, Visit};

/// Where a flow stands: the run's own, or an inner one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowState {
    /// How many instances of each agent there have been, by its name and, where there is one, the item.
    pub visits: BTreeMap<String, u32>,
    /// Who is at work.
    pub live: BTreeMap<AgentId, Live>,
    /// Who has ended, and has not been passed on; the first to end first.
    pub ended: VecDeque<AgentId>,
    /// What was published, and has not been passed on.
    pub published: VecDeque<Published>,
    /// How often each route was taken.
    pub taken: BTreeMap<u32, u32>,
    /// The joins at which something waits.
    pub joins: BTreeMap<u32, Joining>,
    /// The number of the event at which each join went on last.
    pub joined: BTreeMap<u32, u64>,
    /// Who answered each agent's visits last.
    pub latest: BTreeMap<Arc<str>, AgentId>,
    /// What the flow answers, in the order in which it came.
    pub left: Vec<(AgentId, Option<Answer>)>,
    /// Who failed last, and was borne with.
    pub failed: Option<AgentId>,
    /// How many agents are to start yet, of those that were told of.
    pub starting: u32,
    /// Who is to end yet, of those that were told of.
    pub losing: BTreeSet<AgentId>,
}

/// An instance at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The agent's name, and the one whose routes it takes.
    pub names: (Arc<str>, Arc<str>),
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
}

/// What waits at a join.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joining {
    /// Whose answers.
    pub waiting: Vec<AgentId>,
    /// Whether the join has waited for as long as it may.
    pub is_due: bool,
}

/// What an agent published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The call.
    pub call: CallId,
    /// The topic.
    pub topic: Arc<str>,
    /// What.
    pub message: String,
    /// What it was influenced by.
    pub labels: Labels,
}

impl FlowState {
    /// Whether all that was told of has happened.
    pub fn is_settled(&self) -> bool {
        self.starting == 0 && self.losing.is_empty()
    }
}

impl RunState {
    /// Returns a flow: the run's own, or the inner one of an instance. None of one in which nothing has happened.
    pub fn flow(&self, of: Option<&AgentId>) -> Option<&FlowState> {
        match of {
            None => Some(&self.root),
            Some(agent) => self.inner.get(agent),
        }
    }

    /// Returns the inner flows that have begun, by the instances that stand for them.
    pub fn inner_flows(&self) -> impl DoubleEndedIterator<Item = (&AgentId, &FlowState)> {
        self.inner.iter()
    }

    fn flow_mut(&mut self, of: Option<&AgentId>) -> &mut FlowState {
        match of {
            None => &mut self.root,
            Some(agent) => self.inner.entry(agent.clone()).or_default(),
        }
    }

    /// Returns where in a flow an instance stands; none if its answer is a call's result.
    pub fn visit(&self, agent: &AgentId) -> Option<Visit> {
        let instance = self.agents.get(agent)?;
        instance.parent.visit(&instance.name)
    }

    /// Takes up what happened in flows.
    pub(super) fn evolve_flows(&mut self, envelope: &Envelope) {
        match &envelope.event {
            Event::AgentStarted { name, parent, .. } => {
                let (Some(id), Some(visit)) = (&envelope.agent, parent.visit(name)) else { return };
                let flow = self.flow_mut(visit.flow.as_ref());
                flow.starting = flow.starting.saturating_sub(1);
                *flow.visits.entry(visit_key(name, &visit.item)).or_default() += 1;
                let live = Live { names: (name.clone(), visit.node), since_ms: envelope.time_ms };
                flow.live.insert(id.clone(), live);
            }
            Event::AgentEnded { outcome } => self.visit_ended(envelope, outcome),
            Event::Routed { flow, from, taken, waits, starts, answer, published, is_late } => {
                let done = self.agents.get(from).is_some_and(|agent| is_done(agent.outcome.as_ref()));
                let flow = self.flow_mut(flow.as_ref());
                flow.starting = *starts;
                taken.iter().for_each(|route| *flow.taken.entry(*route).or_default() += 1);
                match published {
                    Some(call) => flow.published.retain(|published| published.call != *call),
                    None => flow.ended.retain(|ended| ended != from),
                }
                for join in waits {
                    flow.joins.entry(*join).or_default().waiting.push(from.clone());
                }
                let is_left = taken.is_empty() && waits.is_empty() && published.is_none() && !is_late;
                match done {
                    true if is_left || answer.is_some() => flow.left.push((from.clone(), answer.clone())),
                    false if published.is_none() => flow.failed = Some(from.clone()),
                    _ => {}
                }
            }
            Event::Joined { flow, join, from, taken, lost, starts, answer } => {
                let flow = self.flow_mut(flow.as_ref());
                (flow.starting, flow.losing) = (*starts, lost.iter().cloned().collect());
                taken.iter().for_each(|route| *flow.taken.entry(*route).or_default() += 1);
                flow.joins.remove(join);
                flow.joined.insert(*join, envelope.seq);
                if let (Some(answer), Some(first)) = (answer, from.first()) {
                    flow.left.push((first.clone(), Some(answer.clone())));
                }
            }
            Event::JoinDue { flow, join } => self.flow_mut(flow.as_ref()).joins.entry(*join).or_default().is_due = true,
            Event::ToolReturned { call, failure: None, .. } => self.publish(call),
            _ => {}
        }
    }

    fn visit_ended(&mut self, envelope: &Envelope, outcome: &AgentOutcome) {
        let Some(id) = &envelope.agent else { return };
        self.inner.remove(id);
        let Some((instance, visit)) = self.agents.get(id).and_then(|instance| {
            let visit = instance.parent.visit(&instance.name)?;
            Some((instance, visit))
        }) else {
            return;
        };
        let name = instance.name.clone();
        let flow = self.flow_mut(visit.flow.as_ref());
        flow.live.remove(id);
        flow.losing.remove(id);
        if is_done(Some(outcome)) {
            flow.latest.insert(visit.node.clone(), id.clone());
            flow.latest.insert(name, id.clone());
        }
        if !matches!(outcome, AgentOutcome::HandedOff { .. } | AgentOutcome::Cancelled { .. }) {
            flow.ended.push_back(id.clone());
        }
    }

    /// Takes note of what a call has published; to be done before the call is closed. What a delegate publishes is taken in
    /// the flow in which its question was asked first.
    fn publish(&mut self, call: &CallId) {
        let Some(open) = self.open.get(call) else { return };
        let Subject::Publish { topic, message } = &open.subject else { return };
        let (topic, message, labels) = (topic.clone(), message.clone(), open.labels.clone());
        let published = Published { call: call.clone(), topic, message, labels };
        let flow = self.flow_of(&call.agent);
        self.flow_mut(flow.as_ref()).published.push_back(published);
    }

    /// Returns the flow in which an instance works, itself or for another.
    pub fn flow_of(&self, agent: &AgentId) -> Option<AgentId> {
        let mut at = agent;
        loop {
            let instance = self.agents.get(at)?;
            match instance.parent.visit(&instance.name) {
                Some(visit) => return visit.flow,
                None => at = &instance.parent.answers()?.agent,
            }
        }
    }
}

/// Returns under which name the instances of an agent are counted that work on an item: `work.1.3` for the third item of
/// what came of the first.
pub(crate) fn visit_key(name: &str, item: &[u32]) -> String {
    let mut key = name.to_owned();
    item.iter().for_each(|item| key.push_str(&format!(".{}", item + 1)));
    key
}

fn is_done(outcome: Option<&AgentOutcome>) -> bool {
    matches!(outcome, Some(AgentOutcome::Done(_)))
}
