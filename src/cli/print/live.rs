//! What is drawn on the terminal again and again, in one place of it.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::spec::visible_styled;

/// A drawing on the terminal, where stderr is one.
#[derive(Clone)]
pub(in crate::cli) struct Live(Option<ProgressBar>);

impl Live {
    pub(in crate::cli) fn new() -> Self {
        Self(super::is_seen().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // The template is ours, and valid; were it not, the library's own style would be shown.
            bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        }))
    }

    /// Whether there is a terminal to draw on.
    pub(in crate::cli) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Draws what `draw` makes for so many rows.
    pub(in crate::cli) fn draw(&self, draw: impl FnOnce(usize) -> String) {
        if let Some(bar) = &self.0 {
            let rows = usize::from(console::Term::stderr().size().0);
            bar.set_message(visible_styled(&draw(rows)).into_owned());
        }
    }

    /// Takes it away until [`Live::come_back`].
    pub(in crate::cli) fn stay_away(&self) {
        if let Some(bar) = &self.0 {
            bar.set_message("");
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
    }

    /// Lets it come back.
    pub(in crate::cli) fn come_back(&self) {
        if let Some(bar) = &self.0 {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// Does something that writes to the terminal, without the drawing in its way.
    pub(in crate::cli) fn suspend<T>(&self, f: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bar) => bar.suspend(f),
            None => f(),
        }
    }

    /// Takes it away for good.
    pub(in crate::cli) fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
