//! Scripts for every rule of the room; each is cut at every offset.

mod drain;
mod framing;
mod handshake;
mod health;
mod hyper;
mod pipelining;
mod random;
mod reuse;
mod surprises;
mod switching;
mod unfinished;
mod upgrade;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::{Options, Tracker};
use crate::testing::{Outcome, Script};
use crate::{Class, Surprise};

pub(super) const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
pub(super) const OK_CLOSE: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

pub(super) fn tracker() -> Tracker {
    tracker_with(Options::default())
}

pub(super) fn tracker_with(options: Options) -> Tracker {
    Tracker::new(Arc::new(options), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)))
}

pub(super) fn play(script: &Script) -> Outcome {
    script.play(tracker)
}

/// Plays one request and what answers it.
pub(super) fn exchange(request: &str, response: &str) -> Outcome {
    play(&Script::new().client(request).upstream(response))
}

/// Checks that a script ends with a surprise, and that it stays one.
pub(super) fn assert_surprise(script: &Script, expected: Surprise) {
    let outcome = play(&script.clone().client("GET / HT").upstream("\r\n\r\n"));
    assert_eq!(outcome.last().class, Class::Opaque(expected), "{script:?}");
    let last = play(script).last();
    assert_eq!(last.class, Class::Opaque(expected), "{script:?}");
    assert!(!last.is_safe_point && !last.farewell_done);
}

/// Checks that a script leaves the connection idle after so many requests and responses by class.
pub(super) fn assert_idle(script: &Script, requests: u32, responses: [u32; 5]) {
    let last = play(script).last();
    assert_eq!(last.class, Class::Idle, "{script:?}");
    assert!(last.is_safe_point, "{script:?}");
    assert_eq!(last.events.requests_begun, requests, "{script:?}");
    assert_eq!(last.events.responses_ended, responses, "{script:?}");
}
