//! `provost sim-server`: the simulated model over HTTP.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::model::sim::Sim;
use crate::serve::sim_server;
use crate::spec::{Faults, Latency, NetworkSpec, SimSpec, Span, Timeouts};

/// Serve the simulated model over HTTP, in the OpenAI chat-completions dialect.
///
/// Any client of that dialect can be loaded with it: it answers after a latency, with faults, and the same requests
/// get the same answers for the same seed. The first line on stdout says where it listens.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where to listen; port 0 takes any free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Listen on an address that other machines can reach. The server asks for no key.
    #[arg(long)]
    pub allow_remote: bool,
    /// What chances are drawn from; 0, or the network's.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// How long an answer takes: `50ms`, or `50ms..400ms` for its 50th and 99th percentile.
    #[arg(long, value_name = "SPAN[..SPAN]", value_parser = parse_latency)]
    pub latency: Option<Latency>,
    /// How often each fault strikes, as shares of all requests: `rate_limited=0.1,cut=0.05`. There are rate_limited,
    /// overloaded, timeout, cut, stall, malformed and wrong_usage.
    #[arg(long, value_name = "FAULT=SHARE,…", value_parser = parse_faults)]
    pub faults: Option<Faults>,
    /// Let each conversation call its first tool N times, once a step, before it is answered.
    #[arg(long, value_name = "N")]
    pub tool_calls: Option<u32>,
    /// Take seed, latency, faults and scripts from the `[sim]` table of a network file. The request's `model` names
    /// the agent whose script is said.
    #[arg(long, value_name = "FILE")]
    pub network: Option<PathBuf>,
}

/// Serves until the process is interrupted.
///
/// # Errors
/// An address that may not be listened on, a network file that can't be used, or a failing listener.
pub async fn run(args: Args) -> anyhow::Result<()> {
    if !args.listen.ip().is_loopback() && !args.allow_remote {
        bail!("{} can be reached from other machines; if that is meant, add --allow-remote", args.listen);
    }
    let mut sim = Sim::new(&args.sim_spec()?, Timeouts::default())?;
    if let Some(calls) = args.tool_calls {
        sim = sim.with_tool_calls(calls);
    }
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("can't listen on {}", args.listen))?;
    announce(listener.local_addr()?)?;
    let shutdown = CancellationToken::new();
    let serving = sim_server::serve(listener, sim, shutdown.clone());
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => return Ok(served?),
        () = interrupted() => shutdown.cancel(),
    }
    // A client that reads slowly may hold up the end; who interrupts again does not want to wait for it.
    tokio::select! {
        served = serving => Ok(served?),
        () = interrupted() => Ok(()),
    }
}

/// Waits for Ctrl-C. Where there is no such signal to wait for, the server runs until it is killed.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn announce(address: SocketAddr) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "listening on http://{address}/v1")?;
    stdout.flush()
}

impl Args {
    /// Puts together how the model behaves: the network file's word, and the flags over it.
    fn sim_spec(&self) -> anyhow::Result<SimSpec> {
        let mut spec = match &self.network {
            None => SimSpec::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
                let network: NetworkSpec =
                    toml::from_str(&text).with_context(|| format!("{} is no valid network", path.display()))?;
                network.sim
            }
        };
        spec.seed = self.seed.unwrap_or(spec.seed);
        spec.latency = self.latency.or(spec.latency);
        spec.faults = self.faults.unwrap_or(spec.faults);
        Ok(spec)
    }
}

fn parse_latency(text: &str) -> Result<Latency, String> {
    let (p50, p99) = text.split_once("..").unwrap_or((text, text));
    let (p50, p99): (Span, Span) = (p50.parse()?, p99.parse()?);
    if p99 < p50 {
        return Err(format!("the 99th percentile, {p99}, is below the 50th, {p50}"));
    }
    Ok(Latency { p50, p99 })
}

fn parse_faults(text: &str) -> Result<Faults, String> {
    let mut faults = Faults::default();
    let mut sum = 0.0;
    for fault in text.split(',') {
        let (name, share) =
            fault.split_once('=').ok_or_else(|| format!("`{fault}` is not in the form of FAULT=SHARE"))?;
        let into = match name.trim() {
            "rate_limited" => &mut faults.rate_limited,
            "overloaded" => &mut faults.overloaded,
            "timeout" => &mut faults.timeout,
            "cut" => &mut faults.cut,
            "stall" => &mut faults.stall,
            "malformed" => &mut faults.malformed,
            "wrong_usage" => &mut faults.wrong_usage,
            other => return Err(format!("there is no fault `{other}`")),
        };
        *into = share
            .trim()
            .parse()
            .ok()
            .filter(|share| (0.0..=1.0).contains(share))
            .ok_or_else(|| format!("`{}` is no share between 0 and 1", share.trim()))?;
        sum += *into;
    }
    // Shares such as ten times 0.1 add up to a little more than they should.
    if sum > 1.0 + 1e-9 { Err(format!("the shares add up to {sum}, which is more than 1")) } else { Ok(faults) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, String> {
        let words = std::iter::once("sim-server").chain(line.split_whitespace());
        Command::try_parse_from(words).map(|command| command.args).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_say_how_the_model_behaves() {
        let args =
            parse("--listen 127.0.0.1:9 --seed 7 --latency 50ms..400ms --faults rate_limited=0.1,cut=0.05").unwrap();
        let spec = args.sim_spec().unwrap();
        assert_eq!(spec.seed, 7);
        assert_eq!(spec.latency, Some(Latency { p50: Span::from_millis(50), p99: Span::from_millis(400) }));
        assert_eq!(spec.faults, Faults { rate_limited: 0.1, cut: 0.05, ..Faults::default() });

        let one = parse("--latency 50ms").unwrap().latency.unwrap();
        assert_eq!(one.p50, one.p99);
    }

    #[test]
    fn wrong_flags_say_what_is_wrong() {
        let wrong = |line: &str| parse(line).unwrap_err();
        assert!(wrong("--latency 9s..1s").contains("is below the 50th"));
        assert!(wrong("--latency soon").contains("no span of time"));
        assert!(wrong("--faults cut=2").contains("no share between 0 and 1"));
        assert!(wrong("--faults cut=NaN").contains("no share between 0 and 1"));
        assert!(wrong("--faults cut").contains("FAULT=SHARE"));
        assert!(wrong("--faults fire=0.1").contains("no fault `fire`"));
        assert!(wrong("--faults cut=0.6,stall=0.6").contains("more than 1"));
    }

    #[test]
    fn flags_go_over_the_network_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "[network]\nname = \"n\"\nentry = \"a\"\n[sim]\nseed = 3\nfaults = { cut = 0.5 }\n[sim.script]\na = [\"hi\"]\n";
        std::fs::write(file.path(), text).unwrap();
        let spec = parse(&format!("--seed 4 --network {}", file.path().display())).unwrap().sim_spec().unwrap();
        assert_eq!((spec.seed, spec.faults.cut, spec.script["a"].len()), (4, 0.5, 1));
    }

    #[tokio::test]
    async fn other_machines_are_kept_out_unless_they_are_meant() {
        let error = run(parse("--listen 0.0.0.0:0").unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("--allow-remote"), "{error}");
    }
}
