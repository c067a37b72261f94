//! What a seed says of supervision: who is started again and when, which mailboxes there are, whose instances, and which
//! events are poison.

use provost::run::{AgentId, CallId, RunId};
use provost::spec::{
    AgentSpec, Backoff, Effect, MailboxSpec, NetworkSpec, OnError, RestartKind, Scope, Span, Strategy, WhenFull,
};

use super::draw::Draw;
use super::plan::Plan;

/// How many restarts are borne where agents that fail are to be started again however often they do.
const NO_BOUND: u32 = 10_000;

/// Draws how a network's agents are supervised.
pub(super) fn supervise(spec: &mut NetworkSpec, draw: &mut Draw) {
    spec.supervision.strategy = *draw.one_of(&[Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne]);
    spec.supervision.intensity = NO_BOUND;
    if draw.happens(50) {
        return plain(spec, draw);
    }
    if draw.happens(25) && spec.agents.len() > 2 {
        circle(spec);
    }
    let names: Vec<String> = spec.agents.keys().cloned().collect();
    for (place, name) in names.iter().enumerate() {
        let agent = &mut spec.agents[name];
        on_failure(agent, &names[place + 1..], draw);
        if place > 0 {
            mailbox(agent, draw);
        }
    }
    let restarts_on_error = spec.agents.values().any(|agent| agent.on_error == OnError::Restart);
    if restarts_on_error || draw.happens(25) {
        // What fails for good is tried until there have been too many restarts: the period is to hold so many.
        let period_ms = if restarts_on_error { draw.between(300_000, 600_000) } else { draw.between(500, 20_000) };
        spec.supervision.intensity = draw.between(1, 6) as u32;
        spec.supervision.period = Span::from_millis(period_ms);
    }
}

/// Draws a network in which nothing but the pauses before restarts is out of the ordinary.
fn plain(spec: &mut NetworkSpec, draw: &mut Draw) {
    let backoff = backoff(draw.below(100));
    spec.agents.values_mut().for_each(|agent| agent.restart.backoff = backoff);
}

fn backoff(most_ms: u64) -> Backoff {
    Backoff { min: Span::from_millis(most_ms / 8), max: Span::from_millis(most_ms) }
}

/// Lets two agents hand over to each other, with one instance of each: they may come to wait for one another.
fn circle(spec: &mut NetworkSpec) {
    let names: Vec<String> = spec.agents.keys().take(3).cloned().collect();
    let [first, one, other] = &names[..] else { return };
    spec.agents[first].delegates_to = vec![one.clone(), other.clone()];
    for (agent, to) in [(one, other), (other, one)] {
        let agent = &mut spec.agents[agent];
        agent.delegates_to.retain(|name| !names.contains(name));
        agent.hands_off_to = vec![to.clone()];
        agent.replicas = Some(1);
    }
}

fn on_failure(agent: &mut AgentSpec, others: &[String], draw: &mut Draw) {
    agent.restart.kind = match draw.below(10) {
        0 => RestartKind::Temporary,
        1 => RestartKind::Permanent,
        _ => RestartKind::Transient,
    };
    agent.restart.backoff = backoff(if draw.happens(30) { 0 } else { draw.below(2_000) });
    agent.max_deliveries = draw.between(1, 6) as u32;
    agent.on_error = match draw.below(10) {
        0 => OnError::Restart,
        1 => OnError::FailRun,
        2 | 3 if !others.is_empty() => OnError::Route(draw.one_of(others).clone()),
        _ => OnError::FeedBack,
    };
}

fn mailbox(agent: &mut AgentSpec, draw: &mut Draw) {
    let when_full = [WhenFull::Block, WhenFull::Reject, WhenFull::DropOldest, WhenFull::Spill];
    agent.mailbox = MailboxSpec { capacity: *draw.one_of(&[1, 1, 2]), when_full: *draw.one_of(&when_full) };
    match draw.below(10) {
        0..5 if agent.replicas.is_none() => agent.replicas = Some(*draw.one_of(&[1, 1, 1, 2, 3])),
        5 => agent.scope = Scope::Network,
        6 => agent.scope = Scope::Session,
        _ => {}
    }
    if agent.scope != Scope::Run {
        agent.replicas = draw.happens(50).then_some(1);
    }
}

impl Plan {
    /// Whether an event makes its agent fail each time that it is given to it: the event as such, and its `nth` coming,
    /// counted from 0.
    pub(super) fn is_poison(&self, run: &RunId, event: &str, nth: usize) -> bool {
        self.has_poison
            && match self.draw("poison", run, &event).below(60) {
                0..3 => nth == 0,
                3 => true,
                _ => false,
            }
    }

    /// How many questions the entry asks at once, at the most: more where some of them have to wait.
    pub(super) fn asks_at_once(&self) -> u64 {
        if self.network.agents.values().any(|agent| agent.replicas().is_some()) { 4 } else { 3 }
    }

    /// How often an agent hands over that can.
    pub(super) fn hands_over_percent(&self) -> u64 {
        let hands_back = |(name, agent): (&String, &AgentSpec)| {
            agent.hands_off_to.iter().any(|to| self.network.agents[to].hands_off_to.contains(name))
        };
        if self.network.agents.iter().any(hands_back) { 60 } else { 30 }
    }

    /// Says what follows when an operation of an agent's instance fails.
    pub(super) fn on_error(&self, agent: &AgentId) -> &OnError {
        &self.spec_of(agent).on_error
    }

    /// What the network says of the agent of an instance.
    pub(super) fn spec_of(&self, agent: &AgentId) -> &AgentSpec {
        let name = agent.short().split(['.', '@']).next().unwrap_or_default();
        &self.network.agents[name]
    }

    /// Whether a tool call that does not return is made again, and returns then.
    pub(super) fn makes_again(&self, call: &CallId, class: Effect) -> bool {
        class != Effect::Once && *self.on_error(&call.agent) == OnError::Restart
    }
}
