//! A program that knows what became of a call that a crash cut off, so that no person need say it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use super::process::{one_agent, output, provost};

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A network whose tool writes its key into a ledger, and one that looks there; and where the ledger is.
fn network() -> (TempDir, TempDir) {
    let scripts = tempfile::tempdir().unwrap();
    let at = |name: &str| scripts.path().join(name);
    let ledger = at("ledger");
    let ledger = ledger.display();
    script(&at("act"), &format!(r#"echo "$PROVOST_IDEMPOTENCY_KEY" >> {ledger}; echo acted"#));
    let (done, not_done) = (r#"{"state":"done","result":"it was done"}"#, r#"{"state":"not_done"}"#);
    script(&at("look"), &format!(r#"if grep -qxF "$1" {ledger}; then echo '{done}'; else echo '{not_done}'; fi"#));
    let (act, look) = (at("act"), at("look"));
    let (act, look) = (act.display(), look.display());
    let network = one_agent(
        "",
        &format!(
            r#"tools = ["act"]
[tools.act]
builtin = "process.run"
allow = ["{act}"]
effect = "once"
reconcile = "look"
[tools.look]
builtin = "process.run"
allow = ["{look}"]
effect = "pure"
[policy]
default = "allow"
[sim.script]
a = ['{{"calls": [{{"name": "act", "arguments": {{"argv": ["{act}"]}}}}]}}', "{{{{ results[0].content }}}}"]
"#
        ),
    );
    (network, scripts)
}

#[test]
fn a_call_that_was_cut_off_is_made_exactly_once_where_a_program_knows_of_it() {
    for (point, answer) in [("before_intent", "acted"), ("after_intent", "acted"), ("after_effect", "it was done")] {
        let (dir, scripts) = network();
        let mut cut = provost(dir.path());
        cut.env("PROVOST_CRASH_AT", format!("gate.{point}.once@1")).args(["run", "n.toml", "go"]);
        assert_eq!(cut.output().unwrap().status.code(), None, "it was to be killed at {point}");
        let (code, resumed, stderr) = output(dir.path(), &["runs", "resume", "--all", "--json"]);
        assert_eq!(code, Some(0), "{point}: {stderr}");
        assert!(resumed.contains(answer), "{point}: {resumed}");
        let keys = fs::read_to_string(scripts.path().join("ledger")).unwrap();
        assert_eq!(keys.lines().count(), 1, "{point}: {keys}");
    }
}

#[test]
fn a_fork_does_not_take_it_that_what_another_run_may_be_doing_is_not_done() {
    for (point, code) in [("after_intent", 7), ("after_effect", 0)] {
        let (dir, scripts) = network();
        let mut cut = provost(dir.path());
        cut.env("PROVOST_CRASH_AT", format!("gate.{point}.once@1")).args(["run", "n.toml", "go"]);
        assert_eq!(cut.output().unwrap().status.code(), None, "it was to be killed at {point}");
        // Both could be told that it is not done, and both would do it.
        let forked = output(dir.path(), &["runs", "fork", "last", "--at", "5", "--json"]);
        assert_eq!(forked.0, Some(code), "{point}: {forked:?}");
        let listed = output(dir.path(), &["runs", "list", "--json"]).1;
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let resumed = output(dir.path(), &["runs", "resume", listed[1]["run"].as_str().unwrap()]);
        assert_eq!(resumed.0, Some(0), "{point}: {resumed:?}");
        let keys = fs::read_to_string(scripts.path().join("ledger")).unwrap();
        assert_eq!(keys.lines().count(), 1, "{point}: {keys}");
    }
}
