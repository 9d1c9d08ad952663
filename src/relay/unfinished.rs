//! A client that does not go on with what it has begun: how long that is waited for.
//!
//! Only what the application can do nothing about is bounded, so a slow application never is. See
//! `docs/decisions/unfinished.md`.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::protocol::Unfinished;

/// How long a client may take for what it has begun; zero is without a bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientTimeouts {
    /// For a head, while no drain is under way.
    pub head: Duration,
    /// For a head, in a drain.
    pub drain_head: Duration,
    /// Between two bytes of a request's body, in a drain.
    pub drain_request: Duration,
}

/// Which of them apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Serving,
    Draining,
}

impl ClientTimeouts {
    /// Whether nothing is bounded.
    pub(super) fn are_off(&self, when: When) -> bool {
        self.of(Unfinished::Head, when).is_zero() && self.of(Unfinished::Body, when).is_zero()
    }

    /// The one that bounds this; zero where nothing does.
    pub(super) fn of(&self, unfinished: Unfinished, when: When) -> Duration {
        match (unfinished, when) {
            (Unfinished::Head, When::Draining) if !self.drain_head.is_zero() => self.drain_head,
            (Unfinished::Head, _) => self.head,
            (Unfinished::Body | Unfinished::Filler, When::Draining) => self.drain_request,
            (Unfinished::Body | Unfinished::Filler, When::Serving) => Duration::ZERO,
        }
    }
}

/// The wait for one client.
#[derive(Debug, Default)]
pub(super) struct Wait(Option<Waiting>);

#[derive(Debug)]
struct Waiting {
    unfinished: Unfinished,
    timeout: Duration,
    /// When the client began, or last went on.
    since: Instant,
    client_bytes: u64,
    timer: Pin<Box<Sleep>>,
}

impl Wait {
    /// What is being waited for.
    pub(super) fn unfinished(&self) -> Option<Unfinished> {
        self.0.as_ref().map(|waiting| waiting.unfinished)
    }

    /// Looks at what the client has not finished and how long it may take, after so many bytes of it,
    /// and at the clock. `true` when the client had long enough.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        bounded: Option<(Unfinished, Duration)>,
        client_bytes: u64,
    ) -> bool {
        let before = self.0.as_ref().map(|waiting| (waiting.unfinished, waiting.timeout));
        if before != bounded {
            self.0 = bounded
                .map(|(unfinished, timeout)| Waiting::new(unfinished, timeout, client_bytes));
        }
        self.0.as_mut().is_some_and(|waiting| waiting.poll(cx, client_bytes))
    }
}

impl Waiting {
    fn new(unfinished: Unfinished, timeout: Duration, client_bytes: u64) -> Self {
        let since = Instant::now();
        let timer = Box::pin(tokio::time::sleep_until(since + timeout));
        Waiting { unfinished, timeout, since, client_bytes, timer }
    }

    fn poll(&mut self, cx: &mut Context<'_>, client_bytes: u64) -> bool {
        if self.unfinished.goes_on_with_bytes() && client_bytes != self.client_bytes {
            self.client_bytes = client_bytes;
            self.since = Instant::now();
        }
        // The timer is not moved with every byte: when it fires it is set to what is left.
        while self.timer.as_mut().poll(cx).is_ready() {
            let end = self.since + self.timeout;
            if end <= Instant::now() {
                return true;
            }
            self.timer.as_mut().reset(end);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use Unfinished::{Body, Filler, Head};
    use When::{Draining, Serving};

    const SECOND: Duration = Duration::from_secs(1);
    const TIMEOUTS: ClientTimeouts = ClientTimeouts {
        head: Duration::ZERO,
        drain_head: Duration::from_secs(10),
        drain_request: Duration::from_secs(30),
    };

    /// Plays what is unfinished and how many bytes have come, second by second from 0; the second at
    /// which the client is given up.
    async fn given_up(
        timeouts: ClientTimeouts,
        seconds: u64,
        at: impl Fn(u64) -> (Option<Unfinished>, When, u64),
    ) -> Option<u64> {
        let mut wait = Wait::default();
        for second in 0..seconds {
            let (unfinished, when, bytes) = at(second);
            let mut cx = Context::from_waker(Waker::noop());
            let timeout = |unfinished| Some(timeouts.of(unfinished, when));
            let bounded = unfinished.and_then(|unfinished| {
                timeout(unfinished).filter(|timeout| !timeout.is_zero()).map(|t| (unfinished, t))
            });
            if wait.poll(&mut cx, bounded, bytes) {
                return Some(second);
            }
            tokio::time::advance(SECOND).await;
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_bounded_as_a_whole_and_a_body_from_its_last_byte() {
        let head = given_up(TIMEOUTS, 100, |second| (Some(Head), Draining, second)).await;
        assert_eq!(head, Some(10));
        let filler = given_up(TIMEOUTS, 100, |second| (Some(Filler), Draining, second)).await;
        assert_eq!(filler, Some(30));
        let body = given_up(TIMEOUTS, 100, |second| (Some(Body), Draining, second / 20)).await;
        assert_eq!(body, None);
        let body = given_up(TIMEOUTS, 100, |second| (Some(Body), Draining, second.min(7))).await;
        assert_eq!(body, Some(37));
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_begins_with_the_drain_and_anew_with_each_thing_begun() {
        let late = |second| (Some(Head), if second < 50 { Serving } else { Draining }, 0);
        assert_eq!(given_up(TIMEOUTS, 100, late).await, Some(60));
        let heads = |second| ((second % 9 != 0).then_some(Head), Draining, 0);
        assert_eq!(given_up(TIMEOUTS, 100, heads).await, None);
        let undrained = |second| (Some(Head), if second % 9 == 0 { Serving } else { Draining }, 0);
        assert_eq!(given_up(TIMEOUTS, 100, undrained).await, None);
        let from_head = |second| (Some(if second < 5 { Head } else { Body }), Draining, 0);
        assert_eq!(given_up(TIMEOUTS, 100, from_head).await, Some(35));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_bounded_that_is_not_asked_for() {
        for unfinished in [None, Some(Head), Some(Body), Some(Filler)] {
            assert_eq!(given_up(TIMEOUTS, 100, |_| (unfinished, Serving, 0)).await, None);
            let off = ClientTimeouts::default();
            assert_eq!(given_up(off, 100, |_| (unfinished, Draining, 0)).await, None);
        }
        assert_eq!(given_up(TIMEOUTS, 100, |_| (None, Draining, 0)).await, None);
        let head_alone = ClientTimeouts { head: 3 * SECOND, ..ClientTimeouts::default() };
        assert_eq!(given_up(head_alone, 100, |_| (Some(Head), Serving, 0)).await, Some(3));
        assert_eq!(given_up(head_alone, 100, |_| (Some(Head), Draining, 0)).await, Some(3));
        assert!(!head_alone.are_off(Draining) && TIMEOUTS.are_off(Serving));
    }
}
