//! What does it cost to watch bytes go by, beside copying them once?

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use ebbtide::protocol::Direction::{self, FromClient, FromUpstream};
use ebbtide::protocol::{Class, Step as Said, Tracker};

use super::step::{Question, Step};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What the relay reads at once, if it is there.
const READ_BYTES: usize = 16 * 1024;

/// Bytes in the order in which they are read.
type Reads = Vec<Read>;
type Read = (Direction, Vec<u8>);

pub(super) fn all() -> Vec<Question> {
    vec![http1_heads(), http1_chunks(), websocket(), http2(), first_bytes()]
}

/// The relay's part in it is done too: who asks for events and class after each read.
fn show(tracker: &mut Tracker, (direction, bytes): &Read) {
    let said = tracker.step(*direction, black_box(bytes));
    assert!(matches!(said, Said::Pass(passed) if passed == bytes.len()), "{said:?}");
    black_box((tracker.take_events(), tracker.class()));
}

fn show_all(tracker: &mut Tracker, reads: &[Read]) {
    for read in reads {
        show(tracker, read);
    }
}

/// A connection on which `reads` come again and again behind a greeting, and a copy of the same bytes.
fn pair(name: &str, greeting: &Reads, reads: Reads, begin: fn() -> Tracker) -> [Step; 2] {
    let mut tracker = begin();
    show_all(&mut tracker, greeting);
    let bytes = reads.iter().map(|(_, bytes)| bytes.len()).sum();
    let copied = reads.clone();
    let mut buffer = vec![0; bytes];
    let copy = move || {
        let mut rest = &mut buffer[..];
        for (_, bytes) in &copied {
            let (to, after) = rest.split_at_mut(bytes.len());
            black_box(to).copy_from_slice(black_box(bytes));
            rest = after;
        }
    };
    let watch = move || {
        show_all(&mut tracker, &reads);
        assert!(!matches!(tracker.class(), Class::Opaque(_)), "it does not understand");
    };
    [Step::new("a copy", bytes, copy), Step::new(name, bytes, watch)]
}

/// Each beside its copy.
fn question(title: &'static str, unit: &'static str, pairs: Vec<[Step; 2]>) -> Question {
    let pairs = pairs.into_iter().enumerate();
    let steps = pairs.flat_map(|(index, pair)| pair.map(|step| step.beside(2 * index)));
    Question { title, unit, steps: steps.collect() }
}

fn http1() -> Tracker {
    Tracker::http1(std::sync::Arc::default(), CLIENT)
}

fn http1_heads() -> Question {
    let small: Reads = vec![
        (
            FromClient,
            b"GET /small HTTP/1.1\r\nHost: app.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
                .to_vec(),
        ),
        (
            FromUpstream,
            b"HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\n\
            Content-Length: 13\r\n\r\nHello, world!"
                .to_vec(),
        ),
    ];
    // As browsers and frameworks write them.
    let fields = |count| format!("X-Field: {}\r\n", "v".repeat(40)).repeat(count);
    let many: Reads = vec![
        (FromClient, format!("GET /a/path HTTP/1.1\r\n{}\r\n", fields(16)).into_bytes()),
        (
            FromUpstream,
            format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok", fields(8)).into_bytes(),
        ),
    ];
    let steps = vec![
        pair("3 and 3 fields", &Reads::new(), small, http1),
        pair("16 and 9 fields", &Reads::new(), many, http1),
    ];
    question("HTTP/1 heads", "exchange", steps)
}

fn http1_chunks() -> Question {
    let greeting: Reads = vec![
        (FromClient, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        (FromUpstream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()),
    ];
    let chunked = |name, chunk_bytes: usize| {
        let chunk = [
            format!("{chunk_bytes:x}\r\n").into_bytes(),
            vec![b'x'; chunk_bytes],
            b"\r\n".to_vec(),
        ];
        pair(name, &greeting, one_read(FromUpstream, &chunk.concat()), http1)
    };
    let steps = vec![chunked("chunks of 32 B", 32), chunked("chunks of 4 KiB", 4096)];
    question("HTTP/1 chunked body", "read of 16 KiB", steps)
}

fn websocket() -> Question {
    let greeting: Reads = vec![
        (
            FromClient,
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                .to_vec(),
        ),
        (
            FromUpstream,
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
                .to_vec(),
        ),
    ];
    let masked = [&[0x82, 0x80 | 64, 1, 2, 3, 4][..], &[7; 64]].concat();
    // A frame of four reads.
    let mut large = [&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &vec![7; 1 << 16]].concat();
    let large = std::iter::from_fn(|| {
        let length = READ_BYTES.min(large.len());
        (length > 0).then(|| (FromUpstream, large.drain(..length).collect()))
    });
    let steps = vec![
        pair("a frame of 64 B", &greeting, vec![(FromClient, masked.clone())], http1),
        pair("16 KiB of such frames", &greeting, one_read(FromClient, &masked), http1),
        pair("a frame of 64 KiB", &greeting, large.collect(), http1),
    ];
    question("WebSocket", "message, or read", steps)
}

fn http2() -> Question {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let begin = || Tracker::http2([7; 8]);
    let settings = frame(SETTINGS, 0, 0, b"");
    let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat();
    let greeting: Reads = vec![(FromClient, hello), (FromUpstream, settings)];
    let request = b"\x82\x86\x84\x41\x0bapp.example";
    let mut open = greeting.clone();
    open.push((FromClient, frame(HEADERS, END_HEADERS | END_STREAM, 1, request)));
    open.push((FromUpstream, frame(HEADERS, END_HEADERS, 1, b"\x88")));
    let small = one_read(FromUpstream, &frame(DATA, 0, 1, &[7; 100]));
    let large = one_read(FromUpstream, &frame(DATA, 0, 1, &[7; READ_BYTES - 9]));
    let pairs = vec![
        pair("16 KiB of DATA frames of 100 B", &open, small, begin),
        pair("a DATA frame of 16 KiB", &open, large, begin),
    ];
    let mut question = question("HTTP/2", "read, or stream", pairs);
    let copy = question.steps.len();
    let asked = frame(HEADERS, END_HEADERS | END_STREAM, 1, request);
    let head = frame(HEADERS, END_HEADERS, 1, b"\x88");
    let answered = [head, frame(DATA, END_STREAM, 1, b"Hello, world!")].concat();
    let reads = vec![(FromClient, asked), (FromUpstream, answered)];
    question.steps.extend(streams(&greeting, reads, begin).map(|step| step.beside(copy)));
    question
}

/// As a pair, but for streams that are new each time: their ids are written into what is read.
fn streams(greeting: &Reads, mut reads: Reads, begin: fn() -> Tracker) -> [Step; 2] {
    let [copy, _] = pair("", greeting, reads.clone(), begin);
    let bytes = reads.iter().map(|(_, bytes)| bytes.len()).sum();
    let greeting = greeting.clone();
    let greeted = move || {
        let mut tracker = begin();
        show_all(&mut tracker, &greeting);
        tracker
    };
    let mut tracker = greeted();
    let mut id = 1_u32;
    let stream = move || {
        for (_, bytes) in &mut reads {
            let mut at = 0;
            while let Some(frame) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
                frame[5..9].copy_from_slice(&id.to_be_bytes());
                at += 9 + usize::from(frame[2]);
            }
        }
        show_all(&mut tracker, &reads);
        assert!(!matches!(tracker.class(), Class::Opaque(_)), "it does not understand");
        id += 2;
        if id > 1 << 30 {
            (tracker, id) = (greeted(), 1);
        }
    };
    [copy, Step::new("a request and its response", bytes, stream)]
}

/// What it costs a connection to be told by its first bytes.
fn first_bytes() -> Question {
    let request: Reads = vec![(FromClient, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec())];
    let again = request.clone();
    let known = move || show(&mut http1(), &request[0]);
    let told =
        move || show(&mut Tracker::auto(std::sync::Arc::default(), CLIENT, [7; 8]), &again[0]);
    let steps = vec![Step::new("http1", 0, known), Step::new("auto", 0, told)];
    Question { title: "A tracker and its first request", unit: "connection", steps }
}

/// As many of these as one read holds.
fn one_read(direction: Direction, message: &[u8]) -> Reads {
    vec![(direction, message.repeat(READ_BYTES / message.len()))]
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
