//! Who asks, and for the how many-eth time: what the simulated model's draws hang on.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::http::HeaderMap;

use super::dialect::Chat;
use crate::run::{AgentId, CallId, RunId};

/// How many different bodies are remembered; beyond it counting begins anew. At 40 bytes each this is a few megabytes.
const BODIES: usize = 65_536;

/// Which try of which call a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) run: RunId,
    /// The agent's name in the network.
    pub(super) agent: String,
    pub(super) call: CallId,
    pub(super) attempt: u32,
}

/// Reads the identity that Provost sends along; none where there is no `x-provost-run`. `scripted` says whether an
/// agent of a name has a script: where neither header names one, the model's name may.
pub(super) fn of_headers(headers: &HeaderMap, chat: &Chat, scripted: impl Fn(&str) -> bool) -> Option<Identity> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let run = header("x-provost-run")?;
    let call = header("x-provost-call");
    let (instance, step) = match call.and_then(|call| call.rsplit_once('#')) {
        Some((instance, step)) => (Some(instance), step.parse().ok()),
        None => (call, None),
    };
    let named = header("x-provost-agent");
    let instance = instance.or(named).unwrap_or(&chat.model);
    let agent = named
        .map(name_of)
        .filter(|name| scripted(name))
        .unwrap_or_else(|| if scripted(&chat.model) { &chat.model } else { name_of(named.unwrap_or(instance)) });
    Some(Identity {
        run: RunId::new(run),
        agent: agent.to_owned(),
        call: CallId::model(&AgentId::new(instance), step.unwrap_or_else(|| chat.step())),
        attempt: header("x-provost-attempt").and_then(|attempt| attempt.parse().ok()).unwrap_or(1),
    })
}

/// Returns the agent's name in an instance's: `reader` in `scout/reader.2.0`.
fn name_of(instance: &str) -> &str {
    match instance.rsplit_once('/') {
        Some((_, last)) => last.rsplitn(3, '.').nth(2).unwrap_or(last),
        None => instance,
    }
}

/// Clients that don't say who they are.
#[derive(Default)]
pub(super) struct Strangers {
    /// How often each body came, by its hash.
    seen: Mutex<HashMap<[u8; 32], u32>>,
}

impl Strangers {
    /// Tells a client's conversation by how it begins, its step by how far it has come, and its try by the whole body
    /// and how often that came.
    pub(super) fn identify(&self, chat: &Chat, body: &[u8]) -> Identity {
        let hash = blake3::hash(body);
        let count = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.len() >= BODIES {
                seen.clear();
            }
            let count = seen.entry(*hash.as_bytes()).or_default();
            *count = count.wrapping_add(1);
            *count
        };
        // The number of a try is only drawn from, so that it may as well say which body was tried.
        let [a, b, c, d, ..] =
            *blake3::Hasher::new().update(hash.as_bytes()).update(&count.to_le_bytes()).finalize().as_bytes();
        Identity {
            run: RunId::new(chat.beginning().to_hex().as_str()),
            agent: chat.model.clone(),
            call: CallId::model(&AgentId::new(chat.model.as_str()), chat.step()),
            attempt: u32::from_le_bytes([a, b, c, d]),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chat(messages: serde_json::Value) -> Chat {
        serde_json::from_value(json!({"model": "writer", "messages": messages})).unwrap()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn headers_name_the_try() {
        let headers = headers(&[
            ("x-provost-run", "01run"),
            ("x-provost-agent", "scout/reader.2.0"),
            ("x-provost-call", "scout/reader.2.0#3"),
            ("x-provost-attempt", "4"),
        ]);
        let identity = of_headers(&headers, &chat(json!([])), |_| false).unwrap();
        let call = CallId::model(&AgentId::new("scout/reader.2.0"), 3);
        assert_eq!(identity, Identity { run: RunId::new("01run"), agent: "reader".into(), call, attempt: 4 });
        assert_eq!(of_headers(&headers, &chat(json!([])), |name| name == "writer").unwrap().agent, "writer");
    }

    #[test]
    fn strangers_are_told_apart_by_what_they_send() {
        let strangers = Strangers::default();
        let start = json!([{"role": "user", "content": "go"}]);
        let later = json!([{"role": "user", "content": "go"}, {"role": "assistant", "content": "well"}]);
        let first = strangers.identify(&chat(start.clone()), b"one");
        let again = strangers.identify(&chat(start.clone()), b"one");
        let next = strangers.identify(&chat(later), b"two");
        assert_eq!((&first.run, &first.call), (&again.run, &again.call));
        assert_ne!(first.attempt, again.attempt);
        assert_eq!((first.run.clone(), next.call.step), (next.run, 2));
        assert_eq!(Strangers::default().identify(&chat(start), b"one"), first);
    }
}
