//! What is allowed. Asked at the gate for every call, at the moment of its execution.
//!
//! Policies are written in Cedar's language. A call is denied where something forbids it, where a policy can't be evaluated,
//! and where permits are about such calls and none of them holds; a person is asked where one of the permits that hold says
//! so; else it is allowed. What no permit is about follows the network's default: declared models, messages, delegations and
//! handoffs are allowed, and so are the built-in tools that only look, and those that change nothing but what the runtime
//! itself keeps; what writes, runs or sends, and what a program supplies, is for `[policy] default` to say. A tool's effect
//! class plays no part: it governs retries, never permission.

mod check;
mod circumstances;
mod kinds;
mod rules;
mod schema;
mod terms;

use std::sync::Arc;

pub use check::Checked;
pub use circumstances::Asked;
pub use schema::{Parameters, Vocabulary};
pub use terms::Terms;

use self::rules::{Rules, Said};
use crate::run::Subject;
use crate::spec::{Builtin, Invalid, Network, Permission};

/// What is allowed in a network, as one of its files says, or its defaults.
pub struct Policies {
    default: Permission,
    /// On which terms a person is asked where no policy says others.
    terms: Terms,
    rules: Option<Rules>,
    hash: Arc<str>,
}

/// What was decided on a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may happen.
    pub permission: Permission,
    /// The policies that decided, by their ids, in the order of their file; none where the network's default did, or where
    /// no permit held.
    pub by: Vec<Arc<str>>,
    /// Why, in words; none where it is allowed.
    pub why: Option<Arc<str>>,
    /// On which terms a person is asked.
    pub terms: Terms,
}

impl Policies {
    /// Makes the policies of a network, whose tools take `parameters`.
    ///
    /// # Errors
    /// Everything that is wrong with its policy file.
    pub fn new(network: &Network, parameters: &Parameters) -> Result<Self, Invalid> {
        check::check(network, parameters).map(|checked| checked.policies)
    }

    /// Makes the policies of a network, and says what is doubtful about them.
    ///
    /// # Errors
    /// Everything that is wrong with its policy file.
    pub fn check(network: &Network, parameters: &Parameters) -> Result<Checked, Invalid> {
        check::check(network, parameters)
    }

    fn of(network: &Network, rules: Option<Rules>) -> Self {
        let spec = &network.spec().policy;
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"provost policies 1\n");
        hasher.update(spec.default.word().as_bytes());
        hasher.update(b"\n");
        hasher.update(&serde_json::to_vec(&spec.approvals).unwrap_or_default());
        hasher.update(b"\n");
        hasher.update(network.policy().map_or(b"", |file| file.text.as_bytes()));
        let hash = hasher.finalize().to_hex().as_str().into();
        Self { default: spec.default, terms: Terms::of(&spec.approvals), rules, hash }
    }

    /// Returns the hash of all that decides: the policies and the network's defaults.
    pub fn hash(&self) -> &Arc<str> {
        &self.hash
    }

    /// Whether there is a policy file, so that decisions are worth a word in the record.
    pub fn has_rules(&self) -> bool {
        self.rules.is_some()
    }

    /// Returns the ids of all policies, in the order of their file.
    pub fn ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().flat_map(Rules::ids)
    }

    /// Returns the ids of the policies whose heads are about a call, in the order of their file.
    pub fn about(&self, agent: &str, subject: &Subject) -> Vec<Arc<str>> {
        let Some(rules) = &self.rules else { return Vec::new() };
        rules.about(agent, subject).into_iter().filter_map(|place| Some(rules.rule(place)?.id.clone())).collect()
    }

    /// Whether what is said of such calls may be otherwise later though nothing is done with them: by the time, by what others
    /// spend, or by what is approved of.
    pub fn look_at_what_passes(&self, agent: &str, subject: &Subject) -> bool {
        self.rules.as_ref().is_some_and(|rules| rules.look_at_what_passes(agent, subject))
    }

    /// Decides on a call of a built-in tool, or of something else.
    pub fn decide(&self, asked: &Asked<'_>, builtin: Option<Builtin>) -> Decision {
        let Some(rules) = &self.rules else { return self.by_default(asked.subject, builtin) };
        let said = rules.ask(asked);
        let ids = |places: &[usize]| places.iter().filter_map(|place| Some(rules.rule(*place)?.id.clone())).collect();
        if let Some(fault) = said.fault {
            return denied(Vec::new(), format!("policy can't be asked about this call: {fault}"));
        }
        if !said.forbids.is_empty() {
            return denied(ids(&said.forbids), reason(rules, &said.forbids, "policy forbids this call"));
        }
        match said {
            Said { permits, .. } if !permits.is_empty() => self.permitted(rules, &permits, ids(&permits)),
            Said { is_named: true, .. } => denied(Vec::new(), "no policy permits this call".to_owned()),
            Said { .. } => self.by_default(asked.subject, builtin),
        }
    }

    fn permitted(&self, rules: &Rules, permits: &[usize], by: Vec<Arc<str>>) -> Decision {
        let asking: Vec<usize> =
            permits.iter().copied().filter(|place| rules.rule(*place).is_some_and(|rule| rule.ask.is_some())).collect();
        if asking.is_empty() {
            return Decision { permission: Permission::Allow, by, why: None, terms: Terms::default() };
        }
        let by = asking.iter().filter_map(|place| Some(rules.rule(*place)?.id.clone())).collect();
        let each = asking.iter().filter_map(|place| rules.rule(*place)?.ask.clone());
        let terms = each.map(|terms| terms.or(&self.terms)).try_fold(Terms::default(), Terms::and);
        let why = reason(rules, &asking, "policy asks a person first");
        match terms {
            Some(terms) => Decision { permission: Permission::Ask, by, why: Some(why.into()), terms },
            None => denied(by, "the policies that ask a person first leave nobody who could say yes".to_owned()),
        }
    }

    /// Decides where no permit is about a call.
    fn by_default(&self, subject: &Subject, builtin: Option<Builtin>) -> Decision {
        let permission = match subject {
            Subject::Model { .. } | Subject::Delegate { .. } | Subject::Handoff { .. } | Subject::Publish { .. } => {
                Permission::Allow
            }
            Subject::Tool { .. } if builtin.is_some_and(Builtin::stays_inside) => Permission::Allow,
            Subject::Tool { .. } => self.default,
        };
        let why = match permission {
            Permission::Allow => None,
            Permission::Ask => Some("no policy permits it, and the network's default asks"),
            Permission::Deny => Some("policy does not allow this call"),
        };
        Decision { permission, by: Vec::new(), why: why.map(Into::into), terms: self.terms.clone() }
    }
}

fn denied(by: Vec<Arc<str>>, why: String) -> Decision {
    Decision { permission: Permission::Deny, by, why: Some(why.into()), terms: Terms::default() }
}

/// Says which policies decided, and why by their authors' words.
fn reason(rules: &Rules, places: &[usize], what: &str) -> String {
    let one = |place: &usize| {
        let rule = rules.rule(*place)?;
        Some(match &rule.why {
            Some(why) => format!("`{}`: {why}", rule.id),
            None => format!("`{}`", rule.id),
        })
    };
    let said: Vec<String> = places.iter().filter_map(one).collect();
    format!("{what} ({})", said.join("; "))
}

#[cfg(test)]
mod tests;
