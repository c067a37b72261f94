//! Money: integers only, in billionths of a US dollar, rounded up.

use crate::run::Usage;
use crate::spec::Price;

/// How many of our units make a dollar.
pub const NANO_USD_PER_USD: u64 = 1_000_000_000;

/// What a model costs, in billionths of a dollar for a million tokens: an integer for every price that a provider
/// lists (down to a thousandth of a dollar for a million tokens and far below).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// For what it reads.
    pub input: u64,
    /// For what it reads from the provider's cache.
    pub cached_input: u64,
    /// For what it reads that is put into that cache.
    pub cache_write: u64,
    /// For what it writes.
    pub output: u64,
}

impl Rates {
    /// Takes the rates from a price in dollars, which has been checked to be finite and not negative.
    pub fn new(price: &Price) -> Self {
        let input = nano(price.input_usd_per_mtok);
        Self {
            input,
            cached_input: price.cached_input_usd_per_mtok.map_or(input, nano),
            cache_write: price.cache_write_usd_per_mtok.map_or(input, nano),
            output: nano(price.output_usd_per_mtok),
        }
    }

    /// Returns the most that a call can cost which reads and writes so many tokens, in billionths of a dollar.
    pub fn worst_case(&self, input_tokens: u64, output_tokens: u64) -> u64 {
        let input = self.input.max(self.cached_input).max(self.cache_write);
        cost(&[(input_tokens, input), (output_tokens, self.output)])
    }

    /// Returns what a call cost, in billionths of a dollar.
    pub fn cost(&self, usage: &Usage) -> u64 {
        let cached = usage.cached_input_tokens.min(usage.input_tokens);
        let written = usage.cache_write_tokens.min(usage.input_tokens - cached);
        cost(&[
            (usage.input_tokens - cached - written, self.input),
            (cached, self.cached_input),
            (written, self.cache_write),
            (usage.output_tokens, self.output),
        ])
    }

    /// Returns how many tokens can be written for so much money; all of `u64` where writing costs nothing.
    pub fn output_tokens_for(&self, nano_usd: u64) -> u64 {
        if self.output == 0 {
            return u64::MAX;
        }
        let tokens = u128::from(nano_usd) * 1_000_000 / u128::from(self.output);
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }
}

/// Turns dollars into our units, rounded up; saturates.
pub(crate) fn nano(usd: f64) -> u64 {
    (usd * 1e9).ceil() as u64
}

fn cost(parts: &[(u64, u64)]) -> u64 {
    let micro: u128 = parts.iter().map(|&(tokens, rate)| u128::from(tokens) * u128::from(rate)).sum();
    u64::try_from(micro.div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rates(input: f64, output: f64) -> Rates {
        Rates::new(&Price { input_usd_per_mtok: input, output_usd_per_mtok: output, ..Price::default() })
    }

    #[test]
    fn a_million_tokens_cost_their_price() {
        let usage =
            Usage { input_tokens: 1_000_000, cached_input_tokens: 0, output_tokens: 1_000_000, ..Usage::default() };
        assert_eq!(rates(0.25, 2.0).cost(&usage), 2_250_000_000);
    }

    #[test]
    fn what_is_read_is_charged_by_where_it_comes_from_and_goes_to() {
        let price = Price {
            input_usd_per_mtok: 1.0,
            cached_input_usd_per_mtok: Some(0.1),
            cache_write_usd_per_mtok: Some(1.25),
            output_usd_per_mtok: 5.0,
        };
        let usage = Usage { input_tokens: 1_000, cached_input_tokens: 600, cache_write_tokens: 300, output_tokens: 10 };
        assert_eq!(Rates::new(&price).cost(&usage), 100 * 1_000 + 600 * 100 + 300 * 1_250 + 10 * 5_000);
    }

    #[test]
    fn a_fraction_of_a_unit_is_rounded_up_once_for_the_call() {
        let usage = Usage { input_tokens: 1, cached_input_tokens: 0, output_tokens: 1, ..Usage::default() };
        assert_eq!(rates(0.0005, 0.0005).cost(&usage), 1);
    }

    proptest! {
        #[test]
        fn no_call_costs_more_than_its_worst_case(
            input in 0u64..1 << 40, output in 0u64..1 << 40, cached in 0u64..1 << 40, cache_write_tokens in 0u64..1 << 40,
            rate in 0u64..1 << 40,
        ) {
            let rates = Rates { input: rate, cached_input: rate / 3, cache_write: rate * 5 / 4, output: rate / 2 };
            let usage = Usage { input_tokens: input, cached_input_tokens: cached, cache_write_tokens, output_tokens: output };
            prop_assert!(rates.cost(&usage) <= rates.worst_case(input, output));
        }

        #[test]
        fn what_can_be_written_for_some_money_costs_no_more(money in 0u64..1 << 50, rate in 1u64..1 << 40) {
            let rates = Rates { output: rate, ..Rates::default() };
            prop_assert!(rates.worst_case(0, rates.output_tokens_for(money)) <= money);
        }
    }
}
