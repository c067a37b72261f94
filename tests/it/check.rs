//! Network files, good and bad: what is found in them, and where.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod models;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use provost::spec::{
    AgentSpec, Bound, ModelSpec, Network, NetworkSpec, Price, ProviderKind, Report, ToolSpec, json_schema,
};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/networks")
}

/// Returns what a fixture is told, as a person sees it.
fn rendered(file: &str) -> String {
    let text = std::fs::read_to_string(fixtures().join(file)).unwrap();
    Network::parse(file, &text, &fixtures()).unwrap_err().0.render(false)
}

/// Writes what was found as `code line:column` each.
fn found(report: &Report) -> Vec<String> {
    let one = |diagnostic: &provost::spec::Diagnostic| match report.position(diagnostic) {
        Some(position) => format!("{} {}:{}", diagnostic.code, position.line, position.column),
        None => format!("{} {}", diagnostic.code, diagnostic.path),
    };
    report.diagnostics().iter().map(one).collect()
}

/// Checks that a text is found to have just these mistakes.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let report = match Network::parse("n.toml", text, &fixtures()) {
        Ok(loaded) => loaded.warnings,
        Err(invalid) => invalid.0,
    };
    assert_eq!(found(&report), expected, "\n{}", report.render(false));
}

/// A valid network of one agent, of five lines, to which a test adds what it is about.
const HEAD: &str = "[network]\nname = \"n\"\nentry = \"a\"\n[agents.a]\nprompt = \"x\"\n";

/// Checks what is found when `tail` is added to [`HEAD`]; its first line is line 6.
#[track_caller]
fn check_tail(tail: &str, expected: &[&str]) {
    check(&format!("{HEAD}{tail}"), expected);
}

#[test]
fn several_mistakes_are_all_reported_each_at_its_place() {
    insta::assert_snapshot!(rendered("five.toml"));
}

#[test]
fn who_is_asked_what_became_of_a_call_must_be_able_to_say() {
    let tools = |reconcile: &str, other: &str| {
        format!(
            "tools = [\"act\"]\n[policy]\ndefault = \"allow\"\n[tools.act]\nbuiltin = \"process.run\"\n\
             allow = [\"true\"]\nreconcile = \"{reconcile}\"\n[tools.look]\n{other}\n"
        )
    };
    let program = "builtin = \"process.run\"\nallow = [\"false\"]";
    check_tail(&tools("look", &format!("{program}\neffect = \"pure\"")), &[]);
    check_tail(&tools("look", program), &["cannot_reconcile 12:13"]);
    check_tail(&tools("look", "builtin = \"clock.now\""), &["cannot_reconcile 12:13"]);
    check_tail(&tools("act", "builtin = \"clock.now\""), &["unknown_tool 12:13", "unused_tool 13:8"]);
    check_tail(&tools("lok", "builtin = \"clock.now\""), &["unknown_tool 12:13", "unused_tool 13:8"]);
}

#[test]
fn approvers_have_names_under_which_they_can_answer() {
    let approvers = |names: &str| format!("[policy.approvals]\napprovers = [{names}]\n");
    check_tail(&approvers("\"ana\", \"Ana Müller\""), &[]);
    let long = format!("\"{}\"", "ä".repeat(33));
    for odd in [r#""an\u202ea""#, r#""an\u200ba""#, r#""a\tb""#, r#""ana ""#, &long] {
        check_tail(&approvers(odd), &["bad_name 7:13"]);
    }
}

#[test]
fn approvers_are_told_at_an_address_that_can_be_asked() {
    let notify = |url: &str| format!("[policy.approvals]\nnotify = {{ url = \"{url}\" }}\n");
    for url in ["https://chat.example.com/hook/1?a=b@c", "http://127.0.0.1:8080", "env:HOOK"] {
        check_tail(&notify(url), &[]);
    }
    for url in ["ftp://example.com", "chat.example.com/hook", "https://", "https://a b/", ""] {
        check_tail(&notify(url), &["bad_url 7:18"]);
    }
    for url in ["https://ana@example.com/", "https://ana:s3cr3t@example.com/"] {
        check_tail(&notify(url), &["inline_secret 7:18"]);
        let text = format!("{HEAD}{}", notify(url));
        let shown = Network::parse("n.toml", &text, &fixtures()).unwrap_err().0.render(false);
        assert!(!shown.contains("s3cr3t"), "{shown}");
    }
}

#[test]
fn guards_that_would_strike_at_once_are_refused() {
    check_tail("[network.guards]\nsame_call = 2\nping_pong = 0\nnothing_new = 1\ntranscript_tokens = 0\n", &[]);
    check_tail("[network.guards]\nsame_call = 1\nping_pong = 1\n", &["out_of_range 7:13", "out_of_range 8:13"]);
    check_tail("[network.guards]\nsame_cal = 2\nnothing_new = -1\n", &["unknown_key 7:1", "out_of_range 8:15"]);
}

#[test]
fn models_to_which_an_agent_may_go_are_there_and_have_a_use() {
    let models = "[models.m]\n[models.small]\n[models.big]\n";
    let choice = |rest: &str| format!("model = {{ prefer = \"m\", {rest} }}\n{models}");
    let all = "fall_back = [\"big\"], escalate = [\"big\"], downgrade = [\"small\"], downgrade_below = 0.1";
    check_tail(&choice(all), &[]);
    check_tail(
        &choice("fall_back = [\"larg\"], escalate = [\"bigg\"], downgrade = [\"smal\"]"),
        &["unknown_model 6:38", "unknown_model 6:59", "unknown_model 6:81"],
    );
    let unused = ["unused_model 8:9", "unused_model 9:9"];
    let with_unused = |code: &'static str| [&[code][..], &unused].concat();
    check_tail(&choice("downgrade_below = 0.5"), &with_unused("key_without_use 6:25"));
    check_tail(&choice("escalate_after = 3"), &with_unused("key_without_use 6:25"));
    check_tail(&choice("escalate_after = 0"), &["out_of_range 6:42"]);
    check_tail(&choice("confidence_below = 0.5"), &with_unused("key_without_use 6:25"));
    check_tail(&choice("escalate = [\"big\"], confidence_below = 0.5"), &["key_without_use 6:45", "unused_model 8:9"]);
    check_tail(&choice("when = [{ model = \"big\" }]"), &["no_condition 6:33", "unused_model 8:9"]);
    check_tail(
        &choice("when = [{ model = \"big\", label = \"privat\" }, { model = \"small\", step_over = 3 }]"),
        &["unknown_label 6:58"],
    );
    check_tail(&choice("downgrade = [\"small\", \"m\"]"), &["prefers_itself 6:47", "unused_model 9:9"]);
    check_tail(&choice("downgrade_below = 1.5"), &["out_of_range 6:43"]);
}

#[test]
fn what_a_run_costs_at_most_is_at_the_price_of_the_dearest_model_it_may_reach() {
    let text = format!(
        "{HEAD}model = {{ prefer = \"m\", escalate = [\"big\"] }}\n[network.limits]\ntokens = 1_000_000\n\
         [models.m]\nprovider = \"openai\"\nmodel = \"m\"\nprice = {{ input_usd_per_mtok = 1, output_usd_per_mtok = 2 }}\n\
         [models.big]\nprovider = \"openai\"\nmodel = \"big\"\n"
    );
    let price = "price = { input_usd_per_mtok = 10, output_usd_per_mtok = 30 }\n";
    let network = Network::parse("n.toml", &format!("{text}{price}"), &fixtures()).unwrap().network;
    let Bound::AtMost(cost, _) = network.worst_case().cost_usd else { panic!("no bound") };
    assert_eq!(cost, 30.0);
    let limited = text.replace("tokens = 1_000_000", "cost_usd = 1.0");
    check(&limited, &["no_price 13:9"]);
}

#[test]
fn what_later_versions_bring_is_refused_as_such() {
    insta::assert_snapshot!(rendered("later.toml"));
}

#[test]
fn mistakes_with_routes_and_budgets_are_each_at_its_place() {
    insta::assert_snapshot!("mistakes_with_routes_are_each_at_its_place", rendered("routes.toml"));
    insta::assert_snapshot!("mistakes_with_budgets_are_each_at_its_place", rendered("budgets.toml"));
}

#[test]
fn routes() {
    let two = |rest: &str| format!("[agents.b]\nprompt = \"x\"\n{rest}");
    let route = |rest: &str| two(&format!("[[routes]]\nfrom = \"a\"\nto = \"b\"\n{rest}"));
    check_tail(&route(""), &[]);
    check_tail(&route("[[routes]]\nfrom = \"b\"\nto = \"a\"\n"), &["unbounded_loop 8:1"]);
    check_tail(&route("[[routes]]\nfrom = \"b\"\nto = \"a\"\nmax_visits = 1\n"), &[]);
    check_tail(&route("max_visits = 0\n"), &["out_of_range 11:14"]);
    check_tail(&route("join = 2\n"), &["join_never_fills 11:8"]);
    check_tail(&route("join = \"al\"\n"), &["unknown_value 11:8"]);
    check_tail(&route("for_each = \"[1]\"\n[[routes]]\nfrom = \"b\"\njoin = 7\nanswer = \"output\"\n"), &[]);
    check_tail(&route("timeout = \"1s\"\n"), &["contradiction 11:1"]);
    check_tail(&route("by = \"output\"\n"), &["contradiction 11:1"]);
    check_tail(&route("when = \"output.\"\n"), &["bad_expression 11:8"]);
    check_tail(&route("when = \"item\"\n"), &["unknown_variable 11:8"]);
    check_tail(&route("when = \"output.ok\"\n"), &["answer_is_text 11:8"]);
    check_tail(&route("otherwise = true\n"), &["only_route 11:1"]);
    check_tail(&two("[[routes]]\nfrom = \"a\"\n"), &["unreachable_agent 6:9", "leads_nowhere 8:1"]);
    check_tail(&two("[[routes]]\nto = \"b\"\n"), &["unreachable_agent 6:9", "missing_key 8:1"]);
    check_tail(
        &two("[agents.c]\nroom = { members = [\"a\", \"b\"] }\n"),
        &["unreachable_agent 6:9", "unreachable_agent 8:9", "missing_key 9:1"],
    );
    // Routes lead from what an agent publishes, and who is asked has not been routed to.
    check_tail("publishes = [\"news\"]\n", &["unknown_topic 6:14"]);
    check_tail(&format!("publishes = [\"news\"]\n{}", two("[[routes]]\nfrom = \"#news\"\nto = \"b\"\n")), &[]);
    check_tail(&format!("delegates_to = [\"b\"]\n{}", two("[[routes]]\nfrom = \"b\"\nto = \"a\"\n")), &[]);
    // An inner flow that asks itself has no end.
    let inner = "delegates_to = [\"b\"]\n[agents.b]\nflow = \"a\"\n";
    check_tail(inner, &["delegation_cycle 6:17"]);
}

#[test]
fn compaction() {
    check_tail("compaction = { at_tokens = 24_000 }\n", &[]);
    check_tail("compaction = {}\n", &["missing_key 6:1"]);
    check_tail("compaction = { at_tokens = 99 }\n", &["out_of_range 6:28"]);
    check_tail("compaction = { at_tokens = 9_000, keep_steps = 0 }\n", &["out_of_range 6:48"]);
    check_tail("compaction = { at_tokens = 9_000, move_out_over_bytes = 10 }\n", &["out_of_range 6:57"]);
    check_tail("compaction = { at_tokens = 1_000, move_out_over_bytes = 3_001 }\n", &["nothing_moved_out 6:57"]);
    check_tail("compaction = { at_tokens = 1_000 }\n", &["nothing_moved_out 6:1"]);
    check_tail("compaction = { at_tokens = 9_000, model = \"smal\" }\n", &["unknown_model 6:43"]);
    check_tail("compaction = { at_tokens = 9_000, keep = 3 }\n", &["unknown_key 6:35"]);
    let reads = "[tools.read_again]\nbuiltin = \"clock.now\"\n";
    check_tail(&format!("tools = [\"read_again\"]\n{reads}"), &[]);
    check_tail(
        &format!("tools = [\"read_again\"]\ncompaction = {{ at_tokens = 9_000 }}\n{reads}"),
        &["name_clash 6:10"],
    );
    check_tail(
        &format!(
            "delegates_to = [\"b\"]\n[agents.b]\nprompt = \"x\"\ntools = [\"read_again\"]\n[agents.c]\nprompt = \"x\"\ncompaction = {{ at_tokens = 9_000 }}\n{reads}"
        ),
        &["unreachable_agent 10:9", "name_clash 13:8"],
    );
    check_tail(
        "delegates_to = [\"b\"]\n[agents.b]\nflow = \"c\"\ncompaction = { at_tokens = 9_000 }\n[agents.c]\nprompt = \"x\"\n",
        &["key_without_use 9:1"],
    );
}

#[test]
fn what_is_no_toml_does_not_hide_other_mistakes() {
    insta::assert_snapshot!(rendered("torn.toml"));
}

#[test]
fn a_file_that_uses_everything_is_valid() {
    let loaded = Network::load(&fixtures().join("everything.toml")).unwrap();
    insta::assert_snapshot!(found(&loaded.warnings).join("\n"), @r"
    tool_will_ask 117:8
    tool_will_ask 122:8
    ");
    let network = loaded.network;
    assert!(network.output_schema("editor").is_some());
    assert_eq!(network.spec().agents.keys().collect::<Vec<_>>(), ["editor", "researcher", "reader", "legal"]);
    // A run stores its network, and a resume reads it back.
    let stored = serde_json::to_string(&network).unwrap();
    assert_eq!(serde_json::from_str::<Network>(&stored).unwrap(), network);
}

#[test]
fn the_order_of_agents_is_that_of_the_file() {
    let text = format!("{HEAD}hands_off_to = [\"z\", \"m\"]\n[agents.z]\nprompt = \"x\"\n[agents.m]\nprompt = \"x\"\n");
    let network = Network::parse("n", &text, Path::new(".")).unwrap().network;
    assert_eq!(network.spec().agents.keys().collect::<Vec<_>>(), ["a", "z", "m"]);
}

#[test]
fn the_schema_on_disk_is_that_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("networks/schema.json");
    let stored: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(
        stored == *json_schema(),
        "networks/schema.json is out of date: cargo run -- check --print-schema > networks/schema.json"
    );
    jsonschema::meta::validate(json_schema()).unwrap();
}

/// The reader's own check of the schema must agree with what editors do with it.
#[test]
fn other_validators_agree_with_ours_on_the_schema() {
    let validator = jsonschema::validator_for(json_schema()).unwrap();
    for (tail, valid) in [
        ("", true),
        ("max_steps = 0", false),
        ("max_steps = 4_294_967_295", true),
        ("tools = [\"b\", \"b\"]", false),
        ("tools = [3]", false),
        ("model = { prefer = 3 }", false),
        ("bogus = 1", false),
        ("on_error = \"retry\"", false),
        ("on_error = \"route:\"", false),
        ("on_error = \"restart\"\nrestart = { backoff = \"1s..2s\" }", true),
        ("restart = { kind = \"never\" }", false),
        ("max_deliveries = 101", false),
        ("replicas = 0", false),
        ("[agents.\"b c\"]\nprompt = \"x\"", false),
        ("[network.limits]\ncost_usd = -1", false),
        ("[network.limits]\ncost_usd = 1", true),
        ("[models.m]\napi_key = \"sk-123\"", false),
        ("[models.m]\napi_key = \"env:KEY\"", true),
        ("[models.m]\nprovider = \"host\"", false),
        ("[models.m]\nstream = 1", false),
        ("[sim.faults]\ncut = 1.5", false),
        ("[tools.t]\nbuiltin = \"fs.lst\"", false),
        ("[[routes]]\nfrom = [\"a\"]\nto = [\"a\"]\nmax_visits = 1", true),
        ("[[routes]]\nfrom = \"a\"\nto = \"a\"\njoin = 1\nmax_visits = 1", true),
        ("[[routes]]\nfrom = [\"a\"]\njoin = 0", false),
        ("[[routes]]\nfrom = [3]\nto = [\"a\"]", false),
        ("[[routes]]\nform = [\"a\"]", false),
        ("[[routes]]\nfrom = [\"a\"]\njoin = \"most\"", false),
        ("[[routes]]\nfrom = [\"a\"]\nmax_visits = 0", false),
    ] {
        let text = format!("{HEAD}{tail}\n");
        let value: serde_json::Value = toml::from_str(&text).unwrap();
        assert_eq!(validator.is_valid(&value), valid, "{text}");
        let codes = match Network::parse("n", &text, Path::new(".")) {
            Ok(_) => Vec::new(),
            Err(invalid) => invalid.0.diagnostics().iter().map(|diagnostic| diagnostic.code).collect(),
        };
        let shape = [
            "wrong_type",
            "unknown_key",
            "out_of_range",
            "duplicate",
            "bad_name",
            "missing_key",
            "inline_secret",
            "unknown_value",
        ];
        assert_eq!(!codes.iter().any(|code| shape.contains(code)), valid, "{text}\n{codes:?}");
    }
}

#[test]
fn keys_and_types() {
    check_tail("", &[]);
    check("[network]\n", &["no_agents 1:1", "missing_key 1:2", "missing_key 1:2"]);
    check("[agents.a]\nprompt = \"x\"\n", &["missing_key 1:1"]);
    check_tail("[agnts.b]\n", &["unknown_key 6:2"]);
    check_tail("max_steps = \"3\"\n", &["wrong_type 6:13"]);
    check_tail("max_steps = 3.0\n", &["wrong_type 6:13"]);
    check_tail("max_steps = 99999999999999999999999999999999999999999999\n", &["out_of_range 6:13"]);
    check_tail("max_steps = 2024-01-01\n", &["wrong_type 6:13"]);
    check_tail("tools = \"read\"\n", &["wrong_type 6:9"]);
    check_tail("tools = [1, \"t\"]\n[tools.t]\nbuiltin = \"clock.now\"\n", &["wrong_type 6:10"]);
    check_tail("model = \"fast\"\n[models.fast]\n[models.other]\n", &["wrong_type 6:9"]);
    check_tail("model = { perfer = \"fast\" }\n[models.fast]\n", &["unknown_key 6:11"]);
    check_tail("[policy]\ndefault = \"alow\"\n", &["unknown_value 7:11"]);
    check_tail("[models.m]\nprovider = \"opnai\"\n", &["unknown_value 7:12"]);
    check_tail("[models.m]\nprovider = \"host\"\n", &["unknown_value 7:12"]);
    // A mistyped table still counts as a name, and what hangs on it is not reported as well.
    check_tail("delegates_to = [\"b\"]\n[agents]\nb = 3\n", &["wrong_type 8:5"]);
    check("agents.b = 3\n[network]\nname = \"n\"\nentry = \"b\"\n", &["wrong_type 1:12"]);
    check("agents = 3\n[network]\nname = \"n\"\nentry = \"b\"\n", &["wrong_type 1:10"]);
}

#[test]
fn what_could_not_be_read_is_not_reported_as_missing() {
    // The lost line may have been the one that is missing …
    check("[network]\nname = \"n\"\nentry = = \"a\"\n[agents.a]\nprompt = \"x\"\n", &["syntax 3:9"]);
    // … but not in another table.
    check("[network]\nname = \"n\"\nentry = = \"a\"\n[agents.a]\n", &["syntax 3:9", "missing_key 4:9"]);
    // A table without its header takes its keys with it, and its name may have been any.
    check_tail("delegates_to = [\"zebra\"]\n[agents.zebra\nprompt = \"x\"\n", &["syntax 7:14"]);
    check_tail("delegates_to = [\"zebra\"]\n[policy]\ndefault = deny\n", &["unknown_agent 6:17", "syntax 8:11"]);
    // A list or a string without an end takes only what is certainly its own.
    check_tail("tools = [\"t\"\nmax_steps = 0\n[tools.t]\n", &["syntax 6:9", "out_of_range 7:13", "no_builtin 8:8"]);
    check_tail("description = \"\"\"\nx\n", &["syntax 6:15"]);
}

#[test]
fn columns_count_characters() {
    check(
        "[network]\nname = \"n\"\nentry = \"a\"\n[agents.a]\nprompt = \"x\"\nmodel = { \"préfér\" = \"ü\", x = 1 }\n",
        &["unknown_key 6:11", "unknown_key 6:27"],
    );
}

#[test]
fn ranges() {
    check_tail("[network.limits]\ncost_usd = -1\n", &["out_of_range 7:12"]);
    check_tail("[network.limits]\ncost_usd = nan\n", &["out_of_range 7:12"]);
    check_tail("[network.limits]\ncost_usd = inf\n", &["out_of_range 7:12"]);
    check_tail("[network.limits]\ntokens = 0\n", &["out_of_range 7:10"]);
    check_tail(
        "[network.limits]\nmodel_calls = 0\nsteps = 0\ndepth = -1\n",
        &["out_of_range 7:15", "out_of_range 8:9", "out_of_range 9:9"],
    );
    check_tail("[network.limits]\ndeadline = \"0s\"\n", &["out_of_range 7:12"]);
    check_tail("[network.limits]\ndeadline = \"-5s\"\n", &["bad_span 7:12"]);
    check_tail("[network.fleet]\nmodel_calls_in_flight = 0\n", &["out_of_range 7:25"]);
    check_tail(
        "[network.fleet]\ntool_calls_in_flight = 0\nruns_in_flight = -1\nweights = { a = 0, b = 9_999, c = 2 }\n",
        &["out_of_range 7:24", "out_of_range 8:18", "out_of_range 9:17", "out_of_range 9:24"],
    );
    check_tail(
        "[network.fleet]\nqueue = { capacity = 0, timeout = \"0s\" }\n",
        &["out_of_range 7:22", "out_of_range 7:35"],
    );
    check_tail("[network.limits]\nin_flight = 0\n", &["out_of_range 7:13"]);
    check_tail(
        "[models.m]\nrequests_per_minute = 0\ntokens_per_minute = nan\n",
        &["out_of_range 7:23", "wrong_type 8:21"],
    );
    check_tail(
        "[models.m]\nbreaker = { failures = 0, within = \"0s\", cool_down = \"0s\" }\n",
        &["out_of_range 7:24", "out_of_range 7:36", "out_of_range 7:54"],
    );
    check_tail("in_flight = 0\n", &["out_of_range 6:13"]);
    check_tail(
        "[models.m]\nprice = { input_usd_per_mtok = -1.0, output_usd_per_mtok = nan }\n",
        &["out_of_range 7:32", "out_of_range 7:60"],
    );
    check_tail("[models.m]\nin_flight = 0\nmin_output_tokens = 5000\n", &["out_of_range 7:13", "out_of_range 8:21"]);
    check_tail("[models.m]\nmax_output_tokens = 10\n", &["out_of_range 7:21"]);
    check_tail(
        "[models.m]\nretry = { tries = 0 }\ntimeouts = { connect = \"0s\" }\n",
        &["out_of_range 7:19", "out_of_range 8:24"],
    );
    check_tail("[models.m]\nretry = { min = \"10s\", max = \"1s\" }\n", &["out_of_range 7:17"]);
    check_tail("[sim]\nlatency = { p50 = \"2s\", p99 = \"1s\" }\n", &["out_of_range 7:31"]);
    check_tail("[sim.faults]\ncut = 1.5\n", &["out_of_range 7:7"]);
    check_tail("[sim.faults]\ncut = 0.6\nstall = 0.6\n", &["out_of_range 6:6"]);
    check_tail("[sim.faults]\ncut = 0.7\nstall = 0.1\ntimeout = 0.2\n", &[]);
    check_tail("max_steps = 0\n", &["out_of_range 6:13"]);
    check_tail("[supervision]\nperiod = \"0s\"\n", &["out_of_range 7:10"]);
    check_tail("[supervision]\nshutdown = \"1h 1ms\"\n", &["out_of_range 7:12"]);
    check_tail("[supervision]\nshutdown = \"1h\"\n", &[]);
    check_tail("[supervision]\nshutdown = \"0s\"\n", &[]);
    check_tail("[supervision]\nshutdown = \"-1s\"\n", &["bad_span 7:12"]);
    check("[network]\nname = \"\"\nentry = \"a\"\n[agents.a]\nprompt = \"\"\n", &["empty 2:8", "empty 5:10"]);
}

#[test]
fn names() {
    let long = "a".repeat(53);
    check_tail(&format!("hands_off_to = [\"{long}\"]\n[agents.{long}]\nprompt = \"x\"\n"), &["bad_name 7:9"]);
    check_tail("hands_off_to = [\"b c\"]\n[agents.\"b c\"]\nprompt = \"x\"\n", &["bad_name 7:9"]);
    check_tail("tools = [\"\"]\n[tools.\"\"]\nbuiltin = \"clock.now\"\n", &["bad_name 7:8"]);
    check_tail("tools = [\"t\", \"t\"]\n[tools.t]\nbuiltin = \"clock.now\"\n", &["duplicate 6:15"]);
    check_tail(
        "tools = [\"ask_b\"]\ndelegates_to = [\"b\"]\n[agents.b]\nprompt = \"x\"\n[tools.ask_b]\nbuiltin = \"clock.now\"\n",
        &["name_clash 6:10"],
    );
    check_tail("tools = [\"clok\"]\n[tools.clock]\nbuiltin = \"clock.now\"\n", &["unknown_tool 6:10"]);
    check_tail("model = { prefer = \"fsat\" }\n[models.fast]\n", &["unknown_model 6:20"]);
    check_tail("delegates_to = [\"zebra\"]\n", &["unknown_agent 6:17"]);
    check_tail("[sim.script]\nb = [\"x\"]\n", &["unknown_agent 7:1"]);
    check("[network]\nname = \"n\"\nentry = \"zebra\"\n[agents.a]\nprompt = \"x\"\n", &["unknown_agent 3:9"]);
}

#[test]
fn ways_between_agents() {
    check_tail("[agents.b]\nprompt = \"x\"\n", &["unreachable_agent 6:9"]);
    check_tail("delegates_to = [\"a\"]\n", &["delegation_cycle 6:17"]);
    check_tail(
        "delegates_to = [\"b\"]\n[agents.b]\nprompt = \"x\"\nhands_off_to = [\"a\"]\n",
        &["delegation_cycle 6:17"],
    );
    check_tail("hands_off_to = [\"b\"]\n[agents.b]\nprompt = \"x\"\nhands_off_to = [\"a\"]\n", &[]);
    check_tail("hands_off_to = [\"a\"]\n", &["handoff_to_itself 6:17"]);
    check_tail(
        "delegates_to = [\"b\"]\n[agents.b]\nprompt = \"x\"\n[network.limits]\ndepth = 0\n",
        &["delegation_too_deep 6:17"],
    );
    check_tail("delegates_to = [\"b\"]\n[agents.b]\nprompt = \"x\"\n[network.limits]\ndepth = 1\n", &[]);
    check_tail("delegates_to = [\"aa\"]\n", &["unknown_agent 6:17"]);
    // An unknown name that is plainly a slip does not make the agent that was meant unreachable.
    check_tail("delegates_to = [\"researchr\"]\n[agents.researcher]\nprompt = \"x\"\n", &["unknown_agent 6:17"]);
}

#[test]
fn what_follows_a_failure() {
    check_tail("restart = { kind = \"temporary\", backoff = \"0ms..1m\" }\n", &[]);
    check_tail("restart = { kind = \"permanant\" }\n", &["unknown_value 6:20"]);
    check_tail("restart = { backof = \"1s..2s\" }\n", &["unknown_key 6:13"]);
    check_tail("restart = \"permanent\"\n", &["wrong_type 6:11"]);
    check_tail("restart = { backoff = 3 }\nmax_steps = 0\n", &["wrong_type 6:23", "out_of_range 7:13"]);
    for wrong in ["x", "1s", "2s..1s", "1s..x", ".."] {
        check_tail(
            &format!("restart = {{ backoff = \"{wrong}\" }}\nmax_deliveries = 0\n"),
            &["bad_span 6:23", "out_of_range 7:18"],
        );
    }
    check_tail("max_deliveries = 100\n", &[]);
    check_tail("max_deliveries = 101\n", &["out_of_range 6:18"]);
    check_tail("[supervision]\nstrategy = \"rest_for_one\"\nintensity = 0\n", &[]);
    check_tail(
        "[supervision]\nstrategy = \"one_for_al\"\nintensity = -1\n",
        &["unknown_value 7:12", "out_of_range 8:13"],
    );
    for right in ["feed_back", "restart", "fail_run"] {
        check_tail(&format!("on_error = \"{right}\"\n"), &[]);
    }
    for wrong in ["retry", "route:", "route", "b", ""] {
        check_tail(&format!("on_error = \"{wrong}\"\nmax_steps = 0\n"), &["unknown_value 6:12", "out_of_range 7:13"]);
    }
    check_tail("on_error = { route = \"b\" }\n", &["wrong_type 6:12"]);
}

#[test]
fn where_errors_lead() {
    const B: &str = "[agents.b]\nprompt = \"x\"\n";
    check_tail(&format!("on_error = \"route:b\"\n{B}"), &[]);
    check_tail("on_error = \"route:zebra\"\n", &["unknown_agent 6:12"]);
    // Who was plainly meant is not unreachable as well.
    check_tail("on_error = \"route:researchr\"\n[agents.researcher]\nprompt = \"x\"\n", &["unknown_agent 6:12"]);
    check_tail(&format!("on_error = \"rote:b\"\n{B}"), &["unknown_value 6:12"]);
    check_tail("on_error = \"route:a\"\n", &["error_cycle 6:12"]);
    check_tail(&format!("on_error = \"route:b\"\n{B}on_error = \"route:a\"\n"), &["error_cycle 6:12"]);
    // To take over from whom one has asked is no circle: the depth bounds it.
    check_tail(&format!("delegates_to = [\"b\"]\n{B}on_error = \"route:a\"\n"), &[]);
    check_tail(&format!("delegates_to = [\"b\"]\nreplicas = 1\n{B}on_error = \"route:a\"\n"), &["wait_cycle 6:17"]);
    // What an error leads to can ask too deep.
    let chain = format!("on_error = \"route:b\"\n{B}delegates_to = [\"c\"]\n[agents.c]\nprompt = \"x\"\n");
    check_tail(&format!("{chain}[network.limits]\ndepth = 0\n"), &["delegation_too_deep 4:1"]);
    check_tail(&format!("{chain}[network.limits]\ndepth = 1\n"), &[]);
}

#[test]
fn replicas_scopes_and_mailboxes() {
    let b = |tail: &str| format!("delegates_to = [\"b\"]\n[agents.b]\nprompt = \"x\"\n{tail}");
    for right in [
        "replicas = 2\n",
        "scope = \"session\"\n",
        "scope = \"network\"\nmailbox = { capacity = 1, when_full = \"drop_oldest\" }\n",
        "replicas = 1\nmailbox = { capacity = 1_000_000 }\n",
    ] {
        check_tail(&b(right), &[]);
    }
    check_tail(&b("replicas = 0\nscope = \"runs\"\n"), &["out_of_range 9:12", "unknown_value 10:9"]);
    check_tail(&b("replicas = 1\nmailbox = { capacity = 0 }\n"), &["out_of_range 10:24"]);
    check_tail(&b("replicas = 1\nmailbox = { capacity = 1_000_001 }\n"), &["out_of_range 10:24"]);
    check_tail(&b("replicas = 1\nmailbox = { when_full = \"drop\" }\n"), &["unknown_value 10:25"]);
    check_tail(&b("mailbox = { capacity = 3 }\n"), &["unused_mailbox 9:1"]);
    check_tail(&b("mailbox = { capacity = 3 }\nreplicas = 0\n"), &["out_of_range 10:12"]);
    // The entry is asked only where somebody asks it.
    check_tail("replicas = 1\n", &["entry_is_not_asked 6:12"]);
    check_tail("scope = \"session\"\n", &["entry_is_not_asked 6:9"]);
    check_tail("scope = \"session\"\nreplicas = 2\n", &["entry_is_not_asked 7:12"]);
    check_tail("scope = \"run\"\n", &[]);
    for way in ["hands_off_to = [\"a\"]", "on_error = \"route:a\""] {
        let text = format!("scope = \"session\"\nhands_off_to = [\"b\"]\n[agents.b]\nprompt = \"x\"\n{way}\n");
        check_tail(&text, &[]);
    }
}

#[test]
fn who_can_wait_for_itself() {
    let agents = |replicas: &str| {
        format!(
            "delegates_to = [\"b\"]\n[agents.b]\nprompt = \"x\"\n{replicas}delegates_to = [\"c\"]\n\
             [agents.c]\nprompt = \"x\"\ndelegates_to = [\"b\"]\n"
        )
    };
    check_tail(&agents(""), &["delegation_cycle 9:17"]);
    check_tail(&agents("replicas = 1\n"), &["wait_cycle 10:17"]);
    check_tail(&agents("scope = \"network\"\n"), &["wait_cycle 10:17"]);
    // Who hands over waits for no answer.
    let hands = "delegates_to = [\"b\"]\n[agents.b]\nprompt = \"x\"\nreplicas = 1\nhands_off_to = [\"c\"]\n\
                 [agents.c]\nprompt = \"x\"\nreplicas = 1\nhands_off_to = [\"b\"]\n";
    check_tail(hands, &[]);
}

#[test]
fn what_is_wrong_with_supervision_is_told_with_a_remedy() {
    insta::assert_snapshot!(rendered("supervision.toml"));
}

#[test]
fn tools() {
    let used = |table: &str| format!("tools = [\"t\"]\n[tools.t]\n{table}\n");
    check_tail(&used(""), &["no_builtin 7:8"]);
    check_tail(&used("buildin = \"clock.now\""), &["unknown_key 8:1"]);
    check_tail(&used("builtin = \"process.run\"\n[policy]\ndefault = \"allow\""), &["no_programs 7:8"]);
    check_tail(
        &used("builtin = \"process.run\"\nallow = [\"./a\"]\n[policy]\ndefault = \"allow\""),
        &["bad_program 9:10"],
    );
    check_tail(&used("builtin = \"fs.read\"\nallow = [\"make\"]"), &["key_without_use 9:1"]);
    check_tail(&used("builtin = \"clock.now\"\nroot = \".\""), &["key_without_use 9:1"]);
    for key in ["effect = \"pure\"", "timeout = \"1m\"", "output_limit_bytes = 9", "root = \".\""] {
        check_tail(&used(&format!("builtin = \"person.ask\"\n{key}")), &["key_without_use 9:1"]);
    }
    check_tail(&used("builtin = \"person.ask\"\n[policy]\ndefault = \"deny\""), &[]);
    check_tail(&used("builtin = \"fs.write\""), &["tool_will_ask 7:8"]);
    check_tail(&used("builtin = \"fs.write\"\n[policy]\ndefault = \"deny\""), &["tool_denied 7:8"]);
    check_tail(&used("builtin = \"fs.write\"\n[policy]\ndefault = \"allow\""), &[]);
    check_tail(
        &used("builtin = \"fs.read\"\ntimeout = \"0s\"\noutput_limit_bytes = 0"),
        &["out_of_range 9:11", "out_of_range 10:22"],
    );
    check_tail("[tools.t]\nbuiltin = \"clock.now\"\n", &["unused_tool 6:8"]);
}

#[test]
fn memory_and_knowledge() {
    let used = |table: &str| format!("tools = [\"t\"]\n[tools.t]\n{table}\n");
    for builtin in ["memory.put", "memory.search", "memory.forget"] {
        check_tail(&used(&format!("builtin = \"{builtin}\"")), &[]);
        check_tail(&used(&format!("builtin = \"{builtin}\"\nscope = \"session\"")), &[]);
        check_tail(&used(&format!("builtin = \"{builtin}\"\nscope = \"run\"")), &["unknown_value 9:9"]);
        check_tail(&used(&format!("builtin = \"{builtin}\"\nknowledge = \"k\"")), &["key_without_use 9:1"]);
        check_tail(&used(&format!("builtin = \"{builtin}\"\nroot = \".\"")), &["key_without_use 9:1"]);
    }
    check_tail(&used("builtin = \"knowledge.search\"\nknowledge = \"k-1_b\""), &[]);
    check_tail(&used("builtin = \"knowledge.search\"\nknowledge = 1"), &["wrong_type 9:13"]);
    check_tail(&used("builtin = \"fs.read\"\nscope = \"agent\""), &["key_without_use 9:1"]);
    let text = format!(
        "{HEAD}tools = [\"a\", \"b\", \"c\"]\n[tools.a]\nbuiltin = \"knowledge.search\"\n[tools.b]\n\
         builtin = \"knowledge.search\"\nknowledge = \"a b\"\nscope = \"agent\"\n[tools.c]\nbuiltin = \"memory.putt\"\n"
    );
    let said = Network::parse("n.toml", &text, &fixtures()).unwrap_err().0.render(false);
    insta::assert_snapshot!(said);
}

#[test]
fn templates() {
    let prompt = |prompt: &str| format!("[network]\nname = \"n\"\nentry = \"a\"\n[agents.a]\nprompt = {prompt}\n");
    check(&prompt("\"{{ input }} {{ vars.x }} {% for i in range(3) %}{{ i }}{{ loop.index }}{% endfor %}\""), &[]);
    check(&prompt("\"{{ input\""), &["bad_template 5:10"]);
    check(&prompt("\"\"\"\nfine\n  {{ input ) }}\n\"\"\""), &["bad_template 7:3"]);
    check(&prompt("'''{{ input ) }}\n'''"), &["bad_template 5:13"]);
    check(&prompt("\"\"\"\ntopic\n  {{ topic }}\n\"\"\""), &["unknown_variable 7:6"]);
    check_tail(
        "tools = [\"t\"]\n[tools.t]\nbuiltin = \"fs.read\"\nroot = \"{{ inptu }}\"\n",
        &["unknown_variable 9:12"],
    );
    check_tail("[sim.script]\na = [\"fine {{ results }}\", \"{% if %}\"]\n", &["bad_template 7:28"]);
}

#[test]
fn schemas_of_answers() {
    check_tail("output_schema = \"schemas/brief.json\"\n", &[]);
    for file in ["schemas/none.json", "schemas", "schemas/wrong.json", "schemas/torn.json"] {
        check_tail(&format!("output_schema = \"{file}\"\n"), &["bad_schema 6:17"]);
    }
}

#[test]
fn a_secret_in_the_file_is_never_shown() {
    for text in [
        "[models.m]\napi_key = \"sk-very-secret\"\n",
        "[models.m]\napikey = \"sk-very-secret\"\n",
        "[models.m]\napi_key = \"sk-very-secret\n",
        "[models.m]\napi_key = sk-very-secret\n",
        "[models]\nm = { api_key = \"sk-very-secret\", bogus = 1 }\n",
        "[models.m]\nbase_url = \"http://user:very-secret@x/v1\"\n",
        "[models.m]\n\"api_key\" = \"\"\"sk-very-secret\"\"\"\n",
        "[models.m]\napi_keys = [\"sk-very-secret\", 1]\n",
        "[models.m]\napi_keys = [\n\"sk-very-secret\", {}]\n",
        "[models.m]\nheaders = { authorization = \"Bearer very-secret\" }\n",
        "[models.m]\napi_key = \"env:sk-very-secret\"\n",
    ] {
        let invalid = Network::parse("n", &format!("{HEAD}{text}"), Path::new(".")).unwrap_err();
        assert!(!invalid.to_string().contains("very-secret"), "{invalid}");
    }
}

#[test]
fn control_characters_never_reach_the_terminal() {
    let text = format!("{HEAD}\"\\u001b[2J\\u0007\" = 1\n# \u{202e}\n\"a\tb\u{7}\u{1b}[31m\" = 2\n");
    let rendered = Network::parse("n\u{1b}", &text, Path::new(".")).unwrap_err().to_string();
    assert!(rendered.chars().all(|c| c == '\n' || !c.is_control()), "{rendered:?}");
}

#[test]
fn an_endless_line_is_cut_to_an_excerpt() {
    let text = format!("{HEAD}[tools.t]\n{}bogus = 1 # {}\n", " ".repeat(5_000), "x".repeat(100_000));
    let rendered = Network::parse("n", &text, Path::new(".")).unwrap_err().to_string();
    assert!(rendered.lines().all(|line| line.chars().count() < 400));
    assert!(rendered.contains("n:7:5001"), "{rendered}");
}

#[test]
fn a_flood_of_mistakes_is_bounded() {
    let keys: String = (0..20_000).map(|at| format!("k{at} = 1\n")).collect();
    let invalid = Network::parse("n", &format!("{HEAD}{keys}"), Path::new(".")).unwrap_err();
    assert!(invalid.0.diagnostics().len() <= 200);
    assert!(invalid.to_string().len() < 100_000);
}

#[test]
fn the_worst_case_is_the_least_of_what_bounds_it() {
    let worst =
        |tail: &str| Network::parse("n", &format!("{HEAD}{tail}"), Path::new(".")).unwrap().network.worst_case();
    let model = "[models.m]\nprovider = \"openai\"\nmodel = \"m\"\n";
    let price = "price = { input_usd_per_mtok = 1, output_usd_per_mtok = 4 }\n";

    let case = worst("");
    assert!(matches!(case.cost_usd, Bound::AtMost(cost, _) if cost == 0.0));
    assert!(matches!(case.tokens, Bound::Unbounded(_)) && matches!(case.time_ms, Bound::Unbounded(_)));
    assert!(matches!(case.model_calls, Bound::AtMost(20, why) if why.contains("max_steps")));

    let case = worst(model);
    assert!(matches!(case.cost_usd, Bound::Unbounded(why) if why.contains("no price")));
    let case = worst(&format!("{model}{price}"));
    assert!(matches!(case.cost_usd, Bound::Unbounded(why) if why.contains("cost_usd")));
    let case = worst(&format!(
        "{model}{price}[network.limits]\ntokens = 500_000\ncost_usd = 3\ndeadline = \"1m\"\nmodel_calls = 7\n"
    ));
    assert!(matches!(case.cost_usd, Bound::AtMost(cost, _) if cost == 2.0));
    assert!(matches!(case.tokens, Bound::AtMost(500_000, _)));
    assert!(matches!(case.model_calls, Bound::AtMost(7, _)));
    assert!(matches!(case.time_ms, Bound::AtMost(60_000, _)));
    let case = worst(&format!("{model}{price}[network.limits]\ntokens = 500_000\ncost_usd = 1\n"));
    assert!(matches!(case.cost_usd, Bound::AtMost(cost, _) if cost == 1.0));
}

/// A network as a Rust program builds it.
fn built() -> NetworkSpec {
    let mut spec = NetworkSpec::default();
    spec.network.name = "n".to_owned();
    spec.network.entry = "a".to_owned();
    let mut agent = AgentSpec::new("You answer.");
    agent.tools = vec!["own".to_owned()];
    spec.agents.insert("a".to_owned(), agent);
    spec.tools.insert("own".to_owned(), ToolSpec::default());
    spec.models.insert("m".to_owned(), ModelSpec { provider: Some(ProviderKind::Host), ..ModelSpec::default() });
    spec
}

#[test]
fn a_program_may_bring_its_own_tools_and_providers() {
    let network = Network::new(built()).unwrap();
    assert_eq!(
        network.model_of("a").map(|(name, model)| (name, model.provider)),
        Some(("m", Some(ProviderKind::Host)))
    );
    let stored = serde_json::to_string(&network).unwrap();
    assert_eq!(serde_json::from_str::<Network>(&stored).unwrap(), network);
    let schema = serde_json::json!({"type": "object"});
    let network = network.with_output_schema("a", schema.clone()).unwrap();
    assert_eq!(network.output_schema("a").map(|schema| &**schema), Some(&schema));
    assert!(network.clone().with_output_schema("b", schema).is_err());
    assert!(network.clone().with_output_schema("a", serde_json::json!({"type": 3})).is_err());
    let network = network.with_models(|models| models.clear()).unwrap();
    assert!(network.model_of("a").is_none() && network.output_schema("a").is_some());
}

#[test]
fn a_program_is_held_to_the_same_checks() {
    let mut spec = built();
    spec.network.limits.cost_usd = Some(f64::NAN);
    spec.agents["a"].tools.push("owm".to_owned());
    spec.agents["a"].max_steps = 0;
    spec.models["m"].price = Some(Price { input_usd_per_mtok: -1.0, output_usd_per_mtok: 1.0, ..Price::default() });
    let report = Network::new(spec).unwrap_err().0;
    insta::assert_snapshot!(found(&report).join("\n"), @r"
    out_of_range network.limits.cost_usd
    out_of_range models.m.price.input_usd_per_mtok
    out_of_range agents.a.max_steps
    unknown_tool agents.a.tools[1]
    ");
}

#[test]
fn a_network_is_drawn() {
    use provost::spec::graph::{Format, draw};
    let network = Network::load(&fixtures().join("everything.toml")).unwrap().network;
    insta::assert_snapshot!("graph_text", draw(&network, Format::Text));
    insta::assert_snapshot!("graph_mermaid", draw(&network, Format::Mermaid));
    insta::assert_snapshot!("graph_dot", draw(&network, Format::Dot));
    insta::assert_snapshot!("graph_svg", draw(&network, Format::Svg));
}

#[test]
fn drawings_are_escaped_and_hold_no_prompts() {
    use provost::spec::graph::{Format, draw};
    let mut spec = built();
    spec.network.name = "<b>\"x\" & `y`".to_owned();
    spec.models["m"].provider = Some(ProviderKind::Openai);
    spec.models["m"].model = Some("\"];<script>\\".to_owned());
    let network = Network::new(spec).unwrap();
    let route = "from = \"a\"\nto = \"b\"\nwhen = \"'|(]--> n1;%%{init}%%' in output\"";
    let routed = format!(
        "[network]\nname = \"n\"\nentry = \"a\"\n[agents.a]\nprompt = \"x\"\n[agents.b]\nprompt = \"x\"\n[[routes]]\n{route}\n"
    );
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("n.toml"), routed).unwrap();
    let drawn = draw(&Network::load(&dir.path().join("n.toml")).unwrap().network, Format::Mermaid);
    let way = drawn.lines().find(|line| line.contains("==>")).unwrap();
    let label = way.trim().strip_prefix("n0 ==>|").and_then(|rest| rest.strip_suffix("| n1")).unwrap();
    assert!(!label.contains(['|', '(', ')', '[', ']', '{', '}', '"', '<', '>']), "{drawn}");
    for format in [Format::Text, Format::Mermaid, Format::Dot, Format::Svg] {
        let drawn = draw(&network, format);
        assert!(!drawn.contains("You answer"));
        assert!(format == Format::Text || format == Format::Dot || !drawn.contains("<script"), "{drawn}");
    }
    assert!(draw(&network, Format::Dot).contains(r#"digraph "<b>\"x\" & `y`""#));
    assert!(draw(&network, Format::Svg).contains("&lt;b&gt;&quot;x&quot; &amp;"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is cut out of a valid file or put into it: it is read or refused, never a panic, and what is refused
    /// can be rendered.
    #[test]
    fn a_garbled_file_never_panics(
        edits in proptest::collection::vec((0.0..1.0f64, 0usize..30, "[\\PC\n\t\u{1}\\[\\]\"'{}=.#]{0,8}"), 1..6)
    ) {
        let mut text: Vec<char> = std::fs::read_to_string(fixtures().join("everything.toml")).unwrap().chars().collect();
        for (place, removed, added) in edits {
            let start = (place * text.len() as f64) as usize;
            let end = (start + removed).min(text.len());
            text.splice(start..end, added.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(invalid) = Network::parse("n", &text, &fixtures()) {
            let rendered = invalid.0.render(true);
            prop_assert!(!invalid.0.diagnostics().is_empty());
            prop_assert!(!rendered.is_empty());
            for diagnostic in invalid.0.diagnostics() {
                prop_assert_ne!(diagnostic.code, "malformed", "{}", text);
            }
        }
    }
}
