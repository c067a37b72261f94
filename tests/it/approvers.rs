//! Approvers: who has to be asked about what, how they hear of it, and what two of them say at the same moment.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Child;

use provost::run::{Event, NotApproved, Pattern, Ruling, Status, Subject};
use provost::runtime::{Host, Report, Supposed, check_policies};
use provost::spec::Permission;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::approvals::{Office, Silent, WRITER, YES, ballot, call, count, is_as_it_was, resume, whole, why};
use crate::process::{at_a_terminal, finished, output, provost, read_until, wait};

/// Anybody is asked about documents, and ana about keys.
const TWO_POLICIES: &str = r#"
@id("docs") @ask("a document") @approvers("ben, cy")
permit (principal, action == Action::"call_tool:write", resource) when { context.arguments.path like "docs*" };
@id("keys") @ask("a key") @approvers("ana, cy") @quorum("2")
permit (principal, action == Action::"call_tool:write", resource) when { context.arguments.path like "key*" };
"#;

/// An agent that runs something.
const RUNNER: &str = r#"
[network]
name = "office"
entry = "runner"
[agents.runner]
prompt = "x"
tools = ["run"]
[tools.run]
builtin = "process.run"
root = "out"
allow = ["sh"]
in_flight = 1
[sim.script]
runner = ['{"calls": [{"name": "run", "arguments": {"argv": SCRIPT}}]}', 'done']
"#;

/// An agent that writes one file after the other.
fn writes(paths: &[&str]) -> String {
    let one = |path: &&str| {
        format!(r#"'{{"calls": [{{"name": "write", "arguments": {{"path": "{path}", "text": "x"}}}}]}}'"#)
    };
    let steps: Vec<String> = paths.iter().map(one).collect();
    let (head, _) = WRITER.split_once("writer = [").unwrap();
    format!("{head}writer = [{}, '{{{{ results[0].content }}}}']", steps.join(", "))
}

async fn parked(host: &Host, office: &Office, policies: &str) -> Report {
    let network = office.network().with_policy("n.cedar", policies);
    host.start(network, office.request()).await.unwrap().wait().await.unwrap()
}

#[tokio::test]
async fn what_another_policy_asks_about_is_for_those_to_say_whom_it_names() {
    // Who may say yes to a document makes a key of it.
    let office = Office::new(&writes(&["docs.txt"]));
    let host = office.host();
    let report = parked(&host, &office, TWO_POLICIES).await;
    let edit = Ruling::Edit { arguments: json!({ "path": "key.txt", "text": "x" }) };
    host.approve(&report.run, None, &ballot("ben", edit)).await.unwrap();
    let asked = resume(&host, &report.run).await;
    assert_eq!((asked.status, office.written("key.txt")), (Status::AwaitingApproval, None));
    let request = asked.approvals[0].request.as_ref().unwrap();
    assert_eq!(request.again.as_deref(), Some("which policies ask"));
    assert!(*request.policies == ["keys".into()] && request.quorum == 2, "{request:?}");
    let refused = why(host.approve(&report.run, None, &ballot("ben", YES)).await);
    assert!(matches!(refused, NotApproved::NoApprover { .. }), "{refused}");
    for by in ["ana", "cy"] {
        host.approve(&report.run, None, &ballot(by, YES)).await.unwrap();
    }
    let done = resume(&host, &report.run).await;
    assert!(done.answer_text().unwrap().starts_with("[a person changed the arguments to"), "{:?}", done.answer);
    assert!(office.written("key.txt").is_some() && office.written("docs.txt").is_none());
    is_as_it_was(&host, &report.run);

    // Nor does a pattern reach what others are to be asked about.
    let office = Office::new(&writes(&["docs.txt", "docs.md", "key.txt"]));
    let host = office.host();
    let report = parked(&host, &office, TWO_POLICIES).await;
    let pattern = Pattern { like: [("path".to_owned(), json!("*"))].into(), until_ms: None };
    let like = Ruling::Approve { standing: Some(pattern) };
    host.approve(&report.run, None, &ballot("cy", like)).await.unwrap();
    let asked = resume(&host, &report.run).await;
    assert_eq!((asked.status, asked.approvals[0].call.clone()), (Status::AwaitingApproval, call("writer#3.0")));
    assert!(office.written("docs.md").is_some() && office.written("key.txt").is_none());
}

#[tokio::test]
async fn what_was_approved_is_known_by_what_it_is_and_once_it_is_made() {
    // The first call is made into one that is forbidden, and the second one may be made after one like it.
    let office = Office::new(&writes(&["docs.txt", "after.txt"]));
    let host = office.host();
    let after = r#"
        @ask("writing") permit (principal, action == Action::"call_tool:write", resource) unless { context.arguments.path like "after*" };
        @id("keys") forbid (principal, action == Action::"call_tool:write", resource) when { context.arguments.path like "key*" };
        permit (principal, action == Action::"call_tool:write", resource) when { context.approved.contains("write") };
    "#;
    let report = parked(&host, &office, after).await;
    let edit = Ruling::Edit { arguments: json!({ "path": "key.txt", "text": "x" }) };
    host.approve(&report.run, None, &ballot("ben", edit)).await.unwrap();
    let done = resume(&host, &report.run).await;
    assert!(done.answer_text().unwrap().contains("no policy permits this call"), "{:?}", done.answer);
    assert!(office.written("after.txt").is_none() && office.written("key.txt").is_none());
    // Its agent is told what was made of what it wanted.
    let past = whole(&host, &report.run);
    let says = |event: &Event| match event {
        Event::ToolReturned { message, .. } => format!("{message:?}").contains("a person had changed the arguments to"),
        _ => false,
    };
    assert_eq!(count(&past, says), 1);
    let report = parked(&host, &office, after).await;
    host.approve(&report.run, None, &ballot("ben", YES)).await.unwrap();
    assert_eq!(resume(&host, &report.run).await.status, Status::Done);
    assert!(office.written("after.txt").is_some());
}

#[tokio::test]
async fn a_model_that_was_told_what_is_labelled_is_called_once_somebody_said_yes() {
    let network = WRITER.replace("root = \"out\"", "root = \"out\"\nlabels = { reads = \"private\" }");
    let office = Office::new(&network);
    let host = office.host();
    let asks = r#"
        permit (principal, action == Action::"call_tool:write", resource);
        permit (principal, action == Action::"call_model", resource) unless { context.labels.contains("private") };
        @ask("private") permit (principal, action == Action::"call_model", resource) when { context.labels.contains("private") };
    "#;
    let report = parked(&host, &office, asks).await;
    assert_eq!((report.status, report.approvals[0].call.clone()), (Status::AwaitingApproval, call("writer#2")));
    host.approve(&report.run, None, &ballot("ana", YES)).await.unwrap();
    assert_eq!(resume(&host, &report.run).await.status, Status::Done);
    is_as_it_was(&host, &report.run);
}

#[tokio::test]
async fn what_is_spent_while_a_call_waits_for_its_turn_counts() {
    // Two calls are decided on before either is made, and one of them at a time may be.
    let both = WRITER.replace("[sim.script]", "in_flight = 1\n[sim.script]");
    let (head, _) = both.split_once("writer = [").unwrap();
    let one = |path: &str| format!(r#"{{"name": "write", "arguments": {{"path": "{path}", "text": "x"}}}}"#);
    let calls = format!(r#"'{{"calls": [{}, {}]}}'"#, one("a"), one("b"));
    let network = format!("{head}writer = [{calls}, '{{{{ results | map(attribute=\"content\") | join(\" | \") }}}}']");
    let office = Office::new(&network);
    let host = office.host();
    let one_alone = r#"
        permit (principal, action, resource);
        @id("one") forbid (principal, action == Action::"call_tool:write", resource) when { context.spent.tool_calls > 0 };
    "#;
    let report = parked(&host, &office, one_alone).await;
    let answer = report.answer_text().unwrap();
    assert!(answer.contains("policy forbids this call (`one`)"), "{answer}");
    assert_eq!(office.written("a").is_some() as u8 + office.written("b").is_some() as u8, 1);
}

/// All but keys may be written.
const NO_KEYS: &str = r#"
permit (principal, action == Action::"call_tool:write", resource);
@id("keys") forbid (principal, action == Action::"call_tool:write", resource) when { context.arguments.path like "keys/*" };
"#;

#[tokio::test]
async fn a_path_is_decided_on_by_where_it_leads_however_it_is_written() {
    let mut office = Office::new("");
    let host = office.host();
    let keys = office.path("out/keys");
    fs::create_dir_all(office.path("out/docs")).unwrap();
    fs::create_dir_all(&keys).unwrap();
    std::os::unix::fs::symlink("../keys", office.path("out/docs/link")).unwrap();
    let absolute = keys.join("e").display().to_string();
    for (path, is_denied) in [
        ("keys/a", true),
        ("./keys/b", true),
        ("keys//c", true),
        ("./././keys/new/d", true),
        (absolute.as_str(), true),
        ("docs/link/g", true),
        ("docs/../keys/f", true),
        ("keys", false),
        ("docs/keys/a", false),
    ] {
        office.network = writes(&[path]);
        let report = parked(&host, &office, NO_KEYS).await;
        let answer = report.answer_text().unwrap();
        let is_refused = answer.contains("policy forbids this call (`keys`)") || answer.contains("`..` in it");
        assert_eq!(is_refused, is_denied, "{path}: {answer}");
        // It is explained as it was decided.
        let network = office.network().with_policy("n.cedar", NO_KEYS);
        let supposed = Supposed::of_past(&whole(&host, &report.run), &network, &call("writer#1.0")).unwrap();
        let again = supposed.ask(&network, &check_policies(&network).unwrap().policies);
        assert_eq!(again.permission == Permission::Deny, answer.contains("policy forbids"), "{path}");
    }
    assert_eq!(fs::read_dir(&keys).unwrap().count(), 0);
    assert!(office.written("docs/keys/a").is_some());
}

#[tokio::test]
async fn what_was_approved_is_not_done_elsewhere_where_a_link_has_come_meanwhile() {
    let office = Office::new(&writes(&["docs/new.txt"]));
    fs::create_dir_all(office.path("out/keys")).unwrap();
    let host = office.host();
    let report = office.start(&host).await;
    host.approve(&report.run, None, &ballot("ana", YES)).await.unwrap();
    std::os::unix::fs::symlink("keys", office.path("out/docs")).unwrap();
    let asked = resume(&host, &report.run).await;
    assert_eq!(asked.status, Status::AwaitingApproval);
    let again = asked.approvals[0].request.as_ref().unwrap().again.clone().unwrap();
    assert!(again.contains("out/docs/new.txt") && again.contains("out/keys/new.txt"), "{again}");
    assert!(office.written("keys/new.txt").is_none());
    // The tool's whole root, too.
    host.approve(&report.run, None, &ballot("ana", YES)).await.unwrap();
    fs::rename(office.path("out"), office.path("away")).unwrap();
    std::os::unix::fs::symlink("away", office.path("out")).unwrap();
    assert_eq!(resume(&host, &report.run).await.status, Status::AwaitingApproval);
    assert!(office.written("keys/new.txt").is_none());
}

#[tokio::test]
async fn what_is_approved_of_meanwhile_counts_for_a_call_that_waits() {
    let both = WRITER.replace("[sim.script]", "[policy]\nfile = \"n.cedar\"\n[sim.script]");
    let (head, _) = both.split_once("writer = [").unwrap();
    let one = |path: &str| format!(r#"{{"name": "write", "arguments": {{"path": "{path}", "text": "x"}}}}"#);
    let calls = format!(r#"'{{"calls": [{}, {}]}}'"#, one("a"), one("b"));
    let network = format!("{head}writer = [{calls}, '{{{{ results | map(attribute=\"content\") | join(\" | \") }}}}']");
    let office = Office::new(&network);
    let once = r#"@ask("once") permit (principal, action == Action::"call_tool:write", resource) when { !context.approved.contains("write") };"#;
    fs::write(office.path("n.cedar"), once).unwrap();
    // Somebody is there, so that both wait in a process that lives.
    let host = office.host().with_approver(Silent);
    let run = host.start(office.network(), office.request()).await.unwrap();
    let mut events = run.events();
    for _ in 0..2 {
        while !matches!(events.next().await.unwrap().event, Event::ApprovalRequested { .. }) {}
    }
    host.approve(run.id(), Some(call("writer#1.0")), &ballot("ana", YES)).await.unwrap();
    while !matches!(events.next().await.unwrap().event, Event::ToolReturned { .. }) {}
    host.approve(run.id(), Some(call("writer#1.1")), &ballot("ana", YES)).await.unwrap();
    let answer = run.wait().await.unwrap().answer_text().unwrap();
    assert!(answer.contains("no policy permits this call"), "{answer}");
    assert!(office.written("a").is_some() && office.written("b").is_none());
}

#[tokio::test]
async fn what_may_be_read_is_not_another_file_where_a_link_has_changed() {
    let network = writes(&["docs/link"]).replace("fs.write", "fs.read").replace(r#", "text": "x""#, "");
    let office = Office::new(&network);
    for (name, text) in [("docs/plain", "plain"), ("keys", "secret")] {
        fs::create_dir_all(office.path("out/docs")).unwrap();
        fs::write(office.path("out").join(name), text).unwrap();
    }
    let link = office.path("out/docs/link");
    std::os::unix::fs::symlink("plain", &link).unwrap();
    let host = office.host();
    let asks = r#"@ask("reading") permit (principal, action == Action::"call_tool:write", resource);"#;
    let report = parked(&host, &office, asks).await;
    let seen = report.approvals[0].request.as_ref().unwrap().seen.clone().unwrap();
    assert!(matches!(&*seen, Subject::Tool { arguments, .. } if arguments["path"] == "docs/plain"), "{seen:?}");
    host.approve(&report.run, None, &ballot("ana", YES)).await.unwrap();
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("../keys", &link).unwrap();
    assert_eq!(resume(&host, &report.run).await.status, Status::AwaitingApproval);
    // What a person writes leads where it leads, however it is written.
    let edit = Ruling::Edit { arguments: json!({ "path": "./docs/plain" }) };
    host.approve(&report.run, None, &ballot("ana", edit)).await.unwrap();
    let done = resume(&host, &report.run).await;
    assert!(done.answer_text().unwrap().contains("plain") && done.status == Status::Done, "{:?}", done.answer);
}

#[tokio::test]
async fn a_pattern_that_ends_while_its_call_waits_for_its_turn_lets_it_happen_no_more() {
    let steps = r#"["sh", "one.sh"]}}]}', '{"calls": [{"name": "run", "arguments": {"argv": ["sh", "slow.sh"]}}, {"name": "run", "arguments": {"argv": ["sh", "two.sh"]"#;
    let office = Office::new(&RUNNER.replace("SCRIPT", steps));
    for (name, script) in
        [("one.sh", ""), ("slow.sh", "sleep 3; echo slow >> log"), ("two.sh", "sleep 3; echo two >> log")]
    {
        fs::write(office.path("out").join(name), script).unwrap();
    }
    let host = office.host();
    let report = office.start(&host).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let like = [("argv".to_owned(), json!(["sh", "*"]))].into();
    let pattern = Pattern { like, until_ms: Some(now.as_millis() as u64 + 1_500) };
    let ruling = Ruling::Approve { standing: Some(pattern) };
    host.approve(&report.run, None, &ballot("ana", ruling)).await.unwrap();
    // Whichever is second gets its turn after that, and both do where all is slow.
    let asked = resume(&host, &report.run).await;
    assert_eq!(asked.status, Status::AwaitingApproval);
    assert!(office.written("log").unwrap_or_default().lines().count() < 2);
}

#[tokio::test]
async fn a_program_is_not_started_elsewhere_where_its_root_is_another_meanwhile() {
    let office = Office::new(&RUNNER.replace("SCRIPT", r#"["sh", "-c", "echo x > made"]"#));
    fs::create_dir(office.path("other")).unwrap();
    let host = office.host();
    let report = office.start(&host).await;
    host.approve(&report.run, None, &ballot("ana", YES)).await.unwrap();
    fs::rename(office.path("out"), office.path("away")).unwrap();
    std::os::unix::fs::symlink("other", office.path("out")).unwrap();
    let asked = resume(&host, &report.run).await;
    assert_eq!((asked.status, office.written("made")), (Status::AwaitingApproval, None));
    let again = asked.approvals[0].request.as_ref().unwrap().again.clone().unwrap();
    assert!(again.contains("/out`") && again.contains("/other`"), "{again}");
}

#[tokio::test]
async fn what_is_shown_is_where_it_is_done_though_the_root_has_another_name_meanwhile() {
    let office = Office::new(&writes(&["a"]));
    fs::create_dir(office.path("other")).unwrap();
    let host = office.host().with_approver(Silent);
    let run = host.start(office.network(), office.request()).await.unwrap();
    let mut events = run.events();
    while !matches!(events.next().await.unwrap().event, Event::ApprovalRequested { .. }) {}
    fs::rename(office.path("out"), office.path("away")).unwrap();
    std::os::unix::fs::symlink("other", office.path("out")).unwrap();
    host.approve(run.id(), None, &ballot("ana", YES)).await.unwrap();
    assert_eq!(run.wait().await.unwrap().status, Status::Done);
    assert!(office.path("away/a").exists() && !office.path("other/a").exists(), "it is done where it was shown");
}

#[tokio::test]
async fn a_script_that_changes_while_its_approved_call_waits_for_its_turn_is_asked_about_again() {
    let two = r#"["sh", "one.sh"]}}, {"name": "run", "arguments": {"argv": ["sh", "two.sh"]"#;
    let office = Office::new(&RUNNER.replace("SCRIPT", two));
    // Whichever is first changes the other one.
    for (name, other) in [("one.sh", "two.sh"), ("two.sh", "one.sh")] {
        let script = format!("sleep 0.3; echo {name} >> log; echo 'echo evil >> log' > {other}\n");
        fs::write(office.path("out").join(name), script).unwrap();
    }
    let host = office.host();
    let report = office.start(&host).await;
    assert_eq!(report.approvals.len(), 2);
    for approval in &report.approvals {
        host.approve(&report.run, Some(approval.call.clone()), &ballot("ana", YES)).await.unwrap();
    }
    let asked = resume(&host, &report.run).await;
    assert_eq!((asked.status, asked.approvals.len()), (Status::AwaitingApproval, 1));
    let again = asked.approvals[0].request.as_ref().unwrap().again.clone().unwrap();
    assert!(again.contains(".sh`"), "{again}");
    assert_eq!(office.written("log").unwrap().lines().count(), 1);
}

/// Tells by a program that appends what it reads to `told`, and then does as `then` says.
fn notifying(office: &Office, then: &str) -> String {
    let told = office.path("told");
    let told = told.to_str().unwrap();
    format!("{WRITER}\n[policy.approvals]\nnotify = {{ command = [\"sh\", \"-c\", \"cat >> {told}; {then}\"] }}\n")
}

fn told(office: &Office) -> Vec<Value> {
    let text = fs::read_to_string(office.path("told")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_program_tells_approvers_once() {
    let mut office = Office::new(WRITER);
    office.network = notifying(&office, "true");
    let host = office.host();
    let report = office.start(&host).await;
    let asked = &report.approvals[0];
    let heard = told(&office);
    let [heard] = heard.as_slice() else { panic!("{heard:?}") };
    assert_eq!(
        [&heard["run"], &heard["tenant"], &heard["network"], &heard["agent"], &heard["call"], &heard["digest"]],
        [
            &json!(report.run),
            &json!("acme"),
            &json!("office"),
            &json!("writer"),
            &json!("writer#1.0"),
            &json!(asked.digest)
        ]
    );
    assert_eq!(heard["wants"]["tool"]["arguments"]["path"], "a.txt");
    // Who was told is not told again, however often the run is taken up.
    resume(&host, &report.run).await;
    assert_eq!(told(&office).len(), 1);
    let past = whole(&host, &report.run);
    assert_eq!(count(&past, |event| matches!(event, Event::ApproversTold { error: None, .. })), 1);
}

#[tokio::test]
async fn approvers_who_can_not_be_told_are_on_record_and_the_run_waits_all_the_same() {
    let mut office = Office::new(WRITER);
    office.network = notifying(&office, "echo nobody home >&2; exit 3");
    let host = office.host();
    let report = office.start(&host).await;
    assert_eq!((report.status, told(&office).len()), (Status::AwaitingApproval, 3), "it is tried three times");
    let past = whole(&host, &report.run);
    let said = |event: &Event| match event {
        Event::ApproversTold { error, .. } => error.as_deref().map(str::to_owned),
        _ => None,
    };
    let said: Vec<String> = past.events.iter().filter_map(|envelope| said(&envelope.event)).collect();
    assert_eq!(said, ["the program sh: exit status: 3"]);
}

/// Answers one request after the other with these codes; returns what it was asked.
async fn webhook(listener: TcpListener, codes: &[u16]) -> Vec<String> {
    let mut asked = Vec::new();
    for code in codes {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = String::new();
        while !request.ends_with("}\n") && !request.ends_with('}') {
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).await.unwrap();
            request.push_str(std::str::from_utf8(&piece[..count]).unwrap());
        }
        let answer = format!("HTTP/1.1 {code} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        asked.push(request);
    }
    asked
}

#[tokio::test]
async fn a_webhook_tells_approvers_and_its_secrets_are_told_nobody_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut office = Office::new(WRITER);
    let kept = office.path("address");
    fs::write(&kept, format!("http://{address}/hook/s3cr3t\n")).unwrap();
    let notify = format!("notify = {{ url = \"file:{}\", bearer_token = \"env:PATH\" }}", kept.display());
    office.network = format!("{WRITER}\n[policy.approvals]\n{notify}\n");
    let host = office.host();
    let (report, asked) = tokio::join!(office.start(&host), webhook(listener, &[500, 200]));
    assert_eq!((report.status, asked.len()), (Status::AwaitingApproval, 2));
    let (head, body) = asked[1].split_once("\r\n\r\n").unwrap();
    let token = std::env::var("PATH").unwrap();
    assert!(head.starts_with("POST /hook/s3cr3t ") && head.contains(&format!("Bearer {token}")), "{head}");
    assert_eq!(serde_json::from_str::<Value>(body).unwrap()["call"], "writer#1.0");

    // Where nobody listens, neither the address nor the token is said.
    let report = office.start(&host).await;
    assert_eq!(report.status, Status::AwaitingApproval);
    let past = whole(&host, &report.run);
    let is_failed = |event: &Event| matches!(event, Event::ApproversTold { error: Some(_), .. });
    assert_eq!(count(&past, is_failed), 1);
    for envelope in &past.events {
        let text = format!("{:?}", envelope.event);
        assert!(!text.contains("s3cr3t") && !text.contains(&token), "{text}");
    }
}

/// A directory in which a run awaits approval; nothing else is there.
fn awaiting(network: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    fs::write(dir.path().join("n.toml"), network).unwrap();
    dir
}

/// Starts commands that say something of the same call at the same moment; returns how each ended.
fn at_once(dir: &Path, commands: usize) -> Vec<(Option<i32>, String, String)> {
    let start = |number: usize| {
        let (name, number) = (format!("p{number}"), number % 2);
        let mut command = provost(dir);
        match number {
            0 => command.args(["approvals", "approve", "last", "--as", &name]),
            _ => command.args(["approvals", "reject", "last", "--as", &name, "--reason", "no"]),
        };
        command.spawn().unwrap()
    };
    let started: Vec<Child> = (0..commands).map(start).collect();
    started.into_iter().map(|child| finished(child.wait_with_output().unwrap())).collect()
}

#[test]
fn of_many_terminals_at_the_same_moment_one_is_heard_and_the_others_are_told_so() {
    for round in 0..5 {
        let dir = awaiting(WRITER);
        assert_eq!(output(dir.path(), &["run", "n.toml", "x"]).0, Some(6));
        let said = at_once(dir.path(), 6);
        let taken: Vec<usize> = (0..said.len()).filter(|&place| said[place].0 == Some(0)).collect();
        let [taken] = taken.as_slice() else { panic!("round {round}: {said:?}") };
        for (place, (code, _, stderr)) in said.iter().enumerate().filter(|(place, _)| place != taken) {
            let by = format!("ed by p{taken}");
            assert!(*code == Some(1) && stderr.contains(&by), "round {round}, {place}: {code:?} {stderr}");
        }
        let is_written = dir.path().join("out/a.txt").exists();
        assert_eq!(is_written, taken % 2 == 0, "round {round}");
    }
}

#[test]
fn a_person_at_the_terminal_says_why_not_gives_other_arguments_or_leaves_it_to_somebody_else() {
    let ended = |child: &mut Child| {
        let code = wait(child);
        let mut stdout = String::new();
        std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut stdout).unwrap();
        (code, stdout)
    };
    let dir = awaiting(WRITER);
    let run = ["run", "n.toml", "x"];
    let (mut child, mut terminal) = at_a_terminal(dir.path(), &run);
    // What is typed before anything is asked is no answer.
    terminal.write_all(b"y\n").unwrap();
    read_until(&mut terminal, "[y/n]");
    terminal.write_all(b"n the quarter is not over\n").unwrap();
    assert_eq!(ended(&mut child), (Some(0), "a person did not allow this call: the quarter is not over\n".to_owned()));

    let (mut child, mut terminal) = at_a_terminal(dir.path(), &run);
    read_until(&mut terminal, "[y/n]");
    for (typed, objection) in [
        ("perhaps\n", "say `y`, `n` or `e`"),
        ("e {\n", "these arguments are no JSON"),
        ("e {\"path\": 3, \"text\": \"x\"}\n", "`write` does not take them"),
    ] {
        terminal.write_all(typed.as_bytes()).unwrap();
        read_until(&mut terminal, objection);
    }
    terminal.write_all(b"e {\"path\": \"b.txt\", \"text\": \"b\"}\n").unwrap();
    let (code, stdout) = ended(&mut child);
    assert!(code == Some(0) && stdout.starts_with("[a person changed the arguments"), "{stdout}");
    assert_eq!(fs::read_to_string(dir.path().join("out/b.txt")).unwrap(), "b");

    // The end of the input is no answer: the run waits for one.
    let (mut child, mut terminal) = at_a_terminal(dir.path(), &run);
    read_until(&mut terminal, "[y/n]");
    terminal.write_all(b"\x04").unwrap();
    assert_eq!(wait(&mut child), Some(6));

    // Meanwhile somebody answers from elsewhere, through the process that holds the store.
    let (mut child, mut terminal) = at_a_terminal(dir.path(), &["runs", "resume", "last"]);
    read_until(&mut terminal, "[y/n]");
    let listed: Value = serde_json::from_str(&output(dir.path(), &["approvals", "--json"]).1).unwrap();
    assert_eq!(listed[0]["call"], "writer#1.0");
    let wrong = output(dir.path(), &["approvals", "edit", "last", "--arguments", "{}"]);
    assert!(wrong.0 == Some(2) && wrong.2.contains("`write` does not take them"), "{wrong:?}");
    let (code, said, _) = output(dir.path(), &["approvals", "approve", "last", "--as", "ben"]);
    assert!(code == Some(0) && said.starts_with("said; the run goes on"), "{said}");
    assert_eq!(ended(&mut child).0, Some(0));
    assert!(dir.path().join("out/a.txt").exists());

    // Who may not answer is not asked.
    fs::write(dir.path().join("n.toml"), format!("{WRITER}\n[policy.approvals]\napprovers = [\"nobody here\"]\n"))
        .unwrap();
    let (mut child, _terminal) = at_a_terminal(dir.path(), &run);
    assert_eq!(wait(&mut child), Some(6));
}

/// A process that is killed after it has asked, and before it has told anybody.
#[cfg(debug_assertions)]
#[test]
fn approvers_who_were_not_told_before_a_crash_are_told_after_it() {
    let office = Office::new(WRITER);
    let dir = awaiting(&notifying(&office, "true"));
    let mut killed = provost(dir.path());
    killed.args(["run", "n.toml", "x"]).env("PROVOST_CRASH_AT", "gate.after_question.approval@1");
    assert_eq!(killed.output().unwrap().status.code(), None);
    assert!(told(&office).is_empty());
    assert_eq!(output(dir.path(), &["runs", "resume", "last"]).0, Some(6));
    assert_eq!(output(dir.path(), &["runs", "resume", "last"]).0, Some(6));
    assert_eq!(told(&office).len(), 1);
}
