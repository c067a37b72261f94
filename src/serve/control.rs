//! The control socket: how other processes reach the one that holds the store.
//!
//! It is HTTP over a unix socket in the data directory; whoever may write there may use it. `docs/control.md` says what
//! can be asked. [`Control`] is the holder's side, [`Client`] the other one.

mod bodies;
mod client;
mod fault;
mod prune;
mod socket;
mod verbs;

use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use bodies::{
    Acted, AnswerRun, AnswerTaken, ApprovalTaken, ApproveRun, CancelRun, DropLetter, ForkRun, ForkedOff, Health, Keep,
    PauseRun, PoliciesReloaded, Prune, PutBackLetter, Queues, Removed, ResolveRun, ResumeRun, Resumed, Resumption,
    Standing, StartRun, Started, SteerRun, TopUp,
};
pub use client::{Client, ClientError, HEALTH_PATIENCE};
pub use fault::{Code, Fault};
pub use prune::{prunable, prune};

use self::socket::Socket;
use crate::runtime::{Host, MAX_INPUT_BYTES};

/// The longest request that is read: the longest input, of which JSON may make six bytes for one, and a network of as
/// much again.
const MAX_BODY_BYTES: usize = 8 * MAX_INPUT_BYTES;

/// How many requests may wait to be done; more wait at the socket.
const MAX_JOBS: usize = 256;

/// Something that a request asks for. It is done to its end even where nobody waits for it any more.
type Job = BoxFuture<'static, ()>;

/// What all requests share.
#[derive(Clone)]
struct Desk {
    host: Arc<Host>,
    jobs: mpsc::Sender<Job>,
}

impl Desk {
    /// Does something that must not be left half done when the client goes away.
    async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<T, Fault> {
        let (told, answer) = oneshot::channel();
        let job = async move { drop(told.send(work.await)) };
        let stopped = || Fault::new(Code::Stopped, "the process is ending", "");
        self.jobs.send(job.boxed()).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// The control socket of the process that holds the store. Dropping it removes the socket.
pub struct Control {
    socket: Socket,
    serving: BoxFuture<'static, io::Result<()>>,
    shutdown: CancellationToken,
}

impl Control {
    /// Begins to listen on the socket of a data directory, in the place of one that a dead process left. To be called
    /// by the process that holds the store, within a tokio runtime; requests are answered while [`Control::serve`] is
    /// polled.
    ///
    /// # Errors
    /// The socket can't be made.
    pub fn open(directory: &Path, host: Arc<Host>) -> io::Result<Self> {
        let (socket, listener) = Socket::bind(directory)?;
        let shutdown = CancellationToken::new();
        let (jobs, asked) = mpsc::channel(MAX_JOBS);
        let router = router(Desk { host, jobs });
        let server = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
        let serving = async move {
            let (served, ()) = tokio::join!(async move { server.await }, work(asked));
            served
        };
        Ok(Self { socket, serving: serving.boxed(), shutdown })
    }

    /// Answers requests for as long as it is polled; it returns only if the listener fails. Cancel-safe.
    pub async fn serve(&mut self) -> io::Result<()> {
        (&mut self.serving).await
    }

    /// Removes the socket, and answers what has been asked before.
    pub async fn close(self) {
        let Self { socket, serving, shutdown } = self;
        drop(socket);
        shutdown.cancel();
        if let Err(error) = serving.await {
            tracing::warn!(%error, "the control socket failed");
        }
    }
}

/// Does what is asked for, each thing beside the others, until nobody can ask any more.
async fn work(mut asked: mpsc::Receiver<Job>) {
    let (mut jobs, mut is_open) = (FuturesUnordered::new(), true);
    while is_open || !jobs.is_empty() {
        tokio::select! {
            job = asked.recv(), if is_open => match job {
                Some(job) => jobs.push(job),
                None => is_open = false,
            },
            Some(()) = jobs.next(), if !jobs.is_empty() => {}
        }
    }
}

fn router(desk: Desk) -> Router {
    Router::new()
        .route("/health", get(verbs::health))
        .route("/queues", get(verbs::queues))
        .route("/runs", post(verbs::start))
        .route("/runs/{run}/resume", post(verbs::resume))
        .route("/runs/{run}/fork", post(verbs::fork))
        .route("/runs/{run}/cancel", post(verbs::cancel))
        .route("/runs/{run}/pause", post(verbs::pause))
        .route("/runs/{run}/steer", post(verbs::steer))
        .route("/runs/{run}/resolve", post(verbs::resolve))
        .route("/runs/{run}/answer", post(verbs::answer))
        .route("/runs/{run}/approve", post(verbs::approve))
        .route("/policy/reload", post(verbs::reload_policies))
        .route("/runs/{run}/put-back", post(verbs::put_back))
        .route("/budget/top-up", post(verbs::top_up))
        .route("/runs/{run}/drop-letter", post(verbs::drop_letter))
        .route("/prune", post(verbs::prune))
        .fallback(verbs::no_such_path)
        .method_not_allowed_fallback(verbs::no_such_path)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(desk)
}
