//! The state of this moment as a report.

use std::sync::Arc;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use crate::api::report::{Identity, ListenerReport, Report, SCHEMA_VERSION};
use crate::connection::{Class, ListenerStatus, Table};
use crate::drain::Drain;

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
    /// The report of this moment. Its sequence is 0: whoever sends it numbers it.
    #[must_use]
    pub fn report(&self) -> Report {
        let state = self.drain.state();
        let progress = state.progress;
        Report {
            schema_version: SCHEMA_VERSION.to_owned(),
            identity: self.identity.clone(),
            start_time: timestamp(self.started),
            sequence: 0,
            phase: state.phase.name().to_owned(),
            reason: progress.map(|progress| progress.trigger.name().to_owned()),
            drain_start_time: progress.map(|progress| timestamp(progress.started)),
            drain_deadline: progress.map(|progress| timestamp(progress.deadline)),
            drain_timeout_seconds: self.drain_timeout.as_secs_f64(),
            active_connections: self.table.remaining(),
            drain_blocking_connections: self.drain.blocking(),
            by_class: Class::ALL
                .into_iter()
                .map(|class| (class.name().to_owned(), self.table.open(class)))
                .collect(),
            forced_closes: self.table.forced(),
            rejected: self.table.rejected(),
            oldest_connection_seconds: self.table.oldest().map_or(0, |age| age.as_secs()),
            listeners: self
                .listeners
                .iter()
                .map(|listener| ListenerReport {
                    address: listener.addr.ip().to_string(),
                    port: listener.addr.port(),
                    state: listener.state().name().to_owned(),
                })
                .collect(),
        }
    }
}

/// The time on the wall at an instant. The pair that ties both clocks is taken once a process, so
/// that a deadline is the same text in every report.
#[must_use]
pub fn wall_clock(instant: Instant) -> SystemTime {
    static BASE: OnceLock<(Instant, SystemTime)> = OnceLock::new();
    let (base, wall) = *BASE.get_or_init(|| (Instant::now(), SystemTime::now()));
    match instant.checked_duration_since(base) {
        Some(since) => wall + since,
        None => wall - base.duration_since(instant),
    }
}

fn timestamp(instant: Instant) -> String {
    humantime::format_rfc3339_millis(wall_clock(instant)).to_string()
}
