//! What a run's supervisor starts with, made of what its network's runs share.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::fleet::{Fleet, Values};
use super::funds::Funds;
use super::recorder::Claim;
use super::run_supervisor::Opening;
use super::scope::{ApprovedOf, Pause, Scope};
use super::voice::Voice;
use super::{Answers, Error, Past, VERSION, read_again};
use crate::journal::Log;
use crate::run::{Beginning, Envelope, Event, Fold, RunState};
use crate::spec::READ_AGAIN;

/// What a run needs beside whom to tell of it.
pub(super) type Ready = (Arc<Scope>, Opening, Arc<Log<Envelope>>, Claim);

/// What those see who follow a run.
#[derive(Default)]
pub(super) struct Trail {
    /// What has happened since it was taken up.
    pub(super) log: Arc<Log<Envelope>>,
    /// What its models say.
    pub(super) voice: Arc<Voice>,
}

impl Fleet {
    /// Makes what the calls of a run may reach.
    pub(super) fn scope(
        self: &Arc<Self>,
        beginning: &Beginning,
        past: Option<&RunState>,
        is_attended: bool,
        trail: Trail,
    ) -> Result<Arc<Scope>, Error> {
        let stream = beginning.stream.clone();
        let values = Values { input: &beginning.input, vars: &beginning.vars };
        let prompts = self.render_prompts(&values)?;
        let mut tools = self.bind_tools(&values, beginning.directory.as_ref().as_ref())?;
        if self.network.spec().agents.values().any(|agent| agent.compaction.is_some()) {
            tools.insert(READ_AGAIN.into(), read_again::bound(&trail.log, &self.recorder));
        }
        let definitions = self.definitions()?;
        Ok(Arc::new(Scope {
            funds: Funds::new(self.network.spec(), &stream, past, &self.recorder),
            lane: self.widths.lane(&stream, beginning.priority),
            stream,
            fleet: self.clone(),
            tools,
            prompts,
            definitions,
            cancelled: CancellationToken::new(),
            pause: Pause::default(),
            approved: ApprovedOf::default(),
            recorder: self.recorder.clone(),
            voice: trail.voice,
            approver: self.approver.clone().filter(|_| is_attended),
        }))
    }

    /// Makes what a run needs that is taken up again. Who follows it by `voice` goes on to do so.
    ///
    /// # Errors
    /// As for [`Runtime::resume`](super::Runtime::resume).
    pub(super) fn resumed(self: &Arc<Self>, past: Past, answers: Answers, voice: Arc<Voice>) -> Result<Ready, Error> {
        let Past { state, agents, events } = past;
        let beginning = state.beginning().cloned().ok_or(Error::Stopped)?;
        let run = beginning.stream.run.clone();
        let status = state.status();
        if !status.can_go_on() {
            return Err(Error::Unfit { run, why: format!("has ended: {}", status.word()) });
        }
        let claim = self.recorder.claim(&run, state.head())?;
        let log = Arc::new(Log::of(events));
        let trail = Trail { log: log.clone(), voice };
        let scope = self.scope(&beginning, Some(&state), answers.is_attended, trail)?;
        let is_other = beginning.network != self.text;
        // It may hold what runs wait for that have their turn.
        self.widths.take_turn(&scope.lane);
        let resumed = Event::RunResumed { network: is_other.then(|| self.text.clone()), version: VERSION.into() };
        let fold = Fold { run: state, agents, rejected: Default::default() };
        Ok((scope, Opening::Resumed { fold: Box::new(fold), resumed, answers }, log, claim))
    }
}
