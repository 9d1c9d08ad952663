//! What the bytes mean: sans-I/O trackers that watch a connection go by and know its safe points.
//!
//! The relay shows every byte it has read to the connection's tracker before it sends it on. A
//! tracker never writes, never blocks, knows no clock, keeps no body, and holds at most a bounded
//! number of bytes. While no drain is under way its only answer is [`Step::Pass`] for all it was
//! shown: the bytes out are the bytes in. Any surprise makes it opaque for good.
//!
//! ```text
//!   client ──bytes──▶ ┌───────┐ ──Pass, Drop, Insert──▶ upstream
//!                     │Tracker│
//!   client ◀───────── └───────┘ ◀──bytes── upstream
//!                         ▲
//!                 begin_drain, leave
//! ```
//!
//! # Example
//! A request passes unchanged, and the connection is busy until its response has passed too:
//! ```
//! use std::net::{IpAddr, Ipv4Addr};
//! use std::sync::Arc;
//! use ebbtide_protocol::{Class, Direction, Step, Tracker, http1};
//!
//! let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
//! let mut tracker = Tracker::http1(Arc::new(http1::Options::default()), client);
//! let request = b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n";
//! let step = tracker.step(Direction::FromClient, request);
//! assert_eq!(step, Step::Pass(request.len()));
//! assert_eq!(tracker.class(), Class::Http);
//!
//! let response = b"HTTP/1.1 204 No Content\r\n\r\n";
//! let step = tracker.step(Direction::FromUpstream, response);
//! assert_eq!(step, Step::Pass(response.len()));
//! assert_eq!(tracker.class(), Class::Idle);
//! ```

#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "counts of bytes within a header or a frame: each cast's bound stands beside it"
)]

mod class;
mod client_hello;
pub mod detect;
mod events;
pub mod http1;
pub mod http2;
mod surprise;
mod tracker;
mod unfinished;
pub mod websocket;
mod word;

#[cfg(test)]
mod first_bytes;
#[cfg(test)]
mod testing;

pub use class::Class;
pub use events::Events;
pub use surprise::Surprise;
pub use tracker::Tracker;
pub use unfinished::Unfinished;
pub use word::Word;

/// Which way bytes travel through a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Read from the client, sent to the upstream.
    FromClient,
    /// Read from the upstream, sent to the client.
    FromUpstream,
}

impl Direction {
    /// The other one.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Direction::FromClient => Direction::FromUpstream,
            Direction::FromUpstream => Direction::FromClient,
        }
    }
}

/// What the relay does with the bytes that it has just shown to a tracker, from the first one on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this many of them on unchanged. Never 0.
    Pass(usize),
    /// Take this many of them out of the stream. Never 0.
    Drop(usize),
    /// Send these bytes here, then ask again with the same input.
    Insert(Vec<u8>),
    /// Keep what is left and show it again, with what follows it, when more has been read: an
    /// edit must see a whole head. Only in a drain or where request heads are edited, and never
    /// for more than a bounded number of bytes.
    Hold,
}
