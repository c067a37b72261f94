//! The turnstiles of a process as one state machine: who is in, who waits where, and who goes next. It holds no clock and
//! wakes nobody; what is to be done by others is left in [`Core::granted`] and [`Core::alarms`].
//!
//! Who wants to pass several turnstiles gets all of them at once or none, and waits, holding nothing, at the first one
//! that has no room. So nobody is in another's way by waiting, and there is no deadlock. Who was let through one and found
//! another one shut [`PATIENCE`] times could go on like that for ever; so it then takes them one after the other, in the
//! one order that all take them in, before all others, and keeps what it has. The turnstile of the model or tool comes first
//! in that order, since it is the only one that opens by time: nobody holds anything while a provider is to be left alone.

use std::collections::{BTreeSet, HashMap};

use tokio::time::Instant;

use super::fair::{FairQueue, Who};
use super::queue::QueueFor;
use super::throttle::{Load, Outcome, Terms, Throttle};

/// How often one that waits is passed over for another turnstile's sake.
const PATIENCE: u8 = 4;

/// How many turnstiles one can pass at once: a model's or a tool's, the network's, the run's, the agent's.
pub(super) const MOST: usize = 4;

/// Which turnstile, by its place in the list.
pub(super) type Gate = u32;

/// The turnstiles that somebody wants to pass, in the order in which they are taken.
pub(super) type Way = [Option<Gate>; MOST];

/// What was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) way: Way,
    /// How many tokens it may have.
    pub(super) tokens: u64,
    /// The epoch of the first turnstile.
    pub(super) epoch: u32,
}

/// One turnstile.
#[derive(Debug, Default)]
pub(super) struct Turns {
    pub(super) what: QueueFor,
    /// How many may be in; none for no bound.
    pub(super) width: Option<u32>,
    pub(super) in_flight: u32,
    /// How many of them were let in since its provider closed last: these it has to bear, the others it has borne.
    pub(super) since: u32,
    pub(super) queue: FairQueue,
    /// Those that take one turnstile after the other, before all others.
    pub(super) first: BTreeSet<u64>,
    /// What a model's provider bears.
    pub(super) throttle: Option<Box<Throttle>>,
    /// When it is looked at again, if that is settled.
    alarm: Option<Instant>,
    /// Whether nobody comes any more.
    is_retired: bool,
}

/// Whether a turnstile lets somebody in.
enum Room {
    Now,
    Full,
    At(Instant),
}

impl Turns {
    /// Returns how many may be in now.
    pub(super) fn width(&self) -> Option<u32> {
        let borne = self.throttle.as_ref().and_then(|throttle| throttle.width());
        self.width.into_iter().chain(borne).min()
    }

    /// Returns until when it is closed, if it is.
    pub(super) fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.throttle.as_ref()?.closed_until(now)
    }

    fn room(&self, now: Instant) -> Room {
        let borne = self.throttle.as_ref().and_then(|throttle| throttle.width());
        if self.width.is_some_and(|width| self.in_flight >= width) || borne.is_some_and(|borne| self.since >= borne) {
            return Room::Full;
        }
        match self.throttle.as_ref().and_then(|throttle| throttle.opens_at(now)) {
            Some(opens) => Room::At(opens),
            None => Room::Now,
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len() + self.first.len()
    }

    fn take(&mut self, tokens: u64, now: Instant) {
        self.in_flight += 1;
        self.since += 1;
        self.throttle.iter_mut().for_each(|throttle| throttle.take(tokens, now));
    }

    fn is_unused(&self) -> bool {
        self.is_retired && self.in_flight == 0 && self.waiting() == 0
    }
}

/// One that waits.
#[derive(Debug)]
pub(super) struct Waiter<T> {
    pub(super) way: Way,
    pub(super) tokens: u64,
    pub(super) who: Who,
    pub(super) since: Instant,
    /// Whom it is told.
    pub(super) tell: T,
    at: Gate,
    passed_over: u8,
    /// How many of its way it has, if it takes them one after the other.
    has: usize,
    /// The epoch of its provider in which it took that one.
    epoch: u32,
}

/// All turnstiles.
#[derive(Debug)]
pub(super) struct Core<T> {
    gates: Vec<Turns>,
    free: Vec<Gate>,
    waiting: HashMap<u64, Waiter<T>>,
    arrivals: u64,
    /// Those who were let in and have not been told.
    pub(super) granted: Vec<(T, Grant)>,
    /// When which turnstile is to be looked at again.
    pub(super) alarms: Vec<(Gate, Instant)>,
}

impl<T> Default for Core<T> {
    fn default() -> Self {
        let (gates, free, waiting) = (Vec::new(), Vec::new(), HashMap::new());
        Self { gates, free, waiting, arrivals: 0, granted: Vec::new(), alarms: Vec::new() }
    }
}

fn gates(way: Way) -> impl Iterator<Item = Gate> + Clone {
    way.into_iter().flatten()
}

impl<T> Core<T> {
    pub(super) fn open(&mut self, what: QueueFor, width: Option<u32>, throttle: Option<Throttle>) -> Gate {
        let turns = Turns { what, width, throttle: throttle.map(Box::new), ..Turns::default() };
        match self.free.pop() {
            Some(gate) => {
                self.gates[gate as usize] = turns;
                gate
            }
            None => {
                self.gates.push(turns);
                (self.gates.len() - 1) as Gate
            }
        }
    }

    /// Lets a turnstile go when the last one is out.
    pub(super) fn retire(&mut self, gate: Gate) {
        self.at_mut(gate).is_retired = true;
        self.reuse(gate);
    }

    fn reuse(&mut self, gate: Gate) {
        if self.at(gate).is_unused() {
            *self.at_mut(gate) = Turns::default();
            self.free.push(gate);
        }
    }

    pub(super) fn at(&self, gate: Gate) -> &Turns {
        &self.gates[gate as usize]
    }

    fn at_mut(&mut self, gate: Gate) -> &mut Turns {
        &mut self.gates[gate as usize]
    }

    /// Returns the turnstiles at which somebody waits or that are closed, with who waits there.
    pub(super) fn queues(&self, now: Instant) -> impl Iterator<Item = (&Turns, Vec<&Waiter<T>>)> {
        let mut crowded: HashMap<Gate, Vec<_>> = HashMap::new();
        self.waiting.values().for_each(|waiter| crowded.entry(waiter.at).or_default().push(waiter));
        let gates = (0..).zip(&self.gates);
        gates.filter_map(move |(gate, turns)| {
            let waiters = crowded.remove(&gate).unwrap_or_default();
            (!waiters.is_empty() || turns.closed_until(now).is_some()).then_some((turns, waiters))
        })
    }

    /// Passes at once, where nothing is in the way; else says which turnstile is.
    pub(super) fn pass(&mut self, way: Way, tokens: u64, now: Instant) -> Result<Grant, Gate> {
        match self.obstacle(way, now) {
            Some(gate) => Err(gate),
            None => {
                gates(way).for_each(|gate| self.at_mut(gate).take(tokens, now));
                Ok(self.grant(way, tokens))
            }
        }
    }

    /// Passes at once, whether there is room or not.
    pub(super) fn enter(&mut self, way: Way, now: Instant) -> Grant {
        gates(way).for_each(|gate| self.at_mut(gate).take(0, now));
        self.grant(way, 0)
    }

    fn grant(&self, way: Way, tokens: u64) -> Grant {
        let throttle = way[0].and_then(|gate| self.at(gate).throttle.as_ref());
        Grant { way, tokens, epoch: throttle.map_or(0, |throttle| throttle.epoch()) }
    }

    fn obstacle(&self, way: Way, now: Instant) -> Option<Gate> {
        gates(way).find(|gate| !matches!(self.at(*gate).room(now), Room::Now))
    }

    /// Waits at a turnstile that is in the way; returns by which number it leaves.
    pub(super) fn wait(&mut self, at: Gate, way: Way, tokens: u64, who: Who, tell: T, now: Instant) -> u64 {
        self.arrivals += 1;
        let number = self.arrivals;
        let waiter = Waiter { way, tokens, who, since: now, tell, at, passed_over: 0, has: 0, epoch: 0 };
        self.waiting.insert(number, waiter);
        self.stand(number, at, now);
        number
    }

    fn stand(&mut self, number: u64, at: Gate, now: Instant) {
        let Some(waiter) = self.waiting.get_mut(&number) else { return };
        waiter.at = at;
        let turns = &mut self.gates[at as usize];
        match waiter.passed_over >= PATIENCE {
            true => _ = turns.first.insert(number),
            false => turns.queue.push(&waiter.who, number),
        }
        self.set_alarm(at, now);
    }

    fn set_alarm(&mut self, gate: Gate, now: Instant) {
        let turns = self.at_mut(gate);
        if let Room::At(opens) = turns.room(now)
            && turns.waiting() > 0
            && turns.alarm.is_none_or(|alarm| opens < alarm)
        {
            turns.alarm = Some(opens);
            self.alarms.push((gate, opens));
        }
    }

    /// Lets in who waits, now that it is time to look.
    pub(super) fn ring(&mut self, gate: Gate, now: Instant) {
        let turns = self.at_mut(gate);
        if turns.alarm.is_some_and(|alarm| alarm <= now) {
            turns.alarm = None;
        }
        self.serve(gate, now);
    }

    /// Lets in who waits, as many as there is room for.
    fn serve(&mut self, gate: Gate, now: Instant) {
        loop {
            let turns = self.at_mut(gate);
            match turns.room(now) {
                Room::Now => {}
                Room::Full => return,
                Room::At(_) => return self.set_alarm(gate, now),
            }
            let Some(number) = turns.first.pop_first().or_else(|| turns.queue.pop()) else { return };
            self.advance(number, now);
        }
    }

    /// Lets one in whose turn it is, or sends it to what else is in its way.
    fn advance(&mut self, number: u64, now: Instant) {
        let Some(waiter) = self.waiting.get(&number) else { return };
        let (way, tokens, has) = (waiter.way, waiter.tokens, waiter.has);
        let mut grant = self.grant(way, tokens);
        if waiter.passed_over < PATIENCE {
            if let Some(obstacle) = self.obstacle(way, now) {
                self.waiting.entry(number).and_modify(|waiter| waiter.passed_over += 1);
                return self.stand(number, obstacle, now);
            }
            gates(way).for_each(|gate| self.at_mut(gate).take(tokens, now));
        } else {
            for (nth, gate) in gates(way).enumerate().skip(has) {
                if !matches!(self.at(gate).room(now), Room::Now) {
                    self.waiting.entry(number).and_modify(|waiter| waiter.has = nth);
                    return self.stand(number, gate, now);
                }
                self.at_mut(gate).take(tokens, now);
                let epoch = self.grant(way, tokens).epoch;
                self.waiting
                    .entry(number)
                    .and_modify(|waiter| waiter.epoch = if nth == 0 { epoch } else { waiter.epoch });
            }
            grant.epoch = self.waiting.get(&number).map_or(grant.epoch, |waiter| waiter.epoch);
        }
        if let Some(waiter) = self.waiting.remove(&number) {
            self.granted.push((waiter.tell, grant));
        }
    }

    /// Leaves without having been let in; does nothing for one that has.
    pub(super) fn leave(&mut self, number: u64, now: Instant) {
        let Some(waiter) = self.waiting.remove(&number) else { return };
        let turns = self.at_mut(waiter.at);
        if !turns.first.remove(&number) {
            turns.queue.remove(&waiter.who, number);
        }
        if waiter.has > 0 {
            self.come_out(waiter.way, waiter.epoch);
            self.not_sent(waiter.way, waiter.tokens);
        }
        self.give_back(gates(waiter.way).take(waiter.has), now);
        self.reuse(waiter.at);
    }

    /// Comes out again.
    pub(super) fn release(&mut self, grant: &Grant, is_sent: bool, now: Instant) {
        self.come_out(grant.way, grant.epoch);
        if !is_sent {
            self.not_sent(grant.way, grant.tokens);
        }
        self.give_back(gates(grant.way), now);
    }

    /// Counts one less of those that a provider has to bear since it closed last, if it was let in since.
    fn come_out(&mut self, way: Way, epoch: u32) {
        let Some(gate) = way[0] else { return };
        let turns = self.at_mut(gate);
        if turns.throttle.as_ref().is_none_or(|throttle| throttle.epoch() == epoch) {
            turns.since = turns.since.saturating_sub(1);
        }
    }

    /// Gives back what a call took of a rate that was not made after all.
    fn not_sent(&mut self, way: Way, tokens: u64) {
        let throttle = way[0].and_then(|gate| self.at_mut(gate).throttle.as_mut());
        throttle.into_iter().for_each(|throttle| throttle.take_back(tokens));
    }

    fn give_back(&mut self, gates: impl Iterator<Item = Gate> + Clone, now: Instant) {
        for gate in gates.clone() {
            let turns = self.at_mut(gate);
            turns.in_flight = turns.in_flight.saturating_sub(1);
        }
        for gate in gates {
            self.serve(gate, now);
            self.reuse(gate);
        }
    }

    /// Learns what a call came to, before it comes out.
    pub(super) fn learn(&mut self, grant: &Grant, outcome: Outcome, now: Instant) {
        let Some(gate) = grant.way[0] else { return };
        let turns = self.at_mut(gate);
        let load = Load { in_flight: turns.in_flight, since: turns.since, declared: turns.width };
        if let Some(throttle) = &mut turns.throttle {
            let epoch = throttle.epoch();
            throttle.learn(outcome, grant.epoch, load, now);
            if throttle.epoch() != epoch {
                turns.since = 0;
            }
            self.serve(gate, now);
        }
    }

    /// Whether what was let in may still go on: whether the first turnstile has not closed since.
    pub(super) fn is_current(&self, grant: &Grant, now: Instant) -> bool {
        let throttle = grant.way[0].and_then(|gate| self.at(gate).throttle.as_ref());
        throttle.is_none_or(|throttle| throttle.epoch() == grant.epoch && throttle.closed_until(now).is_none())
    }

    /// Does something with what is known of a provider.
    pub(super) fn throttle<R>(&mut self, gate: Gate, work: impl FnOnce(&mut Throttle) -> R) -> Option<R> {
        self.at_mut(gate).throttle.as_mut().map(|throttle| work(throttle))
    }

    /// Takes on what another network says of a turnstile.
    pub(super) fn tighten(&mut self, gate: Gate, terms: &Terms) {
        let turns = self.at_mut(gate);
        turns.width = turns.width.into_iter().chain(terms.in_flight).min();
        turns.throttle.iter_mut().for_each(|throttle| throttle.tighten(terms));
    }
}

#[cfg(test)]
mod tests;
