//! A table of cases: which calls, how things stand, and what is to be decided.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use toml::Spanned;

use crate::budget::Amount;
use crate::run::{Labels, Subject};
use crate::runtime::{RunRequest, Supposed};
use crate::spec::{Diagnostic, Invalid, MAX_FILE_BYTES, Permission, Report, Severity};

/// How many cases a table may have: more than anybody writes by hand, and few enough to be decided at once.
const MAX_CASES: usize = 10_000;

/// When a case happens that does not say when: a table says the same on every day.
const NOW_MS: u64 = 946_684_800_000;

/// Which run a case is of: policies see an id, and there is none.
const RUN: &str = "00000000000000000000000000";

/// How many tokens a model may write where a case does not say.
const MAX_OUTPUT_TOKENS: u32 = 4_096;

/// A table that was read.
pub(super) struct Table {
    /// Where the network is.
    pub(super) network: PathBuf,
    pub(super) cases: Vec<Case>,
}

/// One case.
pub(super) struct Case {
    pub(super) name: Option<String>,
    /// The line in which it begins.
    pub(super) line: usize,
    pub(super) call: Supposed,
    pub(super) expect: Permission,
    /// Which policies are to decide, in order; any where it is not said.
    pub(super) by: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    network: Spanned<String>,
    #[serde(default)]
    cases: Vec<Spanned<WrittenCase>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCase {
    name: Option<String>,
    agent: String,
    tool: Option<String>,
    arguments: Option<Spanned<toml::Table>>,
    model: Option<String>,
    max_output_tokens: Option<Spanned<u32>>,
    delegate: Option<String>,
    hand_off: Option<String>,
    publish: Option<String>,
    message: Option<Spanned<String>>,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    depth: u32,
    tenant: Option<String>,
    session: Option<String>,
    #[serde(default)]
    approved: Vec<String>,
    #[serde(default)]
    spent: Spent,
    now: Option<Spanned<toml::Value>>,
    expect: Permission,
    by: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Spent {
    cost_usd: Dollars,
    tokens: u64,
    model_calls: u64,
    tool_calls: u64,
    steps: u64,
}

/// An amount of money that there can be.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(try_from = "f64")]
struct Dollars(f64);

impl TryFrom<f64> for Dollars {
    type Error = &'static str;

    fn try_from(dollars: f64) -> Result<Self, Self::Error> {
        match dollars.is_finite() && (0.0..=1e9).contains(&dollars) {
            true => Ok(Self(dollars)),
            false => Err("this is no amount of US dollars between 0 and a billion"),
        }
    }
}

/// Returns a point in time, as a text or as TOML writes it.
fn millis(written: &toml::Value) -> Option<u64> {
    let text = match written {
        toml::Value::String(text) => text.clone(),
        toml::Value::Datetime(datetime) => datetime.to_string(),
        _ => return None,
    };
    u64::try_from(text.parse::<jiff::Timestamp>().ok()?.as_millisecond()).ok()
}

impl Table {
    /// Reads a table.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(super) fn read(path: &Path) -> Result<Self, Invalid> {
        let name = path.display().to_string();
        let text = text(path).map_err(|(why, help)| whole(&name, why, help))?;
        let lines = text.match_indices('\n').map(|(at, _)| at).collect();
        let mut reader = Reader { text: &text, lines, found: Vec::new() };
        let table = reader.table(path);
        let report = Report::new(name, text.as_str().into(), Vec::new(), reader.found);
        match table {
            Some(table) if report.diagnostics().is_empty() => Ok(table),
            _ => Err(Invalid(report)),
        }
    }
}

fn text(path: &Path) -> Result<String, (String, String)> {
    let failed = |error: std::io::Error| (format!("the table can't be read: {error}"), String::new());
    let kind = std::fs::metadata(path).map_err(failed)?;
    if !kind.is_file() {
        let what = if kind.is_dir() { "a directory" } else { "no regular file" };
        return Err((format!("the table is {what}"), "name a file with a table of cases".to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err((format!("the table is larger than {} KiB", MAX_FILE_BYTES / 1024), "make two of it".to_owned()));
    }
    String::from_utf8(bytes).map_err(|_| ("the table is no UTF-8 text".to_owned(), "save it as UTF-8".to_owned()))
}

fn whole(name: &str, message: String, help: String) -> Invalid {
    Invalid::of_file(name, "bad_table", message, help)
}

struct Reader<'a> {
    text: &'a str,
    /// Where lines end.
    lines: Vec<usize>,
    found: Vec<Diagnostic>,
}

impl Reader<'_> {
    fn say(&mut self, span: Option<Range<usize>>, message: impl Into<String>, help: &str) {
        let (path, label) = (String::new(), String::new());
        let (severity, message, help) = (Severity::Error, message.into(), help.to_owned());
        self.found.push(Diagnostic { severity, code: "bad_table", message, path, span, label, help });
    }

    fn table(&mut self, path: &Path) -> Option<Table> {
        let written: Written = match toml::from_str(self.text) {
            Ok(written) => written,
            Err(error) => {
                let message = format!("this is no table of cases: {}", error.message().trim());
                self.say(error.span(), message, "");
                return None;
            }
        };
        if written.cases.is_empty() {
            self.say(None, "the table has no cases", "write one: `[[cases]]` with `agent`, `tool` and `expect`");
        }
        if written.cases.len() > MAX_CASES {
            self.say(None, format!("the table has more than {MAX_CASES} cases"), "make two of it");
            return None;
        }
        let network = path.parent().unwrap_or(Path::new("")).join(written.network.get_ref());
        let cases = written.cases.into_iter().filter_map(|case| self.case(case)).collect();
        Some(Table { network, cases })
    }

    fn case(&mut self, written: Spanned<WrittenCase>) -> Option<Case> {
        let head = written.span();
        let line = self.lines.partition_point(|end| *end < head.start) + 1;
        // Of a case as a whole its first line is shown.
        let head = head.start..self.text[head.start..].find('\n').map_or(head.end, |length| head.start + length);
        let mut case = written.into_inner();
        let subject = self.subject(&mut case, head);
        let now_ms = match &case.now {
            None => NOW_MS,
            Some(now) => match millis(now.get_ref()) {
                Some(now_ms) => now_ms,
                None => {
                    let help = "write it as `now = \"2026-01-31T09:30:00Z\"`, with its offset, after 1970";
                    self.say(Some(now.span()), "this is no point in time", help);
                    return None;
                }
            },
        };
        let mut labels = Labels::default();
        case.labels.into_iter().for_each(|label| labels.add(label));
        let mut approved: Vec<Arc<str>> = case.approved.into_iter().map(Arc::from).collect();
        approved.sort();
        approved.dedup();
        let Spent { cost_usd, tokens, model_calls, tool_calls, steps } = case.spent;
        let cost_nano_usd = (cost_usd.0 * 1e9).round() as u64;
        let call = Supposed {
            agent: case.agent.into(),
            subject: subject?,
            run: RUN.into(),
            tenant: case.tenant.as_deref().unwrap_or(RunRequest::DEFAULT_TENANT).into(),
            session: case.session.map(Arc::from),
            labels,
            depth: case.depth,
            spent: Amount { cost_nano_usd, tokens, model_calls, tool_calls, steps },
            now_ms,
            approved,
        };
        Some(Case { name: case.name, line, call, expect: case.expect, by: case.by })
    }

    /// Reads what is called. What belongs to another kind of call is refused: it would say nothing.
    fn subject(&mut self, case: &mut WrittenCase, head: Range<usize>) -> Option<Subject> {
        let arguments = case.arguments.take().map(|given| (given.span(), json(toml::Value::Table(given.into_inner()))));
        let most = case.max_output_tokens.take();
        if let Some((span, given)) = &arguments
            && given.is_none()
        {
            self.say(
                Some(span.clone()),
                "`nan` and `inf` are no numbers in JSON",
                "no tool is given such: take it out",
            );
            return None;
        }
        let arguments = arguments.and_then(|(span, given)| Some((span, given?)));
        let message = case.message.take();
        let WrittenCase { tool, model, delegate, hand_off, publish, .. } = case;
        let said = || message.as_ref().map(|message| message.get_ref().clone()).unwrap_or_default();
        let subjects = [
            tool.take().map(|tool| {
                let arguments = arguments.as_ref().map_or_else(|| serde_json::json!({}), |(_, given)| given.clone());
                Subject::Tool { tool: tool.into(), arguments }
            }),
            model.take().map(|model| {
                let max_output_tokens = most.as_ref().map_or(MAX_OUTPUT_TOKENS, |most| *most.get_ref());
                Subject::Model { model: model.into(), max_output_tokens }
            }),
            delegate.take().map(|agent| Subject::Delegate { agent: agent.into(), message: said() }),
            hand_off.take().map(|agent| Subject::Handoff { agent: agent.into(), message: said() }),
            publish.take().map(|topic| Subject::Publish { topic: topic.into(), message: said() }),
        ];
        let mut called = subjects.into_iter().flatten();
        let (Some(subject), None) = (called.next(), called.next()) else {
            let help = "give one of `tool`, `model`, `delegate`, `hand_off` and `publish`";
            self.say(Some(head), "a case is about one call", help);
            return None;
        };
        let (is_tool, is_model) = (matches!(subject, Subject::Tool { .. }), matches!(subject, Subject::Model { .. }));
        let idle = [
            (arguments.map(|(span, _)| span).filter(|_| !is_tool), "`arguments` are what a tool is given"),
            (most.map(|most| most.span()).filter(|_| !is_model), "`max_output_tokens` is what a model may write"),
            (
                message.map(|message| message.span()).filter(|_| is_tool || is_model),
                "a `message` is for agents and topics",
            ),
        ];
        for (span, message) in idle {
            if let Some(span) = span {
                self.say(Some(span), message, "take it out");
            }
        }
        Some(subject)
    }
}

/// Returns a value of TOML as JSON; none where there is a number in it that JSON does not have. Points in time are texts there.
fn json(value: toml::Value) -> Option<Value> {
    Some(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(number)?.into(),
        toml::Value::Boolean(is) => is.into(),
        toml::Value::Datetime(datetime) => datetime.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(json).collect::<Option<_>>()?,
        toml::Value::Table(table) => {
            let pair = |(key, value)| Some((key, json(value)?));
            Value::Object(table.into_iter().map(pair).collect::<Option<_>>()?)
        }
    })
}
