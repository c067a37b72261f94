//! Exit codes. They are public: scripts depend on them.

use std::process::ExitCode;

use super::Error;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// The command did what it was asked.
    Done = 0,
    /// The command, or the run, failed.
    Failed = 1,
    /// The command was given wrongly.
    Usage = 2,
    /// The network file is invalid.
    Invalid = 3,
    /// A limit was reached.
    Limit = 4,
    /// A policy or a person denied what the run needed.
    Denied = 5,
    /// The run waits for an approval or an answer.
    Waiting = 6,
    /// A call may or may not have happened, and a person has to say.
    InDoubt = 7,
    /// The store is damaged or locked.
    Store = 8,
    /// The run was cancelled.
    Cancelled = 130,
}

impl Code {
    /// Returns the code of an error.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Invalid(_) => Self::Invalid,
            Error::Usage { .. } => Self::Usage,
            Error::Store { .. } => Self::Store,
            Error::Failed { .. } | Error::Stdout(_) => Self::Failed,
            // As with other filters, a reader that has seen enough is no failure.
            Error::StdoutClosed => Self::Done,
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}
