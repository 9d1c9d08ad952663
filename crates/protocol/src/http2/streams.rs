//! Which streams are open, and which ids may come.

use super::Surprise;
use super::frame::{END_STREAM, Header, Kind};
use super::table::{BOTH_ENDED, CLIENT_ENDED, Ends, MAX_STREAMS, Table, UPSTREAM_ENDED};
use crate::Direction;

/// The streams of one connection, the client's and the pushed ones.
#[derive(Debug)]
pub(super) struct Streams {
    client: Table,
    pushed: Table,
    /// The highest stream that the upstream has reset while the client was still sending: trailers
    /// of the client may have crossed the reset.
    highest_reset: u32,
    /// The application serves no stream of the client above this one.
    limit: u32,
}

impl Streams {
    pub(super) fn new() -> Self {
        Streams {
            client: Table::default(),
            pushed: Table::default(),
            highest_reset: 0,
            limit: u32::MAX,
        }
    }

    /// The request that asked for HTTP/2 is stream 1, which the client has ended.
    pub(super) fn begin_upgraded(&mut self) {
        self.client.push(1, CLIENT_ENDED);
    }

    pub(super) fn open(&self) -> u32 {
        self.client.live() + self.pushed.live()
    }

    /// The highest stream that the client has opened.
    pub(super) fn highest(&self) -> u32 {
        self.client.highest()
    }

    /// Whether the client may still send a header block (trailers) on a stream that is open.
    pub(super) fn client_is_sending(&self) -> bool {
        self.client.sending() > 0
    }

    /// A whole frame passes, HEADERS or DATA: what it begins, and what it ends.
    #[inline(always)]
    pub(super) fn pass(&mut self, direction: Direction, header: &Header) -> Result<(), Surprise> {
        let ends = header.has(END_STREAM);
        let from_client = direction == Direction::FromClient;
        if from_client && header.kind == Kind::HEADERS && header.stream > self.highest() {
            return self.begin(header.stream, if ends { CLIENT_ENDED } else { 0 });
        }
        self.go_on(direction, header)?;
        if ends {
            self.end(direction, header.stream);
        }
        Ok(())
    }

    /// A request or response begins or goes on with this frame; others have no part in one.
    #[inline(always)]
    pub(super) fn go_on(&mut self, direction: Direction, header: &Header) -> Result<(), Surprise> {
        match (header.kind, direction) {
            (Kind::DATA, _) => self.data(direction, header.stream),
            (Kind::HEADERS, Direction::FromClient) => self.request(header),
            (Kind::HEADERS, Direction::FromUpstream) => self.response(header.stream),
            _ => Ok(()),
        }
    }

    /// The client sends HEADERS: a new stream, or trailers.
    fn request(&mut self, header: &Header) -> Result<(), Surprise> {
        let id = header.stream;
        if id > self.highest() {
            return self.begin(id, 0);
        }
        let crossed_reset = id <= self.highest_reset && header.has(END_STREAM);
        match self.client.ends(id) {
            _ if is_pushed(id) => Err(Surprise::StreamId),
            Some(ends) if ends & CLIENT_ENDED == 0 => Ok(()),
            None if crossed_reset || id > self.limit => Ok(()),
            _ => Err(Surprise::StreamId),
        }
    }

    /// The client opens a stream above all others.
    #[inline]
    fn begin(&mut self, id: u32, ends: Ends) -> Result<(), Surprise> {
        if is_pushed(id) {
            return Err(Surprise::StreamId);
        }
        if id > self.limit {
            self.client.pass_by(id);
            return Ok(());
        }
        self.check_room()?;
        self.client.push(id, ends);
        Ok(())
    }

    /// The upstream sends HEADERS: an interim or final response, or trailers.
    #[inline]
    fn response(&self, id: u32) -> Result<(), Surprise> {
        let table = self.table(id);
        // Only where its client goes on sending is a stream open that the upstream has ended.
        let has_ended = || table.ends(id).is_some_and(|ends| ends & UPSTREAM_ENDED != 0);
        if table.sending() > 0 && has_ended() {
            return Err(Surprise::StreamId);
        }
        self.known(id)
    }

    /// The upstream promises a stream, on which the client will never send.
    pub(super) fn promise(&mut self, id: u32) -> Result<(), Surprise> {
        if !is_pushed(id) || id <= self.pushed.highest() {
            return Err(Surprise::StreamId);
        }
        self.check_room()?;
        self.pushed.push(id, CLIENT_ENDED);
        Ok(())
    }

    /// DATA: only on streams that there are, and none from the client on a pushed one.
    fn data(&self, direction: Direction, id: u32) -> Result<(), Surprise> {
        if direction == Direction::FromClient && is_pushed(id) {
            return Err(Surprise::StreamId);
        }
        self.known(id)
    }

    /// Whether a stream of this id has ever been begun; others can be neither used nor reset.
    pub(super) fn known(&self, id: u32) -> Result<(), Surprise> {
        if id == 0 || id > self.table(id).highest() { Err(Surprise::StreamId) } else { Ok(()) }
    }

    /// A side has sent END_STREAM.
    #[inline(always)]
    pub(super) fn end(&mut self, direction: Direction, id: u32) {
        let ends = match direction {
            Direction::FromClient => CLIENT_ENDED,
            Direction::FromUpstream => UPSTREAM_ENDED,
        };
        self.table_mut(id).end(id, ends);
    }

    /// A side has sent RST_STREAM.
    pub(super) fn reset(&mut self, direction: Direction, id: u32) {
        if direction == Direction::FromUpstream
            && self.client.ends(id).is_some_and(|ends| ends & CLIENT_ENDED == 0)
        {
            self.highest_reset = self.highest_reset.max(id);
        }
        self.table_mut(id).end(id, BOTH_ENDED);
    }

    /// The application serves none of the client's streams above `last`.
    ///
    /// # Source
    /// RFC 9113 §6.8: the client does not end them; it forgets them.
    pub(super) fn limit(&mut self, last: u32) {
        self.limit = self.limit.min(last);
        self.client.end_above(last);
    }

    /// A side has closed its half of the connection. Without the upstream no stream goes on.
    pub(super) fn end_all(&mut self, direction: Direction) {
        let ends = match direction {
            Direction::FromClient => CLIENT_ENDED,
            Direction::FromUpstream => BOTH_ENDED,
        };
        self.client.end_all(ends);
        self.pushed.end_all(ends);
    }

    fn check_room(&self) -> Result<(), Surprise> {
        if self.open() < MAX_STREAMS { Ok(()) } else { Err(Surprise::TooManyStreams) }
    }

    fn table(&self, id: u32) -> &Table {
        if is_pushed(id) { &self.pushed } else { &self.client }
    }

    fn table_mut(&mut self, id: u32) -> &mut Table {
        if is_pushed(id) { &mut self.pushed } else { &mut self.client }
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn heap_bytes(&self) -> usize {
        self.client.heap_bytes() + self.pushed.heap_bytes()
    }
}

/// Whether an id is one that only the server may begin.
fn is_pushed(id: u32) -> bool {
    id.is_multiple_of(2)
}
