//! What is recorded of a run that no process has under way.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::recorder::{Beside, Claim, entry_of};
use super::report::Report;
use super::{Error, Past, Recorder, stream_of};
use crate::budget::{Amount, Entry};
use crate::journal::{Mark, Part, Record};
use crate::run::{AgentId, Envelope, Event, RunEnd, RunId, RunState, Stream, encode};

/// A run that is not under way, and what is to be added to its events.
pub(super) struct Offline<'a> {
    recorder: &'a Recorder,
    /// Nobody else adds events to the run while this lives.
    _claim: Claim,
    state: RunState,
    stream: Option<Arc<Stream>>,
    records: Vec<Record>,
    entries: Vec<Entry>,
}

impl<'a> Offline<'a> {
    /// Takes a run in hand.
    ///
    /// # Errors
    /// Somebody else has it, or it has gone on since its past was read.
    pub(super) fn new(recorder: &'a Recorder, run: &RunId, past: Past) -> Result<Self, Error> {
        let claim = recorder.claim(run, past.state.head())?;
        let stream = past.state.beginning().map(|beginning| beginning.stream.clone());
        let (records, entries) = (Vec::new(), Vec::new());
        Ok(Self { recorder, _claim: claim, state: past.state, stream, records, entries })
    }

    /// Adds an event.
    pub(super) fn record(&mut self, agent: Option<&AgentId>, event: Event) {
        if self.records.is_empty() {
            self.add(None, Event::AtRest);
        }
        self.add(agent, event);
    }

    fn add(&mut self, agent: Option<&AgentId>, event: Event) {
        let Some(stream) = self.stream.clone() else { return };
        let incarnation = agent.and_then(|id| self.state.agents().get(id)).map_or(0, |instance| instance.incarnation);
        let envelope = Envelope {
            stream,
            seq: self.state.head() + 1,
            time_ms: self.recorder.now_ms(),
            agent: agent.cloned(),
            incarnation,
            cause: None,
            labels: Default::default(),
            event,
        };
        self.entries.extend(entry_of(&self.state, &envelope, || Amount::MAX));
        self.state.evolve(&envelope);
        self.records.push(encode(&envelope));
    }

    /// Ends the run, and waits until that is durable.
    pub(super) async fn end(mut self, end: RunEnd) -> Result<(), Error> {
        let Some(stream) = self.stream.clone() else { return Ok(()) };
        let (run, tenant) = (stream.run.clone(), stream.tenant.clone());
        self.entries.push(Entry::Opened { run: run.clone(), tenant, accounts: Vec::new() });
        self.record(None, Event::CancelRequested { end: end.clone() });
        for event in self.state.abandoned(&end) {
            let agent = event.call().map(|call| call.agent.clone());
            self.record(agent.as_ref(), event);
        }
        let spent = self.state.spent();
        let debt = self.recorder.ledger().open.get(&run).map(|balance| balance.debt).unwrap_or_default();
        self.record(None, Event::RunEnded { end, spent, debt });
        self.entries.push(Entry::Closed { run, is_parked: false });
        self.write().await
    }

    /// Writes down what was added, and waits until it is durable.
    pub(super) async fn write(self) -> Result<(), Error> {
        let Some(stream) = &self.stream else { return Ok(()) };
        let report = Report::of(&self.state).without_process();
        let mark = Mark {
            state: report.status.word().into(),
            closed: !report.status.can_go_on(),
            summary: serde_json::to_vec(&report).ok(),
        };
        let part = Part { stream: stream_of(&stream.run), records: self.records, mark: Some(mark), snapshot: None };
        let (told, durable) = oneshot::channel();
        let beside = Beside { entries: self.entries, ..Beside::default() };
        self.recorder.append(Some(part), beside, Some(Box::new(move |result| drop(told.send(result)))))?;
        Ok(durable.await.map_err(|_| Error::Stopped)??)
    }
}
