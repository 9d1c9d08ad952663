//! The state of this moment as a report.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::report::{Identity, ListenerReport, Report, SCHEMA_VERSION};
use crate::connection::{ListenerStatus, Table};
use crate::drain::{Drain, wall_clock};

/// What reports are made of.
#[derive(Clone, Debug)]
pub struct Source {
    /// Who reports.
    pub identity: Identity,
    /// When this run of the proxy began.
    pub started: Instant,
    /// The drain's whole budget.
    pub drain_timeout: Duration,
    /// The drain.
    pub drain: Drain,
    /// The live table.
    pub table: Table,
    /// Every listener.
    pub listeners: Arc<[Arc<ListenerStatus>]>,
}

impl Source {
    /// The report of this moment. Its sequence is 0 and it remembers no weight: whoever sends it knows.
    #[must_use]
    pub fn report(&self) -> Report {
        let state = self.drain.state();
        let progress = state.progress;
        let census = self.table.census();
        Report {
            schema_version: SCHEMA_VERSION.to_owned(),
            identity: self.identity.clone(),
            start_time: timestamp(self.started),
            sequence: 0,
            phase: state.phase.name().to_owned(),
            reason: progress.map(|progress| progress.reason().name().to_owned()),
            drain_start_time: progress.map(|progress| timestamp(progress.started)),
            drain_deadline: progress.map(|progress| timestamp(progress.deadline)),
            drain_timeout_seconds: self.drain_timeout.as_secs_f64(),
            active_connections: self.table.remaining(),
            drain_blocking_connections: self.drain.blocking(),
            active_requests: census.active_requests,
            active_streams: census.active_streams,
            by_class: census
                .by_class
                .into_iter()
                .map(|(class, open)| (class.to_owned(), open))
                .collect(),
            forced_closes: self.table.forced(),
            rejected: self.table.rejected(),
            oldest_connection_seconds: census.oldest.map_or(0, |age| age.as_secs()),
            former_weight: None,
            listeners: self
                .listeners
                .iter()
                .map(|listener| ListenerReport {
                    address: listener.addr.ip().to_string(),
                    port: listener.addr.port(),
                    state: listener.state().name().to_owned(),
                    syn_filter: Some(listener.filter().name().to_owned()),
                })
                .collect(),
        }
    }
}

fn timestamp(instant: Instant) -> String {
    humantime::format_rfc3339_millis(wall_clock(instant)).to_string()
}
