//! A provider that says what a test wants, and networks around it.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use provost::model::{Error, Provider, Reply, Request};
use provost::run::{Body, ToolCall, Usage};
use provost::runtime::{Builder, Runtime};
use provost::spec::{AgentSpec, ModelSpec, Network, NetworkSpec, ProviderKind};

type Says = dyn Fn(&Request) -> BoxFuture<'static, Result<Reply, Error>> + Send + Sync;

/// A provider made of a function; it keeps what it was asked.
#[derive(Clone)]
pub(crate) struct Scripted {
    says: Arc<Says>,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Scripted {
    pub(crate) fn new(says: impl Fn(&Request) -> Result<Reply, Error> + Send + Sync + 'static) -> Self {
        Self::later(move |request| {
            let result = says(request);
            Box::pin(async { result })
        })
    }

    pub(crate) fn later(
        says: impl Fn(&Request) -> BoxFuture<'static, Result<Reply, Error>> + Send + Sync + 'static,
    ) -> Self {
        Self { says: Arc::new(says), asked: Arc::default() }
    }

    pub(crate) fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }
}

impl Provider for Scripted {
    fn call<'a>(
        &'a self,
        request: &'a Request,
        _: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        self.asked.lock().unwrap().push(request.clone());
        (self.says)(request)
    }
}

/// A model's usage in all these tests: 10 tokens in, 5 out.
pub(crate) const USAGE: Usage =
    Usage { input_tokens: 10, cached_input_tokens: 0, cache_write_tokens: 0, output_tokens: 5 };

pub(crate) fn text(text: impl Into<String>) -> Result<Reply, Error> {
    Ok(Reply { text: text.into(), usage: Some(USAGE), ..Reply::default() })
}

pub(crate) fn calls<const N: usize>(calls: [(&str, &str); N]) -> Result<Reply, Error> {
    let one = |(name, arguments): (&str, &str)| ToolCall { name: name.to_owned(), arguments: arguments.to_owned() };
    Ok(Reply { tool_calls: calls.into_iter().map(one).collect(), usage: Some(USAGE), ..Reply::default() })
}

/// Which step the request is for.
pub(crate) fn step(request: &Request) -> u32 {
    request.call.step
}

/// The contents of the tool results in a request, in order.
pub(crate) fn results(request: &Request) -> Vec<String> {
    let content = |body: &Body| match body {
        Body::Tool { content, .. } => Some(content.clone()),
        _ => None,
    };
    request.messages.iter().filter_map(|message| content(&message.body)).collect()
}

/// The text of the user messages in a request, in order.
pub(crate) fn said(request: &Request) -> Vec<String> {
    let text = |body: &Body| match body {
        Body::User { text } => Some(text.clone()),
        _ => None,
    };
    request.messages.iter().filter_map(|message| text(&message.body)).collect()
}

/// A network of the agents given, the first of them its entry, with one model of the test's own.
pub(crate) fn network<const N: usize>(agents: [(&str, AgentSpec); N]) -> NetworkSpec {
    let mut spec = NetworkSpec::default();
    spec.network.name = "test".to_owned();
    spec.network.entry = agents[0].0.to_owned();
    spec.models.insert("m".to_owned(), ModelSpec { provider: Some(ProviderKind::Host), ..ModelSpec::default() });
    spec.agents = agents.into_iter().map(|(name, agent)| (name.to_owned(), agent)).collect();
    spec
}

pub(crate) fn runtime(spec: NetworkSpec, provider: &Scripted) -> Builder {
    Runtime::builder(Network::new(spec).unwrap()).provider("m", provider.clone())
}
