//! A journal of a thousand events with checkpoints at an anchor: every change of it is found. It is verified in memory, by the
//! very fold that `verify` is, which is begun where the first changed row is: what comes before is as it was. A part is
//! done to a store on disk too.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::damage::{draw, times};
use super::*;
use crate::journal::chains::{Chains, Lookup};
use crate::journal::format::{Columns, GENESIS, Hash, Hasher};
use crate::journal::heads::{Encoder, Heads};
use crate::journal::notary::{Known, Standing};
use crate::journal::rows::{self, COMMIT_COLUMNS, CommitRow};
use crate::journal::store::Event;
use crate::journal::verify::{Fault, found};

/// How many events there are, and streams that they are in.
const EVENTS: u64 = 1_000;
const STREAMS: [&str; 3] = ["ledger", "run/a", "run/b"];

/// How many commits there are to a checkpoint.
const PER_CHECKPOINT: u64 = 8;

/// A row of `events`, as bytes that can be changed.
#[derive(Clone)]
struct Row {
    stream: i64,
    seq: u64,
    time_ms: u64,
    agent: Option<Vec<u8>>,
    incarnation: u32,
    cause: Option<u64>,
    labels: Option<Vec<u8>>,
    kind: Vec<u8>,
    version: u16,
    payload: Vec<u8>,
    hash: Hash,
}

impl Row {
    fn of(stream: i64, Event { columns, hash }: &Event<'_>) -> Self {
        let owned = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
        Self {
            stream,
            seq: columns.seq,
            time_ms: columns.time_ms,
            agent: owned(columns.agent),
            incarnation: columns.incarnation,
            cause: columns.cause,
            labels: owned(columns.labels),
            kind: columns.kind.as_bytes().to_vec(),
            version: columns.version,
            payload: columns.payload.to_vec(),
            hash: *hash,
        }
    }

    /// Reads the row as the store does, which takes only text for text.
    fn read(&self) -> Result<Event<'_>, Fault> {
        fn text(bytes: &[u8]) -> Result<&str, Fault> {
            str::from_utf8(bytes).map_err(|_| found("a text that is none"))
        }
        let columns = Columns {
            seq: self.seq,
            time_ms: self.time_ms,
            agent: self.agent.as_deref().map(text).transpose()?,
            incarnation: self.incarnation,
            cause: self.cause,
            labels: self.labels.as_deref().map(text).transpose()?,
            kind: text(&self.kind)?,
            version: self.version,
            payload: &self.payload,
        };
        Ok(Event { columns, hash: self.hash })
    }

    /// Changes one of the row's bytes; returns false where it has no more.
    fn change(&mut self, at: usize, by: u8) -> bool {
        let mut spots = Spots { at, by, is_changed: false };
        spots.number(&mut self.stream, i64::to_le_bytes, i64::from_le_bytes);
        spots.number(&mut self.seq, u64::to_le_bytes, u64::from_le_bytes);
        spots.number(&mut self.time_ms, u64::to_le_bytes, u64::from_le_bytes);
        spots.number(&mut self.incarnation, u32::to_le_bytes, u32::from_le_bytes);
        spots.number(&mut self.version, u16::to_le_bytes, u16::from_le_bytes);
        if let Some(cause) = &mut self.cause {
            spots.number(cause, u64::to_le_bytes, u64::from_le_bytes);
        }
        for bytes in [self.agent.as_mut(), self.labels.as_mut(), Some(&mut self.kind), Some(&mut self.payload)] {
            spots.bytes(bytes.map(Vec::as_mut_slice).unwrap_or_default());
        }
        spots.bytes(&mut self.hash);
        spots.is_changed
    }
}

/// Goes through the bytes of a row, and changes the one that is meant.
struct Spots {
    at: usize,
    by: u8,
    is_changed: bool,
}

impl Spots {
    fn bytes(&mut self, bytes: &mut [u8]) {
        if self.is_changed {
            return;
        }
        match bytes.get_mut(self.at) {
            Some(byte) => {
                *byte ^= self.by;
                self.is_changed = true;
            }
            None => self.at -= bytes.len(),
        }
    }

    fn number<T: Copy, const N: usize>(&mut self, number: &mut T, to: fn(T) -> [u8; N], from: fn([u8; N]) -> T) {
        let mut bytes = to(*number);
        self.bytes(&mut bytes);
        *number = from(bytes);
    }
}

fn change_commit(commit: &mut CommitRow, at: usize, by: u8) -> bool {
    let mut spots = Spots { at, by, is_changed: false };
    for number in [&mut commit.id, &mut commit.epoch, &mut commit.time_ms] {
        spots.number(number, u64::to_le_bytes, u64::from_le_bytes);
    }
    spots.bytes(&mut commit.heads);
    spots.bytes(&mut commit.hash);
    spots.is_changed
}

fn copy(commit: &CommitRow) -> CommitRow {
    let CommitRow { id, epoch, time_ms, heads, hash } = commit;
    CommitRow { id: *id, epoch: *epoch, time_ms: *time_ms, heads: heads.clone(), hash: *hash }
}

/// The rows of a store, in the order in which `verify` reads them.
struct Rows {
    streams: Vec<(i64, String, u64, Hash)>,
    events: Vec<Row>,
    commits: Vec<CommitRow>,
}

impl Clone for Rows {
    fn clone(&self) -> Self {
        Self {
            streams: self.streams.clone(),
            events: self.events.clone(),
            commits: self.commits.iter().map(copy).collect(),
        }
    }
}

impl Lookup for Rows {
    fn refers(&self, _: i64, _: &Hash) -> Result<bool, Fault> {
        Ok(false)
    }

    fn chain_hash(&self, stream: i64, seq: u64) -> Result<Option<Hash>, Fault> {
        let at = self.events.binary_search_by_key(&(stream, seq), |row| (row.stream, row.seq));
        Ok(at.ok().map(|at| self.events[at].hash))
    }
}

/// A place among the rows.
#[derive(Clone, Copy)]
enum At {
    Event(usize),
    Commit(usize),
}

impl Rows {
    fn load(directory: &Path) -> Self {
        let store = Store::open(directory).unwrap();
        let connection = store.connection();
        let mut select = connection.prepare("SELECT id, name, head_seq, head_hash FROM streams ORDER BY id").unwrap();
        let stream = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, rows::number(row, 2)?, row.get(3)?));
        let streams = select.query_map((), stream).unwrap().map(Result::unwrap).collect();
        let select = "SELECT seq, time_ms, agent, incarnation, cause, labels, kind, version, payload, hash, stream
            FROM events ORDER BY stream, seq";
        let mut select = connection.prepare(select).unwrap();
        let event = |row: &rusqlite::Row<'_>| Ok(Row::of(row.get(10)?, &Event::read(row)?));
        let events = select.query_map((), event).unwrap().map(Result::unwrap).collect();
        let mut select = connection.prepare(&format!("SELECT {COMMIT_COLUMNS} FROM commits ORDER BY id")).unwrap();
        let commits = select.query_map((), CommitRow::read).unwrap().map(Result::unwrap).collect();
        Self { streams, events, commits }
    }

    fn begin(&self) -> Chains {
        let mut chains = Chains::default();
        for (id, name, head, hash) in &self.streams {
            chains.stream(*id, name.clone(), *head, *hash);
        }
        chains
    }

    /// Verifies on from a place, before which all has been verified already.
    fn go_on(&self, mut chains: Chains, from: At) -> Result<(), Fault> {
        let commits = match from {
            At::Commit(commit) => commit,
            At::Event(event) => {
                for row in &self.events[event..] {
                    chains.event(row.stream, &row.read()?, self)?;
                }
                chains.heads()?;
                0
            }
        };
        for commit in &self.commits[commits..] {
            chains.commit(commit, self)?;
        }
        chains.ends()
    }

    fn verify(&self) -> Result<(), Fault> {
        self.go_on(self.begin(), At::Event(0))
    }

    fn size(&self) -> u64 {
        self.commits.len() as u64
    }

    fn root(&self, size: u64) -> Option<Hash> {
        self.commits.get(usize::try_from(size.checked_sub(1)?).ok()?).map(|commit| commit.hash)
    }

    fn against(&self, evidence: &Evidence) -> Result<Attested, Fault> {
        evidence.check(self.size(), |size| Ok(self.root(size)), &[])
    }

    /// Hashes the events of a stream anew, and all commits, as somebody would who knows how.
    fn hash_anew(&mut self, event: usize) {
        let mut hasher = Hasher::default();
        let stream = self.events[event].stream;
        let name = self.streams.iter().find(|(id, ..)| *id == stream).unwrap().1.clone();
        let mut moved = std::collections::HashMap::new();
        for at in event..self.events.len() {
            if self.events[at].stream == stream {
                let is_first = self.events[at].seq == 1;
                let before = if is_first { GENESIS } else { self.events[at - 1].hash };
                let hash = hasher.event(&name, &before, &self.events[at].read().unwrap().columns);
                self.events[at].hash = hash;
                moved.insert(self.events[at].seq, hash);
            }
        }
        let (head, hash) = moved.iter().max().unwrap();
        *self.streams.iter_mut().find(|(id, ..)| *id == stream).unwrap() = (stream, name.clone(), *head, *hash);
        let mut first = self.commits.len();
        for (at, commit) in self.commits.iter_mut().enumerate() {
            let mut encoder = Encoder::default();
            let mut is_changed = false;
            for head in Heads::decode(&commit.heads).unwrap().moved {
                let anew = moved.get(&head.seq).filter(|_| head.stream == name);
                is_changed |= anew.is_some();
                encoder.head(head.stream, head.seq, anew.unwrap_or(&head.hash));
            }
            if is_changed {
                commit.heads = encoder.finish();
                first = first.min(at);
            }
        }
        self.chain_anew(first);
    }

    /// Hashes all commits from one on anew.
    fn chain_anew(&mut self, from: usize) {
        let mut hasher = Hasher::default();
        for at in from..self.commits.len() {
            let before = at.checked_sub(1).map_or(GENESIS, |before| self.commits[before].hash);
            self.commits[at].hash = hasher.commit(&before, &self.commits[at].columns());
        }
    }

    /// The store as it was when it had so many commits.
    fn cut(&self, size: usize) -> Self {
        let mut heads = std::collections::HashMap::new();
        for commit in &self.commits[..size] {
            let moved = Heads::decode(&commit.heads).unwrap().moved;
            heads.extend(moved.into_iter().map(|head| (head.stream.to_owned(), (head.seq, head.hash))));
        }
        let stands = |(id, name, ..): &(i64, String, u64, Hash)| {
            let (head, hash) = heads.get(name)?;
            Some((*id, name.clone(), *head, *hash))
        };
        let streams: Vec<_> = self.streams.iter().filter_map(stands).collect();
        let is_there = |row: &&Row| streams.iter().any(|(id, _, head, _)| *id == row.stream && row.seq <= *head);
        let events = self.events.iter().filter(is_there).cloned().collect();
        Self { events, commits: self.commits[..size].iter().map(copy).collect(), streams }
    }
}

/// The journal, its rows, what an anchor has, and how far verifying was before each row.
struct Whole {
    dir: TempDir,
    rows: Rows,
    evidence: Evidence,
    before_event: Vec<Chains>,
    before_commit: Vec<Chains>,
}

async fn whole() -> Whole {
    let (dir, journal) = journal();
    let (mut written, mut commit) = ([0; STREAMS.len()], 0);
    while written.iter().sum::<u64>() < EVENTS {
        // One or two streams a commit, and a few events each.
        let parts: Vec<Part> = (0..1 + commit % 2)
            .filter_map(|which| {
                let stream = (commit + which) as usize % STREAMS.len();
                let left = EVENTS - written.iter().sum::<u64>();
                let (first, count) = (written[stream] + 1, (1 + commit % 5).min(left));
                written[stream] += count;
                (count > 0).then(|| part(STREAMS[stream], records(first..=first + count - 1)))
            })
            .collect();
        journal.append(batch(parts)).unwrap();
        journal.sync().await.unwrap();
        commit += 1;
    }
    drop(journal);
    let rows = Rows::load(dir.path());
    assert_eq!((rows.events.len() as u64, rows.streams.len()), (EVENTS, STREAMS.len()));
    let key = crate::journal::notary::Key::of([7; 32]);
    let sign = |size: u64| {
        let standing = Standing { store: rows.root(1).unwrap(), size, root: rows.root(size).unwrap() };
        Checkpoint::sign(standing, 1_700_000_000_000 + size, &key).to_string()
    };
    let sizes = (1..=rows.size()).filter(|size| size % PER_CHECKPOINT == 0 || *size == rows.size());
    let mut evidence = Evidence::none("the anchor".to_owned(), true, rows.root(1), Known::Nothing);
    assert!(sizes.map(sign).all(|line| evidence.take(&line)));
    let mut chains = rows.begin();
    let (mut before_event, mut before_commit) = (Vec::new(), Vec::new());
    for row in &rows.events {
        before_event.push(chains.clone());
        chains.event(row.stream, &row.read().unwrap(), &rows).unwrap();
    }
    before_event.push(chains.clone());
    for commit in &rows.commits {
        before_commit.push(chains.clone());
        chains.commit(commit, &rows).unwrap();
    }
    before_commit.push(chains);
    rows.verify().unwrap();
    assert_eq!(rows.against(&evidence).unwrap().since, 0);
    Whole { dir, rows, evidence, before_event, before_commit }
}

impl Whole {
    /// Verifies rows that are the whole ones up to a place.
    fn verify_from(&self, rows: &Rows, from: At) -> Result<(), Fault> {
        let before = match from {
            At::Event(event) => &self.before_event[event],
            At::Commit(commit) => &self.before_commit[commit],
        };
        rows.go_on(before.clone(), from)
    }
}

/// The bits by which a byte is changed: drawn, or those from the one to the other in `PROVOST_BYTES` (`1-255` for all of them).
fn changes(of: &str) -> RangeInclusive<u8> {
    if let Ok(asked) = std::env::var("PROVOST_BYTES") {
        let (from, to) = asked.split_once('-').expect("FROM-TO");
        return from.parse().expect("a number from 1")..=to.parse().expect("a number up to 255");
    }
    let drawn = 1 + draw(of, 255) as u8;
    drawn..=drawn
}

#[tokio::test]
async fn every_change_of_a_byte_is_found() {
    let whole = whole().await;
    let (mut rows, mut changed) = (whole.rows.clone(), 0);
    for event in 0..rows.events.len() {
        for at in 0.. {
            let was = rows.events[event].clone();
            let mut is_over = false;
            for by in changes(&format!("event {event} {at}")) {
                let mut row = was.clone();
                if !row.change(at, by) {
                    is_over = true;
                    break;
                }
                // A row of another number stands elsewhere.
                let place = (row.stream, row.seq);
                if place == (was.stream, was.seq) {
                    rows.events[event] = row;
                    assert!(whole.verify_from(&rows, At::Event(event)).is_err(), "event {event}, byte {at} by {by}");
                    rows.events[event] = was.clone();
                } else {
                    rows.events.remove(event);
                    let to = rows.events.partition_point(|row| (row.stream, row.seq) < place);
                    rows.events.insert(to, row);
                    let found = whole.verify_from(&rows, At::Event(event.min(to)));
                    assert!(found.is_err(), "event {event}, byte {at} by {by}");
                    rows.events.remove(to);
                    rows.events.insert(event, was.clone());
                }
                changed += 1;
            }
            if is_over {
                break;
            }
        }
    }
    for commit in 0..rows.commits.len() {
        for at in 0.. {
            let was = copy(&rows.commits[commit]);
            let mut is_over = false;
            for by in changes(&format!("commit {commit} {at}")) {
                is_over = !change_commit(&mut rows.commits[commit], at, by);
                if is_over {
                    break;
                }
                let id = rows.commits[commit].id;
                if id == was.id {
                    assert!(
                        whole.verify_from(&rows, At::Commit(commit)).is_err(),
                        "commit {commit}, byte {at} by {by}"
                    );
                } else {
                    let row = rows.commits.remove(commit);
                    let to = rows.commits.partition_point(|row| row.id < id);
                    rows.commits.insert(to, row);
                    let found = whole.verify_from(&rows, At::Commit(commit.min(to)));
                    assert!(found.is_err(), "commit {commit}, byte {at} by {by}");
                    let row = rows.commits.remove(to);
                    rows.commits.insert(commit, row);
                }
                rows.commits[commit] = copy(&was);
                changed += 1;
            }
            if is_over {
                break;
            }
        }
    }
    for stream in 0..rows.streams.len() {
        for at in 0.. {
            let was = rows.streams[stream].clone();
            let (id, name, head, hash) = &mut rows.streams[stream];
            let mut spots = Spots { at, by: 1, is_changed: false };
            spots.number(id, i64::to_le_bytes, i64::from_le_bytes);
            spots.number(head, u64::to_le_bytes, u64::from_le_bytes);
            let mut text = std::mem::take(name).into_bytes();
            spots.bytes(&mut text);
            *name = String::from_utf8(text).unwrap();
            spots.bytes(hash);
            if !spots.is_changed {
                rows.streams[stream] = was;
                break;
            }
            assert!(rows.verify().is_err(), "stream {stream}, byte {at}");
            rows.streams[stream] = was;
            changed += 1;
        }
    }
    rows.verify().unwrap();
    assert!(changed > 100 * EVENTS, "only {changed} changes");
}

#[tokio::test]
async fn every_record_that_is_deleted_swapped_or_put_in_is_found() {
    let whole = whole().await;
    for at in 0..whole.rows.events.len() {
        let mut rows = whole.rows.clone();
        rows.events.remove(at);
        assert!(whole.verify_from(&rows, At::Event(at)).is_err(), "event {at} deleted");

        let mut rows = whole.rows.clone();
        if let Some([one, other]) = rows.events.get_mut(at..at + 2).and_then(|two| two.as_mut_array::<2>()) {
            // They trade all but their places.
            std::mem::swap(one, other);
            std::mem::swap(&mut one.stream, &mut other.stream);
            std::mem::swap(&mut one.seq, &mut other.seq);
            assert!(whole.verify_from(&rows, At::Event(at)).is_err(), "event {at} swapped");
        }

        // One that is chained as it must be, and those after it moved on by one.
        let mut rows = whole.rows.clone();
        let mut forged = Row { payload: payload("forged"), seq: rows.events[at].seq + 1, ..rows.events[at].clone() };
        let stream = forged.stream;
        let name = rows.streams.iter().find(|(id, ..)| *id == stream).unwrap().1.clone();
        let columns = forged.read().unwrap().columns;
        let hash = Hasher::default().event(&name, &rows.events[at].hash, &columns);
        forged.hash = hash;
        for row in rows.events[at + 1..].iter_mut().filter(|row| row.stream == stream) {
            row.seq += 1;
        }
        rows.events.insert(at + 1, forged);
        assert!(whole.verify_from(&rows, At::Event(at + 1)).is_err(), "one after event {at}");
        if rows.events.get(at + 2).is_none_or(|next| next.stream != stream) {
            // At the end of a stream nothing follows that could miss it, and the stream's row can be made to fit.
            let head = rows.streams.iter_mut().find(|(id, ..)| *id == stream).unwrap();
            (head.2, head.3) = (head.2 + 1, hash);
            assert!(rows.verify().is_err(), "one after event {at}, the last");
        }
    }
    for at in 0..whole.rows.commits.len() {
        let mut rows = whole.rows.clone();
        rows.commits.remove(at);
        assert!(whole.verify_from(&rows, At::Commit(at)).is_err(), "commit {at} deleted");

        let mut rows = whole.rows.clone();
        if let Some([one, other]) = rows.commits.get_mut(at..at + 2).and_then(|two| two.as_mut_array::<2>()) {
            std::mem::swap(one, other);
            std::mem::swap(&mut one.id, &mut other.id);
            assert!(whole.verify_from(&rows, At::Commit(at)).is_err(), "commit {at} swapped");
        }

        // One that does nothing, with all after it hashed anew: only the anchor knows.
        let mut rows = whole.rows.clone();
        let idle = CommitRow { heads: Encoder::default().finish(), ..copy(&rows.commits[at]) };
        rows.commits.insert(at, idle);
        rows.commits[at + 1..].iter_mut().for_each(|commit| commit.id += 1);
        assert!(whole.verify_from(&rows, At::Commit(at)).is_err(), "one before commit {at}");
        rows.chain_anew(at);
        whole.verify_from(&rows, At::Commit(at)).unwrap();
        assert!(rows.against(&whole.evidence).is_err(), "one before commit {at}, hashed anew");
    }
    for at in 0..whole.rows.streams.len() {
        let mut rows = whole.rows.clone();
        let (id, ..) = rows.streams.remove(at);
        assert!(rows.verify().is_err(), "stream {id} deleted");
        rows.events.retain(|row| row.stream != id);
        assert!(rows.verify().is_err(), "stream {id} deleted with its events");
    }
}

#[tokio::test]
async fn every_cut_of_the_tail_and_every_older_copy_that_went_on_is_found_by_the_anchor() {
    let whole = whole().await;
    for size in 0..whole.rows.commits.len() {
        let mut rows = whole.rows.cut(size);
        // Nothing in the store shows it.
        rows.verify().unwrap();
        let found = rows.against(&whole.evidence);
        let is_told = match &found {
            Err(Fault::Refuted(Refuted::Cut { found, .. })) => *found == size as u64,
            Err(Fault::Refuted(Refuted::OtherStore { .. })) => size == 0,
            _ => false,
        };
        assert!(is_told, "cut to {size}: {found:?}");
        while rows.size() < whole.rows.size() + 3 {
            let (id, heads) = (rows.size() + 1, Encoder::default().finish());
            rows.commits.push(CommitRow { id, epoch: 9, time_ms: 1, heads, hash: GENESIS });
            rows.chain_anew(rows.commits.len() - 1);
        }
        rows.verify().unwrap();
        let found = rows.against(&whole.evidence);
        let agreed = size as u64 / PER_CHECKPOINT * PER_CHECKPOINT;
        let is_told = match &found {
            Err(Fault::Refuted(Refuted::Rewritten { agreed: at, .. })) => *at == agreed,
            Err(Fault::Refuted(Refuted::OtherStore { .. })) => size == 0,
            _ => false,
        };
        assert!(is_told, "an older copy of {size} commits that went on: {found:?}");
    }
}

#[tokio::test]
async fn a_chain_that_is_hashed_anew_from_any_point_is_found_by_the_anchor() {
    let whole = whole().await;
    for at in 0..whole.rows.events.len() {
        let mut rows = whole.rows.clone();
        rows.events[at].payload = payload("forged");
        rows.hash_anew(at);
        // Nothing in the store shows it. To see that costs as much as all else here, and one in ten will do.
        if at % 10 == 0 {
            rows.verify().unwrap();
        }
        assert!(rows.against(&whole.evidence).is_err(), "event {at}");
    }
    for at in 0..whole.rows.commits.len() {
        let mut rows = whole.rows.clone();
        rows.commits[at].time_ms += 1;
        rows.chain_anew(at);
        whole.verify_from(&rows, At::Commit(at)).unwrap();
        assert!(rows.against(&whole.evidence).is_err(), "commit {at}");
    }
}

/// What is shown of rows in memory holds of the store on disk: drawn changes, done by SQL.
#[tokio::test]
async fn drawn_changes_of_the_store_itself_are_found() {
    let whole = whole().await;
    let outsider = outsider(whole.dir.path());
    outsider.busy_timeout(Duration::from_secs(5)).unwrap();
    let update = "UPDATE events SET time_ms = ?3, agent = ?4, incarnation = ?5, cause = ?6, labels = ?7, kind = ?8,
        version = ?9, payload = ?10, hash = ?11 WHERE stream = ?1 AND seq = ?2";
    let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap();
    let set = |row: &Row| {
        let [agent, labels, kind] = [row.agent.as_ref(), row.labels.as_ref(), Some(&row.kind)].map(|is| is.map(text));
        let (seq, time_ms, cause) = (row.seq.cast_signed(), row.time_ms.cast_signed(), row.cause.map(u64::cast_signed));
        let (incarnation, version) = (row.incarnation, row.version);
        let columns =
            (row.stream, seq, time_ms, agent, incarnation, cause, labels, kind, version, &row.payload, row.hash);
        assert_eq!(outsider.execute(update, columns).unwrap(), 1);
    };
    let evidence = std::slice::from_ref(&whole.evidence);
    for change in 0..times("PROVOST_CHANGES", 30) {
        let was = &whole.rows.events[draw(&format!("row {change}"), whole.rows.events.len())];
        let mut row = was.clone();
        // Past the stream and the number, by which the row is found; a bit that leaves a text a text.
        assert!(row.change(16 + draw(&format!("byte {change}"), 90), 1));
        set(&row);
        let verified = verify_against(whole.dir.path(), evidence, &[]);
        assert!(matches!(verified, Err(Error::Damaged { .. })), "{change}: {verified:?}");
        set(was);
    }
    verify_against(whole.dir.path(), evidence, &[]).unwrap();
}
