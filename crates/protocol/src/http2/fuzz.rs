//! A relay without sockets, which holds the tracker to its contract; for tests and `cargo fuzz`.

use super::Http2;
use crate::{Direction, Step};

/// The most that the tracker may ask to hold back: a GOAWAY's or a PING's 17 bytes but one.
const HELD_BYTES: usize = 16;

/// One direction of the relay.
#[derive(Debug, Default)]
struct Lane {
    read: Vec<u8>,
    pending: Vec<u8>,
    sent: Vec<u8>,
}

/// A relay that moves vectors.
#[derive(Debug)]
pub struct Vectors {
    /// What it asks.
    pub tracker: Http2,
    client: Lane,
    upstream: Lane,
    is_transparent: bool,
}

impl Vectors {
    /// A connection on which nothing has moved yet.
    #[must_use]
    pub fn new(ping: [u8; 8]) -> Self {
        Vectors {
            tracker: Http2::new(ping),
            client: Lane::default(),
            upstream: Lane::default(),
            is_transparent: true,
        }
    }

    /// Begins a drain.
    pub fn begin_drain(&mut self) {
        self.is_transparent = false;
        self.tracker.begin_drain();
        self.speak();
    }

    /// Lets `bytes` arrive, in one read.
    ///
    /// # Panics
    /// When the tracker breaks its contract.
    pub fn read(&mut self, direction: Direction, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let (tracker, lane) = self.parts(direction);
        lane.read.extend_from_slice(bytes);
        lane.pending.extend_from_slice(bytes);
        let most_steps = 8 + 4 * lane.pending.len();
        let mut steps = 0;
        while !lane.pending.is_empty() {
            steps += 1;
            assert!(steps <= most_steps, "the tracker goes round in circles");
            match tracker.step(direction, &lane.pending) {
                Step::Pass(count) => {
                    assert!(count > 0);
                    lane.sent.extend(lane.pending.drain(..count));
                }
                Step::Drop(count) => {
                    assert!(count > 0);
                    lane.pending.drain(..count);
                }
                Step::Insert(bytes) => {
                    assert!(!bytes.is_empty());
                    lane.sent.extend(bytes);
                }
                Step::Hold => {
                    assert!(lane.pending.len() <= HELD_BYTES, "too much is held back");
                    break;
                }
            }
        }
        if self.is_transparent {
            let lane = self.lane(direction);
            assert_eq!(steps, 1, "without a drain one answer is for everything");
            assert!(lane.read == lane.sent, "without a drain the bytes out are the bytes in");
        }
        self.speak();
    }

    /// Asks for what may be said now.
    ///
    /// # Panics
    /// When the tracker breaks its contract.
    pub fn speak(&mut self) {
        for direction in [Direction::FromClient, Direction::FromUpstream] {
            let (tracker, lane) = self.parts(direction);
            if lane.pending.is_empty()
                && let Some(bytes) = tracker.interject(direction)
            {
                assert!(!self.is_transparent && !bytes.is_empty());
                self.lane_mut(direction).sent.extend(bytes);
            }
        }
    }

    /// A side closes its half.
    pub fn end(&mut self, direction: Direction) {
        self.tracker.end(direction);
        self.speak();
    }

    /// What was sent on, this way, since this was last asked.
    pub fn take_sent(&mut self, direction: Direction) -> Vec<u8> {
        let lane = self.lane_mut(direction);
        lane.read.clear();
        std::mem::take(&mut lane.sent)
    }

    fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::FromClient => &self.client,
            Direction::FromUpstream => &self.upstream,
        }
    }

    fn lane_mut(&mut self, direction: Direction) -> &mut Lane {
        self.parts(direction).1
    }

    fn parts(&mut self, direction: Direction) -> (&mut Http2, &mut Lane) {
        match direction {
            Direction::FromClient => (&mut self.tracker, &mut self.client),
            Direction::FromUpstream => (&mut self.tracker, &mut self.upstream),
        }
    }
}

/// Runs whatever `data` says: every 0x80.. byte is an act, every other one the size of a read.
///
/// # Panics
/// When the tracker breaks its contract.
pub fn run(data: &[u8]) {
    let mut vectors = Vectors::new(*b"farewell");
    let mut direction = Direction::FromClient;
    let mut rest = data;
    while let Some((&act, after)) = rest.split_first() {
        rest = after;
        match act {
            0xff => vectors.begin_drain(),
            0xfe => vectors.tracker.end_drain(),
            0xfd => vectors.tracker.overdue(),
            0xfc => vectors.end(direction),
            0xfb if !vectors.is_transparent => vectors.tracker.leave(),
            0xfa => vectors.read(Direction::FromClient, &client_preface()),
            0xf9 => vectors.read(Direction::FromUpstream, &SETTINGS),
            0x80.. => {
                direction = match direction {
                    Direction::FromClient => Direction::FromUpstream,
                    Direction::FromUpstream => Direction::FromClient,
                }
            }
            size => {
                let (now, later) = rest.split_at(rest.len().min(usize::from(size)));
                rest = later;
                vectors.read(direction, now);
            }
        }
        let tracker = &vectors.tracker;
        assert!(tracker.open_streams() <= super::MAX_STREAMS);
        assert!(!tracker.farewell_done() || !tracker.is_blocking());
        assert!(tracker.heap_bytes() <= super::HEAP_BYTES);
    }
}

/// An empty SETTINGS frame.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

fn client_preface() -> Vec<u8> {
    [super::frame::PREFACE.as_slice(), &SETTINGS].concat()
}
