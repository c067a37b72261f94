//! An answer in the chat-completions dialect.

use serde_json::Value;

use crate::model::http::answer::{self, MAX_TOOL_CALLS, Step, TooManyCalls, tokens};
use crate::model::{Finish, Reply};
use crate::run::{ToolCall, Usage};

/// What has come of an answer so far.
#[derive(Default)]
pub(in crate::model) struct Answer {
    text: String,
    refusal: String,
    calls: Vec<PartialCall>,
    finish: Option<Finish>,
    usage: Option<Usage>,
    /// Whether that is of the whole answer: it came without a piece of it, and none came after it.
    is_counted: bool,
    /// Whether a choice has been seen, be it empty.
    chosen: bool,
}

#[derive(Default)]
struct PartialCall {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
}

impl answer::Answer for Answer {
    const ENDS_WITH_DONE: bool = true;

    fn take_whole(&mut self, body: &Value) -> Result<bool, TooManyCalls> {
        self.take_usage(body);
        self.is_counted = true;
        let Some(choice) = body.get("choices").and_then(|choices| choices.get(0)) else { return Ok(false) };
        let Some(message) = choice.get("message").filter(|message| message.is_object()) else { return Ok(false) };
        self.take_finish(choice);
        self.take_text(message);
        for call in calls(message) {
            self.push(PartialCall::default())?.take(call);
        }
        self.chosen = true;
        Ok(true)
    }

    fn take_piece(&mut self, piece: &Value, progress: &dyn Fn(&str)) -> Result<Step, TooManyCalls> {
        let step = |got_on| Ok(if got_on { Step::GotOn } else { Step::Nothing });
        let mut got_on = self.take_usage(piece);
        let Some(choice) = piece.get("choices").and_then(|choices| choices.get(0)) else { return step(got_on) };
        self.chosen = true;
        got_on |= self.take_finish(choice);
        // A server that does not stream but says it does may send the message in one piece.
        let Some(delta) = choice.get("delta").or_else(|| choice.get("message")) else { return step(got_on) };
        let before = self.text.len();
        got_on |= self.take_text(delta);
        if self.text.len() > before {
            progress(&self.text[before..]);
        }
        for call in calls(delta) {
            self.place(call)?.take(call);
            got_on = true;
        }
        // Models that think aloud do it in a field of their own; it is no part of the answer, but a sign of life.
        let thinks = |name: &str| delta.get(name).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
        step(got_on || thinks("reasoning_content") || thinks("reasoning"))
    }

    fn is_finished(&self) -> bool {
        self.finish.is_some()
    }

    fn has_begun(&self) -> bool {
        self.chosen
    }

    /// None before all is counted: some servers count with each piece, and what was cut off is more than the last count.
    fn usage(&self) -> Option<Usage> {
        self.usage.filter(|_| self.is_counted || self.finish.is_some())
    }

    /// A tool call without a name is left out, and said to be.
    fn into_reply(self) -> Reply {
        let refused = self.text.is_empty() && self.calls.is_empty() && !self.refusal.is_empty();
        let nameless = self.calls.iter().any(|call| call.name.is_empty());
        let tool_calls = self.calls.into_iter().filter(|call| !call.name.is_empty()).map(PartialCall::finish).collect();
        Reply {
            text: if refused { self.refusal } else { self.text },
            tool_calls,
            usage: self.usage,
            finish: if refused { Finish::Filtered } else { self.finish.unwrap_or_default() },
            malformed: nameless.then(|| "a tool call must give the tool's name".to_owned()),
            pause: None,
        }
    }
}

impl Answer {
    /// The last usage that makes sense counts: some servers report it with each piece, and rising.
    fn take_usage(&mut self, body: &Value) -> bool {
        let usage = body.get("usage").and_then(usage);
        self.usage = usage.or(self.usage);
        let brings_more = body.get("choices").and_then(Value::as_array).is_some_and(|choices| !choices.is_empty());
        self.is_counted = (self.is_counted || usage.is_some()) && !brings_more;
        usage.is_some()
    }

    fn take_finish(&mut self, choice: &Value) -> bool {
        let Some(reason) = choice.get("finish_reason").and_then(Value::as_str) else { return false };
        self.finish = Some(match reason {
            "length" | "max_tokens" => Finish::Length,
            "content_filter" => Finish::Filtered,
            _ => Finish::Stop,
        });
        true
    }

    fn take_text(&mut self, message: &Value) -> bool {
        let before = self.text.len() + self.refusal.len();
        match message.get("content") {
            Some(Value::String(text)) => self.text.push_str(text),
            Some(Value::Array(parts)) => {
                self.text.extend(parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)));
            }
            _ => {}
        }
        self.refusal.push_str(message.get("refusal").and_then(Value::as_str).unwrap_or_default());
        self.text.len() + self.refusal.len() > before
    }

    /// Finds the call that a piece goes on with, or begins a new one. Servers number the calls, or leave that out and
    /// give each new one an id, or a name; some number all of them 0.
    fn place(&mut self, piece: &Value) -> Result<&mut PartialCall, TooManyCalls> {
        let index = piece.get("index").and_then(Value::as_u64);
        let id = piece.get("id").and_then(Value::as_str).unwrap_or_default();
        let names = !field(piece, "name").and_then(Value::as_str).unwrap_or_default().is_empty();
        let known = match index {
            Some(_) => self.calls.iter().rposition(|call| call.index == index),
            None => self.calls.len().checked_sub(1),
        };
        let known = known.filter(|at| {
            let call = &self.calls[*at];
            let other_id = !id.is_empty() && !call.id.is_empty() && call.id != id;
            let next = index.is_none() && id.is_empty() && names && !call.arguments.is_empty();
            !(other_id && names || next)
        });
        match known {
            Some(at) => Ok(&mut self.calls[at]),
            None => self.push(PartialCall { index, id: id.to_owned(), ..PartialCall::default() }),
        }
    }

    fn push(&mut self, call: PartialCall) -> Result<&mut PartialCall, TooManyCalls> {
        if self.calls.len() >= MAX_TOOL_CALLS {
            return Err(TooManyCalls);
        }
        Ok(self.calls.push_mut(call))
    }
}

impl PartialCall {
    fn take(&mut self, piece: &Value) {
        if let Some(name) = field(piece, "name").and_then(Value::as_str)
            && name != self.name
        {
            self.name.push_str(name);
        }
        match field(piece, "arguments") {
            Some(Value::String(text)) => self.arguments.push_str(text),
            Some(object @ Value::Object(_)) => self.arguments.push_str(&object.to_string()),
            _ => {}
        }
    }

    /// No arguments at all are an empty object: many models write nothing for a tool that takes nothing.
    fn finish(self) -> ToolCall {
        let arguments = if self.arguments.trim().is_empty() { "{}".to_owned() } else { self.arguments };
        ToolCall { name: self.name, arguments }
    }
}

/// Returns the tool calls of a message, or the one call of the dialect's older form.
fn calls(message: &Value) -> impl Iterator<Item = &Value> {
    let calls = message.get("tool_calls").and_then(Value::as_array);
    let old = message.get("function_call").filter(|call| call.is_object() && calls.is_none_or(Vec::is_empty));
    calls.into_iter().flatten().filter(|call| call.is_object()).chain(old)
}

/// Returns a field of a call's `function`, or of the call itself where a server leaves that level out.
fn field<'a>(call: &'a Value, name: &str) -> Option<&'a Value> {
    match call.get("function") {
        Some(function) if function.is_object() => function.get(name),
        _ => call.get(name),
    }
}

/// Reads a usage; none if it can't be true: a negative, fractional or absurd number, or no tokens at all.
fn usage(usage: &Value) -> Option<Usage> {
    let input_tokens = tokens(usage.get("prompt_tokens"))?;
    let output_tokens = tokens(usage.get("completion_tokens"))?;
    let cached = usage.get("prompt_tokens_details").and_then(|details| details.get("cached_tokens"));
    // Cached tokens are the cheaper ones, so a number that can't be true counts as none.
    let cached_input_tokens = tokens(cached).filter(|cached| *cached <= input_tokens).unwrap_or_default();
    (input_tokens + output_tokens > 0).then_some(Usage {
        input_tokens,
        cached_input_tokens,
        output_tokens,
        ..Usage::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::answer::Answer as _;
    use super::*;

    fn whole(message: Value) -> Reply {
        let mut answer = Answer::default();
        assert!(answer.take_whole(&json!({"choices": [{"message": message, "finish_reason": "stop"}]})).unwrap());
        answer.into_reply()
    }

    fn calls_of(reply: &Reply) -> Vec<(&str, &str)> {
        reply.tool_calls.iter().map(|call| (call.name.as_str(), call.arguments.as_str())).collect()
    }

    #[track_caller]
    fn check_stream(pieces: &[Value], expected: &[(&str, &str)]) {
        let mut answer = Answer::default();
        for piece in pieces {
            let piece = json!({"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]});
            assert_eq!(answer.take_piece(&piece, &|_| {}).unwrap(), Step::GotOn);
        }
        assert_eq!(calls_of(&answer.into_reply()), expected, "{pieces:?}");
    }

    #[test]
    fn calls_with_missing_or_odd_fields_are_understood() {
        let reply = whole(json!({"content": null, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "a", "arguments": "{\"x\":1}"}},
            {"function": {"name": "b", "arguments": {"x": 1}}},
            {"function": {"name": "c"}},
            {"function": {"name": "d", "arguments": ""}},
            {"function": {"name": "e", "arguments": null}},
            {"name": "f", "arguments": "{}"},
            "nonsense",
        ]}));
        let expected = [("a", r#"{"x":1}"#), ("b", r#"{"x":1}"#), ("c", "{}"), ("d", "{}"), ("e", "{}"), ("f", "{}")];
        assert_eq!(calls_of(&reply), expected);
        assert_eq!(reply.malformed, None);
        let old = whole(json!({"content": null, "function_call": {"name": "a", "arguments": "{}"}}));
        assert_eq!(calls_of(&old), [("a", "{}")]);
    }

    #[test]
    fn a_call_without_a_name_is_said_to_be_none() {
        let reply = whole(json!({"tool_calls": [{"function": {"arguments": "{}"}}]}));
        assert_eq!((calls_of(&reply).len(), reply.malformed.is_some()), (0, true));
    }

    #[test]
    fn a_text_may_come_in_parts_and_a_refusal_is_a_text() {
        assert_eq!(
            whole(json!({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]})).text,
            "ab"
        );
        let refused = whole(json!({"content": null, "refusal": "I can't."}));
        assert_eq!((refused.text.as_str(), refused.finish), ("I can't.", Finish::Filtered));
    }

    #[test]
    fn pieces_of_calls_find_their_call() {
        let piece = |index: Option<u64>, id: Option<&str>, name: Option<&str>, arguments: &str| {
            let mut piece = json!({"function": {"arguments": arguments}});
            if let Some(index) = index {
                piece["index"] = json!(index);
            }
            if let Some(id) = id {
                piece["id"] = json!(id);
            }
            if let Some(name) = name {
                piece["function"]["name"] = json!(name);
            }
            piece
        };
        let both = [("a", r#"{"x":1}"#), ("b", r#"{"y":2}"#)];
        // As the dialect has it, interleaved too.
        let first = piece(Some(0), Some("1"), Some("a"), "");
        let second = piece(Some(1), Some("2"), Some("b"), "");
        let (x, y) = (piece(Some(0), None, None, "{\"x\""), piece(Some(1), None, None, "{\"y\":2}"));
        check_stream(&[first, x, second, y, piece(Some(0), None, None, ":1}")], &both);
        // Without numbers, with ids.
        let first = piece(None, Some("1"), Some("a"), "{\"x\"");
        let second = piece(None, Some("2"), Some("b"), "{\"y\"");
        check_stream(&[first, piece(None, None, None, ":1}"), second, piece(None, None, None, ":2}")], &both);
        // Without numbers and ids.
        check_stream(&[piece(None, None, Some("a"), "{\"x\":1}"), piece(None, None, Some("b"), "{\"y\":2}")], &both);
        // All numbered 0.
        let first = piece(Some(0), Some("1"), Some("a"), "{\"x\":1}");
        let second = piece(Some(0), Some("2"), Some("b"), "{\"y\"");
        check_stream(&[first, second, piece(Some(0), None, None, ":2}")], &both);
        // The id and the name said again with each piece.
        let first = piece(Some(0), Some("1"), Some("a"), "{\"x\"");
        check_stream(&[first, piece(Some(0), Some("1"), Some("a"), ":1}")], &both[..1]);
        // A number beyond all reason.
        check_stream(&[piece(Some(u64::MAX), Some("1"), Some("a"), "{\"x\":1}")], &both[..1]);
    }

    #[test]
    fn the_number_of_calls_is_bounded() {
        let mut answer = Answer::default();
        let result = (0..=MAX_TOOL_CALLS).try_for_each(|index| {
            let call = json!({"index": index, "function": {"name": "a"}});
            answer.take_piece(&json!({"choices": [{"delta": {"tool_calls": [call]}}]}), &|_| {}).map(drop)
        });
        assert!(result.is_err());
    }

    #[test]
    fn only_what_carries_something_gets_the_answer_on() {
        let mut answer = Answer::default();
        let mut takes = |piece: Value| answer.take_piece(&piece, &|_| {}).unwrap() == Step::GotOn;
        let mut got_on = |delta: Value| takes(json!({"choices": [{"delta": delta}]}));
        assert!(!got_on(json!({"role": "assistant", "content": ""})));
        assert!(!got_on(json!({})));
        assert!(!got_on(json!(null)));
        assert!(got_on(json!({"content": "a"})));
        assert!(got_on(json!({"reasoning_content": "hm"})));
        assert!(!takes(json!({"choices": [], "usage": null})));
        assert!(!takes(json!([])));
        assert!(takes(json!({"choices": [{"delta": {}, "finish_reason": "stop"}]})));
    }

    #[test]
    fn a_finish_is_mapped() {
        for (reason, finish) in [
            ("stop", Finish::Stop),
            ("tool_calls", Finish::Stop),
            ("length", Finish::Length),
            ("content_filter", Finish::Filtered),
        ] {
            let mut answer = Answer::default();
            answer.take_whole(&json!({"choices": [{"message": {"content": "a"}, "finish_reason": reason}]})).unwrap();
            assert_eq!(answer.into_reply().finish, finish);
        }
    }

    #[test]
    fn a_usage_that_can_not_be_true_is_none() {
        let of = |text: &str| usage(&serde_json::from_str::<Value>(text).unwrap());
        let full = r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}"#;
        assert_eq!(
            of(full),
            Some(Usage { input_tokens: 10, cached_input_tokens: 4, output_tokens: 5, ..Usage::default() })
        );
        let cached = r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":11}}"#;
        assert_eq!(of(cached).map(|usage| usage.cached_input_tokens), Some(0));
        for wrong in [
            "null",
            "[]",
            "{}",
            r#"{"prompt_tokens":10}"#,
            r#"{"prompt_tokens":-1,"completion_tokens":5}"#,
            r#"{"prompt_tokens":10,"completion_tokens":1e300}"#,
            r#"{"prompt_tokens":10,"completion_tokens":18446744073709551615}"#,
            r#"{"prompt_tokens":"10","completion_tokens":5}"#,
            r#"{"prompt_tokens":0,"completion_tokens":0}"#,
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
