//! `provost knowledge list`.

use serde_json::json;

use crate::cli::exit::Code;
use crate::cli::print::{self, counted};
use crate::cli::{Cli, Error, data_directory};
use crate::memory::{Collection, Knowledge};
use crate::spec::visible;

pub(super) fn run(cli: &Cli) -> Result<Code, Error> {
    let opened = Knowledge::open(&data_directory(cli)?)?;
    let collections = opened.map_or_else(|| Ok(Vec::new()), |knowledge| knowledge.list())?;
    if cli.json {
        print::json(&json!(collections))?;
    } else if collections.is_empty() {
        print::notice("nothing is indexed; `provost knowledge add NAME PATH` indexes files\n");
    } else {
        print::result(&collections.iter().map(entry).collect::<String>())?;
    }
    Ok(Code::Done)
}

fn entry(collection: &Collection) -> String {
    let Collection { name, paths, left_out, files, passages, vectors, embeddings } = collection;
    let mut said = format!("{name}: {} in {}\n", counted(*files, "file"), counted(*passages, "passage"));
    for path in paths {
        said += &format!("  {}\n", visible(&path.display().to_string()));
    }
    for path in left_out {
        said += &format!("  without {}\n", visible(&path.display().to_string()));
    }
    if let Some(embeddings) = embeddings {
        said += &format!("  {vectors} vectors by {}\n", visible(&embeddings.server()));
    }
    said
}
