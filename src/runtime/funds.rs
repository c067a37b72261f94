//! What the calls of a run are paid from: the run's own account, and those that it shares with others.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::futures::Notified;

use super::clock::Clock;
use super::purse::{Ask, MAX_SOURCES, Purse, Refusal, SharedAccount, Source};
use super::recorder::Recorder;
use crate::budget::{AccountName, Amount, Cap, Limit, Opening, Today};
use crate::fault::{self, Bug};
use crate::run::{Event, OpenCall, RunState, Stream};
use crate::spec::{BudgetOf, BudgetSpec, NetworkSpec};

/// What the calls of a run are paid from.
pub(super) struct Funds {
    clock: Clock,
    /// The run's own account.
    run: Source,
    /// Whether anybody is to be told that a limit is near.
    warns: bool,
    /// What an agent pays from that has no budget of its own.
    common: Arc<Purse>,
    /// What the agents pay from that have one.
    of_agents: HashMap<Arc<str>, Arc<Purse>>,
}

/// Whether the call that something is held for is intended on record: from there on it may have been made.
pub(super) type Intended = Arc<AtomicBool>;

impl Funds {
    /// Opens the accounts of a run of a network; `past` is what it has done, if it is taken up again. What was held then
    /// counts as spent, since nobody knows what became of the calls.
    pub(super) fn new(network: &NetworkSpec, stream: &Stream, past: Option<&RunState>, recorder: &Recorder) -> Self {
        let clock = recorder.clock();
        let of_run = |name: AccountName, spent: Amount, caps: Vec<Cap>| Source {
            account: recorder.open_account(name, spent),
            caps: caps.into(),
        };
        let spent = past.map(|past| past.spent().plus(past.held())).unwrap_or_default();
        let run = of_run(AccountName::of_run(&stream.run), spent, vec![Cap::of_run(&network.network.limits)]);
        let name_of =
            |budget: &BudgetSpec, agent: &str| AccountName::of_budget(budget, &network.network.name, stream, agent);
        let caps = |budgets: &[&BudgetSpec]| {
            budgets.iter().map(|budget| Cap::of_budget(budget, &network.network.limits)).collect::<Vec<_>>()
        };
        let mut sources = vec![run.clone()];
        for of in [BudgetOf::Session, BudgetOf::Tenant, BudgetOf::Network, BudgetOf::Process] {
            let budgets: Vec<&BudgetSpec> = network.budgets.iter().filter(|budget| budget.of == of).collect();
            let Some(name) = budgets.first().and_then(|budget| name_of(budget, "")) else { continue };
            // Where nothing can be written any more, the run's own first event says so.
            let _ = recorder.expire_unknown(&name);
            sources.push(Source { account: recorder.shared_account(&name), caps: caps(&budgets).into() });
        }
        let mut of_agents = HashMap::new();
        for agent in network.agents.keys() {
            let is_its = |budget: &&BudgetSpec| budget.of == BudgetOf::Agent && name_of(budget, agent).is_some();
            let budgets: Vec<&BudgetSpec> = network.budgets.iter().filter(is_its).collect();
            if let Some(name) = budgets.first().and_then(|budget| name_of(budget, agent)) {
                let spent = past.map(|past| spent_by(past, agent)).unwrap_or_default();
                let of_agent = of_run(name, spent, caps(&budgets));
                let sources = sources.iter().cloned().chain([of_agent]).collect();
                of_agents.insert(agent.as_str().into(), Arc::new(Purse::new(sources)));
            }
        }
        let warns = network.network.limits.warn_at.is_some() || network.budgets.iter().any(|of| of.warn_at.is_some());
        Self { clock, run, warns, common: Arc::new(Purse::new(sources)), of_agents }
    }

    fn of(&self, agent: &str) -> &Arc<Purse> {
        self.of_agents.get(agent).unwrap_or(&self.common)
    }

    fn today(&self) -> Today {
        Today::at(self.clock.now_ms())
    }

    /// Returns the accounts as the ledger opens them.
    pub(super) fn openings(&self) -> Vec<Opening> {
        let purses = [&self.common].into_iter().chain(self.of_agents.values());
        let sources = purses.flat_map(|purse| purse.sources());
        let opening = |Source { account, caps }: &Source| {
            let name = account.name().clone();
            let spent = if name.is_of_run() { account.with(|account| account.spent()) } else { Amount::default() };
            (name.clone(), Opening { name, caps: caps.to_vec(), spent })
        };
        sources.map(opening).collect::<std::collections::BTreeMap<_, _>>().into_values().collect()
    }

    /// Returns what the run's limits leave that is neither held nor spent.
    pub(super) fn free(&self) -> Amount {
        self.run.account.with(|account| account.free(&self.run.caps, self.today()))
    }

    /// Returns the limit of which the smallest share is free, of all that an agent's calls are paid from; with that share.
    pub(super) fn least_share(&self, agent: &str) -> Option<(Limit, f64)> {
        let today = self.today();
        let of_source = |source: &Source| source.account.with(|account| account.least_share(&source.caps, today));
        let shares = self.of(agent).sources().iter().filter_map(of_source);
        shares.min_by(|one, other| one.1.total_cmp(&other.1))
    }

    /// Returns what the run has spent.
    pub(super) fn spent(&self) -> Amount {
        self.run.account.with(|account| account.spent())
    }

    /// Returns by how much providers billed beyond the run's limits.
    pub(super) fn debt(&self) -> Amount {
        self.run.account.with(|account| account.debt(&self.run.caps, self.today()))
    }

    /// Returns what a run says of the limits that an agent's calls are near to.
    pub(super) fn near(&self, agent: &str) -> Vec<Event> {
        if !self.warns {
            return Vec::new();
        }
        let today = self.today();
        let near = |source: &Source| {
            let near = source.account.with(|account| account.near(&source.caps, today));
            let account = source.account.name().clone();
            near.into_iter().map(move |(limit, per, spent)| Event::BudgetLow {
                account: account.clone(),
                limit,
                per,
                spent,
            })
        };
        self.of(agent).sources().iter().flat_map(near).collect()
    }

    /// Reserves for one try of an agent's call.
    pub(super) fn reserve(&self, agent: &str, ask: &Ask) -> Result<Hold, Refusal> {
        let purse = self.of(agent);
        let (max_output_tokens, held) = purse.reserve(ask, self.today())?;
        Ok(self.hold(purse, ask, max_output_tokens, held))
    }

    fn hold(&self, purse: &Arc<Purse>, ask: &Ask, max_output_tokens: u32, held: Amount) -> Hold {
        let (purse, clock, intended) = (purse.clone(), self.clock, Intended::default());
        Hold { purse, clock, held, counts: ask.counts, max_output_tokens, intended, settled: false }
    }

    /// Does the same with the bug [`Bug::ReservedInTwo`].
    pub(super) async fn reserve_in_two(&self, agent: &str, ask: &Ask) -> Result<Hold, Refusal> {
        let purse = self.of(agent);
        let copy = |source: &Source| {
            let account = SharedAccount::new(source.account.name().clone(), source.account.with(|account| *account));
            Source { account: Arc::new(account), caps: source.caps.clone() }
        };
        let seen = Purse::new(purse.sources().iter().map(copy).collect());
        let (max_output_tokens, held) = seen.reserve(ask, self.today())?;
        tokio::task::yield_now().await;
        for (source, seen) in purse.sources().iter().zip(seen.sources()) {
            let seen = seen.account.with(|account| *account);
            source.account.with(|account| *account = seen);
        }
        Ok(self.hold(purse, ask, max_output_tokens, held))
    }

    /// Returns for each of an agent's accounts what is ready when something is freed in it from now on. To be asked for before
    /// something is reserved, so that nothing in between is missed.
    pub(super) fn freed(&self, agent: &str) -> [Option<Notified<'_>>; MAX_SOURCES] {
        self.of(agent).freed()
    }
}

/// Returns what the instances of an agent have spent, what is held for them included.
fn spent_by(past: &RunState, agent: &str) -> Amount {
    let is_its = |id| past.agents().get(id).is_some_and(|instance| *instance.name == *agent);
    let of_instances = past.agents().values().filter(|instance| *instance.name == *agent).map(|instance| Amount {
        model_calls: instance.totals.model_calls,
        tool_calls: instance.totals.tool_calls,
        tokens: instance.totals.charged_tokens,
        cost_nano_usd: instance.totals.cost_nano_usd,
        ..Amount::default()
    });
    let held = past.open_calls().filter(|(call, _)| is_its(&call.agent)).map(|(_, open): (_, &OpenCall)| open.held);
    of_instances.chain(held).fold(Amount::default(), Amount::plus)
}

/// What is held for one try of a call. Dropped before the call is intended, it gives everything back; dropped after,
/// by a cancel or a panic, it is charged in full, since nobody knows what the provider will bill.
pub(super) struct Hold {
    purse: Arc<Purse>,
    clock: Clock,
    pub(super) held: Amount,
    /// The part that is charged however the try ends.
    pub(super) counts: Amount,
    /// How many tokens the call may write.
    pub(super) max_output_tokens: u32,
    intended: Intended,
    settled: bool,
}

impl Hold {
    /// Returns what is to be set when the intent is recorded. It is the run's supervisor that sets it: the task that waits
    /// for that may be stopped before it hears of it.
    pub(super) fn intended(&self) -> Intended {
        self.intended.clone()
    }

    /// Replaces the hold by what the call did cost.
    pub(super) fn settle(mut self, actual: Amount) {
        self.settled = true;
        let today = Today::at(self.clock.now_ms());
        self.purse.settle(self.held, actual, today);
        if fault::is_planted(Bug::SettledTwice) {
            self.purse.settle(Amount::default(), actual, today);
        }
        if !fault::is_planted(Bug::FreedNotTold) {
            self.purse.tell_freed();
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        match self.intended.load(Ordering::Relaxed) {
            true => self.purse.settle(self.held, self.held, Today::at(self.clock.now_ms())),
            false => self.purse.release(self.held),
        }
        self.purse.tell_freed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Rates;
    use crate::run::RunId;

    fn funds() -> Funds {
        let mut network = NetworkSpec::default();
        (network.network.limits.model_calls, network.network.limits.tokens) = (Some(1), Some(1_000));
        let stream = Stream { run: RunId::new("r"), tenant: "t".into(), session: None };
        Funds::new(&network, &stream, None, &Recorder::in_memory())
    }

    fn reserve(funds: &Funds) -> Result<Hold, Refusal> {
        let rates = Rates::default();
        funds.reserve("a", &Ask { counts: Amount::ONE_STEP, input_tokens: 10, wanted: 90, at_least: 1, rates })
    }

    fn held(funds: &Funds) -> Amount {
        funds.run.account.with(|account| account.held())
    }

    fn spent(funds: &Funds) -> Amount {
        funds.run.account.with(|account| account.spent())
    }

    #[test]
    fn a_call_that_was_never_made_gives_everything_back() {
        let funds = funds();
        drop(reserve(&funds).unwrap());
        assert_eq!((held(&funds), spent(&funds)), Default::default());
        reserve(&funds).unwrap();
    }

    #[test]
    fn a_call_that_broke_off_after_its_intent_is_charged_in_full() {
        let funds = funds();
        let hold = reserve(&funds).unwrap();
        hold.intended().store(true, Ordering::Relaxed);
        drop(hold);
        assert_eq!((held(&funds), spent(&funds).tokens), (Amount::default(), 100));
        assert!(matches!(reserve(&funds), Err(Refusal::Exhausted(_))));
    }

    #[tokio::test]
    async fn who_waits_is_told_when_something_is_freed() {
        let funds = funds();
        let hold = reserve(&funds).unwrap();
        let mut freed = funds.freed("a");
        let Err(Refusal::Held(place, Limit::ModelCalls)) = reserve(&funds) else { panic!("it is held") };
        drop(hold);
        freed[place].take().unwrap().await;
        reserve(&funds).unwrap();
    }
}
