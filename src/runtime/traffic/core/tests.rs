use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::run::{Priority, RunId};
use crate::runtime::traffic::QueueKind;
use crate::spec::ModelSpec;

fn who(tenant: &str, run: &str) -> Who {
    Who { tenant: tenant.into(), weight: 1, run: RunId::new(run), priority: Priority::Normal }
}

fn what(name: &str) -> QueueFor {
    QueueFor::network(QueueKind::ToolCalls, name)
}

/// Tries to pass, and waits where that is not possible.
fn enter(core: &mut Core<u64>, way: Way, number: u64, now: Instant) -> Result<Grant, u64> {
    core.pass(way, 1, now).map_err(|at| core.wait(at, way, 1, who("t", &number.to_string()), number, now))
}

fn told(core: &mut Core<u64>) -> Vec<u64> {
    core.granted.iter().map(|(number, _)| *number).collect()
}

#[test]
fn what_waits_holds_nothing() {
    let (mut core, now) = (Core::default(), Instant::now());
    let narrow = core.open(what("narrow"), Some(1), None);
    let wide = core.open(what("wide"), Some(2), None);
    let (both, one) = ([Some(narrow), Some(wide), None, None], [None, Some(wide), None, None]);
    let first = enter(&mut core, both, 1, now).unwrap();
    assert!(enter(&mut core, both, 2, now).is_err());
    // The second one waits for the narrow one, and is in nobody's way at the wide one.
    assert!(enter(&mut core, one, 3, now).is_ok());
    assert_eq!((core.at(narrow).in_flight, core.at(wide).in_flight), (1, 2));
    core.release(&first, true, now);
    assert_eq!((told(&mut core), core.at(narrow).in_flight, core.at(wide).in_flight), (vec![2], 1, 2));
}

#[test]
fn who_needs_two_is_not_passed_over_for_ever_by_those_who_need_one() {
    let (mut core, now) = (Core::default(), Instant::now());
    let gates = ["a", "b"].map(|name| core.open(what(name), Some(1), None));
    let alone = gates.map(|gate| match gate == gates[0] {
        true => [Some(gate), None, None, None],
        false => [None, Some(gate), None, None],
    });
    let mut number = 0;
    let mut inside = alone.map(|way| enter(&mut core, way, 0, now).unwrap());
    assert!(enter(&mut core, [Some(gates[0]), Some(gates[1]), None, None], u64::MAX, now).is_err());
    // At each there is always one more that waits, and they are never free at the same time.
    for round in 0..100 {
        let nth = round % 2;
        number += 1;
        let _ = enter(&mut core, alone[nth], number, now);
        core.release(&inside[nth], true, now);
        for (told, grant) in std::mem::take(&mut core.granted) {
            if told == u64::MAX {
                assert!(round < 6 * usize::from(PATIENCE), "{round}");
                return;
            }
            inside[nth] = grant;
        }
    }
    panic!("it starves");
}

#[test]
fn one_alarm_is_set_for_all_that_wait_for_the_time() {
    let (mut core, now) = (Core::default(), Instant::now());
    let terms = Terms::of(&ModelSpec { requests_per_minute: Some(60), ..ModelSpec::default() });
    let model = core.open(what("model"), None, Some(Throttle::new(&terms)));
    let way = [Some(model), None, None, None];
    assert!(enter(&mut core, way, 0, now).is_ok());
    for number in 1..=3 {
        assert!(enter(&mut core, way, number, now).is_err());
    }
    for second in 1..=3_u64 {
        let at = now + Duration::from_secs(second);
        assert_eq!(std::mem::take(&mut core.alarms), [(model, at)]);
        core.ring(model, at - Duration::from_millis(1));
        assert!(core.granted.is_empty());
        core.alarms.clear();
        core.ring(model, at);
        assert_eq!(told(&mut core), [second]);
        core.granted.clear();
    }
    assert!(core.alarms.is_empty(), "nobody waits any more");
}

/// What is done at random to turnstiles.
#[derive(Clone, Copy, Debug)]
enum Step {
    Enter { way: u8, tenant: u8 },
    Release(usize),
    Leave(usize),
    Refused(usize, u8),
    Answered(usize),
    Later(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<u8>(), 0..3_u8).prop_map(|(way, tenant)| Step::Enter { way, tenant }),
        3 => any::<usize>().prop_map(Step::Release),
        1 => any::<usize>().prop_map(Step::Leave),
        1 => (any::<usize>(), 0..9_u8).prop_map(|(nth, secs)| Step::Refused(nth, secs)),
        1 => any::<usize>().prop_map(Step::Answered),
        1 => (0..3_000_u16).prop_map(Step::Later),
    ]
}

struct World {
    core: Core<u64>,
    now: Instant,
    inside: BTreeMap<u64, Grant>,
    waiting: BTreeMap<u64, u64>,
}

impl World {
    fn heard(&mut self) {
        for (number, grant) in std::mem::take(&mut self.core.granted) {
            self.waiting.remove(&number).unwrap();
            self.inside.insert(number, grant);
        }
    }

    /// Each turnstile counts those who are in it, lets in no more than its width, and lets nobody wait without a reason.
    fn check(&self, gates: &[Gate]) {
        for gate in gates {
            let turns = self.core.at(*gate);
            let inside = self.inside.values().filter(|grant| grant.way.contains(&Some(*gate))).count() as u32;
            let held = self
                .core
                .waiting
                .values()
                .filter(|waiter| waiter.way.into_iter().flatten().take(waiter.has).any(|had| had == *gate));
            assert_eq!(turns.in_flight, inside + held.count() as u32);
            assert!(turns.width.is_none_or(|width| turns.in_flight <= width));
            assert!(turns.waiting() == 0 || !matches!(turns.room(self.now), Room::Now), "{turns:?}");
        }
        assert_eq!(gates.iter().map(|gate| self.core.at(*gate).waiting()).sum::<usize>(), self.waiting.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn all_come_home(steps in prop::collection::vec(step(), 1..250)) {
        let mut core = Core::default();
        let now = Instant::now();
        let terms = Terms::of(&ModelSpec { requests_per_minute: Some(600), ..ModelSpec::default() });
        let gates = [
            core.open(what("model"), Some(3), Some(Throttle::new(&terms))),
            core.open(what("network"), Some(2), None),
            core.open(what("run"), Some(2), None),
            core.open(what("agent"), Some(1), None),
        ];
        let mut world = World { core, now, inside: BTreeMap::new(), waiting: BTreeMap::new() };
        let nth = |from: usize, of: usize| from % of.max(1);
        for (number, step) in steps.into_iter().enumerate() {
            let (number, now) = (number as u64, world.now);
            match step {
                Step::Enter { way, tenant } => {
                    let mut bit = 0;
                    let way: Way = gates.map(|gate| {
                        bit += 1;
                        (way >> bit & 1 == 1).then_some(gate)
                    });
                    match world.core.pass(way, 1, now) {
                        Ok(grant) => _ = world.inside.insert(number, grant),
                        Err(at) => {
                            let who = who(&tenant.to_string(), &format!("{}", number % 5));
                            let place = world.core.wait(at, way, 1, who, number, now);
                            world.waiting.insert(number, place);
                        }
                    }
                }
                Step::Release(which) => {
                    let which = nth(which, world.inside.len());
                    if let Some(number) = world.inside.keys().nth(which).copied() {
                        let grant = world.inside.remove(&number).unwrap();
                        world.core.release(&grant, true, now);
                    }
                }
                Step::Leave(which) => {
                    let which = nth(which, world.waiting.len());
                    if let Some(number) = world.waiting.keys().nth(which).copied() {
                        let place = world.waiting.remove(&number).unwrap();
                        world.core.leave(place, now);
                        world.core.leave(place, now);
                    }
                }
                Step::Refused(which, secs) => {
                    if let Some(grant) = world.inside.values().nth(nth(which, world.inside.len())).copied() {
                        let pause = Some(Duration::from_secs(secs.into()));
                        world.core.learn(&grant, Outcome::Refused { pause }, now);
                    }
                }
                Step::Answered(which) => {
                    if let Some(grant) = world.inside.values().nth(nth(which, world.inside.len())).copied() {
                        world.core.learn(&grant, Outcome::Answered { pause: None }, now);
                    }
                }
                Step::Later(millis) => world.now += Duration::from_millis(millis.into()),
            }
            // Alarms that are due ring.
            let alarms = std::mem::take(&mut world.core.alarms);
            for (gate, at) in alarms {
                if at <= world.now { world.core.ring(gate, world.now) } else { world.core.alarms.push((gate, at)) }
            }
            gates.iter().for_each(|gate| world.core.ring(*gate, world.now));
            world.heard();
            world.check(&gates);
        }
        // Everybody goes, in whatever order, and nothing is left.
        for _ in 0..1_000 {
            world.now += Duration::from_secs(130);
            if let Some((_, grant)) = world.inside.pop_first() {
                world.core.release(&grant, true, world.now);
            }
            gates.iter().for_each(|gate| world.core.ring(*gate, world.now));
            world.heard();
        }
        prop_assert!(world.waiting.is_empty(), "{:?} wait for nothing", world.waiting);
        gates.iter().for_each(|gate| assert_eq!(world.core.at(*gate).in_flight, 0));
    }
}
