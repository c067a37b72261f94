//! The record of a stream while the process lives: what is appended can be read from any number on, by any number of
//! readers, each at its own pace.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// An append-only record with one writer and any number of readers.
///
/// A record is bounded by what is written to it: a run's limits bound its events. Readers hold no place in it and slow
/// nobody down.
#[derive(Debug)]
pub struct Log<T> {
    records: Mutex<Vec<Arc<T>>>,
    /// How many records there are, and whether there will be no more.
    length: watch::Sender<(usize, bool)>,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self { records: Mutex::default(), length: watch::Sender::new((0, false)) }
    }
}

impl<T> Log<T> {
    /// Makes a log that begins with these records.
    pub fn of(records: Vec<Arc<T>>) -> Self {
        let length = watch::Sender::new((records.len(), false));
        Self { records: Mutex::new(records), length }
    }

    /// Appends a record. Only a stream's sequencer does so.
    pub fn append(&self, record: Arc<T>) {
        self.extend([record]);
    }

    /// Appends records, and tells the readers once.
    pub fn extend(&self, more: impl IntoIterator<Item = Arc<T>>) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.extend(more);
        let length = records.len();
        drop(records);
        self.length.send_modify(|(known, _)| *known = length);
    }

    /// Says that there will be no more records.
    pub fn close(&self) {
        self.length.send_modify(|(_, closed)| *closed = true);
    }

    /// Returns all records so far.
    pub fn snapshot(&self) -> Vec<Arc<T>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn get(&self, index: usize) -> Option<Arc<T>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).get(index).cloned()
    }

    /// Starts to read at the first record.
    pub fn reader(self: &Arc<Self>) -> Reader<T> {
        Reader { log: self.clone(), length: self.length.subscribe(), next: 0 }
    }
}

/// A place in a [`Log`].
#[derive(Debug)]
pub struct Reader<T> {
    log: Arc<Log<T>>,
    length: watch::Receiver<(usize, bool)>,
    next: usize,
}

impl<T> Reader<T> {
    /// Waits for the next record; none once the log is closed and read to its end. Cancel-safe: a record is either
    /// returned or still to come.
    pub async fn next(&mut self) -> Option<Arc<T>> {
        loop {
            // A reader with a long way to go lets others of its task have their turn.
            tokio::task::coop::consume_budget().await;
            if let Some(record) = self.log.get(self.next) {
                self.next += 1;
                return Some(record);
            }
            let next = self.next;
            let (length, _) = *self.length.wait_for(|&(length, closed)| length > next || closed).await.ok()?;
            if length <= next {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_reader_sees_every_record_once_and_then_the_end() {
        let log = Arc::new(Log::default());
        log.append(Arc::new(1));
        let mut early = log.reader();
        assert_eq!(early.next().await.as_deref(), Some(&1));
        log.append(Arc::new(2));
        log.close();
        let mut late = log.reader();
        assert_eq!(late.next().await.as_deref(), Some(&1));
        for reader in [&mut early, &mut late] {
            assert_eq!(reader.next().await.as_deref(), Some(&2));
            assert_eq!(reader.next().await, None);
        }
    }
}
