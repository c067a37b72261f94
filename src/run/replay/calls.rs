//! Whether what is recorded of a call is what was wanted of it, and what the run's state makes of it.

use super::wants::{Progress, Want};
use super::{Otherwise, Replay, words};
use crate::run::{
    AgentId, CallId, Envelope, Event, Labels, OpenCall, Pick, Resolution, Stage, Subject, ToolFailure, Why, fall_backs,
    pick, refused,
};
use crate::spec::Builtin;

impl Replay {
    /// Whether what happened to a call follows from those before; and whether it was decided, or is a result.
    pub(super) fn check_call(&mut self, envelope: &Envelope, is_owed: bool) -> Result<bool, Otherwise> {
        match &envelope.event {
            Event::ModelChosen { call, model, why, reason } => return self.check_choice(call, model, *why, reason),
            Event::CallIntended { call, attempt, subject, .. } => {
                self.check_intent(envelope, call, *attempt, subject)?;
                return Ok(true);
            }
            Event::ApprovalRequested { call, subject, .. } => {
                self.check_question(envelope, call, subject)?;
                return Ok(true);
            }
            Event::ApprovalVoted { call, .. } => {
                self.check_stage(call, |stage| *stage == Stage::AwaitingApproval)?;
            }
            Event::ApprovalDecided { call, granted, .. } => {
                self.check_stage(call, |stage| *stage == Stage::AwaitingApproval)?;
                self.progress(call, if *granted { Progress::Granted } else { Progress::Denied })?;
            }
            Event::InputRequested { call, subject } => {
                self.check_inquiry(envelope, call, subject)?;
                return Ok(true);
            }
            Event::InputGiven { call, .. } => self.check_stage(call, |stage| *stage == Stage::AwaitingInput)?,
            Event::TryFailed { call, .. } => {
                if !is_owed {
                    self.check_begun(call)?;
                }
                self.progress(call, Progress::Nothing)?;
            }
            Event::CallInDoubt { call, .. } => {
                self.check_stage(call, |stage| *stage == Stage::Intended)?;
                self.want(call)?;
            }
            Event::CallResolved { call, .. } => {
                self.check_stage(call, |stage| matches!(stage, Stage::InDoubt | Stage::Intended))?;
                self.progress(call, Progress::Nothing)?;
            }
            Event::ModelReplied { call, .. } => {
                self.check_begun(call)?;
                self.got(call);
            }
            // It may have failed before it was made, where the task of the call broke off.
            Event::ModelFailed { call, .. } => {
                self.want(call)?;
                self.got(call);
            }
            Event::ToolReturned { call, failure, .. } => {
                let is_decided = is_owed || self.check_result(call, *failure, &envelope.event)?;
                self.got(call);
                return Ok(is_decided);
            }
            _ => {}
        }
        Ok(false)
    }

    fn check_begun(&self, call: &CallId) -> Result<(), Otherwise> {
        match self.want(call)?.progress {
            Progress::Begun => Ok(()),
            _ => Err(self.wanted_by(&call.agent)),
        }
    }

    fn check_intent(
        &mut self,
        envelope: &Envelope,
        call: &CallId,
        attempt: u32,
        subject: &Subject,
    ) -> Result<(), Otherwise> {
        let want = self.want(call)?;
        self.check_subject(envelope, want, subject)?;
        if self.asks_person(subject) {
            return Err(want.words());
        }
        match want.progress {
            Progress::Nothing | Progress::Granted => {}
            Progress::Asked | Progress::Denied | Progress::Begun => return Err(want.words()),
        }
        let open = self.fold.run.open_call(call);
        let next = open.map_or(1, |open| open.attempt + 1);
        if attempt != next {
            return Err(words::intent(call, next, subject, &envelope.labels));
        }
        let is_in_doubt = open.is_some_and(|open| match &open.stage {
            Stage::Intended => open.is_in_doubt(None),
            Stage::InDoubt | Stage::Resolved(Resolution::Done { .. } | Resolution::Fail) => true,
            Stage::AwaitingApproval | Stage::Decided { .. } | Stage::Resolved(Resolution::Retry) => false,
            Stage::AwaitingInput | Stage::Answered { .. } => true,
            // It waits for its turn, and is not made again.
            Stage::Sent { .. } => true,
        });
        if is_in_doubt {
            return Err(format!("call {call} was cut off, and is not made a second time"));
        }
        if let Some(Err(not)) = self.asked(call, subject, &envelope.labels) {
            return Err(words::event_of(Some(&call.agent), &refused(call, subject, not.failure, not.why)));
        }
        self.progress(call, Progress::Begun)
    }

    fn check_question(&mut self, envelope: &Envelope, call: &CallId, subject: &Subject) -> Result<(), Otherwise> {
        let want = self.want(call)?;
        self.check_subject(envelope, want, subject)?;
        // Somebody is asked again where what was asked has changed: until the call is being made, that may be.
        match want.progress {
            Progress::Nothing | Progress::Asked | Progress::Granted => self.progress(call, Progress::Asked),
            Progress::Denied | Progress::Begun => Err(want.words()),
        }
    }

    /// Whether a question is what was wanted, and has not been put yet.
    fn check_inquiry(&mut self, envelope: &Envelope, call: &CallId, subject: &Subject) -> Result<(), Otherwise> {
        let want = self.want(call)?;
        self.check_subject(envelope, want, subject)?;
        let is_next = match want.progress {
            Progress::Granted => true,
            Progress::Nothing => self.fold.run.open_call(call).is_none_or(|open| open.stage.is_granted()),
            Progress::Asked | Progress::Denied | Progress::Begun => false,
        };
        if !is_next || !self.asks_person(subject) {
            return Err(want.words());
        }
        self.progress(call, Progress::Begun)
    }

    /// Whether a call is a question to a person.
    fn asks_person(&self, subject: &Subject) -> bool {
        let Subject::Tool { tool, .. } = subject else { return false };
        let spec = self.rules.as_ref().and_then(|rules| rules.network.spec().tools.get(&**tool));
        spec.is_some_and(|spec| spec.builtin == Some(Builtin::PersonAsk))
    }

    fn check_subject(&self, envelope: &Envelope, want: &Want, subject: &Subject) -> Result<(), Otherwise> {
        let pick = envelope.agent.as_ref().and_then(|agent| self.pick(agent));
        if let (true, Some(Pick { change: Some(change), .. })) = (want.is_step(), &pick) {
            return Err(words::choice(&change.model, &change.reason));
        }
        let model = pick.as_ref().map(|pick| &*pick.current);
        // What a person changed is on record.
        let open = envelope.event.call().and_then(|call| self.fold.run.open_call(call));
        let is_edited = |open: &OpenCall| {
            open.subject == *subject && open.approval.as_ref().is_some_and(|approval| approval.edited.is_some())
        };
        match want.is_made_to(subject, &envelope.labels, model) || open.is_some_and(is_edited) {
            true => Ok(()),
            false => Err(want.words_with(model)),
        }
    }

    /// Says which model an agent goes to, as far as its own events say.
    fn pick(&self, agent: &AgentId) -> Option<Pick> {
        Some(pick(self.definition(agent).ok()?, self.fold.agents.get(agent)?))
    }

    /// Whether an agent goes to another model as it has to, or may. That a budget is low, and that a model can't be had, is
    /// taken from the record. Whether it was decided.
    fn check_choice(&self, call: &CallId, model: &str, why: Why, reason: &str) -> Result<bool, Otherwise> {
        let want = self.want(call)?;
        let (Some(pick), true) = (self.pick(&call.agent), want.is_step() && want.progress == Progress::Nothing) else {
            return Err(want.words());
        };
        let choice = &self.definition(&call.agent)?.choice;
        let is_so = match why {
            Why::Rule | Why::Escalated | Why::Unsure => pick
                .change
                .as_ref()
                .is_some_and(|change| (&*change.model, change.why, &*change.reason) == (model, why, reason)),
            Why::Downgraded => !pick.is_bound && choice.downgrade.iter().any(|name| name == model),
            Why::FellBack => {
                let mut next = fall_backs(choice, &pick.current, pick.is_bound);
                pick.change.is_none() && next.next().is_some_and(|name| name == model)
            }
        };
        match (is_so, &pick.change) {
            (true, _) => Ok(!matches!(why, Why::Downgraded | Why::FellBack)),
            (false, Some(change)) => Err(words::choice(&change.model, &change.reason)),
            (false, None) => Err(want.words_with(Some(&pick.current))),
        }
    }

    fn check_stage(&self, call: &CallId, fits: impl Fn(&Stage) -> bool) -> Result<(), Otherwise> {
        match self.fold.run.open_call(call) {
            Some(open) if fits(&open.stage) => Ok(()),
            _ => Err(self.wanted_by(&call.agent)),
        }
    }

    /// Whether the result of a call was decided, and is none that a tool, a person or policy gave.
    fn check_result(&self, call: &CallId, failure: Option<ToolFailure>, event: &Event) -> Result<bool, Otherwise> {
        let want = self.want(call)?;
        if let Some(refusal) = want.refusal() {
            return if refusal == *event { Ok(true) } else { Err(want.words()) };
        }
        let open = self.fold.run.open_call(call);
        let network = self.rules.as_ref().map(|rules| rules.network.spec());
        if let Some(known) = open.zip(network).and_then(|(open, network)| open.known_result(call, network)) {
            return if known == *event { Ok(true) } else { Err(words::event_of(Some(&call.agent), &known)) };
        }
        if open.is_some_and(|open| open.stage == Stage::AwaitingInput) {
            return Err("nothing: a person is asked, and has not answered".to_owned());
        }
        match (want.progress, failure, want.subject()) {
            // The answer of an agent is owed when it ends.
            (Progress::Begun, _, Some(Subject::Tool { .. })) => Ok(false),
            // It was begun in the run that this one was forked from, and has the result that it got there.
            (Progress::Nothing, _, Some(Subject::Tool { .. })) if open.is_some_and(|open| open.begun_in.is_some()) => {
                Ok(false)
            }
            (Progress::Begun, ..) => Err(want.words()),
            (Progress::Nothing | Progress::Denied, Some(ToolFailure::Denied), _) => Ok(false),
            (_, Some(ToolFailure::Panicked), _) => Ok(false),
            (_, Some(ToolFailure::MailboxFull), Some(subject)) => match self.has_no_room(call, subject) {
                Some(refused) if refused == *event => Ok(false),
                _ => Err(want.words()),
            },
            (_, Some(ToolFailure::OutOfBounds | ToolFailure::PingPong), Some(subject)) => {
                match self.asked(call, subject, &Labels::default()) {
                    Some(Err(not)) if refused(call, subject, not.failure, not.why.clone()) == *event => Ok(true),
                    _ => Err(want.words()),
                }
            }
            _ => Err(want.words()),
        }
    }
}
