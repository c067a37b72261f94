//! What a seed stands for: a network, its runs, what their agents want, what goes wrong and when. All of it is known
//! before anything runs, and none of it depends on timing.

use std::time::Duration;

use provost::model::{Error, Finish, Reply};
use provost::run::{AgentId, Body, CallId, Message, RunId, ToolCall, Usage};
use provost::spec::{
    AgentSpec, BudgetOf, BudgetSpec, Effect, ModelChoice, ModelSpec, NetworkSpec, Permission, Price, ProviderKind,
    Retry, Span, ToolSpec,
};

use super::draw::Draw;
use super::flows::{self, Shape};
use super::{person, supervised};

/// The tools of every network: name and effect class.
pub(super) const TOOLS: [(&str, Effect); 3] =
    [("look", Effect::Pure), ("put", Effect::Idempotent), ("send", Effect::Once)];

/// How long a tool may take.
pub(super) const TOOL_TIMEOUT: Duration = Duration::from_millis(2_000);

/// How many tries a model call has; no call fails so often for a while that they do not suffice.
const TRIES: u32 = 4;

/// In how many steps at most an agent tries to hand over.
const HANDOFF_TRIES: u32 = 4;

/// What a run is asked, and a probe.
pub(super) const INPUT: &str = "do it";
pub(super) const PROBE_INPUT: &str = "probe";

/// What a token costs that is read, and one that is written.
pub(super) const INPUT_NANO_USD: u64 = 1_000;
pub(super) const OUTPUT_NANO_USD: u64 = 3_000;

/// The most that an answer may have.
const MAX_OUTPUT_TOKENS: u32 = 200;

/// What a seed stands for.
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) network: NetworkSpec,
    /// What becomes of the entry's answer.
    pub(super) shape: Shape,
    pub(super) runs: Vec<RunPlan>,
    /// How many events there are between two snapshots at least.
    pub(super) events_per_snapshot: u64,
    /// Whether there are events that make their agent fail each time that it is given them.
    pub(super) has_poison: bool,
    /// What ends the first processes; the one after the last of these lives for as long as it has to.
    pub(super) ends: Vec<ProcessEnd>,
}

/// One run, and what is done to it from outside.
pub(super) struct RunPlan {
    pub(super) id: RunId,
    pub(super) tenant: &'static str,
    pub(super) session: Option<&'static str>,
    pub(super) begins_after: Duration,
    /// Whether somebody is there to be asked.
    pub(super) is_attended: bool,
    pub(super) disturbance: Option<(Duration, Disturbance)>,
    /// The run that it is forked from once that is over; none if it is no fork.
    pub(super) fork: Option<ForkPlan>,
}

/// From where a run is forked.
pub(super) struct ForkPlan {
    pub(super) of: RunId,
    /// How far into the other run, in hundredths of its events.
    pub(super) at_percent: u64,
    /// Whether the one that stands for the run is told something.
    pub(super) is_told: bool,
}

/// What is done to a run from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disturbance {
    Cancel,
    Pause(Duration),
    Steer,
}

/// What ends a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessEnd {
    /// It dies when it passes a place for the n-th time.
    Dies(Place, u64),
    /// It stands still there, as a stopped process does, is taken over, and goes on when its successor has begun.
    StandsStill(Place, u64),
    /// The disk fails in writing the n-th record.
    WriteFails(u64),
    /// The disk fails in making the n-th commit durable.
    SyncFails(u64),
}

/// A place that a process passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    BeforeCommit,
    AfterCommit,
    ModelCall,
    ModelReply,
    ToolCall,
    ToolEffect,
    ToolReturn,
}

/// What an agent says in one step.
pub(super) enum Says {
    Calls(Vec<Ask>),
    Answer,
    /// Nothing: it has to be asked again.
    Nothing,
}

/// One call that an agent asks for.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Tool(&'static str),
    Delegate(String),
    Handoff(String),
    /// A tool that there is not.
    Unknown,
    /// A tool, with arguments that it does not take.
    Misused(&'static str),
    /// A question to a person.
    Person,
}

/// What becomes of a tool call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ToolEnd {
    Returns,
    Fails,
    Panics,
    Hangs,
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        let mut draw = Draw::of(seed, "plan", &"");
        let mut network = network(&mut draw);
        person::join(&mut network, seed);
        network.budgets = budgets(&mut Draw::of(seed, "budgets", &""));
        let mut draws = Draw::of(seed, "widths", &"");
        widths(&mut network, |percent| draws.happens(percent).then(|| draws.between(1, 3) as u32));
        let shape = flows::draw(&mut network, &mut Draw::of(seed, "flow", &""));
        if shape == flows::Shape::InTime {
            // There nobody may be waited for.
            widths(&mut network, |_| None);
        }
        let mut runs: Vec<RunPlan> = (0..draw.between(1, 3)).map(|number| run(number, &mut draw)).collect();
        let forks: Vec<RunPlan> = (0..runs.len()).filter_map(|of| fork(of, &mut draw)).collect();
        runs.extend(forks);
        let ends = (0..draw.below(5)).map(|_| process_end(&mut draw)).collect();
        let events_per_snapshot = draw.between(4, 40);
        Self { seed, network, shape, runs, events_per_snapshot, has_poison: draw.happens(25), ends }
    }

    pub(super) fn draw(&self, purpose: &str, run: &RunId, of: &dyn std::fmt::Display) -> Draw {
        // What happens in a fork is what would have happened in the run that it comes from.
        let root = run.as_str().rsplit('.').next().unwrap_or_default();
        Draw::of(self.seed, purpose, &format!("{root} {of}"))
    }

    /// Says what an agent's instance says in a step, but for the wording.
    pub(super) fn says(&self, run: &RunId, agent: &AgentId, name: &str, step: u32) -> Says {
        if is_probe(run) {
            return Says::Answer;
        }
        let acts = self.acts(run, agent);
        let mut draw = self.draw("last", run, agent);
        let spec = &self.network.agents[name];
        let (hands_over, stutters) = (draw.happens(self.hands_over_percent()), draw.happens(10));
        // It does not try so for ever where it is refused.
        let hands_over = hands_over && step <= acts + HANDOFF_TRIES;
        if step > acts {
            return match spec.hands_off_to.first() {
                _ if stutters && step == acts + 1 => Says::Nothing,
                Some(to) if hands_over => Says::Calls(vec![Ask::Handoff(to.clone())]),
                _ => Says::Answer,
            };
        }
        let mut draw = self.draw("step", run, &CallId::model(agent, step));
        let mut asks: Vec<Ask> = (0..draw.between(1, 2)).map(|_| Ask::Tool(draw.one_of(&TOOLS).0)).collect();
        // Several at once, but not at all depths: a run is to stay small.
        let depth = agent.as_str().matches('/').count();
        let most = if depth == 0 { self.asks_at_once() } else { 1 };
        let count = if spec.delegates_to.is_empty() || draw.happens(40) { 0 } else { draw.between(1, most) };
        asks.extend((0..count).map(|_| Ask::Delegate(draw.one_of(&spec.delegates_to).clone())));
        // Only once, so that what is borne with an agent suffices.
        match draw.below(12) {
            0 if step == 1 => asks.push(Ask::Unknown),
            1 if step == 1 => asks.push(Ask::Misused("put")),
            _ => {}
        }
        if self.asks_person(run, &CallId::model(agent, step)) {
            asks.push(Ask::Person);
        }
        Says::Calls(asks)
    }

    /// Says what a model call comes to, at a given try: what the provider says of itself, and after how long.
    pub(super) fn model(&self, run: &RunId, call: &CallId, attempt: u32) -> (Duration, Option<ModelFault>) {
        if is_probe(run) {
            return (PROBE_TAKES, None);
        }
        let mut draw = self.draw("model", run, call);
        let latency = match draw.below(20) {
            0 => draw.millis(5_000),
            1..5 => Duration::ZERO,
            _ => draw.millis(60),
        };
        if self.is_refused(run, call) {
            return (latency, Some(ModelFault::Refused));
        }
        let failures = [0, 0, 0, 0, 0, 0, 1, 1, 2].get(draw.below(9) as usize).copied().unwrap_or(0);
        let fault = (attempt <= failures).then(|| *self.draw("try", run, &format!("{call} {attempt}")).one_of(&FAULTS));
        (latency, fault)
    }

    /// Says in how many steps an agent's instance acts before it answers or hands over.
    fn acts(&self, run: &RunId, agent: &AgentId) -> u32 {
        self.draw("acts", run, agent).below(3) as u32
    }

    /// Whether the provider refuses a call for good. It refuses none of the steps that an agent takes only because it is
    /// told something.
    pub(super) fn is_refused(&self, run: &RunId, call: &CallId) -> bool {
        let is_due = call.step <= self.acts(run, &call.agent) + 1;
        is_due && !is_probe(run) && self.draw("refused", run, call).happens(2)
    }

    /// Says what becomes of a tool call, how long it takes until it has its effect, and then until it returns.
    pub(super) fn tool(&self, run: &RunId, call: &CallId) -> (ToolEnd, Duration, Duration) {
        let mut draw = self.draw("tool", run, call);
        let end = match draw.below(20) {
            0 | 1 => ToolEnd::Fails,
            2 => ToolEnd::Panics,
            3 => ToolEnd::Hangs,
            _ => ToolEnd::Returns,
        };
        (end, draw.millis(40), draw.millis(40))
    }

    /// Whether a person lets a call happen, and after how long.
    pub(super) fn approval(&self, run: &RunId, call: &CallId) -> (bool, Duration) {
        let mut draw = self.draw("approval", run, call);
        (draw.happens(80), draw.millis(3_000))
    }

    /// Makes the reply of an agent that has this transcript.
    pub(super) fn reply(
        &self,
        run: &RunId,
        call: &CallId,
        name: &str,
        transcript: &[std::sync::Arc<Message>],
    ) -> Reply {
        let usage = Usage {
            input_tokens: 40 + 5 * transcript.len() as u64,
            cached_input_tokens: 0,
            output_tokens: self.draw("usage", run, call).between(1, 60),
            ..Usage::default()
        };
        let reply = Reply { usage: Some(usage), finish: Finish::Stop, ..Reply::default() };
        match self.says(run, &call.agent, name, call.step) {
            Says::Calls(asks) => Reply { tool_calls: asks.iter().map(tool_call).collect(), ..reply },
            Says::Answer => Reply { text: answer(&call.agent, &results(transcript)), ..reply },
            Says::Nothing => reply,
        }
    }
}

/// How long a probe's model call takes: longer than it takes all of them to begin.
const PROBE_TAKES: Duration = Duration::from_secs(5);

/// Names a run that is begun when all others are over, to see whether there is room again.
pub(super) fn probe(process: usize, number: u32) -> RunId {
    RunId::new(format!("probe{process}.{number}"))
}

pub(super) fn is_probe(run: &RunId) -> bool {
    run.as_str().starts_with("probe")
}

/// Why a try of a model call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelFault {
    Refused,
    Limited,
    Overloaded,
    TimesOut,
    Cut { is_counted: bool },
    Gibberish,
    NoConnection,
    Panics,
}

const FAULTS: [ModelFault; 8] = [
    ModelFault::Limited,
    ModelFault::Overloaded,
    ModelFault::TimesOut,
    ModelFault::Cut { is_counted: true },
    ModelFault::Cut { is_counted: false },
    ModelFault::Gibberish,
    ModelFault::NoConnection,
    ModelFault::Panics,
];

impl ModelFault {
    /// Returns the error that a provider would report. `usage` is what the try would have used.
    pub(super) fn error(self, usage: Option<Usage>) -> Error {
        let message = || "simulated".to_owned();
        match self {
            Self::Refused => Error::BadRequest { status: 400, message: message() },
            Self::Limited => Error::RateLimited { retry_after: Some(Duration::from_secs(1)) },
            Self::Overloaded => Error::Overloaded { status: 503, message: message(), retry_after: None },
            Self::TimesOut => Error::Timeout { stage: "between tokens", after: Duration::from_secs(3) },
            Self::Cut { is_counted } => {
                Error::Cut { received: 7, message: message(), usage: usage.filter(|_| is_counted) }
            }
            Self::Gibberish => Error::Malformed { message: message(), usage: None },
            Self::NoConnection => Error::Transport { url: "sim".to_owned(), message: message() },
            Self::Panics => panic!("injected: the provider panics"),
        }
    }
}

fn tool_call(ask: &Ask) -> ToolCall {
    let (name, arguments) = match ask {
        Ask::Tool(name) => ((*name).to_owned(), r#"{"what": "it"}"#),
        Ask::Delegate(agent) => (format!("ask_{agent}"), r#"{"message": "look into it"}"#),
        Ask::Handoff(agent) => (format!("transfer_to_{agent}"), r#"{"message": "go on"}"#),
        Ask::Unknown => ("no_such_tool".to_owned(), "{}"),
        Ask::Misused(name) => ((*name).to_owned(), r#"{"what": 7}"#),
        Ask::Person => (person::TOOL.to_owned(), person::ARGUMENTS),
    };
    ToolCall { name, arguments: arguments.to_owned() }
}

/// What the results in a transcript come to, in order; `-` for each that is no success.
fn results(transcript: &[std::sync::Arc<Message>]) -> Vec<String> {
    let result = |message: &std::sync::Arc<Message>| match &message.body {
        Body::Tool { failed: true, .. } => Some("-".to_owned()),
        Body::Tool { content, .. } => Some(content.clone()),
        _ => None,
    };
    transcript.iter().filter_map(result).collect()
}

/// The answer of an agent whose calls came to `results`.
pub(super) fn answer(agent: &AgentId, results: &[String]) -> String {
    let digest = blake3::hash(results.join("\n").as_bytes()).to_hex();
    format!("{agent} {} {}", results.len(), &digest[..12])
}

/// What a tool returns that had its effect.
pub(super) fn tool_result(tool: &str, call: &CallId) -> String {
    format!("{tool} did {call}")
}

/// Draws what all runs share.
fn budgets(draw: &mut Draw) -> Vec<BudgetSpec> {
    if !draw.happens(30) {
        return Vec::new();
    }
    let tokens = draw.happens(60).then(|| draw.between(8_000, 60_000));
    let model_calls = draw.happens(50).then(|| draw.between(3, 60));
    let tool_calls = (draw.happens(30) || tokens.is_none() && model_calls.is_none()).then(|| draw.between(2, 40));
    let (of, agent, per, cost_usd, warn_at) = (BudgetOf::Network, None, None, None, draw.happens(50).then_some(0.5));
    vec![BudgetSpec { of, agent, per, cost_usd, tokens, model_calls, tool_calls, warn_at, unknown_for: None }]
}

fn network(draw: &mut Draw) -> NetworkSpec {
    let mut spec = NetworkSpec::default();
    spec.network.name = "sim".to_owned();
    let names: Vec<String> =
        ["a", "b", "c", "d"].iter().take(draw.between(1, 4) as usize).map(|&n| n.to_owned()).collect();
    spec.network.entry = names[0].clone();
    let models = draw.between(1, 2);
    for number in 0..models {
        spec.models.insert(format!("m{number}"), model(draw));
    }
    for (place, name) in names.iter().enumerate() {
        let others = &names[place + 1..];
        // The next one is always asked, so that every agent can be reached.
        let asks = others.iter().enumerate().filter(|(nth, _)| *nth == 0 || draw.happens(60));
        let delegates_to = asks.map(|(_, other)| other.clone()).collect();
        let hands_off_to = others.iter().filter(|_| draw.happens(40)).cloned().collect();
        let agent = AgentSpec {
            model: Some(ModelChoice::new(format!("m{}", draw.below(models)))),
            tools: TOOLS.iter().map(|(name, _)| (*name).to_owned()).collect(),
            delegates_to,
            hands_off_to,
            ..AgentSpec::new("You are simulated.")
        };
        spec.agents.insert(name.clone(), agent);
    }
    for (name, _) in TOOLS {
        let timeout = Some(Span(TOOL_TIMEOUT));
        spec.tools.insert(name.to_owned(), ToolSpec { timeout, ..ToolSpec::default() });
    }
    spec.policy.default = match draw.below(10) {
        0 | 1 => Permission::Ask,
        2 => Permission::Deny,
        _ => Permission::Allow,
    };
    let limits = &mut spec.network.limits;
    limits.steps = 10_000;
    limits.tokens = draw.happens(35).then(|| draw.between(2_000, 20_000));
    limits.model_calls = draw.happens(10).then(|| draw.between(1, 20));
    limits.cost_usd = draw.happens(15).then(|| draw.between(5, 25) as f64 / 1_000.0);
    limits.deadline = draw.happens(15).then(|| Span::from_millis(draw.between(200, 20_000)));
    spec.network.fleet.model_calls_in_flight = draw.happens(60).then(|| draw.between(1, 4) as u32);
    supervised::supervise(&mut spec, draw);
    spec
}

/// Bounds what may be under way at once.
fn widths(spec: &mut NetworkSpec, mut some: impl FnMut(u64) -> Option<u32>) {
    spec.network.fleet.tool_calls_in_flight = some(30);
    spec.network.fleet.runs_in_flight = some(30);
    spec.network.limits.in_flight = some(30);
    spec.agents.values_mut().for_each(|agent| agent.in_flight = some(15));
    let paced = some(15).map(|requests| requests * 300);
    spec.models.values_mut().for_each(|model| model.requests_per_minute = paced);
}

fn model(draw: &mut Draw) -> ModelSpec {
    ModelSpec {
        provider: Some(ProviderKind::Host),
        max_output_tokens: MAX_OUTPUT_TOKENS,
        in_flight: draw.happens(60).then(|| draw.between(1, 3) as u32),
        price: Some(Price { input_usd_per_mtok: 1.0, output_usd_per_mtok: 3.0, ..Price::default() }),
        retry: Retry { tries: TRIES, min: Span::from_millis(10), max: Span::from_millis(200), ..Retry::default() },
        ..ModelSpec::default()
    }
}

fn run(number: u64, draw: &mut Draw) -> RunPlan {
    let disturbance = match draw.below(10) {
        0 => Some(Disturbance::Cancel),
        1 => Some(Disturbance::Pause(draw.millis(2_000))),
        2 => Some(Disturbance::Steer),
        _ => None,
    };
    RunPlan {
        id: RunId::new(format!("r{number}")),
        tenant: if draw.happens(50) { "one" } else { "two" },
        session: draw.happens(60).then_some("s"),
        begins_after: draw.millis(50),
        is_attended: draw.happens(70),
        disturbance: disturbance.map(|disturbance| (draw.millis(400), disturbance)),
        fork: None,
    }
}

fn fork(of: usize, draw: &mut Draw) -> Option<RunPlan> {
    let fork =
        ForkPlan { of: RunId::new(format!("r{of}")), at_percent: draw.between(1, 100), is_told: draw.happens(30) };
    let is_forked = draw.happens(25);
    is_forked.then(|| RunPlan {
        id: RunId::new(format!("fork.r{of}")),
        tenant: "one",
        session: None,
        begins_after: draw.millis(20),
        is_attended: draw.happens(70),
        disturbance: None,
        fork: Some(fork),
    })
}

fn process_end(draw: &mut Draw) -> ProcessEnd {
    use Place::{AfterCommit, BeforeCommit, ModelCall, ModelReply, ToolCall, ToolEffect, ToolReturn};

    let nth = if draw.happens(70) { draw.between(1, 9) } else { draw.between(10, 40) };
    match draw.below(10) {
        0 => ProcessEnd::WriteFails(2 * nth),
        1 => ProcessEnd::SyncFails(nth),
        2 | 3 => ProcessEnd::StandsStill(*draw.one_of(&[BeforeCommit, BeforeCommit, ToolEffect, ModelCall]), nth),
        _ => {
            let places = [BeforeCommit, AfterCommit, ModelCall, ModelReply, ToolCall, ToolEffect, ToolReturn];
            ProcessEnd::Dies(*draw.one_of(&places), nth)
        }
    }
}
