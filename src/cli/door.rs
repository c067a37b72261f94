//! The way into a data directory for commands that change something: the store, where nobody holds it, and else the
//! process that does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Cli, Error, Signals, data_directory, print};
use crate::journal::{self, Store};
use crate::run::RunId;
use crate::runtime::{self, Approver, Host, Recorder};
use crate::serve::anchor;
use crate::serve::control::{Client, ClientError, Control, HEALTH_PATIENCE, Health};
use crate::spec::visible;

/// How long a store is waited for that a process holds without listening: it is just starting or ending, or has
/// something short to do.
const STARTING: Duration = Duration::from_secs(10);

/// How long the holder may take to answer where a person says that it does not.
const TAKE_OVER_PATIENCE: Duration = Duration::from_millis(500);

/// How long it may take to answer whoever only wants to know what it has under way.
const READ_PATIENCE: Duration = Duration::from_millis(500);

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(30);

/// How long the holder's end waits for clients that are slow to take their answers.
const CLOSING: Duration = Duration::from_secs(1);

/// Where a data directory is, and what may be done to get in.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) directory: PathBuf,
    take_over: bool,
}

impl Address {
    pub(super) fn of(cli: &Cli) -> Result<Self, Error> {
        Ok(Self { directory: data_directory(cli)?, take_over: cli.take_over })
    }

    /// Opens the store for reading; none where there is no store yet.
    pub(super) fn store(&self) -> Result<Option<Store>, Error> {
        match Store::open(&self.directory) {
            Ok(store) => Ok(Some(store)),
            Err(journal::Error::Absent { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Says who holds the store, as far as it can be heard.
    pub(super) async fn holder(&self) -> Liveness {
        let Ok(client) = Client::new(&self.directory) else { return Liveness::Nobody };
        Liveness::of(client.health_within(READ_PATIENCE).await)
    }
}

/// Who holds the store.
pub(super) enum Liveness {
    /// No process, or none that can be asked.
    Nobody,
    /// A process that does not answer.
    Silent,
    /// A process that answers.
    Holder(Health),
}

impl Liveness {
    pub(super) fn of(health: Result<Health, ClientError>) -> Self {
        match health {
            Ok(health) => Self::Holder(health),
            Err(ClientError::Silent) => Self::Silent,
            Err(_) => Self::Nobody,
        }
    }

    /// Whether a run is under way; one in a process that does not answer is believed to be.
    pub(super) fn has(&self, run: &RunId) -> bool {
        match self {
            Self::Nobody => false,
            Self::Silent => true,
            Self::Holder(health) => health.runs.contains(run),
        }
    }
}

/// The way in.
pub(super) enum Door {
    /// This process holds the store.
    Here(Holder),
    /// Another process does, and answers.
    There(Client),
}

impl Door {
    /// Finds the way in. To be called within a tokio runtime.
    ///
    /// # Errors
    /// The store can't be opened; or the process that holds it does not answer.
    pub(super) async fn open(address: &Address) -> Result<Self, Error> {
        let began = Instant::now();
        let patience = if address.take_over { TAKE_OVER_PATIENCE } else { HEALTH_PATIENCE };
        loop {
            let pid = match Recorder::open_anchored(&address.directory, false, Some(anchor::connect)) {
                Ok(recorder) => return Ok(Self::Here(Holder::new(recorder, address))),
                Err(runtime::Error::Journal(journal::Error::Held { pid, .. })) => pid,
                Err(error) => return Err(error.into()),
            };
            let client = Client::new(&address.directory).map_err(|error| unreachable(&error))?;
            match client.health_within(patience).await {
                Ok(_) => return Ok(Self::There(client)),
                Err(ClientError::Absent | ClientError::Broken(_)) if began.elapsed() < STARTING => sleep(PAUSE).await,
                Err(ClientError::Silent | ClientError::Absent | ClientError::Broken(_)) => {
                    return Self::take_over(address, pid);
                }
                // It can't write any more, and is about to end.
                Err(ClientError::Fault(_)) if began.elapsed() < STARTING => sleep(PAUSE).await,
                Err(ClientError::Fault(_)) if address.take_over => return Self::take_over(address, pid),
                Err(error) => return Err(unreachable(&error)),
            }
        }
    }

    /// Fences off a process that does not answer, if that was asked for.
    fn take_over(address: &Address, pid: u32) -> Result<Self, Error> {
        if !address.take_over {
            return Err(silent(pid, address));
        }
        match Recorder::open_anchored(&address.directory, true, Some(anchor::connect)) {
            Ok(recorder) => {
                print::notice(&format!(
                    "note: process {pid} writes nothing more; what it has started may still be at work until it is ended\n"
                ));
                Ok(Self::Here(Holder::new(recorder, address)))
            }
            Err(runtime::Error::Journal(journal::Error::Held { pid, .. })) => Err(silent(pid, address)),
            Err(error) => Err(error.into()),
        }
    }
}

/// Says that a process holds the store and does not answer.
fn silent(pid: u32, address: &Address) -> Error {
    let who = if pid == 0 { "another process".to_owned() } else { format!("process {pid}") };
    Error::Store {
        message: format!("{who} holds the store at {} and does not answer", address.directory.display()),
        hint: match address.take_over {
            // The database's own lock is not to be taken away.
            true => "it was stopped in the midst of a write: let it go on for a moment, or end it".to_owned(),
            false => "let that process go on or end it, or fence it off with --take-over".to_owned(),
        },
    }
}

/// Says why the process that holds the store could not be asked.
pub(super) fn unreachable(error: &ClientError) -> Error {
    match error {
        ClientError::Fault(fault) => fault.clone().into(),
        ClientError::Socket(source) => Error::Store { message: format!("{error}: {source}"), hint: String::new() },
        ClientError::Absent | ClientError::Silent | ClientError::Broken(_) => {
            Error::Store { message: error.to_string(), hint: "provost runs list says where the runs stand".to_owned() }
        }
    }
}

/// The store, held by this process.
pub(super) struct Holder {
    pub(super) host: Arc<Host>,
    directory: PathBuf,
    control: Option<Control>,
}

impl Holder {
    fn new(recorder: Recorder, address: &Address) -> Self {
        Self { host: Arc::new(Host::new(recorder)), directory: address.directory.clone(), control: None }
    }

    /// Sets who is asked, and whether what models say is listened to. To be called before anything else.
    pub(super) fn attended(self, approver: Option<impl Approver>, is_followed: bool) -> Self {
        let Self { host, directory, control } = self;
        let host = match Arc::try_unwrap(host) {
            Ok(host) => {
                let host = if is_followed { host.followed() } else { host };
                Arc::new(match approver {
                    Some(approver) => host.with_approver(approver),
                    None => host,
                })
            }
            // Somebody else has it already.
            Err(host) => host,
        };
        Self { host, directory, control }
    }

    /// Lets others in: from here on they reach this process by the control socket.
    pub(super) fn listen(&mut self) {
        match Control::open(&self.directory, self.host.clone()) {
            Ok(control) => self.control = Some(control),
            Err(error) => print::notice(&format!("note: other commands can't reach this process: {error}\n")),
        }
    }

    /// Does something, and answers others meanwhile.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        if let Some(control) = &mut self.control {
            tokio::select! {
                biased;
                done = &mut work => return done,
                served = control.serve() => if let Err(error) = served {
                    tracing::warn!(%error, "the control socket failed");
                },
            }
            // It has failed, and can't be asked again.
            self.control = None;
        }
        work.await
    }

    /// Waits until the runs of others are over too, and lets the store go. A signal leaves at once: the others go on
    /// with their runs themselves.
    ///
    /// # Errors
    /// Something could not be written any more.
    pub(super) async fn leave(mut self, signals: &mut Signals, own: Option<&RunId>) -> Result<(), Error> {
        let guests = self.host.live().iter().filter(|run| Some(*run) != own).count() as u64;
        if guests > 0 {
            print::notice(&format!(
                "note: {} on in this process; Ctrl-C leaves, and their own commands take them over\n",
                if guests == 1 { "another run goes".to_owned() } else { format!("{guests} other runs go") }
            ));
        }
        tokio::select! {
            biased;
            closed = self.close() => closed,
            () = signals.next() => Ok(()),
        }
    }

    /// Waits until no run is under way, and lets the store go.
    ///
    /// # Errors
    /// Something could not be written any more.
    pub(super) async fn close(&mut self) -> Result<(), Error> {
        let host = self.host.clone();
        loop {
            self.during(host.idle()).await;
            let Some(control) = self.control.take() else { break };
            // Who was let in last may have brought a run.
            let _ = timeout(CLOSING, control.close()).await;
            if host.live().is_empty() {
                break;
            }
            self.listen();
        }
        host.shutdown().await?;
        // What is not known of the anchor stops nobody; `provost audit anchor show` says it.
        let (why, then) = match journal::anchoring(&self.directory) {
            Ok(anchoring) => {
                let failing = anchoring.and_then(|anchoring| anchoring.failing).map(|failing| failing.why);
                (failing, "the next command that holds the store tries again")
            }
            Err(error) => (
                Some(error.to_string()),
                "no checkpoint is sent anywhere: provost audit anchor set names an anchor anew, and remove takes it away",
            ),
        };
        if let Some(why) = why {
            print::notice(&format!("warning: {}\n  {then}\n", visible(&why)));
        }
        Ok(())
    }
}
