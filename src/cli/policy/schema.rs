//! `provost policy schema`: what the policies of a network can speak of, for Cedar's own tools and for editors.

use std::path::PathBuf;

use crate::cli::exit::Code;
use crate::cli::{Error, print};
use crate::runtime::policy_vocabulary;
use crate::spec::Network;

/// What `provost policy schema` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The network file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print it in Cedar's own language, and not as JSON.
    #[arg(long, conflicts_with = "json")]
    cedar: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Code, Error> {
    let network = Network::load(&arguments.file)?.network;
    let vocabulary = policy_vocabulary(&network)?;
    match arguments.cedar {
        false => print::json(vocabulary.to_json())?,
        true => {
            let written = vocabulary.to_cedar().map_err(|why| Error::Failed {
                message: format!("the schema can't be written in Cedar's language: {why}"),
                hint: "it can be had as JSON, without --cedar".to_owned(),
            })?;
            print::result(&format!("{}\n", written.trim_end()))?;
        }
    }
    Ok(Code::Done)
}
