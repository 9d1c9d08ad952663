//! Gives the balancer its orders: off the request path, in batches, as fast as it may be asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::Shared;
use super::balancer::{Action, Balancer, Error, ErrorKind, Limits, Order, Outcome};
use super::look;
use super::table::Concluded;
use super::view::TargetId;

/// Between two looks at what only the clock changes: who is lost, who is forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Calls that may be made up for after a quiet time, as a part of a second's.
const BURST_PART: f64 = 0.5;

/// Gives orders until it is aborted, which abandons the calls under way.
pub(super) async fn run(shared: Arc<Shared>, balancer: Arc<dyn Balancer>) {
    let sweeping = sweep(Arc::clone(&shared));
    let looking = look::run(Arc::clone(&shared), Arc::clone(&balancer));
    let giving = give(shared, balancer);
    tokio::join!(sweeping, looking, giving);
}

async fn sweep(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (lost, queued) = {
            let mut table = shared.table();
            let lost = table.sweep(Instant::now());
            if let Some(fleet) = &shared.fleet {
                fleet.upkeep();
                fleet.queued(table.queued());
            }
            (lost, table.queued())
        };
        for report in lost {
            let identity = &report.identity;
            tracing::warn!(
                namespace = %identity.namespace,
                pod = %identity.pod_name,
                phase = %report.phase,
                blocking = report.drain_blocking_connections,
                "lost: no report for too long, and it is not there",
            );
            if let Some(fleet) = &shared.fleet {
                fleet.lost();
            }
        }
        if queued > 0 {
            shared.stirred.notify_one();
        }
    }
}

async fn give(shared: Arc<Shared>, balancer: Arc<dyn Balancer>) {
    let limits = balancer.limits();
    let places = Arc::new(Semaphore::new(limits.max_calls.max(1)));
    let mut pace = Pace::new(limits, Instant::now());
    let mut calls = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        while calls.try_join_next().is_some() {}
        let orders = next_orders(&shared, limits, &mut pace).await;
        let (shared, balancer) = (Arc::clone(&shared), Arc::clone(&balancer));
        calls.spawn(async move {
            call(&shared, balancer.as_ref(), orders, limits.timeout).await;
            drop(place);
            shared.stirred.notify_one();
        });
    }
}

/// Waits until there are orders, and until the balancer may be asked again.
async fn next_orders(shared: &Shared, limits: Limits, pace: &mut Pace) -> Vec<(TargetId, Order)> {
    loop {
        let stirred = shared.stirred.notified();
        let (has_orders, timer) = {
            let table = shared.table();
            (table.queued() > 0, table.next_timer())
        };
        let now = Instant::now();
        if has_orders || timer.is_some_and(|at| at <= now) {
            // Whoever comes while we wait for our turn goes along.
            sleep(pace.wait(now)).await;
            let orders = shared.table().take_orders(limits.max_batch.max(1), Instant::now());
            if !orders.is_empty() {
                pace.take();
                return orders;
            }
            continue;
        }
        tokio::select! {
            () = stirred => {}
            () = at(timer) => {}
        }
    }
}

async fn at(timer: Option<Instant>) {
    match timer {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn call(
    shared: &Shared,
    balancer: &dyn Balancer,
    orders: Vec<(TargetId, Order)>,
    time: Duration,
) {
    let (ids, orders): (Vec<_>, Vec<_>) = orders.into_iter().unzip();
    let outcomes = match timeout(time, balancer.apply(&orders)).await {
        Ok(outcomes) => outcomes,
        Err(_elapsed) => vec![timed_out(balancer.name(), time).into(); orders.len()],
    };
    debug_assert_eq!(outcomes.len(), orders.len(), "one outcome for each order");
    let missing =
        Error::new(ErrorKind::Refused, "the balancer's adapter told nothing of this order");
    let outcomes = outcomes.into_iter().chain(std::iter::repeat(missing.into()));
    for ((id, order), outcome) in ids.iter().zip(&orders).zip(outcomes) {
        conclude(shared, balancer.name(), id, order, outcome);
    }
}

fn timed_out(balancer: &str, time: Duration) -> Error {
    let seconds = time.as_secs_f64();
    Error::new(
        ErrorKind::Timeout,
        format!(
            "{balancer} did not answer within {seconds} s: is it overloaded, or the network cut?"
        ),
    )
}

fn conclude(shared: &Shared, balancer: &str, id: &TargetId, order: &Order, outcome: Outcome) {
    let result = match &outcome {
        Outcome::Applied(_) => "applied",
        Outcome::NotYet(_) => "not_yet",
        Outcome::Failed(error) => error.kind.name(),
    };
    let concluded = shared.table().conclude(id, outcome.clone(), Instant::now());
    let Some(Concluded { report, acknowledged_after, repeated }) = concluded else {
        return;
    };
    if let Some(fleet) = &shared.fleet {
        fleet.ordered(order.action.name(), result);
        if let Some(after) = acknowledged_after {
            fleet.acknowledged(after);
        }
    }
    let Order { action, member, .. } = order;
    match outcome {
        Outcome::Applied(applied) => {
            let blocking = report.drain_blocking_connections;
            let sessions = applied.sessions;
            let phase = &report.phase;
            match action {
                // The first of each target, which mostly changes nothing.
                Action::Register => {
                    tracing::debug!(pod = %member, balancer, %action, %phase, "applied");
                }
                _ => {
                    tracing::info!(pod = %member, balancer, %action, %phase, blocking, sessions, "applied");
                }
            }
            (shared.on_action)(*action, &report);
        }
        Outcome::NotYet(again) => {
            tracing::debug!(pod = %member, balancer, %action, ?again, "not applied yet");
        }
        Outcome::Failed(error) if repeated => {
            tracing::debug!(pod = %member, balancer, %action, %error, "failed again");
        }
        Outcome::Failed(error) => {
            tracing::warn!(pod = %member, balancer, %action, %error, "failed, trying again");
        }
    }
}

/// How fast calls may follow each other: a bucket of half a second's calls.
#[derive(Debug)]
struct Pace {
    per_second: f64,
    burst: f64,
    calls: f64,
    filled_at: Instant,
}

impl Pace {
    fn new(limits: Limits, now: Instant) -> Self {
        let per_second = limits.calls_per_second.max(0.01);
        let burst = (per_second * BURST_PART).max(1.0);
        Pace { per_second, burst, calls: burst, filled_at: now }
    }

    /// How long until one call may be made.
    fn wait(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.calls = (self.calls + passed * self.per_second).min(self.burst);
        self.filled_at = now;
        Duration::from_secs_f64(((1.0 - self.calls) / self.per_second).max(0.0))
    }

    fn take(&mut self) {
        self.calls -= 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_as_many_as_the_balancer_takes() {
        let start = Instant::now();
        let limits = Limits { calls_per_second: 20.0, ..Limits::default() };
        let mut pace = Pace::new(limits, start);
        let mut now = start;
        for _ in 0..210 {
            now += pace.wait(now);
            pace.wait(now);
            pace.take();
        }
        // Ten at once, the other two hundred at twenty a second.
        let seconds = now.duration_since(start).as_secs_f64();
        assert!((9.9..10.1).contains(&seconds), "{seconds}");
    }
}
