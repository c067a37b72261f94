//! A directory with a network whose tools act on a world that remembers, and the command as processes that never
//! outstay their welcome: each has a deadline, after which it is killed and the test fails with what it had said.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{PATIENCE, provost};

/// A tool of each class, and the policy that allows them.
pub(crate) const TOOLS: &str = r#"
[tools.pure]
builtin = "process.run"
allow = ["@LEDGER@"]
effect = "pure"
[tools.idempotent]
builtin = "process.run"
allow = ["@LEDGER@"]
effect = "idempotent"
[tools.once]
builtin = "process.run"
allow = ["@LEDGER@"]
effect = "once"
[policy]
default = "allow"
"#;

/// The network in which agents act in every class, ask each other and hand over.
pub(crate) const TORTURE: &str = include_str!("torture/network.toml");

/// The program that the tools start.
fn ledger_program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/torture/ledger.sh")
}

/// A directory with a network file `n.toml`, a data directory, and what the tools have done.
pub(crate) struct World {
    dir: TempDir,
    started: AtomicU64,
}

impl World {
    /// Makes one around a network, in whose text `@TOOLS@` stands for a tool of each class and the policy that allows
    /// them, and `@LEDGER@` for the program that they start.
    pub(crate) fn new(network: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("said")).unwrap();
        let text = network.replace("@TOOLS@", TOOLS).replace("@LEDGER@", ledger_program().to_str().unwrap());
        fs::write(dir.path().join("n.toml"), text).unwrap();
        Self { dir, started: AtomicU64::new(0) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the path of a file in the data directory.
    pub(crate) fn data(&self, file: &str) -> PathBuf {
        self.path().join(".provost").join(file)
    }

    /// Starts the command, in the process group of `group` if there is one.
    pub(crate) fn start(&self, arguments: &[&str], environment: &[(&str, &str)], group: Option<&Group>) -> Running {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let said = |of: &str| self.path().join(format!("said/{number}.{of}"));
        let (stdout, stderr) = (said("stdout"), said("stderr"));
        let mut command = provost(self.path());
        command.args(arguments).envs(environment.iter().copied()).env("RUST_BACKTRACE", "0");
        // Files, so that nobody has to read for it to go on, and what it said is there whenever it died.
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        if let Some(group) = group {
            command.process_group(group.0.id() as i32);
        }
        let child = command.spawn().unwrap();
        let (words, deadline) = (arguments.join(" "), Instant::now() + PATIENCE);
        Running { child, words, stdout, stderr, run: None, deadline, ended: None }
    }

    /// Runs the command to its end.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Ended {
        self.start(arguments, &[], None).end()
    }

    /// Runs the command, which must end with this code; returns what it prints.
    pub(crate) fn ask_for(&self, code: i32, arguments: &[&str]) -> String {
        let ended = self.ask(arguments);
        assert_eq!(ended.code(), Some(code), "{arguments:?}: {}", ended.stderr);
        ended.stdout
    }

    /// Returns the runs, the newest first, as `runs list` has them.
    pub(crate) fn runs(&self) -> Vec<Value> {
        serde_json::from_str(&self.ask_for(0, &["runs", "list", "--json"])).unwrap()
    }

    /// Returns how many times each thing was done, by class and key.
    pub(crate) fn deeds(&self) -> BTreeMap<(String, String), u64> {
        let mut deeds = BTreeMap::new();
        let text = fs::read_to_string(self.path().join("ledger")).unwrap_or_default();
        for (class, key) in text.lines().map(|line| line.split_once(' ').unwrap()) {
            *deeds.entry((class.to_owned(), key.to_owned())).or_default() += 1;
        }
        deeds
    }

    /// Returns how many things were done.
    pub(crate) fn count_deeds(&self) -> usize {
        fs::read(self.path().join("ledger")).map_or(0, |bytes| bytes.iter().filter(|&&byte| byte == b'\n').count())
    }

    /// Looks at what is there while nobody is at work, and checks what must always hold: each call's events follow the
    /// rules, every effect has its intent, and nothing was done twice that must not be.
    pub(crate) fn look(&self) -> Seen {
        let mut seen = Seen { deeds: self.deeds(), ..Seen::default() };
        for line in self.ask_for(0, &["audit", "export", "--ledger"]).lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let run = line["run"].as_str().unwrap().to_owned();
            match line.get("ledger") {
                None => seen.stories.entry(run).or_default().take(&line),
                Some(_) => seen.accounts.entry(run).or_default().take(&line),
            }
        }
        for ((class, key), &times) in &seen.deeds {
            let (run, call) = key.split_once('/').unwrap();
            let story = seen.stories.get(run).unwrap_or_else(|| panic!("the store has lost the run of {key}"));
            let intents = story.calls.get(call).map_or(0, |told| told.intents);
            // The intent of a pure call need not be durable before it.
            assert!(class == "pure" || times <= intents, "{class} {key} was done {times} times for {intents} intents");
            assert!(class != "once" || times == 1, "{key} was done {times} times");
        }
        seen
    }

    /// Returns the tools that a dead process has left, and whatever else is at work in this directory.
    fn strays(&self) -> Vec<Pid> {
        let here = fs::canonicalize(self.path()).unwrap();
        let is_here = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            (fs::read_link(entry.path().join("cwd")).ok()? == here).then(|| Pid::from_raw(pid))?
        };
        fs::read_dir("/proc").unwrap().filter_map(is_here).collect()
    }

    /// Waits until no tool is at work that a dead process has left; or ends them, as a power cut would.
    pub(crate) fn settle(&self, are_killed: bool) {
        let began = Instant::now();
        loop {
            let strays = self.strays();
            if strays.is_empty() {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "tools go on and on: {strays:?}");
            if are_killed {
                for stray in strays {
                    // It may have ended meanwhile.
                    let _ = kill_process(stray, Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Says of each call in doubt what the world knows of it; returns how many there were.
    pub(crate) fn resolve_all(&self, seen: &Seen) -> usize {
        let mut resolved = 0;
        for (run, story) in &seen.stories {
            for call in story.calls.iter().filter(|(_, told)| told.stage == Stage::InDoubt).map(|(call, _)| call) {
                let result = format!(r#"{{"status":{{"exit_code":0}},"stdout":"once of {call}","stderr":""}}"#);
                match seen.deeds.contains_key(&("once".to_owned(), format!("{run}/{call}"))) {
                    true => self.ask_for(0, &["runs", "resolve", run, call, "--done", &result]),
                    false => self.ask_for(0, &["runs", "resolve", run, call, "--retry"]),
                };
                resolved += 1;
            }
        }
        resolved
    }

    /// Checks what must hold when all runs have ended as they should have: answers, effects and books.
    pub(crate) fn check_end(&self, seen: &Seen, answer: impl Fn(&str) -> String) {
        self.ask_for(0, &["audit", "verify"]);
        let Seen { stories, accounts, deeds } = seen;
        let runs = self.runs();
        assert_eq!(runs.len(), stories.len());
        for report in runs {
            let run = report["run"].as_str().unwrap();
            let story = &stories[run];
            assert_eq!(report["status"], "done", "{report}");
            assert_eq!(report["answer"].as_str().unwrap(), answer(&story.input));
            self.ask_for(0, &["runs", "replay", run]);
            for (call, told) in &story.calls {
                // A handoff has no result: control does not come back.
                let is_over = told.stage == Stage::Over || told.class.is_empty();
                assert!(is_over && told.held == Money::default(), "{run}/{call}: {told:?}");
                if ["pure", "idempotent", "once"].contains(&told.class.as_str()) {
                    let key = (told.class.clone(), format!("{run}/{call}"));
                    assert!(deeds.contains_key(&key), "{key:?} was never done");
                }
            }
            let usage = &report["usage"];
            assert_eq!(usage["charged_tokens"].as_u64(), Some(story.charged.tokens), "{run}");
            let cost_usd = story.charged.nano_usd as f64 / 1e9;
            assert!((usage["cost_usd"].as_f64().unwrap() - cost_usd).abs() < 1e-12, "{run}: {usage}, not {cost_usd}");
            let account = &accounts[run];
            let expected = (story.charged, Money::default(), false);
            assert_eq!((account.spent, account.held, account.is_open), expected, "{run}");
        }
    }
}

/// What was there at some moment.
#[derive(Default)]
pub(crate) struct Seen {
    /// What each run's events say.
    pub(crate) stories: BTreeMap<String, Story>,
    /// What the ledger says of each run.
    pub(crate) accounts: BTreeMap<String, Account>,
    /// How many times each thing was done, by class and key.
    pub(crate) deeds: BTreeMap<(String, String), u64>,
}

/// What is charged and held: that part of it which is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Money {
    pub(crate) tokens: u64,
    pub(crate) nano_usd: u64,
}

impl Money {
    fn of(amount: &Value) -> Self {
        Self { tokens: amount["tokens"].as_u64().unwrap(), nano_usd: amount["cost_nano_usd"].as_u64().unwrap() }
    }

    fn add(&mut self, other: Self) {
        (self.tokens, self.nano_usd) = (self.tokens + other.tokens, self.nano_usd + other.nano_usd);
    }

    fn take(&mut self, other: Self) {
        // More is never given back than was held.
        let less = |one: u64, other: u64| one.checked_sub(other).unwrap();
        (self.tokens, self.nano_usd) = (less(self.tokens, other.tokens), less(self.nano_usd, other.nano_usd));
    }
}

/// A run's account, by the ledger.
#[derive(Debug, Default)]
pub(crate) struct Account {
    held: Money,
    spent: Money,
    is_open: bool,
}

impl Account {
    fn take(&mut self, entry: &Value) {
        match entry["kind"].as_str().unwrap() {
            "opened" => self.is_open = true,
            "reserved" => self.held.add(Money::of(&entry["amount"])),
            "settled" => {
                self.held.take(Money::of(&entry["held"]));
                self.spent.add(Money::of(&entry["spent"]));
                assert_eq!(Money::of(&entry["debt"]), Money::default(), "{entry}");
            }
            "closed" => self.is_open = false,
            kind => panic!("{kind}"),
        }
    }
}

/// How far a call has come, by the run's events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    #[default]
    Unknown,
    Intended,
    /// A try failed, and another one may follow.
    Failed,
    InDoubt,
    /// It was in doubt, and is to be made once more.
    Retry,
    /// It was in doubt, and its result is known.
    Known,
    Over,
}

/// What a run's events say of a call.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// `model`, `pure`, `idempotent`, `once`; none for a delegation or a handoff.
    pub(crate) class: String,
    pub(crate) stage: Stage,
    pub(crate) intents: u64,
    pub(crate) doubts: u64,
    pub(crate) held: Money,
    /// How many of its tries were cut off, and charged in full.
    pub(crate) cut: u64,
}

/// What a run's events say, checked against the rules while it is read.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) input: String,
    pub(crate) calls: BTreeMap<String, Told>,
    pub(crate) charged: Money,
    /// How often the run was taken up again.
    pub(crate) resumed: u64,
    seq: u64,
    /// The calls that were under way when the run was taken up again last.
    cut: BTreeSet<String>,
}

impl Story {
    /// How many times a call was in doubt.
    pub(crate) fn doubts(&self) -> u64 {
        self.calls.values().map(|told| told.doubts).sum()
    }

    fn take(&mut self, event: &Value) {
        self.seq += 1;
        assert_eq!(event["seq"].as_u64(), Some(self.seq), "{event}");
        match event["kind"].as_str().unwrap() {
            "run_started" => self.input = event["input"].as_str().unwrap().to_owned(),
            "run_resumed" => {
                self.resumed += 1;
                let intended = self.calls.iter().filter(|(_, told)| told.stage == Stage::Intended);
                self.cut = intended.map(|(call, _)| call.clone()).collect();
            }
            _ => {}
        }
        let Some(call) = event.get("call").and_then(Value::as_str) else { return };
        let was_cut = self.cut.remove(call);
        let told = self.calls.entry(call.to_owned()).or_default();
        let charged = told.take(event, was_cut);
        self.charged.add(charged);
    }
}

impl Told {
    /// Takes the call's next event; returns what it charges. `was_cut` says whether a process ended since its intent.
    fn take(&mut self, event: &Value, was_cut: bool) -> Money {
        let is_model = self.class == "model";
        match (event["kind"].as_str().unwrap(), self.stage) {
            ("call_intended", Stage::Unknown | Stage::Failed | Stage::Retry) => self.intend(event),
            // Whatever does no harm a second time is made again without a word.
            ("call_intended", Stage::Intended) if was_cut && self.class != "once" && !is_model => self.intend(event),
            ("try_failed", Stage::Intended) if is_model => {
                self.stage = Stage::Failed;
                let charged = Money::of(&event["charged"]);
                if was_cut {
                    assert_eq!(charged, self.held, "what was cut off is charged in full: {event}");
                    self.cut += 1;
                }
                self.held = Money::default();
                return charged;
            }
            ("model_replied", Stage::Intended) if is_model && !was_cut => {
                self.stage = Stage::Over;
                self.held = Money::default();
                return Money::of(&event["charged"]);
            }
            ("tool_returned", Stage::Intended) if self.class != "once" || !was_cut => self.stage = Stage::Over,
            ("tool_returned", Stage::Known) => self.stage = Stage::Over,
            ("call_in_doubt", Stage::Intended) if self.class == "once" && was_cut => {
                (self.stage, self.doubts) = (Stage::InDoubt, self.doubts + 1);
            }
            ("sent" | "took" | "dead_lettered", Stage::Intended) => {}
            // The model is asked once more; a tool's result is replaced by one that says that it can't be used.
            ("rejected", Stage::Over) => self.stage = if is_model { Stage::Failed } else { Stage::Known },
            ("call_resolved", Stage::InDoubt) => {
                self.stage = if event["resolution"] == "retry" { Stage::Retry } else { Stage::Known };
            }
            (_, stage) => panic!("after {stage:?} (cut off: {was_cut}) there can't be: {event}"),
        }
        Money::default()
    }

    fn intend(&mut self, event: &Value) {
        let is_model = event["subject"].get("model").is_some();
        self.class = if is_model { "model" } else { event["effect"].as_str().unwrap_or_default() }.to_owned();
        (self.stage, self.intents) = (Stage::Intended, self.intents + 1);
        self.held = Money::of(&event["reserved"]);
    }
}

/// A process group, which its members can be killed with at one stroke.
pub(crate) struct Group(Child);

impl Group {
    pub(crate) fn new() -> Self {
        // Its leader does nothing, so that the group is there whoever of its members is not.
        let mut leader = std::process::Command::new("sleep");
        Self(leader.arg("3600").process_group(0).spawn().unwrap())
    }

    pub(crate) fn kill(&self) {
        rustix::process::kill_process_group(Pid::from_raw(self.0.id() as i32).unwrap(), Signal::KILL).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        let _ = self.0.wait();
    }
}

/// The command as a process.
pub(crate) struct Running {
    child: Child,
    words: String,
    stdout: PathBuf,
    stderr: PathBuf,
    run: Option<String>,
    deadline: Instant,
    ended: Option<ExitStatus>,
}

/// How a process ended, and what it had said.
pub(crate) struct Ended {
    status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Running {
    /// Whether it has ended; if it should have long ago, the test fails.
    pub(crate) fn has_ended(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        if self.ended.is_none() && Instant::now() > self.deadline {
            let _ = self.child.kill();
            panic!("`provost {}` did not end: {}", self.words, fs::read_to_string(&self.stderr).unwrap());
        }
        self.ended.is_some()
    }

    /// What it has said on stderr so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap()).into_owned()
    }

    /// The run whose id it has said.
    pub(crate) fn run(&mut self) -> Option<&str> {
        if self.run.is_none() {
            let said = self.said();
            let said = said.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            self.run = said
                .filter_map(|line| line.strip_prefix("run ")?.split_once(" of "))
                .map(|(run, _)| run.to_owned())
                .next();
        }
        self.run.as_deref()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        while !self.has_ended() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let read = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        let (stdout, stderr) = (read(&self.stdout), read(&self.stderr));
        assert!(!stderr.contains("panicked"), "`provost {}`: {stderr}", self.words);
        Ended { status: self.ended.unwrap(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub(crate) fn was_killed(&self) -> bool {
        self.status.signal() == Some(Signal::KILL.as_raw())
    }
}
