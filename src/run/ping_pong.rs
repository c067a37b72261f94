//! Whether control goes to and fro between two agents with much the same words: a function of the run's state, since each of
//! them knows its own part only.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{CallId, Instance, Parent, RunState};

/// From which share of common words on two messages are much the same, in quarters.
const SIMILAR_QUARTERS: usize = 3;

/// One agent asks another, or hands over to it.
struct Hop<'a> {
    from: &'a Arc<str>,
    to: &'a Arc<str>,
    said: &'a str,
}

impl RunState {
    /// Says in words for the model why `call` must not ask the agent `to`, or hand over to it, with these words: control has
    /// gone to and fro between the two more than `most` times.
    pub(super) fn ping_pong(&self, call: &CallId, to: &Arc<str>, said: &str, most: u32) -> Option<String> {
        let asker = self.agents().get(&call.agent).filter(|_| most > 0)?;
        let mut hops = vec![Hop { from: &asker.name, to, said }];
        let (mut now, most) = (asker, most as usize);
        while hops.len() <= most {
            let Some(hop) = self.hop(now) else { break };
            let next = hops.last()?;
            let is_back = (hop.from, hop.to) == (next.to, next.from);
            // What was said in the same direction the next time.
            let later = hops.len().checked_sub(2).map(|place| hops[place].said);
            if !is_back || later.is_some_and(|later| !are_similar(hop.said, later)) {
                break;
            }
            let Some(before) = now.parent.call().and_then(|call| self.agents().get(&call.agent)) else { break };
            now = before;
            hops.push(hop);
        }
        (hops.len() > most).then(|| {
            format!(
                "`{}` and `{to}` have turned to each other {most} times with much the same words; go on without `{to}`, or say \
                 something new",
                asker.name
            )
        })
    }

    /// Returns how control came to an instance; none if no agent turned to it.
    fn hop<'a>(&'a self, instance: &'a Instance) -> Option<Hop<'a>> {
        let from = &self.agents().get(&instance.parent.call()?.agent)?.name;
        let said = instance.task.last()?.text();
        // What a handoff tells begins with who tells it.
        let said = match instance.parent {
            Parent::Handoff { .. } => said.split_once(": ").map_or(said, |(_, said)| said),
            _ => said,
        };
        Some(Hop { from, to: &instance.name, said })
    }
}

/// Whether two messages are much the same: of their words together, three quarters are in both.
fn are_similar(one: &str, other: &str) -> bool {
    let words = |text: &str| -> BTreeSet<String> {
        let words = text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
        words.map(str::to_lowercase).collect()
    };
    let (one, other) = (words(one), words(other));
    one.intersection(&other).count() * 4 >= one.union(&other).count() * SIMILAR_QUARTERS
}

#[cfg(test)]
mod tests {
    use super::are_similar;

    #[test]
    fn messages_are_compared_by_their_words() {
        for (one, other, expected) in [
            ("", "", true),
            ("Please check the draft.", "please check the draft", true),
            ("Please check the new draft once more", "please check the draft once more", true),
            ("fix the title", "fix the second paragraph", false),
            ("", "anything", false),
        ] {
            assert_eq!(are_similar(one, other), expected, "{one:?} and {other:?}");
        }
    }
}
