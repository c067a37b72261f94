//! A fair queue: tenants by weighted start-time fair queueing, the runs of a tenant by self-clocked fair queueing with their
//! priorities for weights (low 1, normal 4, high 16), and a run's calls in the order of their arrival.
//!
//! Start-time fair queueing is that of P. Goyal, H. Vin and H. Cheng, "Start-time fair queueing: a scheduling algorithm for
//! integrated services packet switching networks" (SIGCOMM 1996), with calls for packets, all of length one. Of two tenants
//! that both wait, with weights v and w, what each has been served, divided by its weight, differs by 1/v + 1/w at most.
//!
//! Self-clocked fair queueing is that of S. J. Golestani, "A self-clocked fair queueing scheme for broadband applications"
//! (INFOCOM 1994). It goes by when a call would be done, not by when it would begin, so that a priority tells already
//! among runs that have one call each, as all have that wait for `runs_in_flight`; and who has been served has no lead
//! that would have to be remembered. Runs come without end, and so the bound counts only those that wait at once: since
//! a run of weight q comes back, or another one in its place, no sooner than 1/q later, one of weight p goes after at
//! most ⌈q/p⌉ calls for each that waits beside it, whoever comes meanwhile.
//!
//! So no run starves. With R runs of its tenant that wait at once, of weights P in all, a run of weight p has its next call
//! served after at most P/p + R turns of its tenant; and if that has weight w of W in all, of T tenants that wait
//! meanwhile, after at most (P/p + R)·W/w + T calls of others. A priority stands nowhere in W/w: it takes nothing from
//! another tenant.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use crate::run::{Priority, RunId};

/// How far who has weight one comes with one call; a multiple of most weights, so that little is lost by rounding.
const STRIDE: u64 = 1 << 20;

/// Beside how many that wait those are remembered that waited before: they are looked through when there are more.
const REMEMBERED: usize = 64;

/// Who waits.
#[derive(Clone, Debug)]
pub(in crate::runtime) struct Who {
    pub(in crate::runtime) tenant: Arc<str>,
    /// What the tenant's share is, beside the others'.
    pub(in crate::runtime) weight: u32,
    pub(in crate::runtime) run: RunId,
    /// What the run's share is, beside the tenant's others.
    pub(in crate::runtime) priority: Priority,
}

/// A fair queue of numbers, which rise with the time of arrival. All operations take a time that is logarithmic in what
/// waits.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    tenants: Shares<Arc<str>, Runs, BY_START>,
    len: usize,
}

type Runs = Shares<RunId, BTreeSet<u64>, BY_FINISH>;

/// Who would begin first is next.
const BY_START: bool = false;

/// Who would be done first is next.
const BY_FINISH: bool = true;

impl FairQueue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, who: &Who, number: u64) {
        let runs = self.tenants.enter(&who.tenant, who.weight);
        self.len += usize::from(runs.enter(&who.run, who.priority.weight()).insert(number));
    }

    /// Takes out who is next.
    pub(super) fn pop(&mut self) -> Option<u64> {
        let tenant = self.tenants.first()?;
        let mut number = None;
        self.tenants.serve(&tenant, |runs| {
            if let Some(run) = runs.first() {
                runs.serve(&run, |calls| number = calls.pop_first());
            }
        });
        self.len -= usize::from(number.is_some());
        number
    }

    /// Takes out one that waits no more.
    pub(super) fn remove(&mut self, who: &Who, number: u64) -> bool {
        let mut was_there = false;
        self.tenants.leave(&who.tenant, |runs| runs.leave(&who.run, |calls| was_there = calls.remove(&number)));
        self.len -= usize::from(was_there);
        was_there
    }
}

/// What can be queued for a share.
trait Line: Default {
    fn is_empty(&self) -> bool;
}

impl Line for BTreeSet<u64> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl<K, L, const BY: bool> Line for Shares<K, L, BY> {
    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// Lines that are served in proportion to their weights.
#[derive(Debug)]
struct Shares<K, L, const BY: bool> {
    /// The tag of what was served last.
    clock: u64,
    /// Those that wait, by their tags and, where these are the same, in the order in which they came to be next.
    order: BTreeMap<(u64, u64), K>,
    shares: HashMap<K, Share<L>>,
    turns: u64,
}

#[derive(Debug)]
struct Share<L> {
    weight: u64,
    /// Where it stands in the order, if it waits.
    place: (u64, u64),
    /// The finish tag of what was served of it last.
    finish: u64,
    line: L,
}

impl<L> Share<L> {
    /// How far it comes with one call.
    fn stride(&self) -> u64 {
        STRIDE / self.weight.min(STRIDE)
    }

    /// Returns by what its next call stands in the order, which would begin then.
    fn tag(&self, start: u64, by: bool) -> u64 {
        if by == BY_FINISH { start + self.stride() } else { start }
    }
}

impl<K, L, const BY: bool> Default for Shares<K, L, BY> {
    fn default() -> Self {
        Self { clock: 0, order: BTreeMap::new(), shares: HashMap::new(), turns: 0 }
    }
}

impl<K: Clone + Eq + Hash, L: Line, const BY: bool> Shares<K, L, BY> {
    /// Returns a line, into which something is put at once.
    fn enter(&mut self, key: &K, weight: u32) -> &mut L {
        let new = || Share { weight: 1, place: (0, 0), finish: 0, line: L::default() };
        let share = self.shares.entry(key.clone()).or_insert_with(new);
        share.weight = u64::from(weight.max(1));
        if share.line.is_empty() {
            self.turns += 1;
            share.place = (share.tag(self.clock.max(share.finish), BY), self.turns);
            self.order.insert(share.place, key.clone());
        }
        &mut share.line
    }

    /// Returns whose turn it is.
    fn first(&self) -> Option<K> {
        self.order.first_key_value().map(|(_, key)| key.clone())
    }

    /// Takes one out of the line whose turn it is.
    fn serve(&mut self, key: &K, take: impl FnOnce(&mut L)) {
        let Some(share) = self.shares.get_mut(key) else { return };
        self.order.remove(&share.place);
        take(&mut share.line);
        self.clock = share.place.0;
        share.finish = if BY == BY_FINISH { self.clock } else { self.clock + share.stride() };
        if !share.line.is_empty() {
            self.turns += 1;
            share.place = (share.tag(share.finish, BY), self.turns);
            self.order.insert(share.place, key.clone());
        }
        self.forget();
    }

    /// Takes something out of a line out of turn.
    fn leave(&mut self, key: &K, take: impl FnOnce(&mut L)) {
        let Some(share) = self.shares.get_mut(key) else { return };
        take(&mut share.line);
        if share.line.is_empty() {
            self.order.remove(&share.place);
        }
        self.forget();
    }

    /// Forgets those that waited and have no lead that they would have to wait out.
    fn forget(&mut self) {
        if self.order.is_empty() {
            self.shares.clear();
        } else if self.shares.len() > 2 * self.order.len() + REMEMBERED {
            let clock = self.clock;
            self.shares.retain(|_, share| !share.line.is_empty() || share.finish > clock);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn who(tenant: &str, weight: u32, run: &str) -> Who {
        Who { tenant: tenant.into(), weight, run: RunId::new(run), priority: Priority::Normal }
    }

    fn prior(tenant: &str, weight: u32, run: &str, priority: Priority) -> Who {
        Who { priority, ..who(tenant, weight, run) }
    }

    fn served(queue: &mut FairQueue) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn a_run_is_served_in_the_order_of_its_calls_and_runs_in_turn() {
        let mut queue = FairQueue::default();
        for number in 0..3 {
            queue.push(&who("t", 1, "a"), number);
        }
        queue.push(&who("t", 1, "b"), 3);
        queue.push(&who("t", 1, "b"), 4);
        assert_eq!(served(&mut queue), [0, 3, 1, 4, 2]);
    }

    #[test]
    fn tenants_are_served_by_their_weights() {
        let mut queue = FairQueue::default();
        for number in 0..1_000 {
            queue.push(&who("big", 1, "a"), number);
            queue.push(&who("small", 4, "b"), 1_000 + number);
        }
        let first: Vec<u64> = (0..500).filter_map(|_| queue.pop()).collect();
        let of_small = first.iter().filter(|number| **number >= 1_000).count();
        assert!((399..=401).contains(&of_small), "{of_small}");
    }

    #[test]
    fn a_high_run_gets_its_share_beside_many_normal_ones_and_a_low_one_gets_its_own() {
        let mut queue = FairQueue::default();
        for number in 0..500 {
            queue.push(&prior("t", 1, "high", Priority::High), number);
            queue.push(&prior("t", 1, "low", Priority::Low), 1_000 + number);
            (2..22).for_each(|run| queue.push(&who("t", 1, &format!("{run}")), 1_000 * run + number));
        }
        let mut of = BTreeMap::new();
        (0..970).for_each(|_| *of.entry(queue.pop().unwrap() / 1_000).or_insert(0) += 1);
        // Of 16 and 1 and 20 times 4.
        assert!((159..=161).contains(&of[&0]) && (9..=11).contains(&of[&1]), "{of:?}");
        assert!((2..22).all(|run| (39..=41).contains(&of[&run])), "{of:?}");
    }

    #[test]
    fn of_runs_with_one_call_each_the_higher_ones_go_first() {
        let mut queue = FairQueue::default();
        queue.push(&prior("t", 1, "low", Priority::Low), 0);
        (1..4).for_each(|number| queue.push(&who("t", 1, &format!("{number}")), number));
        queue.push(&prior("t", 1, "high", Priority::High), 4);
        assert_eq!(served(&mut queue), [4, 1, 2, 3, 0]);
    }

    #[test]
    fn a_priority_takes_nothing_from_another_tenant() {
        let mut queue = FairQueue::default();
        for number in 0..500 {
            (0..9)
                .for_each(|run| queue.push(&prior("many", 1, &format!("{run}"), Priority::High), 1_000 * run + number));
            queue.push(&prior("one", 1, "low", Priority::Low), 9_000 + number);
        }
        let of_one = (0..500).filter(|_| queue.pop().unwrap() >= 9_000).count();
        assert!((249..=251).contains(&of_one), "{of_one}");
    }

    #[test]
    fn a_low_run_ends_though_high_ones_come_without_end() {
        let mut queue = FairQueue::default();
        let low = prior("t", 1, "low", Priority::Low);
        let high = |number: u64| prior("t", 1, &format!("{number}"), Priority::High);
        (0..5).for_each(|number| queue.push(&low, number));
        (5..8).for_each(|number| queue.push(&high(number), number));
        let (mut number, mut left) = (8, 5);
        while left > 0 {
            match queue.pop().unwrap() {
                0..5 => left -= 1,
                _ => {
                    queue.push(&high(number), number);
                    number += 1;
                }
            }
            assert!(number <= 8 + 5 * 3 * 16, "it starves");
        }
    }

    #[test]
    fn who_comes_late_gets_no_more_than_a_share_from_then_on() {
        let mut queue = FairQueue::default();
        (0..100).for_each(|number| queue.push(&who("one", 1, "a"), number));
        for _ in 0..50 {
            queue.pop();
        }
        (100..150).for_each(|number| queue.push(&who("two", 1, "b"), number));
        let next: Vec<u64> = (0..20).filter_map(|_| queue.pop()).collect();
        let of_two = next.iter().filter(|number| **number >= 100).count();
        assert!((9..=11).contains(&of_two), "{next:?}");
    }

    #[test]
    fn those_are_forgotten_that_wait_no_more() {
        let mut queue = FairQueue::default();
        (0..2).for_each(|number| queue.push(&who("stays", 1, "a"), number));
        for number in 2..10_000 {
            let passer = who(&format!("t{number}"), 1, "b");
            queue.push(&passer, number);
            assert!(queue.remove(&passer, number) && !queue.remove(&passer, number));
        }
        assert!(queue.tenants.shares.len() <= 2 + REMEMBERED + 1, "{}", queue.tenants.shares.len());
        assert_eq!((queue.len(), served(&mut queue)), (2, vec![0, 1]));
        assert!(queue.tenants.shares.is_empty());
    }

    proptest! {
        #[test]
        fn what_each_was_served_differs_by_no_more_than_the_bound(
            weights in prop::collection::vec(1_u32..20, 2..6),
            steps in 1..400_usize,
        ) {
            let mut queue = FairQueue::default();
            for (nth, weight) in weights.iter().enumerate() {
                for call in 0..500 {
                    queue.push(&who(&nth.to_string(), *weight, &call.to_string()), (nth * 500 + call) as u64);
                }
            }
            let mut served = vec![0_u32; weights.len()];
            for _ in 0..steps {
                served[queue.pop().unwrap() as usize / 500] += 1;
                for (v, of_v) in weights.iter().zip(&served) {
                    for (w, of_w) in weights.iter().zip(&served) {
                        let (v, w) = (f64::from(*v), f64::from(*w));
                        let apart = (f64::from(*of_v) / v - f64::from(*of_w) / w).abs();
                        prop_assert!(apart <= 1.0 / v + 1.0 / w + 1e-3, "{served:?} by {weights:?}");
                    }
                }
            }
        }

        #[test]
        fn no_run_starves_whoever_comes(steps in prop::collection::vec((0..3_u8, 0..2_usize, 0..9_usize, 0..3_usize), 1..4_000)) {
            const WEIGHTS: [u32; 2] = [1, 3];
            const RUNS_AT_ONCE: usize = 4;
            let mut queue = FairQueue::default();
            // Of each run that waits: its calls, and how many had been served when the first of them came to be its next.
            let mut lines: BTreeMap<(usize, RunId), (Priority, Vec<u64>, u32)> = BTreeMap::new();
            let mut at_once = [[0_u32; 3]; 2];
            let (mut served, mut waits) = (0, Vec::new());
            for (number, (step, tenant, run, priority)) in steps.into_iter().enumerate() {
                if step == 0 {
                    let Some(number) = queue.pop() else { continue };
                    let found = lines.iter_mut().find(|(_, (_, calls, _))| calls.first() == Some(&number));
                    let ((tenant, run), (priority, calls, since)) = found.unwrap();
                    waits.push((*tenant, *priority, served - *since));
                    calls.remove(0);
                    served += 1;
                    *since = served;
                    let key = (*tenant, run.clone());
                    if calls.is_empty() {
                        lines.remove(&key);
                    }
                    continue;
                }
                // Most come but once; the others come back.
                let name = if run < 3 { format!("{run}") } else { format!("n{number}") };
                let priority = if run < 3 { Priority::ALL[run] } else { Priority::ALL[priority] };
                let who = prior(&tenant.to_string(), WEIGHTS[tenant], &name, priority);
                let key = (tenant, who.run.clone());
                let of_tenant = lines.keys().filter(|(of, _)| *of == tenant).count();
                if !lines.contains_key(&key) && of_tenant >= RUNS_AT_ONCE {
                    continue;
                }
                queue.push(&who, number as u64);
                lines.entry(key).or_insert((priority, Vec::new(), served)).1.push(number as u64);
                for (nth, most) in at_once[tenant].iter_mut().enumerate() {
                    let is_such = |((of, _), (priority, ..)): &(&(usize, RunId), &(Priority, Vec<u64>, u32))| {
                        *of == tenant && *priority == Priority::ALL[nth]
                    };
                    *most = lines.iter().filter(is_such).count().max(*most as usize) as u32;
                }
            }
            waits.extend(lines.iter().map(|((tenant, _), (priority, _, since))| (*tenant, *priority, served - since)));
            for (tenant, priority, others) in waits {
                let weights = Priority::ALL.map(Priority::weight);
                let of_all: u32 = weights.iter().zip(at_once[tenant]).map(|(weight, runs)| weight * runs).sum();
                let runs: u32 = at_once[tenant].iter().sum();
                let turns = f64::from(of_all) / f64::from(priority.weight()) + f64::from(runs);
                let share = f64::from(WEIGHTS[tenant]) / f64::from(WEIGHTS.iter().sum::<u32>());
                prop_assert!(f64::from(others) <= turns / share + 2.0, "{others} before one that is {priority}: {at_once:?}");
            }
        }

        #[test]
        fn nobody_is_lost_and_nobody_served_twice(
            steps in prop::collection::vec((0..4_u8, 0..3_u8, 0..3_u8), 1..300)
        ) {
            let mut queue = FairQueue::default();
            let mut waiting: BTreeMap<u64, Who> = BTreeMap::new();
            for (number, (step, tenant, run)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => {
                        let who = who(&tenant.to_string(), u32::from(tenant) + 1, &format!("{tenant}.{run}"));
                        queue.push(&who, number as u64);
                        waiting.insert(number as u64, who);
                    }
                    2 => match queue.pop() {
                        Some(served) => {
                            let who = waiting.remove(&served).unwrap();
                            let earlier = waiting.iter().find(|(_, other)| other.run == who.run);
                            prop_assert!(earlier.is_none_or(|(other, _)| *other > served));
                        }
                        None => prop_assert!(waiting.is_empty()),
                    },
                    _ => {
                        if let Some((leaver, who)) = waiting.pop_last() {
                            prop_assert!(queue.remove(&who, leaver));
                        }
                    }
                }
                prop_assert_eq!(queue.len(), waiting.len());
            }
        }
    }
}
