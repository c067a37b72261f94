//! `provost approvals list`: who wants what, and why.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::follow::approve::words;
use crate::cli::runs::{Reports, find, local};
use crate::cli::{Cli, Error, print};
use crate::run::{RunId, Status};
use crate::runtime::{ApprovalReport, Question, Report};
use crate::spec::visible;

/// How much of a digest is shown: enough to tell any two apart that somebody sees.
const DIGEST_CHARS: usize = 12;

/// What `provost approvals list` takes.
#[derive(Debug, Default, clap::Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Only of this run: its id, the beginning or the end of it, or `last`.
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Only of this tenant's runs.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

pub(super) async fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let (reports, fault) = reports(address, arguments).await?;
    if cli.json {
        print::json(&reports.iter().flat_map(to_json).collect::<Vec<Value>>().into())?;
    } else if reports.is_empty() && fault.is_none() {
        print::notice("nothing awaits approval\n");
    } else {
        print::result(&reports.iter().map(in_words).collect::<Vec<_>>().join("\n"))?;
    }
    // The others have been listed.
    fault.map_or(Ok(Code::Done), Err)
}

/// Returns the runs in which something awaits approval, the oldest first; and why one can't be read, if that is so.
async fn reports(address: &Address, arguments: &Arguments) -> Result<(Vec<Report>, Option<Error>), Error> {
    let wanted: Option<RunId> = arguments.run.as_deref().map(|run| find(address, run)).transpose()?.map(|(_, run)| run);
    let Some(store) = address.store()? else { return Ok((Vec::new(), None)) };
    let (mut found, mut reports, mut fault) = (Vec::new(), Reports::new(address), None);
    for info in &store.streams("run/")? {
        // Beside a call in doubt others may await approval.
        let may_ask = |status: Status| matches!(status, Status::AwaitingApproval | Status::InDoubt | Status::Running);
        if !Reports::marked(info).is_none_or(|status| may_ask(status) || status == Status::Interrupted) {
            continue;
        }
        let is_meant = |report: &Report| {
            wanted.as_ref().is_none_or(|wanted| *wanted == report.run)
                && arguments.tenant.as_deref().is_none_or(|tenant| *tenant == *report.tenant)
        };
        match reports.of(&store, info).await {
            Ok(report) => found.extend(report.filter(|report| !report.approvals.is_empty() && is_meant(report))),
            Err(error) => drop(fault.get_or_insert(error)),
        }
    }
    Ok((found, fault))
}

fn to_json(report: &Report) -> Vec<Value> {
    let one = |approval: &ApprovalReport| {
        let ApprovalReport { call, agent, wants, since_ms, request, digest, votes } = approval;
        json!({
            "run": report.run, "network": report.network, "tenant": report.tenant, "call": call, "agent": agent,
            "wants": wants, "since_ms": since_ms, "digest": digest, "votes": votes,
            "why": request.as_ref().and_then(|request| request.why.clone()),
            "policies": request.as_ref().map(|request| request.policies.clone()).unwrap_or_default(),
            "change": request.as_ref().and_then(|request| request.change.clone()),
            "changed_since": request.as_ref().and_then(|request| request.again.clone()),
            "approvers": request.as_ref().map(|request| request.approvers.clone()).unwrap_or_default(),
            "quorum": request.as_ref().map_or(1, |request| request.quorum),
            "expires_ms": request.as_ref().and_then(|request| request.expires_ms),
        })
    };
    report.approvals.iter().map(one).collect()
}

fn in_words(report: &Report) -> String {
    report.approvals.iter().map(|approval| one_in_words(report, approval)).collect::<Vec<_>>().join("\n")
}

fn one_in_words(report: &Report, approval: &ApprovalReport) -> String {
    let ApprovalReport { call, wants, since_ms, request, digest, votes, .. } = approval;
    let question = Question {
        run: report.run.clone(),
        call: call.clone(),
        subject: wants.clone(),
        request: request.clone(),
        objection: None,
    };
    let mut text = format!("{} {call}", report.run);
    // Writing to a string does not fail.
    let _ = write!(text, "  {} of tenant {}", visible(&report.network), visible(&report.tenant));
    if *since_ms > 0 {
        let _ = write!(text, ", asked {}", local(*since_ms));
    }
    for line in words(&question).trim().lines() {
        let _ = write!(text, "\n  {line}");
    }
    if let Some(request) = request {
        if !request.approvers.is_empty() {
            let names: Vec<_> = request.approvers.iter().map(|name| visible(name)).collect();
            let _ = write!(text, "\n  may be answered by {}", names.join(", "));
        }
        if !votes.is_empty() {
            let names: Vec<_> = votes.iter().map(|name| visible(name)).collect();
            let _ = write!(text, "\n  {} said yes", names.join(", "));
        }
        if let Some(expires_ms) = request.expires_ms {
            let _ = write!(text, "\n  {} it is a no", local(expires_ms));
        }
    }
    if let Some(digest) = digest {
        let short: String = digest.chars().take(DIGEST_CHARS).collect();
        let _ = write!(text, "\n  digest {short}");
    }
    text.push('\n');
    text
}
