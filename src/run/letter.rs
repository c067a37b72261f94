//! Dead letters by their names, and runs that begin with one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Message, RunId};

/// Which dead letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LetterId {
    /// The run in which the message was given up.
    pub run: RunId,
    /// The number of the event that says so.
    pub event: u64,
}

/// A dead letter that is given to its agent once more, in a run that begins with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PutBack {
    /// Which.
    pub letter: LetterId,
    /// The name of the agent that it is for.
    pub to: Arc<str>,
    /// The message, with the labels that it had.
    pub message: Arc<Message>,
}
