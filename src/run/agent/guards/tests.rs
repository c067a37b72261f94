//! Lives of agents that get on, and of such that do not.

use proptest::prelude::*;

use super::super::tests::{Life, definition};
use super::*;
use crate::budget::Amount;
use crate::model::Finish;
use crate::run::{AgentId, CallId, Event, ToolCall, tool_message};

fn guards() -> Guards {
    Guards {
        same_call: Some(3),
        nothing_new: Some(5),
        transcript_tokens: None,
        waits: ["sleep".to_owned()].into(),
        not_counted: ["now".to_owned()].into(),
    }
}

/// An agent to which all is offered that its model calls in these tests.
fn watched(guards: Guards) -> Life {
    let mut definition = definition();
    for name in ["sleep", "now", "look"] {
        let validator = definition.targets["tool"].validator.clone();
        let kind = crate::run::TargetKind::Tool(name.into());
        definition.targets.insert(name.to_owned(), crate::run::Target { kind, validator });
    }
    Life::begin_as(Definition { guards, max_steps: 1_000, ..definition })
}

/// One step: its model makes calls, and each has its result.
fn step(life: &mut Life, calls: &[(&str, u32, &str)]) {
    let Some(call) = life.model.take() else { return };
    let one = |(index, (name, n, _)): (usize, &(&str, u32, &str))| {
        let id = CallId::tool(&AgentId::new("one"), call.step, index as u32).in_transcript();
        (id, ToolCall { name: (*name).to_owned(), arguments: format!("{{\"n\": {n}}}") })
    };
    let tool_calls = calls.iter().enumerate().map(one).collect();
    let body = Body::Assistant { text: String::new(), tool_calls };
    let message = Arc::new(Message { body, labels: Labels::default(), origin: Origin::Model("m".to_owned()) });
    let (finish, malformed, usage, charged) = (Finish::Stop, None, None, Amount::default());
    life.happen(Event::ModelReplied { call, message, finish, malformed, usage, charged, covers: None });
    for (call, (name, _, said)) in std::mem::take(&mut life.calls).into_iter().zip(calls) {
        let origin = Origin::Tool((*name).to_owned());
        let message = tool_message(&call, name, (*said).to_owned(), false, Labels::default(), origin);
        life.happen(Event::ToolReturned { call, message, failure: None });
    }
}

fn warnings(life: &Life) -> Vec<Guard> {
    let guard = |event: &Event| match event {
        Event::Warned { guard, .. } => Some(*guard),
        _ => None,
    };
    life.events.iter().filter_map(|envelope| guard(&envelope.event)).collect()
}

fn limit(life: &Life) -> Option<(&str, &str)> {
    match &life.end {
        Some(AgentOutcome::Limit { limit, reason }) => Some((limit, reason)),
        _ => None,
    }
}

#[test]
fn the_same_call_is_told_of_and_then_ends_the_agent() {
    let mut life = watched(guards());
    for _ in 0..2 {
        step(&mut life, &[("look", 1, "pending")]);
    }
    assert_eq!(warnings(&life), []);
    step(&mut life, &[("look", 1, "pending")]);
    assert_eq!(warnings(&life), [Guard::SameCall]);
    let told = life.state.transcript().last().unwrap().text().to_owned();
    assert!(told.starts_with("You have made the same call of `look` 3 times, and it came to the same"), "{told}");
    for _ in 0..2 {
        step(&mut life, &[("look", 1, "pending")]);
        assert_eq!(limit(&life), None);
    }
    step(&mut life, &[("look", 1, "pending")]);
    let (limit, reason) = limit(&life).unwrap();
    assert_eq!(limit, "same_call");
    assert_eq!(
        reason,
        "agent `one` has made the same call of `look` 3 times, and it came to the same each time, again after it was told so \
         (guards.same_call = 3)"
    );
}

#[test]
fn what_finds_something_new_is_no_runaway() {
    // A poll that gives something else; one that waits in between; and work between two looks.
    let mut life = watched(guards());
    for n in 0..20 {
        step(&mut life, &[("look", 1, &format!("at {n} percent"))]);
    }
    for _ in 0..10 {
        step(&mut life, &[("look", 2, "pending")]);
        step(&mut life, &[("sleep", 1, "slept")]);
    }
    for n in 0..10 {
        step(&mut life, &[("tool", n, "written")]);
        step(&mut life, &[("look", 3, "1 test fails")]);
    }
    assert_eq!((warnings(&life), life.end.clone()), (Vec::new(), None));
}

#[test]
fn a_circle_of_calls_brings_nothing_new() {
    let mut life = watched(Guards { same_call: None, ..guards() });
    for n in 0..30 {
        step(&mut life, &[("look", n % 4, "seen"), ("now", 1, &n.to_string())]);
        assert_eq!(life.end.is_some(), n >= 13, "after step {}", n + 1);
    }
    assert_eq!(warnings(&life), [Guard::NothingNew]);
    assert_eq!(limit(&life).unwrap().0, "nothing_new");
}

#[test]
fn what_a_person_says_begins_the_count_anew() {
    let mut life = watched(guards());
    for round in 0..6 {
        for _ in 0..2 {
            step(&mut life, &[("look", 1, "pending")]);
        }
        let body = Body::User { text: format!("go on, {round}") };
        life.happen(Event::Asked {
            message: Arc::new(Message { body, labels: Labels::default(), origin: Origin::Person }),
        });
        // It was asked while its model was next.
        life.model = Some(CallId::model(&AgentId::new("one"), life.state.step() + 1));
    }
    assert_eq!((warnings(&life), life.end.clone()), (Vec::new(), None));
}

#[test]
fn the_order_of_keys_makes_no_other_call() {
    let value = |text| sorted(serde_json::from_str(text).unwrap()).to_string();
    assert_eq!(value(r#"{"b": [{"d": 1, "c": 2}], "a": 0}"#), value(r#"{"a":0,"b":[{"c":2,"d":1}]}"#));
}

#[test]
fn a_transcript_that_grows_is_told_of_and_then_ends_the_agent() {
    let mut life = watched(Guards { transcript_tokens: Some(10_000), ..guards() });
    for n in 0..20 {
        step(&mut life, &[("look", n, &"x".repeat(3_000))]);
    }
    assert_eq!(warnings(&life), [Guard::TranscriptTokens]);
    assert_eq!((limit(&life).unwrap().0, life.state.step()), ("transcript_tokens", 10));
}

#[test]
fn guards_that_are_off_let_everything_pass() {
    let mut life = watched(Guards::default());
    for _ in 0..50 {
        step(&mut life, &[("look", 1, "pending")]);
    }
    assert_eq!((warnings(&life), life.end.clone()), (Vec::new(), None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever else it calls: as long as each step brings one thing that is new, nothing strikes.
    #[test]
    fn who_always_finds_something_new_is_left_alone(
        steps in prop::collection::vec(prop::collection::vec((0u32..3, 0u8..2), 0..4), 1..60),
    ) {
        let mut life = watched(Guards { same_call: Some(2), nothing_new: Some(1), ..guards() });
        for (n, calls) in steps.iter().enumerate() {
            let said: Vec<String> = calls.iter().map(|(_, said)| said.to_string()).collect();
            let mut calls: Vec<_> = calls.iter().zip(&said).map(|((of, _), said)| ("look", *of, said.as_str())).collect();
            calls.push(("tool", n as u32, "done"));
            step(&mut life, &calls);
            prop_assert_eq!(life.end.clone(), None);
        }
        prop_assert_eq!(warnings(&life), Vec::new());
    }

    /// Nobody goes on for ever with what is known, and nobody is stopped who was not told.
    #[test]
    fn who_finds_nothing_new_is_told_and_then_stopped(
        steps in prop::collection::vec(prop::collection::vec((0u32..3, 0u8..2), 1..4), 60),
    ) {
        let mut life = watched(guards());
        for calls in &steps {
            let said: Vec<String> = calls.iter().map(|(_, said)| said.to_string()).collect();
            let calls: Vec<_> = calls.iter().zip(&said).map(|((of, _), said)| ("look", *of, said.as_str())).collect();
            step(&mut life, &calls);
        }
        let (folded, _) = life.folded();
        prop_assert_eq!(&folded, &life.state);
        // There are six things to be found out, and so no more than as many times at which the count begins anew.
        prop_assert!(life.end.is_some());
        let (limit, _) = limit(&life).unwrap();
        prop_assert!(warnings(&life).iter().any(|guard| guard.word() == limit));
        prop_assert!(life.state.step() <= 7 * 10);
    }
}
