//! The clients' fate, counted.

use std::time::Instant;

use super::event::{Ended, Line, Tone};
use super::newcomers::Met;

/// Those who were there when the signal came.
#[derive(Debug)]
pub struct Clients {
    pub total: usize,
    pub begun: usize,
    pub whole: usize,
    pub lost: usize,
    pub verified_bytes: u64,
    pub last_end: Option<Instant>,
}

impl Clients {
    pub fn new(total: usize) -> Self {
        Clients { total, begun: 0, whole: 0, lost: 0, verified_bytes: 0, last_end: None }
    }

    /// Whether every client is at work, or has failed at once.
    pub fn have_all_begun(&self) -> bool {
        self.begun + self.lost >= self.total
    }

    /// Whether every client knows its fate.
    pub fn have_all_ended(&self) -> bool {
        self.whole + self.lost >= self.total
    }

    pub fn ended(&mut self, ended: Ended) -> Option<Line> {
        self.verified_bytes += ended.verified_bytes;
        self.last_end = self.last_end.max(Some(ended.at));
        match ended.whole {
            Ok(()) => {
                self.whole += 1;
                None
            }
            Err(why) => {
                self.lost += 1;
                Some(Line::new("lost", format!("a connection: {why}")).tone(Tone::Bad))
            }
        }
    }
}

/// Those who come one after the other.
#[derive(Debug, Default)]
pub struct Newcomers {
    pub served: usize,
    pub served_in_drain: usize,
    pub rejected: usize,
    pub lost: usize,
    pub last: Option<Met>,
    in_drain: bool,
}

impl Newcomers {
    /// From here on it is news again what they meet.
    pub fn drain_begun(&mut self) {
        self.in_drain = true;
        self.last = None;
    }

    /// Counts; a line when it is not what the one before met.
    pub fn met(&mut self, met: Met) -> Option<Line> {
        let (text, tone) = match &met {
            Met::Served => {
                self.served += 1;
                self.served_in_drain += usize::from(self.in_drain);
                (if self.in_drain { "is still served" } else { "is served" }.to_owned(), Tone::Good)
            }
            Met::Silence => ("has no answer to its handshake yet".to_owned(), Tone::Dim),
            Met::Refused => {
                self.rejected += 1;
                ("is refused by the kernel".to_owned(), Tone::Water)
            }
            Met::NoHandshake => {
                self.rejected += 1;
                ("gave up: its handshake was never answered".to_owned(), Tone::Warm)
            }
            Met::Lost(why) => {
                self.lost += 1;
                (format!("was let in and lost: {why}"), Tone::Bad)
            }
        };
        if self.last.as_ref() == Some(&met) {
            return None;
        }
        self.last = Some(met);
        Some(Line::new("newcomer", text).tone(tone))
    }
}
