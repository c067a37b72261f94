//! The tree of text.

use std::collections::HashSet;
use std::fmt::Write;

use super::{model_note, tool_note};
use crate::spec::Network;
use crate::spec::visible;

pub(super) fn draw(network: &Network) -> String {
    let spec = network.spec();
    let mut out = format!("{}\n", visible(&spec.network.name));
    let mut seen = HashSet::new();
    // Not a recursion: a chain of handoffs may be as long as the file. Each entry is an agent still to be written,
    // with the line before it and the indent of the lines beneath it.
    let entry = spec.network.entry.as_str();
    let mut open = vec![(entry, String::new(), String::new(), "entry")];
    while let Some((name, lead, indent, role)) = open.pop() {
        let Some((name, agent)) = spec.agents.get_key_value(name) else { continue };
        if !seen.insert(name) {
            let _ = writeln!(out, "{lead}{role} {name} (see above)");
            continue;
        }
        let _ = writeln!(out, "{lead}{role} {name} · {}", visible(&model_note(network, name)));
        let ways: Vec<(&str, &str)> = agent
            .delegates_to
            .iter()
            .map(|to| (to.as_str(), "asks"))
            .chain(agent.hands_off_to.iter().map(|to| (to.as_str(), "hands over to")))
            .chain(agent.on_error.route().map(|to| (to, "on error, hands over to")))
            .collect();
        for (index, tool) in agent.tools.iter().enumerate() {
            let last = ways.is_empty() && index + 1 == agent.tools.len();
            let note = spec.tools.get(tool).map(tool_note).unwrap_or_default();
            let _ = writeln!(out, "{indent}{} uses {tool} · {note}", if last { "└─" } else { "├─" });
        }
        for (index, (to, role)) in ways.iter().enumerate().rev() {
            let last = index + 1 == ways.len();
            let (branch, beneath) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            open.push((to, format!("{indent}{branch}"), format!("{indent}{beneath}"), role));
        }
    }
    out
}
