//! The types of a tool's arguments, from its JSON Schema to Cedar's types, and values of them.
//!
//! What has no one type in Cedar's language (any value, a choice of types, an object with free keys) is a text with its JSON,
//! so that nothing of an argument is kept from a policy.

use cedar_policy::RestrictedExpression;
use serde_json::{Map, Value, json};

/// How deep types may lie in one another before the rest is a text: a schema may name itself.
const MAX_DEPTH: usize = 8;

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Long,
    Bool,
    Decimal,
    Set(Box<Kind>),
    Record(Vec<Field>),
    /// A text that holds the value's JSON.
    Json,
}

/// One attribute of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    name: String,
    kind: Kind,
    is_required: bool,
}

impl Kind {
    /// Reads the type of a tool's arguments.
    pub(super) fn of_arguments(schema: &Value) -> Self {
        match Self::of(schema, schema, 0) {
            (record @ Self::Record(_), _) => record,
            _ => Self::Record(Vec::new()),
        }
    }

    /// Returns the type, and whether a value may be null.
    fn of(schema: &Value, root: &Value, depth: usize) -> (Self, bool) {
        if depth > MAX_DEPTH {
            return (Self::Json, true);
        }
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            let target = target.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
            return target.map_or((Self::Json, true), |target| Self::of(target, root, depth + 1));
        }
        for key in ["anyOf", "oneOf"] {
            let Some(choices) = schema.get(key).and_then(Value::as_array) else { continue };
            let is_null = |choice: &&Value| choice.get("type").and_then(Value::as_str) == Some("null");
            let others: Vec<&Value> = choices.iter().filter(|choice| !is_null(choice)).collect();
            let [only] = others.as_slice() else { return (Self::Json, true) };
            return (Self::of(only, root, depth + 1).0, others.len() < choices.len());
        }
        let (name, is_nullable) = match schema.get("type") {
            Some(Value::String(name)) => (name.as_str(), false),
            Some(Value::Array(names)) => {
                let others: Vec<&str> = names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect();
                let [only] = others.as_slice() else { return (Self::Json, true) };
                (*only, others.len() < names.len())
            }
            _ => return (Self::Json, true),
        };
        let kind = match name {
            "string" => Self::Text,
            "integer" => Self::Long,
            "boolean" => Self::Bool,
            "number" => Self::Decimal,
            "array" => match schema.get("items") {
                Some(items) => Self::Set(Box::new(Self::of(items, root, depth + 1).0)),
                None => Self::Json,
            },
            "object" => match schema.get("properties").and_then(Value::as_object) {
                Some(properties) => Self::Record(fields(schema, properties, root, depth)),
                None => Self::Json,
            },
            _ => Self::Json,
        };
        (kind, is_nullable)
    }

    /// Writes the type as Cedar's JSON schemas do.
    pub(super) fn to_cedar(&self) -> Value {
        match self {
            Self::Text | Self::Json => json!({ "type": "String" }),
            Self::Long => json!({ "type": "Long" }),
            Self::Bool => json!({ "type": "Boolean" }),
            Self::Decimal => json!({ "type": "Extension", "name": "decimal" }),
            Self::Set(of) => json!({ "type": "Set", "element": of.to_cedar() }),
            Self::Record(fields) => {
                let attribute = |field: &Field| {
                    let mut attribute = field.kind.to_cedar();
                    if let (Some(attribute), false) = (attribute.as_object_mut(), field.is_required) {
                        attribute.insert("required".to_owned(), Value::Bool(false));
                    }
                    (field.name.clone(), attribute)
                };
                json!({ "type": "Record", "attributes": fields.iter().map(attribute).collect::<Map<_, _>>() })
            }
        }
    }

    /// Makes a value of the type; none for null, which Cedar does not have.
    ///
    /// # Errors
    /// The value is none of the type that Cedar has: which, and why.
    pub(super) fn value(&self, value: &Value, at: &str) -> Result<Option<RestrictedExpression>, String> {
        let other = || format!("the argument `{at}` is no value of the type that the tool's schema gives it");
        Ok(Some(match (self, value) {
            (Self::Json, value) => RestrictedExpression::new_string(value.to_string()),
            (_, Value::Null) => return Ok(None),
            (Self::Text, Value::String(text)) => RestrictedExpression::new_string(text.clone()),
            (Self::Bool, Value::Bool(is)) => RestrictedExpression::new_bool(*is),
            (Self::Long, Value::Number(number)) => match number.as_i64().or_else(|| whole(number.as_f64()?)) {
                Some(number) => RestrictedExpression::new_long(number),
                None => return Err(format!("the argument `{at}`, {number}, is larger than a policy can compare")),
            },
            (Self::Decimal, Value::Number(number)) => match decimal(number) {
                Some(text) => RestrictedExpression::new_decimal(text),
                None => {
                    return Err(format!("the argument `{at}`, {number}, has more than the four decimals of a policy"));
                }
            },
            (Self::Set(of), Value::Array(items)) => {
                let items = items.iter().filter_map(|item| of.value(item, at).transpose());
                RestrictedExpression::new_set(items.collect::<Result<Vec<_>, _>>()?)
            }
            (Self::Record(fields), Value::Object(given)) => record(fields, given, at)?,
            _ => return Err(other()),
        }))
    }
}

fn fields(schema: &Value, properties: &Map<String, Value>, root: &Value, depth: usize) -> Vec<Field> {
    let required = schema.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|known| known == name));
    let field = |(name, schema): (&String, &Value)| {
        let (kind, is_nullable) = Kind::of(schema, root, depth + 1);
        // What is not there is no JSON either.
        let is_required = is_required(name) && (!is_nullable || kind == Kind::Json);
        Field { name: name.clone(), kind, is_required }
    };
    properties.iter().map(field).collect()
}

fn record(fields: &[Field], given: &Map<String, Value>, at: &str) -> Result<RestrictedExpression, String> {
    let mut values = Vec::with_capacity(fields.len());
    for field in fields {
        let at = if at.is_empty() { field.name.clone() } else { format!("{at}.{}", field.name) };
        match given.get(&field.name).map(|value| field.kind.value(value, &at)).transpose()?.flatten() {
            Some(value) => values.push((field.name.clone(), value)),
            None if field.is_required => return Err(format!("the argument `{at}` is missing")),
            None => {}
        }
    }
    RestrictedExpression::new_record(values).map_err(|error| error.to_string())
}

/// Returns a number without a fraction as a whole one: schemas take `3.0` as an integer.
fn whole(number: f64) -> Option<i64> {
    // Beyond this, two whole numbers may be the same float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole, and within the range in which floats are exact")]
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
}

/// Writes a number as Cedar's decimals are: with one to four digits after the point.
fn decimal(number: &serde_json::Number) -> Option<String> {
    let text = match (number.as_i64(), number.as_f64()) {
        (Some(whole), _) => whole.to_string(),
        (None, Some(float)) => format!("{float}"),
        (None, None) => return None,
    };
    match text.split_once('.') {
        None => Some(format!("{text}.0")),
        Some((_, digits)) => (digits.len() <= 4).then_some(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(schema: Value) -> Kind {
        Kind::of(&schema, &schema, 0).0
    }

    #[test]
    fn what_has_one_type_has_it_and_all_else_is_its_json() {
        for (schema, expected) in [
            (json!({ "type": "string" }), Kind::Text),
            (json!({ "type": ["integer", "null"] }), Kind::Long),
            (json!({ "anyOf": [{ "type": "boolean" }, { "type": "null" }] }), Kind::Bool),
            (json!({ "type": "number" }), Kind::Decimal),
            (json!({ "type": "array", "items": { "type": "string" } }), Kind::Set(Box::new(Kind::Text))),
            (json!({ "$ref": "#/$defs/T", "$defs": { "T": { "type": "integer" } } }), Kind::Long),
            (json!({}), Kind::Json),
            (json!({ "type": ["integer", "string"] }), Kind::Json),
            (json!({ "oneOf": [{ "type": "integer" }, { "type": "string" }] }), Kind::Json),
            (json!({ "type": "object" }), Kind::Json),
            (json!({ "type": "array" }), Kind::Json),
            (json!({ "$ref": "#/$defs/none" }), Kind::Json),
        ] {
            assert_eq!(kind(schema.clone()), expected, "{schema}");
        }
        // A type within itself ends in a text.
        kind(json!({ "$ref": "#/$defs/T", "$defs": { "T": { "type": "array", "items": { "$ref": "#/$defs/T" } } } }));
    }

    #[test]
    fn a_number_that_cedar_can_not_hold_is_named() {
        let wrong = |kind: Kind, value: Value| kind.value(&value, "n").unwrap_err();
        assert!(wrong(Kind::Decimal, json!(0.12345)).contains("`n`, 0.12345, has more than the four decimals"));
        assert!(wrong(Kind::Long, json!(u64::MAX)).contains("larger than a policy can compare"));
        assert!(wrong(Kind::Text, json!(1)).contains("no value of the type"));
        for (number, text) in
            [(json!(3), "3.0"), (json!(-2.5), "-2.5"), (json!(0.0001), "0.0001"), (json!(1e3), "1000.0")]
        {
            let Value::Number(number) = number else { unreachable!() };
            assert_eq!(decimal(&number).as_deref(), Some(text));
        }
        assert_eq!(whole(3.0), Some(3));
        assert_eq!(whole(3.5), None);
    }

    #[test]
    fn what_is_missing_or_null_is_left_out_unless_it_is_needed() {
        let schema = json!({
            "type": "object", "required": ["a"],
            "properties": { "a": { "type": "string" }, "b": { "type": ["integer", "null"] }, "c": {} },
        });
        let kind = Kind::of_arguments(&schema);
        let value = |given: Value| {
            let pair = kind.value(&given, "").map(|made| ("arguments".to_owned(), made.unwrap()))?;
            Ok::<_, String>(
                cedar_policy::Context::from_pairs([pair]).unwrap().to_json_value().unwrap()["arguments"].clone(),
            )
        };
        assert_eq!(value(json!({ "a": "x", "b": null })).unwrap(), json!({ "a": "x" }));
        assert_eq!(value(json!({ "a": "x", "b": 3.0, "c": [1] })).unwrap(), json!({ "a": "x", "b": 3, "c": "[1]" }));
        assert_eq!(value(json!({ "b": 1 })).unwrap_err(), "the argument `a` is missing");
    }
}
