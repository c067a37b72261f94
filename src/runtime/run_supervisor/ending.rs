//! How a run ends: its calls are stopped, its agents let go, and its end is recorded, once.

use std::time::Duration;

use ractor::ActorRef;

use super::{RunLoop, RunMessage, Unwritten};
use crate::budget::Entry;
use crate::fault::{self, Bug};
use crate::journal::Mark;
use crate::run::{Event, RunEnd, Status, Wait};
use crate::runtime::Error;
use crate::runtime::report::Report;

/// How long calls that are aborted may take to be gone. That means being dropped, so only a call that blocks its thread
/// needs any of it.
const ABORT_TIMEOUT: Duration = Duration::from_millis(500);

impl RunLoop {
    /// Settles how the run ends, and tells its calls to stop. The first end stands.
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
        // What waits for a person who raises a limit, or says whether it may happen, holds nothing, and can wait without a
        // process.
        let waits = |call| self.state.waits_for(call) == Some(Wait::TopUp) || self.waiting.is_unattended(call);
        if self.ending.is_some() || !self.live.keys().all(waits) || !self.all_mail_is_dealt_with() {
            return;
        }
        // A join that waits no longer than until some time goes on then, whoever is asked beside it.
        if !self.state.join_deadlines(&self.scope.fleet.flow).is_empty() {
            return;
        }
        if let Some(end) = self.state.parked() {
            self.end(end);
        }
    }

    /// Gives the run up without an end: what happens can't be written down any more, so nothing more may happen, and no
    /// call has the time to stop by itself.
    pub(super) fn break_off(&mut self, error: Error) {
        if self.broken.is_none() {
            self.broken = Some(error);
            self.unwritten = Unwritten::default();
            self.ending = Some(RunEnd::without_answer(Status::Interrupted, "the store failed"));
            self.scope.cancelled.cancel();
            self.tasks.abort_all();
        }
    }

    /// Records the end once all calls have stopped; it is reported when it is durable.
    pub(super) async fn finish_if_over(&mut self, me: &ActorRef<RunMessage>) {
        self.park_if_stuck();
        let Some(end) = &self.ending else { return };
        if !self.live.is_empty() {
            if self.shutdown_timer.is_none() {
                let shutdown = self.scope.fleet.network.spec().supervision.shutdown;
                self.shutdown_timer = Some(me.send_after(shutdown.0, || RunMessage::ShutdownTimeout));
            }
            return;
        }
        if let Some(timer) = self.shutdown_timer.take() {
            timer.abort();
        }
        if self.broken.is_none() && !self.is_over {
            self.is_over = true;
            let end = end.clone();
            self.forget_all();
            self.tasks.abort_all();
            self.record_end(end, me);
            self.write(me);
            self.log.close();
        }
        if let Some(error) = self.broken.take() {
            self.forget_all();
            self.tasks.abort_all();
            self.log.close();
            self.report(Err(error), me);
        }
    }

    /// Records the run's end. Until that is durable the run is under way: whoever looked into the store would not find
    /// the end there, and take the run up once more.
    fn record_end(&mut self, end: RunEnd, me: &ActorRef<RunMessage>) {
        for event in self.state.abandoned(&end) {
            let agent = event.call().map(|call| call.agent.clone());
            self.record(agent.as_ref(), None, event);
        }
        let (status, is_parked) = (end.status, end.status.is_parked());
        let (spent, debt) = (self.state.spent(), self.scope.funds.debt());
        self.record(None, None, Event::RunEnded { end, spent, debt });
        self.unwritten.entries.push(Entry::Closed { run: self.scope.stream.run.clone(), is_parked });
        let has_store = self.scope.recorder.has_store();
        let summary = has_store.then(|| serde_json::to_vec(&Report::of(&self.state)).ok()).flatten();
        self.unwritten.mark = Some(Mark { state: status.word().into(), closed: !is_parked, summary });
        let me = me.clone();
        let written = move || drop(me.cast(RunMessage::EndWritten));
        match fault::is_planted(Bug::EndToldBeforeDurable) {
            true => written(),
            false => self.when_durable(written),
        }
    }

    /// The run's end is durable.
    pub(super) fn end_written(&mut self, me: &ActorRef<RunMessage>) {
        let report = Report::of(&self.state);
        self.report(Ok(report), me);
    }

    fn report(&mut self, reported: Result<Report, Error>, me: &ActorRef<RunMessage>) {
        // Whoever hears of the end may take the run up again at once.
        self.claim = None;
        self.scope.recorder.mailboxes.withdraw(&self.scope.stream.run);
        self.report.send(reported);
        me.stop(None);
    }

    /// Aborts the calls that have not stopped by themselves: they are dropped, and what they have started is killed.
    pub(super) fn abort_calls(&mut self, me: &ActorRef<RunMessage>) {
        self.tasks.abort_all();
        self.shutdown_timer = Some(me.send_after(ABORT_TIMEOUT, || RunMessage::AbortTimeout));
    }

    /// Gives up on calls that block their threads: the run ends without them.
    pub(super) fn abandon_calls(&mut self) {
        for (call, _) in self.live.drain() {
            tracing::warn!(%call, "did not stop in time, and is abandoned");
        }
    }
}
