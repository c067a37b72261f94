//! The supervisor of one run: the sequencer of its events, its call table, and the parent of its agents.
//!
//! Nothing here waits. Calls run as tasks and come back as messages, so that a run in the middle of anything answers
//! at once. The mailbox is bounded by what sends to it: each agent sends one message for each event that it is given,
//! and each call has one message under way at a time.

mod calls;
mod children;
mod ending;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, MessagingErr, SupervisionEvent};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use self::children::Child;
use super::clock;
use super::gate::Admission;
use super::report::Report;
use super::scope::Scope;
use crate::budget::{Amount, Limit};
use crate::journal::Log;
use crate::run::{AgentId, CallId, Effect, Envelope, Event, Labels, Parent, RunEnd, RunState, Status, Subject};

/// What a run's supervisor is told.
pub(super) enum RunMessage {
    /// An agent has taken up the event `upto`, and wants this.
    Decided { agent: AgentId, incarnation: u32, upto: u64, effects: Vec<Effect>, labels: Labels },
    /// A call is at a point that is recorded before it goes on. `recorded` is dropped if the run is ending.
    Record { agent: AgentId, cause: u64, event: Event, recorded: oneshot::Sender<()> },
    /// A call has its result, and hands back what it held.
    CallOver { agent: AgentId, cause: u64, event: Event, admission: Option<(Admission, Amount)> },
    /// A delegation or a handoff has passed the gate.
    StartAgent { call: CallId, cause: u64, subject: Subject, labels: Labels },
    /// A call would go beyond a limit of the run.
    LimitReached { call: CallId, limit: Limit },
    /// A call's task has ended, however it did.
    TaskEnded(CallId),
    /// The run is to end like this.
    Cancel(RunEnd),
    /// The calls that were to stop have had their time.
    ShutdownTimeout,
}

/// What a run begins with.
pub(super) struct Beginning {
    pub(super) scope: Arc<Scope>,
    pub(super) log: Arc<Log<Envelope>>,
    pub(super) started: Event,
    pub(super) input: Arc<str>,
    /// Where the report goes when the run has ended.
    pub(super) report: oneshot::Sender<Report>,
}

/// What a run's supervisor keeps.
pub(super) struct RunLoop {
    scope: Arc<Scope>,
    log: Arc<Log<Envelope>>,
    state: RunState,
    next_seq: u64,
    children: HashMap<AgentId, Child>,
    /// The tasks of calls under way; all are aborted when this is dropped.
    tasks: JoinSet<()>,
    /// The calls whose tasks have not ended.
    live: HashSet<CallId>,
    /// When agents were restarted, within the supervision's period.
    restarts: VecDeque<Instant>,
    /// How the run ends, once that is settled and while its calls are stopping.
    ending: Option<RunEnd>,
    /// Rings when the calls that were to stop have had their time.
    shutdown_timer: Option<JoinHandle<Result<(), MessagingErr<RunMessage>>>>,
    report: Option<oneshot::Sender<Report>>,
    started: Instant,
}

pub(super) struct RunSupervisor;

impl Actor for RunSupervisor {
    type Msg = RunMessage;
    type State = (RunLoop, Option<(Event, Arc<str>)>);
    type Arguments = Beginning;

    async fn pre_start(
        &self,
        _: ActorRef<RunMessage>,
        beginning: Beginning,
    ) -> Result<Self::State, ActorProcessingErr> {
        let Beginning { scope, log, started, input, report } = beginning;
        let run = RunLoop {
            scope,
            log,
            state: RunState::default(),
            next_seq: 1,
            children: HashMap::new(),
            tasks: JoinSet::new(),
            live: HashSet::new(),
            restarts: VecDeque::new(),
            ending: None,
            shutdown_timer: None,
            report: Some(report),
            started: Instant::now(),
        };
        Ok((run, Some((started, input))))
    }

    async fn post_start(&self, me: ActorRef<RunMessage>, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        let (run, beginning) = state;
        if let Some((started, input)) = beginning.take() {
            run.begin(started, input, &me).await;
        }
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
                run.decided(agent, incarnation, upto, effects, labels, &me);
            }
            RunMessage::Record { agent, cause, event, recorded } => {
                if run.ending.is_none() {
                    run.record(Some(&agent), Some(cause), event);
                    let _ = recorded.send(());
                }
            }
            RunMessage::CallOver { agent, cause, event, admission } => run.call_over(agent, cause, event, admission),
            RunMessage::StartAgent { call, cause, subject, labels } => {
                run.start_asked_agent(call, cause, subject, labels, &me).await;
            }
            RunMessage::LimitReached { call, limit } => run.limit_reached(&call, limit),
            RunMessage::TaskEnded(call) => run.task_ended(&call),
            RunMessage::Cancel(end) => run.end(end),
            RunMessage::ShutdownTimeout => run.abandon_calls(),
        }
        run.finish_if_over(&me).await;
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<RunMessage>,
        event: SupervisionEvent,
        (run, _): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, error) => run.agent_failed(who.get_id(), &error.to_string(), &me).await,
            SupervisionEvent::ActorTerminated(who, _, reason) => {
                run.agent_failed(who.get_id(), reason.as_deref().unwrap_or("it stopped"), &me).await;
            }
            _ => {}
        }
        run.finish_if_over(&me).await;
        Ok(())
    }
}

impl RunLoop {
    async fn begin(&mut self, started: Event, input: Arc<str>, me: &ActorRef<RunMessage>) {
        let cause = self.record(None, None, started).seq;
        if let Some(deadline) = self.scope.fleet.network.spec().network.limits.deadline {
            let reason = format!("the run reached its deadline of {deadline}");
            let (me, end) = (me.clone(), RunEnd::without_answer(Status::Limit, reason));
            self.tasks.spawn(async move {
                tokio::time::sleep(deadline.0).await;
                let _ = me.cast(RunMessage::Cancel(end));
            });
        }
        let entry: Arc<str> = self.scope.fleet.network.spec().network.entry.as_str().into();
        let task = vec![children::question(input, Labels::default(), crate::run::Origin::Input)];
        self.start_agent(AgentId::new(entry.clone()), entry, Parent::Run, 0, task, cause, me).await;
    }

    /// Gives an event its number, folds it and writes it down: the one place where that happens.
    fn record(&mut self, agent: Option<&AgentId>, cause: Option<u64>, event: Event) -> Arc<Envelope> {
        let labels = match &event {
            Event::ModelReplied { message, .. }
            | Event::ToolReturned { message, .. }
            | Event::RepairRequested { message } => message.labels.clone(),
            _ => Labels::default(),
        };
        let envelope = Arc::new(Envelope {
            stream: self.scope.stream.clone(),
            seq: self.next_seq,
            time_ms: clock::now_ms(),
            incarnation: agent.and_then(|id| self.children.get(id)).map_or(0, Child::incarnation),
            agent: agent.cloned(),
            cause,
            labels,
            event,
        });
        self.next_seq += 1;
        self.state.evolve(&envelope);
        self.log.append(envelope.clone());
        envelope
    }
}
