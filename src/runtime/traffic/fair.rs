//! A fair queue: tenants by weighted start-time fair queueing, the runs of a tenant in turn, and a run's calls in the order
//! of their arrival.
//!
//! Start-time fair queueing is that of P. Goyal, H. Vin and H. Cheng, "Start-time fair queueing: a scheduling algorithm for
//! integrated services packet switching networks" (SIGCOMM 1996), with calls for packets, all of length one. Of two tenants
//! that both wait, with weights v and w, what each has been served, divided by its weight, differs by 1/v + 1/w at most.
//! So a call that is the first of its run, of a tenant with weight w of W in all and R waiting runs, of T waiting tenants,
//! goes after at most R·W/w + T others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use crate::run::RunId;

/// How far a tenant of weight one comes with one call; a multiple of most weights, so that little is lost by rounding.
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
}

/// A fair queue of numbers, which rise with the time of arrival. All operations take a time that is logarithmic in what
/// waits.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    tenants: Shares<Arc<str>, Runs>,
    len: usize,
}

type Runs = Shares<RunId, BTreeSet<u64>>;

impl FairQueue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, who: &Who, number: u64) {
        let runs = self.tenants.enter(&who.tenant, who.weight);
        self.len += usize::from(runs.enter(&who.run, 1).insert(number));
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

impl<K, L> Line for Shares<K, L> {
    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// Lines that are served in proportion to their weights.
#[derive(Debug)]
struct Shares<K, L> {
    /// The start tag of what was served last.
    clock: u64,
    /// Those that wait, by their start tags and, where these are the same, in the order in which they came to be next.
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

impl<K, L> Default for Shares<K, L> {
    fn default() -> Self {
        Self { clock: 0, order: BTreeMap::new(), shares: HashMap::new(), turns: 0 }
    }
}

impl<K: Clone + Eq + Hash, L: Line> Shares<K, L> {
    /// Returns a line, into which something is put at once.
    fn enter(&mut self, key: &K, weight: u32) -> &mut L {
        let new = || Share { weight: 1, place: (0, 0), finish: 0, line: L::default() };
        let share = self.shares.entry(key.clone()).or_insert_with(new);
        share.weight = u64::from(weight.max(1));
        if share.line.is_empty() {
            self.turns += 1;
            share.place = (self.clock.max(share.finish), self.turns);
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
        share.finish = self.clock + STRIDE / share.weight.min(STRIDE);
        if !share.line.is_empty() {
            self.turns += 1;
            share.place = (share.finish, self.turns);
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
        Who { tenant: tenant.into(), weight, run: RunId::new(run) }
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
