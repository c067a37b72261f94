//! The ledger: what every run holds and has spent, and what runs that ended have spent, as a fold of its own stream.
//!
//! Each entry is written in the same transaction as the event of the run that it belongs to, and follows from it; so
//! the two can be checked against each other, and pruning a run does not erase what it spent.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Account, AccountName, Amount, Cap, Limit, Today};
use crate::run::RunId;

/// What happens to the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// A run's account was opened.
    Opened {
        /// The run.
        run: RunId,
        /// Who pays.
        tenant: Arc<str>,
        /// The accounts that it spends from.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        accounts: Vec<Opening>,
    },
    /// A call's worst case was set aside.
    Reserved {
        /// The run.
        run: RunId,
        /// The number of the event in the run's stream.
        seq: u64,
        /// How much.
        amount: Amount,
        /// Whose call it is.
        #[serde(default)]
        agent: Arc<str>,
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
        /// The part of what it did cost that no provider confirmed, and that is charged as reserved.
        #[serde(default, skip_serializing_if = "Amount::is_nothing")]
        unknown: Amount,
        /// Whose call it was.
        #[serde(default)]
        agent: Arc<str>,
        /// When, in milliseconds since 1970 (UTC).
        #[serde(default)]
        at_ms: u64,
    },
    /// A person raised the limits of an account.
    Raised {
        /// The account.
        account: AccountName,
        /// By how much.
        amount: Amount,
    },
    /// What was charged as reserved to an account was given back: no provider has confirmed it for long enough.
    Expired {
        /// The account.
        account: AccountName,
        /// How much.
        amount: Amount,
        /// What was charged up to this time, in milliseconds since 1970 (UTC).
        until_ms: u64,
    },
    /// A run came to its end or was parked; it holds nothing any more.
    Closed {
        /// The run.
        run: RunId,
        /// Whether it is parked, and keeps its accounts.
        #[serde(default)]
        is_parked: bool,
    },
}

impl Entry {
    /// Returns the entry's kind, as it stands in the store.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Opened { .. } => "opened",
            Self::Reserved { .. } => "reserved",
            Self::Settled { .. } => "settled",
            Self::Raised { .. } => "raised",
            Self::Expired { .. } => "expired",
            Self::Closed { .. } => "closed",
        }
    }

    /// Returns the run that it follows from; none for what a person did.
    pub fn run(&self) -> Option<&RunId> {
        match self {
            Self::Raised { .. } | Self::Expired { .. } => None,
            Self::Opened { run, .. }
            | Self::Reserved { run, .. }
            | Self::Settled { run, .. }
            | Self::Closed { run, .. } => Some(run),
        }
    }
}

/// An account that a run spends from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    /// The account.
    pub name: AccountName,
    /// Its limits, as the run's network has them.
    pub caps: Vec<Cap>,
    /// What was spent from it before, where it lasts no longer than the run and the run was parked.
    #[serde(default, skip_serializing_if = "Amount::is_nothing")]
    pub spent: Amount,
}

/// How an account stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Book {
    /// What is held and spent.
    pub account: Account,
    /// Its limits, as the network has them that opened it last.
    pub caps: Vec<Cap>,
    /// What no provider confirmed, by the time at which it was charged; of an account that runs share.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub doubts: VecDeque<Doubt>,
}

/// What was charged at a time, and no provider confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// When, in milliseconds since 1970 (UTC); of several, the last time.
    pub at_ms: u64,
    /// How much.
    pub amount: Amount,
}

/// How many doubts an account tells apart. Where there are more, the two oldest are one, and last as long as the younger.
const MAX_DOUBTS: usize = 1_000;

impl Book {
    fn doubt(&mut self, doubt: Doubt) {
        self.account.doubt(doubt.amount);
        self.doubts.push_back(doubt);
        if self.doubts.len() > MAX_DOUBTS
            && let (Some(oldest), Some(next)) = (self.doubts.pop_front(), self.doubts.front_mut())
        {
            next.amount = next.amount.plus(oldest.amount);
            next.at_ms = next.at_ms.max(oldest.at_ms);
        }
    }

    /// Returns for how long that counts which no provider confirmed: of several limits the longest holds, and one that says
    /// nothing holds it for good.
    fn unknown_for_ms(&self) -> Option<u64> {
        let spans = self.caps.iter().map(|cap| cap.unknown_for_ms);
        spans.reduce(|one, other| Some(one?.max(other?))).flatten()
    }

    fn doubts_until(&self, until_ms: u64) -> impl Iterator<Item = &Doubt> {
        self.doubts.iter().filter(move |doubt| doubt.at_ms <= until_ms)
    }
}

/// Why limits can't be raised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRaised {
    /// There is no such account.
    #[error("there is no account {0}")]
    NoAccount(AccountName),
    /// Nothing would come of it.
    #[error("{account} has no limit on {limit}, so none can be raised")]
    NoLimit {
        /// The account.
        account: AccountName,
        /// What is not limited.
        limit: Limit,
    },
    /// It is no amount that anybody means, and could not be taken back.
    #[error("that is more of {0} than anybody spends")]
    TooMuch(Limit),
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
    /// The accounts that it spends from.
    #[serde(default)]
    pub accounts: Vec<AccountName>,
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// The number of the last entry.
    pub head: u64,
    /// The open accounts, by run.
    pub open: BTreeMap<RunId, Balance>,
    /// What closed accounts have come to, by tenant.
    pub closed: BTreeMap<Arc<str>, Closed>,
    /// The accounts: of open runs, and those that runs share.
    #[serde(default)]
    pub accounts: BTreeMap<AccountName, Book>,
    /// By how much limits were raised.
    #[serde(default)]
    pub raised: BTreeMap<AccountName, Amount>,
}

impl Ledger {
    /// Takes up the next entry.
    pub fn evolve(&mut self, entry: &Entry) {
        self.head += 1;
        match entry {
            Entry::Opened { run, tenant, accounts } => {
                // What an interrupted run spent is kept; it goes on where it was.
                let balance = self.open.entry(run.clone()).or_default();
                balance.tenant = tenant.clone();
                // Who only ends what nobody has under way opens no others.
                if !accounts.is_empty() {
                    balance.accounts = accounts.iter().map(|opening| opening.name.clone()).collect();
                }
                for Opening { name, caps, spent } in accounts {
                    let raised = self.raised.get(name).copied().unwrap_or_default();
                    let book = self.accounts.entry(name.clone()).or_insert_with(|| {
                        let mut account = Account::default();
                        account.carry(*spent);
                        account.raise(raised);
                        Book { account, ..Book::default() }
                    });
                    book.caps.clone_from(caps);
                }
            }
            Entry::Reserved { run, amount, agent, .. } => {
                if let Some(balance) = self.open.get_mut(run) {
                    balance.held = balance.held.plus(*amount);
                    post(&mut self.accounts, balance, run, agent, |book| book.account.hold(*amount));
                }
            }
            Entry::Raised { account, amount } => {
                let raised = self.raised.entry(account.clone()).or_default();
                *raised = raised.plus(*amount);
                self.accounts.entry(account.clone()).and_modify(|book| book.account.raise(*amount));
            }
            Entry::Settled { run, held, spent, debt, unknown, agent, at_ms, .. } => {
                if let Some(balance) = self.open.get_mut(run) {
                    let today = Today::at(*at_ms);
                    post(&mut self.accounts, balance, run, agent, |book| {
                        book.account.settle(*held, *spent, today);
                        // That a call was made is certain.
                        let amount = unknown.without_counts();
                        if !amount.is_nothing() {
                            book.doubt(Doubt { at_ms: *at_ms, amount });
                        }
                    });
                    balance.held = balance.held.minus(*held);
                    balance.spent = balance.spent.plus(*spent);
                    balance.debt = balance.debt.plus(*debt);
                }
            }
            Entry::Expired { account, until_ms, .. } => {
                if let Some(book) = self.accounts.get_mut(account) {
                    let due: Vec<Doubt> = book.doubts_until(*until_ms).copied().collect();
                    book.doubts.retain(|doubt| doubt.at_ms > *until_ms);
                    due.iter().for_each(|doubt| book.account.expire(doubt.amount, Today::at(doubt.at_ms)));
                }
            }
            Entry::Closed { run, is_parked } => {
                if !is_parked {
                    self.accounts.retain(|name, _| !name.is_of(run));
                }
                if let Some(balance) = self.open.remove(run) {
                    for name in balance.accounts.iter().filter(|name| !name.is_of_run()) {
                        self.accounts.entry(name.clone()).and_modify(|book| book.account.release(balance.held));
                    }
                    let closed = self.closed.entry(balance.tenant).or_default();
                    closed.spent = closed.spent.plus(balance.spent);
                    closed.debt = closed.debt.plus(balance.debt);
                }
            }
        }
    }

    /// Says whether the limits of an account can be raised by an amount. The account of a run need not be open.
    ///
    /// # Errors
    /// [`NotRaised`] says why not.
    pub fn check_raise(&self, account: &AccountName, amount: &Amount) -> Result<(), NotRaised> {
        let raised = Limit::SPENDING.into_iter().filter(|limit| limit.goes_into(amount));
        let Some(book) = self.accounts.get(account) else {
            return if account.is_of_run() { Ok(()) } else { Err(NotRaised::NoAccount(account.clone())) };
        };
        for limit in raised {
            if !book.caps.iter().any(|cap| limit.is_set(&cap.limit)) {
                return Err(NotRaised::NoLimit { account: account.clone(), limit });
            }
            if limit.is_absurd(amount) {
                return Err(NotRaised::TooMuch(limit));
            }
        }
        Ok(())
    }

    /// Returns the entry by which that is given back which has been charged to an account for long enough without a provider's
    /// confirming it, with its parts; none where nothing is due.
    pub fn expiring(&self, account: &AccountName, now_ms: u64) -> Option<(Entry, Vec<Doubt>)> {
        let book = self.accounts.get(account)?;
        let until_ms = now_ms.checked_sub(book.unknown_for_ms()?)?;
        let due: Vec<Doubt> = book.doubts_until(until_ms).copied().collect();
        let amount = due.iter().fold(Amount::default(), |sum, doubt| sum.plus(doubt.amount));
        (!due.is_empty()).then(|| (Entry::Expired { account: account.clone(), amount, until_ms }, due))
    }

    /// Returns what a tenant has spent: its runs that ended, and those under way.
    pub fn spent_by(&self, tenant: &str) -> Amount {
        let closed = self.closed.get(tenant).map(|closed| closed.spent).unwrap_or_default();
        let open = self.open.values().filter(|balance| &*balance.tenant == tenant);
        open.fold(closed, |sum, balance| sum.plus(balance.spent))
    }
}

/// Posts to the accounts of a run, and of its agents to that of one.
fn post(
    accounts: &mut BTreeMap<AccountName, Book>,
    balance: &Balance,
    run: &RunId,
    agent: &str,
    post: impl Fn(&mut Book),
) {
    let of_agent = AccountName::of_agent(run, agent);
    for name in balance.accounts.iter().filter(|name| !name.is_of_agent() || **name == of_agent) {
        accounts.entry(name.clone()).and_modify(&post);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Period;

    fn tokens(tokens: u64) -> Amount {
        Amount { tokens, ..Amount::default() }
    }

    fn opened(run: &RunId) -> Entry {
        Entry::Opened { run: run.clone(), tenant: "t".into(), accounts: Vec::new() }
    }

    #[test]
    fn what_a_run_spent_stays_with_its_tenant() {
        let run = RunId::new("r");
        let mut ledger = Ledger::default();
        ledger.evolve(&opened(&run));
        ledger.evolve(&Entry::Reserved { run: run.clone(), seq: 3, amount: tokens(100), agent: "a".into() });
        assert_eq!(ledger.open[&run].held, tokens(100));
        let (held, spent, debt) = (tokens(100), tokens(40), Amount::default());
        ledger.evolve(&Entry::Settled {
            run: run.clone(),
            seq: 4,
            held,
            spent,
            debt,
            unknown: debt,
            agent: "a".into(),
            at_ms: 0,
        });
        assert_eq!((ledger.open[&run].held, ledger.spent_by("t")), (Amount::default(), tokens(40)));
        ledger.evolve(&Entry::Closed { run: run.clone(), is_parked: false });
        assert_eq!((ledger.open.len(), ledger.spent_by("t"), ledger.head), (0, tokens(40), 4));
        ledger.evolve(&opened(&run));
        ledger.evolve(&Entry::Closed { run, is_parked: false });
        assert_eq!(ledger.spent_by("t"), tokens(40), "a run that was taken up again is not counted twice");
    }

    #[test]
    fn accounts_are_of_one_run_or_shared_and_a_limit_that_was_raised_stays_so() {
        let (run, other) = (RunId::new("r"), RunId::new("o"));
        let opening = |name: &AccountName| {
            let limit = Amount { tokens: 200, ..Amount::MAX };
            Opening {
                name: name.clone(),
                caps: vec![Cap { limit, period: None, warn_at: None, unknown_for_ms: None }],
                spent: tokens(0),
            }
        };
        let (of_run, of_agent) = (AccountName::of_run(&run), AccountName::of_agent(&run, "a"));
        let shared = AccountName::new("tenant/n/t");
        let open = |run: &RunId, names: &[&AccountName]| Entry::Opened {
            run: run.clone(),
            tenant: "t".into(),
            accounts: names.iter().map(|name| opening(name)).collect(),
        };
        let reserve = |run: &RunId, agent: &str| Entry::Reserved {
            run: run.clone(),
            seq: 1,
            amount: tokens(100),
            agent: agent.into(),
        };
        let mut ledger = Ledger::default();
        ledger.evolve(&open(&run, &[&of_run, &of_agent, &shared]));
        ledger.evolve(&open(&other, &[&AccountName::of_run(&other), &shared]));
        [reserve(&run, "a"), reserve(&run, "b"), reserve(&other, "a")].iter().for_each(|entry| ledger.evolve(entry));
        let held = |ledger: &Ledger, name: &AccountName| ledger.accounts[name].account.held().tokens;
        assert_eq!([&of_run, &of_agent, &shared].map(|name| held(&ledger, name)), [200, 100, 300]);
        ledger.evolve(&Entry::Settled {
            run: run.clone(),
            seq: 2,
            held: tokens(100),
            spent: tokens(30),
            debt: tokens(0),
            unknown: tokens(0),
            agent: "a".into(),
            at_ms: 0,
        });
        ledger.evolve(&Entry::Raised { account: of_run.clone(), amount: tokens(7) });
        let Book { account, caps, .. } = &ledger.accounts[&of_run];
        assert_eq!(account.free(caps, Today::default()).tokens, 200 + 7 - 30 - 100);
        ledger.evolve(&Entry::Closed { run: run.clone(), is_parked: false });
        assert_eq!(ledger.accounts.keys().map(AccountName::as_str).collect::<Vec<_>>(), ["run/o", "tenant/n/t"]);
        assert_eq!((held(&ledger, &shared), ledger.accounts[&shared].account.spent().tokens), (100, 30));
        ledger.evolve(&open(&run, &[&of_run]));
        assert_eq!(ledger.accounts[&of_run].account.raised().tokens, 7);
    }

    #[test]
    fn what_nobody_confirms_is_given_back_once_where_that_is_asked_for() {
        const DAY: u64 = 86_400_000;
        let shared = AccountName::new("tenant/n/t");
        let run = RunId::new("r");
        let cap = |unknown_for_ms, period| Cap {
            limit: Amount { tokens: 1_000, ..Amount::MAX },
            period,
            warn_at: None,
            unknown_for_ms,
        };
        let ledger = |caps: Vec<Cap>| {
            let mut ledger = Ledger::default();
            let opening = Opening { name: shared.clone(), caps, spent: tokens(0) };
            ledger.evolve(&Entry::Opened { run: run.clone(), tenant: "t".into(), accounts: vec![opening] });
            for (at_ms, spent, unknown) in [(5, 100, 100), (DAY, 50, 0), (DAY + 7, 30, 30)] {
                let (held, spent, unknown) = (tokens(spent), tokens(spent), tokens(unknown));
                ledger.evolve(&Entry::Reserved { run: run.clone(), seq: 1, amount: held, agent: "a".into() });
                let debt = tokens(0);
                let (run, agent) = (run.clone(), "a".into());
                ledger.evolve(&Entry::Settled { run, seq: 2, held, spent, debt, unknown, agent, at_ms });
            }
            ledger
        };
        let mut kept = ledger(vec![cap(Some(1_000), Some(Period::Day)), cap(Some(DAY), None)]);
        assert_eq!(kept.expiring(&shared, DAY + 4), None, "the longer time holds");
        for (now, amount, ever, today) in [(DAY + 5, 100, 80, 80), (2 * DAY + 7, 30, 50, 50)] {
            let (entry, due) = kept.expiring(&shared, now).unwrap();
            assert_eq!(due.iter().map(|doubt| doubt.amount.tokens).sum::<u64>(), amount);
            kept.evolve(&entry);
            // Twice is once.
            kept.evolve(&entry);
            let account = kept.accounts[&shared].account;
            let of_day = account.spent_in(Some(Period::Day), Today::at(DAY));
            assert_eq!((account.spent().tokens, of_day.tokens), (ever, today), "the first was spent on another day");
        }
        let account = kept.accounts[&shared].account;
        assert_eq!((account.unknown().tokens, account.expired().tokens), (0, 130));
        assert_eq!(kept.expiring(&shared, u64::MAX), None);
        assert_eq!(ledger(vec![cap(Some(1), None), cap(None, None)]).expiring(&shared, u64::MAX), None);
    }

    #[test]
    fn of_many_doubts_the_oldest_are_one() {
        let mut book = Book::default();
        for at_ms in 0..3_000 {
            book.doubt(Doubt { at_ms, amount: tokens(1) });
        }
        assert_eq!((book.doubts.len(), book.account.unknown().tokens), (MAX_DOUBTS, 3_000));
        assert_eq!(book.doubts[0], Doubt { at_ms: 2_000, amount: tokens(2_001) });
    }
}
