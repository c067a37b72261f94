//! The integration tests, in one binary.

#![expect(clippy::unwrap_used, reason = "a test that can not go on may panic")]

mod aimock;
mod approvals;
mod approvers;
mod audit;
mod budgets;
mod check;
mod choosing;
mod cli;
mod compaction;
mod crash;
mod dead_letters;
mod diff;
mod faults;
mod fork;
mod gate;
mod golden;
mod guards;
mod journal;
mod knowledge;
mod llmock;
mod memory;
mod patterns;
mod person;
mod policies;
mod process;
mod purse;
mod queues;
mod reconcile;
mod replay;
mod restarts;
mod resume;
mod routes;
mod runs;
mod runtime;
mod scripted;
mod sim;
mod sleep;
mod stop;
mod storm;
mod streaming;
mod supervised;
mod terminal;
mod tidy;
mod torture;
mod traffic;
mod world;

// What the purse names, whose source `purse/under_loom.rs` takes in.
use provost::{budget, spec};
