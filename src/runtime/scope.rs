//! What the calls of one run may reach, and how they tell the run's supervisor what became of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ractor::ActorRef;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::Approver;
use super::definitions::Definitions;
use super::fleet::{BoundTool, Fleet, Prompts, Tools};
use super::funds::{Funds, Intended};
use super::recorder::Recorder;
use super::run_supervisor::RunMessage;
use super::traffic::Lane;
use super::voice::Voice;
use crate::run::{CallId, Event, Labels, Stream, Subject};
use crate::spec::{Builtin, Effect};

/// What the calls of one run may reach.
pub(super) struct Scope {
    pub(super) fleet: Arc<Fleet>,
    pub(super) stream: Arc<Stream>,
    pub(super) funds: Funds,
    /// Who the run is where calls wait for their turn.
    pub(super) lane: Lane,
    pub(super) tools: Tools,
    pub(super) prompts: Prompts,
    pub(super) definitions: Definitions,
    /// Cancelled when the run is told to stop.
    pub(super) cancelled: CancellationToken,
    /// Whether calls that have not begun wait.
    pub(super) pause: Pause,
    pub(super) approved: ApprovedOf,
    pub(super) recorder: Arc<Recorder>,
    /// Tells those who follow the run what its models say.
    pub(super) voice: Arc<Voice>,
    /// Who can be asked for approval now.
    pub(super) approver: Option<Arc<dyn Approver>>,
}

/// What a person has approved of in the run and has been made, by the names under which policies are told: as the run's
/// supervisor last knew it.
#[derive(Default)]
pub(super) struct ApprovedOf(RwLock<Arc<[Arc<str>]>>);

impl ApprovedOf {
    pub(super) fn now(&self) -> Arc<[Arc<str>]> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is(&self, approved: &Arc<[Arc<str>]>) {
        if !Arc::ptr_eq(&self.now(), approved) {
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = approved.clone();
        }
    }
}

impl Scope {
    /// Returns which built-in tool a call is made to, if it is one.
    pub(super) fn builtin(&self, subject: &Subject) -> Option<Builtin> {
        match subject {
            Subject::Tool { tool, .. } => self.tools.get(tool)?.builtin(),
            _ => None,
        }
    }

    /// Returns the present effect class of what a call is made to; none where it is no tool of the network's.
    pub(super) fn effect(&self, subject: &Subject) -> Option<Effect> {
        match subject {
            Subject::Tool { tool, .. } => self.tools.get(tool).map(BoundTool::effect),
            _ => None,
        }
    }

    /// Does something unless the run is told to stop: what is under way then is dropped at once.
    pub(super) async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T, Over>>) -> Result<T, Over> {
        tokio::select! {
            biased;
            () = self.cancelled.cancelled() => Err(Over),
            done = work => done,
        }
    }

    /// Waits while the run is paused, and until the disk keeps up.
    pub(super) async fn may_begin(&self) -> Result<(), Over> {
        let turn = async {
            self.recorder.has_room().await;
            self.pause.over().await;
            Ok(())
        };
        self.unless_stopped(turn).await
    }
}

/// Whether a run is paused. Those who wait go on in the order in which they came.
#[derive(Default)]
pub(super) struct Pause {
    is_paused: AtomicBool,
    over: Notify,
}

impl Pause {
    pub(super) fn set(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::Release);
        self.over.notify_waiters();
    }

    /// Whether calls that have not begun wait.
    pub(super) fn is_set(&self) -> bool {
        self.is_paused.load(Ordering::Acquire)
    }

    /// Waits while the run is paused.
    async fn over(&self) {
        loop {
            let over = self.over.notified();
            if !self.is_set() {
                return;
            }
            over.await;
        }
    }
}

/// The run has ended: nothing more is recorded, and what was asking should stop.
#[derive(Debug)]
pub(super) struct Over;

/// An event on its way to the run's supervisor.
pub(super) struct Happened {
    pub(super) call: CallId,
    pub(super) cause: u64,
    /// What it was influenced by.
    pub(super) labels: Labels,
    pub(super) event: Event,
    /// What is told that the event has its number, where that is a reservation.
    pub(super) intends: Option<Intended>,
}

/// Records an event and waits until it has its number, which is returned, or is durable.
pub(super) async fn record(supervisor: &ActorRef<RunMessage>, happened: Happened, durable: bool) -> Result<u64, Over> {
    let (recorded, answer) = oneshot::channel();
    supervisor.cast(RunMessage::Record { happened: Box::new(happened), durable, recorded }).map_err(|_| Over)?;
    answer.await.map_err(|_| Over)
}
