//! A call on its way: how far it has come, and what is known of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::budget::Amount;
use crate::fault::{self, Bug};
use crate::run::{Approval, Labels, Resolution, RunId, Subject};
use crate::spec::Effect;

/// A call that has been asked for and is not over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenCall {
    /// What it is made to.
    pub subject: Subject,
    /// Which try of it was intended last in this run, counted from 1; 0 if none was.
    pub attempt: u32,
    /// What a second try would do, as it was known when it was intended; none but for tools.
    pub effect: Option<Effect>,
    /// What is reserved for the try under way.
    pub held: Amount,
    /// What it was influenced by.
    pub labels: Labels,
    /// How far it has come.
    pub stage: Stage,
    /// The run in which it was intended first, where that is one that this run was forked from: the world knows the
    /// call by that run's key.
    pub begun_in: Option<RunId>,
    /// When its first try was intended, in this run or in the one that this was forked from, in milliseconds since 1970;
    /// none if none was. What began then and is tried again, as a sleep is, need not begin anew.
    pub first_intended_ms: Option<u64>,
    /// What a person was asked about it, and how far that has come; none if nobody was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Arc<Approval>>,
}

/// How far a call has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// A person is asked whether it may happen.
    AwaitingApproval,
    /// It is a question in the mailbox of an agent, and no instance has taken it.
    Sent {
        /// Since when, in milliseconds since 1970.
        since_ms: u64,
    },
    /// A person answered.
    Decided {
        /// Whether it may happen.
        granted: bool,
    },
    /// A person is asked what it asks.
    AwaitingInput,
    /// A person answered what it asks, and its agent has not heard it yet.
    Answered {
        /// The answer.
        text: Arc<str>,
    },
    /// It has been made, or may have been.
    Intended,
    /// It was cut off, and nobody knows what became of it.
    InDoubt,
    /// It was in doubt, and is no more.
    Resolved(Resolution),
}

impl Stage {
    /// Whether a person has said that it may happen, and nothing has happened since.
    pub fn is_granted(&self) -> bool {
        matches!(self, Self::Decided { granted: true })
    }

    /// Whether what the call does to the world may have begun. That a person is asked something does nothing to it.
    pub fn is_begun(&self) -> bool {
        !matches!(self, Self::AwaitingApproval | Self::Decided { .. } | Self::AwaitingInput | Self::Answered { .. })
    }
}

impl OpenCall {
    /// Makes a call that has not been begun.
    pub(in crate::run) fn new(subject: Subject, labels: Labels, stage: Stage) -> Self {
        Self {
            subject,
            attempt: 0,
            effect: None,
            held: Amount::default(),
            labels,
            stage,
            begun_in: None,
            first_intended_ms: None,
            approval: None,
        }
    }

    /// Whether the call goes on without a task of its own: it waits for a person or another agent.
    pub fn waits_for_others(&self) -> bool {
        matches!(self.stage, Stage::AwaitingApproval | Stage::AwaitingInput | Stage::InDoubt)
            || matches!(self.subject, Subject::Delegate { .. } | Subject::Handoff { .. })
    }

    /// Whether nobody can know what became of the call, now that its process has ended: it was intended, has no
    /// result, and a second try would do it again. The stricter of what was known then and is known now holds.
    pub fn is_in_doubt(&self, present: Option<Effect>) -> bool {
        let is_tool = matches!(self.subject, Subject::Tool { .. });
        let is_tool = is_tool && !fault::is_planted(Bug::OnceMadeAgain);
        is_tool && self.stage == Stage::Intended && self.effect.max(present).unwrap_or(Effect::Once) == Effect::Once
    }
}
