//! Limits that cannot be met: found before any money is spent, not after.

use super::Check;
use crate::spec::findings::Place;
use crate::spec::worst::usd;

impl Check<'_> {
    pub(super) fn limits(&mut self) {
        let spec = self.spec;
        let limits = &spec.network.limits;
        if let Some(deadline) = limits.deadline {
            self.not_zero(&["network", "limits", "deadline"], deadline);
        }
        self.not_zero(&["network", "fleet", "queue", "timeout"], spec.network.fleet.queue.timeout);
        for (name, tool) in &spec.tools {
            if let Some(timeout) = tool.timeout {
                self.not_zero(&["tools", name, "timeout"], timeout);
            }
        }
        // The first call of every run is the entry agent's.
        let Some(entry) = spec.agents.get(&spec.network.entry) else { return };
        let Some((name, model)) = spec.model_of(entry) else { return };
        if self.found.is_broken_within(&["models", name]) {
            return;
        }
        if let Some(tokens) = limits.tokens
            && tokens < u64::from(model.min_output_tokens)
        {
            self.error(
                &["network", "limits", "tokens"],
                Place::Value,
                "limit_too_low",
                format!(
                    "no run can make its first call with {tokens} tokens: `min_output_tokens` of the model `{name}` is {}",
                    model.min_output_tokens
                ),
                "raise `tokens`, or lower the model's `min_output_tokens`",
            );
        }
        if let (Some(cost), Some(price)) = (limits.cost_usd, model.known_price()) {
            let least = price.output_usd_per_mtok * f64::from(model.min_output_tokens) / 1e6;
            if cost < least {
                self.error(
                    &["network", "limits", "cost_usd"],
                    Place::Value,
                    "limit_too_low",
                    format!(
                        "no run can make its first call for {}: the {} tokens of `min_output_tokens` of the model `{name}` cost {}",
                        usd(cost), model.min_output_tokens, usd(least)
                    ),
                    "raise `cost_usd`, or lower the model's `min_output_tokens`",
                );
            }
        }
    }
}
