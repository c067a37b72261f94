//! What scripted agents say: a template for each step, over the transcript so far.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use indexmap::IndexMap;
use minijinja::Value;
use minijinja::value::{Object, Serde};
use serde::Deserialize;

use crate::model::{Reply, Request};
use crate::run::{Body, Message, ToolCall};
use crate::spec::{Template, TemplateError};

/// What is wrong with the script of a simulated agent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the script of agent `{agent}`, step {step}{}: {message}", at_line(.line))]
pub struct ScriptError {
    /// The agent whose script it is.
    pub agent: String,
    /// The place in the agent's list, counted from 1, or the step that was to be said.
    pub step: usize,
    /// The line within the template, counted from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
}

fn at_line(line: &Option<usize>) -> String {
    line.map(|line| format!(", line {line}")).unwrap_or_default()
}

impl ScriptError {
    fn of_template(agent: &str, step: usize, error: TemplateError) -> Self {
        Self { agent: agent.to_owned(), step, line: error.line, message: error.message }
    }
}

/// The scripts of all agents that have one, parsed.
#[derive(Debug, Default)]
pub(super) struct Script {
    agents: HashMap<String, Vec<Template>>,
}

impl Script {
    /// Parses the templates.
    pub(super) fn parse(script: &IndexMap<String, Vec<String>>) -> Result<Self, ScriptError> {
        let mut agents = HashMap::with_capacity(script.len());
        for (agent, steps) in script.iter().filter(|(_, steps)| !steps.is_empty()) {
            let parse = |(index, source): (usize, &String)| {
                Template::parse(source).map_err(|error| ScriptError::of_template(agent, index + 1, error))
            };
            let steps: Vec<Template> = steps.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
            agents.insert(agent.clone(), steps);
        }
        Ok(Self { agents })
    }

    /// Returns the agents that have a script.
    pub(super) fn agents(&self) -> impl Iterator<Item = &str> {
        self.agents.keys().map(String::as_str)
    }

    /// Says the line of the agent that asks; none where it has no script.
    pub(super) fn reply(&self, request: &Request) -> Option<Result<Reply, ScriptError>> {
        let steps = self.agents.get(&*request.agent)?;
        let step = request.call.step as usize;
        let template = steps.get(step.saturating_sub(1)).or(steps.last())?;
        let scene = Scene { step: request.call.step, messages: request.messages.clone(), ..Scene::default() };
        let rendered = template
            .render_value(Value::from_object(scene))
            .map_err(|error| ScriptError::of_template(&request.agent, step, error));
        Some(rendered.and_then(|text| {
            read(text.trim()).map_err(|message| ScriptError {
                agent: request.agent.to_string(),
                step,
                line: None,
                message,
            })
        }))
    }
}

/// The tool calls that a template asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Calls {
    calls: Vec<Call>,
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    name: String,
    #[serde(default)]
    arguments: Option<serde_json::Value>,
}

/// Reads what a template rendered to: tool calls, or else the final answer.
fn read(text: &str) -> Result<Reply, String> {
    let answer = || Reply { text: text.to_owned(), ..Reply::default() };
    let Some(inside) = text.strip_prefix('{') else { return Ok(answer()) };
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(value) if value.get("calls").is_some() => {
            let Calls { calls, text } = serde_json::from_value(value)
                .map_err(|error| format!("the calls are not in the form of `calls`, `text`: {error}"))?;
            let tool_calls = calls.into_iter().map(Call::into_tool_call).collect();
            Ok(Reply { text, tool_calls, ..Reply::default() })
        }
        // What begins as calls do was meant as calls; as an answer it would only puzzle its reader.
        Err(error) if inside.trim_start().starts_with("\"calls\"") => Err(format!("the calls are no JSON: {error}")),
        _ => Ok(answer()),
    }
}

impl Call {
    fn into_tool_call(self) -> ToolCall {
        let arguments = match self.arguments {
            None => "{}".to_owned(),
            // Text goes out as it stands, so that a script can also say what is no JSON.
            Some(serde_json::Value::String(text)) => text,
            Some(value) => value.to_string(),
        };
        ToolCall { name: self.name, arguments }
    }
}

/// What a template sees. Each value is made when it is first asked for: most templates ask for few, and a transcript
/// is long.
#[derive(Debug, Default)]
struct Scene {
    step: u32,
    messages: Vec<Arc<Message>>,
    results: OnceLock<Value>,
    all_results: OnceLock<Value>,
    texts: OnceLock<Value>,
}

impl Object for Scene {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        Some(match key {
            "input" => Value::from(super::input(&self.messages)),
            "step" => Value::from(self.step),
            "results" => self.results.get_or_init(|| self.last_results()).clone(),
            "all_results" => self.all_results.get_or_init(|| self.all_results()).clone(),
            "messages" => self.texts.get_or_init(|| self.texts()).clone(),
            _ => return None,
        })
    }
}

impl Scene {
    fn last_results(&self) -> Value {
        let last = self.messages.iter().rposition(|message| matches!(message.body, Body::Assistant { .. }));
        last.map(|at| results_at(&self.messages, at).collect()).unwrap_or_else(|| Value::from(Vec::<Value>::new()))
    }

    fn all_results(&self) -> Value {
        (0..self.messages.len()).flat_map(|at| results_at(&self.messages, at)).collect()
    }

    fn texts(&self) -> Value {
        let text = |message: &Arc<Message>| match &message.body {
            Body::User { text } => minijinja::context! { role => "user", text => text },
            Body::Assistant { text, .. } => minijinja::context! { role => "assistant", text => text },
            Body::Tool { content, .. } => minijinja::context! { role => "tool", text => content },
        };
        self.messages.iter().map(text).collect()
    }
}

/// Returns the results of the tool calls that the message at `at` asked for, in the order of the calls.
fn results_at(messages: &[Arc<Message>], at: usize) -> impl Iterator<Item = Value> {
    let calls = match messages.get(at).map(|message| &message.body) {
        Some(Body::Assistant { tool_calls, .. }) => tool_calls.as_slice(),
        _ => &[],
    };
    let after = &messages[at + 1..];
    calls.iter().filter_map(move |(id, call)| {
        let found =
            after.iter().take_while(|message| !matches!(message.body, Body::Assistant { .. })).find_map(|message| {
                match &message.body {
                    Body::Tool { id: of, content, failed, .. } if of == id => Some((content, *failed)),
                    _ => None,
                }
            });
        let (content, failed) = found?;
        Some(minijinja::context! {
            name => &call.name,
            arguments => json_or_text(&call.arguments),
            content => json_or_text(content),
            failed,
        })
    })
}

fn json_or_text(text: &str) -> Value {
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(value) => Value::from(Serde(value)),
        Err(_) => Value::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{asked, request, result, user};
    use super::*;

    fn say(steps: &[&str], step: u32, messages: Vec<Message>) -> Result<Reply, ScriptError> {
        let steps = steps.iter().map(|step| (*step).to_owned()).collect();
        let script = Script::parse(&IndexMap::from([("scout".to_owned(), steps)]))?;
        script.reply(&request("scout", step, messages)).unwrap()
    }

    fn transcript() -> Vec<Message> {
        vec![
            user("Look at src"),
            asked(&[("a", "list", r#"{"path":"src"}"#), ("b", "count", "{}")]),
            result("b", "count", "41", false),
            result("a", "list", "no such file", true),
            asked(&[("c", "list", r#"{"path":"lib"}"#)]),
            result("c", "list", r#"{"files":["b.rs","a.rs","b.rs"]}"#, false),
        ]
    }

    #[test]
    fn an_answer_is_built_from_real_results() {
        let template = "{{ results[0].content.files | unique | sort | join(', ') }} in {{ results[0].arguments.path }}";
        assert_eq!(say(&[template], 3, transcript()).unwrap().text, "a.rs, b.rs in lib");
        let template =
            "{% for r in all_results %}{{ r.name }}={{ r.failed }} {% endfor %}{{ all_results[1].content + 1 }}";
        assert_eq!(say(&[template], 3, transcript()).unwrap().text, "list=True count=False list=False 42");
        let template = "{{ input }}|{{ step }}|{{ messages | map(attribute='role') | unique | join(',') }}";
        assert_eq!(say(&[template], 3, transcript()).unwrap().text, "Look at src|3|user,assistant,tool");
    }

    #[test]
    fn the_last_entry_serves_all_later_steps() {
        let said = |step| say(&["one", "two"], step, vec![user("x")]).unwrap().text;
        assert_eq!([said(1), said(2), said(3), said(99)], ["one", "two", "two", "two"]);
    }

    #[test]
    fn calls_are_calls_and_other_json_is_an_answer() {
        let template = r#"
            {"calls": [{"name": "read", "arguments": {"path": {{ input | tojson }}}}, {"name": "now"},
                       {"name": "bad", "arguments": "no json"}], "text": "one moment"}
        "#;
        let reply = say(&[template], 1, vec![user("a \"b\"")]).unwrap();
        let calls: Vec<_> = reply.tool_calls.iter().map(|call| (&*call.name, &*call.arguments)).collect();
        assert_eq!(calls, [("read", r#"{"path":"a \"b\""}"#), ("now", "{}"), ("bad", "no json")]);
        assert_eq!(reply.text, "one moment");

        assert_eq!(say(&[r#" {"answer": 1} "#], 1, vec![]).unwrap().text, r#"{"answer": 1}"#);
        assert_eq!(say(&["{curly} prose"], 1, vec![]).unwrap().text, "{curly} prose");
    }

    #[test]
    fn what_is_wrong_names_agent_step_and_line() {
        let message = |step: &str, at| say(&["fine", step], at, vec![user("x")]).unwrap_err().to_string();
        assert!(message("a\n{{ b", 1).starts_with("the script of agent `scout`, step 2, line 2: syntax error"));
        let undefined = message("a\n\n{{ nothing }}", 5);
        assert!(undefined.starts_with("the script of agent `scout`, step 5, line 3: undefined value"), "{undefined}");
        assert!(message(r#"{"calls": [}"#, 2).contains("the calls are no JSON"));
        assert!(message(r#"{"calls": [{"nam": "x"}]}"#, 2).contains("unknown field `nam`"));
    }

    #[test]
    fn agents_without_a_script_have_no_line() {
        let script = Script::parse(&IndexMap::from([("mute".to_owned(), vec![])])).unwrap();
        assert!(script.reply(&request("mute", 1, vec![])).is_none());
        assert!(script.reply(&request("scout", 1, vec![])).is_none());
    }
}
