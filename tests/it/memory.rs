//! What agents remember from run to run, through the real command: over a kill -9 at each point, each in its own memory, with
//! the labels of what it came from.

#![cfg(debug_assertions)]

use provost::memory::{Shelf, Whose};
use serde_json::{Value, json};

use crate::world::{Ended, World};

/// An agent that keeps what it is told, or finds what it is asked: `keep: FACT`, `find: QUERY`, `drop: ID`.
const CLERK: &str = r#"
[network]
name = "desk"
entry = "clerk"
[agents.clerk]
prompt = "You keep and find."
tools = ["keep", "find", "drop"]
[tools.keep]
builtin = "memory.put"
scope = "@SCOPE@"
[tools.find]
builtin = "memory.search"
scope = "@SCOPE@"
[tools.drop]
builtin = "memory.forget"
scope = "@SCOPE@"
[policy]
default = "deny"
[sim.script]
clerk = ['''{% set parts = input | split(': ') %}{% set verb = parts[0] %}{% set said = parts[1] %}
{%- if verb == 'keep' -%}{"calls": [{"name": "keep", "arguments": {"text": {{ said | tojson }}}}]}
{%- elif verb == 'find' -%}{"calls": [{"name": "find", "arguments": {"query": {{ said | tojson }}}}]}
{%- else -%}{"calls": [{"name": "drop", "arguments": {"id": {{ said | tojson }}}}]}{%- endif -%}''',
  "{{ results[0].content | tojson }}"]
"#;

fn world(scope: &str) -> World {
    World::new(&CLERK.replace("@SCOPE@", scope))
}

fn run(world: &World, more: &[&str], input: &str) -> Ended {
    world.start(&[&["run", "n.toml", input], more].concat(), &[], None).end()
}

/// Runs the network and reads its answer, the result of its tool.
fn answer(world: &World, more: &[&str], input: &str) -> Value {
    let ended = run(world, more, input);
    assert_eq!(ended.code(), Some(0), "{input}: {}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

/// Returns the texts of the facts that a query finds.
fn found(world: &World, more: &[&str], query: &str) -> Vec<String> {
    let answer = answer(world, more, &format!("find: {query}"));
    let texts = answer["facts"].as_array().unwrap_or_else(|| panic!("{answer}")).iter();
    texts.map(|fact| fact["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_session_remembers_over_three_runs_and_a_kill_between_them() {
    let world = world("session");
    let session = ["--session", "ticket 7"];
    answer(&world, &session, "keep: The customer's boat is called Swallow.");
    // The second run dies when its fact has been kept and nobody knows of it.
    let dies = [("PROVOST_CRASH_AT", "gate.after_effect.idempotent")];
    let arguments = ["run", "n.toml", "keep: The boat lies at pier four.", "--session", "ticket 7"];
    assert!(world.start(&arguments, &dies, None).end().was_killed());
    world.ask_for(0, &["runs", "resume", "--all"]);
    assert_eq!(found(&world, &session, "what is the boat called?")[0], "The customer's boat is called Swallow.");
    assert_eq!(found(&world, &session, "pier"), ["The boat lies at pier four."]);
    // Another session knows nothing of it, and neither does one of another tenant.
    assert_eq!(found(&world, &["--session", "ticket 8"], "boat"), [""; 0]);
    assert_eq!(found(&world, &["--session", "ticket 7", "--tenant", "other"], "boat"), [""; 0]);
    for report in world.runs() {
        world.ask_for(0, &["runs", "replay", report["run"].as_str().unwrap()]);
    }
}

#[test]
fn a_fact_is_one_fact_wherever_the_process_dies() {
    let places =
        ["gate.before_intent", "gate.after_intent", "gate.after_effect"].map(|at| format!("{at}.idempotent@1"));
    let commits = ["journal.before_sync", "journal.after_sync"]
        .into_iter()
        .flat_map(|place| (1..=8).map(move |nth| format!("{place}@{nth}")));
    let mut killed = 0;
    for place in places.into_iter().chain(commits) {
        let world = world("tenant");
        let ended = world.start(&["run", "n.toml", "keep: Tides turn."], &[("PROVOST_CRASH_AT", &place)], None).end();
        killed += u32::from(ended.was_killed());
        if world.runs().is_empty() {
            continue;
        }
        world.ask_for(0, &["runs", "resume", "--all"]);
        assert_eq!(world.runs()[0]["status"], "done", "{place}");
        assert_eq!(found(&world, &[], "tides"), ["Tides turn."], "{place}");
    }
    assert!(killed > 6, "{killed}");
}

#[test]
fn a_forgetting_that_is_cut_off_is_no_failure() {
    for place in ["gate.after_intent.idempotent", "gate.after_effect.idempotent"] {
        let world = world("agent");
        let kept = answer(&world, &[], "keep: The code is 1234.");
        let input = format!("drop: {}", kept["id"].as_str().unwrap());
        assert!(world.start(&["run", "n.toml", &input], &[("PROVOST_CRASH_AT", place)], None).end().was_killed());
        world.ask_for(0, &["runs", "resume", "--all"]);
        let said = world.runs()[0]["answer"].as_str().unwrap().to_owned();
        assert_eq!(serde_json::from_str::<Value>(&said).unwrap(), json!({"forgotten": kept["id"]}), "{place}");
        assert_eq!(found(&world, &[], "code"), [""; 0], "{place}");
    }
}

#[test]
fn a_fork_does_not_rewind_what_is_remembered() {
    let world = world("agent");
    answer(&world, &[], "keep: One.");
    let run = world.runs()[0]["run"].as_str().unwrap().to_owned();
    // From its beginning: the fork keeps the fact again, as a call of its own.
    world.ask_for(0, &["runs", "fork", &run, "--at", "2"]);
    assert_eq!(found(&world, &[], "one"), ["One.", "One."]);
}

#[test]
fn what_goes_wrong_is_told_and_ends_nothing() {
    let world = world("session");
    for (more, input, reason) in [
        (&[][..], "keep: x", "this memory is that of a session, and the run has none"),
        (&["--session", "s"], "find: ?!", "no words"),
        (&["--session", "s"], "drop: 00ff", "no fact `00ff`"),
        (&["--session", "s"], "keep: 🎉", "no word by which it could be found again"),
        (&["--session", "s"], &format!("keep: {}", "x".repeat(9_000)), "at most 8192"),
    ] {
        let said = answer(&world, more, input).to_string();
        assert!(said.contains(reason), "{said}");
    }
    std::fs::write(world.data("memory.db"), [b'x'; 9_000]).unwrap();
    let said = answer(&world, &["--session", "s"], "find: x").to_string();
    assert!(said.contains("memory.db is no file of Provost's"), "{said}");
}

#[test]
fn nobody_shares_a_memory_by_a_name_that_is_none() {
    let world = world("session");
    for none in ["", "  ", "\t", "a\nb", "\u{7f}"] {
        for option in ["--session", "--tenant"] {
            let ended = run(&world, &[option, none], "keep: x");
            let said = &ended.stderr;
            assert_eq!(ended.code(), Some(2), "{option} {none:?}: {said}");
            assert!(said.contains(option) && said.contains("leave it out"), "{option} {none:?}: {said}");
        }
    }
    assert!(!world.path().join(".provost").exists());
    answer(&world, &["--session", " ticket 7 ", "--tenant", "Müller & Söhne"], "keep: x");
}

#[test]
fn the_network_that_is_shipped_remembers() {
    let world = World::new(include_str!("../../networks/remember.toml"));
    assert_eq!(world.ask_for(0, &["run", "n.toml", "remember: The office closes at five."]), "I will remember that.\n");
    let said = world.ask_for(0, &["run", "n.toml", "When does the office close?"]);
    assert!(said.starts_with("- The office closes at five. (kept 20") && said.ends_with(" by clerk)\n"), "{said}");
    assert_eq!(world.ask_for(0, &["run", "n.toml", "What of trains?"]), "I know nothing of that.\n");
}

/// An agent that comes by twice in a loop, each time as another instance, and by delegation a third time.
const LOOP: &str = r#"
[network]
name = "loop"
entry = "first"
[agents.first]
prompt = "You begin."
delegates_to = ["clerk"]
[agents.clerk]
prompt = "You keep what you hear."
tools = ["keep", "find"]
[agents.last]
prompt = "You pass it on."
[[routes]]
from = "first"
to = ["clerk"]
[[routes]]
from = "clerk"
to = ["last"]
[[routes]]
from = "last"
to = ["clerk"]
when = "'2' in output"
max_visits = 3
[tools.keep]
builtin = "memory.put"
[tools.find]
builtin = "memory.search"
[sim.script]
first = ['{"calls": [{"name": "ask_clerk", "arguments": {"message": "hear"}}]}', "go"]
clerk = ['{"calls": [{"name": "keep", "arguments": {"text": "The tide turns."}}, {"name": "find", "arguments": {"query": "tide"}}]}',
  '{"calls": [{"name": "find", "arguments": {"query": "tide"}}]}', "{{ results[0].content.facts | length }}"]
last = ["{{ messages[-1].text }}"]
"#;

#[test]
fn all_instances_of_an_agent_have_one_memory() {
    let world = World::new(LOOP);
    world.ask_for(0, &["run", "n.toml", "go"]);
    let report = &world.runs()[0];
    let ids: Vec<&str> =
        report["agents"].as_array().unwrap().iter().map(|agent| agent["agent"].as_str().unwrap()).collect();
    assert!(ids.contains(&"clerk") && ids.contains(&"clerk@2") && ids.contains(&"first/clerk.1.0"), "{ids:?}");
    let run = report["run"].as_str().unwrap().to_owned();
    let events = world.ask_for(0, &["runs", "show", &run, "--events"]);
    let last = events.lines().rfind(|line| line.contains("\"kind\":\"tool_returned\"")).unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    let found: Value = serde_json::from_str(last["message"]["body"]["tool"]["content"].as_str().unwrap()).unwrap();
    assert_eq!(found["facts"].as_array().unwrap().len(), 3, "{found}");
}

/// An agent that reads a file whose content is private, and keeps what it read; and one that finds it.
const PRIVATE: &str = r#"
[network]
name = "private"
entry = "clerk"
[agents.clerk]
prompt = "You keep what you read."
tools = ["read", "keep", "find"]
[tools.read]
builtin = "fs.read"
labels = { reads = "private" }
[tools.keep]
builtin = "memory.put"
[tools.find]
builtin = "memory.search"
[sim.script]
clerk = ['''{% if input == 'keep' %}{"calls": [{"name": "read", "arguments": {"path": "secret.txt"}}]}
{%- else %}{"calls": [{"name": "find", "arguments": {"query": "code"}}]}{% endif %}''',
'''{% if input == 'keep' %}{"calls": [{"name": "keep", "arguments": {"text": {{ results[0].content.text | tojson }}}}]}
{%- else %}{{ results[0].content }}{% endif %}''', "kept"]
"#;

#[test]
fn a_later_run_is_influenced_by_what_it_remembers() {
    let world = World::new(PRIVATE);
    std::fs::write(world.path().join("secret.txt"), "the code is 1234").unwrap();
    world.ask_for(0, &["run", "n.toml", "keep"]);
    world.ask_for(0, &["run", "n.toml", "find"]);
    let run = world.runs()[0]["run"].as_str().unwrap().to_owned();
    let events = world.ask_for(0, &["runs", "show", &run, "--events"]);
    let labels_of = |kind: &str| {
        let is_it = |line: &&str| line.contains(&format!("\"kind\":\"{kind}\""));
        let event: Value = serde_json::from_str(events.lines().rfind(is_it).unwrap()).unwrap();
        event["message"]["labels"].clone()
    };
    assert_eq!(labels_of("tool_returned"), json!(["private"]), "{events}");
    assert_eq!(labels_of("model_replied"), json!(["private"]), "{events}");
}

/// An agent whose first try to keep a fact has little time, and who tries again.
const HASTY: &str = r#"
[network]
name = "hasty"
entry = "clerk"
[agents.clerk]
prompt = "You keep what you hear."
tools = ["hasty", "again", "find"]
[tools.hasty]
builtin = "@DO@"
timeout = "500ms"
[tools.again]
builtin = "memory.put"
[tools.find]
builtin = "memory.search"
[sim.script]
clerk = ['{"calls": [{"name": "hasty", "arguments": @WHAT@}]}',
  '{"calls": [{"name": "again", "arguments": {"text": "The tide turns."}}]}',
  '{"calls": [{"name": "find", "arguments": {"query": "tide"}}]}', "{{ results[0].content | tojson }}"]
"#;

/// Runs that network while another process keeps the file to itself until the first call has timed out. Returns the id that
/// the second call was told, and the ids that are found.
fn hasty(world: &World, does: &str, what: &Value) -> (String, Vec<String>) {
    let network = HASTY.replace("@DO@", does).replace("@WHAT@", &what.to_string());
    std::fs::write(world.path().join("n.toml"), network).unwrap();
    let other = rusqlite::Connection::open(world.data("memory.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut running = world.start(&["run", "n.toml", "x"], &[], None);
    let has_timed_out =
        |run: &str| world.ask_for(0, &["runs", "show", run, "--events"]).contains("\"failure\":\"timed_out\"");
    while !running.run().is_some_and(has_timed_out) {
        assert!(!running.has_ended());
    }
    let run = running.run().unwrap().to_owned();
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(running.end().code(), Some(0));
    let events = world.ask_for(0, &["runs", "show", &run, "--events"]);
    let returned = events.lines().filter(|line| line.contains("\"kind\":\"tool_returned\""));
    let contents: Vec<Value> = returned
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["message"]["body"]["tool"]["content"].clone())
        .map(|content| serde_json::from_str(content.as_str().unwrap()).unwrap_or(content))
        .collect();
    let [_, again, found] = &contents[..] else { panic!("{events}") };
    let ids = found["facts"].as_array().unwrap().iter().map(|fact| fact["id"].as_str().unwrap().to_owned());
    (again["id"].as_str().unwrap().to_owned(), ids.collect())
}

#[test]
fn what_timed_out_is_not_done_after_all() {
    let world = World::new(HASTY);
    // The file is there before anybody keeps it to himself.
    let whose = Whose::agent("local", "hasty", "clerk");
    assert_eq!(Shelf::at(&world.path().join(".provost")).search(&whose, "tide", 1).unwrap(), []);
    let (first, found) = hasty(&world, "memory.put", &json!({"text": "The tide turns."}));
    assert_eq!(found, [first.as_str()], "the first try was said to have failed");
    let (second, mut found) = hasty(&world, "memory.forget", &json!({"id": first}));
    found.sort();
    let mut both = [first, second];
    both.sort();
    assert_eq!(found, both, "the forgetting was said to have failed");
}
