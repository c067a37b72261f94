//! Permits and rates, as runs see them: on a paused clock, against a provider that says how much it bears.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use provost::model::{Error, Provider, Reply, Request};
use provost::run::{Event, RunId, Status, Wait};
use provost::runtime::{Recorder, RunRequest, Runtime};
use provost::spec::{AgentSpec, Breaker, Network, NetworkSpec, Permission, Span};
use provost::tool;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::scripted::{Scripted, calls, network, runtime, step, text};

const LATENCY: Duration = Duration::from_millis(100);
const REFUSES_WITHIN: Duration = Duration::from_millis(10);
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// A provider that bears all until it refuses everything for a while, from a moment on.
#[derive(Clone)]
struct Strained {
    refuses_from: Instant,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    /// When each request came, and whether it was answered.
    came: Vec<(Instant, bool)>,
    /// When a refusal was seen first.
    refused: Option<Instant>,
}

impl Strained {
    fn new(refuses_after: Duration) -> Self {
        Self { refuses_from: Instant::now() + refuses_after, log: Arc::default() }
    }

    async fn answer(&self) -> Result<(), Duration> {
        let came = Instant::now();
        let until = self.refuses_from + RETRY_AFTER;
        let is_refused = came >= self.refuses_from && came < until;
        self.log.lock().unwrap().came.push((came, !is_refused));
        if is_refused {
            sleep(REFUSES_WITHIN).await;
            self.log.lock().unwrap().refused.get_or_insert(Instant::now());
            return Err(RETRY_AFTER);
        }
        sleep(LATENCY).await;
        Ok(())
    }

    fn answered_in(&self, from: Instant, span: Duration) -> usize {
        let log = self.log.lock().unwrap();
        log.came.iter().filter(|(at, is_answered)| *is_answered && *at >= from && *at < from + span).count()
    }

    fn refused(&self) -> usize {
        self.log.lock().unwrap().came.iter().filter(|(_, is_answered)| !is_answered).count()
    }
}

impl Provider for Strained {
    fn call<'a>(
        &'a self,
        request: &'a Request,
        _: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(async move {
            match self.answer().await {
                Err(pause) => Err(Error::RateLimited { retry_after: Some(pause) }),
                Ok(()) if step(request) < 6 => calls([("note", "{}")]),
                Ok(()) => text("done"),
            }
        })
    }
}

/// A tool that does nothing.
struct Note;

#[derive(Deserialize, JsonSchema)]
struct Nothing {}

impl tool::Tool for Note {
    type Arguments = Nothing;
    type Output = ();

    fn description(&self) -> String {
        "Notes.".to_owned()
    }

    async fn call(&self, _: Nothing, _: tool::Call) -> Result<(), tool::Error> {
        Ok(())
    }
}

fn with_note(mut spec: NetworkSpec) -> NetworkSpec {
    spec.tools.insert("note".to_owned(), Default::default());
    spec.policy.default = Permission::Allow;
    spec
}

fn agent() -> AgentSpec {
    AgentSpec::new("Work.")
}

/// 500 that each back off on their own, as a client without a shared gate would: how many requests are refused in all, and
/// how many come before the pause is over.
async fn on_their_own(calls: u32) -> (usize, usize) {
    let provider = Strained::new(Duration::from_secs(1));
    let width = Arc::new(tokio::sync::Semaphore::new(50));
    let clients = (0..500_u64).map(|_| {
        let (provider, width) = (provider.clone(), width.clone());
        async move {
            for _ in 0..calls {
                loop {
                    let permit = width.acquire().await.unwrap();
                    let answer = provider.answer().await;
                    drop(permit);
                    match answer {
                        Ok(()) => break,
                        Err(pause) => sleep(pause).await,
                    }
                }
            }
        }
    });
    join_all(clients).await;
    let log = provider.log.lock().unwrap();
    let refused = log.refused.unwrap();
    let early = log.came.iter().filter(|(at, _)| *at > refused && *at < refused + RETRY_AFTER).count();
    (log.came.iter().filter(|(_, is_answered)| !is_answered).count(), early)
}

#[tokio::test(start_paused = true)]
async fn a_refusal_holds_for_all_500_and_the_rate_comes_back() {
    let provider = Strained::new(Duration::from_secs(1));
    let mut spec = with_note(network([("one", AgentSpec { tools: vec!["note".to_owned()], ..agent() })]));
    spec.models[0].in_flight = Some(50);
    let builder = Runtime::builder(Network::new(spec).unwrap()).provider("m", provider.clone()).tool("note", Note);
    let runtime = builder.start().await.unwrap();
    let begin = Instant::now();
    for report in join_all((0..500).map(|_| runtime.run("x"))).await {
        assert_eq!(report.unwrap().status, Status::Done);
    }
    let refused_at = provider.log.lock().unwrap().refused.unwrap();
    let early = {
        let log = provider.log.lock().unwrap();
        log.came.iter().filter(|(at, _)| *at > refused_at && *at < refused_at + RETRY_AFTER).count()
    };
    assert_eq!(early, 0, "requests are made while the provider is to be left alone");
    assert!(provider.refused() <= 50, "{} are refused", provider.refused());
    // What goes in half a second, before and after.
    let window = Duration::from_millis(500);
    let steady = provider.answered_in(begin + Duration::from_millis(100), window);
    let back = (0..)
        .map(|tenth| RETRY_AFTER + Duration::from_millis(100) * tenth)
        .find(|after| provider.answered_in(refused_at + *after, window) * 10 >= steady * 9);
    let first = provider.answered_in(refused_at + RETRY_AFTER, Duration::from_millis(50));
    let (refused, too_early) = on_their_own(6).await;
    println!(
        "steady: {steady} requests in {window:?}; refused: {} here, {refused} on their own; before the pause is over: {early} \
         here, {too_early} on their own; right after it: {first} here; 90 % of the rate {:?} after the first refusal",
        provider.refused(),
        back.unwrap()
    );
    assert_eq!(first, 1, "one goes first");
    assert!(back.unwrap() <= Duration::from_secs(6), "{back:?}");
    assert!(too_early >= 400 && refused >= 400, "{too_early} {refused}");
}

#[tokio::test(start_paused = true)]
async fn requests_a_minute_are_paced_and_what_waits_says_so() {
    let provider = Scripted::new(|_| text("done"));
    let mut spec = network([("one", agent())]);
    spec.models[0].requests_per_minute = Some(6);
    let runtime = runtime(spec, &provider).start().await.unwrap();
    let begin = Instant::now();
    let reports = join_all((0..4).map(|_| runtime.run("x"))).await;
    assert!(reports.into_iter().all(|report| report.unwrap().status == Status::Done));
    assert_eq!(begin.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn tokens_a_minute_are_those_used_in_truth() {
    let provider = Scripted::new(|_| text("done"));
    let mut spec = network([("one", agent())]);
    // Each call reserves some 5,000, and uses 15.
    spec.models[0].tokens_per_minute = Some(6_000);
    let runtime = runtime(spec, &provider).start().await.unwrap();
    let begin = Instant::now();
    for _ in 0..20 {
        assert_eq!(runtime.run("x").await.unwrap().status, Status::Done);
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let began = Instant::now();
    join_all((0..3).map(|_| runtime.run("x"))).await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "what waits goes as soon as less was used: {:?}",
        began.elapsed()
    );
}

/// How many calls of each agent are under way, and how many were at most.
#[derive(Default)]
struct Crowd(BTreeMap<String, (u32, u32)>);

fn crowded(crowd: &Arc<Mutex<Crowd>>) -> Scripted {
    let crowd = crowd.clone();
    Scripted::later(move |request| {
        let (crowd, who) = (crowd.clone(), [request.agent.to_string(), request.run.to_string()]);
        Box::pin(async move {
            for name in &who {
                let mut crowd = crowd.lock().unwrap();
                let (now, most) = crowd.0.entry(name.clone()).or_default();
                *now += 1;
                *most = (*most).max(*now);
            }
            sleep(LATENCY).await;
            who.iter().for_each(|name| crowd.lock().unwrap().0.get_mut(name).unwrap().0 -= 1);
            text("done")
        })
    })
}

#[tokio::test(start_paused = true)]
async fn calls_of_an_agent_are_bounded_over_all_runs() {
    let crowd = Arc::<Mutex<Crowd>>::default();
    let provider = crowded(&crowd);
    let spec = network([("one", AgentSpec { in_flight: Some(2), ..agent() })]);
    let runtime = runtime(spec, &provider).start().await.unwrap();
    join_all((0..9).map(|_| runtime.run("x"))).await;
    assert_eq!(crowd.lock().unwrap().0["one"], (0, 2));
}

#[tokio::test(start_paused = true)]
async fn runs_beyond_those_that_may_be_under_way_wait_and_can_be_cancelled() {
    let crowd = Arc::<Mutex<Crowd>>::default();
    let provider = crowded(&crowd);
    let mut spec = network([("one", agent())]);
    spec.network.fleet.runs_in_flight = Some(2);
    spec.network.fleet.queue.capacity = 3;
    let recorder = Arc::new(Recorder::in_memory());
    let runtime = runtime(spec, &provider).recorder(recorder.clone()).start().await.unwrap();
    let mut handles = Vec::new();
    for nth in 0..5 {
        let id = Some(RunId::new(format!("r{nth}")));
        handles.push(runtime.start(RunRequest { id, ..RunRequest::new("x") }).await.unwrap());
        sleep(Duration::from_millis(1)).await;
    }
    let full = runtime.start(RunRequest::new("x")).await.err().unwrap();
    assert!(full.to_string().starts_with("as many runs wait as may"), "{full}");
    let [queue] = &recorder.queues()[..] else { panic!("{:?}", recorder.queues()) };
    let waiting: Vec<&str> = queue.who.iter().map(|one| one.run.as_str()).collect();
    assert_eq!((&*queue.what.to_string(), queue.in_flight, &waiting[..]), ("runs of test", 2, &["r2", "r3", "r4"][..]));
    let mut events = handles[3].events();
    while !matches!(events.next().await.unwrap().event, Event::CallQueued { wait: Wait::Permit, .. }) {}
    handles[3].controls().cancel("not wanted any more");
    for (nth, handle) in handles.into_iter().enumerate() {
        let expected = if nth == 3 { Status::Cancelled } else { Status::Done };
        assert_eq!(handle.wait().await.unwrap().status, expected);
    }
    assert_eq!(provider.asked().len(), 4);
    assert!(recorder.queues().is_empty());
    assert_eq!(runtime.run("x").await.unwrap().status, Status::Done);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_gets_no_turn_fails_and_says_why() {
    let provider = Scripted::later(|_| {
        Box::pin(async {
            sleep(Duration::from_secs(60)).await;
            text("done")
        })
    });
    let mut spec = network([("one", agent())]);
    spec.models[0].in_flight = Some(1);
    spec.network.fleet.queue.timeout = Span::from_secs(5);
    let runtime = runtime(spec, &provider).start().await.unwrap();
    let reports = join_all((0..2).map(|_| runtime.run("x"))).await;
    let failed = reports.into_iter().map(Result::unwrap).find(|report| report.status == Status::Failed).unwrap();
    let reason = format!("{failed:?}");
    assert!(reason.contains("it waited for its turn for 5s, and no longer may"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_breaker_leaves_a_failing_provider_alone() {
    let failed = || Error::Overloaded { status: 500, message: "down".to_owned(), retry_after: None };
    let begin = Instant::now();
    let came = Arc::new(Mutex::new(Vec::new()));
    let seen = came.clone();
    let provider = Scripted::new(move |_| {
        seen.lock().unwrap().push(begin.elapsed());
        if begin.elapsed() < Duration::from_secs(20) { Err(failed()) } else { text("done") }
    });
    let mut spec = network([("one", agent())]);
    let (failures, cool_down) = (3, Span::from_secs(30));
    spec.models[0].breaker = Some(Breaker { failures, cool_down, ..Breaker::default() });
    let runtime = runtime(spec, &provider).start().await.unwrap();
    let reports = join_all((0..10).map(|_| runtime.run("x"))).await;
    assert!(reports.into_iter().all(|report| report.unwrap().status == Status::Done));
    let came = came.lock().unwrap();
    let early = came.iter().filter(|at| **at < Duration::from_secs(30)).count();
    // Those that had been let in with the three that failed, and were not sent yet, wait with the others.
    assert_eq!((early, came.len()), (3, 13));
}

#[tokio::test(start_paused = true)]
async fn further_tries_are_a_share_of_all_calls() {
    let failed = || Error::Overloaded { status: 500, message: "down".to_owned(), retry_after: None };
    let provider = Scripted::new(move |_| Err(failed()));
    let runtime = runtime(network([("one", agent())]), &provider).start().await.unwrap();
    let reports = join_all((0..1_000).map(|_| runtime.run("x"))).await;
    // Of 4,000 further tries a tenth of the calls, what is spare, and what comes back while they pause.
    assert!((1_100..1_300).contains(&provider.asked().len()), "{}", provider.asked().len());
    let barred = reports.into_iter().filter(|report| format!("{report:?}").contains("it is not tried again")).count();
    assert!(barred > 800, "{barred}");
}

#[tokio::test(start_paused = true)]
async fn tool_calls_are_bounded_too() {
    static NOW: Mutex<(u32, u32)> = Mutex::new((0, 0));
    struct Slow;
    impl tool::Tool for Slow {
        type Arguments = Nothing;
        type Output = ();
        fn description(&self) -> String {
            "Takes its time.".to_owned()
        }
        async fn call(&self, _: Nothing, _: tool::Call) -> Result<(), tool::Error> {
            {
                let mut now = NOW.lock().unwrap();
                now.0 += 1;
                now.1 = now.1.max(now.0);
            }
            sleep(LATENCY).await;
            NOW.lock().unwrap().0 -= 1;
            Ok(())
        }
    }
    let provider = Scripted::new(|request| match step(request) {
        1 => calls([("note", "{}"), ("note", "{}"), ("note", "{}")]),
        _ => text("done"),
    });
    let of_tool = |spec: &mut NetworkSpec| spec.tools[0].in_flight = Some(2);
    let of_network = |spec: &mut NetworkSpec| spec.network.fleet.tool_calls_in_flight = Some(2);
    let of_run = |spec: &mut NetworkSpec| spec.network.limits.in_flight = Some(2);
    for (nth, bound) in [of_tool as fn(&mut NetworkSpec), of_network, of_run].into_iter().enumerate() {
        let mut spec = with_note(network([("one", AgentSpec { tools: vec!["note".to_owned()], ..agent() })]));
        bound(&mut spec);
        let runtime = runtime(spec, &provider).tool("note", Slow).start().await.unwrap();
        *NOW.lock().unwrap() = (0, 0);
        // A run's own bound is each run's.
        let reports = join_all((0..if nth == 2 { 1 } else { 4 }).map(|_| runtime.run("x"))).await;
        assert!(reports.into_iter().all(|report| report.unwrap().status == Status::Done));
        assert_eq!(*NOW.lock().unwrap(), (0, 2), "bound {nth}");
    }
}
