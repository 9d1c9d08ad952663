//! How our processes talk: the report, one serving helper, one client helper.

pub mod client;
pub mod connections;
mod error_chain;
pub mod files;
mod number;
pub mod phase;
pub mod report;
pub mod serve;

pub use error_chain::error_chain;
