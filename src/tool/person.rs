//! The built-in tool that asks a person. What it says of itself is here; the gate asks, since a question outlasts any call.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Call, Effect, Error, Tool};
use crate::run::{MAX_CHOICE_CHARS, MAX_CHOICES, MAX_QUESTION_CHARS};

/// `person.ask`.
pub(super) struct Ask;

impl Ask {
    /// What the model is told of it.
    pub(super) const DESCRIPTION: &str = "Asks the person who runs this, and answers with what they say. It may take long: \
        ask only what you can't find out yourself, and all that you need in one question.";
}

/// What [`Inquiry`](crate::run::Inquiry) reads once the schema holds.
#[derive(Deserialize)]
pub(super) struct Question {}

impl JsonSchema for Question {
    fn schema_name() -> Cow<'static, str> {
        "Question".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = |description: &str, most: usize| -> Value {
            json!({
                "type": "string", "description": description, "pattern": "\\S", "minLength": 1, "maxLength": most,
            })
        };
        let mut question = text("The question, with all that is needed to understand it.", MAX_QUESTION_CHARS);
        question["examples"] = json!(["Shall I go on?"]);
        json_schema!({
            "type": "object",
            "properties": {
                "question": question,
                "choices": {
                    "type": "array",
                    "description": "What can be answered, where it is one of a few things; leave it out if anything can.",
                    "items": text("One of the things that can be answered.", MAX_CHOICE_CHARS),
                    "maxItems": MAX_CHOICES,
                    "uniqueItems": true,
                },
            },
            "required": ["question"],
            "additionalProperties": false,
        })
    }
}

impl Tool for Ask {
    type Arguments = Question;
    type Output = String;

    fn description(&self) -> String {
        Self::DESCRIPTION.to_owned()
    }

    fn effect(&self) -> Effect {
        Effect::Pure
    }

    async fn call(&self, _: Question, _: Call) -> Result<String, Error> {
        Err(Error::Refused("a person is asked by a run, and by no tool".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Inquiry;
    use crate::run::Subject;
    use crate::tool::schema_of;

    #[test]
    fn what_the_schema_takes_can_be_asked() {
        let validator = jsonschema::validator_for(&schema_of::<Question>()).unwrap();
        let long = |chars: usize| "ü".repeat(chars);
        for (arguments, is_taken) in [
            (json!({ "question": "Which?" }), true),
            (json!({ "question": long(MAX_QUESTION_CHARS), "choices": [] }), true),
            (json!({ "question": "Which?", "choices": ["a", long(MAX_CHOICE_CHARS)] }), true),
            (json!({ "question": " \n" }), false),
            (json!({ "question": long(MAX_QUESTION_CHARS + 1) }), false),
            (json!({ "question": "Which?", "choices": ["a", "a"] }), false),
            (json!({ "question": "Which?", "choices": [" "] }), false),
            (
                json!({ "question": "Which?", "choices": (0..=MAX_CHOICES).map(|n| n.to_string()).collect::<Vec<_>>() }),
                false,
            ),
            (json!({ "question": "Which?", "until": "noon" }), false),
            (json!({ "choices": ["a"] }), false),
        ] {
            assert_eq!(validator.is_valid(&arguments), is_taken, "{arguments}");
            let subject = Subject::Tool { tool: "ask".into(), arguments };
            assert!(!is_taken || Inquiry::of(&subject).is_some());
        }
    }
}
