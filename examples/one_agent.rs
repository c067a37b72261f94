//! One agent with one real tool, on the simulated model.
//!
//! ```text
//! $ cargo run --example one_agent
//! the crate's name stands at Cargo.toml:2: name = "provost"
//! ```

use provost::runtime::Runtime;
use provost::spec::Network;

const NETWORK: &str = r#"
[network]
name = "clerk"
entry = "clerk"

[agents.clerk]
prompt = "Find what you are asked for. Search before you answer."
tools = ["search"]

[tools.search]
builtin = "fs.search"

# What the simulated model says; with a provider under [models], a model says it.
[sim.script]
clerk = [
  '{"calls": [{"name": "search", "arguments": {"path": "Cargo.toml", "pattern": "name = \"provost\""}}]}',
  "{% set found = results[0].content.matches[0] %}the crate's name stands at {{ found.path }}:{{ found.line }}: {{ found.text }}",
]
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let network = Network::parse("clerk.toml", NETWORK, ".".as_ref())?.network;
    let runtime = Runtime::builder(network).start().await?;
    let report = runtime.run("the name of the crate").await?;
    println!("{}", report.answer_text().ok_or("the run ended without an answer")?);
    runtime.shutdown().await;
    Ok(())
}
