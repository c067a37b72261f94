use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::*;
use crate::spec::{Builtin, ToolSpec};
use crate::tool::fs::testing::{call, tree};
use crate::tool::{ErasedTool, builtin};

/// Longer than anything here takes on any machine; what hangs ends by it.
const PATIENCE: Duration = Duration::from_secs(60);

fn tool(root: &Path, allow: &[&str]) -> Result<Arc<dyn ErasedTool>, Error> {
    let allow = allow.iter().map(|name| (*name).to_owned()).collect();
    let spec = ToolSpec { builtin: Some(Builtin::ProcessRun), allow, ..ToolSpec::default() };
    builtin(&spec, root, &Default::default())
}

async fn run_with(root: &Path, arguments: Value, call: Call) -> Result<Value, Error> {
    let program = arguments["argv"][0].as_str().unwrap_or("sh").to_owned();
    let text = timeout(PATIENCE, tool(root, &[&program])?.call(arguments, call)).await.unwrap()?;
    Ok(serde_json::from_str(&text).unwrap())
}

async fn run(root: &Path, argv: &[&str]) -> Value {
    run_with(root, json!({"argv": argv}), call()).await.unwrap()
}

/// Reads a process's number that a script writes to a file, once it is there.
async fn pid_in(path: PathBuf) -> i32 {
    let read = async {
        loop {
            match fs::read_to_string(&path) {
                Ok(text) if text.ends_with('\n') => return text.trim().parse().unwrap(),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(PATIENCE, read).await.unwrap()
}

/// Returns the letter of a process's state; none once it was reaped.
fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap();
}

/// Waits for a process to die. Who reaps an orphan is the machine's business: a zombie is dead too.
async fn until_dead(pid: i32) {
    until(|| matches!(state(pid), None | Some('Z' | 'X'))).await;
}

#[tokio::test]
async fn returns_the_output_and_the_exit_code() {
    let root = tree(&[]);
    assert_eq!(
        run(root.path(), &["sh", "-c", "echo out; echo err >&2; pwd; exit 3"]).await,
        json!({
            "status": {"exit_code": 3},
            "stdout": format!("out\n{}\n", root.path().canonicalize().unwrap().display()),
            "stderr": "err\n",
        })
    );
    assert_eq!(run(root.path(), &["sh", "-c", "kill -9 $$"]).await["status"], json!({"signal": 9}));
}

#[tokio::test]
async fn arguments_pass_no_shell() {
    let root = tree(&[("a.txt", "")]);
    let printed = run(root.path(), &["printf", "%s|", "*", "$HOME", "a b; ls"]).await;
    assert_eq!(printed["stdout"], "*|$HOME|a b; ls|");
}

#[tokio::test]
async fn input_is_fed_and_otherwise_empty() {
    let root = tree(&[]);
    assert_eq!(run(root.path(), &["cat"]).await["stdout"], "");
    let input = "line\n".repeat(100_000);
    let loud = Call { output_limit_bytes: 10 * input.len(), ..call() };
    let echoed = run_with(root.path(), json!({"argv": ["cat"], "stdin": input}), loud).await.unwrap();
    assert_eq!(echoed["stdout"], input);
    // A program that doesn't read what it is fed just ends.
    let ignored = run_with(root.path(), json!({"argv": ["true"], "stdin": input}), call()).await.unwrap();
    assert_eq!(ignored["status"], json!({"exit_code": 0}));
}

#[tokio::test]
async fn nothing_of_the_environment_leaks() {
    let root = tree(&[]);
    let printed = run(root.path(), &["/usr/bin/env"]).await;
    let mut variables: Vec<_> =
        printed["stdout"].as_str().unwrap().lines().map(|line| line.split_once('=').unwrap()).collect();
    variables.sort_unstable();
    let names: Vec<_> = variables.iter().map(|(name, _)| *name).filter(|name| *name != "HOME").collect();
    let expected = ["LANG", "PATH", "PROVOST_IDEMPOTENCY_KEY", "TMPDIR"];
    assert_eq!(names, expected);
    let surplus = |name: OsString| name != "HOME" && expected.iter().all(|known| name != *known);
    assert!(std::env::vars_os().any(|(name, _)| surplus(name)), "the parent has nothing that could leak");
    assert!(variables.contains(&("PROVOST_IDEMPOTENCY_KEY", &call().idempotency_key)), "{variables:?}");
    assert!(variables.contains(&("LANG", "C.UTF-8")), "{variables:?}");
}

#[tokio::test]
async fn only_allowed_programs_start() {
    let root = tree(&[]);
    let tool = tool(root.path(), &["echo", "/bin/cat"]).unwrap();
    for program in ["sh", "/bin/echo", "./echo", "cat", "/bin/../bin/cat", "", "echo x"] {
        let error = Arc::clone(&tool).call(json!({"argv": [program]}), call()).await.unwrap_err();
        assert!(matches!(&error, Error::Refused(reason) if reason.ends_with("allowed: echo, /bin/cat")), "{error}");
    }
    let error = Arc::clone(&tool).call(json!({"argv": []}), call()).await.unwrap_err();
    assert!(matches!(error, Error::Arguments(_)), "{error}");
    assert!(tool.description().contains("echo, /bin/cat"));
    tool.call(json!({"argv": ["/bin/cat"]}), call()).await.unwrap();
}

#[test]
fn programs_are_looked_up_when_the_tool_is_made() {
    let dirs = tree(&[("one/plain", ""), ("two/plain", ""), ("two/program", "")]);
    fs::set_permissions(dirs.path().join("two/plain"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(dirs.path().join("two/dir")).unwrap();
    let search = std::env::join_paths([dirs.path().join("one"), dirs.path().join("two")]).unwrap();
    let found = Program::find("plain", &search).unwrap();
    assert_eq!((found.name.as_str(), found.path), ("plain", dirs.path().join("two/plain")));
    for name in ["program", "dir", "missing", "", "two/plain", "./plain", "/nowhere/plain"] {
        let error = Program::find(name, &search).err().unwrap().to_string();
        assert!(error.contains(&format!("{name:?}")), "{error}");
    }
    let here = std::env::current_dir().unwrap();
    let up = "../".repeat(here.components().count());
    let relative = Path::new(&up).join(dirs.path().join("two").strip_prefix("/").unwrap());
    assert!(relative.join("plain").exists());
    assert!(Program::find("plain", relative.as_os_str()).is_err());
    assert!(tool(dirs.path(), &[]).err().unwrap().to_string().contains("`allow`"));
}

#[tokio::test]
async fn a_program_that_can_not_start_is_named() {
    let root = tree(&[("program", "no program")]);
    let path = root.path().join("program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let error = run_with(root.path(), json!({"argv": [path]}), call()).await.unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()) && error.contains("Exec format error"), "{error}");
}

#[tokio::test]
async fn a_flood_is_drained_and_bounded() {
    let root = tree(&[]);
    let bytes = 300_000_000_u64;
    let script = format!("head -c {bytes} /dev/zero; yes oops | head -c {bytes} >&2; echo the end");
    let result = run(root.path(), &["sh", "-c", &script]).await;
    assert!(result.to_string().len() <= call().output_limit_bytes, "{}", result.to_string().len());
    assert!(result["stdout"].as_str().unwrap().ends_with("the end\n"));
    assert!(result["stderr"].as_str().unwrap().starts_with("oops\noops\n"));
    for stream in ["stdout", "stderr"] {
        let dropped = result[format!("{stream}_dropped_bytes")].as_u64().unwrap();
        assert!((bytes - 64 * 1024..bytes).contains(&dropped), "{stream}: {dropped}");
    }
}

#[tokio::test]
async fn a_dropped_call_kills_the_whole_group() {
    let root = tree(&[]);
    let script = "echo $$ > leader; sleep 1000 & echo $! > grandchild; wait";
    let running = tool(root.path(), &["sh"]).unwrap().call(json!({"argv": ["sh", "-c", script]}), call());
    let pids = async { (pid_in(root.path().join("leader")).await, pid_in(root.path().join("grandchild")).await) };
    let (leader, grandchild) = tokio::select! {
        result = running => panic!("it ends only when it is dropped: {result:?}"),
        pids = pids => pids,
    };
    until_dead(grandchild).await;
    until(|| state(leader).is_none()).await;
}

#[tokio::test]
async fn whoever_is_left_in_the_group_is_killed_and_holds_nothing_up() {
    let root = tree(&[]);
    let script = "sleep 1000 & echo $! > grandchild; echo done";
    let result = run(root.path(), &["sh", "-c", script]).await;
    assert_eq!((&result["status"], &result["stdout"]), (&json!({"exit_code": 0}), &json!("done\n")));
    until_dead(pid_in(root.path().join("grandchild")).await).await;
}

#[tokio::test]
async fn whoever_left_the_group_holds_nothing_up() {
    let root = tree(&[]);
    let script = r#"setsid sh -c 'echo $$ > gone; exec sleep 1000' & while [ ! -s gone ]; do :; done; echo done"#;
    let result = run(root.path(), &["sh", "-c", script]).await;
    assert_eq!((&result["status"], &result["stdout"]), (&json!({"exit_code": 0}), &json!("done\n")));
    let gone = pid_in(root.path().join("gone")).await;
    assert!(state(gone).is_some_and(|state| state != 'Z'), "it outlived the call, so it held the pipes");
    rustix::process::kill_process(Pid::from_raw(gone).unwrap(), Signal::KILL).unwrap();
}

/// Runs a script until it has written its number to the file `pid`, and cancels the call then.
async fn run_until_cancelled(root: &Path, argv: &[&str]) -> Value {
    let call = call();
    let cancelled = call.cancelled.clone();
    let cancel = async {
        pid_in(root.join("pid")).await;
        cancelled.cancel();
    };
    tokio::join!(run_with(root, json!({"argv": argv}), call), cancel).0.unwrap()
}

#[tokio::test]
async fn a_cancelled_call_has_the_time_to_end_in_order() {
    // The one who cleans up is not the one who was started, and that one does not wait for it.
    let root = tree(&[]);
    let script = "trap 'sleep 0.1; echo cleaned; exit 0' TERM; echo $$ > pid; while :; do sleep 0.01; done";
    let result = run_until_cancelled(root.path(), &["sh", "-c", r#"sh -c "$0" & wait"#, script]).await;
    assert_eq!((&result["status"], &result["stdout"]), (&json!({"signal": 15}), &json!("cleaned\n")));

    let root = tree(&[]);
    let silent = "exec > /dev/null 2>&1; echo $$ > pid; exec sleep 1000";
    let result = run_until_cancelled(root.path(), &["sh", "-c", silent]).await;
    assert_eq!(result["status"], json!({"signal": 15}), "who says nothing more is told too");
}

#[tokio::test]
async fn who_does_not_end_when_told_to_is_killed_when_the_call_is_dropped() {
    let root = tree(&[]);
    let stubborn = ["sh", "-c", "trap '' TERM; echo $$ > pid; exec sleep 1000"];
    let mut running = Box::pin(run_until_cancelled(root.path(), &stubborn));
    let pid = tokio::select! {
        result = &mut running => panic!("it ends only when it is dropped: {result:?}"),
        pid = pid_in(root.path().join("pid")) => pid,
    };
    let ended = timeout(Duration::from_millis(100), &mut running).await;
    assert!(ended.is_err() && !matches!(state(pid), None | Some('Z')), "{ended:?}");
    drop(running);
    until_dead(pid).await;
}
