//! One simulated process: it opens the store, takes up what was under way, begins what has not begun, and lives until
//! all is over or it comes to its end.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::join_all;
use provost::fault;
use provost::journal::{Journal, Moment};
use provost::run::{Ballot, CallId, Envelope, Event, Resolution, RunId, Status};
use provost::runtime::{Answers, Controls, Error, Host, Past, Recorder, Report, RunHandle, RunRequest, Runtime};
use provost::spec::Network;
use tokio::time::sleep;

use super::disk::Disk;
use super::draw::Draw;
use super::outside::{Does, Model, Person};
use super::plan::{Disturbance, ForkPlan, INPUT, PROBE_INPUT, Place, RunPlan, TOOLS};
use super::world::World;

/// How long all runs of one process may take together, in the world's time, before they count as stuck.
const STUCK: Duration = Duration::from_secs(3_600);

/// How long it takes until a run hears that it is cancelled.
const CANCEL_MS: u64 = 1;

/// How many processes there may be beyond those that the plan ends.
const PROCESSES_MORE: usize = 8;

/// How often a run may be taken up in one process: it is parked a few times at the most.
const TAKEN_UP_AT_MOST: usize = 50;

type Writing = Pin<Box<dyn Future<Output = ()>>>;

/// The writer of a process that stands still: it goes on when its successor has begun.
pub(super) struct Still {
    writing: Writing,
    journal: Journal,
    ice: Ice,
}

/// How a process came to its end.
enum Ended {
    /// All runs are over.
    Finished,
    /// It died or stands still, or its store failed.
    Short,
}

/// Lets processes live one after the other until all runs are over.
pub(super) fn live(world: &Arc<World>) {
    let mut still = None;
    loop {
        let injected = {
            let world = world.clone();
            fault::inject(move |place| world.is_due(place))
        };
        let (ended, left) = one(world, still.take());
        drop(injected);
        still = left;
        if world.state().number > world.plan.ends.len() + PROCESSES_MORE {
            world.wrong("one process after the other comes to a bad end".to_owned());
        }
        if matches!(ended, Ended::Finished) || !world.state().wrong.is_empty() {
            return;
        }
    }
}

fn one(world: &Arc<World>, still: Option<Still>) -> (Ended, Option<Still>) {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (ended, left) = tokio.block_on(async {
        let now_ms = world.begin();
        let opened = Recorder::simulated(&world.directory, still.is_some(), now_ms, world.plan.events_per_snapshot);
        let (recorder, inline) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                world.wrong(format!("the store can't be opened: {error}"));
                return (Ended::Short, None);
            }
        };
        world.state().disk.get_or_insert_with(|| Disk::open(&world.directory));
        let recorder = Arc::new(recorder);
        let (journal, ice) = (recorder.journal().cloned(), Ice::default());
        let mut writing: Writing = Box::pin(inline.write(pace(world.clone(), ice.clone(), still)));
        let mut working = Box::pin(work(world, &recorder));
        let mut is_closed = false;
        let ended = loop {
            tokio::select! {
                biased;
                () = world.over() => break Ended::Short,
                () = &mut writing, if !is_closed => is_closed = true,
                ended = &mut working => break ended,
                () = sleep(STUCK) => {
                    world.wrong("it does not end".to_owned());
                    break Ended::Short;
                }
            }
        };
        let stands_still = world.stands_still();
        let left = journal.filter(|_| stands_still && !is_closed).map(|journal| Still { writing, journal, ice });
        world.end(match (&ended, &left) {
            (Ended::Finished, _) => "process done",
            (_, Some(_)) => "process stood still",
            (_, None) => "process died",
        });
        (ended, left)
    });
    drop(tokio);
    (ended, left)
}

/// Whether a process that stood still may go on.
#[derive(Clone, Default)]
struct Ice(Rc<Cell<bool>>);

impl Ice {
    /// Waits until it may go on. Whoever lets it go on polls it.
    fn melts(&self) -> impl Future<Output = ()> {
        poll_fn(|_| if self.0.get() { Poll::Ready(()) } else { Poll::Pending })
    }
}

/// Says how fast the disk is, and where the process ends in writing to it. A predecessor that stood still goes on at the
/// first commit.
fn pace(world: Arc<World>, ice: Ice, mut still: Option<Still>) -> impl AsyncFnMut(Moment) + use<> {
    async move |moment| {
        let passes = async {
            match moment {
                Moment::Due { is_waited_for } => {
                    let takes = world.disk_takes(is_waited_for);
                    if !takes.is_zero() {
                        sleep(takes).await;
                    }
                    if let Some(still) = still.take() {
                        go_on(&world, still);
                    }
                    world.pass(Place::BeforeCommit).await;
                }
                Moment::Committed => {
                    world.look_at_disk();
                    world.pass(Place::AfterCommit).await;
                }
                Moment::Failed => world.state().live_through("store failed"),
            }
        };
        tokio::select! {
            biased;
            () = ice.melts() => {}
            () = passes => {}
        }
    }
}

/// Lets a process that stood still write what it had to write. It must not be able to.
fn go_on(world: &World, still: Still) {
    let Still { mut writing, journal, ice } = still;
    let commits = journal.commits();
    ice.0.set(true);
    let mut context = Context::from_waker(Waker::noop());
    let _ = writing.as_mut().poll(&mut context);
    if journal.commits() > commits {
        world.wrong("a process that was taken over has written".to_owned());
    }
    world.note(&format!("the process that stood still goes on; its store has failed: {}", journal.failure().is_some()));
}

async fn work(world: &Arc<World>, recorder: &Arc<Recorder>) -> Ended {
    let mut builder = Runtime::builder(Network::new(world.plan.network.clone()).unwrap())
        .recorder(recorder.clone())
        .approver(Person { world: world.clone() });
    for name in world.plan.network.models.keys() {
        builder = builder.provider(name, Model { world: world.clone(), name: name.clone() });
    }
    for (name, class) in TOOLS {
        builder = builder.tool(name, Does { world: world.clone(), name, class });
    }
    let runtime = builder.start().await.unwrap();
    let process = Process { world, recorder, runtime, host: Host::new(recorder.clone()) };
    for are_forks in [false, true] {
        let runs = world.plan.runs.iter().filter(|run| run.fork.is_some() == are_forks);
        if join_all(runs.map(|run| process.go(run))).await.iter().any(Result::is_err) {
            return Ended::Short;
        }
    }
    if let Err(error) = process.probe().await {
        let _ = process.unless_store(error);
        return Ended::Short;
    }
    process.runtime.shutdown().await;
    if recorder.has_mail() {
        world.wrong("all runs are over, and something is left in a mailbox".to_owned());
    }
    match recorder.close().await {
        Ok(()) => Ended::Finished,
        Err(_) => Ended::Short,
    }
}

pub(super) struct Process<'a> {
    pub(super) world: &'a Arc<World>,
    recorder: &'a Arc<Recorder>,
    runtime: Runtime,
    pub(super) host: Host,
}

impl Process<'_> {
    /// Goes with a run to its end. An error means that the store has failed.
    async fn go(&self, run: &RunPlan) -> Result<(), Error> {
        sleep(run.begins_after).await;
        for _ in 0..TAKEN_UP_AT_MOST {
            let past = match self.recorder.past(&run.id) {
                Ok(past) => Some(past),
                Err(Error::NoSuchRun(_)) => None,
                Err(error) => return Err(self.unless_store(error)),
            };
            if past.is_none() && self.world.state().runs.get(&run.id).is_some_and(|known| known.has_begun) {
                self.world.wrong(format!("run {} is lost", run.id));
            }
            let begun = match past {
                None => self.begin(run).await,
                Some(past) if !past.state.status().can_go_on() => return Ok(()),
                Some(past) if past.state.status() == Status::InDoubt => {
                    self.resolve(run, &past).await.map_err(|error| self.unless_store(error))?;
                    continue;
                }
                Some(past) if past.state.status() == Status::AwaitingInput => {
                    self.answer_at_rest(run, &past).await.map_err(|error| self.unless_store(error))?;
                    continue;
                }
                Some(past) => {
                    let answers = self.answers(run, &past);
                    self.resume(run, past, answers).await
                }
            };
            let handle = begun.map_err(|error| self.unless_store(error))?;
            self.has_begun(&run.id);
            let report = self.accompany(run, handle).await.map_err(|error| self.unless_store(error))?;
            self.told(&report);
        }
        self.world.wrong(format!("run {} is taken up over and over", run.id));
        Ok(())
    }

    /// Begins a run, from a point of another's past if it is a fork.
    async fn begin(&self, run: &RunPlan) -> Result<RunHandle, Error> {
        let Some(ForkPlan { of, at_percent, is_told }) = &run.fork else {
            return self.runtime.start(request(run)).await;
        };
        let past = self.recorder.whole_past(of)?;
        let at = (past.state.head() * at_percent / 100).max(1);
        let point = match past.fork_point(at, &run.id) {
            // It is at the run's end, or would be.
            Err(Error::NoForkPoint { why, .. }) => past.fork_point(why.last.unwrap_or(1), &run.id),
            found => found,
        }?;
        self.world.note(&format!("run {of} is forked at {}", point.at));
        self.runtime.fork(point, is_told.then(|| "mind the gap".into()), run.is_attended).await
    }

    /// Takes a run up again. Sometimes two want to at once, and one of them must not.
    async fn resume(&self, run: &RunPlan, past: Past, answers: Answers) -> Result<RunHandle, Error> {
        let mut draw = Draw::of(self.world.plan.seed, "twice", &format!("{} {}", run.id, past.state.head()));
        let again = if draw.happens(15) { Some(self.recorder.past(&run.id)?) } else { None };
        let first = self.runtime.resume(past, answers.clone());
        let Some(again) = again else { return first.await };
        match tokio::join!(biased; first, self.runtime.resume(again, answers)) {
            (Ok(first), Ok(_)) => {
                self.world.wrong(format!("run {} is taken up by two", run.id));
                Ok(first)
            }
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// Nothing but the store may fail.
    fn unless_store(&self, error: Error) -> Error {
        if !matches!(error, Error::Journal(_)) {
            self.world.wrong(format!("it fails: {error}"));
        }
        error
    }

    fn answers(&self, run: &RunPlan, past: &Past) -> Answers {
        let answer = |call: &CallId| (call.clone(), Ballot::of(self.world.plan.approval(&run.id, call).0));
        let ballots = past.state.awaiting_approval().map(|(call, _)| answer(call)).collect();
        Answers { ballots, is_attended: run.is_attended }
    }

    /// Says of each call in doubt what the world has seen of it.
    async fn resolve(&self, run: &RunPlan, past: &Past) -> Result<(), Error> {
        for (call, open) in past.state.in_doubt() {
            let resolution = {
                let state = self.world.state();
                let begun_in = open.begun_in.as_ref().unwrap_or(&run.id);
                let deed = state.deeds.get(&format!("{begun_in}/{call}")).filter(|deed| deed.effects > 0);
                let returns = self.world.plan.tool(&run.id, call).0 == super::plan::ToolEnd::Returns;
                match deed {
                    None => Resolution::Retry,
                    Some(deed) if returns => Resolution::Done { result: deed.result.clone() },
                    Some(_) => Resolution::Fail,
                }
            };
            self.host.resolve(&run.id, call.clone(), resolution).await?;
        }
        Ok(())
    }

    /// Somebody is told that the run has begun: so it must be durable.
    fn has_begun(&self, run: &RunId) {
        let mut state = self.world.state();
        let is_durable = state.disk.as_ref().is_some_and(|disk| disk.runs.contains_key(run));
        if !is_durable {
            state.blame(format!("run {run} is said to have begun, and is not durable"));
        }
        state.runs.entry(run.clone()).or_default().has_begun = true;
    }

    /// Somebody is told how the run ended: so it must be durable.
    fn told(&self, report: &Report) {
        let (run, status) = (&report.run, report.status);
        self.world.note(&format!("run {run} is {}", status.word()));
        let mut state = self.world.state();
        let durable = state.disk.as_ref().and_then(|disk| disk.runs.get(run)).map(super::disk::OnDisk::status);
        if durable != Some(status) {
            state.blame(format!("run {run} is said to be {status:?}, and what is durable is {durable:?}"));
        }
        if !status.is_parked() {
            state.runs.entry(run.clone()).or_default().told = Some(status);
        }
    }

    /// Waits for the end of a run, and disturbs it meanwhile if that is to happen.
    async fn accompany(&self, run: &RunPlan, handle: RunHandle) -> Result<Report, Error> {
        let controls = handle.controls();
        let mut waits = Box::pin(self.answering(run, controls.clone(), handle.wait()));
        let is_due = !self.world.state().runs.get(&run.id).is_some_and(|known| known.is_disturbed);
        if let (Some((after, disturbance)), true) = (run.disturbance, is_due) {
            let disturb = async {
                sleep(after).await;
                self.world.state().runs.entry(run.id.clone()).or_default().is_disturbed = true;
                disturb(&controls, disturbance).await;
            };
            let is_cancel = disturbance == Disturbance::Cancel;
            tokio::select! {
                biased;
                report = &mut waits => return report,
                () = disturb => {}
            }
            let since_ms = self.world.state().now();
            let report = waits.await?;
            if is_cancel {
                self.begins_nothing(&run.id, since_ms + CANCEL_MS);
            }
            return Ok(report);
        }
        waits.await
    }

    /// A run that has been cancelled begins no more calls.
    fn begins_nothing(&self, run: &RunId, after_ms: u64) {
        let mut state = self.world.state();
        let events = state.disk.iter().filter_map(|disk| disk.runs.get(run)).flat_map(|run| &run.events);
        let is_late = |envelope: &&Arc<Envelope>| {
            let begins = matches!(envelope.event, Event::CallIntended { .. } | Event::InputRequested { .. });
            begins && envelope.time_ms > after_ms
        };
        let late = events.filter(is_late).map(|envelope| envelope.seq).next();
        if let Some(seq) = late {
            state.blame(format!("run {run} was cancelled, and begins a call at event {seq}"));
        }
    }

    /// Begins as many runs at once as there is room for model calls, and sees that there is room for all of them: what
    /// was taken has been given back.
    async fn probe(&self) -> Result<(), Error> {
        let spec = &self.world.plan.network;
        let entry = &spec.agents[&spec.network.entry];
        let of_model = entry.model.as_ref().and_then(|choice| spec.models[&choice.prefer].in_flight);
        let fleet = &spec.network.fleet;
        let bounds = [of_model, fleet.model_calls_in_flight, fleet.runs_in_flight, entry.in_flight];
        // What is paced is not under way at once.
        let is_paced = spec.models.values().any(|model| model.requests_per_minute.is_some());
        let room = bounds.into_iter().flatten().min().filter(|_| !is_paced);
        let limits = &spec.network.limits;
        let is_cut_short = limits.tokens.is_some() || limits.cost_usd.is_some() || limits.deadline.is_some();
        let Some(room) = room.filter(|_| !is_cut_short) else { return Ok(()) };
        let process = self.world.state().number;
        let mut most = 0;
        // A model that has refused calls is asked for more by and by.
        for round in 0..PROBES {
            let handles = join_all((0..room).map(|number| {
                let id = super::plan::probe(process, round * room + number);
                self.runtime.start(RunRequest { id: Some(id), ..RunRequest::new(PROBE_INPUT) })
            }))
            .await;
            self.world.most_in_flight();
            let handles = handles.into_iter().collect::<Result<Vec<_>, _>>()?;
            let waits = join_all(handles.into_iter().map(RunHandle::wait));
            for report in waits.await {
                report?;
            }
            most = self.world.most_in_flight();
            // Where all share a budget there may be none left for them.
            if most >= room || !self.world.plan.network.budgets.is_empty() {
                return Ok(());
            }
        }
        self.world.wrong(format!("there was room for {most} model calls of {room}"));
        Ok(())
    }
}

/// How often it is looked whether there is room.
const PROBES: u32 = 6;

fn request(run: &RunPlan) -> RunRequest {
    RunRequest {
        id: Some(run.id.clone()),
        tenant: run.tenant.into(),
        session: run.session.map(Into::into),
        is_attended: run.is_attended,
        directory: Some("/".into()),
        ..RunRequest::new(INPUT)
    }
}

async fn disturb(controls: &Controls, disturbance: Disturbance) {
    match disturbance {
        Disturbance::Cancel => controls.cancel("somebody wants it so"),
        Disturbance::Pause(pause) => {
            controls.pause().await;
            sleep(pause).await;
            controls.unpause().await;
        }
        // It may have ended just now.
        Disturbance::Steer => drop(controls.steer(None, "mind the gap".to_owned()).await),
    }
}
