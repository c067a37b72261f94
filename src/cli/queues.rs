//! `provost queues`: where calls and runs wait for their turn.

use std::time::Duration;

use super::door::{Address, unreachable};
use super::exit::Code;
use super::{Cli, Error, print};
use crate::runtime::{Queue, QueueKind};
use crate::serve::control::{Client, ClientError};
use crate::spec::visible;

pub(super) fn run(cli: &Cli) -> Result<Code, Error> {
    let address = Address::of(cli)?;
    let tokio = super::tokio_runtime()?;
    let queues = tokio.block_on(queues(&address));
    super::leave(tokio);
    show(cli, &queues?)?;
    Ok(Code::Done)
}

/// Asks the process that holds the store. Queues live in a process: where there is none, nothing waits.
async fn queues(address: &Address) -> Result<Vec<Queue>, Error> {
    let asked = match Client::new(&address.directory) {
        Ok(client) => client.queues().await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(asked) => Ok(asked.queues),
        Err(ClientError::Absent) => Ok(Vec::new()),
        Err(error) => Err(unreachable(&error)),
    }
}

fn show(cli: &Cli, queues: &[Queue]) -> Result<(), Error> {
    if cli.json {
        return print::json(&serde_json::json!(queues));
    }
    if queues.is_empty() {
        print::notice("nothing waits for its turn\n");
        return Ok(());
    }
    let head = ["FOR", "WIDTH", "UNDER WAY", "WAITING", "LONGEST", "CLOSED FOR"].map(str::to_owned);
    let rows: Vec<[String; 6]> = [head].into_iter().chain(queues.iter().map(row)).collect();
    print::result(&print::table(&rows, 1..=5))
}

fn row(queue: &Queue) -> [String; 6] {
    [
        visible(&name(queue)).into_owned(),
        queue.width.map_or_else(|| "-".to_owned(), |width| width.to_string()),
        queue.in_flight.to_string(),
        queue.waiting.to_string(),
        if queue.waiting == 0 { "-".to_owned() } else { seconds(queue.longest) },
        queue.closed_for.map_or_else(|| "-".to_owned(), seconds),
    ]
}

fn name(queue: &Queue) -> String {
    let what = &queue.what;
    match (what.kind, &what.provider, &what.network) {
        (QueueKind::Model, Some(provider), _) => format!("{what} ({provider})"),
        (_, _, Some(network)) => format!("{what} of {network}"),
        _ => what.to_string(),
    }
}

fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}
