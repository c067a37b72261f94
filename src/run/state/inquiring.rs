//! What a run knows of the questions to a person.

use super::{CallId, Envelope, OpenCall, RunState, Stage, Subject};
use crate::budget::Amount;
use crate::spec::Effect;

impl RunState {
    /// A person is asked: the question is the call's only try.
    pub(super) fn ask_person(&mut self, call: &CallId, subject: &Subject, envelope: &Envelope) {
        let before = self.open.get(call);
        let asked = OpenCall {
            subject: subject.clone(),
            attempt: 1,
            effect: Some(Effect::Pure),
            held: Amount::default(),
            labels: envelope.labels.clone(),
            stage: Stage::AwaitingInput,
            begun_in: before.and_then(|open| open.begun_in.clone()),
            first_intended_ms: before.and_then(|open| open.first_intended_ms).or(Some(envelope.time_ms)),
            approval: before.and_then(|open| open.approval.clone()),
        };
        self.open.insert(call.clone(), asked);
    }

    /// Whether a person has answered what the call asked.
    pub fn was_answered(&self, call: &CallId) -> bool {
        self.answered.contains(call)
    }

    /// Returns the call that was answered last.
    pub fn last_answered(&self) -> Option<&CallId> {
        self.answered.last()
    }
}
