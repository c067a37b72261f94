//! What a decision costs that the gate asks policy for, beside Cedar alone.
//!
//! Ours is [`Policies::decide`] with all that the gate pays for it: who asks what of whom, the circumstances made of the call,
//! the policies asked, and what they said put into a decision. The floors are `Authorizer::is_authorized` on the whole set,
//! with entities made before, and with a request and a context made for each call, as a caller has to:
//!
//! * **all**: a context with all that the schema has, for a caller who does not know what the policies look at;
//! * **lean**: a context with just what these policies look at, which only a caller knows who has read them.
//!
//! Two shapes: policies each about another agent and tool, as is usual; and policies that are all about the very call, and all
//! hold. Calls of up to 16 agents go in turns, each with a policy about it. Promised is less than twice the floor, the lean one too.
//!
//! `cargo bench --bench policy`

#![expect(clippy::expect_used, reason = "a bench that cannot run should say so at once")]

use std::collections::HashSet;
use std::fmt::Write;
use std::hint::black_box;
use std::time::{Duration, Instant};

use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityUid, PolicySet, Request, RestrictedExpression, Schema,
};
use provost::budget::Amount;
use provost::policy::{Asked, Policies};
use provost::run::{Labels, Subject};
use provost::runtime::{check_policies, policy_vocabulary};
use provost::spec::{Network, Permission};

/// As the `provost` binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many agents there are, and how many tools: each of 1,000 policies can be about a pair of its own.
const WIDTH: usize = 32;

/// How many agents take turns.
const CALLERS: usize = 16;

/// How long each figure is measured.
const LONG_ENOUGH: Duration = Duration::from_secs(2);

/// How many decisions a figure rests on at the most: the times of all are kept.
const ENOUGH: usize = 1_000_000;

const NOW_MS: u64 = 1_795_000_000_000;

/// Whether the policies are each about another agent and tool, or all about the call.
#[derive(Clone, Copy)]
enum Shape {
    Usual,
    Worst,
}

fn policies(shape: Shape, count: usize) -> String {
    (0..count).fold(String::new(), |mut text, number| {
        let (agent, tool) = (number % WIDTH, number / WIDTH);
        let head = match shape {
            Shape::Usual => {
                format!("principal == Agent::\"agent{agent}\", action == Action::\"call_tool:tool{tool}\", resource")
            }
            Shape::Worst => "principal, action == Action::\"call_tool:tool0\", resource".to_owned(),
        };
        let _ = write!(
            text,
            "@id(\"policy {number}\")\npermit ({head})\nwhen {{ context.arguments.path like \"docs/*\" && context.depth < {} && \
             !context.labels.contains(\"secret\") }};\n",
            number + 5,
        );
        text
    })
}

fn network(policies: &str) -> Network {
    let mut text = "[network]\nname = \"bench\"\nentry = \"agent0\"\n".to_owned();
    let all: Vec<String> = (0..WIDTH).map(|number| format!("\"tool{number}\"")).collect();
    let others: Vec<String> = (1..WIDTH).map(|number| format!("\"agent{number}\"")).collect();
    for number in 0..WIDTH {
        let _ = write!(text, "[agents.agent{number}]\nprompt = \"x\"\ntools = [{}]\n", all.join(", "));
        if number == 0 {
            let _ = writeln!(text, "delegates_to = [{}]", others.join(", "));
        }
        let _ = write!(text, "[tools.tool{number}]\nbuiltin = \"fs.write\"\nroot = \".\"\n");
    }
    let loaded = Network::parse("bench.toml", &text, std::path::Path::new("."));
    loaded.unwrap_or_else(|invalid| panic!("{invalid}")).network.with_policy("bench.cedar", policies)
}

/// Cedar alone.
struct Bare {
    authorizer: Authorizer,
    set: PolicySet,
    entities: Entities,
    /// Whether a context has no more than the policies look at.
    is_lean: bool,
}

fn uid(of: &str, name: &str) -> EntityUid {
    format!("{of}::\"{name}\"").parse().expect("it is a name")
}

impl Bare {
    fn new(network: &Network, text: &str, is_lean: bool) -> Self {
        let vocabulary = policy_vocabulary(network).expect("the bench's network has a schema");
        let schema = Schema::from_json_value(vocabulary.to_json().clone()).expect("it is a schema");
        let parents: HashSet<EntityUid> = [uid("Network", "bench"), uid("Tenant", "acme")].into();
        let mut all: Vec<Entity> =
            parents.iter().map(|one| Entity::new_no_attrs(one.clone(), HashSet::new())).collect();
        for number in 0..WIDTH {
            all.push(Entity::new_no_attrs(uid("Agent", &format!("agent{number}")), parents.clone()));
            all.push(Entity::new_no_attrs(uid("Tool", &format!("tool{number}")), HashSet::new()));
        }
        let actions = schema.action_entities().expect("there are actions");
        let entities = actions.add_entities(all, None).expect("they are entities");
        let set = text.parse().expect("they are policies");
        Self { authorizer: Authorizer::new(), set, entities, is_lean }
    }

    /// Decides as a caller does who has the call's names and values.
    fn decide(&self, deed: &[EntityUid; 3], path: &str, json: &serde_json::Value) -> usize {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let long = RestrictedExpression::new_long;
        let record =
            |pairs: Vec<(String, RestrictedExpression)>| RestrictedExpression::new_record(pairs).expect("a record");
        let none = || RestrictedExpression::new_set([]);
        let arguments = vec![("path".to_owned(), text(path)), ("text".to_owned(), text("hello"))];
        let mut pairs = vec![
            ("arguments".to_owned(), record(arguments)),
            ("depth".to_owned(), long(1)),
            ("labels".to_owned(), RestrictedExpression::new_set([text("private")])),
        ];
        if !self.is_lean {
            let counts = ["tokens", "model_calls", "tool_calls", "steps"].map(|name| (name.to_owned(), long(10)));
            let cost = ("cost_usd".to_owned(), RestrictedExpression::new_decimal("0.0100"));
            let now = RestrictedExpression::new_datetime("2026-11-18T10:26:40.000Z");
            pairs.extend([
                ("run".to_owned(), text("01")),
                ("session".to_owned(), text("one")),
                ("now".to_owned(), now),
                ("approved".to_owned(), none()),
                ("spent".to_owned(), record(counts.into_iter().chain([cost]).collect())),
                ("json".to_owned(), text(&json.to_string())),
            ]);
        }
        let context = Context::from_pairs(pairs).expect("a context");
        let [principal, action, resource] = deed.clone();
        let request = Request::new(principal, action, resource, context, None).expect("a request");
        let response = self.authorizer.is_authorized(&request, &self.set, &self.entities);
        response.diagnostics().reason().count()
    }
}

/// Does something again and again; returns how many nanoseconds it took at the middle, and in the slowest hundredth.
fn measure(mut work: impl FnMut(usize)) -> [f64; 2] {
    (0..CALLERS * 4).for_each(&mut work);
    let (began, mut times) = (Instant::now(), Vec::with_capacity(ENOUGH));
    while times.len() < ENOUGH && began.elapsed() < LONG_ENOUGH {
        let one = Instant::now();
        work(times.len());
        times.push(one.elapsed().as_nanos() as u64);
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] as f64;
    [at(0.5), at(0.99)]
}

fn ours(policies: &Policies, callers: usize) -> [f64; 2] {
    let subjects: Vec<Subject> = (0..CALLERS).map(|number| subject(number).0).collect();
    let agents: Vec<String> = (0..CALLERS).map(|number| format!("agent{number}")).collect();
    let mut labels = Labels::default();
    labels.add("private");
    let spent = Amount { cost_nano_usd: 10_000_000, tokens: 10, model_calls: 10, tool_calls: 10, steps: 10 };
    measure(|number| {
        let caller = number % callers;
        let asked = Asked {
            agent: &agents[caller],
            subject: &subjects[caller],
            run: "01",
            tenant: "acme",
            session: Some("one"),
            labels: &labels,
            depth: 1,
            spent,
            now_ms: NOW_MS,
            approved: &[],
        };
        black_box(policies.decide(black_box(&asked), None));
    })
}

fn subject(caller: usize) -> (Subject, String) {
    let path = format!("docs/chapter/{caller}.md");
    let arguments = serde_json::json!({ "path": path, "text": "hello" });
    (Subject::Tool { tool: "tool0".into(), arguments }, path)
}

fn bare(bare: &Bare, callers: usize) -> [f64; 2] {
    let calls: Vec<([EntityUid; 3], String, serde_json::Value)> = (0..CALLERS)
        .map(|number| {
            let (Subject::Tool { arguments, .. }, path) = subject(number) else { unreachable!() };
            let deed =
                [uid("Agent", &format!("agent{number}")), uid("Action", "call_tool:tool0"), uid("Tool", "tool0")];
            (deed, path, arguments)
        })
        .collect();
    measure(|number| {
        let (deed, path, arguments) = &calls[number % callers];
        black_box(bare.decide(black_box(deed), path, arguments));
    })
}

fn main() {
    println!("one decision, in microseconds (p50 / p99), and how often ours has the floor's time:");
    println!(
        "{:>24} {:>9} {:>17} {:>17} {:>17} {:>12} {:>12}",
        "policies", "", "ours", "bare, all", "bare, lean", "ours / all", "ours / lean"
    );
    for (shape, words) in [(Shape::Usual, "about others"), (Shape::Worst, "about the call")] {
        for count in [1, 10, 100, 1_000] {
            let text = policies(shape, count);
            let network = network(&text);
            let policies = check_policies(&network).unwrap_or_else(|invalid| panic!("{invalid}")).policies;
            let (all, lean) = (Bare::new(&network, &text, false), Bare::new(&network, &text, true));
            same(&policies, &all, &lean, shape, count);
            // Whom no policy is about is not asked about: that would cost us next to nothing.
            let callers = match shape {
                Shape::Usual => CALLERS.min(count),
                Shape::Worst => CALLERS,
            };
            let [ours, all, lean] = [ours(&policies, callers), bare(&all, callers), bare(&lean, callers)];
            let figure = |[p50, p99]: [f64; 2]| format!("{:.2} / {:.2}", p50 / 1e3, p99 / 1e3);
            println!(
                "{words:>24} {count:>9} {:>17} {:>17} {:>17} {:>12.2} {:>12.2}",
                figure(ours),
                figure(all),
                figure(lean),
                ours[0] / all[0],
                ours[0] / lean[0],
            );
        }
    }
}

/// Ours and the floors decide the same.
fn same(policies: &Policies, all: &Bare, lean: &Bare, shape: Shape, count: usize) {
    let (subject, path) = subject(0);
    let Subject::Tool { arguments, .. } = &subject else { unreachable!() };
    let deed = [uid("Agent", "agent0"), uid("Action", "call_tool:tool0"), uid("Tool", "tool0")];
    let hold = match shape {
        Shape::Usual => 1,
        Shape::Worst => count,
    };
    assert_eq!([all, lean].map(|bare| bare.decide(&deed, &path, arguments)), [hold; 2]);
    let labels = Labels::default();
    let asked = Asked {
        agent: "agent0",
        subject: &subject,
        run: "01",
        tenant: "acme",
        session: None,
        labels: &labels,
        depth: 1,
        spent: Amount::default(),
        now_ms: NOW_MS,
        approved: &[],
    };
    let decision = policies.decide(&asked, None);
    assert_eq!((decision.permission, decision.by.len()), (Permission::Allow, hold));
}
