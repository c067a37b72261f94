//! `provost graph`: a network drawn.

use std::path::PathBuf;

use super::exit::Code;
use super::{Error, print};
use crate::spec::{Network, graph};

/// What `provost graph` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The network file.
    file: PathBuf,
    /// How to draw it.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Format {
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

impl From<Format> for graph::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Mermaid => Self::Mermaid,
            Format::Dot => Self::Dot,
            Format::Svg => Self::Svg,
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<Code, Error> {
    let loaded = Network::load(&arguments.file)?;
    print::result(&graph::draw(&loaded.network, arguments.format.into()))?;
    Ok(Code::Done)
}
