//! Templates in a network file: prompts, roots and simulated answers, all minijinja.

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value};
use serde::Serialize;

/// How much work one rendering may do, in minijinja's instructions: far more than a prompt needs, and an endless loop
/// ends within milliseconds.
const FUEL: u64 = 500_000;

/// The name under which a template stands in its own environment.
const NAME: &str = "template";

/// A template, parsed once and rendered as often as needed. A name that is not defined is an error.
#[derive(Clone, Debug)]
pub struct Template {
    environment: Environment<'static>,
}

/// Why a template can't be parsed or rendered.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    /// What is wrong.
    pub message: String,
    /// The line within the template, counted from 1, where it is known.
    pub line: Option<usize>,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// A syntax error, with its line.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        let mut environment = strict();
        environment.add_template_owned(NAME, source.to_owned()).map_err(explain)?;
        Ok(Self { environment })
    }

    /// Returns the names that the template looks up and does not define itself, sorted; `vars.x` is `vars`.
    pub fn variables(&self) -> Vec<String> {
        let Ok(template) = self.environment.get_template(NAME) else { return Vec::new() };
        let known: Vec<String> = self.environment.globals().map(|(name, _)| name.to_owned()).collect();
        let mut names: Vec<String> = template.undeclared_variables(false).into_iter().collect();
        names.retain(|name| !known.contains(name));
        names.sort();
        names
    }

    /// Renders the template over `values`, whose fields are its variables.
    ///
    /// # Errors
    /// An undefined name, a wrong type, or more work than a template may do.
    pub fn render(&self, values: impl Serialize) -> Result<String, TemplateError> {
        self.render_value(Value::from(Serde(values)))
    }

    /// Renders the template over an object of minijinja's, which may make its values as they are asked for.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_value(&self, values: Value) -> Result<String, TemplateError> {
        self.environment.get_template(NAME).and_then(|template| template.render(values)).map_err(explain)
    }
}

/// Makes an environment in which a name that is not defined is an error, and nothing runs for ever.
pub(crate) fn strict() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment
}

/// Says in our words what is wrong with a template or an expression.
pub(crate) fn explain(error: minijinja::Error) -> TemplateError {
    let message = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it does more work than a template may (is there an endless loop?)".to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    TemplateError { message, line: error.line() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn renders_the_values_and_refuses_unknown_names() {
        let template = Template::parse("You read {{ input }}.").unwrap();
        assert_eq!(template.render(json!({"input": "src"})).unwrap(), "You read src.");
        assert!(template.render(json!({})).unwrap_err().message.contains("undefined"));
    }

    #[test]
    fn knows_the_names_that_it_needs() {
        let source = "{% set a = input %}{{ a }}{{ vars.b }}{% for c in range(3) %}{{ c }}{% endfor %}";
        assert_eq!(Template::parse(source).unwrap().variables(), ["input", "vars"]);
    }

    #[test]
    fn an_endless_template_ends() {
        let source = "{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}";
        assert!(Template::parse(source).unwrap().render(json!({})).unwrap_err().message.contains("more work"));
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        assert_eq!(Template::parse("a\n{{ b").unwrap_err().line, Some(2));
    }
}
