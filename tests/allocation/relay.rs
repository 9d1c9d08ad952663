//! The whole way of a byte through the proxy: a message costs no allocation, whatever it is part of.

use ebbtide::connection::ListenerProtocol;

use crate::proxy::{COUNTED, Peers, allocations};

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Asserts that nothing is allocated; each protocol is both known beforehand and found out.
fn free(
    speaks: ListenerProtocol,
    greet: impl Fn(&mut Peers) + Send + Copy,
    talk: impl FnMut(&mut Peers, usize) + Send + Clone,
) {
    for speaks in [speaks, ListenerProtocol::Auto] {
        let info = allocations(speaks, COUNTED, greet, talk.clone());
        assert_eq!(info.count_total, 0, "{speaks:?}, {COUNTED} times: {info:?}");
    }
}

fn nothing(_: &mut Peers) {}

#[test]
fn a_message_over_tcp_costs_no_allocation() {
    let message = [0; 128];
    free(ListenerProtocol::Tcp, nothing, move |peers, _| {
        peers.ask(&message);
        peers.answer(&message);
    });
}

/// More than a large buffer holds, so pipes carry it.
#[test]
fn bulk_over_tcp_costs_no_allocation() {
    let bulk = vec![0; 1024 * 1024];
    let info = allocations(ListenerProtocol::Tcp, 100, nothing, |peers, _| {
        peers.ask(&bulk);
        peers.answer(&bulk);
    });
    assert_eq!(info.count_total, 0, "{info:?}");
}

#[test]
fn an_http1_request_costs_no_allocation() {
    free(ListenerProtocol::Http1, nothing, |peers, _| {
        peers.ask(
            b"POST /a HTTP/1.1\r\nHost: a.example\r\nUser-Agent: test\r\n\
            Content-Length: 5\r\n\r\nhello",
        );
        peers.answer(b"HTTP/1.1 100 Continue\r\n\r\n");
        peers.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
}

#[test]
fn a_chunked_http1_response_costs_no_allocation() {
    free(ListenerProtocol::Http1, nothing, |peers, _| {
        peers.ask(b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n");
        peers.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r");
        peers.answer(b"\nok\r\n0\r\nA: b\r\n\r\n");
    });
}

#[test]
fn large_http1_bodies_cost_no_allocation() {
    const BODY_BYTES: usize = 300_000;
    let body = vec![b'x'; BODY_BYTES];
    let length = format!("Content-Length: {BODY_BYTES}\r\n\r\n");
    let request = [b"PUT /a HTTP/1.1\r\nHost: a\r\n", length.as_bytes(), &body].concat();
    let response = [b"HTTP/1.1 200 OK\r\n", length.as_bytes(), &body].concat();
    free(ListenerProtocol::Http1, nothing, move |peers, _| {
        peers.ask(&request);
        peers.answer(&response);
    });
}

/// The first piece is kept until the head is whole, by something that is there only while it must be,
/// and grows by the second.
#[test]
fn a_head_that_comes_in_two_costs_three_allocations() {
    let info = allocations(ListenerProtocol::Http1, COUNTED, nothing, |peers, _| {
        peers.ask(b"GET /a HTTP/1.1\r\nHost: ");
        peers.ask(b"a.example\r\n\r\n");
        peers.answer(b"HTTP/1.1 204 No Content\r\n\r\n");
    });
    assert_eq!(info.count_total, 3 * COUNTED as u64, "{info:?}");
    assert!(info.bytes_current <= 0, "{info:?}");
}

#[test]
fn a_websocket_message_costs_no_allocation() {
    let greet = |peers: &mut Peers| {
        peers.ask(UPGRADE);
        peers.answer(SWITCHING);
    };
    let masked = [&[0x82, 0x80 | 64, 1, 2, 3, 4][..], &[7; 64]].concat();
    let large = [&[0x82, 127, 0, 0, 0, 0, 0, 4, 0, 0][..], &vec![7; 4 << 16]].concat();
    free(ListenerProtocol::Http1, greet, move |peers, call| {
        peers.ask(&masked);
        peers.answer(&[0x81, 2, b'o', b'k']);
        if call % 10 == 0 {
            peers.answer(&large);
        }
    });
}

/// One stream after the other, and 32 at once.
#[test]
fn http2_streams_and_their_frames_cost_no_allocation() {
    for at_once in [1, 32] {
        free(ListenerProtocol::Http2, greet_http2, move |peers, call| {
            streams(peers, call, at_once);
        });
    }
}

/// A table keeps room for 64 streams: it grows once for more, and gives that back in two steps.
#[test]
fn a_hundred_http2_streams_at_once_cost_three_allocations() {
    let talk = |peers: &mut Peers, call| streams(peers, call, 100);
    let info = allocations(ListenerProtocol::Http2, COUNTED, greet_http2, talk);
    assert_eq!(info.count_total, 3 * COUNTED as u64, "{info:?}");
}

fn greet_http2(peers: &mut Peers) {
    let settings = frame(SETTINGS, 0, 0, b"");
    peers.ask(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat());
    peers.answer(&settings);
}

/// New streams, and their ends.
fn streams(peers: &mut Peers, call: usize, at_once: usize) {
    let ids = || (call * at_once..(call + 1) * at_once).map(|stream| 2 * stream + 1);
    let request = |id| {
        let head = frame(HEADERS, END_HEADERS, id, b"\x83\x86\x84\x41\x0bapp.example");
        [head, frame(DATA, END_STREAM, id, b"hello")].concat()
    };
    let response = |id| {
        let head = frame(HEADERS, END_HEADERS, id, b"\x88");
        [head, frame(DATA, 0, id, &[7; 1000]), frame(DATA, END_STREAM, id, b"")].concat()
    };
    peers.ask(&ids().flat_map(request).collect::<Vec<u8>>());
    peers.answer(&ids().flat_map(response).collect::<Vec<u8>>());
}

fn frame(kind: u8, flags: u8, stream: usize, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let stream = u32::try_from(stream).expect("an id").to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}
