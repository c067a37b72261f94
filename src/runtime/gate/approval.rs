//! Asking a person.

use futures_util::future::BoxFuture;

use super::desk::Desk;
use super::person::Inquired;
use crate::run::{CallId, Event, RunId, Subject};
use crate::runtime::scope::{Over, Scope};
use crate::spec::Permission;

/// The way to a person who can be asked now.
pub trait Approver: Send + Sync + 'static {
    /// Asks whether the call may happen. Dropping the future takes the question back.
    fn ask<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, bool>;

    /// Asks what an agent wants to know; none where nobody can say, and the run is to wait for an answer. Dropping the
    /// future takes the question back: somebody else has answered, or the run stops. It is asked again, with an objection,
    /// where what is said is no answer. Says nothing where it is not implemented.
    fn answer<'a>(&'a self, inquired: &'a Inquired) -> BoxFuture<'a, Option<String>> {
        let _ = inquired;
        Box::pin(async { None })
    }
}

/// What a person is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// The run.
    pub run: RunId,
    /// The call.
    pub call: CallId,
    /// What is to be called.
    pub subject: Subject,
}

/// What is known of a call's approval before it comes to the gate: it may have come there before a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::runtime) enum Known {
    /// Nothing.
    Nothing,
    /// A person was asked, and has not answered.
    Asked,
    /// A person answered, or the call had passed already.
    Decided(bool),
}

/// What became of a permission.
pub(super) enum Verdict {
    /// The call may happen.
    Granted,
    /// It may not; why, in words for the model.
    Refused(String),
    /// There is nobody to ask: the call waits, holding nothing.
    Parked,
}

/// Says what becomes of a call for which nobody need be asked; none where a person is to be.
pub(super) fn at_once(permission: Permission) -> Option<Verdict> {
    match permission {
        Permission::Allow => Some(Verdict::Granted),
        Permission::Deny => Some(Verdict::Refused("policy does not allow this call".to_owned())),
        Permission::Ask => None,
    }
}

/// Asks a person, or takes what is known of it already.
pub(super) async fn settle(known: Known, desk: &Desk, subject: &Subject, scope: &Scope) -> Result<Verdict, Over> {
    let call = desk.id.clone();
    match known {
        Known::Decided(granted) => return Ok(decided(granted)),
        Known::Asked => {}
        Known::Nothing => {
            desk.record(Event::ApprovalRequested { call: call.clone(), subject: subject.clone() }).await?;
        }
    }
    let Some(approver) = &scope.approver else { return Ok(Verdict::Parked) };
    let question = Question { run: scope.stream.run.clone(), call: call.clone(), subject: subject.clone() };
    let granted = approver.ask(&question).await;
    desk.record(Event::ApprovalDecided { call, granted }).await?;
    Ok(decided(granted))
}

fn decided(granted: bool) -> Verdict {
    match granted {
        true => Verdict::Granted,
        false => Verdict::Refused("a person did not allow this call".to_owned()),
    }
}
