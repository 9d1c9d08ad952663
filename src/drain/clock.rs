//! Instants as times on the wall, for those outside the process.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

/// The time on the wall at an instant. The pair that ties both clocks is taken once a process, so
/// that a deadline is the same text in every report.
#[must_use]
pub fn wall_clock(instant: Instant) -> SystemTime {
    static BASE: OnceLock<(Instant, SystemTime)> = OnceLock::new();
    let (base, wall) = *BASE.get_or_init(|| (Instant::now(), SystemTime::now()));
    match instant.checked_duration_since(base) {
        Some(since) => wall + since,
        None => wall - base.duration_since(instant),
    }
}
