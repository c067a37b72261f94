//! The JSON Schema of a network file, made from the types of [`tables`](super::tables): the one authority for which
//! keys there are and what they hold. Editors complete by it, and the reader checks by it.

use std::sync::LazyLock;

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::Value;

use super::NetworkSpec;

/// Returns the JSON Schema (draft 2020-12) of a network file. It is checked in as `networks/schema.json`.
pub fn json_schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        let mut schema = SchemaSettings::draft2020_12()
            .with_transform(WithoutNull)
            .into_generator()
            .into_root_schema_for::<NetworkSpec>();
        schema.insert("title".into(), "Provost network file".into());
        schema.to_value()
    });
    &SCHEMA
}

/// Takes the nulls out of a schema: TOML has none, and what is optional is left out.
#[derive(Clone)]
struct WithoutNull;

impl Transform for WithoutNull {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        if let Some(Value::Array(types)) = schema.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                schema.insert("type".into(), only);
            }
        }
        if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
            choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
            if let [Value::Object(only)] = choices.as_slice() {
                let only = only.clone();
                schema.remove("anyOf");
                for (key, value) in only {
                    schema.insert(key, value);
                }
            }
        }
        if schema.get("default").is_some_and(Value::is_null) {
            schema.remove("default");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the reader's check of shapes understands. A type that brings another keyword needs a check to go with it.
    const KNOWN: [&str; 23] = [
        "$ref",
        "$schema",
        "$defs",
        "additionalProperties",
        "const",
        "default",
        "description",
        "enum",
        "examples",
        "format",
        "items",
        "maxLength",
        "maximum",
        "minLength",
        "minimum",
        "oneOf",
        "pattern",
        "properties",
        "propertyNames",
        "required",
        "title",
        "type",
        "uniqueItems",
    ];

    #[test]
    fn holds_nothing_that_the_reader_does_not_check() {
        visit(json_schema());
    }

    fn visit(schema: &Value) {
        let Some(object) = schema.as_object() else { return };
        for (keyword, value) in object {
            assert!(KNOWN.contains(&keyword.as_str()), "the reader knows no `{keyword}`: {schema}");
            match keyword.as_str() {
                "properties" | "$defs" => value.as_object().into_iter().flatten().for_each(|(_, schema)| visit(schema)),
                "items" | "additionalProperties" | "propertyNames" => visit(value),
                "oneOf" => value.as_array().into_iter().flatten().for_each(|choice| {
                    assert!(choice["const"].is_string(), "the reader takes choices of strings alone: {choice}");
                }),
                "$ref" => {
                    let beside = object.keys().all(|key| matches!(&**key, "$ref" | "description" | "default"));
                    assert!(beside, "the reader passes over what stands beside a reference: {schema}");
                }
                _ => {}
            }
        }
    }

    #[test]
    fn has_no_keys_of_later_versions() {
        for (path, _) in crate::spec::later::KEYS {
            let key = path.last().unwrap();
            let text = json_schema().to_string();
            assert!(!text.contains(&format!("\"{key}\":")), "{key}");
        }
    }
}
