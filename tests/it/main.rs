//! Tests of the whole, against real counterparts.

mod aimock;
