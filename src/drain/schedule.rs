//! The schedule of a drain: a pure state machine. Events and instants in, a phase out.

use std::time::{Duration, Instant};

use super::{Phase, Trigger};

/// How long past the deadline a force-closed connection has to take its FIN before it is reset.
///
/// # Source
/// RFC 9112 §9.6: a reset right behind the last bytes can erase them at the peer.
pub const FORCE_CLOSE_PERIOD: Duration = Duration::from_secs(2);

/// The times that shape every drain of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// How long new connections are still served, at most, once a drain has begun.
    pub delay: Duration,
    /// From the drain's start to its deadline.
    pub timeout: Duration,
    /// `LameDuck` ends early when no new connection has sent a byte for this long; zero: never.
    pub quiet_period: Duration,
    /// The last part before the deadline, in which survivors are asked to leave.
    pub close_spread: Duration,
    /// How long there must be nothing that blocks before the drain is over.
    pub settled_for: Duration,
}

/// A drain that is under way, or over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What began it.
    pub trigger: Trigger,
    /// When it began.
    pub started: Instant,
    /// When what is left is force-closed. Never moves.
    pub deadline: Instant,
    /// Whether the process is to exit when it is over.
    pub exits: bool,
}

impl Progress {
    /// Why it drains: a signal, once one has come, leaves no choice, whatever began the drain.
    #[must_use]
    pub fn reason(&self) -> Trigger {
        if self.exits { Trigger::Signal } else { self.trigger }
    }
}

/// What the machine reads of the world at the moment it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Connections that keep the drain from ending.
    pub blocking: u64,
    /// Whether every listener rejects new connections as it should, with nothing left in its queue.
    pub doors_shut: bool,
}

/// The drain's state machine.
#[derive(Clone, Debug)]
pub struct Machine {
    schedule: Schedule,
    phase: Phase,
    progress: Option<Progress>,
    acknowledged: bool,
    held_until: Option<Instant>,
    last_arrival: Option<Instant>,
    clear_since: Option<Instant>,
}

impl Machine {
    /// A machine that serves.
    #[must_use]
    pub fn new(schedule: Schedule) -> Self {
        Machine {
            schedule,
            phase: Phase::Serving,
            progress: None,
            acknowledged: false,
            held_until: None,
            last_arrival: None,
            clear_since: None,
        }
    }

    /// The current phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The drain, if one was begun and not undone.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        self.progress
    }

    /// Begins a drain; a second trigger moves no clock, but a signal makes the process exit at the end.
    pub fn trigger(&mut self, trigger: Trigger, now: Instant) {
        let exits = trigger == Trigger::Signal;
        match &mut self.progress {
            Some(progress) => progress.exits |= exits,
            None => {
                self.progress = Some(Progress {
                    trigger,
                    started: now,
                    deadline: now + self.schedule.timeout,
                    exits,
                });
                self.phase = Phase::LameDuck;
            }
        }
    }

    /// Serves again. `false` when there is nothing to undo, or when the process is already leaving.
    pub fn undrain(&mut self) -> bool {
        let leaving =
            self.phase == Phase::Drained && self.progress.is_some_and(|progress| progress.exits);
        if self.progress.is_none() || leaving {
            return false;
        }
        *self = Machine::new(self.schedule);
        true
    }

    /// The balancer has applied weight zero: nobody sends new connections any more.
    pub fn acknowledge(&mut self) {
        self.acknowledged |= self.phase == Phase::LameDuck;
    }

    /// Keeps a lame duck that was asked for from going further until then, or lets it go on. A signal
    /// leaves no choice, and the deadline stays where it is.
    pub fn hold(&mut self, until: Option<Instant>) {
        self.held_until = until;
    }

    /// A new connection, not a health check, has sent its first byte.
    pub fn arrival(&mut self, now: Instant) {
        self.last_arrival = Some(now);
    }

    /// Ends the drain under way: there is nothing left that could be served.
    pub fn end(&mut self) {
        if self.progress.is_some() {
            self.phase = Phase::Drained;
        }
    }

    /// Moves on as far as the clock and the world allow.
    pub fn advance(&mut self, now: Instant, observed: Observed) {
        let Some(progress) = self.progress else {
            return;
        };
        self.note_clear(now, observed);
        if self.phase == Phase::LameDuck && now >= self.lame_duck_ends(progress) {
            self.phase = Phase::Draining;
        }
        let rejecting = matches!(self.phase, Phase::Draining | Phase::Closing);
        if !rejecting {
            return;
        }
        if self.is_over(now, progress) {
            self.phase = Phase::Drained;
        } else if now >= self.closing_begins(progress) {
            self.phase = Phase::Closing;
        }
    }

    /// When [`Machine::advance`] should be called next, if nothing happens before.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        let progress = self.progress?;
        let settled = self.clear_since.map(|since| since + self.schedule.settled_for);
        match self.phase {
            Phase::Serving | Phase::Drained => None,
            Phase::LameDuck => Some(self.lame_duck_ends(progress)),
            Phase::Draining => {
                let closing = self.closing_begins(progress);
                Some(settled.map_or(closing, |at| at.min(closing)))
            }
            Phase::Closing => {
                let end = progress.deadline + FORCE_CLOSE_PERIOD;
                Some(settled.map_or(end, |at| at.min(end)))
            }
        }
    }

    /// Remembers since when nothing blocks.
    fn note_clear(&mut self, now: Instant, observed: Observed) {
        if observed.blocking == 0 && observed.doors_shut {
            self.clear_since.get_or_insert(now);
        } else {
            self.clear_since = None;
        }
    }

    fn lame_duck_ends(&self, progress: Progress) -> Instant {
        let free = self.free_lame_duck_ends(progress);
        match self.held_until {
            Some(until) if !progress.exits => free.max(until.min(self.closing_begins(progress))),
            _ => free,
        }
    }

    /// When it ends if nobody holds it.
    fn free_lame_duck_ends(&self, progress: Progress) -> Instant {
        if self.acknowledged {
            return progress.started;
        }
        let delay_over = progress.started + self.schedule.delay;
        if self.schedule.quiet_period.is_zero() {
            return delay_over;
        }
        let last = self.last_arrival.map_or(progress.started, |at| at.max(progress.started));
        delay_over.min(last + self.schedule.quiet_period)
    }

    fn closing_begins(&self, progress: Progress) -> Instant {
        progress.deadline.checked_sub(self.schedule.close_spread).unwrap_or(progress.started)
    }

    /// Over: nothing has blocked for long enough, or the deadline and its last grace have passed.
    fn is_over(&self, now: Instant, progress: Progress) -> bool {
        let settled = self.clear_since.is_some_and(|since| {
            now >= since + self.schedule.settled_for || now >= progress.deadline
        });
        settled || now >= progress.deadline + FORCE_CLOSE_PERIOD
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUSY: Observed = Observed { blocking: 1, doors_shut: true };
    const CLEAR: Observed = Observed { blocking: 0, doors_shut: true };
    const OPEN: Observed = Observed { blocking: 0, doors_shut: false };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn schedule() -> Schedule {
        Schedule {
            delay: seconds(10),
            timeout: seconds(300),
            quiet_period: seconds(5),
            close_spread: seconds(30),
            settled_for: seconds(2),
        }
    }

    /// A machine whose drain began at the returned instant.
    fn draining(schedule: Schedule) -> (Machine, Instant) {
        let start = Instant::now();
        let mut machine = Machine::new(schedule);
        machine.trigger(Trigger::Endpoint, start);
        (machine, start)
    }

    fn phase_at(machine: &mut Machine, at: Instant, observed: Observed) -> Phase {
        machine.advance(at, observed);
        machine.phase()
    }

    #[test]
    fn lame_duck_ends_at_the_delay_while_connections_arrive() {
        let (mut machine, start) = draining(schedule());
        for second in 0..10 {
            machine.arrival(start + seconds(second));
            assert_eq!(phase_at(&mut machine, start + seconds(second), BUSY), Phase::LameDuck);
        }
        assert_eq!(machine.wake_at(), Some(start + seconds(10)));
        assert_eq!(phase_at(&mut machine, start + seconds(10), BUSY), Phase::Draining);
    }

    #[test]
    fn lame_duck_ends_when_it_is_quiet() {
        let (mut machine, start) = draining(schedule());
        machine.arrival(start + seconds(1));
        assert_eq!(machine.wake_at(), Some(start + seconds(6)));
        assert_eq!(phase_at(&mut machine, start + seconds(5), BUSY), Phase::LameDuck);
        assert_eq!(phase_at(&mut machine, start + seconds(6), BUSY), Phase::Draining);
    }

    #[test]
    fn lame_duck_ends_when_the_balancer_has_acknowledged() {
        let (mut machine, start) = draining(schedule());
        machine.acknowledge();
        assert_eq!(phase_at(&mut machine, start, BUSY), Phase::Draining);
    }

    #[test]
    fn a_held_lame_duck_goes_on_serving_until_it_is_released_or_signalled() {
        let (mut machine, start) = draining(schedule());
        machine.hold(Some(start + seconds(100)));
        machine.acknowledge();
        assert_eq!(phase_at(&mut machine, start + seconds(60), BUSY), Phase::LameDuck);
        assert_eq!(machine.wake_at(), Some(start + seconds(100)));
        let mut released = machine.clone();
        released.hold(None);
        assert_eq!(phase_at(&mut released, start + seconds(60), BUSY), Phase::Draining);
        machine.trigger(Trigger::Signal, start + seconds(61));
        assert_eq!(phase_at(&mut machine, start + seconds(61), BUSY), Phase::Draining);
    }

    #[test]
    fn a_hold_ends_by_itself_and_never_outlasts_the_deadline() {
        let (mut machine, start) = draining(schedule());
        machine.hold(Some(start + seconds(15)));
        assert_eq!(phase_at(&mut machine.clone(), start + seconds(15), BUSY), Phase::Draining);
        machine.hold(Some(start + seconds(1000)));
        assert_eq!(phase_at(&mut machine, start + seconds(270), BUSY), Phase::Closing);
    }

    #[test]
    fn an_acknowledgement_before_the_drain_ends_nothing() {
        let start = Instant::now();
        let mut machine = Machine::new(schedule());
        machine.acknowledge();
        machine.trigger(Trigger::Endpoint, start);
        assert_eq!(phase_at(&mut machine, start, BUSY), Phase::LameDuck);
    }

    #[test]
    fn a_second_trigger_starts_no_second_clock_but_a_signal_makes_it_exit() {
        let (mut machine, start) = draining(schedule());
        machine.trigger(Trigger::Signal, start + seconds(7));
        let progress = machine.progress().expect("a drain is under way");
        assert_eq!(progress.deadline, start + seconds(300));
        assert_eq!(progress.trigger, Trigger::Endpoint);
        assert!(progress.exits);
    }

    #[test]
    fn a_drain_that_is_ended_waits_for_nothing() {
        let (mut machine, start) = draining(schedule());
        machine.end();
        assert_eq!(phase_at(&mut machine, start, BUSY), Phase::Drained);
        let mut idle = Machine::new(schedule());
        idle.end();
        assert_eq!(idle.phase(), Phase::Serving);
    }

    #[test]
    fn drained_needs_shut_doors_and_a_settled_count() {
        let (mut machine, start) = draining(schedule());
        machine.acknowledge();
        assert_eq!(phase_at(&mut machine, start + seconds(5), OPEN), Phase::Draining);
        assert_eq!(phase_at(&mut machine, start + seconds(6), CLEAR), Phase::Draining);
        assert_eq!(phase_at(&mut machine, start + seconds(7), BUSY), Phase::Draining);
        assert_eq!(phase_at(&mut machine, start + seconds(9), CLEAR), Phase::Draining);
        assert_eq!(machine.wake_at(), Some(start + seconds(11)));
        assert_eq!(phase_at(&mut machine, start + seconds(11), CLEAR), Phase::Drained);
    }

    #[test]
    fn survivors_are_asked_to_leave_and_the_end_comes_after_the_deadline() {
        let (mut machine, start) = draining(schedule());
        assert_eq!(phase_at(&mut machine, start + seconds(10), BUSY), Phase::Draining);
        assert_eq!(machine.wake_at(), Some(start + seconds(270)));
        assert_eq!(phase_at(&mut machine, start + seconds(270), BUSY), Phase::Closing);
        assert_eq!(phase_at(&mut machine, start + seconds(300), BUSY), Phase::Closing);
        assert_eq!(phase_at(&mut machine, start + seconds(302), BUSY), Phase::Drained);
    }

    #[test]
    fn past_the_deadline_nothing_need_settle() {
        let (mut machine, start) = draining(schedule());
        assert_eq!(phase_at(&mut machine, start + seconds(300), BUSY), Phase::Closing);
        assert_eq!(phase_at(&mut machine, start + seconds(301), CLEAR), Phase::Drained);
    }

    #[test]
    fn a_drain_after_a_signal_can_be_undone_until_it_is_over() {
        let (mut machine, start) = draining(schedule());
        machine.trigger(Trigger::Signal, start);
        machine.acknowledge();
        machine.advance(start, CLEAR);
        assert!(machine.undrain());
        assert_eq!(machine.phase(), Phase::Serving);
        machine.trigger(Trigger::Signal, start);
        machine.acknowledge();
        machine.advance(start, CLEAR);
        assert_eq!(phase_at(&mut machine, start + seconds(2), CLEAR), Phase::Drained);
        assert!(!machine.undrain());
    }

    #[test]
    fn a_drain_by_the_endpoint_can_be_undone_even_when_it_is_over() {
        let (mut machine, start) = draining(Schedule { settled_for: Duration::ZERO, ..schedule() });
        machine.acknowledge();
        assert_eq!(phase_at(&mut machine, start, CLEAR), Phase::Drained);
        assert!(machine.undrain());
    }

    proptest! {
        /// Whatever happens in whatever order: the phase never goes back but by undrain, the
        /// deadline never moves, no new work is served after the delay, and the drain ends.
        #[test]
        fn a_drain_only_moves_forward(events in prop::collection::vec((0u8..6, 0u64..40), 1..60)) {
            let (mut machine, start) = draining(schedule());
            let deadline = start + seconds(300);
            let mut now = start;
            for (event, passed) in events {
                now += seconds(passed);
                let before = machine.phase();
                match event {
                    0 => machine.trigger(Trigger::Signal, now),
                    1 => machine.acknowledge(),
                    2 => machine.arrival(now),
                    3 => machine.advance(now, BUSY),
                    4 => machine.advance(now, CLEAR),
                    _ => machine.advance(now, OPEN),
                }
                prop_assert!(machine.phase() >= before);
                prop_assert_eq!(machine.progress().map(|progress| progress.deadline), Some(deadline));
                if event >= 3 && now >= start + seconds(10) {
                    prop_assert!(machine.phase() >= Phase::Draining);
                }
                if event == 3 && now < deadline && before < Phase::Drained {
                    prop_assert!(machine.phase() < Phase::Drained);
                }
                if event >= 3 {
                    // Something to wait for, and never in the past: no busy loop.
                    prop_assert!(machine.phase() == Phase::Drained || machine.wake_at() > Some(now));
                }
            }
            machine.advance(now.max(deadline) + FORCE_CLOSE_PERIOD, BUSY);
            prop_assert_eq!(machine.phase(), Phase::Drained);
        }
    }
}
