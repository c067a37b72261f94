//! The places, and who says what happens there.

use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

use super::Bug;

/// In a release build all of this comes to nothing when it is compiled.
const IS_DEBUG: bool = cfg!(debug_assertions);

static CRASH: LazyLock<Option<Switch>> = LazyLock::new(|| Switch::read("PROVOST_CRASH_AT"));
static FAULT: LazyLock<Option<Switch>> = LazyLock::new(|| Switch::read("PROVOST_FAULT_AT"));
static PLANTED_EVERYWHERE: LazyLock<Option<Bug>> = LazyLock::new(|| {
    let name = std::env::var("PROVOST_PLANTED").ok()?;
    Bug::ALL.into_iter().find(|bug| bug.name() == name)
});

type IsDue = Box<dyn FnMut(&str) -> bool>;

thread_local! {
    static INJECTED: RefCell<Option<IsDue>> = const { RefCell::new(None) };
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// What was injected or planted in this thread; dropping it takes it out again.
#[must_use]
pub struct Injected {
    take_out: fn(),
}

impl Drop for Injected {
    fn drop(&mut self) {
        (self.take_out)();
    }
}

/// Asks `is_due` at each place of this thread that can fail or panic whether it is to: one that fails by its name, and one
/// that panics by its name and, after a space, what it is passed with.
pub fn inject(is_due: impl FnMut(&str) -> bool + 'static) -> Injected {
    INJECTED.set(Some(Box::new(is_due)));
    Injected { take_out: || INJECTED.set(None) }
}

/// Plants a bug in this thread.
pub fn plant(bug: Bug) -> Injected {
    PLANTED.set(Some(bug));
    Injected { take_out: || PLANTED.set(None) }
}

/// Dies here, if the environment says so.
#[inline]
pub(crate) fn point(name: &str) {
    if IS_DEBUG && CRASH.as_ref().is_some_and(|switch| switch.is_due(name)) {
        let _ = kill_process(getpid(), Signal::KILL);
        std::process::abort();
    }
}

/// Fails here, if the environment or the thread's own test says so.
///
/// # Errors
/// As if the medium had failed.
#[inline]
pub(crate) fn fails(name: &str) -> std::io::Result<()> {
    let is_due = || FAULT.as_ref().is_some_and(|switch| switch.is_due(name)) || is_injected(|| name.to_owned());
    if IS_DEBUG && is_due() { Err(rustix::io::Errno::IO.into()) } else { Ok(()) }
}

/// Panics here, if the environment or the thread's own test says so. That one is told of what the place is passed, as in
/// `NAME OF`.
#[inline]
pub(crate) fn panics(name: &str, of: impl FnOnce() -> String) {
    if IS_DEBUG {
        let is_due =
            FAULT.as_ref().is_some_and(|switch| switch.is_due(name)) || is_injected(|| format!("{name} {}", of()));
        assert!(!is_due, "injected at {name}");
    }
}

/// Whether a bug is planted.
#[inline]
pub(crate) fn is_planted(bug: Bug) -> bool {
    IS_DEBUG && (PLANTED.get() == Some(bug) || *PLANTED_EVERYWHERE == Some(bug))
}

fn is_injected(name: impl FnOnce() -> String) -> bool {
    INJECTED.with_borrow_mut(|injected| injected.as_mut().is_some_and(|is_due| is_due(&name())))
}

/// A place, and at which passings of it something happens.
struct Switch {
    name: String,
    at: RangeInclusive<u64>,
    passed: AtomicU64,
}

impl Switch {
    fn read(variable: &str) -> Option<Self> {
        let value = std::env::var(variable).ok()?;
        let (name, at) = value.split_once('@').unwrap_or((&value, "1"));
        let (first, last) = at.split_once('-').unwrap_or((at, at));
        Some(Self { name: name.to_owned(), at: first.parse().ok()?..=last.parse().ok()?, passed: AtomicU64::new(0) })
    }

    /// Counts a passing; says whether it is one that is meant.
    fn is_due(&self, name: &str) -> bool {
        self.name == name && self.at.contains(&(self.passed.fetch_add(1, Ordering::Relaxed) + 1))
    }
}
