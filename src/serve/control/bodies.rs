//! What goes over the control socket, both ways.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::budget::{AccountName, Amount};
use crate::run::{AgentId, Ballot, CallId, Priority, Resolution, RunId};
use crate::runtime::{Queue, ReloadedPolicies, RunRequest};

/// `GET /health`: who holds the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Health {
    /// The process.
    pub pid: u32,
    /// Its version of Provost.
    pub version: String,
    /// Under which epoch it holds the store.
    pub epoch: Option<u64>,
    /// The runs that it has under way.
    pub runs: Vec<RunId>,
}

/// `GET /queues`: what waits in the process that holds the store.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Queues {
    /// The queues in which somebody waits, and those that are closed.
    pub queues: Vec<Queue>,
}

/// `POST /runs`: a run to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRun {
    /// The network, as [`Network::to_text`](crate::spec::Network::to_text) writes it.
    pub network: String,
    /// The input, verbatim.
    pub input: Arc<str>,
    /// Variables for templates.
    #[serde(default)]
    pub vars: BTreeMap<String, String>,
    /// Who the run belongs to.
    #[serde(default = "default_tenant")]
    pub tenant: Arc<str>,
    /// The key that several runs share.
    #[serde(default)]
    pub session: Option<Arc<str>>,
    /// The run's share beside other runs of its tenant.
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
    /// The absolute directory that the network's relative paths are resolved against.
    pub directory: PathBuf,
    /// The run's id, which is not in use yet; a new one where it is left out.
    #[serde(default)]
    pub id: Option<RunId>,
}

fn default_tenant() -> Arc<str> {
    RunRequest::DEFAULT_TENANT.into()
}

/// The run that was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Started {
    /// The run; it is in the store.
    pub run: RunId,
}

/// `POST /runs/{run}/resume`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResumeRun {
    /// Models to put in the place of the network's, as `--model` takes them.
    pub models: Vec<String>,
}

/// The run that goes on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Resumed {
    /// The run.
    pub run: RunId,
    /// Whether it was taken up by this request.
    pub state: Resumption,
}

/// How a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resumption {
    /// It was at rest, and has been taken up.
    TakenUp,
    /// It was under way, or somebody else is just taking it up; if it was paused, it goes on.
    UnderWay,
}

/// `POST /runs/{run}/fork`: a run to start from a point of this one's past.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForkRun {
    /// The last event that both runs have.
    pub at: u64,
    /// What the agent that stands for the run is told there.
    #[serde(default)]
    pub input: Option<Arc<str>>,
    /// The new run's priority; this one's where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// The network from there on, as [`Network::to_text`](crate::spec::Network::to_text) writes it; the one that holds
    /// there where it is left out.
    #[serde(default)]
    pub network: Option<String>,
    /// Models to put in the place of the network's, as `--model` takes them.
    #[serde(default)]
    pub models: Vec<String>,
    /// The new run's id, which is not in use yet; a new one where it is left out.
    #[serde(default)]
    pub id: Option<RunId>,
}

/// The run that was forked off.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForkedOff {
    /// The new run; it is in the store.
    pub run: RunId,
    /// The last event that both runs have.
    pub at: u64,
}

/// `POST /runs/{run}/put-back`: a dead letter of the run that its agent is to get once more, in a run of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutBackLetter {
    /// The number of the event that says that the message was given up.
    pub event: u64,
    /// The new run's priority; this one's where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Models to put in the place of the network's, as `--model` takes them.
    #[serde(default)]
    pub models: Vec<String>,
    /// The new run's id, which is not in use yet; a new one where it is left out.
    #[serde(default)]
    pub id: Option<RunId>,
}

/// `POST /runs/{run}/drop-letter`: a dead letter of the run that nobody wants any more.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropLetter {
    /// The number of the event that says that the message was given up.
    pub event: u64,
    /// Why, in a sentence.
    #[serde(default)]
    pub reason: Option<String>,
}

/// `POST /budget/top-up`: the limits of an account are raised. What is left out stays as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopUp {
    /// The account.
    pub account: AccountName,
    /// By how much.
    pub amount: Amount,
}

/// `POST /runs/{run}/cancel`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CancelRun {
    /// Why, in a sentence.
    pub reason: Option<String>,
}

/// `POST /runs/{run}/pause`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseRun {}

/// `POST /runs/{run}/steer`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SteerRun {
    /// The agent instance; the one that stands for the run where it is left out.
    #[serde(default)]
    pub agent: Option<AgentId>,
    /// What it is told.
    pub text: String,
}

/// `POST /runs/{run}/resolve`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolveRun {
    /// The call in doubt.
    pub call: CallId,
    /// What became of it.
    pub resolution: Resolution,
}

/// `POST /runs/{run}/answer`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerRun {
    /// The call that asks; the only one whose question is open where it is left out.
    #[serde(default)]
    pub call: Option<CallId>,
    /// The answer.
    pub text: String,
}

/// The answer that was taken; it is in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AnswerTaken {
    /// The run.
    pub run: RunId,
    /// The call that asked.
    pub call: CallId,
    /// Whether the run goes on with it by itself.
    pub state: Standing,
}

/// `POST /runs/{run}/approve`: what a person says of a call that awaits approval.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApproveRun {
    /// The call; the only one that awaits approval where it is left out.
    #[serde(default)]
    pub call: Option<CallId>,
    /// What is said, and by whom.
    pub ballot: Ballot,
}

/// What a person said was taken; it is in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApprovalTaken {
    /// The run.
    pub run: RunId,
    /// The call.
    pub call: CallId,
    /// How many more people have to say yes; none once it is settled.
    pub missing: u32,
    /// Whether the run goes on with it by itself.
    pub state: Standing,
}

/// `POST /policy/reload`, answered: the networks of the process whose policies are others now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoliciesReloaded {
    /// Each network that has a policy file, once.
    pub networks: Vec<ReloadedPolicies>,
}

/// Where a run stands that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is under way, and goes on with the answer.
    UnderWay,
    /// It is to be taken up again.
    AtRest,
}

/// That something was done with a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Acted {
    /// The run.
    pub run: RunId,
}

/// `POST /prune`: which ended runs to keep.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// Which.
    pub keep: Keep,
}

/// Which ended runs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// So many of those that began last.
    Newest(usize),
    /// Those that began within so many milliseconds.
    YoungerMs(u64),
}

/// What pruning removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Runs.
    pub runs: u64,
    /// Their events, and entries of the ledger that a snapshot holds.
    pub events: u64,
    /// Blobs that nothing refers to any more.
    pub blobs: u64,
}
