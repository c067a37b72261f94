//! `provost audit key`: the key that checkpoints are signed with.

use serde_json::json;

use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::{Cli, Error, print};
use crate::journal;

pub(super) fn run(cli: &Cli, address: &Address) -> Result<Code, Error> {
    if !address.directory.is_dir() {
        let directory = address.directory.display().to_string();
        let directory = crate::spec::visible(&directory);
        let message = format!("there is no data directory at {directory}, and so no key");
        return Err(Error::Usage {
            message,
            hint: "`provost run` makes one; --data-dir names another directory".to_owned(),
        });
    }
    let key = journal::public_key(&address.directory)?.to_string();
    match cli.json {
        true => print::json(&json!({ "key": key }))?,
        false => print::result(&format!("{key}\n"))?,
    }
    Ok(Code::Done)
}
