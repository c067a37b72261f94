//! What the calls of one run may reach, and how they tell the run's supervisor what became of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ractor::ActorRef;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::Approver;
use super::definitions::Definitions;
use super::fleet::{BoundTool, Fleet, Prompts, Tools};
use super::recorder::Recorder;
use super::run_supervisor::RunMessage;
use super::traffic::Lane;
use super::voice::Voice;
use crate::budget::{Account, Amount, Refusal};
use crate::fault::{self, Bug};
use crate::run::{CallId, Event, Labels, Stream, Subject};
use crate::spec::{Builtin, Effect};

/// What the calls of one run may reach.
pub(super) struct Scope {
    pub(super) fleet: Arc<Fleet>,
    pub(super) stream: Arc<Stream>,
    /// Who the run is where calls wait for their turn.
    pub(super) lane: Lane,
    pub(super) account: Arc<SharedAccount>,
    pub(super) tools: Tools,
    pub(super) prompts: Prompts,
    pub(super) definitions: Definitions,
    /// Cancelled when the run is told to stop.
    pub(super) cancelled: CancellationToken,
    /// Whether calls that have not begun wait.
    pub(super) pause: Pause,
    pub(super) recorder: Arc<Recorder>,
    /// Tells those who follow the run what its models say.
    pub(super) voice: Arc<Voice>,
    /// Who can be asked for approval now.
    pub(super) approver: Option<Arc<dyn Approver>>,
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

/// Whether the call that something is held for is intended on record: from there on it may have been made.
pub(super) type Intended = Arc<AtomicBool>;

/// Records an event and waits until it has its number, which is returned, or is durable.
pub(super) async fn record(supervisor: &ActorRef<RunMessage>, happened: Happened, durable: bool) -> Result<u64, Over> {
    let (recorded, answer) = oneshot::channel();
    supervisor.cast(RunMessage::Record { happened: Box::new(happened), durable, recorded }).map_err(|_| Over)?;
    answer.await.map_err(|_| Over)
}

/// The run's account, shared by all its calls.
pub(super) struct SharedAccount {
    account: Mutex<Account>,
    /// Told whenever something is settled or released.
    freed: Notify,
}

impl SharedAccount {
    pub(super) fn new(account: Account) -> Self {
        Self { account: Mutex::new(account), freed: Notify::new() }
    }

    /// Does something with the account; nobody waits while holding it.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Account) -> T) -> T {
        f(&mut self.account.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns a future that is ready when something has been freed since now. To be asked for before the account is
    /// looked at, so that what is freed in between is not missed.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Reserves for one try of a call.
    pub(super) fn reserve(
        self: &Arc<Self>,
        counts: Amount,
        reserve: impl FnOnce(&mut Account) -> Result<(u32, Amount), Refusal>,
    ) -> Result<Hold, Refusal> {
        let reserved = self.with(reserve)?;
        Ok(self.hold(counts, reserved))
    }

    fn hold(self: &Arc<Self>, counts: Amount, (max_output_tokens, held): (u32, Amount)) -> Hold {
        Hold { account: self.clone(), held, counts, max_output_tokens, intended: Intended::default(), settled: false }
    }

    /// Does the same with the bug [`Bug::ReservedInTwo`].
    pub(super) async fn reserve_in_two(
        self: &Arc<Self>,
        counts: Amount,
        reserve: impl FnOnce(&mut Account) -> Result<(u32, Amount), Refusal>,
    ) -> Result<Hold, Refusal> {
        let mut seen = self.with(|account| account.clone());
        let reserved = reserve(&mut seen)?;
        tokio::task::yield_now().await;
        self.with(|account| *account = seen);
        Ok(self.hold(counts, reserved))
    }
}

/// What is held for one try of a call. Dropped before the call is intended, it gives everything back; dropped after,
/// by a cancel or a panic, it is charged in full, since nobody knows what the provider will bill.
pub(super) struct Hold {
    account: Arc<SharedAccount>,
    pub(super) held: Amount,
    /// The part that is charged however the try ends.
    pub(super) counts: Amount,
    /// How many tokens the call may write.
    pub(super) max_output_tokens: u32,
    intended: Intended,
    settled: bool,
}

impl Hold {
    /// Returns what is to be set when the intent is recorded. It is the run's supervisor that sets it: the task that waits
    /// for that may be stopped before it hears of it.
    pub(super) fn intended(&self) -> Intended {
        self.intended.clone()
    }

    /// Replaces the hold by what the call did cost.
    pub(super) fn settle(mut self, actual: Amount) {
        self.settled = true;
        self.account.with(|account| account.settle(self.held, actual));
        if fault::is_planted(Bug::SettledTwice) {
            self.account.with(|account| account.settle(Amount::default(), actual));
        }
        if !fault::is_planted(Bug::FreedNotTold) {
            self.account.freed.notify_waiters();
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let (held, intended) = (self.held, self.intended.load(Ordering::Relaxed));
        self.account.with(|account| match intended {
            true => account.settle(held, held),
            false => account.release(held),
        });
        self.account.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Rates;
    use crate::spec::Limits;

    fn account() -> Arc<SharedAccount> {
        let limits = Limits { model_calls: Some(1), tokens: Some(1_000), ..Limits::default() };
        Arc::new(SharedAccount::new(Account::new(&limits)))
    }

    fn reserve(account: &Arc<SharedAccount>) -> Result<Hold, Refusal> {
        let rates = Rates::default();
        account.reserve(Amount::ONE_STEP, |account| account.reserve(Amount::ONE_STEP, 10, 90, 1, &rates))
    }

    #[test]
    fn a_call_that_was_never_made_gives_everything_back() {
        let account = account();
        drop(reserve(&account).unwrap());
        assert_eq!(account.with(|account| (account.held(), account.spent())), Default::default());
        reserve(&account).unwrap();
    }

    #[test]
    fn a_call_that_broke_off_after_its_intent_is_charged_in_full() {
        let account = account();
        let hold = reserve(&account).unwrap();
        hold.intended().store(true, Ordering::Relaxed);
        drop(hold);
        assert_eq!(account.with(|account| (account.held(), account.spent().tokens)), (Amount::default(), 100));
        assert!(matches!(reserve(&account), Err(Refusal::Exhausted(_))));
    }

    #[tokio::test]
    async fn who_waits_is_told_when_something_is_freed() {
        let account = account();
        let hold = reserve(&account).unwrap();
        let freed = account.freed();
        assert!(matches!(reserve(&account), Err(Refusal::Held(_))));
        drop(hold);
        freed.await;
        reserve(&account).unwrap();
    }
}
