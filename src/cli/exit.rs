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
            Error::Invalid(_) | Error::Refused { .. } => Self::Invalid,
            Error::Usage { .. } => Self::Usage,
            Error::Store { .. } => Self::Store,
            Error::Left => Self::Cancelled,
            Error::Failed { .. } | Error::Stdout(_) => Self::Failed,
            // As with other filters, a reader that has seen enough is no failure.
            Error::StdoutClosed => Self::Done,
        }
    }
}

impl Code {
    /// Returns the worse of two codes, for a command that did several things. The worst is what most needs a person:
    /// 8, then 7, 1, 2, 3, 4, 5, 6, 130, and 0 is the best.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        const WORST_FIRST: [Code; 10] = [
            Code::Store,
            Code::InDoubt,
            Code::Failed,
            Code::Usage,
            Code::Invalid,
            Code::Limit,
            Code::Denied,
            Code::Waiting,
            Code::Cancelled,
            Code::Done,
        ];
        WORST_FIRST.into_iter().find(|code| [self, other].contains(code)).unwrap_or(self)
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_codes_the_one_that_most_needs_a_person_is_worse() {
        for (one, other, worse) in [
            (Code::Done, Code::Cancelled, Code::Cancelled),
            (Code::Waiting, Code::Cancelled, Code::Waiting),
            (Code::Failed, Code::Limit, Code::Failed),
            (Code::InDoubt, Code::Failed, Code::InDoubt),
            (Code::InDoubt, Code::Store, Code::Store),
            (Code::Done, Code::Done, Code::Done),
        ] {
            assert_eq!((one.worse(other), other.worse(one)), (worse, worse));
        }
    }
}
