//! The policy file, and who is asked.

use super::Check;
use super::models::{UrlFault, parse_url};
use crate::spec::findings::Place;
use crate::spec::shape::short;
use crate::spec::{Builtin, MAX_PERSON, Permission, PolicyFile, SecretRef, ToolSpec, Unread, is_person};

impl Check<'_> {
    /// Reads the policy file. What stands in it is checked where the tools are known.
    pub(super) fn policy(&mut self) -> Option<PolicyFile> {
        self.approvals();
        let path = ["policy", "file"];
        let file = self.spec.policy.file.as_deref().filter(|_| !self.found.is_broken(&path))?;
        let super::Front::File { base, .. } = self.front else {
            let help = "leave `file` out, and call `Network::with_policy`";
            self.error(&path, Place::Value, "bad_policy", "a network built in Rust takes policies as text", help);
            return None;
        };
        let name = base.join(file);
        match PolicyFile::read(&name.display().to_string(), &name) {
            Ok(read) => Some(read),
            Err(Unread { why, help, .. }) => {
                let message = format!("the policy file `{}` {why}", short(file));
                self.error(&path, Place::Value, "bad_policy", message, help);
                None
            }
        }
    }

    fn approvals(&mut self) {
        let approvals = &self.spec.policy.approvals;
        let path = ["policy", "approvals", "approvers"];
        if let Some(odd) = approvals.approvers.iter().find(|name| !is_person(name)) {
            let message = format!("`{}` is no name of a person", short(odd));
            let help = format!(
                "take letters, digits and signs, {MAX_PERSON} bytes at most, with no space around them and nothing hidden"
            );
            return self.error(&path, Place::Value, "bad_name", message, help);
        }
        let mut known: Vec<&String> = approvals.approvers.iter().collect();
        known.sort();
        known.dedup();
        let quorum = approvals.quorum.unwrap_or(1) as usize;
        if known.len() < approvals.approvers.len() {
            let help = "name everybody once: nobody answers twice";
            self.error(&path, Place::Value, "bad_name", "somebody is named twice among the approvers", help);
        } else if !known.is_empty() && quorum > known.len() {
            let message = format!("{quorum} have to say yes, and {} may", known.len());
            let path = ["policy", "approvals", "quorum"];
            self.error(&path, Place::Value, "no_quorum", message, "name more approvers, or lower `quorum`");
        }
        if let Some(expires) = approvals.expires {
            self.not_zero(&["policy", "approvals", "expires"], expires);
        }
        let Some(notify) = &approvals.notify else { return };
        let path = ["policy", "approvals", "notify"];
        if notify.command.is_empty() && notify.url.is_none() {
            let help =
                "write `notify = { command = [\"notify-send\", \"Approval\"] }`, or `notify = { url = \"https://…\" }`";
            self.error(&path, Place::Value, "says_nothing", "nobody is told by this", help);
        }
        if notify.bearer_token.is_some() && notify.url.is_none() {
            let help = "add `url`, or take `bearer_token` out";
            self.error(&path, Place::Value, "says_nothing", "there is no address that the token is for", help);
        }
        let url = notify.url.as_deref().filter(|url| !SecretRef::is_reference(url));
        let (code, message, help) = match url.map(parse_url) {
            Some(Err(UrlFault::Credentials)) => (
                "inline_secret",
                "the address must not hold a user name or password",
                "take them out of it, and give a token with `bearer_token = \"env:NAME\"`",
            ),
            Some(Err(UrlFault::Form)) => (
                "bad_url",
                "this is no http or https address",
                "write one such as \"https://chat.example.com/hook\", or \"env:NAME\" where it is a secret",
            ),
            Some(Ok(_)) | None => return,
        };
        self.error(&["policy", "approvals", "notify", "url"], Place::Value, code, message, help);
    }

    /// Says what a person will meet in a run: a question, or a refusal. Where there is a policy file, it says so.
    pub(super) fn permission(&mut self, name: &str, tool: &ToolSpec) {
        if self.spec.policy.file.is_some() {
            return;
        }
        let does = match tool.builtin {
            Some(Builtin::ProcessRun) => "starts programs",
            Some(Builtin::FsWrite) => "writes files",
            Some(_) => return,
            // A program decides for the tools that it supplies; the file's author can do nothing about it.
            None => return,
        };
        match self.spec.policy.default {
            Permission::Allow => {}
            Permission::Ask => self.warning(
                &["tools", name],
                Place::Key,
                "tool_will_ask",
                format!("the tool `{name}` {does}, and no policy mentions it: each call asks first"),
                "answer on the terminal (elsewhere the run waits), permit it in a policy file (`file` under [policy]), or set \
                 `default = \"allow\"` there",
            ),
            Permission::Deny => self.warning(
                &["tools", name],
                Place::Key,
                "tool_denied",
                format!("the tool `{name}` {does}, and the policy's default denies every call"),
                "take the tool out, permit it in a policy file (`file` under [policy]), or set `default = \"ask\"` there",
            ),
        }
    }
}
