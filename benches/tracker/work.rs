//! What is sent and what comes back, again and again, after a first exchange.

use std::sync::LazyLock;

pub(super) struct Work {
    pub(super) name: &'static str,
    pub(super) greeting: (Vec<u8>, Vec<u8>),
    pub(super) request: Message,
    pub(super) response: Message,
    /// HTTP/2 streams in one request, each of them a unit; 0 where there are none.
    pub(super) streams: usize,
    pub(super) protocols: &'static [&'static str],
}

/// What one side sends in a lap.
#[derive(Clone, Default)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    /// Where an HTTP/2 stream's id stands.
    stream_ids: Vec<usize>,
}

impl Message {
    /// The same on the streams that follow.
    pub(super) fn next(&mut self, streams: usize) {
        for &at in &self.stream_ids {
            let id: &mut [u8; 4] = self.bytes[at..].first_chunk_mut().expect("an id");
            let next = u32::from_be_bytes(*id) + 2 * u32::try_from(streams).expect("some");
            *id = next.to_be_bytes();
        }
    }

    fn frame(mut self, kind: u8, flags: u8, stream: usize, payload: &[u8]) -> Self {
        let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
        self.bytes.extend_from_slice(&length[1..]);
        self.bytes.extend_from_slice(&[kind, flags]);
        if stream > 0 {
            self.stream_ids.push(self.bytes.len());
        }
        self.bytes.extend_from_slice(&u32::try_from(stream).expect("an id").to_be_bytes());
        self.bytes.extend_from_slice(payload);
        self
    }
}

impl From<&[u8]> for Message {
    fn from(bytes: &[u8]) -> Self {
        Message { bytes: bytes.to_vec(), stream_ids: Vec::new() }
    }
}

pub(super) fn all() -> &'static [Work] {
    static ALL: LazyLock<Vec<Work>> = LazyLock::new(|| {
        vec![
            echo(),
            http1(),
            http2("HTTP/2 request", 1),
            http2("HTTP/2 request, 10 at once", 10),
            websocket(),
        ]
    });
    &ALL
}

fn echo() -> Work {
    Work {
        name: "TCP echo, 128 B",
        greeting: (Vec::new(), Vec::new()),
        request: Message::from(&[0; 128][..]),
        response: Message::from(&[0; 128][..]),
        streams: 0,
        protocols: &["tcp", "auto"],
    }
}

fn http1() -> Work {
    let request: &[u8] =
        b"GET /small HTTP/1.1\r\nHost: app.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
    let response: &[u8] = b"HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\n\
        Content-Length: 13\r\n\r\nHello, world!";
    Work {
        name: "HTTP/1 small request",
        greeting: (Vec::new(), Vec::new()),
        request: Message::from(request),
        response: Message::from(response),
        streams: 0,
        protocols: &["tcp", "http1", "auto"],
    }
}

fn http2(name: &'static str, streams: usize) -> Work {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    const ACK: u8 = 1;
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let settings = Message::default().frame(SETTINGS, 0, 0, b"").frame(SETTINGS, ACK, 0, b"").bytes;
    hello.extend_from_slice(&settings);
    let ids = || (0..streams).map(|number| 2 * number + 1);
    // GET http://app.example/ and 200 with a length, each name from the static table.
    let request = ids().fold(Message::default(), |message, id| {
        message.frame(HEADERS, END_HEADERS | END_STREAM, id, b"\x82\x86\x84\x41\x0bapp.example")
    });
    let response = ids().fold(Message::default(), |message, id| {
        let head = message.frame(HEADERS, END_HEADERS, id, b"\x88\x5c\x0213");
        head.frame(DATA, END_STREAM, id, b"Hello, world!")
    });
    let greeting = (hello, settings);
    Work { name, greeting, request, response, streams, protocols: &["tcp", "http2", "auto"] }
}

fn websocket() -> Work {
    let upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let masked = [&[0x82, 0x80 | 64, 1, 2, 3, 4][..], &[7; 64]].concat();
    let unmasked = [&[0x82, 64][..], &[7; 64]].concat();
    Work {
        name: "WebSocket message, 64 B",
        greeting: (upgrade.to_vec(), switching.to_vec()),
        request: Message::from(&masked[..]),
        response: Message::from(&unmasked[..]),
        streams: 0,
        protocols: &["tcp", "http1", "auto"],
    }
}
