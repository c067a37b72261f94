//! What the calls of one run may reach, and how they tell the run's supervisor what became of them.

use std::sync::{Arc, Mutex, PoisonError};

use ractor::ActorRef;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::fleet::{Definitions, Fleet, Prompts, Tools};
use super::run_supervisor::RunMessage;
use crate::budget::{Account, Amount, Refusal};
use crate::run::{CallId, Event, Stream, Subject};
use crate::spec::Builtin;

/// What the calls of one run may reach.
pub(super) struct Scope {
    pub(super) fleet: Arc<Fleet>,
    pub(super) stream: Arc<Stream>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) tools: Tools,
    pub(super) prompts: Prompts,
    pub(super) definitions: Definitions,
    pub(super) cancelled: CancellationToken,
}

impl Scope {
    /// Returns which built-in tool a call is made to, if it is one.
    pub(super) fn builtin(&self, subject: &Subject) -> Option<Builtin> {
        match subject {
            Subject::Tool { tool, .. } => self.tools.get(tool)?.builtin(),
            _ => None,
        }
    }
}

/// The run has ended: nothing more is recorded, and what was asking should stop.
#[derive(Debug)]
pub(super) struct Over;

/// Records an event and waits until it has its number (and, where there is a store, is durable).
pub(super) async fn record(
    supervisor: &ActorRef<RunMessage>,
    call: &CallId,
    cause: u64,
    event: Event,
) -> Result<(), Over> {
    let (recorded, answer) = oneshot::channel();
    let message = RunMessage::Record { agent: call.agent.clone(), cause, event, recorded };
    supervisor.cast(message).map_err(|_| Over)?;
    answer.await.map_err(|_| Over)
}

/// The run's account, shared by all its calls.
pub(super) struct Ledger {
    account: Mutex<Account>,
    /// Told whenever something is settled or released.
    freed: Notify,
}

impl Ledger {
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
        let (max_output_tokens, held) = self.with(reserve)?;
        Ok(Hold { ledger: self.clone(), held, counts, max_output_tokens, intended: false, settled: false })
    }
}

/// What is held for one try of a call. Dropped before the call is intended, it gives everything back; dropped after,
/// by a cancel or a panic, it is charged in full, since nobody knows what the provider will bill.
pub(super) struct Hold {
    ledger: Arc<Ledger>,
    pub(super) held: Amount,
    /// The part that is charged however the try ends.
    pub(super) counts: Amount,
    /// How many tokens the call may write.
    pub(super) max_output_tokens: u32,
    intended: bool,
    settled: bool,
}

impl Hold {
    /// From here on the call may have been made.
    pub(super) fn intend(&mut self) {
        self.intended = true;
    }

    /// Replaces the hold by what the call did cost.
    pub(super) fn settle(mut self, actual: Amount) {
        self.settled = true;
        self.ledger.with(|account| account.settle(self.held, actual));
        self.ledger.freed.notify_waiters();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let (held, intended) = (self.held, self.intended);
        self.ledger.with(|account| match intended {
            true => account.settle(held, held),
            false => account.release(held),
        });
        self.ledger.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Rates;
    use crate::spec::Limits;

    fn ledger() -> Arc<Ledger> {
        let limits = Limits { model_calls: Some(1), tokens: Some(1_000), ..Limits::default() };
        Arc::new(Ledger::new(Account::new(&limits)))
    }

    fn reserve(ledger: &Arc<Ledger>) -> Result<Hold, Refusal> {
        let rates = Rates::default();
        ledger.reserve(Amount::ONE_STEP, |account| account.reserve(Amount::ONE_STEP, 10, 90, 1, &rates))
    }

    #[test]
    fn a_call_that_was_never_made_gives_everything_back() {
        let ledger = ledger();
        drop(reserve(&ledger).unwrap());
        assert_eq!(ledger.with(|account| (account.held(), account.spent())), Default::default());
        reserve(&ledger).unwrap();
    }

    #[test]
    fn a_call_that_broke_off_after_its_intent_is_charged_in_full() {
        let ledger = ledger();
        let mut hold = reserve(&ledger).unwrap();
        hold.intend();
        drop(hold);
        assert_eq!(ledger.with(|account| (account.held(), account.spent().tokens)), (Amount::default(), 100));
        assert!(matches!(reserve(&ledger), Err(Refusal::Exhausted(_))));
    }

    #[tokio::test]
    async fn who_waits_is_told_when_something_is_freed() {
        let ledger = ledger();
        let hold = reserve(&ledger).unwrap();
        let freed = ledger.freed();
        assert!(matches!(reserve(&ledger), Err(Refusal::Held(_))));
        drop(hold);
        freed.await;
        reserve(&ledger).unwrap();
    }
}
