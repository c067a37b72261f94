//! The picture: agents in layers by their distance from the entry, their tools in the layer beneath the last.

use std::collections::VecDeque;
use std::fmt::Write;

use super::{Edge, Graph, Kind, Way};
use crate::spec::visible;

/// Sizes, in pixels.
const HEIGHT: f64 = 46.0;
const GAP_X: f64 = 28.0;
const GAP_Y: f64 = 72.0;
const MARGIN: f64 = 24.0;
const TITLE: f64 = 28.0;
/// The width of a character of the larger font, on average, with something to spare.
const CHARACTER: f64 = 7.6;

/// Where a node stands: its centre, and its width.
#[derive(Clone, Copy, Default)]
struct Spot {
    x: f64,
    y: f64,
    width: f64,
}

pub(super) fn draw(graph: &Graph) -> String {
    let layers = order(graph, layers(graph));
    let (spots, width, height) = place(graph, &layers);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" font-family=\"sans-serif\">\n"
    );
    let title = escape(&graph.title);
    let _ = writeln!(out, "<title>{title}</title>");
    out.push_str(
        "<style>.box{fill:#fff;stroke:#445;stroke-width:1.2}.entry{stroke-width:2.4}.tool{fill:#f3f4f7;stroke:#99a}\
         .name{font-size:13px;fill:#112}.note{font-size:10px;fill:#556}.way{fill:none;stroke:#445;stroke-width:1.2}\
         .over{stroke-width:2.4}.failed{stroke-dasharray:6 3}.uses{stroke:#99a;stroke-dasharray:3 3}.label{font-size:9px;fill:#556}</style>\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
         markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#445\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
    );
    let _ =
        writeln!(out, "<text class=\"name\" x=\"{MARGIN}\" y=\"{:.0}\" font-weight=\"bold\">{title}</text>", MARGIN);
    for edge in &graph.edges {
        curve(&mut out, edge, spots[edge.from], spots[edge.to]);
    }
    for (node, spot) in graph.nodes.iter().zip(&spots) {
        let (class, radius) = match node.kind {
            Kind::Entry => ("box entry", 10),
            Kind::Agent => ("box", 10),
            Kind::Topic => ("box", 23),
            Kind::Tool => ("box tool", 2),
        };
        let (left, top) = (spot.x - spot.width / 2.0, spot.y - HEIGHT / 2.0);
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{HEIGHT}\" rx=\"{radius}\"/>\
             <text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text class=\"note\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            spot.width,
            spot.x,
            spot.y - 2.0,
            escape(&node.name),
            spot.x,
            spot.y + 13.0,
            escape(&node.note),
        );
    }
    out.push_str("</svg>\n");
    out
}

/// Puts each agent into the layer of its distance from the entry, and the tools into the last.
fn layers(graph: &Graph) -> Vec<Vec<usize>> {
    let count = graph.nodes.len();
    let mut ways = vec![Vec::new(); count];
    for edge in graph.edges.iter().filter(|edge| edge.kind != Way::Uses) {
        ways[edge.from].push(edge.to);
    }
    let mut distance: Vec<Option<usize>> = vec![None; count];
    let mut queue: VecDeque<usize> = (0..count).filter(|node| graph.nodes[*node].kind == Kind::Entry).collect();
    queue.iter().for_each(|entry| distance[*entry] = Some(0));
    while let Some(node) = queue.pop_front() {
        for to in &ways[node] {
            if distance[*to].is_none() {
                distance[*to] = distance[node].map(|distance| distance + 1);
                queue.push_back(*to);
            }
        }
    }
    let last = distance.iter().flatten().max().copied().unwrap_or(0);
    let mut layers = vec![Vec::new(); last + 2];
    for (node, distance) in distance.into_iter().enumerate() {
        layers[distance.unwrap_or(last + 1)].push(node);
    }
    layers.retain(|layer| !layer.is_empty());
    layers
}

/// Orders each layer by where the nodes that lead into it stand, so that fewer ways cross (the barycentre method of
/// Sugiyama, one pass down).
fn order(graph: &Graph, mut layers: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    let mut at = vec![None; graph.nodes.len()];
    let mut into = vec![Vec::new(); graph.nodes.len()];
    for edge in &graph.edges {
        into[edge.to].push(edge.from);
    }
    for layer in &mut layers {
        let centre = |node: &usize| {
            let placed: Vec<f64> = into[*node].iter().filter_map(|from| at[*from]).collect();
            if placed.is_empty() { 0.5 } else { placed.iter().sum::<f64>() / placed.len() as f64 }
        };
        layer.sort_by(|a, b| centre(a).total_cmp(&centre(b)));
        let count = layer.len() as f64;
        for (index, node) in layer.iter().enumerate() {
            at[*node] = Some((index as f64 + 0.5) / count);
        }
    }
    layers
}

fn place(graph: &Graph, layers: &[Vec<usize>]) -> (Vec<Spot>, f64, f64) {
    let width_of = |node: usize| {
        let node = &graph.nodes[node];
        let name = console::measure_text_width(&node.name) as f64 * CHARACTER;
        let note = console::measure_text_width(&node.note) as f64 * CHARACTER * 0.8;
        name.max(note).max(60.0) + 20.0
    };
    let widths: Vec<f64> = layers
        .iter()
        .map(|layer| layer.iter().map(|node| width_of(*node)).sum::<f64>() + GAP_X * (layer.len() as f64 - 1.0))
        .collect();
    let title = console::measure_text_width(&graph.title) as f64 * CHARACTER;
    // Ways that go up pass at the right.
    let inner = widths.iter().copied().fold(title, f64::max);
    let mut spots = vec![Spot::default(); graph.nodes.len()];
    for (row, (layer, width)) in layers.iter().zip(&widths).enumerate() {
        let mut left = MARGIN + (inner - width) / 2.0;
        for node in layer {
            let width = width_of(*node);
            let y = MARGIN + TITLE + HEIGHT / 2.0 + row as f64 * (HEIGHT + GAP_Y);
            spots[*node] = Spot { x: left + width / 2.0, y, width };
            left += width + GAP_X;
        }
    }
    let rows = layers.len() as f64;
    let height = 2.0 * MARGIN + TITLE + rows * HEIGHT + (rows - 1.0).max(0.0) * GAP_Y;
    (spots, inner + 2.0 * MARGIN + GAP_X, height)
}

fn curve(out: &mut String, edge: &Edge, from: Spot, to: Spot) {
    let class = match edge.kind {
        Way::Asks => "way",
        Way::HandsOver | Way::Routes => "way over",
        Way::OnError => "way failed",
        Way::Uses | Way::Holds => "way uses",
    };
    let label = escape(edge.label());
    let half = HEIGHT / 2.0;
    let (path, x, y) = if to.y > from.y {
        let (x1, y1, x2, y2) = (from.x, from.y + half, to.x, to.y - half);
        let bend = (y2 - y1) / 2.0;
        let path = format!("M{x1:.1} {y1:.1}C{x1:.1} {:.1} {x2:.1} {:.1} {x2:.1} {y2:.1}", y1 + bend, y2 - bend);
        (path, (x1 + x2) / 2.0, (y1 + y2) / 2.0)
    } else if to.y == from.y {
        // Within a layer the way goes beneath it.
        let (x1, x2, y) = (from.x + 8.0, to.x - 8.0, from.y + half);
        let path = format!("M{x1:.1} {y:.1}C{x1:.1} {:.1} {x2:.1} {:.1} {x2:.1} {y:.1}", y + 36.0, y + 36.0);
        (path, (x1 + x2) / 2.0, y + 27.0)
    } else {
        let (x1, x2) = (from.x + from.width / 2.0, to.x + to.width / 2.0);
        let out = x1.max(x2) + GAP_X;
        let path = format!("M{x1:.1} {:.1}C{out:.1} {:.1} {out:.1} {:.1} {x2:.1} {:.1}", from.y, from.y, to.y, to.y);
        (path, out - 8.0, (from.y + to.y) / 2.0)
    };
    let _ = writeln!(out, "<path class=\"{class}\" d=\"{path}\" marker-end=\"url(#tip)\"/>");
    if !label.is_empty() {
        let _ = writeln!(out, "<text class=\"label\" x=\"{:.1}\" y=\"{y:.1}\">{label}</text>", x + 4.0);
    }
}

fn escape(text: &str) -> String {
    visible(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
