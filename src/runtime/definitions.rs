//! From a network to the definitions of its agents: what each may call, and the schemas, compiled.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jsonschema::Validator;
use serde_json::json;

use super::{Error, read_again};
use crate::model::{Offer, fixed_bytes};
use crate::run::{
    Agent, Compaction, Definition, Guards, OutputSchema, Target, TargetKind, delegate_tool, handoff_tool, publish_tool,
};
use crate::spec::{AgentSpec, Builtin, CompactionSpec, ModelChoice, Network, READ_AGAIN, STAND_IN, local};
use crate::tool::{self, ErasedTool, Shown};

/// The agents' definitions, by their names.
pub(super) type Definitions = Arc<HashMap<Arc<str>, Arc<Definition>>>;

/// Makes the definitions of a network's agents. No tool is opened for it: what models are shown of the built-in ones is
/// known, and `host_tools` and `behaviours` are the program's own.
///
/// # Errors
/// An agent has a tool of the program's own that is not among `host_tools`, or a schema can't be compiled.
pub(super) fn definitions(
    network: &Network,
    host_tools: &HashMap<String, Arc<dyn ErasedTool>>,
    behaviours: &HashMap<String, Arc<dyn Agent>>,
) -> Result<Definitions, Error> {
    let source = Source { network, host_tools, behaviours, compiled: RefCell::default() };
    let agents = network.spec().agents.iter();
    let made = agents.map(|(name, agent)| Ok((name.as_str().into(), Arc::new(source.definition(name, agent)?))));
    Ok(Arc::new(made.collect::<Result<_, Error>>()?))
}

/// What definitions are made of.
struct Source<'a> {
    network: &'a Network,
    host_tools: &'a HashMap<String, Arc<dyn ErasedTool>>,
    behaviours: &'a HashMap<String, Arc<dyn Agent>>,
    /// Compiling a schema takes a good part of a millisecond, and most agents of a network share most of theirs.
    compiled: RefCell<HashMap<String, Arc<Validator>>>,
}

impl Source<'_> {
    fn definition(&self, name: &str, agent: &AgentSpec) -> Result<Definition, Error> {
        let mut offers = Vec::new();
        let mut targets = HashMap::new();
        let mut offer = |name: String, description: String, parameters, kind| {
            let validator = self.validator(&parameters, &name)?;
            targets.insert(name.clone(), Target { kind, validator });
            offers.push(Offer { name, description, parameters: Arc::new(parameters) });
            Ok::<_, Error>(())
        };
        for tool in &agent.tools {
            let Shown { description, parameters } = self.shown(tool)?;
            offer(local(tool, name).to_owned(), description, parameters, TargetKind::Tool(tool.as_str().into()))?;
        }
        for other in &agent.delegates_to {
            let (says, parameters) =
                (self.about(other, "Asks the agent"), message_schema("The question, in your own words."));
            offer(delegate_tool(local(other, name)), says, parameters, TargetKind::Delegate(other.as_str().into()))?;
        }
        for other in &agent.hands_off_to {
            let says = self.about(other, "Hands over, for good, to the agent");
            let parameters = message_schema("Your words to the agent.");
            offer(handoff_tool(local(other, name)), says, parameters, TargetKind::Handoff(other.as_str().into()))?;
        }
        for topic in &agent.publishes {
            let (says, parameters) = (
                format!("Publishes a message on the topic `{topic}`. You go on at once; nobody answers."),
                message_schema("The message."),
            );
            offer(publish_tool(local(topic, name)), says, parameters, TargetKind::Publish(topic.as_str().into()))?;
        }
        if agent.compaction.is_some() {
            let Shown { description, parameters } = read_again::shown();
            offer(READ_AGAIN.to_owned(), description, parameters, TargetKind::Tool(READ_AGAIN.into()))?;
        }
        let output = match self.network.output_schema(name) {
            Some(schema) => Some(OutputSchema { validator: validator(schema, name)?, schema: schema.clone() }),
            None => None,
        };
        let model: Arc<str> = self.network.model_of(name).map_or(STAND_IN, |(model, _)| model).into();
        Ok(Definition {
            name: name.into(),
            compaction: agent.compaction.as_ref().map(|rules| compaction(rules, &model)),
            choice: agent.model.clone().unwrap_or_else(|| ModelChoice::new(&*model)),
            model,
            max_steps: agent.max_steps,
            max_repairs: agent.max_repairs,
            fixed_bytes: fixed_bytes(&offers, output.as_ref().map(|output| &*output.schema)),
            offers: offers.into(),
            targets,
            error_route: agent.on_error.route().map(Into::into),
            behaviour: self.behaviours.get(name).cloned(),
            output,
            guards: self.guards(name, agent),
            is_flow: agent.is_flow(),
        })
    }

    fn guards(&self, name: &str, agent: &AgentSpec) -> Guards {
        let spec = self.network.spec();
        let builtins = agent.tools.iter().filter_map(|tool| Some((tool, spec.tools.get(tool)?.builtin?)));
        let of = |kinds: &[Builtin]| -> BTreeSet<String> {
            let found = builtins.clone().filter(|(_, builtin)| kinds.contains(builtin));
            found.map(|(tool, _)| local(tool, name).to_owned()).collect()
        };
        let set = &spec.network.guards;
        let on = |count: u32| (count > 0).then_some(count);
        Guards {
            same_call: on(set.same_call),
            nothing_new: on(set.nothing_new),
            transcript_tokens: (set.transcript_tokens > 0).then_some(set.transcript_tokens),
            waits: of(&[Builtin::ClockSleep, Builtin::PersonAsk]),
            not_counted: of(&[Builtin::ClockNow]),
        }
    }

    fn validator(&self, schema: &serde_json::Value, of: &str) -> Result<Arc<Validator>, Error> {
        let text = schema.to_string();
        if let Some(known) = self.compiled.borrow().get(&text) {
            return Ok(known.clone());
        }
        let made = Arc::new(validator(schema, of)?);
        self.compiled.borrow_mut().insert(text, made.clone());
        Ok(made)
    }

    fn shown(&self, tool: &str) -> Result<Shown, Error> {
        let builtin = self.network.spec().tools.get(tool).and_then(tool::shown);
        let shown = builtin.or_else(|| self.host_tools.get(tool).map(|tool| Shown::of(&**tool)));
        shown.ok_or_else(|| Error::NoSuchTool(tool.to_owned()))
    }

    fn about(&self, agent: &str, does: &str) -> String {
        let description = self.network.spec().agents.get(agent).and_then(|agent| agent.description.as_deref());
        match description {
            Some(description) => format!("{does} `{agent}`: {description}"),
            None => format!("{does} `{agent}`."),
        }
    }
}

fn compaction(rules: &CompactionSpec, own: &Arc<str>) -> Compaction {
    Compaction {
        at_tokens: rules.at_tokens,
        keep_steps: rules.keep_steps as usize,
        model: rules.model.as_deref().map_or_else(|| own.clone(), Into::into),
        move_out_over_bytes: rules.move_out_over_bytes,
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

pub(super) fn validator(schema: &serde_json::Value, of: &str) -> Result<Validator, Error> {
    jsonschema::validator_for(schema).map_err(|error| Error::Schema { of: of.to_owned(), message: error.to_string() })
}
