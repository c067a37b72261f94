//! Budgets that runs share: they hold however many race for them, through kills and restarts, and a person can raise them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use provost::budget::{AccountName, Amount, Entry, Ledger, Limit, Today};
use provost::model::Error as ModelError;
use provost::run::{Event, RunId, Status};
use provost::runtime::{Answers, Error as RuntimeError, Recorder, RunRequest, Runtime, new_run_id, read_entries};
use provost::spec::{AgentSpec, BudgetOf, BudgetSpec, NetworkSpec, OnLimit, Period, Permission, Span};
use serde_json::Value;

use crate::replay::assert_same;
use crate::resume::{Nothing, agent, close, cut_off, open};
use crate::scripted::{Scripted, calls, network, results, runtime, step, text};
use crate::world::World;

fn budget(of: BudgetOf) -> BudgetSpec {
    let (agent, per, cost_usd, tokens, model_calls, tool_calls, warn_at, unknown_for) = Default::default();
    BudgetSpec { of, agent, per, cost_usd, tokens, model_calls, tool_calls, warn_at, unknown_for }
}

fn calls_of(of: BudgetOf, model_calls: u64) -> BudgetSpec {
    BudgetSpec { model_calls: Some(model_calls), ..budget(of) }
}

fn spec(budgets: Vec<BudgetSpec>) -> NetworkSpec {
    NetworkSpec { budgets, ..network([("one", agent(&[]))]) }
}

/// Answers at once, but lets others have their turn first.
fn answers() -> Scripted {
    Scripted::later(|_| {
        Box::pin(async {
            tokio::task::yield_now().await;
            text("done")
        })
    })
}

/// Folds the ledger's stream once more, and looks at every account after every entry.
fn audit(recorder: &Recorder) -> Ledger {
    let store = recorder.journal().unwrap().store().unwrap();
    let mut ledger = Ledger::default();
    for (record, entry) in read_entries(&store).unwrap() {
        ledger.evolve(&entry);
        for (name, book) in &ledger.accounts {
            let today = Today::at(record.time_ms);
            for cap in &book.caps {
                let used = book.account.spent_in(cap.period, today).plus(book.account.held());
                let limit = cap.limit.plus(book.account.raised());
                assert_eq!(used.minus(limit), Amount::default(), "{name} at {entry:?}");
                // What is free is what makes up the rest, to the token.
                let free = book.account.remaining(cap, today).minus(book.account.held());
                for which in Limit::SPENDING.into_iter().filter(|which| which.is_set(&cap.limit)) {
                    assert_eq!(which.to_json(&used.plus(free)), which.to_json(&limit), "{name} at {entry:?}");
                }
            }
        }
    }
    assert_eq!(ledger, recorder.ledger(), "the stream says what the ledger is");
    ledger
}

async fn start(spec: NetworkSpec, provider: &Scripted, recorder: &Arc<Recorder>) -> Runtime {
    runtime(spec, provider).recorder(recorder.clone()).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "who races is a task of the test")]
async fn ten_thousand_runs_race_for_a_thousand_calls() {
    const CALLS: usize = 1_000;
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let provider = answers();
    let network = calls_of(BudgetOf::Network, CALLS as u64);
    let runtime = Arc::new(start(spec(vec![network, budget_of_tokens(2_000_000)]), &provider, &recorder).await);
    let ended = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let racers = (0..16).map(|_| {
        let (runtime, ended) = (runtime.clone(), ended.clone());
        tokio::spawn(async move {
            for _ in 0..625 / 25 {
                let reports = join_all((0..25).map(|_| runtime.run("x"))).await;
                for report in reports {
                    match report.unwrap().status {
                        Status::Done => ended[0].fetch_add(1, Ordering::SeqCst),
                        Status::Limit => ended[1].fetch_add(1, Ordering::SeqCst),
                        other => panic!("{other:?}"),
                    };
                }
            }
        })
    });
    for racer in join_all(racers).await {
        racer.unwrap();
    }
    let [done, limit] = [&ended[0], &ended[1]].map(|count| count.load(Ordering::SeqCst));
    assert_eq!((done, limit, provider.asked().len()), (CALLS, 9_000, CALLS));
    let ledger = audit(&recorder);
    let account = ledger.accounts[&AccountName::new("network/test")].account;
    assert_eq!((account.spent().model_calls, account.held()), (CALLS as u64, Amount::default()));
    close(&recorder).await;
}

fn budget_of_tokens(tokens: u64) -> BudgetSpec {
    BudgetSpec { tokens: Some(tokens), ..budget(BudgetOf::Tenant) }
}

#[tokio::test]
async fn each_shares_with_those_it_should_and_what_was_spent_outlives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let spec =
        || spec(vec![calls_of(BudgetOf::Session, 2), calls_of(BudgetOf::Tenant, 4), calls_of(BudgetOf::Network, 6)]);
    let mut statuses = Vec::new();
    for (tenant, session) in
        [("a", "s"), ("a", "s"), ("a", "s"), ("a", "t"), ("a", "t"), ("a", "u"), ("b", "s"), ("b", "t"), ("c", "s")]
    {
        // Each in a process of its own, as it were.
        let recorder = open(directory.path());
        let runtime = start(spec(), &answers(), &recorder).await;
        let request = RunRequest { tenant: tenant.into(), session: Some(session.into()), ..RunRequest::new("x") };
        let report = runtime.start(request).await.unwrap().wait().await.unwrap();
        statuses.push(match report.status {
            Status::Done => String::new(),
            _ => report.reason.unwrap(),
        });
        runtime.shutdown().await;
        audit(&recorder);
        close(&recorder).await;
    }
    let refused: Vec<(usize, &str)> = statuses
        .iter()
        .enumerate()
        .filter(|(_, said)| !said.is_empty())
        .map(|(at, said)| (at, said.as_str()))
        .collect();
    let said = |of: &str, calls: u64| format!("limit model_calls = {calls} of the budget {of} reached (asked by one)");
    assert_eq!(
        refused,
        [(2, &*said("session/test/a/s", 2)), (5, &*said("tenant/test/a", 4)), (8, &*said("network/test", 6)),]
    );
}

#[tokio::test]
async fn a_budget_of_a_day_begins_anew_and_that_of_an_agent_is_its_own() {
    let per_day = BudgetSpec { per: Some(Period::Day), ..calls_of(BudgetOf::Process, 1) };
    let directory = tempfile::tempdir().unwrap();
    let mut runs = Vec::new();
    for (day, hour) in [(20_000_u64, 23), (20_000, 23), (20_001, 0), (20_000, 5)] {
        let now_ms = day * 86_400_000 + hour * 3_600_000;
        let (recorder, inline) = Recorder::simulated(directory.path(), false, now_ms, 100).unwrap();
        let recorder = Arc::new(recorder);
        let local = tokio::task::LocalSet::new();
        let per_day = per_day.clone();
        let done = async {
            let runtime = start(spec(vec![per_day]), &answers(), &recorder).await;
            let report = runtime.run("x").await.unwrap();
            runtime.shutdown().await;
            report
        };
        let report = local.run_until(async {
            tokio::select! { biased; report = done => report, () = written(inline) => unreachable!() }
        });
        let report = report.await;
        runs.push((report.status, report.reason));
        audit(&recorder);
        recorder.close().await.unwrap();
    }
    let reason = "limit model_calls = 1 a day of the budget process reached (asked by one)".to_owned();
    let (done, refused) = ((Status::Done, None), (Status::Limit, Some(reason)));
    assert_eq!(runs, [done.clone(), refused.clone(), done, refused], "a clock that is set back begins nothing anew");

    let boss = AgentSpec { delegates_to: vec!["hand".to_owned()], ..agent(&[]) };
    let mut spec = network([("boss", boss), ("hand", agent(&[]))]);
    spec.budgets = vec![BudgetSpec { agent: Some("hand".to_owned()), ..calls_of(BudgetOf::Agent, 2) }];
    let provider = Scripted::new(|request| match (&*request.agent, step(request)) {
        ("boss", 1..=3) => calls([("ask_hand", r#"{"message": "go"}"#)]),
        _ => text("done"),
    });
    let report = runtime(spec, &provider).start().await.unwrap().run("x").await.unwrap();
    let reason = report.reason.unwrap();
    assert!(reason.starts_with("limit model_calls = 2 of the budget agent/") && reason.contains("/hand"), "{reason}");
    assert_eq!(provider.asked().len(), 5);
}

async fn written(inline: provost::journal::Inline) {
    inline.write(async |_| ()).await;
}

/// Does nothing, and counts.
struct Look(Arc<AtomicUsize>);

impl provost::tool::Tool for Look {
    type Arguments = Nothing;
    type Output = usize;

    fn description(&self) -> String {
        "Looks.".to_owned()
    }

    async fn call(&self, _: Nothing, _: provost::tool::Call) -> Result<usize, provost::tool::Error> {
        Ok(self.0.fetch_add(1, Ordering::SeqCst))
    }
}

#[tokio::test]
async fn calls_of_tools_are_bounded_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let mut spec = network([("one", AgentSpec { max_steps: 50, ..agent(&["look"]) })]);
    spec.tools.insert("look".to_owned(), Default::default());
    spec.policy.default = Permission::Allow;
    spec.network.limits.tool_calls = Some(5);
    let looks = Arc::new(AtomicUsize::new(0));
    let provider = Scripted::new(|_| calls([("look", "{}"); 2]));
    let builder = runtime(spec, &provider).tool("look", Look(looks.clone())).recorder(recorder.clone());
    let report = builder.start().await.unwrap().run("x").await.unwrap();
    assert_eq!((report.status, looks.load(Ordering::SeqCst)), (Status::Limit, 5));
    assert_eq!(report.reason.as_deref(), Some("limit tool_calls = 5 reached (asked by one)"));
    let past = recorder.whole_past(&report.run).unwrap();
    assert_eq!(past.state.spent().tool_calls, 5);
    assert_eq!(audit(&recorder).spent_by("local"), past.state.spent());
    close(&recorder).await;
}

#[tokio::test]
async fn a_person_raises_a_limit_and_what_waited_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let provider = Scripted::new(|request| match step(request) {
        step if step < 5 => calls([("nope", "{}")]),
        _ => text(format!("after {} mistakes", results(request).len())),
    });
    let mut spec = network([("one", AgentSpec { max_repairs: 9, ..agent(&[]) })]);
    spec.network.limits.model_calls = Some(2);
    spec.network.limits.on_limit = OnLimit::Ask;
    spec.network.limits.warn_at = Some(0.5);
    let run = new_run_id();
    let runtime = start(spec.clone(), &provider, &recorder).await;
    let request = RunRequest { id: Some(run.clone()), ..RunRequest::new("x") };
    let report = runtime.start(request).await.unwrap().wait().await.unwrap();
    assert_eq!(report.status, Status::AwaitingBudget);
    let reason = report.reason.unwrap();
    let how = format!("provost budget top-up run/{run} --model-calls 1 lets it go on");
    let why = format!("these calls wait: one#3 (limit model_calls = 2 reached; {how})");
    assert_eq!(reason, format!("a limit is reached that may be raised, and {why}"));
    for (account, amount) in [
        (AccountName::new("tenant/test/nobody"), Amount { model_calls: 1, ..Amount::default() }),
        (AccountName::of_run(&run), Amount { cost_nano_usd: 1, ..Amount::default() }),
        (AccountName::of_run(&run), Amount { model_calls: u64::MAX, ..Amount::default() }),
    ] {
        let refused = recorder.top_up(account, amount).await;
        assert!(matches!(refused, Err(RuntimeError::NotRaised(_))), "{refused:?}");
    }
    let past = recorder.whole_past(&run).unwrap();
    let is_low = |event: &Event| matches!(event, Event::BudgetLow { limit: Limit::ModelCalls, .. });
    assert_eq!(past.events.iter().filter(|envelope| is_low(&envelope.event)).count(), 1);
    assert_same(&provost::runtime::Replayer::new(), &past);

    // Taken up before anything was raised it waits again; raised while nobody has it, it goes on until the next limit.
    let report = runtime.resume(past, Answers::default()).await.unwrap().wait().await.unwrap();
    assert_eq!((report.status, provider.asked().len()), (Status::AwaitingBudget, 2));
    let by = |model_calls| Amount { model_calls, ..Amount::default() };
    recorder.top_up(AccountName::of_run(&run), by(1)).await.unwrap();
    let past = recorder.past(&run).unwrap();
    let report = runtime.resume(past, Answers::default()).await.unwrap().wait().await.unwrap();
    assert_eq!((report.status, provider.asked().len()), (Status::AwaitingBudget, 3));
    runtime.shutdown().await;
    audit(&recorder);
    close(&recorder).await;

    // In another process, what was raised stays so.
    let recorder = open(directory.path());
    recorder.top_up(AccountName::of_run(&run), by(2)).await.unwrap();
    let runtime = start(spec, &provider, &recorder).await;
    let past = recorder.past(&run).unwrap();
    let report = runtime.resume(past, Answers::default()).await.unwrap().wait().await.unwrap();
    assert_eq!(report.answer_text().as_deref(), Some("after 4 mistakes"));
    assert_same(&provost::runtime::Replayer::new(), &recorder.whole_past(&run).unwrap());
    let ledger = audit(&recorder);
    assert!(!ledger.accounts.contains_key(&AccountName::of_run(&run)), "it lasts no longer than its run");
    close(&recorder).await;
}

#[tokio::test]
async fn what_waits_in_this_process_is_woken() {
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let boss = AgentSpec { delegates_to: vec!["hangs".to_owned(), "works".to_owned()], ..agent(&[]) };
    let mut spec = network([("boss", boss), ("hangs", agent(&[])), ("works", agent(&[]))]);
    spec.budgets = vec![BudgetSpec { agent: Some("works".to_owned()), ..calls_of(BudgetOf::Agent, 1) }];
    spec.network.limits.on_limit = OnLimit::Ask;
    // One that goes on keeps the run from being parked while the other waits.
    let provider = Scripted::later(|request| {
        let reply = match (&*request.agent, step(request)) {
            ("boss", 1) => calls([("ask_hangs", r#"{"message": "go"}"#), ("ask_works", r#"{"message": "go"}"#)]),
            ("works", 1) => calls([("nope", "{}")]),
            _ => text("done"),
        };
        let hangs = &*request.agent == "hangs";
        Box::pin(async move { if hangs { std::future::pending().await } else { reply } })
    });
    let made = |provider: &Scripted| provider.asked().iter().filter(|request| &*request.agent == "works").count();
    let runtime = start(spec, &provider, &recorder).await;
    let run = new_run_id();
    let request = RunRequest { id: Some(run.clone()), ..RunRequest::new("x") };
    let handle = runtime.start(request).await.unwrap();
    let waits = || {
        recorder.ledger().open.contains_key(&run) && {
            let past = recorder.past(&run).unwrap();
            past.state.queued().any(|(_, wait)| wait == provost::run::Wait::TopUp)
        }
    };
    while !waits() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(made(&provider), 1);
    let account = AccountName::of_agent(&run, "works");
    recorder.top_up(account, Amount { model_calls: 1, ..Amount::default() }).await.unwrap();
    let woken = async {
        while made(&provider) < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::process::PATIENCE, woken).await.unwrap();
    handle.controls().cancel("enough");
    assert_eq!(handle.wait().await.unwrap().status, Status::Cancelled);
    audit(&recorder);
    close(&recorder).await;
}

#[tokio::test]
async fn what_nobody_confirms_is_given_back_after_a_while_where_that_is_asked_for() {
    for (unknown_for, status) in [(None, Status::Limit), (Some(Span::from_millis(1)), Status::Done)] {
        let directory = tempfile::tempdir().unwrap();
        let spec = || {
            let budget = BudgetSpec { unknown_for, per: Some(Period::Day), ..budget_of_tokens(6_000) };
            let mut spec = spec(vec![budget]);
            spec.models[0].retry.tries = 1;
            spec
        };
        let breaks_off =
            Scripted::new(|_| Err(ModelError::Cut { received: 9, message: "gone".to_owned(), usage: None }));
        let recorder = open(directory.path());
        let first = start(spec(), &breaks_off, &recorder).await.run("x").await.unwrap();
        assert_ne!(first.status, Status::Done);
        let account = AccountName::new("tenant/test/local");
        let unknown = recorder.ledger().accounts[&account].account.unknown();
        assert!(unknown.tokens > 4_000, "{unknown:?}");
        close(&recorder).await;

        // What is given back is on record, and so it stays after a restart.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        for _ in 0..2 {
            let recorder = open(directory.path());
            let report = start(spec(), &answers(), &recorder).await.run("x").await.unwrap();
            assert_eq!(report.status, status, "{report:?}");
            let book = audit(&recorder).accounts[&account].clone();
            let given_back = if unknown_for.is_some() { unknown } else { Amount::default() };
            assert_eq!((book.account.expired(), book.account.unknown().plus(given_back)), (given_back, unknown));
            close(&recorder).await;
        }
    }
}

#[tokio::test]
async fn what_is_cut_off_in_shared_accounts_is_charged_once() {
    let directory = tempfile::tempdir().unwrap();
    let run = RunId::new("01cut");
    let hangs = Scripted::later(|_| Box::pin(std::future::pending()));
    let spec = || spec(vec![budget_of_tokens(100_000)]);
    let recorder = open(directory.path());
    let request = RunRequest { id: Some(run.clone()), ..RunRequest::new("x") };
    let handle = start(spec(), &hangs, &recorder).await.start(request).await.unwrap();
    while hangs.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    let account = AccountName::new("tenant/test/local");
    let held = recorder.ledger().accounts[&account].account.held();
    assert!(held.tokens > 4_000, "{held:?}");
    cut_off(&recorder, handle).await;

    let recorder = open(directory.path());
    let past = recorder.past(&run).unwrap();
    let runtime = start(spec(), &answers(), &recorder).await;
    let report = runtime.resume(past, Answers::default()).await.unwrap().wait().await.unwrap();
    assert_eq!(report.status, Status::Done);
    let book = audit(&recorder).accounts[&account].clone();
    assert_eq!((book.account.held(), book.account.spent().tokens), (Amount::default(), held.tokens + 15));
    assert_eq!(book.account.unknown().tokens, held.tokens, "and is known to be a guess");
    close(&recorder).await;
}

const ASKS: &str = r#"
[network]
name = "asks"
entry = "a"
[network.limits]
on_limit = "ask"
warn_at = 0.5
[[budgets]]
of = "tenant"
per = "month"
model_calls = 1
[agents.a]
prompt = "You answer."
[sim.script]
a = ["it is {{ input }}"]
"#;

#[test]
fn budgets_are_shown_and_raised_at_a_terminal() {
    let world = World::new(ASKS);
    assert_eq!(world.ask_for(0, &["budget"]), "");
    assert_eq!(world.ask_for(0, &["budget", "--json"]).trim(), "[]");
    world.ask_for(2, &["budget", "top-up", "tenant/asks/local", "--tokens", "1"]);
    let first = world.ask(&["run", "n.toml", "one"]);
    assert!(
        first.stderr.contains("the limit model_calls a month of tenant/asks/local is near: 1 are used"),
        "{}",
        first.stderr
    );
    let parked = world.ask(&["run", "n.toml", "two"]);
    assert_eq!(parked.code(), Some(6), "{}", parked.stderr);
    assert!(parked.stderr.contains("awaiting budget") && parked.stderr.contains("budget top-up"), "{}", parked.stderr);
    let shown = world.ask_for(0, &["budget"]);
    assert!(
        shown.contains("tenant/asks/local\n  model_calls a month: 1 spent, 0 held, 0 free of 1\n")
            && shown.contains("\nrun/") | shown.starts_with("run/"),
        "{shown}"
    );
    let accounts: Value = serde_json::from_str(&world.ask_for(0, &["budget", "--json"])).unwrap();
    let tenant = accounts.as_array().unwrap().iter().find(|one| one["account"] == "tenant/asks/local").unwrap();
    assert_eq!((&tenant["limits"][0]["free"], &tenant["limits"][0]["per"]), (&0.into(), &"month".into()));
    for wrong in [
        vec!["budget", "top-up", "tenant/asks/local"],
        vec!["budget", "top-up", "tenant/asks/local", "--cost-usd", "-1"],
        vec!["budget", "top-up", "tenant/asks/local", "--cost-usd", "NaN"],
        vec!["budget", "top-up", "tenant/asks/nobody", "--tokens", "1"],
        vec!["budget", "top-up", "tenant/asks/local", "--tokens", "1"],
        vec!["budget", "top-up", "tenant/asks/local", "--model-calls", "18446744073709551615"],
        vec!["budget", "top-up", "01nosuchrun", "--tokens", "1"],
    ] {
        world.ask_for(2, &wrong);
    }
    world.ask_for(6, &["runs", "resume", "last"]);
    world.ask_for(0, &["budget", "top-up", "tenant/asks/local", "--model-calls", "1"]);
    assert_eq!(world.ask_for(0, &["runs", "resume", "last"]).trim(), "it is two");
    world.ask_for(1, &["budget", "top-up", "last", "--tokens", "1"]);
    world.ask_for(0, &["runs", "replay", "last"]);
    world.ask_for(0, &["audit", "verify"]);
}

/// Says by the call what becomes of it: an answer, a panic, a stream that breaks off, or nothing until it is cancelled.
fn misbehaves() -> Scripted {
    Scripted::later(|request| {
        let seed = number_of(&format!("{}{}{}", request.run, request.call, request.attempt));
        let step = step(request);
        Box::pin(async move {
            tokio::task::yield_now().await;
            match seed % 8 {
                0 => panic!("injected: the provider panics"),
                1 => std::future::pending().await,
                2 => Err(provost::model::Error::Cut { received: 9, message: "cut".to_owned(), usage: None }),
                _ if step < 10 => calls([("nope", "{}")]),
                _ => text("done"),
            }
        })
    })
}

fn number_of(text: &str) -> u64 {
    text.bytes().fold(14_695_981_039_346_656_037, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211))
}

#[tokio::test]
async fn ten_thousand_calls_panic_break_off_or_are_cancelled_and_nothing_leaks() {
    let directory = tempfile::tempdir().unwrap();
    let recorder = open(directory.path());
    let provider = misbehaves();
    let mut spec = network([("one", AgentSpec { max_steps: 12, max_repairs: 20, ..agent(&[]) })]);
    spec.budgets = vec![budget_of_tokens(u64::MAX >> 1)];
    spec.models["m"].retry =
        provost::spec::Retry { tries: 50, min: provost::spec::Span::from_millis(1), ..spec.models["m"].retry };
    spec.models["m"].retry.max = provost::spec::Span::from_millis(1);
    let runtime = start(spec, &provider, &recorder).await;
    let mut asked = 0;
    while asked < 10_000 {
        let runs = join_all((0..50).map(|_| runtime.start(RunRequest::new("x")))).await;
        let handles: Vec<_> = runs.into_iter().map(Result::unwrap).collect();
        // One call in eight hangs: each run gets to one sooner or later, and is cancelled there.
        let controls: Vec<_> = handles.iter().map(provost::runtime::RunHandle::controls).collect();
        let waits = join_all(handles.into_iter().map(provost::runtime::RunHandle::wait));
        tokio::pin!(waits);
        tokio::select! {
            _ = &mut waits => {}
            () = tokio::time::sleep(std::time::Duration::from_millis(150)) => {
                controls.iter().for_each(|controls| controls.cancel("enough"));
                for report in waits.await {
                    report.unwrap();
                }
            }
        }
        asked = provider.asked().len();
    }
    let ledger = audit(&recorder);
    let account = ledger.accounts[&AccountName::new("tenant/test/local")].account;
    assert_eq!((account.held(), ledger.open.len()), (Amount::default(), 0), "nothing is held for ever");
    let store = recorder.journal().unwrap().store().unwrap();
    let (mut reserved, mut settled, mut guessed) = (0, 0, 0);
    for (_, entry) in read_entries(&store).unwrap() {
        match entry {
            Entry::Reserved { .. } => reserved += 1,
            Entry::Settled { held, spent, unknown, .. } => {
                settled += 1;
                assert!(spent.tokens > 0, "a call that may have been billed is charged: {spent:?}");
                assert!(unknown == Amount::default() || unknown == held, "and what nobody said is known for a guess");
                guessed += u64::from(unknown != Amount::default());
            }
            _ => {}
        }
    }
    // A call that was intended and cancelled before it went out counts as made: nobody can know that it was not.
    assert!(reserved == settled && reserved >= asked, "{reserved}, {settled}, {asked}");
    assert!(guessed > 2_000, "{guessed} of {asked}");
    close(&recorder).await;
}

const FANS_OUT: &str = r#"
[network]
name = "fans_out"
entry = "boss"
[network.limits]
model_calls = 9
[models.m]
provider = "openai"
model = "m"
base_url = "@URL@"
stream = false
[agents.boss]
prompt = "You ask."
delegates_to = ["hand"]
[agents.hand]
prompt = "You work."
max_repairs = 50
"#;

/// Answers each request: who can ask `hand` asks it eight times at once, and everyone else calls what there is not.
fn answer_one(mut stream: std::net::TcpStream, asked: &AtomicUsize) {
    use std::io::{BufRead, BufReader, Read, Write};

    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line).unwrap_or(0) > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        if length == 0 || reader.read_exact(&mut body).is_err() {
            return;
        }
        asked.fetch_add(1, Ordering::SeqCst);
        let is_boss = String::from_utf8_lossy(&body).contains("ask_hand");
        let (count, name) = if is_boss { (8, "ask_hand") } else { (1, "none") };
        let call = |number| {
            let function = serde_json::json!({ "name": name, "arguments": r#"{"message": "go"}"# });
            serde_json::json!({ "id": format!("c{number}"), "type": "function", "function": function })
        };
        let calls: Vec<Value> = (0..count).map(call).collect();
        let message = serde_json::json!({ "role": "assistant", "content": null, "tool_calls": calls });
        let reply = serde_json::json!({
            "choices": [{ "index": 0, "finish_reason": "tool_calls", "message": message }],
            "usage": { "prompt_tokens": 5, "completion_tokens": 5 },
        });
        let text = reply.to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", text.len());
        stream.write_all((head + &text).as_bytes()).unwrap();
    }
}

#[test]
fn nine_calls_and_a_fan_out_of_eight_are_nine_calls_at_the_server() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let counts = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, counts) = (stream.unwrap(), counts.clone());
            std::thread::spawn(move || answer_one(stream, &counts));
        }
    });
    let world = World::new(&FANS_OUT.replace("@URL@", &url));
    let ended = world.ask(&["run", "n.toml", "go"]);
    assert_eq!(ended.code(), Some(4), "{}", ended.stderr);
    assert!(ended.stderr.contains("limit model_calls = 9 reached"), "{}", ended.stderr);
    assert_eq!(asked.load(Ordering::SeqCst), 9);
    world.ask_for(0, &["audit", "verify"]);
}
