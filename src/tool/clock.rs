//! The built-in tool that tells the time.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Call, Effect, Error, Tool};

/// `clock.now`.
pub(super) struct Now;

impl Now {
    /// What the model is told of it.
    pub(super) const DESCRIPTION: &str = "Tells the date and time now, in UTC, and the name of the local time zone.";
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct Arguments {}

#[derive(Debug, Serialize)]
pub(super) struct Output {
    /// RFC 3339, to the second.
    utc: String,
    /// The IANA name; none where the system has a zone without a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_zone: Option<String>,
}

impl Tool for Now {
    type Arguments = Arguments;
    type Output = Output;

    fn description(&self) -> String {
        Self::DESCRIPTION.to_owned()
    }

    fn effect(&self) -> Effect {
        Effect::Pure
    }

    async fn call(&self, _: Arguments, _: Call) -> Result<Output, Error> {
        let time_zone = TimeZone::system().iana_name().map(str::to_owned);
        Ok(Output { utc: format!("{:.0}", Timestamp::now()), time_zone })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::spec::Builtin;
    use crate::tool::fs::testing::{ask, call};

    #[tokio::test]
    async fn tells_the_time_in_rfc_3339() {
        let before = Timestamp::now();
        let output = Tool::call(&Now, Arguments {}, call()).await.unwrap();
        let told: Timestamp = output.utc.parse().unwrap();
        assert!(output.utc.ends_with('Z'), "{}", output.utc);
        assert_eq!(told.subsec_nanosecond(), 0);
        assert!(before.as_second() <= told.as_second() && told <= Timestamp::now());
    }

    #[tokio::test]
    async fn takes_nothing_however_it_is_written() {
        for nothing in [json!({}), Value::Null] {
            ask(Builtin::ClockNow, Path::new("."), nothing, call()).await.unwrap();
        }
    }
}
