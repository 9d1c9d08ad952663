//! The upstream's direction: response heads and bodies, and the farewell.

use super::exchange::Asked;
use super::farewell::closing_head;
use super::gather::Grammar;
use super::head::{self, Response, Switch};
use super::{Before, Ending, Mode, Reading, Step, Surprise, Took, Tracker, websocket};

impl Tracker {
    /// Takes the next part of what the upstream sent; other parts may stand before it.
    pub(super) fn response_bytes(
        &mut self,
        bytes: &[u8],
        before: Before,
    ) -> Result<Took, Surprise> {
        match &mut self.responses.reading {
            Reading::Body(body) => {
                let advance = body.advance(bytes)?;
                if advance.ended {
                    self.end_response();
                }
                Ok(Took::Bytes(advance.used))
            }
            Reading::Ended => Ok(Took::Bytes(bytes.len())),
            _ => self.response_head(bytes, before),
        }
    }

    fn response_head(&mut self, bytes: &[u8], before: Before) -> Result<Took, Surprise> {
        let asked = self.outstanding.oldest().ok_or(Surprise::UnaskedResponse)?;
        let grammar = Grammar {
            parse: |bytes: &[u8]| head::response(bytes, asked),
            is_plausible: head::is_plausible_response,
        };
        let gather = &mut self.responses.gather;
        if self.drain.is_none() || gather.is_begun() {
            let Some((response, used)) = gather.take(bytes, &grammar)? else {
                return Ok(Took::Bytes(bytes.len()));
            };
            self.begin_response(&response, asked)?;
            return Ok(Took::Bytes(used));
        }
        if before == Before::Parts {
            return Ok(Took::Alone);
        }
        let Some((response, length)) = gather.peek(bytes, &grammar)? else {
            return Ok(Took::Step(Step::Hold));
        };
        let head = bytes.get(..length).unwrap_or(bytes);
        let edited = self.farewell(head, &response, asked);
        self.begin_response(&response, asked)?;
        let Some(edited) = edited else {
            return Ok(Took::Bytes(length));
        };
        self.responses.edited_bytes = length;
        Ok(Took::Step(Step::Insert(edited)))
    }

    /// The head of a response as a drain wants it, if it differs. The last response owed is the
    /// one that says close, unless it or its request has said so.
    fn farewell(&mut self, head: &[u8], response: &Response, asked: Asked) -> Option<Vec<u8>> {
        if is_interim(response.status) || response.switch != Switch::No {
            return None;
        }
        let ends_anyway = !response.persists || asked.has(Asked::CLOSE);
        if response.challenges_connection && !ends_anyway && self.patience > 1 {
            // The handshake belongs to this connection: to close it is to fail it.
            self.patience -= 1;
            return None;
        }
        let is_last = self.outstanding.count() == 1 && !self.requests.gather.has_part();
        if !is_last && !ends_anyway {
            self.patience = self.patience.saturating_sub(1);
            if self.patience == 0 {
                self.seal();
                self.is_committed = true;
            }
            return None;
        }
        let drain_deadline = self.drain.as_ref().and_then(|drain| drain.drain_deadline());
        if ends_anyway && drain_deadline.is_none() {
            return None;
        }
        let edited = closing_head(head, drain_deadline);
        self.is_committed = true;
        if !ends_anyway {
            self.announce_last(false);
        }
        Some(edited)
    }

    fn begin_response(&mut self, response: &Response, asked: Asked) -> Result<(), Surprise> {
        if response.switch != Switch::No {
            return self.switch(response);
        }
        let is_only = self.outstanding.count() == 1;
        if is_interim(response.status) {
            self.requests.awaits_continue &= !(is_only && response.status == 100);
            return Ok(());
        }
        // RFC 9110 §10.1.1 lets a client that waits send the body all the same, or not; those that
        // see an error do not.
        if is_only && response.status >= 300 {
            self.decline_body();
        }
        if !response.persists || asked.has(Asked::CLOSE) {
            self.announce_last(!response.persists);
        }
        // What the upstream makes of a body behind its answer, nobody can say.
        let is_early = is_only && !self.requests.is_at_head();
        self.is_bound |= is_early || response.authenticates_connection;
        self.is_challenged = response.challenges_connection;
        self.has_ruled_out_body |= asked.has(Asked::HEAD) || matches!(response.status, 204 | 304);
        self.responses.status = response.status;
        match response.body {
            Some(body) => self.responses.reading = Reading::Body(body),
            None => self.end_response(),
        }
        Ok(())
    }

    pub(super) fn end_response(&mut self) {
        let asked = self.outstanding.oldest().unwrap_or_default();
        self.outstanding.pop();
        self.events.response_ended(self.responses.status);
        self.responses.reading = Reading::Head;
        if let Ending::Last { upstream_leaves } = self.ending {
            self.end_exchanges(upstream_leaves);
        } else if matches!(self.requests.reading, Reading::MightSwitch)
            && self.outstanding.count() == 0
        {
            self.requests.reading = if asked.has(Asked::CLOSE) || self.ending != Ending::Open {
                Reading::Ended
            } else {
                Reading::Head
            };
        }
    }

    /// The connection stops being HTTP/1 at the end of this head.
    fn switch(&mut self, response: &Response) -> Result<(), Surprise> {
        if !matches!(self.requests.reading, Reading::MightSwitch) || self.outstanding.count() > 1 {
            return Err(Surprise::UnaskedUpgrade);
        }
        self.events.response_ended(response.status);
        self.outstanding.clear();
        self.mode = match response.switch {
            Switch::WebSocket(extensions) => {
                Mode::WebSocket(Box::new(websocket::Tracker::new(extensions)))
            }
            Switch::Http2 => Mode::Http2,
            Switch::No | Switch::Other => Mode::Upgraded,
        };
        Ok(())
    }
}

/// A 1xx that announces a final response; 101 is final.
fn is_interim(status: u16) -> bool {
    matches!(status, 100 | 102..=199)
}
