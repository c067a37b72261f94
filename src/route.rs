//! Who may pass work to whom: the network's topology, as a graph of its agents.

use std::collections::VecDeque;

use indexmap::IndexMap;

use crate::spec::NetworkSpec;

/// How one agent passes work to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// It asks, and control comes back: one deeper.
    Delegation,
    /// It hands over, and control moves: as deep as before.
    Handoff,
}

/// The agents of a network, and the ways that work takes between them.
#[derive(Clone, Debug)]
pub struct Topology<'a> {
    agents: IndexMap<&'a str, Vec<(usize, Pass)>>,
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
        let agents = spec
            .agents
            .iter()
            .map(|(name, agent)| {
                let asked = agent.delegates_to.iter().map(|to| (to, Pass::Delegation));
                let handed = agent.hands_off_to.iter().map(|to| (to, Pass::Handoff));
                (name.as_str(), asked.chain(handed).filter_map(|(to, pass)| Some((find(to)?, pass))).collect())
            })
            .collect();
        Self { agents }
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
            for (to, _) in &self.agents[agent] {
                if !std::mem::replace(&mut seen[*to], true) {
                    queue.push_back(*to);
                }
            }
        }
        seen
    }

    /// Returns the circles in which an agent ends up asking itself, one for each knot of agents. Each begins and ends
    /// with the same agent. Circles of handoffs alone are not among them: they go no deeper.
    pub fn delegation_cycles(&self) -> Vec<Vec<&'a str>> {
        let component = self.components();
        let mut cycles: Vec<Vec<&str>> = Vec::new();
        let mut reported = vec![false; self.agents.len()];
        for (from, ways) in self.agents.values().enumerate() {
            for (to, pass) in ways {
                if *pass == Pass::Delegation && component[from] == component[*to] && !reported[component[from]] {
                    reported[component[from]] = true;
                    let mut cycle = vec![self.name(from)];
                    cycle.extend(self.path(*to, from).into_iter().map(|agent| self.name(agent)));
                    cycles.push(cycle);
                }
            }
        }
        cycles
    }

    /// Returns the longest chain of agents that ask one another, beginning with `entry`; handoffs between them are
    /// left out. Its depth is its length less one. None if delegation runs in a circle, and so has no end.
    pub fn longest_delegation(&self, entry: usize) -> Option<Vec<&'a str>> {
        if entry >= self.agents.len() || !self.delegation_cycles().is_empty() {
            return None;
        }
        let component = self.components();
        let mut order: Vec<usize> = (0..self.agents.len()).collect();
        order.sort_by_key(|agent| component[*agent]);
        // Components come in the order of the edges between them, and edges within one are handoffs.
        let mut best: Vec<Option<Deepest>> = vec![None; self.agents.len()];
        best[component[entry]] = Some(Deepest { depth: 0, by: None });
        for from in order {
            let Some(Deepest { depth, .. }) = best[component[from]] else { continue };
            for (to, pass) in &self.agents[from] {
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
        self.agents.get_index(agent).map(|(name, _)| *name).unwrap_or_default()
    }

    /// Returns the shortest way between two agents, both included; empty if there is none.
    fn path(&self, from: usize, to: usize) -> Vec<usize> {
        let mut before: Vec<Option<usize>> = vec![None; self.agents.len()];
        let mut queue = VecDeque::from([from]);
        before[from] = Some(from);
        while let Some(agent) = queue.pop_front() {
            for (next, _) in &self.agents[agent] {
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
    fn components(&self) -> Vec<usize> {
        let count = self.agents.len();
        let mut finished = Vec::with_capacity(count);
        let mut seen = vec![false; count];
        for root in 0..count {
            if std::mem::replace(&mut seen[root], true) {
                continue;
            }
            let mut stack = vec![(root, 0)];
            while let Some((agent, next)) = stack.last_mut() {
                if let Some((to, _)) = self.agents[*agent].get(*next) {
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
        for (from, ways) in self.agents.values().enumerate() {
            ways.iter().for_each(|(to, _)| backward[*to].push(from));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::AgentSpec;

    /// Makes a network of edges such as `a>b` (asks) and `a~b` (hands over); the entry is the first agent named.
    fn network(edges: &str) -> NetworkSpec {
        let mut spec = NetworkSpec::default();
        for edge in edges.split_whitespace() {
            let (from, to) = edge.split_once(['>', '~']).unwrap();
            for name in [from, to] {
                spec.agents.entry(name.to_owned()).or_insert_with(|| AgentSpec::new("x"));
            }
            let agent = &mut spec.agents[from];
            if edge.contains('>') { &mut agent.delegates_to } else { &mut agent.hands_off_to }.push(to.to_owned());
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
    fn what_no_way_leads_to_is_not_reached() {
        let spec = network("a>b c>a");
        assert_eq!(Topology::of(&spec).reachable(0), [true, true, false]);
    }

    #[test]
    fn a_chain_as_long_as_a_file_is_no_trouble() {
        let edges: Vec<String> = (0..20_000).map(|at| format!("a{at}>a{}", at + 1)).collect();
        let spec = network(&edges.join(" "));
        assert_eq!(Topology::of(&spec).longest_delegation(0).map(|chain| chain.len()), Some(20_001));
    }
}
