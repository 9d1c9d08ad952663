//! What a client has begun and not finished, told from what the application owes.

use super::{GET, tracker};
use crate::Direction::{FromClient, FromUpstream};
use crate::Unfinished::{self, Body, Filler, Head};
use crate::{Direction, http1};

fn after(events: &[(Direction, &str)]) -> http1::Tracker {
    let mut tracker = tracker();
    for (direction, bytes) in events {
        for byte in bytes.as_bytes() {
            tracker.step(*direction, &[*byte]);
        }
    }
    tracker
}

fn assert_unfinished(events: &[(Direction, &str)], expected: Option<Unfinished>) {
    assert_eq!(after(events).unfinished(), expected, "{events:?}");
}

const POST: &str = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
const EXPECTING: &str = "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";

#[test]
fn a_head_is_the_clients() {
    assert_unfinished(&[], None);
    assert_unfinished(&[(FromClient, "GET / HT")], Some(Head));
    assert_unfinished(&[(FromClient, "\r")], Some(Head));
    assert_unfinished(&[(FromClient, GET)], None);
    // While the application owes an answer, it is that which is waited for.
    assert_unfinished(&[(FromClient, GET), (FromClient, "GET /")], None);
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    assert_unfinished(&[(FromClient, GET), (FromClient, "GET /"), (FromUpstream, ok)], Some(Head));
    assert_unfinished(&[(FromClient, GET), (FromUpstream, "HTTP/1.1 2")], None);
}

#[test]
fn a_body_is_the_clients_until_the_application_answers() {
    assert_unfinished(&[(FromClient, POST)], Some(Body));
    assert_unfinished(&[(FromClient, POST), (FromClient, "ab")], Some(Body));
    assert_unfinished(&[(FromClient, POST), (FromClient, "abc")], None);
    assert_unfinished(&[(FromClient, EXPECTING)], Some(Body));
    let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    assert_unfinished(&[(FromClient, EXPECTING), (FromUpstream, go_on)], Some(Body));
    assert_unfinished(&[(FromClient, POST), (FromUpstream, "HTTP/1.1 2")], None);
    let early = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no";
    assert_unfinished(&[(FromClient, POST), (FromUpstream, early)], None);
    // The first of two pipelined requests is the application's.
    assert_unfinished(&[(FromClient, GET), (FromClient, POST)], None);
}

#[test]
fn what_carries_nothing_is_told_from_a_body() {
    for (chunks, expected) in [
        ("", Body),
        ("3", Body),
        ("3;", Filler),
        ("3;extension=for-ever", Filler),
        ("3;a\r\nab", Body),
        ("3 ", Filler),
        ("0\r\n", Filler),
        ("0\r\nTrailer: for-ev", Filler),
        ("0\r\nTrailer: a\r\n", Filler),
    ] {
        assert_unfinished(&[(FromClient, CHUNKED), (FromClient, chunks)], Some(expected));
    }
    assert_unfinished(&[(FromClient, CHUNKED), (FromClient, "0\r\n\r\n")], None);
}

#[test]
fn a_client_that_has_ended_and_an_opaque_connection_have_begun_nothing() {
    let mut tracker = after(&[(FromClient, "GET /")]);
    tracker.end(FromClient);
    assert_eq!(tracker.unfinished(), None);
    assert_unfinished(&[(FromClient, "GET / HTTP/1.1\n\n")], None);
}
