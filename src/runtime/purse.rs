//! The accounts that a call spends from: all of them, or none.

mod sync;

use std::sync::Arc;

use self::sync::{Mutex, MutexGuard, Notified, Notify, locked};
use crate::budget::{Account, AccountName, Amount, Cap, Limit, Rates, Today};
use crate::spec::Period;

/// How many accounts a call can spend from: its agent's, and those of the run, the session, the tenant, the network and the
/// process.
pub(super) const MAX_LINES: usize = 6;

/// What a call would like to reserve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    /// What it takes however it ends.
    pub(super) counts: Amount,
    /// How many tokens it reads at most.
    pub(super) input_tokens: u64,
    /// How many tokens it would like to write.
    pub(super) wanted: u32,
    /// How few it is still worth making for.
    pub(super) at_least: u32,
    /// What its tokens cost.
    pub(super) rates: Rates,
}

/// Why an amount can't be reserved.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Refusal {
    /// Others hold what it takes of the account with this place in the purse, and may give it back: waiting can help.
    Held(usize, Limit),
    /// Too much is spent already: waiting can't help.
    Exhausted(Exhausted),
}

/// A limit that is reached.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Exhausted {
    /// Whose limit.
    pub(super) account: AccountName,
    /// Its place in the purse.
    pub(super) place: usize,
    /// Which.
    pub(super) limit: Limit,
    /// The limit, and in what time it holds.
    pub(super) cap: Cap,
    /// What is spent of it.
    pub(super) spent: Amount,
}

impl Exhausted {
    /// Says it in words.
    pub(super) fn words(&self) -> String {
        let Self { account, limit, cap, spent, .. } = self;
        let per = cap.period.map_or("", |period| match period {
            Period::Day => " a day",
            Period::Month => " a month",
        });
        let of = if account.as_str().starts_with("run/") { String::new() } else { format!(" of the budget {account}") };
        let most = match limit {
            Limit::CostUsd => cap.limit.cost_usd().to_string(),
            _ => limit.of(&cap.limit),
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

/// An account that several calls spend from at once.
#[derive(Debug)]
pub(super) struct SharedAccount {
    name: AccountName,
    account: Mutex<Account>,
    /// Told whenever something is given back or a limit raised.
    freed: Notify,
}

impl SharedAccount {
    /// Shares an account.
    pub(super) fn new(name: AccountName, account: Account) -> Self {
        Self { name, account: Mutex::new(account), freed: Notify::new() }
    }

    /// Returns its name.
    pub(super) fn name(&self) -> &AccountName {
        &self.name
    }

    /// Does something with the account; nobody waits while holding it.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Account) -> T) -> T {
        f(&mut locked(&self.account))
    }

    /// Raises its limits, and wakes who waits for that.
    pub(super) fn raise(&self, by: Amount) {
        self.with(|account| account.raise(by));
        self.freed.notify_waiters();
    }
}

/// An account, and how much of it may be spent.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// The account.
    pub(super) account: Arc<SharedAccount>,
    /// Its limits.
    pub(super) caps: Arc<[Cap]>,
}

/// The accounts that a call spends from, in the one order in which they are locked: that of their names.
#[derive(Clone, Debug, Default)]
pub(super) struct Purse {
    lines: Vec<Line>,
}

impl Purse {
    /// Makes a purse of some accounts, each once.
    pub(super) fn new(mut lines: Vec<Line>) -> Self {
        lines.sort_by(|one, other| one.account.name.cmp(&other.account.name));
        lines.dedup_by(|one, other| one.account.name == other.account.name);
        lines.truncate(MAX_LINES);
        Self { lines }
    }

    /// Returns its accounts.
    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Reserves a call's worst case in all accounts at one moment, or in none. What it may write is cut to what remains, but
    /// not below what it is worth making for. Returns how many tokens it may write, and what is held for it.
    ///
    /// # Errors
    /// [`Refusal`] says whose limit stands in the way, and whether waiting can help. Nothing is held then.
    pub(super) fn reserve(&self, ask: &Ask, today: Today) -> Result<(u32, Amount), Refusal> {
        let mut accounts = self.lock();
        let lines = || self.lines.iter().zip(accounts.iter().flatten());
        let remaining = |line: &Line, account: &Account| {
            line.caps.iter().fold(Amount::MAX, |least, cap| least.min(account.remaining(cap, today)))
        };
        let least = lines().fold(Amount::MAX, |least, (line, account)| least.min(remaining(line, account)));
        let output = ask.affordable(&least).min(u64::from(ask.wanted));
        let floor = ask.worst(output.max(u64::from(ask.at_least)));
        for (place, (line, account)) in lines().enumerate() {
            let is_beyond = |cap: &&Cap| Limit::beyond(&floor, &account.remaining(cap, today)).is_some();
            if let Some(cap) = line.caps.iter().find(is_beyond)
                && let Some(limit) = Limit::beyond(&floor, &account.remaining(cap, today))
            {
                let (account, spent) = (line.account.name.clone(), account.spent_in(cap.period, today));
                return Err(Refusal::Exhausted(Exhausted { account, place, limit, cap: *cap, spent }));
            }
        }
        let amount = ask.worst(output);
        for (place, (line, account)) in lines().enumerate() {
            if let Some(limit) = Limit::beyond(&amount, &remaining(line, account).minus(account.held())) {
                return Err(Refusal::Held(place, limit));
            }
        }
        accounts.iter_mut().flatten().for_each(|account| account.hold(amount));
        Ok((u32::try_from(output).unwrap_or(ask.wanted), amount))
    }

    /// Replaces what was held for a call by what it did cost.
    pub(super) fn settle(&self, held: Amount, actual: Amount, today: Today) {
        for line in &self.lines {
            line.account.with(|account| account.settle(held, actual, today));
        }
    }

    /// Gives back what was held for a call that was never made.
    pub(super) fn release(&self, held: Amount) {
        for line in &self.lines {
            line.account.with(|account| account.release(held));
        }
    }

    /// Wakes who waits for what was given back.
    pub(super) fn tell_freed(&self) {
        self.lines.iter().for_each(|line| line.account.freed.notify_waiters());
    }

    /// Returns for each account what is ready when something was given back to it, or its limit raised, since this was
    /// asked for. To be asked for before something is reserved, so that nothing in between is missed.
    pub(super) fn freed(&self) -> [Option<Notified<'_>>; MAX_LINES] {
        let mut freed = [const { None }; MAX_LINES];
        for (freed, line) in freed.iter_mut().zip(&self.lines) {
            *freed = Some(line.account.freed.notified());
        }
        freed
    }

    fn lock(&self) -> [Option<MutexGuard<'_, Account>>; MAX_LINES] {
        let mut accounts = [const { None }; MAX_LINES];
        for (account, line) in accounts.iter_mut().zip(&self.lines) {
            *account = Some(locked(&line.account.account));
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

#[cfg(test)]
mod tests;
