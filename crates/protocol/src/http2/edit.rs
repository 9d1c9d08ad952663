//! What a drain inserts and takes out, and where.

use super::Http2;
use super::cursor::Then;
use super::frame::{
    ACK, GOAWAY_BYTES, HEADER_BYTES, Header, Kind, PING_BYTES, goaway_last, goaway_with,
};
use crate::{Direction, Step};

/// What is done at a place, instead of passing what is there.
pub(super) enum Edit {
    /// Say what is due.
    Speak,
    /// The next bytes decide.
    Wait,
    /// These bytes belong to what was taken out.
    TakeOut,
    /// The answer to our PING.
    TakeAnswer(Header),
    /// A frame that the application must not see.
    Refuse(Header),
    /// A frame about a stream that the client has planned and never opened.
    TakePlanned(Header),
    /// An application's GOAWAY that would raise the last stream; it is to name this one.
    Clamp(Header, [u8; GOAWAY_BYTES], u32),
}

impl Http2 {
    /// The answer in a drain, or after one: up to the next place where something is to be done.
    pub(super) fn step_awake(&mut self, direction: Direction, bytes: &[u8]) -> Step {
        let mut passed = 0;
        while let Some(rest) = bytes.get(passed..).filter(|rest| !rest.is_empty()) {
            if let Some(edit) = self.edit(direction, rest) {
                return match passed {
                    0 => self.carry_out(direction, &edit, rest),
                    _ => Step::Pass(passed),
                };
            }
            match self.advance(direction, rest) {
                Ok(more) => passed += more,
                Err(surprise) => {
                    self.become_opaque(surprise);
                    return match passed {
                        0 => self.blind(direction, rest),
                        _ => Step::Pass(passed),
                    };
                }
            }
        }
        Step::Pass(bytes.len())
    }

    /// Whether something is to be done to the stream here. Changes nothing, so it can be asked twice.
    fn edit(&self, direction: Direction, rest: &[u8]) -> Option<Edit> {
        let cursor = self.cursor(direction);
        if cursor.drop_bytes > 0 {
            return Some(Edit::TakeOut);
        }
        if !cursor.begun || !cursor.is_between_frames() {
            return None;
        }
        match direction {
            Direction::FromClient => self.edit_from_client(rest),
            Direction::FromUpstream if self.may_speak(direction) => Some(Edit::Speak),
            Direction::FromUpstream => self.edit_from_upstream(rest),
        }
    }

    fn edit_from_client(&self, rest: &[u8]) -> Option<Edit> {
        if !self.farewell.is_told() {
            return None;
        }
        let Some(first) = rest.first_chunk() else {
            return Some(Edit::Wait);
        };
        let header = Header::parse(first);
        if self.refusal.covers(&header) || self.opens_too_late(&header) {
            return Some(Edit::Refuse(header));
        }
        if self.is_about_planned(&header) {
            return Some(Edit::TakePlanned(header));
        }
        let is_ack = header.kind == Kind::PING
            && header.has(ACK)
            && header.length_bytes == 8
            && header.stream == 0;
        if !is_ack || !self.farewell.ping_is_out() || !self.client.is_between_blocks() {
            return None;
        }
        match rest.get(HEADER_BYTES..PING_BYTES) {
            None => Some(Edit::Wait),
            Some(payload) => self.farewell.is_answer(payload).then_some(Edit::TakeAnswer(header)),
        }
    }

    /// Whether a frame opens a stream above the one that we have named as the last.
    fn opens_too_late(&self, header: &Header) -> bool {
        header.kind == Kind::HEADERS
            && self.farewell.is_said()
            && header.stream > self.streams.highest()
            && !header.stream.is_multiple_of(2)
            && self.client.is_between_blocks()
    }

    /// Whether a frame gives up a stream that the client had planned and never opened, as some do when
    /// they read a GOAWAY. The application knows neither the stream nor the GOAWAY, and would end the
    /// connection for it.
    ///
    /// # Source
    /// RFC 9113 §5.1 (what an idle stream may not receive); `nghttpx` sends RST_STREAM so.
    fn is_about_planned(&self, header: &Header) -> bool {
        let gives_up = header.kind == Kind::RST_STREAM || header.kind == Kind::WINDOW_UPDATE;
        gives_up
            && header.length_bytes == 4
            && header.stream > self.streams.highest()
            && !header.stream.is_multiple_of(2)
            && self.client.is_between_blocks()
    }

    /// The client's highest stream, if we may name it as the last one.
    ///
    /// We may when no header block of the client can follow that the application has to see: then
    /// it can do without the later ones, although their compression state is shared. While a
    /// request is being sent, its trailers may come.
    fn last_stream(&self) -> Option<u32> {
        let cut_head = self.client.is_in_cut_head() && !self.client.ended;
        let more_may_come = self.streams.client_is_sending() || cut_head;
        (!more_may_come).then(|| self.streams.highest())
    }

    fn edit_from_upstream(&self, rest: &[u8]) -> Option<Edit> {
        if !self.farewell.is_said() || !self.upstream.is_between_blocks() {
            return None;
        }
        let Some(first) = rest.first_chunk() else {
            return Some(Edit::Wait);
        };
        let header = Header::parse(first);
        let is_goaway = header.kind == Kind::GOAWAY && header.stream == 0;
        if !is_goaway || (header.frame_bytes() as usize) < GOAWAY_BYTES {
            return None;
        }
        let Some(head) = rest.first_chunk::<GOAWAY_BYTES>() else {
            return Some(Edit::Wait);
        };
        let instead = self.farewell.clamp(goaway_last(head))?;
        Some(Edit::Clamp(header, *head, instead))
    }

    fn carry_out(&mut self, direction: Direction, edit: &Edit, rest: &[u8]) -> Step {
        match *edit {
            Edit::Speak => return Step::Insert(self.speak()),
            Edit::Wait => return Step::Hold,
            Edit::TakeOut => {}
            Edit::TakeAnswer(header) => {
                self.farewell.answered();
                self.client.enter_dropping(&header, header.frame_bytes(), Then::Nothing);
            }
            Edit::TakePlanned(header) => {
                self.client.enter_dropping(&header, header.frame_bytes(), Then::Nothing);
            }
            Edit::Refuse(header) => {
                if let Err(surprise) = self.client.check_order(&header) {
                    self.become_opaque(surprise);
                    return self.blind(direction, rest);
                }
                self.refusal.refuse(&header, self.streams.highest());
                self.client.enter_dropping(&header, header.frame_bytes(), Then::Nothing);
            }
            Edit::Clamp(header, head, instead) => {
                // It says no more than the client has heard, so no stream ends by it.
                self.upstream.enter_dropping(&header, GOAWAY_BYTES as u32, Then::Nothing);
                return Step::Insert(goaway_with(&head, instead));
            }
        }
        self.take_out(direction, rest)
    }

    fn take_out(&mut self, direction: Direction, rest: &[u8]) -> Step {
        let cursor = self.cursor_mut(direction);
        let dropped = cursor.take_out(rest.len());
        let then = cursor.finished();
        self.end_frame(direction, then);
        Step::Drop(dropped)
    }

    /// What an opaque connection answers.
    ///
    /// A header block that was refused leaves the application unable to decode any later one, so
    /// then a client that surprises us is not heard any more.
    pub(super) fn blind(&mut self, direction: Direction, bytes: &[u8]) -> Step {
        if self.cursor(direction).drop_bytes > 0 {
            return Step::Drop(self.cursor_mut(direction).take_out(bytes.len()));
        }
        if direction == Direction::FromClient && self.refusal.is_active() {
            return Step::Drop(bytes.len());
        }
        Step::Pass(bytes.len())
    }

    /// Whether something is due to the client, and this is a place for it: between two frames of
    /// the upstream, outside of header blocks, and not before its SETTINGS.
    pub(super) fn may_speak(&self, direction: Direction) -> bool {
        direction == Direction::FromUpstream
            && self.farewell.is_awake()
            && self.surprise.is_none()
            && self.upstream.begun
            && !self.upstream.ended
            && self.upstream.is_between_blocks()
            && !self.is_early()
            && (self.farewell.is_due(self.streams.highest(), self.last_stream())
                || self.refusal.is_due())
    }

    /// Whether the first request of a newcomer is waited for, or its first byte.
    fn is_early(&self) -> bool {
        self.is_newcomer && self.streams.highest() == 0
    }

    pub(super) fn speak(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.farewell.say(self.streams.highest(), self.last_stream(), &mut out);
        self.refusal.say(&mut out);
        out
    }
}
