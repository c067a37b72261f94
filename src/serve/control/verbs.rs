//! What can be asked, one verb after the other.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;

use super::Desk;
use super::bodies::{
    Acted, AnswerRun, AnswerTaken, ApprovalTaken, ApproveRun, CancelRun, DropLetter, ForkRun, ForkedOff, Health,
    PauseRun, PoliciesReloaded, Prune, PutBackLetter, Queues, Removed, ResolveRun, ResumeRun, Resumed, Resumption,
    Standing, StartRun, Started, SteerRun, TopUp,
};
use super::fault::{Code, Fault};
use crate::run::{LetterId, RunId};
use crate::runtime::{Answers, Approved, Error, Fork, RunRequest};
use crate::spec::{ModelOverride, Network};

/// How long a run's id may be: more than any of ours.
const MAX_RUN_ID: usize = 64;

/// Why a run is cancelled where nobody says why.
const NO_REASON: &str = "cancelled on request";

type Body = Result<Bytes, BytesRejection>;

pub(super) async fn health(State(desk): State<Desk>) -> Result<Json<Health>, Fault> {
    // Who can't write any more holds the store to no purpose, and says so until it has ended.
    desk.host.recorder().check()?;
    Ok(Json(Health {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: desk.host.recorder().journal().map(crate::journal::Journal::epoch),
        runs: desk.host.live(),
    }))
}

pub(super) async fn queues(State(desk): State<Desk>) -> Result<Json<Queues>, Fault> {
    desk.host.recorder().check()?;
    Ok(Json(Queues { queues: desk.host.recorder().queues() }))
}

pub(super) async fn start(State(desk): State<Desk>, body: Body) -> Result<Json<Started>, Fault> {
    let asked: StartRun = read(body)?;
    let network = network(&asked.network)?;
    if !asked.directory.is_absolute() {
        return Err(Fault::new(Code::InvalidRequest, "the directory is not absolute", ""));
    }
    if let Some(id) = &asked.id {
        is_id(id)?;
    }
    let host = desk.host.clone();
    let started = desk.finish(async move {
        let request = RunRequest {
            input: asked.input,
            vars: asked.vars,
            tenant: asked.tenant,
            session: asked.session,
            priority: asked.priority,
            id: asked.id,
            directory: Some(asked.directory),
            is_attended: false,
        };
        let handle = host.start(network, request).await?;
        Ok(Started { run: handle.id().clone() })
    });
    Ok(Json(started.await?))
}

pub(super) async fn resume(
    State(desk): State<Desk>,
    Path(run): Path<String>,
    body: Body,
) -> Result<Json<Resumed>, Fault> {
    let (run, asked): (_, ResumeRun) = (id(run)?, read(body)?);
    let overrides = overrides(&asked.models)?;
    let answers = Answers::default();
    let host = desk.host.clone();
    let resumed = desk.finish(async move {
        let handle = host.resume(&run, answers, |network| put_in(&overrides, network)).await?;
        let state = if handle.is_some() { Resumption::TakenUp } else { Resumption::UnderWay };
        Ok(Resumed { run, state })
    });
    Ok(Json(resumed.await?))
}

pub(super) async fn fork(
    State(desk): State<Desk>,
    Path(run): Path<String>,
    body: Body,
) -> Result<Json<ForkedOff>, Fault> {
    let (parent, asked): (_, ForkRun) = (id(run)?, read(body)?);
    let (overrides, network) = (overrides(&asked.models)?, asked.network.as_deref().map(network).transpose()?);
    asked.id.as_ref().map_or(Ok(()), is_id)?;
    let host = desk.host.clone();
    let forked = desk.finish(async move {
        let ForkRun { at, input, priority, id, .. } = asked;
        let fork = Fork { at, input, priority, id, is_attended: false };
        let (handle, at) = host.fork(&parent, fork, network, |network| put_in(&overrides, network)).await?;
        Ok(ForkedOff { run: handle.id().clone(), at })
    });
    Ok(Json(forked.await?))
}

pub(super) async fn cancel(
    State(desk): State<Desk>,
    Path(run): Path<String>,
    body: Body,
) -> Result<Json<Acted>, Fault> {
    let (run, asked): (_, CancelRun) = (id(run)?, read(body)?);
    let (host, named) = (desk.host.clone(), run.clone());
    let reason = asked.reason.unwrap_or_else(|| NO_REASON.to_owned());
    act(&desk, run, async move { host.cancel(&named, &reason).await }).await
}

pub(super) async fn pause(State(desk): State<Desk>, Path(run): Path<String>, body: Body) -> Result<Json<Acted>, Fault> {
    let (run, PauseRun {}) = (id(run)?, read(body)?);
    let (host, named) = (desk.host.clone(), run.clone());
    act(&desk, run, async move { host.pause(&named).await }).await
}

pub(super) async fn steer(State(desk): State<Desk>, Path(run): Path<String>, body: Body) -> Result<Json<Acted>, Fault> {
    let (run, asked): (_, SteerRun) = (id(run)?, read(body)?);
    let (host, named) = (desk.host.clone(), run.clone());
    act(&desk, run, async move { host.steer(&named, asked.agent, asked.text).await }).await
}

pub(super) async fn resolve(
    State(desk): State<Desk>,
    Path(run): Path<String>,
    body: Body,
) -> Result<Json<Acted>, Fault> {
    let (run, asked): (_, ResolveRun) = (id(run)?, read(body)?);
    let (host, named) = (desk.host.clone(), run.clone());
    act(&desk, run, async move { host.resolve(&named, asked.call, asked.resolution).await }).await
}

pub(super) async fn answer(
    State(desk): State<Desk>,
    Path(run): Path<String>,
    body: Body,
) -> Result<Json<AnswerTaken>, Fault> {
    let (run, asked): (_, AnswerRun) = (id(run)?, read(body)?);
    let host = desk.host.clone();
    let answered = desk.finish(async move {
        let answered = host.answer(&run, asked.call, &asked.text).await?;
        let state = if answered.is_under_way { Standing::UnderWay } else { Standing::AtRest };
        Ok(AnswerTaken { run, call: answered.call, state })
    });
    Ok(Json(answered.await?))
}

pub(super) async fn approve(
    State(desk): State<Desk>,
    Path(run): Path<String>,
    body: Body,
) -> Result<Json<ApprovalTaken>, Fault> {
    let (run, asked): (_, ApproveRun) = (id(run)?, read(body)?);
    let host = desk.host.clone();
    let taken = desk.finish(async move {
        let (Approved { call, missing }, is_under_way) = host.approve(&run, asked.call, &asked.ballot).await?;
        let state = if is_under_way { Standing::UnderWay } else { Standing::AtRest };
        Ok(ApprovalTaken { run, call, missing, state })
    });
    Ok(Json(taken.await?))
}

pub(super) async fn reload_policies(State(desk): State<Desk>) -> Result<Json<PoliciesReloaded>, Fault> {
    let host = desk.host.clone();
    Ok(Json(PoliciesReloaded { networks: desk.finish(async move { Ok(host.reload_policies().await?) }).await? }))
}

pub(super) async fn put_back(
    State(desk): State<Desk>,
    Path(run): Path<String>,
    body: Body,
) -> Result<Json<Started>, Fault> {
    let (run, asked): (_, PutBackLetter) = (id(run)?, read(body)?);
    let overrides = overrides(&asked.models)?;
    asked.id.as_ref().map_or(Ok(()), is_id)?;
    let host = desk.host.clone();
    let put_back = desk.finish(async move {
        let letter = LetterId { run, event: asked.event };
        let change = |network| put_in(&overrides, network);
        let handle = host.put_back(&letter, asked.id, asked.priority, false, change).await?;
        Ok(Started { run: handle.id().clone() })
    });
    Ok(Json(put_back.await?))
}

pub(super) async fn top_up(State(desk): State<Desk>, body: Body) -> Result<Json<TopUp>, Fault> {
    let asked: TopUp = read(body)?;
    let (host, TopUp { account, amount }) = (desk.host.clone(), asked.clone());
    desk.finish(async move { Ok(host.recorder().top_up(account, amount).await?) }).await?;
    Ok(Json(asked))
}

pub(super) async fn drop_letter(
    State(desk): State<Desk>,
    Path(run): Path<String>,
    body: Body,
) -> Result<Json<Acted>, Fault> {
    let (run, asked): (_, DropLetter) = (id(run)?, read(body)?);
    let (host, letter) = (desk.host.clone(), LetterId { run: run.clone(), event: asked.event });
    act(&desk, run, async move { host.drop_letter(&letter, asked.reason).await }).await
}

pub(super) async fn prune(State(desk): State<Desk>, body: Body) -> Result<Json<Removed>, Fault> {
    let asked: Prune = read(body)?;
    let host = desk.host.clone();
    Ok(Json(desk.finish(async move { Ok(super::prune::prune(&host, asked.keep).await?) }).await?))
}

pub(super) async fn no_such_path(request: Request) -> Fault {
    let what = format!("there is no {} {}", request.method(), request.uri().path());
    Fault::new(Code::NoSuchPath, what, "docs/control.md says what there is")
}

/// Does something with a run.
async fn act(
    desk: &Desk,
    run: RunId,
    what: impl Future<Output = Result<(), Error>> + Send + 'static,
) -> Result<Json<Acted>, Fault> {
    desk.finish(async { Ok(what.await?) }).await?;
    Ok(Json(Acted { run }))
}

fn network(text: &str) -> Result<Network, Fault> {
    let unreadable = |error| Fault::new(Code::InvalidNetwork, format!("the network can't be read: {error}"), "");
    Network::from_text(text).map_err(unreadable)
}

fn overrides(models: &[String]) -> Result<Vec<ModelOverride>, Fault> {
    let read: Result<_, String> = models.iter().map(|model| model.parse()).collect();
    read.map_err(|how| Fault::new(Code::InvalidRequest, how, ""))
}

fn put_in(overrides: &[ModelOverride], network: Network) -> Result<Network, Fault> {
    overrides.iter().try_fold(network, |network, with| Ok(with.apply(network)?))
}

/// Reads a body; an empty one says nothing, where nothing needs to be said.
fn read<T: DeserializeOwned>(body: Body) -> Result<T, Fault> {
    let bytes = body.map_err(|rejection| {
        let is_too_long = rejection.status() == StatusCode::PAYLOAD_TOO_LARGE;
        Fault::new(if is_too_long { Code::TooLong } else { Code::InvalidRequest }, rejection.body_text(), "")
    })?;
    let text = if bytes.is_empty() { b"{}" } else { bytes.as_ref() };
    serde_json::from_slice(text).map_err(|error| {
        Fault::new(Code::InvalidRequest, error.to_string(), "docs/control.md says what each path takes")
    })
}

fn id(text: String) -> Result<RunId, Fault> {
    let run = RunId::new(text);
    is_id(&run).map(|()| run)
}

fn is_id(run: &RunId) -> Result<(), Fault> {
    let text = run.as_str();
    let is_one = !text.is_empty()
        && text.len() <= MAX_RUN_ID
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let why = || Fault::new(Code::InvalidRequest, "a run's id is made of lower-case letters and digits", "");
    is_one.then_some(()).ok_or_else(why)
}
