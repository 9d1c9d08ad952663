//! What the tests share: the program as a process, its log, its endpoints; peers of every kind.

pub mod application;
pub mod balancer;
pub mod browser;
pub mod churn;
pub mod confine;
pub mod crowd;
pub mod delayed;
pub mod directory;
pub mod frames;
pub mod h2;
pub mod haproxy;
pub mod http;
pub mod http1;
pub mod meetings;
pub mod namespace;
pub mod nginx;
pub mod peers;
pub mod postgres;
pub mod process;
pub mod seccomp;
pub mod site;
pub mod tap;
pub mod usage;

pub use application::{
    application, connect, echo, exchange, expect_end, expect_refused, expect_reset, free_port,
};
pub use browser::Browser;
pub use confine::Restrictions;
pub use directory::{Directory, open_to_all};
pub use http::Reply;
pub use process::{Ebbtide, Finished};

use std::time::{Duration, SystemTime};

use serde_json::Value;

/// Nothing here takes this long; a test that would wait longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A drain without a lame duck, over as soon as nothing is left.
pub const QUICK: [&str; 6] =
    ["--drain-delay", "0", "--settled-for", "0", "--settle-period", "100ms"];

/// Whether tests that have a long form are to run it: `EBBTIDE_TEST_FULL=1`.
pub fn is_full_form() -> bool {
    std::env::var("EBBTIDE_TEST_FULL").is_ok_and(|full| full != "0")
}

/// When a log line was written.
pub fn written_at(line: &Value) -> SystemTime {
    let text = line["timestamp"].as_str().expect("a time stamp");
    humantime::parse_rfc3339(text).expect("RFC 3339")
}
