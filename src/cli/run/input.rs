//! Where a run's input comes from.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use super::super::Error;
use crate::runtime::MAX_INPUT_BYTES;
use crate::spec::visible;

/// The input, in one of four ways.
#[derive(Debug, clap::Args)]
#[group(id = "input_source", multiple = false)]
pub(super) struct Arguments {
    /// The input; `-` reads it from stdin.
    #[arg(value_name = "INPUT")]
    positional: Option<String>,
    /// The input, where it begins with a dash.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    input: Option<String>,
    /// A file that holds the input.
    #[arg(long, value_name = "FILE")]
    input_file: Option<PathBuf>,
}

impl Arguments {
    /// Reads the input.
    ///
    /// # Errors
    /// There is none, it can't be read, it is too long, or it is no UTF-8.
    pub(super) fn read(&self, network: &Path, sample: Option<&str>) -> Result<String, Error> {
        match (&self.positional, &self.input, &self.input_file) {
            (Some(dash), _, _) if dash == "-" => {
                if std::io::stdin().is_terminal() {
                    super::super::print::notice("reading the input from the terminal; Ctrl-D ends it\n");
                }
                text("stdin", std::io::stdin().lock())
            }
            (Some(input), _, _) | (_, Some(input), _) => bounded(input.clone()),
            (_, _, Some(path)) => {
                let name = path.display().to_string();
                let file = File::open(path).map_err(|error| unreadable(&name, &error))?;
                text(&name, file)
            }
            (None, None, None) => Err(Error::Usage {
                message: "the run has no input".to_owned(),
                hint: format!(
                    "give it after the file, such as: provost run {} {:?}",
                    visible(&network.display().to_string()),
                    sample.unwrap_or("what the network is to work on"),
                ),
            }),
        }
    }
}

fn text(name: &str, source: impl Read) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let most = MAX_INPUT_BYTES as u64 + 1;
    source.take(most).read_to_end(&mut bytes).map_err(|error| unreadable(name, &error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        // What is cut off in the middle of a character is too long, and that is what is said of it.
        match place + 4 > MAX_INPUT_BYTES {
            true => too_long(),
            false => Error::Usage {
                message: format!("the input from {} is no UTF-8 text: byte {place} is wrong", visible(name)),
                hint: "put binary material in a file that a tool reads".to_owned(),
            },
        }
    })?;
    bounded(text)
}

fn bounded(text: String) -> Result<String, Error> {
    if text.trim().is_empty() {
        return Err(Error::Usage {
            message: "the input is empty".to_owned(),
            hint: "give what the network is to work on".to_owned(),
        });
    }
    if text.len() > MAX_INPUT_BYTES { Err(too_long()) } else { Ok(text) }
}

fn too_long() -> Error {
    Error::Usage {
        message: format!("the input is longer than {MAX_INPUT_BYTES} bytes"),
        hint: "put long material in files, and let the network's tools read them".to_owned(),
    }
}

fn unreadable(name: &str, error: &std::io::Error) -> Error {
    Error::Usage { message: format!("the input can't be read from {}: {error}", visible(name)), hint: String::new() }
}
