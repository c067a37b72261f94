//! What is decided when answers are passed on.

use super::{Otherwise, Replay, words};
use crate::run::{AgentOutcome, Envelope, Event, FlowRules, LOST, Routing, Status};

impl Replay {
    fn next_step(&self) -> Option<Routing> {
        let rules = self.rules.as_ref()?;
        self.fold.run.next_step(FlowRules::of(&rules.network, &rules.flow))
    }

    /// Whether answers are passed on as they have to be. Who is stopped and who starts then is owed.
    pub(super) fn check_routing(&mut self, envelope: &Envelope) -> Result<bool, Otherwise> {
        let Some(Routing::Go(step)) = self.next_step() else { return Err(words::nothing()) };
        if step.event != envelope.event || step.labels != envelope.labels {
            return Err(words::told_apart(None, &step.event, envelope));
        }
        for agent in step.lost {
            let let_go = self.fold.run.let_go(&agent);
            self.owed.extend(let_go.into_iter().map(|(agent, event)| (Some(agent), event)));
            let outcome = AgentOutcome::Cancelled { reason: LOST.to_owned() };
            self.owed.push_back((Some(agent), Event::AgentEnded { outcome }));
        }
        self.owed.extend(step.starts.into_iter().map(|new| (Some(new.id.clone()), new.started())));
        Ok(true)
    }

    /// An inner flow that is over ends whoever is at work in it, and the agent that stands for it.
    pub(super) fn owe_end_of_flow(&mut self, envelope: &Envelope) {
        let may_be = matches!(envelope.event, Event::CallAbandoned { .. } | Event::AgentEnded { .. });
        if !may_be || !self.owed.is_empty() || self.settled.is_some() {
            return;
        }
        if let Some(Routing::EndAgent { agent, outcome, .. }) = self.next_step() {
            let let_go = self.fold.run.let_go(&agent);
            self.owed.extend(let_go.into_iter().map(|(agent, event)| (Some(agent), event)));
            self.owed.push_back((Some(agent), Event::AgentEnded { outcome }));
        }
    }

    /// Takes note that the run has to end, if that is what follows.
    pub(super) fn settle_if_over(&mut self) {
        if self.settled.is_some() || !self.owed.is_empty() {
            return;
        }
        if let Some(Routing::End(end)) = self.next_step() {
            if end.status != Status::Done {
                self.owed.push_back((None, Event::CancelRequested { end: end.clone() }));
            }
            self.settled = Some(end);
        }
    }

    /// Says what is missing where the record ends before answers are passed on.
    pub(super) fn not_passed_on(&self) -> Option<String> {
        let is_over = self.settled.is_some() || self.fold.run.end().is_some();
        match self.next_step().filter(|_| !is_over)? {
            Routing::Go(step) => Some(words::event_of(None, &step.event)),
            Routing::EndAgent { agent, outcome, .. } => {
                Some(words::event_of(Some(&agent), &Event::AgentEnded { outcome }))
            }
            Routing::End(_) => None,
        }
    }
}
