//! What an agent without a script does: it calls some of what it is offered, and then says that it is simulated.

use std::collections::HashSet;

use super::draw::{Draws, Scope};
use super::synthesis::{self, Words};
use crate::model::{Offer, Reply, Request};
use crate::run::{Body, Message, ToolCall};

/// How many steps with tool calls an instance takes at most before it answers.
const MOST_STEPS: usize = 3;

/// How many calls one step makes at most.
const MOST_CALLS: usize = 2;

/// One in how many answers is a handoff instead, where a handoff is offered: seldom, so that runs end.
const ANSWERS_PER_HANDOFF: usize = 20;

/// How many words of the input are a question to a delegate.
const WORDS_OF_A_QUESTION: usize = 8;

/// How much of each text is looked through for words.
const WORDS_BYTES: usize = 2048;

/// How many of the latest results are looked through for paths.
const RESULTS: usize = 4;

/// What the runtime calls the tools that ask a delegate and hand over.
const ASK: &str = "ask_";
const TRANSFER: &str = "transfer_to_";

/// Says how much there was to summarise: shorter than whatever that was.
pub(super) fn summary(request: &Request) -> Reply {
    let told: usize = request.messages.iter().map(|message| message.text().len()).sum();
    Reply { text: format!("(simulated) {told} bytes of older steps"), ..Reply::default() }
}

/// Says something plausible: an instance's number of steps, each step's calls and their arguments are drawn.
pub(super) fn reply(seed: u64, request: &Request) -> Reply {
    let steps = Draws::new(seed, request, Scope::Instance, "steps").below(MOST_STEPS + 1);
    let mut draws = Draws::new(seed, request, Scope::Call, "reply");
    let calls = match (request.call.step as usize).cmp(&(steps + 1)) {
        std::cmp::Ordering::Less => calls(request, &mut draws),
        std::cmp::Ordering::Equal => handoff(request, &mut draws).into_iter().collect(),
        std::cmp::Ordering::Greater => Vec::new(),
    };
    if calls.is_empty() { answer(request, &mut draws) } else { Reply { tool_calls: calls, ..Reply::default() } }
}

/// Calls the first tool on offer in each of the first `calls` steps, and answers in the next: work of a fixed shape,
/// for measuring.
pub(super) fn fixed(seed: u64, request: &Request, calls: u32) -> Reply {
    let mut draws = Draws::new(seed, request, Scope::Call, "reply");
    match request.tools.first() {
        Some(offer) if request.call.step <= calls => {
            Reply { tool_calls: vec![call(offer, request, &mut draws)], ..Reply::default() }
        }
        _ => answer(request, &mut draws),
    }
}

fn calls(request: &Request, draws: &mut Draws) -> Vec<ToolCall> {
    let asked: HashSet<&str> = calls_made(request).filter(|name| name.starts_with(ASK)).collect();
    let mut offers: Vec<&Offer> = request
        .tools
        .iter()
        .filter(|offer| !offer.name.starts_with(TRANSFER) && !asked.contains(offer.name.as_str()))
        .collect();
    let mut calls = Vec::with_capacity(MOST_CALLS);
    for _ in 0..1 + draws.below(MOST_CALLS) {
        if offers.is_empty() {
            break;
        }
        let chosen = draws.below(offers.len());
        calls.push(call(offers[chosen], request, draws));
        if offers[chosen].name.starts_with(ASK) {
            // No delegate is asked twice: agents that may ask each other would not come to an end.
            offers.remove(chosen);
        }
    }
    calls
}

fn handoff(request: &Request, draws: &mut Draws) -> Option<ToolCall> {
    let offers: Vec<&Offer> = request.tools.iter().filter(|offer| offer.name.starts_with(TRANSFER)).collect();
    if draws.below(ANSWERS_PER_HANDOFF) != 0 {
        return None;
    }
    draws.one_of(&offers).map(|offer| call(offer, request, draws))
}

fn call(offer: &Offer, request: &Request, draws: &mut Draws) -> ToolCall {
    let to_an_agent = offer.name.starts_with(ASK) || offer.name.starts_with(TRANSFER);
    let words = words(request, if to_an_agent { WORDS_OF_A_QUESTION } else { 1 });
    let arguments = synthesis::arguments(&offer.parameters, &words, draws);
    ToolCall { name: offer.name.clone(), arguments: arguments.to_string() }
}

fn answer(request: &Request, draws: &mut Draws) -> Reply {
    let text = match &request.output_schema {
        Some(schema) => synthesis::synthesise(schema, &words(request, WORDS_OF_A_QUESTION), draws).to_string(),
        None => {
            let results = calls_made(request).count();
            let plural = if results == 1 { "" } else { "s" };
            format!(
                "This is a simulated answer: no model was asked. `{}` got {results} result{plural} from what it called.",
                request.agent
            )
        }
    };
    Reply { text, ..Reply::default() }
}

fn calls_made(request: &Request) -> impl Iterator<Item = &str> {
    request
        .messages
        .iter()
        .flat_map(|message| match &message.body {
            Body::Assistant { tool_calls, .. } => tool_calls.as_slice(),
            _ => &[],
        })
        .map(|(_, call)| call.name.as_str())
}

fn words(request: &Request, in_a_row: usize) -> Words<'_> {
    let words: Vec<&str> = split(super::input(&request.messages)).collect();
    let result = |message: &'_ std::sync::Arc<Message>| matches!(&message.body, Body::Tool { failed: false, .. });
    let results = request.messages.iter().rev().filter(|message| result(message)).take(RESULTS);
    let mut paths: Vec<&str> = results
        .flat_map(|message| match &message.body {
            Body::Tool { content, .. } => split(content),
            _ => split(""),
        })
        .filter(|word| looks_like_a_path(word))
        .collect();
    if paths.is_empty() {
        paths = words.iter().copied().filter(|word| looks_like_a_path(word)).collect();
    }
    Words { words, paths, in_a_row }
}

/// Splits the beginning of a text into words without the marks around them.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let marks = |c: char| {
        c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',' | ';' | ':' | '(' | ')' | '[' | ']' | '{' | '}')
    };
    text[..text.floor_char_boundary(WORDS_BYTES)]
        .split(marks)
        .map(|word| word.trim_end_matches(['.', '!', '?']))
        .filter(|word| !word.is_empty())
}

/// Whether a word may be the path of a file beneath some root (`e.g` may not).
fn looks_like_a_path(word: &str) -> bool {
    let has_extension = word.rsplit_once('.').is_some_and(|(stem, end)| {
        stem.len() > 1 && !end.is_empty() && end.len() <= 5 && end.bytes().all(|byte| byte.is_ascii_alphabetic())
    });
    !word.starts_with('/') && !word.contains("..") && !word.contains("//") && (has_extension || word.contains('/'))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::tests::{asked, request, result, user};
    use super::*;

    fn offer(name: &str, property: &str) -> Offer {
        let parameters =
            json!({"type": "object", "required": [property], "properties": {property: {"type": "string"}}});
        Offer { name: name.to_owned(), description: String::new(), parameters: Arc::new(parameters) }
    }

    #[test]
    fn an_instance_calls_what_it_is_offered_and_comes_to_an_end() {
        let tools: Arc<[Offer]> =
            [offer("read", "path"), offer("ask_critic", "task"), offer("transfer_to_legal", "why")].into();
        let (mut answers, mut calls_seen, mut handoffs) = (0, HashSet::new(), 0);
        for seed in 0..500 {
            let mut messages = vec![user("Read src/lib.rs and say what it is for")];
            let mut asked_for = Vec::new();
            for step in 1..=5 {
                let mut request = request("scout", step, messages.clone());
                request.tools = Arc::clone(&tools);
                let reply = reply(seed, &request);
                if reply.tool_calls.is_empty() {
                    assert!(reply.text.contains("simulated") && reply.text.contains("`scout`"), "{}", reply.text);
                    answers += 1;
                    break;
                }
                assert!(step <= 4 && reply.tool_calls.len() <= 2);
                let names: Vec<&str> = reply.tool_calls.iter().map(|call| call.name.as_str()).collect();
                asked_for.extend(names.iter().filter(|name| name.starts_with(ASK)).map(|name| (*name).to_owned()));
                if names.iter().any(|name| name.starts_with(TRANSFER)) {
                    assert_eq!(names.len(), 1);
                    handoffs += 1;
                    break;
                }
                for call in &reply.tool_calls {
                    let arguments: serde_json::Value = serde_json::from_str(&call.arguments).unwrap();
                    assert!(call.name != "read" || arguments == json!({"path": "src/lib.rs"}), "{arguments}");
                    calls_seen.insert(call.name.clone());
                }
                let ids: Vec<String> = (0..names.len()).map(|index| format!("{step}{index}")).collect();
                let made: Vec<_> = ids.iter().zip(&names).map(|(id, name)| (id.as_str(), *name, "{}")).collect();
                messages.push(asked(&made));
                messages.extend(ids.iter().zip(&names).map(|(id, name)| result(id, name, "done", false)));
            }
            assert!(asked_for.len() <= 1, "{asked_for:?}");
        }
        assert_eq!(answers + handoffs, 500);
        assert_eq!(calls_seen.len(), 2);
        assert!((5..60).contains(&handoffs), "{handoffs}");
    }

    #[test]
    fn an_answer_counts_results_or_fits_its_schema() {
        let mut request =
            request("scout", 9, vec![user("go"), asked(&[("a", "read", "{}")]), result("a", "read", "", false)]);
        assert!(reply(1, &request).text.contains("got 1 result from"));
        let schema = json!({"type": "object", "required": ["score"], "properties": {"score": {"type": "number", "minimum": 0, "maximum": 1}}});
        request.output_schema = Some(Arc::new(schema.clone()));
        let answer: serde_json::Value = serde_json::from_str(&reply(1, &request).text).unwrap();
        assert!(jsonschema::is_valid(&schema, &answer), "{answer}");
    }

    #[test]
    fn paths_come_from_results_first() {
        let messages = vec![
            user("Read src/lib.rs"),
            asked(&[("a", "list", "{}")]),
            result("a", "list", "docs/a.md:12: text e.g. \"README.md\" /etc/passwd ../x", false),
        ];
        let request = request("scout", 2, messages);
        assert_eq!(words(&request, 1).paths, ["docs/a.md", "README.md"]);
    }

    #[test]
    fn fixed_work_has_its_shape() {
        let mut request = request("scout", 1, vec![user("go")]);
        request.tools = [offer("first", "x"), offer("second", "x")].into();
        for step in 1..=4 {
            request.call.step = step;
            let names: Vec<String> = fixed(1, &request, 3).tool_calls.into_iter().map(|call| call.name).collect();
            assert_eq!(names, if step <= 3 { vec!["first"] } else { vec![] });
        }
    }
}
