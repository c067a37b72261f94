//! `provost knowledge remove`.

use std::path::PathBuf;

use serde_json::json;

use super::{name, open};
use crate::cli::exit::Code;
use crate::cli::print::{self, counted};
use crate::cli::{Cli, Error, data_directory};
use crate::memory::Knowledge;

/// What is taken out.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The name that it is indexed under.
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    /// Only these files, and those beneath these directories; everything under the name where none is given. They stay out
    /// when what they lie in is added again, until `add` is given their own paths. The files themselves are not touched.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

pub(super) fn run(cli: &Cli, Arguments { name, paths }: &Arguments) -> Result<Code, Error> {
    // Nothing is made where nothing is.
    open(cli, name)?;
    let mut knowledge = Knowledge::open_for_writing(&data_directory(cli)?)?;
    let removed = knowledge.remove(name, paths)?;
    if cli.json {
        print::json(&json!({ "name": name, "removed": removed }))?;
    } else {
        print::result(&format!("{name}: {} taken out of the index\n", counted(removed, "file")))?;
    }
    Ok(Code::Done)
}
