//! `provost sim-server`: the simulated model over HTTP.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::exit::Code;
use super::{Cli, Error, print};
use crate::model::Sim;
use crate::serve::sim_server;
use crate::spec::{Faults, Latency, Network, SimSpec, Span, Timeouts};

/// Serve the simulated model over HTTP, in the OpenAI chat-completions dialect.
///
/// Any client of that dialect can be loaded with it: it answers after a latency, with faults, and the same requests
/// get the same answers for the same seed. The first line on stdout says where it listens.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Where to listen; port 0 takes any free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Listen on an address that other machines can reach. The server asks for no key.
    #[arg(long)]
    allow_remote: bool,
    /// What chances are drawn from; 0, or the network's.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How long an answer takes: `50ms`, or `50ms..400ms` for its 50th and 99th percentile.
    #[arg(long, value_name = "SPAN[..SPAN]", value_parser = parse_latency)]
    latency: Option<Latency>,
    /// How often each fault strikes, as shares of all requests: `rate_limited=0.1,cut=0.05`. There are rate_limited,
    /// overloaded, timeout, cut, stall, malformed and wrong_usage.
    #[arg(long, value_name = "FAULT=SHARE,…", value_parser = parse_faults)]
    faults: Option<Faults>,
    /// Let each conversation call its first tool N times, once a step, before it is answered.
    #[arg(long, value_name = "N")]
    tool_calls: Option<u32>,
    /// Take seed, latency, faults and scripts from the `[sim]` table of a network file. The request's `model` names
    /// the agent whose script is said.
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
}

/// Serves until the process is interrupted.
pub(super) fn run(cli: &Cli, arguments: &Arguments) -> Result<Code, Error> {
    if !arguments.listen.ip().is_loopback() && !arguments.allow_remote {
        return Err(Error::Usage {
            message: format!("{} can be reached from other machines", arguments.listen),
            hint: "if that is meant, add --allow-remote; the server asks for no key".to_owned(),
        });
    }
    let failed = |message: String| Error::Failed { message, hint: String::new() };
    let sim = Sim::new(&arguments.sim_spec()?, Timeouts::default()).map_err(|error| failed(error.to_string()))?;
    let sim = match arguments.tool_calls {
        Some(calls) => sim.with_tool_calls(calls),
        None => sim,
    };
    let tokio = super::tokio_runtime()?;
    tokio.block_on(async {
        let signals = super::Signals::catch();
        let cant_listen = |error| failed(format!("can't listen on {}: {error}", arguments.listen));
        let listener = TcpListener::bind(arguments.listen).await.map_err(cant_listen)?;
        announce(cli, listener.local_addr().map_err(cant_listen)?)?;
        serve(listener, sim, signals).await.map_err(|error| failed(format!("the server failed: {error}")))
    })?;
    Ok(Code::Done)
}

/// Serves until a signal comes. A client that reads slowly may hold up the end; a second signal does not wait for it.
async fn serve(listener: TcpListener, sim: Sim, mut signals: super::Signals) -> std::io::Result<()> {
    let shutdown = CancellationToken::new();
    let serving = sim_server::serve(listener, sim, shutdown.clone());
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => return served,
        () = signals.next() => shutdown.cancel(),
    }
    tokio::select! {
        served = serving => served,
        () = signals.next() => Ok(()),
    }
}

fn announce(cli: &Cli, address: SocketAddr) -> Result<(), Error> {
    let base_url = format!("http://{address}/v1");
    match cli.json {
        true => print::result(&print::json_line(&serde_json::json!({ "base_url": base_url }))),
        false => print::result(&format!("listening on {base_url}\n")),
    }
}

impl Arguments {
    /// Puts together how the model behaves: the network file's word, and the flags over it.
    fn sim_spec(&self) -> Result<SimSpec, Error> {
        let mut spec = match &self.network {
            None => SimSpec::default(),
            Some(path) => Network::load(path)?.network.spec().sim.clone(),
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
        args: Arguments,
    }

    fn parse(line: &str) -> Result<Arguments, String> {
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
        let text = "[network]\nname = \"n\"\nentry = \"a\"\n[agents.a]\nprompt = \"p\"\n[sim]\nseed = 3\nfaults = { cut = 0.5 }\n[sim.script]\na = [\"hi\"]\n";
        std::fs::write(file.path(), text).unwrap();
        let spec = parse(&format!("--seed 4 --network {}", file.path().display())).unwrap().sim_spec().unwrap();
        assert_eq!((spec.seed, spec.faults.cut, spec.script["a"].len()), (4, 0.5, 1));
    }
}
