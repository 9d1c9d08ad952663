//! Faults of the data path's calls.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use super::{Fault, Faulty, When, descriptors, is_named, leaks, worker};
use crate::support::application::random_bytes;
use crate::support::{Ebbtide, PATIENCE, connect, echo};
use Fate::{Ends, Served};
use Naming::{As, Unsaid};
use When::{Always, EveryOther, Nth, Once};

/// Enough for the relay to splice.
const BULK: usize = 3_000_000;

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Every byte comes back, and its end.
    Served,
    /// It ends, soon and for both sides.
    Ends,
}

/// Whether the log tells.
#[derive(Clone, Copy, Debug)]
enum Naming {
    /// Nobody needs to know.
    Unsaid,
    /// The error is named, and nothing of this is said instead.
    As { not: &'static str },
}

/// Said of an application that is there is a lie.
const NOT_THERE: Naming = As { not: "no application listens" };
const NOT_REACHED: Naming = As { not: "the application can't be reached" };
const NAMED: Naming = As { not: "no such lie" };

#[rustfmt::skip]
const ACCEPTING: &[(&str, &[&str], When, Fate, Naming)] = &[
    // Out of something: a pause, and who waits is served.
    ("accept4", &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"], Once, Served, NAMED),
    // One connection's affair, says accept(2).
    ("accept4", &["ECONNABORTED", "EPROTO", "EPERM", "EINTR", "ENETDOWN", "EHOSTUNREACH"], Once, Served, Unsaid),
    ("ppoll", &["EINTR", "ENOMEM"], Once, Served, Unsaid),
];

#[rustfmt::skip]
const CONNECTING: &[(&str, &[&str], When, Fate, Naming)] = &[
    // What comes back is waited for.
    ("socket", &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"], Once, Served, Unsaid),
    ("connect", &["ECONNREFUSED", "ETIMEDOUT", "EADDRNOTAVAIL", "EAGAIN", "ENOBUFS"], Once, Served, Unsaid),
    // What does not is named as what it is.
    ("socket", &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EACCES"], Always, Ends, NOT_THERE),
    ("connect", &["EADDRNOTAVAIL", "EAGAIN", "ENOBUFS", "EPERM", "ENETUNREACH"], Always, Ends, NOT_THERE),
];

#[rustfmt::skip]
const WATCHING: &[(&str, &[&str], When, Fate, Naming)] = &[
    // The client's socket first, then the application's.
    ("epoll_ctl", &["ENOSPC", "ENOMEM"], Once, Ends, NOT_REACHED),
    ("epoll_ctl", &["ENOSPC"], Nth(2), Ends, NOT_REACHED),
    // The connect is tried again, as for any want of memory.
    ("epoll_ctl", &["ENOMEM"], Nth(2), Served, Unsaid),
    ("epoll_pwait", &["EINTR"], EveryOther, Served, Unsaid),
];

#[rustfmt::skip]
const RELAYING: &[(&str, &[&str], When, Fate, Naming)] = &[
    ("recvfrom", &["EINTR"], EveryOther, Served, Unsaid),
    ("recvfrom", &["ECONNRESET", "ENOMEM"], Nth(3), Ends, NAMED),
    ("sendto", &["EINTR"], EveryOther, Served, Unsaid),
    ("sendto", &["EPIPE", "ECONNRESET", "ENOMEM", "ENOBUFS", "EPERM"], Once, Ends, NAMED),
    ("shutdown", &["ENOTCONN"], Once, Ends, Unsaid),
];

/// What only makes it faster fails for good: it is done without.
#[rustfmt::skip]
const OPTIONAL: &[(&str, &[&str], When, Fate, Naming)] = &[
    ("setsockopt", &["EPERM", "EINVAL", "ENOPROTOOPT", "ENOBUFS"], Always, Served, Unsaid),
    ("splice", &["EPERM", "ENOSYS", "EINVAL", "ENOMEM"], Always, Served, Unsaid),
    // With bytes in the pipe.
    ("splice", &["EPERM", "ENOSYS", "EINVAL", "ENOMEM"], Nth(2), Served, Unsaid),
    ("splice", &["EINTR"], EveryOther, Served, Unsaid),
    ("pipe2", &["EMFILE", "ENFILE", "EPERM", "ENOSYS"], Always, Served, Unsaid),
    ("fcntl", &["EPERM", "EINVAL"], Always, Served, Unsaid),
];

#[test]
fn accepting_survives_every_fault() {
    play(ACCEPTING);
}

#[test]
fn a_connect_that_fails_is_named_as_what_it_is() {
    play(CONNECTING);
}

#[test]
fn a_connection_that_can_not_be_watched_ends_and_says_so() {
    play(WATCHING);
}

#[test]
fn a_read_or_write_that_fails_ends_one_connection() {
    play(RELAYING);
}

#[test]
fn optional_calls_that_fail_are_done_without() {
    play(OPTIONAL);
}

/// Plays every line; all that went wrong is told together.
fn play(table: &[(&'static str, &[&'static str], When, Fate, Naming)]) {
    let mut wrong = Vec::new();
    for (call, errors, when, fate, naming) in table {
        for errno in *errors {
            let fault = Fault { call, errno, when: *when };
            let played = std::panic::catch_unwind(|| one(fault, *fate, *naming));
            if let Err(panic) = played {
                let text = panic.downcast_ref::<String>().cloned();
                wrong.push(text.unwrap_or_else(|| format!("{fault:?}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// One fault, with a process of its own: some remember what the kernel denies.
fn one(fault: Fault, fate: Fate, naming: Naming) {
    let what = format!("{} {} {:?}", fault.call, fault.errno, fault.when);
    let args = ["--upstream-wait", "300ms", "--connect-timeout", "5s"];
    let proxy = Ebbtide::proxy(&echo().to_string(), &args);
    let addr = proxy.addr();
    // What the first connection opens for all is not its own; and this one is open all the time.
    let mut other = connect(addr);
    exchange(&mut other, b"before").expect("served before");
    // By then the main thread has opened all that it keeps.
    let (_first, _second) = (proxy.status(), proxy.status());
    let (_, before) = descriptors(proxy.pid());
    let faulty = Faulty::attach(fault, worker(&proxy));
    let client = connect(addr);
    let outcome = whole(client);
    if fate == Served {
        outcome.unwrap_or_else(|error| panic!("{what}: not served: {error}; {}", said(&proxy)));
    } else if let Err(error) = outcome {
        assert!(!is_timeout(&error), "{what}: hangs; {}", said(&proxy));
    } else {
        assert_eq!(fault.call, "shutdown", "{what}: served all the same");
    }
    faulty.until_failed(&what);
    faulty.detach(&what);
    if let As { not } = naming {
        until(&proxy, &format!("{what}: not named"), || {
            proxy.log().iter().any(|line| is_named(line, fault.errno))
        });
        let lie = proxy.log().into_iter().find(|line| line.to_string().contains(not));
        assert!(lie.is_none(), "{what}: said instead: {lie:?}");
    }
    exchange(&mut other, b"after").unwrap_or_else(|error| panic!("{what}: another one: {error}"));
    whole(connect(addr)).unwrap_or_else(|error| panic!("{what}: the next one: {error}"));
    until(&proxy, &format!("{what}: not gone from the table"), || {
        proxy.status()["activeConnections"] == 1
    });
    until(&proxy, &format!("{what}: descriptors leak"), || !leaks(proxy.pid(), before));
}

/// Waits until something holds.
fn until(proxy: &Ebbtide, what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE / 6;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}; {}", said(proxy));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// The last lines of the log that tell of something wrong.
fn said(proxy: &Ebbtide) -> String {
    let log = proxy.log();
    let told = log.iter().rev().filter(|line| line.get("error").is_some());
    told.take(3).map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn exchange(stream: &mut TcpStream, text: &[u8]) -> io::Result<()> {
    crate::support::application::try_exchange(stream, text)
}

/// A few bytes, many bytes, and the end, all of which must come back.
fn whole(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE / 6))?;
    exchange(&mut stream, b"a few bytes")?;
    let bytes = random_bytes(7, BULK);
    let mut reader = stream.try_clone()?;
    let length = bytes.len();
    let back = std::thread::spawn(move || {
        let mut back = Vec::with_capacity(length);
        reader.read_to_end(&mut back).map(|_| back)
    });
    let written = stream.write_all(&bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let back = back.join().expect("a reader")?;
    written?;
    if back == bytes { Ok(()) } else { Err(io::Error::other("bytes are missing or other ones")) }
}
