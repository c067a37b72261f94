//! What becomes of answers: where routes lead them, where they wait for others, and what a flow answers in the end; as a
//! function of the run's state and the network's rules.
//!
//! [`RunState::next_step`] says one step at a time: it is recorded, and the next one follows from the state that it leaves.

mod compose;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

pub(super) use self::compose::Composer;
use super::state::{FlowState, Joining, Live, Published, visit_key};
use super::{
    AgentId, AgentOutcome, Answer, CallId, Event, Instance, Labels, NewAgent, Parent, RunEnd, RunState, Status, Visit,
};
use crate::fault::{self, Bug};
use crate::route::{Flow, Join, Route, Values};
use crate::spec::{self, GuardsSpec, Limits, Network, TOPIC};

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

/// How much of a value is shown in a reason.
const EXCERPT_CHARS: usize = 80;

/// Why one is stopped whose answer would come too late.
pub const LOST: &str = "its answer is not waited for: the join has gone on";

/// By what a run's flows go.
#[derive(Clone, Copy, Debug)]
pub struct FlowRules<'a> {
    /// The routes.
    pub flow: &'a Flow,
    /// The limits of the run.
    pub limits: &'a Limits,
    /// What is taken for a runaway.
    pub guards: &'a GuardsSpec,
}

impl<'a> FlowRules<'a> {
    /// Returns by what the flows of runs of a network go, whose routes are `flow`.
    pub fn of(network: &'a Network, flow: &'a Flow) -> Self {
        let table = &network.spec().network;
        Self { flow, limits: &table.limits, guards: &table.guards }
    }
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
    /// The item that it is about, and the join that it comes from, as [`Visit`] has them.
    pub(super) item: Vec<u32>,
    pub(super) since: u64,
}

impl<'a> Payload<'a> {
    /// Makes what is passed on as it is, from the beginning of a flow.
    pub(super) fn of(from: &'a AgentId, output: Value, labels: Labels) -> Self {
        let text = Answer::from(output.clone()).to_text();
        Self { output, text, from, labels, item: Vec::new(), since: 0 }
    }
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
        let payload = Payload::of(id, Value::from(asked.text()), asked.labels.clone());
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
        let visit = self.run.visit(agent)?;
        let name = if self.rules.flow.leads_on(&instance.name) { &instance.name } else { &visit.node };
        let node = self.rules.flow.of_agent(name).filter(|_| self.rules.flow.leads_on(name));
        let Some(node) = node else { return self.leaf(agent, instance, outcome) };
        let AgentOutcome::Done(answer) = outcome else {
            // Whose answer nothing but such a join wants may fail.
            let is_borne = self.rules.flow.joins().iter().any(|join| join.is_tolerant() && join.is_all_of(name));
            return Some(match is_borne {
                true => self.routed(agent, Taken::default(), Vec::new(), None, labels),
                false => self.over(outcome.clone(), labels),
            });
        };
        let (item, since) = (visit.item, visit.since);
        let payload = Payload { item, since, ..Payload::of(agent, answer.to_value(), labels) };
        let is_in_time = |join: &u32| self.state.joined.get(join).is_none_or(|joined| since >= *joined);
        let waits: Vec<u32> = node.joins.iter().map(|join| *join as u32).filter(is_in_time).collect();
        let is_late = waits.len() < node.joins.len();
        Some(match self.take(&node.routes, &payload) {
            Ok(taken) if is_late && waits.is_empty() && taken.routes.is_empty() => self.late(agent, payload.labels),
            Err(over) => self.over(over, payload.labels),
            Ok(Taken { routes, exhausted: Some(reason), .. }) if routes.is_empty() && waits.is_empty() => {
                self.over(limit("max_visits", reason), payload.labels)
            }
            Ok(taken) => self.routed(agent, taken, waits, None, payload.labels),
        })
    }

    /// What ends and leads nowhere: a failure ends the flow, unless others stand for the run beside it. Of those that
    /// all began with the run, the first one to answer answers for it.
    fn leaf(&self, agent: &AgentId, instance: &Instance, outcome: &AgentOutcome) -> Option<Routing> {
        let began = |instance: &Instance| matches!(instance.parent, Parent::Run);
        let has_others = began(instance) && !self.state.live.is_empty();
        let all_began = || self.state.live.keys().all(|agent| self.run.agents().get(agent).is_some_and(began));
        match outcome {
            AgentOutcome::Done(_) if has_others && all_began() => {
                Some(self.over(outcome.clone(), instance.labels.clone()))
            }
            // It is set aside, so that it need not be looked at again.
            AgentOutcome::Done(_) if self.of.is_some() || self.rules.flow.has_routes() => {
                let labels = instance.labels.clone();
                Some(self.routed(agent, Taken::default(), Vec::new(), None, labels))
            }
            AgentOutcome::Failed { .. } | AgentOutcome::Denied { .. } | AgentOutcome::Limit { .. } if !has_others => {
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
        let (item, since) = self.run.visit(from).map(|visit| (visit.item, visit.since)).unwrap_or_default();
        let output = Value::from(published.message.as_str());
        let payload = Payload { item, since, ..Payload::of(from, output, labels.clone()) };
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
        if let Some(over) = self.too_many(&starts) {
            return self.over(over, labels);
        }
        let event = Event::Routed {
            is_late: false,
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

    /// Takes note of an answer that came after its join had gone on.
    fn late(&self, from: &AgentId, labels: Labels) -> Routing {
        let event = Event::Routed {
            flow: self.of.cloned(),
            from: from.clone(),
            taken: Vec::new(),
            waits: Vec::new(),
            starts: 0,
            answer: None,
            published: None,
            is_late: true,
        };
        Routing::Go(Box::new(Step { event, labels, lost: Vec::new(), starts: Vec::new() }))
    }

    /// Says which limit is reached where these would start.
    fn too_many(&self, starts: &[NewAgent]) -> Option<Over> {
        let (total, max) = (self.run.agents().len() + starts.len(), self.rules.limits.agents);
        let is_beyond = !starts.is_empty() && total > max as usize;
        is_beyond.then(|| limit("agents", format!("a run may have {max} agents, and this one would have {total}")))
    }

    /// Works out which of some routes take what is passed on, and who starts with it.
    fn take(&self, routes: &[usize], payload: &Payload<'_>) -> Result<Taken, Over> {
        let mut taken = Taken::default();
        let mut composer = Composer::new(self);
        self.take_into(routes, payload, &mut taken, &mut composer)?;
        Ok(taken)
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
                other => {
                    let shown: String = other.to_string().chars().take(EXCERPT_CHARS).collect();
                    return Err(failed(format!("{}: `for_each` gives no list, but {shown}", route.words)));
                }
            },
        };
        let max = self.rules.limits.fan_out as usize;
        if let Some(count) = items.as_ref().map(Vec::len).filter(|count| *count > max) {
            return Err(limit(
                "fan_out",
                format!("{} would start {count} agents at once, and {max} may be", route.words),
            ));
        }
        let at = taken.routes.len();
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
        // A topic on which nobody wants it is no way on.
        let leads_to_topics = route.answer.is_none() && route.to.iter().all(|to| to.starts_with(TOPIC));
        if leads_to_topics && taken.routes.len() == at + 1 {
            taken.routes.truncate(at);
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
        let goes_on = |is_behind: bool| {
            self.state.joins.iter().find_map(|(index, joining)| {
                let join = self.rules.flow.joins().get(*index as usize)?;
                if joining.is_due && joining.waiting.is_empty() {
                    let timeout = join.timeout.map(|timeout| timeout.to_string()).unwrap_or_default();
                    let reason = format!("{} had no answer within {timeout}", words_of(join));
                    return Some(self.over(failed(reason), Labels::default()));
                }
                let from = self.come_together(*index, join, joining, is_behind)?;
                Some(self.joined(*index, join, self.in_order(from, &join.from)))
            })
        };
        // Joins that wait for one another, in a loop, go on all the same when nobody is at work.
        goes_on(false).or_else(|| self.state.live.is_empty().then(|| goes_on(true)).flatten())
    }

    /// Whether answers wait at another join that will come to this one.
    fn is_behind_another(&self, index: u32, join: &Join) -> bool {
        let leads_here = |(other, joining): (&u32, &Joining)| {
            let routes = || self.rules.flow.joins().get(*other as usize).into_iter().flat_map(|other| &other.routes);
            let to = || routes().filter_map(|route| self.rules.flow.route(*route)).flat_map(|route| &route.to);
            *other != index && !joining.waiting.is_empty() && to().any(|to| join.may_come_from(to))
        };
        self.state.joins.iter().any(leads_here)
    }

    /// Returns whose answers a join goes on with now, if it does.
    fn come_together(&self, index: u32, join: &Join, joining: &'a Joining, is_behind: bool) -> Option<&'a [AgentId]> {
        let waiting = joining.waiting.as_slice();
        let may_come = |live: &Live| join.may_come_from(&live.names.0) || join.may_come_from(&live.names.1);
        let all_are_there = || {
            let is_awaited = self.state.live.values().any(may_come);
            let waits = is_awaited || (!is_behind && self.is_behind_another(index, join));
            !waits || fault::is_planted(Bug::JoinTooSoon)
        };
        let goes_on = joining.is_due
            || match join.kind {
                spec::Join::Any => true,
                spec::Join::Count(count) => waiting.len() >= count as usize,
                spec::Join::All => all_are_there(),
                spec::Join::Majority => self.has_majority(join, waiting) || all_are_there(),
            };
        let most = match join.kind {
            spec::Join::Any => 1,
            spec::Join::Count(count) => count as usize,
            spec::Join::All | spec::Join::Majority => waiting.len(),
        };
        (goes_on && !waiting.is_empty()).then(|| &waiting[..most.min(waiting.len())])
    }

    /// Returns instances in the order of their agents, and of each agent in the order in which they started.
    fn in_order(&self, agents: &[AgentId], names: &[Arc<str>]) -> Vec<AgentId> {
        let place = |agent: &AgentId| {
            let (at, _, instance) = self.run.agents().get_full(agent)?;
            let visit = self.run.visit(agent)?;
            let name = names.iter().position(|name| *name == instance.name || *name == visit.node);
            Some((name, visit.item, at))
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

    fn has_majority(&self, join: &Join, waiting: &[AgentId]) -> bool {
        let may_come = |live: &&Live| join.may_come_from(&live.names.0) || join.may_come_from(&live.names.1);
        let is_sender = |live: &Live| join.from.contains(&live.names.0) || join.from.contains(&live.names.1);
        let mut coming = 0;
        for live in self.state.live.values().filter(may_come) {
            // Who knows how many will come of what is not a voter itself.
            if !is_sender(live) {
                return false;
            }
            coming += 1;
        }
        let most = self.votes(join, waiting).iter().map(|(_, count)| *count).max().unwrap_or_default();
        most * 2 > (waiting.len() + coming).max(join.from.len())
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
        // What starts here comes from here: what comes later of what was before is too late.
        let since = self.run.head() + 1;
        let payload = Payload { text, since, ..Payload::of(first, output, labels.clone()) };
        let taken = match self.take(&join.routes, &payload) {
            Err(over) => return self.over(over, labels),
            Ok(Taken { routes, exhausted: Some(reason), .. }) if routes.is_empty() => {
                return self.over(limit("max_visits", reason), labels);
            }
            Ok(taken) => taken,
        };
        if let Some(over) = self.too_many(&taken.starts) {
            return self.over(over, labels);
        }
        let goes_on_without = |live: &Live| {
            let is_sender = join.from.contains(&live.names.0) || join.from.contains(&live.names.1);
            is_sender || (join.is_all_of(&live.names.0) && join.is_all_of(&live.names.1))
        };
        // Whoever is at work on what comes after an earlier round of the join is not of this one.
        let is_of_round = |agent: &AgentId| {
            let since = self.run.visit(agent).map(|visit| visit.since).unwrap_or_default();
            self.state.joined.get(&index).is_none_or(|joined| since >= *joined)
        };
        let is_lost =
            |(agent, live): &(&AgentId, &Live)| goes_on_without(live) && is_of_round(agent) && !from.contains(agent);
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
        // Who failed or came too late has no vote, and was asked all the same.
        let of = from.len().max(join.from.len());
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
            let item = self.run.visit(agent).map(|visit| visit.item).unwrap_or_default();
            let head = visit_key(name, &item).replacen('.', " ", 1);
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
                Some(match outcome {
                    Some(
                        outcome @ (AgentOutcome::Failed { .. }
                        | AgentOutcome::Denied { .. }
                        | AgentOutcome::Limit { .. }),
                    ) => self.over(outcome, labels),
                    _ => self.over(failed("nobody was left to answer".to_owned()), labels),
                })
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
                AgentOutcome::Denied { reason } => RunEnd::without_answer(Status::Denied, reason),
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
    pub(super) fn place(&self, node: &Arc<str>, item: Vec<u32>, since: u64) -> Visit {
        Visit { flow: self.of.cloned(), node: node.clone(), item, since }
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
