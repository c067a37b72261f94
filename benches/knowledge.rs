//! How fast files are indexed and passages found, beside bare FTS5 on the same machine.
//!
//! 100,000 passages of made-up prose (words as rare and as frequent as in a language, by Zipf's law) lie in 10,000 files. What
//! is measured is their indexing, and searches for four words each, none of them among the hundred most frequent. The floors
//! are FTS5 itself: the same texts put into one table in one transaction, and the same words as a plain MATCH in the same
//! file, ordered by its own rank, rows alone. Then every passage is given a vector of 384 numbers, and the same searches are
//! made with one.
//!
//! `cargo bench --bench knowledge`

#![expect(clippy::expect_used, reason = "a bench that cannot run should say so at once")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use provost::memory::{Knowledge, Shelf};
use rusqlite::Connection;

/// As the `provost` binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FILES: usize = 10_000;
const PASSAGES_A_FILE: usize = 10;
/// How many words a passage has: about 1,000 bytes.
const WORDS: usize = 150;
/// How many words there are.
const VOCABULARY: f64 = 50_000.0;
const SEARCHES: usize = 300;
/// So many of the most frequent words are asked for by nobody; in a language they are those that join others.
const JOINING: f64 = 100.0;
/// How many numbers a vector has; so many have those of small embedding models.
const NUMBERS: usize = 384;

/// Numbers that follow from a seed: SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A word, the frequent ones more often, but for so many that are too frequent.
    fn word(&mut self, but: f64) -> String {
        let mut place = (but * (VOCABULARY / but).powf(self.share())) as u64;
        let mut word = String::new();
        while place > 0 || word.len() < 3 {
            word.push(char::from(b"etaoinshrdlucmfwypvbgkqjxz"[(place % 26) as usize]));
            word.push(char::from(b"aeiou"[(place % 5) as usize]));
            place /= 26;
        }
        word
    }

    fn words(&mut self, count: usize, but: f64) -> String {
        (0..count).map(|_| self.word(but)).collect::<Vec<_>>().join(" ")
    }

    fn vector(&mut self) -> Vec<f32> {
        (0..NUMBERS).map(|_| self.share() as f32 - 0.5).collect()
    }
}

fn write_files(beneath: &Path, chance: &mut Chance) {
    for number in 0..FILES {
        let directory = beneath.join((number / 100).to_string());
        fs::create_dir_all(&directory).expect("there is room");
        let sections =
            (0..PASSAGES_A_FILE).map(|section| format!("# Section {section}\n\n{}\n\n", chance.words(WORDS, 1.0)));
        fs::write(directory.join(format!("{number}.md")), sections.collect::<String>()).expect("there is room");
    }
}

/// Prints the median and the 99th percentile of how long something takes for each query.
fn measure(what: &str, queries: &[String], mut search: impl FnMut(&str) -> usize) -> Duration {
    let mut times: Vec<Duration> = queries
        .iter()
        .map(|query| {
            let began = Instant::now();
            assert!(search(query) > 0, "{query}");
            began.elapsed()
        })
        .collect();
    times.sort();
    let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e3;
    println!("| {what} | {:.2} ms | {:.2} ms |", at(50), at(99));
    times[times.len() / 2]
}

/// Puts the same texts into a bare FTS5 table.
fn bare_indexing(index: &Path, directory: &Path) -> Duration {
    let source = Connection::open(index).expect("the index opens");
    let mut select = source.prepare("SELECT text FROM passages").expect("it has passages");
    let texts = select.query_map((), |row| row.get::<_, String>(0)).expect("it can be read");
    let texts: Vec<String> = texts.map(|text| text.expect("it is text")).collect();
    let began = Instant::now();
    let mut bare = Connection::open(directory.join("bare.db")).expect("there is room");
    let table = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
        CREATE VIRTUAL TABLE words USING fts5 (text, content = '', tokenize = 'porter unicode61 remove_diacritics 2');";
    bare.execute_batch(table).expect("FTS5 is there");
    let all = bare.transaction().expect("it can be written");
    for (number, text) in (1..).zip(&texts) {
        let mut insert = all.prepare_cached("INSERT INTO words (rowid, text) VALUES (?1, ?2)").expect("it is SQL");
        insert.execute(rusqlite::params![number, text]).expect("it can be written");
    }
    all.commit().expect("it can be written");
    began.elapsed()
}

fn main() {
    let directory = tempfile::tempdir().expect("there is room");
    let (files, data) = (directory.path().join("files"), directory.path().join("data"));
    let mut chance = Chance(7);
    write_files(&files, &mut chance);

    let began = Instant::now();
    let mut knowledge = Knowledge::open_for_writing(&data).expect("the index opens");
    let added = knowledge.add("bench", std::slice::from_ref(&files)).expect("it is indexed");
    let took = began.elapsed();
    let bare = bare_indexing(&data.join("knowledge.db"), directory.path());
    let rate = |took: Duration| added.passages as f64 / took.as_secs_f64();
    println!("{} passages in {} files", added.passages, added.new);
    println!("indexed: {:.0} passages/s; floor, bare FTS5: {:.0}", rate(took), rate(bare));
    let began = Instant::now();
    knowledge.add("bench", &[]).expect("it is looked at");
    println!("looked at again, unchanged: {:.2} s", began.elapsed().as_secs_f64());

    let queries: Vec<String> = (0..SEARCHES).map(|_| chance.words(4, JOINING)).collect();
    let index = Connection::open(data.join("knowledge.db")).expect("the index opens");
    let bare = "SELECT rowid FROM words_1 WHERE words_1 MATCH ?1 ORDER BY rank LIMIT 5";
    let mut bare = index.prepare(bare).expect("it has an index of words");
    println!("\n| search for four words | p50 | p99 |\n|---|---|---|");
    // Twice each: the first time warms what is cached.
    for _ in 0..2 {
        let floor = measure("floor: bare FTS5 MATCH, the same file", &queries, |query| {
            let words: Vec<String> = query.split(' ').map(|word| format!("\"{word}\"")).collect();
            bare.query_map([words.join(" OR ")], |row| row.get::<_, i64>(0)).expect("it is asked").count()
        });
        let search = |knowledge: &Knowledge, query: &str| {
            knowledge.search("bench", query, None, 5).expect("it is searched").passages.len()
        };
        let ours = measure("`knowledge.search`", &queries, |query| search(&knowledge, query));
        let shelf = Shelf::at(&data);
        measure("the same, the file opened each time", &queries, |query| {
            search(&shelf.knowledge("bench").expect("it is there"), query)
        });
        println!("of the floor: {:.2} ×", ours.as_secs_f64() / floor.as_secs_f64());
    }

    loop {
        let open = knowledge.without_vectors("bench", 10_000).expect("it can be read");
        if open.is_empty() {
            break;
        }
        let vectors: Vec<(i64, Vec<f32>)> = open.into_iter().map(|(id, _)| (id, chance.vector())).collect();
        knowledge.put_vectors("bench", &vectors).expect("it can be written");
    }
    let vector = chance.vector();
    measure("with vectors, all compared", &queries[..100], |query| {
        knowledge.search("bench", query, Some(&vector), 5).expect("it is searched").passages.len()
    });
}
