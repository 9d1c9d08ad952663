//! Where one direction is: in a frame's head, in its payload, or between two frames.

use super::Surprise;
use super::frame::{
    ACK, END_HEADERS, END_STREAM, GOAWAY_BYTES, HEADER_BYTES, Header, Kind, PADDED, PREFIX_BYTES,
    stream_id,
};

/// What counts once the frame under way has passed to its last byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Then {
    #[default]
    Nothing,
    /// The sender has ended this stream.
    End(u32),
    /// The sender has reset this stream.
    Reset(u32),
    /// The sender serves no stream above this one.
    Goaway(u32),
}

/// A header block whose END_HEADERS is still to come; nothing may stand between its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    stream: u32,
    then: Then,
}

/// One direction's place among the frames.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// What reads have cut off: the head under way.
    head: [u8; HEADER_BYTES + PREFIX_BYTES],
    head_bytes: u8,
    /// Bytes that are still to be taken out, before what is left of the payload.
    pub(super) drop_bytes: u32,
    payload_bytes: u32,
    then: Then,
    block: Option<Block>,
    /// The first frame, which has to be SETTINGS, was seen.
    pub(super) begun: bool,
    pub(super) ended: bool,
}

impl Cursor {
    /// Whether the next byte is a frame's first.
    pub(super) fn is_between_frames(&self) -> bool {
        self.head_bytes == 0 && self.payload_bytes == 0 && self.drop_bytes == 0
    }

    /// Whether a part of a frame's head has passed, so that nobody knows yet what it is.
    pub(super) fn is_in_cut_head(&self) -> bool {
        self.head_bytes > 0
    }

    /// Whether a frame that is not CONTINUATION may stand here.
    pub(super) fn is_between_blocks(&self) -> bool {
        self.is_between_frames() && self.block.is_none()
    }

    /// Whether the next byte belongs to a head.
    pub(super) fn is_in_head(&self) -> bool {
        self.payload_bytes == 0
    }

    /// Passes over payload; how many of `available` bytes belong to it.
    pub(super) fn skip(&mut self, available: usize) -> usize {
        let passed = available.min(self.payload_bytes as usize);
        self.payload_bytes -= passed as u32; // no more than payload_bytes, by the line above
        passed
    }

    /// What counts now, when the frame has come to its end.
    pub(super) fn finished(&mut self) -> Then {
        if self.payload_bytes == 0 && self.drop_bytes == 0 {
            std::mem::take(&mut self.then)
        } else {
            Then::Nothing
        }
    }

    /// Whether a frame of a request or response may stand here.
    pub(super) fn may_begin_message(&self) -> bool {
        self.begun && self.is_between_blocks()
    }

    /// Reads a head on; when `bytes` complete it, how many of them belong to it. Otherwise all do.
    #[inline]
    pub(super) fn read_head(&mut self, bytes: &[u8]) -> Option<(usize, Header)> {
        if self.head_bytes == 0
            && let Some(first) = bytes.first_chunk()
        {
            let header = Header::parse(first);
            if header.prefix_bytes() == 0 {
                return Some((HEADER_BYTES, header));
            }
        }
        self.read_cut_head(bytes)
    }

    fn read_cut_head(&mut self, bytes: &[u8]) -> Option<(usize, Header)> {
        let mut taken = 0;
        loop {
            let header = self.whole_header();
            let prefix_bytes = header.map_or(0, |header| header.prefix_bytes());
            let filled = self.head_bytes as usize;
            let missing = HEADER_BYTES + prefix_bytes - filled;
            if missing == 0
                && let Some(header) = header
            {
                self.head_bytes = 0;
                return Some((taken, header));
            }
            let rest = bytes.get(taken..).unwrap_or_default();
            let more = rest.len().min(missing);
            if more == 0 {
                return None;
            }
            self.head[filled..filled + more].copy_from_slice(&rest[..more]);
            self.head_bytes += more as u8; // at most 17
            taken += more;
        }
    }

    /// The last stream of the GOAWAY whose head was just read.
    pub(super) fn last_stream(&self, header: &Header) -> Result<u32, Surprise> {
        self.stream_at(0, header, GOAWAY_BYTES - HEADER_BYTES)
    }

    /// The promised stream of the PUSH_PROMISE whose head was just read: behind a pad length, if
    /// there is one.
    pub(super) fn promised_stream(&self, header: &Header) -> Result<u32, Surprise> {
        let start = usize::from(header.has(PADDED));
        self.stream_at(start, header, start + 4)
    }

    fn stream_at(
        &self,
        start: usize,
        header: &Header,
        least_bytes: usize,
    ) -> Result<u32, Surprise> {
        let id = self.head.get(HEADER_BYTES + start..).and_then(|rest| rest.first_chunk());
        match id {
            Some(id) if header.length_bytes as usize >= least_bytes => Ok(stream_id(*id)),
            _ => Err(Surprise::FrameSize),
        }
    }

    fn whole_header(&self) -> Option<Header> {
        let header = self.head.first_chunk()?;
        (self.head_bytes as usize >= HEADER_BYTES).then(|| Header::parse(header))
    }

    /// Enters the payload of the frame whose head was just read.
    pub(super) fn enter(&mut self, header: &Header, then: Then) {
        self.payload_bytes = header.unread_bytes();
        self.then = then;
    }

    /// Enters a frame of which the first bytes are taken out and the others pass.
    pub(super) fn enter_dropping(&mut self, header: &Header, drop_bytes: u32, then: Then) {
        self.drop_bytes = drop_bytes;
        self.payload_bytes = header.frame_bytes().saturating_sub(drop_bytes);
        self.then = then;
    }

    /// Takes bytes out; how many of `available` are to go.
    pub(super) fn take_out(&mut self, available: usize) -> usize {
        let dropped = available.min(self.drop_bytes as usize);
        self.drop_bytes -= dropped as u32; // no more than drop_bytes, by the line above
        dropped
    }

    /// Follows SETTINGS-first and the header blocks, where nothing else may come between.
    ///
    /// # Source
    /// RFC 9113 §3.4, §4.3, §6.10
    pub(super) fn check_order(&mut self, header: &Header) -> Result<Then, Surprise> {
        if !self.begun {
            let opens = header.kind == Kind::SETTINGS && !header.has(ACK);
            self.begun = opens;
            return if opens { Ok(Then::Nothing) } else { Err(Surprise::Preface) };
        }
        let ends = match (self.block, header.kind) {
            (Some(block), Kind::CONTINUATION) if block.stream == header.stream => block.then,
            (None, Kind::HEADERS | Kind::DATA) if header.has(END_STREAM) => {
                Then::End(header.stream)
            }
            (None, kind) if kind != Kind::CONTINUATION => Then::Nothing,
            _ => return Err(Surprise::HeaderBlock),
        };
        let in_block =
            matches!(header.kind, Kind::HEADERS | Kind::PUSH_PROMISE | Kind::CONTINUATION);
        if in_block && !header.has(END_HEADERS) {
            self.block = Some(Block { stream: header.stream, then: ends });
            return Ok(Then::Nothing);
        }
        self.block = None;
        Ok(ends)
    }
}
