//! Requests for the tests of this room.

use std::sync::Arc;

use serde_json::json;

use super::{Offer, Request};
use crate::run::{AgentId, Body, CallId, Labels, Message, Origin, RunId, ToolCall};

pub(super) fn request(system: &str, messages: Vec<Arc<Message>>) -> Request {
    Request {
        run: RunId::new("run"),
        agent: "scout".into(),
        call: CallId::model(&AgentId::new("scout"), 1),
        attempt: 1,
        system: system.into(),
        messages,
        tools: [].into(),
        output_schema: None,
        max_output_tokens: 100,
    }
}

pub(super) fn offer(name: &str) -> Offer {
    Offer {
        name: name.to_owned(),
        description: format!("Does {name}."),
        parameters: Arc::new(
            json!({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}),
        ),
    }
}

pub(super) fn user(text: &str) -> Arc<Message> {
    message(Body::User { text: text.to_owned() }, Origin::Input)
}

pub(super) fn assistant(text: &str, calls: &[(&str, &str, &str)]) -> Arc<Message> {
    let call = |name: &str, arguments: &str| ToolCall { name: name.to_owned(), arguments: arguments.to_owned() };
    let tool_calls = calls.iter().map(|(id, name, arguments)| ((*id).to_owned(), call(name, arguments))).collect();
    message(Body::Assistant { text: text.to_owned(), tool_calls }, Origin::Model("m".to_owned()))
}

pub(super) fn tool_result(id: &str, name: &str, content: &str) -> Arc<Message> {
    let body = Body::Tool { id: id.to_owned(), name: name.to_owned(), content: content.to_owned(), failed: false };
    message(body, Origin::Tool(name.to_owned()))
}

fn message(body: Body, origin: Origin) -> Arc<Message> {
    Arc::new(Message { body, labels: Labels::default(), origin })
}
