//! The orders that follow from what the table knows: queued, given, concluded.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use super::{Entry, Table, member};
use crate::balancer::{Action, Order, Outcome};
use crate::view::TargetId;
use ebbtide_api::report::Report;

/// What a conclusion was about, for logs and metrics.
#[derive(Debug)]
pub(crate) struct Concluded {
    pub(crate) report: Report,
    /// From the order for weight zero to its confirmation.
    pub(crate) acknowledged_after: Option<Duration>,
    /// Whether the same failure was logged already.
    pub(crate) repeated: bool,
}

/// Where a target waits for its order to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// First: connections that still come to it are at stake.
    Leaving,
    /// Then: thousands at the start of a controller, of which most change nothing.
    Coming,
}

impl Table {
    /// Puts the target in the queue if an order is due, or sets its timer.
    pub(super) fn queue(&mut self, id: &TargetId, now: Instant) {
        let Some(entry) = self.targets.get(id) else {
            return;
        };
        if self.is_muted(entry) {
            return;
        }
        let fleet = self.fleet(&entry.service);
        let due = entry.target.order(fleet, now);
        if let Some(at) = entry.target.resumes_at(fleet, now) {
            self.timers.insert((at, id.clone()));
        }
        let Some(action) = due else {
            return;
        };
        let wanted = match action {
            Action::Register => Line::Coming,
            Action::WeightZero | Action::Deregister => Line::Leaving,
        };
        let Some(entry) = self.targets.get_mut(id) else {
            return;
        };
        match (entry.queued, wanted) {
            // What it is to be told is seen when it is its turn.
            (Some(Line::Leaving), _) | (Some(Line::Coming), Line::Coming) => return,
            // It came, and leaves before it was its turn.
            (Some(Line::Coming), Line::Leaving) => self.coming.retain(|other| other != id),
            (None, _) => {}
        }
        entry.queued = Some(wanted);
        match wanted {
            Line::Coming => self.coming.push_back(id.clone()),
            Line::Leaving => self.leaving.push_back(id.clone()),
        }
    }

    /// The orders to be given now, at most `max`; they count as given.
    pub(crate) fn take_orders(&mut self, max: usize, now: Instant) -> Vec<(TargetId, Order)> {
        self.ring(now);
        let mut orders = Vec::new();
        while orders.len() < max {
            let Some(id) = self.leaving.pop_front().or_else(|| self.coming.pop_front()) else {
                break;
            };
            orders.extend(self.take_order(&id, now).map(|order| (id, order)));
        }
        orders
    }

    fn take_order(&mut self, id: &TargetId, now: Instant) -> Option<Order> {
        let entry = self.targets.get(id)?;
        let (service, is_muted) = (entry.service.clone(), self.is_muted(entry));
        let fleet = self.fleet(&service);
        let entry = self.targets.get_mut(id)?;
        entry.queued = None;
        if is_muted {
            return None;
        }
        // What was due when it was queued may have changed since.
        let action = entry.target.order(fleet, now)?;
        entry.target.begin(action);
        if action == Action::WeightZero {
            entry.ordered_at.get_or_insert(now);
        }
        entry.issued_at = milliseconds_now().max(entry.issued_at + 1);
        Some(Order {
            action,
            member: member(&entry.report, &service),
            former_weight: entry.target.former_weight(),
            issued_at: entry.issued_at,
        })
    }

    /// Queues the targets whose pause is over.
    fn ring(&mut self, now: Instant) {
        while let Some((at, id)) = self.timers.pop_first() {
            if at > now {
                self.timers.insert((at, id));
                return;
            }
            self.queue(&id, now);
        }
    }

    /// When the next pause is over.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// How many orders wait to be given.
    pub(crate) fn queued(&self) -> usize {
        self.leaving.len() + self.coming.len()
    }

    /// What became of an order that was taken.
    pub(crate) fn conclude(
        &mut self,
        id: &TargetId,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Concluded> {
        let entry = self.targets.get_mut(id)?;
        let mut acknowledged_after = None;
        let mut repeated = false;
        match &outcome {
            Outcome::Applied(applied) => {
                entry.sessions = applied.sessions;
                acknowledged_after = entry.ordered_at.take().map(|at| now.duration_since(at));
            }
            Outcome::Failed(error) => {
                let same = entry.target.trouble().filter(|trouble| trouble.error == *error);
                repeated = same.is_some();
            }
            Outcome::NotYet(_) => {}
        }
        entry.target.conclude(outcome, now, fastrand::f64());
        if entry.is_done_with() {
            self.full_until = None;
        }
        if let Some(waiting) = entry.waiting.take() {
            waiting.notify_waiters();
        }
        let report = entry.report.clone();
        if entry.superseded {
            self.forget(id);
            self.queue_heirs(id, now);
        } else {
            self.touch(id);
            self.queue(id, now);
        }
        Some(Concluded { report, acknowledged_after, repeated })
    }

    /// Queues those that waited for a target's last order.
    fn queue_heirs(&mut self, predecessor: &TargetId, now: Instant) {
        let is_heir = |entry: &Entry| entry.predecessor.as_ref() == Some(predecessor);
        let heirs = self.targets.iter().filter(|(_, entry)| is_heir(entry));
        let heirs: Vec<TargetId> = heirs.map(|(id, _)| id.clone()).collect();
        for id in heirs {
            self.queue(&id, now);
        }
    }

    /// Told when the order that is under way or queued for the target has ended; none when there is none.
    pub(crate) fn waiting_for(&mut self, id: &TargetId) -> Option<Arc<Notify>> {
        let entry = self.targets.get_mut(id)?;
        let busy = entry.queued.is_some() || entry.target.under_way().is_some();
        busy.then(|| Arc::clone(entry.waiting.get_or_insert_default()))
    }
}

fn milliseconds_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
