//! Provost runs networks of AI agents: each agent is a supervised actor, and every effect passes one gate.

#[doc(hidden)]
pub mod cli;
pub mod model;
pub mod route;
pub mod run;
pub mod spec;
pub mod tool;
