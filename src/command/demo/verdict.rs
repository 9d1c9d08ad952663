//! What it all came to.

use std::time::{Duration, Instant};

use super::story::Story;
use crate::command::exit::Exit;

/// The end of the story.
#[derive(Debug)]
pub struct Verdict {
    lines: Vec<String>,
    exit: Exit,
}

impl Verdict {
    pub fn new(story: &Story) -> Self {
        let clients = &story.clients;
        let newcomers = &story.newcomers;
        let lost = clients.lost + newcomers.lost;
        let mut lines = vec![
            String::new(),
            format!(
                "connections   {} open{}, {} finished whole, {} lost",
                clients.begun,
                if story.signal_at().is_some() { " at SIGTERM" } else { "" },
                clients.whole,
                clients.lost
            ),
            format!(
                "bytes         {} came back, every one compared",
                megabytes(clients.verified_bytes)
            ),
            format!(
                "newcomers     {} served ({} of them after SIGTERM), {} rejected, {} lost",
                newcomers.served, newcomers.served_in_drain, newcomers.rejected, newcomers.lost
            ),
        ];
        lines.extend(ending(story));
        let clean = story.exit.is_some_and(|(status, _)| status.success());
        let verdict = match (lost, clean) {
            (0, true) => "lost 0: every connection ended by itself, and none was cut".to_owned(),
            (0, false) => "lost 0, but the proxy did not end well".to_owned(),
            (lost, _) => format!("lost {lost}"),
        };
        lines.extend([String::new(), verdict]);
        let exit = match (lost, clean) {
            (0, true) => Exit::Done,
            _ if story.forced > 0 => Exit::DeadlinePassed,
            _ => Exit::Bug,
        };
        Verdict { lines, exit }
    }

    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// 0 only if nothing was lost and the proxy says the same.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

/// The order and the distances of the last events.
fn ending(story: &Story) -> Vec<String> {
    let (Some(signal), Some(last), Some((status, exited))) =
        (story.signal_at(), story.clients.last_end, story.exit)
    else {
        return vec!["end           before the signal".to_owned()];
    };
    let after_last = |at: Instant| match at.checked_duration_since(last) {
        Some(after) => format!("{} later", short(after)),
        None => format!("{} earlier", short(last - at)),
    };
    let deregistered = match story.deregistered_at {
        Some(at) => format!("deregistered {}", after_last(at)),
        None => "never deregistered".to_owned(),
    };
    let code = status.code().map_or_else(|| status.to_string(), |code| code.to_string());
    vec![format!(
        "end           last connection at {} after SIGTERM; {deregistered}, proxy gone {} (exit {code})",
        short(last - signal),
        after_last(exited),
    )]
}

fn short(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

fn megabytes(bytes: u64) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}
