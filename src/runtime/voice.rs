//! What models say while they say it, for those who follow a run. It is not kept: what counts is the reply, which is an
//! event. Nobody waits here: a run is as fast with a slow follower as without one.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::{Receiver, Sender};

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
pub(crate) struct Voice(OnceLock<Sender<Said>>);

impl Voice {
    /// Begins to follow: events by `events`, and what is said from here on.
    pub(crate) fn follow(&self, events: Reader<Envelope>) -> Follower {
        let said = self.0.get_or_init(|| Sender::new(PIECES)).subscribe();
        Follower { events, said: Some(said), seen: 0, next: None, waiting: None }
    }

    /// Whether somebody follows.
    pub(crate) fn is_followed(&self) -> bool {
        self.followers().is_some()
    }

    fn followers(&self) -> Option<&Sender<Said>> {
        self.0.get().filter(|followers| followers.receiver_count() > 0)
    }

    /// Passes on what another follower was told.
    pub(crate) fn pass_on(&self, tokens: Arc<Tokens>) {
        self.tell(Said::Tokens(tokens));
    }

    /// Passes on that another follower was too slow.
    pub(crate) fn pass_on_missed(&self, count: u64) {
        self.tell(Said::Missed(count));
    }

    fn tell(&self, said: Said) {
        if let Some(followers) = self.followers() {
            // Who followed may have gone just now.
            let _ = followers.send(said);
        }
    }
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

    /// Tells those who follow of a piece. Where nobody does, this is two looks.
    pub(super) fn piece(&self, text: &str) {
        if self.voice.is_followed() {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
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
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
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
            self.voice.tell(Said::Tokens(Arc::new(tokens)));
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
    /// None once nothing more will be said.
    said: Option<Receiver<Said>>,
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
                match self.said.as_mut().filter(|_| !is_silent) {
                    Some(said) => said.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = self.events.next() => match event {
                    Some(event) => self.next = Some(event),
                    None => return self.last(),
                },
                said = said => match said {
                    Ok(said) => self.waiting = Some(said),
                    Err(RecvError::Lagged(count)) => self.waiting = Some(Said::Missed(count)),
                    Err(RecvError::Closed) => self.said = None,
                },
            }
        }
    }

    /// Returns what can be told at once, of what has been taken.
    fn ready(&mut self) -> Option<Happening> {
        if self.waiting.is_none() && self.next.is_some() {
            self.waiting = self.take_said();
        }
        if let Some(said) = self.waiting.take_if(|said| said.cause() <= self.seen) {
            return Some(said.told());
        }
        let event = self.next.take()?;
        self.seen = event.seq;
        Some(Happening::Event(event))
    }

    /// Takes something that has been said already.
    fn take_said(&mut self) -> Option<Said> {
        match self.said.as_mut()?.try_recv() {
            Ok(said) => Some(said),
            Err(TryRecvError::Lagged(count)) => Some(Said::Missed(count)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => {
                self.said = None;
                None
            }
        }
    }

    /// Returns what was said last, after the last event.
    fn last(&mut self) -> Option<Happening> {
        let said = self.waiting.take().or_else(|| self.take_said())?;
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
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::journal::Log;
    use crate::model::Finish;
    use crate::run::{AgentId, Body, Event, Labels, Message, Origin, Stream, Subject};

    /// A run in which models speak, in the order in which the runtime lets things happen.
    struct Run {
        log: Arc<Log<Envelope>>,
        voice: Voice,
        id: RunId,
        seq: u64,
    }

    impl Run {
        fn new() -> Self {
            Self { log: Arc::default(), voice: Voice::default(), id: RunId::new("r"), seq: 0 }
        }

        fn follow(&self) -> Follower {
            self.voice.follow(self.log.reader())
        }

        fn event(&mut self, event: Event) -> u64 {
            self.seq += 1;
            let stream = Arc::new(Stream { run: self.id.clone(), tenant: "t".into(), session: None });
            let (agent, labels) = (event.call().map(|call| call.agent.clone()), Labels::default());
            let envelope =
                Envelope { stream, seq: self.seq, time_ms: 0, agent, incarnation: 1, cause: None, labels, event };
            self.log.append(Arc::new(envelope));
            self.seq
        }

        fn intended(&mut self, call: &CallId, attempt: u32) -> u64 {
            let subject = Subject::Model { model: "m".into(), max_output_tokens: 1 };
            let reserved = Default::default();
            self.event(Event::CallIntended { call: call.clone(), attempt, subject, effect: None, reserved })
        }

        fn replied(&mut self, call: &CallId, text: &str) {
            let body = Body::Assistant { text: text.to_owned(), tool_calls: Vec::new() };
            let origin = Origin::Model("m".to_owned());
            let message = Arc::new(Message { body, labels: Labels::default(), origin });
            let (finish, charged) = (Finish::Stop, Default::default());
            let call = call.clone();
            self.event(Event::ModelReplied { call, message, finish, malformed: None, usage: None, charged });
        }

        fn speech<'a>(&'a self, call: &'a CallId, attempt: u32, cause: u64) -> Speech<'a> {
            Speech::new(&self.voice, &self.id, call, attempt, cause)
        }
    }

    fn call(nth: usize) -> CallId {
        CallId::model(&AgentId::new(format!("a{nth}")), 1)
    }

    fn told(follower: &mut Follower) -> Vec<Happening> {
        std::iter::from_fn(|| follower.next().now_or_never().flatten()).collect()
    }

    fn pieces(told: &[Happening]) -> Vec<(usize, &str)> {
        let piece = |happening| match happening {
            &Happening::Tokens(ref tokens) => Some((tokens.offset, &*tokens.text)),
            _ => None,
        };
        told.iter().filter_map(piece).collect()
    }

    #[test]
    fn where_nobody_follows_nothing_is_kept() {
        let run = Run::new();
        let one = call(1);
        let speech = run.speech(&one, 1, 1);
        speech.piece("unheard");
        drop(run.follow());
        speech.piece("unheard");
        speech.end("unheard");
        assert_eq!((speech.said.lock().unwrap().capacity(), run.voice.is_followed()), (0, false));
    }

    #[test]
    fn whoever_follows_is_told_the_whole_reply_and_nothing_else() {
        for (said, reply, expected) in [
            (&["It ", "is."][..], "It is.", &[(0, "It "), (3, "is.")][..]),
            (&[], "It is.", &[(0, "It is.")]),
            (&["It "], "It is.", &[(0, "It "), (3, "is.")]),
            // It was no text.
            (&["{\"name\": "], "", &[(0, "{\"name\": "), (0, "")]),
            (&[], "", &[]),
        ] {
            let mut run = Run::new();
            let mut follower = run.follow();
            let one = call(1);
            let cause = run.intended(&one, 1);
            let speech = run.speech(&one, 1, cause);
            said.iter().for_each(|piece| speech.piece(piece));
            speech.end(reply);
            assert_eq!(pieces(&told(&mut follower)), expected);
        }
    }

    #[test]
    fn a_long_piece_is_split_between_characters() {
        let mut run = Run::new();
        let mut follower = run.follow();
        let one = call(1);
        let cause = run.intended(&one, 1);
        let text = "ü".repeat(PIECE_BYTES);
        run.speech(&one, 1, cause).piece(&format!(".{text}"));
        let told = told(&mut follower);
        let lengths: Vec<usize> = pieces(&told).iter().map(|(_, text)| text.len()).collect();
        assert_eq!(lengths, [PIECE_BYTES - 1, PIECE_BYTES, 2]);
    }

    #[test]
    fn a_slow_follower_misses_the_oldest_and_is_told_how_much_and_no_event() {
        const MORE: usize = 10;
        let mut run = Run::new();
        let mut follower = run.follow();
        let one = call(1);
        let cause = run.intended(&one, 1);
        let speech = run.speech(&one, 1, cause);
        (0..PIECES + MORE).for_each(|_| speech.piece("x"));
        speech.end(&"x".repeat(PIECES + MORE));
        run.replied(&one, "");
        let told = told(&mut follower);
        let missed: Vec<u64> = told
            .iter()
            .filter_map(|happening| match happening {
                Happening::Missed(count) => Some(*count),
                _ => None,
            })
            .collect();
        assert_eq!(missed, [MORE as u64]);
        let left = pieces(&told);
        assert_eq!((left.len(), left[0].0), (PIECES, MORE), "the offset says where it goes on");
        assert!(matches!(told.last(), Some(Happening::Event(envelope)) if envelope.seq == 2));
    }

    #[tokio::test]
    async fn what_is_said_last_is_told_before_the_end() {
        let mut run = Run::new();
        let mut follower = run.follow();
        let one = call(1);
        let cause = run.intended(&one, 1);
        run.speech(&one, 1, cause).piece("to the end");
        run.log.close();
        assert!(matches!(follower.next().await, Some(Happening::Event(_))));
        assert!(matches!(follower.next().await, Some(Happening::Tokens(_))));
        assert!(follower.next().await.is_none());
    }

    proptest! {
        /// Several calls at once, tried again and again, while a follower looks now and then: what a try says comes after its
        /// intent and before what became of it, in order.
        #[test]
        fn what_is_said_comes_between_intent_and_result(steps in proptest::collection::vec((0usize..4, 0u8..4), 1..200)) {
            let mut run = Run::new();
            let mut follower = run.follow();
            let calls: Vec<CallId> = (0..4).map(call).collect();
            let mut causes = [0u64; 4];
            let mut attempts = [0u32; 4];
            let mut said = vec![String::new(); 4];
            let mut seen = Vec::new();
            for (nth, what) in steps {
                match (what, causes[nth]) {
                    (0, _) => seen.extend(follower.next().now_or_never().flatten()),
                    (_, 0) => {
                        attempts[nth] += 1;
                        causes[nth] = run.intended(&calls[nth], attempts[nth]);
                        said[nth].clear();
                    }
                    (1 | 2, cause) => {
                        let piece = format!("{}.", said[nth].len());
                        let speech = run.speech(&calls[nth], attempts[nth], cause);
                        speech.said.lock().unwrap().push_str(&said[nth]);
                        speech.piece(&piece);
                        said[nth].push_str(&piece);
                    }
                    (_, _) => {
                        run.replied(&calls[nth], &said[nth]);
                        causes[nth] = 0;
                    }
                }
            }
            run.log.close();
            seen.extend(told(&mut follower));
            let mut open: Vec<Option<(u64, String)>> = vec![None; 4];
            let mut events = 0;
            for happening in seen {
                match happening {
                    Happening::Missed(_) => prop_assert!(false, "nothing is missed"),
                    Happening::Tokens(tokens) => {
                        let nth = calls.iter().position(|call| *call == tokens.call).unwrap();
                        let (cause, text) = open[nth].as_mut().expect("it has been intended, and is not over");
                        prop_assert_eq!((*cause, text.len()), (tokens.cause, tokens.offset));
                        text.push_str(&tokens.text);
                    }
                    Happening::Event(envelope) => {
                        events += 1;
                        prop_assert_eq!(envelope.seq, events);
                        let nth = calls.iter().position(|call| Some(call) == envelope.event.call()).unwrap();
                        match &envelope.event {
                            Event::ModelReplied { message, .. } => {
                                let (_, text) = open[nth].take().unwrap();
                                prop_assert_eq!(text.as_str(), message.text());
                            }
                            _ => open[nth] = Some((envelope.seq, String::new())),
                        }
                    }
                }
            }
            prop_assert_eq!(events, run.seq);
        }
    }
}
