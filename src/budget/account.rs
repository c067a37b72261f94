//! One account: limits, and what is held and spent of them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::price::nano;
use super::{NANO_USD_PER_USD, Rates};
use crate::run::Usage;
use crate::spec::Limits;

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
}

impl Amount {
    /// More than anything costs.
    pub const MAX: Self = Self { model_calls: u64::MAX, steps: u64::MAX, tokens: u64::MAX, cost_nano_usd: u64::MAX };

    /// The first try of a model call counts as one call and one step.
    pub const ONE_STEP: Self = Self { model_calls: 1, steps: 1, tokens: 0, cost_nano_usd: 0 };

    /// The first try of a model call that is no step of an agent: one that compacts.
    pub const ONE_CALL: Self = Self { steps: 0, ..Self::ONE_STEP };

    /// Returns the same with the tokens and the money of a call.
    pub fn with_usage(self, usage: &Usage, rates: &Rates) -> Self {
        Self { tokens: usage.tokens(), cost_nano_usd: rates.cost(usage), ..self }
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

    fn zip(self, other: Self, f: fn(u64, u64) -> u64) -> Self {
        Self {
            model_calls: f(self.model_calls, other.model_calls),
            steps: f(self.steps, other.steps),
            tokens: f(self.tokens, other.tokens),
            cost_nano_usd: f(self.cost_nano_usd, other.cost_nano_usd),
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
            Self::Deadline => "deadline",
        })
    }
}

/// Why an amount can't be reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Others hold what it takes, and may give it back: waiting can help.
    Held(Limit),
    /// Too much is spent already: waiting can't help.
    Exhausted(Limit),
}

/// An account.
#[derive(Clone, Debug)]
pub struct Account {
    limit: Amount,
    held: Amount,
    spent: Amount,
    debt: Amount,
}

impl Account {
    /// Opens an account with a run's limits; what has none is limited by `u64::MAX`.
    pub fn new(limits: &Limits) -> Self {
        let limit = Amount {
            model_calls: limits.model_calls.unwrap_or(u64::MAX),
            steps: limits.steps,
            tokens: limits.tokens.unwrap_or(u64::MAX),
            cost_nano_usd: limits.cost_usd.map_or(u64::MAX, nano),
        };
        Self { limit, held: Amount::default(), spent: Amount::default(), debt: Amount::default() }
    }

    /// Counts what was spent before: of a run that is taken up again.
    pub fn carry(&mut self, spent: Amount) {
        self.spent = self.spent.plus(spent);
        self.debt = self.spent.plus(self.held).minus(self.limit);
    }

    /// Reserves a call that reads at most `input_tokens` and would like to write `wanted` tokens: the count is cut to
    /// what remains, but not below `at_least`. Returns how many tokens the call may write, and what is held for it.
    ///
    /// # Errors
    /// [`Refusal`] says which limit stands in the way, and whether waiting can help. Nothing is held then.
    pub fn reserve(
        &mut self,
        counts: Amount,
        input_tokens: u64,
        wanted: u32,
        at_least: u32,
        rates: &Rates,
    ) -> Result<(u32, Amount), Refusal> {
        let remaining = self.limit.minus(self.spent);
        let output = self.affordable(&remaining, input_tokens, rates).min(u64::from(wanted));
        let worst = |output: u64| Amount {
            tokens: input_tokens.saturating_add(output),
            cost_nano_usd: rates.worst_case(input_tokens, output),
            ..counts
        };
        let floor = worst(output.max(u64::from(at_least)));
        if let Some(limit) = beyond(&floor, &remaining) {
            return Err(Refusal::Exhausted(limit));
        }
        let amount = worst(output);
        if let Some(limit) = beyond(&amount, &remaining.minus(self.held)) {
            return Err(Refusal::Held(limit));
        }
        self.held = self.held.plus(amount);
        Ok((u32::try_from(output).unwrap_or(wanted), amount))
    }

    /// Replaces what was held for a call by what it did cost. What goes beyond the hold and no longer fits the limit
    /// is debt; it counts as spent, so that nothing more can be reserved.
    pub fn settle(&mut self, held: Amount, actual: Amount) {
        self.held = self.held.minus(held);
        self.spent = self.spent.plus(actual);
        self.debt = self.spent.plus(self.held).minus(self.limit);
    }

    /// Gives back what was held for a call that was never made.
    pub fn release(&mut self, held: Amount) {
        self.held = self.held.minus(held);
    }

    /// Returns what has been spent.
    pub fn spent(&self) -> Amount {
        self.spent
    }

    /// Returns what is held for calls under way.
    pub fn held(&self) -> Amount {
        self.held
    }

    /// Returns what is neither held nor spent.
    pub fn free(&self) -> Amount {
        self.limit.minus(self.spent).minus(self.held)
    }

    /// Returns by how much providers have billed beyond the limits.
    pub fn debt(&self) -> Amount {
        self.debt
    }

    fn affordable(&self, remaining: &Amount, input_tokens: u64, rates: &Rates) -> u64 {
        let by_tokens = remaining.tokens.saturating_sub(input_tokens);
        let money = remaining.cost_nano_usd.saturating_sub(rates.worst_case(input_tokens, 0));
        by_tokens.min(rates.output_tokens_for(money))
    }
}

/// Returns the first limit that `amount` goes beyond.
fn beyond(amount: &Amount, room: &Amount) -> Option<Limit> {
    [
        (amount.steps > room.steps, Limit::Steps),
        (amount.model_calls > room.model_calls, Limit::ModelCalls),
        (amount.tokens > room.tokens, Limit::Tokens),
        (amount.cost_nano_usd > room.cost_nano_usd, Limit::CostUsd),
    ]
    .into_iter()
    .find_map(|(beyond, limit)| beyond.then_some(limit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FREE: Rates = Rates { input: 0, cached_input: 0, output: 0 };

    fn account(tokens: u64, model_calls: u64) -> Account {
        Account::new(&Limits { tokens: Some(tokens), model_calls: Some(model_calls), ..Limits::default() })
    }

    #[test]
    fn the_answer_is_cut_to_what_remains() {
        let mut account = account(1_000, 9);
        let (output, held) = account.reserve(Amount::ONE_STEP, 900, 4_096, 64, &FREE).unwrap();
        assert_eq!((output, held.tokens), (100, 1_000));
    }

    #[test]
    fn a_cut_below_what_is_worth_asking_for_is_exhaustion() {
        let refusal = account(1_000, 9).reserve(Amount::ONE_STEP, 950, 4_096, 64, &FREE).unwrap_err();
        assert_eq!(refusal, Refusal::Exhausted(Limit::Tokens));
    }

    #[test]
    fn what_only_others_hold_is_worth_waiting_for() {
        let mut account = account(10_000, 1);
        let (_, held) = account.reserve(Amount::ONE_STEP, 10, 10, 1, &FREE).unwrap();
        assert_eq!(account.reserve(Amount::ONE_STEP, 10, 10, 1, &FREE).unwrap_err(), Refusal::Held(Limit::ModelCalls));
        account.release(held);
        account.reserve(Amount::ONE_STEP, 10, 10, 1, &FREE).unwrap();
    }

    #[test]
    fn billing_beyond_the_limit_is_debt_and_stops_further_calls() {
        let mut account = account(1_000, 9);
        let (_, held) = account.reserve(Amount::ONE_STEP, 500, 100, 1, &FREE).unwrap();
        account.settle(held, Amount { tokens: 5_000, ..Amount::ONE_STEP });
        assert_eq!(account.debt().tokens, 4_000);
        assert_eq!(account.reserve(Amount::ONE_STEP, 1, 1, 1, &FREE).unwrap_err(), Refusal::Exhausted(Limit::Tokens));
    }

    proptest! {
        /// Whatever is reserved, settled within its hold, and released: spent and held never exceed the limit.
        #[test]
        fn honest_calls_never_overshoot(calls in prop::collection::vec((0u64..400, 1u32..400, 0u8..3, 0u64..100), 1..60)) {
            let rates = Rates { input: 3_000_000, cached_input: 1_000_000, output: 9_000_000 };
            let mut account = Account::new(&Limits {
                tokens: Some(3_000), cost_usd: Some(0.000_02), model_calls: Some(20), ..Limits::default()
            });
            let mut open = Vec::new();
            for (input, wanted, what, share) in calls {
                if let Ok((output, held)) = account.reserve(Amount::ONE_STEP, input, wanted, 1, &rates) {
                    open.push((input, output, held));
                }
                if what > 0 && !open.is_empty() {
                    let (input, output, held) = open.remove(0);
                    let usage = Usage {
                        input_tokens: input, cached_input_tokens: 0, output_tokens: u64::from(output) * share / 100,
                    };
                    match what {
                        1 => account.settle(held, Amount::ONE_STEP.with_usage(&usage, &rates)),
                        _ => account.release(held),
                    }
                }
                let used = account.spent().plus(account.held());
                prop_assert!(beyond(&used, &account.limit).is_none(), "{used:?}");
                prop_assert_eq!(account.debt(), Amount::default());
            }
            for (_, _, held) in open {
                account.release(held);
            }
            prop_assert_eq!(account.held(), Amount::default());
        }
    }
}
