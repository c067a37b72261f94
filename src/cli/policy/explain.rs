//! `provost policy explain`: what was decided on a call of a run, and what would be decided now.

use std::fmt::Write;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{short, to_json};
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::follow::{events, words};
use crate::cli::runs::find;
use crate::cli::{Cli, Error, print};
use crate::policy::{Decision, Policies};
use crate::run::{CallId, Envelope, Event, RunId};
use crate::runtime::{Past, Supposed, check_policies, present_policies};
use crate::spec::{Invalid, Network, Permission, listed, nearest, visible};

/// What `provost policy explain` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The run: its id, the beginning or the end of it, or `last`.
    #[arg(value_name = "RUN")]
    run: String,
    /// The call, as `--events` and the record name it: `writer#1.0` is the first tool call of the writer's first step, and
    /// `writer#1` the call of its model.
    #[arg(value_name = "CALL")]
    call: String,
}

/// What policies say of a call now.
struct Now {
    /// Whose policies.
    of: &'static str,
    /// What they say; or what is wrong with them.
    said: Result<Said, Invalid>,
}

struct Said {
    set: Arc<str>,
    /// The policies whose heads are about the call.
    about: Vec<Arc<str>>,
    decision: Decision,
}

/// All that is known of a call.
struct Explained {
    run: RunId,
    call: CallId,
    /// The call, as it came to the gate last.
    supposed: Option<Supposed>,
    /// What is on record of its way through the gate.
    record: Vec<Arc<Envelope>>,
    /// Whether the network has a policy file.
    has_file: bool,
    now: Vec<Now>,
}

pub(super) fn run(cli: &Cli, arguments: &Arguments) -> Result<Code, Error> {
    crate::cli::quiet_panics();
    let (store, run) = find(&Address::of(cli)?, &arguments.run)?;
    let explained = explain(Past::read(&store, &run)?, run, &arguments.call)?;
    match cli.json {
        true => print::json(&as_json(&explained))?,
        false => print::result(&in_words(&explained))?,
    }
    Ok(Code::Done)
}

fn explain(past: Past, run: RunId, text: &str) -> Result<Explained, Error> {
    let call = meant(&past, &run, text)?;
    let network = Network::from_text(&past.network()).map_err(|source| Error::Store {
        message: format!("the network of run {run} can't be read: {source}"),
        hint: "the Provost that began the run reads it".to_owned(),
    })?;
    let supposed = Supposed::of_past(&past, &network, &call).map(|mut supposed| {
        supposed.now_ms = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
        supposed
    });
    let record = past.events.iter().filter(|envelope| envelope.event.call() == Some(&call) && is_told(&envelope.event));
    let record = record.cloned().collect();
    let now = supposed.as_ref().map(|supposed| say(supposed, &network)).unwrap_or_default();
    Ok(Explained { run, call, supposed, record, has_file: network.policy().is_some(), now })
}

/// Finds the call that is meant.
fn meant(past: &Past, run: &RunId, text: &str) -> Result<CallId, Error> {
    let mut known: Vec<CallId> = past.events.iter().filter_map(|envelope| envelope.event.call().cloned()).collect();
    let mut seen = std::collections::HashSet::new();
    known.retain(|call| seen.insert(call.clone()));
    let parsed = text.parse::<CallId>();
    if let Ok(call) = &parsed
        && seen.contains(call)
    {
        return Ok(call.clone());
    }
    let names: Vec<String> = known.iter().map(ToString::to_string).collect();
    let names = || names.iter().map(String::as_str);
    let message = match parsed {
        Ok(call) => format!("run {run} has no call `{}`", words::shown(&call)),
        Err(error) => visible(&error.to_string()).into_owned(),
    };
    let hint = match nearest(text, names()) {
        Some(name) => format!("did you mean '{}'?", visible(name)),
        None => format!("its calls are {}", visible(&listed(names()))),
    };
    Err(Error::Usage { message, hint })
}

/// Whether an event says how a call came through the gate.
fn is_told(event: &Event) -> bool {
    matches!(
        event,
        Event::PolicyDecided { .. }
            | Event::ApprovalRequested { .. }
            | Event::ApproversTold { .. }
            | Event::ApprovalVoted { .. }
            | Event::ApprovalDecided { .. }
            | Event::CallIntended { .. }
    )
}

/// Says what policies decide on a call now: those that are kept with its run, and those in their file, if they are others.
fn say(supposed: &Supposed, network: &Network) -> Vec<Now> {
    let ask = |policies: &Policies| Said {
        set: policies.hash().clone(),
        about: policies.about(&supposed.agent, &supposed.subject),
        decision: supposed.ask(network, policies),
    };
    let kept = check_policies(network).map(|checked| ask(&checked.policies));
    let present = match present_policies(network) {
        Ok(None) => None,
        Ok(Some(policies)) => {
            let is_kept = kept.as_ref().is_ok_and(|kept| kept.set == *policies.hash());
            (!is_kept).then(|| Ok(ask(&policies)))
        }
        Err(invalid) => Some(Err(invalid)),
    };
    let of_file = present.map(|said| Now { of: "in_file", said });
    [Now { of: "kept", said: kept }].into_iter().chain(of_file).collect()
}

fn in_words(explained: &Explained) -> String {
    let Explained { run, call, supposed, record, has_file, now } = explained;
    let mut out = format!("call {} of run {run}", words::shown(call));
    match supposed {
        Some(supposed) => {
            let _ = writeln!(out, ": {} {}", visible(&supposed.agent), words::wants(&supposed.subject));
            let _ = writeln!(out, "  {}", circumstances(supposed));
        }
        None => out.push_str("\n  it never came to the gate: no policy was asked about it\n"),
    }
    out.push_str(if record.is_empty() { "" } else { "on record:\n" });
    for envelope in record {
        let _ = writeln!(out, "{:>5}  {}", envelope.seq, event(envelope));
    }
    if !has_file {
        out.push_str("the network has no policy file: its default decides\n");
    }
    for Now { of, said } in now {
        let whose = match *of {
            _ if !has_file => "now",
            "kept" => "now, by the policies that are kept with the run",
            _ => "now, by what is in the policy file",
        };
        match said {
            Err(invalid) => {
                let _ = write!(
                    out,
                    "{whose}: nothing, since {}\n{}",
                    invalid.0.verdict("policy file"),
                    invalid.0.render(false)
                );
            }
            Ok(Said { set, about, decision }) => {
                let _ = writeln!(out, "{whose} (set {}): {}", short(set), said_in_words(decision));
                if *has_file {
                    let _ = writeln!(out, "  about such calls: {}", ids(about));
                }
            }
        }
    }
    out
}

/// Says how things stood when the call came to the gate.
fn circumstances(supposed: &Supposed) -> String {
    let Supposed { tenant, session, labels, depth, spent, approved, .. } = supposed;
    let mut said = format!("tenant {}", visible(tenant));
    if let Some(session) = session {
        let _ = write!(said, " · session {}", visible(session));
    }
    let _ = write!(said, " · depth {depth}");
    let labels: Vec<&str> = labels.iter().collect();
    if !labels.is_empty() {
        let _ = write!(said, " · labels {}", visible(&labels.join(", ")));
    }
    if !approved.is_empty() {
        let _ = write!(said, " · approved of {}", visible(&approved.join(", ")));
    }
    let _ = write!(
        said,
        " · spent {}, {} tokens, {}, {}",
        crate::spec::usd(spent.cost_usd()),
        spent.tokens,
        print::counted(spent.model_calls, "model call"),
        print::counted(spent.tool_calls, "tool call"),
    );
    said
}

fn decided(permission: Permission, by: &[Arc<str>], why: Option<&str>) -> String {
    let policies = if by.is_empty() { String::new() } else { format!(" by {}", ids(by)) };
    let why = match why {
        Some(why) => format!(": {}", visible(why)),
        None if by.is_empty() => ": no permit is about it, and the network's default decides".to_owned(),
        None => String::new(),
    };
    format!("{}{policies}{why}", permission.word())
}

fn said_in_words(decision: &Decision) -> String {
    decided(decision.permission, &decision.by, decision.why.as_deref())
}

fn ids(ids: &[Arc<str>]) -> String {
    if ids.is_empty() { "none".to_owned() } else { visible(&ids.join(", ")).into_owned() }
}

/// Says what an event of the call's way through the gate says.
fn event(envelope: &Arc<Envelope>) -> String {
    match &envelope.event {
        Event::PolicyDecided { permission, policies, set, why, .. } => {
            let said = decided(*permission, policies, why.as_deref());
            format!("policy (set {}) said {said}", short(set))
        }
        _ => words::sentence(envelope),
    }
}

fn as_json(explained: &Explained) -> Value {
    let Explained { run, call, supposed, record, has_file, now } = explained;
    let asked = supposed.as_ref().map(|supposed| {
        let Supposed { agent, subject, tenant, session, labels, depth, spent, now_ms, approved, .. } = supposed;
        let labels: Vec<&str> = labels.iter().collect();
        let spent = json!({
            "cost_usd": spent.cost_usd(), "tokens": spent.tokens, "model_calls": spent.model_calls,
            "tool_calls": spent.tool_calls, "steps": spent.steps,
        });
        json!({
            "agent": agent, "subject": subject, "tenant": tenant, "session": session, "labels": labels,
            "depth": depth, "spent": spent, "approved": approved, "now_ms": now_ms,
        })
    });
    let now: Vec<Value> = now.iter().map(now_to_json).collect();
    let record: Vec<Value> = record.iter().map(|envelope| events::line(envelope)).collect();
    json!({ "run": run, "call": call, "has_policy_file": has_file, "asked": asked, "record": record, "now": now })
}

fn now_to_json(now: &Now) -> Value {
    match &now.said {
        Err(invalid) => json!({ "policies": now.of, "diagnostics": crate::cli::check::diagnostics(&invalid.0) }),
        Ok(Said { set, about, decision }) => {
            let mut json = to_json(decision);
            (json["policies"], json["set"], json["about"]) = (json!(now.of), json!(set), json!(about));
            json
        }
    }
}
