//! How fast new connections come: what a pause is measured against.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Arrivals that are remembered: enough for a mean, and few enough to forget yesterday's pace soon.
const REMEMBERED: usize = 16;

/// Who came longer ago says nothing about who comes next.
const WINDOW: Duration = Duration::from_secs(60);

/// The latest arrivals of new connections. Noting one takes two atomic steps and no lock.
#[derive(Debug)]
pub(super) struct Pace {
    /// Instants are kept as milliseconds since this one.
    base: Instant,
    next: AtomicUsize,
    /// One more than the milliseconds; 0 where nobody has come.
    arrivals: [AtomicU64; REMEMBERED],
}

impl Pace {
    /// A pace of which nothing is known yet.
    pub(super) fn new(base: Instant) -> Self {
        Pace { base, next: AtomicUsize::new(0), arrivals: Default::default() }
    }

    /// A new connection came.
    pub(super) fn note(&self, now: Instant) {
        let place = self.next.fetch_add(1, Ordering::Relaxed) % REMEMBERED;
        if let Some(arrival) = self.arrivals.get(place) {
            arrival.store(self.since_base(now).saturating_add(1), Ordering::Relaxed);
        }
    }

    /// The mean gap between the arrivals of the last minute; `None` if nobody came in it.
    pub(super) fn mean_gap(&self, now: Instant) -> Option<Duration> {
        let now = self.since_base(now);
        let window = u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX).min(now);
        let (mut count, mut longest_ago) = (0, 0);
        for arrival in &self.arrivals {
            let Some(at) = arrival.load(Ordering::Relaxed).checked_sub(1) else { continue };
            let ago = now.saturating_sub(at);
            if ago <= window {
                count += 1;
                longest_ago = longest_ago.max(ago);
            }
        }
        // All of them within the window: there were more before, and these alone tell the pace.
        let period = if count == REMEMBERED as u64 { longest_ago } else { window };
        (count > 0).then(|| Duration::from_millis(period / count))
    }

    fn since_base(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.base).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean gap at 1,000 s, of arrivals at these seconds.
    fn mean_gap(arrivals: impl IntoIterator<Item = u64>) -> Option<Duration> {
        let base = Instant::now();
        let pace = Pace::new(base);
        for second in arrivals {
            pace.note(base + Duration::from_secs(second));
        }
        pace.mean_gap(base + Duration::from_secs(1000))
    }

    #[test]
    fn the_pace_is_that_of_the_last_minute() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(mean_gap([]), None);
        assert_eq!(mean_gap(0..900), None, "nobody came in the last minute");
        assert_eq!(mean_gap([999]), seconds(60));
        assert_eq!(mean_gap((0..1000).step_by(10)), seconds(10));
        assert_eq!(mean_gap(0..1000), seconds(1), "more than are remembered");
        assert_eq!(mean_gap([1000; 100]), seconds(0));
    }

    #[test]
    fn a_process_that_has_just_begun_has_seen_less_than_a_minute() {
        let base = Instant::now();
        let pace = Pace::new(base);
        assert_eq!(pace.mean_gap(base), None);
        pace.note(base + Duration::from_secs(1));
        pace.note(base + Duration::from_secs(2));
        assert_eq!(pace.mean_gap(base + Duration::from_secs(4)), Some(Duration::from_secs(2)));
    }
}
