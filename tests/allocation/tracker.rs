//! What a tracker costs in memory: nothing for each request that comes whole, little for itself.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ebbtide::protocol::http1::{HEAD_LIMIT_BYTES, Options, Tracker};
use ebbtide::protocol::{Class, Direction, Step, websocket};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const REQUEST: &[u8] = b"POST /a HTTP/1.1\r\nHost: a.example\r\nUser-Agent: test\r\n\
    Content-Length: 5\r\n\r\nhello";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nServer: a\r\n\r\n\
    2\r\nok\r\n0\r\nA: b\r\n\r\n";

fn pass(tracker: &mut Tracker, direction: Direction, bytes: &[u8]) {
    assert_eq!(tracker.step(direction, bytes), Step::Pass(bytes.len()));
}

#[test]
fn exchanges_whose_heads_come_whole_allocate_nothing() {
    let mut tracker = Tracker::new(Arc::new(Options::default()), CLIENT);
    let info = allocation_counter::measure(|| {
        for _ in 0..100 {
            pass(&mut tracker, Direction::FromClient, REQUEST);
            pass(&mut tracker, Direction::FromUpstream, CHUNKED);
            assert_eq!(tracker.take_events().responses_ended[1], 1);
        }
    });
    assert_eq!(tracker.class(), Class::Idle);
    assert_eq!(info.count_total, 0);
}

#[test]
fn a_cut_head_is_given_back_when_it_ends() {
    let mut tracker = Tracker::new(Arc::new(Options::default()), CLIENT);
    let head = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(HEAD_LIMIT_BYTES - 100));
    let info = allocation_counter::measure(|| {
        for piece in head.as_bytes().chunks(1000) {
            pass(&mut tracker, Direction::FromClient, piece);
        }
    });
    assert!(info.bytes_max <= 3 * HEAD_LIMIT_BYTES as u64, "{info:?}");
    assert_eq!(info.bytes_current, 0);
}

#[test]
fn trackers_are_small() {
    assert!(size_of::<Tracker>() <= 384, "{}", size_of::<Tracker>());
    let websocket = size_of::<websocket::Tracker>();
    assert!(websocket <= 96, "{websocket}");
}
