//! The integration tests, in one binary.

mod aimock;
mod runtime;
mod scripted;
