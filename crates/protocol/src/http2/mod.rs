//! HTTP/2: frames by their nine bytes, streams by who opens and ends them, a farewell in two phases.
//!
//! The header compression is shared end to end and never decoded, so watching cannot disturb it.
//! gRPC is this, and so are WebSockets inside HTTP/2 (RFC 8441): both are streams like any other.
//!
//! - `frame`: one header, and the frames that a farewell is written with
//! - `cursor`: where one direction is
//! - `watch`: what the frames that pass mean
//! - `streams`, `table`: which streams are open
//! - `edit`: what a drain inserts and takes out
//! - `farewell`: how far the farewell has come
//! - `refusal`: what becomes of streams that a client opens all the same

mod cursor;
mod edit;
mod farewell;
mod frame;
mod refusal;
mod streams;
mod table;
mod watch;

#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(test)]
mod tests;

use cursor::Cursor;
use farewell::Farewell;
use frame::PREFACE;
use refusal::Refusal;
use streams::Streams;
pub use table::MAX_STREAMS;

use super::{Direction, Step, Word};

/// The most that a tracker has on the heap: 16 bytes a stream, 1 KiB of refusals that wait, and
/// what two tables keep when they are empty.
#[cfg(any(test, fuzzing))]
const HEAP_BYTES: usize = 16 * MAX_STREAMS as usize + 2 * 1024;

/// Why a connection became opaque for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Surprise {
    /// A side does not begin as HTTP/2 does: the client's 24 bytes, then SETTINGS on both sides.
    Preface,
    /// Something stands inside a header block, or a CONTINUATION outside of one.
    HeaderBlock,
    /// A frame is on a stream where it cannot be.
    StreamId,
    /// A frame has a length that its type cannot have.
    FrameSize,
    /// More streams are open than [`MAX_STREAMS`].
    TooManyStreams,
}

impl Surprise {
    /// Its name, as `/connections` and metrics spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Surprise::Preface => "http2-preface",
            Surprise::HeaderBlock => "http2-header-block",
            Surprise::StreamId => "http2-stream-id",
            Surprise::FrameSize => "http2-frame-size",
            Surprise::TooManyStreams => "http2-too-many-streams",
        }
    }
}

/// The tracker of one HTTP/2 connection, for both directions.
///
/// At most 16 bytes are ever held back, and only in a drain. Memory is this struct, 4 to 16 bytes a
/// stream (see [`MAX_STREAMS`]), and up to 1 KiB where streams are refused.
#[derive(Debug)]
pub struct Http2 {
    client: Cursor,
    upstream: Cursor,
    preface_bytes: u8,
    surprise: Option<Surprise>,
    streams: Streams,
    farewell: Farewell,
    /// It came while a drain was under way, and nothing is said before its first request.
    is_newcomer: bool,
    /// The client's header block under way, if there is one, opens a stream.
    is_opening: bool,
    refusal: Refusal,
}

impl Http2 {
    /// A connection of which nothing was seen yet.
    ///
    /// `ping` is the payload of the PING that a farewell sends; the client's answer is known by it.
    /// Eight random bytes keep it apart from every PING of the application.
    #[must_use]
    pub fn new(ping: [u8; 8]) -> Self {
        Http2 {
            client: Cursor::default(),
            upstream: Cursor::default(),
            preface_bytes: 0,
            surprise: None,
            streams: Streams::new(),
            farewell: Farewell::new(ping),
            is_newcomer: false,
            is_opening: false,
            refusal: Refusal::default(),
        }
    }

    /// A connection that an HTTP/1.1 request and a 101 have made one: that request is stream 1, on
    /// which the client sends nothing more.
    ///
    /// # Source
    /// RFC 7540 §3.2.
    #[must_use]
    pub fn upgraded(ping: [u8; 8]) -> Self {
        let mut tracker = Http2::new(ping);
        tracker.streams.begin_upgraded();
        tracker
    }

    /// What becomes of `bytes`, which are what the relay has not yet sent on. Not asked without any.
    pub fn step(&mut self, direction: Direction, bytes: &[u8]) -> Step {
        if self.surprise.is_some() {
            self.blind(direction, bytes)
        } else if self.farewell.is_awake() {
            self.step_awake(direction, bytes)
        } else {
            self.watch(direction, bytes);
            Step::Pass(bytes.len())
        }
    }

    /// Whether a step may be anything but to pass what it was shown.
    pub(super) fn may_edit(&self) -> bool {
        self.farewell.is_awake()
    }

    /// A drain has begun: the client is told as soon as it may be.
    ///
    /// One that has not even sent its SETTINGS is told behind its first request. Clients send no
    /// request after a GOAWAY, so one that was told at once would only come again, and again be
    /// told, for as long as the balancer sends it here.
    pub fn begin_drain(&mut self) {
        if !self.farewell.is_awake() {
            self.is_newcomer = !self.client.begun;
        }
        self.farewell.begin();
    }

    /// The drain was undone: what was not yet announced is not announced.
    pub fn end_drain(&mut self) {
        self.farewell.end();
    }

    /// The client had long enough for its first request, or to answer the PING: the final GOAWAY no
    /// longer waits for that.
    pub fn overdue(&mut self) {
        if self.awaits_request() || self.farewell.awaits_ping() {
            self.is_newcomer = false;
            self.farewell.settle();
        }
    }

    /// The deadline is near: the final GOAWAY waits for no PING, even if none was sent yet.
    pub fn leave(&mut self) {
        self.is_newcomer = false;
        self.farewell.begin();
        self.farewell.settle();
    }

    /// A side has closed its half.
    pub fn end(&mut self, direction: Direction) {
        self.cursor_mut(direction).ended = true;
        self.streams.end_all(direction);
        if direction == Direction::FromClient {
            self.is_newcomer = false;
            if self.farewell.ping_is_out() {
                self.farewell.settle();
            }
        }
    }

    /// What may be said to the peer that `direction` leads to, when no byte of it is pending.
    pub fn interject(&mut self, direction: Direction) -> Option<Vec<u8>> {
        self.may_speak(direction).then(|| self.speak())
    }

    /// The GOAWAY that was just to be sent, once.
    pub fn take_word(&mut self) -> Option<Word> {
        self.farewell.take_word()
    }

    /// Whether the client has sent nothing yet: whoever it is, nothing is lost with it.
    #[must_use]
    pub fn is_unheard(&self) -> bool {
        self.preface_bytes == 0 && self.streams.highest() == 0
    }

    /// Whether the client is within its preface, or within the header block of a request, and nothing
    /// else is in flight: all that the connection waits for is the rest of that.
    #[must_use]
    pub fn has_half_head(&self) -> bool {
        let is_in_preface = self.preface_bytes > 0 && (self.preface_bytes as usize) < PREFACE.len();
        self.surprise.is_none()
            && !self.client.ended
            && match self.open_streams() {
                0 => is_in_preface,
                1 => self.is_opening && !self.client.is_between_blocks(),
                _ => false,
            }
    }

    /// How many streams are open; 0 once the connection is opaque.
    #[must_use]
    pub fn open_streams(&self) -> u32 {
        self.streams.open()
    }

    /// Whether closing now loses nothing: no stream is open, and neither side is inside a frame.
    #[must_use]
    pub fn is_safe_point(&self) -> bool {
        let preface_is_whole =
            self.preface_bytes == 0 || self.preface_bytes as usize == PREFACE.len();
        self.surprise.is_none()
            && self.open_streams() == 0
            && preface_is_whole
            && self.client.is_between_blocks()
            && self.upstream.is_between_blocks()
    }

    /// Whether a drain has to wait for this connection.
    #[must_use]
    pub fn is_blocking(&self) -> bool {
        self.surprise.is_some() || self.open_streams() > 0 || self.awaits_request()
    }

    /// Whether a client that came in a drain has begun and not yet sent its first request, which is
    /// on its way: the relay bounds that wait, and says [`Http2::overdue`] when it is over.
    #[must_use]
    pub fn awaits_request(&self) -> bool {
        self.is_newcomer
            && self.surprise.is_none()
            && self.farewell.is_awake()
            && !self.is_unheard()
            && self.streams.highest() == 0
            // An application that has named stream 0 as the last one serves no request any more.
            && !self.farewell.is_final(0)
    }

    /// Whether the first GOAWAY was sent and the final one waits for the client's answer: the relay
    /// bounds that wait, and says [`Http2::overdue`] when it is over.
    #[must_use]
    pub fn awaits_ping(&self) -> bool {
        self.surprise.is_none() && self.farewell.awaits_ping()
    }

    /// Whether the client knows the last stream and that has ended: the connection is to be closed.
    #[must_use]
    pub fn farewell_done(&self) -> bool {
        self.surprise.is_none()
            && self.open_streams() == 0
            && self.upstream.is_between_blocks()
            && self.farewell.is_final(self.streams.highest())
            && !self.refusal.is_due()
    }

    /// What made the connection opaque.
    #[must_use]
    pub fn surprise(&self) -> Option<Surprise> {
        self.surprise
    }

    #[cfg(any(test, fuzzing))]
    fn heap_bytes(&self) -> usize {
        self.streams.heap_bytes() + self.refusal.heap_bytes()
    }

    fn cursor(&self, direction: Direction) -> &Cursor {
        match direction {
            Direction::FromClient => &self.client,
            Direction::FromUpstream => &self.upstream,
        }
    }

    fn cursor_mut(&mut self, direction: Direction) -> &mut Cursor {
        match direction {
            Direction::FromClient => &mut self.client,
            Direction::FromUpstream => &mut self.upstream,
        }
    }
}
