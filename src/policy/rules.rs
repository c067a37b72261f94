//! A set of policies, and what it says of a call.
//!
//! Most policies are about other agents, actions and tools than those of a call, as their heads say. What is left of the
//! set for one agent and one thing that it calls is found once, and only that is asked.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use cedar_policy::{
    ActionConstraint, Authorizer, Decision as CedarDecision, Effect, Entities, EntityUid, Policy, PolicyId, PolicySet,
    PrincipalConstraint, Request, ResourceConstraint,
};

use super::circumstances::{self, Asked, Needs};
use super::schema::{Deed, Vocabulary};
use super::terms::Terms;
use crate::run::Subject;

/// How many tenants have their entities kept at a time; when there are more, all are made again.
const MAX_TENANTS: usize = 256;

/// A set of policies that fits a network.
pub(super) struct Rules {
    /// In the order of the file.
    rules: Vec<Rule>,
    pub(super) vocabulary: Vocabulary,
    authorizer: Authorizer,
    /// What is left of the set for an agent's calls, by the agent, and then by what is called. Both come from the network.
    slices: RwLock<HashMap<Arc<str>, Slices>>,
    /// The policies of slices, by their places in the file: most slices have the same ones.
    sets: RwLock<HashMap<Vec<usize>, Arc<Sliced>>>,
    entities: RwLock<HashMap<Arc<str>, Arc<Entities>>>,
}

/// By the kind of what is called, and by its name.
type Slices = [HashMap<Arc<str>, Arc<Slice>>; 5];

/// A policy with what stands beside it.
pub(super) struct Rule {
    pub(super) id: Arc<str>,
    pub(super) policy: Policy,
    /// What it asks for, where it permits only what a person allows.
    pub(super) ask: Option<Terms>,
    /// Why it is there, in its author's words.
    pub(super) why: Option<Arc<str>>,
}

impl Rule {
    fn is_permit(&self) -> bool {
        self.policy.effect() == Effect::Permit
    }
}

/// What is left of the set for an agent and a thing that it calls.
struct Slice {
    deed: Deed,
    /// Whether something permits any of such calls, to somebody: what nothing permits then is not allowed.
    is_named: bool,
    sliced: Arc<Sliced>,
}

/// Some of the policies.
struct Sliced {
    set: PolicySet,
    /// By the policy's id in the set.
    places: HashMap<PolicyId, usize>,
    needs: Needs,
}

/// What a set of policies says of a call.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The permits that hold, in the order of the file.
    pub(super) permits: Vec<usize>,
    /// The forbids that hold.
    pub(super) forbids: Vec<usize>,
    /// What could not be evaluated, in words.
    pub(super) fault: Option<String>,
    /// Whether something permits any of such calls.
    pub(super) is_named: bool,
}

impl Rules {
    pub(super) fn new(rules: Vec<Rule>, vocabulary: Vocabulary) -> Self {
        Self {
            rules,
            vocabulary,
            authorizer: Authorizer::new(),
            slices: RwLock::default(),
            sets: RwLock::default(),
            entities: RwLock::default(),
        }
    }

    /// Returns the ids of all policies, in the order of the file.
    pub(super) fn ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().map(|rule| &rule.id)
    }

    pub(super) fn rule(&self, place: usize) -> Option<&Rule> {
        self.rules.get(place)
    }

    /// Asks the policies that a call is about.
    pub(super) fn ask(&self, asked: &Asked<'_>) -> Said {
        let slice = self.slice(asked.agent, asked.subject);
        let said = Said { is_named: slice.is_named, ..Said::default() };
        if slice.sliced.places.is_empty() {
            return said;
        }
        match self.authorize(&slice, asked) {
            Ok((permits, forbids)) => Said { permits, forbids, ..said },
            Err(fault) => Said { fault: Some(fault), ..said },
        }
    }

    fn authorize(&self, slice: &Slice, asked: &Asked<'_>) -> Result<(Vec<usize>, Vec<usize>), String> {
        let sliced = &slice.sliced;
        let context = circumstances::context(asked, &sliced.needs, &self.vocabulary)?;
        let entities = self.entities(asked.tenant)?;
        let Deed { principal, action, resource } = &slice.deed;
        let request = Request::new(principal.clone(), action.clone(), resource.clone(), context, None)
            .map_err(|error| error.to_string())?;
        let response = self.authorizer.is_authorized(&request, &sliced.set, &entities);
        let place = |id: &PolicyId| sliced.places.get(id).copied();
        let mut faults: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
        if !faults.is_empty() {
            faults.sort();
            return Err(faults.join("; "));
        }
        let mut reasons: Vec<usize> = response.diagnostics().reason().filter_map(place).collect();
        reasons.sort_unstable();
        Ok(match response.decision() {
            CedarDecision::Allow => (reasons, Vec::new()),
            CedarDecision::Deny => (Vec::new(), reasons),
        })
    }

    /// Whether the policies that may be about such calls look at the time, at what is spent, or at what is approved of.
    pub(super) fn look_at_what_passes(&self, agent: &str, subject: &Subject) -> bool {
        self.slice(agent, subject).sliced.needs.what_passes()
    }

    /// Returns the places of the policies that may be about an agent's calls of something.
    pub(super) fn about(&self, agent: &str, subject: &Subject) -> Vec<usize> {
        let mut places: Vec<usize> = self.slice(agent, subject).sliced.places.values().copied().collect();
        places.sort_unstable();
        places
    }

    fn slice(&self, agent: &str, subject: &Subject) -> Arc<Slice> {
        let kind = kind(subject);
        let known = self.slices.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(slice) = known.get(agent).and_then(|slices| slices[kind].get(subject.name())) {
            return slice.clone();
        }
        drop(known);
        let slice = Arc::new(self.make_slice(agent, subject));
        let mut slices = self.slices.write().unwrap_or_else(PoisonError::into_inner);
        slices.entry(agent.into()).or_default()[kind].insert(subject.name().into(), slice.clone());
        slice
    }

    fn make_slice(&self, agent: &str, subject: &Subject) -> Slice {
        let deed = self.vocabulary.deed(agent, subject);
        let is_about = |rule: &&Rule| self.is_of_action(rule, &deed) && self.is_of_resource(rule, &deed);
        let is_named = self.rules.iter().filter(is_about).any(Rule::is_permit);
        let may_hold = |(_, rule): &(usize, &Rule)| is_about(rule) && self.is_of_principal(rule, &deed);
        let places: Vec<usize> = self.rules.iter().enumerate().filter(may_hold).map(|(place, _)| place).collect();
        Slice { deed, is_named, sliced: self.sliced(places) }
    }

    fn sliced(&self, places: Vec<usize>) -> Arc<Sliced> {
        let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
        let make = |places: &[usize]| {
            let rules: Vec<(usize, &Rule)> =
                places.iter().filter_map(|place| Some((*place, self.rules.get(*place)?))).collect();
            // Each has an id of its own: they all came out of one set.
            let set = PolicySet::from_policies(rules.iter().map(|(_, rule)| rule.policy.clone())).unwrap_or_default();
            let needs = Needs::of(rules.iter().map(|(_, rule)| &rule.policy));
            let places = rules.into_iter().map(|(place, rule)| (rule.policy.id().clone(), place)).collect();
            Arc::new(Sliced { set, places, needs })
        };
        if let Some(known) = sets.get(&places) {
            return known.clone();
        }
        let made = make(&places);
        sets.insert(places, made.clone());
        made
    }

    fn is_of_principal(&self, rule: &Rule, deed: &Deed) -> bool {
        let is = |kind: &cedar_policy::EntityTypeName| kind == deed.principal.type_name();
        match rule.policy.principal_constraint() {
            PrincipalConstraint::Any => true,
            PrincipalConstraint::Eq(named) => named == deed.principal,
            PrincipalConstraint::In(named) => self.vocabulary.may_be_in(&deed.principal, &named),
            PrincipalConstraint::Is(kind) => is(&kind),
            PrincipalConstraint::IsIn(kind, named) => is(&kind) && self.vocabulary.may_be_in(&deed.principal, &named),
        }
    }

    fn is_of_action(&self, rule: &Rule, deed: &Deed) -> bool {
        let is =
            |named: &EntityUid| *named == deed.action || Some(named) == self.vocabulary.group(&deed.action).as_ref();
        match rule.policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(named) => named == deed.action,
            ActionConstraint::In(named) => named.iter().any(is),
        }
    }

    fn is_of_resource(&self, rule: &Rule, deed: &Deed) -> bool {
        let is = |kind: &cedar_policy::EntityTypeName| kind == deed.resource.type_name();
        match rule.policy.resource_constraint() {
            ResourceConstraint::Any => true,
            ResourceConstraint::Eq(named) => named == deed.resource,
            ResourceConstraint::In(named) => self.vocabulary.may_be_in(&deed.resource, &named),
            ResourceConstraint::Is(kind) => is(&kind),
            ResourceConstraint::IsIn(kind, named) => is(&kind) && self.vocabulary.may_be_in(&deed.resource, &named),
        }
    }

    fn entities(&self, tenant: &str) -> Result<Arc<Entities>, String> {
        if let Some(known) = self.entities.read().unwrap_or_else(PoisonError::into_inner).get(tenant) {
            return Ok(known.clone());
        }
        let made = Arc::new(self.vocabulary.entities(tenant)?);
        let mut known = self.entities.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_TENANTS {
            known.clear();
        }
        known.insert(tenant.into(), made.clone());
        Ok(made)
    }
}

fn kind(subject: &Subject) -> usize {
    match subject {
        Subject::Model { .. } => 0,
        Subject::Tool { .. } => 1,
        Subject::Delegate { .. } => 2,
        Subject::Handoff { .. } => 3,
        Subject::Publish { .. } => 4,
    }
}
