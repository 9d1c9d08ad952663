//! The drain of this process: the machine, the real clock, and what the rooms tell it.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tracing::info;

use super::pace::Pace;
use super::schedule::{Machine, Observed, Progress, Schedule};
use super::{NotUndone, Phase, Trigger};

/// A phase and the drain it belongs to, as everyone who watches sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The current phase.
    pub phase: Phase,
    /// The drain, if one was begun and not undone.
    pub progress: Option<Progress>,
}

/// A handle to the drain of this process. Clones are the same drain.
#[derive(Clone, Debug)]
pub struct Drain(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    machine: Mutex<Machine>,
    state: watch::Sender<State>,
    phases: watch::Sender<Phase>,
    /// A copy of the phase that the data path can read without a lock.
    phase: AtomicU8,
    blocking: AtomicU64,
    /// Guards, held or not: open connections that may block again.
    remaining: AtomicU64,
    pace: Pace,
    open_doors: AtomicUsize,
    /// Doors that are open, or shut and not closed.
    unclosed_doors: AtomicUsize,
    recompute: Notify,
}

impl Drain {
    /// A drain that has not begun.
    #[must_use]
    pub fn new(schedule: Schedule) -> Self {
        let state = State { phase: Phase::Serving, progress: None };
        Drain(Arc::new(Inner {
            machine: Mutex::new(Machine::new(schedule)),
            state: watch::Sender::new(state),
            phases: watch::Sender::new(Phase::Serving),
            phase: AtomicU8::new(Phase::Serving as u8),
            blocking: AtomicU64::new(0),
            remaining: AtomicU64::new(0),
            pace: Pace::new(now()),
            open_doors: AtomicUsize::new(0),
            unclosed_doors: AtomicUsize::new(0),
            recompute: Notify::new(),
        }))
    }

    /// The current phase and drain.
    #[must_use]
    pub fn state(&self) -> State {
        *self.0.state.borrow()
    }

    /// Watches the state: level-triggered, a late watcher sees where things stand.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.0.state.subscribe()
    }

    /// Watches the phase alone.
    #[must_use]
    pub fn watch_phase(&self) -> watch::Receiver<Phase> {
        self.0.phases.subscribe()
    }

    /// Connections that keep the drain from ending.
    #[must_use]
    pub fn blocking(&self) -> u64 {
        self.0.blocking.load(Ordering::Acquire)
    }

    /// The current phase; costs no lock.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let phase = usize::from(self.0.phase.load(Ordering::Acquire));
        Phase::ALL.get(phase).copied().unwrap_or(Phase::Drained)
    }

    /// Whether no drain is under way; costs no lock.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.0.phase.load(Ordering::Acquire) == Phase::Serving as u8
    }

    /// Begins a drain, or joins the one under way.
    pub fn trigger(&self, trigger: Trigger) {
        self.apply(|machine, now| {
            if machine.progress().is_none() {
                machine.expect_arrivals(self.0.pace.mean_gap(now));
            }
            machine.trigger(trigger, now);
        });
    }

    /// Serves again.
    ///
    /// # Errors
    /// When no drain is under way, or a signal has come, which is final.
    pub fn undrain(&self) -> Result<(), NotUndone> {
        let mut undone = Err(NotUndone::NoDrain);
        self.apply(|machine, _| undone = machine.undrain());
        undone
    }

    /// Ends the drain under way, because there is nothing left that could be served.
    pub fn end(&self) {
        self.apply(Machine::end);
    }

    /// The balancer has applied weight zero.
    pub fn acknowledge(&self) {
        self.apply(|machine, _| machine.acknowledge());
    }

    /// The controller wants a drain that was asked for to wait as a lame duck for as long as this, unless
    /// it says so again; without it, to go on.
    pub fn hold(&self, period: Option<Duration>) {
        self.apply(|machine, now| machine.hold(period.map(|period| now + period)));
    }

    /// A new connection has sent its first byte. Takes no lock while no lame duck waits for quiet.
    pub fn arrival(&self) {
        self.0.pace.note(now());
        if self.0.phase.load(Ordering::Relaxed) == Phase::LameDuck as u8 {
            self.apply(Machine::arrival);
        }
    }

    /// A guard for one connection that keeps the drain from ending until it is released or dropped.
    #[must_use]
    pub fn guard(&self) -> Guard {
        self.0.remaining.fetch_add(1, Ordering::AcqRel);
        let mut guard = Guard { drain: self.clone(), held: false };
        guard.hold();
        guard
    }

    /// A door that new connections come through: open until [`Door::shut`] or [`Door::close`].
    #[must_use]
    pub fn door(&self) -> Door {
        self.0.open_doors.fetch_add(1, Ordering::AcqRel);
        self.0.unclosed_doors.fetch_add(1, Ordering::AcqRel);
        Door { drain: self.clone(), open: true, closed: false }
    }

    /// Resolves when the current drain's deadline has come; never while there is none.
    pub async fn deadline(&self) {
        let mut states = self.watch();
        loop {
            let state = *states.borrow_and_update();
            let deadline = async {
                match state.progress {
                    Some(progress) => tokio::time::sleep_until(progress.deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = deadline => return,
                changed = states.changed() => {
                    if changed.is_err() {
                        // We hold a handle, so the sender lives; a lost sender is not a trigger.
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }

    /// Drives the clock. Runs as long as the process; dropping it stops the phases, not the connections.
    pub async fn run(self) {
        loop {
            let wake_at = self.lock().wake_at();
            let clock = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = clock => self.apply(|_, _| ()),
                () = self.0.recompute.notified() => {}
            }
        }
    }

    /// A count left zero or came to it: while a drain is on, the machine wants to know.
    fn crossed_zero(&self) {
        if !self.is_serving() {
            self.apply(|_, _| ());
        }
    }

    fn apply(&self, change: impl FnOnce(&mut Machine, Instant)) {
        let mut machine = self.lock();
        let now = now();
        change(&mut machine, now);
        let observed = Observed {
            // The doors first: who came through one has a guard before it is shut.
            doors_shut: self.0.open_doors.load(Ordering::Acquire) == 0,
            doors_closed: self.0.unclosed_doors.load(Ordering::Acquire) == 0,
            blocking: self.blocking(),
            remaining: self.0.remaining.load(Ordering::Acquire),
        };
        machine.advance(now, observed);
        let state = State { phase: machine.phase(), progress: machine.progress() };
        self.0.phase.store(state.phase as u8, Ordering::Release);
        let before = self.0.state.borrow().phase;
        if before != state.phase {
            info!(
                from = before.name(),
                phase = state.phase.name(),
                trigger = state.progress.map(|progress| progress.reason().name()),
                blocking = observed.blocking,
                "phase"
            );
        }
        // Published under the lock, so that watchers see the phases in their order.
        self.0.state.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
        self.0
            .phases
            .send_if_modified(|phase| std::mem::replace(phase, state.phase) != state.phase);
        drop(machine);
        self.0.recompute.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.0.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clock that tests with a paused runtime can move.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Keeps the drain from ending while it is held. One a connection, dropped last.
#[derive(Debug)]
pub struct Guard {
    drain: Drain,
    held: bool,
}

impl Guard {
    /// Whether it keeps the drain from ending.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Something is in flight again.
    pub fn hold(&mut self) {
        let drain = &self.drain;
        if !std::mem::replace(&mut self.held, true)
            && drain.0.blocking.fetch_add(1, Ordering::AcqRel) == 0
        {
            drain.crossed_zero();
        }
    }

    /// Nothing is in flight: the drain may end.
    pub fn release(&mut self) {
        let drain = &self.drain;
        if std::mem::replace(&mut self.held, false)
            && drain.0.blocking.fetch_sub(1, Ordering::AcqRel) == 1
        {
            drain.crossed_zero();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let inner = &self.drain.0;
        // Before the guard is released, so that the machine is told of both in one step.
        let was_last = inner.remaining.fetch_sub(1, Ordering::AcqRel) == 1;
        let was_held = self.held;
        self.release();
        if was_last && !was_held {
            self.drain.crossed_zero();
        }
    }
}

/// A way in. A drain is not over while one is open. Dropping it counts as closing it for good.
#[derive(Debug)]
pub struct Door {
    drain: Drain,
    open: bool,
    closed: bool,
}

impl Door {
    /// The listener turns new connections away as it should; some may still be served, those of
    /// admitted networks for example.
    pub fn shut(&mut self) {
        if std::mem::replace(&mut self.open, false) {
            self.drain.0.open_doors.fetch_sub(1, Ordering::AcqRel);
            self.drain.apply(|_, _| ());
        }
    }

    /// The listener is closed: no connection can come any more.
    pub fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.drain.0.unclosed_doors.fetch_sub(1, Ordering::AcqRel);
            if !self.open {
                self.drain.apply(|_, _| ());
            }
        }
        self.shut();
    }

    /// New connections are served again.
    pub fn reopen(&mut self) {
        if std::mem::replace(&mut self.closed, false) {
            self.drain.0.unclosed_doors.fetch_add(1, Ordering::AcqRel);
        }
        if !std::mem::replace(&mut self.open, true) {
            self.drain.0.open_doors.fetch_add(1, Ordering::AcqRel);
            self.drain.apply(|_, _| ());
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}

/// The last part of the time-out in which survivors are asked to leave, when nothing else is said.
///
/// # Source
/// docs/defaults.md: the last 30 s or 10 % of the time-out, whichever is less (HAProxy's
/// `close-spread-time`, gRPC A9's ±10 %).
#[must_use]
pub fn default_close_spread(timeout: Duration) -> Duration {
    (timeout / 10).min(Duration::from_secs(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quick() -> Schedule {
        Schedule {
            delay: Duration::from_secs(10),
            timeout: Duration::from_secs(100),
            quiet_period: Duration::ZERO,
            close_spread: Duration::from_secs(10),
            settled_for: Duration::from_secs(2),
        }
    }

    async fn reaches(drain: &Drain, phase: Phase) {
        let mut states = drain.watch();
        states.wait_for(|state| state.phase == phase).await.expect("the drain lives");
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_takes_a_drain_through_its_phases() {
        let drain = Drain::new(quick());
        tokio::spawn(drain.clone().run());
        let mut door = drain.door();
        let guard = drain.guard();
        let start = now();
        drain.trigger(Trigger::Endpoint);
        reaches(&drain, Phase::Draining).await;
        assert_eq!(now() - start, Duration::from_secs(10));
        door.shut();
        reaches(&drain, Phase::Closing).await;
        assert_eq!(now() - start, Duration::from_secs(90));
        drop(guard);
        reaches(&drain, Phase::Drained).await;
        assert_eq!(now() - start, Duration::from_secs(92));
    }

    #[test]
    fn a_guard_counts_once_however_often_it_is_held_or_released() {
        let drain = Drain::new(quick());
        let mut guard = drain.guard();
        let other = drain.guard();
        for _ in 0..2 {
            guard.hold();
            assert_eq!((drain.blocking(), guard.is_held()), (2, true));
        }
        for _ in 0..2 {
            guard.release();
            assert_eq!((drain.blocking(), guard.is_held()), (1, false));
        }
        drop(guard);
        assert_eq!(drain.blocking(), 1);
        drop(other);
        assert_eq!(drain.blocking(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_door_keeps_the_drain_from_ending() {
        let drain = Drain::new(quick());
        tokio::spawn(drain.clone().run());
        let door = drain.door();
        drain.trigger(Trigger::Endpoint);
        reaches(&drain, Phase::Draining).await;
        drain.deadline().await;
        assert_eq!(drain.state().phase, Phase::Closing);
        drop(door);
        assert_eq!(drain.state().phase, Phase::Drained);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_connection_ends_the_drain_once_every_listener_is_closed() {
        let drain = Drain::new(quick());
        tokio::spawn(drain.clone().run());
        let (mut first, mut second) = (drain.door(), drain.door());
        let (blocking, mut idle) = (drain.guard(), drain.guard());
        idle.release();
        let start = now();
        drain.trigger(Trigger::Endpoint);
        reaches(&drain, Phase::Draining).await;
        first.close();
        drop(blocking);
        drop(idle);
        assert_eq!(drain.state().phase, Phase::Draining, "a listener is open");
        second.shut();
        assert_eq!(drain.state().phase, Phase::Draining, "somebody may still come");
        second.close();
        assert_eq!(drain.state().phase, Phase::Drained);
        assert_eq!(now() - start, Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_that_remains_may_begin_again_until_it_has_settled() {
        let drain = Drain::new(quick());
        tokio::spawn(drain.clone().run());
        let mut door = drain.door();
        let mut idle = drain.guard();
        idle.release();
        drain.trigger(Trigger::Endpoint);
        reaches(&drain, Phase::Draining).await;
        door.close();
        let closed = now();
        assert_eq!(drain.state().phase, Phase::Draining);
        reaches(&drain, Phase::Drained).await;
        assert_eq!(now() - closed, Duration::from_secs(2));
        drop(idle);
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_before_a_drain_tells_how_long_quiet_is() {
        let quiet_period = Duration::from_secs(5);
        let drain = Drain::new(Schedule { quiet_period, delay: 6 * quiet_period, ..quick() });
        tokio::spawn(drain.clone().run());
        let _guard = drain.guard();
        for gap in [0, 2, 5] {
            for _ in 0..40 {
                tokio::time::sleep(Duration::from_secs(gap)).await;
                drain.arrival();
            }
            let start = now();
            drain.trigger(Trigger::Endpoint);
            reaches(&drain, Phase::Draining).await;
            let expected = Duration::from_secs(5 * gap).max(quiet_period);
            let difference = (now() - start).abs_diff(expected);
            assert!(difference <= Duration::from_secs(2), "{gap} s: {difference:?}");
            assert_eq!(drain.undrain(), Ok(()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn undrain_serves_again_and_the_next_drain_has_its_own_deadline() {
        let drain = Drain::new(quick());
        tokio::spawn(drain.clone().run());
        let _guard = drain.guard();
        drain.trigger(Trigger::Endpoint);
        reaches(&drain, Phase::Draining).await;
        assert_eq!(drain.undrain(), Ok(()));
        assert_eq!(drain.undrain(), Err(NotUndone::NoDrain));
        assert_eq!(drain.state(), State { phase: Phase::Serving, progress: None });
        drain.trigger(Trigger::Controller);
        let progress = drain.state().progress.expect("a drain is under way");
        assert_eq!(progress.started, now());
    }
}
