//! Provost runs networks of AI agents: each agent is a supervised actor, and every effect passes one gate.

pub mod cli;
pub mod model;
pub mod run;
pub mod serve;
pub mod spec;
pub mod tool;
