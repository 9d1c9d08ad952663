//! Dry-run balancer: logs the orders.

use std::future::ready;
use std::time::Duration;

use super::{Applied, Applying, Balancer, Effective, Limits, Order};

/// Drives nothing.
///
/// Nobody knows when a balancer that others drive has applied a weight of zero, so this one claims it
/// only when the operator says how long it takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log {
    /// How long a balancer that others drive needs to apply a weight of zero.
    pub assume_weight_zero_after: Option<Duration>,
}

impl Balancer for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    fn limits(&self) -> Limits {
        Limits { max_batch: 10_000, calls_per_second: 1000.0, ..Limits::default() }
    }

    fn apply<'a>(&'a self, orders: &'a [Order]) -> Applying<'a> {
        // The dispatcher logs what was applied.
        let effective = match self.assume_weight_zero_after {
            Some(after) => Effective::After(after),
            None => Effective::Unknown,
        };
        let applied = Applied { effective, ..Applied::default() };
        Box::pin(ready(vec![applied.into(); orders.len()]))
    }
}
