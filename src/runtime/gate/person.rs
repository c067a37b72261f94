//! Asking a person what an agent wants to know: the one tool whose answer comes from outside.

use tokio::sync::oneshot;

use super::approval::{Pass, Passed};
use super::desk::Desk;
use super::{crash, permit};
use crate::run::{CallId, Event, Inquiry, NoAnswer, RunId, Subject};
use crate::runtime::run_supervisor::RunMessage;
use crate::runtime::scope::{Over, Scope};

/// What a person is asked, and by whom.
#[derive(Clone, Debug)]
pub struct Inquired {
    /// The run.
    pub run: RunId,
    /// The call.
    pub call: CallId,
    /// The question.
    pub inquiry: Inquiry,
    /// Why what the person said before is no answer; none where nothing was said.
    pub objection: Option<NoAnswer>,
}

/// Asks a person. The question is on disk before anybody sees it; one that was asked before is asked no second time, only
/// shown again. Where nobody is there to answer, the call waits and holds nothing.
pub(super) async fn ask(
    subject: &Subject,
    is_asked: bool,
    pass: &Pass,
    desk: &Desk,
    scope: &Scope,
) -> Result<Passed, Over> {
    if !is_asked {
        permit::may_begin(desk, scope).await?;
        if !pass.holds(subject, desk, scope).await {
            return Ok(Passed::Lapsed(pass.known()));
        }
        let asked = Event::InputRequested { call: desk.id.clone(), subject: subject.clone() };
        crash::point("before_question", "person");
        desk.record_durably(asked).await?;
        crash::point("after_question", "person");
    }
    let (Some(approver), Some(inquiry)) = (&scope.approver, Inquiry::of(subject)) else {
        return Ok(Passed::Through);
    };
    let (run, call) = (scope.stream.run.clone(), desk.id.clone());
    let mut inquired = Inquired { run, call, inquiry, objection: None };
    while let Some(text) = approver.answer(&inquired).await {
        match answer(text, desk).await? {
            Err(why) if !why.is_of_run() => inquired.objection = Some(why),
            // Somebody else may have been faster.
            _ => return Ok(Passed::Through),
        }
    }
    Ok(Passed::Through)
}

/// Hands an answer in. Where it is taken, the supervisor goes on with the call and drops this.
async fn answer(text: String, desk: &Desk) -> Result<Result<CallId, NoAnswer>, Over> {
    let (told, answer) = oneshot::channel();
    desk.tell(RunMessage::Answer { call: Some(desk.id.clone()), text: text.into(), answer: told })?;
    answer.await.map_err(|_| Over)
}
