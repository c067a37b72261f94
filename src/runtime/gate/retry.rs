//! When a failed try of a model call is followed by another.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::ModelCall;
use super::desk::Desk;
use super::time::Time;
use crate::budget::{Amount, Limit};
use crate::fault::{self, Bug};
use crate::model::{Error, Reply};
use crate::run::{CallId, Change, Event, RunId, Why};
use crate::runtime::fleet::Model;
use crate::runtime::purse::Exhausted;
use crate::runtime::scope::Over;
use crate::runtime::traffic::Turnstile;
use crate::spec::Retry;

/// The tries of one call.
pub(super) struct Tries {
    attempt: u32,
    seed: u64,
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
        Self { attempt, seed, pauses: pauses(retry, seed), max_retry_after: retry.max_retry_after.0 }
    }

    /// Returns which try this is, counted from 1.
    pub(super) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Says what follows a try: its result stands, or another try comes after a pause; by another model, where `call` has one
    /// and this one can't be had.
    pub(super) fn next(
        &mut self,
        result: Result<Reply, Error>,
        call: &mut ModelCall,
        time: &Time,
    ) -> Result<Result<Reply, Error>, Box<Again>> {
        if time.is_over() {
            return Ok(result);
        }
        match self.next_of_model(result, &call.model.turnstile) {
            Ok(Err(error)) if error.may_fall_back() => {
                let Some(other) = call.next_other() else { return Ok(Err(error)) };
                let reason = format!("`{}` can't be had: {error}", call.name);
                let change = Change { model: other.0.clone(), why: Why::FellBack, reason };
                self.go_to(other, call);
                Err(Box::new(Again { error, pause: Duration::ZERO, change: Some(change) }))
            }
            Ok(stands) => Ok(stands),
            Err((error, pause)) => {
                let pause = time.at_most(Some(pause)).unwrap_or(pause);
                Err(Box::new(Again { error, pause, change: None }))
            }
        }
    }

    /// Goes to a cheaper model where the next try can't be paid for, and records why. Whether there is one.
    pub(super) async fn go_cheaper(
        &mut self,
        reached: &Exhausted,
        call: &mut ModelCall,
        desk: &Desk,
    ) -> Result<bool, Over> {
        let limit = reached.limit;
        let cheaper = if limit == Limit::CostUsd { call.cheaper.pop_front() } else { None };
        let Some(cheaper) = cheaper else { return Ok(false) };
        let reason = format!("a call of `{}` may cost more than is left of {limit}", call.name);
        let change = Change { model: cheaper.0.clone(), why: Why::Downgraded, reason };
        desk.record(change.event(desk.id.clone())).await?;
        self.go_to(cheaper, call);
        Ok(true)
    }

    /// Goes to the model that follows where this one can't be asked at all, and records why. Whether there is one.
    pub(super) async fn go_round(&mut self, why: &str, call: &mut ModelCall, desk: &Desk) -> Result<bool, Over> {
        let Some(other) = call.next_other().filter(|_| !desk.time.is_over()) else { return Ok(false) };
        let reason = format!("`{}` can't be had: {why}", call.name);
        let change = Change { model: other.0.clone(), why: Why::FellBack, reason };
        desk.record(change.event(desk.id.clone())).await?;
        self.go_to(other, call);
        Ok(true)
    }

    fn go_to(&mut self, other: (Arc<str>, Arc<Model>), call: &mut ModelCall) {
        let retry = &other.1.spec.retry;
        (self.pauses, self.max_retry_after) = (pauses(retry, self.seed), retry.max_retry_after.0);
        call.go_to(other);
    }

    /// Says what follows where there is but one model. Tries that follow what the provider refused for a while wait for it anyway;
    /// others are a share of all calls.
    fn next_of_model(
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

/// Another try follows.
pub(super) struct Again {
    /// Why the last one failed.
    error: Error,
    pub(super) pause: Duration,
    /// The model that makes it, if it is another.
    change: Option<Change>,
}

impl Again {
    /// Records why another try follows, and which model makes it.
    pub(super) async fn record(self, tries: &Tries, charged: Amount, desk: &Desk) -> Result<(), Over> {
        let (attempt, retry_in_ms, error) = (tries.attempt(), self.pause.as_millis() as u64, self.error.to_string());
        desk.record(Event::TryFailed { call: desk.id.clone(), attempt, error, retry_in_ms, charged }).await?;
        match self.change {
            Some(change) => desk.record(change.event(desk.id.clone())).await,
            None => Ok(()),
        }
    }
}

fn pauses(retry: &Retry, seed: u64) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(retry.min.0)
        .with_max_delay(retry.max.0)
        .with_factor(2.0)
        .with_max_times(retry.tries.saturating_sub(1) as usize)
        .with_jitter()
        .with_jitter_seed(seed)
        .build()
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
            let error = Error::Overloaded { status: 500, message: String::new(), retry_after: None };
            tries.next_of_model(Err(error), &turnstile).unwrap_err().1
        };
        assert_ne!(first_pause("one"), first_pause("two"));
        assert_eq!(first_pause("one"), first_pause("one"));
    }
}
