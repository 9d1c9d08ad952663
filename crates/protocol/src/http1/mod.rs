//! HTTP/1: finds where messages end, and edits one head when it is time to go.
//!
//! One tracker sees both directions, because neither can be read alone: a response's framing
//! depends on its request, and what follows a request may depend on its response. `head` says
//! what a head means, `gather` puts a cut one together, `body` finds a body's end, `exchange`
//! remembers what was asked, `requests` and `responses` are the two directions' steps,
//! `farewell` and `forward` write the edited heads.

mod body;
mod exchange;
mod farewell;
mod fields;
mod forward;
mod gather;
mod head;
mod options;
mod requests;
mod responses;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use self::body::Body;
use self::exchange::Outstanding;
use self::gather::Gather;
use super::{Class, Direction, Events, Step, Surprise, Unfinished, Word, http2, websocket};

pub use self::exchange::OUTSTANDING_LIMIT;
pub use self::farewell::service_unavailable;
pub use self::forward::Forwarding;
pub use self::gather::HEAD_LIMIT_BYTES;
pub use self::head::FIELD_LIMIT;
pub(super) use self::head::{METHOD_LIMIT_BYTES, is_token};
pub use self::options::{DrainOptions, HealthChecks, Options};

/// Responses that a drain lets pass without a farewell because more requests were waiting; after
/// that no further request is forwarded. A client that pipelines without a pause would otherwise
/// never be told.
const PATIENCE: u8 = 32;

/// The tracker of one HTTP/1 connection, and of the WebSocket or tunnel that it may become.
#[expect(clippy::struct_excessive_bools, reason = "four facts, each of which stands alone")]
#[derive(Debug)]
pub struct Tracker {
    options: Arc<Options>,
    client: IpAddr,
    mode: Mode,
    requests: Requests,
    responses: Responses,
    outstanding: Outstanding,
    /// In a box: most connections never see a drain.
    drain: Option<Box<DrainOptions>>,
    patience: u8,
    ending: Ending,
    /// The farewell was said, or a request was not forwarded: this cannot be undone.
    is_committed: bool,
    health: Health,
    /// The upstream connection has seen what only this client may go on with.
    is_bound: bool,
    /// The last response was a challenge whose answer only this connection can take.
    is_challenged: bool,
    /// A response had no body because of its status or its request's method.
    has_ruled_out_body: bool,
    events: Events,
}

#[derive(Debug)]
enum Mode {
    Http,
    /// HTTP/2 begins with the next byte of either side; see [`Tracker::take_http2`].
    Http2,
    WebSocket(Box<websocket::Tracker>),
    Upgraded,
    Opaque(Surprise),
}

/// The client's half.
#[derive(Debug, Default)]
struct Requests {
    reading: Reading,
    gather: Gather,
    /// Bytes of a head that was edited, still to be taken out.
    edited_bytes: usize,
    /// A CR came where a request begins.
    has_return: bool,
    /// The body is not sent before the upstream asks for it.
    awaits_continue: bool,
    refused: Refused,
}

impl Requests {
    /// Whether every request has been read to its end.
    fn is_at_head(&self) -> bool {
        !matches!(self.reading, Reading::Body(_) | Reading::Declined)
    }
}

/// What of the client's bytes was not forwarded. Behind such a gap nothing may be, whatever the
/// connection has become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Refused {
    #[default]
    Nothing,
    /// Empty lines, which are nobody's.
    Lines,
    /// A request, or what would have been read as one.
    Request,
}

/// The upstream's half.
#[derive(Debug, Default)]
struct Responses {
    reading: Reading,
    gather: Gather,
    /// Bytes of a head that was edited, still to be taken out.
    edited_bytes: usize,
    /// The final status of the response whose body is being read.
    status: u16,
}

/// What the next byte of a direction belongs to.
#[derive(Debug, Default)]
enum Reading {
    /// A head.
    #[default]
    Head,
    /// A body.
    Body(Body),
    /// HTTP/1 or something else: the response will tell.
    MightSwitch,
    /// A body that the upstream has declined, or a head: nothing tells.
    Declined,
    /// Nothing that is an exchange's.
    Ended,
}

/// How near the end of HTTP on this connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Exchanges may follow.
    Open,
    /// No request is forwarded any more.
    Sealed,
    /// The last response has begun.
    Last {
        /// The upstream has said that it reads no further.
        upstream_leaves: bool,
    },
    /// The last response has passed.
    Over {
        /// The upstream has said that it reads no further.
        upstream_leaves: bool,
    },
}

/// Whether the requests so far were health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    NoRequest,
    AllChecks,
    Mixed,
}

/// What one part of a direction's bytes came to.
enum Took {
    /// So many bytes belong to it and pass.
    Bytes(usize),
    /// An answer of its own, for the first of the bytes.
    Step(Step),
    /// It wants to be asked again with nothing before it.
    Alone,
}

/// What stands before a part within the bytes of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    Parts,
}

impl Before {
    fn of(passed: usize) -> Before {
        if passed == 0 { Before::Nothing } else { Before::Parts }
    }
}

impl Tracker {
    /// A tracker for a connection that this client has just opened.
    #[must_use]
    pub fn new(options: Arc<Options>, client: IpAddr) -> Tracker {
        Tracker {
            options,
            client,
            mode: Mode::Http,
            requests: Requests::default(),
            responses: Responses::default(),
            outstanding: Outstanding::default(),
            drain: None,
            patience: PATIENCE,
            ending: Ending::Open,
            is_committed: false,
            health: Health::NoRequest,
            is_bound: false,
            is_challenged: false,
            has_ruled_out_body: false,
            events: Events::default(),
        }
    }

    /// A tracker for a connection that was tracked before, up to a point at which its upstream
    /// connection was given away, and counted as `class` there.
    #[must_use]
    pub fn resumed(options: Arc<Options>, client: IpAddr, class: Class) -> Tracker {
        let mut tracker = Tracker::new(options, client);
        tracker.health =
            if class == Class::HealthCheck { Health::AllChecks } else { Health::Mixed };
        tracker
    }

    /// Says what to do with the bytes that a direction has read and not yet sent.
    ///
    /// `bytes` begin where the last answer left off. While no drain is under way, and no request
    /// head is to be edited, the answer is [`Step::Pass`] for all of them, or for those up to where
    /// HTTP/2 begins ([`Tracker::take_http2`]). For no bytes it is [`Step::Hold`].
    pub fn step(&mut self, direction: Direction, bytes: &[u8]) -> Step {
        if bytes.is_empty() {
            return Step::Hold;
        }
        let edited_bytes = match direction {
            Direction::FromClient => &mut self.requests.edited_bytes,
            Direction::FromUpstream => &mut self.responses.edited_bytes,
        };
        if *edited_bytes > 0 {
            let gone = bytes.len().min(*edited_bytes);
            *edited_bytes -= gone;
            return Step::Drop(gone);
        }
        self.walk(direction, bytes)
    }

    fn walk(&mut self, direction: Direction, bytes: &[u8]) -> Step {
        let mut passed = 0;
        while let Some(rest) = bytes.get(passed..).filter(|rest| !rest.is_empty()) {
            let took = match (&mut self.mode, direction) {
                (Mode::Upgraded | Mode::Opaque(_), Direction::FromClient)
                    if self.requests.refused != Refused::Nothing =>
                {
                    Ok(self.refuse(rest, Before::of(passed)))
                }
                (Mode::Http2, _) if passed > 0 => return Step::Pass(passed),
                (Mode::Http2 | Mode::Upgraded | Mode::Opaque(_), _) => break,
                (Mode::WebSocket(tracker), _) if tracker.is_leaving() && passed > 0 => {
                    Ok(Took::Alone)
                }
                (Mode::WebSocket(tracker), _) => match tracker.step(direction, rest) {
                    Step::Pass(count) => Ok(Took::Bytes(count)),
                    step => return step,
                },
                (Mode::Http, Direction::FromClient) => self.request_bytes(rest, Before::of(passed)),
                (Mode::Http, Direction::FromUpstream) => {
                    self.response_bytes(rest, Before::of(passed))
                }
            };
            match took {
                Ok(Took::Bytes(count)) => passed += count,
                Ok(Took::Step(step)) => return step,
                Ok(Took::Alone) => return Step::Pass(passed),
                Err(surprise) => self.surprise(surprise),
            }
        }
        Step::Pass(bytes.len())
    }

    /// How many of the next bytes of a direction need not be shown, only told of with
    /// [`Tracker::skip`]. The last byte of a body is none of them: what it ends is seen by it.
    #[must_use]
    pub fn unseen_bytes(&self, direction: Direction) -> u64 {
        let (reading, is_editing) = match direction {
            Direction::FromClient => {
                let has_gap = self.requests.refused != Refused::Nothing;
                (&self.requests.reading, has_gap || self.requests.edited_bytes > 0)
            }
            Direction::FromUpstream => (&self.responses.reading, self.responses.edited_bytes > 0),
        };
        match (&self.mode, reading) {
            _ if is_editing => 0,
            (Mode::Upgraded | Mode::Opaque(_), _) => u64::MAX,
            (Mode::Http, Reading::Body(body)) => body.unseen_bytes(),
            _ => 0,
        }
    }

    /// So many of the [`Tracker::unseen_bytes`] have been read.
    pub fn skip(&mut self, direction: Direction, bytes: u64) {
        let reading = match direction {
            Direction::FromClient => &mut self.requests.reading,
            Direction::FromUpstream => &mut self.responses.reading,
        };
        if let Reading::Body(body) = reading {
            body.skip(bytes);
        }
    }

    /// A drain has begun, or goes on with other options.
    pub fn begin_drain(&mut self, options: &DrainOptions) {
        if self.drain.is_none() {
            self.patience = PATIENCE;
        }
        self.drain = Some(Box::new(options.clone()));
    }

    /// The drain was undone. A connection that has been told of its end still ends.
    pub fn end_drain(&mut self) {
        if !self.is_committed {
            self.drain = None;
        }
    }

    /// This direction has been read to its end.
    pub fn end(&mut self, direction: Direction) {
        if !matches!(self.mode, Mode::Http) {
            return;
        }
        match direction {
            Direction::FromClient => {
                self.is_bound |= !self.is_reusable();
                self.requests.gather.clear();
                self.requests.has_return = false;
                self.requests.reading = Reading::Ended;
                self.is_challenged = false;
            }
            Direction::FromUpstream => {
                if matches!(self.responses.reading, Reading::Body(Body::UntilClose)) {
                    self.end_response();
                }
                self.responses.gather.clear();
                self.responses.reading = Reading::Ended;
                self.end_exchanges(true);
            }
        }
    }

    /// What the connection is being used for.
    #[must_use]
    pub fn class(&self) -> Class {
        match &self.mode {
            Mode::Opaque(surprise) => Class::Opaque(*surprise),
            Mode::Upgraded | Mode::Http2 => Class::Upgraded,
            Mode::WebSocket(tracker) => tracker.class(),
            Mode::Http if self.has_half_head() => Class::Http,
            Mode::Http if self.health == Health::AllChecks => Class::HealthCheck,
            Mode::Http if self.is_in_flight() || self.is_in_handshake() => Class::Http,
            Mode::Http => Class::Idle,
        }
    }

    /// Whether the connection may be closed here without losing anything: no exchange is in
    /// flight and nothing was sent by half.
    #[must_use]
    pub fn is_safe_point(&self) -> bool {
        match &self.mode {
            Mode::Http => {
                !self.has_half_head()
                    && !self.is_in_flight()
                    && !self.is_in_handshake()
                    && self.is_whole()
            }
            Mode::WebSocket(tracker) => tracker.leave_done(),
            Mode::Upgraded | Mode::Http2 | Mode::Opaque(_) => false,
        }
    }

    /// Whether the application has answered everything that it was asked, and something was; although a
    /// request may not have been sent to its end.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        matches!(self.mode, Mode::Http)
            && self.responses.status != 0
            && !self.has_half_head()
            && self.outstanding.count() == 0
            && !matches!(self.responses.reading, Reading::Body(_))
    }

    /// What the client has begun and not finished, if that is all that the connection is kept by.
    #[must_use]
    pub fn unfinished(&self) -> Option<Unfinished> {
        if !matches!(self.mode, Mode::Http) || self.responses.gather.has_part() {
            return None;
        }
        match (&self.requests.reading, &self.responses.reading, self.outstanding.count()) {
            (Reading::Body(body), Reading::Head, 1) if body.is_in_filler() => {
                Some(Unfinished::Filler)
            }
            (Reading::Body(_), Reading::Head, 1) => Some(Unfinished::Body),
            (_, Reading::Head, 0) if self.has_half_head() || self.is_in_handshake() => {
                Some(Unfinished::Head)
            }
            _ => None,
        }
    }

    /// The tracker of the HTTP/2 that begins here, once the upstream has agreed to it. From then on it
    /// is to be asked.
    ///
    /// # Source
    /// RFC 7540 §3.2.
    pub fn take_http2(&mut self) -> Option<Box<http2::Http2>> {
        if !matches!(self.mode, Mode::Http2) {
            return None;
        }
        let mut tracker = http2::Http2::upgraded(self.options.http2_ping);
        if self.drain.is_some() {
            tracker.begin_drain();
        }
        Some(Box::new(tracker))
    }

    /// Whether the upstream connection may serve another client from here on: it is allowed, no
    /// drain is under way, and nobody can tell it from a new one.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.options.upstream_reuse
            && matches!(self.mode, Mode::Http)
            && self.ending == Ending::Open
            && self.drain.is_none()
            && !self.is_bound
            && matches!(self.requests.reading, Reading::Head | Reading::Ended)
            && matches!(self.responses.reading, Reading::Head)
            && self.is_safe_point()
    }

    /// Whether a response so far had no body because a rule says so, and not its own head: to HEAD, 204
    /// and 304. An application that does not keep the rule sends its body behind.
    #[must_use]
    pub fn has_ruled_out_body(&self) -> bool {
        self.has_ruled_out_body
    }

    /// Whether what the client has asked so far is whole, and nothing of it asks for an upstream
    /// connection of its own.
    #[must_use]
    pub fn is_asked_whole(&self) -> bool {
        matches!(self.mode, Mode::Http)
            && !self.is_bound
            && !self.requests.gather.has_part()
            && matches!(self.requests.reading, Reading::Head | Reading::Ended)
    }

    /// Whether the last response of a drain has passed completely: the staged close is next.
    #[must_use]
    pub fn farewell_done(&self) -> bool {
        let Ending::Over { upstream_leaves } = self.ending else {
            return false;
        };
        let is_sending = matches!(self.requests.reading, Reading::Body(_));
        self.drain.is_some() && self.is_whole() && (upstream_leaves || !is_sending)
    }

    /// Asks the WebSocket, if this is one, to end; see [`websocket::Tracker::leave`].
    pub fn leave(&mut self, farewell: &websocket::Farewell) {
        if let Mode::WebSocket(tracker) = &mut self.mode {
            tracker.leave(farewell);
        }
    }

    /// What to send in a direction of which no byte is pending; see
    /// [`websocket::Tracker::interject`].
    pub fn interject(&mut self, direction: Direction) -> Option<Vec<u8>> {
        match &mut self.mode {
            Mode::WebSocket(tracker) => tracker.interject(direction),
            _ => None,
        }
    }

    /// The farewell that was just said; see [`websocket::Tracker::take_word`].
    pub fn take_word(&mut self) -> Option<Word> {
        match &mut self.mode {
            Mode::WebSocket(tracker) => tracker.take_word(),
            _ => None,
        }
    }

    /// Whether both sides of the WebSocket have been sent a Close; see
    /// [`websocket::Tracker::leave_said`].
    #[must_use]
    pub fn leave_said(&self) -> bool {
        matches!(&self.mode, Mode::WebSocket(tracker) if tracker.leave_said())
    }

    /// Whether both sides of a WebSocket have said Close.
    #[must_use]
    pub fn leave_done(&self) -> bool {
        matches!(&self.mode, Mode::WebSocket(tracker) if tracker.leave_done())
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> Events {
        std::mem::take(&mut self.events)
    }

    /// Shows the tracker bytes of the client that were passed on before it was chosen.
    pub(super) fn replay(&mut self, passed: &[u8]) {
        if !passed.is_empty()
            && let Err(surprise) = self.take_request_start(passed)
        {
            self.surprise(surprise);
        }
    }

    /// Room that is taken for cut heads.
    #[cfg(test)]
    fn kept_bytes(&self) -> usize {
        self.requests.gather.kept_bytes() + self.responses.gather.kept_bytes()
    }

    fn surprise(&mut self, surprise: Surprise) {
        self.mode = Mode::Opaque(surprise);
        self.requests.gather.clear();
        self.responses.gather.clear();
    }

    /// Whether a part of a head has been read in either direction.
    fn has_half_head(&self) -> bool {
        self.requests.gather.has_part()
            || self.responses.gather.has_part()
            || self.requests.has_return
    }

    /// Whether the client's next message in an authentication of the connection is due, which no other
    /// connection can take. Only a drain need know: nobody else ends a connection between two requests.
    fn is_in_handshake(&self) -> bool {
        self.is_challenged && self.drain.is_some() && self.ending == Ending::Open
    }

    /// Whether a request or a response is owed or being sent.
    fn is_in_flight(&self) -> bool {
        self.outstanding.count() > 0
            || matches!(self.requests.reading, Reading::Body(_))
            || matches!(self.responses.reading, Reading::Body(_))
    }

    /// Whether every head that was edited has been replaced completely.
    fn is_whole(&self) -> bool {
        self.requests.edited_bytes == 0 && self.responses.edited_bytes == 0
    }

    /// No request after those begun is forwarded in a drain, or tracked outside one.
    fn seal(&mut self) {
        if self.ending == Ending::Open {
            self.ending = Ending::Sealed;
        }
        let is_begun = self.requests.gather.has_part();
        if matches!(self.requests.reading, Reading::Head) && !is_begun {
            self.requests.reading = Reading::Ended;
        }
    }

    /// The response that is beginning is the last one.
    fn announce_last(&mut self, upstream_leaves: bool) {
        self.seal();
        self.ending = Ending::Last { upstream_leaves };
        if !matches!(self.requests.reading, Reading::Body(_)) {
            self.requests.gather.clear();
            self.requests.reading = Reading::Ended;
        }
    }

    /// Nothing will be answered any more.
    fn end_exchanges(&mut self, upstream_leaves: bool) {
        self.announce_last(upstream_leaves);
        self.ending = Ending::Over { upstream_leaves };
        self.outstanding.clear();
    }
}
