//! Networks of every shape: what routes, joins, rooms, topics and inner flows make of a run, and that it can be decided
//! once more.

use std::sync::Arc;

use provost::run::{Envelope, Event, Status};
use provost::runtime::{Recorder, Replayer, Report, RunRequest, Runtime};
use provost::spec::Network;

/// Runs a network to its end in a store of its own, decides it once more, and returns what came of it.
async fn live(network: &str, input: &str) -> (Report, Vec<Arc<Envelope>>) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("any.json"), "{}").unwrap();
    let loaded = Network::parse("test.toml", network, directory.path()).unwrap_or_else(|wrong| panic!("{wrong}"));
    let recorder = Arc::new(Recorder::open(directory.path(), false).unwrap());
    let runtime = Runtime::builder(loaded.network).recorder(recorder.clone()).start().await.unwrap();
    let run = runtime.start(RunRequest::new(input)).await.unwrap();
    let mut stream = run.events();
    let report = run.wait().await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event);
    }
    runtime.shutdown().await;
    let past = recorder.whole_past(&report.run).unwrap();
    Replayer::new().replay(&past).unwrap_or_else(|parted| panic!("{parted}"));
    (report, events)
}

async fn answer(network: &str, input: &str) -> String {
    let (report, _) = live(network, input).await;
    assert_eq!(report.status, Status::Done, "{:?}", report.reason);
    report.answer_text().unwrap().to_string()
}

fn agents(report: &Report) -> Vec<&str> {
    report.agents.iter().map(|agent| agent.agent.as_str()).collect()
}

/// Makes a network of agents that have a script and no prompt worth mentioning.
fn network(entry: &str, agents: &[(&str, &str)], rest: &str) -> String {
    let mut text = format!("[network]\nname = \"test\"\nentry = \"{entry}\"\n");
    for (name, script) in agents {
        let schema =
            if script.starts_with("{\"") || script.starts_with("{{") { "output_schema = \"any.json\"\n" } else { "" };
        text.push_str(&format!("[agents.{name}]\nprompt = \"You are {name}.\"\n{schema}"));
    }
    text.push_str("[sim.script]\n");
    for (name, script) in agents {
        text.push_str(&format!("{name} = ['''{script}''']\n"));
    }
    text.push_str(rest);
    text
}

/// Repeats the last thing that it is told, with its own name.
const ECHO: &str = "SELF({{ messages[-1].text }})";

fn echo(names: &[&'static str]) -> Vec<(&'static str, String)> {
    names.iter().map(|name| (*name, ECHO.replace("SELF", name))).collect()
}

fn echoes(entry: &str, names: &[&'static str], rest: &str) -> String {
    let agents = echo(names);
    let agents: Vec<(&str, &str)> = agents.iter().map(|(name, script)| (*name, script.as_str())).collect();
    network(entry, &agents, rest)
}

#[tokio::test]
async fn a_pipeline_passes_answers_on() {
    let routes = "[[routes]]\nfrom = \"a\"\nto = \"b\"\n[[routes]]\nfrom = \"b\"\nto = \"c\"\n";
    assert_eq!(answer(&echoes("a", &["a", "b", "c"], routes), "x").await, "c(b(a(x)))");
}

#[tokio::test]
async fn a_fan_out_comes_together_in_the_order_of_the_file() {
    let routes = "[[routes]]\nfrom = \"a\"\nto = [\"b\", \"c\"]\n\
                  [[routes]]\nfrom = [\"b\", \"c\"]\njoin = \"all\"\nto = \"d\"\n";
    let said = answer(&echoes("a", &["a", "b", "c", "d"], routes), "x").await;
    assert_eq!(said, "d(## b\n\nb(a(x))\n\n## c\n\nc(a(x)))");
}

#[tokio::test]
async fn a_condition_looks_into_the_answer_and_the_rest_goes_elsewhere() {
    let routes = "[[routes]]\nfrom = \"a\"\nto = \"good\"\nwhen = \"output.score > 0.5\"\nmessage = \"{{ output.why }}\"\n\
                  [[routes]]\nfrom = \"a\"\nto = \"bad\"\notherwise = true\n";
    let judge = |score: &str| {
        let script = format!("{{\"score\": {score}, \"why\": \"because\"}}");
        let (good, bad) = (ECHO.replace("SELF", "good"), ECHO.replace("SELF", "bad"));
        network("a", &[("a", &script), ("good", &good), ("bad", &bad)], routes)
    };
    assert_eq!(answer(&judge("0.9"), "x").await, "good(because)");
    assert_eq!(answer(&judge("0.1"), "x").await, "bad({\"score\":0.1,\"why\":\"because\"})");
}

#[tokio::test]
async fn a_loop_remembers_and_ends_by_its_condition() {
    let author = "draft {{ messages | selectattr('role', 'eq', 'user') | list | length }}";
    let critic = "{\"ok\": {{ 'true' if '3' in messages[-1].text else 'false' }}}";
    let routes = "[[routes]]\nfrom = \"author\"\nto = \"critic\"\n\
                  [[routes]]\nfrom = \"critic\"\nto = \"author\"\nwhen = \"not output.ok\"\nmax_visits = 5\n\
                  [[routes]]\nfrom = \"critic\"\notherwise = true\nanswer = \"outputs.author\"\n";
    let text = network("author", &[("author", author), ("critic", critic)], routes);
    let (report, _) = live(&text, "x").await;
    assert_eq!(report.answer_text().as_deref(), Some("draft 3"), "{:?}", report.reason);
    assert_eq!(agents(&report), ["author", "critic", "author@2", "critic@2", "author@3", "critic@3"]);
}

#[tokio::test]
async fn a_loop_without_end_comes_to_its_bound_and_says_so() {
    let routes = "[[routes]]\nfrom = \"a\"\nto = \"b\"\nmax_visits = 2\n[[routes]]\nfrom = \"b\"\nto = \"a\"\n";
    let (report, _) = live(&echoes("a", &["a", "b"], routes), "x").await;
    assert_eq!(report.status, Status::Limit);
    assert!(report.reason.as_deref().unwrap().contains("max_visits = 2"), "{:?}", report.reason);
    assert_eq!(agents(&report), ["a", "b", "a@2", "b@2", "a@3"]);
}

#[tokio::test]
async fn each_item_of_a_list_goes_to_an_agent_of_its_own_and_they_are_reduced() {
    let routes = "[[routes]]\nfrom = \"split\"\nto = \"work\"\nfor_each = \"output.items\"\n\
                  [[routes]]\nfrom = \"work\"\njoin = \"all\"\nto = \"sum\"\nmessage = \"{{ output | join('+') }}\"\n";
    let sum = ECHO.replace("SELF", "sum");
    let work = ECHO.replace("SELF", "work");
    let split = "{\"items\": [\"a\", \"b\", {\"c\": 1}]}";
    let text = network("split", &[("split", split), ("work", &work), ("sum", &sum)], routes);
    let (report, _) = live(&text, "x").await;
    assert_eq!(report.answer_text().as_deref(), Some("sum(work(a)+work(b)+work({\"c\":1}))"));
    assert_eq!(agents(&report), ["split", "work.1", "work.2", "work.3", "sum"]);
}

#[tokio::test]
async fn an_empty_list_is_no_way_on() {
    let routes = "[[routes]]\nfrom = \"split\"\nto = \"work\"\nfor_each = \"output\"\n\
                  [[routes]]\nfrom = \"work\"\njoin = \"all\"\nto = \"work\"\nmax_visits = 1\n";
    let work = ECHO.replace("SELF", "work");
    let text = network("split", &[("split", "{{ [] | tojson }}"), ("work", &work)], routes);
    assert_eq!(answer(&text, "x").await, "[]");
}

#[tokio::test]
async fn more_agents_than_may_start_at_once_are_a_limit() {
    let routes =
        "[[routes]]\nfrom = \"split\"\nto = \"work\"\nfor_each = \"output.items\"\n[network.limits]\nfan_out = 2\n";
    let text = network("split", &[("split", "{\"items\": [1, 2, 3]}"), ("work", "w")], routes);
    let (report, _) = live(&text, "x").await;
    assert_eq!((report.status, report.agents.len()), (Status::Limit, 1));
    assert!(report.reason.unwrap().contains("3 agents at once, and 2 may be"));
}

#[tokio::test]
async fn a_thousand_agents_at_once_are_bounded_end_and_come_in_order() {
    let routes = |limits: &str| {
        format!(
            "[[routes]]\nfrom = \"a\"\nto = \"work\"\nfor_each = \"range(1000)\"\n\
             [[routes]]\nfrom = \"work\"\njoin = \"all\"\nanswer = \"output\"\n\
             [network.limits]\nsteps = 5000\n{limits}"
        )
    };
    let work = "{{ messages[-1].text }}";
    let (report, _) = live(&network("a", &[("a", "go"), ("work", work)], &routes("")), "x").await;
    let wanted: Vec<u32> = (0..1000).collect();
    assert_eq!(report.answer.unwrap().to_value(), serde_json::json!(wanted));
    assert_eq!((report.agents.len(), report.usage.model_calls), (1001, 1001));
    let (report, _) = live(&network("a", &[("a", "go"), ("work", work)], &routes("agents = 1000\n")), "x").await;
    assert_eq!((report.status, report.agents.len()), (Status::Limit, 1), "{:?}", report.reason);
}

/// Two agents of which one sleeps for an hour.
fn fast_and_slow(join: &str, effect: &str) -> String {
    let slow = "{\"calls\": [{\"name\": \"nap\", \"arguments\": {\"duration\": \"1h\"}}]}";
    let fast = "{% if step == 1 %}{\"calls\": [{\"name\": \"nap\", \"arguments\": {\"duration\": \"100ms\"}}]}\
                {% else %}fast{% endif %}";
    let text = network(
        "a",
        &[("a", "go"), ("fast", fast), ("slow", slow), ("end", &ECHO.replace("SELF", "end"))],
        &format!(
            "[[routes]]\nfrom = \"a\"\nto = [\"slow\", \"fast\"]\n\
             [[routes]]\nfrom = [\"slow\", \"fast\"]\n{join}\nto = \"end\"\n\
             [tools.nap]\nbuiltin = \"clock.sleep\"\neffect = \"{effect}\"\n"
        ),
    );
    let text = text.replace("You are slow.\"\noutput_schema = \"any.json\"", "You are slow.\"\ntools = [\"nap\"]");
    text.replace("You are fast.\"", "You are fast.\"\ntools = [\"nap\"]") + "[policy]\ndefault = \"allow\"\n"
}

#[tokio::test]
async fn the_first_answer_wins_and_the_others_are_stopped() {
    let (report, events) = live(&fast_and_slow("join = \"any\"", "pure"), "x").await;
    assert_eq!((report.status, report.answer_text().as_deref()), (Status::Done, Some("end(fast)")));
    let slow = report.agents.iter().find(|agent| &*agent.name == "slow").unwrap();
    assert_eq!(slow.status, "cancelled");
    let joined = events.iter().position(|event| matches!(event.event, Event::Joined { .. })).unwrap();
    let later = &events[joined + 1..];
    assert!(!later.iter().any(|event| event.agent.as_ref().is_some_and(|agent| agent.as_str() == "slow")
        && !matches!(event.event, Event::AgentEnded { .. } | Event::CallAbandoned { .. })));
    assert!(report.abandoned.is_empty());
}

#[tokio::test]
async fn what_a_loser_must_not_do_twice_is_listed_and_does_not_park_the_run() {
    let (report, _) = live(&fast_and_slow("join = 1", "once"), "x").await;
    assert_eq!(report.status, Status::Done, "{:?}", report.reason);
    let listed: Vec<String> = report.abandoned.iter().map(|call| format!("{} of {}", call.tool, call.call)).collect();
    assert_eq!(listed, ["nap of slow#1.0"]);
}

#[tokio::test]
async fn a_join_waits_no_longer_than_it_may() {
    let (report, events) = live(&fast_and_slow("join = \"all\"\ntimeout = \"300ms\"", "pure"), "x").await;
    assert_eq!(report.answer_text().as_deref(), Some("end(## fast\n\nfast)"), "{:?}", report.reason);
    assert!(events.iter().any(|event| matches!(event.event, Event::JoinDue { .. })));
}

#[tokio::test]
async fn a_majority_decides_and_a_tie_goes_to_a_judge() {
    let routes = "[[routes]]\nfrom = \"a\"\nto = [\"v1\", \"v2\", \"v3\"]\n\
                  [[routes]]\nfrom = [\"v1\", \"v2\", \"v3\"]\njoin = \"majority\"\nby = \"output.say\"\nto = \"end\"\n\
                  when = \"output.winner\"\nmessage = \"{{ output.winner }} {{ output.count }}/{{ output.of }}\"\n\
                  [[routes]]\nfrom = [\"v1\", \"v2\", \"v3\"]\njoin = \"majority\"\nby = \"output.say\"\nto = \"judge\"\notherwise = true\n";
    let vote = |v1: &str, v2: &str, v3: &str| {
        let say = |what: &str| format!("{{\"say\": \"{what}\", \"n\": {{{{ messages | length }}}}}}");
        let (end, judge) = (ECHO.replace("SELF", "end"), "judged".to_owned());
        let agents =
            [("a", "go"), ("v1", &say(v1)), ("v2", &say(v2)), ("v3", &say(v3)), ("end", &end), ("judge", &judge)];
        network("a", &agents.map(|(name, script)| (name, &*script.to_owned().leak())), routes)
    };
    let said = answer(&vote("yes", "yes", "no"), "x").await;
    assert!(said == "end(yes 2/3)" || said == "end(yes 2/2)", "{said}");
    assert_eq!(answer(&vote("yes", "no", "maybe"), "x").await, "judged");
}

#[tokio::test]
async fn a_join_bears_failures_if_it_needs_not_all() {
    let routes = |join: &str| {
        format!(
            "[[routes]]\nfrom = \"a\"\nto = [\"b\", \"c\"]\n[[routes]]\nfrom = [\"b\", \"c\"]\njoin = \"{join}\"\nto = \"d\"\n"
        )
    };
    // It answers with nothing, until it may repair no more.
    let agents = [("a", "go"), ("b", ""), ("c", "c"), ("d", ECHO)];
    let (report, _) = live(&network("a", &agents, &routes("any")), "x").await;
    assert_eq!(report.answer_text().as_deref(), Some("SELF(c)"), "{:?}", report.reason);
    let (report, _) = live(&network("a", &agents, &routes("all")), "x").await;
    assert_eq!(report.status, Status::Limit, "{:?}", report.reason);
    assert!(report.reason.unwrap().contains("agent `b`"));
}

#[tokio::test]
async fn who_listens_on_a_topic_gets_what_is_published() {
    let routes = "[[routes]]\nfrom = \"a\"\nto = \"#news\"\n[[routes]]\nfrom = \"#news\"\nto = [\"b\", \"c\"]\n";
    assert_eq!(answer(&echoes("a", &["a", "b", "c"], routes), "x").await, "## b\n\nb(a(x))\n\n## c\n\nc(a(x))");
    let publish = "{% if step == 1 %}{\"calls\": [{\"name\": \"publish_news\", \"arguments\": {\"message\": \"hot\"}}]}\
                   {% else %}{{ results[0].content }}{% endif %}";
    let b = ECHO.replace("SELF", "b");
    let text = network("a", &[("a", "go"), ("b", &b)], "[[routes]]\nfrom = \"#news\"\nto = \"b\"\n");
    let text = text
        .replace("'''go'''", &format!("'''{publish}'''"))
        .replace("You are a.\"", "You are a.\"\npublishes = [\"news\"]");
    assert_eq!(answer(&text, "x").await, "## a\n\npublished on `news`\n\n## b\n\nb(hot)");
}

#[tokio::test]
async fn in_a_room_each_hears_the_others() {
    let text = echoes("room", &["a", "b"], "[agents.room.room]\nmembers = [\"a\", \"b\"]\nmax_turns = 3\n");
    let (report, _) = live(&text, "x").await;
    assert_eq!(report.answer_text().as_deref(), Some("a: a(x)\n\nb: b(x\n\na: a(x))\n\na: a(b: b(x\n\na: a(x)))"));
    assert_eq!(agents(&report), ["room", "room/a", "room/b", "room/a@2"]);
}

#[tokio::test]
async fn a_selector_says_who_speaks_and_a_condition_ends_the_talk() {
    let room = "[agents.room.room]\nmembers = [\"a\", \"b\"]\nselector = \"chair\"\nmax_turns = 9\n\
                end_when = \"'done' in output\"\nanswer = \"last\"\n";
    let chair = "I call {{ 'b' if 'a: ' in messages[-1].text else 'a' }}.";
    let b = "b is done";
    let text = network("room", &[("a", "a speaks"), ("b", b), ("chair", chair)], room);
    let (report, _) = live(&text, "x").await;
    assert_eq!(report.answer_text().as_deref(), Some("b is done"), "{:?}", report.reason);
    assert_eq!(agents(&report), ["room", "room/chair", "room/a", "room/chair@2", "room/b"]);
    let never = text.replace("'done' in output", "'never' in output").replace("max_turns = 9", "max_turns = 2");
    let (report, _) = live(&never, "x").await;
    assert_eq!(report.status, Status::Limit, "{:?}", report.reason);
}

#[tokio::test]
async fn an_inner_flow_is_one_agent_for_those_outside() {
    let rest = "[agents.team]\nflow = \"b\"\n[[routes]]\nfrom = \"b\"\nto = \"c\"\n\
                [[routes]]\nfrom = \"a\"\nto = \"team\"\n[[routes]]\nfrom = \"team\"\nto = \"d\"\n";
    let (report, _) = live(&echoes("a", &["a", "b", "c", "d"], rest), "x").await;
    assert_eq!(report.answer_text().as_deref(), Some("d(c(b(a(x))))"), "{:?}", report.reason);
    assert_eq!(agents(&report), ["a", "team", "team/b", "team/c", "d"]);
}

#[tokio::test]
async fn an_inner_flow_answers_who_asked_it() {
    let ask = "{% if step == 1 %}{\"calls\": [{\"name\": \"ask_team\", \"arguments\": {\"message\": \"q\"}}]}\
               {% else %}got {{ results[0].content }}{% endif %}";
    let rest = "[agents.team]\nflow = \"b\"\n[[routes]]\nfrom = \"b\"\nto = \"c\"\n";
    let (b, c) = (ECHO.replace("SELF", "b"), ECHO.replace("SELF", "c"));
    let text = network("a", &[("a", "go"), ("b", &b), ("c", &c)], rest);
    let text = text
        .replace("'''go'''", &format!("'''{ask}'''"))
        .replace("You are a.\"", "You are a.\"\ndelegates_to = [\"team\"]");
    let (report, _) = live(&text, "x").await;
    assert_eq!(report.answer_text().as_deref(), Some("got c(b(q))"), "{:?}", report.reason);
    assert_eq!(agents(&report), ["a", "a/team.1.0", "a/team.1.0/b", "a/team.1.0/c"]);
}

#[tokio::test]
async fn who_takes_over_takes_the_routes_along() {
    let over = "{\"calls\": [{\"name\": \"transfer_to_b\", \"arguments\": {\"message\": \"yours\"}}]}";
    let (b, c) = ("b answers".to_owned(), ECHO.replace("SELF", "c"));
    let text = network("a", &[("a", "go"), ("b", &b), ("c", &c)], "[[routes]]\nfrom = \"a\"\nto = \"c\"\n");
    let text = text
        .replace("'''go'''", &format!("'''{over}'''"))
        .replace("You are a.\"", "You are a.\"\nhands_off_to = [\"b\"]");
    assert_eq!(answer(&text, "x").await, "c(b answers)");
}

const NAPS: &str = "[tools.nap]\nbuiltin = \"clock.sleep\"\n[policy]\ndefault = \"allow\"\n";

#[tokio::test]
async fn what_comes_after_a_join_has_gone_on_begins_no_new_round() {
    let b = "{% if step == 1 %}{\"calls\": [{\"name\": \"nap\", \"arguments\": {\"duration\": \"200ms\"}}]}{% else %}b{% endif %}";
    let routes = "[[routes]]\nfrom = \"a\"\nto = [\"b\", \"c\"]\n[[routes]]\nfrom = \"b\"\nto = [\"x\", \"y\"]\n\
                  [[routes]]\nfrom = [\"x\", \"c\"]\njoin = \"any\"\nto = \"end\"\n";
    let end = ECHO.replace("SELF", "end");
    let agents = [("a", "go"), ("b", b), ("c", "c"), ("x", "x"), ("y", "y"), ("end", &end)];
    let text = network("a", &agents, &format!("{routes}{NAPS}"));
    let text = text.replace("You are b.\"", "You are b.\"\ntools = [\"nap\"]");
    // `b` has other things to do, and what comes of it at the join is too late.
    assert_eq!(answer(&text, "x").await, "## end\n\nend(c)\n\n## y\n\ny");
}

#[tokio::test]
async fn who_would_come_too_late_is_stopped_although_it_could_hand_over() {
    let slow = "{\"calls\": [{\"name\": \"nap\", \"arguments\": {\"duration\": \"1h\"}}]}";
    let routes = "[[routes]]\nfrom = \"a\"\nto = [\"b\", \"c\"]\n\
                  [[routes]]\nfrom = [\"b\", \"c\"]\njoin = \"any\"\nto = \"end\"\n";
    let end = ECHO.replace("SELF", "end");
    let agents = [("a", "go"), ("b", slow), ("c", "c"), ("t", "t"), ("end", &end)];
    let text = network("a", &agents, &format!("{routes}{NAPS}"));
    let could = "You are b.\"\ntools = [\"nap\"]\nhands_off_to = [\"t\"]";
    let text = text.replace("You are b.\"\noutput_schema = \"any.json\"", could);
    assert_eq!(answer(&text, "x").await, "end(c)");
}

#[tokio::test]
async fn joins_behind_one_another_go_on_in_turn_whatever_their_order() {
    let joins = [
        "[[routes]]\nfrom = [\"c\", \"d\"]\njoin = \"all\"\nto = \"f\"\n",
        "[[routes]]\nfrom = [\"a\", \"b\"]\njoin = \"all\"\nto = \"c\"\n",
    ];
    let names = ["e", "a", "b", "c", "d", "f"];
    let said = "f(## c\n\nc(## a\n\na(e(x))\n\n## b\n\nb(e(x)))\n\n## d\n\nd(e(x)))";
    for order in [[0, 1], [1, 0]] {
        let routes: String = order.iter().map(|at| joins[*at]).collect();
        let routes = format!("[[routes]]\nfrom = \"e\"\nto = [\"a\", \"b\", \"d\"]\n{routes}");
        assert_eq!(answer(&echoes("e", &names, &routes), "x").await, said);
    }
}

#[tokio::test]
async fn lists_within_lists_keep_their_order() {
    let routes = "[[routes]]\nfrom = \"a\"\nto = \"b\"\nfor_each = \"[1, 2, 3]\"\n\
                  [[routes]]\nfrom = \"b\"\nto = \"c\"\nfor_each = \"['x', 'y']\"\n\
                  [[routes]]\nfrom = \"c\"\nto = \"d\"\n\
                  [[routes]]\nfrom = \"d\"\njoin = \"all\"\nanswer = \"output\"\n";
    let repeats = "It is {{ messages[-1].text }}";
    let text = network("a", &[("a", "go"), ("b", "b"), ("c", repeats), ("d", repeats)], routes);
    let (report, _) = live(&text, "x").await;
    let wanted = ["x", "y", "x", "y", "x", "y"].map(|item| format!("It is It is {item}"));
    assert_eq!(report.answer.clone().unwrap().to_value(), serde_json::json!(wanted));
    let mut last: Vec<&str> = agents(&report).into_iter().filter(|agent| agent.starts_with('d')).collect();
    last.sort_unstable();
    assert_eq!(last, ["d.1.1", "d.1.2", "d.2.1", "d.2.2", "d.3.1", "d.3.2"]);
}

#[tokio::test]
async fn a_topic_that_nobody_wants_is_no_way_on() {
    let routes = "[[routes]]\nfrom = \"a\"\nto = \"#t\"\n\
                  [[routes]]\nfrom = \"#t\"\nto = \"b\"\nwhen = \"'zzz' in output\"\n";
    assert_eq!(answer(&echoes("a", &["a", "b"], routes), "x").await, "a(x)");
}

#[tokio::test]
async fn rooms_count_against_the_agents_of_the_run() {
    let room = "[agents.room.room]\nmembers = [\"a\", \"b\"]\nmax_turns = 8\n[network.limits]\nagents = 3\n";
    let (report, _) = live(&echoes("room", &["a", "b"], room), "x").await;
    assert_eq!((report.status, report.agents.len()), (Status::Limit, 3), "{:?}", report.reason);
}
