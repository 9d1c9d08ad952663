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
    /// A 101 may follow which makes the connection one of HTTP/2.
    pub(super) const HTTP2: Asked = Asked(1 << 5);
    /// It came with a body that has no meaning (RFC 9110 §9.3): applications may leave it unread.
    pub(super) const STRAY_BODY: Asked = Asked(1 << 6);

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

/// Unanswered requests that are remembered in place: more than one has only a client that pipelines.
const FEW: usize = 4;

/// The unanswered requests, oldest first.
#[derive(Debug, Default)]
pub(super) struct Outstanding {
    few: [Asked; FEW],
    /// The ring in the place of `few`, once there were more.
    many: Option<Box<[Asked; OUTSTANDING_LIMIT]>>,
    first: u8,
    count: u8,
}

impl Outstanding {
    pub(super) fn count(&self) -> usize {
        usize::from(self.count)
    }

    pub(super) fn oldest(&self) -> Option<Asked> {
        let first = self.ring().get(usize::from(self.first)).copied();
        first.filter(|_| self.count > 0)
    }

    pub(super) fn newest(&self) -> Option<Asked> {
        let before = self.count().checked_sub(1)?;
        self.ring().get(self.place(before)).copied()
    }

    pub(super) fn push(&mut self, asked: Asked) -> Result<(), Surprise> {
        if self.count() == self.ring().len() {
            self.grow()?;
        }
        let at = self.place(self.count());
        let ring = self.many.as_deref_mut().map_or(&mut self.few[..], |many| &mut many[..]);
        if let Some(place) = ring.get_mut(at) {
            *place = asked;
            self.count += 1;
        }
        Ok(())
    }

    pub(super) fn pop(&mut self) {
        if self.count > 0 {
            self.first = (self.first + 1) & self.last_place();
            self.count -= 1;
        }
    }

    pub(super) fn clear(&mut self) {
        self.count = 0;
    }

    fn ring(&self) -> &[Asked] {
        self.many.as_deref().map_or(&self.few, |many| many)
    }

    /// Where the one stands that so many came before.
    fn place(&self, before: usize) -> usize {
        (usize::from(self.first) + before) & usize::from(self.last_place())
    }

    /// Both lengths are powers of two, so that this wraps a place around.
    fn last_place(&self) -> u8 {
        if self.many.is_some() { OUTSTANDING_LIMIT as u8 - 1 } else { FEW as u8 - 1 }
    }

    fn grow(&mut self) -> Result<(), Surprise> {
        if self.many.is_some() {
            return Err(Surprise::TooManyOutstanding);
        }
        let mut many = Box::new([Asked::default(); OUTSTANDING_LIMIT]);
        self.few.rotate_left(usize::from(self.first));
        for (place, asked) in many.iter_mut().zip(self.few) {
            *place = asked;
        }
        self.first = 0;
        self.many = Some(many);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However they come and go: what is asked first is answered first, and none is forgotten
        /// where the few become many.
        #[test]
        fn the_oldest_comes_first(steps in prop::collection::vec((any::<bool>(), 0u8..64), 1..400)) {
            let mut outstanding = Outstanding::default();
            let mut expected = VecDeque::new();
            for (is_answer, asked) in steps {
                if is_answer {
                    outstanding.pop();
                    expected.pop_front();
                } else if expected.len() < OUTSTANDING_LIMIT {
                    outstanding.push(Asked(asked)).expect("there is room");
                    expected.push_back(Asked(asked));
                } else {
                    prop_assert!(outstanding.push(Asked(asked)).is_err());
                }
                prop_assert_eq!(outstanding.count(), expected.len());
                prop_assert_eq!(outstanding.oldest(), expected.front().copied());
                prop_assert_eq!(outstanding.newest(), expected.back().copied());
            }
        }
    }

    #[test]
    fn there_is_room_for_as_many_as_there_may_be() {
        let mut outstanding = Outstanding::default();
        for _ in 0..3 {
            outstanding.push(Asked::HEAD).expect("there is room");
        }
        outstanding.pop();
        for _ in 2..OUTSTANDING_LIMIT {
            outstanding.push(Asked::CLOSE).expect("there is room");
        }
        assert_eq!(outstanding.push(Asked::CLOSE), Err(Surprise::TooManyOutstanding));
        assert_eq!(
            (outstanding.count(), outstanding.oldest()),
            (OUTSTANDING_LIMIT, Some(Asked::HEAD))
        );
    }
}
