//! When we stop: the phases of a drain, its schedule, its triggers.

mod phase;

pub use phase::{Phase, Trigger};
