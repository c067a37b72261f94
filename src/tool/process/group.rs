//! A program under way, and the process group that it leads.

use std::collections::BTreeSet;
use std::io;
use std::pin::pin;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, RawPid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::capture::Capture;

/// How long the output of an ended program is waited for. Its group is dead by then, so the pipes are closed, unless
/// someone has left the group and holds them still.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// The groups under way in this process: as many as calls are. None when no more may start.
static GROUPS: Mutex<Option<BTreeSet<RawPid>>> = Mutex::new(Some(BTreeSet::new()));

fn groups() -> MutexGuard<'static, Option<BTreeSet<RawPid>>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills all programs that this process has under way, with all in their groups, and lets no more start. To be called
/// where the process is about to end and its tasks may not be dropped before: nothing it started is left behind then.
pub(crate) fn kill_programs() {
    groups().take().unwrap_or_default().into_iter().filter_map(Pid::from_raw).for_each(kill);
}

fn kill(leader: Pid) {
    // It fails where nobody is left, which is what it is for.
    let _ = kill_process_group(leader, Signal::KILL);
}

/// A program under way, and the process group that it leads. Dropping it kills the group; the runtime reaps the
/// program then.
pub(in crate::tool) struct Group {
    child: Child,
    /// None once the group was killed: its number may mean another group from then on.
    leader: Option<Pid>,
}

impl Group {
    /// Starts a program as the leader of a group of its own.
    pub(in crate::tool) fn start(command: &mut Command) -> io::Result<Self> {
        // Nothing starts between the end of all and the end of the process.
        let mut groups = groups();
        let Some(groups) = groups.as_mut() else { return Err(io::Error::other("the process is about to end")) };
        let child = command.process_group(0).spawn()?;
        let leader = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        groups.extend(leader.map(Pid::as_raw_pid));
        Ok(Self { child, leader })
    }

    /// Feeds the program, takes what it says, and waits for its end. Whoever is left in its group then is killed, so
    /// that nobody holds the pipes. Once `cancelled`, all of the group are told to end, and those who hold the pipes are
    /// waited for too: the program that leads them may end before they do.
    pub(in crate::tool) async fn finish(
        &mut self,
        input: &str,
        stdout: &mut Capture,
        stderr: &mut Capture,
        cancelled: &CancellationToken,
    ) -> io::Result<ExitStatus> {
        let (stdin, out, err) = (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take());
        let mut pump = pin!(async { tokio::join!(feed(stdin, input), stdout.drain(out), stderr.drain(err)) });
        let (mut drained, mut told) = (false, false);
        let status = loop {
            tokio::select! {
                biased;
                // While the leader is not reaped, the group keeps its number.
                status = self.child.wait(), if drained || !told => break status,
                _ = &mut pump, if !drained => drained = true,
                () = cancelled.cancelled(), if !told => {
                    told = true;
                    self.terminate();
                }
            }
        };
        // No await stands between the program's being reaped and this: while others are in its group the number can't
        // be given away, and when there are none there is no time to do so.
        self.kill();
        if !drained {
            let _ = timeout(DRAIN_GRACE, pump).await;
        }
        status
    }

    fn terminate(&self) {
        if let Some(leader) = self.leader {
            // It fails where nobody is left.
            let _ = kill_process_group(leader, Signal::TERM);
        }
    }

    fn kill(&mut self) {
        let Some(leader) = self.leader.take() else { return };
        kill(leader);
        if let Some(groups) = groups().as_mut() {
            groups.remove(&leader.as_raw_pid());
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Writes the program's input. A program need not read it: that is no error.
async fn feed(stdin: Option<ChildStdin>, input: &str) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(input.as_bytes()).await;
    }
}
