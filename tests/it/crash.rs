//! A run that dies at each named point, and is taken up again: what was under way just then goes on by the rule of its
//! class, and nothing else is touched.

#![cfg(debug_assertions)]

use crate::world::{Ended, Money, Seen, Stage, Story, Told, World};

/// One agent that acts twice in each class, one thing at a time: pure, idempotent, once, and again.
const STEPS: &str = r#"
[network]
name = "steps"
entry = "a"
[network.limits]
tokens = 100_000
cost_usd = 5.0
[models.m]
provider = "sim"
max_output_tokens = 300
price = { input_usd_per_mtok = 1.3, output_usd_per_mtok = 7.0 }
[agents.a]
prompt = "You act."
tools = ["pure", "idempotent", "once"]
@TOOLS@
[sim.script]
a = ['{"calls": [{"name": "pure", "arguments": {"argv": ["@LEDGER@", "pure"]}}]}',
     '{"calls": [{"name": "idempotent", "arguments": {"argv": ["@LEDGER@", "idempotent"]}}]}',
     '{"calls": [{"name": "once", "arguments": {"argv": ["@LEDGER@", "once"]}}]}',
     '{"calls": [{"name": "pure", "arguments": {"argv": ["@LEDGER@", "pure"]}}]}',
     '{"calls": [{"name": "idempotent", "arguments": {"argv": ["@LEDGER@", "idempotent"]}}]}',
     '{"calls": [{"name": "once", "arguments": {"argv": ["@LEDGER@", "once"]}}]}',
     '{{ input }}: {{ all_results | map(attribute="content.stdout") | join("; ") }}']
"#;

/// What it answers.
const STEPS_ANSWER: &str = "go: pure of a#1.0; idempotent of a#2.0; once of a#3.0; pure of a#4.0; idempotent of a#5.0; \
                            once of a#6.0";

/// Two agents, each of which acts once; few enough steps to die at each commit.
const TWO: &str = r#"
[network]
name = "two"
entry = "a"
[models.m]
provider = "sim"
price = { input_usd_per_mtok = 1.3, output_usd_per_mtok = 7.0 }
[agents.a]
prompt = "You act."
tools = ["once"]
delegates_to = ["b"]
[agents.b]
prompt = "You help."
tools = ["idempotent"]
[tools.idempotent]
builtin = "process.run"
allow = ["@LEDGER@"]
effect = "idempotent"
[tools.once]
builtin = "process.run"
allow = ["@LEDGER@"]
effect = "once"
[policy]
default = "allow"
[sim.script]
a = ['''{"calls": [{"name": "once", "arguments": {"argv": ["@LEDGER@", "once"]}},
                   {"name": "ask_b", "arguments": {"message": "help"}}]}''',
     '{{ input }}: {{ results[0].content.stdout }}; {{ results[1].content }}']
b = ['{"calls": [{"name": "idempotent", "arguments": {"argv": ["@LEDGER@", "idempotent"]}}]}',
     '{{ results[0].content.stdout }}']
"#;

/// What they answer.
const TWO_ANSWER: &str = "go: once of a#1.0; idempotent of a/b.1.1#1.0";

/// Runs the network with a point at which it dies, if it comes to it.
fn run(world: &World, point: &str) -> Ended {
    let ended = world.start(&["run", "n.toml", "go"], &[("PROVOST_CRASH_AT", point)], None).end();
    // A tool does not die with the process that started it.
    world.settle(false);
    ended
}

fn only(seen: &Seen) -> (&str, &Story) {
    assert_eq!(seen.stories.len(), 1);
    seen.stories.iter().map(|(run, story)| (run.as_str(), story)).next().unwrap()
}

fn call<'a>(seen: &'a Seen, call: &str) -> Option<&'a Told> {
    only(seen).1.calls.get(call)
}

/// Takes the run up again, which ends or is parked in doubt as expected; if so, says what became of the call and takes
/// it up once more. Returns what is there at the end.
fn go_on(world: &World, verb: &[&str], is_in_doubt: bool, answer: &str) -> Seen {
    if is_in_doubt {
        world.ask_for(7, verb);
        assert_eq!(world.runs()[0]["status"], "in_doubt");
        assert_eq!(world.resolve_all(&world.look()), 1);
    }
    world.ask_for(0, verb);
    let seen = world.look();
    world.check_end(&seen, |_| answer.to_owned());
    seen
}

/// Dies at a point of the gate at its `nth` passing by a call of the class, and goes on.
fn dies(place: &str, class: &str, nth: u64, uncut: Money) {
    let point = format!("gate.{place}.{class}@{nth}");
    let world = World::new(STEPS);
    let died = run(&world, &point);
    assert!(died.was_killed(), "{point} was not passed");
    let step = match class {
        "model" => nth,
        "pure" => 3 * nth - 2,
        "idempotent" => 3 * nth - 1,
        _ => 3 * nth,
    };
    let is_model = class == "model";
    let id = if is_model { format!("a#{step}") } else { format!("a#{step}.0") };
    let left = world.look();
    if left.stories.is_empty() {
        // The first call may come so far before the run's beginning is durable; nobody has been told of it then.
        assert_eq!((place, class, nth), ("before_intent", "model", 1));
        return assert!(!died.stderr.contains("run "), "{point}: a run that was said is lost: {}", died.stderr);
    }
    let intents = call(&left, &id).map_or(0, |told| told.intents);
    match (place, class) {
        ("before_intent", _) => assert_eq!(intents, 0, "{point}"),
        // What changes nothing may be forgotten.
        (_, "pure") => assert!(intents <= 1, "{point}"),
        _ => assert_eq!(intents, 1, "{point}"),
    }
    let made_before = u64::from(place == "after_effect");
    let times = |seen: &Seen, of: &str| {
        let key = |class: &str| (class.to_owned(), format!("{}/{of}", only(seen).0));
        ["pure", "idempotent", "once"].iter().filter_map(|class| seen.deeds.get(&key(class))).sum::<u64>()
    };
    if !is_model {
        assert_eq!(times(&left, &id), made_before, "{point}");
    }

    let is_in_doubt = class == "once" && place != "before_intent";
    let verb: &[&str] = if nth == 1 { &["runs", "resume", "last"] } else { &["runs", "resume", "--all"] };
    let seen = go_on(&world, verb, is_in_doubt, STEPS_ANSWER);
    for other in 1..=6 {
        let other = format!("a#{other}.0");
        // A result that nothing else had followed may have died with the process.
        let was_cut = call(&left, &other).is_none_or(|told| told.stage == Stage::Intended && told.class != "once");
        let again = if was_cut { times(&left, &other) } else { 0 };
        assert!(again == 0 || other == id || is_model, "{point}: {other}");
        assert_eq!(times(&seen, &other), 1 + again, "{point}: {other}");
    }
    assert_eq!(only(&seen).1.doubts(), u64::from(is_in_doubt), "{point}");

    // What was cut after its intent is charged as it was reserved, once, and then what the next try costs.
    let held = only(&left).1.calls.values().map(|told| told.held);
    let held: Vec<Money> = held.filter(|&held| held != Money::default()).collect();
    assert!(held.len() <= 1, "{point}");
    match class {
        "model" if place != "before_intent" => assert_eq!(held, [call(&left, &id).unwrap().held], "{point}"),
        // Whatever came after the last durable intent may have died with the process: the answer that led here too.
        "model" | "pure" => {}
        _ => assert!(place == "before_intent" || held.is_empty(), "{point}"),
    }
    let charged = held
        .iter()
        .fold(uncut, |sum, held| Money { tokens: sum.tokens + held.tokens, nano_usd: sum.nano_usd + held.nano_usd });
    assert_eq!(only(&seen).1.charged, charged, "{point}");
    let cut: u64 = only(&seen).1.calls.values().map(|told| told.cut).sum();
    assert_eq!(cut, held.len() as u64, "{point}");
    assert!(only(&seen).1.calls.values().all(|told| told.stage == Stage::Over));
}

fn dies_everywhere(class: &str) {
    let world = World::new(STEPS);
    assert_eq!(world.ask_for(0, &["run", "n.toml", "go"]).trim_end(), STEPS_ANSWER);
    let uncut = only(&world.look()).1.charged;
    for place in ["before_intent", "after_intent", "after_effect"] {
        for nth in 1..=2 {
            dies(place, class, nth, uncut);
        }
    }
}

#[test]
fn a_model_call_is_asked_again_and_what_was_cut_is_charged_once() {
    dies_everywhere("model");
}

#[test]
fn a_pure_call_is_made_again() {
    dies_everywhere("pure");
}

#[test]
fn an_idempotent_call_is_made_again_under_its_key() {
    dies_everywhere("idempotent");
}

#[test]
fn a_call_that_must_happen_once_is_in_doubt_from_its_intent_on() {
    dies_everywhere("once");
}

/// Dies at each passing of a point until the run gets through.
fn dies_at_each(point: &str) {
    let mut died = 0;
    loop {
        let world = World::new(TWO);
        let ended = run(&world, &format!("{point}@{}", died + 1));
        if !ended.was_killed() {
            assert_eq!((ended.code(), ended.stdout.trim_end()), (Some(0), TWO_ANSWER), "{}", ended.stderr);
            break;
        }
        died += 1;
        assert!(!ended.stdout.contains(TWO_ANSWER), "an answer is told when it is durable");
        if world.runs().is_empty() {
            assert!(!ended.stderr.contains("run "), "{point}@{died}: a run that was said is lost: {}", ended.stderr);
            continue;
        }
        if world.runs()[0]["status"] == "done" {
            world.check_end(&world.look(), |_| TWO_ANSWER.to_owned());
            continue;
        }
        let left = world.look();
        let cut = call(&left, "a#1.0").is_some_and(|told| told.stage == Stage::Intended);
        go_on(&world, &["runs", "resume", "--all"], cut, TWO_ANSWER);
    }
    assert!(died >= 5, "{point} was passed {died} times");
}

#[test]
fn a_run_that_dies_before_any_of_its_commits_ends_as_it_would_have() {
    dies_at_each("journal.before_sync");
}

#[test]
fn a_run_that_dies_after_any_of_its_commits_ends_as_it_would_have() {
    dies_at_each("journal.after_sync");
}
