//! Tests of the whole, against real counterparts.

#![expect(clippy::unwrap_used, reason = "a test that can not go on may panic")]

mod aimock;
