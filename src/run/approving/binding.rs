//! What a grant is bound to.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a grant is bound to, each part as the digest of what it was when a person was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The run, its tenant, the agent and the call.
    pub whose: Arc<str>,
    /// How the tool is set up in the network; what else is called, by its name.
    pub tool: Arc<str>,
    /// What the tool takes.
    pub schema: Arc<str>,
    /// What it is given.
    pub arguments: Arc<str>,
    /// What the agent had been influenced by.
    pub labels: Arc<str>,
    /// The policies that asked.
    pub policies: Arc<str>,
    /// The files that the call names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<BoundFile>,
}

/// A file that a call names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundFile {
    /// Where it is.
    pub path: Arc<str>,
    /// The digest of what is in it; none where there is no such file.
    pub digest: Option<Arc<str>>,
    /// Whether the call is to change it, and not to use it.
    pub is_target: bool,
}

impl Binding {
    /// Returns one digest of all of it.
    pub fn digest(&self) -> Arc<str> {
        let Self { whose, tool, schema, arguments, labels, policies, files } = self;
        let mut hasher = blake3::Hasher::new();
        let mut add = |part: &str| {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        };
        [whose, tool, schema, arguments, labels, policies].into_iter().for_each(|part| add(part));
        for BoundFile { path, digest, is_target } in files {
            add(path);
            add(digest.as_deref().unwrap_or("-"));
            add(if *is_target { "target" } else { "used" });
        }
        hasher.finalize().to_hex().as_str().into()
    }

    /// Says what has changed since `asked`; none if nothing has.
    pub fn changed_since(&self, asked: &Self) -> Option<String> {
        let parts = [
            (self.whose == asked.whose, "whose call it is"),
            (self.tool == asked.tool, "how the tool is set up"),
            (self.schema == asked.schema, "what the tool takes"),
            (self.arguments == asked.arguments, "its arguments"),
            (self.labels == asked.labels, "what the agent was influenced by"),
            (self.policies == asked.policies, "the policies"),
        ];
        let mut changed: Vec<String> =
            parts.into_iter().filter(|(same, _)| !same).map(|(_, what)| what.to_owned()).collect();
        let of = |files: &[BoundFile], path: &str| files.iter().find(|file| *file.path == *path).cloned();
        let paths = self.files.iter().chain(&asked.files).map(|file| &file.path);
        let mut paths: Vec<&Arc<str>> = paths.collect();
        paths.sort();
        paths.dedup();
        let differs = |path: &&Arc<str>| of(&self.files, path) != of(&asked.files, path);
        changed.extend(paths.into_iter().filter(differs).map(|path| format!("`{path}`")));
        (!changed.is_empty()).then(|| changed.join(", "))
    }

    /// Says what has changed since `asked` beside the arguments, which a person has changed to these: files that the new
    /// arguments name are to be changed, or were seen. None if nothing has.
    pub fn changed_beside_edit(&self, asked: &Self, edited: &str) -> Option<String> {
        if *asked.arguments == *edited {
            // That is what somebody was asked about.
            return self.changed_since(asked);
        }
        let was_seen = |file: &BoundFile| file.is_target || asked.files.contains(file);
        let mut like_asked = asked.clone();
        like_asked.arguments = edited.into();
        like_asked.files = if self.files.iter().all(was_seen) { self.files.clone() } else { asked.files.clone() };
        self.changed_since(&like_asked)
    }
}
