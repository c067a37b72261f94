//! The disk as the world sees it: what is durable, folded commit by commit, and what must hold after each.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use provost::budget::{AccountName, Amount, Cap, Entry, Ledger};
use provost::journal::{Record, Store, StreamName};
use provost::run::{CallId, Envelope, Event, Fold, OpenCall, RunId, RunState, Status};
use provost::runtime::{run_of, stream_of};
use provost::spec::NetworkSpec;

use super::mail::Mail;

/// The ledger's stream.
const LEDGER: &str = "ledger";

/// The account that all runs share, where there is one.
pub(super) const SHARED: &str = "network/sim";

/// What is durable.
pub(super) struct Disk {
    store: Store,
    pub(super) runs: BTreeMap<RunId, OnDisk>,
    pub(super) ledger: Ledger,
    pub(super) mail: Mail,
}

/// A run, as far as it is durable.
#[derive(Default)]
pub(super) struct OnDisk {
    pub(super) fold: Fold,
    pub(super) events: Vec<Arc<Envelope>>,
}

impl OnDisk {
    fn add(&mut self, events: Vec<Arc<Envelope>>) {
        let is_fold_stale = events.iter().any(|envelope| matches!(envelope.event, Event::Rejected { .. }));
        self.events.extend(events);
        if is_fold_stale {
            // What was rejected now had been folded already.
            let fold = Fold { rejected: std::mem::take(&mut self.fold.rejected), ..Fold::default() };
            self.fold = self.events.iter().fold(fold, |mut fold, envelope| {
                fold.evolve(envelope);
                fold
            });
        }
    }

    pub(super) fn status(&self) -> Status {
        self.fold.run.status()
    }

    /// Returns a call that is open.
    pub(super) fn open_call(&self, call: &CallId) -> Option<&OpenCall> {
        self.fold.run.open_call(call)
    }

    /// Whether a call has its result.
    pub(super) fn has_result(&self, call: &CallId) -> bool {
        self.events.iter().any(|envelope| {
            let is_result = matches!(
                envelope.event,
                Event::ModelReplied { .. } | Event::ModelFailed { .. } | Event::ToolReturned { .. }
            );
            let is_used = !self.fold.rejected.contains(&envelope.seq);
            is_result && is_used && envelope.event.call() == Some(call)
        })
    }

    /// How many tries of a call were intended.
    pub(super) fn tries(&self, call: &CallId) -> usize {
        let is_intent =
            |envelope: &&Arc<Envelope>| matches!(&envelope.event, Event::CallIntended { call: of, .. } if of == call);
        self.events.iter().filter(is_intent).count()
    }
}

impl Disk {
    pub(super) fn open(directory: &Path) -> Self {
        let (runs, ledger, mail) = (BTreeMap::new(), Ledger::default(), Mail::default());
        Self { store: Store::open(directory).unwrap(), runs, ledger, mail }
    }

    /// Reads what the last commit has added; returns it, and what is wrong with it.
    pub(super) fn look(&mut self, network: &NetworkSpec) -> (Vec<(StreamName, Record)>, Vec<String>) {
        let (mut added, mut wrong, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        for info in self.store.streams("run/").unwrap() {
            let Some(run) = run_of(&info.name) else { continue };
            let known = self.runs.entry(run.clone()).or_default();
            let after = known.fold.run.head();
            if info.head == after {
                continue;
            }
            changed.push((run.clone(), after));
            match self.store.read(&info.name, after, usize::MAX >> 1) {
                Err(error) => wrong.push(format!("run {run} can't be read: {error}")),
                Ok(records) => {
                    match known.fold.extend(&run, &records) {
                        Ok(events) => {
                            wrong.extend(heard_too_soon(&run, &events));
                            known.add(events);
                        }
                        Err(error) => wrong.push(format!("run {run} can't be folded: {error}")),
                    }
                    added.extend(records.into_iter().map(|record| (info.name.clone(), record)));
                }
            }
        }
        wrong.extend(self.mail.look(network, &self.store, &self.runs, &changed));
        let ledger = StreamName::new(LEDGER);
        // There is none before the first run.
        for record in self.store.read(&ledger, self.ledger.head, usize::MAX >> 1).unwrap_or_default() {
            let entry: Entry = rmp_serde::from_slice(&record.payload).unwrap();
            self.ledger.evolve(&entry);
            added.push((ledger.clone(), record));
        }
        for (run, _) in changed {
            let on_disk = &self.runs[&run];
            wrong.extend(self.imbalance(&run, on_disk).or_else(|| beyond_limits(network, &run, on_disk)));
        }
        wrong.extend(self.shared());
        (added, wrong)
    }

    /// Says where what all runs share differs from what the runs have, or goes beyond its limit.
    fn shared(&self) -> Option<String> {
        let name = AccountName::new(SHARED);
        let book = self.ledger.accounts.get(&name)?;
        let states = || self.runs.values().map(|on_disk| &on_disk.fold.run);
        let spent = states().map(RunState::spent).fold(Amount::default(), Amount::plus);
        let held = states().map(RunState::held).fold(Amount::default(), Amount::plus);
        let account = &book.account;
        let free = |cap: &Cap| cap.limit.minus(spent).minus(held);
        match () {
            () if (account.spent(), account.held()) != (spent, held) => Some(format!(
                "the runs hold {held:?} and have spent {spent:?}, and {name} has {:?} and {:?}",
                account.held(),
                account.spent()
            )),
            () if book.caps.iter().any(|cap| spent.plus(held).plus(free(cap)) != cap.limit) => {
                Some(format!("{name} is overdrawn: {spent:?} and {held:?} of {:?}", book.caps))
            }
            () => None,
        }
    }

    /// Says where the ledger and a run's own events differ.
    fn imbalance(&self, run: &RunId, on_disk: &OnDisk) -> Option<String> {
        let state = &on_disk.fold.run;
        let Some(balance) = self.ledger.open.get(run) else {
            return (state.end().is_none() || state.held() != Amount::default())
                .then(|| format!("run {run} is under way and has no account, at event {}", state.head()));
        };
        // A run that was parked has settled before: the account that was opened anew holds what came since.
        let own = on_disk.events.iter().rev().take_while(|envelope| !matches!(envelope.event, Event::RunForked { .. }));
        let settled = own.into_iter().find_map(|envelope| match &envelope.event {
            Event::RunEnded { spent, .. } => Some(*spent),
            _ => None,
        });
        let of_events = (state.held(), state.spent().minus(settled.unwrap_or_default()));
        let of_ledger = (balance.held, balance.spent);
        (of_ledger != of_events).then(|| {
            let head = state.head();
            format!("run {run} holds and has spent {of_events:?}, and the ledger says {of_ledger:?}, at event {head}")
        })
    }

    /// Reads a run with the help of its snapshot.
    pub(super) fn by_snapshot(&self, run: &RunId) -> Result<provost::runtime::Past, provost::runtime::Error> {
        provost::runtime::Past::since_snapshot(&self.store, run)
    }

    /// Whether a run's stream is marked as closed, and with what word.
    pub(super) fn mark(&self, run: &RunId) -> Option<(String, bool)> {
        let mark = self.store.stream(&stream_of(run)).ok()?.mark?;
        Some((mark.state.to_string(), mark.closed))
    }
}

/// Says which answer its agent heard before it was on disk: then both come in one commit. In what a fork has copied they may.
fn heard_too_soon(run: &RunId, events: &[Arc<Envelope>]) -> Option<String> {
    let is_fork = |envelope: &Arc<Envelope>| matches!(envelope.event, Event::RunForked { .. });
    let own = events.iter().rposition(is_fork).map_or(0, |place| place + 1);
    let given: Vec<&CallId> = events[own..]
        .iter()
        .filter_map(|envelope| match &envelope.event {
            Event::InputGiven { call, .. } => Some(call),
            _ => None,
        })
        .collect();
    let is_heard = |envelope: &&Arc<Envelope>| matches!(&envelope.event, Event::ToolReturned { call, failure: None, .. } if given.contains(&call));
    let heard = events[own..].iter().find(is_heard)?;
    Some(format!("{run} hears an answer before it is on disk, at {}", heard.seq))
}

/// Says which limit a run has gone beyond.
fn beyond_limits(network: &NetworkSpec, run: &RunId, on_disk: &OnDisk) -> Option<String> {
    let (limits, state) = (&network.network.limits, &on_disk.fold.run);
    let taken = state.spent().plus(state.held());
    let of_tokens = limits.tokens.filter(|&limit| taken.tokens > limit).map(|limit| ("tokens", limit, taken.tokens));
    let of_calls = limits
        .model_calls
        .filter(|&limit| taken.model_calls > limit)
        .map(|limit| ("model_calls", limit, taken.model_calls));
    let nano = limits.cost_usd.map(|usd| (usd * 1e9).ceil() as u64);
    let of_cost = nano.filter(|&limit| taken.cost_nano_usd > limit).map(|limit| ("cost", limit, taken.cost_nano_usd));
    let (name, limit, taken) = of_tokens.or(of_calls).or(of_cost)?;
    Some(format!("run {run} has taken {taken} of its {name}, and may have {limit}, at event {}", state.head()))
}
