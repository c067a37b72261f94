//! The names of accounts.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::run::{RunId, Stream};
use crate::spec::{BudgetOf, BudgetSpec};

/// The name of an account: `run/RUN`, `agent/RUN/AGENT`, `session/NETWORK/TENANT/SESSION`, `tenant/NETWORK/TENANT`,
/// `network/NETWORK` or `process`. A slash or a percent sign in a part is written `%2F`, `%25`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AccountName(Arc<str>);

impl AccountName {
    /// Names the account of a run.
    pub fn of_run(run: &RunId) -> Self {
        Self(format!("run/{run}").into())
    }

    /// Names the account of a budget for the calls of an agent; none where it is another agent's, or a session's and the run
    /// has none.
    pub fn of_budget(budget: &BudgetSpec, network: &str, stream: &Stream, agent: &str) -> Option<Self> {
        let (network, tenant) = (part(network), part(&stream.tenant));
        let name = match budget.of {
            BudgetOf::Agent if budget.agent.as_deref().is_some_and(|other| other != agent) => return None,
            BudgetOf::Agent => return Some(Self::of_agent(&stream.run, agent)),
            BudgetOf::Session => format!("session/{network}/{tenant}/{}", part(stream.session.as_deref()?)),
            BudgetOf::Tenant => format!("tenant/{network}/{tenant}"),
            BudgetOf::Network => format!("network/{network}"),
            BudgetOf::Process => "process".to_owned(),
        };
        Some(Self(name.into()))
    }

    /// Names the account of an agent in a run.
    pub fn of_agent(run: &RunId, agent: &str) -> Self {
        Self(format!("agent/{run}/{}", part(agent)).into())
    }

    /// Takes a name as it was written.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Returns the name as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is that of an agent.
    pub fn is_of_agent(&self) -> bool {
        self.0.starts_with("agent/")
    }

    /// Whether it is that of a run, or of an agent in it.
    pub(super) fn is_of(&self, run: &RunId) -> bool {
        let of_run = self.0.strip_prefix("run/").or_else(|| self.0.strip_prefix("agent/"));
        of_run
            .and_then(|rest| rest.strip_prefix(run.as_str()))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether it lasts no longer than its run.
    pub fn is_of_run(&self) -> bool {
        self.0.starts_with("run/") || self.is_of_agent()
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn part(text: &str) -> String {
    text.replace('%', "%25").replace('/', "%2F")
}
