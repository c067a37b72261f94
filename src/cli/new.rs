//! `provost new`: a small network to begin with.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::exit::Code;
use super::{Cli, Error, print};
use crate::spec::visible;

/// What is written, by file name; `@NAME@` in it is the network's name.
const FILES: [(&str, &str); 2] =
    [("network.toml", include_str!("new/network.toml")), ("README.md", include_str!("new/README.md"))];

/// What `provost new` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The directory to write it into; it is made if it is not there, and gives the network its name.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(super) fn run(cli: &Cli, arguments: &Arguments) -> Result<Code, Error> {
    let directory = &arguments.directory;
    let name = name(directory);
    if directory.is_file() {
        return Err(Error::Usage {
            message: format!("{} is a file", shown(directory)),
            hint: "name a directory, which may be a new one".to_owned(),
        });
    }
    for (file, _) in FILES {
        let path = directory.join(file);
        // Whatever stands there, a broken link too.
        if path.symlink_metadata().is_ok() {
            return Err(taken(&path));
        }
    }
    std::fs::create_dir_all(directory).map_err(|error| Error::Failed {
        message: format!("the directory {} can't be made: {error}", shown(directory)),
        hint: "choose a place where you may write".to_owned(),
    })?;
    for (file, text) in FILES {
        write(&directory.join(file), &text.replace("@NAME@", &name))?;
    }
    let network = directory.join(FILES[0].0);
    if cli.json {
        let files: Vec<String> = FILES.iter().map(|(file, _)| directory.join(file).display().to_string()).collect();
        print::json(&json!({ "network": name, "files": files }))?;
    } else {
        let (network, directory) = (shown(&network), shown(directory));
        print::result(&format!("wrote {network}\ntry: provost run {network} {directory}\n"))?;
    }
    Ok(Code::Done)
}

fn taken(path: &Path) -> Error {
    Error::Usage {
        message: format!("{} is there already, and is left as it is", shown(path)),
        hint: "name another directory, or move the file away".to_owned(),
    }
}

/// Writes a new file; one that can't be written whole is not left behind.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |error: &std::io::Error| match error.kind() {
        ErrorKind::AlreadyExists => taken(path),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::Failed {
            message: format!("{} can't be written: the disk is full", shown(path)),
            hint: "make room, or choose another place".to_owned(),
        },
        _ => Error::Failed {
            message: format!("{} can't be written: {error}", shown(path)),
            hint: "choose a place where you may write".to_owned(),
        },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| failed(&error))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
        // The first fault is the one to report.
        let _ = std::fs::remove_file(path);
        failed(&error)
    })
}

/// Returns the network's name: the directory's, with what a name can't hold left out.
fn name(directory: &Path) -> String {
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let last = absolute.components().next_back().map(|last| last.as_os_str().to_string_lossy().into_owned());
    let name: String = last
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '-' })
        .take(crate::spec::MAX_NAME)
        .collect();
    if name.chars().any(|c| c.is_ascii_alphanumeric()) { name } else { "network".to_owned() }
}

fn shown(path: &Path) -> String {
    visible(&path.display().to_string()).into_owned()
}
