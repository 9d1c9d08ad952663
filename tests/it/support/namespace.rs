//! A network of a test's own: addresses that the host has not, limits that concern nobody else.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `test` on a thread in a new network namespace in which `setup` has been run by a shell and
/// loopback is up. Processes, threads and sockets that the test makes are in it too. Needs root.
pub fn inside<T: Send>(setup: &str, test: impl FnOnce() -> T + Send) -> T {
    let script = format!("set -e; ip link set lo up; {setup}\necho ready; exec cat");
    // The namespace lives as long as somebody is in it: `cat` is, until its input ends.
    let mut keeper = Command::new("unshare")
        .args(["--net", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare, of util-linux");
    let mut ready = String::new();
    let stdout = keeper.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut ready).expect("a line");
    assert_eq!(ready, "ready\n", "no network namespace: this test needs root and iproute2");
    let namespace = File::open(format!("/proc/{}/ns/net", keeper.id())).expect("a namespace");
    let result = std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("moved into the namespace");
            test()
        });
        inside.join()
    });
    drop(keeper.stdin.take());
    keeper.wait().expect("the keeper ends");
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
