//! Which ballots are taken, and what a grant covers.

use serde_json::json;

use super::pattern::{fits, fits_text};
use super::*;
use crate::run::Labels;

fn binding() -> Binding {
    let digest = |text: &str| Arc::from(text);
    Binding {
        whose: digest("w"),
        tool: digest("t"),
        schema: digest("s"),
        arguments: digest("a"),
        labels: digest("l"),
        policies: digest("p"),
        files: vec![BoundFile { path: "deploy.sh".into(), digest: Some(digest("f")), is_target: false }],
    }
}

#[test]
fn each_part_of_a_binding_counts_and_is_named() {
    let asked = binding();
    assert_eq!(binding().changed_since(&asked), None);
    let other = |change: &dyn Fn(&mut Binding)| {
        let mut other = binding();
        change(&mut other);
        assert_ne!(other.digest(), asked.digest());
        other.changed_since(&asked).unwrap()
    };
    assert_eq!(other(&|of| of.whose = "x".into()), "whose call it is");
    assert_eq!(other(&|of| of.tool = "x".into()), "how the tool is set up");
    assert_eq!(other(&|of| of.schema = "x".into()), "what the tool takes");
    assert_eq!(other(&|of| of.arguments = "x".into()), "its arguments");
    assert_eq!(other(&|of| of.labels = "x".into()), "what the agent was influenced by");
    assert_eq!(other(&|of| of.policies = "x".into()), "the policies");
    assert_eq!(other(&|of| of.files[0].digest = None), "`deploy.sh`");
    assert_eq!(other(&|of| of.files[0].is_target = true), "`deploy.sh`");
    assert_eq!(other(&|of| of.files.clear()), "`deploy.sh`");
    // Parts can't be moved from one place to the next.
    let moved = Binding { whose: "wt".into(), tool: "".into(), ..binding() };
    assert_ne!(moved.digest(), asked.digest());
}

#[test]
fn an_edit_changes_the_arguments_and_nothing_that_was_not_seen() {
    let asked = binding();
    let edited = Binding { arguments: "e".into(), ..binding() };
    assert_eq!(edited.changed_beside_edit(&asked, "e"), None);
    assert_eq!(edited.changed_beside_edit(&asked, "x").as_deref(), Some("its arguments"));
    let file = |path: &str, is_target| BoundFile { path: path.into(), digest: None, is_target };
    let writes = Binding { files: vec![file("new", true)], ..edited.clone() };
    assert_eq!(writes.changed_beside_edit(&asked, "e"), None, "what it writes is what was said");
    let uses = Binding { files: vec![file("unseen.sh", false)], ..edited };
    assert_eq!(uses.changed_beside_edit(&asked, "e").as_deref(), Some("`deploy.sh`, `unseen.sh`"));
}

#[test]
fn a_pattern_is_like_what_it_says() {
    for (pattern, text, fits) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("*", "", true),
        ("docs/*", "docs/a/b", true),
        ("docs/*", "docs", false),
        ("docs/*", "docs/../key", false),
        ("*", "..", false),
        ("*.md", "a.md", true),
        ("*.md", "a.md.sh", false),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-c-b", false),
        ("a*a", "a", false),
    ] {
        assert_eq!(fits_text(pattern, text), fits, "{pattern} {text}");
    }
    assert!(fits(&json!(["git", "push", "*"]), &json!(["git", "push", "origin"])));
    assert!(!fits(&json!(["git", "push", "*"]), &json!(["git", "push", "origin", "--force"])));
    assert!(!fits(&json!(["git", "*"]), &json!("git push")));
    assert!(fits(&json!(3), &json!(3)) && !fits(&json!(3), &json!("3")));
}

#[test]
fn a_standing_grant_covers_the_same_agent_tool_terms_and_labels_for_its_time() {
    let labels = |names: &[&str]| {
        let mut labels = Labels::default();
        names.iter().for_each(|name| labels.add(*name));
        labels
    };
    let standing = Standing {
        agent: "one".into(),
        tool: "write".into(),
        arguments: json!({ "path": "docs/a", "text": "x" }),
        pattern: Pattern { like: [("path".to_owned(), json!("docs/*"))].into(), until_ms: Some(100) },
        labels: labels(&["public"]),
        binding: binding(),
        policies: vec!["writing".into()],
    };
    let write = |arguments| Subject::Tool { tool: "write".into(), arguments };
    let like = write(json!({ "path": "docs/b", "text": "x" }));
    let asking = |policies: &[&str]| policies.iter().map(|id| Arc::from(*id)).collect::<Vec<_>>();
    let covers = |agent: &str, subject: &Subject, of: &[&str], binding: &Binding, now_ms| {
        standing.covers(agent, subject, &labels(of), binding, &asking(&["writing"]), now_ms)
    };
    let other_call = Binding { whose: "x".into(), arguments: "x".into(), labels: "x".into(), ..binding() };
    assert!(covers("one", &like, &["public"], &other_call, 99));
    assert!(covers("one", &like, &[], &other_call, 0));
    assert!(!covers("one", &like, &[], &other_call, 100), "its time is over");
    assert!(!covers("two", &like, &[], &other_call, 0));
    assert!(!covers("one", &like, &["private"], &other_call, 0));
    for others in [&["writing", "docs"][..], &["docs"], &[]] {
        assert!(!standing.covers("one", &like, &labels(&[]), &other_call, &asking(others), 0), "{others:?}");
    }
    assert!(!covers("one", &write(json!({ "path": "src/b", "text": "x" })), &[], &other_call, 0));
    assert!(!covers("one", &write(json!({ "path": "docs/b", "text": "y" })), &[], &other_call, 0));
    assert!(!covers("one", &write(json!({ "path": "docs/b", "text": "x", "mode": 1 })), &[], &other_call, 0));
    for changed in [
        Binding { tool: "x".into(), ..binding() },
        Binding { schema: "x".into(), ..binding() },
        Binding { policies: "x".into(), ..binding() },
        Binding { files: vec![BoundFile { digest: None, ..binding().files[0].clone() }], ..binding() },
    ] {
        assert!(!covers("one", &like, &[], &changed, 0), "{changed:?}");
    }
    // A file that was not there is one that the pattern lets be named, or nobody has seen it.
    let file = |path: &str| BoundFile { path: path.into(), digest: Some("d".into()), is_target: false };
    let with = |path: &str| Binding { files: vec![file(path)], ..binding() };
    for (path, is_covered) in [("/x/docs/b", true), ("/x/other", false), ("/x/x", false), ("/x/adocs/b", false)] {
        assert_eq!(covers("one", &like, &[], &with(path), 0), is_covered, "{path}");
    }
    // Nor does what is left open let in what was named as it is.
    let argv = |last: &str| Subject::Tool { tool: "write".into(), arguments: json!({ "argv": ["sh", "a.sh", last] }) };
    let runs = Standing {
        arguments: json!({ "argv": ["sh", "a.sh", "one"] }),
        pattern: Pattern { like: [("argv".to_owned(), json!(["sh", "a.sh", "*"]))].into(), until_ms: None },
        ..standing.clone()
    };
    for (last, path, is_covered) in [
        ("b.sh", "/x/b.sh", true),
        ("a.sh", "/x/a.sh", false),
        ("./a.sh", "/x/a.sh", false),
        ("x=a.sh", "/x/a.sh", false),
    ] {
        let is = runs.covers("one", &argv(last), &labels(&[]), &with(path), &asking(&["writing"]), 0);
        assert_eq!(is, is_covered, "{last}");
    }
}

#[test]
fn a_name_drives_no_terminal_and_hides_nothing() {
    for (name, is) in [
        ("ana", true),
        ("Ana Müller", true),
        ("", false),
        (" ana", false),
        ("a\nb", false),
        ("a\u{1b}[2J", false),
        ("a\u{202e}b", false),
        ("a\u{200b}b", false),
    ] {
        assert_eq!(is_person(name), is, "{name:?}");
    }
}
