//! The world around the simulated processes: its clock, its models and tools, its disk. It outlives them, and it sees
//! at once when one of them does what it must not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use provost::model::{Error, Provider, Reply, Request};
use provost::run::{Body, CallId, RunId, Stage, Status};
use provost::runtime::{Approver, Question};
use provost::tool::{self, Effect, Tool};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::disk::Disk;
use super::draw::Draw;
use super::plan::{
    INPUT, INPUT_NANO_USD, ModelFault, OUTPUT_NANO_USD, PROBE_INPUT, Place, Plan, ProcessEnd, QUESTION, TOOL_TIMEOUT,
    ToolEnd, tool_result,
};

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
    in_flight: BTreeMap<String, (u32, u32)>,
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
    /// The draw at which an agent failed last.
    last_panic: u64,
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
            runs: BTreeMap::new(),
            process: None,
            now_ms: BEGINNING_MS,
            number: 0,
            passed: 0,
            is_over: false,
            draws: 0,
            last_panic: 0,
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
        let mut state = self.state();
        if place == "agent.decide" {
            state.draws += 1;
            let draws = state.draws;
            // Not twice in a row at the same event: that one would be rejected.
            let is_due = draws > state.last_panic + 50 && Draw::of(self.plan.seed, "panic", &draws).happens(2);
            state.last_panic = if is_due { draws } else { state.last_panic };
            return is_due;
        }
        let nth = match (self.how_it_ends(&state), place) {
            (ProcessEnd::WriteFails(nth), "journal.write") | (ProcessEnd::SyncFails(nth), "journal.sync") => nth,
            _ => return false,
        };
        state.passed += 1;
        state.passed == nth
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
    }
}

impl State {
    /// Returns the time, in milliseconds since 1970.
    pub(super) fn now(&self) -> u64 {
        self.process.map_or(self.now_ms, |(since, then_ms)| then_ms + since.elapsed().as_millis() as u64)
    }

    fn note(&mut self, what: &str) {
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
    fn objection(&self, run: &RunId, call: &CallId, attempt: Option<u32>, must_be_durable: bool) -> Option<String> {
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

/// A call of a model, while it is under way.
struct InFlight {
    world: Arc<World>,
    model: String,
}

impl InFlight {
    fn begin(world: &Arc<World>, model: &str, bound: Option<u32>) -> Self {
        let mut state = world.state();
        let (now, most) = state.in_flight.entry(model.to_owned()).or_default();
        *now += 1;
        *most = (*most).max(*now);
        let now = *now;
        if bound.is_some_and(|bound| now > bound) {
            state.blame(format!("{now} calls of {model} are under way, of at most {bound:?}"));
        }
        drop(state);
        Self { world: world.clone(), model: model.to_owned() }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some((now, _)) = self.world.state().in_flight.get_mut(&self.model) {
            *now = now.saturating_sub(1);
        }
    }
}

impl World {
    /// Returns how many calls of all models have been under way at once since the last time that this was asked.
    pub(super) fn most_in_flight(&self) -> u32 {
        self.state().in_flight.insert(ALL.to_owned(), (0, 0)).map_or(0, |(_, most)| most)
    }
}

/// All models together, among those in flight.
const ALL: &str = "all models";

/// A model of the world.
pub(super) struct Model {
    pub(super) world: Arc<World>,
    pub(super) name: String,
}

impl Provider for Model {
    fn call<'a>(
        &'a self,
        request: &'a Request,
        _: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(self.answer(request))
    }
}

impl Model {
    async fn answer(&self, request: &Request) -> Result<Reply, Error> {
        let (world, plan) = (&self.world, &self.world.plan);
        let (run, call, attempt) = (&request.run, &request.call, request.attempt);
        world.pass(Place::ModelCall).await;
        {
            let mut state = world.state();
            state.note(&format!("model {run} {call} try {attempt}"));
            let objection = state.objection(run, call, Some(attempt), true);
            objection.into_iter().for_each(|what| state.blame(what));
            if !is_asked_as_it_should(request) {
                state.blame(format!("{run} {call} is not told what it is asked"));
            }
        }
        let bound = plan.network.models[&self.name].in_flight;
        let _in_flight = InFlight::begin(world, &self.name, bound);
        let _of_all = InFlight::begin(world, ALL, plan.network.network.fleet.model_calls_in_flight);
        let (latency, fault) = plan.model(run, call, attempt);
        let reply = plan.reply(run, call, &request.agent, &request.messages);
        let usage = reply.usage.unwrap_or_default();
        // What is read is billed as soon as it is read.
        let is_billed =
            matches!(fault, None | Some(ModelFault::Cut { .. } | ModelFault::TimesOut | ModelFault::Gibberish));
        let bill = |tokens: u64, nano_usd_per_token: u64| {
            let mut state = world.state();
            let (of_tokens, of_cost) = state.billed.entry(run.clone()).or_default();
            (*of_tokens, *of_cost) = (*of_tokens + tokens, *of_cost + tokens * nano_usd_per_token);
        };
        bill(if is_billed { usage.input_tokens } else { 0 }, INPUT_NANO_USD);
        sleep(latency).await;
        bill(if is_billed { usage.output_tokens } else { 0 }, OUTPUT_NANO_USD);
        world.pass(Place::ModelReply).await;
        world.note(&format!("model {run} {call} try {attempt} says {fault:?}"));
        match fault {
            None => Ok(reply),
            Some(fault) => Err(fault.error(reply.usage)),
        }
    }
}

/// Whether the transcript begins with what the input or another agent asked.
fn is_asked_as_it_should(request: &Request) -> bool {
    let first = request.messages.first().map(|message| &message.body);
    matches!(first, Some(Body::User { text }) if [INPUT, PROBE_INPUT, QUESTION].contains(&text.as_str()))
}

/// A tool of the world.
pub(super) struct Does {
    pub(super) world: Arc<World>,
    pub(super) name: &'static str,
    pub(super) class: Effect,
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct What {
    #[serde(rename = "what")]
    _what: String,
}

impl Tool for Does {
    type Arguments = What;
    type Output = String;

    fn description(&self) -> String {
        format!("Does what is {}.", self.class.word())
    }

    fn effect(&self) -> Effect {
        self.class
    }

    async fn call(&self, _: What, call: tool::Call) -> Result<String, tool::Error> {
        let world = &self.world;
        let (run, id, key) = (&call.run, &call.id, &call.idempotency_key);
        let result = tool_result(self.name, id);
        world.pass(Place::ToolCall).await;
        {
            let mut state = world.state();
            state.note(&format!("tool {key} begins"));
            let objection = state.objection(run, id, None, self.class != Effect::Pure);
            objection.into_iter().for_each(|what| state.blame(what));
            let begun_in = run.as_str().rsplit('.').next().unwrap_or_default();
            if *key != format!("{run}/{id}") && *key != format!("{begun_in}/{id}") {
                state.blame(format!("{run} {id} is made under the key {key}"));
            }
            let deed = state.deeds.entry(key.clone()).or_default();
            (deed.class, deed.result) = (Some(self.class), result.clone());
            deed.begun += 1;
        }
        let (end, before, after) = world.plan.tool(run, id);
        sleep(before).await;
        world.pass(Place::ToolEffect).await;
        {
            let mut state = world.state();
            let on_disk = state.disk.as_ref().and_then(|disk| disk.runs.get(run));
            if on_disk.and_then(|run| run.fold.run.end()).is_some_and(|end| !end.status.is_parked()) {
                state.blame(format!("{run} {id} is done, and the run has ended"));
            }
            let deed = state.deeds.entry(key.clone()).or_default();
            deed.effects += 1;
            if deed.effects > 1 && self.class == Effect::Once {
                state.blame(format!("{key} was done twice"));
            }
            state.note(&format!("tool {key} does it"));
        }
        sleep(after).await;
        world.pass(Place::ToolReturn).await;
        match end {
            ToolEnd::Returns => Ok(result),
            ToolEnd::Fails => Err(tool::Error::Failed("it fails".to_owned())),
            ToolEnd::Panics => panic!("injected: the tool panics"),
            ToolEnd::Hangs => {
                sleep(10 * TOOL_TIMEOUT).await;
                Ok(result)
            }
        }
    }
}

/// A person who can be asked.
pub(super) struct Person {
    pub(super) world: Arc<World>,
}

impl Approver for Person {
    fn ask<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let (granted, after) = self.world.plan.approval(&question.run, &question.call);
            sleep(after).await;
            granted
        })
    }
}
