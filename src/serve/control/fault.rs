//! What went wrong, as others are told: a stable code, a sentence and a hint.

use std::error::Error as _;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::journal::{AnchorError, Refuted};
use crate::run::NoAnswer;
use crate::runtime;
use crate::spec::{Invalid, OverrideError};

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The kind of fault.
    pub code: Code,
    /// What went wrong, in a sentence.
    pub message: String,
    /// What to do about it; empty where there is nothing to say.
    pub hint: String,
    /// All that is wrong with a file, each with its place, as `provost check` prints it; empty where it is no file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub report: String,
}

/// The kinds of faults; their words are public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is not what its path takes.
    InvalidRequest,
    /// The request, or the input in it, is too long.
    TooLong,
    /// There is no such path.
    NoSuchPath,
    /// There is no such run.
    NoSuchRun,
    /// What was asked can't be done with a run that stands so.
    Unfit,
    /// The network is not valid.
    InvalidNetwork,
    /// A model, a tool or a template of the network can't be made ready.
    Setup,
    /// The store can't be read or written.
    Store,
    /// The process is ending.
    Stopped,
    /// A newer Provost's.
    #[serde(other)]
    Unknown,
}

impl Code {
    fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoSuchPath | Self::NoSuchRun => StatusCode::NOT_FOUND,
            Self::Unfit => StatusCode::CONFLICT,
            Self::InvalidNetwork | Self::Setup => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Store | Self::Stopped => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A fault as the body of a response.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FaultBody {
    pub(super) error: Fault,
}

impl Fault {
    pub(super) fn new(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into(), report: String::new() }
    }

    /// Says that a policy file is not valid, and all that is wrong with it.
    fn of_policies(invalid: &Invalid) -> Self {
        let report = invalid.0.render(false);
        Self {
            report,
            ..Self::new(Code::InvalidNetwork, invalid.0.verdict("policy file"), "`provost check FILE` says where")
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let status = self.code.status();
        let body = serde_json::to_string(&FaultBody { error: self }).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

impl From<runtime::Error> for Fault {
    fn from(error: runtime::Error) -> Self {
        use runtime::Error as E;
        let (code, hint) = match &error {
            E::Model { .. } => (Code::Setup, "`--model sim` tries the network without a provider"),
            E::Template { source, .. } if source.message.contains("undefined") => {
                (Code::Setup, "give the variables that it names with --var KEY=VALUE")
            }
            E::NoSuchTool(_) | E::NoSuchAgent(_) | E::Tool { .. } | E::Template { .. } | E::Schema { .. } => {
                (Code::Setup, "")
            }
            E::InputTooLong(_) => (Code::TooLong, ""),
            E::NotAName { .. } => (Code::InvalidRequest, "give it a name, or leave it out"),
            E::NoSuchRun(_) => (Code::NoSuchRun, "`provost runs list` says which there are"),
            E::Unfit { .. } => (Code::Unfit, "`provost runs show RUN` says where it stands"),
            E::NoAnswer { why, .. } if why.is_of_run() => {
                (Code::Unfit, "`provost runs show RUN` says what it waits for")
            }
            E::NoAnswer { why: NoAnswer::Several { .. }, .. } => {
                (Code::InvalidRequest, "say which with --call; `provost runs show RUN` has the questions")
            }
            E::NoAnswer { .. } => (Code::InvalidRequest, "the question stays open"),
            E::Policy(invalid) => return Self::of_policies(invalid),
            E::NotApproved { why, .. } if why.is_of_run() => {
                (Code::Unfit, "`provost approvals` lists what awaits approval")
            }
            E::NotApproved { .. } => (Code::InvalidRequest, "the call still awaits approval"),
            E::NoForkPoint { .. } => (Code::InvalidRequest, "`provost runs show RUN` numbers its events"),
            E::NoLetter { .. } => (Code::InvalidRequest, "`provost runs dead-letters` says which there are"),
            E::NotRaised(_) => (Code::InvalidRequest, "`provost budget` shows the accounts and their limits"),
            E::Settled(_) => (Code::Unfit, "`provost runs dead-letters show RUN EVENT` prints it"),
            E::Misfit { .. } => {
                (Code::InvalidRequest, "give what is at work the same names, or fork at an earlier event")
            }
            E::Directory(_) => (Code::InvalidRequest, ""),
            E::Network { .. } => (Code::Store, "the Provost that began the run reads it"),
            E::Journal(error @ crate::journal::Error::Pruned { .. }) => (Code::Unfit, store_hint(error)),
            E::Journal(crate::journal::Error::Anchor(error)) => match error {
                AnchorError::Unfit { .. } => (Code::InvalidRequest, "name a file elsewhere, or an address of HTTP"),
                AnchorError::Lost { .. } => (Code::Store, "`provost audit verify` says what is missing"),
                AnchorError::Unreachable { .. } => (
                    Code::Unfit,
                    "without its checkpoints nothing is known of the tail: ask again when it can be reached",
                ),
            },
            E::Journal(error) => (Code::Store, store_hint(error)),
            E::Stored(_) => (Code::Store, "`provost audit verify` says whether the store is whole"),
            E::QueueFull | E::Stopped | E::GaveUp(_) => (Code::Stopped, ""),
        };
        Self::new(code, chain(&error), hint)
    }
}

impl From<crate::journal::Error> for Fault {
    fn from(error: crate::journal::Error) -> Self {
        runtime::Error::from(error).into()
    }
}

impl From<OverrideError> for Fault {
    fn from(error: OverrideError) -> Self {
        match error {
            OverrideError::NoSuchModel { .. } => {
                Self::new(Code::InvalidRequest, format!("--model: {error}"), error.hint())
            }
            OverrideError::Invalid(invalid) => Self::new(Code::InvalidNetwork, invalid.to_string(), ""),
        }
    }
}

fn store_hint(error: &crate::journal::Error) -> &'static str {
    use crate::journal::Error as E;
    match error {
        E::Absent { .. } => "`provost run` makes one; --data-dir names another directory",
        E::Held { .. } => "wait until that process ends, or end it; --take-over fences it off",
        E::Fenced { .. } => "its runs are the other process's now: provost runs list",
        E::Foreign { .. } => "name another directory with --data-dir",
        E::Newer { .. } => "use the Provost that wrote it, or a newer one",
        E::Damaged { .. } => "provost audit verify names the first fault; put a backup in its place",
        E::Pruned { .. } => "what it spent is still in the ledger",
        E::OutOfOrder { .. } | E::NoSuchStream { .. } | E::Closed => "",
        E::Refuted(refuted) => refuted_hint(refuted),
        E::Beside { .. } => "look whose file it is, and whether there is room; the store itself is not concerned",
        E::Anchor(_) => "provost audit anchor show says which anchor there is",
        E::Io { .. } => {
            "make room there, or name a directory that you may write with --data-dir; where there is room, the disk may be failing"
        }
    }
}

fn refuted_hint(refuted: &Refuted) -> &'static str {
    match refuted {
        Refuted::Unreadable { .. } => "put a copy of that file in its place, or use the Provost that wrote it",
        Refuted::TooMany { .. } => "keep the older ones elsewhere: the newest covers them",
        Refuted::Forged { .. } => "find out who can write there; what the others say still counts",
        Refuted::OtherKey { .. } => "name each key that was this store's with --key, if you know it was",
        Refuted::Contradiction { .. } => {
            "find out which copy is the right one, and give the other an anchor of its own"
        }
        Refuted::OtherStore { .. } | Refuted::Nothing { .. } => {
            "name the store's own anchor; if it is, the store was replaced: put a backup in its place"
        }
        Refuted::Lost { .. } => {
            "find out who removed them, and put a copy in their place; provost audit anchor set begins anew with what is there"
        }
        Refuted::Cut { .. } => {
            "put the newest backup in its place; if an older one was restored on purpose, keep these checkpoints and begin anew"
        }
        Refuted::Rewritten { .. } => "put a backup in its place that agrees with the checkpoints",
    }
}

/// Returns what an error says, and what its causes say.
fn chain(error: &runtime::Error) -> String {
    let (mut message, mut source) = (error.to_string(), error.source());
    // An error that is passed on as it is says the same as its cause.
    if matches!(error, runtime::Error::Journal(_)) {
        return message;
    }
    while let Some(cause) = source {
        message.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    message
}
