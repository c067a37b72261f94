//! The table `[policy]`: what is allowed, and who is asked where nobody has said.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MAX_FILE_BYTES, SecretRef, Span, visible};

/// What is allowed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PolicySpec {
    /// The answer for tools that no policy permits anything of, where they write, run or send, or a program supplies them.
    pub default: Permission,
    /// A file with policies in Cedar's language; its path is taken relative to the network file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub file: Option<String>,
    /// Who is asked, and how.
    #[serde(skip_serializing_if = "ApprovalsSpec::is_default")]
    pub approvals: ApprovalsSpec,
}

/// What a policy says of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// It may happen.
    Allow,
    /// A person is asked.
    #[default]
    Ask,
    /// It may not happen.
    Deny,
}

impl Permission {
    /// Returns the word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }
}

/// Who is asked where a call needs approval. What a policy says of its own calls goes before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApprovalsSpec {
    /// Who may answer, by the names under which they do; anybody where nobody is named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("items" = { "type": "string", "minLength": 1, "maxLength": MAX_PERSON }))]
    pub approvers: Vec<String>,
    /// How many of them have to say yes; one where it is left out. A single no is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub quorum: Option<u32>,
    /// After how long nobody's answer is a no; never where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Span>,
    /// How approvers are told that they are asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<NotifySpec>,
}

impl ApprovalsSpec {
    /// Left out where it says nothing, so that a network that was kept before there was such a key is still the same.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How many bytes the name of a person may have: more than any has, and a line's worth.
pub const MAX_PERSON: usize = 64;

/// Whether a text can be the name of a person: nothing in it drives a terminal, or hides.
pub fn is_person(name: &str) -> bool {
    (1..=MAX_PERSON).contains(&name.len()) && name.trim() == name && visible(name) == name
}

/// How approvers are told: by a program, by a request, or by both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NotifySpec {
    /// A program and its arguments; it reads what is asked as JSON from stdin.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// An address that gets what is asked as JSON, by POST; or `env:NAME` or `file:PATH`, where the address is a secret itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^(https?://.+|env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$"))]
    pub url: Option<String>,
    /// What the request is authorised by, as a bearer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<SecretRef>,
}

/// A policy file, as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFile {
    /// What diagnostics call it: its path, as it was given.
    pub name: String,
    /// Where it is, to be read again; empty where it was given as text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Its text.
    pub text: String,
}

/// Why a policy file can't be read.
pub(crate) struct Unread {
    /// Why, as the rest of a sentence that begins with the file.
    pub(crate) why: String,
    /// What to do about it.
    pub(crate) help: String,
    /// Whether there is no such file.
    pub(crate) is_gone: bool,
}

impl PolicyFile {
    /// Reads a policy file.
    ///
    /// # Errors
    /// It is not there or can't be read, is no file, is too large, or is no text.
    pub(crate) fn read(name: &str, path: &Path) -> Result<Self, Unread> {
        let unread = |why: String, help: &str| Unread { why, help: help.to_owned(), is_gone: false };
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => Unread {
                why: format!("is not there (looked for {})", path.display()),
                help: "the path is taken relative to the network file".to_owned(),
                // A link that leads nowhere is somebody's mistake.
                is_gone: path.symlink_metadata().is_err(),
            },
            _ => unread(
                format!("can't be read: {error}"),
                "check its permissions, and those of the directories above it",
            ),
        };
        let kind = std::fs::metadata(path).map_err(failed)?;
        if !kind.is_file() {
            let what = if kind.is_dir() { "is a directory" } else { "is no regular file" };
            return Err(unread(what.to_owned(), "name a file with policies in Cedar's language"));
        }
        let mut bytes = Vec::new();
        File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(unread(format!("is larger than {} KiB", MAX_FILE_BYTES / 1024), "take some policies out"));
        }
        let text = String::from_utf8(bytes).map_err(|_| unread("is no UTF-8 text".to_owned(), "save it as UTF-8"))?;
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self::of_text(name.to_owned(), path.display().to_string(), text))
    }

    /// Takes the text of policies. Some editors begin it with a byte order mark.
    pub(super) fn of_text(name: String, path: String, mut text: String) -> Self {
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        Self { name, path, text }
    }
}
