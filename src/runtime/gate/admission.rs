//! What a try takes before it is made: a permit, and a reservation in all accounts that it is paid from.

use std::time::Duration;

use tokio::time::Instant;

use super::call::ModelCall;
use super::desk::Desk;
use super::permit::{self, Barred};
use crate::budget::{Amount, Limit, Rates};
use crate::fault::{self, Bug};
use crate::run::{Event, Subject, ToolFailure, Wait, refused};
use crate::runtime::funds::Hold;
use crate::runtime::purse::{Ask, Exhausted, Refusal};
use crate::runtime::scope::{Over, Scope};
use crate::runtime::traffic::{NoTurn, Permit};
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
    let mut waits = Waits::new(scope);
    loop {
        if desk.time.is_over() {
            return Ok(Err(Barred::NoTurn(NoTurn::StepOver)));
        }
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
        match waits.wait(refusal, desk, scope).await? {
            Ok(until) if waits.are_over(&until) => return Ok(Err(Barred::NoTurn(waits.too_long()))),
            Ok(until) => pass_time(freed[until.place].take(), &until, desk).await,
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
    let not_in_time = |failure, why: &NoTurn| {
        let subject = Subject::Tool { tool: tool.into(), arguments: serde_json::Value::Null };
        NotAdmitted::Refused(Box::new(refused(&desk.id, &subject, failure, why.to_string())))
    };
    let mut waits = Waits::new(scope);
    loop {
        if desk.time.is_over() {
            return Ok(Err(not_in_time(ToolFailure::TimedOut, &NoTurn::StepOver)));
        }
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
        match waits.wait(refusal, desk, scope).await? {
            Ok(until) if waits.are_over(&until) => {
                return Ok(Err(not_in_time(ToolFailure::Failed, &waits.too_long())));
            }
            Ok(until) => pass_time(freed[until.place].take(), &until, desk).await,
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

/// What a call waits for that can't be paid for now.
struct Until {
    /// The place of the account.
    place: usize,
    /// Whether it is a person who may raise its limit.
    is_asked_for: bool,
    /// For how long at most, before it looks again.
    at_most: Option<Duration>,
}

/// How a call waits for what it is paid from.
struct Waits {
    /// What it has said that it waits for: it says so once, however often it looks again.
    said: Option<Wait>,
    since: Instant,
    /// For how long it may wait for what others hold.
    longest: Duration,
}

impl Waits {
    fn new(scope: &Scope) -> Self {
        let longest = scope.fleet.network.spec().network.fleet.queue.timeout.0;
        Self { said: None, since: Instant::now(), longest }
    }

    /// Says what a call waits for that can't be paid for now, or which limit is reached, where waiting can't help.
    async fn wait(
        &mut self,
        refusal: Refusal,
        desk: &Desk,
        scope: &Scope,
    ) -> Result<Result<Until, Box<Exhausted>>, Over> {
        match refusal {
            Refusal::Held(place, _) => {
                if self.is_news(Wait::Budget) {
                    desk.queued(Wait::Budget).await?;
                }
                let at_most = Some(self.longest.saturating_sub(self.since.elapsed()));
                Ok(Ok(Until { place, is_asked_for: false, at_most }))
            }
            Refusal::Exhausted(reached) => {
                let asks = scope.fleet.network.spec().network.limits.on_limit == OnLimit::Ask;
                if !asks || desk.id.is_compaction {
                    return Ok(Err(reached));
                }
                if self.is_news(Wait::TopUp) {
                    desk.lacks(reached.words_for_a_person()).await?;
                }
                let begins_anew = reached.cap.period.is_some() || reached.cap.unknown_for_ms.is_some();
                let at_most = begins_anew.then_some(NEXT_PERIOD);
                Ok(Ok(Until { place: reached.place, is_asked_for: true, at_most }))
            }
        }
    }

    fn is_news(&mut self, wait: Wait) -> bool {
        if self.said != Some(wait) {
            self.since = Instant::now();
        }
        self.said.replace(wait) != Some(wait)
    }

    /// Whether it has waited for what others hold for as long as anything waits.
    fn are_over(&self, until: &Until) -> bool {
        !until.is_asked_for && self.since.elapsed() >= self.longest
    }

    fn too_long(&self) -> NoTurn {
        NoTurn::TooLong { waited: self.longest }
    }
}

async fn pass_time(freed: Option<impl Future<Output = ()>>, until: &Until, desk: &Desk) {
    let Some(freed) = freed else { return };
    let looks_again = async {
        match until.at_most {
            None => freed.await,
            Some(at_most) => _ = tokio::time::timeout(at_most, freed).await,
        }
    };
    match until.is_asked_for {
        true => desk.time.rest(looks_again).await,
        false => _ = desk.time.within(looks_again).await,
    }
}
