//! `provost policy test`: what policies decide on a table of cases, beside what is expected.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::table::{Case, Table};
use super::{refuse, to_json};
use crate::cli::exit::Code;
use crate::cli::follow::words;
use crate::cli::{Cli, Error, print};
use crate::policy::{Decision, Policies};
use crate::runtime::{Rehearsal, check_policies};
use crate::spec::{Network, nearest, visible};

/// What `provost policy test` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The table of cases.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// What came of a case.
struct Tried {
    /// What was decided; or why nothing could be.
    decided: Result<Decision, String>,
    /// What is not as it is expected, in words; none where all is.
    differs: Option<String>,
}

impl Tried {
    fn word(&self) -> &'static str {
        match (&self.decided, &self.differs) {
            (Err(_), _) => "error",
            (Ok(_), Some(_)) => "failed",
            (Ok(_), None) => "passed",
        }
    }
}

pub(super) fn run(cli: &Cli, arguments: &Arguments) -> Result<Code, Error> {
    let table = match Table::read(&arguments.file) {
        Ok(table) => table,
        Err(invalid) => return refuse(cli, invalid, "table of cases"),
    };
    let network = match Network::load(&table.network) {
        Ok(loaded) => loaded.network,
        Err(invalid) => return refuse(cli, invalid, "network"),
    };
    let policies = match check_policies(&network) {
        Ok(checked) => checked.policies,
        Err(invalid) => return refuse(cli, invalid, "policy file"),
    };
    let rehearsal = Rehearsal::new(&network)?;
    let tried: Vec<Tried> = table.cases.iter().map(|case| attempt(case, &network, &policies, &rehearsal)).collect();
    let count = |word: &str| tried.iter().filter(|tried| tried.word() == word).count();
    let (passed, failed, errors) = (count("passed"), count("failed"), count("error"));
    if cli.json {
        let cases: Vec<Value> = table.cases.iter().zip(&tried).map(|(case, tried)| case_to_json(case, tried)).collect();
        print::json(&json!({
            "network": network.spec().network.name, "set": policies.hash(),
            "passed": passed, "failed": failed, "errors": errors, "cases": cases,
        }))?;
    } else {
        let head = ["", "CASE", "DECIDED", "BY", "WHY"].map(str::to_owned);
        let rows: Vec<[String; 5]> =
            [head].into_iter().chain(table.cases.iter().zip(&tried).map(|(case, tried)| row(case, tried))).collect();
        let mut out = print::table(&rows, 5..=5);
        out.extend(table.cases.iter().zip(&tried).filter_map(|(case, tried)| problem(case, tried)));
        out += &format!("{passed} passed, {failed} failed, {}\n", print::counted(errors as u64, "error"));
        print::result(&out)?;
    }
    Ok(if failed + errors == 0 { Code::Done } else { Code::Failed })
}

fn attempt(case: &Case, network: &Network, policies: &Policies, rehearsal: &Rehearsal<'_>) -> Tried {
    let objection =
        rehearsal.objection(&case.call.agent, &case.call.subject).or_else(|| no_such_policy(case, policies));
    if let Some(why) = objection {
        return Tried { decided: Err(why), differs: None };
    }
    let decision = case.call.ask(network, policies);
    let differs = differs(case, &decision);
    Tried { decided: Ok(decision), differs }
}

fn no_such_policy(case: &Case, policies: &Policies) -> Option<String> {
    let wrong = case.by.iter().flatten().find(|id| !policies.ids().any(|known| **known == ***id))?;
    Some(match nearest(wrong, policies.ids().map(|id| &**id)) {
        Some(meant) => format!("there is no policy `{wrong}`; did you mean `{meant}`?"),
        None => format!("there is no policy `{wrong}`"),
    })
}

/// Says what is decided otherwise than it is expected.
fn differs(case: &Case, decision: &Decision) -> Option<String> {
    if decision.permission != case.expect {
        return Some(format!("expected {}, and it is {}", case.expect.word(), decision.permission.word()));
    }
    let mut expected: Vec<&str> = case.by.as_ref()?.iter().map(String::as_str).collect();
    let mut by: Vec<&str> = decision.by.iter().map(|id| &**id).collect();
    expected.sort_unstable();
    by.sort_unstable();
    (expected != by).then(|| format!("expected by {}, and it is by {}", named(&expected), named(&by)))
}

fn named(ids: &[&str]) -> String {
    if ids.is_empty() { "no policy".to_owned() } else { ids.join(", ") }
}

fn name(case: &Case) -> String {
    match &case.name {
        Some(name) => words::excerpt(name),
        None => format!("{} {}", visible(&case.call.agent), words::wants(&case.call.subject)),
    }
}

fn row(case: &Case, tried: &Tried) -> [String; 5] {
    let (decided, by, why) = match &tried.decided {
        Ok(decision) => {
            let ids: Vec<&str> = decision.by.iter().map(|id| &**id).collect();
            let by = if ids.is_empty() { "-".to_owned() } else { ids.join(", ") };
            (decision.permission.word(), by, decision.why.as_deref().unwrap_or_default())
        }
        Err(_) => ("-", "-".to_owned(), ""),
    };
    [tried.word().to_owned(), name(case), decided.to_owned(), visible(&by).into_owned(), words::excerpt(why)]
}

/// Says of a case that did not pass what is wrong.
fn problem(case: &Case, tried: &Tried) -> Option<String> {
    let what = match (&tried.decided, &tried.differs) {
        (Err(why), _) => why,
        (Ok(_), Some(differs)) => differs,
        (Ok(_), None) => return None,
    };
    Some(format!("line {}: {}: {}\n", case.line, name(case), visible(what)))
}

fn case_to_json(case: &Case, tried: &Tried) -> Value {
    let mut json = json!({
        "name": case.name.clone().unwrap_or_else(|| name(case)), "line": case.line, "result": tried.word(), "expect": case.expect,
        "permission": null, "by": [], "why": null,
    });
    let problem = match &tried.decided {
        Ok(decision) => {
            if let (Some(json), Value::Object(decided)) = (json.as_object_mut(), to_json(decision)) {
                json.extend(decided);
            }
            tried.differs.as_ref()
        }
        Err(why) => Some(why),
    };
    json["problem"] = json!(problem);
    json
}
