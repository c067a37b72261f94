//! From a tool's table in a network file to the built-in tool that it names.

use std::path::Path;
use std::sync::Arc;

use super::fs::{List, Read, Root, Search, Write};
use super::memory::{self, Memory};
use super::{ErasedTool, Error, Shown, clock, knowledge, person, process};
use crate::memory::Shelf;
use crate::spec::{Builtin, ToolSpec};

/// Makes the built-in tool that `spec` names, at work beneath `root`, a directory that exists, and on what is on
/// `shelf`. `spec.effect`, `spec.timeout` and `spec.output_limit_bytes` are the caller's to apply.
///
/// # Errors
/// [`Error::Failed`] where `spec` names no built-in tool, `root` is no directory that can be opened, or a program of
/// `spec.allow` isn't there; it says which.
pub fn builtin(spec: &ToolSpec, root: &Path, shelf: &Arc<Shelf>) -> Result<Arc<dyn ErasedTool>, Error> {
    let Some(builtin) = spec.builtin else {
        return Err(Error::Failed("the tool's table names no built-in tool".to_owned()));
    };
    let memory = || Memory::new(shelf.clone(), spec.scope.unwrap_or_default());
    Ok(match builtin {
        Builtin::FsList => Arc::new(List::new(Root::open(root)?)),
        Builtin::FsRead => Arc::new(Read::new(Root::open(root)?)),
        Builtin::FsSearch => Arc::new(Search::new(Root::open(root)?)),
        Builtin::FsWrite => Arc::new(Write::new(Root::open(root)?)),
        Builtin::ProcessRun => Arc::new(process::Run::new(&spec.allow, Root::open(root)?.path())?),
        Builtin::ClockNow => Arc::new(clock::Now),
        Builtin::ClockSleep => Arc::new(clock::Sleep),
        Builtin::PersonAsk => Arc::new(person::Ask),
        Builtin::MemoryPut => Arc::new(memory::Put(memory())),
        Builtin::MemorySearch => Arc::new(memory::Search(memory())),
        Builtin::MemoryForget => Arc::new(memory::Forget(memory())),
        Builtin::KnowledgeSearch => {
            let name = spec.knowledge.as_deref().unwrap_or_default();
            Arc::new(knowledge::Search::new(shelf.clone(), name, root.to_owned()))
        }
    })
}

/// Returns what a model is shown of the built-in tool that `spec` names, without opening it: it need not be there. None
/// where `spec` names no built-in tool.
pub fn shown(spec: &ToolSpec) -> Option<Shown> {
    Some(match spec.builtin? {
        Builtin::FsList => Shown::of_builtin::<List>(List::DESCRIPTION),
        Builtin::FsRead => Shown::of_builtin::<Read>(Read::DESCRIPTION),
        Builtin::FsSearch => Shown::of_builtin::<Search>(Search::DESCRIPTION),
        Builtin::FsWrite => Shown::of_builtin::<Write>(Write::DESCRIPTION),
        Builtin::ProcessRun => Shown::of_builtin::<process::Run>(process::Run::description_of(&spec.allow.join(", "))),
        Builtin::ClockNow => Shown::of_builtin::<clock::Now>(clock::Now::DESCRIPTION),
        Builtin::ClockSleep => Shown::of_builtin::<clock::Sleep>(clock::Sleep::DESCRIPTION),
        Builtin::PersonAsk => Shown::of_builtin::<person::Ask>(person::Ask::DESCRIPTION),
        Builtin::MemoryPut => Shown::of_builtin::<memory::Put>(memory::Put::DESCRIPTION),
        Builtin::MemorySearch => Shown::of_builtin::<memory::Search>(memory::Search::DESCRIPTION),
        Builtin::MemoryForget => Shown::of_builtin::<memory::Forget>(memory::Forget::DESCRIPTION),
        Builtin::KnowledgeSearch => Shown::of_builtin::<knowledge::Search>(knowledge::Search::DESCRIPTION),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::spec::Effect;

    const ALL: [Builtin; 12] = [
        Builtin::FsList,
        Builtin::FsRead,
        Builtin::FsSearch,
        Builtin::FsWrite,
        Builtin::ProcessRun,
        Builtin::ClockNow,
        Builtin::ClockSleep,
        Builtin::PersonAsk,
        Builtin::MemoryPut,
        Builtin::MemorySearch,
        Builtin::MemoryForget,
        Builtin::KnowledgeSearch,
    ];

    fn opened(spec: &ToolSpec, root: &Path) -> Result<Arc<dyn ErasedTool>, Error> {
        builtin(spec, root, &Arc::new(Shelf::in_process()))
    }

    fn spec(builtin: Builtin) -> ToolSpec {
        ToolSpec { builtin: Some(builtin), allow: vec!["sh".to_owned()], ..ToolSpec::default() }
    }

    #[test]
    fn what_only_looks_is_pure_and_what_runs_is_done_once() {
        let root = tempfile::tempdir().unwrap();
        for builtin_tool in ALL {
            let effect = opened(&spec(builtin_tool), root.path()).unwrap().effect();
            let expected = match builtin_tool {
                Builtin::FsWrite | Builtin::MemoryPut | Builtin::MemoryForget => Effect::Idempotent,
                Builtin::ProcessRun => Effect::Once,
                _ => Effect::Pure,
            };
            assert_eq!(effect, expected, "{builtin_tool:?}");
        }
    }

    #[test]
    fn schemas_are_flat_and_every_field_is_described() {
        let root = tempfile::tempdir().unwrap();
        for builtin_tool in ALL {
            let tool = opened(&spec(builtin_tool), root.path()).unwrap();
            let schema = tool.parameters();
            assert!(schema.get("$defs").is_none(), "{schema}");
            assert_eq!(schema["type"], "object");
            for (name, field) in schema["properties"].as_object().unwrap() {
                assert!(field["description"].is_string(), "{builtin_tool:?}.{name}: {field}");
                assert!(field["type"].is_string(), "{builtin_tool:?}.{name} has one type: {field}");
            }
            assert!(!tool.description().is_empty());
        }
    }

    #[test]
    fn a_tool_that_is_not_opened_is_shown_as_one_that_is() {
        let root = tempfile::tempdir().unwrap();
        for builtin_tool in ALL {
            let spec = ToolSpec { allow: vec!["sh".to_owned(), "env".to_owned()], ..spec(builtin_tool) };
            let opened = opened(&spec, root.path()).unwrap();
            assert_eq!(shown(&spec), Some(Shown::of(&*opened)), "{builtin_tool:?}");
        }
        assert_eq!(shown(&ToolSpec::default()), None);
    }

    #[test]
    fn only_what_is_needed_is_required() {
        let root = tempfile::tempdir().unwrap();
        let required = |tool| opened(&spec(tool), root.path()).unwrap().parameters().get("required").cloned();
        assert_eq!(required(Builtin::FsList), None);
        assert_eq!(required(Builtin::FsRead), Some(json!(["path"])));
        assert_eq!(required(Builtin::FsSearch), Some(json!(["pattern"])));
        assert_eq!(required(Builtin::FsWrite), Some(json!(["path", "text"])));
        assert_eq!(required(Builtin::ProcessRun), Some(json!(["argv"])));
        assert_eq!(required(Builtin::ClockSleep), Some(json!(["duration"])));
        assert_eq!(required(Builtin::PersonAsk), Some(json!(["question"])));
        assert_eq!(required(Builtin::MemoryPut), Some(json!(["text"])));
        assert_eq!(required(Builtin::MemorySearch), Some(json!(["query"])));
        assert_eq!(required(Builtin::MemoryForget), Some(json!(["id"])));
        assert_eq!(required(Builtin::KnowledgeSearch), Some(json!(["query"])));
    }

    #[test]
    fn a_root_that_is_no_directory_is_named() {
        let root = tempfile::tempdir().unwrap();
        let (missing, file) = (root.path().join("missing"), root.path().join("file"));
        std::fs::write(&file, "x").unwrap();
        for builtin_tool in ALL.into_iter().filter(|tool| tool.has_root()) {
            for (path, reason) in [(&missing, "No such file"), (&file, "is not a directory")] {
                let error = opened(&spec(builtin_tool), path).err().unwrap().to_string();
                assert!(error.contains(path.to_str().unwrap()) && error.contains(reason), "{error}");
            }
        }
        assert!(opened(&ToolSpec::default(), root.path()).is_err());
    }
}
