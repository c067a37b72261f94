//! What a debug build can be made to suffer, so that tests can show what comes of it: a death or a failure of the
//! medium at a named place, a panic, a planted bug. A release build can be made to suffer none of it.
//!
//! `PROVOST_CRASH_AT=NAME@N` kills the process, as `kill -9` does, when it passes the place for the N-th time;
//! `PROVOST_FAULT_AT=NAME@N` makes the N-th passing fail as if the medium had, or panic, and `NAME@N-M` each from the N-th to
//! the M-th; `PROVOST_PLANTED=NAME` plants a bug. Within one thread [`inject`] and [`plant`] do the same: a simulation is one
//! thread, and others are none of its business.

mod planted;
mod switch;

pub use planted::Bug;
pub use switch::{Injected, inject, plant};
pub(crate) use switch::{fails, is_planted, panics, point};
