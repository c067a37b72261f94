//! Provost runs networks of AI agents: each agent is a supervised actor, and every effect passes one gate.

pub mod budget;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod fault;
pub mod journal;
pub mod memory;
pub mod model;
pub mod policy;
pub mod route;
pub mod run;
pub mod runtime;
pub mod serve;
pub mod spec;
pub mod telemetry;
pub mod tool;
