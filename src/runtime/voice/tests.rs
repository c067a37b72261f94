//! What followers of a run hear of what its models say.

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::journal::Log;
use crate::model::Finish;
use crate::run::{AgentId, Body, Event, Labels, Message, Origin, Stream, Subject};

/// A run in which models speak, in the order in which the runtime lets things happen.
struct Run {
    log: Arc<Log<Envelope>>,
    voice: Arc<Voice>,
    id: RunId,
    seq: u64,
}

impl Run {
    fn new() -> Self {
        Self { log: Arc::default(), voice: Arc::default(), id: RunId::new("r"), seq: 0 }
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
        self.event(Event::ModelReplied { call, message, finish, malformed: None, usage: None, charged, covers: None });
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
    let pieces = told.iter().filter_map(|happening| match happening {
        Happening::Tokens(tokens) => Some((tokens.offset, &*tokens.text)),
        _ => None,
    });
    pieces.collect()
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
