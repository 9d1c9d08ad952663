//! What the frames that pass mean. Nothing here changes a byte.

use super::cursor::{Head, Then};
use super::frame::{Header, Kind, PREFACE};
use super::streams::Streams;
use super::{Http2, Surprise};
use crate::protocol::Direction;

impl Http2 {
    /// Moves on by at least one byte and at most one frame; how many bytes that is.
    pub(super) fn advance(
        &mut self,
        direction: Direction,
        bytes: &[u8],
    ) -> Result<usize, Surprise> {
        if direction == Direction::FromClient && (self.preface_bytes as usize) < PREFACE.len() {
            return self.advance_preface(bytes);
        }
        let cursor = self.cursor_mut(direction);
        let mut passed = 0;
        if cursor.is_in_head() {
            let (taken, head) = cursor.read_head(bytes);
            passed = taken;
            match head {
                Some(head) => self.begin_frame(direction, &head)?,
                None => return Ok(passed),
            }
        }
        let cursor = self.cursor_mut(direction);
        passed += cursor.skip(bytes.len() - passed);
        match cursor.finished() {
            Then::Nothing => {}
            then => self.end_frame(direction, then),
        }
        Ok(passed)
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

    fn begin_frame(&mut self, direction: Direction, head: &Head) -> Result<(), Surprise> {
        let header = &head.header;
        let ends = self.cursor_mut(direction).check_order(header)?;
        let then = match header.kind {
            Kind::Data => {
                self.streams.data(direction, header.stream)?;
                ends
            }
            Kind::Headers => {
                match direction {
                    Direction::FromClient => self.streams.request(header)?,
                    Direction::FromUpstream => self.streams.response(header.stream)?,
                }
                ends
            }
            Kind::Promise => {
                if direction == Direction::FromClient {
                    return Err(Surprise::StreamId);
                }
                self.streams.known(header.stream)?;
                self.streams.promise(head.promised_stream()?)?;
                ends
            }
            Kind::Continuation => ends,
            Kind::Reset => {
                self.streams.known(header.stream)?;
                expect_bytes(header, 4)?;
                Then::Reset(header.stream)
            }
            Kind::Settings => {
                expect_stream_zero(header)?;
                ends
            }
            Kind::Ping => {
                expect_stream_zero(header)?;
                expect_bytes(header, 8)?;
                ends
            }
            Kind::Goaway => {
                expect_stream_zero(header)?;
                Then::Goaway(head.last_stream()?)
            }
            Kind::Priority | Kind::WindowUpdate | Kind::Unknown => ends,
        };
        self.cursor_mut(direction).enter(header, then);
        Ok(())
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
