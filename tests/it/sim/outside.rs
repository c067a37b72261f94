//! What simulated processes call: models, tools and people.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use provost::model::{Error, Provider, Reply, Request};
use provost::run::Ballot;
use provost::runtime::{Approver, Inquired, Question};
use provost::tool::{self, Effect, Tool};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::plan::{INPUT_NANO_USD, ModelFault, OUTPUT_NANO_USD, Place, TOOL_TIMEOUT, ToolEnd, tool_result};
use super::world::{State, World};

/// A call of a model, while it is under way.
struct InFlight {
    world: Arc<World>,
    model: String,
}

impl InFlight {
    fn begin(world: &Arc<World>, model: &str, bound: Option<u32>) -> Self {
        let mut state = world.state();
        let (now, most) = state.in_flight.entry(model.to_owned()).or_default();
        *now += 1;
        *most = (*most).max(*now);
        let now = *now;
        if bound.is_some_and(|bound| now > bound) {
            state.blame(format!("{now} calls of {model} are under way, of at most {bound:?}"));
        }
        drop(state);
        Self { world: world.clone(), model: model.to_owned() }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some((now, _)) = self.world.state().in_flight.get_mut(&self.model) {
            *now = now.saturating_sub(1);
        }
    }
}

impl World {
    /// Returns how many calls of all models have been under way at once since the last time that this was asked.
    pub(super) fn most_in_flight(&self) -> u32 {
        self.state().in_flight.insert(ALL.to_owned(), (0, 0)).map_or(0, |(_, most)| most)
    }
}

/// All models together, among those in flight.
const ALL: &str = "all models";

/// A model of the world.
pub(super) struct Model {
    pub(super) world: Arc<World>,
    pub(super) name: String,
}

impl Provider for Model {
    fn call<'a>(
        &'a self,
        request: &'a Request,
        _: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(self.answer(request))
    }
}

impl Model {
    async fn answer(&self, request: &Request) -> Result<Reply, Error> {
        let (world, plan) = (&self.world, &self.world.plan);
        let (run, call, attempt) = (&request.run, &request.call, request.attempt);
        {
            let mut state = world.state();
            let closed = state.closed.get(&self.name).and_then(|until| until.checked_duration_since(Instant::now()));
            if let Some(yet) = closed.filter(|yet| !yet.is_zero()) {
                state.blame(format!("{run} {call} is made although the model said to wait for {yet:?} yet"));
            }
        }
        world.pass(Place::ModelCall).await;
        {
            let mut state = world.state();
            state.note(&format!("model {run} {call} try {attempt}"));
            let objection = state.objection(run, call, Some(attempt), true);
            objection.into_iter().for_each(|what| state.blame(what));
            if !is_asked_as_it_should(request, &state) {
                state.blame(format!("{run} {call} is not told what it is asked"));
            }
        }
        let bound = plan.network.models[&self.name].in_flight;
        let _in_flight = InFlight::begin(world, &self.name, bound);
        let _of_all = InFlight::begin(world, ALL, plan.network.network.fleet.model_calls_in_flight);
        let (latency, fault) = plan.model(run, call, attempt);
        let reply = plan.reply(run, call, &request.agent, &request.messages);
        let usage = reply.usage.unwrap_or_default();
        // What is read is billed as soon as it is read.
        let is_billed =
            matches!(fault, None | Some(ModelFault::Cut { .. } | ModelFault::TimesOut | ModelFault::Gibberish));
        let bill = |tokens: u64, nano_usd_per_token: u64| {
            let mut state = world.state();
            let (of_tokens, of_cost) = state.billed.entry(run.clone()).or_default();
            (*of_tokens, *of_cost) = (*of_tokens + tokens, *of_cost + tokens * nano_usd_per_token);
        };
        bill(if is_billed { usage.input_tokens } else { 0 }, INPUT_NANO_USD);
        sleep(latency).await;
        bill(if is_billed { usage.output_tokens } else { 0 }, OUTPUT_NANO_USD);
        world.pass(Place::ModelReply).await;
        world.note(&format!("model {run} {call} try {attempt} says {fault:?}"));
        match fault {
            None => Ok(reply),
            Some(fault) => {
                let error = fault.error(reply.usage);
                if let Error::RateLimited { retry_after: Some(pause) } = error {
                    world.state().closed.insert(self.name.clone(), Instant::now() + pause);
                }
                Err(error)
            }
        }
    }
}

/// Whether the transcript begins with what the agent was asked, and what it knew before.
fn is_asked_as_it_should(request: &Request, state: &State) -> bool {
    let on_disk = state.disk.as_ref().and_then(|disk| disk.runs.get(&request.run));
    let instance = on_disk.and_then(|on_disk| on_disk.fold.run.agents().get(&request.call.agent));
    instance.is_none_or(|instance| request.messages.starts_with(&instance.task))
}

/// A tool of the world.
pub(super) struct Does {
    pub(super) world: Arc<World>,
    pub(super) name: &'static str,
    pub(super) class: Effect,
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct What {
    #[serde(rename = "what")]
    _what: String,
}

impl Tool for Does {
    type Arguments = What;
    type Output = String;

    fn description(&self) -> String {
        format!("Does what is {}.", self.class.word())
    }

    fn effect(&self) -> Effect {
        self.class
    }

    async fn call(&self, _: What, call: tool::Call) -> Result<String, tool::Error> {
        let world = &self.world;
        let (run, id, key) = (&call.run, &call.id, &call.idempotency_key);
        let result = tool_result(self.name, id);
        let bound = world.plan.network.network.fleet.tool_calls_in_flight;
        let _in_flight = InFlight::begin(world, "all tools", bound);
        world.pass(Place::ToolCall).await;
        let is_made_again;
        {
            let mut state = world.state();
            state.note(&format!("tool {key} begins"));
            let objection = state.objection(run, id, None, self.class != Effect::Pure);
            objection.into_iter().for_each(|what| state.blame(what));
            let begun_in = run.as_str().rsplit('.').next().unwrap_or_default();
            if *key != format!("{run}/{id}") && *key != format!("{begun_in}/{id}") {
                state.blame(format!("{run} {id} is made under the key {key}"));
            }
            let deed = state.deeds.entry(key.clone()).or_default();
            (deed.class, deed.result) = (Some(self.class), result.clone());
            deed.begun += 1;
            is_made_again = deed.begun > 1 && world.plan.makes_again(id, self.class);
        }
        let (end, before, after) = world.plan.tool(run, id);
        sleep(before).await;
        world.pass(Place::ToolEffect).await;
        {
            let mut state = world.state();
            let on_disk = state.disk.as_ref().and_then(|disk| disk.runs.get(run));
            if on_disk.and_then(|run| run.fold.run.end()).is_some_and(|end| !end.status.is_parked()) {
                state.blame(format!("{run} {id} is done, and the run has ended"));
            }
            let deed = state.deeds.entry(key.clone()).or_default();
            deed.effects += 1;
            if deed.effects > 1 && self.class == Effect::Once {
                state.blame(format!("{key} was done twice"));
            }
            state.note(&format!("tool {key} does it"));
        }
        sleep(after).await;
        world.pass(Place::ToolReturn).await;
        match end {
            ToolEnd::Returns => Ok(result),
            ToolEnd::Fails => Err(tool::Error::Failed("it fails".to_owned())),
            ToolEnd::Panics => panic!("injected: the tool panics"),
            ToolEnd::Hangs if is_made_again => Ok(result),
            ToolEnd::Hangs => {
                sleep(10 * TOOL_TIMEOUT).await;
                Ok(result)
            }
        }
    }
}

/// A person who can be asked.
pub(super) struct Person {
    pub(super) world: Arc<World>,
}

impl Approver for Person {
    fn ask<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Option<Ballot>> {
        Box::pin(async move {
            let (granted, after) = self.world.plan.approval(&question.run, &question.call);
            sleep(after).await;
            Some(Ballot::of(granted))
        })
    }

    fn answer<'a>(&'a self, inquired: &'a Inquired) -> BoxFuture<'a, Option<String>> {
        Box::pin(self.world.say(inquired))
    }
}
