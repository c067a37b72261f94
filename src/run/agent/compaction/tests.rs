//! Random lives of an agent whose transcript is kept within a bound, and what is done to it.

use proptest::prelude::*;

use super::super::tests::{Life, definition};
use super::super::{ToolCall, take_up, tool_message};
use super::*;
use crate::budget::Amount;
use crate::run::ToolFailure;
use crate::spec::{ModelChoice, ModelRule};

fn rules(at_tokens: u64) -> Compaction {
    Compaction { at_tokens, keep_steps: 2, model: "small".into(), move_out_over_bytes: 400 }
}

fn life(rules: Compaction) -> Life {
    Life::begin_as(Definition { compaction: Some(rules), max_steps: 1_000, ..definition() })
}

/// What a model does that is asked for a summary.
#[derive(Clone, Debug)]
enum Sums {
    Up(usize),
    Fails,
    IsWithheld,
}

fn summarises(life: &mut Life, sums: &Sums) {
    let call = life.model.take().unwrap();
    assert!(call.is_compaction, "{call}");
    let reply = |text: String, finish| Event::ModelReplied {
        call: call.clone(),
        message: Arc::new(Message {
            body: Body::Assistant { text, tool_calls: Vec::new() },
            labels: Labels::default(),
            origin: Origin::Model("small".to_owned()),
        }),
        finish,
        malformed: None,
        usage: None,
        covers: life.covers,
        charged: Amount::default(),
    };
    let event = match sums {
        Sums::Up(bytes) => reply("s".repeat(*bytes), Finish::Stop),
        Sums::IsWithheld => reply("s".to_owned(), Finish::Filtered),
        Sums::Fails => {
            Event::ModelFailed { call, error: "it is down".to_owned(), charged: Amount::default(), denied: false }
        }
    };
    life.happen(event);
}

/// Lets the agent take one step, which calls a tool that says this much.
fn step(life: &mut Life, bytes: usize) {
    let call = life.model.take().unwrap();
    life.model_says(call, &[(0, true)]);
    let call = life.calls.pop().unwrap();
    life.tool_says_so(call.clone(), format!("{call}\n{}", "x".repeat(bytes)));
}

fn compacted(life: &Life) -> Vec<(u32, u32, Option<&str>)> {
    let one = |envelope| match envelope {
        &crate::run::Envelope { event: Event::Compacted { from, upto, ref lost, .. }, .. } => {
            Some((from, upto, lost.as_deref()))
        }
        _ => None,
    };
    life.events.iter().filter_map(one).collect()
}

proptest! {
    /// Whatever happens: what is sent is one that a provider takes, fits, and begins with the task; a fold of the stored events
    /// wants the very same; and only what can't fit ends the agent.
    #[test]
    fn what_is_sent_is_whole_and_within_its_bound(
        at_tokens in 150u64..1_500,
        keep_steps in 1usize..5,
        move_out_over_bytes in 200usize..2_000,
        steps in prop::collection::vec(prop::collection::vec(0usize..3_000, 1..4), 1..25),
        sums in prop::collection::vec(
            prop_oneof![(0usize..1_000).prop_map(Sums::Up), Just(Sums::Fails), Just(Sums::IsWithheld)], 1..8,
        ),
        told in prop::collection::vec(any::<bool>(), 64),
        past in prop::collection::vec("[a-z ]{0,300}", 0..6),
    ) {
        let rules_of_life = Compaction { at_tokens, keep_steps, model: "small".into(), move_out_over_bytes };
        let definition_of_life = Definition { compaction: Some(rules_of_life), max_steps: 1_000, ..definition() };
        let mut life = Life::begin_after(&past, definition_of_life);
        let (mut sums, mut told) = (sums.into_iter().cycle(), told.into_iter());
        for results in steps {
            while life.model.as_ref().is_some_and(|call| call.is_compaction) {
                prop_assert!(estimated_tokens(&life.sent) <= at_tokens, "{}", estimated_tokens(&life.sent));
                let (folded, wanted) = life.folded();
                prop_assert_eq!(&folded, &life.state);
                prop_assert_eq!(Some(&wanted[..]), life.model.as_ref().map(std::slice::from_ref));
                if told.next().unwrap_or_default() {
                    let body = Body::User { text: "hear".to_owned() };
                    let message = Arc::new(Message { body, labels: Labels::default(), origin: Origin::Person });
                    life.happen(Event::Steered { message });
                }
                summarises(&mut life, &sums.next().unwrap());
            }
            if let Some(end) = &life.end {
                let is_limit = matches!(end, AgentOutcome::Limit { limit, .. } if limit == "at_tokens");
                prop_assert!(is_limit, "{:?}", end);
                // No more than the last step is left, and that is too much.
                let last = life.state.transcript.iter().rposition(|message| matches!(message.body, Body::Assistant { .. }));
                let last = last.unwrap_or(life.state.past);
                prop_assert!(estimated_tokens(&life.state.transcript[last..]) + 200 > at_tokens);
                prop_assert!(life.state.past <= 1);
                prop_assert_eq!(take_up(&Definition { compaction: Some(rules(at_tokens)), ..definition() }, &life.state).len(), 1);
                return Ok(());
            }
            prop_assert!(estimated_tokens(&life.sent) <= at_tokens, "{}", estimated_tokens(&life.sent));
            prop_assert!(life.sent.iter().take(past.len() + 1).any(|message| message.text() == "go"));
            let (folded, wanted) = life.folded();
            prop_assert_eq!(&folded, &life.state);
            prop_assert_eq!(Some(&wanted[..]), life.model.as_ref().map(std::slice::from_ref));
            let call = life.model.take().unwrap();
            life.model_says(call, &vec![(0, true); results.len()]);
            for bytes in results {
                let call = life.calls.pop().unwrap();
                life.tool_says_so(call, "line\n".repeat(bytes / 5));
            }
        }
    }

    #[test]
    fn shares_use_the_room_and_no_more(lengths in prop::collection::vec(0usize..500, 1..30), most in 0usize..5_000) {
        let share = share(lengths.iter().copied(), most);
        let taken: usize = lengths.iter().map(|length| (*length).min(share)).sum();
        let between = lengths.len() * 5;
        prop_assert!(share == 0 || taken <= most, "{} of {}", taken, most);
        prop_assert!(share == usize::MAX || taken + between + lengths.len() >= most.min(lengths.iter().sum()));
    }
}

#[test]
fn an_agent_without_rules_sends_all_that_was_said() {
    let mut life = Life::begin_as(Definition { max_steps: 1_000, ..definition() });
    (0..30).for_each(|_| step(&mut life, 5_000));
    assert_eq!((life.sent.len(), compacted(&life).len()), (61, 0));
}

#[test]
fn long_results_of_older_steps_are_moved_out_first_and_nothing_is_recorded() {
    let mut life = life(rules(5_000));
    (0..6).for_each(|_| step(&mut life, 3_000));
    let results: Vec<&str> = life.sent.iter().map(|message| message.text()).filter(|text| text.contains('#')).collect();
    let is_whole: Vec<bool> = results.iter().map(|result| result.len() > 3_000).collect();
    assert_eq!(is_whole, [false, false, false, false, true, true]);
    let out = "one#1.0\n[7 of 3008 bytes are shown; `read_again` reads the rest, handle s00010000, from byte 7]";
    assert_eq!(results[0], out);
    assert_eq!(compacted(&life), []);
    assert_eq!(life.state.transcript()[2].text().len(), 3_008, "the fold has all of it");
}

#[test]
fn a_summary_takes_the_place_of_all_but_the_task_and_the_last_steps() {
    let mut life = life(Compaction { move_out_over_bytes: 4_000, ..rules(1_000) });
    let mut labels = Labels::default();
    labels.add("private");
    let call = life.model.take().unwrap();
    life.model_says(call, &[(0, true)]);
    let call = life.calls.pop().unwrap();
    let message =
        tool_message(&call, "tool", "secret".to_owned(), false, labels.clone(), Origin::Tool("tool".to_owned()));
    life.happen(Event::ToolReturned { call, message, failure: None });
    (0..3).for_each(|_| step(&mut life, 900));
    let told = life.sent[0].text();
    assert_eq!(life.model.as_ref().unwrap().to_string(), "one#5c");
    assert!(
        told.starts_with("Task: go\n\nThe agent calls tool: {\"n\": 1}\n\ntool returns, handle s00010000: secret"),
        "{told}"
    );
    assert!(!told.contains("one#4.0"), "the last steps are none of it");
    assert_eq!(life.sent[0].labels, labels);
    summarises(&mut life, &Sums::Up(30));
    assert_eq!(life.model.as_ref().unwrap().to_string(), "one#5");
    let [task, summary, ..] = &life.sent[..] else { panic!("{:?}", life.sent) };
    assert_eq!(task.text(), "go");
    assert!(summary.text().starts_with(SUMMARY) && summary.text().ends_with(&"s".repeat(30)));
    assert_eq!((&summary.labels, &summary.origin), (&labels, &Origin::Model("small".to_owned())));
    assert!(life.sent.last().unwrap().text().starts_with("one#4.0"));

    // The summary is part of what is summarised next.
    while !life.model.as_ref().unwrap().is_compaction {
        step(&mut life, 700);
    }
    assert!(life.sent[0].text().contains(&format!("The agent is told: {SUMMARY}")));
    summarises(&mut life, &Sums::Up(40));
    let summaries = life.sent.iter().filter(|message| message.text().starts_with(SUMMARY)).count();
    assert_eq!((summaries, compacted(&life).len()), (1, 2));
}

#[test]
fn without_a_summary_the_oldest_steps_are_left_out_and_it_is_said_why() {
    let too_long = Sums::Up(100_000);
    for (sums, why) in [
        (&Sums::Fails, "there is no summary of them: it is down"),
        (&Sums::Up(0), "there is no summary of them: it was empty"),
        (&Sums::IsWithheld, "there is no summary of them: its provider withheld it"),
        (&too_long, "there is no summary of them: it was not shorter than they are"),
    ] {
        let mut life = life(Compaction { move_out_over_bytes: 4_000, ..rules(1_000) });
        while !life.model.as_ref().unwrap().is_compaction {
            step(&mut life, 700);
        }
        summarises(&mut life, sums);
        assert_eq!(compacted(&life), [(1, 7, Some(why))]);
        let note = life.sent[1].text();
        assert_eq!(
            note,
            format!("[Older steps were left out here. The last result among them: `read_again`, handle s00030000.]")
        );
        assert_eq!(life.sent.len(), 4, "the task, the note, and what is left");

        // There is one note, however often that happens.
        for _ in 0..10 {
            step(&mut life, 700);
            if life.model.as_ref().unwrap().is_compaction {
                summarises(&mut life, sums);
            }
        }
        let notes = life.sent.iter().filter(|message| message.text().starts_with("[Older steps")).count();
        assert_eq!((notes, life.end.is_none()), (1, true));
    }
}

#[test]
fn what_was_asked_and_the_last_step_have_to_fit() {
    let mut life = life(rules(300));
    step(&mut life, 5_000);
    assert_eq!(life.end, None, "what takes too much of the last step is moved out as well");
    assert!(life.sent.last().unwrap().text().starts_with("one#1.0\n[7 of 5008 bytes are shown"));
    let call = life.model.take().unwrap();
    life.model_says(call, &[(0, true); 6]);
    while let Some(call) = life.calls.pop() {
        life.tool_says_so(call, "x".repeat(5_000));
    }
    summarises(&mut life, &Sums::Fails);
    let Some(AgentOutcome::Limit { limit, reason }) = &life.end else { panic!("{:?}", life.end) };
    assert_eq!(limit, "at_tokens");
    assert!(reason.contains("agent `one`") && reason.ends_with("compaction.at_tokens = 300"), "{reason}");
}

#[test]
fn what_was_said_before_the_task_is_summed_up_too_and_the_task_stays() {
    let past: Vec<String> = (0..8).map(|number| format!("{number} {}", "p".repeat(400))).collect();
    let compacts = || Definition { compaction: Some(rules(600)), max_steps: 1_000, ..definition() };
    let mut life = Life::begin_after(&past, compacts());
    assert_eq!((life.covers, life.model.as_ref().unwrap().is_compaction), (Some((0, 8)), true));
    let told = life.sent[0].text();
    assert!(told.starts_with("Task: go\n\nThe agent is told: 0 ppp") && told.contains("told: 7 pp"), "{told}");
    summarises(&mut life, &Sums::Up(30));
    assert!(life.sent[0].text().starts_with(SUMMARY));
    assert_eq!((life.sent[1].text(), life.sent.len()), ("go", 2));
    (0..12).for_each(|_| {
        step(&mut life, 300);
        if life.model.as_ref().unwrap().is_compaction {
            summarises(&mut life, &Sums::Up(40));
        }
        assert!(life.sent[0].text().starts_with(SUMMARY));
        assert_eq!(life.sent[1].text(), "go");
    });

    let mut life = Life::begin_after(&past, compacts());
    summarises(&mut life, &Sums::Fails);
    assert_eq!(compacted(&life), [(0, 8, Some("there is no summary of them: it is down"))]);
    assert_eq!(life.sent[0].text(), "[What was said before this was left out here.]");
    assert_eq!((life.sent[1].text(), life.sent.len()), ("go", 2));
}

#[test]
fn a_summary_stands_for_what_it_was_asked_to_cover_by_whatever_rules() {
    let mut life = life(Compaction { keep_steps: 3, move_out_over_bytes: 4_000, ..rules(1_000) });
    while !life.model.as_ref().unwrap().is_compaction {
        step(&mut life, 700);
    }
    let covers = life.covers.unwrap();
    life.change_rules(Compaction { keep_steps: 1, move_out_over_bytes: 4_000, ..rules(1_000) });
    summarises(&mut life, &Sums::Up(30));
    assert_eq!(compacted(&life), [(covers.0, covers.1, None)]);
}

#[test]
fn a_summary_that_was_cut_off_says_so() {
    assert_eq!(summary(" half ", Finish::Length).unwrap(), "half\n[The summary was cut off here.]");
}

#[test]
fn a_reply_of_another_time_is_no_summary_and_a_cut_beyond_the_end_changes_nothing() {
    let mut life = life(rules(5_000));
    let call = life.model.take().unwrap();
    life.model_says(call.clone(), &[(0, true)]);
    let before = life.state.clone();
    life.state.take_summary(&CallId::compaction(&call.agent, 1), Ok("s".to_owned()), None);
    let note = tool_message(&call, "t", String::new(), false, Labels::default(), Origin::Runtime);
    life.state.compact(0..1, &note);
    assert_eq!(life.state, before, "its tools are at work");
    let call = life.calls.pop().unwrap();
    life.happen(Event::ToolReturned {
        message: tool_message(&call, "t", String::new(), true, Labels::default(), Origin::Runtime),
        call,
        failure: Some(ToolFailure::Failed),
    });
    let before = life.state.clone();
    life.state.compact(2..9, &note);
    assert_eq!(life.state, before);
}

#[test]
fn the_longest_parts_of_what_is_summarised_are_cut() {
    let long = ToolCall { name: "write".to_owned(), arguments: "a".repeat(10_000) };
    let body = Body::Assistant { text: "short".to_owned(), tool_calls: vec![("s00010000".to_owned(), long)] };
    let parts = told(&Arc::new(Message { body, labels: Labels::default(), origin: Origin::Runtime }));
    let share = share(parts.iter().map(String::len), 1_000);
    let cut: Vec<String> = parts.iter().map(|part| excerpt(part, share)).collect();
    assert_eq!(cut[0], "The agent says: short");
    assert!(cut[1].ends_with("a…") && cut.iter().map(String::len).sum::<usize>() <= 1_000, "{}", cut[1].len());
}

#[test]
fn what_binds_the_agent_to_a_model_binds_what_is_told_of_it() {
    let rule = ModelRule { model: "local".to_owned(), label: Some("private".to_owned()), ..ModelRule::default() };
    let binds = || Definition {
        compaction: Some(rules(600)),
        max_steps: 1_000,
        choice: ModelChoice { when: vec![rule.clone()], ..ModelChoice::new("m") },
        ..definition()
    };
    for (label, expected) in [("private", "local"), ("public", "small")] {
        let mut life = Life::begin_as(binds());
        let summariser = |life: &Life| match &take_up(&binds(), &life.state)[..] {
            [Effect::Summarise { model, .. }] => Some(model.to_string()),
            _ => None,
        };
        while summariser(&life).is_none() {
            let call = life.model.take().unwrap();
            life.model_says(call, &[(0, true)]);
            let call = life.calls.pop().unwrap();
            let mut labels = Labels::default();
            labels.add(label);
            let message = tool_message(&call, "tool", "x".repeat(300), false, labels, Origin::Tool("tool".to_owned()));
            life.happen(Event::ToolReturned { call, message, failure: None });
        }
        assert_eq!(summariser(&life).as_deref(), Some(expected));
    }
}
