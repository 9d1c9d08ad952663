//! Memory that connections needed goes back to the kernel when they are gone.

use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

use crate::support::crowd::alone;
use crate::support::{Ebbtide, PATIENCE, Restrictions, echo};

const HEADS: usize = 3_000;
const HEAD_BYTES: usize = 62 * 1024;
/// A tenth of what they held.
const MOST_KEPT: usize = HEADS * HEAD_BYTES / 10;

/// What is no file's of a process, in bytes.
fn anonymous_bytes(pid: i32) -> usize {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process");
    let line =
        rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).expect("a line of it");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number of KiB") * 1024
}

/// Waits until the process holds as much as wanted; gives back what it held at last.
fn until(proxy: &Ebbtide, wanted: impl Fn(usize) -> bool) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let bytes = anonymous_bytes(proxy.pid());
        if wanted(bytes) || Instant::now() > deadline {
            return bytes;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Half heads are kept until they are whole, because something is to be put into them.
#[test]
fn what_half_heads_held_is_given_back() {
    let _alone = alone();
    let roomy = Restrictions::of_a_pod().descriptors(20_000);
    let args = ["--protocol", "http1", "--forward-client", "both"];
    let proxy = Ebbtide::proxy_under(&roomy, &echo().to_string(), &args);
    let addr = proxy.addr();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(HEAD_BYTES - 30));
    let before = anonymous_bytes(proxy.pid());
    let held: Vec<TcpStream> = (0..HEADS)
        .map(|_| {
            let mut stream = TcpStream::connect(addr).expect("connected");
            stream.write_all(head.as_bytes()).expect("taken");
            stream
        })
        .collect();
    let full = until(&proxy, |bytes| bytes > before + HEADS * HEAD_BYTES * 9 / 10);
    assert!(full > before + HEADS * HEAD_BYTES / 2, "{full} bytes: the heads were not held");
    drop(held);
    proxy.until("empty", |status| status["activeConnections"] == 0);
    let after = until(&proxy, |bytes| bytes < before + MOST_KEPT);
    let kept = after.saturating_sub(before);
    println!("{before} bytes before, {full} with {HEADS} half heads, {kept} of them kept");
    assert!(kept < MOST_KEPT, "{kept} bytes are kept of {HEADS} half heads");
}
