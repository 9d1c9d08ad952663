use super::{MASK, client_frame, play, server_frame, tracker};
use crate::testing::{Outcome, Script};
use crate::websocket::{Farewell, REASON_LIMIT_BYTES};
use crate::{Class, Surprise};

fn farewell() -> Farewell {
    Farewell::new(1001, "draining", MASK)
}

fn to_client() -> Vec<u8> {
    server_frame(0x88, b"\x03\xe9draining")
}

fn to_upstream() -> Vec<u8> {
    client_frame(0x88, b"\x03\xe9draining")
}

/// Checks what each side read, and when the handshake was complete.
fn assert_read(outcome: &Outcome, client: &[Vec<u8>], upstream: &[Vec<u8>]) {
    assert_eq!(outcome.to_client, client.concat());
    assert_eq!(outcome.to_upstream, upstream.concat());
}

#[test]
fn a_quiet_websocket_is_told_at_once() {
    let outcome = play(&Script::new().leave(farewell()));
    assert_read(&outcome, &[to_client()], &[to_upstream()]);
    assert!(!outcome.last().leave_done);
}

#[test]
fn the_answers_to_our_close_go_no_further() {
    let script = Script::new()
        .leave(farewell())
        .client(client_frame(0x88, b"\x03\xe9"))
        .upstream(server_frame(0x88, b"\x03\xe9"));
    let outcome = play(&script);
    assert_read(&outcome, &[to_client()], &[to_upstream()]);
    let done: Vec<bool> = outcome.states.iter().map(|state| state.leave_done).collect();
    assert_eq!(done, [false, false, true]);
    assert!(!outcome.last().is_safe_point, "only the connection's tracker tells that");
}

#[test]
fn no_frame_follows_our_close() {
    let script = Script::new()
        .leave(farewell())
        .client(client_frame(0x82, b"late"))
        .upstream([server_frame(0x82, &[7; 300]), server_frame(0x88, b"")].concat())
        .client(client_frame(0x88, b""));
    let outcome = play(&script);
    assert_read(&outcome, &[to_client()], &[to_upstream()]);
    assert!(outcome.last().leave_done);
}

#[test]
fn a_frame_under_way_is_finished_first() {
    let frame = server_frame(0x82, &[7; 300]);
    for begun in [1, 3, 4, 5, 299] {
        let (begun, rest) = frame.split_at(begun);
        let next = server_frame(0x82, b"next");
        let script = Script::new()
            .upstream(begun)
            .leave(farewell())
            .upstream([rest, &next].concat())
            .upstream(server_frame(0x88, b""));
        let outcome = play(&script);
        assert_read(&outcome, &[frame.clone(), to_client()], &[to_upstream()]);
    }
}

#[test]
fn a_message_of_many_fragments_is_not_waited_for() {
    let first = server_frame(0x02, b"first of many");
    let script = Script::new().upstream(&first).leave(farewell());
    assert_read(&play(&script), &[first, to_client()], &[to_upstream()]);
}

#[test]
fn who_has_read_a_close_gets_no_second_one() {
    let close = server_frame(0x88, b"\x03\xe8");
    let script = Script::new().upstream(&close).leave(farewell());
    let outcome = play(&script.clone().client(client_frame(0x88, b"\x03\xe8")));
    assert_read(&outcome, std::slice::from_ref(&close), &[to_upstream()]);
    assert!(outcome.last().leave_done);
    let (begun, rest) = close.split_at(3);
    let script = Script::new().upstream(begun).leave(farewell()).upstream(rest);
    assert_read(&play(&script), &[close], &[to_upstream()]);
}

#[test]
fn leaving_twice_is_leaving_once() {
    let script = Script::new().leave(farewell()).leave(Farewell::new(1012, "", MASK));
    assert_read(&play(&script), &[to_client()], &[to_upstream()]);
}

#[test]
fn frames_that_are_not_understood_leave_no_place() {
    let odd = server_frame(0x83, b"");
    let outcome = play(&Script::new().upstream(&odd).leave(farewell()).client("a"));
    assert_read(&outcome, std::slice::from_ref(&odd), &[b"a".to_vec()]);
    // After our Close nothing passes all the same.
    let outcome = play(&Script::new().leave(farewell()).upstream(&odd).client("a"));
    assert_read(&outcome, &[to_client()], &[to_upstream()]);
    assert_eq!(outcome.last().class, Class::Opaque(Surprise::ReservedFrame));
}

#[test]
fn reasons_are_cut_to_what_a_frame_holds() {
    let long = Farewell::new(1012, &"ä".repeat(100), MASK);
    let outcome = Script::new().leave(long).play(tracker);
    let (header, payload) = outcome.to_client.split_at(2);
    assert_eq!(header, [0x88, 2 + REASON_LIMIT_BYTES as u8 - 1]);
    assert_eq!(payload[..2], 1012_u16.to_be_bytes());
    assert_eq!(payload[2..], *"ä".repeat(61).as_bytes());
}
