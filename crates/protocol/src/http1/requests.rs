//! The client's direction: request heads and bodies, and what may follow them.

use super::exchange::Asked;
use super::forward::{forwarding_head, without_http2};
use super::gather::Grammar;
use super::head::{self, Parsed, Request};
use super::{Before, Ending, Health, Reading, Refused, Step, Surprise, Took, Tracker};

impl Tracker {
    /// Takes the next part of what the client sent; other parts may stand before it.
    pub(super) fn request_bytes(&mut self, bytes: &[u8], before: Before) -> Result<Took, Surprise> {
        match &mut self.requests.reading {
            Reading::Head => self.request_head(bytes, before),
            Reading::Body(body) => {
                let advance = body.advance(bytes)?;
                self.requests.awaits_continue = false;
                if advance.ended {
                    self.end_request();
                }
                Ok(Took::Bytes(advance.used))
            }
            Reading::MightSwitch => Err(Surprise::EarlyBytes),
            Reading::Declined => Err(Surprise::DeclinedBody),
            Reading::Ended => Ok(self.refuse(bytes, before)),
        }
    }

    fn request_head(&mut self, bytes: &[u8], before: Before) -> Result<Took, Surprise> {
        if !self.requests.gather.is_begun() {
            if let Some(skipped) = self.skip_empty_line(bytes)? {
                // An upstream bears with few of them, and the next client has its own.
                self.is_bound = true;
                return Ok(Took::Bytes(skipped));
            }
            if let Some(forwarding) = self.options.forwarding {
                if before == Before::Parts {
                    return Ok(Took::Alone);
                }
                let Some((request, length)) = self.peek_request_head(bytes)? else {
                    return Ok(Took::Step(Step::Hold));
                };
                let head = bytes.get(..length).unwrap_or(bytes);
                let edited = forwarding_head(head, self.client, forwarding);
                if request.asked.has(Asked::HTTP2) {
                    return self.decline_http2(&edited, length);
                }
                self.begin_request(&request)?;
                self.requests.edited_bytes = length;
                return Ok(Took::Step(Step::Insert(edited)));
            }
        }
        self.take_request_head(bytes).map(Took::Bytes)
    }

    /// Forwards a request without its offer of HTTP/2, whose streams would not name the client.
    fn decline_http2(&mut self, head: &[u8], length: usize) -> Result<Took, Surprise> {
        let edited = without_http2(head);
        let health_checks = &self.options.health_checks;
        let (request, _) = head::request(&edited, health_checks)?.ok_or(Surprise::MalformedHead)?;
        self.begin_request(&request)?;
        self.requests.edited_bytes = length;
        Ok(Took::Step(Step::Insert(edited)))
    }

    /// Reads bytes that were passed on before this tracker was chosen: all of them are a part of an
    /// empty line or of a request's first word.
    pub(super) fn take_request_start(&mut self, bytes: &[u8]) -> Result<(), Surprise> {
        if let Some(skipped) = self.skip_empty_line(bytes)? {
            self.is_bound = true;
            debug_assert_eq!(skipped, bytes.len());
            return Ok(());
        }
        self.take_request_head(bytes).map(|_| ())
    }

    /// Reads on in a head that is passed on as it comes: how many of the bytes belong to it.
    pub(super) fn take_request_head(&mut self, bytes: &[u8]) -> Result<usize, Surprise> {
        let options = &*self.options;
        let found = self.requests.gather.take(
            bytes,
            &Grammar {
                parse: |bytes: &[u8]| head::request(bytes, &options.health_checks),
                is_plausible: head::is_plausible_request,
            },
        )?;
        let Some((request, used)) = found else {
            return Ok(bytes.len());
        };
        self.begin_request(&request)?;
        Ok(used)
    }

    fn peek_request_head(&mut self, bytes: &[u8]) -> Parsed<Request> {
        let options = &*self.options;
        self.requests.gather.peek(
            bytes,
            &Grammar {
                parse: |bytes: &[u8]| head::request(bytes, &options.health_checks),
                is_plausible: head::is_plausible_request,
            },
        )
    }

    /// Empty lines before a request are nobody's (RFC 9112 §2.2); old clients send one after a body.
    fn skip_empty_line(&mut self, bytes: &[u8]) -> Result<Option<usize>, Surprise> {
        let had_return = std::mem::take(&mut self.requests.has_return);
        match (had_return, bytes) {
            (false, [b'\r', b'\n', ..]) => Ok(Some(2)),
            (false, [b'\r']) => {
                self.requests.has_return = true;
                Ok(Some(1))
            }
            (true, [b'\n', ..]) => Ok(Some(1)),
            (false, [b'\n', ..]) => Err(Surprise::BareLineFeed),
            (true, _) | (false, [b'\r', ..]) => Err(Surprise::MalformedHead),
            _ => Ok(None),
        }
    }

    fn begin_request(&mut self, request: &Request) -> Result<(), Surprise> {
        self.outstanding.push(request.asked)?;
        self.events.request_begun();
        self.is_bound |= request.authenticates_connection
            || request.asked.might_switch()
            || request.asked.has(Asked::STRAY_BODY);
        self.health = match self.health {
            Health::NoRequest | Health::AllChecks if request.is_health_check => Health::AllChecks,
            _ => Health::Mixed,
        };
        self.requests.awaits_continue = request.expects_continue;
        match request.body {
            Some(body) => self.requests.reading = Reading::Body(body),
            None => self.end_request(),
        }
        Ok(())
    }

    fn end_request(&mut self) {
        let asked = self.outstanding.newest().unwrap_or_default();
        self.requests.reading = match self.ending {
            Ending::Last { .. } | Ending::Over { .. } => Reading::Ended,
            _ if asked.might_switch() => Reading::MightSwitch,
            Ending::Open if !asked.has(Asked::CLOSE) => Reading::Head,
            _ => Reading::Ended,
        };
    }

    /// The upstream has answered a request without asking for the body that was to follow.
    pub(super) fn decline_body(&mut self) {
        if self.requests.awaits_continue && matches!(self.requests.reading, Reading::Body(_)) {
            self.requests.reading = match self.ending {
                Ending::Last { .. } => Reading::Ended,
                _ => Reading::Declined,
            };
        }
    }

    /// Bytes after the last request: a drain keeps them from the upstream, which would take them
    /// for a request that nobody answers.
    pub(super) fn refuse(&mut self, bytes: &[u8], before: Before) -> Took {
        if self.drain.is_none() {
            return Took::Bytes(bytes.len());
        }
        if before == Before::Parts {
            return Took::Alone;
        }
        self.is_committed = true;
        let is_request = bytes.iter().any(|byte| !matches!(byte, b'\r' | b'\n'));
        match self.requests.refused {
            Refused::Request => {}
            _ if is_request => {
                self.requests.refused = Refused::Request;
                self.events.refused = 1;
            }
            _ => self.requests.refused = Refused::Lines,
        }
        Took::Step(Step::Drop(bytes.len()))
    }
}
