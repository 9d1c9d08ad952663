//! The live table: every open connection, what it is, and how it is reached.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::status::ListenerStatus;
use crate::protocol::Class;
use crate::relay::{Control, Order};

/// Names one connection of this process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// The id as a number, which is how JSON spells it.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ConnectionId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(ConnectionId)
    }
}

/// One open connection.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub id: ConnectionId,
    /// The client.
    pub peer: SocketAddr,
    /// The listener that it came through.
    pub listener: Arc<ListenerStatus>,
    /// When it was accepted.
    pub opened: Instant,
    /// Its use, its byte counts and its orders.
    pub control: Control,
}

impl Entry {
    /// How long it has been open.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// What it is being used for.
    #[must_use]
    pub fn class(&self) -> Class {
        self.control.class()
    }

    /// Whether a drain made it leave.
    #[must_use]
    pub fn was_forced(&self) -> bool {
        self.control.forced_class().is_some()
    }
}

/// The open connections, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    /// How many of each class, every class named.
    pub by_class: BTreeMap<&'static str, u64>,
    /// Connections with an HTTP/1 exchange in flight.
    pub active_requests: u64,
    /// Open HTTP/2 streams.
    pub active_streams: u64,
    /// Age of the oldest connection.
    pub oldest: Option<Duration>,
}

impl Default for Census {
    fn default() -> Self {
        Census {
            by_class: Class::NAMES.into_iter().map(|name| (name, 0)).collect(),
            active_requests: 0,
            active_streams: 0,
            oldest: None,
        }
    }
}

/// Every open connection of the process. Clones are the same table.
#[derive(Clone, Debug, Default)]
pub struct Table(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    entries: DashMap<ConnectionId, Arc<Entry>>,
    next_id: AtomicU64,
    open: AtomicU64,
    forced: AtomicU64,
    rejected: AtomicU64,
    changed: Arc<Notify>,
}

impl Table {
    /// Puts a connection into the table, until what is returned is dropped.
    #[must_use]
    pub fn register(
        &self,
        peer: SocketAddr,
        listener: &Arc<ListenerStatus>,
        class: Class,
    ) -> Registered {
        let id = ConnectionId(self.0.next_id.fetch_add(1, Ordering::Relaxed) + 1);
        let entry = Arc::new(Entry {
            id,
            peer,
            listener: Arc::clone(listener),
            opened: Instant::now(),
            control: Control::new(class),
        });
        self.0.entries.insert(id, Arc::clone(&entry));
        self.0.open.fetch_add(1, Ordering::AcqRel);
        self.0.changed.notify_one();
        Registered { table: self.clone(), entry }
    }

    /// All open connections.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.0.open.load(Ordering::Acquire)
    }

    /// What the open connections are being used for.
    #[must_use]
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for entry in &self.0.entries {
            let class = entry.class();
            *census.by_class.entry(class.name()).or_default() += 1;
            match class {
                Class::Http => census.active_requests += 1,
                Class::Http2 { open_streams } => census.active_streams += u64::from(open_streams),
                _ => {}
            }
            census.oldest = census.oldest.max(Some(entry.age()));
        }
        census
    }

    /// Connections that the drain made leave.
    #[must_use]
    pub fn forced(&self) -> u64 {
        self.0.forced.load(Ordering::Acquire)
    }

    /// New connections that the drain rejected, as far as we saw them.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.0.rejected.load(Ordering::Acquire)
    }

    /// Begins to count anew what drains do, because the last one was undone.
    pub fn forget_drain(&self) {
        self.0.forced.store(0, Ordering::Release);
        self.0.rejected.store(0, Ordering::Release);
    }

    /// Counts a rejected connection.
    pub fn count_rejected(&self) {
        self.0.rejected.fetch_add(1, Ordering::AcqRel);
        self.0.changed.notify_one();
    }

    /// Notified when a count changes; one waiter.
    #[must_use]
    pub fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.0.changed)
    }

    /// Something about the counts has changed.
    pub fn note_change(&self) {
        self.0.changed.notify_one();
    }

    /// One connection.
    #[must_use]
    pub fn find(&self, id: ConnectionId) -> Option<Arc<Entry>> {
        self.0.entries.get(&id).map(|entry| Arc::clone(&entry))
    }

    /// Every open connection, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> =
            self.0.entries.iter().map(|entry| Arc::clone(entry.value())).collect();
        entries.sort_unstable_by_key(|entry| entry.id);
        entries
    }

    /// Gives every connection an order.
    pub fn order_all(&self, order: Order) {
        for entry in &self.0.entries {
            entry.control.order(order);
        }
    }

    /// Makes a connection leave for a drain's sake; it is counted once, however often it is told, and
    /// not at all if it has ended by itself meanwhile.
    pub fn force(&self, entry: &Entry, order: Order) {
        if !self.0.entries.contains_key(&entry.id) {
            return;
        }
        if entry.control.force() {
            self.0.forced.fetch_add(1, Ordering::AcqRel);
        }
        entry.control.order(order);
    }
}

/// A connection's place in the table, given up on drop.
#[derive(Debug)]
pub struct Registered {
    table: Table,
    /// The connection.
    pub entry: Arc<Entry>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.table.0.entries.remove(&self.entry.id);
        self.table.0.open.fetch_sub(1, Ordering::AcqRel);
        self.table.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addr() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }

    proptest! {
        /// Whatever comes and goes in whatever order: counts equal what is there, ids are never
        /// used twice, and a forced connection is counted once.
        #[test]
        fn counts_are_what_is_there(steps in prop::collection::vec((0u8..4, 0usize..8), 1..200)) {
            let table = Table::default();
            let listener = Arc::new(ListenerStatus::new(addr()));
            let mut open: Vec<Registered> = Vec::new();
            let mut forced = 0;
            let mut last_id = None;
            for (step, which) in steps {
                match (step, open.get(which % open.len().max(1))) {
                    (0, _) => open.push(table.register(addr(), &listener, Class::Tcp)),
                    (1, _) => open.push(table.register(addr(), &listener, Class::HealthCheck)),
                    (2, Some(_)) => drop(open.swap_remove(which % open.len())),
                    (3, Some(registered)) => {
                        forced += u64::from(!registered.entry.was_forced());
                        table.force(&registered.entry, Order::Leave);
                    }
                    _ => {}
                }
                let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
                for registered in &open {
                    *expected.entry(registered.entry.class().name()).or_default() += 1;
                }
                let census = table.census();
                for (name, count) in &census.by_class {
                    prop_assert_eq!(*count, expected.get(name).copied().unwrap_or(0));
                }
                prop_assert_eq!(table.list().len(), open.len());
                prop_assert_eq!(table.remaining(), open.len() as u64);
                prop_assert_eq!(table.forced(), forced);
                if step < 2 {
                    let newest = open.last().map(|registered| registered.entry.id);
                    prop_assert!(newest > last_id);
                    last_id = newest;
                }
            }
        }
    }

    #[test]
    fn who_has_ended_by_itself_was_not_forced() {
        let table = Table::default();
        let listener = Arc::new(ListenerStatus::new(addr()));
        let registered = table.register(addr(), &listener, Class::Tcp);
        let entry = Arc::clone(&registered.entry);
        drop(registered);
        table.force(&entry, Order::Leave);
        assert_eq!((table.forced(), entry.was_forced()), (0, false));
    }
}
