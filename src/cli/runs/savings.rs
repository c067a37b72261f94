//! What it saved that steps went to cheaper models.

use std::collections::HashMap;

use crate::budget::Rates;
use crate::run::{AgentId, Body, Event, Origin};
use crate::runtime::Past;
use crate::spec::{ModelChoice, Network, Price};

/// How the steps of a run were shared out among models.
struct Savings {
    /// Steps of agents that may go to several models.
    steps: u64,
    /// Those of them that went to another than the dearest.
    cheaper: u64,
    /// By how much the tokens that these used would have cost more at the price of the dearest.
    saved_nano_usd: i64,
}

/// Says what the choice of models saved, against asking the dearest of each agent's models every time; empty where no agent had
/// a choice, or it saved nothing. What an answer cost that could not be used is taken off. It is an estimate: another model
/// would have used other tokens. The first `copied` events are of the run that this one was forked from.
pub(super) fn line(past: &Past, copied: u64) -> String {
    match savings(past, copied) {
        Some(Savings { steps, cheaper, saved_nano_usd }) if saved_nano_usd > 0 => format!(
            "  {cheaper} of {steps} steps went to a cheaper model than the dearest: about ${:.6} saved, for the same tokens\n",
            saved_nano_usd as f64 / 1e9
        ),
        _ => String::new(),
    }
}

fn savings(past: &Past, copied: u64) -> Option<Savings> {
    let network = Network::from_text(&past.state.beginning()?.network).ok()?;
    let mut sum = Savings { steps: 0, cheaper: 0, saved_nano_usd: 0 };
    // What the last answer of each agent saved, and what it cost: if it can't be used, the dearest would not have given it.
    let mut last: HashMap<&AgentId, (i64, i64)> = HashMap::new();
    for envelope in past.events.iter().filter(|envelope| envelope.seq > copied) {
        if let (Event::RepairRequested { .. }, Some(agent)) = (&envelope.event, &envelope.agent)
            && let Some((saved, cost)) = last.remove(agent)
        {
            sum.steps -= 1;
            sum.cheaper -= u64::from(saved > 0);
            sum.saved_nano_usd = sum.saved_nano_usd.saturating_sub(saved.saturating_add(cost));
        }
        let Event::ModelReplied { call, message, usage: Some(usage), .. } = &envelope.event else { continue };
        let (Body::Assistant { .. }, Origin::Model(model), false) =
            (&message.body, &message.origin, call.is_compaction)
        else {
            continue;
        };
        let choice = past
            .state
            .agents()
            .get(&call.agent)
            .and_then(|instance| network.spec().agents.get(&*instance.name)?.model.as_ref());
        let Some(choice) = choice.filter(|choice| choice.names().any(|name| *name != choice.prefer)) else { continue };
        let cost = |name: &str| {
            let price: Option<&Price> = network.spec().models.get(name).and_then(|model| model.price.as_ref());
            i64::try_from(price.map(Rates::new).unwrap_or_default().cost(usage)).unwrap_or(i64::MAX)
        };
        let dearest = ModelChoice::names(choice).map(|name| cost(name)).max().unwrap_or_default();
        let saved = dearest.saturating_sub(cost(model));
        last.insert(&call.agent, (saved, cost(model)));
        sum.steps += 1;
        sum.cheaper += u64::from(saved > 0);
        sum.saved_nano_usd = sum.saved_nano_usd.saturating_add(saved);
    }
    Some(sum)
}
