//! What models say while they say it, for those who follow a run. It is not kept: what counts is the reply, which is an
//! event. Nobody waits here: a run is as fast with a slow follower as without one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::journal::Reader;
use crate::run::{CallId, Envelope, RunId};

/// How many pieces wait for a follower that is slower than its run's models: a few long answers. A piece more takes the
/// place of the oldest.
const PIECES: usize = 8_192;

/// How long a piece is at most, in bytes, so that those that wait take no more than a few megabytes; a longer one is split.
const PIECE_BYTES: usize = 1_024;

/// A piece of what a model says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The run.
    pub run: RunId,
    /// The model call, which names the agent.
    pub call: CallId,
    /// Which try of it. What a try has said that fails is void.
    pub attempt: u32,
    /// The number of the event that says that the try was begun.
    pub cause: u64,
    /// Where the piece stands in what the try says, in bytes. What was said from there on before is void.
    pub offset: usize,
    /// The piece.
    pub text: Box<str>,
}

/// Something that a follower is told beside events.
#[derive(Clone, Debug)]
enum Said {
    Tokens(Arc<Tokens>),
    Missed(u64),
}

/// The way from a run's models to those who follow it.
#[derive(Debug, Default)]
pub(crate) struct Voice {
    queues: Mutex<Vec<Arc<Queue>>>,
    /// How many there are, so that it is seen at once where there is none.
    followers: AtomicUsize,
}

/// What one follower has not heard yet.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    pieces: VecDeque<Arc<Tokens>>,
    missed: u64,
}

impl Voice {
    /// Begins to follow: events by `events`, and what is said from here on.
    pub(crate) fn follow(self: &Arc<Self>, events: Reader<Envelope>) -> Follower {
        let queue = Arc::new(Queue::default());
        lock(&self.queues).push(queue.clone());
        self.followers.fetch_add(1, Ordering::AcqRel);
        Follower { events, said: Listening { voice: self.clone(), queue }, seen: 0, next: None, waiting: None }
    }

    /// Whether somebody follows.
    pub(crate) fn is_followed(&self) -> bool {
        self.followers.load(Ordering::Acquire) > 0
    }

    /// Passes on what another follower was told.
    pub(crate) fn pass_on(&self, tokens: &Arc<Tokens>) {
        lock(&self.queues).iter().for_each(|queue| queue.push(tokens.clone()));
    }

    /// Passes on that another follower was too slow.
    pub(crate) fn pass_on_missed(&self, count: u64) {
        for queue in &*lock(&self.queues) {
            lock(&queue.waiting).missed += count;
            queue.more.notify_one();
        }
    }
}

impl Queue {
    fn push(&self, tokens: Arc<Tokens>) {
        let mut waiting = lock(&self.waiting);
        if waiting.pieces.len() == PIECES {
            waiting.pieces.pop_front();
            waiting.missed += 1;
        }
        waiting.pieces.push_back(tokens);
        drop(waiting);
        self.more.notify_one();
    }

    fn take(&self) -> Option<Said> {
        let mut waiting = lock(&self.waiting);
        match std::mem::take(&mut waiting.missed) {
            0 => waiting.pieces.pop_front().map(Said::Tokens),
            missed => Some(Said::Missed(missed)),
        }
    }
}

/// A place among those who follow; left when this is dropped.
#[derive(Debug)]
struct Listening {
    voice: Arc<Voice>,
    queue: Arc<Queue>,
}

impl Listening {
    /// Waits for what is said next. Cancel-safe.
    async fn next(&self) -> Said {
        loop {
            let more = self.queue.more.notified();
            if let Some(said) = self.queue.take() {
                return said;
            }
            more.await;
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        lock(&self.voice.queues).retain(|queue| !Arc::ptr_eq(queue, &self.queue));
        self.voice.followers.fetch_sub(1, Ordering::AcqRel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one try of a model call says.
pub(super) struct Speech<'a> {
    voice: &'a Voice,
    run: &'a RunId,
    call: &'a CallId,
    attempt: u32,
    cause: u64,
    /// What followers have been told, since there were any.
    said: Mutex<String>,
}

impl<'a> Speech<'a> {
    pub(super) fn new(voice: &'a Voice, run: &'a RunId, call: &'a CallId, attempt: u32, cause: u64) -> Self {
        Self { voice, run, call, attempt, cause, said: Mutex::default() }
    }

    /// Tells those who follow of a piece. Where nobody does, this is one look.
    pub(super) fn piece(&self, text: &str) {
        if self.voice.is_followed() {
            let mut said = lock(&self.said);
            self.tell(said.len(), text);
            said.push_str(text);
        }
    }

    /// The try has come to this reply. Those who follow have been told all of it then, and nothing else: a provider may have
    /// said it in one piece, or taken what it said for something other than text.
    pub(super) fn end(&self, reply: &str) {
        if !self.voice.is_followed() {
            return;
        }
        let said = lock(&self.said);
        match reply.strip_prefix(&**said) {
            Some("") => {}
            Some(rest) => self.tell(said.len(), rest),
            None => self.tell(0, reply),
        }
    }

    fn tell(&self, offset: usize, text: &str) {
        let (mut offset, mut rest) = (offset, text);
        loop {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES));
            let (run, call, text) = (self.run.clone(), self.call.clone(), piece.into());
            let tokens = Tokens { run, call, attempt: self.attempt, cause: self.cause, offset, text };
            self.voice.pass_on(&Arc::new(tokens));
            (offset, rest) = (offset + piece.len(), after);
            if rest.is_empty() {
                return;
            }
        }
    }
}

/// Something that happens in a run that is followed.
#[derive(Clone, Debug)]
pub enum Happening {
    /// An event.
    Event(Arc<Envelope>),
    /// A model says something. It is not kept, and has no number.
    Tokens(Arc<Tokens>),
    /// The follower was too slow: it was not told of so many pieces of what models said. No event is missed.
    Missed(u64),
}

/// Follows a run: its events, and between them what its models say. What a try of a call says comes after the event that
/// it was begun, and before the one that says what became of it.
///
/// It holds nothing up. What models say waits for it within a bound, and what goes beyond that is missed.
#[derive(Debug)]
pub struct Follower {
    events: Reader<Envelope>,
    said: Listening,
    /// The number of the last event that was told.
    seen: u64,
    /// An event that is to be told after what was said before it.
    next: Option<Arc<Envelope>>,
    /// What was said after an event that has not been told yet.
    waiting: Option<Said>,
}

impl Follower {
    /// Waits for what happens next; none when nothing more will. Cancel-safe.
    pub async fn next(&mut self) -> Option<Happening> {
        loop {
            if let Some(happening) = self.ready() {
                return Some(happening);
            }
            // Nothing is taken of what is said while a piece waits for its event: that is on its way.
            let is_silent = self.waiting.is_some();
            let said = async {
                match is_silent {
                    false => self.said.next().await,
                    true => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = self.events.next() => match event {
                    Some(event) => self.next = Some(event),
                    None => return self.last(),
                },
                said = said => self.waiting = Some(said),
            }
        }
    }

    /// Returns what can be told at once, of what has been taken.
    fn ready(&mut self) -> Option<Happening> {
        if self.waiting.is_none() && self.next.is_some() {
            self.waiting = self.said.queue.take();
        }
        if let Some(said) = self.waiting.take_if(|said| said.cause() <= self.seen) {
            return Some(said.told());
        }
        let event = self.next.take()?;
        self.seen = event.seq;
        Some(Happening::Event(event))
    }

    /// Returns what was said last, after the last event.
    fn last(&mut self) -> Option<Happening> {
        let said = self.waiting.take().or_else(|| self.said.queue.take())?;
        Some(said.told())
    }
}

impl Said {
    /// The event that it follows.
    fn cause(&self) -> u64 {
        match self {
            Self::Tokens(tokens) => tokens.cause,
            Self::Missed(_) => 0,
        }
    }

    fn told(self) -> Happening {
        match self {
            Self::Tokens(tokens) => Happening::Tokens(tokens),
            Self::Missed(count) => Happening::Missed(count),
        }
    }
}

#[cfg(test)]
mod tests;
