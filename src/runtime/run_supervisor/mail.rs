//! Questions to agents of which only so many instances may be at work: they wait in a mailbox until one is free.

use std::sync::Arc;

use ractor::ActorRef;

use super::{RunLoop, RunMessage};
use crate::fault::{self, Bug};
use crate::run::{
    AgentId, AgentOutcome, CallId, Event, Instance, Labels, RunEnd, Stage, Status, Subject, ToolFailure, gave_up,
    no_room, refused,
};
use crate::runtime::kept::Exchange;
use crate::runtime::mailboxes::{Entered, Key, Name, Terms, Ticket, Whose};
use crate::spec::Scope;

/// Why a question is given up that made room for another.
const DROPPED: &str = "the mailbox was full, and it was the oldest message in it";

/// A question on its way to an agent.
pub(super) struct Outgoing {
    pub(super) call: CallId,
    pub(super) cause: u64,
    pub(super) subject: Subject,
    pub(super) labels: Labels,
}

impl RunLoop {
    /// Puts a question into the mailbox of the agent `to`.
    pub(super) async fn send(&mut self, question: Outgoing, to: &Arc<str>, me: &ActorRef<RunMessage>) {
        let Some((key, terms)) = self.mailbox_of(to) else { return };
        let call = question.call.clone();
        // An agent that was started again says once more what it wants.
        let stage = self.state.open_call(&call).map(|open| &open.stage);
        if self.blocked.contains_key(&call) || matches!(stage, Some(Stage::Sent { .. } | Stage::Intended)) {
            return;
        }
        let ticket = self.ticket(&call, self.scope.recorder.now_ms(), me);
        match self.scope.recorder.mailboxes.enter(&key, &terms, ticket, false) {
            Entered::Taken => {
                self.sent(question, to);
                self.take_turn(&call, me).await;
            }
            Entered::Waits => {
                self.sent(question, to);
                self.end_if_waits_for_itself(&call);
            }
            Entered::Blocked => {
                let wait = crate::run::Wait::Mailbox;
                self.record(
                    Some(&call.agent),
                    Some(question.cause),
                    Event::CallQueued { call: call.clone(), wait, why: None },
                );
                self.blocked.insert(call.clone(), question);
                self.end_if_waits_for_itself(&call);
            }
            Entered::Refused => {
                let event = no_room(&call, &question.subject, terms.spec.capacity);
                self.result(&call.agent, question.cause, event);
            }
        }
    }

    fn sent(&mut self, question: Outgoing, to: &Arc<str>) {
        let Outgoing { call, cause, subject, labels } = question;
        let cause = self.intend(&call, cause, subject, labels);
        self.record(Some(&call.agent), Some(cause), Event::Sent { call: call.clone(), to: to.clone() });
    }

    /// A run whose agents wait for one another in a circle would wait for ever.
    fn end_if_waits_for_itself(&mut self, call: &CallId) {
        let name = self.name_of(call);
        if fault::is_planted(Bug::CircleNotSeen) {
            return;
        }
        if let Some(circle) = self.scope.recorder.mailboxes.wait_cycle(&name) {
            let circle: Vec<String> = circle.iter().map(|agent| format!("`{agent}`")).collect();
            let reason = format!("agents wait for one another: {}", circle.join(" asks "));
            self.end(RunEnd::without_answer(Status::Failed, reason));
        }
    }

    /// The question of a call has an instance to answer it.
    pub(super) async fn take_turn(&mut self, call: &CallId, me: &ActorRef<RunMessage>) {
        if let Some((agent, name, incarnation)) = self.waits_for_its_place(call) {
            return self.take_up_agent(agent, &name, incarnation, me).await;
        }
        let open = self.state.open_call(call).filter(|open| matches!(open.stage, Stage::Sent { .. })).cloned();
        let Some(open) = open.filter(|_| self.ending.is_none() && !self.state.is_over(call)) else {
            return self.leave_mailbox(call);
        };
        let rules = self.scope.fleet.flow_rules();
        let Some(Ok(mut new)) = self.state.asked(call, &open.subject, &open.labels, rules) else {
            return self.leave_mailbox(call);
        };
        if let Some((key, _)) = self.mailbox_of(&new.name).filter(|(_, terms)| terms.scope != Scope::Run) {
            match self.scope.recorder.kept(&key.stream()) {
                Ok(kept) => new.task.splice(0..0, kept).for_each(drop),
                Err(error) => return self.break_off(error),
            }
        }
        let cause = self.record(Some(&call.agent), None, Event::Took { call: call.clone() }).seq;
        self.start_asked(call, new, cause, me).await;
    }

    /// Returns the agent that a call brought into being in an earlier process, if it has no place in this one.
    fn waits_for_its_place(&self, call: &CallId) -> Option<(AgentId, Arc<str>, u32)> {
        let waits = |(id, instance): &(&AgentId, &Instance)| {
            instance.outcome.is_none() && instance.parent.call() == Some(call) && !self.children.contains_key(*id)
        };
        let (id, instance) = self.state.agents().iter().find(waits).filter(|_| self.ending.is_none())?;
        Some((id.clone(), instance.name.clone(), instance.incarnation))
    }

    /// There is room in the mailbox for the question of a call.
    pub(super) fn has_room(&mut self, call: &CallId) {
        let Some(question) = self.blocked.remove(call).filter(|_| self.ending.is_none()) else { return };
        let to: Arc<str> = question.subject.name().into();
        self.sent(question, &to);
    }

    /// The question of a call had to make room.
    pub(super) fn dropped(&mut self, call: &CallId) {
        let Some(open) = self.state.open_call(call).filter(|_| self.ending.is_none()).cloned() else { return };
        let (Subject::Delegate { message, agent: to } | Subject::Handoff { message, agent: to }) = &open.subject else {
            return;
        };
        let origin = crate::run::Origin::Agent(call.agent.clone());
        let message = crate::run::question(message.as_str().into(), open.labels.clone(), origin);
        let letter = Event::DeadLettered {
            call: Some(call.clone()),
            to: to.clone(),
            message,
            deliveries: 0,
            reason: DROPPED.to_owned(),
        };
        let agent = call.agent.clone();
        let cause = self.record_with(Some(&agent), None, open.labels.clone(), letter).seq;
        if fault::is_planted(Bug::DeadLetterNotTold) {
            return;
        }
        self.result(&agent, cause, refused(call, &open.subject, ToolFailure::DeadLettered, gave_up(DROPPED)));
    }

    /// Goes back into the mailbox in which the question of a call was before its process ended.
    pub(super) async fn send_again(&mut self, call: &CallId, since_ms: u64, me: &ActorRef<RunMessage>) {
        let Some(open) = self.state.open_call(call) else { return };
        let Some((key, terms)) = self.mailbox_of(&open.subject.name().into()) else { return };
        let ticket = self.ticket(call, since_ms, me);
        match self.scope.recorder.mailboxes.enter(&key, &terms, ticket, true) {
            Entered::Taken => self.take_turn(call, me).await,
            _ => self.end_if_waits_for_itself(call),
        }
    }

    /// Gives an agent its place again that was at work before its process ended; one for which there is none waits for it.
    pub(super) fn has_place(&self, agent: &AgentId, me: &ActorRef<RunMessage>) -> bool {
        let Some(instance) = self.state.agents().get(agent) else { return true };
        let (Some((run, call)), Some((key, terms))) = (self.asked_by(instance), self.mailbox_of(&instance.name)) else {
            return true;
        };
        let ticket = Ticket { name: (run, call.clone()), ..self.ticket(&call, 0, me) };
        self.scope.recorder.mailboxes.occupy(&key, &terms, ticket)
    }

    /// An agent has ended: its place is free. What is kept of what it was asked and answered is durable first, since who
    /// comes next is to know of it.
    pub(super) fn free_place(&mut self, agent: &AgentId, outcome: &AgentOutcome) {
        let Some(instance) = self.state.agents().get(agent) else { return };
        let Some((key, terms)) = self.mailbox_of(&instance.name) else { return };
        let Some(name) = self.asked_by(instance) else { return };
        let exchange = match (terms.scope, outcome) {
            (Scope::Run, _) => None,
            (_, AgentOutcome::Done(answer)) => Exchange::of(&self.scope.stream.run, agent, instance, answer),
            _ => None,
        };
        match exchange.filter(|_| !fault::is_planted(Bug::KeptLost)) {
            None if fault::is_planted(Bug::PlaceNotFreed) => {}
            None if terms.scope == Scope::Run => self.scope.recorder.mailboxes.leave(&key, &name),
            // Other runs share the place: nobody has it before the end is certain.
            None => {
                let recorder = self.scope.recorder.clone();
                self.when_durable(move || recorder.mailboxes.leave(&key, &name));
            }
            Some(exchange) => {
                let (stream, recorder) = (key.stream(), self.scope.recorder.clone());
                if fault::is_planted(Bug::KeptTwice) {
                    self.unwritten.kept.push((stream.clone(), exchange.clone()));
                }
                self.unwritten.kept.push((stream.clone(), exchange));
                if fault::is_planted(Bug::PlaceFreedEarly) {
                    recorder.mailboxes.leave(&key, &name);
                }
                self.when_durable(move || recorder.mailboxes.leave(&key, &name));
            }
        }
    }

    /// The question of a call waits no more, in whatever mailbox it is.
    pub(super) fn leave_mailbox(&mut self, call: &CallId) {
        self.scope.recorder.mailboxes.forget(&self.name_of(call));
    }

    /// Returns the mailbox of an agent, and what the network says of it; none where each question gets an instance.
    fn mailbox_of(&self, agent: &Arc<str>) -> Option<(Key, Terms)> {
        let network = self.scope.fleet.network.spec();
        let terms = Terms::of(network.agents.get(&**agent)?)?;
        let stream = &self.scope.stream;
        let whose = match (terms.scope, &stream.session) {
            (Scope::Run, _) => Whose::Run(stream.run.clone()),
            (Scope::Network, _) => Whose::Network(stream.tenant.clone()),
            (Scope::Session, Some(session)) => Whose::Session(stream.tenant.clone(), session.clone()),
            // A run that belongs to no session has one of its own.
            (Scope::Session, None) => Whose::Session(stream.tenant.clone(), stream.run.to_text()),
        };
        Some((Key { network: network.network.name.as_str().into(), agent: agent.clone(), whose }, terms))
    }

    fn ticket(&self, call: &CallId, since_ms: u64, me: &ActorRef<RunMessage>) -> Ticket {
        let mut awaited_by = Vec::new();
        let mut at = self.state.agents().get(&call.agent);
        while let Some(instance) = at {
            let Some(name) = self.asked_by(instance) else { break };
            at = self.state.agents().get(&name.1.agent);
            awaited_by.push((name, instance.name.clone()));
        }
        Ticket { name: self.name_of(call), since_ms, awaited_by, supervisor: me.clone() }
    }

    /// Returns the question that an instance is at work on, by the call that brought it or its flow into being; none if it was the run.
    fn asked_by(&self, instance: &Instance) -> Option<Name> {
        match (instance.parent.call(), instance.parent.flow()) {
            (Some(call), _) => Some(self.name_of(call)),
            // It works for the agent that stands for its flow.
            (None, Some(owner)) => self.asked_by(self.state.agents().get(owner)?),
            (None, None) => None,
        }
    }

    fn name_of(&self, call: &CallId) -> Name {
        (self.scope.stream.run.clone(), call.clone())
    }
}
