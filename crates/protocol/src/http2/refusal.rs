//! Streams that a client opens although it was told the last one: the application never sees them.
//!
//! `docs/decisions/http2-last-stream.md` says why they can be refused, and why they must be.

use super::frame::{Header, Kind, put_credit, put_refusal};

/// Refusals that may wait for a frame boundary towards the client. A stream beyond them is refused
/// without a word: the GOAWAY has already told its fate.
const MAX_WAITING: usize = 256;

/// What was refused, and what the client has still to be told about it.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    /// The last stream that the application knows, once one above it was refused.
    last_served: Option<u32>,
    highest: u32,
    waiting: Vec<u32>,
    /// What dropped DATA has cost of the connection's window: nobody else gives it back.
    credit_bytes: u32,
}

impl Refusal {
    /// Whether a header block was kept from the application, so that it can decode no other.
    pub(super) fn is_active(&self) -> bool {
        self.last_served.is_some()
    }

    /// Whether a frame of the client belongs to what was refused.
    pub(super) fn covers(&self, header: &Header) -> bool {
        self.last_served.is_some_and(|last| {
            let carries_block = matches!(header.kind, Kind::HEADERS | Kind::CONTINUATION);
            carries_block || (header.stream > last && !header.stream.is_multiple_of(2))
        })
    }

    /// Takes note of a frame that is being kept from the application.
    pub(super) fn refuse(&mut self, header: &Header, last_served: u32) {
        let last = *self.last_served.get_or_insert(last_served);
        match header.kind {
            Kind::HEADERS if header.stream > self.highest.max(last) => {
                self.highest = header.stream;
                if self.waiting.len() < MAX_WAITING {
                    self.waiting.push(header.stream);
                }
            }
            Kind::DATA => self.credit_bytes = self.credit_bytes.saturating_add(header.length_bytes),
            _ => {}
        }
    }

    pub(super) fn is_due(&self) -> bool {
        !self.waiting.is_empty() || self.credit_bytes > 0
    }

    /// Tells the client.
    pub(super) fn say(&mut self, out: &mut Vec<u8>) {
        for stream in std::mem::take(&mut self.waiting) {
            put_refusal(stream, out);
        }
        if self.credit_bytes > 0 {
            put_credit(std::mem::take(&mut self.credit_bytes), out);
        }
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn heap_bytes(&self) -> usize {
        self.waiting.capacity() * size_of::<u32>()
    }
}
