//! A network of agents written in Rust that is asked much of which some makes them panic, and an account of what became
//! of each question. The bench and a test share it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use provost::run::{Event, Move, Status, Turn};
use provost::runtime::{Recorder, RunRequest, Runtime};
use provost::spec::{AgentSpec, Network, NetworkSpec, Scope};

/// How many questions one run asks at once.
pub(crate) const QUESTIONS_PER_RUN: usize = 10;

/// How often an agent is given a question at which it panics.
const MAX_DELIVERIES: u32 = 3;

/// How many agents there are beside those that panic.
const BYSTANDERS: usize = 8;

/// What agents say when they panic, after the question's number.
pub(crate) const PANIC: &str = "can't be worked on";

/// What a question does to the agent that is asked it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is answered.
    Fine,
    /// It makes the agent panic the first time, and is then answered.
    PanicsOnce,
    /// It makes the agent panic every time.
    Poison,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Fine, Self::PanicsOnce, Self::Poison];

    /// Says of what kind the `nth` question of a storm is. Of six in a row one is poison, three panic once and two are fine:
    /// as many panics as questions.
    pub(crate) fn in_a_storm(nth: usize) -> Self {
        match nth % 6 {
            0 => Self::Poison,
            1..=3 => Self::PanicsOnce,
            _ => Self::Fine,
        }
    }

    fn panics(self) -> u64 {
        match self {
            Self::Fine => 0,
            Self::PanicsOnce => 1,
            Self::Poison => u64::from(MAX_DELIVERIES),
        }
    }
}

/// One question, by its number.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    id: usize,
    to: String,
    kind: Kind,
}

impl Question {
    fn line(&self) -> String {
        format!("{} {} {:?}", self.to, self.id, self.kind)
    }

    /// Reads what is said to the agent: the number and the kind.
    fn read(said: &str) -> (usize, Kind) {
        let (id, kind) = said.split_once(' ').unwrap();
        (id.parse().unwrap(), Kind::ALL.into_iter().find(|known| format!("{known:?}") == kind).unwrap())
    }
}

/// What became of one question.
#[derive(Default)]
struct Fate {
    /// What kind it is, counted from 1; 0 where it has not been sent.
    sent: AtomicU8,
    /// How often an agent was given it.
    delivered: AtomicU8,
    /// How often an agent came to an answer.
    handled: AtomicU8,
    /// How often the answer came to who asked.
    answered: AtomicU8,
    /// How often it became a dead letter.
    dead: AtomicU8,
}

/// What became of all questions. Its memory is taken at once, so that it does not grow while memory is measured.
pub(crate) struct Account {
    fates: Vec<Fate>,
    next: AtomicUsize,
    panics: AtomicU64,
}

/// The account's sums, and what is wrong in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) sent: u64,
    pub(crate) handled_once: u64,
    pub(crate) dead_lettered: u64,
    /// How many panics those questions make.
    pub(crate) panics: u64,
    /// Questions that were lost, handled twice, or given up without need.
    pub(crate) wrong: Vec<String>,
}

impl Account {
    pub(crate) fn new(questions: usize) -> Self {
        let fates = (0..questions).map(|_| Fate::default()).collect();
        Self { fates, next: AtomicUsize::new(0), panics: AtomicU64::new(0) }
    }

    /// Makes the next question.
    pub(crate) fn question(&self, to: String, kind: Kind) -> Question {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let nth = Kind::ALL.into_iter().position(|known| known == kind).unwrap();
        self.fates[id].sent.store(nth as u8 + 1, Ordering::Relaxed);
        Question { id, to, kind }
    }

    /// How often an agent has panicked.
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// An agent is asked: it panics, or comes to its answer.
    fn handle(&self, said: &str) -> String {
        let (id, kind) = Question::read(said);
        let delivery = 1 + self.fates[id].delivered.fetch_add(1, Ordering::Relaxed);
        if u64::from(delivery) <= kind.panics() {
            self.panics.fetch_add(1, Ordering::Relaxed);
            panic!("question {id} {PANIC}");
        }
        self.fates[id].handled.fetch_add(1, Ordering::Relaxed);
        format!("answer {id}")
    }

    /// Adds up what became of the questions.
    pub(crate) fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        let read = |count: &AtomicU8| count.load(Ordering::Relaxed);
        for (id, fate) in self.fates.iter().enumerate() {
            let Some(&kind) = usize::from(read(&fate.sent)).checked_sub(1).and_then(|nth| Kind::ALL.get(nth)) else {
                continue;
            };
            let expected = match kind {
                Kind::Fine => (1, 1, 1, 0),
                Kind::PanicsOnce => (2, 1, 1, 0),
                Kind::Poison => (MAX_DELIVERIES as u8, 0, 0, 1),
            };
            let found = (read(&fate.delivered), read(&fate.handled), read(&fate.answered), read(&fate.dead));
            if found != expected {
                let words = "(given to an agent, handled, answered, dead-lettered)";
                sums.wrong.push(format!("question {id}, {kind:?}: {found:?} and not {expected:?} times {words}"));
            }
            sums.sent += 1;
            sums.handled_once += u64::from(found.1 == 1);
            sums.dead_lettered += u64::from(found.3 == 1);
            sums.panics += kind.panics();
        }
        sums
    }
}

/// Names the agent that the `nth` question goes to: all get about as many, and not in turn.
pub(crate) fn worker(nth: usize, agents: usize) -> String {
    format!("worker{}", (nth.wrapping_mul(2_654_435_761) >> 7) % agents)
}

/// Names a bystander.
pub(crate) fn bystander(nth: usize) -> String {
    format!("bystander{}", nth % BYSTANDERS)
}

/// Starts a network of `agents` that may panic, and some bystanders, each with one instance for all runs, which an entry
/// agent asks what its run says.
///
/// A run bears as many restarts as it can need: each of its questions is given again until it is given up. By the
/// default, 3 in 30 s, a run would end as failed at the second poisoned question, which is what one wants of three agents
/// at work and not of a storm.
pub(crate) async fn start(agents: usize, account: &Arc<Account>, recorder: Arc<Recorder>) -> Runtime {
    let asked: Vec<String> =
        (0..agents).map(|nth| format!("worker{nth}")).chain((0..BYSTANDERS).map(bystander)).collect();
    let mut spec = NetworkSpec::default();
    (spec.network.name, spec.network.entry) = ("storm".to_owned(), "entry".to_owned());
    spec.supervision.intensity = QUESTIONS_PER_RUN as u32 * (MAX_DELIVERIES - 1);
    let entry = AgentSpec { delegates_to: asked.clone(), ..AgentSpec::new("You pass questions on.") };
    spec.agents.insert("entry".to_owned(), entry);
    for name in &asked {
        let agent =
            AgentSpec { scope: Scope::Network, max_deliveries: MAX_DELIVERIES, ..AgentSpec::new("You answer.") };
        spec.agents.insert(name.clone(), agent);
    }
    let passes_on = |turn: &Turn<'_>| match turn.step {
        1 => Move::ask(turn.messages[0].text().lines().map(|line| {
            let (to, question) = line.split_once(' ').unwrap();
            (to, question.to_owned())
        })),
        _ => Move::Answer(turn.results().collect::<Vec<_>>().join("\n")),
    };
    let mut builder = Runtime::builder(Network::new(spec).unwrap()).recorder(recorder).agent("entry", passes_on);
    for name in asked {
        let account = account.clone();
        builder = builder.agent(name, move |turn: &Turn<'_>| Move::Answer(account.handle(turn.asked())));
    }
    builder.start().await.unwrap()
}

/// Asks questions in one run, and takes down what its events and its answer say of each.
pub(crate) async fn ask(runtime: &Runtime, account: &Account, questions: &[Question]) {
    let input = questions.iter().map(Question::line).collect::<Vec<_>>().join("\n");
    let run = runtime.start(RunRequest::new(input)).await.unwrap();
    let mut events = run.events();
    let report = run.wait().await.unwrap();
    assert_eq!(report.status, Status::Done, "{:?}", report.reason);
    for line in report.answer_text().unwrap().lines() {
        if let Some(id) = line.strip_prefix("answer ") {
            account.fates[id.parse::<usize>().unwrap()].answered.fetch_add(1, Ordering::Relaxed);
        }
    }
    while let Some(envelope) = events.next().await {
        let Event::DeadLettered { message, reason, .. } = &envelope.event else { continue };
        let (id, _) = Question::read(message.text());
        // A letter without its reason does not count as accounted for.
        let says_why = reason.contains(&format!("question {id} {PANIC}"));
        account.fates[id].dead.fetch_add(u8::from(says_why), Ordering::Relaxed);
    }
}
