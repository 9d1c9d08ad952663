//! Which run of a proxy is the current one. Pure.
//!
//! A restarted container reports under the same name as the process before it, and clocks differ and jump: so a run
//! is known by a random number of its own, and the newest run is the one that arrived last. A report of the former
//! run may still arrive late; it changes nothing while the current run speaks.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Former runs that are remembered: a container that crashes is restarted after 10 s, and then ever more slowly.
const MAX_FORMER: usize = 4;

/// How long the current run must have been silent before a former one may speak again. A request takes at most 3 s,
/// a replica passes on what is at most 10 s old and takes 3 s for that too: what arrives later than that was sent by
/// a process that lives.
pub(super) const FORMER_PERIOD: Duration = Duration::from_secs(20);

/// One run of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run(u128);

impl Run {
    /// From `runId`: 32 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_id = text.len() == 32 && text.bytes().all(|it| it.is_ascii_hexdigit());
        u128::from_str_radix(text, 16).ok().filter(|_| is_id).map(Run)
    }

    /// The run of a proxy that tells no `runId`: it is known by when it began, by its own clock.
    #[must_use]
    pub fn begun(at: SystemTime) -> Self {
        Run(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos())
    }
}

/// Why a report changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// This run has reported that or more already.
    #[error(
        "stale: sequence {sequence} is not above {last}, which this run of the proxy has reported already"
    )]
    Sequence {
        /// What came.
        sequence: u64,
        /// What had come.
        last: u64,
    },
    /// A later run reports.
    #[error("stale: a later run of the proxy reports already")]
    Run,
}

/// The runs of one target.
#[derive(Clone, Debug)]
pub(super) struct Runs {
    current: Run,
    sequence: u64,
    heard_at: Instant,
    /// Oldest first, each with its last sequence.
    former: VecDeque<(Run, u64)>,
}

impl Runs {
    /// A run that is the first.
    pub(super) fn new(run: Run, sequence: u64, now: Instant) -> Self {
        Runs { current: run, sequence, heard_at: now, former: VecDeque::new() }
    }

    /// The current one.
    pub(super) fn current(&self) -> Run {
        self.current
    }

    /// Takes the number of a report.
    ///
    /// # Errors
    ///
    /// When it is not newer than what is known; nothing changes then.
    pub(super) fn take(&mut self, run: Run, sequence: u64, now: Instant) -> Result<(), Stale> {
        if run == self.current {
            newer(sequence, self.sequence)?;
        } else {
            if let Some(at) = self.former.iter().position(|(former, _)| *former == run) {
                newer(sequence, self.former[at].1)?;
                if now.saturating_duration_since(self.heard_at) < FORMER_PERIOD {
                    return Err(Stale::Run);
                }
                self.former.remove(at);
            } else if self.former.len() == MAX_FORMER {
                self.former.pop_front();
            }
            self.former.push_back((self.current, self.sequence));
        }
        (self.current, self.sequence, self.heard_at) = (run, sequence, now);
        Ok(())
    }
}

fn newer(sequence: u64, last: u64) -> Result<(), Stale> {
    if sequence > last { Ok(()) } else { Err(Stale::Sequence { sequence, last }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_newest_run_is_the_one_that_arrived_last_whatever_the_clocks_say() {
        let now = Instant::now();
        let year_9999 = Run::begun(UNIX_EPOCH + Duration::from_secs(253_370_764_800));
        let mut runs = Runs::new(year_9999, 700, now);
        let right = Run::begun(UNIX_EPOCH + SECOND * 1_700_000_000);
        assert_eq!(runs.take(right, 1, now), Ok(()));
        assert_eq!(runs.take(right, 1, now), Err(Stale::Sequence { sequence: 1, last: 1 }));
        assert_eq!(runs.take(right, 2, now), Ok(()));
    }

    #[test]
    fn a_late_report_of_the_former_run_changes_nothing() {
        let now = Instant::now();
        let [old, new] = [1, 2].map(Run);
        let mut runs = Runs::new(old, 7, now);
        assert_eq!(runs.take(new, 1, now), Ok(()));
        assert_eq!(runs.take(old, 8, now + FORMER_PERIOD / 2), Err(Stale::Run));
        assert_eq!(runs.current(), new);
        assert_eq!(runs.take(new, 2, now + FORMER_PERIOD / 2), Ok(()));
    }

    #[test]
    fn of_two_processes_with_one_name_the_one_that_lives_is_heard_in_the_end() {
        let now = Instant::now();
        let [first, second] = [1, 2].map(Run);
        let mut runs = Runs::new(first, 7, now);
        assert_eq!(runs.take(second, 1, now), Ok(()));
        // The second ends without a word.
        assert_eq!(runs.take(first, 8, now + SECOND * 10), Err(Stale::Run));
        assert_eq!(
            runs.take(first, 7, now + SECOND * 40),
            Err(Stale::Sequence { sequence: 7, last: 7 }),
            "sent again"
        );
        assert_eq!(runs.take(first, 9, now + SECOND * 20), Ok(()));
        assert_eq!(runs.take(second, 2, now + SECOND * 21), Err(Stale::Run));
    }

    #[test]
    fn the_former_runs_that_are_remembered_have_a_bound() {
        let now = Instant::now();
        let mut runs = Runs::new(Run(0), 1, now);
        for run in 1..1000 {
            assert_eq!(runs.take(Run(run), 1, now), Ok(()));
        }
        assert_eq!(runs.former.len(), MAX_FORMER);
    }

    #[test]
    fn an_id_is_32_hexadecimal_digits() {
        assert_eq!(Run::parse("000000000000000000000000000000fF"), Some(Run(255)));
        for wrong in
            ["", "ff", "+00000000000000000000000000000ff", "0000000000000000000000000000000g"]
        {
            assert_eq!(Run::parse(wrong), None, "{wrong}");
        }
    }
}
