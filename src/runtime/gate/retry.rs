//! When a failed try of a model call is followed by another.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::fault::{self, Bug};
use crate::model::{Error, Reply};
use crate::run::{CallId, RunId};
use crate::runtime::traffic::Turnstile;
use crate::spec::Retry;

/// The tries of one call.
pub(super) struct Tries {
    attempt: u32,
    pauses: ExponentialBackoff,
    max_retry_after: Duration,
}

impl Tries {
    /// Begins with the first try. The jitter is a function of the run and the call: it can be foretold, and no two
    /// runs come back at the same time.
    /// `attempt` is the number of the next try; those of an earlier process are not counted against this one.
    pub(super) fn new(retry: &Retry, run: &RunId, call: &CallId, attempt: u32) -> Self {
        let digest = blake3::hash(format!("{run}/{call}").as_bytes());
        let seed = digest.as_bytes().iter().take(8).fold(0, |seed, &byte| seed << 8 | u64::from(byte));
        let pauses = ExponentialBuilder::default()
            .with_min_delay(retry.min.0)
            .with_max_delay(retry.max.0)
            .with_factor(2.0)
            .with_max_times(retry.tries.saturating_sub(1) as usize)
            .with_jitter()
            .with_jitter_seed(seed)
            .build();
        Self { attempt, pauses, max_retry_after: retry.max_retry_after.0 }
    }

    /// Returns which try this is, counted from 1.
    pub(super) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Says what follows a try: its result stands, or another try comes after a pause.
    /// Those that follow what the provider refused for a while wait for it anyway; others are a share of all calls.
    pub(super) fn next(
        &mut self,
        result: Result<Reply, Error>,
        turnstile: &Turnstile,
    ) -> Result<Result<Reply, Error>, (Error, Duration)> {
        let error = match result {
            Err(error) if error.is_transient() => error,
            settled => return Ok(settled),
        };
        let asked = error.retry_after().unwrap_or_default();
        if asked > self.max_retry_after {
            return Ok(Err(error));
        }
        let is_refused = matches!(error, Error::RateLimited { .. });
        match self.pauses.next() {
            Some(_) if !is_refused && !turnstile.may_retry() => Ok(Err(Error::NotTriedAgain { last: Box::new(error) })),
            Some(_) if fault::is_planted(Bug::RetriedAtOnce) => Err((error, Duration::ZERO)),
            Some(pause) => Err((error, pause.max(asked))),
            None => Ok(Err(error)),
        }
    }

    /// Waits for the next try.
    pub(super) async fn pause(&mut self, pause: Duration) {
        tokio::time::sleep(pause).await;
        self.attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::run::AgentId;
    use crate::runtime::traffic::{Terms, Traffic};
    use crate::spec::ModelSpec;

    #[test]
    fn no_two_runs_come_back_at_the_same_time() {
        let call = CallId::model(&AgentId::new("a"), 1);
        let turnstile = Arc::<Traffic>::default().provider("m", None, &Terms::of(&ModelSpec::default()));
        let first_pause = |run: &str| {
            let mut tries = Tries::new(&Retry::default(), &RunId::new(run), &call, 1);
            let failed = Error::Overloaded { status: 500, message: String::new(), retry_after: None };
            tries.next(Err(failed), &turnstile).unwrap_err().1
        };
        assert_ne!(first_pause("one"), first_pause("two"));
        assert_eq!(first_pause("one"), first_pause("one"));
    }
}
