//! The table of how an agent's transcript is kept within a bound.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The name under which an agent with `compaction` is offered to read results again.
pub const READ_AGAIN: &str = "read_again";

/// How an agent's transcript is kept within a bound. Long results of older steps are moved out, and can be read again; where
/// that is not enough, the older steps are summarised; and where there is no summary, they are left out, with a note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompactionSpec {
    /// How many tokens of the transcript are sent at most, estimated at three bytes each; the prompt and what describes the
    /// tools come on top.
    #[schemars(range(min = 100))]
    pub at_tokens: u64,
    /// How many of the last steps are sent as they are, where there is room for them; there is for the last one, or the agent
    /// ends.
    #[serde(
        default = "CompactionSpec::default_keep_steps",
        skip_serializing_if = "CompactionSpec::is_default_keep_steps"
    )]
    #[schemars(range(min = 1, max = 1000))]
    pub keep_steps: u32,
    /// The model that summarises; the agent's own where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub model: Option<String>,
    /// How many bytes a result of an older step may have; of one that is longer, the first lines are sent.
    #[serde(default = "CompactionSpec::default_move_out", skip_serializing_if = "CompactionSpec::is_default_move_out")]
    #[schemars(range(min = 200))]
    pub move_out_over_bytes: usize,
}

impl CompactionSpec {
    /// Makes what keeps a transcript within `at_tokens`, with the agent's own model.
    pub fn new(at_tokens: u64) -> Self {
        let (keep_steps, move_out_over_bytes) = (Self::default_keep_steps(), Self::default_move_out());
        Self { at_tokens, keep_steps, model: None, move_out_over_bytes }
    }

    fn default_keep_steps() -> u32 {
        4
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_default_keep_steps(keep_steps: &u32) -> bool {
        *keep_steps == Self::default_keep_steps()
    }

    /// About a thousand tokens: a screenful or two.
    fn default_move_out() -> usize {
        4_000
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_default_move_out(bytes: &usize) -> bool {
        *bytes == Self::default_move_out()
    }
}
