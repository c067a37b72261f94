//! A room: agents speak in turn, and each hears what the others have said since its last turn.

use std::sync::Arc;

use serde_json::{Value, json};

use super::routing::{Composer, Over, Payload, Routing, Taken, View, failed, limit};
use super::{AgentId, AgentOutcome, Answer, Instance, Labels, NewAgent};
use crate::route::Room;
use crate::spec::{RoomAnswer, local};

impl View<'_> {
    /// Returns who begins in an inner flow.
    pub(super) fn first(&self, asked: &Payload<'_>) -> Result<Vec<NewAgent>, Over> {
        let owner = self.of.and_then(|owner| self.run.agents().get(owner));
        let node = owner.and_then(|owner| self.rules.flow.of_agent(&owner.name));
        let max = self.rules.limits.depth;
        if self.depth() > max {
            return Err(limit("depth", format!("its agents would be deeper than depth = {max}")));
        }
        let first = match node.map(|node| (&node.inner, &node.room)) {
            Some((Some(inner), _)) => inner.clone(),
            Some((_, Some(room))) => match room.selector.as_ref().or(room.members.first()) {
                Some(first) => first.clone(),
                None => return Err(failed("nobody speaks in the room".to_owned())),
            },
            _ => return Err(failed("it stands for no flow".to_owned())),
        };
        let text = match node.and_then(|node| node.room.as_ref()) {
            Some(room) if room.selector.is_some() => self.whose_turn(room, &asked.text),
            _ => asked.text.clone(),
        };
        Ok(vec![Composer::new(self).agent(&first, &text, asked, Vec::new())])
    }

    /// Says what follows a turn in a room.
    pub(super) fn next_turn(&self, room: &Room, agent: &AgentId, instance: &Instance) -> Routing {
        let labels = instance.labels.clone();
        let Some(AgentOutcome::Done(answer)) = &instance.outcome else {
            let outcome = instance.outcome.clone().unwrap_or_else(|| failed("it has not ended".to_owned()));
            return self.over(outcome, labels);
        };
        let is_member = |name: &str| room.members.iter().any(|member| **member == *name);
        let said = self.said(room);
        let next = if room.selector.as_ref() == Some(&instance.name) {
            self.named(room, answer)
        } else if !is_member(&instance.name) {
            Err(failed(format!("`{}` is no member of the room", instance.name)))
        } else {
            match self.is_over(room, instance, answer, said.len()) {
                Err(over) => Err(over),
                Ok(true) => return self.over(AgentOutcome::Done(self.room_answer(room, &said)), self.labels(&said)),
                Ok(false) => Ok(match &room.selector {
                    Some(selector) => selector.clone(),
                    None => room.members[said.len() % room.members.len()].clone(),
                }),
            }
        };
        let next = match next {
            Ok(next) => next,
            Err(over) => return self.over(over, labels),
        };
        let is_selector = room.selector.as_ref() == Some(&next);
        let heard = match (is_selector && self.state.visits.contains_key(&*next), said.last()) {
            // It has heard what came before.
            (true, Some(last)) => self.line(last).unwrap_or_default().into(),
            _ => self.heard_since(&said, &next),
        };
        let labels = self.labels(&said);
        let text = if is_selector { self.whose_turn(room, &heard) } else { heard };
        let payload = Payload { text, ..Payload::of(agent, Value::Null, labels.clone()) };
        let starts = vec![Composer::new(self).agent(&next, &payload.text, &payload, Vec::new())];
        self.routed(agent, Taken { starts, ..Taken::default() }, Vec::new(), None, labels)
    }

    /// Whether the talk is over after a turn.
    fn is_over(&self, room: &Room, speaker: &Instance, answer: &Answer, turns: usize) -> Result<bool, Over> {
        let mut values = self.values(&answer.to_value(), turns as u32);
        values.insert("speaker".to_owned(), json!(local(&speaker.name, &speaker.name)));
        values.insert("turns".to_owned(), json!(turns));
        let is_full = turns >= room.max_turns as usize;
        match &room.end_when {
            None => Ok(is_full),
            Some(end) => match end.is_true(&values) {
                Err(error) => Err(failed(format!("`end_when` of the room: {error}"))),
                Ok(false) if is_full => {
                    Err(limit("max_turns", format!("the talk had max_turns = {turns}, and did not come to its end")))
                }
                Ok(is_over) => Ok(is_over),
            },
        }
    }

    /// Returns the member that the selector names: the one whose name comes first in what it says.
    fn named(&self, room: &Room, answer: &Answer) -> Result<Arc<str>, Over> {
        let text = answer.to_text();
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        let mut words = text.split(|c: char| !is_word(c));
        let member =
            words.find_map(|word| room.members.iter().find(|member| local(member, member).eq_ignore_ascii_case(word)));
        let said: String = text.chars().take(80).collect();
        member.cloned().ok_or_else(|| failed(format!("the selector of the room named no member: `{said}`")))
    }

    /// Returns the turns of the members so far.
    fn said(&self, room: &Room) -> Vec<&AgentId> {
        let is_turn = |(id, instance): &(&AgentId, &Instance)| {
            instance.parent.flow() == self.of && room.members.contains(&instance.name) && self.answer_of(id).is_some()
        };
        self.run.agents().iter().filter(is_turn).map(|(id, _)| id).collect()
    }

    fn line(&self, agent: &AgentId) -> Option<String> {
        Some(format!("{}: {}", self.name_of(agent)?, self.answer_of(agent)?.to_text()))
    }

    /// Returns what was said since an agent spoke last, after the question if it has not spoken yet.
    fn heard_since(&self, said: &[&AgentId], next: &str) -> Arc<str> {
        let of = |agent: &&AgentId| &*self.run.agents()[*agent].name == next;
        let since = said.iter().rposition(of).map_or(0, |last| last + 1);
        let asked = self.of.and_then(|owner| self.run.agents().get(owner)?.task.last());
        let asked = asked.filter(|_| !self.state.visits.contains_key(next)).map(|asked| asked.text().to_owned());
        let lines = said[since..].iter().filter_map(|agent| self.line(agent));
        asked.into_iter().chain(lines).collect::<Vec<_>>().join("\n\n").into()
    }

    fn whose_turn(&self, room: &Room, heard: &str) -> Arc<str> {
        let names: Vec<&str> = room.members.iter().map(|member| local(member, member)).collect();
        format!("{heard}\n\nWho speaks next? Answer with one name: {}.", names.join(", ")).into()
    }

    fn room_answer(&self, room: &Room, said: &[&AgentId]) -> Answer {
        match (room.answer, said.last().and_then(|last| self.answer_of(last))) {
            (RoomAnswer::Last, Some(answer)) => answer.clone(),
            _ => Answer::Text(said.iter().filter_map(|agent| self.line(agent)).collect::<Vec<_>>().join("\n\n").into()),
        }
    }

    fn labels(&self, said: &[&AgentId]) -> Labels {
        let mut labels = Labels::default();
        said.iter().for_each(|agent| labels.join(&self.run.agents()[*agent].labels));
        labels
    }
}
