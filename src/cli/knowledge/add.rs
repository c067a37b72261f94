//! `provost knowledge add`: files are indexed, and given vectors where there is a server for that.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::name;
use crate::cli::exit::Code;
use crate::cli::print::{self, counted};
use crate::cli::{Cli, Error, data_directory, tokio_runtime};
use crate::memory::{Added, Embeddings, Knowledge, MAX_FILE_BYTES};
use crate::model::Embedder;
use crate::spec::{SecretRef, visible};

/// How many passages are sent to the embeddings server at once.
const BATCH: usize = 16;

/// How long a batch may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Which files are indexed, and how.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The name that networks know it by, as in `knowledge = "NAME"`.
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    /// The files and directories; those that were given before, where none is. What `.gitignore` files name, what is hidden,
    /// binary or larger than 1 MiB is left out, and so is what `remove` took out by its path, until it is given here itself.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Give passages vectors by this embeddings server, such as `http://127.0.0.1:8080/v1#MODEL`. It is asked about each
    /// query, too. Vectors by another server or model, or of another length, are made anew.
    #[arg(long, value_name = "URL[#MODEL]")]
    embeddings: Option<String>,
    /// Where the server's key is: `env:NAME` or `file:PATH`.
    #[arg(long, value_name = "PLACE", requires = "embeddings")]
    embeddings_key: Option<String>,
    /// Take the vectors out again.
    #[arg(long, conflicts_with = "embeddings")]
    no_embeddings: bool,
}

pub(super) fn run(cli: &Cli, arguments: &Arguments) -> Result<Code, Error> {
    let Arguments { name, paths, .. } = arguments;
    let wanted = embeddings(arguments)?;
    if let Some(wanted) = &wanted {
        embedder(wanted)?;
    }
    let mut knowledge = Knowledge::open_for_writing(&data_directory(cli)?)?;
    // Whoever ends this in the midst loses nothing: it is written in transactions, and the next time goes on from there.
    let added = knowledge.add(name, paths)?;
    if arguments.no_embeddings || wanted.is_some() {
        knowledge.set_embeddings(name, wanted.as_ref())?;
    }
    let vectors = tokio_runtime()?.block_on(embed(&mut knowledge, name, wanted.is_some()));
    say(cli, &knowledge, name, &added, vectors)
}

/// Reads where vectors are to come from, if that is said.
fn embeddings(arguments: &Arguments) -> Result<Option<Embeddings>, Error> {
    let Some(given) = &arguments.embeddings else { return Ok(None) };
    let (url, model) = match given.split_once('#') {
        Some((url, model)) => (url, Some(model.to_owned()).filter(|model| !model.is_empty())),
        None => (given.as_str(), None),
    };
    let key = match &arguments.embeddings_key {
        Some(key) if !SecretRef::is_reference(key) => {
            return Err(Error::Usage {
                message: "--embeddings-key says where the key is, and is never the key itself".to_owned(),
                hint: "write env:NAME or file:PATH".to_owned(),
            });
        }
        key => key.clone().map(SecretRef),
    };
    Ok(Some(Embeddings { url: url.to_owned(), model, key }))
}

fn embedder(embeddings: &Embeddings) -> Result<Embedder, Error> {
    let Embeddings { url, model, key } = embeddings;
    Embedder::new(url, model.as_deref(), key.as_ref()).map_err(|error| Error::Usage {
        message: format!("the embeddings server can't be used: {}", visible(&error.to_string())),
        hint: "give --embeddings as http://HOST:PORT/v1#MODEL".to_owned(),
    })
}

/// Gives vectors to the passages that have none; returns how many. Where the server `is_named` just now, it is asked first
/// whether its vectors are still as long as those that are there; else that is seen when there is something new to ask it.
async fn embed(knowledge: &mut Knowledge, name: &str, is_named: bool) -> Result<u64, Error> {
    let Some(embeddings) = knowledge.embeddings(name)? else { return Ok(0) };
    let embedder = embedder(&embeddings)?;
    let (mut count, mut numbers) = (0, None);
    let failed = |message: String| Error::Failed {
        message: format!("the embeddings server: {}", visible(&message)),
        hint: format!("the words are indexed; `provost knowledge add {name}` goes on with the vectors"),
    };
    if is_named && knowledge.collection(name)?.vectors > 0 {
        let asked = embedder.embed(&[name.to_owned()], PATIENCE).await.map_err(|error| failed(error.to_string()))?;
        knowledge.keep_vectors_of(name, asked[0].len())?;
    }
    loop {
        let (ids, texts): (Vec<i64>, Vec<String>) = knowledge.without_vectors(name, BATCH)?.into_iter().unzip();
        if ids.is_empty() {
            return Ok(count);
        }
        let vectors = embedder.embed(&texts, PATIENCE).await.map_err(|error| failed(error.to_string()))?;
        // Each change of the length lets go of all that were made before: one is enough.
        let first = *numbers.get_or_insert(vectors[0].len());
        if let Some(other) = vectors.iter().find(|vector| vector.len() != first) {
            let other = other.len();
            return Err(failed(format!("its vectors have now {first} numbers and now {other}")));
        }
        count += ids.len() as u64;
        knowledge.put_vectors(name, &ids.into_iter().zip(vectors).collect::<Vec<_>>())?;
    }
}

/// Says what was done, also where vectors are missing.
fn say(
    cli: &Cli,
    knowledge: &Knowledge,
    name: &str,
    added: &Added,
    vectors: Result<u64, Error>,
) -> Result<Code, Error> {
    let collection = knowledge.collection(name)?;
    if cli.json {
        let made = vectors.as_ref().ok();
        print::json(&json!({ "name": name, "added": added, "vectors_made": made, "collection": collection }))?;
    } else {
        let Added { new, changed, unchanged, removed, passages, binary, too_large, unreadable } = added;
        let files = counted(collection.files, "file");
        let mut said = format!("{name}: {files} in {}\n", counted(collection.passages, "passage"));
        said +=
            &format!("  {new} new, {changed} changed, {unchanged} as before, {removed} gone; {passages} passages made");
        if let Ok(vectors @ 1..) = vectors {
            said += &format!(", {} made", counted(vectors, "vector"));
        }
        let limit = MAX_FILE_BYTES >> 20;
        for (count, why) in [
            (*binary, "no text".to_owned()),
            (*too_large, format!("larger than {limit} MiB")),
            (*unreadable, "unreadable".to_owned()),
        ] {
            if count > 0 {
                said += &format!("\n  left out: {} ({why})", counted(count, "file"));
            }
        }
        for path in &collection.left_out {
            let path = path.display().to_string();
            said += &format!("\n  left out: {} (taken out before; give its path to add it again)", visible(&path));
        }
        print::result(&format!("{said}\n"))?;
    }
    vectors.map(|_| Code::Done)
}
