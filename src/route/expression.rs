//! Conditions and values in routes: minijinja's expressions, over what is known when a route is looked at.

use minijinja::value::Serde;
use minijinja::{Environment, Value};
use serde_json::Value as Json;

use crate::spec::TemplateError;
use crate::spec::{explain, strict};

/// An expression, checked once.
#[derive(Clone, Debug)]
pub struct Expression {
    environment: Environment<'static>,
    source: String,
    names: Vec<String>,
}

/// What expressions and messages of a route can speak of, by name.
pub type Values = serde_json::Map<String, Json>;

impl Expression {
    /// Parses an expression.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        let environment = strict();
        let mut names: Vec<String> = match environment.compile_expression(source) {
            Ok(expression) => expression.undeclared_variables(false).into_iter().collect(),
            Err(error) => return Err(explain(error)),
        };
        names.retain(|name| environment.globals().all(|(global, _)| global != name));
        names.sort();
        Ok(Self { environment, source: source.to_owned(), names })
    }

    /// Returns the names that the expression looks up, sorted; `output.x` is `output`.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the expression as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the expression is true.
    ///
    /// # Errors
    /// What it names is not there, or is of another type than it takes it for.
    pub fn is_true(&self, values: &Values) -> Result<bool, TemplateError> {
        self.eval(values).map(|value| value.is_true())
    }

    /// Returns the value of the expression.
    ///
    /// # Errors
    /// As [`Expression::is_true`]; or it has no value.
    pub fn value(&self, values: &Values) -> Result<Json, TemplateError> {
        let value = self.eval(values)?;
        let none = |message: String| TemplateError { message, line: None };
        if value.is_undefined() {
            return Err(none("undefined value".to_owned()));
        }
        serde_json::to_value(&value).map_err(|error| none(format!("its value is no data: {error}")))
    }

    fn eval(&self, values: &Values) -> Result<Value, TemplateError> {
        let expression = self.environment.compile_expression(&self.source).map_err(explain)?;
        expression.eval(Value::from(Serde(values))).map_err(explain)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(value: Json) -> Values {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn an_expression_has_a_value_or_says_what_is_missing() {
        let score = Expression::parse("output.score < 0.8 and visits < 3").unwrap();
        assert_eq!(score.names(), ["output", "visits"]);
        assert!(score.is_true(&values(json!({"output": {"score": 0.5}, "visits": 0}))).unwrap());
        assert!(!score.is_true(&values(json!({"output": {"score": 0.9}, "visits": 0}))).unwrap());
        assert!(score.is_true(&values(json!({"output": "text", "visits": 0}))).is_err());
        let list = Expression::parse("output.parts").unwrap();
        assert_eq!(list.value(&values(json!({"output": {"parts": [1, "a"]}}))).unwrap(), json!([1, "a"]));
        assert!(list.value(&values(json!({"output": {}}))).is_err());
        assert!(Expression::parse("output.").is_err());
    }
}
