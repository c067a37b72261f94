//! What a try takes before it is made: a permit, and a reservation in all accounts that it is paid from.

use std::time::Duration;

use super::call::ModelCall;
use super::desk::Desk;
use super::permit::{self, Barred};
use crate::budget::{Amount, Limit, Rates};
use crate::fault::{self, Bug};
use crate::run::{Event, Wait};
use crate::runtime::funds::Hold;
use crate::runtime::purse::{Ask, Exhausted, Refusal};
use crate::runtime::scope::{Over, Scope};
use crate::runtime::traffic::Permit;
use crate::spec::OnLimit;

/// How often a call that waits for a limit to be raised looks whether a new day or month has begun, or something is given back.
const NEXT_PERIOD: Duration = Duration::from_secs(60);

/// What is taken for one try of a model call; given back in this order when dropped.
pub(in crate::runtime) struct Admission {
    pub(super) hold: Hold,
    pub(super) permit: Permit,
}

impl Admission {
    /// Settles the reservation, then releases the permit.
    pub(in crate::runtime) fn settle(self, actual: Amount) {
        self.hold.settle(actual);
        self.permit.release();
    }
}

/// Takes a permit and a reservation for one try, or says which limit forbids it for good. A call that has to wait says so,
/// and holds nothing meanwhile.
pub(super) async fn admit(
    call: &ModelCall,
    wanted: u32,
    attempt: u32,
    desk: &Desk,
    scope: &Scope,
) -> Result<Result<Admission, Barred>, Over> {
    let ModelCall { model, request, fixed_bytes, .. } = call;
    let counts = match (attempt, desk.id.is_compaction) {
        (1, false) => Amount::ONE_STEP,
        (1, true) => Amount::ONE_CALL,
        _ => Amount::default(),
    };
    let (input_tokens, at_least) =
        (model.reads_at_most(request.input_token_bound(*fixed_bytes)), model.spec.min_output_tokens);
    let ask = Ask { counts, input_tokens, wanted, at_least, rates: model.rates };
    loop {
        let tokens = input_tokens.saturating_add(wanted.into());
        let permit = match permit::of_model(call, tokens, desk, scope).await? {
            Ok(permit) => permit,
            Err(why) => return Ok(Err(Barred::NoTurn(why))),
        };
        let mut freed = scope.funds.freed(&desk.agent);
        let reserved = match fault::is_planted(Bug::ReservedInTwo) {
            true => scope.funds.reserve_in_two(&desk.agent, &ask).await,
            false => scope.funds.reserve(&desk.agent, &ask),
        };
        let refusal = match reserved {
            Ok(hold) => return Ok(Ok(Admission { hold, permit })),
            Err(refusal) => refusal,
        };
        permit.release();
        if is_expired(&refusal, scope) {
            continue;
        }
        // Before anybody is asked for more, it goes to a cheaper model.
        if let Refusal::Exhausted(reached) = &refusal
            && reached.limit == Limit::CostUsd
            && !call.cheaper.is_empty()
        {
            return Ok(Err(Barred::Limit(reached.clone())));
        }
        match wait(refusal, desk, scope).await? {
            Ok((place, at_most)) => pass_time(freed[place].take(), at_most).await,
            Err(reached) => return Ok(Err(Barred::Limit(reached))),
        }
    }
}

/// Takes a permit for a tool call, where something bounds it, and counts it. What is held for it is spent as soon as it is
/// intended. Or says what becomes of it where that can't be had.
pub(super) async fn admit_tool(
    tool: &str,
    attempt: u32,
    desk: &Desk,
    scope: &Scope,
) -> Result<Result<(Option<Permit>, Hold), NotAdmitted>, Over> {
    let counts = if attempt == 1 { Amount::ONE_TOOL_CALL } else { Amount::default() };
    let ask = Ask { counts, input_tokens: 0, wanted: 0, at_least: 0, rates: Rates::default() };
    loop {
        let permit = match permit::of_tool(tool, desk, scope).await? {
            Ok(permit) => permit,
            Err(refused) => return Ok(Err(NotAdmitted::Refused(Box::new(refused)))),
        };
        let mut freed = scope.funds.freed(&desk.agent);
        let refusal = match scope.funds.reserve(&desk.agent, &ask) {
            Ok(hold) => return Ok(Ok((permit, hold))),
            Err(refusal) => refusal,
        };
        permit.into_iter().for_each(Permit::release);
        if is_expired(&refusal, scope) {
            continue;
        }
        match wait(refusal, desk, scope).await? {
            Ok((place, at_most)) => pass_time(freed[place].take(), at_most).await,
            Err(reached) => return Ok(Err(NotAdmitted::Limit(reached))),
        }
    }
}

/// Why a tool call is not made.
pub(super) enum NotAdmitted {
    /// It got no turn: its result, which says so.
    Refused(Box<Event>),
    /// A limit forbids it for good.
    Limit(Box<Exhausted>),
}

/// Whether something was given back that no provider had confirmed, so that it may be paid for after all.
fn is_expired(refusal: &Refusal, scope: &Scope) -> bool {
    let Refusal::Exhausted(reached) = refusal else { return false };
    // Where nothing can be written any more, the run ends at its next event.
    scope.recorder.expire_unknown(&reached.account).unwrap_or(false)
}

/// Says what a call waits for that can't be paid for now: the account with this place, and for how long at most before it
/// looks again. Or which limit is reached, where waiting can't help.
async fn wait(
    refusal: Refusal,
    desk: &Desk,
    scope: &Scope,
) -> Result<Result<(usize, Option<Duration>), Box<Exhausted>>, Over> {
    match refusal {
        Refusal::Held(place, _) => {
            desk.queued(Wait::Budget).await?;
            Ok(Ok((place, None)))
        }
        Refusal::Exhausted(reached) => {
            let asks = scope.fleet.network.spec().network.limits.on_limit == OnLimit::Ask;
            if !asks || desk.id.is_compaction {
                return Ok(Err(reached));
            }
            desk.queued(Wait::TopUp).await?;
            let begins_anew = reached.cap.period.is_some() || reached.cap.unknown_for_ms.is_some();
            Ok(Ok((reached.place, begins_anew.then_some(NEXT_PERIOD))))
        }
    }
}

async fn pass_time(freed: Option<impl Future<Output = ()>>, at_most: Option<Duration>) {
    match (freed, at_most) {
        (None, _) => {}
        (Some(freed), None) => freed.await,
        (Some(freed), Some(at_most)) => _ = tokio::time::timeout(at_most, freed).await,
    }
}
