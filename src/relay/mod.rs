//! Moving bytes: unchanged, both directions, each ending on its own.
//!
//! [`Relay`] is the future of one connection's data. It holds no buffer while nothing is in
//! flight: `buffers` lends one for as long as bytes wait for their receiver, and `pipes` lends what
//! carries bulk that the tracker need not see. The connection's
//! tracker sees every byte before it is sent on; in a drain it may insert a farewell, and `farewell`
//! knows how long each is waited for. [`Control`] is what the rest of the process sees of it, and how
//! it is told to leave.

mod acknowledgement;
mod broken;
mod buffers;
mod control;
mod farewell;
mod flow;
mod lending;
mod liveness;
mod pair;
pub mod parking;
mod pipes;
mod unfinished;

pub use acknowledgement::Acknowledgement;
pub use control::{Control, Order};
pub use farewell::IdleClose;
pub use lending::Lent;
pub use pair::{End, IdleTimeouts, Observer, Relay, RelaySettings};
pub use unfinished::ClientTimeouts;
