//! Asking the person at the terminal.

use std::io::{BufRead, IsTerminal};

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::Screen;
use crate::cli::print;
use crate::run::Subject;
use crate::runtime::{Approver, Question};
use crate::spec::visible;

/// The person at the terminal, who is asked one question at a time.
pub(in crate::cli) struct Terminal {
    screen: Screen,
    turn: Mutex<()>,
}

impl Terminal {
    /// Returns the terminal, if there is one to ask at and to answer from.
    pub(in crate::cli) fn new(screen: &Screen) -> Option<Self> {
        let is_there = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        is_there.then(|| Self { screen: screen.clone(), turn: Mutex::new(()) })
    }
}

impl Approver for Terminal {
    fn ask<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let _turn = self.turn.lock().await;
            let text = words(question);
            self.screen.begin_question();
            // A thread that waits at the terminal can't be called back; if the run ends meanwhile, the process ends
            // without it.
            let granted = tokio::task::spawn_blocking(move || answer(&text)).await.unwrap_or(false);
            self.screen.end_question();
            granted
        })
    }
}

/// Asks until the answer is yes or no; the end of the input is no.
fn answer(question: &str) -> bool {
    loop {
        print::notice(&format!("{question}\nallow it, this once? [y/n] "));
        let mut line = String::new();
        match std::io::stdin().lock().read_line(&mut line) {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
        match line.trim().to_lowercase().as_str() {
            "y" | "yes" => return true,
            "n" | "no" => return false,
            _ => {}
        }
    }
}

fn words(question: &Question) -> String {
    let agent = &question.call.agent;
    match &question.subject {
        Subject::Tool { tool, arguments } => {
            // All of it is shown: what is approved is what is run.
            format!("\n{agent} wants to call `{}` with\n  {}", visible(tool), visible(&arguments.to_string()))
        }
        Subject::Model { model, .. } => format!("\n{agent} wants to call the model `{}`", visible(model)),
        Subject::Delegate { agent: other, message }
        | Subject::Handoff { agent: other, message }
        | Subject::Publish { topic: other, message } => {
            format!("\n{agent} wants to turn to `{}`: {}", visible(other), visible(message))
        }
    }
}
