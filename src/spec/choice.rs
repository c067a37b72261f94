//! The table of which model an agent uses, and when it goes to another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which model an agent uses. An instance stays with the model that it has until one of these is a reason to go to another, so
/// that what a provider has cached of its transcript is of use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelChoice {
    /// The model's name in the network.
    pub prefer: String,
    /// The models that get the same step where the one in charge can't be had: when its tries are used up, or the transcript is
    /// longer than it reads. In this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("uniqueItems" = true))]
    pub fall_back: Vec<String>,
    /// The models that take over, each the next, where the one in charge does not manage: after `escalate_after` answers to one
    /// step that can't be used, or when it says itself that it is not sure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("uniqueItems" = true))]
    pub escalate: Vec<String>,
    /// How many answers to one step that can't be used a model may give before the next of `escalate` takes over.
    #[serde(default = "ModelChoice::default_after", skip_serializing_if = "ModelChoice::is_default_after")]
    #[schemars(range(min = 1, max = 1000))]
    pub escalate_after: u32,
    /// Below which `confidence`, a field of the structured answer, the next of `escalate` is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub confidence_below: Option<f64>,
    /// The models that it goes to as what the run may use runs low: the first below `downgrade_below`, each further one at half
    /// the share of the one before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("uniqueItems" = true))]
    pub downgrade: Vec<String>,
    /// Below which share of any of the run's limits, its deadline among them, that is still free it goes to the models of
    /// `downgrade`.
    #[serde(default = "ModelChoice::default_below", skip_serializing_if = "ModelChoice::is_default_below")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub downgrade_below: f64,
    /// Which model a step goes to by what is known before it: the first that fits. One with a `label` binds: neither an outage
    /// nor the budget leads elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<ModelRule>,
}

/// Which model a step goes to, where all that is set of it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelRule {
    /// The model.
    pub model: String,
    /// From the step after this one on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_over: Option<u32>,
    /// Where the results of the last step have more bytes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_bytes_over: Option<u64>,
    /// Where the agent has been influenced by what carries this label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub label: Option<String>,
}

impl ModelChoice {
    /// Makes the choice of one model, whatever happens.
    pub fn new(prefer: impl Into<String>) -> Self {
        Self {
            prefer: prefer.into(),
            escalate_after: Self::default_after(),
            downgrade_below: Self::default_below(),
            ..Self::default()
        }
    }

    /// Returns the names of all models that the agent may go to, the preferred one first; a name may come more than once.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        let lists = self.fall_back.iter().chain(&self.escalate).chain(&self.downgrade);
        std::iter::once(&self.prefer).chain(lists).chain(self.when.iter().map(|rule| &rule.model))
    }

    /// Returns all these names, to be changed.
    pub(super) fn names_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let lists = self.fall_back.iter_mut().chain(&mut self.escalate).chain(&mut self.downgrade);
        std::iter::once(&mut self.prefer).chain(lists).chain(self.when.iter_mut().map(|rule| &mut rule.model))
    }

    fn default_after() -> u32 {
        2
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_default_after(after: &u32) -> bool {
        *after == Self::default_after()
    }

    fn default_below() -> f64 {
        0.2
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_default_below(below: &f64) -> bool {
        *below == Self::default_below()
    }
}
