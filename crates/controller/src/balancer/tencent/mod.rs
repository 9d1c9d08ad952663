//! Tencent Cloud's CLB, spoken to directly: for load balancers that no TKE controller owns.
//!
//! Every call looks first, changes only what differs, and looks again: what is said to be applied has
//! been read back. So an order may come twice, and of a batch of which a part was refused each order
//! hears its own outcome.

mod api;
mod config;
mod credentials;
mod pace;
mod plan;
mod sign;

#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Applying, Balancer, Error, ErrorKind, Limits, Order, Outcome};
use api::{Api, BatchTarget, FailedListeners, Task, Trouble, WeightRule};
pub use config::{Config, ListenerConfig};
use plan::{Change, FormerWeights, Listener, Place, Plan, What, places, plan};

/// How long one call may take: a task of CLB's is done in one to five seconds.
const TIMEOUT: Duration = Duration::from_secs(20);

/// When a call stops waiting for a task and says `NotYet`. With the requests that may be under way
/// then, five seconds each, it stays below [`TIMEOUT`].
const PATIENCE: Duration = Duration::from_secs(6);

/// How often a task, or what it has brought about, is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// When to come again while somebody else changes the load balancer.
const BUSY_RETRY: Duration = Duration::from_secs(2);

/// What the service takes: listeners in one DescribeTargets, targets in one rule of
/// BatchModifyTargetWeight, rules, and targets in any batch.
const MAX_LISTENERS: usize = 20;
const MAX_TARGETS_PER_RULE: usize = 50;
const MAX_RULES: usize = 100;
const MAX_TARGETS: usize = 500;

/// A CLB that we drive.
#[derive(Debug)]
pub struct TencentClb {
    api: Api,
    listeners: Vec<Listener>,
    weight: u32,
    former: Mutex<FormerWeights>,
}

impl Balancer for TencentClb {
    fn name(&self) -> &'static str {
        "tencent-clb"
    }

    fn limits(&self) -> Limits {
        Limits {
            max_batch: MAX_TARGETS,
            // It changes one thing at a time, and refuses a second one.
            max_calls: 1,
            // A call is a handful of requests, which keep their own pace.
            calls_per_second: 2.0,
            timeout: TIMEOUT,
        }
    }

    fn apply<'a>(&'a self, orders: &'a [Order]) -> Applying<'a> {
        Box::pin(self.carry_out(orders))
    }
}

impl TencentClb {
    async fn carry_out(&self, orders: &[Order]) -> Vec<Outcome> {
        let patience = Instant::now() + PATIENCE;
        let mut outcomes: Vec<Option<Outcome>> = vec![None; orders.len()];
        let before = match self.look().await {
            Ok(places) => places,
            Err(trouble) => return orders.iter().map(|_| outcome(&trouble)).collect(),
        };
        let changes = self.settle(orders, &before, &mut outcomes);
        if changes.is_empty() {
            return complete(outcomes);
        }
        let wanting = changes.iter().filter(|(_, change)| change.what == What::Weigh);
        for (order, _) in wanting {
            self.former().remember(&orders[*order], &before);
        }
        let troubles = self.change(&changes, patience).await;
        loop {
            match self.look().await {
                Ok(places) => {
                    self.settle(orders, &places, &mut outcomes);
                }
                Err(trouble) => {
                    for open in outcomes.iter_mut().filter(|it| it.is_none()) {
                        *open = Some(outcome(&trouble));
                    }
                }
            }
            for (order, trouble) in &troubles {
                outcomes[*order].get_or_insert_with(|| outcome(trouble));
            }
            if outcomes.iter().all(Option::is_some) || Instant::now() >= patience {
                break;
            }
            sleep(LOOK_INTERVAL).await;
        }
        complete(outcomes)
    }

    /// The outcomes of those orders that need nothing more, and what the others need.
    fn settle(
        &self,
        orders: &[Order],
        places: &[Place],
        outcomes: &mut [Option<Outcome>],
    ) -> Vec<(usize, Change)> {
        let mut changes = Vec::new();
        let mut former = self.former();
        for (at, order) in orders.iter().enumerate() {
            if outcomes[at].is_some() {
                continue;
            }
            match plan(order, places, &former, self.weight) {
                Plan::Settled(outcome) => {
                    if matches!(outcome, Outcome::Applied(_)) {
                        former.forget(order);
                    }
                    outcomes[at] = Some(outcome);
                }
                Plan::Change(wanted) => changes.extend(wanted.into_iter().map(|it| (at, it))),
            }
        }
        changes
    }

    /// What is bound where, now.
    async fn look(&self) -> Result<Vec<Place>, Trouble> {
        let ids: Vec<&str> = self.listeners.iter().map(|it| it.id.as_str()).collect();
        let mut described = Vec::new();
        for ids in ids.chunks(MAX_LISTENERS) {
            described.extend(self.api.describe_targets(ids).await?);
        }
        Ok(places(&self.listeners, described)?)
    }

    /// Asks for the changes; tells which orders ran into what.
    async fn change(
        &self,
        changes: &[(usize, Change)],
        patience: Instant,
    ) -> Vec<(usize, Trouble)> {
        let of = |what| changes.iter().filter(move |(_, it)| it.what == what).collect::<Vec<_>>();
        let mut troubles = Vec::new();
        for (orders, rules) in weight_batches(&of(What::Weigh)) {
            if let Err(trouble) = self.weigh(&rules, patience).await {
                troubles.extend(orders.into_iter().map(|order| (order, trouble.clone())));
            }
        }
        for what in [What::Bind, What::Unbind] {
            for batch in of(what).chunks(MAX_TARGETS) {
                let targets: Vec<BatchTarget> =
                    batch.iter().map(|(_, it)| batch_target(it)).collect();
                let done = match what {
                    What::Bind => self.api.register(&targets).await,
                    _ => self.api.deregister(&targets).await,
                };
                let failed = batch.iter().filter_map(|(order, change)| {
                    trouble_of(change, &done).map(|trouble| (*order, trouble))
                });
                troubles.extend(failed);
            }
        }
        troubles
    }

    /// Changes weights and waits for the task.
    async fn weigh(&self, rules: &[WeightRule], patience: Instant) -> Result<(), Trouble> {
        let task_id = self.api.modify_weights(rules).await?;
        loop {
            match self.api.task(&task_id).await? {
                Task::Succeeded => return Ok(()),
                Task::Failed(reason) => {
                    let message = format!(
                        "BatchModifyTargetWeight: task {task_id} failed: {reason} (it is tried again)"
                    );
                    return Err(Error::new(ErrorKind::Refused, message).into());
                }
                Task::Running if Instant::now() >= patience => return Err(Trouble::Busy),
                Task::Running => sleep(LOOK_INTERVAL).await,
            }
        }
    }

    fn former(&self) -> MutexGuard<'_, FormerWeights> {
        self.former.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn outcome(trouble: &Trouble) -> Outcome {
    match trouble {
        Trouble::Busy => Outcome::NotYet(BUSY_RETRY),
        Trouble::Failed(error) => Outcome::Failed(error.clone()),
    }
}

/// Whatever is still open was accepted and does not show.
fn complete(outcomes: Vec<Option<Outcome>>) -> Vec<Outcome> {
    let unseen = || {
        let message = "CLB accepted the change and does not show it; look whether something else, such \
                       as TKE's service controller, owns these listeners (then use the balancer `tke`)";
        Outcome::Failed(Error::new(ErrorKind::Refused, message))
    };
    outcomes.into_iter().map(|it| it.unwrap_or_else(unseen)).collect()
}

/// What became of one change of a batch of which listeners may have failed.
fn trouble_of(change: &Change, done: &Result<FailedListeners, Trouble>) -> Option<Trouble> {
    match done {
        Ok(None) => None,
        Ok(Some((listeners, reason))) => listeners.contains(&change.at.listener_id).then(|| {
            let listener = &change.at.listener_id;
            let message = format!("listener {listener} refused: {reason} (it is tried again)");
            Error::new(ErrorKind::Refused, message).into()
        }),
        Err(trouble) => Some(trouble.clone()),
    }
}

/// The changes of weights in batches that the service takes, each with the orders that it is for.
fn weight_batches(changes: &[&(usize, Change)]) -> Vec<(Vec<usize>, Vec<WeightRule>)> {
    let mut batches = Vec::new();
    let mut orders = Vec::new();
    let mut rules: Vec<WeightRule> = Vec::new();
    for (order, change) in changes {
        let at = &change.at;
        let with_room = rules.iter().position(|rule| {
            rule.listener_id == at.listener_id
                && rule.location_id == at.location_id
                && rule.targets.len() < MAX_TARGETS_PER_RULE
        });
        if orders.len() == MAX_TARGETS || (with_room.is_none() && rules.len() == MAX_RULES) {
            batches.push((std::mem::take(&mut orders), std::mem::take(&mut rules)));
        }
        orders.push(*order);
        match with_room.and_then(|at| rules.get_mut(at)) {
            Some(rule) => rule.targets.push(change.target.clone()),
            None => rules.push(WeightRule {
                listener_id: at.listener_id.clone(),
                location_id: at.location_id.clone(),
                targets: vec![change.target.clone()],
            }),
        }
    }
    if !orders.is_empty() {
        batches.push((orders, rules));
    }
    batches
}

fn batch_target(change: &Change) -> BatchTarget {
    BatchTarget {
        listener_id: change.at.listener_id.clone(),
        location_id: change.at.location_id.clone(),
        target: change.target.clone(),
    }
}
