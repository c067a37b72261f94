//! A network drawn: as a tree of text, as Mermaid, as Graphviz' dot, or as SVG. Prompts are never part of it.

mod dot;
mod mermaid;
mod svg;
mod text;

use super::{
    AgentSpec, Builtin, ModelSpec, Network, NetworkSpec, ProviderKind, READ_AGAIN, RoomSpec, RouteSpec, TOPIC, ToolSpec,
};

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
    Topic,
    Tool,
}

struct Edge {
    from: usize,
    to: usize,
    kind: Way,
    /// When a route is taken.
    note: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Asks,
    HandsOver,
    /// It hands over where it can't go on.
    OnError,
    /// A route takes its answer there.
    Routes,
    /// Others work for it.
    Holds,
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
        for topic in topics(spec) {
            nodes.push(Node { kind: Kind::Topic, name: topic.to_owned(), note: "topic".to_owned() });
        }
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
                found.map(|to| Edge::new(from, to, kind)).collect()
            };
            edges.extend(agents(&agent.delegates_to, Way::Asks));
            edges.extend(agents(&agent.hands_off_to, Way::HandsOver));
            let route = agent.on_error.route().and_then(|to| spec.agents.get_index_of(to));
            edges.extend(route.map(|to| Edge::new(from, to, Way::OnError)));
            let inner: Vec<String> = inner(agent).map(str::to_owned).collect();
            edges.extend(agents(&inner, Way::Holds));
            let tools = agent.tools.iter().filter_map(|tool| used.iter().position(|(name, _)| *name == tool));
            edges.extend(tools.map(|tool| Edge::new(from, first_tool + tool, Way::Uses)));
            for topic in agent.publishes.iter().map(|topic| format!("{TOPIC}{topic}")) {
                let to = nodes.iter().position(|node| node.name == topic);
                let note = "publishes".to_owned();
                edges.extend(to.map(|to| Edge { note, ..Edge::new(from, to, Way::Routes) }));
            }
        }
        let at = |name: &String| nodes[..first_tool].iter().position(|node| node.name == *name);
        for route in &spec.routes {
            for (from, to) in route.from.iter().flat_map(|from| route.to.iter().map(move |to| (from, to))) {
                let Some((from, to)) = at(from).zip(at(to)) else { continue };
                edges.push(Edge { note: condition(route), ..Edge::new(from, to, Way::Routes) });
            }
        }
        Self { title: spec.network.name.clone(), nodes, edges }
    }
}

impl Edge {
    fn new(from: usize, to: usize, kind: Way) -> Self {
        Self { from, to, kind, note: String::new() }
    }

    /// Says how work goes this way; nothing for a tool that is used.
    fn label(&self) -> &str {
        match self.kind {
            Way::Asks => "asks",
            Way::HandsOver => "hands over",
            Way::OnError => "on error",
            Way::Routes => &self.note,
            Way::Holds => "holds",
            Way::Uses => "",
        }
    }
}

/// Returns the topics of a network, in the order in which they are named.
fn topics(spec: &NetworkSpec) -> Vec<&str> {
    let mut topics: Vec<&str> = Vec::new();
    for name in spec.routes.iter().flat_map(|route| route.from.iter().chain(&route.to)) {
        if name.starts_with(TOPIC) && !topics.contains(&name.as_str()) {
            topics.push(name);
        }
    }
    topics
}

/// Returns the agents that work for one: in its room, or those with which its inner flow begins.
fn inner(agent: &AgentSpec) -> impl Iterator<Item = &str> {
    agent.flow.as_deref().into_iter().chain(agent.room.iter().flat_map(RoomSpec::agents))
}

/// Says when a route is taken.
fn condition(route: &RouteSpec) -> String {
    let mut parts = Vec::new();
    parts.extend(route.join.map(|join| format!("join {join}")));
    parts.extend(route.for_each.as_ref().map(|list| format!("each of {list}")));
    parts.extend(route.when.as_ref().map(|when| format!("if {when}")));
    parts.extend(route.otherwise.then(|| "otherwise".to_owned()));
    parts.extend(route.max_visits.map(|max| format!("at most {max} times")));
    if parts.is_empty() { "then".to_owned() } else { parts.join(", ") }
}

fn model_note(network: &Network, agent: &str) -> String {
    if let Some(spec) = network.spec().agents.get(agent).filter(|agent| agent.is_flow()) {
        let words = match (&spec.room, &spec.network) {
            (Some(_), _) => "room".to_owned(),
            (None, Some(file)) => format!("network {file}"),
            (None, None) => "inner flow".to_owned(),
        };
        return words;
    }
    match network.model_of(agent) {
        Some((name, model)) => format!("{name} ({})", provider_note(model)),
        None => "simulated model".to_owned(),
    }
}

fn provider_note(model: &ModelSpec) -> String {
    let called = model.model.as_deref().unwrap_or_default();
    match model.provider {
        None | Some(ProviderKind::Sim) => "simulated".to_owned(),
        Some(ProviderKind::Host) => "from the program".to_owned(),
        Some(_) => called.to_owned(),
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
        Some(Builtin::PersonAsk) => "person.ask",
        Some(Builtin::MemoryPut) => "memory.put",
        Some(Builtin::MemorySearch) => "memory.search",
        Some(Builtin::MemoryForget) => "memory.forget",
        Some(Builtin::KnowledgeSearch) => "knowledge.search",
        Some(Builtin::ReadAgain) => READ_AGAIN,
        None => "from the program",
    };
    name.to_owned()
}
