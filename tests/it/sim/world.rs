//! The world around the simulated processes: its clock, its disk, what fails. It outlives them, and it sees at once when
//! one of them does what it must not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use provost::run::{CallId, RunId, Stage, Status};
use provost::tool::Effect;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::disk::Disk;
use super::draw::Draw;
use super::plan::{Place, Plan, ProcessEnd};

/// When the world begins, in milliseconds since 1970.
const BEGINNING_MS: u64 = 1_700_000_000_000;

/// The world; what processes share and nothing ends.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) directory: PathBuf,
    state: Mutex<State>,
    /// Told when the living process has come to its end.
    over: Notify,
}

/// What has happened.
pub(super) struct State {
    trace: blake3::Hasher,
    /// The trace in words, where somebody wants to read it.
    pub(super) words: Option<Vec<String>>,
    /// What was wrong.
    pub(super) wrong: Vec<String>,
    pub(super) disk: Option<Disk>,
    /// The tool calls by idempotency key.
    pub(super) deeds: BTreeMap<String, Deed>,
    /// What models have billed, by run: tokens, and billionths of a dollar.
    pub(super) billed: BTreeMap<RunId, (u64, u64)>,
    /// How many calls of each model are under way, and how many there have been at most.
    pub(super) in_flight: BTreeMap<String, (u32, u32)>,
    /// Until when models refuse calls that have said so.
    pub(super) closed: BTreeMap<String, Instant>,
    /// What the world knows of runs.
    pub(super) runs: BTreeMap<RunId, Known>,
    /// When the present process began, and what time it was then.
    process: Option<(Instant, u64)>,
    now_ms: u64,
    /// Which process lives, counted from 0.
    pub(super) number: usize,
    /// How often the present process has passed the place at which it ends.
    passed: u64,
    is_over: bool,
    draws: u64,
    /// The numbers under which each event has been given to its agent.
    given: BTreeMap<String, Vec<u64>>,
    /// What has been lived through beside what the store tells.
    pub(super) lived: super::Lived,
}

/// What the world has seen of a tool call.
#[derive(Default)]
pub(super) struct Deed {
    pub(super) class: Option<Effect>,
    pub(super) begun: u32,
    pub(super) effects: u32,
    pub(super) result: String,
}

/// What the world knows of a run.
#[derive(Default)]
pub(super) struct Known {
    /// Whether somebody was told that it had begun.
    pub(super) has_begun: bool,
    /// The end that somebody was told of, parked ends apart.
    pub(super) told: Option<Status>,
    /// Whether it has been disturbed from outside.
    pub(super) is_disturbed: bool,
}

impl World {
    pub(super) fn new(plan: Plan, directory: &Path, in_words: bool) -> Arc<Self> {
        let state = State {
            trace: blake3::Hasher::new(),
            words: in_words.then(Vec::new),
            wrong: Vec::new(),
            disk: None,
            deeds: BTreeMap::new(),
            billed: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            closed: BTreeMap::new(),
            runs: BTreeMap::new(),
            process: None,
            now_ms: BEGINNING_MS,
            number: 0,
            passed: 0,
            is_over: false,
            draws: 0,
            given: BTreeMap::new(),
            lived: super::Lived::new(),
        };
        let directory = directory.to_owned();
        Arc::new(Self { plan, directory, state: Mutex::new(state), over: Notify::new() })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the hash of all that happened.
    pub(super) fn trace(&self) -> String {
        self.state().trace.finalize().to_hex().to_string()
    }

    /// Notes that something happened.
    pub(super) fn note(&self, what: &str) {
        self.state().note(what);
    }

    /// Notes that something happened that must not.
    pub(super) fn wrong(&self, what: String) {
        self.state().blame(what);
    }

    /// Begins a process; returns the time.
    pub(super) fn begin(&self) -> u64 {
        let mut state = self.state();
        state.now_ms += 1_000;
        state.process = Some((Instant::now(), state.now_ms));
        (state.passed, state.is_over) = (0, false);
        state.in_flight.clear();
        state.closed.clear();
        state.disk.iter_mut().for_each(|disk| disk.mail.begin_process());
        let number = state.number;
        state.note(&format!("process {number} begins"));
        state.now_ms
    }

    /// Ends the process that is under way.
    pub(super) fn end(&self, how: &str) {
        let mut state = self.state();
        state.live_through(how);
        state.now_ms = state.now();
        state.process = None;
        state.is_over = true;
        state.number += 1;
    }

    /// Waits for the end of the process.
    pub(super) async fn over(&self) {
        self.over.notified().await;
    }

    /// Passes a place: the process may come to its end there, and nothing that follows happens.
    pub(super) async fn pass(&self, place: Place) {
        let ends_here = {
            let mut state = self.state();
            let (ProcessEnd::Dies(at, nth) | ProcessEnd::StandsStill(at, nth)) = self.how_it_ends(&state) else {
                return;
            };
            if state.is_over || at != place {
                state.is_over
            } else {
                state.passed += 1;
                state.is_over = state.passed == nth;
                state.is_over
            }
        };
        if ends_here {
            self.over.notify_one();
            std::future::pending::<()>().await;
        }
    }

    fn how_it_ends(&self, state: &State) -> ProcessEnd {
        // The last process lives on: it passes no place a zeroth time.
        self.plan.ends.get(state.number).copied().unwrap_or(ProcessEnd::Dies(Place::BeforeCommit, 0))
    }

    /// Whether the present process comes to its end by standing still.
    pub(super) fn stands_still(&self) -> bool {
        matches!(self.how_it_ends(&self.state()), ProcessEnd::StandsStill(..))
    }

    /// Whether something injected is due at a named place of the process.
    pub(super) fn is_due(&self, place: &str) -> bool {
        if let Some(of) = place.strip_prefix("agent.decide ") {
            return self.fails_at(of);
        }
        let mut state = self.state();
        let nth = match (self.how_it_ends(&state), place) {
            (ProcessEnd::WriteFails(nth), "journal.write") | (ProcessEnd::SyncFails(nth), "journal.sync") => nth,
            _ => return false,
        };
        state.passed += 1;
        state.passed == nth
    }

    /// Whether an agent fails as it is given an event: at some of them by chance, and at those that are poison each time.
    fn fails_at(&self, of: &str) -> bool {
        let mut words = of.split(' ');
        let (Some(run), Some(agent), Some(seq)) = (words.next(), words.next(), words.next()) else { return false };
        if super::plan::is_probe(&RunId::new(run)) {
            return false;
        }
        let seq = seq.parse().unwrap_or_default();
        let event = format!("{agent} {}", words.collect::<Vec<_>>().join(" "));
        let mut state = self.state();
        state.draws += 1;
        let draws = state.draws;
        let given = state.given.entry(format!("{run} {event}")).or_default();
        if !given.contains(&seq) {
            given.push(seq);
        }
        let nth = given.iter().position(|of| *of == seq).unwrap_or_default();
        self.plan.is_poison(&RunId::new(run), &event, nth) || Draw::of(self.plan.seed, "panic", &draws).happens(2)
    }

    /// Draws how long the disk takes.
    pub(super) fn disk_takes(&self, is_waited_for: bool) -> Duration {
        let mut state = self.state();
        state.draws += 1;
        let mut draw = Draw::of(self.plan.seed, "disk", &state.draws);
        match draw.below(20) {
            0 => draw.millis(300),
            1..8 => draw.millis(5),
            _ if is_waited_for => Duration::ZERO,
            _ => draw.millis(20),
        }
    }

    /// Looks at what a commit has made durable.
    pub(super) fn look_at_disk(&self) {
        let mut state = self.state();
        let Some(disk) = &mut state.disk else { return };
        let (added, wrong) = disk.look(&self.plan.network);
        state.live_through("commit");
        for (stream, record) in added {
            let payload = blake3::hash(&record.payload).to_hex();
            let (seq, time_ms, kind, labels) = (record.seq, record.time_ms, &record.kind, &record.labels);
            let (agent, incarnation) = (record.agent.as_deref().unwrap_or_default(), record.incarnation);
            let cause = record.cause.unwrap_or_default();
            state.note(&format!(
                "{stream} {seq} {time_ms} {kind} {agent} {incarnation} {cause} {labels:?} {}",
                &payload[..16]
            ));
        }
        wrong.into_iter().for_each(|what| state.blame(what));
        let lived = state.disk.as_mut().map(|disk| std::mem::take(&mut disk.mail.lived)).unwrap_or_default();
        lived.into_iter().for_each(|what| state.live_through(what));
    }
}

impl State {
    /// Returns the time, in milliseconds since 1970.
    pub(super) fn now(&self) -> u64 {
        self.process.map_or(self.now_ms, |(since, then_ms)| then_ms + since.elapsed().as_millis() as u64)
    }

    pub(super) fn note(&mut self, what: &str) {
        let line = format!("{:>8} {what}", self.now() - BEGINNING_MS);
        self.trace.update(line.as_bytes());
        self.trace.update(b"\n");
        self.words.iter_mut().for_each(|words| words.push(line.clone()));
    }

    /// Notes that something happened, and counts it.
    pub(super) fn live_through(&mut self, what: &str) {
        self.note(what);
        *self.lived.entry(what.to_owned()).or_default() += 1;
    }

    pub(super) fn blame(&mut self, what: String) {
        self.note(&format!("WRONG: {what}"));
        self.wrong.push(what);
    }

    /// Says what is wrong with a call that begins now.
    pub(super) fn objection(
        &self,
        run: &RunId,
        call: &CallId,
        attempt: Option<u32>,
        must_be_durable: bool,
    ) -> Option<String> {
        let on_disk = self.disk.as_ref()?.runs.get(run);
        let Some(on_disk) = on_disk else {
            return must_be_durable.then(|| format!("{run} {call} is made, and the run is not durable"));
        };
        // A parked run that is taken up is on disk a moment later, and what changes nothing does not wait for that.
        if on_disk.fold.run.end().is_some_and(|end| !end.status.is_parked()) {
            return Some(format!("{run} {call} is made, and the run has ended"));
        }
        if on_disk.has_result(call) {
            return Some(format!("{run} {call} is made again, and has its result"));
        }
        let open = on_disk.open_call(call).filter(|open| open.stage == Stage::Intended);
        let is_intended = open.is_some_and(|open| attempt.is_none_or(|attempt| open.attempt == attempt));
        (must_be_durable && !is_intended).then(|| format!("{run} {call} is made, and its intent is not durable"))
    }
}
