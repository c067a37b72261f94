//! Tool calls that a model wrote as text, because its server or its training does not know better: a JSON object
//! `{"name": …, "arguments": {…}}`, bare, in a code fence or in `<tool_call>` tags.

use serde_json::{Map, Value};

use super::Offer;
use crate::run::ToolCall;

/// How many calls one text may hold: more than any model asks for at once.
const MAX_CALLS: usize = 64;

/// Reads tool calls out of a text. Only a text that is nothing else counts, and only if each call names an offered
/// tool: an answer that merely shows or mentions a call stays an answer.
pub(super) fn read(text: &str, offers: &[Offer]) -> Option<Vec<ToolCall>> {
    let text = text.trim();
    if text.starts_with(OPEN_TAG) { tagged(text, offers) } else { json(unfenced(text), offers) }
}

const OPEN_TAG: &str = "<tool_call>";
const CLOSE_TAG: &str = "</tool_call>";

/// Reads `<tool_call>{…}</tool_call>`, once or several times; the last closing tag may be missing.
fn tagged(text: &str, offers: &[Offer]) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let inner = rest.strip_prefix(OPEN_TAG)?;
        let (inner, after) = inner.split_once(CLOSE_TAG).unwrap_or((inner, ""));
        calls.extend(json(unfenced(inner.trim()), offers)?);
        if calls.len() > MAX_CALLS {
            return None;
        }
        rest = after.trim_start();
    }
    Some(calls)
}

/// Returns what stands inside a code fence, if the whole text is one; else the text.
pub(super) fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let inside = || {
        let inside = text.strip_prefix("```")?.strip_suffix("```")?;
        let (language, body) = inside.split_once('\n')?;
        language.trim().chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)).then_some(body.trim())
    };
    inside().unwrap_or(text)
}

fn json(text: &str, offers: &[Offer]) -> Option<Vec<ToolCall>> {
    if !text.starts_with(['{', '[']) {
        return None;
    }
    match serde_json::from_str(text).ok()? {
        Value::Object(object) => Some(vec![call(&object, offers)?]),
        Value::Array(items) if (1..=MAX_CALLS).contains(&items.len()) => {
            items.iter().map(|item| call(item.as_object()?, offers)).collect()
        }
        _ => None,
    }
}

/// Reads one call: a known name and arguments, and nothing that a call does not have.
fn call(object: &Map<String, Value>, offers: &[Offer]) -> Option<ToolCall> {
    let known = ["name", "arguments", "parameters", "id", "type"];
    if object.keys().any(|key| !known.contains(&key.as_str())) {
        return None;
    }
    let name = object.get("name")?.as_str()?;
    offers.iter().find(|offer| offer.name == name)?;
    let arguments = match object.get("arguments").or_else(|| object.get("parameters"))? {
        arguments @ Value::Object(_) => arguments.to_string(),
        Value::String(text) => {
            serde_json::from_str::<Map<String, Value>>(text).ok()?;
            text.clone()
        }
        _ => return None,
    };
    Some(ToolCall { name: name.to_owned(), arguments })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&[(&str, &str)]>) {
        let offer = |name: &str| Offer {
            name: name.to_owned(),
            description: String::new(),
            parameters: Arc::new(json!({"type": "object"})),
        };
        let read = read(text, &[offer("list"), offer("read")]);
        let read: Option<Vec<(&str, &str)>> =
            read.as_ref().map(|calls| calls.iter().map(|c| (c.name.as_str(), c.arguments.as_str())).collect());
        assert_eq!(read.as_deref(), expected, "{text}");
    }

    #[test]
    fn a_text_that_is_a_call_is_one() {
        let list: Option<&[(&str, &str)]> = Some(&[("list", r#"{"path":"."}"#)]);
        check(r#"{"name": "list", "arguments": {"path": "."}}"#, list);
        check(r#" {"name": "list", "parameters": {"path": "."}} "#, list);
        check(r#"{"type": "function", "name": "list", "parameters": {"path": "."}}"#, list);
        check(r#"{"name": "list", "arguments": "{\"path\":\".\"}"}"#, list);
        check("```json\n{\"name\": \"list\", \"arguments\": {\"path\": \".\"}}\n```", list);
        check("```\n{\"name\": \"list\", \"arguments\": {\"path\": \".\"}}\n```\n", list);
        check("<tool_call>\n{\"name\": \"list\", \"arguments\": {\"path\": \".\"}}\n</tool_call>", list);
        check("<tool_call>{\"name\": \"list\", \"arguments\": {\"path\": \".\"}}", list);
    }

    #[test]
    fn several_calls_are_read_in_order() {
        let both: Option<&[(&str, &str)]> = Some(&[("list", "{}"), ("read", r#"{"path":"a"}"#)]);
        check(r#"[{"name":"list","arguments":{}},{"name":"read","arguments":{"path":"a"}}]"#, both);
        check(
            r#"<tool_call>{"name":"list","arguments":{}}</tool_call> <tool_call>{"name":"read","arguments":{"path":"a"}}</tool_call>"#,
            both,
        );
    }

    #[test]
    fn an_answer_stays_an_answer() {
        for text in [
            "",
            "The files are a and b.",
            r#"I would call {"name": "list", "arguments": {}}."#,
            r#"{"name": "list", "arguments": {}} is what I would call"#,
            r#"{"name": "delete", "arguments": {}}"#,
            r#"{"name": "list"}"#,
            r#"{"name": "list", "arguments": null}"#,
            r#"{"name": "list", "arguments": "no JSON"}"#,
            r#"{"name": "list", "arguments": {}, "confidence": 1}"#,
            r#"[{"name": "list", "arguments": {}}, {"name": "delete", "arguments": {}}]"#,
            "[]",
            "[1]",
            "```json\n{\"name\": \"list\", \"arguments\": {}}\n``` and then?",
            "<tool_call>list</tool_call>",
            "<tool_call>{\"name\":\"list\",\"arguments\":{}}</tool_call> done",
            "```",
            "``````",
        ] {
            check(text, None);
        }
    }
}
