//! Which models an agent may go to: whether there are such, and whether anything leads there.

use super::Check;
use crate::spec::findings::{Place, listed};
use crate::spec::{AgentSpec, ModelChoice, ModelRule};

/// The label of what a person said.
const PERSON: &str = "person";

impl Check<'_> {
    /// Checks the models of an agent beside the preferred one.
    pub(super) fn other_models(&mut self, name: &str, agent: &AgentSpec, choice: &ModelChoice) {
        let path = ["agents", name, "model"];
        for (key, names) in
            [("fall_back", &choice.fall_back), ("escalate", &choice.escalate), ("downgrade", &choice.downgrade)]
        {
            for (index, model) in names.iter().enumerate() {
                let at = [path[0], path[1], path[2], key, &index.to_string()];
                self.find(&at, "models", model);
                if *model == choice.prefer {
                    let message =
                        format!("the agent `{name}` prefers the model `{model}`, and has it before any of `{key}`");
                    self.error(&at, Place::Value, "prefers_itself", message, "take it out of the list");
                }
            }
        }
        for (index, rule) in choice.when.iter().enumerate() {
            self.rule(name, &index.to_string(), rule);
        }
        let at = |key| [path[0], path[1], path[2], key];
        for (key, list, is_empty) in [
            ("downgrade_below", "downgrade", choice.downgrade.is_empty()),
            ("escalate_after", "escalate", choice.escalate.is_empty()),
            ("confidence_below", "escalate", choice.escalate.is_empty()),
        ] {
            if is_empty && self.found.written(&at(key)).is_some() && !self.found.is_broken_within(&at(list)) {
                self.error(
                    &at(key),
                    Place::Key,
                    "key_without_use",
                    format!("the agent `{name}` has no models to go to by `{key}`"),
                    format!("name them with `{list} = [\"…\"]`, or take `{key}` out"),
                );
            }
        }
        let needs_schema = choice.confidence_below.is_some() && !choice.escalate.is_empty();
        if needs_schema && agent.output_schema.is_none() && matches!(self.front, super::Front::File { .. }) {
            self.error(
                &at("confidence_below"),
                Place::Key,
                "key_without_use",
                format!("the answer of the agent `{name}` is a text, and has no field `confidence`"),
                "give the agent an `output_schema` with a number `confidence`, or take `confidence_below` out",
            );
        }
    }

    fn rule(&mut self, name: &str, index: &str, rule: &ModelRule) {
        let path = ["agents", name, "model", "when", index];
        let at = |key| [path[0], path[1], path[2], path[3], path[4], key];
        self.find(&at("model"), "models", &rule.model);
        if rule.step_over.is_none()
            && rule.result_bytes_over.is_none()
            && rule.label.is_none()
            && !self.found.is_broken_within(&path)
        {
            self.error(
                &path,
                Place::Value,
                "no_condition",
                format!(
                    "the rule of the agent `{name}` for the model `{}` says of no step that it is for it",
                    rule.model
                ),
                "add `step_over`, `result_bytes_over` or `label`; or make the model the one to `prefer`",
            );
        }
        let Some(label) = &rule.label else { return };
        let tools = self.spec.tools.values();
        let mut labels: Vec<&str> = tools.clone().filter_map(|tool| tool.labels.reads.as_deref()).collect();
        labels.push(PERSON);
        // What is kept in a memory brings the labels of other runs.
        let has_memory = tools.clone().any(|tool| tool.builtin.is_some_and(|builtin| builtin.is_memory()));
        let is_known = labels.contains(&label.as_str())
            || has_memory
            || !self.spec.agents.values().all(|agent| agent.network.is_none());
        if !is_known && !self.found.is_broken_within(&["tools"]) && !self.found.has_lost_tables() {
            self.warning(
                &at("label"),
                Place::Value,
                "unknown_label",
                format!("nothing that the network reads carries the label `{label}`, so that the rule never applies"),
                format!("the labels are {}; a tool gives one with `labels = {{ reads = \"…\" }}`", listed(labels)),
            );
        }
    }
}
