//! What a policy is told of a call: what is asked for, of whom, and how things stand.

use std::sync::Arc;

use cedar_policy::{Context, Policy, RestrictedExpression};
use serde_json::Value;

use super::schema::Vocabulary;
use crate::budget::Amount;
use crate::run::{Labels, Subject};

/// How a command is written that a policy compares: with what a shell would need around each part of it.
fn command(argv: &[Value]) -> Option<(String, String)> {
    let parts: Vec<&str> = argv.iter().map(Value::as_str).collect::<Option<_>>()?;
    let is_plain = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./=:,@%+".contains(&byte);
        !part.is_empty() && part.bytes().all(plain)
    };
    let quoted =
        |part: &&str| if is_plain(part) { (*part).to_owned() } else { format!("'{}'", part.replace('\'', "'\\''")) };
    let whole: Vec<String> = parts.iter().map(quoted).collect();
    Some(((*parts.first()?).to_owned(), whole.join(" ")))
}

/// A call that policies are asked about.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The name of the agent that makes it.
    pub agent: &'a str,
    /// What it is made to.
    pub subject: &'a Subject,
    /// The run.
    pub run: &'a str,
    /// Who the run belongs to.
    pub tenant: &'a str,
    /// The key that the run shares with others.
    pub session: Option<&'a str>,
    /// What the agent has been influenced by.
    pub labels: &'a Labels,
    /// How many delegations lie between the entry agent and this one.
    pub depth: u32,
    /// What the run has spent.
    pub spent: Amount,
    /// The time of day, in milliseconds since 1970 (UTC).
    pub now_ms: u64,
    /// The names of what a person has approved of in the run, in order.
    pub approved: &'a [Arc<str>],
}

/// Which circumstances some policies look at: making a value for nobody takes longer than most decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    names: Vec<String>,
    /// They look at the circumstances as a whole.
    all: bool,
}

impl Needs {
    pub(super) fn of<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Self {
        let mut needs = Self::default();
        for policy in policies {
            match policy.to_json() {
                Ok(written) => needs.scan(&written),
                Err(_) => needs.all = true,
            }
        }
        needs.names.sort_unstable();
        needs.names.dedup();
        needs
    }

    fn scan(&mut self, written: &Value) {
        match written {
            Value::Object(node) => {
                for (key, within) in node {
                    let is_context = |of: &Value| of.get("Var").and_then(Value::as_str) == Some("context");
                    let attribute = within.get("attr").and_then(Value::as_str);
                    match (key.as_str(), within.get("left"), attribute) {
                        ("." | "has", Some(left), Some(attribute)) if is_context(left) => {
                            self.names.push(attribute.to_owned());
                        }
                        ("Var", ..) if within == "context" => self.all = true,
                        _ => self.scan(within),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.scan(item)),
            _ => {}
        }
    }

    /// Whether they look at what becomes another though nothing is done with the call.
    pub(super) fn what_passes(&self) -> bool {
        self.has("now") || self.has("spent") || self.has("approved")
    }

    fn has(&self, name: &str) -> bool {
        self.all || self.names.iter().any(|known| known == name)
    }
}

/// Makes what policies are told.
///
/// # Errors
/// Something can't be said in Cedar's language, so that no policy could judge it.
pub(super) fn context(asked: &Asked<'_>, needs: &Needs, vocabulary: &Vocabulary) -> Result<Context, String> {
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let long = |number: u64| RestrictedExpression::new_long(i64::try_from(number).unwrap_or(i64::MAX));
    let mut pairs: Vec<(String, RestrictedExpression)> = Vec::new();
    let mut tell = |name: &str, value: &dyn Fn() -> Result<Option<RestrictedExpression>, String>| {
        if needs.has(name) {
            pairs.extend(value()?.map(|value| (name.to_owned(), value)));
        }
        Ok::<(), String>(())
    };
    tell("run", &|| Ok(Some(text(asked.run))))?;
    tell("session", &|| Ok(asked.session.map(text)))?;
    tell("depth", &|| Ok(Some(long(asked.depth.into()))))?;
    tell("now", &|| Ok(Some(now(asked.now_ms)?)))?;
    tell("labels", &|| Ok(Some(RestrictedExpression::new_set(asked.labels.iter().map(text)))))?;
    tell("approved", &|| Ok(Some(RestrictedExpression::new_set(asked.approved.iter().map(|name| text(name))))))?;
    tell("spent", &|| Ok(Some(spent(asked.spent)?)))?;
    match asked.subject {
        Subject::Tool { tool, arguments } => {
            let words = vocabulary.tool(tool);
            tell("arguments", &|| match words {
                Some(words) => words.arguments.value(arguments, ""),
                None => Ok(None),
            })?;
            tell("json", &|| Ok(Some(text(&arguments.to_string()))))?;
            if needs.has("program") || needs.has("command") {
                let argv = arguments.get("argv").and_then(Value::as_array);
                if let Some((program, command)) = argv.and_then(|argv| command(argv)) {
                    tell("program", &|| Ok(Some(text(&program))))?;
                    tell("command", &|| Ok(Some(text(&command))))?;
                }
            }
        }
        Subject::Model { max_output_tokens, .. } => {
            tell("max_output_tokens", &|| Ok(Some(long((*max_output_tokens).into()))))?;
        }
        Subject::Delegate { message, .. } | Subject::Handoff { message, .. } | Subject::Publish { message, .. } => {
            tell("message", &|| Ok(Some(text(message))))?;
        }
    }
    Context::from_pairs(pairs).map_err(|error| error.to_string())
}

fn now(now_ms: u64) -> Result<RestrictedExpression, String> {
    let now = i64::try_from(now_ms).ok().and_then(|now_ms| jiff::Timestamp::from_millisecond(now_ms).ok());
    let now = now.ok_or_else(|| "the clock shows no time".to_owned())?;
    Ok(RestrictedExpression::new_datetime(now.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()))
}

/// Money is rounded up to a policy's four decimals: what is spent is never told as less.
fn spent(spent: Amount) -> Result<RestrictedExpression, String> {
    const NANO_USD_A_STEP: u64 = 100_000;
    let steps = spent.cost_nano_usd.div_ceil(NANO_USD_A_STEP);
    let cost = format!("{}.{:04}", steps / 10_000, steps % 10_000);
    let long = |number: u64| RestrictedExpression::new_long(i64::try_from(number).unwrap_or(i64::MAX));
    RestrictedExpression::new_record([
        ("cost_usd".to_owned(), RestrictedExpression::new_decimal(cost)),
        ("tokens".to_owned(), long(spent.tokens)),
        ("model_calls".to_owned(), long(spent.model_calls)),
        ("tool_calls".to_owned(), long(spent.tool_calls)),
        ("steps".to_owned(), long(spent.steps)),
    ])
    .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_command_is_written_so_that_its_parts_can_be_told() {
        let argv = |value: Value| command(value.as_array().unwrap());
        let (program, whole) = argv(json!(["git", "commit", "-m", "it's; rm -rf /", ""])).unwrap();
        assert_eq!((program.as_str(), whole.as_str()), ("git", r"git commit -m 'it'\''s; rm -rf /' ''"));
        assert_eq!(argv(json!([])), None);
        assert_eq!(argv(json!([1])), None);
    }

    #[test]
    fn only_what_is_looked_at_is_told() {
        let policy = |text: &str| Policy::parse(None, text).unwrap();
        let needs = |text: &str| Needs::of([&policy(text)]);
        let plain = needs("permit(principal, action, resource);");
        assert_eq!(plain, Needs::default());
        let some = needs(
            "permit(principal, action, resource) when { context.depth < 3 && context has session && context.spent.tokens < 9 };",
        );
        assert!(some.has("depth") && some.has("session") && some.has("spent") && !some.has("labels") && !some.all);
        assert!(needs("forbid(principal, action, resource) unless { context == {depth: 1} };").all);
    }
}
