//! The end of a drain: who still has to leave, and when each one is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::info;

use super::table::{Entry, Table};
use crate::drain::{Drain, FORCE_CLOSE_PERIOD, Phase, State};
use crate::relay::Order;

/// How long a connection whose budget is over may take to leave, before it gets a FIN: the closing
/// handshake of a WebSocket, and its staged close.
const LEAVE_PERIOD: Duration = Duration::from_secs(7);

/// A class of connections that may not use the whole time until the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The class's name.
    pub class: &'static str,
    /// From the drain's start.
    pub timeout: Duration,
}

/// Watches the phases and tells the connections: find dead peers sooner, leave in turn, end.
pub async fn see_out(drain: Drain, table: Table, budgets: Vec<Budget>) {
    let mut states = drain.watch();
    'phases: loop {
        let state = *states.borrow_and_update();
        match (state.phase, state.progress) {
            (Phase::Serving, _) | (_, None) => {
                table.forget_drain();
                table.order_all(Order::Serve);
            }
            (Phase::LameDuck | Phase::Draining, Some(progress)) => {
                table.order_all(Order::Drain);
                end_budgets(&mut states, &table, &budgets, progress.started).await;
                continue;
            }
            (Phase::Closing, Some(progress)) => {
                if ask_to_leave(&mut states, &table, progress.deadline).await {
                    close_all(&table, Order::Close);
                } else {
                    // The phase changed meanwhile: look at it first.
                    continue;
                }
            }
            (Phase::Drained, Some(progress)) => {
                // Who came when it was over (mode `accept`, `--admit`) has until the deadline too.
                let deadline = progress.deadline;
                for (at, order) in
                    [(deadline, Order::Close), (deadline + FORCE_CLOSE_PERIOD, Order::Reset)]
                {
                    if !sleep_unless_changed(&mut states, at).await {
                        continue 'phases;
                    }
                    close_all(&table, order);
                }
            }
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

/// Ends one class after the other as its budget is used up, until the phase changes.
async fn end_budgets(
    states: &mut watch::Receiver<State>,
    table: &Table,
    budgets: &[Budget],
    started: Instant,
) {
    let mut budgets = budgets.to_vec();
    budgets.sort_unstable_by_key(|budget| budget.timeout);
    for budget in budgets {
        // One that was over in an earlier phase finds nobody, or those who came since.
        if !sleep_unless_changed(states, started + budget.timeout).await {
            return;
        }
        let mut entries = survivors(table);
        entries.retain(|entry| entry.class().name() == budget.class);
        info!(class = budget.class, connections = entries.len(), "budget used up");
        end_class(table, entries);
    }
    // A lost sender ends the process, and this with it.
    if states.changed().await.is_ok() {
        states.mark_changed();
    }
}

fn end_class(table: &Table, entries: Vec<Arc<Entry>>) {
    for entry in &entries {
        table.force(entry, Order::Leave);
    }
    let table = table.clone();
    tokio::spawn(async move {
        tokio::time::sleep(LEAVE_PERIOD).await;
        for entry in &entries {
            table.force(entry, Order::Close);
        }
        tokio::time::sleep(FORCE_CLOSE_PERIOD).await;
        for entry in &entries {
            table.force(entry, Order::Reset);
        }
    });
}

/// Asks every survivor to leave, one after the other in random order, spread evenly up to the
/// deadline, so that their clients do not all come back in the same instant. Looks again before
/// the deadline for those that came meanwhile. `false` when the phase changed before it.
async fn ask_to_leave(
    states: &mut watch::Receiver<State>,
    table: &Table,
    deadline: Instant,
) -> bool {
    let mut survivors = survivors(table);
    fastrand::shuffle(&mut survivors);
    let now = Instant::now();
    let spread = deadline.saturating_duration_since(now);
    let slots = u32::try_from(survivors.len()).unwrap_or(u32::MAX).max(1);
    let slot = spread / slots;
    info!(survivors = survivors.len(), spread_seconds = spread.as_secs_f64(), "asking to leave");
    for (index, entry) in (0u32..).zip(survivors) {
        let jitter = slot.mul_f64(fastrand::f64());
        if !sleep_unless_changed(states, now + slot * index + jitter).await {
            return false;
        }
        table.force(&entry, Order::Leave);
    }
    sleep_unless_changed(states, deadline).await
}

async fn sleep_unless_changed(states: &mut watch::Receiver<State>, until: Instant) -> bool {
    // A past moment needs no timer: a thousand survivors a second share the clock's milliseconds.
    if until.saturating_duration_since(Instant::now()) < Duration::from_millis(1) {
        return !states.has_changed().unwrap_or(true);
    }
    tokio::select! {
        () = tokio::time::sleep_until(until.into()) => true,
        _ = states.changed() => {
            // Left unseen, so that the caller's loop finds the new phase.
            states.mark_changed();
            false
        }
    }
}

fn close_all(table: &Table, order: Order) {
    for entry in survivors(table) {
        table.force(&entry, order);
    }
}

fn survivors(table: &Table) -> Vec<Arc<Entry>> {
    let mut entries = table.list();
    entries.retain(|entry| entry.class().excluded().is_none());
    entries
}
