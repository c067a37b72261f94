//! How a run begins that was forked from another.

use std::sync::Arc;

use ractor::ActorRef;

use super::{RunLoop, RunMessage};
use crate::budget::Entry;
use crate::run::{
    self, AgentId, CallId, Effect, Envelope, Event, Fold, Labels, Origin, Subject, ToolFailure, encode, question,
    refused,
};

/// What the model of an agent is told that was about to hand over.
const PUT_OFF: &str = "control has not moved: read first what you are told";

/// What a run that was forked from another begins with.
pub(in crate::runtime) struct Forked {
    /// The copies of the other run's events.
    pub(in crate::runtime) copied: Vec<Arc<Envelope>>,
    /// What they fold to.
    pub(in crate::runtime) fold: Fold,
    /// That the run begins here.
    pub(in crate::runtime) forked: Event,
    /// Results of calls that are under way in the copied part.
    pub(in crate::runtime) taken_over: Vec<Event>,
    /// What the agent that stands for the run is told.
    pub(in crate::runtime) input: Option<Arc<str>>,
}

impl RunLoop {
    /// Begins where the copies of the other run's events end. They are written with what comes first here: one batch,
    /// whole or not at all.
    pub(super) async fn begin_fork(&mut self, fork: Forked, me: &ActorRef<RunMessage>) {
        let Forked { copied, fold, forked, taken_over, input } = fork;
        self.unwritten.records = copied.iter().map(|envelope| encode(envelope)).collect();
        let (run, tenant) = (self.scope.stream.run.clone(), self.scope.stream.tenant.clone());
        let accounts = self.scope.funds.openings();
        self.unwritten.entries.push(Entry::Opened { run, tenant, accounts });
        self.state = fold.run;
        self.taken_up = (self.state.head(), fold.agents);
        self.folded.rejected = fold.rejected;
        let cause = self.record(None, None, forked).seq;
        for result in taken_over {
            let agent = result.call().map(|call| call.agent.clone());
            self.happened_before(agent, cause, result);
        }
        if let Some(input) = input {
            self.tell_front(input, cause);
        }
        self.set_deadline(me);
        self.take_up_agents(me).await;
        self.take_up_mail(me).await;
    }

    /// Tells the agent that stands for the run something. One that was about to hand over would never speak again: it
    /// reads first, and may hand over then.
    fn tell_front(&mut self, input: Arc<str>, cause: u64) {
        let Some(front) = self.state.front().cloned() else { return };
        if let Some((call, subject)) = self.wanted_handoff(&front) {
            let put_off = refused(&call, &subject, ToolFailure::Denied, PUT_OFF.to_owned());
            self.happened_before(Some(front.clone()), cause, put_off);
        }
        let message = question(input, Labels::default(), Origin::Person);
        self.happened_before(Some(front), cause, Event::Asked { message });
    }

    /// Returns the handoff that an agent wants and that has not begun.
    fn wanted_handoff(&self, agent: &AgentId) -> Option<(CallId, Subject)> {
        let definition = self.scope.definitions.get(&self.state.agents().get(agent)?.name)?;
        let wanted = run::take_up(definition, self.taken_up.1.get(agent)?);
        wanted.into_iter().find_map(|effect| match effect {
            Effect::Act { call, subject: subject @ Subject::Handoff { .. }, .. } => Some((call, subject)),
            _ => None,
        })
    }

    /// Records what an agent has taken up before it says what it wants.
    fn happened_before(&mut self, agent: Option<AgentId>, cause: u64, event: Event) {
        let Some(agent) = agent else { return };
        let envelope = self.record(Some(&agent), Some(cause), event);
        let (upto, agents) = &mut self.taken_up;
        *upto = envelope.seq;
        if let Some(state) = agents.get_mut(&agent) {
            state.evolve(&envelope);
        }
    }
}
