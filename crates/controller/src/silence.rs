//! What the silence of a target means. Pure.
//!
//! Silence alone proves nothing: the pod may have no CPU, its reports may go to another replica, the network may be
//! cut for us alone. So somebody else is asked, and a target is given up only when that one agrees.

use std::time::{Duration, Instant};

/// Looks in a row that must find nobody: one may meet a container that is being restarted.
const LOOKS: u32 = 2;

/// Between two of them: a second SYN follows the first one after a second, so each look has had two.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Until somebody is asked again, after nobody could tell: one heartbeat of a serving proxy.
const UNKNOWN_INTERVAL: Duration = Duration::from_secs(10);

/// What a look at a silent target found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is there: it answers, or takes connections though it is too busy to answer, or its balancer's check succeeds.
    There,
    /// It is not there.
    Gone,
    /// Nobody could tell.
    Unknown,
}

/// The silence of one target since its last sign of life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    since: Instant,
    /// Looks in a row that found nobody.
    gone: u32,
    /// Looks in a row of which nobody could tell.
    unknown: u32,
    next_look: Option<Instant>,
}

impl Silence {
    /// A silence that begins.
    pub(super) fn new(now: Instant) -> Self {
        Silence { since: now, gone: 0, unknown: 0, next_look: None }
    }

    /// When it began.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// There was a sign of life.
    pub(super) fn end(&mut self, now: Instant) {
        *self = Silence::new(now);
    }

    /// Whether enough looks found nobody.
    pub(super) fn is_confirmed(&self) -> bool {
        self.gone >= LOOKS
    }

    /// Whether somebody was asked, and nobody could tell.
    pub(super) fn is_unexplained(&self) -> bool {
        self.unknown > 0
    }

    /// Whether it is time for a look.
    pub(super) fn wants_look(&self, now: Instant) -> bool {
        self.next_look.is_none_or(|at| now >= at)
    }

    /// Takes what was found by a look that began at `asked_at`.
    pub(super) fn look(&mut self, finding: Finding, asked_at: Instant, now: Instant) {
        if asked_at < self.since {
            return;
        }
        let pause = match finding {
            Finding::There => return self.end(now),
            Finding::Gone => {
                (self.gone, self.unknown) = (self.gone.saturating_add(1), 0);
                LOOK_INTERVAL
            }
            Finding::Unknown => {
                (self.gone, self.unknown) = (0, self.unknown.saturating_add(1));
                UNKNOWN_INTERVAL
            }
        };
        self.next_look = Some(now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_began_before_a_sign_of_life_proves_nothing() {
        let now = Instant::now();
        let later = now + LOOK_INTERVAL;
        let mut silence = Silence::new(now);
        silence.end(later);
        for _ in 0..LOOKS {
            silence.look(Finding::Gone, now, later);
        }
        assert!(!silence.is_confirmed());
    }

    #[test]
    fn only_looks_in_a_row_that_found_nobody_confirm_it() {
        let now = Instant::now();
        let mut silence = Silence::new(now);
        for finding in [Finding::Gone, Finding::Unknown, Finding::Gone] {
            silence.look(finding, now, now);
            assert!(!silence.is_confirmed(), "{finding:?}");
        }
        assert!(!silence.wants_look(now) && silence.wants_look(now + LOOK_INTERVAL));
        silence.look(Finding::Gone, now, now + LOOK_INTERVAL);
        assert!(silence.is_confirmed());
        silence.look(Finding::There, now, now + LOOK_INTERVAL * 2);
        assert!(!silence.is_confirmed() && silence.since() == now + LOOK_INTERVAL * 2);
    }
}
