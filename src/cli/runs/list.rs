//! `provost runs list`: which runs there are.

use super::Since;
use super::reports::{RUNNING, Reports};
use super::time::local;
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::{Cli, Error, outcome, print};
use crate::journal::StreamInfo;
use crate::run::Status;
use crate::runtime::Report;
use crate::spec::{usd, visible};

/// How much of an answer or a reason is shown.
const EXCERPT_CHARS: usize = 60;

/// What `provost runs list` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only runs that stand so: running, done, failed, cancelled, limit, denied, awaiting_approval,
    /// awaiting_input, in_doubt or interrupted.
    #[arg(long, value_name = "STATUS", value_parser = status)]
    status: Vec<Status>,
    /// Only runs of this network.
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Only runs of this tenant.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Only runs with this session.
    #[arg(long, value_name = "KEY")]
    session: Option<String>,
    /// Only runs that began since: 2h, 7d, 2026-01-31.
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// At most so many.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

fn status(text: &str) -> Result<Status, String> {
    serde_json::from_value(text.into()).map_err(|_| "no run stands so".to_owned())
}

impl Arguments {
    /// Whether a run may be meant, as far as can be told without its report.
    fn may_be(&self, info: &StreamInfo) -> bool {
        let is_running = info.mark.as_ref().is_none_or(|mark| mark.state == RUNNING);
        let stands_so = is_running || Reports::marked(info).is_none_or(|status| self.is_wanted(status));
        stands_so && self.since.is_none_or(|since| info.created_ms >= since.time_ms)
    }

    fn is_wanted(&self, status: Status) -> bool {
        self.status.is_empty() || self.status.contains(&status)
    }

    fn is_meant(&self, report: &Report) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
        self.is_wanted(report.status)
            && is(&self.network, Some(&report.network))
            && is(&self.tenant, Some(&report.tenant))
            && is(&self.session, report.session.as_deref())
    }
}

pub(super) async fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let (reports, fault) = reports(address, arguments).await?;
    if cli.json {
        let reports: Vec<_> = reports.iter().map(outcome::to_json).collect::<Result<_, _>>()?;
        print::json(&reports.into())?;
    } else if reports.is_empty() && fault.is_none() {
        print::notice(&format!("no runs at {}\n", visible(&address.directory.display().to_string())));
    } else {
        print::result(&table(&reports))?;
    }
    // The others have been listed.
    fault.map_or(Ok(Code::Done), Err)
}

/// Returns the runs that are meant, and why one of them can't be read, if that is so.
async fn reports(address: &Address, arguments: &Arguments) -> Result<(Vec<Report>, Option<Error>), Error> {
    let Some(store) = address.store()? else { return Ok((Vec::new(), None)) };
    let (mut found, mut reports, mut fault) = (Vec::new(), Reports::new(address), None);
    for info in store.streams("run/")?.iter().rev().filter(|info| arguments.may_be(info)) {
        if arguments.limit.is_some_and(|limit| found.len() >= limit) {
            break;
        }
        match reports.of(&store, info).await {
            Ok(report) => found.extend(report.filter(|report| arguments.is_meant(report))),
            Err(error) => drop(fault.get_or_insert(error)),
        }
    }
    Ok((found, fault))
}

fn table(reports: &[Report]) -> String {
    let head = ["RUN", "NETWORK", "STATUS", "BEGAN", "CALLS", "TOKENS", "COST", ""].map(str::to_owned);
    let rows: Vec<[String; 8]> = [head].into_iter().chain(reports.iter().map(row)).collect();
    print::table(&rows, 4..=6)
}

fn row(report: &Report) -> [String; 8] {
    let answer = report.answer_text();
    let said = report.reason.as_deref().or(answer.as_deref()).unwrap_or_default();
    let mut excerpt: String = said.trim().chars().take(EXCERPT_CHARS).collect();
    if excerpt.len() < said.trim().len() {
        excerpt.push('…');
    }
    [
        report.run.to_string(),
        visible(&report.network).into_owned(),
        outcome::word(report.status).to_owned(),
        local(report.started_ms),
        report.usage.model_calls.to_string(),
        (report.usage.input_tokens + report.usage.output_tokens).to_string(),
        usd(report.usage.cost_usd),
        visible(&excerpt).into_owned(),
    ]
}
