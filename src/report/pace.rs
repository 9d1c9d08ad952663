//! When the next report is due. Pure: chance comes in as a number from 0 to 1.

use std::time::Duration;

use crate::drain::Phase;

/// How long one report may take. A healthy controller needs milliseconds, and the next report says
/// the same and more.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Heartbeat while a drain is under way: people watch, and the controller must tell slow from lost.
const DRAINING_HEARTBEAT: Duration = Duration::from_secs(5);

/// Heartbeat otherwise: a thousand pods are then a hundred reports a second, and a controller that
/// calls a target lost after half a minute has missed three.
const SERVING_HEARTBEAT: Duration = Duration::from_secs(10);

/// Least distance of a report of changed counts from the report before it, while draining.
const DRAINING_COALESCE: Duration = Duration::from_millis(500);

/// The same while serving, when counts change all the time and decide nothing: a thousand busy pods
/// are then at most 200 reports a second, not 2000.
const SERVING_COALESCE: Duration = Duration::from_secs(5);

/// First pause after a failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// First and longest pause while the final report is owed: the process waits for it.
const FINAL_RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

/// First and longest pause before a lame duck asks again whether its balancer has applied weight zero.
const ASK_AGAIN: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];

/// How long after the `asked`-th answer that weight zero is pending the next report goes out: the lame
/// duck ends with the answer that it is not.
pub(super) fn ask_again(asked: u32) -> Duration {
    let [first, longest] = ASK_AGAIN;
    first.saturating_mul(1 << asked.min(16)).min(longest)
}

/// What a report is for, which says how urgent it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// No drain is under way, or it is over and the controller knows.
    Idle,
    /// A drain is under way.
    Draining,
    /// The drain is over and the controller has not acknowledged it.
    Final,
}

impl Urgency {
    /// Of a report in `phase`; `owed` while the final one has to be acknowledged.
    pub(super) fn of(phase: Phase, final_owed: FinalOwed) -> Self {
        match (phase, final_owed) {
            (Phase::Serving, _) | (Phase::Drained, FinalOwed::No) => Urgency::Idle,
            (Phase::Drained, FinalOwed::Yes) => Urgency::Final,
            (Phase::LameDuck | Phase::Draining | Phase::Closing, _) => Urgency::Draining,
        }
    }

    /// How long after a stored report the next one goes out, though nothing changed.
    pub(super) fn heartbeat(self, chance: f64) -> Duration {
        match self {
            Urgency::Idle => spread(SERVING_HEARTBEAT, chance),
            Urgency::Draining => spread(DRAINING_HEARTBEAT, chance),
            // Stored, but the snapshot did not say so yet.
            Urgency::Final => FINAL_RETRY[0],
        }
    }

    /// How long after a report one with changed counts may follow.
    pub(super) fn coalesce(self) -> Duration {
        match self {
            Urgency::Idle => SERVING_COALESCE,
            Urgency::Draining | Urgency::Final => DRAINING_COALESCE,
        }
    }

    /// How long after the `failures`-th failure in a row the next attempt goes out: twice as long
    /// each time up to a bound, minus up to half by chance, so that a fleet does not come back as one.
    pub(super) fn retry(self, failures: u32, chance: f64) -> Duration {
        let [first, longest] = match self {
            Urgency::Idle => [FIRST_RETRY, SERVING_HEARTBEAT],
            Urgency::Draining => [FIRST_RETRY, DRAINING_HEARTBEAT],
            Urgency::Final => FINAL_RETRY,
        };
        let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(longest).mul_f64(1.0 - chance / 2.0)
    }
}

/// Whether the controller still has to acknowledge the final report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FinalOwed {
    Yes,
    No,
}

/// `period`, a tenth less to a tenth more.
fn spread(period: Duration, chance: f64) -> Duration {
    period.mul_f64(0.9 + chance / 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn retries_double_up_to_the_bound_of_their_urgency() {
        let pauses =
            |urgency: Urgency| [1, 2, 3, 4, 5, 6, 7, u32::MAX].map(|n| urgency.retry(n, 0.0));
        assert_eq!(pauses(Urgency::Idle), [1, 2, 4, 8, 10, 10, 10, 10].map(Duration::from_secs));
        assert_eq!(pauses(Urgency::Draining), [1, 2, 4, 5, 5, 5, 5, 5].map(Duration::from_secs));
        let millis = [100, 200, 400, 500, 500, 500, 500, 500].map(Duration::from_millis);
        assert_eq!(pauses(Urgency::Final), millis);
    }

    #[test]
    fn chance_only_shortens_a_retry_and_centres_a_heartbeat() {
        assert_eq!(Urgency::Idle.retry(1, 1.0), SECOND / 2);
        assert_eq!(Urgency::Idle.heartbeat(0.0), SECOND * 9);
        assert_eq!(Urgency::Draining.heartbeat(0.5), SECOND * 5);
        assert_eq!(Urgency::Idle.heartbeat(1.0), SECOND * 11);
    }

    #[test]
    fn every_phase_has_its_urgency() {
        use Urgency::{Draining, Final, Idle};
        let of = |owed| Phase::ALL.map(|phase| Urgency::of(phase, owed));
        assert_eq!(of(FinalOwed::Yes), [Idle, Draining, Draining, Draining, Final]);
        assert_eq!(of(FinalOwed::No), [Idle, Draining, Draining, Draining, Idle]);
    }
}
