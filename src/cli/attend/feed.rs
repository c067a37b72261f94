//! A run's events from wherever they come, once each and in order.

use std::sync::Arc;

use crate::cli::Error;
use crate::cli::door::Address;
use crate::journal::{self, Log, Reader, Store};
use crate::run::{Envelope, Event, RunId, RunState, Stream, decode};
use crate::runtime::{Follower, Happening, Report, RunHandle, Voice, stream_of};

/// How many events are read at once.
const READ_AT_ONCE: usize = 1_024;

/// What is known of a run so far; readers see it grow. Dropping it tells them that no more will come.
#[derive(Default)]
pub(in crate::cli) struct Feed {
    log: Arc<Log<Envelope>>,
    voice: Arc<Voice>,
    state: RunState,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.log.close();
    }
}

impl Feed {
    /// Starts to read the run's events from the first on.
    pub(in crate::cli) fn reader(&self) -> Reader<Envelope> {
        self.log.reader()
    }

    /// Starts to follow the run: its events from the first on, and what its models say where that can be heard.
    pub(in crate::cli) fn follow(&self) -> Follower {
        self.voice.follow(self.log.reader())
    }

    /// Whether somebody listens to what models say.
    pub(super) fn is_followed(&self) -> bool {
        self.voice.is_followed()
    }

    /// Returns where the run stands.
    pub(in crate::cli) fn state(&self) -> &RunState {
        &self.state
    }

    /// Returns what the run came to, if its last known event is its end.
    pub(in crate::cli) fn ended(&self) -> Option<Report> {
        self.state.end().is_some().then(|| Report::of(&self.state))
    }

    /// Tells the readers that no more will come.
    pub(in crate::cli) fn close(&self) {
        self.log.close();
    }

    fn take(&mut self, envelope: Arc<Envelope>) {
        // What came from the store before comes again from the process that takes the run over.
        if envelope.seq > self.state.head() {
            self.state.evolve(&envelope);
            self.log.append(envelope);
        }
    }

    /// Takes what happens in a run of this process, to its end. What its models say is passed on if somebody follows.
    pub(super) fn forward(&mut self, run: &RunHandle) -> impl Future<Output = ()> + use<'_> {
        let (mut events, mut follower) = (run.events(), self.voice.is_followed().then(|| run.follow()));
        async move {
            loop {
                let happening = match &mut follower {
                    Some(follower) => follower.next().await,
                    None => events.next().await.map(Happening::Event),
                };
                match happening {
                    Some(Happening::Event(envelope)) => self.take(envelope),
                    Some(Happening::Tokens(tokens)) => self.voice.pass_on(&tokens),
                    Some(Happening::Missed(count)) => self.voice.pass_on_missed(count),
                    None => return,
                }
            }
        }
    }

    /// Reads what the store has more; returns whether it has the run at all.
    pub(in crate::cli) fn read(&mut self, store: &Store, run: &RunId) -> Result<bool, Error> {
        let name = stream_of(run);
        loop {
            let records = match store.read(&name, self.state.head(), READ_AT_ONCE) {
                Err(journal::Error::NoSuchStream { .. }) => return Ok(false),
                records => records?,
            };
            for record in &records {
                let known = self.state.beginning().map(|beginning| beginning.stream.clone());
                let unknown = || Arc::new(Stream { run: run.clone(), tenant: "".into(), session: None });
                let mut envelope = decode(record, &known.unwrap_or_else(unknown))?;
                if let Event::RunStarted { tenant, session, .. } = &envelope.event {
                    let (tenant, session) = (tenant.clone(), session.clone());
                    envelope.stream = Arc::new(Stream { run: run.clone(), tenant, session });
                }
                self.take(Arc::new(envelope));
            }
            if records.len() < READ_AT_ONCE {
                return Ok(true);
            }
        }
    }

    /// Reads what the store has more, if there is a store; returns whether it has the run.
    pub(in crate::cli) fn catch_up(&mut self, address: &Address, run: &RunId) -> Result<bool, Error> {
        match address.store()? {
            Some(store) => self.read(&store, run),
            None => Ok(false),
        }
    }
}
