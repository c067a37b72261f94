//! Events as they lie in the store, run by run and a page at a time: however long a run is, little of it is in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cli::door::Address;
use crate::cli::runs::{Since, find};
use crate::cli::{Error, print};
use crate::journal::{self, Record, Store, StreamInfo};
use crate::run::{AgentId, Body, CallId, Envelope, Event, RunId, Stream, Subject, decode};
use crate::runtime::{Report, run_of, stream_of};
use crate::spec::visible;

/// How many events are read at once.
const PAGE: usize = 512;

/// Which events are meant.
#[derive(Debug, Default)]
pub(super) struct Filter<'a> {
    /// Runs, as people name them; all where none is named.
    pub(super) runs: Vec<&'a str>,
    pub(super) since: Option<Since>,
    pub(super) until: Option<Since>,
    pub(super) tenant: Option<&'a str>,
    pub(super) kinds: &'a [String],
    pub(super) agent: Option<&'a str>,
    pub(super) tool: Option<&'a str>,
}

impl Filter<'_> {
    /// Whether something happened in the time that is meant: from `since` on, and before `until`.
    pub(super) fn is_then(&self, time_ms: u64) -> bool {
        self.since.is_none_or(|since| time_ms >= since.time_ms)
            && self.until.is_none_or(|until| time_ms < until.time_ms)
    }

    /// Whether a record may be meant, as far as can be told without its payload.
    fn may_be(&self, record: &Record) -> bool {
        let is_kind = self.kinds.is_empty() || self.kinds.iter().any(|kind| *kind == record.kind);
        is_kind && self.is_then(record.time_ms)
    }

    fn is_agent(&self, envelope: &Envelope) -> bool {
        self.agent.is_none_or(|wanted| {
            let is_it = |agent: &AgentId| {
                let short = agent.short();
                [agent.as_str(), short].contains(&wanted) || short.split('.').next() == Some(wanted)
            };
            envelope.agent.as_ref().is_some_and(is_it)
        })
    }

    /// Finds the runs that are meant. Of another tenant's runs nothing is said, not even that they are there.
    ///
    /// # Errors
    /// A run that is named is not there.
    pub(super) fn runs(&self, address: &Address, store: &Store) -> Result<Vec<RunId>, Error> {
        let mut seen = BTreeSet::new();
        let mut runs = self.named(address, store)?;
        // Who names one twice wants it once.
        runs.retain(|run| seen.insert(run.clone()));
        Ok(runs)
    }

    fn named(&self, address: &Address, store: &Store) -> Result<Vec<RunId>, Error> {
        let Some(tenant) = self.tenant else {
            return match self.runs.is_empty() {
                true => Ok(store.streams("run/")?.iter().filter_map(|info| run_of(&info.name)).collect()),
                false => self.runs.iter().map(|text| find(address, text).map(|(_, run)| run)).collect(),
            };
        };
        let mut own = Vec::new();
        for info in store.streams("run/")? {
            let Some(run) = run_of(&info.name) else { continue };
            if is_of(store, &info, &run, tenant)? {
                own.push(run);
            }
        }
        if self.runs.is_empty() {
            return Ok(own);
        }
        let named = |text: &&str| match find(address, text) {
            Ok((_, run)) if own.contains(&run) => Ok(run),
            _ => Err(Error::Usage {
                message: format!("there is no run {} of the tenant {}", visible(text), visible(tenant)),
                hint: "give its whole id; provost runs list --tenant lists the tenant's runs".to_owned(),
            }),
        };
        self.runs.iter().map(named).collect()
    }
}

/// Whether a run is a tenant's. One that can't be read is whose the list of runs says it is; where that does not say either, it
/// may be the tenant's, and that it can't be read has to be said.
fn is_of(store: &Store, info: &StreamInfo, run: &RunId, tenant: &str) -> Result<bool, Error> {
    match (beginning(store, run), said_of(info)) {
        (Ok(Some(stream)), _) => Ok(*stream.tenant == *tenant),
        (Ok(None), said) => Ok(said.as_deref() == Some(tenant)),
        (Err(_), Some(said)) if *said != *tenant => Ok(false),
        (Err(error), _) => Err(error),
    }
}

/// Returns whose a run is that has no events any more.
fn said_of(info: &StreamInfo) -> Option<Arc<str>> {
    let summary = info.mark.as_ref()?.summary.as_deref()?;
    serde_json::from_slice::<Report>(summary).ok().map(|report| report.tenant)
}

/// Reads how a run begins; none where its events have been pruned.
fn beginning(store: &Store, run: &RunId) -> Result<Option<Arc<Stream>>, Error> {
    let first = match store.read(&stream_of(run), 0, 1) {
        Err(journal::Error::Pruned { .. }) => return Ok(None),
        first => first?,
    };
    let nobody = Arc::new(Stream { run: run.clone(), tenant: "".into(), session: None });
    let first = first.first().map(|record| decode(record, &nobody)).transpose()?;
    match first.map(|first| first.event) {
        Some(Event::RunStarted { tenant, session, .. }) => {
            Ok(Some(Arc::new(Stream { run: run.clone(), tenant, session })))
        }
        _ => Err(Error::Store {
            message: format!("run {run} does not begin with its beginning"),
            hint: "`provost audit verify` says whether the store is whole".to_owned(),
        }),
    }
}

/// Gives the events of a run that are meant to `each`, in pieces, until that returns false. Says where they have been pruned.
/// Returns whether more is wanted.
///
/// # Errors
/// They can't be read; or what `each` says.
pub(super) fn each(
    store: &Store,
    run: &RunId,
    filter: &Filter<'_>,
    mut each: impl FnMut(&[Envelope]) -> Result<bool, Error>,
) -> Result<bool, Error> {
    let Some(stream) = beginning(store, run)? else {
        print::notice(&format!("note: the events of run {run} have been pruned\n"));
        return Ok(true);
    };
    let (mut after, mut calls) = (0, Calls { tool: filter.tool, open: BTreeSet::new() });
    loop {
        let page = store.read(&stream_of(run), after, PAGE)?;
        let Some(last) = page.last() else { return Ok(true) };
        after = last.seq;
        let mut meant = Vec::new();
        for record in &page {
            // A call is known by its intent, whenever that was.
            if filter.tool.is_none() && !filter.may_be(record) {
                continue;
            }
            let envelope = decode(record, &stream)?;
            let is_of_tool = calls.take(&envelope.event);
            if is_of_tool && filter.may_be(record) && filter.is_agent(&envelope) {
                meant.push(envelope);
            }
        }
        if !each(&meant)? {
            return Ok(false);
        }
    }
}

/// The calls of a tool that have no result yet.
struct Calls<'a> {
    tool: Option<&'a str>,
    open: BTreeSet<CallId>,
}

impl Calls<'_> {
    /// Takes the run's next event; returns whether it is one of the tool's, or of any where none is asked for.
    fn take(&mut self, event: &Event) -> bool {
        let Some(wanted) = self.tool else { return true };
        let subject = match event {
            Event::CallIntended { subject, .. }
            | Event::ApprovalRequested { subject, .. }
            | Event::InputRequested { subject, .. } => Some(subject),
            _ => None,
        };
        let Some(call) = event.call() else { return false };
        if matches!(subject, Some(Subject::Tool { tool, .. }) if **tool == *wanted) {
            self.open.insert(call.clone());
        }
        let is_over = matches!(event, Event::ToolReturned { .. } | Event::CallAbandoned { .. });
        let is_open = if is_over { self.open.remove(call) } else { self.open.contains(call) };
        // What was refused has a result and no intent.
        let is_answer = matches!(event, Event::ToolReturned { message, .. }
            if matches!(&message.body, Body::Tool { name, .. } if name == wanted));
        is_open || is_answer
    }
}
