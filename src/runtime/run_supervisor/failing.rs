//! What becomes of an agent that fails: it is started again into the state that its events give, or what it was working
//! on is given up.

use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorId, ActorRef};
use tokio::time::Instant;

use super::{RunLoop, RunMessage};
use crate::fault::{self, Bug};
use crate::run::{AgentId, AgentOutcome, Envelope, Event, Fold, RunEnd, Status, gave_up, unusable};
use crate::runtime::supervision::{Exit, Ruling, pause};
use crate::spec::{RestartKind, RestartSpec};

/// An agent that failed.
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// The event that it was working on; none if nobody knows, or if it is not to blame.
    pub(super) at: Option<u64>,
    pub(super) reason: String,
}

impl RunLoop {
    /// An incarnation panicked while it dealt with an event.
    pub(super) async fn panicked(
        &mut self,
        agent: &AgentId,
        incarnation: u32,
        at: Option<u64>,
        reason: String,
        me: &ActorRef<RunMessage>,
    ) {
        let is_present = |child: &&super::Child| child.incarnation == incarnation && child.actor.is_some();
        if let Some(child) = self.children.get(agent).filter(is_present) {
            // One that fails in saying what it wants fails at the last event that it was folded from.
            let at = at.or_else(|| child.is_to_take_up.then_some(child.dealt_with));
            self.fail_agent(agent, Failure { exit: Exit::Failed, at, reason }, me).await;
        }
    }

    /// An actor is no more. One that was let go before is not looked for.
    pub(super) async fn actor_ended(&mut self, actor: ActorId, exit: Exit, reason: &str, me: &ActorRef<RunMessage>) {
        let is_it = |child: &super::Child| child.actor.as_ref().is_some_and(|cell| cell.get_id() == actor);
        let Some(agent) = self.children.iter().find(|(_, child)| is_it(child)).map(|(id, _)| id.clone()) else {
            return;
        };
        let failure = Failure { exit, at: None, reason: reason.to_owned() };
        self.fail_agent(&agent, failure, me).await;
    }

    /// Rules on an agent that failed. One that waits to be started again already has failed before.
    pub(super) async fn fail_agent(&mut self, agent: &AgentId, failure: Failure, me: &ActorRef<RunMessage>) {
        if self.ending.is_some() {
            return self.forget(agent);
        }
        let spec = self.scope.fleet.network.spec();
        let Some(instance) = self.state.agents().get(agent) else { return };
        let Some(agent_spec) = spec.agents.get(&*instance.name) else { return };
        let (kind, max_deliveries) = (agent_spec.restart.kind, agent_spec.max_deliveries);
        let Some(child) = self.children.get_mut(agent).filter(|child| child.is_up()) else { return };
        child.failed_deliveries += u32::from(failure.at.is_some());
        let deliveries = child.failed_deliveries;
        let is_given_up = failure.at.is_some() && deliveries >= max_deliveries;
        let now = Instant::now();
        let ruling = if is_given_up { Ruling::Leave } else { self.supervision.rule(kind, failure.exit, now) };
        match ruling {
            Ruling::Restart => self.restart_with_group(agent, failure, now, me).await,
            Ruling::Leave => {
                self.note_failure(agent, &failure, None);
                self.give_up(agent, deliveries, &failure.reason);
            }
            Ruling::GiveUp => {
                let (intensity, period) = (spec.supervision.intensity, spec.supervision.period);
                self.note_failure(agent, &failure, None);
                let what = format!("agent `{agent}` failed more than {intensity} times within {period}");
                self.end(RunEnd::without_answer(Status::Failed, format!("{what}: {}", failure.reason)));
            }
        }
    }

    fn note_failure(&mut self, agent: &AgentId, failure: &Failure, restart_in_ms: Option<u64>) {
        let Failure { at, reason, .. } = failure;
        let failed_deliveries = self.children.get(agent).map(|child| child.failed_deliveries);
        let delivery = failed_deliveries.filter(|_| at.is_some()).unwrap_or_default();
        let failed = Event::AgentFailed { reason: reason.clone(), at: *at, delivery, restart_in_ms };
        self.record(Some(agent), failure.at, failed);
    }

    /// Stops an agent, and those that its failure takes along, the last one to start first; and starts them again after a
    /// pause, in the order of their start. A temporary one that is taken along is given up instead.
    async fn restart_with_group(&mut self, agent: &AgentId, failure: Failure, now: Instant, me: &ActorRef<RunMessage>) {
        let started = self.state.agents().keys().filter_map(|id| Some((id, self.children.get(id)?.stands)));
        let group = self.supervision.group(agent, started);
        let pause = self.pause_before_restart(agent, now);
        let is_left = |id: &AgentId| id != agent && self.restart_spec(id).kind == RestartKind::Temporary;
        let left: Vec<AgentId> = group.iter().filter(|id| is_left(id)).cloned().collect();
        let along = format!("`{agent}` failed, and is not started again alone");
        for member in &group {
            let pause_ms = (!left.contains(member)).then_some(pause.as_millis() as u64);
            let taken_along = Failure { exit: failure.exit, at: None, reason: along.clone() };
            self.note_failure(member, if member == agent { &failure } else { &taken_along }, pause_ms);
        }
        for member in group.iter().rev() {
            self.stop_incarnation(member);
        }
        left.iter().for_each(|member| self.give_up(member, 0, &along));
        self.reject_if_poisoned(agent, &failure);
        let due: Vec<(AgentId, u32)> =
            group.into_iter().filter_map(|id| Some((id.clone(), self.children.get(&id)?.stops))).collect();
        let reason: Arc<str> = failure.reason.into();
        match pause.is_zero() || fault::is_planted(Bug::RestartTooSoon) {
            true => self.restart(due, &reason, me).await,
            false => drop(me.send_after(pause, move || RunMessage::RestartDue { agents: due.clone(), reason })),
        }
    }

    /// Takes note of an agent's restart, and returns how long it waits.
    fn pause_before_restart(&mut self, agent: &AgentId, now: Instant) -> Duration {
        let period = self.scope.fleet.network.spec().supervision.period.0;
        let mut nth = 1;
        if let Some(child) = self.children.get_mut(agent) {
            child.restarts.retain(|&at| now.duration_since(at) <= period);
            child.restarts.push_back(now);
            nth = child.restarts.len() as u32;
        }
        pause(&self.restart_spec(agent).backoff, nth, &format!("{}/{agent}/{nth}", self.scope.stream.run))
    }

    fn restart_spec(&self, agent: &AgentId) -> RestartSpec {
        let name = self.state.agents().get(agent).map(|instance| &*instance.name).unwrap_or_default();
        let spec = self.scope.fleet.network.spec().agents.get(name);
        spec.map(|spec| spec.restart).unwrap_or_default()
    }

    /// Stops the present incarnation of an agent; what it still says is not heard. Its mail stays.
    fn stop_incarnation(&mut self, agent: &AgentId) {
        self.scope.fleet.router.strike(&self.address(agent));
        if let Some(child) = self.children.get_mut(agent) {
            child.stops += 1;
            // One that waits to be started again has no incarnation yet that could be stopped.
            child.incarnation += u32::from(child.is_up());
            (child.sent_at, child.is_asleep) = (None, false);
            child.sent = if fault::is_planted(Bug::MailLostOnRestart) { child.sent } else { 0 };
            child.actor.take().iter().for_each(|actor| actor.stop(None));
        }
    }

    /// An event at which two incarnations in a row have failed is kept from the next one. What it said is lost, and what it
    /// cost is not: a model is asked once more, and of a tool's result the agent hears that it can't be used.
    fn reject_if_poisoned(&mut self, agent: &AgentId, failure: &Failure) {
        let Some(child) = self.children.get_mut(agent) else { return };
        let is_poisoned = failure.at.is_some() && child.failed_at == failure.at;
        child.failed_at = failure.at;
        let front = child.mail.front().filter(|front| is_poisoned && Some(front.seq) == failure.at).cloned();
        // What an agent began with can't be taken back: after some more deliveries it is given up.
        let Some(poison) = front.filter(|front| !matches!(front.event, Event::AgentStarted { .. })) else { return };
        (child.failed_at, child.dealt_with, child.is_to_take_up) = (None, poison.seq, true);
        if !fault::is_planted(Bug::PoisonNotSkipped) {
            child.mail.pop_front();
        }
        let call = poison.event.call().cloned();
        let (seq, reason) = (poison.seq, failure.reason.clone());
        self.record(Some(agent), Some(seq), Event::Rejected { seq, call: call.clone(), reason });
        self.refold(seq);
        if let Some(call) = call.filter(|call| call.index.is_some()) {
            self.result(agent, seq, unusable(&call));
        }
    }

    /// Folds the agents anew without an event that was rejected: the last fold that was written down may hold it.
    fn refold(&mut self, seq: u64) {
        let mut rejected = std::mem::take(&mut self.folded.rejected);
        rejected.insert(seq);
        let (since, agents) = &self.taken_up;
        let events = self.log.snapshot();
        let unwritten = self.unwritten.events.iter();
        let later = events.iter().chain(unwritten).map(|envelope| &**envelope).filter(|envelope| envelope.seq > *since);
        self.folded = Fold::of_agents(self.state.clone(), agents.clone(), rejected, later);
        self.is_fold_stale = true;
    }

    /// Starts agents again, in this order; those that have not been stopped since they were to be.
    pub(super) async fn restart(&mut self, agents: Vec<(AgentId, u32)>, reason: &Arc<str>, me: &ActorRef<RunMessage>) {
        for (agent, stops) in agents {
            let Some(child) = self.children.get(&agent) else { continue };
            if self.ending.is_some() || child.stops != stops || child.actor.is_some() {
                continue;
            }
            let incarnation = child.incarnation;
            fault::point("restart.before_start");
            let (definition, take_up) = (child.definition.clone(), child.is_to_take_up);
            let history = self.history(&agent);
            match self.spawn(&agent, incarnation, definition, history, take_up, me).await {
                Err(why) => self.end(RunEnd::without_answer(Status::Failed, why)),
                Ok(actor) => {
                    if let Some(child) = self.children.get_mut(&agent) {
                        child.actor = Some(actor);
                    }
                    self.record(Some(&agent), None, Event::AgentRestarted { reason: reason.to_string() });
                    self.push_mail(&agent);
                }
            }
            fault::point("restart.after_start");
        }
    }

    /// Returns what has happened to an agent since the run was taken up, as far as it has dealt with it.
    pub(super) fn history(&self, agent: &AgentId) -> Vec<Arc<Envelope>> {
        let dealt_with = self.children.get(agent).map(|child| child.dealt_with).unwrap_or_default();
        let since = self.taken_up.0;
        let is_history = |envelope: &Arc<Envelope>| {
            !fault::is_planted(Bug::RestartLosesState)
                && envelope.agent.as_ref() == Some(agent)
                && envelope.seq > since
                && envelope.seq <= dealt_with
                && !self.folded.rejected.contains(&envelope.seq)
        };
        self.log.snapshot().into_iter().filter(is_history).collect()
    }

    /// Gives up what an agent was working on: it is a dead letter, and the agent ends without an answer, and with it those
    /// whom it asked.
    fn give_up(&mut self, agent: &AgentId, deliveries: u32, reason: &str) {
        let Some(instance) = self.state.agents().get(agent) else { return };
        let Some(message) = instance.task.last().cloned() else { return };
        let (call, to) = (instance.parent.answers().cloned(), instance.name.clone());
        let labels = message.labels.clone();
        let letter = Event::DeadLettered { call, to, message, deliveries, reason: reason.to_owned() };
        let cause = self.record_with(Some(agent), None, labels.clone(), letter).seq;
        if !fault::is_planted(Bug::OrphansGoOn) {
            self.let_go(agent, cause);
        }
        let outcome = AgentOutcome::Failed { reason: gave_up(reason) };
        self.end_agent(agent, cause, outcome, &labels);
    }
}
