//! The report: what a proxy tells the controller, and what the controller answers.
//!
//! Also what `/status` shows. The wire form is JSON in the style of the Kubernetes API: camelCase
//! names, RFC 3339 times in UTC, durations in seconds. `docs/report.md` documents every field and
//! `docs/report.schema.json` is checked by a test against what is really sent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::number::{whole, whole_if_any, wholes};

/// The only version of the report's schema so far.
pub const SCHEMA_VERSION: &str = "v1";

/// Who is reporting: the pod, or outside Kubernetes the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Identity {
    /// The pod's namespace; empty outside Kubernetes.
    pub namespace: String,
    /// The pod's name, or the host's name outside Kubernetes.
    pub pod_name: String,
    /// The pod's UID; empty outside Kubernetes.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    /// The node's name; empty when unknown.
    pub node_name: String,
    /// The pod's address; empty when unknown.
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    /// The service that it belongs to; empty when unknown.
    pub service: String,
}

/// A proxy's state at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: String,
    /// Who is reporting.
    #[serde(flatten)]
    pub identity: Identity,
    /// Distinguishes this run of the proxy from others of the same pod: 32 random hexadecimal digits. Absent from
    /// proxies that do not tell; `start_time` distinguishes their runs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run_id: Option<String>,
    /// When this run started, by the clock of its host.
    pub start_time: String,
    /// Grows by at least one with every report of one run, so that stale ones can be told.
    #[serde(deserialize_with = "whole")]
    pub sequence: u64,
    /// `Serving`, `LameDuck`, `Draining`, `Closing` or `Drained`.
    pub phase: String,
    /// What began the drain (`Signal`, `Endpoint`, `Controller`); absent while serving.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// When the drain began.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub drain_start_time: Option<String>,
    /// When what is left will be force-closed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub drain_deadline: Option<String>,
    /// Seconds until that deadline, which say the same where clocks differ; absent while serving.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub drain_seconds_left: Option<f64>,
    /// The drain's whole budget in seconds, from its start to its deadline.
    pub drain_timeout_seconds: f64,
    /// All open connections, whatever their class.
    #[serde(deserialize_with = "whole")]
    pub active_connections: u64,
    /// Those of them that keep the drain from ending.
    #[serde(deserialize_with = "whole")]
    pub drain_blocking_connections: u64,
    /// HTTP/1 connections with an exchange in flight.
    #[serde(default, deserialize_with = "whole")]
    pub active_requests: u64,
    /// Open HTTP/2 streams.
    #[serde(default, deserialize_with = "whole")]
    pub active_streams: u64,
    /// Open connections by class.
    #[serde(deserialize_with = "wholes")]
    pub by_class: BTreeMap<String, u64>,
    /// Connections that this drain closed against their will.
    #[serde(deserialize_with = "whole")]
    pub forced_closes: u64,
    /// New connections that this drain rejected, as far as the proxy saw them.
    #[serde(deserialize_with = "whole")]
    pub rejected: u64,
    /// Age of the oldest open connection in seconds; 0 without one.
    #[serde(deserialize_with = "whole")]
    pub oldest_connection_seconds: u64,
    /// The weight that the controller's last answer told it to remember.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "whole_if_any")]
    pub former_weight: Option<u32>,
    /// The port of the pod's address at which `/status` answers; absent when nobody else can reach it.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "whole_if_any")]
    pub admin_port: Option<u16>,
    /// Whether the application has taken a connection since this run began; absent from proxies that do not tell.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub application_reached: Option<bool>,
    /// Every listener and what a new connection meets there.
    pub listeners: Vec<ListenerReport>,
}

/// One listener, as a report shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerReport {
    /// Its address.
    pub address: String,
    /// Its port.
    #[serde(deserialize_with = "whole")]
    pub port: u16,
    /// What a new connection meets: `Accepting`, `Dropping`, `Refusing`, `Rejecting`.
    pub state: String,
    /// How new handshakes are kept from it: `off`, `device`, `reuseport`, `denied`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syn_filter: Option<String>,
}

/// What the balancer has applied for a target, as far as the controller knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BalancerState {
    /// Nothing yet, or nothing known.
    #[default]
    Pending,
    /// Sends no new connections.
    WeightZero,
    /// Has forgotten the target.
    Deregistered,
}

/// Why a balancer does not do what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BalancerError {
    /// The controller's credentials are wrong, expired or not enough.
    Denied,
    /// Anything else, also what later versions may say.
    #[serde(other)]
    Refused,
}

/// What the controller wants a proxy to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Directive {
    /// Nothing.
    #[default]
    None,
    /// Begin a drain, if none is under way.
    Drain,
    /// End the drain and serve again.
    Undrain,
    /// Keep serving in `LameDuck` for now: too many others of the service drain already. Not for a
    /// proxy that a signal has told to leave, which may ignore it.
    Wait,
}

/// The controller's answer to a report. Anyone may implement the endpoint: every field may be absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Answer {
    /// The sequence that is acknowledged.
    pub sequence: u64,
    /// What the balancer has applied; absent from a controller that drives none, which then has
    /// nothing more to do once it has the report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balancer: Option<BalancerState>,
    /// Why the balancer does not do what it was last told, if trying again helps nothing until somebody acts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balancer_error: Option<BalancerError>,
    /// What the proxy is to do.
    pub directive: Directive,
    /// The target's weight before it was set to zero. The proxy repeats it in its reports, so that a
    /// controller that forgot it, or another one, can restore it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub former_weight: Option<u32>,
}
