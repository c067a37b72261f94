//! Calls that nobody makes, put before policies: those of a table of cases, and those of a run that is on record.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::definitions::validator;
use super::policies::parameters;
use super::{Error, Past};
use crate::budget::Amount;
use crate::policy::{Asked, Decision, Policies};
use crate::run::{
    Body, CallId, Envelope, Event, Instance, Labels, RunState, Subject, Target, TargetKind, ToolCall, delegate_tool,
    handoff_tool, publish_tool,
};
use crate::spec::{AgentSpec, Builtin, ModelSpec, Network, READ_AGAIN, STAND_IN, listed, local, nearest};

/// A call, and all that policies are told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Supposed {
    /// The name of the agent that makes it.
    pub agent: Arc<str>,
    /// What it is made to.
    pub subject: Subject,
    /// The run.
    pub run: Arc<str>,
    /// Who the run belongs to.
    pub tenant: Arc<str>,
    /// The key that the run shares with others.
    pub session: Option<Arc<str>>,
    /// What the agent has been influenced by.
    pub labels: Labels,
    /// How many delegations lie between the entry agent and this one.
    pub depth: u32,
    /// What the run has spent.
    pub spent: Amount,
    /// The time of day, in milliseconds since 1970 (UTC).
    pub now_ms: u64,
    /// The names of what a person has approved of in the run.
    pub approved: Vec<Arc<str>>,
}

impl Supposed {
    /// Returns a call of a run as it came to the gate last, or, where that is not on record, as it was made first. None where
    /// the run has no such call, or it was refused before any policy was asked.
    pub fn of_past(past: &Past, network: &Network, call: &CallId) -> Option<Self> {
        let at = at_gate(past, call)?;
        let (mut state, mut labels, mut chosen) = (RunState::default(), at.labels.clone(), None);
        for envelope in past.events.iter().take_while(|envelope| envelope.seq < at.seq) {
            state.evolve(envelope);
            if envelope.agent.as_ref() != Some(&call.agent) {
                continue;
            }
            match &envelope.event {
                Event::ModelChosen { model, .. } => chosen = Some(model),
                Event::AgentStarted { task, .. } => task.iter().for_each(|message| labels.join(&message.labels)),
                // A model is told all that was said before.
                Event::ToolReturned { message, .. }
                | Event::ModelReplied { message, .. }
                | Event::Steered { message }
                | Event::Asked { message }
                    if call.index.is_none() =>
                {
                    labels.join(&message.labels);
                }
                _ => {}
            }
        }
        let instance: &Instance = state.agents().get(&call.agent)?;
        let subject = seen(&at.event)
            .or_else(|| recorded(past, call))
            .or_else(|| wanted(past, network, instance, call))
            .or_else(|| {
                let own = || network.model_of(&instance.name).map_or(STAND_IN, |(name, _)| name);
                let name = chosen.map(|name| &**name).unwrap_or_else(own);
                let max_output_tokens = match network.spec().models.get(name) {
                    Some(model) => model.max_output_tokens,
                    None if name == STAND_IN => ModelSpec::default().max_output_tokens,
                    None => return None,
                };
                call.index.is_none().then(|| Subject::Model { model: name.into(), max_output_tokens })
            })?;
        let mut approved = state.approved().to_vec();
        approved.sort();
        Some(Self {
            agent: instance.name.clone(),
            subject,
            run: at.stream.run.as_str().into(),
            tenant: at.stream.tenant.clone(),
            session: at.stream.session.clone(),
            labels,
            depth: instance.depth,
            spent: state.spent(),
            now_ms: at.time_ms,
            approved,
        })
    }

    /// Asks policies of the network about the call.
    pub fn ask(&self, network: &Network, policies: &Policies) -> Decision {
        let Self { agent, subject, run, tenant, session, labels, depth, spent, now_ms, approved } = self;
        let (depth, spent, now_ms, session) = (*depth, *spent, *now_ms, session.as_deref());
        let asked = Asked { agent, subject, run, tenant, session, labels, depth, spent, now_ms, approved };
        policies.decide(&asked, builtin(network, subject))
    }
}

fn builtin(network: &Network, subject: &Subject) -> Option<Builtin> {
    match subject {
        Subject::Tool { tool, .. } if **tool == *READ_AGAIN => Some(Builtin::ReadAgain),
        Subject::Tool { tool, .. } => network.spec().tools.get(&**tool)?.builtin,
        _ => None,
    }
}

/// Returns the event that says when a call came to the gate last; where none does, its first intent.
fn at_gate<'a>(past: &'a Past, call: &CallId) -> Option<&'a Arc<Envelope>> {
    let of_call = || past.events.iter().filter(|envelope| envelope.event.call() == Some(call));
    let is_asked = |event: &Event| matches!(event, Event::PolicyDecided { .. } | Event::ApprovalRequested { .. });
    let is_made = |event: &Event| matches!(event, Event::CallIntended { .. } | Event::InputRequested { .. });
    let last = of_call().rfind(|envelope| is_asked(&envelope.event));
    last.or_else(|| of_call().find(|envelope| is_made(&envelope.event)))
}

/// Returns a call as policies were told of it, where that is otherwise than its agent wrote it.
fn seen(event: &Event) -> Option<Subject> {
    match event {
        Event::PolicyDecided { seen, .. } => seen.clone(),
        Event::ApprovalRequested { request, .. } => request.as_ref()?.seen.as_deref().cloned(),
        _ => None,
    }
}

/// Returns what a call was made to, as it is on record last: a person may have changed it.
fn recorded(past: &Past, call: &CallId) -> Option<Subject> {
    let mut of_call = past.events.iter().rev().filter(|envelope| envelope.event.call() == Some(call));
    let mut edited = None;
    let mut subject = of_call.find_map(|envelope| match &envelope.event {
        Event::CallIntended { subject, .. }
        | Event::InputRequested { subject, .. }
        | Event::ApprovalRequested { subject, .. } => Some(subject.clone()),
        Event::ApprovalDecided { verdict, .. } => {
            edited = edited.take().or_else(|| verdict.arguments.clone());
            None
        }
        _ => None,
    })?;
    if let (Some(edited), Subject::Tool { arguments, .. }) = (edited, &mut subject) {
        *arguments = (*edited).clone();
    }
    Some(subject)
}

/// Returns what a model asked for with a call that was denied, and so has no intent on record.
fn wanted(past: &Past, network: &Network, instance: &Instance, call: &CallId) -> Option<Subject> {
    call.index?;
    let of_step = CallId { index: None, ..call.clone() };
    let said = past.events.iter().rev().find_map(|envelope| match &envelope.event {
        Event::ModelReplied { call, message, .. } | Event::Decided { call, message } if *call == of_step => {
            Some(message)
        }
        _ => None,
    })?;
    let Body::Assistant { tool_calls, .. } = &said.body else { return None };
    let (_, asked) = tool_calls.iter().find(|(id, _)| *id == call.in_transcript())?;
    let name: &str = &instance.name;
    meant(network.spec().agents.get(name)?, name, asked)
}

/// Returns what an agent means by a call that its model writes.
fn meant(agent: &AgentSpec, name: &str, asked: &ToolCall) -> Option<Subject> {
    let empty = asked.arguments.trim().is_empty();
    let arguments: Value = if empty { serde_json::json!({}) } else { serde_json::from_str(&asked.arguments).ok()? };
    let message = || arguments.get("message").and_then(Value::as_str).unwrap_or_default().to_owned();
    let is = |written: &str| *written == asked.name;
    let find = |of: &[String], written: &dyn Fn(&str) -> String| {
        of.iter().find(|other| is(&written(local(other, name)))).map(|other| Arc::from(other.as_str()))
    };
    if let Some(tool) = find(&agent.tools, &str::to_owned) {
        return Some(Subject::Tool { tool, arguments });
    }
    if let Some(agent) = find(&agent.delegates_to, &delegate_tool) {
        return Some(Subject::Delegate { agent, message: message() });
    }
    if let Some(agent) = find(&agent.hands_off_to, &handoff_tool) {
        return Some(Subject::Handoff { agent, message: message() });
    }
    if let Some(topic) = find(&agent.publishes, &publish_tool) {
        return Some(Subject::Publish { topic, message: message() });
    }
    is(READ_AGAIN).then(|| Subject::Tool { tool: READ_AGAIN.into(), arguments })
}

/// Says of calls whether there could be such in a network.
pub struct Rehearsal<'a> {
    network: &'a Network,
    tools: HashMap<String, Target>,
}

impl<'a> Rehearsal<'a> {
    /// Makes the schemas of a network's tools ready.
    ///
    /// # Errors
    /// One can't be compiled.
    pub fn new(network: &'a Network) -> Result<Self, Error> {
        let target = |(name, schema): (String, Value)| {
            let validator = Arc::new(validator(&schema, &name)?);
            Ok((name.clone(), Target { kind: TargetKind::Tool(name.into()), validator }))
        };
        let tools = parameters(network, &HashMap::new()).into_iter().map(target).collect::<Result<_, Error>>()?;
        Ok(Self { network, tools })
    }

    /// Says why no such call could come to the gate; none where one could.
    pub fn objection(&self, agent: &str, subject: &Subject) -> Option<String> {
        let spec = self.network.spec();
        let agents = || spec.agents.keys().map(String::as_str).collect();
        let Some(own) = spec.agents.get(agent) else { return Some(unknown("agent", agent, agents())) };
        let has = |names: &[String], name: &str| names.iter().any(|known| known == name);
        let lacks = |is_there: bool, does: &str| {
            (!is_there).then(|| format!("`{agent}` {does} `{}`: no such call comes to the gate", subject.name()))
        };
        match subject {
            Subject::Tool { tool, arguments } => match self.tools.get(&**tool) {
                Some(target) => {
                    let is_own = has(&own.tools, tool) || (**tool == *READ_AGAIN && own.compaction.is_some());
                    let wrong =
                        || target.objection(arguments).map(|wrong| format!("`{tool}` does not take them: {wrong}"));
                    lacks(is_own, "does not have the tool").or_else(wrong)
                }
                None => Some(unknown("tool", tool, self.tools.keys().map(String::as_str).collect())),
            },
            Subject::Model { model, .. } => {
                let mut known: Vec<&str> = spec.models.keys().map(String::as_str).collect();
                if known.is_empty() {
                    known.push(STAND_IN);
                }
                if !known.contains(&&**model) {
                    return Some(unknown("model", model, known));
                }
                let is_own = spec.models.is_empty() || spec.models_of(own).any(|(name, _)| *name == **model);
                lacks(is_own && !own.is_flow(), "does not ask the model")
            }
            Subject::Delegate { agent: other, .. } | Subject::Handoff { agent: other, .. } => {
                if !spec.agents.contains_key(&**other) {
                    return Some(unknown("agent", other, agents()));
                }
                match subject {
                    Subject::Delegate { .. } => lacks(has(&own.delegates_to, other), "does not delegate to"),
                    _ => {
                        let takes_over = own.on_error.route() == Some(&**other);
                        lacks(takes_over || has(&own.hands_off_to, other), "does not hand over to")
                    }
                }
            }
            Subject::Publish { topic, .. } => {
                let topics: Vec<&str> =
                    spec.agents.values().flat_map(|agent| agent.publishes.iter().map(String::as_str)).collect();
                match topics.contains(&&**topic) {
                    true => lacks(has(&own.publishes, topic), "does not publish on"),
                    false => Some(unknown("topic", topic, topics)),
                }
            }
        }
    }
}

fn unknown(what: &str, name: &str, mut known: Vec<&str>) -> String {
    known.sort_unstable();
    known.dedup();
    match nearest(name, known.iter().copied()) {
        Some(meant) => format!("there is no {what} `{name}`; did you mean `{meant}`?"),
        None if known.is_empty() => format!("there is no {what} `{name}`; the network has none"),
        None => format!("there is no {what} `{name}`; the {what}s are {}", listed(known)),
    }
}
