//! `provost completions`: what a shell needs to complete the command line.

use clap::CommandFactory;

use super::exit::Code;
use super::{Cli, Error, print};

/// What `provost completions` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The shell.
    shell: clap_complete::Shell,
}

pub(super) fn run(arguments: &Arguments) -> Result<Code, Error> {
    // Written to memory first: the generator panics where its writer fails.
    let mut out = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "provost", &mut out);
    print::result(&String::from_utf8_lossy(&out))?;
    Ok(Code::Done)
}
