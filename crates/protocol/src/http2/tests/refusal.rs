//! A client that opens streams after it was told the last one.

use super::super::{Http2, Surprise};
use super::frames::*;
use super::script::Script;
use crate::Direction::{FromClient, FromUpstream};

/// Stream 1 is being answered, its request has ended, and it was said to be the last.
fn told_while_answering() -> Script {
    Script::begun()
        .client(headers(1, END_STREAM))
        .drain()
        .client(answer())
        .reaches_upstream(headers(1, END_STREAM))
        .reaches_client([first_words(), last_words(1)].concat())
}

#[test]
fn a_later_stream_is_refused_while_no_header_block_can_follow() {
    told_while_answering()
        .client([headers(3, 0), credit(3, 9), data(3, 0)].concat())
        .reaches_upstream([])
        .reaches_client([refusal(3), credit(0, data(3, 0).len() as u32 - 9)].concat())
        .open(1)
        .client(
            [settings(), credit(0, 1), credit(1, 1), headers(3, END_STREAM), ping(*b"client 1", 0)]
                .concat(),
        )
        .reaches_upstream([settings(), credit(0, 1), credit(1, 1), ping(*b"client 1", 0)].concat())
        .reaches_client([])
        .client(headers(5, END_STREAM))
        .reaches_client(refusal(5))
        .client(reset(5))
        .reaches_upstream([])
        .not_done()
        .upstream(headers(1, END_STREAM))
        .done()
        .play();
}

#[test]
fn a_refusal_waits_for_a_frame_boundary() {
    let body = data(1, 0);
    told_while_answering()
        .upstream([headers(1, 0), body[..20].to_vec()].concat())
        .client(
            [headers_begun(3, END_STREAM), continuation(3, 0), continuation(3, END_HEADERS)]
                .concat(),
        )
        .reaches_upstream([])
        .reaches_client([&headers(1, 0)[..], &body[..20]].concat())
        .upstream(&body[20..])
        .reaches_client([&body[20..], &refusal(3)].concat())
        .open(1)
        .play();
}

#[test]
fn a_farewell_is_not_done_before_its_refusals_are_said() {
    let mut http2 = Http2::new(PING);
    http2.step(FromClient, &preface());
    http2.step(FromUpstream, &settings());
    http2.leave();
    assert!(http2.interject(FromUpstream).is_some() && http2.farewell_done());
    http2.step(FromClient, &headers(1, END_STREAM));
    assert!(!http2.farewell_done() && !http2.is_blocking());
    assert_eq!(http2.interject(FromUpstream), Some(refusal(1)));
    assert!(http2.farewell_done());
}

#[test]
fn no_stream_is_the_last_while_trailers_can_follow() {
    Script::begun()
        .client(headers(1, 0))
        .drain()
        .reaches_client(first_words())
        .client(answer())
        .reaches_client([])
        .client(headers(3, END_STREAM))
        .reaches_upstream([headers(1, 0), headers(3, END_STREAM)].concat())
        .open(2)
        .client([data(1, 0), headers_begun(1, END_STREAM)].concat())
        .reaches_client([])
        .client(continuation(1, END_HEADERS))
        .reaches_client(last_words(3)) // now nothing can follow
        .client(headers(5, END_STREAM))
        .reaches_upstream(
            [data(1, 0), headers_begun(1, END_STREAM), continuation(1, END_HEADERS)].concat(),
        )
        .reaches_client(refusal(5))
        .upstream([headers(3, END_STREAM), headers(1, END_STREAM)].concat())
        .reaches_client([headers(3, END_STREAM), headers(1, END_STREAM)].concat())
        .done()
        .play();
}

#[test]
fn a_request_whose_body_never_ends_is_last_when_it_is_reset() {
    Script::begun()
        .client(headers(1, 0))
        .drain()
        .client(answer())
        .then(|vectors| vectors.tracker.leave())
        .reaches_client(first_words())
        .not_done()
        .upstream(reset(1))
        .reaches_client([reset(1), last_words(1)].concat())
        .done()
        .play();
}

#[test]
fn a_header_that_was_under_way_is_served() {
    let request = headers(1, END_STREAM);
    Script::begun()
        .client(&request[..5])
        .then(|vectors| {
            vectors.begin_drain();
            vectors.tracker.leave();
        })
        .reaches_client(first_words())
        .client(&request[5..])
        .reaches_upstream(request)
        .reaches_client(last_words(1))
        .open(1)
        .play();
}

#[test]
fn trailers_that_cross_a_reset_stay_away_from_an_application_that_missed_a_block() {
    Script::begun()
        .client([headers(1, 0), headers(3, END_STREAM)].concat())
        .upstream(reset(1))
        .drain()
        .client(answer())
        .client(headers(5, END_STREAM))
        .client([data(1, 0), headers(1, END_STREAM)].concat())
        .reaches_upstream([headers(1, 0), headers(3, END_STREAM), data(1, 0)].concat())
        .reaches_client([reset(1), first_words(), last_words(3), refusal(5)].concat())
        .open(1)
        .play();
}

#[test]
fn after_a_refusal_a_client_that_surprises_is_not_heard() {
    told_while_answering()
        .client([headers_begun(3, 0), data(3, 0), headers(9, 0)].concat())
        .opaque(Surprise::HeaderBlock)
        .reaches_upstream([])
        .upstream([headers(1, 0), data(0, 0)].concat())
        .play();
}

#[test]
fn refusals_that_wait_are_bounded() {
    let mut http2 = Http2::new(PING);
    http2.step(FromClient, &preface());
    http2.step(FromUpstream, &[settings(), ping(PING, 0)[..12].to_vec()].concat());
    http2.leave();
    http2.step(FromUpstream, &ping(PING, 0)[12..]);
    assert!(http2.interject(FromUpstream).is_some());
    http2.step(FromUpstream, &ping(PING, 0)[..12]);
    for stream in 0..10_000 {
        http2.step(FromClient, &headers(2 * stream + 1, END_STREAM));
        assert_eq!(http2.interject(FromUpstream), None);
    }
    assert!(http2.heap_bytes() <= 1024);
}
