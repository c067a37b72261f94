//! The policies of a network, made for the tools that it has, and changed while it runs.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::read_again;
use crate::policy::{Checked, Parameters, Policies, Vocabulary};
use crate::spec::{Invalid, Network, PolicyFile, READ_AGAIN, Unread};
use crate::tool::{self, ErasedTool};

/// The policies that hold in a network now.
pub(super) struct InForce(RwLock<Arc<Policies>>);

impl InForce {
    pub(super) fn new(policies: Policies) -> Self {
        Self(RwLock::new(Arc::new(policies)))
    }

    /// Returns the policies that hold now.
    pub(super) fn now(&self) -> Arc<Policies> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets others hold from here on.
    pub(super) fn replace(&self, policies: Policies) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policies);
    }
}

/// The policies of a network, read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadedPolicies {
    /// The network's name.
    pub network: Arc<str>,
    /// The hash of what held before.
    pub before: Arc<str>,
    /// The hash of what holds now; the same where nothing has changed.
    pub now: Arc<str>,
}

/// Gives a network that a run is kept with the policies that are in its file now: what is allowed is for the present to say.
/// Where the file is gone, those that are kept hold.
///
/// # Errors
/// The file is there, and can't be used.
pub(super) fn present(network: Network) -> Result<Network, Invalid> {
    let Some(kept) = network.policy().filter(|kept| !kept.path.is_empty()).cloned() else { return Ok(network) };
    match PolicyFile::read(&kept.name, kept.path.as_ref()) {
        Ok(file) => Ok(network.with_policy_file(Arc::new(file))),
        Err(unread) if unread.is_gone => {
            let why = unread.why;
            tracing::warn!(file = kept.name, "the policy file {why}; the policies that are kept with the run hold");
            Ok(network)
        }
        Err(unread) => Err(unusable(&kept.name, unread)),
    }
}

fn unusable(name: &str, Unread { why, help, .. }: Unread) -> Invalid {
    Invalid::of_file(name, "bad_policy", format!("the policy file {why}"), help)
}

/// Reads the policy file of a network again; none where it has none.
///
/// # Errors
/// The file can't be read, or is not valid.
pub(super) fn again(
    network: &Network,
    host_tools: &HashMap<String, Arc<dyn ErasedTool>>,
) -> Result<Option<(Network, Policies)>, Invalid> {
    let Some(kept) = network.policy().filter(|kept| !kept.path.is_empty()) else { return Ok(None) };
    let file = PolicyFile::read(&kept.name, kept.path.as_ref()).map_err(|unread| unusable(&kept.name, unread))?;
    let network = network.clone().with_policy_file(Arc::new(file));
    let policies = Policies::new(&network, &parameters(&network, host_tools))?;
    Ok(Some((network, policies)))
}

/// Returns what the tools of a network take, as far as it is known: those of the embedding program are in `host_tools`.
pub(super) fn parameters(network: &Network, host_tools: &HashMap<String, Arc<dyn ErasedTool>>) -> Parameters {
    let spec = network.spec();
    let of_tool = |(name, spec): (&String, &crate::spec::ToolSpec)| {
        let shown = tool::shown(spec).map(|shown| shown.parameters);
        let parameters = shown.or_else(|| Some(host_tools.get(name)?.parameters()))?;
        Some((name.clone(), parameters))
    };
    let mut parameters: Parameters = spec.tools.iter().filter_map(of_tool).collect();
    if spec.agents.values().any(|agent| agent.compaction.is_some()) {
        parameters.insert(READ_AGAIN.to_owned(), read_again::shown().parameters);
    }
    parameters
}

/// Checks the policy file of a network against its agents, models and built-in tools, and returns its policies with what is
/// doubtful about them. A network without one has the defaults.
///
/// # Errors
/// Everything that is wrong with the file, each with its place.
pub fn check_policies(network: &Network) -> Result<Checked, Invalid> {
    Policies::check(network, &parameters(network, &HashMap::new()))
}

/// Returns what policies of a network can speak of, whether it has any or not.
///
/// # Errors
/// The network can't be put before policies.
pub fn policy_vocabulary(network: &Network) -> Result<Vocabulary, Invalid> {
    Vocabulary::new(network, &parameters(network, &HashMap::new())).map_err(|why| {
        let message = format!("the network can't be put before policies: {why}");
        Invalid::of_file(&network.spec().network.name, "bad_policy", message, String::new())
    })
}

/// Returns the policies that are in the file of a kept network now; none where it names no file.
///
/// # Errors
/// The file can't be read, or is not valid.
pub fn present_policies(network: &Network) -> Result<Option<Policies>, Invalid> {
    Ok(again(network, &HashMap::new())?.map(|(_, policies)| policies))
}
