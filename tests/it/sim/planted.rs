//! The bugs that can be planted, and that each is found.

use std::fmt::Write;
use std::fs;

use provost::fault::{Bug, plant};

use super::{on_all_cores, try_seed};

/// How many seeds a bug may take to be found.
const SEEDS: u64 = 1_000;

/// Where the table stands, and between which lines.
const PAGE: &str = "docs/testing.md";
const BEGIN: &str = "<!-- the planted bugs, written by `just planted` -->\n";
const END: &str = "<!-- the end of the planted bugs -->\n";

/// How much of what was seen is shown.
const SEEN_CHARS: usize = 110;

/// The first seed that finds a bug, and what was seen then.
fn find(bug: Bug) -> Option<(u64, String)> {
    let _planted = plant(bug);
    (0..SEEDS).find_map(|seed| try_seed(seed, false).wrong.into_iter().next().map(|seen| (seed + 1, seen)))
}

#[test]
fn every_planted_bug_is_found() {
    let wanted = std::env::var("PROVOST_SIM_BUG").ok();
    let is_wanted = |bug: &Bug| wanted.as_deref().is_none_or(|name| name == bug.name());
    let bugs: Vec<Bug> = Bug::ALL.into_iter().filter(is_wanted).collect();
    let mut found = on_all_cores(0..bugs.len() as u64, |nth| (nth, find(bugs[nth as usize])));
    found.sort_unstable_by_key(|(nth, _)| *nth);
    let mut table = String::from("| bug | what is wrong with it | seeds | what was seen |\n|---|---|---|---|\n");
    for (nth, found) in &found {
        let bug = bugs[*nth as usize];
        let (seeds, seen) = found.clone().unwrap_or_else(|| panic!("{} is not found in {SEEDS} seeds", bug.name()));
        let seen: String = seen.chars().take(SEEN_CHARS).map(|c| if c == '|' { '/' } else { c }).collect();
        writeln!(table, "| `{}` | {} | {seeds} | {seen} |", bug.name(), bug.what()).unwrap();
    }
    print!("{table}");
    if wanted.is_some() {
        return;
    }
    let page = fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (stands, after) = rest.split_once(END).unwrap();
    if std::env::var_os("PROVOST_WRITE_DOCS").is_some() {
        fs::write(PAGE, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    // How many seeds it takes changes with every draw and every message; which bugs there are does not.
    let bugs = |table: &str| table.lines().map(|line| line.split(" | ").take(2).collect()).collect::<Vec<String>>();
    assert_eq!(bugs(stands), bugs(&table), "`just planted` writes the table anew");
}
