//! Seeing a tracked connection off: what is waited for, and for how long.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::unfinished::{ClientTimeouts, Wait, When};
use crate::protocol::{Class, Tracker, Unfinished};

/// How long a client may take to see that we are gone before its socket is closed.
///
/// # Source
/// RFC 9112 §9.6: closing at once can erase the last response in the client's buffer.
pub(super) const STAGED_CLOSE_PERIOD: Duration = Duration::from_secs(2);

/// How long the answers to a WebSocket's Close are awaited.
///
/// # Source
/// docs/defaults.md.
const CLOSE_HANDSHAKE_PERIOD: Duration = Duration::from_secs(5);

/// How long the client's answer to the PING behind the first GOAWAY is awaited.
///
/// # Source
/// grpc-go waits as long (docs/defaults.md).
const PING_PERIOD: Duration = Duration::from_secs(5);

/// How long the first request of an HTTP/2 client that came in a drain is awaited.
///
/// Clients connect when they have something to ask; one that has not asked by then came in
/// advance. As long as an idle connection is left alone by default.
const FIRST_REQUEST_PERIOD: Duration = Duration::from_secs(2);

/// What becomes of a connection that is between two exchanges when a drain begins, or in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleClose {
    /// Closed at once.
    Immediate,
    /// Closed after about this long, half more or less, if it is still idle.
    After(Duration),
    /// Told with its next response, however long that takes.
    OnResponse,
}

impl IdleClose {
    /// How long this one connection is left alone.
    fn delay(self) -> Option<Duration> {
        match self {
            IdleClose::Immediate => Some(Duration::ZERO),
            IdleClose::After(delay) => Some(delay.mul_f64(0.5 + fastrand::f64())),
            IdleClose::OnResponse => None,
        }
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// The next exchange; with none, the connection is closed.
    Idle,
    /// The first request of an HTTP/2 client.
    Request,
    /// The answer to our PING.
    Ping,
    /// The closing handshake of a WebSocket.
    CloseHandshake,
    /// The client's FIN.
    StagedClose,
}

/// What the relay is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Go on.
    Nothing,
    /// FIN to both sides behind what is in flight.
    Close,
    /// The tracker has something to say now.
    Speak,
    /// It has taken long enough: end.
    End,
}

/// The farewell of one connection.
#[derive(Debug, Default)]
pub(super) struct Farewell {
    /// In a box: most connections never see a drain, and each would carry the room.
    waits: Option<Box<Waits>>,
}

/// What is waited for, each with its timer.
#[derive(Debug, Default)]
struct Waits {
    awaited: Option<(Awaited, Pin<Box<Sleep>>)>,
    unfinished: Wait,
    given_up: Option<Unfinished>,
}

impl Farewell {
    /// Looks at where the tracker is, and at the clock.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        tracker: &mut Tracker,
        idle_close: IdleClose,
    ) -> Advice {
        let awaited = self.awaited();
        if awaited == Some(Awaited::StagedClose) {
            return if self.is_over(cx) { Advice::End } else { Advice::Nothing };
        }
        if tracker.farewell_done() || tracker.leave_done() {
            return self.close(cx);
        }
        let wanted = wanted(tracker);
        if awaited != wanted {
            self.await_nothing();
            let period = match wanted {
                Some(Awaited::Request) => Some(FIRST_REQUEST_PERIOD),
                Some(Awaited::Ping) => Some(PING_PERIOD),
                Some(Awaited::CloseHandshake) => Some(CLOSE_HANDSHAKE_PERIOD),
                Some(Awaited::Idle) => idle_close.delay(),
                _ => None,
            };
            if let (Some(awaited), Some(period)) = (wanted, period) {
                self.wait_for(awaited, period);
            }
        }
        if !self.is_over(cx) {
            return Advice::Nothing;
        }
        if matches!(wanted, Some(Awaited::Request | Awaited::Ping)) {
            tracker.overdue();
            self.await_nothing();
            return Advice::Speak;
        }
        self.close(cx)
    }

    /// Looks at what the client has not finished, after so many bytes of it, and closes when it had long
    /// enough.
    pub(super) fn poll_unfinished(
        &mut self,
        cx: &mut Context<'_>,
        unfinished: Option<Unfinished>,
        (timeouts, when): (&ClientTimeouts, When),
        client_bytes: u64,
    ) -> Advice {
        let timeout = unfinished.map_or(Duration::ZERO, |unfinished| timeouts.of(unfinished, when));
        let bounded = unfinished.filter(|_| !timeout.is_zero());
        if bounded.is_none() && self.waits.is_none() || self.given_up().is_some() {
            return Advice::Nothing;
        }
        let waits = self.waits.get_or_insert_default();
        let bounded = bounded.map(|unfinished| (unfinished, timeout));
        if !waits.unfinished.poll(cx, bounded, client_bytes) {
            return Advice::Nothing;
        }
        waits.given_up = unfinished;
        self.close(cx)
    }

    /// What the client is waited for to finish, where that is bounded.
    pub(super) fn unfinished(&self) -> Option<Unfinished> {
        self.waits.as_ref()?.unfinished.unfinished()
    }

    /// What the client did not finish, if it was given up for that.
    pub(super) fn given_up(&self) -> Option<Unfinished> {
        self.waits.as_ref()?.given_up
    }

    /// Waits no more for what a client has not finished: a drain was undone.
    pub(super) fn undone(&mut self) {
        if let Some(waits) = &mut self.waits {
            waits.unfinished = Wait::default();
        }
    }

    fn awaited(&self) -> Option<Awaited> {
        Some(self.waits.as_ref()?.awaited.as_ref()?.0)
    }

    fn await_nothing(&mut self) {
        if let Some(waits) = &mut self.waits {
            waits.awaited = None;
        }
    }

    fn close(&mut self, cx: &mut Context<'_>) -> Advice {
        self.wait_for(Awaited::StagedClose, STAGED_CLOSE_PERIOD);
        // Registers the timer; it can't be over yet.
        self.is_over(cx);
        Advice::Close
    }

    fn wait_for(&mut self, awaited: Awaited, period: Duration) {
        let timer = Box::pin(tokio::time::sleep_until(Instant::now() + period));
        self.waits.get_or_insert_default().awaited = Some((awaited, timer));
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let awaited = self.waits.as_mut().and_then(|waits| waits.awaited.as_mut());
        awaited.is_some_and(|awaited| awaited.1.as_mut().poll(cx).is_ready())
    }
}

/// What a drain waits for on this connection, if it bounds the wait.
fn wanted(tracker: &Tracker) -> Option<Awaited> {
    if tracker.awaits_request() {
        return Some(Awaited::Request);
    }
    if tracker.awaits_ping() {
        return Some(Awaited::Ping);
    }
    if tracker.leave_said() {
        return Some(Awaited::CloseHandshake);
    }
    let is_idle = matches!(tracker.class(), Class::Idle | Class::HealthCheck | Class::SilentClient);
    (is_idle && tracker.is_safe_point()).then_some(Awaited::Idle)
}
