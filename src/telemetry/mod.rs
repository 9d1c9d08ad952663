//! Logs, and every metric of the proxy with its name, unit and help.

mod logs;
mod metrics;
mod requests;
mod spool;

pub use logs::{Log, LogFormat, init};
pub use metrics::{Levels, Metrics};
