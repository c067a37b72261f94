//! The root of a network's actors: it starts the runs' supervisors, takes up the runs of those that failed, and outlives
//! them; unless they fail so often that it gives up.

use std::collections::BTreeMap;
use std::sync::Arc;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::fleet::Fleet;
use super::handle::{Line, ReportTo};
use super::run_supervisor::{Launch, RunMessage, RunSupervisor};
use super::supervision::{Exit, Ruling, Supervision};
use super::voice::Voice;
use super::{Answers, Error, Past};
use crate::journal::Log;
use crate::run::{Envelope, RunEnd, RunId, Status};
use crate::spec::RestartKind;

/// What the network's supervisor is told.
pub(super) enum NetworkMessage {
    /// Start a run, and say when its supervisor is there.
    Start { launch: Box<Launch>, line: Arc<Line>, started: oneshot::Sender<()> },
    /// All that a run did is written down whose supervisor failed: take it up again.
    TakeUp(Box<Running>),
    /// Cancel all runs, the last to start first, and answer when none is left. Each is told at once: together they take
    /// no longer than one.
    Shutdown { done: oneshot::Sender<()> },
}

/// A run under way, and what its next supervisor needs if this one fails.
pub(super) struct Running {
    run: RunId,
    line: Arc<Line>,
    log: Arc<Log<Envelope>>,
    voice: Arc<Voice>,
    report: ReportTo,
    is_attended: bool,
    is_handed_on: bool,
}

pub(super) struct Runs {
    fleet: Arc<Fleet>,
    /// In the order of their start: ids rise.
    running: BTreeMap<ActorId, Running>,
    /// How many runs are between two supervisors.
    between: usize,
    supervision: Supervision,
    shutdown: Option<oneshot::Sender<()>>,
}

pub(super) struct NetworkSupervisor;

impl Actor for NetworkSupervisor {
    type Msg = NetworkMessage;
    type State = Runs;
    type Arguments = Arc<Fleet>;

    async fn pre_start(&self, _: ActorRef<NetworkMessage>, fleet: Arc<Fleet>) -> Result<Runs, ActorProcessingErr> {
        let supervision = Supervision::new(&fleet.network.spec().supervision);
        Ok(Runs { fleet, running: BTreeMap::new(), between: 0, supervision, shutdown: None })
    }

    async fn handle(
        &self,
        me: ActorRef<NetworkMessage>,
        message: NetworkMessage,
        runs: &mut Runs,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            NetworkMessage::Start { launch, line, started } => {
                // A run that can't be started is told to the caller by dropping `started`.
                if runs.shutdown.is_none() && runs.start(*launch, line, &me).await {
                    let _ = started.send(());
                }
            }
            NetworkMessage::TakeUp(run) => runs.take_up(*run, &me).await?,
            NetworkMessage::Shutdown { done } => {
                for running in runs.running.values().rev() {
                    let end = RunEnd::without_answer(Status::Cancelled, "the runtime is shutting down");
                    running.line.cast(RunMessage::Cancel(end));
                }
                runs.shutdown = Some(done);
                runs.stop_if_done(&me);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<NetworkMessage>,
        event: SupervisionEvent,
        runs: &mut Runs,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            // A supervisor that stops by itself has reported its run's end; one that was killed has left its state behind.
            SupervisionEvent::ActorTerminated(who, _, reason) => match reason.as_deref() {
                Some("killed") => runs.failed(who.get_id(), "it was killed", &me)?,
                _ => runs.ended(who.get_id()),
            },
            SupervisionEvent::ActorFailed(who, error) => runs.failed(who.get_id(), &error.to_string(), &me)?,
            _ => return Ok(()),
        }
        runs.stop_if_done(&me);
        Ok(())
    }
}

impl Drop for Running {
    /// Whoever follows the run learns that it is not under way any more, whether it has an end or not; unless another
    /// supervisor has it.
    fn drop(&mut self) {
        if !self.is_handed_on {
            self.line.end();
            self.log.close();
        }
    }
}

impl Runs {
    async fn start(&mut self, launch: Launch, line: Arc<Line>, me: &ActorRef<NetworkMessage>) -> bool {
        let (run, log, report) = (launch.scope.stream.run.clone(), launch.log.clone(), launch.report.clone());
        let (voice, is_attended) = (launch.scope.voice.clone(), launch.scope.approver.is_some());
        let Ok((actor, _)) = me.spawn_linked(None, RunSupervisor, launch).await else { return false };
        line.set(Some(actor.clone()));
        self.running
            .insert(actor.get_id(), Running { run, line, log, voice, report, is_attended, is_handed_on: false });
        true
    }

    fn ended(&mut self, actor: ActorId) {
        self.running.remove(&actor);
    }

    /// Takes up the run of a supervisor that failed, as if its process had ended; if there have been too many of them, fails
    /// itself: its runs are interrupted then.
    fn failed(&mut self, actor: ActorId, error: &str, me: &ActorRef<NetworkMessage>) -> Result<(), ActorProcessingErr> {
        let Some(running) = self.running.remove(&actor) else { return Ok(()) };
        tracing::error!(run = %running.run, %error, "the run's supervisor failed");
        self.fleet.router.strike_run(&running.run);
        running.line.set(None);
        if self.shutdown.is_some() {
            self.fleet.recorder.mailboxes.withdraw(&running.run);
            return Ok(());
        }
        self.fleet.recorder.mailboxes.withdraw_waiting(&running.run);
        if self.supervision.rule(RestartKind::Transient, Exit::Failed, Instant::now()) != Ruling::Restart {
            return self.give_up(running, error);
        }
        self.between += 1;
        let (me, running) = (me.clone(), Box::new(running));
        let written = move |_| drop(me.cast(NetworkMessage::TakeUp(running)));
        // A store that has failed lets nothing be taken up; whoever waits for the run hears that it is gone.
        if self.fleet.recorder.when_durable(Box::new(written)).is_err() {
            self.between -= 1;
        }
        Ok(())
    }

    fn give_up(&mut self, failed: Running, error: &str) -> Result<(), ActorProcessingErr> {
        let spec = &self.fleet.network.spec();
        let (name, intensity, period) = (&spec.network.name, spec.supervision.intensity, spec.supervision.period);
        let why = format!("the runs of `{name}` failed more than {intensity} times within {period}: {error}");
        for running in std::mem::take(&mut self.running).into_values().chain([failed]) {
            self.fleet.recorder.mailboxes.withdraw(&running.run);
            running.report.send(Err(Error::GaveUp(why.clone())));
        }
        Err(why.into())
    }

    async fn take_up(&mut self, mut failed: Running, me: &ActorRef<NetworkMessage>) -> Result<(), ActorProcessingErr> {
        self.between -= 1;
        let (run, log, is_attended) = (failed.run.clone(), failed.log.clone(), failed.is_attended);
        let answers = Answers { is_attended, ..Answers::default() };
        let past = match self.fleet.recorder.journal() {
            Some(_) => self.fleet.recorder.past(&run),
            None => Past::of(&log),
        };
        let over = match past.and_then(|past| self.fleet.resumed(past, answers, failed.voice.clone())) {
            Err(error) => Some(error),
            Ok((scope, opening, _, claim)) => {
                let (begun, _) = oneshot::channel();
                let launch = Launch { scope, log, opening, claim, begun, report: failed.report.clone() };
                let is_started = self.shutdown.is_none() && self.start(launch, failed.line.clone(), me).await;
                failed.is_handed_on = is_started;
                (!is_started).then_some(Error::Stopped)
            }
        };
        if let Some(error) = over {
            tracing::error!(%run, %error, "the run could not be taken up again; it is interrupted");
            self.fleet.recorder.mailboxes.withdraw(&run);
            failed.report.send(Err(error));
        }
        self.stop_if_done(me);
        Ok(())
    }

    fn stop_if_done(&mut self, me: &ActorRef<NetworkMessage>) {
        if !self.running.is_empty() || self.between > 0 {
            return;
        }
        if let Some(done) = self.shutdown.take() {
            let _ = done.send(());
            me.stop(None);
        }
    }
}
