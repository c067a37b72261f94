//! What is counted, and one account: what is held and has been spent, and what a call may take of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::calendar::Today;
use super::price::nano;
use super::{NANO_USD_PER_USD, Rates};
use crate::run::Usage;
use crate::spec::{BudgetSpec, Limits, Period};

/// What a call takes from an account, or an account holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Amount {
    /// Logical model calls.
    pub model_calls: u64,
    /// Steps.
    pub steps: u64,
    /// Tokens, read and written.
    pub tokens: u64,
    /// Money, in billionths of a US dollar.
    pub cost_nano_usd: u64,
    /// Calls of tools.
    #[serde(skip_serializing_if = "is_zero")]
    pub tool_calls: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Amount {
    /// More than anything costs.
    pub const MAX: Self = Self {
        model_calls: u64::MAX,
        steps: u64::MAX,
        tokens: u64::MAX,
        cost_nano_usd: u64::MAX,
        tool_calls: u64::MAX,
    };

    /// The first try of a model call counts as one call and one step.
    pub const ONE_STEP: Self = Self { model_calls: 1, steps: 1, tokens: 0, cost_nano_usd: 0, tool_calls: 0 };

    /// The first try of a model call that is no step of an agent: one that compacts.
    pub const ONE_CALL: Self = Self { steps: 0, ..Self::ONE_STEP };

    /// The first try of a tool call.
    pub const ONE_TOOL_CALL: Self = Self { tool_calls: 1, steps: 0, model_calls: 0, tokens: 0, cost_nano_usd: 0 };

    /// Returns the same with the tokens and the money of a call.
    pub fn with_usage(self, usage: &Usage, rates: &Rates) -> Self {
        Self { tokens: usage.tokens(), cost_nano_usd: rates.cost(usage), ..self }
    }

    /// Returns its tokens and its money alone.
    pub fn without_counts(self) -> Self {
        Self { tokens: self.tokens, cost_nano_usd: self.cost_nano_usd, ..Self::default() }
    }

    /// Whether there is nothing of anything.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the sum, part by part.
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// Returns the difference, part by part, never below zero.
    pub fn minus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }

    /// Returns the money in dollars, for people.
    pub fn cost_usd(&self) -> f64 {
        self.cost_nano_usd as f64 / NANO_USD_PER_USD as f64
    }

    /// Returns the smaller of both, part by part.
    pub fn min(self, other: Self) -> Self {
        self.zip(other, u64::min)
    }

    fn zip(self, other: Self, f: fn(u64, u64) -> u64) -> Self {
        Self {
            model_calls: f(self.model_calls, other.model_calls),
            steps: f(self.steps, other.steps),
            tokens: f(self.tokens, other.tokens),
            cost_nano_usd: f(self.cost_nano_usd, other.cost_nano_usd),
            tool_calls: f(self.tool_calls, other.tool_calls),
        }
    }
}

/// A limit, by its name in the network file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// `model_calls`
    ModelCalls,
    /// `steps`
    Steps,
    /// `tokens`
    Tokens,
    /// `cost_usd`
    CostUsd,
    /// `tool_calls`
    ToolCalls,
    /// `deadline`
    Deadline,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ModelCalls => "model_calls",
            Self::Steps => "steps",
            Self::Tokens => "tokens",
            Self::CostUsd => "cost_usd",
            Self::ToolCalls => "tool_calls",
            Self::Deadline => "deadline",
        })
    }
}

impl Limit {
    /// Writes what an amount has of what is limited, with its unit.
    pub fn of(self, amount: &Amount) -> String {
        match self {
            Self::ModelCalls => amount.model_calls.to_string(),
            Self::Steps => amount.steps.to_string(),
            Self::Tokens => amount.tokens.to_string(),
            Self::CostUsd => format!("{:.6}", amount.cost_usd()),
            Self::ToolCalls => amount.tool_calls.to_string(),
            Self::Deadline => String::new(),
        }
    }

    /// All that can be spent.
    pub const SPENDING: [Self; 5] = [Self::Steps, Self::ModelCalls, Self::Tokens, Self::CostUsd, Self::ToolCalls];

    /// Whether there is such a limit.
    pub fn is_set(self, limit: &Amount) -> bool {
        self.part(limit) != u64::MAX
    }

    /// Whether an amount has any of what is limited.
    pub(super) fn goes_into(self, amount: &Amount) -> bool {
        self.part(amount) > 0
    }

    /// Whether it is more than anybody spends: a million million, and of money a thousand million dollars.
    pub(super) fn is_absurd(self, amount: &Amount) -> bool {
        const MOST: u64 = 1_000_000_000_000;
        self.part(amount) > if self == Self::CostUsd { 1_000_000 * MOST } else { MOST }
    }

    /// Returns what an amount has of what is limited, as it is printed for programs.
    pub fn to_json(self, amount: &Amount) -> serde_json::Value {
        match self {
            Self::CostUsd => amount.cost_usd().into(),
            limit => limit.part(amount).into(),
        }
    }

    /// Returns the first limit that `amount` goes beyond.
    pub fn beyond(amount: &Amount, room: &Amount) -> Option<Self> {
        Self::SPENDING.into_iter().find(|limit| limit.part(amount) > limit.part(room))
    }

    fn part(self, amount: &Amount) -> u64 {
        match self {
            Self::ModelCalls => amount.model_calls,
            Self::Steps => amount.steps,
            Self::Tokens => amount.tokens,
            Self::CostUsd => amount.cost_nano_usd,
            Self::ToolCalls => amount.tool_calls,
            Self::Deadline => 0,
        }
    }
}

/// How much may be spent, and in what time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cap {
    /// How much; what has no limit has `u64::MAX`.
    pub limit: Amount,
    /// The time after which it begins anew; none for ever.
    pub period: Option<Period>,
    /// At which share of it somebody is told.
    pub warn_at: Option<f64>,
    /// For how many milliseconds that counts which no provider confirmed; none for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_for_ms: Option<u64>,
}

impl Cap {
    /// Takes a run's limits.
    pub fn of_run(limits: &Limits) -> Self {
        let limit = Amount {
            model_calls: limits.model_calls.unwrap_or(u64::MAX),
            steps: limits.steps,
            tokens: limits.tokens.unwrap_or(u64::MAX),
            cost_nano_usd: limits.cost_usd.map_or(u64::MAX, nano),
            tool_calls: limits.tool_calls.unwrap_or(u64::MAX),
        };
        Self { limit, period: None, warn_at: limits.warn_at, unknown_for_ms: None }
    }

    /// Takes the limits of a budget.
    pub fn of_budget(budget: &BudgetSpec, limits: &Limits) -> Self {
        let limit = Amount {
            model_calls: budget.model_calls.unwrap_or(u64::MAX),
            steps: u64::MAX,
            tokens: budget.tokens.unwrap_or(u64::MAX),
            cost_nano_usd: budget.cost_usd.map_or(u64::MAX, nano),
            tool_calls: budget.tool_calls.unwrap_or(u64::MAX),
        };
        let unknown_for_ms = budget.unknown_for.map(|span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX));
        Self { limit, period: budget.per, warn_at: budget.warn_at.or(limits.warn_at), unknown_for_ms }
    }

    /// Says of which limits at least the share `warn_at` is spent.
    fn near(&self, raised: Amount, spent: Amount) -> impl Iterator<Item = Limit> {
        let limit = self.limit.plus(raised);
        let is_near = move |which: &Limit, share: f64| {
            let (limit, spent) = (which.part(&limit), which.part(&spent));
            limit != u64::MAX && spent > 0 && spent as f64 >= share * limit as f64
        };
        let share = self.warn_at;
        Limit::SPENDING.into_iter().filter(move |which| share.is_some_and(|share| is_near(which, share)))
    }
}

/// What has been spent in a day or a month: in the last one, and in those before it, since a clock may jump. What was spent
/// on a day stays spent on it wherever the clock has been meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Spell {
    /// Which day or month it is.
    number: u32,
    spent: Amount,
    /// Those before it, the last one first.
    before: [Option<(u32, Amount)>; 2],
}

impl Spell {
    /// A clock that is set back over midnight begins nothing anew; one that comes back from far off does.
    fn spent(&self, number: u32) -> Amount {
        match self.before.iter().flatten().find(|(of, _)| *of == number) {
            Some((_, spent)) => *spent,
            None if number == self.number || number.saturating_add(1) == self.number => self.spent,
            None => Amount::default(),
        }
    }

    fn at(&mut self, number: u32) -> Option<&mut Amount> {
        let earlier = self.before.iter_mut().flatten().find(|(of, _)| *of == number).map(|(_, spent)| spent);
        let is_last = number == self.number || number.saturating_add(1) == self.number;
        earlier.or(is_last.then_some(&mut self.spent))
    }

    /// Takes back what was spent then; of what is not known any more, nothing.
    fn take_back(&mut self, number: u32, amount: Amount) {
        if let Some(spent) = self.at(number) {
            *spent = spent.minus(amount);
        }
    }

    fn post(&mut self, number: u32, amount: Amount) {
        if let Some(spent) = self.at(number) {
            *spent = spent.plus(amount);
            return;
        }
        let before = [Some((self.number, self.spent)), self.before[0]];
        *self = Self { number, spent: amount, before };
    }
}

/// An account: what is held for calls under way, and what has been spent. How much that may be is said by who asks, as
/// several networks may share it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    held: Amount,
    ever: Amount,
    day: Spell,
    month: Spell,
    /// By how much a person has raised its limits.
    raised: Amount,
    /// The part of what has been spent that no provider confirmed: it was charged as reserved.
    unknown: Amount,
    /// What was such a part, and counts no more.
    expired: Amount,
}

impl Account {
    /// Counts what was spent before: of a run that is taken up again.
    pub fn carry(&mut self, spent: Amount) {
        self.ever = self.ever.plus(spent);
    }

    /// Raises its limits.
    pub fn raise(&mut self, by: Amount) {
        self.raised = self.raised.plus(by);
    }

    /// Sets something aside.
    pub fn hold(&mut self, amount: Amount) {
        self.held = self.held.plus(amount);
    }

    /// Replaces what was held for a call by what it did cost.
    pub fn settle(&mut self, held: Amount, actual: Amount, today: Today) {
        self.release(held);
        self.ever = self.ever.plus(actual);
        self.day.post(today.day, actual);
        self.month.post(today.month, actual);
    }

    /// Counts a part of what has been spent as confirmed by nobody.
    pub fn doubt(&mut self, amount: Amount) {
        self.unknown = self.unknown.plus(amount);
    }

    /// Gives back what was spent on a day, and which nobody has confirmed for long enough.
    pub fn expire(&mut self, amount: Amount, day: Today) {
        self.unknown = self.unknown.minus(amount);
        self.expired = self.expired.plus(amount);
        self.ever = self.ever.minus(amount);
        self.day.take_back(day.day, amount);
        self.month.take_back(day.month, amount);
    }

    /// Gives back what was held for a call that was never made.
    pub fn release(&mut self, held: Amount) {
        self.held = self.held.minus(held);
    }

    /// Lets what is held count as spent: nobody knows what became of the calls.
    #[must_use]
    pub fn with_held_spent(mut self, today: Today) -> Self {
        self.settle(self.held, self.held, today);
        self
    }

    /// Returns what has been spent in all.
    pub fn spent(&self) -> Amount {
        self.ever
    }

    /// Returns what has been spent in the present period of a limit.
    pub fn spent_in(&self, period: Option<Period>, today: Today) -> Amount {
        match period {
            None => self.ever,
            Some(Period::Day) => self.day.spent(today.day),
            Some(Period::Month) => self.month.spent(today.month),
        }
    }

    /// Returns what is held for calls under way.
    pub fn held(&self) -> Amount {
        self.held
    }

    /// Returns the part of what has been spent that no provider confirmed.
    pub fn unknown(&self) -> Amount {
        self.unknown
    }

    /// Returns what was given back since no provider confirmed it for long enough.
    pub fn expired(&self) -> Amount {
        self.expired
    }

    /// Returns by how much its limits were raised.
    pub fn raised(&self) -> Amount {
        self.raised
    }

    /// Returns what a limit leaves that is not spent; some of it may be held.
    pub fn remaining(&self, cap: &Cap, today: Today) -> Amount {
        cap.limit.plus(self.raised).minus(self.spent_in(cap.period, today))
    }

    /// Returns what is neither held nor spent.
    pub fn free(&self, caps: &[Cap], today: Today) -> Amount {
        caps.iter().fold(Amount::MAX, |free, cap| free.min(self.remaining(cap, today).minus(self.held)))
    }

    /// Returns the limit of which the smallest share is free, with that share; none where nothing is limited. Calls of tools
    /// are none of it: a cheaper model makes as many.
    pub fn least_share(&self, caps: &[Cap], today: Today) -> Option<(Limit, f64)> {
        let of_cap = |cap: &Cap| {
            let (limit, free) = (cap.limit.plus(self.raised), self.remaining(cap, today).minus(self.held));
            let is_set =
                |which: &Limit| *which != Limit::ToolCalls && which.is_set(&cap.limit) && which.part(&limit) > 0;
            let share = |which: Limit| (which, which.part(&free) as f64 / which.part(&limit) as f64);
            // What people look at first comes first.
            let limits = [Limit::CostUsd, Limit::Tokens, Limit::ModelCalls, Limit::Steps];
            let shares = limits.into_iter().filter(is_set).map(share);
            shares.min_by(|one, other| one.1.total_cmp(&other.1))
        };
        caps.iter().filter_map(of_cap).min_by(|one, other| one.1.total_cmp(&other.1))
    }

    /// Returns by how much providers have billed beyond its limits; no more can be reserved then.
    pub fn debt(&self, caps: &[Cap], today: Today) -> Amount {
        let beyond = |cap: &Cap| {
            let spent = self.spent_in(cap.period, today).plus(self.held);
            Amount::default().plus(spent.minus(cap.limit.plus(self.raised)))
        };
        caps.iter().map(beyond).fold(Amount::default(), |most, debt| most.plus(debt.minus(most)))
    }

    /// Returns the limits somebody is to be told of, since they are near, with what is spent of each.
    pub fn near(&self, caps: &[Cap], today: Today) -> Vec<(Limit, Option<Period>, Amount)> {
        let near = |cap: &Cap| {
            let (spent, period) = (self.spent_in(cap.period, today), cap.period);
            cap.near(self.raised, spent).map(move |limit| (limit, period, spent)).collect::<Vec<_>>()
        };
        caps.iter().flat_map(near).collect()
    }
}
