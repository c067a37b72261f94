//! A call on its way to the gate.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Known, Pulse};
use crate::model::Request;
use crate::run::{CallId, Labels, RunId, Standing, Subject};
use crate::runtime::fleet::Model;

/// A call before the gate.
pub(in crate::runtime) struct Call {
    pub(in crate::runtime) id: CallId,
    /// The name of the agent that asks, which its id need not have in it.
    pub(in crate::runtime) agent: Arc<str>,
    /// How things stand with who asks.
    pub(in crate::runtime) situation: Situation,
    /// The event that it follows from.
    pub(in crate::runtime) cause: u64,
    /// What it was influenced by.
    pub(in crate::runtime) labels: Labels,
    pub(in crate::runtime) work: Work,
    /// Which try of it is next, counted from 1: it may have been begun before a crash.
    pub(in crate::runtime) attempt: u32,
    /// What is known of its approval already.
    pub(in crate::runtime) approval: Known,
    /// Whether a person has been asked already what it asks.
    pub(in crate::runtime) is_asked: bool,
    /// The run in which it was begun, where that is another than its own.
    pub(in crate::runtime) begun_in: Option<RunId>,
    /// When it was intended first, in milliseconds since 1970; none if it was not.
    pub(in crate::runtime) first_intended_ms: Option<u64>,
    /// For how long it may be at work, of what its step may take; none for no bound.
    pub(in crate::runtime) time: Option<Duration>,
    /// Says how far it has come.
    pub(in crate::runtime) pulse: Arc<Pulse>,
}

impl Call {
    /// Makes a call that has not been begun. The run says whose it is when it begins it.
    pub(in crate::runtime) fn new(id: CallId, cause: u64, labels: Labels, work: Work) -> Self {
        Self {
            id,
            agent: "".into(),
            situation: Situation::default(),
            cause,
            labels,
            work,
            attempt: 1,
            approval: Known::Nothing,
            is_asked: false,
            begun_in: None,
            first_intended_ms: None,
            time: None,
            pulse: Arc::default(),
        }
    }
}

/// How things stand with an agent that makes a call.
#[derive(Default)]
pub(in crate::runtime) struct Situation {
    /// How many delegations lie between the entry agent and this one.
    pub(in crate::runtime) depth: u32,
    /// Which calls a person has approved of before they are made.
    pub(in crate::runtime) patterns: Vec<Arc<Standing>>,
}

/// What a call is.
pub(in crate::runtime) enum Work {
    /// A model call.
    Model(ModelCall),
    /// A tool call, a delegation or a handoff.
    Act(Subject),
    /// The question to another tool what became of a tool call that was cut off.
    Reconcile { by: Arc<str>, subject: Subject },
}

/// Models, by their names in the network, each the next.
pub(in crate::runtime) type Others = VecDeque<(Arc<str>, Arc<Model>)>;

/// A model call, of which each try gets its own limit on output.
pub(in crate::runtime) struct ModelCall {
    pub(in crate::runtime) model: Arc<Model>,
    pub(in crate::runtime) name: Arc<str>,
    /// What the agent's tools and schema add to each request at most.
    pub(in crate::runtime) fixed_bytes: usize,
    pub(in crate::runtime) request: Request,
    /// How many tokens it would like to be able to write.
    pub(in crate::runtime) wanted: u32,
    /// The models that get the call, each after the one before in this list, where one can't be had.
    pub(in crate::runtime) others: Others,
    /// The models that get it in turn where this one can't be paid for.
    pub(in crate::runtime) cheaper: Others,
    /// The messages that it sums up, if it is there for that.
    pub(in crate::runtime) covers: Option<(u32, u32)>,
}

impl ModelCall {
    /// Returns the model that gets the call where this one can't be had, as [`fall_backs`](crate::run::fall_backs) says it.
    pub(super) fn next_other(&self) -> Option<(Arc<str>, Arc<Model>)> {
        let after = self.others.iter().position(|(name, _)| *name == self.name).map_or(0, |place| place + 1);
        self.others.iter().skip(after).find(|(name, _)| *name != self.name).cloned()
    }

    /// Goes to another model.
    pub(super) fn go_to(&mut self, (name, model): (Arc<str>, Arc<Model>)) {
        self.wanted = model.spec.max_output_tokens;
        // It is asked about as what it is to be.
        self.request.max_output_tokens = self.wanted;
        (self.name, self.model) = (name, model);
    }

    pub(super) fn subject(&self) -> Subject {
        Subject::Model { model: self.name.clone(), max_output_tokens: self.request.max_output_tokens }
    }
}
