//! Checks what a network means: names, ways of work, models and money, limits, templates.
//!
//! Each check speaks of one thing, and says nothing where the shape of that thing was already found wrong.

mod agents;
mod choices;
mod compaction;
mod limits;
mod models;
mod policy;
mod routes;
mod supervision;
mod templates;
mod tools;

use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value;

use super::findings::{Findings, Place, Said, listed, nearest};
use super::shape::short;
use super::{NetworkSpec, PolicyFile, Span};

pub(super) use agents::wrong_schema;
pub(crate) use models::is_loopback;

/// Where a network comes from.
#[derive(Clone, Copy)]
pub(super) enum Front<'a> {
    /// A file with this text; the files that it names lie relative to `base`.
    File { base: &'a Path, text: &'a str },
    /// A Rust program, which may supply tools and providers of its own.
    Program,
}

/// Checks the meaning of a network, and returns what stands in the files that it names: the schemas of its agents' answers,
/// and its policies.
pub(super) fn meaning(
    spec: &NetworkSpec,
    found: &mut Findings,
    front: Front<'_>,
) -> (IndexMap<String, Arc<Value>>, Option<PolicyFile>) {
    let mut check = Check { spec, found, front };
    check.network();
    let reached = check.ways();
    check.routes();
    check.supervision();
    check.compaction();
    check.models(&reached);
    check.limits();
    check.tools(&reached);
    check.templates();
    (check.output_schemas(), check.policy())
}

struct Check<'a> {
    spec: &'a NetworkSpec,
    found: &'a mut Findings,
    front: Front<'a>,
}

impl<'a> Check<'a> {
    fn error(
        &mut self,
        path: &[&str],
        place: Place,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.found.error(path, place, Said { code, message: message.into(), label: String::new(), help: help.into() });
    }

    fn warning(
        &mut self,
        path: &[&str],
        place: Place,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let said = Said { code, message: message.into(), label: String::new(), help: help.into() };
        self.found.warning(path, place, said);
    }

    /// Finds a name in one of the file's tables, and reports it where it is not there. Returns the name that was
    /// probably meant, so that other checks can go on with it.
    fn find(&mut self, path: &[&str], table: &'static str, name: &str) -> Option<String> {
        if self.found.written(&[table, name]).is_some() {
            return Some(name.to_owned());
        }
        if self.found.is_broken(path) || self.found.is_full() {
            return None;
        }
        let names = self.found.names(table);
        let what = table.trim_end_matches('s');
        let meant = nearest(name, names.iter().copied()).map(str::to_owned);
        let help = match &meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if names.is_empty() => format!("the network has no {table}; add a table [{table}.{}]", short(name)),
            None => format!("the {table} are {}; or add a table [{table}.{}]", listed(names), short(name)),
        };
        let lost = self.found.is_broken(&[table]) || (meant.is_none() && self.found.has_lost_tables());
        if !lost {
            let code = match table {
                "agents" => "unknown_agent",
                "models" => "unknown_model",
                _ => "unknown_tool",
            };
            let said = Said {
                code,
                message: format!("there is no {what} `{}`", short(name)),
                label: format!("no such {what}"),
                help,
            };
            self.found.error(path, Place::Value, said);
        }
        self.found.mark(path);
        meant
    }

    /// Refuses a span of no length where that would make no sense.
    fn not_zero(&mut self, path: &[&str], span: Span) {
        if span.0.is_zero() {
            let key = super::shape::name(path);
            self.error(
                path,
                Place::Value,
                "out_of_range",
                format!("{key} must be longer than no time at all"),
                "write a span of time such as \"200ms\", \"10s\" or \"5m\"",
            );
        }
    }

    fn network(&mut self) {
        if self.spec.network.name.chars().any(char::is_control) {
            self.error(
                &["network", "name"],
                Place::Value,
                "bad_name",
                "the network's name holds control characters",
                "take letters, digits and signs",
            );
        }
    }
}
