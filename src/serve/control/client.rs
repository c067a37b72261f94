//! The side of the control socket that asks.

use std::path::Path;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, RequestBuilder};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::bodies::{
    Acted, AnswerRun, AnswerTaken, ApprovalTaken, ApproveRun, CancelRun, DropLetter, ForkRun, ForkedOff, Health,
    PauseRun, PoliciesReloaded, Prune, PutBackLetter, Queues, Removed, ResolveRun, ResumeRun, Resumed, StartRun,
    Started, SteerRun, TopUp,
};
use super::fault::{Code, Fault, FaultBody};
use super::socket::Place;
use crate::run::RunId;

/// How long a process that lives may take to say so, on a machine with a lot to do.
pub const HEALTH_PATIENCE: Duration = Duration::from_secs(2);

/// How long it may take to do something: it waits for the disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reaches the process that holds the store.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    _place: Place,
}

/// Why nothing came of a request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no process listens on the control socket")]
    Absent,
    /// Somebody listens, and does not answer in time.
    #[error("the process that holds the store does not answer")]
    Silent,
    /// The connection broke off before the answer came. What was asked may have been done.
    #[error("the connection to the process that holds the store broke off")]
    Broken(#[source] reqwest::Error),
    /// The socket can't be used.
    #[error("the control socket can't be used")]
    Socket(#[source] std::io::Error),
    /// The holder says no.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Client {
    /// Makes a client for the socket of a data directory. Nothing is sent yet.
    ///
    /// # Errors
    /// The directory can't be opened, or its path is too long.
    pub fn new(directory: &Path) -> Result<Self, ClientError> {
        let place = Place::new(directory).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => ClientError::Absent,
            _ => ClientError::Socket(error),
        })?;
        // Whoever installed another provider of cryptography before may keep it; none is used here.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .unix_socket(place.address())
            .no_proxy()
            .tls_certs_only([])
            // A connection that waits for the next request would hold up the holder's end.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(ClientError::Broken)?;
        Ok(Self { http, _place: place })
    }

    /// Asks who holds the store.
    ///
    /// # Errors
    /// Nobody answers, or not in time.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.health_within(HEALTH_PATIENCE).await
    }

    /// Asks who holds the store, and waits so long for the answer.
    ///
    /// # Errors
    /// Nobody answers, or not in time.
    pub async fn health_within(&self, patience: Duration) -> Result<Health, ClientError> {
        self.send(self.http.get("http://provost/health").timeout(patience)).await
    }

    /// Asks what waits in the process that holds the store.
    ///
    /// # Errors
    /// Nobody answers, or not in time.
    pub async fn queues(&self) -> Result<Queues, ClientError> {
        self.send(self.http.get("http://provost/queues").timeout(HEALTH_PATIENCE)).await
    }

    /// Starts a run. When this returns, the run is in the store.
    ///
    /// # Errors
    /// Nobody answers, or the run can't be started.
    pub async fn start(&self, body: &StartRun) -> Result<Started, ClientError> {
        self.post("runs", body).await
    }

    /// Lets a run go on.
    ///
    /// # Errors
    /// Nobody answers, or the run can't go on.
    pub async fn resume(&self, run: &RunId, body: &ResumeRun) -> Result<Resumed, ClientError> {
        self.post(&format!("runs/{run}/resume"), body).await
    }

    /// Starts a run from a point of another one's past. When this returns, the run is in the store.
    ///
    /// # Errors
    /// Nobody answers, or the run can't be forked so.
    pub async fn fork(&self, run: &RunId, body: &ForkRun) -> Result<ForkedOff, ClientError> {
        self.post(&format!("runs/{run}/fork"), body).await
    }

    /// Cancels a run.
    ///
    /// # Errors
    /// Nobody answers, or the run can't be cancelled.
    pub async fn cancel(&self, run: &RunId, reason: &str) -> Result<Acted, ClientError> {
        self.post(&format!("runs/{run}/cancel"), &CancelRun { reason: Some(reason.to_owned()) }).await
    }

    /// Pauses a run.
    ///
    /// # Errors
    /// Nobody answers, or the run is not under way.
    pub async fn pause(&self, run: &RunId) -> Result<Acted, ClientError> {
        self.post(&format!("runs/{run}/pause"), &PauseRun {}).await
    }

    /// Tells an agent something.
    ///
    /// # Errors
    /// Nobody answers, or there is no such agent at work.
    pub async fn steer(&self, run: &RunId, body: &SteerRun) -> Result<Acted, ClientError> {
        self.post(&format!("runs/{run}/steer"), body).await
    }

    /// Says what became of a call in doubt.
    ///
    /// # Errors
    /// Nobody answers, or the call is not in doubt.
    pub async fn resolve(&self, run: &RunId, body: &ResolveRun) -> Result<Acted, ClientError> {
        self.post(&format!("runs/{run}/resolve"), body).await
    }

    /// Answers what an agent asks a person. When this returns, the answer is in the store.
    ///
    /// # Errors
    /// Nobody answers, or the answer can't be taken.
    pub async fn answer(&self, run: &RunId, body: &AnswerRun) -> Result<AnswerTaken, ClientError> {
        self.post(&format!("runs/{run}/answer"), body).await
    }

    /// Says of a call of a run whether it may happen. When this returns, that is in the store.
    ///
    /// # Errors
    /// Nobody answers, or what is said can't be taken.
    pub async fn approve(&self, run: &RunId, body: &ApproveRun) -> Result<ApprovalTaken, ClientError> {
        self.post(&format!("runs/{run}/approve"), body).await
    }

    /// Lets the policy files of all networks be read again. When this returns, what is in them holds.
    ///
    /// # Errors
    /// Nobody answers, or a file can't be used; then all stay as they are.
    pub async fn reload_policies(&self) -> Result<PoliciesReloaded, ClientError> {
        self.post("policy/reload", &serde_json::json!({})).await
    }

    /// Gives a dead letter of a run to its agent once more. When this returns, the run that begins with it is in the store.
    ///
    /// # Errors
    /// Nobody answers, there is no such letter, or it is settled.
    pub async fn put_back(&self, run: &RunId, body: &PutBackLetter) -> Result<Started, ClientError> {
        self.post(&format!("runs/{run}/put-back"), body).await
    }

    /// Settles a dead letter of a run that nobody wants any more.
    ///
    /// # Errors
    /// Nobody answers, there is no such letter, or it is settled.
    pub async fn drop_letter(&self, run: &RunId, body: &DropLetter) -> Result<Acted, ClientError> {
        self.post(&format!("runs/{run}/drop-letter"), body).await
    }

    /// Raises the limits of an account. When this returns, that is in the store.
    ///
    /// # Errors
    /// Nobody answers, or the store can't be written.
    pub async fn top_up(&self, body: &TopUp) -> Result<TopUp, ClientError> {
        self.post("budget/top-up", body).await
    }

    /// Removes the events of ended runs.
    ///
    /// # Errors
    /// Nobody answers, or the store can't be written.
    pub async fn prune(&self, body: &Prune) -> Result<Removed, ClientError> {
        self.post("prune", body).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let text = serde_json::to_string(body).map_err(|error| unreadable(&error))?;
        let request = self.http.request(Method::POST, format!("http://provost/{path}"));
        self.send(request.header(CONTENT_TYPE, "application/json").body(text).timeout(PATIENCE)).await
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = request.send().await.map_err(failed)?;
        let is_success = response.status().is_success();
        let bytes = response.bytes().await.map_err(failed)?;
        if is_success {
            return serde_json::from_slice(&bytes).map_err(|error| unreadable(&error).into());
        }
        let FaultBody { error } = serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))?;
        Err(error.into())
    }
}

fn failed(error: reqwest::Error) -> ClientError {
    if error.is_timeout() {
        ClientError::Silent
    } else if error.is_connect() {
        ClientError::Absent
    } else {
        ClientError::Broken(error)
    }
}

fn unreadable(error: &serde_json::Error) -> Fault {
    let message = format!("the process that holds the store is not understood: {error}");
    Fault::new(Code::Unknown, message, "it may be another version of Provost")
}
