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
            Kind::Tool => "shape = note",
        };
        let _ = writeln!(out, "    n{index} [label = \"{}\\n{}\", {shape}];", escape(&node.name), escape(&node.note));
    }
    for edge in &graph.edges {
        let look = match edge.kind {
            Way::Asks => "label = \"asks\"",
            Way::HandsOver => "label = \"hands over\", style = bold",
            Way::OnError => "label = \"on error\", style = dashed",
            Way::Uses => "style = dotted",
        };
        let _ = writeln!(out, "    n{} -> n{} [{look}];", edge.from, edge.to);
    }
    out.push_str("}\n");
    out
}

fn escape(text: &str) -> String {
    visible(text).replace('\\', "\\\\").replace('"', "\\\"")
}
