//! What the frames that pass mean. Nothing here changes a byte.

use super::cursor::Then;
use super::frame::{END_HEADERS, Header, Kind, PREFACE};
use super::streams::Streams;
use super::{Http2, Surprise};
use crate::Direction;

impl Http2 {
    /// Learns what is to be learned from bytes that all pass.
    pub(super) fn watch(&mut self, direction: Direction, bytes: &[u8]) {
        // Two copies of the loop, in each of which the direction is known.
        match direction {
            Direction::FromClient => self.watch_one(Direction::FromClient, bytes),
            Direction::FromUpstream => self.watch_one(Direction::FromUpstream, bytes),
        }
    }

    #[inline(always)]
    fn watch_one(&mut self, direction: Direction, bytes: &[u8]) {
        let mut passed = 0;
        while let Some(rest) = bytes.get(passed..).filter(|rest| !rest.is_empty()) {
            let more = match self.pass_whole_frames(direction, rest) {
                Ok(0) => self.advance(direction, rest),
                whole => whole,
            };
            match more {
                Ok(more) => passed += more,
                Err(surprise) => return self.become_opaque(surprise),
            }
        }
    }

    /// Passes over frames of messages for as long as they are whole: how many bytes that are. What
    /// is cut, has a header block of several frames, or is about the connection takes
    /// [`Http2::advance`].
    #[inline(always)]
    fn pass_whole_frames(&mut self, direction: Direction, bytes: &[u8]) -> Result<usize, Surprise> {
        let mut passed = 0;
        if !self.cursor(direction).may_begin_message() {
            return Ok(passed);
        }
        while let Some(rest) = bytes.get(passed..)
            && let Some(head) = rest.first_chunk()
        {
            let header = Header::parse(head);
            let frame_bytes = header.frame_bytes() as usize;
            let is_of_message = header.kind == Kind::DATA
                || header.kind == Kind::HEADERS && header.has(END_HEADERS);
            if !is_of_message || frame_bytes > rest.len() {
                break;
            }
            self.streams.pass(direction, &header)?;
            passed += frame_bytes;
        }
        Ok(passed)
    }

    /// Moves on by at least one byte and at most one frame; how many bytes that is.
    #[inline(always)]
    pub(super) fn advance(
        &mut self,
        direction: Direction,
        bytes: &[u8],
    ) -> Result<usize, Surprise> {
        if direction == Direction::FromClient && (self.preface_bytes as usize) < PREFACE.len() {
            return self.advance_preface(bytes);
        }
        let cursor = self.cursor_mut(direction);
        if !cursor.is_in_head() {
            let passed = cursor.skip(bytes.len());
            let then = cursor.finished();
            self.end_frame(direction, then);
            return Ok(passed);
        }
        let Some((taken, header)) = cursor.read_head(bytes) else {
            return Ok(bytes.len());
        };
        let then = self.begin_frame(direction, &header)?;
        let whole = taken + header.unread_bytes() as usize;
        if whole <= bytes.len() {
            self.end_frame(direction, then);
            return Ok(whole);
        }
        let cursor = self.cursor_mut(direction);
        cursor.enter(&header, then);
        cursor.skip(bytes.len() - taken);
        Ok(bytes.len())
    }

    /// From now on bytes are only passed.
    pub(super) fn become_opaque(&mut self, surprise: Surprise) {
        self.surprise = Some(surprise);
        self.streams = Streams::new();
    }

    fn advance_preface(&mut self, bytes: &[u8]) -> Result<usize, Surprise> {
        let expected = PREFACE.get(self.preface_bytes as usize..).unwrap_or_default();
        if expected.iter().zip(bytes).any(|(expected, byte)| expected != byte) {
            return Err(Surprise::Preface);
        }
        let passed = expected.len().min(bytes.len());
        self.preface_bytes += passed as u8; // at most 24
        Ok(passed)
    }

    #[inline(always)]
    fn begin_frame(&mut self, direction: Direction, header: &Header) -> Result<Then, Surprise> {
        let ends = self.cursor_mut(direction).check_order(header)?;
        if direction == Direction::FromClient && header.kind != Kind::CONTINUATION {
            let opens = header.stream > self.streams.highest();
            self.is_opening = header.kind == Kind::HEADERS && opens;
        }
        Ok(match header.kind {
            Kind::DATA | Kind::HEADERS => {
                self.streams.go_on(direction, header)?;
                ends
            }
            Kind::PUSH_PROMISE => {
                if direction == Direction::FromClient {
                    return Err(Surprise::StreamId);
                }
                self.streams.known(header.stream)?;
                self.streams.promise(self.upstream.promised_stream(header)?)?;
                ends
            }
            Kind::RST_STREAM => {
                self.streams.known(header.stream)?;
                expect_bytes(header, 4)?;
                Then::Reset(header.stream)
            }
            Kind::SETTINGS => {
                expect_stream_zero(header)?;
                ends
            }
            Kind::PING => {
                expect_stream_zero(header)?;
                expect_bytes(header, 8)?;
                ends
            }
            Kind::GOAWAY => {
                expect_stream_zero(header)?;
                Then::Goaway(self.cursor(direction).last_stream(header)?)
            }
            // CONTINUATION, PRIORITY, WINDOW_UPDATE, and those of extensions.
            _ => ends,
        })
    }

    pub(super) fn end_frame(&mut self, direction: Direction, then: Then) {
        match then {
            Then::Nothing => {}
            Then::End(stream) => self.streams.end(direction, stream),
            Then::Reset(stream) => self.streams.reset(direction, stream),
            Then::Goaway(last) => {
                // A client's GOAWAY is about pushed streams that it does not want; they end all the same.
                if direction == Direction::FromUpstream {
                    self.streams.limit(last);
                    self.farewell.heard(last);
                }
            }
        }
    }
}

fn expect_stream_zero(header: &Header) -> Result<(), Surprise> {
    if header.stream == 0 { Ok(()) } else { Err(Surprise::StreamId) }
}

fn expect_bytes(header: &Header, length_bytes: u32) -> Result<(), Surprise> {
    if header.length_bytes == length_bytes { Ok(()) } else { Err(Surprise::FrameSize) }
}
