//! How a run is taken up again in another process than the one in which it was, and what a person can tell it.

use std::sync::Arc;

use ractor::ActorRef;
use tokio::sync::oneshot;

use super::approving::known;
use super::{RunLoop, RunMessage};
use crate::budget::Entry;
use crate::fault::{self, Bug};
use crate::run::{
    AgentId, CallId, Event, Fold, Labels, OpenCall, Origin, Resolution, RunState, Stage, Subject, question,
};
use crate::runtime::gate::{Call, Work};
use crate::runtime::{Answers, gate};

impl RunLoop {
    /// Takes the run up where its events end.
    pub(super) async fn take_up(&mut self, fold: Fold, resumed: Event, answers: Answers, me: &ActorRef<RunMessage>) {
        self.state = fold.run.clone();
        self.taken_up = (self.state.head(), fold.agents.clone());
        self.folded = fold;
        let (run, mut tenant) = (self.scope.stream.run.clone(), self.scope.stream.tenant.clone());
        if fault::is_planted(Bug::TenantForgotten) {
            tenant = "".into();
        }
        let accounts = self.scope.funds.openings();
        self.unwritten.entries.push(Entry::Opened { run, tenant, accounts });
        self.record(None, None, resumed);
        let is_charged = !fault::is_planted(Bug::CutOffNotCharged);
        for failed in self.state.cut_off_tries().into_iter().filter(|_| is_charged) {
            let agent = failed.call().map(|call| call.agent.clone());
            self.record(agent.as_ref(), None, failed);
        }
        self.take_up_ballots(answers.ballots);
        if let Some(end) = self.state.cancelling().cloned() {
            return self.end(end);
        }
        self.set_deadline(me);
        self.take_up_agents(me).await;
        self.take_up_mail(me).await;
    }

    /// Lets the agents that have not ended say what they want.
    pub(super) async fn take_up_agents(&mut self, me: &ActorRef<RunMessage>) {
        let living = self.state.agents().iter().filter(|(_, instance)| instance.outcome.is_none());
        let living: Vec<(AgentId, Arc<str>, u32)> =
            living.map(|(id, instance)| (id.clone(), instance.name.clone(), instance.incarnation)).collect();
        for (id, name, incarnation) in living {
            if self.has_place(&id, me) {
                self.take_up_agent(id, &name, incarnation, me).await;
            }
        }
    }

    /// Puts the questions back into the mailboxes in which they were.
    pub(super) async fn take_up_mail(&mut self, me: &ActorRef<RunMessage>) {
        let since = |open: &OpenCall| match open.stage {
            Stage::Sent { since_ms } => since_ms,
            _ => 0,
        };
        let waiting: Vec<_> = self.state.in_mailboxes().map(|(call, open)| (call.clone(), since(open))).collect();
        for (call, since_ms) in waiting {
            self.send_again(&call, since_ms, me).await;
        }
    }

    /// Says how a call that is open already goes on: `call` is changed to fit, and whether it passes the gate.
    pub(super) fn take_up_call(&mut self, call: &mut Call, open: &OpenCall, me: &ActorRef<RunMessage>) -> bool {
        call.attempt = open.attempt + 1;
        call.labels = open.labels.clone();
        call.begun_in = open.begun_in.clone();
        call.first_intended_ms = open.first_intended_ms;
        if let (Work::Act(subject), true) =
            (&mut call.work, open.approval.as_ref().is_some_and(|of| of.edited.is_some()))
        {
            // A person changed what its agent asked for.
            *subject = open.subject.clone();
        }
        match &open.stage {
            Stage::InDoubt | Stage::Sent { .. } => false,
            Stage::AwaitingInput => {
                call.approval = gate::Known::Passed(open.approval.clone());
                call.is_asked = !fault::is_planted(Bug::AskedAgain);
                // Where nobody is there to be asked, there is nothing to be done.
                !call.is_asked || self.scope.approver.is_some()
            }
            Stage::Answered { .. } => {
                self.hear_when_written(&call.id, me);
                false
            }
            Stage::AwaitingApproval | Stage::Decided { .. } => {
                call.approval = known(open);
                true
            }
            Stage::Intended if matches!(open.subject, Subject::Delegate { .. } | Subject::Handoff { .. }) => false,
            Stage::Intended if open.is_in_doubt(self.scope.effect(&open.subject)) => self.doubt(call, open),
            // It passed the gate before. What a person approved of then stands, as long as it is the same.
            Stage::Intended | Stage::Resolved(Resolution::Retry) => {
                call.approval = known(open);
                true
            }
            Stage::Resolved(Resolution::Done { .. } | Resolution::Fail) => {
                self.settle_doubt(&call.id, open);
                false
            }
        }
    }

    /// A call is in doubt: the tool that knows is asked, if there is one, or else a person has to say.
    fn doubt(&mut self, call: &mut Call, open: &OpenCall) -> bool {
        let Subject::Tool { tool, .. } = &open.subject else { return false };
        let spec = self.scope.fleet.network.spec();
        let knows = spec.tools.get(&**tool).and_then(|spec| spec.reconcile.clone());
        match knows {
            Some(knows) => {
                call.work = Work::Reconcile { by: knows.into(), subject: open.subject.clone() };
                true
            }
            None => {
                let doubt = Event::CallInDoubt { call: call.id.clone(), asked: None };
                self.record(Some(&call.id.agent), None, doubt);
                false
            }
        }
    }

    /// The tool that knows has been asked.
    pub(super) fn reconciled(
        &mut self,
        call: &CallId,
        by: Arc<str>,
        resolution: Option<Resolution>,
        me: &ActorRef<RunMessage>,
    ) {
        let Some(open) = self.state.open_call(call).filter(|open| open.stage == Stage::Intended) else { return };
        if self.ending.is_some() {
            return;
        }
        // That it has not been done says nothing where another run may be about to do it: the one that this was forked
        // from, which may be under way, or another fork.
        let is_sure = open.begun_in.is_none() || resolution != Some(Resolution::Retry);
        match resolution.filter(|_| is_sure) {
            None => {
                let doubt = Event::CallInDoubt { call: call.clone(), asked: Some(by) };
                self.record(Some(&call.agent), None, doubt);
            }
            Some(resolution) => self.settle(call, resolution, by, me),
        }
    }

    /// A person says what became of a call that is in doubt.
    pub(super) fn resolve(
        &mut self,
        call: &CallId,
        resolution: Resolution,
        answer: oneshot::Sender<Result<(), String>>,
        me: &ActorRef<RunMessage>,
    ) {
        if let Err(why) = resolvable(&self.state, call) {
            return drop(answer.send(Err(why)));
        }
        if self.ending.is_some() {
            return drop(answer.send(Err("is ending".to_owned())));
        }
        self.settle(call, resolution, PERSON.into(), me);
        self.when_durable(move || drop(answer.send(Ok(()))));
    }

    fn settle(&mut self, call: &CallId, resolution: Resolution, by: Arc<str>, me: &ActorRef<RunMessage>) {
        let resolved = Event::CallResolved { call: call.clone(), resolution, by };
        let cause = self.record(Some(&call.agent), None, resolved).seq;
        // The task that asked has not ended yet; it does nothing more.
        self.live.remove(call);
        let Some(open) = self.state.open_call(call).cloned() else { return };
        let again = Call::new(call.clone(), cause, open.labels, Work::Act(open.subject));
        self.begin_call(again, me);
    }

    fn settle_doubt(&mut self, call: &CallId, open: &OpenCall) {
        if let Some(result) = open.known_result(call, self.scope.fleet.network.spec()) {
            self.result(&call.agent.clone(), self.state.head(), result);
        }
    }

    /// Lets no more calls begin, or lets them begin again.
    pub(super) fn pause(&mut self, paused: bool, answer: oneshot::Sender<()>) {
        if self.ending.is_none() && self.state.is_paused() != paused {
            self.record(None, None, if paused { Event::Paused } else { Event::Unpaused });
            self.scope.pause.set(paused && !fault::is_planted(Bug::PauseIgnored));
        }
        self.when_durable(move || answer.send(()).unwrap_or_default());
    }

    /// Other policies hold from here on: calls that wait are asked about anew when their turn comes.
    pub(super) fn policy_changed(&mut self, network: Arc<str>, set: Arc<str>) {
        if self.ending.is_none() {
            self.record(None, None, Event::PolicyChanged { network, set });
        }
    }

    /// Tells an agent something.
    pub(super) fn steer(&mut self, agent: Option<AgentId>, text: String, answer: oneshot::Sender<Result<(), String>>) {
        let wanted = agent.or_else(|| self.state.front().cloned());
        let lives = |agent: &AgentId| self.children.contains_key(agent);
        let Some(agent) = wanted.clone().filter(lives).filter(|_| self.ending.is_none()) else {
            let why = match wanted {
                Some(agent) => format!("has no agent `{agent}` at work"),
                None => "has no agent at work".to_owned(),
            };
            return drop(answer.send(Err(why)));
        };
        let message = question(text.into(), Labels::default(), Origin::Person);
        let cause = self.state.head();
        self.result(&agent, cause, Event::Steered { message });
        self.when_durable(move || drop(answer.send(Ok(()))));
    }
}

/// Who resolves a call where no tool does.
pub(in crate::runtime) const PERSON: &str = "person";

/// Says why a person can't resolve a call, as the rest of a sentence that begins with the run.
pub(in crate::runtime) fn resolvable(state: &RunState, call: &CallId) -> Result<(), String> {
    match state.open_call(call) {
        Some(open) if open.stage == Stage::InDoubt => Ok(()),
        _ => {
            let doubts: Vec<String> = state.in_doubt().map(|(call, _)| format!("`{call}`")).collect();
            match doubts.is_empty() {
                true => Err("has no call in doubt".to_owned()),
                false => Err(format!("has no call `{call}` in doubt; in doubt: {}", doubts.join(", "))),
            }
        }
    }
}
