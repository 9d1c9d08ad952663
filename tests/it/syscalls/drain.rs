//! Faults amid a drain: it ends all the same, and loses nobody who is served.

use std::io::Read;

use rustix::process::Signal;

use super::{Fault, Faulty, Scope, When, worker};
use crate::support::{Directory, Ebbtide, QUICK, connect, echo, exchange};

/// Who is hit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// The thread that relays and listens.
    Worker,
    /// Every thread: files are read and written by several.
    All,
}

#[rustfmt::skip]
const TABLE: &[(Who, &str, &[&str], When)] = &[
    // The kernel denies the SYN filters.
    (Who::Worker, "setsockopt", &["EPERM", "EINVAL", "ENOPROTOOPT"], When::Always),
    // It does not tell of half-open handshakes, and allows no second listener.
    (Who::Worker, "socket", &["EPERM", "EAFNOSUPPORT", "EMFILE"], When::Always),
    (Who::Worker, "getsockopt", &["EPERM", "ENOPROTOOPT"], When::Always),
    (Who::Worker, "ioctl", &["EPERM", "ENOTTY"], When::Always),
    // /proc and the termination log.
    (Who::All, "openat", &["EMFILE", "ENFILE", "EACCES", "ENOENT", "ENOSPC"], When::Always),
];

#[test]
fn a_drain_ends_under_every_fault() {
    let mut wrong = Vec::new();
    for (who, call, errors, when) in TABLE {
        for errno in *errors {
            let fault = Fault { call, errno, when: *when };
            if std::panic::catch_unwind(|| one(fault, *who)).is_err() {
                wrong.push(format!("{fault:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn one(fault: Fault, who: Who) {
    let what = format!("{} {}", fault.call, fault.errno);
    let directory = Directory::new();
    let log = directory.write("termination", "");
    crate::support::open_to_all(log.as_ref());
    let proxy = Ebbtide::start(
        &[
            &["proxy", "--upstream", &echo().to_string(), "--listen", "127.0.0.1:0"][..],
            &["--admin", "127.0.0.1:0", "--control", "127.0.0.1:0", "--termination-log", &log],
            &QUICK,
        ]
        .concat(),
    );
    let mut client = connect(proxy.addr());
    exchange(&mut client, b"before");
    let scope = if who == Who::All { Scope::Process(proxy.pid()) } else { worker(&proxy) };
    let faulty = Faulty::attach(fault, scope);
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    exchange(&mut client, b"amid the drain");
    client.shutdown(std::net::Shutdown::Write).expect("told");
    assert_eq!(client.read(&mut [0]).expect("an orderly end"), 0, "{what}");
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(0), "{what}: {:#?}", finished.log);
    if fault.call != "ioctl" {
        faulty.detach(&what);
    }
}
