//! A request as the crate takes it, so that each dialect gets what it takes.

use std::sync::Arc;

use ::genai::chat::{
    ChatMessage, ChatOptions, ChatRequest, ChatRole, ContentPart, JsonSpec, MessageContent, Tool, ToolCall as Call,
    ToolResponse,
};
use serde_json::{Map, Value, json};

use crate::model::{Offer, Request};
use crate::run::{Body, Message};
use crate::spec::ProviderKind;

/// What stands where a transcript does not begin or end with the user's side, as some dialects want it to.
const GO_ON: &str = "Go on.";

/// What is peculiar to a dialect.
pub(super) struct Dialect {
    kind: ProviderKind,
}

impl Dialect {
    pub(super) fn new(kind: ProviderKind) -> Self {
        Self { kind }
    }

    /// Whether the sides of a conversation alternate, and results of tools are the user's.
    fn alternates(&self) -> bool {
        matches!(self.kind, ProviderKind::Gemini | ProviderKind::Bedrock)
    }

    /// Whether an answer can be held to a schema by the server. Gemini can't where tools are on offer; for Bedrock and
    /// Ollama the crate does not say a schema on.
    fn holds(&self, request: &Request) -> bool {
        match self.kind {
            ProviderKind::Gemini => request.tools.is_empty(),
            ProviderKind::OpenaiResponses => true,
            _ => false,
        }
    }

    /// Writes a request.
    pub(super) fn chat(&self, request: &Request, mut options: ChatOptions) -> (ChatRequest, ChatOptions) {
        options.max_tokens = Some(request.max_output_tokens.max(1));
        let mut system = request.system.to_string();
        if let Some(schema) = request.output_schema.as_deref() {
            if self.holds(request) {
                options = options.with_response_format(JsonSpec::new("answer", schema.clone()));
            }
            system.push_str("\n\nWrite your reply as JSON alone, valid against this JSON Schema: ");
            system.push_str(&schema.to_string());
        }
        let mut chat = ChatRequest::new(self.turns(&request.messages));
        let system = system.trim_start();
        if !system.is_empty() {
            chat = chat.with_system(system);
        }
        let mut tools: Vec<Tool> = request.tools.iter().map(tool).collect();
        if tools.is_empty() && self.kind == ProviderKind::Bedrock {
            // A transcript with calls in it is refused where there are no tools.
            tools.extend(called(&request.messages).map(|name| Tool::new(name).with_schema(json!({"type": "object"}))));
        }
        (if tools.is_empty() { chat } else { chat.with_tools(tools) }, options)
    }

    fn turns(&self, messages: &[Arc<Message>]) -> Vec<ChatMessage> {
        let mut turns: Vec<(ChatRole, Vec<ContentPart>)> = Vec::new();
        for message in messages {
            let (role, parts) = match &message.body {
                // Parts of nothing but white space are refused by some.
                Body::User { text } if text.trim().is_empty() => continue,
                Body::User { text } => (ChatRole::User, vec![ContentPart::Text(text.clone())]),
                Body::Tool { id, name, content, failed } => {
                    let content = if content.trim().is_empty() && *failed { "it failed" } else { content };
                    let response = ToolResponse::new(id.clone(), content).with_fn_name(name.clone());
                    let role = if self.alternates() { ChatRole::User } else { ChatRole::Tool };
                    (role, vec![ContentPart::ToolResponse(response)])
                }
                Body::Assistant { text, tool_calls } => {
                    let said = (!text.trim().is_empty()).then(|| ContentPart::Text(text.clone()));
                    let calls = tool_calls.iter().map(|(id, call)| {
                        // What the model wrote may be no JSON object, and the dialects take nothing else; the result that
                        // follows says what was wrong with it.
                        let arguments = serde_json::from_str::<Map<String, Value>>(&call.arguments).unwrap_or_default();
                        ContentPart::ToolCall(Call {
                            call_id: id.clone(),
                            fn_name: call.name.clone(),
                            fn_arguments: Value::Object(arguments),
                            thought_signatures: None,
                        })
                    });
                    (ChatRole::Assistant, said.into_iter().chain(calls).collect())
                }
            };
            match turns.last_mut() {
                _ if parts.is_empty() => {}
                Some((before, all)) if self.alternates() && *before == role => all.extend(parts),
                _ => turns.push((role, parts)),
            }
        }
        let go_on = || (ChatRole::User, vec![ContentPart::Text(GO_ON.to_owned())]);
        if turns.first().is_none_or(|(role, _)| self.alternates() && *role == ChatRole::Assistant) {
            turns.insert(0, go_on());
        }
        if self.alternates() && turns.last().is_some_and(|(role, _)| *role == ChatRole::Assistant) {
            turns.push(go_on());
        }
        turns.into_iter().map(|(role, parts)| ChatMessage::new(role, MessageContent::from_parts(parts))).collect()
    }
}

fn tool(offer: &Offer) -> Tool {
    let mut schema = Value::clone(&offer.parameters);
    if let Some(schema) = schema.as_object_mut() {
        schema.entry("type").or_insert_with(|| json!("object"));
    }
    let tool = Tool::new(offer.name.as_str()).with_schema(schema);
    if offer.description.trim().is_empty() { tool } else { tool.with_description(offer.description.as_str()) }
}

/// Returns the names of all that was called, each once.
fn called(messages: &[Arc<Message>]) -> impl Iterator<Item = String> {
    let mut names: Vec<String> = Vec::new();
    for message in messages {
        let Body::Assistant { tool_calls, .. } = &message.body else { continue };
        for (_, call) in tool_calls {
            if !names.contains(&call.name) {
                names.push(call.name.clone());
            }
        }
    }
    names.into_iter()
}
