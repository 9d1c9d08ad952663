//! Logs, and every metric's name, unit and help in one file.

mod logs;
mod metrics;

pub use logs::{LogFormat, init};
pub use metrics::{Levels, Metrics, ReportAttempt};
