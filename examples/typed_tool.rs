//! A network built in Rust, with a typed tool and a structured answer: a cashier asks an accountant, who adds with a tool.
//!
//! ```text
//! $ cargo run --example typed_tool
//! {"currency":"EUR","total_cents":1997}
//! 4 model calls, 1 tool call
//! ```

use std::collections::BTreeMap;

use provost::runtime::Runtime;
use provost::spec::{AgentSpec, Network, NetworkSpec, Permission, ToolSpec};
use provost::tool::{self, Effect, Tool};
use schemars::JsonSchema;
use serde::Deserialize;

/// What the tool takes. The model sees these comments.
#[derive(Deserialize, JsonSchema)]
struct Prices {
    /// The prices, in cents, by the name of what is bought.
    cents: BTreeMap<String, u64>,
}

struct Add;

impl Tool for Add {
    type Arguments = Prices;
    type Output = u64;

    fn description(&self) -> String {
        "Adds prices.".to_owned()
    }

    fn effect(&self) -> Effect {
        Effect::Pure
    }

    async fn call(&self, prices: Prices, _: tool::Call) -> Result<u64, tool::Error> {
        let sum = prices.cents.values().try_fold(0u64, |sum, &cents| sum.checked_add(cents));
        sum.ok_or_else(|| tool::Error::Failed("the sum is too large".to_owned()))
    }
}

/// What the run's answer is.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Bill {
    total_cents: u64,
    currency: String,
}

fn network() -> Result<Network, Box<dyn std::error::Error>> {
    let mut spec = NetworkSpec::default();
    spec.network.name = "shop".to_owned();
    spec.network.entry = "cashier".to_owned();
    // What a program supplies follows the policy's default, which asks a person.
    spec.policy.default = Permission::Allow;
    spec.tools.insert("add".to_owned(), ToolSpec::default());

    let mut cashier = AgentSpec::new("You make out bills. Ask the accountant for the total.");
    cashier.delegates_to = vec!["accountant".to_owned()];
    let mut accountant = AgentSpec::new("You add prices with your tool.");
    accountant.tools = vec!["add".to_owned()];
    spec.agents.extend([("cashier".to_owned(), cashier), ("accountant".to_owned(), accountant)]);

    let says = |steps: [&str; 2]| steps.map(str::to_owned).to_vec();
    spec.sim.script.insert(
        "cashier".to_owned(),
        says([
            r#"{"calls": [{"name": "ask_accountant", "arguments": {"message": {{ input | tojson }}}}]}"#,
            r#"{"total_cents": {{ results[0].content }}, "currency": "EUR"}"#,
        ]),
    );
    spec.sim.script.insert(
        "accountant".to_owned(),
        says([
            r#"{"calls": [{"name": "add", "arguments": {"cents": {"bread": 499, "cheese": 1498}}}]}"#,
            "{{ results[0].content }}",
        ]),
    );
    Ok(Network::new(spec)?.with_output::<Bill>("cashier")?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::builder(network()?).tool("add", Add).start().await?;
    let report = runtime.run("bread at 4.99, cheese at 14.98").await?;
    println!("{}", report.answer_text().ok_or("the run ended without an answer")?);
    println!("{} model calls, {} tool call", report.usage.model_calls, report.usage.tool_calls);
    runtime.shutdown().await;
    Ok(())
}
