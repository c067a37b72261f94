//! Supervision: what says nothing, since nothing would ever come of it.

use super::Check;
use crate::spec::findings::Place;
use crate::spec::{AgentSpec, Scope, SupervisionSpec};

impl Check<'_> {
    pub(super) fn supervision(&mut self) {
        let spec = self.spec;
        self.not_zero(&["supervision", "period"], spec.supervision.period);
        self.shutdown();
        for (name, agent) in &spec.agents {
            match agent.replicas() {
                Some(_) if !self.is_passed_work(name) && self.is_begun(name) => self.never_asked(name, agent),
                Some(_) => {}
                None => self.unused_mailbox(name),
            }
        }
    }

    fn shutdown(&mut self) {
        if self.spec.supervision.shutdown > SupervisionSpec::MAX_SHUTDOWN {
            self.error(
                &["supervision", "shutdown"],
                Place::Value,
                "out_of_range",
                format!("`supervision.shutdown` must not be longer than {}", SupervisionSpec::MAX_SHUTDOWN),
                "whoever stops the network waits for it; write a span of time such as \"1s\" or \"1m\"",
            );
        }
    }

    /// Whether some agent may pass work to this one.
    fn is_passed_work(&self, name: &str) -> bool {
        let passes = |agent: &AgentSpec| {
            let named = agent.delegates_to.iter().chain(&agent.hands_off_to).map(String::as_str);
            named.chain(agent.on_error.route()).any(|to| to == name)
        };
        self.spec.agents.values().any(passes)
    }

    /// Whether the agent is the entry, or gets work by routes.
    fn is_begun(&self, name: &str) -> bool {
        let is_routed = || self.spec.routes.iter().any(|route| route.to.iter().any(|to| to == name));
        name == self.spec.network.entry || is_routed()
    }

    /// The run's input goes to an instance of its own, and so does what a route brings.
    fn never_asked(&mut self, name: &str, agent: &AgentSpec) {
        let key = if agent.replicas.is_some() { "replicas" } else { "scope" };
        let (code, why, other) = match name == self.spec.network.entry {
            true => ("entry_is_not_asked", "it is the entry alone", "let another agent be the entry, with"),
            false => ("routed_is_not_asked", "it gets work by routes", "let another agent ask it, with"),
        };
        self.error(
            &["agents", name, key],
            Place::Value,
            code,
            format!("`{key}` holds for what other agents pass to `{name}`, and none does: {why}"),
            format!("take it out, or {other} `delegates_to = [\"{name}\"]`"),
        );
        if agent.replicas.is_some() && agent.scope != Scope::Run {
            self.found.mark(&["agents", name, "scope"]);
        }
    }

    fn unused_mailbox(&mut self, name: &str) {
        let path = ["agents", name, "mailbox"];
        if self.found.written(&path).is_some() && !self.found.is_broken(&["agents", name, "replicas"]) {
            self.warning(
                &path,
                Place::Key,
                "unused_mailbox",
                format!("nothing ever waits in the mailbox of `{name}`: each question gets an instance of its own"),
                "set `replicas`, or take `mailbox` out",
            );
        }
    }
}
