//! What all runs of a network share: its models with their permits, its tools, the router, and the way to a person.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde_json::json;
use tokio::sync::Semaphore;

use super::router::Router;
use super::{Approver, Error};
use crate::budget::Rates;
use crate::model::{Offer, Provider, fixed_bytes};
use crate::run::{Definition, OutputSchema, Target, TargetKind, delegate_tool, handoff_tool};
use crate::spec::{AgentSpec, Builtin, Effect, ModelSpec, Network, Template, ToolSpec};
use crate::tool::{self, ErasedTool};

/// What the simulated model is called in a network that has no models.
pub(super) const STAND_IN: &str = "sim";

/// What all runs of a network share.
pub(super) struct Fleet {
    pub(super) network: Arc<Network>,
    pub(super) models: HashMap<Arc<str>, Arc<Model>>,
    pub(super) host_tools: HashMap<String, Arc<dyn ErasedTool>>,
    /// Permits for model calls under way, over all models; none for no bound.
    pub(super) model_calls: Option<Arc<Semaphore>>,
    pub(super) router: Router,
    pub(super) approver: Option<Arc<dyn Approver>>,
    /// Made by the first run, since a tool's schema is known once the tool is.
    definitions: OnceLock<Definitions>,
}

/// A model of the network, ready to be called.
pub(super) struct Model {
    pub(super) spec: ModelSpec,
    pub(super) provider: Arc<dyn Provider>,
    pub(super) rates: Rates,
    /// Permits for calls of this model; none for no bound.
    pub(super) permits: Option<Arc<Semaphore>>,
}

/// A tool, opened for one run.
pub(super) struct BoundTool {
    pub(super) tool: Arc<dyn ErasedTool>,
    pub(super) spec: ToolSpec,
}

impl BoundTool {
    pub(super) fn builtin(&self) -> Option<Builtin> {
        self.spec.builtin
    }

    /// Returns the effect class: the network's word, else the tool's own.
    pub(super) fn effect(&self) -> Effect {
        self.spec.effect.unwrap_or_else(|| self.tool.effect())
    }
}

pub(super) type Tools = HashMap<Arc<str>, BoundTool>;
pub(super) type Definitions = Arc<HashMap<Arc<str>, Arc<Definition>>>;
pub(super) type Prompts = HashMap<Arc<str>, Arc<str>>;

impl Fleet {
    pub(super) fn new(
        network: Arc<Network>,
        models: HashMap<Arc<str>, Arc<Model>>,
        host_tools: HashMap<String, Arc<dyn ErasedTool>>,
        approver: Option<Arc<dyn Approver>>,
    ) -> Self {
        let permits = |bound: Option<u32>| bound.map(|bound| Arc::new(Semaphore::new(bound as usize)));
        let model_calls = permits(network.spec().network.fleet.model_calls_in_flight);
        let definitions = OnceLock::new();
        Self { network, models, host_tools, model_calls, router: Router::default(), approver, definitions }
    }

    /// Opens the network's tools for one run, whose relative paths are resolved against `directory`.
    pub(super) fn bind_tools(&self, values: &Values<'_>, directory: &Path) -> Result<Tools, Error> {
        let mut tools = Tools::new();
        for (name, spec) in &self.network.spec().tools {
            let tool = match spec.builtin {
                Some(_) => self.open_builtin(name, spec, values, directory)?,
                None => self.host_tools.get(name).cloned().ok_or_else(|| Error::NoSuchTool(name.clone()))?,
            };
            tools.insert(name.as_str().into(), BoundTool { tool, spec: spec.clone() });
        }
        Ok(tools)
    }

    fn open_builtin(
        &self,
        name: &str,
        spec: &ToolSpec,
        values: &Values<'_>,
        directory: &Path,
    ) -> Result<Arc<dyn ErasedTool>, Error> {
        let root = values.render(spec.root.as_deref().unwrap_or("."), || format!("tools.{name}.root"))?;
        let failed = |source| Error::Tool { tool: name.to_owned(), source };
        let root = std::path::absolute(directory.join(&root))
            .map_err(|error| failed(tool::Error::Failed(format!("the root {root} is no path: {error}"))))?;
        tool::builtin(spec, &root).map_err(failed)
    }

    /// Renders the agents' prompts for one run.
    pub(super) fn render_prompts(&self, values: &Values<'_>) -> Result<Prompts, Error> {
        let render = |(name, agent): (&String, &AgentSpec)| {
            let prompt = values.render(&agent.prompt, || format!("agents.{name}.prompt"))?;
            Ok((name.as_str().into(), prompt.into()))
        };
        self.network.spec().agents.iter().map(render).collect()
    }

    /// Returns the agents' definitions, which are made once: schemas take milliseconds to compile.
    pub(super) fn definitions(&self, tools: &Tools) -> Result<Definitions, Error> {
        if let Some(known) = self.definitions.get() {
            return Ok(known.clone());
        }
        let agents = &self.network.spec().agents;
        let made: HashMap<_, _> = agents
            .iter()
            .map(|(name, agent)| Ok((name.as_str().into(), Arc::new(self.definition(name, agent, tools)?))))
            .collect::<Result<_, Error>>()?;
        Ok(self.definitions.get_or_init(|| Arc::new(made)).clone())
    }

    fn definition(&self, name: &str, agent: &AgentSpec, tools: &Tools) -> Result<Definition, Error> {
        let mut offers = Vec::new();
        let mut targets = HashMap::new();
        let mut offer = |name: String, description: String, parameters, kind| {
            let validator = validator(&parameters, &name)?;
            targets.insert(name.clone(), Target { kind, validator });
            offers.push(Offer { name, description, parameters: Arc::new(parameters) });
            Ok::<_, Error>(())
        };
        for tool in &agent.tools {
            let bound = tools.get(tool.as_str()).ok_or_else(|| Error::NoSuchTool(tool.clone()))?;
            let kind = TargetKind::Tool(tool.as_str().into());
            offer(tool.clone(), bound.tool.description(), bound.tool.parameters(), kind)?;
        }
        for other in &agent.delegates_to {
            let (says, parameters) =
                (self.about(other, "Asks the agent"), message_schema("The question, in your own words."));
            offer(delegate_tool(other), says, parameters, TargetKind::Delegate(other.as_str().into()))?;
        }
        for other in &agent.hands_off_to {
            let says = self.about(other, "Hands over, for good, to the agent");
            let parameters = message_schema("Your words to the agent.");
            offer(handoff_tool(other), says, parameters, TargetKind::Handoff(other.as_str().into()))?;
        }
        let output = match self.network.output_schema(name) {
            Some(schema) => Some(OutputSchema { validator: validator(schema, name)?, schema: schema.clone() }),
            None => None,
        };
        Ok(Definition {
            name: name.into(),
            model: self.network.model_of(name).map_or(STAND_IN, |(model, _)| model).into(),
            max_steps: agent.max_steps,
            max_repairs: agent.max_repairs,
            fixed_bytes: fixed_bytes(&offers, output.as_ref().map(|output| &*output.schema)),
            offers: offers.into(),
            targets,
            output,
        })
    }

    fn about(&self, agent: &str, does: &str) -> String {
        let description = self.network.spec().agents.get(agent).and_then(|agent| agent.description.as_deref());
        match description {
            Some(description) => format!("{does} `{agent}`: {description}"),
            None => format!("{does} `{agent}`."),
        }
    }
}

fn message_schema(description: &str) -> serde_json::Value {
    json!({
        "type": "object",
        "properties": { "message": { "type": "string", "description": description } },
        "required": ["message"],
        "additionalProperties": false,
    })
}

fn validator(schema: &serde_json::Value, of: &str) -> Result<jsonschema::Validator, Error> {
    jsonschema::validator_for(schema).map_err(|error| Error::Schema { of: of.to_owned(), message: error.to_string() })
}

/// What a template of a run sees.
pub(super) struct Values<'a> {
    pub(super) input: &'a str,
    pub(super) vars: &'a BTreeMap<String, String>,
}

impl Values<'_> {
    fn render(&self, source: &str, place: impl Fn() -> String) -> Result<String, Error> {
        let values = json!({ "input": self.input, "vars": self.vars });
        Template::parse(source)
            .and_then(|template| template.render(values))
            .map_err(|source| Error::Template { place: place(), source })
    }
}
