//! Models: who serves them, and what they cost.

use std::collections::HashSet;

use super::Check;
use crate::spec::findings::{Place, listed};
use crate::spec::{ModelSpec, ProviderKind};

impl Check<'_> {
    pub(super) fn models(&mut self, reached: &[bool]) {
        self.choices();
        let spec = self.spec;
        let agents = spec.agents.values().zip(reached).filter(|(_, reached)| **reached);
        let used: HashSet<&str> = agents.flat_map(|(agent, _)| spec.models_of(agent)).map(|(name, _)| name).collect();
        for (name, model) in &spec.models {
            self.serving(name, model);
            self.numbers(name, model);
            if used.contains(name.as_str()) {
                self.price(name, model);
            } else if !self.found.is_torn() && !self.found.is_broken_within(&["agents"]) {
                self.warning(
                    &["models", name],
                    Place::Key,
                    "unused_model",
                    format!("no agent uses the model `{name}`"),
                    format!("take [models.{name}] out, or name it in an agent's `model`"),
                );
            }
        }
        self.sim();
    }

    /// Checks which model each agent uses.
    fn choices(&mut self) {
        let spec = self.spec;
        for (name, agent) in spec.agents.iter().filter(|(_, agent)| !agent.is_flow()) {
            match &agent.model {
                Some(choice) => {
                    self.find(&["agents", name, "model", "prefer"], "models", &choice.prefer);
                    self.other_models(name, agent, choice);
                }
                None if spec.models.len() > 1 && !self.found.is_broken(&["agents", name, "model"]) => {
                    let first = spec.models.keys().next().map(String::as_str).unwrap_or_default();
                    if !self.found.is_torn_at(&["agents", name]) {
                        self.error(
                            &["agents", name],
                            Place::Key,
                            "no_model",
                            format!("the agent `{name}` doesn't say which model it uses, and there are several"),
                            format!(
                                "add `model = {{ prefer = \"{first}\" }}`; the models are {}",
                                listed(spec.models.keys().map(String::as_str))
                            ),
                        );
                    }
                }
                None => {}
            }
        }
    }

    fn serving(&mut self, name: &str, model: &ModelSpec) {
        let path = |key| ["models", name, key];
        let kind = model.provider.filter(|kind| kind.is_server());
        if let Some(kind) = kind.filter(|kind| !kind.is_built_in()) {
            self.error(
                &path("provider"),
                Place::Value,
                "not_built_in",
                format!("this provost is built without `provider = \"{}\"` of the model `{name}`", kind.name()),
                "build it with the cargo feature `genai`: `cargo build --features genai`",
            );
        }
        if kind.is_some()
            && model.model.is_none()
            && !self.found.is_broken(&path("model"))
            && !self.found.is_torn_at(&["models", name])
        {
            self.error(
                &path("provider"),
                Place::Value,
                "no_model_name",
                format!("the model `{name}` doesn't say what its provider calls it"),
                "add `model = \"…\"`, the provider's own name for the model",
            );
        }
        self.reaching(name, model);
        let wrong = |part: &str| format!("`{name}.base_url` {part}");
        let example = "write the place where the API begins, such as \"http://127.0.0.1:8080/v1\"";
        match model.base_url.as_deref().map(parse_url) {
            Some(Err(UrlFault::Credentials)) => self.error(
                &path("base_url"),
                Place::Value,
                "inline_secret",
                wrong("must not hold credentials"),
                "take them out of the address, and give a key with `api_key = \"env:NAME\"`",
            ),
            Some(Err(UrlFault::Form)) => {
                self.error(&path("base_url"), Place::Value, "bad_url", wrong("is no http or https address"), example)
            }
            Some(Ok(_)) | None => {}
        }
    }

    /// Checks that a model's server is known, and that it is not asked without the key that it needs.
    fn reaching(&mut self, name: &str, model: &ModelSpec) {
        let path = |key| ["models", name, key];
        if model.base_url.is_some()
            || self.found.is_broken(&path("base_url"))
            || self.found.is_broken(&path("api_key"))
            || self.found.is_torn_at(&["models", name])
        {
            return;
        }
        let own = match model.provider {
            Some(ProviderKind::Anthropic) => "Anthropic",
            Some(ProviderKind::Gemini) => "Google",
            Some(ProviderKind::OpenaiResponses) => "OpenAI",
            Some(ProviderKind::Bedrock) => {
                return self.error(
                    &path("provider"),
                    Place::Value,
                    "no_base_url",
                    format!("the model `{name}` doesn't say in which region it is"),
                    "add `base_url = \"https://bedrock-runtime.REGION.amazonaws.com\"`, with the region's name in it",
                );
            }
            _ => return,
        };
        if let Some(variable) = model.provider.filter(|_| model.api_key.is_none()).and_then(ProviderKind::key_variable)
        {
            self.error(
                &path("provider"),
                Place::Value,
                "no_api_key",
                format!("the model `{name}` has no key, and {own}'s own API takes no request without one"),
                format!("add `api_key = \"env:{variable}\"`, or the `base_url` of a gateway"),
            );
        }
    }

    fn numbers(&mut self, name: &str, model: &ModelSpec) {
        let path = |key| ["models", name, key];
        if model.min_output_tokens > model.max_output_tokens && !self.found.is_broken(&path("max_output_tokens")) {
            let key = match self.found.written(&path("min_output_tokens")) {
                Some(_) => "min_output_tokens",
                None => "max_output_tokens",
            };
            self.error(
                &path(key),
                Place::Value,
                "out_of_range",
                format!(
                    "`min_output_tokens` of the model `{name}` ({}) exceeds its `max_output_tokens` ({})",
                    model.min_output_tokens, model.max_output_tokens
                ),
                "set `min_output_tokens` to less: a call that a budget would cut below it is not made",
            );
        }
        if model.provider == Some(ProviderKind::Anthropic)
            && model.temperature.is_some_and(|temperature| temperature > 1.0)
            && !self.found.is_broken(&path("temperature"))
        {
            self.error(
                &path("temperature"),
                Place::Value,
                "out_of_range",
                format!("the `temperature` of the model `{name}` is above 1, the highest that Anthropic's dialect has"),
                "set it between 0 and 1",
            );
        }
        let timeouts = model.timeouts;
        self.not_zero(&["models", name, "timeouts", "connect"], timeouts.connect);
        self.not_zero(&["models", name, "timeouts", "first_token"], timeouts.first_token);
        self.not_zero(&["models", name, "timeouts", "between_tokens"], timeouts.between_tokens);
        if let Some(call) = timeouts.call {
            self.not_zero(&["models", name, "timeouts", "call"], call);
        }
        if let Some(breaker) = model.breaker {
            self.not_zero(&["models", name, "breaker", "within"], breaker.within);
            self.not_zero(&["models", name, "breaker", "cool_down"], breaker.cool_down);
        }
        if model.retry.min > model.retry.max {
            let key = if self.found.written(&["models", name, "retry", "min"]).is_some() { "min" } else { "max" };
            self.error(
                &["models", name, "retry", key],
                Place::Value,
                "out_of_range",
                format!("`retry.min` ({}) is longer than `retry.max` ({})", model.retry.min, model.retry.max),
                "pauses between tries grow from `min` to `max`",
            );
        }
    }

    fn price(&mut self, name: &str, model: &ModelSpec) {
        let has_limit = self.spec.network.limits.cost_usd.is_some()
            || self.spec.budgets.iter().any(|budget| budget.cost_usd.is_some());
        if !has_limit
            || model.known_price().is_some()
            || self.found.is_broken_within(&["models", name, "price"])
            || self.found.is_broken(&["models", name, "provider"])
            || self.found.is_broken(&["models", name, "base_url"])
            || self.found.is_torn_at(&["models", name])
        {
            return;
        }
        self.error(
            &["models", name],
            Place::Key,
            "no_price",
            format!("the model `{name}` has no price, and there is a cost limit"),
            "add `price = { input_usd_per_mtok = …, output_usd_per_mtok = … }`, or take `cost_usd` out of [network.limits] and [[budgets]]",
        );
    }

    fn sim(&mut self) {
        let sim = &self.spec.sim;
        if let Some(latency) = sim.latency {
            self.not_zero(&["sim", "latency", "p50"], latency.p50);
            if latency.p99 < latency.p50 && !self.found.is_broken(&["sim", "latency", "p50"]) {
                self.error(
                    &["sim", "latency", "p99"],
                    Place::Value,
                    "out_of_range",
                    format!("`p99` ({}) is shorter than `p50` ({})", latency.p99, latency.p50),
                    "99 of 100 answers take at most `p99`, and half of them at most `p50`",
                );
            }
        }
        let faults = sim.faults;
        let sum = faults.rate_limited
            + faults.overloaded
            + faults.timeout
            + faults.cut
            + faults.stall
            + faults.malformed
            + faults.wrong_usage;
        // Shares such as 0.1 and 0.2 are not exact in binary.
        if sum > 1.0 + 1e-9 && !self.found.is_broken_within(&["sim", "faults"]) {
            self.error(
                &["sim", "faults"],
                Place::Key,
                "out_of_range",
                format!("the shares of all faults together are {sum:.3}, more than 1"),
                "each is the share of tries that it strikes, and a try is struck once",
            );
        }
        for agent in sim.script.keys() {
            if self.found.written(&["agents", agent]).is_none() {
                self.script_of_nobody(agent);
            }
        }
    }

    fn script_of_nobody(&mut self, agent: &str) {
        if self.found.has_lost_tables() || self.found.is_broken(&["agents"]) {
            return;
        }
        let names = self.found.names("agents");
        let help = match crate::spec::findings::nearest(agent, names.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("the agents are {}", listed(names)),
        };
        let message = format!("`sim.script` is for an agent `{}` that is not there", crate::spec::shape::short(agent));
        self.error(&["sim", "script", agent], Place::Key, "unknown_agent", message, help);
    }
}

/// Why an address is none that a model is served at.
pub(super) enum UrlFault {
    /// It is no http or https address.
    Form,
    /// It holds a user's name or password.
    Credentials,
}

/// Returns the host of an address.
pub(super) fn parse_url(url: &str) -> Result<&str, UrlFault> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).ok_or(UrlFault::Form)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(UrlFault::Credentials);
    }
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(UrlFault::Form);
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or(UrlFault::Form)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| UrlFault::Form)?;
            (host, rest.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(UrlFault::Form);
    }
    Ok(host)
}

/// Whether an address is of this very machine.
pub(crate) fn is_loopback(url: &str) -> bool {
    parse_url(url).is_ok_and(|host| {
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}
