//! Whether a call may happen: what policy says of it, and what a person does, where one is asked.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::binding::{self, Shown};
use super::call::Work;
use super::desk::Desk;
use super::person::Inquired;
use super::{crash, tell};
use crate::policy::{Asked, Decision, Policies};
use crate::run::{self, Approval, ApprovalRequest, Ballot, CallId, Event, Labels, RunId, Subject};
use crate::runtime::run_supervisor::RunMessage;
use crate::runtime::scope::{Over, Scope};
use crate::spec::Permission;

/// The way to a person who can be asked now.
pub trait Approver: Send + Sync + 'static {
    /// Asks whether the call may happen; none where nobody can say, and the run is to wait. Dropping the future takes the
    /// question back: somebody else has answered, or the run stops. It is asked again, with an objection, where what is said
    /// can't be taken.
    fn ask<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Option<Ballot>>;

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
    /// What would change, why somebody is asked, and on which terms; none where an older version asked.
    pub request: Option<Arc<ApprovalRequest>>,
    /// Why what the person said before can't be taken; none where nothing was said.
    pub objection: Option<String>,
}

/// What is known of a call's approval before it comes to the gate: it may have come there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::runtime) enum Known {
    /// Nothing.
    Nothing,
    /// A person was asked, and has not answered.
    Asked(Option<Arc<Approval>>),
    /// A person answered.
    Decided { granted: bool, approval: Option<Arc<Approval>> },
    /// The call had passed already, and may be made again.
    Passed(Option<Arc<Approval>>),
}

/// What became of the question whether a call may happen.
pub(super) enum Verdict {
    /// It may, for as long as this holds.
    Granted(Pass),
    /// It may not; why, in words for the model.
    Refused(String),
}

/// By what a call may happen.
pub(super) struct Pass {
    /// The policies that were asked.
    policies: Arc<Policies>,
    /// What they said, and which of them.
    said: (Permission, Vec<Arc<str>>),
    /// What they were told the call is influenced by.
    labels: Labels,
    /// What they were told the call is, where that is otherwise than its agent wrote it.
    seen: Option<Box<Subject>>,
    /// When a pattern by which it may happen ends, in milliseconds since 1970.
    until_ms: Option<u64>,
    /// What a person approved of, as it was when the call was let through; none where nobody was asked.
    approved: Option<Box<Shown>>,
    /// What was known of the call's approval.
    known: Known,
    /// Whether a person changed the arguments.
    pub(super) is_edited: bool,
}

/// How far a call has come that was let through.
pub(super) enum Passed {
    /// To its end.
    Through,
    /// To where it would have been made; what is known of its approval.
    Lapsed(Known),
}

impl Pass {
    fn of(policies: Arc<Policies>, decision: Decision, labels: Labels, approved: Option<Shown>, known: Known) -> Self {
        let approved = approved.map(Box::new);
        let (said, is_edited) = ((decision.permission, decision.by), edited_by(&known).is_some());
        Self { policies, said, labels, seen: None, until_ms: None, approved, known, is_edited }
    }

    fn seen(self, seen: Option<Subject>) -> Self {
        Self { seen: seen.map(Box::new), ..self }
    }

    /// Returns what is known of the call's approval where this holds no more.
    pub(super) fn known(&self) -> Known {
        self.known.clone()
    }

    /// Whether it still holds, now that the call is about to be made: policies, what they look at and files may have changed
    /// while it waited.
    pub(super) async fn holds(&self, subject: &Subject, desk: &Desk, scope: &Scope) -> bool {
        if !Arc::ptr_eq(&self.policies, &scope.fleet.policies.now()) {
            return false;
        }
        if self.until_ms.is_some_and(|until_ms| scope.recorder.now_ms() >= until_ms) {
            return false;
        }
        if !self.policies.has_rules() && self.approved.is_none() {
            return true;
        }
        let seen = Box::pin(seen(subject, scope)).await;
        let may_differ = seen.as_ref() != self.seen.as_deref();
        if may_differ || self.policies.look_at_what_passes(&desk.agent, subject) {
            let seen = seen.as_ref().unwrap_or(subject);
            let now = decide(&self.policies, seen, &self.labels, desk, scope);
            if (now.permission, now.by) != self.said {
                return false;
            }
        }
        let Some(shown) = &self.approved else { return true };
        let now = binding::look(subject, seen.as_ref(), &self.labels, &self.policies, desk, scope).await;
        now.binding == shown.binding
    }
}

/// Says what a call has been influenced by: a model by all that it is told.
fn influence(work: &Work, desk: &Desk) -> Labels {
    let mut labels = desk.labels.clone();
    if let Work::Model(call) = work {
        call.request.messages.iter().for_each(|message| labels.join(&message.labels));
    }
    labels
}

/// Returns a call as policies and patterns are told of it, where what it names has other names, too; else none.
pub(super) async fn seen(subject: &Subject, scope: &Scope) -> Option<Subject> {
    let Subject::Tool { tool, arguments } = subject else { return None };
    let arguments = scope.tools.get(tool)?.tool.canonical(arguments).await?;
    Some(Subject::Tool { tool: tool.clone(), arguments })
}

/// Asks the policies about a call as it is seen.
pub(super) fn decide(policies: &Policies, subject: &Subject, labels: &Labels, desk: &Desk, scope: &Scope) -> Decision {
    let stream = &scope.stream;
    let asked = Asked {
        agent: &desk.agent,
        subject,
        run: stream.run.as_str(),
        tenant: &stream.tenant,
        session: stream.session.as_deref(),
        labels,
        depth: desk.situation.depth,
        spent: scope.funds.spent(),
        now_ms: scope.recorder.now_ms(),
        approved: &scope.approved.now(),
    };
    policies.decide(&asked, scope.builtin(subject))
}

/// Says whether a call may happen where nobody need be asked; none where a person is to be.
pub(super) async fn at_once(
    known: &Known,
    work: &Work,
    subject: &Subject,
    desk: &Desk,
    scope: &Scope,
) -> Result<Option<Verdict>, Over> {
    if let Known::Decided { granted: false, approval } = known {
        return Ok(Some(Verdict::Refused(refusal(approval.as_deref()))));
    }
    let policies = scope.fleet.policies.now();
    // What nobody asks for is not put together.
    let (labels, seen) = match policies.has_rules() {
        true => (influence(work, desk), Box::pin(seen(subject, scope)).await),
        false => (Labels::default(), None),
    };
    let decision = decide(&policies, seen.as_ref().unwrap_or(subject), &labels, desk, scope);
    Ok(match decision.permission {
        Permission::Ask => None,
        Permission::Allow => {
            desk.note_decision(&policies, &decision, seen.as_ref())?;
            Some(Verdict::Granted(Pass::of(policies, decision, labels, None, known.clone()).seen(seen)))
        }
        Permission::Deny => {
            desk.note_decision(&policies, &decision, seen.as_ref())?;
            let why = decision.why.as_deref().unwrap_or("policy does not allow this call");
            Some(Verdict::Refused(match edited_by(known) {
                Some(edited) => format!("{why}; a person had changed the arguments to {edited}"),
                None => why.to_owned(),
            }))
        }
    })
}

/// Finds out whether a call may happen. Where a person is asked, this waits for the answer and holds nothing; `subject` is
/// changed where the person changes it.
pub(super) async fn settle(
    mut known: Known,
    work: &Work,
    subject: &mut Subject,
    desk: &Desk,
    scope: &Scope,
) -> Result<Verdict, Over> {
    let labels = influence(work, desk);
    loop {
        if let Some(verdict) = at_once(&known, work, subject, desk, scope).await? {
            return Ok(verdict);
        }
        let policies = scope.fleet.policies.now();
        let seen = seen(subject, scope).await;
        let decision = decide(&policies, seen.as_ref().unwrap_or(subject), &labels, desk, scope);
        if decision.permission != Permission::Ask {
            // Other policies hold since a moment ago.
            continue;
        }
        let shown = binding::look(subject, seen.as_ref(), &labels, &policies, desk, scope).await;
        let again = match standing(&known, &shown, &decision, subject) {
            Standing::Holds => {
                let why = Some("as a person approved of it".into());
                let allowed = Decision { permission: Permission::Allow, why, ..decision.clone() };
                desk.note_decision(&policies, &allowed, seen.as_ref())?;
                return Ok(Verdict::Granted(Pass::of(policies, decision, labels, Some(shown), known).seen(seen)));
            }
            Standing::Waits(approval) => {
                known = wait(subject, &approval.request, approval.is_told, desk, scope).await?;
                edit(subject, &known);
                continue;
            }
            Standing::New => None,
            Standing::Changed(what) => Some(what),
        };
        let now_ms = scope.recorder.now_ms();
        let covers = |one: &&Arc<run::Standing>| {
            one.covers(&desk.agent, seen.as_ref().unwrap_or(subject), &labels, &shown.binding, &decision.by, now_ms)
        };
        if let Some(until_ms) = desk.situation.patterns.iter().find(covers).map(|standing| standing.pattern.until_ms) {
            let why = Some("as a person approved of before, by a pattern".into());
            let allowed = Decision { permission: Permission::Allow, why, ..decision.clone() };
            desk.note_decision(&policies, &allowed, seen.as_ref())?;
            let pass = Pass::of(policies, decision, labels, Some(shown), Known::Nothing);
            return Ok(Verdict::Granted(Pass { until_ms, ..pass }.seen(seen)));
        }
        desk.note_decision(&policies, &decision, seen.as_ref())?;
        let request = Arc::new(ApprovalRequest { seen: seen.map(Arc::new), ..request(decision, shown, again, now_ms) });
        let asked = Event::ApprovalRequested {
            call: desk.id.clone(),
            subject: subject.clone(),
            request: Some(request.clone()),
        };
        crash::point("before_question", "approval");
        // Who is told of it, or sees it, sees what no crash takes back.
        desk.record_durably(asked).await?;
        crash::point("after_question", "approval");
        known = wait(subject, &request, false, desk, scope).await?;
        edit(subject, &known);
    }
}

/// What was known of a call's approval, beside the call as it is now.
enum Standing {
    /// A person approved of this very call.
    Holds,
    /// A person is asked about this very call.
    Waits(Arc<Approval>),
    /// Nobody was asked.
    New,
    /// Somebody was asked about another than this; what has changed.
    Changed(String),
}

fn standing(known: &Known, shown: &Shown, decision: &Decision, subject: &Subject) -> Standing {
    let (approval, is_decided) = match known {
        Known::Nothing | Known::Passed(None) => return Standing::New,
        Known::Asked(None) | Known::Decided { approval: None, .. } => return Standing::New,
        Known::Asked(Some(approval)) => (approval, false),
        Known::Decided { approval: Some(approval), .. } | Known::Passed(Some(approval)) => (approval, true),
    };
    let asked = &approval.request.binding;
    let changed = match (&approval.edited, subject) {
        // They are as a person wrote them, wherever they lead.
        (Some(edited), Subject::Tool { arguments, .. }) if *arguments == **edited => {
            shown.binding.changed_beside_edit(asked, &shown.binding.arguments)
        }
        _ => shown.binding.changed_since(asked),
    };
    match changed {
        Some(what) => Standing::Changed(what),
        // Other people may have to say yes to this, and more of them.
        None if decision.by != approval.request.policies => Standing::Changed("which policies ask".to_owned()),
        None if is_decided => Standing::Holds,
        None => Standing::Waits(approval.clone()),
    }
}

fn request(decision: Decision, shown: Shown, again: Option<String>, now_ms: u64) -> ApprovalRequest {
    let expires = decision.terms.expires.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    ApprovalRequest {
        binding: shown.binding,
        policies: decision.by,
        why: decision.why,
        approvers: decision.terms.approvers,
        quorum: decision.terms.quorum.unwrap_or(1),
        expires_ms: expires.map(|after| now_ms.saturating_add(after)),
        change: shown.change,
        again: again.map(Into::into),
        seen: None,
    }
}

/// Waits until it is settled whether the call may happen. Those who can answer are told, and who is there is asked; where
/// nobody is, the run may be parked meanwhile.
async fn wait(
    subject: &Subject,
    request: &Arc<ApprovalRequest>,
    is_told: bool,
    desk: &Desk,
    scope: &Scope,
) -> Result<Known, Over> {
    let (told, settled) = oneshot::channel();
    desk.tell(RunMessage::AwaitApproval { call: desk.id.clone(), told })?;
    let asking = async {
        let telling = async {
            if !is_told {
                tell::approvers(subject, request, desk, scope).await?;
            }
            Ok(())
        };
        let (told, ()) = futures_util::join!(telling, ask(subject, request, desk, scope));
        told?;
        // Nobody is here who could say: it waits without a process, if all else does.
        desk.tell(RunMessage::Unattended { call: desk.id.clone() })?;
        std::future::pending::<Result<(), Over>>().await
    };
    tokio::select! {
        biased;
        known = settled => known.map_err(|_| Over),
        ended = asking => ended.and(Err(Over)),
    }
}

/// Asks the person who is there, until what is said can be taken.
async fn ask(subject: &Subject, request: &Arc<ApprovalRequest>, desk: &Desk, scope: &Scope) {
    let Some(approver) = &scope.approver else { return };
    let (run, call, request) = (scope.stream.run.clone(), desk.id.clone(), request.clone());
    let mut question = Question { run, call, subject: subject.clone(), request: Some(request), objection: None };
    while let Some(mut ballot) = approver.ask(&question).await {
        // What is answered is what was shown.
        ballot.digest = question.request.as_ref().map(|request| request.binding.digest());
        let (told, counted) = oneshot::channel();
        let message = RunMessage::Approve { call: Some(desk.id.clone()), ballot: Box::new(ballot), answer: told };
        if desk.tell(message).is_err() {
            return;
        }
        match counted.await {
            Ok(Err(why)) if why.is_of_ballot() => question.objection = Some(format!("the run {why}")),
            // It is counted; or the run stands otherwise, and somebody else may have been faster.
            _ => return,
        }
    }
}

/// Returns the arguments that a person has given the call.
fn edited_by(known: &Known) -> Option<&Arc<serde_json::Value>> {
    match known {
        Known::Decided { approval: Some(approval), .. } | Known::Passed(Some(approval)) => approval.edited.as_ref(),
        _ => None,
    }
}

/// Takes over what a person changed.
fn edit(subject: &mut Subject, known: &Known) {
    if let (Some(edited), Subject::Tool { arguments, .. }) = (edited_by(known), subject) {
        *arguments = (**edited).clone();
    }
}

fn refusal(approval: Option<&Approval>) -> String {
    match approval.and_then(|approval| approval.reason.as_ref()) {
        Some(reason) => format!("a person did not allow this call: {reason}"),
        None => "a person did not allow this call".to_owned(),
    }
}
