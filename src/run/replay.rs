//! Whether a run's agents would decide today as they did: the pure core is driven once more, on the results that are
//! recorded, and what it decides is compared with what was. It calls nothing and spends nothing.
//!
//! What models, tools, people, policy, budget and clock said is taken from the record as it is. All else follows from it,
//! and is compared: which calls are made, to what and with which labels; which are refused, and in which words; which
//! agents start, with which task, and how they end; how the run ends, and which calls it lets go of.
//!
//! What is sent to a model is not in the record, and so not compared: that a model is called is, and that its agent's
//! transcript is the fold of the events.

mod calls;
mod divergence;
mod mail;
mod routes;
mod wants;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

pub use self::divergence::Divergence;
use self::wants::{Batch, Progress, Want};
use super::{
    AgentId, AgentOutcome, CallId, Definition, Envelope, Event, FlowRules, Fold, Labels, NewAgent, Next, NotAsked,
    Parent, RunEnd, Stage, Status, Subject, Wait, apart, decide, published, take_up,
};
use crate::budget::Amount;
use crate::route::Flow;
use crate::spec::Network;

/// How much of what is recorded and of what is decided is shown.
const TEXT_CHARS: usize = 240;

/// What a run's agents decide by.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The network.
    pub network: Arc<Network>,
    /// The definitions of its agents, by their names.
    pub definitions: Arc<HashMap<Arc<str>, Arc<Definition>>>,
    /// Its routes.
    pub flow: Arc<Flow>,
}

/// A run that is decided once more, as far as its events have been taken.
#[derive(Debug, Default)]
pub struct Replay {
    fold: Fold,
    rules: Option<Rules>,
    /// What each living agent wants, and has not got.
    wants: BTreeMap<AgentId, Batch>,
    /// What must come next: it was recorded in one go with what came before.
    owed: VecDeque<Owed>,
    /// How the run ends, once that is settled.
    settled: Option<RunEnd>,
    closing: Closing,
    decisions: u64,
}

/// How far the end of a run has been recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Closing {
    /// Nothing of it.
    #[default]
    Not,
    /// It is known which calls it lets go of.
    LetsGo,
    /// All of it.
    Closed,
}

/// An event, and whose it is.
type Owed = (Option<AgentId>, Event);

/// How much was decided once more, and the same as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Events that were taken.
    pub events: u64,
    /// Those of them that were decided, and are no result of something that was called or said.
    pub decisions: u64,
}

/// What is decided in the place of what is recorded, in words.
type Otherwise = String;

impl Replay {
    /// Begins with a run of which nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the network by which is decided from this event on, as text, where the event brings one: its rules are to
    /// be [given](Self::decide_by) before it is taken.
    pub fn network_of(event: &Event) -> Option<&Arc<str>> {
        match event {
            Event::RunStarted { network, .. } => Some(network),
            Event::RunResumed { network, .. } | Event::RunForked { network, .. } => network.as_ref(),
            _ => None,
        }
    }

    /// Sets by what is decided from the next event on.
    pub fn decide_by(&mut self, rules: Rules) {
        self.rules = Some(rules);
    }

    /// Sets which events were rejected later: what an agent made of them is not known.
    pub fn pass_over(&mut self, rejected: BTreeSet<u64>) {
        self.fold.rejected = rejected;
    }

    /// Takes the run's next event.
    ///
    /// # Errors
    /// It does not follow from those before. Nothing more can be taken then.
    pub fn take(&mut self, envelope: &Envelope) -> Result<(), Box<Divergence>> {
        let parted = |replay: &Self, otherwise| {
            let step = match (envelope.event.call(), &envelope.agent) {
                (Some(call), _) => Some(call.step),
                (None, Some(agent)) => replay.fold.agents.get(agent).map(|state| state.step().max(1)),
                (None, None) => None,
            };
            replay.divergence(envelope.seq, envelope.agent.clone(), step, words::event(envelope), otherwise)
        };
        self.check(envelope).map_err(|otherwise| parted(self, otherwise))?;
        self.fold.evolve(envelope);
        self.follow(envelope).map_err(|otherwise| parted(self, otherwise))
    }

    /// Ends with the last event of the record. What agents still want then is yet to come, or was cut short.
    ///
    /// # Errors
    /// Something is missing that was recorded in one go with the last event.
    pub fn end(self) -> Result<Replayed, Box<Divergence>> {
        if let Some((agent, event)) = self.owed.front() {
            let (step, decided) = (event.call().map(|call| call.step), words::owed(agent.as_ref(), event));
            let recorded = "nothing more".to_owned();
            return Err(self.divergence(self.fold.run.head(), agent.clone(), step, recorded, decided));
        }
        if let Some(decided) = self.not_passed_on() {
            return Err(self.divergence(self.fold.run.head(), None, None, "nothing more".to_owned(), decided));
        }
        Ok(Replayed { events: self.fold.run.head(), decisions: self.decisions })
    }

    fn divergence(
        &self,
        seq: u64,
        agent: Option<AgentId>,
        step: Option<u32>,
        recorded: String,
        decided: Otherwise,
    ) -> Box<Divergence> {
        let version = self.fold.run.beginning().map(|beginning| beginning.version.clone());
        let (recorded, decided) = apart(&recorded, &decided, TEXT_CHARS);
        Box::new(Divergence { seq, agent, step, recorded_by: version.unwrap_or_default(), recorded, decided })
    }

    /// Whether an event follows from those before.
    fn check(&mut self, envelope: &Envelope) -> Result<(), Otherwise> {
        if envelope.event.call().is_some_and(|call| envelope.agent.as_ref() != Some(&call.agent)) {
            return Err("nothing: the call is another agent's".to_owned());
        }
        self.owe_end_of_flow(envelope);
        let is_owed = self.pay(envelope)?;
        if !is_owed {
            self.check_not_over(&envelope.event)?;
        }
        let is_decided = match &envelope.event {
            Event::RunStarted { .. } if self.fold.run.head() > 0 => return Err("nothing: the run has begun".to_owned()),
            Event::Asked { .. }
                if envelope.agent.as_ref().is_none_or(|agent| !self.fold.agents.contains_key(agent)) =>
            {
                return Err(words::nothing());
            }
            Event::RunResumed { .. } if !self.fold.run.status().can_go_on() => {
                return Err(format!("nothing: the run has ended: {}", self.fold.run.status().word()));
            }
            Event::AgentStarted { .. } | Event::CallAbandoned { .. } if !is_owed => return Err(self.wanted(envelope)),
            Event::ModelChosen { .. }
            | Event::CallIntended { .. }
            | Event::ApprovalRequested { .. }
            | Event::ApprovalVoted { .. }
            | Event::ApprovalDecided { .. }
            | Event::InputRequested { .. }
            | Event::InputGiven { .. }
            | Event::TryFailed { .. }
            | Event::CallInDoubt { .. }
            | Event::CallResolved { .. }
            | Event::ModelReplied { .. }
            | Event::ModelFailed { .. }
            | Event::ToolReturned { .. } => self.check_call(envelope, is_owed)?,
            Event::Decided { call, message } => self.take_want(envelope, |want| want.is_decision(call, message))?,
            Event::RepairRequested { message } => self.take_want(envelope, |want| want.is_repair(message))?,
            Event::Warned { guard, message } => self.take_want(envelope, |want| want.is_warning(*guard, message))?,
            Event::Compacted { .. } => self.take_want(envelope, |want| want.is_compaction(&envelope.event))?,
            Event::AgentEnded { outcome } if !is_owed => self.take_want(envelope, |want| want.is_end(outcome))?,
            Event::CancelRequested { end } if !is_owed => self.check_cancel(end)?,
            Event::RunEnded { end, spent, .. } => self.check_end(end, spent)?,
            Event::RunStarted { .. }
            | Event::RunResumed { .. }
            | Event::AgentStarted { .. }
            | Event::AgentEnded { .. }
            | Event::CallAbandoned { .. }
            | Event::CancelRequested { .. }
            | Event::AtRest
            | Event::PolicyDecided { .. }
            | Event::PolicyChanged { .. }
            | Event::ApproversTold { .. }
            | Event::BudgetLow { .. }
            | Event::Paused
            | Event::Unpaused
            | Event::Steered { .. }
            | Event::Asked { .. }
            | Event::RunForked { .. }
            | Event::CallQueued { .. }
            | Event::DeadLettered { .. }
            | Event::AgentFailed { .. }
            | Event::Rejected { .. }
            | Event::Hung { .. }
            | Event::JoinDue { .. }
            | Event::AgentRestarted { .. } => false,
            Event::Routed { .. } | Event::Joined { .. } => self.check_routing(envelope)?,
            Event::Sent { call, .. } => self.check_mail(call, |stage| *stage == Stage::Intended)?,
            Event::Took { call } => self.check_mail(call, |stage| matches!(stage, Stage::Sent { .. }))?,
        };
        self.decisions += u64::from(is_decided || is_owed);
        Ok(())
    }

    /// Whether an event is what had to come next.
    fn pay(&mut self, envelope: &Envelope) -> Result<bool, Otherwise> {
        let ends = matches!(envelope.event, Event::CallAbandoned { .. } | Event::RunEnded { .. });
        if let (true, Closing::Not, Some(end)) = (ends && self.owed.is_empty(), self.closing, &self.settled) {
            self.closing = Closing::LetsGo;
            let whose = |event: Event| (event.call().map(|call| call.agent.clone()), event);
            self.owed.extend(self.fold.run.abandoned(end).into_iter().map(whose));
        }
        if let (Event::CancelRequested { .. }, Some((_, Event::AgentStarted { .. }))) =
            (&envelope.event, self.owed.front())
        {
            // The agent's actor could not be started.
            self.owed.pop_front();
            return Ok(false);
        }
        match envelope.event {
            Event::RunResumed { .. } => self.owed.clear(),
            // What was cut off in the other run costs this one nothing.
            Event::RunForked { .. } => self.owed.retain(|(_, event)| !matches!(event, Event::TryFailed { .. })),
            _ => {}
        }
        match self.owed.front() {
            None => Ok(false),
            Some((agent, event))
                if *agent == envelope.agent
                    && (*event == envelope.event || self.is_start_as_owed(event, &envelope.event)) =>
            {
                self.owed.pop_front();
                Ok(true)
            }
            // What tells the two apart may be in none of the words.
            Some((agent, event)) => Err(words::told_apart(agent.as_ref(), event, envelope)),
        }
    }

    /// Once it is settled how a run ends, it begins nothing more and hears no results.
    fn check_not_over(&self, event: &Event) -> Result<(), Otherwise> {
        let may_follow = matches!(
            event,
            Event::RunResumed { .. }
                | Event::AtRest
                | Event::BudgetLow { .. }
                | Event::PolicyChanged { .. }
                | Event::ApproversTold { .. }
                | Event::ApprovalVoted { .. }
                | Event::RunForked { .. }
                | Event::TryFailed { .. }
                | Event::ApprovalDecided { .. }
                | Event::InputGiven { .. }
                | Event::CallResolved { .. }
                | Event::CallAbandoned { .. }
                | Event::CancelRequested { .. }
                | Event::RunEnded { .. }
        );
        match &self.settled {
            Some(end) if !may_follow => Err(format!("nothing more: the run is to end: {}", end.status.word())),
            _ => Ok(()),
        }
    }

    /// Whether it was decided that the run is to end like this, and nobody from outside wants it so.
    fn check_cancel(&mut self, end: &RunEnd) -> Result<bool, Otherwise> {
        let is_persons = end.status == Status::Cancelled;
        match &self.settled {
            Some(settled) if !is_persons && settled != end => return Err(words::run_end(settled)),
            Some(_) => {}
            None if end.status.is_parked() => {
                let parked = self.fold.run.parked();
                if parked.as_ref() != Some(end) {
                    let waits = parked.as_ref().map(words::run_end);
                    return Err(waits.unwrap_or_else(|| "nothing: the run waits for nobody".to_owned()));
                }
                self.check_all_wait()?;
            }
            None => {}
        }
        self.settled = Some(end.clone());
        self.closing = Closing::Not;
        Ok(end.status.is_parked())
    }

    /// A run is parked only when all that is wanted waits for a person or another agent.
    fn check_all_wait(&self) -> Result<(), Otherwise> {
        let run = &self.fold.run;
        let waits = |call: &CallId| {
            matches!(run.waits_for(call), Some(Wait::Mailbox | Wait::TopUp))
                || run.open_call(call).is_some_and(|open| open.waits_for_others())
        };
        let mut wants = self.wants.values().flat_map(|batch| &batch.wants);
        match wants.find(|want| !want.call().is_some_and(waits)) {
            Some(want) => Err(want.words()),
            None => Ok(()),
        }
    }

    fn check_end(&mut self, end: &RunEnd, spent: &Amount) -> Result<bool, Otherwise> {
        match &self.settled {
            Some(_) if self.closing == Closing::Closed => return Err("nothing more: the run has ended".to_owned()),
            Some(settled) if settled != end => return Err(words::run_end(settled)),
            Some(_) => {}
            None => {
                let wanted: Vec<String> = self.wants.values().map(Batch::words).collect();
                return Err(words::several(&wanted));
            }
        }
        if *spent != self.fold.run.spent() {
            return Err(words::end(end, &self.fold.run.spent()));
        }
        self.closing = Closing::Closed;
        Ok(true)
    }

    /// Works out what follows from an event that has been taken up.
    fn follow(&mut self, envelope: &Envelope) -> Result<(), Otherwise> {
        match &envelope.event {
            Event::RunStarted { input, put_back, .. } => {
                let rules = self.rules.as_ref().ok_or_else(no_rules)?;
                let entry = &rules.network.spec().network.entry;
                let entry = NewAgent::first(entry, input.clone(), put_back.as_deref());
                self.owed.push_back((Some(entry.id.clone()), entry.started()));
            }
            Event::RunResumed { .. } => {
                let run = &self.fold.run;
                self.settled = run.cancelling().cloned();
                let whose = |event: Event| (event.call().map(|call| call.agent.clone()), event);
                self.owed = run.cut_off_tries().into_iter().map(whose).collect();
                self.take_up()?;
                self.settle_if_over();
                return Ok(());
            }
            // What was under way in the other run has cost this one nothing.
            Event::RunForked { .. } => {
                self.settled = None;
                return self.take_up();
            }
            Event::CallIntended { call, subject: Subject::Publish { topic, .. }, .. } => {
                let told = published(call, topic, envelope.labels.clone());
                self.owed.push_back((Some(call.agent.clone()), told));
            }
            Event::CallIntended { call, subject, .. } => {
                if let Some(Ok(new)) = self.asked(call, subject, &envelope.labels)
                    && !self.has_mailbox(&new.name)
                {
                    self.owe_agent(call, new);
                }
            }
            Event::Took { call } => self.take_from_mailbox(call),
            Event::DeadLettered { call, reason, .. } => self.give_up(envelope, call.as_ref(), reason),
            Event::Rejected { call, .. } => return self.take_back(envelope, call.as_ref()),
            Event::AgentEnded { .. } => return self.agent_ended(envelope),
            Event::Routed { .. } | Event::Joined { .. } | Event::JoinDue { .. } => {
                self.settle_if_over();
                return Ok(());
            }
            _ => {}
        }
        match &envelope.agent {
            Some(agent) if !self.fold.rejected.contains(&envelope.seq) => self.decide(agent, &envelope.event),
            _ => Ok(()),
        }
    }

    fn asked(&self, call: &CallId, subject: &Subject, labels: &Labels) -> Option<Result<NewAgent, NotAsked>> {
        let rules = self.rules.as_ref()?;
        self.fold.run.asked(call, subject, labels, FlowRules::of(&rules.network, &rules.flow))
    }

    fn owe_agent(&mut self, call: &CallId, new: NewAgent) {
        let (id, is_handoff) = (new.id.clone(), matches!(new.parent, Parent::Handoff { .. }));
        self.owed.push_back((Some(id.clone()), new.started()));
        if is_handoff {
            let outcome = AgentOutcome::HandedOff { to: id };
            self.owed.push_back((Some(call.agent.clone()), Event::AgentEnded { outcome }));
        }
    }

    fn agent_ended(&mut self, envelope: &Envelope) -> Result<(), Otherwise> {
        let Some(agent) = &envelope.agent else { return Ok(()) };
        self.wants.remove(agent);
        match self.fold.run.after_agent(agent) {
            // Who asked was given up.
            Some(Next { call, .. }) if self.fold.run.is_over(&call) => {}
            Some(Next { call, message, failure }) => {
                let asker = Some(call.agent.clone());
                self.owed.push_back((asker, Event::ToolReturned { call, message, failure }));
            }
            None => {
                self.settle_if_over();
                // What stands for the run has ended, and nobody it asked can be at work still.
                let is_done = self.settled.as_ref().is_some_and(|end| end.status == Status::Done);
                if let Some(batch) = self.wants.values().find(|batch| is_done && !batch.wants.is_empty()) {
                    return Err(batch.words());
                }
            }
        }
        Ok(())
    }

    /// A run that was taken up again goes on from what its agents say that they want.
    fn take_up(&mut self) -> Result<(), Otherwise> {
        self.closing = Closing::Not;
        let said = |(agent, state)| {
            let effects = take_up(self.definition(agent)?, state);
            Ok((agent.clone(), Batch::new(effects, state.labels())))
        };
        self.wants = self.fold.agents.iter().map(said).collect::<Result<_, Otherwise>>()?;
        Ok(())
    }

    fn decide(&mut self, agent: &AgentId, event: &Event) -> Result<(), Otherwise> {
        let Some(state) = self.fold.agents.get(agent) else { return Ok(()) };
        if let Event::Asked { .. } = event {
            // Nothing of what it wanted has begun.
            let effects = take_up(self.definition(agent)?, state);
            self.wants.insert(agent.clone(), Batch::new(effects, state.labels()));
            return Ok(());
        }
        let effects = decide(self.definition(agent)?, state, event);
        if effects.is_empty() {
            return Ok(());
        }
        let batch = Batch::new(effects, state.labels());
        match self.wants.insert(agent.clone(), batch) {
            // It has gone on without what it wanted.
            Some(left) if !left.wants.is_empty() => Err(left.words()),
            _ => Ok(()),
        }
    }

    fn definition(&self, agent: &AgentId) -> Result<&Definition, Otherwise> {
        let rules = self.rules.as_ref().ok_or_else(no_rules)?;
        let instance = self.fold.run.agents().get(agent);
        let name = instance.map(|instance| &*instance.name).unwrap_or_default();
        let found = rules.definitions.get(name);
        found.map(|definition| &**definition).ok_or_else(|| format!("nothing: there is no agent `{name}`"))
    }

    /// Returns what was wanted of a call.
    fn want(&self, call: &CallId) -> Result<&Want, Otherwise> {
        let found = self.wants.get(&call.agent).and_then(|batch| batch.of(call));
        found.ok_or_else(|| self.wanted_by(&call.agent))
    }

    fn progress(&mut self, call: &CallId, progress: Progress) -> Result<(), Otherwise> {
        match self.wants.get_mut(&call.agent).and_then(|batch| batch.of_mut(call)) {
            Some(want) => {
                want.progress = progress;
                Ok(())
            }
            None => Err(self.wanted_by(&call.agent)),
        }
    }

    /// A call has its result.
    fn got(&mut self, call: &CallId) {
        if let Some(batch) = self.wants.get_mut(&call.agent) {
            batch.wants.retain(|want| want.call() != Some(call));
        }
    }

    /// Takes the want that an event meets at once.
    fn take_want(&mut self, envelope: &Envelope, is_met: impl Fn(&Want) -> bool) -> Result<bool, Otherwise> {
        let batch = envelope.agent.as_ref().and_then(|agent| self.wants.get_mut(agent));
        let otherwise = batch.as_ref().map_or_else(words::nothing, |batch| batch.words());
        let Some(batch) = batch else { return Err(otherwise) };
        let Some(place) = batch.wants.iter().position(is_met) else { return Err(otherwise) };
        if matches!(envelope.event, Event::AgentEnded { .. }) && batch.labels != envelope.labels {
            return Err(words::with_labels(otherwise, &batch.labels));
        }
        batch.wants.remove(place);
        Ok(true)
    }

    fn wanted(&self, envelope: &Envelope) -> Otherwise {
        envelope.agent.as_ref().map_or_else(words::nothing, |agent| self.wanted_by(agent))
    }

    fn wanted_by(&self, agent: &AgentId) -> Otherwise {
        self.wants.get(agent).map_or_else(words::nothing, Batch::words)
    }
}

fn no_rules() -> Otherwise {
    "nothing: no network is known".to_owned()
}
