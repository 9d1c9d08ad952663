//! The results as Markdown.

use super::peers::Role;
use super::results::{Results, Spread, best_rival, ebbtide};
use super::rounds::{Measured, Row};
use super::works::Goals;

/// Ebbtide at a glance, then all figures, work by work.
pub(super) fn markdown(results: &Results) -> String {
    let mut text = summary(results);
    for measured in &results.works {
        text += &format!("\n### {}\n\n{}", measured.work.title, figures(measured));
    }
    text
}

fn summary(results: &Results) -> String {
    let mut text = String::from(
        "| work | figure | Ebbtide | best of HAProxy, nginx, Envoy | Ebbtide to it | wanted, stretch |\n\
         |---|---|---|---|---|---|\n",
    );
    for measured in &results.works {
        text +=
            &glance(measured, ebbtide(&measured.rows), measured.work.title, measured.work.goals);
        if let Some(goals) = measured.work.with_reuse {
            let ours = measured.rows.iter().find(|row| row.peer.role == Role::Reuse);
            let title = format!("{}, with `--upstream-reuse`", measured.work.title);
            text += &glance(measured, ours, &title, goals);
        }
    }
    text
}

/// One work's best against ours.
fn glance(measured: &Measured, ours: Option<&Row>, title: &str, goals: Goals) -> String {
    let Measured { work, rows, .. } = measured;
    let best = best_rival(rows);
    let median = |row: &Row| row.figure(0).map_or("-".to_owned(), |spread| number(spread.median));
    let best_text = best.map(|row| format!("{} {}", row.peer.name, median(row)));
    let cells = [
        title.to_owned(),
        work.figures[0].title(work.unit),
        ours.map_or("-".to_owned(), median),
        best_text.unwrap_or("-".to_owned()),
        best.zip(ours).and_then(|(best, ours)| ours.ratio(best)).map_or("-".to_owned(), spread),
        match goals {
            Goals::Ratio([goal, stretch]) => format!("{goal}, {stretch}"),
            Goals::Value(goals) => {
                format!("{} itself, {}", number(goals[0]), number(goals[1]))
            }
        },
    ];
    format!("| {} |\n", cells.join(" | "))
}

fn figures(Measured { work, note, rows }: &Measured) -> String {
    let titles = work.figures.iter().map(|figure| figure.title(work.unit));
    let titles: Vec<String> = titles.collect();
    let mut text = String::new();
    if !note.is_empty() {
        text += &format!("{note}\n\n");
    }
    text += &format!("| | {} | Ebbtide to it |\n|---|", titles.join(" | "));
    text += &"---|".repeat(titles.len() + 1);
    text.push('\n');
    let ours = ebbtide(rows);
    let mut absent = Vec::new();
    for row in rows {
        let name = row.peer.name;
        if let Err(reason) = &row.turns {
            let reason = reason.to_string();
            absent.push(format!("{name}: {}", reason.lines().next().unwrap_or_default()));
            continue;
        }
        let cells = (0..titles.len()).map(|index| row.figure(index).map_or("-".to_owned(), spread));
        let cells: Vec<String> = cells.collect();
        // What the application itself takes is nothing that a proxy is measured by.
        let ratio = ours.filter(|_| !matches!(row.peer.role, Role::Ebbtide | Role::Direct));
        let ratio = ratio.and_then(|ours| ours.ratio(row)).map_or(String::new(), spread);
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
        size if size < 100.0 && value.fract() == 0.0 => format!("{value:.0}"),
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
