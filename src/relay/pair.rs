//! The future of one connection's data.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::broken::Broken;
use super::control::{Control, Heard, Order};
use super::farewell::{Advice, Farewell, IdleClose};
use super::flow::{Failure, Flow, Progress, Turn};
use super::lending::{Lending, Lent, Next};
use super::liveness::Liveness;
use super::unfinished::{ClientTimeouts, When};
use crate::net::{Socket, Upstream, options};
use crate::protocol::http1::DrainOptions;
use crate::protocol::{Class, Direction, Events, Tracker, Unfinished, Word, websocket};

/// Why a relay stopped.
#[derive(Debug)]
pub enum End {
    /// The client has sent something, and there is no upstream connection for it: see
    /// [`Relay::attach`].
    WantsUpstream,
    /// The client is between two exchanges, and its upstream connection was given away.
    AtRest,
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
    /// A drain saw it off: its last response, its last stream, its Close, or its idleness.
    SeenOff,
    /// The client did not go on with what it had begun.
    GivenUp(Unfinished),
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

/// How connections are treated, the same for all of a process.
#[derive(Clone, Debug)]
pub struct RelaySettings {
    /// Silence that ends a connection.
    pub idle_timeouts: IdleTimeouts,
    /// What becomes of a connection between two exchanges in a drain.
    pub idle_close: IdleClose,
    /// How long a client may take for what it has begun.
    pub client_timeouts: ClientTimeouts,
    /// What a WebSocket is told when it must leave.
    pub websocket_code: u16,
    /// The reason beside it.
    pub websocket_reason: String,
}

/// Told what happens in a relay.
pub trait Observer: Send {
    /// The client has sent its first byte: only then is a connection more than a probe.
    fn first_byte(&mut self);
    /// The connection is being used for something else now.
    fn class(&mut self, class: Class);
    /// Requests began or responses ended.
    fn events(&mut self, events: Events);
    /// The client's kernel was given a farewell to its last byte.
    fn told(&self, farewell: Word);
    /// What the drain under way asks of the last response.
    fn drain_options(&self) -> DrainOptions;
    /// An upstream connection was given away, or was another client's.
    fn lent(&self, lent: Lent);
}

/// Moves one connection's bytes until it ends.
pub struct Relay<'a, O> {
    pub(super) client: &'a Socket,
    /// Absent only where upstream connections are lent.
    pub(super) upstream: Option<Socket>,
    control: &'a Control,
    manners: &'a RelaySettings,
    pub(super) observer: &'a mut O,
    pub(super) tracker: Tracker,
    class: Class,
    pub(super) to_upstream: Flow,
    pub(super) to_client: Flow,
    pub(super) obeyed: Order,
    /// See [`Control::listen`]. It lives in one task, whose waker is always the same.
    heard: Heard,
    /// Whether there has been a drain: before, no tracker has anything to say.
    has_drained: bool,
    farewell: Farewell,
    liveness: Liveness,
    /// In a box, because most connections never have any of it.
    pub(super) rare: Option<Box<Rare>>,
    /// Present where upstream connections are lent.
    pub(super) lending: Option<Box<Lending>>,
}

/// What few connections need.
#[derive(Default)]
pub(super) struct Rare {
    /// Only while a time-out applies.
    silence: Option<Silence>,
    /// Only after a side has broken.
    pub(super) broken: Option<Broken>,
}

/// How long nothing has moved.
struct Silence {
    timer: Pin<Box<Sleep>>,
    last_progress: Instant,
}

impl<'a, O: Observer> Relay<'a, O> {
    /// A relay between two connected sockets; one that lends begins without the upstream's.
    #[must_use]
    pub fn new(
        client: &'a Socket,
        upstream: Option<Socket>,
        control: &'a Control,
        tracker: Tracker,
        manners: &'a RelaySettings,
        observer: &'a mut O,
    ) -> Self {
        Relay {
            client,
            upstream,
            control,
            manners,
            observer,
            class: tracker.class(),
            tracker,
            to_upstream: Flow::new(Direction::FromClient),
            to_client: Flow::new(Direction::FromUpstream),
            obeyed: Order::Serve,
            heard: Heard::default(),
            has_drained: false,
            farewell: Farewell::default(),
            liveness: Liveness::default(),
            rare: None,
            lending: None,
        }
    }

    /// Lets it take upstream connections that were others', and give its own away, as long as the
    /// tracker allows. Between two clients it is silent for `rest` at least.
    #[must_use]
    pub fn lending(self, upstream: Arc<Upstream>, rest: Duration) -> Self {
        Relay { lending: Some(Box::new(Lending::new(upstream, rest))), ..self }
    }

    /// Does what is asked since the last look. `true` when the connection is to end at once.
    fn obey(&mut self) -> bool {
        let order = self.control.current();
        if order == self.obeyed {
            return false;
        }
        self.liveness.obey(order, self.client);
        match order {
            Order::Serve => {
                self.farewell.undone();
                self.control.set_unfinished(None);
                self.tracker.end_drain();
            }
            _ => {
                self.has_drained = true;
                self.tracker.begin_drain(&self.observer.drain_options());
            }
        }
        if order >= Order::Leave && self.obeyed < Order::Leave {
            self.leave();
        }
        if order >= Order::Close {
            self.to_client.close();
            self.to_upstream.close();
        }
        self.obeyed = order;
        order >= Order::Reset
    }

    /// Asks the client to leave in its own protocol's words. What has none gets a FIN; what owes a
    /// response or has open streams has been told already, and is left alone until the deadline.
    fn leave(&mut self) {
        match self.tracker.class() {
            Class::WebSocket => {
                let RelaySettings { websocket_code, websocket_reason, .. } = self.manners;
                let mask = fastrand::u32(..).to_be_bytes();
                let farewell = websocket::Farewell::new(*websocket_code, websocket_reason, mask);
                self.tracker.leave(&farewell);
            }
            Class::Http2 { .. } => {
                let farewell = websocket::Farewell::new(0, "", [0; 4]);
                self.tracker.leave(&farewell);
            }
            Class::Http => {}
            // What crosses the FIN must not reach an application that can't answer it.
            _ if self.tracker.is_safe_point() => {
                self.to_client.close();
                self.to_upstream.close();
            }
            Class::Idle | Class::HealthCheck => {}
            Class::Upgraded
            | Class::Tcp
            | Class::Silent
            | Class::SilentClient
            | Class::Opaque(_) => self.to_client.close(),
        }
    }

    /// Tells the observer what the tracker has seen.
    pub(super) fn tell(&mut self, cx: &mut Context<'_>) {
        if self.tracker.is_blind() && self.class == self.tracker.class() {
            return;
        }
        if let Some(farewell) = self.to_client.take_word() {
            self.observer.told(farewell);
        }
        let events = self.tracker.take_events();
        if !events.is_empty() {
            self.observer.events(events);
        }
        let class = self.standing(cx);
        if class != self.class {
            self.class = class;
            self.observer.class(class);
            if self.to_upstream.is_holding() || self.to_client.is_holding() {
                // Half a head may be held for an edit that is not to come any more.
                cx.waker().wake_by_ref();
            }
            if self.obeyed >= Order::Leave {
                // It became a WebSocket, or idle, only after it was asked.
                self.leave();
            }
        }
    }

    /// What the connection counts as: the tracker's word, but for a client that has not yet taken
    /// what it is owed. A last answer is in flight until it has arrived; the process must not
    /// leave before.
    fn standing(&mut self, cx: &mut Context<'_>) -> Class {
        if self.farewell.given_up().is_some() {
            // Whatever ends with its FIN, the drain hears of it when the connection has ended.
            return self.class;
        }
        let class = self.tracker.class();
        let is_done = matches!(class, Class::Idle | Class::Http2 { open_streams: 0 });
        if !is_done || !self.owes_client(cx) {
            self.liveness.delivered();
            return class;
        }
        match (class, self.class.excluded()) {
            (_, None) => self.class,
            (Class::Idle, _) => Class::Http,
            (class, _) => class,
        }
    }

    /// Whether the client has still to take bytes, as far as anybody waits for that.
    fn owes_client(&mut self, cx: &mut Context<'_>) -> bool {
        // A process that left before the staged close is over would reset what is still unread.
        let is_seen_off = self.obeyed >= Order::Drain
            && self.tracker.farewell_done()
            && self.class.excluded().is_none();
        if self.to_client.is_pending() || is_seen_off {
            return true;
        }
        if self.obeyed < Order::Drain
            || options::unacknowledged_bytes(self.client).unwrap_or_default() == 0
        {
            return false;
        }
        self.liveness.poll_delivery(cx);
        true
    }

    /// Sees the connection off while a drain is under way, or when the client is given up. `true` when
    /// it is to end now.
    fn see_off(&mut self, cx: &mut Context<'_>) -> bool {
        let when = if self.obeyed < Order::Drain { When::Serving } else { When::Draining };
        let mut advice = Advice::Nothing;
        if !self.manners.client_timeouts.are_off(when) {
            advice = self.see_unfinished(cx, when);
        }
        let is_given_up = self.farewell.given_up().is_some();
        if !is_given_up && (when == When::Serving || self.tracker.is_blind()) {
            return false;
        }
        // A balancer opens connections ahead, and may still use them until the lame duck is over.
        let has_asked_nothing =
            self.control.bytes(Direction::FromClient) == 0 || self.tracker.awaits_request();
        if has_asked_nothing && !is_given_up && self.obeyed < Order::Retire {
            return false;
        }
        if advice == Advice::Nothing {
            advice = self.farewell.poll(cx, &mut self.tracker, self.manners.idle_close);
        }
        match advice {
            Advice::Nothing => false,
            Advice::Close => {
                self.to_client.close();
                self.to_upstream.close();
                cx.waker().wake_by_ref();
                false
            }
            Advice::Speak => {
                cx.waker().wake_by_ref();
                false
            }
            // A slow reader keeps what it is owed until the deadline.
            Advice::End => !self.to_client.is_pending(),
        }
    }

    /// Bounds the wait for what the client has begun and does not finish.
    fn see_unfinished(&mut self, cx: &mut Context<'_>, when: When) -> Advice {
        let before = self.farewell.unfinished();
        // What the application has not taken, it may be that which keeps the client from going on.
        let unfinished =
            if self.to_upstream.is_pending() { None } else { self.tracker.unfinished() };
        let timeouts = (&self.manners.client_timeouts, when);
        let bytes = self.control.bytes(Direction::FromClient);
        let advice = self.farewell.poll_unfinished(cx, unfinished, timeouts, bytes);
        let now = self.farewell.unfinished();
        if now != before {
            self.control.set_unfinished(now);
        }
        advice
    }

    /// Moves bytes both ways. `Ok(true)` when anything was moved.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, End>> {
        if let Err(end) = ready!(self.poll_doubt(cx)) {
            return Poll::Ready(Err(end));
        }
        let mut progressed = false;
        for direction in [Direction::FromClient, Direction::FromUpstream] {
            if direction == Direction::FromUpstream && self.has_strange_answer(cx) {
                return Poll::Ready(Err(self.refuse_answer()));
            }
            match self.poll_direction(cx, direction) {
                Ok(moved) => progressed |= moved,
                Err(failure) => {
                    if let Err(end) = ready!(self.poll_failure(cx, direction, failure)) {
                        return Poll::Ready(Err(end));
                    }
                }
            }
        }
        Poll::Ready(Ok(progressed))
    }

    /// Moves bytes one way. `Ok(true)` when anything was moved.
    pub(super) fn poll_direction(
        &mut self,
        cx: &mut Context<'_>,
        direction: Direction,
    ) -> Result<bool, Failure> {
        let (flow, other, source, sink) = match direction {
            Direction::FromClient => {
                let sink = self.upstream.as_ref();
                (&mut self.to_upstream, &self.to_client, Some(self.client), sink)
            }
            Direction::FromUpstream => {
                let source = self.upstream.as_ref();
                (&mut self.to_client, &self.to_upstream, source, Some(self.client))
            }
        };
        // In a drain the FIN's arrival is waited for before anything is closed.
        let is_last = other.has_ended() && !self.has_drained;
        let turn = Turn { may_speak: self.has_drained, is_last };
        let moved = match flow.poll(cx, &mut self.tracker, turn, source, sink)? {
            Progress::Waiting(moved) => moved,
            Progress::Ended(moved) => {
                if direction == Direction::FromUpstream {
                    self.control.delivered();
                }
                moved
            }
            Progress::TurnOver(moved) => {
                cx.waker().wake_by_ref();
                moved
            }
        };
        if moved == 0 {
            return Ok(false);
        }
        if self.control.count(direction, moved) && direction == Direction::FromClient {
            self.observer.first_byte();
        }
        Ok(true)
    }

    pub(super) fn reset_on_close(&self) {
        for socket in [Some(self.client), self.upstream.as_ref()].into_iter().flatten() {
            socket.reset_on_close();
        }
    }

    /// The silence that ends the connection as it stands now, and how that end is called.
    pub(super) fn timeout(&self) -> Option<(Duration, End)> {
        let (timeout, end) = match (self.to_upstream.has_ended(), self.to_client.has_ended()) {
            // The application has said all it had to say; what the client does with its side is up to it.
            (false, true) => (self.manners.idle_timeouts.half_closed, End::HalfClosedTimeout),
            // The client has ended its side, as a request may end, and waits for the answer.
            (true, false) if self.tracker.class() == Class::Http => return None,
            _ => (self.manners.idle_timeouts.open, End::IdleTimeout),
        };
        (!timeout.is_zero()).then_some((timeout, end))
    }

    /// Ends a connection that has been silent for too long.
    fn poll_timeout(&mut self, cx: &mut Context<'_>, progressed: bool) -> Poll<End> {
        let Some((timeout, end)) = self.timeout() else { return Poll::Pending };
        let rare = self.rare.get_or_insert_default();
        let silence = rare.silence.get_or_insert_with(|| Silence::new(timeout));
        if progressed {
            silence.broken();
        }
        // The timer is not moved with every byte: when it fires it is set to what is left.
        while silence.timer.as_mut().poll(cx).is_ready() {
            if silence.last_progress + timeout <= Instant::now() {
                // A reader that has paused may take longer than any time-out for what our kernel holds,
                // and a reset would throw that away. TCP_USER_TIMEOUT bounds it.
                if undelivered_bytes(self.client, self.upstream.as_ref()) == 0 {
                    self.reset_on_close();
                    return Poll::Ready(end);
                }
                silence.last_progress = Instant::now();
            }
            silence.timer.as_mut().reset(silence.last_progress + timeout);
        }
        Poll::Pending
    }
}

impl<O: Observer> Future for Relay<'_, O> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let relay = self.get_mut();
        relay.control.listen(cx.waker(), &mut relay.heard);
        if relay.obey() {
            relay.reset_on_close();
            return Poll::Ready(End::Reset);
        }
        if relay.rare.as_ref().is_some_and(|rare| rare.broken.is_some()) {
            return relay.poll_broken(cx);
        }
        let mut progressed = false;
        loop {
            match ready!(relay.poll_data(cx)) {
                Ok(moved) => progressed |= moved,
                Err(end) => return relay.poll_end(cx, end),
            }
            relay.tell(cx);
            match relay.lend(cx, progressed) {
                Next::GoOn => break,
                Next::MoveBytes => {}
                Next::Stop(end) => return Poll::Ready(end),
            }
        }
        if relay.to_upstream.has_ended()
            && (relay.to_client.has_ended() || relay.upstream.is_none())
        {
            return Poll::Ready(relay.farewell.given_up().map_or(End::Finished, End::GivenUp));
        }
        if relay.see_off(cx) {
            return Poll::Ready(relay.farewell.given_up().map_or(End::SeenOff, End::GivenUp));
        }
        relay.liveness.poll(cx, relay.client, progressed);
        relay.poll_timeout(cx, progressed)
    }
}

impl Silence {
    fn new(timeout: Duration) -> Self {
        let last_progress = Instant::now();
        let timer = Box::pin(tokio::time::sleep_until(last_progress + timeout));
        Silence { timer, last_progress }
    }

    /// Something has moved.
    fn broken(&mut self) {
        self.last_progress = Instant::now();
    }
}

/// What the relay has handed to the kernel and a peer has not acknowledged yet.
fn undelivered_bytes(client: &Socket, upstream: Option<&Socket>) -> usize {
    let sockets = [Some(client), upstream].into_iter().flatten();
    sockets.map(|socket| options::unacknowledged_bytes(socket).unwrap_or(0)).sum()
}
