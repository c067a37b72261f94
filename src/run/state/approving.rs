//! What a run knows of its approvals.

use std::sync::Arc;

use serde_json::Value;

use super::{OpenCall, RunState, Stage};
use crate::run::{Approval, ApprovalRequest, CallId, Envelope, Ruled, Standing, Subject, Verdict};

impl RunState {
    /// Returns how a call's approval was settled last.
    pub fn ruled(&self, call: &CallId) -> Option<&Ruled> {
        self.ruled.get(call)
    }

    /// Returns the call whose approval was settled last.
    pub fn last_ruled(&self) -> Option<(&CallId, &Ruled)> {
        self.ruled.last()
    }

    /// Returns the patterns of calls that a person has approved of.
    pub fn standing(&self) -> &[Arc<Standing>] {
        &self.standing
    }

    /// Returns the names of what a person has approved of, in order.
    pub fn approved(&self) -> &Arc<[Arc<str>]> {
        &self.approved
    }

    /// A person is asked. What is known of a call that was begun stays known.
    pub(super) fn ask_approval(
        &mut self,
        call: &CallId,
        subject: &Subject,
        request: Option<&Arc<ApprovalRequest>>,
        envelope: &Envelope,
    ) {
        let new = || OpenCall::new(subject.clone(), envelope.labels.clone(), Stage::AwaitingApproval);
        let open = self.open.entry(call.clone()).or_insert_with(new);
        (open.subject, open.stage) = (subject.clone(), Stage::AwaitingApproval);
        let since_ms = envelope.time_ms;
        // What a person made of it stays so, whoever is asked about that now.
        let edited = open.approval.as_ref().and_then(|approval| approval.edited.clone());
        let is_as_edited =
            |edited: &Arc<Value>| matches!(subject, Subject::Tool { arguments, .. } if *arguments == **edited);
        let edited = edited.filter(is_as_edited);
        let asked = |request: &Arc<ApprovalRequest>| {
            Arc::new(Approval {
                request: request.clone(),
                since_ms,
                votes: Vec::new(),
                edited: edited.clone(),
                is_told: false,
                reason: None,
            })
        };
        open.approval = request.map(asked);
        self.queued.remove(call);
    }

    pub(super) fn tell_approvers(&mut self, call: &CallId) {
        let approval = self.open.get_mut(call).and_then(|open| open.approval.as_mut());
        approval.into_iter().for_each(|approval| Arc::make_mut(approval).is_told = true);
    }

    pub(super) fn vote(&mut self, call: &CallId, by: &Arc<str>) {
        let approval = self.open.get_mut(call).and_then(|open| open.approval.as_mut());
        approval.into_iter().for_each(|approval| Arc::make_mut(approval).votes.push(by.clone()));
    }

    pub(super) fn rule(&mut self, call: &CallId, granted: bool, verdict: &Verdict) {
        // Where it was settled before, it is the last one now.
        self.ruled.shift_remove(call);
        self.ruled.insert(call.clone(), Ruled { granted, by: verdict.by.clone() });
        self.standing.extend(verdict.standing.clone());
        let Some(open) = self.open.get_mut(call) else { return };
        open.stage = Stage::Decided { granted };
        if let Some(approval) = &mut open.approval {
            let approval = Arc::make_mut(approval);
            (approval.votes, approval.reason) = (verdict.by.clone(), verdict.reason.clone());
            approval.edited = verdict.arguments.clone().or(approval.edited.take());
        }
        if let (Some(edited), Subject::Tool { arguments, .. }) = (&verdict.arguments, &mut open.subject) {
            *arguments = (**edited).clone();
        }
    }

    /// A call is about to be made. Where a person approved of it, that is known from here on.
    pub(super) fn note_approved(&mut self, call: &CallId, subject: &Subject) {
        let stage = self.open.get(call).map(|open| &open.stage);
        if !matches!(stage, Some(Stage::Decided { granted: true })) {
            return;
        }
        let name = subject.approved_as();
        if !self.approved.iter().any(|known| **known == *name) {
            let mut approved: Vec<Arc<str>> = self.approved.to_vec();
            approved.push(name.into());
            approved.sort();
            self.approved = approved.into();
        }
    }
}
