//! `auto`: tells a connection's protocol from its first bytes as they pass.
//!
//! Nothing is held back: what passed before the decision is at most [`PREFIX_LIMIT_BYTES`] of the
//! client's and less than a frame's header of the server's; it is kept, and the tracker that is
//! chosen reads it first.
//!
//! # Source
//! RFC 9113 §3.4 (the preface); RFC 9112 §3 (a request line begins with a token and a space);
//! RFC 8446 §5.1 (a TLS handshake's first byte is 22).

use super::{Direction, Surprise, http1};

/// What an HTTP/2 client sends first.
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a server that show whether it may be speaking HTTP/2: its SETTINGS frame's header.
///
/// # Source
/// RFC 9113 §3.4: a server need not wait for the client's preface, and gRPC's does not.
const SERVER_PREFIX_BYTES: usize = 9;

/// Bytes within which every connection is decided: the longest method that the tracker takes and its
/// space; the preface is shorter.
pub const PREFIX_LIMIT_BYTES: usize = http1::METHOD_LIMIT_BYTES + 1;

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// More bytes will tell.
    Undecided,
    /// Empty lines and nothing else so far: only HTTP/1 lets them stand before a request.
    ///
    /// # Source
    /// RFC 9112 §2.2.
    EmptyLines,
    /// HTTP/1, as far as its first word tells.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// None that is tracked.
    Opaque(Surprise),
}

/// Watches the first bytes of one connection.
#[derive(Debug)]
pub struct Detector {
    prefix: [u8; PREFIX_LIMIT_BYTES],
    prefix_bytes: usize,
    server_prefix: [u8; SERVER_PREFIX_BYTES],
    server_prefix_bytes: usize,
    has_empty_lines: bool,
}

impl Default for Detector {
    fn default() -> Self {
        Detector {
            prefix: [0; PREFIX_LIMIT_BYTES],
            prefix_bytes: 0,
            server_prefix: [0; SERVER_PREFIX_BYTES],
            server_prefix_bytes: 0,
            has_empty_lines: false,
        }
    }
}

impl Detector {
    /// Looks at bytes that are passing. After a decision other than
    /// [`Decision::Undecided`] it is not to be asked again.
    pub fn look(&mut self, direction: Direction, bytes: &[u8]) -> Decision {
        if bytes.is_empty() {
            return Decision::Undecided;
        }
        if direction == Direction::FromUpstream {
            return self.look_at_server(bytes);
        }
        let passed = (self.prefix, self.prefix_bytes);
        let decision = self.look_at_client(bytes);
        if decision != Decision::Undecided {
            // The tracker that is chosen reads these bytes itself, and what had passed before them.
            (self.prefix, self.prefix_bytes) = passed;
        }
        let is_http1 = matches!(decision, Decision::Http1 | Decision::EmptyLines);
        if is_http1 && self.server_prefix_bytes > 0 {
            return Decision::Opaque(Surprise::ServerFirst);
        }
        decision
    }

    /// Whether the client asks for something in HTTP/1, as far as the first word of its first request
    /// tells, once that is known. After an answer it is not to be asked again.
    pub fn asks_http1(&mut self, bytes: &[u8]) -> Option<bool> {
        match self.look_at_client(bytes) {
            Decision::Undecided | Decision::EmptyLines => None,
            decision => Some(decision == Decision::Http1),
        }
    }

    fn look_at_client(&mut self, bytes: &[u8]) -> Decision {
        let mut rest = bytes;
        while let Some(after) = self.skip_empty_line(rest) {
            self.has_empty_lines = true;
            self.prefix_bytes = 0;
            rest = after;
        }
        if rest.is_empty() && self.prefix_bytes == 0 {
            return Decision::EmptyLines;
        }
        let mut seen = self.prefix;
        let room = seen.get_mut(self.prefix_bytes..).unwrap_or_default();
        let added = room.len().min(rest.len());
        for (to, from) in room.iter_mut().zip(rest) {
            *to = *from;
        }
        let known = self.prefix_bytes + added;
        let decision = match decide(seen.get(..known).unwrap_or_default()) {
            Decision::Http2 if self.has_empty_lines => Decision::Opaque(Surprise::Http2Preface),
            decision => decision,
        };
        if decision != Decision::Undecided {
            return decision;
        }
        self.prefix = seen;
        self.prefix_bytes = known;
        if self.has_empty_lines { Decision::EmptyLines } else { decision }
    }

    /// What follows an empty line, where one stands before anything else.
    fn skip_empty_line<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        match self.prefix() {
            [] => bytes.strip_prefix(b"\r\n"),
            b"\r" => bytes.strip_prefix(b"\n"),
            _ => None,
        }
    }

    /// A server that speaks first may still be one of HTTP/2; the client's preface will tell.
    fn look_at_server(&mut self, bytes: &[u8]) -> Decision {
        let mut seen = self.server_prefix;
        let room = seen.get_mut(self.server_prefix_bytes..).unwrap_or_default();
        let added = room.len().min(bytes.len());
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = *from;
        }
        let known = self.server_prefix_bytes + added;
        if !may_be_settings(seen.get(..known).unwrap_or_default()) {
            return Decision::Opaque(Surprise::ServerFirst);
        }
        if known == SERVER_PREFIX_BYTES {
            return Decision::Http2;
        }
        self.server_prefix = seen;
        self.server_prefix_bytes = known;
        Decision::Undecided
    }

    /// Whether neither side has said anything yet.
    #[must_use]
    pub fn has_seen_nothing(&self) -> bool {
        self.prefix_bytes == 0 && self.server_prefix_bytes == 0
    }

    /// What had passed before the bytes that brought the decision.
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        self.prefix.get(..self.prefix_bytes).unwrap_or_default()
    }

    /// The same of the server's bytes.
    #[must_use]
    pub fn server_prefix(&self) -> &[u8] {
        self.server_prefix.get(..self.server_prefix_bytes).unwrap_or_default()
    }
}

/// Whether bytes can begin the header of a SETTINGS frame: a short one, no ACK, on stream 0.
fn may_be_settings(seen: &[u8]) -> bool {
    let is_length = |length: u8| length.is_multiple_of(6);
    seen.iter().zip(0..).all(|(&byte, place)| match place {
        2 => is_length(byte),
        3 => byte == 4,
        _ => byte == 0,
    })
}

/// The rule itself: from all of the first bytes, however they came.
fn decide(seen: &[u8]) -> Decision {
    if seen.starts_with(HTTP2_PREFACE) {
        return Decision::Http2;
    }
    if HTTP2_PREFACE.starts_with(seen) || seen == b"\r" {
        return Decision::Undecided;
    }
    let token = seen.iter().take_while(|byte| http1::is_token(byte)).count();
    match seen.get(token) {
        Some(b' ') if token > 0 => Decision::Http1,
        None if token < PREFIX_LIMIT_BYTES => Decision::Undecided,
        _ => Decision::Opaque(unknown(seen)),
    }
}

/// What first bytes are that no request begins with.
fn unknown(seen: &[u8]) -> Surprise {
    match seen {
        [b'\n', ..] => Surprise::BareLineFeed,
        [b'\r', ..] => Surprise::MalformedHead,
        _ => Surprise::of_first_bytes(seen),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::{Outcome, Script};
    use crate::{Class, Tracker, http2};
    use std::net::Ipv4Addr;

    fn play(script: &Script) -> Outcome {
        script.play(|| Tracker::auto(Arc::default(), Ipv4Addr::LOCALHOST.into(), [7; 8]))
    }

    fn decided(first: &[u8]) -> Decision {
        Detector::default().look(Direction::FromClient, first)
    }

    #[test]
    fn first_words() {
        for http1 in ["GET /", "PRI * HTTP/1.1", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r!", "a b", "PR "] {
            assert_eq!(decided(http1.as_bytes()), Decision::Http1, "{http1}");
        }
        for undecided in ["G", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r", "POST"] {
            assert_eq!(decided(undecided.as_bytes()), Decision::Undecided, "{undecided}");
        }
        assert_eq!(decided(HTTP2_PREFACE), Decision::Http2);
        assert_eq!(decided(&[HTTP2_PREFACE, b"\0\0"].concat()), Decision::Http2);
        assert_eq!(decided(b"\x16\x03\x01"), Decision::Opaque(Surprise::Tls));
        for unknown in [&b"\0\0\0\x08\x04\xd2\x16\x2f"[..], b" ", b"A\x16", &[b'A'; 33]] {
            let expected = Decision::Opaque(Surprise::UnknownProtocol);
            assert_eq!(decided(unknown), expected, "{unknown:?}");
        }
    }

    #[test]
    fn the_chosen_tracker_has_read_what_passed_before() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let outcome = play(&Script::new().client(get).upstream(ok));
        assert_eq!(outcome.classes(), ["http", "idle"]);
        assert_eq!(outcome.last().events.requests_begun, 1);
        let outcome = play(&Script::new().client("GE").client("T / HTTP/1.1\r\n\r\n").upstream(ok));
        assert_eq!(outcome.classes(), ["http", "http", "idle"]);
    }

    #[test]
    fn a_drain_that_began_before_the_decision_counts() {
        let get = "GET / HTTP/1.1\r\n\r\n";
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let outcome = play(&Script::new().drain().client(get).upstream(ok));
        assert!(outcome.last().farewell_done);
        assert!(outcome.client_read().contains("Connection: close"));
    }

    #[test]
    fn who_speaks_first_decides() {
        let server_first = Class::Opaque(Surprise::ServerFirst);
        let outcome = play(&Script::new().upstream("220 hello\r\n").client("EHLO a\r\n"));
        assert_eq!(outcome.last().class, server_first);
        let outcome = play(&Script::new().client("EHL").upstream("220 hello\r\n"));
        assert_eq!(outcome.last().class, server_first);
        let outcome = play(&Script::new().client("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"));
        assert_eq!(outcome.last().class, Class::Opaque(Surprise::Http2Preface));
        let outcome = play(&Script::new().upstream(&b"\0\0\x06"[..]).client("GET / HTTP/1.1\r\n"));
        assert_eq!(outcome.last().class, server_first);
        let outcome = play(&Script::new().client(HTTP2_PREFACE).upstream("\0"));
        assert_eq!(outcome.last().class, Class::Http2 { open_streams: 0 });
    }

    #[test]
    fn silence_is_not_idleness() {
        let outcome = play(&Script::new().drain().upstream("\0"));
        assert_eq!(outcome.classes(), ["silent", "tcp"]);
        assert!(outcome.states[0].is_safe_point && !outcome.states[1].is_safe_point);
    }

    #[test]
    fn where_clients_speak_first_a_silent_one_is_idle_in_a_drain() {
        let mut tracker = Tracker::auto(Arc::default(), Ipv4Addr::LOCALHOST.into(), [0; 8]);
        let clients_first = http1::DrainOptions::default().with_clients_first();
        for (options, class) in [
            (http1::DrainOptions::default(), Class::Silent),
            (clients_first, Class::SilentClient),
            (http1::DrainOptions::default(), Class::Silent),
        ] {
            assert_eq!(tracker.class(), Class::Silent);
            tracker.begin_drain(&options);
            assert_eq!((tracker.class(), tracker.is_safe_point()), (class, true));
            tracker.end_drain();
        }
    }

    /// gRPC's servers do not wait for the client's preface; they were taken for opaque ones.
    #[test]
    fn an_http2_server_may_speak_first() {
        let settings: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
        let client = [HTTP2_PREFACE, b"\0\0\0\x04\0\0\0\0\0"].concat();
        let outcome = play(&Script::new().upstream(settings).client(&client));
        assert_eq!(outcome.last().class, Class::Http2 { open_streams: 0 });
        let [cut, rest] = client.split_at(10).into();
        let outcome = play(&Script::new().client(cut).upstream(settings).client(rest));
        assert_eq!(outcome.last().class, Class::Http2 { open_streams: 0 });
        let outcome = play(&Script::new().upstream(settings).client("GET / HTTP/1.1\r\n"));
        assert_eq!(outcome.last().class, Class::Opaque(Surprise::Http2(http2::Surprise::Preface)));
    }
}
