//! The command line: what goes where, and exit codes.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use assert_cmd::cargo::CommandCargoExt;

const VALID: &str = "[network]\nname = \"n\"\nentry = \"a\"\n[agents.a]\nprompt = \"x\"\n";

/// Runs the command in a directory; returns its exit code, stdout and stderr.
fn provost(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::cargo_bin("provost").unwrap().args(arguments).current_dir(directory).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn check_says_what_a_run_can_cost() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("n.toml"), VALID).unwrap();
    let (code, stdout, stderr) = provost(dir.path(), &["check", "n.toml"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    insta::assert_snapshot!(stdout, @r"
    n: ok · 1 agent · 0 models · 0 tools
    one run at most:
      cost         $0.00 (no model that it uses costs anything)
      tokens       no bound ([network.limits] sets no `tokens`)
      model calls  20 (`max_steps` of the agent `a`)
      time         no bound ([network.limits] sets no `deadline`)
    ");
}

#[test]
fn check_refuses_with_code_3_and_says_why_on_stderr() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("n.toml"), VALID.replace("prompt", "promt")).unwrap();
    let (code, stdout, stderr) = provost(dir.path(), &["check", "n.toml"]);
    assert_eq!((code, stdout.as_str()), (3, ""));
    insta::assert_snapshot!(stderr, @r#"
    error[unknown_key]: unknown key `promt` in [agents.a]
     --> n.toml:5:1
      |
    5 | promt = "x"
      | ^^^^^ no such key here
      = help: did you mean `prompt`?

    n.toml is no valid network: 1 problem
    "#);
    let (code, stdout, stderr) = provost(dir.path(), &["check", "n.toml", "--json"]);
    assert_eq!((code, stderr.as_str()), (3, ""));
    insta::assert_snapshot!(stdout, @r#"
    {
      "valid": false,
      "diagnostics": [
        {
          "severity": "error",
          "code": "unknown_key",
          "message": "unknown key `promt` in [agents.a]",
          "help": "did you mean `prompt`?",
          "path": "agents.a.promt",
          "file": "n.toml",
          "line": 5,
          "column": 1
        }
      ]
    }
    "#);
}

#[test]
fn files_that_are_no_network_files() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    write("empty.toml", b"");
    write("comment.toml", b"# nothing\n\n");
    write("binary.toml", b"name\n = \x00\x01");
    write("latin.toml", b"[network]\nname = \"caf\xe9\"\n");
    write("utf16.toml", &[0xff, 0xfe, b'[', 0]);
    write("bom.toml", format!("\u{feff}{VALID}").as_bytes());
    write("crlf.toml", VALID.replace('\n', "\r\n").as_bytes());
    write("huge.toml", &vec![b'#'; 1024 * 1024 + 1]);
    write("largest.toml", format!("{VALID}#{}", "x".repeat(1024 * 1024 - VALID.len() - 1)).as_bytes());
    fs::create_dir(dir.path().join("dir")).unwrap();
    write("dir/network.toml", VALID.as_bytes());
    let mut told = String::new();
    for file in ["empty", "comment", "binary", "latin", "utf16", "huge", "emtpy"] {
        let (code, stdout, stderr) = provost(dir.path(), &["check", &format!("{file}.toml")]);
        assert_eq!((code, stdout.as_str()), (3, ""), "{file}: {stderr}");
        told.push_str(&stderr);
    }
    let (code, _, stderr) = provost(dir.path(), &["check", "dir"]);
    assert_eq!(code, 3);
    told.push_str(&stderr);
    let (code, _, stderr) = provost(dir.path(), &["check", "nowhere/n.toml"]);
    assert_eq!(code, 3);
    told.push_str(&stderr);
    insta::assert_snapshot!("no_network_files", told);
    for file in ["bom", "crlf", "largest"] {
        let (code, _, stderr) = provost(dir.path(), &["check", &format!("{file}.toml")]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{file}");
    }
}

#[test]
fn a_new_network_is_valid_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = provost(dir.path(), &["new", "first steps"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("network.toml"));
    let (code, stdout, stderr) = provost(dir.path(), &["check", "first steps/network.toml"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("first-steps: ok"));
    let before = fs::read(dir.path().join("first steps/network.toml")).unwrap();
    fs::remove_file(dir.path().join("first steps/README.md")).unwrap();
    let (code, stdout, stderr) = provost(dir.path(), &["new", "first steps"]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("is there already"), "{stderr}");
    assert_eq!(fs::read(dir.path().join("first steps/network.toml")).unwrap(), before);
    assert!(!dir.path().join("first steps/README.md").exists());

    fs::write(dir.path().join("file"), "x").unwrap();
    assert_eq!(provost(dir.path(), &["new", "file"]).0, 2);
    let (code, _, stderr) = provost(dir.path(), &["new", "file/beneath"]);
    assert_eq!(code, 1, "{stderr}");
    assert_eq!(provost(dir.path(), &["new", "/proc/nowhere"]).0, 1);
}

#[test]
fn mistakes_on_the_command_line_are_code_2() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [&["chek", "x"][..], &["check"], &["graph", "x", "--format", "gif"], &[]] {
        let (code, stdout, stderr) = provost(dir.path(), arguments);
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(!stderr.is_empty());
    }
    let (code, stdout, _) = provost(dir.path(), &["--help"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("check"));
}

#[test]
fn graphs_and_completions_go_to_stdout() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("n.toml"), VALID).unwrap();
    for (format, beginning) in [("text", "n\nentry a"), ("mermaid", "---\n"), ("dot", "digraph"), ("svg", "<svg")] {
        let (code, stdout, stderr) = provost(dir.path(), &["graph", "n.toml", "--format", format]);
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert!(stdout.starts_with(beginning), "{stdout}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (code, stdout, _) = provost(dir.path(), &["completions", shell]);
        assert_eq!(code, 0);
        assert!(stdout.contains("provost"));
    }
}

#[test]
fn a_full_disk_is_an_error_and_a_closed_pipe_is_not() {
    let command = |stdout: Stdio| {
        let mut command = Command::cargo_bin("provost").unwrap();
        command.args(["check", "--print-schema"]).stdout(stdout).stderr(Stdio::piped());
        command
    };
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = command(full.into()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("stdout"));

    let mut child = command(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
