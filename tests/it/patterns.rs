//! The networks that come along, one for each pattern: each runs as its first lines say, without a key and without a
//! network, and comes to the same answer however often its process is killed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use provost::spec::Network;
use serde_json::Value;

/// A run of a network in a store of its own, from the project's own directory.
struct Place {
    data: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { data: tempfile::tempdir().unwrap() }
    }

    fn provost(&self, arguments: &[&str], crash: Option<&str>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_provost"));
        command.args(arguments).arg("--data-dir").arg(self.data.path()).current_dir(env!("CARGO_MANIFEST_DIR"));
        command.env("NO_COLOR", "1").env_remove("PROVOST_CRASH_AT");
        crash.into_iter().for_each(|crash| _ = command.env("PROVOST_CRASH_AT", crash));
        command.output().unwrap()
    }

    /// Returns the status and the answer of the only run.
    fn only_run(&self) -> Option<(String, Value)> {
        let listed = self.provost(&["runs", "list", "--json"], None);
        let runs: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
        assert!(runs.len() <= 1, "{runs:?}");
        let run = runs.into_iter().next()?;
        Some((run["status"].as_str().unwrap().to_owned(), run["answer"].clone()))
    }
}

/// Returns the arguments of the command with which a network begins.
fn command(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.trim_start_matches(['#', ' ']).strip_prefix("provost run "));
    let line = line.unwrap_or_else(|| panic!("{} does not begin with its command", file.display()));
    let (path, input) = line.split_once(' ').unwrap();
    vec!["run".to_owned(), path.to_owned(), input.trim_matches('"').to_owned()]
}

fn patterns() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("networks/patterns");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_pattern_runs_as_it_says() {
    for file in patterns() {
        let warnings = Network::load(&file).unwrap().warnings;
        assert!(warnings.diagnostics().is_empty(), "{}", warnings.render(false));
        let (place, arguments) = (Place::new(), command(&file));
        let output = place.provost(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), None);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && !said.trim().is_empty(), "{}: {said}", file.display());
    }
}

/// At how many commits each network is killed, at the most.
const KILLS: usize = 8;

#[cfg(debug_assertions)]
#[test]
fn wherever_a_pattern_is_killed_it_comes_to_the_same_answer() {
    for file in patterns() {
        let arguments = command(&file);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let place = Place::new();
        place.provost(&arguments, None);
        let (status, wanted) = place.only_run().unwrap();
        assert_eq!(status, "done", "{}", file.display());
        let mut kills = 0;
        for nth in 1.. {
            let (place, crash) = (Place::new(), format!("journal.before_write@{nth}"));
            let killed = place.provost(&arguments, Some(&crash));
            if killed.status.success() || kills == KILLS {
                break;
            }
            kills += 1;
            assert_eq!(killed.status.code(), None, "{}", String::from_utf8_lossy(&killed.stderr));
            // Before the first commit nobody was told of a run.
            let Some(_) = place.only_run() else { continue };
            let resumed = place.provost(&["runs", "resume", "--all"], None);
            assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
            let (status, answer) = place.only_run().unwrap();
            assert_eq!((status.as_str(), &answer), ("done", &wanted), "{} at {crash}", file.display());
            let verified = place.provost(&["audit", "verify"], None);
            assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        }
        assert!(kills > 1, "{} was never killed in its midst", file.display());
    }
}
