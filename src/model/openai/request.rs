//! A request in the chat-completions dialect.

use serde_json::{Map, Value, json};

use super::BASE_URL_HINT;
use super::answer::Answer;
use crate::model::http;
use crate::model::{Offer, Request};
use crate::run::{Body, Message, ToolCall};
use crate::spec::ModelSpec;

/// The model's name where a network gives none: servers of one model take any.
const NO_MODEL: &str = "default";

/// What every request of one model has in common.
pub(super) struct Dialect {
    model: String,
    stream: bool,
    temperature: Option<f64>,
    /// Whether OpenAI itself is asked, rather than one of the many that speak its dialect.
    is_openai: bool,
}

impl Dialect {
    pub(super) fn new(spec: &ModelSpec, is_openai: bool) -> Self {
        Self {
            model: spec.model.clone().unwrap_or_else(|| NO_MODEL.to_owned()),
            stream: spec.stream,
            temperature: spec.temperature,
            is_openai,
        }
    }
}

impl http::Dialect for Dialect {
    type Answer = Answer;

    const BASE_URL_HINT: &'static str = BASE_URL_HINT;

    /// A schema for the answer becomes `response_format`, but for one case: local servers can't hold an answer to a
    /// grammar and leave room for tool calls at once (llama.cpp refuses the pair), so where tools are offered the
    /// schema is told in words instead, and what comes back is for the caller to check.
    fn body(&self, request: &Request) -> Value {
        let mut body = Map::new();
        body.insert("model".into(), json!(self.model));
        let schema = request.output_schema.as_deref();
        let format = schema.filter(|_| self.is_openai || request.tools.is_empty());
        let told = if format.is_none() { schema } else { None };
        body.insert("messages".into(), messages(request, told));
        if !request.tools.is_empty() {
            body.insert("tools".into(), request.tools.iter().map(tool).collect());
        }
        if let Some(schema) = format {
            let strict = is_object(schema) && is_strict(schema);
            let format = json!({"name": "answer", "schema": schema, "strict": strict});
            body.insert("response_format".into(), json!({"type": "json_schema", "json_schema": format}));
        }
        // OpenAI's newer models refuse `max_tokens`; other servers don't know its successor.
        let limit = if self.is_openai { "max_completion_tokens" } else { "max_tokens" };
        body.insert(limit.into(), json!(request.max_output_tokens));
        if let Some(temperature) = self.temperature {
            body.insert("temperature".into(), json!(temperature));
        }
        body.insert("stream".into(), json!(self.stream));
        if self.stream {
            body.insert("stream_options".into(), json!({"include_usage": true}));
        }
        Value::Object(body)
    }

    fn streams(&self) -> bool {
        self.stream
    }
}

fn messages(request: &Request, schema: Option<&Value>) -> Value {
    let mut system = request.system.to_string();
    if let Some(schema) = schema {
        system.push_str("\n\nWrite the final answer as JSON alone, valid against this JSON Schema: ");
        system.push_str(&schema.to_string());
    }
    let system = (!system.is_empty()).then(|| json!({"role": "system", "content": system.trim_start()}));
    system.into_iter().chain(request.messages.iter().map(|message| entry(message))).collect()
}

fn entry(message: &Message) -> Value {
    match &message.body {
        Body::User { text } => json!({"role": "user", "content": text}),
        Body::Assistant { text, tool_calls } if tool_calls.is_empty() => json!({"role": "assistant", "content": text}),
        Body::Assistant { text, tool_calls } => {
            let calls: Value = tool_calls.iter().map(|(id, call)| tool_call(id, call)).collect();
            let text = if text.is_empty() { Value::Null } else { json!(text) };
            json!({"role": "assistant", "content": text, "tool_calls": calls})
        }
        Body::Tool { id, content, .. } => json!({"role": "tool", "tool_call_id": id, "content": content}),
    }
}

/// Writes a call of the transcript. What the model wrote as arguments may be no JSON object, and providers refuse a
/// transcript with such a call in it; the result that follows says what was wrong with it.
fn tool_call(id: &str, call: &ToolCall) -> Value {
    let is_object = serde_json::from_str::<Map<String, Value>>(&call.arguments).is_ok();
    let arguments = if is_object { call.arguments.as_str() } else { "{}" };
    json!({"id": id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
}

fn tool(offer: &Offer) -> Value {
    let function = json!({"name": offer.name, "description": offer.description, "parameters": offer.parameters});
    json!({"type": "function", "function": function})
}

fn is_object(schema: &Value) -> bool {
    schema.get("type") == Some(&json!("object"))
}

/// Whether OpenAI takes the schema as a strict one: every object is closed, and all its properties are required.
/// Asking for strictness with any other schema is refused.
fn is_strict(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => {
            let closed = || map.get("additionalProperties") == Some(&Value::Bool(false));
            let properties = map.get("properties").and_then(Value::as_object);
            let required = map.get("required").and_then(Value::as_array);
            let all_required = || {
                properties
                    .into_iter()
                    .flat_map(Map::keys)
                    .all(|name| required.is_some_and(|r| r.contains(&json!(name))))
            };
            (!is_object(schema) || (closed() && all_required())) && map.values().all(is_strict)
        }
        Value::Array(items) => items.iter().all(is_strict),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::http::Dialect as _;
    use crate::model::testing::{assistant, offer, request, tool_result, user};

    fn local() -> Dialect {
        Dialect { model: "m".into(), stream: false, temperature: None, is_openai: false }
    }

    #[test]
    fn a_transcript_is_written_in_the_dialect() {
        let mut request = request("Be brief.", vec![user("hi"), assistant("", &[("s00010000", "list", r#"{"a":1}"#)])]);
        request.messages.push(tool_result("s00010000", "list", "a b"));
        request.messages.push(assistant("two files", &[]));
        request.tools = [offer("list")].into();
        let expected = json!({
            "model": "m",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "s00010000", "type": "function", "function": {"name": "list", "arguments": "{\"a\":1}"}},
                ]},
                {"role": "tool", "tool_call_id": "s00010000", "content": "a b"},
                {"role": "assistant", "content": "two files"},
            ],
            "tools": [{"type": "function", "function": {
                "name": "list", "description": "Does list.", "parameters": offer("list").parameters,
            }}],
            "max_tokens": 100,
            "stream": false,
        });
        assert_eq!(local().body(&request), expected);
    }

    #[test]
    fn arguments_that_are_no_object_are_sent_as_an_empty_one() {
        for arguments in ["", "{\"a\":", "[1]", "\"x\"", "null", "{} {}"] {
            let request = request("", vec![user("hi"), assistant("", &[("s00010000", "list", arguments)])]);
            let body = local().body(&request);
            assert_eq!(body["messages"][1]["tool_calls"][0]["function"]["arguments"], "{}", "{arguments}");
        }
    }

    #[test]
    fn an_empty_system_message_is_left_out() {
        assert_eq!(local().body(&request("", vec![user("hi")]))["messages"][0]["role"], "user");
    }

    #[test]
    fn openai_is_told_the_limit_in_its_own_word() {
        let body = Dialect { is_openai: true, ..local() }.body(&request("", vec![user("hi")]));
        assert_eq!((&body["max_completion_tokens"], body.get("max_tokens")), (&json!(100), None));
    }

    #[test]
    fn a_stream_is_asked_to_report_usage() {
        let body = Dialect { stream: true, ..local() }.body(&request("", vec![user("hi")]));
        assert_eq!((&body["stream"], &body["stream_options"]["include_usage"]), (&json!(true), &json!(true)));
    }

    #[test]
    fn a_schema_is_a_format_unless_a_local_server_has_tools_to_offer() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        let mut request = request("Be brief.", vec![user("hi")]);
        request.output_schema = Some(Arc::new(schema.clone()));
        let body = local().body(&request);
        assert_eq!(body["response_format"]["json_schema"]["schema"], schema);
        assert_eq!(body["messages"][0]["content"], "Be brief.");

        request.tools = [offer("list")].into();
        let body = local().body(&request);
        assert_eq!(body.get("response_format"), None);
        let system = body["messages"][0]["content"].as_str().unwrap();
        assert!(system.starts_with("Be brief.") && system.contains(&schema.to_string()), "{system}");

        let body = Dialect { is_openai: true, ..local() }.body(&request);
        assert_eq!(body["response_format"]["json_schema"]["schema"], schema);
    }

    #[test]
    fn strictness_is_asked_for_where_the_schema_allows_it() {
        let closed = json!({
            "type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false,
        });
        assert!(is_strict(&closed));
        assert!(!is_strict(&json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})));
        let nested = json!({
            "type": "object", "properties": {"a": {"type": "object"}}, "required": ["a"], "additionalProperties": false,
        });
        assert!(!is_strict(&nested));
    }
}
