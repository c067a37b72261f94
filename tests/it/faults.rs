//! Media that fail, files that are not ours, bytes that are not what was written: nothing is claimed that is not so,
//! what can be read is read, and each fault is told with what to do about it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use provost::journal::{Batch, Journal, Part, Record, Store};
use serde_json::Value;

use crate::world::{Ended, World};

/// An agent that acts once in each class, and says something once that nobody else says.
const THREE: &str = r#"
[network]
name = "three"
entry = "a"
[models.m]
provider = "sim"
price = { input_usd_per_mtok = 1.3, output_usd_per_mtok = 7.0 }
[agents.a]
prompt = "You act."
tools = ["pure", "idempotent", "once"]
@TOOLS@
[sim.script]
a = ['{"calls": [{"name": "pure", "arguments": {"argv": ["@LEDGER@", "pure"]}}], "text": "{{ "a word that " ~ "falls once" }}"}',
     '{"calls": [{"name": "idempotent", "arguments": {"argv": ["@LEDGER@", "idempotent"]}}]}',
     '{"calls": [{"name": "once", "arguments": {"argv": ["@LEDGER@", "once"]}}]}',
     '{{ input }}: {{ all_results | map(attribute="content.stdout") | join("; ") }}']
"#;

/// What it says only once, in its first answer.
const ONCE: &[u8] = b"a word that falls once";

fn answer(input: &str) -> String {
    format!("{input}: pure of a#1.0; idempotent of a#2.0; once of a#3.0")
}

/// A world in which a run has ended, `one`, with all of the store in its file and nothing in the log.
fn one_run() -> World {
    let world = World::new(THREE);
    assert_eq!(world.ask_for(0, &["run", "n.toml", "one"]).trim_end(), answer("one"));
    move_log(&world);
    world
}

/// Moves what is in the log to the main file.
fn move_log(world: &World) {
    let store = rusqlite::Connection::open(world.data("provost.db")).unwrap();
    store.query_row("PRAGMA wal_checkpoint = TRUNCATE", (), |_| Ok(())).unwrap();
}

/// Asserts that a command failed on the store: with its code, with what and where, and with something to do.
fn assert_failed(ended: &Ended, what: &str, remedy: &str) {
    let (stdout, stderr) = (&ended.stdout, &ended.stderr);
    assert_eq!((ended.code(), stdout.as_str()), (Some(8), ""), "{stderr}");
    assert!(stderr.contains(what) && stderr.contains(".provost"), "{what:?} is not in {stderr}");
    assert!(stderr.contains(&format!("hint: {remedy}")), "{remedy:?} is not in {stderr}");
}

/// Goes on with all runs to their ends, and checks them.
fn go_on(world: &World) {
    for _ in 0..2 {
        if world.ask(&["runs", "resume", "--all"]).code() == Some(0) {
            break;
        }
        assert_eq!(world.resolve_all(&world.look()), 1, "what else than the one call in doubt");
    }
    world.check_end(&world.look(), answer);
}

/// Lets the medium fail at each passing of a point, until the run gets through.
#[cfg(debug_assertions)]
fn fails_at_each(point: &str, step: usize) {
    let mut failed = 0;
    for nth in (1..).step_by(step) {
        let world = World::new(THREE);
        let fault = format!("{point}@{nth}");
        let ended = world.start(&["run", "n.toml", "go"], &[("PROVOST_FAULT_AT", &fault)], None).end();
        if ended.code() == Some(0) {
            assert_eq!(ended.stdout.trim_end(), answer("go"));
            break;
        }
        failed += 1;
        assert_failed(&ended, "can't be written", "make room there");
        let runs = world.runs();
        assert!(runs.len() == 1 || !ended.stderr.contains("run 0"), "{fault}: {}", ended.stderr);
        assert!(runs.iter().all(|run| run["status"] == "interrupted"), "{fault}: {runs:?}");
        // What was done without its intent in the store would be found here.
        world.look();
        if !runs.is_empty() {
            go_on(&world);
        }
    }
    assert!(failed >= 5, "{point} failed {failed} times");
}

#[test]
#[cfg(debug_assertions)]
fn a_sync_that_fails_stops_the_run_where_it_is_and_it_goes_on_later() {
    fails_at_each("journal.sync", 1);
}

#[test]
#[cfg(debug_assertions)]
fn a_write_that_fails_stops_the_run_where_it_is_and_it_goes_on_later() {
    fails_at_each("journal.write", 3);
}

#[test]
#[cfg(debug_assertions)]
fn guests_of_a_process_whose_medium_fails_are_told_or_go_on_by_themselves() {
    let world = World::new(THREE);
    let fault = [("PROVOST_FAULT_AT", "journal.sync@5")];
    let inputs: Vec<String> = (0..6).map(|number| format!("task {number}")).collect();
    let start = |input: &String| world.start(&["run", "n.toml", input], &fault, None);
    let processes: Vec<_> = inputs.iter().map(start).collect();
    let mut failed = 0;
    for process in processes {
        let ended = process.end();
        match ended.code() {
            Some(0) | Some(7) => {}
            _ => {
                failed += 1;
                assert_failed(&ended, "", "");
            }
        }
    }
    assert!(failed > 0, "no medium failed");
    world.look();
    for _ in 0..2 {
        world.ask(&["runs", "resume", "--all"]);
        world.resolve_all(&world.look());
    }
    world.ask_for(0, &["runs", "resume", "--all"]);
    world.check_end(&world.look(), answer);
}

/// All that looks into the store, and all that writes to it.
const COMMANDS: [&[&str]; 6] = [
    &["run", "n.toml", "go"],
    &["runs", "list"],
    &["runs", "show", "last"],
    &["runs", "resume", "--all"],
    &["audit", "verify"],
    &["audit", "export"],
];

#[test]
fn what_is_no_store_of_ours_is_named_and_not_touched() {
    let ours = fs::read(one_run().data("provost.db")).unwrap();
    let newer = {
        let mut bytes = ours.clone();
        bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
        bytes
    };
    let others = {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("other.db");
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE events (id INTEGER PRIMARY KEY); INSERT INTO events VALUES (1)").unwrap();
        drop(other);
        fs::read(path).unwrap()
    };
    let cases: [(&str, Vec<u8>, &str, &str); 9] = [
        ("another program's database", others, "is no store of Provost's", "name another directory"),
        ("no bytes", Vec::new(), "damaged: it is empty", "provost audit verify names the first fault; put a backup"),
        ("text", b"not a database at all\n".repeat(500), "is no store of Provost's", "name another directory"),
        ("a newer format", newer, "has format 99", "use the Provost that wrote it"),
        ("half of it", ours[..ours.len() / 8192 * 4096].to_vec(), "", ""),
        ("its first page", ours[..4096].to_vec(), "", ""),
        ("less than a page", ours[..1000].to_vec(), "", ""),
        ("its header", ours[..100].to_vec(), "", ""),
        ("less than its header", ours[..50].to_vec(), "", ""),
    ];
    for (case, bytes, what, remedy) in cases {
        let world = World::new(THREE);
        fs::create_dir(world.path().join(".provost")).unwrap();
        fs::write(world.data("provost.db"), &bytes).unwrap();
        for command in COMMANDS {
            println!("{case}: {command:?}");
            assert_failed(&world.ask(command), what, remedy);
            assert!(fs::read(world.data("provost.db")).unwrap() == bytes, "{case}: {command:?} changed the file");
        }
        assert_eq!(world.count_deeds(), 0);
    }
}

#[test]
fn a_directory_in_the_place_of_the_store_is_named_and_not_touched() {
    let world = World::new(THREE);
    fs::create_dir_all(world.data("provost.db/within")).unwrap();
    for command in COMMANDS {
        assert_failed(&world.ask(command), "is no store of Provost's", "name another directory");
    }
    assert_eq!(fs::read_dir(world.data("provost.db")).unwrap().count(), 1);
}

#[test]
fn a_changed_byte_of_an_event_is_found_where_it_is_and_other_runs_are_read() {
    let world = one_run();
    world.ask_for(0, &["run", "n.toml", "two"]);
    move_log(&world);
    let runs: Vec<String> = world.runs().iter().map(|run| run["run"].as_str().unwrap().to_owned()).collect();
    let bytes = fs::read(world.data("provost.db")).unwrap();
    let file = fs::OpenOptions::new().write(true).open(world.data("provost.db")).unwrap();
    let has_hit = || {
        let store = rusqlite::Connection::open(world.data("provost.db")).unwrap();
        let count = "SELECT count(*) FROM events WHERE instr(payload, ?1)";
        store.query_row(count, [ONCE], |row| row.get::<_, i64>(0)).unwrap() == 1
    };
    // A page may have old bytes in its free room.
    let mut places = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(ONCE));
    let is_hit = places.any(|at| {
        file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
        has_hit() || file.write_all_at(&[bytes[at]], at as u64).is_err()
    });
    assert!(is_hit);

    let verified = world.ask(&["audit", "verify"]);
    assert_eq!((verified.code(), verified.stdout.as_str()), (Some(8), ""));
    let hit = runs.iter().find(|run| verified.stderr.contains(&format!("run/{run}"))).unwrap();
    let other = runs.iter().find(|run| *run != hit).unwrap();
    // The first answer is the fourth event: begun, an agent started, asked, answered.
    assert!(verified.stderr.contains('4'), "{}", verified.stderr);
    for command in [&["runs", "show", hit][..], &["audit", "export", hit], &["runs", "show", hit, "--json"]] {
        let ended = world.ask(command);
        assert_eq!((ended.code(), ended.stdout.as_str()), (Some(8), ""), "{command:?}");
        assert!(ended.stderr.contains(&format!("run/{hit}")), "{}", ended.stderr);
    }
    for command in [&["runs", "show", other][..], &["audit", "export", other], &["runs", "list"]] {
        assert!(world.ask_for(0, command).contains(other.as_str()));
    }
    // What can't be read can't be gone on with either; a new run does not need it.
    assert_eq!(world.ask_for(0, &["run", "n.toml", "three"]).trim_end(), answer("three"));
}

#[test]
fn a_run_that_is_not_there_is_code_2() {
    let world = one_run();
    let gone = "01aaaaaaaaaaaaaaaaaaaaaaaa";
    for command in [
        &["runs", "show", gone][..],
        &["runs", "watch", gone],
        &["runs", "resume", gone],
        &["runs", "cancel", gone],
        &["runs", "pause", gone],
        &["runs", "steer", gone, "x"],
        &["runs", "resolve", gone, "a#1.0", "--retry"],
        &["audit", "export", gone],
    ] {
        let ended = world.ask(command);
        assert_eq!((ended.code(), ended.stdout.as_str()), (Some(2), ""), "{command:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(gone), "{}", ended.stderr);
    }
}

/// A world whose run was killed in the midst of its call that must happen once.
#[cfg(debug_assertions)]
fn killed() -> World {
    let world = one_run();
    let crash = [("PROVOST_CRASH_AT", "gate.after_effect.once@1")];
    assert!(world.start(&["run", "n.toml", "two"], &crash, None).end().was_killed());
    world.settle(false);
    world
}

#[test]
#[cfg(debug_assertions)]
fn a_log_that_is_cut_anywhere_leaves_what_was_written_before_or_is_damage() {
    let whole = killed();
    let log = fs::read(whole.data("provost.db-wal")).unwrap();
    assert!(log.len() > 50_000, "there is something to cut");
    let (mut read, mut fewest) = (0, u64::MAX);
    for cut in
        [0, 1, 31, 32, 33, 4_000, log.len() / 4, log.len() / 2, log.len() / 2 + 777, log.len() - 4_096, log.len() - 1]
    {
        let world = World::new(THREE);
        fs::create_dir(world.path().join(".provost")).unwrap();
        for entry in fs::read_dir(whole.data("")).unwrap().flatten().filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), world.path().join(".provost").join(entry.file_name())).unwrap();
        }
        fs::OpenOptions::new().write(true).open(world.data("provost.db-wal")).unwrap().set_len(cut as u64).unwrap();
        let codes = [&["runs", "list", "--json"][..], &["audit", "verify", "--json"], &["runs", "resume", "--all"]]
            .map(|command| {
                let ended = world.ask(command);
                let code = ended.code().unwrap();
                assert!([0, 7, 8].contains(&code), "{cut}: {command:?}: {}", ended.stderr);
                assert!(
                    code != 8 || ended.stderr.contains("damaged") || ended.stdout.contains("fault"),
                    "{cut}: {}",
                    ended.stderr
                );
                (code, ended.stdout)
            });
        if codes[1].0 == 8 {
            continue;
        }
        read += 1;
        assert_eq!(codes[0].0, 0, "{cut}: a store that is whole is read");
        assert_ne!(codes[2].0, 8, "{cut}: a store that is whole is gone on with");
        fewest = fewest.min(serde_json::from_str::<Value>(&codes[1].1).unwrap()["events"].as_u64().unwrap());
        world.ask_for(0, &["audit", "verify"]);
        // What ended before the log began is there.
        let runs = world.runs();
        assert!(runs.iter().any(|run| run["answer"] == answer("one")), "{cut}: {runs:?}");
    }
    assert!(read >= 8, "it was read {read} times");
    assert!(fewest > 0);
}

/// While the log is moved to the main file a kill, a power cut or a full disk may fall between any two of its pages: the
/// first says then that there are more than there are. The log still has them all.
#[test]
#[cfg(debug_assertions)]
fn a_move_of_the_log_that_was_cut_off_loses_nothing() {
    let world = killed();
    let path = world.data("provost.db");
    let before = fs::read(&path).unwrap();
    let moved = {
        let copy = tempfile::tempdir().unwrap();
        for file in ["provost.db", "provost.db-wal"] {
            fs::copy(world.data(file), copy.path().join(file)).unwrap();
        }
        let store = rusqlite::Connection::open(copy.path().join("provost.db")).unwrap();
        store.query_row("PRAGMA wal_checkpoint = TRUNCATE", (), |_| Ok(())).unwrap();
        fs::read(copy.path().join("provost.db")).unwrap()
    };
    assert!(moved.len() > before.len());
    for pages in 1..moved.len() / 4_096 {
        let cut = pages * 4_096;
        let bytes = [&moved[..cut], &before[cut.min(before.len())..]].concat();
        fs::write(&path, bytes).unwrap();
        assert_eq!(world.runs().len(), 2, "{pages} pages were moved");
    }
    fs::write(&path, [&moved[..4_096], &before[4_096..]].concat()).unwrap();
    world.ask_for(0, &["audit", "verify"]);
    go_on(&world);
}

/// There is no clock here that can be turned back. What one that was turned back leaves is an event whose time is less
/// than that of the one before it: such a store is written here, and is as good as any.
#[test]
#[cfg(debug_assertions)]
fn a_clock_that_goes_backwards_changes_nothing() {
    let past = killed();
    let world = World::new(THREE);
    fs::copy(past.path().join("ledger"), world.path().join("ledger")).unwrap();
    let (from, to) = (Store::open(&past.data("")).unwrap(), Journal::open(&world.data(""), false).unwrap());
    for info in from.streams("").unwrap() {
        // What has ended was reported with its times.
        let has_ended = info.mark.as_ref().is_some_and(|mark| mark.closed);
        let backwards = |record: Record| match has_ended {
            true => record,
            false => Record { time_ms: 1_700_000_000_000 - 3_600_000 * record.seq, ..record },
        };
        let records = from.read(&info.name, 0, usize::MAX).unwrap().into_iter().map(backwards).collect();
        let part = Part { stream: info.name, records, mark: info.mark, snapshot: None };
        to.append(Batch { parts: vec![part], durable: Vec::new() }).unwrap();
    }
    tokio::runtime::Runtime::new().unwrap().block_on(to.close()).unwrap();
    world.ask_for(0, &["audit", "verify"]);
    assert!(world.ask_for(0, &["runs", "show", "last"]).contains("interrupted"));
    go_on(&world);
    world.ask_for(0, &["runs", "show", "last"]);
    assert_eq!(world.ask_for(0, &["run", "n.toml", "three"]).trim_end(), answer("three"));
}

/// In which directory the child is to work.
const DIRECTORY: &str = "PROVOST_TEST_MOUNTS";

/// Mounts something for the process that we are, which has its mounts to itself.
fn mount(arguments: &[&str], place: &Path) {
    let status = Command::new("mount").args(arguments).arg(place).status().unwrap();
    assert!(status.success(), "mount {arguments:?}");
}

/// What is done where something may be mounted.
#[test]
#[ignore = "this is the other process of `where_mounts_are_allowed`"]
fn child() {
    if std::env::var_os(DIRECTORY).is_some() {
        a_full_disk();
        a_directory_that_may_not_be_written();
    }
}

fn a_full_disk() {
    let world = World::new(THREE);
    fs::create_dir(world.path().join(".provost")).unwrap();
    mount(&["-t", "tmpfs", "-o", "size=2m", "none"], &world.path().join(".provost"));
    assert_eq!(world.ask_for(0, &["run", "n.toml", "one"]).trim_end(), answer("one"));
    let runs = world.runs();
    let (mut cut, mut refused) = (0, 0);
    for pages in [0, 1, 3, 4, 8, 12, 16, 20, 25, 30] {
        fill(&world, pages);
        let ended = world.ask(&["run", "n.toml", "two"]);
        let has_begun = ended.stderr.contains("run 0");
        if ended.code() != Some(0) {
            assert_failed(&ended, "", "make room there");
            (cut, refused) = (cut + usize::from(has_begun), refused + usize::from(!has_begun));
        }
        let now = world.runs();
        assert_eq!(now.last(), runs.last(), "what ended before is read while there is no room");
        world.ask_for(0, &["runs", "show", now.last().unwrap()["run"].as_str().unwrap()]);
        fs::remove_file(world.data("filler")).unwrap();
        go_on(&world);
    }
    assert!(cut > 0 && refused > 0, "cut {cut}, refused {refused}");
    println!("a full disk cut {cut} runs and refused {refused}");
}

/// Fills the disk, but for so many pages.
fn fill(world: &World, pages: u64) {
    let filler = fs::File::create(world.data("filler")).unwrap();
    let mut bytes = 0;
    while filler.write_all_at(&[1; 4_096], bytes).is_ok() {
        bytes += 4_096;
    }
    filler.set_len(bytes.saturating_sub(pages * 4_096)).unwrap();
}

fn a_directory_that_may_not_be_written() {
    let world = one_run();
    let before = fs::read(world.data("provost.db")).unwrap();
    let directory = world.path().join(".provost");
    mount(&["--bind", directory.to_str().unwrap()], &directory);
    mount(&["-o", "remount,ro,bind"], &directory);
    let ended = world.ask(&["run", "n.toml", "two"]);
    assert_failed(&ended, "can't be", "make room there, or name a directory that you may write with --data-dir");
    for command in
        [&["runs", "list"][..], &["runs", "show", "last"], &["audit", "verify"], &["runs", "resume", "--all"]]
    {
        let ended = world.ask(command);
        match ended.code() {
            Some(0) => {}
            _ => assert_failed(&ended, "", "make room there, or name a directory that you may write with --data-dir"),
        }
        println!("read only: {command:?} ends with {:?} {}", ended.code(), ended.stderr);
    }
    assert_eq!(fs::read(world.data("provost.db")).unwrap(), before);
    // No data directory at all, and none can be made.
    let nowhere = directory.join("data");
    let ended = world.ask(&["run", "n.toml", "two", "--data-dir", nowhere.to_str().unwrap()]);
    assert_failed(&ended, "data", "make room there, or name a directory that you may write with --data-dir");
}

#[test]
fn where_mounts_are_allowed_a_full_disk_and_one_that_may_not_be_written_are_told_as_such() {
    let may = |flags: &str| {
        let tried = Command::new("unshare").args([flags, "mount", "-t", "tmpfs", "none", "/mnt"]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    let Some(flags) = ["-rm", "-m"].into_iter().find(|flags| may(flags)) else {
        return println!("skipped: nothing can be mounted here, neither as root nor in a user namespace of our own");
    };
    let mut child = Command::new("unshare");
    child.arg(flags).arg(std::env::current_exe().unwrap());
    child.args(["--exact", "faults::child", "--ignored", "--nocapture"]).env(DIRECTORY, "1");
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    println!("{said}");
}
