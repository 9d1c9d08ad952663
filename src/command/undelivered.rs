//! What an application that has ended leaves behind: bytes that its clients have not taken yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connection::{ConnectionId, Entry, Table};
use crate::drain::Drain;
use crate::protocol::Direction;
use crate::relay::Order;

/// Between looks at the connections: far below what a client notices, and the process does nothing else.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The connections that were open when the application ended.
pub(super) struct Undelivered<'a> {
    table: &'a Table,
    /// Of each: the bytes that its client was given, and since when it is no more.
    given: HashMap<ConnectionId, (u64, Instant)>,
}

impl<'a> Undelivered<'a> {
    pub(super) fn of(table: &'a Table) -> Self {
        Undelivered { table, given: HashMap::new() }
    }

    /// Waits until every client has been given what the application had sent to it, and a FIN.
    ///
    /// The kernel closes the sockets of a process before it tells its parent, so each connection finds its
    /// upstream's end by itself. One that nothing moves on for `patience` is closed if its client was given all,
    /// and reset, which counts as forced, if not; so is every one at the drain's deadline.
    pub(super) async fn deliver(mut self, drain: &Drain, patience: Duration) {
        for entry in self.table.list() {
            // One between two exchanges is owed nothing.
            let is_idle = entry.class().excluded().is_some();
            entry.control.order(if is_idle { Order::Leave } else { Order::Drain });
        }
        let deadline = drain.state().progress.map(|progress| progress.deadline);
        while self.look(patience, deadline) {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Ends who has waited for too long. `false` when there is nobody left to wait for.
    fn look(&mut self, patience: Duration, deadline: Option<Instant>) -> bool {
        let now = Instant::now();
        let is_over = deadline.is_some_and(|deadline| now >= deadline);
        let mut remaining = 0;
        for entry in self.table.list() {
            if entry.control.current() >= Order::Close {
                continue;
            }
            if is_over || self.silence(&entry, now) >= patience {
                self.end(&entry);
            } else {
                remaining += 1;
            }
        }
        remaining > 0
    }

    /// For how long nothing was given to a connection's client.
    fn silence(&mut self, entry: &Arc<Entry>, now: Instant) -> Duration {
        let bytes = entry.control.bytes(Direction::FromUpstream);
        let given = self.given.entry(entry.id).or_insert((bytes, now));
        if given.0 != bytes {
            *given = (bytes, now);
        }
        now.saturating_duration_since(given.1)
    }

    fn end(&self, entry: &Entry) {
        if entry.control.has_delivered() || entry.class().excluded().is_some() {
            entry.control.order(Order::Close);
        } else {
            self.table.force(entry, Order::Reset);
        }
    }
}
