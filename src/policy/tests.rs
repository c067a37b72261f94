//! Decisions, and what is wrong with policies.

use serde_json::{Value, json};

use super::*;
use crate::budget::Amount;
use crate::run::Labels;
use crate::spec::Severity;

/// A network with agents `one` and `two`, models `fast` and `slow`, and tools of several kinds.
fn network(default: &str, policies: Option<&str>) -> Network {
    network_that_asks("", default, policies)
}

/// The same network, with `approvals` in its table of them.
fn network_that_asks(approvals: &str, default: &str, policies: Option<&str>) -> Network {
    let text = format!(
        r#"
        [network]
        name = "office"
        entry = "one"
        [policy]
        default = "{default}"
        [policy.approvals]
        {approvals}
        [models.fast]
        provider = "sim"
        [models.slow]
        provider = "sim"
        [agents.one]
        prompt = "x"
        model = {{ prefer = "fast" }}
        tools = ["read", "write", "run"]
        delegates_to = ["two"]
        hands_off_to = ["two"]
        [agents.two]
        prompt = "x"
        model = {{ prefer = "slow" }}
        tools = ["read"]
        [tools.read]
        builtin = "fs.read"
        labels = {{ reads = "private" }}
        [tools.write]
        builtin = "fs.write"
        [tools.run]
        builtin = "process.run"
        allow = ["git", "sh"]
        "#
    );
    let loaded = Network::parse("office.toml", &text, std::path::Path::new("."));
    let network = loaded.unwrap_or_else(|invalid| panic!("{invalid}")).network;
    match policies {
        Some(policies) => network.with_policy("office.cedar", policies),
        None => network,
    }
}

fn parameters() -> Parameters {
    let string = |names: &[&str]| {
        let fields: serde_json::Map<String, Value> =
            names.iter().map(|name| ((*name).to_owned(), json!({ "type": "string" }))).collect();
        json!({ "type": "object", "properties": fields, "required": names })
    };
    let argv = json!({
        "type": "object", "required": ["argv"],
        "properties": { "argv": { "type": "array", "items": { "type": "string" } }, "stdin": { "type": "string" } },
    });
    [("read", string(&["path"])), ("write", string(&["path", "text"])), ("run", argv)]
        .map(|(name, schema)| (name.to_owned(), schema))
        .into()
}

fn policies(default: &str, text: &str) -> Policies {
    Policies::new(&network(default, Some(text)), &parameters()).unwrap_or_else(|invalid| panic!("{invalid}"))
}

fn tool(name: &str, arguments: Value) -> Subject {
    Subject::Tool { tool: name.into(), arguments }
}

fn builtin(subject: &Subject) -> Option<Builtin> {
    match subject.name() {
        "read" => Some(Builtin::FsRead),
        "write" => Some(Builtin::FsWrite),
        "run" => Some(Builtin::ProcessRun),
        _ => None,
    }
}

fn asked<'a>(agent: &'a str, subject: &'a Subject, labels: &'a Labels) -> Asked<'a> {
    Asked {
        agent,
        subject,
        run: "01",
        tenant: "acme",
        session: None,
        labels,
        depth: 0,
        spent: Amount { cost_nano_usd: 1_000_000_001, tokens: 10, ..Amount::default() },
        now_ms: 1_795_000_000_000,
        approved: &[],
    }
}

fn decide(policies: &Policies, agent: &str, subject: &Subject) -> Decision {
    policies.decide(&asked(agent, subject, &Labels::default()), builtin(subject))
}

#[test]
fn without_policies_only_what_looks_or_stays_inside_is_allowed_whatever_the_default() {
    let tool = tool("t", Value::Null);
    for (default, expected) in [("allow", Permission::Allow), ("ask", Permission::Ask), ("deny", Permission::Deny)] {
        let policies =
            Policies::new(&network(default, None), &parameters()).unwrap_or_else(|invalid| panic!("{invalid}"));
        let decide = |builtin| policies.decide(&asked("one", &tool, &Labels::default()), builtin).permission;
        for builtin in
            [Builtin::FsRead, Builtin::MemoryPut, Builtin::MemoryForget, Builtin::KnowledgeSearch, Builtin::ReadAgain]
        {
            assert_eq!(decide(Some(builtin)), Permission::Allow);
        }
        for builtin in [Some(Builtin::FsWrite), Some(Builtin::ProcessRun), None] {
            assert_eq!(decide(builtin), expected);
        }
        let message = String::new();
        let other = Subject::Handoff { agent: "two".into(), message };
        assert_eq!(decide_of(&policies, &other), Permission::Allow);
    }
}

fn decide_of(policies: &Policies, subject: &Subject) -> Permission {
    decide(policies, "one", subject).permission
}

#[test]
fn a_permit_is_for_what_it_says_and_all_else_of_its_tool_is_denied() {
    let policies = policies(
        "ask",
        r#"
        @id("docs")
        permit (principal == Agent::"one", action == Action::"call_tool:write", resource)
        when { context.arguments.path like "docs/*" && context.arguments.text != "" };
        "#,
    );
    let write = |path: &str| tool("write", json!({ "path": path, "text": "x" }));
    let allowed = decide(&policies, "one", &write("docs/a"));
    assert_eq!((allowed.permission, allowed.by), (Permission::Allow, vec!["docs".into()]));
    let other = decide(&policies, "one", &write("src/a"));
    assert_eq!((other.permission, other.why.as_deref()), (Permission::Deny, Some("no policy permits this call")));
    assert_eq!(decide(&policies, "two", &write("docs/a")).permission, Permission::Deny, "it permits another agent");
    // What no permit is about follows the default.
    assert_eq!(decide(&policies, "one", &tool("run", json!({ "argv": ["git"] }))).permission, Permission::Ask);
    assert_eq!(decide(&policies, "one", &tool("read", json!({ "path": "x" }))).permission, Permission::Allow);
    let model = Subject::Model { model: "fast".into(), max_output_tokens: 10 };
    assert_eq!(decide(&policies, "one", &model).permission, Permission::Allow);
}

#[test]
fn to_forbid_goes_before_to_ask_and_that_before_to_permit() {
    let policies = policies(
        "allow",
        r#"
        @id("all") permit (principal, action in Action::"call_tool", resource);
        @id("writes") @ask("writing is for people to say") @approvers("ben, ana") @quorum("2") @expires("1h")
        permit (principal, action == Action::"call_tool:write", resource);
        @id("secret") @reason("nobody writes there")
        forbid (principal, action == Action::"call_tool:write", resource) when { context.arguments.path like "*.key" };
        "#,
    );
    let write = |path: &str| decide(&policies, "one", &tool("write", json!({ "path": path, "text": "" })));
    let asks = write("a");
    assert_eq!((asks.permission, asks.by), (Permission::Ask, vec!["writes".into()]));
    assert_eq!(asks.why.as_deref(), Some("policy asks a person first (`writes`: writing is for people to say)"));
    let terms = Terms {
        approvers: vec!["ana".into(), "ben".into()],
        quorum: Some(2),
        expires: Some(std::time::Duration::from_secs(3_600)),
    };
    assert_eq!(asks.terms, terms);
    let denied = write("a.key");
    assert_eq!((denied.permission, denied.by), (Permission::Deny, vec!["secret".into()]));
    assert_eq!(denied.why.as_deref(), Some("policy forbids this call (`secret`: nobody writes there)"));
    assert_eq!(decide(&policies, "one", &tool("run", json!({ "argv": ["sh"] }))).permission, Permission::Allow);
}

#[test]
fn policies_see_the_circumstances() {
    let held = |condition: &str, subject: &Subject, change: &dyn Fn(&mut Asked<'_>)| {
        let action = match subject {
            Subject::Tool { tool, .. } => format!("call_tool:{tool}"),
            Subject::Model { .. } => "call_model".to_owned(),
            _ => "delegate".to_owned(),
        };
        let text = format!("permit (principal, action == Action::\"{action}\", resource) when {{ {condition} }};");
        let policies = policies("deny", &text);
        let mut labels = Labels::default();
        labels.add("private");
        let mut asked = asked("one", subject, &labels);
        change(&mut asked);
        let decision = policies.decide(&asked, builtin(subject));
        assert!(decision.why.as_deref().is_none_or(|why| why == "no policy permits this call"), "{decision:?}");
        decision.permission == Permission::Allow
    };
    let run = tool("run", json!({ "argv": ["git", "push", "a b"] }));
    let nothing = |_: &mut Asked<'_>| {};
    for condition in [
        "context.program == \"git\"",
        "context.command == \"git push 'a b'\"",
        "context.arguments.argv.contains(\"push\")",
        "context.json like \"*\\\"push\\\"*\"",
        "context.labels.contains(\"private\") && !context.labels.contains(\"x\")",
        // A billionth of a dollar more than one is told as more than one.
        "context.spent.cost_usd.greaterThan(decimal(\"1.0\")) && context.spent.tokens == 10",
        "context.depth == 0 && !(context has session) && context.run == \"01\"",
        "context.now > datetime(\"2026-01-01\") && context.now < datetime(\"2027-01-01\")",
        "context.approved.isEmpty()",
        "principal in Tenant::\"acme\" && principal in Network::\"office\"",
        "resource has builtin && resource.builtin == \"process.run\" && !resource.looks_only",
    ] {
        assert!(held(condition, &run, &nothing), "{condition}");
    }
    let session = |asked: &mut Asked<'_>| asked.session = Some("s");
    assert!(held("context has session && context.session == \"s\"", &run, &session));
    assert!(!held("principal in Tenant::\"acme\"", &run, &|asked: &mut Asked<'_>| asked.tenant = "other"));
    let read = tool("read", json!({ "path": "x" }));
    assert!(held("resource.labels.contains(\"private\") && resource.looks_only", &read, &nothing));
    let model = Subject::Model { model: "fast".into(), max_output_tokens: 100 };
    assert!(held(
        "context.max_output_tokens <= 100 && resource has provider && resource.provider == \"sim\"",
        &model,
        &nothing
    ));
    let delegate = Subject::Delegate { agent: "two".into(), message: "hello".to_owned() };
    assert!(held("resource == Agent::\"two\" && context.message like \"hel*\"", &delegate, &nothing));
}

#[test]
fn what_can_not_be_evaluated_is_denied() {
    let text = r#"
        permit (principal, action, resource);
        @id("sum") forbid (principal, action == Action::"call_model", resource)
        when { context.max_output_tokens + 9223372036854775807 > 0 };
    "#;
    let policies = policies("allow", text);
    let model = Subject::Model { model: "fast".into(), max_output_tokens: 1 };
    let decision = decide(&policies, "one", &model);
    assert_eq!(decision.permission, Permission::Deny);
    assert!(decision.why.unwrap().contains("policy can't be asked about this call"), "overflow");
    // A value that Cedar has no type for is judged by no policy.
    let text = "permit (principal, action, resource) when { context.arguments.path != \"\" };";
    let text = text.replace("action,", "action == Action::\"call_tool:read\",");
    let policies = super::tests::policies("allow", &text);
    assert_eq!(decide(&policies, "one", &tool("read", json!({ "path": 3 }))).permission, Permission::Deny);
}

#[test]
fn two_policies_that_leave_nobody_to_ask_deny() {
    let policies = policies(
        "allow",
        r#"
        @ask("a") @approvers("ana") permit (principal, action == Action::"call_tool:write", resource);
        @ask("b") @approvers("ben") permit (principal, action == Action::"call_tool:write", resource);
        "#,
    );
    let decision = decide(&policies, "one", &tool("write", json!({ "path": "a", "text": "" })));
    assert_eq!(decision.permission, Permission::Deny);
    assert!(decision.why.unwrap().contains("leave nobody who could say yes"));
}

#[test]
fn the_hash_is_of_all_that_decides() {
    let hash = |default: &str, text: Option<&str>| {
        let made = Policies::new(&network(default, text), &parameters());
        made.unwrap_or_else(|invalid| panic!("{invalid}")).hash().clone()
    };
    let all = "permit (principal, action, resource);";
    assert_eq!(hash("ask", Some(all)), hash("ask", Some(all)));
    let mut seen = std::collections::BTreeSet::new();
    for (default, text) in [
        ("ask", None),
        ("deny", None),
        ("ask", Some(all)),
        ("deny", Some(all)),
        ("ask", Some(&format!("{all}\n") as &str)),
    ] {
        assert!(seen.insert(hash(default, text)));
    }
}

/// Returns what is said of a policy file: its errors, or its warnings.
fn said(text: &str) -> Vec<String> {
    said_in(&network("ask", Some(text)))
}

fn said_in(network: &Network) -> Vec<String> {
    let report = match Policies::check(network, &parameters()) {
        Ok(checked) => checked.warnings,
        Err(invalid) => invalid.0,
    };
    let one = |found: &crate::spec::Diagnostic| {
        let at = report.position(found).map_or_else(String::new, |at| format!("{}:{}", at.line, at.column));
        let kind = if found.severity == Severity::Error { "error" } else { "warning" };
        format!("{at} {kind} {}: {} ({})", found.code, found.message, found.help)
    };
    report.diagnostics().iter().map(one).collect()
}

#[test]
fn what_is_wrong_with_policies_is_said_with_its_place() {
    insta::assert_snapshot!(
        [
            "permit (principal, action, resource)",
            "permit (principal, action == Action::\"call_tool:raed\", resource);",
            "permit (principal == Agent::\"on\", action, resource);",
            "permit (principal, action,\n  resource == Tool::\"wirte\");",
            "permit (principal, action == Action::\"call_tool:write\", resource)\nwhen { context.arguments.pth == \"x\" };",
            "permit (principal, action == Action::\"call_tool:write\", resource)\nwhen { context.arguments.path > 3 };",
            "permit (principal, action in Action::\"call_tool\", resource)\nwhen { context.arguments.path == \"x\" };",
            "permit (principal, action in Action::\"call_tool\", resource)\nwhen { context.arguments.pth == \"x\" || context.jsn == \"x\" };",
            "forbid (principal, action, resource)\nwhen { context.depht > 1 || resource.labls.contains(\"x\") };",
            "@id(\"a\") permit (principal, action == Action::\"call_tool:write\", resource)\nwhen { context.arguments.path == 3 };",
            "@id(\"a\") permit (principal, action, resource);\n@id(\"a\") forbid (principal, action, resource) when { context.depth > 9 };",
            "@aks(\"x\") permit (principal, action, resource);",
            "@ask(\"x\") forbid (principal, action, resource);",
            "@quorum(\"2\") permit (principal, action, resource);",
            "@ask(\"x\") @quorum(\"none\") @expires(\"soon\") @approvers(\"a,,b\") permit (principal, action, resource);",
            "@ask(\"x\") @quorum(\"3\") @approvers(\"a, b\") permit (principal, action, resource);",
            "@ask(\"x\") @approvers(\"ana\\u{202e}, b\\u{200b}en\") permit (principal, action, resource);",
            "@id(\"a\\u{200b}\") permit (principal, action, resource);",
            "\n  @id(\"a\")\n  permit (principal, action, resource);\n@id(\"a\") permit (principal, action, resource);",
            "permit (principal == ?principal, action, resource);",
            "@id(\"some\") permit (principal, action == Action::\"call_tool:write\", resource);\n@id(\"none\") forbid (principal, action in Action::\"call_tool\", resource);",
            "permit (principal, action == Action::\"call_tool:write\", resource) when { context.depth < 1 && context.depth > 1 };\nforbid (principal, action, resource) when { false };",
        ]
        .map(|text| format!("{text}\n    {}", said(text).join("\n    ")))
        .join("\n\n")
    );
}

#[test]
fn terms_that_nobody_can_meet_are_found_whoever_says_them() {
    let said = |approvals: &str, annotations: &str| {
        let text = format!("@ask(\"x\")\n{annotations}\npermit (principal, action, resource);");
        said_in(&network_that_asks(approvals, "ask", Some(&text)))
    };
    let in_network = "2 have to say yes (by `[policy.approvals]`), and 1 may";
    let help = "name more approvers, or give the policy a `@quorum` of its own";
    assert_eq!(said("quorum = 2", "@approvers(\"ana\")"), [format!("2:1 error no_quorum: {in_network} ({help})")]);
    let by_policy = "2:1 error no_quorum: 2 have to say yes, and 1 may (by `[policy.approvals]`)";
    let help = "name more approvers, or lower the quorum";
    assert_eq!(said("approvers = [\"ana\"]", "@quorum(\"2\")"), [format!("{by_policy} ({help})")]);
    for (approvals, annotations) in [
        ("quorum = 2", "@approvers(\"ana\") @quorum(\"1\")"),
        ("quorum = 2", "@approvers(\"ana, ben\")"),
        ("quorum = 2", ""),
        ("approvers = [\"ana\"]", "@quorum(\"2\") @approvers(\"ben, cy\")"),
    ] {
        assert_eq!(said(approvals, annotations), [""; 0], "{approvals} {annotations}");
    }
}

/// Says what a decision must be, by Cedar's words alone: thirty lines that know nothing of slices or annotations' order.
mod oracle {
    use crate::spec::Permission;

    /// A policy as it was drawn: which calls it is about, whether its condition holds, and what it does.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Rule {
        pub(super) forbids: bool,
        pub(super) asks: bool,
        /// The agent, the action (a tool, or all tools), and the resource that it names; none for all.
        pub(super) agent: Option<usize>,
        pub(super) tool: Option<usize>,
        pub(super) path: Option<usize>,
    }

    pub(super) fn decide(rules: &[Rule], agent: usize, tool: usize, path: usize, default: Permission) -> Permission {
        let about = |rule: &&Rule| rule.tool.is_none_or(|of| of == tool);
        let holds = |rule: &&Rule| {
            about(rule) && rule.agent.is_none_or(|of| of == agent) && rule.path.is_none_or(|of| of == path)
        };
        if rules.iter().filter(holds).any(|rule| rule.forbids) {
            return Permission::Deny;
        }
        let asks: Vec<bool> = rules.iter().filter(holds).map(|rule| rule.asks).collect();
        match asks.first() {
            Some(_) if asks.contains(&true) => Permission::Ask,
            Some(_) => Permission::Allow,
            None if rules.iter().filter(about).any(|rule| !rule.forbids) => Permission::Deny,
            // The second tool only looks.
            None if tool == 1 => Permission::Allow,
            None => default,
        }
    }
}

/// Draws numbers that are the same each time.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        // Sebastiano Vigna's splitmix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn option(&mut self, bound: usize) -> Option<usize> {
        let drawn = self.below(bound + 1);
        (drawn > 0).then(|| drawn - 1)
    }
}

const AGENTS: [&str; 2] = ["one", "two"];
const TOOLS: [&str; 3] = ["write", "read", "run"];
const PATHS: [&str; 3] = ["a", "b", "c"];

fn written(rule: oracle::Rule, draw: &mut Draw) -> String {
    let ask = if rule.asks && !rule.forbids { "@ask(\"why\") " } else { "" };
    let effect = if rule.forbids { "forbid" } else { "permit" };
    // The same head is written in several ways.
    let principal = match (rule.agent, draw.below(3)) {
        (Some(agent), 0) => format!("principal in Agent::\"{}\"", AGENTS[agent]),
        (Some(agent), _) => format!("principal == Agent::\"{}\"", AGENTS[agent]),
        (None, 0) => "principal in Network::\"office\"".to_owned(),
        (None, 1) => "principal is Agent in Tenant::\"acme\"".to_owned(),
        (None, _) => "principal".to_owned(),
    };
    let (action, resource) = match (rule.tool, draw.below(3)) {
        (Some(tool), 0) => (format!("action in [Action::\"call_tool:{}\"]", TOOLS[tool]), "resource".to_owned()),
        (Some(tool), 1) => {
            ("action in Action::\"call_tool\"".to_owned(), format!("resource == Tool::\"{}\"", TOOLS[tool]))
        }
        (Some(tool), _) => (format!("action == Action::\"call_tool:{}\"", TOOLS[tool]), "resource is Tool".to_owned()),
        (None, 0) => ("action in Action::\"call_tool\"".to_owned(), "resource".to_owned()),
        (None, _) => ("action".to_owned(), "resource is Tool".to_owned()),
    };
    let condition = match rule.path {
        Some(path) => format!(" when {{ context.json like \"*:\\\"{}\\\"*\" }}", PATHS[path]),
        None => String::new(),
    };
    format!("{ask}{effect} ({principal}, {action}, {resource}){condition};")
}

/// Together, a million.
const SETS: usize = 4_000;
const REQUESTS: usize = 250;

#[test]
fn a_million_random_decisions_are_those_of_the_oracle() {
    // Unoptimised, a million decisions take two minutes: a twentieth is drawn here, all of them where this says so.
    let sets = if std::env::var_os("PROVOST_ORACLE_ALL").is_some() { SETS } else { SETS / 20 };
    let mut draw = Draw(7);
    let (networks, parameters) = (["allow", "ask", "deny"].map(|default| network(default, None)), parameters());
    let (mut denied_by_forbid, mut decisions) = (0_u64, [0_u64; 3]);
    for _ in 0..sets {
        let drawn = draw.below(3);
        let default = [Permission::Allow, Permission::Ask, Permission::Deny][drawn];
        let count = draw.below(7);
        let rules: Vec<oracle::Rule> = (0..count)
            .map(|_| oracle::Rule {
                forbids: draw.below(3) == 0,
                asks: draw.below(3) == 0,
                agent: draw.option(2),
                tool: draw.option(3),
                path: draw.option(3),
            })
            .collect();
        let text: Vec<String> = rules.iter().map(|rule| written(*rule, &mut draw)).collect();
        // What can never hold is only warned of, and there may be any.
        let network = networks[drawn].clone().with_policy("office.cedar", text.join("\n"));
        let policies = Policies::new(&network, &parameters).unwrap_or_else(|invalid| panic!("{invalid}"));
        for _ in 0..REQUESTS {
            let (agent, tool_of, path) = (draw.below(2), draw.below(3), draw.below(3));
            let arguments = match TOOLS[tool_of] {
                "write" => json!({ "path": PATHS[path], "text": "" }),
                "read" => json!({ "path": PATHS[path] }),
                _ => json!({ "argv": [], "stdin": PATHS[path] }),
            };
            let subject = tool(TOOLS[tool_of], arguments);
            let decision = decide(&policies, AGENTS[agent], &subject);
            let expected = oracle::decide(&rules, agent, tool_of, path, default);
            assert_eq!(decision.permission, expected, "{text:#?} {} {subject:?}: {decision:?}", AGENTS[agent]);
            denied_by_forbid += u64::from(expected == Permission::Deny && !decision.by.is_empty());
            decisions[expected as usize] += 1;
        }
    }
    assert!(denied_by_forbid > 1_000 && decisions.iter().all(|count| *count > 1_000), "{decisions:?}");
}
