//! Telling an address something.

use std::time::Duration;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use secrecy::ExposeSecret;
use serde_json::Value;

use super::setup::{client, reason, secret_header};
use crate::model::secret;
use crate::spec::SecretRef;

/// How long making a connection may take, of the time that there is for all.
const CONNECT: Duration = Duration::from_secs(5);

/// Sends JSON by POST to an address, which may be given as where it is kept: many that take such are secrets themselves. What
/// it answers beside its status is not read.
///
/// # Errors
/// The address is not there, or none, the token is not there, nobody answers within `timeout`, or the answer is no success; in words
/// that hold neither the address's query nor the token.
pub async fn post(url: &str, bearer: Option<&SecretRef>, body: &Value, timeout: Duration) -> Result<(), String> {
    let kept = SecretRef::is_reference(url).then(|| secret::resolve(&SecretRef(url.to_owned()))).transpose();
    let kept = kept.map_err(|error| error.to_string())?;
    let url = kept.as_ref().map_or(url, ExposeSecret::expose_secret);
    let url = Url::parse(url).map_err(|error| format!("the address is none: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return Err("the address must begin with http:// or https://, and hold no user name or password".to_owned());
    }
    let mut request = client(&url, CONNECT)
        .map_err(|error| error.to_string())?
        .post(url)
        .timeout(timeout)
        .header(CONTENT_TYPE, "application/json")
        .body(body.to_string());
    if let Some(bearer) = bearer {
        let token = secret::resolve(bearer).map_err(|error| error.to_string())?;
        request = request.header(AUTHORIZATION, secret_header("Bearer ", &token).map_err(|error| error.to_string())?);
    }
    let status = request.send().await.map_err(|error| reason(&error.without_url()))?.status();
    if status.is_success() { Ok(()) } else { Err(format!("the address answered {status}")) }
}
