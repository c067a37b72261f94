//! The root of a network's actors: it starts the runs' supervisors, and outlives them.

use std::collections::BTreeMap;
use std::sync::Arc;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use super::fleet::Fleet;
use super::run_supervisor::{Launch, RunMessage, RunSupervisor};
use crate::run::{RunEnd, RunId, Status};

/// What the network's supervisor is told.
pub(super) enum NetworkMessage {
    /// Start a run. The answer is the run's supervisor.
    Start { launch: Box<Launch>, started: oneshot::Sender<ActorRef<RunMessage>> },
    /// Cancel all runs, the last to start first, and answer when none is left. Each is told at once: together they take
    /// no longer than one.
    Shutdown { done: oneshot::Sender<()> },
}

pub(super) struct Runs {
    fleet: Arc<Fleet>,
    /// In the order of their start: ids rise.
    running: BTreeMap<ActorId, (RunId, ActorRef<RunMessage>)>,
    shutdown: Option<oneshot::Sender<()>>,
}

pub(super) struct NetworkSupervisor;

impl Actor for NetworkSupervisor {
    type Msg = NetworkMessage;
    type State = Runs;
    type Arguments = Arc<Fleet>;

    async fn pre_start(&self, _: ActorRef<NetworkMessage>, fleet: Arc<Fleet>) -> Result<Runs, ActorProcessingErr> {
        Ok(Runs { fleet, running: BTreeMap::new(), shutdown: None })
    }

    async fn handle(
        &self,
        me: ActorRef<NetworkMessage>,
        message: NetworkMessage,
        runs: &mut Runs,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            NetworkMessage::Start { launch, started } => {
                if runs.shutdown.is_some() {
                    return Ok(());
                }
                let run = launch.scope.stream.run.clone();
                // A run that can't be started is told to the caller by dropping `started`.
                if let Ok((actor, _)) = me.spawn_linked(None, RunSupervisor, *launch).await {
                    runs.running.insert(actor.get_id(), (run, actor.clone()));
                    let _ = started.send(actor);
                }
            }
            NetworkMessage::Shutdown { done } => {
                for (_, run) in runs.running.values().rev() {
                    let end = RunEnd::without_answer(Status::Cancelled, "the runtime is shutting down");
                    let _ = run.cast(RunMessage::Cancel(end));
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
            SupervisionEvent::ActorTerminated(who, _, _) => {
                runs.running.remove(&who.get_id());
            }
            SupervisionEvent::ActorFailed(who, error) => {
                if let Some((run, _)) = runs.running.remove(&who.get_id()) {
                    tracing::error!(%run, %error, "the run's supervisor failed; the run is lost");
                    runs.fleet.router.strike_run(&run);
                }
            }
            _ => return Ok(()),
        }
        runs.stop_if_done(&me);
        Ok(())
    }
}

impl Runs {
    fn stop_if_done(&mut self, me: &ActorRef<NetworkMessage>) {
        if !self.running.is_empty() {
            return;
        }
        if let Some(done) = self.shutdown.take() {
            let _ = done.send(());
            me.stop(None);
        }
    }
}
