//! What is done about one target. Pure: reports, outcomes and instants in; orders and answers out.
//!
//! Three facts decide: what the target said last, what the balancer has confirmed, and the clock. From
//! them follows what *should* be ([`Target::goal`]), and from the difference to what is, the next order.

use std::time::{Duration, Instant, SystemTime};

use super::balancer::{Action, Applied, Effective, Error, ErrorKind, Outcome};
use super::runs::Runs;
pub use super::runs::{Run, Stale};
pub use super::silence::Finding;
use super::silence::Silence;
use ebbtide_api::phase::Phase;
use ebbtide_api::report::{Answer, BalancerError, BalancerState, Directive};

/// A target whose last report is younger than this is not lost, whatever its deadline: two of a
/// draining proxy's heartbeats.
pub(super) const MIN_SILENCE: Duration = Duration::from_secs(10);

/// After its deadline a proxy has force-closed everything (2 s) and said so (10 s at most); one that is
/// silent this long after it has ended without a word.
const DEADLINE_MARGIN: Duration = Duration::from_secs(10);

/// First pause after a failed order.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long an operator's wish waits for a target that does not report.
const WISH_TIMEOUT: Duration = Duration::from_secs(60);

/// What a report says that matters for a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Which run of the proxy says it; another run's reports count from 1 again.
    pub run: Run,
    /// Grows with every report of one run.
    pub sequence: u64,
    /// Where the proxy is in its drain.
    pub phase: Phase,
    /// Whether it drains because it must, by a signal, rather than because somebody asked.
    pub must_leave: bool,
    /// Whether its application is known to take connections.
    pub application: Application,
    /// Connections that keep its drain from ending.
    pub blocking: u64,
    /// When the drain began, by the proxy's clock: it tells one drain from the next.
    pub drain: Option<SystemTime>,
    /// When the drain force-closes them, by our clock.
    pub deadline: Option<Instant>,
    /// The weight that an earlier answer told it to remember for us.
    pub former_weight: Option<u32>,
}

/// Whether a target's application takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Application {
    /// It has taken one, or its proxy does not tell.
    Reached,
    /// It has not, since this run of the proxy began.
    NotYet,
}

/// What the balancer does about a target, as far as it has confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nobody here has asked it, or the last order may or may not have been carried out.
    #[default]
    Unknown,
    /// Sends it connections.
    Registered,
    /// Sends it no new connections, from this instant on; none: nobody knows when.
    WeightZero(Option<Instant>),
    /// Has forgotten it.
    Deregistered,
}

/// What should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Left as it is: it is silent, and nobody can say that it is gone; or so many fell silent at once that it is us
    /// who may be deaf.
    Hold,
    /// Left as it is until its application takes connections.
    AwaitsApplication,
    /// Sends it connections.
    Registered,
    /// Sends it no new ones.
    WeightZero,
    /// Has forgotten it.
    Deregistered,
}

/// What the rest of the fleet means for one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// After how long a silent target is lost.
    pub lost_after: Duration,
    /// Whether so many of its service are silent that our own ears are in doubt.
    pub deaf: bool,
}

/// An operator's wish that the target has not heard yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wish {
    directive: Directive,
    until: Instant,
}

/// The last failure, until something succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What was tried.
    pub action: Action,
    /// In a row.
    pub failures: u32,
    /// The last one.
    pub error: Error,
}

/// Whether a drain that somebody asked for may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Permit {
    /// Nobody was asked.
    Unasked,
    /// It may go on, for the whole of this drain: what began is not called back when others begin.
    Granted,
    /// Too many of its service drain already.
    Waits,
}

/// One target.
#[derive(Clone, Debug)]
pub struct Target {
    heard: Heard,
    heard_at: Instant,
    runs: Runs,
    silence: Silence,
    standing: Standing,
    /// The order under way.
    under_way: Option<Action>,
    /// The order that is not to be given before this instant.
    pause: Option<(Action, Instant)>,
    trouble: Option<Trouble>,
    former_weight: Option<u32>,
    permit: Permit,
    wish: Option<Wish>,
}

impl Target {
    /// A target that is heard of for the first time. Its balancer may know it from elsewhere.
    #[must_use]
    pub fn new(heard: Heard, now: Instant) -> Self {
        Target {
            heard,
            heard_at: now,
            runs: Runs::new(heard.run, heard.sequence, now),
            silence: Silence::new(now),
            standing: Standing::Unknown,
            under_way: None,
            pause: None,
            trouble: None,
            former_weight: heard.former_weight,
            permit: Permit::Unasked,
            wish: None,
        }
    }

    /// Takes a report.
    ///
    /// # Errors
    ///
    /// When it is not newer than what is known; then it is a sign of life and nothing else.
    pub fn hear(&mut self, heard: Heard, now: Instant) -> Result<(), Stale> {
        // Whoever reports is there, whatever the report is worth.
        self.silence.end(now);
        self.runs.take(heard.run, heard.sequence, now)?;
        let drains = (self.heard.drain, heard.drain);
        if matches!(drains, (Some(last), Some(next)) if last != next) {
            // It served in between, and another replica may have registered it.
            self.standing = Standing::Unknown;
        }
        self.heard = heard;
        self.heard_at = now;
        if heard.phase == Phase::Serving {
            // What it remembers of a weight may be older than our last answer; so it counts only below.
            self.permit = Permit::Unasked;
        } else {
            self.former_weight = self.former_weight.or(heard.former_weight);
        }
        let fulfilled = self.wish.is_some_and(|wish| match wish.directive {
            Directive::Drain => heard.phase != Phase::Serving,
            _ => heard.phase == Phase::Serving,
        });
        if fulfilled {
            self.wish = None;
        }
        Ok(())
    }

    /// Whether it asks leave to drain: somebody asked it to, it has just begun, and has no leave yet.
    #[must_use]
    pub fn asks_leave(&self) -> bool {
        let may_be_asked = self.heard.phase == Phase::LameDuck && !self.heard.must_leave;
        may_be_asked && self.permit != Permit::Granted
    }

    /// Lets its drain go on, or keeps it serving for now.
    pub fn permit(&mut self, granted: bool) {
        self.permit = if granted { Permit::Granted } else { Permit::Waits };
    }

    /// Whether its drain waits for others of its service.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.permit == Permit::Waits && self.asks_leave()
    }

    /// Whether it is on its way out, and counts against what may drain at once.
    #[must_use]
    pub fn is_draining(&self, now: Instant) -> bool {
        match self.heard.phase {
            Phase::Serving => self.wished(now) == Some(Directive::Drain),
            Phase::LameDuck => !self.waits(),
            Phase::Draining | Phase::Closing => true,
            Phase::Drained => false,
        }
    }

    /// Says `directive` to it in the answers to come, until it has done so.
    pub fn wish(&mut self, directive: Directive, now: Instant) {
        self.wish = match directive {
            Directive::None | Directive::Wait => None,
            _ => Some(Wish { directive, until: now + WISH_TIMEOUT }),
        };
    }

    /// What an operator wishes it to do and it has not heard yet.
    #[must_use]
    pub fn wished(&self, now: Instant) -> Option<Directive> {
        self.wish.filter(|wish| now < wish.until).map(|wish| wish.directive)
    }

    /// Its current run.
    #[must_use]
    pub fn run(&self) -> Run {
        self.runs.current()
    }

    /// What it said last.
    #[must_use]
    pub fn heard(&self) -> Heard {
        self.heard
    }

    /// When it said so.
    #[must_use]
    pub fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// What the balancer has confirmed.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// The last failure, if nothing has succeeded since.
    #[must_use]
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// The order under way.
    #[must_use]
    pub fn under_way(&self) -> Option<Action> {
        self.under_way
    }

    /// The weight that it had before it was zero.
    #[must_use]
    pub fn former_weight(&self) -> Option<u32> {
        self.former_weight
    }

    /// When it last gave a sign of life: a report, or an answer when it was looked at.
    #[must_use]
    pub fn alive_at(&self) -> Instant {
        self.silence.since()
    }

    /// When its silence is long enough to ask whether it is gone.
    #[must_use]
    pub fn doubted_at(&self, fleet: Fleet) -> Instant {
        let alive_at = self.alive_at();
        let silence = alive_at + fleet.lost_after;
        match self.ends_by() {
            Some(end) => silence.min(end).max(alive_at + MIN_SILENCE),
            None => silence,
        }
    }

    /// When a drain has surely ended, and with it, if it must leave, its process.
    fn ends_by(&self) -> Option<Instant> {
        let deadline = self.heard.deadline.filter(|_| self.heard.phase != Phase::Serving);
        deadline.map(|deadline| deadline + DEADLINE_MARGIN)
    }

    /// Whether it has been silent for too long. One that is drained has said all it had to.
    #[must_use]
    pub fn is_silent(&self, fleet: Fleet, now: Instant) -> bool {
        !self.is_over(now) && now >= self.doubted_at(fleet)
    }

    /// Whether it is gone: it is silent, and somebody else says so too, or its own time is over.
    #[must_use]
    pub fn is_lost(&self, fleet: Fleet, now: Instant) -> bool {
        let is_past_its_end = self.heard.must_leave && self.ends_by().is_some_and(|end| now >= end);
        self.is_silent(fleet, now)
            && (self.silence.is_confirmed() || is_past_its_end && self.silence.is_unexplained())
    }

    /// Whether somebody is to be asked now whether it is gone.
    #[must_use]
    pub fn wants_look(&self, fleet: Fleet, now: Instant) -> bool {
        self.is_silent(fleet, now) && !self.is_lost(fleet, now) && self.silence.wants_look(now)
    }

    /// Whether somebody was asked since its last sign of life, and nobody could tell.
    #[must_use]
    pub fn is_unexplained(&self) -> bool {
        self.silence.is_unexplained()
    }

    /// What was found by a look that began at `asked_at`.
    pub fn look(&mut self, finding: Finding, asked_at: Instant, now: Instant) {
        self.silence.look(finding, asked_at, now);
    }

    /// Whether nothing is left that a deregistration could cut.
    fn is_over(&self, now: Instant) -> bool {
        let Heard { phase, blocking, deadline, .. } = self.heard;
        phase == Phase::Drained && (blocking == 0 || deadline.is_none_or(|at| now >= at))
    }

    /// What should be.
    #[must_use]
    pub fn goal(&self, fleet: Fleet, now: Instant) -> Goal {
        if self.is_over(now) {
            return Goal::Deregistered;
        }
        let (silent, lost) = (self.is_silent(fleet, now), self.is_lost(fleet, now));
        match self.heard.phase {
            Phase::Serving if silent && (fleet.deaf || !lost) => Goal::Hold,
            _ if lost => Goal::Deregistered,
            Phase::Serving if self.heard.application == Application::NotYet => {
                Goal::AwaitsApplication
            }
            Phase::Serving => Goal::Registered,
            Phase::LameDuck if self.waits() => Goal::Registered,
            _ => Goal::WeightZero,
        }
    }

    /// The order that leads from what is to what should be, if there is one and none is under way.
    fn missing(&self, fleet: Fleet, now: Instant) -> Option<Action> {
        if self.under_way.is_some() {
            return None;
        }
        match (self.goal(fleet, now), self.standing) {
            (Goal::Hold | Goal::AwaitsApplication, _)
            | (Goal::Registered, Standing::Registered)
            | (Goal::WeightZero, Standing::WeightZero(_) | Standing::Deregistered)
            | (Goal::Deregistered, Standing::Deregistered) => None,
            (Goal::Registered, _) => Some(Action::Register),
            (Goal::WeightZero, _) => Some(Action::WeightZero),
            (Goal::Deregistered, _) => Some(Action::Deregister),
        }
    }

    /// The order to give now.
    #[must_use]
    pub fn order(&self, fleet: Fleet, now: Instant) -> Option<Action> {
        self.missing(fleet, now).filter(|missing| {
            self.pause.is_none_or(|(paused, until)| paused != *missing || now >= until)
        })
    }

    /// When an order that is paused is to be given, though nothing happens until then.
    #[must_use]
    pub fn resumes_at(&self, fleet: Fleet, now: Instant) -> Option<Instant> {
        let missing = self.missing(fleet, now)?;
        self.pause.filter(|(paused, until)| *paused == missing && *until > now).map(|(_, at)| at)
    }

    /// The order has been given: until its outcome is known, so is nothing else.
    pub fn begin(&mut self, action: Action) {
        self.under_way = Some(action);
        self.standing = Standing::Unknown;
    }

    /// What became of the order under way. `chance`, from 0 to 1, spreads the pause after a failure.
    pub fn conclude(&mut self, outcome: Outcome, now: Instant, chance: f64) {
        let Some(action) = self.under_way.take() else {
            return;
        };
        self.pause = None;
        match outcome {
            Outcome::Applied(applied) => {
                self.trouble = None;
                self.apply(action, &applied, now);
            }
            Outcome::NotYet(again) => self.pause = Some((action, now + again)),
            Outcome::Failed(error) => {
                let same = self.trouble.take().filter(|trouble| trouble.action == action);
                let failures = same.map_or(0, |trouble| trouble.failures).saturating_add(1);
                let pause = pause(failures, chance).max(error.retry_after.unwrap_or_default());
                self.pause = Some((action, now + pause.min(2 * LONGEST_PAUSE)));
                self.trouble = Some(Trouble { action, failures, error });
            }
        }
    }

    fn apply(&mut self, action: Action, applied: &Applied, now: Instant) {
        self.standing = match action {
            Action::Register => {
                self.former_weight = None;
                Standing::Registered
            }
            Action::WeightZero => {
                // The first one knows best: a second one, or another replica's, reads our own zero.
                self.former_weight = self.former_weight.or(applied.former_weight);
                Standing::WeightZero(match applied.effective {
                    Effective::Now => Some(now),
                    Effective::After(delay) => Some(now + delay),
                    Effective::Unknown => None,
                })
            }
            Action::Deregister => Standing::Deregistered,
        };
    }

    /// What the proxy may believe of its balancer.
    #[must_use]
    pub fn balancer(&self, now: Instant) -> BalancerState {
        match self.standing {
            Standing::WeightZero(Some(from)) if now >= from => BalancerState::WeightZero,
            Standing::Deregistered => BalancerState::Deregistered,
            _ => BalancerState::Pending,
        }
    }

    /// What the proxy is answered.
    #[must_use]
    pub fn answer(&self, now: Instant) -> Answer {
        let directive = match self.wished(now) {
            Some(directive) => directive,
            None if self.waits() => Directive::Wait,
            None => Directive::None,
        };
        Answer {
            sequence: self.heard.sequence,
            balancer: Some(self.balancer(now)),
            balancer_error: self.trouble.as_ref().and_then(|trouble| match trouble.error.kind {
                ErrorKind::Denied => Some(BalancerError::Denied),
                ErrorKind::Refused => Some(BalancerError::Refused),
                _ => None,
            }),
            directive,
            former_weight: self.former_weight,
        }
    }
}

/// Twice as long after each failure in a row, minus up to half by chance, so that a fleet's orders do
/// not come back as one.
fn pause(failures: u32, chance: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(LONGEST_PAUSE).mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests;
