//! Scripts of events, played with the reads cut at every offset.

use super::super::fuzz::Vectors;
use super::super::{Http2, Surprise};
use super::frames::{PING, preface, settings};
use crate::Direction::{self, FromClient, FromUpstream};

enum Act {
    Read(Direction, Vec<u8>),
    Do(fn(&mut Vectors)),
    Expect(String, Box<dyn Fn(&Http2) -> bool>),
    /// What has been sent on this way since the last time.
    Sent(Direction, Vec<u8>),
}

/// How the bytes of a script are cut into reads.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Nowhere,
    At(usize),
    Everywhere,
}

#[derive(Default)]
pub struct Script(Vec<Act>);

impl Script {
    /// Nothing was sent yet.
    pub fn new() -> Self {
        Script::default()
    }

    /// Both prefaces have passed.
    pub fn begun() -> Self {
        Script::new()
            .client(preface())
            .upstream(settings())
            .reaches_upstream(preface())
            .reaches_client(settings())
    }

    fn act(mut self, act: Act) -> Self {
        self.0.push(act);
        self
    }

    pub fn client(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.act(Act::Read(FromClient, bytes.into()))
    }

    pub fn upstream(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.act(Act::Read(FromUpstream, bytes.into()))
    }

    pub fn drain(self) -> Self {
        self.act(Act::Do(Vectors::begin_drain))
    }

    pub fn then(self, act: fn(&mut Vectors)) -> Self {
        self.act(Act::Do(act))
    }

    pub fn reaches_client(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.act(Act::Sent(FromUpstream, bytes.into()))
    }

    pub fn reaches_upstream(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.act(Act::Sent(FromClient, bytes.into()))
    }

    pub fn expect(self, what: impl Into<String>, holds: impl Fn(&Http2) -> bool + 'static) -> Self {
        self.act(Act::Expect(what.into(), Box::new(holds)))
    }

    pub fn open(self, count: u32) -> Self {
        self.expect(format!("{count} streams open"), move |http2| {
            http2.open_streams() == count
                && http2.is_blocking() == (count > 0)
                && http2.surprise().is_none()
                && (count == 0 || !http2.is_safe_point())
        })
    }

    pub fn done(self) -> Self {
        self.expect("farewell done", |http2| http2.farewell_done() && !http2.is_blocking())
    }

    pub fn not_done(self) -> Self {
        self.expect("farewell not done", |http2| !http2.farewell_done())
    }

    pub fn opaque(self, surprise: Surprise) -> Self {
        self.expect(format!("{surprise:?}"), move |http2| {
            http2.surprise() == Some(surprise) && http2.is_blocking() && !http2.is_safe_point()
        })
    }

    /// Plays it with every cut.
    pub fn play(&self) {
        let total: usize = self.0.iter().map(Act::read_bytes).sum();
        self.play_cut(Cut::Nowhere);
        self.play_cut(Cut::Everywhere);
        for offset in 1..total {
            self.play_cut(Cut::At(offset));
        }
    }

    fn play_cut(&self, cut: Cut) {
        let mut vectors = Vectors::new(PING);
        let mut offset = 0;
        for (place, act) in self.0.iter().enumerate() {
            match act {
                Act::Read(direction, bytes) => {
                    for part in parts(bytes, offset, cut) {
                        vectors.read(*direction, part);
                    }
                    offset += bytes.len();
                }
                Act::Do(act) => {
                    act(&mut vectors);
                    vectors.speak();
                }
                Act::Expect(what, holds) => {
                    assert!(
                        holds(&vectors.tracker),
                        "act {place}, {cut:?}: not {what}: {:#?}",
                        vectors.tracker
                    );
                }
                Act::Sent(direction, expected) => {
                    let sent = vectors.take_sent(*direction);
                    assert!(
                        sent == *expected,
                        "act {place}, {cut:?}, {direction:?}:\n  sent {}\nwanted {}",
                        sent.escape_ascii(),
                        expected.escape_ascii()
                    );
                }
            }
        }
    }
}

impl Act {
    fn read_bytes(&self) -> usize {
        match self {
            Act::Read(_, bytes) => bytes.len(),
            _ => 0,
        }
    }
}

fn parts(bytes: &[u8], offset: usize, cut: Cut) -> Vec<&[u8]> {
    match cut {
        Cut::Nowhere => vec![bytes],
        Cut::Everywhere => bytes.chunks(1).collect(),
        Cut::At(at) => match at.checked_sub(offset) {
            Some(at) if at < bytes.len() => vec![&bytes[..at], &bytes[at..]],
            _ => vec![bytes],
        },
    }
}
