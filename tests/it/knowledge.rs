//! Files that are indexed and found again: what a search is good for, what an indexing takes in and leaves out, and what
//! agents and people are told where something is wrong.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use provost::memory::{Error, Hits, Knowledge, Ranking};
use serde_json::{Value, json};

use crate::process::output;
use crate::world::World;

/// What somebody who works on this project may ask, and files that answer it.
const QUESTIONS: [(&str, &[&str]); 20] = [
    (
        "How do I go on with a run that was interrupted by a crash?",
        &["src/cli/runs/resume.rs", "src/runtime/run_supervisor/resuming.rs", "src/runtime/launching.rs"],
    ),
    ("What does exit code 8 mean?", &["src/cli/exit.rs", "docs/output.md"]),
    (
        "Where is it decided whether a tool call needs approval?",
        &["src/policy.rs", "src/runtime/gate/approval.rs", "src/runtime/gate.rs"],
    ),
    (
        "Which format do the journal's files have on disk?",
        &["docs/journal.md", "src/journal/format.rs", "src/journal/file.rs"],
    ),
    ("How are API keys read from environment variables?", &["src/model/secret.rs", "src/spec/secrets.rs"]),
    (
        "What happens when two processes open the same data directory?",
        &["docs/adr/0008-one-holder-many-commands.md", "src/journal/hold.rs", "src/cli/door.rs"],
    ),
    ("How is the cost of a model call computed from its tokens?", &["src/budget/price.rs"]),
    (
        "Can agents deadlock by waiting for each other in a circle?",
        &["src/runtime/mailboxes/cycle.rs", "docs/adr/0012-mailboxes-and-scopes.md", "src/spec/check/supervision.rs"],
    ),
    ("Retry-After header when rate limited", &["src/model/http/error.rs", "src/runtime/gate/retry.rs", "src/model.rs"]),
    (
        "Where are child processes killed when a run is cancelled?",
        &["src/tool/process/group.rs", "src/runtime/run_supervisor/ending.rs", "src/tool/process.rs"],
    ),
    ("How are symbolic links kept from leading out of a tool's root?", &["src/tool/fs.rs", "src/tool/fs/walk.rs"]),
    ("parse server-sent events of a streamed answer", &["src/model/http/sse.rs", "src/model/http.rs"]),
    (
        "Why does one place number all events of a run?",
        &["docs/adr/0001-pure-core-one-sequencer.md", "src/runtime/run_supervisor.rs"],
    ),
    (
        "How is a dead letter put back?",
        &["src/runtime/letters.rs", "src/cli/runs/dead_letters/put_back.rs", "docs/output.md"],
    ),
    ("Which crate validates JSON Schemas, and why that one?", &["docs/dependencies.md"]),
    ("draw a network as a mermaid diagram", &["src/spec/graph/mermaid.rs", "src/cli/graph.rs"]),
    (
        "restart intensity and period",
        &[
            "src/runtime/supervision.rs",
            "src/spec/supervision.rs",
            "src/spec/tables.rs",
            "docs/adr/0011-supervision-of-agents.md",
        ],
    ),
    (
        "What is compared when a recorded run is replayed?",
        &["src/run/replay.rs", "docs/output.md", "src/runtime/replay.rs"],
    ),
    (
        "models that cannot call tools natively",
        &["src/model/schema_mode.rs", "src/spec/tables.rs", "src/model/schema_mode/simple.rs"],
    ),
    (
        "How does the simulated model choose its delays and faults?",
        &["src/model/sim/draw.rs", "src/model/sim.rs", "src/spec/tables.rs"],
    ),
];

fn project(path: &str) -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The share of the questions that must have an answer among the first five passages. It is 0.9 now, and a text that is
/// changed may move one or two.
const FLOOR: f64 = 0.8;

#[test]
fn questions_about_this_project_find_the_files_that_answer_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut knowledge = Knowledge::open_for_writing(directory.path()).unwrap();
    knowledge.add("project", &[project("docs"), project("src")]).unwrap();
    let root = project(".");
    let mut hits = 0;
    for (question, answers) in QUESTIONS {
        answers.iter().for_each(|answer| assert!(root.join(answer).exists(), "{answer}"));
        let Hits { passages, ranked_by, .. } = knowledge.search("project", question, None, 5).unwrap();
        assert_eq!((passages.len(), ranked_by), (5, Ranking::Words), "{question}");
        let place = passages.iter().position(|passage| answers.iter().any(|answer| passage.path == root.join(answer)));
        hits += usize::from(place.is_some());
        println!("{}  {question}", place.map_or("-".to_owned(), |place| (place + 1).to_string()));
        if place.is_none() {
            passages.iter().for_each(|passage| println!("     {}", passage.place(&root)));
        }
    }
    let recall = hits as f64 / QUESTIONS.len() as f64;
    println!("recall at 5: {recall}");
    assert!(recall >= FLOOR, "{recall}");
}

/// A directory `files` with some files in it, beside a data directory.
fn files(files: &[(&str, &str)]) -> tempfile::TempDir {
    let top = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = top.path().join("files").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    top
}

/// Runs the command in a directory; it must succeed. Returns what it prints as JSON.
fn ask(directory: &Path, arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = output(directory, &[arguments, &["--json"]].concat());
    assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// Runs the command in a directory; it must fail with this code. Returns what it says.
fn fails(directory: &Path, code: i32, arguments: &[&str]) -> String {
    let (ended, _, stderr) = output(directory, arguments);
    assert_eq!(ended, Some(code), "{arguments:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

/// Returns the places that a search finds.
fn places(directory: &Path, query: &str) -> Vec<String> {
    let found = ask(directory, &["knowledge", "search", "k", query]);
    found["passages"].as_array().unwrap().iter().map(|passage| passage["at"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn only_what_has_changed_is_read_again() {
    let top = files(&[("a.md", "The anchor."), ("b.md", "The buoy."), ("sub/c.md", "The capstan.")]);
    let (here, add) = (top.path(), ["knowledge", "add", "k", "files"]);
    let counts =
        |added: &Value| ["new", "changed", "unchanged", "removed"].map(|what| added["added"][what].as_u64().unwrap());
    assert_eq!(counts(&ask(here, &add)), [3, 0, 0, 0]);
    assert_eq!(counts(&ask(here, &add)), [0, 0, 3, 0]);
    // As long as before, and in the same moment.
    fs::write(here.join("files/a.md"), "The anvil!.").unwrap();
    fs::remove_file(here.join("files/b.md")).unwrap();
    fs::write(here.join("files/d.md"), "The davit.").unwrap();
    // Without a path, it is what was given before.
    assert_eq!(counts(&ask(here, &["knowledge", "add", "k"])), [1, 1, 1, 1]);
    assert_eq!(places(here, "anchor"), [""; 0]);
    assert_eq!(places(here, "buoy"), [""; 0]);
    assert_eq!(places(here, "anvil"), ["files/a.md:1-1"]);
    assert_eq!(places(here, "davit capstan"), ["files/d.md:1-1", "files/sub/c.md:1-1"]);
}

#[test]
fn what_is_ignored_hidden_binary_or_too_large_is_left_out() {
    let large = "word ".repeat(300_000);
    let top = files(&[
        (".gitignore", "*.log\ntarget/\n"),
        ("a.md", "word"),
        ("a.log", "word"),
        ("target/b.md", "word"),
        (".hidden/c.md", "word"),
        ("large.md", &large),
        ("binary.md", "word\0"),
    ]);
    let here = top.path();
    fs::write(here.join("files/latin.md"), b"w\xf6rd").unwrap();
    std::os::unix::fs::symlink(here.join("files"), here.join("files/loop")).unwrap();
    let added = ask(here, &["knowledge", "add", "k", "files"])["added"].clone();
    assert_eq!(
        added,
        json!({"new": 1, "changed": 0, "unchanged": 0, "removed": 0, "passages": 1, "binary": 2, "too_large": 1, "unreadable": 0})
    );
    assert_eq!(places(here, "word"), ["files/a.md:1-1"]);
    // What is named itself is wanted.
    ask(here, &["knowledge", "add", "k", "files/a.log"]);
    assert_eq!(places(here, "word").len(), 2);
    insta::assert_snapshot!(output(here, &["knowledge", "add", "k", "files"]).1, @r"
    k: 2 files in 2 passages
      0 new, 0 changed, 2 as before, 0 gone; 0 passages made
      left out: 2 files (no text)
      left out: 1 file (larger than 1 MiB)
    ");
}

#[test]
fn what_is_removed_is_not_found_and_the_rest_is() {
    let top = files(&[("a.md", "sail"), ("sub/b.md", "sail"), ("sub/c.md", "sail")]);
    let here = top.path();
    ask(here, &["knowledge", "add", "k", "files"]);
    ask(here, &["knowledge", "add", "other", "files"]);
    assert_eq!(ask(here, &["knowledge", "remove", "k", "files/sub"]), json!({"name": "k", "removed": 2}));
    assert_eq!(places(here, "sail"), ["files/a.md:1-1"]);
    assert!(fails(here, 2, &["knowledge", "remove", "k", "files/sub"]).contains("nothing of `k` is at or beneath"));
    assert_eq!(ask(here, &["knowledge", "remove", "k"]), json!({"name": "k", "removed": 1}));
    let said = fails(here, 2, &["knowledge", "search", "k", "sail"]);
    assert!(
        said.contains("nothing is indexed under the name `k`") && said.contains("provost knowledge add k PATH"),
        "{said}"
    );
    let listed = ask(here, &["knowledge", "list"]);
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!((names, &listed[0]["files"], &listed[0]["passages"]), (vec!["other"], &json!(3), &json!(3)));
}

#[test]
fn what_was_taken_out_by_name_stays_out_until_it_is_named() {
    let top = files(&[("a.md", "sail"), ("sub/b.md", "sail"), ("sub/c.md", "sail"), ("sub/deep/d.md", "sail")]);
    let here = top.path();
    let found = |arguments: &[&str]| {
        ask(here, arguments);
        let mut places = places(here, "sail");
        places.sort();
        places.into_iter().map(|place| place.trim_end_matches(":1-1").replace("files/", "")).collect::<Vec<_>>()
    };
    let left_out = || ask(here, &["knowledge", "list"])[0]["left_out"].as_array().unwrap().len();
    let all = ["a.md", "sub/b.md", "sub/c.md", "sub/deep/d.md"];
    assert_eq!(found(&["knowledge", "add", "k", "files"]), all);
    assert_eq!(found(&["knowledge", "remove", "k", "files/sub/deep"]), all[..3]);
    assert_eq!(found(&["knowledge", "remove", "k", "files/sub"]), ["a.md"]);
    // One path says it all now.
    assert_eq!(left_out(), 1);
    for again in [&["knowledge", "add", "k"][..], &["knowledge", "add", "k", "files"], &["knowledge", "add", "k", "."]]
    {
        assert_eq!(found(again), ["a.md"], "{again:?}");
    }
    let (_, said, _) = output(here, &["knowledge", "add", "k"]);
    assert!(said.contains("files/sub (taken out before; give its path to add it again)"), "{said}");
    let (_, said, _) = output(here, &["knowledge", "list"]);
    assert!(said.contains("  without /") && said.contains("files/sub\n"), "{said}");
    // One file of what is out is wanted, and the rest is not.
    assert_eq!(found(&["knowledge", "add", "k", "files/sub/b.md"]), all[..2]);
    assert_eq!(found(&["knowledge", "add", "k"]), all[..2]);
    assert_eq!(found(&["knowledge", "add", "k", "files/sub"]), all);
    assert_eq!(left_out(), 0);
    assert_eq!(found(&["knowledge", "add", "k"]), all);
    // A file that was named by itself, beneath a directory that was, too.
    assert_eq!(found(&["knowledge", "remove", "k", "files/sub/b.md"]), ["a.md", "sub/c.md", "sub/deep/d.md"]);
    assert_eq!(found(&["knowledge", "add", "k"]), ["a.md", "sub/c.md", "sub/deep/d.md"]);
    // Under another name, and once all is taken out, nothing is remembered of it.
    ask(here, &["knowledge", "remove", "k"]);
    assert_eq!(found(&["knowledge", "add", "k", "files"]), all);
}

#[test]
fn what_is_neither_file_nor_directory_is_refused() {
    let top = files(&[("a.md", "sail")]);
    let pipe = top.path().join("files/pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in ["/dev/zero", "files/pipe"] {
        let said = fails(top.path(), 2, &["knowledge", "add", "k", path]);
        assert!(said.contains(&format!("{path} can't be indexed: it is neither a file nor a directory")), "{said}");
    }
    assert!(fails(top.path(), 2, &["knowledge", "search", "k", "sail"]).contains("nothing is indexed"));
    // Beneath a directory it is passed over.
    assert_eq!(ask(top.path(), &["knowledge", "add", "k", "files"])["added"]["new"], 1);
}

#[test]
fn what_people_read_of_a_search() {
    let text = "# Knots\n\n## Bowline\n\nA loop that does not slip.\n\n## Sheet bend\n\nJoins two ropes.\n";
    let top = files(&[("knots.md", &text.replace("slip.", &format!("slip.{}", " Rope.".repeat(60))))]);
    ask(top.path(), &["knowledge", "add", "k", "files"]);
    let (_, stdout, _) = output(top.path(), &["knowledge", "search", "k", "how do I join two ropes?", "--limit", "1"]);
    insta::assert_snapshot!(stdout, @r"
    files/knots.md:7-9  Knots > Sheet bend
        ## Sheet bend

        Joins two ropes.
    ");
}

#[test]
fn bad_input_is_said_to_be_so() {
    let top = files(&[("a.md", "sail")]);
    let here = top.path();
    for (code, arguments, reason) in [
        (2, &["knowledge", "search", "k", "sail"][..], "nothing is indexed under the name `k`"),
        (2, &["knowledge", "remove", "k"], "nothing is indexed under the name `k`"),
        (2, &["knowledge", "add", "k"], "nothing is indexed under the name `k`"),
        (2, &["knowledge", "add", "k", "files/none"], "files/none can't be indexed: No such file"),
        (2, &["knowledge", "add", "a/b", "files"], "a name has 1 to 64 letters"),
        (2, &["knowledge", "add", "k", "files", "--embeddings", "ftp://x"], "must begin with http"),
        (
            2,
            &["knowledge", "add", "k", "files", "--embeddings", "http://x", "--embeddings-key", "sk-1"],
            "never the key itself",
        ),
        (8, &["knowledge", "add", "k", "files", "--data-dir", "/proc/none"], "/proc/none/knowledge.db can't be opened"),
        (8, &["knowledge", "add", "k", "files", "--data-dir", "files/a.md"], "can't be opened"),
    ] {
        let said = fails(here, code, arguments);
        assert!(said.contains(reason), "{arguments:?}: {said}");
    }
    ask(here, &["knowledge", "add", "k", "files"]);
    assert!(fails(here, 2, &["knowledge", "search", "k", "?!"]).contains("the query has no words"));
    let long = "word ".repeat(20_000);
    assert!(fails(here, 2, &["knowledge", "search", "k", &long]).contains("100000 bytes, and may have at most 4096"));
}

#[test]
fn an_index_that_is_damaged_ends_with_8() {
    let top = files(&[("a.md", &"sail and oar\n\n".repeat(1_000))]);
    let (here, path) = (top.path(), top.path().join(".provost/knowledge.db"));
    ask(here, &["knowledge", "add", "k", "files"]);
    let whole = fs::read(&path).unwrap();
    let search = ["knowledge", "search", "k", "sail"];
    for damage in [
        &mut |bytes: &mut Vec<u8>| bytes[4096..].fill(0x5a) as (),
        &mut |bytes: &mut Vec<u8>| bytes.fill(b'x'),
        &mut |bytes: &mut Vec<u8>| bytes.truncate(9_000),
    ] as [&mut dyn FnMut(&mut Vec<u8>); 3]
    {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        fails(here, 8, &search);
        fails(here, 8, &["knowledge", "add", "k", "files"]);
    }
    fs::write(&path, whole).unwrap();
    ask(here, &search);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(fails(here, 8, &search).contains("it is no file"));
}

#[test]
fn several_processes_index_and_search_at_once() {
    let top = files(&[]);
    fs::create_dir(top.path().join("files")).unwrap();
    for number in 0..400 {
        fs::write(top.path().join(format!("files/{number}.md")), format!("sail number{number}\n")).unwrap();
    }
    let here = Arc::new(top.path().to_owned());
    ask(&here, &["knowledge", "add", "k0", "files/0.md"]);
    let add = |name: String| {
        let here = here.clone();
        std::thread::spawn(move || drop(ask(&here, &["knowledge", "add", &name, "files"])))
    };
    // Two of them at the same name.
    let adding: Vec<_> = ["k0", "k0", "k1", "k2"].map(|name| add(name.to_owned())).into_iter().collect();
    while adding.iter().any(|thread| !thread.is_finished()) {
        ask(&here, &["knowledge", "search", "k0", "sail"]);
    }
    adding.into_iter().for_each(|thread| thread.join().unwrap());
    for collection in ask(&here, &["knowledge", "list"]).as_array().unwrap() {
        assert_eq!((&collection["files"], &collection["passages"]), (&json!(400), &json!(400)), "{collection}");
    }
}

/// A network whose agent searches, and answers with what it found.
const READER: &str = r#"
[network]
name = "reader"
entry = "reader"
[agents.reader]
prompt = "You look things up."
tools = ["look"]
[tools.look]
builtin = "knowledge.search"
knowledge = "k"
labels = { reads = "internal" }
output_limit_bytes = 3_000
[policy]
default = "deny"
[sim.script]
reader = ['{"calls": [{"name": "look", "arguments": {"query": {{ input | tojson }}, "limit": 20}}]}', "{{ results[0].content | tojson }}"]
"#;

#[test]
fn agents_find_what_is_indexed_with_its_label() {
    let world = World::new(READER);
    let ask_agent =
        |query: &str| -> Value { serde_json::from_str(&world.ask_for(0, &["run", "n.toml", query])).unwrap() };
    let said = ask_agent("sail").to_string();
    assert!(said.contains("nothing is indexed under the name `k`; `provost knowledge add k PATH`"), "{said}");
    for number in 0..10 {
        fs::write(world.path().join(format!("{number}.md")), format!("# Sails\n\nsail {}", "\"canvas\" ".repeat(60)))
            .unwrap();
    }
    ask(world.path(), &["knowledge", "add", "k", "."]);
    let found = ask_agent("sail");
    let passages = found["passages"].as_array().unwrap();
    assert!(passages.len() > 1 && found["truncated"] == true && found.to_string().len() < 3_000, "{found}");
    assert_eq!((&passages[0]["at"], &passages[0]["heading"]), (&json!("0.md:1-3"), &json!("Sails")));
    assert_eq!(found["ranked_by"], "words");
    let run = world.runs()[0]["run"].as_str().unwrap().to_owned();
    let events = world.ask_for(0, &["runs", "show", &run, "--events"]);
    let returned: Value =
        serde_json::from_str(events.lines().find(|line| line.contains("tool_returned")).unwrap()).unwrap();
    assert_eq!(returned["message"]["labels"], json!(["internal"]));
    for (query, reason) in [("?!", "no words"), (&"word ".repeat(1_000)[..], "at most 4096")] {
        let said = ask_agent(query).to_string();
        assert!(said.contains(reason), "{said}");
    }
    world.ask_for(0, &["runs", "replay", "last"]);
}

/// A server that knows of a few words what they mean: those of one line mean the same.
struct Meanings {
    address: SocketAddr,
    asked: Arc<AtomicU64>,
    /// How many numbers its vectors have.
    numbers: Arc<AtomicUsize>,
}

const MEANINGS: [&[&str]; 4] =
    [&["boat", "ship", "vessel"], &["quick", "fast"], &["harbour", "port"], &["cook", "galley", "kitchen"]];

/// The most that it reads of one text, as servers do whose models have a small window.
const WINDOW_BYTES: usize = 600;

impl Meanings {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
        let numbers = Arc::new(AtomicUsize::new(MEANINGS.len() + 1));
        let (count, length) = (asked.clone(), numbers.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                answer(stream.unwrap(), length.load(Ordering::SeqCst));
            }
        });
        Self { address, asked, numbers }
    }
}

fn answer(mut stream: TcpStream, numbers: usize) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut length, mut line) = (0, String::new());
    while reader.read_line(&mut line).unwrap_or(0) > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let asked: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(asked["model"], "words");
    let texts: Vec<&str> = asked["input"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let (status, answer) = match texts.iter().all(|text| text.len() <= WINDOW_BYTES) {
        true => {
            let data = texts
                .iter()
                .enumerate()
                .map(|(index, text)| json!({"index": index, "embedding": meaning(text, numbers)}));
            ("200 OK", json!({"data": data.collect::<Vec<_>>()}))
        }
        false => ("500 Internal Server Error", json!({"error": {"message": "input is too large", "code": 500}})),
    };
    let answer = answer.to_string();
    let length = answer.len();
    // Who asked may have gone.
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{answer}"
    );
}

fn meaning(text: &str, numbers: usize) -> Vec<f32> {
    let text = text.to_lowercase();
    let says = |words: &&[&str]| words.iter().filter(|word| text.contains(**word)).count() as f32;
    MEANINGS.iter().map(says).chain(std::iter::repeat(0.1)).take(numbers).collect()
}

#[test]
fn vectors_of_another_length_are_said_to_be_useless_and_made_anew() {
    let top = files(&[("a.md", "The vessel lies at the quay."), ("b.md", "A carriage.")]);
    let (here, server) = (top.path(), Meanings::start());
    let url = format!("http://{}/v1#words", server.address);
    let add = ["knowledge", "add", "k", "--embeddings", &url];
    ask(here, &["knowledge", "add", "k", "files", "--embeddings", &url]);
    server.numbers.store(7, Ordering::SeqCst);
    let found = ask(here, &["knowledge", "search", "k", "quay"]);
    let why = "the server's vectors have 7 numbers, and those that are kept have 5; ";
    assert_eq!((&found["ranked_by"], found["passages"].as_array().unwrap().len()), (&json!("words"), 1));
    let told = found["without_vectors"].as_str().unwrap();
    assert_eq!(told, format!("{why}`provost {}` makes them anew", add.join(" ")));
    fs::write(here.join("n.toml"), READER).unwrap();
    let (code, stdout, stderr) = output(here, &["run", "n.toml", "quay"]);
    assert!(code == Some(0) && stdout.contains("vectors have 7 numbers"), "{stdout}{stderr}");
    // What it says helps; and so does anything new that is indexed.
    assert_eq!(ask(here, &add)["vectors_made"], 2);
    let by_vectors = || ask(here, &["knowledge", "search", "k", "ship"])["ranked_by"] == "words_and_vectors";
    assert!(by_vectors());
    assert_eq!(ask(here, &add)["vectors_made"], 0);
    server.numbers.store(6, Ordering::SeqCst);
    assert!(!by_vectors());
    fs::write(here.join("files/c.md"), "A horse.").unwrap();
    let added = ask(here, &["knowledge", "add", "k"]);
    assert_eq!((&added["vectors_made"], &added["collection"]["vectors"]), (&json!(3), &json!(3)));
    assert!(by_vectors());
}

#[test]
fn passages_that_have_no_vectors_yet_are_said_to_have_none() {
    let top = files(&[("a.md", "The vessel lies at the quay.")]);
    let (here, server) = (top.path(), Meanings::start());
    // No answer that can be used.
    server.numbers.store(0, Ordering::SeqCst);
    let url = format!("http://{}/v1#words", server.address);
    fails(here, 1, &["knowledge", "add", "k", "files", "--embeddings", &url]);
    server.numbers.store(5, Ordering::SeqCst);
    let found = ask(here, &["knowledge", "search", "k", "quay"]);
    assert_eq!(found["without_vectors"], "no passage has a vector yet; `provost knowledge add k` makes them");
    assert_eq!(ask(here, &["knowledge", "add", "k"])["vectors_made"], 1);
    assert_eq!(ask(here, &["knowledge", "search", "k", "quay"])["without_vectors"], Value::Null);
}

#[test]
fn vectors_find_what_has_other_words_and_a_server_that_is_down_costs_only_them() {
    let long = format!("A stove and pans, for the cook. {}", "Pots and pots. ".repeat(80));
    let top = files(&[
        ("a.md", "The vessel lies at the quay."),
        ("b.md", "A carriage with four horses."),
        ("c.md", &long),
        ("d.md", "The quay is long."),
    ]);
    let (here, server) = (top.path(), Meanings::start());
    let url = format!("http://{}/v1#words", server.address);
    let added = ask(here, &["knowledge", "add", "k", "files", "--embeddings", &url]);
    assert_eq!((&added["vectors_made"], &added["collection"]["vectors"]), (&json!(4), &json!(4)));
    let found = ask(here, &["knowledge", "search", "k", "ship"]);
    assert_eq!(
        (&found["passages"][0]["at"], &found["ranked_by"]),
        (&json!("files/a.md:1-1"), &json!("words_and_vectors"))
    );
    assert_eq!(
        ask(here, &["knowledge", "search", "k", "kitchen"])["passages"][0]["path"],
        json!(here.join("files/c.md").canonicalize().unwrap())
    );
    // What stands there and means nothing to the server is found by its word.
    assert_eq!(ask(here, &["knowledge", "search", "k", "horses"])["passages"][0]["at"], "files/b.md:1-1");
    // What has not changed is not sent again.
    let before = server.asked.load(Ordering::SeqCst);
    assert_eq!(ask(here, &["knowledge", "add", "k"])["vectors_made"], 0);
    assert_eq!(server.asked.load(Ordering::SeqCst), before);
    // The same index, and nobody there.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = format!("http://{nobody}/v1#words");
    let said = fails(here, 1, &["knowledge", "add", "k", "--embeddings", &gone]);
    assert!(said.contains("no connection to http://") && said.contains("the words are indexed"), "{said}");
    let found = ask(here, &["knowledge", "search", "k", "quay"]);
    assert_eq!((found["passages"].as_array().unwrap().len(), &found["ranked_by"]), (2, &json!("words")));
    assert!(found["without_vectors"].as_str().unwrap().contains("no connection"), "{found}");
    fs::write(here.join("n.toml"), READER).unwrap();
    let (code, stdout, stderr) = output(here, &["run", "n.toml", "quay"]);
    assert!(code == Some(0) && stdout.contains("without_vectors") && stdout.contains("a.md:1-1"), "{stdout}{stderr}");
    // And without vectors again, nobody is asked.
    assert_eq!(ask(here, &["knowledge", "add", "k", "--no-embeddings"])["collection"]["embeddings"], Value::Null);
    assert_eq!(ask(here, &["knowledge", "search", "k", "quay"])["without_vectors"], Value::Null);
}

#[test]
fn an_indexing_that_was_cut_off_goes_on() {
    let top = files(&[]);
    fs::create_dir(top.path().join("files")).unwrap();
    for number in 0..600 {
        fs::write(top.path().join(format!("files/{number}.md")), "sail ".repeat(200)).unwrap();
    }
    let here = top.path();
    let mut command = crate::process::provost(here);
    let mut child = command.args(["knowledge", "add", "k", "files"]).spawn().unwrap();
    let count = || -> usize {
        let opened = Knowledge::open(&here.join(".provost")).unwrap();
        let files = opened.map(|knowledge| knowledge.collection("k").map_or(0, |found| found.files));
        files.unwrap_or(0) as usize
    };
    while count() == 0 && child.try_wait().unwrap().is_none() {}
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = count();
    assert!(kept > 0);
    let added = ask(here, &["knowledge", "add", "k"])["added"].clone();
    assert_eq!((&added["new"], &added["unchanged"]), (&json!(600 - kept), &json!(kept)));
    let knowledge = Knowledge::open(&here.join(".provost")).unwrap().unwrap();
    assert_eq!(knowledge.search("k", "sail", None, 1_000).unwrap().passages.len(), 600);
    assert!(matches!(knowledge.search("none", "sail", None, 1), Err(Error::NotIndexed { .. })));
}
