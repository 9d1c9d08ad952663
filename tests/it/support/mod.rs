//! What the tests share: the program as a process, its log, its endpoints.

pub mod http;
pub mod http1;
pub mod peers;
pub mod process;

pub use http::Reply;
pub use process::{Ebbtide, Finished};

use std::time::Duration;

/// Nothing here takes this long; a test that would wait longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);
