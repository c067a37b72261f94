//! The Mermaid flowchart.

use std::fmt::Write;

use super::{Graph, Kind, Way};
use crate::spec::visible;

pub(super) fn draw(graph: &Graph) -> String {
    let mut out = format!("---\ntitle: {}\n---\nflowchart TD\n", title(&graph.title));
    for (index, node) in graph.nodes.iter().enumerate() {
        let label = format!("{}<br/><small>{}</small>", escape(&node.name), escape(&node.note));
        let _ = match node.kind {
            Kind::Entry => writeln!(out, "    n{index}([\"{label}\"])"),
            Kind::Agent => writeln!(out, "    n{index}[\"{label}\"]"),
            Kind::Topic => writeln!(out, "    n{index}{{{{\"{label}\"}}}}"),
            Kind::Tool => writeln!(out, "    n{index}[/\"{label}\"/]"),
        };
    }
    for edge in &graph.edges {
        let arrow = match edge.kind {
            Way::Asks => "-->",
            Way::HandsOver | Way::Routes => "==>",
            Way::OnError | Way::Uses | Way::Holds => "-.->",
        };
        let label = Some(edge.label()).filter(|label| !label.is_empty());
        let arrow = label.map_or_else(|| arrow.to_owned(), |label| format!("{arrow}|{}|", escape_on_way(label)));
        let _ = writeln!(out, "    n{} {arrow} n{}", edge.from, edge.to);
    }
    out
}

/// Writes a title as a YAML string in double quotes; JSON is YAML.
fn title(text: &str) -> String {
    serde_json::Value::from(visible(text)).to_string()
}

/// What stands on a way is not in quotes, and brackets of any kind would end it.
fn escape_on_way(text: &str) -> String {
    escape(text).replace('(', "#40;").replace(')', "#41;")
}

/// Mermaid takes numeric character references in labels, with `#` in place of `&#`.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for character in visible(text).chars() {
        match character {
            '"' | '#' | '<' | '>' | '&' | '`' | '\\' | '[' | ']' | '{' | '}' | '|' => {
                let _ = write!(out, "#{};", u32::from(character));
            }
            _ => out.push(character),
        }
    }
    out
}
