//! The agents that start with an answer, and what each of them is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::{Over, Payload, Taken, View, failed};
use crate::route::{Route, Values};
use crate::run::state::visit_key;
use crate::run::{AgentId, Answer, Body, Labels, Message, NewAgent, Origin, Parent, question};
use crate::spec::local;

/// Makes the agents of one step.
pub(in crate::run) struct Composer<'a> {
    view: &'a View<'a>,
    /// How many instances of each agent start with this step.
    started: BTreeMap<String, u32>,
}

impl<'a> Composer<'a> {
    pub(in crate::run) fn new(view: &'a View<'a>) -> Self {
        Self { view, started: BTreeMap::new() }
    }

    /// Lets one agent start with what a route passes on, or one for each of its items.
    pub(super) fn compose(
        &mut self,
        to: &Arc<str>,
        route: &Route,
        payload: &Payload<'_>,
        items: Option<&[Value]>,
        values: &Values,
        taken: &mut Taken,
    ) -> Result<(), Over> {
        let Some(items) = items else {
            let text = told(route, values, payload.text.clone())?;
            taken.starts.push(self.agent(to, &text, payload, payload.item.clone()));
            return Ok(());
        };
        let mut values = route.message.is_some().then(|| values.clone());
        for (index, item) in items.iter().enumerate() {
            let mut text = Answer::from(item.clone()).to_text();
            if let Some(values) = &mut values {
                values.insert("item".to_owned(), item.clone());
                text = told(route, values, text)?;
            }
            let mut path = payload.item.clone();
            path.push(index as u32);
            taken.starts.push(self.agent(to, &text, payload, path));
        }
        Ok(())
    }

    /// Makes the next instance of an agent. One that was there before knows what it was asked then, and what it answered;
    /// one that gets an item of a list does not: its like are asked beside it.
    pub(in crate::run) fn agent(
        &mut self,
        name: &Arc<str>,
        text: &Arc<str>,
        payload: &Payload<'_>,
        item: Vec<u32>,
    ) -> NewAgent {
        let key = visit_key(name, &item);
        let before = self.view.state.visits.get(&key).copied().unwrap_or_default();
        let started = self.started.entry(key).or_default();
        *started += 1;
        let nth = before + *started;
        let mut id = self.view.of.map(|owner| format!("{owner}/")).unwrap_or_default();
        // Where it stands says whose network it is in.
        id.push_str(&visit_key(if self.view.of.is_some() { local(name, name) } else { name }, &item));
        if nth > 1 {
            id.push_str(&format!("@{nth}"));
        }
        let mut task = if item.is_empty() { self.history(name) } else { Vec::new() };
        let origin = match self.view.of {
            // An inner flow begins with what its agent was asked.
            Some(owner) if payload.from == owner => self.asked_by(owner),
            _ => Origin::Agent(payload.from.clone()),
        };
        task.push(question(text.clone(), payload.labels.clone(), origin));
        let parent = Parent::Route(self.view.place(name, item, payload.since));
        NewAgent { id: AgentId::new(id), name: name.clone(), parent, depth: self.view.depth(), task }
    }

    fn asked_by(&self, owner: &AgentId) -> Origin {
        let asked = self.view.run.agents().get(owner).and_then(|owner| owner.task.last());
        asked.map_or(Origin::Runtime, |asked| asked.origin.clone())
    }

    fn history(&self, name: &Arc<str>) -> Vec<Arc<Message>> {
        let agents = self.view.run.agents();
        let last = self.view.state.latest.get(name).filter(|last| agents[*last].name == *name);
        let Some((last, answer)) = last.and_then(|last| Some((last, self.view.answer_of(last)?))) else {
            return Vec::new();
        };
        if self.view.run.visit(last).is_none_or(|visit| !visit.item.is_empty()) {
            return Vec::new();
        }
        let mut history = agents[last].task.clone();
        let body = Body::Assistant { text: answer.to_text().to_string(), tool_calls: Vec::new() };
        let labels: Labels = agents[last].labels.clone();
        history.push(Arc::new(Message { body, labels, origin: Origin::Agent(last.clone()) }));
        history
    }
}

/// What a route tells an agent.
fn told(route: &Route, values: &Values, text: Arc<str>) -> Result<Arc<str>, Over> {
    let Some(message) = &route.message else { return Ok(text) };
    let rendered = message.render(values);
    rendered.map(Into::into).map_err(|error| failed(format!("{}: `message`: {error}", route.words)))
}
