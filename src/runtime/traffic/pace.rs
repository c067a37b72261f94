//! A rate: so many of something in a minute, evenly.
//!
//! It is the generic cell rate algorithm (ITU-T I.371, annex A), in its virtual-scheduling form: what is due next is moved
//! on by what each thing takes of the rate, and the next may go when that is at most the tolerance away. Written by hand,
//! since what is wanted is the moment at which the next may go, on tokio's clock, and what was taken can be corrected.

use std::time::Duration;

use tokio::time::Instant;

const MINUTE_NS: u128 = 60 * 1_000_000_000;

/// How much may go at once: what a second allows. So in any minute it is the limit and a sixtieth of it at most.
const TOLERANCE: Duration = Duration::from_secs(1);

/// The farthest that something may be due: what takes longer is a slip, and no clock could add it up.
const FARTHEST: Duration = Duration::from_secs(24 * 60 * 60);

/// A rate, and how far it is used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    per_minute: u64,
    /// The theoretical arrival time of the next one.
    due: Option<Instant>,
}

impl Pace {
    pub(super) fn new(per_minute: u64) -> Self {
        Self { per_minute: per_minute.max(1), due: None }
    }

    /// Sets the rate to the lower of two.
    pub(super) fn lower_to(&mut self, per_minute: u64) {
        self.per_minute = self.per_minute.min(per_minute.max(1));
    }

    /// Returns how much of the time an amount takes.
    fn span(&self, amount: u64) -> Duration {
        let nanos = u128::from(amount) * MINUTE_NS / u128::from(self.per_minute);
        u64::try_from(nanos).map_or(FARTHEST, Duration::from_nanos).min(FARTHEST)
    }

    /// Returns when the next one may go, if that is not now.
    pub(super) fn opens_at(&self, now: Instant) -> Option<Instant> {
        // The one that goes is itself part of what may go at once.
        let tolerance = TOLERANCE.saturating_sub(self.span(1));
        self.due?.checked_sub(tolerance).filter(|opens| *opens > now)
    }

    /// Takes an amount, however large: those after it wait for it.
    pub(super) fn take(&mut self, amount: u64, now: Instant) {
        self.due = Some(self.due.unwrap_or(now).max(now) + self.span(amount));
    }

    /// Corrects what was taken by what it turned out to be.
    pub(super) fn correct(&mut self, taken: u64, used: u64) {
        let Some(due) = self.due else { return };
        self.due = match taken > used {
            true => due.checked_sub(self.span(taken - used)),
            false => Some(due + self.span(used - taken)),
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lets as many go as may within a time, and returns when each went.
    fn departures(pace: &mut Pace, within: Duration, amount: u64) -> Vec<Duration> {
        let begin = Instant::now();
        let (mut now, mut went) = (begin, Vec::new());
        while now.duration_since(begin) < within {
            match pace.opens_at(now) {
                Some(opens) => now = opens,
                None => {
                    pace.take(amount, now);
                    went.push(now.duration_since(begin));
                }
            }
        }
        went
    }

    #[test]
    fn what_a_second_allows_goes_at_once_and_the_rest_evenly() {
        let went = departures(&mut Pace::new(600), Duration::from_secs(60), 1);
        assert_eq!(went.iter().filter(|at| at.is_zero()).count(), 10);
        assert_eq!(went[10], Duration::from_millis(100));
        assert!((600..=610).contains(&went.len()), "{}", went.len());
        let went = departures(&mut Pace::new(6), Duration::from_secs(60), 1);
        assert_eq!(went[..3], [0, 10, 20].map(Duration::from_secs));
    }

    #[test]
    fn what_is_larger_than_the_limit_goes_and_is_waited_out() {
        let mut pace = Pace::new(1_000);
        let now = Instant::now();
        pace.take(5_000, now);
        let opens = pace.opens_at(now).unwrap().duration_since(now);
        assert!((298..=300).contains(&opens.as_secs()), "{opens:?}");
        pace.take(u64::MAX, now);
        assert!(pace.opens_at(now).unwrap().duration_since(now) <= 2 * FARTHEST);
    }

    #[test]
    fn what_was_reserved_and_not_used_is_given_back() {
        let (now, mut pace) = (Instant::now(), Pace::new(60_000));
        pace.take(6_000, now);
        assert!(pace.opens_at(now).is_some());
        pace.correct(6_000, 500);
        assert_eq!(pace.opens_at(now), None);
        pace.correct(0, 60_000);
        assert!(pace.opens_at(now).unwrap().duration_since(now) > Duration::from_secs(59));
    }

    proptest! {
        #[test]
        fn no_minute_has_more_than_the_limit_and_what_may_go_at_once(limit in 1_u64..2_000) {
            let went = departures(&mut Pace::new(limit), Duration::from_secs(130), 1);
            let most = limit + limit.div_ceil(60);
            for (nth, from) in went.iter().enumerate() {
                let until = *from + Duration::from_secs(60);
                let within = went[nth..].iter().take_while(|at| **at < until).count() as u64;
                prop_assert!(within <= most, "{within} of {limit} in the minute from {from:?}");
            }
            prop_assert!(went.len() as u64 >= 2 * limit, "{} of {limit}", went.len());
        }
    }
}
