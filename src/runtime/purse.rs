//! The accounts that a call spends from: all of them, or none.

use std::sync::Arc;

use super::sync::{Mutex, MutexGuard, Notified, Notify, locked};
use crate::budget::{Account, AccountName, Amount, Cap, Doubt, Limit, Rates, Today};
use crate::spec::Period;

/// How many accounts a call can spend from: its agent's, and those of the run, the session, the tenant, the network and the
/// process.
pub const MAX_SOURCES: usize = 6;

/// What a call would like to reserve.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// What it takes however it ends.
    pub counts: Amount,
    /// How many tokens it reads at most.
    pub input_tokens: u64,
    /// How many tokens it would like to write.
    pub wanted: u32,
    /// How few it is still worth making for.
    pub at_least: u32,
    /// What its tokens cost.
    pub rates: Rates,
}

/// Why an amount can't be reserved.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// Others hold what it takes of the account with this place in the purse, and may give it back: waiting can help.
    Held(usize, Limit),
    /// Too much is spent already: waiting can't help.
    Exhausted(Box<Exhausted>),
}

/// A limit that is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Exhausted {
    /// Whose limit.
    pub account: AccountName,
    /// Its place in the purse.
    pub place: usize,
    /// Which.
    pub limit: Limit,
    /// The limit, and in what time it holds.
    pub cap: Cap,
    /// What is spent of it.
    pub spent: Amount,
    /// What the call may take at least.
    pub needs: Amount,
    /// By how much the limit was raised.
    pub raised: Amount,
}

impl Exhausted {
    /// Says it in words.
    pub fn words(&self) -> String {
        let Self { account, limit, cap, spent, .. } = self;
        let per = cap.period.map_or("", |period| match period {
            Period::Day => " a day",
            Period::Month => " a month",
        });
        let of = if account.as_str().starts_with("run/") { String::new() } else { format!(" of the budget {account}") };
        let most = cap.limit.plus(self.raised);
        let most = match limit {
            Limit::CostUsd => most.cost_usd().to_string(),
            _ => limit.of(&most),
        };
        let reached = format!("limit {limit} = {most}{per}{of}");
        match limit {
            Limit::Tokens => {
                format!("{reached}: {} are used, and the next call may need more than is left", limit.of(spent))
            }
            Limit::CostUsd => {
                format!("{reached}: {} are spent, and the next call may cost more than is left", limit.of(spent))
            }
            _ => format!("{reached} reached"),
        }
    }
}

impl Exhausted {
    /// Says it to who may raise the limit, with what has to be added at least.
    pub fn words_for_a_person(&self) -> String {
        let Self { account, limit, cap, spent, needs, raised, .. } = self;
        let left = cap.limit.plus(*raised).minus(*spent);
        let option = match limit {
            Limit::CostUsd => "--cost-usd",
            Limit::Tokens => "--tokens",
            Limit::ModelCalls => "--model-calls",
            Limit::ToolCalls => "--tool-calls",
            Limit::Steps | Limit::Deadline => "--steps",
        };
        let lacks = limit.of(&needs.minus(left));
        format!("{}; provost budget top-up {account} {option} {lacks} lets it go on", self.words())
    }
}

/// An account that several calls spend from at once.
#[derive(Debug)]
pub struct SharedAccount {
    name: AccountName,
    account: Mutex<Account>,
    /// Told whenever something is given back or a limit raised.
    freed: Notify,
}

impl SharedAccount {
    /// Shares an account.
    pub fn new(name: AccountName, account: Account) -> Self {
        Self { name, account: Mutex::new(account), freed: Notify::new() }
    }

    /// Returns its name.
    pub fn name(&self) -> &AccountName {
        &self.name
    }

    /// Does something with the account; nobody waits while holding it.
    pub fn with<T>(&self, f: impl FnOnce(&mut Account) -> T) -> T {
        f(&mut locked(&self.account))
    }

    /// Raises its limits, and wakes who waits for that.
    pub fn raise(&self, by: Amount) {
        self.with(|account| account.raise(by));
        self.freed.notify_waiters();
    }

    /// Gives back what no provider has confirmed for long enough, and wakes who waits for that.
    pub fn expire(&self, due: &[Doubt]) {
        self.with(|account| due.iter().for_each(|doubt| account.expire(doubt.amount, Today::at(doubt.at_ms))));
        self.freed.notify_waiters();
    }
}

/// An account, and how much of it may be spent.
#[derive(Clone, Debug)]
pub struct Source {
    /// The account.
    pub account: Arc<SharedAccount>,
    /// Its limits.
    pub caps: Arc<[Cap]>,
}

/// The accounts that a call spends from, in the one order in which they are locked: that of their names.
#[derive(Clone, Debug, Default)]
pub struct Purse {
    sources: Vec<Source>,
}

impl Purse {
    /// Makes a purse of some accounts, each once.
    pub fn new(mut sources: Vec<Source>) -> Self {
        sources.sort_by(|one, other| one.account.name.cmp(&other.account.name));
        sources.dedup_by(|one, other| one.account.name == other.account.name);
        sources.truncate(MAX_SOURCES);
        Self { sources }
    }

    /// Returns its accounts.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Reserves a call's worst case in all accounts at one moment, or in none. What it may write is cut to what remains, but
    /// not below what it is worth making for. Returns how many tokens it may write, and what is held for it.
    ///
    /// # Errors
    /// [`Refusal`] says whose limit stands in the way, and whether waiting can help. Nothing is held then.
    pub fn reserve(&self, ask: &Ask, today: Today) -> Result<(u32, Amount), Refusal> {
        let mut accounts = self.lock();
        let sources = || self.sources.iter().zip(accounts.iter().flatten());
        let remaining = |source: &Source, account: &Account| {
            source.caps.iter().fold(Amount::MAX, |least, cap| least.min(account.remaining(cap, today)))
        };
        let least = sources().fold(Amount::MAX, |least, (source, account)| least.min(remaining(source, account)));
        let output = ask.affordable(&least).min(u64::from(ask.wanted));
        let floor = ask.worst(output.max(u64::from(ask.at_least)));
        for (place, (source, account)) in sources().enumerate() {
            let is_beyond = |cap: &&Cap| Limit::beyond(&floor, &account.remaining(cap, today)).is_some();
            if let Some(cap) = source.caps.iter().find(is_beyond)
                && let Some(limit) = Limit::beyond(&floor, &account.remaining(cap, today))
            {
                let (spent, raised) = (account.spent_in(cap.period, today), account.raised());
                let account = source.account.name.clone();
                let reached = Exhausted { account, place, limit, cap: *cap, spent, needs: floor, raised };
                return Err(Refusal::Exhausted(Box::new(reached)));
            }
        }
        let amount = ask.worst(output);
        for (place, (source, account)) in sources().enumerate() {
            if let Some(limit) = Limit::beyond(&amount, &remaining(source, account).minus(account.held())) {
                return Err(Refusal::Held(place, limit));
            }
        }
        accounts.iter_mut().flatten().for_each(|account| account.hold(amount));
        Ok((u32::try_from(output).unwrap_or(ask.wanted), amount))
    }

    /// Replaces what was held for a call by what it did cost.
    pub fn settle(&self, held: Amount, actual: Amount, today: Today) {
        for source in &self.sources {
            source.account.with(|account| account.settle(held, actual, today));
        }
    }

    /// Gives back what was held for a call that was never made.
    pub fn release(&self, held: Amount) {
        for source in &self.sources {
            source.account.with(|account| account.release(held));
        }
    }

    /// Wakes who waits for what was given back.
    pub fn tell_freed(&self) {
        self.sources.iter().for_each(|source| source.account.freed.notify_waiters());
    }

    /// Returns for each account what is ready when something was given back to it, or its limit raised, since this was
    /// asked for. To be asked for before something is reserved, so that nothing in between is missed.
    pub fn freed(&self) -> [Option<Notified<'_>>; MAX_SOURCES] {
        let mut freed = [const { None }; MAX_SOURCES];
        for (freed, source) in freed.iter_mut().zip(&self.sources) {
            *freed = Some(source.account.freed.notified());
        }
        freed
    }

    fn lock(&self) -> [Option<MutexGuard<'_, Account>>; MAX_SOURCES] {
        let mut accounts = [const { None }; MAX_SOURCES];
        for (account, source) in accounts.iter_mut().zip(&self.sources) {
            *account = Some(locked(&source.account.account));
        }
        accounts
    }
}

impl Ask {
    fn worst(&self, output: u64) -> Amount {
        Amount {
            tokens: self.counts.tokens.saturating_add(self.input_tokens).saturating_add(output),
            cost_nano_usd: self.rates.worst_case(self.input_tokens, output),
            ..self.counts
        }
    }

    fn affordable(&self, remaining: &Amount) -> u64 {
        let by_tokens = remaining.tokens.saturating_sub(self.input_tokens);
        let money = remaining.cost_nano_usd.saturating_sub(self.rates.worst_case(self.input_tokens, 0));
        by_tokens.min(self.rates.output_tokens_for(money))
    }
}
