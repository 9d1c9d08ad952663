//! What was typed of the application's address and how it is connected to: defaults and contradictions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::options::Options;
use crate::connection::{ListenerProtocol, ListenerSettings};
use crate::net::{ConnectOptions, HalfClosed, ListenOptions, Upstream};

type Listeners = [(SocketAddr, ListenOptions, ListenerSettings)];

/// How long an upstream connection is silent before it serves another client: longer than the kernel
/// keeps an application with a CPU limit from running between two of its writes, a period of 100 ms.
///
/// # Source
/// Linux `sched-bwc`, `cpu.cfs_period_us`; Kubernetes' CPU limits are kept with it.
const REST: Duration = Duration::from_millis(125);

/// An upstream connection is kept for a second.
const MOST_REST: Duration = Duration::from_millis(900);

/// For one try, and for all of them.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server that speaks first would wait for ever, and only TCP proves what was not heard.
pub(super) fn reuse_problem(
    listen: SocketAddr,
    speaks: ListenerProtocol,
    upstream: &Upstream,
) -> Option<String> {
    match (speaks, upstream) {
        (ListenerProtocol::Http1, Upstream::Unix(_)) => Some(format!(
            "--upstream-reuse wants TCP to the application, and that of listener {listen} is \
             {upstream}: give --upstream 127.0.0.1:PORT, or leave --upstream-reuse out"
        )),
        (ListenerProtocol::Http1, _) => None,
        _ => Some(format!(
            "--upstream-reuse wants to know that clients speak HTTP/1, and first: give --protocol \
             http1 for listener {listen}, or leave --upstream-reuse out there"
        )),
    }
}

/// How the application is connected to.
pub(super) fn connect_options(
    options: &Options,
    listeners: &Listeners,
    problems: &mut Vec<String>,
) -> ConnectOptions {
    let sources = &options.upstream_bind;
    for (listen, _, listener) in listeners {
        let upstream = &*listener.upstream;
        let fits = match upstream {
            Upstream::Unix(_) => false,
            Upstream::Name(..) => true,
            Upstream::Address(addr) => sources.iter().any(|ip| ip.is_ipv4() == addr.is_ipv4()),
        };
        if !sources.is_empty() && !fits {
            problems.push(format!(
                "--upstream-bind: none of its addresses can be used to connect to {upstream}, the \
                 upstream of listener {listen}: give one of the same family, or leave it out"
            ));
        }
    }
    for source in sources.iter().filter(|source| !is_ours(**source)) {
        problems.push(format!(
            "--upstream-bind: this host has no address {source}; for an application on 127.0.0.1 \
             write 127.0.0.2,127.0.0.3 and so on"
        ));
    }
    ConnectOptions {
        timeout: options.connect_timeout.map_or(PATIENCE, |span| span.0),
        wait: options.upstream_wait.map_or(PATIENCE, |span| span.0),
        sources: sources.clone(),
        half_closed: if options.upstream_wait_half_closed {
            HalfClosed::Waits
        } else {
            HalfClosed::Left
        },
    }
}

/// How long an upstream connection is silent before it serves another client.
pub(super) fn rest(options: &Options, problems: &mut Vec<String>) -> Duration {
    let rest = options.upstream_rest.map_or(REST, |span| span.0);
    if rest > MOST_REST {
        problems.push(format!(
            "--upstream-rest {rest:?} is too long: a connection is kept for a second; write at most \
             {MOST_REST:?}"
        ));
    }
    rest
}

/// Finds listeners whose connections would come back to them. A name's address is not known yet, but
/// for localhost; what leads back by another way is noticed when it happens.
pub(super) fn circles(listeners: &Listeners, problems: &mut Vec<String>) {
    for (listen, _, own) in listeners {
        let mut upstream = &own.upstream;
        // Each listener once: a longer way goes round another one's circle.
        for _ in 0..listeners.len() {
            let next = listeners.iter().find(|(addr, how, _)| leads_to(upstream, *addr, *how));
            let Some((addr, _, next)) = next else { break };
            if addr == listen {
                problems.push(format!(
                    "--upstream {} leads back to listener {listen}: give --upstream the address on \
                     which the application itself listens",
                    own.upstream
                ));
                break;
            }
            upstream = &next.upstream;
        }
    }
}

/// Whether a connection to the upstream is one to this listener.
fn leads_to(upstream: &Upstream, listen: SocketAddr, how: ListenOptions) -> bool {
    if listen.port() == 0 {
        return false;
    }
    let reaches = |addr: SocketAddr| {
        // The kernel takes the unspecified address for loopback (ip(7)).
        let ip = match addr.ip().to_canonical() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let takes = match listen.ip().to_canonical() {
            IpAddr::V4(own) if own.is_unspecified() => ip.is_ipv4() && is_ours(ip),
            IpAddr::V6(own) if own.is_unspecified() => {
                (ip.is_ipv6() || !how.only_v6) && is_ours(ip)
            }
            own => own == ip,
        };
        takes && addr.port() == listen.port()
    };
    match upstream {
        Upstream::Address(addr) => reaches(*addr),
        Upstream::Name(name, port) if name.eq_ignore_ascii_case("localhost") => {
            let ips = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
            ips.into_iter().all(|ip| reaches(SocketAddr::new(ip, *port)))
                || reaches(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), *port))
        }
        Upstream::Name(..) | Upstream::Unix(_) => false,
    }
}

/// Whether this host has the address: one that is not ours can't be bound.
fn is_ours(ip: IpAddr) -> bool {
    ip.is_loopback() && ip.is_ipv4() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::settings::{Problems, Settings};
    use super::*;

    fn problems(yaml: &str) -> String {
        let options: Options = serde_saphyr::from_str(yaml).expect("options");
        Settings::new(options).map_or_else(|error: Problems| error.to_string(), |_| String::new())
    }

    #[test]
    fn an_upstream_that_is_the_listener_is_refused() {
        for (listen, upstream) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("0.0.0.0:8080", "127.0.0.9:8080"),
            ("0.0.0.0:8080", "0.0.0.0:8080"),
            ("0.0.0.0:8080", "localhost:8080"),
            ("127.0.0.1:8080", "localhost:8080"),
            ("'[::]:8080'", "127.0.0.1:8080"),
            ("'[::]:8080'", "localhost:8080"),
            ("'[::1]:8080'", "'[::1]:8080'"),
            ("127.0.0.1:8080", "'[::ffff:127.0.0.1]:8080'"),
        ] {
            let problems = problems(&format!("listen: {listen}\nupstream: {upstream}\n"));
            assert!(problems.contains("leads back to listener"), "{listen} {upstream}: {problems}");
        }
    }

    #[test]
    fn an_upstream_beside_the_listener_is_not() {
        for (listen, upstream) in [
            ("127.0.0.1:8080", "127.0.0.1:8081"),
            ("127.0.0.1:8080", "127.0.0.2:8080"),
            ("0.0.0.0:8080", "192.0.2.1:8080"),
            ("0.0.0.0:8080", "app.local:8080"),
            ("0.0.0.0:8080", "unix:/run/a.sock"),
            ("127.0.0.1:0", "127.0.0.1:8080"),
        ] {
            assert_eq!(problems(&format!("listen: {listen}\nupstream: {upstream}\n")), "");
        }
    }

    #[test]
    fn listeners_that_lead_to_each_other_are_refused() {
        let circle = "listeners:\n- {listen: 127.0.0.1:1001, upstream: 127.0.0.1:1002}\n\
                      - {listen: 127.0.0.1:1002, upstream: 127.0.0.1:1003}\n\
                      - {listen: 127.0.0.1:1003, upstream: 127.0.0.1:1001}\n";
        assert_eq!(problems(circle).lines().count(), 3, "{}", problems(circle));
        let chain = circle.replace("127.0.0.1:1001}", "127.0.0.1:1004}");
        assert_eq!(problems(&chain), "");
    }

    #[test]
    fn an_address_to_connect_from_must_fit() {
        let with = |upstream: &str, bind: &str| {
            problems(&format!(
                "listen: 127.0.0.1:8080\nupstream: {upstream}\nupstream-bind: [{bind}]\n"
            ))
        };
        assert_eq!(with("127.0.0.1:3000", "127.0.0.2, 127.0.0.3"), "");
        assert!(with("127.0.0.1:3000", "'::1'").contains("same family"));
        assert!(with("unix:/run/a", "127.0.0.2").contains("same family"));
        assert!(with("127.0.0.1:3000", "192.0.2.7").contains("no address 192.0.2.7"));
    }
}
