//! The first figure of some works as bars, in SVG that reads well on light and on dark pages.

use super::peers::Role;
use super::rounds::Measured;
use super::table::number;

const WIDTH: f64 = 760.0;
const MARGIN: f64 = 16.0;
const LABEL_WIDTH: f64 = 110.0;
const VALUE_WIDTH: f64 = 90.0;
const BAR_HEIGHT: f64 = 14.0;
const ROW_HEIGHT: f64 = 19.0;
const TITLE_HEIGHT: f64 = 34.0;

/// A bar ends at so many times what the best rival needs, so that the others can still be told apart.
const LONGEST: f64 = 3.0;

/// It brings its own ground, because a page's colours are not known to an image. A bar has three times the
/// contrast of its ground at least, as WCAG 2.2 (1.4.11) wants it.
const STYLE: &str = "
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 }
  .ground { fill: #ffffff }
  .peer { fill: #8c959f }
  .ebbtide { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .ground { fill: #0d1117 }
    .peer { fill: #656d76 }
    .ebbtide { fill: #4493f8 }
  }
";

/// Bars of Ebbtide and its rivals: the shorter, the better.
pub(super) fn bars(works: &[&Measured]) -> String {
    let mut body = String::new();
    let mut y = MARGIN;
    for measured in works {
        group(&mut body, &mut y, measured);
    }
    let height = y + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\">\n<style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\" rx=\"8\"/>\n{body}</svg>\n"
    )
}

/// One work's title, and a bar for each.
fn group(body: &mut String, y: &mut f64, Measured { work, rows, .. }: &Measured) {
    let shown = rows.iter().filter(|row| {
        matches!(row.peer.role, Role::Ebbtide | Role::Reuse | Role::Variant | Role::Rival)
    });
    let bars: Vec<_> = shown
        .filter_map(|row| Some((row.peer, row.figure(0)?.median)))
        .filter(|(_, value)| *value > 0.0)
        .collect();
    let rivals = bars.iter().filter(|(peer, _)| peer.role == Role::Rival);
    let best = rivals.map(|(_, value)| *value).min_by(f64::total_cmp).unwrap_or(1.0);
    let longest = bars.iter().map(|(_, value)| *value).fold(best, f64::max).min(best * LONGEST);
    *y += TITLE_HEIGHT;
    let (title, unit) = (work.title, work.figures[0].title(work.unit));
    *body += &text(MARGIN, *y - 10.0, "title", &format!("{title}: {unit}"));
    for (peer, value) in bars {
        let room = WIDTH - 2.0 * MARGIN - LABEL_WIDTH - VALUE_WIDTH;
        let width = room * (value / longest).min(1.0);
        let class = match peer.role {
            Role::Ebbtide | Role::Reuse | Role::Variant => "ebbtide",
            _ => "peer",
        };
        let x = MARGIN + LABEL_WIDTH;
        let is_cut = value > longest;
        let more = if is_cut { " »" } else { "" };
        *body += &text(MARGIN, *y + BAR_HEIGHT - 3.0, "name", peer.name);
        *body += &format!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y:.0}\" width=\"{width:.1}\" \
             height=\"{BAR_HEIGHT}\" rx=\"2\"/>\n"
        );
        if is_cut {
            // A gap through the bar: it is longer than it looks.
            let x = x + width - 24.0;
            *body += &format!(
                "<path class=\"ground\" d=\"M{x:.1} {y:.0}l-5 {BAR_HEIGHT}h4l5 -{BAR_HEIGHT}z\"/>\n"
            );
        }
        let label = format!("{}{more}", number(value));
        *body += &text(x + width + 6.0, *y + BAR_HEIGHT - 3.0, "value", &label);
        *y += ROW_HEIGHT;
    }
}

fn text(x: f64, y: f64, class: &str, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text class=\"{class}\" x=\"{x:.0}\" y=\"{y:.0}\">{text}</text>\n")
}
