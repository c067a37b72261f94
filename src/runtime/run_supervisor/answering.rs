//! What a person answers: written down once, and told to the agent when that is on disk.

use ractor::ActorRef;
use tokio::sync::oneshot;

use super::{RunLoop, RunMessage};
use crate::fault::{self, Bug};
use crate::run::{CallId, Event, NoAnswer, Stage};

impl RunLoop {
    /// A person answers a question. Where the run is ending nobody is told anything: whoever asks then finds the run at rest.
    pub(super) fn answer(
        &mut self,
        call: Option<&CallId>,
        text: &str,
        answer: oneshot::Sender<Result<CallId, NoAnswer>>,
        me: &ActorRef<RunMessage>,
    ) {
        if self.ending.is_some() {
            return;
        }
        let (call, text) = match self.state.answerable(call, text) {
            Err(why) => return drop(answer.send(Err(why))),
            Ok(answered) => answered,
        };
        self.record(Some(&call.agent), None, Event::InputGiven { call: call.clone(), text: text.into() });
        // Who is still being asked need not answer any more.
        if let Some(live) = self.live.remove(&call) {
            live.abort.abort();
        }
        self.hear_when_written(&call, me);
        self.when_durable(move || drop(answer.send(Ok(call))));
    }

    /// Lets the agent hear an answer as soon as that is on disk.
    pub(super) fn hear_when_written(&mut self, call: &CallId, me: &ActorRef<RunMessage>) {
        let (call, me) = (call.clone(), me.clone());
        let written = move || drop(me.cast(RunMessage::AnswerWritten { call }));
        match fault::is_planted(Bug::AnswerNotDurable) {
            true => written(),
            false => self.when_durable(written),
        }
    }

    /// An answer is on disk.
    pub(super) fn answer_written(&mut self, call: &CallId) {
        let Some(open) = self.state.open_call(call) else { return };
        if !matches!(open.stage, Stage::Answered { .. }) {
            return;
        }
        fault::point("answer.written");
        if let Some(result) = open.known_result(call, self.scope.fleet.network.spec()) {
            self.result(&call.agent.clone(), self.state.head(), result);
        }
    }
}
