//! Random lives of an agent: whatever its model says and its tools answer, its transcript is one that a provider takes.

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::json;

use super::super::{Parent, RunId, Stream, Target, decode, encode};
use super::*;
use crate::budget::Amount;
use crate::model::Offer;

pub(super) fn definition() -> Definition {
    let parameters = json!({
        "type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false,
    });
    let message = json!({"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]});
    let offered = [
        ("tool", parameters, TargetKind::Tool("tool".into())),
        ("ask_other", message.clone(), TargetKind::Delegate("other".into())),
        ("transfer_to_next", message, TargetKind::Handoff("next".into())),
    ];
    let mut targets = HashMap::new();
    let mut offers = Vec::new();
    for (name, parameters, kind) in offered {
        let validator = jsonschema::validator_for(&parameters).unwrap();
        targets.insert(name.to_owned(), Target { kind, validator: validator.into() });
        let parameters = Arc::new(parameters);
        offers.push(Offer { name: name.to_owned(), description: String::new(), parameters });
    }
    Definition {
        name: "one".into(),
        model: "m".into(),
        choice: crate::spec::ModelChoice::new("m"),
        max_steps: 8,
        max_repairs: 2,
        offers: offers.into(),
        fixed_bytes: 0,
        targets,
        output: None,
        is_flow: false,
        compaction: None,
        error_route: None,
        behaviour: None,
        guards: Guards::default(),
    }
}

/// An agent, its events, and what it has asked for and not been given.
pub(super) struct Life {
    definition: Definition,
    pub(super) state: AgentState,
    pub(super) events: Vec<Envelope>,
    pub(super) calls: Vec<CallId>,
    handoffs: usize,
    pub(super) model: Option<CallId>,
    /// What its model was sent last, or the one that summarises.
    pub(super) sent: Vec<Arc<Message>>,
    /// What the summary covers that it asked for last.
    pub(super) covers: Option<(u32, u32)>,
    pub(super) end: Option<AgentOutcome>,
}

impl Life {
    fn begin() -> Self {
        Self::begin_as(definition())
    }

    pub(super) fn begin_as(definition: Definition) -> Self {
        Self::begin_after(&[], definition)
    }

    /// Begins with what was asked and answered before.
    pub(super) fn begin_after(past: &[String], definition: Definition) -> Self {
        let id = AgentId::new("one");
        let mut life = Self {
            definition,
            state: AgentState::new(id),
            events: Vec::new(),
            calls: Vec::new(),
            handoffs: 0,
            model: None,
            sent: Vec::new(),
            covers: None,
            end: None,
        };
        let user = |text: &str| {
            let body = Body::User { text: text.to_owned() };
            Arc::new(Message { body, labels: Labels::default(), origin: Origin::Input })
        };
        let task = past.iter().map(|text| user(text)).chain([user("go")]).collect();
        life.happen(Event::AgentStarted { name: "one".into(), parent: Parent::Run, depth: 0, task });
        life
    }

    pub(super) fn happen(&mut self, event: Event) {
        let envelope = Envelope {
            stream: Arc::new(Stream { run: RunId::new("r"), tenant: "t".into(), session: None }),
            seq: self.events.len() as u64 + 1,
            time_ms: 0,
            agent: Some(AgentId::new("one")),
            incarnation: 1,
            cause: None,
            labels: Labels::default(),
            event,
        };
        self.state.evolve(&envelope);
        let effects = decide(&self.definition, &self.state, &envelope.event);
        assert_eq!(effects, decide(&self.definition, &self.state, &envelope.event), "decide is a function");
        self.events.push(envelope);
        for effect in effects {
            match effect {
                Effect::CallModel { call, messages, .. } => {
                    assert_acceptable(&messages);
                    assert_eq!(self.model.replace(call), None, "two model calls at once");
                    self.sent = messages;
                }
                Effect::Summarise { call, messages, covers, .. } => {
                    assert!(call.is_compaction);
                    self.covers = Some(covers);
                    assert_eq!(self.model.replace(call), None, "two model calls at once");
                    self.sent = messages;
                }
                Effect::Compact { event } => self.happen(*event),
                Effect::Act { call, subject, .. } => {
                    self.handoffs += usize::from(matches!(subject, Subject::Handoff { .. }));
                    self.calls.push(call);
                }
                Effect::Refuse { call, failure, message } => {
                    self.happen(Event::ToolReturned { call, message, failure: Some(failure) });
                }
                Effect::Repair { message } => self.happen(Event::RepairRequested { message }),
                Effect::Warn { guard, message } => self.happen(Event::Warned { guard, message }),
                Effect::Decide { call, message } => self.happen(Event::Decided { call, message }),
                Effect::End(outcome) => assert_eq!(self.end.replace(outcome), None, "it ended twice"),
            }
        }
    }

    pub(super) fn model_says(&mut self, call: CallId, said: &[(usize, bool)]) {
        let names = ["tool", "ask_other", "transfer_to_next", "unknown"];
        let arguments = [r#"{"n": 1}"#, r#"{"message": "m"}"#, r#"{"message": "m"}"#, "{}"];
        let one = |(index, &(which, is_right)): (usize, &(usize, bool))| {
            let arguments = if is_right { arguments[which] } else { "[no" }.to_owned();
            let id = CallId::tool(&call.agent, call.step, index as u32).in_transcript();
            (id, ToolCall { name: names[which].to_owned(), arguments })
        };
        let tool_calls = said.iter().enumerate().map(one).collect();
        let body = Body::Assistant { text: String::new(), tool_calls };
        let message = Arc::new(Message { body, labels: Labels::default(), origin: Origin::Model("m".to_owned()) });
        let (finish, malformed, usage, charged) = (Finish::Stop, None, None, Amount::default());
        self.happen(Event::ModelReplied { call, message, finish, malformed, usage, charged, covers: None });
    }

    /// What a restart in another process would find: the state folded from stored events, and what it wants.
    pub(super) fn folded(&self) -> (AgentState, Vec<CallId>) {
        let stream = self.events[0].stream.clone();
        let mut folded = AgentState::new(AgentId::new("one"));
        for event in &self.events {
            folded.evolve(&decode(&encode(event), &stream).unwrap());
        }
        let wanted = take_up(&self.definition, &folded).into_iter().filter_map(|effect| match effect {
            Effect::CallModel { call, messages, .. } => {
                assert_eq!(messages, self.sent, "the very same messages");
                Some(call)
            }
            Effect::Summarise { call, messages, .. } => {
                assert_eq!(messages, self.sent, "the very same messages");
                Some(call)
            }
            Effect::Act { call, .. } => Some(call),
            _ => None,
        });
        let wanted = wanted.collect();
        (folded, wanted)
    }

    pub(super) fn change_rules(&mut self, rules: super::super::Compaction) {
        self.definition.compaction = Some(rules);
    }

    fn tool_says(&mut self, call: CallId) {
        self.tool_says_so(call, "said".to_owned());
    }

    pub(super) fn tool_says_so(&mut self, call: CallId, said: String) {
        let message = tool_message(&call, "tool", said, false, Labels::default(), Origin::Tool("tool".to_owned()));
        self.happen(Event::ToolReturned { call, message, failure: None });
    }
}

/// Every call has its result, right after it and in the order of the calls, and there is no result without a call.
fn assert_acceptable(messages: &[Arc<Message>]) {
    let mut open: Vec<String> = Vec::new();
    for message in messages {
        match &message.body {
            Body::Tool { id, .. } => assert_eq!(open.remove(0), *id),
            Body::User { .. } => assert!(open.is_empty()),
            Body::Assistant { tool_calls, .. } => {
                assert!(open.is_empty());
                open.extend(tool_calls.iter().map(|(id, _)| id.clone()));
            }
        }
    }
    assert!(open.is_empty());
}

proptest! {
    #[test]
    fn every_life_ends_within_its_bounds_and_folds_to_the_same_state(
        steps in prop::collection::vec(prop::collection::vec((0usize..4, any::<bool>()), 0..5), 1..12),
        order in prop::collection::vec(any::<prop::sample::Index>(), 64),
        told in prop::collection::vec(any::<bool>(), 64),
    ) {
        let mut life = Life::begin();
        let (mut steps, mut order, mut told) = (steps.into_iter(), order.into_iter().cycle(), told.into_iter());
        while life.end.is_none() {
            let (folded, mut wanted) = life.folded();
            prop_assert_eq!(&folded, &life.state);
            let mut waited_for: Vec<CallId> = life.calls.iter().chain(&life.model).cloned().collect();
            wanted.sort();
            waited_for.sort();
            prop_assert_eq!(wanted, waited_for, "a state says what it waits for");
            if told.next().unwrap_or_default() {
                let body = Body::User { text: "hear".to_owned() };
                let message = Arc::new(Message { body, labels: Labels::default(), origin: Origin::Person });
                life.happen(Event::Steered { message });
            }
            if let Some(call) = life.model.take() {
                life.model_says(call, &steps.next().unwrap_or_default());
            } else if !life.calls.is_empty() {
                // Results come in any order.
                let next = order.next().map_or(0, |index| index.index(life.calls.len()));
                let call = life.calls.remove(next);
                life.tool_says(call);
                // A result that comes a second time changes nothing.
                let mut again = life.state.clone();
                if let Some(last) = life.events.iter().rfind(|past| matches!(past.event, Event::ToolReturned { .. })) {
                    again.evolve(last);
                }
                prop_assert_eq!(&again, &life.state);
            } else {
                prop_assert!(false, "it waits for nothing and has not ended");
            }
        }
        prop_assert!(life.state.step <= 8);
        let (folded, wanted) = life.folded();
        prop_assert_eq!(folded, life.state);
        prop_assert_eq!(wanted, Vec::new());
    }
}

#[test]
fn a_reply_with_thousands_of_calls_is_refused_beyond_the_bound() {
    let mut life = Life::begin();
    let call = life.model.take().unwrap();
    life.model_says(call, &vec![(0, true); MAX_CALLS_PER_STEP + 1_000]);
    assert_eq!(life.calls.len(), MAX_CALLS_PER_STEP);
}

#[test]
fn labels_of_what_was_read_stay_with_the_agent() {
    let mut life = Life::begin();
    let call = life.model.take().unwrap();
    life.model_says(call, &[(0, true)]);
    let call = life.calls.pop().unwrap();
    let mut labels = Labels::default();
    labels.add("private");
    let message = tool_message(&call, "tool", "said".to_owned(), false, labels, Origin::Tool("tool".to_owned()));
    life.happen(Event::ToolReturned { call, message, failure: None });
    assert_eq!(life.state.labels().iter().collect::<Vec<_>>(), ["private"]);
}

#[test]
fn what_an_agent_is_told_it_hears_before_its_answer_counts() {
    let mut life = Life::begin();
    let body = Body::User { text: "be brief".to_owned() };
    life.happen(Event::Steered {
        message: Arc::new(Message { body, labels: Labels::default(), origin: Origin::Person }),
    });
    let call = life.model.take().unwrap();
    let body = Body::Assistant { text: "a long answer".to_owned(), tool_calls: Vec::new() };
    let message = Arc::new(Message { body, labels: Labels::default(), origin: Origin::Model("m".to_owned()) });
    let (finish, malformed, usage, charged) = (Finish::Stop, None, None, Amount::default());
    life.happen(Event::ModelReplied { call, message, finish, malformed, usage, charged, covers: None });
    assert_eq!((life.end.clone(), life.model.as_ref().map(|call| call.step)), (None, Some(2)));
    let last = life.state.transcript().last().unwrap();
    assert!(matches!(&last.body, Body::User { text } if text == "be brief"));
}

#[test]
fn what_an_agent_is_asked_comes_after_the_results_and_before_all_else() {
    let asked = || {
        let body = Body::User { text: "be brief".to_owned() };
        Event::Asked { message: Arc::new(Message { body, labels: Labels::default(), origin: Origin::Person }) }
    };
    let said = |life: &Life| {
        let text = |message: &Arc<Message>| match &message.body {
            Body::User { text } | Body::Assistant { text, .. } => text.clone(),
            Body::Tool { content, .. } => content.clone(),
        };
        life.state.transcript().iter().map(text).collect::<Vec<_>>()
    };
    let wants_model = |life: &Life| matches!(take_up(&life.definition, &life.state)[..], [Effect::CallModel { .. }]);

    // The model is next; what it was told before comes first.
    let mut life = Life::begin();
    let body = Body::User { text: "hear".to_owned() };
    let message = Arc::new(Message { body, labels: Labels::default(), origin: Origin::Person });
    life.happen(Event::Steered { message });
    life.happen(asked());
    assert_eq!((said(&life), wants_model(&life)), (["go", "hear", "be brief"].map(str::to_owned).to_vec(), true));

    // Its tools are at work.
    let mut life = Life::begin();
    let call = life.model.take().unwrap();
    life.model_says(call, &[(0, true)]);
    life.happen(asked());
    assert_eq!(said(&life), ["go", ""]);
    let call = life.calls.pop().unwrap();
    life.tool_says(call);
    assert_eq!((said(&life), wants_model(&life)), (["go", "", "said", "be brief"].map(str::to_owned).to_vec(), true));

    // It has given its answer, or its model has failed, and nothing has followed from that.
    for event in [
        Event::ModelReplied {
            call: CallId::model(&AgentId::new("one"), 1),
            message: Arc::new(Message {
                body: Body::Assistant { text: "done".to_owned(), tool_calls: Vec::new() },
                labels: Labels::default(),
                origin: Origin::Model("m".to_owned()),
            }),
            finish: Finish::Stop,
            malformed: None,
            usage: None,
            covers: None,
            charged: Amount::default(),
        },
        Event::ModelFailed {
            call: CallId::model(&AgentId::new("one"), 1),
            error: "down".to_owned(),
            charged: Amount::default(),
            denied: false,
        },
    ] {
        let mut life = Life::begin();
        life.happen(event);
        assert!(!wants_model(&life));
        life.happen(asked());
        assert!(wants_model(&life), "{:?}", said(&life));
        assert_eq!(said(&life).last().map(String::as_str), Some("be brief"));
    }
}
