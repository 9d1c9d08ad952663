//! The live block below the lines, and the bar that both share.

use std::time::SystemTime;

use super::event::Tone;
use super::newcomers::Met;
use super::story::Story;
use crate::api::report::BalancerState;
use crate::drain::Phase;

/// Characters of a full bar.
const BAR_WIDTH: u64 = 30;

impl Story {
    /// The live block.
    pub fn rows(&self) -> [(&'static str, String, Tone); 5] {
        let phases = Phase::ALL.map(|phase| match phase {
            phase if phase == self.phase => format!("[{phase}]"),
            phase => format!(" {phase} "),
        });
        let remaining =
            format!("{} {:>3} of {}", bar(self.remaining, self.most), self.remaining, self.most);
        let deadline = match self.deadline {
            None => "none: no drain is under way".to_owned(),
            Some(at) => match at.duration_since(SystemTime::now()) {
                Ok(left) => format!("in {:.1} s", left.as_secs_f64()),
                Err(_) => "passed".to_owned(),
            },
        };
        let newcomers = &self.newcomers;
        let met = match &newcomers.last {
            None => "none yet",
            Some(Met::Served) => "served",
            Some(Met::Silence) => "no answer yet",
            Some(Met::Refused) => "refused",
            Some(Met::NoHandshake) => "unanswered",
            Some(Met::Lost(_)) => "LOST",
        };
        let counts = format!("{} served, {} rejected", newcomers.served, newcomers.rejected);
        let heard = match self.last_sequence {
            0 => "nothing yet".to_owned(),
            last => format!("has report {last}; balancer: {}", balancer(self.balancer)),
        };
        [
            ("phase", phases.join("─"), Tone::Strong),
            ("remaining", remaining, Tone::Water),
            ("deadline", deadline, Tone::Plain),
            ("newcomer", format!("{met} ({counts})"), Tone::Plain),
            ("controller", heard, Tone::Plain),
        ]
    }
}

fn balancer(state: BalancerState) -> &'static str {
    match state {
        BalancerState::Pending => "sends connections",
        BalancerState::WeightZero => "weight zero",
        BalancerState::Deregistered => "deregistered",
    }
}

/// The tide: full blocks for what remains of the most there was.
pub fn bar(remaining: u64, most: u64) -> String {
    let full = (remaining * BAR_WIDTH).div_ceil(most.max(1)).min(BAR_WIDTH);
    (0..BAR_WIDTH).map(|at| if at < full { '█' } else { '░' }).collect()
}
