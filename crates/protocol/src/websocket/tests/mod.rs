//! Scripts of frames; each is cut at every offset.

mod leaving;
mod tungstenite;

use super::{Extensions, Tracker};
use crate::testing::{Outcome, Script};
use crate::{Class, Surprise};

pub(super) const MASK: [u8; 4] = [1, 2, 3, 4];

pub(super) fn tracker() -> Tracker {
    Tracker::new(Extensions::None)
}

pub(super) fn play(script: &Script) -> Outcome {
    script.play(tracker)
}

/// A frame as a server sends it; `first` is its first byte.
pub(super) fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    push_length(&mut frame, 0, payload.len());
    frame.extend(payload);
    frame
}

/// A frame as a client sends it.
pub(super) fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    push_length(&mut frame, 0x80, payload.len());
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

fn push_length(frame: &mut Vec<u8>, mask: u8, length: usize) {
    match length {
        0..126 => frame.push(mask | length as u8),
        126..65_536 => {
            frame.push(mask | 0x7e);
            frame.extend((length as u16).to_be_bytes());
        }
        _ => {
            frame.push(mask | 0x7f);
            frame.extend((length as u64).to_be_bytes());
        }
    }
}

fn assert_surprise(script: &Script, expected: Surprise) {
    let outcome = play(&script.clone().client("more").upstream("more"));
    assert_eq!(outcome.last().class, Class::Opaque(expected), "{script:?}");
    let outcome = play(script);
    assert_eq!(outcome.last().class, Class::Opaque(expected), "{script:?}");
}

#[test]
fn lengths_of_every_form() {
    for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
        let payload = vec![0x88; length];
        let script = Script::new()
            .client(client_frame(0x82, &payload))
            .upstream(server_frame(0x81, &payload))
            .client(client_frame(0x88, b""))
            .upstream(server_frame(0x88, b""));
        let outcome = play(&script);
        let done: Vec<bool> = outcome.states.iter().map(|state| state.leave_done).collect();
        assert_eq!(done, [false, false, false, true], "{length}");
        assert_eq!(outcome.last().class, Class::WebSocket);
    }
}

#[test]
fn longer_forms_than_needed_are_still_lengths() {
    let script = Script::new()
        .upstream(b"\x82\x7e\x00\x01a\x82\x7f\0\0\0\0\0\0\x00\x01b\x88\x00")
        .client(client_frame(0x88, b""));
    assert!(play(&script).last().leave_done);
}

#[test]
fn control_frames_may_stand_between_fragments() {
    let frames = [
        server_frame(0x01, b"He"),
        server_frame(0x89, b"ping"),
        server_frame(0x00, b"ll"),
        server_frame(0x8a, b""),
        server_frame(0x80, b"o"),
        server_frame(0x82, b"next"),
        server_frame(0x88, b"\x03\xe8bye"),
    ];
    let script = Script::new().upstream(frames.concat()).client(client_frame(0x88, b""));
    assert!(play(&script).last().leave_done);
}

#[test]
fn what_follows_a_close_is_no_frame() {
    let script = Script::new().upstream(b"\x88\x00\xff\xff\xff").client(client_frame(0x88, b""));
    let last = play(&script).last();
    assert_eq!((last.class, last.leave_done), (Class::WebSocket, true));
}

#[test]
fn frames_that_break_the_rules() {
    let from_server = |bytes: &[u8], expected| {
        assert_surprise(&Script::new().upstream(bytes), expected);
    };
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        from_server(&server_frame(0x80 | opcode, b""), Surprise::ReservedFrame);
    }
    for bits in [0x40, 0x20, 0x10] {
        from_server(&server_frame(0x82 | bits, b""), Surprise::ReservedFrame);
    }
    from_server(&client_frame(0x82, b"a"), Surprise::FrameMask);
    from_server(&server_frame(0x09, b""), Surprise::ControlFrame);
    from_server(&server_frame(0x89, &[0; 126]), Surprise::ControlFrame);
    from_server(&server_frame(0x80, b""), Surprise::FrameSequence);
    from_server(b"\x01\x00\x01\x00", Surprise::FrameSequence);
    from_server(b"\x82\x7f\x80\0\0\0\0\0\0\0", Surprise::FrameLength);
    let script = Script::new().client(server_frame(0x82, b"a"));
    assert_surprise(&script, Surprise::FrameMask);
}

#[test]
fn extensions_may_use_the_first_reserved_bit_of_data() {
    let play = |first| {
        let script = Script::new().upstream(server_frame(first, b"a"));
        script.play(|| Tracker::new(Extensions::Negotiated)).last().class
    };
    assert_eq!(play(0xc2), Class::WebSocket);
    assert_eq!(play(0xa2), Class::Opaque(Surprise::ReservedFrame));
    assert_eq!(play(0xc9), Class::Opaque(Surprise::ReservedFrame));
}
