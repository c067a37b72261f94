//! The provider against a real small model.

use super::*;

/// Asks a real small model, `qwen`, at the address in `PROVOST_REAL_MODEL`; `TRIES` says how often, `NATIVE` asks for
/// native tool calls.
#[tokio::test]
#[ignore = "needs a real model: PROVOST_REAL_MODEL=http://HOST:PORT/v1 cargo test --lib real_small -- --ignored"]
async fn a_real_small_model_calls_a_tool_and_answers() {
    let tries = std::env::var("TRIES").ok().and_then(|tries| tries.parse().ok()).unwrap_or(1);
    let mut list = offer("list");
    list.description = "Lists the files of a directory.".to_owned();
    let base_url = std::env::var("PROVOST_REAL_MODEL").unwrap();
    let (mut called, mut answered) = (0, 0);
    for attempt in 0..tries {
        let mut spec = spec(&base_url, attempt % 2 == 0);
        spec.model = Some("qwen".to_owned());
        spec.tool_calls = if std::env::var_os("NATIVE").is_some() { ToolCalls::Native } else { ToolCalls::Schema };
        spec.timeouts = Timeouts::default();
        let provider = OpenAi::new(&spec, None).unwrap();
        let mut request = request("You help with files.", vec![user("Which files are in the directory docs?")]);
        request.tools = [list.clone(), offer("read")].into();
        let reply = provider.call(&request, &|_| {}).await.unwrap();
        println!("{reply:?}");
        let Some(first) = reply.tool_calls.first().filter(|first| first.name == "list") else { continue };
        called += 1;
        request.messages.push(assistant("", &[("s00010000", "list", &first.arguments)]));
        request.messages.push(tool_result("s00010000", "list", "plan.md\nbudget.csv"));
        let reply = provider.call(&request, &|_| {}).await.unwrap();
        println!("{reply:?}");
        answered += usize::from(reply.text.contains("plan.md") && reply.text.contains("budget.csv"));
    }
    println!("{called} of {tries} called, {answered} answered from the result");
    assert_eq!((called, answered), (tries, tries));
}
