//! How many reports one target may send, and how many requests one source.

use std::time::Instant;

/// Seconds' worth that may come at once, after a time without any.
const BURST_SECONDS: f64 = 2.0;

/// What is left to somebody: so many a second, and some in a burst.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    left: f64,
    counted_at: Instant,
}

impl Allowance {
    /// All of it.
    pub(super) fn new(per_second: f64, now: Instant) -> Self {
        Allowance { left: per_second * BURST_SECONDS, counted_at: now }
    }

    /// Takes one from it, if it is not used up.
    pub(super) fn take(&mut self, per_second: f64, now: Instant) -> bool {
        self.left = self.left_at(per_second, now);
        self.counted_at = now;
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
        }
        is_left
    }

    /// Whether nothing has been taken for so long that all of it is left.
    pub(super) fn is_whole(&self, per_second: f64, now: Instant) -> bool {
        self.left_at(per_second, now) >= per_second * BURST_SECONDS
    }

    fn left_at(&self, per_second: f64, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        (self.left + passed * per_second).min(per_second * BURST_SECONDS)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_and_then_so_many_a_second() {
        let mut now = Instant::now();
        let mut allowance = Allowance::new(5.0, now);
        assert_eq!((0..20).filter(|_| allowance.take(5.0, now)).count(), 10);
        now += Duration::from_secs(1);
        assert_eq!((0..20).filter(|_| allowance.take(5.0, now)).count(), 5);
        now += Duration::from_secs(3600);
        assert_eq!((0..20).filter(|_| allowance.take(5.0, now)).count(), 10);
    }
}
