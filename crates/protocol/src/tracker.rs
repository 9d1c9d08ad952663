use std::net::IpAddr;
use std::sync::Arc;

use super::client_hello::ClientHello;
use super::detect::{Decision, Detector};
use super::{Class, Direction, Events, Step, Surprise, Unfinished, Word, http1, http2, websocket};

/// The tracker of one connection, whatever it speaks.
///
/// Behind [`Tracker::Auto`], a first request whose very first word was cut is not edited to name
/// the client: those bytes have passed.
#[derive(Debug)]
pub enum Tracker {
    /// Looks at nothing.
    Tcp,
    /// Understood nothing of the first bytes.
    Opaque(Surprise),
    /// A TLS client that has not ended its ClientHello; what follows is opaque.
    Tls(ClientHello),
    /// HTTP/1, and what it may become.
    Http1(Box<http1::Tracker>),
    /// HTTP/2 with prior knowledge, and gRPC.
    Http2(Box<http2::Http2>),
    /// Undecided before the first bytes.
    Auto(Box<Auto>),
}

/// A connection whose protocol its first bytes will tell.
#[derive(Debug)]
pub struct Auto {
    detector: Detector,
    options: Arc<http1::Options>,
    client: IpAddr,
    ping: [u8; 8],
    drain: Option<http1::DrainOptions>,
}

impl Tracker {
    /// A tracker for a connection that is known to speak HTTP/1.
    #[must_use]
    pub fn http1(options: Arc<http1::Options>, client: IpAddr) -> Tracker {
        Tracker::Http1(Box::new(http1::Tracker::new(options, client)))
    }

    /// The same for one that was tracked before, up to a point at which it was reusable, and that
    /// counted as `class` there.
    #[must_use]
    pub fn http1_resumed(options: Arc<http1::Options>, client: IpAddr, class: Class) -> Tracker {
        Tracker::Http1(Box::new(http1::Tracker::resumed(options, client, class)))
    }

    /// A tracker for a connection that is known to speak HTTP/2; `ping` is eight random bytes.
    #[must_use]
    pub fn http2(ping: [u8; 8]) -> Tracker {
        Tracker::Http2(Box::new(http2::Http2::new(ping)))
    }

    /// A tracker that finds out what a connection speaks; `ping` is eight random bytes.
    #[must_use]
    pub fn auto(options: Arc<http1::Options>, client: IpAddr, ping: [u8; 8]) -> Tracker {
        Tracker::Auto(Box::new(Auto {
            detector: Detector::default(),
            options,
            client,
            ping,
            drain: None,
        }))
    }

    /// Whether it looks at nothing, for good: every byte passes, and need not be shown.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        matches!(self, Tracker::Tcp | Tracker::Opaque(_))
    }

    /// Says what to do with the bytes that a direction has read and not yet sent.
    pub fn step(&mut self, direction: Direction, bytes: &[u8]) -> Step {
        if bytes.is_empty() {
            return Step::Hold;
        }
        if let Tracker::Auto(auto) = self {
            match auto.detector.look(direction, bytes) {
                Decision::Undecided => {}
                Decision::Http1 | Decision::EmptyLines => {
                    *self = Tracker::Http1(Box::new(auto.http1()));
                }
                Decision::Http2 => *self = Tracker::Http2(Box::new(auto.http2())),
                Decision::Opaque(Surprise::Tls) => *self = Tracker::Tls(ClientHello::default()),
                Decision::Opaque(surprise) => *self = Tracker::Opaque(surprise),
            }
        }
        match self {
            Tracker::Http1(tracker) => {
                let step = tracker.step(direction, bytes);
                match tracker.take_http2() {
                    Some(http2) => self.go_on_in_http2(http2, direction, bytes, step),
                    None => step,
                }
            }
            Tracker::Http2(tracker) => tracker.step(direction, bytes),
            Tracker::Tls(hello) => {
                hello.pass(bytes);
                if hello.is_over() || direction == Direction::FromUpstream {
                    *self = Tracker::Opaque(Surprise::Tls);
                }
                Step::Pass(bytes.len())
            }
            _ => Step::Pass(bytes.len()),
        }
    }

    /// The bytes that `step` passes are the last ones of HTTP/1; those behind them are HTTP/2.
    #[cold]
    fn go_on_in_http2(
        &mut self,
        mut http2: Box<http2::Http2>,
        direction: Direction,
        bytes: &[u8],
        step: Step,
    ) -> Step {
        let rest = match step {
            Step::Pass(passed) => bytes.get(passed..).unwrap_or_default(),
            _ => &[],
        };
        // In a drain it may edit them, and is asked for itself.
        let may_edit = http2.may_edit();
        if !may_edit && !rest.is_empty() {
            http2.step(direction, rest);
        }
        *self = Tracker::Http2(http2);
        if may_edit { step } else { Step::Pass(bytes.len()) }
    }

    /// How many of the next bytes of a direction it need not be shown, only told of with
    /// [`Tracker::skip`]: the inside of a body, or everything.
    #[must_use]
    pub fn unseen_bytes(&self, direction: Direction) -> u64 {
        match self {
            Tracker::Tcp | Tracker::Opaque(_) => u64::MAX,
            Tracker::Http1(tracker) => tracker.unseen_bytes(direction),
            Tracker::Http2(_) | Tracker::Auto(_) | Tracker::Tls(_) => 0,
        }
    }

    /// So many of the [`Tracker::unseen_bytes`] have been read.
    pub fn skip(&mut self, direction: Direction, bytes: u64) {
        if let Tracker::Http1(tracker) = self {
            tracker.skip(direction, bytes);
        }
    }

    /// A drain has begun, or goes on with other options.
    pub fn begin_drain(&mut self, options: &http1::DrainOptions) {
        match self {
            Tracker::Http1(tracker) => tracker.begin_drain(options),
            Tracker::Http2(tracker) => tracker.begin_drain(),
            Tracker::Auto(auto) => auto.drain = Some(options.clone()),
            Tracker::Tcp | Tracker::Tls(_) | Tracker::Opaque(_) => {}
        }
    }

    /// The drain was undone.
    pub fn end_drain(&mut self) {
        match self {
            Tracker::Http1(tracker) => tracker.end_drain(),
            Tracker::Http2(tracker) => tracker.end_drain(),
            Tracker::Auto(auto) => auto.drain = None,
            Tracker::Tcp | Tracker::Tls(_) | Tracker::Opaque(_) => {}
        }
    }

    /// This direction has been read to its end.
    pub fn end(&mut self, direction: Direction) {
        match self {
            Tracker::Http1(tracker) => tracker.end(direction),
            Tracker::Http2(tracker) => tracker.end(direction),
            _ => {}
        }
    }

    /// What the connection is being used for.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Tracker::Tcp => Class::Tcp,
            Tracker::Opaque(surprise) => Class::Opaque(*surprise),
            Tracker::Tls(_) => Class::Opaque(Surprise::Tls),
            Tracker::Http1(tracker) => tracker.class(),
            Tracker::Http2(tracker) => match tracker.surprise() {
                Some(surprise) => Class::Opaque(Surprise::Http2(surprise)),
                None if tracker.is_unheard() => Class::Idle,
                None if tracker.awaits_request() => Class::Http,
                None => Class::Http2 { open_streams: tracker.open_streams() },
            },
            Tracker::Auto(auto) if auto.detector.has_seen_nothing() => auto.silence(),
            // The server has begun: it speaks first.
            Tracker::Auto(auto) if auto.detector.prefix().is_empty() => Class::Tcp,
            Tracker::Auto(_) => Class::Http,
        }
    }

    /// Whether the connection may be closed here without losing anything.
    #[must_use]
    pub fn is_safe_point(&self) -> bool {
        match self {
            Tracker::Tcp | Tracker::Tls(_) | Tracker::Opaque(_) => false,
            Tracker::Http1(tracker) => tracker.is_safe_point(),
            Tracker::Http2(tracker) => tracker.is_safe_point(),
            Tracker::Auto(auto) => auto.detector.has_seen_nothing(),
        }
    }

    /// What the client has begun and not finished, if that is all that the connection is kept by.
    #[must_use]
    pub fn unfinished(&self) -> Option<Unfinished> {
        match self {
            Tracker::Tcp | Tracker::Opaque(_) => None,
            Tracker::Tls(_) => Some(Unfinished::Head),
            Tracker::Http1(tracker) => tracker.unfinished(),
            Tracker::Http2(tracker) => tracker.has_half_head().then_some(Unfinished::Head),
            Tracker::Auto(auto) => {
                let has_begun = !auto.detector.prefix().is_empty();
                has_begun.then_some(Unfinished::Head)
            }
        }
    }

    /// Whether the upstream connection may serve another client from here on.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        matches!(self, Tracker::Http1(tracker) if tracker.is_reusable())
    }

    /// Whether the application has answered everything that it was asked, although a request may not
    /// have been sent to its end.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        matches!(self, Tracker::Http1(tracker) if tracker.is_answered())
    }

    /// Whether a response so far had no body because a rule says so (HEAD, 204, 304), which some
    /// applications do not keep.
    #[must_use]
    pub fn has_ruled_out_body(&self) -> bool {
        matches!(self, Tracker::Http1(tracker) if tracker.has_ruled_out_body())
    }

    /// Whether what the client has asked so far is whole, and may be asked on an upstream connection
    /// that was another's.
    #[must_use]
    pub fn is_asked_whole(&self) -> bool {
        matches!(self, Tracker::Http1(tracker) if tracker.is_asked_whole())
    }

    /// Whether the last response of a drain has passed completely: the staged close is next.
    #[must_use]
    pub fn farewell_done(&self) -> bool {
        match self {
            Tracker::Http1(tracker) => tracker.farewell_done(),
            Tracker::Http2(tracker) => tracker.farewell_done(),
            _ => false,
        }
    }

    /// Asks a WebSocket to end; an HTTP/2 client is told the last stream without further waiting.
    pub fn leave(&mut self, farewell: &websocket::Farewell) {
        match self {
            Tracker::Http1(tracker) => tracker.leave(farewell),
            Tracker::Http2(tracker) => tracker.leave(),
            _ => {}
        }
    }

    /// Whether the farewell waits for the first request of an HTTP/2 client that came in a drain: the
    /// relay bounds that wait, and says [`Tracker::overdue`] when it is over.
    #[must_use]
    pub fn awaits_request(&self) -> bool {
        matches!(self, Tracker::Http2(tracker) if tracker.awaits_request())
    }

    /// Whether the final GOAWAY waits for the client's answer to our PING: the relay bounds that
    /// wait, and says [`Tracker::overdue`] when it is over.
    #[must_use]
    pub fn awaits_ping(&self) -> bool {
        matches!(self, Tracker::Http2(tracker) if tracker.awaits_ping())
    }

    /// The client had long enough for its first request, or to answer our PING.
    pub fn overdue(&mut self) {
        if let Tracker::Http2(tracker) = self {
            tracker.overdue();
        }
    }

    /// What to send in a direction of which no byte is pending.
    pub fn interject(&mut self, direction: Direction) -> Option<Vec<u8>> {
        match self {
            Tracker::Http1(tracker) => tracker.interject(direction),
            Tracker::Http2(tracker) => tracker.interject(direction),
            _ => None,
        }
    }

    /// The farewell among the bytes that were just to be inserted or interjected; asked after each
    /// of them, it names every one.
    pub fn take_word(&mut self) -> Option<Word> {
        match self {
            Tracker::Http1(tracker) => tracker.take_word(),
            Tracker::Http2(tracker) => tracker.take_word(),
            _ => None,
        }
    }

    /// Whether both sides of a WebSocket have been sent a Close, and their answers are awaited.
    #[must_use]
    pub fn leave_said(&self) -> bool {
        matches!(self, Tracker::Http1(tracker) if tracker.leave_said())
    }

    /// Whether both sides of a WebSocket have said Close.
    #[must_use]
    pub fn leave_done(&self) -> bool {
        matches!(self, Tracker::Http1(tracker) if tracker.leave_done())
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> Events {
        match self {
            Tracker::Http1(tracker) => tracker.take_events(),
            _ => Events::default(),
        }
    }
}

impl Auto {
    /// What a connection counts as on which nobody has spoken.
    fn silence(&self) -> Class {
        let is_client = self.drain.as_ref().is_some_and(http1::DrainOptions::clients_speak_first);
        if is_client { Class::SilentClient } else { Class::Silent }
    }

    fn http1(&self) -> http1::Tracker {
        let mut tracker = http1::Tracker::new(Arc::clone(&self.options), self.client);
        if let Some(drain) = &self.drain {
            tracker.begin_drain(drain);
        }
        tracker.replay(self.detector.prefix());
        tracker
    }

    fn http2(&self) -> http2::Http2 {
        let mut tracker = http2::Http2::new(self.ping);
        // What passed before the decision is part of the two prefaces; each passes in one step.
        for (direction, passed) in [
            (Direction::FromClient, self.detector.prefix()),
            (Direction::FromUpstream, self.detector.server_prefix()),
        ] {
            if !passed.is_empty() {
                tracker.step(direction, passed);
            }
        }
        if self.drain.is_some() {
            tracker.begin_drain();
        }
        tracker
    }
}
