//! The supervisor of one run: the sequencer of its events, its call table, and the parent of its agents.
//!
//! Nothing here waits. Calls run as tasks and come back as messages, so that a run in the middle of anything answers
//! at once. The mailbox is bounded by what sends to it: each agent sends one message for each event that it is given,
//! and each call has one message under way at a time.

//!
//! What one message makes happen is written down together or not at all: a crash finds a run as it was between two
//! messages, never in the midst of one.

mod answering;
mod approving;
mod calls;
mod children;
mod choosing;
mod ending;
mod failing;
mod forking;
mod letting_go;
mod mail;
mod resuming;
mod routing;
mod watchdog;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use indexmap::IndexMap;
use ractor::{Actor, ActorProcessingErr, ActorRef, MessagingErr, SupervisionEvent};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

pub use self::approving::Approved;
use self::approving::Waiting;
pub(super) use self::approving::takes;
use self::children::Child;
use self::mail::Outgoing;
use self::watchdog::Live;
use super::gate::{Admission, Known};
use super::handle::ReportTo;
use super::kept::Exchange;
use super::letters::Settled;
use super::purse::Exhausted;
use super::recorder::{Beside, Claim, entry_of};
use super::scope::{Happened, Scope};
use super::supervision::{Exit, Supervision};
use super::{Answers, Error, stream_of};
use crate::budget::{Amount, Entry};
use crate::fault::{self, Bug};
use crate::journal::{Durable, Log, Mark, Part, Record, Snapshot, StreamName};
use crate::run::{
    AgentId, AgentState, Ballot, CallId, Effect, Envelope, Event, Fold, Labels, NewAgent, NoAnswer, NotApproved,
    Resolution, RunEnd, RunState, Status, Subject, encode,
};

pub(super) use self::forking::Forked;
pub(super) use self::resuming::{PERSON, resolvable};

/// What a run's supervisor is told.
pub(super) enum RunMessage {
    /// An agent has taken up the event `upto`, and wants this.
    Decided { agent: AgentId, incarnation: u32, upto: u64, effects: Vec<Effect>, labels: Labels },
    /// An agent has been folded from the record, and wants this.
    TakenUp { agent: AgentId, incarnation: u32, effects: Vec<Effect>, labels: Labels },
    /// An incarnation panicked, in dealing with the event `at` where it is known.
    Panicked { agent: AgentId, incarnation: u32, at: Option<u64>, reason: String },
    /// Agents are to be started again, if they have been stopped this often and no more.
    RestartDue { agents: Vec<(AgentId, u32)>, reason: Arc<str> },
    /// It is time to look for what makes no progress.
    Watch,
    /// The question of a call has its turn in the mailbox that it waits in.
    Turn { call: CallId },
    /// There is room for the question of a call in the mailbox that had none.
    Room { call: CallId },
    /// The question of a call had to make room for another.
    Dropped { call: CallId },
    /// A call is at a point that is recorded before it goes on; where `durable` says so, it is on disk before
    /// `recorded` is sent its number. `recorded` is dropped if the run is ending.
    Record { happened: Box<Happened>, durable: bool, recorded: oneshot::Sender<u64> },
    /// A call has its result, and hands back what it held.
    CallOver { happened: Box<Happened>, admission: Option<(Admission, Amount)> },
    /// A delegation or a handoff has passed the gate.
    StartAgent { call: CallId, cause: u64, subject: Subject, labels: Labels },
    /// The tool that knows has said what became of a call that was cut off; none if it does not know either.
    Reconciled { call: CallId, by: Arc<str>, resolution: Option<Resolution> },
    /// A join may wait no longer, if it still waits for the same.
    JoinDue { flow: Option<AgentId>, join: u32, at_ms: u64 },
    /// A call would go beyond a limit of the run.
    LimitReached { call: CallId, reached: Box<Exhausted> },
    /// A call's task has ended, however it did.
    TaskEnded { call: CallId, task: u64 },
    /// The run is to end like this.
    Cancel(RunEnd),
    /// The run is to begin no more calls, or may again.
    Pause { paused: bool, answer: oneshot::Sender<()> },
    /// An agent is told something.
    Steer { agent: Option<AgentId>, text: String, answer: oneshot::Sender<Result<(), String>> },
    /// Further agents are to stand for themselves beside the entry, in this order.
    #[cfg(test)]
    Stand { agents: Vec<Arc<str>> },
    /// A person says what became of a call.
    Resolve { call: CallId, resolution: Resolution, answer: oneshot::Sender<Result<(), String>> },
    /// A person answers what a call asks; the only one that is open, where none is named.
    Answer { call: Option<CallId>, text: Arc<str>, answer: oneshot::Sender<Result<CallId, NoAnswer>> },
    /// A call waits at the gate until it is settled whether it may happen.
    AwaitApproval { call: CallId, told: oneshot::Sender<Known> },
    /// Nobody is here who could say whether a call may happen.
    Unattended { call: CallId },
    /// A person says whether a call may happen; the only one that awaits approval, where none is named.
    Approve { call: Option<CallId>, ballot: Box<Ballot>, answer: oneshot::Sender<Result<Approved, NotApproved>> },
    /// The time may be over in which a call could be approved.
    ApprovalDue { call: CallId },
    /// Other policies hold.
    PolicyChanged { network: Arc<str>, set: Arc<str> },
    /// What a person answered is on disk.
    AnswerWritten { call: CallId },
    /// What happened could not be written down.
    StoreFailed(Error),
    /// The run's end is durable.
    EndWritten,
    /// The calls that were to stop have had their time.
    ShutdownTimeout,
    /// The calls that were aborted have had theirs.
    AbortTimeout,
}

/// What a run's supervisor starts with.
pub(super) struct Launch {
    pub(super) scope: Arc<Scope>,
    pub(super) log: Arc<Log<Envelope>>,
    pub(super) opening: Opening,
    pub(super) claim: Claim,
    /// Told when the run's beginning is durable.
    pub(super) begun: oneshot::Sender<Result<(), Error>>,
    /// Where the report goes when the run has ended.
    pub(super) report: ReportTo,
}

/// How a run comes into being in this process.
pub(super) enum Opening {
    /// It begins, with this event.
    Fresh(Event),
    /// It is taken up again where it stood.
    Resumed { fold: Box<Fold>, resumed: Event, answers: Answers },
    /// It begins with a copy of another's past.
    Forked(Box<Forked>),
}

/// What ractor gives as the reason of an actor's end that was killed.
const KILLED: &str = "killed";

/// Is called when something is durable.
type Told = Box<dyn FnOnce() + Send + Sync>;

/// What a run's supervisor keeps.
pub(super) struct RunLoop {
    scope: Arc<Scope>,
    log: Arc<Log<Envelope>>,
    /// Nobody else adds events to the run while this is there; none once it is reported.
    claim: Option<Claim>,
    state: RunState,
    /// The fold that a snapshot was taken of last, or that the run was taken up from; empty before.
    folded: Fold,
    /// The agents as they were when the run was taken up, and up to which event; none if it began in this process.
    taken_up: (u64, BTreeMap<AgentId, AgentState>),
    /// In an order that does not depend on chance; [`RunState::agents`] has the order of their start.
    children: IndexMap<AgentId, Child>,
    /// The tasks of calls under way; all are aborted when this is dropped.
    tasks: JoinSet<()>,
    /// The calls whose tasks have not ended.
    live: HashMap<CallId, Live>,
    /// Whether the watchdog is going to look.
    is_watched: bool,
    /// The number of the last task.
    last_task: u64,
    supervision: Supervision,
    /// Agents that are asleep and have mail.
    awoken: Vec<AgentId>,
    /// Questions for which the mailbox has no room yet.
    blocked: HashMap<CallId, Outgoing>,
    /// The calls that wait for people who say whether they may happen.
    waiting: Waiting,
    /// Whether something has happened that answers may have to be passed on for.
    may_route: bool,
    /// Until when joins wait that wait no longer than that.
    join_timers: BTreeMap<(Option<AgentId>, u32), u64>,
    /// Whether the last fold that was written down holds what has been rejected since.
    is_fold_stale: bool,
    /// How the run ends, once that is settled and while its calls are stopping.
    ending: Option<RunEnd>,
    /// Whether the end has been recorded; it may not be durable yet.
    is_over: bool,
    /// Why nothing more is written down, once that is so; the run stops without an end.
    broken: Option<Error>,
    /// Rings when the calls that were to stop, or were aborted, have had their time.
    shutdown_timer: Option<JoinHandle<Result<(), MessagingErr<RunMessage>>>>,
    report: ReportTo,
    /// What the present message has made happen, not yet written down.
    unwritten: Unwritten,
}

/// What one message has made happen.
#[derive(Default)]
struct Unwritten {
    /// None without a store.
    records: Vec<Record>,
    /// The same, for those who follow the run: they hear of nothing that a failure of the supervisor undoes.
    events: Vec<Arc<Envelope>>,
    entries: Vec<Entry>,
    /// What instances keep from run to run.
    kept: Vec<(StreamName, Exchange)>,
    /// The dead letter that the run begins with.
    settled: Option<Settled>,
    mark: Option<Mark>,
    when_durable: Vec<Told>,
}

pub(super) struct RunSupervisor;

impl Actor for RunSupervisor {
    type Msg = RunMessage;
    type State = (RunLoop, Option<(Opening, oneshot::Sender<Result<(), Error>>)>);
    type Arguments = Launch;

    async fn pre_start(&self, _: ActorRef<RunMessage>, launch: Launch) -> Result<Self::State, ActorProcessingErr> {
        let Launch { scope, log, opening, claim, begun, report } = launch;
        let supervision = Supervision::new(&scope.fleet.network.spec().supervision);
        let run = RunLoop {
            scope,
            log,
            claim: Some(claim),
            state: RunState::default(),
            folded: Fold::default(),
            taken_up: (0, BTreeMap::new()),
            children: IndexMap::new(),
            tasks: JoinSet::new(),
            live: HashMap::new(),
            is_watched: false,
            last_task: 0,
            supervision,
            awoken: Vec::new(),
            blocked: HashMap::new(),
            waiting: Waiting::default(),
            may_route: false,
            join_timers: BTreeMap::new(),
            is_fold_stale: false,
            ending: None,
            is_over: false,
            broken: None,
            shutdown_timer: None,
            report,
            unwritten: Unwritten::default(),
        };
        Ok((run, Some((opening, begun))))
    }

    async fn post_start(&self, me: ActorRef<RunMessage>, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        let (run, opening) = state;
        let Some((opening, begun)) = opening.take() else { return Ok(()) };
        match opening {
            Opening::Fresh(started) => run.begin(started, &me).await,
            Opening::Resumed { fold, resumed, answers } => run.take_up(*fold, resumed, answers, &me).await,
            Opening::Forked(fork) => run.begin_fork(*fork, &me).await,
        }
        run.watch_the_store(&me);
        run.unwritten.mark = Some(Mark { state: Status::Running.word().into(), closed: false, summary: None });
        run.route(&me).await;
        run.write_beginning(begun);
        run.wake(&me).await;
        run.finish_if_over(&me).await;
        run.write(&me);
        Ok(())
    }

    async fn handle(
        &self,
        me: ActorRef<RunMessage>,
        message: RunMessage,
        (run, _): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RunMessage::Decided { agent, incarnation, upto, effects, labels } => {
                run.decided(&agent, incarnation, upto, effects, &labels, &me);
            }
            RunMessage::TakenUp { agent, incarnation, effects, labels } => {
                run.taken_up(&agent, incarnation, effects, &labels, &me);
            }
            RunMessage::Panicked { agent, incarnation, at, reason } => {
                run.panicked(&agent, incarnation, at, reason, &me).await;
            }
            RunMessage::RestartDue { agents, reason } => run.restart(agents, &reason, &me).await,
            RunMessage::Watch => run.watch(&me).await,
            RunMessage::Turn { call } => run.take_turn(&call, &me).await,
            RunMessage::Room { call } => run.has_room(&call),
            RunMessage::Dropped { call } => run.dropped(&call),
            RunMessage::Record { happened, durable, recorded } => run.record_for(*happened, durable, recorded),
            RunMessage::CallOver { happened, admission } => run.call_over(*happened, admission, &me).await,
            RunMessage::StartAgent { call, cause, subject, labels } => {
                run.start_asked_agent(call, cause, subject, labels, &me).await;
            }
            RunMessage::Reconciled { call, by, resolution } => run.reconciled(&call, by, resolution, &me),
            RunMessage::JoinDue { flow, join, at_ms } => run.join_due(flow, join, at_ms),
            RunMessage::LimitReached { call, reached } => run.limit_reached(&call, &reached),
            RunMessage::TaskEnded { call, task } => run.task_ended(&call, task),
            RunMessage::Cancel(_) if fault::is_planted(Bug::CancelIgnored) && !run.live.is_empty() => {}
            RunMessage::Cancel(end) => run.end(end),
            RunMessage::Pause { paused, answer } => run.pause(paused, answer),
            RunMessage::Steer { agent, text, answer } => run.steer(agent, text, answer),
            #[cfg(test)]
            RunMessage::Stand { agents } => run.stand(agents, &me).await,
            RunMessage::Resolve { call, resolution, answer } => run.resolve(&call, resolution, answer, &me),
            RunMessage::Answer { call, text, answer } => run.answer(call.as_ref(), &text, answer, &me),
            RunMessage::AwaitApproval { call, told } => run.await_approval(call, told, &me),
            RunMessage::Unattended { call } => run.waiting.unattended(&call),
            RunMessage::Approve { call, ballot, answer } => run.approve(call.as_ref(), &ballot, answer),
            RunMessage::ApprovalDue { call } => run.approval_due(&call),
            RunMessage::PolicyChanged { network, set } => run.policy_changed(network, set),
            RunMessage::AnswerWritten { call } => run.answer_written(&call),
            RunMessage::StoreFailed(error) => run.break_off(error),
            RunMessage::EndWritten => {
                run.end_written(&me);
                return Ok(());
            }
            RunMessage::ShutdownTimeout => run.abort_calls(&me),
            RunMessage::AbortTimeout => run.abandon_calls(),
        }
        run.route(&me).await;
        run.wake(&me).await;
        run.finish_if_over(&me).await;
        run.rouse_watchdog(&me);
        fault::panics("run.handle", || run.scope.stream.run.to_string());
        run.write(&me);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<RunMessage>,
        event: SupervisionEvent,
        (run, _): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, error) => {
                run.actor_ended(who.get_id(), Exit::Failed, &error.to_string(), &me).await;
            }
            SupervisionEvent::ActorTerminated(who, _, reason) => {
                // An actor that is killed says so where one that stops says nothing, or what it was told.
                let exit = if reason.as_deref() == Some(KILLED) { Exit::Failed } else { Exit::Normal };
                run.actor_ended(who.get_id(), exit, reason.as_deref().unwrap_or("it stopped"), &me).await;
            }
            _ => {}
        }
        run.route(&me).await;
        run.wake(&me).await;
        run.finish_if_over(&me).await;
        run.write(&me);
        Ok(())
    }
}

impl RunLoop {
    async fn begin(&mut self, started: Event, me: &ActorRef<RunMessage>) {
        let Event::RunStarted { tenant, input, put_back, .. } = &started else { return };
        let (tenant, input, put_back) = (tenant.clone(), input.clone(), put_back.clone());
        let run = self.scope.stream.run.clone();
        // A letter counts as put back as soon as the run is there that begins with it, and not before.
        self.unwritten.settled = put_back.as_ref().map(|letter| Settled::put_back(letter.letter.clone(), run.clone()));
        let accounts = self.scope.funds.openings();
        self.unwritten.entries.push(Entry::Opened { run, tenant, accounts });
        let cause = self.record(None, None, started).seq;
        self.set_deadline(me);
        let entry = &self.scope.fleet.network.spec().network.entry;
        let entry = NewAgent::first(entry, input, put_back.as_deref());
        self.start_agent(entry, cause, me).await;
    }

    /// Lets the run break off as soon as nothing can be written any more: it may be in the midst of a long call.
    fn watch_the_store(&mut self, me: &ActorRef<RunMessage>) {
        if !self.scope.recorder.has_store() {
            return;
        }
        let (scope, me) = (self.scope.clone(), me.clone());
        self.tasks.spawn(async move {
            let _ = me.cast(RunMessage::StoreFailed(scope.recorder.failed().await));
        });
    }

    /// Lets the run end when it has been under way for as long as it may.
    fn set_deadline(&mut self, me: &ActorRef<RunMessage>) {
        let Some(deadline) = self.scope.fleet.network.spec().network.limits.deadline else { return };
        let active_ms = if fault::is_planted(Bug::DeadlineBeginsAnew) { 0 } else { self.state.active_ms() };
        let left = deadline.0.saturating_sub(std::time::Duration::from_millis(active_ms));
        let reason = format!("the run reached its deadline of {deadline}");
        let (me, end) = (me.clone(), RunEnd::without_answer(Status::Limit, reason));
        self.tasks.spawn(async move {
            tokio::time::sleep(left).await;
            let _ = me.cast(RunMessage::Cancel(end));
        });
    }

    /// Gives an event its number, folds it and keeps it for writing: the one place where that happens.
    fn record(&mut self, agent: Option<&AgentId>, cause: Option<u64>, event: Event) -> Arc<Envelope> {
        let labels = match &event {
            Event::ModelReplied { message, .. }
            | Event::Decided { message, .. }
            | Event::ToolReturned { message, .. }
            | Event::Steered { message }
            | Event::Asked { message }
            | Event::Compacted { message, .. }
            | Event::Warned { message, .. }
            | Event::RepairRequested { message } => message.labels.clone(),
            _ => Labels::default(),
        };
        self.record_with(agent, cause, labels, event)
    }

    fn record_with(
        &mut self,
        agent: Option<&AgentId>,
        cause: Option<u64>,
        labels: Labels,
        event: Event,
    ) -> Arc<Envelope> {
        let envelope = Arc::new(Envelope {
            stream: self.scope.stream.clone(),
            seq: self.state.head() + 1,
            time_ms: self.scope.recorder.now_ms(),
            incarnation: agent.and_then(|id| self.children.get(id)).map_or(0, Child::incarnation),
            agent: agent.cloned(),
            cause,
            labels,
            event,
        });
        let entry = entry_of(&self.state, &envelope, || self.scope.funds.free());
        self.unwritten.entries.extend(entry);
        self.may_route |= self.is_routed(&envelope);
        self.state.evolve(&envelope);
        if let Event::CallIntended { .. } = envelope.event {
            self.scope.approved.is(self.state.approved());
        }
        if self.broken.is_none() {
            if self.scope.recorder.has_store() {
                self.unwritten.records.push(encode(&envelope));
            }
            self.unwritten.events.push(envelope.clone());
        }
        envelope
    }

    /// Records an event for a call that waits for it.
    fn record_for(&mut self, happened: Happened, durable: bool, recorded: oneshot::Sender<u64>) {
        // Its agent may have been given up.
        if self.ending.is_some() || self.state.is_over(&happened.call) {
            return;
        }
        let Happened { call, cause, labels, event, intends } = happened;
        // Which model it goes to is the agent's own matter; of the rest it hears when there is a result.
        let is_heard = matches!(event, Event::ModelChosen { .. });
        let envelope = self.record_with(Some(&call.agent), Some(cause), labels, event);
        let seq = envelope.seq;
        if is_heard {
            self.deliver(&call.agent, envelope);
        }
        intends.iter().for_each(|intended| intended.store(true, Ordering::Relaxed));
        // Whoever waits may have been cancelled meanwhile.
        let tell = move || _ = recorded.send(seq);
        match durable {
            true => self.when_durable(tell),
            false => tell(),
        }
    }

    fn when_durable(&mut self, told: impl FnOnce() + Send + Sync + 'static) {
        self.unwritten.when_durable.push(Box::new(told));
    }

    /// Writes down the beginning, on which the one who started the run waits.
    fn write_beginning(&mut self, begun: oneshot::Sender<Result<(), Error>>) {
        let durable: Durable = Box::new(move |result| drop(begun.send(result.map_err(Error::from))));
        let written = std::mem::take(&mut self.unwritten);
        self.hand_over(written, Some(durable));
    }

    /// Writes down what the present message has made happen.
    fn write(&mut self, me: &ActorRef<RunMessage>) {
        if self.unwritten.events.is_empty() && self.unwritten.when_durable.is_empty() {
            return;
        }
        let mut written = std::mem::take(&mut self.unwritten);
        if fault::is_planted(Bug::AppliedBeforeNumbered) {
            let first = written.records.first().map_or(0, |record| record.seq);
            written.records.reverse();
            (first..).zip(&mut written.records).for_each(|(seq, record)| record.seq = seq);
        }
        let told = std::mem::take(&mut written.when_durable);
        let durable: Option<Durable> = (!told.is_empty()).then(|| {
            let me = me.clone();
            let durable: Durable = Box::new(move |result| match result {
                Ok(()) => told.into_iter().for_each(|told| told()),
                Err(error) => drop(me.cast(RunMessage::StoreFailed(error.into()))),
            });
            durable
        });
        self.hand_over(written, durable);
    }

    fn hand_over(&mut self, written: Unwritten, durable: Option<Durable>) {
        let Unwritten { records, events, entries, kept, settled, mark, .. } = written;
        if events.is_empty() {
            // What is asked for without anything happening is as durable as what happened before it.
            if let Some(Err(error)) = durable.map(|durable| self.scope.recorder.when_durable(durable)) {
                self.break_off(error);
            }
            return;
        }
        self.log.extend(events);
        let snapshot = self.is_snapshot_due().then(|| self.snapshot());
        let part = Part { stream: stream_of(&self.scope.stream.run), records, mark, snapshot };
        if let Err(error) = self.scope.recorder.append(Some(part), Beside { entries, kept, settled }, durable) {
            self.break_off(error);
        }
    }

    /// Snapshots come at every doubling of the events, so that all of them together are not much more than the last one;
    /// a run that has ended needs none.
    fn is_snapshot_due(&self) -> bool {
        let last = self.folded.run.head();
        let is_long = || self.state.head() >= (2 * last).max(last + self.scope.recorder.events_per_snapshot());
        self.scope.recorder.has_store() && (self.is_fold_stale || self.state.end().is_none() && is_long())
    }

    fn snapshot(&mut self) -> Snapshot {
        let last = self.folded.run.head();
        let since = self.log.snapshot();
        for envelope in since.iter().filter(|envelope| envelope.seq > last) {
            match envelope.seq == self.state.head() && fault::is_planted(Bug::SnapshotMissesLast) {
                true => self.folded.run.evolve(envelope),
                false => self.folded.evolve(envelope),
            }
        }
        self.is_fold_stale = false;
        self.folded.to_snapshot()
    }
}
