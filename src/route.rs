//! Who gets which message next: the network's topology, and the rules of its routes, joins and rooms.

mod expression;
mod flow;
mod topology;

pub use expression::{Expression, Values};
pub use flow::{Flow, Join, Node, Room, Route, topic_node};
pub use topology::{Pass, Topology};
