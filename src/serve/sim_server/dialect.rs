//! The OpenAI chat-completions dialect: requests read, answers written.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Value, json};

use super::identity::Identity;
use crate::model::sim::pieces;
use crate::model::{Finish, Offer, Reply, Request};
use crate::run::{Body, CallId, Labels, Message, Origin, ToolCall};

/// A request, as far as the simulation heeds it; what else clients send is passed over, as other servers do.
#[derive(Debug, Deserialize)]
pub(super) struct Chat {
    #[serde(default)]
    pub(super) model: String,
    messages: Vec<ChatMessage>,
    #[serde(default)]
    tools: Option<Vec<ChatTool>>,
    #[serde(default)]
    tool_choice: Option<Value>,
    #[serde(default)]
    response_format: Option<Value>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    pub(super) stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Debug, Deserialize)]
struct ChatMessage {
    role: Role,
    /// Text, a list of parts, or null.
    #[serde(default)]
    content: Value,
    #[serde(default)]
    tool_calls: Option<Vec<ChatToolCall>>,
    #[serde(default)]
    tool_call_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

#[derive(Debug, Deserialize)]
struct ChatToolCall {
    id: String,
    function: ChatFunctionCall,
}

#[derive(Debug, Deserialize)]
struct ChatFunctionCall {
    name: String,
    arguments: String,
}

#[derive(Debug, Deserialize)]
struct ChatTool {
    function: ChatFunction,
}

#[derive(Debug, Deserialize)]
struct ChatFunction {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    parameters: Option<Value>,
}

impl Chat {
    /// Whether a stream is to end with what it used.
    pub(super) fn wants_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage)
    }

    /// Returns which step the request asks for, counted from 1.
    pub(super) fn step(&self) -> u32 {
        let said = self.messages.iter().filter(|message| message.role == Role::Assistant).count();
        u32::try_from(said).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Hashes what stays the same over a conversation: the model, and the messages up to the first of the user.
    pub(super) fn beginning(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        let mut field = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        field(&self.model);
        for message in &self.messages {
            field(&text(&message.content));
            if message.role == Role::User {
                break;
            }
        }
        hasher.finalize()
    }

    /// Turns the request into one that any provider takes.
    pub(super) fn into_request(self, identity: Identity) -> Request {
        let output_schema = self.response_format.as_ref().and_then(output_schema).map(Arc::new);
        let max_output_tokens = self.max_completion_tokens.or(self.max_tokens).unwrap_or(u32::MAX);
        let tools = match self.tool_choice {
            Some(Value::String(choice)) if choice == "none" => Vec::new(),
            _ => self.tools.unwrap_or_default(),
        };
        let (system, messages) = transcript(self.messages);
        Request {
            run: identity.run,
            agent: identity.agent.into(),
            call: identity.call,
            attempt: identity.attempt,
            system: system.into(),
            messages,
            tools: tools.into_iter().map(ChatTool::into_offer).collect(),
            output_schema,
            max_output_tokens,
        }
    }
}

impl ChatTool {
    fn into_offer(self) -> Offer {
        let parameters = Arc::new(self.function.parameters.unwrap_or_else(|| json!({"type": "object"})));
        Offer { name: self.function.name, description: self.function.description.unwrap_or_default(), parameters }
    }
}

/// Finds the schema of the answer: OpenAI's `json_schema`, llama.cpp's `schema`, or any object for `json_object`.
fn output_schema(format: &Value) -> Option<Value> {
    let schema = format.pointer("/json_schema/schema").or_else(|| format.get("schema"));
    match (schema, format.get("type").and_then(Value::as_str)) {
        (Some(schema), _) => Some(schema.clone()),
        (None, Some("json_object" | "json_schema")) => Some(json!({"type": "object"})),
        (None, _) => None,
    }
}

fn transcript(messages: Vec<ChatMessage>) -> (String, Vec<Arc<Message>>) {
    let mut system = String::new();
    let mut transcript = Vec::with_capacity(messages.len());
    let mut names: HashMap<String, String> = HashMap::new();
    for message in messages {
        let text = text(&message.content);
        let (body, origin) = match message.role {
            Role::System | Role::Developer => {
                if !system.is_empty() {
                    system.push('\n');
                }
                system.push_str(&text);
                continue;
            }
            Role::User => (Body::User { text }, Origin::Input),
            Role::Assistant => {
                let calls = message.tool_calls.unwrap_or_default();
                names.extend(calls.iter().map(|call| (call.id.clone(), call.function.name.clone())));
                let call = |call: ChatToolCall| {
                    (call.id, ToolCall { name: call.function.name, arguments: call.function.arguments })
                };
                let tool_calls = calls.into_iter().map(call).collect();
                (Body::Assistant { text, tool_calls }, Origin::Model("sim".to_owned()))
            }
            Role::Tool => {
                let id = message.tool_call_id.unwrap_or_default();
                let name = names.get(&id).cloned().unwrap_or_default();
                // The dialect has no word for a call that failed.
                (Body::Tool { id, name: name.clone(), content: text, failed: false }, Origin::Tool(name))
            }
        };
        transcript.push(Arc::new(Message { body, labels: Labels::default(), origin }));
    }
    (system, transcript)
}

/// Returns the text of a message's content, which is a text or a list of parts.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        _ => String::new(),
    }
}

/// An answer that is to be written.
pub(super) struct Answer<'a> {
    pub(super) reply: &'a Reply,
    pub(super) request: &'a Request,
    /// The model's name, as the client gave it.
    pub(super) model: &'a str,
}

impl Answer<'_> {
    /// Writes the answer in one piece.
    pub(super) fn whole(&self) -> Value {
        let mut message = json!({"role": "assistant", "content": self.reply.text});
        if !self.reply.tool_calls.is_empty() {
            let calls = self.reply.tool_calls.iter().enumerate().map(|(index, call)| self.call(index, call));
            message["tool_calls"] = calls.collect();
            if self.reply.text.is_empty() {
                message["content"] = Value::Null;
            }
        }
        let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": self.finish()});
        let mut body = self.frame("chat.completion", json!([choice]));
        body["usage"] = self.usage();
        body
    }

    /// Writes the answer as server-sent events, each with the empty line that ends it.
    pub(super) fn events(&self, usage: bool) -> Vec<String> {
        let mut events = Vec::new();
        let mut chunk = |choices: Value, used: Value| {
            let mut chunk = self.frame("chat.completion.chunk", choices);
            if usage {
                chunk["usage"] = used;
            }
            events.push(format!("data: {chunk}\n\n"));
        };
        let delta = |delta: Value, finish: Option<&str>| json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
        chunk(delta(json!({"role": "assistant", "content": ""}), None), Value::Null);
        for piece in pieces(&self.reply.text) {
            chunk(delta(json!({"content": piece}), None), Value::Null);
        }
        for (index, call) in self.reply.tool_calls.iter().enumerate() {
            let mut begun = self.call(index, call);
            begun["index"] = json!(index);
            begun["function"]["arguments"] = json!("");
            chunk(delta(json!({"tool_calls": [begun]}), None), Value::Null);
            for piece in pieces(&call.arguments) {
                let more = json!({"index": index, "function": {"arguments": piece}});
                chunk(delta(json!({"tool_calls": [more]}), None), Value::Null);
            }
        }
        chunk(delta(json!({}), Some(self.finish())), Value::Null);
        if usage {
            chunk(json!([]), self.usage());
        }
        events.push("data: [DONE]\n\n".to_owned());
        events
    }

    fn frame(&self, object: &str, choices: Value) -> Value {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
        let id = format!("chatcmpl-{}-{}", self.request.run, self.request.call.step);
        json!({"id": id, "object": object, "created": created, "model": self.model, "choices": choices})
    }

    fn call(&self, index: usize, call: &ToolCall) -> Value {
        let place = CallId::tool(&self.request.call.agent, self.request.call.step, index as u32);
        let function = json!({"name": call.name, "arguments": call.arguments});
        json!({"id": place.in_transcript(), "type": "function", "function": function})
    }

    fn finish(&self) -> &'static str {
        match self.reply.finish {
            Finish::Length => "length",
            Finish::Filtered => "content_filter",
            Finish::Stop if self.reply.tool_calls.is_empty() => "stop",
            Finish::Stop => "tool_calls",
        }
    }

    fn usage(&self) -> Value {
        let usage = self.reply.usage.unwrap_or_default();
        json!({
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.tokens(),
        })
    }
}
