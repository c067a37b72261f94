//! The tables of what is shared and waited for: the limits of all runs, the queue before them, and a model's breaker.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Span;

/// How much a tenant's share may be at most, beside that of one that is not named.
pub const MAX_WEIGHT: u32 = 1_000;

/// Limits shared by all runs of the network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fleet {
    /// How many model calls may be under way at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub model_calls_in_flight: Option<u32>,
    /// How many tool calls may be under way at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tool_calls_in_flight: Option<u32>,
    /// How many runs may be at work at once, from their first call to their end. Others are on record, and wait for their
    /// turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub runs_in_flight: Option<u32>,
    /// The tenants' shares of what is bounded, wherever several of them wait; 1 for a tenant that is not named.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    #[schemars(extend("additionalProperties" = { "type": "integer", "minimum": 1, "maximum": MAX_WEIGHT }))]
    pub weights: IndexMap<String, u32>,
    /// How many calls may wait, and for how long.
    #[serde(skip_serializing_if = "QueueSpec::is_default")]
    pub queue: QueueSpec,
}

/// How many calls may wait at one place, and for how long. Who finds no place or waits for too long fails, and says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSpec {
    /// How many may wait.
    #[schemars(range(min = 1))]
    pub capacity: u32,
    /// How long one waits at most. Runs that wait for `runs_in_flight` have their deadline instead.
    pub timeout: Span,
}

impl QueueSpec {
    /// Whether it says nothing new, so that a network that was kept before there was such a table is still the same.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for QueueSpec {
    /// What waits takes a few hundred bytes, and an hour is longer than anybody watches.
    fn default() -> Self {
        Self { capacity: 100_000, timeout: Span::from_secs(60 * 60) }
    }
}

/// When calls of a model are held back because it fails: they wait in its queue until `cool_down` is over, and then one of
/// them is the trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// How many failures in a row it takes.
    #[schemars(range(min = 1, max = 1000))]
    pub failures: u32,
    /// Within which time.
    pub within: Span,
    /// How long calls are held back.
    pub cool_down: Span,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 5, within: Span::from_secs(30), cool_down: Span::from_secs(30) }
    }
}
