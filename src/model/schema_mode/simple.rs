//! A JSON Schema made simple enough for a grammar, and for a small model to read.

use serde_json::{Map, Value, json};

/// How deep a schema goes at most; what lies deeper may be anything.
const MAX_DEPTH: u32 = 16;

/// How many parts a simplified schema may have: definitions that use one another can double with each level.
const MAX_PARTS: u32 = 2_000;

/// The longest lower bound that is kept: llama.cpp writes repetitions out, and refuses long ones.
const MAX_LOWER_BOUND: u64 = 16;

/// What is kept as it is. Everything else is dropped, above all what makes llama.cpp refuse a schema (patterns, bounds
/// beyond 64 bits, long repetitions): the tool itself checks its arguments.
const KEPT: [&str; 5] = ["type", "enum", "const", "required", "description"];

/// Simplifies a schema: references are put in place of what they name, and objects with properties are closed.
pub(in crate::model) fn simplify(schema: &Value) -> Value {
    let mut parts = 0;
    Walk { root: schema, parts: &mut parts, open: &mut Vec::new() }.part(schema, 0)
}

struct Walk<'a> {
    root: &'a Value,
    parts: &'a mut u32,
    /// The references that are being followed, so that a schema within itself ends.
    open: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn part(&mut self, schema: &Value, depth: u32) -> Value {
        *self.parts += 1;
        let Some(schema) = schema.as_object() else { return anything() };
        if depth > MAX_DEPTH || *self.parts > MAX_PARTS {
            return anything();
        }
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            return self.reference(reference, schema, depth);
        }
        let mut simple: Map<String, Value> =
            KEPT.iter().filter_map(|name| Some(((*name).to_owned(), schema.get(*name)?.clone()))).collect();
        for name in ["minLength", "minItems"] {
            if let Some(bound) = schema.get(name).and_then(Value::as_u64).filter(|bound| *bound <= MAX_LOWER_BOUND) {
                simple.insert(name.to_owned(), json!(bound));
            }
        }
        for name in ["anyOf", "oneOf", "allOf", "prefixItems"] {
            if let Some(parts) = schema.get(name).and_then(Value::as_array) {
                simple.insert(name.to_owned(), parts.iter().map(|part| self.part(part, depth + 1)).collect());
            }
        }
        if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
            simple.insert("items".to_owned(), self.part(items, depth + 1));
        }
        self.properties(schema, &mut simple, depth);
        Value::Object(simple)
    }

    fn properties(&mut self, schema: &Map<String, Value>, simple: &mut Map<String, Value>, depth: u32) {
        let properties = schema.get("properties").and_then(Value::as_object);
        if let Some(properties) = properties {
            let part = |(name, part): (&String, &Value)| (name.clone(), self.part(part, depth + 1));
            simple.insert("properties".to_owned(), properties.iter().map(part).collect());
        }
        let more = match schema.get("additionalProperties") {
            Some(more @ Value::Object(_)) => Some(self.part(more, depth + 1)),
            Some(more) => Some(more.clone()),
            None => properties.filter(|properties| !properties.is_empty()).map(|_| json!(false)),
        };
        simple.extend(more.map(|more| ("additionalProperties".to_owned(), more)));
    }

    fn reference(&mut self, reference: &str, beside: &Map<String, Value>, depth: u32) -> Value {
        let target = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
        let Some(target) = target.filter(|_| !self.open.iter().any(|open| open == reference)) else {
            return anything();
        };
        self.open.push(reference.to_owned());
        let mut simple = self.part(target, depth + 1);
        self.open.pop();
        // What is said beside the reference is meant for this very place.
        if let (Some(description), Some(simple)) = (beside.get("description"), simple.as_object_mut()) {
            simple.insert("description".to_owned(), description.clone());
        }
        simple
    }
}

fn anything() -> Value {
    json!({})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schema: Value, expected: Value) {
        assert_eq!(simplify(&schema), expected, "{schema}");
    }

    #[test]
    fn what_a_grammar_can_not_hold_is_dropped() {
        check(
            json!({
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "title": "List",
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "Where.", "format": "uri", "pattern": "^[a-z]", "maxLength": 4096},
                    "depth": {"type": ["integer", "null"], "format": "uint64", "minimum": 0, "maximum": u64::MAX, "default": 1},
                    "argv": {"type": "array", "items": {"type": "string", "title": "X"}, "minItems": 1, "maxItems": 100000},
                    "title": {"enum": ["a", "b"]},
                },
                "required": ["path"],
            }),
            json!({
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "Where."},
                    "depth": {"type": ["integer", "null"]},
                    "argv": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                    "title": {"enum": ["a", "b"]},
                },
                "required": ["path"],
                "additionalProperties": false,
            }),
        );
    }

    #[test]
    fn references_are_put_in_place() {
        check(
            json!({
                "type": "object",
                "properties": {"unit": {"$ref": "#/$defs/Unit", "description": "Which."}, "old": {"$ref": "#/definitions/a~1b"}},
                "$defs": {"Unit": {"enum": ["c", "f"], "description": "A unit."}},
                "definitions": {"a/b": {"type": "integer"}},
            }),
            json!({
                "type": "object",
                "properties": {"unit": {"enum": ["c", "f"], "description": "Which."}, "old": {"type": "integer"}},
                "additionalProperties": false,
            }),
        );
    }

    #[test]
    fn a_schema_within_itself_ends() {
        let tree = json!({
            "$ref": "#/$defs/Tree",
            "$defs": {"Tree": {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}}},
        });
        check(
            tree,
            json!({
                "type": "object",
                "properties": {"kids": {"type": "array", "items": {}}},
                "additionalProperties": false,
            }),
        );
        check(json!({"$ref": "#"}), json!({}));
        check(json!({"$ref": "https://example.com/schema"}), json!({}));
        check(json!({"$ref": "#/$defs/Missing"}), json!({}));
    }

    #[test]
    fn definitions_that_double_are_bounded() {
        let mut defs = Map::new();
        for level in 0..14 {
            let next = json!({"$ref": format!("#/$defs/L{}", level + 1)});
            defs.insert(format!("L{level}"), json!({"anyOf": [next, next, next, next]}));
        }
        let simple = simplify(&json!({"$ref": "#/$defs/L0", "$defs": defs}));
        assert!(simple.to_string().len() < 100_000);
    }

    #[test]
    fn an_object_without_properties_stays_open() {
        check(json!({"type": "object"}), json!({"type": "object"}));
        check(
            json!({"type": "object", "additionalProperties": {"type": "string", "title": "T"}}),
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
        );
        check(json!(true), json!({}));
    }
}
