//! The command as a process: signals, servers that die, what is printed and the code it ends with.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use provost::run::Status;
use provost::runtime::Runtime;
use provost::spec::{AgentSpec, Builtin, ModelSpec, Network, NetworkSpec, ProviderKind, ToolSpec};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take that should take moments: only a hang is longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn provost(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_provost"));
    command.current_dir(dir).env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(crate) fn output(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    finished(provost(dir).args(arguments).output().unwrap())
}

pub(crate) fn finished(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A simulated model server of our own, ended on drop.
pub(crate) struct SimServer {
    child: Child,
    pub(crate) base_url: String,
}

impl SimServer {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = provost(Path::new(".")).arg("sim-server").args(arguments).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let base_url = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
        Self { child, base_url }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The address without scheme and path.
    fn address(&self) -> String {
        self.base_url.trim_start_matches("http://").trim_end_matches("/v1").to_owned()
    }
}

impl Drop for SimServer {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
}

/// Waits until the child has said `what` on stderr; returns the rest of its stderr to read.
pub(crate) fn wait_for(child: &mut Child, what: &str) -> BufReader<std::process::ChildStderr> {
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while stderr.read_line(&mut line).unwrap() > 0 {
        if line.contains(what) {
            return stderr;
        }
        line.clear();
    }
    panic!("it never said {what:?}");
}

/// Waits for the child's end, and kills it if it hangs.
pub(crate) fn wait(child: &mut Child) -> Option<i32> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    panic!("it did not end");
}

/// A directory with a network file in it.
fn network(text: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("n.toml"), text).unwrap();
    dir
}

pub(crate) fn one_agent(limits: &str, rest: &str) -> TempDir {
    network(&format!(
        "[network]\nname = \"n\"\nentry = \"a\"\n[network.limits]\n{limits}\n[agents.a]\nprompt = \"Work.\"\n{rest}"
    ))
}

/// A network whose agent starts a program at once.
pub(crate) fn runs(program: &str, argv: &str, default: &str) -> TempDir {
    one_agent(
        "",
        &format!(
            r#"tools = ["run"]
[tools.run]
builtin = "process.run"
allow = ["{program}"]
[policy]
default = "{default}"
[sim.script]
a = ['{{"calls": [{{"name": "run", "arguments": {{"argv": {argv}}}}}]}}', "{{{{ results[0].content }}}}"]
"#
        ),
    )
}

/// Returns how many processes of this machine have `word` among their arguments.
pub(crate) fn running(word: &str) -> usize {
    let has_word = |entry: std::io::Result<std::fs::DirEntry>| {
        let command = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(command.split(|&byte| byte == 0).any(|argument| argument == word.as_bytes()))
    };
    std::fs::read_dir("/proc").unwrap().filter_map(has_word).filter(|&found| found).count()
}

#[test]
fn the_tour_names_what_the_tree_really_has() {
    let tree = tempfile::tempdir().unwrap();
    std::fs::create_dir(tree.path().join("engine")).unwrap();
    std::fs::write(tree.path().join("engine/motor.py"), "class Motor:\n    pass\n\ndef ignite(motor):\n    pass\n")
        .unwrap();
    std::fs::write(tree.path().join("main.rs"), "struct Car;\n\npub async fn drive<T>(car: Car) {}\n").unwrap();
    let tour = std::env::current_dir().unwrap().join("networks/tour.toml");
    let (code, stdout, stderr) = output(tree.path(), &["run", tour.to_str().unwrap(), "."]);
    assert_eq!(code, Some(0), "{stderr}");
    insta::assert_snapshot!(stdout, @r"
    # A tour of .

    ## files at the top

    - main.rs: Car (1), drive (3)

    ## engine/

    - engine/motor.py: Motor (1), ignite (4)
    ");
    assert!(stderr.contains("the simulated model stands in"), "{stderr}");

    let (code, stdout, _) = output(Path::new("."), &["run", "networks/tour.toml", "src"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("runtime/gate.rs: ") && stdout.contains("pass ("), "{stdout}");
}

#[test]
fn ctrl_c_in_the_midst_of_a_stream_ends_the_run_as_cancelled() {
    let server = SimServer::start(&["--latency", "10m"]);
    let dir = one_agent("", "");
    let model = format!("openai:sim@{}", server.base_url);
    let mut child = provost(dir.path()).args(["run", "n.toml", "go", "--model", &model, "--json"]).spawn().unwrap();
    let mut stderr = wait_for(&mut child, "is asked");
    signal(&child, Signal::INT);
    assert_eq!(wait(&mut child), Some(130));
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stderr, &mut rest).unwrap();
    assert!(rest.contains("cancelled: cancelled by a signal"), "{rest}");
    let report: Value = serde_json::from_reader(child.stdout.take().unwrap()).unwrap();
    assert_eq!(report["status"], "cancelled");
}

#[test]
fn a_signal_in_the_midst_of_a_tool_leaves_no_process_behind() {
    for (number, end) in [Signal::INT, Signal::TERM, Signal::HUP].into_iter().enumerate() {
        // The child starts a child of its own, which a kill of the first alone would leave behind.
        let word = format!("{}.{}25", 100_000 + std::process::id(), number + 1);
        let dir = runs("sh", &format!(r#"["sh", "-c", "sleep {word} & wait"]"#), "allow");
        let mut child = provost(dir.path()).args(["run", "n.toml", "go"]).spawn().unwrap();
        let _stderr = wait_for(&mut child, "calls run");
        let began = Instant::now();
        while running(&word) == 0 {
            assert!(began.elapsed() < PATIENCE, "the tool never started");
            std::thread::sleep(Duration::from_millis(10));
        }
        signal(&child, end);
        assert_eq!(wait(&mut child), Some(130));
        assert_eq!(running(&word), 0, "a process was left behind");
    }
}

/// Makes a terminal; returns its other side, and what opens it.
pub(crate) fn terminal() -> (std::fs::File, impl Fn() -> Stdio) {
    use rustix::fs::{Mode, OFlags, open};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let side = move || Stdio::from(open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap());
    (master.into(), side)
}

/// Starts `run` at a terminal of its own; returns the child and the terminal's other side.
pub(crate) fn at_a_terminal(dir: &Path, arguments: &[&str]) -> (Child, std::fs::File) {
    let (master, side) = terminal();
    let child = provost(dir).args(arguments).stdin(side()).stderr(side()).spawn().unwrap();
    (child, master)
}

pub(crate) fn read_until(terminal: &mut std::fs::File, what: &str) {
    let (mut seen, mut piece) = (String::new(), [0; 1024]);
    while !seen.contains(what) {
        let count = std::io::Read::read(terminal, &mut piece).unwrap();
        seen.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
}

#[test]
fn a_person_at_the_terminal_is_asked_and_may_answer_or_end_the_run() {
    for (answer, code, answered) in [("y\n", 0, "'exit_code': 0"), ("n\n", 0, "a person did not allow this call")] {
        let dir = runs("true", r#"["true"]"#, "ask");
        let (mut child, mut terminal) = at_a_terminal(dir.path(), &["run", "n.toml", "go"]);
        read_until(&mut terminal, "[y/n]");
        terminal.write_all(answer.as_bytes()).unwrap();
        assert_eq!(wait(&mut child), Some(code));
        let mut stdout = String::new();
        std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut stdout).unwrap();
        assert!(stdout.contains(answered), "{stdout}");
    }
    for end in [Signal::INT, Signal::TERM, Signal::HUP] {
        let dir = runs("true", r#"["true"]"#, "ask");
        let (mut child, mut terminal) = at_a_terminal(dir.path(), &["run", "n.toml", "go"]);
        read_until(&mut terminal, "[y/n]");
        signal(&child, end);
        assert_eq!(wait(&mut child), Some(130));
    }
    let dir = runs("true", r#"["true"]"#, "ask");
    let text = std::fs::read_to_string(dir.path().join("n.toml")).unwrap();
    std::fs::write(dir.path().join("n.toml"), text.replace("[network.limits]", "[network.limits]\ndeadline = \"3s\""))
        .unwrap();
    let (mut child, mut terminal) = at_a_terminal(dir.path(), &["run", "n.toml", "go"]);
    read_until(&mut terminal, "[y/n]");
    assert_eq!(wait(&mut child), Some(4), "a deadline passes while a person thinks");
}

#[test]
fn a_run_whose_events_nobody_reads_any_more_is_cancelled() {
    let dir = one_agent(
        "steps = 100000",
        "max_steps = 100000\ntools = [\"now\"]\n[tools.now]\nbuiltin = \"clock.now\"\n\
         [sim.script]\na = ['{\"calls\": [{\"name\": \"now\"}]}']\n",
    );
    let mut child = provost(dir.path()).args(["run", "n.toml", "go", "--events"]).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(wait(&mut child), Some(1), "it went on unheard");
}

#[test]
fn a_model_server_that_dies_fails_the_run_with_its_reason() {
    let mut server = SimServer::start(&["--latency", "10m"]);
    let dir = one_agent("", "[models.m]\nretry = { tries = 2, min = \"10ms\", max = \"20ms\" }\n");
    let model = format!("openai:sim@{}", server.base_url);
    let mut child = provost(dir.path()).args(["run", "n.toml", "go", "--model", &model]).spawn().unwrap();
    let mut stderr = wait_for(&mut child, "is asked");
    // Give the request time to arrive; were it not there yet, the connection would be refused, and the end the same.
    std::thread::sleep(Duration::from_millis(200));
    server.kill();
    assert_eq!(wait(&mut child), Some(1));
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stderr, &mut rest).unwrap();
    assert!(rest.contains("failed: model `m`: ") && rest.contains("tries again"), "{rest}");
}

#[test]
fn a_model_server_that_comes_back_in_time_is_found_again() {
    let mut server = SimServer::start(&["--latency", "10m"]);
    let address = server.address();
    let dir = one_agent("", "[models.m]\nretry = { tries = 100, min = \"100ms\", max = \"200ms\" }\n");
    let model = format!("openai:sim@{}", server.base_url);
    let mut child = provost(dir.path()).args(["run", "n.toml", "go", "--model", &model]).spawn().unwrap();
    let stderr = wait_for(&mut child, "is asked");
    server.kill();
    child.stderr = Some(stderr.into_inner());
    let _stderr = wait_for(&mut child, "tries again");
    let _back = SimServer::start(&["--listen", &address]);
    assert_eq!(wait(&mut child), Some(0));
}

#[test]
fn each_end_has_its_exit_code() {
    let endless = r#"tools = ["now"]
[tools.now]
builtin = "clock.now"
[sim.script]
a = ['{"calls": [{"name": "now"}]}']
"#;
    let limit = one_agent("steps = 3", endless);
    let (code, stdout, stderr) = output(limit.path(), &["run", "n.toml", "go"]);
    assert_eq!((code, stdout.as_str()), (Some(4), ""));
    assert!(stderr.contains("limit reached: limit steps = 3 reached"), "{stderr}");

    let asks = runs("true", r#"["true"]"#, "ask");
    let (code, _, stderr) = output(asks.path(), &["run", "n.toml", "go"]);
    assert_eq!(code, Some(6));
    assert!(stderr.contains("awaiting approval: ") && stderr.contains("a#1.0 wants `run`"), "{stderr}");

    let denies = runs("true", r#"["true"]"#, "deny");
    let (code, stdout, _) = output(denies.path(), &["run", "n.toml", "go"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "policy does not allow this call\n"));

    let allows = runs("true", r#"["true"]"#, "allow");
    assert_eq!(output(allows.path(), &["run", "n.toml", "go"]).0, Some(0));
}

#[test]
fn a_run_leaves_its_record_and_does_not_start_where_it_can_leave_none() {
    let dir = one_agent("", "");
    let (code, stdout, _) = output(dir.path(), &["run", "n.toml", "go", "--json"]);
    assert_eq!(code, Some(0));
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let (code, record, _) = output(dir.path(), &["audit", "export", report["run"].as_str().unwrap()]);
    assert_eq!((code, record.lines().count() as u64), (Some(0), report["events"].as_u64().unwrap()));
    let last: Value = serde_json::from_str(record.lines().last().unwrap()).unwrap();
    assert_eq!((&last["kind"], &last["end"]["status"]), (&"run_ended".into(), &"done".into()));

    std::fs::write(dir.path().join("file"), "").unwrap();
    for nowhere in ["file", "/proc/nowhere"] {
        let (code, stdout, stderr) = output(dir.path(), &["run", "n.toml", "go", "--data-dir", nowhere]);
        assert_eq!((code, stdout.as_str()), (Some(8), ""));
        assert!(stderr.contains(nowhere) && stderr.contains("--data-dir"), "{stderr}");
    }
}

#[test]
fn a_closed_port_is_named() {
    let dir = one_agent("", "[models.m]\nretry = { tries = 1 }\n");
    let (code, stdout, stderr) =
        output(dir.path(), &["run", "n.toml", "go", "--model", "openai:x@http://127.0.0.1:9/v1"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("no connection to http://127.0.0.1:9/v1"), "{stderr}");
}

#[test]
fn input_comes_from_four_places_and_must_be_there() {
    let dir = one_agent("", "[sim.script]\na = [\"{{ input | length }}\"]\n");
    let run = |arguments: &[&str]| output(dir.path(), &[&["run", "n.toml"], arguments].concat());
    std::fs::write(dir.path().join("input"), "12345").unwrap();
    assert_eq!(run(&["123"]).1, "3\n");
    assert_eq!(run(&["--input", "--4"]).1, "3\n");
    assert_eq!(run(&["--input-file", "input"]).1, "5\n");

    let mut child = provost(dir.path()).args(["run", "n.toml", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all("äöü!".as_bytes()).unwrap();
    assert_eq!(finished(child.wait_with_output().unwrap()).1, "4\n");

    let (code, _, stderr) = run(&[]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("the run has no input") && stderr.contains("provost run n.toml"), "{stderr}");

    let (code, _, stderr) = run(&["--input-file", "nowhere"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("can't be read from nowhere"), "{stderr}");

    std::fs::write(dir.path().join("long"), "x".repeat(10_000_000)).unwrap();
    let (code, _, stderr) = run(&["--input-file", "long"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("longer than 4194304 bytes"), "{stderr}");

    let (code, _, stderr) = run(&["  "]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("the input is empty"), "{stderr}");

    std::fs::write(dir.path().join("binary"), b"ab\xff\xfe").unwrap();
    let (code, _, stderr) = run(&["--input-file", "binary"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("no UTF-8 text: byte 2 is wrong"), "{stderr}");
}

#[test]
fn a_key_that_is_not_there_is_named_and_a_key_that_is_there_is_not() {
    let dir = one_agent(
        "",
        "[models.m]\nprovider = \"openai\"\nmodel = \"x\"\napi_key = \"env:A_KEY_OF_OURS\"\n\
         base_url = \"http://127.0.0.1:9/v1\"\nretry = { tries = 1 }\n",
    );
    let (code, _, stderr) = output(dir.path(), &["run", "n.toml", "go"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("A_KEY_OF_OURS is not set") && stderr.contains("--model sim"), "{stderr}");

    let (code, stdout, _) = output(dir.path(), &["run", "n.toml", "go", "--json"]);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["status"], &report["events"]), (Some(1), &"failed".into(), &0.into()));
    assert!(report["reason"].as_str().unwrap().contains("A_KEY_OF_OURS is not set"), "{report}");

    let mut command = provost(dir.path());
    command
        .args(["run", "n.toml", "go", "--events"])
        .env("A_KEY_OF_OURS", "sk-very-secret")
        .env("PROVOST_LOG", "trace");
    let (code, stdout, stderr) = finished(command.output().unwrap());
    assert_eq!(code, Some(1));
    assert!(!stdout.contains("very-secret") && !stderr.contains("very-secret"), "{stdout}{stderr}");
}

/// Puts fixed words in the place of what differs from run to run.
fn redacted(mut value: Value) -> Value {
    for (key, fixed) in [
        ("run", "RUN"),
        ("time_ms", "TIME"),
        ("started_ms", "TIME"),
        ("duration_ms", "TIME"),
        ("directory", "DIRECTORY"),
        ("version", "VERSION"),
    ] {
        if value.get(key).is_some() {
            value[key] = fixed.into();
        }
    }
    value
}

#[test]
fn what_json_and_events_print_is_public() {
    let dir = one_agent(
        "",
        r#"tools = ["now"]
[tools.now]
builtin = "clock.now"
[sim.script]
a = ['{"calls": [{"name": "now", "arguments": "no"}]}', '{{ "{" }}"n": 1}']
"#,
    );
    let (code, stdout, _) = output(dir.path(), &["run", "n.toml", "go", "--json"]);
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(format!("{:#}", redacted(serde_json::from_str(&stdout).unwrap())));

    let (code, stdout, _) = output(dir.path(), &["run", "n.toml", "go", "--events"]);
    assert_eq!(code, Some(0));
    let lines: Vec<String> =
        stdout.lines().map(|line| format!("{:#}", redacted(serde_json::from_str(line).unwrap()))).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_runs_at_once_over_http_all_end_well() {
    const RUNS: usize = 1_000;
    let server = SimServer::start(&["--latency", "50ms", "--tool-calls", "3"]);
    let mut spec = NetworkSpec::default();
    spec.network.name = "load".to_owned();
    spec.network.entry = "a".to_owned();
    // As many connections as a process may have open by default, with room for the rest.
    let model = ModelSpec {
        provider: Some(ProviderKind::Openai),
        model: Some("sim".to_owned()),
        base_url: Some(server.base_url.clone()),
        in_flight: Some(400),
        ..ModelSpec::default()
    };
    spec.models.insert("m".to_owned(), model);
    spec.tools.insert("now".to_owned(), ToolSpec { builtin: Some(Builtin::ClockNow), ..ToolSpec::default() });
    spec.agents.insert("a".to_owned(), AgentSpec { tools: vec!["now".to_owned()], ..AgentSpec::new("Work.") });
    let runtime = Runtime::builder(Network::new(spec).unwrap()).start().await.unwrap();
    let runs = (0..RUNS).map(|number| runtime.run(format!("task {number}")));
    for report in futures_util::future::join_all(runs).await {
        let report = report.unwrap();
        assert_eq!(report.status, Status::Done, "{report:?}");
        assert_eq!((report.usage.model_calls, report.usage.tool_calls), (4, 3), "{report:?}");
    }
    runtime.shutdown().await;
}
