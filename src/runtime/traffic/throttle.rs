//! What a provider bears of one model: the state machine of the gate that all calls of it share. It holds no clock.
//!
//! * What the provider refuses for a while (429, or 503 and 529 with a Retry-After) closes the gate for all until then.
//! * After that the width is one, so that one call finds out whether the provider is well again. It doubles with each
//!   round of successes up to half of what was under way at the refusal, and grows by one a round beyond that: additive
//!   increase and multiplicative decrease with slow start, as in RFC 5681 (TCP congestion control). It is halved once for
//!   each time that the gate closes, however many calls are refused.
//! * A breaker closes it after so many failures in a row, and one call is the trial.
//! * Tries that follow failed ones are a share of all calls at most.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::pace::Pace;
use crate::fault::{self, Bug};
use crate::spec::{Breaker, ModelSpec, ProviderKind, Retry};

/// How many further tries there may be beside their share, so that a quiet process may try again at all.
const SPARE_RETRIES: u64 = 100;

/// How many calls allow one further try.
const CALLS_PER_RETRY: u64 = 10;

/// How many thousandths of a spare try come back in a second: one in a second.
const SPARE_PER_SECOND: u64 = 1_000;

/// What a call came to, as far as it says something about the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::runtime) enum Outcome {
    /// It answered, and said that nothing more is allowed for so long, if it did.
    Answered { pause: Option<Duration> },
    /// It refuses calls for a while.
    Refused { pause: Option<Duration> },
    /// It failed.
    Failed,
}

/// How much is asked of a provider when a call comes back, that call included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// How many calls are under way.
    pub(super) in_flight: u32,
    /// How many of these were let in since it closed last.
    pub(super) since: u32,
    /// How many may be under way at most.
    pub(super) declared: Option<u32>,
}

/// What a network says of a model's traffic.
#[derive(Clone, Debug)]
pub(in crate::runtime) struct Terms {
    /// Who serves it, and what it is called there; none where it is nobody's.
    pub(in crate::runtime) provider: Option<String>,
    pub(in crate::runtime) in_flight: Option<u32>,
    requests_per_minute: Option<u32>,
    tokens_per_minute: Option<u64>,
    breaker: Option<Breaker>,
    retry: Retry,
}

impl Terms {
    pub(in crate::runtime) fn of(model: &ModelSpec) -> Self {
        let name = |kind: ProviderKind| match &model.model {
            Some(model) => format!("{}:{model}", kind.name()),
            None => kind.name().to_owned(),
        };
        let provider = model.provider.map(name);
        let ModelSpec { in_flight, requests_per_minute, tokens_per_minute, breaker, retry, .. } = *model;
        Self { provider, in_flight, requests_per_minute, tokens_per_minute, breaker, retry }
    }
}

/// What is known of a provider.
#[derive(Debug)]
pub(super) struct Throttle {
    retry: Retry,
    breaker: Option<Breaker>,
    requests: Option<Pace>,
    tokens: Option<Pace>,
    closed_until: Option<Instant>,
    /// How often it has closed. What was let in before it closed last says nothing of what holds after.
    epoch: u32,
    /// How many calls it bears at once; none while it was never more than it bears.
    width: Option<Width>,
    /// How often it closed since it answered last.
    refusals: u32,
    /// When it failed, since it answered last.
    failures: VecDeque<Instant>,
    /// Whether one more failure closes it at once.
    is_on_trial: bool,
    /// How many further tries there may be, in thousandths.
    spare: u64,
    spare_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Width {
    now: u32,
    /// Up to here it grows with each success.
    fast_to: u32,
    /// The successes since it grew last.
    credit: u32,
}

impl Throttle {
    pub(super) fn new(terms: &Terms) -> Self {
        Self {
            retry: terms.retry,
            breaker: terms.breaker,
            requests: terms.requests_per_minute.map(|limit| Pace::new(limit.into())),
            tokens: terms.tokens_per_minute.map(Pace::new),
            closed_until: None,
            epoch: 0,
            width: None,
            refusals: 0,
            failures: VecDeque::new(),
            is_on_trial: false,
            spare: SPARE_RETRIES * 1_000,
            spare_since: None,
        }
    }

    /// Takes on what another network says: of two limits the lower one holds for all.
    pub(super) fn tighten(&mut self, terms: &Terms) {
        let lower = |pace: &mut Option<Pace>, limit: Option<u64>| match (pace.as_mut(), limit) {
            (Some(pace), Some(limit)) => pace.lower_to(limit),
            (None, Some(limit)) => *pace = Some(Pace::new(limit)),
            (_, None) => {}
        };
        lower(&mut self.requests, terms.requests_per_minute.map(u64::from));
        lower(&mut self.tokens, terms.tokens_per_minute);
        self.breaker = self.breaker.or(terms.breaker);
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Returns how many calls may be under way; none for no bound.
    pub(super) fn width(&self) -> Option<u32> {
        self.width.map(|width| width.now)
    }

    /// Returns until when it is closed, if it is.
    pub(super) fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.closed_until.filter(|until| *until > now)
    }

    /// Whether its breaker keeps calls away, the one that tries whether it is well again excepted.
    pub(super) fn is_broken(&self, since: u32, now: Instant) -> bool {
        self.is_on_trial && (since > 0 || self.closed_until(now).is_some())
    }

    /// Returns when the next call may go, if that is not now.
    pub(super) fn opens_at(&self, now: Instant) -> Option<Instant> {
        let paces = [&self.requests, &self.tokens].into_iter().flatten().filter_map(|pace| pace.opens_at(now));
        paces.chain(self.closed_until(now)).max()
    }

    /// Lets a call go that may have so many tokens.
    pub(super) fn take(&mut self, tokens: u64, now: Instant) {
        self.requests.iter_mut().for_each(|pace| pace.take(1, now));
        self.tokens.iter_mut().for_each(|pace| pace.take(tokens, now));
    }

    /// Corrects how many tokens a call had.
    pub(super) fn correct(&mut self, taken: u64, used: u64) {
        self.tokens.iter_mut().for_each(|pace| pace.correct(taken, used));
    }

    /// Gives back what was taken for a call that was not made.
    pub(super) fn take_back(&mut self, tokens: u64) {
        self.requests.iter_mut().for_each(|pace| pace.correct(1, 0));
        self.tokens.iter_mut().for_each(|pace| pace.correct(tokens, 0));
    }

    /// Learns what a call came to that was let in in an epoch.
    pub(super) fn learn(&mut self, outcome: Outcome, epoch: u32, load: Load, now: Instant) {
        let Load { in_flight, since, declared } = load;
        let is_news = epoch == self.epoch;
        match outcome {
            Outcome::Answered { pause } => {
                if is_news {
                    self.failures.clear();
                    (self.refusals, self.is_on_trial) = (0, false);
                    self.grow(since, declared);
                }
                if let Some(pause) = pause {
                    self.stay_closed(now, pause);
                }
            }
            Outcome::Refused { pause } => {
                let pause = pause.unwrap_or_else(|| self.usual_pause());
                self.stay_closed(now, pause);
                if is_news && !fault::is_planted(Bug::RefusedAlone) {
                    self.narrow(in_flight.div_ceil(2));
                }
            }
            Outcome::Failed if is_news => self.fail(in_flight, now),
            Outcome::Failed => {}
        }
    }

    /// Stays closed for a while, as long as is ever waited for at most.
    fn stay_closed(&mut self, now: Instant, pause: Duration) {
        if fault::is_planted(Bug::RefusedAlone) {
            return;
        }
        let until = now + pause.min(self.retry.max_retry_after.0);
        self.closed_until = self.closed_until(now).max(Some(until));
    }

    /// How long it closes where nobody says for how long: longer each time that it was of no use.
    fn usual_pause(&self) -> Duration {
        let doubled = 2_u32.saturating_pow(self.refusals.min(16));
        self.retry.min.0.saturating_mul(doubled).min(self.retry.max.0)
    }

    fn narrow(&mut self, fast_to: u32) {
        let fast_to = match self.width {
            // One call that only tried whether it is well again says nothing of how much it bears.
            Some(width) if self.refusals > 0 => width.fast_to,
            Some(width) => fast_to.min(width.now).max(1),
            None => fast_to.max(1),
        };
        self.width = Some(Width { now: 1, fast_to, credit: 0 });
        self.epoch = self.epoch.wrapping_add(1);
        self.refusals = self.refusals.saturating_add(1);
    }

    /// Bears more after a success, if all that it bears was asked of it.
    fn grow(&mut self, since: u32, declared: Option<u32>) {
        let Some(width) = &mut self.width else { return };
        if since < width.now {
            return;
        }
        width.credit += 1;
        if width.now < width.fast_to || width.credit >= width.now {
            width.now = width.now.saturating_add(1);
            width.credit = 0;
        }
        if declared.is_some_and(|declared| width.now >= declared) {
            self.width = None;
        }
    }

    fn fail(&mut self, in_flight: u32, now: Instant) {
        let Some(Breaker { failures, within, cool_down }) = self.breaker else { return };
        self.failures.push_back(now);
        if self.failures.len() > failures as usize {
            self.failures.pop_front();
        }
        let is_full = self.failures.len() >= failures as usize
            && self.failures.front().is_some_and(|first| now.duration_since(*first) <= within.0);
        if self.is_on_trial || is_full {
            let until = now + cool_down.0;
            self.closed_until = self.closed_until(now).max(Some(until));
            self.narrow(in_flight);
            self.failures.clear();
            self.is_on_trial = true;
        }
    }

    /// Notes that a call is made for the first time, which earns a share of a further try.
    pub(super) fn earn_retry(&mut self) {
        self.spare = (self.spare + 1_000 / CALLS_PER_RETRY).min(SPARE_RETRIES * 1_000);
    }

    /// Whether a failed call may be tried again; if so, that is taken from what may be.
    pub(super) fn may_retry(&mut self, now: Instant) -> bool {
        let since = self.spare_since.replace(now).map_or(Duration::ZERO, |since| now.duration_since(since));
        let back = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_mul(SPARE_PER_SECOND) / 1_000;
        self.spare = self.spare.saturating_add(back).min(SPARE_RETRIES * 1_000);
        let may = self.spare >= 1_000;
        self.spare -= if may { 1_000 } else { 0 };
        may
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::Span;

    fn load(in_flight: u32, declared: Option<u32>) -> Load {
        Load { in_flight, since: in_flight, declared }
    }

    fn throttle(change: impl FnOnce(&mut ModelSpec)) -> Throttle {
        let mut model = ModelSpec::default();
        change(&mut model);
        Throttle::new(&Terms::of(&model))
    }

    const ANSWERED: Outcome = Outcome::Answered { pause: None };
    const REFUSED: Outcome = Outcome::Refused { pause: None };

    fn refused(secs: u64) -> Outcome {
        Outcome::Refused { pause: Some(Duration::from_secs(secs)) }
    }

    #[test]
    fn it_is_halved_once_for_all_that_are_refused_together() {
        let (mut gate, now) = (throttle(|_| {}), Instant::now());
        for in_flight in (1..=500).rev() {
            gate.learn(refused(2), 0, load(in_flight, None), now);
        }
        assert_eq!((gate.epoch(), gate.width()), (1, Some(1)));
        assert_eq!(gate.opens_at(now), Some(now + Duration::from_secs(2)));
        // One at a time; then twice as many in each round, up to half of what it was; then one more in each round.
        let mut widths = Vec::new();
        for _ in 0..11 {
            let width = gate.width().unwrap();
            widths.push(width);
            (0..width).for_each(|_| gate.learn(ANSWERED, 1, load(gate.width().unwrap(), None), now));
        }
        assert_eq!(widths, [1, 2, 4, 8, 16, 32, 64, 128, 250, 251, 252]);
    }

    #[test]
    fn what_was_let_in_before_says_nothing_of_after() {
        let (mut gate, now) = (throttle(|_| {}), Instant::now());
        gate.learn(refused(2), 0, load(10, None), now);
        gate.learn(ANSWERED, 0, load(9, None), now);
        assert_eq!(gate.width(), Some(1));
        // A longer pause is heard all the same, and a shorter one does not open it.
        gate.learn(refused(5), 0, load(8, None), now);
        gate.learn(refused(1), 0, load(7, None), now);
        assert_eq!((gate.epoch(), gate.opens_at(now)), (1, Some(now + Duration::from_secs(5))));
    }

    #[test]
    fn it_bears_all_that_is_declared_again() {
        let (mut gate, now) = (throttle(|_| {}), Instant::now());
        gate.learn(refused(1), 0, load(4, Some(4)), now);
        for _ in 0..30 {
            let in_flight = gate.width().unwrap_or(4);
            gate.learn(ANSWERED, 1, load(in_flight, Some(4)), now);
        }
        assert_eq!(gate.width(), None);
    }

    #[test]
    fn a_pause_is_bounded_and_grows_where_nobody_says_how_long_it_is() {
        let (mut gate, now) = (throttle(|model| model.retry.max_retry_after = Span::from_secs(120)), Instant::now());
        gate.learn(refused(7 * 24 * 60 * 60), 0, load(1, None), now);
        assert_eq!(gate.opens_at(now), Some(now + Duration::from_secs(120)));
        let (mut gate, mut now) = (throttle(|_| {}), now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            gate.learn(REFUSED, gate.epoch(), load(1, None), now);
            let opens = gate.opens_at(now).unwrap();
            pauses.push(opens.duration_since(now).as_millis());
            now = opens;
        }
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]);
    }

    #[test]
    fn a_spent_allowance_closes_it_and_narrows_nothing() {
        let (mut gate, now) = (throttle(|_| {}), Instant::now());
        gate.learn(Outcome::Answered { pause: Some(Duration::from_secs(3)) }, 0, load(5, None), now);
        assert_eq!((gate.opens_at(now), gate.width()), (Some(now + Duration::from_secs(3)), None));
        assert_eq!(gate.opens_at(now + Duration::from_secs(3)), None);
    }

    #[test]
    fn a_breaker_opens_after_failures_in_a_row_and_one_call_is_the_trial() {
        let (within, cool_down) = (Span::from_secs(30), Span::from_secs(10));
        let mut gate = throttle(|model| model.breaker = Some(Breaker { failures: 3, within, cool_down }));
        let mut now = Instant::now();
        for outcome in [Outcome::Failed, Outcome::Failed, ANSWERED, Outcome::Failed, Outcome::Failed] {
            gate.learn(outcome, 0, load(8, None), now);
        }
        assert_eq!(gate.opens_at(now), None, "the failures were not in a row");
        gate.learn(Outcome::Failed, 0, load(8, None), now);
        assert_eq!((gate.opens_at(now), gate.width()), (Some(now + cool_down.0), Some(1)));
        now += cool_down.0;
        // One failed trial is enough.
        gate.learn(Outcome::Failed, 1, load(1, None), now);
        assert_eq!(gate.opens_at(now), Some(now + cool_down.0));
        now += cool_down.0;
        (0..8).for_each(|_| gate.learn(ANSWERED, 2, load(gate.width().unwrap(), None), now));
        gate.learn(Outcome::Failed, 2, load(8, None), now);
        assert_eq!(gate.opens_at(now), None);
        // Failures that are far apart are not counted together.
        for _ in 0..20 {
            now += Duration::from_secs(16);
            gate.learn(Outcome::Failed, 2, load(8, None), now);
            assert_eq!(gate.opens_at(now), None);
        }
    }

    #[test]
    fn further_tries_are_a_share_of_the_calls() {
        let (mut gate, now) = (throttle(|_| {}), Instant::now());
        let tries = (0..10_000).filter(|_| {
            gate.earn_retry();
            gate.may_retry(now)
        });
        assert_eq!(tries.count(), 1_099, "a tenth, and what is spare");
        assert!(!gate.may_retry(now));
        assert!(gate.may_retry(now + Duration::from_secs(1)), "some come back with time");
    }

    proptest! {
        #[test]
        fn whatever_happens_it_opens_again_and_lets_one_in(
            steps in prop::collection::vec((0..4_u8, 0..600_u32, 0..300_u64, any::<bool>()), 1..200)
        ) {
            let mut gate = throttle(|model| {
                model.breaker = Some(Breaker::default());
                model.requests_per_minute = Some(600);
            });
            let mut now = Instant::now();
            for (step, in_flight, secs, is_late) in steps {
                let epoch = gate.epoch().wrapping_sub(u32::from(is_late));
                let outcome = match step {
                    0 => ANSWERED,
                    1 => refused(secs),
                    2 => REFUSED,
                    _ => Outcome::Failed,
                };
                gate.take(1, now);
                gate.learn(outcome, epoch, load(in_flight, Some(500)), now);
                prop_assert!(gate.width().is_none_or(|width| (1..500).contains(&width)));
                let opens = gate.opens_at(now).unwrap_or(now);
                prop_assert!(opens.duration_since(now) <= Duration::from_secs(120 + 200));
                now += Duration::from_millis(secs * 10);
            }
        }
    }
}
