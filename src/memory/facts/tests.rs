use std::fs;
use std::sync::Arc;

use super::*;
use crate::memory::Shelf;

fn put(shelf: &Shelf, whose: &Whose, key: &str, text: &str) -> Result<String, Error> {
    let mut labels = Labels::default();
    labels.add("private");
    let (run, agent) = (RunId::new("01run"), AgentId::new("clerk"));
    shelf.put(&NewFact { whose, key, text, run: &run, agent: &agent, time_ms: 7, labels: &labels }, &|| false)
}

fn texts(shelf: &Shelf, whose: &Whose, query: &str) -> Vec<String> {
    shelf.search(whose, query, 10).unwrap().into_iter().map(|fact| fact.text).collect()
}

fn ada() -> Whose {
    Whose::agent("local", "desk", "ada")
}

#[test]
fn a_fact_is_found_again_with_where_it_came_from() {
    let directory = tempfile::tempdir().unwrap();
    let id = put(&Shelf::at(directory.path()), &ada(), "k", "The harbour closes at nine.").unwrap();
    let found = Shelf::at(directory.path()).search(&ada(), "when do harbours close?", 3).unwrap();
    let [fact] = &found[..] else { panic!("{found:?}") };
    assert_eq!((&fact.id, fact.run.as_str(), fact.agent.as_str(), fact.time_ms), (&id, "01run", "clerk", 7));
    assert_eq!(fact.labels.iter().collect::<Vec<_>>(), ["private"]);
}

#[test]
fn the_best_comes_first_and_no_more_than_are_wanted() {
    let shelf = Shelf::in_process();
    put(&shelf, &ada(), "1", "Ships and boats and rafts and all that floats on the water by the town").unwrap();
    put(&shelf, &ada(), "2", "Ships").unwrap();
    put(&shelf, &ada(), "3", "Cranes").unwrap();
    assert_eq!(texts(&shelf, &ada(), "ships")[0], "Ships");
    assert_eq!(shelf.search(&ada(), "ships", 1).unwrap().len(), 1);
    assert_eq!(texts(&shelf, &ada(), "trains"), [""; 0]);
}

#[test]
fn the_same_key_is_the_same_fact() {
    let shelf = Shelf::in_process();
    let first = put(&shelf, &ada(), "k", "once").unwrap();
    assert_eq!(put(&shelf, &ada(), "k", "once").unwrap(), first);
    assert_eq!(texts(&shelf, &ada(), "once"), ["once"]);
    assert_ne!(put(&shelf, &ada(), "other", "once").unwrap(), first);
    assert_eq!(texts(&shelf, &ada(), "once"), ["once", "once"]);
}

#[test]
fn what_is_forgotten_stays_so_even_if_its_keeping_is_repeated() {
    let shelf = Shelf::in_process();
    let id = put(&shelf, &ada(), "k", "a secret").unwrap();
    shelf.forget(&ada(), &id, &|| false).unwrap();
    shelf.forget(&ada(), &id, &|| false).unwrap();
    assert_eq!(put(&shelf, &ada(), "k", "a secret").unwrap(), id);
    assert_eq!(texts(&shelf, &ada(), "secret"), [""; 0]);
    assert!(matches!(shelf.forget(&ada(), "0123", &|| false), Err(Error::NoSuchFact(id)) if id == "0123"));
}

#[test]
fn one_memory_neither_sees_nor_forgets_what_is_in_another() {
    let memories = [
        ada(),
        Whose::agent("local", "desk", "bob"),
        Whose::agent("local", "other", "ada"),
        Whose::agent("other", "desk", "ada"),
        Whose::session("local", "desk/ada"),
        Whose::session("local", "desk%2Fada"),
        Whose::tenant("local"),
    ];
    let shelf = Shelf::in_process();
    let ids: Vec<String> =
        (0..).zip(&memories).map(|(n, whose)| put(&shelf, whose, &n.to_string(), "tide").unwrap()).collect();
    for (whose, own) in memories.iter().zip(&ids) {
        let found: Vec<String> = shelf.search(whose, "tide", 10).unwrap().into_iter().map(|fact| fact.id).collect();
        assert_eq!(found, std::slice::from_ref(own), "{whose:?}");
        for other in ids.iter().filter(|other| *other != own) {
            assert!(matches!(shelf.forget(whose, other, &|| false), Err(Error::NoSuchFact(_))), "{whose:?}");
        }
    }
    // A query can't name another memory's mark.
    assert_eq!(texts(&shelf, &memories[0], "memory2 whose").len(), 0);
}

#[test]
fn bounds_are_named() {
    let shelf = Shelf::in_process();
    let error = put(&shelf, &ada(), "k", &"x".repeat(MAX_FACT_BYTES + 1)).unwrap_err().to_string();
    assert!(error.contains("8193 bytes") && error.contains("at most 8192"), "{error}");
    assert!(matches!(put(&shelf, &ada(), "k", " \n"), Err(Error::FactEmpty)));
    put(&shelf, &ada(), "k", &"x ".repeat(MAX_FACT_BYTES / 2)).unwrap();
    let fill = |facts: &mut Facts| {
        facts.change(&|| false, |change| {
            let insert = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                INSERT INTO facts (memory, id, text, run, agent, time_ms, labels) SELECT 1, i, '', '', '', 0, '[]' FROM n";
            Ok(Ok(change.execute(insert, [MAX_FACTS.cast_signed()])?))
        })
    };
    shelf.with_facts(fill).unwrap();
    let error = put(&shelf, &ada(), "one more", "x").unwrap_err().to_string();
    assert!(error.contains("10000 facts"), "{error}");
    // What is there already needs no room, and another memory has room of its own.
    put(&shelf, &ada(), "k", "x").unwrap();
    put(&shelf, &Whose::tenant("local"), "k", "x").unwrap();
}

#[test]
fn a_fact_that_no_search_could_find_is_refused() {
    let shelf = Shelf::in_process();
    // Emoji, marks, a letter in a circle (which only we take for one), a run of letters that is longer than any word.
    for text in ["🎉🎉", "?!", "___", "\u{24b6}", &"潮".repeat(500)] {
        assert!(matches!(put(&shelf, &ada(), text, text), Err(Error::FactWithoutWords)), "{text}");
    }
    assert_eq!(texts(&shelf, &ada(), "潮"), [""; 0]);
    for text in ["🎉 party", "the", "メモ。潮が変わる", "memory"] {
        put(&shelf, &ada(), text, text).unwrap();
        assert_eq!(texts(&shelf, &ada(), text), [text]);
    }
    // As the ADR says: what is written without spaces is found by the whole run, and not by a part of it.
    assert_eq!((texts(&shelf, &ada(), "潮が変わる").len(), texts(&shelf, &ada(), "潮").len()), (1, 0));
}

#[test]
fn what_is_cancelled_before_it_commits_is_not_kept() {
    let shelf = Shelf::in_process();
    let (run, agent, labels, whose) = (RunId::new("01run"), AgentId::new("clerk"), Labels::default(), ada());
    let fact =
        NewFact { whose: &whose, key: "k", text: "The tide", run: &run, agent: &agent, time_ms: 7, labels: &labels };
    assert!(matches!(shelf.put(&fact, &|| true), Err(Error::Cancelled)));
    assert_eq!(texts(&shelf, &ada(), "tide"), [""; 0]);
    let id = shelf.put(&fact, &|| false).unwrap();
    assert!(matches!(shelf.forget(&ada(), &id, &|| true), Err(Error::Cancelled)));
    assert_eq!(texts(&shelf, &ada(), "tide"), ["The tide"]);
}

#[test]
fn many_at_once_in_one_file_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = Arc::new(directory.path().to_owned());
    let keep = |thread: usize| {
        let path = path.clone();
        std::thread::spawn(move || {
            let shelf = Shelf::at(&path);
            (0..5).for_each(|n| drop(put(&shelf, &ada(), &format!("{thread}.{n}"), "one of many").unwrap()));
        })
    };
    (0..4).map(keep).collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(Shelf::at(&path).search(&ada(), "many", 100).unwrap().len(), 20);
}

#[test]
fn a_file_that_is_damaged_or_foreign_says_so() {
    let search = |bytes: &[u8]| {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("memory.db"), bytes).unwrap();
        Shelf::at(directory.path()).search(&ada(), "x", 1)
    };
    assert!(matches!(search(&[b'x'; 5_000]), Err(Error::Foreign { .. })));
    // A file that was made, and whose maker died before it wrote.
    assert_eq!(search(b"").unwrap(), []);
    let directory = tempfile::tempdir().unwrap();
    put(&Shelf::at(directory.path()), &ada(), "k", "whole").unwrap();
    let mut bytes = fs::read(directory.path().join("memory.db")).unwrap();
    bytes[4096..].fill(0x5a);
    assert!(matches!(search(&bytes), Err(Error::Damaged { .. })));
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("memory.db")).unwrap();
    assert!(matches!(put(&Shelf::at(directory.path()), &ada(), "k", "x"), Err(Error::Foreign { .. })));
    assert!(matches!(put(&Shelf::at(Path::new("/proc/none")), &ada(), "k", "x"), Err(Error::Io { .. })));
}
