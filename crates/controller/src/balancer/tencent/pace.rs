//! Not more requests than the service allows.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Lets requests through one after the other, `interval` apart.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    /// When the next one may go.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(interval: Duration) -> Self {
        Pace { interval, next: Mutex::new(None) }
    }

    /// Waits until it is one's turn. A turn that is waited for and not taken is lost to all.
    pub(super) async fn turn(&self) {
        let now = Instant::now();
        let mine = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let mine = next.map_or(now, |next| next.max(now));
            *next = Some(mine + self.interval);
            mine
        };
        sleep_until(mine).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_goes_before_the_interval_is_over() {
        let pace = Pace::new(Duration::from_millis(100));
        let start = Instant::now();
        for _ in 0..11 {
            pace.turn().await;
        }
        assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
        tokio::time::advance(Duration::from_secs(9)).await;
        let rested = Instant::now();
        pace.turn().await;
        assert_eq!(rested.elapsed(), Duration::ZERO, "whoever rested need not wait");
        pace.turn().await;
        assert!(rested.elapsed() >= Duration::from_millis(100), "and may not hurry for it");
    }
}
