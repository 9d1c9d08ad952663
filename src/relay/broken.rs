//! A relay of which one side has broken: the other side still gets what has arrived.
//!
//! An application may answer early and close with a part of the request unread: its kernel then resets the
//! connection, and our next write fails. What it sent before can still be read (Linux keeps the data that it
//! received before a reset). So the relay reads it, passes it on with a FIN, and resets only when the client
//! has acknowledged all of it and had time to end by itself. A receiver that is owed nothing is reset at once. Meanwhile it reads and discards what the client
//! still sends: closing a socket with unread bytes would send a reset, which can destroy the answer.
//!
//! # Source
//! RFC 9112 §9.5 and §9.6; Linux `tcp_reset`, `tcp_recvmsg_locked`, `tcp_close`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use super::acknowledgement::Acknowledgement;
use super::farewell::STAGED_CLOSE_PERIOD;
use super::flow::{Failure, Flow};
use super::pair::{End, Observer, Relay};
use crate::net::{Socket, options};
use crate::protocol::Direction;

/// How long a receiver may take to read what it has before it is reset too. A client that is still sending
/// notices a reset before it looks for the answer.
const ABORT_PERIOD: Duration = Duration::from_millis(100);

/// One side has broken.
#[derive(Debug)]
pub(super) struct Broken {
    /// The direction from the broken side, whose bytes can still be delivered.
    from: Direction,
    /// Reading from the broken side has failed too: the receiver gets a reset instead of a FIN.
    is_aborted: bool,
    /// The receiver had not acknowledged everything when the side broke, or got more after that.
    is_owed: bool,
    has_fin: bool,
    /// How the connection ends.
    end: Option<End>,
    delivery: Acknowledgement,
    /// How long the broken side may take to say more; after everything is delivered, how long the receiver may
    /// take to end.
    linger: Option<Pin<Box<Sleep>>>,
}

impl Broken {
    fn linger(&mut self, period: Duration) -> Pin<&mut Sleep> {
        self.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(period))).as_mut()
    }
}

impl<O: Observer> Relay<'_, O> {
    /// A side has broken. Says how the connection ends; before that, [`Relay::poll_broken`].
    pub(super) fn broke(&mut self, direction: Direction, failure: Failure) -> End {
        let (from, is_aborted) = match failure {
            // All that could be read was read before.
            Failure::Reading(_) => (direction, true),
            // What the receiver has sent can still be read.
            Failure::Writing(_) => (direction.opposite(), false),
        };
        self.flow(from.opposite()).discard();
        self.flow(from).withhold_end();
        let broken = Broken {
            from,
            is_aborted: false,
            is_owed: self.receiver(from).is_some_and(|receiver| {
                options::unacknowledged_bytes(receiver).unwrap_or_default() > 0
            }),
            has_fin: false,
            end: None,
            delivery: Acknowledgement::new(),
            linger: None,
        };
        self.rare.get_or_insert_default().broken = Some(broken);
        // On a shared upstream connection, bytes that came before this client's request was heard answer
        // somebody else's.
        if is_aborted || (from == Direction::FromUpstream && self.is_unheard()) {
            self.abort(from);
        }
        match (direction, failure) {
            (Direction::FromClient, Failure::Reading(error))
            | (Direction::FromUpstream, Failure::Writing(error)) => End::ClientBroke(error),
            (Direction::FromUpstream, Failure::Reading(error))
            | (Direction::FromClient, Failure::Writing(error)) => End::UpstreamBroke(error),
        }
    }

    /// Ends in this way; at once, if no side has broken.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>, end: End) -> Poll<End> {
        match self.rare.as_mut().and_then(|rare| rare.broken.as_mut()) {
            None => Poll::Ready(end),
            Some(broken) => {
                broken.end = Some(end);
                self.poll_broken(cx)
            }
        }
    }

    /// Delivers what has arrived. Ready when the sockets may be closed.
    pub(super) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let is_orderly = ready!(self.poll_delivery(cx)).is_ok();
        if !is_orderly {
            self.reset_on_close();
        }
        let end =
            self.rare.as_mut().and_then(|rare| rare.broken.take()).and_then(|broken| broken.end);
        Poll::Ready(end.unwrap_or(End::Finished))
    }

    /// `Err` when the receiver is to be reset.
    fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Undelivered>> {
        let Some(broken) = self.rare.as_ref().and_then(|rare| rare.broken.as_ref()) else {
            return Poll::Ready(Err(Undelivered));
        };
        let from = broken.from;
        match self.poll_direction(cx, from) {
            Ok(true) => self.has_moved(),
            Ok(false) => {}
            Err(Failure::Reading(_)) => self.abort(from),
            Err(Failure::Writing(_)) => return Poll::Ready(Err(Undelivered)),
        }
        if self.poll_direction(cx, from.opposite()).is_err() {
            return Poll::Ready(Err(Undelivered));
        }
        self.tell(cx);
        if !self.flow(from).has_ended() {
            // A side that takes nothing more and does not end either has nothing more to say.
            let is_pending = self.flow(from).is_pending();
            let broken = self.rare.as_mut().and_then(|rare| rare.broken.as_mut());
            let Some(broken) = broken.filter(|_| !is_pending) else {
                return Poll::Pending;
            };
            ready!(broken.linger(STAGED_CLOSE_PERIOD).poll(cx));
            broken.linger = None;
            self.abort(from);
        }
        self.poll_delivered(cx, from)
    }

    /// Everything is with the receiver's kernel.
    fn poll_delivered(
        &mut self,
        cx: &mut Context<'_>,
        from: Direction,
    ) -> Poll<Result<(), Undelivered>> {
        let has_receiver_ended = self.flow(from.opposite()).has_ended();
        let is_answered = from == Direction::FromUpstream && self.tracker.is_answered();
        let receiver = match from {
            Direction::FromClient => self.upstream.as_ref(),
            Direction::FromUpstream => Some(self.client),
        };
        let broken = self.rare.as_mut().and_then(|rare| rare.broken.as_mut());
        let (Some(broken), Some(receiver)) = (broken, receiver) else {
            return Poll::Ready(Err(Undelivered));
        };
        ready!(broken.delivery.poll(cx, receiver));
        if !broken.is_owed && !is_answered {
            return Poll::Ready(Err(Undelivered));
        }
        if broken.is_aborted {
            ready!(broken.linger(ABORT_PERIOD).poll(cx));
            return Poll::Ready(Err(Undelivered));
        }
        if !std::mem::replace(&mut broken.has_fin, true) {
            // A receiver that has failed meanwhile tells so at the next read.
            let _ = receiver.shutdown_write();
        }
        if has_receiver_ended {
            return Poll::Ready(Ok(()));
        }
        ready!(broken.linger(STAGED_CLOSE_PERIOD).poll(cx));
        Poll::Ready(Err(Undelivered))
    }

    /// The receiver got more.
    fn has_moved(&mut self) {
        if let Some(broken) = self.rare.as_mut().and_then(|rare| rare.broken.as_mut()) {
            broken.linger = None;
            broken.is_owed = true;
        }
    }

    fn receiver(&self, from: Direction) -> Option<&Socket> {
        match from {
            Direction::FromClient => self.upstream.as_ref(),
            Direction::FromUpstream => Some(self.client),
        }
    }

    /// Nothing more can be read from the broken side. An answer that is whole ends with a FIN all the same,
    /// whatever became of the request.
    fn abort(&mut self, from: Direction) {
        if from == Direction::FromUpstream && self.tracker.is_answered() {
            return self.flow(from).end_of_source();
        }
        self.flow(from).abort();
        if let Some(broken) = self.rare.as_mut().and_then(|rare| rare.broken.as_mut()) {
            broken.is_aborted = true;
        }
    }

    fn flow(&mut self, direction: Direction) -> &mut Flow {
        match direction {
            Direction::FromClient => &mut self.to_upstream,
            Direction::FromUpstream => &mut self.to_client,
        }
    }
}

/// The receiver did not end by itself.
#[derive(Debug)]
struct Undelivered;
