//! Questions that wait for one another in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Key, Mailbox, Name, Ticket};

/// A question that waits, and in which mailbox.
type Waiting<'a> = (&'a Key, &'a Mailbox, &'a Ticket);

/// Finds the circle that a question closes. A question has no way out if no instance that it may be taken by comes free,
/// and an instance comes free only when all that it has asked is answered: what is left when all those are crossed out
/// that have a way out, waits for ever.
pub(super) fn find(mailboxes: &BTreeMap<Key, Mailbox>, name: &Name) -> Option<Vec<Arc<str>>> {
    let all = mailboxes.iter().flat_map(|(key, mailbox)| mailbox.tickets().map(move |ticket| (key, mailbox, ticket)));
    let mut stuck: Vec<Waiting<'_>> = all.collect();
    let asked = stuck.iter().find(|(_, _, ticket)| ticket.name == *name)?;
    // Only who is awaited by somebody at work can close a circle.
    let is_at_work = |name: &Name| mailboxes.values().any(|mailbox| mailbox.at_work.contains(name));
    if !asked.2.awaited_by.iter().any(|(name, _)| is_at_work(name)) {
        return None;
    }
    loop {
        let waits: BTreeSet<&Name> =
            stuck.iter().flat_map(|(_, _, ticket)| ticket.awaited_by.iter().map(|(name, _)| name)).collect();
        let is_full = |mailbox: &Mailbox| mailbox.at_work.len() >= mailbox.terms.replicas;
        let stuck_boxes: BTreeSet<&Key> = mailboxes
            .iter()
            .filter(|(_, mailbox)| is_full(mailbox) && mailbox.at_work.iter().all(|worker| waits.contains(worker)))
            .map(|(key, _)| key)
            .collect();
        let left: Vec<Waiting<'_>> = stuck.iter().filter(|(key, _, _)| stuck_boxes.contains(key)).copied().collect();
        if left.len() == stuck.len() {
            break;
        }
        stuck = left;
    }
    let mut at = *stuck.iter().find(|(_, _, ticket)| ticket.name == *name)?;
    let mut seen: Vec<(&Key, Vec<Arc<str>>)> = Vec::new();
    let first = loop {
        if let Some(first) = seen.iter().position(|(key, _)| *key == at.0) {
            break first;
        }
        let worker = at.1.at_work.first()?;
        let next = blocker(&stuck, worker)?;
        // From who is at work here to who asks there.
        let askers = next.2.awaited_by.iter().position(|(of, _)| of == worker)?;
        let way = next.2.awaited_by[..=askers].iter().rev().map(|(_, agent)| agent.clone()).collect();
        seen.push((at.0, way));
        at = next;
    };
    let mut circle: Vec<Arc<str>> = seen.drain(first..).flat_map(|(_, way)| way).collect();
    circle.extend(circle.first().cloned());
    Some(circle)
}

/// Returns a question for whose answer the one at work on `worker` waits.
fn blocker<'a>(stuck: &[Waiting<'a>], worker: &Name) -> Option<Waiting<'a>> {
    stuck.iter().find(|(_, _, ticket)| ticket.awaited_by.iter().any(|(of, _)| of == worker)).copied()
}
