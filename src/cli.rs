//! The command line: arguments, what is printed where, and exit codes. Results go to stdout, and nothing else does.

mod approvals;
mod attend;
mod audit;
mod budget;
mod check;
mod completions;
mod door;
pub mod exit;
mod follow;
mod graph;
mod knowledge;
mod new;
mod outcome;
mod policy;
mod print;
mod queues;
mod run;
mod runs;
mod sim_server;

use std::path::PathBuf;
use std::process::ExitCode;
use std::task::Poll;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::journal;
use crate::run::{Priority, StoredError};
use crate::runtime;
use crate::serve::control::{self, Fault};
use crate::spec::{Invalid, OverrideError, visible};

/// Runs networks of AI agents: supervised, budgeted, and checked before every effect.
#[derive(Debug, Parser)]
#[command(name = "provost", version, about, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// Print the result as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Keep the record of runs in this directory [default: .provost/ here or in the nearest directory above that has one].
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Take the store over from a process that holds it and does not answer. Nothing of that process is written any
    /// more; its runs are interrupted.
    #[arg(long, global = true)]
    pub take_over: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a network on an input, to its end.
    Run(Box<run::Arguments>),
    /// Look at runs, and tell them what to do.
    #[command(subcommand)]
    Runs(runs::Command),
    /// Check the record of all runs, or write it out.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Say who wants what that a person has to allow, and allow it or not.
    Approvals(Box<approvals::Arguments>),
    /// Look at what may be spent, what is held and what was spent, and raise limits.
    Budget(budget::Arguments),
    /// Show where calls and runs wait for their turn, and which models are left alone for a while.
    Queues,
    /// Index files that agents can look things up in.
    #[command(subcommand)]
    Knowledge(knowledge::Command),
    /// Check a network file, and say what a run can cost at most.
    Check(check::Arguments),
    /// Try, explain and reload the policies of a network.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Draw a network.
    Graph(graph::Arguments),
    /// Write a small network to begin with, which runs offline at once.
    New(new::Arguments),
    /// Serve the simulated model over HTTP, in the OpenAI dialect.
    SimServer(sim_server::Arguments),
    /// Print the completions of a shell.
    Completions(completions::Arguments),
}

/// Why a command ended without success. What is to be said to the user has not been said yet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network is not valid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A file that belongs to the network is not valid, or not any more.
    #[error("{message}")]
    Refused {
        /// Which file, and of how many problems is told.
        message: String,
        /// All that is wrong with it, each with its place, as it is printed.
        report: String,
    },
    /// The command was given wrongly, in a way that its syntax does not show.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// The command tried and failed.
    #[error("{message}")]
    Failed {
        /// What went wrong.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// What is to be kept on disk can't be.
    #[error("{message}")]
    Store {
        /// What went wrong.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// The result could not be written to stdout.
    #[error("the result can't be written to stdout: {0}")]
    Stdout(std::io::Error),
    /// A second signal ended the process while something was under way.
    #[error("left at once")]
    Left,
    /// Nobody reads stdout any more.
    #[error("stdout is closed")]
    StdoutClosed,
}

impl Error {
    /// Whether there is somebody to tell, and something to say.
    fn is_to_be_told(&self) -> bool {
        !matches!(self, Self::Stdout(_) | Self::StdoutClosed | Self::Left)
    }

    /// Says that a file is none of what it is to be, and all that is wrong with it.
    fn refused(invalid: &Invalid, what: &str) -> Self {
        let report = invalid.0.render(console::colors_enabled_stderr());
        Self::Refused { message: invalid.0.verdict(what), report }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        use control::Code as C;
        let (message, hint) = (visible(&fault.message).into_owned(), fault.hint);
        if !fault.report.is_empty() {
            return Self::Refused { message, report: fault.report };
        }
        match fault.code {
            C::InvalidRequest | C::TooLong | C::NoSuchRun => Self::Usage { message, hint },
            C::Store => Self::Store { message, hint },
            C::NoSuchPath | C::Unfit | C::InvalidNetwork | C::Setup | C::Stopped | C::Unknown => {
                Self::Failed { message, hint }
            }
        }
    }
}

impl From<runtime::Error> for Error {
    fn from(error: runtime::Error) -> Self {
        match &error {
            runtime::Error::Policy(invalid) => Self::refused(invalid, "policy file"),
            _ => Fault::from(error).into(),
        }
    }
}

impl From<journal::Error> for Error {
    fn from(error: journal::Error) -> Self {
        Fault::from(error).into()
    }
}

impl From<StoredError> for Error {
    fn from(error: StoredError) -> Self {
        runtime::Error::from(error).into()
    }
}

impl From<OverrideError> for Error {
    fn from(error: OverrideError) -> Self {
        match error {
            OverrideError::Invalid(invalid) => Self::Invalid(invalid),
            error => Fault::from(error).into(),
        }
    }
}

/// Runs the command that the process was given, and returns its exit code.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(print::panicked));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    crate::telemetry::log_to_stderr();
    match run(&cli) {
        Ok(code) => code.into(),
        Err(error) => {
            print::error(&error);
            exit::Code::of(&error).into()
        }
    }
}

fn run(cli: &Cli) -> Result<exit::Code, Error> {
    match &cli.command {
        Command::Run(arguments) => run::run(cli, arguments),
        Command::Runs(command) => runs::run(cli, command),
        Command::Audit(command) => audit::run(cli, command),
        Command::Approvals(arguments) => approvals::run(cli, arguments),
        Command::Budget(arguments) => budget::run(cli, arguments),
        Command::Queues => queues::run(cli),
        Command::Knowledge(command) => knowledge::run(cli, command),
        Command::Check(arguments) => check::run(cli, arguments),
        Command::Policy(command) => policy::run(cli, command),
        Command::Graph(arguments) => graph::run(arguments),
        Command::New(arguments) => new::run(cli, arguments),
        Command::SimServer(arguments) => sim_server::run(cli, arguments),
        Command::Completions(arguments) => completions::run(arguments),
    }
}

/// Reads a run's priority.
fn priority() -> impl TypedValueParser<Value = Priority> {
    PossibleValuesParser::new(Priority::ALL.map(Priority::word)).try_map(|word| word.parse::<Priority>())
}

/// Returns the directory that state is kept in.
fn data_directory(cli: &Cli) -> Result<PathBuf, Error> {
    if let Some(directory) = &cli.data_dir {
        return Ok(directory.clone());
    }
    let here = std::env::current_dir().map_err(|error| Error::Store {
        message: format!("the working directory can't be read: {error}"),
        hint: "name a data directory with --data-dir".to_owned(),
    })?;
    Ok(journal::data_directory(&here))
}

/// Prints what clap has to say, and returns the exit code.
fn usage(error: &clap::Error) -> ExitCode {
    match print::usage(error) {
        Ok(()) if error.use_stderr() => exit::Code::Usage.into(),
        Ok(()) => exit::Code::Done.into(),
        Err(fault) => {
            print::error(&fault);
            exit::Code::of(&fault).into()
        }
    }
}

/// Starts the threads that a network runs on.
fn tokio_runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| Error::Failed {
        message: format!("the process can't start its threads: {error}"),
        hint: String::new(),
    })
}

/// Ends what is still under way, before the process ends: no program is left behind.
fn leave(tokio: tokio::runtime::Runtime) {
    // A person may still be being asked, and a tool may block its thread; the process waits for neither. No task goes on
    // from here, so that nobody takes a program that is killed now for one that ended.
    tokio.shutdown_background();
    runtime::kill_programs();
}

/// Ctrl-C, SIGTERM and a closed terminal, caught from the moment this is made. Where signals can't be caught, they end the process at once.
struct Signals(Vec<Signal>);

impl Signals {
    /// Begins to catch signals. To be called within a tokio runtime, before anything that a signal is to end in order.
    fn catch() -> Self {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Self(kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect())
    }

    /// Waits for the next signal.
    async fn next(&mut self) {
        std::future::poll_fn(|context| {
            let came = self.0.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
            if came { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Keeps panics off the terminal: what panics (a tool, an agent) is the business of its supervisor, which records it.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::debug!(place, "a task panicked");
    }));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_command_can_be_read() {
        super::Cli::command().debug_assert();
    }
}
