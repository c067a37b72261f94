//! JSON made up to fit a JSON Schema, from draws and a stock of words.
//!
//! It knows what schemas of tools and answers are made of: types, `enum`, `const`, `default`, `examples`, bounds,
//! required properties, `$ref` within the schema, `anyOf`, `oneOf` and `allOf`. `not`, `if`, `pattern` and references
//! to elsewhere are beyond it: what it makes may miss them.

use std::borrow::Cow;

use serde_json::{Map, Number, Value, json};

use super::draw::Draws;

/// How deep a value may nest before lists stay as short as they may, and choices fall on what ends soonest. No
/// sensible answer nests deeper.
const DEEP: usize = 6;

/// How deep a value may nest at all: a schema that demands itself has no finite value.
const DEEPEST: usize = 32;

/// How many values one synthesis makes at most: a schema that demands two of itself grows without end in breadth.
const MOST_VALUES: usize = 10_000;

/// How many items a list gets at most that does not ask for more.
const ITEMS: usize = 3;

/// The longest list and the longest text that a schema can make the simulation write: it may come from outside.
const LONGEST: usize = 4096;

/// How many draws a list of unique items gets for each item.
const UNIQUE_TRIES: usize = 64;

/// The words that made-up text is made of.
pub(super) struct Words<'a> {
    /// Any words, in their order.
    pub(super) words: Vec<&'a str>,
    /// Those that look like paths of files.
    pub(super) paths: Vec<&'a str>,
    /// How many words in a row make a text.
    pub(super) in_a_row: usize,
}

/// Makes a value that fits `schema`.
pub(super) fn synthesise(schema: &Value, words: &Words<'_>, draws: &mut Draws) -> Value {
    Synthesis { root: schema, words, draws, left: MOST_VALUES }.value(schema, "", 0)
}

struct Synthesis<'a> {
    root: &'a Value,
    words: &'a Words<'a>,
    draws: &'a mut Draws,
    /// How many more values may be made.
    left: usize,
}

impl Synthesis<'_> {
    fn value(&mut self, schema: &Value, name: &str, depth: usize) -> Value {
        let Value::Object(schema) = schema else { return self.text(&Map::new(), name) };
        if depth > DEEPEST || self.left == 0 {
            return Value::Null;
        }
        self.left -= 1;
        let schema = self.flat(Cow::Borrowed(schema), depth);
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        if let Some(value) = schema.get("enum").and_then(Value::as_array).and_then(|all| self.draws.one_of(all)) {
            return value.clone();
        }
        if let Some(value) = schema.get("default") {
            return value.clone();
        }
        if let Some(value) = schema.get("examples").and_then(Value::as_array).and_then(|all| self.draws.one_of(all)) {
            return value.clone();
        }
        match type_of(&schema) {
            "object" => self.object(&schema, depth),
            "array" => self.array(&schema, name, depth),
            "integer" => self.integer(&schema),
            "number" => self.number(&schema),
            "boolean" => Value::Bool(self.draws.below(2) == 1),
            "null" => Value::Null,
            _ => self.text(&schema, name),
        }
    }

    /// Resolves references and choices, until the schema says by itself what it wants.
    fn flat<'s>(&mut self, mut schema: Cow<'s, Map<String, Value>>, depth: usize) -> Cow<'s, Map<String, Value>> {
        // Each turn takes one keyword out and may bring in others; a schema that refers to itself alone never ends.
        for _ in 0..DEEPEST {
            let Some(keyword) = ["$ref", "allOf", "anyOf", "oneOf"].into_iter().find(|&key| schema.contains_key(key))
            else {
                break;
            };
            let schema = schema.to_mut();
            match (keyword, schema.remove(keyword)) {
                ("$ref", Some(Value::String(target))) => {
                    let target = target.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
                    target.into_iter().for_each(|target| merge(schema, target));
                }
                ("allOf", Some(Value::Array(all))) => all.iter().for_each(|part| merge(schema, part)),
                (_, Some(Value::Array(variants))) => {
                    self.variant(&variants, depth).into_iter().for_each(|variant| merge(schema, variant));
                }
                _ => {}
            }
        }
        schema
    }

    /// Chooses among alternatives: something rather than null, and in the depth whatever ends soonest.
    fn variant<'s>(&mut self, variants: &'s [Value], depth: usize) -> Option<&'s Value> {
        let is = |variant: &Value, kinds: &[&str]| {
            variant.get("type").and_then(Value::as_str).is_some_and(|kind| kinds.contains(&kind))
        };
        if depth > DEEP {
            let ends = ["null", "boolean", "integer", "number", "string"];
            return variants.iter().find(|variant| is(variant, &ends)).or(variants.first());
        }
        let solid: Vec<&Value> =
            variants.iter().filter(|variant| !is(variant, &["null"]) && **variant != Value::Bool(false)).collect();
        self.draws.one_of(&solid).copied().or(variants.first())
    }

    fn object(&mut self, schema: &Map<String, Value>, depth: usize) -> Value {
        let none = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let required = schema.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let others = schema.get("additionalProperties").unwrap_or(&Value::Bool(true));
        let mut object = Map::new();
        for name in required.iter().filter_map(Value::as_str) {
            let value = self.value(properties.get(name).unwrap_or(others), name, depth + 1);
            object.insert(name.to_owned(), value);
        }
        let wanted = size(schema, "minProperties").unwrap_or(0);
        for (name, property) in properties {
            if object.len() >= wanted {
                break;
            }
            if !object.contains_key(name) {
                let value = self.value(property, name, depth + 1);
                object.insert(name.clone(), value);
            }
        }
        for number in 1.. {
            if object.len() >= wanted {
                break;
            }
            let value = self.value(others, "", depth + 1);
            object.insert(format!("key{number}"), value);
        }
        Value::Object(object)
    }

    fn array(&mut self, schema: &Map<String, Value>, name: &str, depth: usize) -> Value {
        let prefix = schema.get("prefixItems").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let rest = schema.get("items");
        let least = size(schema, "minItems").unwrap_or(0);
        let most = size(schema, "maxItems").unwrap_or(usize::MAX);
        let length = match rest {
            _ if depth > DEEP => least,
            Some(Value::Bool(false)) => prefix.len(),
            _ => least.max(prefix.len()).max(1 + self.draws.below(ITEMS)).min(most.max(least)),
        };
        let unique = schema.get("uniqueItems") == Some(&Value::Bool(true));
        let mut items: Vec<Value> = Vec::with_capacity(length);
        for index in 0..length {
            let item = prefix.get(index).or(rest).unwrap_or(&Value::Bool(true));
            let mut value = self.value(item, name, depth + 1);
            let mut tries = 1;
            while unique && items.contains(&value) && tries < UNIQUE_TRIES {
                value = self.value(item, name, depth + 1);
                tries += 1;
            }
            match &mut value {
                known if !(unique && items.contains(known)) => {}
                // The words ran out before the list was full.
                Value::String(text) if !constrained(item) => text.push_str(&format!(" {index}")),
                _ if items.len() >= least => break,
                _ => {}
            }
            items.push(value);
        }
        Value::Array(items)
    }

    fn integer(&mut self, schema: &Map<String, Value>) -> Value {
        let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
        let least = bound("minimum").map(f64::ceil).or(bound("exclusiveMinimum").map(|bound| bound.floor() + 1.0));
        let most = bound("maximum").map(f64::floor).or(bound("exclusiveMaximum").map(|bound| bound.ceil() - 1.0));
        let step = bound("multipleOf").filter(|step| *step >= 1.0).unwrap_or(1.0);
        let (least, most) = range(least, most, step);
        let steps = ((most - (least / step).ceil() * step) / step).floor().max(0.0);
        let value = ((least / step).ceil() + self.draws.below(steps as usize + 1) as f64) * step;
        Value::from(value as i64)
    }

    fn number(&mut self, schema: &Map<String, Value>) -> Value {
        let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
        let least = bound("minimum").or(bound("exclusiveMinimum"));
        let most = bound("maximum").or(bound("exclusiveMaximum"));
        if let Some(step) = bound("multipleOf").filter(|step| *step > 0.0) {
            let (least, _) = range(least, most, step);
            let value = (least / step).floor() * step + step;
            return Number::from_f64(value).map_or(Value::Null, Value::Number);
        }
        let (least, most) = range(least, most, 1.0);
        // Well inside, so that exclusive bounds are kept too.
        let exact = least + (0.05 + 0.9 * self.draws.unit()) * (most - least);
        let short = (exact * 100.0).round() / 100.0;
        let value = if least < short && short < most { short } else { exact };
        Number::from_f64(value).map_or(Value::Null, Value::Number)
    }

    fn text(&mut self, schema: &Map<String, Value>, name: &str) -> Value {
        if let Some(text) = schema.get("format").and_then(Value::as_str).and_then(|format| self.formatted(format)) {
            return Value::String(text);
        }
        let least = size(schema, "minLength").unwrap_or(0);
        let most = size(schema, "maxLength").unwrap_or(LONGEST).max(least);
        let mut text = self.words(name);
        while text.chars().count() < least {
            text.push(' ');
            text.push_str(&self.words(name));
        }
        if let Some((end, _)) = text.char_indices().nth(most) {
            text.truncate(end);
        }
        Value::String(text)
    }

    /// Takes a few words in a row; for what is called a path, something that looks like one.
    fn words(&mut self, name: &str) -> String {
        let name = name.to_ascii_lowercase();
        if ["path", "file"].iter().any(|part| name.contains(part))
            && let Some(path) = self.draws.one_of(&self.words.paths)
        {
            return (*path).to_owned();
        }
        let words = &self.words.words;
        if words.is_empty() {
            return "simulated".to_owned();
        }
        let start = self.draws.below(words.len().saturating_sub(self.words.in_a_row) + 1);
        words[start..].iter().take(self.words.in_a_row).copied().collect::<Vec<_>>().join(" ")
    }

    fn formatted(&mut self, format: &str) -> Option<String> {
        let bits = self.draws.bits();
        let day = 1 + bits % 28;
        Some(match format {
            "date" => format!("2026-01-{day:02}"),
            "date-time" => format!("2026-01-{day:02}T09:30:00Z"),
            "time" => format!("09:{:02}:00Z", bits % 60),
            "duration" => format!("PT{}M", 1 + bits % 59),
            "email" => format!("agent{}@example.com", bits % 1000),
            "hostname" => format!("host{}.example.com", bits % 1000),
            "ipv4" => format!("192.0.2.{}", bits % 256),
            "ipv6" => format!("2001:db8::{:x}", bits % 0x1_0000),
            "uri" | "url" | "uri-reference" | "iri" => format!("https://example.com/{}", bits % 1000),
            "uuid" => {
                format!("{:08x}-{:04x}-4{:03x}-8000-{:012x}", bits >> 32, bits & 0xffff, bits >> 52, bits >> 16)
            }
            _ => return None,
        })
    }
}

/// Adds what `part` asks for to `schema`. Where both ask, `schema` wins, but for properties and required names, which
/// add up.
fn merge(schema: &mut Map<String, Value>, part: &Value) {
    let Value::Object(part) = part else { return };
    for (key, value) in part {
        match (schema.get_mut(key), value) {
            (None, value) => {
                schema.insert(key.clone(), value.clone());
            }
            (Some(Value::Object(mine)), Value::Object(more)) if key == "properties" => {
                more.iter().for_each(|(name, property)| {
                    mine.entry(name).or_insert_with(|| property.clone());
                });
            }
            (Some(Value::Array(mine)), Value::Array(more)) if key == "required" => {
                let new: Vec<Value> = more.iter().filter(|name| !mine.contains(name)).cloned().collect();
                mine.extend(new);
            }
            (Some(_), _) => {}
        }
    }
}

/// Says which type a value should have: the one that is named, the first but null of several, or the one that the
/// other keywords speak of.
fn type_of(schema: &Map<String, Value>) -> &str {
    match schema.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => {
            let mut kinds = kinds.iter().filter_map(Value::as_str);
            kinds.find(|kind| *kind != "null").unwrap_or("null")
        }
        _ if ["properties", "required", "additionalProperties", "minProperties"]
            .iter()
            .any(|k| schema.contains_key(*k)) =>
        {
            "object"
        }
        _ if ["items", "prefixItems", "minItems", "maxItems"].iter().any(|k| schema.contains_key(*k)) => "array",
        _ if ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]
            .iter()
            .any(|k| schema.contains_key(*k)) =>
        {
            "number"
        }
        _ => "string",
    }
}

/// Whether text cannot be lengthened without asking its schema.
fn constrained(schema: &Value) -> bool {
    ["enum", "const", "format", "maxLength", "$ref", "anyOf", "oneOf", "allOf"]
        .iter()
        .any(|key| schema.get(key).is_some())
}

fn size(schema: &Map<String, Value>, key: &str) -> Option<usize> {
    schema.get(key).and_then(Value::as_u64).map(|size| usize::try_from(size).unwrap_or(LONGEST).min(LONGEST))
}

/// Returns a range of ten steps where a bound is missing.
fn range(least: Option<f64>, most: Option<f64>, step: f64) -> (f64, f64) {
    match (least, most) {
        (Some(least), Some(most)) => (least, most.max(least)),
        (Some(least), None) => (least, least + 10.0 * step),
        (None, Some(most)) if most < 10.0 * step => (most - 10.0 * step, most),
        (None, _) => (0.0, 10.0 * step),
    }
}

/// Makes the arguments of a call: always an object, whatever the schema.
pub(super) fn arguments(schema: &Value, words: &Words<'_>, draws: &mut Draws) -> Value {
    match synthesise(schema, words, draws) {
        object @ Value::Object(_) => object,
        _ => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::super::draw::Scope;
    use super::super::tests::request;
    use super::*;

    fn make(schema: &Value, seed: u64) -> Value {
        let mut draws = Draws::new(seed, &request("scout", 1, vec![]), Scope::Call, "test");
        let words =
            Words { words: "look at the files in src".split(' ').collect(), paths: vec!["src/lib.rs"], in_a_row: 2 };
        synthesise(schema, &words, &mut draws)
    }

    #[test]
    fn what_is_made_fits_its_schema() {
        let schemas = [
            json!({"type": "object"}),
            json!({"type": "string", "minLength": 40, "maxLength": 45}),
            json!({"type": "string", "maxLength": 3}),
            json!({"type": ["null", "integer"], "minimum": 3, "maximum": 4}),
            json!({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5}),
            json!({"type": "integer", "maximum": -5}),
            json!({"type": "integer", "minimum": 10, "multipleOf": 7}),
            json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001}),
            json!({"type": "number", "minimum": 0, "maximum": 1}),
            json!({"minimum": 5}),
            json!({"enum": ["a", 1, null]}),
            json!({"const": {"a": 1}}),
            json!({"type": "array", "items": {"type": "integer"}, "minItems": 5, "maxItems": 6, "uniqueItems": true}),
            json!({"type": "array", "items": {"type": "string"}, "minItems": 20, "uniqueItems": true}),
            json!({"type": "array", "items": {"enum": ["x", "y"]}, "uniqueItems": true}),
            json!({"type": "array", "prefixItems": [{"type": "string"}, {"type": "boolean"}], "items": false}),
            json!({"type": "object", "minProperties": 2, "properties": {"a": {"type": "boolean"}},
                   "additionalProperties": {"type": "integer"}}),
            json!({"type": "object", "required": ["when", "who"], "additionalProperties": false, "properties": {
                "when": {"type": "string", "format": "date-time"}, "who": {"type": "string", "format": "email"},
                "never": {"type": "string"}}}),
            json!({"$defs": {"node": {"type": "object", "required": ["name", "children"], "properties": {
                        "name": {"type": "string"},
                        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}},
                   "$ref": "#/$defs/node"}),
            json!({"$defs": {"list": {"type": "object", "required": ["next"], "properties": {
                        "next": {"anyOf": [{"$ref": "#/$defs/list"}, {"type": "null"}]}}}},
                   "$ref": "#/$defs/list"}),
            json!({"allOf": [{"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}},
                             {"required": ["b"], "properties": {"b": {"type": "boolean"}}}]}),
            json!({"oneOf": [
                {"type": "object", "required": ["kind"], "properties": {"kind": {"const": "a"}}},
                {"type": "object", "required": ["kind", "x"], "properties": {"kind": {"const": "b"}, "x": {"type": "number"}}}]}),
            json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "nullable": true}}}),
            json!(true),
        ];
        for schema in schemas {
            let validator = jsonschema::validator_for(&schema).unwrap();
            for seed in 0..50 {
                let value = make(&schema, seed);
                assert!(validator.is_valid(&value), "{value} does not fit {schema}");
            }
        }
    }

    #[test]
    fn a_schema_that_demands_itself_still_ends() {
        make(&json!({"$ref": "#"}), 1);
        make(&json!({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}), 1);
        make(&json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}), 1);
        make(&json!({"type": "array", "minItems": 2, "items": {"$ref": "#"}}), 1);
    }

    #[test]
    fn what_the_schema_suggests_is_taken() {
        assert_eq!(make(&json!({"type": "integer", "default": 77}), 1), json!(77));
        assert_eq!(make(&json!({"type": "integer", "examples": [78]}), 1), json!(78));
        let paths = json!({"type": "object", "required": ["path"], "properties": {"path": {"type": "string"}}});
        assert_eq!(make(&paths, 1), json!({"path": "src/lib.rs"}));
    }

    proptest::proptest! {
        #[test]
        fn whole_numbers_keep_their_bounds(least in -1000_i64..1000, width in 0_i64..1000, seed: u64) {
            let value = make(&json!({"type": "integer", "minimum": least, "maximum": least + width}), seed);
            proptest::prop_assert!((least..=least + width).contains(&value.as_i64().unwrap()));
        }
    }
}
