//! What must hold when all is over, whatever went wrong on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use provost::budget::Amount;
use provost::journal;
use provost::run::{AgentId, Answer, Body, CallId, Event, Fold, RunEnd, Status, Usage};
use provost::runtime::{Past, Replayer, RunRequest};
use provost::tool::Effect;

use super::Lived;
use super::disk::{Disk, OnDisk};
use super::outside::Does;
use super::plan::{Disturbance, INPUT_NANO_USD, ModelFault, OUTPUT_NANO_USD, Plan, RunPlan, TOOLS};
use super::world::{Deed, State, World};
use super::{expect, failures, flows, person};

/// Returns all that is wrong.
pub(super) fn all(world: &Arc<World>) -> Vec<String> {
    let mut wrong = world.state().wrong.clone();
    if !wrong.is_empty() {
        return wrong;
    }
    if let Err(error) = journal::verify(&world.directory) {
        wrong.push(format!("the store is not whole: {error}"));
    }
    let tools = TOOLS.map(|(name, class)| (name, Does { world: world.clone(), name, class }));
    let replayer = tools.into_iter().fold(Replayer::new(), |replayer, (name, does)| replayer.tool(name, does));
    let mut state = world.state();
    let State { disk, lived, runs, billed, deeds, .. } = &mut *state;
    let Some(disk) = &*disk else { return vec!["there is no store".to_owned()] };
    for plan in &world.plan.runs {
        let Some(on_disk) = disk.runs.get(&plan.id) else {
            wrong.push(format!("run {} is not there", plan.id));
            continue;
        };
        let told = runs.get(&plan.id).and_then(|known| known.told);
        let found = [
            one_end(on_disk, told),
            end(world, plan, on_disk),
            calls(on_disk),
            agents(on_disk),
            snapshot(disk, plan, on_disk, lived),
            deadline(world, on_disk),
            bill(on_disk, billed.get(&plan.id).copied().unwrap_or_default()),
            charges(&world.plan, plan, on_disk),
            limit(world, on_disk),
            holds_still(on_disk),
            pauses(on_disk),
            flows::joins(world.plan.shape, on_disk),
            person::answers(&world.plan, plan, on_disk),
            failures::rejections(on_disk),
            failures::restarts(&world.plan, on_disk),
            failures::intensity(&world.plan, on_disk),
            failures::letters(&world.plan, on_disk),
            replays(&replayer, on_disk),
        ];
        wrong.extend(found.into_iter().filter_map(Result::err).map(|what| format!("run {}: {what}", plan.id)));
        if disk.mark(&plan.id) != Some((on_disk.status().word().to_owned(), true)) {
            wrong.push(format!("run {} is {:?}, and marked {:?}", plan.id, on_disk.status(), disk.mark(&plan.id)));
        }
    }
    for (key, deed) in deeds.iter() {
        if let Some(what) = done_as_recorded(disk, key, deed) {
            wrong.push(what);
        }
    }
    for tenant in ["one", "two", RunRequest::DEFAULT_TENANT] {
        let is_theirs = |run: &&OnDisk| run.fold.run.beginning().is_some_and(|began| &*began.stream.tenant == tenant);
        let of_runs = disk.runs.values().filter(is_theirs).map(|run| run.fold.run.spent());
        let (spent, entered) = (of_runs.fold(Amount::default(), Amount::plus), disk.ledger.spent_by(tenant));
        if spent != entered {
            wrong.push(format!("the runs of {tenant} have spent {spent:?}, and the ledger says {entered:?}"));
        }
    }
    wrong
}

/// A run has one end, it is the last event, and it is what somebody was told.
fn one_end(on_disk: &OnDisk, told: Option<Status>) -> Result<(), String> {
    let ends: Vec<(u64, &RunEnd)> = on_disk
        .events
        .iter()
        .filter_map(|envelope| match &envelope.event {
            Event::RunEnded { end, .. } if !end.status.is_parked() => Some((envelope.seq, end)),
            _ => None,
        })
        .collect();
    let [(seq, end)] = ends[..] else { return Err(format!("it has {} ends", ends.len())) };
    let head = on_disk.fold.run.head();
    if seq != head {
        return Err(format!("its end is event {seq}, and its last event {head}"));
    }
    match told {
        Some(told) if told != end.status => Err(format!("it ended as {:?}, and is said to be {told:?}", end.status)),
        _ => Ok(()),
    }
}

fn is_late_join(end: &RunEnd) -> bool {
    end.reason.as_ref().is_some_and(|reason| reason.starts_with("the join of "))
}

fn is_in_doubt(on_disk: &OnDisk) -> bool {
    on_disk.events.iter().any(|envelope| matches!(envelope.event, Event::CallInDoubt { .. }))
}

/// A run that nothing cuts short ends as it must; one that something may cut short ends so, or is cut short.
fn end(world: &World, plan: &RunPlan, on_disk: &OnDisk) -> Result<(), String> {
    let expected = expect::outcome(&world.plan, &plan.id, &expect::Losses::of(&on_disk.events));
    let Some(end) = on_disk.fold.run.end() else { return Err("it has not ended".to_owned()) };
    let limits = &world.plan.network.network.limits;
    let is_limited = limits.tokens.is_some()
        || limits.cost_usd.is_some()
        || limits.model_calls.is_some()
        || limits.deadline.is_some()
        || !world.plan.network.budgets.is_empty();
    let is_cancelled = matches!(plan.disturbance, Some((_, Disturbance::Cancel)));
    let is_told = plan.fork.as_ref().is_some_and(|fork| fork.is_told);
    let comes_to_bound = flows::is_bounded(world.plan.shape) && matches!(expected, Ok(Some(_)));
    let is_right = match (&end.status, &end.answer, &expected) {
        (Status::Limit, ..) if comes_to_bound => true,
        (Status::Done, ..) if comes_to_bound => false,
        (Status::Done, Some(Answer::Text(answer)), Ok(Some(expected))) if *expected == **answer => true,
        // An agent whose model has failed speaks again if the fork tells it something.
        (Status::Done, _, _) => is_told && model_fails(on_disk),
        (Status::Failed, _, Ok(None)) => true,
        // A call in doubt waits for a person, who is looked for only where nothing else goes on, and a join's time does.
        (Status::Failed, _, _) if is_late_join(end) && is_in_doubt(on_disk) => world.plan.shape == flows::Shape::InTime,
        (Status::Failed, _, _) => failures::fails_run(&world.plan, &plan.id, on_disk),
        (Status::Limit, _, _) => is_limited,
        (Status::Cancelled, _, _) => is_cancelled,
        _ => false,
    };
    let should = expected.as_ref().map_err(|_| "its failure");
    if is_right { Ok(()) } else { Err(format!("it ended as {end:?}, and should come to {should:?}")) }
}

/// Whether the model of an agent failed for good, or for so long that the run ended with it.
fn model_fails(on_disk: &OnDisk) -> bool {
    let is_of_model = |call: &CallId| call.index.is_none();
    on_disk.events.iter().any(|envelope| match &envelope.event {
        Event::ModelFailed { .. } => true,
        Event::TryFailed { call, retry_in_ms: 0, .. } => is_of_model(call),
        _ => false,
    })
}

/// Every call that an agent asked for has one result, before its model speaks again; and nothing else has any.
fn calls(on_disk: &OnDisk) -> Result<(), String> {
    let mut asked: BTreeMap<CallId, bool> = BTreeMap::new();
    let rejected = &on_disk.fold.rejected;
    for envelope in &on_disk.events {
        match &envelope.event {
            Event::ModelReplied { call, message, .. } => {
                if rejected.contains(&envelope.seq) {
                    continue;
                }
                let of_agent = |(id, has_result): (&CallId, &bool)| id.agent == call.agent && !has_result;
                if let Some((left, _)) = asked.iter().find(|&entry| of_agent(entry)) {
                    return Err(format!("the model speaks at {}, and {left} has no result", envelope.seq));
                }
                let Body::Assistant { tool_calls, .. } = &message.body else { continue };
                for index in 0..tool_calls.len() {
                    let id = CallId::tool(&call.agent, call.step, index as u32);
                    if asked.insert(id.clone(), false).is_some() {
                        return Err(format!("{id} is asked for twice"));
                    }
                }
            }
            // What hands over for an agent whose model failed was asked for by no model.
            Event::ToolReturned { call, .. } if is_routed(on_disk, call) => {}
            Event::ToolReturned { .. } if rejected.contains(&envelope.seq) => {}
            Event::ToolReturned { call, .. } => match asked.get_mut(call) {
                None => return Err(format!("{call} has a result at {}, and nobody asked", envelope.seq)),
                Some(true) => return Err(format!("{call} has a second result at {}", envelope.seq)),
                Some(has_result) => *has_result = true,
            },
            _ => {}
        }
    }
    Ok(())
}

/// Whether a call hands over to the agent that takes over where a model fails.
fn is_routed(on_disk: &OnDisk, call: &CallId) -> bool {
    let of_step = CallId::model(&call.agent, call.step);
    let mut events = on_disk.events.iter();
    events.any(|envelope| matches!(&envelope.event, Event::ModelFailed { call: of, .. } if *of == of_step))
}

/// Every agent starts once, ends at most once, and nothing happens to it after its end; in a run that is done all have
/// ended.
fn agents(on_disk: &OnDisk) -> Result<(), String> {
    let mut lives: BTreeMap<&AgentId, bool> = BTreeMap::new();
    for envelope in &on_disk.events {
        let Some(agent) = &envelope.agent else { continue };
        let is_over = !lives.get(agent).copied().unwrap_or(true);
        if is_over {
            return Err(format!("something happens to {agent} after its end, at {}", envelope.seq));
        }
        match envelope.event {
            Event::AgentStarted { .. } if lives.insert(agent, true).is_some() => {
                return Err(format!("{agent} starts twice"));
            }
            Event::AgentEnded { .. } => drop(lives.insert(agent, false)),
            _ => {}
        }
    }
    let is_done = on_disk.status() == Status::Done;
    // Who was asked by an agent that was given up may be at work for nobody.
    let is_awaited = |agent: &AgentId| {
        let asker = on_disk.fold.run.agents()[agent].parent.answers().map(|call| &call.agent);
        asker.is_none_or(|asker| lives.get(asker) == Some(&true))
    };
    match lives.iter().find(|&(agent, &lives)| lives && is_done && is_awaited(agent)) {
        Some((agent, _)) => Err(format!("{agent} never ends")),
        None => Ok(()),
    }
}

/// A run that is read with its snapshot is the run that is folded from its first event.
fn snapshot(disk: &Disk, plan: &RunPlan, on_disk: &OnDisk, lived: &mut Lived) -> Result<(), String> {
    let past = disk.by_snapshot(&plan.id).map_err(|error| error.to_string())?;
    if past.events.len() < on_disk.events.len() {
        *lived.entry("snapshot".to_owned()).or_default() += 1;
    }
    let is_same = past.state == on_disk.fold.run && past.agents == on_disk.fold.agents;
    if is_same { Ok(()) } else { Err("its snapshot says something else than its events".to_owned()) }
}

/// A run is not under way for longer than it may, and stops within the time that its calls have for that.
fn deadline(world: &World, on_disk: &OnDisk) -> Result<(), String> {
    let (network, stopped_ms) = (&world.plan.network, stopping_ms(on_disk));
    let shutdown_ms = network.supervision.shutdown.0.as_millis() as u64;
    if stopped_ms > shutdown_ms + ROUNDING_MS {
        return Err(format!("it took {stopped_ms} ms to stop, and may take {shutdown_ms}"));
    }
    let Some(deadline) = network.network.limits.deadline else { return Ok(()) };
    let (may_ms, was_ms) = (deadline.0.as_millis() as u64, on_disk.fold.run.active_ms() - stopped_ms);
    if was_ms > may_ms + ROUNDING_MS {
        return Err(format!("it was under way for {was_ms} ms, and may be for {may_ms}"));
    }
    Ok(())
}

/// Returns how long it took a run to stop that was told to, in the process in which it ended.
fn stopping_ms(on_disk: &OnDisk) -> u64 {
    let mut last_first = on_disk.events.iter().rev();
    let ended_ms = last_first.next().map_or(0, |last| last.time_ms);
    // A fork begins with another run's past.
    let begins = |event: &Event| matches!(event, Event::RunResumed { .. } | Event::RunForked { .. });
    let since = last_first.take_while(|envelope| !begins(&envelope.event));
    let told = since.filter(|envelope| matches!(envelope.event, Event::CancelRequested { .. })).last();
    told.map_or(0, |told| ended_ms - told.time_ms)
}

/// Timers are rounded to milliseconds.
const ROUNDING_MS: u64 = 5;

/// What a provider has billed has been charged.
fn bill(on_disk: &OnDisk, (tokens, nano_usd): (u64, u64)) -> Result<(), String> {
    let spent = on_disk.fold.run.spent();
    if spent.tokens < tokens || spent.cost_nano_usd < nano_usd {
        return Err(format!("{tokens} tokens for {nano_usd} were billed, and {spent:?} is charged"));
    }
    Ok(())
}

/// A run that ends by a limit is so near it that the next call might go beyond.
fn limit(world: &World, on_disk: &OnDisk) -> Result<(), String> {
    let Some(end) = on_disk.fold.run.end().filter(|end| end.status == Status::Limit) else { return Ok(()) };
    let (limits, spent) = (&world.plan.network.network.limits, on_disk.fold.run.spent());
    let reason = end.reason.as_deref().unwrap_or_default();
    let is_shared = reason.contains(" of the budget ");
    let left = match reason.split_whitespace().nth(1).filter(|_| !is_shared) {
        Some("tokens") => limits.tokens.map(|limit| (limit.saturating_sub(spent.tokens), CALL_TOKENS)),
        Some("model_calls") => limits.model_calls.map(|limit| (limit.saturating_sub(spent.model_calls), 1)),
        Some("cost_usd") => limits.cost_usd.map(|limit| {
            let limit = (limit * 1e9).ceil() as u64;
            (limit.saturating_sub(spent.cost_nano_usd), CALL_TOKENS * OUTPUT_NANO_USD)
        }),
        _ => None,
    };
    match left {
        Some((left, call)) if left >= call => Err(format!("it ended for `{reason}`, and {left} is left")),
        _ => Ok(()),
    }
}

/// More than any call of a simulated network may take.
const CALL_TOKENS: u64 = 6_000;

/// A run that is paused begins no calls, but for those that were just about to be made.
fn holds_still(on_disk: &OnDisk) -> Result<(), String> {
    let mut paused_ms = None;
    for envelope in &on_disk.events {
        match &envelope.event {
            Event::Paused => paused_ms = Some(envelope.time_ms),
            Event::Unpaused | Event::RunResumed { .. } | Event::RunForked { .. } => paused_ms = None,
            Event::CallIntended { call, .. } | Event::InputRequested { call, .. }
                if paused_ms.is_some_and(|since| envelope.time_ms > since + ROUNDING_MS) =>
            {
                return Err(format!("{call} is begun while the run is paused, at {}", envelope.seq));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A reply is charged what it used, and a try that no provider bills nothing but its count.
fn charges(plan: &Plan, run: &RunPlan, on_disk: &OnDisk) -> Result<(), String> {
    let exact = |usage: &Usage| {
        let nano_usd = usage.input_tokens * INPUT_NANO_USD + usage.output_tokens * OUTPUT_NANO_USD;
        (usage.tokens(), nano_usd)
    };
    for envelope in &on_disk.events {
        let (charged, due) = match &envelope.event {
            Event::ModelReplied { usage: Some(usage), charged, .. } => (charged, exact(usage)),
            Event::ModelFailed { charged, .. } => (charged, (0, 0)),
            Event::TryFailed { call, attempt, charged, retry_in_ms: 1.., .. } => {
                use ModelFault::{Limited, NoConnection, Overloaded};
                match plan.model(&run.id, call, *attempt).1 {
                    Some(Limited | Overloaded | NoConnection) => (charged, (0, 0)),
                    _ => continue,
                }
            }
            _ => continue,
        };
        if (charged.tokens, charged.cost_nano_usd) != due {
            return Err(format!("{charged:?} is charged at event {}, and {due:?} is due", envelope.seq));
        }
    }
    Ok(())
}

/// A try comes no sooner after a failed one than is said, and a provider that asks for time gets it.
fn pauses(on_disk: &OnDisk) -> Result<(), String> {
    let mut until: BTreeMap<&CallId, u64> = BTreeMap::new();
    for envelope in &on_disk.events {
        match &envelope.event {
            Event::RunResumed { .. } | Event::RunForked { .. } => until.clear(),
            Event::TryFailed { call, error, retry_in_ms, .. } => {
                if error.starts_with("rate limited") && *retry_in_ms < 1_000 {
                    return Err(format!("{call} does not wait for as long as it is asked to, at {}", envelope.seq));
                }
                until.insert(call, envelope.time_ms + retry_in_ms);
            }
            Event::CallIntended { call, .. } => {
                let is_too_soon = until.remove(call).is_some_and(|until| envelope.time_ms + ROUNDING_MS < until);
                if is_too_soon {
                    return Err(format!("{call} is tried again too soon, at {}", envelope.seq));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A run is decided once more as it was.
fn replays(replayer: &Replayer, on_disk: &OnDisk) -> Result<(), String> {
    let Fold { run: state, agents, .. } = on_disk.fold.clone();
    let past = Past { state, agents, events: on_disk.events.clone() };
    replayer.replay(&past).map(drop).map_err(|error| error.to_string())
}

/// What is recorded as done was done; and done as often as its class allows.
fn done_as_recorded(disk: &Disk, key: &str, deed: &Deed) -> Option<String> {
    let (run, call) = key.split_once('/')?;
    let on_disk = disk.runs.get(&provost::run::RunId::new(run))?;
    let call: CallId = call.parse().ok()?;
    let is_success = on_disk
        .events
        .iter()
        .any(|envelope| matches!(&envelope.event, Event::ToolReturned { call: of, failure: None, .. } if *of == call));
    if is_success && deed.effects == 0 {
        return Some(format!("{key} has a result, and was never done"));
    }
    // A fork that begins it once more does so under the same key.
    let is_fork = |of: &&OnDisk| of.fold.run.forked_from().is_some_and(|lineage| lineage.run.as_str() == run);
    let tries = on_disk.tries(&call) + disk.runs.values().filter(is_fork).map(|fork| fork.tries(&call)).sum::<usize>();
    if deed.class != Some(Effect::Pure) && deed.begun as usize > tries {
        return Some(format!("{key} was begun {} times, and intended {tries} times", deed.begun));
    }
    None
}
