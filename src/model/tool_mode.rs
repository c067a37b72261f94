//! How tools are offered to a model, whatever its dialect: natively, or in words and held to a schema.

use super::{Error, Reply, Request, schema_mode, text_calls};
use crate::spec::ToolCalls;

/// What can be asked in a dialect of its own.
pub(super) trait Ask: Sync {
    /// Makes one request and reads its answer.
    fn ask(
        &self,
        request: &Request,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> impl Future<Output = Result<Reply, Error>> + Send;
}

/// Makes one try of a model call.
pub(super) async fn call(
    server: &impl Ask,
    mode: ToolCalls,
    request: &Request,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<Reply, Error> {
    if mode == ToolCalls::Schema {
        return ask_for_a_step(server, request, progress).await;
    }
    let mut reply = server.ask(request, progress).await?;
    if reply.tool_calls.is_empty()
        && let Some(calls) = text_calls::read(&reply.text, &request.tools)
    {
        reply.tool_calls = calls;
        reply.text.clear();
    }
    Ok(reply)
}

/// Asks for one JSON object instead of native tool calls. Its pieces are nothing to show, so `progress` is told of
/// the answer in it, at the end.
async fn ask_for_a_step(
    server: &impl Ask,
    request: &Request,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<Reply, Error> {
    let step = schema_mode::rewrite(request);
    if request.tools.is_empty() {
        return server.ask(&step, progress).await;
    }
    let reply = schema_mode::read(request, server.ask(&step, &|_| {}).await?);
    if reply.malformed.is_none() && !reply.text.is_empty() {
        progress(&reply.text);
    }
    Ok(reply)
}
