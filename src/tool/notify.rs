//! Telling people something outside: by a program, by a request, or by both.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::process::{Capture, Group};
use crate::model;
use crate::spec::NotifySpec;

/// How long telling may take at a time: whoever waits for a person can wait for this.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is tried.
const TRIES: usize = 3;

/// How people are told.
#[derive(Clone)]
pub struct Notifier(NotifySpec);

impl Notifier {
    /// Makes a notifier of what a network says.
    pub fn of(spec: &NotifySpec) -> Self {
        Self(spec.clone())
    }

    /// Tells it, by all ways that there are; each is tried again where it fails. Dropping the future ends what is under way.
    ///
    /// # Errors
    /// One of the ways failed for good: in words, without the address.
    pub fn tell(self, what: Value) -> BoxFuture<'static, Result<(), String>> {
        let told = Arc::new((self.0, what));
        let (one, other) = (told.clone(), told);
        let program = move || start(one.clone());
        let address = move || post(other.clone());
        let tries = || ExponentialBuilder::default().with_min_delay(Duration::from_secs(1)).with_max_times(TRIES - 1);
        let program = program.retry(tries()).sleep(tokio::time::sleep);
        let address = address.retry(tries()).sleep(tokio::time::sleep);
        Box::pin(async move {
            match tokio::join!(program, address) {
                (Err(program), Err(address)) => Err(format!("{program}; {address}")),
                (Err(one), Ok(())) | (Ok(()), Err(one)) => Err(one),
                (Ok(()), Ok(())) => Ok(()),
            }
        })
    }
}

async fn start(told: Arc<(NotifySpec, Value)>) -> Result<(), String> {
    let (spec, what) = &*told;
    let Some((program, rest)) = spec.command.split_first() else { return Ok(()) };
    let failed = |why: String| format!("the program {program}: {why}");
    let mut command = Command::new(program);
    // What it says is for nobody: it may have secrets in it.
    command.args(rest).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut group = Group::start(&mut command).map_err(|error| failed(error.to_string()))?;
    let (mut said, mut complained) = (Capture::new(0), Capture::new(0));
    let (input, never) = (format!("{what}\n"), CancellationToken::new());
    let ended = tokio::time::timeout(TIMEOUT, group.finish(&input, &mut said, &mut complained, &never)).await;
    match ended {
        Err(_) => Err(failed(format!("did not end within {} s", TIMEOUT.as_secs()))),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(status.to_string())),
    }
}

async fn post(told: Arc<(NotifySpec, Value)>) -> Result<(), String> {
    let (spec, what) = &*told;
    let Some(url) = &spec.url else { return Ok(()) };
    let posted = model::post(url, spec.bearer_token.as_ref(), what, TIMEOUT).await;
    posted.map_err(|why| format!("the address: {why}"))
}
