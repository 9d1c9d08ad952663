//! The future of one connection's data.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::control::{Control, Order};
use super::flow::{Failure, Flow, Progress};
use crate::net::{Socket, options};
use crate::protocol::Direction;

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// Both sides have ended and everything was passed on.
    Finished,
    /// The client's connection broke; the application's was reset.
    ClientBroke(io::Error),
    /// The application's connection broke; the client's was reset.
    UpstreamBroke(io::Error),
    /// One side had ended and the other sent nothing for too long.
    HalfClosedTimeout,
    /// Neither side sent anything for too long.
    IdleTimeout,
    /// It was told to end at once.
    Reset,
}

/// After how much silence a connection is ended; zero is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleTimeouts {
    /// When one side has ended.
    pub half_closed: Duration,
    /// When both are open.
    pub open: Duration,
}

/// Moves one connection's bytes until it ends.
pub struct Relay<'a> {
    client: &'a Socket,
    upstream: &'a Socket,
    control: &'a Control,
    /// Called at the client's first byte: only then is a connection more than a probe.
    on_first_byte: &'a (dyn Fn() + Send + Sync),
    to_upstream: Flow,
    to_client: Flow,
    obeyed: Order,
    timeouts: IdleTimeouts,
    /// Only while a time-out applies; most connections never have one.
    timer: Option<Pin<Box<Sleep>>>,
    last_progress: Instant,
}

impl<'a> Relay<'a> {
    /// A relay between two connected sockets.
    #[must_use]
    pub fn new(
        client: &'a Socket,
        upstream: &'a Socket,
        control: &'a Control,
        timeouts: IdleTimeouts,
        on_first_byte: &'a (dyn Fn() + Send + Sync),
    ) -> Self {
        Relay {
            client,
            upstream,
            control,
            on_first_byte,
            to_upstream: Flow::new(),
            to_client: Flow::new(),
            obeyed: Order::Serve,
            timeouts,
            timer: None,
            last_progress: Instant::now(),
        }
    }

    /// Does what is asked since the last look. `true` when the connection is to end at once.
    fn obey(&mut self) -> bool {
        let order = self.control.current();
        if order == self.obeyed {
            return false;
        }
        let keep_alive = match order {
            Order::Serve => options::SERVING,
            _ => options::DRAINING,
        };
        // A connection that broke meanwhile tells so by itself at the next read.
        let _ = options::set_keep_alive(&self.client.options(), keep_alive);
        if order >= Order::Leave {
            self.to_client.close();
        }
        if order >= Order::Close {
            self.to_upstream.close();
        }
        self.obeyed = order;
        order >= Order::Reset
    }

    /// Moves bytes one way. `Ok(true)` when anything was moved.
    fn poll_direction(
        &mut self,
        cx: &mut Context<'_>,
        direction: Direction,
    ) -> Result<bool, Failure> {
        let (flow, source, sink) = match direction {
            Direction::FromClient => (&mut self.to_upstream, self.client, self.upstream),
            Direction::FromUpstream => (&mut self.to_client, self.upstream, self.client),
        };
        let moved = match flow.poll(cx, source, sink)? {
            Progress::Waiting(moved) | Progress::Ended(moved) => moved,
            Progress::TurnOver(moved) => {
                cx.waker().wake_by_ref();
                moved
            }
        };
        if moved == 0 {
            return Ok(false);
        }
        if self.control.count(direction, moved) && direction == Direction::FromClient {
            (self.on_first_byte)();
        }
        Ok(true)
    }

    /// Resets the side that has not broken, and says which one did.
    fn broke(&self, direction: Direction, failure: Failure) -> End {
        self.client.reset_on_close();
        self.upstream.reset_on_close();
        match (direction, failure) {
            (Direction::FromClient, Failure::Reading(error))
            | (Direction::FromUpstream, Failure::Writing(error)) => End::ClientBroke(error),
            (Direction::FromUpstream, Failure::Reading(error))
            | (Direction::FromClient, Failure::Writing(error)) => End::UpstreamBroke(error),
        }
    }

    /// The silence that ends the connection as it stands now, and how that end is called.
    fn timeout(&self) -> Option<(Duration, End)> {
        let half_closed = self.to_upstream.has_ended() || self.to_client.has_ended();
        let (timeout, end) = if half_closed {
            (self.timeouts.half_closed, End::HalfClosedTimeout)
        } else {
            (self.timeouts.open, End::IdleTimeout)
        };
        (!timeout.is_zero()).then_some((timeout, end))
    }

    /// Ends a connection that has been silent for too long.
    fn poll_timeout(&mut self, cx: &mut Context<'_>, progressed: bool) -> Poll<End> {
        let Some((timeout, end)) = self.timeout() else { return Poll::Pending };
        if progressed || self.timer.is_none() {
            self.last_progress = Instant::now();
        }
        // The timer is not moved with every byte: when it fires it is set to what is left.
        let timer = self.timer.get_or_insert_with(|| {
            Box::pin(tokio::time::sleep_until(self.last_progress + timeout))
        });
        while timer.as_mut().poll(cx).is_ready() {
            let due = self.last_progress + timeout;
            if due <= Instant::now() {
                self.client.reset_on_close();
                self.upstream.reset_on_close();
                return Poll::Ready(end);
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}

impl Future for Relay<'_> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let relay = self.get_mut();
        relay.control.listen(cx.waker());
        if relay.obey() {
            relay.client.reset_on_close();
            relay.upstream.reset_on_close();
            return Poll::Ready(End::Reset);
        }
        let mut progressed = false;
        for direction in [Direction::FromClient, Direction::FromUpstream] {
            match relay.poll_direction(cx, direction) {
                Ok(moved) => progressed |= moved,
                Err(failure) => return Poll::Ready(relay.broke(direction, failure)),
            }
        }
        if relay.to_upstream.has_ended() && relay.to_client.has_ended() {
            return Poll::Ready(End::Finished);
        }
        relay.poll_timeout(cx, progressed)
    }
}
