//! A network drawn: as a tree of text, as Mermaid, as Graphviz' dot, or as SVG. Prompts are never part of it.

mod dot;
mod mermaid;
mod svg;
mod text;

use super::{Builtin, ModelSpec, Network, ProviderKind, ToolSpec};

/// How a network is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A tree, for a terminal.
    #[default]
    Text,
    /// A Mermaid flowchart, for Markdown.
    Mermaid,
    /// A digraph for Graphviz.
    Dot,
    /// A picture that stands by itself.
    Svg,
}

/// Draws a network.
pub fn draw(network: &Network, format: Format) -> String {
    match format {
        Format::Text => text::draw(network),
        Format::Mermaid => mermaid::draw(&Graph::of(network)),
        Format::Dot => dot::draw(&Graph::of(network)),
        Format::Svg => svg::draw(&Graph::of(network)),
    }
}

/// What there is to draw: agents first, in the network's order, and then the tools that they use.
struct Graph {
    title: String,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

struct Node {
    kind: Kind,
    name: String,
    /// A second line: an agent's model, or what a tool is.
    note: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Entry,
    Agent,
    Tool,
}

struct Edge {
    from: usize,
    to: usize,
    kind: Way,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Asks,
    HandsOver,
    /// It hands over where it can't go on.
    OnError,
    Uses,
}

impl Graph {
    fn of(network: &Network) -> Self {
        let spec = network.spec();
        let mut nodes: Vec<Node> = spec
            .agents
            .keys()
            .map(|name| Node {
                kind: if *name == spec.network.entry { Kind::Entry } else { Kind::Agent },
                name: name.clone(),
                note: model_note(network, name),
            })
            .collect();
        let mut edges = Vec::new();
        let first_tool = nodes.len();
        let used: Vec<(&String, &ToolSpec)> = spec
            .tools
            .iter()
            .filter(|(name, _)| spec.agents.values().any(|agent| agent.tools.contains(name)))
            .collect();
        nodes.extend(used.iter().map(|(name, tool)| Node {
            kind: Kind::Tool,
            name: (*name).clone(),
            note: tool_note(tool),
        }));
        for (from, agent) in spec.agents.values().enumerate() {
            let agents = |names: &[String], kind: Way| -> Vec<Edge> {
                let found = names.iter().filter_map(|to| spec.agents.get_index_of(to));
                found.map(|to| Edge { from, to, kind }).collect()
            };
            edges.extend(agents(&agent.delegates_to, Way::Asks));
            edges.extend(agents(&agent.hands_off_to, Way::HandsOver));
            let route = agent.on_error.route().and_then(|to| spec.agents.get_index_of(to));
            edges.extend(route.map(|to| Edge { from, to, kind: Way::OnError }));
            let tools = agent.tools.iter().filter_map(|tool| used.iter().position(|(name, _)| *name == tool));
            edges.extend(tools.map(|tool| Edge { from, to: first_tool + tool, kind: Way::Uses }));
        }
        Self { title: spec.network.name.clone(), nodes, edges }
    }
}

fn model_note(network: &Network, agent: &str) -> String {
    match network.model_of(agent) {
        Some((name, model)) => format!("{name} ({})", provider_note(model)),
        None => "simulated model".to_owned(),
    }
}

fn provider_note(model: &ModelSpec) -> String {
    let called = model.model.as_deref().unwrap_or_default();
    match model.provider {
        None | Some(ProviderKind::Sim) => "simulated".to_owned(),
        Some(ProviderKind::Openai) => called.to_owned(),
        Some(ProviderKind::Host) => "from the program".to_owned(),
    }
}

fn tool_note(tool: &ToolSpec) -> String {
    let name = match tool.builtin {
        Some(Builtin::FsList) => "fs.list",
        Some(Builtin::FsRead) => "fs.read",
        Some(Builtin::FsSearch) => "fs.search",
        Some(Builtin::FsWrite) => "fs.write",
        Some(Builtin::ProcessRun) => "process.run",
        Some(Builtin::ClockNow) => "clock.now",
        Some(Builtin::ClockSleep) => "clock.sleep",
        Some(Builtin::MemoryPut) => "memory.put",
        Some(Builtin::MemorySearch) => "memory.search",
        Some(Builtin::MemoryForget) => "memory.forget",
        Some(Builtin::KnowledgeSearch) => "knowledge.search",
        None => "from the program",
    };
    name.to_owned()
}
