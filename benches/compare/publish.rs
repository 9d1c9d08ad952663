//! Where the results go: a folder, and the page in docs/ if they are to be published.

use std::fs;
use std::io;
use std::path::Path;

use super::chart;
use super::results::Results;
use super::rounds::Measured;
use super::table;
use super::works::Figure;

/// The part of docs/performance.md that is written anew stands between these lines.
const BEGIN: &str = "<!-- measured: written by `make compare COMPARE=--publish` -->\n";
const END: &str = "<!-- end of what was measured -->\n";

/// The charts: their names, what they show, and the first figure of the works in each.
const CHARTS: [(&str, &str, Figure); 3] = [
    ("cpu", "CPU time per unit of work", Figure::Cpu),
    ("memory", "Memory per idle connection", Figure::MemoryPerConnection),
    ("latency", "Latency at a moderate pace, 99th percentile", Figure::P99),
];

/// Writes results.json, results.md and the charts.
pub(super) fn write(results: &Results, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("results.json"), format!("{:#}\n", results.json()))?;
    fs::write(folder.join("results.md"), table::markdown(results))?;
    charts(results, folder)
}

/// Writes the page of the repository at `root`, with its charts and all figures beside it.
pub(super) fn publish(results: &Results, root: &Path) -> io::Result<()> {
    let page = root.join("docs/performance.md");
    let text = fs::read_to_string(&page)?;
    let missing = || io::Error::other(format!("{} has lost {BEGIN}or {END}", page.display()));
    let (before, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    let mut measured = format!("\n{}\n", results.circumstances());
    for (name, title, first) in CHARTS {
        if !shown(results, first).is_empty() {
            measured += &format!("![{title}](performance/{name}.svg)\n\n");
        }
    }
    measured += &table::markdown(results);
    measured.push('\n');
    fs::write(&page, [before, BEGIN, &measured, END, after].concat())?;
    let folder = root.join("docs/performance");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("results.json"), format!("{:#}\n", results.json()))?;
    charts(results, &folder)
}

fn charts(results: &Results, folder: &Path) -> io::Result<()> {
    for (name, _, first) in CHARTS {
        fs::write(folder.join(format!("{name}.svg")), chart::bars(&shown(results, first)))?;
    }
    Ok(())
}

fn shown(results: &Results, first: Figure) -> Vec<&Measured> {
    results.works.iter().filter(|measured| measured.work.figures[0] == first).collect()
}
