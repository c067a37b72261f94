//! On which terms a person's yes lets a call happen.

use std::sync::Arc;
use std::time::Duration;

use crate::spec::ApprovalsSpec;

/// Who has to say yes to a call, and for how long they may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Who may answer, in order; anybody where nobody is named.
    pub approvers: Vec<Arc<str>>,
    /// How many have to say yes; what is left out is one.
    pub quorum: Option<u32>,
    /// After how long nobody's answer is a no; never where it is left out.
    pub expires: Option<Duration>,
}

impl Terms {
    /// Reads what a network says for all its calls.
    pub(super) fn of(spec: &ApprovalsSpec) -> Self {
        let mut approvers: Vec<Arc<str>> = spec.approvers.iter().map(|name| name.as_str().into()).collect();
        approvers.sort();
        Self { approvers, quorum: spec.quorum, expires: spec.expires.map(|span| span.0) }
    }

    /// Returns these terms, with `network`'s where they say nothing.
    #[must_use]
    pub(super) fn or(self, network: &Terms) -> Self {
        Self {
            approvers: if self.approvers.is_empty() { network.approvers.clone() } else { self.approvers },
            quorum: self.quorum.or(network.quorum),
            expires: self.expires.or(network.expires),
        }
    }

    /// Returns what satisfies both: who may answer by both, the larger quorum, the shorter time. None where nobody may.
    pub(super) fn and(self, other: Self) -> Option<Self> {
        let approvers = match (self.approvers.is_empty(), other.approvers.is_empty()) {
            (true, _) => other.approvers,
            (_, true) => self.approvers,
            (false, false) => {
                let both: Vec<_> = self.approvers.into_iter().filter(|name| other.approvers.contains(name)).collect();
                if both.is_empty() {
                    return None;
                }
                both
            }
        };
        let quorum = self.quorum.max(other.quorum);
        let expires = [self.expires, other.expires].into_iter().flatten().min();
        Some(Self { approvers, quorum, expires }).filter(Self::can_be_met)
    }

    /// Whether as many may say yes as have to.
    pub(super) fn can_be_met(&self) -> bool {
        self.approvers.is_empty() || self.approvers.len() >= self.quorum.unwrap_or(1) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(approvers: &[&str], quorum: Option<u32>, secs: Option<u64>) -> Terms {
        let approvers = approvers.iter().map(|name| Arc::from(*name)).collect();
        Terms { approvers, quorum, expires: secs.map(Duration::from_secs) }
    }

    #[test]
    fn two_policies_that_ask_are_both_satisfied_or_nobody_is_asked() {
        let both = terms(&["ana", "ben"], Some(2), Some(60)).and(terms(&["ana", "ben", "cy"], None, Some(30)));
        assert_eq!(both, Some(terms(&["ana", "ben"], Some(2), Some(30))));
        assert_eq!(terms(&["ana"], None, None).and(terms(&["ben"], None, None)), None);
        assert_eq!(terms(&["ana", "ben"], None, None).and(terms(&["ana"], Some(2), None)), None);
        assert_eq!(terms(&[], None, None).and(terms(&["ana"], None, None)), Some(terms(&["ana"], None, None)));
    }

    #[test]
    fn what_a_policy_does_not_say_the_network_does() {
        let network = terms(&["ana", "ben"], Some(2), Some(60));
        assert_eq!(terms(&[], None, None).or(&network), network);
        assert_eq!(terms(&["cy"], Some(1), None).or(&network), terms(&["cy"], Some(1), Some(60)));
    }
}
