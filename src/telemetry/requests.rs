//! What HTTP/1 exchanges are counted by: atomics alone, because this is done for each of them.
//!
//! A recorder's histogram keeps every sample until it is folded, and reads a clock for each.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in microseconds, from a cache's answer to a long poll's, and as they are printed.
const BUCKETS: [(u64, &str); 11] = [
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (1_000_000, "1"),
    (5_000_000, "5"),
    (15_000_000, "15"),
    (60_000_000, "60"),
];

/// The requests of the process, their responses by class of status, and how long they took.
#[derive(Debug, Default)]
pub(super) struct Requests {
    begun: AtomicU64,
    ended: [AtomicU64; 5],
    /// Those up to each bound and above the one before; the last are above all.
    took: [AtomicU64; BUCKETS.len() + 1],
    took_nanoseconds: AtomicU64,
}

impl Requests {
    pub(super) fn begin(&self, requests: u32) {
        self.begun.fetch_add(u64::from(requests), Ordering::Relaxed);
    }

    pub(super) fn end(&self, responses: [u32; 5]) {
        for (counter, ended) in self.ended.iter().zip(responses) {
            if ended > 0 {
                counter.fetch_add(u64::from(ended), Ordering::Relaxed);
            }
        }
    }

    pub(super) fn time(&self, took: Duration) {
        // In nanoseconds 64 bits hold five hundred years.
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let place = BUCKETS.iter().position(|bucket| nanoseconds <= bucket.0 * 1000);
        if let Some(counter) = self.took.get(place.unwrap_or(BUCKETS.len())) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.took_nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn ended(&self) -> [u64; 5] {
        std::array::from_fn(|class| {
            self.ended.get(class).map_or(0, |counter| counter.load(Ordering::Relaxed))
        })
    }

    /// The durations as `/metrics` spells a histogram.
    ///
    /// # Source
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/>
    pub(super) fn histogram(&self, name: &str, help: &str) -> String {
        let mut text = format!("# HELP {name} {help}\n# TYPE {name} histogram\n");
        let bounds = BUCKETS.iter().map(|bucket| bucket.1).chain(["+Inf"]);
        let mut count = 0;
        for (bound, counter) in bounds.zip(&self.took) {
            count += counter.load(Ordering::Relaxed);
            // Writing to a String does not fail.
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let sum = Duration::from_nanos(self.took_nanoseconds.load(Ordering::Relaxed));
        let _ = write!(text, "{name}_sum {}\n{name}_count {count}\n\n", sum.as_secs_f64());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_falls_into_its_bucket_and_those_above() {
        let requests = Requests::default();
        for micros in [0, 1000, 1001, 60_000_000, 60_000_001] {
            requests.time(Duration::from_micros(micros));
        }
        let text = requests.histogram("a", "b");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..5],
            [
                "# HELP a b",
                "# TYPE a histogram",
                "a_bucket{le=\"0.001\"} 2",
                "a_bucket{le=\"0.0025\"} 3",
                "a_bucket{le=\"0.005\"} 3",
            ]
        );
        assert_eq!(
            lines[12..],
            [
                "a_bucket{le=\"60\"} 4",
                "a_bucket{le=\"+Inf\"} 5",
                "a_sum 120.002002",
                "a_count 5",
                "",
            ]
        );
    }

    #[test]
    fn the_bounds_are_printed_as_they_are() {
        for (micros, text) in BUCKETS {
            assert_eq!(Duration::from_micros(micros).as_secs_f64().to_string(), text);
        }
    }
}
