//! Tools: what they are, and whether they may be used.

use std::collections::HashSet;

use super::{Check, Front};
use crate::spec::findings::Place;
use crate::spec::{Builtin, Effect, MAX_NAME, ToolSpec, is_name};

impl Check<'_> {
    pub(super) fn tools(&mut self, reached: &[bool]) {
        let agents = self.spec.agents.values().zip(reached).filter(|(_, reached)| **reached);
        let mut used: HashSet<&str> = agents.flat_map(|(agent, _)| agent.tools.iter().map(String::as_str)).collect();
        used.extend(self.spec.tools.values().filter_map(|tool| tool.reconcile.as_deref()));
        for (name, tool) in &self.spec.tools {
            self.fields(name, tool);
            self.reconcile(name, tool);
            if used.contains(name.as_str()) {
                self.permission(name, tool);
            } else if !self.found.is_torn() && !self.found.is_broken_within(&["agents"]) {
                self.warning(
                    &["tools", name],
                    Place::Key,
                    "unused_tool",
                    format!("no agent uses the tool `{name}`"),
                    format!("take [tools.{name}] out, or name it in an agent's `tools`"),
                );
            }
        }
    }

    fn fields(&mut self, name: &str, tool: &ToolSpec) {
        let path = |key| ["tools", name, key];
        let Some(builtin) = tool.builtin else {
            let expected = matches!(self.front, Front::Program)
                || self.found.is_broken(&path("builtin"))
                || self.found.is_broken(&path("mcp"))
                || self.found.is_torn_at(&["tools", name]);
            if !expected {
                self.error(
                    &["tools", name],
                    Place::Key,
                    "no_builtin",
                    format!("the tool `{name}` doesn't say what it is"),
                    "add `builtin`, one of \"fs.list\", \"fs.read\", \"fs.search\", \"fs.write\", \"process.run\", \"clock.now\", \"clock.sleep\", \"memory.put\", \"memory.search\", \"memory.forget\", \"knowledge.search\" and \"person.ask\"",
                );
            }
            return;
        };
        self.programs(name, tool, builtin);
        self.kept(name, tool, builtin);
        if tool.root.is_some() && !builtin.has_root() {
            self.error(
                &path("root"),
                Place::Key,
                "key_without_use",
                format!("the tool `{name}` works in no directory"),
                "take `root` out",
            );
        }
    }

    /// Looks at the programs that a tool may start, which only `process.run` does.
    fn programs(&mut self, name: &str, tool: &ToolSpec, builtin: Builtin) {
        let path = |key| ["tools", name, key];
        if builtin == Builtin::ProcessRun {
            if tool.allow.is_empty()
                && !self.found.is_broken_within(&path("allow"))
                && !self.found.is_torn_at(&["tools", name])
            {
                self.error(
                    &["tools", name],
                    Place::Key,
                    "no_programs",
                    format!("the tool `{name}` may start no program"),
                    "add `allow = [\"…\"]` with the programs that it may start, by name or absolute path",
                );
            }
            for (index, program) in tool.allow.iter().enumerate() {
                let fits = !program.is_empty()
                    && !program.chars().any(char::is_control)
                    && (program.starts_with('/') || !program.contains('/'));
                if !fits {
                    self.error(
                        &["tools", name, "allow", &index.to_string()],
                        Place::Value,
                        "bad_program",
                        "a program is allowed by its bare name or its absolute path",
                        "write \"cargo\" or \"/usr/bin/make\"",
                    );
                }
            }
        } else if !tool.allow.is_empty() {
            self.error(
                &path("allow"),
                Place::Key,
                "key_without_use",
                format!("`allow` is for `process.run`, and the tool `{name}` starts no programs"),
                "take it out",
            );
        }
    }

    /// Looks at what a tool remembers or knows, and whose it is.
    fn kept(&mut self, name: &str, tool: &ToolSpec, builtin: Builtin) {
        let path = |key| ["tools", name, key];
        if tool.scope.is_some() && !builtin.is_memory() {
            self.error(
                &path("scope"),
                Place::Key,
                "key_without_use",
                format!("`scope` says whose memory a tool has, and the tool `{name}` has none"),
                "take it out",
            );
        }
        let searches = builtin == Builtin::KnowledgeSearch;
        if tool.knowledge.is_some() && !searches {
            self.error(
                &path("knowledge"),
                Place::Key,
                "key_without_use",
                format!("`knowledge` is for `knowledge.search`, and the tool `{name}` is another"),
                "take it out",
            );
        }
        if tool.knowledge.as_deref().is_some_and(|knowledge| !knowledge.is_empty() && !is_name(knowledge)) {
            self.error(
                &path("knowledge"),
                Place::Value,
                "bad_name",
                "nothing can be indexed under such a name",
                format!("take 1 to {MAX_NAME} letters (a to z), digits, `_` and `-`"),
            );
        }
        let is_said = tool.knowledge.is_some() || self.found.is_broken_within(&path("knowledge"));
        if searches && !is_said && !self.found.is_torn_at(&["tools", name]) {
            self.error(
                &["tools", name],
                Place::Key,
                "no_knowledge",
                format!("the tool `{name}` doesn't say what it searches"),
                "add `knowledge = \"NAME\"`; `provost knowledge add NAME PATH` indexes files under a name",
            );
        }
        if builtin == Builtin::PersonAsk {
            self.asks_person(name, tool);
        }
    }

    /// A question to a person is no work that could take too long, say too much or be done twice.
    fn asks_person(&mut self, name: &str, tool: &ToolSpec) {
        let given = [
            ("effect", tool.effect.is_some()),
            ("timeout", tool.timeout.is_some()),
            ("output_limit_bytes", tool.output_limit_bytes.is_some()),
            ("reconcile", tool.reconcile.is_some()),
        ];
        for (key, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
            self.error(
                &["tools", name, key],
                Place::Key,
                "key_without_use",
                format!("the tool `{name}` asks a person, and `{key}` says nothing of that"),
                format!("take `{key}` out"),
            );
        }
    }

    /// Looks whether the tool that is to be asked what became of a call can say so.
    fn reconcile(&mut self, name: &str, tool: &ToolSpec) {
        let Some(by) = &tool.reconcile else { return };
        let path = ["tools", name, "reconcile"];
        let Some(other) = self.spec.tools.get(by).filter(|_| by != name) else {
            let message = match by == name {
                true => format!("the tool `{name}` can't be asked what became of its own calls"),
                false => format!("there is no tool `{by}`"),
            };
            return self.error(&path, Place::Value, "unknown_tool", message, "name another tool of the network");
        };
        let can_say = match other.builtin {
            None => true,
            Some(Builtin::ProcessRun) => other.allow.len() == 1 && other.effect == Some(Effect::Pure),
            Some(_) => false,
        };
        if !can_say {
            self.error(
                &path,
                Place::Value,
                "cannot_reconcile",
                format!("the tool `{by}` can't say what became of a call of `{name}`"),
                "name a `process.run` with `effect = \"pure\"` and one program in `allow`: it gets the call's key as its argument",
            );
        }
    }
}
