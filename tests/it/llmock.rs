//! Runs of two networks against a mock that judges its client, PyPI's `llmock`: it refuses and fails calls at random, and
//! says at the end whether the client honoured what it was told.

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use provost::run::Status;
use provost::runtime::{Recorder, Runtime};
use provost::spec::{AgentSpec, ModelSpec, Network, ProviderKind};

use super::aimock::free_port;
use super::scripted::network;

/// How many runs each of the two networks has.
const RUNS: usize = 20;

struct Mock {
    child: Child,
    program: PathBuf,
    url: String,
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Mock {
    /// Starts it, or says why it can't and returns none.
    fn start() -> Option<Self> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let program = std::env::var_os("PROVOST_LLMOCK").map(PathBuf::from);
        let program = program.unwrap_or_else(|| root.join("target/llmock/bin/llmock"));
        if !program.exists() {
            let why = format!("skipped: there is no {}; `just fixtures` installs it\n", program.display());
            assert!(std::env::var_os("PROVOST_REQUIRE_FIXTURES").is_none(), "{why}");
            let _ = std::io::stderr().write_all(why.as_bytes());
            return None;
        }
        // It cuts streams after six chunks at the latest and calls each such answer unfinished: its shortest text would be
        // over by then, and an answer that gave its reason to finish is one, cut off after that or not.
        (0..5).find_map(|_| {
            let port = free_port();
            let child = Command::new(&program)
                .args(["serve", "-h", "127.0.0.1", "-p", &port.to_string(), "--log-level", "critical"])
                .args(["--error-rate", "429=0.15", "--error-rate", "503=0.1", "--stream-fault", "truncate=0.1"])
                .args(["--response-style", "hello"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let url = format!("http://127.0.0.1:{port}");
            let mut mock = Self { child, program: program.clone(), url };
            mock.wait(port).then_some(mock)
        })
    }

    fn wait(&mut self, port: u16) -> bool {
        for _ in 0..600 {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return true;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("the mock does not listen on port {port}");
    }

    /// Whether it found the client to behave, and what it says.
    fn verdict(&self) -> (bool, String) {
        let output = Command::new(&self.program).args(["report", "--url", &self.url]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[tokio::test]
async fn an_independent_judge_finds_that_pauses_are_honoured() {
    let Some(mock) = Mock::start() else { return };
    let recorder = Arc::new(Recorder::in_memory());
    let mut runtimes = Vec::new();
    for name in ["one", "two"] {
        let mut spec = network([("boss", AgentSpec::new("You answer."))]);
        spec.network.name = name.to_owned();
        spec.models[0] = ModelSpec {
            provider: Some(ProviderKind::Openai),
            model: Some("gpt-4o-mini".to_owned()),
            base_url: Some(format!("{}/v1", mock.url)),
            in_flight: Some(8),
            ..ModelSpec::default()
        };
        // Half of all tries fail or so, which five tries are not always enough for.
        spec.models[0].retry.tries = 20;
        let builder = Runtime::builder(Network::new(spec).unwrap()).recorder(recorder.clone());
        runtimes.push(builder.start().await.unwrap());
    }
    let runs = (0..2 * RUNS).map(|nth| runtimes[nth % 2].run(format!("question {nth}")));
    for report in join_all(runs).await {
        let report = report.unwrap();
        assert_eq!(report.status, Status::Done, "{report:?}");
    }
    let (is_well, verdict) = mock.verdict();
    println!("{verdict}");
    assert!(is_well, "{verdict}");
}
