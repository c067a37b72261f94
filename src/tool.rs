//! Tools: what an agent can do to the world, typed for those who write one, and erased for those who call one.

mod builtin;
mod clock;
mod fs;
mod knowledge;
mod memory;
mod notify;
mod person;
mod preview;
mod process;
mod size;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::run::{CallId, Labels, RunId};
pub use crate::spec::Effect;
pub use builtin::{builtin, shown};
pub use notify::Notifier;
pub use preview::{NamedFile, Preview};
pub(crate) use process::kill_programs;

/// One call of a tool, as the tool sees it.
#[derive(Clone, Debug)]
pub struct Call {
    /// The run that it belongs to.
    pub run: RunId,
    /// The call's name within the run.
    pub id: CallId,
    /// The same for every try of this call, and for no other call.
    pub idempotency_key: String,
    /// How long ago the call was intended first, by the run's record: nothing for a first try, and more where a process
    /// ended in the midst of one and this is another. Nothing, too, where the machine's clock has been set back to
    /// before that.
    pub age: Duration,
    /// Cancelled when the call's result is no longer wanted. When its run stops, a tool has the time that `shutdown` in
    /// `[supervision]` gives to stop by itself; nobody hears then what it returns. After that, and at once when the call
    /// has taken longer than its timeout, the call's future is dropped.
    pub cancelled: CancellationToken,
    /// How many bytes of output are kept; a tool that produces more does well to stop early, or say what it left out.
    pub output_limit_bytes: usize,
    /// For whom it is made.
    pub caller: Caller,
    /// Takes up what the result is influenced by, where the tool finds that out while it works.
    pub influence: Influence,
}

/// For whom a call of a tool is made.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The name of the network.
    pub network: Arc<str>,
    /// The name of the agent.
    pub agent: Arc<str>,
    /// Who the run belongs to.
    pub tenant: Arc<str>,
    /// The key that the run shares with others.
    pub session: Option<Arc<str>>,
    /// What the agent has been influenced by.
    pub labels: Labels,
}

/// The labels that a result is to carry beside those that the network names for its tool, and the agent's own. Clones share
/// them.
#[derive(Clone, Debug, Default)]
pub struct Influence(Arc<Mutex<Labels>>);

impl Influence {
    /// Adds labels.
    pub fn join(&self, labels: &Labels) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).join(labels);
    }

    /// Returns the labels.
    pub fn labels(&self) -> Labels {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why a tool call failed. What it says goes back to the model.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The arguments are not what the tool takes.
    #[error("invalid arguments: {0}")]
    Arguments(String),
    /// The tool refuses what the arguments ask for (a path that leads out of its root, a program that is not allowed).
    #[error("refused: {0}")]
    Refused(String),
    /// The tool tried and failed.
    #[error("{0}")]
    Failed(String),
}

/// A tool with typed arguments.
///
/// A call runs as a task of its own: it may take long (its timeout stands in the network), and a panic in it becomes an
/// error that the model reads. A call that is cancelled may put in order what it has begun; one that does not look at
/// [`Call::cancelled`] makes its run wait for as long as that may take, and is dropped then. Dropping stops a call at its
/// next await: one that blocks its thread can't be stopped, and is given up, while the thread is lost to all others.
/// Blocking work belongs on a thread that may block.
pub trait Tool: Send + Sync + 'static {
    /// The arguments; their JSON Schema is what the model is shown, and doc comments on fields become descriptions.
    type Arguments: DeserializeOwned + JsonSchema + Send + 'static;
    /// The result; a string reaches the model as it is, anything else as JSON.
    type Output: Serialize + Send;

    /// Says what the tool does, for the model.
    fn description(&self) -> String;

    /// Says what a second call with the same arguments would do; it governs retries, never permission.
    fn effect(&self) -> Effect {
        Effect::Once
    }

    /// Says what a call would change and which files it names, without doing it: for a person who is asked whether it may
    /// happen. Asked once more when the call is about to be made, and where the files are others then, so is the person.
    fn preview(&self, arguments: Self::Arguments) -> impl Future<Output = Preview> + Send {
        drop(arguments);
        async { Preview::default() }
    }

    /// Says what arguments come to, where what they name can be named in several ways: policies and patterns are told this
    /// instead, so that they hold however it is named. None where they say it in the one way.
    fn canonical(&self, arguments: &Value) -> impl Future<Output = Option<Value>> + Send {
        let _ = arguments;
        async { None }
    }

    /// Does it.
    ///
    /// # Errors
    /// Whatever goes wrong, in words for the model.
    fn call(&self, arguments: Self::Arguments, call: Call) -> impl Future<Output = Result<Self::Output, Error>> + Send;
}

/// What a model is shown of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// What the tool does.
    pub description: String,
    /// The JSON Schema of its arguments.
    pub parameters: Value,
}

impl Shown {
    /// Returns what a model is shown of the tool.
    pub fn of(tool: &dyn ErasedTool) -> Self {
        Self { description: tool.description(), parameters: tool.parameters() }
    }

    fn of_builtin<T: Tool>(description: impl Into<String>) -> Self {
        Self { description: description.into(), parameters: schema_of::<T::Arguments>() }
    }
}

fn schema_of<T: JsonSchema>() -> Value {
    let mut schema = schemars::schema_for!(T);
    schema.remove("$schema");
    schema.remove("title");
    // OpenAI refuses an object without this, even where it takes nothing.
    schema.ensure_object().entry("properties").or_insert_with(|| Value::Object(Map::new()));
    schema.to_value()
}

/// A [`Tool`] with its types erased. Every `Tool` is one.
pub trait ErasedTool: Send + Sync + 'static {
    /// See [`Tool::description`].
    fn description(&self) -> String;
    /// See [`Tool::effect`].
    fn effect(&self) -> Effect;
    /// Returns the JSON Schema of the arguments.
    fn parameters(&self) -> Value;
    /// See [`Tool::preview`].
    fn preview(self: Arc<Self>, arguments: Value) -> BoxFuture<'static, Preview>;
    /// See [`Tool::canonical`].
    fn canonical<'a>(&'a self, arguments: &'a Value) -> BoxFuture<'a, Option<Value>>;
    /// Calls the tool with JSON arguments; the result is what the model reads, not yet cut to the output limit.
    fn call(self: Arc<Self>, arguments: Value, call: Call) -> BoxFuture<'static, Result<String, Error>>;
}

impl<T: Tool> ErasedTool for T {
    fn description(&self) -> String {
        Tool::description(self)
    }

    fn effect(&self) -> Effect {
        Tool::effect(self)
    }

    fn parameters(&self) -> Value {
        schema_of::<T::Arguments>()
    }

    fn preview(self: Arc<Self>, arguments: Value) -> BoxFuture<'static, Preview> {
        Box::pin(async move {
            match serde_json::from_value(arguments) {
                Ok(arguments) => Tool::preview(&*self, arguments).await,
                Err(_) => Preview::default(),
            }
        })
    }

    fn canonical<'a>(&'a self, arguments: &'a Value) -> BoxFuture<'a, Option<Value>> {
        Box::pin(Tool::canonical(self, arguments))
    }

    fn call(self: Arc<Self>, arguments: Value, call: Call) -> BoxFuture<'static, Result<String, Error>> {
        Box::pin(async move {
            // What some models give a tool that takes nothing.
            let arguments = if arguments.is_null() { Value::Object(Map::new()) } else { arguments };
            let arguments = serde_json::from_value(arguments).map_err(|error| Error::Arguments(error.to_string()))?;
            let output = Tool::call(&*self, arguments, call).await?;
            match serde_json::to_value(output) {
                Ok(Value::String(text)) => Ok(text),
                Ok(value) => Ok(value.to_string()),
                Err(error) => Err(Error::Failed(format!("the result can't be written as JSON: {error}"))),
            }
        })
    }
}
