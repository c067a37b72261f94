//! Networks in networks: an agent that stands for another network file gets that network's agents, models and tools, each
//! under a name of its own.

use std::path::{Path, PathBuf};

use super::findings::{Findings, Place, Said};
use super::shape::short;
use super::{AgentSpec, Invalid, Limits, MAX_AGENT_NAME, ModelChoice, Network, NetworkSpec, OnError, Severity, TOPIC};

/// Stands between the name of the agent that is a network and the names in that network.
pub(crate) const WITHIN: &str = "--";

/// How deep networks may lie in one another: deeper than anybody draws, and a file that names itself is found at once.
const MAX_DEPTH: usize = 8;

/// Returns a name as those know it who are in the same network as `beside`.
pub(crate) fn local<'n>(name: &'n str, beside: &str) -> &'n str {
    let network = beside.rfind(WITHIN).map_or("", |at| &beside[..at + WITHIN.len()]);
    name.strip_prefix(network).unwrap_or(name)
}

/// Takes the networks in that agents of `network` stand for. `files` are those that are being read, this one last.
pub(super) fn take_in(network: &mut Network, base: &Path, files: &[PathBuf], found: &mut Findings) {
    let named = |(name, agent): (&String, &AgentSpec)| Some((name.clone(), agent.network.clone()?));
    let nested: Vec<(String, String)> = network.spec.agents.iter().filter_map(named).collect();
    for (name, file) in nested {
        if let Err((message, help)) = take_in_one(network, &name, &file, base, files, found) {
            error(found, &name, message, help);
        }
    }
}

fn error(found: &mut Findings, name: &str, message: String, help: String) {
    let said = Said { code: "bad_nested_network", message, label: String::new(), help };
    found.error(&["agents", name, "network"], Place::Value, said);
}

fn take_in_one(
    network: &mut Network,
    name: &str,
    file: &str,
    base: &Path,
    files: &[PathBuf],
    found: &mut Findings,
) -> Result<(), (String, String)> {
    let path = base.join(file);
    let known = std::fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
    if files.contains(&known) {
        let help = "a network can't hold itself; name another file".to_owned();
        return Err((format!("the network `{}` is this one, or holds it", short(file)), help));
    }
    if files.len() >= MAX_DEPTH {
        return Err((format!("networks lie more than {MAX_DEPTH} deep in one another"), "take some out".to_owned()));
    }
    let inner = Network::load_within(&path, files).map_err(|invalid| wrong(file, &invalid))?.network;
    if inner.policy.is_some() {
        let help =
            "take `file` out there, and write its policies into this network's: names have the inner network's name \
                    before them"
                .to_owned();
        return Err((format!("the policy file of `{}` would not hold here", short(file)), help));
    }
    if !inner.spec.tools.is_empty() && inner.spec.policy.default > network.spec.policy.default {
        let help = "give this network a `[policy] default` that is as strict: it holds for all of it".to_owned();
        return Err((
            format!("the policy of `{}` is stricter than this network's, and would not hold", short(file)),
            help,
        ));
    }
    if inner.spec.network.limits != Limits::default() || !inner.spec.budgets.is_empty() {
        let said = Said {
            code: "nested_limits",
            message: format!("the limits and budgets of `{}` do not hold here: those of this network do", short(file)),
            label: String::new(),
            help: "set what it may use under [network.limits] of this file".to_owned(),
        };
        found.warning(&["agents", name, "network"], Place::Value, said);
    }
    merge(network, name, inner)
}

fn wrong(file: &str, invalid: &Invalid) -> (String, String) {
    let mut errors = invalid.0.diagnostics().iter().filter(|known| known.severity == Severity::Error);
    let first = errors.next().map(|error| error.message.clone()).unwrap_or_default();
    let more = errors.count();
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    let help = format!("`provost check {}` says all of it; the path is taken relative to this file", short(file));
    (format!("the network `{}` can't be used: {first}{more}", short(file)), help)
}

fn merge(network: &mut Network, name: &str, inner: Network) -> Result<(), (String, String)> {
    let Network { spec: mut inner, output_schemas, .. } = inner;
    let names = inner.agents.keys().chain(inner.models.keys()).chain(inner.tools.keys());
    if let Some(long) = names.map(|inner| within(name, inner)).find(|inner| inner.len() > MAX_AGENT_NAME) {
        let help = format!("names in it are known here as `{long}`: shorten one of the two");
        return Err((format!("the name `{long}` is longer than {MAX_AGENT_NAME} characters"), help));
    }
    let spec = &mut network.spec;
    let is_taken = |inner: &&String| {
        let known = within(name, inner);
        spec.agents.contains_key(&known) || spec.models.contains_key(&known) || spec.tools.contains_key(&known)
    };
    if let Some(taken) = inner.agents.keys().chain(inner.models.keys()).chain(inner.tools.keys()).find(is_taken) {
        let help =
            format!("its `{taken}` is known here as `{}`: give what has that name another one", within(name, taken));
        return Err((format!("this network has a `{}` already", within(name, taken)), help));
    }
    match (inner.models.len(), spec.models.len()) {
        // Its agents take the only model there is, as those of this network do.
        (0, 0 | 1) => {}
        (0, _) => {
            let help = "add a table [models.NAME] to it: this network has several".to_owned();
            return Err(("the network says of no agent which model it uses".to_owned(), help));
        }
        (_, 0) => {
            let help = "add a table [models.NAME] to this network, or take those of the other out".to_owned();
            return Err(("the network brings models, and this one has none".to_owned(), help));
        }
        _ => name_models(&mut inner),
    }
    rename(&mut inner, name);
    let entry = inner.network.entry.clone();
    if let Some(agent) = spec.agents.get_mut(name) {
        agent.flow = Some(entry);
    }
    name_models(spec);
    spec.agents.extend(inner.agents);
    spec.models.extend(inner.models);
    spec.tools.extend(inner.tools);
    spec.routes.extend(inner.routes);
    spec.sim.script.extend(inner.sim.script);
    let schemas = output_schemas.into_iter().map(|(agent, schema)| (within(name, &agent), schema));
    network.output_schemas.extend(schemas);
    Ok(())
}

/// Says of each agent by name which model it uses: there will be more models beside the only one.
fn name_models(spec: &mut NetworkSpec) {
    let Some(only) = spec.models.keys().next().filter(|_| spec.models.len() == 1).cloned() else { return };
    for agent in spec.agents.values_mut().filter(|agent| agent.model.is_none() && !agent.is_flow()) {
        agent.model = Some(ModelChoice::new(only.clone()));
    }
}

fn within(network: &str, name: &str) -> String {
    match name.strip_prefix(TOPIC) {
        Some(topic) => format!("{TOPIC}{network}{WITHIN}{topic}"),
        None => format!("{network}{WITHIN}{name}"),
    }
}

/// Gives everything in a network the name under which another one knows it.
fn rename(spec: &mut NetworkSpec, network: &str) {
    let rename = |name: &mut String| *name = within(network, name);
    rename(&mut spec.network.entry);
    for agent in spec.agents.values_mut() {
        agent.model.iter_mut().flat_map(ModelChoice::names_mut).for_each(rename);
        agent.compaction.iter_mut().filter_map(|rules| rules.model.as_mut()).for_each(rename);
        agent.tools.iter_mut().for_each(rename);
        agent.delegates_to.iter_mut().for_each(rename);
        agent.hands_off_to.iter_mut().for_each(rename);
        agent.publishes.iter_mut().for_each(rename);
        agent.flow.iter_mut().for_each(rename);
        if let OnError::Route(to) = &mut agent.on_error {
            rename(to);
        }
        if let Some(room) = &mut agent.room {
            room.members.iter_mut().chain(&mut room.selector).for_each(rename);
        }
    }
    for route in &mut spec.routes {
        route.from.iter_mut().chain(&mut route.to).for_each(rename);
    }
    for tool in spec.tools.values_mut() {
        tool.reconcile.iter_mut().for_each(rename);
    }
    spec.agents = std::mem::take(&mut spec.agents).into_iter().map(|(name, it)| (within(network, &name), it)).collect();
    spec.models = std::mem::take(&mut spec.models).into_iter().map(|(name, it)| (within(network, &name), it)).collect();
    spec.tools = std::mem::take(&mut spec.tools).into_iter().map(|(name, it)| (within(network, &name), it)).collect();
    let script = std::mem::take(&mut spec.sim.script);
    spec.sim.script = script.into_iter().map(|(name, it)| (within(network, &name), it)).collect();
}
