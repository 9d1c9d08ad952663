//! What the rest of the process sees of a relay, and how it is told to leave.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use atomic_waker::AtomicWaker;

use crate::protocol::{Class, Direction, Surprise, Unfinished};

/// The part of the order's word that is the order; above it the orders are counted.
const ORDER: u32 = 0b111;

/// What a relay is asked to do. Each order goes further than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Order {
    /// Go on.
    Serve = 0,
    /// Go on, but a drain is under way: find dead peers sooner, and retire at a safe point. Clients
    /// may still come: one that has asked nothing yet is left alone.
    Drain = 1,
    /// No client comes any more: one that has asked nothing is idle as well.
    Retire = 2,
    /// Ask the client to leave: FIN to it behind what is in flight, its own bytes still pass.
    Leave = 3,
    /// FIN to both; what still comes is thrown away.
    Close = 4,
    /// Reset both now.
    Reset = 5,
}

/// Value of the order word when the waker was last registered.
#[derive(Debug)]
pub(super) struct Heard(u32);

impl Default for Heard {
    /// None: no order's word is this.
    fn default() -> Self {
        Heard(u32::MAX)
    }
}

impl Order {
    fn from_word(word: u32) -> Self {
        match word & ORDER {
            0 => Order::Serve,
            1 => Order::Drain,
            2 => Order::Retire,
            3 => Order::Leave,
            4 => Order::Close,
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
    /// What it carried when a drain first made it leave, in such a word too; 0 if none has.
    forced: AtomicU64,
    is_health_check: bool,
    /// What the client has begun and is waited for to finish, if that is bounded.
    unfinished: AtomicU8,
    /// Whether the upstream's last byte and a FIN behind it were given to the client's kernel.
    has_delivered: AtomicBool,
    /// The order, and above it how many there were: a relay sees that it was woken even when an
    /// order was taken back meanwhile.
    order: AtomicU32,
    waker: AtomicWaker,
    from_client: AtomicU64,
    from_upstream: AtomicU64,
}

impl Control {
    /// A relay that has not begun. One that begins as a health check stays one.
    #[must_use]
    pub fn new(class: Class) -> Self {
        let control = Control {
            class: AtomicU64::new(0),
            surprise: OnceLock::new(),
            forced: AtomicU64::new(0),
            is_health_check: class == Class::HealthCheck,
            unfinished: AtomicU8::new(0),
            has_delivered: AtomicBool::new(false),
            order: AtomicU32::new(Order::Serve as u32),
            waker: AtomicWaker::new(),
            from_client: AtomicU64::new(0),
            from_upstream: AtomicU64::new(0),
        };
        control.set_class(class);
        control
    }

    /// What the connection is being used for.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class_of(self.class.load(Ordering::Acquire))
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a word's lower half fits into half a word"
    )]
    fn class_of(&self, word: u64) -> Class {
        match word >> 32 {
            1 => Class::Http,
            2 => Class::Idle,
            3 => Class::HealthCheck,
            4 => Class::WebSocket,
            5 => Class::Upgraded,
            6 => Class::Http2 { open_streams: (word & u64::from(u32::MAX)) as u32 },
            7 => Class::Tcp,
            9 => Class::Silent,
            10 => Class::SilentClient,
            _ => Class::Opaque(*self.surprise.get().unwrap_or(&Surprise::UnknownProtocol)),
        }
    }

    /// What the connection is being used for from now on.
    pub fn set_class(&self, class: Class) {
        let (kind, open_streams) = match class {
            Class::Http => (1, 0),
            Class::Idle => (2, 0),
            Class::HealthCheck => (3, 0),
            Class::WebSocket => (4, 0),
            Class::Upgraded => (5, 0),
            Class::Http2 { open_streams } => (6, open_streams),
            Class::Tcp => (7, 0),
            Class::Silent => (9, 0),
            Class::SilentClient => (10, 0),
            Class::Opaque(surprise) => {
                // Before the word that sends others here; the first one stays.
                let _ = self.surprise.set(surprise);
                (8, 0)
            }
        };
        self.class.store(kind << 32 | u64::from(open_streams), Ordering::Release);
    }

    /// Whether it comes from a network that only checks our health, whatever it carries.
    #[must_use]
    pub fn is_health_check(&self) -> bool {
        self.is_health_check
    }

    /// What the client has begun and is waited for to finish, if that wait is bounded.
    #[must_use]
    pub fn unfinished(&self) -> Option<Unfinished> {
        match self.unfinished.load(Ordering::Relaxed) {
            1 => Some(Unfinished::Head),
            2 => Some(Unfinished::Body),
            3 => Some(Unfinished::Filler),
            _ => None,
        }
    }

    pub(super) fn set_unfinished(&self, unfinished: Option<Unfinished>) {
        let number = match unfinished {
            None => 0,
            Some(Unfinished::Head) => 1,
            Some(Unfinished::Body) => 2,
            Some(Unfinished::Filler) => 3,
        };
        self.unfinished.store(number, Ordering::Relaxed);
    }

    /// Remembers what it carries as what a drain makes leave. Returns whether that was the first time.
    pub fn force(&self) -> bool {
        let class = self.class.load(Ordering::Acquire);
        self.forced.compare_exchange(0, class, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// What it carried when a drain first made it leave, if one did. What it became on its way out
    /// says nothing about what was lost.
    #[must_use]
    pub fn forced_class(&self) -> Option<Class> {
        let word = self.forced.load(Ordering::Acquire);
        (word > 0).then(|| self.class_of(word))
    }

    /// Gives an order. A relay that is leaving can't be called back: orders from [`Order::Leave`]
    /// on only go further, those before may be taken back by an undrain.
    pub fn order(&self, order: Order) {
        let raised = self.order.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            let current = Order::from_word(word);
            let is_left = current >= Order::Leave && order < current;
            let count = (word & !ORDER).wrapping_add(ORDER + 1);
            (order != current && !is_left).then_some(count | order as u32)
        });
        if raised.is_ok() {
            self.waker.wake();
        }
    }

    /// The order in force.
    #[must_use]
    pub fn current(&self) -> Order {
        Order::from_word(self.order.load(Ordering::Acquire))
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

    /// Whether the client's kernel has all that the upstream had to say, and the end of it.
    #[must_use]
    pub fn has_delivered(&self) -> bool {
        self.has_delivered.load(Ordering::Acquire)
    }

    /// The upstream's end was passed on; only the relay itself says so.
    pub(super) fn delivered(&self) {
        self.has_delivered.store(true, Ordering::Release);
    }

    /// Counts bytes; only the relay itself does. Returns whether they were the first.
    pub(super) fn count(&self, direction: Direction, bytes: usize) -> bool {
        let counter = self.counter(direction);
        let before = counter.load(Ordering::Relaxed);
        // One writer, so a load and a store do; a locked add would cost more than the bookkeeping.
        counter.store(before + bytes as u64, Ordering::Relaxed);
        before == 0
    }

    /// Has the relay's task woken when an order is given. `heard` is the relay's: it saves the
    /// registration, which takes locked steps, until the waker has been used.
    pub(super) fn listen(&self, waker: &Waker, heard: &mut Heard) {
        let word = self.order.load(Ordering::Acquire);
        if word != heard.0 {
            // The word from before, so that an order that comes meanwhile is not taken for heard.
            heard.0 = word;
            self.waker.register(waker);
        }
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
            Class::Silent,
            Class::SilentClient,
            last,
        ] {
            control.set_class(class);
            assert_eq!(control.class(), class);
        }
        assert_eq!(Control::new(last).class(), last);
    }

    #[test]
    fn what_a_drain_made_leave_is_told_as_it_was_then() {
        for class in [Class::Http, Class::Tcp, Class::Opaque(Surprise::Tls)] {
            let control = Control::new(class);
            assert_eq!(control.forced_class(), None);
            assert!(control.force());
            control.set_class(Class::Http2 { open_streams: 7 });
            assert!(!control.force(), "it is counted once");
            assert_eq!(control.forced_class(), Some(class));
        }
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
