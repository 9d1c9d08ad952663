//! Streams are counted, and every byte passes.

use super::super::frame::Kind;
use super::super::{Http2, MAX_STREAMS, Surprise};
use super::frames::*;
use super::script::Script;
use crate::Direction::{FromClient, FromUpstream};

#[test]
fn nothing_sent_is_a_safe_point() {
    let http2 = Http2::new(PING);
    assert!(http2.is_safe_point() && !http2.is_blocking() && !http2.farewell_done());
    Script::begun().open(0).expect("safe", Http2::is_safe_point).play();
}

#[test]
fn the_upstream_may_begin() {
    Script::new()
        .upstream(settings())
        .client(preface())
        .client(headers(1, END_STREAM))
        .open(1)
        .play();
}

#[test]
fn inside_a_preface_or_a_frame_is_no_safe_point() {
    Script::new().client(&preface()[..10]).expect("unsafe", |http2| !http2.is_safe_point()).play();
    Script::begun()
        .client(&settings()[..3])
        .expect("unsafe", |http2| !http2.is_safe_point())
        .play();
    Script::begun()
        .upstream(&settings()[..11])
        .expect("unsafe", |http2| !http2.is_safe_point())
        .play();
}

#[test]
fn a_request_without_body() {
    Script::begun()
        .client(headers(1, END_STREAM))
        .open(1)
        .upstream(headers(1, 0))
        .open(1)
        .upstream(data(1, END_STREAM))
        .open(0)
        .expect("safe", Http2::is_safe_point)
        .play();
}

#[test]
fn bodies_interim_responses_and_trailers() {
    Script::begun()
        .client([headers(1, 0), data(1, 0)].concat())
        .upstream(headers(1, 0)) // 100 or 103
        .client([data(1, 0), headers(1, END_STREAM)].concat())
        .open(1)
        .upstream([headers(1, 0), data(1, 0), data(1, 0)].concat())
        .open(1)
        .upstream(headers(1, END_STREAM))
        .open(0)
        .play();
}

#[test]
fn a_response_that_ends_before_its_request_keeps_the_stream_open() {
    Script::begun()
        .client(headers(1, 0))
        .upstream(headers(1, END_STREAM))
        .open(1)
        .client(data(1, END_STREAM))
        .open(0)
        .client(headers(3, 0))
        .upstream([headers(3, END_STREAM), reset(3)].concat())
        .open(0)
        .play();
}

#[test]
fn an_end_counts_when_its_frame_has_passed_whole() {
    let end = data(1, END_STREAM);
    Script::begun()
        .client(headers(1, END_STREAM))
        .upstream([headers(1, 0), end[..end.len() - 1].to_vec()].concat())
        .open(1)
        .upstream(&end[end.len() - 1..])
        .open(0)
        .play();
}

#[test]
fn an_end_on_headers_counts_at_their_last_continuation() {
    Script::begun()
        .client([headers_begun(1, END_STREAM), continuation(1, 0)].concat())
        .open(1)
        .client(continuation(1, END_HEADERS))
        .upstream([headers_begun(1, END_STREAM), continuation(1, 0)].concat())
        .open(1)
        .upstream(continuation(1, END_HEADERS))
        .open(0)
        .play();
}

#[test]
fn resets_from_either_side() {
    Script::begun()
        .client([headers(1, 0), headers(3, 0), headers(5, END_STREAM)].concat())
        .open(3)
        .client(reset(1))
        .open(2)
        .upstream([headers(1, 0), data(1, END_STREAM)].concat()) // crossed the reset
        .open(2)
        .upstream(reset(3))
        .open(1)
        .client([data(3, 0), headers(3, END_STREAM), credit(3, 9), reset(3)].concat()) // crossed the reset
        .open(1)
        .upstream(reset(5))
        .open(0)
        .play();
}

#[test]
fn padding_priorities_and_unknown_frames_pass() {
    let odd = |kind, flags, stream| frame(kind, flags, stream, &[2, 7, 7, 7, 7, 7, 0, 0]);
    let unknown = [odd(Kind::UNKNOWN, 0xff, 77), odd(Kind::UNKNOWN, 0, 0)].concat();
    Script::begun()
        .client([odd(Kind::PRIORITY, 0, 9), unknown.clone(), odd(Kind::HEADERS, 0x2c, 1)].concat())
        .open(1)
        .client(
            [odd(Kind::DATA, PADDED, 1), odd(Kind::DATA, PADDED | END_STREAM, 1), settings()]
                .concat(),
        )
        .upstream(
            [unknown, ping(*b"app ping", 0), credit(0, 5), odd(Kind::HEADERS, 0x2d, 1)].concat(),
        )
        .open(0)
        .play();
}

#[test]
fn empty_frames_and_reserved_bits() {
    let mut reserved = headers(1, END_STREAM);
    reserved[5] |= 0x80;
    Script::begun()
        .client(reserved)
        .open(1)
        .upstream(frame(Kind::HEADERS, END_HEADERS, 1, &[]))
        .upstream([frame(Kind::DATA, 0, 1, &[]), frame(Kind::DATA, END_STREAM, 1, &[])].concat())
        .open(0)
        .play();
}

#[test]
fn pushed_streams_count_and_end_with_the_upstream() {
    Script::begun()
        .client(headers(1, END_STREAM))
        .upstream([headers(1, 0), promise(1, 2, END_HEADERS), promise(1, 4, PADDED)].concat())
        .open(3)
        .upstream(continuation(1, END_HEADERS))
        .open(3)
        .upstream([headers(2, 0), data(1, END_STREAM)].concat())
        .open(2)
        .upstream(data(2, END_STREAM))
        .open(1)
        .client(reset(4))
        .open(0)
        .upstream([headers(4, 0), data(4, END_STREAM)].concat()) // crossed the reset
        .open(0)
        .play();
}

#[test]
fn an_application_that_leaves_forgets_the_streams_above_its_last() {
    Script::begun()
        .client([headers(1, 0), headers(3, 0), headers(5, END_STREAM)].concat())
        .upstream(goaway(1, 0, b"bye"))
        .open(1)
        .client([data(3, END_STREAM), headers(7, 0), data(7, 0), headers(7, END_STREAM)].concat())
        .open(1)
        .upstream(headers(1, END_STREAM))
        .client(data(1, END_STREAM))
        .open(0)
        .play();
}

#[test]
fn closed_halves() {
    Script::begun()
        .client([headers(1, 0), headers(3, 0)].concat())
        .upstream(headers(1, END_STREAM))
        .open(2)
        .then(|vectors| vectors.end(FromClient))
        .open(1)
        .then(|vectors| vectors.end(FromUpstream))
        .open(0)
        .play();
}

#[test]
fn ids_of_every_size() {
    let last = (1 << 31) - 1;
    Script::begun()
        .client([headers(1, 0), headers(last - 2, 0), headers(last, 0)].concat())
        .open(3)
        .upstream(goaway(last - 1, 0, b""))
        .open(2)
        .upstream(goaway(0, 0, b""))
        .open(0)
        .play();
}

#[test]
fn surprises_make_it_opaque_and_everything_passes() {
    use Surprise::*;
    let client = [
        (Preface, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        (Preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r ...".to_vec()),
        (Preface, [&preface()[..24], &headers(1, 0)].concat()),
        (Preface, [&preface()[..24], &frame(Kind::SETTINGS, ACK, 0, &[])].concat()),
        (StreamId, [preface(), data(0, 0)].concat()),
        (StreamId, [preface(), data(1, 0)].concat()),
        (StreamId, [preface(), headers(0, 0)].concat()),
        (StreamId, [preface(), headers(2, 0)].concat()),
        (StreamId, [preface(), reset(1)].concat()),
        (StreamId, [preface(), headers(5, 0), headers(3, END_STREAM)].concat()),
        (StreamId, [preface(), headers(1, END_STREAM), headers(1, END_STREAM)].concat()),
        (StreamId, [preface(), headers(1, 0), promise(1, 2, END_HEADERS)].concat()),
        (StreamId, [preface(), frame(Kind::PING, 0, 1, &[0; 8])].concat()),
        (StreamId, [preface(), frame(Kind::SETTINGS, 0, 1, &[])].concat()),
        (FrameSize, [preface(), frame(Kind::PING, 0, 0, &[0; 7])].concat()),
        (FrameSize, [preface(), frame(Kind::GOAWAY, 0, 0, &[0; 7])].concat()),
        (FrameSize, [preface(), headers(1, 0), frame(Kind::RST_STREAM, 0, 1, &[0; 5])].concat()),
        (HeaderBlock, [preface(), headers_begun(1, 0), data(1, 0)].concat()),
        (HeaderBlock, [preface(), headers_begun(1, 0), headers(1, 0)].concat()),
        (HeaderBlock, [preface(), headers_begun(1, 0), continuation(3, END_HEADERS)].concat()),
        (HeaderBlock, [preface(), headers(1, 0), continuation(1, END_HEADERS)].concat()),
        (HeaderBlock, [preface(), headers_begun(1, 0), frame(Kind::UNKNOWN, 0, 1, &[])].concat()),
    ];
    for (surprise, bytes) in client {
        let rest = [b"anything at all".to_vec(), headers(99, 0)].concat();
        let all = [bytes.clone(), rest.clone()].concat();
        Script::new().client(bytes).opaque(surprise).client(rest).reaches_upstream(all).play();
    }
    let upstream = [
        (Preface, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        (StreamId, [settings(), headers(3, 0)].concat()),
        (StreamId, [settings(), headers(2, 0)].concat()),
        (StreamId, [settings(), data(0, 0)].concat()),
        (StreamId, [settings(), headers(1, END_STREAM), headers(1, 0)].concat()),
        (StreamId, [settings(), promise(1, 3, END_HEADERS)].concat()),
        (StreamId, [settings(), promise(3, 2, END_HEADERS)].concat()),
        (StreamId, [settings(), promise(1, 4, END_HEADERS), promise(1, 2, END_HEADERS)].concat()),
        (FrameSize, [settings(), frame(Kind::PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 2])].concat()),
        (
            FrameSize,
            [settings(), frame(Kind::PUSH_PROMISE, END_HEADERS | PADDED, 1, &[0, 0, 0, 2])]
                .concat(),
        ),
        (HeaderBlock, [settings(), promise(1, 2, 0), continuation(2, 0)].concat()),
    ];
    for (surprise, bytes) in upstream {
        let client = [preface(), headers(1, 0)].concat();
        Script::new()
            .client(client)
            .upstream(bytes.clone())
            .opaque(surprise)
            .reaches_client(bytes)
            .play();
    }
}

#[test]
fn more_streams_than_the_bound_are_not_counted() {
    let mut http2 = Http2::new(PING);
    http2.step(FromClient, &preface());
    http2.step(FromUpstream, &settings());
    for stream in 0..MAX_STREAMS {
        http2.step(FromClient, &headers(2 * stream + 1, 0));
    }
    assert_eq!(http2.open_streams(), MAX_STREAMS);
    assert!(http2.heap_bytes() <= super::super::HEAP_BYTES);
    http2.step(FromClient, &headers(2 * MAX_STREAMS + 1, 0));
    assert_eq!(http2.surprise(), Some(Surprise::TooManyStreams));
    assert_eq!(http2.heap_bytes(), 0);
}

#[test]
fn memory_follows_the_streams_that_are_open() {
    let mut http2 = Http2::new(PING);
    http2.step(FromClient, &preface());
    http2.step(FromUpstream, &settings());
    http2.step(FromClient, &headers(1, 0)); // open all the while
    for stream in 1..20_000 {
        http2.step(FromClient, &headers(2 * stream + 1, END_STREAM));
        http2.step(FromUpstream, &headers(2 * stream + 1, END_STREAM));
    }
    assert_eq!(http2.open_streams(), 1);
    assert!(http2.heap_bytes() <= 256, "{}", http2.heap_bytes());
}

#[test]
fn the_tracker_stays_small() {
    // 2.5 MB for ten thousand connections; whoever lets it grow is to have a reason.
    assert!(size_of::<Http2>() <= 256, "{}", size_of::<Http2>());
}
