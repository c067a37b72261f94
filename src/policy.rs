//! What is allowed. Asked at the gate for every call, at the moment of its execution.

use crate::run::Subject;
use crate::spec::{Builtin, Permission, PolicySpec};

/// Decides on a call.
///
/// Declared models, delegations and handoffs are allowed, and so are the built-in tools that only look, and those that
/// change nothing but what the runtime itself keeps (a memory). What writes, runs or sends, and what a program supplies, follows the network's default. A tool's effect class plays no part: it
/// governs retries, never permission.
pub fn decide(policy: &PolicySpec, subject: &Subject, builtin: Option<Builtin>) -> Permission {
    match subject {
        Subject::Model { .. } | Subject::Delegate { .. } | Subject::Handoff { .. } | Subject::Publish { .. } => {
            Permission::Allow
        }
        Subject::Tool { .. } if builtin.is_some_and(Builtin::stays_inside) => Permission::Allow,
        Subject::Tool { .. } => policy.default,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn only_what_looks_or_stays_inside_is_allowed_whatever_the_default() {
        let tool = Subject::Tool { tool: "t".into(), arguments: Value::Null };
        for default in [Permission::Allow, Permission::Ask, Permission::Deny] {
            let policy = PolicySpec { default };
            for builtin in [Builtin::FsRead, Builtin::MemoryPut, Builtin::MemoryForget, Builtin::KnowledgeSearch] {
                assert_eq!(decide(&policy, &tool, Some(builtin)), Permission::Allow);
            }
            for builtin in [Some(Builtin::FsWrite), Some(Builtin::ProcessRun), None] {
                assert_eq!(decide(&policy, &tool, builtin), default);
            }
        }
    }
}
