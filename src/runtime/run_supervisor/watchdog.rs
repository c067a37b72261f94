//! What makes no progress although its time is over. A tool or model that has a time-out is cut off by that; what is left
//! for the watchdog is what keeps its thread, and so can't be.

use std::time::Duration;

use ractor::ActorRef;
use tokio::time::Instant;

use super::failing::Failure;
use super::{RunLoop, RunMessage};
use crate::run::{AgentId, CallId, Event, RunEnd, Status};
use crate::runtime::gate::Pulse;
use crate::runtime::router::Address;
use crate::runtime::supervision::Exit;

/// How often it is looked, while anything is under way.
const PERIOD: Duration = Duration::from_secs(5);

/// How much longer than it may a step can take before it counts as hung: a busy machine is late.
const GRACE: Duration = Duration::from_secs(5);

/// How long an agent may take to decide on one event. It computes, and waits for nothing: this is far more than it needs.
const DECISION: Duration = Duration::from_secs(10);

/// After how long without mail an agent is put to sleep: it waits for something that takes its time, and an actor takes
/// several kilobytes.
const REST: Duration = Duration::from_secs(30);

/// A call whose task has not ended.
pub(super) struct Live {
    pub(super) task: u64,
    /// Ends the task.
    pub(super) abort: tokio::task::AbortHandle,
    pub(super) pulse: std::sync::Arc<Pulse>,
    /// When it was begun.
    pub(super) since: Instant,
}

impl RunLoop {
    /// Lets the watchdog look, as long as anything is under way.
    pub(super) fn rouse_watchdog(&mut self, me: &ActorRef<RunMessage>) {
        if !self.is_watched && self.ending.is_none() && (!self.live.is_empty() || !self.all_mail_is_dealt_with()) {
            self.is_watched = true;
            let me = me.clone();
            self.tasks.spawn(async move {
                tokio::time::sleep(PERIOD).await;
                let _ = me.cast(RunMessage::Watch);
            });
        }
    }

    /// Looks for what makes no progress: it is said on record; and an agent that does not come to a decision is started
    /// again, for what it is worth.
    pub(super) async fn watch(&mut self, me: &ActorRef<RunMessage>) {
        self.is_watched = false;
        if self.ending.is_some() {
            return;
        }
        let mut silent: Vec<(CallId, String)> = Vec::new();
        for (call, live) in &self.live {
            if let Some(overdue) = live.pulse.overdue(GRACE) {
                let (silent_s, limit_s) = (overdue.silent.as_secs(), overdue.limit.as_secs());
                silent
                    .push((call.clone(), format!("call {call} is silent for {silent_s} s, and may be for {limit_s}")));
            }
        }
        self.put_to_sleep();
        silent.sort();
        for (call, what) in silent {
            self.hangs(&call.agent, what);
        }
        let stuck = self.children.iter().find_map(|(id, child)| {
            let front = child.mail.front().filter(|_| child.sent > 0)?;
            let since = child.sent_at.filter(|at| at.elapsed() > DECISION)?;
            Some((id.clone(), front.seq, since))
        });
        if let Some((agent, seq, since)) = stuck {
            let reason = format!("it did not come to a decision on event {seq} in {} s", since.elapsed().as_secs());
            self.hangs(&agent, reason.clone());
            self.fail_agent(&agent, Failure { exit: Exit::Failed, at: Some(seq), reason }, me).await;
        }
    }

    /// Lets go of the actors of agents for which there has been nothing to do for a while: their state is in their events.
    fn put_to_sleep(&mut self) {
        for (id, child) in &mut self.children {
            let rests = child.mail.is_empty() && !child.is_to_take_up && child.rests_since.elapsed() >= REST;
            if let Some(actor) = child.actor.take_if(|_| rests) {
                child.is_asleep = true;
                self.scope.fleet.router.strike(&Address { run: self.scope.stream.run.clone(), agent: id.clone() });
                actor.stop(None);
            }
        }
    }

    /// Gives agents an actor again for which there is mail.
    pub(super) async fn wake(&mut self, me: &ActorRef<RunMessage>) {
        for agent in std::mem::take(&mut self.awoken) {
            let Some(child) = self.children.get_mut(&agent).filter(|child| child.is_asleep) else { continue };
            child.is_asleep = false;
            let (incarnation, definition) = (child.incarnation, child.definition.clone());
            let history = self.history(&agent);
            match self.spawn(&agent, incarnation, definition, history, false, me).await {
                Err(why) => self.end(RunEnd::without_answer(Status::Failed, why)),
                Ok(actor) => {
                    self.children.get_mut(&agent).into_iter().for_each(|child| child.actor = Some(actor.clone()));
                    self.push_mail(&agent);
                }
            }
        }
    }

    fn hangs(&mut self, agent: &AgentId, what: String) {
        if self.state.agents().get(agent).is_some_and(|instance| instance.hung.is_none() && instance.outcome.is_none())
        {
            tracing::warn!(run = %self.scope.stream.run, %agent, %what, "no progress");
            self.record(Some(agent), None, Event::Hung { what: Some(what) });
        }
    }

    /// An agent makes progress.
    pub(super) fn goes_on(&mut self, agent: &AgentId) {
        if self.ending.is_none() && self.state.agents().get(agent).is_some_and(|instance| instance.hung.is_some()) {
            self.record(Some(agent), None, Event::Hung { what: None });
        }
    }
}
