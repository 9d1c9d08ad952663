//! How many connections blocked, second by second: what the page draws.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::drain::Drain;

/// Five minutes, the default drain time-out, at one sample a second.
const SAMPLES: usize = 300;
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// The last samples. Clones are the same history.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<VecDeque<u64>>>);

impl History {
    /// The samples, oldest first.
    #[must_use]
    pub fn samples(&self) -> Vec<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Takes a sample a second for as long as the process runs.
    pub async fn record(self, drain: Drain) {
        let mut clock = tokio::time::interval(SAMPLE_INTERVAL);
        clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            clock.tick().await;
            let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if samples.len() == SAMPLES {
                samples.pop_front();
            }
            samples.push_back(drain.blocking());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Schedule;

    #[tokio::test(start_paused = true)]
    async fn the_history_is_bounded_and_keeps_the_newest() {
        let schedule = Schedule {
            delay: Duration::ZERO,
            timeout: Duration::from_secs(1),
            quiet_period: Duration::ZERO,
            close_spread: Duration::ZERO,
            settled_for: Duration::ZERO,
        };
        let drain = Drain::new(schedule);
        let history = History::default();
        let recording = tokio::spawn(history.clone().record(drain.clone()));
        tokio::time::sleep(SAMPLE_INTERVAL * 400).await;
        let _guard = drain.guard();
        tokio::time::sleep(SAMPLE_INTERVAL * 2).await;
        let samples = history.samples();
        assert_eq!(samples.len(), SAMPLES);
        assert_eq!(samples.last(), Some(&1));
        recording.abort();
    }
}
