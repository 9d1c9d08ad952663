//! What the tests share: the program as a process, its log, its endpoints.

pub mod churn;
pub mod crowd;
pub mod http;
pub mod namespace;
pub mod process;

pub use http::Reply;
pub use process::{Ebbtide, Finished};

use std::time::{Duration, SystemTime};

use serde_json::Value;

/// Nothing here takes this long; a test that would wait longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// When a log line was written.
pub fn written_at(line: &Value) -> SystemTime {
    let text = line["timestamp"].as_str().expect("a time stamp");
    humantime::parse_rfc3339(text).expect("RFC 3339")
}
