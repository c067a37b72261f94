//! Progress on stderr: a live tree on a terminal, plain lines elsewhere.

pub(in crate::cli) mod approve;
pub(in crate::cli) mod events;
mod tree;
pub(in crate::cli) mod words;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::print::{self, Live};
use crate::journal::Reader;
use crate::run::{Envelope, Event, RunId, RunState};
use crate::spec::{Network, visible};

/// How often the tree is drawn anew while nothing happens: the clock in it moves.
const REDRAW: Duration = Duration::from_millis(200);

/// Where progress is shown.
#[derive(Clone)]
pub(in crate::cli) struct Screen {
    live: Live,
    /// Whether a person is being asked: the tree stays away meanwhile.
    asking: Arc<AtomicBool>,
}

impl Screen {
    pub(in crate::cli) fn new() -> Self {
        Self { live: Live::new(), asking: Arc::default() }
    }

    /// Takes the tree away, so that a question can stand on the terminal for as long as it takes. Nothing is locked
    /// meanwhile: the run goes on, and may end.
    pub(in crate::cli) fn begin_question(&self) {
        self.asking.store(true, Ordering::SeqCst);
        self.live.stay_away();
    }

    /// Lets the tree come back.
    pub(in crate::cli) fn end_question(&self) {
        self.live.come_back();
        self.asking.store(false, Ordering::SeqCst);
    }

    /// Does something that writes to the terminal, without the tree in its way.
    pub(in crate::cli) fn suspend<T>(&self, f: impl FnOnce() -> T) -> T {
        self.live.suspend(f)
    }
}

/// Shows a run until it has ended.
pub(in crate::cli) async fn follow(mut events: Reader<Envelope>, screen: &Screen) {
    let (mut state, mut last, mut deadline) = (RunState::default(), Instant::now(), None);
    let mut redraw = tokio::time::interval(REDRAW);
    loop {
        tokio::select! {
            biased;
            next = events.next() => {
                let Some(envelope) = next else { break };
                state.evolve(&envelope);
                last = Instant::now();
                match &envelope.event {
                    Event::RunStarted { name, network, .. } => {
                        deadline = deadline_of(network);
                        say_run(&envelope.stream.run, name);
                    }
                    Event::RunForked { network: Some(network), .. } => deadline = deadline_of(network),
                    _ => {}
                }
                if !screen.live.is_there() && words::is_progress(&envelope.event) {
                    print::notice(&format!("  {}\n", words::sentence(&envelope)));
                }
            }
            _ = redraw.tick(), if screen.live.is_there() && !screen.asking.load(Ordering::SeqCst) => {
                screen.live.draw(|rows| tree::draw(&state, under_way(&state) + last.elapsed(), deadline, rows));
            }
        }
    }
    if screen.live.is_there() {
        screen.live.end();
        if state.agents().len() > 1 {
            print::notice(&format!("{}\n", tree::draw(&state, under_way(&state), None, usize::MAX)));
        }
    }
}

/// Returns how long a run of a network may take.
fn deadline_of(network: &str) -> Option<Duration> {
    let network = Network::from_text(network).ok()?;
    network.spec().network.limits.deadline.map(|span| span.0)
}

/// Returns for how long a run had been under way at its last event: it may have begun long before it is followed.
fn under_way(state: &RunState) -> Duration {
    Duration::from_millis(state.active_ms())
}

/// Says on stderr which run this is, so that it can be spoken of while it is under way.
fn say_run(run: &RunId, network: &str) {
    print::notice(&format!("run {run} of {}\n", visible(network)));
}
