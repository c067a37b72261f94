//! The table of what tells an agent that goes on without getting on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is taken for a runaway. The model is told of it first; where it goes on all the same, the agent ends at the limit of
/// that name. 0 turns one off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GuardsSpec {
    /// How often an agent may make the same call with the same result while it finds nothing new. Then it is told; as often
    /// again, and it ends. Waiting (`clock.sleep`) and asking a person begin the count anew.
    #[schemars(range(min = 0, max = 1000))]
    pub same_call: u32,
    /// How often control may go to and fro between the same two agents with much the same words. The next time is refused; and
    /// who tries once more ends.
    #[schemars(range(min = 0, max = 1000))]
    pub ping_pong: u32,
    /// After how many steps in a row without a new call or a new result an agent is told so; as many again, and it ends.
    #[schemars(range(min = 0, max = 1000))]
    pub nothing_new: u32,
    /// How many tokens, estimated at three bytes each, the transcript of an agent without `compaction` may have. It is told when
    /// three quarters are reached, and ends when all are.
    #[schemars(range(min = 0))]
    pub transcript_tokens: u64,
}

impl Default for GuardsSpec {
    fn default() -> Self {
        Self { same_call: 3, ping_pong: 8, nothing_new: 8, transcript_tokens: 400_000 }
    }
}

impl GuardsSpec {
    /// Returns guards that let everything pass.
    pub fn off() -> Self {
        Self { same_call: 0, ping_pong: 0, nothing_new: 0, transcript_tokens: 0 }
    }

    /// Left out where it says nothing new, so that a network that was kept before there were guards is still the same.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
