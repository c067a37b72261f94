//! Named points at which a debug build can be made to die or to fail, so that tests can show what is left then.
//!
//! `PROVOST_CRASH_AT=NAME@N` kills the process, as `kill -9` does, when it passes the point for the N-th time.
//! `PROVOST_FAULT_AT=NAME@N` makes the N-th passing fail as if the medium had. Release builds have neither.

/// Dies here, if the environment says so.
#[cfg(debug_assertions)]
pub(crate) fn point(name: &str) {
    use rustix::process::{Signal, getpid, kill_process};

    if switch::CRASH.as_ref().is_some_and(|switch| switch.is_due(name)) {
        let _ = kill_process(getpid(), Signal::KILL);
        std::process::abort();
    }
}

/// Dies here in a debug build, if the environment says so; this is none.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn point(_name: &str) {}

/// Fails here, if the environment says so.
#[cfg(debug_assertions)]
pub(crate) fn fault(name: &str) -> std::io::Result<()> {
    if switch::FAULT.as_ref().is_some_and(|switch| switch.is_due(name)) {
        return Err(rustix::io::Errno::IO.into());
    }
    Ok(())
}

/// Fails here in a debug build, if the environment says so; this is none.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn fault(_name: &str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(debug_assertions)]
mod switch {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    pub(super) static CRASH: LazyLock<Option<Switch>> = LazyLock::new(|| Switch::read("PROVOST_CRASH_AT"));
    pub(super) static FAULT: LazyLock<Option<Switch>> = LazyLock::new(|| Switch::read("PROVOST_FAULT_AT"));

    /// A point, and at which passing of it something happens.
    pub(super) struct Switch {
        name: String,
        at: u64,
        passed: AtomicU64,
    }

    impl Switch {
        fn read(variable: &str) -> Option<Self> {
            let value = std::env::var(variable).ok()?;
            let (name, at) = value.split_once('@').unwrap_or((&value, "1"));
            Some(Self { name: name.to_owned(), at: at.parse().ok()?, passed: AtomicU64::new(0) })
        }

        /// Counts a passing; says whether it is the one that is meant.
        pub(super) fn is_due(&self, name: &str) -> bool {
            self.name == name && self.passed.fetch_add(1, Ordering::Relaxed) + 1 == self.at
        }
    }
}
