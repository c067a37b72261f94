//! A run from outside: how to follow it, to tell it what to do, and to wait for its end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::ActorRef;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::run_supervisor::RunMessage;
use super::voice::Voice;
use super::{Approved, Error, Follower, Report};
use crate::journal::{Log, Reader};
use crate::run::{AgentId, Ballot, CallId, Envelope, NoAnswer, NotApproved, Resolution, RunEnd, RunId, Status};

/// Where a run's supervisor is, which may fail and be replaced.
#[derive(Default)]
pub(super) struct Line {
    at: Mutex<At>,
    /// How the run is to end, once somebody has said so.
    cancel: Mutex<Option<RunEnd>>,
    over: CancellationToken,
}

/// How many messages wait for a supervisor that is being replaced, which takes milliseconds; whoever waits for an answer to
/// one more hears that the run does not answer.
const SAID_MEANWHILE: usize = 1_024;

/// Where a message to a run's supervisor goes.
enum At {
    Supervisor(ActorRef<RunMessage>),
    /// The supervisor is being replaced; what people say meanwhile is for the next one.
    Nobody(Vec<RunMessage>),
}

impl Default for At {
    fn default() -> Self {
        Self::Nobody(Vec::new())
    }
}

impl Line {
    /// Sets who is the run's supervisor from here on; none while it is being replaced.
    pub(super) fn set(&self, supervisor: Option<ActorRef<RunMessage>>) {
        let next = supervisor.map_or_else(At::default, At::Supervisor);
        let before = std::mem::replace(&mut *self.at.lock().unwrap_or_else(PoisonError::into_inner), next);
        if let At::Nobody(said) = before {
            said.into_iter().for_each(|message| self.cast(message));
        }
        // The last one may have failed before it had written down that it was cancelled.
        let cancel = self.cancel.lock().unwrap_or_else(PoisonError::into_inner).clone();
        cancel.into_iter().for_each(|end| self.cast(RunMessage::Cancel(end)));
    }

    /// Says that the run is not under way any more.
    pub(super) fn end(&self) {
        self.over.cancel();
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = At::default();
    }

    /// Tells the run's supervisor something. If the run is over the message is dropped.
    pub(super) fn cast(&self, message: RunMessage) {
        if let RunMessage::Cancel(end) = &message {
            self.cancel.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| end.clone());
        }
        match &mut *self.at.lock().unwrap_or_else(PoisonError::into_inner) {
            _ if self.is_over() => {}
            At::Supervisor(supervisor) => _ = supervisor.cast(message),
            At::Nobody(said) if said.len() < SAID_MEANWHILE => said.push(message),
            At::Nobody(_) => {}
        }
    }

    fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    async fn over(&self) {
        self.over.cancelled().await;
    }
}

/// Where a run's report goes, whichever of its supervisors lives to see its end.
#[derive(Clone)]
pub(super) struct ReportTo(Arc<Mutex<Option<Reporting>>>);

type Reporting = oneshot::Sender<Result<Report, Error>>;

impl ReportTo {
    pub(super) fn new(report: Reporting) -> Self {
        Self(Arc::new(Mutex::new(Some(report))))
    }

    /// Reports, once.
    pub(super) fn send(&self, reported: Result<Report, Error>) {
        let report = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Whoever waited may have gone.
        if let Some(report) = report {
            let _ = report.send(reported);
        }
    }
}

/// A run under way. Dropping the handle lets the run go on.
pub struct RunHandle {
    pub(super) id: RunId,
    pub(super) log: Arc<Log<Envelope>>,
    pub(super) voice: Arc<Voice>,
    /// Who follows from the first word on, until it is asked for.
    pub(super) first: Mutex<Option<Follower>>,
    pub(super) line: Arc<Line>,
    pub(super) reported: oneshot::Receiver<Result<Report, Error>>,
}

impl RunHandle {
    /// Returns the run's id.
    pub fn id(&self) -> &RunId {
        &self.id
    }

    /// Starts to read the run's events from the first on, or, of a run that was taken up again, from some later one on:
    /// those before its last snapshot are in the store alone. They are told as they happen, and may not be durable yet.
    pub fn events(&self) -> Reader<Envelope> {
        self.log.reader()
    }

    /// Starts to follow the run: its events as [`RunHandle::events`] reads them, and between them what its models, those of
    /// delegates too, say from now on, piece by piece; from their first word on for the first who follows a run of a
    /// [runtime that is followed](super::Builder::followed). A follower that is slower than they are misses some of that, and is
    /// told how much; it never holds the run up. The pieces of a call's last try, put together by their
    /// [offsets](super::Tokens::offset), are the text of its reply.
    pub fn follow(&self) -> Follower {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| self.voice.follow(self.log.reader()))
    }

    /// Returns something that can tell the run what to do while others wait for it.
    pub fn controls(&self) -> Controls {
        Controls { line: self.line.clone() }
    }

    /// Waits for the run's end. What it returns is durable.
    ///
    /// # Errors
    /// [`Error::Journal`] if the run's end could not be written down: the run is interrupted, and can be taken up again.
    /// [`Error::GaveUp`] if the runs of its network failed again and again, so that its supervisor gave up, which is a bug
    /// in Provost; its log names it. The run is interrupted, and can be taken up again.
    pub async fn wait(self) -> Result<Report, Error> {
        self.reported.await.map_err(|_| Error::Stopped)?
    }
}

/// Tells a run what to do. A run that has ended stays as it is.
#[derive(Clone)]
pub struct Controls {
    line: Arc<Line>,
}

impl Controls {
    /// Stops the run's model streams and processes, and ends it as cancelled.
    pub fn cancel(&self, reason: impl Into<String>) {
        let end = RunEnd::without_answer(Status::Cancelled, reason);
        self.line.cast(RunMessage::Cancel(end));
    }

    /// Lets the run begin no more calls; those under way go on to their ends. Returns whether the run heard it.
    pub async fn pause(&self) -> bool {
        self.ask(|answer| RunMessage::Pause { paused: true, answer }).await.is_some()
    }

    /// Lets a paused run go on. Returns whether the run heard it.
    pub async fn unpause(&self) -> bool {
        self.ask(|answer| RunMessage::Pause { paused: false, answer }).await.is_some()
    }

    /// Tells an agent of the run something, which its model reads before it speaks next; the agent that stands for the
    /// run where none is named.
    ///
    /// # Errors
    /// There is no such agent at work, as the rest of a sentence that begins with the run; or the run has ended.
    pub async fn steer(&self, agent: Option<AgentId>, text: String) -> Result<(), String> {
        self.ask(|answer| RunMessage::Steer { agent: agent.clone(), text: text.clone(), answer })
            .await
            .unwrap_or_else(|| Err(HAS_ENDED.to_owned()))
    }

    /// Says what became of a call that is in doubt.
    ///
    /// # Errors
    /// The call is not in doubt, as the rest of a sentence that begins with the run; or the run has ended.
    pub async fn resolve(&self, call: CallId, resolution: Resolution) -> Result<(), String> {
        let asked =
            self.ask(|answer| RunMessage::Resolve { call: call.clone(), resolution: resolution.clone(), answer }).await;
        asked.unwrap_or_else(|| Err(HAS_ENDED.to_owned()))
    }

    /// Answers what an agent of the run asks a person: the question of that call, or the only one that is open where none
    /// is named. Returns the call. The answer is durable then.
    ///
    /// # Errors
    /// It can't be taken; none of it is kept. [`NoAnswer::Ended`] where the run has ended, or is parked: whoever holds its
    /// store can answer then by [`Host::answer`](super::Host::answer).
    pub async fn answer(&self, call: Option<CallId>, text: &str) -> Result<CallId, NoAnswer> {
        self.answer_live(call, text)
            .await
            .unwrap_or(Err(NoAnswer::Ended { status: Status::Interrupted, answered: None }))
    }

    /// Does the same; none if the run is not under way any more.
    pub(super) async fn answer_live(&self, call: Option<CallId>, text: &str) -> Option<Result<CallId, NoAnswer>> {
        let text: Arc<str> = text.into();
        self.ask(|answer| RunMessage::Answer { call: call.clone(), text: text.clone(), answer }).await
    }

    /// Says of a call whether it may happen: the named one, or the only one that awaits approval. What was said is durable when
    /// this returns.
    ///
    /// # Errors
    /// It can't be taken. [`NotApproved::Ended`] where the run has ended, or is parked: whoever holds its store can say it then
    /// by [`Host::approve`](super::Host::approve).
    pub async fn approve(&self, call: Option<CallId>, ballot: &Ballot) -> Result<Approved, NotApproved> {
        let said = self.approve_live(call, ballot).await;
        said.unwrap_or(Err(NotApproved::Ended(Status::Interrupted)))
    }

    /// Does the same; none if the run is not under way any more.
    pub(super) async fn approve_live(
        &self,
        call: Option<CallId>,
        ballot: &Ballot,
    ) -> Option<Result<Approved, NotApproved>> {
        let message = |answer| RunMessage::Approve { call: call.clone(), ballot: Box::new(ballot.clone()), answer };
        self.ask(message).await
    }

    /// Tells the run that other policies hold.
    pub(super) fn policy_changed(&self, network: Arc<str>, set: Arc<str>) {
        self.line.cast(RunMessage::PolicyChanged { network, set });
    }

    /// Returns the run's supervisor, to be done harm to.
    #[cfg(test)]
    pub(super) fn supervisor(&self) -> Option<ActorRef<RunMessage>> {
        match &*self.line.at.lock().unwrap_or_else(PoisonError::into_inner) {
            At::Supervisor(supervisor) => Some(supervisor.clone()),
            At::Nobody(_) => None,
        }
    }

    /// Whether the run is under way.
    pub fn is_live(&self) -> bool {
        !self.line.is_over()
    }

    /// Waits until the run is not under way any more.
    pub async fn ended(&self) {
        self.line.over().await;
    }

    /// Asks the run something; none if it has ended. What the run did is durable when it answers. A supervisor that fails
    /// before it answers has done nothing, and the next one is asked.
    async fn ask<T>(&self, message: impl Fn(oneshot::Sender<T>) -> RunMessage) -> Option<T> {
        loop {
            let (answer, answered) = oneshot::channel();
            self.line.cast(message(answer));
            match answered.await {
                Ok(answered) => return Some(answered),
                Err(_) if self.line.is_over() => return None,
                Err(_) => tokio::time::sleep(REPLACED_WITHIN).await,
            }
        }
    }
}

/// How long it takes until a supervisor that failed has been replaced, or its run is over.
const REPLACED_WITHIN: Duration = Duration::from_millis(5);

/// Why nothing can be said to a run any more.
const HAS_ENDED: &str = "has ended";
