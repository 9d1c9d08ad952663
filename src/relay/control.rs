//! What the rest of the process sees of a relay, and how it is told to leave.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Poll, Waker};

use atomic_waker::AtomicWaker;

use crate::protocol::{Class, Direction};

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
    /// Locked when it changes and when somebody looks, both of which are rare beside bytes moving.
    class: Mutex<Class>,
    order: AtomicU8,
    waker: AtomicWaker,
    from_client: AtomicU64,
    from_upstream: AtomicU64,
}

impl Control {
    /// A relay that has not begun.
    #[must_use]
    pub fn new(class: Class) -> Self {
        Control {
            class: Mutex::new(class),
            order: AtomicU8::new(Order::Serve as u8),
            waker: AtomicWaker::new(),
            from_client: AtomicU64::new(0),
            from_upstream: AtomicU64::new(0),
        }
    }

    /// What the connection is being used for.
    #[must_use]
    pub fn class(&self) -> Class {
        *self.class.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the connection is being used for from now on.
    pub fn set_class(&self, class: Class) {
        *self.class.lock().unwrap_or_else(PoisonError::into_inner) = class;
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
