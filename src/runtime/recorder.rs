//! Where what happens is written down: the runs' events, and in the same transaction the ledger's entries that follow
//! from them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use dashmap::{DashMap, DashSet};
use tokio::sync::oneshot;

use super::Error;
use super::clock::Clock;
use super::kept::{self, Exchange};
use super::letters::Settled;
use super::mailboxes::Mailboxes;
use super::purse::SharedAccount;
use super::traffic::{Queue, Traffic};
use crate::budget::{Account, AccountName, Amount, Entry, Ledger, Today};
use crate::fault::{self, Bug};
use crate::journal::{self, Batch, Connect, Durable, Inline, Journal, Log, Part, Record, Snapshot, Store, StreamName};
use crate::memory::Shelf;
use crate::run::{AgentId, AgentState, CallId, Envelope, Event, Fold, Message, RunId, RunState, StoredError, rejected};

/// The ledger's stream.
const LEDGER: &str = "ledger";

/// The version of the form in which the ledger's entries and snapshots are stored.
const LEDGER_VERSION: u16 = 2;

/// After how many entries the ledger gets a new snapshot, at the least; with many open accounts it is more, so that
/// snapshots stay a small part of what is written.
const ENTRIES_PER_SNAPSHOT: u64 = 4_096;

/// After how many events a run gets a new snapshot, at the least: folding fewer takes no time.
const EVENTS_PER_SNAPSHOT: u64 = 512;

/// How many accounts are kept in mind, at the least, before those are let go of that nobody spends from.
const ACCOUNTS: usize = 4_096;

/// How many streams' heads are kept before those are let go of that are on disk.
const HEADS: usize = 4_096;

/// How many records are read at once.
const READ_AT_ONCE: usize = 4_096;

/// What the runs of a process are written down by. Without a store it keeps the ledger alone, and what happens lives
/// as long as the process.
pub struct Recorder {
    journal: Option<Journal>,
    clock: Clock,
    events_per_snapshot: u64,
    books: Mutex<Books>,
    /// For reading what was written before; one reader at a time is enough.
    past: Mutex<Option<Store>>,
    /// The runs that somebody in this process may add events to.
    claims: Arc<DashSet<RunId>>,
    pub(super) mailboxes: Mailboxes,
    /// The accounts that runs of this process spend from, as long as one does.
    accounts: DashMap<AccountName, Weak<SharedAccount>>,
    /// Who may go, of all runs of the process.
    pub(super) traffic: Arc<Traffic>,
    shelf: Arc<Shelf>,
}

/// The right to add events to a run: nobody else in this process has it. Given back when dropped.
pub(super) struct Claim {
    run: RunId,
    claims: Arc<DashSet<RunId>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.remove(&self.run);
    }
}

#[derive(Default)]
struct Books {
    ledger: Ledger,
    /// Up to which entry there is a snapshot.
    snapshot: u64,
    /// What instances keep from run to run, where there is no store.
    kept: HashMap<StreamName, Vec<Exchange>>,
    /// The numbers of the last records of streams beside the runs and the ledger; those that are not on disk yet are among
    /// them.
    heads: HashMap<StreamName, u64>,
}

/// What is written down with what happened to a run, or by itself.
#[derive(Default)]
pub(super) struct Beside {
    /// What follows for the ledger.
    pub(super) entries: Vec<Entry>,
    /// What instances keep from run to run.
    pub(super) kept: Vec<(StreamName, Exchange)>,
    /// A dead letter that is settled.
    pub(super) settled: Option<Settled>,
}

/// A run's past, as it was written down.
pub struct Past {
    /// The run as a whole.
    pub state: RunState,
    /// The agent instances that have not ended.
    pub agents: BTreeMap<AgentId, AgentState>,
    /// Its events; all of them, or those after its last snapshot.
    pub events: Vec<Arc<Envelope>>,
}

impl Recorder {
    /// Makes a recorder that keeps nothing: runs end with the process.
    pub fn in_memory() -> Self {
        Self::of(None, None, Ledger::default())
    }

    /// Opens the store of a data directory, which this process then holds, and folds its ledger. Signed checkpoints are kept
    /// of it, and sent to its anchor where that is a file: [`Journal::keep_checkpoints`].
    ///
    /// # Errors
    /// As for [`Journal::open`]; or the ledger can't be read.
    pub fn open(directory: &Path, take_over: bool) -> Result<Self, Error> {
        Self::open_anchored(directory, take_over, None)
    }

    /// Opens the store as [`Recorder::open`] does, with a way to an anchor that is spoken to over HTTP.
    ///
    /// # Errors
    /// As for [`Recorder::open`].
    pub fn open_anchored(directory: &Path, take_over: bool, http: Option<Connect>) -> Result<Self, Error> {
        let journal = Journal::open(directory, take_over)?;
        if let Err(error) = journal.keep_checkpoints(http) {
            // What shows that the store was changed is no reason to stop the runs in it.
            tracing::warn!("no checkpoints are kept: {error}");
        }
        let store = journal.store()?;
        let ledger = read_ledger(&store)?;
        Ok(Self { shelf: Arc::new(Shelf::at(directory)), ..Self::of(Some(journal), Some(store), ledger) })
    }

    /// Opens the store as [`Recorder::open`] does, for a simulated process: what is appended is written by the
    /// [`Inline`] that is returned, the time of day is tokio's clock, at `now_ms` now, and snapshots come as often as is
    /// wanted. To be called within a tokio runtime.
    ///
    /// # Errors
    /// As for [`Recorder::open`].
    pub fn simulated(
        directory: &Path,
        take_over: bool,
        now_ms: u64,
        events_per_snapshot: u64,
    ) -> Result<(Self, Inline), Error> {
        let (journal, inline) = Journal::open_inline(directory, take_over)?;
        let store = journal.store()?;
        let ledger = read_ledger(&store)?;
        let clock = Clock::Simulated { then_ms: now_ms, then: tokio::time::Instant::now() };
        let shelf = Arc::new(Shelf::at(directory));
        Ok((Self { clock, events_per_snapshot, shelf, ..Self::of(Some(journal), Some(store), ledger) }, inline))
    }

    fn of(journal: Option<Journal>, past: Option<Store>, ledger: Ledger) -> Self {
        Self {
            journal,
            clock: Clock::Machine,
            events_per_snapshot: EVENTS_PER_SNAPSHOT,
            books: Mutex::new(Books { snapshot: ledger.head, ledger, ..Books::default() }),
            past: Mutex::new(past),
            claims: Arc::default(),
            mailboxes: Mailboxes::default(),
            accounts: DashMap::new(),
            traffic: Arc::default(),
            shelf: Arc::new(Shelf::in_process()),
        }
    }

    /// Whether any question waits in a mailbox of this process's runs, or has an instance at work.
    pub fn has_mail(&self) -> bool {
        !self.mailboxes.are_idle()
    }

    /// Returns the queues in which calls and runs of this process wait for their turn, and those that are closed for a while:
    /// calls that were refused wait by themselves for the time that their provider named.
    pub fn queues(&self) -> Vec<Queue> {
        self.traffic.queues()
    }

    /// Returns what tools keep beside the runs, in the store's directory.
    pub(super) fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    /// Returns the time of day, in milliseconds since 1970 (UTC).
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Returns after how many events a run gets a new snapshot, at the least.
    pub(super) fn events_per_snapshot(&self) -> u64 {
        self.events_per_snapshot
    }

    /// Whether what happens is written to a store. Without one nothing is put into the form of a record.
    pub(super) fn has_store(&self) -> bool {
        self.journal.is_some()
    }

    /// Returns the store's writer, if there is a store.
    pub fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// Writes what is queued and lets the store go. Runs that are still under way break off, as if their process had ended.
    ///
    /// # Errors
    /// Something that was queued could not be written.
    pub async fn close(&self) -> Result<(), Error> {
        match self.journal.clone() {
            Some(journal) => Ok(journal.close().await?),
            None => Ok(()),
        }
    }

    /// Returns the ledger as it stands; what it holds may not be durable yet.
    pub fn ledger(&self) -> Ledger {
        self.books().ledger.clone()
    }

    /// Returns what tells the time.
    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// Opens an account that lasts no longer than its run, from which so much was spent before. It can be found by its name
    /// for as long as it lives.
    pub(super) fn open_account(&self, name: AccountName, spent: Amount) -> Arc<SharedAccount> {
        self.let_go_of_accounts();
        // Held until it can be found, so that a limit that is raised meanwhile is raised once.
        let books = self.books();
        let mut account = Account::default();
        account.carry(spent);
        account.raise(books.ledger.raised.get(&name).copied().unwrap_or_default());
        let account = Arc::new(SharedAccount::new(name.clone(), account));
        self.accounts.insert(name, Arc::downgrade(&account));
        account
    }

    /// Returns an account that runs share: the one that others in this process spend from, or else as the ledger has it. What
    /// runs that were cut off hold of it counts as spent.
    pub(super) fn shared_account(&self, name: &AccountName) -> Arc<SharedAccount> {
        self.let_go_of_accounts();
        let books = self.books();
        if let Some(account) = self.live_account(name) {
            return account;
        }
        let account = books.ledger.accounts.get(name).map(|book| book.account).unwrap_or_default();
        let account = account.with_held_spent(Today::at(self.now_ms()));
        let account = Arc::new(SharedAccount::new(name.clone(), account));
        self.accounts.insert(name.clone(), Arc::downgrade(&account));
        account
    }

    fn live_account(&self, name: &AccountName) -> Option<Arc<SharedAccount>> {
        self.accounts.get(name)?.upgrade()
    }

    fn let_go_of_accounts(&self) {
        if self.accounts.len() >= ACCOUNTS.max(2 * self.books().ledger.open.len()) {
            self.accounts.retain(|_, account| account.strong_count() > 0);
        }
    }

    /// Raises the limits of an account, and waits until that is durable. Calls that wait for it go on.
    ///
    /// # Errors
    /// There is no such account or limit, or it is more than anybody spends ([`Error::NotRaised`]); or nothing more can be
    /// written.
    pub async fn top_up(&self, account: AccountName, amount: Amount) -> Result<(), Error> {
        self.books().ledger.check_raise(&account, &amount)?;
        let (told, durable) = oneshot::channel();
        let entries = vec![Entry::Raised { account, amount }];
        self.append(
            None,
            Beside { entries, ..Beside::default() },
            Some(Box::new(move |result| drop(told.send(result)))),
        )?;
        durable.await.map_err(|_| Error::Stopped)??;
        Ok(())
    }

    /// Gives back what has been charged to an account for long enough without a provider's confirming it, where its budget says
    /// how long that is. Whether there was anything. Calls that wait for it go on.
    ///
    /// # Errors
    /// Nothing more can be written.
    pub(super) fn expire_unknown(&self, account: &AccountName) -> Result<bool, Error> {
        let mut books = self.books();
        let Some((entry, due)) = books.ledger.expiring(account, self.now_ms()) else { return Ok(false) };
        let tokens: u64 = due.iter().map(|doubt| doubt.amount.tokens).sum();
        tracing::warn!(%account, tokens, "what no provider confirmed is given back to a budget");
        let live = self.live_account(account);
        self.append_to(&mut books, None, Beside { entries: vec![entry], ..Beside::default() }, None)?;
        drop(books);
        live.into_iter().for_each(|live| live.expire(&due));
        Ok(true)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the disk keeps up.
    pub(super) async fn has_room(&self) {
        if let Some(journal) = &self.journal {
            journal.has_room().await;
        }
    }

    /// Writes down what happened to a run, and what follows from it: together, or not at all. Returns at once.
    ///
    /// # Errors
    /// Nothing more can be written.
    pub(super) fn append(&self, run: Option<Part>, beside: Beside, durable: Option<Durable>) -> Result<(), Error> {
        // The lock is held until the batch is in the writer's queue, so that the ledger's entries are there in order.
        let mut books = self.books();
        let durable = self.append_to(&mut books, run, beside, durable)?;
        drop(books);
        durable.into_iter().for_each(|durable| durable(Ok(())));
        Ok(())
    }

    /// Does so under the lock. Returns who is to be told at once, as there is no store.
    fn append_to(
        &self,
        books: &mut Books,
        run: Option<Part>,
        beside: Beside,
        durable: Option<Durable>,
    ) -> Result<Option<Durable>, Error> {
        let Beside { entries, kept, settled } = beside;
        for entry in &entries {
            if let Entry::Closed { run, is_parked: false } = entry
                && let Some(balance) = books.ledger.open.get(run)
            {
                // Nobody else spends from these, and nobody raises them any more.
                let of_run = balance.accounts.iter().filter(|name| name.is_of_run());
                of_run.for_each(|name| drop(self.accounts.remove(name)));
            }
            books.ledger.evolve(entry);
            if let Entry::Raised { account, amount } = entry {
                self.live_account(account).into_iter().for_each(|live| live.raise(*amount));
            }
        }
        let Some(journal) = &self.journal else {
            kept.into_iter().for_each(|(stream, exchange)| books.keep(stream, exchange));
            return Ok(durable);
        };
        let now_ms = self.now_ms();
        let mut parts: Vec<Part> = run.into_iter().chain(books.part(&entries, now_ms)).collect();
        for (stream, exchange) in kept {
            let seq = self.next_of(&stream, books)?;
            parts.push(Part { stream, records: vec![exchange.record(seq, now_ms)], mark: None, snapshot: None });
        }
        if let Some(settled) = settled {
            let stream = Settled::stream();
            let seq = self.next_of(&stream, books)?;
            parts.push(Part { stream, records: vec![settled.record(seq, now_ms)], mark: None, snapshot: None });
        }
        journal.append(Batch { parts, durable: durable.into_iter().collect() })?;
        Ok(None)
    }

    /// Returns the number of a stream's next record.
    fn next_of(&self, stream: &StreamName, books: &mut Books) -> Result<u64, Error> {
        if books.heads.len() >= HEADS {
            let is_on_disk = |of: &StreamName, head: u64| self.with_store(|store| Ok(head_of(store, of)? >= head));
            books.heads.retain(|of, head| !is_on_disk(of, *head).unwrap_or(false));
        }
        let on_disk = self.with_store(|store| head_of(store, stream))?;
        let seq = 1 + on_disk.max(books.heads.get(stream).copied().unwrap_or_default());
        books.heads.insert(stream.clone(), seq);
        Ok(seq)
    }

    /// Returns what an instance keeps from run to run, as messages.
    ///
    /// # Errors
    /// The store can't be read.
    pub(super) fn kept(&self, stream: &StreamName) -> Result<Vec<Arc<Message>>, Error> {
        if self.journal.is_none() {
            return Ok(self.books().kept.get(stream).map(|kept| kept::transcript(kept)).unwrap_or_default());
        }
        self.with_store(|store| {
            let after = head_of(store, stream)?.saturating_sub(kept::EXCHANGES);
            let records = match store.read(stream, after, kept::EXCHANGES as usize) {
                Err(journal::Error::NoSuchStream { .. }) => Vec::new(),
                records => records?,
            };
            let exchanges: Vec<Exchange> = records.iter().filter_map(Exchange::read).collect();
            Ok(kept::transcript(&exchanges))
        })
    }

    /// Claims a run that stands at event `head`; 0 for one that is to begin.
    ///
    /// # Errors
    /// Somebody in this process has the run, or the store has other events of it than was thought.
    pub(super) fn claim(&self, run: &RunId, head: u64) -> Result<Claim, Error> {
        let unfit = |why: &str| Error::Unfit { run: run.clone(), why: why.to_owned() };
        if !self.claims.insert(run.clone()) && !fault::is_planted(Bug::ClaimNotHeld) {
            return Err(unfit("is under way already, or being changed"));
        }
        let claim = Claim { run: run.clone(), claims: self.claims.clone() };
        match self.with_store_of(run, |store| Ok(store.stream(&stream_of(run))?.head)) {
            Ok(found) if found == head => Ok(claim),
            Ok(_) if head == 0 => Err(unfit("exists already")),
            Ok(_) => Err(unfit("has gone on meanwhile")),
            Err(Error::NoSuchRun(_) | Error::Journal(journal::Error::NoSuchStream { .. })) if head == 0 => Ok(claim),
            // Without a store there is nothing that could be written twice.
            Err(Error::NoSuchRun(_)) if self.journal.is_none() => Ok(claim),
            Err(error) => Err(error),
        }
    }

    /// Returns why nothing can be written any more, if that is so.
    ///
    /// # Errors
    /// An earlier write has failed.
    pub fn check(&self) -> Result<(), Error> {
        match self.journal.as_ref().and_then(Journal::failure) {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        }
    }

    /// Waits until nothing can be written any more, and returns why. Without a store that never comes.
    pub(super) async fn failed(&self) -> Error {
        match &self.journal {
            Some(journal) => journal.failed().await.into(),
            None => std::future::pending().await,
        }
    }

    /// Tells when all that was appended before is durable.
    ///
    /// # Errors
    /// Nothing more can be written.
    pub(super) fn when_durable(&self, durable: Durable) -> Result<(), Error> {
        match &self.journal {
            Some(journal) => Ok(journal.append(Batch { parts: Vec::new(), durable: vec![durable] })?),
            None => {
                durable(Ok(()));
                Ok(())
            }
        }
    }

    /// Reads a run's past, from its last snapshot on: its events are those that came after it.
    ///
    /// # Errors
    /// There is no store or no such run in it, its events have been pruned, or they can't be read.
    pub fn past(&self, run: &RunId) -> Result<Past, Error> {
        self.with_store_of(run, |store| Past::since_snapshot(store, run))
    }

    /// Reads a run's past with all its events.
    ///
    /// # Errors
    /// As for [`Recorder::past`].
    pub fn whole_past(&self, run: &RunId) -> Result<Past, Error> {
        self.with_store_of(run, |store| Past::read(store, run))
    }

    fn with_store_of<T>(&self, run: &RunId, read: impl FnOnce(&Store) -> Result<T, Error>) -> Result<T, Error> {
        match self.journal {
            Some(_) => self.with_store(read),
            None => Err(Error::NoSuchRun(run.clone())),
        }
    }

    /// Reads in the store; to be asked only where there is one.
    pub(super) fn with_store<T>(&self, read: impl FnOnce(&Store) -> Result<T, Error>) -> Result<T, Error> {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *past, &self.journal) {
            (Some(store), _) => read(store),
            (empty, Some(journal)) => read(empty.insert(journal.store()?)),
            (None, None) => Err(Error::Stopped),
        }
    }
}

impl Past {
    /// Reads a run's past, with all its events.
    ///
    /// # Errors
    /// There is no such run, its events have been pruned, or they can't be read.
    pub fn read(store: &Store, run: &RunId) -> Result<Self, Error> {
        Self::after(store, run, Fold::default())
    }

    /// Reads a run's past with the help of its last snapshot: its events are those that came after it.
    ///
    /// # Errors
    /// As for [`Past::read`].
    pub fn since_snapshot(store: &Store, run: &RunId) -> Result<Self, Error> {
        let snapshot = match store.snapshot(&stream_of(run)) {
            Err(journal::Error::NoSuchStream { .. }) => return Err(Error::NoSuchRun(run.clone())),
            snapshot => snapshot?,
        };
        Self::after(store, run, snapshot.as_ref().and_then(Fold::from_snapshot).unwrap_or_default())
    }

    /// Makes the past of a run of which all events are in memory.
    pub(super) fn of(log: &Log<Envelope>) -> Result<Self, Error> {
        let events = log.snapshot();
        let mut fold = Fold { rejected: rejected(events.iter().map(|envelope| &**envelope)), ..Fold::default() };
        events.iter().for_each(|envelope| fold.evolve(envelope));
        Ok(Self { state: fold.run, agents: fold.agents, events })
    }

    fn after(store: &Store, run: &RunId, mut fold: Fold) -> Result<Self, Error> {
        let records = match read_all(store, &stream_of(run), fold.run.head()) {
            Err(journal::Error::NoSuchStream { .. }) => return Err(Error::NoSuchRun(run.clone())),
            records => records?,
        };
        let events = fold.extend(run, &records)?;
        Ok(Self { state: fold.run, agents: fold.agents, events })
    }
}

impl Past {
    /// Returns the network that the run is kept with, as text.
    pub fn network(&self) -> Arc<str> {
        self.state.beginning().map(|beginning| beginning.network.clone()).unwrap_or_else(|| "".into())
    }
}

/// Says what an event that `state` is about to take up means for the ledger. `free` says what the run's account has left.
pub(super) fn entry_of(state: &RunState, envelope: &Envelope, free: impl FnOnce() -> Amount) -> Option<Entry> {
    let (seq, none) = (envelope.seq, Amount::default());
    let run = || envelope.stream.run.clone();
    let agent_of = |call: &CallId| {
        state.agents().get(&call.agent).map(|instance| instance.name.clone()).unwrap_or_else(|| "".into())
    };
    let (call, spent) = match &envelope.event {
        Event::TryFailed { .. } if fault::is_planted(Bug::FailedTryNotInLedger) => return None,
        event if event.charge().is_some() => event.charge()?,
        Event::CallIntended { call, reserved, .. } if *reserved != none => {
            return Some(Entry::Reserved { run: run(), seq, amount: *reserved, agent: agent_of(call) });
        }
        _ => return None,
    };
    let held = state.open_call(call).map(|open| open.held).unwrap_or_default();
    if held == none && spent == none {
        return None;
    }
    let debt = spent.minus(held).minus(free());
    let is_known = match &envelope.event {
        Event::ModelReplied { usage, .. } => usage.is_some(),
        Event::CallIntended { .. } => true,
        // What is charged in full was billed by nobody.
        _ => spent != held || spent.tokens == 0,
    };
    let unknown = if is_known { none } else { spent };
    let (agent, at_ms) = (agent_of(call), envelope.time_ms);
    Some(Entry::Settled { run: run(), seq, held, spent, debt, unknown, agent, at_ms })
}

/// Names a run's stream.
pub fn stream_of(run: &RunId) -> StreamName {
    StreamName::new(format!("run/{run}"))
}

/// Names the run whose stream it is; none if it is no run's.
pub fn run_of(stream: &StreamName) -> Option<RunId> {
    stream.as_str().strip_prefix("run/").map(RunId::new)
}

/// Reads the ledger of a store: its last snapshot, and what came after it.
///
/// # Errors
/// It can't be read.
pub fn read_ledger(store: &Store) -> Result<Ledger, Error> {
    let stream = StreamName::new(LEDGER);
    let mut ledger = match store.snapshot(&stream) {
        Ok(Some(snapshot)) if snapshot.version == LEDGER_VERSION => rmp_serde::from_slice(&snapshot.state)
            .map_err(|error| malformed(snapshot.seq, "ledger: snapshot", &error))?,
        Ok(_) => Ledger::default(),
        Err(journal::Error::NoSuchStream { .. }) => return Ok(Ledger::default()),
        Err(error) => return Err(error.into()),
    };
    for record in read_all(store, &stream, ledger.head)? {
        if record.version > LEDGER_VERSION {
            let kind = record.kind.into_owned();
            return Err(StoredError::Newer { seq: record.seq, kind, found: record.version }.into());
        }
        let entry = rmp_serde::from_slice(&record.payload);
        ledger.evolve(&entry.map_err(|error| malformed(record.seq, &format!("ledger: {}", record.kind), &error))?);
    }
    Ok(ledger)
}

/// Reads the ledger's entries that have not been trimmed, each with its record.
///
/// # Errors
/// They can't be read.
pub fn read_entries(store: &Store) -> Result<Vec<(Record, Entry)>, Error> {
    let stream = StreamName::new(LEDGER);
    let first = match store.snapshot(&stream) {
        Err(journal::Error::NoSuchStream { .. }) => return Ok(Vec::new()),
        snapshot => snapshot?.map_or(0, |snapshot| snapshot.seq),
    };
    let records = match read_all(store, &stream, 0) {
        // What the snapshot holds has been trimmed.
        Err(journal::Error::Pruned { .. }) => read_all(store, &stream, first)?,
        records => records?,
    };
    let read = |record: Record| match rmp_serde::from_slice(&record.payload) {
        Ok(entry) => Ok((record, entry)),
        Err(error) => Err(malformed(record.seq, &format!("ledger: {}", record.kind), &error)),
    };
    records.into_iter().map(read).collect()
}

/// Returns the number of a stream's last record; 0 of one that has not begun.
fn head_of(store: &Store, stream: &StreamName) -> Result<u64, Error> {
    match store.stream(stream) {
        Err(journal::Error::NoSuchStream { .. }) => Ok(0),
        info => Ok(info?.head),
    }
}

pub(super) fn malformed(seq: u64, kind: &str, error: &rmp_serde::decode::Error) -> Error {
    StoredError::Malformed { seq, kind: kind.to_owned(), why: error.to_string() }.into()
}

pub(super) fn read_all(store: &Store, stream: &StreamName, mut after: u64) -> Result<Vec<Record>, journal::Error> {
    let mut records = Vec::new();
    loop {
        let some = store.read(stream, after, READ_AT_ONCE)?;
        let Some(last) = some.last() else { return Ok(records) };
        after = last.seq;
        records.extend(some);
    }
}

impl Books {
    /// Keeps an exchange in memory.
    fn keep(&mut self, stream: StreamName, exchange: Exchange) {
        let kept = self.kept.entry(stream).or_default();
        kept.push(exchange);
        let surplus = kept.len().saturating_sub(kept::EXCHANGES as usize);
        kept.drain(..surplus);
    }

    /// Returns the last entries as a part of a batch, and a snapshot when one is due.
    fn part(&mut self, entries: &[Entry], time_ms: u64) -> Option<Part> {
        let first = self.ledger.head + 1 - entries.len() as u64;
        let record = |(index, entry): (usize, &Entry)| Record {
            seq: first + index as u64,
            time_ms,
            agent: None,
            incarnation: 0,
            cause: None,
            labels: Vec::new(),
            kind: entry.kind().into(),
            version: LEDGER_VERSION,
            payload: rmp_serde::to_vec_named(entry).unwrap_or_default(),
        };
        let records: Vec<Record> = entries.iter().enumerate().map(record).collect();
        if records.is_empty() {
            return None;
        }
        let due = ENTRIES_PER_SNAPSHOT.max(8 * self.ledger.open.len() as u64);
        let is_due = self.ledger.head - self.snapshot >= due;
        let snapshot = is_due.then(|| {
            self.snapshot = self.ledger.head;
            let state = rmp_serde::to_vec_named(&self.ledger).unwrap_or_default();
            Snapshot { seq: self.ledger.head, version: LEDGER_VERSION, state }
        });
        Some(Part { stream: StreamName::new(LEDGER), records, mark: None, snapshot })
    }
}
