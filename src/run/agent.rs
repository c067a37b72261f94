//! The reason-act loop as a fold: [`AgentState::evolve`] takes up what happened, [`decide`] says what to do next.
//! Neither reads a clock, draws a random number or does I/O.
//!
//! What is sent of a transcript that has grown too long, and what takes its place, is in [`compaction`]; what is said to an agent
//! that does not get on, in [`guards`]; which model it goes to, in [`choosing`].
//!
//! What a stored event means to `evolve` never changes. What `decide` makes of a state may change between versions.

mod choosing;
mod compaction;
mod guards;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::choosing::Chosen;
pub use self::choosing::{Change, Pick, Why, downgraded, fall_backs, pick};
pub use self::compaction::SUMMARISE;
use self::guards::Watch;
pub use self::guards::{Guard, Guards};
use super::{
    Agent, AgentId, AgentOutcome, Answer, Body, CallId, Definition, Envelope, Event, Labels, Message, Move, Origin,
    Subject, TargetKind, ToolCall, ToolFailure, Turn,
};
use crate::fault::{self, Bug};
use crate::model::Finish;

/// How many tool calls one step may make. The rest is refused with a word to the model: a reply may hold thousands.
pub const MAX_CALLS_PER_STEP: usize = 64;

/// How many errors of a schema are told to the model at once; the first few say what is wrong, the rest is noise.
const MAX_SCHEMA_ERRORS: usize = 5;

/// Where an agent instance stands: a fold of its own events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentState {
    id: AgentId,
    transcript: Vec<Arc<Message>>,
    /// How many messages at the beginning of it are from before the instance was asked: of earlier visits or runs.
    #[serde(default)]
    past: usize,
    /// How many are that, and what the instance was asked: what it was asked stays as it is.
    #[serde(default)]
    task: usize,
    step: u32,
    /// The last step before which a summary was asked for; 0 for none.
    #[serde(default)]
    summarised: u32,
    repairs: u32,
    labels: Labels,
    /// The last change of its model; none while it has the preferred one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chosen: Option<Chosen>,
    /// What its steps called, and what came of it.
    #[serde(default, skip_serializing_if = "Watch::is_empty")]
    watch: Watch,
    /// What it was told while the model or its tools were at work; it hears it when they are done.
    told: Vec<Arc<Message>>,
    phase: Phase,
}

/// What an agent instance is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Phase {
    /// It has not been asked anything.
    Idle,
    /// The model is next.
    Thinking,
    /// Tool calls are under way; their results, in the order of the calls.
    Acting { results: Vec<Option<Arc<Message>>>, at_fault: bool },
    /// The model gave an answer that is to be judged.
    Answered { finish: Finish, malformed: Option<String> },
    /// The model failed for good.
    ModelFailed { error: String },
    /// It may not ask its model.
    Denied { reason: String },
    /// The model failed for good, and the agent that was to take over can't.
    NotRouted { error: String },
    /// A summary of the older messages is there, or why there is none.
    Summarised {
        summary: Result<String, String>,
        /// The messages that it sums up, from the first to the one after the last.
        #[serde(default)]
        covers: Option<(u32, u32)>,
    },
    /// It is over.
    Ended,
}

/// What an agent wants to happen. The runtime makes it happen, or says in an event why it did not.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Call the agent's model.
    CallModel {
        /// The call.
        call: CallId,
        /// The transcript to send. Every tool call in it has its result.
        messages: Vec<Arc<Message>>,
        /// The model that it goes to.
        pick: Pick,
    },
    /// Call a model for a summary of the older messages.
    Summarise {
        /// The call.
        call: CallId,
        /// The model.
        model: Arc<str>,
        /// What it is told.
        messages: Vec<Arc<Message>>,
        /// The messages of the transcript that it sums up, from the first to the one after the last.
        covers: (u32, u32),
    },
    /// Write down what takes the place of the older messages.
    Compact {
        /// An [`Event::Compacted`].
        event: Box<Event>,
    },
    /// Write down what the agent, which is written in Rust, said.
    Decide {
        /// The step, named as its model call would be.
        call: CallId,
        /// What it said, as it goes into the transcript.
        message: Arc<Message>,
    },
    /// Make a tool call, a delegation or a handoff.
    Act {
        /// The call.
        call: CallId,
        /// What is called.
        subject: Subject,
        /// What the call was influenced by.
        labels: Labels,
    },
    /// Tell the model that a call of its can't be made.
    Refuse {
        /// The call.
        call: CallId,
        /// Why.
        failure: ToolFailure,
        /// The result as it goes into the transcript.
        message: Arc<Message>,
    },
    /// Tell the model that its answer can't be used.
    Repair {
        /// What is wrong with it.
        message: Arc<Message>,
    },
    /// Tell the model that it does not get on.
    Warn {
        /// What has struck.
        guard: Guard,
        /// What it is told.
        message: Arc<Message>,
    },
    /// End.
    End(AgentOutcome),
}

impl AgentState {
    /// Makes the state of an instance to which nothing has happened yet.
    pub fn new(id: AgentId) -> Self {
        Self {
            id,
            transcript: Vec::new(),
            past: 0,
            task: 0,
            step: 0,
            summarised: 0,
            repairs: 0,
            labels: Labels::default(),
            chosen: None,
            watch: Watch::default(),
            told: Vec::new(),
            phase: Phase::Idle,
        }
    }

    /// Returns the transcript, oldest message first.
    pub fn transcript(&self) -> &[Arc<Message>] {
        &self.transcript
    }

    /// Returns the number of its last step, counted from 1; 0 before the first.
    pub fn step(&self) -> u32 {
        self.step
    }

    /// Returns what the instance has been influenced by so far.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Takes up what happened. Events that are not this instance's, or can't follow its state, change nothing.
    pub fn evolve(&mut self, envelope: &Envelope) {
        match &envelope.event {
            Event::AgentStarted { task, .. } => {
                task.iter().for_each(|message| self.say(message));
                self.task = self.transcript.len();
                self.past = self.task.saturating_sub(1);
                self.phase = Phase::Thinking;
            }
            Event::ModelReplied { call, message, finish, covers, .. } if call.is_compaction => {
                self.take_summary(call, compaction::summary(message.text(), *finish), *covers);
            }
            Event::ModelFailed { call, error, .. } if call.is_compaction => {
                self.take_summary(call, Err(error.clone()), None);
            }
            Event::Compacted { from, upto, message, .. } => self.compact(*from as usize..*upto as usize, message),
            Event::ModelReplied { call, message, finish, malformed, .. } => {
                self.step = call.step;
                self.say(message);
                self.phase = self.after_words(message, *finish, malformed.clone());
            }
            Event::Decided { call, message } => {
                self.step = call.step;
                self.say(message);
                self.phase = self.after_words(message, Finish::Stop, None);
            }
            Event::ModelFailed { call, error, denied: true, .. } => {
                self.step = call.step;
                self.phase = Phase::Denied { reason: error.clone() };
            }
            Event::ModelFailed { call, error, .. } => {
                self.step = call.step;
                self.phase = Phase::ModelFailed { error: error.clone() };
            }
            Event::ToolReturned { call, message, failure } => self.take_result(call, message, *failure),
            Event::RepairRequested { message } => {
                self.say(message);
                self.hear();
                self.repairs += 1;
                self.phase = Phase::Thinking;
            }
            Event::ModelChosen { call, model, why, .. } => self.go_to(model, *why, call.step),
            Event::Warned { guard, message } => {
                self.say(message);
                self.watch.told(self.step, *guard);
                self.hear();
                self.phase = Phase::Thinking;
            }
            Event::Steered { message } => self.told.push(message.clone()),
            Event::Asked { message } => self.be_asked(message),
            Event::AgentEnded { .. } => self.phase = Phase::Ended,
            _ => {}
        }
    }

    /// Takes up what it is asked while no model call of its is under way.
    fn be_asked(&mut self, message: &Arc<Message>) {
        if self.phase == Phase::Ended {
            return;
        }
        self.told.push(message.clone());
        // Results come before what was said beside them.
        if !matches!(self.phase, Phase::Acting { .. } | Phase::Summarised { .. }) {
            self.hear();
            self.phase = Phase::Thinking;
        }
    }

    fn after_words(&mut self, message: &Message, finish: Finish, malformed: Option<String>) -> Phase {
        match &message.body {
            Body::Assistant { tool_calls, .. } if !tool_calls.is_empty() => {
                Phase::Acting { results: vec![None; tool_calls.len()], at_fault: false }
            }
            // What it was told meanwhile comes before its answer counts.
            _ if self.hear() => Phase::Thinking,
            _ => Phase::Answered { finish, malformed },
        }
    }

    fn say(&mut self, message: &Arc<Message>) {
        self.labels.join(&message.labels);
        self.transcript.push(message.clone());
    }

    /// Takes what it was told into the transcript. Whether there was anything.
    fn hear(&mut self) -> bool {
        let told = std::mem::take(&mut self.told);
        told.iter().for_each(|message| self.say(message));
        if !told.is_empty() {
            self.watch.heard(self.step);
        }
        !told.is_empty()
    }

    fn take_result(&mut self, call: &CallId, message: &Arc<Message>, failure: Option<ToolFailure>) {
        if let Phase::ModelFailed { error } = &self.phase {
            self.phase = Phase::NotRouted { error: format!("{error}; {}", message.text()) };
            return;
        }
        let Phase::Acting { results, at_fault } = &mut self.phase else { return };
        let slot = call.index.and_then(|index| results.get_mut(index as usize));
        let Some(slot) = slot.filter(|slot| slot.is_none() && call.step == self.step) else { return };
        *slot = Some(message.clone());
        *at_fault |= failure.is_some_and(ToolFailure::is_models_fault);
        self.watch.turn_back(failure);
        if results.iter().any(Option::is_none) {
            return;
        }
        let (results, at_fault) = (std::mem::take(results), *at_fault);
        self.repairs = if at_fault { self.repairs + 1 } else { 0 };
        if !at_fault {
            self.managed();
            self.watch.step(self.step, self.transcript.last().map(|message| &**message), &results);
        }
        results.iter().flatten().for_each(|message| self.say(message));
        self.hear();
        self.phase = Phase::Thinking;
    }
}

/// Says what to do after `event`, which `state` has taken up already. The same event gives the same effects, with the
/// same call ids, however often it is decided on.
pub fn decide(definition: &Definition, state: &AgentState, event: &Event) -> Vec<Effect> {
    if definition.is_flow {
        return Vec::new();
    }
    match (&state.phase, event) {
        (
            Phase::Thinking,
            Event::AgentStarted { .. }
            | Event::ToolReturned { .. }
            | Event::RepairRequested { .. }
            | Event::Warned { .. }
            | Event::ModelReplied { .. }
            | Event::Compacted { .. }
            | Event::Decided { .. },
        ) => vec![think(definition, state)],
        (Phase::Summarised { summary, covers }, Event::ModelReplied { .. } | Event::ModelFailed { .. }) => {
            vec![compaction::compact(definition, state, summary, *covers)]
        }
        (Phase::Acting { .. }, Event::ModelReplied { call, message, .. } | Event::Decided { call, message }) => {
            act(definition, state, call, message)
        }
        (
            Phase::Answered { finish, malformed },
            Event::ModelReplied { message, .. } | Event::Decided { message, .. },
        ) => {
            vec![answer(definition, state, message, *finish, malformed.as_deref())]
        }
        (Phase::ModelFailed { error }, Event::ModelFailed { .. }) => vec![failed(definition, state, error)],
        (Phase::Denied { reason }, Event::ModelFailed { .. }) => vec![denied(definition, state, reason)],
        (Phase::NotRouted { error }, Event::ToolReturned { .. }) => vec![gives_up(definition, state, error)],
        _ => Vec::new(),
    }
}

/// Says what a state wants that was folded from a record, whatever event was the last: the same effects that were
/// wanted then, with the same call ids, but for those whose results are there.
pub fn take_up(definition: &Definition, state: &AgentState) -> Vec<Effect> {
    let last = state.transcript.last();
    match (&state.phase, last) {
        _ if definition.is_flow => Vec::new(),
        (Phase::Thinking, _) => vec![think(definition, state)],
        (Phase::Summarised { summary, covers }, _) => {
            vec![compaction::compact(definition, state, summary, *covers)]
        }
        (Phase::Acting { results, .. }, Some(message)) => {
            let wanted = act(definition, state, &CallId::model(&state.id, state.step), message);
            let has_no_result = |(_, result): &(Effect, &Option<Arc<Message>>)| {
                result.is_none() || fault::is_planted(Bug::CompletedMadeAgain)
            };
            wanted.into_iter().zip(results).filter(has_no_result).map(|(effect, _)| effect).collect()
        }
        (Phase::Answered { finish, malformed }, Some(message)) => {
            vec![answer(definition, state, message, *finish, malformed.as_deref())]
        }
        (Phase::ModelFailed { error }, _) => vec![failed(definition, state, error)],
        (Phase::Denied { reason }, _) => vec![denied(definition, state, reason)],
        (Phase::NotRouted { error }, _) => vec![gives_up(definition, state, error)],
        _ => Vec::new(),
    }
}

/// Says what follows when the model can't be reached: another agent takes over, if the network has one for that.
fn failed(definition: &Definition, state: &AgentState, error: &str) -> Effect {
    let Some(route) = &definition.error_route else { return gives_up(definition, state, error) };
    let message = format!("I could not go on: model `{}`: {error}", state.model(definition));
    let subject = Subject::Handoff { agent: route.clone(), message };
    Effect::Act { call: CallId::tool(&state.id, state.step, 0), subject, labels: state.labels.clone() }
}

fn denied(definition: &Definition, state: &AgentState, reason: &str) -> Effect {
    Effect::End(AgentOutcome::Denied { reason: format!("model `{}`: {reason}", state.model(definition)) })
}

fn gives_up(definition: &Definition, state: &AgentState, error: &str) -> Effect {
    Effect::End(AgentOutcome::Failed { reason: format!("model `{}`: {error}", state.model(definition)) })
}

fn think(definition: &Definition, state: &AgentState) -> Effect {
    let limit = |limit: &str, reason: String| Effect::End(AgentOutcome::Limit { limit: limit.to_owned(), reason });
    if state.repairs > definition.max_repairs {
        let last = state.transcript.last().map(|message| excerpt(message)).unwrap_or_default();
        let reason = format!(
            "agent `{}` could not be put right in max_repairs = {} tries; the last one: {last}",
            definition.name, definition.max_repairs
        );
        return limit("max_repairs", reason);
    }
    if state.step >= definition.max_steps {
        let reason = format!("agent `{}` reached max_steps = {}", definition.name, definition.max_steps);
        return limit("max_steps", reason);
    }
    if let Some(stopped) = guards::watch(definition, state) {
        return stopped;
    }
    if let (true, Some(Body::Tool { content, .. })) =
        (fault::is_planted(Bug::DecidesOtherwise), state.transcript.last().map(|message| &message.body))
    {
        return Effect::End(AgentOutcome::Done(Answer::Text(content.as_str().into())));
    }
    if let Some(behaviour) = &definition.behaviour {
        return decided(&**behaviour, state);
    }
    compaction::next(definition, state)
}

/// Asks an agent that is written in Rust.
fn decided(behaviour: &dyn Agent, state: &AgentState) -> Effect {
    let call = CallId::model(&state.id, state.step + 1);
    let turn = Turn { agent: &state.id, step: call.step, messages: &state.transcript };
    let (text, asked) = match behaviour.next(&turn) {
        Move::Answer(text) => (text, Vec::new()),
        Move::Call(calls) => (String::new(), calls),
    };
    let name = |(index, asked): (usize, _)| (CallId::tool(&state.id, call.step, index as u32).in_transcript(), asked);
    let tool_calls = asked.into_iter().enumerate().map(name).collect();
    let (body, labels) = (Body::Assistant { text, tool_calls }, state.labels.clone());
    Effect::Decide { call, message: Arc::new(Message { body, labels, origin: Origin::Agent(state.id.clone()) }) }
}

fn act(definition: &Definition, state: &AgentState, call: &CallId, message: &Message) -> Vec<Effect> {
    let Body::Assistant { tool_calls, .. } = &message.body else { return Vec::new() };
    let alone = tool_calls.len() == 1;
    let one = |(index, (_, asked)): (usize, &(String, ToolCall))| {
        let call = CallId::tool(&call.agent, call.step, index as u32);
        match target(definition, asked, index, alone) {
            Ok(subject) => Effect::Act { call, subject, labels: state.labels.clone() },
            Err((failure, why)) => {
                let message = tool_message(&call, &asked.name, why, true, Labels::default(), Origin::Runtime);
                Effect::Refuse { call, failure, message }
            }
        }
    };
    tool_calls.iter().enumerate().map(one).collect()
}

/// Finds what a tool call is made to, or says in words for the model why there is no such thing.
fn target(
    definition: &Definition,
    asked: &ToolCall,
    index: usize,
    alone: bool,
) -> Result<Subject, (ToolFailure, String)> {
    if index >= MAX_CALLS_PER_STEP {
        return Err((ToolFailure::Misplaced, format!("at most {MAX_CALLS_PER_STEP} calls can be made in one step")));
    }
    let Some(target) = definition.targets.get(&asked.name) else {
        let names: Vec<&str> = definition.offers.iter().map(|offer| offer.name.as_str()).collect();
        let known = if names.is_empty() { "there are no tools".to_owned() } else { names.join(", ") };
        return Err((ToolFailure::UnknownTool, format!("there is no tool `{}`; the tools are: {known}", asked.name)));
    };
    let mut arguments = arguments(&asked.arguments)?;
    if !target.validator.is_valid(&arguments) {
        // Many models write null for what they would leave out.
        arguments.as_object_mut().into_iter().for_each(|given| given.retain(|_, value| !value.is_null()));
    }
    if let Some(wrong) = schema_errors(&target.validator, &arguments) {
        return Err((ToolFailure::InvalidArguments, format!("invalid arguments for `{}`: {wrong}", asked.name)));
    }
    let message = || arguments.get("message").and_then(Value::as_str).unwrap_or_default().to_owned();
    match &target.kind {
        TargetKind::Tool(tool) => Ok(Subject::Tool { tool: tool.clone(), arguments }),
        TargetKind::Delegate(agent) => Ok(Subject::Delegate { agent: agent.clone(), message: message() }),
        TargetKind::Publish(topic) => Ok(Subject::Publish { topic: topic.clone(), message: message() }),
        TargetKind::Handoff(agent) if alone => Ok(Subject::Handoff { agent: agent.clone(), message: message() }),
        TargetKind::Handoff(_) => {
            let why =
                format!("`{}` must be the only call of its step; call it again when the others are done", asked.name);
            Err((ToolFailure::Misplaced, why))
        }
    }
}

fn arguments(text: &str) -> Result<Value, (ToolFailure, String)> {
    if text.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    let wrong = |what: String| (ToolFailure::InvalidArguments, what);
    match serde_json::from_str(text) {
        Ok(arguments @ Value::Object(_)) => Ok(arguments),
        Ok(_) => Err(wrong("the arguments must be a JSON object".to_owned())),
        Err(error) => Err(wrong(format!("the arguments are no JSON: {error}"))),
    }
}

pub(super) fn schema_errors(validator: &jsonschema::Validator, value: &Value) -> Option<String> {
    let describe = |error: jsonschema::ValidationError<'_>| match error.instance_path().as_str() {
        "" => error.to_string(),
        path => format!("{path}: {error}"),
    };
    let errors: Vec<String> = validator.iter_errors(value).take(MAX_SCHEMA_ERRORS).map(describe).collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

fn answer(
    definition: &Definition,
    state: &AgentState,
    message: &Message,
    finish: Finish,
    malformed: Option<&str>,
) -> Effect {
    let repair = |why: String| {
        let body = Body::User { text: why };
        Effect::Repair { message: Arc::new(Message { body, labels: Labels::default(), origin: Origin::Runtime }) }
    };
    let Body::Assistant { text, .. } = &message.body else { return repair("Answer in text.".to_owned()) };
    match (finish, malformed) {
        (Finish::Filtered, _) => {
            let reason = format!("the provider of model `{}` withheld the answer", state.model(definition));
            return Effect::End(AgentOutcome::Failed { reason });
        }
        (Finish::Length, _) => {
            return repair("Your answer was cut off because it was too long. Answer again, more briefly.".to_owned());
        }
        (_, Some(why)) => return repair(format!("Your answer can't be used: {why}. Answer again.")),
        (Finish::Stop, None) => {}
    }
    let Some(output) = &definition.output else {
        return match text.trim() {
            "" => repair("Your answer was empty. Give your answer.".to_owned()),
            _ => Effect::End(AgentOutcome::Done(Answer::Text(text.as_str().into()))),
        };
    };
    match serde_json::from_str::<Value>(unfenced(text)) {
        Ok(value) => match schema_errors(&output.validator, &value) {
            None => match choosing::doubted(definition, state, &value) {
                Some(message) => Effect::Repair { message },
                None => Effect::End(AgentOutcome::Done(Answer::Value(Arc::new(value)))),
            },
            Some(wrong) => repair(format!("Your answer does not satisfy its JSON Schema: {wrong}. Answer again.")),
        },
        Err(error) => repair(format!(
            "Your answer must be one JSON value that satisfies this JSON Schema, and nothing else: {}\nIt is no JSON: {error}.",
            output.schema
        )),
    }
}

/// Takes JSON out of the code fence that many models put around it.
fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let Some(inner) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else { return text };
    inner.strip_prefix("json").unwrap_or(inner).trim()
}

/// Makes the message that a tool call's result is in a transcript.
pub fn tool_message(
    call: &CallId,
    name: &str,
    content: String,
    failed: bool,
    labels: Labels,
    origin: Origin,
) -> Arc<Message> {
    let body = Body::Tool { id: call.in_transcript(), name: name.to_owned(), content, failed };
    Arc::new(Message { body, labels, origin })
}

/// How much of a message is shown in a reason: a line's worth.
const EXCERPT_CHARS: usize = 200;

fn excerpt(message: &Message) -> String {
    let text = match &message.body {
        Body::User { text } | Body::Assistant { text, .. } => text,
        Body::Tool { content, .. } => content,
    };
    text.chars().take(EXCERPT_CHARS).collect()
}

#[cfg(test)]
mod tests;
