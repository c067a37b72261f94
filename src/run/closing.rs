//! What follows from where a run stands when it can't go on as it was, or has been taken up again: functions of its
//! state alone.

use super::{
    AgentId, AgentOutcome, CallId, Event, Inquiry, Labels, OpenCall, Origin, Resolution, RunEnd, RunState, Stage,
    Status, Subject, ToolFailure, Wait, tool_message,
};
use crate::budget::Amount;
use crate::spec::NetworkSpec;

/// Why a model call that was cut off is tried again.
const CUT_OFF: &str = "the process ended before the answer came";

/// What is influenced by a person's answer carries this label.
const PERSON: &str = "person";

/// Why an agent ends that works for one that was given up.
const FOR_NOBODY: &str = "who asked was given up";

impl RunState {
    /// Says what follows when an agent is given up that may have work under way: its calls are abandoned, what was reserved
    /// for them is charged since nobody knows what they cost, and whom it asked ends with it.
    pub fn let_go(&self, agent: &AgentId) -> Vec<(AgentId, Event)> {
        let calls = self.open_calls().filter(|(call, _)| call.agent == *agent);
        let abandon = |(call, open): (&CallId, &OpenCall)| {
            (agent.clone(), Event::CallAbandoned { call: call.clone(), charged: open.held })
        };
        let mut events: Vec<(AgentId, Event)> = calls.map(abandon).collect();
        let works_for_it = self.agents().iter().filter(|(_, instance)| {
            let is_asked = || instance.parent.answers().is_some_and(|call| call.agent == *agent);
            instance.outcome.is_none() && (is_asked() || instance.parent.flow() == Some(agent))
        });
        for (id, _) in works_for_it {
            events.extend(self.let_go(id));
            let outcome = AgentOutcome::Failed { reason: FOR_NOBODY.to_owned() };
            events.push((id.clone(), Event::AgentEnded { outcome }));
        }
        events
    }

    /// Says how a run is parked in which nothing goes on: all it waits for is a person. None if it waits for nobody, or an
    /// agent is about to hear what a person answered.
    pub fn parked(&self) -> Option<RunEnd> {
        if self.answered_unheard().next().is_some() {
            return None;
        }
        let named = |verb: &str, (call, open): (&CallId, &OpenCall)| match &open.subject {
            Subject::Tool { tool, .. } => format!("{call} {verb} `{tool}`"),
            _ => format!("{call}"),
        };
        let doubts: Vec<String> = self.in_doubt().map(|call| named("of", call)).collect();
        let questions: Vec<String> = self.awaiting_approval().map(|call| named("wants", call)).collect();
        let (status, reason) = match (doubts.is_empty(), questions.is_empty()) {
            (true, true) => match self.asked_in_words() {
                Some(asked) => (Status::AwaitingInput, asked),
                None => (Status::AwaitingBudget, self.unpaid_in_words()?),
            },
            (true, false) => (
                Status::AwaitingApproval,
                format!("approval is needed, and nobody can be asked here: {}", questions.join("; ")),
            ),
            (false, _) => (
                Status::InDoubt,
                format!("cut off while it was being made, and a second time may do it twice: {}", doubts.join("; ")),
            ),
        };
        Some(RunEnd::without_answer(status, reason))
    }

    /// Says which calls wait for a limit to be raised; none if none does.
    fn unpaid_in_words(&self) -> Option<String> {
        let unpaid = self.queued().filter(|(_, wait)| *wait == Wait::TopUp).map(|(call, _)| match self.lacks(call) {
            Some(why) => format!("{call} ({why})"),
            None => call.to_string(),
        });
        let unpaid: Vec<String> = unpaid.collect();
        (!unpaid.is_empty())
            .then(|| format!("a limit is reached that may be raised, and these calls wait: {}", unpaid.join("; ")))
    }

    /// Says what agents ask a person; none if they ask nothing.
    fn asked_in_words(&self) -> Option<String> {
        let words = |(call, open): (&CallId, &OpenCall)| {
            let question = Inquiry::of(&open.subject).map(|inquiry| inquiry.excerpt()).unwrap_or_default();
            format!("{call} asks: {question}")
        };
        let asked: Vec<String> = self.awaiting_input().map(words).collect();
        (!asked.is_empty()).then(|| format!("an answer is needed, and nobody can be asked here: {}", asked.join("; ")))
    }

    /// Says what becomes of the model calls that were cut off: the provider may have billed a call whose answer never
    /// came, so that it is charged in full.
    pub fn cut_off_tries(&self) -> Vec<Event> {
        let is_cut_off = |(_, open): &(&CallId, &OpenCall)| {
            matches!(open.subject, Subject::Model { .. }) && open.held != Amount::default()
        };
        let fail = |(call, open): (&CallId, &OpenCall)| Event::TryFailed {
            call: call.clone(),
            attempt: open.attempt,
            error: CUT_OFF.to_owned(),
            retry_in_ms: 0,
            charged: open.held,
        };
        self.open_calls().filter(is_cut_off).map(fail).collect()
    }
}

impl OpenCall {
    /// Returns the result of a tool call that was in doubt, where what is known of it is a result; or of one that asked a
    /// person who has answered.
    pub fn known_result(&self, call: &CallId, network: &NetworkSpec) -> Option<Event> {
        if let (Subject::Tool { tool, .. }, Stage::Answered { text }) = (&self.subject, &self.stage) {
            let mut labels = self.result_labels(tool, network);
            labels.add(PERSON);
            let message = tool_message(call, tool, text.to_string(), false, labels, Origin::Person);
            return Some(Event::ToolReturned { call: call.clone(), message, failure: None });
        }
        let (Subject::Tool { tool, .. }, Stage::Resolved(resolution)) = (&self.subject, &self.stage) else {
            return None;
        };
        let (content, failure) = match resolution {
            Resolution::Done { result } => (result.clone(), None),
            Resolution::Fail => ("the call was cut off, and counts as failed".to_owned(), Some(ToolFailure::Failed)),
            Resolution::Retry => return None,
        };
        let labels = self.result_labels(tool, network);
        let message = tool_message(call, tool, content, failure.is_some(), labels, Origin::Tool(tool.to_string()));
        Some(Event::ToolReturned { call: call.clone(), message, failure })
    }

    fn result_labels(&self, tool: &str, network: &NetworkSpec) -> Labels {
        let mut labels = self.labels.clone();
        let reads = network.tools.get(tool).and_then(|tool| tool.labels.reads.as_deref());
        reads.into_iter().for_each(|label| labels.add(label));
        labels
    }
}
