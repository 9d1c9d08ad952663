//! Peers in turn, round by round.

use super::bench::{Bench, Lane, Turn};
use super::peers::{Out, Peer};
use super::table::number;
use super::works::{Task, Work};

/// A turn during which others used more of a core than this says little.
const DISTURBED: f64 = 0.15;

/// Rounds that the same processes do. How well one happens to lie in memory is worth several hundredths,
/// and stays with it for as long as it lives.
const ROUNDS_OF_A_PROCESS: usize = 3;

/// How often a disturbed turn is measured again.
pub(super) const REPEATS: usize = 2;

/// What a peer did of one work: its turns, or why there are none.
pub(super) struct Row {
    pub(super) peer: &'static Peer,
    pub(super) turns: Result<Vec<Turn>, Out>,
}

/// A work, and what has been seen of it.
pub(super) struct Measured {
    pub(super) work: Work,
    /// What was the same for all, in words.
    pub(super) note: String,
    pub(super) rows: Vec<Row>,
}

/// The peers in turn, so many rounds. Each comes first once in a while.
pub(super) fn measure(
    bench: &Bench,
    work: Work,
    peers: &[&'static Peer],
    rounds: usize,
    repeats: usize,
) -> Measured {
    let lanes: Vec<Result<Lane, Out>> = peers.iter().map(|peer| bench.lane(peer, &work)).collect();
    let mut course = Course { bench, work, lanes, rate: 0.0, repeats };
    let note = course.prepare(rounds);
    let mut turns: Vec<Vec<Turn>> = peers.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        if round > 0 && round % ROUNDS_OF_A_PROCESS == 0 {
            course.start_anew();
        }
        for place in 0..peers.len() {
            let index = (round + place) % peers.len();
            turns[index].extend(course.undisturbed(index));
        }
    }
    let rows = peers.iter().zip(course.lanes).zip(turns);
    let rows = rows.map(|((peer, lane), turns)| Row { peer, turns: lane.map(|_| turns) });
    Measured { rows: rows.collect(), note, work: course.work }
}

struct Course<'a> {
    bench: &'a Bench,
    work: Work,
    lanes: Vec<Result<Lane, Out>>,
    /// The pace of all, where one is set.
    rate: f64,
    repeats: usize,
}

impl Course<'_> {
    /// Settles what must be the same for all.
    fn prepare(&mut self, rounds: usize) -> String {
        match &self.work.task {
            Task::Latency(traffic) => {
                let lanes: Vec<&Lane> = self.lanes.iter().flatten().collect();
                self.rate = self.bench.moderate_rate(&lanes, traffic).unwrap_or(1.0);
                let (rate, unit) = (number(self.rate), self.work.unit.name);
                format!(
                    "{rate} {unit}s a second, 30 % of what the slowest can do, on {} connections.",
                    traffic.connections
                )
            }
            Task::Idle(traffic) => {
                let count = traffic.connections.min(self.bench.most_open);
                format!("{} connections.", number(count as f64))
            }
            Task::Drain(_) => format!("Drains of each: {rounds}."),
            _ => String::new(),
        }
    }

    /// New processes, where a turn does not bring its own. A peer that fails is out.
    fn start_anew(&mut self) {
        if !matches!(self.work.task, Task::Cost(_) | Task::Latency(_) | Task::Http2) {
            return;
        }
        for lane in &mut self.lanes {
            if let Ok(Lane { peer, .. }) = lane {
                *lane = self.bench.lane(peer, &self.work);
            }
        }
    }

    /// Of several tries the one that others disturbed least. A peer that fails is out.
    fn undisturbed(&mut self, index: usize) -> Option<Turn> {
        let lane = self.lanes[index].as_mut().ok()?;
        let mut turn = || self.bench.turn(lane, &self.work, self.rate);
        let best = turn().and_then(|mut best| {
            for tries in 2..2 + self.repeats {
                if best.foreign <= DISTURBED {
                    break;
                }
                let again = turn()?;
                if again.foreign < best.foreign {
                    best = again;
                }
                best.tries = tries;
            }
            Ok(best)
        });
        best.map_err(|reason| self.lanes[index] = Err(reason)).ok()
    }
}
