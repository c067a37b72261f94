//! The journal among processes: killed at its worst moments, on a medium that fails, and two that want one store.
//!
//! The children are this very test binary, started anew for the one ignored test [`child`].

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use provost::journal::{Batch, Error, Journal, Part, Record, Store, StreamName, verify};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The directory that a child works in.
const DIRECTORY: &str = "PROVOST_TEST_STORE";

fn stream() -> StreamName {
    StreamName::new("run/contested")
}

/// A record that says which process has written it.
fn record(seq: u64, pid: u32) -> Record {
    Record {
        seq,
        time_ms: seq,
        agent: Some(pid.to_string().into()),
        incarnation: 0,
        cause: None,
        labels: Vec::new(),
        kind: "written".into(),
        version: 1,
        payload: vec![0xc0],
    }
}

/// Does what its standard input says, a word a line, and says on its standard output how it went.
#[test]
#[ignore = "this is the other process of the tests here"]
fn child() {
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let directory = Path::new(&directory);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut journal = None;
    let mut next = 0;
    println!("\nready");
    for line in std::io::stdin().lines() {
        let word = line.unwrap();
        let said = match (word.as_str(), &journal) {
            ("open" | "take_over", _) => match Journal::open(directory, word == "take_over") {
                Ok(opened) => {
                    let head = opened.store().unwrap().stream(&stream()).map_or(0, |info| info.head);
                    next = head + 1;
                    let said = format!("open {}", opened.epoch());
                    journal = Some(opened);
                    said
                }
                Err(error) => told(&error),
            },
            ("append", Some(journal)) => {
                let part = Part {
                    stream: stream(),
                    records: vec![record(next, std::process::id())],
                    mark: None,
                    snapshot: None,
                };
                let appended = journal.append(Batch { parts: vec![part], durable: Vec::new() });
                match appended.and_then(|()| runtime.block_on(journal.sync())) {
                    Ok(()) => {
                        next += 1;
                        format!("durable {}", next - 1)
                    }
                    Err(error) => told(&error),
                }
            }
            other => panic!("{other:?}", other = other.0),
        };
        println!("\n{said}");
    }
}

fn told(error: &Error) -> String {
    match error {
        Error::Held { .. } => "held".to_owned(),
        Error::Fenced { .. } => "fenced".to_owned(),
        Error::Io { .. } => "failed".to_owned(),
        other => other.to_string(),
    }
}

/// Another process, ended on drop.
struct Other {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Other {
    fn start(directory: &Path, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "journal::child", "--ignored", "--nocapture"]).env(DIRECTORY, directory);
        command.envs(environment.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut other = Self { child, stdin, stdout };
        while other.hear().as_deref() != Some("ready") {}
        other
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn say(&mut self, word: &str) {
        writeln!(self.stdin, "{word}").unwrap();
    }

    /// Returns the next thing that it says; nothing if it is dead.
    fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        while line.trim().is_empty() {
            line.clear();
            if self.stdout.read_line(&mut line).unwrap() == 0 {
                return None;
            }
        }
        Some(line.trim().to_owned())
    }

    fn ask(&mut self, word: &str) -> Option<String> {
        self.say(word);
        self.hear()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id() as i32).unwrap(), signal).unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Who has written each record, in their order.
fn written(directory: &Path) -> Vec<u32> {
    let records = match Store::open(directory).unwrap().read(&stream(), 0, usize::MAX) {
        Err(Error::NoSuchStream { .. }) => Vec::new(),
        records => records.unwrap(),
    };
    records.iter().map(|record| record.agent.as_deref().unwrap().parse().unwrap()).collect()
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// What was durable before a `kill -9` can be read while nobody holds the store, and the next one goes on from there.
#[test]
fn what_was_durable_outlives_a_kill_and_needs_no_holder_to_be_read() {
    let dir = directory();
    let mut first = Other::start(dir.path(), &[]);
    assert_eq!(first.ask("open").as_deref(), Some("open 1"));
    for seq in 1..=3 {
        assert_eq!(first.ask("append").unwrap(), format!("durable {seq}"));
        assert_eq!(written(dir.path()).len(), seq);
    }
    drop(first);
    assert_eq!(written(dir.path()).len(), 3);
    assert_eq!(verify(dir.path()).unwrap().events, 3);
    let mut second = Other::start(dir.path(), &[]);
    assert_eq!(second.ask("open").as_deref(), Some("open 2"));
    assert_eq!(second.ask("append").as_deref(), Some("durable 4"));
}

/// Dying between any two of the writer's steps loses nothing that was said to be durable.
#[test]
#[cfg(debug_assertions)]
fn a_crash_at_any_step_of_a_commit_keeps_what_was_durable() {
    for (point, is_kept) in
        [("journal.before_write", false), ("journal.before_sync", false), ("journal.after_sync", true)]
    {
        for nth in 1..=3 {
            let dir = directory();
            let mut other = Other::start(dir.path(), &[("PROVOST_CRASH_AT", &format!("{point}@{nth}"))]);
            other.ask("open").unwrap();
            let durable = (0..5).map_while(|_| other.ask("append")).count();
            assert_eq!(durable, nth - 1, "{point}");
            drop(other);
            assert_eq!(written(dir.path()).len(), durable + usize::from(is_kept), "{point}@{nth}");
            verify(dir.path()).unwrap();
            drop(Journal::open(dir.path(), false).unwrap());
            verify(dir.path()).unwrap();
        }
    }
}

/// After a write or a sync that fails nothing is accepted, and nothing that was not durable is said to be.
#[test]
#[cfg(debug_assertions)]
fn a_medium_that_fails_once_stops_everything() {
    for point in ["journal.write", "journal.sync"] {
        let dir = directory();
        let mut other = Other::start(dir.path(), &[("PROVOST_FAULT_AT", &format!("{point}@3"))]);
        other.ask("open").unwrap();
        let said: Vec<_> = (0..5).map(|_| other.ask("append").unwrap()).collect();
        assert_eq!(said, ["durable 1", "durable 2", "failed", "failed", "failed"], "{point}");
        assert_eq!(written(dir.path()).len(), 2);
        // It stays the holder, since it may have more under way than what it writes.
        assert!(matches!(Journal::open(dir.path(), false), Err(Error::Held { pid, .. }) if pid == other.pid()));
        drop(other);
        verify(dir.path()).unwrap();
    }
}

/// Two open at once, and one gets the store. It is stopped at some moment, and the other takes over; when the first goes
/// on, nothing of it is accepted any more.
fn race(round: u64, directory: &Path) {
    let before = if directory.join("provost.db").exists() { written(directory).len() } else { 0 };
    let mut both = [Other::start(directory, &[]), Other::start(directory, &[])];
    both.iter_mut().for_each(|other| other.say("open"));
    let said = both.each_mut().map(|other| other.hear().unwrap());
    let is_first = |said: &String| said.starts_with("open");
    assert_eq!(said.iter().filter(|said| is_first(said)).count(), 1, "{said:?}");
    assert!(said.iter().all(|said| is_first(said) || said == "held"), "{said:?}");
    if is_first(&said[1]) {
        both.reverse();
    }
    let [mut old, mut new] = both;
    let mut durable = before;
    for _ in 0..round % 3 {
        durable += 1;
        assert_eq!(old.ask("append").unwrap(), format!("durable {durable}"));
    }
    // In one round of four it is stopped somewhere in the midst of an append.
    let is_amidst = round.is_multiple_of(4);
    if is_amidst {
        old.say("append");
        std::thread::sleep(Duration::from_micros(round * 37 % 4_000));
    }
    old.signal(Signal::STOP);
    let mut taken = new.ask("take_over").unwrap();
    while taken == "held" {
        // It was stopped with SQLite's own lock in its hands, which nobody can take from it.
        assert!(is_amidst);
        old.signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(20));
        old.signal(Signal::STOP);
        taken = new.ask("take_over").unwrap();
    }
    assert!(taken.starts_with("open"), "{taken}");
    let at_take_over = written(directory).len();
    new.ask("append").filter(|said| said.starts_with("durable")).unwrap();
    old.signal(Signal::CONT);
    if is_amidst {
        let said = old.hear().unwrap();
        assert_eq!(said == "fenced", at_take_over == durable, "{said}, and {at_take_over} are there after {durable}");
    }
    for _ in 0..3 {
        assert_eq!(old.ask("append").as_deref(), Some("fenced"));
        assert!(new.ask("append").unwrap().starts_with("durable"));
    }
    let by = written(directory);
    assert_eq!(by.len(), at_take_over + 4);
    assert!(by[before..at_take_over].iter().all(|pid| *pid == old.pid()), "{by:?}");
    assert!(by[at_take_over..].iter().all(|pid| *pid == new.pid()), "{by:?}");
    // The holder is the new one, whatever lock the old one has.
    assert!(matches!(Journal::open(directory, false), Err(Error::Held { pid, .. }) if pid == new.pid()));
    verify(directory).unwrap();
}

/// `PROVOST_RACES` says how many rounds.
#[test]
fn of_two_processes_one_holds_the_store_and_who_was_taken_over_writes_nothing() {
    let races = std::env::var("PROVOST_RACES").ok().and_then(|races| races.parse().ok()).unwrap_or(12);
    let mut dir = directory();
    for round in 0..races {
        if round % 10 == 0 {
            dir = directory();
        }
        race(round, dir.path());
    }
}
