//! How far the farewell has come, and what the client was told.

use super::frame::{HIGHEST_STREAM, put_goaway, put_ping};
use crate::Word;

/// What we have said ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Unsaid,
    /// That there will be an end: GOAWAY of the highest stream, and a PING to learn when it was read.
    First,
    /// Which stream is the last.
    Final,
}

/// The two phases of a farewell to the client.
///
/// # Source
/// RFC 9113 §6.8: a server that wants to lose nothing first names the highest stream there can be,
/// waits at least one round trip, and then names the last one it has seen.
#[derive(Debug)]
pub(super) struct Farewell {
    ping: [u8; 8],
    stage: Stage,
    wanted: bool,
    /// Our PING is on its way, and its ACK must not reach the application, however late.
    ping_is_out: bool,
    /// The PING is not waited for any more before the final GOAWAY.
    settled: bool,
    /// The lowest last stream that the client was told by anyone; it must never be told a higher one.
    announced: u32,
    /// Said, and not yet told to whoever asks.
    word: Option<Word>,
}

impl Farewell {
    pub(super) fn new(ping: [u8; 8]) -> Self {
        Farewell {
            ping,
            stage: Stage::Unsaid,
            wanted: false,
            ping_is_out: false,
            settled: false,
            announced: HIGHEST_STREAM,
            word: None,
        }
    }

    pub(super) fn take_word(&mut self) -> Option<Word> {
        self.word.take()
    }

    pub(super) fn begin(&mut self) {
        self.wanted = true;
    }

    pub(super) fn end(&mut self) {
        self.wanted = false;
    }

    /// Waits for no PING before the final GOAWAY.
    pub(super) fn settle(&mut self) {
        self.settled = true;
    }

    /// Whether bytes have to be looked at for more than their place: a drain has begun, or has left traces.
    pub(super) fn is_awake(&self) -> bool {
        self.wanted || self.stage != Stage::Unsaid
    }

    /// Whether the client was sent a GOAWAY of ours, which the application does not know of.
    pub(super) fn is_told(&self) -> bool {
        self.stage != Stage::Unsaid
    }

    /// Whether we have named a last stream, so that the application must not name a higher one.
    pub(super) fn is_said(&self) -> bool {
        self.stage == Stage::Final
    }

    /// Whether nothing is left to say: we have named the last stream, or in a drain the application
    /// itself has named one that the client has reached.
    pub(super) fn is_final(&self, highest: u32) -> bool {
        self.is_said() || (self.wanted && highest >= self.announced)
    }

    /// Whether the client's ACK is what the final GOAWAY waits for.
    pub(super) fn awaits_ping(&self) -> bool {
        self.wanted && self.ping_is_out && self.stage == Stage::First && !self.settled
    }

    pub(super) fn ping_is_out(&self) -> bool {
        self.ping_is_out
    }

    /// Whether a PING's ACK is the answer to ours.
    pub(super) fn is_answer(&self, payload: &[u8]) -> bool {
        self.ping_is_out && payload == self.ping
    }

    pub(super) fn answered(&mut self) {
        self.ping_is_out = false;
        self.settled = true;
    }

    /// The application has sent a GOAWAY of its own.
    pub(super) fn heard(&mut self, last: u32) {
        self.announced = self.announced.min(last);
    }

    /// What an application's GOAWAY may say after ours.
    pub(super) fn clamp(&self, last: u32) -> Option<u32> {
        (self.is_said() && last > self.announced).then_some(self.announced)
    }

    /// Whether there is something to say now. `highest` is the highest stream seen from the client,
    /// and `last` the same where it can be the last one.
    pub(super) fn is_due(&self, highest: u32, last: Option<u32>) -> bool {
        let may_end = self.settled && last.is_some();
        self.wanted && !self.is_final(highest) && (self.stage == Stage::Unsaid || may_end)
    }

    /// Says it.
    pub(super) fn say(&mut self, highest: u32, last: Option<u32>, out: &mut Vec<u8>) {
        if !self.is_due(highest, last) {
            return;
        }
        match last {
            Some(last) if self.settled => {
                self.announced = self.announced.min(last);
                self.stage = Stage::Final;
                self.word = Some(Word::FinalGoaway);
                put_goaway(self.announced, out);
            }
            _ => {
                self.stage = Stage::First;
                self.word = Some(Word::FirstGoaway);
                self.ping_is_out = true;
                put_goaway(self.announced, out);
                put_ping(self.ping, out);
            }
        }
    }
}
