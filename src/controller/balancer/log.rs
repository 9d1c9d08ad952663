//! The balancer that is none: says in the log what one would be told.

use std::future::ready;

use super::{Action, Applied, Applying, Balancer, Limits, Order, Outcome};

/// Drives nothing.
///
/// Nobody knows when a balancer that others drive has applied a weight of zero, so this one claims it
/// only when the operator says how long it takes: see the controller's `--assume-weight-zero-after`.
#[derive(Clone, Copy, Debug)]
pub struct Log;

impl Balancer for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    fn limits(&self) -> Limits {
        Limits { max_batch: 10_000, calls_per_second: 1000.0, ..Limits::default() }
    }

    fn apply<'a>(&'a self, orders: &'a [Order]) -> Applying<'a> {
        Box::pin(ready(orders.iter().map(log).collect()))
    }
}

fn log(order: &Order) -> Outcome {
    let Order { action, member, .. } = order;
    match action {
        Action::Register => tracing::debug!(target = %member, %action, "a balancer would be told"),
        _ => tracing::info!(target = %member, %action, "a balancer would be told"),
    }
    Applied::default().into()
}
