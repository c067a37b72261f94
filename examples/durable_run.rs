//! A run that waits for a person, outlives its process, and goes on with the answer.
//!
//! ```text
//! $ cargo run --example durable_run
//! awaiting_approval: approval is needed, and nobody can be asked here: clerk#1.0 wants `send`
//! done: the letter is sent
//! ```

use std::path::Path;

use provost::run::Ballot;
use provost::runtime::{Answers, Recorder, Report, RunRequest, Runtime};
use provost::spec::{AgentSpec, Network, NetworkSpec, Permission};
use provost::tool::{self, Tool};
use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Deserialize, JsonSchema)]
struct Letter {
    /// The text of the letter.
    text: String,
}

/// Sends a letter. It says nothing of its effect class, so that it is `once`: a call that a crash cut off is not made
/// again before a person has said that it did not happen.
struct Send;

impl Tool for Send {
    type Arguments = Letter;
    type Output = &'static str;

    fn description(&self) -> String {
        "Sends a letter.".to_owned()
    }

    async fn call(&self, letter: Letter, call: tool::Call) -> Result<&'static str, tool::Error> {
        // A post office would be given the key, and know a letter that it has seen before.
        assert!(!letter.text.is_empty() && !call.idempotency_key.is_empty());
        Ok("sent")
    }
}

fn network() -> Result<Network, provost::spec::Invalid> {
    let mut spec = NetworkSpec::default();
    spec.network.name = "post".to_owned();
    spec.network.entry = "clerk".to_owned();
    spec.agents.insert(
        "clerk".to_owned(),
        AgentSpec { tools: vec!["send".to_owned()], ..AgentSpec::new("Send the letter that you are asked for.") },
    );
    spec.tools.insert("send".to_owned(), Default::default());
    spec.policy.default = Permission::Ask;
    let script = [
        r#"{"calls": [{"name": "send", "arguments": {"text": "Dear all"}}]}"#,
        "the letter is {{ results[0].content }}",
    ];
    spec.sim.script.insert("clerk".to_owned(), script.map(str::to_owned).to_vec());
    Network::new(spec)
}

/// Opens the store and a runtime on it, as each process would that has anything to do with its runs.
async fn open(directory: &Path) -> Result<(Runtime, std::sync::Arc<Recorder>), Box<dyn std::error::Error>> {
    let recorder = std::sync::Arc::new(Recorder::open(directory, false)?);
    let runtime = Runtime::builder(network()?).tool("send", Send).recorder(recorder.clone()).start().await?;
    Ok((runtime, recorder))
}

fn say(report: &Report) {
    let said = report.answer_text().or(report.reason.as_deref().map(Into::into)).unwrap_or_default();
    println!("{}: {said}", report.status.word());
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("provost-example-{}", std::process::id()));
    let (runtime, recorder) = open(&directory).await?;
    let parked = runtime.start(RunRequest::new("a letter to all")).await?.wait().await?;
    say(&parked);
    recorder.close().await?;

    // Days later, in another process.
    let (runtime, recorder) = open(&directory).await?;
    let past = recorder.past(&parked.run)?;
    let ballots = past.state.awaiting_approval().map(|(call, _)| (call.clone(), Ballot::of(true))).collect();
    let answers = Answers { ballots, ..Answers::default() };
    say(&runtime.resume(past, answers).await?.wait().await?);
    recorder.close().await?;
    Ok(std::fs::remove_dir_all(directory)?)
}
