//! A controller fits into the memory that its manifest gives it, whatever the reports hold.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::controller;
use crate::support::crowd::alone;
use crate::support::{PATIENCE, http};

/// As deploy/controller.yaml has it, and as many followers as are let in.
const MOST_TARGETS: usize = 10_000;
const MEMORY_LIMIT_BYTES: usize = 128 * 1024 * 1024;
const MOST_FOLLOWERS: usize = 64;

/// Fewer of both, so that it is over in seconds.
const TARGETS: usize = 1_000;
const FOLLOWERS: usize = 8;
const REPORTERS: usize = 4;

/// What the process has of its own: its program's pages can be read again.
fn memory_bytes(pid: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("its memory");
    let kibibytes: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes * 1024
}

/// The largest report that is taken: names, classes and listeners as long and as many as may be.
fn largest(number: usize) -> Value {
    let name = |of: &str| format!("{of}-{number:05}-{}", "x".repeat(253 - of.len() - 7));
    let classes: serde_json::Map<_, _> =
        (0..16).map(|it| (format!("{it:016}"), json!(u64::MAX))).collect();
    let listeners: Vec<_> = (0..32)
        .map(|it| json!({"address": format!("{it:04}"), "port": 1000 + it, "state": format!("{it:04}")}))
        .collect();
    json!({
        "schemaVersion": "v1", "namespace": name("n"), "podName": name("p"), "podUID": name("u"),
        "nodeName": name("o"), "podIP": name("i"), "service": name("s"),
        "runId": format!("{number:032x}"), "startTime": "2024-05-01T10:00:00.123456789Z",
        "sequence": u64::MAX, "phase": "Draining", "reason": "r".repeat(48),
        "drainStartTime": "2024-05-01T10:00:00.123456789Z",
        "drainDeadline": "2024-05-01T10:00:00.123456789Z", "drainSecondsLeft": 86400.0,
        "drainTimeoutSeconds": 300.0, "activeConnections": u64::MAX,
        "drainBlockingConnections": u64::MAX, "activeRequests": u64::MAX, "activeStreams": u64::MAX,
        "byClass": classes, "forcedCloses": u64::MAX, "rejected": u64::MAX,
        "oldestConnectionSeconds": u64::MAX, "formerWeight": u32::MAX, "adminPort": 0,
        "applicationReached": true, "listeners": listeners,
    })
}

fn report_all(addr: SocketAddr) {
    let report = |first: usize| {
        let mut stream = TcpStream::connect(addr).expect("a connection");
        for number in (first..TARGETS).step_by(REPORTERS) {
            let body = largest(number).to_string();
            let head = format!(
                "POST /v1/reports HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).expect("sent");
            let reply = http::receive(&mut stream).expect("an answer");
            assert_eq!(reply.status, 200, "{}", reply.body);
        }
    };
    std::thread::scope(|scope| {
        for first in 0..REPORTERS {
            scope.spawn(move || report(first));
        }
    });
}

/// Follows the changes until everything was told; gives back how many targets were.
fn follow(addr: SocketAddr) -> usize {
    let mut stream = TcpStream::connect(addr).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    write!(stream, "GET /v1/events HTTP/1.1\r\nHost: {addr}\r\n\r\n").expect("sent");
    let (mut told, mut kept, mut chunk) = (0, Vec::new(), vec![0; 64 * 1024]);
    loop {
        let length = stream.read(&mut chunk).expect("it goes on");
        assert_ne!(length, 0, "the stream ended");
        kept.extend_from_slice(&chunk[..length]);
        let whole = kept.iter().rposition(|it| *it == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = kept.drain(..whole).collect();
        for line in lines.split(|it| *it == b'\n') {
            told += usize::from(line == b"event: target");
            if line == b"event: current" {
                return told;
            }
        }
    }
}

#[test]
fn the_largest_reports_of_ten_thousand_targets_fit_and_are_listed_and_followed() {
    let _alone = alone();
    let many = (10 * TARGETS).to_string();
    let (controller, addr) = controller(&["--lost-after", "1h", "--max-source-rate", &many]);
    let empty = memory_bytes(controller.pid());
    report_all(addr);
    let full = memory_bytes(controller.pid());
    let peak = AtomicUsize::new(full);
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..FOLLOWERS {
            scope.spawn(|| {
                let told = follow(addr);
                done.fetch_add(1, Ordering::Relaxed);
                assert!(told >= TARGETS, "{told}");
            });
        }
        while done.load(Ordering::Relaxed) < FOLLOWERS {
            peak.fetch_max(memory_bytes(controller.pid()), Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
    let list = http::request(addr, "GET", "/v1/targets").expect("an answer").json();
    assert_eq!(list.as_array().map(Vec::len), Some(TARGETS));
    peak.fetch_max(memory_bytes(controller.pid()), Ordering::Relaxed);
    let targets = (full - empty) / TARGETS * MOST_TARGETS;
    let followers = (peak.into_inner() - full) / FOLLOWERS * MOST_FOLLOWERS;
    let most = empty + targets + followers;
    println!(
        "{empty} bytes empty, {targets} for the targets, {followers} for followers and a list"
    );
    assert!(most < MEMORY_LIMIT_BYTES, "{most} bytes");
}
