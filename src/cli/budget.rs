//! `provost budget`: what may be spent, what is held, and what was spent.

use serde_json::{Value, json};

use super::door::Address;
use super::exit::Code;
use super::runs::{act, find};
use super::{Cli, Error, print};
use crate::budget::{AccountName, Amount, Book, Cap, Ledger, Limit, Today};
use crate::journal::Store;
use crate::run::{RunId, Status};
use crate::runtime::{Past, read_ledger};
use crate::serve::control::TopUp;
use crate::spec::{Period, visible};

/// What `provost budget` takes.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

/// What is to be done with budgets.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the accounts: of the runs that can go on, and those that runs share. What is shown when nothing is said.
    Show,
    /// Raise the limits of an account. Calls that wait for that go on; a run that was parked is taken up by `runs resume`.
    TopUp(Raise),
}

/// By how much which limits are raised.
#[derive(Debug, clap::Args)]
struct Raise {
    /// The account, as `provost budget` names it; or a run: its id, the beginning or the end of it, or `last`. Limits of a day
    /// or a month are raised for all that follow, too.
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// US dollars.
    #[arg(long, value_name = "DOLLARS", allow_negative_numbers = true)]
    cost_usd: Option<f64>,
    /// Tokens, read and written.
    #[arg(long, value_name = "COUNT")]
    tokens: Option<u64>,
    /// Model calls.
    #[arg(long, value_name = "COUNT")]
    model_calls: Option<u64>,
    /// Calls of tools.
    #[arg(long, value_name = "COUNT")]
    tool_calls: Option<u64>,
    /// Steps; of a run only.
    #[arg(long, value_name = "COUNT")]
    steps: Option<u64>,
}

pub(super) fn run(cli: &Cli, arguments: &Arguments) -> Result<Code, Error> {
    super::quiet_panics();
    let address = Address::of(cli)?;
    match &arguments.command {
        None | Some(Command::Show) => show(cli, &address),
        Some(Command::TopUp(raise)) => {
            let tokio = super::tokio_runtime()?;
            let done = tokio.block_on(top_up(cli, &address, raise));
            super::leave(tokio);
            done
        }
    }
}

fn show(cli: &Cli, address: &Address) -> Result<Code, Error> {
    let ledger = address.store()?.map_or_else(|| Ok(Ledger::default()), |store| read_ledger(&store))?;
    let today = Today::at(now_ms());
    if cli.json {
        let accounts: Vec<Value> = ledger.accounts.iter().map(|(name, book)| to_json(name, book, today)).collect();
        print::json(&json!(accounts))?;
    } else if ledger.accounts.is_empty() {
        print::notice("nothing is being spent; runs that have ended keep what they spent in `provost runs list`\n");
    } else {
        print::result(&ledger.accounts.iter().map(|(name, book)| in_words(name, book, today)).collect::<String>())?;
    }
    Ok(Code::Done)
}

/// The limits of an account that there are, each with what is left of it.
fn limits(book: &Book, today: Today) -> impl Iterator<Item = (Limit, &Cap, Amount, Amount)> {
    book.caps.iter().flat_map(move |cap| {
        let spent = book.account.spent_in(cap.period, today);
        let limit = cap.limit.plus(book.account.raised());
        let is_set = move |which: &Limit| which.is_set(&cap.limit);
        Limit::SPENDING.into_iter().filter(is_set).map(move |which| (which, cap, limit, spent))
    })
}

fn in_words(name: &AccountName, book: &Book, today: Today) -> String {
    let held = book.account.held();
    let mut said = format!("{}\n", visible(name.as_str()));
    for (which, cap, limit, spent) in limits(book, today) {
        let free = limit.minus(spent).minus(held);
        said += &format!(
            "  {which}{}: {} spent, {} held, {} free of {}\n",
            per(cap.period).map(|per| format!(" a {per}")).unwrap_or_default(),
            which.of(&spent),
            which.of(&held),
            which.of(&free),
            which.of(&limit),
        );
    }
    let (unknown, debt) = (book.account.unknown(), book.account.debt(&book.caps, today));
    if unknown.tokens > 0 {
        let cost = Limit::CostUsd.of(&unknown);
        said += &format!(
            "  of what is spent, {} tokens (${cost}) were charged as reserved: nobody said what the calls did cost\n",
            unknown.tokens
        );
    }
    let expired = book.account.expired();
    if expired.tokens > 0 {
        let cost = Limit::CostUsd.of(&expired);
        said += &format!(
            "  {} tokens (${cost}) were charged as reserved and given back: nobody said in time what the calls did cost\n",
            expired.tokens
        );
    }
    if !debt.without_counts().is_nothing() {
        let cost = Limit::CostUsd.of(&debt);
        said += &format!(
            "  beyond the limits, as it was billed or another network may spend more: {} tokens, ${cost}\n",
            debt.tokens
        );
    }
    said
}

fn to_json(name: &AccountName, book: &Book, today: Today) -> Value {
    let held = book.account.held();
    let of_limit = |(which, cap, limit, spent): (Limit, &Cap, Amount, Amount)| {
        let part = |amount: &Amount| which.to_json(amount);
        json!({
            "limit": which, "per": cap.period, "most": part(&limit), "spent": part(&spent), "held": part(&held),
            "free": part(&limit.minus(spent).minus(held)),
        })
    };
    let limits: Vec<Value> = limits(book, today).map(of_limit).collect();
    let debt = book.account.debt(&book.caps, today);
    let amount = |of: Amount| json!({ "tokens": of.tokens, "cost_usd": of.cost_usd() });
    let (unknown, debt) = (amount(book.account.unknown()), amount(debt));
    let (spent, expired) = (amount(book.account.spent()), amount(book.account.expired()));
    json!({
        "account": name, "limits": limits, "spent": spent, "unknown": unknown, "expired": expired, "debt": debt,
    })
}

fn per(period: Option<Period>) -> Option<&'static str> {
    period.map(|period| match period {
        Period::Day => "day",
        Period::Month => "month",
    })
}

async fn top_up(cli: &Cli, address: &Address, raise: &Raise) -> Result<Code, Error> {
    let amount = amount(raise)?;
    let (account, run) = account(address, &raise.account)?;
    let ledger = address.store()?.map_or_else(|| Ok(Ledger::default()), |store| read_ledger(&store))?;
    ledger.check_raise(&account, &amount).map_err(|error| Error::Usage {
        message: visible(&error.to_string()).into_owned(),
        hint: "`provost budget` shows the limits that there are".to_owned(),
    })?;
    let body = TopUp { account: account.clone(), amount };
    act(
        address,
        async |host| host.recorder().top_up(body.account.clone(), amount).await,
        async |client| client.top_up(&body).await.map(drop),
    )
    .await?;
    match cli.json {
        true => print::json(&json!({ "account": account, "raised": true }))?,
        false => {
            print::result(&format!("the limits of {} are raised\n", visible(account.as_str())))?;
            if let Some(run) = run {
                print::notice(&format!("hint: provost runs resume {run}\n"));
            }
        }
    }
    Ok(Code::Done)
}

/// Finds the account that is meant; and the run, where it is that of one which waits for this.
fn account(address: &Address, text: &str) -> Result<(AccountName, Option<RunId>), Error> {
    let store = address.store()?;
    let ledger = store.as_ref().map_or_else(|| Ok(Ledger::default()), read_ledger)?;
    let named = AccountName::new(text);
    if ledger.accounts.contains_key(&named) && !text.starts_with("run/") {
        return Ok((named, None));
    }
    if text.contains('/') && !text.starts_with("run/") || text == "process" {
        let known: Vec<&str> = ledger.accounts.keys().map(AccountName::as_str).collect();
        let hint = match known.as_slice() {
            [] => "no account is open; accounts are opened by the first run that spends from them".to_owned(),
            known => format!("the accounts are {}", visible(&known.join(", "))),
        };
        return Err(Error::Usage { message: format!("there is no account {}", visible(text)), hint });
    }
    let (store, run) = find(address, text.strip_prefix("run/").unwrap_or(text))?;
    let status = waits(&store, &run)?;
    if !status.can_go_on() {
        let message = format!("run {run} has ended: {}", status.word());
        let hint = format!("go on from one of its events in a run of its own: provost runs fork {run} --at EVENT");
        return Err(Error::Failed { message, hint });
    }
    Ok((AccountName::of_run(&run), (status == Status::AwaitingBudget).then_some(run)))
}

fn waits(store: &Store, run: &RunId) -> Result<Status, Error> {
    Ok(Past::since_snapshot(store, run)?.state.status())
}

fn amount(raise: &Raise) -> Result<Amount, Error> {
    let usage = |message: String| Error::Usage { message, hint: "--cost-usd 0.50, --tokens 10000, …".to_owned() };
    let cost = raise.cost_usd.unwrap_or_default();
    if !cost.is_finite() || cost < 0.0 {
        return Err(usage(format!("{cost} dollars can't be added to a limit")));
    }
    let amount = Amount {
        model_calls: raise.model_calls.unwrap_or_default(),
        steps: raise.steps.unwrap_or_default(),
        tokens: raise.tokens.unwrap_or_default(),
        tool_calls: raise.tool_calls.unwrap_or_default(),
        cost_nano_usd: (cost * 1e9).round() as u64,
    };
    match amount.is_nothing() {
        true => Err(usage("it is not said which limit is raised, and by how much".to_owned())),
        false => Ok(amount),
    }
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
