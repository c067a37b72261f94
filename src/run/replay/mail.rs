//! Mailboxes, dead letters and rejected events: what follows from them.

use super::wants::Batch;
use super::{Otherwise, Replay, words};
use crate::run::{
    AgentOutcome, CallId, Envelope, Event, Stage, Subject, ToolFailure, gave_up, no_room, refused, take_up, unusable,
};
use crate::spec::{Scope, WhenFull};

impl Replay {
    /// Whether questions to an agent wait in a mailbox until an instance is free.
    pub(super) fn has_mailbox(&self, agent: &str) -> bool {
        let rules = self.rules.as_ref();
        let spec = rules.and_then(|rules| rules.network.spec().agents.get(agent));
        spec.is_some_and(|spec| spec.replicas().is_some())
    }

    /// Returns what an agent is told whose question found no room, if there may be none.
    pub(super) fn has_no_room(&self, call: &CallId, subject: &Subject) -> Option<Event> {
        let rules = self.rules.as_ref()?;
        let spec = rules.network.spec().agents.get(subject.name())?;
        let refuses = spec.replicas().is_some() && spec.mailbox.when_full == WhenFull::Reject;
        refuses.then(|| no_room(call, subject, spec.mailbox.capacity))
    }

    /// Whether a question is where it can be put into a mailbox, or taken from one. When that happens is not decided here.
    pub(super) fn check_mail(&self, call: &CallId, fits: impl Fn(&Stage) -> bool) -> Result<bool, Otherwise> {
        match self.fold.run.open_call(call) {
            Some(open) if fits(&open.stage) => Ok(false),
            _ => Err(words::nothing()),
        }
    }

    /// The agent starts that was asked.
    pub(super) fn take_from_mailbox(&mut self, call: &CallId) {
        let Some(open) = self.fold.run.open_call(call).cloned() else { return };
        if let Some(Ok(new)) = self.asked(call, &open.subject, &open.labels) {
            self.owe_agent(call, new);
        }
    }

    /// Whether an agent started as it had to, but for what it knows from other runs.
    pub(super) fn is_start_as_owed(&self, owed: &Event, recorded: &Event) -> bool {
        let (
            Event::AgentStarted { name, parent, depth, task },
            Event::AgentStarted { name: of, parent: by, depth: at, task: given },
        ) = (owed, recorded)
        else {
            return false;
        };
        let rules = self.rules.as_ref();
        let spec = rules.and_then(|rules| rules.network.spec().agents.get(&**name));
        let keeps = spec.is_some_and(|spec| spec.scope != Scope::Run);
        keeps && (name, parent, depth) == (of, by, at) && given.ends_with(task)
    }

    /// A message was given up: who asked is told so, by the agent's end if it had taken the message.
    pub(super) fn give_up(&mut self, envelope: &Envelope, call: Option<&CallId>, reason: &str) {
        let in_mailbox = call.and_then(|call| self.fold.run.open_call(call).map(|open| (call, open)));
        match in_mailbox.filter(|(_, open)| matches!(open.stage, Stage::Sent { .. })) {
            Some((call, open)) => {
                let told = refused(call, &open.subject, ToolFailure::DeadLettered, gave_up(reason));
                self.owed.push_back((Some(call.agent.clone()), told));
            }
            None => {
                let let_go = envelope.agent.iter().flat_map(|agent| self.fold.run.let_go(agent));
                self.owed.extend(let_go.map(|(agent, event)| (Some(agent), event)));
                let outcome = AgentOutcome::Failed { reason: gave_up(reason) };
                self.owed.push_back((envelope.agent.clone(), Event::AgentEnded { outcome }));
            }
        }
    }

    /// An agent never got an event: it is told that a tool's result can't be used, or wants once more what it wanted.
    pub(super) fn take_back(&mut self, envelope: &Envelope, call: Option<&CallId>) -> Result<(), Otherwise> {
        let Some(agent) = &envelope.agent else { return Ok(()) };
        let wants_nothing = self.wants.get(agent).is_none_or(|batch| batch.wants.is_empty());
        match call {
            Some(call) if call.index.is_some() => {
                self.owed.push_back((Some(agent.clone()), unusable(call)));
            }
            None if !wants_nothing => {}
            _ => {
                let Some(state) = self.fold.agents.get(agent) else { return Ok(()) };
                let effects = take_up(self.definition(agent)?, state);
                self.wants.insert(agent.clone(), Batch::new(effects, state.labels()));
            }
        }
        Ok(())
    }
}
