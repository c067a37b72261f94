//! An agent's definition as its instances use it: the names that a model may call, what stands behind each, and the
//! schemas, compiled once for the network.

use std::collections::HashMap;
use std::sync::Arc;

use jsonschema::Validator;
use serde_json::Value;

use super::{Agent, Guards};
use crate::model::Offer;
use crate::spec::ModelChoice;

/// What an agent is, apart from its prompt; shared by all its instances in all runs.
pub struct Definition {
    /// The agent's name in the network.
    pub name: Arc<str>,
    /// The name in the network of the model that it has at first.
    pub model: Arc<str>,
    /// Which models it goes to, and when.
    pub choice: ModelChoice,
    /// How many steps an instance may take.
    pub max_steps: u32,
    /// How many steps in a row may be sent back to the model.
    pub max_repairs: u32,
    /// What is offered to the model.
    pub offers: Arc<[Offer]>,
    /// How many bytes the offers and the schema add to each request at most.
    pub fixed_bytes: usize,
    /// What stands behind each offer, by its name.
    pub targets: HashMap<String, Target>,
    /// The agent that takes over when the model can't be reached, if one is to.
    pub error_route: Option<Arc<str>>,
    /// What says in the place of a model what to do next, if the agent is written in Rust.
    pub behaviour: Option<Arc<dyn Agent>>,
    /// The shape of the final answer; none for plain text.
    pub output: Option<OutputSchema>,
    /// How its transcript is kept within a bound; none where it may grow with its steps.
    pub compaction: Option<Compaction>,
    /// When it is told that it does not get on.
    pub guards: Guards,
    /// Whether it stands for an inner flow or a room, and so wants nothing itself: others work for it.
    pub is_flow: bool,
}

impl std::fmt::Debug for Definition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Definition").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What stands behind an offer.
#[derive(Debug)]
pub struct Target {
    /// What a call of it does.
    pub kind: TargetKind,
    /// Checks the arguments; shared by all agents to which the same is offered.
    pub validator: Arc<Validator>,
}

impl Target {
    /// Says what is wrong with arguments; none where they are what is taken.
    pub fn objection(&self, arguments: &Value) -> Option<String> {
        super::agent::schema_errors(&self.validator, arguments)
    }
}

/// What a call of an offer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// Calls the tool.
    Tool(Arc<str>),
    /// Asks the agent.
    Delegate(Arc<str>),
    /// Hands over to the agent.
    Handoff(Arc<str>),
    /// Publishes on the topic.
    Publish(Arc<str>),
}

/// How an agent's transcript is kept within a bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// How many tokens of it, by [`estimated_tokens`](crate::model::estimated_tokens), are sent to the model at most.
    pub at_tokens: u64,
    /// How many of the last steps are sent as they are, where there is room for them.
    pub keep_steps: usize,
    /// The model that summarises, by its name in the network.
    pub model: Arc<str>,
    /// How many bytes of an older tool result are sent; one that is longer is moved out, and can be read again.
    pub move_out_over_bytes: usize,
}

/// The shape of a final answer.
#[derive(Debug)]
pub struct OutputSchema {
    /// As it is shown to the model.
    pub schema: Arc<Value>,
    /// Checks the answer.
    pub validator: Validator,
}
