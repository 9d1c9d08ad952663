//! Bulk goes through kernel pipes: unchanged, no more pipes than were allowed, none kept for long.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use crate::support::application::random_bytes;
use crate::support::{Ebbtide, PATIENCE, application, connect};

/// More than the kernel takes for a client that does not read.
const STREAM_BYTES: usize = 24 * 1024 * 1024;

/// What one worker lends at most and keeps at most, each with two ends: `relay/pipes.rs`.
const MOST_ENDS: usize = 2 * 16;
const KEPT_ENDS: usize = 2 * 4;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Ends of pipes that a process has open.
fn pipe_ends(pid: i32) -> usize {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process");
    let targets = fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("pipe:")).count()
}

/// Waits until the process has so many ends more than before.
fn until_pipe_ends(proxy: &Ebbtide, before: usize, wanted: impl Fn(usize) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ends = pipe_ends(proxy.pid()) - before;
        if wanted(ends) {
            return;
        }
        assert!(Instant::now() < deadline, "{ends} ends of pipes");
        std::thread::yield_now();
    }
}

/// Sends the same bytes to whoever comes, then ends.
fn sends(bytes: &Arc<Vec<u8>>) -> String {
    let bytes = Arc::clone(bytes);
    // The test may be over before all is sent.
    application(move |mut stream| drop(stream.write_all(&bytes))).to_string()
}

#[test]
fn more_streams_than_pipes_pass_unchanged() {
    const STREAMS: usize = 20;
    let bytes = Arc::new(random_bytes(8, STREAM_BYTES));
    let proxy = Ebbtide::proxy(&sends(&bytes), &["--protocol", "tcp", "--threads", "1"]);
    let before = pipe_ends(proxy.pid());
    let clients: Vec<TcpStream> = (0..STREAMS).map(|_| connect(proxy.addr())).collect();
    // Nobody reads, so each stream keeps what carries it.
    until_pipe_ends(&proxy, before, |ends| ends == MOST_ENDS);
    std::thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(|| {
                let mut read = Vec::with_capacity(STREAM_BYTES);
                client.read_to_end(&mut read).expect("an orderly end");
                assert!(read == **bytes, "other bytes");
                drop(client);
            });
        }
    });
    until_pipe_ends(&proxy, before, |ends| ends <= KEPT_ENDS);
}

#[test]
fn a_client_that_leaves_a_pipe_full_leaves_none_behind() {
    let bytes = Arc::new(random_bytes(9, STREAM_BYTES));
    let proxy = Ebbtide::proxy(&sends(&bytes), &["--protocol", "tcp"]);
    let before = pipe_ends(proxy.pid());
    let client = connect(proxy.addr());
    until_pipe_ends(&proxy, before, |ends| ends == 2);
    drop(client);
    until_pipe_ends(&proxy, before, |ends| ends == 0);
}

/// The body is not looked at; what comes behind it is.
#[test]
fn an_http_body_goes_through_a_pipe_and_the_next_exchange_is_seen() {
    let body = Arc::new(random_bytes(10, STREAM_BYTES));
    let sent = Arc::clone(&body);
    let upstream = application(move |mut stream| {
        let mut request = [0; REQUEST.len()];
        while stream.read_exact(&mut request).is_ok() {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {STREAM_BYTES}\r\n\r\n");
            if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&sent)).is_err() {
                return;
            }
        }
    });
    let proxy = Ebbtide::proxy(&upstream.to_string(), &["--protocol", "http1"]);
    let before = pipe_ends(proxy.pid());
    let mut client = connect(proxy.addr());
    for _ in 0..2 {
        client.write_all(REQUEST).expect("sent");
        until_pipe_ends(&proxy, before, |ends| ends > 0);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {STREAM_BYTES}\r\n\r\n");
        let mut read = vec![0; head.len() + STREAM_BYTES];
        client.read_exact(&mut read).expect("answered");
        let (read_head, read_body) = read.split_at(head.len());
        assert_eq!(read_head, head.as_bytes());
        assert!(*read_body == **body, "another body");
    }
    proxy.until_metric("ebbtide_responses_total{status=\"2xx\"} 2");
    proxy.until("idle", |status| status["byClass"]["idle"] == 1);
}
