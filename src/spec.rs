//! A network file, read and checked, or the same network built in Rust.
//!
//! A file goes through four stages, and the mistakes of all four are reported together: its bytes and its TOML
//! (`source`), its shape against the schema that the types give (`shape`), its meaning (`check`), and the files
//! that it names. No stage but the first and the last touches anything outside the text.

mod check;
mod choice;
mod compaction;
mod diagnostic;
mod duration;
mod findings;
pub mod graph;
mod guards;
mod later;
mod limits;
mod model_override;
mod nested;
mod node;
mod policy;
mod routes;
mod schema;
mod secrets;
mod shape;
mod source;
mod supervision;
mod tables;
mod template;
mod traffic;
mod visible;
mod worst;

pub(crate) use check::is_loopback;
pub use choice::{ModelChoice, ModelRule};
pub use compaction::{CompactionSpec, READ_AGAIN};
pub use diagnostic::{Diagnostic, Position, Report, Severity};
pub use duration::Span;
pub(crate) use findings::{listed, nearest};
pub use guards::GuardsSpec;
pub use limits::{BudgetOf, BudgetSpec, Limits, OnLimit, Period};
pub use model_override::{ModelOverride, OverrideError};
pub(crate) use nested::local;
pub(crate) use policy::Unread;
pub use policy::{ApprovalsSpec, MAX_PERSON, NotifySpec, Permission, PolicyFile, PolicySpec, is_person};
pub use routes::{Join, MAX_AGENTS, RoomAnswer, RoomSpec, RouteSpec, TOPIC};
pub use schema::json_schema;
pub use supervision::{Backoff, MailboxSpec, OnError, RestartKind, RestartSpec, Scope, WhenFull};
pub use tables::{
    AgentSpec, Builtin, Effect, Faults, Latency, MAX_AGENT_NAME, MAX_NAME, MemoryScope, ModelSpec, NetworkSpec,
    NetworkTable, Price, ProviderKind, Retry, SecretRef, SimSpec, Strategy, SupervisionSpec, Timeouts, ToolCalls,
    ToolLabels, ToolSpec, is_name,
};
pub use template::{Template, TemplateError};
pub(crate) use template::{explain, strict};
pub use traffic::{Breaker, Fleet, MAX_WEIGHT, QueueSpec};
pub(crate) use visible::{visible, visible_json, visible_styled, visible_text};
pub(crate) use worst::usd;
pub use worst::{Bound, WorstCase};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use check::Front;
use findings::{Findings, Place, Said};
use node::Node;

/// How large a network file, or a schema file that it names, may be: a thousand agents with long prompts fit, and a
/// file given by mistake is not read into memory whole.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What the simulated model is called in a network that has no models.
pub(crate) const STAND_IN: &str = "sim";

/// A network that has been checked: every name in it leads somewhere, every bound is there, every template parses.
/// It holds all that a run needs (schema files are read in), so that a resumed run needs no file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    spec: NetworkSpec,
    /// The contents of the agents' `output_schema` files, by agent.
    output_schemas: IndexMap<String, Arc<Value>>,
    /// The policies, as their file was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<Arc<PolicyFile>>,
}

/// A network from a file, and what is doubtful about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The network.
    pub network: Network,
    /// Warnings; there are no errors among them.
    pub warnings: Report,
}

/// A network is not valid, and this is why: all of it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub Report);

impl Invalid {
    /// Says of a file that one thing is wrong with it as a whole.
    pub(crate) fn of_file(name: &str, code: &'static str, message: String, help: String) -> Self {
        let (path, label) = (String::new(), String::new());
        let fault = Diagnostic { severity: Severity::Error, code, message, path, span: None, label, help };
        Self(Report::new(name.to_owned(), "".into(), Vec::new(), vec![fault]))
    }
}

impl Network {
    /// Reads and checks a network file, and the schema files that it names.
    ///
    /// # Errors
    /// Everything that is wrong with the file, each with its place and its remedy.
    pub fn load(path: &Path) -> Result<Loaded, Invalid> {
        Self::load_within(path, &[])
    }

    /// Reads and checks a network file that those in `files` have named, each the next.
    fn load_within(path: &Path, files: &[PathBuf]) -> Result<Loaded, Invalid> {
        let name = path.display().to_string();
        match source::read(path) {
            Ok(text) => {
                let mut files = files.to_vec();
                files.push(std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()));
                Self::parse_within(&name, &text, path.parent().unwrap_or(Path::new(".")), &files)
            }
            Err(source::Unreadable { fault, text }) => {
                let hidden = secrets::in_text(&text);
                Err(Invalid(Report::new(name, text.into(), hidden, vec![*fault])))
            }
        }
    }

    /// Checks the text of a network file. `name` is what diagnostics call it, and the files that it names are
    /// resolved against `base`.
    ///
    /// # Errors
    /// Everything that is wrong with the text.
    pub fn parse(name: &str, text: &str, base: &Path) -> Result<Loaded, Invalid> {
        Self::parse_within(name, text, base, &[])
    }

    fn parse_within(name: &str, text: &str, base: &Path, files: &[PathBuf]) -> Result<Loaded, Invalid> {
        let parsed = source::parse(text);
        let mut hidden = secrets::in_text(text);
        hidden.extend(secrets::in_tree(&parsed.tree));
        let is_empty = matches!(&parsed.tree.value, node::Value::Table(entries) if entries.is_empty());
        let mut found = Findings::in_file(parsed.tree.clone(), text, parsed.torn);
        let result = if is_empty && parsed.diagnostics.is_empty() {
            let said = Said {
                code: "file_empty",
                message: "the network file is empty".to_owned(),
                label: String::new(),
                help: "`provost new NAME` writes a network to begin with".to_owned(),
            };
            found.error::<&str>(&[], Place::Bytes(0..0), said);
            None
        } else {
            let mut network = Self::check(parsed.tree, &mut found, Front::File { base, text });
            if let Some(network) = network.as_mut().filter(|_| !found.has_errors()) {
                nested::take_in(network, base, files, &mut found);
            }
            network
        };
        let mut diagnostics = parsed.diagnostics;
        diagnostics.append(&mut found.diagnostics);
        Self::judge(result, Report::new(name.to_owned(), text.into(), hidden, diagnostics))
    }

    /// Checks a network that was built in Rust. The same checks hold as for a file, but for two: a tool may be without
    /// `builtin`, and a model may be served by [`ProviderKind::Host`]. Schemas of answers are given with
    /// [`with_output_schema`](Self::with_output_schema).
    ///
    /// # Errors
    /// Everything that is wrong with the network.
    pub fn new(spec: NetworkSpec) -> Result<Self, Invalid> {
        let name = spec.network.name.clone();
        let report = |diagnostics| Report::new(name.clone(), "".into(), Vec::new(), diagnostics);
        let tree = match toml::Value::try_from(&spec) {
            Ok(tree) => Node::from(tree),
            Err(error) => {
                let fault = Diagnostic {
                    severity: Severity::Error,
                    code: "out_of_range",
                    message: format!("the network can't be written as TOML: {error}"),
                    path: String::new(),
                    span: None,
                    label: String::new(),
                    help: "numbers in it may be as large as 2^63 - 1".to_owned(),
                };
                return Err(Invalid(report(vec![fault])));
            }
        };
        let mut found = Findings::built(tree.clone());
        let result = Self::check(tree, &mut found, Front::Program);
        Self::judge(result, report(found.diagnostics)).map(|loaded| loaded.network)
    }

    fn check(mut tree: Node, found: &mut Findings, front: Front<'_>) -> Option<Self> {
        let hosts = matches!(front, Front::Program).then(|| shape::take_hosts(&mut tree));
        shape::fit(&mut tree, found);
        let mut spec = match toml::Value::from(tree).try_into::<NetworkSpec>() {
            Ok(spec) => spec,
            Err(error) => {
                // The schema is made of the types, so that this says that the two differ.
                let said = Said {
                    code: "malformed",
                    message: format!("this is no network: {}", error.message()),
                    label: String::new(),
                    help: String::new(),
                };
                found.error::<&str>(&[], Place::Key, said);
                return None;
            }
        };
        for model in hosts.into_iter().flatten() {
            if let Some(model) = spec.models.get_mut(&model) {
                model.provider = Some(ProviderKind::Host);
            }
        }
        let (output_schemas, policy) = check::meaning(&spec, found, front);
        Some(Self { spec, output_schemas, policy: policy.map(Arc::new) })
    }

    fn judge(network: Option<Self>, report: Report) -> Result<Loaded, Invalid> {
        let wrong = report.diagnostics().iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        match network {
            Some(network) if !wrong => Ok(Loaded { network, warnings: report }),
            _ => Err(Invalid(report)),
        }
    }

    /// Sets the JSON Schema that an agent's final answer must satisfy.
    ///
    /// # Errors
    /// The network has no such agent, or the schema is none.
    pub fn with_output_schema(mut self, agent: &str, schema: Value) -> Result<Self, Invalid> {
        let wrong = if !self.spec.agents.contains_key(agent) {
            Some(("unknown_agent", format!("there is no agent `{agent}`")))
        } else {
            check::wrong_schema(&schema).map(|wrong| ("bad_schema", format!("this is no JSON Schema: {wrong}")))
        };
        if let Some((code, message)) = wrong {
            let fault = Diagnostic {
                severity: Severity::Error,
                code,
                message,
                path: format!("agents.{agent}.output_schema"),
                span: None,
                label: String::new(),
                help: String::new(),
            };
            let name = self.spec.network.name.clone();
            return Err(Invalid(Report::new(name, "".into(), Vec::new(), vec![fault])));
        }
        self.output_schemas.insert(agent.to_owned(), Arc::new(schema));
        Ok(self)
    }

    /// Makes an agent's final answer a value of type `T`.
    ///
    /// # Errors
    /// The network has no such agent.
    pub fn with_output<T: JsonSchema>(self, agent: &str) -> Result<Self, Invalid> {
        self.with_output_schema(agent, schemars::schema_for!(T).to_value())
    }

    /// Gives the network policies, in Cedar's language; `name` is what diagnostics call them. They are checked where the
    /// network's tools are known: when its runtime starts.
    #[must_use]
    pub fn with_policy(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.policy = Some(Arc::new(PolicyFile::of_text(name.into(), String::new(), text.into())));
        self
    }

    /// Gives the network the policies of a file that has been read, or takes them.
    #[must_use]
    pub(crate) fn with_policy_file(mut self, file: Arc<PolicyFile>) -> Self {
        self.policy = Some(file);
        self
    }

    /// Returns the policies, as they were read; none where the network has no file of them.
    pub fn policy(&self) -> Option<&Arc<PolicyFile>> {
        self.policy.as_ref()
    }

    /// Changes the models of a network (another server, the simulated model) and checks it again.
    ///
    /// # Errors
    /// Everything that is wrong with the network then, such as a model without a price under a cost limit.
    pub fn with_models(self, change: impl FnOnce(&mut IndexMap<String, ModelSpec>)) -> Result<Self, Invalid> {
        let mut spec = self.spec;
        change(&mut spec.models);
        // The schemas have been read and checked; what they were read from need not be there any more.
        let files: Vec<Option<String>> = spec.agents.values_mut().map(|agent| agent.output_schema.take()).collect();
        let policies = spec.policy.file.take();
        let mut network = Self::new(spec)?;
        (network.spec.policy.file, network.policy) = (policies, self.policy);
        for (agent, file) in network.spec.agents.values_mut().zip(files) {
            agent.output_schema = file;
        }
        network.output_schemas = self.output_schemas;
        Ok(network)
    }

    /// Returns the network as text from which [`Network::from_text`] makes the very same network; nobody else reads it.
    /// Secrets are handles in it.
    pub fn to_text(&self) -> String {
        // Maps with text keys, numbers and texts: JSON has all of them.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Makes a network of what [`Network::to_text`] returned, which is not checked again.
    ///
    /// # Errors
    /// The text is none, or is of a version with other tables.
    pub fn from_text(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Returns the tables that the network was made of.
    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }

    /// Returns the JSON Schema that an agent's final answer must satisfy; none for plain text.
    pub fn output_schema(&self, agent: &str) -> Option<&Arc<Value>> {
        self.output_schemas.get(agent)
    }

    /// Returns the model that an agent uses, with its name; none where the network has no models, and the simulated
    /// model stands in.
    pub fn model_of(&self, agent: &str) -> Option<(&str, &ModelSpec)> {
        self.spec.model_of(self.spec.agents.get(agent)?)
    }
}

impl NetworkSpec {
    /// Returns the model that an agent uses: the one that it prefers, or else the only one.
    pub fn model_of(&self, agent: &AgentSpec) -> Option<(&str, &ModelSpec)> {
        let entry = match &agent.model {
            Some(choice) => self.models.get_key_value(&choice.prefer),
            None if self.models.len() == 1 => self.models.first(),
            None => None,
        };
        entry.map(|(name, model)| (name.as_str(), model))
    }

    /// Returns the models that an agent makes use of: its own, those to which it may go, and the one that summarises for it. One
    /// may come more than once.
    pub fn models_of<'a>(&'a self, agent: &'a AgentSpec) -> impl Iterator<Item = (&'a str, &'a ModelSpec)> {
        let named = agent.compaction.as_ref().and_then(|rules| rules.model.as_ref());
        let others = agent.model.iter().flat_map(ModelChoice::names).chain(named);
        let others = others.filter_map(|name| self.models.get_key_value(name));
        self.model_of(agent).into_iter().chain(others.map(|(name, model)| (name.as_str(), model)))
    }
}
