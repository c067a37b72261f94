//! Where a server is, and what sends requests to it.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Client, Url};
use secrecy::{ExposeSecret, SecretString};

/// Why a model can't be called at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The address does not parse. It is not shown, for what is wrong with it may be a password in it.
    #[error("base_url is no address: {reason}")]
    BaseUrl {
        /// What is wrong with it.
        reason: String,
    },
    /// The address is not one of HTTP.
    #[error("base_url must begin with http:// or https://, not {scheme}:")]
    Scheme {
        /// How it begins instead.
        scheme: String,
    },
    /// The address has a user name or a password in it, which would end up in the journal.
    #[error("base_url must not hold a user name or a password; give the key as api_key = \"env:NAME\"")]
    Credentials,
    /// The key holds characters that no HTTP header can.
    #[error("the key holds a line break or another character that no key has")]
    Key,
    /// The HTTP client can't be made.
    #[error("the HTTP client can't be made")]
    Client(#[source] reqwest::Error),
    /// The client of a dialect can't be made.
    #[cfg(feature = "genai")]
    #[error("the client can't be made: {0}")]
    Genai(String),
}

/// Makes what sends requests to an endpoint.
pub(in crate::model) fn client(endpoint: &Url, connect: Duration) -> Result<Client, SetupError> {
    // Whoever installed another provider of cryptography before may keep it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = Client::builder()
        .user_agent(concat!("provost/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(connect);
    if is_loopback(endpoint) {
        client = client.no_proxy();
        if endpoint.scheme() == "http" {
            // Reading the system's certificates takes time, and fails where there are none.
            client = client.tls_certs_only([]);
        }
    }
    client.build().map_err(SetupError::Client)
}

/// Appends an endpoint's path to the address where the API begins, and before it the API's `version`, where that is part of
/// the endpoint. What is there already is not repeated.
pub(in crate::model) fn endpoint(base_url: &str, version: &str, path: &str) -> Result<Url, SetupError> {
    let mut url = Url::parse(base_url).map_err(|error| SetupError::BaseUrl { reason: error.to_string() })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(SetupError::Scheme { scheme: url.scheme().to_owned() });
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(SetupError::Credentials);
    }
    url.set_fragment(None);
    let base = url.path().trim_end_matches('/');
    let base = base.strip_suffix(path).unwrap_or(base);
    let path = format!("{}{version}{path}", base.strip_suffix(version).unwrap_or(base));
    url.set_path(&path);
    Ok(url)
}

/// Makes the header that gives a key.
pub(in crate::model) fn secret_header(scheme: &str, key: &SecretString) -> Result<HeaderValue, SetupError> {
    let value = format!("{scheme}{}", key.expose_secret());
    let mut value = HeaderValue::from_str(&value).map_err(|_| SetupError::Key)?;
    value.set_sensitive(true);
    Ok(value)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Returns an address without its query, which may hold a key.
pub(in crate::model) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.into()
}

/// Returns why a connection failed, from the outermost reason to the innermost, without the address.
pub(in crate::model) fn reason(error: &reqwest::Error) -> String {
    let mut reasons: Vec<String> = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let said = error.to_string();
        if reasons.last() != Some(&said) {
            reasons.push(said);
        }
        source = error.source();
    }
    if reasons.is_empty() { "the connection broke".to_owned() } else { reasons.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_found_from_each_way_to_write_the_base() {
        let chat = ("", "/chat/completions");
        let messages = ("/v1", "/messages");
        for (base, (version, path), expected) in [
            ("https://api.openai.com/v1", chat, "https://api.openai.com/v1/chat/completions"),
            ("http://127.0.0.1:8080/v1/", chat, "http://127.0.0.1:8080/v1/chat/completions"),
            ("http://127.0.0.1:8080", chat, "http://127.0.0.1:8080/chat/completions"),
            ("http://a/v1/chat/completions", chat, "http://a/v1/chat/completions"),
            ("https://a/d?api-version=1#x", chat, "https://a/d/chat/completions?api-version=1"),
            ("https://api.anthropic.com", messages, "https://api.anthropic.com/v1/messages"),
            ("http://a:1/v1", messages, "http://a:1/v1/messages"),
            ("http://a:1/anthropic/v1/", messages, "http://a:1/anthropic/v1/messages"),
            ("http://a:1/v1/messages", messages, "http://a:1/v1/messages"),
            ("http://a:1/xv1", messages, "http://a:1/xv1/v1/messages"),
        ] {
            assert_eq!(endpoint(base, version, path).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn this_machine_is_known_by_its_address() {
        for (url, loopback) in [
            ("http://127.0.0.1:1/", true),
            ("http://[::1]:1/", true),
            ("http://localhost/", true),
            ("http://localhost.example.com/", false),
            ("http://10.0.0.1/", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), loopback, "{url}");
        }
    }
}
