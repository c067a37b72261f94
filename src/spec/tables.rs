//! The tables of a network file, one type each. What the file says and what a program builds in Rust are the same
//! types; a value of them may still be wrong, and becomes a [`Network`](super::Network) by being checked.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Breaker, BudgetSpec, CompactionSpec, Fleet, GuardsSpec, Limits, MailboxSpec, ModelChoice, OnError, PolicySpec,
    RestartSpec, RoomSpec, RouteSpec, Scope, Span,
};

/// How long the name of a model or tool may be: what providers take as the name of a tool.
pub const MAX_NAME: usize = 64;

/// How long an agent's name may be: `transfer_to_<agent>` must not exceed [`MAX_NAME`].
pub const MAX_AGENT_NAME: usize = MAX_NAME - "transfer_to_".len();

/// Whether a text can be a name: 1 to [`MAX_NAME`] letters (a to z), digits, `_` and `-`.
pub fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(fits)
}

/// A network of agents: who they are, which models and tools they have, and what a run may cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// What the network is called, where it begins, and its limits.
    pub network: NetworkTable,
    /// What may be spent beside what each run may: by all runs of a session, a tenant or the network, or by one agent of a run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<BudgetSpec>,
    /// The models, by the names that agents use.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "name", "pattern": "^[A-Za-z0-9_-]+$", "maxLength": MAX_NAME }))]
    pub models: IndexMap<String, ModelSpec>,
    /// The agents, by name, in the order in which they are started.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "name", "pattern": "^[A-Za-z0-9_-]+$", "maxLength": MAX_AGENT_NAME }))]
    pub agents: IndexMap<String, AgentSpec>,
    /// The routes between agents, for what does not depend on what an agent wants; in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteSpec>,
    /// The tools, by the names that agents use.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "format": "name", "pattern": "^[A-Za-z0-9_-]+$", "maxLength": MAX_NAME }))]
    pub tools: IndexMap<String, ToolSpec>,
    /// How failed agents are restarted, and how long stopping may take.
    #[serde(default)]
    pub supervision: SupervisionSpec,
    /// What is allowed.
    #[serde(default)]
    pub policy: PolicySpec,
    /// How the simulated model behaves.
    #[serde(default)]
    pub sim: SimSpec,
}

/// What the network is called, where it begins, and its limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkTable {
    /// The network's name.
    #[schemars(length(min = 1, max = MAX_NAME))]
    pub name: String,
    /// The agent that gets the run's input.
    #[schemars(length(min = 1))]
    pub entry: String,
    /// An input for load tests and try-outs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<String>,
    /// Limits of each run, shared by all its agents.
    #[serde(default)]
    pub limits: Limits,
    /// Limits shared by all runs of the network.
    #[serde(default)]
    pub fleet: Fleet,
    /// What is taken for a runaway.
    #[serde(default, skip_serializing_if = "GuardsSpec::is_default")]
    pub guards: GuardsSpec,
}

/// One model: who serves it, and how to call it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSpec {
    /// Who serves it. Without a provider the simulated model stands in, and `run` says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderKind>,
    /// The provider's name for the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub model: Option<String>,
    /// Where the provider's API begins, such as `http://127.0.0.1:8080/v1`; its own where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub base_url: Option<String>,
    /// Where the key is: `env:NAME` or `file:PATH`. None for local servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretRef>,
    /// How tools are offered: `native`, or `schema` for models without native tool calls.
    pub tool_calls: ToolCalls,
    /// Whether answers are streamed.
    pub stream: bool,
    /// The sampling temperature; the provider's own where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub temperature: Option<f64>,
    /// How many tokens one answer may have at most.
    #[schemars(range(min = 1))]
    pub max_output_tokens: u32,
    /// The fewest tokens that an answer is worth asking for; a call that a budget would cut below this is not made.
    #[schemars(range(min = 1))]
    pub min_output_tokens: u32,
    /// How many calls of this model may be under way at once, over all runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub in_flight: Option<u32>,
    /// How many requests may be made in a minute, evenly. What is more waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub requests_per_minute: Option<u32>,
    /// How many tokens may be asked for in a minute, evenly: those reserved, corrected by those used. What is more waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tokens_per_minute: Option<u64>,
    /// When calls are held back because it fails; never where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,
    /// What it costs; needed wherever a cost limit is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// How long each part of a call may take.
    pub timeouts: Timeouts,
    /// When and how often a failed call is tried again.
    pub retry: Retry,
}

impl Default for ModelSpec {
    fn default() -> Self {
        Self {
            provider: None,
            model: None,
            base_url: None,
            api_key: None,
            tool_calls: ToolCalls::Native,
            stream: true,
            temperature: None,
            max_output_tokens: 4096,
            min_output_tokens: 64,
            in_flight: None,
            requests_per_minute: None,
            tokens_per_minute: None,
            breaker: None,
            price: None,
            timeouts: Timeouts::default(),
            retry: Retry::default(),
        }
    }
}

/// Who serves a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// A server that speaks the OpenAI chat-completions dialect: OpenAI, llama.cpp, vLLM, Ollama, gateways.
    Openai,
    /// A server that speaks Anthropic's Messages dialect: Anthropic, gateways.
    Anthropic,
    /// Google's Gemini API. Needs the cargo feature `genai`.
    Gemini,
    /// The Converse API of Amazon Bedrock, by a bearer token. Needs the cargo feature `genai`.
    Bedrock,
    /// Ollama's own dialect, which is spoken at `/api/chat`. Needs the cargo feature `genai`.
    Ollama,
    /// A server that speaks OpenAI's Responses dialect. Needs the cargo feature `genai`.
    OpenaiResponses,
    /// The simulated model, in this process.
    Sim,
    /// A provider that the embedding program registers; not for network files.
    #[schemars(skip)]
    Host,
}

impl ProviderKind {
    /// Those that are called over a network.
    pub(crate) const SERVERS: [Self; 6] =
        [Self::Openai, Self::Anthropic, Self::Gemini, Self::Bedrock, Self::Ollama, Self::OpenaiResponses];

    /// Returns its name in network files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Bedrock => "bedrock",
            Self::Ollama => "ollama",
            Self::OpenaiResponses => "openai_responses",
            Self::Sim => "sim",
            Self::Host => "host",
        }
    }

    /// Whether it is a server, called over a network.
    pub fn is_server(self) -> bool {
        Self::SERVERS.contains(&self)
    }

    /// Whether this build of Provost can call it: some need the cargo feature `genai`.
    pub fn is_built_in(self) -> bool {
        let needs_genai = matches!(self, Self::Gemini | Self::Bedrock | Self::Ollama | Self::OpenaiResponses);
        cfg!(feature = "genai") || !needs_genai
    }

    /// Returns the environment variable in which the key of the provider's own API usually is.
    pub(crate) fn key_variable(self) -> Option<&'static str> {
        match self {
            Self::Openai | Self::OpenaiResponses => Some("OPENAI_API_KEY"),
            Self::Anthropic => Some("ANTHROPIC_API_KEY"),
            Self::Gemini => Some("GEMINI_API_KEY"),
            Self::Bedrock => Some("AWS_BEARER_TOKEN_BEDROCK"),
            Self::Ollama | Self::Sim | Self::Host => None,
        }
    }
}

/// How tools are offered to a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolCalls {
    /// By the provider's own tool calls.
    #[default]
    Native,
    /// Each step asks for one JSON object, a tool's call or the final answer, held to a schema.
    Schema,
}

/// Where a secret is; never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SecretRef(
    #[schemars(extend("format" = "secret-ref", "pattern" = "^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$"))] pub String,
);

impl SecretRef {
    /// Whether a text says where a secret is, and is none itself.
    pub fn is_reference(text: &str) -> bool {
        if let Some(name) = text.strip_prefix("env:") {
            return name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        }
        text.strip_prefix("file:").is_some_and(|path| !path.is_empty())
    }
}

/// What a model costs, in US dollars for a million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// For what it reads.
    #[schemars(range(min = 0.0))]
    pub input_usd_per_mtok: f64,
    /// For what it reads from the provider's cache; as other input where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub cached_input_usd_per_mtok: Option<f64>,
    /// For what it reads that is put into the provider's cache; as other input where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub cache_write_usd_per_mtok: Option<f64>,
    /// For what it writes.
    #[schemars(range(min = 0.0))]
    pub output_usd_per_mtok: f64,
}

/// How long each part of a model call may take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Making the connection.
    pub connect: Span,
    /// From the request to the first piece of the answer; to its end, where it is not streamed.
    pub first_token: Span,
    /// Between two pieces of a streamed answer.
    pub between_tokens: Span,
    /// A try from its request to its end, however lively it is; without a bound where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<Span>,
}

impl Default for Timeouts {
    fn default() -> Self {
        let (connect, first_token, between_tokens) = (Span::from_secs(10), Span::from_secs(120), Span::from_secs(60));
        Self { connect, first_token, between_tokens, call: None }
    }
}

/// When and how often a failed model call is tried again. Pauses double from `min` to `max`, with jitter; a longer
/// `Retry-After` of the provider is honoured up to `max_retry_after`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// How many tries a call has, the first one included.
    #[schemars(range(min = 1, max = 100))]
    pub tries: u32,
    /// The first pause.
    pub min: Span,
    /// The longest pause.
    pub max: Span,
    /// The longest `Retry-After` that is waited for; beyond it the call fails.
    pub max_retry_after: Span,
}

impl Default for Retry {
    fn default() -> Self {
        Self { tries: 5, min: Span::from_millis(500), max: Span::from_secs(20), max_retry_after: Span::from_secs(120) }
    }
}

/// One agent: its prompt, and what it may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentSpec {
    /// The system message, a minijinja template over `input` and `vars`. Only an agent for which others work (`flow`,
    /// `network`, `room`) has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1))]
    pub prompt: String,
    /// What the agent is for, in words for the agents that may ask it or hand over to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The model; may be left out where the network has at most one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelChoice>,
    /// The tools that it may call.
    #[serde(default)]
    #[schemars(extend("uniqueItems" = true))]
    pub tools: Vec<String>,
    /// The agents that it may ask; each is offered as the tool `ask_<agent>`, and control comes back.
    #[serde(default)]
    #[schemars(extend("uniqueItems" = true))]
    pub delegates_to: Vec<String>,
    /// The agents that it may hand over to; each is offered as the tool `transfer_to_<agent>`, and control moves.
    #[serde(default)]
    #[schemars(extend("uniqueItems" = true))]
    pub hands_off_to: Vec<String>,
    /// How many steps one instance may take.
    #[serde(default = "AgentSpec::default_max_steps")]
    #[schemars(range(min = 1))]
    pub max_steps: u32,
    /// How long a step may take: its model call with all its tries, and then each of its tools for what is left of it. Agents
    /// that it asks have steps of their own, and what waits for a person waits. No bound where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_timeout: Option<Span>,
    /// How often a step that can't be used (malformed arguments, an unknown tool, an answer that misses its schema)
    /// is sent back to the model before the agent fails.
    #[serde(default = "AgentSpec::default_max_repairs")]
    pub max_repairs: u32,
    /// A file with the JSON Schema that the final answer must satisfy, relative to the network file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub output_schema: Option<String>,
    /// When it is started again after its actor failed.
    #[serde(default, skip_serializing_if = "RestartSpec::is_default")]
    pub restart: RestartSpec,
    /// How often it is given a message that makes it fail, before that becomes a dead letter.
    #[serde(default = "AgentSpec::default_max_deliveries", skip_serializing_if = "AgentSpec::is_default_deliveries")]
    #[schemars(range(min = 1, max = 100))]
    pub max_deliveries: u32,
    /// What follows when an operation of it fails.
    #[serde(default, skip_serializing_if = "OnError::is_default")]
    pub on_error: OnError,
    /// For how long an instance keeps what was said to it.
    #[serde(default, skip_serializing_if = "Scope::is_default")]
    pub scope: Scope,
    /// How many instances may be at work at once, behind one mailbox: in a run, or for all runs that share them. No bound
    /// but those of the run where it is left out of an agent of scope `run`, and one for the other scopes. The instance that
    /// gets a run's input is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub replicas: Option<u32>,
    /// How many of its model and tool calls may be under way at once, over all runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub in_flight: Option<u32>,
    /// What may wait for an instance that is free.
    #[serde(default, skip_serializing_if = "MailboxSpec::is_default")]
    pub mailbox: MailboxSpec,
    /// Makes it stand for an inner flow, which begins with this agent and goes by the routes: its answer is the flow's.
    /// In the place of a prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub flow: Option<String>,
    /// Makes it stand for another network, by its file, relative to this one: the answer is that network's. In the place
    /// of a prompt. The agents, models and tools of that file are known here as `<agent>__<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub network: Option<String>,
    /// Makes it a room, in which other agents speak in turn, in the place of a prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<RoomSpec>,
    /// The topics on which it may publish; each is offered as the tool `publish_<topic>`, and whoever a route leads to from
    /// `#<topic>` gets what it publishes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("uniqueItems" = true))]
    pub publishes: Vec<String>,
    /// Keeps what is sent of its transcript within a bound. Where it is left out, all that was said is sent with each step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compaction: Option<CompactionSpec>,
}

impl AgentSpec {
    /// Makes an agent from its system message, with nothing to use.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self {
            prompt: prompt.into(),
            description: None,
            model: None,
            tools: Vec::new(),
            delegates_to: Vec::new(),
            hands_off_to: Vec::new(),
            max_steps: Self::default_max_steps(),
            max_repairs: Self::default_max_repairs(),
            output_schema: None,
            restart: RestartSpec::default(),
            max_deliveries: Self::default_max_deliveries(),
            on_error: OnError::default(),
            scope: Scope::default(),
            step_timeout: None,
            replicas: None,
            in_flight: None,
            mailbox: MailboxSpec::default(),
            flow: None,
            network: None,
            room: None,
            publishes: Vec::new(),
            compaction: None,
        }
    }

    /// Whether others work for it (a flow, a network, a room), and it does nothing itself.
    pub fn is_flow(&self) -> bool {
        self.flow.is_some() || self.network.is_some() || self.room.is_some()
    }

    /// Returns how many instances may be at work at once; none where only the bounds of the run hold.
    pub fn replicas(&self) -> Option<u32> {
        self.replicas.or((self.scope != Scope::Run).then_some(1))
    }

    fn default_max_deliveries() -> u32 {
        3
    }

    fn is_default_deliveries(deliveries: &u32) -> bool {
        *deliveries == Self::default_max_deliveries()
    }

    fn default_max_steps() -> u32 {
        20
    }

    fn default_max_repairs() -> u32 {
        3
    }
}

/// One tool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ToolSpec {
    /// Which built-in tool it is; none only for tools that a program supplies in Rust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builtin: Option<Builtin>,
    /// The directory that the tool works in and never leaves: a template, resolved against the working directory.
    /// The working directory itself where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub root: Option<String>,
    /// The programs that `process.run` may start, by name or absolute path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("uniqueItems" = true))]
    pub allow: Vec<String>,
    /// Whose memory a `memory` tool has; the agent's where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<MemoryScope>,
    /// What `knowledge.search` searches: a name under which `provost knowledge add` has indexed files.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), extend("pattern" = "^[A-Za-z0-9_-]{1,64}$"))]
    pub knowledge: Option<String>,
    /// What a second call with the same arguments would do; the tool's own word where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// Another tool of the network that is asked what became of a call of this one that was cut off, before a person is:
    /// a `process.run` with `effect = "pure"` and one program. The program's argument is the call's idempotency key, and
    /// its stdin a JSON object with `key`, `tool` and `arguments`; it prints `{"state": "done", "result": "…"}`,
    /// `{"state": "not_done"}` or `{"state": "unknown"}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconcile: Option<String>,
    /// How long a call may take; 60 seconds where it is left out, but for `clock.sleep`, which then takes as long as it is
    /// asked to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// How many calls of it may be under way at once, over all runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub in_flight: Option<u32>,
    /// How many bytes of a result reach the model; the rest is cut, and the cut is marked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub output_limit_bytes: Option<usize>,
    /// What the tool's results carry with them.
    pub labels: ToolLabels,
}

impl ToolSpec {
    /// How long a call may take where the network says nothing.
    pub const DEFAULT_TIMEOUT: Span = Span::from_secs(60);
    /// How much of a result reaches the model where the network says nothing: about 16,000 tokens.
    pub const DEFAULT_OUTPUT_LIMIT_BYTES: usize = 64 * 1024;

    /// Returns how long a call may take; none where it may take as long as it wants.
    pub fn timeout(&self) -> Option<Span> {
        match self.builtin {
            // It has a bound of its own, and takes time because it is asked to.
            Some(Builtin::ClockSleep) => self.timeout,
            // People take the time that they take.
            Some(Builtin::PersonAsk) => None,
            _ => Some(self.timeout.unwrap_or(Self::DEFAULT_TIMEOUT)),
        }
    }

    /// Returns how many bytes of a result reach the model.
    pub fn output_limit_bytes(&self) -> usize {
        self.output_limit_bytes.unwrap_or(Self::DEFAULT_OUTPUT_LIMIT_BYTES)
    }
}

/// The built-in tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Builtin {
    /// Lists files beneath the root.
    #[serde(rename = "fs.list")]
    FsList,
    /// Reads a file beneath the root.
    #[serde(rename = "fs.read")]
    FsRead,
    /// Searches files beneath the root.
    #[serde(rename = "fs.search")]
    FsSearch,
    /// Writes a file beneath the root.
    #[serde(rename = "fs.write")]
    FsWrite,
    /// Starts an allowed program, without a shell.
    #[serde(rename = "process.run")]
    ProcessRun,
    /// Tells the time.
    #[serde(rename = "clock.now")]
    ClockNow,
    /// Comes back when a span of time is over, which may outlast the process.
    #[serde(rename = "clock.sleep")]
    ClockSleep,
    /// Asks a person, and waits for the answer, which may outlast the process.
    #[serde(rename = "person.ask")]
    PersonAsk,
    /// Keeps a fact for later runs.
    #[serde(rename = "memory.put")]
    MemoryPut,
    /// Finds facts that were kept.
    #[serde(rename = "memory.search")]
    MemorySearch,
    /// Lets a fact go.
    #[serde(rename = "memory.forget")]
    MemoryForget,
    /// Searches files that were indexed.
    #[serde(rename = "knowledge.search")]
    KnowledgeSearch,
    /// Reads a result again that was moved out of a transcript: the runtime's own, and none that a network names.
    #[serde(skip)]
    #[schemars(skip)]
    ReadAgain,
}

impl Builtin {
    /// Whether the tool only looks, and changes nothing.
    pub fn is_read_only(self) -> bool {
        match self {
            Self::FsList | Self::FsRead | Self::FsSearch | Self::ClockNow | Self::ClockSleep => true,
            Self::ReadAgain => true,
            // What it says goes to who runs the network, and to nobody else.
            Self::PersonAsk => true,
            Self::MemorySearch | Self::KnowledgeSearch => true,
            Self::FsWrite | Self::ProcessRun | Self::MemoryPut | Self::MemoryForget => false,
        }
    }

    /// Whether the tool changes nothing but, if that, what the runtime itself keeps in its data directory.
    pub fn stays_inside(self) -> bool {
        self.is_read_only() || self.is_memory()
    }

    /// Whether the tool has a memory, which is somebody's.
    pub fn is_memory(self) -> bool {
        matches!(self, Self::MemoryPut | Self::MemorySearch | Self::MemoryForget)
    }

    /// Whether the tool works beneath a root.
    pub fn has_root(self) -> bool {
        matches!(self, Self::FsList | Self::FsRead | Self::FsSearch | Self::FsWrite | Self::ProcessRun)
    }
}

/// Whose memory a tool has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemoryScope {
    /// The agent's of this name in networks of this name, for each tenant its own.
    #[default]
    Agent,
    /// That of all runs with the same session.
    Session,
    /// That of all runs of the tenant.
    Tenant,
}

/// What a second call with the same arguments would do. It governs what happens when a call is in doubt, never
/// whether the call is allowed. In order: the later, the stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing in the world changes, however often it is called.
    Pure,
    /// A second call leaves the world as the first one did.
    Idempotent,
    /// A second call does it again.
    Once,
}

impl Effect {
    /// Returns the word for it in a network file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Idempotent => "idempotent",
            Self::Once => "once",
        }
    }
}

/// The labels of a tool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ToolLabels {
    /// The label that the tool's results carry.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub reads: Option<String>,
}

/// How failed agents are restarted, and how long stopping may take, in OTP's words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SupervisionSpec {
    /// Who is restarted when one agent fails.
    pub strategy: Strategy,
    /// How many restarts are borne within `period`; one more fails the run.
    pub intensity: u32,
    /// The sliding window in which restarts are counted.
    pub period: Span,
    /// How long a tool call that is told to stop may take before it is aborted, and its process group killed; at most an
    /// hour. Nothing is waited for where it is `"0s"`.
    #[serde(skip_serializing_if = "SupervisionSpec::is_default_shutdown")]
    #[schemars(extend("default" = Self::DEFAULT_SHUTDOWN))]
    pub shutdown: Span,
}

impl SupervisionSpec {
    /// How long stopping may take where the network says nothing.
    pub const DEFAULT_SHUTDOWN: Span = Span::from_secs(1);
    /// How long stopping may be allowed to take: whoever stops a network waits for it.
    pub const MAX_SHUTDOWN: Span = Span::from_secs(60 * 60);

    /// Left out where it says nothing new, so that a network that was kept before there was such a key is still the same.
    fn is_default_shutdown(shutdown: &Span) -> bool {
        *shutdown == Self::DEFAULT_SHUTDOWN
    }
}

impl Default for SupervisionSpec {
    fn default() -> Self {
        let (strategy, shutdown) = (Strategy::OneForOne, Self::DEFAULT_SHUTDOWN);
        Self { strategy, intensity: 3, period: Span::from_secs(30), shutdown }
    }
}

/// Who is restarted when one agent fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// That agent alone.
    #[default]
    OneForOne,
    /// All agents of the run that stand for themselves; instances that a question brought into being go on.
    OneForAll,
    /// That agent, and those of them that started after it.
    RestForOne,
}

/// How the simulated model behaves, wherever it stands in for a model of the network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SimSpec {
    /// What its chances are drawn from: the same seed gives the same faults and delays.
    pub seed: u64,
    /// How long an answer takes; no time at all where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// How often each fault strikes a try.
    pub faults: Faults,
    /// What each agent says, by the agent's name: a template for each step, the last one for all later steps. A
    /// template sees `input`, `step`, `results` (of the last step's tool calls: `name`, `arguments`, `content`,
    /// `failed`), `all_results` (of the whole transcript) and `messages` (`role`, `text`); it renders to the final
    /// answer, or to a JSON object `{"calls": [{"name": …, "arguments": {…}}]}`. An agent without a script calls some
    /// of what it is offered, and then says that it is simulated.
    pub script: IndexMap<String, Vec<String>>,
}

/// How long a simulated answer takes: a log-normal distribution through two of its quantiles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Half of all answers take at most this long.
    pub p50: Span,
    /// 99 of 100 answers take at most this long.
    pub p99: Span,
}

/// How often each fault strikes a try of a simulated model call: a share between 0 and 1 each, together at most 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Status 429, with a Retry-After of one second.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub rate_limited: f64,
    /// Status 503.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub overloaded: f64,
    /// No answer before the time for the first token is up.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub timeout: f64,
    /// An answer that breaks off.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub cut: f64,
    /// An answer that stops coming, until the time between tokens is up.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub stall: f64,
    /// Tool arguments that are no JSON.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub malformed: f64,
    /// An answer that reports ten times the usage it had.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub wrong_usage: f64,
}
