//! Whether a policy file fits its network: read, compared with what there is, and all that is wrong with it said at once.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use cedar_policy::{Effect, EntityUid, Policy, PolicyId, PolicySet, ValidationMode, Validator};

use super::Policies;
use super::rules::{Rule, Rules};
use super::schema::{Parameters, Vocabulary};
use super::terms::Terms;
use crate::run::Subject;
use crate::spec::{
    Builtin, Diagnostic, Invalid, MAX_PERSON, Network, Permission, PolicyFile, Report, Severity, Span, is_person,
    nearest, visible,
};

/// Policies that can be used, and what is doubtful about them.
pub struct Checked {
    /// The policies.
    pub policies: Policies,
    /// Warnings; there are no errors among them.
    pub warnings: Report,
}

/// What may stand before a policy as `@key("…")`.
const ANNOTATIONS: [&str; 6] = ["id", "ask", "approvers", "quorum", "expires", "reason"];

/// How many policies a file may have: more than anybody reads, and few enough to be read at once.
const MAX_POLICIES: usize = 10_000;

pub(super) fn check(network: &Network, parameters: &Parameters) -> Result<Checked, Invalid> {
    let Some(file) = network.policy() else {
        let warnings = Report::new(network.spec().network.name.clone(), "".into(), Vec::new(), Vec::new());
        return Ok(Checked { policies: Policies::of(network, None), warnings });
    };
    let terms = Terms::of(&network.spec().policy.approvals);
    let mut check = Check { file, terms, found: Vec::new() };
    let rules = Vocabulary::new(network, parameters)
        .map_err(|why| {
            check.at(None, "bad_policy", format!("the network can't be put before policies: {why}"), String::new())
        })
        .ok()
        .and_then(|vocabulary| check.rules(network, vocabulary));
    let report = Report::new(file.name.clone(), file.text.as_str().into(), Vec::new(), check.found);
    let is_wrong = report.diagnostics().iter().any(|found| found.severity == Severity::Error);
    match rules {
        Some(rules) if !is_wrong => Ok(Checked { policies: Policies::of(network, Some(rules)), warnings: report }),
        _ => Err(Invalid(report)),
    }
}

struct Check<'a> {
    file: &'a PolicyFile,
    /// The network's, which hold where a policy says nothing.
    terms: Terms,
    found: Vec<Diagnostic>,
}

/// A policy, and where it stands in the file.
struct Written {
    policy: Policy,
    span: Range<usize>,
}

impl Check<'_> {
    fn at(&mut self, span: Option<Range<usize>>, code: &'static str, message: String, help: String) {
        self.say(Severity::Error, span, code, message, help);
    }

    fn say(
        &mut self,
        severity: Severity,
        span: Option<Range<usize>>,
        code: &'static str,
        message: String,
        help: String,
    ) {
        let (path, label) = (String::new(), String::new());
        self.found.push(Diagnostic { severity, code, message, path, span, label, help });
    }

    fn rules(&mut self, network: &Network, vocabulary: Vocabulary) -> Option<Rules> {
        let written = self.read()?;
        let mut rules: Vec<Rule> = Vec::with_capacity(written.len());
        let mut ids: HashMap<String, usize> = HashMap::new();
        for (place, one) in written.iter().enumerate() {
            self.annotations(one);
            let id = one.policy.annotation("id").map_or_else(|| format!("policy{place}"), str::to_owned);
            if id.is_empty() || visible(&id) != id {
                let span = self.annotation_span(one, "id");
                let help = "give it letters, with no control or hidden characters".to_owned();
                self.at(Some(span), "bad_policy", "the policy's id is no name".to_owned(), help);
            }
            if let Some(other) = ids.insert(id.clone(), place) {
                let (span, line) = (self.annotation_span(one, "id"), self.line(&written[other].span));
                let message = format!("there are two policies `{id}`; the other one begins in line {line}");
                self.at(Some(span), "bad_policy", message, "give one of them another `@id`".to_owned());
            }
            let ask = self.ask(one);
            self.names(one, &vocabulary);
            let why = one.policy.annotation("ask").or_else(|| one.policy.annotation("reason"));
            let why = why.filter(|why| !why.is_empty()).map(Arc::from);
            rules.push(Rule { id: id.into(), policy: one.policy.clone(), ask, why });
        }
        self.validate(&written, &rules, &vocabulary);
        self.contradictions(&written, &rules);
        self.quarrels(&written, &rules);
        let rules = Rules::new(rules, vocabulary);
        // A policy that is wrong may be meant for a tool that none mentions.
        if self.found.iter().all(|found| found.severity == Severity::Warning) {
            self.unmentioned(network, &rules);
        }
        Some(rules)
    }

    /// Reads the file as a set of policies, in their order.
    fn read(&mut self) -> Option<Vec<Written>> {
        let set: PolicySet = match self.file.text.parse() {
            Ok(set) => set,
            Err(errors) => {
                let errors: &cedar_policy::ParseErrors = &errors;
                for error in errors.iter() {
                    let (span, help) = (span_of(error), help_of(error));
                    let message = format!("this is no policy: {}", labelled(error));
                    self.at(span, "bad_policy", message, help);
                }
                return None;
            }
        };
        if let Some(template) = set.templates().next() {
            let text = template.to_string();
            let span = self.file.text.find(text.trim()).map(|at| at..at + text.trim().len());
            let help = "write the principal or the resource in the place of the slot".to_owned();
            self.at(span, "bad_policy", "a policy with slots is a template, and nobody fills it".to_owned(), help);
            return None;
        }
        if set.num_of_policies() > MAX_POLICIES {
            let message = format!("there are more than {MAX_POLICIES} policies");
            self.at(None, "bad_policy", message, "say more with each".to_owned());
            return None;
        }
        // The library numbers them in the order of the text.
        let number = |policy: &Policy| policy.id().to_string().trim_start_matches("policy").parse::<usize>().ok();
        let mut policies: Vec<(usize, Policy)> =
            set.policies().filter_map(|policy| Some((number(policy)?, policy.clone()))).collect();
        policies.sort_by_key(|(number, _)| *number);
        let mut from = 0;
        let placed = |(_, policy): (usize, Policy)| {
            let text = policy.to_string();
            let start = self.file.text[from..].find(text.trim()).map_or(from, |at| from + at);
            let end = (start + text.trim().len()).min(self.file.text.len());
            from = end;
            Written { policy, span: start..end }
        };
        Some(policies.into_iter().map(placed).collect())
    }

    fn annotations(&mut self, one: &Written) {
        let unknown: Vec<String> = one
            .policy
            .annotations()
            .map(|(key, _)| key.to_owned())
            .filter(|key| !ANNOTATIONS.contains(&key.as_str()))
            .collect();
        for key in unknown {
            let help = match nearest(&key, ANNOTATIONS) {
                Some(meant) => format!("did you mean `@{meant}`?"),
                None => format!("there are {}", ANNOTATIONS.map(|known| format!("`@{known}`")).join(", ")),
            };
            let span = self.annotation_span(one, &key);
            self.at(Some(span), "unknown_annotation", format!("there is no annotation `@{key}`"), help);
        }
    }

    /// Reads on which terms a policy asks.
    fn ask(&mut self, one: &Written) -> Option<Terms> {
        let asks = one.policy.annotation("ask").is_some();
        let given = ["approvers", "quorum", "expires"].into_iter().find(|key| one.policy.annotation(key).is_some());
        if let Some(key) = given.filter(|_| !asks) {
            let span = self.annotation_span(one, key);
            let message = format!("`@{key}` says nothing of a policy that asks nobody");
            self.at(Some(span), "bad_policy", message, "add `@ask(\"why\")`, or take it out".to_owned());
            return None;
        }
        if asks && one.policy.effect() == Effect::Forbid {
            let span = self.annotation_span(one, "ask");
            let message = "a policy that forbids asks nobody".to_owned();
            self.at(Some(span), "bad_policy", message, "write `permit`, or take `@ask` out".to_owned());
            return None;
        }
        if !asks {
            return None;
        }
        let (mut terms, found) = (Terms::default(), self.found.len());
        if let Some(names) = one.policy.annotation("approvers") {
            let all: Vec<&str> = names.split(',').map(str::trim).collect();
            terms.approvers = all.iter().copied().filter(|name| is_person(name)).map(Arc::from).collect();
            terms.approvers.sort();
            terms.approvers.dedup();
            if terms.approvers.len() < all.len() {
                let span = self.annotation_span(one, "approvers");
                let help = format!(
                    "write names of {MAX_PERSON} bytes at most, with no control or hidden characters, each once: \
                     `@approvers(\"ana, ben\")`"
                );
                self.at(Some(span), "bad_policy", "these are no names of people".to_owned(), help);
            }
        }
        if let Some(number) = one.policy.annotation("quorum") {
            match number.trim().parse() {
                Ok(number @ 1..=100) => terms.quorum = Some(number),
                _ => {
                    let span = self.annotation_span(one, "quorum");
                    let help = "write how many have to say yes: `@quorum(\"2\")`".to_owned();
                    self.at(Some(span), "bad_policy", "this is no quorum".to_owned(), help);
                }
            }
        }
        if let Some(time) = one.policy.annotation("expires") {
            match time.trim().parse::<Span>() {
                Ok(span) if !span.0.is_zero() => terms.expires = Some(span.0),
                _ => {
                    let span = self.annotation_span(one, "expires");
                    let help = "write a span of time: `@expires(\"4h\")`".to_owned();
                    self.at(
                        Some(span),
                        "bad_policy",
                        "this is no time in which somebody could answer".to_owned(),
                        help,
                    );
                }
            }
        }
        if self.found.len() == found {
            self.quorum(one, &terms);
        }
        Some(terms)
    }

    /// Says where more have to say yes than may, as the terms will hold: with the network's where the policy says nothing.
    fn quorum(&mut self, one: &Written, own: &Terms) {
        let held = own.clone().or(&self.terms);
        if held.can_be_met() {
            return;
        }
        let by_network = |is_own: bool| if is_own { "" } else { " (by `[policy.approvals]`)" };
        let message = format!(
            "{} have to say yes{}, and {} may{}",
            held.quorum.unwrap_or(1),
            by_network(own.quorum.is_some()),
            held.approvers.len(),
            by_network(!own.approvers.is_empty()),
        );
        let (key, help) = match own.quorum {
            Some(_) => ("quorum", "name more approvers, or lower the quorum"),
            None => ("approvers", "name more approvers, or give the policy a `@quorum` of its own"),
        };
        let span = self.annotation_span(one, key);
        self.at(Some(span), "no_quorum", message, help.to_owned());
    }

    /// Finds what a policy names and the network does not have.
    fn names(&mut self, one: &Written, vocabulary: &Vocabulary) {
        let mut literals: Vec<EntityUid> = one.policy.entity_literals();
        literals.sort();
        literals.dedup();
        for literal in literals {
            let Some((what, names)) = vocabulary.names_of(&literal) else { continue };
            let id = literal.id().unescaped();
            if names.contains(&id) {
                continue;
            }
            let help = match nearest(id, names.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None if names.is_empty() => format!("the network has no {what}s"),
                None => {
                    let mut names = names.clone();
                    names.sort_unstable();
                    format!("the {what}s are {}", crate::spec::listed(names))
                }
            };
            let text = literal.to_string();
            let within = &self.file.text[one.span.clone()];
            let span = within.find(&text).map_or(one.span.clone(), |at| {
                let start = one.span.start + at;
                start..start + text.len()
            });
            self.at(Some(span), "unknown_name", format!("there is no {what} `{id}`"), help);
        }
    }

    /// Compares the policies with the types of what they speak of.
    fn validate(&mut self, written: &[Written], rules: &[Rule], vocabulary: &Vocabulary) {
        let Ok(set) = PolicySet::from_policies(written.iter().map(|one| one.policy.clone())) else { return };
        let result = Validator::new(vocabulary.schema.clone()).validate(&set, ValidationMode::Strict);
        let places: HashMap<&PolicyId, usize> =
            written.iter().enumerate().map(|(place, one)| (one.policy.id(), place)).collect();
        let place_of = |id: &PolicyId, own: Option<Range<usize>>| {
            let place = places.get(id).copied();
            let of_policy = place.and_then(|place| Some(written.get(place)?.span.clone()));
            (own.or(of_policy), place.and_then(|place| Some(rules.get(place)?.id.clone())))
        };
        let mut misfits: BTreeMap<(usize, Option<usize>, [String; 2]), Vec<Misfit>> = BTreeMap::new();
        for error in result.validation_errors() {
            let (span, id) = place_of(error.policy_id(), span_of(error));
            let place = places.get(error.policy_id()).copied().unwrap_or_default();
            let (around, of) = parted(&plain(error));
            let start = span.as_ref().map(|span| span.start);
            misfits.entry((place, start, around)).or_default().push(Misfit { id, of, span, help: help_of(error) });
        }
        for ((_, _, [before, after]), mut of_all) in misfits {
            // The library finds them in any order.
            of_all.sort_by(|one, other| (&one.of, &one.help).cmp(&(&other.of, &other.help)));
            // What an action does not know is said of the name that is meant.
            let id = of_all.first().and_then(|misfit| misfit.id.clone()).unwrap_or_default();
            let of = of_which(&of_all);
            let message = format!("the policy `{id}` does not fit the network: {before}{of}{after}");
            // Of names that are as like, the library takes any.
            let help = unknown_action(&message, vocabulary).unwrap_or_else(|| help_of_all(&before, &of_all));
            let span = of_all.into_iter().find_map(|misfit| misfit.span);
            self.at(span, "policy_misfit", message, help);
        }
        // What does not fit is no matter of doubt.
        let wrong: Vec<&PolicyId> = result.validation_errors().map(|error| error.policy_id()).collect();
        for warning in result.validation_warnings().filter(|warning| !wrong.contains(&warning.policy_id())) {
            let (span, id) = place_of(warning.policy_id(), span_of(warning));
            let message = format!("the policy `{}`: {}", id.unwrap_or_default(), plain(warning));
            self.say(Severity::Warning, span, "doubtful_policy", message, help_of(warning));
        }
    }

    /// Finds permits that can never hold, since all of what they permit is forbidden.
    fn contradictions(&mut self, written: &[Written], rules: &[Rule]) {
        let is_forbid =
            |rule: &&Rule| rule.policy.effect() == Effect::Forbid && !rule.policy.has_non_scope_constraint();
        let forbids: Vec<&Rule> = rules.iter().filter(is_forbid).collect();
        for (one, rule) in written.iter().zip(rules).filter(|(_, rule)| rule.policy.effect() == Effect::Permit) {
            if let Some(forbid) = forbids.iter().find(|forbid| covers(&forbid.policy, &rule.policy)) {
                let message = format!("`{}` never permits anything: `{}` forbids all of it", rule.id, forbid.id);
                let help = "a forbid goes before every permit: narrow it, or take this out".to_owned();
                self.say(Severity::Warning, Some(one.span.clone()), "contradiction", message, help);
            }
        }
    }

    /// Finds permits that ask whom nobody can be who is asked by another one that always holds with them.
    fn quarrels(&mut self, written: &[Written], rules: &[Rule]) {
        let network = self.terms.clone();
        let asks = |rule: &Rule| rule.ask.clone().map(|terms| terms.or(&network));
        for (place, (one, rule)) in written.iter().zip(rules).enumerate() {
            let Some(terms) = asks(rule) else { continue };
            let always =
                |other: &&Rule| !other.policy.has_non_scope_constraint() && covers(&other.policy, &rule.policy);
            let mut others =
                rules.iter().enumerate().filter(|(of, _)| *of != place).map(|(_, other)| other).filter(always);
            let quarrel =
                others.find(|other| asks(other).is_some_and(|of_other| terms.clone().and(of_other).is_none()));
            if let Some(other) = quarrel {
                let message = format!(
                    "`{}` never lets anything happen: `{}` asks about all of it, too, and nobody can say yes to both",
                    rule.id, other.id
                );
                let help = "name approvers in both who are enough for the larger quorum".to_owned();
                self.say(Severity::Warning, Some(one.span.clone()), "contradiction", message, help);
            }
        }
    }

    /// Says of tools that write, run or send what a person will meet, where no policy is about them.
    fn unmentioned(&mut self, network: &Network, rules: &Rules) {
        let spec = network.spec();
        for (name, tool) in &spec.tools {
            let users = spec.agents.iter().filter(|(_, agent)| agent.tools.contains(name));
            let mut users = users.map(|(agent, _)| agent.as_str()).peekable();
            let arguments = serde_json::Value::Null;
            let subject = Subject::Tool { tool: name.as_str().into(), arguments };
            let is_quiet = tool.builtin.is_some_and(Builtin::stays_inside);
            if is_quiet || users.peek().is_none() || users.any(|agent| !rules.about(agent, &subject).is_empty()) {
                continue;
            }
            let then = match spec.policy.default {
                Permission::Allow => continue,
                Permission::Ask => "each call asks first",
                Permission::Deny => "every call is denied",
            };
            let message = format!("no policy mentions the tool `{name}`: {then}, by the network's default");
            let help = format!("permit or forbid `Action::\"call_tool:{name}\"`");
            self.say(Severity::Warning, None, "tool_not_mentioned", message, help);
        }
    }

    fn annotation_span(&self, one: &Written, key: &str) -> Range<usize> {
        let text = &self.file.text[one.span.clone()];
        let start = text.find(&format!("@{key}")).map_or(one.span.start, |at| one.span.start + at);
        let line = self.file.text[start..one.span.end].lines().next().map_or(0, str::len);
        start..start + line
    }

    fn line(&self, span: &Range<usize>) -> usize {
        self.file.text[..span.start].matches('\n').count() + 1
    }
}

/// Whether what one policy is about is all that another one is about, as their heads say.
fn covers(wide: &Policy, narrow: &Policy) -> bool {
    use cedar_policy::{ActionConstraint as Action, PrincipalConstraint as Principal, ResourceConstraint as Resource};
    let (principal, action, resource) =
        (wide.principal_constraint(), wide.action_constraint(), wide.resource_constraint());
    let of_action = match (&action, narrow.action_constraint()) {
        (Action::Any, _) => true,
        (Action::In(wide), Action::In(narrow)) => narrow.iter().all(|one| wide.contains(one)),
        (Action::In(wide), Action::Eq(one)) => {
            let group = one.id().unescaped().starts_with("call_tool:");
            wide.iter().any(|of| *of == one || (group && of.id().unescaped() == super::schema::CALL_TOOL))
        }
        (wide, narrow) => *wide == narrow,
    };
    (principal == Principal::Any || principal == narrow.principal_constraint())
        && (resource == Resource::Any || resource == narrow.resource_constraint())
        && of_action
}

/// What the library says of a policy and of one action, or of one kind of thing, that it is about: of each for itself.
struct Misfit {
    /// The policy.
    id: Option<Arc<str>>,
    /// Of which action or kind, in words; empty where it is said of the policy as a whole.
    of: String,
    span: Option<Range<usize>>,
    help: String,
}

/// Takes out of what the library says of what it says it; returns what stands around that, and that.
fn parted(said: &str) -> ([String; 2], String) {
    for (before, after) in [(" for Action::\"", "\""), (" on entity type `", "`")] {
        if let Some(start) = said.find(before)
            && let Some(length) = said[start + before.len()..].find(after)
        {
            let end = start + before.len() + length + after.len();
            return ([said[..start].to_owned(), said[end..].to_owned()], said[start..end].to_owned());
        }
    }
    ([said.to_owned(), String::new()], String::new())
}

/// Says of what it is said: of the first one by its name.
fn of_which(misfits: &[Misfit]) -> String {
    match misfits {
        [] => String::new(),
        [only] => only.of.clone(),
        [first, _] => format!("{} and one more", first.of),
        [first, others @ ..] => format!("{} and {} more", first.of, others.len()),
    }
}

/// Says what to do about what is said of several: where they know other names, the one that is most like.
fn help_of_all(said: &str, misfits: &[Misfit]) -> String {
    let first = misfits.first().map(|misfit| misfit.help.clone()).unwrap_or_default();
    if misfits.iter().all(|misfit| misfit.help == first) {
        return first;
    }
    let name = said.split('`').nth(1).and_then(|attribute| attribute.rsplit('.').next()).unwrap_or_default();
    let meant = misfits.iter().filter_map(|misfit| misfit.help.strip_prefix("did you mean `")?.strip_suffix("`?"));
    nearest(name, meant).map(|meant| format!("did you mean `{meant}`?")).unwrap_or_default()
}

/// Says which action was probably meant, where a message says that there is none.
fn unknown_action(message: &str, vocabulary: &Vocabulary) -> Option<String> {
    let (_, rest) = message.split_once("unrecognized action `Action::\"")?;
    let (given, _) = rest.split_once("\"`")?;
    let mut actions: Vec<&str> = vocabulary.schema.actions().map(|action| action.id().unescaped()).collect();
    actions.sort_unstable();
    Some(match nearest(given, actions.iter().copied()) {
        Some(meant) => format!("did you mean `Action::\"{meant}\"`?"),
        None => format!("the actions are {}", crate::spec::listed(actions)),
    })
}

/// Returns the bytes that a diagnostic of the policy library is about.
fn span_of(of: &dyn miette::Diagnostic) -> Option<Range<usize>> {
    let label = of.labels()?.next()?;
    Some(label.offset()..label.offset() + label.len())
}

fn help_of(of: &dyn miette::Diagnostic) -> String {
    of.help().map(|help| plain(&help)).unwrap_or_default()
}

/// Says what is wrong, with what stands beside the place.
fn labelled(of: &(impl miette::Diagnostic + std::fmt::Display)) -> String {
    let label = of.labels().and_then(|mut labels| labels.next()?.label().map(str::to_owned));
    match label {
        Some(label) => format!("{of} ({label})"),
        None => of.to_string(),
    }
}

/// Says what is wrong without the number that the library gives a policy.
fn plain(of: &impl std::fmt::Display) -> String {
    let text = of.to_string();
    match text.split_once("`, ").filter(|(head, _)| head.starts_with("for policy `")) {
        Some((_, rest)) => rest.to_owned(),
        None => text,
    }
}
