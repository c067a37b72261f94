//! Which model a step goes to: what the agent's own events say, and what is left of what the run may use.

use std::sync::Arc;

use super::RunLoop;
use crate::budget::Limit;
use crate::run::{CallId, Change, Definition, Pick, Why, downgraded};
use crate::runtime::gate::Others;

impl RunLoop {
    /// Returns the model that a step goes to. If it is another than before, that is on record before the call is made, with
    /// the reason.
    pub(super) fn choose(&mut self, definition: &Definition, call: &CallId, pick: Pick, cause: u64) -> Arc<str> {
        if self.live.contains_key(call) || self.state.is_over(call) {
            return pick.current;
        }
        let low = self.downgrade(definition, &pick);
        let Some(change) = low.or(pick.change) else { return pick.current };
        let model = change.model.clone();
        self.result(&call.agent, cause, change.event(call.clone()));
        model
    }

    /// Says which model an agent goes to since little is left of what the run may use; none where there is enough, or it has no
    /// cheaper one.
    fn downgrade(&self, definition: &Definition, pick: &Pick) -> Option<Change> {
        let choice = &definition.choice;
        if choice.downgrade.is_empty() {
            return None;
        }
        let (limit, share) = self.least_share(&definition.name)?;
        let to = downgraded(choice, pick, share)?;
        if self.price(to) > self.price(pick.model()) {
            return None;
        }
        let below = choice.downgrade_below;
        let reason = format!("{:.1} % of {limit} is left, and downgrade_below = {below}", share * 100.0);
        Some(Change { model: to.as_str().into(), why: Why::Downgraded, reason })
    }

    /// Returns the models that get a call of `model` where that can't be had, and where it can't be paid for.
    pub(super) fn others(&self, definition: &Definition, model: &str, is_bound: bool) -> (Others, Others) {
        let named = |name: &String| {
            let (name, model) = self.scope.fleet.models.get_key_value(name.as_str())?;
            Some((name.clone(), model.clone()))
        };
        let choice = &definition.choice;
        let others = choice.fall_back.iter().filter(|_| !is_bound).filter_map(named).collect();
        let mut price = self.price(model);
        let is_cheaper = |name: &&String| {
            let (before, of) = (price, self.price(name));
            let is_cheaper = !is_bound && of < before;
            price = if is_cheaper { of } else { before };
            is_cheaper
        };
        (others, choice.downgrade.iter().filter(is_cheaper).filter_map(named).collect())
    }

    /// Returns what a million tokens read and as many written cost, in billionths of a dollar.
    fn price(&self, model: &str) -> u64 {
        let model = self.scope.fleet.models.get(model);
        model.map_or(0, |model| model.rates.worst_case(1_000_000, 1_000_000))
    }

    /// Returns the limit of which the smallest share is free, of all that an agent's calls are paid from; with that share.
    fn least_share(&self, agent: &str) -> Option<(Limit, f64)> {
        let deadline_ms = self.scope.fleet.network.spec().network.limits.deadline.map(|of| of.0.as_millis() as u64);
        let left = |limit: u64| limit.saturating_sub(self.state.active_ms()) as f64 / limit.max(1) as f64;
        let of_time = deadline_ms.map(|limit| (Limit::Deadline, left(limit)));
        let of_money = self.scope.funds.least_share(agent);
        of_time.into_iter().chain(of_money).min_by(|one, other| one.1.total_cmp(&other.1))
    }
}
