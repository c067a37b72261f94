//! A short storm: every message to agents that panic is handled once, or a dead letter. The long one is `just storm`.

use std::sync::Arc;

use futures_util::future::join_all;
use provost::runtime::Recorder;

use self::load::{Account, Kind, QUESTIONS_PER_RUN, Sums, ask, bystander, start, worker};

#[path = "../../benches/storm/load.rs"]
mod load;

const AGENTS: usize = 60;

/// How many questions go to agents that may panic; a multiple of six.
const QUESTIONS: usize = 600;

async fn weathers_a_storm(recorder: Recorder) {
    let account = Arc::new(Account::new(QUESTIONS + 50 + AGENTS));
    let recorder = Arc::new(recorder);
    let runtime = start(AGENTS, &account, recorder.clone()).await;
    let stormy: Vec<_> =
        (0..QUESTIONS).map(|nth| account.question(worker(nth, AGENTS), Kind::in_a_storm(nth))).collect();
    let calm: Vec<_> = (0..50).map(|nth| [account.question(bystander(nth), Kind::Fine)]).collect();
    let storm = join_all(stormy.chunks(QUESTIONS_PER_RUN).map(|some| ask(&runtime, &account, some)));
    let beside = join_all(calm.iter().map(|one| ask(&runtime, &account, one)));
    tokio::join!(storm, beside);
    // Each agent's place is free again: a question that was lost in a mailbox would keep it.
    let last: Vec<_> = (0..AGENTS).map(|nth| account.question(format!("worker{nth}"), Kind::Fine)).collect();
    join_all(last.chunks(QUESTIONS_PER_RUN).map(|some| ask(&runtime, &account, some))).await;
    let (poison, all) = (QUESTIONS as u64 / 6, (QUESTIONS + 50 + AGENTS) as u64);
    let (handled_once, panics) = (all - poison, QUESTIONS as u64);
    assert_eq!(account.sums(), Sums { sent: all, handled_once, dead_lettered: poison, panics, wrong: Vec::new() });
    assert_eq!((account.panics(), recorder.ledger().open.len()), (panics, 0));
    runtime.shutdown().await;
}

#[tokio::test]
async fn in_a_storm_every_message_is_handled_once_or_a_dead_letter() {
    weathers_a_storm(Recorder::in_memory()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_a_storm_on_several_threads_and_on_disk_too() {
    let directory = tempfile::tempdir().unwrap();
    weathers_a_storm(Recorder::open(directory.path(), false).unwrap()).await;
}
