//! Tools for models without native tool calls: each step asks for one JSON object, held to a schema, which is a call
//! of one tool or the final answer. Pure: a request becomes another request, and a reply another reply.
//!
//! One call a step: a small model that may write several at once writes the same one several times.

mod simple;

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value, json};

pub(super) use self::simple::simplify;
use super::text_calls::unfenced;
use super::{Finish, Offer, Reply, Request};
use crate::run::{Body, Message, ToolCall, delegate_tool};

/// Rewrites a request so that it offers no native tools: they are told in the system message, the schema of the answer
/// becomes that of a step, and the calls of the transcript become the objects that the model would have written.
pub(super) fn rewrite(request: &Request) -> Request {
    let mut step = request.clone();
    step.messages = transcript(request);
    if request.tools.is_empty() {
        return step;
    }
    step.system = format!("{}\n\n{}", request.system, instructions(request)).trim_start().into();
    step.output_schema = Some(Arc::new(step_schema(request)));
    step.tools = [].into();
    step
}

/// Reads the reply to a rewritten request: the object becomes a tool call, or the answer's text.
pub(super) fn read(request: &Request, mut reply: Reply) -> Reply {
    if reply.finish == Finish::Filtered {
        return reply;
    }
    match step(request, &reply.text) {
        Ok(Step::Call(call)) => {
            reply.tool_calls = vec![call];
            reply.text.clear();
        }
        Ok(Step::Answer(text)) => reply.text = text,
        Err(wrong) => reply.malformed = Some(wrong.to_owned()),
    }
    reply
}

enum Step {
    Call(ToolCall),
    Answer(String),
}

fn step(request: &Request, text: &str) -> Result<Step, &'static str> {
    const FORM: &str = r#"the reply must be one JSON object and nothing else: {"tool": …, "arguments": {…}} to call a tool, or {"answer": …}"#;
    let Ok(Value::Object(mut object)) = serde_json::from_str(unfenced(text)) else { return Err(FORM) };
    if let Some(Value::String(tool)) = object.get("tool").or_else(|| named_tool(request, &object)) {
        let name = tool.clone();
        let arguments = match object.get("arguments") {
            None | Some(Value::Null) => "{}".to_owned(),
            Some(arguments @ Value::Object(_)) => arguments.to_string(),
            Some(_) => return Err(r#""arguments" must be a JSON object"#),
        };
        return Ok(Step::Call(ToolCall { name, arguments }));
    }
    match (object.remove("answer"), &request.output_schema) {
        (None, _) => Err(FORM),
        (Some(Value::String(text)), None) => Ok(Step::Answer(text)),
        // Without a grammar some models write a structured answer as a text with JSON in it.
        (Some(Value::String(text)), Some(_)) if serde_json::from_str::<Map<String, Value>>(&text).is_ok() => {
            Ok(Step::Answer(text))
        }
        (Some(answer), _) => Ok(Step::Answer(answer.to_string())),
    }
}

/// Without a grammar some models fall back on the form that they were trained on, with the tool's name as `name`.
fn named_tool<'a>(request: &Request, object: &'a Map<String, Value>) -> Option<&'a Value> {
    let name = object.get("name").filter(|_| object.contains_key("arguments"))?;
    request.tools.iter().any(|offer| name == &offer.name).then_some(name)
}

/// The schema of one step: a call of one of the tools, or the answer. Only what llama.cpp can turn into a grammar is
/// kept of each part; the tools and the runtime check the rest.
fn step_schema(request: &Request) -> Value {
    let closed = |properties: Value, required: &[&str]| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    let call = |offer: &Offer| {
        let tool = json!({"type": "string", "const": offer.name});
        closed(json!({"tool": tool, "arguments": simplify(&offer.parameters)}), &["tool", "arguments"])
    };
    let answer = request.output_schema.as_deref().map_or_else(|| json!({"type": "string"}), simplify);
    let steps = request.tools.iter().map(call).chain([closed(json!({"answer": answer}), &["answer"])]);
    json!({"anyOf": steps.collect::<Value>()})
}

/// What the model is told of the steps. The wording was tried on a model of 1.5 billion parameters, which makes up what
/// a tool would say unless it is told that it can't see anything itself, and told again at the end of the transcript.
fn instructions(request: &Request) -> String {
    let mut text = "Work in steps. Each step is one JSON object and nothing else.\n\
         To call a tool: {\"tool\": \"<name>\", \"arguments\": {…}}\n\
         To finish: "
        .to_owned();
    match request.output_schema.as_deref() {
        None => text.push_str("{\"answer\": \"<text>\"}"),
        Some(schema) => {
            text.push_str("{\"answer\": {…}}, where the answer is valid against this JSON Schema: ");
            text.push_str(&simplify(schema).to_string());
        }
    }
    text.push_str("\n\nThe tools:");
    for offer in request.tools.iter() {
        let arguments = simplify(&offer.parameters);
        text.push_str(&format!("\n- {}: {} Arguments: {arguments}", offer.name, offer.description.trim()));
    }
    text.push_str(
        "\n\nYou can't see any files, data or facts of your own: a tool must fetch them. Its result comes as the next \
         message. Finish only when the results answer the question.",
    );
    text
}

/// Stands at the end of the transcript: a small model has forgotten the system message by then.
const REMINDER: &str = "\n\nReply with the next step: a tool call, or the answer if the results of tools hold it.";

/// Stands there after a result, once every tool has been called: a small model would rather call one again.
const REMINDER_AFTER_RESULT: &str = "\n\nIf this answers the question, finish now with {\"answer\": …}. Call another tool only if something is missing.";

/// Stands there after a result where all that is left is to ask delegates again, for something else.
const REMINDER_WITH_DELEGATES: &str = "\n\nDo the next step of your instructions. If they ask for another tool now, call it, but never twice for the same. If they are done, finish with {\"answer\": …}.";

/// Stands there after a result while there are tools that have not been called, and names them: a small model stops
/// halfway.
fn reminder_with_tools_left(left: &[&str]) -> String {
    format!(
        "\n\nDo the next step of your instructions. You have not called {} yet: if your instructions ask for it, call \
         it now. Never call a tool twice for the same. If your instructions are done, finish with {{\"answer\": …}}.",
        left.join(", ")
    )
}

/// Rewrites the transcript. Each call is followed by its result, and messages of the user's side that follow one
/// another become one: the templates of small models know only turns.
fn transcript(request: &Request) -> Vec<Arc<Message>> {
    let wraps = !request.tools.is_empty();
    let mut turns: Vec<Arc<Message>> = Vec::new();
    let mut messages = request.messages.iter().peekable();
    while let Some(message) = messages.next() {
        match &message.body {
            Body::User { text } => say(&mut turns, message, text),
            Body::Tool { .. } => say(&mut turns, message, &result(message)),
            Body::Assistant { text, tool_calls } if tool_calls.is_empty() => {
                let text = if wraps { answered(request, text) } else { text.clone() };
                turns.push(with(message, Body::Assistant { text, tool_calls: Vec::new() }));
            }
            Body::Assistant { tool_calls, .. } => {
                let mut results = Vec::new();
                while let Some(result) = messages.next_if(|next| matches!(next.body, Body::Tool { .. })) {
                    results.push(result);
                }
                for (id, call) in tool_calls {
                    turns.push(with(message, Body::Assistant { text: called(call), tool_calls: Vec::new() }));
                    for found in results.extract_if(.., |result| is_of(result, id)) {
                        say(&mut turns, found, &result(found));
                    }
                }
                for left in results {
                    say(&mut turns, left, &result(left));
                }
            }
        }
    }
    if wraps
        && let Some(last) = turns.last_mut()
        && let Body::User { text } = &mut Arc::make_mut(last).body
    {
        text.push_str(&reminder(request));
    }
    turns
}

fn reminder(request: &Request) -> Cow<'static, str> {
    let called = |name: &str| {
        request.messages.iter().any(|message| match &message.body {
            Body::Tool { name: called, .. } => called == name,
            _ => false,
        })
    };
    if !request.messages.last().is_some_and(|last| matches!(last.body, Body::Tool { .. })) {
        return REMINDER.into();
    }
    // A delegate is often asked more than once, each time for something else.
    let left = |offer: &&Offer| is_delegate(&offer.name) || !called(&offer.name);
    let left: Vec<&str> = request.tools.iter().filter(left).map(|offer| offer.name.as_str()).collect();
    match left.as_slice() {
        [] => REMINDER_AFTER_RESULT.into(),
        left if left.iter().all(|name| called(name)) => REMINDER_WITH_DELEGATES.into(),
        left => reminder_with_tools_left(left).into(),
    }
}

fn is_delegate(offer: &str) -> bool {
    offer.starts_with(&delegate_tool(""))
}

fn say(turns: &mut Vec<Arc<Message>>, message: &Message, text: &str) {
    if let Some(last) = turns.last_mut()
        && let Body::User { text: before } = &last.body
    {
        let text = format!("{before}\n\n{text}");
        let mut joined = Message { body: Body::User { text }, ..Message::clone(last) };
        joined.labels.join(&message.labels);
        *last = Arc::new(joined);
    } else {
        turns.push(with(message, Body::User { text: text.to_owned() }));
    }
}

fn with(message: &Message, body: Body) -> Arc<Message> {
    Arc::new(Message { body, labels: message.labels.clone(), origin: message.origin.clone() })
}

fn is_of(result: &Message, call: &str) -> bool {
    matches!(&result.body, Body::Tool { id, .. } if id == call)
}

fn result(message: &Message) -> String {
    match &message.body {
        Body::Tool { name, content, failed: false, .. } => format!("Result of {name}: {content}"),
        Body::Tool { name, content, .. } => format!("The call of {name} failed: {content}"),
        _ => String::new(),
    }
}

fn called(call: &ToolCall) -> String {
    let arguments = serde_json::from_str::<Map<String, Value>>(&call.arguments).unwrap_or_default();
    json!({"tool": call.name, "arguments": arguments}).to_string()
}

/// Writes an earlier answer as its object. What was no object then, and was said to be none, stays what it was.
fn answered(request: &Request, text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Err(_) if text.trim_start().starts_with(['{', '`']) => text.to_owned(),
        Ok(value) if request.output_schema.is_some() => json!({"answer": value}).to_string(),
        _ => json!({"answer": text}).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{assistant, offer, request, tool_result, user};

    fn asking() -> Request {
        let mut request = request("Be brief.", vec![user("What is here?")]);
        request.tools = [offer("list"), offer("read")].into();
        request
    }

    fn read_text(request: &Request, text: &str) -> Reply {
        read(request, Reply { text: text.to_owned(), ..Reply::default() })
    }

    #[track_caller]
    fn check_call(text: &str, name: &str, arguments: &str) {
        let reply = read_text(&asking(), text);
        let expected = vec![ToolCall { name: name.to_owned(), arguments: arguments.to_owned() }];
        assert_eq!((reply.tool_calls, reply.text.as_str(), reply.malformed), (expected, "", None), "{text}");
    }

    #[track_caller]
    fn check_answer(request: &Request, text: &str, answer: &str) {
        let reply = read_text(request, text);
        assert_eq!((reply.text.as_str(), reply.tool_calls.len(), reply.malformed), (answer, 0, None), "{text}");
    }

    fn texts(request: &Request) -> Vec<(char, String)> {
        let text = |message: Arc<Message>| match &message.body {
            Body::User { text } => ('u', text.clone()),
            Body::Assistant { text, tool_calls } if tool_calls.is_empty() => ('a', text.clone()),
            body => panic!("{body:?}"),
        };
        let mut texts: Vec<_> = rewrite(request).messages.into_iter().map(text).collect();
        let (_, last) = texts.last_mut().unwrap();
        *last = last.strip_suffix(REMINDER).unwrap().to_owned();
        texts
    }

    #[test]
    fn a_request_offers_its_tools_in_words_and_in_the_schema() {
        let step = rewrite(&asking());
        assert!(step.tools.is_empty());
        assert!(step.system.starts_with("Be brief.\n\n"), "{}", step.system);
        assert!(step.system.contains("- list: Does list. Arguments: {"), "{}", step.system);
        let call = |name: &str| {
            json!({
                "type": "object",
                "properties": {
                    "tool": {"type": "string", "const": name},
                    "arguments": {
                        "type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"],
                        "additionalProperties": false,
                    },
                },
                "required": ["tool", "arguments"],
                "additionalProperties": false,
            })
        };
        let answer = json!({
            "type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"],
            "additionalProperties": false,
        });
        let expected = json!({"anyOf": [call("list"), call("read"), answer]});
        assert_eq!(step.output_schema.as_deref(), Some(&expected));
    }

    /// A grammar holds the model to the order in which a schema names its properties, and a small model that may not
    /// write the tool's name first gives up on the tool.
    #[test]
    fn a_schema_keeps_its_order() {
        let mut request = asking();
        let output = r#"{"properties":{"why":{"type":"string"},"verdict":{"type":"string"}}}"#;
        request.output_schema = Some(Arc::new(serde_json::from_str(output).unwrap()));
        let schema = step_schema(&request).to_string();
        let at = |word: &str| schema.find(word).unwrap();
        assert!(at("\"tool\"") < at("\"arguments\""), "{schema}");
        assert!(at("\"why\"") < at("\"verdict\""), "{schema}");
    }

    #[test]
    fn what_a_step_may_be_satisfies_its_schema() {
        let schema = step_schema(&asking());
        let valid = |text: &str| jsonschema::is_valid(&schema, &serde_json::from_str(text).unwrap());
        assert!(valid(r#"{"tool": "list", "arguments": {"path": "."}}"#));
        assert!(valid(r#"{"answer": "two"}"#));
        for wrong in [
            r#"{"tool": "delete", "arguments": {"path": "."}}"#,
            r#"{"tool": "list", "arguments": {}}"#,
            r#"{"tool": "list", "arguments": {"path": "."}, "answer": "two"}"#,
            r#"{"answer": 2}"#,
            "[]",
        ] {
            assert!(!valid(wrong), "{wrong}");
        }
    }

    #[test]
    fn without_tools_a_request_stays_as_it_is() {
        let mut request = request("Be brief.", vec![user("hi"), assistant("ho", &[])]);
        request.output_schema = Some(Arc::new(json!({"type": "object"})));
        let step = rewrite(&request);
        assert_eq!((&step.system, &step.output_schema), (&request.system, &request.output_schema));
        assert_eq!(step.messages, request.messages);
    }

    #[test]
    fn a_transcript_is_told_in_turns() {
        let mut request = asking();
        request.messages.extend([
            assistant("I look.", &[("a", "list", r#"{"path": "."}"#), ("b", "read", "no JSON")]),
            tool_result("b", "read", "an error"),
            tool_result("a", "list", "x y"),
            user("Go on."),
            assistant("two files", &[]),
            user("Sure?"),
            assistant("{\"tool\": \"li", &[]),
            user("Again."),
        ]);
        let expected = [
            ('u', "What is here?"),
            ('a', r#"{"tool":"list","arguments":{"path":"."}}"#),
            ('u', "Result of list: x y"),
            ('a', r#"{"tool":"read","arguments":{}}"#),
            ('u', "Result of read: an error\n\nGo on."),
            ('a', r#"{"answer":"two files"}"#),
            ('u', "Sure?"),
            ('a', "{\"tool\": \"li"),
            ('u', "Again."),
        ];
        let texts = texts(&request);
        let texts: Vec<_> = texts.iter().map(|(role, text)| (*role, text.as_str())).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_call_is_read() {
        check_call(r#"{"tool": "list", "arguments": {"path": "."}}"#, "list", r#"{"path":"."}"#);
        check_call("```json\n{\"tool\": \"list\", \"arguments\": {}}\n```", "list", "{}");
        check_call(r#"{"tool": "list"}"#, "list", "{}");
        check_call(r#"{"name": "list", "arguments": {}}"#, "list", "{}");
        // No tool at all: the runtime says so to the model.
        check_call(r#"{"tool": "delete", "arguments": {}}"#, "delete", "{}");
    }

    #[test]
    fn an_answer_is_read() {
        check_answer(&asking(), r#" {"answer": "two files"} "#, "two files");
        check_answer(&asking(), r#"{"answer": 2}"#, "2");
        let mut request = asking();
        request.output_schema = Some(Arc::new(json!({"type": "object"})));
        check_answer(&request, r#"{"answer": {"count": 2}}"#, r#"{"count":2}"#);
        check_answer(&request, r#"{"answer": "{\"count\":2}"}"#, r#"{"count":2}"#);
        check_answer(&request, r#"{"answer": "two"}"#, r#""two""#);
    }

    #[test]
    fn what_is_neither_is_said_to_be_malformed_and_kept() {
        for text in [
            "",
            "two files",
            "[]",
            "{}",
            r#"{"tool": 1}"#,
            r#"{"tool": "list", "arguments": "."}"#,
            r#"{"tool": "list", "#,
        ] {
            let reply = read_text(&asking(), text);
            assert_eq!((reply.text.as_str(), reply.tool_calls.len()), (text, 0));
            assert!(reply.malformed.is_some(), "{text}");
        }
    }
}
