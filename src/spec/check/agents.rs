//! Agents: their names, the ways of work between them, and the form of their answers.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value;

use super::{Check, Front};
use crate::route::Topology;
use crate::spec::MAX_FILE_BYTES;
use crate::spec::findings::{Place, Said, listed};
use crate::spec::shape::short;

impl Check<'_> {
    /// Checks the names that agents use and the ways between them. Returns which agents work can reach.
    pub(super) fn ways(&mut self) -> Vec<bool> {
        let spec = self.spec;
        if spec.agents.is_empty() && !self.found.is_torn() && !self.found.is_broken(&["agents"]) {
            self.error(
                &["agents"],
                Place::Bytes(0..0),
                "no_agents",
                "the network has no agents",
                "add a table [agents.NAME] with a `prompt`",
            );
            self.found.mark(&["agents"]);
        }
        let entry = self.find(&["network", "entry"], "agents", &spec.network.entry);
        let mut meant: IndexMap<&str, Option<String>> = IndexMap::new();
        for (name, agent) in &spec.agents {
            for (key, table, names) in [
                ("tools", "tools", &agent.tools),
                ("delegates_to", "agents", &agent.delegates_to),
                ("hands_off_to", "agents", &agent.hands_off_to),
            ] {
                for (index, to) in names.iter().enumerate() {
                    let found = self.find(&["agents", name, key, &index.to_string()], table, to);
                    if table == "agents" {
                        meant.entry(to).or_insert(found);
                    }
                    if key == "hands_off_to" && to == name {
                        self.error(
                            &["agents", name, key, &index.to_string()],
                            Place::Value,
                            "handoff_to_itself",
                            format!("the agent `{name}` hands over to itself"),
                            "take it out; an agent goes on by itself until its answer",
                        );
                    }
                }
            }
            if let Some(to) = agent.on_error.route() {
                let found = self.find(&["agents", name, "on_error"], "agents", to);
                meant.entry(to).or_insert(found);
            }
            if agent.prompt.is_empty() && !agent.is_flow() {
                self.no_prompt(name);
            }
            self.clashes(name);
        }
        // A slip in a name makes no agent unreachable; but no circle is made of what was perhaps meant.
        let probable = Topology::resolve(spec, |to| {
            spec.agents.get_index_of(to).or_else(|| spec.agents.get_index_of(meant.get(to)?.as_deref()?))
        });
        let Some(entry) = entry.and_then(|entry| spec.agents.get_index_of(&entry)) else {
            return vec![true; spec.agents.len()];
        };
        let reached = probable.reachable(entry);
        self.unreachable(&reached);
        let topology = Topology::of(spec);
        self.circles(&topology);
        self.depth(&topology, entry);
        reached
    }

    fn no_prompt(&mut self, name: &str) {
        let (agent, prompt) = (["agents", name], ["agents", name, "prompt"]);
        if self.found.is_broken(&prompt) || self.found.is_torn_at(&agent) {
            return;
        }
        let said = Said {
            code: "missing_key",
            message: format!("[agents.{}] has no `prompt`", short(name)),
            label: "`prompt` is missing".to_owned(),
            help: "add `prompt = \"…\"`: the system message, a minijinja template over `input` and `vars`".to_owned(),
        };
        self.found.error(&prompt, Place::Key, said);
    }

    fn unreachable(&mut self, reached: &[bool]) {
        // A list of agents that could not be read might lead anywhere.
        let unsure = self.found.has_lost_tables()
            || self.spec.agents.keys().any(|name| {
                self.found.is_torn_at(&["agents", name])
                    || self.found.is_broken(&["agents", name])
                    || self.found.is_broken(&["agents", name, "delegates_to"])
                    || self.found.is_broken(&["agents", name, "hands_off_to"])
                    || self.found.is_broken(&["agents", name, "on_error"])
            });
        if unsure {
            return;
        }
        let entry = &self.spec.network.entry;
        for (name, _) in self.spec.agents.keys().zip(reached).filter(|(_, reached)| !**reached) {
            self.error(
                &["agents", name],
                Place::Key,
                "unreachable_agent",
                format!("no work can reach the agent `{name}` from the entry `{}`", short(entry)),
                format!("name it in another agent's `delegates_to` or `hands_off_to`, or take [agents.{name}] out"),
            );
        }
    }

    /// Refuses circles that have no end. Each is reported once, by the worst that it comes to.
    fn circles(&mut self, topology: &Topology<'_>) {
        let spec = self.spec;
        let is_bounded = |name: &str| spec.agents.get(name).is_some_and(|agent| agent.replicas().is_some());
        let waiting = topology.wait_cycles(is_bounded);
        for cycle in &waiting {
            let [first, second, ..] = cycle.as_slice() else { continue };
            let instances = match spec.agents[*first].replicas() {
                Some(1) | None => "of which there is one instance".to_owned(),
                Some(count) => format!("of which there are {count} instances"),
            };
            let message = format!("the agent `{first}`, {instances}, can wait for itself: {}", way(cycle));
            let help = "take one of these agents out of another's `delegates_to` or `on_error`, or take `replicas` and \
                        `scope` out: who asks waits for the answer, and nobody else comes free";
            self.error_at_way(first, second, "wait_cycle", message, help);
        }
        let is_reported = |name: &&str| waiting.iter().any(|cycle| cycle.contains(name));
        for cycle in topology.delegation_cycles().iter().filter(|cycle| !cycle.iter().any(is_reported)) {
            let [first, second, ..] = cycle.as_slice() else { continue };
            let message = if cycle.len() == 2 {
                format!("the agent `{first}` can ask itself, without end")
            } else {
                format!("delegation runs in a circle, without end: {}", way(cycle))
            };
            let help = "take one of these agents out of another's `delegates_to`; \
                        `hands_off_to` may run in a circle, and `steps` bounds it";
            self.error_at_way(first, second, "delegation_cycle", message, help);
        }
        for cycle in topology.error_cycles() {
            let [first, ..] = cycle.as_slice() else { continue };
            let message = match cycle.len() {
                2 => format!("the agent `{first}` hands over to itself where it can't go on"),
                _ => format!("errors run in a circle, without end: {}", way(&cycle)),
            };
            let help = "let the last one of them feed its errors back, or fail the run: `on_error = \"fail_run\"`";
            self.error(&["agents", first, "on_error"], Place::Value, "error_cycle", message, help);
        }
    }

    /// Reports a circle where its first agent asks the second one.
    fn error_at_way(&mut self, first: &str, second: &str, code: &'static str, message: String, help: &str) {
        let index = self.spec.agents[first].delegates_to.iter().position(|to| to == second).unwrap_or(0);
        let index = index.to_string();
        let path = ["agents", first, "delegates_to", index.as_str()];
        self.error(&path, Place::Value, code, message, help);
    }

    fn depth(&mut self, topology: &Topology<'_>, entry: usize) {
        let depth = self.spec.network.limits.depth as usize;
        let Some(chain) = topology.longest_delegation(entry) else { return };
        if chain.len() - 1 > depth {
            let broken = chain.get(depth).copied().unwrap_or_default();
            let next = chain.get(depth + 1).copied().unwrap_or_default();
            let agent = &self.spec.agents[broken];
            let path = agent.delegates_to.iter().position(|to| to == next).map(|index| index.to_string());
            let path: Vec<&str> = match &path {
                Some(index) => vec!["agents", broken, "delegates_to", index],
                None => vec!["agents", broken],
            };
            let message =
                format!("delegation can go {} deep, and `limits.depth` is {depth}: {}", chain.len() - 1, way(&chain));
            let help = format!("set `depth = {}` under [network.limits], or shorten the chain", chain.len() - 1);
            self.error(&path, Place::Value, "delegation_too_deep", message, help);
        }
    }

    /// Refuses a tool that has the name under which an agent is offered.
    fn clashes(&mut self, name: &str) {
        let agent = &self.spec.agents[name];
        for (index, tool) in agent.tools.iter().enumerate() {
            let asked = tool.strip_prefix("ask_").filter(|to| agent.delegates_to.iter().any(|known| known == to));
            let handed =
                tool.strip_prefix("transfer_to_").filter(|to| agent.hands_off_to.iter().any(|known| known == to));
            if let Some(to) = asked.or(handed) {
                self.error(
                    &["agents", name, "tools", &index.to_string()],
                    Place::Value,
                    "name_clash",
                    format!("the tool `{tool}` has the name under which the agent `{to}` is offered to `{name}`"),
                    "give the tool another name",
                );
            }
        }
    }

    /// Reads the schemas of the agents' answers.
    pub(super) fn output_schemas(&mut self) -> IndexMap<String, Arc<Value>> {
        let mut schemas = IndexMap::new();
        for (name, agent) in &self.spec.agents {
            let path = ["agents", name.as_str(), "output_schema"];
            let Some(file) = agent.output_schema.as_deref().filter(|_| !self.found.is_broken(&path)) else { continue };
            let base = match self.front {
                Front::File { base, .. } => base,
                Front::Program => {
                    self.error(
                        &path,
                        Place::Value,
                        "bad_schema",
                        "a network built in Rust takes schemas as values, not as files",
                        "leave `output_schema` out, and call `Network::with_output_schema`",
                    );
                    continue;
                }
            };
            match read_schema(&base.join(file)) {
                Ok(schema) => {
                    schemas.insert(name.clone(), Arc::new(schema));
                }
                Err((message, help)) => {
                    let message = format!("the schema `{}` {message}", short(file));
                    self.error(&path, Place::Value, "bad_schema", message, help);
                }
            }
        }
        schemas
    }
}

fn way(chain: &[&str]) -> String {
    /// How many agents of a chain are named.
    const MAX: usize = 12;
    let shown = chain.iter().take(MAX).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" → ");
    if chain.len() > MAX { format!("{shown} → …") } else { shown }
}

fn read_schema(path: &Path) -> Result<Value, (String, String)> {
    let beside = "the path is taken relative to the network file".to_owned();
    if path.is_dir() {
        return Err(("is a directory".to_owned(), "name a file with a JSON Schema".to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)).map_err(
        |error| match error.kind() {
            std::io::ErrorKind::NotFound => (format!("is not there (looked for {})", path.display()), beside),
            _ => (format!("can't be read: {error}"), beside),
        },
    )?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let help = "give a JSON Schema of that size at most".to_owned();
        return Err((format!("is larger than {} KiB", MAX_FILE_BYTES / 1024), help));
    }
    let schema: Value = serde_json::from_slice(&bytes)
        .map_err(|error| (format!("is no JSON: {error}"), "write a JSON Schema into it".to_owned()))?;
    match wrong_schema(&schema) {
        Some(wrong) => Err((format!("is no JSON Schema: {wrong}"), "write a JSON Schema into it".to_owned())),
        None => Ok(schema),
    }
}

/// Says why a value is no JSON Schema that answers can be checked against; none if it is one.
pub(in crate::spec) fn wrong_schema(schema: &Value) -> Option<String> {
    if !schema.is_object() {
        return Some(format!("it must be an object, such as {}", listed(["{\"type\": \"object\"}"])));
    }
    jsonschema::validator_for(schema).err().map(|error| {
        let at = error.instance_path().to_string();
        let error = short(&error.to_string());
        if at.is_empty() { error } else { format!("{error} at {at}") }
    })
}
