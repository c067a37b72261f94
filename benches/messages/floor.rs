//! The floors: the same traffic over bare ractor actors and bare channels, with no record, no gate and no run.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::{mpsc, oneshot};

use super::{ASKERS, ASKS, ON_THEIR_WAY};

/// What the floor's actors are told.
pub(crate) enum Told {
    /// A message that is counted.
    One(Arc<str>),
    /// The last one was counted; tell so.
    Last(oneshot::Sender<()>),
    /// A message to be passed on; who sends it is answered at once.
    PassOn(Arc<str>, RpcReplyPort<()>),
    /// A message that was passed on, with where its acknowledgement goes.
    Passed(Arc<str>, ActorRef<Told>),
    /// A message was handled.
    Done,
    /// A question.
    Ask(Arc<str>, RpcReplyPort<Arc<str>>),
}

/// An actor that counts, passes on and answers.
struct Bare;

/// Whom a relay passes messages on to, and how many it has yet to hear of.
#[derive(Default)]
struct Seen {
    count: u64,
    to: Option<ActorRef<Told>>,
    last: Option<(u64, oneshot::Sender<()>)>,
}

impl Actor for Bare {
    type Msg = Told;
    type State = Seen;
    type Arguments = Option<(ActorRef<Told>, u64, oneshot::Sender<()>)>;

    async fn pre_start(&self, _: ActorRef<Told>, relay: Self::Arguments) -> Result<Seen, ActorProcessingErr> {
        let Some((to, messages, last)) = relay else { return Ok(Seen::default()) };
        Ok(Seen { count: 0, to: Some(to), last: Some((messages, last)) })
    }

    async fn handle(&self, me: ActorRef<Told>, told: Told, seen: &mut Seen) -> Result<(), ActorProcessingErr> {
        match told {
            Told::One(text) => seen.count += text.len() as u64,
            Told::Last(counted) => counted.send(()).unwrap_or_default(),
            Told::PassOn(text, reply) => {
                seen.to.as_ref().map_or(Ok(()), |to| to.cast(Told::Passed(text, me)))?;
                reply.send(())?;
            }
            Told::Passed(text, from) => {
                seen.count += text.len() as u64;
                from.cast(Told::Done)?;
            }
            Told::Done => {
                seen.count += 1;
                if let Some((_, last)) = seen.last.take_if(|(messages, _)| *messages == seen.count) {
                    last.send(()).unwrap_or_default();
                }
            }
            Told::Ask(text, reply) => reply.send(text)?,
        }
        Ok(())
    }
}

async fn bare() -> ActorRef<Told> {
    Actor::spawn(None, Bare, None).await.expect("an actor starts").0
}

/// Messages one way through a channel, until the last has been taken from it.
pub(crate) async fn channel_one_way(messages: u64) {
    let (sender, mut receiver) = mpsc::channel::<Arc<str>>(1_024);
    let taken = tokio::spawn(async move {
        let mut count = 0;
        while let Some(text) = receiver.recv().await {
            count += text.len();
        }
        count
    });
    let text: Arc<str> = "x".into();
    for _ in 0..messages {
        sender.send(text.clone()).await.expect("somebody receives");
    }
    drop(sender);
    assert_eq!(taken.await.expect("nobody panics") as u64, messages);
}

/// Messages one way to an actor, until the last has been handled.
pub(crate) async fn ractor_one_way(messages: u64) {
    let (actor, text) = (bare().await, Arc::<str>::from("x"));
    for _ in 0..messages {
        actor.cast(Told::One(text.clone())).expect("it lives");
    }
    let (last, counted) = oneshot::channel();
    actor.cast(Told::Last(last)).expect("it lives");
    counted.await.expect("it answers");
    actor.stop(None);
}

/// Messages to an actor that answers, passes each on to another and hears back when it is handled. These are the very
/// messages that one through a run's supervisor takes.
pub(crate) async fn ractor_relayed(messages: u64) {
    let (actor, text) = (bare().await, Arc::<str>::from("x"));
    let (last, counted) = oneshot::channel();
    let relay = Some((actor.clone(), messages, last));
    let relay = Actor::spawn(None, Bare, relay).await.expect("an actor starts").0;
    for _ in 0..messages / ON_THEIR_WAY {
        let sent = (0..ON_THEIR_WAY).map(|_| relay.call(|reply| Told::PassOn(text.clone(), reply), None));
        assert!(join_all(sent).await.iter().all(|sent| sent.as_ref().is_ok_and(|sent| sent.is_success())));
    }
    counted.await.expect("it answers");
    actor.stop(None);
    relay.stop(None);
}

/// Questions to a task behind a channel, each with a channel for its answer; some ask at once, each one after the other.
pub(crate) async fn channel_asks() {
    let askers = (0..ASKERS).map(|_| {
        tokio::spawn(async {
            let (sender, mut receiver) = mpsc::channel::<(Arc<str>, oneshot::Sender<Arc<str>>)>(64);
            tokio::spawn(async move {
                while let Some((text, answer)) = receiver.recv().await {
                    answer.send(text).unwrap_or_default();
                }
            });
            for _ in 0..ASKS {
                let (answer, answered) = oneshot::channel();
                sender.send(("x".into(), answer)).await.expect("somebody receives");
                answered.await.expect("it answers");
            }
        })
    });
    join_all(askers.collect::<Vec<_>>()).await;
}

async fn ask(actor: &ActorRef<Told>) {
    let answer = actor.call(|reply| Told::Ask("x".into(), reply), None).await;
    assert!(answer.is_ok_and(|answer| answer.is_success()));
}

/// Questions to actors; some ask at once, each one after the other.
pub(crate) async fn ractor_asks() {
    let askers = (0..ASKERS).map(|_| {
        tokio::spawn(async {
            let actor = bare().await;
            for _ in 0..ASKS {
                ask(&actor).await;
            }
            actor.stop(None);
        })
    });
    join_all(askers.collect::<Vec<_>>()).await;
}

/// Questions of which each gets an actor of its own, as a delegation has an instance of its own.
pub(crate) async fn ractor_spawns_and_asks() {
    let askers = (0..ASKERS).map(|_| {
        tokio::spawn(async {
            for _ in 0..ASKS {
                let actor = bare().await;
                ask(&actor).await;
                actor.stop(None);
            }
        })
    });
    join_all(askers.collect::<Vec<_>>()).await;
}

/// Asks many actors at once, and waits for all answers.
pub(crate) async fn ractor_fan_out(actors: &[ActorRef<Told>]) {
    join_all(actors.iter().map(ask)).await;
}

/// Starts actors that wait.
pub(crate) async fn ractor_idle(actors: usize) -> Vec<ActorRef<Told>> {
    let mut idle = Vec::with_capacity(actors);
    for _ in 0..actors {
        idle.push(bare().await);
    }
    idle
}

/// An actor that panics when it is told to, and says when it is at work.
struct Fragile;

impl Actor for Fragile {
    type Msg = Arc<std::sync::Mutex<Instant>>;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Self::Msg>, at: Self::Msg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        *at.lock().expect("nobody panics holding it") = Instant::now();
        panic!("as it was told");
    }
}

/// Starts [`Fragile`] again each time it has panicked, and gives it the same message again.
struct Parent;

/// How often yet the child is to be started again, and how long each restart took.
struct Restarts {
    left: usize,
    panicked: Arc<std::sync::Mutex<Instant>>,
    took_us: Vec<f64>,
    done: Option<oneshot::Sender<Vec<f64>>>,
}

impl Actor for Parent {
    type Msg = ();
    type State = Restarts;
    type Arguments = (usize, oneshot::Sender<Vec<f64>>);

    async fn pre_start(&self, me: ActorRef<()>, (left, done): Self::Arguments) -> Result<Restarts, ActorProcessingErr> {
        let panicked = Arc::new(std::sync::Mutex::new(Instant::now()));
        me.spawn_linked(None, Fragile, ()).await?.0.cast(panicked.clone())?;
        Ok(Restarts { left, panicked, took_us: Vec::new(), done: Some(done) })
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<()>,
        event: SupervisionEvent,
        restarts: &mut Restarts,
    ) -> Result<(), ActorProcessingErr> {
        let SupervisionEvent::ActorFailed(..) = event else { return Ok(()) };
        let panicked = *restarts.panicked.lock().expect("nobody panics holding it");
        let child = me.spawn_linked(None, Fragile, ()).await?.0;
        restarts.took_us.push(panicked.elapsed().as_secs_f64() * 1e6);
        restarts.left -= 1;
        if restarts.left > 0 {
            child.cast(restarts.panicked.clone())?;
        } else if let Some(done) = restarts.done.take() {
            done.send(std::mem::take(&mut restarts.took_us)).unwrap_or_default();
            child.stop(None);
            me.stop(None);
        }
        Ok(())
    }
}

/// Lets an actor panic and be started again so often; returns for each time how many microseconds that took.
pub(crate) async fn ractor_restarts(times: usize) -> Vec<f64> {
    let (done, took_us) = oneshot::channel();
    drop(Actor::spawn(None, Parent, (times, done)).await.expect("an actor starts"));
    took_us.await.expect("it ends")
}
