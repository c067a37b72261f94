//! Where a run can be forked, and what of its past a fork takes along.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{AgentId, CallId, Envelope, Event, Fold, Priority, RunId, RunState, Stage, Stream, Subject, rejected};
use crate::spec::Effect;

/// A place in a run's past at which another run can begin, and what that one takes along.
#[derive(Clone, Debug)]
pub struct ForkPoint {
    /// The run in which the last of these events happened: the run that is forked, or the one from which that one has it.
    pub from: RunId,
    /// The number of the last event that both runs have.
    pub at: u64,
    /// The events up to there, as the new run's.
    pub copied: Vec<Arc<Envelope>>,
    /// What they fold to.
    pub fold: Fold,
    /// Results of tool calls that were under way there, which the other run recorded later: what was done to the world
    /// was done, and is not done again.
    pub taken_over: Vec<Event>,
    /// The priority that the new run is to have; the other one's where it is left out.
    pub priority: Option<Priority>,
}

/// A run can't be forked at an event. Displayed as the rest of a sentence that begins with the run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}; {}", .why, range(*.last))]
pub struct NoForkPoint {
    why: String,
    /// The number of the last event at which it can be forked; none if there is none.
    pub last: Option<u64>,
}

fn range(last: Option<u64>) -> String {
    match last {
        Some(last) => format!("it can be forked at events 1 to {last}"),
        None => "it can't be forked at all".to_owned(),
    }
}

impl ForkPoint {
    /// Finds the place of a run's events, which are given from the first on, at which the run `fork` can begin: event
    /// `at`; or, where that one was recorded together with others, the last of these, as [`ForkPoint::at`] says.
    ///
    /// # Errors
    /// There is no such event, or the run comes to its end with it.
    pub fn find(events: &[Arc<Envelope>], at: u64, fork: &RunId) -> Result<Self, NoForkPoint> {
        let Some(first) = events.first() else {
            return Err(NoForkPoint { why: "has no events".to_owned(), last: None });
        };
        let stream = Stream { run: fork.clone(), ..(*first.stream).clone() };
        let mut past =
            Copying { stream: Arc::new(stream), copied: Vec::new(), fold: Fold::default(), last: None, given_up: None };
        // What was rejected after the fork's point is taken up anew.
        past.fold.rejected =
            rejected(events.iter().map(|envelope| &**envelope).take_while(|envelope| envelope.seq <= at));
        for (index, envelope) in events.iter().enumerate() {
            past.take(envelope);
            if at > 0 && envelope.seq >= at && past.last == Some(envelope.seq) {
                let Copying { copied, fold, .. } = past;
                let later = &events[index + 1..];
                let (from, taken_over) = (happened_in(first, later), taken_over(&fold.run, later));
                return Ok(Self { from, at: envelope.seq, copied, fold, taken_over, priority: None });
            }
        }
        let head = events.len() as u64;
        let why = match at {
            0 => "has no event 0: they are counted from 1".to_owned(),
            at if at > head => format!("has no event {at}: the last is {head}"),
            at => format!("comes to its end with event {at}"),
        };
        Err(NoForkPoint { why, last: past.last })
    }

    /// Returns the network that holds there, as text.
    pub fn network(&self) -> Arc<str> {
        self.fold.run.beginning().map(|beginning| beginning.network.clone()).unwrap_or_default()
    }

    /// Returns how many of the tool calls that were made, or may have been, up to there are not pure: what they have done
    /// stays done.
    pub fn effects(&self) -> usize {
        let made = |envelope: &Arc<Envelope>| match &envelope.event {
            Event::CallIntended { call, subject: Subject::Tool { .. }, effect, .. }
                if *effect != Some(Effect::Pure) =>
            {
                Some(call.clone())
            }
            _ => None,
        };
        self.copied.iter().filter_map(made).collect::<BTreeSet<CallId>>().len()
    }
}

/// Says in which run an event happened, by the events that follow it in the stream: those before a `run_forked` are
/// copies. What was begun there is known to the world by that run's name.
fn happened_in(first: &Envelope, later: &[Arc<Envelope>]) -> RunId {
    let forked = later.iter().find_map(|envelope| match &envelope.event {
        Event::RunForked { from, .. } => Some(from.clone()),
        _ => None,
    });
    forked.unwrap_or_else(|| first.stream.run.clone())
}

/// A run's events while they become another's.
struct Copying {
    stream: Arc<Stream>,
    copied: Vec<Arc<Envelope>>,
    fold: Fold,
    /// The last event so far at which the run can be forked.
    last: Option<u64>,
    /// The agent that is given up, until it has ended.
    given_up: Option<AgentId>,
}

impl Copying {
    fn take(&mut self, envelope: &Envelope) {
        let copy = Envelope { stream: self.stream.clone(), ..envelope.clone() };
        self.fold.evolve(&copy);
        match &copy.event {
            Event::DeadLettered { call, .. } => {
                let was_taken = |agent: &&AgentId| call.as_ref().is_none_or(|call| call.agent != **agent);
                self.given_up = copy.agent.as_ref().filter(was_taken).cloned();
            }
            Event::AgentEnded { .. } if self.given_up == copy.agent => self.given_up = None,
            _ => {}
        }
        if self.given_up.is_none() && is_settled(&self.fold.run, &copy.event) {
            self.last = Some(copy.seq);
        }
        self.copied.push(Arc::new(copy));
    }
}

/// Whether a run goes on from its last event by its state alone. Where an event was recorded together with others that
/// follow from it, it does so only after these: nobody would record them any more.
fn is_settled(run: &RunState, last: &Event) -> bool {
    let mut flows = run.flow(None).into_iter().chain(run.inner_flows().map(|(_, flow)| flow));
    let is_passing_on = flows.any(|flow| !flow.is_settled());
    let has_work = run.front().is_some() || run.flow(None).is_some_and(|flow| !flow.published.is_empty());
    let goes_on = has_work && !is_passing_on && run.end().is_none_or(|end| end.status.is_parked());
    let is_followed_at_once = match last {
        // What is abandoned has no result and gets none: the end follows.
        Event::CallAbandoned { .. } => true,
        // What comes in its place follows.
        Event::DeadLettered { .. } => true,
        Event::Rejected { call, .. } => call.as_ref().is_some_and(|call| call.index.is_some()),
        _ => false,
    };
    goes_on
        && !is_followed_at_once
        && run.open_calls().all(|(call, open)| match open.subject {
            _ if open.stage != Stage::Intended => true,
            // The delegate has not begun; or it has ended, and its answer has not come back.
            Subject::Delegate { .. } => answers(run, call),
            // Who takes over has not begun, or who hands over has not ended.
            Subject::Handoff { .. } => false,
            Subject::Model { .. } | Subject::Tool { .. } | Subject::Publish { .. } => true,
        })
}

/// Whether an agent is at work whose answer is the result of the call.
fn answers(run: &RunState, call: &CallId) -> bool {
    run.agents().values().any(|agent| agent.outcome.is_none() && agent.parent.answers() == Some(call))
}

/// Returns the results that tool calls under way got later.
fn taken_over(run: &RunState, later: &[Arc<Envelope>]) -> Vec<Event> {
    let is_begun = |call: &CallId| {
        run.open_call(call).is_some_and(|open| {
            let is_tool = matches!(open.subject, Subject::Tool { .. });
            is_tool && open.stage.is_begun()
        })
    };
    // One that the other run rejected later, and put another in its place, is given anew here.
    let mut taken = BTreeSet::new();
    let result = |envelope: &Arc<Envelope>| match &envelope.event {
        Event::ToolReturned { call, .. } if is_begun(call) && taken.insert(call.clone()) => {
            Some(envelope.event.clone())
        }
        _ => None,
    };
    later.iter().filter_map(result).collect()
}
