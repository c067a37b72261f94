//! Writing in a task of the caller's own, for simulation: the same writer on the same file, but nothing is synced, and
//! the caller says when a commit happens.

use tokio::sync::watch;

use super::commit::Writer;
use super::writer::Writing;

/// Writes what a journal that was opened by [`Journal::open_inline`](super::Journal::open_inline) is given.
///
/// Dropping it, or its future at any point, is what the end of its process would be: what has not been written is lost.
pub struct Inline {
    writing: Writing,
    end: watch::Sender<bool>,
}

/// A place in the writing of a commit at which the simulation may take its time, or end the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Something is in line, and somebody waits for it or not.
    Due {
        /// Whether somebody waits.
        is_waited_for: bool,
    },
    /// A commit has been made. Those who wait for it have been told, but none of them has had a turn.
    Committed,
    /// The store has failed: nothing more is written.
    Failed,
}

impl Inline {
    pub(super) fn new(writing: Writing, end: watch::Sender<bool>) -> Self {
        Self { writing, end }
    }

    /// Writes until the journal is closed. `pace` is awaited at each [`Moment`]. After a failure this never returns, and
    /// the store is held until it is dropped.
    pub async fn write(self, mut pace: impl AsyncFnMut(Moment)) {
        let Self { writing, end } = self;
        let mut taken = Vec::new();
        let written = async {
            let mut writer = Writer::new(&writing.connection, &writing.path, writing.epoch)?;
            while let Some(is_waited_for) = writing.queue.is_due().await {
                pace(Moment::Due { is_waited_for }).await;
                writing.queue.take_all(&mut taken);
                writer.write(&mut taken, &writing.queue)?;
                taken.clear();
                writing.queue.written();
                pace(Moment::Committed).await;
            }
            Ok(())
        };
        if let Err(error) = written.await {
            writing.fail(&mut taken, &error);
            pace(Moment::Failed).await;
            std::future::pending::<()>().await;
        }
        drop(writing);
        end.send_replace(true);
    }
}
