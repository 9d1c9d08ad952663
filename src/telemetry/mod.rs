//! Logs, and every metric's name, unit and help in one file.

mod fleet;
mod logs;
mod metrics;
mod requests;
mod spool;

pub use fleet::Fleet;
pub use logs::{Log, LogFormat, init};
pub use metrics::{Levels, Metrics};
