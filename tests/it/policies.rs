//! Policies on the command line: checked, tried, explained, and read again.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use provost::run::{Ballot, Event, Ruling, RunId, publish_tool};
use provost::runtime::{Host, Recorder, RunHandle, RunRequest, check_policies, policy_vocabulary};
use provost::spec::{Network, Permission};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{output, provost, signal, wait, wait_for};

/// A writer who may write beneath `docs`, is asked about the rest, and may not write keys.
const NETWORK: &str = r##"
[network]
name = "office"
entry = "writer"
[policy]
file = "office.cedar"
default = "deny"
[models.small]
[agents.writer]
prompt = "Write."
model = { prefer = "small" }
tools = ["write", "nap"]
delegates_to = ["reader"]
publishes = ["news"]
[agents.reader]
prompt = "Read."
model = { prefer = "small" }
delegates_to = ["copyist"]
[agents.copyist]
prompt = "Copy."
model = { prefer = "small" }
tools = ["write"]
[tools.write]
builtin = "fs.write"
root = "."
[tools.nap]
builtin = "clock.sleep"
[[routes]]
from = "#news"
to = "reader"
[sim.script]
writer = [
  '{"calls": [{"name": "write", "arguments": {"path": "docs/a", "text": "x"}}]}',
  '{"calls": [{"name": "write", "arguments": {"path": "docs/key", "text": "x"}}]}',
  '{"calls": [{"name": "write", "arguments": {"path": "src/a", "text": "x"}}]}',
  'done',
]
"##;

const POLICIES: &str = r#"
@id("docs")
permit (principal, action == Action::"call_tool:write", resource)
when { context.arguments.path like "docs/*" };

@id("elsewhere")
@ask("it is no documentation")
@approvers("ana, ben")
permit (principal == Agent::"writer", action == Action::"call_tool:write", resource)
unless { context.arguments.path like "docs/*" };

@id("keys")
@reason("nobody writes keys")
forbid (principal, action in Action::"call_tool", resource)
when { context has arguments && context.json like "*key*" };

@id("naps")
permit (principal, action == Action::"call_tool:nap", resource);

@id("broke")
forbid (principal, action == Action::"call_model", resource)
when { context.spent.tokens > 1000 || context.depth > 2 };
"#;

fn office(policies: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("n.toml"), NETWORK).unwrap();
    fs::write(dir.path().join("office.cedar"), policies).unwrap();
    fs::create_dir(dir.path().join("docs")).unwrap();
    fs::create_dir(dir.path().join("src")).unwrap();
    dir
}

/// Replaces what differs from run to run: ids of runs and hashes.
fn redacted(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for char in text.chars().chain(['\n']) {
        if char.is_ascii_alphanumeric() {
            word.push(char);
            continue;
        }
        let is_hex = word.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let is_run = word.len() == 26 && word.starts_with("01");
        out.push_str(match word.len() {
            26 if is_run => "RUN",
            12 | 64 if is_hex => "HASH",
            // How many tokens there are follows from how tools are described.
            3..12 if word.bytes().all(|byte| byte.is_ascii_digit()) => "NUMBER",
            _ => &word,
        });
        word.clear();
        out.push(char);
    }
    out.pop();
    out
}

#[test]
fn check_says_of_policies_what_it_says_of_networks() {
    let dir = office(POLICIES);
    let (code, stdout, stderr) = output(dir.path(), &["check", "n.toml"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout.lines().next(), Some("office: ok · 3 agents · 1 model · 2 tools · 5 policies"));

    let dir = office(&format!("{POLICIES}\nforbid (principal, action == Action::\"call_tool:nap\", resource);\n"));
    let (code, stdout, stderr) = output(dir.path(), &["check", "n.toml"]);
    assert_eq!(code, Some(0));
    insta::assert_snapshot!("policies_warned", stderr);
    assert_eq!(stdout.lines().next(), Some("office: ok · 3 agents · 1 model · 2 tools · 6 policies · 1 warning"));
    let (_, stdout, _) = output(dir.path(), &["check", "n.toml", "--json"]);
    let said: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(said["diagnostics"][0]["code"], "contradiction");
    assert_eq!((&said["valid"], &said["policies"]), (&true.into(), &6.into()));

    // Two that always ask together, and nobody whom both name.
    let asks = |who: &str| {
        format!("@ask(\"x\") @approvers(\"{who}\") permit (principal, action == Action::\"call_tool:nap\", resource);")
    };
    for (others, is_quarrel) in [("ben", true), ("ana, ben", false)] {
        let dir = office(&format!("{POLICIES}\n{}\n{}\n", asks("ana"), asks(others)));
        let (code, _, stderr) = output(dir.path(), &["check", "n.toml"]);
        let said = "never lets anything happen: `policy6` asks about all of it, too";
        assert_eq!((code, stderr.contains(said)), (Some(0), is_quarrel), "{stderr}");
    }

    let wrong = POLICIES.replace("call_tool:write", "call_tool:wrote").replace("Agent::\"writer\"", "Agent::\"riter\"");
    let dir = office(&wrong);
    let (code, stdout, stderr) = output(dir.path(), &["check", "n.toml"]);
    assert_eq!((code, stdout.as_str()), (Some(3), ""));
    insta::assert_snapshot!("policies_wrong", stderr);
    let (code, stdout, told) = output(dir.path(), &["check", "n.toml", "--json"]);
    assert_eq!((code, told.as_str()), (Some(3), ""));
    let said: Value = serde_json::from_str(&stdout).unwrap();
    let first = &said["diagnostics"][0];
    assert_eq!((&said["valid"], &first["file"]), (&false.into(), &"office.cedar".into()));
    assert_eq!((&first["line"], &first["column"]), (&3.into(), &30.into()));

    // What begins a run says the very same, and begins none.
    let (code, stdout, told) = output(dir.path(), &["run", "n.toml", "go"]);
    assert_eq!((code, stdout.as_str()), (Some(3), ""));
    assert!(told.ends_with(&stderr), "{told}");
    let (_, listed, _) = output(dir.path(), &["runs", "list", "--json"]);
    assert_eq!(listed.trim(), "[]");
}

#[test]
fn a_run_goes_on_by_the_policies_of_the_present_or_not_at_all() {
    let dir = office(POLICIES);
    let (code, ..) = output(dir.path(), &["run", "n.toml", "go"]);
    assert_eq!(code, Some(6), "it awaits approval");
    fs::write(dir.path().join("office.cedar"), POLICIES.replace("docs/*", "docs/*\" && \"")).unwrap();
    let (_, _, expected) = output(dir.path(), &["check", "n.toml"]);
    assert!(expected.contains("error[policy_misfit]"), "{expected}");
    for arguments in [&["runs", "resume", "last"][..], &["runs", "fork", "last", "--at", "4"]] {
        let (code, stdout, stderr) = output(dir.path(), arguments);
        assert_eq!((code, stdout.as_str()), (Some(3), ""), "{arguments:?}: {stderr}");
        assert!(stderr.ends_with(&expected), "{stderr}");
    }
    fs::write(dir.path().join("office.cedar"), POLICIES).unwrap();
    assert_eq!(output(dir.path(), &["runs", "resume", "last"]).0, Some(6), "it still awaits approval");
}

/// Runs a command that may hang, and is killed then.
fn within_patience(dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut child = provost(dir).args(arguments).spawn().unwrap();
    let code = wait(&mut child);
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    (code, said)
}

fn make_fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_run_goes_on_by_its_kept_policies_only_where_the_file_is_gone() {
    let dir = office(POLICIES);
    let file = dir.path().join("office.cedar");
    assert_eq!(output(dir.path(), &["run", "n.toml", "go"]).0, Some(6));
    let events = || output(dir.path(), &["runs", "show", "last", "--json"]).1;
    let before = events();
    let ways: [(&str, &dyn Fn()); 4] = [
        ("is no UTF-8 text", &|| fs::write(&file, b"// \xff").unwrap()),
        ("is larger than", &|| fs::write(&file, " ".repeat(1024 * 1024 + 1)).unwrap()),
        ("is a directory", &|| fs::create_dir(&file).unwrap()),
        ("is no regular file", &|| make_fifo(&file)),
    ];
    for (why, spoil) in ways {
        fs::remove_file(&file).or_else(|_| fs::remove_dir(&file)).unwrap();
        spoil();
        for arguments in [&["runs", "resume", "last"][..], &["runs", "fork", "last", "--at", "4"]] {
            let (code, said) = within_patience(dir.path(), arguments);
            assert_eq!(code, Some(3), "{why}: {said}");
            assert!(said.contains("error[bad_policy]") && said.contains(&format!("the policy file {why}")), "{said}");
        }
        assert_eq!(events(), before, "{why}");
    }
    // Mended, it goes on; and so it does where the file is gone.
    fs::remove_file(&file).unwrap();
    fs::write(&file, POLICIES).unwrap();
    assert_eq!(output(dir.path(), &["runs", "resume", "last"]).0, Some(6));
    fs::remove_file(&file).unwrap();
    approve(dir.path(), "ana");
    let (code, stdout, stderr) = output(dir.path(), &["runs", "resume", "last"]);
    assert_eq!((code, stdout.trim()), (Some(0), "done"), "{stderr}");
    assert!(stderr.contains("the policies that are kept with the run hold"), "{stderr}");
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let dir = office(POLICIES);
    let file = dir.path().join("office.cedar");
    fs::remove_file(&file).unwrap();
    make_fifo(&file);
    let (code, said) = within_patience(dir.path(), &["check", "n.toml"]);
    assert_eq!(code, Some(3));
    assert!(said.contains("the policy file `office.cedar` is no regular file"), "{said}");
    make_fifo(&dir.path().join("t.toml"));
    let (code, said) = within_patience(dir.path(), &["policy", "test", "t.toml"]);
    assert_eq!(code, Some(3));
    assert!(said.contains("the table is no regular file"), "{said}");
}

#[test]
fn a_file_may_begin_with_a_byte_order_mark() {
    let dir = office(&format!("\u{feff}{POLICIES}"));
    assert_eq!(output(dir.path(), &["check", "n.toml"]).0, Some(0));
    assert_eq!(cases(dir.path(), &format!("\u{feff}{CASES}")).0, Some(0));
    fs::write(dir.path().join("office.cedar"), "\u{feff}permit (principal == Agent::\"riter\", action, resource);")
        .unwrap();
    let (code, stdout, _) = output(dir.path(), &["check", "n.toml", "--json"]);
    let said: Value = serde_json::from_str(&stdout).unwrap();
    let found = &said["diagnostics"][0];
    assert_eq!((code, &found["line"], &found["column"]), (Some(3), &1.into(), &22.into()), "{said}");
}

const CASES: &str = r##"
network = "n.toml"

[[cases]]
name = "documentation"
agent = "writer"
tool = "write"
arguments = { path = "docs/a", text = "x" }
expect = "allow"
by = ["docs"]

[[cases]]
agent = "writer"
tool = "write"
arguments = { path = "src/a", text = "x" }
approved = ["write"]
expect = "ask"

[[cases]]
agent = "copyist"
tool = "write"
arguments = { path = "src/a", text = "x" }
expect = "deny"
by = []

[[cases]]
name = "a run that is broke"
agent = "writer"
model = "small"
max_output_tokens = 10
labels = ["private"]
tenant = "acme"
session = "1"
spent = { cost_usd = 0.5, tokens = 1_001, model_calls = 1, tool_calls = 2, steps = 3 }
now = 2026-03-01T12:00:00Z
expect = "deny"
by = ["broke"]

[[cases]]
agent = "writer"
delegate = "reader"
message = "hello"
expect = "allow"

[[cases]]
agent = "writer"
publish = "news"
message = "hello"
expect = "allow"
"##;

fn cases(dir: &Path, text: &str) -> (Option<i32>, String, String) {
    fs::write(dir.join("t.toml"), text).unwrap();
    output(dir, &["policy", "test", "t.toml"])
}

#[test]
fn a_table_of_cases_says_which_are_decided_otherwise() {
    let dir = office(POLICIES);
    let (code, stdout, stderr) = cases(dir.path(), CASES);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    insta::assert_snapshot!("policies_tested", stdout);

    let wrong = CASES.replace("tokens = 1_001", "tokens = 1_000").replace("by = [\"docs\"]", "by = [\"elsewhere\"]");
    let wrong = wrong
        .replace("delegate = \"reader\"", "delegate = \"readr\"")
        .replace("publish = \"news\"", "hand_off = \"x\"");
    let wrong = wrong.replacen("{ path = \"src/a\", text = \"x\" }", "{ path = 1 }", 1);
    let wrong = wrong.replace("by = []", "by = [\"doc\"]");
    let (code, stdout, stderr) = cases(dir.path(), &wrong);
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    insta::assert_snapshot!("policies_failed", stdout);
    let (code, stdout, _) = output(dir.path(), &["policy", "test", "t.toml", "--json"]);
    assert_eq!(code, Some(1));
    let said: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&said["passed"], &said["failed"], &said["errors"]), (&0.into(), &2.into(), &4.into()));
    insta::assert_snapshot!("policies_failed_json", format!("{:#}", said["cases"][0]));
}

#[test]
fn a_case_that_can_not_come_about_is_no_case() {
    let dir = office(POLICIES);
    let text = NETWORK.replace("[models.small]", "[models.small]\n[models.big]").replacen("\"small\"", "\"big\"", 1);
    let text = text.replace("prompt = \"Read.\"", "prompt = \"Read.\"\non_error = \"route:copyist\"");
    fs::write(dir.path().join("n.toml"), text).unwrap();
    let case = |agent: &str, what: &str| format!("[[cases]]\nagent = \"{agent}\"\n{what}\nexpect = \"allow\"\n");
    let cases = [
        case("reader", "tool = \"nap\"\narguments = { duration = \"1s\" }"),
        case("reader", "model = \"big\""),
        case("writer", "delegate = \"copyist\""),
        case("writer", "delegate = \"writer\""),
        case("writer", "hand_off = \"reader\""),
        case("reader", "publish = \"news\""),
        // These can.
        case("writer", "tool = \"nap\"\narguments = { duration = \"1s\" }"),
        case("writer", "model = \"big\""),
        case("reader", "delegate = \"copyist\""),
        case("reader", "hand_off = \"copyist\""),
    ];
    let (code, stdout, stderr) = self::cases(dir.path(), &format!("network = \"n.toml\"\n{}", cases.concat()));
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    insta::assert_snapshot!("policies_impossible", stdout);
}

#[test]
fn the_model_of_a_network_that_has_none_has_a_name() {
    let forbids = "@id(\"no\") forbid (principal, action == Action::\"call_model\", resource == Model::\"sim\");";
    let dir = office(forbids);
    let text = NETWORK.replace("[models.small]\n", "").replace("model = { prefer = \"small\" }\n", "");
    fs::write(dir.path().join("n.toml"), text).unwrap();
    let case = |model: &str| {
        let case = format!("[[cases]]\nagent = \"writer\"\nmodel = \"{model}\"\nexpect = \"deny\"\nby = [\"no\"]");
        cases(dir.path(), &format!("network = \"n.toml\"\n{case}"))
    };
    assert_eq!(case("sim").0, Some(0), "{}", case("sim").1);
    let (code, stdout, _) = case("small");
    assert_eq!(code, Some(1));
    assert!(stdout.contains("there is no model `small`"), "{stdout}");
    // A run asks about the same.
    let (code, _, stderr) = output(dir.path(), &["run", "n.toml", "go"]);
    assert_ne!(code, Some(0), "{stderr}");
    let (_, stdout, _) = output(dir.path(), &["policy", "explain", "last", "writer#1"]);
    assert!(stdout.contains("writer asks the model sim") && stdout.contains("deny by no"), "{stdout}");
}

#[test]
fn what_a_person_edited_is_explained_as_it_came_to_the_gate() {
    let dir = office(POLICIES);
    assert_eq!(output(dir.path(), &["run", "n.toml", "go"]).0, Some(6));
    let arguments = serde_json::json!({ "path": "docs/the key", "text": "x" });
    say(dir.path(), Ballot { by: "ana".into(), ruling: Ruling::Edit { arguments }, ..Ballot::of(true) });
    let (code, stdout, stderr) = output(dir.path(), &["runs", "resume", "last"]);
    assert_eq!((code, stdout.trim()), (Some(0), "done"), "{stderr}");
    let (_, stdout, _) = output(dir.path(), &["policy", "explain", "last", "writer#3.0"]);
    insta::assert_snapshot!("policies_explained_edited", redacted(&stdout));
}

#[test]
fn a_table_that_is_none_is_refused_with_its_place() {
    let dir = office(POLICIES);
    let mut told = String::new();
    for wrong in [
        CASES.replacen("tool = \"write\"", "tol = \"write\"", 1),
        CASES.replacen("tool = \"write\"", "", 1),
        CASES.replacen("tool = \"write\"", "tool = \"write\"\nmodel = \"small\"", 1),
        CASES.replace("expect = \"ask\"", "expect = \"maybe\""),
        CASES.replace("now = 2026-03-01T12:00:00Z", "now = \"2026-03-01\""),
        CASES.replace("max_output_tokens = 10", "max_output_tokens = 10\nmessage = \"hello\""),
        CASES.replace("cost_usd = 0.5", "cost_usd = -0.5"),
        "network = \"n.toml\"".to_owned(),
        "network = \"n.toml\"\n[[cases]]\nagent = \"a\nexpect".to_owned(),
        CASES.replace("network = \"n.toml\"", "network = \"none.toml\""),
    ] {
        let (code, stdout, stderr) = cases(dir.path(), &wrong);
        assert_eq!((code, stdout.as_str()), (Some(3), ""), "{stderr}");
        told += &stderr;
    }
    // All that is wrong with a case is said, and what a tool could never be given is refused.
    let (code, _, stderr) = cases(
        dir.path(),
        &CASES
            .replace("text = \"x\" }\nexpect = \"allow\"", "text = [nan] }\nexpect = \"allow\"")
            .replacen("model = \"small\"\n", "", 1)
            .replace("now = 2026-03-01T12:00:00Z", "now = \"2026-03-01\""),
    );
    assert_eq!(code, Some(3));
    for what in ["`nan` and `inf` are no numbers", "a case is about one call", "this is no point in time"] {
        assert!(stderr.contains(what), "{what}: {stderr}");
    }
    let (code, _, stderr) = output(dir.path(), &["policy", "test", "nowhere.toml"]);
    assert_eq!(code, Some(3));
    insta::assert_snapshot!("policies_bad_tables", told + &stderr);
    let (code, stdout, stderr) = output(dir.path(), &["policy", "test", "nowhere.toml", "--json"]);
    assert_eq!((code, stderr.as_str()), (Some(3), ""));
    assert!(stdout.contains("\"valid\": false"), "{stdout}");
    let (code, ..) = cases(office("permit (").path(), CASES);
    assert_eq!(code, Some(3), "the policies are wrong");
    assert_eq!(output(dir.path(), &["policy", "test"]).0, Some(2));
}

#[test]
fn a_case_has_its_own_name_in_json() {
    let dir = office(POLICIES);
    let name = format!("\u{202e}{}", "x".repeat(300));
    fs::write(
        dir.path().join("t.toml"),
        CASES.replace("\"documentation\"", &format!("{name:?}").replace("\\u{202e}", "\\u202e")),
    )
    .unwrap();
    let (code, stdout, stderr) = output(dir.path(), &["policy", "test", "t.toml", "--json"]);
    let said: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, said["cases"][0]["name"].as_str()), (Some(0), Some(name.as_str())), "{stderr}");
}

#[test]
fn a_call_is_explained_by_what_is_on_record_and_by_what_holds_now() {
    let dir = office(POLICIES);
    assert_eq!(output(dir.path(), &["run", "n.toml", "go"]).0, Some(6));
    let explain = |call: &str| {
        let (code, stdout, stderr) = output(dir.path(), &["policy", "explain", "last", call]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        redacted(&stdout)
    };
    let kept = ["writer#1.0", "writer#2.0", "writer#3.0", "writer#3"].map(explain).join("\n");
    insta::assert_snapshot!("policies_explained", kept);
    approve(dir.path(), "ana");
    insta::assert_snapshot!("policies_explained_approved", explain("writer#3.0"));
    fs::write(
        dir.path().join("office.cedar"),
        POLICIES.replace("@ask(\"it is no documentation\")\n@approvers(\"ana, ben\")\n", ""),
    )
    .unwrap();
    insta::assert_snapshot!("policies_explained_otherwise", explain("writer#3.0"));
    fs::write(dir.path().join("office.cedar"), "permit (principal").unwrap();
    insta::assert_snapshot!("policies_explained_without", explain("writer#3.0"));
    let (_, stdout, _) = output(dir.path(), &["policy", "explain", "last", "writer#3.0", "--json"]);
    let said: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(said["record"][0]["kind"], "policy_decided");
    assert_eq!((&said["now"][0]["permission"], &said["now"][0]["by"][0]), (&"ask".into(), &"elsewhere".into()));
    assert_eq!(said["now"][1]["diagnostics"][0]["code"], "bad_policy");
    assert_eq!(said["asked"]["spent"]["model_calls"], 3);

    for (run, call) in [("last", "writer#9"), ("last", "what"), ("nope", "writer#1")] {
        let (code, stdout, stderr) = output(dir.path(), &["policy", "explain", run, call]);
        assert_eq!((code, stdout.as_str()), (Some(2), ""));
        assert!(stderr.contains("hint: "), "{stderr}");
    }
}

#[test]
fn what_was_denied_is_explained_by_what_the_model_wanted() {
    let dir =
        office("@id(\"alone\") forbid (principal, action in [Action::\"delegate\", Action::\"publish\"], resource);");
    let said = r#"'{"calls": [{"name": "ask_reader", "arguments": {"message": "hi"}}, {"name": "PUBLISH", "arguments": {"message": "hi"}}]}',"#;
    let script = said.replace("PUBLISH", &publish_tool("news"));
    let begun = NETWORK.find("writer = [").unwrap() + "writer = [".len();
    let text = format!("{}\n  {script}\n  'done',\n]\n", &NETWORK[..begun]);
    fs::write(dir.path().join("n.toml"), text).unwrap();
    assert_eq!(output(dir.path(), &["run", "n.toml", "go"]).0, Some(0));
    for (call, wants) in [("writer#1.0", "writer asks reader"), ("writer#1.1", "writer publishes on news")] {
        let (_, stdout, _) = output(dir.path(), &["policy", "explain", "last", call]);
        assert!(stdout.contains(&format!("{call} of run ")) && stdout.contains(wants), "{stdout}");
        assert!(stdout.contains("deny by alone: policy forbids this call (`alone`)"), "{stdout}");
        let (_, stdout, _) = output(dir.path(), &["policy", "explain", "last", call, "--json"]);
        let said: Value = serde_json::from_str(&stdout).unwrap();
        let subject = said["asked"]["subject"].as_object().unwrap().values().next().unwrap();
        assert_eq!(subject["message"], "hi");
    }
}

/// Says yes to the only call that awaits approval.
fn approve(dir: &Path, by: &str) {
    say(dir, Ballot { by: by.into(), ..Ballot::of(true) });
}

/// Says something of the only call that awaits approval.
fn say(dir: &Path, ballot: Ballot) {
    let (_, stdout, _) = output(dir, &["runs", "list", "--json"]);
    let listed: Value = serde_json::from_str(&stdout).unwrap();
    let run = RunId::new(listed[0]["run"].as_str().unwrap());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let host = Host::new(Recorder::open(&dir.join(".provost"), false).unwrap());
        host.approve(&run, None, &ballot).await.unwrap();
        host.shutdown().await.unwrap();
    });
}

#[test]
fn without_a_policy_file_the_default_is_said_to_decide() {
    let dir = tempfile::tempdir().unwrap();
    let text = NETWORK.replace("file = \"office.cedar\"\n", "").replace("default = \"deny\"", "default = \"ask\"");
    fs::write(dir.path().join("n.toml"), text).unwrap();
    assert_eq!(output(dir.path(), &["run", "n.toml", "go"]).0, Some(6));
    let (code, stdout, _) = output(dir.path(), &["policy", "explain", "last", "writer#1.0"]);
    assert_eq!(code, Some(0));
    insta::assert_snapshot!("policies_default", redacted(&stdout));
    let (code, stdout, _) = output(dir.path(), &["policy", "schema", "n.toml"]);
    assert_eq!(code, Some(0));
    let schema: Value = serde_json::from_str(&stdout).unwrap();
    let arguments = &schema[""]["actions"]["call_tool:write"]["appliesTo"]["context"]["attributes"]["arguments"];
    assert_eq!(arguments["attributes"]["path"]["type"], "String");
}

#[test]
fn the_schema_is_one_that_cedar_reads_in_both_its_forms() {
    let dir = office(POLICIES);
    let (code, stdout, stderr) = output(dir.path(), &["policy", "schema", "n.toml"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    cedar_policy::Schema::from_json_str(&stdout).unwrap_or_else(|error| panic!("{error}"));
    let (code, stdout, stderr) = output(dir.path(), &["policy", "schema", "n.toml", "--cedar"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let (schema, _) = cedar_policy::Schema::from_cedarschema_str(&stdout).unwrap_or_else(|error| panic!("{error}"));
    let set: cedar_policy::PolicySet = POLICIES.parse().unwrap();
    let validator = cedar_policy::Validator::new(schema);
    assert!(validator.validate(&set, cedar_policy::ValidationMode::Strict).validation_passed());
    assert_eq!(output(dir.path(), &["policy", "schema", "none.toml"]).0, Some(3));
}

#[test]
fn the_policies_of_runs_under_way_are_read_again() {
    let dir = office(POLICIES);
    let said = |arguments: &[&str]| output(dir.path(), arguments);
    let (code, stdout, stderr) = said(&["policy", "reload"]);
    assert_eq!((code, stdout.as_str()), (Some(0), ""));
    insta::assert_snapshot!("policies_nothing", stderr);
    assert_eq!(said(&["policy", "reload", "--json"]).1.trim(), "[]");

    let asleep = NETWORK.replace(
        "writer = [",
        "writer = [\n  '{\"calls\": [{\"name\": \"nap\", \"arguments\": {\"duration\": \"10m\"}}]}',",
    );
    fs::write(dir.path().join("n.toml"), asleep).unwrap();
    let mut child = provost(dir.path()).args(["run", "n.toml", "go"]).spawn().unwrap();
    let _stderr = wait_for(&mut child, "calls nap");
    let (code, stdout, _) = said(&["policy", "reload"]);
    assert_eq!((code, redacted(&stdout).as_str()), (Some(0), "office: as before (HASH)\n"));
    fs::write(dir.path().join("office.cedar"), format!("{POLICIES}\n// more\n")).unwrap();
    let (code, stdout, _) = said(&["policy", "reload"]);
    assert_eq!(code, Some(0));
    insta::assert_snapshot!("policies_reloaded", redacted(&stdout));

    // What is wrong is said by the process that holds the store as by this one, whether it reads again or begins a run.
    fs::write(dir.path().join("office.cedar"), POLICIES.replace("context.depth", "context.dpth")).unwrap();
    let (code, _, expected) = said(&["check", "n.toml"]);
    assert_eq!(code, Some(3));
    for arguments in [&["policy", "reload"][..], &["run", "n.toml", "go"]] {
        let (code, stdout, stderr) = said(arguments);
        assert_eq!((code, stdout.as_str()), (Some(3), ""), "{arguments:?}: {stderr}");
        assert!(stderr.ends_with(&expected), "{arguments:?}: {stderr}");
    }
    let (_, stdout, _) = said(&["runs", "show", "last"]);
    assert!(stdout.contains("other policies hold from here on"), "{stdout}");
    signal(&child, Signal::INT);
    assert_eq!(wait(&mut child), Some(130));
}

#[test]
fn what_a_route_brings_is_no_action_of_an_agent() {
    let agents = r#"action in [Action::"delegate", Action::"hand_off", Action::"publish"]"#;
    let dir = office(&format!("@id(\"alone\") forbid (principal, {agents}, resource);"));
    let text = NETWORK.replace("from = \"#news\"", "from = \"writer\"").replace("publishes = [\"news\"]\n", "");
    let begun = text.find("writer = [").unwrap();
    fs::write(dir.path().join("n.toml"), format!("{}writer = ['written']\nreader = ['read']\n", &text[..begun]))
        .unwrap();
    let (code, stdout, stderr) = output(dir.path(), &["run", "n.toml", "go"]);
    assert_eq!((code, stdout.trim()), (Some(0), "read"), "{stderr}");
}

/// Follows a run to its nap; returns what was decided on what it wrote before, and by which policies.
async fn followed(run: &RunHandle) -> (Permission, Vec<Arc<str>>) {
    let (mut events, mut said) = (run.events(), None);
    loop {
        match &events.next().await.unwrap().event {
            Event::PolicyDecided { call, permission, policies, .. } if call.step == 1 && call.index.is_some() => {
                said = Some((*permission, policies.clone()));
            }
            Event::CallIntended { subject, .. } if subject.name() == "nap" => return said.unwrap(),
            _ => {}
        }
    }
}

#[tokio::test]
async fn what_starts_a_run_is_decided_by_the_file_as_it_reads_it_whatever_was_reloaded() {
    let naps = "permit (principal, action == Action::\"call_tool:nap\", resource);";
    let strict = format!("@id(\"strict\") forbid (principal, action == Action::\"call_tool:write\", resource); {naps}");
    let loose = format!("@id(\"loose\") permit (principal, action == Action::\"call_tool:write\", resource); {naps}");
    let dir = office(&strict);
    let path = dir.path();
    let begun = NETWORK.find("'{\"calls\": [{\"name\": \"write\", \"arguments\": {\"path\": \"docs/key").unwrap();
    let asleep = "'{\"calls\": [{\"name\": \"nap\", \"arguments\": {\"duration\": \"10m\"}}]}', 'done'";
    fs::write(path.join("n.toml"), format!("{}{asleep}]", &NETWORK[..begun])).unwrap();
    let host = Host::new(Recorder::open(&path.join(".provost"), false).unwrap());
    let put = |policies: &str| fs::write(path.join("office.cedar"), policies).unwrap();
    let start = async || {
        let network = Network::load(&path.join("n.toml")).unwrap().network;
        let request = RunRequest { directory: Some(path.to_owned()), ..RunRequest::new("go") };
        host.start(network, request).await.unwrap()
    };
    let by_strict = (Permission::Deny, vec![Arc::from("strict")]);
    let by_loose = (Permission::Allow, vec![Arc::from("loose")]);
    let first = start().await;
    assert_eq!(followed(&first).await, by_strict);
    put(&loose);
    assert_eq!(host.reload_policies().await.unwrap().len(), 1);
    // What was reloaded is in no file any more.
    put(&strict);
    let second = start().await;
    assert_eq!(followed(&second).await, by_strict);
    put(&loose);
    let third = start().await;
    assert_eq!(followed(&third).await, by_loose);

    // Each is told of what changes for it, and of nothing else; what changes alike is said once.
    put(&strict);
    let reloaded = host.reload_policies().await.unwrap();
    assert_eq!(reloaded.iter().filter(|one| one.before == one.now).count(), 1, "{reloaded:?}");
    assert_eq!(reloaded.len(), 2, "{reloaded:?}");
    let fourth = start().await;
    assert_eq!(followed(&fourth).await, by_strict);
    let ids = [first, second, third, fourth].map(|run| run.id().clone());
    host.shutdown().await.unwrap();
    let recorder = Recorder::open(&path.join(".provost"), false).unwrap();
    let changed = ids.map(|run| {
        let past = recorder.whole_past(&run).unwrap();
        past.events.iter().filter(|envelope| matches!(envelope.event, Event::PolicyChanged { .. })).count()
    });
    assert_eq!(changed, [2, 0, 1, 0]);
}

#[test]
fn the_shipped_policies_decide_as_their_table_says() {
    let (code, stdout, _) = output(Path::new("."), &["policy", "test", "networks/policies/policy_test.toml"]);
    assert_eq!(code, Some(0), "{stdout}");
    let network = Network::load(Path::new("networks/policy.toml")).unwrap().network;
    let policies = check_policies(&network).unwrap().policies;
    assert_eq!(policies.ids().count(), 4);
    assert!(policy_vocabulary(&network).unwrap().to_cedar().unwrap().contains("call_tool:run"));
}
