//! What the endpoints look at.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Promises;
use super::history::History;
use crate::api::connections::ConnectionView;
use crate::api::report::Report;
use crate::connection::{Entry, ListenerState, ListenerStatus, Table};
use crate::drain::Drain;
use crate::protocol::{Class, Direction};
use crate::relay::Order;
use crate::telemetry::{Levels, Metrics};

/// Everything that an endpoint may show or act on. Clones look at the same process.
#[derive(Clone)]
pub struct View {
    /// The drain.
    pub drain: Drain,
    /// The live table.
    pub table: Table,
    /// Every listener.
    pub listeners: Arc<[Arc<ListenerStatus>]>,
    /// What is counted.
    pub metrics: Metrics,
    /// What the endpoints promise.
    pub promises: Promises,
    /// Blocking connections, second by second.
    pub history: History,
    /// The report of this moment.
    pub report: Arc<dyn Fn() -> Report + Send + Sync>,
    /// Since the controller last acknowledged a report; `None` without one.
    pub report_age: Arc<dyn Fn() -> Option<Duration> + Send + Sync>,
}

impl View {
    /// Whether every listener takes connections, or does as the drain bids.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.listeners.iter().all(|listener| listener.state() != ListenerState::Waiting)
    }

    pub(super) fn levels(&self) -> Levels {
        let state = self.drain.state();
        let census = self.table.census();
        let since_epoch = |instant: Option<Instant>| instant.map_or(0.0, seconds_since_epoch);
        Levels {
            connections: census.by_class.into_iter().collect(),
            active_requests: census.active_requests,
            active_streams: census.active_streams,
            blocking: self.drain.blocking(),
            phase: state.phase,
            drain_started: since_epoch(state.progress.map(|progress| progress.started)),
            drain_deadline: since_epoch(state.progress.map(|progress| progress.deadline)),
            report_age: (self.report_age)(),
        }
    }
}

/// An entry of the table, as it is shown.
pub(super) fn shown(entry: &Entry) -> ConnectionView {
    let class = entry.class();
    ConnectionView {
        id: entry.id.number(),
        peer: entry.peer.to_string(),
        listener: entry.listener.addr.to_string(),
        class: class.name().to_owned(),
        open_streams: match class {
            Class::Http2 { open_streams } => Some(open_streams),
            _ => None,
        },
        surprise: class.surprise().map(|surprise| surprise.name().to_owned()),
        unfinished: entry.control.unfinished().map(|unfinished| unfinished.name().to_owned()),
        age_seconds: entry.age().as_secs_f64(),
        from_client_bytes: entry.control.bytes(Direction::FromClient),
        from_upstream_bytes: entry.control.bytes(Direction::FromUpstream),
        blocking: class.excluded().is_none(),
        excluded: class.excluded().map(str::to_owned),
        leaving: entry.control.current() >= Order::Leave,
    }
}

fn seconds_since_epoch(instant: Instant) -> f64 {
    crate::drain::wall_clock(instant)
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
