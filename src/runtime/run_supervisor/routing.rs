//! How answers are passed on: the run's routes, joins, rooms and inner flows, one step after the other.

use std::time::Duration;

use ractor::ActorRef;

use super::{RunLoop, RunMessage};
use crate::run::{AgentId, AgentOutcome, Envelope, Event, LOST, Labels, Routing, Step, Subject};

impl RunLoop {
    /// Passes on what has been answered, until the run waits for its agents again. What follows from a message follows
    /// within it, so that a crash finds no answer that is half passed on.
    pub(super) async fn route(&mut self, me: &ActorRef<RunMessage>) {
        if !self.may_route {
            return;
        }
        let scope = self.scope.clone();
        while self.ending.is_none() {
            match self.state.next_step(scope.fleet.flow_rules()) {
                None => break,
                Some(Routing::Go(step)) => self.pass_on(*step, me).await,
                Some(Routing::EndAgent { agent, outcome, labels }) => {
                    let cause = self.state.head();
                    self.let_go(&agent, cause);
                    self.end_agent(&agent, cause, outcome, &labels);
                }
                Some(Routing::End(end)) => self.end(end),
            }
        }
        self.may_route = false;
        self.set_join_timers(me);
    }

    /// Whether something may have to be passed on after an event; to be asked before it is folded.
    pub(super) fn is_routed(&self, envelope: &Envelope) -> bool {
        match &envelope.event {
            Event::AgentStarted { name, parent, .. } => {
                let flow = &self.scope.fleet.flow;
                flow.is_flow(name)
                    || (parent.answers().is_none() && flow.joins().iter().any(|join| join.timeout.is_some()))
            }
            Event::AgentEnded { .. } => {
                let instance = envelope.agent.as_ref().and_then(|agent| self.state.agents().get(agent));
                instance.is_some_and(|instance| instance.parent.answers().is_none())
            }
            Event::ToolReturned { call, failure: None, .. } => {
                let open = self.state.open_call(call);
                open.is_some_and(|open| matches!(open.subject, Subject::Publish { .. }))
            }
            Event::JoinDue { .. } | Event::RunResumed { .. } | Event::RunForked { .. } => true,
            _ => false,
        }
    }

    async fn pass_on(&mut self, step: Step, me: &ActorRef<RunMessage>) {
        let Step { event, labels, lost, starts } = step;
        let cause = self.record_with(None, None, labels, event).seq;
        for agent in lost {
            self.let_go(&agent, cause);
            let outcome = AgentOutcome::Cancelled { reason: LOST.to_owned() };
            self.end_agent(&agent, cause, outcome, &Labels::default());
        }
        for new in starts {
            if self.ending.is_none() {
                self.start_agent(new, cause, me).await;
            }
        }
    }

    /// Ends the run at once if that is what follows from the end of an agent: what was to happen beside it does not.
    pub(super) fn end_if_over(&mut self) {
        let scope = self.scope.clone();
        if self.ending.is_none()
            && let Some(Routing::End(end)) = self.state.next_step(scope.fleet.flow_rules())
        {
            self.end(end);
        }
    }

    /// Lets each join ring that waits no longer than until some time.
    fn set_join_timers(&mut self, me: &ActorRef<RunMessage>) {
        let flow = &self.scope.fleet.flow;
        if self.ending.is_some() || flow.joins().iter().all(|join| join.timeout.is_none()) {
            return;
        }
        let deadlines = self.state.join_deadlines(flow);
        let now_ms = self.scope.recorder.now_ms();
        for (flow, join, at_ms) in deadlines {
            let key = (flow.clone(), join);
            if self.join_timers.get(&key) == Some(&at_ms) {
                continue;
            }
            self.join_timers.insert(key, at_ms);
            let (me, left) = (me.clone(), Duration::from_millis(at_ms.saturating_sub(now_ms)));
            self.tasks.spawn(async move {
                tokio::time::sleep(left).await;
                let _ = me.cast(RunMessage::JoinDue { flow, join, at_ms });
            });
        }
    }

    /// A join has waited for as long as it may, if it still waits for the same.
    pub(super) fn join_due(&mut self, flow: Option<AgentId>, join: u32, at_ms: u64) {
        let waits = self.state.join_deadlines(&self.scope.fleet.flow).contains(&(flow.clone(), join, at_ms));
        if waits && self.ending.is_none() {
            self.record(None, None, Event::JoinDue { flow, join });
        }
    }
}
