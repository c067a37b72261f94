//! What people say of calls that await approval: counted here, once, whoever says it and from wherever.

use std::collections::BTreeMap;
use std::time::Duration;

use ractor::ActorRef;
use serde_json::Value;
use tokio::sync::oneshot;

use super::{RunLoop, RunMessage};
use crate::fault::{self, Bug};
use crate::run::{
    Ballot, CallId, Counted, Definition, Event, NotApproved, OpenCall, RunState, Stage, Subject, TargetKind, Verdict,
};
use crate::runtime::definitions::Definitions;
use crate::runtime::gate::Known;

/// What became of what a person said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approved {
    /// The call.
    pub call: CallId,
    /// How many more people have to say yes; none once it is settled.
    pub missing: u32,
}

/// The calls that wait here for people.
#[derive(Default)]
pub(super) struct Waiting {
    told: BTreeMap<CallId, Waiter>,
}

struct Waiter {
    told: oneshot::Sender<Known>,
    /// Whether somebody is being asked or told in this process.
    is_attended: bool,
}

impl Waiting {
    /// Whether a call waits for people who are not here.
    pub(super) fn is_unattended(&self, call: &CallId) -> bool {
        self.told.get(call).is_some_and(|waiter| !waiter.is_attended)
    }

    pub(super) fn unattended(&mut self, call: &CallId) {
        self.told.get_mut(call).into_iter().for_each(|waiter| waiter.is_attended = false);
    }
}

impl RunLoop {
    /// A call waits at the gate until it is settled whether it may happen.
    pub(super) fn await_approval(&mut self, call: CallId, told: oneshot::Sender<Known>, me: &ActorRef<RunMessage>) {
        let Some(open) = self.state.open_call(&call) else { return };
        if open.stage != Stage::AwaitingApproval {
            // Somebody was faster.
            return told.send(known(open)).unwrap_or_default();
        }
        let expires_ms = open.approval.as_ref().and_then(|approval| approval.request.expires_ms);
        self.waiting.told.retain(|_, waiter| !waiter.told.is_closed());
        self.waiting.told.insert(call.clone(), Waiter { told, is_attended: true });
        // Its time may have been over when the run was taken up.
        self.approval_due(&call);
        if let Some(expires_ms) = expires_ms {
            let left = Duration::from_millis(expires_ms.saturating_sub(self.scope.recorder.now_ms()));
            drop(me.send_after(left, move || RunMessage::ApprovalDue { call }));
        }
    }

    /// A person says of a call whether it may happen. Where the run is ending nobody is told anything: whoever asks then finds
    /// the run at rest.
    pub(super) fn approve(
        &mut self,
        call: Option<&CallId>,
        ballot: &Ballot,
        answer: oneshot::Sender<Result<Approved, NotApproved>>,
    ) {
        if self.ending.is_some() {
            return;
        }
        let now_ms = self.scope.recorder.now_ms();
        let takes = |call: &CallId, given: &Value| takes(&self.scope.definitions, &self.state, call, given);
        match self.state.count_ballot(call, ballot, now_ms, takes) {
            Err(why) => drop(answer.send(Err(why))),
            Ok((call, counted)) => {
                let missing = self.counted(&call, ballot, counted);
                self.when_durable(move || drop(answer.send(Ok(Approved { call, missing }))));
            }
        }
    }

    fn counted(&mut self, call: &CallId, ballot: &Ballot, counted: Counted) -> u32 {
        match counted {
            Counted::Voted { missing } => {
                let voted = Event::ApprovalVoted { call: call.clone(), by: ballot.by.clone() };
                self.record(Some(&call.agent), None, voted);
                missing
            }
            Counted::Decided { granted, verdict } => {
                self.rule(call, granted, verdict);
                0
            }
        }
    }

    /// Nobody has answered in time, if that is so.
    pub(super) fn approval_due(&mut self, call: &CallId) {
        if self.ending.is_some() {
            return;
        }
        if let Some(verdict) = self.state.expired(call, self.scope.recorder.now_ms()) {
            self.rule(call, false, verdict);
        }
    }

    /// Settles whether a call may happen, and lets it go on; and others that a pattern covers which was approved with it.
    fn rule(&mut self, call: &CallId, granted: bool, verdict: Verdict) {
        let (standing, by) = (verdict.standing.clone(), verdict.by.clone());
        let decided = Event::ApprovalDecided { call: call.clone(), granted, verdict };
        self.record(Some(&call.agent), None, decided);
        self.let_go_on(call);
        let Some(standing) = standing else { return };
        let now_ms = self.scope.recorder.now_ms();
        let is_covered = |(call, open): &(&CallId, &OpenCall)| {
            let name = self.state.agents().get(&call.agent).map(|instance| instance.name.clone()).unwrap_or_default();
            open.approval.as_ref().is_some_and(|approval| {
                let request = &approval.request;
                standing.covers(
                    &name,
                    request.seen(&open.subject),
                    &open.labels,
                    &request.binding,
                    &request.policies,
                    now_ms,
                )
            })
        };
        let covered: Vec<CallId> =
            self.state.awaiting_approval().filter(is_covered).map(|(call, _)| call.clone()).collect();
        for call in covered {
            let verdict = Verdict { by: by.clone(), ..Verdict::default() };
            self.record(Some(&call.agent), None, Event::ApprovalDecided { call: call.clone(), granted: true, verdict });
            self.let_go_on(&call);
        }
    }

    fn let_go_on(&mut self, call: &CallId) {
        let waiter = self.waiting.told.remove(call);
        if let (Some(waiter), Some(open)) = (waiter, self.state.open_call(call)) {
            let _ = waiter.told.send(known(open));
        }
    }

    /// Counts what people said while the run was at rest.
    pub(super) fn take_up_ballots(&mut self, ballots: Vec<(CallId, Ballot)>) {
        for (call, ballot) in ballots {
            let now_ms = self.scope.recorder.now_ms();
            let takes = |call: &CallId, given: &Value| takes(&self.scope.definitions, &self.state, call, given);
            match self.state.count_ballot(Some(&call), &ballot, now_ms, takes) {
                Ok((call, counted)) => drop(self.counted(&call, &ballot, counted)),
                Err(why) => tracing::warn!(run = %self.scope.stream.run, %call, "the run {why}"),
            }
        }
    }
}

/// Says what is known of a call that was asked about.
pub(super) fn known(open: &OpenCall) -> Known {
    let approval = open.approval.clone();
    match open.stage {
        Stage::AwaitingApproval => Known::Asked(approval),
        Stage::Decided { granted } => {
            Known::Decided { granted: granted || fault::is_planted(Bug::RefusalForgotten), approval }
        }
        _ => Known::Passed(approval),
    }
}

/// Says what is wrong with arguments that a person gives a call.
pub(in crate::runtime) fn takes(
    definitions: &Definitions,
    state: &RunState,
    call: &CallId,
    given: &Value,
) -> Result<(), String> {
    let Some(Subject::Tool { tool, .. }) = state.open_call(call).map(|open| &open.subject) else {
        return Err("only the arguments of a tool can be changed".to_owned());
    };
    let name = state.agents().get(&call.agent).map(|instance| instance.name.clone()).unwrap_or_default();
    let definition: Option<&std::sync::Arc<Definition>> = definitions.get(&name);
    let mut targets = definition.into_iter().flat_map(|definition| definition.targets.values());
    let target = targets.find(|target| matches!(&target.kind, TargetKind::Tool(of) if of == tool));
    match target {
        _ if !given.is_object() => Err("the arguments must be a JSON object".to_owned()),
        None => Err(format!("`{tool}` is no tool of the agent")),
        Some(target) => match target.objection(given) {
            Some(wrong) => Err(format!("`{tool}` does not take them: {wrong}")),
            None => Ok(()),
        },
    }
}
