//! The rules by which work flows from one agent to the next: routes, joins and rooms, made ready once for a network.

use std::collections::HashSet;
use std::sync::Arc;

use indexmap::IndexMap;

use super::Expression;
use crate::spec::{self, NetworkSpec, RoomAnswer, RoomSpec, RouteSpec, Span, TOPIC, Template};

/// The routes of a network, its joins and its rooms.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    nodes: IndexMap<Arc<str>, Node>,
    routes: Vec<Route>,
    joins: Vec<Join>,
}

/// What follows the answers of an agent, or what is published on a topic.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// The routes that take an answer for itself, in the order of the file.
    pub routes: Vec<usize>,
    /// The joins at which the answers come together with others.
    pub joins: Vec<usize>,
    /// The agent that an inner flow begins with, if this agent stands for one.
    pub inner: Option<Arc<str>>,
    /// The room that the agent is, if it is one.
    pub room: Option<Room>,
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// The agents that get the answer; topics are resolved by [`Flow::topic`].
    pub to: Vec<Arc<str>>,
    /// Whether the route is taken; it is where there is no condition.
    pub when: Option<Expression>,
    /// Whether it is taken where no other is.
    pub otherwise: bool,
    /// What each item of goes to an agent of its own.
    pub for_each: Option<Expression>,
    /// How often it may be taken.
    pub max_visits: Option<u32>,
    /// What the agents are told.
    pub message: Option<Template>,
    /// What becomes the answer of the flow.
    pub answer: Option<Expression>,
    /// The route in words, for people.
    pub words: String,
}

/// A place where answers come together: one or more routes that want the same.
#[derive(Clone, Debug)]
pub struct Join {
    /// Which routes go on from here.
    pub routes: Vec<usize>,
    /// Whose answers it takes, in the order of the file.
    pub from: Vec<Arc<str>>,
    /// How many it takes.
    pub kind: spec::Join,
    /// What has to be the same for answers to agree.
    pub by: Option<Expression>,
    /// For how long it waits.
    pub timeout: Option<Span>,
    /// The agents from which an answer can still come to it.
    upstream: HashSet<Arc<str>>,
    /// Those of them from which nothing leads anywhere else.
    only: HashSet<Arc<str>>,
}

impl Join {
    /// Whether an answer of the join can come of what the agent is doing.
    pub fn may_come_from(&self, agent: &str) -> bool {
        self.upstream.contains(agent)
    }

    /// Whether nothing but an answer of the join can come of what the agent is doing.
    pub fn is_all_of(&self, agent: &str) -> bool {
        self.only.contains(agent)
    }

    /// Whether it can go on without the answers of some of its agents.
    pub fn is_tolerant(&self) -> bool {
        self.kind != spec::Join::All
    }
}

/// A room, ready to be talked in.
#[derive(Clone, Debug)]
pub struct Room {
    /// Who speaks.
    pub members: Vec<Arc<str>>,
    /// Who says who speaks next.
    pub selector: Option<Arc<str>>,
    /// When the talk is over.
    pub end_when: Option<Expression>,
    /// How many turns it may have.
    pub max_turns: u32,
    /// What comes of it.
    pub answer: RoomAnswer,
}

impl Flow {
    /// Makes the rules of a network that has been checked. What can't be read is passed over.
    pub fn of(spec: &NetworkSpec) -> Self {
        let mut flow = Self::default();
        for (name, agent) in &spec.agents {
            let room = agent.room.as_ref().map(Room::of);
            let inner = agent.flow.as_deref().map(Into::into);
            flow.nodes.insert(name.as_str().into(), Node { inner, room, ..Node::default() });
        }
        for (index, route) in spec.routes.iter().enumerate() {
            flow.routes.push(Route::of(route));
            match route.join {
                Some(kind) => flow.join(index, route, kind),
                None => route.from.iter().for_each(|from| flow.node(from).routes.push(index)),
            }
        }
        flow.close(spec);
        flow
    }

    fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.entry(name.into()).or_default()
    }

    fn join(&mut self, index: usize, route: &RouteSpec, kind: spec::Join) {
        let from: Vec<Arc<str>> = route.from.iter().map(|from| from.as_str().into()).collect();
        let by = route.by.as_deref().and_then(|by| Expression::parse(by).ok());
        let source = |by: &Option<Expression>| by.as_ref().map(|by| by.source().to_owned());
        let is_same = |join: &Join| {
            (join.kind, join.timeout, &join.from) == (kind, route.timeout, &from) && source(&join.by) == source(&by)
        };
        if let Some(join) = self.joins.iter_mut().find(|join| is_same(join)) {
            return join.routes.push(index);
        }
        let at = self.joins.len();
        from.iter().for_each(|from| self.node(from).joins.push(at));
        let (upstream, only) = (HashSet::new(), HashSet::new());
        self.joins.push(Join { routes: vec![index], from, kind, by, timeout: route.timeout, upstream, only });
    }

    /// Finds out of whom something can still come to each join.
    fn close(&mut self, spec: &NetworkSpec) {
        for at in 0..self.joins.len() {
            let upstream = self.upstream(spec, at);
            let mut only = upstream.clone();
            // What has a way out is taken away, until all that is left has none.
            loop {
                let leaves = |name: &Arc<str>| {
                    let is_sender = self.joins[at].from.contains(name);
                    let mut ways = self.ways(spec, name, at).peekable();
                    (ways.peek().is_none() && !is_sender) || ways.any(|to| !only.contains(&*to))
                };
                let left: Vec<Arc<str>> = only.iter().filter(|name| leaves(name)).cloned().collect();
                if left.is_empty() {
                    break;
                }
                left.iter().for_each(|name| _ = only.remove(name));
            }
            (self.joins[at].upstream, self.joins[at].only) = (upstream, only);
        }
    }

    fn upstream(&self, spec: &NetworkSpec, join: usize) -> HashSet<Arc<str>> {
        let mut upstream: HashSet<Arc<str>> = self.joins[join].from.iter().cloned().collect();
        loop {
            let leads = |name: &&Arc<str>| self.ways(spec, name, join).any(|to| upstream.contains(&*to));
            let more: Vec<Arc<str>> =
                self.nodes.keys().filter(|name| !upstream.contains(*name)).filter(leads).cloned().collect();
            if more.is_empty() {
                return upstream;
            }
            upstream.extend(more);
        }
    }

    /// Returns whom work can reach from an agent at once without passing a join.
    fn ways<'a>(&'a self, spec: &'a NetworkSpec, name: &str, join: usize) -> impl Iterator<Item = Arc<str>> + 'a {
        let node = self.nodes.get(name);
        let plain = node.map(|node| node.routes.as_slice()).unwrap_or_default();
        let others = node.map(|node| node.joins.as_slice()).unwrap_or_default();
        let joined = others.iter().filter(move |other| **other != join).flat_map(|other| &self.joins[*other].routes);
        let routed = plain.iter().chain(joined).flat_map(|route| self.routes[*route].to.iter().cloned());
        let agent = spec.agents.get(name);
        let handed = agent.into_iter().flat_map(|agent| {
            let error = agent.on_error.route().map(str::to_owned);
            agent.hands_off_to.iter().cloned().chain(error).map(Arc::from)
        });
        routed.chain(handed).chain(published(spec, name)).collect::<Vec<_>>().into_iter()
    }

    /// Returns what follows the answers of an agent.
    pub fn of_agent(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// Whether routes lead on from an agent.
    pub fn leads_on(&self, name: &str) -> bool {
        self.nodes.get(name).is_some_and(|node| !node.routes.is_empty() || !node.joins.is_empty())
    }

    /// Returns the routes that lead on from a topic.
    pub fn topic(&self, topic: &str) -> &[usize] {
        self.nodes.get(topic).map(|node| node.routes.as_slice()).unwrap_or_default()
    }

    /// Whether the agent stands for an inner flow or a room: others work for it, and it does nothing itself.
    pub fn is_flow(&self, name: &str) -> bool {
        self.nodes.get(name).is_some_and(|node| node.inner.is_some() || node.room.is_some())
    }

    /// Whether there are routes at all.
    pub fn has_routes(&self) -> bool {
        !self.routes.is_empty()
    }

    /// Whether any agent stands for an inner flow or a room.
    pub fn has_inner(&self) -> bool {
        self.nodes.values().any(|node| node.inner.is_some() || node.room.is_some())
    }

    /// Returns a route by its place in the file.
    pub fn route(&self, index: usize) -> Option<&Route> {
        self.routes.get(index)
    }

    /// Returns all joins, in the order of the file.
    pub fn joins(&self) -> &[Join] {
        &self.joins
    }
}

/// Returns the topics on which an agent may publish, or whom it asks: what they publish is taken in its flow.
fn published(spec: &NetworkSpec, name: &str) -> Vec<Arc<str>> {
    let (mut topics, mut seen, mut open) = (Vec::new(), HashSet::new(), vec![name.to_owned()]);
    while let Some(agent) = open.pop().and_then(|name| spec.agents.get(&name)) {
        topics.extend(agent.publishes.iter().map(|topic| topic_node(topic)));
        open.extend(agent.delegates_to.iter().filter(|to| seen.insert((*to).clone())).cloned());
    }
    topics
}

/// Returns the name under which a topic stands among agents.
pub fn topic_node(topic: &str) -> Arc<str> {
    format!("{TOPIC}{topic}").into()
}

impl Route {
    fn of(route: &RouteSpec) -> Self {
        let expression = |source: &Option<String>| source.as_deref().and_then(|text| Expression::parse(text).ok());
        let ends = if route.to.is_empty() { "the end".to_owned() } else { route.to.join(", ") };
        Self {
            to: route.to.iter().map(|to| to.as_str().into()).collect(),
            when: expression(&route.when),
            otherwise: route.otherwise,
            for_each: expression(&route.for_each),
            max_visits: route.max_visits,
            message: route.message.as_deref().and_then(|text| Template::parse(text).ok()),
            answer: expression(&route.answer),
            words: format!("the route from {} to {ends}", route.from.join(", ")),
        }
    }
}

impl Room {
    fn of(room: &RoomSpec) -> Self {
        Self {
            members: room.members.iter().map(|name| name.as_str().into()).collect(),
            selector: room.selector.as_deref().map(Into::into),
            end_when: room.end_when.as_deref().and_then(|text| Expression::parse(text).ok()),
            max_turns: room.max_turns,
            answer: room.answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::AgentSpec;

    /// Makes a network of routes such as `a>b,c` and joins such as `b,c>d`.
    fn flow(routes: &str) -> Flow {
        let mut spec = NetworkSpec::default();
        for route in routes.split_whitespace() {
            let (from, to) = route.split_once('>').unwrap();
            let names = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
            for name in names(from).into_iter().chain(names(to)) {
                spec.agents.entry(name).or_insert_with(|| AgentSpec::new("x"));
            }
            let join = from.contains(',').then_some(spec::Join::All);
            spec.routes.push(RouteSpec { from: names(from), to: names(to), join, ..RouteSpec::default() });
        }
        Flow::of(&spec)
    }

    #[track_caller]
    fn check(routes: &str, upstream: &str, only: &str) {
        let flow = flow(routes);
        let join = &flow.joins()[0];
        let names = |set: &HashSet<Arc<str>>| {
            let mut names: Vec<&str> = set.iter().map(|name| &**name).collect();
            names.sort_unstable();
            names.join(" ")
        };
        assert_eq!((names(&join.upstream).as_str(), names(&join.only).as_str()), (upstream, only));
    }

    #[test]
    fn a_join_knows_of_whom_something_can_still_come() {
        check("a>b,c b,c>d", "a b c", "a b c");
        check("a>b,c b>e e,c>d", "a b c e", "a b c e");
        check("a>b,c,x b,c>d", "a b c", "b c");
        check("a>b,c b>y b,c>d", "a b c", "c");
    }

    #[test]
    fn a_join_is_not_upstream_of_itself_but_by_a_loop() {
        check("a>b,c b,c>d d>a", "a b c d", "a b c d");
        check("a>b,c b,c>a", "a b c", "a b c");
    }

    #[test]
    fn routes_that_want_the_same_join_at_one_place() {
        let flow = flow("a>b,c b,c>d b,c>e");
        assert_eq!((flow.joins().len(), flow.joins()[0].routes.as_slice()), (1, [1, 2].as_slice()));
    }
}
