//! `provost knowledge search`.

use std::path::Path;

use serde_json::json;

use super::{name, open};
use crate::cli::exit::Code;
use crate::cli::print;
use crate::cli::{Cli, Error, tokio_runtime};
use crate::memory::{Hits, Passage};
use crate::model::Embedder;
use crate::spec::visible;

/// What is looked for.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The name that it is indexed under.
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    /// A question, words or names.
    #[arg(value_name = "QUERY")]
    query: String,
    /// How many passages are shown at most.
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    limit: u16,
}

pub(super) fn run(cli: &Cli, Arguments { name, query, limit }: &Arguments) -> Result<Code, Error> {
    let knowledge = open(cli, name)?;
    let (vector, without_vectors) = match knowledge.embeddings(name)? {
        Some(of) => {
            let asked = Embedder::vector(&of.url, of.model.as_deref(), of.key.as_ref(), query);
            match tokio_runtime()?.block_on(asked) {
                Ok(vector) => (Some(vector), None),
                Err(why) => (None, Some(why)),
            }
        }
        None => (None, None),
    };
    let hits = knowledge.search(name, query, vector.as_deref(), usize::from(*limit))?;
    let Hits { passages, ranked_by, without_vectors: misfit } = hits;
    let without_vectors = without_vectors.or(misfit);
    let here = std::env::current_dir().unwrap_or_default();
    if cli.json {
        let shown = |passage: &Passage| {
            let Passage { first, last, heading, text, .. } = passage;
            let at = passage.place(&here);
            json!({ "at": at, "path": passage.path, "first": first, "last": last, "heading": heading, "text": text })
        };
        let passages: Vec<_> = passages.iter().map(shown).collect();
        print::json(&json!({ "passages": passages, "ranked_by": ranked_by, "without_vectors": without_vectors }))?;
        return Ok(Code::Done);
    }
    if let Some(why) = without_vectors {
        print::notice(&format!("note: found by words alone: {}\n", visible(&why)));
    }
    if passages.is_empty() {
        print::notice("nothing found\n");
    }
    print::result(&passages.iter().map(|passage| entry(passage, &here)).collect::<String>())?;
    Ok(Code::Done)
}

fn entry(passage: &Passage, here: &Path) -> String {
    let mut said = format!("{}  {}", visible(&passage.place(here)), visible(&passage.heading)).trim_end().to_owned();
    said.push('\n');
    for line in passage.text.lines() {
        said += format!("    {}", visible(line)).trim_end();
        said.push('\n');
    }
    said.push('\n');
    said
}
