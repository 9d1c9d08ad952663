//! The client is told that we leave, in two phases, and nothing that was begun is lost.

use super::super::frame::{HIGHEST_STREAM, Kind};
use super::super::{Http2, Surprise};
use super::frames::*;
use super::script::Script;
use crate::Direction::{FromClient, FromUpstream};

/// An idle connection that has heard the first words.
fn told() -> Script {
    Script::begun().drain().reaches_client(first_words())
}

#[test]
fn an_idle_connection_hears_both_phases() {
    told()
        .not_done()
        .expect("waits", Http2::awaits_ping)
        .client(answer())
        .reaches_upstream([]) // the application never sees the answer
        .reaches_client(last_words(0))
        .expect("waits no more", |http2| !http2.awaits_ping())
        .done()
        .play();
}

#[test]
fn nothing_is_said_before_the_upstream_has_begun() {
    let settings = settings();
    Script::new()
        .client(preface())
        .drain()
        .reaches_client([])
        .upstream(&settings[..12])
        .reaches_client(&settings[..12])
        .upstream(&settings[12..])
        .reaches_client([&settings[12..], &first_words()].concat())
        .play();
}

#[test]
fn a_client_that_comes_in_a_drain_is_told_behind_its_first_request() {
    Script::new()
        .drain()
        .client(preface())
        .expect("waits", Http2::awaits_request)
        .upstream([settings(), ping(*b"another!", 0)].concat())
        .reaches_client([settings(), ping(*b"another!", 0)].concat())
        .expect("blocks", |http2| http2.is_blocking() && !http2.farewell_done())
        .client(headers(1, END_STREAM))
        .reaches_client(first_words())
        .expect("waits no more", |http2| !http2.awaits_request())
        .client(answer())
        .reaches_client(last_words(1))
        .upstream(headers(1, END_STREAM))
        .done()
        .play();
}

#[test]
fn a_client_that_comes_in_a_drain_and_asks_nothing_is_told_in_the_end() {
    Script::new()
        .drain()
        .client(preface())
        .upstream(settings())
        .reaches_client(settings())
        .not_done()
        .then(|vectors| vectors.tracker.overdue())
        .reaches_client(last_words(0))
        .done()
        .play();
}

#[test]
fn a_client_that_came_in_a_drain_that_was_undone_is_told_at_once_in_the_next() {
    Script::new()
        .drain()
        .client(preface())
        .upstream(settings())
        .then(|vectors| vectors.tracker.end_drain())
        .expect("waits for nothing", |http2| !http2.awaits_request() && !http2.is_blocking())
        .reaches_client(settings())
        .drain()
        .reaches_client(first_words())
        .play();
}

#[test]
fn streams_that_cross_the_first_goaway_are_served() {
    Script::begun()
        .client(headers(1, END_STREAM))
        .drain()
        .reaches_client(first_words())
        .reaches_upstream(headers(1, END_STREAM))
        .client([headers(3, END_STREAM), answer(), credit(0, 1)].concat())
        .reaches_upstream([headers(3, END_STREAM), credit(0, 1)].concat())
        .reaches_client(last_words(3))
        .open(2)
        .not_done()
        .upstream(headers(3, END_STREAM))
        .not_done()
        .upstream([headers(1, 0), data(1, END_STREAM)].concat())
        .done()
        .reaches_client([headers(3, END_STREAM), headers(1, 0), data(1, END_STREAM)].concat())
        .play();
}

#[test]
fn words_wait_for_a_frame_boundary() {
    let body = data(1, 0);
    Script::begun()
        .client(headers(1, END_STREAM))
        .upstream([headers(1, 0), body[..14].to_vec()].concat())
        .reaches_client([&headers(1, 0)[..], &body[..14]].concat())
        .drain()
        .reaches_client([])
        .upstream([body[14..].to_vec(), data(1, 0)].concat())
        .reaches_client([&body[14..], &first_words(), &data(1, 0)].concat())
        .play();
}

#[test]
fn words_wait_for_a_cut_header() {
    let end = data(1, END_STREAM);
    Script::begun()
        .client(headers(1, END_STREAM))
        .upstream([headers(1, 0), end[..4].to_vec()].concat())
        .reaches_client([&headers(1, 0)[..], &end[..4]].concat())
        .drain()
        .upstream(&end[4..])
        .reaches_client([&end[4..], &first_words()].concat())
        .play();
}

#[test]
fn words_wait_for_the_end_of_a_header_block() {
    let block = [continuation(1, 0), continuation(1, END_HEADERS)].concat();
    Script::begun()
        .client(headers(1, END_STREAM))
        .upstream(headers_begun(1, 0))
        .reaches_client(headers_begun(1, 0))
        .drain()
        .reaches_client([])
        .upstream([block.clone(), data(1, 0)].concat())
        .reaches_client([block, first_words(), data(1, 0)].concat())
        .play();
}

#[test]
fn without_an_answer_the_relay_decides() {
    told()
        .client(headers(1, END_STREAM))
        .reaches_client([])
        .then(|vectors| vectors.tracker.overdue())
        .reaches_client(last_words(1))
        .not_done()
        .reaches_upstream(headers(1, END_STREAM))
        .client(answer()) // late, and still not for the application
        .reaches_upstream([])
        .upstream(headers(1, END_STREAM))
        .done()
        .play();
}

#[test]
fn overdue_means_nothing_before_the_ping() {
    Script::begun()
        .then(|vectors| vectors.tracker.overdue())
        .drain()
        .reaches_client(first_words())
        .play();
}

#[test]
fn a_client_that_has_closed_its_half_is_not_waited_for() {
    Script::begun()
        .client(headers(1, END_STREAM))
        .drain()
        .reaches_client(first_words())
        .then(|vectors| vectors.end(FromClient))
        .reaches_client(last_words(1))
        .upstream(headers(1, END_STREAM))
        .done()
        .play();
}

#[test]
fn a_client_that_has_gone_inside_a_head_begins_nothing() {
    told()
        .client(&answer()[..7])
        .then(|vectors| vectors.end(FromClient))
        .reaches_client(last_words(0))
        .done()
        .play();
    Script::begun()
        .client(&headers(1, 0)[..7])
        .drain()
        .then(|vectors| vectors.end(FromClient))
        .reaches_client([first_words(), last_words(0)].concat())
        .done()
        .play();
}

#[test]
fn nothing_follows_the_end_of_the_upstream() {
    Script::begun().then(|vectors| vectors.end(FromUpstream)).drain().reaches_client([]).play();
}

#[test]
fn other_pings_and_answers_reach_their_peers() {
    let pings = [ping(*b"client 1", 0), ping(*b"app ping", ACK), ping(PING, 0)].concat();
    told()
        .client([pings.clone(), answer(), pings.clone(), answer()].concat())
        .reaches_upstream([pings.clone(), pings, answer()].concat()) // a second answer is not to us
        .upstream([ping(*b"client 1", ACK), ping(*b"app ping", 0)].concat())
        .reaches_client([last_words(0), ping(*b"client 1", ACK), ping(*b"app ping", 0)].concat())
        .play();
}

#[test]
fn a_frame_that_was_under_way_when_the_ping_left_is_no_answer() {
    Script::begun()
        .client(&answer()[..5])
        .drain()
        .client(&answer()[5..])
        .reaches_upstream(answer())
        .not_done()
        .play();
}

#[test]
fn a_ping_of_a_wrong_size_is_no_answer() {
    let wrong = frame(Kind::PING, ACK, 0, b"farewell!");
    told().client(wrong.clone()).opaque(Surprise::FrameSize).reaches_upstream(wrong).play();
}

#[test]
fn undrain_before_anything_was_said() {
    Script::begun()
        .upstream(&ping(PING, 0)[..10])
        .drain()
        .then(|vectors| vectors.tracker.end_drain())
        .upstream(&ping(PING, 0)[10..])
        .reaches_client(ping(PING, 0))
        .not_done()
        .drain()
        .reaches_client(first_words())
        .play();
}

#[test]
fn undrain_between_the_phases() {
    told()
        .then(|vectors| vectors.tracker.end_drain())
        .client([answer(), headers(1, END_STREAM)].concat())
        .reaches_upstream(headers(1, END_STREAM))
        .reaches_client([])
        .upstream(headers(1, END_STREAM))
        .reaches_client(headers(1, END_STREAM))
        .not_done()
        .drain()
        .reaches_client(last_words(1))
        .done()
        .play();
}

#[test]
fn undrain_after_the_final_word_unsays_nothing() {
    told()
        .client(answer())
        .then(|vectors| vectors.tracker.end_drain())
        .done()
        .reaches_client(last_words(0))
        .upstream(goaway(HIGHEST_STREAM, 0, b""))
        .reaches_client(goaway(0, 0, b""))
        .play();
}

#[test]
fn a_second_drain_says_nothing_twice() {
    told()
        .drain()
        .reaches_client([])
        .client(answer())
        .reaches_client(last_words(0))
        .drain()
        .reaches_client([])
        .play();
}

#[test]
fn leaving_skips_what_was_not_said() {
    Script::begun()
        .client(headers(1, END_STREAM))
        .then(|vectors| {
            vectors.begin_drain();
            vectors.take_sent(FromUpstream);
            vectors.tracker.leave();
        })
        .reaches_client(last_words(1))
        .not_done()
        .play();
}

#[test]
fn an_application_that_names_its_last_stream_needs_no_words_of_ours() {
    Script::begun()
        .client([headers(1, END_STREAM), headers(3, END_STREAM)].concat())
        .upstream(goaway(3, 0, b"app"))
        .reaches_client(goaway(3, 0, b"app"))
        .drain()
        .reaches_client([])
        .not_done()
        .upstream([headers(1, END_STREAM), headers(3, END_STREAM)].concat())
        .done()
        .play();
}

#[test]
fn an_application_that_is_leaving_gracefully_is_not_contradicted() {
    Script::begun()
        .client(headers(1, END_STREAM))
        .upstream(goaway(HIGHEST_STREAM, 0, b""))
        .drain()
        .reaches_client([goaway(HIGHEST_STREAM, 0, b""), first_words()].concat())
        .upstream(goaway(1, 0, b""))
        .reaches_client(goaway(1, 0, b""))
        .client([headers(3, END_STREAM), answer()].concat()) // the application ignores this stream
        .open(1)
        .reaches_client([])
        .upstream(headers(1, END_STREAM))
        .done()
        .play();
}

#[test]
fn the_first_words_never_raise_what_the_application_said() {
    Script::begun()
        .client(headers(1, END_STREAM))
        .upstream(goaway(9, 0, b""))
        .drain()
        .reaches_client([goaway(9, 0, b""), goaway(9, 0, b"draining"), ping(PING, 0)].concat())
        .client(answer())
        .reaches_client(last_words(1))
        .play();
}

#[test]
fn an_application_may_lower_the_last_stream_but_not_raise_it() {
    let long = vec![b'x'; 40];
    told()
        .client([headers(1, END_STREAM), headers(3, END_STREAM)].concat())
        .client(answer())
        .reaches_client(last_words(3))
        .upstream([ping(PING, 0), goaway(HIGHEST_STREAM, 0, &long), ping(PING, 0)].concat())
        .reaches_client([ping(PING, 0), goaway(3, 0, &long), ping(PING, 0)].concat())
        .upstream(goaway(7, 11, b""))
        .reaches_client(goaway(3, 11, b""))
        .open(2)
        .upstream(goaway(1, 2, b"error"))
        .reaches_client(goaway(1, 2, b"error"))
        .open(1)
        .upstream(goaway(3, 0, b""))
        .reaches_client(goaway(1, 0, b""))
        .upstream(headers(1, END_STREAM))
        .done()
        .play();
}

#[test]
fn a_goaway_that_is_said_before_a_clamped_one_ends_counts_for_nothing_until_then() {
    // The connection is not done inside the application's frame.
    let app = goaway(HIGHEST_STREAM, 0, b"a reason");
    told()
        .client(answer())
        .reaches_client(last_words(0))
        .upstream(&app[..20])
        .not_done()
        .upstream(&app[20..])
        .done()
        .reaches_client(goaway(0, 0, b"a reason"))
        .play();
}

#[test]
fn pushed_streams_are_waited_for() {
    Script::begun()
        .client(headers(1, END_STREAM))
        .upstream([promise(1, 2, END_HEADERS), headers(1, END_STREAM)].concat())
        .then(|vectors| drop(vectors.take_sent(FromUpstream)))
        .drain()
        .reaches_client(first_words())
        .client(answer())
        .reaches_client(last_words(1))
        .not_done()
        .upstream(headers(2, END_STREAM))
        .done()
        .play();
}

#[test]
fn an_opaque_connection_hears_nothing() {
    Script::begun()
        .client(data(0, 0))
        .drain()
        .reaches_client([])
        .client(answer())
        .upstream(ping(PING, 0))
        .play();
    told()
        .client([data(0, 0), answer()].concat())
        .reaches_upstream([data(0, 0), answer()].concat())
        .not_done()
        .expect("waits for nothing", |http2| !http2.awaits_ping())
        .reaches_client([])
        .play();
}
