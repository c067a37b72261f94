//! Dead letters: which there are, what became of them, and giving one to its agent once more.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::recorder::{Beside, malformed, read_all};
use super::{Error, Past, Recorder, RunHandle, Runtime, VERSION};
use crate::journal::{self, Record, Store, StreamName};
use crate::run::{Beginning, CallId, Event, LetterId, Message, PutBack, RunId, StoredError, Stream};

/// The stream of what became of dead letters.
const STREAM: &str = "dead-letters";

/// The version of the form in which it is stored.
const STREAM_VERSION: u16 = 1;

/// A message that was given up.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    /// Which.
    pub id: LetterId,
    /// When it was given up, in milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// The call that asked; none if it was the run's input.
    pub call: Option<CallId>,
    /// The name of the agent that it was for.
    pub to: Arc<str>,
    /// The message.
    pub message: Arc<Message>,
    /// How often it had been given to the agent.
    pub deliveries: u32,
    /// Why it was given up.
    pub reason: String,
}

/// What became of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settlement {
    /// It was given to its agent once more.
    PutBack {
        /// The run that began with it.
        into: RunId,
    },
    /// Nobody wants it any more.
    Dropped {
        /// Why, in a person's words, if they were given.
        reason: Option<String>,
    },
}

/// A dead letter that is settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// Which.
    pub letter: LetterId,
    /// What became of it.
    pub how: Settlement,
    /// When, in milliseconds since 1970 (UTC).
    #[serde(skip)]
    pub time_ms: u64,
}

impl fmt::Display for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LetterId { run, event } = &self.letter;
        match &self.how {
            Settlement::PutBack { into } => {
                write!(f, "the dead letter of event {event} of run {run} was put back before: it is in run {into}")
            }
            Settlement::Dropped { .. } => write!(f, "the dead letter of event {event} of run {run} was dropped before"),
        }
    }
}

impl Settled {
    pub(super) fn put_back(letter: LetterId, into: RunId) -> Self {
        Self { letter, how: Settlement::PutBack { into }, time_ms: 0 }
    }

    /// Names the stream in which it is written down.
    pub(super) fn stream() -> StreamName {
        StreamName::new(STREAM)
    }

    /// Writes it down as the stream's event `seq`.
    pub(super) fn record(&self, seq: u64, time_ms: u64) -> Record {
        let kind = match self.how {
            Settlement::PutBack { .. } => "put_back",
            Settlement::Dropped { .. } => "dropped",
        };
        Record {
            seq,
            time_ms,
            agent: None,
            incarnation: 0,
            cause: None,
            labels: Vec::new(),
            kind: kind.into(),
            version: STREAM_VERSION,
            payload: rmp_serde::to_vec_named(self).unwrap_or_default(),
        }
    }

    fn read(record: &Record) -> Result<Self, Error> {
        if record.version > STREAM_VERSION {
            let kind = record.kind.clone().into_owned();
            return Err(StoredError::Newer { seq: record.seq, kind, found: record.version }.into());
        }
        let settled: Self = rmp_serde::from_slice(&record.payload)
            .map_err(|error| malformed(record.seq, &format!("{STREAM}: {}", record.kind), &error))?;
        Ok(Self { time_ms: record.time_ms, ..settled })
    }
}

/// Reads which dead letters of a store are settled.
///
/// # Errors
/// That can't be read.
pub fn read_settled(store: &Store) -> Result<BTreeMap<LetterId, Settled>, Error> {
    let records = match read_all(store, &Settled::stream(), 0) {
        Err(journal::Error::NoSuchStream { .. }) => return Ok(BTreeMap::new()),
        records => records?,
    };
    let settled = records.iter().map(|record| Settled::read(record).map(|settled| (settled.letter.clone(), settled)));
    settled.collect()
}

impl Past {
    /// Returns the run's dead letters, settled or not, in the order in which they were given up. Those that it only has
    /// because it was forked are the other run's. The past must be whole.
    pub fn letters(&self) -> impl Iterator<Item = Letter> {
        let copied = self.copied();
        self.events.iter().filter(move |envelope| envelope.seq > copied).filter_map(|envelope| {
            let Event::DeadLettered { call, to, message, deliveries, reason } = &envelope.event else { return None };
            Some(Letter {
                id: LetterId { run: envelope.stream.run.clone(), event: envelope.seq },
                time_ms: envelope.time_ms,
                call: call.clone(),
                to: to.clone(),
                message: message.clone(),
                deliveries: *deliveries,
                reason: reason.clone(),
            })
        })
    }

    /// Returns the dead letter of an event. The past must be whole.
    ///
    /// # Errors
    /// The event is none of the run's own, or no dead letter.
    pub fn letter(&self, event: u64) -> Result<Letter, Error> {
        if let Some(letter) = self.letters().find(|letter| letter.id.event == event) {
            return Ok(letter);
        }
        let run = self.state.beginning().map_or_else(|| RunId::new(""), |beginning| beginning.stream.run.clone());
        let why = match self.state.forked_from() {
            _ if !(1..=self.state.head()).contains(&event) => format!("has no event {event}"),
            Some(lineage) if event <= lineage.at => format!("has event {event} from run {}, whose it is", lineage.run),
            _ => format!("has no dead letter at event {event}"),
        };
        Err(Error::NoLetter { run, why })
    }

    /// Returns the number of the last event that is a copy of another run's; 0 if there is none.
    fn copied(&self) -> u64 {
        self.state.forked_from().map_or(0, |lineage| lineage.at)
    }
}

impl Recorder {
    /// Returns a dead letter that is not settled, with the past of its run.
    ///
    /// # Errors
    /// There is no such letter, it is settled, or the store can't be read.
    pub(super) fn open_letter(&self, id: &LetterId) -> Result<(Letter, Past), Error> {
        let past = self.whole_past(&id.run)?;
        let letter = past.letter(id.event)?;
        match self.with_store(read_settled)?.remove(id) {
            Some(settled) => Err(Error::Settled(Box::new(settled))),
            None => Ok((letter, past)),
        }
    }

    /// Writes down what became of a dead letter, and waits until that is durable.
    ///
    /// # Errors
    /// The store can't be written.
    pub(super) async fn settle(&self, settled: Settled) -> Result<(), Error> {
        let (told, durable) = oneshot::channel();
        let beside = Beside { settled: Some(settled), ..Beside::default() };
        self.append(None, beside, Some(Box::new(move |result| drop(told.send(result)))))?;
        Ok(durable.await.map_err(|_| Error::Stopped)??)
    }
}

impl Runtime {
    /// Starts a run that begins with a dead letter: the agent that this was for gets the message once more, with the
    /// labels that it had. Whose the run is, its priority, its variables, its directory and what templates see as its input
    /// are those of `of`, the letter's run; its limits are its own. When this returns, the run is in the store and the letter is settled,
    /// written together: no crash leaves one without the other.
    pub(super) async fn put_back(
        &self,
        letter: Letter,
        of: Beginning,
        run: RunId,
        is_attended: bool,
    ) -> Result<RunHandle, Error> {
        let network = self.fleet.network.spec();
        if !network.agents.contains_key(&*letter.to) {
            let lacks = vec![format!("it has no agent `{}`, which the letter is for", letter.to)];
            return Err(Error::Misfit { network: network.network.name.clone(), run: letter.id.run, lacks });
        }
        let put_back = PutBack { letter: letter.id, to: letter.to, message: letter.message };
        let beginning = Beginning {
            stream: Arc::new(Stream { run, tenant: of.stream.tenant.clone(), session: of.stream.session.clone() }),
            name: network.network.name.as_str().into(),
            network: self.fleet.text.clone(),
            version: VERSION.into(),
            put_back: Some(Arc::new(put_back)),
            ..of
        };
        self.begin(beginning, is_attended).await
    }
}
