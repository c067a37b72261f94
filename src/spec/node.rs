//! A network file as a tree that remembers where in the file each thing stands.

use std::ops::Range;

use indexmap::IndexMap;
use toml::de::{DeTable, DeValue};

/// A value, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The bytes of the key that leads here; the value's own for what has no key, such as an item of an array.
    pub(super) key: Range<usize>,
    /// The bytes of the value; a table's are those of its header.
    pub(super) span: Range<usize>,
    /// The value.
    pub(super) value: Value,
}

/// What TOML can say. Integers and floats are kept as they were written, in range or not.
#[derive(Clone, Debug)]
pub(super) enum Value {
    String(String),
    Integer(i128),
    Float(f64),
    Boolean(bool),
    Datetime(toml::value::Datetime),
    Array(Vec<Node>),
    Table(IndexMap<String, Node>),
}

impl Node {
    /// Makes a node of a parsed document.
    pub(super) fn document(table: &DeTable<'_>) -> Self {
        Self { key: 0..0, span: 0..0, value: Value::Table(entries(table)) }
    }

    /// Makes a node that stands nowhere.
    pub(super) fn nowhere(value: Value) -> Self {
        Self { key: 0..0, span: 0..0, value }
    }

    /// Returns the node at `path`, or none.
    pub(super) fn get<S: AsRef<str>>(&self, path: &[S]) -> Option<&Self> {
        path.iter().try_fold(self, |node, step| match &node.value {
            Value::Table(entries) => entries.get(step.as_ref()),
            Value::Array(items) => step.as_ref().parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => None,
        })
    }

    /// Returns the keys of the table at `path`; none if there is no table.
    pub(super) fn keys<S: AsRef<str>>(&self, path: &[S]) -> Vec<&str> {
        match self.get(path).map(|node| &node.value) {
            Some(Value::Table(entries)) => entries.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// Says what the value is, with an article.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::String(_) => "a string",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a number with a fraction",
            Value::Boolean(_) => "true or false",
            Value::Datetime(_) => "a date",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

fn entries(table: &DeTable<'_>) -> IndexMap<String, Node> {
    table
        .iter()
        .map(|(key, value)| {
            (key.get_ref().to_string(), Node { key: key.span(), span: value.span(), value: read(value.get_ref()) })
        })
        .collect()
}

fn read(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        // What exceeds even this is far outside every range that is allowed.
        DeValue::Integer(number) => {
            Value::Integer(i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX))
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(date) => Value::Datetime(*date),
        DeValue::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| Node { key: item.span(), span: item.span(), value: read(item.get_ref()) })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(entries(table)),
    }
}

impl From<toml::Value> for Node {
    fn from(value: toml::Value) -> Self {
        Self::nowhere(match value {
            toml::Value::String(text) => Value::String(text),
            toml::Value::Integer(number) => Value::Integer(number.into()),
            toml::Value::Float(number) => Value::Float(number),
            toml::Value::Boolean(value) => Value::Boolean(value),
            toml::Value::Datetime(date) => Value::Datetime(date),
            toml::Value::Array(items) => Value::Array(items.into_iter().map(Self::from).collect()),
            toml::Value::Table(table) => {
                Value::Table(table.into_iter().map(|(key, value)| (key, Self::from(value))).collect())
            }
        })
    }
}

impl From<Node> for toml::Value {
    fn from(node: Node) -> Self {
        match node.value {
            Value::String(text) => Self::String(text),
            // The shape has been checked by now, and lets nothing through that does not fit.
            Value::Integer(number) => Self::Integer(i64::try_from(number).unwrap_or(i64::MAX)),
            Value::Float(number) => Self::Float(number),
            Value::Boolean(value) => Self::Boolean(value),
            Value::Datetime(date) => Self::Datetime(date),
            Value::Array(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            Value::Table(entries) => {
                Self::Table(entries.into_iter().map(|(key, node)| (key, Self::from(node))).collect())
            }
        }
    }
}
