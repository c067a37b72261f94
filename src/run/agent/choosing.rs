//! Which model an agent's next step goes to, as far as its own events say. That the run's budget runs low, and that a model can't
//! be had, is for the runtime to know; whatever is chosen is on record before the call is made.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AgentState, unfenced};
use crate::run::{Body, Definition, Event, Labels, Message, Origin};
use crate::spec::{ModelChoice, ModelRule};

/// Why an agent goes to another model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A rule of `when` says so.
    Rule,
    /// The model before gave too many answers that can't be used.
    Escalated,
    /// The model before said that it was not sure.
    Unsure,
    /// The model before could not be had.
    FellBack,
    /// The run's budget or its time runs low.
    Downgraded,
}

/// A change of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The model that the agent goes to.
    pub model: Arc<str>,
    /// What kind of reason there is.
    pub why: Why,
    /// The reason, in words.
    pub reason: String,
}

/// Which model a call is to be made to, as far as the agent's own events say.
#[derive(Clone, Debug, PartialEq)]
pub struct Pick {
    /// The model that the agent has had.
    pub current: Arc<str>,
    /// The model that it is to have, if that is another.
    pub change: Option<Change>,
    /// Whether what it was influenced by says so, so that nothing leads elsewhere.
    pub is_bound: bool,
}

impl Pick {
    /// Returns the model that the call is to be made to.
    pub fn model(&self) -> &Arc<str> {
        self.change.as_ref().map_or(&self.current, |change| &change.model)
    }
}

/// The last change of an agent's model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Chosen {
    model: Arc<str>,
    why: Why,
    /// The step for which it was made.
    step: u32,
    /// How many answers in a row could not be used by then.
    repairs: u32,
}

impl Change {
    /// Returns the event of the change, before the call `call`.
    pub fn event(self, call: super::CallId) -> Event {
        let Self { model, why, reason } = self;
        Event::ModelChosen { call, model, why, reason }
    }
}

impl AgentState {
    /// Takes up that it goes to another model.
    pub(super) fn go_to(&mut self, model: &Arc<str>, why: Why, step: u32) {
        self.chosen = Some(Chosen { model: model.clone(), why, step, repairs: self.repairs });
    }

    /// A step could be used: what was wrong before is forgotten.
    pub(super) fn managed(&mut self) {
        self.chosen.iter_mut().for_each(|chosen| chosen.repairs = 0);
    }

    /// Returns the model that it has: the last one that it went to, or the preferred one.
    pub fn model<'a>(&'a self, definition: &'a Definition) -> &'a Arc<str> {
        self.chosen_of(definition).map_or(&definition.model, |chosen| &chosen.model)
    }

    /// Returns the last change of its model, unless that is none of its models any more: in a fork, the network may be another.
    fn chosen_of(&self, definition: &Definition) -> Option<&Chosen> {
        let is_known = |chosen: &&Chosen| definition.choice.names().any(|name| **name == *chosen.model);
        self.chosen.as_ref().filter(is_known)
    }
}

/// Says which model the next step goes to.
pub fn pick(definition: &Definition, state: &AgentState) -> Pick {
    let current = state.model(definition).clone();
    let last = state.chosen_of(definition).map(|chosen| chosen.why);
    let to = |model: &str, why, reason| (*model != *current).then(|| Change { model: model.into(), why, reason });
    if let Some((rule, reason)) = binding(definition, state) {
        let change = to(&rule.model, Why::Rule, reason);
        return Pick { current, change, is_bound: true };
    }
    let change = escalation(definition, state).or_else(|| {
        // What a reason of another kind led to stands, or each step would go to and fro.
        if !matches!(last, None | Some(Why::Rule)) {
            return None;
        }
        let (rule, reason) = definition.choice.when.iter().find_map(|rule| Some((rule, applies(rule, state)?)))?;
        to(&rule.model, Why::Rule, reason)
    });
    Pick { current, change, is_bound: false }
}

/// Returns the models that get the same step in turn where `model` can't be had.
pub fn fall_backs<'a>(choice: &'a ModelChoice, model: &'a str, is_bound: bool) -> impl Iterator<Item = &'a String> {
    let after = choice.fall_back.iter().position(|name| name == model).map_or(0, |place| place + 1);
    choice.fall_back.iter().skip(after).filter(move |name| !is_bound && *name != model)
}

/// Returns the model that an agent goes to where `share` is what is left of a limit of its run; none where it stays with what it
/// has or is to have.
pub fn downgraded<'a>(choice: &'a ModelChoice, pick: &Pick, share: f64) -> Option<&'a String> {
    let mut below = choice.downgrade_below;
    let mut due = 0;
    while due < choice.downgrade.len() && share < below {
        (due, below) = (due + 1, below / 2.0);
    }
    let place = due.checked_sub(1).filter(|_| !pick.is_bound)?;
    let stands = choice.downgrade.iter().position(|name| **name == *pick.current);
    // It has gone as far already, and nothing leads it elsewhere.
    let is_there = stands.is_some_and(|stands| stands >= place) && pick.change.is_none();
    (!is_there).then(|| &choice.downgrade[stands.unwrap_or_default().max(place)])
}

/// Returns the rule that binds the agent to a model by what it was influenced by, if one does.
pub(super) fn binding<'a>(definition: &'a Definition, state: &AgentState) -> Option<(&'a ModelRule, String)> {
    let mut rules = definition.choice.when.iter().filter(|rule| rule.label.is_some());
    rules.find_map(|rule| Some((rule, applies(rule, state)?)))
}

/// Says why a rule applies to the next step; none if it does not.
fn applies(rule: &ModelRule, state: &AgentState) -> Option<String> {
    let mut why = Vec::new();
    if let Some(label) = &rule.label {
        why.push(state.labels.iter().any(|known| known == label).then(|| format!("label = \"{label}\""))?);
    }
    if let Some(over) = rule.step_over {
        why.push((state.step + 1 > over).then(|| format!("step_over = {over}"))?);
    }
    if let Some(over) = rule.result_bytes_over {
        let bytes = result_bytes(state);
        why.push((bytes > over).then(|| format!("result_bytes_over = {over}, and they have {bytes}"))?);
    }
    (!why.is_empty()).then(|| format!("a rule says so: {}", why.join(", ")))
}

/// Returns how many bytes the results of the last step have.
fn result_bytes(state: &AgentState) -> u64 {
    let last = state.transcript.iter().rev().take_while(|message| !matches!(message.body, Body::Assistant { .. }));
    let bytes = |message: &Arc<Message>| match &message.body {
        Body::Tool { content, .. } => content.len() as u64,
        _ => 0,
    };
    last.map(bytes).sum()
}

/// Returns the model that takes over where the one in charge does not manage, if there is one.
fn next_escalation<'a>(definition: &'a Definition, state: &AgentState) -> Option<&'a String> {
    let last = state.chosen_of(definition);
    if last.is_some_and(|chosen| chosen.why == Why::Downgraded) || binding(definition, state).is_some() {
        return None;
    }
    let (list, current) = (&definition.choice.escalate, state.model(definition));
    let after = list.iter().position(|name| **name == **current).map_or(0, |place| place + 1);
    list.get(after)
}

fn escalation(definition: &Definition, state: &AgentState) -> Option<Change> {
    let next = next_escalation(definition, state)?;
    let (choice, last) = (&definition.choice, state.chosen_of(definition));
    let current = state.model(definition);
    let change = |why, reason| Some(Change { model: next.as_str().into(), why, reason });
    let failed = state.repairs.saturating_sub(last.map_or(0, |chosen| chosen.repairs));
    let is_new = last.is_none_or(|chosen| chosen.step <= state.step);
    if let Some(confidence) = confidence(state).filter(|_| is_new && state.repairs > 0)
        && choice.confidence_below.is_some_and(|below| confidence < below)
    {
        let reason = format!("`{current}` said that its confidence was {confidence}");
        return change(Why::Unsure, reason);
    }
    if failed < choice.escalate_after {
        return None;
    }
    let times = if failed == 1 { "an answer".to_owned() } else { format!("{failed} answers") };
    change(Why::Escalated, format!("`{current}` gave {times} that can't be used"))
}

/// Returns what the last answer says of its confidence, if it is one that does.
fn confidence(state: &AgentState) -> Option<f64> {
    let [.., answer, _] = &state.transcript[..] else { return None };
    match &answer.body {
        Body::Assistant { text, tool_calls } if tool_calls.is_empty() => {
            confidence_in(&serde_json::from_str(unfenced(text)).ok()?)
        }
        _ => None,
    }
}

fn confidence_in(answer: &Value) -> Option<f64> {
    answer.get("confidence")?.as_f64()
}

/// Says what is said to the next model where an answer is not sure enough; none where it counts as it is.
pub(super) fn doubted(definition: &Definition, state: &AgentState, answer: &Value) -> Option<Arc<Message>> {
    let below = definition.choice.confidence_below?;
    let confidence = confidence_in(answer).filter(|confidence| *confidence < below)?;
    if state.repairs >= definition.max_repairs {
        return None;
    }
    next_escalation(definition, state)?;
    let text = format!(
        "This answer says that its confidence is {confidence}, which is not enough. Look at it anew, and give your own answer."
    );
    Some(Arc::new(Message { body: Body::User { text }, labels: Labels::default(), origin: Origin::Runtime }))
}
