//! `provost audit verify`: whether the store is what was written.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::budget::{Amount, Entry};
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::runs::local;
use crate::cli::{Cli, Error, print};
use crate::journal::{self, Attested, Evidence, PublicKey, Store, StreamInfo, Target, Verified};
use crate::run::{Event, RunId, RunState, Status};
use crate::runtime::{self, Past, Report, read_entries, read_ledger, run_of};
use crate::serve::anchor::connect;
use crate::spec::visible;

/// What `provost audit verify` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Compare the store with the checkpoints that this file or address of HTTP has, in the place of the anchor that is set.
    #[arg(long, value_name = "TARGET")]
    anchor: Option<String>,
    /// Believe the signatures of this key alone, which `provost audit key` has printed; can be given several times. Without it
    /// the key of the first checkpoint is believed.
    #[arg(long = "key", value_name = "KEY", value_parser = key)]
    keys: Vec<PublicKey>,
}

fn key(text: &str) -> Result<PublicKey, String> {
    PublicKey::parse(text).ok_or_else(|| "a key is 64 hexadecimal digits, as `provost audit key` prints it".to_owned())
}

pub(super) fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let checked = check(address, arguments).and_then(|checked| {
        let store = Store::open(&address.directory)?;
        Ok((checked, compare(&store)?))
    });
    match checked {
        Ok(((verified, attested), compared)) => {
            say(cli, &verified, &compared, &attested)?;
            Ok(Code::Done)
        }
        Err(error) if cli.json => {
            print::json(&json!({ "ok": false, "fault": error.to_string() }))?;
            Ok(Code::of(&error))
        }
        Err(error) => Err(error),
    }
}

/// Checks the store against itself and its checkpoints, those beside it and those of its anchor.
fn check(address: &Address, arguments: &Arguments) -> Result<(Verified, Vec<Attested>), Error> {
    let directory = &address.directory;
    let is_own = arguments.anchor.is_none();
    let target = match &arguments.anchor {
        Some(target) => Some(Target::of(target).map_err(journal::Error::from)?),
        None => journal::anchor(directory)?,
    };
    // Read before the store is: what the store says then is no older.
    let mut evidence = vec![Evidence::beside(directory)?];
    let away = match target {
        None => None,
        Some(target) => {
            let read = target.connect(Some(connect)).map_err(journal::Error::from);
            match read.and_then(|anchor| Evidence::of(directory, &target, &*anchor, is_own)) {
                Ok(found) => {
                    evidence.push(found);
                    None
                }
                Err(error) => Some(error),
            }
        }
    };
    let checked = journal::verify_against(directory, &evidence, &arguments.keys)?;
    // What is wrong with the store itself comes first: it is there to be mended, whatever an anchor would say.
    away.map_or(Ok(checked), |error| Err(error.into()))
}

/// Says what has been compared, as JSON.
fn attested_json(attested: &Attested) -> Value {
    json!({
        "at": attested.at,
        "checkpoints": attested.checkpoints,
        "newest": attested.newest.as_ref().map(|newest| {
            json!({ "size": newest.size(), "time_ms": newest.time_ms(), "key": newest.key().to_string() })
        }),
        "since": attested.since,
    })
}

fn attested_line(attested: &Attested) -> String {
    let at = visible(&attested.at);
    let Some(newest) = &attested.newest else {
        return match attested.is_shared {
            true => format!("  the anchor {at} has taken nothing of this store yet\n"),
            false => format!("  no checkpoint at {at}\n"),
        };
    };
    let (count, size) = (print::counted(attested.checkpoints, "checkpoint"), newest.size());
    let (agree, since) = (if attested.checkpoints == 1 { "agrees" } else { "agree" }, attested.since);
    let since = if since == 0 { String::new() } else { format!("; {} since", print::counted(since, "commit")) };
    format!("  {count} at {at} {agree}, up to commit {size} of {}{since}\n", local(newest.time_ms()))
}

fn say(cli: &Cli, verified: &Verified, compared: &Compared, attested: &[Attested]) -> Result<(), Error> {
    let Verified { streams, events, commits, blobs, tombstones, head } = verified;
    let Compared { runs, pruned, charges } = compared;
    if cli.json {
        return print::json(&json!({
            "ok": true, "streams": streams, "events": events, "commits": commits, "blobs": blobs,
            "tombstones": tombstones, "runs": runs, "pruned_runs": pruned, "charges": charges, "head": head,
            "attested": attested.iter().map(attested_json).collect::<Vec<_>>(),
        }));
    }
    let [streams, events, commits, blobs, tombstones, read, charges] = [
        (*streams, "stream"),
        (*events, "event"),
        (*commits, "commit"),
        (*blobs, "blob"),
        (*tombstones, "tombstone"),
        (*runs, "run"),
        (*charges, "charge"),
    ]
    .map(|(count, what)| print::counted(count, what));
    print::result(&format!(
        "the store is whole\n  {streams}, {events}, {commits}, {blobs}, {tombstones}\n  {read} read, {pruned} pruned; \
         {charges} compared with the ledger\n  head {head}\n{}",
        attested.iter().map(attested_line).collect::<String>()
    ))
}

/// What has been compared.
#[derive(Default)]
struct Compared {
    /// Runs that were read.
    runs: u64,
    /// Runs whose events have been pruned.
    pruned: u64,
    /// Charges that are in the run and in the ledger.
    charges: u64,
}

/// What a run was charged, by the event, and up to which event that is known.
struct Charged {
    by_event: BTreeMap<u64, Amount>,
    head: u64,
}

/// Reads every run, and compares what its events say it was charged with what the ledger says.
fn compare(store: &Store) -> Result<Compared, Error> {
    let (mut compared, mut runs) = (Compared::default(), BTreeMap::new());
    for info in store.streams("run/")? {
        let Some(run) = run_of(&info.name) else { continue };
        match Past::read(store, &run) {
            Ok(past) => {
                check_mark(&run, &info, &past.state)?;
                runs.insert(run, charged(&past));
            }
            Err(runtime::Error::Journal(journal::Error::Pruned { .. })) => compared.pruned += 1,
            Err(error) => return Err(at(&run, &error.to_string())),
        }
    }
    compared.runs = runs.len() as u64;
    // Whatever a run had been charged when it was read is in the ledger by now: they are written together.
    read_ledger(store)?;
    let entries = read_entries(store)?;
    let is_whole = entries.first().is_none_or(|(record, _)| record.seq == 1);
    // From which event on the ledger still has the run's entries.
    let mut begins: BTreeMap<RunId, u64> = BTreeMap::new();
    for (record, entry) in entries {
        let Entry::Settled { run, seq, spent, .. } = entry else { continue };
        begins.entry(run.clone()).or_insert(if is_whole { 0 } else { seq });
        let Some(known) = runs.get_mut(&run).filter(|known| seq <= known.head) else { continue };
        let said = known.by_event.remove(&seq).unwrap_or_default();
        if said != spent {
            let (said, spent) = (amount(said), amount(spent));
            return Err(at(
                &run,
                &format!("event {seq} was charged {said}, and entry {} of the ledger says {spent}", record.seq),
            ));
        }
        compared.charges += u64::from(spent != Amount::default());
    }
    for (run, known) in &runs {
        let begin = begins.get(run).copied().or(is_whole.then_some(0));
        let missing = begin.and_then(|begin| known.by_event.range(begin..).next());
        if let Some((seq, charged)) = missing {
            return Err(at(
                run,
                &format!("event {seq} was charged {}, and the ledger has no entry of it", amount(*charged)),
            ));
        }
    }
    Ok(compared)
}

/// Compares what the list of runs says of one with what its events say.
fn check_mark(run: &RunId, info: &StreamInfo, state: &RunState) -> Result<(), Error> {
    let Some(mark) = &info.mark else { return Err(at(run, "the list of runs says nothing of it")) };
    if info.head != state.head() {
        // It has gone on since the list was read.
        return Ok(());
    }
    let report = Report::of(state);
    let is_running = report.status == Status::Running;
    let summary = mark.summary.as_deref().and_then(|summary| serde_json::from_slice::<Report>(summary).ok());
    let says_so = mark.state == report.status.word()
        && mark.closed != report.status.can_go_on()
        && (is_running || summary.as_ref() == Some(&report));
    match says_so {
        true => Ok(()),
        false => Err(at(run, &format!("the list of runs says `{}`, and its events say something else", mark.state))),
    }
}

fn charged(past: &Past) -> Charged {
    let charge = |event: &Event| event.charge().map(|(_, charged)| charged);
    // What a run was forked with was charged to the other run.
    let own = past.events.iter().rposition(|envelope| matches!(envelope.event, Event::RunForked { .. }));
    let charges =
        past.events[own.unwrap_or(0)..].iter().filter_map(|envelope| Some((envelope.seq, charge(&envelope.event)?)));
    Charged {
        by_event: charges.filter(|(_, charged)| *charged != Amount::default()).collect(),
        head: past.state.head(),
    }
}

fn amount(amount: Amount) -> Value {
    json!(amount)
}

fn at(run: &RunId, what: &str) -> Error {
    Error::Store { message: format!("run {run}: {what}"), hint: "put a backup of the store in its place".to_owned() }
}
