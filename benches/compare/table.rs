//! The results as Markdown.

use super::peers::Role;
use super::results::{Results, Spread, best_rival, ebbtide};
use super::rounds::Row;
use super::works::Work;

/// Ebbtide's ratios at a glance, then all figures, work by work.
pub(super) fn markdown(results: &Results) -> String {
    let mut text = summary(results);
    for (work, rows) in &results.works {
        text += &format!("\n### {}\n\n{}", work.title, figures(work, rows));
    }
    text
}

fn summary(results: &Results) -> String {
    let mut text = String::from(
        "| work | best of HAProxy, nginx, Envoy | Ebbtide to it | at most | stretch |\n|---|---|---|---|---|\n",
    );
    for (work, rows) in &results.works {
        let best = best_rival(rows);
        let ratio = best.zip(ebbtide(rows)).and_then(|(best, ours)| ours.ratio(best));
        let goals = work.goal.map(|goals| goals.map(|goal| goal.to_string())).unwrap_or_default();
        let [goal, stretch] = goals;
        let best = best.map_or("-", |row| row.peer.name);
        let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| spread(ratio));
        text += &format!("| {} | {best} | {ratio} | {goal} | {stretch} |\n", work.title);
    }
    text
}

fn figures(work: &Work, rows: &[Row]) -> String {
    let titles: Vec<String> = work.figures().into_iter().map(|figure| figure.title).collect();
    let mut text = format!("| | {} | Ebbtide to it |\n|---|", titles.join(" | "));
    text += &"---|".repeat(titles.len() + 1);
    text.push('\n');
    let ours = ebbtide(rows);
    let mut absent = Vec::new();
    for row in rows {
        let name = row.peer.name;
        if let Err(reason) = &row.turns {
            absent.push(format!("{name} {}", reason.trim()));
            continue;
        }
        let cells = (0..titles.len()).map(|index| row.figure(index).map_or("-".to_owned(), spread));
        let cells: Vec<String> = cells.collect();
        // What the application itself takes is nothing that a proxy is measured by.
        let ratio = ours.filter(|_| !matches!(row.peer.role, Role::Ebbtide | Role::Direct));
        let ratio = ratio.and_then(|ours| ours.ratio(row)).map_or("".to_owned(), spread);
        text += &format!("| {name} | {} | {ratio} |\n", cells.join(" | "));
    }
    if !absent.is_empty() {
        text += &format!("\nAbsent: {}.\n", absent.join("; "));
    }
    text
}

/// Median, and least to most.
fn spread(spread: Spread) -> String {
    let Spread { median, least, most } = spread;
    if least.to_bits() == most.to_bits() {
        return number(median);
    }
    format!("{} ({}–{})", number(median), number(least), number(most))
}

/// To three digits.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => {
            let digits = format!("{value:.0}");
            let mut grouped = String::new();
            for (place, digit) in digits.chars().enumerate() {
                let left = digits.len() - place;
                if place > 0 && left % 3 == 0 && !grouped.ends_with('-') {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            grouped
        }
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
