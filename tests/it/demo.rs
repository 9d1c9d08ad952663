//! The demo that the README shows is no re-enactment, and loses nothing.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::PATIENCE;
use crate::support::process::{program, run};

const QUICK: [&str; 6] = ["--streams", "5", "--seconds", "4", "--balancer-delay", "500ms"];

#[test]
fn the_demo_shows_the_whole_life_of_a_drain_and_loses_nothing() {
    let mut line = vec!["demo", "--plain"];
    line.extend(QUICK);
    let (code, out, err) = run(&line);
    assert_eq!(code, Some(0), "{out}{err}");
    let mut rest = out.as_str();
    for wanted in [
        "newcomer     is served",
        "SIGTERM to process",
        "phase        LameDuck",
        "balancer     is told: weight zero",
        "phase        Draining",
        "newcomer     is refused by the kernel",
        "phase        Drained",
        "balancer     deregister, at 0 remaining",
        "exit status: 0",
        "8 open at SIGTERM, 8 finished whole, 0 lost",
        "\nlost 0",
    ] {
        let Some(at) = rest.find(wanted) else { panic!("no {wanted:?} in the rest of\n{out}") };
        rest = &rest[at + wanted.len()..];
    }
    assert!(!out.contains('\x1b'), "no colours where there is no terminal: {out}");
    assert_eq!(err, "");
}

#[test]
fn the_proxy_does_not_outlive_a_demo_that_is_interrupted() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut demo = Command::new(program())
            .args(["demo", "--plain"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(demo.stdout.take().expect("a pipe")).lines();
        let mut proxy = None;
        for line in lines.by_ref() {
            let line = line.expect("text");
            if let Some((_, rest)) = line.split_once("proxy        process ") {
                proxy = rest.split(' ').next().map(str::to_owned);
            }
            if line.contains("under way") {
                break;
            }
        }
        let proxy = format!("/proc/{}", proxy.expect("the demo names the process"));
        assert!(Path::new(&proxy).exists());
        let pid = i32::try_from(demo.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the demo takes the signal");
        assert_eq!(demo.wait().expect("a child of ours").code(), Some(69));
        let deadline = Instant::now() + PATIENCE;
        while Path::new(&proxy).exists() {
            assert!(Instant::now() < deadline, "{proxy} is still there");
            std::thread::yield_now();
        }
    }
}
