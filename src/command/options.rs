//! What can be said to the proxy: each option is a flag, an environment variable and a key of the file.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use serde::Deserialize;

use super::duration::{Span, parse_grace_period};
use crate::admin::ReadinessOnDrain;
use crate::connection::{Budget, ListenerProtocol, RejectMode};
use crate::net::Upstream;
use crate::protocol::Class;
use crate::protocol::http1::Forwarding;

/// What becomes of a connection between two exchanges in a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdlePolicy {
    /// Closed at once.
    Immediate,
    /// Closed after --idle-close, half more or less, if it is still idle.
    #[default]
    After,
    /// Told with its next response, however long that takes.
    OnResponse,
}

/// Which fields of an HTTP/1 request tell the application the client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardClient {
    /// None: requests pass as they come.
    #[default]
    None,
    /// X-Forwarded-For.
    XForwardedFor,
    /// Forwarded (RFC 7239).
    Forwarded,
    /// Both of them.
    Both,
}

impl From<ForwardClient> for Option<Forwarding> {
    fn from(wish: ForwardClient) -> Self {
        match wish {
            ForwardClient::None => None,
            ForwardClient::XForwardedFor => Some(Forwarding::XForwardedFor),
            ForwardClient::Forwarded => Some(Forwarding::Forwarded),
            ForwardClient::Both => Some(Forwarding::Both),
        }
    }
}

/// A budget as it is written: `websocket=10m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetOption(pub Budget);

impl FromStr for BudgetOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let classes = Class::NAMES.join(", ");
        let wrong = || format!("`{text}` is no budget; write websocket=10m, with one of {classes}");
        let (name, span) = text.split_once('=').ok_or_else(wrong)?;
        let class = Class::NAMES.into_iter().find(|class| *class == name).ok_or_else(wrong)?;
        let Span(timeout) = span.parse()?;
        Ok(BudgetOption(Budget { class, timeout }))
    }
}

impl<'de> Deserialize<'de> for BudgetOption {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The options of `ebbtide proxy` and `ebbtide run`, as typed. What is absent takes its default.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Options {
    /// Address that clients connect to. On :: it takes IPv4 too
    #[arg(long, value_name = "ADDR", env = "EBBTIDE_LISTEN", help_heading = "Data path")]
    pub listen: Option<SocketAddr>,

    /// The application: 127.0.0.1:3000, localhost:3000 or unix:/path
    #[arg(long, value_name = "ADDR", env = "EBBTIDE_UPSTREAM", help_heading = "Data path")]
    #[serde(deserialize_with = "from_text")]
    pub upstream: Option<Upstream>,

    /// Protocol of this listener; auto detects it from each connection's first bytes [default: auto]
    #[arg(long, value_enum, env = "EBBTIDE_PROTOCOL", help_heading = "Data path")]
    pub protocol: Option<ListenerProtocol>,

    /// Let a connection to the application serve one client after the other, and connect only when a
    /// client has sent something. Wants --protocol http1
    #[arg(long, env = "EBBTIDE_UPSTREAM_REUSE", help_heading = "Data path")]
    #[serde(default)]
    pub upstream_reuse: bool,

    /// With --upstream-reuse: how long a connection to the application must have been silent before it
    /// serves another client [default: 125ms]
    #[arg(
        long,
        value_name = "DURATION",
        env = "EBBTIDE_UPSTREAM_REST",
        help_heading = "Data path"
    )]
    pub upstream_rest: Option<Span>,

    /// Address of this host to connect to the application from; several are used in turn, and each has
    /// ports of its own
    #[arg(
        long,
        value_name = "IP",
        env = "EBBTIDE_UPSTREAM_BIND",
        value_delimiter = ',',
        help_heading = "Data path"
    )]
    pub upstream_bind: Vec<IpAddr>,

    /// How long a connection waits for an application that does not listen yet, or does not accept
    /// [default: 5s]
    #[arg(
        long,
        value_name = "DURATION",
        env = "EBBTIDE_UPSTREAM_WAIT",
        help_heading = "Data path"
    )]
    pub upstream_wait: Option<Span>,

    /// Serve a client that has sent its FIN while the application was waited for; without this it has
    /// left, and nothing of it reaches the application
    #[arg(long, env = "EBBTIDE_UPSTREAM_WAIT_HALF_CLOSED", help_heading = "Data path")]
    #[serde(default)]
    pub upstream_wait_half_closed: bool,

    /// For one try to connect to one address of the application [default: 5s]
    #[arg(
        long,
        value_name = "DURATION",
        env = "EBBTIDE_CONNECT_TIMEOUT",
        help_heading = "Data path"
    )]
    pub connect_timeout: Option<Span>,

    /// End a connection whose application has ended its side, once the client has taken everything and
    /// has been silent for this long; 0 is never [default: 60s]
    #[arg(
        long,
        value_name = "DURATION",
        env = "EBBTIDE_HALF_CLOSED_TIMEOUT",
        help_heading = "Data path"
    )]
    pub half_closed_timeout: Option<Span>,

    /// End a connection on which nothing moves; 0 is never [default: 0]
    #[arg(long, value_name = "DURATION", env = "EBBTIDE_IDLE_TIMEOUT", help_heading = "Data path")]
    pub idle_timeout: Option<Span>,

    /// Give a client up that does not finish a head (of HTTP, or a TLS ClientHello) within this; 0 is
    /// never [default: 0]
    #[arg(long, value_name = "DURATION", env = "EBBTIDE_HEAD_TIMEOUT", help_heading = "Data path")]
    pub head_timeout: Option<Span>,

    /// Give a client up that acknowledges nothing, or takes nothing, for this long; 0 leaves it to
    /// the kernel. In a drain keep-alive probes find a dead client that owes no acknowledgement after
    /// 30 s [default: 5m]
    #[arg(
        long,
        value_name = "DURATION",
        env = "EBBTIDE_TCP_USER_TIMEOUT",
        help_heading = "Data path"
    )]
    pub tcp_user_timeout: Option<Span>,

    /// As many connections as may be open; beyond, accepting pauses [default: what the descriptor
    /// limit allows]
    #[arg(long, value_name = "N", env = "EBBTIDE_MAX_CONNECTIONS", help_heading = "Data path")]
    pub max_connections: Option<NonZeroUsize>,

    /// Threads that move bytes, beside the one that answers the endpoints [default: 1]
    #[arg(long, value_name = "N", env = "EBBTIDE_THREADS", help_heading = "Data path")]
    pub threads: Option<NonZeroUsize>,

    /// How long new connections are still served once a drain has begun [default: 10s]
    #[arg(long, value_name = "DURATION", env = "EBBTIDE_DRAIN_DELAY", help_heading = "Drain")]
    pub drain_delay: Option<Span>,

    /// From the drain's start to the deadline, at which what is left is force-closed [default: 300s,
    /// or 15 s less than the grace period where that is known]
    #[arg(long, value_name = "DURATION", env = "EBBTIDE_DRAIN_TIMEOUT", help_heading = "Drain")]
    pub drain_timeout: Option<Span>,

    /// In a drain, give a client up that does not finish a head (of HTTP, or a TLS ClientHello) within
    /// this; 0 leaves it to --head-timeout [default: 10s]
    #[arg(
        long,
        value_name = "DURATION",
        env = "EBBTIDE_DRAIN_HEAD_TIMEOUT",
        help_heading = "Drain"
    )]
    pub drain_head_timeout: Option<Span>,

    /// In a drain, give a client up that sends nothing more of a request for this long, while the
    /// application has not begun to answer it; 0 is never [default: 30s]
    #[arg(
        long,
        value_name = "DURATION",
        env = "EBBTIDE_DRAIN_REQUEST_TIMEOUT",
        help_heading = "Drain"
    )]
    pub drain_request_timeout: Option<Span>,

    /// The pod's terminationGracePeriodSeconds, which the drain time-out derives from
    #[arg(
        long,
        value_name = "SECONDS",
        env = "EBBTIDE_GRACE_PERIOD",
        value_parser = parse_grace_period,
        help_heading = "Drain"
    )]
    #[serde(deserialize_with = "from_grace_period")]
    pub grace_period: Option<Span>,

    /// The delay ends early when no new connection has sent anything for this long, or for five times
    /// the mean gap between new connections before the drain if that is longer; 0 is never [default: 5s]
    #[arg(long, value_name = "DURATION", env = "EBBTIDE_QUIET_PERIOD", help_heading = "Drain")]
    pub quiet_period: Option<Span>,

    /// What a new connection meets after the delay [default: refuse]
    #[arg(long, value_enum, env = "EBBTIDE_REJECT", help_heading = "Drain")]
    pub reject: Option<RejectMode>,

    /// Network that stays welcome after the delay; may be given several times
    #[arg(
        long,
        value_name = "CIDR",
        env = "EBBTIDE_ADMIT",
        value_delimiter = ',',
        help_heading = "Drain"
    )]
    pub admit: Vec<IpNet>,

    /// Network whose connections only check our health, and never keep a drain from ending; may be
    /// given several times
    #[arg(
        long,
        value_name = "CIDR",
        env = "EBBTIDE_HEALTH_CHECK_FROM",
        value_delimiter = ',',
        help_heading = "Drain"
    )]
    pub health_check_from: Vec<IpNet>,

    /// How long a listener's queue must have been empty before it is closed [default: 100ms]
    #[arg(long, value_name = "DURATION", env = "EBBTIDE_SETTLE_PERIOD", help_heading = "Drain")]
    pub settle_period: Option<Span>,

    /// The drain is over after this long without a connection that blocks it, and at once when every
    /// listener is closed and no connection is open [default: 2s]
    #[arg(long, value_name = "DURATION", env = "EBBTIDE_SETTLED_FOR", help_heading = "Drain")]
    pub settled_for: Option<Span>,

    /// The last part before the deadline, in which survivors are asked to leave one after the other
    /// [default: a tenth of the time-out, at most 30s]
    #[arg(long, value_name = "DURATION", env = "EBBTIDE_CLOSE_SPREAD", help_heading = "Drain")]
    pub close_spread: Option<Span>,

    /// A class of connections that may not use the whole time, for example websocket=10m; may be
    /// given several times
    #[arg(
        long,
        value_name = "CLASS=DURATION",
        env = "EBBTIDE_BUDGET",
        value_delimiter = ',',
        help_heading = "Drain"
    )]
    pub budget: Vec<BudgetOption>,

    /// What /readyz says while draining [default: keep]
    #[arg(long, value_enum, env = "EBBTIDE_READINESS_ON_DRAIN", help_heading = "Drain")]
    pub readiness_on_drain: Option<ReadinessOnDrain>,

    /// How long /hooks/wait waits for a drain to begin before it returns [default: 5s]
    #[arg(long, value_name = "DURATION", env = "EBBTIDE_WAIT_FOR_DRAIN", help_heading = "Drain")]
    pub wait_for_drain: Option<Span>,

    /// File that gets one line at the end, if it exists [default: /dev/termination-log]
    #[arg(long, value_name = "FILE", env = "EBBTIDE_TERMINATION_LOG", help_heading = "Drain")]
    pub termination_log: Option<PathBuf>,

    /// What becomes of an HTTP/1 connection between two requests in a drain [default: after]
    #[arg(long, value_enum, env = "EBBTIDE_IDLE_POLICY", help_heading = "HTTP")]
    pub idle_policy: Option<IdlePolicy>,

    /// How long an idle connection may stay open, half more or less [default: 2s]
    #[arg(long, value_name = "DURATION", env = "EBBTIDE_IDLE_CLOSE", help_heading = "HTTP")]
    pub idle_close: Option<Span>,

    /// Close code that a WebSocket is sent when it must leave: 1001 or 1012 [default: 1001]
    #[arg(
        long,
        value_name = "CODE",
        env = "EBBTIDE_WEBSOCKET_CODE",
        value_parser = clap::value_parser!(u16).range(1000..5000),
        help_heading = "HTTP"
    )]
    pub websocket_code: Option<u16>,

    /// The reason beside it, at most 123 bytes [default: server draining]
    #[arg(long, value_name = "TEXT", env = "EBBTIDE_WEBSOCKET_REASON", help_heading = "HTTP")]
    pub websocket_reason: Option<String>,

    /// Append the client's address to these fields of each HTTP/1 request [default: none]
    #[arg(long, value_enum, env = "EBBTIDE_FORWARD_CLIENT", help_heading = "HTTP")]
    pub forward_client: Option<ForwardClient>,

    /// Say in a Drain-Deadline field of the last response when its connection is force-closed
    #[arg(long, env = "EBBTIDE_DRAIN_DEADLINE_HEADER", help_heading = "HTTP")]
    #[serde(default)]
    pub drain_deadline_header: bool,

    /// User-Agent prefix of health checks; may be given several times [default: kube-probe/,
    /// ELB-HealthChecker]
    #[arg(
        long,
        value_name = "PREFIX",
        env = "EBBTIDE_HEALTH_CHECK_AGENT",
        value_delimiter = ',',
        help_heading = "HTTP"
    )]
    pub health_check_agent: Vec<String>,

    /// Path of health checks
    #[arg(long, value_name = "PATH", env = "EBBTIDE_HEALTH_CHECK_PATH", help_heading = "HTTP")]
    pub health_check_path: Option<String>,

    /// Address of probes, metrics, hooks and the page: GET only. On :: it takes IPv4 too
    /// [default: port 17701 on every address]
    #[arg(long, value_name = "ADDR", env = "EBBTIDE_ADMIN", help_heading = "Endpoints")]
    pub admin: Option<SocketAddr>,

    /// Loopback address of what changes anything: drain, undrain, connections
    /// [default: 127.0.0.1:17702]
    #[arg(long, value_name = "ADDR", env = "EBBTIDE_CONTROL", help_heading = "Endpoints")]
    pub control: Option<SocketAddr>,

    /// Report to the controller at this URL
    #[arg(long, value_name = "URL", env = "EBBTIDE_CONTROLLER", help_heading = "Reports")]
    pub controller: Option<String>,

    /// Trust the certificates in this PEM file, instead of the system's, for an https controller
    #[arg(long, value_name = "FILE", env = "EBBTIDE_CONTROLLER_CA", help_heading = "Reports")]
    pub controller_ca: Option<PathBuf>,

    /// Show this certificate, PEM, to an https controller that asks for one
    #[arg(long, value_name = "FILE", env = "EBBTIDE_CONTROLLER_CERT", help_heading = "Reports")]
    pub controller_cert: Option<PathBuf>,

    /// Its key, PEM
    #[arg(long, value_name = "FILE", env = "EBBTIDE_CONTROLLER_KEY", help_heading = "Reports")]
    pub controller_key: Option<PathBuf>,

    /// Send the token in this file as bearer; it is read again when it changes
    #[arg(
        long,
        value_name = "FILE",
        env = "EBBTIDE_CONTROLLER_TOKEN_FILE",
        help_heading = "Reports"
    )]
    pub controller_token_file: Option<PathBuf>,

    /// How long the final report is tried before the process exits without an answer [default: 10s]
    #[arg(
        long,
        value_name = "DURATION",
        env = "EBBTIDE_FINAL_REPORT_TIMEOUT",
        help_heading = "Reports"
    )]
    pub final_report_timeout: Option<Span>,

    /// Several listeners. Only in the file, instead of listen and upstream
    #[arg(skip)]
    pub listeners: Vec<ListenerOptions>,
}

/// One of several listeners in the file. What is absent is taken from the options beside the list.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ListenerOptions {
    /// Address that clients connect to.
    pub listen: SocketAddr,
    /// The application.
    #[serde(default, deserialize_with = "from_text")]
    pub upstream: Option<Upstream>,
    /// What the bytes are.
    #[serde(default)]
    pub protocol: Option<ListenerProtocol>,
    /// Whether connections to the application serve one client after the other.
    #[serde(default)]
    pub upstream_reuse: Option<bool>,
    /// What a new connection meets after the delay.
    #[serde(default)]
    pub reject: Option<RejectMode>,
    /// Networks that stay welcome after the delay.
    #[serde(default)]
    pub admit: Vec<IpNet>,
    /// Networks whose connections only check our health.
    #[serde(default)]
    pub health_check_from: Vec<IpNet>,
}

impl Options {
    /// What was typed, and for the rest what the file says.
    #[must_use]
    pub fn or(self, file: Options) -> Options {
        fn list<T>(typed: Vec<T>, file: Vec<T>) -> Vec<T> {
            if typed.is_empty() { file } else { typed }
        }
        Options {
            listen: self.listen.or(file.listen),
            upstream: self.upstream.or(file.upstream),
            protocol: self.protocol.or(file.protocol),
            upstream_reuse: self.upstream_reuse || file.upstream_reuse,
            upstream_rest: self.upstream_rest.or(file.upstream_rest),
            upstream_bind: list(self.upstream_bind, file.upstream_bind),
            upstream_wait: self.upstream_wait.or(file.upstream_wait),
            upstream_wait_half_closed: self.upstream_wait_half_closed
                || file.upstream_wait_half_closed,
            connect_timeout: self.connect_timeout.or(file.connect_timeout),
            half_closed_timeout: self.half_closed_timeout.or(file.half_closed_timeout),
            idle_timeout: self.idle_timeout.or(file.idle_timeout),
            head_timeout: self.head_timeout.or(file.head_timeout),
            drain_head_timeout: self.drain_head_timeout.or(file.drain_head_timeout),
            drain_request_timeout: self.drain_request_timeout.or(file.drain_request_timeout),
            tcp_user_timeout: self.tcp_user_timeout.or(file.tcp_user_timeout),
            max_connections: self.max_connections.or(file.max_connections),
            threads: self.threads.or(file.threads),
            drain_delay: self.drain_delay.or(file.drain_delay),
            drain_timeout: self.drain_timeout.or(file.drain_timeout),
            grace_period: self.grace_period.or(file.grace_period),
            quiet_period: self.quiet_period.or(file.quiet_period),
            reject: self.reject.or(file.reject),
            admit: list(self.admit, file.admit),
            health_check_from: list(self.health_check_from, file.health_check_from),
            settle_period: self.settle_period.or(file.settle_period),
            settled_for: self.settled_for.or(file.settled_for),
            close_spread: self.close_spread.or(file.close_spread),
            budget: list(self.budget, file.budget),
            readiness_on_drain: self.readiness_on_drain.or(file.readiness_on_drain),
            wait_for_drain: self.wait_for_drain.or(file.wait_for_drain),
            termination_log: self.termination_log.or(file.termination_log),
            idle_policy: self.idle_policy.or(file.idle_policy),
            idle_close: self.idle_close.or(file.idle_close),
            websocket_code: self.websocket_code.or(file.websocket_code),
            websocket_reason: self.websocket_reason.or(file.websocket_reason),
            forward_client: self.forward_client.or(file.forward_client),
            drain_deadline_header: self.drain_deadline_header || file.drain_deadline_header,
            health_check_agent: list(self.health_check_agent, file.health_check_agent),
            health_check_path: self.health_check_path.or(file.health_check_path),
            admin: self.admin.or(file.admin),
            control: self.control.or(file.control),
            controller: self.controller.or(file.controller),
            controller_ca: self.controller_ca.or(file.controller_ca),
            controller_cert: self.controller_cert.or(file.controller_cert),
            controller_key: self.controller_key.or(file.controller_key),
            controller_token_file: self.controller_token_file.or(file.controller_token_file),
            final_report_timeout: self.final_report_timeout.or(file.final_report_timeout),
            listeners: list(self.listeners, file.listeners),
        }
    }
}

/// A value that is written in the file as it is typed.
pub(super) fn from_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

fn from_grace_period<'de, D>(deserializer: D) -> Result<Option<Span>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| parse_grace_period(&text).map_err(serde::de::Error::custom)).transpose()
}
