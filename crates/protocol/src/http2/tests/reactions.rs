//! What a correct client may do when it reads a farewell that the application does not know of.

use super::super::frame::Kind;
use super::super::{Http2, Surprise, fuzz};
use super::frames::*;
use super::script::Script;

/// An idle connection with one past stream, whose client has read the first GOAWAY.
fn told() -> Script {
    Script::begun()
        .client(headers(1, END_STREAM))
        .upstream(headers(1, END_STREAM))
        .reaches_upstream(headers(1, END_STREAM))
        .reaches_client(headers(1, END_STREAM))
        .drain()
        .reaches_client(first_words())
}

fn planned(kind: Kind, stream: u32) -> Vec<u8> {
    frame(kind, 0, stream, &[0, 0, 0, 8])
}

/// nghttpx resets the streams that it had only planned; the application took that for an error of the
/// connection.
#[test]
fn a_reset_of_a_stream_that_was_only_planned_is_kept_from_the_application() {
    told()
        .client([planned(Kind::RST_STREAM, 3), planned(Kind::RST_STREAM, 5)].concat())
        .client(planned(Kind::WINDOW_UPDATE, 7))
        .reaches_upstream([])
        .open(0)
        .client([answer(), planned(Kind::RST_STREAM, 9)].concat())
        .reaches_upstream([])
        .reaches_client(last_words(1))
        .client([planned(Kind::RST_STREAM, 11), ping(*b"ordinary", 0)].concat())
        .reaches_upstream(ping(*b"ordinary", 0))
        .done()
        .play();
}

#[test]
fn between_the_two_goaways_a_client_may_plan_and_open_in_any_order() {
    Script::begun()
        .client(headers(3, 0))
        .reaches_upstream(headers(3, 0))
        .drain()
        .reaches_client(first_words())
        .client([answer(), planned(Kind::RST_STREAM, 5)].concat())
        .reaches_upstream([])
        .open(1)
        .client([headers(7, END_STREAM), planned(Kind::RST_STREAM, 3)].concat())
        .reaches_upstream([headers(7, END_STREAM), planned(Kind::RST_STREAM, 3)].concat())
        .open(1)
        .upstream(headers(7, END_STREAM))
        .done()
        .play();
}

#[test]
fn a_late_reaction_is_kept_from_the_application_after_an_undrain_too() {
    told()
        .then(|vectors| vectors.tracker.end_drain())
        .client([planned(Kind::RST_STREAM, 3), headers(5, END_STREAM)].concat())
        .reaches_upstream(headers(5, END_STREAM))
        .open(1)
        .play();
}

#[test]
fn before_a_farewell_such_a_reset_is_passed_on_and_not_understood() {
    Script::begun()
        .client(planned(Kind::RST_STREAM, 3))
        .reaches_upstream(planned(Kind::RST_STREAM, 3))
        .opaque(Surprise::StreamId)
        .play();
}

/// Found by the fuzz target: the farewell was done and the first request waited for, at once.
#[test]
fn a_newcomer_whom_the_application_tells_that_it_serves_nothing_is_not_waited_for() {
    fuzz::run(&[
        0xea, 0xf9, 0xff, 0xfd, 0x00, 0x11, 0x00, 0x00, 0x08, 0x07, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0xfa, 0xf9, 0x01, 0xfc, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xfc, 0xfc, 0xfd, 0x10, 0, 0, 0, 0, 0xf9, 0xf9, 0,
    ]);
    Script::new()
        .drain()
        .upstream([settings(), goaway(0, 0, b"")].concat())
        .reaches_client([settings(), goaway(0, 0, b"")].concat())
        .client(preface())
        .expect("not waited for", |http2| !http2.awaits_request())
        .done()
        .play();
}

#[test]
fn a_preface_or_a_first_header_block_that_does_not_go_on_is_a_half_head() {
    fn half(holds: bool) -> impl Fn(&Http2) -> bool {
        move |http2: &Http2| http2.has_half_head() == holds
    }
    let block = [headers_begun(1, 0), continuation(1, 0), continuation(1, END_HEADERS)];
    Script::new()
        .expect("nothing was begun", half(false))
        .client(&preface()[..10])
        .expect("half a preface", half(true))
        .client(&preface()[10..])
        .expect("a whole one", half(false))
        .client(&block[0][..11])
        .expect("half a frame", half(true))
        .client([&block[0][11..], &block[1][..]].concat())
        .expect("half a block", half(true))
        .client(block[2].clone())
        .expect("a whole one", half(false))
        .client(&headers(3, 0)[..12])
        .expect("another stream is open", half(false))
        .play();
}
