//! What a supervisor does when a child fails: OTP's rules, as a function of what failed and when. It reads no clock and
//! knows no actor.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::spec::{Backoff, RestartKind, Strategy, SupervisionSpec};

/// How a child came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// It was told to stop, or stopped by itself.
    Normal,
    /// It failed.
    Failed,
}

/// What follows from a child's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// It is started again.
    Restart,
    /// It is not started again, and the others go on.
    Leave,
    /// There were too many restarts: the supervisor fails itself.
    GiveUp,
}

/// When a supervisor restarts, and when it gives up.
#[derive(Debug)]
pub(super) struct Supervision {
    strategy: Strategy,
    intensity: usize,
    period: Duration,
    /// When there were restarts within the last period. At most `intensity` and one more.
    restarts: VecDeque<Instant>,
}

impl Supervision {
    pub(super) fn new(spec: &SupervisionSpec) -> Self {
        let (intensity, period) = (spec.intensity as usize, spec.period.0);
        Self { strategy: spec.strategy, intensity, period, restarts: VecDeque::new() }
    }

    /// Rules on a child's end. A restart that takes others along counts once, as in OTP.
    pub(super) fn rule(&mut self, kind: RestartKind, exit: Exit, now: Instant) -> Ruling {
        match (kind, exit) {
            (RestartKind::Temporary, _) | (RestartKind::Transient, Exit::Normal) => return Ruling::Leave,
            (RestartKind::Permanent, _) | (RestartKind::Transient, Exit::Failed) => {}
        }
        self.restarts.retain(|&at| now.duration_since(at) <= self.period);
        if self.restarts.len() >= self.intensity {
            return Ruling::GiveUp;
        }
        self.restarts.push_back(now);
        Ruling::Restart
    }

    /// Returns which children are stopped and started again when `failed` is, in the order of their start and with itself
    /// among them. `children` are all, in that order, and whether they stand for themselves.
    pub(super) fn group<'a, K: PartialEq + Clone + 'a>(
        &self,
        failed: &K,
        children: impl Iterator<Item = (&'a K, bool)>,
    ) -> Vec<K> {
        let mut is_after = false;
        let is_in_group = |(child, stands): &(&K, bool)| {
            let is_failed = *child == failed;
            is_after |= is_failed;
            is_failed
                || *stands
                    && match self.strategy {
                        Strategy::OneForOne => false,
                        Strategy::OneForAll => true,
                        Strategy::RestForOne => is_after,
                    }
        };
        let all: Vec<(&K, bool)> = children.collect();
        // A child that does not stand for itself takes nobody along.
        if !all.iter().any(|(child, stands)| *child == failed && *stands) {
            return vec![failed.clone()];
        }
        all.into_iter().filter(is_in_group).map(|(child, _)| child.clone()).collect()
    }
}

/// Returns how long a restart waits that is the `nth` in a row, counted from 1: twice as long each time, and between a
/// half and the whole of that, by `seed`, so that those who failed together do not come back together.
pub(super) fn pause(backoff: &Backoff, nth: u32, seed: &str) -> Duration {
    let doubled = backoff.min.0.saturating_mul(1 << nth.saturating_sub(1).min(20));
    let longest = doubled.min(backoff.max.0);
    let digest = blake3::hash(seed.as_bytes());
    let share = f64::from(digest.as_bytes()[0]) / 510.0;
    longest.mul_f64(0.5 + share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Span;

    fn supervision(strategy: Strategy, intensity: u32) -> Supervision {
        Supervision::new(&SupervisionSpec {
            strategy,
            intensity,
            period: Span::from_secs(10),
            ..SupervisionSpec::default()
        })
    }

    #[test]
    fn restarts_are_counted_in_a_window_that_slides() {
        let mut two = supervision(Strategy::OneForOne, 2);
        let begin = Instant::now();
        let mut at = |secs| two.rule(RestartKind::Transient, Exit::Failed, begin + Duration::from_secs(secs));
        assert_eq!([at(0), at(6), at(9)], [Ruling::Restart, Ruling::Restart, Ruling::GiveUp]);
        assert_eq!([at(11), at(12), at(17)], [Ruling::Restart, Ruling::GiveUp, Ruling::Restart]);
    }

    #[test]
    fn the_kind_of_child_says_which_ends_are_followed_by_a_restart() {
        use RestartKind::{Permanent, Temporary, Transient};
        let rule = |kind, exit| supervision(Strategy::OneForOne, 1).rule(kind, exit, Instant::now());
        for (kind, normal, failed) in [
            (Permanent, Ruling::Restart, Ruling::Restart),
            (Transient, Ruling::Leave, Ruling::Restart),
            (Temporary, Ruling::Leave, Ruling::Leave),
        ] {
            assert_eq!((rule(kind, Exit::Normal), rule(kind, Exit::Failed)), (normal, failed), "{kind:?}");
        }
    }

    #[test]
    fn the_strategy_says_who_is_taken_along() {
        let children = [("a", true), ("b", true), ("guest", false), ("c", true)];
        let group = |strategy, failed| {
            supervision(strategy, 1).group(&failed, children.iter().map(|(child, stands)| (child, *stands)))
        };
        assert_eq!(group(Strategy::OneForOne, "b"), ["b"]);
        assert_eq!(group(Strategy::OneForAll, "b"), ["a", "b", "c"]);
        assert_eq!(group(Strategy::RestForOne, "b"), ["b", "c"]);
        assert_eq!(group(Strategy::OneForAll, "guest"), ["guest"]);
    }

    #[test]
    fn pauses_grow_to_their_bound_and_differ() {
        let backoff = "100ms..1s".parse().unwrap();
        let of = |nth, seed: &str| pause(&backoff, nth, seed).as_millis();
        assert!((50..=100).contains(&of(1, "a")) && (200..=400).contains(&of(3, "a")), "{} {}", of(1, "a"), of(3, "a"));
        assert!((500..=1_000).contains(&of(40, "a")));
        assert_ne!(of(1, "a"), of(1, "b"));
        assert_eq!(pause(&"0s..0s".parse().unwrap(), 5, "a"), Duration::ZERO);
    }
}
