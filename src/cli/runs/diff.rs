//! `provost runs diff`: where two runs part, and what their steps cost.

use std::fmt::Write;

use serde_json::{Value, json};

use super::find;
use super::reports::Reports;
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::{Cli, Error, outcome, print};
use crate::run::{Diff, Pair, Parting, Status, StepCost, What, apart};
use crate::runtime::{Past, Report};
use crate::spec::{usd, visible};

/// How much of what differs is shown, so that a line has at most 100 columns.
const TEXT_CHARS: usize = 94;

/// How wide the name of a step is shown, so that a line of the table has at most 100 columns.
const NAME_CHARS: usize = 32;

/// What `provost runs diff` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The one run: its id, the beginning or the end of it, or `last`.
    #[arg(value_name = "A")]
    one: String,
    /// The other run.
    #[arg(value_name = "B")]
    other: String,
}

pub(super) async fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let (store, one) = find(address, &arguments.one)?;
    let (_, other) = find(address, &arguments.other)?;
    if one == other {
        return Err(Error::Usage {
            message: format!("both are run {one}"),
            hint: "name two runs; provost runs list shows all".to_owned(),
        });
    }
    let (one, other) = (Past::read(&store, &one)?, Past::read(&store, &other)?);
    let mut reports = Reports::new(address);
    let both = [report(&mut reports, &one).await, report(&mut reports, &other).await];
    let diff = Diff::of(&one.events, &other.events);
    match cli.json {
        true => print::json(&shape(&both, &diff)?)?,
        false => print::result(&text(&both, &diff))?,
    }
    Ok(Code::Done)
}

/// Says where a run stands by the very events that are compared.
async fn report(reports: &mut Reports<'_>, past: &Past) -> Report {
    let report = Report::of(&past.state);
    match report.status == Status::Running && !reports.is_live(&report.run).await {
        true => report.without_process(),
        false => report,
    }
}

fn text(both: &[Report; 2], diff: &Diff) -> String {
    let mut out = String::new();
    for (name, report) in ["A", "B"].into_iter().zip(both) {
        let _ = writeln!(out, "{name}  run {} of {}: {}", report.run, visible(&report.network), total(report));
    }
    if diff.networks_differ {
        out.push_str("   they began with different networks\n");
    }
    match &diff.parting {
        None => out.push_str("the same was said and done in both\n"),
        Some(parting) => out.push_str(&parted(parting)),
    }
    if !diff.steps.is_empty() {
        out.push_str(&table(&diff.steps));
    }
    out
}

fn total(report: &Report) -> String {
    let usage = &report.usage;
    format!(
        "{}, {} tokens, {}, {:.1} s",
        outcome::word(report.status),
        usage.charged_tokens,
        usd(usage.cost_usd),
        report.duration_ms as f64 / 1e3,
    )
}

/// Says where two runs part, and what there is in each.
fn parted(parting: &Parting) -> String {
    let Parting { agent, step, call, what, one, other } = parting;
    let mut out = "they part".to_owned();
    match (agent, step, call) {
        (_, _, Some(call)) => drop(write!(out, " at call {}", visible(&call.to_string()))),
        (Some(agent), Some(step), None) => drop(write!(out, " at agent `{}`, step {step}", visible(agent.as_str()))),
        (Some(agent), None, None) => drop(write!(out, " at agent `{}`", visible(agent.as_str()))),
        (None, ..) => {}
    }
    let what = match what {
        What::Input => " in the input",
        What::Task => ", in what it is asked",
        What::Model => ", in the model that is asked",
        What::Words => ", in what the model says",
        What::Calls => ", in the tools that are called",
        What::Arguments => ", in its arguments",
        What::Result => ", in its result",
        What::Steering => ", in what a person says",
        What::Repair => ", in what is wrong with the answer",
        What::Outcome => ", in how it ends",
        What::End => " in how they end",
        What::Agent | What::Step => ", which is only in one of them",
    };
    let _ = writeln!(out, "{what}:");
    let said = |text: &Option<String>| text.as_deref().map(|text| visible(text).into_owned());
    let (one, other) = (said(one), said(other));
    let shown = match (&one, &other) {
        (Some(one), Some(other)) => apart(one, other, TEXT_CHARS),
        _ => {
            let alone = |text: Option<String>| match text {
                Some(text) => apart(&text, "", TEXT_CHARS).0,
                None => "(nothing)".to_owned(),
            };
            (alone(one), alone(other))
        }
    };
    let _ = writeln!(out, "  A  {}\n  B  {}", shown.0, shown.1);
    out
}

fn table(steps: &[Pair]) -> String {
    let head = |name: &str| format!("{:>10} {:>9} {:>10}", format!("{name} TOKENS"), "COST", "TIME");
    let mut out = format!("\n    {:<NAME_CHARS$}{} {}\n", "STEP", head("A"), head("B"));
    for pair in steps {
        let mark = match (&pair.one, &pair.other, pair.is_same) {
            (Some(_), None, _) => 'A',
            (None, Some(_), _) => 'B',
            (_, _, true) => '=',
            (_, _, false) => '≠',
        };
        let name = ending(&visible(&format!("{}#{}", pair.agent, pair.step)), NAME_CHARS - 1);
        let (one, other) = (cost(pair.one.as_ref()), cost(pair.other.as_ref()));
        let line = format!("  {mark} {name:<NAME_CHARS$}{one} {other}");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn cost(cost: Option<&StepCost>) -> String {
    let Some(cost) = cost else { return " ".repeat(31) };
    let seconds = cost.duration_ms as f64 / 1e3;
    let time = if seconds < 1_000.0 { format!("{seconds:.3} s") } else { format!("{seconds:.0} s") };
    format!("{:>10} {:>9} {:>10}", cost.charged.tokens, money(cost.charged.cost_usd()), time)
}

/// Writes money in nine columns: the cost of a step may be far below a cent.
fn money(amount_usd: f64) -> String {
    let exact = usd(amount_usd);
    if exact.len() <= 9 { exact } else { format!("${amount_usd:.6}") }
}

/// Returns the end of a name that is too long: where names of agents differ is at the end.
fn ending(name: &str, chars: usize) -> String {
    let count = name.chars().count();
    match count <= chars {
        true => name.to_owned(),
        false => std::iter::once('…').chain(name.chars().skip(count + 1 - chars)).collect(),
    }
}

/// The public shape.
fn shape(both: &[Report; 2], diff: &Diff) -> Result<Value, Error> {
    let parting = diff.parting.as_ref().map(|parting| {
        json!({
            "agent": parting.agent,
            "step": parting.step,
            "call": parting.call,
            "what": parting.what,
            "a": parting.one,
            "b": parting.other,
        })
    });
    let steps = diff.steps.iter().map(|pair| {
        json!({
            "agent": pair.agent,
            "step": pair.step,
            "same": pair.is_same,
            "a": pair.one.as_ref().map(step_shape),
            "b": pair.other.as_ref().map(step_shape),
        })
    });
    Ok(json!({
        "same": diff.parting.is_none(),
        "networks_differ": diff.networks_differ,
        "parting": parting,
        "steps": steps.collect::<Vec<_>>(),
        "a": outcome::to_json(&both[0])?,
        "b": outcome::to_json(&both[1])?,
    }))
}

fn step_shape(cost: &StepCost) -> Value {
    json!({
        "model": cost.model,
        "tool_calls": cost.tool_calls,
        "charged_tokens": cost.charged.tokens,
        "cost_usd": cost.charged.cost_usd(),
        "duration_ms": cost.duration_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_at_most_a_hundred_columns() {
        let cost = StepCost { duration_ms: 9_999_999_999, ..StepCost::default() };
        let agent = crate::run::AgentId::new("a/very.1.0/deep.2.1/chain.3.2/of.4.3/agents.5.4");
        let pair = Pair { agent, step: 12, is_same: false, one: Some(cost.clone()), other: Some(cost) };
        let shown = table(&[pair]);
        assert!(shown.contains("≠ …"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
        let text = Some("x\u{1b}[2Jy\n".repeat(100));
        let parting =
            Parting { agent: None, step: None, call: None, what: What::End, one: text, other: Some("z".to_owned()) };
        let shown = parted(&parting);
        assert!(shown.lines().all(|line| line.chars().count() <= 100) && !shown.contains('\u{1b}'), "{shown}");
        assert_eq!(shown.lines().count(), 3);
    }

    #[test]
    fn money_fits_its_column() {
        for (amount_usd, shown) in [(0.0, "$0.00"), (0.001_234_567, "$0.001235"), (12.5, "$12.50")] {
            assert_eq!(money(amount_usd), shown);
        }
    }
}
