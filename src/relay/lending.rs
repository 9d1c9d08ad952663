//! Upstream connections that serve one client after the other: when one is wanted, when it may be
//! given away, and what becomes of a request that met one which the application was just closing.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::control::Order;
use super::flow::Failure;
use super::pair::{End, Observer, Relay};
use super::parking;
use crate::net::options::{TcpStanding, tcp_progress, unacknowledged_bytes};
use crate::net::{Socket, Upstream};
use crate::protocol::{Class, Direction, Surprise};

/// Sweeps without a byte after which an upstream connection is given away: the first may have come
/// right behind the last byte.
const REST_SWEEPS: u32 = 2;

/// How often it is looked whether the application's kernel has heard a request.
const DOUBT_INTERVAL: Duration = Duration::from_millis(1);

/// For how long: longer than a kernel waits before it sends again (200 ms) and before it acknowledges
/// (40 ms). Where the application is on this host, its answer is there at once.
const DOUBT_PERIOD: Duration = Duration::from_secs(1);

/// How long an upstream connection is silent at least before it serves another client, where it had a
/// response whose body a rule forbids: some applications send it all the same, and late.
///
/// # Source
/// Five periods of the kernel's scheduler, which keeps an application with a CPU limit from running
/// for up to 100 ms between two of its writes.
const RULED_OUT_REST: Duration = Duration::from_millis(500);

/// What a relay tells about the upstream connections that it lends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lent {
    /// One was kept for the next client.
    Parked,
    /// One that was kept was taken.
    Reused,
    /// The application was just closing one, had not heard the request, and is sent it again on a
    /// new one.
    Resent,
    /// The application was just closing one, and may have heard the request: the client was reset.
    Lost,
}

/// How a relay stands to the upstream connections that it lends.
#[derive(Debug)]
pub(super) struct Lending {
    upstream: Arc<Upstream>,
    /// How long an upstream connection is silent before it serves another client.
    rest: Duration,
    /// What the application's kernel had acknowledged when the connection was taken.
    acknowledged_bytes: u64,
    /// The sweep in which a byte was last moved.
    moved_at: u32,
    /// The sweep that was last asked for.
    listed_at: Option<u32>,
    /// A request is to be sent again, on a new connection.
    is_resending: bool,
    doubt: Option<Doubt>,
}

/// Whether the application's kernel has heard a request is not known yet.
#[derive(Debug)]
struct Doubt {
    /// How the connection ended.
    failure: io::ErrorKind,
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
}

/// What a relay does next.
#[derive(Debug)]
pub(super) enum Next {
    /// What every relay does.
    GoOn,
    /// There is an upstream connection to move bytes to.
    MoveBytes,
    Stop(End),
}

impl Lending {
    pub(super) fn new(upstream: Arc<Upstream>, rest: Duration) -> Self {
        Lending {
            upstream,
            rest,
            acknowledged_bytes: 0,
            moved_at: parking::sweeps(),
            listed_at: None,
            is_resending: false,
            doubt: None,
        }
    }
}

impl<O: Observer> Relay<'_, O> {
    /// Gives the relay the new upstream connection that it wants.
    pub fn attach(&mut self, upstream: Socket) {
        self.upstream = Some(upstream);
        if let Some(lending) = &mut self.lending {
            lending.is_resending = false;
        }
    }

    /// Takes an upstream connection where one is wanted, and gives it away where it is not.
    pub(super) fn lend(&mut self, cx: &mut Context<'_>, has_moved: bool) -> Next {
        let Some(lending) = &mut self.lending else { return Next::GoOn };
        if self.upstream.is_none() {
            return self.borrow();
        }
        if self.to_upstream.is_doubtful() && !self.to_client.is_doubtful() {
            self.to_upstream.trust();
        }
        let now = parking::sweeps();
        if has_moved {
            lending.moved_at = now;
            if matches!(self.tracker.class(), Class::Opaque(Surprise::UnaskedResponse)) {
                parking::distrust(&lending.upstream);
                // What understands nothing any more lends nothing either.
                self.lending = None;
                return Next::GoOn;
            }
        }
        if self.to_upstream.has_ended() {
            self.leave_upstream();
            return Next::GoOn;
        }
        let is_at_rest = self.is_at_rest();
        if !is_at_rest && !self.to_upstream.is_doubtful() {
            return Next::GoOn;
        }
        let Some(lending) = &mut self.lending else { return Next::GoOn };
        if now.wrapping_sub(lending.moved_at) >= REST_SWEEPS {
            if is_at_rest {
                self.park();
                return self.borrow();
            }
            // Once the request is acknowledged nothing proves any more that it was not heard.
            if let Some(upstream) = &self.upstream
                && unacknowledged_bytes(upstream).is_ok_and(|bytes| bytes == 0)
            {
                self.to_upstream.trust();
                return Next::GoOn;
            }
        }
        if lending.listed_at != Some(now) {
            lending.listed_at = Some(now);
            parking::wake_at_sweep(cx.waker().clone());
        }
        Next::GoOn
    }

    /// Without an upstream connection: what has been read wants one.
    fn borrow(&mut self) -> Next {
        let Some(lending) = &mut self.lending else { return Next::GoOn };
        if self.to_upstream.is_pending() {
            // A longer request could not be sent again.
            let may_take = self.obeyed == Order::Serve
                && !lending.is_resending
                && self.tracker.is_asked_whole();
            let Some(taken) = may_take.then(|| parking::take(&lending.upstream)).flatten() else {
                return Next::Stop(End::WantsUpstream);
            };
            lending.acknowledged_bytes = taken.acknowledged_bytes;
            self.upstream = Some(taken.socket);
            self.to_upstream.doubt();
            self.to_client.doubt();
            self.observer.lent(Lent::Reused);
            return Next::MoveBytes;
        }
        let may_rest = self.obeyed == Order::Serve && self.timeout().is_none();
        if may_rest && !self.to_upstream.has_ended() && self.is_at_rest() {
            return Next::Stop(End::AtRest);
        }
        Next::GoOn
    }

    /// Whether the upstream connection may serve another client, and the client has all that it is
    /// owed.
    fn is_at_rest(&self) -> bool {
        self.tracker.is_reusable() && !self.to_upstream.is_pending() && !self.to_client.is_pending()
    }

    /// The client has ended between two exchanges, and its end was not passed on.
    fn leave_upstream(&mut self) {
        let is_idle = matches!(self.tracker.class(), Class::Idle | Class::HealthCheck)
            && self.tracker.is_safe_point()
            && !self.to_client.is_pending();
        if self.is_at_rest() {
            self.park();
        } else if is_idle && self.obeyed != Order::Serve {
            // A drain came between the two.
            self.upstream = None;
        }
    }

    fn park(&mut self) {
        if let Some(lending) = &self.lending
            && let Some(upstream) = self.upstream.take()
        {
            let rest = if self.tracker.has_ruled_out_body() {
                lending.rest.max(RULED_OUT_REST)
            } else {
                lending.rest
            };
            if parking::park(&lending.upstream, upstream, rest) {
                self.observer.lent(Lent::Parked);
            }
        }
    }

    /// Whether what waits to be read on a connection that was another client's came before the
    /// application's kernel had heard of this client's request: then it answers something else.
    pub(super) fn has_strange_answer(&self, cx: &mut Context<'_>) -> bool {
        let (Some(lending), Some(upstream)) = (&self.lending, &self.upstream) else { return false };
        if !self.to_client.is_doubtful() || upstream.poll_readable(cx).is_pending() {
            return false;
        }
        // In this order: an answer that comes between the two acknowledges its request.
        upstream.has_bytes()
            && tcp_progress(upstream).is_ok_and(|(_, bytes)| bytes == lending.acknowledged_bytes)
    }

    /// Whether the application's kernel has heard nothing of this client's request on a connection that was
    /// another client's.
    pub(super) fn is_unheard(&self) -> bool {
        let (Some(lending), Some(upstream)) = (&self.lending, &self.upstream) else { return false };
        self.to_client.is_doubtful()
            && tcp_progress(upstream).map_or(true, |(_, bytes)| bytes == lending.acknowledged_bytes)
    }

    /// Ends a connection on which the application has said what is no answer to this client.
    pub(super) fn refuse_answer(&mut self) -> End {
        if let Some(lending) = &self.lending {
            parking::distrust(&lending.upstream);
        }
        self.observer.lent(Lent::Lost);
        let error = io::Error::new(
            io::ErrorKind::InvalidData,
            "the application sent bytes before it had been asked",
        );
        self.broke(Direction::FromUpstream, Failure::Reading(error))
    }

    /// A direction has failed. `Ok` when the relay goes on nevertheless.
    pub(super) fn poll_failure(
        &mut self,
        cx: &mut Context<'_>,
        direction: Direction,
        failure: Failure,
    ) -> Poll<Result<(), End>> {
        let error = match (direction, &failure) {
            (Direction::FromClient, Failure::Writing(error))
            | (Direction::FromUpstream, Failure::Reading(error)) => error.kind(),
            _ => {
                if self.lending.is_some() && self.is_at_rest() {
                    self.park();
                }
                return Poll::Ready(Err(self.broke(direction, failure)));
            }
        };
        if self.lending.is_none() || !self.to_client.is_doubtful() {
            return Poll::Ready(Err(self.broke(direction, failure)));
        }
        if self.to_upstream.has_sent_nothing() {
            self.send_again();
            return Poll::Ready(Ok(()));
        }
        // A reset alone may come of an application that has read the request and died of it.
        let has_ended = match error {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => true,
            io::ErrorKind::NotConnected => self.upstream.as_ref().is_some_and(Socket::is_at_end),
            _ => false,
        };
        if !has_ended || !self.to_upstream.can_rewind() {
            self.observer.lent(Lent::Lost);
            return Poll::Ready(Err(self.broke(direction, failure)));
        }
        if let Some(lending) = &mut self.lending {
            lending.doubt = Some(Doubt {
                failure: error,
                deadline: Instant::now() + DOUBT_PERIOD,
                timer: Box::pin(tokio::time::sleep(DOUBT_INTERVAL)),
            });
        }
        self.poll_doubt(cx)
    }

    /// Waits until it is known whether the application has heard the request. `Ok` when it is not
    /// the question, or it has not.
    pub(super) fn poll_doubt(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let Some(lending) = &mut self.lending else { return Poll::Ready(Ok(())) };
        let Some(doubt) = &mut lending.doubt else { return Poll::Ready(Ok(())) };
        loop {
            let progress = match &self.upstream {
                Some(upstream) => tcp_progress(upstream),
                None => Err(io::ErrorKind::NotConnected.into()),
            };
            match progress {
                // Its FIN came without a word of our bytes, and what answered them is a reset: they
                // met a socket that was closed.
                Ok((TcpStanding::Closed, bytes)) if bytes == lending.acknowledged_bytes => {
                    lending.doubt = None;
                    self.send_again();
                    return Poll::Ready(Ok(()));
                }
                Ok((TcpStanding::PeerEnded, bytes))
                    if bytes == lending.acknowledged_bytes && Instant::now() < doubt.deadline => {}
                _ => {
                    let failure = Failure::Reading(doubt.failure.into());
                    self.observer.lent(Lent::Lost);
                    return Poll::Ready(Err(self.broke(Direction::FromUpstream, failure)));
                }
            }
            if doubt.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            doubt.timer = Box::pin(tokio::time::sleep(DOUBT_INTERVAL));
        }
    }

    /// Gives the connection up, and sends the request again on a new one.
    fn send_again(&mut self) {
        self.upstream = None;
        self.to_upstream.rewind();
        self.to_client.trust();
        if let Some(lending) = &mut self.lending {
            lending.is_resending = true;
        }
        self.observer.lent(Lent::Resent);
    }
}
