//! People who answer: there and then, from elsewhere while a run is under way, or when it has been parked; twice, too late,
//! and with words that are no answer.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use provost::run::{CallId, Event, NoAnswer, RunId};
use provost::runtime::{Controls, Error, Inquired, Past};
use provost::spec::{Builtin, NetworkSpec, ToolSpec};
use tokio::time::sleep;

use super::disk::OnDisk;
use super::draw::Draw;
use super::plan::{Plan, RunPlan, is_probe};
use super::process::Process;
use super::world::World;

/// The tool that asks.
pub(super) const TOOL: &str = "ask";

/// What is asked.
pub(super) const ARGUMENTS: &str = r#"{"question": "Which?", "choices": ["this", "that"]}"#;

/// What can be answered.
const CHOICES: [&str; 2] = ["this", "that"];

/// How often somebody looks what a run under way asks.
const LOOKS: usize = 3;

/// What a person says to a question.
pub(super) struct Words {
    pub(super) answer: &'static str,
    /// What they would say to the same question another time.
    other: &'static str,
    /// Whether they say anything where they are asked.
    is_there: bool,
    /// Whether they say first what is no answer.
    mumbles: bool,
    after: Duration,
}

/// Draws whether agents can ask a person.
pub(super) fn join(network: &mut NetworkSpec, seed: u64) {
    if Draw::of(seed, "person", &"").happens(40) {
        let ask = ToolSpec { builtin: Some(Builtin::PersonAsk), ..ToolSpec::default() };
        network.tools.insert(TOOL.to_owned(), ask);
        network.agents.values_mut().for_each(|agent| agent.tools.push(TOOL.to_owned()));
    }
}

impl Plan {
    /// Whether an agent asks a person in a step in which it acts.
    pub(super) fn asks_person(&self, run: &RunId, step: &CallId) -> bool {
        self.network.tools.contains_key(TOOL) && !is_probe(run) && self.draw("asks", run, step).happens(50)
    }

    /// Says what a person says to a question.
    pub(super) fn words(&self, run: &RunId, call: &CallId) -> Words {
        let mut draw = self.draw("words", run, call);
        let chosen = draw.below(2) as usize;
        Words {
            answer: CHOICES[chosen],
            other: CHOICES[1 - chosen],
            is_there: draw.happens(60),
            mumbles: draw.happens(20),
            after: draw.millis(3_000),
        }
    }
}

impl World {
    /// Says what a person says who is asked there and then.
    pub(super) async fn say(&self, inquired: &Inquired) -> Option<String> {
        let words = self.plan.words(&inquired.run, &inquired.call);
        sleep(words.after).await;
        if words.mumbles && inquired.objection.is_none() {
            return Some("well".to_owned());
        }
        if words.mumbles && !matches!(inquired.objection, Some(NoAnswer::NoChoice { .. })) {
            self.wrong(format!("{} {} is said to be {:?}", inquired.run, inquired.call, inquired.objection));
        }
        words.is_there.then(|| {
            self.state().live_through("answered there");
            words.answer.to_owned()
        })
    }
}

impl Process<'_> {
    /// Answers what a parked run asks. Sometimes two want to at once, and say different things: one of them is too late.
    pub(super) async fn answer_at_rest(&self, run: &RunPlan, past: &Past) -> Result<(), Error> {
        for (call, _) in past.state.awaiting_input() {
            let words = self.world.plan.words(&run.id, call);
            let first = self.host.answer(&run.id, Some(call.clone()), words.answer);
            if !words.mumbles {
                first.await?;
                self.world.state().live_through("answered at rest");
                continue;
            }
            let second = self.host.answer(&run.id, Some(call.clone()), words.other);
            let (first, second) = tokio::join!(biased; first, second);
            first?;
            match second {
                Err(Error::NoAnswer { why: NoAnswer::Answered(_), .. }) => {
                    self.world.state().live_through("answered too late");
                }
                Err(error) => return Err(error),
                Ok(_) => self.world.wrong(format!("run {} takes two answers to {call}", run.id)),
            }
        }
        Ok(())
    }

    /// Waits for the end of a run, and answers meanwhile what it asks, now and then.
    pub(super) async fn answering<T>(&self, run: &RunPlan, controls: Controls, waits: impl Future<Output = T>) -> T {
        let answers = async {
            let mut draw = self.world.plan.draw("looks", &run.id, &self.world.state().number);
            for _ in 0..LOOKS {
                sleep(draw.millis(1_500)).await;
                self.answer_under_way(run, &controls).await;
            }
            std::future::pending().await
        };
        if !self.world.plan.network.tools.contains_key(TOOL) {
            return waits.await;
        }
        tokio::select! {
            biased;
            done = waits => done,
            () = answers => unreachable!("it waits for ever"),
        }
    }

    async fn answer_under_way(&self, run: &RunPlan, controls: &Controls) {
        let asked: Vec<CallId> = {
            let state = self.world.state();
            let on_disk = state.disk.as_ref().and_then(|disk| disk.runs.get(&run.id));
            let calls = on_disk.into_iter().flat_map(|on_disk| on_disk.fold.run.awaiting_input());
            calls.map(|(call, _)| call.clone()).collect()
        };
        for call in asked {
            let words = self.world.plan.words(&run.id, &call);
            let first = controls.answer(Some(call.clone()), words.answer);
            let second = controls.answer(Some(call.clone()), words.other);
            let (first, second) = tokio::join!(biased; first, second);
            let mut state = self.world.state();
            if first.is_ok() {
                state.live_through("answered under way");
            }
            match second {
                Ok(_) => state.blame(format!("run {} takes two answers to {call}", run.id)),
                Err(NoAnswer::Answered(_)) => state.live_through("answered too late"),
                // It has ended, or its agent has.
                Err(_) => {}
            }
        }
    }
}

/// A question is put once, and takes one answer, the one that was given; its agent hears that one.
pub(super) fn answers(plan: &Plan, run: &RunPlan, on_disk: &OnDisk) -> Result<(), String> {
    let mut asked: BTreeMap<&CallId, Option<&str>> = BTreeMap::new();
    for envelope in &on_disk.events {
        let seq = envelope.seq;
        match &envelope.event {
            Event::InputRequested { call, .. } if asked.insert(call, None).is_some() => {
                return Err(format!("{call} is asked a second time, at {seq}"));
            }
            Event::InputGiven { call, text } => match asked.get_mut(call) {
                None => return Err(format!("{call} is answered at {seq}, and asks nothing")),
                Some(Some(_)) => return Err(format!("{call} is answered a second time, at {seq}")),
                Some(_) if **text != *plan.words(&run.id, call).answer => {
                    return Err(format!("{call} is answered with {text} at {seq}"));
                }
                Some(answer) => *answer = Some(text),
            },
            Event::ToolReturned { call, message, failure: None } => match asked.get(call) {
                Some(answer) if *answer != Some(message.text()) => {
                    return Err(format!("{call} hears {} at {seq}, and was told {answer:?}", message.text()));
                }
                _ => {}
            },
            _ => {}
        }
    }
    Ok(())
}
