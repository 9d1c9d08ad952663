//! Frames as tests write them.

pub(super) use super::super::frame::{ACK, END_HEADERS, END_STREAM, PADDED};
use super::super::frame::{HIGHEST_STREAM, Kind, PREFACE, put_header};

pub const PING: [u8; 8] = *b"farewell";

pub fn frame(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_header(kind, flags, stream, payload.len() as u32, &mut out);
    out.extend_from_slice(payload);
    out
}

pub fn settings() -> Vec<u8> {
    frame(Kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])
}

pub fn preface() -> Vec<u8> {
    [PREFACE.to_vec(), settings()].concat()
}

/// HEADERS with its whole header block.
pub fn headers(stream: u32, flags: u8) -> Vec<u8> {
    frame(Kind::HEADERS, flags | END_HEADERS, stream, b"\x82\x86\x84")
}

pub fn headers_begun(stream: u32, flags: u8) -> Vec<u8> {
    frame(Kind::HEADERS, flags, stream, b"\x82\x86")
}

pub fn continuation(stream: u32, flags: u8) -> Vec<u8> {
    frame(Kind::CONTINUATION, flags, stream, b"\x84")
}

pub fn data(stream: u32, flags: u8) -> Vec<u8> {
    frame(Kind::DATA, flags, stream, b"some bytes of a body")
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(Kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

pub fn promise(stream: u32, promised: u32, flags: u8) -> Vec<u8> {
    let id = promised.to_be_bytes();
    let payload =
        if flags & PADDED == 0 { id.to_vec() } else { [&[3], &id[..], b"\x82\0\0\0"].concat() };
    frame(Kind::PUSH_PROMISE, flags, stream, &payload)
}

pub fn ping(payload: [u8; 8], flags: u8) -> Vec<u8> {
    frame(Kind::PING, flags, 0, &payload)
}

pub fn goaway(last: u32, code: u32, debug: &[u8]) -> Vec<u8> {
    frame(Kind::GOAWAY, 0, 0, &[&last.to_be_bytes()[..], &code.to_be_bytes(), debug].concat())
}

pub fn credit(stream: u32, bytes: u32) -> Vec<u8> {
    frame(Kind::WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

pub fn refusal(stream: u32) -> Vec<u8> {
    frame(Kind::RST_STREAM, 0, stream, &7_u32.to_be_bytes())
}

/// What we say first.
pub fn first_words() -> Vec<u8> {
    [goaway(HIGHEST_STREAM, 0, b"draining"), ping(PING, 0)].concat()
}

/// The client's answer to it.
pub fn answer() -> Vec<u8> {
    ping(PING, ACK)
}

/// What we say last.
pub fn last_words(last: u32) -> Vec<u8> {
    goaway(last, 0, b"draining")
}
