//! Endpoints under crowds: who says nothing, who waits, who takes nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::support::process::run;
use crate::support::{Ebbtide, PATIENCE, QUICK, echo, http};

/// More than a server holds.
const CROWD: usize = 600;

fn crowd(addr: SocketAddr, first_bytes: &[u8]) -> Vec<TcpStream> {
    let connect = |_| {
        let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        // One that has given its place up already takes nothing.
        let _ = stream.write_all(first_bytes);
        stream
    };
    (0..CROWD).map(connect).collect()
}

fn status(addr: SocketAddr, path: &str) -> u16 {
    http::request(addr, "GET", path).expect("an answer").status
}

#[test]
fn silent_connections_starve_nobody() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &QUICK);
    let (admin, control) = (proxy.admin(), proxy.control());
    proxy.addr();
    for first_bytes in [&b""[..], b"GET /livez HTTP/1.1\r\nHost: a"] {
        let held = crowd(admin, first_bytes);
        // Each asked by a connection of its own, far more often than places become free by time-outs.
        for path in ["/livez", "/readyz", "/metrics", "/status"].repeat(10) {
            assert_eq!(status(admin, path), 200, "{path}");
        }
        drop(held);
    }
    let held = crowd(control, b"");
    let addr = control.to_string();
    let (code, out, error) = run(&["drain", "--control", &addr]);
    assert_eq!(code, Some(0), "{out}{error}");
    drop(held);
}

#[test]
fn those_who_wait_for_the_hook_leave_places_to_others() {
    let proxy =
        Ebbtide::proxy(&echo().to_string(), &["--wait-for-drain", "10m", "--drain-delay", "0"]);
    let (admin, control) = (proxy.admin(), proxy.control());
    for addr in [admin, control] {
        let mut waiting = crowd(addr, b"GET /hooks/wait HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        for path in ["/status", "/status", "/hooks/none"] {
            assert!([200, 404].contains(&status(addr, path)), "{path}");
        }
        // The first have their wait, the last are told that there are too many.
        let mut answer = [0; 12];
        waiting.last_mut().expect("one").read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 503");
        drop(waiting);
    }
    assert_eq!(status(admin, "/livez"), 200);
}

#[test]
fn silent_connections_do_not_starve_a_controller() {
    let controller = Ebbtide::controller("127.0.0.1:0");
    let addr = controller.takes_reports();
    let most = 4 * CROWD;
    let held: Vec<_> = (0..most / CROWD).map(|_| crowd(addr, b"")).collect();
    for path in ["/livez", "/readyz", "/metrics", "/v1/targets"].repeat(5) {
        assert_eq!(status(addr, path), 200, "{path}");
    }
    drop(held);
}
