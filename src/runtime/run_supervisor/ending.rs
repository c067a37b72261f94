//! How a run ends: its calls are stopped, its agents let go, and its end is recorded, once.

use std::time::Duration;

use ractor::ActorRef;

use super::{RunLoop, RunMessage};
use crate::run::{Event, RunEnd, Status, Subject};
use crate::runtime::report::Report;

/// How long calls that are told to stop may take. Stopping means being dropped, so only a call that blocks its thread
/// needs any of it.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(1_000);

impl RunLoop {
    /// Settles how the run ends, and stops its calls. The first end stands.
    pub(super) fn end(&mut self, end: RunEnd) {
        if self.ending.is_some() {
            return;
        }
        if end.status != Status::Done {
            self.record(None, None, Event::CancelRequested { end: end.clone() });
        }
        self.ending = Some(end);
        self.scope.cancelled.cancel();
    }

    /// Ends the run if nothing in it can go on: all it waits for is a person who can't be asked now.
    fn park_if_stuck(&mut self) {
        if self.ending.is_some() || !self.live.is_empty() || !self.all_mail_is_dealt_with() {
            return;
        }
        let asked = |(call, open): (_, &crate::run::OpenCall)| match &open.subject {
            Subject::Tool { tool, .. } => format!("{call} wants `{tool}`"),
            _ => format!("{call}"),
        };
        let questions: Vec<String> = self.state.awaiting_approval().map(asked).collect();
        if questions.is_empty() {
            return;
        }
        self.end(RunEnd::without_answer(
            Status::AwaitingApproval,
            format!("approval is needed, and nobody can be asked here: {}", questions.join("; ")),
        ));
    }

    /// Records the end once all calls have stopped, and reports it.
    pub(super) async fn finish_if_over(&mut self, me: &ActorRef<RunMessage>) {
        self.park_if_stuck();
        let Some(end) = &self.ending else { return };
        if !self.live.is_empty() {
            if self.shutdown_timer.is_none() {
                self.shutdown_timer = Some(me.send_after(SHUTDOWN_TIMEOUT, || RunMessage::ShutdownTimeout));
            }
            return;
        }
        let Some(report) = self.report.take() else { return };
        if let Some(timer) = self.shutdown_timer.take() {
            timer.abort();
        }
        let end = end.clone();
        let (spent, debt) = self.scope.ledger.with(|account| (account.spent(), account.debt()));
        self.forget_all();
        self.tasks.abort_all();
        self.record(None, None, Event::RunEnded { end, spent, debt });
        self.log.close();
        let _ = report.send(Report::new(&self.scope, &self.state, spent, self.started.elapsed(), self.next_seq - 1));
        me.stop(None);
    }

    /// Gives up on calls that do not stop: their tasks are aborted, and the run ends without them.
    pub(super) fn abandon_calls(&mut self) {
        if self.ending.is_none() {
            return;
        }
        for call in self.live.drain() {
            tracing::warn!(%call, "did not stop in time, and is abandoned");
        }
    }
}
