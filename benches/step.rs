//! What one agent step costs, beside its floor.
//!
//! A step is a model call and the tool call that it asks for. The model is the simulated one, without delay, and the tool
//! does nothing, so that what is measured is Provost itself. The floor is a bare loop that calls the same provider and the
//! same tool and keeps a transcript, with no actor, no gate, no budget and no record.
//!
//! `cargo bench --bench step`

#![expect(clippy::expect_used, reason = "a bench that cannot run should say so at once")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use provost::model::{Offer, Provider, Request, Sim};
use provost::run::{AgentId, Body, CallId, Labels, Message, Origin, RunId, tool_message};
use provost::runtime::Runtime;
use provost::spec::{AgentSpec, Network, NetworkSpec, Permission, SimSpec, Timeouts};
use provost::tool::{self, ErasedTool, Tool};
use schemars::JsonSchema;
use serde::Deserialize;

/// How many steps a run has: nine tool calls and the answer.
const STEPS: u32 = 10;

#[derive(Deserialize, JsonSchema)]
struct Nothing {}

/// A tool that does nothing.
struct Noop;

impl Tool for Noop {
    type Arguments = Nothing;
    type Output = &'static str;

    fn description(&self) -> String {
        "Does nothing.".to_owned()
    }

    async fn call(&self, _: Nothing, _: tool::Call) -> Result<&'static str, tool::Error> {
        Ok("nothing")
    }
}

fn sim() -> SimSpec {
    let call = r#"{"calls": [{"name": "noop"}]}"#.to_owned();
    let mut script = vec![call; STEPS as usize - 1];
    script.push("done".to_owned());
    SimSpec { script: [("one".to_owned(), script)].into_iter().collect(), ..SimSpec::default() }
}

fn network() -> Network {
    let mut spec = NetworkSpec::default();
    spec.network.name = "bench".to_owned();
    spec.network.entry = "one".to_owned();
    spec.policy.default = Permission::Allow;
    spec.agents.insert("one".to_owned(), AgentSpec { tools: vec!["noop".to_owned()], ..AgentSpec::new("Work.") });
    spec.tools.insert("noop".to_owned(), Default::default());
    spec.sim = sim();
    Network::new(spec).expect("the bench's network is valid")
}

/// The floor: the same provider and tool in a bare loop.
async fn bare_loop(provider: &Sim, noop: &Arc<Noop>, tools: &Arc<[Offer]>) -> String {
    let agent = AgentId::new("one");
    let input = Body::User { text: "go".to_owned() };
    let mut request = Request {
        run: RunId::new("bench"),
        agent: "one".into(),
        call: CallId::model(&agent, 1),
        attempt: 1,
        system: "Work.".into(),
        messages: vec![Arc::new(Message { body: input, labels: Labels::default(), origin: Origin::Input })],
        tools: tools.clone(),
        output_schema: None,
        max_output_tokens: 4096,
    };
    loop {
        let reply = provider.call(&request, &|_| {}).await.expect("the simulated model has no faults");
        let Some(asked) = reply.tool_calls.first().cloned() else { return reply.text };
        let id = CallId::tool(&agent, request.call.step, 0);
        let call = tool::Call {
            run: request.run.clone(),
            id: id.clone(),
            idempotency_key: String::new(),
            age: Default::default(),
            cancelled: Default::default(),
            output_limit_bytes: usize::MAX,
            caller: Default::default(),
            influence: Default::default(),
        };
        let arguments = serde_json::from_str(&asked.arguments).expect("the script's arguments are JSON");
        let said = ErasedTool::call(noop.clone(), arguments, call).await.expect("the tool can't fail");
        let body = Body::Assistant { text: reply.text, tool_calls: vec![(id.in_transcript(), asked)] };
        let origin = Origin::Model("sim".to_owned());
        request.messages.push(Arc::new(Message { body, labels: Labels::default(), origin }));
        let origin = Origin::Tool("noop".to_owned());
        request.messages.push(tool_message(&id, "noop", said, false, Labels::default(), origin));
        request.call.step += 1;
    }
}

fn step(criterion: &mut Criterion) {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("threads start");
    let runtime =
        tokio.block_on(Runtime::builder(network()).tool("noop", Noop).start()).expect("the bench's network starts");
    let noop = Arc::new(Noop);
    let offer = Offer {
        name: "noop".to_owned(),
        description: Tool::description(&*noop),
        parameters: Arc::new(ErasedTool::parameters(&*noop)),
    };
    let (provider, tools) = (Sim::new(&sim(), Timeouts::default()).expect("the script parses"), Arc::from([offer]));

    let mut group = criterion.benchmark_group("step");
    group.throughput(Throughput::Elements(u64::from(STEPS)));
    group.bench_function("floor: a bare loop on the same provider", |bencher| {
        bencher.to_async(&tokio).iter(|| async { black_box(bare_loop(&provider, &noop, &tools).await) });
    });
    group.bench_function("provost: one run at a time", |bencher| {
        bencher.to_async(&tokio).iter(|| async { black_box(runtime.run("go").await.expect("the run starts")) });
    });
    group.bench_function("provost: 64 runs at once", |bencher| {
        bencher.to_async(&tokio).iter_custom(|rounds| {
            let runtime = &runtime;
            async move {
                let began = std::time::Instant::now();
                for _ in 0..rounds.div_ceil(64) {
                    let runs = (0..64).map(|_| runtime.run("go"));
                    black_box(futures_util::future::join_all(runs).await);
                }
                // The time of one run, as in the others.
                began.elapsed().mul_f64(rounds as f64 / (rounds.div_ceil(64) * 64) as f64)
            }
        });
    });
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
