//! What becomes of answers: where routes lead them, where they wait for others, and what a flow answers in the end; as a
//! function of the run's state and the network's rules.
//!
//! [`RunState::next_step`] says one step at a time: it is recorded, and the next one follows from the state that it leaves.

mod compose;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

pub(super) use self::compose::Composer;
use super::state::{FlowState, Published};
use super::{
    AgentId, AgentOutcome, Answer, CallId, Event, Instance, Labels, NewAgent, Parent, RunEnd, RunState, Status, Visit,
};
use crate::fault::{self, Bug};
use crate::route::{Flow, Join, Route, Values};
use crate::spec::{self, Limits, TOPIC};

/// What a run does next by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Routing {
    /// Answers are passed on.
    Go(Box<Step>),
    /// An inner flow is over, and so is the instance that stands for it.
    EndAgent {
        /// The instance.
        agent: AgentId,
        /// How.
        outcome: AgentOutcome,
        /// What its answer was influenced by.
        labels: Labels,
    },
    /// The run is over.
    End(RunEnd),
}

/// What happens when answers are passed on, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// It is written down.
    pub event: Event,
    /// What it was influenced by.
    pub labels: Labels,
    /// These are stopped.
    pub lost: Vec<AgentId>,
    /// These start.
    pub starts: Vec<NewAgent>,
}

/// Why one is stopped whose answer would come too late.
pub const LOST: &str = "its answer is not waited for: the join has gone on";

/// By what a run's flows go.
#[derive(Clone, Copy, Debug)]
pub struct FlowRules<'a> {
    /// The routes.
    pub flow: &'a Flow,
    /// The limits of the run.
    pub limits: &'a Limits,
}

/// One flow of a run, looked at.
pub(super) struct View<'a> {
    pub(super) run: &'a RunState,
    pub(super) rules: FlowRules<'a>,
    /// Whose flow it is; none for the run's own.
    pub(super) of: Option<&'a AgentId>,
    pub(super) state: &'a FlowState,
}

/// The flow ends like this, whatever else is at work in it.
pub(super) type Over = AgentOutcome;

/// What routes take of one answer.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) routes: Vec<u32>,
    pub(super) starts: Vec<NewAgent>,
    pub(super) answer: Option<Answer>,
    /// Why nothing was taken, where a bound is to blame.
    pub(super) exhausted: Option<String>,
}

/// What is passed on.
pub(super) struct Payload<'a> {
    /// As expressions see it.
    pub(super) output: Value,
    /// As agents are told it, where no route says otherwise.
    pub(super) text: Arc<str>,
    pub(super) from: &'a AgentId,
    pub(super) labels: Labels,
}

impl RunState {
    /// Says what the run does next by itself; none while it waits for agents, or if it is ending.
    pub fn next_step(&self, rules: FlowRules<'_>) -> Option<Routing> {
        if self.beginning().is_none() || self.agents().is_empty() || self.end().is_some() {
            return None;
        }
        if self.cancelling().is_some() {
            return None;
        }
        if rules.flow.has_inner()
            && let Some(begin) = self.unbegun(rules)
        {
            return Some(begin);
        }
        let inner = self.inner_flows().rev().map(|(agent, state)| (Some(agent), state));
        let root = self.flow(None).map(|state| (None, state));
        inner.chain(root).find_map(|(of, state)| View { run: self, rules, of, state }.step())
    }

    /// Lets the flow of an instance begin that stands for one.
    fn unbegun(&self, rules: FlowRules<'_>) -> Option<Routing> {
        let begins = |(id, instance): &(&AgentId, &Instance)| {
            instance.outcome.is_none() && self.flow(Some(id)).is_none() && rules.flow.is_flow(&instance.name)
        };
        let (id, instance) = self.agents().iter().find(begins)?;
        let view = View { run: self, rules, of: Some(id), state: &FlowState::default() };
        let asked = instance.task.last()?;
        let payload =
            Payload { output: Value::Null, text: asked.text().into(), from: id, labels: asked.labels.clone() };
        Some(match view.first(&payload) {
            Ok(starts) => view.routed(id, Taken { starts, ..Taken::default() }, Vec::new(), None, payload.labels),
            Err(over) => view.over(over, payload.labels),
        })
    }

    /// Returns the joins that wait no longer than until then, in milliseconds since 1970.
    pub fn join_deadlines(&self, rules: &Flow) -> Vec<(Option<AgentId>, u32, u64)> {
        let inner = self.inner_flows().map(|(agent, state)| (Some(agent), state));
        let mut deadlines = Vec::new();
        for (of, state) in inner.chain(self.flow(None).map(|state| (None, state))) {
            for (index, join) in rules.joins().iter().enumerate() {
                let Some(timeout) = join.timeout else { continue };
                let joining = state.joins.get(&(index as u32));
                if joining.is_some_and(|joining| joining.is_due) {
                    continue;
                }
                let is_sender =
                    |names: &(Arc<str>, Arc<str>)| join.from.contains(&names.0) || join.from.contains(&names.1);
                let live = state.live.values().filter(|live| is_sender(&live.names)).map(|live| live.since_ms);
                let waiting = joining.into_iter().flat_map(|joining| &joining.waiting);
                let begun = waiting.filter_map(|agent| Some(self.agents().get(agent)?.started_ms));
                if let Some(since_ms) = live.chain(begun).min() {
                    let timeout_ms = u64::try_from(timeout.0.as_millis()).unwrap_or(u64::MAX);
                    deadlines.push((of.cloned(), index as u32, since_ms.saturating_add(timeout_ms)));
                }
            }
        }
        deadlines
    }
}

impl<'a> View<'a> {
    fn step(&self) -> Option<Routing> {
        if let Some(published) = self.state.published.front() {
            return Some(self.pass_on_published(published));
        }
        let ended = self.state.ended.iter().find_map(|agent| self.pass_on(agent));
        ended.or_else(|| self.join()).or_else(|| self.finish())
    }

    pub(super) fn room(&self) -> Option<&'a crate::route::Room> {
        let name = &self.run.agents().get(self.of?)?.name;
        self.rules.flow.of_agent(name)?.room.as_ref()
    }

    /// Says what becomes of the answer of an instance; none if nothing does, and it is one of those of the flow.
    fn pass_on(&self, agent: &'a AgentId) -> Option<Routing> {
        let instance = self.run.agents().get(agent)?;
        let outcome = instance.outcome.as_ref()?;
        let labels = instance.labels.clone();
        if let Some(room) = self.room() {
            return Some(self.next_turn(room, agent, instance));
        }
        let inherited = self.run.visit(agent)?.node;
        let name = if self.rules.flow.leads_on(&instance.name) { &instance.name } else { &inherited };
        let node = self.rules.flow.of_agent(name).filter(|_| self.rules.flow.leads_on(name));
        let Some(node) = node else { return self.leaf(instance, outcome) };
        let AgentOutcome::Done(answer) = outcome else {
            let joins = || node.joins.iter().filter_map(|join| self.rules.flow.joins().get(*join));
            let is_borne = node.routes.is_empty() && joins().all(Join::is_tolerant);
            return Some(match is_borne {
                true => self.routed(agent, Taken::default(), Vec::new(), None, labels),
                false => self.over(outcome.clone(), labels),
            });
        };
        let payload = Payload { output: answer.to_value(), text: answer.to_text(), from: agent, labels };
        let waits: Vec<u32> = node.joins.iter().map(|join| *join as u32).collect();
        Some(match self.take(&node.routes, &payload) {
            Err(over) => self.over(over, payload.labels),
            Ok(Taken { routes, exhausted: Some(reason), .. }) if routes.is_empty() && waits.is_empty() => {
                self.over(limit("max_visits", reason), payload.labels)
            }
            Ok(taken) => self.routed(agent, taken, waits, None, payload.labels),
        })
    }

    /// What ends and leads nowhere: a failure ends the flow, unless others stand for the run beside it. Of those that
    /// all began with the run, the first one to answer answers for it.
    fn leaf(&self, instance: &Instance, outcome: &AgentOutcome) -> Option<Routing> {
        let began = |instance: &Instance| matches!(instance.parent, Parent::Run);
        let has_others = began(instance) && !self.state.live.is_empty();
        let all_began = || self.state.live.keys().all(|agent| self.run.agents().get(agent).is_some_and(began));
        match outcome {
            AgentOutcome::Done(_) if has_others && all_began() => {
                Some(self.over(outcome.clone(), instance.labels.clone()))
            }
            AgentOutcome::Failed { .. } | AgentOutcome::Limit { .. } if !has_others => {
                let answered = |agent: &AgentId| self.answer_of(agent).is_some();
                let is_borne = matches!(instance.parent, Parent::Run) && self.state.ended.iter().any(answered);
                (!is_borne).then(|| self.over(outcome.clone(), instance.labels.clone()))
            }
            _ => None,
        }
    }

    fn pass_on_published(&self, published: &'a Published) -> Routing {
        let from = &published.call.agent;
        let labels = published.labels.clone();
        let text: Arc<str> = published.message.as_str().into();
        let payload = Payload { output: Value::from(&*text), text, from, labels: labels.clone() };
        let topic = crate::route::topic_node(&published.topic);
        match self.take(self.rules.flow.topic(&topic), &payload) {
            Err(over) => self.over(over, labels),
            Ok(taken) => self.routed(from, taken, Vec::new(), Some(published.call.clone()), labels),
        }
    }

    pub(super) fn routed(
        &self,
        from: &AgentId,
        taken: Taken,
        waits: Vec<u32>,
        published: Option<CallId>,
        labels: Labels,
    ) -> Routing {
        let Taken { routes, starts, answer, .. } = taken;
        let event = Event::Routed {
            flow: self.of.cloned(),
            from: from.clone(),
            taken: routes,
            waits,
            starts: starts.len() as u32,
            answer,
            published,
        };
        Routing::Go(Box::new(Step { event, labels, lost: Vec::new(), starts }))
    }

    /// Works out which of some routes take what is passed on, and who starts with it.
    fn take(&self, routes: &[usize], payload: &Payload<'_>) -> Result<Taken, Over> {
        let mut taken = Taken::default();
        let mut composer = Composer::new(self);
        self.take_into(routes, payload, &mut taken, &mut composer)?;
        let total = self.run.agents().len() + taken.starts.len();
        let max = self.rules.limits.agents;
        match total > max as usize {
            true => Err(limit("agents", format!("a run may have {max} agents, and this one would have {total}"))),
            false => Ok(taken),
        }
    }

    fn take_into(
        &self,
        routes: &[usize],
        payload: &Payload<'_>,
        taken: &mut Taken,
        composer: &mut Composer<'_>,
    ) -> Result<(), Over> {
        let before = taken.routes.len();
        for is_last in [false, true] {
            if is_last && taken.routes.len() > before {
                break;
            }
            for index in routes {
                let route = self.rules.flow.route(*index).filter(|route| route.otherwise == is_last);
                // A topic may lead back to a route that is taken already.
                if let Some(route) = route.filter(|_| !taken.routes.contains(&(*index as u32))) {
                    self.take_route(*index, route, payload, taken, composer)?;
                }
            }
        }
        Ok(())
    }

    fn take_route(
        &self,
        index: usize,
        route: &Route,
        payload: &Payload<'_>,
        taken: &mut Taken,
        composer: &mut Composer<'_>,
    ) -> Result<(), Over> {
        let visits = self.state.taken.get(&(index as u32)).copied().unwrap_or_default();
        let values = self.values(&payload.output, visits);
        let wrong = |what: &str, error: spec::TemplateError| failed(format!("{}: `{what}`: {error}", route.words));
        let holds = route.when.as_ref().map_or(Ok(true), |when| when.is_true(&values));
        if !holds.map_err(|error| wrong("when", error))? {
            return Ok(());
        }
        if let Some(max) = route.max_visits.filter(|max| visits >= *max && !fault::is_planted(Bug::LoopUnbounded)) {
            let times = if max == 1 { "once" } else { "times" };
            let count = if max == 1 { String::new() } else { format!("{max} ") };
            taken.exhausted = Some(format!("{} was taken {count}{times} (max_visits = {max})", route.words));
            return Ok(());
        }
        let items = match &route.for_each {
            None => None,
            Some(list) => match list.value(&values).map_err(|error| wrong("for_each", error))? {
                Value::Array(items) if items.is_empty() => return Ok(()),
                Value::Array(items) => Some(items),
                other => return Err(failed(format!("{}: `for_each` gives no list, but {other}", route.words))),
            },
        };
        let max = self.rules.limits.fan_out as usize;
        if let Some(count) = items.as_ref().map(Vec::len).filter(|count| *count > max) {
            return Err(limit(
                "fan_out",
                format!("{} would start {count} agents at once, and {max} may be", route.words),
            ));
        }
        taken.routes.push(index as u32);
        if let Some(answer) = &route.answer {
            taken.answer = Some(Answer::from(answer.value(&values).map_err(|error| wrong("answer", error))?));
        }
        for to in &route.to {
            if to.starts_with(TOPIC) {
                let beyond = self.rules.flow.topic(to);
                self.take_into(beyond, payload, taken, composer)?;
                continue;
            }
            composer.compose(to, route, payload, items.as_deref(), &values, taken)?;
        }
        Ok(())
    }

    /// Returns what expressions can speak of.
    pub(super) fn values(&self, output: &Value, visits: u32) -> Values {
        let mut values = Values::new();
        let beginning = self.run.beginning();
        let mut outputs: BTreeMap<&str, Value> = BTreeMap::new();
        for (name, agent) in &self.state.latest {
            if let Some(answer) = self.answer_of(agent) {
                outputs.insert(spec::local(name, name), answer.to_value());
            }
        }
        let input = match self.of.and_then(|owner| self.run.agents().get(owner)) {
            Some(owner) => owner.task.last().map(|asked| asked.text().to_owned()),
            None => beginning.map(|beginning| beginning.input.to_string()),
        };
        values.insert("output".to_owned(), output.clone());
        values.insert("outputs".to_owned(), json!(outputs));
        values.insert("input".to_owned(), json!(input));
        values.insert("vars".to_owned(), json!(beginning.map(|beginning| &*beginning.vars)));
        values.insert("visits".to_owned(), json!(visits));
        values
    }

    pub(super) fn answer_of(&self, agent: &AgentId) -> Option<&'a Answer> {
        match self.run.agents().get(agent)?.outcome.as_ref()? {
            AgentOutcome::Done(answer) => Some(answer),
            _ => None,
        }
    }

    /// Lets the first join go on that can.
    fn join(&self) -> Option<Routing> {
        self.state.joins.iter().find_map(|(index, joining)| {
            let join = self.rules.flow.joins().get(*index as usize)?;
            let waiting = self.in_order(&joining.waiting, &join.from);
            let coming =
                |agent: &super::state::Live| join.may_come_from(&agent.names.0) || join.may_come_from(&agent.names.1);
            let coming = self.state.live.values().filter(|agent| coming(agent)).count();
            if joining.is_due && waiting.is_empty() {
                let timeout = join.timeout.map(|timeout| timeout.to_string()).unwrap_or_default();
                let reason = format!("{} had no answer within {timeout}", words_of(join));
                return Some(self.over(failed(reason), Labels::default()));
            }
            let from = match join.kind {
                _ if waiting.is_empty() => return None,
                spec::Join::Any => vec![joining.waiting.first()?.clone()],
                spec::Join::Count(count) if waiting.len() >= count as usize => {
                    joining.waiting.iter().take(count as usize).cloned().collect()
                }
                spec::Join::Majority if self.has_majority(join, &waiting, coming) => waiting,
                spec::Join::All | spec::Join::Majority if coming == 0 && !fault::is_planted(Bug::JoinTooSoon) => {
                    waiting
                }
                spec::Join::All if fault::is_planted(Bug::JoinTooSoon) => waiting,
                _ if joining.is_due => waiting,
                _ => return None,
            };
            Some(self.joined(*index, join, from))
        })
    }

    /// Returns instances in the order of their agents, and of each agent in the order in which they started.
    fn in_order(&self, agents: &[AgentId], names: &[Arc<str>]) -> Vec<AgentId> {
        let place = |agent: &AgentId| {
            let (at, _, instance) = self.run.agents().get_full(agent)?;
            let node = self.run.visit(agent).map(|visit| visit.node);
            let name = names.iter().position(|name| *name == instance.name || Some(name) == node.as_ref());
            Some((name, at))
        };
        let mut agents = agents.to_vec();
        agents.sort_by_key(place);
        agents
    }

    /// What agrees in an answer, as text.
    fn vote(&self, join: &Join, agent: &AgentId) -> Option<Value> {
        let output = self.answer_of(agent)?.to_value();
        match &join.by {
            None => Some(output),
            Some(by) => by.value(&self.values(&output, 0)).ok(),
        }
    }

    fn votes(&self, join: &Join, agents: &[AgentId]) -> Vec<(Value, usize)> {
        let mut votes: Vec<(Value, usize)> = Vec::new();
        for vote in agents.iter().filter_map(|agent| self.vote(join, agent)) {
            match votes.iter_mut().find(|(known, _)| *known == vote) {
                Some((_, count)) => *count += 1,
                None => votes.push((vote, 1)),
            }
        }
        votes
    }

    fn has_majority(&self, join: &Join, waiting: &[AgentId], coming: usize) -> bool {
        let is_sender = |names: &(Arc<str>, Arc<str>)| join.from.contains(&names.0) || join.from.contains(&names.1);
        let all_vote = self.state.live.values().filter(|live| is_sender(&live.names)).count() == coming;
        let most = self.votes(join, waiting).iter().map(|(_, count)| *count).max().unwrap_or_default();
        all_vote && most * 2 > waiting.len() + coming
    }

    fn joined(&self, index: u32, join: &Join, from: Vec<AgentId>) -> Routing {
        let mut labels = Labels::default();
        for instance in from.iter().filter_map(|agent| self.run.agents().get(agent)) {
            labels.join(&instance.labels);
        }
        let output = match join.kind {
            spec::Join::Any => {
                from.first().and_then(|agent| self.answer_of(agent)).map(Answer::to_value).unwrap_or_default()
            }
            spec::Join::Majority => self.result_of_vote(join, &from),
            spec::Join::All | spec::Join::Count(_) => {
                from.iter().filter_map(|agent| self.answer_of(agent)).map(Answer::to_value).collect()
            }
        };
        let text: Arc<str> = match join.kind {
            spec::Join::Any => Answer::from(output.clone()).to_text(),
            spec::Join::Majority => output.to_string().into(),
            spec::Join::All | spec::Join::Count(_) => self.sections(&from).into(),
        };
        let Some(first) = from.first() else { return self.over(failed(words_of(join)), labels) };
        let payload = Payload { output, text: text.clone(), from: first, labels: labels.clone() };
        let taken = match self.take(&join.routes, &payload) {
            Err(over) => return self.over(over, labels),
            Ok(Taken { routes, exhausted: Some(reason), .. }) if routes.is_empty() => {
                return self.over(limit("max_visits", reason), labels);
            }
            Ok(taken) => taken,
        };
        let is_lost = |(agent, live): &(&AgentId, &super::state::Live)| {
            join.is_all_of(&live.names.0) && join.is_all_of(&live.names.1) && !from.contains(agent)
        };
        let lost: Vec<AgentId> = self.state.live.iter().filter(is_lost).map(|(agent, _)| agent.clone()).collect();
        let lost = if fault::is_planted(Bug::LosersGoOn) { Vec::new() } else { lost };
        let Taken { routes, starts, answer, .. } = taken;
        let answer = answer.or_else(|| routes.is_empty().then(|| self.joined_answer(join, &payload)));
        let event = Event::Joined {
            flow: self.of.cloned(),
            join: index,
            from,
            taken: routes,
            lost: lost.clone(),
            starts: starts.len() as u32,
            answer,
        };
        Routing::Go(Box::new(Step { event, labels, lost, starts }))
    }

    fn joined_answer(&self, join: &Join, payload: &Payload<'_>) -> Answer {
        match join.kind {
            spec::Join::Any | spec::Join::Majority => Answer::from(payload.output.clone()),
            spec::Join::All | spec::Join::Count(_) => Answer::Text(payload.text.clone()),
        }
    }

    fn result_of_vote(&self, join: &Join, from: &[AgentId]) -> Value {
        let votes = self.votes(join, from);
        let of = from.len();
        let best = votes.iter().max_by_key(|(_, count)| *count).filter(|(_, count)| count * 2 > of);
        let each: Vec<Value> = from
            .iter()
            .filter_map(|agent| {
                let name = self.name_of(agent)?;
                Some(json!({"agent": name, "vote": self.vote(join, agent)}))
            })
            .collect();
        let (winner, count) = best.map_or((Value::Null, 0), |(vote, count)| (vote.clone(), *count));
        json!({"winner": winner, "count": count, "of": of, "votes": each})
    }

    /// Writes answers one after the other, each beneath the name of who gave it.
    pub(super) fn sections(&self, from: &[AgentId]) -> String {
        let section = |agent: &AgentId| {
            let name = self.name_of(agent)?;
            let item = self.run.visit(agent).and_then(|visit| visit.item);
            let head = item.map_or_else(|| name.to_string(), |item| format!("{name} {}", item + 1));
            Some(format!("## {head}\n\n{}", self.answer_of(agent)?.to_text()))
        };
        from.iter().filter_map(section).collect::<Vec<_>>().join("\n\n")
    }

    /// Says how a flow ends in which nobody is at work any more.
    fn finish(&self) -> Option<Routing> {
        if !self.state.live.is_empty() || !self.state.is_settled() {
            return None;
        }
        let stuck = self.state.joins.iter().find(|(_, joining)| !joining.waiting.is_empty());
        if let Some((index, joining)) = stuck
            && let Some(join) = self.rules.flow.joins().get(*index as usize)
        {
            let reason = format!("{} wants {}, and got {}", words_of(join), join.kind, joining.waiting.len());
            return Some(self.over(failed(reason), Labels::default()));
        }
        let ended = self.state.ended.iter().map(|agent| (agent, None));
        let left = self.state.left.iter().map(|(agent, answer)| (agent, answer.as_ref())).chain(ended);
        let mut answers: Vec<(&AgentId, &Answer)> =
            left.filter_map(|(agent, answer)| Some((agent, answer.or_else(|| self.answer_of(agent))?))).collect();
        answers.sort_by_key(|(agent, _)| self.run.agents().get_index_of(*agent));
        let mut labels = Labels::default();
        for instance in answers.iter().filter_map(|(agent, _)| self.run.agents().get(*agent)) {
            labels.join(&instance.labels);
        }
        match answers.as_slice() {
            [] => {
                let last = self.state.failed.as_ref().or(self.state.ended.back());
                let outcome = last.and_then(|agent| self.run.agents().get(agent)?.outcome.clone());
                match outcome? {
                    AgentOutcome::Done(_) | AgentOutcome::HandedOff { .. } => None,
                    outcome => Some(self.over(outcome, labels)),
                }
            }
            [(_, answer)] => Some(self.over(AgentOutcome::Done((*answer).clone()), labels)),
            several => Some(self.over(AgentOutcome::Done(self.together(several)), labels)),
        }
    }

    /// Makes one answer of several: values become a list with their agents, and anything else a text.
    fn together(&self, answers: &[(&AgentId, &Answer)]) -> Answer {
        let name = |agent: &AgentId| self.name_of(agent).map(str::to_owned);
        if answers.iter().all(|(_, answer)| matches!(answer, Answer::Value(_))) {
            let each =
                |(agent, answer): &(&AgentId, &Answer)| json!({"agent": name(agent), "answer": answer.to_value()});
            return Answer::Value(Arc::new(answers.iter().map(each).collect()));
        }
        let section = |(agent, answer): &(&AgentId, &Answer)| {
            format!("## {}\n\n{}", name(agent).unwrap_or_default(), answer.to_text())
        };
        Answer::Text(answers.iter().map(section).collect::<Vec<_>>().join("\n\n").into())
    }

    /// Returns an agent's name as its network knows it.
    pub(super) fn name_of(&self, agent: &AgentId) -> Option<&'a str> {
        let name = &self.run.agents().get(agent)?.name;
        Some(spec::local(name, name))
    }

    /// Ends the flow.
    pub(super) fn over(&self, outcome: Over, labels: Labels) -> Routing {
        match self.of {
            Some(agent) => Routing::EndAgent { agent: agent.clone(), outcome, labels },
            None => Routing::End(match outcome {
                AgentOutcome::Done(answer) => RunEnd { status: Status::Done, reason: None, answer: Some(answer) },
                AgentOutcome::Limit { reason, .. } => RunEnd::without_answer(Status::Limit, reason),
                AgentOutcome::Failed { reason } | AgentOutcome::Cancelled { reason } => {
                    RunEnd::without_answer(Status::Failed, reason)
                }
                AgentOutcome::HandedOff { to } => {
                    RunEnd::without_answer(Status::Failed, format!("control moved to `{to}`, which is not there"))
                }
            }),
        }
    }

    /// Returns how deep the agents of the flow are.
    pub(super) fn depth(&self) -> u32 {
        let owner = self.of.and_then(|owner| self.run.agents().get(owner));
        owner.map_or(0, |owner| owner.depth + 1)
    }

    /// Where an instance stands that starts in this flow.
    pub(super) fn place(&self, node: &Arc<str>, item: Option<u32>) -> Visit {
        Visit { flow: self.of.cloned(), node: node.clone(), item }
    }
}

fn words_of(join: &Join) -> String {
    format!("the join of {}", join.from.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
}

pub(super) fn failed(reason: String) -> AgentOutcome {
    AgentOutcome::Failed { reason }
}

pub(super) fn limit(limit: &str, reason: String) -> AgentOutcome {
    AgentOutcome::Limit { limit: limit.to_owned(), reason }
}
