//! HTTP/1.1 that becomes HTTP/2 by an Upgrade.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::super::{Forwarding, Options};
use super::GET;
use crate::detect::HTTP2_PREFACE;
use crate::testing::{Outcome, Script};
use crate::{Class, Surprise, Tracker};

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                       Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
/// The response on stream 1, which ends it.
const ANSWER: &[u8] = b"\0\0\x01\x01\x05\0\0\0\x01\x88";
const FIRST_GOAWAY: &[u8] =
    b"\0\0\x10\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0draining\0\0\x08\x06\0\0\0\0\0pingpong";
const FINAL_GOAWAY: &[u8] = b"\0\0\x10\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0draining";
const PONG: &[u8] = b"\0\0\x08\x06\x01\0\0\0\0pingpong";

fn play(script: &Script, forwarding: Option<Forwarding>) -> Outcome {
    let options = Options { forwarding, http2_ping: *b"pingpong", ..Options::default() };
    let options = Arc::new(options);
    // What is edited without a drain is edited: a script with one may say so.
    let edited = script.clone().drain().undrain();
    let script = if forwarding.is_some() { &edited } else { script };
    let client = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    script.play(|| Tracker::http1(Arc::clone(&options), client))
}

fn switched() -> Script {
    Script::new()
        .client(UPGRADE)
        .upstream([SWITCHED.as_bytes(), SETTINGS].concat())
        .client([HTTP2_PREFACE, SETTINGS].concat())
}

#[test]
fn the_request_is_stream_one_and_its_client_has_ended_it() {
    let outcome = play(&switched().upstream(ANSWER), None);
    assert_eq!(outcome.classes(), ["http", "http2", "http2", "http2"]);
    assert_eq!(outcome.states[1].class, Class::Http2 { open_streams: 1 });
    assert_eq!(outcome.states[2].class, Class::Http2 { open_streams: 1 });
    let last = outcome.last();
    assert_eq!(last.class, Class::Http2 { open_streams: 0 });
    assert!(last.is_safe_point);
}

#[test]
fn all_that_follows_the_101_in_one_read_is_http2() {
    let all = [SWITCHED.as_bytes(), SETTINGS, ANSWER].concat();
    let outcome = play(&Script::new().client(UPGRADE).upstream(all), None);
    assert_eq!(outcome.last().class, Class::Http2 { open_streams: 0 });
}

#[test]
fn an_idle_one_is_told_in_two_phases() {
    let drained = switched().upstream(ANSWER).drain().client(PONG);
    let outcome = play(&drained, None);
    assert!(outcome.last().farewell_done, "{:?}", outcome.last());
    let expected = [SWITCHED.as_bytes(), SETTINGS, ANSWER, FIRST_GOAWAY, FINAL_GOAWAY].concat();
    assert!(outcome.to_client == expected, "{}", outcome.to_client.escape_ascii());
    assert!(!outcome.to_upstream.ends_with(PONG), "the application does not see our PING's ACK");
}

#[test]
fn a_switch_within_a_drain_is_told_behind_the_upstreams_settings() {
    let script = Script::new()
        .drain()
        .client(UPGRADE)
        .upstream([SWITCHED.as_bytes(), SETTINGS, ANSWER].concat())
        .client([HTTP2_PREFACE, SETTINGS, PONG].concat());
    let outcome = play(&script, None);
    assert!(outcome.last().farewell_done);
    let expected = [SWITCHED.as_bytes(), SETTINGS, FIRST_GOAWAY, ANSWER, FINAL_GOAWAY].concat();
    assert!(outcome.to_client == expected, "{}", outcome.to_client.escape_ascii());
}

#[test]
fn what_is_not_http2_after_all_is_opaque() {
    let script = Script::new().client(UPGRADE).upstream(format!("{SWITCHED}HTTP/1.1 200 OK\r\n"));
    let Class::Opaque(Surprise::Http2(_)) = play(&script, None).last().class else {
        panic!("{:?}", play(&script, None).last());
    };
}

#[test]
fn an_offer_that_is_not_taken_up_leaves_http1_as_it_is() {
    let outcome = play(&Script::new().client(UPGRADE).upstream(OK).client(GET).upstream(OK), None);
    assert_eq!(outcome.classes(), ["http", "idle", "http", "idle"]);
}

#[test]
fn where_the_client_is_named_the_offer_does_not_reach_the_application() {
    let forwarding = Some(Forwarding::XForwardedFor);
    let outcome = play(&Script::new().client(UPGRADE).upstream(OK), forwarding);
    let expected = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
    assert_eq!(outcome.upstream_read(), expected);
    assert_eq!(outcome.last().class, Class::Idle);
    // An application that switches all the same is not understood.
    let outcome = play(&Script::new().client(UPGRADE).upstream(SWITCHED), forwarding);
    assert_eq!(outcome.last().class, Class::Opaque(Surprise::UnaskedUpgrade));
}

#[test]
fn what_else_the_client_offers_stays() {
    let offer = UPGRADE
        .replace("Upgrade: h2c", "Upgrade: websocket, H2C\r\nUpgrade: h2c")
        .replace("Connection: ", "Connection: keep-alive, ");
    let outcome = play(&Script::new().client(offer), Some(Forwarding::Forwarded));
    let expected = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
                    Upgrade: websocket\r\nForwarded: for=192.0.2.1\r\n\r\n";
    assert_eq!(outcome.upstream_read(), expected);
    // Pipelined requests behind it are edited likewise.
    let script = Script::new().client(format!("{GET}{UPGRADE}"));
    let read = play(&script, Some(Forwarding::Forwarded)).upstream_read();
    assert!(!read.contains("h2c") && read.matches("for=192.0.2.1").count() == 2, "{read}");
}
