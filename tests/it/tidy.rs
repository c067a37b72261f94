//! The house is as ARCHITECTURE.md draws it: which room uses which, and that everything shipped loads.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use provost::runtime::check_policies;
use provost::spec::Network;

/// For each room, the rooms of ours that it may use, and the crates that it may not.
const ROOMS: [(&str, &[&str], &[&str]); 15] = [
    ("fault", &[], &["ractor", "reqwest", "axum", "clap", "tokio"]),
    ("route", &["spec"], PURE),
    ("run", &["spec", "model", "budget", "journal", "fault", "route"], PURE),
    ("budget", &["run", "spec", "fault"], PURE),
    ("policy", &["budget", "run", "spec"], PURE),
    ("spec", &["route"], &["tokio", "tokio_util", "ractor", "reqwest", "axum"]),
    ("journal", &["fault"], &["ractor", "reqwest", "axum", "clap"]),
    ("memory", &["run", "spec"], &["ractor", "reqwest", "axum", "clap", "tokio"]),
    ("model", &["run", "spec"], &["ractor", "axum", "clap", "dashmap"]),
    ("tool", &["memory", "model", "run", "spec"], &["ractor", "reqwest", "axum", "clap"]),
    (
        "runtime",
        &["budget", "fault", "journal", "memory", "model", "policy", "route", "run", "spec", "tool"],
        &["reqwest", "axum", "toml", "clap"],
    ),
    ("serve", &["budget", "journal", "model", "run", "runtime", "spec"], &["ractor", "clap"]),
    ("telemetry", &["spec"], &["ractor", "reqwest", "axum", "clap"]),
    (
        "cli",
        &["budget", "journal", "memory", "model", "policy", "run", "runtime", "serve", "spec", "telemetry"],
        &["ractor", "reqwest", "axum", "dashmap"],
    ),
    ("lib", &[], &[]),
];

/// What a room without clock, chance, input and output may not use.
const PURE: &[&str] = &[
    "tokio",
    "tokio_util",
    "ractor",
    "reqwest",
    "axum",
    "dashmap",
    "backon",
    "ulid",
    "clap",
    "std::fs",
    "std::net",
    "std::process",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::env",
    "std::thread",
];

fn rust_files(beneath: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(beneath).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(String, PathBuf, String)> {
    let mut files = Vec::new();
    rust_files(Path::new("src"), &mut files);
    let read = |path: PathBuf| {
        let inside = path.strip_prefix("src").unwrap();
        let room = inside.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        (room, path, text)
    };
    files.into_iter().map(read).collect()
}

/// Returns the code of a file without its comments and its tests.
fn code(text: &str) -> String {
    let shipped = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = shipped.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs" | "testing.rs")))
}

/// Returns which of our rooms some code names, as `crate::ROOM`.
fn rooms_used(code: &str) -> BTreeSet<&str> {
    let named = code.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(rest.len());
        &rest[..end]
    });
    named.filter(|name| ROOMS.iter().any(|(room, ..)| room == name)).collect()
}

#[test]
fn every_room_uses_only_what_it_may() {
    let mut wrong = Vec::new();
    for (room, path, text) in sources().iter().filter(|(_, path, _)| !is_test(path)) {
        if room == "main" || room == "lib" {
            continue;
        }
        let Some((_, rooms, crates)) = ROOMS.iter().find(|(known, ..)| known == room) else {
            wrong.push(format!("{}: `{room}` is no room of the house", path.display()));
            continue;
        };
        let code = code(text);
        for used in rooms_used(&code).into_iter().filter(|used| used != room && !rooms.contains(used)) {
            wrong.push(format!("{}: `{room}` may not use `{used}`", path.display()));
        }
        for forbidden in crates.iter().filter(|name| code.contains(&format!("{name}::"))) {
            wrong.push(format!("{}: `{room}` may not use `{forbidden}`", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_runtime_spawns() {
    for (room, path, text) in sources().iter().filter(|(_, path, _)| !is_test(path)) {
        let spawns = ["tokio::spawn(", "task::spawn(", ".spawn_linked(", "JoinSet"];
        let found = spawns.iter().any(|spawn| code(text).contains(spawn));
        assert!(!found || room == "runtime", "{} spawns", path.display());
    }
}

/// What is printed elsewhere has not been made visible, and could drive the terminal.
#[test]
fn only_the_print_room_and_the_log_write_to_the_terminal() {
    let ways = [
        "println!",
        "print!(",
        "dbg!",
        "io::stdout",
        "io::stderr",
        " stdout()",
        "(stdout()",
        " stderr()",
        "(stderr()",
        "indicatif",
        "Term::",
        "/dev/tty",
        ".print()",
        "Stdio::inherit",
    ];
    for (_, path, text) in sources().iter().filter(|(_, path, _)| !is_test(path)) {
        let code = code(text);
        let found = ways.iter().find(|way| code.contains(**way));
        let may =
            ["src/cli/print.rs", "src/cli/print/live.rs", "src/telemetry.rs"].iter().any(|room| path.ends_with(room));
        assert!(found.is_none() || may, "{} has {found:?}", path.display());
    }
}

#[test]
fn only_the_rooms_that_store_know_the_database() {
    for (room, path, text) in sources().iter().filter(|(_, path, _)| !is_test(path)) {
        let is_there = code(text).contains("rusqlite::");
        assert!(!is_there || ["journal", "memory"].contains(&&**room), "{} uses rusqlite", path.display());
    }
}

#[test]
fn the_gate_and_all_files_stay_readable() {
    for (_, path, text) in sources() {
        let (lines, most) = (text.lines().count(), if path.ends_with("runtime/gate.rs") { 200 } else { 800 });
        assert!(lines <= most, "{} has {lines} lines; split it by verb", path.display());
    }
}

#[test]
fn every_network_file_loads_without_a_warning() {
    let mut seen = 0;
    for entry in fs::read_dir("networks").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            let loaded = Network::load(&path).unwrap_or_else(|invalid| panic!("{invalid}"));
            assert!(loaded.warnings.diagnostics().is_empty(), "{}", loaded.warnings.render(false));
            let checked = check_policies(&loaded.network).unwrap_or_else(|invalid| panic!("{invalid}"));
            assert!(checked.warnings.diagnostics().is_empty(), "{}", checked.warnings.render(false));
            seen += 1;
        }
    }
    assert!(seen > 0);
}

#[test]
fn every_example_begins_with_its_command() {
    for entry in fs::read_dir("examples").unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let command = format!("$ cargo run --example {}", path.file_stem().unwrap().to_string_lossy());
        assert!(
            text.lines().take(10).any(|line| line.contains(&command)),
            "{} does not say `{command}`",
            path.display()
        );
    }
}
