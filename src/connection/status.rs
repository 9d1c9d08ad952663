//! A listener as others see it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};

/// What a new connection meets at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ListenerState {
    /// The application is not there yet: refused.
    Waiting = 0,
    /// Served.
    Accepting = 1,
    /// New handshakes are dropped while what is queued is served.
    Gated = 2,
    /// Refused.
    Refusing = 3,
    /// Turned away as the reject mode says.
    Rejecting = 4,
}

impl ListenerState {
    const ALL: [ListenerState; 5] = [
        ListenerState::Waiting,
        ListenerState::Accepting,
        ListenerState::Gated,
        ListenerState::Refusing,
        ListenerState::Rejecting,
    ];

    /// The state's name as reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ListenerState::Waiting => "Waiting",
            ListenerState::Accepting => "Accepting",
            ListenerState::Gated => "Gated",
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
}

impl ListenerStatus {
    /// A listener that is bound and does not listen yet.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        ListenerStatus { addr, state: AtomicU8::new(ListenerState::Waiting as u8) }
    }

    /// What a new connection meets now.
    #[must_use]
    pub fn state(&self) -> ListenerState {
        let state = usize::from(self.state.load(Ordering::Acquire));
        ListenerState::ALL.get(state).copied().unwrap_or(ListenerState::Waiting)
    }

    pub(super) fn set(&self, state: ListenerState) {
        self.state.store(state as u8, Ordering::Release);
    }
}
