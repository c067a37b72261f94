//! Runs and agents as pure functions of their events: no clock, no chance, no input or output.

mod agent;
mod apart;
mod approving;
mod asking;
mod behaviour;
mod closing;
mod definition;
mod diff;
mod event;
mod fork;
mod health;
mod id;
mod letter;
mod message;
mod outcome;
mod ping_pong;
mod priority;
mod replay;
mod room;
mod routing;
mod start;
mod state;
mod stored;
mod subject;

pub use agent::{
    AgentState, Change, Effect, Guard, Guards, MAX_CALLS_PER_STEP, Pick, SUMMARISE, Why, decide, downgraded,
    fall_backs, pick, take_up, tool_message,
};
pub use apart::apart;
pub use approving::{
    Approval, ApprovalRequest, Ballot, Binding, BoundFile, Counted, MAX_REASON_BYTES, MAX_STANDING, NotApproved,
    Pattern, Ruled, Ruling, SOMEBODY, Standing, Verdict, is_person,
};
pub use asking::{Inquiry, MAX_ANSWER_BYTES, MAX_CHOICE_CHARS, MAX_CHOICES, MAX_QUESTION_CHARS, NoAnswer};
pub use behaviour::{Agent, Move, Turn};
pub use definition::{Compaction, Definition, OutputSchema, Target, TargetKind};
pub use diff::{Diff, Pair, Parting, StepCost, What};
pub use event::{Envelope, Event, Parent, Resolution, Stream, ToolFailure, Visit, Wait};
pub use fork::{ForkPoint, NoForkPoint};
pub use health::Health;
pub use id::{AgentId, CallId, NotACall, RunId};
pub use letter::{LetterId, PutBack};
pub use message::{Body, Labels, Message, Origin, ToolCall, Usage};
pub use outcome::{AgentOutcome, Answer, RunEnd, Status};
pub use priority::Priority;
pub use replay::{Divergence, Replay, Replayed, Rules};
pub use routing::{FlowRules, LOST, Routing, Step};
pub use start::{NewAgent, NotAsked, gave_up, no_room, published, question, refused, unusable};
pub use state::{
    Beginning, FlowState, Instance, Joining, Lineage, Live, Next, OpenCall, Published, RunState, Stage, Totals,
    delegate_tool, handoff_tool, publish_tool,
};
pub use stored::{Fold, StoredError, decode, encode, rejected};
pub use subject::Subject;
