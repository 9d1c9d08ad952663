//! Logs, and every metric's name, unit and help in one file.

mod logs;
mod metrics;
mod requests;

pub use logs::{Log, LogFormat, init};
pub use metrics::{Levels, Metrics};
