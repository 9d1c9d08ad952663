//! One frame's nine-byte header, and the few frames that a farewell is written with.

/// Bytes in front of every payload.
///
/// # Source
/// RFC 9113 §4.1
pub(super) const HEADER_BYTES: usize = 9;

/// The most of a payload that is ever looked at: GOAWAY's last stream and its error code, a PING's
/// payload, and the promised stream behind a pad length.
pub(super) const PREFIX_BYTES: usize = 8;

/// What a client sends before its first frame.
///
/// # Source
/// RFC 9113 §3.4
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The highest stream that there can be; a GOAWAY that names it takes nothing back yet.
///
/// # Source
/// RFC 9113 §6.8
pub(super) const HIGHEST_STREAM: u32 = (1 << 31) - 1;

/// Opaque diagnostics in our GOAWAY, for whoever reads a packet capture.
const DEBUG: &[u8] = b"draining";

/// A GOAWAY as far as it is looked at: header, last stream, error code.
pub(super) const GOAWAY_BYTES: usize = HEADER_BYTES + 8;
/// A whole PING.
pub(super) const PING_BYTES: usize = HEADER_BYTES + 8;

const NO_ERROR: u32 = 0;
const REFUSED_STREAM: u32 = 7;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;

/// What a frame is for. One of an extension is passed, and only its place is checked.
///
/// # Source
/// RFC 9113 §6
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind(u8);

impl Kind {
    pub(super) const DATA: Kind = Kind(0);
    pub(super) const HEADERS: Kind = Kind(1);
    pub(super) const RST_STREAM: Kind = Kind(3);
    pub(super) const SETTINGS: Kind = Kind(4);
    pub(super) const PUSH_PROMISE: Kind = Kind(5);
    pub(super) const PING: Kind = Kind(6);
    pub(super) const GOAWAY: Kind = Kind(7);
    pub(super) const WINDOW_UPDATE: Kind = Kind(8);
    pub(super) const CONTINUATION: Kind = Kind(9);
    #[cfg(test)]
    pub(super) const PRIORITY: Kind = Kind(2);
    #[cfg(test)]
    pub(super) const UNKNOWN: Kind = Kind(u8::MAX);
}

/// The nine bytes, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) length_bytes: u32,
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes;
        let first = u64::from_be_bytes([l0, l1, l2, kind, flags, s0, s1, s2]);
        Header {
            length_bytes: (first >> 40) as u32,
            kind: Kind(kind),
            flags,
            stream: (first << 8) as u32 & HIGHEST_STREAM | u32::from(s3),
        }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The frame's size with its header.
    pub(super) fn frame_bytes(&self) -> u32 {
        // The length has 24 bits, so this cannot overflow.
        self.length_bytes.saturating_add(HEADER_BYTES as u32)
    }

    /// What is left of the payload behind the part that has to be seen.
    pub(super) fn unread_bytes(&self) -> u32 {
        self.length_bytes - self.prefix_bytes() as u32 // never more than the length
    }

    /// How much of the payload has to be seen before the frame can be judged.
    pub(super) fn prefix_bytes(&self) -> usize {
        match self.kind {
            Kind::GOAWAY | Kind::PUSH_PROMISE => PREFIX_BYTES.min(self.length_bytes as usize),
            _ => 0,
        }
    }
}

/// A stream as it is written in frames: the first bit is reserved and means nothing.
pub(super) fn stream_id(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes) & HIGHEST_STREAM
}

/// Adds our GOAWAY: no stream above `last` is served, for no error at all.
pub(super) fn put_goaway(last: u32, out: &mut Vec<u8>) {
    put_header(Kind::GOAWAY, 0, 0, 8 + DEBUG.len() as u32, out);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&NO_ERROR.to_be_bytes());
    out.extend_from_slice(DEBUG);
}

/// The last stream that a GOAWAY names.
pub(super) fn goaway_last(head: &[u8; GOAWAY_BYTES]) -> u32 {
    let [.., l0, l1, l2, l3, _, _, _, _] = *head;
    stream_id([l0, l1, l2, l3])
}

/// The first bytes of an application's GOAWAY with another last stream, everything else kept.
pub(super) fn goaway_with(head: &[u8; GOAWAY_BYTES], last: u32) -> Vec<u8> {
    let mut head = *head;
    head[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&last.to_be_bytes());
    head.to_vec()
}

/// Adds our PING.
pub(super) fn put_ping(payload: [u8; 8], out: &mut Vec<u8>) {
    put_header(Kind::PING, 0, 0, 8, out);
    out.extend_from_slice(&payload);
}

/// Adds a RST_STREAM that says the request was not touched and may be sent again.
pub(super) fn put_refusal(stream: u32, out: &mut Vec<u8>) {
    put_header(Kind::RST_STREAM, 0, stream, 4, out);
    out.extend_from_slice(&REFUSED_STREAM.to_be_bytes());
}

/// Adds a WINDOW_UPDATE for the whole connection.
pub(super) fn put_credit(bytes: u32, out: &mut Vec<u8>) {
    put_header(Kind::WINDOW_UPDATE, 0, 0, 4, out);
    out.extend_from_slice(&bytes.to_be_bytes());
}

pub(super) fn put_header(kind: Kind, flags: u8, stream: u32, length_bytes: u32, out: &mut Vec<u8>) {
    let [_, l0, l1, l2] = length_bytes.to_be_bytes();
    out.extend_from_slice(&[l0, l1, l2, kind.0, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}
