//! A listener as others see it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::net::syn_filter::SynFilter;

/// What a new connection meets at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ListenerState {
    /// The application is not there yet: refused.
    Waiting = 0,
    /// Served.
    Accepting = 1,
    /// Its SYN is dropped.
    Dropping = 2,
    /// Refused.
    Refusing = 3,
    /// Turned away as the reject mode says.
    Rejecting = 4,
}

impl ListenerState {
    const ALL: [ListenerState; 5] = [
        ListenerState::Waiting,
        ListenerState::Accepting,
        ListenerState::Dropping,
        ListenerState::Refusing,
        ListenerState::Rejecting,
    ];

    /// The state's name as reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ListenerState::Waiting => "Waiting",
            ListenerState::Accepting => "Accepting",
            ListenerState::Dropping => "Dropping",
            ListenerState::Refusing => "Refusing",
            ListenerState::Rejecting => "Rejecting",
        }
    }
}

/// A listener as others see it.
#[derive(Debug)]
pub struct ListenerStatus {
    /// Its address, with the real port.
    pub addr: SocketAddr,
    state: AtomicU8,
    filter: AtomicU8,
    /// What its connections have spoken so far, in [`Heard`]'s bits.
    heard: AtomicU8,
}

/// What a connection was seen to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Heard {
    /// HTTP: its client spoke first.
    Http = 1,
    /// What was not understood: its server may speak first.
    Unknown = 2,
}

impl ListenerStatus {
    /// A listener that is bound and does not listen yet.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        ListenerStatus {
            addr,
            state: AtomicU8::new(ListenerState::Waiting as u8),
            filter: AtomicU8::new(SynFilter::Off as u8),
            heard: AtomicU8::new(0),
        }
    }

    /// What a new connection meets now.
    #[must_use]
    pub fn state(&self) -> ListenerState {
        let state = usize::from(self.state.load(Ordering::Acquire));
        ListenerState::ALL.get(state).copied().unwrap_or(ListenerState::Waiting)
    }

    /// Notes what a connection speaks. Writes nothing that is known already.
    pub(super) fn hear(&self, heard: Heard) {
        if self.heard.load(Ordering::Relaxed) & heard as u8 == 0 {
            self.heard.fetch_or(heard as u8, Ordering::Relaxed);
        }
    }

    /// Whether every connection that spoke was HTTP, and one has: whoever has sent nothing is idle.
    #[must_use]
    pub fn speaks_http_alone(&self) -> bool {
        self.heard.load(Ordering::Relaxed) == Heard::Http as u8
    }

    pub(super) fn set(&self, state: ListenerState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// How new handshakes are kept from it now.
    #[must_use]
    pub fn filter(&self) -> SynFilter {
        let filter = usize::from(self.filter.load(Ordering::Acquire));
        SynFilter::ALL.get(filter).copied().unwrap_or_default()
    }

    pub(super) fn set_filter(&self, filter: SynFilter) {
        self.filter.store(filter as u8, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listener_that_has_heard_http_and_nothing_else_speaks_http_alone() {
        let heard = |all: &[Heard]| {
            let status = ListenerStatus::new(SocketAddr::from(([127, 0, 0, 1], 1)));
            for heard in all {
                status.hear(*heard);
            }
            status.speaks_http_alone()
        };
        assert!(!heard(&[]));
        assert!(!heard(&[Heard::Unknown]));
        assert!(heard(&[Heard::Http, Heard::Http]));
        assert!(!heard(&[Heard::Http, Heard::Unknown, Heard::Http]));
    }
}
