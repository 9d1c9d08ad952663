//! WebSocket, after the 101: frames by their headers, payload never looked at.
//!
//! Asked to leave, it says Close to either side at that side's next frame boundary. From there the
//! closing handshake with each side is ours: no frame may follow a Close (RFC 6455 §5.5.1), so
//! what still comes for that side is taken out, the other side's own Close with it.

mod farewell;
mod frame;
mod lane;

#[cfg(test)]
mod tests;

use self::lane::{Lane, Until};
use super::{Class, Direction, Step, Surprise, Word};

pub use self::farewell::{Farewell, REASON_LIMIT_BYTES};

/// What the opening handshake agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extensions {
    /// Frames as RFC 6455 has them.
    #[default]
    None,
    /// Frames may use the first reserved bit, as permessage-deflate does.
    Negotiated,
}

/// The tracker of one WebSocket.
#[derive(Debug)]
pub struct Tracker {
    client: Lane,
    upstream: Lane,
    /// Our Close for whoever reads what the client sends, and the other way round.
    after_client: Ours,
    after_upstream: Ours,
    farewell: Option<Box<Farewell>>,
    extensions: Extensions,
    surprise: Option<Surprise>,
    /// Said, and not yet told to whoever asks.
    word: Option<Word>,
}

/// Where our Close in one direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ours {
    /// Not sent, and perhaps never to be.
    Unsent,
    /// Sent: nothing follows it.
    Sent,
}

impl Tracker {
    /// A tracker for a WebSocket whose first frames are still to come.
    #[must_use]
    pub fn new(extensions: Extensions) -> Tracker {
        Tracker {
            client: Lane::new(Direction::FromClient),
            upstream: Lane::new(Direction::FromUpstream),
            after_client: Ours::Unsent,
            after_upstream: Ours::Unsent,
            farewell: None,
            extensions,
            surprise: None,
            word: None,
        }
    }

    /// Says what to do with the bytes that a direction has read and not yet sent.
    ///
    /// Until [`leave`](Tracker::leave) the answer is [`Step::Pass`] for all of them.
    pub fn step(&mut self, direction: Direction, bytes: &[u8]) -> Step {
        if bytes.is_empty() {
            return Step::Hold;
        }
        if let Some(close) = self.interject(direction) {
            return Step::Insert(close);
        }
        let until = if self.is_due(direction) { Until::Boundary } else { Until::End };
        let walked = self.walk(direction, bytes, until);
        if self.ours(direction) == Ours::Sent {
            Step::Drop(bytes.len())
        } else {
            Step::Pass(walked)
        }
    }

    fn walk(&mut self, direction: Direction, bytes: &[u8], until: Until) -> usize {
        if self.surprise.is_some() {
            return bytes.len();
        }
        let extensions = self.extensions;
        let walked = self.lane(direction).walk(bytes, until, extensions);
        walked.unwrap_or_else(|surprise| {
            self.surprise = Some(surprise);
            bytes.len()
        })
    }

    /// Asks both sides to end, once; later calls change nothing. A side whose peer has said Close
    /// itself gets no second one. Frames that are not understood leave no place for a Close.
    pub fn leave(&mut self, farewell: &Farewell) {
        if self.farewell.is_none() && self.surprise.is_none() {
            self.farewell = Some(Box::new(farewell.clone()));
        }
    }

    /// The Close frame to send now in a direction of which no byte is pending: once, after
    /// [`leave`](Tracker::leave), and only between frames. Otherwise [`step`](Tracker::step)
    /// inserts it at the next boundary.
    pub fn interject(&mut self, direction: Direction) -> Option<Vec<u8>> {
        if !self.is_due(direction) || !self.lane(direction).is_boundary() {
            return None;
        }
        let farewell = self.farewell.as_ref()?;
        self.word = Some(Word::Close);
        match direction {
            Direction::FromClient => {
                self.after_client = Ours::Sent;
                Some(farewell.to_upstream())
            }
            Direction::FromUpstream => {
                self.after_upstream = Ours::Sent;
                Some(farewell.to_client())
            }
        }
    }

    /// The Close that was just to be sent, once.
    pub fn take_word(&mut self) -> Option<Word> {
        self.word.take()
    }

    /// Whether the closing handshake is complete: the Close frames of both peers have been seen.
    #[must_use]
    pub fn leave_done(&self) -> bool {
        self.client.is_closed() && self.upstream.is_closed()
    }

    /// Whether nothing is left to say after [`leave`](Tracker::leave): either side has our Close,
    /// or one of its own peer's. Until then a message may be under way that no Close may cut.
    #[must_use]
    pub fn leave_said(&self) -> bool {
        let said = |ours, lane: &Lane| ours == Ours::Sent || lane.is_closed();
        self.farewell.is_some()
            && said(self.after_client, &self.client)
            && said(self.after_upstream, &self.upstream)
    }

    /// WebSocket, or opaque after a frame that was not understood.
    #[must_use]
    pub fn class(&self) -> Class {
        self.surprise.map_or(Class::WebSocket, Class::Opaque)
    }

    /// Whether it was asked to leave.
    pub(super) fn is_leaving(&self) -> bool {
        self.farewell.is_some()
    }

    /// Whether our Close is still to be sent in this direction.
    fn is_due(&mut self, direction: Direction) -> bool {
        self.farewell.is_some()
            && self.surprise.is_none()
            && self.ours(direction) == Ours::Unsent
            && !self.lane(direction).is_closed()
    }

    fn ours(&self, direction: Direction) -> Ours {
        match direction {
            Direction::FromClient => self.after_client,
            Direction::FromUpstream => self.after_upstream,
        }
    }

    fn lane(&mut self, direction: Direction) -> &mut Lane {
        match direction {
            Direction::FromClient => &mut self.client,
            Direction::FromUpstream => &mut self.upstream,
        }
    }
}
