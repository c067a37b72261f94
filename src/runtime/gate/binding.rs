//! What a grant is bound to: what a call is, what it would change, and what is in the files that it names.

use std::sync::Arc;

use serde_json::Value;

use super::desk::Desk;
use crate::policy::Policies;
use crate::run::{Binding, BoundFile, Labels, Subject};
use crate::runtime::scope::Scope;
use crate::tool::{NamedFile, Preview};

/// A call as a person is shown it.
pub(super) struct Shown {
    pub(super) binding: Binding,
    /// What it would change, for a person to read.
    pub(super) change: Option<Arc<str>>,
}

/// Looks at what a call would do now, which is `seen` where its agent wrote it otherwise. Reads the files that it names.
pub(super) async fn look(
    subject: &Subject,
    seen: Option<&Subject>,
    labels: &Labels,
    policies: &Policies,
    desk: &Desk,
    scope: &Scope,
) -> Shown {
    let stream = &scope.stream;
    let whose = format!("{}\n{}\n{}\n{}", stream.run, stream.tenant, desk.agent, desk.id);
    let labels: Vec<&str> = labels.iter().collect();
    let bound = match subject {
        Subject::Tool { tool, .. } => scope.tools.get(tool),
        _ => None,
    };
    let spec = bound.map(|bound| serde_json::to_value(&bound.spec).unwrap_or_default());
    let tool = format!("{}\n{}", subject.name(), spec.unwrap_or_default());
    let schema = bound.map(|bound| bound.tool.parameters()).unwrap_or_default();
    let arguments = match seen.unwrap_or(subject) {
        Subject::Tool { arguments, .. } => digest_of(arguments),
        // How much a model may write is for the budget to say.
        Subject::Model { .. } => digest(b""),
        subject => digest_of(&serde_json::to_value(subject).unwrap_or_default()),
    };
    let preview = match (subject, bound) {
        (Subject::Tool { arguments, .. }, Some(bound)) => bound.tool.clone().preview(arguments.clone()).await,
        _ => Preview::default(),
    };
    let file = |NamedFile { path, digest, is_target }| BoundFile { path, digest, is_target };
    let binding = Binding {
        whose: digest(whose.as_bytes()),
        tool: digest(tool.as_bytes()),
        schema: digest_of(&schema),
        arguments,
        labels: digest(labels.join("\n").as_bytes()),
        policies: policies.hash().clone(),
        files: preview.files.into_iter().map(file).collect(),
    };
    Shown { binding, change: preview.change.map(Into::into) }
}

/// Digests arguments so that the order of keys makes no difference, which makes none to any tool.
pub(super) fn digest_of(value: &Value) -> Arc<str> {
    let mut value = value.clone();
    value.sort_all_objects();
    digest(value.to_string().as_bytes())
}

fn digest(bytes: &[u8]) -> Arc<str> {
    blake3::hash(bytes).to_hex().as_str().into()
}
