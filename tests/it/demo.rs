//! The demo that the README shows is no re-enactment, and loses nothing.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::confine::{Confined, Restrictions};
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

/// A demo that runs, and the process id of its proxy.
fn started() -> (Child, BufReader<ChildStdout>, Pid, Confined) {
    let mut command = Command::new(program());
    let confined = Restrictions::of_a_pod().apply(command.args(["demo", "--plain"]));
    let mut demo =
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts");
    let mut output = BufReader::new(demo.stdout.take().expect("a pipe"));
    let mut proxy = None;
    for line in output.by_ref().lines() {
        let line = line.expect("text");
        if let Some((_, rest)) = line.split_once("proxy        process ") {
            proxy = rest.split(' ').next().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
        }
        if line.contains("under way") {
            break;
        }
    }
    (demo, output, proxy.expect("the demo names the process"), confined)
}

#[test]
fn the_proxy_does_not_outlive_a_demo_that_is_interrupted() {
    for signal in [Signal::INT, Signal::TERM] {
        let (mut demo, _output, proxy, _confined) = started();
        test_kill_process(proxy).expect("the proxy is there");
        let pid = i32::try_from(demo.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the demo takes the signal");
        assert_eq!(demo.wait().expect("a child of ours").code(), Some(69));
        assert!(test_kill_process(proxy).is_err(), "killed and reaped before the demo ended");
    }
}

#[test]
fn a_demo_whose_proxy_is_killed_says_what_was_lost() {
    let (mut demo, mut output, proxy, _confined) = started();
    kill_process(proxy, Signal::KILL).expect("the proxy takes the signal");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("text");
    assert_eq!(demo.wait().expect("a child of ours").code(), Some(70), "{rest}");
    assert!(rest.contains("43 open, 0 finished whole, 43 lost"), "{rest}");
    // A newcomer may have been lost as well.
    assert!(rest.contains("\nlost 4"), "{rest}");
}
