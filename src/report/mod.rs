//! Tells the controller how a drain goes, and brings home what it answers.
//!
//! Nothing here can delay a drain: the [`Reporter`] is a task of its own that only ever looks at the
//! latest state. A controller that is down, slow or talks nonsense costs one request at a time.

mod attempt;
mod delivery;
mod feed;
mod identity;
mod pace;
mod reporter;
mod settings;
mod snapshot;
#[cfg(test)]
mod tests;
mod token;
mod trouble;

pub use attempt::Attempt;
pub use feed::{Delivery, Feed, FinalReport};
pub use identity::{IDENTITY_VARIABLES, identity};
pub use reporter::Reporter;
pub use settings::{Error, Settings, Wish, parse_url};
pub use snapshot::{Reached, Source, run_id};
