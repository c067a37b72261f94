//! The built-in tools that tell the time and let it pass.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Call, Effect, Error, Tool};
use crate::spec::Span;

/// The longest sleep, a month: what is to happen later than that is better begun when it is time.
const LONGEST: Span = Span::from_secs(30 * 24 * 60 * 60);

/// `clock.now`.
pub(super) struct Now;

impl Now {
    /// What the model is told of it.
    pub(super) const DESCRIPTION: &str = "Tells the date and time now, in UTC, and the name of the local time zone.";
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct Nothing {}

#[derive(Debug, Serialize)]
pub(super) struct Time {
    /// RFC 3339, to the second.
    utc: String,
    /// The IANA name; none where the system has a zone without a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_zone: Option<String>,
}

impl Tool for Now {
    type Arguments = Nothing;
    type Output = Time;

    fn description(&self) -> String {
        Self::DESCRIPTION.to_owned()
    }

    fn effect(&self) -> Effect {
        Effect::Pure
    }

    async fn call(&self, _: Nothing, _: Call) -> Result<Time, Error> {
        let time_zone = TimeZone::system().iana_name().map(str::to_owned);
        Ok(Time { utc: format!("{:.0}", Timestamp::now()), time_zone })
    }
}

/// `clock.sleep`.
///
/// The time counts from when the call was intended first, by the run's record, so that a run that is taken up again after
/// its process ended, or is forked, sleeps only for what is left. Where the process ended before the intent was on disk, a few
/// milliseconds after the call, or the machine's clock was set back meanwhile, that is more than it should be, and never more
/// than the whole span. While a machine is suspended, time may stand still for a process that sleeps.
pub(super) struct Sleep;

impl Sleep {
    /// What the model is told of it.
    pub(super) const DESCRIPTION: &str = "Waits, and answers when the time is over. Nothing else happens meanwhile but \
        what was called together with it.";
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nap {
    /// How long, such as "30s", "5m" or "1h 30m"; at most "720h".
    // The example is short because it is what the simulated model asks for.
    #[schemars(with = "String", extend("examples" = ["1s"]))]
    duration: Span,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Slept {
    slept: Span,
}

impl Tool for Sleep {
    type Arguments = Nap;
    type Output = Slept;

    fn description(&self) -> String {
        Self::DESCRIPTION.to_owned()
    }

    fn effect(&self) -> Effect {
        Effect::Pure
    }

    async fn call(&self, Nap { duration }: Nap, call: Call) -> Result<Slept, Error> {
        if duration > LONGEST {
            return Err(Error::Arguments(format!("{duration} is too long; a sleep takes at most {LONGEST}")));
        }
        let left = duration.0.saturating_sub(call.age);
        if left == Duration::ZERO {
            return Ok(Slept { slept: duration });
        }
        tokio::select! {
            biased;
            () = call.cancelled.cancelled() => Err(Error::Failed("the sleep was cut short".to_owned())),
            () = tokio::time::sleep(left) => Ok(Slept { slept: duration }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};
    use tokio::time::Instant;

    use super::*;
    use crate::spec::Builtin;
    use crate::tool::fs::testing::{ask, call};

    #[tokio::test]
    async fn tells_the_time_in_rfc_3339() {
        let before = Timestamp::now();
        let output = Tool::call(&Now, Nothing {}, call()).await.unwrap();
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

    /// Sleeps in a call that was intended first so long ago, and returns how long that took.
    async fn nap(duration: &str, age: Duration) -> Result<Duration, Error> {
        let began = Instant::now();
        let slept = ask(Builtin::ClockSleep, Path::new("."), json!({ "duration": duration }), Call { age, ..call() });
        assert_eq!(slept.await?, json!({ "slept": duration }));
        Ok(began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn sleeps_for_what_is_left_of_the_span() {
        let (hour, second) = (Duration::from_secs(3600), Duration::from_secs(1));
        for (age, expected) in [
            (Duration::ZERO, hour),
            (second, hour - second),
            (hour - second, second),
            (hour, Duration::ZERO),
            (hour * 1000, Duration::ZERO),
        ] {
            assert_eq!(nap("1h", age).await.unwrap(), expected, "{age:?}");
        }
        assert_eq!(nap("1h 30m", Duration::ZERO).await.unwrap(), hour + hour / 2);
        assert_eq!(nap("720h", Duration::ZERO).await.unwrap(), LONGEST.0);
    }

    #[tokio::test(start_paused = true)]
    async fn takes_a_span_that_is_not_too_long_and_nothing_else() {
        let began = Instant::now();
        for (arguments, reason) in [
            (json!({ "duration": "720h 1ms" }), "720h 1ms is too long; a sleep takes at most 720h"),
            (json!({ "duration": "a while" }), "`a while` is no span of time"),
            (json!({ "duration": "-5m" }), "`-5m` is no span of time"),
            (json!({ "duration": 300 }), "invalid type: integer `300`"),
            (json!({}), "missing field `duration`"),
            (json!({ "duration": "1h", "until": "noon" }), "unknown field `until`"),
        ] {
            let error = ask(Builtin::ClockSleep, Path::new("."), arguments, call()).await.unwrap_err();
            assert!(matches!(&error, Error::Arguments(why) if why.contains(reason)), "{error}");
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
