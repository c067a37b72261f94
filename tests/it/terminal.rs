//! What models, tools, files and people say is shown, and drives nothing: each command on a terminal, with every sequence
//! that a terminal obeys in every place where somebody else chooses the words.

#![cfg(debug_assertions)]

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{output, provost, terminal, wait};

/// What clears the screen, sets the title, writes to the clipboard, hides a link and asks the terminal; the same in C1; a
/// return, backspaces, a bell; letters that turn, hide or tag; and a line that pretends to be ours.
const NASTY: &str = "Grüße\u{1b}[2J\u{1b}[8m\u{1b}]0;title\u{7}\u{1b}]52;c;eA==\u{7}\u{1b}]8;;http://x\u{1b}\\\u{1b}P1$r\u{1b}\\\u{1b}c\
    \u{9b}2J\u{9d}0;title\u{9c}\u{90}q\u{9c}\u{85}\rOVER\u{8}\u{8}\u{7}\u{7f}\u{202e}\u{202d}\u{2066}\u{2069}\u{200e}\u{200f}\u{61c}\
    \u{200b}\u{feff}\u{e0041}\u{2028}\u{2029}\nFORGED line";

/// Of that what may stand in the name of a network, a tenant or a session: no controls.
const NAME: &str = "n\u{202e}\u{2066}\u{200b}\u{e0041}\u{2028}x";

/// The file's own name is nasty, and so is what is in it. A person is asked, and may be asked whether the program may run.
const NETWORK: &str = r#"
[network]
name = "NAME"
entry = "a"
[models.m]
price = { input_usd_per_mtok = 1.0, output_usd_per_mtok = 1.0 }
[agents.a]
prompt = "Work."
delegates_to = ["b"]
tools = ["list", "read", "search", "run", "person", "put"]
[agents.b]
prompt = "Work."
[tools.list]
builtin = "fs.list"
root = "tree"
[tools.read]
builtin = "fs.read"
root = "tree"
[tools.search]
builtin = "fs.search"
root = "tree"
[tools.run]
builtin = "process.run"
allow = ["cat", "printf"]
[tools.person]
builtin = "person.ask"
[tools.put]
builtin = "memory.put"
[[budgets]]
of = "tenant"
cost_usd = 100.0
[policy]
default = "ask"
[[routes]]
from = "a"
to = "c"
when = "output != '\u202e%%{}|(x)' and '\u001b[2J\n' != '\u009b'"
[agents.c]
prompt = "Work."
[sim.script]
a = ['''
{%- set x = input | tojson -%}
{"text": {{ x }}, "calls": [
  {"name": "list", "arguments": {"path": "."}}, {"name": "read", "arguments": {"path": {{ x }} } },
  {"name": "search", "arguments": {"pattern": "Gr"}}, {"name": "list", "arguments": {{ x }} },
  {"name": {{ x }}, "arguments": { {{ x }}: {{ x }} } },
  {"name": "put", "arguments": {"text": {{ x }} } },
  {"name": "run", "arguments": {"argv": ["cat", {{ x }}]} },
  {"name": "person", "arguments": {"question": {{ x }}, "choices": [{{ x }}, "fine"]} },
  {"name": "ask_b", "arguments": {"message": {{ x }} } } ]}''', '{{ input }} {{ results[0].content }}']
b = ["{{ input }}"]
c = ["{{ input }} {{ messages[-1].text }}"]
"#;

/// The auditor, which breaks down at its first decision, the third of all, leaves what it was asked as a dead letter.
const LETTER: &str = r#"
[network]
name = "letter"
entry = "clerk"
[agents.clerk]
prompt = "Work."
delegates_to = ["auditor"]
[agents.auditor]
prompt = "Work."
restart = { kind = "temporary" }
[sim.script]
clerk = ['{"calls": [{"name": "ask_auditor", "arguments": {"message": {{ input | tojson }} } } ]}', "{{ results[0].content }}"]
"#;

/// A directory with such a network, and a tree with such a file. What the files are called is in their names.
fn nasty() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let escaped: String = NAME.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect();
    fs::write(dir.path().join("n.toml"), NETWORK.replace("NAME", &escaped)).unwrap();
    fs::write(dir.path().join("broken.toml"), format!("{NETWORK}\n[x.\"{NASTY}\"]\n'{}' = 1\n", NAME)).unwrap();
    let bent = NETWORK.replace("entry = \"a\"", "entry = \"a\\u001b[2J\\nFORGED\"");
    fs::write(dir.path().join("bent.toml"), bent).unwrap();
    fs::write(dir.path().join("letter.toml"), LETTER).unwrap();
    fs::create_dir(dir.path().join("tree")).unwrap();
    fs::write(dir.path().join("tree").join(file_name()), format!("# {NASTY}\n\n{NASTY} moon\n")).unwrap();
    dir
}

fn file_name() -> String {
    format!("{}.md", NASTY.replace('/', ""))
}

/// What a person types: whether calls are allowed, and the answer to a question; where that is not taken, `fine`.
type Typed<'a> = (&'a str, &'a str);

/// Runs the command with everything at a terminal, until it has ended; returns its code and what the terminal got.
fn at_a_terminal(dir: &Path, arguments: &[&str], fault: Option<&str>, typed: Typed<'_>) -> (Option<i32>, String) {
    let (mut master, side) = terminal();
    let mut command = provost(dir);
    command.args(arguments).env_remove("NO_COLOR").env("TERM", "xterm").env("PROVOST_LOG", "debug");
    fault.map(|place| command.env("PROVOST_FAULT_AT", place));
    let mut child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
    // The terminal ends when nobody has it open any more.
    drop((command, side));
    let (mut got, mut piece, mut seen, (allowed, mut answer)) = (Vec::new(), [0; 4096], 0, typed);
    while let Ok(count @ 1..) = master.read(&mut piece) {
        got.extend_from_slice(&piece[..count]);
        let asked = String::from_utf8_lossy(&got[seen..]).into_owned();
        let said = match (asked.contains("[y/n] "), asked.contains("answer, or its number: ")) {
            (true, _) => allowed,
            (_, true) => std::mem::replace(&mut answer, "fine"),
            _ => continue,
        };
        master.write_all(format!("{said}\n").as_bytes()).unwrap();
        seen = got.len();
    }
    (wait(&mut child), String::from_utf8(got).unwrap())
}

/// Returns what is after an escape if that is ours: a style, or how the tree is drawn anew.
fn after_ours(rest: &str) -> Option<&str> {
    let styles = ["[0m", "[1m", "[4m", "[31m", "[32m", "[33m", "[34m", "[1;31m", "[1;33m"];
    let drawing = ["[2K", "[K", "[1A", "[1B", "[2A", "[3A", "[4A", "[5A"];
    styles.iter().chain(&drawing).find_map(|ours| rest.strip_prefix(ours))
}

/// Fails if the terminal got anything that it obeys and that is not ours.
fn check(what: &str, got: &str, may_forge: bool) {
    // The terminal itself puts a return before each line break.
    let got = got.replace("\r\n", "\n");
    let mut plain = String::new();
    for (number, part) in got.split('\u{1b}').enumerate() {
        let rest = if number == 0 { Some(part) } else { after_ours(part) };
        plain += rest.unwrap_or_else(|| panic!("{what}: ESC {part:?} in {got:?}"));
    }
    let is_hidden = |c: char| {
        matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{e0000}'..='\u{e0fff}')
    };
    // The tree is drawn from the beginning of its line.
    let drives = |c: char| c.is_control() && !"\n\t\r".contains(c) || is_hidden(c);
    let found = plain.chars().find(|c| drives(*c));
    assert!(found.is_none(), "{what}: {found:?} in {got:?}");
    assert!(!plain.contains("\rOVER"), "{what}: {got:?}");
    assert!(may_forge || !plain.lines().any(|line| line.starts_with("FORGED")), "{what}: {got:?}");
}

/// A run of that network at a terminal; what is asked there is answered.
fn run(dir: &Path, more: &[&str]) -> String {
    let arguments = [&["run", "n.toml", NASTY, "--tenant", NAME, "--session", NAME], more].concat();
    let (code, got) = at_a_terminal(dir, &arguments, None, ("y", "2"));
    assert_eq!(code, Some(0), "{got}");
    got
}

fn json_of(dir: &Path, arguments: &[&str]) -> Value {
    let (_, stdout, stderr) = output(dir, arguments);
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout} {stderr}"))
}

#[test]
fn what_is_said_in_a_run_drives_no_terminal_whichever_command_shows_it() {
    let dir = nasty();
    let dir = dir.path();
    let got = run(dir, &[]);
    check("run", &got, true);
    // It is there to be seen, and our own styles work.
    assert!(got.contains("␛]52;c;eA==␇") && got.contains("\\u{202e}") && got.contains("\u{1b}[32m"), "{got}");
    check("run --json", &run(dir, &["--json"]), false);
    check("run --events", &run(dir, &["--events"]), false);
    let shows =
        ["show", "show --events", "show --json", "watch", "watch --json", "watch --events", "replay", "replay --json"];
    for command in shows {
        let all: Vec<&str> = ["runs"].into_iter().chain(command.split(' ')).chain(["last"]).collect();
        let (code, got) = at_a_terminal(dir, &all, None, ("n", "fine"));
        assert_eq!(code, Some(0), "{command}: {got}");
        check(command, &got, command == "watch");
    }

    // A second run that is told something else, and one that leaves a letter.
    let other = format!("{NASTY} and more");
    let (_, got) = at_a_terminal(dir, &["run", "n.toml", &other], None, ("n", "1"));
    check("run, refused", &got, true);
    let (_, got) = at_a_terminal(dir, &["run", "letter.toml", NASTY], Some("agent.decide@3"), ("y", "fine"));
    check("run with a letter", &got, true);
    let letters = json_of(dir, &["runs", "dead-letters", "--json"]);
    let event = letters[0]["event"].as_u64().unwrap().to_string();
    let runs = json_of(dir, &["runs", "list", "--json"]);
    let id = |at: usize| runs[at]["run"].as_str().unwrap();
    let (one, two, first) = (id(0), id(1), id(runs.as_array().unwrap().len() - 1));
    assert_eq!(runs[2]["tenant"], NAME);
    let commands: [&[&str]; 31] = [
        &["runs", "list"],
        &["runs", "list", "--json"],
        &["runs", "list", "--tenant", NASTY],
        &["runs", "diff", two, first],
        &["runs", "diff", two, first, "--json"],
        &["runs", "dead-letters"],
        &["runs", "dead-letters", "--json"],
        &["runs", "dead-letters", "show", one, &event],
        &["runs", "dead-letters", "show", one, &event, "--json"],
        &["runs", "dead-letters", "put-back", one, &event],
        &["runs", "dead-letters", "drop", one, &event, "--reason", NASTY],
        &["runs", "dead-letters", "show", one, &event],
        &["runs", "fork", first, "--at", "4", "--input", NASTY],
        &["runs", "show", NASTY],
        &["runs", "steer", first, NASTY],
        &["runs", "answer", first, NASTY],
        &["runs", "resolve", first, NASTY, "--fail"],
        &["runs", "resume", "--all"],
        &["runs", "prune", "--dry-run", "--keep", "0"],
        &["audit", "verify"],
        &["audit", "verify", "--json"],
        &["audit", "export", "--ledger"],
        &["audit", "query"],
        &["audit", "query", "--json"],
        &["budget"],
        &["budget", "--json"],
        &["budget", "top-up", &format!("tenant/{NAME}/{NAME}"), "--cost-usd", "1"],
        &["budget", "top-up", NASTY, "--tokens", "1"],
        &["queues"],
        &["queues", "--json"],
        &["audit", "export", NASTY],
    ];
    for arguments in commands {
        let is_run = arguments.contains(&"fork") || arguments.contains(&"put-back");
        let (code, got) = at_a_terminal(dir, arguments, None, ("y", "fine"));
        assert!(code.is_some() && code != Some(101), "{arguments:?}: {got}");
        check(&arguments.join(" "), &got, is_run || arguments.contains(&"show"));
    }
}

#[test]
fn what_stands_in_files_drives_no_terminal() {
    let dir = nasty();
    let dir = dir.path();
    let tree = format!("tree/{}", file_name());
    let elsewhere = format!("./{NAME}\u{1b}[2J\nFORGED");
    fs::create_dir(dir.join(&elsewhere)).unwrap();
    fs::copy(dir.join("bent.toml"), dir.join(&elsewhere).join("bent.toml")).unwrap();
    let bent = format!("{elsewhere}/bent.toml");
    let model = format!("m=openai:{NASTY}");
    let commands: [(&[&str], i32); 25] = [
        (&["knowledge", "add", "k", "tree"], 0),
        (&["knowledge", "add", "k", "tree", "--json"], 0),
        (&["knowledge", "list"], 0),
        (&["knowledge", "search", "k", "moon"], 0),
        (&["knowledge", "search", "k", "moon", "--json"], 0),
        (&["knowledge", "search", "k", NASTY], 0),
        (&["knowledge", "remove", "k", &tree], 0),
        (&["knowledge", "list", "--json"], 0),
        (&["knowledge", "add", NASTY, "tree"], 2),
        (&["knowledge", "add", "k", NASTY], 2),
        (&["check", "n.toml"], 0),
        (&["check", "n.toml", "--json"], 0),
        (&["check", "broken.toml"], 3),
        (&["check", &bent], 3),
        (&["check", &bent, "--json"], 3),
        (&["check", NASTY], 3),
        (&["graph", "n.toml"], 0),
        (&["graph", "n.toml", "--format", "mermaid"], 0),
        (&["graph", "n.toml", "--format", "dot"], 0),
        (&["graph", "n.toml", "--format", "svg"], 0),
        (&["graph", "n.toml", "--format", NASTY], 2),
        (&["run", "n.toml", "x", "--model", &model, "--tenant", NASTY], 2),
        (&["new", &elsewhere], 0),
        (&["new", &elsewhere], 2),
        (&["runs", "list", "--data-dir", &elsewhere], 0),
    ];
    for (arguments, expected) in commands {
        let (code, got) = at_a_terminal(dir, arguments, None, ("n", "fine"));
        assert_eq!(code, Some(expected), "{arguments:?}: {got}");
        check(&arguments.join(" "), &got, false);
    }
}

#[test]
fn a_pipe_gets_the_answer_as_it_is_and_json_that_says_the_same() {
    let dir = nasty();
    let dir = dir.path();
    let network = fs::read_to_string(dir.join("n.toml")).unwrap();
    let says = network.split("a = ['''").next().unwrap().to_owned() + "a = ['{{ input }}']\nc = ['{{ input }}']\n";
    fs::write(dir.join("says.toml"), says).unwrap();
    assert_eq!(output(dir, &["run", "says.toml", NASTY]).1, format!("{NASTY}\n"));
    let is_raw = |c: char| c.is_control() && c != '\n' || NAME.contains(c) && !c.is_ascii();
    let (_, events, _) = output(dir, &["run", "says.toml", NASTY, "--tenant", NAME, "--events"]);
    assert!(!events.contains(is_raw), "{events:?}");
    let lines: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["input"], NASTY);
    assert_eq!((&lines[lines.len() - 1]["answer"], &lines[0]["network"]), (&NASTY.into(), &NAME.into()));
    let (_, report, _) = output(dir, &["runs", "show", "last", "--json"]);
    assert!(!report.contains(is_raw), "{report:?}");
    assert_eq!(serde_json::from_str::<Value>(&report).unwrap()["answer"], NASTY);
    let (_, exported, _) = output(dir, &["audit", "export"]);
    assert!(!exported.contains(is_raw), "{exported:?}");
    assert_eq!(serde_json::from_str::<Value>(exported.lines().next().unwrap()).unwrap()["input"], NASTY);
    assert_eq!(output(dir, &["audit", "query", "--json"]).1, exported);
}

/// What was typed may be the name of a file that somebody else chose.
#[test]
fn a_mistake_of_usage_is_one_line_whatever_was_typed() {
    let dir = tempfile::tempdir().unwrap();
    for typed in ["a\u{1b}[2J\nerror: the store is damaged", "a\u{1b}[1m\nerror: the store is damaged\u{1b}[0m", NASTY]
    {
        for flag in ["--since", "--kind", "--limit"] {
            let (code, _, said) = output(dir.path(), &["audit", "query", flag, typed]);
            let begin = said.lines().filter(|line| line.starts_with("error:") || line.starts_with("FORGED"));
            assert_eq!((code, begin.count()), (Some(2), 1), "{said}");
            assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{said:?}");
        }
    }
}
