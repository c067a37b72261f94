//! The agents of a run: how they start, get their mail, fail and start again.

use std::collections::VecDeque;
use std::sync::Arc;

use ractor::{ActorCell, ActorId, ActorRef};
use tokio::time::Instant;

use super::{RunLoop, RunMessage};
use crate::fault::{self, Bug};
use crate::run::{
    AgentId, AgentState, CallId, Definition, Effect, Envelope, Event, Labels, NewAgent, Parent, RunEnd, Status,
    Subject, ToolFailure, refused,
};
use crate::runtime::agent_actor::{AgentActor, Seed};
use crate::runtime::router::{Address, Mailbox};

/// A living agent instance.
pub(super) struct Child {
    pub(super) definition: Arc<Definition>,
    incarnation: u32,
    actor: ActorCell,
    /// What has happened to the instance and it has not dealt with, oldest first; the first `sent` are in its mailbox.
    mail: VecDeque<Arc<Envelope>>,
    sent: usize,
    /// The last event that it has dealt with.
    dealt_with: u64,
    /// Whether it has yet to say what it wants, having been folded from the record.
    is_to_take_up: bool,
}

impl Child {
    fn new(
        definition: Arc<Definition>,
        incarnation: u32,
        actor: ActorCell,
        dealt_with: u64,
        is_to_take_up: bool,
    ) -> Self {
        Self { definition, incarnation, actor, mail: VecDeque::new(), sent: 0, dealt_with, is_to_take_up }
    }

    pub(super) fn incarnation(&self) -> u32 {
        self.incarnation
    }
}

impl RunLoop {
    /// Starts the agent that a delegation or a handoff asks for, unless that leads too deep.
    pub(super) async fn start_asked_agent(
        &mut self,
        call: CallId,
        cause: u64,
        subject: Subject,
        labels: Labels,
        me: &ActorRef<RunMessage>,
    ) {
        if self.ending.is_some() || self.state.is_over(&call) {
            return;
        }
        let max_depth = self.scope.fleet.network.spec().network.limits.depth;
        let new = match self.state.asked(&call, &subject, &labels, max_depth) {
            Some(Ok(new)) => new,
            Some(Err(why)) => {
                let event = refused(&call, &subject, ToolFailure::OutOfBounds, why);
                return self.result(&call.agent.clone(), cause, event);
            }
            None => return,
        };
        let (id, is_handoff) = (new.id.clone(), matches!(new.parent, Parent::Handoff { .. }));
        let reserved = crate::budget::Amount::default();
        let intent = Event::CallIntended { call: call.clone(), attempt: 1, subject, effect: None, reserved };
        let cause = self.record_with(Some(&call.agent), Some(cause), labels, intent).seq;
        self.start_agent(new, cause, me).await;
        if is_handoff {
            self.end_handed_over(&call.agent, cause, id);
        }
    }

    pub(super) async fn start_agent(&mut self, new: NewAgent, cause: u64, me: &ActorRef<RunMessage>) {
        let (id, name) = (new.id.clone(), &new.name);
        let Some(definition) = self.scope.definitions.get(name).cloned() else {
            return self.end(RunEnd::without_answer(Status::Failed, format!("there is no agent `{name}`")));
        };
        match self.spawn(&id, 1, definition.clone(), Vec::new(), false, me).await {
            Ok(actor) => drop(self.children.insert(id.clone(), Child::new(definition, 1, actor, 0, false))),
            Err(why) => return self.end(RunEnd::without_answer(Status::Failed, why)),
        }
        let envelope = self.record(Some(&id), Some(cause), new.started());
        self.deliver(&id, envelope);
    }

    /// Starts an agent again in another process than the one in which it was: it goes on with the state that its events
    /// were folded to, and says anew what it wants.
    pub(super) async fn take_up_agent(
        &mut self,
        id: AgentId,
        name: &Arc<str>,
        incarnation: u32,
        me: &ActorRef<RunMessage>,
    ) {
        let Some(definition) = self.scope.definitions.get(name).cloned() else {
            return self.end(RunEnd::without_answer(Status::Failed, format!("there is no agent `{name}`")));
        };
        match self.spawn(&id, incarnation, definition.clone(), Vec::new(), true, me).await {
            Ok(actor) => {
                let child = Child::new(definition, incarnation, actor, self.state.head(), true);
                self.children.insert(id, child);
            }
            Err(why) => self.end(RunEnd::without_answer(Status::Failed, why)),
        }
    }

    /// An agent that was taken up says what it wants.
    pub(super) fn taken_up(
        &mut self,
        agent: &AgentId,
        incarnation: u32,
        effects: Vec<Effect>,
        labels: &Labels,
        me: &ActorRef<RunMessage>,
    ) {
        let Some(child) = self.children.get_mut(agent).filter(|child| child.incarnation == incarnation) else { return };
        child.is_to_take_up = false;
        if self.ending.is_none() {
            let cause = child.dealt_with;
            self.bring_about(agent, cause, effects, labels, me);
        }
    }

    async fn spawn(
        &self,
        id: &AgentId,
        incarnation: u32,
        definition: Arc<Definition>,
        history: Vec<Arc<Envelope>>,
        take_up: bool,
        me: &ActorRef<RunMessage>,
    ) -> Result<ActorCell, String> {
        let state = self.taken_up.1.get(id).cloned().unwrap_or_else(|| AgentState::new(id.clone()));
        let seed = Seed { id: id.clone(), incarnation, definition, state, history, take_up, supervisor: me.clone() };
        let spawned = me.spawn_linked(None, AgentActor, seed).await;
        let (actor, _) = spawned.map_err(|error| format!("agent `{id}` could not be started: {error}"))?;
        self.scope.fleet.router.enter(self.address(id), Mailbox::new(actor.clone()));
        Ok(actor.get_cell())
    }

    fn address(&self, agent: &AgentId) -> Address {
        Address { run: self.scope.stream.run.clone(), agent: agent.clone() }
    }

    /// Gives an agent its mail: what its mailbox has no room for stays here until it has.
    pub(super) fn deliver(&mut self, agent: &AgentId, envelope: Arc<Envelope>) {
        if let Some(child) = self.children.get_mut(agent) {
            child.mail.push_back(envelope);
            self.push_mail(agent);
        }
    }

    fn push_mail(&mut self, agent: &AgentId) {
        let address = self.address(agent);
        let Some(child) = self.children.get_mut(agent) else { return };
        while let Some(envelope) = child.mail.get(child.sent) {
            if !self.scope.fleet.router.try_send(&address, envelope) {
                break;
            }
            child.sent += 1;
        }
    }

    /// Takes note that an incarnation has dealt with an event. Whether it is the present one, and the event was due.
    pub(super) fn acknowledge(&mut self, agent: &AgentId, incarnation: u32, upto: u64) -> bool {
        let Some(child) = self.children.get_mut(agent) else { return false };
        if child.incarnation != incarnation || child.mail.front().is_none_or(|first| first.seq != upto) {
            return false;
        }
        child.mail.pop_front();
        child.sent = child.sent.saturating_sub(1);
        child.dealt_with = upto;
        self.push_mail(agent);
        true
    }

    /// Whether every agent has dealt with all that has happened to it.
    pub(super) fn all_mail_is_dealt_with(&self) -> bool {
        self.children.values().all(|child| child.mail.is_empty() && !child.is_to_take_up)
    }

    /// Lets go of an agent that has ended.
    pub(super) fn forget(&mut self, agent: &AgentId) {
        self.scope.fleet.router.strike(&self.address(agent));
        if let Some(child) = self.children.swap_remove(agent) {
            child.actor.stop(None);
        }
    }

    /// Lets go of all agents, the last to start first.
    pub(super) fn forget_all(&mut self) {
        let started = self.state.agents().keys().rev();
        let agents: Vec<AgentId> = started.filter(|id| self.children.contains_key(*id)).cloned().collect();
        agents.iter().for_each(|agent| self.forget(agent));
    }

    /// Starts an agent again whose actor failed: its state is folded from its events, and what it was working on is
    /// given to it once more. Too many restarts within the period fail the run.
    pub(super) async fn agent_failed(&mut self, actor: ActorId, reason: &str, me: &ActorRef<RunMessage>) {
        let failed = self.children.iter().find(|(_, child)| child.actor.get_id() == actor);
        let Some((id, child)) = failed.map(|(id, child)| (id.clone(), child)) else { return };
        let (incarnation, definition, dealt_with) = (child.incarnation + 1, child.definition.clone(), child.dealt_with);
        let take_up = child.is_to_take_up;
        if self.ending.is_some() {
            return self.forget(&id);
        }
        let supervision = &self.scope.fleet.network.spec().supervision;
        let (intensity, period) = (supervision.intensity as usize, supervision.period);
        let now = Instant::now();
        self.restarts.retain(|&at| now.duration_since(at) <= period.0);
        self.restarts.push_back(now);
        if self.restarts.len() > intensity {
            let reason = format!("agent `{id}` failed more than {intensity} times within {period}: {reason}");
            return self.end(RunEnd::without_answer(Status::Failed, reason));
        }
        let since = self.taken_up.0;
        let is_history = |envelope: &Arc<Envelope>| {
            envelope.agent.as_ref() == Some(&id) && envelope.seq > since && envelope.seq <= dealt_with
        };
        let history = self.log.snapshot().into_iter().filter(is_history).collect();
        match self.spawn(&id, incarnation, definition, history, take_up, me).await {
            Err(why) => self.end(RunEnd::without_answer(Status::Failed, why)),
            Ok(actor) => {
                if let Some(child) = self.children.get_mut(&id) {
                    let sent = if fault::is_planted(Bug::MailLostOnRestart) { child.sent } else { 0 };
                    (child.incarnation, child.actor, child.sent) = (incarnation, actor, sent);
                }
                self.record(Some(&id), None, Event::AgentRestarted { reason: reason.to_owned() });
                self.push_mail(&id);
            }
        }
    }
}
