//! What an agent calls.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a call is made to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A model, by its name in the network.
    Model {
        /// The model.
        model: Arc<str>,
        /// How many tokens it may write.
        max_output_tokens: u32,
    },
    /// A tool.
    Tool {
        /// The tool's name in the network.
        tool: Arc<str>,
        /// Its arguments, a JSON object that satisfies the tool's schema.
        arguments: Value,
    },
    /// Another agent, which is asked.
    Delegate {
        /// The agent's name.
        agent: Arc<str>,
        /// The question.
        message: String,
    },
    /// Another agent, which takes over.
    Handoff {
        /// The agent's name.
        agent: Arc<str>,
        /// What it is told.
        message: String,
    },
    /// Whoever takes what is published on a topic.
    Publish {
        /// The topic.
        topic: Arc<str>,
        /// What is published.
        message: String,
    },
}

impl Subject {
    /// Returns under which name policies are told that a person approved of such a call: a tool's, and of all else with what it
    /// is before it, so that no agent or model passes for a tool.
    pub fn approved_as(&self) -> String {
        match self {
            Self::Tool { tool, .. } => tool.to_string(),
            Self::Model { model, .. } => format!("model:{model}"),
            Self::Delegate { agent, .. } => format!("delegate:{agent}"),
            Self::Handoff { agent, .. } => format!("hand_off:{agent}"),
            Self::Publish { topic, .. } => format!("publish:{topic}"),
        }
    }

    /// Returns the name of what is called.
    pub fn name(&self) -> &str {
        match self {
            Self::Model { model, .. } => model,
            Self::Tool { tool, .. } => tool,
            Self::Delegate { agent, .. } | Self::Handoff { agent, .. } => agent,
            Self::Publish { topic, .. } => topic,
        }
    }
}
