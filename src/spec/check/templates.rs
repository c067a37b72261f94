//! Templates: that they parse, and that they name what they will be given.

use std::ops::Range;

use super::{Check, Front};
use crate::spec::Template;
use crate::spec::diagnostic::line_bounds;
use crate::spec::findings::{Place, listed};
use crate::spec::shape::short;

/// What a prompt or a root is rendered over.
const VARIABLES: [&str; 2] = ["input", "vars"];

impl Check<'_> {
    pub(super) fn templates(&mut self) {
        for (name, agent) in &self.spec.agents {
            self.template(&["agents", name, "prompt"], &agent.prompt, Some(&VARIABLES));
        }
        for (name, tool) in &self.spec.tools {
            if let Some(root) = &tool.root {
                self.template(&["tools", name, "root"], root, Some(&VARIABLES));
            }
        }
        for (agent, steps) in &self.spec.sim.script {
            for (index, step) in steps.iter().enumerate() {
                self.template(&["sim", "script", agent, &index.to_string()], step, None);
            }
        }
    }

    fn template(&mut self, path: &[&str], source: &str, variables: Option<&[&str]>) {
        if self.found.is_broken(path) {
            return;
        }
        let template = match Template::parse(source) {
            Ok(template) => template,
            Err(error) => {
                let place = self.line(path, error.line).map_or(Place::Value, Place::Bytes);
                let message = format!("this template can't be read: {}", short(&error.message));
                let help = "values stand in {{ … }} and statements in {% … %}; write {{ '{{' }} for braces themselves";
                return self.error(path, place, "bad_template", message, help);
            }
        };
        let Some(variables) = variables else { return };
        for name in template.variables() {
            if variables.contains(&name.as_str()) {
                continue;
            }
            let place = self.word(path, &name).map_or(Place::Value, Place::Bytes);
            let message = format!("this template names `{}`, which it will not be given", short(&name));
            let help = format!(
                "it is given {}; what `--var {}=…` sets is `vars.{}`",
                listed(variables.iter().copied()),
                short(&name),
                short(&name)
            );
            self.error(path, place, "unknown_variable", message, help);
        }
    }

    /// Returns the bytes of a line within a string of several lines, where the string stands in the file as it is.
    fn line(&self, path: &[&str], line: Option<usize>) -> Option<Range<usize>> {
        let Front::File { text, .. } = self.front else { return None };
        let span = self.found.written(path)?.span.clone();
        let raw = text.get(span.clone())?;
        let body = raw.strip_prefix("\"\"\"").or_else(|| raw.strip_prefix("'''"))?;
        if raw.starts_with('"') && body.contains("\\\n") {
            return None;
        }
        let mut start = span.start + 3;
        let trimmed = body.strip_prefix("\r\n").or_else(|| body.strip_prefix('\n')).unwrap_or(body);
        start += body.len() - trimmed.len();
        for _ in 1..line? {
            start += text[start..span.end].find('\n')? + 1;
        }
        let bounds = line_bounds(text, start);
        let line = &text[start..bounds.end.min(span.end - 3).max(start)];
        let indent = line.len() - line.trim_start().len();
        Some(start + indent..start + line.trim_end().len().max(indent))
    }

    /// Returns the bytes of the first use of a name in a template.
    fn word(&self, path: &[&str], name: &str) -> Option<Range<usize>> {
        let Front::File { text, .. } = self.front else { return None };
        let span = self.found.written(path)?.span.clone();
        let raw = text.get(span.clone())?;
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        raw.match_indices(name).map(|(at, _)| at).find_map(|at| {
            let (before, after) = (&raw[..at], &raw[at + name.len()..]);
            let alone = !before.ends_with(|c| is_word(c) || c == '.') && !after.starts_with(is_word);
            let opened = before.rfind("{{").max(before.rfind("{%"));
            let closed = before.rfind("}}").max(before.rfind("%}"));
            (alone && opened.is_some() && opened > closed).then(|| span.start + at..span.start + at + name.len())
        })
    }
}
