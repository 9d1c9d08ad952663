//! One table of first bytes: `auto`, the tracker of HTTP/1 and the judgement of `--reject http503` must
//! come to the same.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::detect::{Detector, HTTP2_PREFACE};
use super::{Class, Direction, Surprise, Tracker, Unfinished};

/// What first bytes of a client are.
struct Row {
    bytes: Vec<u8>,
    class: Class,
    /// Whether a drain may close here.
    is_safe_point: bool,
    unfinished: Option<Unfinished>,
    /// Whether a client that is turned away has asked in HTTP/1: not known, or not, or so.
    asks: Option<bool>,
}

fn row(bytes: impl Into<Vec<u8>>, class: Class, asks: Option<bool>) -> Row {
    let half = class == Class::Http && asks.is_none();
    let unfinished = half.then_some(Unfinished::Head);
    Row { bytes: bytes.into(), class, is_safe_point: class == Class::Idle, unfinished, asks }
}

fn half_head(bytes: impl Into<Vec<u8>>) -> Row {
    let row = row(bytes, Class::Http, Some(true));
    Row { unfinished: Some(Unfinished::Head), ..row }
}

fn opaque(bytes: impl Into<Vec<u8>>, surprise: Surprise) -> Row {
    row(bytes, Class::Opaque(surprise), Some(false))
}

fn table() -> Vec<Row> {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let longest = "M".repeat(32);
    vec![
        // Empty lines are nobody's: RFC 9112 §2.2.
        row("\r\n", Class::Idle, None),
        row("\r\n\r\n\r\n", Class::Idle, None),
        row("\r\n".repeat(40), Class::Idle, None),
        row("\r", Class::Http, None),
        row("\r\n\r", Class::Http, None),
        row("\r\nGE", Class::Http, None),
        half_head("\r\nGET "),
        row(format!("\r\n{get}"), Class::Http, Some(true)),
        row(format!("\r\n\r\n{get}"), Class::Http, Some(true)),
        row("G", Class::Http, None),
        half_head("GET / HTTP/1.1\r\nHo"),
        row(get, Class::Http, Some(true)),
        row(longest.clone(), Class::Http, None),
        half_head(format!("{longest} /")),
        row(format!("\r\n{longest}"), Class::Http, None),
        opaque(format!("{longest}M"), Surprise::UnknownProtocol),
        opaque(format!("\r\n{longest}M"), Surprise::UnknownProtocol),
        opaque("\n", Surprise::BareLineFeed),
        opaque("\rG", Surprise::MalformedHead),
        opaque("\r\n\n", Surprise::BareLineFeed),
        opaque("\r\n\r\r", Surprise::MalformedHead),
        opaque("\r\n GET", Surprise::UnknownProtocol),
        opaque("\r\n\x16\x03\x01", Surprise::Tls),
        opaque([b"\r\n", HTTP2_PREFACE].concat(), Surprise::Http2Preface),
        opaque(" GET", Surprise::UnknownProtocol),
        opaque("G\0", Surprise::UnknownProtocol),
        opaque(&b"\0\0\0\x08\x04\xd2\x16\x2f"[..], Surprise::UnknownProtocol),
        opaque("\x17", Surprise::UnknownProtocol),
    ]
}

/// Plays bytes to a tracker, in two reads.
fn shown(mut tracker: Tracker, bytes: &[u8], cut: usize) -> Tracker {
    let (before, after) = bytes.split_at(cut);
    for part in [before, after] {
        tracker.step(Direction::FromClient, part);
    }
    tracker
}

fn judged(bytes: &[u8], cut: usize) -> Option<bool> {
    let (before, after) = bytes.split_at(cut);
    let mut detector = Detector::default();
    [before, after].into_iter().find_map(|part| detector.asks_http1(part))
}

#[test]
fn detector_tracker_and_rejection_agree_however_the_bytes_are_cut() {
    let client = Ipv4Addr::LOCALHOST.into();
    for Row { bytes, class, is_safe_point, unfinished, asks } in table() {
        for cut in 0..bytes.len() {
            let auto = Tracker::auto(Arc::default(), client, [7; 8]);
            for (name, tracker) in
                [("auto", auto), ("http1", Tracker::http1(Arc::default(), client))]
            {
                let tracker = shown(tracker, &bytes, cut);
                let seen = (tracker.class(), tracker.is_safe_point(), tracker.unfinished());
                let told = bytes.escape_ascii();
                assert_eq!(
                    seen,
                    (class, is_safe_point, unfinished),
                    "{name}, {told}, cut at {cut}"
                );
            }
            assert_eq!(judged(&bytes, cut), asks, "{}, cut at {cut}", bytes.escape_ascii());
        }
    }
}

/// Where the two must differ: `auto` alone can take up HTTP/2, and knows how far TLS has come.
#[test]
fn only_auto_takes_up_http2_and_follows_a_client_hello() {
    let client = Ipv4Addr::LOCALHOST.into();
    let auto = |bytes: &[u8]| shown(Tracker::auto(Arc::default(), client, [7; 8]), bytes, 1);
    let http1 = |bytes: &[u8]| shown(Tracker::http1(Arc::default(), client), bytes, 1);
    let [half, _] = HTTP2_PREFACE.split_at(10).into();
    assert_eq!(auto(half).unfinished(), Some(Unfinished::Head));
    assert_eq!(auto(HTTP2_PREFACE).class(), Class::Http2 { open_streams: 0 });
    assert_eq!(http1(HTTP2_PREFACE).class(), Class::Opaque(Surprise::Http2Preface));
    let hello = [&[22, 3, 1, 0, 8, 1, 0, 0, 4][..], b"abcd"].concat();
    let [half, _] = hello.split_at(hello.len() - 1).into();
    for (bytes, unfinished) in [(half, Some(Unfinished::Head)), (&hello, None)] {
        assert_eq!(auto(bytes).class(), Class::Opaque(Surprise::Tls));
        assert_eq!(auto(bytes).unfinished(), unfinished);
        assert_eq!(auto(bytes).is_blind(), unfinished.is_none());
        assert_eq!(http1(bytes).class(), Class::Opaque(Surprise::Tls));
        assert_eq!(judged(bytes, 1), Some(false));
    }
    assert_eq!(judged(HTTP2_PREFACE, 9), Some(false));
}
