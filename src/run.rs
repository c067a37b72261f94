//! Runs and agents as pure functions of their events: no clock, no chance, no input or output.

mod agent;
mod definition;
mod event;
mod id;
mod message;
mod state;

pub use agent::{AgentState, Effect, MAX_CALLS_PER_STEP, decide, tool_message};
pub use definition::{Definition, OutputSchema, Target, TargetKind};
pub use event::{AgentOutcome, Answer, Envelope, Event, Parent, RunEnd, Status, Stream, Subject, ToolFailure};
pub use id::{AgentId, CallId, RunId};
pub use message::{Body, Labels, Message, Origin, ToolCall, Usage};
pub use state::{Instance, Next, OpenCall, RunState, Totals, delegate_tool, handoff_tool};
