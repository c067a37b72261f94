//! A network file, read and checked, or the same network built in Rust.

mod duration;
mod tables;
mod template;

pub use duration::Span;
pub use tables::{
    AgentSpec, Builtin, Effect, Faults, Fleet, Latency, Limits, ModelChoice, ModelSpec, NetworkSpec, NetworkTable,
    Permission, PolicySpec, Price, ProviderKind, Retry, SecretRef, SimSpec, Strategy, SupervisionSpec, Timeouts,
    ToolCalls, ToolLabels, ToolSpec,
};
pub use template::{Template, TemplateError};

use std::sync::Arc;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A network that has been checked: every name in it leads somewhere, every bound is there, every template parses.
/// It holds all that a run needs (schema files are read in), so that a resumed run needs no file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Network {
    spec: NetworkSpec,
    /// The contents of the agents' `output_schema` files, by agent.
    output_schemas: IndexMap<String, Arc<Value>>,
}

impl Network {
    /// Returns the tables that the network was made of.
    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }
}
