//! From what was typed to what is needed: defaults, and every contradiction found.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::duration::Span;
use super::options::{ForwardClient, IdlePolicy, ListenerOptions, Options};
use super::upstream;
use crate::admin::{self, ReadinessOnDrain};
use crate::api::client::ClientIdentity;
use crate::connection::{self, Budget, ListenerProtocol, ListenerSettings};
use crate::drain::{Schedule, default_close_spread};
use crate::net::syn_filter::MAX_ADMITTED;
use crate::net::{ListenOptions, Upstream};
use crate::protocol::{http1, websocket};
use crate::relay::{ClientTimeouts, IdleClose, IdleTimeouts, RelaySettings};
use crate::report;

const SECOND: Duration = Duration::from_secs(1);

/// The queue of a listener that no SYN finds any more is empty within microseconds. The period outlasts a
/// thread that is waiting for its turn, and handshakes that take longer are seen and waited for.
const SETTLE_PERIOD: Duration = Duration::from_millis(100);

/// What a grace period must leave behind the drain: the application's own stop (10 s), the
/// kubelet's floor (2 s), and our exit (3 s).
///
/// # Source
/// docs/defaults.md; docs/kubernetes.md, rules 1 and 2.
const GRACE_MARGIN: Duration = Duration::from_secs(15);

/// Descriptors that connections leave to the endpoints, the reports and the listeners.
const RESERVED_DESCRIPTORS: u64 = 48;

/// Everything that the proxy needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients come in, and how.
    pub listeners: Vec<(SocketAddr, ListenOptions, ListenerSettings)>,
    /// The drain's times.
    pub schedule: Schedule,
    /// Classes that may not use the whole time until the deadline.
    pub budgets: Vec<Budget>,
    /// How connections are treated.
    pub connections: connection::Settings,
    /// As many as may be open; absent: what the descriptor limit allows.
    pub max_connections: Option<NonZeroUsize>,
    /// Threads that move bytes.
    pub threads: NonZeroUsize,
    /// Address of probes, metrics, hooks and the page.
    pub admin: SocketAddr,
    /// Address of what changes anything.
    pub control: SocketAddr,
    /// What the admin endpoints promise.
    pub promises: admin::Promises,
    /// File that gets one line at the end.
    pub termination_log: PathBuf,
    /// Where and how to report.
    pub reporting: Option<report::Wish>,
}

/// Everything that is wrong with what was typed, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// As many connections as a descriptor limit allows: two descriptors each, less what is reserved.
#[must_use]
pub fn connections_within(descriptors: u64) -> usize {
    let pairs = descriptors.saturating_sub(RESERVED_DESCRIPTORS) / 2;
    usize::try_from(pairs).unwrap_or(usize::MAX).clamp(1, tokio::sync::Semaphore::MAX_PERMITS)
}

impl Settings {
    /// Fills in the defaults and looks for contradictions.
    ///
    /// # Errors
    /// Names each option that is missing or contradicts another, and says what to write.
    pub fn new(options: Options) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let listeners = listeners(&options, &mut problems);
        forwarding(&options, &listeners, &mut problems);
        health_checks(&options, &listeners, &mut problems);
        let schedule = schedule(&options, &mut problems);
        let admin = options.admin.unwrap_or(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 17701)));
        let control = options.control.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 17702)));
        endpoints(admin, control, &listeners, &mut problems);
        let reporting = reporting(&options, &mut problems);
        upstream::circles(&listeners, &mut problems);
        let connect = upstream::connect_options(&options, &listeners, &mut problems);
        let span = |span: Option<Span>, default: Duration| span.map_or(default, |span| span.0);
        let settings = Settings {
            listeners,
            schedule,
            budgets: options.budget.iter().map(|budget| budget.0).collect(),
            connections: connection::Settings {
                connect,
                upstream_rest: upstream::rest(&options, &mut problems),
                manners: manners(&options, &mut problems),
                drain_deadline_header: options.drain_deadline_header,
            },
            max_connections: options.max_connections,
            threads: options.threads.unwrap_or(NonZeroUsize::MIN),
            admin,
            control,
            promises: admin::Promises {
                readiness_on_drain: options.readiness_on_drain.unwrap_or(ReadinessOnDrain::Keep),
                wait_for_drain: span(options.wait_for_drain, 5 * SECOND),
            },
            termination_log: options
                .termination_log
                .unwrap_or_else(|| Path::new("/dev/termination-log").to_owned()),
            reporting,
        };
        if problems.is_empty() { Ok(settings) } else { Err(Problems(problems)) }
    }
}

fn listeners(
    options: &Options,
    problems: &mut Vec<String>,
) -> Vec<(SocketAddr, ListenOptions, ListenerSettings)> {
    let mut plans = options.listeners.clone();
    match (options.listen, plans.is_empty()) {
        (Some(listen), true) => plans.push(ListenerOptions {
            listen,
            upstream: None,
            protocol: None,
            upstream_reuse: None,
            reject: None,
            admit: Vec::new(),
            health_check_from: Vec::new(),
        }),
        (Some(_), false) => problems.push(
            "--listen (listen) and listeners can't both be given: move it into the list".to_owned(),
        ),
        (None, true) => problems
            .push("nowhere to listen: give --listen, for example --listen 0.0.0.0:8080".to_owned()),
        (None, false) => {}
    }
    for (index, plan) in plans.iter().enumerate() {
        for other in plans.iter().take(index).filter(|other| overlap(plan.listen, other.listen)) {
            problems.push(format!(
                "listeners {} and {} overlap: give them different ports",
                other.listen, plan.listen
            ));
        }
    }
    let user_timeout = options.tcp_user_timeout.map_or(300 * SECOND, |span| span.0);
    let http1 = [false, true].map(|reuse| Arc::new(http1_options(options, reuse)));
    let settle_period = options.settle_period.map_or(SETTLE_PERIOD, |span| span.0);
    plans
        .iter()
        .filter_map(|plan| {
            let upstream = plan.upstream.clone().or_else(|| options.upstream.clone());
            let Some(upstream) = upstream else {
                problems.push(format!(
                    "listener {} has no upstream: give --upstream, for example --upstream \
                     127.0.0.1:3000",
                    plan.listen
                ));
                return None;
            };
            let or = |own: &Vec<_>, all: &Vec<_>| if own.is_empty() { all } else { own }.clone();
            let admit = or(&plan.admit, &options.admit);
            if admit.len() > MAX_ADMITTED {
                problems.push(format!(
                    "--admit: {} networks are more than the {MAX_ADMITTED} that fit the kernel's \
                     filter: merge them into larger ones",
                    admit.len()
                ));
            }
            let speaks = plan.protocol.or(options.protocol).unwrap_or_default();
            let upstream_reuse = plan.upstream_reuse.unwrap_or(options.upstream_reuse);
            if upstream_reuse {
                problems.extend(upstream::reuse_problem(plan.listen, speaks, &upstream));
            }
            let same_port_v4 = plans
                .iter()
                .any(|other| other.listen.port() == plan.listen.port() && other.listen.is_ipv4());
            let listen_options =
                ListenOptions { only_v6: plan.listen.is_ipv6() && same_port_v4, user_timeout };
            let settings = ListenerSettings {
                upstream: Arc::new(upstream),
                speaks,
                http1: Arc::clone(if upstream_reuse { &http1[1] } else { &http1[0] }),
                reject: plan.reject.or(options.reject).unwrap_or_default(),
                admit,
                health_check_from: or(&plan.health_check_from, &options.health_check_from),
                settle_period,
            };
            Some((plan.listen, listen_options, settings))
        })
        .collect()
}

fn http1_options(options: &Options, upstream_reuse: bool) -> http1::Options {
    let mut health_checks = http1::HealthChecks::default();
    if !options.health_check_agent.is_empty() {
        health_checks.user_agents.clone_from(&options.health_check_agent);
    }
    health_checks.path.clone_from(&options.health_check_path);
    let forwarding = options.forward_client.unwrap_or_default().into();
    let http2_ping = fastrand::u64(..).to_be_bytes();
    http1::Options { health_checks, forwarding, upstream_reuse, http2_ping }
}

/// What matches every request or every client would let a drain cut whatever is in flight.
fn health_checks(
    options: &Options,
    listeners: &[(SocketAddr, ListenOptions, ListenerSettings)],
    problems: &mut Vec<String>,
) {
    if options.health_check_agent.iter().any(|agent| agent.trim().is_empty()) {
        problems.push(
            "--health-check-agent: an empty prefix matches every request, and a drain would cut them all; write \
             for example kube-probe/, or leave the option out"
                .to_owned(),
        );
    }
    if options.health_check_path.as_deref().is_some_and(|path| !path.starts_with('/')) {
        problems.push("--health-check-path must begin with /, for example /healthz".to_owned());
    }
    let networks = listeners.iter().flat_map(|(.., listener)| &listener.health_check_from);
    if let Some(all) = networks.into_iter().find(|network| network.prefix_len() == 0) {
        problems.push(format!(
            "--health-check-from {all} is every client, and a drain would cut them all; write the network that \
             the health checks come from"
        ));
    }
}

/// Whom an application believes must not depend on a flag that does nothing.
fn forwarding(
    options: &Options,
    listeners: &[(SocketAddr, ListenOptions, ListenerSettings)],
    problems: &mut Vec<String>,
) {
    let is_asked = options.forward_client.unwrap_or_default() != ForwardClient::None;
    let is_deaf = |speaks| matches!(speaks, ListenerProtocol::Tcp | ListenerProtocol::Http2);
    if is_asked && listeners.iter().all(|(.., listener)| is_deaf(listener.speaks)) {
        problems.push(
            "--forward-client has no effect, because no listener uses HTTP/1: give --protocol http1"
                .to_owned(),
        );
    }
}

fn manners(options: &Options, problems: &mut Vec<String>) -> RelaySettings {
    let idle_close = options.idle_close.map_or(2 * SECOND, |span| span.0);
    let websocket_reason =
        options.websocket_reason.clone().unwrap_or_else(|| "server draining".to_owned());
    if websocket_reason.len() > websocket::REASON_LIMIT_BYTES {
        problems.push(format!(
            "--websocket-reason is {} bytes long: a Close frame takes at most {}",
            websocket_reason.len(),
            websocket::REASON_LIMIT_BYTES
        ));
    }
    RelaySettings {
        idle_timeouts: IdleTimeouts {
            half_closed: options.half_closed_timeout.map_or(60 * SECOND, |span| span.0),
            open: options.idle_timeout.map_or(Duration::ZERO, |span| span.0),
        },
        idle_close: match options.idle_policy.unwrap_or_default() {
            IdlePolicy::Immediate => IdleClose::Immediate,
            IdlePolicy::After => IdleClose::After(idle_close),
            IdlePolicy::OnResponse => IdleClose::OnResponse,
        },
        client_timeouts: ClientTimeouts {
            head: options.head_timeout.map_or(Duration::ZERO, |span| span.0),
            drain_head: options.drain_head_timeout.map_or(10 * SECOND, |span| span.0),
            drain_request: options.drain_request_timeout.map_or(30 * SECOND, |span| span.0),
        },
        websocket_code: options.websocket_code.unwrap_or(1001),
        websocket_reason,
    }
}

/// Whether two addresses can't be listened on at once. IPv4 and IPv6 never collide, because an
/// IPv6 listener beside an IPv4 one takes IPv6 only.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |a: IpAddr, b: IpAddr| a == b || a.is_unspecified() && a.is_ipv4() == b.is_ipv4();
    one.port() != 0
        && one.port() == other.port()
        && (covers(one.ip(), other.ip()) || covers(other.ip(), one.ip()))
}

fn schedule(options: &Options, problems: &mut Vec<String>) -> Schedule {
    let timeout = drain_timeout(options, problems);
    let default_delay = match options.grace_period {
        // A short grace period is for serving out, not for waiting on the balancer.
        Some(_) => (10 * SECOND).min(timeout / 2),
        None => 10 * SECOND,
    };
    let delay = options.drain_delay.map_or(default_delay, |span| span.0);
    let close_spread =
        options.close_spread.map_or_else(|| default_close_spread(timeout), |span| span.0);
    if delay >= timeout {
        problems.push(format!(
            "--drain-timeout ({}) is not longer than --drain-delay ({}): it counts from the same \
             start, so write a longer time-out or a shorter delay",
            Span(timeout),
            Span(delay)
        ));
    } else if delay + close_spread > timeout {
        problems.push(format!(
            "--close-spread ({}) does not fit between --drain-delay ({}) and --drain-timeout ({}): \
             write at most {}",
            Span(close_spread),
            Span(delay),
            Span(timeout),
            Span(timeout.saturating_sub(delay))
        ));
    }
    Schedule {
        delay,
        timeout,
        quiet_period: options.quiet_period.map_or(5 * SECOND, |span| span.0),
        close_spread,
        settled_for: options.settled_for.map_or(2 * SECOND, |span| span.0),
    }
}

fn drain_timeout(options: &Options, problems: &mut Vec<String>) -> Duration {
    let grace = options.grace_period.map(|span| span.0);
    match (options.drain_timeout, grace) {
        (Some(timeout), Some(grace)) if timeout.0 >= grace => {
            problems.push(format!(
                "--drain-timeout ({timeout}) is not shorter than the grace period ({}): the kubelet \
                 would kill the pod before the deadline; write at most {}, or raise \
                 terminationGracePeriodSeconds and EBBTIDE_GRACE_PERIOD",
                Span(grace),
                Span(grace.saturating_sub(GRACE_MARGIN))
            ));
            timeout.0
        }
        (Some(timeout), _) => timeout.0,
        (None, Some(grace)) if grace <= GRACE_MARGIN => {
            problems.push(format!(
                "a grace period of {} leaves no time to drain: the application's stop and the \
                 exits need {}; raise terminationGracePeriodSeconds and EBBTIDE_GRACE_PERIOD, or \
                 give --drain-timeout",
                Span(grace),
                Span(GRACE_MARGIN)
            ));
            GRACE_MARGIN
        }
        (None, Some(grace)) => grace.saturating_sub(GRACE_MARGIN),
        (None, None) => 300 * SECOND,
    }
}

fn endpoints(
    admin: SocketAddr,
    control: SocketAddr,
    listeners: &[(SocketAddr, ListenOptions, ListenerSettings)],
    problems: &mut Vec<String>,
) {
    if !control.ip().to_canonical().is_loopback() {
        problems.push(format!(
            "--control {control}: anybody who reaches it can drain the pod, so it must be a \
             loopback address: write 127.0.0.1:{} or [::1]:{}",
            control.port(),
            control.port()
        ));
    }
    for (listen, _, listener) in listeners {
        for (name, own) in [("--admin", admin), ("--control", control)] {
            if leads_to(&listener.upstream, own) {
                problems.push(format!(
                    "the upstream of listener {listen} is our own {name} {own}, where no application is: give \
                     --upstream the application's port"
                ));
            }
        }
    }
    let mut taken = vec![("--admin", admin), ("--control", control)];
    taken.extend(listeners.iter().map(|(addr, ..)| ("listen", *addr)));
    for (index, (name, addr)) in taken.iter().enumerate().take(2) {
        for (other_name, other) in taken.iter().skip(index + 1) {
            // An endpoint on `::` takes IPv4 too.
            let is_dual = |one: SocketAddr| one.is_ipv6() && one.ip().is_unspecified();
            let is_same_port = addr.port() != 0 && addr.port() == other.port();
            if overlap(*addr, *other) || is_same_port && (is_dual(*addr) || is_dual(*other)) {
                problems.push(format!(
                    "{name} {addr} and {other_name} {other} overlap: give them different ports"
                ));
            }
        }
    }
}

/// Whether a connection to the upstream would reach an address of our own.
fn leads_to(upstream: &Upstream, own: SocketAddr) -> bool {
    let (port, ip) = match upstream {
        Upstream::Address(addr) => (addr.port(), Some(addr.ip().to_canonical())),
        Upstream::Name(name, port) if name.eq_ignore_ascii_case("localhost") => (*port, None),
        Upstream::Name(..) | Upstream::Unix(_) => return false,
    };
    // A name for loopback, and an address that means it, reach whatever loopback address we have.
    let is_loopback = ip.is_none_or(|ip| ip.is_loopback() || ip.is_unspecified());
    let own_ip = own.ip().to_canonical();
    port == own.port()
        && (ip == Some(own_ip)
            || is_loopback && own_ip.is_unspecified()
            || own_ip.is_loopback() && ip.is_none_or(|ip| ip.is_unspecified()))
}

fn reporting(options: &Options, problems: &mut Vec<String>) -> Option<report::Wish> {
    let Some(url) = &options.controller else {
        for (flag, given) in [
            ("--controller-ca", options.controller_ca.is_some()),
            ("--controller-cert", options.controller_cert.is_some()),
            ("--controller-key", options.controller_key.is_some()),
            ("--controller-token-file", options.controller_token_file.is_some()),
        ] {
            if given {
                problems.push(format!("{flag} has no use without --controller URL"));
            }
        }
        return None;
    };
    let identity = match (&options.controller_cert, &options.controller_key) {
        (Some(certificate), Some(key)) => {
            Some(ClientIdentity { certificate: certificate.clone(), key: key.clone() })
        }
        (None, None) => None,
        _ => {
            problems
                .push("--controller-cert and --controller-key must be given together".to_owned());
            None
        }
    };
    match report::parse_url(url) {
        Ok(controller) => Some(report::Wish {
            identity,
            controller,
            ca: options.controller_ca.clone(),
            token_file: options.controller_token_file.clone(),
            final_report_timeout: options.final_report_timeout.map_or(10 * SECOND, |span| span.0),
        }),
        Err(error) => {
            problems.push(format!("--controller: {error}"));
            None
        }
    }
}
