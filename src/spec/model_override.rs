//! `--model`: another model in the place of a network's.

use std::fmt;
use std::str::FromStr;

use super::{Invalid, ModelSpec, Network, Price, ProviderKind, SecretRef, is_loopback};

/// Another model in the place of a network's: `[NAME=]sim`, `[NAME=]openai:MODEL` or `[NAME=]openai:MODEL@URL`, and the same
/// with the other providers that are servers.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelOverride {
    /// Which of the network's models; none for all.
    name: Option<String>,
    with: With,
}

#[derive(Clone, Debug, PartialEq)]
enum With {
    Sim,
    Served { by: ProviderKind, model: String, base_url: Option<String> },
}

impl FromStr for ModelOverride {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A `=` of a URL's query is not the one that ends a name.
        let (name, rest) = match text.split_once('=') {
            Some((name, rest)) if !name.contains([':', '@']) => (Some(name.to_owned()), rest),
            _ => (None, text),
        };
        let served = |(by, model): (&str, &str)| {
            let by = ProviderKind::SERVERS.into_iter().find(|kind| kind.name() == by)?;
            let (model, base_url) = match model.split_once("@http") {
                Some((model, url)) => (model.to_owned(), Some(format!("http{url}"))),
                None => (model.to_owned(), None),
            };
            (!model.is_empty()).then_some(With::Served { by, model, base_url })
        };
        let with = if rest == "sim" { Some(With::Sim) } else { rest.split_once(':').and_then(served) };
        Ok(Self { name, with: with.ok_or(HOW)? })
    }
}

impl fmt::Display for ModelOverride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}=")?;
        }
        match &self.with {
            With::Sim => f.write_str("sim"),
            With::Served { by, model, base_url: None } => write!(f, "{}:{model}", by.name()),
            With::Served { by, model, base_url: Some(url) } => write!(f, "{}:{model}@{url}", by.name()),
        }
    }
}

/// Why a model can't be put in the place of a network's.
#[derive(Debug, thiserror::Error)]
pub enum OverrideError {
    /// The network has no model of that name.
    #[error("the network has no model `{name}`")]
    NoSuchModel {
        /// The name.
        name: String,
        /// The names that it has.
        known: Vec<String>,
    },
    /// The network is not valid with it: a price is missing under a cost limit.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

impl OverrideError {
    /// Says what to do about it; empty where the error says all.
    pub fn hint(&self) -> String {
        match self {
            Self::NoSuchModel { known, .. } if known.is_empty() => "it names no model; leave out NAME=".to_owned(),
            Self::NoSuchModel { known, .. } => format!("its models: {}", known.join(", ")),
            Self::Invalid(_) => String::new(),
        }
    }
}

const HOW: &str = "write `sim`, `openai:MODEL` or `openai:MODEL@http://HOST:PORT/v1`; for `openai` may stand `anthropic`, `gemini`, `bedrock`, `ollama` or `openai_responses`";

impl ModelOverride {
    /// Puts the model in its place, and checks the network again.
    ///
    /// # Errors
    /// The network has no model of that name, or is not valid with it (a price is missing under a cost limit).
    pub fn apply(&self, network: Network) -> Result<Network, OverrideError> {
        if let Some(name) = &self.name
            && !network.spec().models.contains_key(name)
        {
            let known = network.spec().models.keys().cloned().collect();
            return Err(OverrideError::NoSuchModel { name: name.clone(), known });
        }
        Ok(network.with_models(|models| {
            if models.is_empty() {
                models.insert("model".to_owned(), ModelSpec::default());
            }
            let named = |name: &str| self.name.as_deref().is_none_or(|wanted| wanted == name);
            for (_, model) in models.iter_mut().filter(|(name, _)| named(name)) {
                self.with.replace(model);
            }
        })?)
    }
}

impl With {
    /// Changes who serves a model; how it is called (its limits, its timeouts, how tools are offered) stays.
    fn replace(&self, spec: &mut ModelSpec) {
        match self {
            Self::Sim => {
                spec.provider = Some(ProviderKind::Sim);
                spec.price = None;
            }
            Self::Served { by, model, base_url } => {
                let is_local = base_url.as_deref().is_some_and(is_loopback);
                let free = Price::default();
                spec.provider = Some(*by);
                spec.model = Some(model.clone());
                spec.price = is_local.then_some(free);
                // A key goes to the provider's own API, and to it alone.
                let variable = by.key_variable().filter(|_| base_url.is_none());
                spec.api_key = variable.map(|variable| SecretRef(format!("env:{variable}")));
                spec.base_url = base_url.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> ModelOverride {
        text.parse().unwrap()
    }

    #[test]
    fn a_model_may_be_put_in_the_place_of_all_or_of_one() {
        assert_eq!(parsed("sim"), ModelOverride { name: None, with: With::Sim });
        assert_eq!(parsed("fast=sim"), ModelOverride { name: Some("fast".to_owned()), with: With::Sim });
        let served = |by, model: &str, url: Option<&str>| With::Served {
            by,
            model: model.to_owned(),
            base_url: url.map(str::to_owned),
        };
        let openai = |model: &str, url: Option<&str>| served(ProviderKind::Openai, model, url);
        let url = "http://127.0.0.1:8093/v1?a=b";
        assert_eq!(parsed(&format!("openai:qwen@{url}")).with, openai("qwen", Some(url)));
        assert_eq!(parsed("fast=openai:org/model:8b").with, openai("org/model:8b", None));
        let url = "http://127.0.0.1:4010";
        assert_eq!(
            parsed(&format!("fast=anthropic:claude@{url}")).with,
            served(ProviderKind::Anthropic, "claude", Some(url))
        );
        for text in [
            "sim",
            "fast=sim",
            "openai:qwen@http://127.0.0.1:8093/v1?a=b",
            "fast=openai:org/model:8b",
            "anthropic:claude-haiku-4-5",
            "anthropic:claude@https://gateway.example/anthropic",
        ] {
            assert_eq!(parsed(text).to_string(), text, "it is sent as it is read");
        }
    }

    #[test]
    fn a_key_goes_to_its_own_api_alone() {
        for (text, key) in [
            ("openai:m", Some("env:OPENAI_API_KEY")),
            ("openai:m@http://127.0.0.1:1/v1", None),
            ("anthropic:m", Some("env:ANTHROPIC_API_KEY")),
            ("anthropic:m@http://127.0.0.1:1", None),
            ("gemini:m", Some("env:GEMINI_API_KEY")),
            ("ollama:m", None),
        ] {
            let mut spec = ModelSpec { api_key: Some(SecretRef("env:OTHER".to_owned())), ..ModelSpec::default() };
            parsed(text).with.replace(&mut spec);
            assert_eq!(spec.api_key.as_ref().map(|key| key.0.as_str()), key, "{text}");
        }
    }

    #[test]
    fn what_is_no_model_says_how_to_write_one() {
        for wrong in ["", "qwen", "openai:", "openai:@http://x", "anthropic:", "mistral:x", "fast="] {
            assert_eq!(wrong.parse::<ModelOverride>(), Err(HOW.to_owned()), "{wrong}");
        }
    }
}
