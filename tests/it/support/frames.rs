//! HTTP/2 frames as bytes, and a client that sends them one by one.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const HIGHEST_STREAM: u32 = (1 << 31) - 1;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const NO_ERROR: u32 = 0;
pub const REFUSED_STREAM: u32 = 7;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        Frame { kind, flags, stream, payload: payload.to_vec() }
    }

    /// HEADERS of a GET, or of a POST whose body is to follow. Nothing enters the dynamic table.
    pub fn request(stream: u32, path: &str, flags: u8) -> Self {
        let method = if flags & END_STREAM == 0 { 0x83 } else { 0x82 };
        let mut block = vec![method, 0x86, 0x04, u8::try_from(path.len()).expect("a short path")];
        block.extend_from_slice(path.as_bytes());
        block.extend_from_slice(b"\x01\x04test");
        Frame::new(HEADERS, flags | END_HEADERS, stream, &block)
    }

    pub fn goaway(last: u32) -> Self {
        Frame::new(GOAWAY, 0, 0, &[last.to_be_bytes(), NO_ERROR.to_be_bytes()].concat())
    }

    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("a short payload");
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// The number at the beginning of the payload: GOAWAY's last stream, RST_STREAM's code.
    pub fn number(&self) -> u32 {
        u32::from_be_bytes(*self.payload.first_chunk().expect("four bytes"))
    }

    pub fn is(&self, kind: u8, flags: u8) -> bool {
        self.kind == kind && self.flags == flags
    }
}

/// The first frame of some bytes, and what follows it.
pub fn split(bytes: &[u8]) -> Option<(Frame, &[u8])> {
    let (&[l0, l1, l2, kind, flags, s0, s1, s2, s3], rest) = bytes.split_first_chunk::<9>()?;
    let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
    let (payload, rest) = rest.split_at_checked(length)?;
    let stream = u32::from_be_bytes([s0, s1, s2, s3]) & HIGHEST_STREAM;
    Some((Frame { kind, flags, stream, payload: payload.to_vec() }, rest))
}

/// The whole frames of one direction; the client's preface is no frame.
pub fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut rest = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
    std::iter::from_fn(|| {
        let (frame, later) = split(rest)?;
        rest = later;
        Some(frame)
    })
    .collect()
}

/// The last streams that GOAWAYs named, in their order.
pub fn last_streams(frames: &[Frame]) -> Vec<u32> {
    frames.iter().filter(|frame| frame.kind == GOAWAY).map(Frame::number).collect()
}

/// One end of a connection that sends what it is told to, and nothing by itself.
pub struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
    /// Every frame that was read.
    pub heard: Vec<Frame>,
}

impl Raw {
    /// A client that has sent its preface and its SETTINGS.
    pub fn client(addr: SocketAddr) -> Self {
        let mut raw = Raw::over(TcpStream::connect_timeout(&addr, PATIENCE).expect("a connection"));
        raw.stream.write_all(PREFACE).expect("sent");
        raw.send(&Frame::new(SETTINGS, 0, 0, &[]));
        raw
    }

    /// A server on an accepted connection, which has sent its SETTINGS and read the preface.
    pub fn server(mut stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).expect("a preface");
        assert_eq!(preface, PREFACE);
        let mut raw = Raw::over(stream);
        raw.send(&Frame::new(SETTINGS, 0, 0, &[]));
        raw
    }

    /// One that has sent its preface already.
    pub fn over(stream: TcpStream) -> Self {
        Raw::behind(stream, Vec::new())
    }

    /// The same, of which these bytes have been read.
    pub fn behind(stream: TcpStream, read: Vec<u8>) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_nodelay(true).expect("no delay");
        Raw { stream, read, heard: Vec::new() }
    }

    pub fn addr(&self) -> SocketAddr {
        self.stream.local_addr().expect("its address")
    }

    pub fn send(&mut self, frame: &Frame) {
        self.try_send(frame).expect("sent");
    }

    pub fn try_send(&mut self, frame: &Frame) -> io::Result<()> {
        self.stream.write_all(&frame.bytes())
    }

    /// A GET.
    pub fn get(&mut self, stream: u32, path: &str) {
        self.send(&Frame::request(stream, path, END_STREAM));
    }

    /// The next frame; nothing at the end.
    pub fn next(&mut self) -> Option<Frame> {
        self.try_next().expect("no reset, and nothing takes that long")
    }

    /// The same, where a reset is one of the ends.
    pub fn try_next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some((frame, rest)) = split(&self.read) {
                self.read = rest.to_vec();
                self.heard.push(frame.clone());
                return Ok(Some(frame));
            }
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer)? {
                0 => {
                    assert!(self.read.is_empty(), "the connection ends within a frame");
                    return Ok(None);
                }
                count => self.read.extend_from_slice(&buffer[..count]),
            }
        }
    }

    /// Reads up to a frame that `wanted` likes.
    pub fn until(&mut self, what: &str, wanted: impl Fn(&Frame) -> bool) -> Frame {
        while let Some(frame) = self.next() {
            if wanted(&frame) {
                return frame;
            }
        }
        panic!("the end came instead of {what}; heard: {:?}", self.heard);
    }

    pub fn until_goaway(&mut self) -> u32 {
        self.until("a GOAWAY", |frame| frame.kind == GOAWAY).number()
    }

    /// Reads up to the drain's PING.
    pub fn until_ping(&mut self) -> Vec<u8> {
        self.until("a PING", |frame| frame.is(PING, 0)).payload
    }

    pub fn answer_ping(&mut self, payload: &[u8]) {
        self.send(&Frame::new(PING, ACK, 0, payload));
    }

    /// Reads a stream to its end; the code of its reset, if there was one.
    pub fn until_end_of(&mut self, stream: u32) -> Option<u32> {
        let last = self.until("the stream's end", |frame| {
            let ends = frame.kind == RST_STREAM
                || (frame.kind <= HEADERS && frame.flags & END_STREAM != 0);
            frame.stream == stream && ends
        });
        (last.kind == RST_STREAM).then(|| last.number())
    }

    /// Reads to the end of the connection, which is no reset.
    pub fn until_end(&mut self) {
        while self.next().is_some() {}
    }

    pub fn last_streams(&self) -> Vec<u32> {
        last_streams(&self.heard)
    }
}
