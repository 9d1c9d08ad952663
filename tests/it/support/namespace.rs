//! A network of a test's own: addresses that the host has not, limits that concern nobody else.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `test` on a thread in a new network namespace in which `setup` has been run by a shell and
/// loopback is up. Processes, threads and sockets that the test makes are in it too. Needs root.
pub fn inside<T: Send>(setup: &str, test: impl FnOnce() -> T + Send) -> T {
    Namespace::new(setup).enter(test)
}

/// A network namespace that lives until it is dropped. Needs root.
pub struct Namespace {
    /// The namespace lives as long as somebody is in it: `cat` is, until its input ends.
    keeper: Child,
}

impl Namespace {
    /// A namespace in which `setup` has been run by a shell and loopback is up.
    pub fn new(setup: &str) -> Self {
        let script = format!("set -e; ip link set lo up; {setup}\necho ready; exec cat");
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
        Namespace { keeper }
    }

    /// A namespace with one network card, `address`, on a bridge of the namespace that the caller is in.
    pub fn on_bridge(bridge: &str, address: &str, number: usize) -> Self {
        let namespace = Namespace::new("");
        let (pid, card) = (namespace.keeper.id(), format!("pod{number}"));
        shell(&format!(
            "ip link add {card} type veth peer name eth0 netns {pid}; ip link set {card} master {bridge} up"
        ));
        namespace.enter(|| shell(&format!("ip addr add {address} dev eth0; ip link set eth0 up")));
        namespace
    }

    /// Runs something on a thread in it.
    pub fn enter<T: Send>(&self, test: impl FnOnce() -> T + Send) -> T {
        let namespace =
            File::open(format!("/proc/{}/ns/net", self.keeper.id())).expect("a namespace");
        let result = std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("moved into the namespace");
                test()
            });
            inside.join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ended = self.keeper.wait();
    }
}

/// Runs a script that must succeed, in the namespaces of this thread.
pub fn shell(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().expect("a shell");
    assert!(status.success(), "{script}");
}
