//! Where the story is told: lines, and on a terminal a live block below them.

use std::io::{self, IsTerminal, Write, stdout};
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::event::{Line, Tone};
use super::story::Story;
use crate::command::exit::Failure;

/// Rows of the live block, with an empty one above.
const ROWS: usize = 6;

/// Frames a second that are drawn at most; each is asked for by the demo.
const FRAMES_A_SECOND: u8 = 20;

/// The demo's output.
pub struct Screen {
    live: Option<Live>,
    colours: Colours,
    clock: Option<Instant>,
}

struct Live {
    bars: MultiProgress,
    rows: Vec<ProgressBar>,
}

/// Whether colours are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colours {
    On,
    Off,
}

impl Screen {
    /// A live screen on a terminal, unless `plain`; otherwise lines.
    pub fn new(plain: bool) -> Self {
        let is = |name: &str, value: &str| std::env::var_os(name).is_some_and(|set| set == value);
        let terminal = stdout().is_terminal() && !is("TERM", "dumb");
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        Screen {
            live: (terminal && !plain).then(Live::new),
            colours: if terminal && wanted { Colours::On } else { Colours::Off },
            clock: None,
        }
    }

    /// From here on lines tell how long after `at` they were said.
    pub fn start_clock(&mut self, at: Instant) {
        self.clock = Some(at);
    }

    /// Says what happened.
    ///
    /// # Errors
    /// When nobody takes the output any more: there is nothing to show to nobody.
    pub fn say(&self, line: &Line) -> Result<(), Failure> {
        let time = match self.clock {
            Some(at) => format!("{:+7.2} s", at.elapsed().as_secs_f64()),
            None => " ".repeat(9),
        };
        let time = self.colours.paint(&time, Tone::Dim);
        let topic = self.colours.paint(&format!("{:<11}", line.topic), Tone::Strong);
        self.print(&format!("{time}  {topic}  {}", self.colours.paint(&line.text, line.tone)))
    }

    /// Prints a line as it is.
    ///
    /// # Errors
    /// When nobody takes the output any more.
    pub fn print(&self, line: &str) -> Result<(), Failure> {
        let printed = match &self.live {
            // An empty line would be swallowed.
            Some(live) => live.bars.println(if line.is_empty() { " " } else { line }),
            None => writeln!(stdout(), "{line}"),
        };
        printed.map_err(|error| Failure::unavailable(error).context("the demo's output"))
    }

    /// Brings the live block up to date.
    pub fn draw(&self, story: &Story) {
        let Some(live) = &self.live else { return };
        // An empty row would not be drawn.
        if let Some(gap) = live.rows.first() {
            gap.set_message(" ");
        }
        let rows = story.rows();
        for (bar, (topic, text, tone)) in live.rows.iter().skip(1).zip(rows) {
            let topic = self.colours.paint(&format!("{topic:<11}"), Tone::Dim);
            bar.set_message(format!("           {topic}  {}", self.colours.paint(&text, tone)));
        }
    }

    /// Takes the live block away.
    pub fn clear(&mut self) {
        if let Some(live) = self.live.take() {
            drop(live);
        }
    }
}

impl Live {
    fn new() -> Self {
        let target = ProgressDrawTarget::stdout_with_hz(FRAMES_A_SECOND);
        let bars = MultiProgress::with_draw_target(target);
        let style = ProgressStyle::with_template("{msg}");
        let rows = (0..ROWS)
            .map(|_| {
                let bar = bars.add(ProgressBar::new_spinner());
                if let Ok(style) = &style {
                    bar.set_style(style.clone());
                }
                bar
            })
            .collect();
        Live { bars, rows }
    }
}

impl Drop for Live {
    /// However the demo ends, nothing half-drawn stays behind.
    fn drop(&mut self) {
        for row in &self.rows {
            row.finish_and_clear();
        }
        // A terminal that is gone needs no clearing.
        let _: io::Result<()> = self.bars.clear();
    }
}

impl Colours {
    fn paint(self, text: &str, tone: Tone) -> String {
        let code = match (self, tone) {
            (Colours::Off, _) | (_, Tone::Plain) => return text.to_owned(),
            (Colours::On, Tone::Dim) => "2",
            (Colours::On, Tone::Strong) => "1",
            (Colours::On, Tone::Good) => "32",
            (Colours::On, Tone::Water) => "36",
            (Colours::On, Tone::Warm) => "33",
            (Colours::On, Tone::Bad) => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
