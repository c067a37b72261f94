//! The keys of an agent that say how it is supervised: when it is restarted, what its mailbox holds, whose instance it is.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Span;

/// When an agent whose actor failed is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RestartSpec {
    /// After which ends.
    pub kind: RestartKind,
    /// How long a restart waits.
    pub backoff: Backoff,
}

impl RestartSpec {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// After which ends of its actor an agent is started again, in OTP's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestartKind {
    /// After every end that is not its own answer, being told to stop included.
    Permanent,
    /// After a failure.
    #[default]
    Transient,
    /// Never: what it was working on becomes a dead letter.
    Temporary,
}

/// How long restarts wait: the first one about as long as the shorter span, each further one twice as long, up to the
/// longer span. Written `"200ms..10s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause.
    pub min: Span,
    /// The longest pause.
    pub max: Span,
}

impl Default for Backoff {
    /// Short enough that nobody sees a single failure, and long enough that what fails again and again takes no time from
    /// others.
    fn default() -> Self {
        Self { min: Span::from_millis(10), max: Span::from_secs(10) }
    }
}

impl FromStr for Backoff {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no pair of spans; write the shortest and the longest as \"200ms..10s\"");
        let (min, max) = text.split_once("..").ok_or_else(wrong)?;
        let span = |text: &str| text.trim().parse::<Span>().map_err(|_| wrong());
        let (min, max) = (span(min)?, span(max)?);
        if min > max {
            return Err(format!("`{text}` begins with the longer span; write the shorter one first"));
        }
        Ok(Self { min, max })
    }
}

impl fmt::Display for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.min, self.max)
    }
}

impl Serialize for Backoff {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Backoff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Backoff {
    fn schema_name() -> Cow<'static, str> {
        "Backoff".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "backoff",
            "description": "How long restarts wait: the first pause and the longest one, such as \"200ms..10s\".",
            "examples": ["200ms..10s"],
        })
    }
}

/// How many messages a mailbox may hold: more than anybody has answered before they are stale, and a few hundred megabytes
/// where they are kept by their ids.
const MAX_CAPACITY: u32 = 1_000_000;

/// An agent's mailbox: the questions that wait until an instance of it is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MailboxSpec {
    /// How many messages may wait.
    #[schemars(range(min = 1, max = MAX_CAPACITY))]
    pub capacity: u32,
    /// What becomes of a message for which there is no room.
    pub when_full: WhenFull,
}

impl Default for MailboxSpec {
    /// As many as one step of another agent can send.
    fn default() -> Self {
        Self { capacity: 64, when_full: WhenFull::Block }
    }
}

impl MailboxSpec {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of a message for which a mailbox has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// It is not sent until there is room; who sends it waits, and holds nothing.
    #[default]
    Block,
    /// It is refused, and who sends it is told so.
    Reject,
    /// The oldest one that waits becomes a dead letter.
    DropOldest,
    /// It waits all the same: it is kept in the journal, and only its id in memory.
    Spill,
}

/// For how long an agent's instance keeps what was said to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// For one question: each gets an instance of its own.
    #[default]
    Run,
    /// Over all runs of a tenant that have the same session key; what it is asked, it is asked in order.
    Session,
    /// Over all runs of a tenant; what it is asked, it is asked in order.
    Network,
}

impl Scope {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What follows when an operation of an agent fails: its model can't be reached any more, or a tool does not answer in
/// time. What a tool or a model says is no such failure, and a panic is a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// A tool's failure is told to the model, and a model's failure to who asked the agent.
    #[default]
    FeedBack,
    /// The agent is restarted, after its pause, and makes the call again if a second try does no harm.
    Restart,
    /// The run fails.
    FailRun,
    /// Another agent takes over.
    Route(String),
}

impl OnError {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl OnError {
    /// Returns the agent that takes over, if one does.
    pub fn route(&self) -> Option<&str> {
        match self {
            Self::Route(agent) => Some(agent),
            Self::FeedBack | Self::Restart | Self::FailRun => None,
        }
    }
}

impl FromStr for OnError {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "feed_back" => Ok(Self::FeedBack),
            "restart" => Ok(Self::Restart),
            "fail_run" => Ok(Self::FailRun),
            _ => match text.strip_prefix("route:") {
                Some(agent) if !agent.is_empty() => Ok(Self::Route(agent.to_owned())),
                _ => Err(format!("`{text}` is none of \"feed_back\", \"restart\", \"fail_run\" and \"route:<agent>\"")),
            },
        }
    }
}

impl fmt::Display for OnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FeedBack => f.write_str("feed_back"),
            Self::Restart => f.write_str("restart"),
            Self::FailRun => f.write_str("fail_run"),
            Self::Route(agent) => write!(f, "route:{agent}"),
        }
    }
}

impl Serialize for OnError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OnError {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for OnError {
    fn schema_name() -> Cow<'static, str> {
        "OnError".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "on-error",
            "pattern": "^(feed_back|restart|fail_run|route:.+)$",
            "description": "What follows when an operation of the agent fails: \"feed_back\", \"restart\", \"fail_run\", \
                            or \"route:<agent>\" for another agent that takes over.",
            "examples": ["feed_back", "restart", "fail_run", "route:supervisor"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backoff_reads_as_it_is_written() {
        let backoff: Backoff = "200ms..10s".parse().unwrap();
        assert_eq!((backoff.min, backoff.max), (Span::from_millis(200), Span::from_secs(10)));
        assert_eq!(backoff.to_string().parse(), Ok(backoff));
        assert!("10s..200ms".parse::<Backoff>().unwrap_err().contains("shorter one first"));
        for wrong in ["10s", "..", "1s..", "1s...2s", ""] {
            assert!(wrong.parse::<Backoff>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_follows_an_error_reads_as_it_is_written() {
        for text in ["feed_back", "restart", "fail_run", "route:editor"] {
            assert_eq!(text.parse::<OnError>().unwrap().to_string(), text);
        }
        assert!("route:".parse::<OnError>().is_err() && "retry".parse::<OnError>().is_err());
    }
}
