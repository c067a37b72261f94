//! Routes and rooms: names, expressions, circles without a bound, joins that can never fill.

use std::collections::HashSet;

use super::Check;
use crate::route::{Expression, Topology};
use crate::spec::findings::{Place, listed};
use crate::spec::shape::short;
use crate::spec::{Join, RouteSpec, TOPIC, Template, TemplateError};

/// What expressions and messages of a route are given.
const NAMES: [&str; 5] = ["output", "outputs", "input", "vars", "visits"];

impl Check<'_> {
    pub(super) fn routes(&mut self) {
        let spec = self.spec;
        for (index, route) in spec.routes.iter().enumerate() {
            let at = index.to_string();
            self.route(&at, route);
            self.route_texts(&at, route);
            self.join(&at, route);
        }
        self.loops();
        self.others();
        for (name, agent) in &spec.agents {
            self.room(name);
            self.instead_of_prompt(name);
            for (index, topic) in agent.publishes.iter().enumerate() {
                self.topic(&["agents", name, "publishes", &index.to_string()], topic, true);
            }
        }
    }

    /// Checks the names of a route, and that it leads somewhere.
    fn route(&mut self, at: &str, route: &RouteSpec) {
        for (key, names) in [("from", &route.from), ("to", &route.to)] {
            for (index, name) in names.iter().enumerate() {
                let index = index.to_string();
                let path = ["routes", at, key, index.as_str()];
                match name.strip_prefix(TOPIC) {
                    Some(topic) => self.topic(&path, topic, key == "to"),
                    None => drop(self.find(&path, "agents", name)),
                }
            }
        }
        if route.from.is_empty() && !self.found.is_broken(&["routes", at, "from"]) {
            let help = "add `from = \"AGENT\"`: whose answers it takes";
            self.error(&["routes", at], Place::Key, "missing_key", "[[routes]] has no `from`", help);
        }
        match (route.to.is_empty(), &route.answer) {
            (true, None) if !self.found.is_broken(&["routes", at, "to"]) => {
                let help = "add `to = \"AGENT\"`, or `answer = \"…\"` for what the run is to answer";
                self.error(&["routes", at], Place::Key, "leads_nowhere", "the route leads nowhere", help);
            }
            (false, Some(_)) => {
                let message = "`answer` is what the run answers, and `to` goes on with it";
                self.error(&["routes", at, "answer"], Place::Key, "contradiction", message, "take one of the two out");
            }
            _ => {}
        }
        if route.otherwise && route.when.is_some() {
            let message = "`otherwise` takes what no other route takes, and `when` says what this one takes";
            self.error(&["routes", at, "otherwise"], Place::Key, "contradiction", message, "take one of the two out");
        }
    }

    fn topic(&mut self, path: &[&str], topic: &str, needs_listener: bool) {
        let fits = !topic.is_empty() && topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        if !fits || topic.len() > super::super::MAX_AGENT_NAME {
            let message = format!("`{}` is no name of a topic", short(topic));
            let help = "take letters (a to z), digits, `_` and `-`: models are told the name";
            return self.error(path, Place::Value, "bad_name", message, help);
        }
        let name = format!("{TOPIC}{topic}");
        let listens = |route: &RouteSpec| route.from.contains(&name);
        let speaks = |route: &RouteSpec| route.to.contains(&name);
        let publishes = self.spec.agents.values().any(|agent| agent.publishes.iter().any(|known| known == topic));
        if needs_listener && !self.spec.routes.iter().any(listens) {
            let message = format!("nobody takes what is published on `{name}`");
            let help = format!("add a route with `from = \"{name}\"`");
            self.error(path, Place::Value, "unknown_topic", message, help);
        }
        if !needs_listener && !publishes && !self.spec.routes.iter().any(speaks) {
            let message = format!("nothing is ever published on `{name}`");
            let help = format!("add a route with `to = \"{name}\"`, or `publishes = [\"{topic}\"]` to an agent");
            self.error(path, Place::Value, "unknown_topic", message, help);
        }
    }

    /// Checks the expressions and the message of a route.
    fn route_texts(&mut self, at: &str, route: &RouteSpec) {
        for (key, source) in
            [("when", &route.when), ("for_each", &route.for_each), ("by", &route.by), ("answer", &route.answer)]
        {
            let path = ["routes", at, key];
            if let Some(source) = source {
                self.expression(&path, source, &NAMES);
                self.output_of(&path, source, route);
            }
        }
        if let Some(message) = &route.message {
            let mut names = NAMES.to_vec();
            names.extend(route.for_each.is_some().then_some("item"));
            self.named(
                &["routes", at, "message"],
                Template::parse(message).map(|template| template.variables()),
                &names,
            );
        }
    }

    fn expression(&mut self, path: &[&str], source: &str, names: &[&str]) {
        self.named(path, Expression::parse(source).map(|expression| expression.names().to_vec()), names);
    }

    fn named(&mut self, path: &[&str], parsed: Result<Vec<String>, TemplateError>, names: &[&str]) {
        if self.found.is_broken(path) {
            return;
        }
        let given = format!("it is given {}", listed(names.iter().copied()));
        match parsed {
            Err(error) => {
                let message = format!("this can't be read: {}", short(&error.message));
                self.error(path, Place::Value, "bad_expression", message, given);
            }
            Ok(used) => {
                if let Some(unknown) = used.iter().find(|name| !names.contains(&name.as_str())) {
                    let message = format!("this names `{}`, which it will not be given", short(unknown));
                    self.error(path, Place::Value, "unknown_variable", message, given);
                }
            }
        }
    }

    /// Warns of a route that looks into an answer which is a text.
    fn output_of(&mut self, path: &[&str], source: &str, route: &RouteSpec) {
        let is_text = |name: &&String| {
            let agent = self.spec.agents.get(name.as_str());
            agent.is_some_and(|agent| agent.output_schema.is_none() && !agent.is_flow())
        };
        let from_file = matches!(self.front, super::Front::File { .. });
        let joins_values = matches!(route.join, Some(Join::All | Join::Majority | Join::Count(_))) && path[2] != "by";
        let is_one = Expression::parse(source).is_ok();
        let looks_in = is_one && source.contains("output.") && from_file && !joins_values;
        if let Some(name) = route.from.iter().find(is_text).filter(|_| looks_in) {
            let message = format!("this looks into the answer of `{name}`, which is a text");
            let help = format!("give `{name}` an `output_schema`");
            self.warning(path, Place::Value, "answer_is_text", message, help);
        }
    }

    fn join(&mut self, at: &str, route: &RouteSpec) {
        let path = |key| ["routes", at, key];
        if let Some(timeout) = route.timeout {
            self.not_zero(&path("timeout"), timeout);
        }
        let Some(join) = route.join else {
            for (key, is_there) in [("timeout", route.timeout.is_some()), ("by", route.by.is_some())] {
                if is_there {
                    let message = format!("`{key}` says something of a `join`, and there is none");
                    self.error(&path(key), Place::Key, "contradiction", message, "add `join`, or take it out");
                }
            }
            return;
        };
        if route.by.is_some() && join != Join::Majority {
            let message = "`by` says when answers agree, which only `join = \"majority\"` asks";
            self.error(&path("by"), Place::Key, "contradiction", message, "take it out");
        }
        if route.from.iter().any(|name| name.starts_with(TOPIC)) {
            let message = "a join takes answers, and what is published on a topic is none";
            let help = "name the agents that publish";
            self.error(&path("from"), Place::Value, "join_never_fills", message, help);
        }
        let mapped: HashSet<&str> = self.mapped();
        let many = route.from.iter().any(|name| mapped.contains(name.as_str()));
        let count = match join {
            Join::Count(count) => count as usize,
            Join::All | Join::Any | Join::Majority => 0,
        };
        if count > route.from.len() && !many {
            let message = format!("the join wants {count} answers, and at most {} can come", route.from.len());
            let help = "lower `join`, name more agents in `from`, or let a `for_each` start several of them";
            self.error(&path("join"), Place::Value, "join_never_fills", message, help);
        }
        if join != Join::All || route.timeout.is_some() {
            self.other_ways(at, route);
        }
    }

    /// Returns the agents of which a `for_each` starts several, and those that come after them.
    fn mapped(&self) -> HashSet<&str> {
        let spec = self.spec;
        let first = spec.routes.iter().filter(|route| route.for_each.is_some()).flat_map(|route| &route.to);
        let mut mapped: HashSet<&str> = first.map(String::as_str).collect();
        loop {
            let before = mapped.len();
            for route in spec.routes.iter().filter(|route| route.join.is_none()) {
                if route.from.iter().any(|name| mapped.contains(name.as_str())) {
                    mapped.extend(route.to.iter().map(String::as_str));
                }
            }
            if mapped.len() == before {
                return mapped;
            }
        }
    }

    /// Whose answer may come too late for a join must have no other way to go: it is stopped then.
    fn other_ways(&mut self, at: &str, route: &RouteSpec) {
        let leads_elsewhere = |name: &&String| {
            self.spec
                .routes
                .iter()
                .any(|other| other.from.contains(name) && (other.join, &other.from) != (route.join, &route.from))
        };
        if let Some(name) = route.from.iter().find(leads_elsewhere).cloned() {
            let message =
                format!("`{name}` is stopped when this join goes on without it, and another route takes its answer");
            let help = "let the other route begin at another agent, or join all";
            self.error(&["routes", at, "from"], Place::Value, "join_and_more", message, help);
        }
    }

    /// Refuses circles that nothing bounds.
    fn loops(&mut self) {
        let spec = self.spec;
        let unbounded: Vec<&RouteSpec> = spec.routes.iter().filter(|route| route.max_visits.is_none()).collect();
        for cycle in Topology::route_cycles(spec, &unbounded) {
            let [first, second, ..] = cycle.as_slice() else { continue };
            let published = self.spec.agents.get(*first).map(|agent| agent.publishes.as_slice()).unwrap_or_default();
            let is_of_first = |from: &String| {
                from == first
                    || from.strip_prefix(TOPIC).is_some_and(|topic| published.iter().any(|known| known == topic))
            };
            let leads = |route: &RouteSpec| {
                route.max_visits.is_none()
                    && route.from.iter().any(is_of_first)
                    && route.to.iter().any(|to| to == second)
            };
            let at = spec.routes.iter().position(leads).unwrap_or_default().to_string();
            let way = cycle.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" → ");
            let message = format!("these routes can go in a circle for ever: {way}");
            let help = "add `max_visits` to one of them: how often it may be taken";
            self.error(&["routes", &at], Place::Key, "unbounded_loop", message, help);
        }
    }

    /// What `otherwise` takes needs others that might not.
    fn others(&mut self) {
        let spec = self.spec;
        for (index, route) in spec.routes.iter().enumerate().filter(|(_, route)| route.otherwise) {
            let has_other = |other: &RouteSpec| {
                !other.otherwise
                    && other.join.is_some() == route.join.is_some()
                    && other.from.iter().any(|from| route.from.contains(from))
            };
            if !spec.routes.iter().any(has_other) {
                let message = "`otherwise` takes what no other route takes, and there is no other";
                let path = ["routes", &index.to_string(), "otherwise"];
                self.warning(&path, Place::Key, "only_route", message, "take it out");
            }
        }
    }

    fn room(&mut self, name: &str) {
        let Some(room) = &self.spec.agents[name].room else { return };
        let path = |key| ["agents", name, "room", key];
        for (index, member) in room.members.iter().enumerate() {
            self.find(&["agents", name, "room", "members", &index.to_string()], "agents", member);
        }
        for member in &room.members {
            let agent = self.spec.agents.get(member);
            let strays = agent.is_some_and(|agent| !agent.publishes.is_empty() || !agent.hands_off_to.is_empty());
            if strays {
                let message = format!("`{}` speaks in a room, and could publish or hand over there", short(member));
                let help = "take its `publishes` and `hands_off_to` out, or let another agent speak";
                self.error(&path("members"), Place::Value, "contradiction", message, help);
            }
        }
        if room.members.is_empty() && !self.found.is_broken(&path("members")) {
            let message = "nobody speaks in this room";
            self.error(&["agents", name, "room"], Place::Key, "empty", message, "add `members = [\"…\"]`");
        }
        if room.max_turns == 0 && !self.found.is_broken(&path("max_turns")) {
            let help = "add `max_turns = 10`: how many turns the talk may have";
            self.error(&["agents", name, "room"], Place::Key, "missing_key", "the room has no `max_turns`", help);
        }
        if let Some(selector) = &room.selector {
            self.find(&path("selector"), "agents", selector);
            if room.members.contains(selector) {
                let message = format!("`{}` says who speaks next, and is one of those who speak", short(selector));
                self.error(&path("selector"), Place::Value, "contradiction", message, "let another agent select");
            }
        }
        if let Some(end) = &room.end_when {
            self.expression(&path("end_when"), end, &["output", "speaker", "turns", "input", "vars"]);
        }
    }

    /// An agent has a prompt, or others work for it.
    fn instead_of_prompt(&mut self, name: &str) {
        let agent = &self.spec.agents[name];
        if let Some(flow) = &agent.flow {
            self.find(&["agents", name, "flow"], "agents", flow);
        }
        let instead: Vec<&str> = [
            ("flow", agent.flow.is_some() && agent.network.is_none()),
            ("network", agent.network.is_some()),
            ("room", agent.room.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, is_there)| is_there.then_some(key))
        .collect();
        if let [key, other, ..] = instead.as_slice() {
            let message = format!("`{name}` stands for `{key}` and for `{other}`");
            self.error(&["agents", name, other], Place::Key, "contradiction", message, "take one of the two out");
        }
        let Some(key) = instead.first() else { return };
        let own = [
            ("prompt", !agent.prompt.is_empty()),
            ("tools", !agent.tools.is_empty()),
            ("delegates_to", !agent.delegates_to.is_empty()),
            ("hands_off_to", !agent.hands_off_to.is_empty()),
            ("publishes", !agent.publishes.is_empty()),
            ("output_schema", agent.output_schema.is_some()),
            ("model", agent.model.is_some()),
        ];
        for (own, _) in own.into_iter().filter(|(_, is_there)| *is_there) {
            let message = format!("others work for `{name}` (`{key}`), and its `{own}` would never be used");
            self.error(&["agents", name, own], Place::Key, "contradiction", message, "take one of the two out");
        }
    }
}
