//! Agents written in Rust: they say what to do next in the place of a model.

use std::sync::Arc;

use super::{AgentId, Body, Message, ToolCall};

/// An agent written in Rust. It is asked wherever a model would be: at its start, and when what it called has come back.
///
/// What it says is to be a function of the transcript alone. It reads no clock and no file, and calls nothing: what it wants
/// done it says, and that goes through the gate like a model's calls. So it can be asked once more after a crash. A panic in
/// it is a restart of the agent, and after too many of them a dead letter; it never ends the process. It computes on the
/// thread that it is asked on, and is to do so briefly: what takes long belongs into a tool.
pub trait Agent: Send + Sync + 'static {
    /// Says what to do next.
    fn next(&self, turn: &Turn<'_>) -> Move;
}

impl<F: Fn(&Turn<'_>) -> Move + Send + Sync + 'static> Agent for F {
    fn next(&self, turn: &Turn<'_>) -> Move {
        self(turn)
    }
}

/// What an agent knows when it is asked.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// The instance.
    pub agent: &'a AgentId,
    /// Which step this is, counted from 1.
    pub step: u32,
    /// The transcript, oldest message first. Every tool call in it has its result.
    pub messages: &'a [Arc<Message>],
}

impl<'a> Turn<'a> {
    /// Returns what the agent was asked last: the text of the last message that is no result of a call and not its own.
    pub fn asked(&self) -> &'a str {
        let is_asked = |message: &&'a Arc<Message>| matches!(message.body, Body::User { .. });
        self.messages.iter().rev().find(is_asked).map(|message| message.text()).unwrap_or_default()
    }

    /// Returns the results of the calls of the last step, in the order of the calls; empty in the first step.
    pub fn results(&self) -> impl Iterator<Item = &'a str> {
        let is_result = |message: &&'a Arc<Message>| matches!(message.body, Body::Tool { .. });
        let count = self.messages.iter().rev().take_while(is_result).count();
        self.messages[self.messages.len() - count..].iter().map(|message| message.text())
    }
}

/// What an agent does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// It gives its answer: text, or JSON where the agent has an output schema.
    Answer(String),
    /// It calls tools of its own, asks agents (`ask_<agent>`) or hands over (`transfer_to_<agent>`), all at once.
    Call(Vec<ToolCall>),
}

impl Move {
    /// Asks agents, each what is said to it.
    pub fn ask<'a>(questions: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let ask = |(agent, message): (&str, String)| ToolCall {
            name: super::delegate_tool(agent),
            arguments: serde_json::json!({ "message": message }).to_string(),
        };
        Self::Call(questions.into_iter().map(ask).collect())
    }

    /// Calls one tool.
    pub fn call(tool: &str, arguments: &serde_json::Value) -> Self {
        Self::Call(vec![ToolCall { name: tool.to_owned(), arguments: arguments.to_string() }])
    }
}
