//! When we stop: the phases of a drain, its schedule, its triggers.
//!
//! [`Machine`] is the pure part: events and instants in, a [`Phase`] out. [`Drain`] gives it the
//! real clock and is the handle that every other room holds.

mod clock;
mod handle;
mod not_undone;
mod pace;
mod schedule;

pub use crate::api::phase::{Phase, Trigger};
pub use clock::wall_clock;
pub use handle::{Door, Drain, Guard, State, default_close_spread};
pub use not_undone::NotUndone;
pub use schedule::{FORCE_CLOSE_PERIOD, Machine, Observed, Progress, Schedule};
