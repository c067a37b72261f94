//! Chance without state: a row of draws is a hash of what it is for.

use std::time::Duration;

/// An endless row of draws.
pub(super) struct Draw(blake3::OutputReader);

impl Draw {
    /// Opens the draws of a seed for one purpose, such as `"latency"` and a call's name.
    pub(super) fn of(seed: u64, purpose: &str, of: &dyn std::fmt::Display) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{seed}\n{purpose}\n{of}").as_bytes());
        Self(hasher.finalize_xof())
    }

    fn bits(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Draws a number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// Draws a number between two, both included.
    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// Whether something happens that does so `percent` times in a hundred.
    pub(super) fn happens(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Draws one of several.
    pub(super) fn one_of<'a, T>(&mut self, several: &'a [T]) -> &'a T {
        &several[self.below(several.len() as u64) as usize]
    }

    /// Draws a time between none and `most_ms`.
    pub(super) fn millis(&mut self, most_ms: u64) -> Duration {
        Duration::from_millis(self.between(0, most_ms))
    }
}
