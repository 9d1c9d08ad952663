//! What does watching a protocol cost, beside moving the same bytes as plain tcp?
//!
//! Of the proxy alone, per unit of work: CPU time, the protocols in turn, as a ratio within each
//! round; and the instructions that it runs outside the kernel, which other programs don't change. With
//! `--brief` once, and without the instructions: that it works, and no figure.

#![expect(clippy::cast_precision_loss, reason = "a bench counts to millions, not to 2^53")]

mod lane;
#[path = "../measure/mod.rs"]
mod measure;
mod proxy;
mod work;

use lane::Lane;
use proxy::Proxy;
use work::Work;

/// Rounds that the same processes do: how well a process happens to lie in memory is worth several
/// hundredths, and stays with it for as long as it lives.
const ROUNDS_OF_A_PROCESS: usize = 10;

/// Short rounds, so that what else runs on the machine falls on all protocols alike.
const ROUND_LAPS: usize = 100;

/// So many that an event loop finds several ready at once, as in a busy pod.
const CLIENTS: usize = 32;

/// Laps of a single client whose instructions are counted; what starts and ends a run is counted
/// off. Of one client, because how many an event loop finds ready differs from run to run.
const COUNTED_LAPS: usize = 20_000;

fn main() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds = if is_brief() { 1 } else { rounds.unwrap_or(41) };
    println!("| work | protocol | CPU per unit (us) | to tcp: median (quartiles) | instructions |");
    println!("|---|---|---|---|---|");
    // cargo bench says --bench; a word of a work's name chooses.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&String> = arguments.iter().filter(|it| !it.starts_with("--")).collect();
    for work in work::all() {
        if wanted.is_empty() || wanted.iter().any(|word| work.name.contains(word.as_str())) {
            measure(work, rounds);
        }
    }
}

fn is_brief() -> bool {
    std::env::args().any(|argument| argument == "--brief")
}

fn measure(work: &'static Work, rounds: usize) {
    let mut costs = vec![Vec::new(); work.protocols.len()];
    while costs[0].len() < rounds {
        let left = rounds - costs[0].len();
        share(work, left.min(ROUNDS_OF_A_PROCESS), &mut costs);
    }
    for (protocol, cost) in work.protocols.iter().zip(&costs) {
        let ratios = cost.iter().zip(&costs[0]).map(|(cost, tcp)| cost / tcp).collect();
        let [low, median, high] = quartiles(ratios);
        let [_, us, _] = quartiles(cost.clone());
        let instructions = instructions_per_unit(work, protocol)
            .map_or_else(|| "-".to_owned(), |count| format!("{count:.0}"));
        let name = work.name;
        println!(
            "| {name} | {protocol} | {us:.2} | {median:.3} ({low:.3}-{high:.3}) | {instructions} |"
        );
    }
}

/// So many rounds of processes that start now; what each round costs is added for each protocol.
fn share(work: &'static Work, rounds: usize, costs: &mut [Vec<f64>]) {
    let mut lanes: Vec<Lane> = work
        .protocols
        .iter()
        .map(|protocol| Lane::new(work, CLIENTS, |app| Proxy::start(app, protocol)))
        .collect();
    // The first round warms up and is not counted.
    for round in 0..=rounds {
        for turn in 0..lanes.len() {
            // Each comes first in its turn.
            let index = (round + turn) % lanes.len();
            let before = lanes[index].proxy.cpu_seconds();
            let units = lanes[index].run(ROUND_LAPS);
            let cpu = lanes[index].proxy.cpu_seconds() - before;
            if round > 0 {
                costs[index].push(cpu * 1e6 / units as f64);
            }
        }
    }
}

fn quartiles(mut figures: Vec<f64>) -> [f64; 3] {
    figures.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| figures[figures.len() * quarter / 4])
}

/// What a long run takes beyond a short one.
fn instructions_per_unit(work: &'static Work, protocol: &str) -> Option<f64> {
    let run = |laps| {
        let mut lane = Lane::new(work, 1, |app| Proxy::start_counted(app, protocol));
        let units = lane.run(laps);
        Some((lane.end().instructions()?, units))
    };
    if is_brief() || !proxy::can_count() {
        return None;
    }
    let (few, few_units) = run(1)?;
    let (many, many_units) = run(1 + COUNTED_LAPS)?;
    Some((many as f64 - few as f64) / (many_units - few_units) as f64)
}
