//! What the rest of the process sees of a relay, and how it is told to leave.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use atomic_waker::AtomicWaker;

use crate::protocol::{Class, Direction, Surprise};

/// What a relay is asked to do. Each order goes further than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Order {
    /// Go on.
    Serve = 0,
    /// Go on, but a drain is under way: find dead peers sooner.
    Drain = 1,
    /// Ask the client to leave: FIN to it behind what is in flight, its own bytes still pass.
    Leave = 2,
    /// FIN to both; what still comes is thrown away.
    Close = 3,
    /// Reset both now.
    Reset = 4,
}

impl Order {
    fn from_u8(order: u8) -> Self {
        match order {
            0 => Order::Serve,
            1 => Order::Drain,
            2 => Order::Leave,
            3 => Order::Close,
            _ => Order::Reset,
        }
    }
}

/// The shared face of one relay: what it carries, its byte counts, and the order it is under.
#[derive(Debug)]
pub struct Control {
    /// What it carries, in one word: it changes twice in each exchange.
    class: AtomicU64,
    /// What surprised, said once: a connection that is opaque stays so.
    surprise: OnceLock<Surprise>,
    order: AtomicU8,
    waker: AtomicWaker,
    from_client: AtomicU64,
    from_upstream: AtomicU64,
}

impl Control {
    /// A relay that has not begun.
    #[must_use]
    pub fn new(class: Class) -> Self {
        let control = Control {
            class: AtomicU64::new(0),
            surprise: OnceLock::new(),
            order: AtomicU8::new(Order::Serve as u8),
            waker: AtomicWaker::new(),
            from_client: AtomicU64::new(0),
            from_upstream: AtomicU64::new(0),
        };
        control.set_class(class);
        control
    }

    /// What the connection is being used for.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a word's lower half fits into half a word"
    )]
    pub fn class(&self) -> Class {
        let word = self.class.load(Ordering::Acquire);
        match word >> 32 {
            0 => Class::Http,
            1 => Class::Idle,
            2 => Class::HealthCheck,
            3 => Class::WebSocket,
            4 => Class::Upgraded,
            5 => Class::Http2 { open_streams: (word & u64::from(u32::MAX)) as u32 },
            6 => Class::Tcp,
            _ => Class::Opaque(*self.surprise.get().unwrap_or(&Surprise::UnknownProtocol)),
        }
    }

    /// What the connection is being used for from now on.
    pub fn set_class(&self, class: Class) {
        let (kind, open_streams) = match class {
            Class::Http => (0, 0),
            Class::Idle => (1, 0),
            Class::HealthCheck => (2, 0),
            Class::WebSocket => (3, 0),
            Class::Upgraded => (4, 0),
            Class::Http2 { open_streams } => (5, open_streams),
            Class::Tcp => (6, 0),
            Class::Opaque(surprise) => {
                // Before the word that sends others here; the first one stays.
                let _ = self.surprise.set(surprise);
                (7, 0)
            }
        };
        self.class.store(kind << 32 | u64::from(open_streams), Ordering::Release);
    }

    /// Gives an order. A relay that is leaving can't be called back: orders from [`Order::Leave`]
    /// on only go further, those before may be taken back by an undrain.
    pub fn order(&self, order: Order) {
        let raised = self.order.fetch_update(Ordering::AcqRel, Ordering::Acquire, |current| {
            let leaving = current >= Order::Leave as u8;
            (order as u8 != current && !(leaving && (order as u8) < current)).then_some(order as u8)
        });
        if raised.is_ok() {
            self.waker.wake();
        }
    }

    /// The order in force.
    #[must_use]
    pub fn current(&self) -> Order {
        Order::from_u8(self.order.load(Ordering::Acquire))
    }

    /// Resolves when an order at least as strong is given. One waiter at a time: not while a
    /// relay is polled.
    pub async fn ordered(&self, order: Order) {
        std::future::poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.current() >= order { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Ready while any order but [`Order::Serve`] is in force. One waiter at a time, as above.
    pub fn poll_called(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.current() == Order::Serve { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Bytes moved in a direction so far.
    #[must_use]
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.counter(direction).load(Ordering::Relaxed)
    }

    /// Counts bytes; only the relay itself does. Returns whether they were the first.
    pub(super) fn count(&self, direction: Direction, bytes: usize) -> bool {
        let counter = self.counter(direction);
        let before = counter.load(Ordering::Relaxed);
        // One writer, so a load and a store do; a locked add would cost more than the bookkeeping.
        counter.store(before + bytes as u64, Ordering::Relaxed);
        before == 0
    }

    /// The task to wake when an order is given.
    pub(super) fn listen(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    fn counter(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::FromClient => &self.from_client,
            Direction::FromUpstream => &self.from_upstream,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_told_as_it_was_said() {
        let control = Control::new(Class::Tcp);
        let last = Class::Opaque(Surprise::Tls);
        for class in [
            Class::Http,
            Class::Idle,
            Class::HealthCheck,
            Class::WebSocket,
            Class::Upgraded,
            Class::Http2 { open_streams: 0 },
            Class::Http2 { open_streams: u32::MAX },
            Class::Tcp,
            last,
        ] {
            control.set_class(class);
            assert_eq!(control.class(), class);
        }
        assert_eq!(Control::new(last).class(), last);
    }

    #[test]
    fn a_relay_that_is_leaving_can_not_be_called_back() {
        let control = Control::new(Class::Tcp);
        control.order(Order::Drain);
        control.order(Order::Serve);
        assert_eq!(control.current(), Order::Serve);
        control.order(Order::Close);
        for order in [Order::Serve, Order::Drain, Order::Leave] {
            control.order(order);
            assert_eq!(control.current(), Order::Close);
        }
        control.order(Order::Reset);
        assert_eq!(control.current(), Order::Reset);
    }
}
