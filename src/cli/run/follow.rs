//! Progress on stderr: a live tree on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::print;
use super::tree;
use crate::journal::Reader;
use crate::run::{AgentOutcome, Body, Envelope, Event, RunState, Subject};
use crate::spec::visible;

/// How often the tree is drawn anew while nothing happens: the clock in it moves.
const REDRAW: Duration = Duration::from_millis(200);

/// How much of a text is shown in a line.
const LINE_CHARS: usize = 120;

/// Where progress is shown.
#[derive(Clone)]
pub(super) struct Screen {
    bar: Option<ProgressBar>,
    /// Whether a person is being asked: the tree stays away meanwhile.
    asking: Arc<AtomicBool>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // The template is ours, and valid; were it not, the library's own style would be shown.
            bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, asking: Arc::default() }
    }

    /// Takes the tree away, so that a question can stand on the terminal for as long as it takes. Nothing is locked
    /// meanwhile: the run goes on, and may end.
    pub(super) fn begin_question(&self) {
        self.asking.store(true, Ordering::SeqCst);
        if let Some(bar) = &self.bar {
            bar.set_message("");
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
    }

    /// Lets the tree come back.
    pub(super) fn end_question(&self) {
        if let Some(bar) = &self.bar {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.asking.store(false, Ordering::SeqCst);
    }

    /// Does something that writes to the terminal, without the tree in its way.
    pub(super) fn suspend<T>(&self, f: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(f),
            None => f(),
        }
    }
}

/// Shows a run until it has ended.
pub(super) async fn follow(mut events: Reader<Envelope>, screen: &Screen) {
    let (mut state, began, mut deadline) = (RunState::default(), Instant::now(), None);
    let mut redraw = tokio::time::interval(REDRAW);
    loop {
        tokio::select! {
            biased;
            next = events.next() => {
                let Some(envelope) = next else { break };
                state.evolve(&envelope);
                if let Event::RunStarted { network, .. } = &envelope.event {
                    let spec = &network.spec().network;
                    deadline = spec.limits.deadline.map(|deadline| deadline.0);
                    super::say_run(&envelope.stream.run, &spec.name);
                }
                if screen.bar.is_none() && let Some(line) = line(&envelope) {
                    print::notice(&format!("{line}\n"));
                }
            }
            _ = redraw.tick(), if screen.bar.is_some() => {
                if let Some(bar) = &screen.bar && !screen.asking.load(Ordering::SeqCst) {
                    let rows = usize::from(console::Term::stderr().size().0);
                    bar.set_message(tree::draw(&state, began.elapsed(), deadline, rows));
                }
            }
        }
    }
    if let Some(bar) = &screen.bar {
        bar.finish_and_clear();
        if state.agents().len() > 1 {
            print::notice(&format!("{}\n", tree::draw(&state, began.elapsed(), None, usize::MAX)));
        }
    }
}

/// Says in a line what happened, if it is worth one.
fn line(envelope: &Envelope) -> Option<String> {
    let who = envelope.agent.as_ref().map(|agent| visible(agent.short())).unwrap_or_default();
    let what = match &envelope.event {
        Event::AgentStarted { task, .. } => format!("is asked: {}", task.last().map(|task| said(&task.body))?),
        Event::CallIntended { subject: Subject::Tool { tool, arguments }, .. } => {
            format!("calls {tool} {}", excerpt(&arguments.to_string()))
        }
        Event::CallIntended { subject: Subject::Delegate { agent, .. }, .. } => format!("asks {}", visible(agent)),
        Event::CallIntended { subject: Subject::Handoff { agent, .. }, .. } => {
            format!("hands over to {}", visible(agent))
        }
        Event::TryFailed { error, retry_in_ms, .. } => {
            format!("tries again in {retry_in_ms} ms: {}", excerpt(error))
        }
        Event::ModelFailed { error, .. } => format!("can't reach its model: {}", excerpt(error)),
        Event::ToolReturned { message, failure: Some(_), .. } => format!("is told: {}", said(&message.body)),
        Event::RepairRequested { message } => format!("is told: {}", said(&message.body)),
        Event::ApprovalRequested { subject: Subject::Tool { tool, arguments }, .. } => {
            format!("awaits approval to call {tool} {}", excerpt(&arguments.to_string()))
        }
        Event::AgentRestarted { reason } => format!("was started again: {}", excerpt(reason)),
        Event::AgentEnded { outcome: AgentOutcome::Done(_) } => "is done".to_owned(),
        Event::AgentEnded { outcome: AgentOutcome::Failed { .. } } => "failed".to_owned(),
        Event::AgentEnded { outcome: AgentOutcome::Limit { limit, .. } } => format!("reached {limit}"),
        _ => return None,
    };
    Some(format!("  {who} {what}"))
}

fn said(body: &Body) -> String {
    match body {
        Body::User { text } | Body::Assistant { text, .. } => excerpt(text),
        Body::Tool { content, .. } => excerpt(content),
    }
}

fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(LINE_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    visible(&short)
}
