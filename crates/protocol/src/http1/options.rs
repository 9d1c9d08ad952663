use std::sync::Arc;

use super::Forwarding;

/// What a listener wants of its HTTP/1 connections; one for all of them.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which requests are health checks.
    pub health_checks: HealthChecks,
    /// Which fields tell the upstream the client's address. With any, request heads are edited,
    /// also when no drain is under way.
    pub forwarding: Option<Forwarding>,
    /// Whether an upstream connection may serve several clients, one after the other.
    pub upstream_reuse: bool,
    /// The payload of a farewell's PING on connections that become HTTP/2 by an Upgrade. Random bytes
    /// keep it apart from every PING of the application.
    pub http2_ping: [u8; 8],
}

/// Which requests are a balancer's or a kubelet's health checks.
#[derive(Clone, Debug)]
pub struct HealthChecks {
    /// What their User-Agent begins with.
    pub user_agents: Vec<String>,
    /// Their path, without a query.
    pub path: Option<String>,
}

impl Default for HealthChecks {
    /// Those that name themselves: the kubelet's probes and AWS's balancers.
    fn default() -> HealthChecks {
        HealthChecks {
            user_agents: vec!["kube-probe/".to_owned(), "ELB-HealthChecker".to_owned()],
            path: None,
        }
    }
}

impl HealthChecks {
    pub(super) fn matches(&self, target: &str, user_agent: Option<&[u8]>) -> bool {
        let mut agents = self.user_agents.iter();
        let path = || target.split('?').next();
        user_agent.is_some_and(|agent| agents.any(|own| agent.starts_with(own.as_bytes())))
            || self.path.as_deref().is_some_and(|own| path() == Some(own))
    }
}

/// What a drain asks of the farewell.
#[derive(Clone, Debug, Default)]
pub struct DrainOptions {
    drain_deadline: Option<Arc<str>>,
    clients_speak_first: bool,
}

impl DrainOptions {
    /// Adds a `Drain-Deadline` field with this date to the last response. A text that is no
    /// field value is left out.
    #[must_use]
    pub fn with_drain_deadline(self, date: &str) -> DrainOptions {
        let is_value = |text: &&str| text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        DrainOptions { drain_deadline: Some(date).filter(is_value).map(Arc::from), ..self }
    }

    /// Says that clients speak first here: a connection on which nobody has spoken is idle.
    #[must_use]
    pub fn with_clients_first(self) -> DrainOptions {
        DrainOptions { clients_speak_first: true, ..self }
    }

    pub(crate) fn clients_speak_first(&self) -> bool {
        self.clients_speak_first
    }

    pub(super) fn drain_deadline(&self) -> Option<&str> {
        self.drain_deadline.as_deref()
    }
}
