//! What all runs of a network share: its models with their permits, its tools, the router, and the way to a person.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use serde_json::json;

use super::definitions::{Definitions, definitions};
use super::policies::InForce;
use super::router::Router;
use super::traffic::{Turnstile, Widths};
use super::{Approver, Error, Recorder};
use crate::budget::Rates;
use crate::model::Provider;
use crate::route::Flow;
use crate::run::{Agent, FlowRules};
use crate::spec::{AgentSpec, Builtin, Effect, ModelSpec, Network, Template, ToolSpec};
use crate::tool::{self, ErasedTool};

/// How many tokens a server is believed to have read or written beyond what was asked: more is no prompt of anybody's, and no
/// thinking, but a number that is wrong.
pub(super) const MOST_UNFORESEEN: u64 = 65_536;

/// What all runs of a network share.
pub(super) struct Fleet {
    pub(super) network: Arc<Network>,
    /// The network's routes.
    pub(super) flow: Flow,
    /// The network as it is kept with each run.
    pub(super) text: Arc<str>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) models: HashMap<Arc<str>, Arc<Model>>,
    pub(super) host_tools: HashMap<String, Arc<dyn ErasedTool>>,
    /// The agents that are written in Rust.
    pub(super) behaviours: HashMap<String, Arc<dyn Agent>>,
    /// What bounds the calls of all runs.
    pub(super) widths: Widths,
    pub(super) router: Router,
    pub(super) approver: Option<Arc<dyn Approver>>,
    /// The policies that hold now.
    pub(super) policies: InForce,
    /// Made by the first run.
    definitions: OnceLock<Definitions>,
    /// The prompts that are the same in all runs.
    plain_prompts: Prompts,
}

/// A model of the network, ready to be called.
pub(super) struct Model {
    pub(super) spec: ModelSpec,
    pub(super) provider: Arc<dyn Provider>,
    pub(super) rates: Rates,
    /// What all calls of its provider pass, of other networks too.
    pub(super) turnstile: Arc<Turnstile>,
    /// By how many tokens a call has read more than it was thought to at most.
    unforeseen: AtomicU64,
}

impl Model {
    pub(super) fn new(spec: ModelSpec, provider: Arc<dyn Provider>, rates: Rates, turnstile: Arc<Turnstile>) -> Self {
        Self { spec, provider, rates, turnstile, unforeseen: AtomicU64::new(0) }
    }

    /// Returns how many tokens a call reads at most, of which so many are foreseen.
    pub(super) fn reads_at_most(&self, foreseen: u64) -> u64 {
        foreseen.saturating_add(self.unforeseen.load(Ordering::Relaxed))
    }

    /// Learns how many tokens a call has read. What a server adds to requests on its own counts for all calls from then on.
    pub(super) fn learn(&self, foreseen: u64, read: u64) {
        let beyond = read.saturating_sub(foreseen);
        if (1..=MOST_UNFORESEEN).contains(&beyond) {
            self.unforeseen.fetch_max(beyond, Ordering::Relaxed);
        }
    }
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
/// What agents are told first, by their names.
pub(super) type Prompts = Arc<HashMap<Arc<str>, Arc<str>>>;

impl Fleet {
    pub(super) fn new(
        network: Arc<Network>,
        recorder: Arc<Recorder>,
        models: HashMap<Arc<str>, Arc<Model>>,
        host_tools: HashMap<String, Arc<dyn ErasedTool>>,
        behaviours: HashMap<String, Arc<dyn Agent>>,
        approver: Option<Arc<dyn Approver>>,
        policies: InForce,
    ) -> Self {
        let text = network.to_text().into();
        let widths = Widths::of(network.spec(), &recorder.traffic);
        let (definitions, router) = (OnceLock::new(), Router::default());
        let plain = |(name, agent): (&String, &AgentSpec)| Some((name.as_str().into(), plain_prompt(&agent.prompt)?));
        let plain_prompts = Arc::new(network.spec().agents.iter().filter_map(plain).collect());
        Self {
            flow: Flow::of(network.spec()),
            network,
            text,
            recorder,
            models,
            host_tools,
            behaviours,
            widths,
            router,
            approver,
            policies,
            definitions,
            plain_prompts,
        }
    }

    /// Returns by what the flows of runs go.
    pub(super) fn flow_rules(&self) -> FlowRules<'_> {
        FlowRules::of(&self.network, &self.flow)
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
        tool::builtin(spec, &root, self.recorder.shelf()).map_err(failed)
    }

    /// Renders the agents' prompts for one run.
    pub(super) fn render_prompts(&self, values: &Values<'_>) -> Result<Prompts, Error> {
        let agents = &self.network.spec().agents;
        if self.plain_prompts.len() == agents.len() {
            return Ok(self.plain_prompts.clone());
        }
        let mut prompts = HashMap::clone(&self.plain_prompts);
        for (name, agent) in agents {
            if !self.plain_prompts.contains_key(name.as_str()) {
                let prompt = values.render(&agent.prompt, || format!("agents.{name}.prompt"))?;
                prompts.insert(name.as_str().into(), prompt.into());
            }
        }
        Ok(Arc::new(prompts))
    }

    /// Returns the agents' definitions, which are made once: schemas take milliseconds to compile.
    pub(super) fn definitions(&self) -> Result<Definitions, Error> {
        if let Some(known) = self.definitions.get() {
            return Ok(known.clone());
        }
        let made = definitions(&self.network, &self.host_tools, &self.behaviours)?;
        Ok(self.definitions.get_or_init(|| made).clone())
    }
}

/// Renders a prompt that is the same in all runs: one without a brace has no variables. None of another.
fn plain_prompt(source: &str) -> Option<Arc<str>> {
    if source.contains('{') {
        return None;
    }
    Some(Template::parse(source).ok()?.render(()).ok()?.into())
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
