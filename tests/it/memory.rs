//! What an idle connection costs in memory, and that what is over costs nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::support::Ebbtide;
use crate::support::churn::{echo, runtime};
use crate::support::crowd::{Crowd, alone};

const CONNECTIONS: usize = 5_000;
/// A quarter of the relay's smallest buffer, so that one kept by an idle connection is seen.
const MOST_BYTES: usize = 4 * 1024;

/// The process's share of memory that is no file's, in bytes: its share of the program's text grows
/// when another test's proxy ends.
fn proportional_set_size(pid: i32) -> usize {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process");
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).expect("a line of it");
    let kib: usize = pss.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib * 1024
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let _alone = alone();
    let proxy = Ebbtide::proxy(&echo().to_string(), &[]);
    let addr = proxy.addr();
    runtime().block_on(async {
        // What the first connections warm up is not theirs.
        let few = Crowd::gather(addr, 100).await;
        let before = proportional_set_size(proxy.pid());
        let crowd = Crowd::gather(addr, CONNECTIONS).await;
        let after = proportional_set_size(proxy.pid());
        let each = after.saturating_sub(before) / CONNECTIONS;
        println!("{each} bytes of the process for each idle connection");
        assert!(each < MOST_BYTES, "{each} bytes for each idle connection");
        drop((few, crowd));
    });
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Answers every request with the same response.
fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut request = [0; REQUEST.len()];
                while stream.read_exact(&mut request).is_ok() {
                    stream.write_all(RESPONSE).expect("taken");
                }
            });
        }
    });
    addr
}

/// Sends requests on a few connections at once.
fn ask(addr: SocketAddr, times: usize) {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(move || {
                let mut stream = TcpStream::connect(addr).expect("a connection");
                let mut response = [0; RESPONSE.len()];
                for _ in 0..times / 8 {
                    stream.write_all(REQUEST).expect("taken");
                    stream.read_exact(&mut response).expect("answered");
                    assert_eq!(response, RESPONSE);
                }
            });
        }
    });
}

/// Each request's duration was kept until somebody scraped /metrics, which nobody did.
#[test]
fn requests_that_are_over_leave_nothing_behind() {
    const REQUESTS: usize = 400_000;
    // Every sample kept would be 6.6 MiB.
    const MOST_GROWTH: usize = 1024 * 1024;
    let _alone = alone();
    let proxy = Ebbtide::proxy(&application().to_string(), &["--protocol", "http1"]);
    let addr = proxy.addr();
    ask(addr, REQUESTS / 8);
    let before = proportional_set_size(proxy.pid());
    ask(addr, REQUESTS);
    let grown = proportional_set_size(proxy.pid()).saturating_sub(before);
    println!("{grown} bytes more after {REQUESTS} requests");
    assert!(grown < MOST_GROWTH, "{grown} bytes more after {REQUESTS} requests");
}
