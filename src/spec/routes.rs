//! Routes: which agent's answer goes to whom, and what has to come together before that; and rooms, in which agents
//! speak in turn.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Span;

/// How many agents one `for_each` may start where the network says nothing.
pub(super) const DEFAULT_FAN_OUT: u32 = 1_000;

/// How many agents a run may have, whatever the network says: far beyond what people build, and small enough that a
/// runaway network ends within seconds.
pub const MAX_AGENTS: u32 = 10_000;

/// What begins the name of a topic where agents are named.
pub const TOPIC: char = '#';

/// One route: what becomes of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteSpec {
    /// Whose answers it takes: an agent, several, or a topic such as `"#alerts"`. Without `join` each answer is taken for
    /// itself.
    #[schemars(extend("format" = "one-or-many", "type" = ["array", "string"], "uniqueItems" = true))]
    pub from: Vec<String>,
    /// Who gets them: each of these agents, or whoever takes what is published on a topic such as `"#alerts"`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("format" = "one-or-many", "type" = ["array", "string"], "uniqueItems" = true))]
    pub to: Vec<String>,
    /// Whether the route is taken: an expression over `output`, `outputs`, `input`, `vars` and `visits`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub when: Option<String>,
    /// Whether the route is taken where no other route of the same answer is.
    #[serde(skip_serializing_if = "is_false")]
    pub otherwise: bool,
    /// A list, as an expression: each of its items goes to an instance of its own of each agent of `to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub for_each: Option<String>,
    /// How many of the answers have to be there before the route is taken: `"all"` that are under way, `"any"`, a number, or
    /// `"majority"`: as many that agree as make more than half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<Join>,
    /// What has to be the same for answers to agree, as an expression over `output`: the whole answer where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub by: Option<String>,
    /// For how long a join waits, from when the first of its agents began; then it goes on with what is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// How often the route may be taken in a run: every circle of routes needs a bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_visits: Option<u32>,
    /// What the agents are told, as a template; the answer as it is where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub message: Option<String>,
    /// Makes the value of this expression the answer of the run, in the place of `to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub answer: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// How many answers have to come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// All that are under way.
    All,
    /// The first one; the others are stopped.
    Any,
    /// More than half of them that agree; the others are stopped. Without a majority, all that are under way.
    Majority,
    /// This many; the others are stopped.
    Count(u32),
}

impl FromStr for Join {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "any" => Ok(Self::Any),
            "majority" => Ok(Self::Majority),
            _ => match text.parse() {
                Ok(count) if count > 0 => Ok(Self::Count(count)),
                _ => Err(format!("`{text}` is none of \"all\", \"any\", \"majority\" and a number from 1")),
            },
        }
    }
}

impl fmt::Display for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Any => f.write_str("any"),
            Self::Majority => f.write_str("majority"),
            Self::Count(count) => write!(f, "{count}"),
        }
    }
}

impl Serialize for Join {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Join {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Join {
    fn schema_name() -> Cow<'static, str> {
        "Join".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "format": "join",
            "pattern": "^(all|any|majority|[1-9][0-9]*)$",
            "minimum": 1,
            "description": "How many answers have to come together: \"all\", \"any\", \"majority\", or a number.",
            "examples": ["all", "any", "majority", "2"],
        })
    }
}

/// A room: agents that speak in turn, and hear one another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RoomSpec {
    /// The agents that speak.
    #[schemars(extend("uniqueItems" = true))]
    pub members: Vec<String>,
    /// The agent that says who speaks next, by answering with a member's name; in the order of `members` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub selector: Option<String>,
    /// When the talk is over, as an expression over `output` (what was said last), `speaker` and `turns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub end_when: Option<String>,
    /// How many turns the talk may have. Without `end_when` it has so many.
    #[schemars(range(min = 1))]
    pub max_turns: u32,
    /// What comes of it.
    pub answer: RoomAnswer,
}

impl RoomSpec {
    /// Returns all agents that speak in the room, the selector included.
    pub fn agents(&self) -> impl Iterator<Item = &str> {
        self.members.iter().chain(&self.selector).map(String::as_str)
    }
}

/// What comes of a room's talk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoomAnswer {
    /// All that was said, a speaker's name before each turn.
    #[default]
    Transcript,
    /// What was said last.
    Last,
}
