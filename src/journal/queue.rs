//! What waits to be written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use super::blob::{self, Blob};
use super::notary::Standing;
use super::{Batch, Durable, Error, Part, Pruned, StreamName};

/// How long a batch that nobody waits for may wait for company.
const RIDE: Duration = Duration::from_millis(20);

/// So many bytes are written at once even if nobody waits for them, so that the one who comes next waits less.
const RIDE_BYTES: usize = 1 << 20;

/// Beyond so many bytes [`Queue::has_room`] waits: a few hundred milliseconds of a slow disk's work.
const ROOM_BYTES: usize = 32 << 20;

/// What a record takes in memory besides its payload, about.
const RECORD_BYTES: usize = 160;

/// Something that the writer is to do.
pub(super) enum Work {
    Batch(Prepared),
    Prune(Prune),
    /// A fault of the writer's own.
    #[cfg(test)]
    Panic,
}

/// A batch whose long strings have been taken out.
pub(super) struct Prepared {
    pub(super) parts: Vec<PreparedPart>,
    pub(super) durable: Vec<Durable>,
    bytes: usize,
}

/// A part, and the blobs that its records and its snapshot refer to.
pub(super) struct PreparedPart {
    pub(super) part: Part,
    pub(super) blobs: Vec<Blob>,
}

/// What is to be pruned, and who is told.
pub(super) struct Prune {
    pub(super) streams: Vec<StreamName>,
    pub(super) trim: Vec<StreamName>,
    pub(super) done: oneshot::Sender<Result<Pruned, Error>>,
}

impl Prepared {
    /// Takes the long strings out. This is work for whoever appends: the writer has enough to do.
    pub(super) fn new(batch: Batch) -> Self {
        let mut bytes = 0;
        let outlined = batch.parts.into_iter().map(|mut part| {
            let mut blobs = Vec::new();
            for record in &mut part.records {
                record.payload = blob::outline(std::mem::take(&mut record.payload), &mut blobs);
                bytes += RECORD_BYTES + record.payload.len();
            }
            if let Some(snapshot) = &mut part.snapshot {
                snapshot.state = blob::outline(std::mem::take(&mut snapshot.state), &mut blobs);
                bytes += snapshot.state.len();
            }
            bytes += blobs.iter().map(|blob| blob.bytes.len()).sum::<usize>();
            PreparedPart { part, blobs }
        });
        Self { parts: outlined.collect(), durable: batch.durable, bytes }
    }
}

impl Work {
    fn bytes(&self) -> usize {
        match self {
            Self::Batch(batch) => batch.bytes,
            _ => 0,
        }
    }

    fn is_waited_for(&self) -> bool {
        !matches!(self, Self::Batch(batch) if batch.durable.is_empty())
    }

    /// Tells whoever waits that it has failed.
    pub(super) fn fail(&mut self, error: &Error) {
        match self {
            Self::Batch(batch) => tell(&mut batch.durable, &Err(error.clone())),
            Self::Prune(prune) => {
                let (unheard, _) = oneshot::channel();
                let _ = std::mem::replace(&mut prune.done, unheard).send(Err(error.clone()));
            }
            #[cfg(test)]
            Self::Panic => {}
        }
    }
}

/// Calls what waits for a batch. What panics there is its own affair.
pub(super) fn tell(durable: &mut Vec<Durable>, result: &Result<(), Error>) {
    for durable in durable.drain(..) {
        let result = result.clone();
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || durable(result)));
    }
}

/// From so many on who waited for one commit, the next lets more gather first: they come back one after the other.
const CROWD: usize = 16;

/// For how long at the most; below that, for half as long as the last commit took. So a crowd waits a little longer than
/// it would have to, and the sync and the index pages that a commit touches are shared by more.
const GATHER: Duration = Duration::from_millis(5);

/// The line between those who append and the writer.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Tells the writer that there may be something to do.
    wake: Condvar,
    /// Tells the same to a writer that is a task.
    pushed: Notify,
    /// Tells those in [`Queue::has_room`] that there may be room.
    room: Notify,
    /// Tells those in [`Queue::failed`].
    failed: Notify,
    commits: AtomicU64,
    /// How the store stands, as far as it is durable.
    standing: Mutex<Option<Standing>>,
}

#[derive(Default)]
struct State {
    work: Vec<Work>,
    /// Of what is in line, and of what the writer has taken and not yet written.
    bytes: usize,
    taken_bytes: usize,
    /// How many in line somebody waits for, and since when.
    waited_for: usize,
    waiting_since: Option<Instant>,
    /// When the oldest in line came.
    since: Option<Instant>,
    /// When the writer took what it is writing, and for how many of that somebody waits.
    taken: Option<(Instant, usize)>,
    /// For how long what somebody waits for is let gather.
    gather: Duration,
    is_closed: bool,
    failure: Option<Error>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something in line.
    pub(super) fn push(&self, work: Work) -> Result<(), Error> {
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        if state.is_closed {
            return Err(Error::Closed);
        }
        let had_waiters = state.waited_for > 0;
        state.bytes += work.bytes();
        if work.is_waited_for() {
            state.waited_for += 1;
            state.waiting_since.get_or_insert_with(Instant::now);
        }
        let is_first = state.work.is_empty();
        if is_first {
            state.since = Some(Instant::now());
        }
        state.work.push(work);
        let wakes = is_first || (!had_waiters && state.waited_for > 0) || state.bytes > RIDE_BYTES;
        drop(state);
        if wakes {
            self.wake.notify_one();
            self.pushed.notify_one();
        }
        Ok(())
    }

    /// Waits until something is to be done, and takes all that is in line; `taken` must be empty. Returns false once the
    /// line is closed and empty.
    pub(super) fn take(&self, taken: &mut Vec<Work>) -> bool {
        let mut state = self.lock();
        loop {
            if state.is_due() || (state.is_closed && !state.work.is_empty()) {
                state.take(taken);
                return true;
            }
            if state.is_closed {
                return false;
            }
            let gathered = state.waiting_since.map(|since| state.gather.saturating_sub(since.elapsed()));
            let wait = gathered.or_else(|| state.since.map(|since| RIDE.saturating_sub(since.elapsed())));
            state = match wait {
                Some(wait) => self.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Waits until something is in line, however long ago it came, and says whether somebody waits for it; none once the
    /// line is closed and empty.
    pub(super) async fn is_due(&self) -> Option<bool> {
        loop {
            let pushed = self.pushed.notified();
            {
                let state = self.lock();
                if !state.work.is_empty() {
                    return Some(state.waited_for > 0);
                }
                if state.is_closed {
                    return None;
                }
            }
            pushed.await;
        }
    }

    /// Takes all that is in line; `taken` must be empty.
    pub(super) fn take_all(&self, taken: &mut Vec<Work>) {
        self.lock().take(taken);
    }

    /// Says that all that was taken has been written.
    pub(super) fn written(&self) {
        let mut state = self.lock();
        state.taken_bytes = 0;
        if let Some((began, waited_for)) = state.taken.take() {
            let is_crowded = waited_for >= CROWD;
            state.gather = if is_crowded { (began.elapsed() / 2).min(GATHER) } else { Duration::ZERO };
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// Counts a commit, after which the store stands so.
    pub(super) fn committed(&self, standing: Option<Standing>) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.stands(standing);
    }

    /// Says how the store stands.
    pub(super) fn stands(&self, standing: Option<Standing>) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    /// Returns how the store stands, as far as it is durable; none as long as it has no commits.
    pub(super) fn standing(&self) -> Option<Standing> {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many commits there have been.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Waits until there is room.
    pub(super) async fn has_room(&self) {
        loop {
            let notified = self.room.notified();
            let mut notified = std::pin::pin!(notified);
            notified.as_mut().enable();
            if self.lock().has_room() {
                return;
            }
            notified.await;
        }
    }

    /// Accepts nothing more. What is in line is still written.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.wake.notify_one();
        self.pushed.notify_one();
        self.failed.notify_waiters();
    }

    /// Accepts nothing more, for good; what is in line has failed.
    pub(super) fn fail(&self, error: &Error) {
        let mut state = self.lock();
        state.failure.get_or_insert_with(|| error.clone());
        let mut work = std::mem::take(&mut state.work);
        (state.bytes, state.taken_bytes) = (0, 0);
        drop(state);
        self.room.notify_waiters();
        self.failed.notify_waiters();
        work.iter_mut().for_each(|work| work.fail(error));
    }

    /// Returns why nothing is accepted any more, if that is so.
    fn over(&self) -> Option<Error> {
        let state = self.lock();
        state.failure.clone().or_else(|| state.is_closed.then_some(Error::Closed))
    }

    /// Waits until something has failed, or the line is closed.
    pub(super) async fn failed(&self) -> Error {
        loop {
            let told = self.failed.notified();
            let over = self.over();
            match over {
                Some(error) => return error,
                None => told.await,
            }
        }
    }

    /// Returns why nothing is accepted any more, if something has failed.
    pub(super) fn failure(&self) -> Option<Error> {
        self.lock().failure.clone()
    }

    /// Waits until the line is closed.
    pub(super) fn wait_closed(&self) {
        let mut state = self.lock();
        while !state.is_closed {
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    fn take(&mut self, taken: &mut Vec<Work>) {
        std::mem::swap(&mut self.work, taken);
        self.taken_bytes = std::mem::take(&mut self.bytes);
        self.taken = Some((Instant::now(), self.waited_for));
        (self.waited_for, self.waiting_since, self.since) = (0, None, None);
    }

    fn is_due(&self) -> bool {
        let has_gathered = self.waiting_since.is_some_and(|since| since.elapsed() >= self.gather);
        let is_old = || self.since.is_some_and(|since| since.elapsed() >= RIDE);
        has_gathered || self.bytes > RIDE_BYTES || is_old()
    }

    fn has_room(&self) -> bool {
        self.bytes + self.taken_bytes <= ROOM_BYTES || self.failure.is_some() || self.is_closed
    }
}
