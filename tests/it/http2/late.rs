//! Streams and connections that come when the farewell was begun, and a farewell that is undone.

use std::net::SocketAddr;

use rustix::process::Signal;

use super::{blocking, proxy};
use crate::support::Ebbtide;
use crate::support::frames::{
    DATA, END_STREAM, Frame, GOAWAY, HIGHEST_STREAM, PING, REFUSED_STREAM, RST_STREAM, Raw,
    WINDOW_UPDATE,
};
use crate::support::h2::Server;
use crate::support::tap::Tap;

/// A proxy whose lame duck is longer than the test.
pub fn lame_duck(upstream: SocketAddr, protocol: &str) -> Ebbtide {
    let args = ["--protocol", protocol, "--drain-delay", "60s", "--quiet-period", "0"];
    Ebbtide::proxy(&upstream.to_string(), &args)
}

#[test]
fn a_client_that_ignores_the_last_stream_is_refused_and_does_not_hold_the_drain() {
    let server = Server::start();
    let limits = ["--drain-timeout", "4s", "--close-spread", "1s"];
    let proxy = proxy(server.addr, "http2", &limits);
    let mut client = Raw::client(proxy.addr());
    client.get(1, "/hold");
    server.until_seen(1);
    proxy.signal(Signal::TERM);
    let ping = client.until_ping();
    client.answer_ping(&ping);
    client.until("the final GOAWAY", |frame| frame.kind == GOAWAY && frame.number() == 1);
    for stream in (3..43).step_by(2) {
        client.get(stream, "/late");
        assert_eq!(client.until_end_of(stream), Some(REFUSED_STREAM));
    }
    // What a refused body took from the connection's window is given back.
    client.send(&Frame::request(43, "/late", 0));
    client.send(&Frame::new(DATA, END_STREAM, 43, &[0; 1000]));
    let credit = client.until("credit", |frame| frame.is(WINDOW_UPDATE, 0) && frame.stream == 0);
    assert_eq!(credit.number(), 1000);
    assert_eq!(server.seen(), ["/hold"]);
    // The one stream that it was promised goes on up to the deadline, and the connection with it.
    client.until_end();
    drop(client);
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(75), "one connection was force-closed");
    let forced = finished.lines("connection force-closed by the drain");
    assert_eq!(forced.len(), 1, "{:#?}", finished.log);
    assert_eq!(forced[0]["class"], "http2");
}

#[test]
fn a_client_in_the_middle_of_a_request_is_served_late_streams_until_the_deadline() {
    let server = Server::start();
    let limits = ["--drain-timeout", "3s", "--close-spread", "500ms"];
    let proxy = proxy(server.addr, "auto", &limits);
    let mut client = Raw::client(proxy.addr());
    client.send(&Frame::request(1, "/echo", 0));
    server.until_seen(1);
    proxy.signal(Signal::TERM);
    let ping = client.until_ping();
    client.answer_ping(&ping);
    let mut served = 0;
    // It opens one after the other for as long as it is let.
    'open: for stream in (3..).step_by(2) {
        if client.try_send(&Frame::request(stream, "/late", END_STREAM)).is_err() {
            break;
        }
        loop {
            match client.try_next() {
                Ok(Some(frame)) if frame.stream == stream && frame.flags & END_STREAM != 0 => break,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break 'open,
            }
        }
        served += 1;
    }
    assert!(served > 0, "late streams are served while the last one can't be named");
    assert!(!client.heard.iter().any(|frame| frame.kind == RST_STREAM), "nothing was refused");
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(75));
    // The deadline may have come between the last request and its answer.
    let seen = server.seen().iter().filter(|path| *path == "/late").count();
    assert!(seen == served || seen == served + 1, "{seen} came, {served} were answered");
}

#[test]
fn a_connection_that_comes_in_the_lame_duck_is_served_and_told() {
    let server = Server::start();
    let proxy = lame_duck(server.addr, "auto");
    proxy.addr();
    assert_eq!(proxy.post("/drain").status, 200);
    let mut client = Raw::client(proxy.addr());
    client.get(1, "/hold");
    assert_eq!(client.until_goaway(), HIGHEST_STREAM);
    let ping = client.until_ping();
    client.answer_ping(&ping);
    server.until_seen(1);
    assert_eq!(client.until_goaway(), 1);
    server.release(1);
    assert_eq!(client.until_end_of(1), None);
    client.until_end();
}

/// A gRPC client asks nothing of a connection that has said GOAWAY. Told at once, it came again and
/// again for as long as the lame duck lasted, or missed the GOAWAY and waited for ever.
#[test]
fn a_client_that_comes_in_the_lame_duck_is_told_nothing_before_its_first_request() {
    let server = Server::start();
    for protocol in ["http2", "auto"] {
        let proxy = lame_duck(server.addr, protocol);
        proxy.addr();
        assert_eq!(proxy.post("/drain").status, 200);
        let mut client = Raw::client(proxy.addr());
        // Whatever comes behind the SETTINGS stands before the answer to a PING.
        client.send(&Frame::new(PING, 0, 0, b"anything"));
        client.until("its answer", |frame| frame.is(PING, 1) && frame.payload == b"anything");
        assert!(client.last_streams().is_empty(), "{:?}", client.heard);
        blocking(&proxy, 1);
        client.get(1, "/first");
        let ping = client.until_ping();
        client.answer_ping(&ping);
        assert_eq!(client.until_end_of(1), None);
        client.until_end();
        assert_eq!(client.last_streams(), [HIGHEST_STREAM, 1], "{protocol}");
    }
}

#[test]
fn a_client_that_comes_in_the_lame_duck_and_asks_nothing_is_seen_off() {
    let server = Server::start();
    let proxy = lame_duck(server.addr, "auto");
    proxy.addr();
    assert_eq!(proxy.post("/drain").status, 200);
    let mut client = Raw::client(proxy.addr());
    client.until_end();
    assert_eq!(client.last_streams(), [0]);
    blocking(&proxy, 0);
}

#[test]
fn a_drain_that_is_undone_says_no_more_and_the_next_one_does() {
    let server = Server::start();
    let application_side = Tap::before(server.addr);
    let proxy = lame_duck(application_side.addr, "auto");
    let mut client = Raw::client(proxy.addr());
    client.get(1, "/before");
    assert_eq!(client.until_end_of(1), None);
    assert_eq!(proxy.post("/drain").status, 200);
    assert_eq!(client.until_goaway(), HIGHEST_STREAM);
    let ping = client.until_ping();
    assert_eq!(proxy.post("/undrain").status, 200);
    proxy.until_phase("Serving");
    client.answer_ping(&ping);
    for stream in [3, 5] {
        client.get(stream, "/undone");
        assert_eq!(client.until_end_of(stream), None);
    }
    let mut other = Raw::client(proxy.addr());
    other.get(1, "/other");
    assert_eq!(other.until_end_of(1), None);
    assert_eq!(client.last_streams(), [HIGHEST_STREAM]);
    assert!(other.last_streams().is_empty(), "{:?}", other.last_streams());

    assert_eq!(proxy.post("/drain").status, 200);
    assert_eq!(client.until_goaway(), 5, "its PING was answered long ago");
    assert_eq!(other.until_goaway(), HIGHEST_STREAM);
    let second = other.until_ping();
    other.answer_ping(&second);
    client.until_end();
    other.until_end();
    assert_eq!(other.last_streams(), [HIGHEST_STREAM, 1]);
    for passed in application_side.connections() {
        let pings = passed.to_upstream().into_iter().filter(|frame| frame.kind == PING);
        assert_eq!(pings.count(), 0, "the application never sees an answer to our PING");
    }
}
