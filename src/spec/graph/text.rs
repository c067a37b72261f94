//! The tree of text.

use std::collections::HashSet;
use std::fmt::Write;

use super::{condition, inner, model_note, tool_note};
use crate::spec::{AgentSpec, Network, TOPIC, visible};

pub(super) fn draw(network: &Network) -> String {
    let spec = network.spec();
    let mut out = format!("{}\n", visible(&spec.network.name));
    let mut seen = HashSet::new();
    // Not a recursion: a chain of handoffs may be as long as the file. Each entry is an agent still to be written,
    // with the line before it and the indent of the lines beneath it.
    let entry = spec.network.entry.as_str();
    let mut open = vec![(entry, String::new(), String::new(), "entry".to_owned())];
    while let Some((name, lead, indent, role)) = open.pop() {
        let Some((name, agent)) = spec.agents.get_key_value(name) else { continue };
        if !seen.insert(name) {
            let _ = writeln!(out, "{lead}{role} {name} (see above)");
            continue;
        }
        let _ = writeln!(out, "{lead}{role} {name} · {}", visible(&model_note(network, name)));
        let ways = ways(network, name, agent);
        for (index, tool) in agent.tools.iter().enumerate() {
            let last = ways.is_empty() && index + 1 == agent.tools.len();
            let note = spec.tools.get(tool).map(tool_note).unwrap_or_default();
            let _ = writeln!(out, "{indent}{} uses {tool} · {note}", if last { "└─" } else { "├─" });
        }
        for (index, (to, role)) in ways.iter().enumerate().rev() {
            let last = index + 1 == ways.len();
            let (branch, beneath) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            open.push((*to, format!("{indent}{branch}"), format!("{indent}{beneath}"), role.clone()));
        }
    }
    out
}

/// Returns the ways that work takes from an agent, each with what it says of it.
fn ways<'a>(network: &'a Network, name: &str, agent: &'a AgentSpec) -> Vec<(&'a str, String)> {
    let way = |to: &'a String, says: &str| (to.as_str(), says.to_owned());
    let asked = agent.delegates_to.iter().map(|to| way(to, "asks"));
    let handed = agent.hands_off_to.iter().map(|to| way(to, "hands over to"));
    let failed = agent.on_error.route().map(|to| (to, "on error, hands over to".to_owned()));
    let mut ways: Vec<(&str, String)> = asked.chain(handed).chain(failed).collect();
    ways.extend(inner(agent).map(|to| (to, "holds".to_owned())));
    let published = agent.publishes.iter().map(|topic| format!("{TOPIC}{topic}"));
    for (from, says) in std::iter::once((name.to_owned(), String::new()))
        .chain(published.map(|topic| (topic.clone(), format!("by {topic}: "))))
    {
        along(network, &from, &says, &mut ways, &mut Vec::new());
    }
    ways
}

/// Adds the agents to which routes lead from an agent or a topic, by way of topics too.
fn along<'a>(network: &'a Network, from: &str, says: &str, ways: &mut Vec<(&'a str, String)>, seen: &mut Vec<&'a str>) {
    for route in network.spec().routes.iter().filter(|route| route.from.iter().any(|name| name == from)) {
        for to in &route.to {
            let says = format!("{says}{}", visible(&condition(route)));
            match to.starts_with(TOPIC) {
                false => ways.push((to, format!("{says} →"))),
                true if seen.contains(&to.as_str()) => {}
                true => {
                    seen.push(to);
                    along(network, to, &format!("{says}, by {to}: "), ways, seen);
                }
            }
        }
    }
}
