//! Calls that are approved of before they are made: those that are like one that was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Binding, BoundFile};
use crate::run::{Labels, Subject};

/// Which later calls of a run are like one that was approved: the same agent's to the same tool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pattern {
    /// What arguments may be, by their names: in a text, `*` stands for anything; a list has a pattern for each item. An
    /// argument that is not named must be as it was.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub like: BTreeMap<String, Value>,
    /// Until when it holds, in milliseconds since 1970 (UTC); to the end of the run where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// Calls that a person has approved of before they are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The agent's name in the network.
    pub agent: Arc<str>,
    /// The tool.
    pub tool: Arc<str>,
    /// What it was given when it was approved.
    pub arguments: Value,
    /// Which calls are like it.
    pub pattern: Pattern,
    /// What the agent had been influenced by; what is influenced by more is asked about.
    pub labels: Labels,
    /// What the grant is bound to.
    pub binding: Binding,
    /// The policies that asked, by their ids: what others ask about is for the people to say that they name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Arc<str>>,
}

impl Standing {
    /// Whether it holds for a call of an agent to a tool, about which `policies` ask.
    pub fn covers(
        &self,
        agent: &str,
        subject: &Subject,
        labels: &Labels,
        binding: &Binding,
        policies: &[Arc<str>],
        now_ms: u64,
    ) -> bool {
        let Subject::Tool { tool, arguments } = subject else { return false };
        let knows = |label: &str| self.labels.iter().any(|known| known == label);
        let (before, now) = (texts(&self.arguments), texts(arguments));
        let (kept, open): (Vec<&str>, Vec<&str>) = now.into_iter().partition(|text| before.contains(text));
        // What is left open may name it, unless what was shown names it, too.
        let named = |by: &[&str], path: &str| by.iter().any(|text| names(text, path));
        let is_named_anew = |path: &str| named(&open, path) && !named(&kept, path);
        let is_as_it_was = |file: &BoundFile| match self.binding.files.iter().find(|known| known.path == file.path) {
            _ if file.is_target => true,
            Some(known) => known.is_target || known.digest == file.digest,
            // It was not there when a person was shown what is called, unless it is the pattern that lets it be named.
            None => is_named_anew(&file.path),
        };
        *self.agent == *agent
            && self.tool == *tool
            && self.pattern.until_ms.is_none_or(|until_ms| now_ms < until_ms)
            && self.binding.tool == binding.tool
            && self.binding.schema == binding.schema
            && self.binding.policies == binding.policies
            && self.policies == policies
            && labels.iter().all(knows)
            && binding.files.iter().all(is_as_it_was)
            && self.is_like(arguments)
    }

    pub(super) fn is_like(&self, arguments: &Value) -> bool {
        let (Some(given), Some(known)) = (arguments.as_object(), self.arguments.as_object()) else { return false };
        let names = given.keys().chain(known.keys()).chain(self.pattern.like.keys());
        let mut names = names.map(String::as_str);
        names.all(|name| match (self.pattern.like.get(name), given.get(name)) {
            (Some(pattern), Some(given)) => fits(pattern, given),
            (Some(_), None) => false,
            (None, given) => given == known.get(name),
        })
    }
}

/// Returns all texts in a value.
fn texts(value: &Value) -> BTreeSet<&str> {
    match value {
        Value::String(text) => [text.as_str()].into(),
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(pairs) => pairs.values().flat_map(texts).collect(),
        _ => BTreeSet::new(),
    }
}

/// Whether a text names a file, by the end of its path; as the value of an option, too.
fn names(text: &str, path: &str) -> bool {
    let ends = |text: &str| !text.is_empty() && Path::new(path).ends_with(text.trim_start_matches("./"));
    ends(text) || text.split_once('=').is_some_and(|(_, value)| ends(value))
}

/// Whether a value is what a pattern says: texts by `*`, lists item by item, all else by being the same.
pub(super) fn fits(pattern: &Value, value: &Value) -> bool {
    match (pattern, value) {
        (Value::String(pattern), Value::String(text)) => fits_text(pattern, text),
        (Value::Array(patterns), Value::Array(items)) => {
            patterns.len() == items.len() && patterns.iter().zip(items).all(|(pattern, item)| fits(pattern, item))
        }
        (pattern, value) => pattern == value,
    }
}

/// Whether a text is made of the pattern's parts, in their order, with anything where a `*` stands. Where the text names a
/// path that climbs, it is not: `docs/*` is not meant for `docs/../key`.
pub(super) fn fits_text(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let climbs = text.split(['/', '\\']).any(|part| part == "..");
    let Some(mut left) = text.strip_prefix(first).filter(|_| !climbs) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    true
}
