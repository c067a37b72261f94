//! Limits that cannot be met: found before any money is spent, not after.

use super::Check;
use crate::spec::findings::Place;
use crate::spec::worst::usd;
use crate::spec::{BudgetOf, BudgetSpec, ModelSpec};

impl Check<'_> {
    fn budgets(&mut self) {
        for (index, budget) in self.spec.budgets.iter().enumerate() {
            let index = index.to_string();
            let is_broken = self.found.is_broken_within(&["budgets", &index]);
            let mut wrong = |key: Option<&str>, code, message: String, help: &str| {
                let path: Vec<&str> = ["budgets", &index].into_iter().chain(key).collect();
                self.error(&path, if key.is_some() { Place::Value } else { Place::Key }, code, message, help);
            };
            let BudgetSpec { of, agent, per, cost_usd, tokens, model_calls, tool_calls, .. } = budget;
            if !is_broken && cost_usd.is_none() && tokens.is_none() && model_calls.is_none() && tool_calls.is_none() {
                let help = "add `cost_usd`, `tokens`, `model_calls` or `tool_calls`";
                wrong(None, "no_limit", "a budget without a limit limits nothing".to_owned(), help);
            }
            let is_of_agent = *of == BudgetOf::Agent;
            if agent.is_some() && !is_of_agent {
                let help = "take it out, or write `of = \"agent\"`";
                wrong(Some("agent"), "key_without_use", "`agent` means nothing in this budget".to_owned(), help);
            }
            if per.is_some() && is_of_agent {
                let help = "take it out: the budget of an agent lasts as long as its run";
                wrong(Some("per"), "key_without_use", "`per` means nothing in the budget of an agent".to_owned(), help);
            }
            if budget.unknown_for.is_some() && is_of_agent {
                let help = "take it out: the budget of an agent lasts as long as its run";
                let message = "`unknown_for` means nothing in the budget of an agent".to_owned();
                wrong(Some("unknown_for"), "key_without_use", message, help);
            }
            if let Some(span) = budget.unknown_for.filter(|_| !is_of_agent) {
                self.not_zero(&["budgets", &index, "unknown_for"], span);
            }
            if let Some(agent) = agent.as_ref().filter(|_| is_of_agent) {
                self.find(&["budgets", &index, "agent"], "agents", agent);
            }
        }
    }

    /// Refuses guards that would strike at what is no repetition.
    fn guards(&mut self) {
        let guards = &self.spec.network.guards;
        for (key, count) in [("same_call", guards.same_call), ("ping_pong", guards.ping_pong)] {
            if count == 1 {
                self.error(
                    &["network", "guards", key],
                    Place::Value,
                    "out_of_range",
                    format!("`guards.{key}` = 1 would strike at the first time, which repeats nothing"),
                    "set it to 2 or more, or to 0 to turn it off",
                );
            }
        }
    }

    pub(super) fn limits(&mut self) {
        self.guards();
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
        for (name, agent) in &spec.agents {
            if let Some(timeout) = agent.step_timeout {
                self.not_zero(&["agents", name, "step_timeout"], timeout);
            }
        }
        self.not_absurd(&["network", "limits", "cost_usd"], limits.cost_usd);
        for (index, budget) in spec.budgets.iter().enumerate() {
            self.not_absurd(&["budgets", &index.to_string(), "cost_usd"], budget.cost_usd);
        }
        self.budgets();
        // The first call of every run is the entry agent's.
        let Some(entry) = spec.agents.get(&spec.network.entry) else { return };
        let Some((name, model)) = spec.model_of(entry) else { return };
        if self.found.is_broken_within(&["models", name]) {
            return;
        }
        let of_run = (vec!["network", "limits"], limits.tokens, limits.cost_usd, "run");
        let indices: Vec<String> = (0..spec.budgets.len()).map(|index| index.to_string()).collect();
        let of_budgets = spec.budgets.iter().zip(&indices).filter(|(budget, _)| {
            // That of another agent is no matter of the first call.
            budget.of != BudgetOf::Agent || budget.agent.as_ref().is_none_or(|agent| *agent == spec.network.entry)
        });
        let of_budgets = of_budgets
            .map(|(budget, index)| (vec!["budgets", index.as_str()], budget.tokens, budget.cost_usd, "run of it"));
        for (path, tokens, cost_usd, whose) in [of_run].into_iter().chain(of_budgets) {
            self.too_low(&path, tokens, cost_usd, whose, (name, model));
        }
    }

    /// Refuses an amount of money that is none, so that a slip does not stand for no limit at all.
    fn not_absurd(&mut self, path: &[&str], cost_usd: Option<f64>) {
        const MOST_USD: f64 = 1e9;
        if cost_usd.is_some_and(|cost| cost > MOST_USD) {
            let message = "a thousand million dollars is the most that can be limited".to_owned();
            self.error(
                path,
                Place::Value,
                "out_of_range",
                message,
                "set it to what may really be spent, or take it out",
            );
        }
    }

    /// Refuses a limit that not even the first call of a run can be paid from.
    fn too_low(
        &mut self,
        path: &[&str],
        tokens: Option<u64>,
        cost_usd: Option<f64>,
        whose: &str,
        (name, model): (&str, &ModelSpec),
    ) {
        let at = |key| [path, &[key]].concat();
        let least_tokens = model.min_output_tokens;
        if let Some(tokens) = tokens.filter(|tokens| *tokens < u64::from(least_tokens)) {
            let message = format!(
                "no {whose} can make its first call with {tokens} tokens: `min_output_tokens` of the model `{name}` is {least_tokens}"
            );
            let help = "raise `tokens`, or lower the model's `min_output_tokens`";
            self.error(&at("tokens"), Place::Value, "limit_too_low", message, help);
        }
        let Some(price) = model.known_price() else { return };
        let least = price.output_usd_per_mtok * f64::from(least_tokens) / 1e6;
        if let Some(cost) = cost_usd.filter(|cost| *cost < least) {
            let message = format!(
                "no {whose} can make its first call for {}: the {least_tokens} tokens of `min_output_tokens` of the model `{name}` cost {}",
                usd(cost),
                usd(least)
            );
            let help = "raise `cost_usd`, or lower the model's `min_output_tokens`";
            self.error(&at("cost_usd"), Place::Value, "limit_too_low", message, help);
        }
    }
}
