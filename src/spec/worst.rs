//! What one run can cost at most, known before it starts.

use serde::Serialize;

use super::check::is_loopback;
use super::{ModelSpec, Network, NetworkSpec, Price, ProviderKind, Span};
use crate::route::Topology;

/// What one run of a network can use at most.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorstCase {
    /// Money, in US dollars.
    pub cost_usd: Bound<f64>,
    /// Tokens that models read and write.
    pub tokens: Bound<u64>,
    /// Model calls; tries of one call count once.
    pub model_calls: Bound<u64>,
    /// Time, in milliseconds.
    pub time_ms: Bound<u64>,
}

/// How much of something there can be.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound<T> {
    /// This much, for this reason.
    AtMost(T, String),
    /// Any amount, for this reason.
    Unbounded(String),
}

impl ModelSpec {
    /// Returns what the model costs: its price; without one, nothing where it is simulated or served by this very machine. None
    /// where the price is not known.
    pub fn known_price(&self) -> Option<Price> {
        let free = Price::default();
        match self.provider {
            None | Some(ProviderKind::Sim) => Some(self.price.unwrap_or(free)),
            Some(kind) => {
                let is_here = match self.base_url.as_deref() {
                    Some(url) => is_loopback(url),
                    None => kind == ProviderKind::Ollama,
                };
                self.price.or_else(|| is_here.then_some(free))
            }
        }
    }
}

impl Network {
    /// Works out what one run can use at most.
    pub fn worst_case(&self) -> WorstCase {
        let spec = self.spec();
        let limits = &spec.network.limits;
        let tokens = match limits.tokens {
            Some(tokens) => Bound::AtMost(tokens, "`tokens` of [network.limits]".to_owned()),
            None => Bound::Unbounded("[network.limits] sets no `tokens`".to_owned()),
        };
        let time_ms = match limits.deadline {
            Some(Span(deadline)) => {
                let millis = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
                Bound::AtMost(millis, "`deadline` of [network.limits]".to_owned())
            }
            None => Bound::Unbounded("[network.limits] sets no `deadline`".to_owned()),
        };
        WorstCase { cost_usd: cost(spec), tokens, model_calls: model_calls(spec), time_ms }
    }
}

/// Each step is one model call, and another one at most before it where what came before is summarised; so what bounds the
/// steps bounds the calls.
fn model_calls(spec: &NetworkSpec) -> Bound<u64> {
    let limits = &spec.network.limits;
    let summarises = spec.agents.values().any(|agent| agent.compaction.is_some());
    let (calls, and) = if summarises { (2, ", and as many summaries") } else { (1, "") };
    let mut bound = (limits.steps.saturating_mul(calls), format!("`steps` of [network.limits]{and}"));
    if let Some(calls) = limits.model_calls.filter(|calls| *calls < bound.0) {
        bound = (calls, "`model_calls` of [network.limits]".to_owned());
    }
    if let Some(entry) = spec.agents.get(&spec.network.entry)
        && entry.delegates_to.is_empty()
        && entry.hands_off_to.is_empty()
        && entry.on_error.route().is_none()
        && entry.publishes.is_empty()
        && !entry.is_flow()
        && spec.routes.iter().all(|route| !route.from.contains(&spec.network.entry))
        && u64::from(entry.max_steps) * calls < bound.0
    {
        let why = format!("`max_steps` of the agent `{}`{and}", spec.network.entry);
        bound = (u64::from(entry.max_steps) * calls, why);
    }
    Bound::AtMost(bound.0, bound.1)
}

fn cost(spec: &NetworkSpec) -> Bound<f64> {
    let limits = &spec.network.limits;
    let models: Vec<(&str, &ModelSpec)> = reached_models(spec);
    let unpriced = models.iter().find(|(_, model)| model.known_price().is_none());
    let dearest = models
        .iter()
        .filter_map(|(_, model)| model.known_price())
        .map(|price| {
            let cache = [price.cached_input_usd_per_mtok, price.cache_write_usd_per_mtok];
            cache.into_iter().flatten().fold(price.input_usd_per_mtok.max(price.output_usd_per_mtok), f64::max)
        })
        .fold(0.0, f64::max);
    let by_limit = limits.cost_usd.map(|cost| (cost, "`cost_usd` of [network.limits]".to_owned()));
    let by_price = match (unpriced, limits.tokens) {
        (Some(_), _) => None,
        (None, _) if dearest == 0.0 => Some((0.0, "no model that it uses costs anything".to_owned())),
        // The ledger counts tokens as they are reserved, so that no more of them can be billed.
        (None, Some(tokens)) => {
            let cost = tokens as f64 * dearest / 1e6;
            Some((cost, format!("{tokens} tokens at the dearest price, {} for a million", usd(dearest))))
        }
        (None, None) => None,
    };
    let least = match (by_limit, by_price) {
        (Some(limit), Some(price)) => Some(if price.0 < limit.0 { price } else { limit }),
        (limit, price) => limit.or(price),
    };
    match (least, unpriced) {
        (Some((cost, why)), _) => Bound::AtMost(cost, why),
        (None, Some((name, _))) => Bound::Unbounded(format!("the model `{name}` has no price")),
        (None, None) => Bound::Unbounded("[network.limits] sets neither `cost_usd` nor `tokens`".to_owned()),
    }
}

fn reached_models(spec: &NetworkSpec) -> Vec<(&str, &ModelSpec)> {
    let Some(entry) = spec.agents.get_index_of(&spec.network.entry) else { return Vec::new() };
    let reached = Topology::of(spec).reachable(entry);
    let agents = spec.agents.values().zip(reached).filter(|(_, reached)| *reached);
    agents.flat_map(|(agent, _)| spec.models_of(agent)).collect()
}

/// Writes an amount of US dollars, with as many digits as it needs.
pub(crate) fn usd(amount: f64) -> String {
    if amount == 0.0 || amount >= 0.01 {
        format!("${amount:.2}")
    } else {
        format!("${amount:.8}").trim_end_matches('0').to_owned()
    }
}
