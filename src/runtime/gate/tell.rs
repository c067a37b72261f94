//! Telling those who can answer that they are asked.

use std::sync::Arc;

use serde_json::json;

use super::desk::Desk;
use crate::run::{ApprovalRequest, Event, Subject};
use crate::runtime::scope::{Over, Scope};
use crate::tool::Notifier;

/// Tells approvers of a call that awaits approval, as the network says, and records whether they could be told. After a
/// crash between the two they are told once more.
pub(super) async fn approvers(
    subject: &Subject,
    request: &Arc<ApprovalRequest>,
    desk: &Desk,
    scope: &Scope,
) -> Result<(), Over> {
    let Some(spec) = &scope.fleet.network.spec().policy.approvals.notify else { return Ok(()) };
    let stream = &scope.stream;
    let told = json!({
        "run": stream.run,
        "tenant": stream.tenant,
        "network": scope.fleet.network.spec().network.name,
        "agent": desk.agent,
        "call": desk.id,
        "wants": subject,
        "why": request.why,
        "change": request.change,
        "approvers": request.approvers,
        "quorum": request.quorum,
        "expires_ms": request.expires_ms,
        "digest": request.binding.digest(),
    });
    let error = Notifier::of(spec).tell(told).await.err();
    if let Some(error) = &error {
        tracing::warn!(run = %stream.run, call = %desk.id, error, "approvers could not be told");
    }
    desk.record(Event::ApproversTold { call: desk.id.clone(), error }).await
}
