//! One direction of a WebSocket: where its frames end, and whether its Close has passed.

use super::Extensions;
use super::frame::{CLOSE, Expected, HEADER_LIMIT_BYTES, Header};
use crate::{Direction, Surprise};

/// How far to walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Through all bytes.
    End,
    /// To the next frame's beginning.
    Boundary,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that was seen or not")]
pub(super) struct Lane {
    /// A header that reads have cut.
    header: [u8; HEADER_LIMIT_BYTES],
    header_bytes: u8,
    is_masked: bool,
    is_within: bool,
    in_close: bool,
    is_closed: bool,
    payload_left: u64,
}

impl Lane {
    pub(super) fn new(from: Direction) -> Lane {
        Lane {
            header: [0; HEADER_LIMIT_BYTES],
            header_bytes: 0,
            is_masked: from == Direction::FromClient,
            is_within: false,
            in_close: false,
            is_closed: false,
            payload_left: 0,
        }
    }

    /// Whether a frame may begin here.
    pub(super) fn is_boundary(&self) -> bool {
        self.header_bytes == 0 && self.payload_left == 0
    }

    /// Whether its Close frame has been seen whole. Nothing after it is a frame.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Walks over frames: how many bytes were walked over.
    pub(super) fn walk(
        &mut self,
        bytes: &[u8],
        until: Until,
        extensions: Extensions,
    ) -> Result<usize, Surprise> {
        let mut walked = 0;
        while let Some(rest) = bytes.get(walked..).filter(|rest| !rest.is_empty()) {
            if self.is_closed {
                return Ok(bytes.len());
            }
            walked += if self.payload_left > 0 {
                let left = usize::try_from(self.payload_left).unwrap_or(usize::MAX);
                let used = left.min(rest.len());
                self.payload_left -= used as u64;
                used
            } else {
                self.header(rest, extensions)?
            };
            if self.is_boundary() {
                self.is_closed = self.in_close;
                if until == Until::Boundary {
                    break;
                }
            }
        }
        Ok(walked)
    }

    /// Reads on in a header: how many of the bytes belong to it.
    fn header(&mut self, bytes: &[u8], extensions: Extensions) -> Result<usize, Surprise> {
        if self.header_bytes == 0
            && let Some(header) = Header::read(bytes)
        {
            self.begin(&header, extensions)?;
            return Ok(header.length);
        }
        let before = usize::from(self.header_bytes);
        let room = self.header.get_mut(before..).unwrap_or_default();
        let copied = room.len().min(bytes.len());
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = *from;
        }
        let known = before + copied;
        let header = Header::read(self.header.get(..known).unwrap_or_default());
        let Some(header) = header else {
            self.header_bytes = known as u8;
            return Ok(copied);
        };
        self.header_bytes = 0;
        self.begin(&header, extensions)?;
        Ok(header.length.saturating_sub(before))
    }

    fn begin(&mut self, header: &Header, extensions: Extensions) -> Result<(), Surprise> {
        header.check(&Expected {
            is_masked: self.is_masked,
            is_within: self.is_within,
            extensions,
        })?;
        self.payload_left = header.payload;
        self.in_close = header.opcode == CLOSE;
        if !header.is_control() {
            self.is_within = !header.is_final;
        }
        Ok(())
    }
}
