//! How an agent is let go of that has work under way which nobody waits for any more.

use std::collections::BTreeSet;

use super::RunLoop;
use crate::run::{AgentId, CallId, Event, Labels};

impl RunLoop {
    /// Stops the calls of an agent that is given up, and ends whom it has asked.
    pub(super) fn let_go(&mut self, agent: &AgentId, cause: u64) {
        self.stop_calls(agent);
        for (agent, event) in self.state.let_go(agent) {
            match event {
                Event::AgentEnded { outcome } => {
                    self.stop_calls(&agent);
                    self.end_agent(&agent, cause, outcome, &Labels::default());
                }
                event => drop(self.record(Some(&agent), Some(cause), event)),
            }
        }
    }

    /// Stops the calls of an agent, wherever they are: under way, or in a mailbox.
    fn stop_calls(&mut self, agent: &AgentId) {
        let in_mailboxes = self.state.in_mailboxes().map(|(call, _)| call).chain(self.blocked.keys());
        let waiting: BTreeSet<CallId> = in_mailboxes.filter(|call| call.agent == *agent).cloned().collect();
        for call in waiting {
            self.blocked.remove(&call);
            self.leave_mailbox(&call);
        }
        let live: BTreeSet<CallId> = self.live.keys().filter(|call| call.agent == *agent).cloned().collect();
        live.iter().filter_map(|call| self.live.remove(call)).for_each(|live| live.abort.abort());
    }
}
