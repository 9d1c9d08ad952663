//! What is asked and answered in HTTP/1.1 and over a WebSocket, and where such a message ends.

use std::borrow::Cow;
use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use super::application::LARGE_BYTES;

/// The body of what isn't large.
pub(super) const SMALL_BODY: &[u8] = b"Hello, world!";

/// Between two pieces of a long response.
pub(super) const PIECE_INTERVAL: Duration = Duration::from_millis(100);

/// One of them.
pub(super) const PIECE: &[u8] = &[b'x'; 1000];

const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// Reads one message after the other, however the bytes are cut. Bodies have a Content-Length.
#[derive(Default)]
pub(super) struct Message {
    /// The part of its head that has come.
    head: Vec<u8>,
    kind: Kind,
    is_in_body: bool,
    body_bytes: usize,
    body_bytes_left: usize,
}

/// What the head of the last message asks for, or says.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Kind {
    #[default]
    Small,
    Large,
    Upgrade,
    /// In so many pieces, one after the other.
    Long(u32),
}

impl Message {
    /// How many of the bytes belong to this message, and whether it is whole now.
    pub(super) fn take(&mut self, bytes: &[u8]) -> io::Result<(usize, bool)> {
        let mut taken = 0;
        if !self.is_in_body {
            let before = self.head.len();
            let all = if before == 0 {
                bytes
            } else {
                self.head.extend_from_slice(bytes);
                &self.head
            };
            let Some(end) = all.windows(END_OF_HEAD.len()).position(|at| at == END_OF_HEAD) else {
                if before == 0 {
                    self.head = bytes.to_vec();
                }
                return Ok((bytes.len(), false));
            };
            let end = end + END_OF_HEAD.len();
            (self.kind, self.body_bytes) = read_head(&all[..end])?;
            self.body_bytes_left = self.body_bytes;
            taken = end - before;
            self.head.clear();
            self.is_in_body = true;
        }
        let body = self.body_bytes_left.min(bytes.len() - taken);
        self.body_bytes_left -= body;
        self.is_in_body = self.body_bytes_left > 0;
        Ok((taken + body, !self.is_in_body))
    }

    /// How long the body of the last message is.
    pub(super) fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    pub(super) fn is_upgrade(&self) -> bool {
        self.kind == Kind::Upgrade
    }

    /// In how many pieces the body of the response is to follow its head; 0, if it comes with it.
    pub(super) fn pieces(&self) -> u32 {
        if let Kind::Long(pieces) = self.kind { pieces } else { 0 }
    }
}

fn read_head(head: &[u8]) -> io::Result<(Kind, usize)> {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let first = lines.next().unwrap_or_default();
    let kind = match first {
        [b'G' | b'P', ..] if first.windows(7).any(|at| at == b"/large ") => Kind::Large,
        [b'G', ..] if first.windows(9).any(|at| at == b"/upgrade ") => Kind::Upgrade,
        _ if first.starts_with(LONG) => Kind::Long(number(&first[LONG.len()..])?),
        [b'G' | b'P', ..] => Kind::Small,
        _ if first.starts_with(b"HTTP/1.1 200") => Kind::Small,
        _ if first.starts_with(b"HTTP/1.1 101") => Kind::Upgrade,
        _ => return Err(wrong(format!("unexpected: {}", String::from_utf8_lossy(first)))),
    };
    let mut length = None;
    for line in lines {
        if let Some((name, value)) = line.split_at_checked(b"Content-Length:".len())
            && name.eq_ignore_ascii_case(b"Content-Length:")
        {
            let value = std::str::from_utf8(value).ok().and_then(|it| it.trim().parse().ok());
            length = Some(value.ok_or_else(|| wrong("no number in Content-Length".into()))?);
        }
    }
    // A request without one has no body; of a response one could not tell where it ends.
    let has_none = !first.starts_with(b"HTTP/1.1 200");
    let length = length.or(has_none.then_some(0));
    Ok((kind, length.ok_or_else(|| wrong("a response without Content-Length".into()))?))
}

/// How a request for a long response begins, before the number of its pieces.
const LONG: &[u8] = b"GET /long/";

/// The number that these bytes begin with.
fn number(bytes: &[u8]) -> io::Result<u32> {
    let digits = bytes.split(|byte| !byte.is_ascii_digit()).next().unwrap_or_default();
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| wrong("no number of pieces".into()))
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

pub(super) fn small_request() -> Vec<u8> {
    request("GET /small", "")
}

/// For a response in so many pieces.
pub(super) fn long_request(pieces: u32) -> Vec<u8> {
    request(&format!("GET /long/{pieces}"), "")
}

pub(super) fn large_response_request() -> Vec<u8> {
    request("GET /large", "")
}

pub(super) fn large_body_request() -> Vec<u8> {
    let mut request = request("POST /upload", &format!("Content-Length: {LARGE_BYTES}\r\n"));
    request.resize(request.len() + LARGE_BYTES, b'x');
    request
}

pub(super) fn upgrade_request() -> Vec<u8> {
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    request("GET /upgrade", fields)
}

fn request(line: &str, fields: &str) -> Vec<u8> {
    let common = "Host: app.example\r\nUser-Agent: compare\r\nAccept: */*\r\n";
    format!("{line} HTTP/1.1\r\n{common}{fields}\r\n").into_bytes()
}

/// What the application answers.
pub(super) fn response(request: &Message) -> Cow<'static, [u8]> {
    static SMALL: LazyLock<Vec<u8>> = LazyLock::new(|| ok(SMALL_BODY));
    static LARGE: LazyLock<Vec<u8>> = LazyLock::new(|| ok(&[b'x'; LARGE_BYTES]));
    let bytes: &[u8] = match request.kind {
        Kind::Small => &SMALL,
        Kind::Large => &LARGE,
        Kind::Long(pieces) => return ok_head(pieces as usize * PIECE.len()).into(),
        Kind::Upgrade => {
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
            Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        }
    };
    bytes.into()
}

fn ok(body: &[u8]) -> Vec<u8> {
    [&ok_head(body.len())[..], body].concat()
}

fn ok_head(body_bytes: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: app\r\nContent-Type: text/plain\r\nContent-Length: {body_bytes}\r\n\r\n"
    );
    head.into_bytes()
}

/// A binary message of 64 bytes, masked as a client's must be.
pub(super) fn websocket_request() -> &'static [u8] {
    static FRAME: LazyLock<Vec<u8>> =
        LazyLock::new(|| [&[0x82, 0x80 | 64, 1, 2, 3, 4][..], &[7; 64]].concat());
    &FRAME
}

/// The same from the application.
pub(super) fn websocket_response() -> &'static [u8] {
    static FRAME: LazyLock<Vec<u8>> = LazyLock::new(|| [&[0x82, 64][..], &[7; 64]].concat());
    &FRAME
}
