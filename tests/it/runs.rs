//! Runs in a store, seen and told what to do from other processes; and what becomes of them when their process dies.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use provost::spec::Network;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{PATIENCE, at_a_terminal, one_agent, output, provost, read_until, runs, signal, wait};

/// A network that answers after two model calls of this many milliseconds each.
fn slow(latency_ms: u64) -> TempDir {
    let latency_ms = latency_ms.max(1);
    one_agent(
        "",
        &format!(
            r#"tools = ["now"]
[tools.now]
builtin = "clock.now"
[sim]
latency = {{ p50 = "{latency_ms}ms", p99 = "{latency_ms}ms" }}
[sim.script]
a = ['{{"calls": [{{"name": "now"}}]}}', "{{{{ input }}}} is done"]
"#
        ),
    )
}

/// A network whose tool waits until there is a file `gate`, and whose answer is all that its agent was told.
fn gated() -> TempDir {
    one_agent(
        "",
        r#"tools = ["wait"]
[tools.wait]
builtin = "process.run"
allow = ["sh"]
effect = "idempotent"
[policy]
default = "allow"
[sim.script]
a = ['{"calls": [{"name": "wait", "arguments": {"argv": ["sh", "-c", "while [ ! -e gate ]; do sleep 0.01; done"]}}]}',
     "{{ messages | map(attribute='text') | join(' | ') }}"]
"#,
    )
}

pub(crate) fn open_gate(dir: &Path) {
    std::fs::write(dir.join("gate"), "").unwrap();
}

/// Waits until something is so.
pub(crate) fn until<T>(what: &str, mut is_so: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = is_so() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until there is an event with `what` in it that a crash does not undo.
pub(crate) fn until_stored(dir: &Path, what: &str) {
    until(what, || output(dir, &["audit", "export"]).1.contains(what).then_some(()));
}

/// The command as a process whose stderr is kept.
struct Running {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    said: String,
}

impl Running {
    fn start(dir: &Path, arguments: &[&str]) -> Self {
        let mut child = provost(dir).args(arguments).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr, said: String::new() }
    }

    /// Reads stderr up to the first line with `what` in it.
    fn wait_for(&mut self, what: &str) -> String {
        let mut line = String::new();
        while self.stderr.read_line(&mut line).unwrap() > 0 {
            self.said.push_str(&line);
            if line.contains(what) {
                return line;
            }
            line.clear();
        }
        panic!("it never said {what:?}: {}", self.said);
    }

    /// Returns the run's id, once it has been said.
    fn run(&mut self) -> String {
        let line = self.wait_for("run ");
        line.split_whitespace().nth(1).unwrap().to_owned()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end; returns its code, stdout and all of stderr.
    fn end(mut self) -> (Option<i32>, String, String) {
        let code = wait(&mut self.child);
        let mut stdout = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.stderr.read_to_string(&mut self.said).unwrap();
        (code, stdout, self.said)
    }
}

fn list(dir: &Path, arguments: &[&str]) -> Vec<Value> {
    let (code, stdout, stderr) = output(dir, &[&["runs", "list", "--json"], arguments].concat());
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn statuses(dir: &Path) -> Vec<String> {
    list(dir, &[]).iter().map(|run| run["status"].as_str().unwrap().to_owned()).collect()
}

/// Puts fixed words in the place of what differs from run to run.
pub(crate) fn redacted(text: &str) -> String {
    let is_id = |word: &str| word.len() == 26 && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let is_time = |word: &str| word.starts_with("20") && word[1..].contains(['-']);
    let word = |word: &str| {
        let bare = word.trim_matches(|c: char| c == '\'' || c == ',' || c == ':');
        if word.starts_with("{\"utc\"") {
            "CLOCK".to_owned()
        } else if is_id(bare) {
            word.replace(bare, "RUN")
        } else if is_time(bare) {
            "DATE".to_owned()
        } else if bare.split(['.', ':']).count() > 1 && bare.chars().all(|c| c.is_ascii_digit() || c == '.' || c == ':')
        {
            "TIME".to_owned()
        } else if bare.len() == 64 && bare.chars().all(|c| c.is_ascii_hexdigit()) {
            "HASH".to_owned()
        } else {
            word.to_owned()
        }
    };
    let line = |line: &str| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn where_there_is_no_store_there_are_no_runs_and_none_is_made() {
    let dir = one_agent("", "");
    let (code, stdout, stderr) = output(dir.path(), &["runs", "list"]);
    assert_eq!((code, stdout.as_str()), (Some(0), ""));
    assert!(stderr.starts_with("no runs at "), "{stderr}");
    assert_eq!(list(dir.path(), &[]), Vec::<Value>::new());
    for asked in [&["show", "last"][..], &["watch", "last"], &["resume", "01abc"], &["cancel", "01abc"]] {
        let (code, stdout, stderr) = output(dir.path(), &[&["runs"], asked].concat());
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains("there are no runs at"), "{stderr}");
    }
    assert_eq!(output(dir.path(), &["runs", "resume", "--all"]).0, Some(0));
    assert_eq!(output(dir.path(), &["runs", "prune", "--keep", "0"]).0, Some(0));
    assert_eq!(output(dir.path(), &["audit", "verify"]).0, Some(8));
    assert!(!dir.path().join(".provost").exists());
}

#[test]
fn what_list_show_verify_and_export_print() {
    let dir = slow(0);
    assert_eq!(output(dir.path(), &["run", "n.toml", "one", "--session", "s"]).0, Some(0));
    let (code, events, _) = output(dir.path(), &["run", "n.toml", "two", "--events"]);
    assert_eq!(code, Some(0));
    let text = |arguments: &[&str]| {
        let (code, stdout, stderr) = output(dir.path(), arguments);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
        stdout
    };
    insta::assert_snapshot!(redacted(&text(&["runs", "list"])), @r"
    RUN NETWORK STATUS BEGAN CALLS TOKENS COST
    RUN n done DATE TIME 2 83 $0.00 two is done
    RUN n done DATE TIME 2 83 $0.00 one is done
    ");
    insta::assert_snapshot!(redacted(&text(&["runs", "show", "last"])), @r#"
    run RUN of n · tenant local · began DATE TIME
    1 TIME s the run of n began: two
    2 TIME s a is asked: two
    3 TIME s a asks the model sim
    4 TIME s a gets an answer: now
    5 TIME s a calls now {}
    6 TIME s a is told: CLOCK
    7 TIME s a asks the model sim
    8 TIME s a gets an answer: two is done
    9 TIME s a is done
    10 TIME s the run stands at done
    two is done
    done
    2 model calls, 1 tool call, 78 + 5 tokens, $0.00, TIME s · run RUN
    "#);
    // How many events share a commit is a matter of timing.
    let verified = redacted(&text(&["audit", "verify"]));
    let is_count = |word: &&str| word.ends_with(" commits");
    let commits = verified.split(", ").find(is_count).unwrap();
    let (verified, checkpoints) = verified.split_at(verified.find("2 checkpoints at ").unwrap());
    assert!(checkpoints.contains("checkpoints.jsonl agree, up to commit"), "{checkpoints}");
    insta::assert_snapshot!(verified.replace(commits, "N commits"), @r"
    the store is whole
    3 streams, 34 events, N commits, 0 blobs, 0 tombstones
    2 runs read, 0 pruned; 6 charges compared with the ledger
    head HASH
    ");

    // What is exported is what was printed as it happened; but the end is the result there, and what models say while
    // they do is not kept.
    let exported = text(&["audit", "export", "last"]);
    let (exported, printed): (Vec<_>, Vec<_>) = {
        let is_kept = |line: &&str| !line.contains("\"kind\":\"tokens\"");
        (exported.lines().collect(), events.lines().filter(is_kept).collect())
    };
    assert_eq!(exported.len(), printed.len());
    assert_eq!(exported[..exported.len() - 1], printed[..printed.len() - 1]);
    assert_eq!(text(&["runs", "show", "last", "--events"]).lines().collect::<Vec<_>>(), exported);
    let all = text(&["audit", "export", "--ledger"]);
    assert_eq!(all.lines().filter(|line| line.contains("\"kind\":\"run_started\"")).count(), 2);
    assert_eq!(all.lines().filter(|line| line.contains("\"ledger\":")).count(), 14);

    let (runs, shown) = (list(dir.path(), &[]), text(&["runs", "show", "last", "--json"]));
    let mut shown: Value = serde_json::from_str(&shown).unwrap();
    let timeline = shown.as_object_mut().unwrap().remove("timeline").unwrap();
    assert_eq!((&shown, timeline.as_array().unwrap().len()), (&runs[0], exported.len()));
    assert_eq!((&runs[0]["answer"], &runs[1]["session"]), (&json!("two is done"), &json!("s")));
    let chosen = |arguments: &[&str]| list(dir.path(), arguments).len();
    assert_eq!(chosen(&["--limit", "1"]), 1);
    assert_eq!(chosen(&["--session", "s"]), 1);
    assert_eq!((chosen(&["--status", "done"]), chosen(&["--status", "failed"])), (2, 0));
    assert_eq!((chosen(&["--network", "n", "--tenant", "local"]), chosen(&["--network", "m"])), (2, 0));
    assert_eq!((chosen(&["--since", "1h"]), chosen(&["--since", "2100-01-01"])), (2, 0));
    assert_eq!(output(dir.path(), &["runs", "list", "--status", "asleep"]).0, Some(2));
}

#[test]
fn a_run_that_is_not_there_is_code_2_with_the_closest_one() {
    let dir = one_agent("", "");
    let run = output(dir.path(), &["run", "n.toml", "go", "--json"]).1;
    let run = serde_json::from_str::<Value>(&run).unwrap()["run"].as_str().unwrap().to_owned();
    let like = format!("{}zz", &run[..24]);
    for verb in [&["show"][..], &["watch"], &["resume"], &["cancel"], &["pause"]] {
        let (code, stdout, stderr) = output(dir.path(), &[&["runs"], verb, &[like.as_str()]].concat());
        assert_eq!((code, stdout.as_str()), (Some(2), ""));
        assert!(stderr.contains(&format!("there is no run {like}")) && stderr.contains(&run), "{stderr}");
    }
    for name in [&run[..22], &run[20..], "last", run.as_str()] {
        assert_eq!(output(dir.path(), &["runs", "show", name]).0, Some(0), "{name}");
    }
    assert_eq!(output(dir.path(), &["runs", "show", &run[23..]]).0, Some(2), "three letters are too few");
}

#[test]
fn ten_runs_at_once_share_one_store() {
    let dir = slow(100);
    let started: Vec<Running> =
        (0..10).map(|number| Running::start(dir.path(), &["run", "n.toml", &format!("task {number}")])).collect();
    for (number, running) in started.into_iter().enumerate() {
        let (code, stdout, stderr) = running.end();
        assert_eq!((code, stdout), (Some(0), format!("task {number} is done\n")), "{stderr}");
    }
    assert_eq!(statuses(dir.path()), ["done"; 10]);
    assert!(!dir.path().join(".provost/control.sock").exists(), "the holder left its socket behind");
    assert_eq!(output(dir.path(), &["audit", "verify"]).0, Some(0));
}

#[test]
fn runs_outlive_the_process_that_has_them() {
    let dir = slow(300);
    let mut holder = Running::start(dir.path(), &["run", "n.toml", "holder"]);
    let own = holder.run();
    let mut guests: Vec<Running> =
        (0..5).map(|number| Running::start(dir.path(), &["run", "n.toml", &format!("guest {number}")])).collect();
    for guest in &mut guests {
        guest.run();
    }
    holder.kill();
    let mut taken_over = 0;
    for (number, guest) in guests.into_iter().enumerate() {
        let (code, stdout, stderr) = guest.end();
        assert_eq!((code, stdout), (Some(0), format!("guest {number} is done\n")), "{stderr}");
        taken_over += usize::from(stderr.contains("has ended; another takes it over"));
    }
    assert_eq!(taken_over, 5);
    let interrupted = list(dir.path(), &["--status", "interrupted"]);
    assert_eq!((interrupted.len(), &interrupted[0]["run"]), (1, &json!(own)));

    let (code, _, stderr) = output(dir.path(), &["runs", "watch", &own]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("interrupted: its process ended") && stderr.contains("runs resume"), "{stderr}");
    let (code, stdout, stderr) = output(dir.path(), &["runs", "resume", "--all", "--json"]);
    let resumed: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, resumed[0]["answer"].as_str()), (Some(0), Some("holder is done")), "{stderr}");
    assert_eq!(output(dir.path(), &["audit", "verify"]).0, Some(0));
}

#[test]
fn a_run_is_watched_paused_steered_and_resumed_from_elsewhere() {
    let dir = gated();
    let mut holder = Running::start(dir.path(), &["run", "n.toml", "go"]);
    let run = holder.run();
    holder.wait_for("calls wait");
    let mut watcher = Running::start(dir.path(), &["runs", "watch", "last", "--json"]);
    watcher.wait_for("calls wait");
    let told = |arguments: &[&str]| {
        let (code, stdout, stderr) = output(dir.path(), arguments);
        assert_eq!(code, Some(0), "{stderr}");
        redacted(&stdout)
    };
    insta::assert_snapshot!(told(&["runs", "pause", &run]), @"run RUN is paused: calls under way end, no others begin; go on with: provost runs resume RUN");
    insta::assert_snapshot!(told(&["runs", "steer", &run, "be brief"]), @"told; it is read at the next step: provost runs watch RUN");
    let (code, _, stderr) = output(dir.path(), &["runs", "steer", &run, "--agent", "nobody", "x"]);
    assert_eq!(code, Some(1), "{stderr}");
    open_gate(dir.path());
    until_stored(dir.path(), "tool_returned");
    assert_eq!(statuses(dir.path()), ["running"]);
    let resumer = Running::start(dir.path(), &["runs", "resume", &run]);
    for (code, stdout, stderr) in [resumer.end(), holder.end()] {
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.contains("be brief"), "{stdout}");
    }
    let (code, stdout, stderr) = watcher.end();
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report, list(dir.path(), &[])[0]);
    for verb in ["pause", "cancel", "resume"] {
        let (code, _, stderr) = output(dir.path(), &["runs", verb, &run]);
        assert_eq!(code, Some(1));
        assert!(stderr.contains("done"), "{stderr}");
    }
}

#[test]
fn a_guest_is_cancelled_by_its_own_signal_or_from_elsewhere_and_nobody_else_is() {
    let dir = gated();
    let mut holder = Running::start(dir.path(), &["run", "n.toml", "holder"]);
    holder.wait_for("calls wait");
    let [mut first, mut second, mut third] =
        ["first", "second", "third"].map(|name| Running::start(dir.path(), &["run", "n.toml", name]));
    let ids = [&mut first, &mut second, &mut third].map(Running::run);
    signal(&first.child, Signal::INT);
    let (code, _, stderr) = first.end();
    assert_eq!(code, Some(130));
    assert!(stderr.contains("cancelled: cancelled by a signal"), "{stderr}");
    let (code, stdout, stderr) = output(dir.path(), &["runs", "cancel", &ids[1]]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("cancel"), "{stdout}");
    assert_eq!(second.end().0, Some(130));
    // Who watches and stops watching leaves the run alone.
    let mut watcher = Running::start(dir.path(), &["runs", "watch", &ids[2]]);
    watcher.run();
    signal(&watcher.child, Signal::INT);
    assert_eq!(watcher.end().0, Some(130));
    open_gate(dir.path());
    assert_eq!((third.end().0, holder.end().0), (Some(0), Some(0)));
}

#[test]
fn a_holder_waits_for_its_guests_or_leaves_them_at_a_signal() {
    let dir = gated();
    let mut holder = Running::start(dir.path(), &["run", "n.toml", "holder", "--model", "sim", "--json"]);
    let own = holder.run();
    holder.wait_for("calls wait");
    let mut guest = Running::start(dir.path(), &["run", "n.toml", "guest"]);
    guest.wait_for("calls wait");
    assert_eq!(output(dir.path(), &["runs", "cancel", &own]).0, Some(0));
    holder.wait_for("another run goes on in this process");
    signal(&holder.child, Signal::INT);
    let (code, stdout, stderr) = holder.end();
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stdout.contains("\"cancelled\""), "its result is there before: {stdout}");
    guest.wait_for("another takes it over");
    open_gate(dir.path());
    assert_eq!(guest.end().0, Some(0));
}

#[test]
fn a_holder_whose_events_nobody_reads_still_answers() {
    let dir = one_agent(
        "steps = 5000",
        "max_steps = 5000\ntools = [\"now\"]\n[tools.now]\nbuiltin = \"clock.now\"\n\
         [sim.script]\na = ['{\"calls\": [{\"name\": \"now\"}]}']\n",
    );
    std::fs::write(dir.path().join("small.toml"), std::fs::read(slow(1).path().join("n.toml")).unwrap()).unwrap();
    let mut holder = provost(dir.path()).args(["run", "n.toml", "go", "--events"]).spawn().unwrap();
    // More than a pipe holds.
    until("it has much to say", || {
        let runs = list(dir.path(), &[]);
        (runs.first()?["events"].as_u64()? > 1_000).then_some(())
    });
    let (code, stdout, stderr) = output(dir.path(), &["run", "small.toml", "guest"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "guest is done\n"), "{stderr}");
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_holder_that_hangs_is_named_and_can_be_fenced_off() {
    let dir = gated();
    let mut holder = Running::start(dir.path(), &["run", "n.toml", "holder"]);
    let own = holder.run();
    // Not in the midst of a write: then even its lock on the database stands.
    until_stored(dir.path(), r#""tool":"wait""#);
    signal(&holder.child, Signal::STOP);
    let (code, stdout, stderr) = output(dir.path(), &["run", "n.toml", "go"]);
    assert_eq!((code, stdout.as_str()), (Some(8), ""));
    let pid = holder.child.id();
    assert!(stderr.contains(&format!("process {pid} holds the store")) && stderr.contains("--take-over"), "{stderr}");
    assert_eq!(list(dir.path(), &[]).len(), 1, "reads need nobody");

    // Its tool goes on, and its end is waiting for it.
    open_gate(dir.path());
    let (code, _, stderr) = output(dir.path(), &["runs", "resume", &own, "--take-over"]);
    assert_eq!(code, Some(0), "{stderr}");
    let before = output(dir.path(), &["audit", "export"]).1;
    signal(&holder.child, Signal::CONT);
    let (code, stdout, stderr) = holder.end();
    assert_eq!((code, stdout.as_str()), (Some(8), ""), "{stderr}");
    assert!(stderr.contains("taken over"), "{stderr}");
    assert_eq!(output(dir.path(), &["audit", "export"]).1, before);
}

#[test]
fn a_socket_that_a_dead_process_left_is_in_nobodys_way_and_a_long_path_neither() {
    let top = tempfile::tempdir().unwrap();
    let data = top.path().join("d".repeat(150)).join("e".repeat(150));
    let data_dir = data.to_str().unwrap();
    let dir = gated();
    let arguments = |input| ["run", "n.toml", input, "--data-dir", data_dir];
    let mut dead = Running::start(dir.path(), &arguments("dead"));
    dead.wait_for("calls wait");
    dead.kill();
    assert!(std::fs::symlink_metadata(data.join("control.sock")).unwrap().file_type().is_socket());
    let mut holder = Running::start(dir.path(), &arguments("holder"));
    assert!(holder.wait_for("interrupted").contains("note: 1 run was interrupted: provost runs resume --all"));
    holder.wait_for("calls wait");
    let socket = std::fs::symlink_metadata(data.join("control.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    let mut guest = Running::start(dir.path(), &arguments("guest"));
    guest.wait_for("calls wait");
    open_gate(dir.path());
    assert_eq!((guest.end().0, holder.end().0), (Some(0), Some(0)));
    assert!(!data.join("control.sock").exists());
}

#[test]
fn an_approval_is_given_at_any_terminal() {
    let dir = runs("true", r#"["true"]"#, "ask");
    let (code, _, stderr) = output(dir.path(), &["run", "n.toml", "go"]);
    assert_eq!(code, Some(6));
    assert!(stderr.contains("provost approvals approve"), "{stderr}");
    let shown = output(dir.path(), &["runs", "show", "last"]).1;
    assert!(shown.contains("a#1.0 awaits approval: calls run"), "{shown}");
    assert_eq!(output(dir.path(), &["runs", "resume", "--all"]).0, Some(0));
    assert_eq!(statuses(dir.path()), ["awaiting_approval"], "it stays parked");
    assert_eq!(output(dir.path(), &["runs", "resume", "last"]).0, Some(6), "nobody is there to ask");
    let (mut child, mut terminal) = at_a_terminal(dir.path(), &["runs", "resume", "last"]);
    read_until(&mut terminal, "[y/n]");
    terminal.write_all(b"y\n").unwrap();
    assert_eq!(wait(&mut child), Some(0));

    // As a guest of a process that nobody sits at.
    let gate = gated();
    let asks = dir.path().join("n.toml");
    let data = gate.path().join("data");
    let data_dir = ["--data-dir", data.to_str().unwrap()];
    let mut holder = Running::start(gate.path(), &[&["run", "n.toml", "go"][..], &data_dir].concat());
    holder.wait_for("calls wait");
    let run = [&["run", asks.to_str().unwrap(), "go"][..], &data_dir].concat();
    for (answer, words) in [("y\n", "'exit_code': 0"), ("n\n", "did not allow")] {
        let (mut child, mut terminal) = at_a_terminal(gate.path(), &run);
        read_until(&mut terminal, "[y/n]");
        terminal.write_all(answer.as_bytes()).unwrap();
        assert_eq!(wait(&mut child), Some(0));
        let mut stdout = String::new();
        child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        assert!(stdout.contains(words), "{stdout}");
    }
    assert_eq!(output(gate.path(), &run).0, Some(6), "without a terminal it is parked");
    open_gate(gate.path());
    assert_eq!(holder.end().0, Some(0));
}

#[test]
fn a_call_in_doubt_is_resolved_by_a_person() {
    for (how, said) in [(&["--done", "it was sent"][..], "it was sent"), (&["--retry"], "exit_code"), (&["--fail"], "")]
    {
        let dir = gated();
        let text = std::fs::read_to_string(dir.path().join("n.toml")).unwrap();
        std::fs::write(dir.path().join("n.toml"), text.replace("idempotent", "once")).unwrap();
        let mut holder = Running::start(dir.path(), &["run", "n.toml", "go"]);
        holder.run();
        until_stored(dir.path(), r#""tool":"wait""#);
        holder.kill();
        open_gate(dir.path());
        let (code, _, stderr) = output(dir.path(), &["runs", "resume", "last"]);
        assert_eq!(code, Some(7), "{stderr}");
        let shown = output(dir.path(), &["runs", "show", "last"]).1;
        assert!(shown.contains("a#1.0 is in doubt: calls wait") && shown.contains("runs resolve"), "{shown}");
        assert_eq!(output(dir.path(), &["runs", "resolve", "last", "a#1.0"]).0, Some(2), "it must be said how");
        let (code, stdout, stderr) = output(dir.path(), &[&["runs", "resolve", "last", "a#1.0"], how].concat());
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.contains("go on with: provost runs resume"), "{stdout}");
        let (code, stdout, stderr) = output(dir.path(), &["runs", "resume", "last"]);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.contains(said), "{stdout}");
    }
}

#[test]
fn what_is_interrupted_or_parked_is_cancelled_where_it_stands() {
    let asks = runs("true", r#"["true"]"#, "ask");
    assert_eq!(output(asks.path(), &["run", "n.toml", "go"]).0, Some(6));
    let (code, stdout, _) = output(asks.path(), &["runs", "cancel", "--all", "--json"]);
    assert_eq!(code, Some(0));
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()[0]["status"], "cancelled");
    assert_eq!(list(asks.path(), &[])[0]["reason"], "cancelled by a person");
    assert_eq!(output(asks.path(), &["runs", "cancel", "last"]).0, Some(1));
    assert_eq!(output(asks.path(), &["audit", "verify"]).0, Some(0));
}

#[test]
fn pruning_takes_what_has_ended_and_leaves_what_was_spent() {
    let dir = slow(0);
    for input in ["one", "two", "three"] {
        assert_eq!(output(dir.path(), &["run", "n.toml", input]).0, Some(0));
    }
    std::fs::write(
        dir.path().join("asks.toml"),
        std::fs::read_to_string(runs("true", r#"["true"]"#, "ask").path().join("n.toml")).unwrap(),
    )
    .unwrap();
    assert_eq!(output(dir.path(), &["run", "asks.toml", "parked"]).0, Some(6));
    let prune = |arguments: &[&str]| {
        let (code, stdout, stderr) = output(dir.path(), &[&["runs", "prune"], arguments].concat());
        assert_eq!(code, Some(0), "{stderr}");
        redacted(&stdout)
    };
    insta::assert_snapshot!(prune(&["--keep", "1d"]), @"removed 0 runs: 0 events, 0 blobs; what they spent stays in the ledger");
    insta::assert_snapshot!(prune(&["--keep", "1", "--dry-run"]), @r"
    2 runs with 20 events would go
    RUN
    RUN
    ");
    insta::assert_snapshot!(prune(&["--keep", "1"]), @"removed 2 runs: 20 events, 0 blobs; what they spent stays in the ledger");
    insta::assert_snapshot!(prune(&["--keep", "0"]), @"removed 1 run: 10 events, 0 blobs; what they spent stays in the ledger");
    assert_eq!(statuses(dir.path()), ["awaiting_approval", "done", "done", "done"], "they are remembered");
    let shown = output(dir.path(), &["runs", "show", list(dir.path(), &[])[3]["run"].as_str().unwrap()]).1;
    assert!(shown.contains("have been pruned") && shown.contains("one is done"), "{shown}");
    let (code, stdout, _) = output(dir.path(), &["audit", "verify", "--json"]);
    let verified: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &verified["pruned_runs"], &verified["runs"]), (Some(0), &json!(3), &json!(1)));
    assert_eq!(output(dir.path(), &["runs", "prune"]).0, Some(2), "it must be said what is kept");
}

#[test]
fn a_store_that_was_changed_is_code_8_with_its_first_fault() {
    let dir = slow(0);
    assert_eq!(output(dir.path(), &["run", "n.toml", "go"]).0, Some(0));
    let store = rusqlite::Connection::open(dir.path().join(".provost/provost.db")).unwrap();
    let changed = store.execute("UPDATE events SET time_ms = time_ms + 1 WHERE seq = 5", ()).unwrap();
    assert!(changed > 0);
    drop(store);
    let (code, stdout, stderr) = output(dir.path(), &["audit", "verify"]);
    assert_eq!((code, stdout.as_str()), (Some(8), ""));
    assert!(stderr.contains("run/") && stderr.contains("5"), "{stderr}");
    let (code, stdout, _) = output(dir.path(), &["audit", "verify", "--json"]);
    let said: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &said["ok"]), (Some(8), &json!(false)));
    assert_eq!(output(dir.path(), &["runs", "show", "last"]).0, Some(8));
}

/// Asks on the control socket, as `curl --unix-socket` does.
pub(crate) fn ask(dir: &Path, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(dir.join(".provost/control.sock")).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: provost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split_whitespace().nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[test]
fn the_control_socket_speaks_http() {
    let dir = gated();
    let mut holder = Running::start(dir.path(), &["run", "n.toml", "go"]);
    let run = holder.run();
    holder.wait_for("calls wait");
    until_stored(dir.path(), r#""tool":"wait""#);
    let (status, health) = ask(dir.path(), "GET", "/health", "");
    assert_eq!((status, &health["pid"], &health["runs"]), (200, &json!(holder.child.id()), &json!([run])));

    let asked = [
        ("GET", "/nowhere".to_owned(), ""),
        ("GET", "/runs".to_owned(), ""),
        ("POST", "/runs".to_owned(), "{}"),
        ("POST", "/runs".to_owned(), "no JSON"),
        ("POST", "/runs".to_owned(), r#"{"network": "", "input": "x", "directory": "/"}"#),
        ("POST", "/runs/A%2F/cancel".to_owned(), ""),
        ("POST", "/runs/none/cancel".to_owned(), ""),
        ("POST", format!("/runs/{run}/resume"), r#"{"models": ["x"]}"#),
        ("POST", format!("/runs/{run}/resume"), r#"{"model": "sim"}"#),
        ("POST", format!("/runs/{run}/fork"), "{}"),
        ("POST", format!("/runs/{run}/fork"), r#"{"at": 90}"#),
        ("POST", format!("/runs/{run}/fork"), r#"{"at": 2, "network": "x"}"#),
        ("POST", format!("/runs/{run}/fork"), r#"{"at": 2, "id": "A"}"#),
        ("POST", "/runs/none/fork".to_owned(), r#"{"at": 2}"#),
        ("POST", format!("/runs/{run}/put-back"), r#"{"event": 2}"#),
        ("POST", format!("/runs/{run}/put-back"), r#"{"event": 2, "id": "A"}"#),
        ("POST", "/runs/none/put-back".to_owned(), r#"{"event": 2}"#),
        ("POST", format!("/runs/{run}/drop-letter"), r#"{"event": 90}"#),
        ("POST", format!("/runs/{run}/drop-letter"), "{}"),
        ("POST", format!("/runs/{run}/resolve"), r#"{"call": "a#1.0", "resolution": "retry"}"#),
        ("POST", format!("/runs/{run}/steer"), r#"{"agent": "b", "text": "x"}"#),
        ("POST", "/prune".to_owned(), r#"{"keep": "all"}"#),
    ];
    let mut told = String::new();
    for (method, path, body) in asked {
        let (status, answer) = ask(dir.path(), method, &path, body);
        told.push_str(&format!("{method} {path} {body}\n  {status} {answer}\n").replace(&run, "RUN"));
    }
    insta::assert_snapshot!("control_faults", told);

    let text = Network::load(&dir.path().join("n.toml")).unwrap().network.to_text();
    for names in [json!({"session": ""}), json!({"session": "a\nb"}), json!({"tenant": " "})] {
        let mut body = json!({"network": text, "input": "x", "directory": "/"});
        body.as_object_mut().unwrap().extend(names.as_object().unwrap().clone());
        let (status, answer) = ask(dir.path(), "POST", "/runs", &body.to_string());
        let (of, said) = (names.as_object().unwrap().keys().next().unwrap(), answer["error"]["message"].as_str());
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("invalid_request")), "{answer}");
        assert!(said.unwrap().starts_with(&format!("the {of} ")), "{answer}");
    }

    let (status, answer) = ask(dir.path(), "POST", "/prune", r#"{"keep": {"newest": 5}}"#);
    assert_eq!((status, answer), (200, json!({"runs": 0, "events": 0, "blobs": 0})));
    for verb in ["pause", "resume"] {
        let (status, answer) = ask(dir.path(), "POST", &format!("/runs/{run}/{verb}"), "");
        assert_eq!((status, &answer["run"]), (200, &json!(run)), "{answer}");
    }
    let (status, answer) = ask(dir.path(), "POST", &format!("/runs/{run}/fork"), r#"{"at": 1, "id": "fork1"}"#);
    assert_eq!((status, answer), (200, json!({"run": "fork1", "at": 2})));
    assert_eq!(ask(dir.path(), "POST", "/runs/fork1/cancel", "").0, 200);
    let (status, _) = ask(dir.path(), "POST", &format!("/runs/{run}/cancel"), r#"{"reason": "enough"}"#);
    assert_eq!(status, 200);
    let (code, _, stderr) = holder.end();
    assert_eq!(code, Some(130));
    assert!(stderr.contains("cancelled: enough"), "{stderr}");
}

#[test]
fn what_the_list_says_is_checked_against_the_events_and_nothing_is_removed_on_its_word() {
    let dir = gated();
    let mut holder = provost(dir.path()).args(["run", "n.toml", "x"]).spawn().unwrap();
    until_stored(dir.path(), "\"tool\":\"wait\"");
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(output(dir.path(), &["audit", "verify"]).0, Some(0));
    let store = rusqlite::Connection::open(dir.path().join(".provost/provost.db")).unwrap();
    store.execute("UPDATE streams SET state = 'done', closed = 1 WHERE name LIKE 'run/%'", ()).unwrap();
    drop(store);
    let (code, _, stderr) = output(dir.path(), &["audit", "verify"]);
    assert!(code == Some(8) && stderr.contains("the list of runs says `done`"), "{stderr}");
    let (code, pruned, stderr) = output(dir.path(), &["runs", "prune", "--keep", "0"]);
    assert!(code == Some(0) && !format!("{pruned}{stderr}").contains("removed 1"), "{pruned} {stderr}");
    open_gate(dir.path());
    let run = output(dir.path(), &["runs", "list", "--json"]).1;
    let run: Value = serde_json::from_str(&run).unwrap();
    assert_eq!(output(dir.path(), &["runs", "resume", run[0]["run"].as_str().unwrap()]).0, Some(0));
    assert_eq!(output(dir.path(), &["audit", "verify"]).0, Some(0));
}
