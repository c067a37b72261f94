//! `provost policy`: the policies of a network, tried, explained and read again.

mod explain;
mod reload;
mod schema;
mod table;
mod test;

use serde_json::{Value, json};

use super::exit::Code;
use super::{Cli, Error, check, print};
use crate::policy::Decision;
use crate::spec::Invalid;

/// How many letters of a hash are shown to a person: as many as tell apart what one person has seen.
const HASH_CHARS: usize = 12;

/// What is to be done with policies.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print the Cedar schema of a network: what its policies can speak of.
    Schema(schema::Arguments),
    /// Decide a table of cases by a network's policies, and compare.
    Test(test::Arguments),
    /// Say what was decided on a call of a run, by which policies, and what would be decided now.
    Explain(explain::Arguments),
    /// Let the policy files of all networks that run be read again, in the process that has them under way.
    Reload,
}

pub(super) fn run(cli: &Cli, command: &Command) -> Result<Code, Error> {
    match command {
        Command::Schema(arguments) => schema::run(arguments),
        Command::Test(arguments) => test::run(cli, arguments),
        Command::Explain(arguments) => explain::run(cli, arguments),
        Command::Reload => reload::run(cli),
    }
}

/// Says that a file is none of what it is to be: as JSON on stdout where that was asked for.
fn refuse(cli: &Cli, invalid: Invalid, what: &str) -> Result<Code, Error> {
    if cli.json {
        print::json(&json!({ "valid": false, "diagnostics": check::diagnostics(&invalid.0) }))?;
        return Ok(Code::Invalid);
    }
    Err(Error::refused(&invalid, what))
}

/// Returns the beginning of a hash.
fn short(hash: &str) -> &str {
    hash.get(..HASH_CHARS).unwrap_or(hash)
}

/// Returns what was decided, as JSON.
fn to_json(decision: &Decision) -> Value {
    json!({ "permission": decision.permission, "by": decision.by, "why": decision.why })
}
