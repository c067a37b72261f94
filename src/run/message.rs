//! What agents, models and tools say to one another.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::AgentId;

/// What a message or a result was influenced by, as named in the network file (`labels = { reads = "private" }`).
/// Labels only ever grow: what is derived from a labelled thing carries its labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeSet<String>);

impl Labels {
    /// Adds one label.
    pub fn add(&mut self, label: impl Into<String>) {
        self.0.insert(label.into());
    }

    /// Adds all labels of `other`.
    pub fn join(&mut self, other: &Labels) {
        self.0.extend(other.0.iter().cloned());
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the labels in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// Where a message came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The run's input.
    Input,
    /// Another agent's question or handoff, or a delegate's answer.
    Agent(AgentId),
    /// A model, by its name in the network.
    Model(String),
    /// A tool, by its name in the network.
    Tool(String),
    /// A person who told an agent something while it was at work, or answered what it asked.
    Person,
    /// The runtime itself: what was wrong with an answer, and such.
    Runtime,
}

/// One message of a transcript.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// What is said.
    pub body: Body,
    /// What it was influenced by.
    pub labels: Labels,
    /// Where it came from.
    pub origin: Origin,
}

impl Message {
    /// Returns the text of the message.
    pub fn text(&self) -> &str {
        match &self.body {
            Body::User { text } | Body::Assistant { text, .. } => text,
            Body::Tool { content, .. } => content,
        }
    }
}

/// What a message says, by the role that says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// The side that asks: the run's input, another agent, or the runtime.
    User {
        /// The text, verbatim.
        text: String,
    },
    /// The model.
    Assistant {
        /// What it said beside its tool calls; may be empty.
        text: String,
        /// The tools that it asked for, in its order, with the ids that the transcript gives them.
        tool_calls: Vec<(String, ToolCall)>,
    },
    /// What came of one tool call.
    Tool {
        /// The call's id in the transcript.
        id: String,
        /// The tool's name.
        name: String,
        /// The result as the model reads it.
        content: String,
        /// Whether the call failed, was refused or was denied.
        failed: bool,
    },
}

/// A tool call as a model asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The name that the model gave, which may be no tool at all.
    pub name: String,
    /// The arguments as the model wrote them, which may be no JSON at all.
    pub arguments: String,
}

/// What a model call used, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read, cached ones included.
    pub input_tokens: u64,
    /// Of those, tokens that the provider had cached.
    pub cached_input_tokens: u64,
    /// Of those read, tokens that the provider put into its cache, where it bills that.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache_write_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Usage {
    /// Returns all tokens, read and written.
    pub fn tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }
}
