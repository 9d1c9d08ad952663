//! A frame's header: two to fourteen bytes that say what follows and how much of it.
//!
//! # Source
//! RFC 6455 §5.2 (layout), §5.4 (fragments), §5.5 (control frames).

use super::Extensions;
use crate::Surprise;

/// The longest header: two bytes, eight of length, four of mask.
pub(super) const HEADER_LIMIT_BYTES: usize = 14;

/// The opcode of a Close frame.
pub(super) const CLOSE: u8 = 0x8;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const PONG: u8 = 0xA;

/// What a control frame may carry.
pub(super) const CONTROL_LIMIT_BYTES: u64 = 125;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) length: usize,
    pub(super) opcode: u8,
    pub(super) is_final: bool,
    pub(super) reserved_bits: u8,
    pub(super) is_masked: bool,
    pub(super) payload: u64,
}

impl Header {
    /// Reads a header from the first bytes of a frame; `None` when it goes on after them.
    pub(super) fn read(bytes: &[u8]) -> Option<Header> {
        let &[first, second, ref rest @ ..] = bytes else {
            return None;
        };
        let is_masked = second & 0x80 != 0;
        let (payload, length) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*rest.first_chunk()?), 10),
            short => (u64::from(short), 2),
        };
        let header = Header {
            length: length + if is_masked { 4 } else { 0 },
            opcode: first & 0x0f,
            is_final: first & 0x80 != 0,
            reserved_bits: first & 0x70,
            is_masked,
            payload,
        };
        (bytes.len() >= header.length).then_some(header)
    }

    /// Whether the frame is a ping, a pong or a Close: it may stand between fragments.
    pub(super) fn is_control(&self) -> bool {
        self.opcode >= CLOSE
    }

    /// Checks the header against its place: from which side, within a fragmented message or not,
    /// with extensions that use the first reserved bit or without.
    pub(super) fn check(&self, expected: &Expected) -> Result<(), Surprise> {
        // Only one bit is used by a registered extension (RFC 7692); never by control frames.
        let is_extended = expected.extensions == Extensions::Negotiated && !self.is_control();
        let allowed_bits = if is_extended { 0x40 } else { 0 };
        match self.opcode {
            _ if self.reserved_bits & !allowed_bits != 0 => Err(Surprise::ReservedFrame),
            _ if self.is_masked != expected.is_masked => Err(Surprise::FrameMask),
            _ if self.payload > i64::MAX as u64 => Err(Surprise::FrameLength),
            CLOSE..=PONG if !self.is_final => Err(Surprise::ControlFrame),
            CLOSE..=PONG if self.payload > CONTROL_LIMIT_BYTES => Err(Surprise::ControlFrame),
            CLOSE..=PONG => Ok(()),
            CONTINUATION if !expected.is_within => Err(Surprise::FrameSequence),
            CONTINUATION => Ok(()),
            TEXT..=BINARY if expected.is_within => Err(Surprise::FrameSequence),
            TEXT..=BINARY => Ok(()),
            _ => Err(Surprise::ReservedFrame),
        }
    }
}

/// What a frame's place allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) is_masked: bool,
    pub(super) is_within: bool,
    pub(super) extensions: Extensions,
}
