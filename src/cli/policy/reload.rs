//! `provost policy reload`: what is in the policy files holds from here on.

use serde_json::json;

use super::short;
use crate::cli::door::{Address, unreachable};
use crate::cli::exit::Code;
use crate::cli::{Cli, Error, print};
use crate::runtime::ReloadedPolicies;
use crate::serve::control::{Client, ClientError};
use crate::spec::visible;

pub(super) fn run(cli: &Cli) -> Result<Code, Error> {
    let address = Address::of(cli)?;
    let tokio = crate::cli::tokio_runtime()?;
    let reloaded = tokio.block_on(reload(&address));
    crate::cli::leave(tokio);
    let reloaded = reloaded?;
    if cli.json {
        print::json(&json!(reloaded.unwrap_or_default()))?;
        return Ok(Code::Done);
    }
    match reloaded.as_deref() {
        None => print::notice(
            "there is nothing to reload: no process holds the store, and policies are read when a run is started or taken up\n",
        ),
        Some([]) => print::notice("there is nothing to reload: no network with a policy file has runs under way\n"),
        Some(networks) => print::result(&networks.iter().map(line).collect::<String>())?,
    }
    Ok(Code::Done)
}

/// Asks the process that holds the store; none where there is none.
async fn reload(address: &Address) -> Result<Option<Vec<ReloadedPolicies>>, Error> {
    let asked = match Client::new(&address.directory) {
        Ok(client) => client.reload_policies().await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(reloaded) => Ok(Some(reloaded.networks)),
        Err(ClientError::Absent) => Ok(None),
        Err(error) => Err(unreachable(&error)),
    }
}

fn line(reloaded: &ReloadedPolicies) -> String {
    let ReloadedPolicies { network, before, now } = reloaded;
    let (network, before, now) = (visible(network), short(before), short(now));
    match before == now {
        true => format!("{network}: as before ({now})\n"),
        false => format!("{network}: other policies hold from here on ({before} before, {now} now)\n"),
    }
}
