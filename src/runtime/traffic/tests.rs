//! Turnstiles on tokio, on a paused clock.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::task::JoinSet;

use super::*;
use crate::run::{Priority, RunId};
use crate::spec::{Breaker, ModelSpec, ProviderKind, SecretRef, Span};

fn who(tenant: &str, weight: u32, run: usize) -> Who {
    Who { tenant: tenant.into(), weight, run: RunId::new(format!("{tenant}{run}")), priority: Priority::Normal }
}

fn what(name: &str) -> QueueFor {
    QueueFor::network(QueueKind::ToolCalls, name)
}

fn through(turnstile: &Turnstile) -> Through {
    Through::new([Some(turnstile), None, None, None])
}

/// A draw that is the same each time.
struct Draw(u64);

impl Draw {
    /// The generator of G. Steele, D. Lea and C. Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }
}

/// One that acquires, and then is done, cancelled, timed out or panics, at random moments.
async fn one(traffic: Arc<Traffic>, through: Through, who: Who, mut draw: Draw) {
    let millis = |draw: &mut Draw| Duration::from_millis(draw.below(20));
    tokio::time::sleep(millis(&mut draw)).await;
    let bounds = QueueSpec { capacity: 5_000, timeout: Span::from_millis(1 + draw.below(40)) };
    let (fate, patience, work) = (draw.below(4), millis(&mut draw), millis(&mut draw));
    let call = async {
        let permit = traffic.pass(through, draw.below(100), who, Some(&bounds)).await?;
        tokio::time::sleep(work).await;
        match draw.below(8) {
            0 => permit.learn(Outcome::Refused { pause: Some(Duration::from_millis(draw.below(30))) }),
            1 => permit.learn(Outcome::Failed),
            _ => permit.learn(Outcome::Answered { pause: None }),
        }
        if fate == 0 {
            // Without a word: it is meant.
            std::panic::resume_unwind(Box::new("as it was to be"));
        }
        permit.used(draw.below(100));
        permit.release();
        Ok::<_, NoTurn>(())
    };
    let call = AssertUnwindSafe(call).catch_unwind();
    match fate {
        1 => drop(tokio::time::timeout(patience, call).await),
        _ => drop(call.await),
    }
}

#[tokio::test(start_paused = true)]
async fn after_100_000_random_sequences_all_permits_are_home() {
    let traffic = Arc::<Traffic>::default();
    let spec = ModelSpec { in_flight: Some(200), tokens_per_minute: Some(1_000_000_000), ..ModelSpec::default() };
    let model = traffic.provider("m", None, &Terms::of(&spec));
    let network = traffic.turnstile(what("network"), Some(150)).unwrap();
    let runs: Vec<Turnstile> = (0..10).map(|_| traffic.turnstile(what("run"), Some(30)).unwrap()).collect();
    for round in 0..20_u64 {
        let mut calls = JoinSet::new();
        for nth in 0..5_000_u64 {
            let (run, mut draw) = (nth as usize % 10, Draw(round << 32 | nth));
            let tenant = ["a", "b", "c"][nth as usize % 3];
            let all = [Some(&*model), Some(&network), Some(&runs[run]), None];
            let through = Through::new(all.map(|turnstile| turnstile.filter(|_| draw.below(4) != 0)));
            let call = calls.spawn(one(traffic.clone(), through, who(tenant, 1, run), draw));
            if nth % 50 == 0 {
                // Before it has begun, or in the midst of it.
                let after = Duration::from_millis(nth % 60);
                calls.spawn(async move {
                    tokio::time::sleep(after).await;
                    call.abort();
                });
            }
        }
        while calls.join_next().await.is_some() {}
    }
    traffic.with(|core| {
        for turnstile in [&*model, &network].into_iter().chain(&runs) {
            assert_eq!((core.at(turnstile.gate).in_flight, core.at(turnstile.gate).waiting()), (0, 0));
        }
    });
    assert!(traffic.queues().iter().all(|queue| queue.waiting == 0 && queue.closed_for.is_some()));
    drop((model, network, runs));
}

/// How long calls of the small tenant wait, each of which takes 10 ms at a turnstile of a width, the longest last.
async fn waits(width: u32, big: usize, weights: [u32; 2]) -> Vec<Duration> {
    let traffic = Arc::<Traffic>::default();
    let turnstile = Arc::new(traffic.turnstile(what("model"), Some(width)).unwrap());
    let mut calls = JoinSet::new();
    let waits = Arc::<Mutex<Vec<Duration>>>::default();
    let mut call = |who: Who| {
        let is_small = &*who.tenant == "small";
        let (traffic, turnstile, waits) = (traffic.clone(), turnstile.clone(), waits.clone());
        calls.spawn(async move {
            let began = Instant::now();
            let permit = traffic.pass(through(&turnstile), 0, who, None).await.unwrap();
            if is_small {
                waits.lock().unwrap().push(began.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            permit.release();
        });
    };
    (0..big).for_each(|run| call(who("big", weights[0], run)));
    tokio::time::sleep(Duration::from_millis(35)).await;
    (0..10).for_each(|run| call(who("small", weights[1], run)));
    while waits.lock().unwrap().len() < 10 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut waits = waits.lock().unwrap().clone();
    waits.sort();
    waits
}

#[tokio::test(start_paused = true)]
async fn a_small_tenant_waits_no_longer_than_at_its_fair_share_alone() {
    // Alone at a turnstile of half the width, which is its share of two; and beside 10,000 that wait.
    let (alone, beside) = (waits(2, 0, [1, 1]).await, waits(4, 10_000, [1, 1]).await);
    let (alone, beside) = (alone[9], beside[9]);
    assert!(!alone.is_zero() && beside <= 2 * alone, "{beside:?} beside others, {alone:?} alone");
    // By weight, four of five.
    let weighted = waits(5, 10_000, [1, 4]).await[9];
    let alone = waits(4, 0, [1, 1]).await[9];
    assert!(weighted <= 2 * alone, "{weighted:?} beside others, {alone:?} alone");
}

#[tokio::test(start_paused = true)]
async fn waiting_is_bounded_in_number_and_in_time() {
    let traffic = Arc::<Traffic>::default();
    let turnstile = traffic.turnstile(QueueFor::model("m", None), Some(1)).unwrap();
    let bounds = QueueSpec { capacity: 1, timeout: Span::from_secs(5) };
    let pass = |run| traffic.pass(through(&turnstile), 0, who("t", 1, run), Some(&bounds));
    let inside = pass(1).await.unwrap();
    let mut second = Box::pin(pass(2));
    assert!(futures_util::poll!(&mut second).is_pending());
    let full = pass(3).await.err().unwrap();
    assert_eq!(
        full.to_string(),
        "1 wait for the model m already, and no more may (`queue.capacity` under [network.fleet])"
    );
    tokio::time::advance(Duration::from_secs(2)).await;
    let [queue] = &traffic.queues()[..] else { panic!() };
    let second_run = InLine { tenant: "t".into(), run: RunId::new("t2"), priority: Priority::Normal, calls: 1 };
    assert_eq!(queue.who, [second_run]);
    assert_eq!((queue.in_flight, queue.waiting, queue.longest), (1, 1, Duration::from_secs(2)));
    assert_eq!(second.await.err(), Some(NoTurn::TooLong { waited: Duration::from_secs(5) }));
    drop(inside);
    assert!(pass(4).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_granted_to_one_that_goes_in_the_same_moment_goes_to_the_next() {
    let traffic = Arc::<Traffic>::default();
    let turnstile = traffic.turnstile(what("m"), Some(1)).unwrap();
    let inside = traffic.try_pass(through(&turnstile), 0).unwrap();
    let mut second = Box::pin(traffic.pass(through(&turnstile), 0, who("t", 1, 2), None));
    let mut third = Box::pin(traffic.pass(through(&turnstile), 0, who("t", 1, 3), None));
    assert!(futures_util::poll!(&mut second).is_pending() && futures_util::poll!(&mut third).is_pending());
    drop(inside);
    // The second one was granted it, and never looked.
    drop(second);
    drop(third.await.unwrap());
    assert!(traffic.try_pass(through(&turnstile), 0).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_holds_for_all_and_one_goes_first_after_it() {
    let traffic = Arc::<Traffic>::default();
    let model = traffic.provider("m", None, &Terms::of(&ModelSpec::default()));
    let first = traffic.try_pass(through(&model), 0).unwrap();
    let other = traffic.try_pass(through(&model), 0).unwrap();
    first.learn(Outcome::Refused { pause: Some(Duration::from_secs(2)) });
    first.release();
    assert!(!other.is_current(), "what was let in and has not been sent is held back");
    let began = Instant::now();
    let pass = |run| traffic.pass(through(&model), 0, who("t", 1, run), None);
    let (mut one, mut two) = (Box::pin(pass(1)), Box::pin(pass(2)));
    assert!(futures_util::poll!(&mut one).is_pending() && futures_util::poll!(&mut two).is_pending());
    assert_eq!(traffic.queues()[0].closed_for, Some(Duration::from_secs(2)));
    drop(other);
    let probe = one.await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    assert!(futures_util::poll!(&mut two).is_pending(), "one call tries whether the provider is well again");
    probe.learn(Outcome::Answered { pause: None });
    probe.release();
    assert!(two.await.unwrap().is_current());
}

#[tokio::test(start_paused = true)]
async fn the_one_that_goes_first_waits_for_none_that_went_before_the_refusal() {
    let breaker = Breaker { failures: 1, within: Span::from_secs(9), cool_down: Span::from_secs(1) };
    let spec = ModelSpec { in_flight: Some(3), breaker: Some(breaker), ..ModelSpec::default() };
    for outcome in [Outcome::Refused { pause: Some(Duration::from_secs(1)) }, Outcome::Failed] {
        let traffic = Arc::<Traffic>::default();
        let model = traffic.provider("m", None, &Terms::of(&spec));
        let pass = |run| traffic.pass(through(&model), 0, who("t", 1, run), None);
        let [mut slow, failed] = [1, 2].map(|_| traffic.try_pass(through(&model), 0).unwrap());
        slow.sent();
        failed.learn(outcome);
        failed.release();
        let began = Instant::now();
        let first = tokio::time::timeout(Duration::from_secs(60), pass(1)).await.unwrap().unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(1), "{outcome:?}");
        assert!(traffic.try_pass(through(&model), 0).is_none(), "but it is one");
        // That an old one comes back makes no room for another, and what it came to is no news.
        slow.learn(Outcome::Answered { pause: None });
        slow.release();
        assert!(traffic.try_pass(through(&model), 0).is_none());
        first.learn(Outcome::Answered { pause: None });
        first.release();
        assert!(traffic.try_pass(through(&model), 0).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_made_takes_nothing_of_the_rate() {
    let traffic = Arc::<Traffic>::default();
    let spec = ModelSpec { requests_per_minute: Some(60), tokens_per_minute: Some(60_000), ..ModelSpec::default() };
    let model = traffic.provider("m", None, &Terms::of(&spec));
    for _ in 0..100 {
        drop(traffic.try_pass(through(&model), 30_000).unwrap());
    }
    let mut made = traffic.try_pass(through(&model), 30_000).unwrap();
    made.sent();
    made.release();
    let began = Instant::now();
    drop(traffic.pass(through(&model), 30_000, who("t", 1, 1), None).await.unwrap());
    assert!(began.elapsed() > Duration::from_secs(25), "{:?}", began.elapsed());
}

/// Run by `just pass`: what is measured on a busy machine says little, and is no test.
#[test]
#[ignore = "a measurement, for a release build"]
fn what_a_pass_costs() {
    const ROUNDS: u32 = 1_000_000;
    let traffic = Arc::<Traffic>::default();
    let narrow = traffic.turnstile(what("narrow"), Some(64)).unwrap();
    let spec = ModelSpec { in_flight: Some(64), requests_per_minute: Some(u32::MAX), ..ModelSpec::default() };
    let paced = traffic.provider("m", None, &Terms::of(&spec));
    let semaphore = Arc::new(tokio::sync::Semaphore::new(64));
    let ways = [
        ("one", Through::new([None, Some(&narrow), None, None])),
        ("model", Through::new([Some(&paced), Some(&narrow), None, None])),
    ];
    for threads in [1, 2] {
        let each = |what: &str, pass: &(dyn Fn() + Sync)| {
            let began = std::time::Instant::now();
            std::thread::scope(|scope| {
                (0..threads).for_each(|_| _ = scope.spawn(|| (0..ROUNDS).for_each(|_| pass())));
            });
            println!("{threads} threads, {what}: {:.0} ns", began.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
        };
        each("a semaphore", &|| drop(semaphore.clone().try_acquire_owned().unwrap()));
        for (what, way) in ways {
            each(&format!("a turnstile ({what})"), &|| drop(traffic.try_pass(way, 100)));
        }
    }
}

#[test]
fn networks_share_the_gate_of_a_provider_and_key() {
    let traffic = Arc::<Traffic>::default();
    let spec = |url: &str, model: &str, in_flight| ModelSpec {
        provider: Some(ProviderKind::Openai),
        base_url: Some(url.to_owned()),
        model: Some(model.to_owned()),
        in_flight,
        ..ModelSpec::default()
    };
    let open = |spec: &ModelSpec| traffic.provider("m", Identity::of(spec), &Terms::of(spec));
    let one = open(&spec("http://127.0.0.1:1/v1", "a", Some(9)));
    let same = open(&spec("http://127.0.0.1:1/v1/", "a", Some(2)));
    assert!(Arc::ptr_eq(&one, &same));
    assert_eq!(traffic.with(|core| core.at(one.gate).width()), Some(2), "the lower limit holds");
    for other in [spec("http://127.0.0.1:2/v1", "a", None), spec("http://127.0.0.1:1/v1", "b", None)] {
        assert!(!Arc::ptr_eq(&one, &open(&other)));
    }
    let missing =
        ModelSpec { api_key: Some(SecretRef("env:PROVOST_NO_SUCH_KEY".to_owned())), ..spec("http://x", "a", None) };
    assert_eq!(Identity::of(&missing), None);
    let sim = ModelSpec { provider: Some(ProviderKind::Sim), ..ModelSpec::default() };
    assert!(!Arc::ptr_eq(&open(&sim), &open(&sim)), "each simulated model is its own");
}
