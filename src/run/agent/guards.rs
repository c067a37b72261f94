//! Whether an agent goes on without getting on: the same call again and again, steps that bring nothing new, a transcript
//! without end.
//!
//! The fold keeps what was called and what came of it, as digests, and what the model was told. What is made of that is
//! decided from it each time: a guard that strikes tells the model first, and ends the agent if it goes on all the same. Of two
//! agents that hand over to and fro, the run's state knows ([`ping_pong`](super::super::ping_pong)).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AgentState, Effect};
use crate::model::estimated_tokens;
use crate::run::{AgentOutcome, Body, Definition, Labels, Message, Origin, ToolFailure};

/// How many calls are kept to tell what is new. What an agent comes back to after more than these counts as new.
const REMEMBERED_CALLS: usize = 256;

/// At which share of `transcript_tokens` the model is told, in quarters.
const TOLD_AT_QUARTERS: u64 = 3;

/// What an agent's steps are watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// The same call with the same result.
    SameCall,
    /// Steps without a new call or result.
    NothingNew,
    /// A transcript that grows.
    TranscriptTokens,
}

impl Guard {
    /// Returns the guard's name in a network file.
    pub fn word(self) -> &'static str {
        match self {
            Self::SameCall => "same_call",
            Self::NothingNew => "nothing_new",
            Self::TranscriptTokens => "transcript_tokens",
        }
    }
}

/// When each guard strikes; none where it is off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    /// After how often the same call with the same result.
    pub same_call: Option<u32>,
    /// After how many steps with nothing new.
    pub nothing_new: Option<u32>,
    /// At which estimated length of the transcript.
    pub transcript_tokens: Option<u64>,
    /// The offers that take time or ask a person: what is called again after them may bring something else.
    pub waits: BTreeSet<String>,
    /// The offers that count neither as old nor as new.
    pub not_counted: BTreeSet<String>,
}

/// What is kept of an agent's steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Watch {
    /// The last steps that called something, oldest first.
    steps: VecDeque<Seen>,
    /// The last step before which each guard told the model.
    told: BTreeMap<Guard, u32>,
    /// The step after which somebody told the agent something.
    heard: u32,
    /// How often it was refused to hand over or ask to and fro.
    turned_back: u32,
}

/// A step, as far as it is compared with others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Seen {
    step: u32,
    calls: Vec<SeenCall>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SeenCall {
    name: String,
    /// Digests of what was called with which arguments, and of what came of it.
    call: u64,
    result: u64,
}

/// A guard that has struck.
struct Alarm {
    guard: Guard,
    /// What is the matter, in words that fit after "has" and "have".
    what: String,
    set: String,
    /// Whether the model had been told.
    is_told: bool,
}

/// The last steps, as far back as none of them brought anything new.
#[derive(Default)]
struct Streak<'a> {
    /// Those that called something which counts, with that.
    steps: Vec<(u32, Vec<&'a SeenCall>)>,
    /// Whether what they brought was new just before, so that it has been called once more than is in them.
    follows_news: bool,
}

impl<'a> Streak<'a> {
    fn after(&self, told: Option<u32>) -> impl Iterator<Item = &(u32, Vec<&'a SeenCall>)> {
        self.steps.iter().filter(move |(step, _)| told.is_none_or(|told| *step > told))
    }
}

impl Watch {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes up what a step called, and what came of it.
    pub(super) fn step(&mut self, step: u32, said: Option<&Message>, results: &[Option<Arc<Message>>]) {
        let Some(Body::Assistant { tool_calls, .. }) = said.map(|message| &message.body) else { return };
        let seen = tool_calls.iter().zip(results).filter_map(|((_, call), result)| {
            let Body::Tool { content, failed, .. } = &result.as_ref()?.body else { return None };
            let arguments = serde_json::from_str(&call.arguments).map(sorted);
            let arguments = arguments.map_or_else(|_| call.arguments.clone(), |arguments| arguments.to_string());
            let of_call = digest(&[&call.name, &arguments]);
            let of_result = digest(&[content, if *failed { "failed" } else { "" }]);
            Some(SeenCall { name: call.name.clone(), call: of_call, result: of_result })
        });
        let calls = seen.collect();
        self.steps.push_back(Seen { step, calls });
        let mut kept: usize = self.steps.iter().map(|seen| seen.calls.len()).sum();
        while kept > REMEMBERED_CALLS && self.steps.len() > 1 {
            kept -= self.steps.pop_front().map_or(0, |seen| seen.calls.len());
        }
    }

    /// Takes up that a call was refused since control went to and fro.
    pub(super) fn turn_back(&mut self, failure: Option<ToolFailure>) {
        self.turned_back += u32::from(failure == Some(ToolFailure::PingPong));
    }

    pub(super) fn told(&mut self, step: u32, guard: Guard) {
        self.told.insert(guard, step);
    }

    pub(super) fn heard(&mut self, step: u32) {
        self.heard = step;
    }

    fn streak<'a>(&'a self, guards: &Guards) -> Streak<'a> {
        let mut known = HashSet::new();
        let mut streak = Streak::default();
        for seen in &self.steps {
            let waits = |call: &&SeenCall| guards.waits.contains(&call.name);
            let counts = |call: &&SeenCall| !waits(call) && !guards.not_counted.contains(&call.name);
            let counted: Vec<&SeenCall> = seen.calls.iter().filter(counts).collect();
            // All of them are remembered, whatever the first one is.
            let news = counted.iter().filter(|call| known.insert((call.call, call.result))).count();
            if news > 0 || seen.calls.iter().any(|call| waits(&call)) || seen.step <= self.heard {
                streak = Streak { steps: Vec::new(), follows_news: news > 0 && seen.step > self.heard };
            } else if !counted.is_empty() {
                streak.steps.push((seen.step, counted));
            }
        }
        streak
    }

    /// Returns the step after which a guard told the model of what is still going on.
    fn told_of(&self, guard: Guard, streak: &Streak<'_>) -> Option<u32> {
        let (began, _) = streak.steps.first()?;
        self.told.get(&guard).copied().filter(|step| step >= began)
    }

    fn same_call(&self, guards: &Guards, streak: &Streak<'_>) -> Option<Alarm> {
        let most = guards.same_call?;
        let told = self.told_of(Guard::SameCall, streak);
        // Until the model is told, the time counts that brought the result as something new.
        let before = u32::from(told.is_none() && streak.follows_news);
        let mut times: HashMap<u64, (u32, &str)> = HashMap::new();
        for call in streak.after(told).flat_map(|(_, calls)| calls) {
            times.entry(call.call).or_insert((before, &call.name)).0 += 1;
        }
        let (times, name) = times.into_values().max()?;
        (times >= most).then(|| Alarm {
            guard: Guard::SameCall,
            what: format!("made the same call of `{name}` {times} times, and it came to the same each time"),
            set: most.to_string(),
            is_told: told.is_some(),
        })
    }

    fn nothing_new(&self, guards: &Guards, streak: &Streak<'_>) -> Option<Alarm> {
        let most = guards.nothing_new?;
        let told = self.told_of(Guard::NothingNew, streak);
        let steps = streak.after(told).count();
        (steps >= most as usize).then(|| Alarm {
            guard: Guard::NothingNew,
            what: format!("made {steps} steps that brought nothing new: calls made before, with the same results"),
            set: most.to_string(),
            is_told: told.is_some(),
        })
    }

    fn growing(&self, definition: &Definition, state: &AgentState) -> Option<Alarm> {
        let most = definition.guards.transcript_tokens.filter(|_| definition.compaction.is_none())?;
        let tokens = estimated_tokens(state.transcript());
        let told = self.told.get(&Guard::TranscriptTokens);
        let from = match told {
            Some(step) if *step >= state.step() => return None,
            Some(_) => most,
            None => most / 4 * TOLD_AT_QUARTERS,
        };
        (tokens >= from).then(|| Alarm {
            guard: Guard::TranscriptTokens,
            what: format!("a transcript of about {tokens} tokens"),
            set: most.to_string(),
            is_told: told.is_some(),
        })
    }
}

/// Says what a guard has the agent do before its model is called; none where all is well.
pub(super) fn watch(definition: &Definition, state: &AgentState) -> Option<Effect> {
    let (guards, watch) = (&definition.guards, &state.watch);
    if definition.behaviour.is_some() {
        // It is a program, and does what it was written to do.
        return None;
    }
    if watch.turned_back > 1 {
        let why = state.transcript().last().map(|message| message.text()).unwrap_or_default();
        let reason = format!("agent `{}` tried once more what it was told not to: {why}", definition.name);
        return Some(Effect::End(AgentOutcome::Limit { limit: "ping_pong".to_owned(), reason }));
    }
    let streak = watch.streak(guards);
    let alarm = watch.same_call(guards, &streak).or_else(|| watch.nothing_new(guards, &streak));
    let Alarm { guard, what, set, is_told } = alarm.or_else(|| watch.growing(definition, state))?;
    let limit = guard.word();
    if is_told {
        let again = if guard == Guard::TranscriptTokens { "after" } else { "again after" };
        let reason = format!("agent `{}` has {what}, {again} it was told so (guards.{limit} = {set})", definition.name);
        return Some(Effect::End(AgentOutcome::Limit { limit: limit.to_owned(), reason }));
    }
    let advice = match guard {
        Guard::SameCall | Guard::NothingNew => {
            "Do something else, or give your answer with what you know. If you go on like this, you will be stopped."
        }
        Guard::TranscriptTokens => "Little more can be read. Give your answer with what you know.",
    };
    let body = Body::User { text: format!("You have {what}. {advice}") };
    let message = Arc::new(Message { body, labels: Labels::default(), origin: Origin::Runtime });
    Some(Effect::Warn { guard, message })
}

/// Puts the keys of all objects in order: in which order a model writes them means nothing.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(entries) => {
            let entries: BTreeMap<String, Value> = entries.into_iter().collect();
            entries.into_iter().map(|(key, value)| (key, sorted(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}

fn digest(parts: &[&str]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    hasher.finalize().as_bytes().iter().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests;
