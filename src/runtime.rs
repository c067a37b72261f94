//! The runtime: a network's agents as supervised actors, and the gate that all their effects pass.
//!
//! All of the actors and all of the spawning is in here. A [`Runtime`] serves any number of runs of one network at
//! once; they share its models, its permits and its limits on calls under way.

mod agent_actor;
mod clock;
mod definitions;
mod fleet;
mod fork;
mod funds;
mod gate;
mod handle;
mod host;
mod kept;
mod launching;
mod letters;
mod mailboxes;
mod network_supervisor;
mod offline;
mod policies;
mod purse;
mod read_again;
mod recorder;
mod replay;
mod report;
mod router;
mod run_supervisor;
mod scope;
mod supervision;
mod supposed;
mod sync;
#[cfg(test)]
mod tests;
mod traffic;
mod voice;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use ractor::{Actor, ActorRef};
use tokio::sync::oneshot;

pub use fork::Fork;
pub use gate::{Approver, Inquired, Question};
pub use handle::{Controls, RunHandle};
pub use host::{Answered, Host};
pub use letters::{Letter, Settled, Settlement, read_settled};
pub use policies::{ReloadedPolicies, check_policies, policy_vocabulary, present_policies};
pub use purse::{Ask, Exhausted, MAX_SOURCES, Purse, Refusal, SharedAccount, Source};
pub use recorder::{Past, Recorder, read_entries, read_ledger, run_of, stream_of};
pub use replay::{ReplayError, Replayer};
pub use report::{AgentReport, ApprovalReport, MailboxReport, QuestionReport, Report, UsageReport};
pub use run_supervisor::Approved;
pub use supposed::{Rehearsal, Supposed};
pub use traffic::{InLine, Queue, QueueFor, QueueKind};
pub use voice::{Follower, Happening, Tokens};

pub(crate) use crate::tool::kill_programs;
pub(crate) use voice::Voice;

use self::fleet::{Fleet, Model};
use self::handle::{Line, ReportTo};
use self::launching::Trail;
use self::network_supervisor::{NetworkMessage, NetworkSupervisor};
use self::policies::{InForce, parameters};
use self::recorder::Claim;
use self::run_supervisor::{Launch, Opening};
use self::scope::Scope;
use self::traffic::Terms;
use crate::budget::Rates;
use crate::journal::{self, Log};
use crate::model::{self, Identity, Provider};
use crate::policy::Policies;
use crate::run::{
    Agent, Ballot, Beginning, CallId, Envelope, NoAnswer, NoForkPoint, NotApproved, Priority, RunId, StoredError,
    Stream,
};
use crate::spec::{ModelSpec, Network, STAND_IN, TemplateError};
use crate::tool::{self, ErasedTool};

/// How long an input may be, in bytes: more than any model reads.
pub const MAX_INPUT_BYTES: usize = 4 * 1024 * 1024;

/// Why a runtime or a run can't be started. Once a run has started, whatever happens to it is in its [`Report`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The limits of an account can't be raised so.
    #[error(transparent)]
    NotRaised(#[from] crate::budget::NotRaised),
    /// The network's policies can't be used: all that is wrong with them.
    #[error(transparent)]
    Policy(#[from] crate::spec::Invalid),
    /// What a person says of a call can't be taken.
    #[error("run {run} {why}")]
    NotApproved {
        /// The run.
        run: RunId,
        /// Why.
        why: NotApproved,
    },
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
    /// An agent was registered that the network does not have.
    #[error("the network has no agent `{0}`")]
    NoSuchAgent(String),
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
    /// A session or a tenant has a name that is none: all that are named so by mistake would share what is kept of them.
    #[error("the {of} {why}")]
    NotAName {
        /// `session` or `tenant`.
        of: &'static str,
        /// Why, as the rest of a sentence that begins with it.
        why: &'static str,
    },
    /// There is no such run.
    #[error("there is no run {0}")]
    NoSuchRun(RunId),
    /// What was asked can't be done with a run that stands so.
    #[error("run {run} {why}")]
    Unfit {
        /// The run.
        run: RunId,
        /// Why it can't be done, as the rest of a sentence that begins with the run.
        why: String,
    },
    /// A person's answer can't be taken.
    #[error("run {run} {why}")]
    NoAnswer {
        /// The run.
        run: RunId,
        /// Why.
        why: NoAnswer,
    },
    /// A run can't be forked where it was to be.
    #[error("run {run} {why}")]
    NoForkPoint {
        /// The run.
        run: RunId,
        /// Why.
        why: NoForkPoint,
    },
    /// There is no such dead letter.
    #[error("run {run} {why}")]
    NoLetter {
        /// The run.
        run: RunId,
        /// Why, as the rest of a sentence that begins with the run.
        why: String,
    },
    /// A dead letter is settled, and that is done once.
    #[error("{0}")]
    Settled(Box<Settled>),
    /// A run can't go on in another network, since something is at work in it that the network does not have.
    #[error("network `{network}` does not fit run {run}: {}", .lacks.join("; "))]
    Misfit {
        /// The network's name.
        network: String,
        /// The run.
        run: RunId,
        /// What the network lacks, each in a few words.
        lacks: Vec<String>,
    },
    /// The directory of a run is no text, so that it could not be kept.
    #[error("the directory {} is no UTF-8 text", .0.display())]
    Directory(PathBuf),
    /// The network that a run is kept with can't be read.
    #[error("the network of run {run} can't be read")]
    Network {
        /// The run.
        run: RunId,
        /// Why.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// The store can't be read or written.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// What is in the store can't be understood.
    #[error(transparent)]
    Stored(#[from] StoredError),
    /// The supervisor of a network gave up.
    #[error("{0}; the run is interrupted, and can be taken up again")]
    GaveUp(String),
    /// As many runs as may wait for their turn already.
    #[error("as many runs wait as may (`queue.capacity` under [network.fleet]); start it when some have ended")]
    QueueFull,
    /// The runtime is shutting down or has failed.
    #[error("the runtime has stopped")]
    Stopped,
}

/// Makes a [`Runtime`].
pub struct Builder {
    network: Arc<Network>,
    providers: HashMap<String, Arc<dyn Provider>>,
    tools: HashMap<String, Arc<dyn ErasedTool>>,
    behaviours: HashMap<String, Arc<dyn Agent>>,
    approver: Option<Arc<dyn Approver>>,
    is_followed: bool,
    recorder: Option<Arc<Recorder>>,
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

    /// Registers what says in the place of a model what the agent `name` of the network does next.
    #[must_use]
    pub fn agent(mut self, name: impl Into<String>, agent: impl Agent) -> Self {
        self.behaviours.insert(name.into(), Arc::new(agent));
        self
    }

    /// Sets who is asked for approval. Without one, a run that needs approval is parked.
    #[must_use]
    pub fn approver(mut self, approver: impl Approver) -> Self {
        self.approver = Some(Arc::new(approver));
        self
    }

    /// Lets [`RunHandle::follow`] tell what the models of a run say from their first word on; else it is what they say from
    /// when it is called, which may be later. What is said waits within a bound until the run is followed, or its handle
    /// is dropped.
    #[must_use]
    pub fn followed(mut self) -> Self {
        self.is_followed = true;
        self
    }

    /// Sets what the runs are written down by. Without one they end with the process: nothing of them is kept.
    #[must_use]
    pub fn recorder(mut self, recorder: impl Into<Arc<Recorder>>) -> Self {
        self.recorder = Some(recorder.into());
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
        if let Some(name) = self.behaviours.keys().find(|name| !spec.agents.contains_key(*name)) {
            return Err(Error::NoSuchAgent(name.clone()));
        }
        let recorder = self.recorder.unwrap_or_else(|| Arc::new(Recorder::in_memory()));
        let mut models = HashMap::new();
        let stand_in = (STAND_IN.to_owned(), ModelSpec::default());
        let declared = spec.models.iter().map(|(name, model)| (name.clone(), model.clone()));
        for (name, model) in declared.chain(spec.models.is_empty().then_some(stand_in)) {
            let (provider, identity) = match self.providers.remove(&name) {
                Some(provider) => (provider, None),
                None => {
                    let provider = model::provider(&model, &spec.sim)
                        .map_err(|source| Error::Model { model: name.clone(), source })?;
                    (provider, Identity::of(&model))
                }
            };
            let turnstile = recorder.traffic.provider(&name, identity, &Terms::of(&model));
            let rates = model.price.as_ref().map(Rates::new).unwrap_or_default();
            models.insert(name.into(), Arc::new(Model::new(model, provider, rates, turnstile)));
        }
        let policies = Policies::new(&self.network, &parameters(&self.network, &self.tools))?;
        let (tools, policies) = (self.tools, InForce::new(policies));
        let fleet = Fleet::new(self.network, recorder, models, tools, self.behaviours, self.approver, policies);
        let fleet = Arc::new(fleet);
        let spawned = Actor::spawn(None, NetworkSupervisor, fleet.clone()).await;
        let (supervisor, _) = spawned.map_err(|_| Error::Stopped)?;
        Ok(Runtime { fleet, supervisor, is_followed: self.is_followed })
    }
}

/// A network that runs.
///
/// Dropping it ends nothing: runs under way go on, and its supervisor stays until the process ends.
/// [`Runtime::shutdown`] ends both.
pub struct Runtime {
    fleet: Arc<Fleet>,
    supervisor: ActorRef<NetworkMessage>,
    is_followed: bool,
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
    /// The run's share beside other runs of its tenant.
    pub priority: Priority,
    /// The run's id; a new one where it is left out. It must not be in use.
    pub id: Option<RunId>,
    /// The directory that the network's relative paths are resolved against; the process's own where it is left out.
    pub directory: Option<PathBuf>,
    /// Whether the process's approver may be asked; if not, a call that needs approval parks the run.
    pub is_attended: bool,
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
            priority: Priority::default(),
            id: None,
            directory: None,
            is_attended: true,
        }
    }

    /// Looks whether the session, if there is one, and the tenant have names that can be meant.
    ///
    /// # Errors
    /// One of them is empty, has nothing but spaces, or holds control characters: as of a variable that was not set, or of
    /// the end of a line that was read along.
    pub fn check_names(&self) -> Result<(), Error> {
        let named = self.session.as_deref().map(|session| ("session", session));
        for (of, name) in named.into_iter().chain([("tenant", &*self.tenant)]) {
            let why = match name {
                name if name.chars().any(char::is_control) => "holds a line break or another control character",
                "" => "is empty",
                name if name.trim().is_empty() => "has nothing but spaces",
                _ => continue,
            };
            return Err(Error::NotAName { of, why });
        }
        Ok(())
    }

    fn directory(&self) -> Result<Arc<str>, Error> {
        let given = self.directory.clone().unwrap_or_else(|| PathBuf::from("."));
        let absolute = std::path::absolute(&given).unwrap_or(given);
        let text = absolute.to_str().map(Arc::from);
        text.ok_or(Error::Directory(absolute))
    }
}

/// What is said of a run's open calls when it is taken up again.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// What people say of calls that await approval. Those that are left out are asked about again, where there is somebody
    /// to ask.
    pub ballots: Vec<(CallId, Ballot)>,
    /// Whether the process's approver may be asked about others.
    pub is_attended: bool,
}

impl Runtime {
    /// Begins to make a runtime for a network.
    pub fn builder(network: impl Into<Arc<Network>>) -> Builder {
        Builder {
            network: network.into(),
            providers: HashMap::new(),
            tools: HashMap::new(),
            behaviours: HashMap::new(),
            approver: None,
            is_followed: false,
            recorder: None,
        }
    }

    /// Starts a run and waits for its end. Dropping the future does not end the run; see [`Runtime::start`] for a
    /// handle that can.
    ///
    /// # Errors
    /// As [`Runtime::start`].
    pub async fn run(&self, input: impl Into<Arc<str>>) -> Result<Report, Error> {
        self.start(RunRequest::new(input)).await?.wait().await
    }

    /// Starts a run. When this returns, the run is in the store, and no crash loses it.
    ///
    /// # Errors
    /// An input that is too long, a session or a tenant without a name, a prompt that can't be rendered over the input, a tool
    /// that can't be opened, a store that can't be written, or a runtime that has stopped. Nothing has been spent then.
    pub async fn start(&self, request: RunRequest) -> Result<RunHandle, Error> {
        request.check_names()?;
        let directory = request.directory()?;
        let RunRequest { input, vars, tenant, session, priority, id, is_attended, .. } = request;
        if input.len() > MAX_INPUT_BYTES {
            return Err(Error::InputTooLong(input.len()));
        }
        let run = id.unwrap_or_else(new_run_id);
        let beginning = Beginning {
            stream: Arc::new(Stream { run, tenant, session }),
            name: self.fleet.network.spec().network.name.as_str().into(),
            network: self.fleet.text.clone(),
            directory,
            input,
            vars: Arc::new(vars),
            version: VERSION.into(),
            put_back: None,
            priority,
        };
        self.begin(beginning, is_attended).await
    }

    /// Starts a run that begins so.
    async fn begin(&self, beginning: Beginning, is_attended: bool) -> Result<RunHandle, Error> {
        if self.fleet.widths.is_full() {
            return Err(Error::QueueFull);
        }
        let claim = self.fleet.recorder.claim(&beginning.stream.run, 0)?;
        let trail = Trail::default();
        let log = trail.log.clone();
        let scope = self.fleet.scope(&beginning, None, is_attended, trail)?;
        self.launch(scope, Opening::Fresh(beginning.started()), log, claim).await
    }

    /// Takes up a run again that was interrupted or parked, from where its events end. Calls that were cut off are
    /// made again or not by the rule of their effect class. When this returns, the run is marked as taken up.
    ///
    /// # Errors
    /// The run has ended for good, is under way, or has gone on since its past was read; else as for
    /// [`Runtime::start`].
    pub async fn resume(&self, past: Past, answers: Answers) -> Result<RunHandle, Error> {
        let (scope, opening, log, claim) = self.fleet.resumed(past, answers, Arc::default())?;
        self.launch(scope, opening, log, claim).await
    }

    async fn launch(
        &self,
        scope: Arc<Scope>,
        opening: Opening,
        log: Arc<Log<Envelope>>,
        claim: Claim,
    ) -> Result<RunHandle, Error> {
        let (id, voice) = (scope.stream.run.clone(), scope.voice.clone());
        let first = std::sync::Mutex::new(self.is_followed.then(|| voice.follow(log.reader())));
        let (report, reported) = oneshot::channel();
        let (begun, durable) = oneshot::channel();
        let (line, report) = (Arc::new(Line::default()), ReportTo::new(report));
        let launch = Launch { scope, log: log.clone(), opening, claim, begun, report };
        let (started, is_started) = oneshot::channel();
        let start = NetworkMessage::Start { launch: Box::new(launch), line: line.clone(), started };
        self.supervisor.cast(start).map_err(|_| Error::Stopped)?;
        is_started.await.map_err(|_| Error::Stopped)?;
        // Where the store had failed before, nobody could be told so by it.
        durable.await.unwrap_or_else(|_| self.fleet.recorder.check().and(Err(Error::Stopped)))?;
        Ok(RunHandle { id, log, voice, first, line, reported })
    }

    /// Returns the policies that hold now.
    fn policies(&self) -> Arc<Policies> {
        self.fleet.policies.now()
    }

    /// Reads the network's policy file again; none where it has none.
    fn read_policies(&self) -> Result<Option<(Network, Policies)>, Error> {
        Ok(policies::again(&self.fleet.network, &self.fleet.host_tools)?)
    }

    fn replace_policies(&self, policies: Policies) {
        self.fleet.policies.replace(policies);
    }

    /// Cancels all runs and waits until they have ended.
    pub async fn shutdown(self) {
        self.stop().await;
    }

    async fn stop(&self) {
        let (done, ended) = oneshot::channel();
        if self.supervisor.cast(NetworkMessage::Shutdown { done }).is_ok() {
            let _ = ended.await;
        }
    }
}

/// The version that decides, as it is kept with each run.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Makes an id for a run: no other run has it, and ids sort by the time at which they were made.
pub fn new_run_id() -> RunId {
    RunId::new(ulid::Ulid::generate().to_string().to_lowercase())
}
