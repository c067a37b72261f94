//! What an agent wants, as it was decided, and how far each of it has come.

use std::sync::Arc;

use super::words;
use crate::run::{AgentOutcome, CallId, Effect, Event, Guard, Labels, Message, Subject};

/// What an agent wants at one time. It wants nothing else before it has all of this.
#[derive(Debug)]
pub(super) struct Batch {
    /// What it had been influenced by when it decided.
    pub(super) labels: Labels,
    /// What it has not got yet.
    pub(super) wants: Vec<Want>,
}

/// One thing that an agent wants.
#[derive(Debug)]
pub(super) struct Want {
    effect: Effect,
    pub(super) progress: Progress,
}

/// How far a want has come since its agent said it: what came before the run was taken up again is in the run's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing has been done about it.
    Nothing,
    /// A person is asked.
    Asked,
    /// A person said yes.
    Granted,
    /// A person said no.
    Denied,
    /// It is being made.
    Begun,
}

impl Batch {
    pub(super) fn new(effects: Vec<Effect>, labels: &Labels) -> Self {
        let want = |effect| Want { effect, progress: Progress::Nothing };
        Self { labels: labels.clone(), wants: effects.into_iter().map(want).collect() }
    }

    pub(super) fn of(&self, call: &CallId) -> Option<&Want> {
        self.wants.iter().find(|want| want.call() == Some(call))
    }

    pub(super) fn of_mut(&mut self, call: &CallId) -> Option<&mut Want> {
        self.wants.iter_mut().find(|want| want.call() == Some(call))
    }

    /// Says what is wanted.
    pub(super) fn words(&self) -> String {
        let wants: Vec<String> = self.wants.iter().map(Want::words).collect();
        words::several(&wants)
    }
}

impl Want {
    /// Returns the call that is wanted, if it is one.
    pub(super) fn call(&self) -> Option<&CallId> {
        match &self.effect {
            Effect::CallModel { call, .. }
            | Effect::Summarise { call, .. }
            | Effect::Act { call, .. }
            | Effect::Refuse { call, .. }
            | Effect::Decide { call, .. } => Some(call),
            Effect::Repair { .. } | Effect::Warn { .. } | Effect::Compact { .. } | Effect::End(_) => None,
        }
    }

    /// Whether it is the model call of a step.
    pub(super) fn is_step(&self) -> bool {
        matches!(self.effect, Effect::CallModel { .. })
    }

    /// Returns what is to be called, unless it is the model.
    pub(super) fn subject(&self) -> Option<&Subject> {
        match &self.effect {
            Effect::Act { subject, .. } => Some(subject),
            _ => None,
        }
    }

    /// Whether a call that is made to `subject` is what is wanted, where the agent's model is `model`.
    pub(super) fn is_made_to(&self, subject: &Subject, labels: &Labels, model: Option<&str>) -> bool {
        match (&self.effect, subject) {
            // How much it may write is for the budget to say.
            (Effect::CallModel { .. }, Subject::Model { model: asked, .. }) => model == Some(&**asked),
            (Effect::Summarise { model, .. }, Subject::Model { model: asked, .. }) => model == asked,
            (Effect::Act { subject: wanted, labels: influence, .. }, subject) => {
                wanted == subject && influence == labels
            }
            _ => false,
        }
    }

    /// Returns the event of a refusal, if it is one.
    pub(super) fn refusal(&self) -> Option<Event> {
        match &self.effect {
            Effect::Refuse { call, failure, message } => {
                Some(Event::ToolReturned { call: call.clone(), message: message.clone(), failure: Some(*failure) })
            }
            _ => None,
        }
    }

    pub(super) fn is_decision(&self, call: &CallId, message: &Arc<Message>) -> bool {
        matches!(&self.effect, Effect::Decide { call: of, message: wanted } if (of, wanted) == (call, message))
    }

    pub(super) fn is_repair(&self, message: &Arc<Message>) -> bool {
        matches!(&self.effect, Effect::Repair { message: wanted } if wanted == message)
    }

    pub(super) fn is_warning(&self, guard: Guard, message: &Arc<Message>) -> bool {
        matches!(&self.effect, Effect::Warn { guard: of, message: wanted } if (*of, wanted) == (guard, message))
    }

    pub(super) fn is_compaction(&self, event: &Event) -> bool {
        matches!(&self.effect, Effect::Compact { event: wanted } if **wanted == *event)
    }

    pub(super) fn is_end(&self, outcome: &AgentOutcome) -> bool {
        matches!(&self.effect, Effect::End(wanted) if wanted == outcome)
    }

    /// Says what is wanted, or waited for.
    pub(super) fn words(&self) -> String {
        self.words_with(None)
    }

    pub(super) fn words_with(&self, model: Option<&str>) -> String {
        let waits = |what: &str| format!("{}: {what}", words::effect(&self.effect, model));
        match self.progress {
            Progress::Nothing | Progress::Granted => words::effect(&self.effect, model),
            Progress::Asked => waits("waits until a person says whether it may happen"),
            Progress::Denied => waits("refused, since a person said no"),
            Progress::Begun => waits("waits for its result"),
        }
    }
}
