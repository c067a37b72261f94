//! All networks and runs that one process has under way, and all that can be done with a run by its name, whether it
//! is under way, interrupted, parked or over.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Slot;
use serde_json::Value;
use tokio::sync::Mutex;

use super::definitions::definitions;
use super::offline::Offline;
use super::policies::{self, ReloadedPolicies};
use super::run_supervisor::resolvable;
use super::{
    Answers, Approved, Approver, Controls, Error, Fork, Past, Recorder, RunHandle, RunRequest, Runtime, Settled,
    Settlement,
};
use crate::run::{AgentId, Ballot, CallId, Counted, Event, LetterId, Priority, Resolution, RunEnd, RunId, Status};
use crate::spec::Network;

/// Reads the network that a run is kept with.
fn read(run: &RunId, text: &str) -> Result<Network, Error> {
    Network::from_text(text).map_err(|source| Error::Network { run: run.clone(), source: Arc::new(source) })
}

/// How often it is looked whether a run that is being taken up has been.
const TAKING_UP: Duration = Duration::from_millis(5);

/// All networks and runs that one process has under way, on one store.
pub struct Host {
    recorder: Arc<Recorder>,
    approver: Option<Arc<dyn Approver>>,
    is_followed: bool,
    runtimes: Mutex<Runtimes>,
    /// The runs under way; none while one is being taken up.
    live: DashMap<RunId, Option<Live>>,
    /// Held while a dead letter is settled, so that none is twice.
    letters: Mutex<()>,
    /// Held while a run at rest is given an answer, so that of two the second one finds the first.
    answering: Mutex<()>,
}

/// The networks that have runs.
#[derive(Default)]
struct Runtimes {
    /// By their text, with the policies that hold in them: what starts a run finds those that it has read.
    by_text: HashMap<Arc<str>, Arc<Runtime>>,
    /// Those in which other policies hold since than the text says. They have the runs that were under way then, and get no
    /// new ones.
    reloaded: Vec<Arc<Runtime>>,
}

impl Runtimes {
    fn all(&self) -> impl Iterator<Item = &Arc<Runtime>> {
        self.by_text.values().chain(&self.reloaded)
    }

    /// Takes out those that nobody uses.
    fn take_idle(&mut self, is_used: impl Fn(&Arc<Runtime>) -> bool) -> Vec<Arc<Runtime>> {
        let of_text = self.by_text.extract_if(|_, runtime| !is_used(runtime)).map(|(_, runtime)| runtime);
        of_text.chain(self.reloaded.extract_if(.., |runtime| !is_used(runtime))).collect()
    }
}

/// An answer that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The call that asked.
    pub call: CallId,
    /// Whether the run is under way, and goes on with it by itself.
    pub is_under_way: bool,
}

/// A run under way.
struct Live {
    /// What has it. Who is told of other policies is found by it, and it is not kept by it.
    runtime: Weak<Runtime>,
    controls: Controls,
}

impl Live {
    fn new(runtime: &Arc<Runtime>, handle: &RunHandle) -> Self {
        Self { runtime: Arc::downgrade(runtime), controls: handle.controls() }
    }

    fn is_of(&self, runtime: &Arc<Runtime>) -> bool {
        std::ptr::eq(self.runtime.as_ptr(), Arc::as_ptr(runtime))
    }
}

impl Host {
    /// Makes a host on a store.
    pub fn new(recorder: impl Into<Arc<Recorder>>) -> Self {
        let (recorder, runtimes, live) = (recorder.into(), Mutex::default(), DashMap::new());
        Self {
            recorder,
            approver: None,
            is_followed: false,
            runtimes,
            live,
            letters: Mutex::default(),
            answering: Mutex::default(),
        }
    }

    /// Sets who is asked for approval by runs that are attended.
    #[must_use]
    pub fn with_approver(mut self, approver: impl Approver) -> Self {
        self.approver = Some(Arc::new(approver));
        self
    }

    /// Lets runs be followed from the first word of their models on. See [`Builder::followed`](super::Builder::followed).
    #[must_use]
    pub fn followed(mut self) -> Self {
        self.is_followed = true;
        self
    }

    /// Returns what the runs are written down by.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Starts a run of a network. See [`Runtime::start`]. To be awaited to its end: a run whose start was given up may be
    /// under way without this host knowing of it.
    ///
    /// # Errors
    /// As for [`Runtime::start`] and [`Builder::start`](super::Builder::start).
    pub async fn start(&self, network: Network, request: RunRequest) -> Result<RunHandle, Error> {
        self.recorder.check()?;
        let run = request.id.clone().unwrap_or_else(super::new_run_id);
        let request = RunRequest { id: Some(run.clone()), ..request };
        self.launch(run, network, async |runtime| runtime.start(request).await).await
    }

    /// Starts a run from a point of another one's past, in `network` or else in the one that holds there, changed by
    /// `change`; returns it and the event at which it was forked. See [`Runtime::fork`]. The other run may be under way,
    /// here too. To be awaited to its end, as [`Host::start`].
    ///
    /// # Errors
    /// There is no such run or its events have been pruned; else as for [`Runtime::fork`].
    pub async fn fork<E: From<Error>>(
        &self,
        parent: &RunId,
        fork: Fork,
        network: Option<Network>,
        change: impl FnOnce(Network) -> Result<Network, E>,
    ) -> Result<(RunHandle, u64), E> {
        self.recorder.check()?;
        let Fork { at, input, priority, id, is_attended } = fork;
        let run = id.unwrap_or_else(super::new_run_id);
        let mut point = self.recorder.whole_past(parent)?.fork_point(at, &run)?;
        point.priority = priority;
        let network = match network {
            Some(network) => network,
            None => policies::present(read(parent, &point.network())?).map_err(Error::from)?,
        };
        let (network, at) = (change(network)?, point.at);
        let forked = self.launch(run, network, async |runtime| runtime.fork(point, input, is_attended).await);
        Ok((forked.await?, at))
    }

    /// Gives a dead letter to its agent once more, in the run `into` (a new one where that is left out), which has the
    /// network that the letter's run is kept with, changed by `change`. Whose the run is, its variables, its directory and
    /// what templates see as its input are those of the letter's run, and so is its priority where none is given; its limits
    /// are its own. When this returns, the run is in the store and the letter is settled: no crash leaves one without the
    /// other. To be awaited to its end, as [`Host::start`].
    ///
    /// # Errors
    /// There is no such letter, its run has been pruned, or it is settled; else as for [`Runtime::start`].
    pub async fn put_back<E: From<Error>>(
        &self,
        letter: &LetterId,
        into: Option<RunId>,
        priority: Option<Priority>,
        is_attended: bool,
        change: impl FnOnce(Network) -> Result<Network, E>,
    ) -> Result<RunHandle, E> {
        self.recorder.check()?;
        let _alone = self.letters.lock().await;
        let (letter, past) = self.recorder.open_letter(letter)?;
        let network = change(policies::present(read(&letter.id.run, &past.network())?).map_err(Error::from)?)?;
        let run = into.unwrap_or_else(super::new_run_id);
        let mut of = past.state.beginning().cloned().ok_or(Error::Stopped)?;
        of.priority = priority.unwrap_or(of.priority);
        let begin = async |runtime: &Runtime| runtime.put_back(letter, of, run.clone(), is_attended).await;
        Ok(self.launch(run.clone(), network, begin).await?)
    }

    /// Settles a dead letter that nobody wants any more. It stays in its run's events.
    ///
    /// # Errors
    /// There is no such letter, its run has been pruned, it is settled, or the store can't be written.
    pub async fn drop_letter(&self, letter: &LetterId, reason: Option<String>) -> Result<(), Error> {
        self.recorder.check()?;
        let _alone = self.letters.lock().await;
        let (letter, _) = self.recorder.open_letter(letter)?;
        let now_ms = self.recorder.now_ms();
        self.recorder.settle(Settled { letter: letter.id, how: Settlement::Dropped { reason }, time_ms: now_ms }).await
    }

    /// Starts a run that nobody has yet.
    async fn launch(
        &self,
        run: RunId,
        network: Network,
        start: impl AsyncFnOnce(&Runtime) -> Result<RunHandle, Error>,
    ) -> Result<RunHandle, Error> {
        let runtime = self.runtime(network).await?;
        match self.live.entry(run.clone()) {
            Slot::Occupied(slot) if slot.get().as_ref().is_none_or(|live| live.controls.is_live()) => {
                return Err(Error::Unfit { run, why: "exists already".to_owned() });
            }
            slot => drop(slot.insert(None)),
        }
        let started = start(&runtime).await;
        match &started {
            Ok(handle) => {
                drop(self.live.insert(run, Some(Live::new(&runtime, handle))));
            }
            Err(_) => drop(self.live.remove(&run)),
        }
        started
    }

    /// Takes up a run again that was interrupted or parked, on the network that it is kept with, changed by `change`.
    /// A run that is under way goes on if it was paused; none is returned then. To be awaited to its end, as
    /// [`Host::start`].
    ///
    /// # Errors
    /// There is no such run, it has ended for good, or its network can't be started; see [`Runtime::resume`].
    pub async fn resume<E: From<Error>>(
        &self,
        run: &RunId,
        answers: Answers,
        change: impl FnOnce(Network) -> Result<Network, E>,
    ) -> Result<Option<RunHandle>, E> {
        self.recorder.check()?;
        if let Some(controls) = self.controls(run) {
            controls.unpause().await;
            return Ok(None);
        }
        match self.live.entry(run.clone()) {
            // Somebody else is taking it up, or just has.
            Slot::Occupied(slot) if slot.get().as_ref().is_none_or(|live| live.controls.is_live()) => return Ok(None),
            slot => drop(slot.insert(None)),
        }
        let taken_up = self.take_up(run, answers, change).await;
        match &taken_up {
            Ok((handle, runtime)) => {
                drop(self.live.insert(run.clone(), Some(Live::new(runtime, handle))));
            }
            Err(_) => drop(self.live.remove(run)),
        }
        taken_up.map(|(handle, _)| Some(handle))
    }

    async fn take_up<E: From<Error>>(
        &self,
        run: &RunId,
        answers: Answers,
        change: impl FnOnce(Network) -> Result<Network, E>,
    ) -> Result<(RunHandle, Arc<Runtime>), E> {
        let past = self.recorder.past(run)?;
        let network = change(policies::present(read(run, &past.network())?).map_err(Error::from)?)?;
        let runtime = self.runtime(network).await?;
        Ok((runtime.resume(past, answers).await?, runtime))
    }

    /// Returns the runtime of a network, in which its policies hold; it is started by the network's first run.
    async fn runtime(&self, network: Network) -> Result<Arc<Runtime>, Error> {
        let text: Arc<str> = network.to_text().into();
        let mut runtimes = self.runtimes.lock().await;
        if let Some(runtime) = runtimes.by_text.get(&text) {
            return Ok(runtime.clone());
        }
        self.live.retain(|_, live| live.as_ref().is_none_or(|live| live.controls.is_live()));
        let is_used =
            |runtime: &Arc<Runtime>| self.live.iter().any(|live| live.as_ref().is_none_or(|live| live.is_of(runtime)));
        for runtime in runtimes.take_idle(is_used) {
            // One that somebody is just about to use is left to live.
            if let Some(runtime) = Arc::into_inner(runtime) {
                runtime.shutdown().await;
            }
        }
        let mut builder = Runtime::builder(network).recorder(self.recorder.clone());
        (builder.approver, builder.is_followed) = (self.approver.clone(), self.is_followed);
        let runtime = Arc::new(builder.start().await?);
        runtimes.by_text.insert(text, runtime.clone());
        Ok(runtime)
    }

    /// Returns how to tell a run something, if it is under way.
    pub fn controls(&self, run: &RunId) -> Option<Controls> {
        let live = self.live.get(run)?;
        let controls = &live.as_ref()?.controls;
        controls.is_live().then(|| controls.clone())
    }

    /// Returns the runs under way.
    pub fn live(&self) -> Vec<RunId> {
        let is_live = |live: &Option<Live>| live.as_ref().is_none_or(|live| live.controls.is_live());
        self.live.iter().filter(|entry| is_live(entry.value())).map(|entry| entry.key().clone()).collect()
    }

    /// Cancels a run: one under way stops its calls; one that is interrupted or parked is ended where it stands. What
    /// calls that were cut off had reserved is charged.
    ///
    /// # Errors
    /// There is no such run, it has ended, or the store can't be written.
    pub async fn cancel(&self, run: &RunId, reason: &str) -> Result<(), Error> {
        self.recorder.check()?;
        if let Some(controls) = self.controls(run) {
            controls.cancel(reason);
            return Ok(());
        }
        let past = self.at_rest(run)?;
        Offline::new(&self.recorder, run, past)?.end(RunEnd::without_answer(Status::Cancelled, reason)).await
    }

    /// Says what became of a call that is in doubt. A run under way goes on with it at once; one that is parked does
    /// so when it is taken up again.
    ///
    /// # Errors
    /// There is no such run, it has no such call in doubt, or the store can't be written.
    pub async fn resolve(&self, run: &RunId, call: CallId, resolution: Resolution) -> Result<(), Error> {
        self.recorder.check()?;
        let unfit = |why| Error::Unfit { run: run.clone(), why };
        if let Some(controls) = self.controls(run) {
            return controls.resolve(call, resolution).await.map_err(unfit);
        }
        let past = self.at_rest(run)?;
        resolvable(&past.state, &call).map_err(unfit)?;
        let mut offline = Offline::new(&self.recorder, run, past)?;
        let agent = call.agent.clone();
        let by = super::run_supervisor::PERSON.into();
        offline.record(Some(&agent), Event::CallResolved { call, resolution, by });
        offline.write().await
    }

    /// Answers what an agent of a run asks a person: the question of that call, or the only one that is open where none is
    /// named. A run under way goes on with it at once; one that is parked does so when it is taken up again. The answer is
    /// durable when this returns.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] if it can't be taken: a question takes one answer. There is no such run, or the store can't be
    /// written.
    pub async fn answer(&self, run: &RunId, call: Option<CallId>, text: &str) -> Result<Answered, Error> {
        loop {
            self.recorder.check()?;
            let none = |why| Error::NoAnswer { run: run.clone(), why };
            if let Some(controls) = self.controls(run)
                && let Some(answered) = controls.answer_live(call.clone(), text).await
            {
                return answered.map(|call| Answered { call, is_under_way: true }).map_err(none);
            }
            let _alone = self.answering.lock().await;
            if self.live().contains(run) {
                // Somebody is just taking it up, or has meanwhile.
                tokio::time::sleep(TAKING_UP).await;
                continue;
            }
            let past = self.recorder.past(run)?;
            let (call, text) = past.state.answerable(call.as_ref(), text).map_err(none)?;
            let mut offline = Offline::new(&self.recorder, run, past)?;
            let agent = call.agent.clone();
            offline.record(Some(&agent), Event::InputGiven { call: call.clone(), text: text.into() });
            offline.write().await?;
            return Ok(Answered { call, is_under_way: false });
        }
    }

    /// Says of a call of a run whether it may happen: the named one, or the only one that awaits approval. A run under way goes
    /// on with it at once, which is returned beside it; one that is parked does so when it is taken up again. What was said is
    /// durable when this returns.
    ///
    /// # Errors
    /// [`Error::NotApproved`] if it can't be taken: a call is settled once. There is no such run, or the store can't be written.
    pub async fn approve(&self, run: &RunId, call: Option<CallId>, ballot: &Ballot) -> Result<(Approved, bool), Error> {
        loop {
            self.recorder.check()?;
            let none = |why| Error::NotApproved { run: run.clone(), why };
            if let Some(controls) = self.controls(run)
                && let Some(approved) = controls.approve_live(call.clone(), ballot).await
            {
                return approved.map(|approved| (approved, true)).map_err(none);
            }
            let _alone = self.answering.lock().await;
            if self.live().contains(run) {
                // Somebody is just taking it up, or has meanwhile.
                tokio::time::sleep(TAKING_UP).await;
                continue;
            }
            let past = self.recorder.past(run)?;
            let takes = |call: &CallId, given: &Value| {
                let network = read(run, &past.network()).map_err(|error| error.to_string())?;
                let definitions = definitions(&network, &HashMap::new(), &HashMap::new());
                super::run_supervisor::takes(&definitions.map_err(|error| error.to_string())?, &past.state, call, given)
            };
            let now_ms = self.recorder.now_ms();
            let (call, counted) = past.state.count_ballot(call.as_ref(), ballot, now_ms, takes).map_err(none)?;
            let (event, missing) = match counted {
                Counted::Voted { missing } => {
                    (Event::ApprovalVoted { call: call.clone(), by: ballot.by.clone() }, missing)
                }
                Counted::Decided { granted, verdict } => {
                    (Event::ApprovalDecided { call: call.clone(), granted, verdict }, 0)
                }
            };
            let mut offline = Offline::new(&self.recorder, run, past)?;
            offline.record(Some(&call.agent), event);
            offline.write().await?;
            return Ok((Approved { call, missing }, false));
        }
    }

    /// Reads the policy files of all networks that have runs in this process again. Calls that wait are asked about anew when
    /// their turn comes; all runs under way have it on record.
    ///
    /// # Errors
    /// A file can't be used: all stay as they are.
    pub async fn reload_policies(&self) -> Result<Vec<ReloadedPolicies>, Error> {
        self.recorder.check()?;
        let mut runtimes = self.runtimes.lock().await;
        let mut made = Vec::new();
        for runtime in runtimes.all() {
            if let Some(change) = runtime.read_policies()? {
                made.push((runtime.clone(), change));
            }
        }
        let mut reloaded = Vec::new();
        for (runtime, (network, policies)) in made {
            let (before, now) = (runtime.policies().hash().clone(), policies.hash().clone());
            let name = network.spec().network.name.as_str().into();
            if before != now {
                let network: Arc<str> = network.to_text().into();
                runtime.replace_policies(policies);
                let moved = runtimes.by_text.extract_if(|_, of_text| Arc::ptr_eq(of_text, &runtime)).next();
                runtimes.reloaded.extend(moved.map(|(_, runtime)| runtime));
                let of_it = self.live.iter().filter_map(|entry| {
                    entry.value().as_ref().filter(|live| live.is_of(&runtime)).map(|live| live.controls.clone())
                });
                of_it.for_each(|controls| controls.policy_changed(network.clone(), now.clone()));
            }
            let one = ReloadedPolicies { network: name, before, now };
            if !reloaded.contains(&one) {
                reloaded.push(one);
            }
        }
        Ok(reloaded)
    }

    /// Pauses a run under way: it begins no more calls until it is resumed.
    ///
    /// # Errors
    /// The run is not under way.
    pub async fn pause(&self, run: &RunId) -> Result<(), Error> {
        self.recorder.check()?;
        match self.controls(run) {
            Some(controls) if controls.pause().await => Ok(()),
            _ => Err(self.not_under_way(run)),
        }
    }

    /// Tells an agent of a run under way something. See [`Controls::steer`].
    ///
    /// # Errors
    /// The run is not under way, or has no such agent at work.
    pub async fn steer(&self, run: &RunId, agent: Option<AgentId>, text: String) -> Result<(), Error> {
        self.recorder.check()?;
        let Some(controls) = self.controls(run) else { return Err(self.not_under_way(run)) };
        controls.steer(agent, text).await.map_err(|why| Error::Unfit { run: run.clone(), why })
    }

    fn not_under_way(&self, run: &RunId) -> Error {
        match self.recorder.past(run) {
            Ok(past) => {
                let status = match past.state.status() {
                    Status::Running => Status::Interrupted,
                    status => status,
                };
                Error::Unfit { run: run.clone(), why: format!("is not under way: {}", status.word()) }
            }
            Err(error) => error,
        }
    }

    /// Returns the past of a run that is not under way and has not ended for good.
    fn at_rest(&self, run: &RunId) -> Result<Past, Error> {
        let past = self.recorder.past(run)?;
        let status = past.state.status();
        match status.can_go_on() {
            true => Ok(past),
            false => Err(Error::Unfit { run: run.clone(), why: format!("has ended: {}", status.word()) }),
        }
    }

    /// Waits until no run is under way.
    pub async fn idle(&self) {
        loop {
            let next = self.live.iter().find_map(|entry| entry.value().as_ref().map(|live| live.controls.clone()));
            match next.filter(Controls::is_live) {
                Some(controls) => controls.ended().await,
                None if self.live().is_empty() => return,
                // One is just being taken up.
                None => tokio::time::sleep(TAKING_UP).await,
            }
            self.live.retain(|_, live| live.as_ref().is_none_or(|live| live.controls.is_live()));
        }
    }

    /// Cancels all runs, waits until they have ended, and lets the store go.
    ///
    /// # Errors
    /// Something could not be written any more.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let runtimes = std::mem::take(&mut *self.runtimes.lock().await);
        futures_util::future::join_all(runtimes.all().map(|runtime| runtime.stop())).await;
        self.recorder.close().await
    }
}
