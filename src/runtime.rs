//! The runtime: a network's agents as supervised actors, and the gate that all their effects pass.
//!
//! All of the actors and all of the spawning is in here. A [`Runtime`] serves any number of runs of one network at
//! once; they share its models, its permits and its limits on calls under way.

mod agent_actor;
mod clock;
mod fleet;
mod gate;
mod network_supervisor;
mod report;
mod router;
mod run_supervisor;
mod scope;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ractor::{Actor, ActorRef};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

pub use gate::{Approver, Question};
pub use report::{AgentReport, Report, UsageReport};

use self::fleet::{Fleet, Model, Values};
use self::network_supervisor::{NetworkMessage, NetworkSupervisor};
use self::run_supervisor::{Beginning, RunMessage};
use self::scope::{Ledger, Scope};
use crate::budget::{Account, Rates};
use crate::journal::{Log, Reader};
use crate::model::{self, Provider};
use crate::run::{Envelope, Event, RunEnd, RunId, Status, Stream};
use crate::spec::{ModelSpec, Network, TemplateError};
use crate::tool::{self, ErasedTool};

/// How long an input may be, in bytes: more than any model reads.
pub const MAX_INPUT_BYTES: usize = 4 * 1024 * 1024;

/// Why a runtime or a run can't be started. Once a run has started, whatever happens to it is in its [`Report`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A model of the network can't be made ready.
    #[error("model `{model}` can't be used")]
    Model {
        /// The model's name in the network.
        model: String,
        /// Why.
        #[source]
        source: model::SetupError,
    },
    /// The network has a tool of the embedding program's, and it was not registered.
    #[error("tool `{0}` is the program's own, but none was registered under that name")]
    NoSuchTool(String),
    /// A tool can't be opened.
    #[error("tool `{tool}` can't be opened")]
    Tool {
        /// The tool's name in the network.
        tool: String,
        /// Why.
        #[source]
        source: tool::Error,
    },
    /// A template can't be rendered over the run's input and variables.
    #[error("the template {place} can't be rendered")]
    Template {
        /// Where it stands in the network file.
        place: String,
        /// Why.
        #[source]
        source: TemplateError,
    },
    /// A JSON Schema can't be used.
    #[error("the JSON Schema of `{of}` can't be used: {message}")]
    Schema {
        /// The tool or agent.
        of: String,
        /// What is wrong with it.
        message: String,
    },
    /// The input is too long.
    #[error(
        "the input has {0} bytes, and may have at most {MAX_INPUT_BYTES}; put long material in files that a tool reads"
    )]
    InputTooLong(usize),
    /// The runtime is shutting down or has failed.
    #[error("the runtime has stopped")]
    Stopped,
}

/// Makes a [`Runtime`].
pub struct Builder {
    network: Arc<Network>,
    providers: HashMap<String, Arc<dyn Provider>>,
    tools: HashMap<String, Arc<dyn ErasedTool>>,
    approver: Option<Arc<dyn Approver>>,
}

impl Builder {
    /// Registers the provider of the model `name`, in place of what the network says of it.
    #[must_use]
    pub fn provider(mut self, name: impl Into<String>, provider: impl Provider) -> Self {
        self.providers.insert(name.into(), Arc::new(provider));
        self
    }

    /// Registers the tool that the network calls `name`.
    #[must_use]
    pub fn tool(mut self, name: impl Into<String>, tool: impl ErasedTool) -> Self {
        self.tools.insert(name.into(), Arc::new(tool));
        self
    }

    /// Sets who is asked for approval. Without one, a run that needs approval is parked.
    #[must_use]
    pub fn approver(mut self, approver: impl Approver) -> Self {
        self.approver = Some(Arc::new(approver));
        self
    }

    /// Starts the network's supervisor. To be called within a tokio runtime.
    ///
    /// # Errors
    /// A model that can't be made ready (a key that is not there, a script that does not parse), or a provider or tool
    /// of the program's own that was not registered.
    pub async fn start(mut self) -> Result<Runtime, Error> {
        let spec = self.network.spec();
        let missing = |(name, tool): (&String, &crate::spec::ToolSpec)| {
            (tool.builtin.is_none() && !self.tools.contains_key(name)).then(|| name.clone())
        };
        if let Some(name) = spec.tools.iter().find_map(missing) {
            return Err(Error::NoSuchTool(name));
        }
        let mut models = HashMap::new();
        let stand_in = (fleet::STAND_IN.to_owned(), ModelSpec::default());
        let declared = spec.models.iter().map(|(name, model)| (name.clone(), model.clone()));
        for (name, model) in declared.chain(spec.models.is_empty().then_some(stand_in)) {
            let provider = match self.providers.remove(&name) {
                Some(provider) => provider,
                None => {
                    model::provider(&model, &spec.sim).map_err(|source| Error::Model { model: name.clone(), source })?
                }
            };
            let permits = model.in_flight.map(|bound| Arc::new(Semaphore::new(bound as usize)));
            let rates = model.price.as_ref().map(Rates::new).unwrap_or_default();
            models.insert(name.into(), Arc::new(Model { spec: model, provider, rates, permits }));
        }
        let fleet = Arc::new(Fleet::new(self.network, models, self.tools, self.approver));
        let spawned = Actor::spawn(None, NetworkSupervisor, fleet.clone()).await;
        let (supervisor, _) = spawned.map_err(|_| Error::Stopped)?;
        Ok(Runtime { fleet, supervisor })
    }
}

/// A network that runs.
///
/// Dropping it ends nothing: runs under way go on, and its supervisor stays until the process ends.
/// [`Runtime::shutdown`] ends both.
pub struct Runtime {
    fleet: Arc<Fleet>,
    supervisor: ActorRef<NetworkMessage>,
}

/// One input for a network.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// The input, verbatim.
    pub input: Arc<str>,
    /// Variables for templates, as `vars`.
    pub vars: BTreeMap<String, String>,
    /// Who the run belongs to.
    pub tenant: Arc<str>,
    /// The key that several runs share.
    pub session: Option<Arc<str>>,
    /// The run's id; a new one where it is left out. It must not be in use.
    pub id: Option<RunId>,
}

impl RunRequest {
    /// The tenant of runs that name none.
    pub const DEFAULT_TENANT: &str = "local";

    /// Asks for a run of the default tenant with no session and no variables.
    pub fn new(input: impl Into<Arc<str>>) -> Self {
        Self {
            input: input.into(),
            vars: BTreeMap::new(),
            tenant: Self::DEFAULT_TENANT.into(),
            session: None,
            id: None,
        }
    }
}

impl Runtime {
    /// Begins to make a runtime for a network.
    pub fn builder(network: impl Into<Arc<Network>>) -> Builder {
        Builder { network: network.into(), providers: HashMap::new(), tools: HashMap::new(), approver: None }
    }

    /// Starts a run and waits for its end. Dropping the future does not end the run; see [`Runtime::start`] for a
    /// handle that can.
    ///
    /// # Errors
    /// As [`Runtime::start`].
    pub async fn run(&self, input: impl Into<Arc<str>>) -> Result<Report, Error> {
        self.start(RunRequest::new(input)).await?.wait().await
    }

    /// Starts a run.
    ///
    /// # Errors
    /// An input that is too long, a prompt that can't be rendered over it, a tool that can't be opened, or a runtime
    /// that has stopped. Nothing has been spent then.
    pub async fn start(&self, request: RunRequest) -> Result<RunHandle, Error> {
        let RunRequest { input, vars, tenant, session, id } = request;
        if input.len() > MAX_INPUT_BYTES {
            return Err(Error::InputTooLong(input.len()));
        }
        let id = id.unwrap_or_else(new_run_id);
        let values = Values { input: &input, vars: &vars };
        let prompts = self.fleet.render_prompts(&values)?;
        let tools = self.fleet.bind_tools(&values)?;
        let definitions = self.fleet.definitions(&tools)?;
        let log = Arc::new(Log::default());
        let (report, reported) = oneshot::channel();
        let scope = Arc::new(Scope {
            stream: Arc::new(Stream { run: id.clone(), tenant, session }),
            ledger: Arc::new(Ledger::new(Account::new(&self.fleet.network.spec().network.limits))),
            fleet: self.fleet.clone(),
            tools,
            prompts,
            definitions,
            cancelled: CancellationToken::new(),
        });
        let network = self.fleet.network.clone();
        let began = Event::RunStarted { network, input: input.clone(), vars: Arc::new(vars) };
        let beginning = Box::new(Beginning { scope, log: log.clone(), started: began, input, report });
        let (started, actor) = oneshot::channel();
        self.supervisor.cast(NetworkMessage::Start { beginning, started }).map_err(|_| Error::Stopped)?;
        let supervisor = actor.await.map_err(|_| Error::Stopped)?;
        Ok(RunHandle { id, log, supervisor, reported })
    }

    /// Cancels all runs and waits until they have ended.
    pub async fn shutdown(self) {
        let (done, ended) = oneshot::channel();
        if self.supervisor.cast(NetworkMessage::Shutdown { done }).is_ok() {
            let _ = ended.await;
        }
    }
}

/// Makes an id for a run: no other run has it, and ids sort by the time at which they were made.
pub fn new_run_id() -> RunId {
    RunId::new(ulid::Ulid::generate().to_string().to_lowercase())
}

/// A run under way. Dropping the handle lets the run go on.
pub struct RunHandle {
    id: RunId,
    log: Arc<Log<Envelope>>,
    supervisor: ActorRef<RunMessage>,
    reported: oneshot::Receiver<Report>,
}

impl RunHandle {
    /// Returns the run's id.
    pub fn id(&self) -> &RunId {
        &self.id
    }

    /// Starts to read the run's events from the first on.
    pub fn events(&self) -> Reader<Envelope> {
        self.log.reader()
    }

    /// Returns something that can cancel the run while others wait for it.
    pub fn canceller(&self) -> Canceller {
        Canceller { supervisor: self.supervisor.clone() }
    }

    /// Waits for the run's end.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the run's supervisor failed, which is a bug in Provost; its log names it.
    pub async fn wait(self) -> Result<Report, Error> {
        self.reported.await.map_err(|_| Error::Stopped)
    }
}

/// Cancels a run.
#[derive(Clone)]
pub struct Canceller {
    supervisor: ActorRef<RunMessage>,
}

impl Canceller {
    /// Stops the run's model streams and processes, and ends it as cancelled; a run that has ended stays as it is.
    pub fn cancel(&self, reason: impl Into<String>) {
        let end = RunEnd::without_answer(Status::Cancelled, reason);
        let _ = self.supervisor.cast(RunMessage::Cancel(end));
    }
}
