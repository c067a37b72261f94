//! Many runs at once, all killed at some moment, taken up again, killed again, until they may end: nothing is lost,
//! nothing is done twice, and the books are right.
//!
//! `PROVOST_TORTURE` says at how many moments (without it they are few, and of fewer runs); `PROVOST_TORTURE_SEED` with
//! which one to begin, and `PROVOST_TORTURE_PROCESSES` of how many runs. A seed is a plan: the points at which processes
//! die, or how far they have come when they are killed. (What they were at just then is up to the machine.)

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::world::{Ended, Group, Running, Seen, Stage, TORTURE, World};

/// How many processes there are at once.
const PROCESSES: usize = 50;

/// How many there are where nobody asked for more, so that it does not take long.
const FEW_PROCESSES: usize = 15;

/// Where a process can be made to die.
const POINTS: [&str; 15] = [
    "gate.before_intent.model",
    "gate.before_intent.pure",
    "gate.before_intent.idempotent",
    "gate.before_intent.once",
    "gate.after_intent.model",
    "gate.after_intent.pure",
    "gate.after_intent.idempotent",
    "gate.after_intent.once",
    "gate.after_effect.model",
    "gate.after_effect.pure",
    "gate.after_effect.idempotent",
    "gate.after_effect.once",
    "journal.before_write",
    "journal.before_sync",
    "journal.after_sync",
];

/// Numbers that follow from a seed: SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

/// When all processes are killed.
#[derive(Debug)]
struct Cut {
    /// When so many of the processes have said their runs' ids …
    said: usize,
    /// … and so many more things have been done …
    deeds: usize,
    /// … and so many microseconds later.
    micros: u64,
    /// Where each of them dies by itself before that.
    point: Option<String>,
}

impl Cut {
    fn draw(chance: &mut Chance, said: usize, most_deeds: u64) -> Self {
        let deeds = chance.below(most_deeds) as usize;
        let micros = chance.below(30_000);
        let name = POINTS[chance.below(POINTS.len() as u64) as usize];
        let nth = 1 + chance.below(if name.starts_with("journal") { 80 } else { 40 });
        Self { said, deeds, micros, point: chance.one_in(3).then(|| format!("{name}@{nth}")) }
    }

    fn environment(&self) -> Vec<(&str, &str)> {
        self.point.iter().map(|point| ("PROVOST_CRASH_AT", point.as_str())).collect()
    }
}

/// What befalls so many runs.
#[derive(Debug)]
struct Plan {
    processes: usize,
    /// Whether the process that holds the store is killed alone before all are.
    holder_falls: bool,
    /// Whether the tools at work die with the processes that started them.
    tools_die: bool,
    run: Cut,
    /// The cuts of `runs resume --all`, and whether what is in doubt is settled before each.
    resume: Vec<(bool, Cut)>,
}

impl Plan {
    fn draw(seed: u64, processes: usize) -> Self {
        let (mut chance, many) = (Chance(seed), processes as u64);
        // In some, before all have begun.
        let said = if chance.one_in(5) { chance.below(many) as usize } else { processes };
        Self {
            processes,
            holder_falls: chance.one_in(4),
            tools_die: chance.one_in(2),
            run: Cut::draw(&mut chance, said, 4 * many),
            resume: (0..1 + chance.below(3))
                .map(|_| (chance.one_in(2), Cut::draw(&mut chance, 0, 6 * many / 5)))
                .collect(),
        }
    }
}

/// What came of it, over all plans.
#[derive(Debug, Default)]
struct Tally {
    /// Processes that were killed before they had ended.
    killed: usize,
    /// Processes that gave up on a holder that had too much to do to answer.
    turned_away: usize,
    /// How many times a run was cut off.
    cut: usize,
    /// Cuts by which at least one run was.
    cuts_that_cut: usize,
    cuts: usize,
    /// Runs that ended.
    ended: usize,
    /// Runs whose process died before it had said their ids, and that are not there.
    absent: usize,
    /// Calls in doubt that were parked and settled.
    doubts: usize,
    /// As many as the runs' events tell of.
    doubts_told: usize,
    /// Tries of model calls that were cut off and charged.
    charged: u64,
}

/// These runs, and what is known of them so far.
struct Torture<'a> {
    world: World,
    plan: &'a Plan,
    tally: &'a mut Tally,
    /// The runs that were said.
    said: Vec<String>,
    /// How many times each call was made whose result was recorded.
    completed: BTreeMap<String, u64>,
    /// What was there at the last look.
    seen: Seen,
}

impl Torture<'_> {
    /// Waits for the cut, kills all, and looks at what they leave.
    fn cut(&mut self, cut: &Cut, group: &Group, mut processes: Vec<Running>) {
        let mut deeds = None;
        while !processes.iter_mut().all(Running::has_ended) {
            let done = self.world.count_deeds();
            if deeds.is_none() && processes.iter_mut().filter_map(Running::run).count() >= cut.said {
                deeds = Some(done + cut.deeds);
            }
            if deeds.is_some_and(|deeds| done >= deeds) {
                std::thread::sleep(Duration::from_micros(cut.micros));
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        group.kill();
        for mut process in processes {
            self.said.extend(process.run().map(str::to_owned));
            let ended = process.end();
            let is_turned_away = process_was_turned_away(&ended);
            let is_fair = ended.was_killed() || is_turned_away || [Some(0), Some(7)].contains(&ended.code());
            assert!(is_fair, "{:?}: {}", ended.code(), ended.stderr);
            self.tally.killed += usize::from(ended.was_killed());
            self.tally.turned_away += usize::from(is_turned_away);
        }
        self.world.settle(self.plan.tools_die);
        self.look();
        let cut = ids(&self.world.runs(), "interrupted").len();
        self.tally.cuts += 1;
        self.tally.cuts_that_cut += usize::from(cut > 0);
        self.tally.cut += cut;
    }

    /// Looks at what is there while nobody is at work.
    fn look(&mut self) {
        self.seen = self.world.look();
        let Seen { stories, deeds, .. } = &self.seen;
        for run in &self.said {
            assert!(stories.contains_key(run), "run {run} was said, and is lost");
        }
        for (run, story) in stories {
            for (call, told) in story.calls.iter().filter(|(_, told)| told.stage == Stage::Over) {
                let key = format!("{run}/{call}");
                let times = deeds.get(&(told.class.clone(), key.clone())).copied().unwrap_or_default();
                let before = *self.completed.entry(key.clone()).or_insert(times);
                assert_eq!(times, before, "{key} had been completed, and was made again");
            }
        }
    }

    /// Says what became of the calls that were in doubt at the last look.
    fn settle_doubts(&mut self) {
        self.tally.doubts += self.world.resolve_all(&self.seen);
    }

    fn run(mut self) {
        let plan = self.plan;
        let group = Group::new();
        let environment = plan.run.environment();
        let start = |number| {
            let input = format!("task {number}");
            self.world.start(&["run", "n.toml", &input], &environment, Some(&group))
        };
        let processes: Vec<Running> = (0..plan.processes).map(start).collect();
        if plan.holder_falls {
            kill_holder(&self.world);
        }
        self.cut(&plan.run, &group, processes);
        for (settles, cut) in &plan.resume {
            if *settles {
                self.settle_doubts();
            }
            let group = Group::new();
            let resume = self.world.start(&["runs", "resume", "--all"], &cut.environment(), Some(&group));
            self.cut(cut, &group, vec![resume]);
        }
        self.end();
    }

    /// Lets all runs go on to their ends, and compares.
    fn end(mut self) {
        for round in 0.. {
            assert!(round < 5, "they do not come to their ends");
            let before = ids(&self.world.runs(), "interrupted");
            let code = self.world.ask(&["runs", "resume", "--all"]).code();
            self.look();
            let runs = self.world.runs();
            let parked = ids(&runs, "in_doubt");
            let has_parked = before.iter().any(|run| parked.contains(run));
            assert_eq!(code, Some(if has_parked { 7 } else { 0 }), "{parked:?}");
            assert_eq!(ids(&runs, "done").len() + parked.len(), runs.len());
            if parked.is_empty() {
                break;
            }
            self.settle_doubts();
        }
        let stories = &self.seen.stories;
        self.world.check_end(&self.seen, answer);
        let doubts: u64 = stories.values().map(|story| story.doubts()).sum();
        self.tally.doubts_match(doubts);
        self.tally.ended += stories.len();
        self.tally.absent += self.plan.processes - stories.len();
        self.tally.charged += stories.values().flat_map(|story| story.calls.values()).map(|told| told.cut).sum::<u64>();
    }
}

impl Tally {
    /// Each call that the runs of this plan had in doubt was settled once.
    fn doubts_match(&mut self, doubts: u64) {
        self.doubts_told += doubts as usize;
        assert_eq!(self.doubts, self.doubts_told, "a call was in doubt without being parked");
    }
}

fn ids(runs: &[Value], status: &str) -> Vec<String> {
    let ids = runs.iter().filter(|run| run["status"] == status).map(|run| run["run"].as_str().unwrap().to_owned());
    ids.collect()
}

/// Whether the process gave up before its run began, because the holder did not answer for seconds: on a machine with
/// too much to do that is fair, as long as it says so.
fn process_was_turned_away(ended: &Ended) -> bool {
    let said = &ended.stderr;
    ended.code() == Some(8)
        && said.contains("does not answer")
        && said.contains("--take-over")
        && !said.contains("run 0")
}

/// What a run of the network answers that nobody has cut.
fn answer(input: &str) -> String {
    format!(
        "{input}: clerk hands over to you: pure of clerk#1.0; idempotent of clerk#1.1; once of clerk#1.2; helped with \
         once of clerk/helper.1.3#1.0 and pure of clerk/helper.1.3#1.1;  | idempotent of clerk~1.closer#1.0; once of \
         clerk~1.closer#1.1"
    )
}

/// Kills the process that holds the store alone, as soon as there is one; others take its runs over.
fn kill_holder(world: &World) {
    for _ in 0..2_000 {
        let locks = std::fs::read_dir(world.data("")).into_iter().flatten().flatten();
        let locks = locks.filter(|entry| entry.file_name().to_string_lossy().starts_with("holder-"));
        let pid = locks.filter_map(|lock| std::fs::read_to_string(lock.path()).ok()?.trim().parse().ok()).next();
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn whenever_many_runs_are_killed_nothing_is_lost_and_nothing_is_done_twice() {
    let (points, first) = (number("PROVOST_TORTURE", 3), number("PROVOST_TORTURE_SEED", 1));
    let processes = if std::env::var_os("PROVOST_TORTURE").is_some() { PROCESSES } else { FEW_PROCESSES };
    let processes = number("PROVOST_TORTURE_PROCESSES", processes as u64) as usize;
    let mut tally = Tally::default();
    for seed in first..first + points {
        let (plan, began) = (Plan::draw(seed, processes), Instant::now());
        // Shown where the test fails, or is asked to be told.
        println!("PROVOST_TORTURE=1 PROVOST_TORTURE_SEED={seed} PROVOST_TORTURE_PROCESSES={processes}: {plan:?}");
        Torture {
            world: World::new(TORTURE),
            plan: &plan,
            tally: &mut tally,
            said: Vec::new(),
            completed: BTreeMap::new(),
            seen: Seen::default(),
        }
        .run();
        println!("  {:.1} s: {tally:?}", began.elapsed().as_secs_f64());
    }
    let Tally { cuts, cuts_that_cut, cut, ended, absent, .. } = tally;
    let runs = points as usize * processes;
    assert_eq!(ended + absent, runs);
    assert!(ended >= runs / 2, "hardly a run had begun: {tally:?}");
    assert!(cuts_that_cut * 2 >= cuts && cut >= runs / 4, "hardly a run was cut: {tally:?}");
}

#[test]
fn fifty_runs_at_once_end_with_nobody_taking_over_and_nothing_in_doubt() {
    let world = World::new(TORTURE);
    let start = |number| world.start(&["run", "n.toml", &format!("task {number}")], &[], None);
    let processes: Vec<Running> = (0..PROCESSES).map(start).collect();
    let mut turned_away = 0;
    for (number, process) in processes.into_iter().enumerate() {
        let ended = process.end();
        if process_was_turned_away(&ended) {
            turned_away += 1;
            continue;
        }
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        assert_eq!(ended.stdout.trim_end(), answer(&format!("task {number}")));
        assert!(!ended.stderr.contains("taken over"), "{}", ended.stderr);
    }
    let seen = world.look();
    world.check_end(&seen, answer);
    assert!(seen.stories.len() == PROCESSES - turned_away && turned_away < PROCESSES / 5, "{turned_away}");
    assert!(seen.deeds.values().all(|&times| times == 1));
}
