//! A provider of one's own: a model that is a function. It is retried, budgeted and recorded like any other.
//!
//! ```text
//! $ cargo run --example custom_provider
//! tries again in … ms: rate limited by the provider (try again in 10ms)
//! dlrow ,olleh
//! ```

use std::time::Duration;

use futures_util::future::BoxFuture;
use provost::model::{Error, Provider, Reply, Request};
use provost::run::{Body, Event, Usage};
use provost::runtime::{RunRequest, Runtime};
use provost::spec::{AgentSpec, ModelSpec, Network, NetworkSpec, ProviderKind, Retry, Span};

/// Says what it is told, backwards. It is busy at first.
struct Mirror;

impl Provider for Mirror {
    fn call<'a>(
        &'a self,
        request: &'a Request,
        _: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(async move {
            if request.attempt == 1 {
                return Err(Error::RateLimited { retry_after: Some(Duration::from_millis(10)) });
            }
            let Some(Body::User { text }) = request.messages.last().map(|message| &message.body) else {
                return Err(Error::BadRequest { status: 400, message: "there is nothing to mirror".to_owned() });
            };
            let usage = Usage { input_tokens: 1, cached_input_tokens: 0, output_tokens: 1, ..Usage::default() };
            Ok(Reply { text: text.chars().rev().collect(), usage: Some(usage), ..Reply::default() })
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut spec = NetworkSpec::default();
    spec.network.name = "mirror".to_owned();
    spec.network.entry = "mirror".to_owned();
    let retry = Retry { min: Span::from_millis(1), ..Retry::default() };
    spec.models
        .insert("mirror".to_owned(), ModelSpec { provider: Some(ProviderKind::Host), retry, ..ModelSpec::default() });
    spec.agents.insert("mirror".to_owned(), AgentSpec::new("You are a mirror."));

    let runtime = Runtime::builder(Network::new(spec)?).provider("mirror", Mirror).start().await?;
    let run = runtime.start(RunRequest::new("hello, world")).await?;
    let mut events = run.events();
    while let Some(envelope) = events.next().await {
        if let Event::TryFailed { error, retry_in_ms, .. } = &envelope.event {
            println!("tries again in {retry_in_ms} ms: {error}");
        }
    }
    println!("{}", run.wait().await?.answer_text().ok_or("the run ended without an answer")?);
    runtime.shutdown().await;
    Ok(())
}
