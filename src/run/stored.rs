//! Events as they are stored: MessagePack with names, so that a field can be added later; and runs as folds of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    AgentId, AgentOutcome, AgentState, Envelope, Event, Labels, Parent, RunId, RunState, Status, Stream, Subject,
    ToolFailure, Wait,
};
use crate::journal::{Record, Snapshot};

/// The newest form of events that is read. What an older one says keeps its meaning for ever.
const VERSION: u16 = 5;

/// The version of the form in which folds are stored. Unlike an event, a fold of another version is only made anew: so
/// whoever does not know an event does not read a fold in which it is hidden either.
const SNAPSHOT_VERSION: u16 = 5;

/// Returns the form in which an event is written: the oldest that has its kind, so that an older Provost reads what it
/// knows, and says of the rest that it is newer.
fn version(event: &Event) -> u16 {
    match event {
        Event::PolicyDecided { .. }
        | Event::PolicyChanged { .. }
        | Event::ApproversTold { .. }
        | Event::ApprovalVoted { .. }
        | Event::ModelFailed { denied: true, .. }
        | Event::AgentEnded { outcome: AgentOutcome::Denied { .. } } => 5,
        // Whoever does not know of it would take the call for another, or ask again.
        Event::ApprovalDecided { verdict, .. } if verdict.arguments.is_some() || verdict.standing.is_some() => 5,
        Event::Compacted { .. } | Event::Warned { .. } | Event::ModelChosen { .. } => 4,
        Event::ToolReturned { failure: Some(ToolFailure::PingPong), .. } => 4,
        // Whoever does not know such calls can't read their names.
        event if event.call().is_some_and(|call| call.is_compaction) => 4,
        Event::CallQueued { wait: Wait::TopUp, .. } => 4,
        Event::RunForked { .. } | Event::Asked { .. } => 2,
        Event::Decided { .. }
        // Whoever does not know of the letter would think that another agent has to begin.
        | Event::RunStarted { put_back: Some(_), .. }
        | Event::CallQueued { .. }
        | Event::Sent { .. }
        | Event::Took { .. }
        | Event::DeadLettered { .. }
        | Event::AgentFailed { .. }
        | Event::Rejected { .. }
        | Event::Hung { .. } => 3,
        Event::ToolReturned {
            failure: Some(ToolFailure::MailboxFull | ToolFailure::DeadLettered | ToolFailure::Rejected),
            ..
        } => 3,
        Event::Routed { .. }
        | Event::Joined { .. }
        | Event::JoinDue { .. }
        | Event::AgentStarted { parent: Parent::Route(_) | Parent::Handoff { visit: Some(_), .. }, .. }
        | Event::CallIntended { subject: Subject::Publish { .. }, .. }
        | Event::ApprovalRequested { subject: Subject::Publish { .. }, .. }
        | Event::AgentEnded { outcome: AgentOutcome::Cancelled { .. } } => 4,
        Event::InputRequested { .. } | Event::InputGiven { .. } | Event::AtRest | Event::BudgetLow { .. } => 4,
        Event::CancelRequested { end } | Event::RunEnded { end, .. }
            if matches!(end.status, Status::AwaitingInput | Status::AwaitingBudget) =>
        {
            4
        }
        _ => 1,
    }
}

/// Room for most events, so that few of them have to be moved while they are written.
const USUAL_BYTES: usize = 512;

/// A record can't be read as an event.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoredError {
    /// A newer Provost wrote it.
    #[error("event {seq} (`{kind}`) has format {found}, and this Provost reads up to {VERSION}")]
    Newer {
        /// The event's number.
        seq: u64,
        /// Its kind.
        kind: String,
        /// Its format.
        found: u16,
    },
    /// It is no event.
    #[error("event {seq} (`{kind}`) can't be read: {why}")]
    Malformed {
        /// The event's number.
        seq: u64,
        /// Its kind.
        kind: String,
        /// Why.
        why: String,
    },
}

/// Writes an event down.
pub fn encode(envelope: &Envelope) -> Record {
    // An event is made of maps with text keys, numbers and texts, so that writing it can't fail; were it to, what is left
    // of it could not be read, and reading would say so.
    let mut payload = Vec::with_capacity(USUAL_BYTES);
    let _ = rmp_serde::encode::write_named(&mut payload, &envelope.event);
    Record {
        seq: envelope.seq,
        time_ms: envelope.time_ms,
        agent: envelope.agent.as_ref().map(AgentId::to_text),
        incarnation: envelope.incarnation,
        cause: envelope.cause,
        labels: envelope.labels.iter().map(str::to_owned).collect(),
        kind: envelope.event.kind().into(),
        version: version(&envelope.event),
        payload,
    }
}

/// Reads an event that [`encode`] wrote down.
///
/// # Errors
/// It is of a newer format, or is no event.
pub fn decode(record: &Record, stream: &Arc<Stream>) -> Result<Envelope, StoredError> {
    let (seq, kind) = (record.seq, || record.kind.clone().into_owned());
    if record.version > VERSION {
        return Err(StoredError::Newer { seq, kind: kind(), found: record.version });
    }
    let event: Event = rmp_serde::from_slice(&record.payload).map_err(|error| StoredError::Malformed {
        seq,
        kind: kind(),
        why: error.to_string(),
    })?;
    let mut labels = Labels::default();
    record.labels.iter().for_each(|label| labels.add(label));
    Ok(Envelope {
        stream: stream.clone(),
        seq,
        time_ms: record.time_ms,
        agent: record.agent.clone().map(AgentId::new),
        incarnation: record.incarnation,
        cause: record.cause,
        labels,
        event,
    })
}

/// A run and its living agents, as a fold of the run's events up to some number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fold {
    /// The run as a whole.
    pub run: RunState,
    /// The agent instances that have not ended.
    pub agents: BTreeMap<AgentId, AgentState>,
    /// The events that agents do not take up, since they failed at them.
    pub rejected: BTreeSet<u64>,
}

/// Returns the numbers of the events that were rejected later.
pub fn rejected<'a>(events: impl IntoIterator<Item = &'a Envelope>) -> BTreeSet<u64> {
    let rejected = events.into_iter().filter_map(|envelope| match envelope.event {
        Event::Rejected { seq, .. } => Some(seq),
        _ => None,
    });
    rejected.collect()
}

impl Fold {
    /// Folds agents anew that began with the states `agents`, by the events since, of a run that stands at `run`.
    pub fn of_agents<'a>(
        run: RunState,
        agents: BTreeMap<AgentId, AgentState>,
        rejected: BTreeSet<u64>,
        events: impl IntoIterator<Item = &'a Envelope>,
    ) -> Self {
        let mut fold = Self { run, agents, rejected };
        events.into_iter().for_each(|envelope| fold.evolve_agent(envelope));
        fold
    }

    /// Takes up the next event. What was rejected later is known to no agent, if [`Fold::rejected`] says so beforehand: an
    /// event that makes an agent fail does not make every fold fail.
    pub fn evolve(&mut self, envelope: &Envelope) {
        self.run.evolve(envelope);
        self.evolve_agent(envelope);
    }

    fn evolve_agent(&mut self, envelope: &Envelope) {
        let Some(agent) = envelope.agent.as_ref().filter(|_| !self.rejected.contains(&envelope.seq)) else { return };
        if let Event::AgentEnded { .. } = envelope.event {
            self.agents.remove(agent);
        } else if self.run.agents().get(agent).is_some_and(|instance| instance.outcome.is_none()) {
            self.agents.entry(agent.clone()).or_insert_with(|| AgentState::new(agent.clone())).evolve(envelope);
        }
    }

    /// Writes the fold down, so that it need not be made again.
    pub fn to_snapshot(&self) -> Snapshot {
        let state = rmp_serde::to_vec_named(self).unwrap_or_default();
        Snapshot { seq: self.run.head(), version: SNAPSHOT_VERSION, state }
    }

    /// Reads what [`Fold::to_snapshot`] wrote; none if another version did, whose states may have another form: then the
    /// events are folded anew.
    pub fn from_snapshot(snapshot: &Snapshot) -> Option<Self> {
        let is_ours = snapshot.version == SNAPSHOT_VERSION;
        let fold: Self = is_ours.then(|| rmp_serde::from_slice(&snapshot.state).ok())??;
        (fold.run.head() == snapshot.seq).then_some(fold)
    }

    /// Reads the events of a run that follow those in the fold, and takes them up.
    ///
    /// # Errors
    /// As for [`decode`]; or the first event of all is not the run's beginning.
    pub fn extend(&mut self, run: &RunId, records: &[Record]) -> Result<Vec<Arc<Envelope>>, StoredError> {
        let known = self.run.beginning().map(|beginning| beginning.stream.clone());
        let mut stream =
            known.unwrap_or_else(|| Arc::new(Stream { run: run.clone(), tenant: "".into(), session: None }));
        let mut envelopes = Vec::with_capacity(records.len());
        for record in records {
            envelopes.push(decode(record, &stream)?);
        }
        self.rejected.extend(rejected(&envelopes));
        let mut events = Vec::with_capacity(records.len());
        for mut envelope in envelopes {
            if let Event::RunStarted { tenant, session, .. } = &envelope.event {
                stream = Arc::new(Stream { run: run.clone(), tenant: tenant.clone(), session: session.clone() });
            }
            envelope.stream = stream.clone();
            self.evolve(&envelope);
            events.push(Arc::new(envelope));
        }
        match self.run.beginning() {
            Some(_) => Ok(events),
            None => {
                Err(StoredError::Malformed { seq: 1, kind: String::new(), why: "the run does not begin".to_owned() })
            }
        }
    }
}
