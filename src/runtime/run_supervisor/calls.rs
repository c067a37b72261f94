//! The call table: what agents want, and what becomes of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;
use tokio::time::Instant;

use super::failing::Failure;
use super::watchdog::Live;
use super::{RunLoop, RunMessage};
use crate::budget::Amount;
use crate::fault::{self, Bug};
use crate::model::{Request, fixed_bytes};
use crate::run::{
    AgentId, AgentOutcome, CallId, Definition, Effect, Event, Labels, Message, Next, OpenCall, Origin, Pick, RunEnd,
    SUMMARISE, Status, Subject, ToolFailure, refused, tool_message,
};
use crate::runtime::gate::{self, Admission, Call, ModelCall, Situation, Work};
use crate::runtime::purse::Exhausted;
use crate::runtime::scope::Happened;
use crate::runtime::supervision::Exit;
use crate::spec::{Effect as ToolEffect, OnError};

impl RunLoop {
    /// Takes note that an agent has dealt with an event, and begins what it wants. What a former incarnation wanted
    /// is heard no more: its successor will say the same.
    pub(super) fn decided(
        &mut self,
        agent: &AgentId,
        incarnation: u32,
        upto: u64,
        effects: Vec<Effect>,
        labels: &Labels,
        me: &ActorRef<RunMessage>,
    ) {
        if self.ending.is_none() && self.acknowledge(agent, incarnation, upto) {
            self.goes_on(agent);
            self.bring_about(agent, upto, effects, labels, me);
        }
    }

    /// Begins what an agent wants.
    pub(super) fn bring_about(
        &mut self,
        agent: &AgentId,
        cause: u64,
        effects: Vec<Effect>,
        labels: &Labels,
        me: &ActorRef<RunMessage>,
    ) {
        for effect in effects {
            match effect {
                Effect::CallModel { call, messages, pick } => self.begin_model_call(call, messages, pick, cause, me),
                Effect::Summarise { call, model, messages, covers } => {
                    self.begin_summary(call, &model, messages, covers, cause, me);
                }
                Effect::Compact { event } => self.result(agent, cause, *event),
                Effect::Decide { call, message } => self.result(agent, cause, Event::Decided { call, message }),
                Effect::Act { call, subject, labels } => {
                    self.begin_call(Call::new(call, cause, labels, Work::Act(subject)), me);
                }
                Effect::Refuse { call, failure, message } => {
                    self.result(agent, cause, Event::ToolReturned { call, message, failure: Some(failure) });
                }
                Effect::Repair { message } => self.result(agent, cause, Event::RepairRequested { message }),
                Effect::Warn { guard, message } => self.result(agent, cause, Event::Warned { guard, message }),
                Effect::End(outcome) => self.end_agent(agent, cause, outcome, labels),
            }
        }
    }

    fn begin_model_call(
        &mut self,
        id: CallId,
        messages: Vec<Arc<Message>>,
        pick: Pick,
        cause: u64,
        me: &ActorRef<RunMessage>,
    ) {
        let Some(definition) = self.children.get(&id.agent).map(|child| child.definition.clone()) else { return };
        let is_bound = pick.is_bound;
        let name = self.choose(&definition, &id, pick, cause);
        let Some(model) = self.scope.fleet.models.get(&name).cloned() else { return };
        let (others, cheaper) = self.others(&definition, &name, is_bound);
        let wanted = model.spec.max_output_tokens;
        let request = self.request(&definition, id.clone(), messages, wanted);
        let fixed_bytes = definition.fixed_bytes;
        let work = Work::Model(ModelCall { model, name, fixed_bytes, request, wanted, others, cheaper, covers: None });
        self.begin_call(Call::new(id, cause, Labels::default(), work), me);
    }

    /// Begins the model call that summarises an agent's older messages. It is offered nothing, and told nothing of what
    /// the agent is told first.
    fn begin_summary(
        &mut self,
        id: CallId,
        name: &Arc<str>,
        messages: Vec<Arc<Message>>,
        covers: (u32, u32),
        cause: u64,
        me: &ActorRef<RunMessage>,
    ) {
        let Some(definition) = self.children.get(&id.agent).map(|child| child.definition.clone()) else { return };
        let Some(rules) = &definition.compaction else { return };
        let Some(model) = self.scope.fleet.models.get(name).cloned() else { return };
        let max_output_tokens =
            rules.summary_tokens().clamp(model.spec.min_output_tokens, model.spec.max_output_tokens);
        let request = Request {
            system: SUMMARISE.into(),
            tools: Arc::default(),
            output_schema: None,
            ..self.request(&definition, id.clone(), messages, max_output_tokens)
        };
        let work = Work::Model(ModelCall {
            model,
            name: name.clone(),
            fixed_bytes: fixed_bytes(&[], None),
            request,
            wanted: max_output_tokens,
            others: VecDeque::new(),
            cheaper: VecDeque::new(),
            covers: Some(covers),
        });
        self.begin_call(Call::new(id, cause, Labels::default(), work), me);
    }

    fn request(&self, definition: &Definition, call: CallId, messages: Vec<Arc<Message>>, max: u32) -> Request {
        Request {
            run: self.scope.stream.run.clone(),
            agent: definition.name.clone(),
            call,
            attempt: 1,
            system: self.scope.prompts.get(&definition.name).cloned().unwrap_or_default(),
            messages,
            tools: definition.offers.clone(),
            output_schema: definition.output.as_ref().map(|output| output.schema.clone()),
            max_output_tokens: max,
        }
    }

    /// Sends a call through the gate, once: what is under way, waits for others or is over is not begun again.
    pub(super) fn begin_call(&mut self, mut call: Call, me: &ActorRef<RunMessage>) {
        let is_over = self.state.is_over(&call.id) && !fault::is_planted(Bug::CompletedMadeAgain);
        if is_over || self.live.contains_key(&call.id) {
            return;
        }
        if let Some(open) = self.state.open_call(&call.id).cloned()
            && !self.take_up_call(&mut call, &open, me)
        {
            return;
        }
        if let Some(instance) = self.state.agents().get(&call.id.agent) {
            call.agent = instance.name.clone();
            self.scope.approved.is(self.state.approved());
            call.situation = Situation { depth: instance.depth, patterns: self.state.standing().to_vec() };
        }
        call.time = self.time_of(&call);
        self.last_task += 1;
        let (id, task, pulse) = (call.id.clone(), self.last_task, call.pulse.clone());
        let (scope, supervisor) = (self.scope.clone(), me.clone());
        let ended = TellEnded { call: call.id.clone(), task, supervisor: me.clone() };
        let abort = self.tasks.spawn(async move {
            let _ended = ended;
            // The call fails only because the run is over, and then nobody asks for it.
            let _ = gate::pass(call, scope, supervisor).await;
        });
        self.live.insert(id, Live { task, abort, pulse, since: Instant::now() });
    }

    /// Returns how much of its step's time is left for a call.
    fn time_of(&self, call: &Call) -> Option<Duration> {
        let limit = self.scope.fleet.network.spec().agents.get(&*call.agent)?.step_timeout?.0;
        match &call.work {
            Work::Model(_) => (!call.id.is_compaction).then_some(limit),
            Work::Act(Subject::Tool { .. }) => {
                let spent = self.children.get(&call.id.agent).and_then(|child| child.step_spent(call.id.step));
                Some(limit.saturating_sub(spent.unwrap_or_default()))
            }
            Work::Act(_) | Work::Reconcile { .. } => None,
        }
    }

    /// Records a call's result, settles what it held, and only then tells the agent. What follows from a failure is for the
    /// network to say; a tool that panicked brings its agent down.
    pub(super) async fn call_over(
        &mut self,
        happened: Happened,
        admission: Option<(Admission, Amount)>,
        me: &ActorRef<RunMessage>,
    ) {
        let Happened { call, cause, event, .. } = happened;
        if let (Event::ModelReplied { .. }, Some(live)) = (&event, self.live.get(&call)) {
            let spent = (call.step, live.since.elapsed());
            self.children.get_mut(&call.agent).into_iter().for_each(|child| child.last_model_call = Some(spent));
        }
        let is_news = self.ending.is_none() && !event.call().is_some_and(|call| self.state.is_over(call));
        let mishap = if is_news { self.mishap(&call, &event) } else { None };
        let event = match &mishap {
            Some(Mishap::MadeAgain { error, charged }) => self.failed_try(&call, error, *charged),
            _ => event,
        };
        self.goes_on(&call.agent);
        let recorded = is_news.then(|| self.record(Some(&call.agent), Some(cause), event));
        match admission {
            Some((admission, charged)) if recorded.is_some() => admission.settle(charged),
            // What comes too late is on record as abandoned, and charged in full; so it is when it is dropped.
            late => drop(late),
        }
        self.warn_of(&call);
        let Some(envelope) = recorded else { return };
        let failure = |reason| Failure { exit: Exit::Failed, at: None, reason };
        match mishap {
            None => self.deliver(&call.agent, envelope),
            Some(Mishap::MadeAgain { error, .. }) => {
                self.live.remove(&call);
                // Its next incarnation has dealt with all that led to the call: it says anew that it wants it.
                let is_wanted = !fault::is_planted(Bug::CallNotMadeAgain);
                self.children.get_mut(&call.agent).into_iter().for_each(|child| child.is_to_take_up |= is_wanted);
                self.fail_agent(&call.agent, failure(error), me).await;
            }
            Some(Mishap::Panic { reason }) => {
                self.deliver(&call.agent, envelope);
                self.fail_agent(&call.agent, failure(reason), me).await;
            }
            Some(Mishap::FailsRun { reason }) => self.end(RunEnd::without_answer(Status::Failed, reason)),
        }
    }

    /// Says what is to follow from a call's result beside that the agent is told.
    fn mishap(&self, call: &CallId, event: &Event) -> Option<Mishap> {
        // Its agent goes on without a summary.
        if call.is_compaction {
            return None;
        }
        let name = &self.state.agents().get(&call.agent)?.name;
        let on_error = &self.scope.fleet.network.spec().agents.get(&**name)?.on_error;
        let (error, charged, may_be_made_again) = match event {
            Event::ToolReturned { failure: Some(ToolFailure::Panicked), message, .. } => {
                return Some(Mishap::Panic { reason: message.text().to_owned() });
            }
            Event::ModelFailed { error, charged, denied: false, .. } => (error.as_str(), *charged, true),
            Event::ToolReturned { failure: Some(ToolFailure::TimedOut), message, .. } => {
                let effect = self.state.open_call(call).and_then(|open| open.effect);
                (message.text(), Amount::default(), effect.is_some_and(|effect| effect != ToolEffect::Once))
            }
            _ => return None,
        };
        match on_error {
            OnError::Restart if may_be_made_again => Some(Mishap::MadeAgain { error: error.to_owned(), charged }),
            OnError::FailRun => Some(Mishap::FailsRun { reason: format!("{call}: {error}") }),
            OnError::FeedBack | OnError::Restart | OnError::Route(_) => None,
        }
    }

    fn failed_try(&self, call: &CallId, error: &str, charged: Amount) -> Event {
        let attempt = self.state.open_call(call).map_or(1, |open| open.attempt);
        Event::TryFailed { call: call.clone(), attempt, error: error.to_owned(), retry_in_ms: 0, charged }
    }

    /// Records what took no call, and tells the agent.
    pub(super) fn result(&mut self, agent: &AgentId, cause: u64, event: Event) {
        if self.ending.is_none() && !event.call().is_some_and(|call| self.state.is_over(call)) {
            let envelope = self.record(Some(agent), Some(cause), event);
            self.deliver(agent, envelope);
        }
    }

    /// Says of each account that the call was paid from, once in a run, that a limit is near.
    fn warn_of(&mut self, call: &CallId) {
        let Some(agent) = self.state.agents().get(&call.agent).map(|instance| instance.name.clone()) else { return };
        for event in self.scope.funds.near(&agent) {
            let Event::BudgetLow { account, limit, per, .. } = &event else { continue };
            if self.ending.is_none() && !self.state.is_warned(account, *limit, *per) {
                self.record(None, None, event);
            }
        }
    }

    /// A call would go beyond a limit: the run ends, since all its agents share it.
    pub(super) fn limit_reached(&mut self, call: &CallId, reached: &Exhausted) {
        let end = RunEnd::without_answer(Status::Limit, format!("{} (asked by {})", reached.words(), call.agent));
        self.end(end);
    }

    /// A call's task has ended. If it neither brought a result nor is waiting for one, it panicked.
    pub(super) fn task_ended(&mut self, call: &CallId, task: u64) {
        if self.live.get(call).is_none_or(|live| live.task != task) {
            return;
        }
        self.live.remove(call);
        while self.tasks.try_join_next().is_some() {}
        let open = self.state.open_call(call).cloned();
        let is_blocked = self.blocked.contains_key(call) && !fault::is_planted(Bug::NoRoomBreaksOff);
        let waits = is_blocked || open.as_ref().is_some_and(OpenCall::waits_for_others);
        if self.ending.is_some() || waits || self.state.is_over(call) {
            return;
        }
        let why = "the call broke off without a result".to_owned();
        let charged = open.as_ref().map(|open| open.held).unwrap_or_default();
        let event = match (call.index, open) {
            (None, _) => Event::ModelFailed { call: call.clone(), error: why, charged, denied: false },
            (Some(_), Some(open)) => refused(call, &open.subject, ToolFailure::Panicked, why),
            (Some(_), None) => {
                let message = tool_message(call, "tool", why, true, Labels::default(), Origin::Runtime);
                Event::ToolReturned { call: call.clone(), message, failure: Some(ToolFailure::Panicked) }
            }
        };
        self.result(&call.agent.clone(), self.state.head(), event);
    }

    pub(super) fn end_agent(&mut self, agent: &AgentId, cause: u64, outcome: AgentOutcome, labels: &Labels) {
        self.free_place(agent, &outcome);
        let ended = Event::AgentEnded { outcome };
        let envelope = self.record_with(Some(agent), Some(cause), labels.clone(), ended);
        self.forget(agent);
        match self.state.after_agent(agent) {
            Some(Next { call, message, failure }) => {
                let asker = call.agent.clone();
                self.result(&asker, envelope.seq, Event::ToolReturned { call, message, failure });
            }
            None => self.end_if_over(),
        }
    }

    /// Ends an agent that has handed over.
    pub(super) fn end_handed_over(&mut self, agent: &AgentId, cause: u64, to: AgentId) {
        self.end_agent(agent, cause, AgentOutcome::HandedOff { to }, &Labels::default());
    }
}

/// What follows from a failed call.
enum Mishap {
    /// It is made again by the next incarnation of its agent.
    MadeAgain { error: String, charged: Amount },
    /// Its tool panicked: the agent that made it is started again.
    Panic { reason: String },
    /// The run ends.
    FailsRun { reason: String },
}

/// Tells the supervisor that a call's task has ended: by return, by panic, by cancel or by abort.
struct TellEnded {
    call: CallId,
    task: u64,
    supervisor: ActorRef<RunMessage>,
}

impl Drop for TellEnded {
    fn drop(&mut self) {
        let _ = self.supervisor.cast(RunMessage::TaskEnded { call: self.call.clone(), task: self.task });
    }
}
