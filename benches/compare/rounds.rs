//! Peers in turn, round by round.

use super::bench::{Bench, Lane, Turn};
use super::peers::Peer;
use super::works::Work;

/// A turn during which others used more of a core than this says little.
const DISTURBED: f64 = 0.15;

/// How often a disturbed turn is measured again.
const REPEATS: usize = 2;

/// What a peer did of one work: its turns, or why there are none.
pub(super) struct Row {
    pub(super) peer: &'static Peer,
    pub(super) turns: Result<Vec<Turn>, String>,
}

/// The peers in turn, so many rounds. Each comes first once in a while.
pub(super) fn measure(
    bench: &Bench,
    work: &Work,
    peers: &[&'static Peer],
    rounds: usize,
    repeats: bool,
) -> Vec<Row> {
    let mut lanes: Vec<Result<Lane, String>> =
        peers.iter().map(|peer| bench.lane(peer, work)).collect();
    let mut turns: Vec<Vec<Turn>> = peers.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for place in 0..peers.len() {
            let index = (round + place) % peers.len();
            let Ok(lane) = &lanes[index] else { continue };
            match undisturbed(bench, lane, work, if repeats { REPEATS } else { 0 }) {
                Ok(turn) => turns[index].push(turn),
                Err(reason) => lanes[index] = Err(reason),
            }
        }
    }
    let rows = peers.iter().zip(lanes).zip(turns);
    rows.map(|((peer, lane), turns)| Row { peer, turns: lane.map(|_| turns) }).collect()
}

/// Of several tries the one that others disturbed least.
fn undisturbed(bench: &Bench, lane: &Lane, work: &Work, repeats: usize) -> Result<Turn, String> {
    let mut best = bench.turn(lane, work)?;
    for _ in 0..repeats {
        if best.foreign <= DISTURBED {
            break;
        }
        let again = bench.turn(lane, work)?;
        let tries = best.tries + 1;
        if again.foreign < best.foreign {
            best = again;
        }
        best.tries = tries;
    }
    Ok(best)
}
