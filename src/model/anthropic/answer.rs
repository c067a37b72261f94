//! An answer in the Messages dialect.

use serde_json::{Map, Value};

use crate::model::http::answer::{self, MAX_TOOL_CALLS, Step, TooManyCalls, tokens};
use crate::model::{Finish, Reply};
use crate::run::{ToolCall, Usage};

/// What has come of an answer so far.
#[derive(Default)]
pub(in crate::model) struct Answer {
    text: String,
    calls: Vec<PartialCall>,
    finish: Option<Finish>,
    input: Option<Input>,
    /// How much the model has written by the last count, thinking included.
    output_tokens: Option<u64>,
    begun: bool,
    /// Whether the model is thinking, and whether it has.
    thinking: bool,
    thought: bool,
    stopped: bool,
}

#[derive(Default)]
struct PartialCall {
    index: Option<u64>,
    name: String,
    /// What the call began with, which counts where no pieces follow.
    given: String,
    pieces: String,
}

/// What the model has read.
#[derive(Clone, Copy)]
struct Input {
    tokens: u64,
    cached: u64,
    cache_write: u64,
}

impl answer::Answer for Answer {
    const ENDS_WITH_DONE: bool = false;

    fn take_whole(&mut self, body: &Value) -> Result<bool, TooManyCalls> {
        self.take_usage(body);
        let Some(blocks) = body.get("content").and_then(Value::as_array) else { return Ok(false) };
        for block in blocks {
            self.begin_block(block, None)?;
        }
        self.take_finish(body);
        (self.begun, self.stopped) = (true, true);
        Ok(true)
    }

    fn take_piece(&mut self, piece: &Value, progress: &dyn Fn(&str)) -> Result<Step, TooManyCalls> {
        let index = piece.get("index").and_then(Value::as_u64);
        let before = self.text.len();
        let step = match text_of(piece, "type") {
            "message_start" => {
                self.take_input(piece.get("message"));
                Step::Nothing
            }
            "content_block_start" => {
                let block = piece.get("content_block").unwrap_or(&Value::Null);
                self.begin_block(block, index)?;
                let is_empty = text_of(block, "type") == "text" && self.text.len() == before;
                if is_empty { Step::Nothing } else { Step::GotOn }
            }
            "content_block_delta" => self.take_delta(piece.get("delta").unwrap_or(&Value::Null), index),
            "content_block_stop" => {
                self.thinking = false;
                Step::GotOn
            }
            "message_delta" => {
                self.take_usage(piece);
                piece.get("delta").into_iter().for_each(|delta| self.take_finish(delta));
                Step::GotOn
            }
            "message_stop" => {
                self.stopped = true;
                Step::Done
            }
            // Pings, and what later versions of the dialect bring.
            _ => return Ok(Step::Nothing),
        };
        self.begun = true;
        if self.text.len() > before {
            progress(&self.text[before..]);
        }
        Ok(step)
    }

    fn is_finished(&self) -> bool {
        self.stopped
    }

    fn has_begun(&self) -> bool {
        self.begun
    }

    fn has_written(&self) -> bool {
        self.thought || !self.text.is_empty() || !self.calls.is_empty()
    }

    fn is_thinking(&self) -> bool {
        self.thinking
    }

    /// None before the provider has counted what the model wrote: at its begin, a message says a small number that
    /// means nothing yet, and what was cut off then counts in full.
    fn usage(&self) -> Option<Usage> {
        let (input, output_tokens) = (self.input?, self.output_tokens?);
        let Input { tokens: input_tokens, cached: cached_input_tokens, cache_write: cache_write_tokens } = input;
        let usage = Usage { input_tokens, cached_input_tokens, cache_write_tokens, output_tokens };
        (usage.tokens() > 0).then_some(usage)
    }

    /// A tool call without a name is left out, and said to be. One whose input is no object stays, so that the model is
    /// told of it as of any other call. What a model asks for in an answer that is withheld is not to be done.
    fn into_reply(self) -> Reply {
        let usage = self.usage();
        let finish = self.finish.unwrap_or_default();
        let calls = if finish == Finish::Filtered { Vec::new() } else { self.calls };
        let nameless = calls.iter().any(|call| call.name.is_empty());
        let tool_calls: Vec<ToolCall> =
            calls.into_iter().filter(|call| !call.name.is_empty()).map(PartialCall::finish).collect();
        let broken =
            tool_calls.iter().find(|call| serde_json::from_str::<Map<String, Value>>(&call.arguments).is_err());
        let malformed = match broken {
            _ if nameless => Some("a tool call must give the tool's name".to_owned()),
            Some(call) => Some(format!("the input of the call of `{}` is no JSON object", call.name)),
            None => None,
        };
        Reply { text: self.text, tool_calls, usage, finish, malformed, pause: None }
    }
}

impl Answer {
    fn begin_block(&mut self, block: &Value, index: Option<u64>) -> Result<(), TooManyCalls> {
        self.thinking = false;
        match text_of(block, "type") {
            "text" => self.text.push_str(text_of(block, "text")),
            "thinking" | "redacted_thinking" => (self.thinking, self.thought) = (true, true),
            "tool_use" if self.calls.len() >= MAX_TOOL_CALLS => return Err(TooManyCalls),
            "tool_use" => {
                let given = match block.get("input") {
                    Some(Value::String(text)) => text.clone(),
                    Some(input) if !input.is_null() => input.to_string(),
                    _ => String::new(),
                };
                let name = text_of(block, "name").to_owned();
                self.calls.push(PartialCall { index, name, given, pieces: String::new() });
            }
            // Tools that the provider itself runs were not offered.
            _ => {}
        }
        Ok(())
    }

    fn take_delta(&mut self, delta: &Value, index: Option<u64>) -> Step {
        let piece = match text_of(delta, "type") {
            "text_delta" => {
                let piece = text_of(delta, "text");
                self.text.push_str(piece);
                piece
            }
            "input_json_delta" => {
                let piece = text_of(delta, "partial_json");
                let call = self.calls.iter_mut().rfind(|call| call.index == index);
                call.into_iter().for_each(|call| call.pieces.push_str(piece));
                piece
            }
            // What a model thinks is no part of the answer, but a sign of life.
            "thinking_delta" => text_of(delta, "thinking"),
            "signature_delta" => text_of(delta, "signature"),
            _ => "",
        };
        if piece.is_empty() { Step::Nothing } else { Step::GotOn }
    }

    fn take_finish(&mut self, said: &Value) {
        let Some(reason) = said.get("stop_reason").and_then(Value::as_str) else { return };
        self.finish = Some(match reason {
            "max_tokens" | "model_context_window_exceeded" => Finish::Length,
            "refusal" => Finish::Filtered,
            // `end_turn`, `tool_use`, `stop_sequence`; and `pause_turn`, which is for tools of the provider's own.
            _ => Finish::Stop,
        });
    }

    fn take_usage(&mut self, said: &Value) {
        self.take_input(Some(said));
        let written = tokens(said.get("usage").and_then(|usage| usage.get("output_tokens")));
        self.output_tokens = written.or(self.output_tokens);
    }

    /// The last count that makes sense counts. Some servers count again at the end of a message, and some say nothing
    /// there in numbers.
    fn take_input(&mut self, said: Option<&Value>) {
        let input = said.and_then(|said| said.get("usage")).and_then(input);
        self.input = input.filter(|input| input.tokens > 0 || self.input.is_none()).or(self.input);
    }
}

impl PartialCall {
    fn finish(self) -> ToolCall {
        let written = [self.pieces, self.given].into_iter().find(|written| !written.trim().is_empty());
        ToolCall { name: self.name, arguments: written.unwrap_or_else(|| "{}".to_owned()) }
    }
}

/// Reads what was read: what was taken from the cache and what was put there beside the rest; none if one of these can't
/// be true.
fn input(usage: &Value) -> Option<Input> {
    let part = |name: &str| match usage.get(name) {
        None | Some(Value::Null) => Some(0),
        value => tokens(value),
    };
    let cached = part("cache_read_input_tokens")?;
    let cache_write = part("cache_creation_input_tokens")?;
    let tokens = tokens(usage.get("input_tokens"))? + cache_write + cached;
    Some(Input { tokens, cached, cache_write })
}

fn text_of<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::answer::Answer as _;
    use super::*;

    fn whole(content: Value) -> Reply {
        let mut answer = Answer::default();
        assert!(answer.take_whole(&json!({"content": content, "stop_reason": "tool_use"})).unwrap());
        answer.into_reply()
    }

    fn of(pieces: &[Value]) -> Answer {
        let mut answer = Answer::default();
        for piece in pieces {
            answer.take_piece(piece, &|_| {}).unwrap();
        }
        answer
    }

    fn calls_of(reply: &Reply) -> Vec<(&str, &str)> {
        reply.tool_calls.iter().map(|call| (call.name.as_str(), call.arguments.as_str())).collect()
    }

    #[test]
    fn calls_with_missing_or_odd_fields_are_understood() {
        let reply = whole(json!([
            {"type": "text", "text": "I "},
            {"type": "tool_use", "id": "1", "name": "a", "input": {"x": 1}},
            {"type": "text", "text": "look."},
            {"type": "tool_use", "id": "2", "name": "b"},
            {"type": "tool_use", "id": "3", "name": "c", "input": null},
            {"type": "tool_use", "id": "4", "name": "d", "input": "{\"x\":1}"},
            {"type": "server_tool_use", "id": "5", "name": "e", "input": {}},
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            "nonsense",
        ]));
        assert_eq!(calls_of(&reply), [("a", r#"{"x":1}"#), ("b", "{}"), ("c", "{}"), ("d", r#"{"x":1}"#)]);
        assert_eq!((reply.text.as_str(), reply.malformed), ("I look.", None));
    }

    #[test]
    fn an_input_that_is_no_object_is_malformed_and_kept() {
        for input in [json!([1]), json!("{\"x\":"), json!(1)] {
            let reply = whole(json!([{"type": "tool_use", "name": "a", "input": input}]));
            assert_eq!(reply.tool_calls.len(), 1);
            assert!(reply.malformed.unwrap().contains("`a`"));
        }
        let nameless = whole(json!([{"type": "tool_use", "input": {}}]));
        assert_eq!((nameless.tool_calls.len(), nameless.malformed.is_some()), (0, true));
    }

    #[test]
    fn pieces_of_calls_find_their_call() {
        let begin = |index: u64, name: &str| json!({"type": "content_block_start", "index": index, "content_block": {"type": "tool_use", "id": "x", "name": name, "input": {}}});
        let piece = |index: u64, json: &str| json!({"type": "content_block_delta", "index": index, "delta": {"type": "input_json_delta", "partial_json": json}});
        let reply = of(&[
            begin(1, "a"),
            piece(1, ""),
            piece(1, "{\"x\""),
            begin(2, "b"),
            piece(2, "{\"y\""),
            piece(1, ":1}"),
            piece(2, ":2}"),
            piece(7, "nobody's"),
            begin(3, "c"),
        ])
        .into_reply();
        assert_eq!(calls_of(&reply), [("a", r#"{"x":1}"#), ("b", r#"{"y":2}"#), ("c", "{}")]);
    }

    #[test]
    fn the_number_of_calls_is_bounded() {
        let mut answer = Answer::default();
        let block = json!({"type": "content_block_start", "content_block": {"type": "tool_use", "name": "a"}});
        let result = (0..=MAX_TOOL_CALLS).try_for_each(|_| answer.take_piece(&block, &|_| {}).map(drop));
        assert!(result.is_err());
    }

    #[test]
    fn only_what_carries_something_gets_the_answer_on() {
        let mut answer = Answer::default();
        let mut step = |kind: &str, more: Value| {
            let mut piece = json!({"type": kind, "index": 0});
            piece.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            answer.take_piece(&piece, &|_| {}).unwrap()
        };
        assert_eq!(step("ping", json!({})), Step::Nothing);
        assert_eq!(step("message_start", json!({"message": {"usage": {}}})), Step::Nothing);
        assert_eq!(step("content_block_start", json!({"content_block": {"type": "text", "text": ""}})), Step::Nothing);
        assert_eq!(step("content_block_start", json!({"content_block": {"type": "thinking"}})), Step::GotOn);
        let delta = |kind: &str, name: &str| json!({"delta": {"type": kind, name: "x"}});
        assert_eq!(step("content_block_delta", delta("thinking_delta", "thinking")), Step::GotOn);
        assert_eq!(step("content_block_delta", delta("citations_delta", "citation")), Step::Nothing);
        assert_eq!(step("content_block_delta", delta("text_delta", "text")), Step::GotOn);
        assert_eq!(step("content_block_delta", json!({})), Step::Nothing);
        assert_eq!(step("message_hum", json!({})), Step::Nothing);
        assert_eq!(step("message_stop", json!({})), Step::Done);
    }

    #[test]
    fn a_finish_is_mapped() {
        for (reason, finish) in [
            ("end_turn", Finish::Stop),
            ("tool_use", Finish::Stop),
            ("stop_sequence", Finish::Stop),
            ("pause_turn", Finish::Stop),
            ("max_tokens", Finish::Length),
            ("model_context_window_exceeded", Finish::Length),
            ("refusal", Finish::Filtered),
        ] {
            let whole = json!({"content": [{"type": "tool_use", "name": "a", "input": {}}], "stop_reason": reason});
            let mut answer = Answer::default();
            answer.take_whole(&whole).unwrap();
            let reply = answer.into_reply();
            assert_eq!((reply.finish, reply.tool_calls.len()), (finish, usize::from(reason != "refusal")), "{reason}");
            let streamed = of(&[json!({"type": "message_delta", "delta": {"stop_reason": reason}})]).into_reply();
            assert_eq!(streamed.finish, finish, "{reason}");
        }
    }

    #[test]
    fn usage_counts_all_that_was_read_and_believes_no_nonsense() {
        let of = |usage: &str| {
            let usage: Value = serde_json::from_str(usage).unwrap();
            let mut answer = Answer::default();
            answer.take_whole(&json!({"content": [], "usage": usage})).unwrap();
            answer.usage()
        };
        let used = |input_tokens, cached_input_tokens| Usage {
            input_tokens,
            cached_input_tokens,
            output_tokens: 5,
            ..Usage::default()
        };
        assert_eq!(of(r#"{"input_tokens":10,"output_tokens":5}"#), Some(used(10, 0)));
        let cached =
            r#"{"input_tokens":10,"output_tokens":5,"cache_read_input_tokens":300,"cache_creation_input_tokens":4000}"#;
        assert_eq!(of(cached), Some(Usage { cache_write_tokens: 4000, ..used(4310, 300) }));
        let none = r#"{"input_tokens":10,"output_tokens":5,"cache_read_input_tokens":null}"#;
        assert_eq!(of(none), Some(used(10, 0)));
        for wrong in [
            "null",
            "[]",
            "{}",
            r#"{"input_tokens":10}"#,
            r#"{"output_tokens":10}"#,
            r#"{"input_tokens":-1,"output_tokens":5}"#,
            r#"{"input_tokens":1.5,"output_tokens":5}"#,
            r#"{"input_tokens":10,"output_tokens":1e300}"#,
            r#"{"input_tokens":10,"output_tokens":18446744073709551615}"#,
            r#"{"input_tokens":"10","output_tokens":5}"#,
            r#"{"input_tokens":10,"output_tokens":5,"cache_read_input_tokens":-3}"#,
            r#"{"input_tokens":10,"output_tokens":5,"cache_creation_input_tokens":1e18}"#,
            r#"{"input_tokens":0,"output_tokens":0}"#,
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_last_count_that_makes_sense_counts() {
        let start = json!({"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}});
        let delta = |usage: Value| json!({"type": "message_delta", "delta": {}, "usage": usage});
        let used = |input_tokens, output_tokens| {
            Some(Usage { input_tokens, cached_input_tokens: 0, output_tokens, ..Usage::default() })
        };
        assert_eq!(of(std::slice::from_ref(&start)).usage(), None);
        let counts = [delta(json!({"output_tokens": 5})), delta(json!({"output_tokens": 7}))];
        assert_eq!(of(&[start.clone(), counts[0].clone(), counts[1].clone()]).usage(), used(9, 7));
        assert_eq!(
            of(&[start.clone(), delta(json!({"output_tokens": 7})), delta(json!({"output_tokens": -7}))]).usage(),
            used(9, 7)
        );
        assert_eq!(of(&[start.clone(), delta(json!({"input_tokens": 20, "output_tokens": 7}))]).usage(), used(20, 7));
        assert_eq!(of(&[start, delta(json!({"input_tokens": 0, "output_tokens": 7}))]).usage(), used(9, 7));
    }
}
