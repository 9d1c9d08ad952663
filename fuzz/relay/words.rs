//! What the two peers say: words of each protocol, with which the input makes sentences.

/// The payload of the relay's PING.
pub const PING: [u8; 8] = *b"farewell";

/// The reason in its Close.
pub const REASON: &str = "draining";

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
pub const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
pub const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

/// What an HTTP/1 client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Plain,
    Head,
    /// The client expects the connection to end.
    Last,
    Upgrade,
}

/// An HTTP/1 request.
pub fn request(which: u8) -> (Request, &'static [u8]) {
    match which % 7 {
        0 => (Request::Plain, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        1 => (Request::Head, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"),
        2 => (Request::Plain, b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"),
        3 => (
            Request::Plain,
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n",
        ),
        4 => (Request::Last, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"),
        5 => (Request::Last, b"GET / HTTP/1.0\r\n\r\n"),
        _ => (Request::Upgrade, UPGRADE),
    }
}

/// An answer to it, and whether the application ends the connection behind it.
pub fn answer(request: Request, which: u8) -> (&'static [u8], bool) {
    match (request, which % 7) {
        (Request::Upgrade, 0..4) => (SWITCH, false),
        (Request::Head, _) => (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false),
        (_, 0) => (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false),
        (_, 1) => (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a\r\nok\r\n0\r\nA: b\r\n\r\n",
            false,
        ),
        (_, 2) => (
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive, x\r\nX: y\r\nKeep-Alive: timeout=5\r\n\
              Connection: Keep-Alive\r\nContent-Length: 0\r\n\r\n",
            false,
        ),
        (_, 3) => (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n", false),
        (_, 4) => (b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 304 Not\r\n\r\n", false),
        (_, 5) => (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil close", true),
        _ => (b"HTTP/1.1 400 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", true),
    }
}

/// A word of anyone, in or out of place.
pub fn stray(which: u8) -> Vec<u8> {
    match which % 16 {
        0 => b"GET / HTTP/1.1\r\nHo".to_vec(),
        1 => b"st: a\r\n\r\n".to_vec(),
        2 => b"HTTP/1.1 200 OK\r\nContent-Le".to_vec(),
        3 => b"ngth: 2\r\n\r\nok".to_vec(),
        4 => b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n".to_vec(),
        5 => b"CONNECT a:1 HTTP/1.1\r\n\r\n".to_vec(),
        6 => PREFACE.to_vec(),
        7 => SETTINGS.to_vec(),
        8 => frame(6, 1, 0, &PING),
        9 => frame(7, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0]),
        10 => frame(3, 0, 1, &[0, 0, 0, 8]),
        11 => frame(1, 0, 1, b"\x82"),
        12 => vec![0x88, 0x82, 0, 0, 0, 0, 3, 0xe8],
        13 => vec![0x88, 2, 3, 0xe8],
        14 => vec![0x01, 0x82, 1, 2, 3, 4, b'a', b'b'],
        _ => UPGRADE.to_vec(),
    }
}

/// An HTTP/2 frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The frames in HTTP/2 bytes; the last one may be cut.
pub fn frames(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let whole = bytes.first_chunk().map_or(usize::MAX, |[a, b, c]: &[u8; 3]| {
            9 + u32::from_be_bytes([0, *a, *b, *c]) as usize
        });
        let (frame, rest) = bytes.split_at(whole.min(bytes.len()));
        bytes = rest;
        (!frame.is_empty()).then_some(frame)
    })
}

/// The stream of a frame; of a cut one, none.
pub fn stream(frame: &[u8]) -> Option<u32> {
    let id = frame.get(5..9)?.try_into().ok()?;
    Some(u32::from_be_bytes(id) & (u32::MAX >> 1))
}

/// A WebSocket message that fits in one short frame.
pub fn message(which: u8, is_masked: bool) -> Vec<u8> {
    let length = which % 100;
    let payload = vec![which; usize::from(length)];
    let opcode = if which.is_multiple_of(2) { 0x82 } else { 0x81 };
    if !is_masked {
        return [&[opcode, length], &payload[..]].concat();
    }
    let masked: Vec<u8> =
        payload.iter().zip([9, 8, 7, 6].iter().cycle()).map(|(a, b)| a ^ b).collect();
    [&[opcode, 0x80 | length, 9, 8, 7, 6], &masked[..]].concat()
}
