//! Chance without state: every draw is a hash of what it is for.

use std::time::Duration;

use crate::model::Request;
use crate::spec::Latency;

/// The 99th percentile of the standard normal distribution (NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.1).
const Z99: f64 = 2.326_347_874_040_841;

/// What a draw belongs to. Two draws of the same scope and purpose are equal, whenever and wherever they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// An agent's instance: all its calls share the draw.
    Instance,
    /// A call: all its tries share the draw, so that a retry hears what the first try would have said.
    Call,
    /// One try of a call.
    Try,
}

/// An endless row of draws for one purpose.
pub(super) struct Draws(blake3::OutputReader);

impl Draws {
    /// Opens the draws for `purpose` in the scope that `request` lies in.
    pub(super) fn new(seed: u64, request: &Request, scope: Scope, purpose: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("provost 2026 simulated model draws v1");
        let mut field = |bytes: &[u8]| {
            // The length goes first, so that no two lists of fields run together to the same bytes.
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(&seed.to_le_bytes());
        field(purpose.as_bytes());
        field(request.run.as_str().as_bytes());
        field(request.call.agent.as_str().as_bytes());
        if scope != Scope::Instance {
            field(&request.call.step.to_le_bytes());
            if request.call.is_compaction {
                field(b"compaction");
            }
        }
        if scope == Scope::Try {
            field(&request.attempt.to_le_bytes());
        }
        Self(hasher.finalize_xof())
    }

    /// Draws 64 bits.
    pub(super) fn bits(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Draws a number from 0 (included) to 1 (excluded).
    pub(super) fn unit(&mut self) -> f64 {
        // 53 bits are what a double holds.
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Draws a whole number below `bound`; 0 where there is none.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        // The bias of a remainder is below bound / 2^64.
        match u64::try_from(bound) {
            Ok(bound) if bound > 0 => (self.bits() % bound) as usize,
            _ => 0,
        }
    }

    /// Draws one of `items`.
    pub(super) fn one_of<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// Draws from the standard normal distribution (Box and Muller, 1958).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Draws how long an answer takes: log-normal, through both quantiles.
    pub(super) fn latency(&mut self, latency: Latency) -> Duration {
        let (p50, p99) = (latency.p50.0.as_secs_f64(), latency.p99.0.as_secs_f64());
        if p50 <= 0.0 {
            return Duration::ZERO;
        }
        let sigma = ((p99 / p50).ln() / Z99).max(0.0);
        let seconds = p50 * (sigma * self.normal()).exp();
        // Only a spread beyond all sense overflows; it waits as long as there is time.
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::request;
    use super::*;
    use crate::spec::Span;

    fn first(scope: Scope, purpose: &str, step: u32, attempt: u32) -> u64 {
        let mut request = request("scout", step, vec![]);
        request.attempt = attempt;
        Draws::new(7, &request, scope, purpose).bits()
    }

    #[test]
    fn a_draw_hangs_on_its_scope_and_purpose_alone() {
        assert_eq!(first(Scope::Try, "fault", 1, 1), first(Scope::Try, "fault", 1, 1));
        assert_ne!(first(Scope::Try, "fault", 1, 1), first(Scope::Try, "fault", 1, 2));
        assert_ne!(first(Scope::Try, "fault", 1, 1), first(Scope::Try, "latency", 1, 1));
        assert_eq!(first(Scope::Call, "reply", 1, 1), first(Scope::Call, "reply", 1, 2));
        assert_ne!(first(Scope::Call, "reply", 1, 1), first(Scope::Call, "reply", 2, 1));
        assert_eq!(first(Scope::Instance, "steps", 1, 1), first(Scope::Instance, "steps", 2, 9));
    }

    #[test]
    fn draws_of_one_version_stay_what_they_are() {
        // A change here changes what every seed means; say so in CHANGELOG.md.
        assert_eq!(first(Scope::Try, "fault", 1, 1), PINNED);
    }

    const PINNED: u64 = 4_281_449_374_093_928_896;

    #[test]
    fn latencies_have_the_quantiles_that_were_asked_for() {
        let latency = Latency { p50: Span::from_millis(100), p99: Span::from_millis(900) };
        let mut draws = Draws::new(1, &request("scout", 1, vec![]), Scope::Instance, "latency");
        let mut all: Vec<f64> = (0..20_000).map(|_| draws.latency(latency).as_secs_f64() * 1000.0).collect();
        all.sort_by(f64::total_cmp);
        assert!((95.0..105.0).contains(&all[10_000]), "p50 is {}", all[10_000]);
        assert!((820.0..980.0).contains(&all[19_800]), "p99 is {}", all[19_800]);
    }

    #[test]
    fn one_quantile_is_no_spread() {
        let latency = Latency { p50: Span::from_millis(50), p99: Span::from_millis(50) };
        let mut draws = Draws::new(1, &request("scout", 1, vec![]), Scope::Try, "latency");
        assert_eq!(draws.latency(latency).as_millis(), 50);
    }
}
