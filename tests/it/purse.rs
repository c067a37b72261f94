//! The accounts that a call is paid from: by example, by random lives, and under a model checker.

mod under_loom;

use std::sync::Arc;

use proptest::prelude::*;
use provost::budget::{Account, AccountName, Amount, Cap, Limit, Rates, Today};
use provost::run::Usage;
use provost::runtime::{Ask, Purse, Refusal, SharedAccount, Source};
use provost::spec::{Limits, Period};

const FREE: Rates = Rates { input: 0, cached_input: 0, cache_write: 0, output: 0 };

fn source(name: &str, caps: &[Cap]) -> Source {
    Source { account: Arc::new(SharedAccount::new(AccountName::new(name), Account::default())), caps: caps.into() }
}

fn cap(tokens: u64, model_calls: u64) -> Cap {
    Cap::of_run(&Limits { tokens: Some(tokens), model_calls: Some(model_calls), ..Limits::default() })
}

fn purse(tokens: u64, model_calls: u64) -> Purse {
    Purse::new(vec![source("run/r", &[cap(tokens, model_calls)])])
}

fn ask(input_tokens: u64, wanted: u32, at_least: u32) -> Ask {
    Ask { counts: Amount::ONE_STEP, input_tokens, wanted, at_least, rates: FREE }
}

fn reserve(purse: &Purse, ask: &Ask) -> Result<(u32, Amount), Refusal> {
    purse.reserve(ask, Today::default())
}

fn limit(refused: Result<(u32, Amount), Refusal>) -> Limit {
    match refused.unwrap_err() {
        Refusal::Held(_, limit) => panic!("{limit} is held"),
        Refusal::Exhausted(reached) => reached.limit,
    }
}

#[test]
fn the_answer_is_cut_to_what_remains() {
    let (output, held) = reserve(&purse(1_000, 9), &ask(900, 4_096, 64)).unwrap();
    assert_eq!((output, held.tokens), (100, 1_000));
}

#[test]
fn a_cut_below_what_is_worth_asking_for_is_exhaustion() {
    assert_eq!(limit(reserve(&purse(1_000, 9), &ask(950, 4_096, 64))), Limit::Tokens);
}

#[test]
fn what_only_others_hold_is_worth_waiting_for() {
    let purse = purse(10_000, 1);
    let (_, held) = reserve(&purse, &ask(10, 10, 1)).unwrap();
    assert_eq!(reserve(&purse, &ask(10, 10, 1)).unwrap_err(), Refusal::Held(0, Limit::ModelCalls));
    purse.release(held);
    reserve(&purse, &ask(10, 10, 1)).unwrap();
}

#[test]
fn billing_beyond_the_limit_is_debt_and_stops_further_calls() {
    let purse = purse(1_000, 9);
    let (_, held) = reserve(&purse, &ask(500, 100, 1)).unwrap();
    purse.settle(held, Amount { tokens: 5_000, ..Amount::ONE_STEP }, Today::default());
    let source = &purse.sources()[0];
    assert_eq!(source.account.with(|account| account.debt(&source.caps, Today::default())).tokens, 4_000);
    assert_eq!(limit(reserve(&purse, &ask(1, 1, 1))), Limit::Tokens);
}

#[test]
fn a_limit_that_is_raised_leaves_more_and_a_day_begins_anew() {
    let by_day = Cap { period: Some(Period::Day), ..cap(100, 9) };
    let purse = Purse::new(vec![source("tenant/n/t", &[by_day, cap(1_000, 9)]), source("run/r", &[cap(500, 9)])]);
    let (monday, tuesday) = (Today { day: 4, month: 0 }, Today { day: 5, month: 0 });
    let (_, held) = purse.reserve(&ask(60, 40, 40), monday).unwrap();
    purse.settle(held, held, monday);
    let Err(Refusal::Exhausted(reached)) = purse.reserve(&ask(60, 40, 1), monday) else { panic!("it is spent") };
    assert_eq!(
        reached.words(),
        "limit tokens = 100 a day of the budget tenant/n/t: 100 are used, and the next call may need more than is left"
    );
    assert_eq!(reached.place, 1, "the accounts are in the order of their names");
    // A clock that is set back, or that of another process which is behind, begins nothing anew.
    purse.reserve(&ask(60, 40, 1), Today { day: 3, month: 0 }).unwrap_err();
    let (_, held) = purse.reserve(&ask(60, 40, 40), tuesday).unwrap();
    purse.settle(held, held, tuesday);
    purse.sources()[1].account.raise(Amount { tokens: 10, ..Amount::default() });
    assert_eq!(purse.reserve(&ask(5, 40, 1), tuesday).unwrap().0, 5);
}

#[test]
fn a_clock_that_jumps_far_and_comes_back_takes_no_day_away_and_gives_none() {
    let by_day = Cap { period: Some(Period::Day), ..cap(100, 9) };
    let purse = Purse::new(vec![source("tenant/n/t", &[by_day])]);
    let on = |day| Today { day, month: day / 30 };
    let spend = |day| {
        let (_, held) = purse.reserve(&ask(60, 40, 40), on(day)).ok()?;
        purse.settle(held, held, on(day));
        Some(())
    };
    assert_eq!([spend(100), spend(100)], [Some(()), None]);
    // A year on and back: this day is spent, as that one is, and the next begins anew.
    assert_eq!([spend(465), spend(100), spend(465)], [Some(()), None, None]);
    assert_eq!([spend(101), spend(100), spend(101)], [Some(()), None, None]);
}

#[test]
fn a_reservation_is_in_all_accounts_or_in_none() {
    let narrow = source("network/n", &[cap(100, 9)]);
    let wide = source("run/r", &[cap(1_000, 9)]);
    let purse = Purse::new(vec![wide.clone(), narrow.clone()]);
    reserve(&purse, &ask(101, 10, 1)).unwrap_err();
    assert_eq!(wide.account.with(|account| account.held()), Amount::default());
    let (output, held) = reserve(&purse, &ask(90, 50, 1)).unwrap();
    assert_eq!((output, held.tokens), (10, 100), "it is cut to what remains in the narrowest");
    assert_eq!([&wide, &narrow].map(|source| source.account.with(|account| account.held().tokens)), [100, 100]);
}

proptest! {
    /// Whatever is reserved, settled within its hold, and released: spent and held never exceed any limit, and all that is
    /// held comes back.
    #[test]
    fn honest_calls_never_overshoot(calls in prop::collection::vec((0u64..400, 1u32..400, 0u8..3, 0u64..100), 1..60)) {
        let rates = Rates { input: 3_000_000, cached_input: 1_000_000, cache_write: 3_750_000, output: 9_000_000 };
        let limits = |tokens, cost| Cap::of_run(&Limits {
            tokens: Some(tokens), cost_usd: Some(cost), model_calls: Some(20), ..Limits::default()
        });
        let purse = Purse::new(vec![
            source("a", &[limits(3_000, 0.000_03)]), source("b", &[limits(4_000, 0.000_02)]),
        ]);
        let mut open = Vec::new();
        for (input_tokens, wanted, what, share) in calls {
            let ask = Ask { counts: Amount::ONE_STEP, input_tokens, wanted, at_least: 1, rates };
            if let Ok((output, held)) = reserve(&purse, &ask) {
                open.push((input_tokens, output, held));
            }
            if what > 0 && !open.is_empty() {
                let (input, output, held) = open.remove(0);
                let usage = Usage { input_tokens: input, cached_input_tokens: 0, output_tokens: u64::from(output) * share / 100, ..Usage::default() };
                match what {
                    1 => purse.settle(held, Amount::ONE_STEP.with_usage(&usage, &rates), Today::default()),
                    _ => purse.release(held),
                }
            }
            for Source { account, caps } in purse.sources() {
                let used = account.with(|account| account.spent().plus(account.held()));
                prop_assert!(Limit::beyond(&used, &caps[0].limit).is_none(), "{used:?}");
                prop_assert_eq!(account.with(|account| account.debt(caps, Today::default())), Amount::default());
            }
        }
        for (_, _, held) in open {
            purse.release(held);
        }
        for source in purse.sources() {
            prop_assert_eq!(source.account.with(|account| account.held()), Amount::default());
        }
    }
}
