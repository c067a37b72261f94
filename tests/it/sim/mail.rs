//! The mailboxes and what instances keep, as the disk tells of them, and what must hold of them after each commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use provost::journal::{Store, StreamName};
use provost::run::{AgentId, AgentOutcome, CallId, Envelope, Event, Message, RunId, ToolFailure};
use provost::spec::{AgentSpec, NetworkSpec, Scope, WhenFull};
use serde::Deserialize;

use super::disk::OnDisk;
use super::failures::WAITS;

/// How many exchanges an instance is told of, at the most.
const EXCHANGES: usize = 32;

/// What is known of all mailboxes.
#[derive(Default)]
pub(super) struct Mail {
    /// The runs that are under way in the present process.
    living: BTreeSet<RunId>,
    boxes: BTreeMap<String, MailBox>,
    kept: BTreeMap<String, Vec<Exchange>>,
    /// The questions of other runs that a later one has passed, unless they leave at the same time.
    passed: BTreeMap<(RunId, CallId), Passed>,
    /// The instances that the last commit has started and that are told of what is kept.
    started: Vec<Started>,
    /// What has been lived through since this was last taken.
    pub(super) lived: Vec<&'static str>,
}

/// One mailbox.
#[derive(Default)]
struct MailBox {
    /// The questions that wait.
    waiting: BTreeMap<(RunId, CallId), Waiting>,
    /// The instances at work, and since when: their start, or that of their run in this process.
    at_work: BTreeMap<(RunId, AgentId), Since>,
}

struct Waiting {
    sent_ms: u64,
    seq: u64,
    /// When it came to be in this process's mailbox.
    here_ms: u64,
}

struct Since {
    here_ms: u64,
    /// Whether it was at work before its run was taken up.
    is_taken_up: bool,
}

struct Started {
    who: String,
    key: String,
    task: Vec<Arc<Message>>,
    /// Whether none of those at work was so before its run was taken up: such a one may be too many.
    is_alone: bool,
}

struct Passed {
    at_ms: u64,
    what: String,
}

/// What an instance keeps of a question, as it is stored.
#[derive(Deserialize)]
struct Exchange {
    run: RunId,
    agent: AgentId,
    question: Arc<Message>,
    answer: Arc<Message>,
}

/// An event that has just become durable.
struct New<'a> {
    network: &'a NetworkSpec,
    on_disk: &'a OnDisk,
    envelope: &'a Envelope,
    before: Option<&'a Envelope>,
    next: Option<&'a Envelope>,
}

impl Mail {
    /// Nobody is at work in a process that begins.
    pub(super) fn begin_process(&mut self) {
        self.living.clear();
        self.passed.clear();
    }

    /// Takes up the events that the last commit has added to runs, each of which stood at the number beside it; returns what
    /// is wrong with them.
    pub(super) fn look(
        &mut self,
        network: &NetworkSpec,
        store: &Store,
        runs: &BTreeMap<RunId, OnDisk>,
        changed: &[(RunId, u64)],
    ) -> Vec<String> {
        let has_mail = network.agents.values().any(|agent| agent.replicas().is_some());
        if !has_mail {
            return Vec::new();
        }
        let (mut wrong, mut answered) = (Vec::new(), Vec::new());
        for (run, after) in changed {
            let on_disk = &runs[run];
            let added = &on_disk.events[*after as usize..];
            let is_fork = |envelope: &Arc<Envelope>| matches!(envelope.event, Event::RunForked { .. });
            let copied = if *after == 0 { added.iter().position(is_fork).unwrap_or_default() } else { 0 };
            for (place, envelope) in added.iter().enumerate() {
                let before = place.checked_sub(1).map(|before| &*added[before]);
                let next = added.get(place + 1).map(|next| &**next);
                let new = New { network, on_disk, envelope, before, next };
                let is_copy = place < copied;
                wrong.extend(self.take(&new, is_copy).err());
                answered.extend(new.answered().filter(|_| !is_copy));
            }
        }
        wrong.extend(self.crowd(network));
        if network.agents.values().any(|agent| agent.scope != Scope::Run) {
            wrong.extend(self.keep(store, answered));
            let started = std::mem::take(&mut self.started);
            wrong.extend(started.iter().filter_map(|started| self.knows(started).err()));
        }
        wrong
    }

    /// Takes up an event of a run; a fork has copies of another's, which happened to nobody in it.
    fn take(&mut self, new: &New<'_>, is_copy: bool) -> Result<(), String> {
        let (run, seq, now_ms) = (&new.envelope.stream.run, new.envelope.seq, new.envelope.time_ms);
        match &new.envelope.event {
            Event::RunStarted { .. } => drop(self.living.insert(run.clone())),
            Event::RunResumed { .. } | Event::RunForked { .. } => {
                self.living.insert(run.clone());
                self.boxes.values_mut().for_each(|mailbox| mailbox.take_up(run, now_ms));
            }
            Event::CancelRequested { end } => {
                let reason = end.reason.as_deref().unwrap_or_default();
                return if reason.starts_with(WAITS) { self.circle(new, reason) } else { Ok(()) };
            }
            Event::RunEnded { end, .. } => {
                self.living.remove(run);
                for mailbox in self.boxes.values_mut().filter(|_| !end.status.is_parked()) {
                    mailbox.waiting.retain(|(of, _), _| of != run);
                    mailbox.at_work.retain(|(of, _), _| of != run);
                }
            }
            Event::Sent { call, to } => return self.sent(new, call, to),
            Event::Took { call } => return self.took(new, call, is_copy),
            Event::AgentStarted { .. } => return self.starts(new, is_copy),
            Event::DeadLettered { call: Some(call), to, .. } if new.envelope.agent.as_ref() == Some(&call.agent) => {
                let spec = &new.network.agents[&**to];
                self.leaves(new, call, spec.mailbox.when_full == WhenFull::DropOldest, spec)?;
            }
            Event::ToolReturned { call, failure: Some(ToolFailure::MailboxFull), .. } => {
                self.lived.push("refused");
                return self.refused(new, call);
            }
            Event::ToolReturned { call, failure, .. } => {
                let name = (run.clone(), call.clone());
                let waits = self.boxes.values_mut().any(|mailbox| mailbox.waiting.remove(&name).is_some());
                // Who is told something in a fork and was about to hand over reads first.
                if waits && *failure != Some(ToolFailure::Denied) {
                    return Err(format!("{run} {call} has a result at {seq}, and waits in a mailbox"));
                }
            }
            Event::AgentEnded { .. } => {
                let Some(agent) = &new.envelope.agent else { return Ok(()) };
                for mailbox in self.boxes.values_mut() {
                    mailbox.at_work.remove(&(run.clone(), agent.clone()));
                    mailbox.waiting.retain(|(of, call), _| of != run || call.agent != *agent);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A question is in the mailbox of an agent, where it was not before.
    fn sent(&mut self, new: &New<'_>, call: &CallId, to: &str) -> Result<(), String> {
        let (run, seq, sent_ms) = (&new.envelope.stream.run, new.envelope.seq, new.envelope.time_ms);
        let mailbox = self.boxes.entry(new.key_of(to).unwrap_or_default()).or_default();
        let waiting = Waiting { sent_ms, seq, here_ms: sent_ms };
        if mailbox.waiting.insert((run.clone(), call.clone()), waiting).is_some() {
            return Err(format!("{run} {call} is sent twice, at {seq}"));
        }
        let spec = new.network.agents[to].mailbox;
        if spec.when_full == WhenFull::Spill && mailbox.waiting.len() > spec.capacity as usize + 1 {
            self.lived.push("spilled");
        }
        Ok(())
    }

    /// An instance starts: one behind a mailbox does so since it took a question.
    fn starts(&mut self, new: &New<'_>, is_copy: bool) -> Result<(), String> {
        let (run, seq, here_ms) = (&new.envelope.stream.run, new.envelope.seq, new.envelope.time_ms);
        let Event::AgentStarted { name, parent, task, .. } = &new.envelope.event else { return Ok(()) };
        let (Some(call), Some(agent), Some(key)) = (parent.call(), &new.envelope.agent, new.key_of(name)) else {
            return Ok(());
        };
        let took = |event: &Event| matches!(event, Event::Took { call: of } if of == call);
        if !new.before.is_some_and(|before| took(&before.event)) {
            return Err(format!("{run} {agent} starts at {seq}, and nobody took its question"));
        }
        let at_work = &mut self.boxes.entry(key.clone()).or_default().at_work;
        at_work.insert((run.clone(), agent.clone()), Since { here_ms, is_taken_up: is_copy });
        if new.network.agents[&**name].scope != Scope::Run && !is_copy {
            let is_alone = at_work.values().all(|since| !since.is_taken_up);
            let who = format!("{run} {agent}");
            self.started.push(Started { who, key, task: task.clone(), is_alone });
        }
        Ok(())
    }

    /// A question is taken from its mailbox: it is there, none waits that was sent before it, and the agent starts.
    fn took(&mut self, new: &New<'_>, call: &CallId, is_copy: bool) -> Result<(), String> {
        let (run, seq) = (&new.envelope.stream.run, new.envelope.seq);
        let is_its = |event: &Event| matches!(event, Event::AgentStarted { parent, .. } if parent.call() == Some(call));
        if !new.next.is_some_and(|next| is_its(&next.event)) {
            return Err(format!("{run} {call} is taken at {seq}, and nobody starts to work on it"));
        }
        let waited = self.leaves(new, call, true, &AgentSpec::new(""))?;
        if waited && !is_copy {
            self.lived.push("took after a wait");
        }
        Ok(())
    }

    /// A question leaves its mailbox, for which it has to be there and the first. Returns whether it had to wait.
    fn leaves(&mut self, new: &New<'_>, call: &CallId, may_leave: bool, spec: &AgentSpec) -> Result<bool, String> {
        let (run, seq, now_ms) = (&new.envelope.stream.run, new.envelope.seq, new.envelope.time_ms);
        let name = (run.clone(), call.clone());
        let Some(mailbox) = self.boxes.values_mut().find(|mailbox| mailbox.waiting.contains_key(&name)) else {
            return Err(format!("{run} {call} leaves a mailbox at {seq} in which it is not"));
        };
        let own = mailbox.waiting.remove(&name).ok_or("it is not there")?;
        if let Some(passed) = self.passed.remove(&name).filter(|passed| passed.at_ms < now_ms) {
            return Err(passed.what);
        }
        let is_before = |((of, _), other): &(&(RunId, CallId), &Waiting)| match of == run {
            true => (other.sent_ms, other.seq) < (own.sent_ms, own.seq),
            false => self.living.contains(of) && other.here_ms < now_ms && other.sent_ms < own.sent_ms,
        };
        for ((of, earlier), _) in mailbox.waiting.iter().filter(is_before) {
            let what = format!("{run} {call} leaves its mailbox at {seq}, and {of} {earlier} was there before");
            if of == run {
                return Err(what);
            }
            // It may have left it at the same time.
            let passed = Passed { at_ms: now_ms, what };
            self.passed.entry((of.clone(), earlier.clone())).or_insert(passed);
        }
        let is_of_run = spec.scope == Scope::Run;
        if !may_leave
            || is_of_run && spec.replicas().is_some() && mailbox.waiting.len() < spec.mailbox.capacity as usize
        {
            return Err(format!("{run} {call} is dropped at {seq}, and there is room"));
        }
        Ok(new.before.is_none_or(|before| before.event.call() != Some(call)))
    }

    /// A question is refused: the mailbox is one that refuses, and full.
    fn refused(&self, new: &New<'_>, call: &CallId) -> Result<(), String> {
        let run = &new.envelope.stream.run;
        let asked = new.asked(call).and_then(|to| Some((new.network.agents.get(to)?, new.key_of(to)?)));
        let Some((spec, key)) = asked else { return Ok(()) };
        let waiting = self.boxes.get(&key).map_or(0, |mailbox| mailbox.waiting.len());
        let is_full = spec.scope != Scope::Run || waiting >= spec.mailbox.capacity as usize;
        match spec.mailbox.when_full == WhenFull::Reject && is_full {
            true => Ok(()),
            false => Err(format!("{run} {call} is refused at {}, and {waiting} wait", new.envelope.seq)),
        }
    }

    /// Agents are said to wait for one another: no instance of any of them is free.
    fn circle(&mut self, new: &New<'_>, reason: &str) -> Result<(), String> {
        self.lived.push("wait circle");
        for name in reason.split('`').skip(1).step_by(2) {
            let (spec, key) = (&new.network.agents[name], new.key_of(name).unwrap_or_default());
            let at_work = self.boxes.get(&key).map_or(0, |mailbox| mailbox.at_work.len());
            // What other runs have at work may not be known yet.
            let is_known = spec.scope == Scope::Run;
            if spec.replicas().is_none_or(|replicas| is_known && at_work < replicas as usize) {
                return Err(format!("{}: {reason}, and {name} is free", new.envelope.stream.run));
            }
        }
        Ok(())
    }

    /// Says which mailbox has more instances at work than it may. What was at work when its run was taken up may be too
    /// many, since who came first did not know of it.
    fn crowd(&self, network: &NetworkSpec) -> Option<String> {
        self.boxes.iter().find_map(|(key, mailbox)| {
            let agent = key.split('/').nth(2)?;
            let replicas = network.agents.get(agent)?.replicas()? as usize;
            let here = || mailbox.at_work.iter().filter(|((run, _), _)| self.living.contains(run));
            let last_ms = here().filter(|(_, since)| !since.is_taken_up).map(|(_, since)| since.here_ms).max()?;
            let knows = |since: &Since| !since.is_taken_up || since.here_ms < last_ms;
            let count = here().filter(|(_, since)| knows(since)).count();
            (count > replicas).then(|| {
                let who: Vec<_> = here().map(|((run, agent), _)| format!("{run} {agent}")).collect();
                format!("{count} instances are at work behind {key}, of {replicas}: {}", who.join(", "))
            })
        })
    }

    /// Looks at what is kept: each answered question once, in the commit of the answer.
    fn keep(&mut self, store: &Store, answered: Vec<(String, RunId, AgentId)>) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut answered: BTreeSet<(String, RunId, AgentId)> = answered.into_iter().collect();
        for info in store.streams("kept/").unwrap_or_default() {
            let known = self.kept.entry(info.name.as_str().to_owned()).or_default();
            if info.head == known.len() as u64 {
                continue;
            }
            for record in store.read(&info.name, known.len() as u64, usize::MAX >> 1).unwrap_or_default() {
                let Ok(exchange) = rmp_serde::from_slice::<Exchange>(&record.payload) else {
                    wrong.push(format!("{} {} can't be read", info.name, record.seq));
                    continue;
                };
                if !answered.remove(&(info.name.to_string(), exchange.run.clone(), exchange.agent.clone())) {
                    let Exchange { run, agent, .. } = &exchange;
                    wrong.push(format!("{} {} is what {run} {agent} has not just answered", info.name, record.seq));
                }
                known.push(exchange);
            }
        }
        let lost = answered.into_iter().next();
        wrong.extend(lost.map(|(stream, run, agent)| format!("what {run} {agent} answered is not kept in {stream}")));
        wrong
    }

    /// An instance begins with what is kept, and what it is asked. Its place was free only when all was on disk that the one
    /// before it had to keep.
    fn knows(&mut self, started: &Started) -> Result<(), String> {
        let Started { who, key, task, is_alone } = started;
        let none = Vec::new();
        let kept = self.kept.get(key).unwrap_or(&none);
        let begins_with = |head: usize| {
            let last = &kept[head.saturating_sub(EXCHANGES)..head];
            let told: Vec<&Arc<Message>> =
                last.iter().flat_map(|exchange| [&exchange.question, &exchange.answer]).collect();
            task.len() > told.len() && told.iter().zip(task).all(|(told, given)| *told == given)
        };
        if !kept.is_empty() {
            self.lived.push("kept");
        }
        let first = if *is_alone { kept.len() } else { 0 };
        match (first..=kept.len()).any(begins_with) {
            true => Ok(()),
            false => Err(format!("{who} does not know what is kept in {key}")),
        }
    }
}

impl MailBox {
    fn take_up(&mut self, run: &RunId, now_ms: u64) {
        let of_run = |(of, _): &(RunId, AgentId)| of == run;
        for (_, since) in self.at_work.iter_mut().filter(|(name, _)| of_run(name)) {
            *since = Since { here_ms: now_ms, is_taken_up: true };
        }
        for (_, waiting) in self.waiting.iter_mut().filter(|((of, _), _)| of == run) {
            waiting.here_ms = now_ms;
        }
    }
}

impl New<'_> {
    /// Names the mailbox of an agent, as the stream of what its instance keeps; none if it has none.
    fn key_of(&self, agent: &str) -> Option<String> {
        let spec = self.network.agents.get(agent)?;
        spec.replicas()?;
        let (stream, name) = (&self.envelope.stream, &self.network.network.name);
        let (run, tenant) = (&stream.run, &stream.tenant);
        Some(match (spec.scope, &stream.session) {
            (Scope::Run, _) => format!("kept/{name}/{agent}/run/{run}"),
            (Scope::Network, _) => format!("kept/{name}/{agent}/tenant/{tenant}"),
            (Scope::Session, Some(session)) => format!("kept/{name}/{agent}/session/{tenant}/{session}"),
            (Scope::Session, None) => format!("kept/{name}/{agent}/session/{tenant}/{run}"),
        })
    }

    /// Says what instance has answered a question that is to be kept, if one has just now.
    fn answered(&self) -> Option<(String, RunId, AgentId)> {
        let (Some(agent), Event::AgentEnded { outcome: AgentOutcome::Done(_) }) =
            (&self.envelope.agent, &self.envelope.event)
        else {
            return None;
        };
        let instance = self.on_disk.fold.run.agents().get(agent)?;
        let is_kept = self.network.agents.get(&*instance.name)?.scope != Scope::Run && instance.parent.call().is_some();
        let key = self.key_of(&instance.name).filter(|_| is_kept)?;
        Some((StreamName::new(key).to_string(), self.envelope.stream.run.clone(), agent.clone()))
    }

    /// Says which agent a call asks.
    fn asked(&self, call: &CallId) -> Option<&str> {
        self.on_disk.events.iter().rev().find_map(|envelope| match &envelope.event {
            Event::ModelReplied { call: of, message, .. } if of.agent == call.agent && of.step == call.step => {
                let provost::run::Body::Assistant { tool_calls, .. } = &message.body else { return None };
                let (_, asked) = tool_calls.get(call.index? as usize)?;
                asked.name.split_once("ask_").or(asked.name.split_once("transfer_to_")).map(|(_, name)| name)
            }
            _ => None,
        })
    }
}
