//! What policies of a network can speak of: its agents, models, tools and topics, and what is known of each call.

use std::collections::{BTreeMap, HashMap, HashSet};

use cedar_policy::{
    Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression, Schema, SchemaFragment,
};
use serde_json::{Map, Value, json};

use super::kinds::Kind;
use crate::run::Subject;
use crate::spec::{AgentSpec, Builtin, Network, READ_AGAIN, STAND_IN};

/// The JSON Schemas of what tools take, by the tools' names.
pub type Parameters = BTreeMap<String, Value>;

/// The group of all actions on tools; that on the tool `read` is `call_tool:read`.
pub(super) const CALL_TOOL: &str = "call_tool";
/// The action of asking a model.
pub(super) const CALL_MODEL: &str = "call_model";
/// The action of asking another agent.
pub(super) const DELEGATE: &str = "delegate";
/// The action of handing over to another agent.
pub(super) const HAND_OFF: &str = "hand_off";
/// The action of publishing on a topic.
pub(super) const PUBLISH: &str = "publish";

/// What a network is to its policies, whether it has any or not.
pub struct Vocabulary {
    pub(super) schema: Schema,
    /// The same as JSON, for whoever writes policies.
    written: Value,
    /// The network's name.
    network: String,
    /// What tools take.
    tools: HashMap<String, ToolWords>,
    models: HashMap<String, Option<&'static str>>,
    agents: HashSet<String>,
    topics: HashSet<String>,
    types: Types,
}

/// What policies know of a tool.
pub(super) struct ToolWords {
    pub(super) arguments: Kind,
    pub(super) builtin: Option<Builtin>,
    labels: Vec<String>,
}

/// The types of all that there is.
struct Types {
    agent: EntityTypeName,
    tool: EntityTypeName,
    model: EntityTypeName,
    topic: EntityTypeName,
    network: EntityTypeName,
    tenant: EntityTypeName,
    action: EntityTypeName,
}

/// Who does what to whom.
pub(super) struct Deed {
    pub(super) principal: EntityUid,
    pub(super) action: EntityUid,
    pub(super) resource: EntityUid,
}

impl Vocabulary {
    /// Makes the vocabulary of a network, whose tools take `parameters`.
    ///
    /// # Errors
    /// The policy library can't take it; in words.
    pub fn new(network: &Network, parameters: &Parameters) -> Result<Self, String> {
        let spec = network.spec();
        let mut tools: HashMap<String, ToolWords> = HashMap::new();
        for (name, tool) in &spec.tools {
            let arguments = Kind::of_arguments(parameters.get(name).unwrap_or(&Value::Null));
            let labels = tool.labels.reads.clone().into_iter().collect();
            tools.insert(name.clone(), ToolWords { arguments, builtin: tool.builtin, labels });
        }
        if let Some(shown) = parameters.get(READ_AGAIN) {
            let arguments = Kind::of_arguments(shown);
            let words = ToolWords { arguments, builtin: Some(Builtin::ReadAgain), labels: Vec::new() };
            tools.insert(READ_AGAIN.to_owned(), words);
        }
        let agents: HashSet<String> = spec.agents.keys().cloned().collect();
        let topics = spec.agents.values().flat_map(|agent: &AgentSpec| agent.publishes.iter().cloned()).collect();
        let mut models: HashMap<String, Option<&'static str>> = HashMap::new();
        for (name, model) in &spec.models {
            models.insert(name.clone(), model.provider.map(|provider| provider.name()));
        }
        if models.is_empty() {
            models.insert(STAND_IN.to_owned(), None);
        }
        let written = schema(&tools);
        let schema = Schema::from_json_value(written.clone()).map_err(|error| error.to_string())?;
        let name = spec.network.name.clone();
        Ok(Self { schema, written, network: name, tools, models, agents, topics, types: Types::new()? })
    }

    /// Returns the schema that policies are checked by, in Cedar's JSON format.
    pub fn to_json(&self) -> &Value {
        &self.written
    }

    /// Returns the schema that policies are checked by, in Cedar's own language.
    ///
    /// # Errors
    /// The policy library can't write it so; in words.
    pub fn to_cedar(&self) -> Result<String, String> {
        let fragment = SchemaFragment::from_json_value(self.written.clone()).map_err(|error| error.to_string())?;
        fragment.to_cedarschema().map_err(|error| error.to_string())
    }

    /// Returns what is known of a tool.
    pub(super) fn tool(&self, name: &str) -> Option<&ToolWords> {
        self.tools.get(name)
    }

    /// Says who does what to whom where an agent makes a call.
    pub(super) fn deed(&self, agent: &str, subject: &Subject) -> Deed {
        let (action, resource) = match subject {
            Subject::Tool { tool, .. } => (format!("{CALL_TOOL}:{tool}"), uid(&self.types.tool, tool)),
            Subject::Model { model, .. } => (CALL_MODEL.to_owned(), uid(&self.types.model, model)),
            Subject::Delegate { agent, .. } => (DELEGATE.to_owned(), uid(&self.types.agent, agent)),
            Subject::Handoff { agent, .. } => (HAND_OFF.to_owned(), uid(&self.types.agent, agent)),
            Subject::Publish { topic, .. } => (PUBLISH.to_owned(), uid(&self.types.topic, topic)),
        };
        Deed { principal: uid(&self.types.agent, agent), action: uid(&self.types.action, &action), resource }
    }

    /// Whether an entity is, or may be, in what is named: itself, or what an agent belongs to. Which tenant a run belongs to
    /// is not known here.
    pub(super) fn may_be_in(&self, entity: &EntityUid, named: &EntityUid) -> bool {
        let is_agent = *entity.type_name() == self.types.agent;
        let network = || *named.type_name() == self.types.network && *named.id() == EntityId::new(&self.network);
        entity == named || (is_agent && (*named.type_name() == self.types.tenant || network()))
    }

    /// Returns the group that the actions on tools are in, where `action` is one.
    pub(super) fn group(&self, action: &EntityUid) -> Option<EntityUid> {
        let is_of_tool = action.id().unescaped().starts_with("call_tool:");
        is_of_tool.then(|| uid(&self.types.action, CALL_TOOL))
    }

    /// Returns the names of what is of an entity's kind, where the network says which there are; and what it is called.
    pub(super) fn names_of(&self, entity: &EntityUid) -> Option<(&'static str, Vec<&str>)> {
        fn all<'a>(names: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
            names.map(String::as_str).collect()
        }
        Some(match entity.type_name() {
            of if *of == self.types.agent => ("agent", all(self.agents.iter())),
            of if *of == self.types.tool => ("tool", all(self.tools.keys())),
            of if *of == self.types.model => ("model", all(self.models.keys())),
            of if *of == self.types.topic => ("topic", all(self.topics.iter())),
            of if *of == self.types.network => ("network", vec![&self.network]),
            _ => return None,
        })
    }

    /// Returns all that there is, as runs of a tenant see it.
    ///
    /// # Errors
    /// The policy library can't take it; in words.
    pub(super) fn entities(&self, tenant: &str) -> Result<Entities, String> {
        let types = &self.types;
        let (network, tenant) = (uid(&types.network, &self.network), uid(&types.tenant, tenant));
        let plain = |uid: EntityUid| Entity::new_no_attrs(uid, HashSet::new());
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let parents: HashSet<EntityUid> = [network.clone(), tenant.clone()].into();
        let mut all = vec![plain(network), plain(tenant)];
        all.extend(self.agents.iter().map(|agent| Entity::new_no_attrs(uid(&types.agent, agent), parents.clone())));
        all.extend(self.topics.iter().map(|topic| plain(uid(&types.topic, topic))));
        for (name, provider) in &self.models {
            let provider = provider.map(|provider| ("provider".to_owned(), text(provider)));
            all.push(entity(uid(&types.model, name), provider.into_iter().collect())?);
        }
        for (name, tool) in &self.tools {
            let labels = RestrictedExpression::new_set(tool.labels.iter().map(|label| text(label)));
            let looks_only = tool.builtin.is_some_and(Builtin::is_read_only);
            let mut attributes = HashMap::from([
                ("labels".to_owned(), labels),
                ("looks_only".to_owned(), RestrictedExpression::new_bool(looks_only)),
            ]);
            let builtin = serde_json::to_value(tool.builtin).unwrap_or_default();
            attributes.extend(builtin.as_str().map(|builtin| ("builtin".to_owned(), text(builtin))));
            all.push(entity(uid(&types.tool, name), attributes)?);
        }
        let actions = self.schema.action_entities().map_err(|error| error.to_string())?;
        actions.add_entities(all, None).map_err(|error| error.to_string())
    }
}

impl Types {
    fn new() -> Result<Self, String> {
        let named = |name: &str| name.parse::<EntityTypeName>().map_err(|error| error.to_string());
        Ok(Self {
            agent: named("Agent")?,
            tool: named("Tool")?,
            model: named("Model")?,
            topic: named("Topic")?,
            network: named("Network")?,
            tenant: named("Tenant")?,
            action: named("Action")?,
        })
    }
}

fn uid(of: &EntityTypeName, name: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(of.clone(), EntityId::new(name))
}

fn entity(uid: EntityUid, attributes: HashMap<String, RestrictedExpression>) -> Result<Entity, String> {
    Entity::new(uid, attributes, HashSet::new()).map_err(|error| error.to_string())
}

/// Writes the schema in Cedar's JSON format.
fn schema(tools: &HashMap<String, ToolWords>) -> Value {
    let on = |resource: &str, own: Value| {
        json!({ "appliesTo": {
            "principalTypes": ["Agent"], "resourceTypes": [resource],
            "context": { "type": "Record", "attributes": context(own) },
        } })
    };
    let message = json!({ "message": { "type": "String" } });
    let mut actions = Map::from_iter([
        (CALL_TOOL.to_owned(), json!({})),
        (CALL_MODEL.to_owned(), on("Model", json!({ "max_output_tokens": { "type": "Long" } }))),
        (DELEGATE.to_owned(), on("Agent", message.clone())),
        (HAND_OFF.to_owned(), on("Agent", message.clone())),
        (PUBLISH.to_owned(), on("Topic", message)),
    ]);
    let sorted: BTreeMap<&String, &ToolWords> = tools.iter().collect();
    for (name, tool) in sorted {
        let mut own = json!({ "arguments": tool.arguments.to_cedar(), "json": { "type": "String" } });
        if tool.builtin == Some(Builtin::ProcessRun) {
            own["program"] = json!({ "type": "String" });
            own["command"] = json!({ "type": "String" });
        }
        let mut action = on("Tool", own);
        action["memberOf"] = json!([{ "id": CALL_TOOL }]);
        actions.insert(format!("{CALL_TOOL}:{name}"), action);
    }
    let set = json!({ "type": "Set", "element": { "type": "String" } });
    let optional = json!({ "type": "String", "required": false });
    json!({ "": {
        "entityTypes": {
            "Tenant": {},
            "Network": {},
            "Agent": { "memberOfTypes": ["Network", "Tenant"] },
            "Tool": { "shape": { "type": "Record", "attributes": {
                "builtin": optional, "labels": set, "looks_only": { "type": "Boolean" },
            } } },
            "Model": { "shape": { "type": "Record", "attributes": { "provider": optional } } },
            "Topic": {},
        },
        "actions": actions,
    } })
}

/// Returns what is known of every call, and `own` beside it.
fn context(own: Value) -> Value {
    let mut all = json!({
        "run": { "type": "String" },
        "session": { "type": "String", "required": false },
        "depth": { "type": "Long" },
        "now": { "type": "Extension", "name": "datetime" },
        "labels": { "type": "Set", "element": { "type": "String" } },
        "approved": { "type": "Set", "element": { "type": "String" } },
        "spent": { "type": "Record", "attributes": {
            "cost_usd": { "type": "Extension", "name": "decimal" },
            "tokens": { "type": "Long" },
            "model_calls": { "type": "Long" },
            "tool_calls": { "type": "Long" },
            "steps": { "type": "Long" },
        } },
    });
    if let (Some(all), Value::Object(own)) = (all.as_object_mut(), own) {
        all.extend(own);
    }
    all
}
