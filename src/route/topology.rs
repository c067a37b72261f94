//! Who may pass work to whom: the network's topology, as a graph of its agents.

use std::collections::VecDeque;

use super::topic_node;
use crate::spec::{AgentSpec, NetworkSpec, RoomSpec, RouteSpec, TOPIC};

/// How one agent passes work to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// It asks, and control comes back: one deeper.
    Delegation,
    /// It hands over, and control moves: as deep as before.
    Handoff,
    /// It can't go on, and another takes over: as deep as before, and only where something fails.
    OnError,
    /// A route takes its answer there: as deep as before, and it does not wait.
    Route,
}

impl Pass {
    /// Whether the agents themselves pass work on so.
    fn is_wanted(self) -> bool {
        self != Self::OnError
    }
}

/// The agents of a network, and the ways that work takes between them.
///
/// Where there are routes, each agent stands for two: one whose answer takes the routes, and one that was asked, whose answer
/// goes to who asked. The latter come after all of the former.
#[derive(Clone, Debug)]
pub struct Topology<'a> {
    agents: Vec<(&'a str, Vec<(usize, Pass)>)>,
    /// How many agents the network has.
    count: usize,
}

/// The deepest way into a component: how deep it is, and the edge by which it leads in.
#[derive(Clone, Copy)]
struct Deepest {
    depth: usize,
    by: Option<(usize, usize, Pass)>,
}

impl<'a> Topology<'a> {
    /// Reads the topology off a network. Names that lead nowhere are passed over.
    pub fn of(spec: &'a NetworkSpec) -> Self {
        Self::resolve(spec, |name| spec.agents.get_index_of(name))
    }

    /// Reads the topology off a network, with `find` to say which agent (counted from 0) a name means.
    pub fn resolve(spec: &'a NetworkSpec, find: impl Fn(&str) -> Option<usize>) -> Self {
        let (count, routes): (usize, Vec<&RouteSpec>) = (spec.agents.len(), spec.routes.iter().collect());
        let has_routes = !spec.routes.is_empty() || spec.agents.values().any(AgentSpec::is_flow);
        // Where who is asked stands, by where who takes routes does.
        let asked_at = |at: usize| if has_routes { at + count } else { at };
        let mut agents: Vec<(&str, Vec<(usize, Pass)>)> = Vec::with_capacity(asked_at(count));
        for is_asked in [false, true].into_iter().take(if has_routes { 2 } else { 1 }) {
            for (name, agent) in &spec.agents {
                let like = |at: usize| if is_asked { asked_at(at) } else { at };
                let asked = agent.delegates_to.iter().filter_map(|to| Some((asked_at(find(to)?), Pass::Delegation)));
                let handed = agent.hands_off_to.iter().filter_map(|to| Some((like(find(to)?), Pass::Handoff)));
                let routed = agent.on_error.route().and_then(|to| Some((like(find(to)?), Pass::OnError)));
                let mut ways: Vec<(usize, Pass)> = asked.chain(handed).chain(routed).collect();
                // Who works in an inner flow takes its routes, and is one deeper; so is who speaks in a room, and takes none.
                ways.extend(agent.flow.as_deref().and_then(|to| Some((find(to)?, Pass::Delegation))));
                let speakers = agent.room.iter().flat_map(RoomSpec::agents);
                ways.extend(speakers.filter_map(|to| Some((asked_at(find(to)?), Pass::Delegation))));
                if !is_asked {
                    ways.extend(routed_to(&routes, name).into_iter().filter_map(|to| Some((find(to)?, Pass::Route))));
                }
                let publishes = agent.publishes.iter().flat_map(|topic| routed_to(&routes, &topic_node(topic)));
                ways.extend(publishes.filter_map(|to| Some((find(to)?, Pass::Route))));
                agents.push((name.as_str(), ways));
            }
        }
        Self { agents, count }
    }

    /// Returns for each agent, in the network's order, whether work can reach it from `entry`.
    pub fn reachable(&self, entry: usize) -> Vec<bool> {
        let mut seen = vec![false; self.agents.len()];
        let mut queue = VecDeque::new();
        if let Some(first) = seen.get_mut(entry) {
            *first = true;
            queue.push_back(entry);
        }
        while let Some(agent) = queue.pop_front() {
            for (to, _) in &self.agents[agent].1 {
                if !std::mem::replace(&mut seen[*to], true) {
                    queue.push_back(*to);
                }
            }
        }
        (0..self.count).map(|at| seen.iter().skip(at).step_by(self.count).any(|seen| *seen)).collect()
    }

    /// Returns the circles that some of a network's routes make between agents, one for each knot of them. Each begins and
    /// ends with the same agent.
    pub fn route_cycles(spec: &'a NetworkSpec, routes: &[&RouteSpec]) -> Vec<Vec<&'a str>> {
        let ways = |(name, agent): (&'a String, &AgentSpec)| {
            let mut to = routed_to(routes, name);
            to.extend(agent.publishes.iter().flat_map(|topic| routed_to(routes, &topic_node(topic))));
            let routed = to.into_iter().map(|to| (to, Pass::Route));
            let handed = agent.hands_off_to.iter().map(|to| (to.as_str(), Pass::Handoff));
            let failed = agent.on_error.route().map(|to| (to, Pass::OnError));
            let all = routed.chain(handed).chain(failed);
            (name.as_str(), all.filter_map(|(to, pass)| Some((spec.agents.get_index_of(to)?, pass))).collect())
        };
        let agents: Vec<(&str, Vec<(usize, Pass)>)> = spec.agents.iter().map(ways).collect();
        let topology = Self { count: agents.len(), agents };
        topology.cycles_of(Pass::Route, |_| true, |_| true)
    }

    /// Returns the circles in which an agent ends up asking itself, one for each knot of agents. Each begins and ends
    /// with the same agent. Circles of handoffs alone are not among them: they go no deeper. Nor are those that an error
    /// has to close: the run's depth bounds them.
    pub fn delegation_cycles(&self) -> Vec<Vec<&'a str>> {
        self.asking_cycles(Pass::is_wanted, |_| true)
    }

    /// Returns the circles in which an agent waits for an answer that takes another instance of it, and may have only so
    /// many, one for each knot of agents: they begin and end with an agent that is bounded and asks. Who hands over, or
    /// can't go on, waits for no answer.
    pub fn wait_cycles(&self, is_bounded: impl Fn(&str) -> bool) -> Vec<Vec<&'a str>> {
        self.asking_cycles(|_| true, is_bounded)
    }

    /// Returns the circles of such ways that begin with a delegation of such an agent, one for each knot of agents.
    fn asking_cycles(&self, is_way: impl Fn(Pass) -> bool, begins: impl Fn(&str) -> bool) -> Vec<Vec<&'a str>> {
        self.cycles_of(Pass::Delegation, is_way, begins)
    }

    fn cycles_of(
        &self,
        counted: Pass,
        is_way: impl Fn(Pass) -> bool,
        begins: impl Fn(&str) -> bool,
    ) -> Vec<Vec<&'a str>> {
        let component = self.components(&is_way);
        let mut cycles: Vec<Vec<&str>> = Vec::new();
        let mut reported = vec![false; self.agents.len()];
        for (from, (name, ways)) in self.agents.iter().enumerate().filter(|(_, (name, _))| begins(name)) {
            for (to, pass) in ways {
                if *pass == counted && component[from] == component[*to] && !reported[component[from]] {
                    reported[component[from]] = true;
                    let mut cycle = vec![*name];
                    cycle.extend(self.path(*to, from, &is_way).into_iter().map(|agent| self.name(agent)));
                    cycles.push(cycle);
                }
            }
        }
        cycles
    }

    /// Returns the circles in which agents that can't go on hand over to one another, each from its first agent in the
    /// network's order back to that one.
    pub fn error_cycles(&self) -> Vec<Vec<&'a str>> {
        let next = |agent: usize| {
            let route = self.agents[agent].1.iter().find(|(_, pass)| *pass == Pass::OnError);
            route.map(|(to, _)| *to)
        };
        let mut cycles = Vec::new();
        // From where each agent was come to first; each has one way at most.
        let mut seen_from = vec![None; self.agents.len()];
        for first in 0..self.count {
            let mut at = Some(first);
            while let Some(agent) = at.filter(|agent| seen_from[*agent].is_none()) {
                seen_from[agent] = Some(first);
                at = next(agent);
            }
            let Some(closes) = at.filter(|agent| seen_from[*agent] == Some(first)) else { continue };
            let mut cycle = vec![self.name(closes)];
            let mut at = next(closes);
            while let Some(agent) = at.filter(|agent| *agent != closes) {
                cycle.push(self.name(agent));
                at = next(agent);
            }
            cycle.push(self.name(closes));
            cycles.push(cycle);
        }
        cycles
    }

    /// Returns the longest chain of agents that ask one another, beginning with `entry`; handoffs between them are
    /// left out. Its depth is its length less one. None if delegation runs in a circle, and so has no end. Where errors can
    /// make it do so, the ways that they take are left out too.
    pub fn longest_delegation(&self, entry: usize) -> Option<Vec<&'a str>> {
        if entry >= self.agents.len() || !self.delegation_cycles().is_empty() {
            return None;
        }
        let has_end = self.asking_cycles(|_| true, |_| true).is_empty();
        let is_way = |pass: Pass| has_end || pass.is_wanted();
        let component = self.components(is_way);
        let mut order: Vec<usize> = (0..self.agents.len()).collect();
        order.sort_by_key(|agent| component[*agent]);
        // Components come in the order of the edges between them, and edges within one are handoffs.
        let mut best: Vec<Option<Deepest>> = vec![None; self.agents.len()];
        best[component[entry]] = Some(Deepest { depth: 0, by: None });
        for from in order {
            let Some(Deepest { depth, .. }) = best[component[from]] else { continue };
            for (to, pass) in self.agents[from].1.iter().filter(|(_, pass)| is_way(*pass)) {
                let reached = depth + usize::from(*pass == Pass::Delegation);
                let slot = &mut best[component[*to]];
                if component[from] != component[*to] && slot.is_none_or(|best| reached > best.depth) {
                    *slot = Some(Deepest { depth: reached, by: Some((from, *to, *pass)) });
                }
            }
        }
        let mut at = (0..best.len()).max_by_key(|at| (best[*at].map(|best| best.depth), std::cmp::Reverse(*at)))?;
        let mut chain = Vec::new();
        while let Some(Deepest { by: Some((from, to, pass)), .. }) = best[at] {
            if pass == Pass::Delegation {
                chain.push(self.name(to));
            }
            at = component[from];
        }
        chain.push(self.name(entry));
        chain.reverse();
        Some(chain)
    }

    fn name(&self, agent: usize) -> &'a str {
        self.agents.get(agent).map(|(name, _)| *name).unwrap_or_default()
    }

    /// Returns the shortest way between two agents, both included; empty if there is none.
    fn path(&self, from: usize, to: usize, is_way: impl Fn(Pass) -> bool) -> Vec<usize> {
        let mut before: Vec<Option<usize>> = vec![None; self.agents.len()];
        let mut queue = VecDeque::from([from]);
        before[from] = Some(from);
        while let Some(agent) = queue.pop_front() {
            for (next, _) in self.agents[agent].1.iter().filter(|(_, pass)| is_way(*pass)) {
                if before[*next].is_none() {
                    before[*next] = Some(agent);
                    queue.push_back(*next);
                }
            }
        }
        let mut path = vec![to];
        let mut at = to;
        while at != from {
            let Some(earlier) = before[at] else { return Vec::new() };
            at = earlier;
            path.push(at);
        }
        path.reverse();
        path
    }

    /// Returns for each agent the number of its strongly connected component; edges between components lead from
    /// lower to higher numbers. Kosaraju's algorithm, without recursion: a chain may be as long as the file.
    fn components(&self, is_way: impl Fn(Pass) -> bool) -> Vec<usize> {
        let count = self.agents.len();
        let ways_of = |ways: &Vec<(usize, Pass)>| -> Vec<usize> {
            ways.iter().filter(|(_, pass)| is_way(*pass)).map(|(to, _)| *to).collect()
        };
        let forward: Vec<Vec<usize>> = self.agents.iter().map(|(_, ways)| ways_of(ways)).collect();
        let mut finished = Vec::with_capacity(count);
        let mut seen = vec![false; count];
        for root in 0..count {
            if std::mem::replace(&mut seen[root], true) {
                continue;
            }
            let mut stack = vec![(root, 0)];
            while let Some((agent, next)) = stack.last_mut() {
                if let Some(to) = forward[*agent].get(*next) {
                    *next += 1;
                    if !std::mem::replace(&mut seen[*to], true) {
                        stack.push((*to, 0));
                    }
                } else {
                    finished.push(*agent);
                    stack.pop();
                }
            }
        }
        let mut backward = vec![Vec::new(); count];
        for (from, ways) in forward.iter().enumerate() {
            ways.iter().for_each(|to| backward[*to].push(from));
        }
        let mut component = vec![usize::MAX; count];
        let mut number = 0;
        for root in finished.into_iter().rev() {
            if component[root] != usize::MAX {
                continue;
            }
            let mut stack = vec![root];
            component[root] = number;
            while let Some(agent) = stack.pop() {
                for from in &backward[agent] {
                    if component[*from] == usize::MAX {
                        component[*from] = number;
                        stack.push(*from);
                    }
                }
            }
            number += 1;
        }
        component
    }
}

/// Returns the agents to which routes lead from an agent or a topic, by way of topics too.
fn routed_to<'r>(routes: &[&'r RouteSpec], from: &str) -> Vec<&'r str> {
    let mut found: Vec<&str> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    let mut from = vec![from.to_owned()];
    while let Some(name) = from.pop() {
        for to in routes.iter().filter(|route| route.from.contains(&name)).flat_map(|route| &route.to) {
            if !seen.contains(&to.as_str()) {
                seen.push(to);
                match to.starts_with(TOPIC) {
                    true => from.push(to.clone()),
                    false => found.push(to),
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::OnError;

    /// Makes a network of edges such as `a>b` (asks), `a~b` (hands over) and `a!b` (hands over if it can't go on); the entry
    /// is the first agent named, and `a=` says that there is one instance of it.
    fn network(edges: &str) -> NetworkSpec {
        let mut spec = NetworkSpec::default();
        for edge in edges.split_whitespace() {
            let (from, to) = edge.split_once(['>', '~', '!', '=']).unwrap();
            for name in [from, to].into_iter().filter(|name| !name.is_empty()) {
                spec.agents.entry(name.to_owned()).or_insert_with(|| AgentSpec::new("x"));
            }
            let agent = &mut spec.agents[from];
            match &edge[from.len()..=from.len()] {
                ">" => agent.delegates_to.push(to.to_owned()),
                "~" => agent.hands_off_to.push(to.to_owned()),
                "!" => agent.on_error = OnError::Route(to.to_owned()),
                _ => agent.replicas = Some(1),
            }
        }
        spec
    }

    #[track_caller]
    fn check(edges: &str, longest: Option<&str>, cycles: &[&str]) {
        let spec = network(edges);
        let topology = Topology::of(&spec);
        let found: Vec<String> = topology.delegation_cycles().iter().map(|cycle| cycle.join(" ")).collect();
        assert_eq!(found, cycles);
        assert_eq!(topology.longest_delegation(0).map(|chain| chain.join(" ")).as_deref(), longest);
    }

    #[test]
    fn the_longest_chain_counts_delegations_alone() {
        check("a>b b>c a>c", Some("a b c"), &[]);
        check("a~b b>c c~d d>e", Some("a c e"), &[]);
        check("a~b", Some("a"), &[]);
    }

    #[test]
    fn circles_of_handoffs_are_no_recursion() {
        check("a~b b~a b>c", Some("a c"), &[]);
    }

    #[test]
    fn circles_with_a_delegation_are() {
        check("a>a", None, &["a a"]);
        check("a>b b>c c>b", None, &["b c b"]);
        check("a>b b~a", None, &["a b a"]);
        check("a>b b>a c>d d>c", None, &["a b a", "c d c"]);
    }

    #[test]
    fn what_an_error_closes_is_no_recursion_and_yet_a_way() {
        check("a>b b!a", Some("a b"), &[]);
        check("a!b b>c", Some("a c"), &[]);
        check("a>b b!c c>d", Some("a b d"), &[]);
        check("a>b b!a b>b", None, &["b b"]);
    }

    #[test]
    fn who_waits_for_itself_is_found_where_its_instances_are_bounded() {
        let cycles = |edges: &str| -> Vec<String> {
            let spec = network(edges);
            let is_bounded = |name: &str| spec.agents[name].replicas().is_some();
            Topology::of(&spec).wait_cycles(is_bounded).iter().map(|cycle| cycle.join(" ")).collect()
        };
        assert_eq!(cycles("a>b b!a a="), ["a b a"]);
        assert_eq!(cycles("a>b b>c c>b c="), ["c b c"]);
        assert_eq!(cycles("a>b b!c c~a a="), ["a b c a"]);
        assert!(cycles("a>b b!a").is_empty(), "there are as many instances as are wanted");
        assert!(cycles("a>b b!a b=").is_empty(), "who can't go on gives its place up");
        assert!(cycles("a>b b~c c~b b= c=").is_empty(), "who hands over waits for no answer");
    }

    #[test]
    fn errors_can_run_in_a_circle() {
        let cycles = |edges: &str| -> Vec<String> {
            let spec = network(edges);
            Topology::of(&spec).error_cycles().iter().map(|cycle| cycle.join(" ")).collect()
        };
        assert_eq!(cycles("a!b b!c c!b d!e e!d"), ["b c b", "d e d"]);
        assert_eq!(cycles("c!b a!c b!c"), ["c b c"]);
        assert_eq!(cycles("a!a"), ["a a"]);
        assert!(cycles("a!b b!c").is_empty());
    }

    #[test]
    fn what_no_way_leads_to_is_not_reached() {
        let reachable = |edges: &str| Topology::of(&network(edges)).reachable(0);
        assert_eq!(reachable("a>b c>a"), [true, true, false]);
        assert_eq!(reachable("a!b c>a"), [true, true, false]);
    }

    #[test]
    fn a_chain_as_long_as_a_file_is_no_trouble() {
        let edges: Vec<String> = (0..20_000).map(|at| format!("a{at}>a{}", at + 1)).collect();
        let spec = network(&edges.join(" "));
        assert_eq!(Topology::of(&spec).longest_delegation(0).map(|chain| chain.len()), Some(20_001));
    }
}
