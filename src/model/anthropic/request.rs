//! A request in the Messages dialect.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::answer::Answer;
use crate::model::{Offer, Reply, Request, http, schema_mode};
use crate::run::{Body, Message, ToolCall};
use crate::spec::{ModelSpec, ToolCalls};

/// The model's name where a network gives none: gateways of one model take any.
const NO_MODEL: &str = "default";

/// The tool that a structured answer is given by, unless one of the agent's has that name.
const ANSWER: &str = "answer";

/// The key of an answer that is no object, in the tool's input, which must be one.
const WRAPPED: &str = "answer";

/// What stands where a transcript does not begin or end with the user's side, as the dialect wants it to.
const GO_ON: &str = "Go on.";

/// The longest name of a tool that the dialect takes.
const MAX_NAME: usize = 64;

/// What every request of one model has in common.
pub(super) struct Dialect {
    model: String,
    stream: bool,
    temperature: Option<f64>,
    /// Whether answers are asked for in words alone, with no tool to give them by.
    in_words: bool,
}

impl Dialect {
    pub(super) fn new(spec: &ModelSpec) -> Self {
        Self {
            model: spec.model.clone().unwrap_or_else(|| NO_MODEL.to_owned()),
            stream: spec.stream,
            temperature: spec.temperature,
            in_words: spec.tool_calls == ToolCalls::Schema,
        }
    }

    /// Returns the schema of the answer, where there is a tool to give it by.
    fn answer_schema<'a>(&self, request: &'a Request) -> Option<&'a Value> {
        request.output_schema.as_deref().filter(|_| !self.in_words)
    }

    fn system(&self, request: &Request) -> String {
        let mut system = request.system.to_string();
        match request.output_schema.as_deref() {
            Some(schema) if self.in_words => {
                system.push_str("\n\nWrite your reply as JSON alone, valid against this JSON Schema: ");
                system.push_str(&schema.to_string());
            }
            Some(_) => {
                let answer = answer_tool(request);
                system.push_str(&format!("\n\nGive the final answer by a call of `{answer}`, with nothing beside it."));
            }
            None => {}
        }
        system.trim_start().to_owned()
    }
}

impl http::Dialect for Dialect {
    type Answer = Answer;

    const BASE_URL_HINT: &'static str = "is base_url right? it is what stands before /v1/messages";

    fn body(&self, request: &Request) -> Value {
        let mut body = Map::new();
        body.insert("model".into(), json!(self.model));
        body.insert("max_tokens".into(), json!(request.max_output_tokens.max(1)));
        let system = self.system(request);
        if !system.is_empty() {
            body.insert("system".into(), json!([cached(text_block(&system))]));
        }
        let mut transcript = Transcript::default();
        request.messages.iter().for_each(|message| transcript.take(message));
        let called = transcript.called.clone();
        body.insert("messages".into(), transcript.into_messages());
        let mut tools: Vec<Value> = request.tools.iter().map(tool).collect();
        tools.extend(self.answer_schema(request).map(|schema| giving(&answer_tool(request), schema)));
        let choice = if tools.is_empty() { "none" } else { "auto" };
        if tools.is_empty() {
            // A transcript with calls in it is refused where there are no tools.
            tools.extend(called.iter().map(|name| json!({"name": name, "input_schema": {"type": "object"}})));
        }
        if let Some(last) = tools.last_mut() {
            if system.is_empty() {
                *last = cached(last.take());
            }
            body.insert("tools".into(), Value::Array(tools));
            body.insert("tool_choice".into(), json!({"type": choice}));
        }
        if let Some(temperature) = self.temperature {
            body.insert("temperature".into(), json!(temperature));
        }
        body.insert("stream".into(), json!(self.stream));
        Value::Object(body)
    }

    fn streams(&self) -> bool {
        self.stream
    }

    /// Takes the answer out of the call that gives it. Where the model asks for other tools beside it, these come first.
    fn reply(&self, request: &Request, mut reply: Reply) -> Reply {
        let Some(schema) = self.answer_schema(request) else { return reply };
        let name = answer_tool(request);
        let given: Vec<ToolCall> = reply.tool_calls.extract_if(.., |call| call.name == name).collect();
        if reply.tool_calls.is_empty()
            && let Some(ToolCall { arguments, .. }) = given.into_iter().next()
        {
            reply.text = if is_plain_object(schema) { arguments } else { unwrapped(arguments) };
        }
        reply
    }
}

/// Returns the name of the tool that the answer is given by: one that no tool of the agent's has.
fn answer_tool(request: &Request) -> String {
    let mut name = ANSWER.to_owned();
    while request.tools.iter().any(|offer| offer.name == name) {
        name.push('_');
    }
    name
}

/// Writes the tool that the answer is given by. The dialect wants the input to be an object, and takes no alternatives at
/// its top.
fn giving(name: &str, schema: &Value) -> Value {
    let input = match is_plain_object(schema) {
        true => schema.clone(),
        false => json!({
            "type": "object",
            "properties": {WRAPPED: schema_mode::simplify(schema)},
            "required": [WRAPPED],
            "additionalProperties": false,
        }),
    };
    let description = "Gives the final answer. Call it once, when all else is done, and nothing beside it.";
    json!({"name": name, "description": description, "input_schema": input})
}

fn is_plain_object(schema: &Value) -> bool {
    schema.get("type") == Some(&json!("object"))
        && ["anyOf", "oneOf", "allOf", "$ref"].iter().all(|name| schema.get(*name).is_none())
}

fn unwrapped(given: String) -> String {
    match serde_json::from_str::<Map<String, Value>>(&given).ok().and_then(|mut input| input.remove(WRAPPED)) {
        Some(answer) => answer.to_string(),
        None => given,
    }
}

fn tool(offer: &Offer) -> Value {
    let mut input = Value::clone(&offer.parameters);
    if let Some(schema) = input.as_object_mut() {
        schema.entry("type").or_insert_with(|| json!("object"));
    }
    let mut tool = json!({"name": offer.name, "input_schema": input});
    if !offer.description.trim().is_empty() {
        tool["description"] = json!(offer.description);
    }
    tool
}

fn text_block(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

/// Marks where the provider's cache is to reach.
fn cached(mut block: Value) -> Value {
    block["cache_control"] = json!({"type": "ephemeral"});
    block
}

/// A transcript that is being written: turns of the two sides, which alternate.
#[derive(Default)]
struct Transcript {
    turns: Vec<(Role, Vec<Value>)>,
    /// The ids that were given to calls so far: the dialect wants them unique.
    ids: HashSet<String>,
    /// The calls of the last step, by the transcript's ids and those that were given to them.
    open: Vec<(String, String)>,
    /// The names of all that was called.
    called: Vec<String>,
    /// What has come of them, by the call's place, and what was said beside it.
    results: Vec<(usize, Value)>,
    texts: Vec<Value>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    User,
    Assistant,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

impl Transcript {
    fn take(&mut self, message: &Message) {
        match &message.body {
            // Blocks of nothing but white space are refused.
            Body::User { text } if text.trim().is_empty() => {}
            Body::User { text } => self.texts.push(text_block(text)),
            Body::Tool { id, content, failed, .. } => {
                let place = self.open.iter().position(|(open, _)| open == id);
                let given = place.and_then(|place| self.open.get(place)).map_or(id, |(_, given)| given);
                self.results.push((place.unwrap_or(usize::MAX), tool_result(given, content, *failed)));
            }
            Body::Assistant { text, tool_calls } => {
                self.end_user_turn();
                let said = (!text.trim().is_empty()).then(|| text_block(text));
                let mut blocks: Vec<Value> = said.into_iter().collect();
                for (id, call) in tool_calls {
                    blocks.push(self.tool_use(id, call));
                }
                self.push(Role::Assistant, blocks);
            }
        }
    }

    /// Closes a turn of the user's side: results in the order of their calls, and then what was said.
    fn end_user_turn(&mut self) {
        self.results.sort_by_key(|(place, _)| *place);
        let results = std::mem::take(&mut self.results).into_iter().map(|(_, result)| result);
        let blocks = results.chain(std::mem::take(&mut self.texts)).collect();
        self.open.clear();
        self.push(Role::User, blocks);
    }

    /// Appends to the turn of a side, or begins one.
    fn push(&mut self, role: Role, blocks: Vec<Value>) {
        if blocks.is_empty() {
            return;
        }
        match self.turns.last_mut() {
            Some((last, before)) if *last == role => before.extend(blocks),
            Some(_) => self.turns.push((role, blocks)),
            None if role == Role::User => self.turns.push((role, blocks)),
            None => self.turns.extend([(Role::User, vec![text_block(GO_ON)]), (role, blocks)]),
        }
    }

    /// Writes a call. What the model wrote as arguments may be no JSON object, and the dialect takes nothing else; the
    /// result that follows says what was wrong with it.
    fn tool_use(&mut self, id: &str, call: &ToolCall) -> Value {
        let mut given = named(id).into_owned();
        while !self.ids.insert(given.clone()) {
            given = format!("{given}_{}", self.ids.len());
        }
        self.open.push((id.to_owned(), given.clone()));
        let name = named(&call.name).into_owned();
        if !self.called.contains(&name) {
            self.called.push(name.clone());
        }
        let input = serde_json::from_str::<Map<String, Value>>(&call.arguments).unwrap_or_default();
        json!({"type": "tool_use", "id": given, "name": name, "input": input})
    }

    /// Writes the turns, marked for the cache at their end, and at the end of what was sent before the last step.
    fn into_messages(mut self) -> Value {
        self.end_user_turn();
        if self.turns.last().is_none_or(|(role, _)| *role == Role::Assistant) {
            self.turns.push((Role::User, vec![text_block(GO_ON)]));
        }
        for (_, blocks) in self.turns.iter_mut().rev().step_by(2).take(2) {
            if let Some(last) = blocks.last_mut() {
                *last = cached(last.take());
            }
        }
        self.turns.into_iter().map(|(role, blocks)| json!({"role": role.name(), "content": blocks})).collect()
    }
}

/// Writes a result. The dialect refuses an empty one of a call that failed.
fn tool_result(id: &str, content: &str, failed: bool) -> Value {
    let mut result = json!({"type": "tool_result", "tool_use_id": id});
    if !content.trim().is_empty() {
        result["content"] = json!(content);
    } else if failed {
        result["content"] = json!("it failed");
    }
    if failed {
        result["is_error"] = json!(true);
    }
    result
}

/// Returns a name or an id that the dialect takes: letters, digits, `_` and `-`, and some but not too many of them. A model
/// may have called what is no tool at all.
fn named(name: &str) -> Cow<'_, str> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    match name {
        "" => "unknown".into(),
        _ if name.len() <= MAX_NAME && name.chars().all(fits) => name.into(),
        _ => name.chars().take(MAX_NAME).map(|letter| if fits(letter) { letter } else { '_' }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::http::Dialect as _;
    use crate::model::testing::{assistant, offer, request, tool_result, user};

    fn dialect() -> Dialect {
        Dialect { model: "m".into(), stream: false, temperature: None, in_words: false }
    }

    fn called(text: &str, calls: &[ToolCall]) -> Reply {
        Reply { text: text.to_owned(), tool_calls: calls.to_vec(), ..Reply::default() }
    }

    fn call(name: &str, arguments: &str) -> ToolCall {
        ToolCall { name: name.to_owned(), arguments: arguments.to_owned() }
    }

    /// Writes messages as `u`ser's or `a`ssistant's, each block as its text, its call or its result.
    fn outline(body: &Value) -> Vec<String> {
        let block = |block: &Value| match block["type"].as_str().unwrap() {
            "text" => block["text"].as_str().unwrap().to_owned(),
            "tool_use" => {
                format!("{}={}{}", block["id"].as_str().unwrap(), block["name"].as_str().unwrap(), block["input"])
            }
            "tool_result" => {
                format!("{}>{}", block["tool_use_id"].as_str().unwrap(), block["content"].as_str().unwrap_or("-"))
            }
            other => panic!("{other}"),
        };
        let turn = |message: &Value| {
            let blocks: Vec<String> = message["content"].as_array().unwrap().iter().map(block).collect();
            format!("{}: {}", &message["role"].as_str().unwrap()[..1], blocks.join(" | "))
        };
        body["messages"].as_array().unwrap().iter().map(turn).collect()
    }

    #[test]
    fn a_transcript_is_written_in_the_dialect() {
        let mut request = request("Be brief.", vec![user("hi"), assistant("", &[("s00010000", "list", r#"{"a":1}"#)])]);
        request.messages.push(tool_result("s00010000", "list", "a b"));
        request.messages.push(assistant("two files", &[]));
        request.messages.push(user("sure?"));
        request.tools = [offer("list")].into();
        let mark = json!({"type": "ephemeral"});
        let expected = json!({
            "model": "m",
            "max_tokens": 100,
            "system": [{"type": "text", "text": "Be brief.", "cache_control": mark}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                {"role": "assistant", "content": [
                    {"type": "tool_use", "id": "s00010000", "name": "list", "input": {"a": 1}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "s00010000", "content": "a b", "cache_control": mark},
                ]},
                {"role": "assistant", "content": [{"type": "text", "text": "two files"}]},
                {"role": "user", "content": [{"type": "text", "text": "sure?", "cache_control": mark}]},
            ],
            "tools": [
                {"name": "list", "input_schema": offer("list").parameters, "description": "Does list."},
            ],
            "tool_choice": {"type": "auto"},
            "stream": false,
        });
        assert_eq!(dialect().body(&request), expected);
    }

    #[test]
    fn what_is_sent_begins_as_it_did_before() {
        let mut request = request("Be brief.", vec![user("hi")]);
        let marks = |body: &Value| body.to_string().matches("cache_control").count();
        let unmarked =
            |body: &Value| body["messages"].to_string().replace(r#","cache_control":{"type":"ephemeral"}"#, "");
        let mut before = String::from("[");
        for step in 0..5 {
            let body = dialect().body(&request);
            let now = unmarked(&body);
            assert!(now.starts_with(before.trim_end_matches(']')), "{before} {now}");
            assert_eq!(marks(&body), if step == 0 { 2 } else { 3 });
            before = now;
            let id = format!("s{step:04}0000");
            request.messages.push(assistant("I look.", &[(&id, "list", "{}")]));
            request.messages.push(tool_result(&id, "list", "a b"));
        }
    }

    #[test]
    fn without_a_system_message_the_tools_are_marked() {
        let mut request = request("", vec![user("hi")]);
        request.tools = [offer("list"), offer("read")].into();
        let body = dialect().body(&request);
        assert_eq!(body.get("system"), None);
        assert!(body["tools"][0].get("cache_control").is_none() && body["tools"][1].get("cache_control").is_some());
    }

    #[test]
    fn results_come_in_one_message_in_order_and_before_what_was_said() {
        let mut request = request("", vec![user("hi"), user("there")]);
        request.messages.extend([
            assistant("I look.", &[("s1", "list", "{}"), ("s2", "read", "{}"), ("s3", "read", "no JSON")]),
            tool_result("s3", "read", ""),
            tool_result("s1", "list", "a b"),
            user("Be quick."),
            tool_result("s2", "read", "c"),
            user("Please."),
        ]);
        assert_eq!(
            outline(&dialect().body(&request)),
            [
                "u: hi | there",
                "a: I look. | s1=list{} | s2=read{} | s3=read{}",
                "u: s1>a b | s2>c | s3>- | Be quick. | Please.",
            ]
        );
    }

    #[test]
    fn a_failed_call_is_an_error_with_words() {
        let failed = tool_result("s1", "list", " ");
        let body = Body::Tool { id: "s1".into(), name: "list".into(), content: " ".into(), failed: true };
        let failed = Arc::new(Message { body, ..Message::clone(&failed) });
        let request = request("", vec![user("hi"), assistant("", &[("s1", "list", "{}")]), failed]);
        let result = &dialect().body(&request)["messages"][2]["content"][0];
        assert_eq!((&result["is_error"], &result["content"]), (&json!(true), &json!("it failed")));
    }

    #[test]
    fn a_turn_of_nothing_is_none_and_the_users_side_begins_and_ends() {
        let of = |messages| outline(&dialect().body(&request("", messages)));
        assert_eq!(of(vec![]), ["u: Go on."]);
        assert_eq!(of(vec![user(" \n")]), ["u: Go on."]);
        assert_eq!(of(vec![user("hi"), assistant("", &[]), user("well?")]), ["u: hi | well?"]);
        assert_eq!(of(vec![assistant("ho", &[])]), ["u: Go on.", "a: ho", "u: Go on."]);
        assert_eq!(
            of(vec![user("a"), assistant("b", &[]), user(""), assistant("c", &[]), user("d")]),
            ["u: a", "a: b | c", "u: d"]
        );
    }

    #[test]
    fn ids_and_names_are_ones_that_the_dialect_takes() {
        let step = |id: &str| [assistant("", &[(id, "delete that!", "{}")]), tool_result(id, "delete that!", "no")];
        let messages = [user("hi")].into_iter().chain(["a/b.1#2", "a/b.1#2", "", "s1"].iter().flat_map(|id| step(id)));
        let request = request("", messages.collect());
        let body = dialect().body(&request);
        let uses: Vec<String> = outline(&body).into_iter().filter(|turn| !turn.starts_with("u: hi")).collect();
        let name = "delete_that_";
        assert_eq!(
            uses,
            [
                &format!("a: a_b_1_2={name}{{}}"),
                "u: a_b_1_2>no",
                &format!("a: a_b_1_2_1={name}{{}}"),
                "u: a_b_1_2_1>no",
                &format!("a: unknown={name}{{}}"),
                "u: unknown>no",
                &format!("a: s1={name}{{}}"),
                "u: s1>no",
            ]
        );
        assert_eq!(named(&"ü".repeat(100)), "_".repeat(MAX_NAME));
        // Nothing is on offer any more, but what was called has to be.
        assert_eq!((&body["tools"][0]["name"], &body["tool_choice"]["type"]), (&json!(name), &json!("none")));
    }

    #[test]
    fn without_tools_nothing_is_said_of_them() {
        let body = dialect().body(&request("", vec![user("hi")]));
        assert_eq!((body.get("tools"), body.get("tool_choice"), body.get("temperature")), (None, None, None));
        let warm = Dialect { temperature: Some(0.5), stream: true, ..dialect() }.body(&request("", vec![user("hi")]));
        assert_eq!((&warm["temperature"], &warm["stream"]), (&json!(0.5), &json!(true)));
    }

    #[test]
    fn an_answer_with_a_schema_is_given_by_a_tool() {
        let schema = json!({"type": "object", "properties": {"answer": {"type": "integer"}}});
        let mut request = request("Be brief.", vec![user("hi")]);
        request.output_schema = Some(Arc::new(schema.clone()));
        request.tools = [offer("list"), offer("answer")].into();
        let body = dialect().body(&request);
        assert_eq!(body["tools"][2]["name"], "answer_");
        assert_eq!((&body["tools"][2]["input_schema"], &body["tool_choice"]["type"]), (&schema, &json!("auto")));
        assert!(body["system"][0]["text"].as_str().unwrap().contains("`answer_`"));

        let given = call("answer_", r#"{"answer":2}"#);
        let reply = dialect().reply(&request, called("Well.", std::slice::from_ref(&given)));
        assert_eq!((reply.text.as_str(), reply.tool_calls.len()), (r#"{"answer":2}"#, 0));
        let reply = dialect().reply(&request, called("Well.", &[given.clone(), given.clone()]));
        assert_eq!((reply.text.as_str(), reply.tool_calls.len()), (r#"{"answer":2}"#, 0));
        // What else it asks for comes first.
        let reply = dialect().reply(&request, called("Well.", &[given, call("list", "{}")]));
        assert_eq!((reply.text.as_str(), reply.tool_calls), ("Well.", vec![call("list", "{}")]));
        let reply = dialect().reply(&request, called(r#"{"answer":2}"#, &[]));
        assert_eq!(reply.text, r#"{"answer":2}"#);
    }

    #[test]
    fn an_answer_that_is_no_plain_object_is_wrapped_into_one() {
        let mut request = request("", vec![user("hi")]);
        let schema = json!({
            "$defs": {"n": {"type": "integer"}}, "anyOf": [{"type": "array", "items": {"$ref": "#/$defs/n"}}, {"type": "null"}],
        });
        request.output_schema = Some(Arc::new(schema));
        let body = dialect().body(&request);
        let input = &body["tools"][0]["input_schema"];
        assert_eq!(input["type"], "object");
        assert_eq!(input["properties"]["answer"]["anyOf"][0]["items"]["type"], "integer");
        let text = |arguments: &str| dialect().reply(&request, called("", &[call("answer", arguments)])).text;
        assert_eq!(text(r#"{"answer":[1,2]}"#), "[1,2]");
        assert_eq!(text(r#"{"other":1}"#), r#"{"other":1}"#);
        assert_eq!(text("{\"answer\":"), "{\"answer\":");
    }

    #[test]
    fn where_tools_are_held_to_a_schema_all_is_asked_for_in_words() {
        let schema = json!({"anyOf": [{"type": "object"}]});
        let mut request = request("Be brief.", vec![user("hi")]);
        request.output_schema = Some(Arc::new(schema.clone()));
        let dialect = Dialect { in_words: true, ..dialect() };
        let body = dialect.body(&request);
        let system = body["system"][0]["text"].as_str().unwrap();
        assert!(system.starts_with("Be brief.") && system.ends_with(&schema.to_string()), "{system}");
        assert_eq!(body.get("tools"), None);
        assert_eq!(dialect.reply(&request, called("{}", &[])).text, "{}");
    }
}
