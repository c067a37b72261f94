//! Approvals: none is lost, each lets one call happen once, and only the very call that was asked about.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use provost::run::{Ballot, CallId, Event, NotApproved, Pattern, Ruling, RunId, Status};
use provost::runtime::{
    Answers, Approved, Approver, Error, Fork, Host, Past, Question, Recorder, Replayer, Report, RunRequest,
};
use provost::spec::Network;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// A store, and a network in whose directory tools are at work.
pub(crate) struct Office {
    dir: TempDir,
    pub(crate) network: String,
}

/// A network of one agent that writes once, and says what came of it.
pub(crate) const WRITER: &str = r#"
[network]
name = "office"
entry = "writer"
[agents.writer]
prompt = "x"
tools = ["write"]
[tools.write]
builtin = "fs.write"
root = "out"
[sim.script]
writer = [
  '{"calls": [{"name": "write", "arguments": {"path": "a.txt", "text": "one\ntwo\n"}}]}',
  '{{ results[0].content }}',
]
"#;

impl Office {
    pub(crate) fn new(network: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        Self { dir, network: network.to_owned() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn network(&self) -> Network {
        let loaded = Network::parse("n.toml", &self.network, self.dir.path());
        loaded.unwrap_or_else(|invalid| panic!("{invalid}")).network
    }

    /// Opens the store as a process does.
    pub(crate) fn host(&self) -> Host {
        Host::new(Arc::new(Recorder::open(&self.path("store"), false).unwrap()))
    }

    pub(crate) async fn start(&self, host: &Host) -> Report {
        host.start(self.network(), self.request()).await.unwrap().wait().await.unwrap()
    }

    pub(crate) fn request(&self) -> RunRequest {
        RunRequest { directory: Some(self.dir.path().to_owned()), tenant: "acme".into(), ..RunRequest::new("x") }
    }

    pub(crate) fn written(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path("out").join(name)).ok()
    }
}

pub(crate) async fn resume(host: &Host, run: &RunId) -> Report {
    let resumed = host.resume::<Error>(run, Answers::default(), Ok).await.unwrap();
    resumed.unwrap().wait().await.unwrap()
}

pub(crate) fn call(name: &str) -> CallId {
    name.parse().unwrap()
}

pub(crate) fn ballot(by: &str, ruling: Ruling) -> Ballot {
    Ballot { by: by.into(), ruling, digest: None, tenant: None }
}

pub(crate) const YES: Ruling = Ruling::Approve { standing: None };

fn no(reason: &str) -> Ruling {
    Ruling::Reject { reason: Some(reason.into()) }
}

pub(crate) fn why(result: Result<(Approved, bool), Error>) -> NotApproved {
    match result {
        Err(Error::NotApproved { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

/// How often something is on record.
pub(crate) fn count(past: &Past, is: impl Fn(&Event) -> bool) -> usize {
    past.events.iter().filter(|envelope| is(&envelope.event)).count()
}

pub(crate) fn whole(host: &Host, run: &RunId) -> Past {
    host.recorder().whole_past(run).unwrap()
}

/// Whether a recorded run is decided as it was.
pub(crate) fn is_as_it_was(host: &Host, run: &RunId) {
    let past = whole(host, run);
    Replayer::new().replay(&past).unwrap_or_else(|why| panic!("{why}"));
}

#[tokio::test]
async fn a_call_is_shown_with_what_it_would_change_and_happens_once() {
    let office = Office::new(WRITER);
    fs::write(office.path("out/a.txt"), "one\nthree\n").unwrap();
    let host = office.host();
    let parked = office.start(&host).await;
    assert_eq!(parked.status, Status::AwaitingApproval);
    let [asked] = parked.approvals.as_slice() else { panic!("{:?}", parked.approvals) };
    let request = asked.request.as_ref().unwrap();
    assert_eq!(request.change.as_deref(), Some("--- a.txt\n+++ a.txt\n@@ -1,2 +1,2 @@\n one\n-three\n+two\n"));
    assert_eq!(request.why.as_deref(), Some("no policy permits it, and the network's default asks"));
    assert_eq!((&*asked.agent, request.quorum, request.expires_ms), ("writer", 1, None));
    let (approved, is_under_way) = host.approve(&parked.run, None, &ballot("ana", YES)).await.unwrap();
    assert_eq!((approved.call, approved.missing, is_under_way), (call("writer#1.0"), 0, false));
    assert_eq!(office.written("a.txt").as_deref(), Some("one\nthree\n"), "nothing happens before the run goes on");
    // Said twice, by the same person, by another, and otherwise.
    for said in [YES, no("no")] {
        let again = why(host.approve(&parked.run, Some(call("writer#1.0")), &ballot("ben", said)).await);
        assert!(again.to_string().contains("call `writer#1.0` was approved by ana"), "{again}");
    }
    let done = resume(&host, &parked.run).await;
    assert_eq!((done.status, office.written("a.txt").as_deref()), (Status::Done, Some("one\ntwo\n")));
    let again = why(host.approve(&parked.run, None, &ballot("ben", YES)).await);
    assert!(again.is_of_run(), "{again}");
    is_as_it_was(&host, &parked.run);
}

#[tokio::test]
async fn a_rejection_tells_the_model_why() {
    let office = Office::new(WRITER);
    let host = office.host();
    let parked = office.start(&host).await;
    host.approve(&parked.run, None, &ballot("ana", no("the quarter is not over"))).await.unwrap();
    let done = resume(&host, &parked.run).await;
    let answer = done.answer_text().unwrap();
    assert_eq!(&*answer, "a person did not allow this call: the quarter is not over");
    assert_eq!((done.status, office.written("a.txt")), (Status::Done, None));
    is_as_it_was(&host, &parked.run);
}

#[tokio::test]
async fn edited_arguments_are_checked_decided_anew_and_told_to_the_model() {
    let office = Office::new(WRITER);
    let host = office.host();
    let parked = office.start(&host).await;
    let edit = |arguments: Value| ballot("ana", Ruling::Edit { arguments });
    for wrong in [json!({ "path": "b.txt" }), json!({ "path": 3, "text": "x" }), json!([])] {
        let wrong = why(host.approve(&parked.run, None, &edit(wrong)).await);
        assert!(matches!(wrong, NotApproved::BadArguments { .. }) && wrong.is_of_ballot(), "{wrong}");
    }
    host.approve(&parked.run, None, &edit(json!({ "path": "b.txt", "text": "b" }))).await.unwrap();
    let done = resume(&host, &parked.run).await;
    assert_eq!((office.written("a.txt"), office.written("b.txt").as_deref()), (None, Some("b")));
    assert!(
        done.answer_text().unwrap().starts_with(r#"[a person changed the arguments to {"path":"b.txt","text":"b"}]"#)
    );
    assert_eq!(count(&whole(&host, &parked.run), |event| matches!(event, Event::ApprovalRequested { .. })), 1);
    is_as_it_was(&host, &parked.run);

    // What policy forbids, no edit brings about.
    let forbidding = r#"
        @ask("writing") permit (principal, action == Action::"call_tool:write", resource);
        @id("keys") forbid (principal, action == Action::"call_tool:write", resource) when { context.arguments.path like "*.key" };
    "#;
    let network = office.network().with_policy("n.cedar", forbidding);
    let parked = host.start(network, office.request()).await.unwrap().wait().await.unwrap();
    host.approve(&parked.run, None, &edit(json!({ "path": "x.key", "text": "b" }))).await.unwrap();
    let done = resume(&host, &parked.run).await;
    assert!(done.answer_text().unwrap().contains("policy forbids this call (`keys`)"), "{:?}", done.answer);
    assert_eq!(office.written("x.key"), None);
}

#[tokio::test]
async fn a_thousand_restarts_lose_no_approval() {
    let office = Office::new(WRITER);
    let host = office.host();
    let parked = office.start(&host).await;
    host.shutdown().await.unwrap();
    for restart in 0..1_000 {
        let host = office.host();
        let again = resume(&host, &parked.run).await;
        assert_eq!((again.status, again.approvals.len()), (Status::AwaitingApproval, 1), "after restart {restart}");
        assert_eq!(again.approvals[0].digest, parked.approvals[0].digest);
        host.shutdown().await.unwrap();
    }
    let host = office.host();
    host.approve(&parked.run, None, &ballot("ana", YES)).await.unwrap();
    // A resume that fails does not spend it: the directory that the tool works in is away.
    fs::rename(office.path("out"), office.path("away")).unwrap();
    assert!(host.resume::<Error>(&parked.run, Answers::default(), Ok).await.is_err());
    fs::rename(office.path("away"), office.path("out")).unwrap();
    assert_eq!(resume(&host, &parked.run).await.status, Status::Done);
    let past = whole(&host, &parked.run);
    assert_eq!(count(&past, |event| matches!(event, Event::ApprovalRequested { .. })), 1);
    assert_eq!(count(&past, |event| matches!(event, Event::ToolReturned { .. })), 1);
    assert!(office.written("a.txt").is_some());
}

/// Somebody who is there and says nothing, so that runs do not park.
pub(crate) struct Silent;

impl Approver for Silent {
    fn ask<'a>(&'a self, _: &'a Question) -> BoxFuture<'a, Option<Ballot>> {
        Box::pin(std::future::pending())
    }
}

/// An agent that appends a line to a file in each of many calls at once.
fn many(calls: usize) -> String {
    let one =
        |index: usize| format!(r#"{{"name": "append", "arguments": {{"argv": ["sh", "-c", "echo {index} >> log"]}}}}"#);
    let calls: Vec<String> = (0..calls).map(one).collect();
    format!(
        r#"
        [network]
        name = "office"
        entry = "writer"
        [agents.writer]
        prompt = "x"
        tools = ["append"]
        [tools.append]
        builtin = "process.run"
        root = "out"
        allow = ["sh"]
        [sim.script]
        writer = ['{{"calls": [{}]}}', 'done']
        "#,
        calls.join(", ")
    )
}

/// Ten thousand answers at once, from wherever; each call takes one of them.
#[tokio::test(flavor = "multi_thread")]
async fn of_ten_thousand_answers_each_call_takes_one_and_happens_once() {
    const CALLS: usize = 16;
    let office = Office::new(&many(CALLS));
    for is_live in [true, false] {
        let _ = fs::remove_file(office.path("out/log"));
        let host = office.host();
        let host = Arc::new(if is_live { host.with_approver(Silent) } else { host });
        let request = RunRequest { is_attended: is_live, ..office.request() };
        let handle = host.start(office.network(), request).await.unwrap();
        let run = handle.id().clone();
        if is_live {
            let mut events = handle.events();
            let mut asked = 0;
            while asked < CALLS {
                asked += usize::from(matches!(events.next().await.unwrap().event, Event::ApprovalRequested { .. }));
            }
        } else {
            assert_eq!(handle.wait().await.unwrap().status, Status::AwaitingApproval);
        }
        // Where the run is at rest each answer reads its past: fewer of them show as much.
        let answers = if is_live { 10_000 } else { 500 };
        let say = |number: usize| {
            let (host, run) = (host.clone(), run.clone());
            async move {
                let call = CallId::tool(&provost::run::AgentId::new("writer"), 1, (number % CALLS) as u32);
                host.approve(&run, Some(call), &ballot(&format!("p{number}"), YES)).await
            }
        };
        let said: JoinSet<_> = (0..answers).map(say).collect();
        let (mut taken, mut refused) = (0, 0);
        for said in said.join_all().await {
            match said {
                Ok(_) => taken += 1,
                // The last answers may come when all is over.
                Err(Error::NotApproved { why: NotApproved::Decided { .. } | NotApproved::Ended(_), .. }) => {
                    refused += 1
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((taken, refused), (CALLS, answers - CALLS), "live: {is_live}");
        if !is_live {
            assert_eq!(resume(&host, &run).await.status, Status::Done);
        }
        while host.controls(&run).is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let log = office.written("log").unwrap();
        let lines: BTreeSet<&str> = log.lines().collect();
        assert_eq!((log.lines().count(), lines.len()), (CALLS, CALLS), "each was done once");
        Arc::into_inner(host).unwrap().shutdown().await.unwrap();
    }
}

/// An agent that runs a script.
const SCRIPTED: &str = r#"
[network]
name = "office"
entry = "runner"
[policy]
file = "n.cedar"
[agents.runner]
prompt = "x"
tools = ["run"]
[tools.run]
builtin = "process.run"
root = "out"
allow = ["sh"]
[sim.script]
runner = ['{"calls": [{"name": "run", "arguments": {"argv": ["sh", "deploy.sh"]}}]}', 'done']
"#;

#[tokio::test]
async fn whatever_has_changed_since_is_asked_about_again() {
    let office = Office::new(SCRIPTED);
    let script = office.path("out/deploy.sh");
    let policy = office.path("n.cedar");
    let (plain, text) = (
        "echo deployed >> log\n",
        "@ask(\"deploys\") permit (principal, action == Action::\"call_tool:run\", resource);\n",
    );
    fs::write(&script, plain).unwrap();
    fs::write(&policy, text).unwrap();
    let host = office.host();
    let parked = office.start(&host).await;
    let run = &parked.run;
    assert_eq!(parked.status, Status::AwaitingApproval);
    let again = |report: &Report| report.approvals[0].request.as_ref().unwrap().again.clone();
    let changed = async |path: &Path, text: &[u8], what: &str| {
        host.approve(run, None, &ballot("ana", YES)).await.unwrap();
        fs::write(path, text).unwrap();
        let asked = resume(&host, run).await;
        assert_eq!(asked.status, Status::AwaitingApproval, "{what}");
        assert!(
            again(&asked).is_some_and(|again| again.contains(what)),
            "{what}: {:?}\n{}",
            asked.approvals,
            String::from_utf8_lossy(text)
        );
    };
    // Each byte of the script; what was approved was the script before.
    for place in 0..plain.len() {
        let mut bytes = plain.as_bytes().to_vec();
        bytes[place] ^= 1;
        changed(&script, &bytes, "deploy.sh").await;
    }
    fs::write(&script, plain).unwrap();
    // Each byte of the policies that leaves them policies: those of the reason.
    for place in text.find("deploys").unwrap()..text.find("deploys").unwrap() + "deploys".len() {
        let mut bytes = text.as_bytes().to_vec();
        bytes[place] ^= 1;
        changed(&policy, &bytes, "the policies").await;
        fs::write(&policy, text).unwrap();
        resume(&host, run).await;
    }
    // Policies that forbid go before every grant.
    host.approve(run, None, &ballot("ana", YES)).await.unwrap();
    fs::write(&policy, "forbid (principal, action, resource);").unwrap();
    let denied = resume(&host, run).await;
    assert_eq!(denied.status, Status::Denied, "{:?}", denied.reason);
    assert_eq!(office.written("log"), None, "nothing was ever run");
    is_as_it_was(&host, run);
}

#[tokio::test]
async fn an_answer_to_what_was_shown_is_none_to_anything_else() {
    let office = Office::new(WRITER);
    let host = office.host();
    let parked = office.start(&host).await;
    let shown = parked.approvals[0].digest.clone().unwrap();
    let with = |digest: &str, tenant: Option<&str>| Ballot {
        digest: Some(digest.into()),
        tenant: tenant.map(Into::into),
        ..ballot("ana", YES)
    };
    for place in 0..shown.len() {
        let mut other = shown.as_bytes().to_vec();
        other[place] = if other[place] == b'0' { b'1' } else { b'0' };
        let other = String::from_utf8(other).unwrap();
        let refused = why(host.approve(&parked.run, None, &with(&other, None)).await);
        assert!(matches!(refused, NotApproved::Changed(_)), "{refused}");
    }
    let refused = why(host.approve(&parked.run, None, &with(&shown, Some("other"))).await);
    assert_eq!(refused, NotApproved::OtherTenant("other".into()));
    let nameless = |name: &str| Ballot { by: name.into(), ..with(&shown, None) };
    for name in ["", " ", "a\u{1b}[2Jb", "a\u{202e}b", &"x".repeat(65)] {
        let refused = why(host.approve(&parked.run, None, &nameless(name)).await);
        assert_eq!(refused, NotApproved::NoName, "{name:?}");
    }
    let refused = why(host.approve(&parked.run, Some(call("writer#9.0")), &with(&shown, None)).await);
    assert!(matches!(refused, NotApproved::NoSuchCall { .. }), "{refused}");
    // A fork asks for itself: what is allowed there is no other run's.
    let head = whole(&host, &parked.run).events.len() as u64;
    let fork = Fork { at: head, input: None, priority: None, id: None, is_attended: false };
    let (fork, _) = host.fork::<Error>(&parked.run, fork, None, Ok).await.unwrap();
    let forked = fork.wait().await.unwrap();
    assert_eq!(forked.status, Status::AwaitingApproval);
    assert_ne!(forked.approvals[0].digest.as_ref(), Some(&shown));
    let refused = why(host.approve(&forked.run, None, &with(&shown, None)).await);
    assert!(matches!(refused, NotApproved::Changed(_)), "{refused}");
    host.approve(&parked.run, None, &with(&shown, Some("acme"))).await.unwrap();
    host.cancel(&forked.run, "enough").await.unwrap();
    let refused = why(host.approve(&forked.run, None, &ballot("ana", YES)).await);
    assert_eq!(refused, NotApproved::Ended(Status::Cancelled));
}

#[tokio::test]
async fn several_have_to_agree_and_nobody_counts_twice() {
    let asking = "[policy.approvals]\napprovers = [\"ana\", \"ben\", \"cy\"]\nquorum = 2\n";
    let office = Office::new(&format!("{WRITER}\n{asking}"));
    let host = office.host();
    let parked = office.start(&host).await;
    let run = &parked.run;
    let stranger = why(host.approve(run, None, &ballot("mallory", YES)).await);
    assert!(matches!(stranger, NotApproved::NoApprover { .. }), "{stranger}");
    let edit = Ruling::Edit { arguments: json!({ "path": "b", "text": "b" }) };
    assert!(matches!(why(host.approve(run, None, &ballot("ana", edit)).await), NotApproved::OneAlone { .. }));
    assert_eq!(host.approve(run, None, &ballot("ana", YES)).await.unwrap().0.missing, 1);
    let again = why(host.approve(run, None, &ballot("ana", YES)).await);
    assert_eq!(again, NotApproved::Voted { by: "ana".into(), missing: 1 });
    // It survives a restart.
    assert_eq!(resume(&host, run).await.approvals[0].votes, vec!["ana".into()]);
    assert_eq!(host.approve(run, None, &ballot("cy", YES)).await.unwrap().0.missing, 0);
    assert_eq!(resume(&host, run).await.status, Status::Done);
    assert!(office.written("a.txt").is_some());
    is_as_it_was(&host, run);
    // A single no is enough.
    let parked = office.start(&host).await;
    host.approve(&parked.run, None, &ballot("ben", YES)).await.unwrap();
    host.approve(&parked.run, None, &ballot("cy", no("no"))).await.unwrap();
    assert!(resume(&host, &parked.run).await.answer_text().unwrap().contains("did not allow this call: no"));
}

#[tokio::test]
async fn when_nobody_answers_in_time_that_is_a_no() {
    let office = Office::new(&format!("{WRITER}\n[policy.approvals]\nexpires = \"50ms\"\n"));
    // With somebody there, who says nothing, the run does not park.
    let host = office.host().with_approver(Silent);
    let report = office.start(&host).await;
    let nobody = "a person did not allow this call: nobody answered in time";
    assert_eq!((report.status, report.answer_text().as_deref()), (Status::Done, Some(nobody)));
    host.shutdown().await.unwrap();
    let host = office.host();
    let parked = office.start(&host).await;
    assert_eq!(parked.status, Status::AwaitingApproval);
    tokio::time::sleep(std::time::Duration::from_millis(60)).await;
    let late = why(host.approve(&parked.run, None, &ballot("ana", YES)).await);
    assert!(matches!(late, NotApproved::Expired(_)), "{late}");
    assert_eq!(resume(&host, &parked.run).await.answer_text().as_deref(), Some(nobody));
    assert_eq!(office.written("a.txt"), None);
    is_as_it_was(&host, &parked.run);
}

/// Three agents that want something at the same time: two delegates, and one in a network of its own.
const BRANCHES: &str = r#"
[network]
name = "office"
entry = "lead"
[agents.lead]
prompt = "x"
delegates_to = ["one", "two", "team"]
[agents.one]
prompt = "x"
tools = ["write"]
[agents.two]
prompt = "x"
tools = ["write"]
[agents.team]
network = "team.toml"
[tools.write]
builtin = "fs.write"
root = "out"
[sim.script]
lead = [
  '{"calls": [{"name": "ask_one", "arguments": {"message": "go"}}, {"name": "ask_two", "arguments": {"message": "go"}}, {"name": "ask_team", "arguments": {"message": "go"}}]}',
  '{{ results | map(attribute="content") | join(" | ") }}',
]
one = ['{"calls": [{"name": "write", "arguments": {"path": "one", "text": "1"}}]}', 'one: {{ results[0].content }}']
two = ['{"calls": [{"name": "write", "arguments": {"path": "two", "text": "2"}}]}', 'two: {{ results[0].content }}']
"#;

const TEAM: &str = r#"
[network]
name = "team"
entry = "clerk"
[agents.clerk]
prompt = "x"
tools = ["write"]
[tools.write]
builtin = "fs.write"
root = "out"
[sim.script]
clerk = ['{"calls": [{"name": "write", "arguments": {"path": "three", "text": "3"}}]}', 'clerk: {{ results[0].content }}']
"#;

#[tokio::test]
async fn each_answer_reaches_its_own_call_in_branches_delegates_and_nested_networks() {
    let office = Office::new(BRANCHES);
    fs::write(office.path("team.toml"), TEAM).unwrap();
    let host = office.host();
    let parked = office.start(&host).await;
    let run = &parked.run;
    let asked: Vec<(String, String)> =
        parked.approvals.iter().map(|asked| (asked.agent.to_string(), asked.call.to_string())).collect();
    assert_eq!(asked.len(), 3, "{asked:?}");
    let open = why(host.approve(run, None, &ballot("ana", YES)).await);
    assert!(matches!(open, NotApproved::Several { .. }), "{open}");
    // One after the other, over restarts, each otherwise.
    let of = |agent: &str| call(&asked.iter().find(|(name, _)| name.ends_with(agent)).unwrap().1);
    host.approve(run, Some(of("two")), &ballot("ana", no("not two"))).await.unwrap();
    let still = resume(&host, run).await;
    assert_eq!((still.status, still.approvals.len()), (Status::AwaitingApproval, 2));
    host.approve(run, Some(of("clerk")), &ballot("ben", YES)).await.unwrap();
    let edited = Ruling::Edit { arguments: json!({ "path": "one", "text": "edited" }) };
    host.approve(run, Some(of("one")), &ballot("cy", edited)).await.unwrap();
    let done = resume(&host, run).await;
    assert_eq!(done.status, Status::Done, "{:?}", done.reason);
    assert_eq!(office.written("one").as_deref(), Some("edited"));
    assert_eq!(office.written("two"), None);
    assert_eq!(office.written("three").as_deref(), Some("3"));
    let answer = done.answer_text().unwrap();
    let parts: Vec<&str> = answer.split(" | ").collect();
    assert!(parts[0].starts_with("one: [a person changed the arguments"), "{answer}");
    assert!(parts[1].starts_with("two: a person did not allow this call: not two"), "{answer}");
    assert!(parts[2].starts_with("clerk: {"), "{answer}");
    is_as_it_was(&host, run);
}

/// An agent that writes several files, one step after the other.
const SERIES: &str = r#"
[network]
name = "office"
entry = "writer"
[agents.writer]
prompt = "x"
tools = ["write"]
[tools.write]
builtin = "fs.write"
root = "out"
[sim.script]
writer = [
  '{"calls": [{"name": "write", "arguments": {"path": "docs/1", "text": "a"}}]}',
  '{"calls": [{"name": "write", "arguments": {"path": "docs/2", "text": "a"}}]}',
  '{"calls": [{"name": "write", "arguments": {"path": "docs/3", "text": "b"}}]}',
  '{"calls": [{"name": "write", "arguments": {"path": "docs/../4", "text": "a"}}]}',
  'done',
]
"#;

#[tokio::test]
async fn a_pattern_lets_later_calls_happen_that_are_like_it_and_no_others() {
    let office = Office::new(SERIES);
    let host = office.host();
    let parked = office.start(&host).await;
    let run = &parked.run;
    let like = |path: &str, until_ms: Option<u64>| {
        let like = [("path".to_owned(), json!(path))].into();
        ballot("ana", Ruling::Approve { standing: Some(Pattern { like, until_ms }) })
    };
    let wrong = why(host.approve(run, None, &like("src/*", None)).await);
    assert!(matches!(wrong, NotApproved::BadPattern(_)), "{wrong}");
    host.approve(run, None, &like("docs/*", None)).await.unwrap();
    let third = resume(&host, run).await;
    assert_eq!(
        third.approvals[0].call,
        call("writer#3.0"),
        "the second was like the first, the third has another text"
    );
    assert!(office.written("docs/2").is_some() && office.written("docs/3").is_none());
    host.approve(run, None, &ballot("ana", no("no"))).await.unwrap();
    let fourth = resume(&host, run).await;
    assert_eq!(fourth.approvals[0].call, call("writer#4.0"), "a path that climbs is not like it");
    is_as_it_was(&host, run);
    // A pattern whose time is over covers nothing.
    let parked = office.start(&host).await;
    host.approve(&parked.run, None, &like("docs/*", Some(1))).await.unwrap();
    assert_eq!(resume(&host, &parked.run).await.approvals[0].call, call("writer#2.0"));
}

#[test]
fn what_awaits_approval_is_shown_and_answered_from_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    fs::write(dir.path().join("out/a.txt"), "one\nthree\n").unwrap();
    fs::write(dir.path().join("n.toml"), WRITER).unwrap();
    let said = |arguments: &[&str]| {
        let (code, stdout, stderr) = crate::process::output(dir.path(), arguments);
        (code, stdout, stderr)
    };
    assert_eq!(said(&["approvals"]).2, "nothing awaits approval\n");
    let (code, _, stderr) = said(&["run", "n.toml", "x"]);
    assert_eq!(code, Some(6), "{stderr}");
    assert!(stderr.contains("hint: provost approvals shows it: provost approvals approve "), "{stderr}");
    let (_, listed, _) = said(&["approvals"]);
    let lines: Vec<&str> = listed.lines().skip(1).collect();
    assert_eq!(
        lines[..lines.len() - 1],
        [
            "  writer wants to call `write` with",
            r#"    {"path":"a.txt","text":"one\ntwo\n"}"#,
            "  which would change",
            "    --- a.txt",
            "    +++ a.txt",
            "    @@ -1,2 +1,2 @@",
            "     one",
            "    -three",
            "    +two",
            "  no policy permits it, and the network's default asks",
        ],
        "{listed}"
    );
    let (_, json, _) = said(&["approvals", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let digest = json[0]["digest"].as_str().unwrap().to_owned();
    assert!(lines.last().unwrap().ends_with(&digest[..12]), "{listed}");
    for (arguments, code, words) in [
        (vec!["approvals", "approve", "last", "--as", "a\nb"], 2, "no control or hidden characters"),
        (vec!["approvals", "approve", "last", "--tenant", "other"], 2, "is not the tenant's `other`"),
        (vec!["approvals", "approve", "last", "--digest", "000"], 2, "nothing with the digest 000"),
        (vec!["approvals", "approve", "last", "writer#9.0"], 1, "those that do: `writer#1.0`"),
        (vec!["approvals", "approve", "last", "--like", "path=*"], 2, "--like says which later calls may happen"),
        (vec!["approvals", "edit", "last", "--arguments", "{\"path\": 3}"], 2, "`write` does not take them"),
        (vec!["approvals", "edit", "last", "--arguments", "{"], 2, "the arguments are no JSON"),
        (vec!["approvals", "reject", "nothing"], 2, "there is no run nothing"),
    ] {
        let (got, _, stderr) = said(&arguments);
        assert!(got == Some(code) && stderr.contains(words), "{arguments:?}: {got:?} {stderr}");
    }
    let (code, _, stderr) = said(&["approvals", "approve", "last", "--as", "ana", "--digest", &digest[..12]]);
    assert_eq!(
        (code, fs::read_to_string(dir.path().join("out/a.txt")).unwrap().as_str()),
        (Some(0), "one\ntwo\n"),
        "{stderr}"
    );
    let (code, _, stderr) = said(&["approvals", "reject", "last", "--reason", "no"]);
    assert!(code == Some(1) && stderr.contains("call `writer#1.0` was approved by ana"), "{stderr}");
}
