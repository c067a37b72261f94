//! What a seed says of routes: which shape the work takes once the entry has answered, and what it comes to.

use std::collections::BTreeSet;

use provost::run::{AgentId, Event};
use provost::spec::{AgentSpec, Join, NetworkSpec, Permission, RoomAnswer, RoomSpec, RouteSpec, Span};

use super::disk::OnDisk;
use super::draw::Draw;
use super::expect::{FailsRun, Model, Outcome};
use super::person;

/// The agents that get work by routes alone.
const ROUTED: [&str; 3] = ["p", "q", "r"];

/// How many items a list has, turns a room, and rounds a loop.
const ITEMS: u32 = 3;
const TURNS: u32 = 3;
const ROUNDS: u32 = 2;

/// What becomes of the entry's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Nothing: it is the run's.
    None,
    Pipeline,
    Otherwise,
    All,
    /// All, for as long as one may wait.
    InTime,
    Any,
    Sinks,
    Each,
    Loop,
    /// A loop that comes to its bound, with no way on.
    Bounded,
    Vote,
    Topic,
    Room,
    Inner,
}

const SHAPES: [Shape; 13] = [
    Shape::Pipeline,
    Shape::Otherwise,
    Shape::All,
    Shape::InTime,
    Shape::Any,
    Shape::Sinks,
    Shape::Each,
    Shape::Loop,
    Shape::Bounded,
    Shape::Vote,
    Shape::Topic,
    Shape::Room,
    Shape::Inner,
];

fn route(from: &[&str], to: &[&str]) -> RouteSpec {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    RouteSpec { from: names(from), to: names(to), ..RouteSpec::default() }
}

fn joined(join: Join, from: &[&str], to: &[&str]) -> RouteSpec {
    RouteSpec { join: Some(join), ..route(from, to) }
}

/// Draws what becomes of the entry's answer.
pub(super) fn draw(spec: &mut NetworkSpec, draw: &mut Draw) -> Shape {
    if !draw.happens(40) {
        return Shape::None;
    }
    let shape = *draw.one_of(&SHAPES);
    let first = &spec.agents[0];
    let like = AgentSpec {
        model: first.model.clone(),
        tools: first.tools.clone(),
        restart: first.restart,
        ..AgentSpec::new("You are simulated.")
    };
    for name in ROUTED {
        spec.agents.insert(name.to_owned(), like.clone());
    }
    let when = |condition: &str, route: RouteSpec| RouteSpec { when: Some(condition.to_owned()), ..route };
    let fan_out = route(&["a"], &["p", "q"]);
    spec.routes = match shape {
        Shape::None => Vec::new(),
        Shape::Pipeline => vec![route(&["a"], &["p"]), route(&["p"], &["q"]), route(&["q"], &["r"])],
        Shape::Otherwise => vec![
            when("output == 'never'", route(&["a"], &["p"])),
            RouteSpec { otherwise: true, ..route(&["a"], &["q"]) },
            when("outputs.a == input", route(&["q"], &["p"])),
            when("visits == 0", route(&["q"], &["r"])),
        ],
        Shape::All => vec![fan_out, joined(Join::All, &["p", "q"], &["r"])],
        Shape::InTime => {
            // Nobody is waited for: a person may take longer than that.
            let waits = spec.policy.default == Permission::Ask || spec.tools.contains_key(person::TOOL);
            let timeout = (!waits).then(|| Span::from_millis(600_000));
            vec![fan_out, RouteSpec { timeout, ..joined(Join::All, &["p", "q"], &["r"]) }]
        }
        Shape::Any => vec![fan_out, joined(Join::Any, &["p", "q"], &["r"])],
        Shape::Sinks => vec![route(&["a"], &["p", "q", "r"])],
        Shape::Each => {
            let for_each = Some(format!("range({ITEMS})"));
            vec![RouteSpec { for_each, ..route(&["a"], &["p"]) }, joined(Join::All, &["p"], &["r"])]
        }
        Shape::Loop => vec![
            route(&["a"], &["p"]),
            route(&["p"], &["q"]),
            RouteSpec { max_visits: Some(ROUNDS - 1), ..route(&["q"], &["p"]) },
            RouteSpec { otherwise: true, ..route(&["q"], &["r"]) },
        ],
        Shape::Bounded => vec![
            route(&["a"], &["p"]),
            RouteSpec { max_visits: Some(ROUNDS), ..route(&["p"], &["q"]) },
            route(&["q"], &["p"]),
        ],
        Shape::Vote => vec![fan_out, joined(Join::Majority, &["p", "q"], &["r"])],
        Shape::Topic => vec![route(&["a"], &["#t"]), route(&["#t"], &["p"]), route(&["#t"], &["q"])],
        Shape::Room => vec![route(&["a"], &["room"]), route(&["room"], &["r"])],
        Shape::Inner => vec![route(&["a"], &["team"]), route(&["p"], &["q"]), route(&["team"], &["r"])],
    };
    let (room, flow) = (matches!(shape, Shape::Room), matches!(shape, Shape::Inner));
    if room {
        let members = vec!["p".to_owned(), "q".to_owned()];
        let room = RoomSpec { members, max_turns: TURNS, answer: RoomAnswer::Last, ..RoomSpec::default() };
        spec.agents
            .insert("room".to_owned(), AgentSpec { room: Some(room), restart: like.restart, ..AgentSpec::new("") });
    }
    if flow {
        spec.agents.insert(
            "team".to_owned(),
            AgentSpec { flow: Some("p".to_owned()), restart: like.restart, ..AgentSpec::new("") },
        );
    }
    let is_used = |name: &str| {
        let by_route = spec.routes.iter().any(|route| route.to.iter().any(|to| to == name));
        by_route || (room || flow) && name != "r"
    };
    let unused: Vec<&str> = ROUTED.into_iter().filter(|name| !is_used(name)).collect();
    unused.iter().for_each(|name| _ = spec.agents.shift_remove(*name));
    shape
}

/// Works out what a shape comes to: each agent's instance has an answer, or none. None if there are no routes.
pub(super) fn outcome(model: &Model<'_>, shape: Shape) -> Result<Option<Outcome>, FailsRun> {
    let agent = |id: &str| {
        let name = id.rsplit('/').next().and_then(|last| last.split(['@', '.']).next()).unwrap_or_default();
        model.agent(&AgentId::new(id), name)
    };
    // What one agent says in its turn is what the next one begins with, and an answer holds only who gives it.
    let last_of = |ids: &[&str]| {
        let mut last = None;
        for id in ids {
            last = agent(id)?;
            if last.is_none() {
                return Ok(None);
            }
        }
        Ok(last)
    };
    let came = match shape {
        Shape::None => return Ok(None),
        Shape::Pipeline => last_of(&["p", "q", "r"]),
        Shape::Otherwise => last_of(&["q", "r"]),
        Shape::All | Shape::InTime => last_of(&["p", "q", "r"]),
        Shape::Any | Shape::Vote => match (agent("p")?, agent("q")?) {
            (None, None) => Ok(None),
            _ => agent("r"),
        },
        Shape::Each => last_of(&["p.1", "p.2", "p.3", "r"]),
        Shape::Loop => last_of(&["p", "q", "p@2", "q@2", "r"]),
        Shape::Bounded => last_of(&["p", "q", "p@2", "q@2", "p@3"]),
        Shape::Sinks => together(&[("p", agent("p")?), ("q", agent("q")?), ("r", agent("r")?)]),
        Shape::Topic => together(&[("p", agent("p")?), ("q", agent("q")?)]),
        Shape::Room | Shape::Inner if model.is_given_up(if shape == Shape::Room { "room" } else { "team" }) => Ok(None),
        Shape::Room => last_of(&["room/p", "room/q", "room/p@2", "r"]),
        Shape::Inner => last_of(&["team/p", "team/q", "r"]),
    };
    came.map(Some)
}

fn together(answers: &[(&str, Outcome)]) -> Result<Outcome, FailsRun> {
    let section = |(name, answer): &(&str, Outcome)| answer.as_ref().map(|answer| format!("## {name}\n\n{answer}"));
    let sections: Option<Vec<String>> = answers.iter().map(section).collect();
    Ok(sections.map(|sections| sections.join("\n\n")))
}

/// A join that wants all goes on when all have ended, and nobody of whom it has no answer then goes on at anything.
pub(super) fn joins(shape: Shape, on_disk: &OnDisk) -> Result<(), String> {
    if !matches!(shape, Shape::All | Shape::InTime | Shape::Any | Shape::Each | Shape::Vote) {
        return Ok(());
    }
    let (mut at_work, mut joined, mut is_due) = (BTreeSet::new(), None, false);
    for envelope in &on_disk.events {
        let is_sender = |agent: &&AgentId| agent.as_str().starts_with(['p', 'q']);
        let Some(agent) = envelope.agent.as_ref().filter(is_sender) else {
            is_due |= matches!(envelope.event, Event::JoinDue { .. });
            if let Event::Joined { .. } = envelope.event {
                // Who is in doubt of a call may keep the others waiting for longer than that.
                let wants_all = !is_due && matches!(shape, Shape::All | Shape::InTime | Shape::Each);
                if let Some(agent) = at_work.iter().next().filter(|_| wants_all) {
                    return Err(format!("its join goes on at {}, and {agent} is at work", envelope.seq));
                }
                joined = Some(envelope.seq);
            }
            continue;
        };
        match (&envelope.event, joined) {
            (Event::AgentStarted { .. }, None) => _ = at_work.insert(agent.clone()),
            (Event::AgentEnded { .. }, _) => _ = at_work.remove(agent),
            (Event::AgentStarted { .. } | Event::CallIntended { .. }, Some(joined)) => {
                return Err(format!("{agent} goes on at {}, and its join has at {joined}", envelope.seq));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a shape comes to a bound, and ends the run with a limit.
pub(super) fn is_bounded(shape: Shape) -> bool {
    shape == Shape::Bounded
}
