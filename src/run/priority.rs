//! What a run is worth beside other runs of its tenant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How large a run's share is where runs of one tenant wait for the same. It never takes from another tenant; and since it
/// is a share, no run waits for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// A quarter of what a normal run gets.
    Low,
    /// What runs have that are given none.
    #[default]
    Normal,
    /// Four times what a normal run gets.
    High,
}

impl Priority {
    /// All there are, the lowest first.
    pub const ALL: [Self; 3] = [Self::Low, Self::Normal, Self::High];

    /// Returns the word for it, which is public.
    pub fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }

    /// Returns the run's weight beside those of its tenant's other runs.
    pub fn weight(self) -> u32 {
        match self {
            Self::Low => 1,
            Self::Normal => 4,
            Self::High => 16,
        }
    }

    /// Whether it is that of runs that are given none.
    pub fn is_normal(&self) -> bool {
        *self == Self::Normal
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Priority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|priority| priority.word() == text);
        known.ok_or_else(|| "a priority is low, normal or high".to_owned())
    }
}
