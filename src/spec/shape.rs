//! Checks the shape of a network file (keys, types, ranges) against the JSON Schema that the types give, and makes
//! the tree fit: what is wrong is reported with its place, and taken out or filled in, so that the checks of meaning
//! can go on with the rest.

use std::collections::HashSet;
use std::sync::LazyLock;

use indexmap::IndexMap;
use serde_json::{Map, Value as Json};

use super::findings::{Findings, Place, Said, listed, nearest};
use super::later;
use super::node::{Node, Value};
use super::schema::json_schema;
use super::{Backoff, Join, OnError, SecretRef, Span};

/// Makes `tree` fit the schema, and reports where it did not.
pub(super) fn fit(tree: &mut Node, found: &mut Findings) {
    let root = json_schema();
    Shape { root, found, path: Vec::new() }.node(root, tree);
}

struct Shape<'a> {
    root: &'a Json,
    found: &'a mut Findings,
    path: Vec<String>,
}

impl<'a> Shape<'a> {
    /// Makes a node fit. Whatever it holds afterwards can be read as the schema's type.
    fn node(&mut self, schema: &'a Json, node: &mut Node) {
        let schema = resolve(self.root, schema);
        if let Some(choices) = choices(schema) {
            return self.choice(schema, &choices, node);
        }
        match (schema["format"].as_str(), &node.value) {
            // One is a list of one.
            (Some("one-or-many"), Value::String(_)) => {
                let one = node.clone();
                node.value = Value::Array(vec![one]);
            }
            (Some("join"), Value::Integer(count)) => node.value = Value::String(count.to_string()),
            _ => {}
        }
        match (kind(schema), &mut node.value) {
            (Some("object"), Value::Table(_)) => self.table(schema, node),
            (Some("array"), Value::Array(_)) => self.list(schema, node),
            (Some("string"), Value::String(text)) => {
                if let Some(said) = wrong_text(schema, text, &name(&self.path)) {
                    self.replace(schema, node, said);
                }
            }
            (Some("integer"), Value::Integer(number)) => {
                if let Some(said) = wrong_integer(schema, *number, &name(&self.path)) {
                    self.replace(schema, node, said);
                }
            }
            (Some("number"), Value::Integer(_) | Value::Float(_)) => {
                let number = match node.value {
                    Value::Float(number) => number,
                    // Loses nothing that a check of range could miss.
                    Value::Integer(number) => number as f64,
                    _ => return,
                };
                match wrong_number(schema, number, &name(&self.path)) {
                    Some(said) => self.replace(schema, node, said),
                    None => node.value = Value::Float(number),
                }
            }
            (Some("boolean"), Value::Boolean(_)) => {}
            _ => self.wrong_type(schema, node),
        }
    }

    fn wrong_type(&mut self, schema: &'a Json, node: &mut Node) {
        let expected = expected(schema);
        let mut help = format!("write {}", example(schema, &self.path));
        if let Value::String(text) = &node.value
            && matches!(kind(schema), Some("integer" | "number" | "boolean"))
            && text.parse::<f64>().is_ok_and(f64::is_finite)
        {
            help = "write it without the quotes".to_owned();
        }
        let said = Said {
            code: "wrong_type",
            message: format!("{} must be {expected}, not {}", name(&self.path), node.kind()),
            label: format!("this is {}", node.kind()),
            help,
        };
        self.replace(schema, node, said);
    }

    /// Reports a node's value, and puts something in its place that fits.
    fn replace(&mut self, schema: &'a Json, node: &mut Node, said: Said) {
        self.found.error(&self.path, Place::Value, said);
        self.found.mark(&self.path);
        node.value = placeholder(self.root, schema);
    }

    fn choice(&mut self, schema: &'a Json, choices: &[&'a str], node: &mut Node) {
        let Value::String(text) = &node.value else { return self.wrong_type(schema, node) };
        if choices.contains(&text.as_str()) {
            return;
        }
        let said = Said {
            code: "unknown_value",
            message: format!("{} can't be `{}`", name(&self.path), short(text)),
            label: "not a value of this key".to_owned(),
            help: match nearest(text, choices.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("it takes {}", or_listed(choices)),
            },
        };
        self.replace(schema, node, said);
    }

    fn list(&mut self, schema: &'a Json, node: &mut Node) {
        let Value::Array(items) = &mut node.value else { return };
        let mut seen: HashSet<String> = HashSet::new();
        for (index, item) in items.iter_mut().enumerate() {
            self.path.push(index.to_string());
            self.node(&schema["items"], item);
            if let (Some(true), Value::String(text)) = (schema["uniqueItems"].as_bool(), &item.value)
                && !self.found.is_broken(&self.path)
            {
                if seen.contains(text) {
                    let said = Said {
                        code: "duplicate",
                        message: format!(
                            "`{}` stands twice in {}",
                            short(text),
                            name(&self.path[..self.path.len() - 1])
                        ),
                        label: "named before".to_owned(),
                        help: "take one of the two out".to_owned(),
                    };
                    self.found.error(&self.path, Place::Value, said);
                    self.found.mark(&self.path);
                } else {
                    seen.insert(text.clone());
                }
            }
            self.path.pop();
        }
    }

    fn table(&mut self, schema: &'a Json, node: &mut Node) {
        static NONE: LazyLock<Map<String, Json>> = LazyLock::new(Map::new);
        let properties = schema["properties"].as_object().unwrap_or(&NONE);
        let any = schema["additionalProperties"].as_object().map(|_| &schema["additionalProperties"]);
        let Value::Table(entries) = &mut node.value else { return };
        let present: HashSet<String> = entries.keys().cloned().collect();
        entries.retain(|key, entry| {
            self.path.push(key.clone());
            let keep = match properties.get(key).or(any) {
                Some(property) => {
                    if any.is_some() {
                        self.entry_name(&schema["propertyNames"], key);
                    }
                    self.node(property, entry);
                    // What is optional and wrong is left out; what is a list keeps the items that are right.
                    any.is_some() || !self.found.is_broken(&self.path)
                }
                None => {
                    self.unknown_key(key, properties.keys().map(String::as_str), &present);
                    false
                }
            };
            self.path.pop();
            keep
        });
        self.required(schema, properties, entries);
    }

    /// Checks a name that the file gives to a model, an agent or a tool.
    fn entry_name(&mut self, schema: &Json, key: &str) {
        if schema["format"] != "name" {
            return;
        }
        let max = schema["maxLength"].as_u64().unwrap_or(u64::MAX);
        let fits = !key.is_empty()
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
            && key.len() as u64 <= max;
        if fits {
            return;
        }
        let message = if key.is_empty() {
            "a name can't be empty".to_owned()
        } else if key.len() as u64 > max {
            format!("the name `{}` is longer than {max} characters", short(key))
        } else {
            format!("the name `{}` holds more than letters, digits, `_` and `-`", short(key))
        };
        let help = format!("take 1 to {max} letters (a to z), digits, `_` and `-`: models are told the name");
        self.found.error(&self.path, Place::Key, Said { code: "bad_name", message, label: String::new(), help });
    }

    fn unknown_key<'k>(&mut self, key: &str, allowed: impl Iterator<Item = &'k str>, present: &HashSet<String>) {
        if self.found.is_full() {
            return;
        }
        let table = self.path[..self.path.len() - 1].to_vec();
        if let Some(remedy) = later::key(&self.path) {
            let said = Said {
                code: "not_in_this_version",
                message: format!("{} is not in this version of Provost", name(&self.path)),
                label: "not in this version".to_owned(),
                help: remedy.to_owned(),
            };
            self.found.error(&self.path, Place::Key, said);
            self.found.mark(&self.path);
            return;
        }
        let allowed: Vec<&str> = allowed.collect();
        let free = allowed.iter().copied().filter(|allowed| !present.contains(*allowed));
        let meant = nearest(key, free).or_else(|| nearest(key, allowed.iter().copied()));
        let said = Said {
            code: "unknown_key",
            message: format!("unknown key `{}` in {}", short(key), name_of_table(&table)),
            label: "no such key here".to_owned(),
            help: match meant {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("the keys here are {}", listed(allowed.iter().copied())),
            },
        };
        self.found.error(&self.path, Place::Key, said);
        self.found.mark(&self.path);
        if let Some(meant) = meant
            && !present.contains(meant)
        {
            // The key that was meant is then not missing as well.
            let mut path = table;
            path.push(meant.to_owned());
            self.found.mark(&path);
        }
    }

    /// Reports what is missing, and fills it in.
    fn required(&mut self, schema: &'a Json, properties: &'a Map<String, Json>, entries: &mut IndexMap<String, Node>) {
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str) {
            if entries.contains_key(key) {
                continue;
            }
            let property = properties.get(key).unwrap_or(&Json::Null);
            let mut path = self.path.clone();
            path.push(key.to_owned());
            let lost =
                if self.path.is_empty() { self.found.has_lost_tables() } else { self.found.is_torn_at(&self.path) };
            if !lost {
                let said = Said {
                    code: "missing_key",
                    message: format!("{} has no `{key}`", name_of_table(&self.path)),
                    label: format!("`{key}` is missing"),
                    help: missing_help(self.root, key, property, &self.path),
                };
                self.found.error(&path, Place::Key, said);
            }
            self.found.mark(&path);
            entries.insert(key.to_owned(), Node::nowhere(placeholder(self.root, property)));
        }
    }
}

/// Follows a reference to its definition. What stands beside a reference (a description, a default) does not bind.
fn resolve<'a>(root: &'a Json, schema: &'a Json) -> &'a Json {
    let target = schema["$ref"].as_str().and_then(|target| target.strip_prefix('#')).and_then(|at| root.pointer(at));
    target.map_or(schema, |target| resolve(root, target))
}

/// Returns the type of what a schema describes. Where there are several, all but the first are other ways to write it.
fn kind(schema: &Json) -> Option<&str> {
    schema["type"].as_str().or_else(|| schema["type"][0].as_str())
}

/// Returns the values of an enumeration; none if the schema is something else.
fn choices(schema: &Json) -> Option<Vec<&str>> {
    let named = |choice: &'_ Json| choice.as_str().is_some();
    if let Some(choices) = schema["enum"].as_array().filter(|choices| choices.iter().all(named)) {
        return Some(choices.iter().filter_map(Json::as_str).collect());
    }
    schema["oneOf"].as_array().map(|choices| choices.iter().filter_map(|choice| choice["const"].as_str()).collect())
}

/// Returns a value that fits a schema, to stand where one is missing or wrong.
fn placeholder(root: &Json, schema: &Json) -> Value {
    let schema = resolve(root, schema);
    if let Some(first) = choices(schema).and_then(|choices| choices.first().copied()) {
        return Value::String(first.to_owned());
    }
    match (kind(schema), schema["format"].as_str()) {
        (Some("object"), _) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str);
            Value::Table(
                required
                    .map(|key| (key.to_owned(), Node::nowhere(placeholder(root, &schema["properties"][key]))))
                    .collect(),
            )
        }
        (Some("array"), _) => Value::Array(Vec::new()),
        (Some("integer"), _) => Value::Integer(schema["minimum"].as_u64().unwrap_or(0).into()),
        (Some("number"), _) => Value::Float(0.0),
        (Some("boolean"), _) => Value::Boolean(false),
        (_, Some("span")) => Value::String("1s".to_owned()),
        (_, Some("backoff")) => Value::String(Backoff::default().to_string()),
        (_, Some("on-error")) => Value::String(OnError::default().to_string()),
        (_, Some("join")) => Value::String(Join::All.to_string()),
        _ => Value::String(String::new()),
    }
}

fn expected(schema: &Json) -> &'static str {
    if choices(schema).is_some() {
        return "a string";
    }
    match (kind(schema), schema["format"].as_str()) {
        (Some("object"), _) => "a table",
        (Some("array"), _) => "a list",
        (Some("integer"), _) => "a whole number",
        (Some("number"), _) => "a number",
        (Some("boolean"), _) => "true or false",
        (_, Some("span")) => "a span of time",
        (_, Some("backoff")) => "two spans of time in a string",
        _ => "a string",
    }
}

fn example(schema: &Json, path: &[String]) -> String {
    let key = path.last().map_or("key", String::as_str);
    if let Some(choices) = choices(schema) {
        return format!("one of {}", choices.iter().map(|c| format!("\"{c}\"")).collect::<Vec<_>>().join(", "));
    }
    match (kind(schema), schema["format"].as_str()) {
        (Some("object"), _) => match schema["required"].get(0).and_then(Json::as_str) {
            Some(inner) => format!("`{key} = {{ {inner} = … }}`"),
            None if path.len() == 1 => format!("a table, such as [{key}] or [{key}.NAME]"),
            None => format!("[{}] and its keys beneath, or `{key} = {{ … }}`", path.join(".")),
        },
        (Some("array"), _) => format!("`{key} = [\"…\"]`"),
        (Some("integer"), _) => "a whole number, such as 100".to_owned(),
        (Some("number"), _) => "a number, such as 0.5".to_owned(),
        (Some("boolean"), _) => "`true` or `false`, without quotes".to_owned(),
        (_, Some("span")) => "a span of time in quotes, such as \"200ms\", \"10s\" or \"5m\"".to_owned(),
        (_, Some("backoff")) => format!("`{key} = \"200ms..10s\"`: {BACKOFF}"),
        (_, Some("on-error")) => format!("`{key} = \"restart\"`; it takes {ON_ERROR}"),
        (_, Some("join")) => format!("`{key} = \"all\"`; it takes {JOIN}"),
        _ if path.last().is_some_and(|key| key.bytes().all(|byte| byte.is_ascii_digit())) => "\"…\"".to_owned(),
        _ => format!("`{key} = \"…\"`"),
    }
}

/// What a back-off says.
const BACKOFF: &str = "the first pause and the longest one";

/// How many answers may have to come together.
const JOIN: &str = "`all`, `any`, `majority` or a number from 1";

/// What may follow an error.
const ON_ERROR: &str = "`feed_back`, `restart`, `fail_run` or `route:<agent>`";

fn wrong_text(schema: &Json, text: &str, name: &str) -> Option<Said> {
    let length = text.chars().count() as u64;
    let said =
        |code, message: String, help: &str| Some(Said { code, message, label: String::new(), help: help.to_owned() });
    if schema["minLength"].as_u64().is_some_and(|min| length < min) {
        return said("empty", format!("{name} is empty"), "write something, or take the key out if it can be left out");
    }
    if let Some(max) = schema["maxLength"].as_u64().filter(|max| length > *max) {
        return said("too_long", format!("{name} is longer than {max} characters"), "shorten it");
    }
    match schema["format"].as_str() {
        Some("span") if text.parse::<Span>().is_err() => said(
            "bad_span",
            format!("{name} is `{}`, which is no span of time", short(text)),
            "write one such as \"200ms\", \"10s\" or \"5m\"",
        ),
        Some("backoff") => text.parse::<Backoff>().err().and_then(|why| {
            let help = format!("write {BACKOFF}, such as \"200ms..10s\"");
            said("bad_span", format!("{name}: {}", why.split(';').next().unwrap_or_default()), &help)
        }),
        Some("on-error") => text.parse::<OnError>().err().and_then(|_| {
            let help = match nearest(text, ["feed_back", "restart", "fail_run"]) {
                _ if text.starts_with("route") => "name the agent that takes over: \"route:<agent>\"".to_owned(),
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("it takes {ON_ERROR}"),
            };
            said("unknown_value", format!("{name} can't be `{}`", short(text)), &help)
        }),
        Some("join") => text.parse::<Join>().err().and_then(|_| {
            let help = match nearest(text, ["all", "any", "majority"]) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("it takes {JOIN}"),
            };
            said("unknown_value", format!("{name} can't be `{}`", short(text)), &help)
        }),
        // Never says what stands there: it is probably the key itself.
        Some("secret-ref") if !SecretRef::is_reference(text) => said(
            "inline_secret",
            format!("{name} must say where the key is, not hold it"),
            "put the key into an environment variable and write \"env:NAME\", or into a file and write \"file:PATH\"",
        ),
        _ => None,
    }
}

fn wrong_integer(schema: &Json, number: i128, name: &str) -> Option<Said> {
    let min = schema["minimum"].as_i64().map_or(i128::from(i64::MIN), i128::from);
    let max = match (schema["maximum"].as_i64(), schema["format"].as_str()) {
        (Some(max), _) => max.into(),
        (None, Some("uint32")) => u32::MAX.into(),
        (None, _) => i64::MAX.into(),
    };
    if number < min {
        return Some(out_of_range(name, &format!("at least {min}"), &number.to_string()));
    }
    (number > max).then(|| out_of_range(name, &format!("at most {max}"), "this number"))
}

fn wrong_number(schema: &Json, number: f64, name: &str) -> Option<Said> {
    if !number.is_finite() {
        return Some(out_of_range(name, "a finite number", &number.to_string()));
    }
    if let Some(min) = schema["minimum"].as_f64().filter(|min| number < *min) {
        return Some(out_of_range(name, &format!("at least {min}"), &number.to_string()));
    }
    let max = schema["maximum"].as_f64().filter(|max| number > *max)?;
    Some(out_of_range(name, &format!("at most {max}"), &number.to_string()))
}

fn out_of_range(name: &str, bound: &str, number: &str) -> Said {
    Said {
        code: "out_of_range",
        message: format!("{name} must be {bound}, not {number}"),
        label: "out of range".to_owned(),
        help: format!(
            "write {}",
            if bound == "a finite number" { bound.to_owned() } else { format!("a number that is {bound}") }
        ),
    }
}

/// Says what is to be written where a key is missing.
fn missing_help(root: &Json, key: &str, schema: &Json, table: &[String]) -> String {
    let description = schema["description"].as_str().or_else(|| resolve(root, schema)["description"].as_str());
    let first = description.unwrap_or_default().split(['.', ':', ';']).next().unwrap_or_default().replace('\n', " ");
    let mut path = table.to_vec();
    path.push(key.to_owned());
    let example = match kind(resolve(root, schema)) {
        Some("object") => format!("a table [{}]", path.join(".")),
        Some("integer") => format!("`{key} = {}`", resolve(root, schema)["minimum"].as_u64().unwrap_or(1)),
        Some("number") => format!("`{key} = 1.0`"),
        _ => example(resolve(root, schema), &path),
    };
    if first.is_empty() { format!("add {example}") } else { format!("add {example}: {}", lower_first(&first)) }
}

fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_lowercase().chain(characters).collect()).unwrap_or_default()
}

/// Names a key as people do, by its last two steps at most.
pub(super) fn name<S: AsRef<str>>(path: &[S]) -> String {
    match path {
        [] => "the file".to_owned(),
        // The tables of a list have no names.
        [.., index, key] if is_index(index.as_ref()) && !is_index(key.as_ref()) => format!("`{}`", short(key.as_ref())),
        [.., list, index] if index.as_ref().bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("each item of `{}`", list.as_ref())
        }
        [table, key] => format!("`{}.{}`", short(table.as_ref()), short(key.as_ref())),
        [.., key] => format!("`{}`", short(key.as_ref())),
    }
}

fn is_index(step: &str) -> bool {
    !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit())
}

fn name_of_table<S: AsRef<str>>(path: &[S]) -> String {
    match path {
        [] => return "the file".to_owned(),
        [list, index] if is_index(index.as_ref()) => return format!("[[{}]]", short(list.as_ref())),
        _ => {}
    }
    format!("[{}]", path.iter().map(|step| short(step.as_ref())).collect::<Vec<_>>().join("."))
}

fn or_listed(choices: &[&str]) -> String {
    match choices {
        [first @ .., last] if !first.is_empty() => {
            format!("{} or `{last}`", first.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", "))
        }
        _ => listed(choices.iter().copied()),
    }
}

/// Cuts what a file says to a length that a message can bear.
pub(super) fn short(text: &str) -> String {
    const MAX: usize = 80;
    if text.chars().count() <= MAX { text.to_owned() } else { text.chars().take(MAX).chain(['…']).collect() }
}

/// Takes out the providers that only a program can register, and returns the models that have them.
pub(super) fn take_hosts(tree: &mut Node) -> Vec<String> {
    let mut hosts = Vec::new();
    let Value::Table(root) = &mut tree.value else { return hosts };
    let Some(Node { value: Value::Table(models), .. }) = root.get_mut("models") else { return hosts };
    for (name, model) in models {
        if let Value::Table(model) = &mut model.value
            && let Some(Value::String(provider)) = model.get("provider").map(|node| &node.value)
            && provider == "host"
        {
            model.shift_remove("provider");
            hosts.push(name.clone());
        }
    }
    hosts
}
