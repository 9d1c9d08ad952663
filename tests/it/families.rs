//! The endpoints' defaults in pods of one address family and of both.

use std::net::SocketAddr;

use crate::support::namespace::inside;
use crate::support::{Ebbtide, echo, http};

/// A pod's own address of each family, and of loopback.
const V4: &str = "10.9.0.1";
const V6: &str = "fd00:9::1";

fn answers(addr: &str) {
    let addr: SocketAddr = addr.parse().expect("an address");
    for path in ["/livez", "/readyz"] {
        let reply =
            http::request(addr, "GET", path).unwrap_or_else(|error| panic!("{addr}: {error}"));
        assert_eq!(reply.status, 200, "{addr}{path}");
    }
}

/// A proxy with the default endpoints, and what answers in the namespace.
fn proxy_in(setup: &str, addrs: &[&str]) {
    inside(setup, || {
        let upstream = echo().to_string();
        let line = ["proxy", "--upstream", &upstream, "--listen", "[::]:8080"];
        let proxy = Ebbtide::start(&[&line[..], &["--termination-log", "/dev/null"]].concat());
        proxy.addr();
        for addr in addrs {
            answers(addr);
        }
    });
}

#[test]
fn the_default_admin_port_answers_on_both_families_and_in_pods_of_one() {
    let v4 = format!("ip addr add {V4}/32 dev lo");
    let v6 = format!("ip addr add {V6}/128 dev lo nodad");
    let (at_v4, at_v6) = (format!("{V4}:17701"), format!("[{V6}]:17701"));
    proxy_in(&format!("{v4}; {v6}"), &[&at_v4, &at_v6, "127.0.0.1:17701", "[::1]:17701"]);
    proxy_in(&v6, &[&at_v6]);
    let no_v6 = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
    proxy_in(&format!("{v4}; {no_v6}"), &[&at_v4, "127.0.0.1:17701"]);
    // Whatever the node's default for dual-stack sockets is.
    let only_v6 = "echo 1 > /proc/sys/net/ipv6/bindv6only";
    proxy_in(&format!("{only_v6}; {v4}; {v6}"), &[&at_v4, &at_v6]);
}

/// The form of the shipped manifests; who calls by IPv4 is known by that address.
#[test]
fn a_controller_on_the_unspecified_address_takes_both_families() {
    inside(&format!("ip addr add {V6}/128 dev lo nodad"), || {
        let controller = Ebbtide::start(&[
            "controller",
            "--listen",
            "[::]:17710",
            "--auth",
            "none",
            "--insecure",
        ]);
        controller.takes_reports();
        for addr in [&format!("[{V6}]:17710"), "127.0.0.1:17710", "[::1]:17710"] {
            answers(addr);
        }
    });
}
