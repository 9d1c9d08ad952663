//! What has been measured: medians, ratios, and the file that keeps all of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::machine::Machine;
use super::peers::{Out, Peer, Role};
use super::rounds::{Measured, Row};

/// All of a run.
pub(super) struct Results {
    pub(super) date: String,
    pub(super) machine: Machine,
    pub(super) rounds: usize,
    pub(super) seconds: f64,
    /// Those that were asked for, with their versions.
    pub(super) peers: Vec<(&'static Peer, Option<String>)>,
    pub(super) works: Vec<Measured>,
}

/// The middle of some figures, and how far they reach.
#[derive(Clone, Copy)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Spread {
    /// None of no figures.
    pub(super) fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.retain(|figure| figure.is_finite());
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let (&least, &most) = (figures.first()?, figures.last()?);
        let low =
            if figures.len().is_multiple_of(2) { figures[middle - 1] } else { figures[middle] };
        Some(Spread { median: f64::midpoint(low, figures[middle]), least, most })
    }
}

impl Row {
    /// One of the figures over all rounds.
    pub(super) fn figure(&self, index: usize) -> Option<Spread> {
        let turns = self.turns.as_ref().ok()?;
        Spread::of(turns.iter().map(|turn| turn.figures[index]).collect())
    }

    /// What another took of the first figure, as a part of what this one took in the same round.
    pub(super) fn ratio(&self, other: &Row) -> Option<Spread> {
        let (mine, others) = (self.turns.as_ref().ok()?, other.turns.as_ref().ok()?);
        Spread::of(mine.iter().zip(others).map(|(a, b)| a.figures[0] / b.figures[0]).collect())
    }
}

/// Ebbtide's row.
pub(super) fn ebbtide(rows: &[Row]) -> Option<&Row> {
    rows.iter().find(|row| row.peer.role == Role::Ebbtide)
}

/// The rival that took least.
pub(super) fn best_rival(rows: &[Row]) -> Option<&Row> {
    let rivals = rows.iter().filter(|row| row.peer.role == Role::Rival);
    let cost = |row: &&Row| row.figure(0).map_or(f64::INFINITY, |spread| spread.median);
    rivals.filter(|row| row.turns.is_ok()).min_by(|a, b| cost(a).total_cmp(&cost(b)))
}

impl Results {
    /// What did not work although it should have: in words, empty if all is well.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for Measured { work, rows, .. } in &self.works {
            for row in rows {
                let turns = match &row.turns {
                    Ok(turns) => turns,
                    Err(Out::Absent(_)) => continue,
                    Err(Out::Failed(reason)) => {
                        failures.push(format!("{}: {} {reason}", work.name, row.peer.name));
                        continue;
                    }
                };
                for turn in turns {
                    let error = turn.error.as_deref().unwrap_or("nothing was done");
                    if turn.errors > 0 || turn.units <= 0.0 {
                        let (errors, peer) = (turn.errors, row.peer.name);
                        failures.push(format!("{}: {peer}: {errors} errors: {error}", work.name));
                    }
                }
            }
        }
        failures
    }

    /// When, on what and with which versions, in words.
    pub(super) fn circumstances(&self) -> String {
        let versions = self
            .peers
            .iter()
            .filter_map(|(peer, version)| Some(format!("{} {}", peer.name, version.as_ref()?)));
        let versions: Vec<String> = versions.collect();
        let rows = self.works.iter().flat_map(|measured| &measured.rows);
        let turns = rows.filter_map(|row| row.turns.as_ref().ok()).flatten();
        let foreign = Spread::of(turns.map(|turn| turn.foreign).collect());
        let foreign = foreign.map_or("nothing".to_owned(), |foreign| {
            format!("{:.2} of a core (median; at most {:.2})", foreign.median, foreign.most)
        });
        format!(
            "{}, {}: {} rounds of {} s, during which other processes used {foreign}. Versions: {}.\n",
            self.date,
            self.machine.words(),
            self.rounds,
            self.seconds,
            versions.join(", ")
        )
    }

    /// Everything, with the configuration files as they were.
    pub(super) fn json(&self) -> Value {
        let works: Vec<Value> = self.works.iter().map(work_json).collect();
        let peers: Vec<Value> = self
            .peers
            .iter()
            .map(|(peer, version)| {
                let absent = peer.role != Role::Direct;
                let absent =
                    absent.then(|| peer.program().err()).flatten().map(|out| out.to_string());
                json!({ "name": peer.name, "version": version, "absent": absent })
            })
            .collect();
        json!({
            "date": self.date,
            "machine": self.machine,
            "rounds": self.rounds,
            "secondsPerTurn": self.seconds,
            "peers": peers,
            "configurations": configurations(self.peers.iter().map(|(peer, _)| *peer)),
            "works": works,
        })
    }
}

fn work_json(Measured { work, note, rows }: &Measured) -> Value {
    let names = || work.figures.iter().map(|figure| figure.name());
    let named =
        |values: &[f64]| -> BTreeMap<&str, f64> { names().zip(values.iter().copied()).collect() };
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| match &row.turns {
            Err(reason) => json!({ "peer": row.peer.name, "absent": reason.to_string() }),
            Ok(turns) => {
                let rounds: Vec<Value> = turns
                    .iter()
                    .map(|turn| {
                        json!({
                            "figures": named(&turn.figures),
                            "units": turn.units,
                            "errors": turn.errors,
                            "error": turn.error,
                            "foreign": turn.foreign,
                            "tries": turn.tries,
                        })
                    })
                    .collect();
                json!({ "peer": row.peer.name, "rounds": rounds })
            }
        })
        .collect();
    let titles = work.figures.iter().map(|figure| figure.title(work.unit));
    let titles: BTreeMap<&str, String> = names().zip(titles).collect();
    json!({ "name": work.name, "title": work.title, "note": note, "figures": titles, "peers": rows })
}

/// By their paths below `peers/`.
fn configurations(peers: impl Iterator<Item = &'static Peer>) -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare/peers");
    let folders = fs::read_dir(&root).into_iter().flatten().flatten();
    let files =
        folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
    let text = |path: &Path| {
        let name = path.strip_prefix(&root).ok()?.to_string_lossy().into_owned();
        Some((name, fs::read_to_string(path).ok()?))
    };
    let mut all: BTreeMap<_, _> = files.filter_map(|file| text(&file.path())).collect();
    for peer in peers.filter(|peer| !peer.arguments.is_empty()) {
        all.insert(format!("{} (arguments)", peer.name), peer.arguments.join(" "));
    }
    all
}
