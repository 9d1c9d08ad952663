//! The schedule of a drain: a pure state machine. Events and instants in, a phase out.

use std::time::{Duration, Instant};

use super::{NotUndone, Phase, Trigger};

/// How long past the deadline a force-closed connection has to take its FIN before it is reset.
///
/// # Source
/// RFC 9112 §9.6: a reset right behind the last bytes can erase them at the peer.
pub const FORCE_CLOSE_PERIOD: Duration = Duration::from_secs(2);

/// So many times the mean gap between new connections must pass without one before it is quiet.
///
/// When new connections come independently of each other, fewer than one gap in a hundred is five
/// times as long as the mean (e⁻⁵).
const QUIET_GAPS: u32 = 5;

/// The times that shape every drain of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// How long new connections are still served, at most, once a drain has begun.
    pub delay: Duration,
    /// From the drain's start to its deadline.
    pub timeout: Duration,
    /// `LameDuck` ends early when no new connection has sent a byte for this long, or for longer where
    /// new connections came rarely before the drain; zero: never.
    pub quiet_period: Duration,
    /// The last part before the deadline, in which survivors are asked to leave.
    pub close_spread: Duration,
    /// How long nothing must have blocked before the drain is over, while connections remain or may
    /// still come.
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
    /// When it was over.
    pub ended: Option<Instant>,
}

impl Progress {
    /// Why it drains: a signal, once one has come, leaves no choice, whatever began the drain.
    #[must_use]
    pub fn reason(&self) -> Trigger {
        if self.exits { Trigger::Signal } else { self.trigger }
    }

    /// How long the drain took, or has taken until `now` if it is not over.
    #[must_use]
    pub fn took(&self, now: Instant) -> Duration {
        self.ended.unwrap_or(now).saturating_duration_since(self.started)
    }
}

/// What the machine reads of the world at the moment it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Connections that keep the drain from ending.
    pub blocking: u64,
    /// Open connections that may keep it from ending again, those that block included.
    pub remaining: u64,
    /// Whether every listener rejects new connections as it should, with nothing left in its queue.
    pub doors_shut: bool,
    /// Whether every listener is closed: no connection can come any more.
    pub doors_closed: bool,
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
    /// The mean gap between new connections before the drain; absent when none came.
    mean_gap: Option<Duration>,
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
            mean_gap: None,
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
                    ended: None,
                });
                self.phase = Phase::LameDuck;
            }
        }
    }

    /// Serves again.
    ///
    /// # Errors
    /// When no drain is under way, or after a signal: a signal is final, because whoever sent it ends
    /// the process after the grace period whatever the process does.
    pub fn undrain(&mut self) -> Result<(), NotUndone> {
        match self.progress {
            None => Err(NotUndone::NoDrain),
            Some(progress) if progress.exits => Err(NotUndone::Signalled),
            Some(_) => {
                *self = Machine::new(self.schedule);
                Ok(())
            }
        }
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

    /// The mean gap between new connections shortly before the drain; `None` when none came. What is
    /// quiet is measured by it.
    pub fn expect_arrivals(&mut self, mean_gap: Option<Duration>) {
        self.mean_gap = mean_gap;
    }

    /// Ends the drain under way: there is nothing left that could be served.
    pub fn end(&mut self, now: Instant) {
        if let Some(progress) = &mut self.progress {
            progress.ended.get_or_insert(now);
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
        if self.is_over(now, observed, progress) {
            self.end(now);
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
        delay_over.min(last + self.quiet_period())
    }

    /// How long no new connection must have come. A pause that is short against the gaps before the
    /// drain says nothing: a balancer that has not stopped yet may just have nobody to send.
    fn quiet_period(&self) -> Duration {
        let gaps = self.mean_gap.map_or(Duration::ZERO, |gap| gap.saturating_mul(QUIET_GAPS));
        // No lame duck is longer than its delay, and a gap of hours must not overflow an instant.
        self.schedule
            .quiet_period
            .max(gaps)
            .min(self.schedule.delay.max(self.schedule.quiet_period))
    }

    fn closing_begins(&self, progress: Progress) -> Instant {
        progress.deadline.checked_sub(self.schedule.close_spread).unwrap_or(progress.started)
    }

    /// Over: nothing is left and nothing can come, nothing has blocked for long enough, or the deadline
    /// and its last grace have passed.
    fn is_over(&self, now: Instant, observed: Observed, progress: Progress) -> bool {
        if observed.doors_closed && observed.remaining == 0 {
            return true;
        }
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

    const BUSY: Observed =
        Observed { blocking: 1, remaining: 2, doors_shut: true, doors_closed: true };
    /// One connection remains, and nothing blocks.
    const CLEAR: Observed = Observed { blocking: 0, remaining: 1, ..BUSY };
    const OPEN: Observed = Observed { doors_shut: false, doors_closed: false, ..CLEAR };
    const EMPTY: Observed = Observed { remaining: 0, ..CLEAR };

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
        machine.end(start);
        assert_eq!(phase_at(&mut machine, start, BUSY), Phase::Drained);
        let mut idle = Machine::new(schedule());
        idle.end(start);
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
    fn a_drain_is_over_at_once_when_nothing_remains_and_every_listener_is_closed() {
        let (mut machine, start) = draining(schedule());
        machine.acknowledge();
        assert_eq!(phase_at(&mut machine, start + seconds(1), BUSY), Phase::Draining);
        let shut = Observed { doors_closed: false, ..EMPTY };
        let open = Observed { doors_shut: false, ..shut };
        for may_still_come in [CLEAR, open, shut] {
            let mut other = machine.clone();
            assert_eq!(phase_at(&mut other, start + seconds(1), may_still_come), Phase::Draining);
        }
        assert_eq!(phase_at(&mut machine, start + seconds(1), EMPTY), Phase::Drained);
    }

    #[test]
    fn a_lame_duck_with_an_open_listener_is_not_over_although_nothing_remains() {
        let (mut machine, start) = draining(schedule());
        let open = Observed { doors_shut: false, doors_closed: false, ..EMPTY };
        assert_eq!(phase_at(&mut machine, start, open), Phase::LameDuck);
    }

    #[test]
    fn a_drain_took_as_long_as_until_it_was_over() {
        let (mut machine, start) = draining(schedule());
        machine.acknowledge();
        let took = |machine: &Machine, at| machine.progress().map(|progress| progress.took(at));
        machine.advance(start + seconds(3), BUSY);
        assert_eq!(took(&machine, start + seconds(3)), Some(seconds(3)));
        machine.advance(start + seconds(10), EMPTY);
        machine.trigger(Trigger::Signal, start + seconds(20));
        machine.end(start + seconds(25));
        assert_eq!(took(&machine, start + seconds(30)), Some(seconds(10)));
    }

    #[test]
    fn a_signal_is_final_in_every_phase_whichever_came_first() {
        let (machine, start) = draining(schedule());
        for (at, observed) in
            [(0, BUSY), (1, BUSY), (10, BUSY), (270, BUSY), (300, CLEAR), (400, EMPTY)]
        {
            let mut machine = machine.clone();
            machine.advance(start + seconds(at), observed);
            let phase = machine.phase();
            machine.trigger(Trigger::Signal, start + seconds(at));
            machine.advance(start + seconds(at), observed);
            assert_eq!(machine.undrain(), Err(NotUndone::Signalled), "in {phase}");
            assert!(machine.phase() >= phase, "from {phase} to {}", machine.phase());
        }
        let mut signalled = Machine::new(schedule());
        assert_eq!(signalled.undrain(), Err(NotUndone::NoDrain));
        signalled.trigger(Trigger::Signal, start);
        signalled.trigger(Trigger::Controller, start);
        assert_eq!(signalled.undrain(), Err(NotUndone::Signalled));
    }

    /// When a lame duck ends to which nobody comes, after a pace of one new connection in so long.
    fn quiet_after(mean_gap: Option<Duration>) -> Duration {
        let (mut machine, start) = draining(Schedule { delay: seconds(60), ..schedule() });
        machine.expect_arrivals(mean_gap);
        machine.wake_at().expect("a drain is under way") - start
    }

    #[test]
    fn quiet_is_long_against_the_pace_of_new_connections_before_the_drain() {
        assert_eq!(quiet_after(None), seconds(5));
        assert_eq!(quiet_after(Some(Duration::from_millis(1))), seconds(5));
        assert_eq!(quiet_after(Some(seconds(2))), seconds(10));
        assert_eq!(quiet_after(Some(seconds(60))), seconds(60), "never longer than the delay");
        assert_eq!(quiet_after(Some(Duration::MAX)), seconds(60));
    }

    #[test]
    fn a_drain_by_the_endpoint_can_be_undone_even_when_it_is_over() {
        let (mut machine, start) = draining(Schedule { settled_for: Duration::ZERO, ..schedule() });
        machine.acknowledge();
        assert_eq!(phase_at(&mut machine, start, CLEAR), Phase::Drained);
        assert_eq!(machine.undrain(), Ok(()));
        assert_eq!((machine.phase(), machine.progress()), (Phase::Serving, None));
    }

    proptest! {
        /// Whatever happens in whatever order: the phase never goes back but by undrain, the
        /// deadline never moves, no new work is served after the delay, and the drain ends.
        #[test]
        fn a_drain_only_moves_forward(events in prop::collection::vec((0u8..8, 0u64..40), 1..60)) {
            let (mut machine, start) = draining(schedule());
            let deadline = start + seconds(300);
            let mut now = start;
            let mut is_signalled = false;
            for (event, passed) in events {
                now += seconds(passed);
                let before = machine.phase();
                match event {
                    0 => {
                        machine.trigger(Trigger::Signal, now);
                        is_signalled = true;
                    }
                    1 => machine.acknowledge(),
                    2 => machine.arrival(now),
                    3 => machine.advance(now, BUSY),
                    4 => machine.advance(now, CLEAR),
                    6 => machine.advance(now, EMPTY),
                    7 if is_signalled => {
                        prop_assert_eq!(machine.undrain(), Err(NotUndone::Signalled));
                    }
                    7 => {}
                    _ => machine.advance(now, OPEN),
                }
                prop_assert!(machine.phase() >= before);
                prop_assert_eq!(machine.progress().map(|progress| progress.deadline), Some(deadline));
                let is_advance = (3..7).contains(&event);
                if is_advance && now >= start + seconds(10) {
                    prop_assert!(machine.phase() >= Phase::Draining);
                }
                if event == 3 && now < deadline && before < Phase::Drained {
                    prop_assert!(machine.phase() < Phase::Drained);
                }
                if is_advance {
                    // Something to wait for, and never in the past: no busy loop.
                    prop_assert!(machine.phase() == Phase::Drained || machine.wake_at() > Some(now));
                }
            }
            machine.advance(now.max(deadline) + FORCE_CLOSE_PERIOD, BUSY);
            prop_assert_eq!(machine.phase(), Phase::Drained);
        }
    }
}
