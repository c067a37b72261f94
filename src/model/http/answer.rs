//! What a dialect says of its answers, so that they can be read whole or piece by piece.

use serde_json::Value;

use crate::model::Reply;
use crate::run::Usage;

/// How many tool calls one answer may hold: no provider allows as many, and each costs a search per piece.
pub(in crate::model) const MAX_TOOL_CALLS: usize = 256;

/// No model reads or writes as many tokens in one call; a number beyond it is a slip of the server.
pub(in crate::model) const MAX_TOKENS: u64 = 1_000_000_000;

/// The answer holds more tool calls than [`MAX_TOOL_CALLS`].
#[derive(Debug)]
pub(in crate::model) struct TooManyCalls;

/// What an event of a stream did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Step {
    /// Nothing that says that the model goes on.
    Nothing,
    /// It brought the answer further.
    GotOn,
    /// It was the last one.
    Done,
}

/// An answer in some dialect, put together from one JSON body or from the pieces of a stream.
pub(in crate::model) trait Answer: Default + Send {
    /// Takes a whole answer, and says whether it is one.
    fn take_whole(&mut self, body: &Value) -> Result<bool, TooManyCalls>;

    /// Takes a piece of a streamed answer, tells `progress` of the text in it, and says what it did: a piece that only
    /// names the role, or only keeps the connection alive, is nothing.
    fn take_piece(&mut self, piece: &Value, progress: &dyn Fn(&str)) -> Result<Step, TooManyCalls>;

    /// Whether `[DONE]` ends an answer of this dialect, whatever came before.
    const ENDS_WITH_DONE: bool;

    /// Whether the model has said that it is done, so that nothing that happens to the stream makes the answer worse.
    fn is_finished(&self) -> bool;

    /// Whether anything of an answer has come.
    fn has_begun(&self) -> bool;

    /// Whether the model has written anything, which will be billed.
    fn has_written(&self) -> bool {
        self.has_begun()
    }

    /// Whether the model is at work on something that it does not show.
    fn is_thinking(&self) -> bool {
        false
    }

    /// Returns what the call used, as far as it has been said.
    fn usage(&self) -> Option<Usage>;

    /// Makes the reply.
    fn into_reply(self) -> Reply;
}

/// Reads a number of tokens; none if it can't be true: negative, fractional or absurd.
pub(in crate::model) fn tokens(value: Option<&Value>) -> Option<u64> {
    value.and_then(Value::as_u64).filter(|tokens| *tokens <= MAX_TOKENS)
}
