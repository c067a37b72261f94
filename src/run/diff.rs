//! Where two runs part, and what their steps cost.
//!
//! Agents are aligned by their ids, which say where in a run an instance stands and not when, and steps by their numbers.
//! Compared is what was said and done; ids of runs, times, tries and charges are not.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use indexmap::{IndexMap, IndexSet};
use serde_json::Value;

use super::{AgentId, AgentOutcome, Answer, Body, CallId, Envelope, Event, Message, RunEnd, Subject};
use crate::budget::Amount;

/// How two runs differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Diff {
    /// Where they part; none if the same was said and done in both.
    pub parting: Option<Parting>,
    /// Whether they ended with different networks: with the same network, only what models, tools and people say can
    /// part them.
    pub networks_differ: bool,
    /// Their steps, agent by agent, in the order in which these started.
    pub steps: Vec<Pair>,
}

/// The first thing in which two runs differ, in the order of the one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parting {
    /// The agent; none for the run as a whole.
    pub agent: Option<AgentId>,
    /// The agent's step; none where it is about no step.
    pub step: Option<u32>,
    /// The tool call, where it is about one.
    pub call: Option<CallId>,
    /// What differs.
    pub what: What,
    /// What it is in the one; none if there is no such thing in it.
    pub one: Option<String>,
    /// What it is in the other.
    pub other: Option<String>,
}

/// What can differ. The words are public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The run's input, or the variables beside it.
    Input,
    /// What the agent was asked.
    Task,
    /// Which model was asked.
    Model,
    /// What the model said, or how it failed.
    Words,
    /// Which tools it called.
    Calls,
    /// What it called one of them with.
    Arguments,
    /// What came of a call.
    Result,
    /// What a person told the agent.
    Steering,
    /// What the model was told of its answer.
    Repair,
    /// How the agent ended.
    Outcome,
    /// How the run ended.
    End,
    /// Whether there is such an agent.
    Agent,
    /// Whether there is such a step.
    Step,
}

/// One step of both runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The agent.
    pub agent: AgentId,
    /// The step.
    pub step: u32,
    /// Whether the same was said and done in both.
    pub is_same: bool,
    /// What it cost in the one; none if it is not in it.
    pub one: Option<StepCost>,
    /// What it cost in the other.
    pub other: Option<StepCost>,
}

/// What a step took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepCost {
    /// The model that was asked.
    pub model: Option<Arc<str>>,
    /// How many tools it called, refused ones included.
    pub tool_calls: u64,
    /// What it was charged, failed tries included.
    pub charged: Amount,
    /// From the first thing that was asked to the last that came back, in milliseconds. What a delegate took is in it, and
    /// so is the time in which no process had the run.
    pub duration_ms: u64,
}

impl Diff {
    /// Compares two runs, each by all its events.
    pub fn of(one: &[Arc<Envelope>], other: &[Arc<Envelope>]) -> Self {
        let (one, other) = (Story::of(one), Story::of(other));
        Self { parting: one.parting(&other), networks_differ: one.network != other.network, steps: one.pairs(&other) }
    }
}

/// Where in a run something was said or done: of one agent or of the run, in which step, and the how manyth of its kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    agent: Option<AgentId>,
    step: Option<u32>,
    what: What,
    index: u32,
}

/// What a run's events say, by the place.
#[derive(Default)]
struct Story {
    network: Option<Arc<str>>,
    /// In the order in which it happened.
    facts: IndexMap<Place, String>,
    /// The agents, in the order in which they started, each with its steps.
    agents: IndexMap<AgentId, IndexMap<u32, Timed>>,
    /// How often each agent was told something in the midst of a step.
    told: HashMap<(AgentId, u32), u32>,
    end: Option<RunEnd>,
}

/// A step's cost, and when it began.
#[derive(Default)]
struct Timed {
    began_ms: Option<u64>,
    cost: StepCost,
}

impl Story {
    fn of(events: &[Arc<Envelope>]) -> Self {
        let mut story = Self::default();
        events.iter().for_each(|envelope| story.take(envelope));
        // A run that was parked and went on has come to more than one end; the last one counts.
        if let Some(end) = story.end.take() {
            story.fact(None, None, What::End, 0, end_words(&end));
        }
        story
    }

    fn take(&mut self, envelope: &Envelope) {
        self.time(envelope);
        match (&envelope.event, &envelope.agent) {
            // The other run paid for what is copied, and its time is none of this one's.
            (Event::RunForked { network, .. }, _) => {
                self.network = network.clone().or_else(|| self.network.take());
                self.end = None;
                for step in self.agents.values_mut().flat_map(IndexMap::values_mut) {
                    step.began_ms = None;
                    (step.cost.charged, step.cost.duration_ms) = Default::default();
                }
            }
            (Event::RunStarted { network, input, vars, .. }, _) => {
                self.network = Some(network.clone());
                let vars = vars.iter().map(|(name, value)| format!(" {name}={value}")).collect::<String>();
                self.fact(None, None, What::Input, 0, format!("{input}{vars}"));
            }
            (Event::RunEnded { end, .. }, _) => self.end = Some(end.clone()),
            (Event::RunResumed { network, .. }, _) => {
                self.network = network.clone().or_else(|| self.network.take());
                self.end = None;
            }
            (Event::AgentStarted { task, .. }, Some(agent)) => {
                self.agents.entry(agent.clone()).or_default();
                let task: Vec<&str> = task.iter().map(|message| text(message)).collect();
                self.fact(Some(agent), None, What::Task, 0, task.join("\n"));
            }
            (Event::CallIntended { call, subject: Subject::Model { model, .. }, .. }, _) => {
                let cost = &mut self.step(call).cost;
                cost.model = if call.is_compaction { cost.model.take() } else { Some(model.clone()) };
                self.fact(Some(&call.agent), Some(call.step), What::Model, words_place(call), model.to_string());
            }
            (Event::ModelReplied { call, message, malformed, .. }, _) => {
                self.replied(call, message, malformed.as_deref());
            }
            (Event::Decided { call, message }, _) => self.replied(call, message, None),
            (Event::ModelFailed { call, error, .. }, _) => {
                let said = format!("(failed: {error})");
                self.fact(Some(&call.agent), Some(call.step), What::Words, words_place(call), said);
            }
            (Event::ToolReturned { call, message, failure }, _) => {
                let said = match failure {
                    None => text(message).to_owned(),
                    Some(_) => format!("(failed) {}", text(message)),
                };
                self.fact(Some(&call.agent), Some(call.step), What::Result, call.index.unwrap_or_default(), said);
            }
            (Event::Steered { message } | Event::Asked { message }, Some(agent)) => {
                let step = self.last_step(agent);
                let count = self.told.entry((agent.clone(), step)).or_default();
                let index = *count;
                *count += 1;
                self.fact(Some(agent), Some(step), What::Steering, index, text(message).to_owned());
            }
            (Event::RepairRequested { message }, Some(agent)) => {
                let step = self.last_step(agent);
                self.fact(Some(agent), Some(step), What::Repair, 0, text(message).to_owned());
            }
            (Event::AgentEnded { outcome }, Some(agent)) => {
                self.fact(Some(agent), None, What::Outcome, 0, outcome_words(outcome));
            }
            // How it came about, and not what was said or done.
            _ => {}
        }
    }

    fn replied(&mut self, call: &CallId, message: &Message, malformed: Option<&str>) {
        let Body::Assistant { text, tool_calls } = &message.body else { return };
        let said = malformed.map_or_else(|| text.clone(), |why| format!("{text} (unusable: {why})"));
        let names: Vec<&str> = tool_calls.iter().map(|(_, asked)| asked.name.as_str()).collect();
        if call.is_compaction {
            return self.fact(Some(&call.agent), Some(call.step), What::Words, words_place(call), said);
        }
        self.step(call).cost.tool_calls = tool_calls.len() as u64;
        let (agent, step) = (Some(&call.agent), Some(call.step));
        self.fact(agent, step, What::Words, 0, said);
        self.fact(agent, step, What::Calls, 0, names.join(", "));
        for (index, (_, asked)) in tool_calls.iter().enumerate() {
            // Spaces and the like between the parts are no difference.
            let arguments = serde_json::from_str::<Value>(&asked.arguments).map(|value| value.to_string());
            let arguments = arguments.unwrap_or_else(|_| asked.arguments.clone());
            self.fact(agent, step, What::Arguments, index as u32, arguments);
        }
    }

    /// Adds what an event says of a step's cost and time.
    fn time(&mut self, envelope: &Envelope) {
        let Some(call) = envelope.event.call() else { return };
        let is_asked = matches!(envelope.event, Event::CallIntended { .. } | Event::ApprovalRequested { .. });
        let charged = envelope.event.charge().map(|(_, charged)| charged).unwrap_or_default();
        let step = self.step(call);
        step.cost.charged = step.cost.charged.plus(charged);
        let began_ms = *step.began_ms.get_or_insert(envelope.time_ms);
        if !is_asked {
            step.cost.duration_ms = envelope.time_ms.saturating_sub(began_ms);
        }
    }

    fn step(&mut self, call: &CallId) -> &mut Timed {
        self.agents.entry(call.agent.clone()).or_default().entry(call.step).or_default()
    }

    fn last_step(&self, agent: &AgentId) -> u32 {
        self.agents.get(agent).and_then(|steps| steps.keys().next_back().copied()).unwrap_or_default()
    }

    fn fact(&mut self, agent: Option<&AgentId>, step: Option<u32>, what: What, index: u32, said: String) {
        self.facts.entry(Place { agent: agent.cloned(), step, what, index }).or_insert(said);
    }

    /// Finds the first thing that is not the same in the other, in the order of this one; and if there is none, what the
    /// other has beyond it.
    fn parting(&self, other: &Self) -> Option<Parting> {
        let differs = |(place, said): &(&Place, &String)| other.facts.get(*place) != Some(said);
        // What a person said in the other run alone, before anything else was different there, is why the rest is.
        let theirs = other.facts.iter().find(|&(place, said)| self.facts.get(place) != Some(said));
        let told = theirs.filter(|(place, _)| place.what == What::Steering && !self.facts.contains_key(*place));
        let ours = self.facts.iter().find(differs);
        if let (Some((place, said)), true) = (told, ours.is_none_or(|(place, _)| place.what != What::Steering)) {
            return Some(place.parting(What::Steering, None, Some(said)));
        }
        if let Some((place, said)) = ours {
            let theirs = other.facts.get(place);
            let what = if theirs.is_none() { other.lacks(place) } else { place.what };
            return Some(place.parting(what, Some(said), theirs));
        }
        let (place, said) = other.facts.iter().find(|(place, _)| !self.facts.contains_key(*place))?;
        Some(place.parting(self.lacks(place), None, Some(said)))
    }

    /// Says what is missing where something is that is not in this run.
    fn lacks(&self, place: &Place) -> What {
        let steps = place.agent.as_ref().map(|agent| self.agents.get(agent));
        match (steps, place.step) {
            (Some(None), _) => What::Agent,
            (Some(Some(steps)), Some(step)) if step > 0 && !steps.contains_key(&step) => What::Step,
            _ => place.what,
        }
    }

    fn pairs(&self, other: &Self) -> Vec<Pair> {
        let mut differ = BTreeSet::new();
        for place in self.facts.keys().chain(other.facts.keys()) {
            if let (Some(agent), Some(step), true) =
                (&place.agent, place.step, self.facts.get(place) != other.facts.get(place))
            {
                differ.insert((agent.clone(), step));
            }
        }
        let agents: IndexSet<&AgentId> = self.agents.keys().chain(other.agents.keys()).collect();
        let mut pairs = Vec::new();
        for agent in agents {
            let of = |story: &'_ Self, step| Some(story.agents.get(agent)?.get(&step)?.cost.clone());
            let steps = |story: &Self| story.agents.get(agent).into_iter().flat_map(IndexMap::keys).copied().collect();
            let all: BTreeSet<u32> =
                [steps(self), steps(other)].into_iter().flat_map(|steps: Vec<u32>| steps).collect();
            pairs.extend(all.into_iter().map(|step| Pair {
                agent: agent.clone(),
                step,
                is_same: !differ.contains(&(agent.clone(), step)),
                one: of(self, step),
                other: of(other, step),
            }));
        }
        pairs
    }
}

impl Place {
    fn parting(&self, what: What, one: Option<&String>, other: Option<&String>) -> Parting {
        let is_of_a_call = matches!(what, What::Arguments | What::Result);
        let call = self.agent.as_ref().zip(self.step).filter(|_| is_of_a_call);
        Parting {
            call: call.map(|(agent, step)| CallId::tool(agent, step, self.index)),
            agent: self.agent.clone(),
            step: self.step.filter(|&step| step > 0),
            what,
            one: one.cloned(),
            other: other.cloned(),
        }
    }
}

/// What compacts before a step is kept apart from what the step says.
fn words_place(call: &CallId) -> u32 {
    u32::from(call.is_compaction)
}

fn text(message: &Message) -> &str {
    match &message.body {
        Body::User { text } | Body::Assistant { text, .. } => text,
        Body::Tool { content, .. } => content,
    }
}

fn outcome_words(outcome: &AgentOutcome) -> String {
    match outcome {
        AgentOutcome::Done(answer) => format!("done: {}", answer.to_text()),
        AgentOutcome::HandedOff { to } => format!("handed over to {to}"),
        AgentOutcome::Failed { reason } => format!("failed: {reason}"),
        AgentOutcome::Denied { reason } => format!("denied: {reason}"),
        AgentOutcome::Limit { reason, .. } => format!("limit: {reason}"),
        AgentOutcome::Cancelled { reason } => format!("stopped: {reason}"),
    }
}

fn end_words(end: &RunEnd) -> String {
    let answer = end.answer.as_ref().map(Answer::to_text);
    let said = end.reason.as_deref().or(answer.as_deref());
    match said {
        Some(said) => format!("{}: {said}", end.status.word()),
        None => end.status.word().to_owned(),
    }
}
