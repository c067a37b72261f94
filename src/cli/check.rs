//! `provost check`: everything that is wrong with a network file, and what a run of it can cost.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::exit::Code;
use super::{Cli, Error, print};
use crate::runtime::check_policies;
use crate::spec::{Bound, Loaded, Network, Report, Severity, WorstCase, json_schema, visible};

/// What `provost check` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The network file.
    #[arg(value_name = "FILE", required_unless_present = "print_schema")]
    file: Option<PathBuf>,
    /// Print the JSON Schema of network files instead, for editors.
    #[arg(long, conflicts_with = "file")]
    print_schema: bool,
}

pub(super) fn run(cli: &Cli, arguments: &Arguments) -> Result<Code, Error> {
    let Some(file) = arguments.file.as_deref().filter(|_| !arguments.print_schema) else {
        print::json(json_schema())?;
        return Ok(Code::Done);
    };
    match Network::load(file) {
        Ok(Loaded { network, warnings }) => {
            let worst = network.worst_case();
            let checked = match check_policies(&network) {
                Ok(checked) => checked,
                Err(invalid) if cli.json => {
                    let all = [diagnostics(&warnings), diagnostics(&invalid.0)].concat();
                    print::json(&json!({ "valid": false, "diagnostics": all }))?;
                    return Ok(Code::Invalid);
                }
                Err(invalid) => {
                    print::report(&warnings);
                    return Err(Error::refused(&invalid, "policy file"));
                }
            };
            let policies = network.policy().map(|_| checked.policies.ids().count());
            if cli.json {
                let all = [diagnostics(&warnings), diagnostics(&checked.warnings)].concat();
                print::json(&json!({
                    "valid": true,
                    "network": network.spec().network.name,
                    "agents": network.spec().agents.len(),
                    "models": network.spec().models.len(),
                    "tools": network.spec().tools.len(),
                    "policies": policies,
                    "diagnostics": all,
                    "worst_case": worst,
                }))?;
            } else {
                print::report(&warnings);
                print::report(&checked.warnings);
                print::result(&summary(&network, policies, &[&warnings, &checked.warnings], &worst))?;
            }
            Ok(Code::Done)
        }
        Err(invalid) if cli.json => {
            print::json(&json!({ "valid": false, "diagnostics": diagnostics(&invalid.0) }))?;
            Ok(Code::Invalid)
        }
        Err(invalid) => Err(invalid.into()),
    }
}

/// Returns what is wrong with a file, each with its place.
pub(super) fn diagnostics(report: &Report) -> Vec<Value> {
    let one = |diagnostic: &crate::spec::Diagnostic| {
        let position = report.position(diagnostic);
        json!({
            "severity": diagnostic.severity,
            "code": diagnostic.code,
            "message": diagnostic.message,
            "help": diagnostic.help,
            "path": diagnostic.path,
            "file": report.name(),
            "line": position.map(|position| position.line),
            "column": position.map(|position| position.column),
        })
    };
    report.diagnostics().iter().map(one).collect()
}

fn summary(network: &Network, policies: Option<usize>, reports: &[&Report], worst: &WorstCase) -> String {
    let spec = network.spec();
    let all = reports.iter().flat_map(|report| report.diagnostics());
    let mut out = format!(
        "{}: ok · {} · {} · {}{}{}\n",
        visible(&spec.network.name),
        print::counted(spec.agents.len() as u64, "agent"),
        print::counted(spec.models.len() as u64, "model"),
        print::counted(spec.tools.len() as u64, "tool"),
        match policies {
            Some(1) => " · 1 policy".to_owned(),
            Some(count) => format!(" · {count} policies"),
            None => String::new(),
        },
        match all.filter(|warning| warning.severity == Severity::Warning).count() {
            0 => String::new(),
            count => format!(" · {}", print::counted(count as u64, "warning")),
        }
    );
    out.push_str("one run at most:\n");
    // Writing to a string does not fail.
    let _ = write!(
        out,
        "  cost         {}\n  tokens       {}\n  model calls  {}\n  time         {}\n",
        bound(&worst.cost_usd, |cost| crate::spec::usd(*cost)),
        bound(&worst.tokens, u64::to_string),
        bound(&worst.model_calls, u64::to_string),
        bound(&worst.time_ms, |millis| crate::spec::Span::from_millis(*millis).to_string()),
    );
    out
}

fn bound<T>(bound: &Bound<T>, show: impl Fn(&T) -> String) -> String {
    match bound {
        Bound::AtMost(most, why) => format!("{} ({})", show(most), visible(why)),
        Bound::Unbounded(why) => format!("no bound ({})", visible(why)),
    }
}
