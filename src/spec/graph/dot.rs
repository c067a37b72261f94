//! The digraph for Graphviz.

use std::fmt::Write;

use super::{Graph, Kind, Way};
use crate::spec::visible;

pub(super) fn draw(graph: &Graph) -> String {
    let mut out = format!("digraph \"{}\" {{\n    rankdir = TB;\n", escape(&graph.title));
    out.push_str(
        "    node [fontname = \"sans-serif\", fontsize = 11];\n    edge [fontname = \"sans-serif\", fontsize = 9];\n",
    );
    for (index, node) in graph.nodes.iter().enumerate() {
        let shape = match node.kind {
            Kind::Entry => "shape = box, style = \"rounded,bold\"",
            Kind::Agent => "shape = box, style = rounded",
            Kind::Topic => "shape = hexagon",
            Kind::Tool => "shape = note",
        };
        let _ = writeln!(out, "    n{index} [label = \"{}\\n{}\", {shape}];", escape(&node.name), escape(&node.note));
    }
    for edge in &graph.edges {
        let style = match edge.kind {
            Way::Asks => None,
            Way::HandsOver | Way::Routes => Some("style = bold"),
            Way::OnError => Some("style = dashed"),
            Way::Uses | Way::Holds => Some("style = dotted"),
        };
        let label = Some(edge.label()).filter(|label| !label.is_empty());
        let label = label.map(|label| format!("label = \"{}\"", escape(label)));
        let look: Vec<&str> = label.as_deref().into_iter().chain(style).collect();
        let _ = writeln!(out, "    n{} -> n{} [{}];", edge.from, edge.to, look.join(", "));
    }
    out.push_str("}\n");
    out
}

fn escape(text: &str) -> String {
    visible(text).replace('\\', "\\\\").replace('"', "\\\"")
}
