//! Runs and agents as pure functions of their events: no clock, no chance, no input or output.

mod id;
mod message;

pub use id::{AgentId, CallId, RunId};
pub use message::{Body, Labels, Message, Origin, ToolCall, Usage};
