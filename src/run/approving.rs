//! Approvals: what a person is asked about a call, what binds the answer to it, and which answers are taken.

mod binding;
mod pattern;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::binding::{Binding, BoundFile};
pub use self::pattern::{Pattern, Standing};
use super::{CallId, OpenCall, RunState, Stage, Status, Subject};
pub use crate::spec::is_person;
use crate::spec::{MAX_PERSON, visible_text};

/// How long a reason may be, in bytes: a model reads it, and a person wrote it.
pub const MAX_REASON_BYTES: usize = 4 * 1024;

/// How many patterns may hold in a run at a time: more than one person keeps in mind.
pub const MAX_STANDING: usize = 100;

/// Who answers where nobody says who he is.
pub const SOMEBODY: &str = "person";

/// What a person is asked about a call, and on which terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequest {
    /// What a grant is bound to.
    pub binding: Binding,
    /// The policies that ask, by their ids; none where the network's default does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Arc<str>>,
    /// Why somebody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Arc<str>>,
    /// Who may answer; anybody where nobody is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<Arc<str>>,
    /// How many have to say yes.
    pub quorum: u32,
    /// When nobody's answer is a no, in milliseconds since 1970 (UTC); never where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// What the call would change, for a person to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Arc<str>>,
    /// What has changed since it was asked before; none if it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Arc<str>>,
    /// The call as policies and patterns are told of it, where that is otherwise than its agent wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Arc<Subject>>,
}

impl ApprovalRequest {
    /// Returns the call as policies and patterns are told of it.
    pub fn seen<'a>(&'a self, subject: &'a Subject) -> &'a Subject {
        self.seen.as_deref().unwrap_or(subject)
    }
}

/// How far the approval of a call has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// What is asked.
    pub request: Arc<ApprovalRequest>,
    /// Since when, in milliseconds since 1970 (UTC).
    #[serde(default)]
    pub since_ms: u64,
    /// Who has said yes so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub votes: Vec<Arc<str>>,
    /// The arguments, where a person changed them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited: Option<Arc<Value>>,
    /// Whether those who can answer have been told.
    #[serde(default)]
    pub is_told: bool,
    /// Why somebody said no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
}

/// What a person says of a call, and who.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ballot {
    /// Under which name. It is believed: who may reach the store or its socket may write any.
    #[serde(default = "somebody")]
    pub by: Arc<str>,
    /// What.
    pub ruling: Ruling,
    /// The digest of what was shown, as [`Binding::digest`] makes it; an answer to anything else is refused then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Arc<str>>,
    /// Whose run it is meant to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<str>>,
}

fn somebody() -> Arc<str> {
    SOMEBODY.into()
}

impl NotApproved {
    /// Whether it is the run that stands otherwise, and not what is said that is wrong.
    pub fn is_of_run(&self) -> bool {
        matches!(
            self,
            Self::Ended(_)
                | Self::NothingAsked
                | Self::Decided { .. }
                | Self::NoSuchCall { .. }
                | Self::Changed(_)
                | Self::Expired(_)
                | Self::Voted { .. }
        )
    }

    /// Whether it is the ballot that is wrong, so that the same person may cast another one.
    pub fn is_of_ballot(&self) -> bool {
        matches!(
            self,
            Self::NoName | Self::BadReason | Self::BadArguments { .. } | Self::OneAlone { .. } | Self::BadPattern(_)
        )
    }
}

impl Ballot {
    /// Says yes or no, without a name.
    pub fn of(granted: bool) -> Self {
        let ruling = match granted {
            true => Ruling::Approve { standing: None },
            false => Ruling::Reject { reason: None },
        };
        Self { by: somebody(), ruling, digest: None, tenant: None }
    }
}

/// What a person says of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// It may happen.
    Approve {
        /// Which calls like it may, too; none but this one where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        standing: Option<Pattern>,
    },
    /// It may not.
    Reject {
        /// Why, in words for the model.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Arc<str>>,
    },
    /// It may happen with other arguments, where policy does not forbid it then.
    Edit {
        /// All of them.
        arguments: Value,
    },
}

/// How a call's approval was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruled {
    /// Whether it may happen.
    pub granted: bool,
    /// By whom; nobody where nobody answered in time.
    pub by: Vec<Arc<str>>,
}

/// Why what a person says of a call can't be taken. Displayed as the rest of a sentence that begins with the run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotApproved {
    /// The run is over.
    #[error("has ended: {}", .0.word())]
    Ended(Status),
    /// The run is another tenant's.
    #[error("is not the tenant's `{0}`")]
    OtherTenant(Arc<str>),
    /// Nothing awaits approval.
    #[error("has no call that awaits approval")]
    NothingAsked,
    /// It was decided before.
    #[error("was told already: call `{call}` was {}", said(.ruled))]
    Decided {
        /// The call.
        call: CallId,
        /// How, and by whom.
        ruled: Ruled,
    },
    /// No such call awaits approval.
    #[error("has no call `{call}` that awaits approval; those that do: {}", named(.open))]
    NoSuchCall {
        /// The call.
        call: CallId,
        /// The calls that await approval.
        open: Vec<CallId>,
    },
    /// It is not clear which call is meant.
    #[error("has {} calls that await approval: {}", .open.len(), named(.open))]
    Several {
        /// The calls.
        open: Vec<CallId>,
    },
    /// What is asked is not what was shown.
    #[error("asks something else about call `{0}` than what was shown: look at it again")]
    Changed(CallId),
    /// It is too late.
    #[error("waits no longer for call `{0}`: its time is over, and that is a no")]
    Expired(CallId),
    /// The person may not say.
    #[error("can't be told by `{by}`; for call `{call}` may say: {}", .approvers.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))]
    NoApprover {
        /// The call.
        call: CallId,
        /// Who tried.
        by: Arc<str>,
        /// Who may.
        approvers: Vec<Arc<str>>,
    },
    /// The person has said yes before.
    #[error("was told already by `{by}`, and waits for {missing} more")]
    Voted {
        /// Who.
        by: Arc<str>,
        /// How many more have to say yes.
        missing: u32,
    },
    /// The name is none.
    #[error("can't be told by nobody: a name has 1 to {MAX_PERSON} bytes, and no control or hidden characters")]
    NoName,
    /// The reason is too long, or can't be read.
    #[error(
        "can't take this reason: it may have {MAX_REASON_BYTES} bytes, and no control or hidden characters but line ends and tabs"
    )]
    BadReason,
    /// The new arguments are none that the tool takes.
    #[error("can't make call `{call}` so: {why}")]
    BadArguments {
        /// The call.
        call: CallId,
        /// What is wrong with them.
        why: String,
    },
    /// One person can't do alone what several have to agree to.
    #[error("has {quorum} people to agree to call `{call}`: one alone may approve it as it is, or reject it")]
    OneAlone {
        /// The call.
        call: CallId,
        /// How many have to agree.
        quorum: u32,
    },
    /// The pattern is none that the call itself is like, or there are too many.
    #[error("can't take this pattern: {0}")]
    BadPattern(&'static str),
}

fn said(ruled: &Ruled) -> String {
    let what = if ruled.granted { "approved" } else { "rejected" };
    match ruled.by.is_empty() {
        true => format!("{what}, since nobody answered in time"),
        false => format!("{what} by {}", ruled.by.join(", ")),
    }
}

fn named(calls: &[CallId]) -> String {
    calls.iter().map(|call| format!("`{call}`")).collect::<Vec<_>>().join(", ")
}

/// What follows from a ballot that is taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Counted {
    /// It is settled.
    Decided {
        /// Whether it may happen.
        granted: bool,
        /// What was said.
        verdict: Verdict,
    },
    /// More have to say yes.
    Voted {
        /// How many.
        missing: u32,
    },
}

/// Who settled a call's approval, and what they said beside yes or no.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Who answered; nobody where nobody did in time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<Arc<str>>,
    /// Why not, in words for the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// The arguments, where a person changed them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Arc<Value>>,
    /// Which later calls may happen, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Arc<Standing>>,
}

impl Verdict {
    /// Whether nothing is said beside yes or no, as by an older version.
    pub(super) fn says_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl RunState {
    /// Says which call a ballot is for, the only one that awaits approval where none is named, and what follows from it.
    /// `takes` says of a call what is wrong with arguments.
    ///
    /// # Errors
    /// It can't be taken.
    pub fn count_ballot(
        &self,
        call: Option<&CallId>,
        ballot: &Ballot,
        now_ms: u64,
        takes: impl FnOnce(&CallId, &Value) -> Result<(), String>,
    ) -> Result<(CallId, Counted), NotApproved> {
        let tenant = self.beginning().map(|beginning| beginning.stream.tenant.clone()).unwrap_or_default();
        if let Some(meant) = ballot.tenant.as_ref().filter(|meant| **meant != tenant) {
            return Err(NotApproved::OtherTenant(meant.clone()));
        }
        if !is_person(&ballot.by) {
            return Err(NotApproved::NoName);
        }
        let (call, open) = self.approvable(call)?;
        let of = |by| Verdict { by, ..Verdict::default() };
        let one = || of(vec![ballot.by.clone()]);
        let Some(approval) = &open.approval else {
            // An older version asked; the gate asks anew for what it has to know.
            let granted = !matches!(ballot.ruling, Ruling::Reject { .. });
            return Ok((call, Counted::Decided { granted, verdict: one() }));
        };
        let request = &approval.request;
        if ballot.digest.as_ref().is_some_and(|shown| *shown != request.binding.digest()) {
            return Err(NotApproved::Changed(call));
        }
        if request.expires_ms.is_some_and(|expires_ms| now_ms >= expires_ms) {
            return Err(NotApproved::Expired(call));
        }
        if !request.approvers.is_empty() && !request.approvers.contains(&ballot.by) {
            let approvers = request.approvers.clone();
            return Err(NotApproved::NoApprover { call, by: ballot.by.clone(), approvers });
        }
        let is_one_alone = request.quorum <= 1;
        match &ballot.ruling {
            Ruling::Reject { reason } => {
                if reason.as_ref().is_some_and(|reason| !is_reason(reason)) {
                    return Err(NotApproved::BadReason);
                }
                let reason = reason.clone().filter(|reason| !reason.trim().is_empty());
                Ok((call, Counted::Decided { granted: false, verdict: Verdict { reason, ..one() } }))
            }
            Ruling::Edit { arguments } => {
                if !is_one_alone {
                    return Err(NotApproved::OneAlone { call, quorum: request.quorum });
                }
                if let Err(why) = takes(&call, arguments) {
                    return Err(NotApproved::BadArguments { call, why });
                }
                let arguments = Some(Arc::new(arguments.clone()));
                Ok((call, Counted::Decided { granted: true, verdict: Verdict { arguments, ..one() } }))
            }
            Ruling::Approve { standing } => {
                if approval.votes.contains(&ballot.by) {
                    let missing = request.quorum.saturating_sub(approval.votes.len() as u32);
                    return Err(NotApproved::Voted { by: ballot.by.clone(), missing });
                }
                if standing.is_some() && !is_one_alone {
                    return Err(NotApproved::OneAlone { call, quorum: request.quorum });
                }
                let standing = standing.as_ref().map(|pattern| self.standing_for(&call, open, pattern)).transpose()?;
                let mut by = approval.votes.clone();
                by.push(ballot.by.clone());
                let missing = request.quorum.saturating_sub(by.len() as u32);
                Ok((
                    call,
                    match missing {
                        0 => Counted::Decided { granted: true, verdict: Verdict { standing, ..of(by) } },
                        missing => Counted::Voted { missing },
                    },
                ))
            }
        }
    }

    /// Finds the call that a ballot is for.
    fn approvable(&self, call: Option<&CallId>) -> Result<(CallId, &OpenCall), NotApproved> {
        if let Some((call, ruled)) = call.and_then(|call| Some((call, self.ruled(call)?))) {
            let is_asked_again = self.open_call(call).is_some_and(|open| open.stage == Stage::AwaitingApproval);
            if !is_asked_again {
                return Err(NotApproved::Decided { call: call.clone(), ruled: ruled.clone() });
            }
        }
        let status = self.status();
        if status != Status::Running && !status.can_go_on() {
            return Err(match self.last_ruled().filter(|_| call.is_none()) {
                Some((call, ruled)) => NotApproved::Decided { call: call.clone(), ruled: ruled.clone() },
                None => NotApproved::Ended(status),
            });
        }
        let open: Vec<(&CallId, &OpenCall)> = self.awaiting_approval().collect();
        let calls = || open.iter().map(|(call, _)| (*call).clone()).collect::<Vec<_>>();
        match (call, open.as_slice()) {
            (Some(call), open) => match open.iter().find(|(one, _)| *one == call) {
                Some((call, open)) => Ok(((*call).clone(), open)),
                None if open.is_empty() => Err(NotApproved::NothingAsked),
                None => Err(NotApproved::NoSuchCall { call: call.clone(), open: calls() }),
            },
            (None, [(call, open)]) => Ok(((*call).clone(), open)),
            (None, []) => match self.last_ruled() {
                Some((call, ruled)) => Err(NotApproved::Decided { call: call.clone(), ruled: ruled.clone() }),
                None => Err(NotApproved::NothingAsked),
            },
            (None, _) => Err(NotApproved::Several { open: calls() }),
        }
    }

    fn standing_for(&self, call: &CallId, open: &OpenCall, pattern: &Pattern) -> Result<Arc<Standing>, NotApproved> {
        let not_alike = NotApproved::BadPattern("only calls of tools are alike");
        let Some(approval) = &open.approval else { return Err(not_alike) };
        let Subject::Tool { tool, arguments } = approval.request.seen(&open.subject) else { return Err(not_alike) };
        let agent = self.agents().get(&call.agent).map(|instance| instance.name.clone());
        let standing = Standing {
            agent: agent.unwrap_or_default(),
            tool: tool.clone(),
            arguments: arguments.clone(),
            pattern: pattern.clone(),
            labels: open.labels.clone(),
            binding: approval.request.binding.clone(),
            policies: approval.request.policies.clone(),
        };
        if !standing.is_like(arguments) {
            return Err(NotApproved::BadPattern("the call itself is not like it"));
        }
        if self.standing().len() >= MAX_STANDING {
            return Err(NotApproved::BadPattern("as many hold as may"));
        }
        Ok(Arc::new(standing))
    }

    /// Says why a call that awaits approval may not happen whose time is over; none where it is not.
    pub fn expired(&self, call: &CallId, now_ms: u64) -> Option<Verdict> {
        let open = self.open_call(call).filter(|open| open.stage == Stage::AwaitingApproval)?;
        let is_over = open.approval.as_ref()?.request.expires_ms.is_some_and(|expires_ms| now_ms >= expires_ms);
        let reason = Some("nobody answered in time".into());
        is_over.then_some(Verdict { reason, ..Verdict::default() })
    }
}

fn is_reason(reason: &str) -> bool {
    reason.len() <= MAX_REASON_BYTES && visible_text(reason) == reason
}

#[cfg(test)]
mod tests;
