//! Messages that were given up: seen, given to their agents once more, and dropped.

#![cfg(debug_assertions)]

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{finished, output, provost, wait};
use super::runs::{open_gate, redacted, until};

/// The clerk asks the auditor, which looks into the directory that is the run's input. An auditor that fails is not
/// started again.
const DESK: &str = r#"
[network]
name = "desk"
entry = "clerk"
[models.m]
[agents.clerk]
prompt = "You answer."
delegates_to = ["auditor"]
[agents.auditor]
prompt = "You check for {{ vars.whom }}."
tools = ["list"]
restart = { kind = "temporary" }
[tools.list]
builtin = "fs.list"
root = "{{ input }}"
[sim.script]
clerk = ['{"calls": [{"name": "ask_auditor", "arguments": {"message": "what is there?"}}]}', "{{ results[0].content }}"]
auditor = ['{"calls": [{"name": "list"}]}',
           "{{ messages[-3].text }} {{ results[0].content.entries | map(attribute='path') | join(', ') }}"]
"#;

/// At which of the decisions of all agents the auditor decides for the first time.
const AUDITOR_FIRST: &str = "agent.decide@3";

/// A desk with a directory to look into.
fn desk() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("n.toml"), DESK).unwrap();
    std::fs::create_dir(dir.path().join("tree")).unwrap();
    std::fs::write(dir.path().join("tree/leaf"), "").unwrap();
    dir
}

/// Runs the desk with an agent that panics at a place; returns the code and what was printed.
fn fails(dir: &Path, place: &str) -> (Option<i32>, String, String) {
    let arguments = ["run", "n.toml", "tree", "--var", "whom=us", "--session", "s", "--tenant", "t"];
    finished(provost(dir).args(arguments).env("PROVOST_FAULT_AT", place).output().unwrap())
}

/// Runs `provost runs dead-letters`.
fn letters(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    output(dir, &[&["runs", "dead-letters"], arguments].concat())
}

fn json_of(dir: &Path, arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = output(dir, &[arguments, &["--json"]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn listed(dir: &Path) -> Vec<Value> {
    json_of(dir, &["runs", "dead-letters"]).as_array().unwrap().clone()
}

/// Returns the run and the event of the one letter that there is.
fn only(dir: &Path) -> (String, String) {
    let listed = listed(dir);
    assert_eq!(listed.len(), 1, "{listed:?}");
    (listed[0]["run"].as_str().unwrap().to_owned(), listed[0]["event"].to_string())
}

/// Puts fixed words in the place of what differs from run to run.
fn fixed(mut value: Value) -> String {
    for (key, fixed) in [("run", "RUN"), ("time_ms", "TIME"), ("into", "RUN")] {
        if value.get(key).is_some() {
            value[key] = fixed.into();
        }
        if value["settled"].get(key).is_some() {
            value["settled"][key] = fixed.into();
        }
    }
    format!("{value:#}")
}

#[test]
fn a_letter_is_seen_and_given_to_its_agent_once_more() {
    let dir = desk();
    let (code, stdout, stderr) = fails(dir.path(), AUDITOR_FIRST);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("auditor gave no answer: the message became a dead letter"), "{stdout}");
    let (run, event) = only(dir.path());

    let (_, stdout, stderr) = letters(dir.path(), &[]);
    assert_eq!(stderr, "");
    let age = stdout.split(" · ").last().unwrap().split_whitespace().next().unwrap();
    insta::assert_snapshot!(redacted(&stdout.replace(&format!(" {age} old"), " AGE old")), @r"
    run RUN · event 8 · for auditor · AGE old
    asked by clerk#1.0, delivered once: injected at agent.decide
    what is there?
    ");
    for of_run in [run.as_str(), "last", &run[20..]] {
        assert_eq!(letters(dir.path(), &[of_run]).1, stdout);
    }
    insta::assert_snapshot!("letter_listed", fixed(listed(dir.path())[0].clone()));
    let (code, stdout, stderr) = letters(dir.path(), &["show", "last", &event]);
    assert_eq!((code, stdout.as_str()), (Some(0), "what is there?\n"));
    assert!(stderr.contains(&format!("put-back {run} {event}, or drop {run} {event}")), "{stderr}");
    let shown = json_of(dir.path(), &["runs", "dead-letters", "show", "last", &event]);
    insta::assert_snapshot!("letter_shown", fixed(shown));
    let (_, stdout, _) = output(dir.path(), &["runs", "show", "last"]);
    assert!(stdout.contains(&format!("  event {event} is a dead letter for auditor: provost runs dead-letters")));

    // A letter that nobody has settled is not pruned away.
    let (_, stdout, _) = output(dir.path(), &["runs", "prune", "--keep", "0"]);
    assert!(stdout.starts_with("removed 0 runs"), "{stdout}");
    assert_eq!(only(dir.path()), (run.clone(), event.clone()));

    // The tool's root and the prompt are rendered as they were, and the answer is what the agent says to the message.
    let (code, stdout, stderr) = letters(dir.path(), &["put-back", &run[..20], &event, "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["answer"], "what is there? leaf");
    assert_eq!((&report["session"], &report["tenant"]), (&json!("s"), &json!("t")));
    assert_eq!(report["put_back_from"], json!({ "run": run, "event": 8 }));
    assert_eq!((&report["dead_letters"], &report["agents"][0]["agent"]), (&json!(0), &json!("auditor")));
    assert!(stderr.contains("auditor is asked: what is there?"), "{stderr}");

    let into = report["run"].as_str().unwrap();
    let first = &json_of(dir.path(), &["runs", "show", into])["timeline"][0];
    assert_eq!((&first["put_back_from"], &first["input"]), (&report["put_back_from"], &json!("tree")));
    assert!(output(dir.path(), &["runs", "show", into]).1.contains("began with the dead letter of event 8 of run"));
    let runs = json_of(dir.path(), &["runs", "list"]);
    assert_eq!((&runs[0]["dead_letters"], &runs[1]["dead_letters"]), (&json!(0), &json!(1)), "it was given up once");
    assert_eq!(output(dir.path(), &["runs", "replay", into]).0, Some(0));
    assert_eq!(output(dir.path(), &["audit", "verify"]).0, Some(0));

    assert_eq!(letters(dir.path(), &[]), (Some(0), String::new(), "no dead letters\n".to_owned()));
    assert!(!output(dir.path(), &["runs", "show", &run]).1.contains("dead letter for"));
    for again in ["put-back", "drop"] {
        let (code, stdout, stderr) = letters(dir.path(), &[again, &run, &event]);
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert!(stderr.contains("was put back before") && stderr.contains(into), "{stderr}");
    }
    let shown = json_of(dir.path(), &["runs", "dead-letters", "show", &run, &event]);
    assert_eq!((&shown["settled"]["how"], &shown["settled"]["into"]), (&json!("put_back"), &json!(into)));
}

#[test]
fn an_input_that_was_given_up_is_put_back_as_the_input() {
    let dir = desk();
    let is_clerks = |line: &&str| !line.contains("clerk") && !line.contains("answer") && !line.contains("delegates");
    let alone: Vec<&str> = DESK.lines().filter(is_clerks).collect();
    let alone = alone.join("\n").replace("[network]\n", "[network]\nentry = \"auditor\"\n");
    std::fs::write(dir.path().join("n.toml"), alone).unwrap();
    let (code, _, stderr) = fails(dir.path(), "agent.decide@1");
    assert_eq!(code, Some(1), "{stderr}");
    assert!(letters(dir.path(), &[]).1.contains("the run's input, delivered once"));
    let (run, event) = only(dir.path());
    let model = ["--model", "x=sim"];
    let (code, _, stderr) = letters(dir.path(), &[&["put-back", &run, &event][..], &model].concat());
    assert_eq!(code, Some(2), "{stderr}");
    assert_eq!(only(dir.path()).0, run, "nothing has begun");
    let (code, stdout, stderr) = letters(dir.path(), &["put-back", &run, &event, "--model", "sim"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "tree leaf\n"), "{stderr}");
}

#[test]
fn a_letter_is_put_back_with_the_priority_of_its_run_or_with_another() {
    let dir = desk();
    for _ in 0..2 {
        let failing = ["run", "n.toml", "tree", "--var", "whom=us", "--priority", "low"];
        let failed = provost(dir.path()).args(failing).env("PROVOST_FAULT_AT", AUDITOR_FIRST).output().unwrap();
        assert_eq!(finished(failed).0, Some(0));
    }
    for (more, priority) in [(&[][..], Some("low")), (&["--priority", "high"], Some("high"))] {
        let letter = listed(dir.path()).remove(0);
        let (run, event) = (letter["run"].as_str().unwrap(), letter["event"].to_string());
        let put_back = [&["runs", "dead-letters", "put-back", run, &event], more].concat();
        assert_eq!(json_of(dir.path(), &put_back)["priority"].as_str(), priority);
    }
}

#[test]
fn a_letter_that_is_given_up_again_is_a_letter_of_its_new_run() {
    let dir = desk();
    fails(dir.path(), AUDITOR_FIRST);
    let (run, event) = only(dir.path());
    let put_back = ["runs", "dead-letters", "put-back", &run, &event];
    let again = provost(dir.path()).args(put_back).env("PROVOST_FAULT_AT", "agent.decide@1").output().unwrap();
    let (code, _, stderr) = finished(again);
    assert_eq!(code, Some(1), "{stderr}");
    let (second, event) = only(dir.path());
    assert_ne!(second, run);
    let (code, stdout, stderr) = letters(dir.path(), &["put-back", &second, &event]);
    assert_eq!((code, stdout.as_str()), (Some(0), "what is there? leaf\n"), "{stderr}");
}

#[test]
fn a_letter_that_is_dropped_is_not_listed_and_stays_in_its_run() {
    let dir = desk();
    fails(dir.path(), AUDITOR_FIRST);
    let (run, event) = only(dir.path());
    let (code, stdout, stderr) = letters(dir.path(), &["drop", "last", &event, "--reason", "asked by hand"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, format!("the dead letter of event {event} of run {run} is dropped\n"));
    assert!(listed(dir.path()).is_empty());
    for again in ["put-back", "drop"] {
        let (code, _, stderr) = letters(dir.path(), &[again, &run, &event]);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("was dropped before"), "{stderr}");
    }
    let (_, stdout, stderr) = letters(dir.path(), &["show", &run, &event]);
    assert_eq!(stdout, "what is there?\n");
    assert!(stderr.contains("dropped: asked by hand"), "{stderr}");
    let shown = json_of(dir.path(), &["runs", "dead-letters", "show", &run, &event]);
    assert_eq!(shown["settled"]["reason"], "asked by hand");
    assert_eq!(output(dir.path(), &["audit", "verify"]).0, Some(0));
}

#[test]
fn what_is_no_letter_is_code_2() {
    let dir = desk();
    assert_eq!(letters(dir.path(), &[]), (Some(0), String::new(), "no dead letters\n".to_owned()));
    assert!(!dir.path().join(".provost").exists());
    fails(dir.path(), AUDITOR_FIRST);
    let (run, event) = only(dir.path());
    let verbs = ["show", "put-back", "drop"];
    let wrong = |asked: &[&str], says: &str| {
        let (code, stdout, stderr) = letters(dir.path(), asked);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{asked:?}: {stderr}");
        assert!(stderr.contains(says), "{asked:?}: {stderr}");
    };
    wrong(&["01none"], "there is no run 01none");
    for verb in verbs {
        wrong(&[verb, "01none", "1"], "there is no run 01none");
        wrong(&[verb, &run, "1"], "has no dead letter at event 1\n");
        wrong(&[verb, &run, "0"], "has no event 0");
        wrong(&[verb, &run, "99"], "has no event 99");
        wrong(&[verb, &run, "-1"], "invalid value '-1'");
        wrong(&[verb, &run], "<EVENT>");
    }
    // What a fork only has because it is one is the other run's.
    let (code, stdout, stderr) = output(dir.path(), &["runs", "fork", &run, "--at", &event, "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    let fork: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(fork["dead_letters"], 0);
    assert_eq!(only(dir.path()).0, run);
    for verb in verbs {
        wrong(
            &[verb, fork["run"].as_str().unwrap(), &event],
            &format!("has event {event} from run {run}, whose it is"),
        );
    }
}

#[test]
fn the_process_that_holds_the_store_puts_back_and_drops() {
    let dir = desk();
    for _ in 0..2 {
        fails(dir.path(), AUDITOR_FIRST);
    }
    let letters_of = |letter: &Value| (letter["run"].as_str().unwrap().to_owned(), letter["event"].to_string());
    let both: Vec<(String, String)> = listed(dir.path()).iter().map(letters_of).collect();
    let waits = r#"
[network]
name = "waits"
entry = "a"
[agents.a]
prompt = "Wait."
tools = ["wait"]
[tools.wait]
builtin = "process.run"
allow = ["sh"]
[policy]
default = "allow"
[sim.script]
a = ['{"calls": [{"name": "wait", "arguments": {"argv": ["sh", "-c", "while [ ! -e gate ]; do sleep 0.01; done"]}}]}', "so"]
"#;
    std::fs::write(dir.path().join("waits.toml"), waits).unwrap();
    let mut holder = provost(dir.path()).args(["run", "waits.toml", "go"]).spawn().unwrap();
    until("it waits", || json_of(dir.path(), &["runs", "list"])[0]["status"].eq("running").then_some(()));

    // Of several who do so at once, one does.
    let (run, event) = &both[0];
    let put_back = || provost(dir.path()).args(["runs", "dead-letters", "put-back", run, event]).spawn().unwrap();
    let at_once: Vec<_> = (0..4).map(|_| put_back()).collect();
    let ended = at_once.into_iter().map(|child| finished(child.wait_with_output().unwrap()));
    let (done, refused): (Vec<_>, Vec<_>) = ended.partition(|(code, ..)| *code == Some(0));
    assert_eq!(done.iter().map(|(_, stdout, _)| stdout.as_str()).collect::<Vec<_>>(), ["what is there? leaf\n"]);
    assert!(refused.iter().all(|(code, _, stderr)| *code == Some(1) && stderr.contains("was put back before")));
    let (run, event) = &both[1];
    assert_eq!(letters(dir.path(), &["drop", run, event]).0, Some(0));
    let (code, _, stderr) = letters(dir.path(), &["drop", run, event]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(listed(dir.path()).is_empty());
    let runs = json_of(dir.path(), &["runs", "list"]);
    assert_eq!(runs.as_array().unwrap().len(), 4, "two that gave something up, the holder's, and one new one");
    assert_eq!(runs[1]["status"], "running", "the holder is the holder still");
    open_gate(dir.path());
    assert_eq!(wait(&mut holder), Some(0));
    assert_eq!(output(dir.path(), &["audit", "verify"]).0, Some(0));
}

#[test]
fn a_letter_is_settled_with_the_beginning_of_its_run_or_not_at_all() {
    let mut died_before = 0;
    for commit in 1..=2 {
        for place in ["before_sync", "after_sync"] {
            let dir = desk();
            fails(dir.path(), AUDITOR_FIRST);
            let (run, event) = only(dir.path());
            let put_back = ["runs", "dead-letters", "put-back", &run, &event];
            let point = format!("journal.{place}@{commit}");
            let died = provost(dir.path()).args(put_back).env("PROVOST_CRASH_AT", &point).output().unwrap();
            assert!(!died.status.success(), "{point} was not passed");
            let runs = json_of(dir.path(), &["runs", "list"]);
            let has_begun = runs.as_array().unwrap().len() == 2;
            assert_eq!(listed(dir.path()).is_empty(), has_begun, "{point}");
            died_before += u64::from(!has_begun);
            let go_on: &[&str] = if has_begun { &["runs", "resume", "last"] } else { &put_back };
            let (code, stdout, stderr) = output(dir.path(), go_on);
            assert_eq!((code, stdout.as_str()), (Some(0), "what is there? leaf\n"), "{point}: {stderr}");
            assert!(listed(dir.path()).is_empty());
        }
    }
    assert!((1..=3).contains(&died_before), "{died_before}");
}

#[test]
fn what_waits_in_mailboxes_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let ask = r#"{"name": "ask_b", "arguments": {"message": "?"}}"#;
    let network = format!(
        r#"
[network]
name = "queue"
entry = "a"
[agents.a]
prompt = "Ask."
delegates_to = ["b"]
[agents.b]
prompt = "Wait."
replicas = 1
tools = ["wait"]
[tools.wait]
builtin = "process.run"
allow = ["sh"]
[policy]
default = "allow"
[sim.script]
a = ['{{"calls": [{ask}, {ask}, {ask}]}}', "{{{{ results | map(attribute='content') | join(' ') }}}}"]
b = ['{{"calls": [{{"name": "wait", "arguments": {{"argv": ["sh", "-c", "while [ ! -e gate ]; do sleep 0.01; done"]}}}}]}}', "so"]
"#
    );
    std::fs::write(dir.path().join("n.toml"), network).unwrap();
    let mut run = provost(dir.path()).args(["run", "n.toml", "go"]).spawn().unwrap();
    let shown = until("two wait", || {
        let runs = json_of(dir.path(), &["runs", "list"]);
        runs[0]["mailboxes"][0]["waiting"].eq(&json!(2)).then(|| json_of(dir.path(), &["runs", "show", "last"]))
    });
    let mailboxes = shown["mailboxes"].as_array().unwrap();
    assert_eq!((mailboxes.len(), &mailboxes[0]["agent"]), (1, &json!("b")));
    let sent = shown["timeline"].as_array().unwrap().iter().filter(|event| event["kind"] == "sent");
    let sent: Vec<u64> = sent.map(|event| event["time_ms"].as_u64().unwrap()).collect();
    assert!(sent.len() == 3 && mailboxes[0]["oldest_ms"] == sent[1], "the first one was taken: {shown:#}");
    let (_, stdout, _) = output(dir.path(), &["runs", "show", "last"]);
    assert!(stdout.contains("  2 questions wait in the mailbox of b, the oldest since "), "{stdout}");
    open_gate(dir.path());
    assert_eq!(wait(&mut run), Some(0));
    assert_eq!(json_of(dir.path(), &["runs", "list"])[0]["mailboxes"], json!([]));
}
