//! The record, as an auditor meets it: checkpoints, the anchor, what `verify` says of a store that was changed, and the
//! questions that can be asked over all runs.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::world::World;

/// An agent that asks another one, which calls a tool.
const NETWORK: &str = r#"
[network]
name = "n"
entry = "clerk"
[models.m]
provider = "sim"
[agents.clerk]
prompt = "You ask."
delegates_to = ["reader"]
[agents.reader]
prompt = "You look."
tools = ["now"]
[tools.now]
builtin = "clock.now"
[policy]
default = "allow"
[sim.script]
clerk = ['{"calls": [{"name": "ask_reader", "arguments": {"message": "when?"}}]}', "{{ input }}: {{ results[0].content }}"]
reader = ['{"calls": [{"name": "now", "arguments": {}}]}', "now"]
"#;

fn world() -> World {
    World::new(NETWORK)
}

/// Leaves out what differs from run to run.
fn redacted(world: &World, text: &str) -> String {
    let here = fs::canonicalize(world.path()).unwrap();
    let text = text.replace(here.to_str().unwrap(), "DIR").replace(world.path().to_str().unwrap(), "DIR");
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        let words = line.split(' ').map(|word| {
            let bare = word.trim_matches(|letter: char| !letter.is_ascii_alphanumeric());
            let is_hex = bare.len() == 64 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
            let is_run = bare.len() == 26 && bare.starts_with("01");
            let is_digits = |text: &str, sign: char| text.split(sign).all(|part| part.parse::<u32>().is_ok());
            match bare {
                _ if is_hex => word.replace(bare, "HASH"),
                _ if is_run => word.replace(bare, "RUN"),
                _ if bare.len() == 10 && is_digits(bare, '-') => word.replace(bare, "DATE"),
                _ if bare.len() == 8 && is_digits(bare, ':') => word.replace(bare, "TIME"),
                _ => word.to_owned(),
            }
        });
        let mut words: Vec<String> = words.collect();
        // How many commits a run makes is a matter of time.
        for at in 0..words.len() {
            let is_of_commits = (at > 0 && words[at - 1] == "commit")
                || words.get(at + 1).is_some_and(|next| next.starts_with("commit"));
            let digits = words[at].trim_end_matches([',', ':', ';']).to_owned();
            if is_of_commits && digits.parse::<u64>().is_ok() {
                words[at] = words[at].replace(&digits, "N");
            }
        }
        out.push_str(&words.join(" "));
    }
    out
}

/// What a command prints on stdout, or where that is nothing on stderr.
fn said(world: &World, code: i32, arguments: &[&str]) -> String {
    let ended = world.ask(arguments);
    assert_eq!(ended.code(), Some(code), "{arguments:?}: {}{}", ended.stdout, ended.stderr);
    redacted(world, if ended.stdout.is_empty() { &ended.stderr } else { &ended.stdout })
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(|file| file.unwrap().path()) {
        if file.is_file() {
            fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
        }
    }
}

#[test]
fn an_auditor_sets_an_anchor_and_sees_that_the_store_agrees_with_it() {
    let world = world();
    world.ask_for(0, &["run", "n.toml", "one"]);
    insta::assert_snapshot!(said(&world, 0, &["audit", "verify"]), @r"
    the store is whole
      2 streams, 29 events, N commits, 1 blob, 0 tombstones
      1 run read, 0 pruned; 5 charges compared with the ledger
      head HASH
      1 checkpoint at DIR/.provost/checkpoints.jsonl agrees, up to commit N of DATE TIME
    ");
    insta::assert_snapshot!(said(&world, 0, &["audit", "anchor", "show"]), @r"no anchor is set");
    insta::assert_snapshot!(said(&world, 0, &["audit", "anchor", "set", "anchor.jsonl"]), @r"
    anchor DIR/anchor.jsonl
      its newest checkpoint is of commit N, DATE TIME
    ");
    world.ask_for(0, &["run", "n.toml", "two"]);
    insta::assert_snapshot!(said(&world, 0, &["audit", "verify"]), @r"
    the store is whole
      3 streams, 58 events, N commits, 1 blob, 0 tombstones
      2 runs read, 0 pruned; 10 charges compared with the ledger
      head HASH
      2 checkpoints at DIR/.provost/checkpoints.jsonl agree, up to commit N of DATE TIME
      2 checkpoints at DIR/anchor.jsonl agree, up to commit N of DATE TIME
    ");
    let key = world.ask_for(0, &["audit", "key"]);
    world.ask_for(0, &["audit", "verify", "--key", key.trim()]);
    world.ask_for(0, &["audit", "verify", "--key", &key.trim().to_uppercase()]);
    let json: Value = serde_json::from_str(&world.ask_for(0, &["audit", "verify", "--json"])).unwrap();
    for attested in json["attested"].as_array().unwrap() {
        assert_eq!((&attested["newest"]["size"], &attested["since"]), (&json["commits"], &Value::from(0)));
        assert_eq!(attested["newest"]["key"], key.trim());
    }
    assert_eq!(
        said(&world, 0, &["audit", "anchor", "remove"]),
        "DIR/anchor.jsonl is the anchor no longer; what it has it keeps\n"
    );
    world.ask_for(0, &["audit", "verify", "--anchor", "anchor.jsonl"]);
    insta::assert_snapshot!(said(&world, 2, &["audit", "anchor", "set", ".provost/anchor"]), @r"
    error: DIR/.provost/anchor can't be an anchor: it lies in the data directory, whose owner could change it too
      hint: name a file elsewhere, or an address of HTTP
    ");
}

#[test]
fn a_store_that_was_changed_is_code_8_with_what_was_found_and_what_to_do() {
    let world = world();
    world.ask_for(0, &["run", "n.toml", "one"]);
    world.ask_for(0, &["audit", "anchor", "set", "anchor.jsonl"]);
    let backup = world.path().join("backup");
    copy(&world.data(""), &backup);
    world.ask_for(0, &["run", "n.toml", "two"]);
    let last = fs::read_to_string(world.path().join("anchor.jsonl")).unwrap();

    // The whole directory as it was: its key, and the checkpoints beside it, too.
    copy(&backup, &world.data(""));
    insta::assert_snapshot!(said(&world, 8, &["audit", "verify"]), @r"
    error: the store ends with commit N, and had N commits by the checkpoint of DATE TIME UTC at DIR/anchor.jsonl: its tail was cut off, or an older copy was put in its place
      hint: put the newest backup in its place; if an older one was restored on purpose, keep these checkpoints and begin anew
    ");
    // It goes on, further than it was.
    for input in ["three", "four", "five"] {
        world.ask_for(0, &["run", "n.toml", input]);
    }
    let json: Value = serde_json::from_str(&world.ask_for(8, &["audit", "verify", "--json"])).unwrap();
    assert_eq!(json["ok"], false);
    // The anchor keeps what it was told before. What the store has come to since is left out: it may name the same number.
    assert!(fs::read_to_string(world.path().join("anchor.jsonl")).unwrap().starts_with(&last));
    fs::write(world.path().join("anchor.jsonl"), &last).unwrap();
    insta::assert_snapshot!(said(&world, 8, &["audit", "verify"]), @r"
    error: commit N is not the one that the checkpoint of DATE TIME UTC at DIR/anchor.jsonl names: what came after commit N was rewritten, or is of another copy of the store
      hint: put a backup in its place that agrees with the checkpoints
    ");

    let other = self::world();
    other.ask_for(0, &["run", "n.toml", "other"]);
    other.ask_for(0, &["audit", "anchor", "set", "anchor.jsonl"]);
    let elsewhere = other.path().join("anchor.jsonl");
    insta::assert_snapshot!(
        said(&world, 8, &["audit", "verify", "--anchor", elsewhere.to_str().unwrap()]).replace(elsewhere.to_str().unwrap(), "OTHER"),
        @r"
        error: OTHER has no checkpoint of this store, which begins with commit HASH; it has those of HASH
          hint: name the store's own anchor; if it is, the store was replaced: put a backup in its place
        "
    );
    let forged = fs::read_to_string(&elsewhere).unwrap().replace("\"size\":", "\"size\":1");
    fs::write(&elsewhere, forged).unwrap();
    insta::assert_snapshot!(said(&other, 8, &["audit", "verify"]), @r"
    error: the checkpoint of commit N at DIR/anchor.jsonl is forged: its key has not signed it
      hint: find out who can write there; what the others say still counts
    ");
}

#[test]
fn an_anchor_that_can_not_be_reached_stops_no_run_and_is_said() {
    let world = world();
    world.ask_for(0, &["run", "n.toml", "one"]);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = format!("http://{nobody}/checkpoints");
    let hidden = |text: String| text.replace(&nobody.to_string(), "ANCHOR");
    world.ask_for(0, &["audit", "anchor", "set", &target]);
    let ended = world.ask(&["run", "n.toml", "two"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let told: String =
        ended.stderr.lines().skip_while(|line| !line.starts_with("warning")).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(hidden(told), @r"
    warning: the anchor http://ANCHOR/checkpoints can't be written: Connection refused (os error 111)
      the next command that holds the store tries again
    ");
    let json: Value = serde_json::from_str(&world.ask_for(0, &["audit", "anchor", "show", "--json"])).unwrap();
    assert_eq!((&json["anchored"], &json["lag"]), (&Value::Null, &json["newest"]["size"]));
    insta::assert_snapshot!(hidden(said(&world, 1, &["audit", "verify"])), @r"
    error: the anchor http://ANCHOR/checkpoints can't be read: Connection refused (os error 111)
      hint: without its checkpoints nothing is known of the tail: ask again when it can be reached
    ");
    // The store itself can still be checked.
    world.ask_for(0, &["audit", "anchor", "remove"]);
    world.ask_for(0, &["audit", "verify"]);
}

/// An anchor as anybody could write one: what is posted is kept, and returned to who asks.
struct AnchorServer {
    lines: Arc<Mutex<Vec<String>>>,
    url: String,
}

impl AnchorServer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/provost", listener.local_addr().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        std::thread::spawn(move || listener.incoming().for_each(|stream| answer(stream.unwrap(), &kept)));
        Self { lines, url }
    }
}

fn answer(mut stream: TcpStream, lines: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    reader.read_line(&mut head).unwrap();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        if header.trim().is_empty() {
            break;
        }
        if let Some(text) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let mut lines = lines.lock().unwrap();
    if head.starts_with("POST /provost ") {
        lines.push(String::from_utf8(body).unwrap());
    }
    let all = if head.starts_with("GET") { lines.join("\n") } else { String::new() };
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{all}", all.len());
    stream.write_all(answer.as_bytes()).unwrap();
}

#[test]
fn an_anchor_over_http_is_posted_to_and_asked() {
    let (world, server) = (world(), AnchorServer::start());
    world.ask_for(0, &["run", "n.toml", "one"]);
    world.ask_for(0, &["audit", "anchor", "set", &server.url]);
    world.ask_for(0, &["run", "n.toml", "two"]);
    let json: Value = serde_json::from_str(&world.ask_for(0, &["audit", "verify", "--json"])).unwrap();
    assert_eq!(json["attested"][1]["at"], server.url);
    assert_eq!(json["attested"][1]["checkpoints"], 2);
    assert_eq!(server.lines.lock().unwrap().len(), 2);
    // Nothing has happened since, and nothing is sent.
    world.ask_for(0, &["audit", "anchor", "set", &server.url]);
    assert_eq!(server.lines.lock().unwrap().len(), 2);
    server.lines.lock().unwrap().push("<html>".to_owned());
    assert!(said(&world, 8, &["audit", "verify"]).contains("line 3 of"));
    // Somebody else who answers in its place has not lost anything.
    *server.lines.lock().unwrap() = vec!["<html>".to_owned()];
    assert!(said(&world, 1, &["audit", "verify"]).contains("can't be read: what it answers is no list of checkpoints"));
    server.lines.lock().unwrap().clear();
    assert!(said(&world, 8, &["audit", "verify"]).contains("has lost checkpoints: it had one of commit"));
}

/// What is made of an anchor that is away, locked or made anew, as people meet it.
#[test]
fn an_anchor_that_was_removed_or_is_locked_is_said_and_waited_for_no_longer_than_promised() {
    let world = world();
    let file = world.path().join("an.jsonl");
    world.ask_for(0, &["run", "n.toml", "one"]);
    world.ask_for(0, &["audit", "anchor", "set", "an.jsonl"]);
    fs::remove_file(&file).unwrap();
    world.ask_for(0, &["audit", "anchor", "set", "an.jsonl"]);
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 1);
    // What it has lost is not covered up by what comes later: nothing is added, and it is said.
    world.ask_for(0, &["run", "n.toml", "two"]);
    fs::write(&file, "").unwrap();
    let more = world.ask(&["run", "n.toml", "three"]);
    assert!(
        more.code() == Some(0) && more.stderr.contains("has lost what it had taken of this store"),
        "{}",
        more.stderr
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
    assert!(said(&world, 8, &["audit", "verify"]).contains("has lost checkpoints"));
    world.ask_for(0, &["audit", "anchor", "set", "an.jsonl"]);
    world.ask_for(0, &["audit", "verify"]);
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 1);
    // Whoever can read it can lock it, for ever.
    let locked = fs::File::open(&file).unwrap();
    rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockShared).unwrap();
    let ended = world.ask(&["run", "n.toml", "two"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("\nwarning: the anchor "), "{}", ended.stderr);
    drop(locked);
    world.ask_for(0, &["audit", "anchor", "set", "an.jsonl"]);
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 2);
    for target in [".", "http://user:secret@localhost/", "localhost:8080"] {
        let refused = world.ask(&["audit", "anchor", "set", target]);
        assert_eq!(refused.code(), Some(2), "{target}: {}", refused.stderr);
        assert!(!refused.stderr.contains("secret"), "{}", refused.stderr);
    }
    // One that can't be read any more sends nothing, which is said.
    fs::write(world.data("anchor.json"), "{").unwrap();
    let ended = world.ask(&["run", "n.toml", "three"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("anchor.json can't be read"), "{}", ended.stderr);
    assert_eq!(said(&world, 0, &["audit", "anchor", "remove"]), "there is no anchor any longer\n");
    world.ask_for(0, &["audit", "verify"]);
}

/// A process that is killed between its last commit and the checkpoint of it, or between that and the anchor.
#[cfg(debug_assertions)]
#[test]
fn a_kill_before_or_after_a_checkpoint_leaves_what_the_next_process_makes_up_for() {
    for point in ["checkpoint.before_write@1", "checkpoint.after_write@1"] {
        let world = world();
        world.ask_for(0, &["audit", "anchor", "set", "anchor.jsonl"]);
        let killed = world.start(&["run", "n.toml", "one"], &[("PROVOST_CRASH_AT", point)], None).end();
        assert!(killed.was_killed(), "{point}: {}", killed.stderr);
        assert_eq!(fs::read_to_string(world.path().join("anchor.jsonl")).unwrap(), "");
        let verified = world.ask_for(0, &["audit", "verify"]);
        assert!(verified.contains("has taken nothing of this store yet\n"), "{verified}");
        world.ask_for(0, &["run", "n.toml", "two"]);
        let json: Value = serde_json::from_str(&world.ask_for(0, &["audit", "verify", "--json"])).unwrap();
        for attested in json["attested"].as_array().unwrap() {
            assert_eq!(
                (&attested["newest"]["size"], &attested["since"]),
                (&json["commits"], &Value::from(0)),
                "{point}"
            );
        }
    }
}

/// Who has the key can sign what they like; and one that is new makes verify want both.
#[test]
fn a_key_that_others_may_read_or_that_was_replaced_is_said() {
    use std::os::unix::fs::PermissionsExt;
    let world = world();
    assert!(!world.ask(&["run", "n.toml", "one"]).stderr.contains("WARN"));
    fs::set_permissions(world.data("signing.key"), fs::Permissions::from_mode(0o640)).unwrap();
    let said = world.ask(&["audit", "key"]).stderr;
    assert!(said.contains("whose mode is 640: chmod 600"), "{said}");
    fs::remove_file(world.data("signing.key")).unwrap();
    let said = world.ask(&["run", "n.toml", "two"]).stderr;
    assert!(said.contains("is gone from") && said.contains("audit verify wants both named"), "{said}");
    assert!(!world.ask(&["run", "n.toml", "three"]).stderr.contains("WARN"));
}

/// A medium that takes no checkpoint takes no run with it.
#[cfg(debug_assertions)]
#[test]
fn a_checkpoint_that_can_not_be_written_stops_no_run() {
    let world = world();
    let fault = [("PROVOST_FAULT_AT", "checkpoint.write@1-9")];
    let ended = world.start(&["run", "n.toml", "one"], &fault, None).end();
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("checkpoints.jsonl can't be written"), "{}", ended.stderr);
    world.ask_for(0, &["audit", "verify"]);
}

#[test]
fn events_are_found_over_all_runs_by_kind_agent_tool_and_time() {
    let world = world();
    for input in ["one", "two"] {
        world.ask_for(0, &["run", "n.toml", input]);
    }
    let kinds = |arguments: &[&str]| {
        let found = world.ask_for(0, &[&["audit", "query", "--json"], arguments].concat());
        let lines = found.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| line["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let found = said(&world, 0, &["audit", "query", "--tool", "now", "--run", "last"]);
    let (found, answer) = found.split_once("is told: ").unwrap();
    assert!(answer.starts_with("{\"utc\":"), "{answer}");
    insta::assert_snapshot!(found, @r"
    WHEN                 RUN                         EVENT  KIND                WHAT
    DATE TIME  RUN      9  call_intended       reader.1.0 calls now {}
    DATE TIME  RUN     10  tool_returned       reader.1.0
    ");
    assert_eq!(kinds(&["--kind", "run_ended", "--kind", "run_started"]).len(), 4);
    assert_eq!(kinds(&["--kind", "run_ended", "--limit", "1"]), ["run_ended"]);
    assert_eq!(kinds(&["--agent", "reader", "--kind", "agent_started"]).len(), 2);
    assert_eq!(kinds(&["--agent", "clerk/reader.1.0", "--kind", "agent_started", "--run", "last"]).len(), 1);
    assert_eq!(kinds(&["--agent", "reader.1.0", "--kind", "agent_started"]).len(), 2);
    assert_eq!(kinds(&["--tool", "now", "--kind", "tool_returned"]).len(), 2);
    assert_eq!(kinds(&["--tool", "none"]), Vec::<String>::new());
    assert_eq!(kinds(&["--until", "1h"]), Vec::<String>::new());
    let (all, exported) = (kinds(&["--since", "1h"]), world.ask_for(0, &["audit", "export", "--since", "1h"]));
    assert_eq!(all.len(), exported.lines().count());
    assert_eq!(world.ask_for(0, &["audit", "query", "--json"]), exported);
    assert_eq!(world.ask_for(0, &["audit", "export", "--until", "1h"]), "");
    let one = world.ask_for(0, &["audit", "export", "--run", "last"]);
    assert_eq!(one, world.ask_for(0, &["audit", "export", "last", "last", "--run", "last"]));
    assert_eq!(world.ask(&["audit", "query", "--agent", "raeder"]).stderr, "note: no event matches\n");
    let nowhere = self::world();
    assert_eq!(
        nowhere.ask(&["audit", "query", "--run", "last"]).code(),
        nowhere.ask(&["audit", "export", "last"]).code()
    );
    assert_ne!(nowhere.ask(&["audit", "query", "--run", "last"]).code(), Some(0));
    assert!(exported.ends_with(&one) && exported.len() > one.len());
    assert!(world.ask(&["audit", "query", "--kind", "run_endd"]).stderr.contains("the kinds are run_started"));
}

#[test]
fn with_a_tenant_nothing_of_another_one_is_shown() {
    let world = world();
    for tenant in ["acme", "zeta"] {
        world.ask_for(0, &["run", "n.toml", tenant, "--tenant", tenant]);
    }
    let runs = world.runs();
    let of =
        |tenant: &str| runs.iter().find(|run| run["tenant"] == tenant).unwrap()["run"].as_str().unwrap().to_owned();
    let other = of("zeta");
    let asked: [&[&str]; 4] = [
        &["audit", "query", "--tenant", "acme", "--json"],
        &["audit", "query", "--tenant", "acme"],
        &["audit", "export", "--tenant", "acme"],
        &["audit", "export", "--tenant", "acme", "--ledger"],
    ];
    let check = || {
        for arguments in asked {
            let ended = world.ask(arguments);
            assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
            assert!(
                !ended.stdout.contains("zeta") && !ended.stdout.contains(&other),
                "{arguments:?}: {}",
                ended.stdout
            );
            assert!(
                !ended.stderr.contains("zeta") && !ended.stderr.contains(&other),
                "{arguments:?}: {}",
                ended.stderr
            );
        }
    };
    check();
    assert!(world.ask_for(0, asked[3]).lines().any(|line| line.contains("\"ledger\"")));
    for command in ["query", "export"] {
        let ended = world.ask(&["audit", command, "--tenant", "acme", "--run", &other[..25]]);
        assert_eq!((ended.code(), ended.stdout.as_str()), (Some(2), ""));
        assert!(!ended.stderr.contains(&other), "{}", ended.stderr);
    }
    // Whose a pruned run was is still known.
    world.ask_for(0, &["runs", "prune", "--keep", "0"]);
    check();
    assert!(world.ask(asked[0]).stderr.contains(&of("acme")));
    world.ask_for(0, &["audit", "verify"]);
}
