//! The tables of what may be spent: by a run, and by what runs share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Span;
use super::routes::{DEFAULT_FAN_OUT, MAX_AGENTS};

/// Limits of each run, shared by all its agents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// What a run may cost, in US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub cost_usd: Option<f64>,
    /// How many tokens a run's models may read and write.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tokens: Option<u64>,
    /// How long a run may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
    /// How many model calls a run may make; tries of one call count once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub model_calls: Option<u64>,
    /// How many model and tool calls of a run may be under way at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub in_flight: Option<u32>,
    /// How many calls of tools a run may make.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tool_calls: Option<u64>,
    /// How many steps a run's agents may take together.
    #[schemars(range(min = 1))]
    pub steps: u64,
    /// How deep delegation may go: 0 forbids it, 1 lets the entry agent delegate.
    pub depth: u32,
    /// How many agents a `for_each` may start at once.
    #[serde(skip_serializing_if = "Limits::is_default_fan_out")]
    #[schemars(range(min = 1, max = MAX_AGENTS))]
    pub fan_out: u32,
    /// How many agents a run may have over all.
    #[serde(skip_serializing_if = "Limits::is_default_agents")]
    #[schemars(range(min = 1, max = MAX_AGENTS))]
    pub agents: u32,
    /// What happens when a limit on spending is reached, of a run or of a budget.
    #[serde(skip_serializing_if = "OnLimit::is_stop")]
    pub on_limit: OnLimit,
    /// At which share of a limit on spending the run says once that it is near.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub warn_at: Option<f64>,
}

impl Limits {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_default_fan_out(fan_out: &u32) -> bool {
        *fan_out == DEFAULT_FAN_OUT
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_default_agents(agents: &u32) -> bool {
        *agents == MAX_AGENTS
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cost_usd: None,
            tokens: None,
            deadline: None,
            model_calls: None,
            in_flight: None,
            tool_calls: None,
            steps: 200,
            depth: 4,
            fan_out: DEFAULT_FAN_OUT,
            agents: MAX_AGENTS,
            on_limit: OnLimit::Stop,
            warn_at: None,
        }
    }
}

/// What happens when a limit on spending is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnLimit {
    /// The run ends.
    #[default]
    Stop,
    /// The calls that have no budget wait, and the run is parked when nothing else goes on; `provost budget top-up` raises the
    /// limit.
    Ask,
}

impl OnLimit {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_stop(&self) -> bool {
        *self == Self::Stop
    }
}

/// What may be spent by what runs share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetSpec {
    /// Who shares it.
    pub of: BudgetOf,
    /// With `of = "agent"`: the agent; each by itself where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub agent: Option<String>,
    /// How long it lasts until it begins anew, in UTC; for ever where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Period>,
    /// What may be spent, in US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub cost_usd: Option<f64>,
    /// How many tokens models may read and write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tokens: Option<u64>,
    /// How many model calls may be made; tries of one call count once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub model_calls: Option<u64>,
    /// How many calls of tools may be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tool_calls: Option<u64>,
    /// At which share of it a run says once that it is near; as the limits of a run where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub warn_at: Option<f64>,
    /// For how long that counts as spent which was charged as reserved, since no provider said what the call did cost; for good
    /// where it is left out. Then it is given back, which the ledger says. Not for budgets of agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_for: Option<Span>,
}

/// Who shares a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BudgetOf {
    /// All instances of an agent in one run.
    Agent,
    /// The runs of this network in one session of a tenant.
    Session,
    /// The runs of this network of one tenant.
    Tenant,
    /// All runs of this network.
    Network,
    /// All runs of all networks that this data directory has.
    Process,
}

/// How long a budget lasts until it begins anew, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// A day.
    Day,
    /// A month of the calendar.
    Month,
}
