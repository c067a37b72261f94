//! Compaction: whether what is to be kept within a bound can be.

use super::Check;
use crate::spec::findings::Place;
use crate::spec::{AgentSpec, CompactionSpec, READ_AGAIN};

impl Check<'_> {
    pub(super) fn compaction(&mut self) {
        let spec = self.spec;
        for (name, agent) in &spec.agents {
            let Some(rules) = &agent.compaction else { continue };
            if agent.is_flow() {
                self.error(
                    &["agents", name, "compaction"],
                    Place::Key,
                    "key_without_use",
                    format!("others work for the agent `{name}`, and it has no transcript to compact"),
                    "take `compaction` out, and give it to those who work for it",
                );
                continue;
            }
            if let Some(model) = &rules.model {
                self.find(&["agents", name, "compaction", "model"], "models", model);
            }
            self.bounds(name, rules);
            self.offered(name, agent);
        }
    }

    fn bounds(&mut self, name: &str, rules: &CompactionSpec) {
        let path = ["agents", name, "compaction", "move_out_over_bytes"];
        if self.found.is_broken_within(&["agents", name, "compaction"]) {
            return;
        }
        // The schema refuses a bound of less than that; what has more bytes than the bound has tokens may still fit.
        if rules.move_out_over_bytes as u64 > rules.at_tokens.saturating_mul(3) {
            let place: &[&str] = if self.found.written(&path).is_some() { &path } else { &path[..3] };
            self.error(
                place,
                if place.len() == path.len() { Place::Value } else { Place::Key },
                "nothing_moved_out",
                format!(
                    "a result of `move_out_over_bytes` = {} bytes alone takes more than `at_tokens` = {}, at three bytes a token",
                    rules.move_out_over_bytes, rules.at_tokens
                ),
                format!("set `move_out_over_bytes` to {} or less, or raise `at_tokens`", rules.at_tokens.saturating_mul(3)),
            );
        }
    }

    /// Refuses a tool that has the name under which results are read again.
    fn offered(&mut self, name: &str, agent: &AgentSpec) {
        let is_named = self.spec.tools.contains_key(READ_AGAIN);
        if let Some(index) = agent.tools.iter().position(|tool| tool == READ_AGAIN) {
            self.error(
                &["agents", name, "tools", &index.to_string()],
                Place::Value,
                "name_clash",
                format!("`{READ_AGAIN}` is what `{name}` reads moved-out results with, since it has `compaction`"),
                "give the tool another name",
            );
        } else if is_named {
            self.error(
                &["tools", READ_AGAIN],
                Place::Key,
                "name_clash",
                format!(
                    "`{READ_AGAIN}` is what agents with `compaction`, such as `{name}`, read moved-out results with"
                ),
                "give the tool another name",
            );
        }
    }
}
