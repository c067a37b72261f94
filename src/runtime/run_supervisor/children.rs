//! The agents of a run: how they start and get their mail.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorCell, ActorRef};
use tokio::time::Instant;

use super::mail::Outgoing;
use super::{RunLoop, RunMessage};
use crate::run::{
    AgentId, AgentState, CallId, Definition, Effect, Envelope, Event, Labels, NewAgent, Parent, RunEnd, Status,
    Subject, published, refused,
};
use crate::runtime::agent_actor::{AgentActor, Seed};
use crate::runtime::router::{Address, Mailbox};
use crate::spec::AgentSpec;

/// A living agent instance.
pub(super) struct Child {
    pub(super) definition: Arc<Definition>,
    pub(super) incarnation: u32,
    /// How often it has been stopped to be started again.
    pub(super) stops: u32,
    /// None while it waits to be started again, and while it is asleep.
    pub(super) actor: Option<ActorCell>,
    /// Whether it has no actor since there is nothing to do for it; mail wakes it.
    pub(super) is_asleep: bool,
    /// Whether it stands for itself. One that a question brought into being does not: it is no part of the strategy.
    pub(super) stands: bool,
    /// What has happened to the instance and it has not dealt with, oldest first; the first `sent` are in its mailbox.
    pub(super) mail: VecDeque<Arc<Envelope>>,
    pub(super) sent: usize,
    /// Since when it has had the first of its mail.
    pub(super) sent_at: Option<Instant>,
    /// When it had dealt with something last.
    pub(super) rests_since: Instant,
    /// The last event that it has dealt with.
    pub(super) dealt_with: u64,
    /// Whether it has yet to say what it wants, having been folded from the record.
    pub(super) is_to_take_up: bool,
    /// The event at which its last incarnation failed, if it is known.
    pub(super) failed_at: Option<u64>,
    /// How often in a row it has failed at what it was given.
    pub(super) failed_deliveries: u32,
    /// When it was started again, within the last period.
    pub(super) restarts: VecDeque<Instant>,
    /// Of its last step: how long the model call took.
    pub(super) last_model_call: Option<(u32, Duration)>,
}

impl Child {
    /// Returns how much of a step's time its model call took, where that was made by this process.
    pub(super) fn step_spent(&self, step: u32) -> Option<Duration> {
        self.last_model_call.filter(|(of, _)| *of == step).map(|(_, spent)| spent)
    }

    fn new(
        definition: Arc<Definition>,
        incarnation: u32,
        actor: ActorCell,
        stands: bool,
        taken_up_at: Option<u64>,
    ) -> Self {
        Self {
            definition,
            incarnation,
            stops: 0,
            actor: Some(actor),
            is_asleep: false,
            stands,
            mail: VecDeque::new(),
            sent: 0,
            sent_at: None,
            rests_since: Instant::now(),
            dealt_with: taken_up_at.unwrap_or_default(),
            is_to_take_up: taken_up_at.is_some(),
            failed_at: None,
            failed_deliveries: 0,
            restarts: VecDeque::new(),
            last_model_call: None,
        }
    }

    pub(super) fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// Whether it has an incarnation that is at work or asleep, and does not wait to be started again.
    pub(super) fn is_up(&self) -> bool {
        self.actor.is_some() || self.is_asleep
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
        if let Subject::Publish { topic, .. } = &subject {
            let said = published(&call, topic, labels.clone());
            let cause = self.intend(&call, cause, subject, labels);
            return self.result(&call.agent.clone(), cause, said);
        }
        let new = match self.state.asked(&call, &subject, &labels, self.scope.fleet.flow_rules()) {
            Some(Ok(new)) => new,
            Some(Err(not)) => {
                let event = refused(&call, &subject, not.failure, not.why);
                return self.result(&call.agent.clone(), cause, event);
            }
            None => return,
        };
        let replicas = self.scope.fleet.network.spec().agents.get(&*new.name).and_then(AgentSpec::replicas);
        if replicas.is_some() {
            return self.send(Outgoing { call, cause, subject, labels }, &new.name, me).await;
        }
        let cause = self.intend(&call, cause, subject, labels);
        self.start_asked(&call, new, cause, me).await;
    }

    /// Records that a delegation or a handoff is made.
    pub(super) fn intend(&mut self, call: &CallId, cause: u64, subject: Subject, labels: Labels) -> u64 {
        let reserved = crate::budget::Amount::default();
        let intent = Event::CallIntended { call: call.clone(), attempt: 1, subject, effect: None, reserved };
        self.record_with(Some(&call.agent), Some(cause), labels, intent).seq
    }

    /// Starts the agent that a call asks for; one that was handed over to takes the place of who did.
    pub(super) async fn start_asked(&mut self, call: &CallId, new: NewAgent, cause: u64, me: &ActorRef<RunMessage>) {
        let (id, is_handoff) = (new.id.clone(), matches!(new.parent, Parent::Handoff { .. }));
        self.start_agent(new, cause, me).await;
        if is_handoff {
            self.end_handed_over(&call.agent, cause, id);
        }
    }

    pub(super) async fn start_agent(&mut self, new: NewAgent, cause: u64, me: &ActorRef<RunMessage>) {
        let (id, name, stands) = (new.id.clone(), &new.name, new.stands());
        let Some(definition) = self.scope.definitions.get(name).cloned() else {
            return self.end(RunEnd::without_answer(Status::Failed, format!("there is no agent `{name}`")));
        };
        match self.spawn(&id, 1, definition.clone(), Vec::new(), false, me).await {
            Ok(actor) => drop(self.children.insert(id.clone(), Child::new(definition, 1, actor, stands, None))),
            Err(why) => return self.end(RunEnd::without_answer(Status::Failed, why)),
        }
        let envelope = self.record(Some(&id), Some(cause), new.started());
        self.deliver(&id, envelope);
    }

    /// Starts agents that stand for themselves beside the entry, on the run's input, as a route to several targets does.
    #[cfg(test)]
    pub(super) async fn stand(&mut self, agents: Vec<Arc<str>>, me: &ActorRef<RunMessage>) {
        let Some(input) = self.state.beginning().map(|beginning| beginning.input.clone()) else { return };
        for agent in agents {
            if self.ending.is_some() {
                return;
            }
            let cause = self.state.head();
            self.start_agent(NewAgent::first(&agent, input.clone(), None), cause, me).await;
        }
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
                let instance = self.state.agents().get(&id);
                let stands = instance.is_some_and(|instance| instance.parent.answers().is_none());
                let mut child = Child::new(definition, incarnation, actor, stands, Some(self.state.head()));
                child.failed_deliveries = instance.map(|instance| instance.failed_deliveries).unwrap_or_default();
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

    pub(super) async fn spawn(
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
        // Boxed, since what handles any message to the supervisor would else be as large as what starts an actor, and be moved
        // as often as there are messages.
        let spawned = Box::pin(me.spawn_linked(None, AgentActor, seed)).await;
        let (actor, _) = spawned.map_err(|error| format!("agent `{id}` could not be started: {error}"))?;
        self.scope.fleet.router.enter(self.address(id), Mailbox::new(actor.clone()));
        Ok(actor.get_cell())
    }

    pub(super) fn address(&self, agent: &AgentId) -> Address {
        Address { run: self.scope.stream.run.clone(), agent: agent.clone() }
    }

    /// Gives an agent its mail: what its mailbox has no room for stays here until it has.
    pub(super) fn deliver(&mut self, agent: &AgentId, envelope: Arc<Envelope>) {
        let Some(child) = self.children.get_mut(agent) else { return };
        child.mail.push_back(envelope);
        if child.is_asleep {
            self.awoken.push(agent.clone());
        }
        self.push_mail(agent);
    }

    pub(super) fn push_mail(&mut self, agent: &AgentId) {
        let address = self.address(agent);
        let Some(child) = self.children.get_mut(agent) else { return };
        while let Some(envelope) = child.mail.get(child.sent) {
            if !self.scope.fleet.router.try_send(&address, envelope) {
                break;
            }
            child.sent += 1;
            child.sent_at.get_or_insert_with(Instant::now);
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
        child.sent_at = (child.sent > 0).then(Instant::now);
        child.rests_since = Instant::now();
        (child.dealt_with, child.failed_deliveries) = (upto, 0);
        self.push_mail(agent);
        true
    }

    /// Whether every agent has dealt with all that has happened to it.
    pub(super) fn all_mail_is_dealt_with(&self) -> bool {
        let is_settled = |child: &Child| child.mail.is_empty() && !child.is_to_take_up && child.is_up();
        self.children.values().all(is_settled)
    }

    /// Lets go of an agent that has ended.
    pub(super) fn forget(&mut self, agent: &AgentId) {
        self.scope.fleet.router.strike(&self.address(agent));
        if let Some(child) = self.children.swap_remove(agent) {
            child.actor.iter().for_each(|actor| actor.stop(None));
        }
    }

    /// Lets go of all agents, the last to start first.
    pub(super) fn forget_all(&mut self) {
        let started = self.state.agents().keys().rev();
        let agents: Vec<AgentId> = started.filter(|id| self.children.contains_key(*id)).cloned().collect();
        agents.iter().for_each(|agent| self.forget(agent));
    }
}
