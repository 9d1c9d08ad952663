//! The state of this moment as a report.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::api::report::{Identity, ListenerReport, Report, SCHEMA_VERSION};
use crate::connection::{ListenerStatus, Table};
use crate::drain::{Drain, wall_clock};

/// Whether the application has taken a connection.
pub type Reached = Arc<AtomicBool>;

/// What reports are made of.
#[derive(Clone, Debug)]
pub struct Source {
    /// Who reports.
    pub identity: Identity,
    /// This run of the proxy, see [`run_id`].
    pub run_id: String,
    /// When it began.
    pub started: Instant,
    /// Where `/status` answers.
    pub admin: SocketAddr,
    /// Whether the application has taken a connection; absent when nobody finds out.
    pub application: Option<Reached>,
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
            run_id: Some(self.run_id.clone()),
            start_time: timestamp(self.started),
            sequence: 0,
            phase: state.phase.name().to_owned(),
            reason: progress.map(|progress| progress.reason().name().to_owned()),
            drain_start_time: progress.map(|progress| timestamp(progress.started)),
            drain_deadline: progress.map(|progress| timestamp(progress.deadline)),
            drain_seconds_left: progress.map(|progress| {
                progress.deadline.saturating_duration_since(Instant::now()).as_secs_f64()
            }),
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
            admin_port: admin_port(self.admin, &self.identity.pod_ip),
            application_reached: self
                .application
                .as_ref()
                .map(|reached| reached.load(Ordering::Acquire)),
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

/// 32 hexadecimal digits that no other run has.
#[must_use]
pub fn run_id() -> String {
    // Each state has keys of its own, which come from the system's randomness.
    let random = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", random(), random())
}

/// The port at which others reach the endpoint at the pod's address.
fn admin_port(admin: SocketAddr, pod_ip: &str) -> Option<u16> {
    let pod_ip: IpAddr = pod_ip.parse().ok()?;
    let same = |ip: IpAddr| ip.to_canonical() == pod_ip.to_canonical();
    (admin.ip().is_unspecified() || same(admin.ip())).then_some(admin.port())
}

fn timestamp(instant: Instant) -> String {
    humantime::format_rfc3339_millis(wall_clock(instant)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_runs_have_the_same_id() {
        let ids: std::collections::BTreeSet<_> = (0..1000).map(|_| run_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|it| it.is_ascii_hexdigit())));
    }

    #[test]
    fn the_admin_port_is_told_only_where_others_reach_it() {
        let port = |admin: &str, pod_ip| admin_port(admin.parse().expect("an address"), pod_ip);
        for (admin, pod_ip, told) in [
            ("0.0.0.0:17701", "10.0.0.7", Some(17701)),
            ("[::]:17701", "10.0.0.7", Some(17701)),
            ("10.0.0.7:1", "10.0.0.7", Some(1)),
            ("[::ffff:10.0.0.7]:1", "10.0.0.7", Some(1)),
            ("127.0.0.1:1", "127.0.0.1", Some(1)),
            ("127.0.0.1:17701", "10.0.0.7", None),
            ("0.0.0.0:17701", "", None),
            ("10.0.0.8:17701", "10.0.0.7", None),
        ] {
            assert_eq!(port(admin, pod_ip), told, "{admin} {pod_ip}");
        }
    }
}
