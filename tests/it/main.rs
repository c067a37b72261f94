//! The integration tests, in one binary.

mod aimock;
mod check;
mod cli;
mod runtime;
mod scripted;
