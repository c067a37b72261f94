//! Asking a tool that knows what became of a call that was cut off.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::approval::{decide, seen};
use super::desk::Desk;
use super::perform;
use crate::run::{Body, Event, Resolution, Subject};
use crate::runtime::run_supervisor::RunMessage;
use crate::runtime::scope::{Over, Scope};
use crate::spec::{Builtin, Permission};

/// Makes the question to the tool `by` what became of a call.
pub(super) fn question(desk: &Desk, by: &Arc<str>, subject: &Subject, scope: &Scope) -> Subject {
    let Subject::Tool { tool, arguments } = subject else { return subject.clone() };
    let key = perform::key(desk, scope);
    let asked = json!({ "key": key, "tool": tool, "arguments": arguments });
    let program = scope.tools.get(by).filter(|bound| bound.builtin() == Some(Builtin::ProcessRun));
    let arguments = match program.and_then(|bound| bound.spec.allow.first()) {
        Some(program) => json!({ "argv": [program, key], "stdin": asked.to_string() }),
        None => asked,
    };
    Subject::Tool { tool: by.clone(), arguments }
}

/// What a program says is what it prints.
#[derive(Deserialize)]
struct Printed {
    stdout: String,
}

/// What a tool says that was asked what became of a call.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
enum Reconciled {
    Done { result: Value },
    NotDone,
    Unknown,
}

/// Reads the answer to such a question; none where the tool failed, does not know, or says something else.
fn resolution(answer: &Event) -> Option<Resolution> {
    let Event::ToolReturned { message, failure: None, .. } = answer else { return None };
    let Body::Tool { content, .. } = &message.body else { return None };
    let printed = serde_json::from_str(content).map(|printed: Printed| printed.stdout);
    match serde_json::from_str(printed.as_deref().unwrap_or(content)).ok()? {
        Reconciled::Done { result: Value::String(result) } => Some(Resolution::Done { result }),
        Reconciled::Done { result } => Some(Resolution::Done { result: result.to_string() }),
        Reconciled::NotDone => Some(Resolution::Retry),
        Reconciled::Unknown => None,
    }
}

/// Asks the tool that knows what became of a call. What nobody may be asked about, or nobody knows, stays in doubt.
pub(super) async fn ask(by: Arc<str>, question: &Subject, desk: &Desk, scope: &Scope) -> Result<(), Over> {
    super::permit::may_begin(desk, scope).await?;
    let policies = scope.fleet.policies.now();
    let seen = seen(question, scope).await;
    let decision = decide(&policies, seen.as_ref().unwrap_or(question), &desk.labels, desk, scope);
    desk.note_decision(&policies, &decision, seen.as_ref())?;
    let resolution = match (decision.permission, question) {
        (Permission::Allow, Subject::Tool { tool, arguments }) => {
            resolution(&perform::tool(desk, tool, arguments, false, scope).await)
        }
        _ => None,
    };
    desk.tell(RunMessage::Reconciled { call: desk.id.clone(), by, resolution })
}
