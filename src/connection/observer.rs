//! What a relay tells about its connection: its class, its requests, and whether it blocks a drain.

use std::time::Instant;

use super::serve::Serving;
use super::status::Heard;
use super::table::Entry;
use crate::drain::Guard;
use crate::protocol::http1::DrainOptions;
use crate::protocol::{Class, Events, Word};
use crate::reactor;
use crate::relay::{Lent, Observer};

/// Keeps a connection's entry, guard and counts in step with what its bytes say.
pub(super) struct Watcher<'a> {
    pub(super) serving: &'a Serving,
    pub(super) entry: &'a Entry,
    /// Held while the connection keeps a drain from ending. A new connection does until its first
    /// bytes say otherwise: its request may be on its way. A health check has none.
    guard: Option<Guard>,
    /// When the request in flight had been read.
    asked: Option<Instant>,
}

impl<'a> Watcher<'a> {
    pub(super) fn new(serving: &'a Serving, entry: &'a Entry, guard: Option<Guard>) -> Self {
        Watcher { serving, entry, guard, asked: None }
    }

    /// The guard, for whoever ends the connection.
    pub(super) fn into_guard(self) -> Option<Guard> {
        self.guard
    }
}

impl Observer for Watcher<'_> {
    fn first_byte(&mut self) {
        if self.entry.class() != Class::HealthCheck {
            self.serving.drain.arrival();
        }
    }

    fn class(&mut self, class: Class) {
        if self.entry.control.is_health_check() {
            return;
        }
        self.entry.control.set_class(class);
        match class {
            Class::Http2 { .. } => self.entry.listener.hear(Heard::Http),
            Class::Opaque(surprise) => {
                self.entry.listener.hear(Heard::Unknown);
                self.serving.metrics.opaque(surprise.name());
            }
            _ => {}
        }
        let guard = self.guard.get_or_insert_with(|| self.serving.drain.guard());
        match (class.excluded(), guard.is_held()) {
            (Some(_), true) => guard.release(),
            (None, false) => guard.hold(),
            _ => return,
        }
        // Twice in each exchange; what remains is told while a drain is on.
        if !self.serving.drain.is_serving() {
            self.serving.table.note_change();
        }
    }

    fn events(&mut self, events: Events) {
        let metrics = &self.serving.metrics;
        if events.requests_begun > 0 {
            if !self.entry.control.is_health_check() {
                self.entry.listener.hear(Heard::Http);
            }
            metrics.requests(events.requests_begun);
            self.asked = (events.requests_begun == 1 && self.asked.is_none()).then(reactor::now);
        }
        if events.responses_ended != [0; 5] {
            metrics.responses(events.responses_ended);
            if let Some(at) = self.asked.take() {
                metrics.request_took(reactor::now().saturating_duration_since(at));
            }
        }
        if events.refused > 0 {
            metrics.request_refused();
        }
    }

    fn told(&self, farewell: Word) {
        let metrics = &self.serving.metrics;
        match farewell {
            Word::FirstGoaway => metrics.goaway_sent("first"),
            Word::FinalGoaway => metrics.goaway_sent("final"),
            Word::Close => {
                metrics.websocket_close_sent(self.serving.settings.manners.websocket_code);
            }
        }
    }

    fn lent(&self, lent: Lent) {
        self.serving.metrics.upstream_lent(match lent {
            Lent::Parked => "parked",
            Lent::Reused => "reused",
            Lent::Resent => "resent",
            Lent::Lost => "lost",
        });
    }

    fn drain_options(&self) -> DrainOptions {
        let mut options = DrainOptions::default();
        if self.entry.listener.speaks_http_alone() {
            options = options.with_clients_first();
        }
        match self.serving.drain.state().progress {
            Some(progress) if self.serving.settings.drain_deadline_header => {
                let deadline = crate::drain::wall_clock(progress.deadline);
                options.with_drain_deadline(&httpdate::fmt_http_date(deadline))
            }
            _ => options,
        }
    }
}
