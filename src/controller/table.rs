//! The last report of every target, in bounded memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::balancer::Action;
use super::check::Checked;
use super::decide::{Decision, decide};
use crate::api::report::{BalancerState, Identity, Report};

/// A target that has not reported for this long may be forgotten to make room: twenty heartbeats of
/// a serving proxy.
pub(super) const SILENCE_TIMEOUT: Duration = Duration::from_secs(600);

/// Why a report was not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "stale: sequence {sequence} is not above {last}, which this run of the proxy has reported already"
    )]
    Stale { sequence: u64, last: u64 },
    #[error("stale: a later run of the proxy, started at {start_time}, has reported already")]
    StaleRun { start_time: String },
    #[error(
        "phase `{phase}` is not known here; known are Serving, LameDuck, Draining, Closing, Drained"
    )]
    Phase { phase: String },
    #[error("{max_targets} targets are remembered already; raise --max-targets")]
    Full { max_targets: usize },
}

/// A target as `GET /targets` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetReport {
    /// How long ago it reported.
    pub age_seconds: f64,
    /// What the balancer has applied for it.
    pub balancer: BalancerState,
    /// What it reported.
    pub report: Report,
}

/// One pod, or outside Kubernetes one host: namespace, name, UID. A pod of a `StatefulSet` keeps its
/// name but not its UID when it is made anew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key(String, String, String);

impl Key {
    fn of(identity: &Identity) -> Self {
        let it = identity.clone();
        Key(it.namespace, it.pod_name, it.pod_uid)
    }
}

#[derive(Debug)]
struct Target {
    report: Report,
    start_time: SystemTime,
    /// What the balancer was told.
    told: BalancerState,
    /// When it has applied weight zero, if that is what it was told and we may assume it at all.
    weight_zero_at: Option<Instant>,
    heard: Instant,
}

#[derive(Debug)]
pub(super) struct Table {
    targets: BTreeMap<Key, Target>,
    max_targets: usize,
    weight_zero_after: Option<Duration>,
}

impl Table {
    /// A table of nobody. `weight_zero_after` is how long the balancer takes to apply a weight of
    /// zero once it was told; `None` when nobody knows.
    pub(super) fn new(max_targets: usize, weight_zero_after: Option<Duration>) -> Self {
        Table { targets: BTreeMap::new(), max_targets, weight_zero_after }
    }

    /// Remembers a report and says what follows from it.
    pub(super) fn store(&mut self, checked: Checked, now: Instant) -> Result<Decision, Refusal> {
        let Checked { report, start_time } = checked;
        let key = Key::of(&report.identity);
        let (told, mut weight_zero_at) = match self.targets.get(&key) {
            None => (BalancerState::default(), None),
            Some(known) => {
                known.precedes(&report, start_time)?;
                (known.told, known.weight_zero_at)
            }
        };
        let mut decision =
            decide(told, &report).ok_or_else(|| Refusal::Phase { phase: report.phase.clone() })?;
        if decision.actions.contains(&Action::WeightZero) {
            weight_zero_at = self.weight_zero_after.map(|after| now + after);
        }
        let told = decision.answer.balancer;
        let target = Target { told, weight_zero_at, report, start_time, heard: now };
        decision.answer.balancer = target.applied(now);
        if !self.targets.contains_key(&key) {
            self.make_room(now)?;
        }
        self.targets.insert(key, target);
        Ok(decision)
    }

    /// Forgets the target that has been silent longest, of those that will not be missed, if the
    /// table is full.
    fn make_room(&mut self, now: Instant) -> Result<(), Refusal> {
        if self.targets.len() < self.max_targets {
            return Ok(());
        }
        let gone = self
            .targets
            .iter()
            .filter(|(_, target)| target.may_be_forgotten(now))
            .min_by_key(|(_, target)| target.heard)
            .map(|(key, _)| key.clone());
        match gone {
            Some(key) => {
                self.targets.remove(&key);
                Ok(())
            }
            None => Err(Refusal::Full { max_targets: self.max_targets }),
        }
    }

    /// Every target, ordered by namespace and name.
    pub(super) fn list(&self, now: Instant) -> Vec<TargetReport> {
        self.targets
            .values()
            .map(|target| TargetReport {
                age_seconds: now.saturating_duration_since(target.heard).as_secs_f64(),
                balancer: target.applied(now),
                report: target.report.clone(),
            })
            .collect()
    }
}

impl Target {
    /// What the balancer has applied of what it was told.
    fn applied(&self, now: Instant) -> BalancerState {
        match self.told {
            BalancerState::WeightZero if self.weight_zero_at.is_none_or(|at| now < at) => {
                BalancerState::Pending
            }
            told => told,
        }
    }

    fn precedes(&self, report: &Report, start_time: SystemTime) -> Result<(), Refusal> {
        if start_time < self.start_time {
            return Err(Refusal::StaleRun { start_time: self.report.start_time.clone() });
        }
        let last = self.report.sequence;
        if start_time == self.start_time && report.sequence <= last {
            return Err(Refusal::Stale { sequence: report.sequence, last });
        }
        Ok(())
    }

    fn may_be_forgotten(&self, now: Instant) -> bool {
        self.told == BalancerState::Deregistered
            || now.saturating_duration_since(self.heard) >= SILENCE_TIMEOUT
    }
}
