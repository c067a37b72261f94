//! The ledger: what every run holds and has spent, and what runs that ended have spent, as a fold of its own stream.
//!
//! Each entry is written in the same transaction as the event of the run that it belongs to, and follows from it; so
//! the two can be checked against each other, and pruning a run does not erase what it spent.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Amount;
use crate::run::RunId;

/// What happens to the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// A run's account was opened.
    Opened {
        /// The run.
        run: RunId,
        /// Who pays.
        tenant: Arc<str>,
    },
    /// A call's worst case was set aside.
    Reserved {
        /// The run.
        run: RunId,
        /// The number of the event in the run's stream.
        seq: u64,
        /// How much.
        amount: Amount,
    },
    /// A reservation was replaced by what the call did cost.
    Settled {
        /// The run.
        run: RunId,
        /// The number of the event in the run's stream.
        seq: u64,
        /// What was reserved.
        held: Amount,
        /// What it did cost.
        spent: Amount,
        /// By how much that goes beyond the run's limits.
        debt: Amount,
    },
    /// A run came to its end or was parked; it holds nothing any more.
    Closed {
        /// The run.
        run: RunId,
    },
}

impl Entry {
    /// Returns the entry's kind, as it stands in the store.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Opened { .. } => "opened",
            Self::Reserved { .. } => "reserved",
            Self::Settled { .. } => "settled",
            Self::Closed { .. } => "closed",
        }
    }

    /// Returns the run whose account it is about.
    pub fn run(&self) -> &RunId {
        match self {
            Self::Opened { run, .. }
            | Self::Reserved { run, .. }
            | Self::Settled { run, .. }
            | Self::Closed { run } => run,
        }
    }
}

/// What one run holds and has spent since its account was opened last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Who pays.
    pub tenant: Arc<str>,
    /// What is set aside for calls under way.
    pub held: Amount,
    /// What was spent.
    pub spent: Amount,
    /// By how much providers billed beyond the run's limits.
    pub debt: Amount,
}

/// What a tenant's runs have come to that hold nothing any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// What they spent.
    pub spent: Amount,
    /// By how much providers billed beyond their limits.
    pub debt: Amount,
}

/// Where the ledger stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The number of the last entry.
    pub head: u64,
    /// The open accounts, by run.
    pub open: BTreeMap<RunId, Balance>,
    /// What closed accounts have come to, by tenant.
    pub closed: BTreeMap<Arc<str>, Closed>,
}

impl Ledger {
    /// Takes up the next entry.
    pub fn evolve(&mut self, entry: &Entry) {
        self.head += 1;
        match entry {
            Entry::Opened { run, tenant } => {
                // What an interrupted run spent is kept; it goes on where it was.
                let balance = self.open.entry(run.clone()).or_default();
                balance.tenant = tenant.clone();
            }
            Entry::Reserved { run, amount, .. } => {
                if let Some(balance) = self.open.get_mut(run) {
                    balance.held = balance.held.plus(*amount);
                }
            }
            Entry::Settled { run, held, spent, debt, .. } => {
                if let Some(balance) = self.open.get_mut(run) {
                    balance.held = balance.held.minus(*held);
                    balance.spent = balance.spent.plus(*spent);
                    balance.debt = balance.debt.plus(*debt);
                }
            }
            Entry::Closed { run } => {
                if let Some(balance) = self.open.remove(run) {
                    let closed = self.closed.entry(balance.tenant).or_default();
                    closed.spent = closed.spent.plus(balance.spent);
                    closed.debt = closed.debt.plus(balance.debt);
                }
            }
        }
    }

    /// Returns what a tenant has spent: its runs that ended, and those under way.
    pub fn spent_by(&self, tenant: &str) -> Amount {
        let closed = self.closed.get(tenant).map(|closed| closed.spent).unwrap_or_default();
        let open = self.open.values().filter(|balance| &*balance.tenant == tenant);
        open.fold(closed, |sum, balance| sum.plus(balance.spent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(tokens: u64) -> Amount {
        Amount { tokens, ..Amount::default() }
    }

    #[test]
    fn what_a_run_spent_stays_with_its_tenant() {
        let run = RunId::new("r");
        let mut ledger = Ledger::default();
        ledger.evolve(&Entry::Opened { run: run.clone(), tenant: "t".into() });
        ledger.evolve(&Entry::Reserved { run: run.clone(), seq: 3, amount: tokens(100) });
        assert_eq!(ledger.open[&run].held, tokens(100));
        let (held, spent, debt) = (tokens(100), tokens(40), Amount::default());
        ledger.evolve(&Entry::Settled { run: run.clone(), seq: 4, held, spent, debt });
        assert_eq!((ledger.open[&run].held, ledger.spent_by("t")), (Amount::default(), tokens(40)));
        ledger.evolve(&Entry::Closed { run: run.clone() });
        assert_eq!((ledger.open.len(), ledger.spent_by("t"), ledger.head), (0, tokens(40), 4));
        ledger.evolve(&Entry::Opened { run: run.clone(), tenant: "t".into() });
        ledger.evolve(&Entry::Closed { run });
        assert_eq!(ledger.spent_by("t"), tokens(40), "a run that was taken up again is not counted twice");
    }
}
