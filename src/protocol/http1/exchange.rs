//! What the requests that are not answered yet have asked for: it decides how their responses are
//! framed and what may follow them.

use super::Surprise;

/// Unanswered requests that one connection may have.
///
/// # Source
/// Pipelining clients send 16 (the `TechEmpower` benchmarks) to some tens; one byte each is kept.
pub const OUTSTANDING_LIMIT: usize = 64;

/// What one request asked for, in a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked(u8);

impl Asked {
    /// Its response has no body.
    pub(super) const HEAD: Asked = Asked(1);
    /// A 2xx makes the connection a tunnel.
    pub(super) const CONNECT: Asked = Asked(1 << 1);
    /// The client expects the connection to close after the response.
    pub(super) const CLOSE: Asked = Asked(1 << 2);
    /// A 101 may follow.
    pub(super) const UPGRADE: Asked = Asked(1 << 3);
    /// A 101 may follow which makes the connection a WebSocket.
    pub(super) const WEBSOCKET: Asked = Asked(1 << 4);

    pub(super) fn with(self, other: Asked) -> Asked {
        Asked(self.0 | other.0)
    }

    pub(super) fn has(self, other: Asked) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the answer may end HTTP/1 on this connection.
    pub(super) fn might_switch(self) -> bool {
        self.has(Asked::CONNECT.with(Asked::UPGRADE))
    }
}

/// The unanswered requests, oldest first.
#[derive(Debug)]
pub(super) struct Outstanding {
    ring: [Asked; OUTSTANDING_LIMIT],
    first: u8,
    count: u8,
}

impl Outstanding {
    pub(super) fn new() -> Outstanding {
        Outstanding { ring: [Asked::default(); OUTSTANDING_LIMIT], first: 0, count: 0 }
    }

    pub(super) fn count(&self) -> usize {
        usize::from(self.count)
    }

    pub(super) fn oldest(&self) -> Option<Asked> {
        let first = self.ring.get(usize::from(self.first)).copied();
        first.filter(|_| self.count > 0)
    }

    pub(super) fn newest(&self) -> Option<Asked> {
        let before = self.count().checked_sub(1)?;
        let at = (usize::from(self.first) + before) % OUTSTANDING_LIMIT;
        self.ring.get(at).copied()
    }

    pub(super) fn push(&mut self, asked: Asked) -> Result<(), Surprise> {
        if self.count() == OUTSTANDING_LIMIT {
            return Err(Surprise::TooManyOutstanding);
        }
        let at = (usize::from(self.first) + self.count()) % OUTSTANDING_LIMIT;
        if let Some(place) = self.ring.get_mut(at) {
            *place = asked;
            self.count += 1;
        }
        Ok(())
    }

    pub(super) fn pop(&mut self) {
        if self.count > 0 {
            self.first = (self.first + 1) % OUTSTANDING_LIMIT as u8;
            self.count -= 1;
        }
    }

    pub(super) fn clear(&mut self) {
        self.count = 0;
    }
}
